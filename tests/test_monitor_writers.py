"""The page-table monitor with several writers, failing sources and overlays that go back.

SPDX-License-Identifier: MIT
"""

import dataclasses
import gc

import pytest
from monitorworld import (
    LEAF,
    OTHER_PML4,
    PAGE_A,
    PAGE_B,
    ROOT,
    SAME_PD,
    SAME_PT,
    VA,
    Breakable,
    Failing,
    copy_table,
    one_page,
    opened,
)

import kdmp
from kdmp.monitor import PageTableMonitor


@pytest.fixture
def world():
    return one_page()


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


# ---- between a mark and its processing ----


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
