"""Typed objects: fields by name against the truth files, and every kind of type on bytes made here.

SPDX-License-Identifier: MIT
"""

import pickle
import struct
from types import SimpleNamespace

import pytest
import shareddata

import kdmp
from kdmp.symbols import FieldNotFoundError, TypeNotFoundError
from kdmp.symbols.layouts import Layout
from kdmp.symbols.structs import Build, LayoutSource, Match
from kdmp.windows.objects import Array, EnumValue, Object, Pointer, Types

AT = 0xFFFFF80000001000
OTHER = AT + 0x200

RECORD = {
    "structs": {
        "_OUTER": [
            96,
            "\n".join(
                [
                    "Byte 0 u1",
                    "Short 2 i2",
                    "Low 4 b4:0:3",
                    "High 4 b4:29:3",
                    "Next 8 p:_INNER",
                    "Plain 16 p",
                    "Inner 24 s:_INNER",
                    "Text 40 a8:u1",
                    "Wide 48 a4:u2",
                    "State 56 e4:_STATE",
                    "Real 60 f4",
                    "u.First 64 u4",
                    "u.Second 64 u2",
                    "Many 68 a2:s:_INNER",
                    "Unknown 84 s:_NOWHERE/4",
                    "Wide16 80 u16",
                    "Numbers 88 p:u2",
                ]
            ),
        ],
        "_INNER": [8, "Value 0 u4\nSigned 4 i4"],
    },
    "enums": {"_STATE": {"Idle": 0, "Busy": 5, "Gone": -1, "AlsoBusy": 5}},
    "symbols": {},
}


class Memory:
    """Bytes at AT, with a Reader's methods."""

    dtb = 0x1000

    def __init__(self, data):
        self.data = data

    def read_exact(self, va, size):
        start = va - AT
        if start < 0 or start + size > len(self.data):
            raise kdmp.UnreadableError(f"{va:#x} is not there")
        return bytes(self.data[start : start + size])

    def read_uint(self, va, size):
        return int.from_bytes(self.read_exact(va, size), "little")

    def __getattr__(self, name):
        kind, bits = name.removeprefix("read_")[:1], name.removeprefix("read_")[1:]
        if kind not in "ui" or not bits.isdigit():
            raise AttributeError(name)
        return lambda va: int.from_bytes(self.read_exact(va, int(bits) // 8), "little", signed=kind == "i")


@pytest.fixture(scope="module")
def types():
    build = Build(0, "10.0.1.1", "x64", 0, "test")
    return Types(Layout(build, LayoutSource(Match.PDB, "10.0.1.1", "x64"), RECORD))


@pytest.fixture
def outer(types):
    data = bytearray(0x300)
    struct.pack_into("<BxhIQQ", data, 0, 0xFE, -3, 0b101 << 29 | 0b011, OTHER, 0xFFFF800000000000)
    struct.pack_into("<Ii", data, 24, 7, -8)
    data[40:48] = b"abc\0defg"
    data[48:56] = "xyz\0".encode("utf-16-le")
    struct.pack_into("<If", data, 56, 5, 1.5)
    struct.pack_into("<I", data, 64, 0x12345678)
    struct.pack_into("<IiIi", data, 68, 1, -1, 2, -2)
    struct.pack_into("<Q", data, 88, OTHER + 0x40)
    struct.pack_into("<Ii", data, 0x200, 99, -99)
    struct.pack_into("<Ii", data, 0x208, 100, -100)
    struct.pack_into("<HHH", data, 0x240, 11, 22, 33)
    return types.object("_OUTER", AT, Memory(data))


def test_numbers_and_bits(outer):
    assert outer.Byte == 0xFE
    assert outer.Short == -3
    assert outer.Low == 0b011
    assert outer.High == 0b101
    assert outer.Real == 1.5
    assert outer.address == AT
    assert int(outer) == AT
    assert outer.size == 96
    assert outer.Wide16 == int.from_bytes(bytes(outer)[80:96], "little")


def test_pointers_are_numbers_that_can_be_followed(outer):
    assert outer.Next == OTHER
    assert type(outer.Next) is Pointer
    assert outer.Next.type == "_INNER"
    assert outer.Next.Value == 99
    assert outer.Next.target == outer.Next[0]
    assert outer.Next[1].Signed == -100
    assert outer["Next.Value"] == 99
    assert outer.Next["Value"] == 99
    assert outer.Numbers[2] == 33
    assert outer.Plain == 0xFFFF800000000000
    assert outer.Plain.type == "void"
    with pytest.raises(TypeError, match="void"):
        _ = outer.Plain.target
    with pytest.raises(AttributeError):
        _ = outer.Plain.Value
    assert pickle.loads(pickle.dumps(outer.Next)) == OTHER


def test_positions_are_integers(outer):
    for bad in (1.0, None):
        with pytest.raises(TypeError, match="integer"):
            outer.Next[bad]
    for bad in (1.0, None, "Text"):
        with pytest.raises(TypeError, match="integer"):
            Array.__getitem__(Array(None, None, None, AT, 4), bad)


def test_structures_arrays_unions_enumerations(outer):
    assert outer.Inner.Value == 7
    assert outer.Inner.address == AT + 24
    assert outer.Text.text == "abc"
    assert bytes(outer.Text) == b"abc\0defg"
    assert outer.Wide.text == "xyz"
    assert len(outer.Many) == 2
    assert [one.Signed for one in outer.Many] == [-1, -2]
    assert outer.Many[-1].Value == 2
    assert [one.Value for one in outer.Many[:1]] == [1]
    with pytest.raises(IndexError):
        _ = outer.Many[2]
    assert outer.u.First == 0x12345678
    assert outer.u.Second == 0x5678
    assert outer["u.Second"] == 0x5678
    assert (outer.State, outer.State.name, str(outer.State)) == (5, "Busy", "Busy")
    assert isinstance(outer.State, EnumValue)
    assert isinstance(outer.Text, Array)


def test_enumerators_are_signed(types):
    data = bytearray(0x60)
    struct.pack_into("<i", data, 56, -1)
    assert types.object("_OUTER", AT, Memory(data)).State.name == "Gone"
    struct.pack_into("<I", data, 56, 1234)
    assert types.object("_OUTER", AT, Memory(data)).State.name is None


def test_what_is_not_known_or_not_there(outer, types):
    with pytest.raises(FieldNotFoundError, match="_OUTER has no field Missing"):
        _ = outer.Missing
    assert not hasattr(outer, "Missing")
    assert getattr(outer, "Missing", None) is None
    with pytest.raises(FieldNotFoundError):
        _ = outer["Missing"]
    with pytest.raises(FieldNotFoundError):
        _ = outer["Inner.Missing"]
    assert outer.Unknown.address == AT + 84
    with pytest.raises(TypeNotFoundError):
        _ = outer.Unknown.Value
    with pytest.raises(TypeNotFoundError):
        types.object("_NOWHERE", AT, Memory(b""))
    lost = types.object("_OUTER", AT, Memory(bytes(20)))
    assert lost.Byte == 0
    with pytest.raises(kdmp.UnreadableError):
        _ = lost.Real
    assert "????" in str(lost)
    assert lost.to_dict()["Real"] is None


def test_printing_and_plain_values(outer):
    text = str(outer)
    assert "+0x000      Byte" in text
    assert "+0x004:29   High" in text
    assert "5 ( Busy )" in text
    assert f"{OTHER:#018x} _INNER*" in text
    plain = outer.to_dict(1)
    assert plain["Byte"] == 0xFE
    assert plain["Inner"] == {"Value": 7, "Signed": -8}
    assert plain["Text"] == b"abc\0defg"
    assert plain["u"] == {"First": 0x12345678, "Second": 0x5678}
    assert type(plain["Next"]) is int
    assert outer.to_dict(0)["Inner"] == AT + 24
    assert outer._repr_html_().startswith("<pre>")
    assert repr(outer) == f"<_OUTER at {AT:#x}>"
    assert "Inner" in dir(outer)
    assert "u" in dir(outer)


def test_identity(outer, types):
    same = types.object("_OUTER", AT, outer.reader)
    assert same == outer
    assert hash(same) == hash(outer)
    assert outer.Inner != outer
    assert outer != 5
    assert outer.cast("_INNER").Value == 0xFFFD00FE
    assert outer.field_address("Real") == AT + 60
    assert outer.field("High").bit_width == 3
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(outer)
    with pytest.raises(TypeError, match="iterable"):
        list(outer)
    with pytest.raises(AttributeError):
        outer.Byte = 1


@pytest.mark.parametrize("machine", ["win7-7601", "win10-19041"])
def test_every_structure_prints_whatever_is_there(machine):
    """Fields called __something, signed bytes, arrays of small structures ..."""
    truth = shareddata.truth(machine)
    with kdmp.open(shareddata.machine_dump(machine, "full")) as dump:
        windows = dump.windows
        for at in (truth["processes"][5]["eprocess"], truth["kernel_base"]):
            for name in windows.layout.structs:
                typed = windows.object(name, at)
                assert str(typed).startswith(name)
                assert set(typed.to_dict(2)) == set(typed._names())
        assert windows.object("_EXCEPTION_RECORD64", at)["__unusedAlignment"] >= 0
        assert windows.object("nt!EPROCESS", at).type == "_EPROCESS"
        for wrong in (-1, 1 << 64):
            with pytest.raises(OverflowError):
                windows.object("_EPROCESS", wrong)
            with pytest.raises(OverflowError):
                windows.symbolize(wrong)


def test_any_path_is_found_by_its_last_name(outer):
    assert outer.find("Second") == 0x5678
    assert outer.find("Signed") == -8
    with pytest.raises(FieldNotFoundError):
        outer.find("Nothing")


@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_objects_of_machines(machine):
    truth = shareddata.truth(machine)
    with kdmp.open(shareddata.machine_dump(machine, "full")) as dump:
        windows = dump.windows
        for fact in truth["processes"]:
            process = windows.object("_EPROCESS", fact["eprocess"])
            assert process.UniqueProcessId == fact["pid"]
            assert process.InheritedFromUniqueProcessId == fact["ppid"]
            assert process["Pcb.DirectoryTableBase"] & ~0xFFF == fact["dtb"] & ~0xFFF
            assert process.Pcb.DirectoryTableBase == process["Pcb.DirectoryTableBase"]
            for thread in fact["threads"]:
                typed = windows.object("_ETHREAD", thread["address"])
                assert typed.Cid.UniqueThread == thread["tid"]
                assert typed.Tcb.Teb == thread["teb"]
                assert typed.Tcb.Process == fact["eprocess"]
                assert typed.Tcb.Process.cast("_EPROCESS").UniqueProcessId == fact["pid"]


def test_a_list_of_objects():
    truth = shareddata.truth("win10-19041")
    with kdmp.open(shareddata.machine_dump("win10-19041", "full")) as dump:
        head = dump.ps_active_process_head
        found = dump.windows.list_for_each("_EPROCESS", "ActiveProcessLinks", head)
        pids = [int(process.UniqueProcessId) for process in found]
        assert pids == [p["pid"] for p in truth["processes"] if not p["hidden"]]
        with pytest.raises(FieldNotFoundError):
            dump.windows.list_for_each("_EPROCESS", "NoLinks", head)


def test_user_structures_need_the_process_space():
    truth = shareddata.truth("win10-19041")
    fact = next(p for p in truth["processes"] if p["peb"] and p["modules"])
    with kdmp.open(shareddata.machine_dump("win10-19041", "full")) as dump:
        reader = dump.reader(dtb=fact["dtb"])
        peb = dump.windows.object("_PEB", fact["peb"], reader)
        assert peb.ImageBaseAddress == fact["image_base"]
        assert peb.Ldr.InLoadOrderModuleList.Flink == fact["modules"][0]["ldr"]
        assert isinstance(peb, Object)
        assert SimpleNamespace(reader=peb.reader).reader is reader


def test_reading_by_the_name_of_a_structure():
    truth = shareddata.truth("win10-19041")
    fact = truth["processes"][5]
    with kdmp.open(shareddata.machine_dump("win10-19041", "full")) as dump:
        reader = dump.reader()
        process = reader.read_struct(fact["eprocess"], "_EPROCESS")
        assert (process.type, process.UniqueProcessId) == ("_EPROCESS", fact["pid"])
        context = kdmp.virt(fact["eprocess"], truth["dtb"])
        assert reader.read_struct(context, "_EPROCESS").UniqueProcessId == fact["pid"]
        assert reader.read_field(fact["eprocess"], "_EPROCESS.UniqueProcessId") == fact["pid"]
        assert reader.read_field(fact["eprocess"], "_EPROCESS.Pcb.DirectoryTableBase") == fact["dtb"]
        head = dump.ps_active_process_head
        first, second = reader.read_structs(head, "_LIST_ENTRY", 2)
        assert second.address == first.address + 16
        assert reader.read_structs(head, "_LIST_ENTRY", 0) == []
        with pytest.raises(ValueError, match="negative"):
            reader.read_structs(head, "_LIST_ENTRY", -1)
        with pytest.raises(kdmp.UnreadableError):
            reader.read_struct(0x1000, "_LIST_ENTRY")
        with pytest.raises(TypeNotFoundError):
            reader.read_struct(head, "_NO_SUCH_THING")
        with pytest.raises(ValueError, match="not a field"):
            reader.read_field(head, "_LIST_ENTRY")
        with pytest.raises(FieldNotFoundError):
            reader.read_field(head, "_LIST_ENTRY.Slink")
