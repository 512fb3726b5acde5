"""The views of a dump: rows C60 to C65 of the checklist.

SPDX-License-Identifier: MIT
"""

import gc
import io

import pytest
from conftest import KERNEL_VA
from dumpbuilder import PAGE, stamp

import kdmp
from kdmp.views import Views


@pytest.fixture
def dump(small_image):
    with kdmp.Dump(small_image) as dump:
        yield dump


def test_c60_view_0_is_the_dump(dump):
    """C60: the default view is the dump itself, number 0."""
    assert isinstance(dump.views, Views)
    assert dump.views[0] is dump
    assert list(dump.views) == [0]
    assert dump.phys.view == dump.reader(0x1000, "x64").view == 0
    assert dump.phys.overlay is None
    with pytest.raises(ValueError, match="dump itself"):
        dump.views.destroy(0)


def test_c61_create_and_destroy(dump):
    """C61: named overlays, numbered from 1; destroying one forgets what it had."""
    hook = dump.overlay("hook")
    plain = dump.views.create()
    assert (hook.view, hook.name, plain.view, plain.name) == (1, "hook", 2, None)
    assert dump.views["hook"] is dump.views[1] is hook
    assert dict(dump.views) == {0: dump, 1: hook, 2: plain}
    assert "hook" in repr(dump.views) and "hook" in repr(hook)
    with pytest.raises(ValueError, match="'hook'"):
        dump.overlay("hook")
    hook.write_u64(0x20000, 5)
    reader = hook.reader(0x1000, "x64")
    assert reader.read_u64(KERNEL_VA) == 5
    dump.views.destroy("hook")
    assert list(dump.views) == [0, 2]
    assert reader.read_u64(KERNEL_VA) == 0x20
    assert dump.overlay("hook").view == 3  # the name is free again, the number is not
    dump.views.destroy(plain)
    for gone in (2, plain, "plain", 77, -1):
        with pytest.raises(KeyError):
            dump.views.destroy(gone)


def test_c61_views_of_another_dump(dump, small_image):
    with kdmp.Dump(small_image) as other:
        mine, theirs = dump.overlay("a"), other.overlay("b")
        with pytest.raises(KeyError):
            dump.views.destroy(theirs)
        assert (mine.view, theirs.view) == (1, 1)
        with pytest.raises(ValueError, match="another dump"):
            kdmp.Reader(dump, paging="physical", overlay=theirs)
        with pytest.raises(ValueError, match="another dump"):
            dump.reader(0x1000, "x64", view=theirs)


def test_c61_how_long_views_live(dump):
    """A view with a name lives on, one without as long as somebody uses it."""
    dump.overlay("kept").write_u8(0x20000, 1)
    reader = dump.overlay().reader(0x1000, "x64")
    dump.overlay()
    gc.collect()
    assert list(dump.views) == [0, 1, 2]
    assert dump.views["kept"].phys.read_u8(0x20000) == 1
    del reader
    gc.collect()
    assert list(dump.views) == [0, 1]


def test_c61_a_view_that_is_watched_from_the_start(dump):
    """C61: what was the access argument is a watch on everything."""
    seen = []
    view = dump.views.create("watched", lambda *what: seen.append(what))
    view.reader(0x1000, "x64").write(KERNEL_VA + PAGE - 2, b"1234")
    assert seen == [(view, 0x20FFE, 4)]
    view.write_u8(view.create_frame(2**40 - 1) << 12, 1)
    assert seen[1:] == [(view, (2**40 - 1) << 12, 1)]


def test_c62_a_reader_is_bound_to_its_view(dump):
    """C62: there is no current view: readers of several work side by side."""
    views = [dump.overlay(name) for name in ("one", "two")]
    for k, view in enumerate(views, 1):
        view.write_u64(0x20000, k)
    readers = [dump.reader(0x1000, "x64"), *(view.reader(0x1000, "x64") for view in views)]
    for _ in range(2):
        assert [reader.read_u64(KERNEL_VA) for reader in readers] == [0x20, 1, 2]
    assert [reader.view for reader in readers] == [0, 1, 2]
    assert [reader.physical.read_u64(0x20000) for reader in readers] == [0x20, 1, 2]
    assert [reader.read_u64(kdmp.phys(0x20000)) for reader in readers] == [0x20, 1, 2]
    assert [reader.at(0x1000).view for reader in readers] == [0, 1, 2]
    assert "view=2" in repr(readers[2]) and "view" not in repr(readers[0])
    by_argument = [dump.reader(0x1000, "x64", view=view) for view in (0, 1, "two", views[1])]
    assert [reader.read_u64(KERNEL_VA) for reader in by_argument] == [0x20, 1, 2, 2]
    with pytest.raises(KeyError):
        dump.reader(0x1000, "x64", view="three")


def test_c63_remap(dump):
    """C63: reads and walks of the view see the other frame; the recipe of a hidden hook."""
    with dump.overlay() as view:
        reader = view.reader(0x1000, "x64")
        shadow = view.create_frame()
        view.write(shadow << 12, view.phys.read_exact(0x20000, PAGE))
        view.write_u8(shadow << 12 | 0x10, 0xCC)
        view.remap(0x20, shadow)
        assert reader.read_u8(KERNEL_VA + 0x10) == 0xCC
        assert dump.reader(0x1000, "x64").read(KERNEL_VA, PAGE)[:0x20] == stamp(0x20)[:0x20]
        reader.write_u8(KERNEL_VA + 0x11, 0xDD)  # goes to what is shown
        assert view.phys.read_exact((shadow << 12) + 0x10, 2) == b"\xcc\xdd"
        assert view.frames() == [(0x20, shadow, False), (shadow, None, True)]
        assert view.remaps() == [(0x20, shadow, False)]
        assert view.frame(0x20) == (0x20, shadow, False) and view.frame(0x21) is None
        assert f"shows frame {shadow:#x}" in str(reader.explain(KERNEL_VA))
        assert reader.translate(KERNEL_VA).pfn == 0x20


def test_c63_remapped_page_tables(dump):
    """C63: the walk takes its tables from the other frame."""
    with dump.overlay() as view:
        reader = view.reader(0x1000, "x64")
        table = reader.translate(KERNEL_VA).entries[-1].pa >> 12
        assert reader.read_u64(KERNEL_VA) == 0x20
        empty = view.create_frame()
        view.remap(table, empty)
        with pytest.raises(kdmp.NotPresentError):
            reader.read_u64(KERNEL_VA)
        view.unmap(table)
        assert reader.read_u64(KERNEL_VA) == 0x20


def test_c63_what_cannot_be_remapped(dump):
    with dump.overlay() as view:
        new = view.create_frame()
        view.write_u8(0x21000, 1)
        for pfn, target in ((0x21, 0x20), (new, 0x20), (0x20, 0x20), (2**52 + 5, 0x20), (0x20, 2**52 + 1)):
            with pytest.raises(ValueError):
                view.remap(pfn, target)
        with pytest.raises(kdmp.UnreadableError):
            view.remap(0x20, 0x99)
        view.remap(0x20, new)
        for pfn, target in ((2, 0x20), (new, 2), (0x21, 0x20)):  # chains
            with pytest.raises(ValueError):
                view.remap(pfn, target)
        with pytest.raises(ValueError, match="shown by"):
            view.free_frame(new)
        assert view.revert() == 3  # all at once is possible
        assert view.frames() == []
        view.remap(0x99, 0x20)  # a frame that the dump does not have
        assert view.phys.read_u64(0x99000) == 0x20
        assert view.reader(0x1000, "x64").read_u64(KERNEL_VA + 3 * PAGE) == 0x20


def test_c64_unmap(dump):
    """C64: the frame is itself again."""
    with dump.overlay() as view:
        view.remap(0x20, 0x21)
        assert view.phys.read_u64(0x20000) == 0x21
        assert view.unmap(0x20) is True
        assert view.phys.read_u64(0x20000) == 0x20
        assert view.unmap(0x20) is False
        view.write_u8(0x20000, 1)
        assert view.unmap(0x20) is False  # written, not remapped
        assert view.dirty_frames == [0x20]


def test_c65_frames_that_are_made_up(dump):
    """C65: zeroed frames above the highest, or in a hole; refused where there is one; freed again."""
    with dump.overlay() as view:
        first, second = view.create_frame(), view.create_frame()
        assert (first, second) == (0x22, 0x23)
        assert view.create_frame(0x10) == 0x10
        assert view.phys.read_exact(0x22000, 2 * PAGE) == bytes(2 * PAGE)
        for there in (0x20, 1, first, 2**52, 2**40):
            with pytest.raises(ValueError, match="exists"):
                view.create_frame(there)
        assert list(view.runs())[-2:] == [(0x10, 1), (0x20, 4)]
        assert view.has_frame(0x22) and not view.has_frame(0x24) and not view.has_frame(2**60)
        view.free_frame(first)
        with pytest.raises(kdmp.NotInDumpError):
            view.phys.read_u8(0x22000)
        for wrong in (first, 0x20, 0x99):
            with pytest.raises(ValueError, match="not made up"):
                view.free_frame(wrong)
        assert view.create_frame() == 0x22
        assert 0x10 not in dump.pages


def test_c65_a_missing_table_can_be_supplied(dump):
    """C65: page tables in made-up frames lead somewhere."""
    with dump.overlay() as view:
        reader = view.reader(0x1000, "x64")
        va = KERNEL_VA + (1 << 30)
        entry = reader.translate(KERNEL_VA).entries[1]
        directory, table = view.create_frame(), view.create_frame()
        view.write_u64(entry.pa + 8, directory << 12 | 7)
        view.write_u64(directory << 12, table << 12 | 7)
        view.write_u64(table << 12, 0x21007)
        assert reader.read_u64(va) == 0x21
        assert [one.start for one in reader.mappings(va)][:1] == [va]
        assert {owner.va for owner in reader.owners(0x21)} == {KERNEL_VA + PAGE, va}
        assert {owner.va for owner in dump.phys.owners(0x21)} == {KERNEL_VA + PAGE}
        assert "made up" in str(view.phys.explain(table << 12))
        view.free_frame(table)
        with pytest.raises(kdmp.NotInDumpError):
            reader.read_u64(va)


def test_no_views_of_dumps_without_frames():
    out = io.BytesIO()
    kdmp.write_triage(out, header={"minor_version": 19041}, stack=(KERNEL_VA, b"stack"))
    with kdmp.Dump(out.getvalue()) as dump, pytest.raises(kdmp.UnsupportedDumpError, match="physical"):
        dump.overlay()


@pytest.mark.parametrize("which", ["n", 1])
def test_c61_destroy_after_close(small_image, which):
    """C61: a view of a closed dump can be destroyed like others."""
    dump = kdmp.Dump(small_image)
    view = dump.views.create("n", print)
    dump.close()
    dump.views.destroy(which)
    assert view not in dump.views.values() and "n" not in dump.views._named
    with pytest.raises(KeyError):
        dump.views.destroy("n")


def test_c60_a_reader_of_the_dump_as_view(dump, small_image):
    """C60: the dump may be named as the view, as for a monitor."""
    dump.overlay("other").write_u64(0x20000, 5)
    reader = dump.reader(0x1000, "x64", view=dump)
    assert reader.view == 0 and reader.overlay is None and reader.read_u64(KERNEL_VA) == 0x20
    with kdmp.Dump(small_image) as other, pytest.raises(ValueError, match="another dump"):
        dump.reader(0x1000, "x64", view=other)
