"""Where each register is in a CONTEXT record: one table per machine, name -> (offset, size).

Offsets and flag bits are those of CONTEXT in winnt.h: AMD64 (0x4D0 bytes), x86 (0x2CC) and ARM64 (0x390).
"""
# SPDX-License-Identifier: MIT

from collections.abc import Iterable
from dataclasses import dataclass, field

Registers = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Layout:
    """A CONTEXT record of one machine."""

    arch: str
    size: int
    flag: int  # the bit of ContextFlags that says which machine this is
    registers: Registers
    parts: dict[str, int]  # group of registers -> bit in ContextFlags
    part_of: dict[str, str]  # register -> group; a register in no group is never declared valid
    general: tuple[str, ...]
    generic: dict[str, str]  # ip, sp, fp, result -> register
    aliases: dict[str, str]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # xmm -> (xmm0, xmm1, ...)


def _series(prefix: str, offset: int, size: int, count: int, step: int = 0) -> Registers:
    """Numbered registers, `step` bytes apart (default: packed)."""
    return {f"{prefix}{i}": (offset + i * (step or size), size) for i in range(count)}


def _sequence(names: Iterable[str], offset: int, size: int) -> Registers:
    """Registers of one size that follow each other."""
    return {name: (offset + i * size, size) for i, name in enumerate(names)}


def _selectors(names: Iterable[str], offset: int) -> Registers:
    """Segment registers of x86: 32-bit fields in which only the low 16 bits were written by the processor."""
    return {name: (at, 2) for name, (at, _) in _sequence(names, offset, 4).items()}


def _numbered(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(count))


def _parts_of(members: dict[str, Iterable[str]]) -> dict[str, str]:
    return {name: part for part, names in members.items() for name in names}


_DEBUG = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")

# --- AMD64 -----------------------------------------------------------------

_X64_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))
_X64_BRANCHES = (
    "debug_control",
    "last_branch_to_rip",
    "last_branch_from_rip",
    "last_exception_to_rip",
    "last_exception_from_rip",
)
# XSAVE_FORMAT, the legacy area of XSAVE (Intel SDM volume 1, 10.5.1), at 0x100.
_X64_FLT_SAVE: Registers = {
    "control_word": (0x100, 2),
    "status_word": (0x102, 2),
    "tag_word": (0x104, 1),
    "error_opcode": (0x106, 2),
    "error_offset": (0x108, 4),
    "error_selector": (0x10C, 2),
    "data_offset": (0x110, 4),
    "data_selector": (0x114, 2),
    "flt_mxcsr": (0x118, 4),
    "mxcsr_mask": (0x11C, 4),
    **_series("st", 0x120, 10, 8, step=16),
    **_series("xmm", 0x1A0, 16, 16),
}

X64 = Layout(
    arch="x64",
    size=0x4D0,
    flag=0x00100000,
    registers={
        **_sequence((f"p{i}_home" for i in range(1, 7)), 0x00, 8),
        "context_flags": (0x30, 4),
        "mxcsr": (0x34, 4),
        **_sequence(("cs", "ds", "es", "fs", "gs", "ss"), 0x38, 2),
        "eflags": (0x44, 4),
        **_sequence(_DEBUG, 0x48, 8),
        **_sequence(_X64_GENERAL, 0x78, 8),
        "rip": (0xF8, 8),
        **_X64_FLT_SAVE,
        **_series("vector_register", 0x300, 16, 26),
        "vector_control": (0x4A0, 8),
        **_sequence(_X64_BRANCHES, 0x4A8, 8),
    },
    parts={
        "control": 0x1,
        "integer": 0x2,
        "segments": 0x4,
        "floating_point": 0x8,
        "debug": 0x10,
        "xstate": 0x40,
    },
    part_of=_parts_of(
        {
            "control": ("ss", "rsp", "cs", "rip", "eflags"),
            "integer": tuple(name for name in _X64_GENERAL if name != "rsp"),
            "segments": ("ds", "es", "fs", "gs"),
            "floating_point": ("mxcsr", *_X64_FLT_SAVE),
            "debug": (*_DEBUG, *_X64_BRANCHES),
        }
    ),
    general=_X64_GENERAL,
    generic={"ip": "rip", "sp": "rsp", "fp": "rbp", "result": "rax"},
    aliases={"efl": "eflags", "rflags": "eflags"},
    groups={
        "st": _numbered("st", 8),
        "xmm": _numbered("xmm", 16),
        "vector_register": _numbered("vector_register", 26),
    },
)

# --- x86 -------------------------------------------------------------------

_X86_GENERAL = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
# FLOATING_SAVE_AREA at 0x1C: the 80-bit registers are packed.
_X86_FLOAT_SAVE: Registers = {
    **_sequence(("control_word", "status_word", "tag_word", "error_offset", "error_selector"), 0x1C, 4),
    "data_offset": (0x30, 4),
    "data_selector": (0x34, 4),
    **_series("st", 0x38, 10, 8),
    "cr0_npx_state": (0x88, 4),
}
# ExtendedRegisters at 0xCC: an FXSAVE image (Intel SDM volume 1, 10.5.1).
_X86_EXTENDED: Registers = {
    "fx_control_word": (0xCC, 2),
    "fx_status_word": (0xCE, 2),
    "fx_tag_word": (0xD0, 1),
    "fx_error_opcode": (0xD2, 2),
    "fx_error_offset": (0xD4, 4),
    "fx_error_selector": (0xD8, 2),
    "fx_data_offset": (0xDC, 4),
    "fx_data_selector": (0xE0, 2),
    "mxcsr": (0xE4, 4),
    "mxcsr_mask": (0xE8, 4),
    **_series("fx_st", 0xEC, 10, 8, step=16),
    **_series("xmm", 0x16C, 16, 8),
}

X86 = Layout(
    arch="x86",
    size=0x2CC,
    flag=0x00010000,
    registers={
        "context_flags": (0x00, 4),
        **_sequence(_DEBUG, 0x04, 4),
        **_X86_FLOAT_SAVE,
        **_selectors(("gs", "fs", "es", "ds"), 0x8C),
        **_sequence(("edi", "esi", "ebx", "edx", "ecx", "eax"), 0x9C, 4),
        **_sequence(("ebp", "eip"), 0xB4, 4),
        **_selectors(("cs",), 0xBC),
        **_sequence(("eflags", "esp"), 0xC0, 4),
        **_selectors(("ss",), 0xC8),
        **_X86_EXTENDED,
    },
    parts={
        "control": 0x1,
        "integer": 0x2,
        "segments": 0x4,
        "floating_point": 0x8,
        "debug": 0x10,
        "extended": 0x20,
        "xstate": 0x40,
    },
    part_of=_parts_of(
        {
            "control": ("ebp", "eip", "cs", "eflags", "esp", "ss"),
            "integer": ("edi", "esi", "ebx", "edx", "ecx", "eax"),
            "segments": ("gs", "fs", "es", "ds"),
            "floating_point": _X86_FLOAT_SAVE,
            "debug": _DEBUG,
            "extended": _X86_EXTENDED,
        }
    ),
    general=_X86_GENERAL,
    generic={"ip": "eip", "sp": "esp", "fp": "ebp", "result": "eax"},
    aliases={"efl": "eflags"},
    groups={"st": _numbered("st", 8), "fx_st": _numbered("fx_st", 8), "xmm": _numbered("xmm", 8)},
)

# --- ARM64 -----------------------------------------------------------------

_ARM64_DEBUG: Registers = {
    **_series("bcr", 0x318, 4, 8),
    **_series("bvr", 0x338, 8, 8),
    **_series("wcr", 0x378, 4, 2),
    **_series("wvr", 0x380, 8, 2),
}
_ARM64_FLOAT: Registers = {**_series("v", 0x110, 16, 32), "fpcr": (0x310, 4), "fpsr": (0x314, 4)}

ARM64 = Layout(
    arch="arm64",
    size=0x390,
    flag=0x00400000,
    registers={
        "context_flags": (0x00, 4),
        "cpsr": (0x04, 4),
        **_sequence((*_numbered("x", 29), "fp", "lr", "sp", "pc"), 0x08, 8),
        **_ARM64_FLOAT,
        **_ARM64_DEBUG,
    },
    parts={
        "control": 0x1,
        "integer": 0x2,
        "floating_point": 0x4,
        "debug": 0x8,
        "x18": 0x10,
        "xstate": 0x20,
    },
    part_of=_parts_of(
        {
            "control": ("fp", "lr", "sp", "pc", "cpsr"),
            "integer": _numbered("x", 29),
            "floating_point": _ARM64_FLOAT,
            "debug": _ARM64_DEBUG,
        }
    ),
    general=(*_numbered("x", 29), "fp", "lr", "sp"),
    generic={"ip": "pc", "sp": "sp", "fp": "fp", "result": "x0"},
    aliases={"x29": "fp", "x30": "lr", "pstate": "cpsr"},
    groups={
        "x": (*_numbered("x", 29), "fp", "lr"),
        "v": _numbered("v", 32),
        "bcr": _numbered("bcr", 8),
        "bvr": _numbered("bvr", 8),
        "wcr": _numbered("wcr", 2),
        "wvr": _numbered("wvr", 2),
    },
)

LAYOUTS: dict[str, Layout] = {layout.arch: layout for layout in (X64, X86, ARM64)}

PART_NAMES: tuple[str, ...] = tuple(
    dict.fromkeys(part for layout in LAYOUTS.values() for part in layout.parts)
)
