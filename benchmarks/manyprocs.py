"""A dump with many processes, made of a synthetic machine's: its own, and clones of one of them.

Each clone is an EPROCESS with its object header on a page of its own, mapped into kernel space, with another
id and name. The lists that lead through processes, and the table of ids, lead to it. It has no threads, and
its address space is that of the process it was made of.

    python -m benchmarks.manyprocs FULL.DMP TARGET [COUNT]

SPDX-License-Identifier: MIT
"""

import itertools
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

import kdmp
from kdmp.writer import DumpWriter

PAGE = 0x1000
COUNT = 300
VERSION = 1  # part of file names: raise it when the contents change
FIRST_ID = 0x10000
_HEADER = 0x100  # what comes before an EPROCESS: pool and object headers
_ENTRY = 0x63 | 1 << 63
_LEAF_IDS = 256 * 4  # ids that a leaf of a handle table covers

# Lists through the EPROCESSes, in older or newer builds.
_LISTS = ("ActiveProcessLinks", "SessionProcessLinks", "MmProcessLinks", "Pcb.ProcessListEntry")
_EMPTY_LISTS = ("ThreadListHead", "Pcb.ThreadListHead")
# Where the name could come from otherwise: it would be that of the process the clone was made of.
_NAMES = ("SeAuditProcessCreationInfo", "ImageFilePointer", "Peb")


@dataclass
class Memory:
    """The machine's memory with changes: pages by frame, and the frames that are new."""

    dump: kdmp.Dump
    pages: dict[int, bytearray] = field(default_factory=dict)

    def page(self, pfn: int) -> bytearray:
        """The bytes of a frame, to be changed."""
        if pfn not in self.pages:
            self.pages[pfn] = bytearray(self.dump.phys.read_exact(pfn * PAGE, PAGE))
        return self.pages[pfn]

    def put(self, pa: int, data: bytes | bytearray) -> None:
        """Change memory within a page."""
        self.page(pa // PAGE)[pa % PAGE : pa % PAGE + len(data)] = data


class Cloner:
    """Puts clones of the process `name` into a copy of a dump."""

    def __init__(self, dump: kdmp.Dump, name: str, count: int) -> None:
        self.dump, self.count = dump, count
        self.reader = dump.reader()
        layout, kernel = dump.structure_layout, dump.kernel
        if layout is None or kernel is None:
            raise ValueError("the kernel of this dump is not known")
        self.layout, self.base = layout, kernel.base
        self.memory = Memory(dump)
        self.runs = [(run[0], run[1]) for run in dump.pages.runs()]
        self.next_frame = self.runs[-1][0] + self.runs[-1][1]
        self.template = self._process(name)
        self.first = 0  # address of the first new page

    def run(self) -> None:
        """Make all changes."""
        first_new = self.next_frame
        leaves = -(-4 * self.count // _LEAF_IDS)
        self.first = self._map(self.count + leaves)
        clones = [self.first + k * PAGE + _HEADER for k in range(self.count)]
        for k, clone in enumerate(clones):
            self._clone(clone, FIRST_ID + 4 * k, f"clone{k:03d}.exe")
        for name in _LISTS:
            if self.layout.has("_EPROCESS", name):
                self._link(self.layout.offset("_EPROCESS", name), clones)
        self._enter(clones, self.first + self.count * PAGE)
        self.runs.append((first_new, self.next_frame - first_new))

    def _field(self, name: str) -> int:
        return self.layout.offset("_EPROCESS", name)

    def _process(self, name: str) -> int:
        """Address of the EPROCESS with this short name, from the list of active processes."""
        head = self.base + self.layout.symbol("PsActiveProcessHead")
        links, at = self._field("ActiveProcessLinks"), self.reader.read_u64(head)
        for _ in range(1000):
            if at == head:
                break
            text = self.reader.read(at - links + self._field("ImageFileName"), 15)
            if text.split(b"\0")[0] == name.encode():
                return at - links
            at = self.reader.read_u64(at)
        raise ValueError(f"no process {name} in this dump")

    def _frame(self) -> int:
        pfn, self.next_frame = self.next_frame, self.next_frame + 1
        self.memory.pages[pfn] = bytearray(PAGE)
        return pfn

    def _map(self, count: int) -> int:
        """Map `count` new frames by a new page table next to that of the template; return where."""
        if count > 512:
            raise ValueError("more than one page table")
        directory_entry = self.reader.translate(self.template).entries[2].pa
        start = directory_entry & ~(PAGE - 1)
        directory = self.memory.page(start // PAGE)
        for index in range((directory_entry & (PAGE - 1)) // 8 + 1, 512):
            if not any(directory[8 * index : 8 * index + 8]):
                break
        else:
            raise ValueError("no free entry in the page directory")
        table = self._frame()
        self.memory.put(start + 8 * index, struct.pack("<Q", table * PAGE | 0x63))
        for k in range(count):
            self.memory.put(table * PAGE + 8 * k, struct.pack("<Q", self._frame() * PAGE | _ENTRY))
        self._new = (table + 1, self.template >> 30 << 30 | index << 21)
        return self._new[1]

    def _pa(self, va: int) -> int:
        frame, start = self._new
        if start <= va < start + 512 * PAGE:
            return frame * PAGE + va - start
        return self.reader.translate(va).pa

    def _put(self, va: int, number: int, size: int = 8) -> None:
        self.memory.put(self._pa(va), number.to_bytes(size, "little"))

    def _clone(self, clone: int, pid: int, name: str) -> None:
        size = self.layout.size("_EPROCESS") or 0
        if _HEADER + size > PAGE:
            raise ValueError("an EPROCESS does not fit into a page")
        data = bytearray(self.reader.read_exact(self.template - _HEADER, _HEADER + size))
        for at in range(0, len(data) - 7, 8):  # pointers to the process itself, as of empty lists
            value = int.from_bytes(data[at : at + 8], "little")
            if self.template - _HEADER <= value < self.template + size:
                data[at : at + 8] = (value - self.template + clone).to_bytes(8, "little")
        self.memory.put(self._pa(clone - _HEADER), data)
        self._put(clone + self._field("UniqueProcessId"), pid)
        self.memory.put(self._pa(clone + self._field("ImageFileName")), name.encode().ljust(15, b"\0"))
        for other in _NAMES:
            if self.layout.has("_EPROCESS", other):
                self._put(clone + self._field(other), 0)
        for other in _EMPTY_LISTS:
            if self.layout.has("_EPROCESS", other):
                head = clone + self._field(other)
                self._put(head, head)
                self._put(head + 8, head)

    def _link(self, offset: int, clones: list[int]) -> None:
        """Put the clones into a list behind the template, if the template is in it."""
        before = self.template + offset
        after = self.reader.read_u64(before)
        if self.reader.try_read_exact(after + 8, 8) != struct.pack("<Q", before):
            return
        chain = [before, *(clone + offset for clone in clones), after]
        for one, following in itertools.pairwise(chain):
            self._put(one, following)
            self._put(following + 8, one)

    def _enter(self, clones: list[int], leaf: int) -> None:
        """Give the clones their places in the table of ids, in leaves of their own from `leaf` on."""
        table = self.reader.read_u64(self.base + self.layout.symbol("PspCidTable"))
        code = self.reader.read_u64(table + self.layout.offset("_HANDLE_TABLE", "TableCode"))
        if code & 3 != 1:
            raise ValueError("the table of ids is not of two levels")
        pid = self.reader.read_u64(self.template + self._field("UniqueProcessId"))
        own_leaf = self.reader.read_u64((code & ~3) + pid // _LEAF_IDS * 8)
        own = self.reader.read_exact(own_leaf + pid // 4 % 256 * 16, 16)
        value = int.from_bytes(own[:8], "little")
        # Before Windows 8 the entry is the pointer, with flags in its low bits; since then 44 bits of it.
        plain = value & ~7 == self.template
        for k in range(-(-len(clones) * 4 // _LEAF_IDS)):
            self._put((code & ~3) + (FIRST_ID // _LEAF_IDS + k) * 8, leaf + k * PAGE)
        for k, clone in enumerate(clones):
            delta = clone - self.template
            entry = value + delta if plain else value + (delta >> 4 << 20)
            place = leaf + 16 * k
            self._put(place, entry & (1 << 64) - 1)
            self.memory.put(self._pa(place + 8), own[8:])
        for name in ("NextHandleNeedingPool", "HandleCount"):
            if self.layout.has("_HANDLE_TABLE", name):
                at = table + self.layout.offset("_HANDLE_TABLE", name)
                last = FIRST_ID + -(-len(clones) * 4 // _LEAF_IDS) * _LEAF_IDS
                self._put(at, last if name[0] == "N" else self.reader.read_u32(at) + len(clones), 4)

    def write(self, target: Path) -> None:
        """Write the whole as a full dump."""
        header = {name: value for name, value in self.dump.header.items() if name != "number_of_runs"}
        with DumpWriter(
            target, 1, self.runs, header=header,
            context=self.dump.context_bytes(), exception=self.dump.exception_bytes(),
        ) as writer:  # fmt: skip
            for first, count in self.runs:
                for pfn in range(first, first + count):
                    page = self.memory.pages.get(pfn)
                    writer.write(pfn, page or self.dump.phys.read_exact(pfn * PAGE, PAGE))


def make(source: Path, target: Path, *, name: str = "services.exe", count: int = COUNT) -> None:
    """Write a copy of the full dump `source` with `count` clones of the process `name`."""
    with kdmp.open(source) as dump:
        cloner = Cloner(dump, name, count)
        cloner.run()
        cloner.write(target)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), count=int(sys.argv[3]) if len(sys.argv) > 3 else COUNT)
