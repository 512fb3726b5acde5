"""BugCheck: names, meanings of parameters, values in words; NTSTATUS names."""
# SPDX-License-Identifier: MIT

import json
import lzma
import pickle
import struct
from functools import cache
from pathlib import Path

import pytest

from kdmp import bugcheck_parameters as tables
from kdmp import ntstatus
from kdmp.bugcheck import BugCheck, BugCheckParameter, name
from kdmp.bugcheck_codes import LIVE_DUMP_CODES, NAMES

TRIAGE = Path(__file__).resolve().parents[2] / "shared" / "data" / "triage"


def check(code, *parameters, **facts):
    return BugCheck.from_values(code, (*parameters, *[0] * (4 - len(parameters))), **facts)


def texts(code, *parameters, **facts):
    return tuple(p.text for p in check(code, *parameters, **facts).parameters)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0xA, "IRQL_NOT_LESS_OR_EQUAL"),
        (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
        (0x7E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED"),
        (0x1000007E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M"),
        (0x1000007F, "UNEXPECTED_KERNEL_MODE_TRAP_M"),
        (0x1000008E, "KERNEL_MODE_EXCEPTION_NOT_HANDLED_M"),
        (0x100000EA, "THREAD_STUCK_IN_DEVICE_DRIVER_M"),
        (0x1000000A, "IRQL_NOT_LESS_OR_EQUAL"),
        (0x1C8, "MANUALLY_INITIATED_POWER_BUTTON_HOLD"),
        (0x1CA, "SYNTHETIC_WATCHDOG_TIMEOUT"),
        (0x1E3, "BREAKAWAY_CABLE_TRANSITION"),
        (0x20001, "HYPERVISOR_ERROR"),
        (0xDEADDEAD, "MANUALLY_INITIATED_CRASH1"),
        (0xC000021A, "WINLOGON_FATAL_ERROR"),
        (0x0, None),
        (0x45474150, None),
    ],
)
def test_names(code, expected):
    assert name(code) == check(code).name == expected
    assert check(code).code == code


def test_name_table():
    assert len(NAMES) > 450
    assert all(0 < code <= 0xFFFFFFFF for code in NAMES)
    assert all(text.replace("_", "").isalnum() and text == text.upper() for text in NAMES.values())
    twice = {text for text in NAMES.values() if list(NAMES.values()).count(text) > 1}
    assert twice == {"VIDEO_DRIVER_DEBUG_REPORT_REQUEST"}  # 0xAD with and without bit 0x40000000
    for code, text in NAMES.items():
        if text.endswith("_M"):
            assert NAMES[code & ~0x10000000] == text.removesuffix("_M")


def test_parameter_tables_speak_of_known_codes():
    keys = {*tables.MEANINGS, *(code for code, _ in (*tables.VALUES, *tables.CASES))}
    keys |= {code for code, _ in tables.STATUS_PARAMETERS | tables.IRQL_PARAMETERS}
    assert keys <= set(NAMES)
    assert all(code in NAMES for code in LIVE_DUMP_CODES)
    assert {code for code, _ in tables.CASES} <= set(tables.MEANINGS)
    for code, index in {*tables.VALUES, *tables.STATUS_PARAMETERS, *tables.IRQL_PARAMETERS, (0x50, 1)}:
        assert tables.MEANINGS[code][index], (hex(code), index)
    for code, first in tables.CASES:
        assert first in tables.VALUES[code, 0], (hex(code), hex(first))


COMMON = """0A 18 19 1A 1E 20 24 2E 34 3B 3D 44 4E 50 51 5C 74 77 7A 7B 7E 7F 8E 9C 9F A0 A5 BE C1 C2 C4 C5 C9
CA CB CD CE D1 D5 D6 D8 DA E3 EA EF F4 F5 F7 FC FE 101 109 10D 10E 113 116 117 119 124 12B 133 139 13A 144 14F
154 15F 161 162 164 17E 192 193 1A1 1AA 1C8 1CA 1D3"""


@pytest.mark.parametrize("code", COMMON.split())
def test_common_codes_have_meanings(code):
    result = check(int(code, 16))
    assert result.name
    assert any(p.name for p in result.parameters)


@pytest.mark.parametrize(
    ("code", "parameters", "expected"),
    [
        (0xA, (0x10, 2, 8, 0), (None, "DISPATCH_LEVEL", "execute", None)),
        (0xD1, (0x29, 2, 0, 0x1000), (None, "DISPATCH_LEVEL", "read", None)),
        (0xD1, (0x29, 2, 1, 0), (None, "DISPATCH_LEVEL", "write", None)),
        (0xD1, (0x29, 0xFF, 2, 0), (None, None, "execute", None)),
        (0x1E, (0xFFFFFFFFC0000005, 1, 0, 0), ("STATUS_ACCESS_VIOLATION", None, None, None)),
        (0x3B, (0xC0000005, 1, 2, 0), ("STATUS_ACCESS_VIOLATION", None, None, None)),
        (0x7A, (3, 0xC000009C, 0, 0), (None, "STATUS_DEVICE_DATA_ERROR", None, None)),
        (0x7B, (1, 0xFFFFFFFFC0000034, 0, 0), (None, "STATUS_OBJECT_NAME_NOT_FOUND", None, None)),
        (0x7B, (1, 0, 0, 0), (None, None, None, None)),
        (0x1000007E, (0x80000003, 1, 2, 3), ("STATUS_BREAKPOINT", None, None, None)),
        (0x7F, (8, 0, 0, 0), ("double fault", None, None, None)),
        (0x1000007F, (0xD, 0, 0, 0), ("general protection fault", None, None, None)),
        (0x9F, (3, 1, 2, 3), ("device object blocked a power IRP for too long", None, None, None)),
        (0xEF, (1, 1, 0, 0), (None, "thread", None, None)),
        (0xF4, (3, 0, 0, 0), ("process", None, None, None)),
        (0x109, (1, 2, 3, 0x19), (None, None, None, "loaded module list")),
        (0x124, (4, 0, 0, 0), ("PCI Express error", None, None, None)),
        (0x133, (1, 0x1E00, 0, 0), ("too long at DISPATCH_LEVEL or above in all", None, None, None)),
        (0x139, (3, 1, 2, 0), ("corrupt list entry", None, None, None)),
        (0x139, (4, 1, 2, 0), (None, None, None, None)),
        (0x161, (0x005461736B6D6772, 0, 0, 0), ("Taskmgr", None, None, None)),
        (0x161, (0x1122334455667788, 0, 0, 0), (None, None, None, None)),
        (0x1AA, (1, 3, 2, 4), (None, "thread stack", None, None)),
        (0x99999, (1, 2, 3, 4), (None, None, None, None)),
    ],
)
def test_values_in_words(code, parameters, expected):
    assert texts(code, *parameters) == expected


@pytest.mark.parametrize(
    ("access", "build", "arch", "expected"),
    [
        (0, None, None, "read"),
        (1, None, None, "write"),
        (2, None, None, "write"),
        (0x10, None, None, "execute"),
        (8, None, None, "execute"),
        (2, 19041, "x64", "write"),
        (0x10, 10240, "x86", "execute"),
        (1, 19041, "x64", None),
        (8, 19041, "x64", None),
        (1, 22000, "arm64", "write"),
        (8, 22000, "arm64", "execute"),
        (2, 22000, "arm64", None),
        (1, 9600, "x64", "write"),
        (2, 7601, "x86", None),
        (0x10, None, "arm64", None),
        (8, 22000, "unknown", "execute"),
    ],
)
def test_page_fault_access(access, build, arch, expected):
    assert texts(0x50, 1, access, build=build, arch=arch)[1] == expected


def test_page_fault_kind():
    assert texts(0x50, 1, 0, 0, 2, build=19041)[3] == "page table page does not exist"
    assert texts(0x50, 1, 0, 0, 2)[3] == "page table page does not exist"
    assert texts(0x50, 1, 0, 0, 2, build=7601)[3] is None


def test_irql_depends_on_the_machine():
    assert texts(0xD1, 0, 15, arch="x64")[1] == "HIGH_LEVEL"
    assert texts(0xD1, 0, 31, arch="x86")[1] == "HIGH_LEVEL"
    assert texts(0xD1, 0, 15, arch="x86")[1] is None
    assert texts(0xD1, 0, 15)[1] is None


def test_first_parameter_decides_the_rest():
    names = [p.name for p in check(0x9F, 3).parameters]
    assert names == ["kind of violation", "physical device object", "nt!TRIAGE_9F_POWER", "blocked IRP"]
    assert [p.name for p in check(0x9F, 0x77).parameters] == ["kind of violation", None, None, None]
    assert check(0x1A, 0x41792).parameters[1].name == "PTE address"
    assert check(0x10000019, 0x20).parameters[2].name == "next pool entry"


def test_parameter_is_an_integer():
    p = check(0xD1, 0xFFFFF800A56D1AE9).parameters[0]
    assert p.value == int(p) == 0xFFFFF800A56D1AE9
    assert hex(p) == "0xfffff800a56d1ae9"
    assert [1, 2][BugCheckParameter(1)] == 2
    assert str(p) == "address referenced: 0xfffff800a56d1ae9"
    assert str(check(0xD1, 0, 2).parameters[1]) == "IRQL: 0x2 (DISPATCH_LEVEL)"
    assert str(BugCheckParameter(16)) == "0x10"
    assert repr(BugCheckParameter(16)) == "BugCheckParameter(0x10, name=None, text=None)"
    assert check(0xD1, p).parameters[0] == p
    for bad in (1.0, "1", None):
        with pytest.raises(TypeError, match="integer"):
            check(0xD1, bad)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_four_parameters(count):
    with pytest.raises(ValueError, match="four parameters"):
        BugCheck.from_values(0xD1, range(count))


def test_live_dumps():
    for code in (0x161, 0x1A1, 0x193, 0x15E, 0x1E7, 0x184, 0x117, 0x141, 0x21C8, 0x400001EF):
        assert check(code).is_live_dump, hex(code)
    for code in (0xD1, 0x116, 0x160, 0x1C8, 0x99999):
        assert not check(code).is_live_dump, hex(code)


def test_value_object():
    result = check(0xD1, 0x29, 2, 0, 0xFFFFF800A56D1AE9, build=19041, arch="x64")
    assert str(result) == "0xD1 DRIVER_IRQL_NOT_LESS_OR_EQUAL (0x29, 0x2, 0x0, 0xfffff800a56d1ae9)"
    assert repr(result) == f"<BugCheck {result}>"
    assert str(check(0x99999)) == "0x99999 (0x0, 0x0, 0x0, 0x0)"
    assert str(check(0x1000007E)).startswith("0x1000007E SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M (")
    assert check(0x1000007E).base_code == 0x7E
    assert pickle.loads(pickle.dumps(result)) == result
    assert hash(result) == hash(check(0xD1, 0x29, 2, 0, 0xFFFFF800A56D1AE9))
    with pytest.raises(AttributeError):
        result.code = 1
    loaded = json.loads(json.dumps(result.to_dict()))
    assert loaded["name"] == result.name
    assert loaded["live_dump"] is False
    assert loaded["parameters"][1] == {"value": 2, "name": "IRQL", "text": "DISPATCH_LEVEL"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "STATUS_SUCCESS"),
        (0x80000003, "STATUS_BREAKPOINT"),
        (0xC0000005, "STATUS_ACCESS_VIOLATION"),
        (0xFFFFFFFFC000001D, "STATUS_ILLEGAL_INSTRUCTION"),
        (-1073741819, "STATUS_ACCESS_VIOLATION"),
        (0xC0000409, "STATUS_STACK_BUFFER_OVERRUN"),
        (0xC00000FD, "STATUS_STACK_OVERFLOW"),
        (0xC00004A2, "STATUS_ENCLAVE_VIOLATION"),
        (0x12345678, None),
    ],
)
def test_ntstatus(value, expected):
    assert ntstatus.name(value) == expected


def test_ntstatus_table():
    assert len(ntstatus.NAMES) >= 120
    assert len(set(ntstatus.NAMES.values())) == len(ntstatus.NAMES)
    assert list(ntstatus.NAMES) == sorted(set(ntstatus.NAMES))


@cache
def triage():
    if not (TRIAGE / "index.json").exists():
        return []
    return json.loads((TRIAGE / "index.json").read_text())


@pytest.mark.skipif(not triage(), reason="no ../shared/data/triage")
def test_real_dumps():
    by_file = {}
    for facts in triage():
        with lzma.open(TRIAGE / facts["file"]) as file:
            page = file.read(0x1000)
        code, *parameters = struct.unpack_from("<I4x4Q", page, 0x38)
        result = BugCheck.from_values(code, parameters, build=facts["build"], arch=facts["arch"])
        assert result.code == facts["bugcheck"]
        assert [p.value for p in result.parameters] == facts["parameters"]
        assert result.name
        assert not result.is_live_dump
        by_file[facts["file"]] = result

    def text(file, index):
        return by_file[file].parameters[index].text

    assert text("rtech_7e_0.dmp.xz", 0) == "STATUS_ACCESS_VIOLATION"
    assert text("rtech_7e_1.dmp.xz", 0) == "STATUS_ILLEGAL_INSTRUCTION"
    assert text("rtech_116_1.dmp.xz", 2) == "STATUS_UNSUCCESSFUL"
    assert text("rtech_1a.dmp.xz", 0) == "corrupt page-table entry found"
    assert text("rtech_d1.dmp.xz", 2) == "read"
    assert text("rtech_ef.dmp.xz", 1) == "process"
