"""The dumps that benchmarks read: generated with `kdmp.DumpWriter`, sparse, cached, always the same.

Every dump has real x64 page tables. Four windows of the kernel half map the same data frames in
different ways (see `Machine`). In a filled dump the data frames hold what contents.py says, so that every
read can be checked; in others they are holes of the file and only the page tables take room.

SPDX-License-Identifier: MIT
"""

import itertools
import os
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from benchmarks import contents

PAGE = 0x1000
TABLE_ENTRIES = 512
LARGE = 0x20_0000
MAPPED_PAGES = 1 << 18  # 1 GiB in pages

# The windows, one top-level entry each.
SHUFFLED = 0xFFFF_9000_0000_0000  # 4 KB pages, frames in random order
LINEAR = 0xFFFF_9100_0000_0000  # 4 KB pages, consecutive frames
LARGE_PAGES = 0xFFFF_9200_0000_0000  # 2 MB pages
HUGE_PAGE = 0xFFFF_9300_0000_0000  # one 1 GB page

_ROOT_PFN = 0x1000  # page tables from here on
_LOW_END, _HIGH_START = 0xC_0000, 0x10_0000  # the hole below 4 GiB that every PC has
_ENTRY = 0x63  # present, writable, accessed, dirty
_PS, _NX = 0x80, 1 << 63
_VERSION = 1  # part of file names: raise it when the contents change
_FILLED_VERSION = 2
_SEED = 20260101


@dataclass(frozen=True)
class Machine:
    """One dump to generate: DumpType `kind`, `gib` of memory, of which `mapped` pages are mapped.

    The data frames of the windows start at 4 GiB. SHUFFLED maps `mapped` frames drawn from all
    data frames, LINEAR and LARGE_PAGES the first `mapped` of them in order, HUGE_PAGE the first GiB.
    """

    name: str
    kind: int
    gib: int = 1
    mapped: int = MAPPED_PAGES
    filled: bool = False

    @property
    def data_start(self) -> int:
        """Physical address of the first data frame; `mapped` of them follow each other from here."""
        return _HIGH_START * PAGE

    @property
    def data_frames(self) -> int:
        """Number of frames from 4 GiB on."""
        if self.gib == 1:
            return max(self.mapped, 0)
        return (self.gib << 18) - (_LOW_END - 1)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """All frames as (pfn, count)."""
        low_end = 0x2000 if self.gib == 1 else _LOW_END
        return [(1, low_end - 1), (_HIGH_START, self.data_frames)]

    @property
    def dtb(self) -> int:
        """The page-table root."""
        return _ROOT_PFN * PAGE

    @cached_property
    def frames(self) -> "array[int]":
        """The frame behind each page of the SHUFFLED window."""
        rng = random.Random(_SEED)
        if self.data_frames == self.mapped:
            drawn = list(range(self.mapped))
            rng.shuffle(drawn)
        else:
            drawn = rng.sample(range(self.data_frames), self.mapped)
        return array("Q", (_HIGH_START + k for k in drawn))

    @property
    def path_name(self) -> str:
        """File name in the cache."""
        return f"{self.name}-{self.mapped:x}-v{_FILLED_VERSION if self.filled else _VERSION}.dmp"

    def word(self, pa: int) -> int:
        """Return the 8 bytes at a multiple of 8 in a data frame, without any dump."""
        return contents.word(pa, _HIGH_START) if self.filled else 0

    def physical(self, va: int) -> int:
        """Return the physical address of an address in one of the windows, without any page table."""
        offset = va & 0xFF_FFFF_FFFF
        if va < LINEAR:
            return self.frames[offset // PAGE] * PAGE + offset % PAGE
        return _HIGH_START * PAGE + offset

    def random_addresses(self, n: int, *, window: int = SHUFFLED, align: int = 8) -> list[int]:
        """Return `n` addresses anywhere in a window, the same ones every time."""
        rng = random.Random(_SEED + n + window)
        span = self.mapped * PAGE // align
        return [window + rng.randrange(span) * align for _ in range(n)]


def bitmap_1g(*, quick: bool = False) -> Machine:
    """Return the 1 GiB bitmap dump with data, 64 MiB in a smoke run."""
    return Machine("bitmap-1g", 5, 1, MAPPED_PAGES // 16 if quick else MAPPED_PAGES, filled=True)


def full_1g(*, quick: bool = False) -> Machine:
    """Return a 1 GiB dump of type 1 (runs) with data."""
    return Machine("full-1g", 1, 1, MAPPED_PAGES // 16 if quick else MAPPED_PAGES, filled=True)


def ranges_1g(*, quick: bool = False) -> Machine:
    """Return a 1 GiB dump of type 0xA (ranges, its signature is RDMP) with data."""
    return Machine("rdmp-1g", 0xA, 1, MAPPED_PAGES // 16 if quick else MAPPED_PAGES, filled=True)


def bitmap_64g(*, quick: bool = False) -> Machine:
    """Return the 64 GiB bitmap dump (4 GiB in a smoke run), no data."""
    if quick:
        return Machine("bitmap-4g", 5, 4, MAPPED_PAGES // 16)
    return Machine("bitmap-64g", 5, 64)


def ensure(machine: Machine, directory: Path) -> Path:
    """Return the path of the machine's dump, generating it if it is not there yet.

    If it has no holes all of it is in the page cache then: it is readers that are measured, not disks.
    """
    path = _ensure(directory / machine.path_name, lambda path: _write(machine, path))
    if machine.filled:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    return path


def _ensure(path: Path, write: Callable[[Path], None]) -> Path:
    """Return `path`; if there is no such file, let `write` make it under another name first."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            write(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    return path


def _write(machine: Machine, path: Path) -> None:
    import kdmp  # not at the top: the description of a dump is useful without the library

    header = {
        "minor_version": 19041,
        "directory_table_base": machine.dtb,
        "number_processors": 2,
        "system_time": 0x01D8_0000_0000_0000,
        "system_up_time": 36_000_000_000,
    }
    with kdmp.DumpWriter(
        path, machine.kind, machine.runs, header=header, context=bytes(0x4D0), sparse=True
    ) as writer:
        for pfn, table in _tables(machine):
            writer.write(pfn, table)
        if machine.filled:
            step = 256
            for first in range(_HIGH_START, _HIGH_START + machine.mapped, step):
                writer.write(first, contents.pages(first, step, _HIGH_START))


def _tables(machine: Machine) -> "list[tuple[int, array[int]]]":
    """Return the page tables as (frame, entries)."""
    tables: list[tuple[int, array[int]]] = []

    def new_table() -> "tuple[int, array[int]]":
        tables.append((_ROOT_PFN + len(tables), array("Q", bytes(PAGE))))
        return tables[-1]

    _, root = new_table()
    linear = array("Q", range(_HIGH_START, _HIGH_START + machine.mapped))
    for window, frames in ((SHUFFLED, machine.frames), (LINEAR, linear)):
        pdpt_pfn, pdpt = new_table()
        root[_index(window, 4)] = _pointer(pdpt_pfn)
        pd = array("Q")
        for k in range(0, machine.mapped, TABLE_ENTRIES):
            if k % TABLE_ENTRIES**2 == 0:
                pd_pfn, pd = new_table()
                pdpt[k // TABLE_ENTRIES**2] = _pointer(pd_pfn)
            pt_pfn, pt = new_table()
            pd[k // TABLE_ENTRIES % TABLE_ENTRIES] = _pointer(pt_pfn)
            for i, pfn in enumerate(frames[k : k + TABLE_ENTRIES]):
                pt[i] = pfn * PAGE | _ENTRY | _NX

    pdpt_pfn, pdpt = new_table()
    root[_index(LARGE_PAGES, 4)] = _pointer(pdpt_pfn)
    pd_pfn, pd = new_table()
    pdpt[0] = _pointer(pd_pfn)
    for k in range(machine.mapped // TABLE_ENTRIES):
        pd[k] = (_HIGH_START * PAGE + k * LARGE) | _ENTRY | _PS | _NX

    pdpt_pfn, pdpt = new_table()
    root[_index(HUGE_PAGE, 4)] = _pointer(pdpt_pfn)
    pdpt[0] = _HIGH_START * PAGE | _ENTRY | _PS | _NX
    return tables


@dataclass(frozen=True)
class Spread:
    """A dump of page tables only: `pages` 4 KB pages in each of three windows, no data.

    In MERGED all pages have the same rights, in RUNS they change after 1 to 15 pages, in SINGLE after every
    page. A window takes 8 bytes of tables a page.
    """

    pages: int

    MERGED: ClassVar[int] = 0xFFFF_9000_0000_0000
    RUNS: ClassVar[int] = 0xFFFF_9100_0000_0000
    SINGLE: ClassVar[int] = 0xFFFF_9200_0000_0000

    @property
    def path_name(self) -> str:
        """File name in the cache."""
        return f"spread-{self.pages:x}-v{_VERSION}.dmp"

    @property
    def dtb(self) -> int:
        """The page-table root."""
        return _ROOT_PFN * PAGE

    @property
    def frames(self) -> int:
        """Frames of the dump: root, and tables of the lower three levels for each window."""
        tables = self.pages // TABLE_ENTRIES
        return 1 + 3 * (1 + -(-tables // TABLE_ENTRIES) + tables)

    @property
    def pieces(self) -> dict[int, int]:
        """Ranges by window."""
        return {
            self.MERGED: 1,
            self.RUNS: sum(1 for _ in self._run_lengths()),
            self.SINGLE: self.pages,
        }

    def _run_lengths(self) -> Iterator[int]:
        rng, left = random.Random(_SEED), self.pages
        while left:
            length = min(rng.randrange(1, 16), left)
            left -= length
            yield length

    def entries(self, window: int) -> "array[int]":
        """The entries of all the pages of a window: frames from 4 GiB on in order."""
        first = _HIGH_START * PAGE | _ENTRY
        plain = range(first, first + self.pages * PAGE, PAGE)
        if window == self.MERGED:
            return array("Q", plain)
        entries = array("Q", plain)
        if window == self.SINGLE:
            entries[1::2] = array("Q", (entry | _NX for entry in entries[1::2]))
            return entries
        at = 0
        for k, length in enumerate(self._run_lengths()):
            if k % 2:
                for page in range(at, at + length):
                    entries[page] |= _NX
            at += length
        return entries

    def tables(self) -> "Iterator[tuple[int, array[int]]]":
        """All page tables as (frame, entries)."""
        free = itertools.count(_ROOT_PFN)
        root_pfn, root = next(free), array("Q", bytes(PAGE))
        for window in (self.MERGED, self.RUNS, self.SINGLE):
            below = self.entries(window)
            for _ in range(3):
                pointers = array("Q")
                for k in range(0, len(below), TABLE_ENTRIES):
                    table = below[k : k + TABLE_ENTRIES]
                    table.extend([0] * (TABLE_ENTRIES - len(table)))
                    pfn = next(free)
                    pointers.append(_pointer(pfn))
                    yield pfn, table
                below = pointers
            root[_index(window, 4)] = below[0]
        yield root_pfn, root


def ensure_spread(spread: Spread, directory: Path) -> Path:
    """Return the path of the dump, generating it if it is not there yet."""
    import kdmp

    header = {"minor_version": 19041, "directory_table_base": _ROOT_PFN * PAGE}

    def write(path: Path) -> None:
        runs = [(_ROOT_PFN, spread.frames)]
        with kdmp.DumpWriter(path, 5, runs, header=header) as writer:
            for pfn, table in spread.tables():
                writer.write(pfn, table)

    return _ensure(directory / spread.path_name, write)


def _index(va: int, level: int) -> int:
    """Return the index of `va` in the table of a level (4 = root ... 1)."""
    return va >> 12 + 9 * (level - 1) & TABLE_ENTRIES - 1


def _pointer(pfn: int) -> int:
    return pfn * PAGE | _ENTRY
