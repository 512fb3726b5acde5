# SPDX-License-Identifier: MIT
"""Structures out of memory: every kind of description, and every refusal."""

import ctypes
import ctypes.wintypes
import gc
import io
import os
import struct
import subprocess
import sys
import uuid

import pytest

from kdmp import wintypes
from kdmp.structs import read_struct, read_structs, size_of

BYTES = bytes(range(256)) * 2


class Memory:
    """A reader over bytes at address 0x1000, with what `read_struct` needs and no more."""

    def __init__(self, data=BYTES):
        self.data = data
        self.asked = []

    def read_exact(self, va, size):
        self.asked.append((va, size))
        at = va - 0x1000
        if at < 0 or at + size > len(self.data):
            raise LookupError(hex(va))
        return self.data[at : at + size]


def make(name, fields, base=ctypes.Structure):
    return type(name, (base,), {"_fields_": fields})


def le(data):
    return int.from_bytes(data, "little")


# --- ctypes ---


def test_ctypes_structure_is_read_exactly_and_owns_its_bytes():
    memory = Memory()
    entry = read_struct(memory, 0x1010, wintypes.LIST_ENTRY64)
    assert memory.asked == [(0x1010, 16)]
    assert isinstance(entry, wintypes.LIST_ENTRY64)
    assert (entry.Flink, entry.Blink) == (le(BYTES[16:24]), le(BYTES[24:32]))
    entry.Flink = 0
    assert memory.data == BYTES


def test_ctypes_union_array_and_simple_types():
    memory = Memory()
    assert read_struct(memory, 0x1000, wintypes.LARGE_INTEGER).HighPart == le(BYTES[4:8])
    assert list(read_struct(memory, 0x1001, wintypes.USHORT * 3)) == [0x0201, 0x0403, 0x0605]
    assert read_struct(memory, 0x1000, wintypes.ULONG).value == 0x03020100
    assert size_of(wintypes.USHORT * 3) == 6


def test_ctypes_nested_and_inherited_fields():
    inner = make("Inner", [("list", wintypes.LIST_ENTRY32 * 2), ("id", wintypes.GUID)])
    outer = make("Outer", [("count", wintypes.ULONG), ("inner", inner * 2)])
    derived = make("Derived", [("last", wintypes.USHORT)], base=outer)
    value = read_struct(Memory(), 0x1000, derived)
    assert size_of(derived) == 4 + 2 * 32 + 4
    assert value.inner[1].list[1].Blink == le(BYTES[48:52])
    assert value.last == le(BYTES[68:70])


def test_ctypes_big_endian_structure_is_explicit():
    big = make("Big", [("a", ctypes.c_uint32), ("b", ctypes.c_uint64)], base=ctypes.BigEndianStructure)
    assert read_struct(Memory(), 0x1000, big).a == 0x00010203


def test_ctypes_bit_fields():
    value = read_struct(Memory(struct.pack("<Q", 0xFFFF_8000_1234_5678)), 0x1000, wintypes.EX_FAST_REF64)
    assert (value.RefCnt, value.pointer) == (8, 0xFFFF_8000_1234_5670)


HOST_SIZED = [
    (ctypes.c_void_p, "POINTER64"),
    (ctypes.c_char_p, "POINTER64"),
    (ctypes.c_wchar_p, "POINTER64"),
    (ctypes.POINTER(ctypes.c_uint32), "POINTER64"),
    (ctypes.CFUNCTYPE(ctypes.c_int), "POINTER64"),
    (ctypes.c_wchar, "WCHAR"),
    (ctypes.py_object, "not plain memory"),
    (ctypes.wintypes.FILETIME, "DWORD"),
]
if ctypes.sizeof(ctypes.c_longdouble) != ctypes.sizeof(ctypes.c_double):
    HOST_SIZED.append((ctypes.c_longdouble, "x87"))


@pytest.mark.parametrize(("kind", "advice"), HOST_SIZED, ids=lambda v: getattr(v, "__name__", ""))
def test_ctypes_host_sized_types_are_refused_wherever_they_are(kind, advice):
    inside = make("Inside", [("ok", ctypes.c_uint8), ("bad", kind)])
    places = [
        (kind, kind.__name__),
        (kind * 2, "[]"),
        (inside, "Inside.bad"),
        (make("Deep", [("a", make("Mid", [("b", inside * 2)]))]), "Deep.a.b[].bad"),
        (make("Child", [("c", ctypes.c_uint8)], base=inside), "Child.bad"),
        (make("Either", [("bad", kind)], base=ctypes.Union), "Either.bad"),
    ]
    memory = Memory()
    for spec, where in places:
        with pytest.raises(TypeError, match=advice) as refusal:
            read_struct(memory, 0x1000, spec)
        assert where in str(refusal.value)
    assert memory.asked == []


def test_ctypes_long_is_the_same_class_as_a_fixed_one():
    """Why a bare c_long is not refused. If this fails one day, it can be: see kdmp.structs."""
    assert ctypes.c_long in (ctypes.c_int32, ctypes.c_int64)
    assert ctypes.c_ulong in (ctypes.c_uint32, ctypes.c_uint64)
    assert size_of(ctypes.c_long) == ctypes.sizeof(ctypes.c_long)


@pytest.mark.parametrize(
    "spec", [ctypes.Structure, ctypes.Array, ctypes.Union, make("Empty", []), ctypes.c_uint8 * 0]
)
def test_ctypes_without_bytes_is_refused(spec):
    with pytest.raises(TypeError, match=r"no size|no bytes"):
        size_of(spec)


def test_structure_completed_after_a_refusal_is_read():
    late = type("Late", (ctypes.Structure,), {})
    with pytest.raises(TypeError):
        size_of(late)
    late._fields_ = [("a", wintypes.USHORT)]
    assert read_struct(Memory(), 0x1000, late).a == 0x0100


# --- struct formats ---


def test_formats_return_tuples():
    memory = Memory()
    assert read_struct(memory, 0x1001, "<H") == (0x0201,)
    assert read_struct(memory, 0x1000, b">HI") == (0x0001, 0x02030405)
    assert read_struct(memory, 0x1000, struct.Struct("<4s2x?")) == (b"\0\1\2\3", True)
    assert read_struct(memory, 0x1000, "@BI") == (0, 0x07060504)
    assert memory.asked == [(0x1001, 2), (0x1000, 6), (0x1000, 7), (0x1000, 8)]


def test_format_without_prefix_is_little_endian():
    assert read_struct(Memory(), 0x1000, "IHH") == struct.unpack_from("<IHH", BYTES)


def test_standard_long_is_the_windows_long():
    assert size_of("<l") == size_of("=L") == size_of(">l") == 4


@pytest.mark.parametrize("prefix", ["", "@"])
@pytest.mark.parametrize("code", "lLnNP")
def test_host_sized_codes_are_refused(prefix, code):
    for spec in (prefix + code, f"{prefix}I2{code}".encode(), struct.Struct(f"{prefix}4{code}")):
        with pytest.raises(TypeError, match=f"'{code}' in struct format .* write '"):
            size_of(spec)


def test_format_that_alignment_changes_must_say_which():
    for spec in ("BI", struct.Struct("HQ")):
        with pytest.raises(TypeError, match=r"write '<.*' or '@"):
            size_of(spec)
    assert (size_of("<BI"), size_of("@BI")) == (5, 8)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("Y", "not a struct format"),
        ("<P", "by the dump's pointer size"),
        ("<3", "not a struct format"),
        (b"\xff", "ascii"),
    ],
)
def test_malformed_formats(spec, message):
    with pytest.raises(ValueError, match=message):
        size_of(spec)


@pytest.mark.parametrize("spec", ["", "<", "0s", "<0I"])
def test_empty_formats(spec):
    with pytest.raises(TypeError, match="no bytes"):
        size_of(spec)


@pytest.mark.parametrize("spec", ["_EPROCESS", "nt!_EPROCESS", "LIST_ENTRY64", "_eprocess", "nt!Foo"])
def test_symbol_names_need_symbols(spec):
    with pytest.raises(TypeError, match="no symbols are loaded"):
        size_of(spec)


def test_formats_agree_with_struct():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    item = st.tuples(st.sampled_from(["", "0", "1", "3"]), st.sampled_from("xcbB?hHiIqQefdspl L")).map(
        "".join
    )
    formats = st.tuples(
        st.sampled_from(["", "@", "=", "<", ">", "!"]), st.lists(item, max_size=6).map("".join)
    )

    @hypothesis.given(formats, st.binary(min_size=256, max_size=256))
    @hypothesis.settings(max_examples=300, deadline=None)
    def check(parts, data):
        prefix, items = parts
        hypothesis.assume("0p" not in items)  # struct.unpack itself fails: SystemError in CPython 3.11
        try:
            size = struct.calcsize(prefix + items)
        except struct.error:
            with pytest.raises((ValueError, TypeError)):
                size_of(prefix + items)
            return
        if (prefix in ("", "@") and "l" in items.lower()) or size == 0:
            with pytest.raises(TypeError):
                size_of(prefix + items)
            return
        if prefix == "" and size != struct.calcsize("<" + items):
            with pytest.raises(TypeError):
                size_of(items)
            return
        memory = Memory(data)
        expected = struct.unpack_from((prefix or "<") + items, data)
        # bytes, because a NaN is unequal to itself
        assert repr(read_struct(memory, 0x1000, prefix + items)) == repr(expected)
        assert memory.asked == [(0x1000, size)]

    check()


def test_a_c_name_needs_its_ffi():
    for spec in ("struct point", "union\tu", "enum e"):
        with pytest.raises(TypeError, match=r"with the cffi\.FFI that declares it"):
            size_of(spec)


# --- numpy ---


def test_numpy_scalars_and_structures():
    np = pytest.importorskip("numpy")
    memory = Memory()
    value = read_struct(memory, 0x1001, np.dtype("<u4"))
    assert (value, type(value)) == (0x04030201, np.uint32)
    assert read_struct(memory, 0x1001, np.uint16) == 0x0201
    record = read_struct(memory, 0x1000, np.dtype([("a", "<u2"), ("b", ">u4", 2)]))
    assert isinstance(record, np.void)
    assert (record["a"], list(record["b"])) == (0x0100, [0x02030405, 0x06070809])
    assert list(read_struct(memory, 0x1000, np.dtype(("u1", 3)))) == [0, 1, 2]
    assert size_of(np.dtype("<i8")) == 8


def test_numpy_many_is_one_array():
    np = pytest.importorskip("numpy")
    memory = Memory()
    array = read_structs(memory, 0x1000, np.dtype([("a", "<u2"), ("b", "<u2")]), 4)
    assert memory.asked == [(0x1000, 16)]
    assert array["b"].tolist() == [0x0302, 0x0706, 0x0B0A, 0x0F0E]
    empty = read_structs(memory, 0x1000, np.dtype("<u4"), 0)
    assert (empty.dtype, empty.shape) == (np.dtype("<u4"), (0,))


def test_numpy_objects_and_empty_types_are_refused():
    np = pytest.importorskip("numpy")
    for spec in (np.dtype(object), np.dtype([("a", "u1"), ("b", object)]), np.object_):
        with pytest.raises(TypeError, match="Python objects"):
            size_of(spec)
    with pytest.raises(TypeError, match="no bytes"):
        size_of(np.dtype("V0"))
    for spec in (np.zeros(2), np.uint8(1), np.ndarray):
        with pytest.raises(TypeError, match="described by"):
            size_of(spec)


def test_dtype_and_its_equal_name_are_different_specs():
    np = pytest.importorskip("numpy")
    assert np.dtype("d") == "d"
    assert isinstance(read_struct(Memory(), 0x1000, np.dtype("d")), np.float64)
    assert isinstance(read_struct(Memory(), 0x1000, "d"), tuple)


# --- cffi ---


@pytest.fixture
def c():
    pytest.importorskip("cffi")
    return wintypes.ffi()


def test_cffi_structure_owns_its_bytes(c):
    c.cdef("struct point { USHORT x; ULONG y[2]; struct { UCHAR tag; }; enum { A, B } e; ULONG low : 4; };")
    memory = Memory()
    value = read_struct(memory, 0x1000, c.typeof("struct point"))
    assert memory.asked == [(0x1000, c.sizeof("struct point"))]
    gc.collect()
    assert (value.x, list(value.y), value.tag) == (0x0100, [0x07060504, 0x0B0A0908], 12)
    assert value.low == BYTES[20] & 15
    value.x = 7
    assert (value.x, memory.data[:2]) == (7, BYTES[:2])
    assert c.typeof(value) is c.typeof("struct point")


def test_cffi_by_name_and_from_another_ffi(c):
    cffi = pytest.importorskip("cffi")
    assert read_struct(Memory(), 0x1000, (c, "LIST_ENTRY32")).Blink == le(BYTES[4:8])
    other = cffi.FFI()
    other.cdef("struct mine { uint16_t a; uint16_t b; };")
    assert read_struct(Memory(), 0x1000, other.typeof("struct mine")).b == 0x0302


def test_cffi_arrays_primitives_and_enums(c):
    c.cdef("enum colour { RED = 0x03020100 }; typedef enum colour colour;")
    memory = Memory()
    array = read_struct(memory, 0x1000, c.typeof("ULONG[3]"))
    assert list(array) == list(struct.unpack_from("<3I", BYTES))
    with pytest.raises(IndexError):
        array[3]
    assert read_struct(memory, 0x1000, c.typeof("LONGLONG")) == le(BYTES[:8])
    assert read_struct(memory, 0x1000, c.typeof("colour")) == 0x03020100
    text = Memory("hi\0".encode("utf-16-le"))
    assert c.string(read_struct(text, 0x1000, c.typeof("WCHAR[3]"))) == "hi"
    assert read_struct(Memory(b"\xff"), 0x1000, c.typeof("CHAR")) == b"\xff"


def test_cffi_many(c):
    memory = Memory()
    entries = read_structs(memory, 0x1000, c.typeof("LIST_ENTRY32"), 3)
    assert [e.Flink for e in entries] == [le(BYTES[at : at + 4]) for at in (0, 8, 16)]
    assert [list(a) for a in read_structs(memory, 0x1000, (c, "UCHAR[2]"), 2)] == [[0, 1], [2, 3]]
    assert memory.asked == [(0x1000, 24), (0x1000, 4)]


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("long", "LONG or int32_t: long is 32 bits in Windows"),
        ("unsigned long", "ULONG or uint32_t"),
        ("long double", "double"),
        ("wchar_t", "WCHAR or char16_t"),
        ("size_t", "uint64_t, by the dump's pointer size"),
        ("ssize_t", "by the dump's pointer size"),
        ("intptr_t", "by the dump's pointer size"),
        ("uintptr_t", "by the dump's pointer size"),
        ("ptrdiff_t", "by the dump's pointer size"),
        ("void *", "POINTER64"),
        ("struct _GUID *", "POINTER64"),
        ("int(*)(int)", "POINTER64"),
    ],
)
def test_cffi_host_sized_types_are_refused_wherever_they_are(c, kind, advice):
    c.cdef(f"typedef {c.getctype(kind, 'hidden')};")
    c.cdef("struct inside { UCHAR ok; hidden bad; };")
    c.cdef("struct deep { struct { struct inside a[2]; } b; };")
    c.cdef("struct unnamed { union { hidden bad; UCHAR b; }; };")
    memory = Memory()
    for name, where in [
        ("hidden", ""),
        ("hidden[3]", ""),
        ("struct inside", "struct inside.bad"),
        ("struct deep", "struct deep.b.a[].bad"),
        ("struct unnamed", "struct unnamed.bad"),
    ]:
        with pytest.raises(TypeError) as refusal:
            read_struct(memory, 0x1000, c.typeof(name))
        assert advice in str(refusal.value)
        assert str(refusal.value).startswith(where)
    assert memory.asked == []


def test_cffi_types_without_a_size_are_refused(c):
    c.cdef("struct opaque; struct tail { ULONG n; UCHAR data[]; }; enum wide { HUGE = 0x100000000 };")
    for name, message in [
        ("struct opaque", "has no size"),
        ("struct tail", "struct tail.data is an array without a length"),
        ("UCHAR[]", "without a length"),
        ("UCHAR[0]", "no bytes"),
        ("void", "not plain memory"),
        ("enum wide", "not 32 bits"),
    ]:
        with pytest.raises(TypeError, match=message):
            size_of(c.typeof(name))


def test_ffi_names_follow_the_pointer_size(c):
    narrow = wintypes.ffi(pointer_size=4)
    for name in ("PVOID", "HANDLE", "SIZE_T", "ULONG_PTR", "LIST_ENTRY", "UNICODE_STRING", "CLIENT_ID"):
        assert c.sizeof(name) == 2 * narrow.sizeof(name)
    narrow.cdef("struct s { LIST_ENTRY links; PVOID base; };")
    assert size_of((narrow, "struct s")) == 12
    with pytest.raises(ValueError, match="pointer_size"):
        wintypes.ffi(pointer_size=64)


def test_missing_cffi_is_one_clear_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cffi", None)
    with pytest.raises(ImportError, match=r"install kdmp\[cffi\]$"):
        wintypes.ffi()


# --- all kinds ---


@pytest.mark.parametrize(
    "spec", [None, 4, [], {}, object(), wintypes.ULONG(1), int, ("I", "I"), (1, 2, 3), bytearray(b"I")]
)
def test_what_describes_nothing_is_refused(spec):
    with pytest.raises(TypeError, match="described by"):
        read_struct(Memory(), 0x1000, spec)


def test_instance_instead_of_class_is_explained():
    with pytest.raises(TypeError, match="pass the class"):
        size_of(wintypes.GUID())


def test_many_structures_in_one_read():
    memory = Memory()
    assert read_structs(memory, 0x1000, "<HH", 2) == [(0x0100, 0x0302), (0x0504, 0x0706)]
    entries = read_structs(memory, 0x1000, wintypes.LIST_ENTRY64, 2)
    assert [e.Blink for e in entries] == [le(BYTES[8:16]), le(BYTES[24:32])]
    assert memory.asked == [(0x1000, 8), (0x1000, 32)]
    assert read_structs(memory, 0, "<H", 0) == read_structs(memory, 0, wintypes.GUID, 0) == []
    assert len(memory.asked) == 2
    with pytest.raises(ValueError, match="negative"):
        read_structs(memory, 0x1000, "<H", -1)
    with pytest.raises(TypeError, match="integer"):
        read_structs(memory, 0x1000, "<H", 1.0)
    with pytest.raises(TypeError, match="described by"):
        read_structs(memory, 0x1000, 7, 0)


def test_missing_memory_is_the_readers_error():
    with pytest.raises(LookupError, match="0x11f8"):
        read_struct(Memory(), 0x11F8, wintypes.LIST_ENTRY64)


def test_structures_of_a_real_dump():
    pytest.importorskip("kdmp._kdmp")
    import kdmp
    from kdmp.writer import write_dump

    page = BYTES * 8
    image = io.BytesIO()
    write_dump(image, 1, {1: page, 2: page})
    with kdmp.open(image.getvalue()) as dump:
        across = read_struct(dump.phys, 0x1FF8, wintypes.LIST_ENTRY64)
        assert (across.Flink, across.Blink) == (le(BYTES[-8:]), le(BYTES[:8]))
        assert dump.phys.read_struct(0x1000, "<HH") == (0x0100, 0x0302)
        assert read_structs(dump.phys, 0x1000, "<H", 3) == [(0x0100,), (0x0302,), (0x0504,)]
        with pytest.raises(kdmp.PartialReadError) as short:
            read_struct(dump.phys, 0x2FF8, wintypes.GUID)
        assert (short.value.expected, short.value.actual) == (16, 8)


# --- the Windows types ---

SIZES = {
    1: "BYTE UCHAR CHAR BOOLEAN",
    2: "USHORT SHORT WORD WCHAR",
    4: "DWORD ULONG LONG BOOL NTSTATUS POINTER32 PVOID32 HANDLE32 SIZE_T32 ULONG_PTR32 SINGLE_LIST_ENTRY32",
    8: "ULONGLONG LONGLONG ULONG64 LONG64 DWORD64 LARGE_INTEGER ULARGE_INTEGER POINTER64 PVOID64 HANDLE64 "
    "SIZE_T64 ULONG_PTR64 SINGLE_LIST_ENTRY64 LIST_ENTRY32 STRING32 UNICODE_STRING32 CLIENT_ID32 "
    "EX_FAST_REF64",
    16: "LIST_ENTRY64 STRING64 UNICODE_STRING64 CLIENT_ID64 GUID",
}
SIZE_OF_NAME = {name: size for size, names in SIZES.items() for name in names.split()}


@pytest.mark.parametrize(("name", "size"), SIZE_OF_NAME.items())
def test_windows_sizes(name, size):
    assert size_of(getattr(wintypes, name)) == size


def test_every_windows_type_has_its_size_tested():
    assert set(wintypes.__all__) - {"CDEF", "ffi"} == set(SIZE_OF_NAME)


def test_declarations_agree_with_the_classes(c):
    def declared(ctype):
        for field, info in ctype.fields:
            yield from [(field, info.offset, info.bitsize)] if field else declared(info.type)

    def written(cls):
        for field, kind, *bits in cls._fields_:
            in_place = field in getattr(cls, "_anonymous_", ())
            yield from written(kind) if in_place else [(field, getattr(cls, field).offset, *(bits or [-1]))]

    for name, size in SIZE_OF_NAME.items():
        assert size_of((c, name)) == size
        if hasattr(getattr(wintypes, name), "_fields_"):
            assert list(written(getattr(wintypes, name))) == list(declared(c.typeof(name)))


@pytest.mark.parametrize("name", ["LONG", "SHORT", "LONGLONG", "LONG64", "NTSTATUS", "BOOL"])
def test_signed_types_are_signed(name, c):
    memory = Memory(b"\xff" * 8)
    assert read_struct(memory, 0x1000, getattr(wintypes, name)).value == -1
    assert read_struct(memory, 0x1000, (c, name)) == -1


def test_large_integer_halves():
    memory = Memory(struct.pack("<Ii", 5, -1))
    assert read_struct(memory, 0x1000, wintypes.LARGE_INTEGER).QuadPart == -0x1_0000_0000 + 5
    assert read_struct(memory, 0x1000, wintypes.ULARGE_INTEGER).HighPart == 0xFFFF_FFFF


def test_guid_and_uuid():
    known = uuid.UUID("6b29fc40-ca47-1067-b31d-00dd010662da")
    guid = read_struct(Memory(bytes.fromhex("40fc296b47ca6710b31d00dd010662da")), 0x1000, wintypes.GUID)
    assert guid.Data1 == 0x6B29FC40
    assert guid.uuid == known
    assert bytes(wintypes.GUID.from_uuid(known)) == bytes(guid)


def test_structures_need_no_extra():
    """Reading by ctypes and struct imports neither numpy nor cffi."""
    code = (
        "import sys; import kdmp.structs as s, kdmp.wintypes as w\n"
        "class M:\n    def read_exact(self, va, size): return bytes(size)\n"
        "s.read_struct(M(), 0, w.GUID); s.read_struct(M(), 0, '<I')\n"
        "try: s.size_of(object())\nexcept TypeError: pass\n"
        "print(sorted({'numpy', 'cffi', '_cffi_backend'} & set(sys.modules)))"
    )
    root = os.path.dirname(os.path.dirname(wintypes.__file__))
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
