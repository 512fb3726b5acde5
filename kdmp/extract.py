"""Memory into files: the bytes of a stretch of addresses, with the list of what is missing.

SPDX-License-Identifier: MIT
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

from kdmp._kdmp import Gap, UnreadableError
from kdmp.scopes import uncollected
from kdmp.targets import Target, Writable, target

if TYPE_CHECKING:
    from kdmp._kdmp import Address
    from kdmp.dump import Progress
    from kdmp.reader import Reader

__all__ = ["LIMIT", "MAX_GAPS", "Extracted", "Gaps", "extract", "gap_facts"]

LIMIT = 1 << 40
"""Bytes that a file may have unless a larger limit is asked for: 1 TiB."""

MAX_GAPS = 1 << 16
"""Gaps that a result lists; more are counted."""

_CHUNK = 1 << 20
_SHOWN = 16


class Readable(Protocol):
    """What is needed of a reader."""

    def read_into(self, va: int, buffer: memoryview, /) -> int: ...
    def missing(self, va: int, size: int, /) -> Gap | None: ...


def gap_facts(gap: Gap) -> dict[str, Any]:
    """Return a gap as plain values: `address`, `size`, `state` of the page table entry if there was one,
    `type` of the reason and its `message`."""
    facts: dict[str, Any] = {"address": gap.address, "size": gap.size}
    state = getattr(gap.reason, "state", None)
    if state is not None:
        facts["state"] = state
    return {**facts, "type": type(gap.reason).__name__, "message": str(gap.reason)}


class Gaps:
    """Gaps as they are met, in ascending order; neighbours with the same kind of reason become one.

    `size` is what is missing in all, `dropped` counts gaps behind the first `limit`, which are not `kept`.
    """

    def __init__(self, limit: int = MAX_GAPS) -> None:
        self.kept: list[Gap] = []
        self.size = 0
        self.dropped = 0
        self._limit = limit
        self._last: Gap | None = None

    def add(self, gap: Gap) -> None:
        """Add a gap."""
        self.size += gap.size
        last = self._last
        if last is not None and _continues(last, gap):
            self._last = Gap((last.address, last.size + gap.size, last.reason))
            if not self.dropped:
                self.kept[-1] = self._last
            return
        self._last = gap
        if len(self.kept) < self._limit:
            self.kept.append(gap)
        else:
            self.dropped += 1


def _continues(last: Gap, gap: Gap) -> bool:
    return last.address + last.size == gap.address and type(last.reason) is type(gap.reason)


@dataclass(frozen=True)
class Extracted:
    """What was written, and what of it was missing.

    `path` of the file, None for a file object. `size` counts the bytes of the file, or those added to the
    file object; `written` the bytes of memory among them, `missing` those that were not there. `gaps` are the
    missing stretches with their addresses and reasons, neighbours with the same kind of reason being one;
    `dropped` counts those behind the first 65536.
    """

    path: str | None
    size: int
    written: int
    missing: int
    gaps: tuple[Gap, ...] = field(repr=False)
    dropped: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold; `dropped` only if it is not 0."""
        facts: dict[str, Any] = {
            "path": self.path,
            "size": self.size,
            "written": self.written,
            "missing": self.missing,
            "gaps": [gap_facts(gap) for gap in self.gaps],
        }
        if self.path is None:
            del facts["path"]
        return facts | ({"dropped": self.dropped} if self.dropped else {})

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self._heading()
        yield from gap_lines(self.gaps, self.dropped)

    def _heading(self) -> str:
        where = f"{self.path}: " if self.path is not None else ""
        text = f"{where}{self.size} bytes, {self.written} of them read"
        count = len(self.gaps) + self.dropped
        return text + (f", {self.missing} missing in {count} gap{'s' * (count != 1)}" if count else "")


def gap_lines(gaps: Iterable[Gap], dropped: int = 0) -> Iterator[str]:
    """Lines about gaps, indented; of many only the first."""
    gaps = tuple(gaps)
    for gap in gaps[:_SHOWN]:
        yield f"  {gap.address:#x} to {gap.address + gap.size - 1:#x}: {gap.reason}"
    more = max(len(gaps) - _SHOWN, 0) + dropped
    if more:
        yield f"  ... and {more} more"


def pieces(reader: Readable, va: int, size: int) -> Iterator[memoryview | Gap]:
    """Yield what there is of `size` bytes from `va` on, in order: bytes, at most 1 MiB, or a Gap.

    The bytes are gone when the next are asked for. A gap may be followed by one of the same kind.
    """
    buffer = memoryview(bytearray(min(_CHUNK, size)))
    at, end = va, va + size
    while at < end:
        part = buffer[: min(_CHUNK, end - at)]
        got = reader.read_into(at, part)
        if got:
            yield part[:got]
            at += got
        if got == len(part):
            continue
        gap = reader.missing(at, end - at)
        if gap is not None:
            yield gap
            at += gap.size
        elif not got:  # it came and went: the dump is not what it was
            raise UnreadableError(f"what is at {at:#x} could not be read")


class Writing:
    """A file being written, its gaps, and the progress that is told: bytes of memory, gaps included."""

    def __init__(self, out: Target, total: int, progress: "Progress | None") -> None:
        self.out = out
        self.written = 0
        self._gaps: list[Gap] = []
        self._missing = self._dropped = 0
        self._done, self._total, self._progress = 0, total, progress
        self._tell(0)

    def _tell(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._total)

    def copy(self, reader: Readable, va: int, size: int) -> Gaps:
        """Write `size` bytes from `va` on; return the gaps of this stretch."""
        gaps = Gaps(MAX_GAPS - len(self._gaps))
        for piece in pieces(reader, va, size):
            if isinstance(piece, memoryview):
                self.out.write(piece)
                self.written += len(piece)
                self._tell(len(piece))
                continue
            gaps.add(piece)
            before = 0
            for so_far in self.out.skip(piece.size):
                self._tell(so_far - before)
                before = so_far
        self._gaps += gaps.kept
        self._missing += gaps.size
        self._dropped += gaps.dropped
        return gaps

    def pad(self, size: int) -> None:
        """Leave bytes out that are no part of memory."""
        for _ in self.out.skip(size):
            pass

    def facts(self, where: Writable) -> dict[str, Any]:
        """What the members of Extracted are."""
        path = os.fsdecode(where) if isinstance(where, str | os.PathLike) else None
        return {
            "path": path,
            "size": self.out.size,
            "written": self.written,
            "missing": self._missing,
            "gaps": tuple(self._gaps),
            "dropped": self._dropped,
        }


def check_size(size: int, limit: SupportsIndex | None) -> None:
    """Raise ValueError if a file would have more bytes than the limit; None is 1 TiB."""
    most = LIMIT if limit is None else index(limit)
    if size > most:
        raise ValueError(
            f"the file would have {size} bytes, more than the limit of {most}: ask for a higher one"
        )


def check_fill(fill: SupportsIndex) -> int:
    """The fill byte; ValueError if it is none."""
    value = index(fill)
    if not 0 <= value <= 255:
        raise ValueError(f"fill must be a byte, 0 ... 255, not {value}")
    return value


@uncollected
def extract(
    reader: "Reader",
    va: "Address",
    size: SupportsIndex,
    where: Writable,
    *,
    fill: SupportsIndex,
    sparse: bool,
    overwrite: bool,
    limit: SupportsIndex | None,
    progress: "Progress | None",
) -> Extracted:
    """As `Reader.extract`, which see."""
    reader, address = reader._place(va)
    count, byte = index(size), check_fill(fill)
    if count < 0 or not 0 <= address < 1 << 64 or address + count > 1 << 64:
        raise ValueError(f"{count} bytes at {address:#x} are no part of an address space")
    check_size(count, limit)
    with target(where, reader.dump, fill=byte, sparse=sparse, overwrite=overwrite) as out:
        writing = Writing(out, count, progress)
        writing.copy(reader, address, count)
    return Extracted(**writing.facts(where))
