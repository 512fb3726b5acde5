"""Reading memory: bytes, holes with reasons, numbers and strings, of physical and virtual spaces.

SPDX-License-Identifier: MIT
"""

import math
import struct

import pytest
import refreader as ref
from agree import agree_on_gaps, agree_on_read, status
from dumpbuilder import KB4, MB2, Memory, P, Tables, stamp

import kdmp

BASE = 0x7FF0_0000_0000
HOLE = BASE + 0x3000  # not mapped
LOST = BASE + 0x5000  # mapped to a frame that is not in the dump
BIG = BASE + 0x20_0000  # a 2 MiB page, of which two frames are in the dump


def machine():
    """BASE: frames 0x30, 0x32, 0x31, hole, 0x33, lost, 0x34; then a 2 MiB page at frame 0x200."""
    memory = Memory()
    tables = Tables(memory)
    for page, pfn in {0: 0x30, 1: 0x32, 2: 0x31, 4: 0x33, 5: 0x99, 6: 0x34}.items():
        tables.map(BASE + page * KB4, pfn * KB4)
    tables.map(BIG, 0x20_0000, MB2)
    memory.fill(0x30, 0x31, 0x32, 0x33, 0x34, 0x200, 0x201)
    return memory


@pytest.fixture(params=["memory", "read", "file object"])
def dump(request, tmp_path):
    image = machine().dump()
    path = tmp_path / "image.dmp"
    path.write_bytes(image)
    with path.open("rb") as file:
        opened = {
            "memory": lambda: kdmp.open(image),
            "read": lambda: kdmp.open(path, io="read"),
            "file object": lambda: kdmp.open(file),
        }[request.param]()
        with opened:
            yield opened


@pytest.fixture
def reader(dump):
    return dump.reader()


def words(build):
    """A reader over memory in which `build(memory)` has put something at BASE (frames 0x30, 0x31, 0x32)."""
    memory = Memory()
    tables = Tables(memory)
    for page, pfn in enumerate((0x30, 0x32, 0x31)):  # not in physical order
        tables.map(BASE + page * KB4, pfn * KB4)
        memory.page(pfn)
    at_virtual = {0: 0x30, 1: 0x32, 2: 0x31}

    def put(offset, data):
        for k, byte in enumerate(data):
            memory.page(at_virtual[(offset + k) // KB4])[(offset + k) % KB4] = byte

    build(put)
    return kdmp.open(memory.dump()).reader()


READS = [
    (BASE, 0),
    (HOLE, 0),
    (BASE, 1),
    (BASE + 0xFFF, 2),
    (BASE + 0x123, 0x2000),
    (BASE, 0x3000),
    (BASE, 0x3001),
    (BASE + 0x2FFF, 0x10),
    (HOLE, 1),
    (HOLE + 0xFFF, 0x100),
    (BASE + 0x4000, 0x2000),
    (LOST + 1, 5),
    (BASE, 0x8000),
    (BIG, 0x2000),
    (BIG + 0xFFF, 0x1002),
    (BIG - 0x10, 0x20),
    (0, 0x1000),
    (0x7FFF_FFFF_FFF0, 0x20),
    (0xFFFF_FFFF_FFFF_F000, 0x1000),
    (0xFFFF_FFFF_FFFF_FFF0, 0x20),
]


@pytest.mark.parametrize("va, size", READS)
def test_every_way_to_read_agrees(reader, va, size):
    space = ref.RefSpace(ref.RefDump(machine().dump()), 0x1000)
    agree_on_read(reader, space, va, size)


@pytest.mark.parametrize("va, size", [read for read in READS if read[0] + read[1] <= 1 << 64])
def test_gaps_agree(reader, va, size):
    space = ref.RefSpace(ref.RefDump(machine().dump()), 0x1000)
    agree_on_gaps(reader, space, va, size)
    agree_on_gaps(reader, space, va, size, fill=0xCC)


@pytest.mark.parametrize(
    "pa, size", [(0x30000, 0x2000), (0x30FF1, 0x2345), (0x34FFF, 1), (0x34FFF, 2), (0x35000, 1), (0x99000, 8)]
)
def test_physical_reads_agree(dump, pa, size):
    space = ref.RefPhysical(ref.RefDump(machine().dump()))
    agree_on_read(dump.phys, space, pa, size)
    agree_on_gaps(dump.phys, space, pa, size)


def test_bytes_come_in_virtual_order(reader):
    assert reader.read_exact(BASE, 0x3000) == stamp(0x30) + stamp(0x32) + stamp(0x31)
    assert reader.read_exact(BASE + 0x800, 0x1000) == stamp(0x30)[0x800:] + stamp(0x32)[:0x800]


def test_short_read_stops_at_the_hole(reader):
    assert reader.read(BASE + 0x2F00, 0x1000) == stamp(0x31)[0xF00:]
    assert reader.read(HOLE, 0x1000) == reader.read(LOST, 8) == b""


@pytest.mark.parametrize("address, error", [(HOLE, kdmp.NotPresentError), (LOST + 5, kdmp.NotInDumpError)])
def test_a_read_of_nothing(reader, address, error):
    """Short reads say how much is there, exact ones also why there is no more."""
    buffer = bytearray(b"\xcc" * 0x10)
    assert (reader.read(address, 0x10), reader.read_into(address, buffer)) == (b"", 0)
    assert buffer == b"\xcc" * 0x10
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_exact(address, 0x10)
    assert (caught.value.actual, caught.value.data, caught.value.address) == (0, b"", address)
    assert type(caught.value.reason) is error


def test_partial_read_error(reader):
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_exact(BASE + 0x2F00, 0x1000)
    exc = caught.value
    assert (exc.expected, exc.actual, exc.data) == (0x1000, 0x100, stamp(0x31)[0xF00:])
    assert exc.address == HOLE
    assert type(exc.reason) is kdmp.NotPresentError
    assert (exc.reason.va, exc.reason.level, exc.reason.entry, exc.reason.state) == (HOLE, 1, 0, "zero")
    assert isinstance(exc, LookupError)
    assert reader.try_read_exact(BASE + 0x2F00, 0x1000) is None


def test_partial_read_error_of_a_lost_page(reader):
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_exact(BASE + 0x4FFC, 8)
    reason = caught.value.reason
    assert type(reason) is kdmp.NotInDumpError
    assert (reason.address, reason.pa, reason.level) == (LOST, 0x99000, 0)
    assert caught.value.data == stamp(0x33)[-4:]


def test_gaps_have_reasons(reader):
    data, gaps = reader.read_gaps(BASE, 0x7000, fill=0xEE)
    assert data == (
        stamp(0x30)
        + stamp(0x32)
        + stamp(0x31)
        + b"\xee" * 0x1000
        + stamp(0x33)
        + b"\xee" * 0x1000
        + stamp(0x34)
    )
    assert [(gap.address, gap.size, status(gap.reason)) for gap in gaps] == [
        (HOLE, 0x1000, ref.NOT_PRESENT),
        (LOST, 0x1000, ref.NOT_IN_DUMP),
    ]
    assert gaps[1].reason.pa == 0x99000
    address, size, reason = gaps[0]
    assert (address, size, type(reason)) == (HOLE, 0x1000, kdmp.NotPresentError)


def test_a_hole_is_one_gap_however_large(reader):
    data, gaps = reader.read_gaps(BASE + 0x40_0000, 0x40_0000)
    assert len(data) == 0x40_0000 and not any(data)
    assert sum(gap.size for gap in gaps) == 0x40_0000
    assert len(gaps) <= 2, "one per missing 2 MiB entry"


def test_read_into(reader):
    buffer = bytearray(b"\xcc" * 0x2000)
    assert reader.read_into(BASE, buffer) == 0x2000
    assert buffer == stamp(0x30) + stamp(0x32)
    part = memoryview(buffer)[0x10:0x20]
    assert reader.read_into(BASE + 0x100, part) == 0x10
    assert buffer[:0x30] == stamp(0x30)[:0x10] + stamp(0x30)[0x100:0x110] + stamp(0x30)[0x20:0x30]
    assert reader.read_into(BASE, bytearray()) == 0


@pytest.mark.parametrize("buffer", [b"0123", memoryview(b"0123"), 7, None])
def test_read_into_needs_a_writable_buffer(reader, buffer):
    with pytest.raises((TypeError, BufferError)):
        reader.read_into(BASE, buffer)


def test_is_readable(reader):
    assert reader.is_readable(BASE)
    assert reader.is_readable(BASE, 0x3000)
    assert not reader.is_readable(BASE, 0x3001)
    assert not reader.is_readable(HOLE) and not reader.is_readable(LOST)
    assert reader.is_readable(BIG, 0x2000) and not reader.is_readable(BIG, 0x2001)
    assert not reader.is_readable(BASE, (1 << 63) - 1), "and nothing of that size is allocated"


@pytest.mark.parametrize("call", ["read", "read_exact", "try_read_exact", "read_gaps"])
def test_impossible_sizes(reader, call):
    with pytest.raises((ValueError, OverflowError)):
        getattr(reader, call)(BASE, -1)
    with pytest.raises((OverflowError, MemoryError)):
        getattr(reader, call)(BASE, 1 << 64)
    with pytest.raises(TypeError):
        getattr(reader, call)(BASE, 1.0)
    with pytest.raises(TypeError):
        getattr(reader, call)(BASE, "1")


@pytest.mark.parametrize("call", ["read", "try_read_exact"])
def test_huge_sizes_cost_what_is_there(reader, call):
    """A length field of a damaged structure must not allocate memory: what exists bounds the read."""
    try:
        got = getattr(reader, call)(BASE, 1 << 46)
    except MemoryError:
        return
    assert got in (None, stamp(0x30) + stamp(0x32) + stamp(0x31))


SCALARS = {
    "read_u8": "B", "read_u16": "H", "read_u32": "I", "read_u64": "Q",
    "read_i8": "b", "read_i16": "h", "read_i32": "i", "read_i64": "q",
    "read_f32": "f", "read_f64": "d",
}  # fmt: skip


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("offset", [0, 1, 0xFF9, 0xFFC, 0xFFF, 0x1FFB, 0x2FF8])
def test_scalars(reader, name, offset):
    layout = "<" + SCALARS[name]
    memory = stamp(0x30) + stamp(0x32) + stamp(0x31)
    want = struct.unpack_from(layout, memory, offset)[0]
    assert getattr(reader, name)(BASE + offset) == want


@pytest.mark.parametrize("name", SCALARS)
def test_scalars_at_a_hole(reader, name):
    size = struct.calcsize(SCALARS[name])
    with pytest.raises(kdmp.UnreadableError) as caught:
        getattr(reader, name)(HOLE)
    assert caught.value.address == HOLE
    if size > 1:
        with pytest.raises(kdmp.PartialReadError) as caught:
            getattr(reader, name)(HOLE - size + 1)
        assert (caught.value.actual, caught.value.expected, caught.value.address) == (size - 1, size, HOLE)


def test_extreme_scalars():
    values = struct.pack("<qQdffd", -1, (1 << 64) - 1, -0.0, math.inf, math.pi, 5e-324)
    reader = words(lambda put: put(0, values))
    assert reader.read_i64(BASE) == -1
    assert (reader.read_i8(BASE), reader.read_i16(BASE), reader.read_i32(BASE)) == (-1, -1, -1)
    assert reader.read_u64(BASE + 8) == (1 << 64) - 1
    assert math.copysign(1, reader.read_f64(BASE + 16)) == -1
    assert reader.read_f32(BASE + 24) == math.inf
    assert reader.read_f64(BASE + 32) == 5e-324


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_uint_of_any_size(size):
    reader = words(lambda put: put(0xFFE, b"\xfe" * 8))
    want = int.from_bytes(b"\xfe" * size, "little")
    assert reader.read_uint(BASE + 0xFFE, size) == want
    assert reader.read_uint(BASE + 0xFFE, size, signed=True) == want - (1 << 8 * size)


@pytest.mark.parametrize("size", [0, 3, 5, 16, -1])
def test_uint_of_no_size(reader, size):
    with pytest.raises((ValueError, OverflowError)):
        reader.read_uint(BASE, size)


def test_pointers():
    reader = words(lambda put: put(0, struct.pack("<Q", 0xFFFF_F800_8765_4321)))
    assert reader.pointer_size == 8
    assert reader.read_ptr(BASE) == 0xFFFF_F800_8765_4321
    assert reader.read_ptr(BASE, size=8) == 0xFFFF_F800_8765_4321
    assert reader.read_ptr(BASE, size=4) == 0x8765_4321, "zero-extended"
    with pytest.raises(ValueError):
        reader.read_ptr(BASE, size=2)


def test_c_strings():
    def build(put):
        put(0, b"plain\0")
        put(0xFFD, b"across\0")
        put(0x1000 - 0x100, b"\0")
        put(0x1F00, b"x" * 0x200 + b"\0")
        put(0x40, "naïve ☃".encode() + b"\0")
        put(0x60, b"bad \xff byte\0")

    reader = words(build)
    assert reader.read_cstr(BASE) == "plain"
    assert reader.read_cstr_bytes(BASE) == b"plain"
    assert reader.read_cstr(BASE + 5) == ""
    assert reader.read_cstr(BASE + 0xFFD) == "across"
    assert reader.read_cstr(BASE + 0x1F00) == "x" * 0x200
    assert reader.read_cstr(BASE + 0x40) == "naïve ☃"
    assert reader.read_cstr(BASE + 0x60) == "bad \N{REPLACEMENT CHARACTER} byte"
    assert reader.read_cstr(BASE + 0x60, encoding="latin-1") == "bad ÿ byte"
    with pytest.raises(UnicodeDecodeError):
        reader.read_cstr(BASE + 0x60, errors="strict")


def test_c_string_limits():
    reader = words(lambda put: put(0, b"A" * 0x2800))
    assert reader.read_cstr(BASE + 0x27FB, 6) == "AAAAA"
    assert reader.read_cstr(BASE + 0x27FB) == "AAAAA"
    for strict in (True, False):
        assert reader.read_cstr(BASE, 0x10, strict=strict) == "A" * 0x10
        assert reader.read_cstr_bytes(BASE, 0x1234, strict=strict) == b"A" * 0x1234
        assert reader.read_cstr(BASE, 0, strict=strict) == ""
        assert reader.read_cstr(HOLE, 0, strict=strict) == ""


@pytest.mark.parametrize("limit", [1, 5, 0x200, 0xFFF, 0x1000])
def test_no_byte_beyond_the_limit_is_needed(limit):
    """A name whose last page is missing reads, as long as the limit ends before it."""
    reader = words(lambda put: put(0x2000, b"A" * 0x1000))
    assert reader.read_cstr_bytes(BASE + 0x3000 - limit, limit) == b"A" * limit
    if limit > 1:
        wide = limit // 2
        assert reader.read_wstr(BASE + 0x3000 - limit, limit) == "\u4141" * wide


def test_string_limit_of_the_reader():
    reader = words(lambda put: put(0, b"A" * 0x2800))
    assert reader.string_limit == 0x10000
    assert len(reader.read_cstr(BASE)) == 0x2800
    reader.string_limit = 0x100
    assert len(reader.read_cstr(BASE)) == 0x100
    assert len(reader.read_cstr(BASE, 0x10000)) == 0x2800
    reader.string_limit = None
    assert len(reader.read_cstr(BASE)) == 0x2800


def test_c_string_that_runs_into_a_hole(reader):
    """The frame before the hole ends without a zero byte."""
    address = HOLE - 4
    data = stamp(0x31)[-4:]
    assert data.index(0) < 4
    reader2 = words(lambda put: put(0x2FF0, b"B" * 16))
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader2.read_cstr(BASE + 0x2FF0)
    exc = caught.value
    assert (exc.data, exc.actual, exc.address) == (b"B" * 16, 16, BASE + 0x3000)
    assert type(exc.reason) is kdmp.NotPresentError
    assert reader2.read_cstr(BASE + 0x2FF0, strict=False) == "B" * 16
    assert reader.read_cstr(address, encoding="latin-1") == data[: data.index(0)].decode("latin-1")


def test_a_string_that_ends_before_the_hole_needs_nothing_behind_it():
    reader = words(lambda put: put(0x2FFB, b"last\0"))
    assert reader.read_cstr(BASE + 0x2FFB) == "last"
    reader = words(lambda put: put(0x2FF6, "last".encode("utf-16-le") + b"\0\0"))
    assert reader.read_wstr(BASE + 0x2FF6) == "last"


def test_wide_strings():
    def build(put):
        put(0x10, "wide ☃ 🐛".encode("utf-16-le") + b"\0\0")
        put(0xFFD, "across".encode("utf-16-le") + b"\0\0")  # at an odd address, a unit on each side
        put(0x100, b"A\0\x00\xd8B\0\0\0")  # a lone surrogate
        put(0x1800, b"\x00\x41" * 4 + b"\0\0")  # zero bytes that are no zero units
        put(0x1902, b"A\0")

    reader = words(build)
    assert reader.read_wstr(BASE + 0x10) == "wide ☃ 🐛"
    assert reader.read_wstr(BASE + 0xFFD) == "across"
    assert reader.read_wstr(BASE + 0x100) == "A\N{REPLACEMENT CHARACTER}B"
    assert reader.read_wstr(BASE + 0x1800) == "\u4100" * 4
    assert reader.read_wstr(BASE + 0x1900) == ""
    assert reader.read_wstr(BASE + 0x10, 8, strict=False) == "wide"
    assert reader.read_wstr(BASE + 0x10, 9, strict=False) == "wide", (
        "the limit is in bytes, whole units count"
    )


def test_wide_string_that_runs_into_a_hole_at_an_odd_byte():
    reader = words(lambda put: put(0x2FFB, b"A\0B\0C"))
    with pytest.raises(kdmp.PartialReadError):
        reader.read_wstr(BASE + 0x2FFB)
    assert reader.read_wstr(BASE + 0x2FFB, strict=False) == "AB"


def unicode_string(length, maximum, buffer, pointer_size=8):
    return struct.pack("<HHxxxxQ" if pointer_size == 8 else "<HHI", length, maximum, buffer)


def test_unicode_strings():
    text = "\\SystemRoot\\☃.sys"
    raw = text.encode("utf-16-le")

    def build(put):
        put(0xFFC, unicode_string(len(raw), len(raw) + 2, BASE + 0x1FF1))
        put(0x1FF1, raw)
        put(0x100, unicode_string(0, 0, 0))
        put(0x200, unicode_string(4, 4, BASE + 0x280))
        put(0x280, b"a\0\0\0b\0")

    reader = words(build)
    assert reader.read_unicode_string(BASE + 0xFFC) == text
    assert reader.read_unicode_string(BASE + 0x100) == ""
    assert reader.read_unicode_string(BASE + 0x200) == "a\0", "the length counts, not the zero"


def test_unicode_string_of_32_bit_code():
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x40_0000, 0x30000)
    memory.put(0x30000, unicode_string(6, 8, 0x40_0100, pointer_size=4))
    memory.put(0x30100, "abc".encode("utf-16-le"))
    with kdmp.open(memory.dump()) as dump:
        assert dump.reader().read_unicode_string(0x40_0000, pointer_size=4) == "abc"


def test_unicode_string_without_its_buffer(reader):
    memory = Memory()
    tables = Tables(memory)
    tables.map(BASE, 0x30000)
    memory.put(0x30000, unicode_string(0xFFFE, 0xFFFE, 0))
    memory.put(0x30010, unicode_string(8, 8, BASE + 0xFFC))
    memory.put(0x30FFC, "hi".encode("utf-16-le"))
    with kdmp.open(memory.dump()) as dump:
        reader = dump.reader()
        with pytest.raises(kdmp.NotPresentError) as caught:
            reader.read_unicode_string(BASE)
        assert caught.value.address == 0
        assert reader.read_unicode_string(BASE, strict=False) == ""
        with pytest.raises(kdmp.PartialReadError) as caught:
            reader.read_unicode_string(BASE + 0x10)
        assert (caught.value.expected, caught.value.data) == (8, "hi".encode("utf-16-le"))
        assert reader.read_unicode_string(BASE + 0x10, strict=False) == "hi"


def test_odd_unicode_string_length():
    def build(put):
        put(0, unicode_string(5, 6, BASE + 0x100))
        put(0x100, "abc".encode("utf-16-le"))

    reader = words(build)
    with pytest.raises(kdmp.FormatError):
        reader.read_unicode_string(BASE)
    assert reader.read_unicode_string(BASE, strict=False) == "ab"


def test_physical_reader(dump):
    phys = dump.phys
    assert (phys.paging, phys.dtb) == ("physical", None)
    assert phys.read_exact(0x30FF8, 0x10) == stamp(0x30)[-8:] + stamp(0x31)[:8]
    assert phys.read_u32(0x31000) == 0x31
    with pytest.raises(kdmp.PartialReadError) as caught:
        phys.read_exact(0x34FFC, 8)
    reason = caught.value.reason
    assert type(reason) is kdmp.NotInDumpError
    assert (reason.pa, reason.level, caught.value.address) == (0x35000, 0, 0x35000)


def test_last_byte_of_the_space(reader):
    for space in (reader, reader.dump.phys):
        with pytest.raises(kdmp.PartialReadError):
            space.read_exact((1 << 64) - 1, 2)
        assert space.read((1 << 64) - 1, 2) == b""
        assert not space.is_readable((1 << 64) - 1, 2)


def test_access_contexts(reader, dump):
    assert reader.read(kdmp.virt(BASE), 0x10) == stamp(0x30)[:0x10]
    assert reader.read(kdmp.phys(0x31000), 0x10) == stamp(0x31)[:0x10]
    assert dump.phys.read(kdmp.virt(BASE, 0x1000), 0x10) == stamp(0x30)[:0x10]
    assert reader.read_u32(kdmp.phys(0x31000) + 8) == 0x31
    with pytest.raises(kdmp.RootNotPresentError):
        dump.phys.read(kdmp.virt(BASE), 0x10)
    assert {kdmp.phys(1): "a"}[kdmp.phys(1)] == "a"
    assert kdmp.phys(1) != kdmp.virt(1) != kdmp.virt(1, 0x1000)


def test_reader_of_a_closed_dump():
    opened = kdmp.open(machine().dump())
    reader = opened.reader()
    opened.close()
    for call in (
        lambda: reader.read(BASE, 1),
        lambda: reader.translate(BASE),
        lambda: reader.read_u8(BASE),
        lambda: reader.read_cstr(BASE),
        lambda: reader.read_gaps(BASE, 1),
        lambda: reader.is_readable(BASE),
    ):
        with pytest.raises(ValueError):
            call()


def test_reader_keeps_its_dump_alive():
    reader = kdmp.open(machine().dump()).reader()
    assert reader.read_exact(BASE, 0x1000) == stamp(0x30)


def test_rights_do_not_limit_reading():
    memory = Memory()
    Tables(memory).map(BASE, 0x30000, flags=P)
    memory.fill(0x30)
    assert kdmp.open(memory.dump()).reader().read_exact(BASE, 0x1000) == stamp(0x30)
