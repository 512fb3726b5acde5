"""An examination of an open dump: what the checks share, and the list they register in.

SPDX-License-Identifier: MIT
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from kdmp._headers import LAYOUT32, LAYOUT64, HeaderLayout
from kdmp._kdmp import (
    BadEntryError,
    FormatError,
    KdmpError,
    NonCanonicalError,
    NotInDumpError,
    NotPresentError,
    PartialReadError,
    TruncatedError,
    UnreadableError,
)
from kdmp.doctor.rawheader import RawHeader
from kdmp.doctor.report import Finding
from kdmp.dump import Dump
from kdmp.reader import Reader
from kdmp.secondary import Blob

__all__ = ["CHECKS", "Exam", "check", "reason", "reason_kind"]

Check = Callable[["Exam"], Iterator[Finding]]

CHECKS: list[Check] = []
"""The checks of open dumps, in the order in which they run."""

# KDDEBUGGER_DATA64 of all versions is smaller.
_KDBG_READ = 0x400

# Blobs that are counted; a real dump has a few dozen.
_MAX_BLOBS = 4096


def check(function: Check) -> Check:
    """Register a check: a function of an Exam that yields findings and never raises."""
    CHECKS.append(function)
    return function


class Exam:
    """An open dump under examination. Reads that fail are None here, `why` tells the reason."""

    def __init__(self, dump: Dump, *, deep: bool = False) -> None:
        self.dump = dump
        self.deep = deep
        self.layout: HeaderLayout = LAYOUT64 if dump.pointer_size == 8 else LAYOUT32
        self.mask = (1 << 8 * dump.pointer_size) - 1

    @property
    def has_header(self) -> bool:
        """Whether there is a dump header: a raw image has none."""
        return self.dump.layout != "raw"

    @property
    def has_pages(self) -> bool:
        """Whether the dump holds physical pages that can be read."""
        return self.dump.layout not in ("none", "triage") and not self.dump.encrypted

    @cached_property
    def header(self) -> dict[str, Any]:
        """The header's fields by name; None is filler."""
        return self.dump.header

    @cached_property
    def figures(self) -> dict[str, int]:
        """The figures of the page layout."""
        return self.dump.figures

    @cached_property
    def raw(self) -> RawHeader:
        """The header's bytes."""
        return RawHeader(self.file(0, self.layout.size), self.layout)

    def offset(self, field: str) -> int | None:
        """Return the file offset of a header field; None if there is none."""
        place = self.layout.fields.get(field)
        return place[0] if place and self.has_header else None

    def file(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, fewer at its end."""
        size = min(size, self.dump.file_size - offset)
        return self.dump.read_file(offset, size) if size > 0 else b""

    # ---- memory ----

    @cached_property
    def reader(self) -> Reader | None:
        """The kernel's address space, or the ranges of a triage dump; None if there is none.

        For memory without a header a root is looked for in all pages, so only in a deep examination.
        """
        if self.dump.dtb is None and not self.has_header and not self.deep:
            return None
        try:
            return self.dump.reader()
        except (KdmpError, OverflowError):
            return None

    def peek(self, va: int, size: int) -> bytes | None:
        """Return bytes at a virtual address, None if they are not all there."""
        if self.reader is None or not 0 <= va <= self.mask:
            return None
        return self.reader.try_read_exact(va, size)

    def pointer(self, va: int) -> int | None:
        """Return the pointer at a virtual address, None if it is not there."""
        data = self.peek(va & self.mask, self.dump.pointer_size)
        return None if data is None else int.from_bytes(data, "little")

    def why(self, va: int, size: int = 1) -> KdmpError | None:
        """Return what reading raises, None if it can be read."""
        if self.reader is None:
            return None
        try:
            self.reader.read_exact(va, size)
        except PartialReadError as exc:
            return exc.reason or exc
        except KdmpError as exc:
            return exc
        return None

    @cached_property
    def anchors(self) -> dict[str, int]:
        """The kernel addresses that the header names, by what is there; filler and 0 left out."""
        names = {
            "the debugger data block": "kd_debugger_data_block",
            "the module list": "ps_loaded_module_list",
            "the process list": "ps_active_process_head",
        }
        return {what: self.header[name] for what, name in names.items() if self.header[name]}

    @cached_property
    def unmapped(self) -> dict[str, KdmpError]:
        """The anchors that have no translation, with the reasons."""
        missing: dict[str, KdmpError] = {}
        if self.reader is None or not self.has_pages:
            return missing
        for what, va in self.anchors.items():
            try:
                self.reader.translate(va)
            except KdmpError as exc:
                missing[what] = exc
        return missing

    @property
    def maps_kernel(self) -> bool:
        """Whether the root leads to at least one of the anchors."""
        return self.reader is not None and len(self.unmapped) < len(self.anchors)

    # ---- the debugger data block ----

    @cached_property
    def kdbg(self) -> bytes:
        """The first bytes of KDDEBUGGER_DATA64 as they are, perhaps encoded; b"" if not there."""
        if self.dump.triage is not None:
            return self.dump.triage.debugger_data[:_KDBG_READ]
        va = self.header["kd_debugger_data_block"]
        if not va or self.reader is None or not self.has_pages:
            return b""
        data = self.reader.read(va, _KDBG_READ)
        return data if len(data) >= 0x18 else b""

    @property
    def kdbg_plain(self) -> bool:
        """Whether the block is there and carries its tag."""
        return self.kdbg[0x10:0x14] == b"KDBG"

    def kdbg_number(self, offset: int, size: int = 8) -> int | None:
        """Return a field of a plain debugger data block that its Size covers; None if there is none."""
        if not self.kdbg_plain or offset + size > int.from_bytes(self.kdbg[0x14:0x18], "little"):
            return None
        data = self.kdbg[offset : offset + size]
        return int.from_bytes(data, "little") if len(data) == size else None

    def kdbg_pointer(self, offset: int) -> int | None:
        """Return an address of the block; they are sign-extended to 64 bits in 32-bit dumps."""
        value = self.kdbg_number(offset)
        return None if value is None else value & self.mask

    @property
    def kdbg_repeats(self) -> int:
        """How often the most frequent 8-byte word other than 0 occurs in the block."""
        words = [self.kdbg[at : at + 8] for at in range(0, len(self.kdbg) & ~7, 8)]
        counts = Counter(word for word in words if any(word))
        return max(counts.values(), default=0)

    # ---- secondary data ----

    @cached_property
    def blobs(self) -> list[Blob]:
        """The secondary data, up to a limit."""
        found: list[Blob] = []
        try:
            for blob in self.dump.blobs():
                if len(found) >= _MAX_BLOBS:
                    break
                found.append(blob)
        except FormatError:  # a chain that runs out of the file
            pass
        return found


def reason_kind(exc: KdmpError) -> str:
    """Sort a failed translation or read: "truncated", "table", "frame", "absent" or "wrong"."""
    if isinstance(exc, PartialReadError) and exc.reason is not None:
        return reason_kind(exc.reason)
    if isinstance(exc, TruncatedError):
        return "truncated"
    if isinstance(exc, NotInDumpError):
        return "table" if exc.level else "frame"
    return "absent" if isinstance(exc, NotPresentError) else "wrong"


def reason(exc: KdmpError | None) -> str:
    """Say in words why something cannot be read."""
    if exc is None:
        return "it cannot be read"
    if isinstance(exc, PartialReadError) and exc.reason is not None:
        return reason(exc.reason)
    if isinstance(exc, NotInDumpError):
        frame = f"frame {exc.pa >> 12:#x}" if exc.pa is not None else "the frame"
        what = f"a page table of level {exc.level} ({frame})" if exc.level else f"its {frame}"
        if isinstance(exc, TruncatedError):
            return f"{what} lies beyond the end of the cut file"
        return f"{what} is not in the dump"
    if isinstance(exc, NotPresentError):
        entry = "" if exc.entry is None else f", the entry is {exc.entry:#x}"
        return f"no page is mapped there (level {exc.level}{entry})"
    if isinstance(exc, NonCanonicalError):
        return "the address is not canonical"
    if isinstance(exc, BadEntryError):
        return "a page-table entry has reserved bits set"
    if isinstance(exc, UnreadableError):
        return "it is not in this dump"
    return str(exc)
