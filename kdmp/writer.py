"""Writing kernel dumps: `DumpWriter`, which streams pages into a file, and `write_dump` for small ones.

The frames are declared first, so that every page has its place in the file before any page is
written. Nothing is kept per page: a place is computed from the runs, and what has been written
is remembered as intervals.

SPDX-License-Identifier: MIT
"""

import contextlib
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import index
from types import TracebackType
from typing import Any, Protocol, Self, SupportsIndex, TypeAlias, overload

from kdmp import _headers
from kdmp._headers import PAGE_SIZE, HeaderLayout
from kdmp.records import DumpKind

__all__ = ["DumpWriter", "write_dump"]

# Any object with the buffer protocol works; the standard library cannot name that type before 3.12.
_Bytes: TypeAlias = bytes | bytearray | memoryview | Any
_Source: TypeAlias = str | os.PathLike[str]

# Physical addresses have 52 bits.
_MAX_PFN = 1 << 40

_BITMAP_SIGNATURES = {DumpKind.BITMAP_FULL: b"FDMP", DumpKind.BITMAP_KERNEL: b"SDMP"}
_RANGE_KINDS = frozenset({DumpKind.KERNEL_RANGES, DumpKind.KERNEL_USER_RANGES, DumpKind.COMPLETE_RANGES})
_KINDS = frozenset({DumpKind.FULL, *_BITMAP_SIGNATURES, *_RANGE_KINDS})


class _File(Protocol):
    """What is needed of a file object."""

    def write(self, data: Any, /) -> int | None: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def truncate(self, size: int | None = None, /) -> int: ...
    def flush(self) -> None: ...


class DumpWriter:
    """Writes a kernel dump of physical pages, page by page, in any order.

    `target` is a path, or a binary file object that can write, seek and truncate. The file is
    written in place: until `close()` has succeeded it is an incomplete dump, whatever was there
    before is gone, and nothing removes it after a failure. In a file object the dump starts at
    the current position, and everything behind that position is cut off; the object is flushed
    by `close()` but stays open.

    `kind` is the DumpType: 1 (runs in the header), 5 or 6 (bitmap), 8, 9 or 0xA (ranges).

    `runs` declares the frames that the dump will hold, as (pfn, count) pairs in any order; further
    members of a pair are ignored, so `dump.pages.runs()` will do. Touching runs are merged,
    overlapping ones refused. Type 1 has room for 43 runs (86 in a 32-bit dump); types 8, 9 and 0xA
    cannot hold frame 0, because a first frame of 0 ends their table; a bitmap ends at 8 TiB.

    `header` gives header fields by the names of `Dump.header`. Missing ones and None keep the
    filler pattern `PAGE`, which readers take for "absent"; only `major_version` (0xF) and
    `machine_image_type` (0x8664) have defaults. The machine chooses the header: 0x14C (x86) and
    0x1C4 (ARM) make a 32-bit dump, which can be of type 1, 5 or 6 and alone has `pae_enabled`;
    all others, ARM64 (0xAA64) among them, make a 64-bit dump. `dump_type`, `required_dump_space`
    (here: the file size in bytes), `number_of_runs` and `number_of_pages` follow from the other
    arguments and are ignored when given, so that `header=dump.header` copies or converts a dump.
    Text is stored one byte per character (Latin-1).

    `context` is the processor's CONTEXT record (up to 3000 bytes, 1200 in a 32-bit dump; zeros
    follow), `exception` its EXCEPTION_RECORD64 (0x20 to 0x98 bytes) or EXCEPTION_RECORD32 (0x14 to
    0x50 bytes; filler follows); None or empty leaves filler. Their contents are not looked at.

    With `sparse` frames may be left unwritten: they read as zeros, and where the file system can
    they take no room. For benchmarks and fixtures.

    Raises ValueError (TypeError for wrong types) for what cannot be stored, naming the field or frame,
    before the file is touched, and OSError.

    As a context manager it closes at the end; after an exception the file is closed as it is,
    without the check for missing frames. A writer belongs to one thread at a time.

    Layouts: DUMP_HEADER64, DUMP_HEADER32 and their PHYSICAL_MEMORY_DESCRIPTOR of the Windows SDK;
    the bitmap header of Windows 8 and later and WinDbg's range header as public readers agree on
    them.
    """

    def __init__(
        self,
        target: _Source | _File,
        kind: SupportsIndex,
        runs: Iterable[Sequence[int]],
        *,
        header: Mapping[str, Any] | None = None,
        context: _Bytes | None = None,
        exception: _Bytes | None = None,
        sparse: bool = False,
    ) -> None:
        self._file: _File | None = None
        self._kind = _known_kind(kind)
        self._runs = _RunTable(runs)
        self._sparse = sparse
        self._written = _Intervals()
        layout = _headers.layout_for(header or {})
        self._first_page, pieces = _plan(layout, self._kind, self._runs)
        self._size = self._first_page + PAGE_SIZE * self._runs.pages
        head = _headers.pack_header(
            layout,
            self._kind,
            header or {},
            None if context is None else _flat(context).tobytes(),
            None if exception is None else _flat(exception).tobytes(),
            self._runs if self._kind == DumpKind.FULL else None,
            self._size,
        )

        self._owned = isinstance(target, (str, os.PathLike))
        if isinstance(target, (str, os.PathLike)):
            self._name = os.fspath(target)
            self._file = open(target, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by close()
        else:
            self._name = str(getattr(target, "name", None) or repr(target))
            self._file = target
        try:
            self._base = self._position = self._file.tell()
            self._file.truncate(self._base)
            self._put(0, head)
            offset = layout.size
            for piece in pieces:
                self._put(offset, piece)
                offset += len(piece)
            self._put(offset, bytes(self._first_page - offset))
        except BaseException:
            self._abandon()
            raise

    @property
    def kind(self) -> DumpKind:
        """The DumpType being written."""
        return self._kind

    @property
    def pages(self) -> int:
        """Number of declared frames."""
        return self._runs.pages

    @property
    def missing(self) -> int:
        """Number of declared frames that have not been written yet."""
        return self._runs.pages - self._written.total

    @property
    def size(self) -> int:
        """Size of the finished dump in bytes, header and layout included."""
        return self._size

    @property
    def closed(self) -> bool:
        """Whether `close()` was called or the context left."""
        return self._file is None

    def write(self, pfn: SupportsIndex, data: _Bytes) -> None:
        """Store `data`, a buffer of n * 4096 bytes, as the frames pfn ... pfn + n - 1.

        All of them must have been declared; frames may come in any order, and again: the last
        bytes win. Raises ValueError for other frames or sizes, or after `close()`, and OSError.
        """
        if self._file is None:
            raise ValueError("the dump writer is closed")
        first = index(pfn)
        raw = _flat(data)
        count, rest = divmod(len(raw), PAGE_SIZE)
        if rest:
            raise ValueError(f"data must be whole pages of {PAGE_SIZE} bytes, not {len(raw)} bytes")
        if not count:
            return
        rank = self._runs.rank(first, count)
        self._put(self._first_page + PAGE_SIZE * rank, raw)
        self._written.add(rank, rank + count)

    def close(self) -> None:
        """Finish the dump and close the file (a file object of the caller is only flushed).

        Raises ValueError if declared frames were never written and the writer is not `sparse`;
        the file is closed all the same and left incomplete. Closing again does nothing.
        """
        file = self._file
        if file is None:
            return
        missing = self.missing
        try:
            if missing and self._sparse:
                self._extend()
            file.flush()
        except BaseException:
            self._abandon()
            raise
        self._file = None
        if self._owned:
            file.close()  # type: ignore[attr-defined]
        if missing and not self._sparse:
            pfn = self._runs.pfn_at(self._written.first_gap())
            raise ValueError(
                f"{self._name} is incomplete: {missing} of {self._runs.pages} declared frames were never "
                f"written, the first is {pfn:#x}"
            )

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        """Close; after an exception without any check, so that the exception stays visible."""
        if exc_type is None:
            self.close()
        else:
            self._abandon()

    def __repr__(self) -> str:
        state = "closed" if self._file is None else f"{self.missing} of {self.pages} frames missing"
        return f"<kdmp.DumpWriter {self._name!r} {self._kind.name} {state}>"

    def _put(self, offset: int, data: _Bytes) -> None:
        """Write all of `data` at `offset` from the start of the dump."""
        assert self._file is not None
        where = self._base + offset
        seek = where != self._position
        self._position = -1  # unknown, should one of the next calls fail
        if seek:
            self._file.seek(where)
        self._position = where + _write_all(self._file, data)

    def _extend(self) -> None:
        """Give the file its full size, leaving a hole where nothing was written."""
        assert self._file is not None
        self._position = -1
        end = self._base + self._size
        if self._file.seek(0, os.SEEK_END) < end:
            self._file.seek(end - 1)
            self._file.write(b"\0")

    def _abandon(self) -> None:
        """Let go of the file as it is; errors would hide the one that brought us here."""
        file, self._file = self._file, None
        if file is not None and self._owned:
            with contextlib.suppress(OSError):
                file.close()  # type: ignore[attr-defined]


def write_dump(
    target: _Source | _File,
    kind: SupportsIndex,
    pages: Mapping[int, _Bytes] | Iterable[tuple[int, _Bytes]],
    *,
    runs: Iterable[Sequence[int]] | None = None,
    header: Mapping[str, Any] | None = None,
    context: _Bytes | None = None,
    exception: _Bytes | None = None,
    sparse: bool = False,
) -> None:
    """Write a whole dump from `pages`: frame number and n * 4096 bytes for the frames from there on.

    The frames are declared by `pages` itself unless `runs` is given. Everything is in memory at
    once: meant for fixtures. The other arguments and the errors are those of `DumpWriter`.
    """
    items = list(pages.items() if isinstance(pages, Mapping) else pages)
    if runs is None:
        runs = _merged((index(pfn), -(-memoryview(data).nbytes // PAGE_SIZE)) for pfn, data in items)
    with DumpWriter(
        target, kind, runs, header=header, context=context, exception=exception, sparse=sparse
    ) as writer:
        for pfn, data in items:
            writer.write(pfn, data)


def _write_all(file: _File, data: _Bytes) -> int:
    """Write all of `data` at the file's position and return how many bytes that were."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):  # raw files may take less than was given
            n = file.write(view[done:] if done else view)
            if n is None or n <= 0:
                raise BlockingIOError("the file object did not accept all bytes")
            done += n
        return done


def _flat(data: _Bytes) -> memoryview:
    """Return the bytes of any buffer, without a copy where the interpreter can look through its format."""
    view = memoryview(data)
    try:
        return view.cast("B")
    except (TypeError, ValueError, NotImplementedError):  # not contiguous, or a ctypes or record format
        return memoryview(view.tobytes())


def _merged(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of runs that may overlap, sorted."""
    union = _Intervals()
    for pfn, count in runs:
        if count:
            union.add(pfn, pfn + count)
    return [(start, stop - start) for start, stop in union]


def _known_kind(kind: SupportsIndex) -> DumpKind:
    number = index(kind)
    if number == DumpKind.TRIAGE:
        raise ValueError("triage dumps (kind 4) hold no frames; write_triage makes them")
    if number not in _KINDS:
        raise ValueError(f"dumps of kind {number:#x} are not written; choose 1, 5, 6, 8, 9 or 0xA")
    return DumpKind(number)


def _plan(layout: HeaderLayout, kind: DumpKind, runs: "_RunTable") -> tuple[int, Iterable[bytes]]:
    """Return the file offset of the first page, and the bytes between the header and there."""
    if runs.end > layout.frames_end:
        raise ValueError(f"frame {runs.end - 1:#x} is too high for a {layout.bits}-bit dump")
    if kind == DumpKind.FULL:
        if len(runs) > layout.max_runs:
            raise ValueError(
                f"the header of a {layout.bits}-bit dump of type 1 has room for {layout.max_runs} runs, "
                f"these frames make {len(runs)}; use kind 5 (bitmap)"
            )
        return layout.size, ()
    if kind in _BITMAP_SIGNATURES:
        bits = _headers.bitmap_bits(runs.end)
        first_page = _headers.bitmap_first_page(layout.size, bits)
        return first_page, _bitmap_pieces(_BITMAP_SIGNATURES[kind], first_page, runs, bits)
    if layout is not _headers.LAYOUT64:
        raise ValueError(f"kind {kind:#x} (ranges) exists in 64-bit dumps only; choose 1, 5 or 6")
    if len(runs) and runs[0][0] == 0:
        raise ValueError(
            f"frame 0 cannot be stored in a dump of type {kind:#x}: "
            "a range that starts at frame 0 ends the table"
        )
    table = _headers.pack_ranges(runs, complete=kind == DumpKind.COMPLETE_RANGES)
    return layout.size + len(table), (table,)


def _bitmap_pieces(signature: bytes, first_page: int, runs: "_RunTable", bits: int) -> Iterator[bytes]:
    yield _headers.pack_bitmap_header(signature, first_page, runs.pages, bits)
    yield from _headers.iter_bitmap(runs, bits)


class _RunTable(Sequence[tuple[int, int]]):
    """Sorted, disjoint runs of frames; `rank` numbers all their frames from 0 in ascending order."""

    def __init__(self, runs: Iterable[Sequence[int]]) -> None:
        given_starts, given_counts = array("Q"), array("Q")
        for run in runs:
            pfn, count = index(run[0]), index(run[1])
            if pfn < 0 or count < 0 or pfn + count > _MAX_PFN:
                raise ValueError(f"run of {count:#x} frames at {pfn:#x} is outside of 52-bit physical memory")
            if count:
                given_starts.append(pfn)
                given_counts.append(count)
        self._starts, self._counts, self._ranks = array("Q"), array("Q"), array("Q")
        self.pages = 0  # how many frames there are
        self.end = 0  # the highest frame + 1
        for k in sorted(range(len(given_starts)), key=given_starts.__getitem__):
            self._append(given_starts[k], given_counts[k])

    def _append(self, pfn: int, count: int) -> None:
        if self._starts and pfn < self.end:
            raise ValueError(f"runs overlap: frame {pfn:#x} is declared twice")
        if self._starts and pfn == self.end:
            self._counts[-1] += count
        else:
            self._starts.append(pfn)
            self._counts.append(count)
            self._ranks.append(self.pages)
        self.pages += count
        self.end = pfn + count

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, k: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, k: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, k: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(k, slice):
            return list(zip(self._starts[k], self._counts[k], strict=True))
        return self._starts[k], self._counts[k]

    def rank(self, pfn: int, count: int) -> int:
        """Return the rank of `pfn`; ValueError unless all `count` frames from there are declared."""
        k = bisect_right(self._starts, pfn) - 1
        if k < 0 or pfn >= self._starts[k] + self._counts[k]:
            raise ValueError(f"frame {pfn:#x} was not declared in runs")
        if pfn + count > self._starts[k] + self._counts[k]:
            raise ValueError(f"frame {self._starts[k] + self._counts[k]:#x} was not declared in runs")
        return self._ranks[k] + (pfn - self._starts[k])

    def pfn_at(self, rank: int) -> int:
        """Return the frame with this rank."""
        k = bisect_right(self._ranks, rank) - 1
        return self._starts[k] + (rank - self._ranks[k])


class _Intervals:
    """A set of integers kept as sorted disjoint intervals [start, stop)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.total = 0  # how many integers are in the set

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def add(self, start: int, stop: int) -> None:
        """Add start ... stop - 1; touching intervals become one."""
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        for k in range(low, high):
            self.total -= self._stops[k] - self._starts[k]
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]
        self.total += stop - start

    def first_gap(self) -> int:
        """Return the smallest integer from 0 that is not in the set."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0
