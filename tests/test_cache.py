"""The translation cache of a reader: rows C25 to C34 of the checklist.

SPDX-License-Identifier: MIT
"""

import gc
import io

import pytest
from conftest import KERNEL_VA, small_machine
from dumpbuilder import GB1, MB2, PAGE, Memory, P, Tables, U, W, stamp
from test_threads import run_together

import kdmp

NOTHING = (0, 0, 0)


@pytest.fixture
def dump(small_image):
    with kdmp.Dump(small_image) as dump:
        yield dump


@pytest.fixture
def reader(dump):
    return dump.reader(dtb=0x1000, paging="x64", discover=False)


def figures(reader):
    return reader.cache_info()[:3]


def counted():
    """Page tables of a machine with many pages: page k at KERNEL_VA + k * PAGE is frame 0x100 + k."""
    memory = Memory()
    tables = Tables(memory)
    for k in range(40):
        memory.fill(0x100 + k)
        tables.map(KERNEL_VA + k * PAGE, (0x100 + k) * PAGE)
    return memory


def test_c25_default_size(dump, reader):
    """C25: 8192 entries, on from the start; both kinds of cache in dump.cache_info()."""
    assert reader.cache_info() == kdmp.CacheInfo(0, 0, 0, 8192, True)
    assert reader.cache_info()._fields == ("hits", "misses", "size", "capacity", "enabled")
    reader.read_u8(KERNEL_VA)
    reader.read_u8(KERNEL_VA)
    assert dump.cache_info().translations == reader.cache_info() == (1, 1, 1, 8192, True)


def test_c25_c30_there_is_no_frame_cache(dump, small_image):
    """C25-C30: pages are used where they are, so there are no frames to cache, and no stale ones."""
    before = dump.cache_info().frames
    dump.phys.read(0x20000, 2 * PAGE)
    assert dump.cache_info().frames == before == (0, 0, 0, 0, False)
    page = dump.pages[0x21]  # not a copy
    assert page.obj is not None and bytes(page) == stamp(0x21)
    page.release()


def test_c26_size_by_argument(dump):
    """C26: the size is an argument; 0 is a ValueError."""
    assert dump.reader(0x1000, "x64", translation_cache=3).cache_info().capacity == 3
    assert kdmp.Reader(dump, paging="x64", dtb=0x1000, translation_cache=1).cache_info().capacity == 1
    with pytest.raises(ValueError, match="at least 1"):
        dump.reader(0x1000, "x64", translation_cache=0)
    with pytest.raises(ValueError):
        dump.reader(0x1000, "x64", translation_cache=-1)
    with pytest.raises(ValueError, match="large"):
        dump.reader(0x1000, "x64", translation_cache=2**40)
    with pytest.raises(TypeError):
        dump.reader(0x1000, "x64", translation_cache="many")


def test_c27_disabling_drops(reader):
    """C27 (D6): what a disabled cache knew does not come back."""
    reader.read_u8(KERNEL_VA)
    reader.cache_enabled = False
    assert reader.cache_info() == (0, 1, 0, 8192, False)
    assert reader.read_u8(KERNEL_VA + PAGE) == 0x21
    assert figures(reader) == (0, 1, 0)
    reader.cache_enabled = True
    reader.read_u8(KERNEL_VA)
    assert figures(reader) == (0, 2, 1)
    with pytest.raises(AttributeError):
        del reader.cache_enabled


def test_c27_an_overlay_written_while_disabled(dump):
    with dump.overlay() as ov:
        reader = ov.reader(0x1000, "x64")
        assert reader.read_u64(KERNEL_VA) == 0x20
        reader.cache_enabled = False
        leaf = reader.translate(KERNEL_VA).entries[-1]
        ov.write_u64(leaf.pa, leaf.value ^ 0x20000 ^ 0x21000)
        assert reader.read_u64(KERNEL_VA) == 0x21
        reader.cache_enabled = True
        assert reader.read_u64(KERNEL_VA) == 0x21


def test_c28_resize():
    """C28: another size, at least 1; the cache is empty then and holds no more than that."""
    with kdmp.Dump(counted().dump()) as dump:
        reader = dump.reader(0x1000, "x64")
        for k in range(40):
            assert reader.read_u64(KERNEL_VA + k * PAGE) == 0x100 + k
        assert figures(reader) == (0, 40, 40)
        reader.cache_resize(4)
        assert reader.cache_info() == (0, 40, 0, 4, True)
        for k in range(40):
            assert reader.read_u64(KERNEL_VA + k * PAGE) == 0x100 + k
        assert 1 <= reader.cache_info().size <= 4
        for wrong in (0, -1, 2**33):
            with pytest.raises(ValueError):
                reader.cache_resize(wrong)
        assert reader.cache_info().capacity == 4


def test_c29_flush(reader):
    """C29: one entry, by any address of the page, or all; tells how many went."""
    reader.read_u8(KERNEL_VA)
    reader.read_u8(KERNEL_VA + PAGE)
    assert reader.cache_flush(KERNEL_VA + 5) == 1
    assert reader.cache_flush(KERNEL_VA + 5) == 0
    assert reader.cache_info().size == 1
    assert reader.cache_flush() == 1
    assert reader.cache_flush() == 0
    with pytest.raises(OverflowError):
        reader.cache_flush(-1)


def test_c31_one_entry_per_page(reader):
    """C31 (D6): reading a page byte by byte takes one entry, not 4096."""
    for offset in range(0, PAGE, 16):
        reader.read_u8(KERNEL_VA + offset)
    assert figures(reader) == (PAGE // 16 - 1, 1, 1)


def test_c31_page_edges(reader):
    """C31: what crosses a page is two entries, and reads right from the cache too."""
    for _ in range(2):
        assert reader.read_u64(KERNEL_VA + PAGE - 4) == int.from_bytes(
            stamp(0x20)[-4:] + stamp(0x21)[:4], "little"
        )
    assert figures(reader) == (2, 2, 2)
    for _ in range(2):  # mapped, then a hole
        with pytest.raises(kdmp.PartialReadError) as caught:
            reader.read_u64(KERNEL_VA + 2 * PAGE - 4)
        assert caught.value.actual == 4
    assert reader.read(KERNEL_VA + 2 * PAGE - 4, 8) == stamp(0x21)[-4:]


def test_c31_a_missing_frame_stays_missing(reader):
    for _ in range(2):
        with pytest.raises(kdmp.NotInDumpError) as caught:
            reader.read_u8(KERNEL_VA + 3 * PAGE)
        assert (caught.value.pa, caught.value.level) == (0x99000, 0)
        assert caught.value.entries


@pytest.mark.parametrize("size", [MB2, GB1])
def test_c31_large_pages(size):
    """C31: a large page is cached by 4 KiB, with the right offset in each."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(KERNEL_VA, GB1, size=size, flags=P | W | U)
    frames = [0, 1, 5, size // PAGE - 1]
    memory.fill(*(GB1 // PAGE + frame for frame in frames))
    with kdmp.Dump(memory.dump()) as dump:
        reader = dump.reader(0x1000, "x64")
        for _ in range(2):
            for frame in frames:
                assert reader.read_u64(KERNEL_VA + frame * PAGE + 8) == GB1 // PAGE + frame | 1 << 32
        assert figures(reader) == (4, 4, 4)
        assert reader.read(KERNEL_VA + PAGE - 8, 16) == stamp(GB1 // PAGE)[-8:] + stamp(GB1 // PAGE + 1)[:8]


def test_c31_physical_readers_have_none(dump):
    """C31: physical reads go past the cache."""
    dump.phys.read_u64(0x20000)
    assert dump.phys.cache_info() == (0, 0, 0, 0, False)
    assert dump.phys.cache_flush() == 0
    with pytest.raises(ValueError, match="no translation cache"):
        dump.phys.cache_enabled = True
    dump.phys.cache_enabled = False
    with pytest.raises(ValueError, match="no translation cache"):
        dump.phys.cache_resize(5)


def other_root():
    """A machine with a second root, 0x30000, that maps the same address to another frame."""
    memory = small_machine()
    Tables(memory, root=0x30000, spare=0x31).map(KERNEL_VA, 0x21000)
    return memory


def test_c31_contexts_do_not_use_another_roots_cache():
    """C31: an AccessContext with another root is not answered from this reader's cache, nor kept in it."""
    with kdmp.Dump(other_root().dump()) as dump:
        reader = dump.reader(0x1000, "x64")
        for _ in range(2):
            assert reader.read_u64(KERNEL_VA) == 0x20
            assert reader.read_u64(kdmp.virt(KERNEL_VA, 0x30000)) == 0x21
            assert reader.read_u64(kdmp.virt(KERNEL_VA)) == 0x20
            assert reader.read_u64(kdmp.phys(0x21000)) == 0x21
        assert figures(reader) == (1, 1, 1)
        other = reader.at(0x30000)
        assert [other.read_u64(KERNEL_VA), reader.read_u64(KERNEL_VA)] == [0x21, 0x20]


def test_at_and_pickle_keep_the_settings(small_path):
    import pickle

    with kdmp.Dump(small_path) as dump:
        reader = dump.reader(0x1000, "x64", translation_cache=77)
        reader.cache_enabled = False
        assert reader.at(0x2000).cache_info() == (0, 0, 0, 77, False)
        copy = pickle.loads(pickle.dumps(reader))
        assert copy.cache_info().capacity == 77
        assert copy.read_u64(KERNEL_VA) == 0x20
        assert pickle.loads(pickle.dumps(dump.phys)).read_u64(0x21000) == 0x21
        copy.dump.close()


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_c32_writes_to_page_tables_count_at_once(dump, level):
    """C32: each level's table, written through whatever address, is followed by the next read."""
    with dump.overlay() as ov:
        reader, sibling = ov.reader(0x1000, "x64"), ov.reader(0x1000, "x64")
        for one in (reader, sibling):
            assert one.read_u64(KERNEL_VA) == 0x20
        entry = next(e for e in reader.translate(KERNEL_VA).entries if e.level == level)
        ov.write_u64(entry.pa, 0)
        for one in (reader, sibling):
            assert one.cache_info().size == 1  # found out by the next read
            with pytest.raises(kdmp.NotPresentError):
                one.read_u64(KERNEL_VA)
        ov.write_u64(entry.pa, entry.value)
        assert [one.read_u64(KERNEL_VA) for one in (reader, sibling)] == [0x20, 0x20]


def test_c32_other_writes_keep_the_cache(dump):
    """C32: only frames that were used as page tables matter."""
    with dump.overlay() as ov:
        reader = ov.reader(0x1000, "x64")
        reader.read_u64(KERNEL_VA)
        epoch = ov.epoch
        reader.write_u64(KERNEL_VA + 8, 5)
        ov.write(0x21000, bytes(PAGE))
        assert ov.epoch == epoch
        assert reader.read_u64(KERNEL_VA + 8) == 5
        assert reader.cache_info().misses == 1


def test_c32_whole_frames_that_change(dump):
    """C32: restoring, reverting, remapping and resetting page tables is noticed as well."""
    with dump.overlay() as ov:
        reader = ov.reader(0x1000, "x64")
        assert reader.read_u64(KERNEL_VA) == 0x20
        leaf = reader.translate(KERNEL_VA).entries[-1]
        other = leaf.value ^ 0x20000 ^ 0x21000
        snapshot = ov.snapshot()
        for undo in (
            lambda: ov.restore(snapshot),
            lambda: ov.revert([leaf.pa >> 12]),
            ov.reset,
        ):
            ov.write_u64(leaf.pa, other)
            assert reader.read_u64(KERNEL_VA) == 0x21
            undo()
            assert reader.read_u64(KERNEL_VA) == 0x20
        copy = ov.create_frame()
        ov.write(copy << 12, ov.phys.read_exact(leaf.pa & ~0xFFF, PAGE))
        ov.write_u64(copy << 12 | leaf.pa & 0xFFF, other)
        ov.remap(leaf.pa >> 12, copy)
        assert reader.read_u64(KERNEL_VA) == 0x21
        ov.write_u64(copy << 12 | leaf.pa & 0xFFF, leaf.value)  # what the table shows now
        assert reader.read_u64(KERNEL_VA) == 0x20
        ov.unmap(leaf.pa >> 12)
        assert reader.read_u64(KERNEL_VA) == 0x20


def test_c33_sums_over_readers(dump):
    """C33: hits and misses; those of all readers together at the dump."""
    readers = [dump.reader(0x1000, "x64", discover=False, translation_cache=10) for _ in range(3)]
    for reader in readers:
        for _ in range(4):
            reader.read_u64(KERNEL_VA)
    assert dump.cache_info().translations == (9, 3, 3, 30, True)
    del readers, reader
    gc.collect()
    assert dump.cache_info().translations == (0, 0, 0, 0, False)


def test_c34_many_threads(small_image):
    """C34: one cache, many threads, with flushes and resizes between: answers stay right."""
    with kdmp.Dump(counted().dump()) as dump:
        reader = dump.reader(0x1000, "x64", translation_cache=16)

        def work(n):
            for k in range(3000):
                page = (k * 7 + n) % 40
                assert reader.read_u64(KERNEL_VA + page * PAGE) == 0x100 + page
                if k % 97 == 0:
                    reader.cache_flush() if n % 2 else reader.cache_resize(1 + k % 50)
                if k % 61 == 0:
                    reader.cache_enabled = not reader.cache_enabled

        run_together(work)


class Nested(io.BytesIO):
    """A file that, while it is read, changes the cache of the reader that reads it."""

    reader = None
    calls = 0

    def read(self, size=-1):
        if self.reader is not None:
            self.calls += 1
            self.reader.cache_resize(1 + self.calls % 5)
            self.reader.cache_flush()
            self.reader.cache_enabled = self.calls % 3 != 0
        return super().read(size)


def test_c34_nested_use(small_image):
    """C34: the cache in use in the middle of a translation, which made the original panic."""
    file = Nested(small_image)
    with kdmp.Dump(file) as dump:
        reader = dump.reader(0x1000, "x64", discover=False)
        file.reader = reader
        for k in range(30):
            assert reader.read_u64(KERNEL_VA + k % 2 * PAGE) == 0x20 + k % 2
        assert file.calls > 30
        with dump.overlay() as ov:
            file.reader = ov.reader(0x1000, "x64")
            assert file.reader.cache_info().enabled is False  # over a file object an overlay has none
            file.reader.cache_enabled = True
            assert file.reader.cache_enabled is False
            assert file.reader.read_u64(KERNEL_VA) == 0x20
            ov.write_u64(0x21008, 7)
            assert ov.phys.read_u64(0x21008) == 7


def test_c70_clear_caches(dump, reader):
    """C70: all readers forget; the second half is Overlay.reset (test_overlay.py)."""
    with dump.overlay() as ov:
        other = ov.reader(0x1000, "x64")
        for one in (reader, other):
            one.read_u64(KERNEL_VA)
        assert dump.clear_caches() == 2
        assert [reader.cache_info().size, other.cache_info().size] == [0, 0]
        assert dump.clear_caches() == 0
        assert reader.read_u64(KERNEL_VA) == 0x20
