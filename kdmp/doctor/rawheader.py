"""The dump header read once more, in Python and without trust: for files that the core refuses.

SPDX-License-Identifier: MIT
"""

import struct
from dataclasses import dataclass

from kdmp._headers import LAYOUT32, LAYOUT64, HeaderLayout

__all__ = ["LAYOUTS", "PAGE", "RawHeader", "Runs", "bitmap_runs"]

PAGE = 0x1000
LAYOUTS = {LAYOUT64.signature: LAYOUT64, LAYOUT32.signature: LAYOUT32}

# What the header is full of before fields are stored; 32-bit headers have been seen with either.
_FILLERS = (b"PAGE" * 4, b"PAGEDUMP" * 2)

# Physical addresses have 52 bits.
_MAX_PFN = 1 << 40
_MAX_RUNS = 1 << 16
_ARCHES = {0x8664: "x64", 0x14C: "x86", 0xAA64: "arm64"}


@dataclass(frozen=True)
class Runs:
    """The physical memory descriptor: its runs as (pfn, count), and the first thing wrong with it.

    `table` are the runs before the problem; `offset`, `expected` and `found` say where that is.
    """

    table: list[tuple[int, int]]
    problem: str | None = None
    offset: int | None = None
    expected: object = None
    found: object = None

    @property
    def pages(self) -> int:
        """How many pages the runs describe."""
        return sum(count for _, count in self.table)

    @property
    def sane(self) -> bool:
        """Whether there are runs and nothing is wrong with them."""
        return self.problem is None and self.pages > 0


class RawHeader:
    """The bytes of a dump header, perhaps fewer than it should have."""

    def __init__(self, data: bytes, layout: HeaderLayout) -> None:
        self.data = data[: layout.size]
        self.layout = layout

    def number(self, name: str) -> int | None:
        """Return a field; None if it is filler, beyond the end, or not in this header."""
        if name not in self.layout.fields:
            return None
        offset, size = self.layout.fields[name]
        stored = self.data[offset : offset + size]
        start = offset % 8
        if len(stored) < size or stored in [filler[start : start + size] for filler in _FILLERS]:
            return None
        return int.from_bytes(stored, "little")

    def offset(self, name: str) -> int | None:
        """Return where a field is."""
        place = self.layout.fields.get(name)
        return None if place is None else place[0]

    @property
    def arch(self) -> str | None:
        """The machine as `kdmp.open_raw` calls it; None if that cannot be told or has no walk."""
        return _ARCHES.get(self.number("machine_image_type") or 0)

    def runs(self) -> Runs:
        """Return the runs of the physical memory descriptor, with what is wrong with them."""
        count_at, limit = self.layout.fields["number_of_runs"][0], self.layout.max_runs
        count = self.number("number_of_runs")
        if count is None:
            return Runs([], "The list of physical memory runs was never written", count_at, f"1 to {limit}")
        if not 1 <= count <= limit:
            text = f"The header counts {count} physical memory runs; it has room for {limit}"
            return Runs([], text, count_at, f"1 to {limit}", count)
        table: list[tuple[int, int]] = []
        for number in range(count):
            where = self.layout.runs + number * self.layout.run.size
            entry = self.data[where : where + self.layout.run.size]
            if len(entry) < self.layout.run.size:
                return Runs(table, f"The file ends inside run {number}", where)
            pfn, pages = self.layout.run.unpack(entry)
            if pfn >= _MAX_PFN or pages > _MAX_PFN - pfn:
                text = f"Run {number} (frame {pfn:#x}, {pages:#x} pages) is beyond any physical memory"
                return Runs(table, text, where, "frames below 2**40", pfn)
            if pages:
                table.append((pfn, pages))
        if not table:
            return Runs([], "All physical memory runs are empty", count_at)
        return Runs(table)


def placed(runs: list[tuple[int, int]], first_page: int) -> list[tuple[int, int, int]]:
    """Return runs with the file offsets they have when their pages follow each other."""
    out = []
    for pfn, count in runs:
        out.append((pfn, count, first_page))
        first_page += count * PAGE
    return out


def without_overlaps(runs: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return the runs that overlap none before them."""
    out: list[tuple[int, int, int]] = []
    for pfn, count, offset in runs:
        if all(pfn + count <= other or other + n <= pfn for other, n, _ in out):
            out.append((pfn, count, offset))
    return out


def bitmap_runs(bitmap: bytes, bits: int) -> list[tuple[int, int]]:
    """Return the runs of set bits below `bits` as (first, count), ascending; not more than 65536."""
    value = int.from_bytes(bitmap, "little") & (1 << bits) - 1
    text = bin(value)[:1:-1]  # least significant first
    runs: list[tuple[int, int]] = []
    at = 0
    while len(runs) < _MAX_RUNS and (first := text.find("1", at)) >= 0:
        at = text.find("0", first)
        if at < 0:
            at = len(text)
        runs.append((first, at - first))
    return runs


def triage_fits(data: bytes, mark: bytes) -> bool:
    """Whether the bytes behind the header look like a triage header whose mark is `mark`."""
    if len(data) < 0xC or mark != b"TRGD":
        return False
    size, valid = struct.unpack_from("<II", data, 4)
    return bool(valid + 4 <= size)
