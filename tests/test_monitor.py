"""The page-table monitor: what is watched, and what a processed change tells.

Ids here and in its sister files: P1-P25, rules 1-9 of `process`, gaps (i)-(v), D11 and D12 of the
conformance list.

SPDX-License-Identifier: MIT
"""

import pytest
from dumpbuilder import NX, A, D, G, U, W
from monitorworld import (
    FLAGS,
    LEAF,
    OTHER_PML4,
    PAGE_A,
    PAGE_B,
    PS,
    ROOT,
    SAME_PD,
    SAME_PDPT,
    SAME_PT,
    VA,
    World,
    copy_table,
    one_page,
    opened,
)

import kdmp
from kdmp import monitor as m
from kdmp._kdmp import OverlayBase
from kdmp.monitor import PageTableMonitor


@pytest.fixture
def world():
    return one_page()


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
