"""What the extension makes of wrong arguments, of sources that fail, and of objects that are not ready.

SPDX-License-Identifier: MIT
"""

import copy
import errno
import io
import pickle
import struct

import pytest
from conftest import KERNEL_VA, small_machine
from dumpbuilder import LARGE, PAGE, TRANSITION, Memory, P, Tables, U, W, patched

import kdmp
from kdmp import _kdmp
from kdmp._kdmp import AccessContext, DumpBase, OverlayBase, ReaderBase, Translation

ABSENT = KERNEL_VA + 0x2000
VAD = KERNEL_VA + 0x4000  # its PTE leaves the answer to the VAD
ASK_VAD = 0xFFFF_FFFF_0000_0400 | 4 << 5


class Index:
    """An int to those who ask."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class NoTruth:
    def __bool__(self):
        raise ZeroDivisionError


class Unlucky:
    def __getattr__(self, name):
        raise ZeroDivisionError


BROKEN = Index(ZeroDivisionError())


class File:
    """A file object whose reads can be replaced."""

    def __init__(self, data):
        self.data, self.at, self.answer = data, 0, None

    def seek(self, offset, whence=0):
        self.at = offset + (len(self.data) if whence == 2 else 0)
        return self.at

    def read(self, size):
        data = self.data[self.at : self.at + size]
        return data if self.answer is None else self.answer(self.at, data)


def fail(*_):
    raise ZeroDivisionError


@pytest.fixture(scope="module")
def image():
    memory = small_machine()
    Tables(memory).raw(VAD, ASK_VAD)  # finds the tables that are there
    memory.put_u64(0x20400, 0x21000 | P | W)
    memory.put_u64(0x21000, 0)  # an empty UNICODE_STRING
    for where, buffer in ((0x20500, VAD), (0x20520, ABSENT), (0x20540, KERNEL_VA + 0x1000)):
        memory.put_u64(where, 0x0010_0010)
        memory.put_u64(where + 8, buffer)
    return memory.dump()


@pytest.fixture
def dump(image):
    return DumpBase(image)


@pytest.fixture
def reader(dump):
    return ReaderBase(dump, paging="x64", dtb=0x1000)


@pytest.fixture
def overlay(dump):
    return OverlayBase(dump)


@pytest.fixture
def writer(dump, overlay):
    return ReaderBase(dump, paging="x64", dtb=0x1000, overlay=overlay)


def reads(va):
    """One call of each method that reads, by name."""
    target = bytearray(8)
    many = struct.pack("<Q", va)
    return {
        "read": lambda r: r.read(va, 8),
        "read_exact": lambda r: r.read_exact(va, 8),
        "try_read_exact": lambda r: r.try_read_exact(va, 8),
        "read_into": lambda r: r.read_into(va, target),
        "read_gaps": lambda r: r.read_gaps(va, 8),
        "is_readable": lambda r: r.is_readable(va, 8),
        "read_u8": lambda r: r.read_u8(va),
        "read_u64": lambda r: r.read_u64(va),
        "read_f64": lambda r: r.read_f64(va),
        "read_ptr": lambda r: r.read_ptr(va),
        "read_uint": lambda r: r.read_uint(va, 4),
        "read_cstr": lambda r: r.read_cstr(va),
        "read_cstr_bytes": lambda r: r.read_cstr_bytes(va),
        "read_wstr": lambda r: r.read_wstr(va),
        "read_unicode_string": lambda r: r.read_unicode_string(va),
        "translate": lambda r: r.translate(va),
        "try_translate": lambda r: r.try_translate(va),
        "translate_into": lambda r: r.translate_into(many, memoryview(bytearray(8)).cast("Q"), bytearray(1)),
        "read_many_into": lambda r: r.read_many_into(many, 8, target, bytearray(1)),
    }


READS = tuple(reads(0))
WALKS = ("translate", "try_translate")
BATCHES = ("translate_into", "read_many_into")


# ---- arguments ----

WRONG = {
    "too many": (TypeError, "at most 1 positional argument ", lambda r: r.translate(0, 1)),
    "too many of two": (TypeError, "at most 2 positional arguments", lambda r: r.read(0, 1, 2)),
    "unexpected": (TypeError, "unexpected keyword argument 'x'", lambda r: r.translate(0, x=1)),
    "twice": (TypeError, "multiple values for argument 'va'", lambda r: r.translate(0, va=1)),
    "missing": (TypeError, "missing the argument 'size'", lambda r: r.read(0)),
    "try_translate": (TypeError, "missing the argument 'va'", lambda r: r.try_translate()),
    "no int": (TypeError, "size must be an int, not str", lambda r: r.read(0, "1")),
    "size below 0": (ValueError, "size must not be negative", lambda r: r.read(0, -1)),
    "size index below 0": (ValueError, "size must not be negative", lambda r: r.read(0, Index(-1))),
    "size far below 0": (ValueError, "size must not be negative", lambda r: r.read(0, -(2**80))),
    "large size": (OverflowError, "size is too large", lambda r: r.read(0, 2**63)),
    "broken size": (ZeroDivisionError, None, lambda r: r.read(0, BROKEN)),
    "broken address": (ZeroDivisionError, None, lambda r: r.read(BROKEN, 1)),
    "address": (TypeError, "va must be an int or an AccessContext, not str", lambda r: r.read("0", 1)),
    "address below 0": (OverflowError, "va must not be negative", lambda r: r.read_ptr(Index(-1))),
    "encoding": (TypeError, "encoding must be a str, not int", lambda r: r.read_cstr(0, encoding=1)),
    "errors": (TypeError, "errors must be a str, not int", lambda r: r.read_wstr(0, errors=1)),
    "limit": (ValueError, "limit must not be negative", lambda r: r.read_cstr_bytes(0, -1)),
    "truth": (ZeroDivisionError, None, lambda r: r.read_cstr(0, strict=NoTruth())),
    "pointer size": (
        ValueError,
        "pointer_size must be 4 or 8",
        lambda r: r.read_unicode_string(0, pointer_size=3),
    ),
    "unicode errors": (TypeError, "errors must be a str", lambda r: r.read_unicode_string(0, errors=1)),
    "pointer": (TypeError, "missing the argument 'va'", lambda r: r.read_ptr()),
    "many": (TypeError, "missing the argument 'size'", lambda r: r.read_many_into(bytes(8))),
    "mappings twice": (TypeError, "multiple values", lambda r: r.mappings_buffer(1, start=1)),
    "mappings": (ValueError, "a range of this space", lambda r: r.mappings_buffer(2, 1)),
    "no buffer": (TypeError, None, lambda r: r.translate_into(5, bytearray(8), bytearray(1))),
    "items": (
        ValueError,
        "items of 8 bytes",
        lambda r: r.translate_into(bytes(7), bytearray(8), bytearray(1)),
    ),
    "unaligned": (
        ValueError,
        "pas is not aligned",
        lambda r: r.translate_into(bytes(8), memoryview(bytearray(9))[1:], bytearray(1)),
    ),
    "flush": (TypeError, "va must be an int", lambda r: r.cache_flush("0")),
    "flush twice": (TypeError, "multiple values", lambda r: r.cache_flush(0, va=0)),
    "write_uint": (TypeError, "missing the argument 'size'", lambda r: r.write_uint(0, 0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_of_readers(name, reader):
    kind, message, call = WRONG[name]
    with pytest.raises(kind, match=message):
        call(reader)
    assert reader.read(KERNEL_VA + 0x100, 5) == b"hello"  # nothing stayed pinned or changed
    reader.dump.close()


def test_what_has_an_index_is_a_number(reader):
    assert reader.read(Index(KERNEL_VA + 0x100), Index(5)) == b"hello"
    assert reader.read(va=KERNEL_VA + 0x100, size=5) == b"hello"


def test_attributes_of_readers(reader):
    reader.string_limit = None
    assert reader.string_limit is None
    assert reader.read_cstr(KERNEL_VA + 0x100) == "hello"
    reader.string_limit = 3
    assert reader.read_cstr(KERNEL_VA + 0x100) == "hel"
    for name, value in (("string_limit", -1), ("cache_enabled", NoTruth()), ("strict", NoTruth())):
        before = getattr(reader, name)
        with pytest.raises((ValueError, ZeroDivisionError)):
            setattr(reader, name, value)
        assert getattr(reader, name) == before
        with pytest.raises(AttributeError, match=f"cannot delete {name}"):
            delattr(reader, name)
    with pytest.raises(ZeroDivisionError):
        reader.dump._collect(NoTruth())


NEW_READER = {
    "paging": (TypeError, "missing the argument 'paging'", {"paging": None}),
    "dtb": (TypeError, "dtb must be an int", {"dtb": "0"}),
    "string_limit": (ValueError, "string_limit must not be negative", {"string_limit": -1}),
    "kernel_dtb": (OverflowError, "kernel_dtb", {"kernel_dtb": -1}),
    "cache": (TypeError, "translation_cache must be an int", {"translation_cache": "1"}),
    "no cache": (ValueError, "at least 1 page", {"translation_cache": 0}),
    "overlay": (TypeError, "overlay must be an Overlay, not int", {"overlay": 1}),
    "mask": (OverflowError, "invalid_pte_mask", {"invalid_pte_mask": -1}),
}


@pytest.mark.parametrize("name", NEW_READER)
def test_wrong_arguments_of_new_readers(name, dump):
    kind, message, options = NEW_READER[name]
    options = {key: value for key, value in {"paging": "x64", **options}.items() if value is not None}
    with pytest.raises(kind, match=message):
        ReaderBase(dump, **options)


def test_objects_are_made_once(reader, dump, overlay, image):
    with pytest.raises(ValueError, match="already has a dump"):
        reader.__init__(dump, paging="x64")
    with pytest.raises(ValueError, match="already been opened"):
        dump.__init__(image)
    with pytest.raises(ValueError, match="already has a dump"):
        overlay.__init__(dump)
    assert reader.read(KERNEL_VA + 0x100, 5) == b"hello"


def test_arguments_that_change_while_they_are_read():
    """Conversions run Python code: what was given is what counts, not what it becomes."""
    runs, fields = [], []

    class Clearing:
        def __index__(self):
            runs.clear()
            fields.clear()
            return 1

    fields += [Clearing(), 1, 0]
    runs += [fields, (2, 1, PAGE)]
    image = bytes(range(256)) * (2 * PAGE // 256)
    dump = DumpBase(image, raw=("x64", runs))
    assert (runs, fields) == ([], [])
    assert [tuple(run) for run in dump.pages.runs()] == [(1, 2, 0)]

    paths = ["", "", ""]

    class Path:
        def __fspath__(self):
            paths.clear()
            return "/nowhere"

    paths[0] = Path()
    with pytest.raises(FileNotFoundError):
        DumpBase(image, raw=("x64", ()), pagefiles=paths)
    assert paths == []


def test_what_failed_to_be_made_keeps_nothing(dump, overlay):
    """Not the overlay of a call that failed, whether the reader was made before or is made afterwards."""
    reader = ReaderBase(dump, paging="physical")
    with pytest.raises(ValueError, match="already has a dump"):
        reader.__init__(dump, paging="physical", overlay=overlay)
    assert reader.overlay is None
    later = ReaderBase.__new__(ReaderBase)
    with pytest.raises(OverflowError):
        later.__init__(dump, paging="physical", overlay=overlay, invalid_pte_mask=-1)
    with pytest.raises(ValueError, match="too large"):
        later.__init__(dump, paging="x64", dtb=0x1000, overlay=overlay, translation_cache=1 << 40)
    with pytest.raises(ValueError, match="has no dump"):
        later.read(0, 1)
    later.__init__(dump, paging="physical")
    assert later.overlay is None and later.read(0x1000, 8) == reader.read(0x1000, 8)


@pytest.mark.parametrize("name", READS)
def test_a_reader_without_a_dump(name):
    with pytest.raises(ValueError, match="has no dump"):
        reads(KERNEL_VA)[name](ReaderBase.__new__(ReaderBase))


def test_without_a_dump():
    reader, overlay = ReaderBase.__new__(ReaderBase), OverlayBase.__new__(OverlayBase)
    for call in (
        lambda: reader.dump,
        reader.mappings,
        overlay.frames,
        overlay.reset,
        lambda: overlay.create(1),
    ):
        with pytest.raises(ValueError, match="has no dump"):
            call()
    assert (overlay.dump, overlay.epoch, len(overlay)) == (None, 0, 0)
    with pytest.raises(ValueError, match="has not been opened"):
        DumpBase.__new__(DumpBase).pages
    for kind in (DumpBase, ReaderBase, OverlayBase):
        with pytest.raises(TypeError):
            kind()


def test_after_close(dump, reader, overlay, writer):
    pages = dump.pages
    owner = pages[0x21].obj
    dump.close()
    for name in READS:
        with pytest.raises(ValueError, match="closed"):
            reads(KERNEL_VA)[name](reader)
    calls = [
        overlay.snapshot, overlay.frames, overlay.remaps, overlay.reset, overlay.take_dirty,
        lambda: overlay.create(1), lambda: overlay.revert_frame(1), lambda: overlay.remap(1, 2),
        lambda: overlay.frame(1), lambda: overlay.restore(1), overlay.forget, lambda: overlay.forget(1),
        lambda: overlay.watch_frame(1), lambda: overlay.unwatch_frame(1), lambda: OverlayBase(dump),
        lambda: ReaderBase(dump, paging="x64"),
        lambda: writer.write(KERNEL_VA, b"x"), lambda: memoryview(dump), lambda: memoryview(owner),
        lambda: len(pages), lambda: 0x21 in pages, lambda: pages[0x21], lambda: pages[0:5],
        lambda: pages[2**40], lambda: dump.find_root("x64"), lambda: dump.read_file(0, 1),
        lambda: dump.header,
        lambda: dump.figures, lambda: dump.layout, lambda: dump.va_ranges(), lambda: dump.triage_header,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()


# ---- access contexts and translations ----


@pytest.mark.parametrize(
    "kind, args, options",
    [
        (TypeError, (), {}),
        (TypeError, ("1",), {}),
        (TypeError, (1, "2"), {}),
        (OverflowError, (1, -1), {}),
        (ValueError, (1, 2), {"physical": True}),
    ],
)
def test_wrong_access_contexts(kind, args, options):
    with pytest.raises(kind):
        AccessContext(*args, **options)


@pytest.mark.parametrize(
    "context", [AccessContext(16), AccessContext(16, 0x1000), AccessContext(16, physical=True)]
)
def test_access_contexts_are_values(context):
    assert eval(repr(context)) == context
    assert copy.copy(context) == context == pickle.loads(pickle.dumps(context))
    assert hash(copy.copy(context)) == hash(context)
    assert (context.dtb, context.physical) == ((context + 1).dtb, (5 + context).physical)
    assert (context + 3).address == (3 + context).address == 19
    assert (context - 3).address == 13 == (context + Index(-3)).address
    with pytest.raises(OverflowError, match="the resulting address must not be negative"):
        context - 17
    for call in (
        lambda: context < context,
        lambda: context + "1",
        lambda: "1" + context,
        lambda: context - "1",
        lambda: 5 - context,
        lambda: context - context,
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ZeroDivisionError):
        context + BROKEN


def test_translations_differ(reader):
    walk = reader.translate(KERNEL_VA)
    assert walk == reader.translate(KERNEL_VA) == pickle.loads(pickle.dumps(walk))
    assert walk != reader.translate(KERNEL_VA + 1)
    restore, state = walk.__reduce__()
    entries = state[9]
    # The same but for one entry's value.
    other = restore(*state[:9], ((entries[0][0], entries[0][1] ^ 0x20), *entries[1:]), *state[10:])
    assert other != walk and other.pa == walk.pa
    for wrong in (
        (*state[:5], "x87", *state[6:]),
        (*state[:6], "odd", *state[7:]),
        (*state[:7], 6, *state[8:]),
        (*state[:9], entries * 2, *state[10:]),
    ):
        with pytest.raises(ValueError, match="not a pickled Translation"):
            restore(*wrong)
    with pytest.raises(TypeError):
        restore(*state[:9], (1,), *state[10:])
    with pytest.raises(TypeError):
        Translation._restore()


def test_a_context_on_a_machine_without_paging(image):
    """An AccessContext may give a root, but not the architecture that it needs."""
    dump = DumpBase(patched(image, machine=0x200))
    physical = ReaderBase(dump, paging="physical")
    with pytest.raises(kdmp.UnsupportedDumpError):
        physical.read(AccessContext(KERNEL_VA, 0x1000), 8)
    with pytest.raises(kdmp.RootNotPresentError):
        physical.read(AccessContext(KERNEL_VA), 8)
    assert physical.read(AccessContext(0x20100, physical=True), 5) == b"hello"
    dump.close()
    assert DumpBase(patched(image, machine=0x1C4)).arch == "arm"


# ---- overlays ----


def test_wrong_arguments_of_overlays(overlay, writer):
    for call in (
        overlay.create,
        overlay.revert_frame,
        overlay.frame,
        overlay.watch_frame,
        overlay.unwatch_frame,
    ):
        with pytest.raises(TypeError, match="pfn must be an int"):
            call("1")
    with pytest.raises(ValueError, match="frame 0x1000000000000 is no frame number"):
        overlay.watch_frame(1 << 48)
    for call, message in (
        (lambda: overlay.remap(1), "takes 2 arguments"),
        (lambda: overlay.remap(1, "2"), "target must be an int"),
        (lambda: overlay.remap("1", 2), "pfn must be an int"),
        (lambda: overlay.restore("1"), "snapshot must be an int"),
        (lambda: overlay.forget(1, 2), "takes 1 arguments"),
        (lambda: overlay.forget("1"), "snapshot must be an int"),
        (lambda: setattr(overlay, "on_write", 1), "on_write must be callable or None"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    for call in (overlay.restore, overlay.forget):
        with pytest.raises(ValueError, match="no such snapshot"):
            call(7)
    with pytest.raises(TypeError):
        overlay.__init__()
    assert (overlay.on_write, overlay.frames()) == (None, [])
    writer.dump.close()


def test_watched_frames(overlay, writer):
    overlay.watch_frame(0x20)
    writer.write_u8(KERNEL_VA + 0x100, 0)
    overlay.unwatch_frame(0x20)
    assert overlay.take_dirty() == []
    overlay.watch_frame(0x20)
    writer.write(KERNEL_VA, bytes(PAGE))
    assert overlay.take_dirty() == list(range(0x20000, 0x21000, 8))
    assert overlay.take_dirty() == []


def test_a_hook_that_fails(overlay, writer):
    """The write is done by then."""
    overlay.on_write = fail
    with pytest.raises(ZeroDivisionError):
        writer.write_u8(KERNEL_VA, 7)
    assert writer.read_u8(KERNEL_VA) == 7
    overlay.on_write = None
    writer.write_u8(KERNEL_VA, 8)
    with pytest.raises(TypeError):
        writer.write_uint(KERNEL_VA, 8, "1")


# ---- pages ----


def test_wrong_frames(dump):
    pages = dump.pages
    assert repr(pages) == f"<Pages: {len(pages)} frames in [0x0, 0x22)>"
    assert "0x21" not in pages and -1 not in pages and 2**80 not in pages
    for kind, message, call in (
        (ZeroDivisionError, None, lambda: BROKEN in pages),
        (TypeError, "pfn must be an int", lambda: pages["0x21"]),
        (TypeError, None, lambda: pages["0x21":]),
        (ZeroDivisionError, None, lambda: pages[:BROKEN]),
        (ValueError, "start of a slice of frame numbers must not be negative", lambda: pages[-1:]),
        (ValueError, "stop of a slice of frame numbers must not be negative", lambda: pages[: -(2**80)]),
        (ValueError, "has no step", lambda: pages[::2]),
        (kdmp.NotInDumpError, "there is no frame 0x10000000000000", lambda: pages[1 << 52]),
        (kdmp.NotInDumpError, "there is no frame 0x10000000000000", lambda: pages.buffer(1 << 52)),
    ):
        with pytest.raises(kind, match=message):
            call()
    assert list(pages[0x20 : 2**80]) == [0x20, 0x21]
    dump.close()


def test_pages_are_not_written(dump, image):
    """Nobody gets a writable buffer, and who asked for one keeps nothing."""
    owner = dump.pages[0x21].obj
    for target in (owner, dump):
        with pytest.raises(TypeError):
            io.BytesIO(b"x").readinto(target)
    del owner
    dump.close()
    with pytest.raises(BufferError, match="not mapped"):
        memoryview(DumpBase(File(image)))


# ---- file objects ----


def answers(image):
    """What a file object may do to a read at (offset, data)."""
    return {
        "str": (TypeError, "must return bytes, not str", lambda at, data: "x" * len(data)),
        "more": (ValueError, "returned more than asked for", lambda at, data: data + b"x"),
        "end": (OSError, "earlier than when it was opened", lambda at, data: b""),
        "error": (ZeroDivisionError, None, fail),
    }


@pytest.mark.parametrize("name", answers(b""))
def test_a_file_object_that_fails(name, image):
    kind, message, answer = answers(image)[name]
    file = File(image)
    dump = DumpBase(file)
    reader = ReaderBase(dump, paging="x64", dtb=0x1000)
    file.answer = answer
    for method, call in reads(KERNEL_VA).items():
        with pytest.raises(kind, match=message):
            print(method, "gave", call(reader))
    for call in (
        lambda: dump.read_file(0, 8),
        lambda: dump.find_root("x64"),
        lambda: dump.pages[0x20],
        lambda: reader.mappings_buffer(),
        lambda: DumpBase(file),
    ):
        with pytest.raises(kind, match=message) as error:
            call()
        if kind is OSError:
            assert error.value.errno == errno.EIO
    file.answer = None
    assert reader.read(KERNEL_VA + 0x100, 5) == b"hello"
    dump.close()


def test_sizes_of_file_objects(image):
    class Silent(io.BytesIO):
        def seek(self, *args):
            super().seek(*args)

    class NoEnd(File):
        def seek(self, offset, whence=0):
            return fail() if whence == 2 else super().seek(offset)

    class NoSeek(File):
        def seek(self, offset, whence=0):
            return super().seek(offset, whence) if whence == 2 else fail()

    assert DumpBase(Silent(image)).file_size == len(image)
    for kind in (NoEnd, NoSeek):
        with pytest.raises(ZeroDivisionError):
            DumpBase(kind(image))


def test_a_file_object_that_reads_from_its_dump(image):
    file = File(image)
    dump = DumpBase(file)
    file.answer = lambda at, data: dump.read_file(0, 1)
    with pytest.raises(RuntimeError, match="reads from that dump"):
        dump.read_file(0, 8)


@pytest.mark.parametrize(
    "kind, raw",
    [
        (TypeError, 5),
        (TypeError, ("x64",)),
        (ValueError, ("mips", [])),
        (TypeError, (None, 5)),
        (TypeError, (None, [5])),
        (ValueError, (None, [(1, 2)])),
        (TypeError, (None, [(1, 2, "3")])),
    ],
)
def test_wrong_memory_images(kind, raw):
    with pytest.raises(kind):
        DumpBase(bytes(PAGE), raw=raw)


def test_wrong_arguments_of_dumps(dump, image):
    for kind, call in (
        (TypeError, lambda: DumpBase(5)),
        (ZeroDivisionError, lambda: DumpBase(Unlucky())),
        (TypeError, lambda: DumpBase(image, pagefiles=5)),
        (ValueError, lambda: DumpBase(image, pagefiles=[None] * 17)),
        (ValueError, lambda: DumpBase(image, io="mmap")),
        (kdmp.WrongFileError, lambda: DumpBase("/dev/null")),
        (TypeError, lambda: dump.find_root()),
        (TypeError, lambda: dump.find_root(5)),
        (ValueError, lambda: dump.find_root("physical")),
        (kdmp.FormatError, lambda: dump.read_file(0, len(image) + 1)),
        (kdmp.FormatError, lambda: dump.read_file(len(image) + 1, 0)),
        (TypeError, lambda: dump.compare(5, 0, 1)),
    ):
        with pytest.raises(kind):
            call()
    dump.close()


# ---- long reads ----


def test_reads_of_many_chunks():
    """A long read gets its memory piece by piece; one may end just where the addresses do."""
    data = bytes(range(256)) * (9 << 12)  # 9 MiB
    dump = DumpBase(data, raw=(None, []))
    physical = ReaderBase(dump, paging="physical")
    assert physical.read(1, len(data)) == data[1:]
    memory = Memory()
    tables = Tables(memory)
    for k in (2, 1):
        tables.map(2**64 - k * (2 << 20), 0x200000 * k, 2 << 20)
    pages = {pfn: bytes(page) for pfn, page in memory.pages.items()}
    image = bytearray(data)
    for pfn, page in pages.items():
        image[pfn * PAGE : (pfn + 1) * PAGE] = page
    reader = ReaderBase(DumpBase(bytes(image), raw=(None, [])), paging="x64", dtb=0x1000)
    start, want = 2**64 - (4 << 20), image[4 << 20 : 6 << 20] + image[2 << 20 : 4 << 20]
    assert reader.read(start, 8 << 20) == want
    for size in (512, 4096):  # a string that ends with the addresses, after all its pieces
        for k in range(size):
            image[(4 << 20) - 1 - k] = 0x78
        reader = ReaderBase(DumpBase(bytes(image), raw=(None, [])), paging="x64", dtb=0x1000)
        assert reader.read_cstr(2**64 - size, 2 * size, strict=False) == "x" * size
        with pytest.raises(kdmp.PartialReadError) as error:
            reader.read_cstr(2**64 - size, 2 * size)
        assert isinstance(error.value.reason, kdmp.AddressEndError)
    with pytest.raises(kdmp.PartialReadError) as error:
        reader.read_exact(start, 8 << 20)
    assert isinstance(error.value.reason, kdmp.AddressEndError)
    assert error.value.actual == 4 << 20


# ---- what VADs say ----


class Asking(ReaderBase):
    """A reader whose VADs are what a test says."""

    answer: object = b""
    asked = 0

    def _load_views(self):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class UnluckyReader(ReaderBase):
    @property
    def _load_views(self):
        raise ZeroDivisionError


def view(prototype):
    return struct.pack("<3Q", VAD, VAD + PAGE, prototype)


@pytest.mark.parametrize("name", READS)
def test_vads_that_cannot_be_asked(name, dump):
    call = reads(VAD)[name]
    reader = Asking(dump, paging="x64", dtb=0x1000)
    reader.answer = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        call(reader)
    assert reader.asked == 1
    with pytest.raises(ZeroDivisionError):  # the next call asks again
        call(reader)
    assert reader.asked == 2
    with pytest.raises(ZeroDivisionError):
        call(UnluckyReader(dump, paging="x64", dtb=0x1000))
    for wrong in ("text", bytes(25)):
        reader = Asking(dump, paging="x64", dtb=0x1000)
        reader.answer = wrong
        with pytest.raises(TypeError, match="must return bytes"):
            call(reader)
    dump.close()


@pytest.mark.parametrize("name", READS)
def test_vads_that_know(name, dump, reader):
    """The page is the one behind the prototype PTE; who cannot ask the VADs says what the page tables say."""
    asking = Asking(dump, paging="x64", dtb=0x1000)
    asking.answer = view(KERNEL_VA + 0x400)
    call, there = reads(VAD)[name], reads(KERNEL_VA + 0x1000)[name]
    got, want = call(asking), there(reader)
    assert asking.asked == 1
    assert got == want if name not in WALKS else got.pa == want.pa == 0x21000
    if name not in ("read", "read_into", "read_gaps", "is_readable", *BATCHES) and not name.startswith("try"):
        with pytest.raises(kdmp.UnreadableError, match="says to ask the VAD"):
            call(reader)


def test_views_elsewhere(dump):
    """An address between views has no prototype PTE, one with an unreadable prototype no page."""
    for where, prototype in ((VAD - PAGE, KERNEL_VA + 0x400), (VAD + PAGE, KERNEL_VA + 0x400), (VAD, ABSENT)):
        reader = Asking(dump, paging="x64", dtb=0x1000)
        reader.answer = struct.pack("<3Q", where, where + PAGE, prototype)
        with pytest.raises(kdmp.NotPresentError) as error:
            reader.read_u8(VAD)
        assert (error.value.state, reader.asked) == ("vad", 1)


def behind_prototype(value, paging="x64", **header):
    """A reader of a page whose prototype PTE has this value."""
    memory = Memory()
    tables = Tables(memory)
    memory.fill(0x20, 0x21)
    tables.map(KERNEL_VA, 0x20000, flags=P | W | 1 << 10)
    tables.raw(VAD, ASK_VAD)
    memory.put_u64(0x20400, value)
    reader = Asking(DumpBase(patched(memory.dump(), **header)), paging=paging, dtb=0x1000)
    reader.answer = view(KERNEL_VA + 0x400)
    return reader


def test_a_prototype_in_transition():
    reader = behind_prototype(0x21000 | TRANSITION | 4 << 5)
    assert (reader.translate(VAD).pa, reader.read(VAD, 4)) == (0x21000, bytes([0x21, 0, 0, 0]))
    with pytest.raises(kdmp.NotInDumpError) as error:
        behind_prototype(0x99000 | TRANSITION | 4 << 5).translate(VAD)
    assert (error.value.pa, error.value.state) == (0x99000, "transition")
    assert error.value.prototype == KERNEL_VA + 0x400


def test_a_prototype_with_reserved_bits():
    """On ARM64 bits 01 say block, which a page is not."""
    assert behind_prototype(0x21403, "arm64", machine=0xAA64).translate(VAD).pa == 0x21000
    with pytest.raises(kdmp.BadEntryError, match="has reserved bits set") as error:
        behind_prototype(0x21401, "arm64", machine=0xAA64).translate(VAD)
    assert error.value.state == "bad"


def test_the_text_of_a_string(dump, reader, image, collect):
    """What can be wrong with the bytes of a structure can be wrong with those it points to."""
    assert reader.read_unicode_string(KERNEL_VA + 0x540) == (bytes(8) + image[-PAGE + 8 : -PAGE + 16]).decode(
        "utf-16-le"
    )
    asking = Asking(dump, paging="x64", dtb=0x1000)
    asking.answer = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        asking.read_unicode_string(KERNEL_VA + 0x500)
    file = File(image)
    streamed = ReaderBase(DumpBase(file), paging="x64", dtb=0x1000)
    file.answer = lambda at, data: fail() if at >= len(image) - PAGE else data
    with pytest.raises(ZeroDivisionError):
        streamed.read_unicode_string(KERNEL_VA + 0x540)
    collect(Sink("_add"))
    with pytest.raises(ZeroDivisionError):
        reader.read_unicode_string(KERNEL_VA + 0x520)


# ---- collectors ----


class Sink:
    """Stands for a collector; the parts that a test names fail."""

    def __init__(self, *broken):
        self.broken, self.told = broken, []

    def _sink(self, dump):
        return fail() if "_sink" in self.broken else self

    def _add(self, *fault):
        if "_add" in self.broken:
            fail()
        self.told.append(fault)


@pytest.fixture
def collect(dump):
    tokens = []

    def begin(sink, on=dump):
        on._collect(True)
        tokens.append((on, _kdmp._fault_collector.set(sink)))

    yield begin
    for on, token in reversed(tokens):
        _kdmp._fault_collector.reset(token)
        on._collect(False)


def test_no_collector(reader, collect):
    """Somebody collects faults, but not here."""
    collect(None)
    reader.strict = False
    with pytest.raises(kdmp.NotPresentError):
        reader.read_u8(ABSENT)
    assert reader.read(ABSENT, 8) == b""


def test_a_collector_that_fails_later(reader, collect):
    """It has taken the fault, but then does not say that it takes the exception, too."""

    class Once(Sink):
        def _sink(self, dump):
            return fail() if self.told else self

    sink = Once()
    collect(sink)
    reader.strict = False
    with pytest.raises(ZeroDivisionError):
        reader.read_u8(ABSENT)
    assert len(sink.told) == 1


SILENT = ("is_readable", *BATCHES)  # they answer for each address, or as asked


@pytest.mark.parametrize("broken", ["_sink", "_add"])
@pytest.mark.parametrize("name", [name for name in READS if name not in SILENT])
def test_a_collector_that_fails(name, broken, reader, collect):
    collect(Sink(broken))
    with pytest.raises(ZeroDivisionError):
        reads(ABSENT)[name](reader)
    reader.dump.close()


@pytest.mark.parametrize("name", [name for name in READS if name not in SILENT])
def test_a_collector_is_told_once(name, reader, collect):
    sink = Sink()
    collect(sink)
    reader.strict = False
    reads(ABSENT)[name](reader)
    assert [fault[0] for fault in sink.told] == [ABSENT]


def test_a_hole_and_then_an_error(image, tmp_path, collect):
    """What a collector is told ends with the error that ends the file."""
    path = tmp_path / "short.dmp"
    memory = small_machine()
    Tables(memory).map(KERNEL_VA + 0x3000, 0x22000)
    memory.fill(0x22)
    path.write_bytes(memory.dump())
    dump = DumpBase(path, io="read")
    reader = ReaderBase(dump, paging="x64", dtb=0x1000)
    sink = Sink()
    collect(sink, dump)
    assert len(reader.read(KERNEL_VA + 0x1800, 0x2800)) == 0x800
    assert [fault[:2] for fault in sink.told] == [(ABSENT, PAGE)]
    sink.told.clear()
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - PAGE)
    with pytest.raises(OSError) as error:
        reader.read(KERNEL_VA + 0x1800, 0x2800)
    assert error.value.errno == errno.EIO
    assert [fault[:2] for fault in sink.told] == [(ABSENT, PAGE)]


def test_a_collector_and_a_file_object_that_fails(image, collect):
    file = File(image)
    dump = DumpBase(file)
    reader = ReaderBase(dump, paging="x64", dtb=0x1000)
    reader.cache_enabled = False

    class Spoiler(Sink):
        def _sink(self, dump):
            file.answer = fail
            return self

    collect(Spoiler(), dump)
    with pytest.raises(ZeroDivisionError):
        reader.read(ABSENT, 8)


def test_large_pages_are_wrong(image):
    """A large page at an odd address is damage, and every read says so or answers."""
    memory = Memory()
    memory.put_u64(0x1000, 0x2000 | P | W | U | LARGE)
    memory.fill(2)
    reader = ReaderBase(DumpBase(memory.dump()), paging="x64", dtb=0x1000)
    with pytest.raises(kdmp.BadEntryError, match="has reserved bits set"):
        reader.read_u8(0)
    assert reader.try_translate(0) is None
