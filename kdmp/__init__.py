"""kdmp: open Windows kernel crash dumps, translate addresses, read memory.

    import kdmp

    with kdmp.open("MEMORY.DMP") as dump:
        print(dump.kind, dump.build, dump.bugcheck)
        reader = dump.reader()
        print(reader.translate(dump.ps_active_process_head))

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import importlib

from kdmp._kdmp import (
    AccessContext,
    AddressEndError,
    BadEntryError,
    FormatError,
    Gap,
    KdmpError,
    NonCanonicalError,
    NotContiguousError,
    NotInDumpError,
    NotPresentError,
    Pages,
    PageTableEntry,
    PartialReadError,
    RootNotPresentError,
    Run,
    Translation,
    TranslationError,
    TruncatedError,
    UnreadableError,
    UnsupportedDumpError,
    VaRange,
    WrongFileError,
    build_info,
)
from kdmp.dump import Dump
from kdmp.reader import Reader
from kdmp.records import DumpAttributes, DumpKind

TYPE_CHECKING = False  # see dump.py
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal, SupportsIndex

    from kdmp.bugcheck import BugCheck, BugCheckParameter
    from kdmp.caches import CacheInfo
    from kdmp.context import Context, ExceptionRecord
    from kdmp.dump import PageFiles, Progress, Symbols
    from kdmp.explain import Explanation
    from kdmp.faults import Fault, FaultCollector
    from kdmp.monitor import PageTableMonitor
    from kdmp.overlay import Change, Overlay
    from kdmp.patterns import Pattern
    from kdmp.protection import protection_name, protection_rights
    from kdmp.pte import PteRow, PteView
    from kdmp.series import SeriesError, SnapshotSeries
    from kdmp.triage_writer import write_triage
    from kdmp.watches import Watch
    from kdmp.writer import DumpWriter, write_dump

__version__: str = build_info()["version"]

__all__ = [
    "AccessContext",
    "AddressEndError",
    "BadEntryError",
    "BugCheck",
    "BugCheckParameter",
    "CacheInfo",
    "Change",
    "Context",
    "Dump",
    "DumpAttributes",
    "DumpKind",
    "DumpWriter",
    "ExceptionRecord",
    "Explanation",
    "Fault",
    "FaultCollector",
    "FormatError",
    "Gap",
    "KdmpError",
    "NonCanonicalError",
    "NotContiguousError",
    "NotInDumpError",
    "NotPresentError",
    "Overlay",
    "PageTableEntry",
    "PageTableMonitor",
    "Pages",
    "PartialReadError",
    "Pattern",
    "PteRow",
    "PteView",
    "Reader",
    "RootNotPresentError",
    "Run",
    "SeriesError",
    "SnapshotSeries",
    "Translation",
    "TranslationError",
    "TruncatedError",
    "UnreadableError",
    "UnsupportedDumpError",
    "VaRange",
    "Watch",
    "WrongFileError",
    "__version__",
    "open",
    "open_raw",
    "phys",
    "protection_name",
    "protection_rights",
    "virt",
    "write_dump",
    "write_triage",
]


# What opening a dump and reading it does not need is imported when it is asked for.
_LATER = {
    "BugCheck": "kdmp.bugcheck",
    "BugCheckParameter": "kdmp.bugcheck",
    "CacheInfo": "kdmp.caches",
    "Change": "kdmp.overlay",
    "Context": "kdmp.context",
    "DumpWriter": "kdmp.writer",
    "ExceptionRecord": "kdmp.context",
    "Explanation": "kdmp.explain",
    "Fault": "kdmp.faults",
    "FaultCollector": "kdmp.faults",
    "Overlay": "kdmp.overlay",
    "PageTableMonitor": "kdmp.monitor",
    "Pattern": "kdmp.patterns",
    "PteRow": "kdmp.pte",
    "PteView": "kdmp.pte",
    "SeriesError": "kdmp.series",
    "SnapshotSeries": "kdmp.series",
    "Watch": "kdmp.watches",
    "protection_name": "kdmp.protection",
    "protection_rights": "kdmp.protection",
    "write_dump": "kdmp.writer",
    "write_triage": "kdmp.triage_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


def open(
    source: Any,
    *,
    io: Literal["map", "read"] = "map",
    dtb: SupportsIndex | None = None,
    paging: str | None = None,
    progress: Progress | None = None,
    pagefiles: PageFiles | None = None,
    symbols: Symbols | None = None,
) -> Dump:
    """Open a kernel crash dump. The same as `Dump(source, ...)`, which see."""
    return Dump(
        source, io=io, dtb=dtb, paging=paging, progress=progress, pagefiles=pagefiles, symbols=symbols
    )


def open_raw(
    source: Any,
    runs: Iterable[tuple[int, int, int]] | None = None,
    dtb: SupportsIndex | None = None,
    arch: Literal["x64", "x86", "arm64"] | None = None,
    *,
    paging: str | None = None,
    io: Literal["map", "read"] = "map",
    pagefiles: PageFiles | None = None,
    symbols: Symbols | None = None,
) -> Dump:
    """Open memory that has no dump header: a flat image, an image in pieces, or an ELF core.

    `runs` says where the pieces are, as (pfn, count of frames, file offset); without it the file is physical
    memory from address 0 on, or, if it is the ELF core of a virtual machine (QEMU, VirtualBox), what its
    PT_LOAD segments say. `arch` defaults to the ELF's machine, else "x64". Without `dtb` the first use of a
    virtual address looks for a root by trial, which reads the whole image at worst: a table that maps itself
    and finds KUSER_SHARED_DATA where Windows has it.

    Header facts are None. Raises FormatError, ValueError for impossible runs, OSError.
    """
    raw = arch, list(runs or ())
    return Dump(source, io=io, dtb=dtb, paging=paging, raw=raw, pagefiles=pagefiles, symbols=symbols)


def phys(pa: SupportsIndex) -> AccessContext:
    """Return an AccessContext for the physical address `pa`."""
    return AccessContext(pa, physical=True)


def virt(va: SupportsIndex, dtb: SupportsIndex | None = None) -> AccessContext:
    """Return an AccessContext for the virtual address `va` under the page-table root `dtb`."""
    return AccessContext(va, dtb)
