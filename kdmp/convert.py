"""Rewriting a dump as another kind of dump, or as a raw image of physical memory.

SPDX-License-Identifier: MIT
"""

import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

from kdmp._headers import LAYOUT64, layout_for
from kdmp._kdmp import KdmpError, TruncatedError, UnreadableError, UnsupportedDumpError
from kdmp.records import DumpKind
from kdmp.scopes import uncollected
from kdmp.targets import appearing, write_all
from kdmp.writer import DumpWriter

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.overlay import Overlay

__all__ = ["KINDS", "RAW", "ConversionReport", "LeftOut", "convert"]

_PAGE = 0x1000
_CHUNK_PAGES = 256  # 1 MiB at a time
_MAX_RUNS = 1 << 22  # of frames, listed before the first is written
_MAX_FILE = 1 << 62  # bytes; what the file system allows is usually less

RAW = "raw"
"""The `kind` of a plain image: the byte at offset n is the byte at physical address n."""

KINDS: dict[str, DumpKind | str] = {
    "full": DumpKind.FULL,
    "bitmap": DumpKind.BITMAP_FULL,
    "kernel": DumpKind.BITMAP_KERNEL,
    "rdmp8": DumpKind.KERNEL_RANGES,
    "rdmp9": DumpKind.KERNEL_USER_RANGES,
    "rdmpA": DumpKind.COMPLETE_RANGES,
    RAW: RAW,
}
"""What `convert` can write, by the name that the command line has for it."""

_RANGES = (DumpKind.KERNEL_RANGES, DumpKind.KERNEL_USER_RANGES, DumpKind.COMPLETE_RANGES)


@dataclass(frozen=True)
class LeftOut:
    """Pages of the source that the new file does not hold: how many, and why."""

    pages: int
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` did.

    `kind` as it was asked for (a `DumpKind`, or "raw"), `pages` written, the `size` of the result in bytes,
    and what was `left_out`: nothing, for a whole dump.
    """

    kind: DumpKind | str
    pages: int
    size: int
    left_out: tuple[LeftOut, ...]


def convert(
    dump: "Dump",
    target: str | os.PathLike[str] | BinaryIO,
    kind: int | str,
    progress: Callable[[int, int], None] | None = None,
    *,
    overlay: "Overlay | None" = None,
) -> ConversionReport:
    """Write the pages and the header facts of `dump` as a dump of another (or the same) kind.

    `kind` is a DumpType that can be written (1, 5, 6, 8, 9, 0xA), a name from `KINDS`, or "raw":
    then the file is an image of physical memory from address 0 to the last captured frame, in which
    missing pages are holes of zeros that take no room where the file system can do that, and the
    header facts are lost.

    A path is written under a temporary name next to it and takes its place when it is complete;
    what was there before is replaced. Into a binary file object (seekable) it is written from its
    current position on. `progress(done, total)` is called with page counts as the work goes on; an
    exception that it raises ends the conversion.

    A 32-bit dump stays one: kinds 1, 5, 6 and raw. Of a memory image or an ELF core (`kdmp.open_raw`) the
    header gets what is known: the machine, the page-table root (given, or found by trial), on x86
    whether it is PAE.

    With an `overlay` over the dump the pages are those that it shows.

    Pages that a truncated dump has lost are left out, and so is frame 0 in kinds 8, 9 and 0xA,
    which cannot hold it; the report says so. The pages are copied as they are, whatever the new
    kind's name promises: a kernel dump does not become complete.

    UnsupportedDumpError when the pages do not fit the kind (more than 43 runs in kind 1, 86 in a 32-bit
    dump, no pages in a triage dump, ranges of a 32-bit dump, a raw image larger than a file can be ...),
    with a kind that would do; ValueError for an unknown `kind`; OSError from the target.
    """
    wanted = _kind(kind)
    if dump.layout == "triage":
        raise UnsupportedDumpError(
            "a triage dump holds virtual ranges, not physical pages: there is nothing to convert"
        )
    memory = Memory(dump, overlay)
    runs, left_out = _choose_runs(memory, wanted)
    if not isinstance(target, (str, os.PathLike)):
        return _write(memory, target, wanted, runs, left_out, progress)
    with appearing(target, overwrite=True) as file:
        return _write(memory, file, wanted, runs, left_out, progress)


def _kind(kind: int | str) -> DumpKind | str:
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
        return KINDS[kind]
    if kind not in KINDS.values():
        raise ValueError(f"dumps of kind {kind:#x} are not written: choose 1, 5, 6, 8, 9 or 0xA")
    return DumpKind(kind)


class Memory:
    """What is written: the frames of a dump, or what an overlay makes of them."""

    def __init__(self, dump: "Dump", overlay: "Overlay | None") -> None:
        self.dump, self.overlay = dump, overlay
        self.phys = dump.phys if overlay is None else overlay.phys

    def runs(self) -> Iterator[tuple[int, int]]:
        """The frames as ascending (pfn, count) that do not touch."""
        return _merged(self.dump) if self.overlay is None else self.overlay.runs()

    def lost(self) -> int:
        """How many frames the file should have, and has not."""
        if self.overlay is None or not self.dump.truncated:
            return self.dump.truncated
        made_up = [pfn for pfn, _, synthetic in self.overlay.frames() if synthetic]
        return self.dump.truncated - sum(_is_cut(self.dump, pfn) for pfn in made_up)


@uncollected
def _is_cut(dump: "Dump", pfn: int) -> bool:
    try:
        dump.phys.read_u8(pfn * _PAGE)
    except TruncatedError:
        return True
    except UnreadableError:
        return False
    return False


def own_kind(dump: "Dump") -> DumpKind | str:
    """The kind to write a dump as when it is to stay what it is, or as near to it as can be written."""
    if dump.layout == "raw":
        return RAW
    kind = dump.kind
    return kind if isinstance(kind, DumpKind) and kind in KINDS.values() else DumpKind.BITMAP_KERNEL


def _choose_runs(memory: Memory, kind: DumpKind | str) -> tuple[list[tuple[int, int]], tuple[LeftOut, ...]]:
    """The frames to write, as sorted (pfn, count) runs that do not touch, and what is missing."""
    left_out = []
    dump, lost = memory.dump, memory.lost()
    if lost:
        left_out.append(LeftOut(lost, "beyond the end of the file, which is cut short"))
    runs = list(islice(memory.runs(), _MAX_RUNS + 1))
    if len(runs) > _MAX_RUNS:
        raise UnsupportedDumpError(f"the frames of this dump are in more than {_MAX_RUNS} runs")
    if kind in _RANGES and runs and runs[0][0] == 0:
        left_out.append(LeftOut(1, "a dump of kind 8, 9 or 0xA cannot hold frame 0"))
        runs[0] = (1, runs[0][1] - 1)
        if not runs[0][1]:
            del runs[0]
    if not runs:
        raise UnsupportedDumpError("no page of this dump can be written: there is nothing to convert")
    layout = layout_for(dump.header)
    if kind == DumpKind.FULL and len(runs) > layout.max_runs:
        ranges = " or to ranges (kind 0xA)" if layout is LAYOUT64 else ""
        raise UnsupportedDumpError(
            f"a full dump (kind 1) has room for {layout.max_runs} runs of pages, "
            f"this dump has {len(runs)}: convert to a bitmap (kind 5){ranges}"
        )
    return runs, tuple(left_out)


def _merged(dump: "Dump") -> Iterator[tuple[int, int]]:
    first = count = 0
    for run in dump.pages.runs():
        if count and run.pfn == first + count:
            count += run.count
            continue
        if count:
            yield first, count
        first, count = run.pfn, run.count
    if count:
        yield first, count


def _write(
    memory: Memory,
    file: BinaryIO | io.FileIO,
    kind: DumpKind | str,
    runs: list[tuple[int, int]],
    left_out: tuple[LeftOut, ...],
    progress: Callable[[int, int], None] | None,
) -> ConversionReport:
    dump = memory.dump
    total = sum(count for _, count in runs)
    if kind == RAW:
        size = (runs[-1][0] + runs[-1][1]) * _PAGE
        start = file.tell()
        with _room_for(size, runs[-1]):
            if start + size > _MAX_FILE:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            file.seek(start + size)
            file.seek(start)
            file.truncate(start)
        for pfn, data in _chunks(memory, runs, total, progress):
            with _room_for(size, runs[-1]):
                file.seek(start + pfn * _PAGE)
                write_all(file, data)
        file.flush()
        return ConversionReport(kind, total, size, left_out)
    assert isinstance(kind, DumpKind)
    try:
        writer = DumpWriter(
            file,
            kind,
            runs,
            header=_header(dump),
            context=dump.context_bytes(),
            exception=dump.exception_bytes(),
        )
    except ValueError as error:
        raise UnsupportedDumpError(f"this dump cannot be written as kind {kind:#x}: {error}") from error
    with writer:
        for pfn, data in _chunks(memory, runs, total, progress):
            writer.write(pfn, data)
    return ConversionReport(kind, total, writer.size, left_out)


@contextlib.contextmanager
def _room_for(size: int, last: tuple[int, int]) -> Iterator[None]:
    """Say which frame it is if an image becomes too large for the file."""
    try:
        yield
    except (OSError, OverflowError, MemoryError) as error:  # the last two: BytesIO
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EFBIG):
            raise
        raise UnsupportedDumpError(
            f"the raw image would have {size} bytes because of frame {last[0] + last[1] - 1:#x}, more than "
            f"this file can have ({error or 'no memory'}): convert to a bitmap (kind 5) or ranges (kind 0xA)"
        ) from error


def _header(dump: "Dump") -> dict[str, Any]:
    """The header facts to store: those of the source; of a memory image what can be found out."""
    header = dump.header
    if dump.layout == "raw":
        with contextlib.suppress(KdmpError):  # no root is found: the field stays absent
            header["directory_table_base"] = dump.reader().dtb
            if dump.arch == "x86":
                header["pae_enabled"] = int(dump.paging == "pae")
    return header


def _chunks(
    memory: Memory,
    runs: list[tuple[int, int]],
    total: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, memoryview]]:
    """Yield the pages as (pfn, bytes of one or more pages); the buffer is used again for the next ones."""
    buffer = memoryview(bytearray(min(_CHUNK_PAGES, total) * _PAGE))
    done = 0
    if progress is not None:
        progress(0, total)
    for first, count in runs:
        for pfn in range(first, first + count, _CHUNK_PAGES):
            pages = min(_CHUNK_PAGES, first + count - pfn)
            part = buffer[: pages * _PAGE]
            _read(memory, pfn, part)
            yield pfn, part
            done += pages
            if progress is not None:
                progress(done, total)


@uncollected
def _read(memory: Memory, pfn: int, into: memoryview) -> None:
    address = pfn * _PAGE
    got = memory.phys.read_into(address, into)
    if got < len(into):  # only when the file changes under a reader that does not map it
        memory.phys.read_exact(address + got, len(into) - got)
        raise UnreadableError(f"{len(into) - got} bytes at {address + got:#x} could not be read")
