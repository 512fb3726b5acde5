"""The fault collector (C18): None instead of an exception, and a list of what was missing.

SPDX-License-Identifier: MIT
"""

import asyncio
import contextvars
import ctypes
import gc
import io
import pickle
import struct
import subprocess
import sys
import threading
import timeit
from pathlib import Path

import pytest
import shareddata
from conftest import KERNEL_VA, small_machine
from dumpbuilder import PAGE

import kdmp
from kdmp._kdmp import _fault_collector
from kdmp.faults import FaultCollector
from kdmp.scopes import uncollected

ROOT = 0x1000
HOLE = KERNEL_VA + 0x2000  # its entry is zero
GONE = KERNEL_VA + 0x3000  # its frame is not in the dump
SPLIT = KERNEL_VA + 0x1FF8  # 8 bytes before the hole
GONE_PA = 0x99000


@pytest.fixture(scope="module")
def dump():
    with kdmp.Dump(small_machine().dump(minor_version=19041, bug_check_code=0xD1)) as dump:
        yield dump


@pytest.fixture
def reader(dump):
    return dump.reader(dtb=ROOT, paging="x64")


class Pair(ctypes.LittleEndianStructure):
    _fields_ = [("a", ctypes.c_uint32), ("b", ctypes.c_uint32)]


def key(fault):
    return fault.address, fault.root, fault.level, fault.reason, fault.physical, fault.size


HARD = {
    **{
        f"read_{name}": (lambda reader, va, name=name: getattr(reader, f"read_{name}")(va), size)
        for name, size in {
            "u8": 1, "u16": 2, "u32": 4, "u64": 8, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f32": 4, "f64": 8,
            "ptr": 8, "cstr": 1, "cstr_bytes": 1, "wstr": 2, "unicode_string": 16,
        }.items()
    },
    "read_uint": (lambda reader, va: reader.read_uint(va, 4, signed=True), 4),
    "read_exact": (lambda reader, va: reader.read_exact(va, 100), 100),
    "translate": (lambda reader, va: reader.translate(va), 1),
    "read_struct": (lambda reader, va: reader.read_struct(va, Pair), 8),
    "read_struct of a format": (lambda reader, va: reader.read_struct(va, struct.Struct("<IQ")), 12),
    "read_structs": (lambda reader, va: reader.read_structs(va, "<I", 3), 12),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_none_instead_of_an_exception(dump, reader, name):
    call, size = HARD[name]
    with pytest.raises((kdmp.NotPresentError, kdmp.PartialReadError)) as caught:
        call(reader, HOLE)
    with dump.collect_faults() as faults:
        assert call(reader, HOLE) is None
    assert [key(fault) for fault in faults] == [(HOLE, ROOT, 1, "not_present", None, size)]
    reason = caught.value.reason if isinstance(caught.value, kdmp.PartialReadError) else caught.value
    assert str(faults[0]) == str(reason) and type(faults[0].error) is type(reason)
    with pytest.raises(type(caught.value)):
        call(reader, HOLE)


@pytest.mark.parametrize("name", [name for name in HARD if name != "translate"])
def test_a_frame_that_is_not_in_the_dump(dump, reader, name):
    call, size = HARD[name]
    with dump.collect_faults() as faults:
        assert call(reader, GONE) is None
    assert [key(fault) for fault in faults] == [(GONE, ROOT, 0, "not_in_dump", GONE_PA, size)]
    assert faults[0].state == "valid"


@pytest.mark.parametrize("name", HARD)
def test_what_is_there_is_read(dump, reader, name):
    call, _ = HARD[name]
    va = KERNEL_VA + 0x300 if name == "read_unicode_string" else KERNEL_VA
    plain = call(reader, va)
    with dump.collect_faults() as faults:
        value = call(reader, va)
    assert len(faults) == 0
    assert bytes(value) == bytes(plain) if isinstance(value, Pair) else repr(value) == repr(plain)


SOFT = {
    "read": lambda reader, va: reader.read(va, 64),
    "try_read_exact": lambda reader, va: reader.try_read_exact(va, 64),
    "read_into": lambda reader, va: reader.read_into(va, bytearray(64)),
    "read_gaps": lambda reader, va: reader.read_gaps(va, 64, 7)[0],
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_reads_keep_what_they_give(dump, reader, name):
    call = SOFT[name]
    plain = call(reader, SPLIT), call(reader, GONE)
    with dump.collect_faults() as faults:
        assert (call(reader, SPLIT), call(reader, GONE)) == plain
    assert [key(fault) for fault in faults] == [
        (HOLE, ROOT, 1, "not_present", None, 56),
        (GONE, ROOT, 0, "not_in_dump", GONE_PA, 64),
    ]


def test_strings_that_a_hole_cuts_off(dump):
    with dump.overlay() as overlay:
        reader = overlay.reader(dtb=ROOT, paging="x64")
        reader.write(SPLIT, b"a\1b\2c\3d\4")
        for name, unit, text in (
            ("read_cstr", 1, "a\1b\2c\3d\4"),
            ("read_wstr", 2, "\u0161\u0262\u0363\u0464"),
        ):
            with dump.collect_faults() as faults:
                assert getattr(reader, name)(SPLIT) is None
                assert getattr(reader, name)(SPLIT, strict=False) == text
                assert getattr(reader, name)(SPLIT, 4) == text[: 4 // unit]
            assert [key(fault) for fault in faults] == [(HOLE, ROOT, 1, "not_present", None, unit)]


def test_try_translate(dump, reader):
    with dump.collect_faults() as faults:
        assert reader.try_translate(HOLE) is None
        assert reader.try_translate(GONE).pa == GONE_PA  # the entry is valid: nothing is missing yet
    assert [key(fault) for fault in faults] == [(HOLE, ROOT, 1, "not_present", None, 1)]


def test_questions_leave_no_trace(dump, reader):
    plain = str(reader.explain(HOLE)), str(reader.explain(GONE)), str(reader.explain(1 << 47))
    with dump.collect_faults() as faults:
        assert not reader.is_readable(HOLE) and not reader.is_resident(GONE) and not reader.is_resident(HOLE)
        assert (str(reader.explain(HOLE)), str(reader.explain(GONE)), str(reader.explain(1 << 47))) == plain
        assert 0x99 not in dump.pages
        list(reader.mappings())
    assert list(faults) == []


def test_pte(dump, reader):
    plain = str(reader.pte(HOLE)), str(reader.pte(GONE))
    with dump.collect_faults() as faults:
        assert (str(reader.pte(HOLE)), str(reader.pte(GONE))) == plain
        assert [key(fault) for fault in faults] == [(HOLE, ROOT, 1, "not_present", None, 1)]
        assert reader.pte(1 << 47) is None
    assert faults[1].reason == "non_canonical" and faults[1].address == 1 << 47
    with pytest.raises(kdmp.NonCanonicalError):
        reader.pte(1 << 47)


def test_all_holes_of_a_read_are_found(dump, reader):
    """Not only the first, and each page by itself."""
    with dump.collect_faults() as faults:
        assert reader.read_exact(SPLIT, 8 + 3 * PAGE) is None
    assert [key(fault) for fault in faults] == [
        (HOLE, ROOT, 1, "not_present", None, PAGE),
        (GONE, ROOT, 0, "not_in_dump", GONE_PA, PAGE),
        (GONE + PAGE, ROOT, 1, "not_present", None, PAGE),
    ]
    _, gaps = reader.read_gaps(SPLIT, 8 + 3 * PAGE)
    assert [gap.address for gap in gaps] == faults.addresses
    assert faults.pages == [HOLE, GONE, GONE + PAGE]


def test_a_number_across_a_hole(dump, reader):
    with dump.collect_faults() as faults:
        assert reader.read_u64(HOLE - 3) is None
        assert reader.read_wstr(SPLIT + 7) is None  # the second half of its first unit
    assert [key(fault) for fault in faults] == [(HOLE, ROOT, 1, "not_present", None, 5)]


def test_text_behind_a_unicode_string(tmp_path):
    memory = small_machine()
    struct.pack_into("<HHIQ", header := bytearray(16), 0, 32, 32, 0, SPLIT)
    memory.put(0x20400, bytes(header))
    with kdmp.Dump(memory.dump()) as dump, dump.collect_faults() as faults:
        reader = dump.reader(dtb=ROOT, paging="x64")
        if reader.read_struct(KERNEL_VA + 0x400, "<HHIQ") != (32, 32, 0, SPLIT):
            pytest.skip("the sample machine has another frame there")
        assert reader.read_unicode_string(KERNEL_VA + 0x400) is None
    assert [key(fault) for fault in faults] == [(HOLE, ROOT, 1, "not_present", None, 24)]


def test_the_end_of_the_addresses(dump, reader):
    with dump.collect_faults() as faults:
        assert reader.read_exact((1 << 64) - 4, 8) is None
        assert reader.read_u8(1 << 47) is None
    top, end, between = faults
    assert (top.address, top.level, top.size, top.reason) == ((1 << 64) - 4, 4, 4, "not_present")
    assert key(end) == (1 << 64, ROOT, None, "address_end", None, 4)
    assert (between.reason, between.state) == ("non_canonical", "none")


def test_a_huge_read_is_bounded(dump, reader):
    with dump.collect_faults() as faults:
        assert reader.read(HOLE, 1 << 62) == b""
        assert reader.read_exact(HOLE + PAGE, 1 << 40) is None
    assert sum(fault.size for fault in faults) <= 2 << 24
    assert len(faults) < 1024
    assert faults.pages[0] == HOLE


def test_physical_memory(dump):
    with dump.collect_faults() as faults:
        assert dump.phys.read_u32(GONE_PA + 0x10) is None
    assert [key(fault) for fault in faults] == [(GONE_PA + 0x10, None, 0, "not_in_dump", GONE_PA + 0x10, 4)]


def test_access_contexts(dump, reader):
    with dump.collect_faults() as faults:
        assert reader.read_u8(kdmp.phys(GONE_PA)) is None
        assert dump.phys.read_u8(kdmp.virt(HOLE, ROOT)) is None
        assert reader.read_u8(kdmp.virt(HOLE, 0x9A000)) is None
    assert [(fault.address, fault.root, fault.reason, fault.level) for fault in faults] == [
        (GONE_PA, None, "not_in_dump", 0),
        (HOLE, ROOT, "not_present", 1),
        (HOLE, 0x9A000, "not_in_dump", 4),
    ]
    assert faults[2].physical == 0x9A000 + 8 * (HOLE >> 39 & 511)


def test_truncated_files(tmp_path):
    image = small_machine().dump()
    with kdmp.Dump(image[:-1]) as dump:
        pfn = max(run.pfn + run.count for run in kdmp.Dump(image).pages.runs()) - 1
        with dump.collect_faults() as faults:
            assert dump.phys.read_exact(pfn << 12, PAGE) is None
        assert faults[0].reason == "truncated" and faults[0].physical is not None


def test_triage_dumps():
    index = shareddata.triage_index()
    assert index
    out = io.BytesIO()
    kdmp.write_triage(out, header={"minor_version": 19041}, data_blocks=[(KERNEL_VA, b"block" * 8)])
    with kdmp.Dump(out.getvalue()) as dump:
        reader = dump.reader()
        with dump.collect_faults() as faults:
            assert reader.read_exact(KERNEL_VA, 40) == b"block" * 8
            assert reader.read_u64(KERNEL_VA + 36) is None
            assert list(dump.triage.processors()) == []
        assert key(faults[0]) == (KERNEL_VA + 40, None, 0, "not_in_dump", None, 4)


def test_a_file_object():
    with kdmp.Dump(io.BytesIO(small_machine().dump())) as dump:
        reader = dump.reader(dtb=ROOT, paging="x64")
        with dump.collect_faults() as faults:
            assert (reader.read_u64(HOLE), reader.read_u8(KERNEL_VA + 1) is None) == (None, False)
        assert len(faults) == 1


class Failing(io.BytesIO):
    broken = False

    def read(self, size=-1):
        if self.broken:
            raise RuntimeError("the disk is on fire")
        return super().read(size)


def test_errors_of_a_file_object_come_through():
    file = Failing(small_machine().dump())
    with kdmp.Dump(file) as dump:
        reader = dump.reader(dtb=ROOT, paging="x64", discover=False)
        with dump.collect_faults() as faults:
            file.broken = True
            with pytest.raises(RuntimeError, match="on fire"):
                reader.read_u64(KERNEL_VA + 0x1000)
            file.broken = False
        assert len(faults) == 0


# ---- what still raises ----


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda r: r.read_u8("text"), TypeError),
        (lambda r: r.read_u8(), TypeError),
        (lambda r: r.read_u8(-1), OverflowError),
        (lambda r: r.read_exact(HOLE, -1), (OverflowError, ValueError)),
        (lambda r: r.read_uint(HOLE, 3), ValueError),
        (lambda r: r.read_struct(HOLE, 7), TypeError),
        (lambda r: r.read_gaps(HOLE, 8, 256), ValueError),
        (lambda r: r.physical.read_u8(kdmp.virt(HOLE)), kdmp.RootNotPresentError),
        (lambda r: r.write(HOLE, b"x"), kdmp.UnsupportedDumpError),
    ],
)
def test_other_errors_are_raised(dump, reader, call, error):
    with dump.collect_faults() as faults, pytest.raises(error):
        call(reader)
    assert len(faults) == 0


def test_a_closed_dump():
    dump = kdmp.Dump(small_machine().dump())
    reader = dump.reader(dtb=ROOT, paging="x64")
    with dump.collect_faults() as faults:
        assert reader.read_u8(HOLE) is None
        dump.close()
        with pytest.raises(ValueError, match="closed"):
            reader.read_u8(HOLE)
    assert len(faults) == 1


def test_writes_raise(dump):
    """A write that gives None was done: it must not look the same if it was not."""
    with dump.overlay() as overlay, dump.collect_faults() as faults:
        reader = overlay.reader(dtb=ROOT, paging="x64")
        for call in (reader.write_u64, overlay.phys.write_u8):
            with pytest.raises(kdmp.UnreadableError):
                call(HOLE if call == reader.write_u64 else GONE_PA, 1)
        with pytest.raises(kdmp.UnreadableError):
            overlay.remap(0x20, 0x99)
    assert len(faults) == 0


def test_a_strict_reader_records_and_raises(dump, reader):
    assert reader.strict is False
    reader.strict = True
    with dump.collect_faults() as faults:
        with pytest.raises(kdmp.NotPresentError):
            reader.read_u64(HOLE)
        assert reader.at(ROOT).strict and reader.physical.strict and not dump.phys.strict
        with pytest.raises(kdmp.NotInDumpError):
            reader.physical.read_u8(GONE_PA)
        with pytest.raises(kdmp.NonCanonicalError):
            reader.pte(1 << 47)
        assert reader.read(HOLE, 5) == b""
    assert [fault.address for fault in faults] == [HOLE, GONE_PA, 1 << 47]
    reader.strict = 0
    assert reader.strict is False
    with pytest.raises(AttributeError, match="delete"):
        del reader.strict


# ---- what is kept ----


def test_each_once_in_the_order_met(dump, reader):
    with dump.collect_faults() as faults:
        assert faults.active
        for va in (GONE, HOLE, GONE, HOLE + 1, HOLE):
            reader.read_u8(va)
        reader.read_exact(HOLE, 10)
        reader.read_u16(HOLE)
    assert not faults.active
    assert faults.addresses == [GONE, HOLE, HOLE + 1]
    assert [fault.size for fault in faults] == [1, 10, 1]
    assert faults.pages == [GONE, HOLE]
    assert len(faults) == 3 and faults[1].address == HOLE and faults[-1].address == HOLE + 1
    assert faults[1] in faults and HOLE + 9 in faults and HOLE + 10 not in faults and "text" not in faults
    assert [fault.address for fault in faults[:2]] == [GONE, HOLE]
    assert repr(faults) == "<kdmp.FaultCollector 3 faults>"
    assert str(faults).count("\n") == 2
    assert dump.collect_faults() != faults and hash(faults) == hash(faults)


def test_faults_are_values(dump, reader):
    with dump.collect_faults() as one:
        reader.read_u8(HOLE)
    with dump.collect_faults() as two:
        reader.read_u64(HOLE)
    assert one[0] == two[0] and hash(one[0]) == hash(two[0]) and len({one[0], two[0]}) == 1
    assert two[0] in one
    with pytest.raises(AttributeError):
        one[0].address = 5
    again = pickle.loads(pickle.dumps(one[0]))
    assert again == one[0] and str(again) == str(one[0])
    assert one[0].error.__traceback__ is None  # nothing of the reader's frames is kept
    facts = one.to_dict()
    assert facts["dropped"] == 0
    assert facts["faults"] == [
        {
            "address": HOLE,
            "root": ROOT,
            "level": 1,
            "reason": "not_present",
            "state": "zero",
            "size": 1,
            "message": str(one[0].error),
        }
    ]


def test_too_many(dump, reader, monkeypatch):
    monkeypatch.setattr("kdmp.faults._MAX_FAULTS", 3)
    with dump.collect_faults() as faults:
        for offset in range(5):
            assert reader.read_u8(HOLE + offset) is None
        reader.read_u64(HOLE)
    assert (len(faults), faults.dropped, faults[0].size) == (3, 2, 8)
    assert faults.to_dict()["dropped"] == 2


def test_ignore(dump, reader):
    def met(ignore):
        with dump.collect_faults(ignore) as faults:
            assert reader.read_u8(HOLE + 4) is None
            assert reader.read_exact(GONE, 32) is None
            assert dump.phys.read_u8(GONE_PA) is None
        return [(fault.address, fault.size) for fault in faults]

    everything = [(HOLE + 4, 1), (GONE, 32), (GONE_PA, 1)]
    assert met(()) == everything
    assert met([HOLE]) == everything[1:] == met(HOLE + 0xFFF)
    assert met([range(HOLE, HOLE + 4), HOLE + PAGE, kdmp.phys(GONE_PA)]) == everything[:1]
    assert met(range(HOLE, HOLE + 5)) == everything[1:]
    assert met([range(GONE + 8, GONE + 16), HOLE]) == [(GONE, 8), (GONE + 16, 16), (GONE_PA, 1)]
    assert met([range(GONE, GONE + 8), range(GONE + 4, GONE + 40)]) == [(HOLE + 4, 1), (GONE_PA, 1)]
    assert met([kdmp.virt(HOLE)]) == everything[1:] == met(kdmp.virt(HOLE, ROOT))
    assert met([kdmp.virt(HOLE, 0x2000), kdmp.phys(HOLE)]) == everything
    assert met([kdmp.virt(GONE_PA)]) == everything  # that is another address
    with dump.collect_faults() as earlier:
        reader.read_u8(HOLE + 4)
    assert met(earlier) == everything[1:] == met(earlier[0])
    with pytest.raises(ValueError, match="step"):
        dump.collect_faults([range(0, 10, 2)])
    with pytest.raises(TypeError):
        dump.collect_faults(["text"])


def test_physical_addresses_of_parts(dump, reader):
    with dump.collect_faults([range(GONE, GONE + 8)]) as faults:
        reader.read_exact(GONE, 32)
    assert [key(fault) for fault in faults] == [(GONE + 8, ROOT, 0, "not_in_dump", GONE_PA + 8, 24)]


# ---- whose block it is ----


def test_nested_blocks(dump, reader):
    with dump.collect_faults() as outer:
        reader.read_u8(HOLE)
        with dump.collect_faults() as inner:
            reader.read_u8(GONE)
        reader.read_u8(HOLE + 1)
    assert (outer.addresses, inner.addresses) == ([HOLE, HOLE + 1], [GONE])


def test_each_dump_has_its_own(dump, reader):
    with kdmp.Dump(small_machine().dump()) as other:
        second = other.reader(dtb=ROOT, paging="x64")
        with dump.collect_faults() as mine:
            with pytest.raises(kdmp.NotPresentError):
                second.read_u8(HOLE)
            with other.collect_faults() as theirs:
                assert reader.read_u8(HOLE) is None and second.read_u8(GONE) is None
        assert (mine.addresses, theirs.addresses) == ([HOLE], [GONE])


def test_exceptions_end_the_block(dump, reader):
    with pytest.raises(ZeroDivisionError), dump.collect_faults() as faults:
        reader.read_u8(HOLE)
        _ = 1 / 0
    assert len(faults) == 1 and _fault_collector.get() is None
    with pytest.raises(kdmp.NotPresentError):
        reader.read_u8(HOLE)


def test_a_collector_is_for_one_block(dump):
    faults = dump.collect_faults()
    with faults:
        pass
    with pytest.raises(RuntimeError, match="one block"), faults:
        pass
    assert isinstance(faults, FaultCollector) and faults.dump is dump


def test_other_threads_raise(dump, reader):
    outcomes, inside, done = [], threading.Event(), threading.Event()

    def other():
        inside.wait(10)
        try:
            outcomes.append(reader.read_u8(HOLE))
        except kdmp.NotPresentError:
            outcomes.append("raised")
        done.set()

    # Builds without a GIL hand the context on to threads; one that was there before has its own.
    thread = threading.Thread(target=other)
    thread.start()
    with dump.collect_faults() as faults:
        inside.set()
        assert done.wait(10)
    thread.join()
    assert outcomes == ["raised"] and len(faults) == 0


def test_many_threads_collect_for_themselves(dump):
    results = {}

    def work(number):
        reader = dump.reader(dtb=ROOT, paging="x64", discover=False)
        with dump.collect_faults() as faults:
            for n in range(200):
                assert reader.read_u8(HOLE + 256 * number + n) is None
                assert reader.read_u8(KERNEL_VA + n) is not None
        results[number] = faults.addresses

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [HOLE + 256 * n + k for k in range(200)] for n in range(6)}
    with pytest.raises(kdmp.NotPresentError):
        dump.reader(dtb=ROOT, paging="x64").read_u8(HOLE)


def test_tasks(dump, reader):
    async def collecting(va):
        with dump.collect_faults() as faults:
            for offset in range(3):
                assert reader.read_u8(va + offset) is None
                await asyncio.sleep(0)
        return faults.addresses

    async def raising():
        for _ in range(3):
            with pytest.raises(kdmp.NotPresentError):
                reader.read_u8(HOLE)
            await asyncio.sleep(0)

    async def late(over):
        await over.wait()
        with pytest.raises(kdmp.NotPresentError):  # the block it was started in is over
            reader.read_u8(HOLE)

    async def main():
        one, two, _ = await asyncio.gather(collecting(HOLE), collecting(GONE), raising())
        assert (one, two) == ([HOLE, HOLE + 1, HOLE + 2], [GONE, GONE + 1, GONE + 2])
        with dump.collect_faults() as faults:
            over = asyncio.Event()
            task = asyncio.create_task(late(over))
            assert await asyncio.create_task(collecting(HOLE)) == one
            assert await asyncio.to_thread(reader.read_u8, HOLE + 9) is None
        over.set()
        await task
        assert faults.addresses == [HOLE + 9]

    asyncio.run(main())


def test_blocks_that_end_out_of_order(dump, reader):
    def generator():
        with dump.collect_faults() as faults:
            yield faults

    first, second = generator(), generator()
    one, two = next(first), next(second)
    reader.read_u8(HOLE)
    first.close()  # the outer one ends before the inner one
    reader.read_u8(HOLE + 1)
    second.close()
    assert (one.addresses, two.addresses) == ([], [HOLE, HOLE + 1])
    assert _fault_collector.get() is None
    elsewhere = generator()
    three = contextvars.copy_context().run(next, elsewhere)
    with pytest.raises(kdmp.NotPresentError):
        reader.read_u8(HOLE)
    elsewhere.close()  # in another context than it began in
    assert len(three) == 0 and not three.active
    with pytest.raises(kdmp.NotPresentError):
        reader.read_u8(HOLE)


def test_uncollected(dump, reader):
    @uncollected
    def inner():
        """Reads."""
        with pytest.raises(kdmp.NotPresentError):
            reader.read_u8(HOLE)
        with dump.collect_faults() as faults:
            assert reader.read_u8(HOLE) is None
        return faults.addresses

    assert inner() == [HOLE] and inner.__doc__ == "Reads."
    with dump.collect_faults() as faults:
        assert inner() == [HOLE]
        assert reader.read_u8(GONE) is None
    assert faults.addresses == [GONE]


# ---- with the rest of the library ----


def test_overlays(dump):
    with dump.overlay() as overlay, dump.collect_faults() as faults:
        reader = overlay.reader(dtb=ROOT, paging="x64")
        assert reader.read_u64(HOLE) is None and overlay.phys.read_u8(GONE_PA) is None
        overlay.create_frame(0x99)
        assert reader.read_u64(GONE) == 0
        overlay.write(kdmp.phys(GONE_PA), b"new")
        assert reader.read_exact(GONE, 3) == b"new"
    assert faults.addresses == [HOLE, GONE_PA]


def test_saving_an_overlay_inside(dump, tmp_path):
    with dump.overlay() as overlay:
        overlay.create_frame(0x99)
        called = []
        with dump.collect_faults() as faults:
            overlay.watch(GONE, 8, lambda *seen: called.append(seen), overlay.reader(dtb=ROOT, paging="x64"))
            overlay.watch(HOLE, 8, lambda *seen: called.append(seen), overlay.reader(dtb=ROOT, paging="x64"))
            overlay.write(GONE_PA, b"1")
            overlay.save_as(tmp_path / "saved.dmp")
        assert list(faults) == [] and len(called) == 1
    with kdmp.open(tmp_path / "saved.dmp") as saved:
        assert saved.phys.read_u8(GONE_PA) == ord("1")


@pytest.mark.parametrize("kind", ["full", "kernel"])
def test_what_the_library_looks_up_itself(kind):
    """The kernel, layouts, masks and the PFN database come out the same inside a block."""

    def facts(dump):
        pfns = dump.pfns
        numbers = [run.pfn for run in dump.pages.runs()][:20]
        known = [repr(pfns[n]) if n in pfns else None for n in numbers]
        return (
            str(dump.kernel), str(dump.pte_layout), dump.invalid_pte_mask, dump.reader().pte_format,
            pfns.base, known, [str(finding) for finding in dump.findings],
        )  # fmt: skip

    path = shareddata.machine_dump("win10-19041", kind)
    with kdmp.open(path) as dump:
        plain = facts(dump)
    with kdmp.open(path) as dump, dump.collect_faults():
        assert facts(dump) == plain


def test_a_missing_pfn_entry_still_raises():
    with kdmp.open(shareddata.machine_dump("win10-19041", "kernel")) as dump:
        beyond = len(dump.pfns) + 0x100000
        with dump.collect_faults(), pytest.raises((kdmp.UnreadableError, IndexError, OverflowError)):
            dump.pfn(beyond)


def test_paging_in():
    """What an emulator does: collect, fetch the pages, try again."""
    with (
        kdmp.open(shareddata.machine_dump("win10-19041", "full")) as full,
        kdmp.open(shareddata.machine_dump("win10-19041", "kernel")) as part,
        part.overlay() as overlay,
    ):
        source, target = full.reader(), overlay.reader()
        wanted = [m for m in source.mappings(half="user") if m.pa is not None][:40]
        assert wanted
        for _ in range(6):
            with part.collect_faults() as faults:
                values = [target.read_exact(one.start, min(one.size, 0x8000)) for one in wanted]
            missing = [fault for fault in faults if fault.physical is not None]
            if not missing:
                break
            frames = set()
            for fault in missing:
                frames.update(fault.physical + 0x1000 * n >> 12 for n in range(len(fault.pages)))
            for pfn in frames:
                page = full.phys.try_read_exact(pfn << 12, PAGE)
                if page is not None and not overlay.has_frame(pfn):
                    overlay.create_frame(pfn)
                    overlay.write(pfn << 12, page)
        plain = [source.try_read_exact(one.start, min(one.size, 0x8000)) for one in wanted]
        assert values == plain and any(value is not None for value in values)


def test_nothing_is_kept(dump, reader):
    with dump.collect_faults() as faults:
        reader.read_u8(HOLE)
    gc.collect()
    assert not any(isinstance(one, FaultCollector) and one is not faults for one in gc.get_referrers(dump))


def test_no_cost_for_reads_that_succeed(dump, reader):
    """The collector is looked for when something is missing, not before."""

    def cost():
        return min(timeit.repeat(lambda: reader.read_u64(KERNEL_VA), number=2000, repeat=7))

    plain = cost()
    with dump.collect_faults():
        assert cost() < 3 * plain + 0.001


def test_import_kdmp_needs_no_dataclasses():
    # They lead to inspect, ast and dis: half as much again. -S: what the site module imports is not ours.
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import kdmp;"
        "print({'dataclasses', 'inspect', 'kdmp.faults', 'numpy'} & sys.modules.keys())"
    )
    root = str(Path(kdmp.__file__).parents[1])
    command = [sys.executable, "-S", "-E", "-c", code, root]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"
