"""Overlays from Python: rows C54, C55, C59 and C70 of the checklist, and random operations against dicts.

Frames that are made up and remapped are in test_views.py, watches in test_watches.py.

SPDX-License-Identifier: MIT
"""

import ctypes
import io
import pickle
import random
import struct
import threading

import pytest
from conftest import KERNEL_VA, small_machine
from dumpbuilder import ALL_KINDS, FULL, PAGE, SUMMARY, WRITER_KINDS, stamp
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shareddata import KINDS, MACHINES, machine_dump
from test_threads import run_together

import kdmp
from kdmp import wintypes

HOLE = KERNEL_VA + 2 * PAGE
GONE = KERNEL_VA + 3 * PAGE


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


# ---- writing ----


def test_c54_reads_see_writes_and_the_dump_does_not(dump, ov, reader, small_image):
    """C54: copy on write; strings, structures, gaps and translations are those of the overlay."""
    before = dump.phys.read_exact(0x20000, 2 * PAGE)
    reader.write(KERNEL_VA + 0x100, b"patched\0")
    reader.write(KERNEL_VA + PAGE - 4, b"12345678")
    assert reader.read_cstr(KERNEL_VA + 0x100) == "patched"
    assert ov.phys.read_exact(0x20FFC, 8) == b"12345678"
    assert reader.read_struct(KERNEL_VA + PAGE - 4, "<4s4s") == (b"1234", b"5678")
    data, gaps = reader.read_gaps(KERNEL_VA + PAGE, 2 * PAGE)
    assert data[:4] == b"5678" and [gap.address for gap in gaps] == [HOLE]
    assert dump.phys.read_exact(0x20000, 2 * PAGE) == before
    assert dump.reader(0x1000, "x64").read_cstr(KERNEL_VA + 0x100) == "hello"
    assert bytes(memoryview(dump)) == small_image
    assert ov.dirty_frames == [0x20, 0x21] and len(ov) == 2 and ov


def test_c54_addresses(ov, reader):
    """C54: physical numbers and AccessContexts at the overlay, any address at its readers."""
    ov.write(0x20000, b"a")
    ov.write(kdmp.phys(0x20001), bytearray(b"b"))
    ov.write(kdmp.virt(KERNEL_VA + 2, 0x1000), memoryview(b"c"))
    ov.write(kdmp.virt(KERNEL_VA + 3), b"d")
    reader.write(KERNEL_VA + 4, b"e")
    reader.write(kdmp.phys(0x20005), b"f")
    reader.write(kdmp.virt(KERNEL_VA + 6), b"g")
    ov.phys.write(kdmp.virt(KERNEL_VA + 7, 0x1000), b"h")
    assert reader.read(KERNEL_VA, 8) == b"abcdefgh"
    for wrong in ("text", 1.5, None):
        with pytest.raises(TypeError):
            ov.write(wrong, b"x")
    with pytest.raises(OverflowError):
        ov.write(-1, b"x")
    with pytest.raises(TypeError):
        ov.write(0x20000, "text")


def test_c54_refused_writes_change_nothing(ov, reader):
    """C54: a frame that is not in the dump is refused, unless it is created; all or nothing."""
    with pytest.raises(kdmp.NotInDumpError) as caught:
        ov.write_u8(0x99000, 1)
    assert caught.value.pa == 0x99000
    with pytest.raises(kdmp.NotInDumpError):
        reader.write_u8(GONE, 1)
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.write(HOLE - 4, bytes(8))
    assert caught.value.va == HOLE
    with pytest.raises(kdmp.NonCanonicalError):
        reader.write_u8(1 << 47, 1)
    with pytest.raises(kdmp.AddressEndError):
        ov.write(2**64 - 4, bytes(8))
    assert ov.frames() == [] and list(ov.diff()) == []
    ov.create_frame(0x99)
    reader.write_u8(GONE, 1)
    assert ov.phys.read_u8(0x99000) == 1


def test_c54_a_dump_is_not_written(dump):
    for reader in (dump.phys, dump.reader(0x1000, "x64")):
        with pytest.raises(kdmp.UnsupportedDumpError, match="overlay"):
            reader.write(0x20000, b"x")
        with pytest.raises(kdmp.UnsupportedDumpError, match="overlay"):
            reader.write_u32(0x20000, 1)


def test_c54_a_write_over_the_tables_it_goes_through(ov, reader):
    """All pages of a write are found before the first byte is written."""
    entry = reader.translate(KERNEL_VA).entries[-1].pa
    va = KERNEL_VA + 16 * PAGE
    ov.write_u64(entry + 16 * 8, entry & ~0xFFF | 7)  # the page table itself,
    ov.write_u64(entry + 17 * 8, 0x20007)  # and behind it a data page
    data = bytes(PAGE) + b"tail"
    reader.write(va, data)  # unmaps both as it goes
    assert ov.phys.read_exact(entry & ~0xFFF, PAGE) == bytes(PAGE)
    assert ov.phys.read_exact(0x20000, 4) == b"tail"
    with pytest.raises(kdmp.NotPresentError):
        reader.read_u8(va)


def test_c55_numbers(ov, reader):
    """C55: little-endian, signed or unsigned, and they must fit."""
    for size in (1, 2, 4, 8):
        top = 1 << 8 * size
        name = f"write_u{8 * size}"
        for value in (0, 1, top - 1, -1, -(top >> 1), 0x12):
            for target, address in ((reader, KERNEL_VA + 0xFFE), (ov, 0x20FFE), (ov, kdmp.phys(0x20FFE))):
                getattr(target, name)(address, value)
                assert reader.read_uint(KERNEL_VA + 0xFFE, size) == value % top
                assert ov.phys.read_exact(0x20FFE, size) == (value % top).to_bytes(size, "little")
        reader.write_uint(KERNEL_VA, 5, size)
        for value in (top, -(top >> 1) - 1, 2**64, -(2**63) - 1):
            with pytest.raises(OverflowError, match=f"{size} bytes"):
                getattr(ov, name)(0x20000, value)
        with pytest.raises(TypeError):
            getattr(ov, name)(0x20000, 1.0)
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        reader.write_uint(KERNEL_VA, 5, 3)


class Pair(ctypes.LittleEndianStructure):
    _fields_ = [("a", ctypes.c_uint32), ("b", ctypes.c_uint16)]


def test_c55_structures(ov, reader):
    """C55: what read_struct reads, write_struct writes."""
    ov.write_struct(0x20000, Pair(1, 2))
    assert ov.phys.read_exact(0x20000, 8) == b"\1\0\0\0\2\0\0\0"
    ov.write_struct(0x20008, (3, 4), Pair)
    ov.write_struct(0x20010, Pair(5), Pair)
    ov.write_struct(0x20018, 7, wintypes.ULONG)
    assert [(one.a, one.b) for one in ov.phys.read_structs(0x20000, Pair, 4)] == [
        (1, 2),
        (3, 4),
        (5, 0),
        (7, 3),
    ]
    ov.write_struct(0x20020, (1, b"ab"), "<I2s")
    ov.write_struct(0x20026, 9, struct.Struct(">H"))
    ov.write_struct(kdmp.virt(KERNEL_VA + 0x28, 0x1000), [8], b"q")
    reader.write_struct(KERNEL_VA + 0x30, (ctypes.c_uint16 * 2)(1, 2))
    assert ov.phys.read_exact(0x20020, 8) == b"\1\0\0\0ab\0\t"
    assert reader.read_struct(KERNEL_VA + 0x28, "<qHH") == (8, 1, 2)
    for wrong in ((5, None), (b"bytes", None), (5, 5), (5, ctypes.c_void_p), (5, "l"), (5, object)):
        with pytest.raises(TypeError):
            ov.write_struct(0x20000, *wrong)
    for wrong in ((5, "B", 3), (300, "B"), ("a", "I")):
        with pytest.raises((ValueError, TypeError)):
            ov.write_struct(0x20000, *wrong)
    with pytest.raises(kdmp.NotPresentError):
        reader.write_struct(HOLE - 4, Pair(1, 2))
    assert reader.read_exact(HOLE - 4, 4) == stamp(0x21)[-4:]


def test_c55_numpy_structures(ov):
    numpy = pytest.importorskip("numpy")
    dtype = numpy.dtype([("a", "<u4"), ("b", ">u2")])
    ov.write_struct(0x20000, numpy.array([(1, 2), (3, 4)], dtype))
    ov.write_struct(0x2000C, numpy.array((5, 6), dtype)[()])
    ov.write_struct(0x20012, (7, 8), dtype)
    ov.write_struct(0x20018, [1, 2, 3], numpy.uint16)
    assert ov.phys.read_structs(0x20000, dtype, 4).tolist() == [(1, 2), (3, 4), (5, 6), (7, 8)]
    assert ov.phys.read_exact(0x20018, 6) == b"\1\0\2\0\3\0"
    ov.write_struct(0x20020, numpy.float64(1.5))
    assert ov.phys.read_f64(0x20020) == 1.5
    with pytest.raises(TypeError, match="objects"):
        ov.write_struct(0x20000, numpy.array([object()]))


def test_c55_cffi_structures(ov):
    cffi = pytest.importorskip("cffi")
    ffi = cffi.FFI()
    ffi.cdef("struct pair { uint32_t a; uint16_t b; }; struct bad { void *p; };")
    pointer = ffi.new("struct pair *", (1, 2))
    ov.write_struct(0x20000, pointer)
    ov.write_struct(0x20008, pointer[0])
    ov.write_struct(0x20010, {"a": 3, "b": 4}, (ffi, "struct pair"))
    ov.write_struct(0x20018, ffi.new("struct pair[2]", [(5, 6), (7, 8)]))
    ov.write_struct(0x20028, 9, ffi.typeof("uint64_t"))
    assert [(one.a, one.b) for one in ov.phys.read_structs(0x20000, (ffi, "struct pair"), 6)] == [
        (1, 2), (1, 2), (3, 4), (5, 6), (7, 8), (9, 0),
    ]  # fmt: skip
    with pytest.raises(TypeError, match="pointer"):
        ov.write_struct(0x20000, ffi.new("struct bad *"))


# ---- what was changed ----


def test_c54_diff(dump, ov):
    """C54: maximal runs of bytes that differ; a rewrite of the same is none."""
    old = dump.phys.read_exact(0x20000, PAGE)
    ov.write(0x20000, old)
    assert ov.dirty_frames == [0x20] and list(ov.diff()) == []
    ov.write(0x20000, bytes([old[0] ^ 1]))
    ov.write(0x20006, bytes(byte ^ 0xFF for byte in old[6:0x12]))
    ov.write(0x20FFF, b"\xee\xee")
    made = ov.create_frame()
    ov.write_u8(made << 12, 1)
    first, second, third, fourth, fifth = ov.diff()
    assert first == (0x20, 0, old[:1], bytes([old[0] ^ 1]))
    assert second == (0x20, 6, old[6:0x12], bytes(byte ^ 0xFF for byte in old[6:0x12]))
    assert (third.pfn, third.offset, third.new) == (0x20, 0xFFF, b"\xee")
    assert (fourth.pfn, fourth.offset, fourth.new) == (0x21, 0, b"\xee")
    assert fifth == (made, 0, None, b"\1" + bytes(PAGE - 1))
    assert repr(first).startswith("<Change 0x20000: 1 bytes ") and "was" not in repr(fifth)
    ov.revert()
    ov.remap(0x20, 0x21)
    assert {change.pfn for change in ov.diff()} == {0x20}
    assert sum(len(change.new) for change in ov.diff()) == sum(
        a != b for a, b in zip(old, stamp(0x21), strict=True)
    )


def test_c54_revert(ov):
    """C54: some frames or all; a revert can itself be undone."""
    for pfn in (0x20, 0x21):
        ov.write_u64(pfn << 12, 99)
    made = ov.create_frame()
    snapshot = ov.snapshot()
    assert ov.revert(0x20) == 1
    assert ov.revert([0x20, 0x99]) == 0
    assert [ov.phys.read_u64(pfn << 12) for pfn in (0x20, 0x21)] == [0x20, 99]
    assert ov.revert() == 2
    assert ov.frames() == [] and not ov.has_frame(made)
    ov.restore(snapshot)
    assert ov.dirty_frames == [0x20, 0x21, made]


def test_snapshots(ov):
    ov.write_u64(0x20000, 1)
    first = ov.snapshot()
    ov.write_u64(0x20000, 2)
    second = ov.snapshot()
    ov.write_u64(0x20000, 3)
    ov.write_u64(0x21000, 3)
    assert ov.restore(second) == 2
    assert ov.phys.read_u64(0x20000) == 2
    for _ in range(3):
        ov.write_u64(0x20000, 5)
        assert ov.restore(second) == 1
    ov.forget(second)
    with pytest.raises(ValueError, match="no such snapshot"):
        ov.restore(second)
    with pytest.raises(ValueError, match="no such snapshot"):
        ov.forget(second)
    ov.write_u64(0x20000, 6)
    ov.restore(first)
    assert ov.phys.read_u64(0x20000) == 1 and ov.dirty_frames == [0x20]
    third = ov.snapshot()
    ov.restore(first)
    with pytest.raises(ValueError):
        ov.restore(third)
    ov.forget()
    with pytest.raises(ValueError):
        ov.restore(first)
    assert ov.phys.read_u64(0x20000) == 1


def test_scratch(ov):
    ov.write_u64(0x20000, 1)
    with pytest.raises(KeyError), ov.scratch() as same:
        assert same is ov
        ov.write_u64(0x20000, 2)
        with ov.scratch():
            ov.create_frame()
            ov.write_u64(0x20000, 3)
        assert ov.phys.read_u64(0x20000) == 2 and ov.dirty_frames == [0x20]
        raise KeyError
    assert ov.phys.read_u64(0x20000) == 1


def test_scratch_whose_snapshot_is_gone(small_image):
    """The exception of the block is the one that comes out, whatever became of the snapshot."""
    dump = kdmp.Dump(small_image)
    ov = dump.overlay()
    for end in (ov.reset, ov.forget, dump.close):
        with pytest.raises(KeyError, match="mine"), ov.scratch():
            ov.write_u64(0x20000, 2)
            end()
            raise KeyError("mine")
        if end != dump.close:
            with ov.scratch():
                end()
            ov.reset()
    with kdmp.Dump(small_image) as dump, dump.overlay() as ov:
        older = ov.snapshot()
        with ov.scratch():
            ov.write_u64(0x20000, 2)
            ov.restore(older)
        assert ov.phys.read_u64(0x20000) == 0x20 and ov.restore(older) == 0


def test_scratch_that_cannot_be_undone(ov, monkeypatch):
    """Without an exception of the block that of the undoing is seen; else it is not."""

    def fail(snapshot):
        raise RuntimeError("busy")

    monkeypatch.setattr(ov, "restore", fail, raising=False)
    with pytest.raises(KeyError, match="mine"), ov.scratch():
        raise KeyError("mine")
    with pytest.raises(RuntimeError, match="busy"), ov.scratch():
        pass


def test_c70_reset(dump, ov):
    """C70: as new: no changes, no snapshots, no watches."""
    ov.write_u64(0x20000, 1)
    snapshot = ov.snapshot()
    ov.create_frame()
    ov.watch(0, None, print)
    ov.reset()
    assert ov.frames() == [] and ov.watches == [] and ov.on_write is None
    with pytest.raises(ValueError):
        ov.restore(snapshot)
    assert ov.phys.read_u64(0x20000) == 0x20
    ov.write_u64(0x20000, 2)
    assert ov.phys.read_u64(0x20000) == 2


def test_the_end_of_a_context_and_of_the_dump(small_image):
    dump = kdmp.Dump(small_image)
    with dump.overlay("named") as ov:
        ov.write_u8(0x20000, 1)
    assert ov.frames() == [] and list(dump.views) == [0]
    with dump.overlay() as ov:
        reader = ov.phys
        dump.close()
        for use in (lambda: ov.write_u8(0x20000, 1), lambda: reader.read_u8(0x20000), ov.snapshot, ov.frames):
            with pytest.raises(ValueError, match="closed"):
                use()


def test_overlays_are_not_pickled(small_path):
    with kdmp.Dump(small_path) as dump, dump.overlay() as ov:
        for one in (ov, ov.phys, ov.reader(0x1000, "x64")):
            with pytest.raises(TypeError, match="save_as"):
                pickle.dumps(one)


def test_what_readers_say_about_it(dump, ov, reader):
    """pte, explain, is_resident and mappings use the overlay's tables and frames."""
    assert reader.is_resident(KERNEL_VA) and not reader.is_resident(GONE) and not reader.is_resident(HOLE)
    assert "not in this dump" in str(reader.explain(GONE))
    ov.create_frame(0x99)
    assert reader.is_resident(GONE) and reader.is_readable(GONE, PAGE)
    explanation = reader.explain(GONE)
    assert explanation.readable and "made up" in str(explanation) and explanation.in_dump is False
    reader.write_u8(KERNEL_VA, 1)
    assert "has been written" in str(reader.explain(KERNEL_VA))
    assert "file offset" in str(reader.explain(KERNEL_VA + PAGE))
    leaf = reader.translate(KERNEL_VA).entries[-1].pa
    ov.write_u64(leaf + 16, 0x21007)
    assert "21007" in str(reader.pte(HOLE)).replace("`", "").lower()
    assert [one.start for one in reader.find_frame(0x21)] == [KERNEL_VA + PAGE, HOLE]
    assert sum(one.size for one in dump.reader(0x1000, "x64").mappings()) == 3 * PAGE
    assert sum(one.size for one in reader.mappings()) == 4 * PAGE
    assert {owner.va for owner in reader.owners(0x21)} == {KERNEL_VA + PAGE, HOLE}
    # The self map of the overlay is what addresses of entries come from.
    root = ov.phys.read_u64(0x1000 + 8 * 0x1ED)
    assert root == 0
    ov.write_u64(0x1000 + 8 * 0x1ED, 0x1007)
    assert reader.pte(KERNEL_VA).rows[-1].va is not None
    assert dump.reader(0x1000, "x64").pte(KERNEL_VA).rows[-1].va is None


def test_c59_registers_are_edited_in_a_copy():
    """C59: `Context.replace` gives a changed copy; nothing is written back."""
    context = kdmp.Context.from_bytes(context_bytes(), "x64")
    changed = context.replace(rip=0x1234, rax=5)
    assert (changed.rip, changed.rax) == (0x1234, 5)
    assert (context.rip, context.rax) == (0xFFFF_F800_0000_1000, 7)
    assert changed.to_bytes() != context.to_bytes() == context_bytes()[: len(context.to_bytes())]


def context_bytes():
    """A CONTEXT of x64: ContextFlags at 0x30, Rax at 0x78, Rip at 0xF8."""
    data = bytearray(0x4D0)
    struct.pack_into("<I", data, 0x30, 0x10000F)
    struct.pack_into("<Q", data, 0x78, 7)
    struct.pack_into("<Q", data, 0xF8, 0xFFFF_F800_0000_1000)
    return bytes(data)


# ---- saving ----


def frames_of(dump):
    return {pfn: bytes(dump.phys.read_exact(pfn << 12, PAGE)) for pfn in dump.pages}


@pytest.fixture(scope="module")
def rich():
    """A dump with a context, an exception record and header facts."""
    out = io.BytesIO()
    exception = struct.pack("<IIQQI4x15Q", 0xC0000005, 0, 0, 0x1234, 2, *range(15))
    header = {"directory_table_base": 0x1000, "minor_version": 19041, "bug_check_code": 0xD1, "comment": "x"}
    pages = {pfn: bytes(page) for pfn, page in small_machine().pages.items()}
    kdmp.write_dump(out, FULL, pages, header=header, context=context_bytes(), exception=exception)
    return out.getvalue()


@pytest.mark.parametrize("kind", [*WRITER_KINDS, None, "raw", "rdmpA"])
def test_c54_save_as(rich, tmp_path, kind):
    """C54: any kind of dump; its memory is what the overlay shows, its header the original's."""
    path = tmp_path / "saved.dmp"
    with kdmp.Dump(rich) as dump, dump.overlay() as ov:
        ov.reader(0x1000, "x64").write(KERNEL_VA + 0x100, b"saved\0")
        made = ov.create_frame()
        ov.write(made << 12, stamp(77))
        ov.create_frame(0x99)
        ov.remap(0x21, made)
        report = ov.save_as(path, kind)
        expected = {
            **frames_of(dump),
            0x20: ov.phys.read_exact(0x20000, PAGE),
            0x21: stamp(77),
            made: stamp(77),
        }
        expected[0x99] = bytes(PAGE)
        assert report.pages == len(expected)
        facts = dump.header, dump.context, dump.exception
    if kind == "raw":
        with kdmp.open_raw(path) as raw:
            for pfn, page in expected.items():
                assert raw.phys.read_exact(pfn << 12, PAGE) == page
        return
    with kdmp.Dump(path) as saved:
        assert saved.kind == {None: FULL, "rdmpA": 10}.get(kind, kind)
        assert frames_of(saved) == expected
        assert (saved.context, saved.exception) == facts[1:]
        ours = {"dump_type", "number_of_runs", "number_of_pages", "required_dump_space"}
        assert {k: v for k, v in saved.header.items() if k not in ours} == {
            k: v for k, v in facts[0].items() if k not in ours
        }
        reader = saved.reader(0x1000, "x64")
        assert reader.read_cstr(KERNEL_VA + 0x100) == "saved"
        assert reader.read_exact(KERNEL_VA + PAGE, PAGE) == stamp(77)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_c54_save_as_the_same_kind(tmp_path, kind):
    """C54: from every kind; types that are not written any more become bitmaps."""
    path = tmp_path / "saved.dmp"
    with kdmp.Dump(small_machine().dump(kind)) as dump, dump.overlay() as ov:
        ov.write_u64(0x21FF8, 5)
        ov.save_as(path)
        wanted = {**frames_of(dump), 0x21: stamp(0x21)[:-8] + struct.pack("<Q", 5)}
    with kdmp.Dump(path) as saved:
        assert saved.kind == (6 if kind in (SUMMARY, 7) else kind)
        assert frames_of(saved) == wanted


def test_c54_save_as_over_itself_and_to_a_file_object(small_path):
    out = io.BytesIO()
    with kdmp.Dump(small_path) as dump, dump.overlay() as ov:
        ov.write_u64(0x21000, 5)
        steps = []
        ov.save_as(out, progress=lambda done, total: steps.append(done))
        assert steps[-1] == len(dump.pages)
        ov.save_as(small_path)
        assert dump.phys.read_u64(0x21000) == 0x21  # the open one keeps its file
        with pytest.raises(ValueError, match="unknown kind"):
            ov.save_as(out, "none")
    for source in (small_path, out.getvalue()):
        with kdmp.Dump(source) as saved:
            assert saved.phys.read_u64(0x21000) == 5


def test_c54_lost_frames_can_be_made_up(small_image):
    """Of a dump that is cut short, what was created is saved, and no longer counts as lost."""
    with kdmp.Dump(small_image[: -PAGE - 10]) as dump, dump.overlay() as ov:
        assert dump.truncated == 2
        out = io.BytesIO()
        assert [left.pages for left in ov.save_as(out).left_out] == [2]
        ov.create_frame(0x21)
        ov.write(0x21000, stamp(0x21))
        out = io.BytesIO()
        assert [left.pages for left in ov.save_as(out).left_out] == [1]
    with kdmp.Dump(out.getvalue()) as saved:
        assert bytes(saved.pages[0x21]) == stamp(0x21) and 0x20 not in saved.pages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_c54_save_as_of_whole_machines(machine, kind, tmp_path):
    """C54: the shared machines, in each kind: what was written is there, all else is the same."""
    with kdmp.Dump(machine_dump(machine, kind)) as dump, dump.overlay() as ov:
        frames = random.Random(machine + kind).sample(list(dump.pages), 40)
        for pfn in frames[:20]:
            ov.write(pfn * PAGE + 0x123, b"written by a test")
        top = ov.create_frame()
        ov.save_as(tmp_path / "saved.dmp")
        with kdmp.Dump(tmp_path / "saved.dmp") as saved:
            assert saved.kind == dump.kind and len(saved.pages) == len(dump.pages) + 1
            assert saved.phys.read_exact(top * PAGE, PAGE) == bytes(PAGE)
            for pfn in frames:
                assert saved.phys.read_exact(pfn * PAGE, PAGE) == ov.phys.read_exact(pfn * PAGE, PAGE)
            assert saved.header["directory_table_base"] == dump.dtb


# ---- threads ----


@pytest.mark.parametrize("how", ["memory", "read", "file"])
def test_readers_on_the_dump_while_overlays_are_written(how, small_image, small_path):
    """Many threads read the dump and an overlay, others write to overlays of their own and to that one."""
    source = {"memory": small_image, "read": small_path, "file": io.BytesIO(small_image)}[how]
    rounds = 40 if how == "file" else 200
    with kdmp.Dump(source, io="read" if how == "read" else "map") as dump:
        shared = dump.overlay()
        whole = dump.phys.read_exact(0x20000, 2 * PAGE)

        def work(n):
            reader = dump.reader(0x1000, "x64", discover=False)
            own = dump.overlay()
            mine = own.reader(0x1000, "x64", discover=False)
            for k in range(rounds):
                assert dump.phys.read_exact(0x20000, 2 * PAGE) == whole
                assert reader.read_u64(KERNEL_VA + PAGE) == 0x21
                snapshot = own.snapshot()
                mine.write_u64(KERNEL_VA + 8 * (k % 512), n << 32 | k)
                assert mine.read_u64(KERNEL_VA + 8 * (k % 512)) == n << 32 | k
                own.restore(snapshot)
                # One word for each thread: none is lost, and reads are never of something else.
                shared.write_u64(0x20000 + 8 * n, k)
                assert shared.phys.read_u64(0x20000 + 8 * n) == k
                data = shared.phys.read_exact(0x20000, 2 * PAGE)
                assert data[64:] == whole[64:]
                if k % 20 == 0:
                    list(shared.reader(0x1000, "x64", discover=False).mappings())
                    shared.create_frame()

        run_together(work)
        assert [shared.phys.read_u64(0x20000 + 8 * n) for n in range(6)] == [rounds - 1] * 6


class Hooked(io.BytesIO):
    """A file that has something else done before its next read."""

    hook = None

    def read(self, size=-1):
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return super().read(size)


@pytest.mark.parametrize("what", ["remap", "reset", "snapshot", "nothing"])
def test_changes_while_a_file_object_is_read(what, small_image):
    """Copying a frame from a file object lets others in: what they did to the frame is kept."""
    file = Hooked(small_image)
    with kdmp.Dump(file) as dump, dump.overlay() as ov:
        made = ov.create_frame()
        before = ov.snapshot()
        file.hook = {
            "remap": lambda: ov.remap(0x20, made),
            "reset": ov.reset,
            "snapshot": lambda: [ov.write_u8(made << 12, 9), ov.snapshot()],
            "nothing": None,
        }[what]
        ov.write_u64(0x20008, 5)
        assert file.hook is None
        assert ov.phys.read_u64(0x20008) == 5
        if what == "remap":
            assert ov.frames() == [(0x20, made, False), (made, None, True)]
            assert ov.phys.read_u64(made << 12 | 8) == 5
        elif what == "reset":
            assert ov.frames() == [(0x20, None, False)]
        else:
            assert ov.restore(before) == (2 if what == "snapshot" else 1)
            assert ov.phys.read_u64(0x20000) == 0x20 and ov.phys.read_u8(made << 12) == 0


def test_writers_wait_for_large_reads(dump, ov):
    """A read that runs without the GIL is not disturbed by writes: it is of one moment."""
    stop = threading.Event()
    frames = [ov.create_frame() for _ in range(512)]
    first, size = frames[0] << 12, len(frames) * PAGE

    def write():
        value = 0
        while not stop.is_set():
            value = (value + 1) & 0xFF
            ov.write(first, bytes([value]) * size)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            data = ov.phys.read_exact(first, size)
            assert data == data[:1] * size
    finally:
        stop.set()
        writer.join(60)


# ---- random operations ----

BASE = (1, 2, 3, 4, 0x20, 0x21)
NEW = (0x50, 0x51)
FRAME = st.sampled_from(BASE[-2:] + NEW)
PLACES = {KERNEL_VA: 0x20, KERNEL_VA + PAGE: 0x21}


class Model(RuleBasedStateMachine):
    """The overlay and, next to it, dicts of pages and remaps that are copied whole."""

    @initialize()
    def start(self):
        self.dump = kdmp.Dump(small_machine().dump())
        self.ov = self.dump.overlay()
        self.reader = self.ov.reader(0x1000, "x64", discover=False)
        self.base = {pfn: self.dump.phys.read_exact(pfn << 12, PAGE) for pfn in BASE}
        self.pages, self.remaps, self.saved = {}, {}, []
        self.leaf = self.reader.translate(KERNEL_VA).entries[-1].pa
        self.mapped = [0x20, 0x21]  # by the two entries from `leaf` on
        self.seen = []
        self.ov.watch(0x20000, 2 * PAGE, lambda overlay, address, size: self.seen.append((address, size)))

    def teardown(self):
        if hasattr(self, "dump"):
            self.reader = self.ov = None
            self.dump.close()

    def content(self, pfn):
        pfn = self.remaps.get(pfn, pfn)
        return self.pages.get(pfn, self.base.get(pfn))

    def store(self, pfn, offset, data):
        target = self.remaps.get(pfn, pfn)
        old = self.content(pfn)
        self.pages[target] = old[:offset] + data + old[offset + len(data) :]

    @rule(pfn=FRAME, offset=st.integers(0, PAGE - 1), data=st.binary(min_size=1, max_size=20))
    def write(self, pfn, offset, data):
        data = data[: PAGE - offset]
        self.seen.clear()
        if self.content(pfn) is None:
            with pytest.raises(kdmp.UnreadableError):
                self.ov.write(pfn << 12 | offset, data)
            assert not self.seen
            return
        self.ov.write(pfn << 12 | offset, data)
        self.store(pfn, offset, data)
        target = self.remaps.get(pfn, pfn)
        shown = [target, *(other for other, to in self.remaps.items() if to == target)]
        expected = {(other << 12 | offset, len(data)) for other in shown if other in (0x20, 0x21)}
        assert set(self.seen) == expected

    @rule(start=st.integers(0, 2 * PAGE - 1), data=st.binary(min_size=1, max_size=PAGE + 64))
    def write_virtual(self, start, data):
        data = data[: 2 * PAGE - start]
        pieces, at = [], start
        while at < start + len(data):
            size = min(PAGE - at % PAGE, start + len(data) - at)
            pieces.append((self.mapped[at // PAGE], at % PAGE, data[at - start : at - start + size]))
            at += size
        if any(pfn is None or self.content(pfn) is None for pfn, _, _ in pieces):
            with pytest.raises(kdmp.UnreadableError):
                self.reader.write(KERNEL_VA + start, data)
            return
        self.reader.write(KERNEL_VA + start, data)
        for pfn, offset, part in pieces:
            self.store(pfn, offset, part)

    @rule(which=st.integers(0, 1), pfn=st.none() | FRAME)
    def map(self, which, pfn):
        value = 0 if pfn is None else pfn << 12 | 7
        self.ov.write_u64(self.leaf + 8 * which, value)
        self.store(self.leaf >> 12, (self.leaf & 0xFFF) + 8 * which, struct.pack("<Q", value))
        self.mapped[which] = pfn

    @rule(pfn=FRAME)
    def create(self, pfn):
        if pfn in self.base or pfn in self.pages or pfn in self.remaps:
            with pytest.raises(ValueError):
                self.ov.create_frame(pfn)
        else:
            assert self.ov.create_frame(pfn) == pfn
            self.pages[pfn] = bytes(PAGE)

    @rule(pfn=FRAME)
    def free(self, pfn):
        if pfn in self.pages and pfn not in self.base and pfn not in self.remaps.values():
            self.ov.free_frame(pfn)
            del self.pages[pfn]
        else:
            with pytest.raises(ValueError):
                self.ov.free_frame(pfn)

    @rule(pfn=FRAME, shown=FRAME)
    def remap(self, pfn, shown):
        chain = pfn == shown or shown in self.remaps or pfn in self.remaps.values()
        exists = shown in self.pages or shown in self.base
        if chain or (exists and pfn in self.pages):
            with pytest.raises(ValueError):
                self.ov.remap(pfn, shown)
        elif not exists:
            with pytest.raises(kdmp.UnreadableError):
                self.ov.remap(pfn, shown)
        else:
            self.ov.remap(pfn, shown)
            self.remaps[pfn] = shown

    @rule(pfn=FRAME)
    def unmap(self, pfn):
        assert self.ov.unmap(pfn) == (self.remaps.pop(pfn, None) is not None)

    @rule(pfn=FRAME)
    def revert(self, pfn):
        if pfn in self.remaps.values() and pfn in self.pages and pfn not in self.base:
            with pytest.raises(ValueError):
                self.ov.revert(pfn)
            return
        known = self.remaps.pop(pfn, None) is not None or self.pages.pop(pfn, None) is not None
        assert self.ov.revert(pfn) == known

    @rule()
    def snapshot(self):
        state = dict(self.pages), dict(self.remaps), list(self.mapped)
        self.saved.append((self.ov.snapshot(), state))

    @precondition(lambda self: getattr(self, "saved", None))
    @rule(data=st.data())
    def restore(self, data):
        at = data.draw(st.integers(0, len(self.saved) - 1))
        number, (pages, remaps, mapped) = self.saved[at]
        self.ov.restore(number)
        del self.saved[at + 1 :]
        self.pages, self.remaps, self.mapped = dict(pages), dict(remaps), list(mapped)

    @precondition(lambda self: getattr(self, "saved", None))
    @rule(data=st.data())
    def forget(self, data):
        at = data.draw(st.integers(0, len(self.saved) - 1))
        self.ov.forget(self.saved.pop(at)[0])

    @rule()
    def revert_all(self):
        assert self.ov.revert() == len(self.pages) + len(self.remaps)
        self.pages, self.remaps, self.mapped = {}, {}, [0x20, 0x21]

    @rule(kind=st.sampled_from(WRITER_KINDS))
    def save(self, kind):
        out = io.BytesIO()
        self.ov.save_as(out, kind)
        with kdmp.Dump(out.getvalue()) as saved:
            there = {*self.base, *self.pages, *self.remaps}
            assert frames_of(saved) == {pfn: self.content(pfn) for pfn in there}

    @invariant()
    def all_is_as_in_the_model(self):
        if not hasattr(self, "dump"):
            return
        for pfn in (*BASE, *NEW):
            expected = self.content(pfn)
            assert self.ov.phys.read(pfn << 12, PAGE) == (expected or b"")
            assert self.ov.has_frame(pfn) == (expected is not None)
            assert self.dump.phys.read(pfn << 12, PAGE) == self.base.get(pfn, b"")
        for which, pfn in enumerate(self.mapped):
            content = self.content(pfn) if pfn is not None else None
            assert self.reader.read(KERNEL_VA + which * PAGE, PAGE) == (content or b"")
            assert self.reader.is_resident(KERNEL_VA + which * PAGE) == (content is not None)
        assert self.ov.dirty_frames == sorted({*self.pages, *self.remaps})
        rebuilt = {pfn: bytearray(page) for pfn, page in self.base.items()}
        for change in self.ov.diff():
            page = rebuilt.setdefault(change.pfn, bytearray(PAGE))
            end = change.offset + len(change.new)
            assert change.old in (None, bytes(page[change.offset : end]))
            page[change.offset : end] = change.new
        assert rebuilt == {pfn: self.content(pfn) for pfn in rebuilt}
        assert rebuilt.keys() == {*self.base, *self.pages, *self.remaps}


TestRandomOperations = Model.TestCase
TestRandomOperations.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("what", ["mappings", "translate_many", "read_many", "read"])
def test_an_overlay_emptied_while_a_file_object_is_read(what):
    """Tables in the overlay, pages in a file object whose reads let others in: no page of it is kept."""
    image = small_machine().dump()
    file = Hooked(image)
    with kdmp.Dump(file) as dump:
        plain = dump.reader(dtb=0x1000, paging="x64")
        expected = [(m.start, m.size, m.state) for m in plain.mappings()]
        ov = dump.overlay()
        reader = ov.reader(dtb=0x1000, paging="x64")
        for entry in plain.translate(KERNEL_VA).entries[:3]:
            ov.write_u64(kdmp.phys(entry.pa), entry.value)  # the upper tables are the overlay's now

        def emptied():
            ov.reset()
            for pfn in range(0x50000, 0x50004):  # its pages are used again
                ov.create(pfn)

        file.hook = emptied
        if what == "mappings":
            assert [(m.start, m.size, m.state) for m in reader.mappings()] == expected
        elif what == "translate_many":
            addresses = [KERNEL_VA + 8 * n for n in range(64)]
            assert [int(pa) for pa in reader.translate_many(addresses).pa] == [
                0x20000 + 8 * n for n in range(64)
            ]
        else:
            data = reader.read_many([KERNEL_VA], 8).data if what == "read_many" else reader.read(KERNEL_VA, 8)
            assert bytes(data) == dump.phys.read(0x20000, 8)
        assert file.hook is None
