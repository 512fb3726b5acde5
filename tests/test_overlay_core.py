"""Overlays in the core, through cffi, against a model made of dicts.

SPDX-License-Identifier: MIT
"""

import copy

import pytest
from conftest import KERNEL_VA, small_machine
from dumpbuilder import FULL, PAGE
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

pytestmark = pytest.mark.compiles


class Overlay:
    """An overlay over a dump opened by the core."""

    def __init__(self, core, image):
        self.ffi, self.lib = core.ffi, core.lib
        self.image = self.ffi.from_buffer(image)
        out = self.ffi.new("struct kdmp_dump **")
        assert self.lib.kdmp_open_memory(self.image, len(image), out, self.ffi.NULL) == 0
        self.dump = out[0]
        out = self.ffi.new("struct kdmp_overlay **")
        assert self.lib.kdmp_overlay_open(self.lib.kdmp_get_source(self.dump), out) == 0
        self.overlay = out[0]
        self.tlb = None

    def close(self):
        if self.tlb is not None:
            self.lib.kdmp_tlb_close(self.tlb)
        self.lib.kdmp_overlay_close(self.overlay)
        self.lib.kdmp_close(self.dump)

    def space(self, paging="PHYSICAL", root=0x1000):
        space = self.ffi.new("struct kdmp_space *")
        space.source = self.lib.kdmp_overlay_source(self.overlay)
        space.dump = self.dump
        space.root = root
        space.paging = getattr(self.lib, f"KDMP_PAGING_{paging}")
        if self.tlb is not None and paging != "PHYSICAL":
            space.tlb = self.tlb
        return space

    def open_tlb(self, capacity):
        out = self.ffi.new("struct kdmp_tlb **")
        status = self.lib.kdmp_tlb_open(capacity, self.overlay, out)
        if status == 0:
            self.tlb = out[0]
        return status

    def tlb_info(self):
        info = self.ffi.new("struct kdmp_tlb_info *")
        self.lib.kdmp_tlb_get_info(self.tlb, info)
        return info

    def read(self, address, size, paging="PHYSICAL"):
        buffer = self.ffi.new("uint8_t[]", size or 1)
        done = self.ffi.new("uint64_t *")
        status = self.lib.kdmp_read(self.space(paging), address, buffer, size, done, self.ffi.NULL)
        return status, self.ffi.buffer(buffer)[: done[0]]

    def write(self, address, data, paging="PHYSICAL"):
        done = self.ffi.new("uint64_t *")
        fault = self.ffi.new("struct kdmp_fault *")
        status = self.lib.kdmp_overlay_write(
            self.overlay, self.space(paging), address, data, len(data), done, fault
        )
        assert done[0] == (len(data) if status == 0 else 0)
        assert (fault.status == 0) == (status == 0)
        return status

    def snapshot(self):
        out = self.ffi.new("uint64_t *")
        assert self.lib.kdmp_overlay_snapshot(self.overlay, out) == 0
        return out[0]

    def restore(self, number):
        out = self.ffi.new("uint64_t *")
        return self.lib.kdmp_overlay_restore(self.overlay, number, out), out[0]

    def frames(self):
        found, frame = [], self.ffi.new("struct kdmp_overlay_frame *")
        while self.lib.kdmp_overlay_get(self.overlay, len(found), frame):
            found.append((frame.pfn, frame.target if frame.remapped else None, bool(frame.synthetic)))
        assert len(found) == self.lib.kdmp_overlay_count(self.overlay)
        return sorted(found)

    def remaps(self):
        frame = self.ffi.new("struct kdmp_overlay_frame *")
        found = []
        while self.lib.kdmp_overlay_get_remap(self.overlay, len(found), frame):
            assert frame.remapped and frame.bytes == self.ffi.NULL
            found.append((frame.pfn, frame.target, bool(frame.synthetic)))
        assert len(found) == self.lib.kdmp_overlay_remap_count(self.overlay)
        return found

    def runs(self):
        """All frames of the source, from its runs."""
        source, run = self.lib.kdmp_overlay_source(self.overlay), self.ffi.new("struct kdmp_run *")
        frames, pfn = [], 0
        while source.next_run(source, pfn, run):
            frames += range(run.pfn, run.pfn + run.count)
            pfn = run.pfn + run.count
        return frames

    def take_dirty(self, room=1000):
        out = self.ffi.new("uint64_t[]", room)
        return list(out[0 : self.lib.kdmp_overlay_take_dirty(self.overlay, out, room)])


@pytest.fixture
def overlay(core):
    made = Overlay(core, small_machine().dump(FULL))
    yield made
    made.close()


def test_a_clean_overlay_is_its_base(overlay):
    lib = overlay.lib
    base, over = lib.kdmp_get_source(overlay.dump), lib.kdmp_overlay_source(overlay.overlay)
    assert over.clean == base
    assert overlay.frames() == []
    assert overlay.read(0x1000, 64)[0] == 0
    assert overlay.write(0x1000, b"x") == 0
    assert over.clean == overlay.ffi.NULL
    lib.kdmp_overlay_reset(overlay.overlay)
    assert over.clean == base


def test_a_write_changes_its_bytes_only(overlay):
    _, before = overlay.read(0x1000, 0x2000)
    assert overlay.write(0x1FFC, b"12345678") == 0
    assert overlay.read(0x1000, 0x2000)[1] == before[:0xFFC] + b"12345678" + before[0x1004:]
    assert overlay.frames() == [(1, None, False), (2, None, False)]


def test_a_hole_refuses_the_whole_write(overlay):
    status, _ = overlay.read(0x7FFF_F000, 1)
    assert status == overlay.lib.KDMP_E_NOT_IN_DUMP
    assert overlay.write(0x7FFF_F000, b"x") == overlay.lib.KDMP_E_NOT_IN_DUMP
    assert overlay.frames() == []


def test_writes_end_with_the_addresses(overlay):
    assert overlay.write(2**64 - 4, bytes(8)) == overlay.lib.KDMP_E_ADDRESS_END


def test_made_up_frames(overlay):
    lib = overlay.lib
    assert lib.kdmp_overlay_create(overlay.overlay, 0x50000) == 0
    assert lib.kdmp_overlay_create(overlay.overlay, 0x50000) == lib.KDMP_E_ARGUMENT
    assert lib.kdmp_overlay_create(overlay.overlay, 1) == lib.KDMP_E_ARGUMENT
    assert lib.kdmp_overlay_create(overlay.overlay, 2**52) == lib.KDMP_E_ARGUMENT
    assert overlay.read(0x5000_0000, PAGE) == (0, bytes(PAGE))
    assert overlay.write(0x5000_0010, b"hello") == 0
    assert overlay.read(0x5000_0010, 5) == (0, b"hello")
    assert overlay.frames() == [(0x50000, None, True)]


def test_numbers_that_are_no_frames(overlay):
    lib, over = overlay.lib, overlay.overlay
    for pfn in (2**40, 2**52 + 1, 2**64 - 1):
        assert lib.kdmp_overlay_create(over, pfn) == lib.KDMP_E_ARGUMENT
        assert lib.kdmp_overlay_remap(over, pfn, 1) == lib.KDMP_E_ARGUMENT
        assert lib.kdmp_overlay_remap(over, 1, pfn) == lib.KDMP_E_ARGUMENT  # 2**52 + 1 is not 1
        assert lib.kdmp_overlay_watch(over, pfn) == lib.KDMP_E_ARGUMENT
        assert lib.kdmp_overlay_revert(over, pfn) == lib.KDMP_E_NOT_PRESENT
        assert lib.kdmp_overlay_find(over, pfn, overlay.ffi.new("struct kdmp_overlay_frame *")) == 0
        lib.kdmp_overlay_unwatch(over, pfn)
    assert overlay.frames() == []


def test_what_is_shown_stays(overlay):
    lib, over = overlay.lib, overlay.overlay
    assert lib.kdmp_overlay_create(over, 0x100) == 0
    assert lib.kdmp_overlay_remap(over, 1, 0x100) == 0
    assert lib.kdmp_overlay_revert(over, 0x100) == lib.KDMP_E_ARGUMENT
    assert lib.kdmp_overlay_revert(over, 1) == 0
    assert lib.kdmp_overlay_revert(over, 0x100) == 0


def test_reset_gives_memory_back_and_starts_again(overlay):
    for _ in range(3):
        overlay.snapshot()
        for pfn in range(0x1000, 0x1100):
            assert overlay.lib.kdmp_overlay_create(overlay.overlay, pfn) == 0
        assert overlay.write(0x1000, bytes(PAGE)) == 0
        overlay.lib.kdmp_overlay_reset(overlay.overlay)
        assert overlay.frames() == [] and overlay.read(0x100_0000, 1)[1] == b""


def test_virtual_writes_and_page_tables(overlay):
    lib = overlay.lib
    assert overlay.write(KERNEL_VA + 0x123, b"abc", "X64") == 0
    assert overlay.read(KERNEL_VA + 0x123, 3, "X64") == (0, b"abc")
    walk = overlay.ffi.new("struct kdmp_translation *")
    assert lib.kdmp_translate(overlay.space("X64"), KERNEL_VA, walk) == 0
    leaf, frame = walk.entries[walk.depth - 1], walk.paddr >> 12
    other = 1
    entry = (leaf.value & ~0xFFFFFFFFFF000) | other << 12
    assert frame != other
    assert overlay.write(leaf.paddr, entry.to_bytes(8, "little")) == 0
    assert overlay.read(KERNEL_VA, PAGE, "X64") == overlay.read(other << 12, PAGE)
    assert overlay.write(leaf.paddr, bytes(8)) == 0
    assert overlay.write(KERNEL_VA, b"x", "X64") == lib.KDMP_E_NOT_PRESENT


@pytest.mark.parametrize("capacity", [1, 7, 8192])
def test_a_translation_cache_follows_the_tables(overlay, capacity):
    lib = overlay.lib
    assert overlay.open_tlb(capacity) == 0
    first = overlay.read(KERNEL_VA, 8, "X64")
    assert overlay.read(KERNEL_VA, 8, "X64") == first
    assert overlay.tlb_info().hits >= 1
    walk = overlay.ffi.new("struct kdmp_translation *")
    assert lib.kdmp_translate(overlay.space("X64"), KERNEL_VA, walk) == 0
    for level in range(walk.depth):
        at = walk.entries[level].paddr
        _, old = overlay.read(at, 8)
        snapshot = overlay.snapshot()
        assert overlay.read(KERNEL_VA, 8, "X64") == first
        assert overlay.write(at, bytes(8)) == 0
        assert overlay.read(KERNEL_VA, 8, "X64") == (lib.KDMP_E_NOT_PRESENT, b"")
        if level % 2:
            assert overlay.restore(snapshot)[0] == 0
        else:
            assert overlay.write(at, old) == 0
        assert overlay.read(KERNEL_VA, 8, "X64") == first


def test_the_cache_and_its_figures(overlay):
    lib = overlay.lib
    assert overlay.open_tlb(0) == lib.KDMP_E_ARGUMENT
    assert overlay.open_tlb(64) == 0
    for _ in range(3):
        for page in range(2):
            overlay.read(KERNEL_VA + page * PAGE, 8, "X64")
    info = overlay.tlb_info()
    assert (info.misses, info.hits, info.size, info.capacity) == (2, 4, 2, 64)
    assert lib.kdmp_tlb_flush_page(overlay.tlb, KERNEL_VA + 5) == 1
    assert lib.kdmp_tlb_flush_page(overlay.tlb, KERNEL_VA) == 0
    assert overlay.tlb_info().size == 1
    assert lib.kdmp_tlb_resize(overlay.tlb, 0) == lib.KDMP_E_ARGUMENT
    assert lib.kdmp_tlb_resize(overlay.tlb, 10) == 0
    assert overlay.tlb_info().size == 0
    overlay.read(KERNEL_VA, 8, "X64")
    lib.kdmp_tlb_flush(overlay.tlb)
    assert overlay.tlb_info().size == 0


def test_watched_frames_tell_which_words_changed(overlay):
    lib = overlay.lib
    assert overlay.write(0x1000, b"not watched") == 0
    assert lib.kdmp_overlay_watch(overlay.overlay, 1) == 0
    assert lib.kdmp_overlay_watch(overlay.overlay, 1) == 0
    assert overlay.take_dirty() == []
    assert overlay.write(0x1FFF, b"ab") == 0
    assert overlay.write(0x1007, b"ab") == 0
    assert overlay.take_dirty(2) == [0x1000, 0x1008]
    assert overlay.take_dirty() == [0x1FF8]
    assert overlay.take_dirty() == []
    snapshot = overlay.snapshot()
    assert overlay.write(0x1100, b"ab") == 0
    overlay.take_dirty()
    assert overlay.restore(snapshot) == (0, 1)
    assert len(overlay.take_dirty()) == 512
    lib.kdmp_overlay_unwatch(overlay.overlay, 1)
    assert overlay.write(0x1000, b"still") == 0
    lib.kdmp_overlay_unwatch(overlay.overlay, 1)
    assert overlay.take_dirty() == []
    lib.kdmp_overlay_unwatch(overlay.overlay, 1)
    assert overlay.write(0x1000, b"no more") == 0
    assert overlay.take_dirty() == []


BASE = [1, 2, 3, 4]  # the page tables of small_machine
NEW = [0x100, 0x101]
FRAME = st.sampled_from(BASE + NEW)


class Model(RuleBasedStateMachine):
    """Random operations; the model is dicts that are copied whole."""

    core = None
    image = small_machine().dump(FULL)

    @initialize()
    def start(self):
        self.over = Overlay(self.core, self.image)
        self.base = {pfn: self.over.read(pfn << 12, PAGE)[1] for pfn in BASE}
        self.others = set(self.over.runs()) - set(BASE)
        self.pages, self.remaps = {}, {}
        self.saved = []
        self.watched, self.dirty = set(), set()

    def teardown(self):
        if hasattr(self, "over"):
            self.over.close()

    def state(self):
        return copy.deepcopy((self.pages, self.remaps))

    def exists(self, pfn):
        return pfn in self.pages or pfn in self.base

    def content(self, pfn):
        pfn = self.remaps.get(pfn, pfn)
        return self.pages.get(pfn, self.base.get(pfn))

    @rule(pfn=FRAME, offset=st.integers(0, PAGE - 1), data=st.binary(min_size=1, max_size=24))
    def write(self, pfn, offset, data):
        data = data[: PAGE - offset]
        status = self.over.write((pfn << 12) + offset, data)
        old = self.content(pfn)
        assert (status == 0) == (old is not None)
        if old is not None:
            target = self.remaps.get(pfn, pfn)
            self.pages[target] = old[:offset] + data + old[offset + len(data) :]

    @rule(pfn=FRAME)
    def create(self, pfn):
        status = self.over.lib.kdmp_overlay_create(self.over.overlay, pfn)
        allowed = not self.exists(pfn) and pfn not in self.remaps
        assert (status == 0) == allowed
        if allowed:
            self.pages[pfn] = bytes(PAGE)

    @rule(pfn=FRAME, shown=FRAME)
    def remap(self, pfn, shown):
        target = shown
        status = self.over.lib.kdmp_overlay_remap(self.over.overlay, pfn, target)
        allowed = (
            pfn != target and target not in self.remaps and self.exists(target) and pfn not in self.pages
        ) and pfn not in self.remaps.values()
        if status == 0:
            assert allowed
            self.remaps[pfn] = target
        else:
            assert not allowed

    @rule(pfn=FRAME)
    def revert(self, pfn):
        status = self.over.lib.kdmp_overlay_revert(self.over.overlay, pfn)
        changed = pfn in self.pages or pfn in self.remaps
        shown = pfn in self.pages and pfn not in self.base and pfn in self.remaps.values()
        assert (status == 0) == (changed and not shown)
        if status == 0:
            self.pages.pop(pfn, None)
            self.remaps.pop(pfn, None)

    @rule()
    def snapshot(self):
        self.saved.append((self.over.snapshot(), self.state()))

    @rule(data=st.data())
    def restore(self, data):
        if not self.saved:
            assert self.over.restore(999)[0] != 0
            return
        at = data.draw(st.integers(0, len(self.saved) - 1))
        number, state = self.saved[at]
        assert self.over.restore(number)[0] == 0
        for gone, _ in self.saved[at + 1 :]:
            assert self.over.restore(gone)[0] == self.over.lib.KDMP_E_ARGUMENT
        del self.saved[at + 1 :]
        self.pages, self.remaps = copy.deepcopy(state)

    @rule(data=st.data())
    def drop(self, data):
        assert self.over.lib.kdmp_overlay_drop(self.over.overlay, 999) == self.over.lib.KDMP_E_ARGUMENT
        if self.saved:
            at = data.draw(st.integers(0, len(self.saved) - 1))
            assert self.over.lib.kdmp_overlay_drop(self.over.overlay, self.saved.pop(at)[0]) == 0

    @rule()
    def forget(self):
        self.over.lib.kdmp_overlay_forget(self.over.overlay)
        self.saved.clear()

    @rule()
    def reset(self):
        self.over.lib.kdmp_overlay_reset(self.over.overlay)
        self.saved.clear()
        self.pages.clear()
        self.remaps.clear()

    @invariant()
    def everything_reads_alike(self):
        if not hasattr(self, "over"):
            return
        for pfn in BASE + NEW:
            status, data = self.over.read(pfn << 12, PAGE)
            expected = self.content(pfn)
            assert data == (expected or b"")
            assert (status == 0) == (expected is not None)
        whole = b"".join(self.content(pfn) for pfn in BASE)
        assert self.over.read(BASE[0] << 12, len(BASE) * PAGE) == (0, whole)
        base = self.base
        assert self.over.frames() == sorted(
            [(pfn, None, pfn not in base) for pfn in self.pages]
            + [(pfn, target, pfn not in base) for pfn, target in self.remaps.items()]
        )
        assert {pfn: target for pfn, target, _ in self.over.remaps()} == self.remaps
        assert self.over.runs() == sorted({*base, *self.others, *self.pages, *self.remaps})


def test_random_operations_agree_with_the_model(core):
    class Machine(Model):
        pass

    Machine.core = core
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )


def test_a_frame_changed_over_and_over_costs_nothing(overlay):
    """What a snapshot keeps depends on how many frames were changed, not on how often."""
    lib = overlay.lib
    _, original = overlay.read(0x1000, 2 * PAGE)
    assert overlay.write(0x2000, b"before") == 0
    snapshot = overlay.snapshot()
    for round in range(3000):
        assert overlay.write(0x1000, bytes([round % 256])) == 0
        assert lib.kdmp_overlay_revert(overlay.overlay, 1) == 0
        assert overlay.write(0x2000, bytes([round % 256])) == 0
        assert lib.kdmp_overlay_revert(overlay.overlay, 2) == 0
    status, frames = overlay.restore(snapshot)
    assert status == 0 and frames <= 64
    expected = original[:PAGE] + b"before" + original[PAGE + 6 :]
    assert overlay.read(0x1000, 2 * PAGE)[1] == expected


def test_forgotten_snapshots_cost_nothing(overlay):
    """The log keeps one version of a frame for each snapshot that is left, however many were forgotten."""
    lib = overlay.lib
    _, original = overlay.read(0x1000, PAGE)
    first = overlay.snapshot()
    for round in range(2000):
        inner = overlay.snapshot()
        assert overlay.write(0x1000 + round % 64, b"x") == 0
        assert lib.kdmp_overlay_drop(overlay.overlay, inner) == 0
    assert overlay.restore(first) == (0, 1)
    assert overlay.read(0x1000, PAGE)[1] == original
    window = [overlay.snapshot() for _ in range(3)]
    for round in range(2000):
        assert overlay.write(0x1000, bytes([round % 256])) == 0
        window.append(overlay.snapshot())
        assert lib.kdmp_overlay_drop(overlay.overlay, window.pop(0)) == 0
    assert overlay.restore(window[0])[0] == 0
    assert overlay.read(0x1000, 1)[1] == bytes([1997 % 256])
    assert overlay.restore(first) == (0, 1)
    assert overlay.read(0x1000, PAGE)[1] == original


def test_which_frames_exist_decides_translations(overlay):
    """Without the L1TF mask a transition PTE means the frame that is there, so the cache must notice one."""
    assert overlay.open_tlb(64) == 0
    walk = overlay.ffi.new("struct kdmp_translation *")
    assert overlay.lib.kdmp_translate(overlay.space("X64"), KERNEL_VA, walk) == 0
    entry = 0x20 << 12 | 1 << 45 | 1 << 11 | 4 << 5
    assert overlay.write(walk.entries[walk.depth - 1].paddr, entry.to_bytes(8, "little")) == 0
    old = overlay.read(KERNEL_VA, 8, "X64")
    assert old == overlay.read(0x20000, 8)
    high = 0x20 | 1 << 33
    assert overlay.lib.kdmp_overlay_create(overlay.overlay, high) == 0
    assert overlay.write(high << 12, b"NEWFRAME") == 0
    assert overlay.read(KERNEL_VA, 8, "X64") == (0, b"NEWFRAME")
    assert overlay.lib.kdmp_overlay_revert(overlay.overlay, high) == 0
    assert overlay.read(KERNEL_VA, 8, "X64") == old
