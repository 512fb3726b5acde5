"""Watches of an overlay: rows C56 and C57 of the checklist.

SPDX-License-Identifier: MIT
"""

import gc
import weakref

import pytest
from archtables import MODES, ArchTables
from archtables import dump as arch_dump
from conftest import KERNEL_VA
from dumpbuilder import PAGE, Memory
from hypothesis import given
from hypothesis import strategies as st

import kdmp


@pytest.fixture
def dump(small_image):
    with kdmp.Dump(small_image) as dump:
        yield dump


@pytest.fixture
def ov(dump):
    with dump.overlay() as ov:
        yield ov


@pytest.fixture
def reader(ov):
    return ov.reader(0x1000, "x64", discover=False)


class Seen(list):
    """A callback that notes its calls."""

    def __call__(self, overlay, address, size):
        self.append((address, size))

    def take(self):
        taken = list(self)
        self.clear()
        return taken


def test_c56_what_is_said_about_a_frame(dump, ov, reader):
    """C56: no EPT rights: whether the frame is there, the guest's rights, and what watches are on it."""
    assert 0x20 in dump.pages and 0x99 not in dump.pages
    walk = reader.translate(KERNEL_VA)
    assert (walk.writable, walk.user) == (True, True)
    assert ov.watches == ov.watches_on(0x20) == []
    narrow = ov.watch(0x20800, 8, Seen())
    wide = ov.watch(0x10000, 1 << 40, Seen())
    virtual = ov.watch(KERNEL_VA + PAGE, 1, Seen(), reader)
    assert ov.watches == [narrow, wide, virtual]
    assert ov.watches_on(0x20) == [narrow, wide]
    assert ov.watches_on(0x21) == [wide, virtual]
    assert ov.watches_on(0x1) == []
    assert "physical 0x20800-0x20807" in repr(narrow) and "virtual" in repr(virtual)


def test_c57_a_physical_range(ov, reader):
    """C57: writes that touch a range, by whatever address, with the part that is in it."""
    seen = Seen()
    watch = ov.watch(0x20100, 0x10, seen)
    ov.write(0x200F0, bytes(0x10))  # ends before
    ov.write(0x20110, bytes(0x10))  # begins behind
    assert seen.take() == []
    ov.write(0x200FC, bytes(8))
    reader.write_u32(KERNEL_VA + 0x10E, 5)
    ov.write_u8(kdmp.virt(KERNEL_VA + 0x105, 0x1000), 5)
    ov.write_struct(kdmp.phys(0x20000), (1,) * 64, "64Q")
    assert seen.take() == [(0x20100, 4), (0x2010E, 2), (0x20105, 1), (0x20100, 0x10)]
    ov.write(0x20100, b"")
    assert seen.take() == []
    watch.remove()
    assert not watch.active
    watch.remove()
    ov.write_u64(0x20100, 5)
    assert seen == [] and ov.on_write is None


def test_c57_across_frames(ov, reader):
    """C57: frames that follow each other are told of in one call."""
    seen = Seen()
    ov.watch(0x20FF0, 0x20, seen)
    ov.write(0x20FE0, bytes(0x40))
    reader.write(KERNEL_VA + PAGE - 1, b"ab")
    assert seen == [(0x20FF0, 0x20), (0x20FFF, 2)]


def test_c57_a_virtual_range(ov, reader):
    """C57: the addresses are the reader's; what counts is the bytes."""
    seen = Seen()
    ov.watch(KERNEL_VA + 0xFF0, 0x20, seen, reader)
    reader.write(KERNEL_VA + 0xFFC, bytes(8))
    ov.write_u32(0x20FF0, 1)
    assert seen.take() == [(KERNEL_VA + 0xFFC, 8), (KERNEL_VA + 0xFF0, 4)]
    ov.write_u32(0x20FEC, 1)
    assert seen.take() == []
    physical = Seen()
    ov.watch(0x20000, 8, physical, ov.phys)
    reader.write_u8(KERNEL_VA + 7, 0)
    assert physical == [(0x20007, 1)]


def test_c57_a_virtual_range_that_moves(dump, ov, reader):
    """C57: page tables that are written, remapped or restored move what is watched."""
    seen = Seen()
    va = KERNEL_VA + 2 * PAGE  # nothing there yet
    ov.watch(va, 16, seen, reader)
    leaf = reader.translate(KERNEL_VA).entries[-1].pa + 16
    ov.write_u8(0x20000, 1)
    assert seen.take() == []
    snapshot = ov.snapshot()
    ov.write_u64(leaf, 0x20007)
    ov.write_u8(0x20008, 1)
    assert seen.take() == [(va + 8, 1)]
    ov.write_u64(leaf, 0x21007)
    ov.write_u8(0x20008, 1)
    assert seen.take() == []
    reader.write_u8(va, 1)
    assert seen.take() == [(va, 1)]
    ov.restore(snapshot)
    ov.write_u8(0x21000, 1)
    assert seen.take() == []
    made = ov.create_frame(0x99)  # frame of the next page, which the dump does not have
    ov.watch(KERNEL_VA + 3 * PAGE, 1, seen, reader)
    ov.write_u8(made << 12, 1)
    assert seen.take() == [(KERNEL_VA + 3 * PAGE, 1)]


def test_c57_remapped_frames(ov, reader):
    """C57: who shows a frame shows its writes."""
    shown, showing, virtual = Seen(), Seen(), Seen()
    ov.watch(0x21000, PAGE, shown)
    ov.watch(0x20000, PAGE, showing)
    ov.watch(KERNEL_VA, 1, virtual, reader)
    ov.remap(0x20, 0x21)
    ov.write_u8(0x21000, 1)
    assert (shown.take(), showing.take(), virtual.take()) == (
        [(0x21000, 1)],
        [(0x20000, 1)],
        [(KERNEL_VA, 1)],
    )
    reader.write_u8(KERNEL_VA + 1, 1)
    assert (shown.take(), showing.take(), virtual.take()) == ([(0x21001, 1)], [(0x20001, 1)], [])
    ov.unmap(0x20)
    ov.write_u8(0x21000, 1)
    assert (shown.take(), showing.take(), virtual.take()) == ([(0x21000, 1)], [], [])


@pytest.mark.parametrize("paging", sorted(MODES))
def test_c57_every_paging_mode(paging):
    memory = Memory()
    tables = ArchTables(memory, paging, root=0x1000, spare=0x10)
    memory.fill(0x40, 0x41)
    tables.map(0x8000_0000, 0x40000)
    with kdmp.Dump(arch_dump(memory.pages, paging, 0x1000)) as dump, dump.overlay() as ov:
        reader, seen = ov.reader(0x1000, paging), Seen()
        ov.watch(0x8000_0FF8, 16, seen, reader)
        reader.write_u64(0x8000_0FF8, 7)
        tables_entry = reader.translate(0x8000_0000).entries[-1]
        step = tables.mode.entry
        reader.physical.write_uint(tables_entry.pa + step, tables_entry.value + PAGE, step)
        reader.write(0x8000_0FFC, bytes(8))
        assert seen == [(0x8000_0FF8, 8), (0x8000_0FFC, 8)]


def test_c57_reverting_is_no_write(ov):
    seen = Seen()
    ov.watch(0, None, seen)
    ov.write_u8(0x20000, 1)
    snapshot = ov.snapshot()
    seen.clear()
    ov.create_frame()
    ov.restore(snapshot)
    ov.revert(0x20)
    ov.remap(0x20, 0x21)
    assert seen == []
    with pytest.raises(kdmp.UnreadableError):
        ov.write_u8(0x7000_0000, 1)
    assert seen == []


def test_c57_several_and_their_exceptions(ov):
    """C57: all are called; then the first exception comes out; the write is done."""
    seen = Seen()

    class Trouble(Exception):
        pass

    def fail(overlay, address, size):
        seen(overlay, address, size)
        assert overlay.phys.read_u8(address) == 7
        raise Trouble("first")

    def fail_too(overlay, address, size):
        seen(overlay, address, size)
        raise KeyError("second")

    watches = [ov.watch(0x20000, 1, each) for each in (fail, fail_too, seen)]
    with pytest.raises(Trouble, match="first") as caught:
        ov.write_u8(0x20000, 7)
    assert seen.take() == [(0x20000, 1)] * 3
    assert "second" in caught.value.__notes__[0]
    assert ov.phys.read_u8(0x20000) == 7
    for watch in watches[:2]:
        watch.remove()
    ov.write_u8(0x20000, 8)
    assert seen == [(0x20000, 1)]


def test_c57_callbacks_that_write_and_remove(ov):
    """C57: a callback is not called for its own writes, others are; a removed one is not called."""
    seen = Seen()

    def again(overlay, address, size):
        seen(overlay, address, size)
        overlay.write_u8(address, overlay.phys.read_u8(address) + 1)

    def once(overlay, address, size):
        seen(overlay, address, size)
        one_time.remove()

    ov.watch(0x20000, 8, again)
    one_time = ov.watch(0x20000, 8, once)
    ov.write_u8(0x20000, 5)
    assert ov.phys.read_u8(0x20000) == 6
    assert seen == [(0x20000, 1), (0x20000, 1)]  # `again`, and `once` for the write of `again`
    ov.watch(0x20000, 8, lambda overlay, address, size: seen.append("added"))
    ov.write_u8(0x20000, 5)
    assert seen[2:] == [(0x20000, 1), "added", "added"]


def test_c57_what_cannot_be_watched(dump, ov, reader):
    for start, size in ((0, 0), (5, -1), (-1, 5), (2**64 - 1, 2), (2**64, None)):
        with pytest.raises(ValueError):
            ov.watch(start, size, Seen())
    with pytest.raises(ValueError, match="65536 pages"):
        ov.watch(0, 2**29, Seen(), reader)
    with pytest.raises(TypeError, match="callable"):
        ov.watch(0, 1, None)
    for space in (dump.phys, dump.overlay().phys):
        with pytest.raises(ValueError, match="another view"):
            ov.watch(0, 1, Seen(), space)
    with pytest.raises(ValueError, match="physical"):
        ov.watch(0, 1, Seen(), "virtual")
    ov.watch(2**64 - 1, 1, Seen())
    assert len(ov.watches) == 1


def test_c57_the_hook_below(ov, reader):
    """`on_write` of OverlayBase: the address as it was given, and where the bytes went."""
    seen = []
    ov.on_write = lambda *what: seen.append(what)
    context = kdmp.virt(KERNEL_VA + PAGE - 1, 0x1000)
    ov._virtual.write(context, b"ab")
    assert seen == [(ov._virtual, context, 2, [(0x20FFF, 1), (0x21000, 1)])]
    with pytest.raises(TypeError):
        ov.on_write = 5
    ov.on_write = None
    assert ov.on_write is None


def test_c57_watches_end_with_the_overlay(dump):
    ov = dump.overlay()
    ov.watch(0, None, Seen())
    gone = weakref.ref(ov)
    ov.reset()
    assert ov.watches == []
    ov.watch(0, None, Seen(), ov.phys)
    del ov
    gc.collect()
    assert gone() is None


RANGE = st.tuples(st.integers(0x1FF00, 0x22100), st.integers(1, 0x300))


@given(watched=st.lists(RANGE, min_size=1, max_size=4), written=st.lists(RANGE, max_size=6))
def test_c57_ranges_are_intersections(watched, written):
    """C57: any ranges; each is told of exactly what of it was written."""
    memory = Memory()
    memory.fill(*range(0x1F, 0x23))
    with kdmp.Dump(memory.dump()) as dump, dump.overlay() as ov:
        seen = [Seen() for _ in watched]
        for one, (start, size) in zip(seen, watched, strict=True):
            ov.watch(start, size, one)
        for at, count in written:
            ov.write(at, bytes(count))
            for one, (start, size) in zip(seen, watched, strict=True):
                low, high = max(at, start), min(at + count, start + size)
                assert one.take() == ([(low, high - low)] if low < high else [])


@pytest.mark.parametrize("paging", ["x86", "pae"])
def test_c57_a_32_bit_space_ends_at_4_gib(paging):
    """C57: `size` None goes up to the last address of the space, and behind it there is nothing to watch."""
    memory = Memory()
    tables = ArchTables(memory, paging, root=0x1000, spare=0x10)
    tables.map(0xFFFF_F000, 0x20000)
    memory.page(0x20)
    with kdmp.Dump(arch_dump(memory.pages, paging, 0x1000)) as dump, dump.overlay() as ov:
        reader, seen = ov.reader(0x1000, paging, discover=False), Seen()
        watch = ov.watch(0xFFFF_E800, None, seen, reader)
        assert (watch.start, watch.size) == (0xFFFF_E800, 0x1800)
        reader.write(0xFFFF_FFF8, b"12345678")
        assert seen == [(0xFFFF_FFF8, 8)]
        for first in (1 << 32, (1 << 64) - 8):
            for size in (None, 8):
                with pytest.raises(ValueError, match="last address, 0xffffffff"):
                    ov.watch(first, size, seen, reader)
        assert ov.watch(1 << 32, None, seen).size == (1 << 64) - (1 << 32)  # physical
        with pytest.raises(ValueError, match="last address"):
            ov.watch(1 << 64, None, seen)
