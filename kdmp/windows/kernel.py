"""Find the kernel's image in a dump and say which one it is.

Ways, in this order: the debugger data block's KernBase (encoded blocks too), the first entry of the list of
loaded modules (the driver list in a triage dump), and stepping back, at most 32 MiB, from an address inside
the kernel: the entry of system calls, interrupt handlers, the crashing instruction, the header's pointers.
What is found must be a PE image of the right machine whose CodeView record names a kernel; without that
record in memory, one whose export directory does. If the headers themselves are not in the dump, the loader's
entry tells base, size and time stamp.

With the shadow of kernel addresses (KVA shadow) the entry of system calls is another function, but one in the
same image: nothing is subtracted from it here.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader
    from kdmp.windows.kdbg import DebuggerData

from kdmp._kdmp import KdmpError
from kdmp.windows.kdbg import header_block
from kdmp.windows.pe import ImageIdentity, ImageMemory, identify, parse_headers

# The names kernels' PDBs have had, without the ending.
KERNEL_PDBS = frozenset({"ntkrnlmp", "ntoskrnl", "ntkrnlpa", "ntkrpamp", "ntkrla57"})

# How far below an address inside it the kernel's header may be, in bytes.
MAX_BACK = 32 << 20

_EXPORTED_AS = "ntoskrnl.exe"  # of every variant of the kernel
_MAX_PAGES = 1 << 16  # looked at in all scans together
_MAX_EVERYWHERE = 1 << 22  # pages looked at when there is no anchor at all
_MAX_IMAGES = 1 << 14  # ... of which so many may begin as an image does
_IMAGES = 0xFFFFF80000000000  # 64-bit kernels and drivers lie above it
_MACHINES = {"x64": 0x8664, "x86": 0x14C, "arm64": 0xAA64}
_MAX_PROCESSORS = 8  # asked for their saved state
_STACK = 0x400  # bytes of the crashing stack that may hold return addresses
_VECTORS = (0, 3, 13, 14)  # interrupts whose handlers nobody replaces

# Fixed places: KSPECIAL_REGISTERS (Idtr.Base, MsrLStar) and an IDT entry's size, by pointer size.
_IDTR = {8: 0x68, 4: 0x34}
_LSTAR = 0xC0
_GATE = {8: 16, 4: 8}
# KLDR_DATA_TABLE_ENTRY: DllBase, SizeOfImage, BaseDllName, CheckSum, TimeDateStamp (Windows 10 on).
_ENTRY = {8: (0x30, 0x40, 0x58, 0x78, 0x9C), 4: (0x18, 0x20, 0x2C, 0x40, 0x58)}
_FIRST_STAMPED = 10240


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel: its `image`, and `how` it was found.

    "kdbg", "encoded kdbg", "module list", "driver list" (of a triage dump), "system call entry",
    "interrupt handler", "context", "stack", "scan" (down from a pointer in the header), "search" (through all
    that is mapped, in memory without a header), or "module entry": the image's headers are not in the dump,
    and what the list of modules says is all there is.
    """

    image: ImageIdentity
    how: str

    @property
    def base(self) -> int:
        """VA of the image."""
        return self.image.base


def find_kernel(dump: "Dump", *, max_back: int = MAX_BACK) -> Kernel | None:
    """Return the kernel of a dump, None if no way leads to it.

    `max_back` bounds each scan, in bytes. Of a triage dump, whose image pages were not captured, the driver
    list's facts are returned: base, size, time stamp.
    """
    if dump.triage is not None:
        return _from_driver_list(dump)
    try:
        reader = dump.reader(discover=False)  # discovery needs the kernel
    except KdmpError:
        return None
    return _Search(dump, reader, max_back).run()


def _from_driver_list(dump: "Dump") -> Kernel | None:
    drivers = dump.triage.drivers if dump.triage is not None else []
    if not drivers:
        return None
    first = drivers[0]
    return Kernel(
        ImageIdentity(first.base, dump.machine or 0, first.size, first.timestamp, first.checksum),
        "driver list",
    )


def _export_name(reader: "Reader", base: int) -> str | None:
    """The name in the export directory of an image, None if it is not in memory."""
    from kdmp.windows.exports import ExportTable

    try:
        headers = parse_headers(reader.read(base, 0x1000))
        return ExportTable(ImageMemory(reader, base, headers.size), headers.directory(0)).image_name
    except (KdmpError, OverflowError, struct.error):
        return None


class _Search:
    """One search for the kernel."""

    def __init__(self, dump: "Dump", reader: "Reader", max_back: int) -> None:
        self.dump, self.reader, self.max_back = dump, reader, max_back
        self.width = dump.pointer_size
        self.kdbg: DebuggerData | None = header_block(dump, reader)
        self.seen: set[int] = set()  # pages that scans have looked at

    def run(self) -> Kernel | None:
        for base, how in self._named():
            found = self._verified(base, how, sure=True)
            if found is not None:
                return found
        for anchor, how in self._anchors():
            if not self._in_kernel_half(anchor):
                continue
            for base in self._below(anchor):
                found = self._verified(base, how, sure=False)
                if found is not None:
                    return found
        if self.dump.layout == "raw":  # no header, so no anchor
            for base in self._everywhere():
                found = self._verified(base, "search", sure=False)
                if found is not None:
                    return found
        return self._from_module_entry()

    def _verified(self, base: int, how: str, *, sure: bool) -> Kernel | None:
        """The kernel at `base`, None if there is none; what was just met on the way has to prove it."""
        image = identify(self.reader, base)
        if image is None or image.machine != (self.dump.machine or _MACHINES.get(self.dump.arch)):
            return None
        if image.pdb is not None:
            known = image.pdb.rsplit(".", 1)[0].lower() in KERNEL_PDBS
        else:
            name = _export_name(self.reader, base)
            known = sure if name is None else name.lower() == _EXPORTED_AS
        return Kernel(image, how) if known else None

    # ---- addresses of the image ----

    def _named(self) -> Iterator[tuple[int, str]]:
        """What is said to be the kernel's base."""
        if self.kdbg is not None and self.kdbg.KernBase:
            yield self.kdbg.KernBase, "encoded kdbg" if self.kdbg.encoded else "kdbg"
        entry = self._first_module()
        base = self._pointer(entry + _ENTRY[self.width][0]) if entry else None
        if base:
            yield base, "module list"

    def _first_module(self) -> int | None:
        """VA of the loader's entry of the kernel, which is the first."""
        for head in (self.dump.ps_loaded_module_list, self.kdbg and self.kdbg.PsLoadedModuleList):
            entry = self._pointer(head) if head else None
            if entry and entry != head:
                return entry
        return None

    def _pointer(self, va: int) -> int | None:
        try:
            return self.reader.read_uint(va, self.width)
        except (KdmpError, OverflowError):
            return None

    def _in_kernel_half(self, va: int) -> bool:
        return va >> 56 == 0xFF if self.width == 8 else va >> 31 == 1

    # ---- addresses in the image ----

    def _anchors(self) -> Iterator[tuple[int, str]]:
        yield from self._processor_state()
        context = self.dump.context
        if context is not None:
            yield context.ip, "context"
            yield from ((va, "stack") for va in self._return_addresses(context.sp))
        for va in (
            self.dump.ps_active_process_head,
            self.dump.ps_loaded_module_list,
            self.dump.kd_debugger_data_block,
        ):
            if va is not None:
                yield va, "scan"

    def _processor_state(self) -> Iterator[tuple[int, str]]:
        """Where system calls and interrupts go, by the saved registers of the first processors."""
        kdbg = self.kdbg
        if kdbg is None or not kdbg.KiProcessorBlock or not kdbg.PrcbProcStateSpecialReg:
            return
        if self.dump.arch not in ("x64", "x86"):
            return
        tables = set()
        for number in range(min(self.dump.processors or 0, _MAX_PROCESSORS)):
            prcb = self._pointer(kdbg.KiProcessorBlock + number * self.width)
            if not prcb:
                continue
            # The offset counts from the KPRCB; on x86 it is that of ProcessorState.SpecialRegisters, too.
            registers = prcb + kdbg.PrcbProcStateSpecialReg
            entry = self._pointer(registers + _LSTAR) if self.width == 8 else None
            if entry:
                yield entry, "system call entry"
            table = self._pointer(registers + _IDTR[self.width])
            if table:
                tables.add(table)
        for table in sorted(tables):
            for vector in _VECTORS:
                handler = self._gate(table + vector * _GATE[self.width])
                if handler:
                    yield handler, "interrupt handler"

    def _gate(self, va: int) -> int | None:
        """The address in an IDT entry."""
        try:
            data = self.reader.read_exact(va, _GATE[self.width])
        except (KdmpError, OverflowError):
            return None
        low, middle = int.from_bytes(data[:2], "little"), int.from_bytes(data[6:8], "little")
        return low | middle << 16 | int.from_bytes(data[8:12], "little") << 32

    def _return_addresses(self, stack: int) -> list[int]:
        """Values on the stack of the crash that may be code of the kernel."""
        try:
            data = self.reader.read(stack, _STACK)
        except (KdmpError, OverflowError):
            data = b""
        values = (
            int.from_bytes(data[at : at + self.width], "little")
            for at in range(0, len(data) - self.width + 1, self.width)
        )
        return [value for value in values if self._in_kernel_half(value)]

    def _below(self, anchor: int) -> Iterator[int]:
        """Pages that begin as an image does, down from an address; each page is looked at once."""
        page = anchor & ~0xFFF
        floor = max(page - self.max_back, 0)
        try:
            mapped = list(self.reader.mappings(floor, page | 0xFFF))
        except (KdmpError, ValueError, OverflowError):
            return
        for entry in reversed(mapped):
            if entry.state not in ("valid", "transition"):
                continue
            for va in range(min(entry.start + entry.size - 0x1000, page), entry.start - 1, -0x1000):
                if va < floor or va in self.seen:
                    continue
                if len(self.seen) >= _MAX_PAGES:
                    return
                self.seen.add(va)
                if self.reader.try_read_exact(va, 2) == b"MZ":
                    yield va

    def _everywhere(self) -> Iterator[int]:
        """Pages that begin as an image does, in what of the kernel's half can hold images."""
        first = _IMAGES if self.width == 8 else 0x80000000
        looked_at = images = 0
        try:
            for entry in self.reader.mappings(first, half="kernel", states=("valid", "transition")):
                for va in range(entry.start, entry.start + entry.size, 0x1000):
                    if looked_at >= _MAX_EVERYWHERE or images >= _MAX_IMAGES:
                        return
                    looked_at += 1
                    if self.reader.try_read_exact(va, 2) == b"MZ":
                        images += 1
                        yield va
        except (KdmpError, ValueError, OverflowError):
            return

    # ---- without the image ----

    def _from_module_entry(self) -> Kernel | None:
        """What the loader's entry says, if it names the kernel or the debugger data block agrees."""
        entry = self._first_module()
        if not entry:
            return None
        base_at, size_at, name_at, sum_at, stamp_at = _ENTRY[self.width]
        try:
            data = self.reader.read_exact(entry, stamp_at + 4)
        except (KdmpError, OverflowError):
            return None
        base = int.from_bytes(data[base_at : base_at + self.width], "little")
        size, checksum, stamp = (struct.unpack_from("<I", data, at)[0] for at in (size_at, sum_at, stamp_at))
        if not base or base % 0x1000 or not self._in_kernel_half(base):
            return None
        if not (self.kdbg is not None and self.kdbg.KernBase == base) and (
            self._text(data[name_at : name_at + 2 * self.width]).lower() != _EXPORTED_AS
        ):
            return None
        if (self.dump.build or 0) < _FIRST_STAMPED:
            stamp = 0
        return Kernel(ImageIdentity(base, self.dump.machine or 0, size, stamp, checksum), "module entry")

    def _text(self, string: bytes) -> str:
        """The text of a UNICODE_STRING, "" if it cannot be read; at most 64 characters."""
        length = min(int.from_bytes(string[:2], "little"), 128)
        try:
            data = self.reader.read_exact(int.from_bytes(string[self.width :], "little"), length)
        except (KdmpError, OverflowError):
            return ""
        return data.decode("utf-16-le", "replace")
