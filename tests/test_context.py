"""Context and ExceptionRecord: against ctypes structures written separately, made records and real dumps."""
# SPDX-License-Identifier: MIT

import copy
import ctypes
import itertools
import json
import lzma
import pickle
import struct
from functools import cache
from pathlib import Path

import pytest

from kdmp.context import Context, ExceptionRecord
from kdmp.context_layouts import LAYOUTS

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TRIAGE = DATA / "triage"
WIN7_X86 = DATA / "headers" / "memflow-coredump_coredump_win7_32bit_stripped.dmp.xz"

U8, U16, U32, U64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
M128 = U8 * 16
SELECTOR = U16 * 2  # a 32-bit field of which the low half counts
FILLER = b"PAGE"


def fields(kind, names):
    return [(name, kind) for name in names.split()]


# CONTEXT of winnt.h, with our names; "_" marks padding. Offsets follow from order and size alone.
class ContextX64(ctypes.LittleEndianStructure):
    _pack_ = 1
    _fields_ = [
        *fields(U64, "p1_home p2_home p3_home p4_home p5_home p6_home"),
        *fields(U32, "context_flags mxcsr"),
        *fields(U16, "cs ds es fs gs ss"),
        ("eflags", U32),
        *fields(U64, "dr0 dr1 dr2 dr3 dr6 dr7"),
        *fields(U64, "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip"),
        *fields(U16, "control_word status_word"),
        *fields(U8, "tag_word _reserved1"),
        ("error_opcode", U16),
        ("error_offset", U32),
        *fields(U16, "error_selector _reserved2"),
        ("data_offset", U32),
        *fields(U16, "data_selector _reserved3"),
        *fields(U32, "flt_mxcsr mxcsr_mask"),
        ("st", M128 * 8),
        ("xmm", M128 * 16),
        ("_reserved4", U8 * 96),
        ("vector_register", M128 * 26),
        *fields(U64, "vector_control debug_control last_branch_to_rip last_branch_from_rip"),
        *fields(U64, "last_exception_to_rip last_exception_from_rip"),
    ]


class ContextX86(ctypes.LittleEndianStructure):
    _pack_ = 1
    _fields_ = [
        *fields(U32, "context_flags dr0 dr1 dr2 dr3 dr6 dr7"),
        *fields(
            U32, "control_word status_word tag_word error_offset error_selector data_offset data_selector"
        ),
        ("st", (U8 * 10) * 8),
        ("cr0_npx_state", U32),
        *fields(SELECTOR, "gs fs es ds"),
        *fields(U32, "edi esi ebx edx ecx eax ebp eip"),
        ("cs", SELECTOR),
        *fields(U32, "eflags esp"),
        ("ss", SELECTOR),
        *fields(U16, "fx_control_word fx_status_word"),
        *fields(U8, "fx_tag_word _reserved1"),
        ("fx_error_opcode", U16),
        ("fx_error_offset", U32),
        *fields(U16, "fx_error_selector _reserved2"),
        ("fx_data_offset", U32),
        *fields(U16, "fx_data_selector _reserved3"),
        *fields(U32, "mxcsr mxcsr_mask"),
        ("fx_st", M128 * 8),
        ("xmm", M128 * 8),
        ("_reserved4", U8 * (512 - 0x120)),
    ]


class ContextArm64(ctypes.LittleEndianStructure):
    _pack_ = 1
    _fields_ = [
        *fields(U32, "context_flags cpsr"),
        ("x", U64 * 29),
        *fields(U64, "fp lr sp pc"),
        ("v", M128 * 32),
        *fields(U32, "fpcr fpsr"),
        ("bcr", U32 * 8),
        ("bvr", U64 * 8),
        ("wcr", U32 * 2),
        ("wvr", U64 * 2),
    ]


STRUCTURES = {"x64": ContextX64, "x86": ContextX86, "arm64": ContextArm64}
FLAGS = {"x64": 0x10001F, "x86": 0x1003F, "arm64": 0x40000F}
FLAGS_AT = {"x64": 0x30, "x86": 0, "arm64": 0}
SIZES = {"x64": 0x4D0, "x86": 0x2CC, "arm64": 0x390}
ARCHES = sorted(SIZES)


def record(arch, flags=None):
    """A record in which every byte differs from its neighbours."""
    data = bytearray(i * 37 % 251 for i in range(SIZES[arch]))
    struct.pack_into("<I", data, FLAGS_AT[arch], FLAGS[arch] if flags is None else flags)
    return bytes(data)


def context(arch, flags=None):
    ctx = Context.from_bytes(record(arch, flags), arch)
    assert ctx is not None
    return ctx


def expected_registers(structure):
    """name -> (offset, size) of a ctypes structure, arrays spelled out, x87 registers cut to 80 bits."""
    result = {}
    for name, kind in structure._fields_:
        offset = getattr(structure, name).offset
        if name.startswith("_"):
            continue
        if kind is SELECTOR:
            result[name] = (offset, 2)
            continue
        if not issubclass(kind, ctypes.Array):
            result[name] = (offset, ctypes.sizeof(kind))
            continue
        step = ctypes.sizeof(kind._type_)
        for i in range(kind._length_):
            result[f"{name}{i}"] = (offset + i * step, 10 if name in ("st", "fx_st") else step)
    return result


@pytest.mark.parametrize("arch", ARCHES)
def test_table_agrees_with_ctypes(arch):
    assert ctypes.sizeof(STRUCTURES[arch]) == SIZES[arch] == LAYOUTS[arch].size
    assert LAYOUTS[arch].registers == expected_registers(STRUCTURES[arch])


@pytest.mark.parametrize("arch", ARCHES)
def test_table_is_consistent(arch):
    layout = LAYOUTS[arch]
    spans = sorted(layout.registers.values())
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(spans))
    assert set(layout.part_of) <= set(layout.registers)
    assert set(layout.part_of.values()) <= set(layout.parts)
    assert {*layout.general, *layout.generic.values(), *layout.aliases.values()} <= set(layout.registers)
    assert {name for group in layout.groups.values() for name in group} <= set(layout.registers)
    assert not set(layout.aliases) & set(layout.registers)


@pytest.mark.parametrize(
    ("arch", "name", "offset"),
    [
        ("x64", "mxcsr", 0x34),
        ("x64", "ss", 0x42),
        ("x64", "dr7", 0x70),
        ("x64", "rsp", 0x98),
        ("x64", "rip", 0xF8),
        ("x64", "flt_mxcsr", 0x118),
        ("x64", "xmm0", 0x1A0),
        ("x64", "xmm15", 0x290),
        ("x64", "vector_register0", 0x300),
        ("x64", "debug_control", 0x4A8),
        ("x64", "last_exception_from_rip", 0x4C8),
        ("x86", "gs", 0x8C),
        ("x86", "eax", 0xB0),
        ("x86", "eip", 0xB8),
        ("x86", "ss", 0xC8),
        ("arm64", "x28", 0xE8),
        ("arm64", "lr", 0xF8),
        ("arm64", "pc", 0x108),
        ("arm64", "v31", 0x300),
        ("arm64", "fpcr", 0x310),
        ("arm64", "wvr1", 0x388),
    ],
)
def test_documented_offsets(arch, name, offset):
    ctx = context(arch)
    size = LAYOUTS[arch].registers[name][1]
    assert ctx[name] == int.from_bytes(record(arch)[offset : offset + size], "little")
    assert getattr(ctx, name) == ctx[name]


@pytest.mark.parametrize("arch", ARCHES)
def test_mapping(arch):
    ctx = context(arch)
    names = list(ctx)
    assert len(names) == len(ctx) == len(set(names))
    assert all(name in ctx for name in names)
    assert {*names, *LAYOUTS[arch].aliases, "ip", "sp"} <= set(dir(ctx))
    assert "nothing" not in ctx
    assert 5 not in ctx
    assert dict(ctx)["context_flags"] == FLAGS[arch] == ctx.flags
    assert ctx.get("nothing") is None
    with pytest.raises(KeyError):
        ctx["nothing"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = ctx.nothing
    assert not hasattr(ctx, "__array__")


def test_generic_names():
    x64, x86, arm = context("x64"), context("x86"), context("arm64")
    assert (x64.ip, x64.sp, x64.fp, x64.result) == (x64.rip, x64.rsp, x64.rbp, x64.rax)
    assert (x86.ip, x86.sp, x86.fp, x86.result) == (x86.eip, x86.esp, x86.ebp, x86.eax)
    assert (arm.ip, arm.sp, arm.fp, arm.result) == (arm.pc, arm["sp"], arm.x29, arm.x0)
    assert (arm.x30, arm.pstate) == (arm.lr, arm.cpsr)
    assert x64.rflags == x64.efl == x64.eflags == x64["eflags"]
    assert "x29" in arm
    assert x64["ip"] == x64.rip


def test_groups_of_registers():
    x64, arm = context("x64"), context("arm64")
    assert x64.xmm == tuple(x64[f"xmm{i}"] for i in range(16))
    assert len(x64.vector_register) == 26
    assert x64.st[7] == x64.st7 < 1 << 80
    assert x64.xmm15 >> 64
    assert arm.v[31] == arm.v31
    assert arm.x[29:] == (arm.fp, arm.lr)
    assert len(context("x86").xmm) == 8


def test_general_registers():
    x64 = context("x64")
    assert " ".join(x64.gp) == "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15"
    assert x64.gp["r15"] == x64.r15
    assert len(context("x86").gp) == 8
    assert len(context("arm64").gp) == 32


@pytest.mark.parametrize("arch", ARCHES)
def test_from_bytes_refuses(arch):
    good = record(arch)
    assert Context.from_bytes(good[:-1], arch) is None
    assert Context.from_bytes(b"", arch) is None
    assert Context.from_bytes(FILLER * (SIZES[arch] // 4), arch) is None
    assert Context.from_bytes(bytes(SIZES[arch]), arch) is None
    for other in ARCHES:
        if other != arch:
            assert Context.from_bytes(record(arch, FLAGS[other]), arch) is None
    mixed = FLAGS[arch] | 0x00080000
    assert Context.from_bytes(record(arch, mixed), arch) is None
    assert Context.from_bytes(record(arch, FLAGS[arch] | 0x28000000), arch).valid("ip")
    with pytest.raises(ValueError, match="not a CONTEXT"):
        Context(good[:-1], arch)
    assert Context.from_bytes(good, "unknown") is None
    with pytest.raises(ValueError, match="ia64"):
        Context(good, "ia64")


@pytest.mark.parametrize("arch", ARCHES)
def test_any_buffer_and_trailing_bytes(arch):
    good = record(arch)
    ctx = context(arch)
    assert ctx.to_bytes() == good
    assert Context.from_bytes(bytearray(good + b"more"), arch) == ctx
    assert Context.from_bytes(memoryview(good + bytes(8)), arch) == ctx
    assert Context.from_bytes(memoryview(good).cast("I"), arch) == ctx


def test_parts_and_validity():
    ctx = context("x64", 0x100003)
    assert ctx.parts == ("control", "integer")
    assert ctx.has("control")
    assert not ctx.has("floating_point")
    assert not ctx.has("xstate")
    assert ctx.valid("rip")
    assert ctx.valid("ip")
    assert ctx.valid("rax")
    assert ctx.valid("context_flags")
    assert not ctx.valid("xmm3")
    assert not ctx.valid("ds")
    assert not ctx.valid("dr7")
    assert not ctx.valid("p1_home")
    with pytest.raises(ValueError, match="colour"):
        ctx.has("colour")
    with pytest.raises(KeyError):
        ctx.valid("nothing")
    arm = context("arm64", 0x400004)
    assert arm.valid("v0")
    assert not arm.valid("pc")
    assert not arm.has("segments")
    assert context("x64", 0x100040).parts == ("xstate",)


@pytest.mark.parametrize("arch", ARCHES)
def test_every_part_has_registers_of_its_own(arch):
    layout = LAYOUTS[arch]
    for part, bit in layout.parts.items():
        ctx = context(arch, layout.flag | bit)
        valid = {name for name in ctx if ctx.valid(name)} - {"context_flags"}
        assert valid == {name for name, owner in layout.part_of.items() if owner == part}


def test_replace():
    ctx = context("x64")
    edited = ctx.replace(rip=0x1000, xmm5=1 << 127, cs=0x33, rflags=0x202)
    assert (edited.rip, edited.xmm5, edited.cs, edited.eflags) == (0x1000, 1 << 127, 0x33, 0x202)
    assert ctx.rip != 0x1000
    changed = {name for name in ctx if ctx[name] != edited[name]}
    assert changed == {"rip", "xmm5", "cs", "eflags"}
    assert ctx.replace(ip=5, sp=6).rsp == 6
    assert context("arm64").replace(x29=7).fp == 7
    with pytest.raises(TypeError, match="eax"):
        ctx.replace(eax=1)
    for bad in (1 << 16, -1):
        with pytest.raises(OverflowError, match="cs"):
            ctx.replace(cs=bad)
    for bad in (1.0, "1", None):
        with pytest.raises(TypeError, match="integer"):
            ctx.replace(cs=bad)
    with pytest.raises(ValueError, match="CONTEXT"):
        ctx.replace(context_flags=0)


def test_value_object():
    ctx = context("x64")
    twin = context("x64")
    assert ctx == twin
    assert hash(ctx) == hash(twin)
    assert ctx != ctx.replace(rax=0)
    assert ctx != context("arm64")
    assert ctx != dict(ctx)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(ctx, protocol)) == ctx
    assert copy.deepcopy(ctx) == ctx
    with pytest.raises(AttributeError, match="replace"):
        ctx.rip = 1
    with pytest.raises(AttributeError, match="replace"):
        del ctx.rip


@pytest.mark.parametrize("arch", ARCHES)
def test_to_dict_is_json(arch):
    ctx = context(arch)
    loaded = json.loads(json.dumps(ctx.to_dict()))
    assert loaded["arch"] == arch
    assert loaded["registers"] == dict(ctx)
    assert loaded["parts"] == list(ctx.parts)


def test_view_x64():
    ctx = Context.from_bytes(bytes(0x30) + struct.pack("<I", 0x10000F) + bytes(0x4D0 - 0x34), "x64")
    ctx = ctx.replace(rip=0xFFFFF80753FFE310, cs=0x10, ss=0x18, ds=0x2B, es=0x2B, fs=0x53, gs=0x2B)
    lines = str(ctx.replace(r8=0xABC, eflags=0x246)).splitlines()
    assert lines[2] == "rip=fffff80753ffe310 rsp=0000000000000000 rbp=0000000000000000"
    assert lines[3].startswith(" r8=0000000000000abc  r9=0000000000000000 r10=")
    assert lines[-2] == "iopl=0         nv up ei pl zr na pe nc"
    assert lines[-1] == "cs=0010  ss=0018  ds=002b  es=002b  fs=0053  gs=002b             efl=00000246"
    assert repr(ctx) == (
        "<Context x64 rip=0xfffff80753ffe310 rsp=0x0 control|integer|segments|floating_point>"
    )
    ng = str(ctx.replace(eflags=0x40A93 | 3 << 12 | 1 << 20)).splitlines()[-2]
    assert ng == "iopl=3 vip     ov up ei ng nz ac po cy"


def test_view_shows_what_the_record_lacks():
    lines = str(context("x64", 0x100001)).splitlines()
    assert lines[0] == " ".join(f"{name}={'?' * 16}" for name in ("rax", "rbx", "rcx"))
    assert "?" not in lines[2].split()[0]
    assert "ds=????" in lines[-1]
    assert "iopl=?" in str(context("x64", 0x100002))


def test_view_x86():
    ctx = context("x86").replace(eip=0x8052C, eflags=0x10246, cs=8)
    lines = str(ctx).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("eip=0008052c esp=")
    assert lines[1].endswith(" iopl=0         nv up ei pl zr na pe nc")
    assert lines[2].startswith("cs=0008  ss=")


def test_x86_selectors_have_16_bits():
    data = bytearray(record("x86"))
    struct.pack_into("<I", data, 0xBC, 0x77780008)  # as real dumps have it
    ctx = Context.from_bytes(data, "x86")
    assert ctx.cs == 8
    assert ctx.replace(cs=0x1B).to_bytes()[0xBC:0xC0] == bytes([0x1B, 0, 0x78, 0x77])


def test_view_arm64():
    ctx = context("arm64").replace(x0=0x10, pc=0xFFFFF803F32DE014, cpsr=0x60000044)
    lines = str(ctx).splitlines()
    assert lines[0].startswith("  x0=0000000000000010   x1=")
    assert lines[7].startswith(" x28=")
    assert lines[-1] == "  pc=fffff803f32de014 cpsr=60000044 -ZC- EL1"


def exception64(code, flags=0, record=0, address=0, count=0, parameters=()):
    words = [*parameters, *([0x4547415045474150] * (15 - len(parameters)))]
    return struct.pack("<IIQQI4s15Q", code, flags, record, address, count, FILLER, *words)


def test_exception_record_64():
    data = exception64(0xC0000005, 1, 0xFFFF8000, 0xFFFFF800, 2, (1, 0x29))
    assert len(data) == 0x98
    rec = ExceptionRecord.from_bytes(data + b"more", 8)
    assert rec == ExceptionRecord(0xC0000005, 1, 0xFFFF8000, 0xFFFFF800, (1, 0x29))
    assert rec.code_name == "STATUS_ACCESS_VIOLATION"
    assert rec.noncontinuable
    assert str(rec) == "0xC0000005 STATUS_ACCESS_VIOLATION at 0xfffff800 (write of 0x29)"
    assert pickle.loads(pickle.dumps(rec)) == rec
    assert hash(rec) == hash(copy.copy(rec))
    assert json.loads(json.dumps(rec.to_dict()))["parameters"] == [1, 0x29]
    assert rec.to_dict()["code_name"] == "STATUS_ACCESS_VIOLATION"
    with pytest.raises(AttributeError):
        rec.code = 1


def test_exception_record_32():
    data = struct.pack("<IIIII15I", 0x80000003, 0, 0, 0x8052C, 1, 7, *([0x45474150] * 14))
    assert len(data) == 0x50
    rec = ExceptionRecord.from_bytes(data, 4)
    assert rec == ExceptionRecord(0x80000003, 0, None, 0x8052C, (7,))
    assert not rec.noncontinuable
    assert ExceptionRecord.from_bytes(data[:-1], 4) is None
    assert repr(rec) == "<ExceptionRecord 0x80000003 STATUS_BREAKPOINT at 0x8052c>"


def test_exception_record_counts_are_bounded():
    filler = 0x45474150
    assert ExceptionRecord.from_bytes(exception64(1, count=0xFFFFFFFF), 8).parameters == (
        (0x4547415045474150,) * 15
    )
    assert ExceptionRecord.from_bytes(exception64(1, count=filler), 8).parameters == ()
    assert ExceptionRecord.from_bytes(exception64(1, record=filler << 32 | filler), 8).record is None
    assert str(ExceptionRecord.from_bytes(exception64(0x12345), 8)) == "0x00012345 at 0x0"


def test_exception_record_absent():
    for pointer_size, size in ((8, 0x98), (4, 0x50)):
        assert ExceptionRecord.from_bytes(FILLER * (size // 4), pointer_size) is None
        assert ExceptionRecord.from_bytes(bytes(size), pointer_size) is None
        assert ExceptionRecord.from_bytes(b"", pointer_size) is None
    with pytest.raises(ValueError, match="pointer size"):
        ExceptionRecord.from_bytes(bytes(0x98), 16)


@cache
def triage():
    if not (TRIAGE / "index.json").exists():
        return []
    return json.loads((TRIAGE / "index.json").read_text())


def header(facts):
    with lzma.open(TRIAGE / facts["file"]) as file:
        return file.read(0x2000)


@pytest.mark.skipif(not triage(), reason="no ../shared/data/triage")
def test_real_dumps():
    for facts in triage():
        page = header(facts)
        ctx = Context.from_bytes(page[0x348 : 0x348 + 3000], facts["arch"])
        assert ctx.ip == facts["rip_or_pc"], facts["file"]
        assert ctx.sp == facts["rsp_or_sp"], facts["file"]
        assert ctx.has("control")
        assert ctx.has("integer")
        assert f"{ctx.ip:016x}" in str(ctx)
        if facts["arch"] == "x64":
            assert ctx.mxcsr == ctx.flt_mxcsr
            assert ctx.cs == 0x10
        other = "arm64" if facts["arch"] == "x64" else "x64"
        assert Context.from_bytes(page[0x348 : 0x348 + 3000], other) is None
        rec = ExceptionRecord.from_bytes(page[0xF00:0xF98], 8)
        assert rec.code == facts["exception_code"]
        assert rec.address == facts["exception_address"]
        assert rec.code_name == "STATUS_BREAKPOINT"
        assert rec.record is None
        assert len(rec.parameters) <= 15
        assert 0x4547415045474150 not in rec.parameters


@pytest.mark.skipif(not WIN7_X86.exists(), reason="no ../shared/data/headers")
def test_real_x86_dump():
    with lzma.open(WIN7_X86) as file:
        page = file.read(0x1000)
    ctx = Context.from_bytes(page[0x320 : 0x320 + 1200], "x86")
    rec = ExceptionRecord.from_bytes(page[0x7D0:0x820], 4)
    assert ctx.parts == ("control", "integer", "segments")
    assert (ctx.cs, ctx.ss, ctx.ds, ctx.es, ctx.fs, ctx.gs) == (8, 0x10, 0x23, 0x23, 0x30, 0)
    assert rec.code_name == "STATUS_BREAKPOINT"
    assert rec.address == ctx.eip
