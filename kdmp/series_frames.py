"""Which frames of RAM differ between two dumps of one machine, by content.

SPDX-License-Identifier: MIT
"""

import os
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

from kdmp._kdmp import UnsupportedDumpError

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.pfn import PfnEntry

__all__ = ["ByteChange", "FrameChange", "FrameDiff", "FrameSet", "compare_frames"]

_PAGE = 0x1000
_WINDOW = 1 << 14  # frames that are compared by one call: 64 MiB
_MAX_RUNS = 1 << 24  # of frames that differ; 16 bytes each
_CHANGED, _ONLY_FIRST, _ONLY_SECOND = 1, 2, 3  # enum kdmp_frame_change

_Found = tuple[bytes, tuple[int, int, int, int, int]]


class FrameSet(Sequence[int]):
    """Frame numbers in ascending order, kept as runs: a sequence that takes memory by run."""

    def __init__(self) -> None:
        self._firsts = array("Q")
        self._counts = array("Q")
        self._ends: list[int] = []  # position after each run; made when it is needed

    def _add(self, first: int, count: int) -> None:
        """Append a run; it must not begin before the end of the last one."""
        if self._firsts and self._firsts[-1] + self._counts[-1] == first:
            self._counts[-1] += count
        else:
            self._firsts.append(first)
            self._counts.append(count)
        self._ends = []

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The runs: (first frame, how many)."""
        return list(zip(self._firsts, self._counts, strict=True))

    def _positions(self) -> list[int]:
        if not self._ends:
            self._ends = list(accumulate(self._counts))
        return self._ends

    def __len__(self) -> int:
        return self._positions()[-1] if self._firsts else 0

    def __iter__(self) -> Iterator[int]:
        for first, count in zip(self._firsts, self._counts, strict=True):
            yield from range(first, first + count)

    def __contains__(self, pfn: object) -> bool:
        if not isinstance(pfn, int):
            return False
        at = bisect_right(self._firsts, pfn) - 1
        return at >= 0 and pfn < self._firsts[at] + self._counts[at]

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> list[int]: ...
    def __getitem__(self, at: int | slice) -> int | list[int]:
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        ends, size, number = self._positions(), len(self), index(at)
        number += size if number < 0 else 0
        if not 0 <= number < size:
            raise IndexError("there are fewer frames")
        run = bisect_right(ends, number)
        return self._firsts[run] + self._counts[run] - (ends[run] - number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrameSet):
            return NotImplemented
        return self._firsts == other._firsts and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<FrameSet of {len(self)} frames in {len(self._firsts)} runs>"


@dataclass(frozen=True, slots=True)
class FrameDiff:
    """What became of the frames from one dump to another.

    `same` counts the frames that both have with the same bytes. `changed`, `only_first` (not in the second
    dump) and `only_second` are FrameSets; `changed_bytes` counts the bytes that differ in changed frames.
    A frame that only one dump has may just not have been captured by the other: kinds of dumps differ.
    """

    same: int
    changed: FrameSet
    only_first: FrameSet
    only_second: FrameSet
    changed_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "same": self.same,
            "changed": len(self.changed),
            "only_first": len(self.only_first),
            "only_second": len(self.only_second),
            "changed_bytes": self.changed_bytes,
        }


class ByteChange(NamedTuple):
    """Bytes of a frame that changed: `offset` in it, the `old` ones and the `new` ones."""

    offset: int
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class FrameChange:
    """What became of one frame: `bytes` are the stretches that differ, `before` and `after` what the PFN
    databases of the two dumps say about it (None if that cannot be had, `problems` says why)."""

    pfn: int
    in_first: bool
    in_second: bool
    bytes: tuple[ByteChange, ...]
    before: "PfnEntry | None"
    after: "PfnEntry | None"
    problems: tuple[str, ...]


def frame_change(first: "Dump", second: "Dump", pfn: SupportsIndex) -> FrameChange:
    """Return what became of one frame; frames that neither dump has give an empty one."""
    from kdmp._kdmp import KdmpError

    number, problems = index(pfn), []
    pages = [bytes(dump.pages[number]) if number in dump.pages else None for dump in (first, second)]
    entries: list[PfnEntry | None] = []
    for dump, which in ((first, "first"), (second, "second")):
        try:
            entries.append(dump.pfn(number))
        except (KdmpError, OverflowError) as error:
            entries.append(None)
            problems.append(f"PFN database of the {which} dump: {error}")
    a, b = pages
    changes = () if a is None or b is None else tuple(_stretches(a, b))
    return FrameChange(number, a is not None, b is not None, changes, entries[0], entries[1], tuple(problems))


def _stretches(a: bytes, b: bytes) -> Iterator[ByteChange]:
    start = None
    for k in range(len(a) + 1):
        differs = k < len(a) and a[k] != b[k]
        if differs and start is None:
            start = k
        elif not differs and start is not None:
            yield ByteChange(start, a[start:k], b[start:k])
            start = None


def _windows(first: "Dump", second: "Dump") -> Iterator[tuple[int, int]]:
    """Ranges of frames that are worth a call, ascending; halving skips what neither dump has."""
    waiting = [(0, max(first.figures["pfn_end"], second.figures["pfn_end"]))]
    while waiting:
        start, end = waiting.pop()
        most = max(len(first.pages[start:end]), len(second.pages[start:end]))
        if most == 0:
            continue
        if most <= _WINDOW:
            yield start, end
            continue
        middle = (start + end) // 2
        waiting += [(middle, end), (start, middle)]


def compare_frames(first: "Dump", second: "Dump", *, threads: SupportsIndex | None = None) -> FrameDiff:
    """Compare all frames of two dumps by content, with several threads (default: one a processor).

    Raises UnsupportedDumpError for triage dumps, which hold no frames, for encrypted ones, and if what
    differs is in more than 2**24 runs of frames; OSError if a
    file cannot be read; ValueError if `threads` is below 1.
    """
    workers = (os.cpu_count() or 1) if threads is None else index(threads)
    if workers < 1:
        raise ValueError("threads must be at least 1")
    for dump in (first, second):
        _ = dump.phys  # raises for dumps without frames
    if "file" in (first.io, second.io):
        workers = 1  # a file object is Python's: one thread at a time
    counts = [0] * 5
    sets = {change: FrameSet() for change in (_CHANGED, _ONLY_FIRST, _ONLY_SECOND)}
    for data, more in _compared(first, second, workers):
        counts = [a + b for a, b in zip(counts, more, strict=True)]
        numbers = memoryview(data).cast("Q")
        for at in range(0, len(numbers), 3):
            sets[numbers[at + 2]]._add(numbers[at], numbers[at + 1])
        if sum(len(frames._firsts) for frames in sets.values()) > _MAX_RUNS:
            raise UnsupportedDumpError(f"the dumps differ in more than {_MAX_RUNS} runs of frames")
    return FrameDiff(counts[0], sets[_CHANGED], sets[_ONLY_FIRST], sets[_ONLY_SECOND], counts[4])


def _compared(first: "Dump", second: "Dump", workers: int) -> Iterator[_Found]:
    """What the comparison of each window gave, in their order."""
    windows = _windows(first, second)
    if workers == 1:
        for start, end in windows:
            yield first.compare(second, start, end)
        return
    pool = ThreadPoolExecutor(workers, "kdmp-compare")
    try:
        running: deque[Future[_Found]] = deque()
        for start, end in windows:
            running.append(pool.submit(first.compare, second, start, end))
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
