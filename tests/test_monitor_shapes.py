"""The page-table monitor on large pages, odd tables and every kind of paging.

SPDX-License-Identifier: MIT
"""

import pytest
from dumpbuilder import PAT_LARGE, TRANSITION, P, W
from monitorworld import FLAGS, LEAF, PAGE_A, PAGE_B, PS, ROOT, VA, World, copy_table, one_page, opened


@pytest.fixture
def world():
    return one_page()


# ---- large pages ----

LARGE_A, LARGE_B = 0x60_0000, 0x80_0000
HUGE_A, HUGE_B = 0x4000_0000, 0x8000_0000


def large(world, pa=LARGE_A, level=2, extra=0):
    world.tables.raw(VA, pa | PS | LEAF | extra, level)
    world.open()
    state = world.watch(VA + 0x678)
    offset = VA + 0x678 & (1 << 12 + 9 * (level - 1)) - 1
    return state, offset


def test_large(world):
    """5d large pages: initial; P10."""
    state, offset = large(world)
    assert state == (True, LARGE_A + offset, "valid", 2, 0x20_0000)
    assert world.figures() == (3, 3, 1)


def test_large_events(world):
    """5d large pages: PFN change; out; in."""
    _, offset = large(world)
    pa = world.write(VA, LARGE_B | PS | LEAF, 2)
    out, back = world.monitor.process()
    assert (out.pa, out.level, out.size) == (LARGE_A + offset, 2, 0x20_0000)
    assert (back.pa, back.level, back.size) == (LARGE_B + offset, 2, 0x20_0000)
    world.store(pa, 0)
    assert world.events() == [("out", VA + 0x678, LARGE_B + offset, 2)]
    world.store(pa, LARGE_A | PS | LEAF)
    assert world.events() == [("in", VA + 0x678, LARGE_A + offset, 2)]


def test_huge(world):
    """5d 1 GiB at PDPT; 1 GiB PFN change; large to large at PDPT."""
    state, offset = large(world, HUGE_A, 3)
    assert state == (True, HUGE_A + offset, "valid", 3, 1 << 30)
    assert world.figures() == (2, 2, 1)
    world.write(VA, HUGE_B | PS | LEAF, 3)
    out, back = world.monitor.process()
    assert (out.pa, back.pa, back.size) == (HUGE_A + offset, HUGE_B + offset, 1 << 30)


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("same", [True, False])
def test_regular_to_large_and_back(world, level, same):
    """5d regular to large and large to regular, same PFN and other PFN; rule 4: leaf-ness."""
    align = (1 << 12 + 9 * (level - 1)) - 1
    opened(world)
    pa = world.where(VA, level)
    before = world.load(pa)
    # A frame that is a table, and the start of a large page, too.
    if same:
        world.overlay.create(0x4000_0000 >> 12)
        table = world.load(pa) & ~0xFFF
        world.phys.write(0x4000_0000, world.phys.read(table, 0x1000))
        world.store(pa, 0x4000_0000 | FLAGS)
        world.events()
        before = world.load(pa)
    page = 0x4000_0000 if same else 0x8000_0000
    world.store(pa, page | PS | LEAF)
    assert world.events() == [("out", VA, PAGE_A, 1), ("in", VA, page | VA & align, level)]
    assert world.figures() == (5 - level, 5 - level, 1)
    world.store(pa, before)
    assert world.events() == [("out", VA, page | VA & align, level), ("in", VA, PAGE_A, 1)]
    assert world.figures() == (4, 4, 1)


@pytest.mark.parametrize("level", [2, 3])
def test_pat_of_large_page(world, level):
    """5d ours: PAT set in a large leaf; D12, P10: bit 12 and the reserved bits are no address."""
    base = LARGE_A if level == 2 else HUGE_A
    reserved = 0xFE000 if level == 2 else 0x1FE000
    state, offset = large(world, base, level, PAT_LARGE | reserved)
    assert state.pa == base + offset == world.reader().translate(VA + 0x678).pa
    world.write(VA, base | PS | LEAF, level)
    assert world.events() == []


def test_pat_of_small_page(world):
    """D12: bit 7 of a page table's entry is PAT, and bit 12 is address."""
    world.tables.raw(VA, PAGE_A | 0x1000 | PS | LEAF)
    world.open()
    assert world.watch(VA) == (True, PAGE_A | 0x1000, "valid", 1, 0x1000)


@pytest.mark.parametrize("paging, level", [("x64", 4), ("la57", 4), ("la57", 5)])
def test_malformed(paging, level):
    """5d ours: PS in PML4 (and PML5); P9: malformed, not a page."""
    world = World(paging)
    world.map(VA, PAGE_A)
    entry = world.tables.load(world.tables.entry(VA, level))
    world.tables.raw(VA, entry | PS, level)
    world.open()
    assert world.watch(VA) == (False, None, "bad", level, None)
    pa = world.write(VA, entry, level)
    assert world.events() == [("in", VA, PAGE_A, 1)]
    world.store(pa, entry | PS)
    assert world.events() == [("out", VA, PAGE_A, 1)]


# ---- odd tables, other paging ----

SELF = 0x1ED


def self_map(slots):
    """The address whose walk goes through the root at these indices, the last three by self map."""
    va = 0
    for slot in slots:
        va = va << 9 | slot
    return 0xFFFF << 48 | va << 12


def test_self_map(world):
    """5d ours: self-map VA; P8: one entry at several levels for one VA."""
    world.tables.store(ROOT + 8 * SELF, ROOT | LEAF)
    world.open()
    root_page = self_map([SELF] * 4)
    assert world.watch(root_page).pa == ROOT
    assert world.figures() == (1, 1, 1)  # one entry at all four levels
    index = VA >> 39
    pdpt_page = self_map([SELF, SELF, SELF, index])
    pdpt = world.load(ROOT + 8 * index) & ~0xFFF
    assert world.watch(pdpt_page).pa == pdpt
    assert world.figures() == (1, 2, 2)
    world.store(ROOT + 8 * index, 0x300 << 12 | FLAGS)
    assert world.events() == [("out", pdpt_page, pdpt, 1), ("in", pdpt_page, 0x300 << 12, 1)]
    # The self-map entry leads elsewhere: both walk through another page from then on.
    world.phys.write_u64(0x301 << 12 | 8 * SELF, 0x302 << 12 | FLAGS)
    world.phys.write_u64(0x302 << 12 | 8 * SELF, 0x303 << 12 | FLAGS)
    world.phys.write_u64(0x303 << 12 | 8 * SELF, 0x304 << 12 | FLAGS)
    world.store(ROOT + 8 * SELF, 0x301 << 12 | FLAGS)
    assert world.events() == [
        ("out", root_page, ROOT, 1), ("in", root_page, 0x304 << 12, 1), ("out", pdpt_page, 0x300 << 12, 1),
    ]  # fmt: skip
    assert world.figures() == (4, 5, 1)
    world.store(ROOT + 8 * SELF, ROOT | LEAF)
    assert world.events() == [
        ("out", root_page, 0x304 << 12, 1), ("in", root_page, ROOT, 1), ("in", pdpt_page, 0x300 << 12, 1),
    ]  # fmt: skip
    assert world.figures() == (1, 2, 2)
    world.unwatch(root_page)
    world.unwatch(pdpt_page)
    assert world.figures() == (0, 0, 0)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_missing_table(world, level):
    """5d ours: table frame missing; P11: a state, not an exception, and its arrival is seen."""
    root = 0x500_0000 if level == 4 else ROOT
    if level < 4:
        world.tables.raw(VA, 0x500_0000 | FLAGS, level + 1)
    world.open()
    assert world.watch(VA, root) == (False, None, "unknown", level, None)
    assert world.figures() == (5 - level, 5 - level, 0)
    world.overlay.create(0x5000)
    assert world.events() == []
    state = world.monitor.status(VA, root)
    assert state == (False, None, "zero", level, None)
    pa = world.where(VA, level, root)
    if level > 1:
        world.phys.write_u64(pa, 0x300 << 12 | FLAGS)
    for lower in range(level - 1, 1, -1):
        world.phys.write_u64(world.where(VA, lower, root), 0x300 + lower << 12 | FLAGS)
    world.phys.write_u64(world.where(VA, 1, root), PAGE_B | LEAF)
    assert world.events() == [("in", VA, PAGE_B, 1)]
    world.overlay.revert_frame(0x5000)
    assert world.events() == [("out", VA, PAGE_B, 1)]
    assert world.monitor.status(VA, root).state == "unknown"
    assert world.unwatch(VA, root)
    assert world.figures() == (0, 0, 0)


def test_transition(world):
    """5d ours: transition leaf; gap (iii): not present, but its state is told."""
    frame = PAGE_A >> 12
    world.tables.raw(VA, frame << 12 | TRANSITION | 4 << 5)
    world.open()
    assert world.watch(VA) == (False, None, "transition", 1, None)
    assert world.figures() == (4, 4, 0)
    world.write(VA, PAGE_A | LEAF)
    assert world.events() == [("in", VA, PAGE_A, 1)]
    world.write(VA, frame << 12 | TRANSITION | 4 << 5)
    assert world.events() == [("out", VA, PAGE_A, 1)]


def test_five_levels():
    """Gap (v), D11: LA57, with an address beyond 48 bits."""
    world, va = World("la57"), 0x0012_3456_789A_B000
    world.map(va, PAGE_A)
    world.memory.page(0x300)
    world.open()
    assert world.watch(va).pa == PAGE_A
    assert world.figures() == (5, 5, 1)
    world.write(va, copy_table(world, va, 5, 0x300), 5)
    assert world.events() == [("out", va, PAGE_A, 1), ("in", va, PAGE_A, 1)]
    world.write(va, 0, 5)
    assert world.events() == [("out", va, PAGE_A, 1)]
    assert world.figures() == (1, 1, 0)


def test_pae():
    """PAE: four root entries without rights, behind a root that is aligned to 32 bytes."""
    world, va = World("pae", root=0x1060), 0x8765_4000
    world.map(va, PAGE_A)
    world.map(0xC000_0000, 0x60_0000, level=2)
    world.memory.page(0x300)
    world.open()
    assert world.watch(va).pa == PAGE_A
    assert world.watch(0xC000_1234) == (True, 0x60_1234, "valid", 2, 0x20_0000)
    assert world.figures() == (1 + 2 + 1, 2 + 2 + 1, 2)
    entry = copy_table(world, va, 3, 0x300) & ~0xFFF | P
    pa = world.write(va, entry, 3)
    assert pa == 0x1060 + 8 * 2
    assert world.events() == [("out", va, PAGE_A, 1), ("in", va, PAGE_A, 1)]
    world.store(pa, entry | W)  # reserved in a PDPTE
    assert world.events() == [("out", va, PAGE_A, 1)]
    assert world.monitor.status(va, 0x1060).state == "bad"
    world.store(pa, entry | PS)
    assert world.monitor.process() == [] and world.monitor.status(va, 0x1060).state == "bad"


def test_x86():
    """Two levels of 4-byte entries, two to a unit that the overlay notes; PSE-36."""
    world, va = World("x86"), 0x8765_4000
    world.map(va, PAGE_A)
    world.map(va + 0x1000, PAGE_B)
    world.open()
    for one in (va, va + 0x1000):
        world.watch(one)
    assert world.figures() == (2, 3, 2)
    world.write(va, 0)
    assert world.events() == [("out", va, PAGE_A, 1)]
    world.write(va + 0x1000, PAGE_A | LEAF)
    assert world.events() == [("out", va + 0x1000, PAGE_B, 1), ("in", va + 0x1000, PAGE_A, 1)]
    world.write(va, 0x0080_0000 | 3 << 13 | PS | LEAF, 2)
    assert world.monitor.process()[2].pa == 0x3_0080_0000 | (va + 0x1000) & 0x3F_FFFF
    assert world.monitor.status(va, ROOT) == (True, 0x3_0080_0000 | va & 0x3F_FFFF, "valid", 2, 0x40_0000)


def test_arm64():
    """ARM64, where bit 1 tells a table from a block."""
    world, va = World("arm64"), 0xFFFF_F800_0012_3000
    world.map(va, PAGE_A)
    world.open()
    assert world.watch(va).pa == PAGE_A
    world.write(va, 0x60_0000 | 0x701, 2)
    assert world.events() == [("out", va, PAGE_A, 1), ("in", va, 0x60_0000 | va & 0x1F_FFFF, 2)]
    world.write(va, 0x60_0000 | 0x701, 4)  # no block there
    assert [event[0] for event in world.events()] == ["out"]
    assert world.monitor.status(va, ROOT).state == "bad"
