"""Nothing is lost: every public callable, many times, in success and in failure.

Watched are the interpreter's memory blocks, the C heap where the C library tells (glibc), and open
file descriptors. A last test lists the public names and fails for one that has no case here.

SPDX-License-Identifier: MIT
"""

import ctypes
import gc
import importlib.util
import io
import itertools
import os
import pickle
import re
import struct
import sys
from contextlib import contextmanager

import pytest
from archtables import KUSER, flat, machine
from conftest import KERNEL_VA, small_machine
from dumpbuilder import PAGE, Memory
from triagedumps import small_triage

import kdmp
from kdmp._kdmp import Matcher, OverlayBase, ReaderBase

ROUNDS = 150
PTE_FORMAT = (0xF_FFFF_FFFF_F000, 4, 5, 5, 3, 16, 0, 12, 32)
HOLE = KERNEL_VA + 0x2000
GONE = KERNEL_VA + 0x3000
SPLIT = KERNEL_VA + 0x1FF8  # 8 bytes before the hole


@pytest.fixture(autouse=True)
def _plain_build(instrumented):
    if instrumented:
        pytest.skip("a sanitizer's allocator does not count blocks")


def endless():
    """A dump whose one page is a page table that refers to nothing but itself."""
    memory = Memory()
    for index in range(0, 512, 12):
        memory.put_u64(0x1000 + 8 * index, 0x1067)
    return memory.dump()


class World:
    """What the cases work on."""

    def __init__(self, folder):
        self.folder = folder
        self.image = small_machine().dump(minor_version=19041, bug_check_code=0xD1)
        self.path = folder / "small.dmp"
        self.path.write_bytes(self.image)
        self.text = folder / "text.dmp"
        self.text.write_bytes(b"no dump at all" * 1000)
        self.dump = kdmp.Dump(self.path)
        self.streamed = kdmp.Dump(io.BytesIO(self.image))
        changed = bytearray(self.image)
        changed[-PAGE] ^= 1
        self.other = kdmp.Dump(bytes(changed))
        self.series = kdmp.SnapshotSeries([self.dump, self.other], threads=1)
        self.reader = self.dump.reader(dtb=0x1000, paging="x64")
        self.translation = self.reader.translate(KERNEL_VA)
        self.context = kdmp.AccessContext(KERNEL_VA, 0x1000)
        self.target = bytearray(64)
        self.endless = kdmp.Reader(kdmp.Dump(endless()), paging="x64", dtb=0x1000)
        self.triage_image = small_triage()
        self.triage_path = folder / "triage.dmp"
        self.triage_path.write_bytes(self.triage_image)
        self.triage = kdmp.Dump(self.triage_path)
        self.ranges = self.triage.reader()
        memory, tables = machine("pae")
        self.raw_image, self.raw_root = flat(memory), tables.root
        self.raw_path = folder / "memory.raw"
        self.raw_path.write_bytes(self.raw_image)
        self.raw = kdmp.open_raw(self.raw_path, arch="x86")
        self.overlay = self.dump.overlay("kept")
        self.over = self.overlay.reader(dtb=0x1000, paging="x64")
        self.snapshot = self.overlay.snapshot()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("leaks"))
    gc.collect()
    gc.freeze()  # what is alive now stays so: collections look at new objects only
    yield world
    gc.unfreeze()
    for dump in (world.dump, world.streamed, world.other, world.triage, world.raw):
        dump.close()


@contextmanager
def raises(kind=Exception):
    """As pytest.raises, without keeping the traceback and with nothing that grows."""
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind} was not raised")


def failing(call, kind=(kdmp.KdmpError, TypeError, ValueError, OSError, OverflowError)):
    def run(world):
        with raises(kind):
            call(world)

    return run


def exercise_writer(world):
    with kdmp.DumpWriter(io.BytesIO(), 5, [(1, 2)]) as writer:
        assert (writer.closed, writer.pages, writer.missing) == (False, 2, 2)
        writer.write(1, bytes(2 * PAGE))
    assert writer.closed


def unfinished_writer(world):
    with raises(ValueError), kdmp.DumpWriter(io.BytesIO(), 1, [(1, 2)]) as writer:
        with raises(ValueError):
            writer.write(9, bytes(PAGE))
        with raises(ValueError):
            writer.write(1, b"short")


def use_triage(world):
    with kdmp.Dump(world.triage_image) as dump:
        triage = dump.triage
        assert [len(triage.drivers), len(triage.unloaded_drivers), len(list(dump.blobs()))] == [3, 1, 2]
        triage.stack, triage.mm, triage.prcb, triage.valid, list(triage.processors()), repr(triage)


def closed_triage(world):
    dump = kdmp.Dump(world.triage_image)
    dump.close()
    dump.va_ranges()


class NoMonitor:
    """A monitor of nothing."""

    def state(self):
        return {"addresses": []}

    def advance(self):
        return []


def compare_series(series):
    diff = series.diff()
    assert len(diff.frames.changed) == 1
    assert len(diff.frame(diff.frames.changed[0]).bytes) == 1
    assert not (diff.processes or diff.threads or diff.modules)


def collect(world):
    reader = world.reader
    with world.dump.collect_faults() as faults:
        missed = [getattr(reader, name)(HOLE) for name in ("read_u8", "read_f64", "read_wstr", "translate")]
        missed += [
            reader.read_exact(SPLIT, 64),
            reader.read_unicode_string(GONE),
            reader.read_struct(HOLE, "<I"),
        ]
        assert not any(one is not None for one in missed)
        reader.read(SPLIT, 64), reader.read_gaps(SPLIT, 0x3000), reader.try_translate(HOLE)
        reader.read_into(SPLIT, world.target), reader.try_read_exact(GONE, 8), reader.pte(1 << 47)
    assert len(pickle.loads(pickle.dumps(list(faults)))) == len(faults) > 3
    faults.to_dict(), faults.pages, faults.addresses, str(faults)


def collect_and_fail(world):
    with raises(OverflowError), world.dump.collect_faults():
        world.reader.read_u8(HOLE)
        world.reader.read_u8(-1)


def cancelled_search(world):
    found = world.reader.search(b"h", threads=2, progress=lambda *at: found.cancel())
    assert len(list(found)) <= 2
    found = world.reader.search(re.compile(b"h"), progress=raise_from_progress)
    with raises(KeyError):
        list(found)


def given_up(found):
    next(found)
    found.close()  # and wait for its threads


def raise_from_progress(done, total):
    raise KeyError("from progress")


def yara(world):
    if importlib.util.find_spec("yara_x") is None:
        return
    assert list(world.reader.yara('rule h { strings: $h = "hello" condition: $h }'))


def close_with_view(world):
    dump = kdmp.Dump(world.image)
    page = dump.pages[0x21]
    with raises(BufferError):
        dump.close()
    page.release()
    dump.close()


def lost_dump(world):
    path = world.path.with_suffix(".lost")
    path.write_bytes(world.image)
    with kdmp.Dump(path) as dump:
        reader = dump.reader(dtb=0x1000, paging="x64", discover=False)
        page = dump.pages[0x20]
        os.truncate(path, 0)
        for call in (lambda: reader.read_u8(KERNEL_VA), dump.check, lambda: dump.pages, lambda: dump.header):
            with raises(OSError):
                call()
        assert (dump.lost, repr(dump)[-3:]) == (0x2000, "on>")
        page.release()


def use_overlay(world):
    with world.dump.overlay("named") as ov:
        reader = ov.reader(dtb=0x1000, paging="x64")
        reader.write(KERNEL_VA, b"x" * 0x1800)
        snapshot = ov.snapshot()
        made = ov.create_frame()
        ov.write_u64(made << 12, 5)
        ov.remap(3, made)
        watch = ov.watch(0x20000, 1, lambda *what: what)
        ov.watch(KERNEL_VA, 1, lambda *what: what, reader)
        ov.write_u8(0x20000, 1)
        watch.remove()
        list(ov.diff()), ov.frames(), list(ov.runs()), repr(ov), world.dump.views["named"]
        ov.restore(snapshot)
        ov.watch_frame(0x20), ov.write_u8(0x20000, 2), ov.take_dirty()


def monitor(world):
    with world.dump.overlay() as ov:
        watch = kdmp.PageTableMonitor(ov)
        watch.monitor(KERNEL_VA, 0x1000, tag="leaks", paging="x64")
        watch.monitor(HOLE, 0x1000, paging="x64")
        entry = world.reader.translate(KERNEL_VA).entries[-1]
        ov.write_u64(kdmp.phys(entry.pa), 0)
        assert len(watch.process()) == 1
        assert watch.mark_dirty(entry.pa)
        assert not watch.mark_dirty(0x5000_0000)
        watch.status(KERNEL_VA, 0x1000, paging="x64"), watch.state(), len(watch), repr(watch)
        watch.unmonitor(KERNEL_VA, 0x1000, paging="x64")
        watch.unmonitor_by_force(HOLE, 0x1000, paging="x64")
        with raises(kdmp.NonCanonicalError):
            watch.monitor(1 << 47, 0x1000, paging="x64")
        watch.monitor(KERNEL_VA, 0x1000, paging="x64")
        watch.unmonitor_view(None)
        watch.unmonitor_all()
    later = kdmp.PageTableMonitor(world.dump)
    later.monitor(KERNEL_VA, 0x1000, paging="x64")
    assert later.advance(world.dump) == []


def dropped_overlay(world):
    ov = world.dump.overlay()
    ov.write_u64(0x20000, 5)
    ov.watch(0, None, lambda *what: what, ov.phys)  # with a cycle


def failing_watch(world):
    with world.dump.overlay() as ov:
        for kind in (ValueError, KeyError):
            ov.watch(0x20000, 8, lambda *what, kind=kind: raise_this(kind))
        with raises(ValueError):
            ov.write_u8(0x20000, 1)


def raise_this(kind):
    raise kind("from a callback")


def closed_overlay(world):
    dump = kdmp.Dump(world.image)
    ov = dump.overlay()
    reader = ov.phys
    dump.close()
    with raises(ValueError):
        reader.write_u8(0x20000, 1)
    with raises(ValueError):
        ov.snapshot()


def made_and_freed(world):
    world.overlay.free_frame(world.overlay.create_frame())
    with raises(ValueError):
        world.overlay.create_frame(0x20)


def remapped(world):
    world.overlay.revert(0x20)
    world.overlay.remap(0x20, 0x21)
    assert world.overlay.remaps() and world.overlay.frame(0x20)
    world.overlay.unmap(0x20)


def snapshots(world):
    world.overlay.write_u64(0x20000, 7)
    world.overlay.restore(world.snapshot)
    world.overlay.forget(world.overlay.snapshot())
    with world.overlay.scratch() as ov:
        ov.write_u64(0x20000, 7)


def created_and_destroyed(world):
    world.dump.views.destroy(world.dump.views.create("a view", lambda *what: what))


def watched(world):
    with world.dump.overlay() as ov:
        watch = ov.watch(KERNEL_VA, 0x2000, lambda *what: what, ov.reader(0x1000, "x64"))
        ov.watches_on(0x20), ov.watches, repr(watch)
        watch.remove()


def pickled(error):
    return pickle.loads(pickle.dumps(error))


def raised(call):
    def run(world):
        try:
            call(world)
        except kdmp.KdmpError as exc:
            str(exc), repr(exc), exc.args
            for name in dir(exc):
                getattr(exc, name)
            pickled(exc)
        else:
            raise AssertionError("nothing was raised")

    return run


class Pair(ctypes.LittleEndianStructure):
    _fields_ = [("a", ctypes.c_uint32), ("b", ctypes.c_uint32)]


def scalar(name):
    """Success at a mapped address, failures: a hole, a cut value, no address at all."""
    return [
        lambda w: getattr(w.reader, name)(KERNEL_VA),
        lambda w: getattr(w.reader, name)(kdmp.AccessContext(KERNEL_VA, 0x1000)),
        failing(lambda w: getattr(w.reader, name)(HOLE)),
        failing(lambda w: getattr(w.reader, name)("text")),
        failing(lambda w: getattr(w.reader, name)(-1)),
        failing(lambda w: getattr(w.reader, name)()),
    ]


def writing(owner, name):
    """Success by number and by context, failures: no frame, too large, no number, no address."""
    return [
        lambda w: getattr(getattr(w, owner), name)(kdmp.virt(KERNEL_VA, 0x1000), 5),
        lambda w: getattr(getattr(w, owner), name)(kdmp.phys(0x20FFF), 5),
        failing(lambda w: getattr(getattr(w, owner), name)(kdmp.phys(0x99000), 5)),
        failing(lambda w: getattr(getattr(w, owner), name)(kdmp.phys(0x20000), 1 << 80)),
        failing(lambda w: getattr(getattr(w, owner), name)(kdmp.phys(0x20000), "text")),
        failing(lambda w: getattr(getattr(w, owner), name)("text", 5)),
    ]


SCALARS = ("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64")

CASES = {
    "open": [lambda w: kdmp.open(w.path).close(), failing(lambda w: kdmp.open(w.text))],
    "phys": [lambda w: kdmp.phys(1), failing(lambda w: kdmp.phys("text"))],
    "virt": [lambda w: kdmp.virt(1, 2), failing(lambda w: kdmp.virt(1, "text"))],
    "write_dump": [
        lambda w: kdmp.write_dump(io.BytesIO(), 5, {1: bytes(PAGE)}),
        failing(lambda w: kdmp.write_dump(io.BytesIO(), 4, {})),
    ],
    "Dump": [
        lambda w: kdmp.Dump(w.path).close(),
        lambda w: kdmp.Dump(w.path),  # closed by its end
        lambda w: kdmp.Dump(w.path, io="read").close(),
        lambda w: kdmp.Dump(w.image),
        lambda w: kdmp.Dump(bytearray(w.image)).close(),
        lambda w: kdmp.Dump(io.BytesIO(w.image)).close(),
        lambda w: kdmp.Dump(w.image[:-1]).close(),
        lambda w: pickled(w.dump).close(),
        lambda w: repr(w.dump),
        lambda w: kdmp.Dump(w.path, pagefiles=[None, w.text, w.text]).close(),
        lambda w: kdmp.Dump(w.path, io="read", pagefiles=[w.text] * 16),  # closed by its end
        failing(lambda w: kdmp.Dump(w.path, pagefiles=[w.text, w.path / "missing"])),
        failing(lambda w: kdmp.Dump(w.path, pagefiles=[w.text] * 17)),
        failing(lambda w: kdmp.Dump(w.path, pagefiles=[w.text, 7])),
        failing(lambda w: kdmp.Dump(w.text)),
        failing(lambda w: kdmp.Dump(w.text, io="read")),
        failing(lambda w: kdmp.Dump(w.path / "missing")),
        failing(lambda w: kdmp.Dump(w.image[:0x1000])),
        failing(lambda w: kdmp.Dump(bytearray(b"text"))),
        failing(lambda w: kdmp.Dump(io.BytesIO(b"text"))),
        failing(lambda w: kdmp.Dump(7.5)),
        failing(lambda w: kdmp.Dump(w.image, io="neither")),
        failing(lambda w: kdmp.Dump()),
    ],
    "Dump.close": [close_with_view],
    "Dump.check": [lambda w: w.dump.check(), failing(lambda w: w.dump.check(1)), lost_dump],
    "Dump.choose_paging": [
        lambda w: w.dump.choose_paging(0x1000),
        failing(lambda w: w.dump.choose_paging("text")),
    ],
    "Dump.va_ranges": [
        lambda w: w.triage.va_ranges(),
        lambda w: w.dump.va_ranges(),
        lambda w: pickled(w.triage.va_ranges()),
        failing(lambda w: w.triage.va_ranges(1)),
        lambda w: w.triage.triage_header,
        use_triage,
    ],
    "Dump.collect_faults": [
        collect,
        lambda w: w.dump.collect_faults([HOLE, range(5), w.context]),
        failing(lambda w: w.dump.collect_faults(["text"])),
        collect_and_fail,
    ],
    "Dump.pfn": [
        failing(lambda w: w.dump.pfn(1), kdmp.KdmpError),
        failing(lambda w: w.triage.pfn(1), kdmp.KdmpError),
        failing(lambda w: w.dump.pfn(-1), (OverflowError, ValueError, kdmp.KdmpError)),
    ],
    "Dump.blobs": [
        lambda w: [blob.read(w.triage) for blob in w.triage.blobs()],
        lambda w: next(w.triage.blobs()),
        lambda w: list(w.dump.blobs()),
        failing(lambda w: list(w.triage.blobs())[1].read(w.dump).nothing, AttributeError),
    ],
    "Dump.find_root": [
        lambda w: w.raw.find_root("pae"),
        lambda w: w.raw.find_root("x86"),
        lambda w: w.dump.find_root("x64"),
        lambda w: w.streamed.find_root("arm64"),
        failing(lambda w: w.dump.find_root("none")),
        failing(lambda w: w.dump.find_root("triage")),
        failing(lambda w: w.dump.find_root(7)),
        failing(lambda w: w.dump.find_root()),
    ],
    "open_raw": [
        lambda w: kdmp.open_raw(w.raw_path, arch="x86").close(),
        lambda w: kdmp.open_raw(w.raw_path, io="read").phys.read_u8(0),
        lambda w: kdmp.open_raw(w.raw_image, [(5, 1, 0), (9, 2, 8)]).close(),
        lambda w: kdmp.open_raw(io.BytesIO(w.raw_image), arch="x86").find_root("pae"),
        lambda w: kdmp.open_raw(w.raw_image, arch="x86").reader().read_u32(KUSER[False] + 0x26C),
        lambda w: pickled(w.raw).close(),
        failing(lambda w: kdmp.open_raw(w.image).reader()),
        failing(lambda w: kdmp.open_raw(w.raw_image, [(1 << 40, 1, 0)])),
        failing(lambda w: kdmp.open_raw(w.raw_image, [(1, 2)])),
        failing(lambda w: kdmp.open_raw(w.raw_image, [("a", 1, 2)])),
        failing(lambda w: kdmp.open_raw(w.raw_image, 7)),
        failing(lambda w: kdmp.open_raw(w.raw_image, arch="mips")),
        failing(lambda w: kdmp.open_raw(b"\x7fELF" + bytes(60))),
        failing(lambda w: kdmp.open_raw(w.path / "missing")),
        failing(lambda w: kdmp.open_raw(b"")),
    ],
    "Dump.overlay": [
        use_overlay,
        dropped_overlay,
        created_and_destroyed,
        failing(lambda w: w.dump.overlay("kept")),
        failing(lambda w: w.triage.overlay()),
    ],
    "Dump.cache_info": [lambda w: w.dump.cache_info()],
    "Dump.clear_caches": [lambda w: (w.reader.read_u8(KERNEL_VA), w.dump.clear_caches())],
    **{name: [collect] for name in ("Fault", "Fault.to_dict", "FaultCollector", "FaultCollector.to_dict")},
    "PageTableMonitor": [monitor, failing(lambda w: kdmp.PageTableMonitor(5))],
    **{
        f"PageTableMonitor.{name}": [monitor]
        for name in (
            "advance mark_dirty monitor process state status unmonitor unmonitor_all unmonitor_by_force"
            " unmonitor_view"
        ).split()
    },
    "Overlay": [
        lambda w: kdmp.Overlay(w.dump),
        failing(lambda w: kdmp.Overlay(None), (AttributeError, TypeError)),
        failing(lambda w: OverlayBase(None)),
        lambda w: OverlayBase(w.dump).frames(),
        failing(lambda w: OverlayBase.__new__(OverlayBase).frames()),
        failing(lambda w: pickle.dumps(w.overlay)),
        closed_overlay,
    ],
    "Overlay.reader": [
        lambda w: w.overlay.reader(dtb=0x1000, paging="x64").read_u8(KERNEL_VA),
        failing(lambda w: w.overlay.reader(paging="none")),
    ],
    "Overlay.write": [
        lambda w: w.overlay.write(0x20000, b"data"),
        lambda w: w.overlay.write(kdmp.virt(KERNEL_VA, 0x1000), b"data"),
        failing(lambda w: w.overlay.write(0x99000, b"data")),
        failing(lambda w: w.overlay.write(0x20000, "text")),
    ],
    **{f"Reader.write_u{bits}": writing("over", f"write_u{bits}") for bits in (8, 16, 32, 64)},
    **{f"Overlay.write_u{bits}": writing("overlay", f"write_u{bits}") for bits in (8, 16, 32, 64)},
    "Overlay.write_struct": [
        lambda w: w.overlay.write_struct(0x20000, Pair(1, 2)),
        lambda w: w.overlay.write_struct(0x20000, (1, 2), "<IH"),
        failing(lambda w: w.overlay.write_struct(0x20000, (1, 2), "<I")),
    ],
    "Overlay.has_frame": [lambda w: (w.overlay.has_frame(0x20), w.overlay.has_frame(0x99))],
    "Overlay.runs": [lambda w: list(w.overlay.runs())],
    "Overlay.frames": [lambda w: w.overlay.frames()],
    "Overlay.remaps": [remapped],
    "Overlay.frame": [lambda w: w.overlay.frame(0x20), failing(lambda w: w.overlay.frame("text"))],
    "Overlay.create": [failing(lambda w: w.overlay.create(0x20)), failing(lambda w: w.overlay.create(-1))],
    "Overlay.create_frame": [made_and_freed],
    "Overlay.free_frame": [made_and_freed, failing(lambda w: w.overlay.free_frame(0x21))],
    "Overlay.remap": [
        remapped,
        failing(lambda w: w.overlay.remap(0x20)),
        failing(lambda w: w.overlay.remap(2, 0x99)),
        failing(lambda w: w.overlay.remap(2, 2)),
    ],
    "Overlay.unmap": [lambda w: w.overlay.unmap(0x20)],
    "Overlay.diff": [lambda w: list(w.overlay.diff()), lambda w: next(w.overlay.diff(), None)],
    "Overlay.revert_frame": [lambda w: w.overlay.revert_frame(0x20)],
    "Overlay.revert": [lambda w: w.overlay.revert([0x20, 0x21]), failing(lambda w: w.overlay.revert("text"))],
    "Overlay.snapshot": [snapshots],
    "Overlay.restore": [snapshots, failing(lambda w: w.overlay.restore(10**9))],
    "Overlay.forget": [
        snapshots,
        failing(lambda w: w.overlay.forget(10**9)),
        failing(lambda w: w.overlay.forget(1, 2)),
    ],
    "Overlay.scratch": [snapshots],
    "Overlay.reset": [use_overlay],
    "Overlay.watch_frame": [
        lambda w: (w.overlay.watch_frame(5), w.overlay.unwatch_frame(5)),
        failing(lambda w: w.overlay.watch_frame(1 << 50)),
    ],
    "Overlay.unwatch_frame": [lambda w: w.overlay.unwatch_frame(5)],
    "Overlay.take_dirty": [use_overlay],
    "Overlay.watch": [failing_watch, watched, failing(lambda w: w.overlay.watch(0, 0, print))],
    "Overlay.watches_on": [watched],
    "Overlay.save_as": [
        lambda w: w.overlay.save_as(io.BytesIO()),
        lambda w: w.overlay.save_as(w.path.with_name("saved.dmp"), "bitmap"),
        failing(lambda w: w.overlay.save_as(io.BytesIO(), "none")),
    ],
    "Watch": [watched],
    "Watch.remove": [watched],
    "write_triage": [
        lambda w: small_triage(),
        lambda w: small_triage(w.path.with_name("again.dmp")),
        failing(lambda w: kdmp.write_triage(io.BytesIO(), stack=(1 << 70, b"x"))),
        failing(lambda w: kdmp.write_triage(w.path / "no" / "folder")),
    ],
    "Reader of a triage dump": [
        lambda w: w.ranges.read(KERNEL_VA, 0x100),
        lambda w: w.ranges.read_gaps(KERNEL_VA, 0x100),
        lambda w: pickled(w.ranges).dump.close(),
        failing(lambda w: w.ranges.read_exact(KERNEL_VA, 0x100), kdmp.PartialReadError),
        raised(lambda w: w.ranges.read_u8(KERNEL_VA + 0x1000)),
        failing(lambda w: w.ranges.translate(KERNEL_VA)),
        failing(lambda w: w.triage.phys),
        failing(lambda w: w.triage.reader(paging="x64")),
        failing(closed_triage),
    ],
    "Dump.read_file": [
        lambda w: w.dump.read_file(0, 64),
        lambda w: w.streamed.read_file(0, 64),
        failing(lambda w: w.dump.read_file(2**40, 64)),
        failing(lambda w: w.dump.read_file(-1, 64)),
    ],
    "Dump.context_bytes": [lambda w: w.dump.context_bytes()],
    "Dump.exception_bytes": [lambda w: w.dump.exception_bytes()],
    "Dump.reader": [
        lambda w: w.dump.reader(),
        lambda w: w.dump.reader(dtb=0x1000, paging="la57"),
        failing(lambda w: w.dump.reader(paging="none")),
    ],
    "Reader": [
        lambda w: kdmp.Reader(w.dump, paging="x64", dtb=0x1000),
        lambda w: kdmp.Reader(w.dump, paging="x64", pte_format=PTE_FORMAT, kernel_dtb=1, zero_fill=True),
        failing(lambda w: kdmp.Reader(w.dump, paging="x64", pte_format=PTE_FORMAT[1:])),
        failing(lambda w: kdmp.Reader(w.dump, paging="x64", kernel_dtb=-1)),
        lambda w: repr(w.reader),
        lambda w: pickled(w.reader).dump.close(),
        failing(lambda w: kdmp.Reader(w.dump, paging="none")),
        failing(lambda w: kdmp.Reader(None, paging="x64")),
    ],
    "Reader.at": [lambda w: w.reader.at(0x2000), failing(lambda w: w.reader.at("text"))],
    "Reader.translate": [
        *scalar("translate"),
        failing(lambda w: w.reader.translate(1 << 47)),
        lambda w: [getattr(w.translation, name) for name in dir(w.translation)],
    ],
    "Reader.try_translate": [
        lambda w: w.reader.try_translate(KERNEL_VA),
        lambda w: w.reader.try_translate(HOLE),
        failing(lambda w: w.reader.try_translate("text")),
    ],
    "Reader.missing": [
        lambda w: w.reader.missing(KERNEL_VA),
        lambda w: w.reader.missing(HOLE, 1 << 40),
        lambda w: w.reader.missing(kdmp.phys(1 << 40), 5),
        lambda w: w.ranges.missing(1, 1 << 63),
        lambda w: w.over.missing(1 << 47, 1 << 62),
        failing(lambda w: w.reader.missing(-1)),
        failing(lambda w: w.reader.missing(0, None)),
    ],
    "Reader.buffer": [
        lambda w: w.reader.buffer(KERNEL_VA, 0x2000),
        lambda w: w.ranges.buffer(KERNEL_VA, 40),
        failing(lambda w: w.reader.buffer(KERNEL_VA, 0x2001)),
        failing(lambda w: w.over.buffer(HOLE, 1)),
        failing(lambda w: kdmp.Dump(w.image[:]).reader(dtb=0x1000).buffer(0, 1)),
        failing(lambda w: w.streamed.phys.buffer(0x20000, 1), BufferError),
    ],
    "Reader.buffers": [
        lambda w: list(w.reader.buffers()),
        lambda w: next(w.ranges.buffers()),
        lambda w: list(w.streamed.phys.buffers()),
        failing(lambda w: w.reader.buffers(5, 4)),
        failing(lambda w: next(w.reader.buffers("text"))),
    ],
    "Pages.buffer": [
        lambda w: w.dump.pages.buffer(0x20, 2),
        failing(lambda w: w.dump.pages.buffer(0x20, 3)),
        failing(lambda w: w.dump.pages.buffer(4, 1 << 60)),
        failing(lambda w: w.streamed.pages.buffer(0x20), BufferError),
        failing(lambda w: w.dump.pages[:0x20].buffer(0x1F, 2), IndexError),
        failing(lambda w: w.dump.pages.buffer(0x20, 0)),
        failing(lambda w: w.dump.pages.buffer("text")),
    ],
    "Reader.extract": [
        lambda w: w.reader.extract(KERNEL_VA, 0x4000, w.folder / "extracted", overwrite=True),
        lambda w: w.ranges.extract(KERNEL_VA, 0x100, io.BytesIO(), fill=1),
        failing(lambda w: w.reader.extract(KERNEL_VA, 5, w.path)),
        failing(lambda w: w.reader.extract(KERNEL_VA, 5, w.text)),
        failing(lambda w: w.reader.extract(KERNEL_VA, 5, "/dev/full")),
        failing(lambda w: w.reader.extract(KERNEL_VA, 5, w.folder / "x", progress=raise_this), TypeError),
        failing(lambda w: w.reader.extract(KERNEL_VA, 1 << 60, w.folder / "x")),
    ],
    "Reader.is_readable": [
        lambda w: w.reader.is_readable(KERNEL_VA, 0x1000),
        lambda w: w.reader.is_readable(HOLE),
        failing(lambda w: w.reader.is_readable(None)),
    ],
    "Reader.read": [
        lambda w: w.reader.read(KERNEL_VA, 0x2000),
        lambda w: w.reader.read(SPLIT, 64),
        lambda w: w.reader.read(KERNEL_VA, 0),
        lambda w: w.streamed.phys.read(0x20000, 0x2000),
        lambda w: w.reader.read(HOLE, 1),
        lambda w: w.reader.read(GONE, 1),
        failing(lambda w: w.reader.read(KERNEL_VA, -1)),
    ],
    "Reader.read_exact": [
        lambda w: w.reader.read_exact(KERNEL_VA, 0x2000),
        failing(lambda w: w.reader.read_exact(SPLIT, 64), kdmp.PartialReadError),
        failing(lambda w: w.reader.read_exact(HOLE, 64)),
        failing(lambda w: w.reader.read_exact(KERNEL_VA, 2**62), (kdmp.KdmpError, MemoryError)),
    ],
    "Reader.try_read_exact": [
        lambda w: w.reader.try_read_exact(KERNEL_VA, 64),
        lambda w: w.reader.try_read_exact(SPLIT, 64),
        failing(lambda w: w.reader.try_read_exact("text", 64)),
    ],
    "Reader.read_into": [
        lambda w: w.reader.read_into(KERNEL_VA, w.target),
        lambda w: w.reader.read_into(SPLIT, w.target),
        lambda w: w.reader.read_into(HOLE, w.target),
        failing(lambda w: w.reader.read_into(KERNEL_VA, b"bytes"), (TypeError, BufferError)),
    ],
    "Reader.read_gaps": [
        lambda w: w.reader.read_gaps(KERNEL_VA, 0x4000),
        lambda w: w.reader.read_gaps(HOLE, 0x2000, 0xFF),
        failing(lambda w: w.reader.read_gaps(HOLE, 0x2000, 256)),
    ],
    **{
        f"Reader.read_{name}": scalar(f"read_{name}")
        for name in (*SCALARS, "ptr", "cstr", "wstr", "cstr_bytes")
    },
    "Reader.read_uint": [
        lambda w: w.reader.read_uint(KERNEL_VA, 4, signed=True),
        failing(lambda w: w.reader.read_uint(KERNEL_VA, 3)),
        failing(lambda w: w.reader.read_uint(HOLE, 4)),
    ],
    "Reader.read_unicode_string": [
        lambda w: w.reader.read_unicode_string(KERNEL_VA + 0x300),
        failing(lambda w: w.reader.read_unicode_string(HOLE)),
        failing(lambda w: w.reader.read_unicode_string(KERNEL_VA, pointer_size=3)),
    ],
    "Reader.read_struct": [
        lambda w: w.reader.read_struct(KERNEL_VA, "<IQ"),
        lambda w: w.reader.read_struct(KERNEL_VA, struct.Struct("<IQ")),
        lambda w: w.reader.read_struct(KERNEL_VA, Pair).a,
        failing(lambda w: w.reader.read_struct(HOLE, Pair)),
        failing(lambda w: w.reader.read_struct(KERNEL_VA, 7)),
    ],
    "Reader.translate_many": [
        lambda w: w.reader.translate_many([KERNEL_VA, HOLE, GONE]),
        failing(lambda w: w.reader.translate_many("text")),
    ],
    "Reader.read_many": [
        lambda w: w.reader.read_many([KERNEL_VA, HOLE, GONE], 8),
        failing(lambda w: w.reader.read_many([1], -1)),
    ],
    "Reader.read_u64_many": [lambda w: w.reader.read_u64_many([KERNEL_VA, HOLE])],
    "Reader.gather": [
        lambda w: w.reader.gather("_LIST_ENTRY", "Flink", [KERNEL_VA, HOLE]),
        failing(lambda w: w.reader.gather("_LIST_ENTRY", "Slink", [KERNEL_VA])),
    ],
    "Reader.translate_into": [
        lambda w: w.reader.translate_into(bytes(16), bytearray(16), bytearray(2)),
        failing(lambda w: w.reader.translate_into(bytes(16), bytes(16), bytearray(2)), BufferError),
        failing(lambda w: w.reader.translate_into(bytes(16), bytearray(8), bytearray(2))),
        failing(lambda w: w.reader.translate_into(bytes(16), bytearray(16), None)),
    ],
    "Reader.read_many_into": [
        lambda w: w.reader.read_many_into(bytes(16), 4, bytearray(8), bytearray(2)),
        failing(lambda w: w.reader.read_many_into(bytes(16), 4, bytearray(7), bytearray(2))),
    ],
    "Reader.read_field": [
        lambda w: w.reader.read_field(KERNEL_VA, "_LIST_ENTRY.Flink"),
        failing(lambda w: w.reader.read_field(HOLE, "_LIST_ENTRY.Flink"), kdmp.KdmpError),
        failing(lambda w: w.reader.read_field(KERNEL_VA, "_LIST_ENTRY"), ValueError),
    ],
    "Reader.read_structs": [
        lambda w: w.reader.read_structs(KERNEL_VA, Pair, 3),
        failing(lambda w: w.reader.read_structs(HOLE, Pair, 3)),
    ],
    "Reader.write": [
        lambda w: w.over.write(KERNEL_VA + 0xFF0, bytes(0x20)),
        failing(lambda w: w.over.write(SPLIT, bytes(0x20))),
        failing(lambda w: w.over.write(KERNEL_VA, "text")),
        failing(lambda w: w.reader.write(KERNEL_VA, b"x")),
    ],
    "Reader.write_uint": [
        lambda w: w.over.write_uint(KERNEL_VA, -5, 4),
        failing(lambda w: w.over.write_uint(KERNEL_VA, 5, 3)),
    ],
    "Reader.write_struct": [
        lambda w: w.over.write_struct(KERNEL_VA, Pair(1, 2)),
        failing(lambda w: w.over.write_struct(KERNEL_VA, Pair)),
    ],
    "Reader.cache_info": [lambda w: w.reader.cache_info()],
    "Reader.cache_flush": [
        lambda w: (w.over.read_u8(KERNEL_VA), w.over.cache_flush(KERNEL_VA), w.over.cache_flush()),
        failing(lambda w: w.over.cache_flush("text")),
    ],
    "Reader.cache_resize": [
        lambda w: (w.over.read_u8(KERNEL_VA), w.over.cache_resize(8192)),
        failing(lambda w: w.over.cache_resize(0)),
        failing(lambda w: w.dump.phys.cache_resize(5)),
    ],
    "Reader.mappings": [
        lambda w: list(w.reader.mappings()),
        lambda w: next(w.reader.mappings(KERNEL_VA)),
        lambda w: repr(next(w.reader.mappings(KERNEL_VA))),
        lambda w: ReaderBase.mappings(w.reader, 0, KERNEL_VA),  # given up before its first range
        failing(lambda w: ReaderBase.mappings(w.reader, 5, 4)),
        failing(lambda w: list(w.endless.find_frame(9))),
        failing(lambda w: list(w.ranges.mappings())),
        failing(lambda w: list(w.reader.mappings("text"))),
    ],
    "Reader.extents": [
        lambda w: list(w.reader.extents()),
        lambda w: list(w.over.extents(KERNEL_VA, KERNEL_VA + 0x5FFF)),
        lambda w: repr(next(w.dump.phys.extents())),
        lambda w: w.reader.extents(0, KERNEL_VA),  # given up before its first extent
        failing(lambda w: w.reader.extents(5, 4)),
        failing(lambda w: list(w.endless.extents())),
        failing(lambda w: w.reader.extents("text")),
    ],
    "Reader.scan": [
        lambda w: w.reader.scan(Matcher([b"hello", (b"h?l", b"\xff\0\xff")], pointers=[(5, 2**63, 8)])),
        lambda w: repr(w.dump.phys.scan(Matcher(text=(4, 3)))),
        lambda w: w.reader.scan(Matcher([bytes(600)] * 9), limit=1),
        failing(lambda w: w.reader.scan(Matcher([b"a"]), 5, 4)),
        failing(lambda w: w.reader.scan(b"a")),
        failing(lambda w: w.reader.scan(Matcher([b"a"]), limit=0)),
    ],
    "Reader.mappings_buffer": [
        lambda w: w.reader.mappings_buffer(),
        failing(lambda w: w.reader.mappings_buffer("text")),
        failing(lambda w: w.endless.mappings_buffer()),
    ],
    "Reader.mappings_array": [
        lambda w: w.reader.mappings_array(),
        failing(lambda w: w.reader.mappings_array(states="none such")),
    ],
    "Reader.owners": [lambda w: w.dump.phys.owners(0x20), failing(lambda w: w.reader.owners("text"))],
    "Reader.search": [
        lambda w: [match.data for match in w.reader.search(["hello", b"\0\0", KERNEL_VA], limit=50)],
        lambda w: list(w.dump.phys.search([b"hello", re.compile(b"l+")], order="file")),
        lambda w: list(w.reader.search("hello", threads=2, unique=True)),
        lambda w: given_up(w.over.search(b"h", threads=2)),
        lambda w: next(w.over.search(b"h")),  # closed by its end
        lambda w: w.reader.search(b"h"),
        lambda w: list(w.reader.search(b"h").unread()),
        lambda w: list(w.ranges.search("block")),
        cancelled_search,
        failing(lambda w: w.reader.search([])),
        failing(lambda w: w.reader.search(b"h", threads=0)),
        failing(lambda w: list(w.endless.search(b"h")), kdmp.KdmpError),
    ],
    "Reader.strings": [
        lambda w: list(w.reader.strings(3)),
        lambda w: given_up(w.dump.phys.strings(3, threads=2)),
        failing(lambda w: w.reader.strings(0)),
    ],
    "Reader.yara": [
        yara,
        failing(lambda w: w.reader.yara("no/such/file"), (OSError, ImportError)),
    ],
    "Reader.pte": [
        lambda w: str(w.reader.pte(KERNEL_VA)),
        lambda w: w.reader.pte(HOLE).to_dict(),
        failing(lambda w: w.reader.pte(1 << 47)),
    ],
    "Reader.explain": [
        lambda w: w.reader.explain(KERNEL_VA),
        lambda w: w.reader.explain(HOLE),
        lambda w: w.reader.explain(1 << 47),
        failing(lambda w: w.reader.explain("text")),
    ],
    "Reader.is_resident": [
        lambda w: w.reader.is_resident(KERNEL_VA),
        failing(lambda w: w.reader.is_resident("text")),
    ],
    "Reader.find_frame": [
        lambda w: list(w.reader.find_frame(0x20)),
        failing(lambda w: list(w.reader.find_frame("text"))),
    ],
    "Pages": [
        lambda w: list(w.dump.pages),
        lambda w: w.dump.pages[0x21].release(),
        lambda w: w.streamed.pages[0x21].release(),
        lambda w: len(w.dump.pages[2:0x21]),
        lambda w: (0x21 in w.dump.pages, "text" in w.dump.pages, 2**70 in w.dump.pages),
        lambda w: next(iter(w.dump.pages)),
        lambda w: repr(w.dump.pages),
        failing(lambda w: w.dump.pages[0x99]),
        failing(lambda w: w.dump.pages["text"]),
        failing(lambda w: w.dump.pages[::2]),
    ],
    "Pages.runs": [lambda w: [tuple(r) for r in w.dump.pages.runs()], lambda w: next(w.dump.pages.runs())],
    "AccessContext": [
        lambda w: kdmp.AccessContext(1, 2),
        lambda w: (w.context + 1, 1 + w.context, w.context - 1, hash(w.context), repr(w.context)),
        lambda w: (w.context == w.context, w.context != 5, pickled(w.context)),
        failing(lambda w: kdmp.AccessContext("text")),
        failing(lambda w: w.context + "text"),
    ],
    "Translation": [
        lambda w: (hash(w.translation), repr(w.translation), int(w.translation), w.translation.entries),
        lambda w: (w.translation == w.translation, w.translation != 5, pickled(w.translation)),
        failing(kdmp.Translation),
    ],
    "DumpWriter": [
        exercise_writer,
        failing(lambda w: kdmp.DumpWriter(io.BytesIO(), 4, [])),
        failing(lambda w: kdmp.DumpWriter(w.path / "no" / "folder", 1, [(1, 1)])),
    ],
    "DumpWriter.write": [unfinished_writer],
    "DumpWriter.close": [unfinished_writer],
    "Dump.compare": [
        lambda w: w.dump.compare(w.streamed, 0, 1 << 40),
        lambda w: w.dump.compare(w.other, 0, 1 << 40),
        failing(lambda w: w.dump.compare("text", 0, 1)),
        failing(lambda w: w.dump.compare(w.dump, -1, 1)),
        failing(lambda w: w.dump.compare(w.dump)),
    ],
    "SnapshotSeries": [
        lambda w: compare_series(kdmp.SnapshotSeries([w.dump, w.other], check=False)),
        failing(lambda w: kdmp.SnapshotSeries([w.dump, w.triage])),
        failing(lambda w: kdmp.SnapshotSeries([w.path, w.text])),
    ],
    "SnapshotSeries.close": [lambda w: kdmp.SnapshotSeries([w.path, w.dump]).close()],
    "SnapshotSeries.diff": [failing(lambda w: w.series.diff(0, "text"))],
    "SnapshotSeries.pairs": [lambda w: [list(diff.frames.changed) for diff in w.series.pairs()]],
    "SnapshotSeries.read_u64": [lambda w: (w.series.read_u64(0x20000), w.series.read_u64(1 << 60))],
    "SnapshotSeries.events": [lambda w: list(w.series.monitor_source().events(NoMonitor()))],
    "SnapshotSeries.monitor_source": [lambda w: w.series.monitor_source().next()],
    "SeriesError": [lambda w: pickled(kdmp.SeriesError("text"))],
    "KdmpError": [lambda w: pickled(kdmp.KdmpError("text"))],
    "FormatError": [raised(lambda w: kdmp.Dump(w.image[:0x1000]))],
    "WrongFileError": [raised(lambda w: kdmp.Dump(w.text))],
    "UnsupportedDumpError": [lambda w: pickled(kdmp.UnsupportedDumpError("text"))],
    "UnreadableError": [lambda w: pickled(kdmp.UnreadableError("text"))],
    "TranslationError": [lambda w: pickled(kdmp.TranslationError("text"))],
    "NotPresentError": [raised(lambda w: w.reader.translate(HOLE))],
    "NonCanonicalError": [raised(lambda w: w.reader.translate(1 << 47))],
    "BadEntryError": [lambda w: pickled(kdmp.BadEntryError("text"))],
    "NotInDumpError": [raised(lambda w: w.reader.read_u8(GONE))],
    "TruncatedError": [lambda w: pickled(kdmp.TruncatedError("text"))],
    "AddressEndError": [lambda w: pickled(kdmp.AddressEndError("text"))],
    "PartialReadError": [raised(lambda w: w.reader.read_exact(SPLIT, 64))],
    "NotContiguousError": [lambda w: pickled(kdmp.NotContiguousError("text"))],
    "RootNotPresentError": [lambda w: pickled(kdmp.RootNotPresentError("text"))],
}

# Plain Python without resources of its own, tested where it belongs.
PURE_PYTHON = {
    "BugCheck", "BugCheckParameter", "Context", "DumpAttributes", "DumpKind", "ExceptionRecord",
    "Explanation", "Pattern", "PteRow", "PteView", "protection_name", "protection_rights",
}  # fmt: skip
# Made by the calls above.
RECORDS = {"CacheInfo", "Change", "Gap", "PageTableEntry", "Run", "VaRange"}


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "o1", "o2", "mapped", "hblkhd", "o3", "o4", "used", "o5", "o6")
    ]


def _heap():
    """Bytes in use on the C heap; 0 where the C library does not tell."""
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return lambda: 0
    function.restype = _Mallinfo

    def used():
        info = function()
        return info.used + info.hblkhd

    return used


heap = _heap()


def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def growth(call, rounds):
    """What that many calls leave behind: (blocks, heap bytes, descriptors)."""
    for _ in range(30):
        call()
    gc.collect()
    before = sys.getallocatedblocks(), heap(), descriptors()
    for _ in range(rounds):
        call()
    gc.collect()
    after = sys.getallocatedblocks(), heap(), descriptors()
    return [new - old for new, old in zip(after, before, strict=True)]


def assert_no_leak(call):
    # A leak grows with the calls.  Caches fill once, and what the C library
    # keeps back for the thread counts as used: both stay below some size.
    for factor in (1, 1, 1, 4, 16):
        rounds = ROUNDS * factor
        grown = growth(call, rounds)
        limits = [rounds // 3, rounds * 12, 0]
        if all(value <= limit for value, limit in zip(grown, limits, strict=True)):
            return
    pytest.fail(f"{rounds} calls leave (blocks, bytes, descriptors) {grown}")


@pytest.mark.parametrize(
    "name, number", [(name, k) for name, calls in CASES.items() for k in range(len(calls))]
)
def test_call(name, number, world):
    call = CASES[name][number]
    assert_no_leak(lambda: call(world))


WITH_PROPERTIES = (
    *("dump", "streamed", "triage", "raw", "reader", "ranges", "over", "translation", "context", "overlay"),
)
PROPERTIES = [
    (kind, name)
    for kind in WITH_PROPERTIES
    for name in dir(
        {
            "reader": kdmp.Reader,
            "ranges": kdmp.Reader,
            "over": kdmp.Reader,
            "overlay": kdmp.Overlay,
            "translation": kdmp.Translation,
            "context": kdmp.AccessContext,
        }.get(kind, kdmp.Dump)
    )
    if not name.startswith("_")
]


@pytest.mark.parametrize("kind, name", PROPERTIES)
def test_attribute(kind, name, world):
    owner = getattr(world, kind)

    def get():
        try:
            getattr(owner, name)
        except kdmp.KdmpError:  # such as the physical memory of a triage dump
            assert name in ("phys", "pfns", "physical")

    assert_no_leak(get)


def check_seen(leak):
    with pytest.raises(pytest.fail.Exception, match="calls leave"):
        assert_no_leak(leak)


def test_the_watch_sees_objects():
    kept = []
    check_seen(lambda: kept.append(object()))


@pytest.mark.skipif(not heap(), reason="the C library does not tell what it has given out")
def test_the_watch_sees_bytes():
    malloc = ctypes.CDLL(None).malloc
    malloc.argtypes = [ctypes.c_size_t]
    malloc.restype = None  # no object is kept, the bytes alone are lost
    check_seen(lambda: malloc(100))


@pytest.mark.skipif(not descriptors(), reason="this system does not list what is open")
def test_the_watch_sees_descriptors():
    calls = itertools.count()
    kept = []

    def leak():
        if next(calls) % 10 == 0:  # not each time: a process has no more than a thousand or so
            kept.append(os.open(os.devnull, os.O_RDONLY))

    try:
        check_seen(leak)
    finally:
        for number in kept:
            os.close(number)


def public_callables():
    """Names as in CASES: what __all__ lists, and the methods of its classes that are ours."""
    for name in kdmp.__all__:
        value = getattr(kdmp, name)
        if not callable(value) or name in PURE_PYTHON | RECORDS:
            continue
        yield name
        if isinstance(value, type) and not issubclass(value, Exception):
            for cls in value.__mro__:
                if cls.__module__.startswith("kdmp"):
                    yield from (f"{name}.{k}" for k, v in vars(cls).items() if k[0] != "_" and callable(v))


def test_every_public_callable_has_a_case():
    assert set(public_callables()) - CASES.keys() == set()
