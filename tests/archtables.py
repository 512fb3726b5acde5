"""Page tables of every architecture under construction, and small 32-bit, LA57 and ARM64 machines.

    memory = Memory()
    tables = ArchTables(memory, "pae", root=0x1020)
    tables.map(0x8050_0000, 0x20000)
    image = dump32(memory.pages, dtb=0x1020)

SPDX-License-Identifier: MIT
"""

import io
import struct
from dataclasses import dataclass

from dumpbuilder import PAGE, Memory

import kdmp
from kdmp.writer import write_dump

X86, X64, ARM64 = 0x14C, 0x8664, 0xAA64


@dataclass(frozen=True)
class Mode:
    """`shifts` has the lowest VA bit of each level's index, the leaf's first."""

    machine: int
    entry: int  # bytes
    shifts: tuple
    table: int  # flags of an entry that leads to a table
    page: int  # flags of a 4 KiB leaf
    block: int  # flags of a larger one


MODES = {
    "x86": Mode(X86, 4, (12, 22), 0x67, 0x63, 0xE3),
    "pae": Mode(X86, 8, (12, 21, 30), 0x67, 0x63, 0xE3),
    "x64": Mode(X64, 8, (12, 21, 30, 39), 0x67, 0x63, 0xE3),
    "la57": Mode(X64, 8, (12, 21, 30, 39, 48), 0x67, 0x63, 0xE3),
    "arm64": Mode(ARM64, 8, (12, 21, 30, 39), 0x3, 0x703, 0x701),
}
ROOT_ENTRY = 1  # of PAE: a PDPTE has neither rights nor an accessed bit


class ArchTables:
    """Tables of one mode in a Memory, made as they are needed from frame `spare` upwards."""

    def __init__(self, memory, paging, root=0x1000, spare=2):
        self.memory, self.paging, self.root, self.spare = memory, paging, root, spare
        self.mode = MODES[paging]
        memory.page(root >> 12)

    def _where(self, table, va, level):
        shifts = (*self.mode.shifts, 32 if self.mode.machine == X86 else self.mode.shifts[-1] + 9)
        bits = shifts[level] - shifts[level - 1]
        return table + self.mode.entry * (va >> shifts[level - 1] & (1 << bits) - 1)

    def load(self, pa):
        data = self.memory.page(pa >> 12)[pa % PAGE : pa % PAGE + self.mode.entry]
        return int.from_bytes(data, "little")

    def store(self, pa, value):
        page = self.memory.page(pa >> 12)
        page[pa % PAGE : pa % PAGE + self.mode.entry] = value.to_bytes(self.mode.entry, "little")

    def entry(self, va, level=1):
        """Physical address of the entry of `va` at `level`; missing tables above it are made."""
        table = self.root
        for upper in range(len(self.mode.shifts), level, -1):
            where = self._where(table, va, upper)
            value = self.load(where)
            if not value & 1:
                flags = ROOT_ENTRY if (self.paging, upper) == ("pae", 3) else self.mode.table
                value = self.spare * PAGE | flags
                self.memory.page(self.spare)
                self.store(where, value)
                self.spare += 1
            table = value & 0x0000_FFFF_FFFF_F000
        return self._where(table, va, level)

    def raw(self, va, value, level=1):
        """Store `value` as the entry of `va` at `level`."""
        self.store(self.entry(va, level), value)

    def map(self, va, pa, level=1, flags=None):
        """Map the page (of `level`'s size) at `va` to `pa`."""
        usual = self.mode.page if level == 1 else self.mode.block
        self.raw(va, pa | (usual if flags is None else flags), level)


def dump(pages, paging, dtb, kind=1, **header):
    """A dump of the mode's machine that holds `pages`."""
    out = io.BytesIO()
    facts = {"machine_image_type": MODES[paging].machine, "directory_table_base": dtb, **header}
    write_dump(out, kind, {pfn: bytes(page) for pfn, page in sorted(pages.items())}, header=facts)
    return out.getvalue()


def put_number(memory, pa, value, size):
    memory.put(pa, value.to_bytes(size, "little"))


def put_list(memory, pa, va, width):
    """A list head at `pa`, mapped at `va`, with one element 0x40 bytes behind it."""
    for at, value in ((0, va + 0x40), (width, va + 0x40), (0x40, va), (0x40 + width, va)):
        put_number(memory, pa + at, value, width)


def put_kdbg(memory, pa, *, flags=0, size=0x380):
    """The head of a KDDEBUGGER_DATA64: tag, size, and the flags at 0x36."""
    memory.put(pa + 0x10, b"KDBG" + struct.pack("<I", size))
    memory.put(pa + 0x36, struct.pack("<H", flags))


KUSER = {True: 0xFFFF_F780_0000_0000, False: 0xFFDF_0000}


def put_kuser(memory, pa, *, root="C:\\Windows", major=10, minor=0):
    """A KUSER_SHARED_DATA: NtSystemRoot at 0x30, NtMajorVersion at 0x26C, NtMinorVersion at 0x270."""
    memory.put(pa + 0x30, root.encode("utf-16-le") + bytes(2))
    memory.put(pa + 0x26C, struct.pack("<II", major, minor))


def machine(paging, *, kernel_entries=8, root=None, kuser=0x3_0000, self_map=True):
    """Memory with a root that maps itself and KUSER_SHARED_DATA: (memory, tables).

    The kernel's page tables have `kernel_entries` or a few more present entries in the root.
    """
    memory = Memory()
    roots = {"pae": 0x1060, "x86": 0x5000}
    tables = ArchTables(memory, paging, root=roots.get(paging, 0x1000) if root is None else root, spare=0x10)
    wide = MODES[paging].machine != X86
    put_kuser(memory, kuser)
    tables.map(KUSER[wide], kuser)
    top = len(tables.mode.shifts)
    if paging == "pae":
        directories = [tables.entry(gib << 30, 2) & ~0xFFF for gib in range(4)]
        for k, directory in enumerate(directories):
            if self_map:
                tables.store(directories[3] + 8 * k, directory | 0x63)
    else:
        sign = (1 << 64) - (1 << tables.mode.shifts[-1] + 9) if wide else 0
        span = 1 << tables.mode.shifts[-1]
        slot = 0x1ED if wide else 0x300
        # Empty tables make entries.
        for k in range(kernel_entries):
            tables.entry(sign | ((0x180 if wide else 0x200) + k) * span, top - 1)
        if self_map:
            tables.store(tables.root + tables.mode.entry * slot, tables.root | tables.mode.table)
    return memory, tables


def flat(memory, frames=None):
    """A flat image of a Memory's frames from 0 on."""
    count = max(memory.pages) + 1 if frames is None else frames
    return b"".join(bytes(memory.pages.get(pfn, bytes(PAGE))) for pfn in range(count))


def error_of(call, *args, **options):
    """The KdmpError that a call raises; the error of the first missing byte if it read partly."""
    try:
        call(*args, **options)
    except kdmp.PartialReadError as exc:
        return exc.reason
    except kdmp.KdmpError as exc:
        return exc
    raise AssertionError("nothing was raised")
