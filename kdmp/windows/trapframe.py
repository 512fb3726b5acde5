"""KTRAP_FRAME: the registers that an interrupt, exception or system call left on the kernel stack.

Which of them were stored depends on the kind of frame; what was not is None, never what happens to lie there.
On x64 KiSystemServiceUser stores the nonvolatile rbx, rsi and rdi, but the volatile registers only while the
thread is debugged; interrupts and exceptions store the volatile ones, and leave the others to
KEXCEPTION_FRAME. On x86 all are stored.

SPDX-License-Identifier: MIT
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmp.reader import Reader
    from kdmp.symbols.structs import Layout
    from kdmp.windows.session import Windows

from kdmp.symbols.errors import TypeNotFoundError
from kdmp.windows.registers import Registers

__all__ = ["TrapFrame", "decode_trap_frame", "trap_frame"]

_X64 = {
    "rip": "Rip", "rsp": "Rsp", "rbp": "Rbp", "eflags": "EFlags", "cs": "SegCs", "ss": "SegSs",
    "rax": "Rax", "rcx": "Rcx", "rdx": "Rdx", "r8": "R8", "r9": "R9", "r10": "R10", "r11": "R11",
    "rbx": "Rbx", "rsi": "Rsi", "rdi": "Rdi", "mxcsr": "MxCsr",
    "error_code": "ErrorCode", "fault_address": "FaultAddress",
}  # fmt: skip
_X86 = {
    "eip": "Eip", "esp": "HardwareEsp", "ebp": "Ebp", "eflags": "EFlags", "cs": "SegCs",
    "ss": "HardwareSegSs", "eax": "Eax", "ecx": "Ecx", "edx": "Edx", "ebx": "Ebx", "esi": "Esi", "edi": "Edi",
    "ds": "SegDs", "es": "SegEs", "fs": "SegFs", "gs": "SegGs", "error_code": "ErrCode",
}  # fmt: skip
_FIELDS = {"x64": _X64, "x86": _X86}
_SELECTORS = frozenset({"cs", "ss", "ds", "es", "fs", "gs"})

# _KTRAP_FRAME of x64, the same in all kernels measured (Windows 7 to 11 24H2).
_FIXED_X64 = {
    "PreviousMode": (0x28, 1), "ExceptionActive": (0x2B, 1), "MxCsr": (0x2C, 4),
    "Rax": (0x30, 8), "Rcx": (0x38, 8), "Rdx": (0x40, 8), "R8": (0x48, 8), "R9": (0x50, 8), "R10": (0x58, 8),
    "R11": (0x60, 8), "FaultAddress": (0xD0, 8), "Rbx": (0x140, 8), "Rdi": (0x148, 8), "Rsi": (0x150, 8),
    "Rbp": (0x158, 8), "ErrorCode": (0x160, 8), "Rip": (0x168, 8), "SegCs": (0x170, 2), "EFlags": (0x178, 4),
    "Rsp": (0x180, 8), "SegSs": (0x188, 2),
}  # fmt: skip

# ExceptionActive of x64.
_KINDS = {0: "interrupt", 1: "exception", 2: "service"}
_VOLATILE = frozenset({"rax", "rcx", "rdx", "r8", "r9", "r10", "r11"})
_SERVICE_ONLY = frozenset({"rbx", "rsi", "rdi"})
_EXCEPTION_ONLY = frozenset({"error_code", "fault_address"})

_MAX_SIZE = 0x400


class TrapFrame(Registers):
    """The registers of a KTRAP_FRAME by name (`frame.rip`, `frame.error_code`); None if not stored.

    `address` is the frame's. `kind` is "interrupt", "exception" or "service" (a system call), None if the
    frame does not say (x86) or is damaged. `previous_mode` is "user" or "kernel" by the privilege level of
    `cs`. `raw` has what lies in the places of all registers, whether they were stored or not.

    `fault_address` means something for page faults only; the frame does not say which exception it was.
    """

    def __init__(
        self,
        address: int,
        arch: str,
        values: Mapping[str, tuple[int | None, str]],
        raw: Mapping[str, int],
        kind: str | None,
    ) -> None:
        super().__init__(arch, values)
        self.address = address
        self.raw = dict(raw)
        self.kind = kind

    @property
    def previous_mode(self) -> str | None:
        """Where the processor was: "user" or "kernel"; None without cs."""
        selector = self["cs"]
        return None if selector is None else ("user" if selector & 3 == 3 else "kernel")

    def __repr__(self) -> str:
        name = "rip" if self.arch == "x64" else "eip"
        ip = self[name]
        return f"<TrapFrame at {self.address:#x} {self.kind or '?'} {name}={'?' if ip is None else hex(ip)}>"


def trap_frame(windows: "Windows", address: int, reader: "Reader | None" = None) -> TrapFrame:
    """Return the trap frame at an address of the kernel's space (or `reader`'s).

    Raises UnreadableError if no part of it can be read, SymbolError for machines whose layout is not known
    (ARM64, x86 without symbols).
    """
    layout = windows.layout if windows.has_layout else None
    return decode_trap_frame(reader or windows.reader, address, windows.dump.arch, layout)


def decode_trap_frame(reader: "Reader", address: int, arch: str, layout: "Layout | None" = None) -> TrapFrame:
    """Return the trap frame at `address`; as trap_frame(), by the layout given or the fixed one of x64."""
    places = _places(arch, layout)
    size = min(max(offset + width for offset, width in places.values()), _MAX_SIZE)
    data, gaps = reader.read_gaps(address, size)
    if gaps and gaps[0].address == address and gaps[0].size >= size:
        raise gaps[0].reason
    missing = [(gap.address - address, gap.address - address + gap.size) for gap in gaps]

    def stored(field: str) -> int | None:
        if field not in places:
            return None
        offset, width = places[field]
        if offset + width > size or any(start < offset + width and offset < end for start, end in missing):
            return None
        return int.from_bytes(data[offset : offset + width], "little")

    active = stored("ExceptionActive") if arch == "x64" else None
    kind = None if active is None else _KINDS.get(active)
    raw: dict[str, int] = {}
    values: dict[str, tuple[int | None, str]] = {}
    for name, field in _FIELDS[arch].items():
        value = stored(field)
        if value is None:
            values[name] = None, "not in the dump" if field in places else "this build's frame lacks it"
            continue
        raw[name] = value = value & 0xFFFF if name in _SELECTORS else value
        why = _not_stored(name, kind) if arch == "x64" else None
        values[name] = (value, f"KTRAP_FRAME.{field}") if why is None else (None, why)
    if arch == "x86":
        _fix_x86_stack(values, raw, address, places)
    return TrapFrame(address, arch, values, raw, kind)


def _places(arch: str, layout: "Layout | None") -> dict[str, tuple[int, int]]:
    """Offset and size of each member."""
    if layout is not None and "_KTRAP_FRAME" in layout:
        wanted = ("ExceptionActive", *_FIELDS.get(arch, {}).values())
        fields = [layout.field("_KTRAP_FRAME", name) for name in wanted if layout.has("_KTRAP_FRAME", name)]
        places = {field.path: (field.offset, min(field.size or 8, 8)) for field in fields}
        if arch in _FIELDS and places:
            return places
    if arch == "x64":
        return _FIXED_X64
    raise TypeNotFoundError("_KTRAP_FRAME", None if layout is None else layout.source.pdb)


def _not_stored(name: str, kind: str | None) -> str | None:
    """Why the register was not stored in a frame of x64; None if it was, as far as is known."""
    if name in _VOLATILE and kind not in ("interrupt", "exception"):
        return "a system call does not store it" if kind else "the kind of the frame is not known"
    if name in _SERVICE_ONLY and kind != "service":
        return "only a system call stores it"
    if name in _EXCEPTION_ONLY and kind != "exception":
        return "only an exception stores it"
    return None


def _fix_x86_stack(
    values: dict[str, tuple[int | None, str]],
    raw: Mapping[str, int],
    address: int,
    places: Mapping[str, tuple[int, int]],
) -> None:
    """Without a change of privilege x86 pushes neither esp nor ss: the stack goes on where they would be."""
    selector, eflags = values["cs"][0], values["eflags"][0]
    if selector is None or selector & 3 or (eflags or 0) & 0x20000:  # virtual 8086 mode
        return
    values["ss"] = None, "not pushed: the processor was in kernel mode"
    if "HardwareEsp" in places:
        values["esp"] = address + places["HardwareEsp"][0], "the end of a frame of kernel mode"
