"""In which parts, and in which order, an address space is searched.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from kdmp.search_frames import Frames

if TYPE_CHECKING:
    from kdmp._kdmp import Extent
    from kdmp.reader import Reader

__all__ = ["ORDERS", "Job", "jobs"]

ORDERS = ("address", "file")

_MOST = 1 << 28  # bytes of one job where frames are searched once


class Job(NamedTuple):
    """A part of a space: matches that begin in [start, last]; jobs with the same `number` ascend.

    With `reach` only matches that have the byte at that address, which lies behind `last`.
    """

    number: int
    start: int
    last: int
    reach: int | None = None


def jobs(
    reader: "Reader", start: int, last: int, order: str, *, unique: bool, longest: int, share: int | None
) -> Iterator[Job]:
    """Yield the parts of [start, last] in the order asked for, each of about `share` readable bytes.

    `longest` is the longest match in bytes. Raises as `Reader.extents`.
    """
    if order == "file":
        parts = _by_offset(reader, start, last)
    elif unique and reader.paging not in ("physical", "triage"):
        yield from _first_places(reader, start, last, longest, share or _MOST)
        return
    else:
        parts = iter([Job(0, start, last)])
    for job in parts:
        if share is None:
            yield job
        else:
            yield from _shares(reader, job, share)


def _shares(reader: "Reader", job: Job, share: int) -> Iterator[Job]:
    """Cut a job after every `share` readable bytes."""
    start: int | None = job.start
    extents = reader.extents(job.start, job.last)
    while start is not None:
        last = extents.skip(share)
        yield Job(job.number, start, job.last if last is None else last)
        start = None if last is None or last == job.last else last + 1


# ---- file order ----


def _by_offset(reader: "Reader", start: int, last: int) -> Iterator[Job]:
    """The extents by their place in the file, then those that are not in the file.

    What ascends in address and offset, with nothing else between, is one job.
    """
    pieces, others = _segments(reader.extents(start, last), whole=True)
    if any(before[1] > after[0] for before, after in pairwise(pieces)):
        pieces, others = _segments(reader.extents(start, last), whole=False)
    places = [piece[2:] for piece in pieces] + others
    return (Job(number, *place) for number, place in enumerate(places))


def _segments(
    extents: "Iterable[Extent]", *, whole: bool
) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int]]]:
    """Extents in the file as (offset, end in the file, first and last address), sorted; others as the latter.

    With `whole` extents that ascend in both are one.
    """
    pieces: list[tuple[int, int, int, int]] = []
    others: list[tuple[int, int]] = []
    grows = False
    for extent in extents:
        last = extent.address + extent.size - 1
        if extent.offset is None:
            others.append((extent.address, last))
            grows = False
            continue
        offset, end = extent.offset, extent.offset + extent.size
        if grows and pieces[-1][1] <= offset:
            pieces[-1] = (pieces[-1][0], end, pieces[-1][2], last)
        else:
            pieces.append((offset, end, extent.address, last))
        grows = whole
    return sorted(pieces), others


# ---- every frame once ----


def _first_places(reader: "Reader", start: int, last: int, longest: int, share: int) -> Iterator[Job]:
    """Each frame where it is first, and what reaches from frames seen before into something new.

    New is a frame that was not seen, and two frames side by side that were not.
    """
    frames = Frames()
    fresh: Job | None = None  # new frames that are not yet given
    size = 0
    seen: int | None = None  # where the frames seen before begin that lead to the next piece
    end = -1
    pfn: int | None = None  # the last frame before `end`
    for piece in _pieces(reader.extents(start, last), frames):
        linked = piece.address == end
        joined = linked and frames.join(pfn, piece.pfn)
        if not linked:
            seen = None
        elif seen is not None and (piece.new or joined):
            first = max(seen, piece.address - longest + 1)
            if first < piece.address:  # `fresh` was given when these began
                yield Job(0, first, piece.address - 1, piece.address)
            seen = None
        end = piece.address + piece.size
        pfn = None if piece.pfn is None else piece.pfn + (piece.size - 1 >> 12)
        if not piece.new:
            if seen is None:
                seen = piece.address
            if fresh is not None:
                yield fresh
                fresh, size = None, 0
            continue
        seen = None
        at = piece.address
        while size + end - at >= share:
            begin, at = at, at + share - size
            yield Job(0, begin if fresh is None else fresh.start, at - 1)
            fresh, size = None, 0
        if at < end:
            fresh = Job(0, at if fresh is None else fresh.start, end - 1)
            size += end - at
    if fresh is not None:
        yield fresh


class _Piece(NamedTuple):
    """A part of an extent: its first frame, if it has frames, and whether they are new."""

    address: int
    size: int
    pfn: int | None
    new: bool


def _pieces(extents: "Iterable[Extent]", frames: Frames) -> Iterator[_Piece]:
    """Cut extents where frames that were seen and frames that were not meet."""
    for extent in extents:
        if extent.pa is None:
            yield _Piece(extent.address, extent.size, None, True)
            continue
        address, pa, end = extent.address, extent.pa, extent.pa + extent.size
        if pa & 0xFFF or extent.size < 0x1000:  # searched in part, which does not count as seen
            size = min(0x1000 - (pa & 0xFFF), extent.size)
            yield _Piece(address, size, pa >> 12, True)
            address, pa = address + size, pa + size
        for pfn, count, new in frames.add(pa >> 12, (end - pa) >> 12):
            yield _Piece(address, count << 12, pfn, new)
            address += count << 12
        if end & 0xFFF and end > pa:
            yield _Piece(address, end & 0xFFF, end >> 12, True)
