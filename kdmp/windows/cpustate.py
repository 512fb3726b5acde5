"""What a processor saved in its KPRCB, and the descriptor tables that it leads to.

The registers of the processor that crashed are those of the dump header. Windows saves those of the others
where KPRCB.Context points to; hypervisors and Windows 7 fill the CONTEXT embedded in KPRCB, which counts only
if its instruction pointer is not 0.

SPDX-License-Identifier: MIT
"""

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmp.reader import Reader
    from kdmp.windows.session import Windows

from kdmp._kdmp import KdmpError, UnreadableError, UnsupportedDumpError
from kdmp.context import Context
from kdmp.context_layouts import LAYOUTS
from kdmp.windows.entity import Entity, fact
from kdmp.windows.idt import (
    GdtEntry,
    IdtEntry,
    Pieces,
    decode_gdt,
    decode_idt,
    gdt_entry,
    read_table,
)  # fmt: skip
from kdmp.windows.merge import merged
from kdmp.windows.prcb import Offsets
from kdmp.windows.registers import Registers
from kdmp.windows.special import SpecialRegisters, decode_special, special_size

__all__ = ["KPCR_FIELDS", "SavedState"]

HEADER, SAVED, EMBEDDED = "header", "KPRCB.Context", "ProcessorState.ContextFrame"
_SPECIAL = "KPRCB.ProcessorState.SpecialRegisters"

# KPCR: the same in all kernels of a machine.
KPCR_FIELDS = {
    "x64": {"GdtBase": 0x00, "TssBase": 0x08, "IdtBase": 0x38},
    "x86": {"IdtBase": 0x38, "GdtBase": 0x3C, "TssBase": 0x40},
}


class SavedState(Entity):
    """The saved state of processor `number`, whose KPRCB is at `kprcb`: the base of Cpu.

    `copy` is a triage dump's copy of the KPRCB, read where memory has nothing.
    """

    def __init__(
        self, windows: "Windows", number: int, kprcb: int | None, offsets: Offsets, copy: bytes = b""
    ) -> None:
        super().__init__(windows, kprcb or 0)
        self.number = number
        self.kprcb = kprcb
        self.is_crashing: bool | None = None
        self._offsets = offsets
        self._copy = copy

    # ---- memory ----

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the KPRCB, from memory or a triage dump's copy of it; raises UnreadableError."""
        try:
            if self.kprcb is not None:
                return self.windows.reader.read_exact(self.kprcb + offset, size)
        except (UnreadableError, OverflowError):
            if not self._copy:
                raise
        piece = self._copy[offset : offset + size]
        if len(piece) < size:
            raise UnreadableError(f"the copy of the KPRCB has no byte {offset + size - 1:#x}")
        return piece

    def _number_at(self, member: str, size: int) -> int:
        return int.from_bytes(self.read(self._offsets[member], size), "little")

    def read_pointer(self, offset: int) -> int:
        """Return the pointer at an offset in the KPRCB; raises UnreadableError."""
        return int.from_bytes(self.read(offset, self.windows.pointer_size), "little")

    @cached_property
    def reader(self) -> "Reader":
        """The address space that was active: that of cr3, else the kernel's."""
        windows = self.windows
        root = self.special.cr3 if self.special is not None and windows.dump.triage is None else None
        try:
            return windows.reader if not root else windows.reader.at(root)
        except (KdmpError, OverflowError) as error:
            self.note("reader", error)
            return windows.reader

    # ---- registers ----

    @fact
    def saved_contexts(self) -> tuple[tuple[str, Context], ...] | None:
        """The contexts that the KPRCB leads to, (where, context), the best first; not the header's."""
        found: list[tuple[str, Context]] = []
        size = LAYOUTS[self.windows.dump.arch].size if self.windows.dump.arch in LAYOUTS else 0
        pointer = 0
        try:
            pointer = self.read_pointer(self._offsets["Context"])
            if pointer:
                data = self.windows.reader.read_exact(pointer, size)
                found += self._valid(SAVED, data, pointer)
        except (KdmpError, OverflowError) as error:
            self.note("context", error)
        try:
            at = self._offsets["ContextFrame"]
            if self.kprcb is None or pointer != self.kprcb + at:
                data = self.read(at, size)
                if not found or any(data):
                    found += self._valid(EMBEDDED, data, None)
        except (KdmpError, OverflowError) as error:
            if not found:
                self.note("context", error)
        return tuple(found)

    def _valid(self, where: str, data: bytes, address: int | None) -> list[tuple[str, Context]]:
        """The context, if it is one: flags of this machine, and an instruction pointer that can be."""
        context = Context.from_bytes(data, self.windows.dump.arch)
        if context is not None and context.ip == 0 and where == EMBEDDED:
            return []  # not filled: what Windows 8 and later do
        if context is None or not _possible(context.ip, self.windows):
            if where == SAVED or any(data):
                self.note("context", f"{where} is no CONTEXT of {self.windows.dump.arch}", address)
            return []
        return [(where, context)]

    @cached_property
    def _context(self) -> tuple[str | None, Context | None]:
        header = self.windows.dump.context if self.is_crashing else None
        if header is not None and _possible(header.ip, self.windows):
            return HEADER, header
        if self.saved_contexts:
            return self.saved_contexts[0]
        self.note("context", "no registers of this processor were saved")
        return None, None

    @property
    def context(self) -> Context | None:
        """The processor's registers; of the one that crashed at the time of the crash."""
        return self._context[1]

    @property
    def context_source(self) -> str | None:
        """Where `context` is from: "header", "KPRCB.Context" or "ProcessorState.ContextFrame"."""
        return self._context[0]

    @property
    def ip(self) -> int | None:
        """The instruction pointer."""
        return None if self.context is None else self.context.ip

    @property
    def sp(self) -> int | None:
        """The stack pointer."""
        return None if self.context is None else self.context.sp

    @property
    def symbol(self) -> str | None:
        """The instruction pointer as text: symbol or module and offset."""
        return None if self.ip is None else _name(self.windows, self.ip)

    @fact
    def special(self) -> SpecialRegisters | None:
        """Control and descriptor registers and MSRs, each with its provenance; see SpecialRegisters."""
        arch = self.windows.dump.arch
        size = special_size(arch)
        if size is None:
            raise UnsupportedDumpError(f"the layout of KSPECIAL_REGISTERS of {arch} is not known")
        data = self.read(self._offsets["SpecialRegisters"], size)
        return decode_special(data, arch, _SPECIAL, self._offsets.absent_registers)

    @property
    def cr3(self) -> int | None:
        """The page-table root as stored, with its PCID."""
        value: int | None = self.special["cr3"] if self.special is not None else None
        return value

    @cached_property
    def registers(self) -> Registers:
        """`context` and `special` in one, with the bases of GS and FS and the mode of the code segment."""
        where = f"context ({self.context_source})"
        return merged(self.windows.dump.arch, self.context, where, self.special, self.gdt or [])

    # ---- KPCR and tables ----

    @fact
    def kpcr(self) -> int | None:
        """Address of the KPCR, in which the KPRCB lies."""
        if self.kprcb is None:
            return None
        kpcr = self.kprcb - self._offsets.contained
        if kpcr < 0:
            self.note("kpcr", f"the KPRCB is at {self.kprcb:#x}", self.kprcb)
            return None
        return kpcr

    @fact
    def kpcr_agrees(self) -> bool | None:
        """Whether the kernel's one of MsrGsBase and MsrGsSwap is the KPCR; None if they were not saved."""
        special = self.special
        if self.kpcr is None or special is None or special.arch != "x64":
            return None
        base, swap = special["msr_gs_base"], special["msr_gs_swap"]
        if base is None or swap is None:
            return None
        # The MSRs were saved by kernel code, behind swapgs or just before it: then the base is the user's.
        kernel = base if base >> 47 else swap
        if kernel != self.kpcr:
            self.note("kpcr", f"the kernel's GS base is {kernel:#x}, not {self.kpcr:#x}", self.kpcr)
        return kernel == self.kpcr

    def _kpcr_pointer(self, member: str) -> int | None:
        offset = KPCR_FIELDS.get(self.windows.dump.arch, {}).get(member)
        if offset is None or self.kpcr is None:
            return None
        try:
            return self.windows.pointer(self.kpcr + offset) or None
        except (KdmpError, OverflowError):
            return None

    def _table(self, register: str, member: str, name: str) -> tuple[Pieces, int | None] | None:
        """What there is of a descriptor table, and its limit; None, and a Problem, if it is nowhere."""
        if self.windows.dump.arch not in KPCR_FIELDS:
            raise UnsupportedDumpError(f"{self.windows.dump.arch} has no {name}")
        special = self.special
        base = special[f"{register}_base"] if special is not None else None
        limit = special[f"{register}_limit"] if special is not None else None
        base = base or self._kpcr_pointer(member)
        if base is None:
            self.note(name, f"neither SpecialRegisters nor KPCR says where the {name} is")
            return None
        size = limit + 1 if limit is not None else 0x1000
        pieces = read_table(self.windows.reader, base, size)
        there = sum(len(data) for _, data in pieces)
        if there < min(size, 0x10000):
            self.note(name, f"{there} of its {size} bytes are in the dump", base)
        return (pieces, limit) if pieces else None

    @fact
    def idt(self) -> list[IdtEntry] | None:
        """The gates of the IDT by vector, handlers named; None if nothing of it is in the dump."""
        found = self._table("idtr", "IdtBase", "idt")
        if found is None:
            return None
        arch = self.windows.dump.arch
        return decode_idt(*found, arch, lambda handler: _name(self.windows, handler))

    @fact
    def gdt(self) -> list[GdtEntry] | None:
        """The descriptors of the GDT, without empty ones; None if nothing of it is in the dump."""
        found = self._table("gdtr", "GdtBase", "gdt")
        return None if found is None else decode_gdt(*found, self.windows.dump.arch)

    @fact
    def tss(self) -> int | None:
        """Address of the task state segment: by the GDT's descriptor of TR, else from KPCR."""
        selector = self.special["tr"] if self.special is not None else None
        entry = gdt_entry(self.gdt or [], selector) if selector else None
        if entry is not None and entry.is_tss:
            return entry.base
        return self._kpcr_pointer("TssBase")


def _possible(ip: int, windows: "Windows") -> bool:
    """Whether an instruction pointer can be one: not 0, and canonical."""
    if windows.pointer_size == 4:
        return ip != 0
    bits = 57 if windows.reader.paging == "la57" else 48
    return ip != 0 and ip >> (bits - 1) in (0, (1 << (65 - bits)) - 1)


def _name(windows: "Windows", va: int) -> str | None:
    try:
        return windows.symbolize(va)
    except (KdmpError, OverflowError):
        return None
