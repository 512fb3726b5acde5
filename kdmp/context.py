"""Registers of a processor and the exception record, decoded from the bytes that a dump keeps.

Both are values: immutable, comparable, hashable and picklable, and independent of the dump they came from.
The layouts are those of CONTEXT and EXCEPTION_RECORD in winnt.h.
"""
# SPDX-License-Identifier: MIT

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import index
from typing import Any, Self

from . import context_layouts, ntstatus
from .context_layouts import Layout

# What a dump writer leaves where it has nothing to say: "PAGE".
_FILLER = 0x45474150

_MACHINE_BITS = 0x00FF0000  # CONTEXT_i386, _AMD64, _ARM, _ARM64 ...: winnt.h gives each machine one of these

_MAX_PARAMETERS = 15  # EXCEPTION_MAXIMUM_PARAMETERS


class Context(Mapping[str, int]):
    """The registers in a CONTEXT record, by lower-case name: `ctx.rip`, `ctx["rip"]`, `ctx.xmm0`.

    A mapping of register name to value (plain unsigned int; vector registers have 128 bits, x87 registers
    the raw 80). `ip`, `sp`, `fp` and `result` mean the same on every machine. Registers that come in
    numbers are also there as a tuple: `ctx.xmm`, `ctx.st`, `ctx.v`. What the record does not cover (see
    `valid`) is readable but means nothing.
    """

    __slots__ = ("_data", "_layout")

    _data: bytes
    _layout: Layout

    def __init__(self, data: bytes | bytearray | memoryview, arch: str) -> None:
        """Decode a record that is known to be one; `from_bytes` is the forgiving way. Else ValueError."""
        layout = context_layouts.LAYOUTS.get(arch)
        if layout is None:
            raise ValueError(f"unknown machine {arch!r}: one of {', '.join(context_layouts.LAYOUTS)}")
        raw = _head(data, layout.size)
        if not _is_context(raw, layout):
            raise ValueError(f"not a CONTEXT record for {arch}")
        object.__setattr__(self, "_layout", layout)
        object.__setattr__(self, "_data", raw)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, arch: str) -> Self | None:
        """Decode a CONTEXT record for `arch` ("x64", "x86", "arm64"); bytes after it are ignored.

        None if there is none: too few bytes, filler, flags of another machine, or an `arch` without a known
        layout ("ia64", "unknown").
        """
        layout = context_layouts.LAYOUTS.get(arch)
        if layout is None:
            return None
        raw = _head(data, layout.size)
        return cls(raw, arch) if _is_context(raw, layout) else None

    @property
    def arch(self) -> str:
        """The machine: "x64", "x86" or "arm64"."""
        return self._layout.arch

    @property
    def flags(self) -> int:
        """ContextFlags: which groups of registers the record covers. The same as `context_flags`."""
        return self["context_flags"]

    @property
    def parts(self) -> tuple[str, ...]:
        """The groups of registers that the record covers, e.g. ("control", "integer", "segments")."""
        return tuple(part for part, bit in self._layout.parts.items() if self.flags & bit)

    @property
    def ip(self) -> int:
        """The instruction pointer: rip, eip or pc."""
        return self[self._layout.generic["ip"]]

    @property
    def sp(self) -> int:
        """The stack pointer: rsp, esp or sp."""
        return self[self._layout.generic["sp"]]

    @property
    def fp(self) -> int:
        """The frame pointer: rbp, ebp or fp (x29)."""
        return self[self._layout.generic["fp"]]

    @property
    def result(self) -> int:
        """The register that carries a function's result: rax, eax or x0."""
        return self[self._layout.generic["result"]]

    @property
    def gp(self) -> dict[str, int]:
        """The general registers by name, in the machine's own order."""
        return {name: self[name] for name in self._layout.general}

    def has(self, part: str) -> bool:
        """True if the record covers a group of registers.

        Groups: "control", "integer", "segments", "floating_point", "debug", "xstate", "extended" (x86) and
        "x18" (ARM64). ValueError for any other word.
        """
        if part not in context_layouts.PART_NAMES:
            raise ValueError(f"unknown part {part!r}: one of {', '.join(context_layouts.PART_NAMES)}")
        return bool(self.flags & self._layout.parts.get(part, 0))

    def valid(self, name: str) -> bool:
        """True if the record covers this register: its group's bit is set in the flags.

        Home space and unused vector registers belong to no group and are never valid. KeyError for an
        unknown name.
        """
        name = self._canonical(name)
        if name == "context_flags":
            return True
        part = self._layout.part_of.get(name)
        return part is not None and self.has(part)

    def replace(self, **registers: int) -> Self:
        """A copy with some registers changed (`ctx.replace(rip=0x1000)`), for example to start an emulator.

        Names as for reading, aliases included. TypeError for an unknown name, OverflowError for a value
        that is negative or too large for the register, ValueError for flags that are not this machine's.
        """
        data = bytearray(self._data)
        for name, value in registers.items():
            try:
                offset, size = self._layout.registers[self._canonical(name)]
            except KeyError:
                raise TypeError(f"{self.arch} has no register {name!r}") from None
            value = index(value)
            if not 0 <= value < 1 << (8 * size):
                raise OverflowError(f"{name} has {8 * size} bits: {value:#x} does not fit")
            data[offset : offset + size] = value.to_bytes(size, "little")
        return type(self)(bytes(data), self.arch)

    def to_bytes(self) -> bytes:
        """The record as stored in the dump."""
        return self._data

    def to_dict(self) -> dict[str, Any]:
        """`arch`, `parts` and `registers` (all of them, by name) as a dict for JSON."""
        return {"arch": self.arch, "parts": list(self.parts), "registers": dict(self)}

    def _canonical(self, name: str) -> str:
        """The name in the table for a name or alias; KeyError if there is none."""
        layout = self._layout
        if name in layout.registers:
            return name
        return layout.aliases.get(name) or layout.generic[name]

    def __getitem__(self, name: str) -> int:
        offset, size = self._layout.registers[self._canonical(name)]
        return int.from_bytes(self._data[offset : offset + size], "little")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            try:
                return self[name]
            except KeyError:
                group = self._layout.groups.get(name)
                if group is not None:
                    return tuple(self[member] for member in group)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Context cannot be changed; use replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Context cannot be changed; use replace()")

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.registers)

    def __len__(self) -> int:
        return len(self._layout.registers)

    def __contains__(self, name: object) -> bool:
        layout = self._layout
        return name in layout.registers or name in layout.aliases or name in layout.generic

    def __dir__(self) -> list[str]:
        layout = self._layout
        return [*super().__dir__(), *layout.registers, *layout.aliases, *layout.groups]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Context):
            return NotImplemented
        return self.arch == other.arch and self._data == other._data

    def __hash__(self) -> int:
        return hash((self.arch, self._data))

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[bytes, str]]:
        return type(self), (self._data, self.arch)

    def __repr__(self) -> str:
        ip, sp = self._layout.generic["ip"], self._layout.generic["sp"]
        return f"<Context {self.arch} {ip}={self.ip:#x} {sp}={self.sp:#x} {'|'.join(self.parts)}>"

    def __str__(self) -> str:
        return _VIEWS[self.arch](self)


def _head(data: bytes | bytearray | memoryview, size: int) -> bytes:
    return bytes(memoryview(data).cast("B")[:size])


def _is_context(data: bytes, layout: Layout) -> bool:
    if len(data) < layout.size:
        return False
    offset, size = layout.registers["context_flags"]
    flags = int.from_bytes(data[offset : offset + size], "little")
    # One machine bit and no other: the filler "PAGE" has those of x86 and ARM64, among more.
    return flags & _MACHINE_BITS == layout.flag


def _cell(ctx: Context, name: str, digits: int, width: int = 0) -> str:
    """One register as WinDbg prints it, `?` for what the record does not cover."""
    value = f"{ctx[name]:0{digits}x}" if ctx.valid(name) else "?" * digits
    return f"{name:>{width}}={value}"


def _rows(ctx: Context, names: tuple[str, ...], digits: int, width: int, columns: int) -> list[str]:
    cells = [_cell(ctx, name, digits, width) for name in names]
    return [" ".join(cells[i : i + columns]) for i in range(0, len(cells), columns)]


# EFLAGS in the order and words of the debugger: bit, set, clear (Intel SDM volume 1, 3.4.3).
_EFLAGS = (
    (20, "vip", "   "),
    (19, "vif", "   "),
    (11, "ov", "nv"),
    (10, "dn", "up"),
    (9, "ei", "di"),
    (7, "ng", "pl"),
    (6, "zr", "nz"),
    (4, "ac", "na"),
    (2, "pe", "po"),
    (0, "cy", "nc"),
)


def _flags_text(ctx: Context) -> str:
    if not ctx.valid("eflags"):
        return "iopl=?"
    flags = ctx["eflags"]
    letters = " ".join(on if flags >> bit & 1 else off for bit, on, off in _EFLAGS)
    return f"iopl={flags >> 12 & 3} {letters}"


def _segments_text(ctx: Context) -> str:
    cells = "  ".join(_cell(ctx, name, 4) for name in ("cs", "ss", "ds", "es", "fs", "gs"))
    efl = f"{ctx['eflags']:08x}" if ctx.valid("eflags") else "?" * 8
    return f"{cells}             efl={efl}"


def _view_x64(ctx: Context) -> str:
    first = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rip", "rsp", "rbp")
    order = (*first, *(f"r{i}" for i in range(8, 16)))
    lines = _rows(ctx, order, 16, 3, 3)
    return "\n".join([*lines, _flags_text(ctx), _segments_text(ctx)])


def _view_x86(ctx: Context) -> str:
    first, second = _rows(ctx, ("eax", "ebx", "ecx", "edx", "esi", "edi", "eip", "esp", "ebp"), 8, 3, 6)
    return "\n".join([first, f"{second} {_flags_text(ctx)}", _segments_text(ctx)])


def _view_arm64(ctx: Context) -> str:
    order = (*(f"x{i}" for i in range(29)), "fp", "lr", "sp")
    lines = _rows(ctx, order, 16, 4, 4)
    cpsr = ctx["cpsr"]
    letters = "".join(
        letter if cpsr >> bit & 1 else "-" for letter, bit in (("N", 31), ("Z", 30), ("C", 29), ("V", 28))
    )
    last = f"{_cell(ctx, 'pc', 16, 4)} {_cell(ctx, 'cpsr', 8)} {letters} EL{cpsr >> 2 & 3}"
    return "\n".join([*lines, last])


_VIEWS: dict[str, Callable[[Context], str]] = {"x64": _view_x64, "x86": _view_x86, "arm64": _view_arm64}


@dataclass(frozen=True, slots=True)
class ExceptionRecord:
    """An EXCEPTION_RECORD: the exception's `code` (an NTSTATUS), where it happened, and its parameters.

    After a bug check this is often only the breakpoint (0x80000003) inside the bug check routine; the
    exception that led there is then found through the bug check's parameters.
    """

    code: int
    flags: int
    record: int | None
    address: int
    parameters: tuple[int, ...]

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, pointer_size: int) -> Self | None:
        """Decode a record of a 64-bit (`pointer_size` 8: 0x98 bytes) or 32-bit (4: 0x50 bytes) dump.

        None if there is none: too few bytes, filler, or all zero. `record` is the address of the chained
        record or None. Only the parameters that the record counts are kept, at most 15. ValueError for
        another pointer size.
        """
        if pointer_size not in (4, 8):
            raise ValueError(f"pointer size is 4 or 8, not {pointer_size}")
        parameters_at = 0x20 if pointer_size == 8 else 0x14
        size = parameters_at + _MAX_PARAMETERS * pointer_size
        raw = _head(data, size)
        if len(raw) < size:
            return None

        def pointer(offset: int) -> int:
            return int.from_bytes(raw[offset : offset + pointer_size], "little")

        def u32(offset: int) -> int:
            return int.from_bytes(raw[offset : offset + 4], "little")

        code = u32(0)
        if code == _FILLER or not any(raw):
            return None
        count = u32(8 + 2 * pointer_size)
        if count == _FILLER:
            count = 0
        chained = pointer(8)
        filler_pointer = _FILLER << 32 | _FILLER if pointer_size == 8 else _FILLER
        return cls(
            code=code,
            flags=u32(4),
            record=None if chained in (0, filler_pointer) else chained,
            address=pointer(8 + pointer_size),
            parameters=tuple(
                pointer(parameters_at + i * pointer_size) for i in range(min(count, _MAX_PARAMETERS))
            ),
        )

    @property
    def code_name(self) -> str | None:
        """The name of the code, e.g. "STATUS_ACCESS_VIOLATION", or None if unknown."""
        return ntstatus.name(self.code)

    @property
    def noncontinuable(self) -> bool:
        """True if execution cannot go on after this exception (EXCEPTION_NONCONTINUABLE)."""
        return bool(self.flags & 1)

    def __str__(self) -> str:
        words = [f"0x{self.code:08X}"]
        if self.code_name:
            words.append(self.code_name)
        words.append(f"at {self.address:#x}")
        # Access violation and in-page error: parameter 0 is the access, parameter 1 the address.
        if self.code in (0xC0000005, 0xC0000006) and len(self.parameters) >= 2:
            access = {0: "read", 1: "write", 8: "execute"}.get(self.parameters[0], "access")
            words.append(f"({access} of {self.parameters[1]:#x})")
        return " ".join(words)

    def __repr__(self) -> str:
        return f"<ExceptionRecord {self}>"

    def to_dict(self) -> dict[str, Any]:
        """All fields, with `code_name` and `noncontinuable`, as a dict for JSON."""
        return {
            "code": self.code,
            "code_name": self.code_name,
            "flags": self.flags,
            "noncontinuable": self.noncontinuable,
            "record": self.record,
            "address": self.address,
            "parameters": list(self.parameters),
        }
