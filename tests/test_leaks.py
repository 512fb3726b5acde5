"""Nothing is lost: every public callable, many times, in success and in failure.

Watched are the interpreter's memory blocks, the C heap where the C library tells (glibc), and open
file descriptors. A last test lists the public names and fails for one that has no case here.

SPDX-License-Identifier: MIT
"""

import ctypes
import gc
import io
import os
import pickle
import struct
import sys
import uuid
from contextlib import contextmanager

import pytest
from archtables import KUSER, flat, machine
from conftest import KERNEL_VA, small_machine
from dumpbuilder import PAGE, Memory

import kdmp
from kdmp._kdmp import ReaderBase

ROUNDS = 150
PTE_FORMAT = (0xF_FFFF_FFFF_F000, 4, 5, 5, 3, 16, 0, 12, 32)
HOLE = KERNEL_VA + 0x2000
GONE = KERNEL_VA + 0x3000
SPLIT = KERNEL_VA + 0x1FF8  # 8 bytes before the hole


@pytest.fixture(autouse=True)
def _plain_build(instrumented):
    if instrumented:
        pytest.skip("a sanitizer's allocator does not count blocks")


def small_triage(target=None):
    """The bytes of a triage dump with a bit of everything; written to `target` if that is given."""
    out = io.BytesIO()
    kdbg = bytearray(0x380)
    struct.pack_into("<HHHH", kdbg, 0x2B0, 0x40, 0, 8, 0)
    kdmp.write_triage(
        out if target is None else target,
        header={"minor_version": 19041, "number_processors": 2, "kd_debugger_data_block": KERNEL_VA + 0x8000},
        unloaded=[("old.sys", KERNEL_VA, KERNEL_VA + 1)],
        prcb=bytes(0x40),
        stack=(KERNEL_VA + 0x4000, b"stack" * 4),
        debugger_data=kdbg,
        drivers=[("nt.exe", KERNEL_VA, 0x1000, 1, 2)] * 3,
        data_blocks=[(KERNEL_VA, b"block" * 8), (KERNEL_VA + 40, b"next")],
        blobs=[(uuid.UUID(int=0), b""), (uuid.UUID(int=5), b"secondary")],
    )
    return out.getvalue()


def endless():
    """A dump whose one page is a page table that refers to nothing but itself."""
    memory = Memory()
    for index in range(0, 512, 12):
        memory.put_u64(0x1000 + 8 * index, 0x1067)
    return memory.dump()


class World:
    """What the cases work on."""

    def __init__(self, folder):
        self.image = small_machine().dump(minor_version=19041, bug_check_code=0xD1)
        self.path = folder / "small.dmp"
        self.path.write_bytes(self.image)
        self.text = folder / "text.dmp"
        self.text.write_bytes(b"no dump at all" * 1000)
        self.dump = kdmp.Dump(self.path)
        self.streamed = kdmp.Dump(io.BytesIO(self.image))
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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("leaks"))
    gc.collect()
    gc.freeze()  # what is alive now stays so: collections look at new objects only
    yield world
    gc.unfreeze()
    for dump in (world.dump, world.streamed, world.triage, world.raw):
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


def close_with_view(world):
    dump = kdmp.Dump(world.image)
    page = dump.pages[0x21]
    with raises(BufferError):
        dump.close()
    page.release()
    dump.close()


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
    "Reader.read_field": [
        lambda w: w.reader.read_field(KERNEL_VA, "_LIST_ENTRY.Flink"),
        failing(lambda w: w.reader.read_field(HOLE, "_LIST_ENTRY.Flink"), kdmp.KdmpError),
        failing(lambda w: w.reader.read_field(KERNEL_VA, "_LIST_ENTRY"), ValueError),
    ],
    "Reader.read_structs": [
        lambda w: w.reader.read_structs(KERNEL_VA, Pair, 3),
        failing(lambda w: w.reader.read_structs(HOLE, Pair, 3)),
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
    "RootNotPresentError": [lambda w: pickled(kdmp.RootNotPresentError("text"))],
}

# Plain Python without resources of its own, tested where it belongs.
PURE_PYTHON = {
    "BugCheck", "BugCheckParameter", "Context", "DumpAttributes", "DumpKind", "ExceptionRecord",
    "Explanation", "PteRow", "PteView", "protection_name", "protection_rights",
}  # fmt: skip
# Made by the calls above.
RECORDS = {"Gap", "PageTableEntry", "Run", "VaRange"}


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


def growth(call):
    """What ROUNDS calls leave behind: (blocks, heap bytes, descriptors)."""
    for _ in range(30):
        call()
    gc.collect()
    before = sys.getallocatedblocks(), heap(), descriptors()
    for _ in range(ROUNDS):
        call()
    gc.collect()
    after = sys.getallocatedblocks(), heap(), descriptors()
    return [new - old for new, old in zip(after, before, strict=True)]


def assert_no_leak(call):
    limits = [ROUNDS // 3, ROUNDS * 12, 0]
    for _ in range(4):  # caches fill once; a leak is there every time
        grown = growth(call)
        if all(value <= limit for value, limit in zip(grown, limits, strict=True)):
            return
    pytest.fail(f"{ROUNDS} calls leave (blocks, bytes, descriptors) {grown}")


@pytest.mark.parametrize(
    "name, number", [(name, k) for name, calls in CASES.items() for k in range(len(calls))]
)
def test_call(name, number, world):
    call = CASES[name][number]
    assert_no_leak(lambda: call(world))


PROPERTIES = [
    (kind, name)
    for kind in ("dump", "streamed", "triage", "raw", "reader", "ranges", "translation", "context")
    for name in dir(
        {
            "reader": kdmp.Reader,
            "ranges": kdmp.Reader,
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
            assert name in ("phys", "pfns")

    assert_no_leak(get)


def test_the_watch_sees_leaks():
    kept = []
    assert growth(lambda: kept.append(object()))[0] >= ROUNDS
    if heap():
        assert growth(lambda: kept.append(bytes(5000)))[1] >= ROUNDS * 5000
    files = []
    if descriptors():
        assert growth(lambda: files.append(os.open(os.devnull, os.O_RDONLY)))[2] == ROUNDS
        for number in files:
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
