"""The page-table monitor: every case of the conformance list, and ours.

Ids: P1-P25, rules 1-9 of `process`, gaps (i)-(v), D11 and D12.

SPDX-License-Identifier: MIT
"""

import dataclasses
import gc

import pytest
from archtables import MODES
from dumpbuilder import NX, PAT_LARGE, TRANSITION, A, D, G, P, U, W
from monitorworld import ROOT, World
from shareddata import MACHINES, machine_dump

import kdmp
from kdmp import monitor as m
from kdmp._kdmp import OverlayBase
from kdmp.monitor import PageTableMonitor

FLAGS = P | W | U
LEAF = FLAGS | A | D
PS = 0x80
VA, PAGE_A, PAGE_B = 0x7FF6_1234_5000, 0x40_0000, 0x41_0000
OTHER_PML4 = 0x0000_1234_5678_9000
SAME_PT, SAME_PD, SAME_PDPT = VA + 0x1000, VA + 0x20_0000, VA + 0x4000_0000


@pytest.fixture
def world():
    """One mapped page at VA, frames for tables to come, and a second root."""
    world = World()
    world.map(VA, PAGE_A)
    for pfn in range(0x300, 0x310):
        world.memory.page(pfn)
    return world


def opened(world, *more):
    """Open it with VA and these addresses monitored."""
    for k, va in enumerate(more):
        world.map(va, PAGE_B + 0x1000 * k)
    world.open()
    for va in (VA, *more):
        assert world.watch(va).paged_in
    return world


def copy_table(world, va, level, to, root=None):
    """Copy the table that the entry of `va` at `level` leads to, to a frame; return an entry for it."""
    table = world.load(world.where(va, level, root)) & ~0xFFF
    world.phys.write(to << 12, world.phys.read(table, 0x1000))
    return to << 12 | FLAGS


# ---- lifecycle ----


def test_backed_address(world):
    """5d already-backed VA; P15: the state is returned, and there is no event for it."""
    opened(world)
    world.monitor.unmonitor_all()
    state = world.watch(VA + 0x123, tag="code")
    assert state == (True, PAGE_A + 0x123, "valid", 1, 0x1000)  # P4: as given, with the offset
    assert world.events() == []
    assert world.figures() == (4, 4, 1)
    assert world.monitor.status(VA + 0x123, ROOT) == state
    assert world.monitor.status(VA, ROOT) is None


def test_monitor_and_unmonitor(world):
    """5d monitor/unmonitor, table access restored; P16, P23."""
    opened(world)
    assert world.unwatch(VA)
    assert world.figures() == (0, 0, 0)
    world.write(VA, 0)
    assert world.events() == []
    assert world.overlay.take_dirty() == []  # no frame is watched any more


def test_shared_tables(world):
    """5d several VAs sharing tables; P6, P13, P23."""
    opened(world, SAME_PT, SAME_PD, SAME_PDPT, OTHER_PML4)
    assert world.figures() == (1 + 2 + 3 + 4, 2 + 3 + 4 + 5, 5)
    world.unwatch(VA)
    assert world.figures() == (10, 13, 4)
    world.unwatch(SAME_PT)
    assert world.figures() == (9, 11, 3)
    world.write(SAME_PD, 0)
    assert world.events() == [("out", SAME_PD, PAGE_B + 0x1000, 1)]


def test_unmonitor_all(world):
    """5d unmonitor_all; P18: marks go, too."""
    opened(world, SAME_PT)
    pa = world.write(VA, 0)
    assert not world.monitor.mark_dirty(pa)  # the overlay did
    world.monitor.unmonitor_all()
    assert world.figures() == (0, 0, 0) and len(world.monitor) == 0
    assert world.events() == [] and world.overlay.take_dirty() == []
    assert world.monitor.state()["marked"] == {}


def test_monitor_again(world):
    """5d re-monitor same VA; P15 as of HEAD: a reference more."""
    opened(world)
    assert world.watch(VA, tag="again").pa == PAGE_A
    assert world.figures() == (4, 4, 1) and len(world.monitor) == 1
    assert world.monitor.state()["addresses"][0]["references"] == 2
    assert world.unwatch(VA)
    assert world.figures() == (4, 4, 1)
    assert world.unwatch(VA)
    assert world.figures() == (0, 0, 0)


def test_by_force(world):
    """5d force ignores references; P17."""
    opened(world)
    world.watch(VA)
    assert world.monitor.unmonitor_by_force(VA, ROOT)
    assert world.figures() == (0, 0, 0)
    assert not world.monitor.unmonitor_by_force(VA, ROOT)


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_not_present(world, level):
    """5d not present at every level (at the root: 1 table, 1 entry, 0 paged in); P15."""
    world.tables.raw(VA, 0, level)
    world.open()
    assert world.watch(VA) == (False, None, "zero", level, None)
    assert world.figures() == (5 - level, 5 - level, 0)
    assert world.unwatch(VA)  # 5d unmonitor with absent intermediate
    assert world.figures() == (0, 0, 0)


def test_unmonitor_unknown(world):
    """5d unmonitor unknown = no-op; P16."""
    opened(world)
    assert not world.unwatch(VA + 1)
    assert not world.unwatch(VA, 0x9000)
    assert world.figures() == (4, 4, 1)


def test_views(world):
    """5d unmonitor_view isolates; P4, P5, P19: an entry is one of a view."""
    opened(world)
    other = OverlayBase(world.dump)
    writer = kdmp.Reader(world.dump, paging="physical", overlay=other)
    assert world.watch(VA, view=other).pa == PAGE_A
    assert world.watch(VA, view=0).pa == PAGE_A  # the dump itself
    assert world.figures() == (12, 12, 3)
    pa = world.where(VA)
    writer.write_u64(pa, PAGE_B | LEAF)
    out, back = world.monitor.process()
    assert (out.pa, back.pa) == (PAGE_A, PAGE_B) and out.view == back.view == 2
    world.store(pa, 0)
    writer.write_u64(pa, 0)
    assert world.monitor.unmonitor_view(other) == 1
    assert world.figures() == (8, 8, 2)
    (event,) = world.monitor.process()
    assert (event.view, event.pa) == (1, PAGE_A)
    assert world.monitor.unmonitor_view(0) == 1 and world.monitor.unmonitor_view(other) == 0
    with pytest.raises(ValueError, match="no view"):
        world.watch(VA, view=77)
    assert not world.unwatch(VA, view=77)


def test_roots(world):
    """5d roots are independent; P4. PCID and flag bits are no part of a root."""
    second = world.another(0x8000)
    world.map(VA, PAGE_B, tables=second)
    opened(world)
    assert world.watch(VA, 0x8000).pa == PAGE_B
    assert world.figures() == (8, 8, 2)
    world.write(VA, 0, root=0x8000)
    (event,) = world.monitor.process()
    assert (event.root, event.pa) == (0x8000, PAGE_B)
    assert world.unwatch(VA, 0x8000 | 0x7)
    assert world.figures() == (4, 4, 1)


def test_new(world):
    """P12: a new monitor is empty."""
    world.open()
    assert world.figures() == (0, 0, 0) and len(world.monitor) == 0
    assert world.monitor.state() == {"tables": 0, "entries": 0, "paged_in": 0, "marked": {}, "addresses": []}
    assert world.events() == [] and world.monitor.status(VA, ROOT) is None
    assert world.overlay.take_dirty() == []


def test_what_is_remembered(world):
    """P7: what an address was given, whether it has a page and which, its entries from the root down."""
    opened(world)
    tag = ("a", 1)
    world.watch(OTHER_PML4 + 5, tag=tag)
    there, absent = world.monitor.state()["addresses"]
    assert (there["va"], there["root"], there["paging"], there["tag"]) == (VA, ROOT, "x64", None)
    assert (there["paged_in"], there["pa"], there["references"]) == (True, PAGE_A, 1)
    places = [(level, world.where(VA, level)) for level in (4, 3, 2, 1)]
    assert [(entry["level"], entry["pa"]) for entry in there["chain"]] == places
    assert [entry["value"] for entry in there["chain"]] == [world.load(pa) for _, pa in places]
    assert (absent["va"], absent["tag"]) == (OTHER_PML4 + 5, tag)
    assert (absent["paged_in"], absent["pa"]) == (False, None)
    assert absent["chain"] == [{"level": 4, "pa": world.where(OTHER_PML4, 4), "value": 0}]


@pytest.mark.parametrize("paging, levels", [("x64", 4), ("la57", 5), ("pae", 3), ("x86", 2)])
def test_paging_modes(paging, levels):
    """P2: the same monitor for every mode; only how a mode walks and reads its entries differs."""
    world, va = World(paging), 0x1234_5000
    world.map(va, PAGE_A)
    world.open()
    assert world.watch(va).pa == PAGE_A
    assert world.figures() == (levels, levels, 1)
    (facts,) = world.monitor.state()["addresses"]
    assert facts["paging"] == paging
    assert [entry["level"] for entry in facts["chain"]] == list(range(levels, 0, -1))
    world.write(va, PAGE_B | LEAF)
    assert world.events() == [("out", va, PAGE_A, 1), ("in", va, PAGE_B, 1)]
    world.write(va, 0, levels)
    assert world.events() == [("out", va, PAGE_B, 1)] and world.figures() == (1, 1, 0)


def test_defaults(world):
    """Root and paging mode are the dump's; an AccessContext may say the root."""
    opened(world)
    assert world.monitor.monitor(VA).pa == PAGE_A
    assert world.monitor.monitor(kdmp.virt(VA, ROOT)).pa == PAGE_A
    assert world.monitor.state()["addresses"][0]["references"] == 3
    with pytest.raises(ValueError, match="physical"):
        world.monitor.monitor(kdmp.phys(0x1000))


def test_views_of_a_dump(world):
    """P4, C62: views by number and by name, as in `Dump.views`."""
    opened(world)
    named, other = world.dump.overlay("patched"), world.dump.overlay()
    monitor = PageTableMonitor(other.phys)  # its overlay is meant
    named.phys.write_u64(world.where(VA), PAGE_B | LEAF)
    assert monitor.monitor(VA, view="patched").pa == PAGE_B
    assert monitor.monitor(VA, view=0).pa == monitor.monitor(VA).pa == PAGE_A
    assert monitor.monitor(VA + 1, view=world.dump).pa == PAGE_A + 1
    other.write_u64(world.where(VA), 0)
    named.write_u64(world.where(VA), 0)
    assert [event.view for event in monitor.process()] == [named.view, other.view]
    assert monitor.status(VA, view=named.view) == monitor.status(VA, view=named) is not None
    assert monitor.unmonitor_view("patched") == 1 and monitor.unmonitor_view(world.dump) == 2
    with pytest.raises(ValueError, match="nobody"):
        monitor.monitor(VA, view="nobody")
    assert monitor.unmonitor_view(world.overlay) == 0
    overlays = [copy.overlay() for copy in [kdmp.Dump(world.image())] for _ in range(2)]
    with pytest.raises(ValueError, match="view 2 is another"):
        monitor.monitor(VA, view=overlays[1])


@pytest.mark.parametrize(
    "paging, va",
    [
        ("x64", 1 << 47), ("x64", 0x7FFF << 48), ("la57", 1 << 56), ("la57", 1 << 63),
        ("pae", 1 << 32), ("x86", 1 << 63), ("arm64", 1 << 47),
    ],
)  # fmt: skip
def test_no_address(paging, va):
    """D12: addresses are checked; nothing stays behind."""
    world = World(paging).open()
    with pytest.raises(kdmp.NonCanonicalError):
        world.watch(va)
    with pytest.raises(OverflowError):
        world.watch(1 << 64)
    with pytest.raises(OverflowError):
        world.watch(-1)
    assert world.figures() == (0, 0, 0)


@pytest.mark.parametrize("va", [0xFFFF_8000_0000_0000, (1 << 47) - 1, 1 << 48, (1 << 64) - 1])
def test_highest_and_lowest(va):
    """The last addresses of both halves are addresses."""
    world = World("la57" if va == 1 << 48 else "x64").open()
    assert world.watch(va).state == "zero"


# ---- another frame ----


def test_pfn_change_pt(world):
    """5d PFN change at PT; rules 4-6, P22: the old address out, the new one in."""
    opened(world)
    world.write(VA, PAGE_B | LEAF)
    assert world.monitor.process() == [
        m.PageOut(1, VA, ROOT, PAGE_A, None, 1, 0x1000),
        m.PageIn(1, VA, ROOT, PAGE_B, None, 1, 0x1000),
    ]
    assert world.monitor.status(VA, ROOT).pa == PAGE_B
    assert world.events() == []


@pytest.mark.parametrize("level", [2, 3, 4])
def test_pfn_change_above(world, level):
    """5d PFN change at PD, PDPT and PML4; rules 5 and 6: also if the page is the same in the end."""
    opened(world)
    entry = copy_table(world, VA, level, 0x300)
    world.write(VA, entry, level)
    assert world.events() == [("out", VA, PAGE_A, 1), ("in", VA, PAGE_A, 1)]
    assert world.figures() == (4, 4, 1)
    world.write(VA, 0)  # the entry in the new tables is the one that counts
    assert world.events() == [("out", VA, PAGE_A, 1)]


def test_pfn_change_to_nothing(world):
    """Rule 6: a set-up that ends in no page is no event."""
    opened(world)
    world.write(VA, 0x300 << 12 | FLAGS, 3)
    assert world.events() == [("out", VA, PAGE_A, 1)]
    assert world.figures() == (3, 3, 0)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [W, U, A, D, G, NX, 0x200, 0x7FF << 52], ids=hex)
def test_permission_change(world, level, bits):
    """5d permission change = no events; rule 7."""
    opened(world)
    pa = world.where(VA, level)
    world.store(pa, world.load(pa) ^ bits)
    assert world.monitor.state()["marked"] == {0: 1}
    assert world.events() == []
    assert world.figures() == (4, 4, 1)
    assert world.monitor.state()["addresses"][0]["chain"][4 - level]["value"] == world.load(pa)


# ---- page out, page in ----


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_page_out(world, level):
    """5d page-out at PT, PD, PDPT, PML4; rule 5: what is below is forgotten."""
    opened(world)
    world.write(VA, 0, level)
    assert world.events() == [("out", VA, PAGE_A, 1)]
    assert world.figures() == (5 - level, 5 - level, 0)
    assert world.events() == []


@pytest.mark.parametrize("level, gone", [(1, 1), (2, 2), (3, 3), (4, 4)])
def test_page_out_shared(world, level, gone):
    """5d page-out at a shared level (all VAs); rule 9: in the order they were registered."""
    order = [SAME_PD, SAME_PT, SAME_PDPT]
    world.map(OTHER_PML4, PAGE_B)
    for k, va in enumerate(order):
        world.map(va, PAGE_B + 0x1000 * k)
    world.open()
    for va in (*order, VA):
        world.watch(va)
    world.write(VA, 0, level)
    shares = {SAME_PT: 2, SAME_PD: 3, SAME_PDPT: 4, VA: 1}
    expected = [va for va in (*order, VA) if shares[va] <= level]
    assert [event[:2] for event in world.events()] == [("out", va) for va in expected]
    assert len(expected) == gone


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_page_in(world, level):
    """5d page-in at PT, PD, PDPT, PML4; rule 6."""
    entry = world.tables.load(world.tables.entry(VA, level))
    world.tables.raw(VA, 0, level)
    world.open()
    assert not world.watch(VA + 8, tag=("any", 1)).paged_in
    world.write(VA, entry, level)
    (event,) = world.monitor.process()
    assert event == m.PageIn(1, VA + 8, ROOT, PAGE_A + 8, ("any", 1), 1, 0x1000)  # P3: with the tag
    assert world.figures() == (4, 4, 1)


def test_round_trip(world):
    """5d round trip."""
    opened(world)
    for _ in range(3):
        pa = world.where(VA)
        value = world.load(pa)
        world.store(pa, 0)
        assert world.events() == [("out", VA, PAGE_A, 1)]
        world.store(pa, value)
        assert world.events() == [("in", VA, PAGE_A, 1)]
    world.store(pa, 0)
    world.store(pa, value)  # between two calls: nothing happened
    assert world.events() == []


def test_directory_round_trip(world):
    """5d PD out then in rebuilds the subtree; P24."""
    opened(world, SAME_PT)
    pa = world.where(VA, 2)
    value, entry = world.load(pa), world.where(VA)
    world.store(pa, 0)
    assert [one[0] for one in world.events()] == ["out", "out"]
    assert world.figures() == (3, 3, 0)
    world.store(entry, PAGE_B + 0x7000 | LEAF)  # nobody looks
    assert world.events() == []
    world.store(pa, value)
    assert world.events() == [("in", VA, PAGE_B + 0x7000, 1), ("in", SAME_PT, PAGE_B, 1)]
    assert world.figures() == (4, 5, 2)
    world.store(entry, 0)
    assert world.events() == [("out", VA, PAGE_B + 0x7000, 1)]


# ---- what is dirty ----


def test_hierarchical_order(world):
    """5d hierarchical order; rules 1 and 2: the highest level first, marks below what went away are moot."""
    opened(world, OTHER_PML4)
    world.write(OTHER_PML4, PAGE_B + 0x5000 | LEAF)
    world.write(VA, PAGE_B | LEAF)
    world.write(VA, 0, 4)
    assert world.events() == [
        ("out", VA, PAGE_A, 1), ("out", OTHER_PML4, PAGE_B, 1), ("in", OTHER_PML4, PAGE_B + 0x5000, 1),
    ]  # fmt: skip


def test_levels_before_addresses(world):
    """Rule 1 with rule 9: a PD before a PT although its address is higher; entries of a level by address."""
    world.map(OTHER_PML4, PAGE_B)
    world.open()
    for va in (VA, OTHER_PML4):
        world.watch(va)
    assert world.where(VA, 1) < world.where(OTHER_PML4, 2)
    world.write(VA, 0, 1)
    world.write(OTHER_PML4, 0, 2)
    assert [event[1] for event in world.events()] == [OTHER_PML4, VA]


def test_entries_by_address(world):
    """Rule 9: at equal levels by the entry's address, not by registration."""
    world.map(SAME_PT, PAGE_B)
    world.open()
    for va in (SAME_PT, VA):
        world.watch(va)
    world.write(SAME_PT, 0)
    world.write(VA, 0)
    assert [event[1] for event in world.events()] == [VA, SAME_PT]


def test_nothing_dirty(world):
    """5d none = empty."""
    opened(world)
    assert world.events() == []


def test_mark_unknown(world):
    """5d unknown entry = false; P20."""
    opened(world)
    assert not world.monitor.mark_dirty(world.where(VA) + 8)
    assert not world.monitor.mark_dirty(world.where(VA) + 4)
    assert not world.monitor.mark_dirty(world.where(VA), view=5)
    assert not world.monitor.mark_dirty(PAGE_A)


def test_unchanged(world):
    """5d unchanged = no events; rule 3."""
    opened(world)
    pa = world.where(VA)
    assert world.monitor.mark_dirty(pa)
    world.store(pa, world.load(pa))
    assert world.events() == []


def test_double_mark(world):
    """5d double mark deduplicates; P20, P21."""
    opened(world)
    pa = world.where(VA)
    assert world.monitor.mark_dirty(pa)
    assert not world.monitor.mark_dirty(pa)
    world.store(pa, 0)
    assert len(world.events()) == 1
    assert world.monitor.mark_dirty(pa)
    assert world.events() == []


def test_process_after_unmonitor(world):
    """5d process after unmonitor is safe; rule 1."""
    opened(world, SAME_PT)
    world.write(VA, 0)
    world.monitor.mark_dirty(world.where(VA))
    world.unwatch(VA)
    assert world.events() == []
    assert world.monitor.state()["marked"] == {}
    world.watch(VA)
    assert world.events() == []


def test_shared_pfn_change(world):
    """5d shared higher-level PFN change rebuilds both VAs."""
    opened(world, SAME_PT)
    world.write(VA, copy_table(world, VA, 3, 0x300), 3)
    assert world.events() == [
        ("out", VA, PAGE_A, 1), ("in", VA, PAGE_A, 1),
        ("out", SAME_PT, PAGE_B, 1), ("in", SAME_PT, PAGE_B, 1),
    ]  # fmt: skip
    assert world.figures() == (4, 5, 2)


def two_levels(world):
    """The PT of VA is the PD of the second root: one physical page at two levels."""
    second = world.another(0x8000)
    pd = second.entry(VA, 2) & ~0xFFF
    pt = world.tables.entry(VA) & ~0xFFF
    second.raw(VA, pt | FLAGS, 3)
    assert pd != pt
    # Index 0x1A0 of the page is a PT entry for VA + ..., and a PDE for the second root's address.
    slot = world.tables.entry(VA) % 0x1000 // 8
    low = VA & ~0x3FFF_FFFF | slot << 21 | 0x3000
    world.memory.page(PAGE_A >> 12)
    world.memory.put_u64(PAGE_A + 8 * (low >> 12 & 0x1FF), PAGE_B | LEAF)
    world.open()
    assert world.watch(VA).pa == PAGE_A
    assert world.watch(low, 0x8000).pa == PAGE_B
    return low


def test_two_levels(world):
    """5d one physical page at different levels in two roots; P8."""
    low = two_levels(world)
    assert world.figures() == (4 + 3, 4 + 3, 2)  # PT and PD are one table, and one entry
    entry = world.where(VA)
    assert entry == world.where(low, 2, 0x8000)
    world.phys.write_u64(0x300 << 12 | (low >> 12 & 0x1FF) * 8, PAGE_B + 0x2000 | LEAF)
    world.store(entry, 0x300 << 12 | LEAF)
    assert world.events() == [
        ("out", VA, PAGE_A, 1), ("in", VA, 0x300 << 12, 1),
        ("out", low, PAGE_B, 1), ("in", low, PAGE_B + 0x2000, 1),
    ]  # fmt: skip
    world.store(entry, PAGE_A | PS | LEAF)  # PAT for the one, a large page for the other
    assert world.events() == [
        ("out", VA, 0x300 << 12, 1), ("in", VA, PAGE_A, 1),
        ("out", low, PAGE_B + 0x2000, 1), ("in", low, PAGE_A | 0x3000 | low & 0x1F_0000, 2),
    ]  # fmt: skip


def test_two_levels_no_ghosts(world):
    """Rule 1 sorts an entry by its highest level, so it may come before what is above it for another VA: no
    event tells of a page that never was."""
    entry = world.tables.entry(VA)
    low = VA >> 39 << 39 | entry % 0x1000 // 8 << 30
    world.memory.put_u64(0x8000 | 8 * (low >> 39), entry & ~0xFFF | FLAGS)  # the PT is a PDPT there
    world.open()
    world.watch(VA)
    world.watch(low, 0x8000)
    copy_table(world, VA, 2, 0x300)
    moved = 0x300 << 12 | entry & 0xFFF
    world.store(moved, PAGE_B | LEAF)
    world.store(entry, PAGE_A + 0x5000 | LEAF)  # level 3 for low, so it comes first
    world.write(VA, 0x300 << 12 | FLAGS, 2)
    assert world.events() == [("out", VA, PAGE_A, 1), ("in", VA, PAGE_B, 1)]
    # The same with a change above that means nothing: then the one below counts.
    world.write(VA, entry & ~0xFFF | FLAGS, 2)
    assert world.events() == [("out", VA, PAGE_B, 1), ("in", VA, PAGE_A + 0x5000, 1)]
    world.write(VA, entry & ~0xFFF | FLAGS | A, 2)
    world.store(entry, PAGE_A | LEAF)
    assert world.events() == [("out", VA, PAGE_A + 0x5000, 1), ("in", VA, PAGE_A, 1)]


def test_walk_does_not_mask(world):
    """5d walk does not mask a pending dirty; rule 8: a set-up passes an entry with a mark."""
    world.map(OTHER_PML4, PAGE_B)
    world.tables.raw(OTHER_PML4, 0, 4)
    opened(world)
    assert not world.watch(OTHER_PML4).paged_in
    # Both at one table: OTHER_PML4 gets the PDPT of VA, and sees a part of its tables.
    pdpt = world.load(world.where(VA, 4))
    mirror = OTHER_PML4 & ~0x7F_FFFF_FFFF | VA & 0x7F_FFFF_FFFF
    world.watch(mirror)
    world.write(VA, PAGE_B | LEAF)
    world.store(world.where(mirror, 4), pdpt)
    assert world.where(mirror) == world.where(VA)
    assert world.events() == [("in", mirror, PAGE_B, 1), ("out", VA, PAGE_A, 1), ("in", VA, PAGE_B, 1)]


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


# ---- writers ----


def test_writers(world):
    """5d writers: dirty is per writer; independent writers; empty writer; P21, P25."""
    opened(world, SAME_PT)
    world.monitor.writer = 1
    world.write(VA, 0)
    world.monitor.writer = 2
    world.write(SAME_PT, 0)
    assert world.monitor.state()["marked"] == {1: 1, 2: 1}
    assert world.events(writer=0) == []
    assert world.events(writer=2) == [("out", SAME_PT, PAGE_B, 1)]
    assert world.events(writer=2) == []
    assert world.events(writer=1) == [("out", VA, PAGE_A, 1)]
    assert world.events() == []


def test_two_writers_one_entry(world):
    """5d same entry marked by two writers: the first to be processed gets the events."""
    opened(world)
    pa = world.where(VA)
    assert world.monitor.mark_dirty(pa, writer=1)
    assert world.monitor.mark_dirty(pa, writer=2)
    assert not world.monitor.mark_dirty(pa, writer=1)
    world.monitor.writer = 1
    world.store(pa, 0)
    assert world.events(writer=1) == [("out", VA, PAGE_A, 1)]
    assert world.monitor.state()["marked"] == {2: 1}
    world.monitor.writer = 2
    world.store(pa, PAGE_B | LEAF)
    assert world.events(writer=1) == []
    assert world.events(writer=2) == [("in", VA, PAGE_B, 1)]


def test_all_writers_at_once(world):
    """P25: without a writer all marks count, each entry once, in one order."""
    opened(world, SAME_PT)
    for writer, va in ((7, SAME_PT), (3, VA), (5, VA)):
        world.monitor.writer = writer
        world.write(va, writer << 20 | LEAF)
    assert world.events() == [
        ("out", VA, PAGE_A, 1), ("in", VA, 5 << 20, 1),
        ("out", SAME_PT, PAGE_B, 1), ("in", SAME_PT, 7 << 20, 1),
    ]  # fmt: skip
    assert world.monitor.state()["marked"] == {}


# ---- ours ----

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


def test_monitor_between_mark_and_process(world):
    """5d ours, gap (i), D11: monitoring a second VA hides nothing of the first one's change."""
    opened(world)
    world.map(SAME_PT, PAGE_B)
    world.write(VA, PAGE_B | LEAF)
    pd = copy_table(world, VA, 2, 0x300)
    world.write(VA, pd, 2)
    assert world.watch(VA + 1).pa == PAGE_B + 1  # as it is now
    assert world.watch(SAME_PT).paged_in is False
    assert world.events() == [("out", VA, PAGE_A, 1), ("in", VA, PAGE_B, 1)]  # for VA + 1 nothing is new
    world.write(VA, 0)
    assert world.events() == [("out", VA, PAGE_B, 1), ("out", VA + 1, PAGE_B + 1, 1)]


class Failing(Exception):
    pass


class Breakable:
    """A source that fails when told to; P11, and the protocol."""

    def __init__(self, phys):
        self.phys, self.after = phys, None

    def read_u64(self, pa):
        if self.after is not None:
            self.after -= 1
            if self.after < 0:
                raise Failing
        return self.phys.read_u64(pa)


@pytest.mark.parametrize("after", range(12))
def test_error_in_the_middle(world, after):
    """Gap (ii), D11: what was marked stays marked and what was found comes later."""
    addresses = (VA, SAME_PT, SAME_PD)
    for k, va in enumerate(addresses):
        world.map(va, PAGE_A + 0x1000 * k)
    world.open()
    source = Breakable(world.phys)
    monitor = PageTableMonitor(source)
    for va in addresses:
        monitor.monitor(va, ROOT, paging="x64")
    pd = copy_table(world, VA, 2, 0x300)
    for pa, value in (
        (world.where(VA, 2), pd), (world.where(SAME_PD), PAGE_B | LEAF),
        (0x300000 | 8 * (VA >> 12 & 0x1FF), 0),
    ):  # fmt: skip
        world.store(pa, value)
        monitor.mark_dirty(pa)
    source.after = after
    try:
        events = monitor.process()
    except Failing:
        source.after = None
        monitor.mark_dirty(world.where(VA, 2))
        events = monitor.process()
    kinds = [(type(event).__name__, event.va, event.pa) for event in events if not hasattr(event, "old")]
    assert kinds == [
        ("PageOut", VA, PAGE_A), ("PageOut", SAME_PT, PAGE_A + 0x1000), ("PageIn", SAME_PT, PAGE_A + 0x1000),
        ("PageOut", SAME_PD, PAGE_A + 0x2000), ("PageIn", SAME_PD, PAGE_B),
    ]  # fmt: skip
    assert monitor.process() == [] and monitor.paged_in == 2


def test_error_and_unmonitor(world):
    """Gap (ii): an address that goes away between the error and the next call."""
    world.map(SAME_PT, PAGE_B)
    world.open()
    source = Breakable(world.phys)
    monitor = PageTableMonitor(source)
    for va in (VA, SAME_PT):
        monitor.monitor(va, ROOT, paging="x64")
        world.write(va, 0)
        monitor.mark_dirty(world.where(va))
    source.after = 1
    with pytest.raises(Failing):
        monitor.process()
    source.after = None
    assert monitor.state()["marked"] == {0: 1}
    monitor.unmonitor(VA, ROOT)
    names = [(type(event).__name__, event.va) for event in monitor.process()]
    assert names == [("PageOut", VA), ("PageOut", SAME_PT), ("StateChanged", SAME_PT)]


@pytest.mark.parametrize("after", range(4))
def test_failed_walk(world, after):
    """Gap (iv), D11, P15: a walk that fails leaves nothing half registered."""
    world.open()
    source = Breakable(world.phys)
    monitor = PageTableMonitor(source)
    source.after = after
    with pytest.raises(Failing):
        monitor.monitor(VA, ROOT, paging="x64")
    source.after = None
    assert (monitor.tables, monitor.entries, monitor.paged_in, len(monitor)) == (0, 0, 0, 0)
    assert monitor.monitor(VA, ROOT, paging="x64").paged_in


def test_failed_watch(world, monkeypatch):
    """Gap (iv): the same for a failure in between, when a table cannot be watched."""
    world.map(OTHER_PML4, PAGE_B)
    opened(world, SAME_PD)
    before, seen = world.figures(), []
    pdpt = copy_table(world, VA, 4, 0x300)
    pd = copy_table(world, VA, 3, 0x301)
    world.phys.write_u64(0x300 << 12 | 8 * (VA >> 30 & 0x1FF), pd)

    def watch(pfn):
        seen.append(pfn)
        if len(seen) == 2:
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(world.monitor._engine.sources[1], "watch", watch)
        with pytest.raises(MemoryError):
            world.watch(OTHER_PML4)
        assert world.figures() == before
        world.write(VA, pdpt, 4)
        seen.clear()
        with pytest.raises(MemoryError):
            world.monitor.process()
        assert world.figures() == before
    assert world.events() == [
        ("out", VA, PAGE_A, 1), ("in", VA, PAGE_A, 1),
        ("out", SAME_PD, PAGE_B, 1), ("in", SAME_PD, PAGE_B, 1),
    ]  # fmt: skip
    assert world.figures() == before
    world.phys.write_u64(0x301 << 12 | 8 * (VA >> 21 & 0x1FF), 0)
    assert world.events() == [("out", VA, PAGE_A, 1)]


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


# ---- the overlay ----


def test_restore(world):
    """Going back to a snapshot, reverting and resetting are changes, too."""
    opened(world)
    snapshot = world.overlay.snapshot()
    world.write(VA, PAGE_B | LEAF)
    assert len(world.events()) == 2
    world.overlay.restore(snapshot)
    assert world.events() == [("out", VA, PAGE_B, 1), ("in", VA, PAGE_A, 1)]
    pa = world.write(VA, 0)
    world.events()
    world.overlay.revert_frame(pa >> 12)
    assert world.events() == [("in", VA, PAGE_A, 1)]
    world.write(VA, 0, 3)
    world.events()
    world.overlay.reset()
    assert world.events() == [("in", VA, PAGE_A, 1)]


def test_remap(world):
    """C63: a table frame that shows another one, and writes to that."""
    opened(world)
    table = world.where(VA) >> 12
    world.phys.write_u64(0x300 << 12 | world.where(VA) & 0xFFF, PAGE_B | LEAF)
    world.overlay.remap(table, 0x300)
    assert world.events() == [("out", VA, PAGE_A, 1), ("in", VA, PAGE_B, 1)]
    world.phys.write_u64(0x300 << 12 | world.where(VA) & 0xFFF, 0)
    assert world.events() == [("out", VA, PAGE_B, 1)]


def test_write_across_entries(world):
    """P20: whatever the size and place of a write, the entries it touches are marked, and no others."""
    opened(world, SAME_PT, VA + 0x2000)
    pa = world.where(VA)
    world.phys.write(pa + 7, bytes(2))  # the last byte of one, the first of the next
    assert world.monitor.state()["marked"] == {0: 2}
    assert world.events() == [("out", SAME_PT, PAGE_B, 1)]
    world.phys.write(pa & ~0xFFF, bytes(0x1000))
    assert [event[1] for event in world.events()] == [VA, VA + 0x2000]


def test_two_monitors(world):
    """Both monitors of an overlay see its writes."""
    opened(world)
    other = PageTableMonitor(world.overlay)
    other.monitor(VA, ROOT, tag="other")
    other.monitor(SAME_PT, ROOT)
    world.write(VA, 0)
    assert len(world.events()) == 1
    world.write(SAME_PT, PAGE_B | LEAF)
    events = other.process()
    assert [(event.va, event.tag) for event in events] == [(VA, "other"), (SAME_PT, None)]
    other.unmonitor_all()
    world.write(VA, PAGE_A | LEAF)
    assert world.events() == [("in", VA, PAGE_A, 1)]


def test_dropped_monitor(world):
    """A monitor that goes away watches nothing any more."""
    opened(world)
    world.monitor = None
    gc.collect()
    world.write(VA, 0)
    assert world.overlay.take_dirty() == []


def test_closed_dump(world):
    """A closed dump gives an error, and unmonitoring works nevertheless."""
    opened(world)
    world.write(VA, 0)
    world.dump.close()
    with pytest.raises(ValueError, match="closed"):
        world.monitor.process()
    assert world.unwatch(VA)
    assert world.figures() == (0, 0, 0)


def test_sources(world):
    """P1: what a monitor can be made of."""
    world.open()
    assert PageTableMonitor(world.dump).monitor(VA).pa == PAGE_A
    assert PageTableMonitor(world.dump.phys).monitor(VA).pa == PAGE_A
    with pytest.raises(ValueError, match="phys"):
        PageTableMonitor(world.dump.reader())
    with pytest.raises(TypeError, match="int"):
        PageTableMonitor(7)
    plain = PageTableMonitor(Breakable(world.phys))
    with pytest.raises(ValueError, match="dtb and paging"):
        plain.monitor(VA)
    with pytest.raises(kdmp.UnsupportedDumpError):
        plain.monitor(VA, ROOT, paging="physical")
    with pytest.raises(OverflowError):
        plain.monitor(VA, -1, paging="x64")


def test_words(world):
    """P14, P22: state() is plain, repr is short, events are frozen."""
    opened(world)
    world.watch(SAME_PT, tag="t")
    facts = world.monitor.state()
    assert (facts["tables"], facts["entries"], facts["paged_in"]) == (4, 5, 1)
    first, second = facts["addresses"]
    assert first["pa"] == PAGE_A and [one["level"] for one in first["chain"]] == [4, 3, 2, 1]
    assert second["tag"] == "t" and second["state"] == "zero" and second["chain"][-1]["value"] == 0
    assert repr(world.monitor) == (
        "<kdmp.PageTableMonitor of 2 addresses, 1 paged in, 5 entries in 4 tables>"
    )
    world.write(VA, 0)
    (event,) = world.monitor.process()
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.pa = 1


# ---- series ----


class Series:
    """Two or more states of one memory."""

    def __init__(self, *worlds):
        self.dumps = [kdmp.Dump(world.image()) for world in worlds]
        self.monitor = PageTableMonitor(self.dumps[0])

    def next(self, **more):
        self.dumps.append(self.dumps.pop(0))
        return self.monitor.advance(self.dumps[0], **more)


def states(values, paging="x64", level=1):
    """A world for each value of the entry of VA."""
    for value in values:
        world = World(paging)
        world.map(VA, PAGE_A)
        world.memory.page(PAGE_B >> 12)
        if value == "missing":
            entry = world.tables.entry(VA, level)
            del world.memory.pages[entry >> 12]
        else:
            world.tables.raw(VA, value, level)
        yield world


SOFT = {
    "zero": 0,
    "demand_zero": 4 << 5,
    "transition": PAGE_B | TRANSITION | 4 << 5,
    "pagefile": 0x1234 << 32 | 1 << 12 | 4 << 5,
    "prototype": 0xFFFF_A000 << 32 | 0x1234_0000 | 1 << 10 | 1 << 4,
}


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("before", ["zero", "valid", *SOFT])
def test_state_changed(name, before):
    """5c: StateChanged from one dump to the next; gap (iii)."""
    value = {**SOFT, "valid": PAGE_A | LEAF}[before]
    series = Series(*states([value, SOFT[name]]))
    first = series.monitor.monitor(VA, tag=1)
    assert first.state == before
    events = series.next()
    changed = m.StateChanged(0, VA, ROOT, 1, before, name, 1, 1, value, SOFT[name])
    out = [m.PageOut(0, VA, ROOT, PAGE_A, 1, 1, 0x1000)] if before == "valid" else []
    assert events == [*out, *([changed] if name != before else [])]
    events = series.next()
    back = m.StateChanged(0, VA, ROOT, 1, name, before, 1, 1, SOFT[name], value)
    into = [m.PageIn(0, VA, ROOT, PAGE_A, 1, 1, 0x1000)] if before == "valid" else []
    assert events == [*into, *([back] if name != before else [])]


@pytest.mark.parametrize("name", ["transition", "pagefile", "prototype"])
def test_state_moved(name):
    """5c: the same state elsewhere is a change; a protection or a swizzled bit is none."""
    moved = SOFT[name] + (1 << 36 if name != "transition" else 1 << 12)
    series = Series(*states([SOFT[name], moved]))
    series.monitor.monitor(VA)
    (event,) = series.next()
    assert (event.old, event.new, event.old_entry, event.new_entry) == (name, name, SOFT[name], moved)


def test_protection_changed():
    """5c: ProtectionChanged, by all levels together."""
    leaf = PAGE_A | LEAF
    series = Series(*states([leaf, leaf & ~W, leaf & ~W | G, leaf & ~U | NX, leaf & ~W | 0x800]))
    series.monitor.monitor(VA + 5, tag="t")
    assert series.next() == [m.ProtectionChanged(0, VA + 5, ROOT, PAGE_A + 5, "t", 1, 0x1000, "urwx", "ur-x")]
    assert series.next() == []
    (event,) = series.next()
    assert (event.old, event.new) == ("ur-x", "krw-")
    (event,) = series.next()
    assert (event.old, event.new) == ("krw-", "urwx")  # Windows' own Write bit


def test_moved_with_other_rights():
    """5c: ProtectionChanged is for the same page."""
    series = Series(*states([PAGE_A | LEAF, PAGE_B | LEAF & ~W]))
    series.monitor.monitor(VA)
    assert [type(event) for event in series.next()] == [m.PageOut, m.PageIn]


def test_protection_above():
    """5c: one event although the rights changed at three levels; none if a lower level hides it."""
    before, after, hidden = states([PAGE_A | LEAF] * 3)
    for level in (1, 2, 3):
        pa = after.tables.entry(VA, level)
        after.tables.store(pa, after.tables.load(pa) & ~W)
        if level != 2:
            hidden.tables.store(pa, after.tables.load(pa))
    series = Series(before, after, hidden)
    series.monitor.monitor(VA)
    (event,) = series.next()
    assert (event.old, event.new, event.level) == ("urwx", "ur-x", 1)
    assert series.next() == []


@pytest.mark.parametrize("paging", list(MODES))
@pytest.mark.parametrize("level", [1, 2])
def test_rights(paging, level):
    """The rights are those of `Translation`, whatever bits the entries have."""
    va = 0x8765_4000
    toggles = {"arm64": (6, 7, 53, 54, 55, 59, 60, 61, 62), "x86": (1, 2, 11)}.get(paging, (1, 2, 11, 63))
    for upper in range(level, len(MODES[paging].shifts) + 1):
        for bit in toggles:
            if paging == "pae" and upper == 3:
                continue
            world = World(paging)
            world.map(va, 0x80_0000, level)
            pa = world.tables.entry(va, upper)
            world.tables.store(pa, world.tables.load(pa) ^ 1 << bit)
            dump = kdmp.Dump(world.image())
            monitor = PageTableMonitor(dump)
            assert monitor.monitor(va, ROOT, paging=paging).paged_in
            (watched,) = monitor._engine.watched.values()
            rights = monitor._engine._summary(watched).rights
            walk = dump.reader(ROOT, paging).translate(va)
            expected = "u" if walk.user else "k"
            expected += "r" + ("w" if walk.writable else "-") + ("x" if walk.executable else "-")
            assert rights == expected, (upper, bit)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_unknown(level):
    """5c: Unknown, when a table page is not in the next dump: no PageOut, since nothing says so."""
    series = Series(*states([PAGE_A | LEAF, "missing"], level=level) if level == 1 else _missing(level))
    series.monitor.monitor(VA + 3, tag="t")
    entry = World()
    entry.map(VA, PAGE_A)
    pa = entry.tables.entry(VA, level)
    assert series.next() == [m.Unknown(0, VA + 3, ROOT, pa, "t", level, "valid", PAGE_A + 3)]
    assert series.monitor.paged_in == 0
    assert series.monitor.status(VA + 3).state == "unknown"
    page_in, changed = series.next()
    assert page_in == m.PageIn(0, VA + 3, ROOT, PAGE_A + 3, "t", 1, 0x1000)
    assert (changed.old, changed.new, changed.old_entry) == ("unknown", "valid", None)


def _missing(level):
    yield from states([PAGE_A | LEAF])
    (world,) = states([PAGE_A | LEAF])
    del world.memory.pages[world.tables.entry(VA, level) >> 12]
    yield world


def test_changed_frames():
    """5c: only the entries in frames that differ, if the caller knows which."""
    first, second = states([PAGE_A | LEAF, PAGE_B | LEAF])
    pfn = first.tables.entry(VA) >> 12
    series = Series(first, second)
    series.monitor.monitor(VA)
    assert series.next(changed={pfn + 1}) == []
    series.next(changed=())
    assert [event.pa for event in series.next(changed={pfn})] == [PAGE_A, PAGE_B]


def test_advance_in_place(world):
    """A source may say other things by itself; and not any view can be advanced."""
    world.open()
    source = Breakable(world.phys)
    monitor = PageTableMonitor(source)
    monitor.monitor(VA, ROOT, paging="x64")
    assert monitor.advance() == []
    world.write(VA, 0)
    assert monitor.process() == []
    assert [event.pa for event in monitor.advance() if isinstance(event, m.PageOut)] == [PAGE_A]
    with pytest.raises(ValueError, match="view 9"):
        monitor.advance(view=9)


def test_advance_to_another_overlay(world):
    """The watches go with the view; an overlay cannot be two views."""
    opened(world)
    other = OverlayBase(world.dump)
    kdmp.Reader(world.dump, paging="physical", overlay=other).write_u64(world.where(VA), PAGE_B | LEAF)
    assert [event.pa for event in world.monitor.advance(other)] == [PAGE_A, PAGE_B]
    world.write(VA, 0)
    assert world.overlay.take_dirty() == [] and world.monitor.process() == []
    other.revert_frame(world.where(VA) >> 12)
    assert world.events() == [("out", VA, PAGE_B, 1), ("in", VA, PAGE_A, 1)]
    world.watch(VA, view=world.overlay)
    with pytest.raises(ValueError, match="another view"):
        world.monitor.advance(world.overlay)


def test_details_of_an_overlay(world):
    """The events of details are there for overlays, if asked for."""
    world.open()
    monitor = PageTableMonitor(world.overlay, details=True)
    monitor.monitor(VA)
    world.write(VA, PAGE_A | LEAF & ~W)
    (event,) = monitor.process()
    assert isinstance(event, m.ProtectionChanged)
    # A known change that leads to a missing table takes the page away, and then it is unknown.
    world.write(VA, 0x500_0000 | FLAGS, 2)
    out, unknown = monitor.process()
    assert (out.pa, unknown.pa, unknown.old_pa) == (PAGE_A, 0x500_0000 | 8 * (VA >> 12 & 0x1FF), PAGE_A)


def test_plain_monitor_of_a_dump():
    """Without details a missing table is a page out."""
    first, second = states([PAGE_A | LEAF, "missing"])
    monitor = PageTableMonitor(kdmp.Dump(first.image()), details=False)
    monitor.monitor(VA)
    assert monitor.advance(kdmp.Dump(second.image())) == [m.PageOut(0, VA, ROOT, PAGE_A, None, 1, 0x1000)]


# ---- whole machines ----


@pytest.mark.parametrize("machine", MACHINES)
def test_machines(machine):
    """All that is mapped, the edges of it and beyond, is as the core says; nothing happens from a dump to
    itself, and from a full dump to a kernel dump nothing goes but what it left out."""
    dumps = [kdmp.Dump(machine_dump(machine, kind)) for kind in ("full", "kernel")]
    reader, monitor, seen = dumps[0].reader(discover=False), PageTableMonitor(dumps[0]), set()
    for one in reader.mappings():
        for va in (one.start, one.start + one.size // 2 + 1, one.start + one.size):
            try:
                walk, error = reader.translate(va), None
            except kdmp.NonCanonicalError:
                continue
            except kdmp.TranslationError as exc:
                walk, error = None, exc
            state = monitor.monitor(va, tag=va)
            entries = walk.entries if walk else error.entries
            seen.add(state.state)
            if walk and all(entry.value & P for entry in entries):
                assert state == (True, walk.pa, "valid", walk.level, walk.page_size)
                continue
            expected = walk.state if walk else error.state
            assert (state.state, state.pa) in ((expected, None), ("prototype", None))
    assert seen >= {"valid", "zero", "transition", "pagefile", "demand_zero", "prototype", "vad"}
    assert monitor.advance(dumps[0]) == []
    paged_in = monitor.paged_in
    assert all(isinstance(event, m.Unknown) for event in monitor.advance(dumps[1]))
    monitor.advance(dumps[0])
    assert monitor.paged_in == paged_in
