"""The page-table monitor over several states of one memory.

SPDX-License-Identifier: MIT
"""

import pytest
from archtables import MODES
from dumpbuilder import NX, TRANSITION, G, P, U, W
from monitorworld import FLAGS, LEAF, PAGE_A, PAGE_B, ROOT, VA, Breakable, World, one_page, opened
from shareddata import MACHINES, machine_dump

import kdmp
from kdmp import monitor as m
from kdmp._kdmp import OverlayBase
from kdmp.monitor import PageTableMonitor


@pytest.fixture
def world():
    return one_page()


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
