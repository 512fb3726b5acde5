"""kdmp: open Windows kernel crash dumps, translate addresses, read memory.

    import kdmp

    with kdmp.open("MEMORY.DMP") as dump:
        print(dump.kind, dump.build, dump.bugcheck)
        reader = dump.reader()
        print(reader.translate(dump.ps_active_process_head))

SPDX-License-Identifier: MIT
"""

from typing import Any, Literal, SupportsIndex

from kdmp._kdmp import (
    AccessContext,
    AddressEndError,
    BadEntryError,
    FormatError,
    Gap,
    KdmpError,
    NonCanonicalError,
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
    WrongFileError,
    build_info,
)
from kdmp.bugcheck import BugCheck, BugCheckParameter
from kdmp.context import Context, ExceptionRecord
from kdmp.dump import Dump
from kdmp.reader import Reader
from kdmp.records import DumpAttributes, DumpKind
from kdmp.writer import DumpWriter, write_dump

__version__: str = build_info()["version"]

__all__ = [
    "AccessContext",
    "AddressEndError",
    "BadEntryError",
    "BugCheck",
    "BugCheckParameter",
    "Context",
    "Dump",
    "DumpAttributes",
    "DumpKind",
    "DumpWriter",
    "ExceptionRecord",
    "FormatError",
    "Gap",
    "KdmpError",
    "NonCanonicalError",
    "NotInDumpError",
    "NotPresentError",
    "PageTableEntry",
    "Pages",
    "PartialReadError",
    "Reader",
    "RootNotPresentError",
    "Run",
    "Translation",
    "TranslationError",
    "TruncatedError",
    "UnreadableError",
    "UnsupportedDumpError",
    "WrongFileError",
    "__version__",
    "open",
    "phys",
    "virt",
    "write_dump",
]


def open(  # noqa: A001 - the name users expect, as in gzip.open
    source: Any,
    *,
    io: Literal["map", "read"] = "map",
    dtb: SupportsIndex | None = None,
    paging: str | None = None,
) -> Dump:
    """Open a kernel crash dump. The same as `Dump(source, ...)`, which see."""
    return Dump(source, io=io, dtb=dtb, paging=paging)


def phys(pa: SupportsIndex) -> AccessContext:
    """Return an AccessContext for the physical address `pa`."""
    return AccessContext(pa, physical=True)


def virt(va: SupportsIndex, dtb: SupportsIndex | None = None) -> AccessContext:
    """Return an AccessContext for the virtual address `va` under the page-table root `dtb`."""
    return AccessContext(va, dtb)
