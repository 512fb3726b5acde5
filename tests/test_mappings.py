"""Reader.mappings(): merged ranges against single translations, in every paging mode, and hostile tables.

SPDX-License-Identifier: MIT
"""

import io
import itertools
import os
import random
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from archtables import MODES, ArchTables, dump, flat
from dumpbuilder import KB4, MB2, PAGE, Memory, P, Tables, U, W
from meddling import Meddling
from test_core_cffi import Core

import kdmp
from kdmp._kdmp import ReaderBase

SEEDS = 10
SHARED = (0x700, 0x701)  # frames of pages, not in the dump
MISSING = 0x800  # frame of a table that is not in the dump
STATES = (
    "none valid transition prototype zero demand_zero pagefile table bad subsection vad"
).split()  # by number
RIGHTS = ("writable", "executable", "user")


class Sparse:
    """Random tables of a mode with few entries each: something of every kind, in runs and alone."""

    def __init__(self, paging, seed):
        self.rng, self.paging, self.mode = random.Random(f"{paging} {seed}"), paging, MODES[paging]
        self.memory = Memory()
        self.root = 0x1020 if paging == "pae" else 0x1000
        self.spare, self.starts = 2, []
        self.memory.page(1)
        self.levels = len(self.mode.shifts)
        self.fill(self.root, self.levels, 0)

    def count(self, level):
        """Entries of a table."""
        if (self.paging, level) == ("pae", 3):
            return 4
        return PAGE // self.mode.entry

    def address(self, linear):
        top = self.mode.shifts[-1] + 9
        if self.mode.machine != 0x14C and linear >> top - 1:
            return linear | (1 << 64) - (1 << top)
        return linear

    def fill(self, table, level, base):
        count, rng = self.count(level), self.rng
        firsts = {rng.randrange(count) for _ in range(5)} | {0, count - 1, count // 2, count // 2 - 1}
        for first in sorted(firsts):
            value = self.entry(level)
            for index in range(first, min(first + rng.choice((1, 1, 2, 3, 7)), count)):
                if value is None or rng.random() < 0.2:
                    value = self.entry(level)
                start = base + (index << self.mode.shifts[level - 1])
                self.starts.append(self.address(start))
                if value is None:  # a table of its own
                    where, self.spare = self.spare, self.spare + 1
                    self.memory.page(where)
                    self.fill(where * PAGE, level - 1, start)
                    entry = where * PAGE | self.table_flags(level)
                else:
                    entry = value
                at = table + index * self.mode.entry
                page = self.memory.page(at >> 12)
                page[at % PAGE : at % PAGE + self.mode.entry] = entry.to_bytes(self.mode.entry, "little")

    def table_flags(self, level):
        if (self.paging, level) == ("pae", 3):
            return 1
        if self.paging == "arm64":
            return 3 | self.rng.choice((0, 0, 0, 1 << 59, 1 << 60, 1 << 61, 1 << 62))
        nx = 1 << 63 if self.paging != "x86" and self.rng.random() < 0.1 else 0
        return nx | self.rng.choice((0x67, 0x67, 0x65, 0x63))

    def entry(self, level):
        """A value, or None for a table that is to be made."""
        rng = self.rng
        if level > 1 and self.spare < 14 and rng.random() < 0.7:
            return None
        if (self.paging, level) == ("pae", 3):
            return rng.choice((0, MISSING * PAGE | 1, MISSING * PAGE | 0x21 | 4, 0x80))
        soft = self.soft()
        if level > 1:
            bad = 0x80 | P if self.paging != "arm64" else 1
            large = self.valid(level) if level <= (2 if self.levels < 4 else 3) else bad
            missing = MISSING * PAGE | self.table_flags(level)
            if self.paging == "arm64":
                return rng.choice((0, missing, large, soft & ~0x800))
            return rng.choice((0, missing, large, large, soft & ~0x800, bad if level > 3 else 0))
        return rng.choice((0, soft, self.valid(1), self.valid(1), self.valid(1)))

    def valid(self, level):
        rng, shift = self.rng, self.mode.shifts[level - 1]
        frame = rng.randrange(1 << 31 - shift) << shift if level > 1 else rng.choice(SHARED) * PAGE
        if self.paging == "arm64":
            return (
                frame | (3 if level == 1 else 1) | rng.choice((0x700, 0x740, 0x780, 1 << 55 | 0x780, 3 << 53))
            )
        nx = 1 << 63 if self.paging != "x86" and rng.random() < 0.3 else 0
        return nx | frame | rng.choice((0x63, 0x67, 0x65, 0x861)) | (0x80 if level > 1 else 0)

    def soft(self):
        rng = self.rng
        protection = rng.randrange(8) << (1 if self.paging == "arm64" else 5)
        high = 12 if self.paging == "x86" else 32
        return protection | rng.choice(
            (8 << (1 if self.paging == "arm64" else 5), rng.randrange(1, 99) << high,
             SHARED[0] * PAGE | 0x800, 0x400 | 0x123 << high,
             0x400 | (1 << 8 * self.mode.entry) - (1 << high))
        )  # fmt: skip

    def open(self):
        image = dump(self.memory.pages, self.paging, self.root)
        return kdmp.open(image).reader(paging=self.paging, dtb=self.root, invalid_pte_mask=0)


def entry_of(reader, va):
    """What a single translation says of the entry at `va`: (state, page size, rights or None, pa)."""
    shifts = MODES[reader.paging].shifts
    try:
        got = reader.translate(va)
    except kdmp.NonCanonicalError:
        return "zero", 1, None, None
    except kdmp.TranslationError as exc:
        size = 1 << shifts[(exc.level or 1) - 1]
        state = "table" if isinstance(exc, kdmp.NotInDumpError) and exc.level else exc.state
        return ("prototype" if exc.prototype else state), size, None, None
    state = "prototype" if got.prototype else got.state
    rights = tuple(getattr(got, name) for name in RIGHTS)
    return state, got.page_size, rights, None if state == "prototype" else got.pa


def key(mapping):
    return mapping.page_size, mapping.state, *(getattr(mapping, name) for name in RIGHTS)


def check_single_translations(reader, mapping):
    """Both ends and some of the inside are what the range says."""
    pages = mapping.size // mapping.page_size
    inside = {0, 1, pages // 2, pages - 2, pages - 1} & set(range(pages))
    for page in sorted(inside):
        first = mapping.start + page * mapping.page_size
        for va in (first, first + mapping.page_size - 1):
            state, size, rights, pa = entry_of(reader, va)
            assert (state, size) == (mapping.state, mapping.page_size), (hex(va), mapping)
            if rights is not None:
                assert rights == tuple(getattr(mapping, name) for name in RIGHTS), (hex(va), mapping)
            if page == 0 and pa is not None:
                assert pa - va == mapping.pa - mapping.start, (hex(va), mapping)


def covering(mappings, va):
    return next((m for m in mappings if m.start <= va < m.start + m.size), None)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("paging", MODES)
def test_ranges_equal_single_translations(paging, seed):
    space = Sparse(paging, seed)
    reader = space.open()
    mappings = list(reader.mappings())
    assert mappings
    last = 2**32 if MODES[paging].machine == 0x14C else 2**64
    for mapping in mappings:
        assert mapping.size > 0 and mapping.size % mapping.page_size == 0
        check_single_translations(reader, mapping)
        for outside in (mapping.start - 1, mapping.start + mapping.size):
            if 0 <= outside < last and covering(mappings, outside) is None:
                assert entry_of(reader, outside)[0] == "zero", hex(outside)
    for one, next_one in itertools.pairwise(mappings):
        assert one.start + one.size <= next_one.start
        if one.start + one.size == next_one.start:
            assert key(one) != key(next_one), "two ranges that should be one"
    rng = random.Random(seed)
    canonical = [space.address(rng.getrandbits(MODES[paging].shifts[-1] + 9) % last) for _ in range(50)]
    for va in [*space.starts, *canonical]:
        state, size, _, _ = entry_of(reader, va % last)
        found = covering(mappings, va % last)
        assert (found is None) == (state == "zero"), hex(va)
        if found is not None:
            assert (found.state, found.page_size) == (state, size), hex(va)


@pytest.mark.parametrize("paging", MODES)
def test_dense_tables_equal_single_translations(paging):
    """Full page tables with runs of rights and holes, as a real space has them: every page, every range."""
    rng, mode = random.Random(paging), MODES[paging]
    memory = Memory()
    tables = ArchTables(memory, paging, root=0x1020 if paging == "pae" else 0x1000)
    start = 0x8000_0000 if mode.machine == 0x14C else tables_half(paging)
    count = 3 * PAGE // mode.entry  # three tables
    rights = (3, 0x703, 0x783, 0x743, 1 << 55 | 0x783, 3 << 53 | 3, 1)  # the last is reserved
    if paging != "arm64":
        nx = 1 << 63 if paging != "x86" else 0
        rights = (0x63, 0x67, 0x65, 0x61, 0x861, nx | 0x63, nx | 0x65, nx | 0x43, 0x123)
    page = entry = 0
    while page < count:
        entry = rng.choice((*rights, *rights, 0, 4 << (1 if paging == "arm64" else 5), 0x800))
        for _ in range(rng.choice((1, 2, 3, 8, 60))):
            if page < count:
                tables.raw(start + page * PAGE, entry and entry | (0x70 + page) << 12 if entry & 1 else entry)
            page += 1
    image = dump(memory.pages, paging, tables.root)
    reader = kdmp.open(image).reader(paging=paging, dtb=tables.root, invalid_pte_mask=0)
    found = list(reader.mappings(start, start + count * PAGE - 1))
    assert len(found) > 50
    assert any(m.size > 20 * PAGE for m in found)
    for one, following in itertools.pairwise(found):
        assert one.start + one.size < following.start or key(one) != key(following)
    inside = iter(found)
    one = next(inside)
    for page in range(count):
        va = start + page * PAGE
        while one is not None and one.start + one.size <= va:
            one = next(inside, None)
        state, size, granted, pa = entry_of(reader, va)
        if state == "zero":
            assert one is None or one.start > va
            continue
        assert (one.state, one.page_size) == (state, size), hex(va)
        assert one.start <= va
        if state == "valid":
            assert granted == tuple(getattr(one, name) for name in RIGHTS), hex(va)
            assert one.start != va or one.pa == pa
    for _ in range(30):  # bounds in the middle of tables
        first, last = sorted(rng.randrange(start, start + count * PAGE) for _ in range(2))
        got = [(m.start, m.size, *key(m)) for m in reader.mappings(first, last)]
        assert got == list(clipped(found, paging, first, last)), (hex(first), hex(last))


def tables_half(paging):
    """The first address of the kernel's half."""
    return 2**64 - (1 << MODES[paging].shifts[-1] + 8)


def test_all_states_occur():
    seen = set()
    for paging in MODES:
        for seed in range(SEEDS):
            seen |= {(paging, m.state) for m in Sparse(paging, seed).open().mappings()}
    usual = ("valid", "transition", "prototype", "demand_zero", "pagefile", "table", "vad")
    assert {(paging, state) for paging in MODES for state in usual} <= seen
    assert {("la57", "bad"), ("pae", "bad"), ("x64", "bad"), ("arm64", "bad")} <= seen


# ---- parts of a space ----


def entries_of_a_table(paging, level_size):
    shifts = MODES[paging].shifts
    level = shifts.index(level_size.bit_length() - 1) + 1
    return 4 if (paging, level) == ("pae", 3) else PAGE // MODES[paging].entry


def clipped(mappings, paging, first, last):
    """The pages of each range that have a byte from `first` to `last`; of a missing table, all."""
    for m in mappings:
        unit = m.page_size
        if m.state == "table":
            unit *= entries_of_a_table(paging, m.page_size)
        start = max(m.start, first // unit * unit)
        end = min(m.start + m.size, (last // unit + 1) * unit)
        if start < end:
            yield start, end - start, *key(m)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("paging", MODES)
def test_from_start_to_last(paging, seed):
    space = Sparse(paging, seed)
    reader = space.open()
    whole = list(reader.mappings())
    rng = random.Random(seed)
    bounds = sorted({m.start + step for m in whole for step in (0, 1, m.size // 2, m.size - 1)})
    for _ in range(40):
        first, last = sorted(rng.choice(bounds) for _ in range(2))
        got = [(m.start, m.size, *key(m)) for m in reader.mappings(first, last)]
        assert got == list(clipped(whole, paging, first, last)), (hex(first), hex(last))
    for m in whole[:20]:
        assert [x.start for x in reader.mappings(start=m.start)][:1] == [m.start]
        assert covering(list(reader.mappings(last=m.start)), m.start) is not None


@pytest.mark.parametrize("paging", ["x64", "la57", "arm64"])
def test_bounds_within_the_hole(paging):
    """Addresses that are not canonical lie between the halves, not in one of them."""
    memory = Memory()
    tables = ArchTables(memory, paging)
    half = 1 << MODES[paging].shifts[-1] + 8
    low, high = half - PAGE, 2**64 - half
    for va in (0x5000, low, high, 2**64 - PAGE):
        tables.map(va, 0x70000)
    reader = kdmp.open(dump(memory.pages, paging, 0x1000)).reader(paging=paging)

    def starts(*bounds):
        return [m.start for m in reader.mappings(*bounds)]

    assert starts() == [0x5000, low, high, 2**64 - PAGE]
    for inside in (half, half + 0x1234, 2 * half, 3 * half, 2**63, high - 2 * half, high - 1):
        assert starts(0, inside) == [0x5000, low], hex(inside)
        assert starts(inside) == [high, 2**64 - PAGE], hex(inside)
        assert starts(inside, high - 1) == [], hex(inside)
    assert starts(low, high) == [low, high]
    assert starts(low + 1, low + 1) == [low]


def test_bounds_that_make_no_sense():
    reader = Sparse("x86", 0).open()
    for bounds in ((5, 4), (0, 2**32), (2**32, None)):
        with pytest.raises(ValueError):
            ReaderBase.mappings(reader, *bounds)
        with pytest.raises(ValueError):
            reader.mappings_buffer(*bounds)
    for bounds in (("text",), (0, 1.5)):
        with pytest.raises(TypeError):
            reader.mappings(*bounds)
    for bounds in ((-1,), (0, 2**64)):
        with pytest.raises(OverflowError):
            reader.mappings(*bounds)
    for method in ("mappings", "mappings_buffer"):
        with pytest.raises(kdmp.UnsupportedDumpError):
            getattr(reader.dump.phys, method)()
    with pytest.raises(kdmp.UnsupportedDumpError):
        reader.dump.phys.find_frame(1)


# ---- what makes a range ----


def x64(fill, **options):
    memory = Memory()
    tables = Tables(memory)
    fill(tables)
    return kdmp.open(memory.dump()).reader(**options)


def short(reader, *bounds):
    return [(m.start, m.size, m.page_size, m.pa, m.state) for m in reader.mappings(*bounds)]


def test_rights_split_and_frames_do_not():
    def fill(tables):
        for k, flags in enumerate((P | W | U, P | W | U, P | U, P | U, P | W | U, P | W)):
            tables.map(0x7000_0000 + k * PAGE, (0x50 - k) * PAGE, flags=flags)

    got = list(x64(fill).mappings())
    assert [(m.start - 0x7000_0000, m.size, m.pa, m.writable, m.user) for m in got] == [
        (0, 2 * PAGE, 0x50000, True, True),
        (0x2000, 2 * PAGE, 0x4E000, False, True),
        (0x4000, PAGE, 0x4C000, True, True),
        (0x5000, PAGE, 0x4B000, True, False),
    ]
    assert all(m.executable for m in got)


def test_ranges_go_on_across_tables():
    def fill(tables):
        for k in range(-3, 5):
            tables.map(0x4000_0000 + k * PAGE, 0x20000)
        tables.map(0x8000_0000, 0x4000_0000, MB2)
        tables.map(0x8020_0000, 0, MB2)
        tables.map(0x8040_0000, 0, KB4)

    assert short(x64(fill)) == [
        (0x3FFF_D000, 8 * PAGE, PAGE, 0x20000, "valid"),
        (0x8000_0000, 2 * MB2, MB2, 0x4000_0000, "valid"),
        (0x8040_0000, PAGE, PAGE, 0, "valid"),
    ]


def test_the_halves_are_no_neighbours():
    def fill(tables):
        tables.map(0x7FFF_FFFF_F000, 0x20000)
        tables.map(0xFFFF_8000_0000_0000, 0x21000)

    assert [m[0] for m in short(x64(fill))] == [0x7FFF_FFFF_F000, 0xFFFF_8000_0000_0000]


def test_software_states_and_their_rights():
    def fill(tables):
        values = [0x80, 0xA0, 0x20, 0x77 << 32 | 0xC0, 0x20000 | 0x800 | 0x60, 0xFFFF_FFFF_0000_0430]
        for k, value in enumerate(values):
            tables.raw(0x7000_0000 + k * PAGE, value)
        tables.raw(0x7020_0000, 0x80, 2)  # a paged-out page table

    got = [(m.size, m.state, m.pa, m.writable, m.executable) for m in x64(fill).mappings()]
    assert got == [
        (2 * PAGE, "demand_zero", None, True, False),
        (PAGE, "demand_zero", None, False, False),
        (PAGE, "pagefile", None, True, True),
        (PAGE, "transition", 0x20000, False, True),
        (PAGE, "vad", None, False, False),
        (MB2, "demand_zero", None, True, False),
    ]


def test_read_only_views():
    """The ReadOnly bit of an entry that points to a prototype PTE counts, followed or not."""

    def fill(tables):
        tables.raw(0x7000_0000, 0x9C20_0000_0000_0000 | 0x400 | 4 << 5)
        tables.raw(0x7000_1000, 0x9C20_0000_0000_0000 | 0x400 | 4 << 5 | 8)

    got = [(m.start, m.state, m.writable) for m in x64(fill, invalid_pte_mask=0).mappings()]
    assert got == [(0x7000_0000, "prototype", True), (0x7000_1000, "prototype", False)]


@pytest.mark.parametrize("mask", [None, 0, 1 << 45, 1 << 45 | 1 << 40])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_entries_of_nothing_but_the_l1tf_mask(level, mask):
    """Empty once the mask is undone is none, as single translations say; SwizzleBit counts."""
    span = 1 << 12 + 9 * (level - 1)
    start = 0x7000_0000 // span * span
    values = [1 << 45, 1 << 45 | 1 << 40, 1 << 45 | 0x10, 0x10, 1 << 40, 1 << 45 | 0x80, 1 << 44]

    def fill(tables):
        for k, value in enumerate(values):
            tables.raw(start + k * span, value, level)

    reader = x64(fill, invalid_pte_mask=mask, discover=False)
    found = list(reader.mappings())
    for k in range(len(values)):
        va = start + k * span
        state, size, _, _ = entry_of(reader, va)
        one = covering(found, va)
        assert (one and one.state) == (None if state == "zero" else state), hex(values[k])
        assert one is None or size == one.page_size == span
    empty = [k for k in range(len(values)) if covering(found, start + k * span) is None]
    assert empty == {None: [0], 0: [], 1 << 45: [0], 1 << 45 | 1 << 40: [0, 1, 4]}[mask]
    assert all(m.state != "zero" for m in found)
    assert not list(reader.find_frame(0))


def test_table_in_transition_is_entered():
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x5000, 0xA000)
    where = tables.entry(0x5000, 2)
    memory.put_u64(where, (tables.spare - 1) * PAGE | 0x800 | 4 << 5)
    assert short(kdmp.open(memory.dump()).reader()) == [(0x5000, PAGE, PAGE, 0xA000, "valid")]


def test_missing_tables():
    def fill(tables):
        tables.raw(0x7000_0000, 0x99000 | P, 2)
        tables.raw(0x7020_0000, 0x99000 | P, 2)
        tables.raw(0x8000_0000, 0x99000 | P, 3)

    assert short(x64(fill)) == [
        (0x7000_0000, 2 * MB2, PAGE, None, "table"),
        (0x8000_0000, 1 << 30, MB2, None, "table"),
    ]


@pytest.mark.parametrize("paging", MODES)
def test_missing_root(paging):
    """Every address that there is, and no other, needs the table that is missing."""
    memory = Memory()
    memory.page(1)
    reader = kdmp.open(dump(memory.pages, paging, 0x99000)).reader(paging=paging)
    got = list(reader.mappings())
    assert {m.state for m in got} == {"table"}
    if MODES[paging].machine == 0x14C:
        assert [(m.start, m.size) for m in got] == [(0, 2**32)]
        return
    half = 1 << MODES[paging].shifts[-1] + 8
    assert [(m.start, m.size) for m in got] == [(0, half), (2**64 - half, half)]


def test_lost_table():
    """A table beyond the end of a cut file is as missing as one that was not captured."""
    memory = Memory()
    tables = Tables(memory, spare=0x20)
    tables.map(0x5000, 0xA000)
    image = memory.dump()[:-PAGE]
    assert short(kdmp.open(image).reader()) == [(0, MB2, PAGE, None, "table")]


def test_self_map():
    """The page tables appear as data at the self map, each level once more."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x5000, 0xA000)
    tables.map(0x7000_0000, 0xA000)
    tables.raw(0xFFFF_F680_0000_0000, 0x1000 | P | W, 4)
    reader = kdmp.open(memory.dump()).reader()
    base = 0xFFFF_F680_0000_0000

    def pte_of(va):
        return base + ((va & 0xFFFF_FFFF_FFFF) >> 12) * 8

    pages = {va & ~0xFFF for va in (pte_of(0x5000), pte_of(0x7000_0000))}
    for _ in range(3):
        pages |= {pte_of(va) & ~0xFFF for va in pages}
    got = {m.start + at for m in reader.mappings(base) for at in range(0, m.size, PAGE)}
    assert got == pages
    assert pte_of(pte_of(pte_of(pte_of(0)))) in pages


# ---- arrays, single frames ----


@pytest.mark.parametrize("paging", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_buffer_equals_iterator(paging, seed):
    reader = Sparse(paging, seed).open()
    for bounds in ((), (0x40_0000,), (0, 0x7FFF_FFFF)):
        data = reader.mappings_buffer(*bounds)
        assert type(data) is bytes
        got = []
        for start, size, page_size, pa, flags, state, unused in struct.iter_unpack("=QQQQIB3s", data):
            assert unused == bytes(3) and flags < 8
            name = STATES[state]
            given = pa if pa or name == "valid" else None
            got.append((start, size, page_size, given, name, *(bool(flags & bit) for bit in (1, 2, 4))))
        assert got == [tuple(m) for m in reader.mappings(*bounds)]


@pytest.mark.parametrize("paging", MODES)
def test_find_frame(paging):
    """Each page that has the frame, found by translating the pages of every range."""
    found = 0
    for seed, pfn in itertools.product(range(3), SHARED):
        reader = Sparse(paging, seed).open()
        want = set()
        for m in reader.mappings():
            if m.page_size == PAGE and m.pa is not None:
                for va in range(m.start, m.start + m.size, PAGE):
                    if entry_of(reader, va)[3] == pfn << 12:
                        want.add(va)
        got = list(reader.find_frame(pfn))
        assert {m.start + (pfn << 12) - m.pa for m in got if m.page_size == PAGE} == want
        assert [m.start for m in got] == sorted(m.start for m in got)
        for m in got:
            assert m.size == m.page_size and m.pa <= pfn << 12 < m.pa + m.size
            assert reader.translate(m.start + (pfn << 12) - m.pa).pa == pfn << 12
        found += len(got)
    assert found > 5


def test_find_frame_in_a_large_page():
    def fill(tables):
        tables.map(0x4000_0000, 0x8000_0000, MB2)
        tables.map(0x4020_0000, 0x8000_0000 + 5 * PAGE)

    reader = x64(fill)
    pfn = 0x80005
    got = list(reader.find_frame(pfn))
    assert [m.start + (pfn << 12) - m.pa for m in got] == [0x4000_5000, 0x4020_0000]
    assert next(reader.find_frame(pfn, 0x4020_0000)).start == 0x4020_0000
    assert [m.start for m in reader.find_frame(pfn, 0, 0x401F_FFFF)] == [0x4000_0000]
    assert list(reader.find_frame(0x80200)) == []
    assert list(reader.find_frame(2**63)) == []
    with pytest.raises(OverflowError):
        reader.find_frame(-1)
    with pytest.raises(TypeError):
        reader.find_frame()


def test_find_frame_0():
    reader = x64(lambda tables: tables.map(0x5000, 0))
    assert [m.start for m in reader.find_frame(0)] == [0x5000]


# ---- the C interface: stop and go on anywhere ----


def enumerate_in_c(c, space, room, first=0, last=2**64 - 1, tables=10**6, only_pfn=None):
    """(list of ranges, last status)"""
    cursor = c.ffi.new("struct kdmp_map_cursor *")
    cursor.next, cursor.last, cursor.tables_left = first, last, tables
    if only_pfn is not None:
        cursor.filter, cursor.only_pfn = 1, only_pfn
    out = c.ffi.new("struct kdmp_mapping[]", room)
    count, found = c.ffi.new("size_t *"), []
    while True:
        status = c.lib.kdmp_next_mappings(space, cursor, out, room, count)
        assert count[0] <= room
        for m in out[0 : count[0]]:
            found.append((m.start, m.size, m.page_size, m.paddr, m.flags, m.state))
        if count[0] == 0:
            assert cursor.done or status != c.lib.KDMP_OK
            return found, status


@pytest.mark.compiles
@pytest.mark.parametrize("paging", MODES)
def test_any_room_gives_the_same(core, paging):
    space = Sparse(paging, 1)
    image = dump(space.memory.pages, paging, space.root)
    reader = space.open()
    want = [(m.start, m.size, m.page_size, m.pa or 0, STATES.index(m.state)) for m in reader.mappings()]
    last = 2**32 - 1 if MODES[paging].machine == 0x14C else 2**64 - 1
    with Core(core, image) as c:
        cspace = c.space(f"KDMP_PAGING_{paging.upper()}", space.root)
        cspace.mask_known = 1
        whole, status = enumerate_in_c(c, cspace, 256, last=last)
        assert status == c.lib.KDMP_OK
        assert [(*m[:4], m[5]) for m in whole] == want
        for room in (1, 2, 3, 7, len(whole), len(whole) + 1):
            assert enumerate_in_c(c, cspace, room, last=last) == (whole, c.lib.KDMP_OK)
        middle = whole[len(whole) // 2][0]
        for room in (1, 3):
            upper, _ = enumerate_in_c(c, cspace, room, middle, last)
            assert upper == whole[len(whole) // 2 :]
        frames = enumerate_in_c(c, cspace, 64, last=last, only_pfn=SHARED[0])
        assert frames == enumerate_in_c(c, cspace, 1, last=last, only_pfn=SHARED[0])
        assert frames[0]


@pytest.mark.compiles
def test_limit_of_tables(core):
    """What was found before the limit is given; then KDMP_E_LIMIT and nothing more."""
    memory = Memory()
    tables = Tables(memory)
    for k in range(6):
        tables.map(k << 30, 0x20000)
    with Core(core, memory.dump()) as c:
        space = c.space("KDMP_PAGING_X64")
        whole, _ = enumerate_in_c(c, space, 16)
        assert len(whole) == 6
        for limit in range(14):
            for room in (16, 2):
                found, status = enumerate_in_c(c, space, room, tables=limit)
                assert found == whole[: len(found)]
                if room == 16:  # the root, one level-3 table, then two tables for each page
                    assert len(found) == max(0, (limit - 2) // 2)
                    assert (status == c.lib.KDMP_OK) == (limit >= 14)
        count = c.ffi.new("size_t *", 7)
        cursor = c.ffi.new("struct kdmp_map_cursor *")
        out = c.ffi.new("struct kdmp_mapping *")
        assert c.lib.kdmp_next_mappings(space, cursor, out, 0, count) == c.lib.KDMP_E_ARGUMENT
        assert count[0] == 0
        space.paging = c.lib.KDMP_PAGING_PHYSICAL
        assert c.lib.kdmp_next_mappings(space, cursor, out, 1, count) == c.lib.KDMP_E_UNSUPPORTED


@pytest.mark.compiles
def test_a_source_that_gives_little_at_a_time(core):
    """A source may describe fewer bytes than asked for; the tables are there all the same."""
    ffi, lib = core.ffi, core.lib
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x5000, 0xA000)
    tables.map(0x1FF000, 0xA000)
    with Core(core, memory.dump()) as c:
        below = lib.kdmp_get_source(c.dump)

        @ffi.def_extern(name="test_locate")
        def locate(source, paddr, want, out):
            return below.locate(below, paddr, min(want, 0x100 - paddr % 0x100), out)

        space = c.space("KDMP_PAGING_X64")
        whole, _ = enumerate_in_c(c, space, 16)
        space.source = ffi.new("struct kdmp_source *", {"locate": lib.test_locate})
        source = space.source  # kept alive
        assert enumerate_in_c(c, space, 16)[0] == whole
        assert len(whole) == 2 and source


# ---- other ways to open, hostile tables ----


def test_unmapped_files(tmp_path):
    space = Sparse("x64", 2)
    path = tmp_path / "x64.dmp"
    path.write_bytes(dump(space.memory.pages, "x64", space.root))
    want = [tuple(m) for m in space.open().mappings()]
    for options in ({"io": "read"}, {"io": "map"}):
        with kdmp.open(path, **options) as opened:
            reader = opened.reader(paging="x64", invalid_pte_mask=0)
            assert [tuple(m) for m in reader.mappings()] == want
    with kdmp.open_raw(flat(space.memory), arch="x64", dtb=space.root) as raw:
        assert [tuple(m) for m in raw.reader(paging="x64", invalid_pte_mask=0).mappings()] == want


def test_a_file_that_cannot_be_read_is_an_error():
    """A page table that a failing disk withholds is not "not in the dump"."""

    class Failing(io.BytesIO):
        broken = False

        def read(self, *args):
            if self.broken:
                raise OSError(5, "the disk is gone")
            return super().read(*args)

    memory = Memory()
    Tables(memory).map(0x5000, 0xA000)
    source = Failing(memory.dump())
    with kdmp.open(source) as opened:
        reader = opened.reader()
        assert len(list(reader.mappings())) == 1
        source.broken = True
        with pytest.raises(OSError):
            list(reader.mappings())
        with pytest.raises(OSError):
            reader.mappings_buffer()


def test_closing_ends_it():
    reader = Sparse("x64", 0).open()
    iterator = reader.mappings()
    next(iterator)
    reader.dump.close()
    with pytest.raises(ValueError):
        for _ in range(10**6):
            next(iterator)
    for method in (reader.mappings, reader.mappings_buffer):
        with pytest.raises(ValueError):
            method()


def test_lazy():
    """The first range of a space that has no end comes at once."""
    memory = Memory()
    for index in range(512):
        memory.put_u64(0x1000 + 8 * index, 0x1000 | P | (W if index % 2 else U))
    reader = kdmp.open(memory.dump()).reader()
    before = time.process_time()
    first = list(itertools.islice(reader.mappings(), 3))
    assert len(first) == 3
    assert time.process_time() - before < 0.5


HOSTILE = {
    "every entry is the root": lambda paging, index: 0x67,
    "every other entry": lambda paging, index: 0x67 if index % 2 else 0,
    "rights change with every page": lambda paging, index: 0x67 if index % 2 else 0x65,
}


@pytest.mark.parametrize("paging", ["x64", "la57", "arm64", "x86"])
@pytest.mark.parametrize("name", HOSTILE)
def test_tables_that_point_to_themselves(name, paging, instrumented):
    """A bounded number of tables, then KdmpError: all 2^36 pages would take for ever."""
    memory = Memory()
    entry = MODES[paging].entry
    page = memory.page(1)
    for index in range(PAGE // entry):
        flags = HOSTILE[name](paging, index)
        if paging == "arm64" and flags:
            flags = 3 | (1 << 7 if flags == 0x65 else 0) | (1 << 62 if flags == 0x65 else 0)
        page[index * entry : (index + 1) * entry] = (flags and flags | 0x1000).to_bytes(entry, "little")
    reader = kdmp.open(dump(memory.pages, paging, 0x1000)).reader(paging=paging)
    assert next(reader.find_frame(1)).pa == 0x1000
    for walk in (
        reader.mappings_buffer,
        lambda: exhaust(reader.mappings()),
        lambda: exhaust(reader.find_frame(9)),
    ):
        before = time.process_time()
        if paging == "x86":  # no more than 1024 tables, whatever they say
            walk()
        else:
            with pytest.raises(kdmp.KdmpError, match="without an end"):
                walk()
        spent = time.process_time() - before
        assert instrumented or spent < 1.5, f"{spent:.1f} s"


def exhaust(iterator):
    for _ in iterator:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX limits")
def test_hostile_tables_take_little_memory(instrumented):
    """A dump of one page must not make an array of hundreds of megabytes."""
    if instrumented:
        pytest.skip("a sanitizer needs all address space")
    code = """
        import resource, sys
        import kdmp
        reader = kdmp.open(sys.argv[1]).reader()
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), -1))
        try:
            reader.mappings_buffer()
        except kdmp.KdmpError:
            print("refused")
    """
    memory = Memory()
    for index in range(1, 512, 2):
        memory.put_u64(0x1000 + 8 * index, 0x1067)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hostile.dmp"
        path.write_bytes(memory.dump())
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), path], capture_output=True, text=True, timeout=60
        )
    assert done.stdout == "refused\n", done.stderr


def test_many_small_ranges_are_no_endless_ones():
    """Going on after each batch of ranges does not use up the limit."""
    memory = Memory()
    tables = Tables(memory, spare=0x10)
    every_other = b"".join(struct.pack("<QQ", 0x1067, 0) for _ in range(256))
    count = 6000
    for directory in range(count):
        where = tables.entry(directory * MB2, 1) >> 12
        memory.page(where)[:] = every_other
    reader = kdmp.open(memory.dump()).reader()
    assert sum(1 for _ in reader.mappings()) == count * 256
    assert len(reader.mappings_buffer()) == 40 * count * 256


def test_an_iterator_is_busy_while_it_reads():
    memory = Memory()
    memory.fill(0x20)
    Tables(memory).map(0x5000, 0x20000)
    source = Meddling(memory.dump())
    with kdmp.open(source) as opened:
        ranges = opened.reader().mappings()
        source.calls = (lambda: next(ranges),)
        assert [(one.start, one.size) for one in ranges] == [(0x5000, PAGE)]
        source.calls = ()
    assert source.refused
