"""Dumps with a small PFN database, written from the table of its layouts and not by kdmp's own.

SPDX-License-Identifier: MIT
"""

import struct

from dumpbuilder import BITMAP, PAGE, A, D, Memory, P, Tables, U, W

BASE = 0xFFFF_9000_0000_0000
SELF = 0x1ED
PTES = 0xFFFF_F680_0000_0000  # what slot SELF makes of the page tables
KDBG = 0xFFFF_F800_0010_0000
VARIABLES = 0xFFFF_F800_0010_1000
VA = 0x7FF0_0000_5000

BUILDS = (7601, 9600, 14393, 19041, 22000)
# Where the numbers are in an entry: u1, u2, PteAddress, OriginalPte, ReferenceCount, e1, e3, u4.
OLD = (0x00, 0x08, 0x10, 0x20, 0x18, 0x1A, 0x1B, 0x28)
NEW = (0x00, 0x18, 0x08, 0x10, 0x20, 0x22, 0x23, 0x28)
PROTOTYPE = {7601: 57, 9600: 57, 14393: 57, 19041: 63, 22000: 63}
IDENTITY = {9600: 54, 14393: 54, 19041: 60, 22000: 60}
PARTITION = {14393: 40, 19041: 39, 22000: 43}
FRAME_BITS = {7601: 52, 9600: 36, 14393: 36, 19041: 36, 22000: 40}

ZEROED, FREE, STANDBY, MODIFIED, NO_WRITE, BAD, ACTIVE, TRANSITION = range(8)


def entry(
    build, state, *, u1=0, u2=0, pte=0, original=0, references=0, flags=0, cache=1, e3=0, frame=0,
    prototype=0, identity=0, partition=0,
):  # fmt: skip
    """The 48 bytes of an _MMPFN. `flags`: 1 write in progress, 2 modified, 4 read in progress."""
    where = OLD if build < 10240 else NEW
    data = bytearray(0x30)
    u4 = frame | prototype << PROTOTYPE[build]
    u4 |= identity << IDENTITY.get(build, 0) | partition << PARTITION.get(build, 0)
    for offset, value in zip(where, (u1, u2, pte, original), strict=False):
        struct.pack_into("<Q", data, offset, value)
    struct.pack_into("<HBB", data, where[4], references, state | flags << 3 | cache << 6, e3)
    struct.pack_into("<Q", data, where[7], u4)
    return bytes(data)


class Machine:
    """Memory with a database at BASE, a self map in slot SELF and a user page at VA in frame 0x50.

    The root is in frame 1, its tables follow; the database itself lies in frames from 0x200 on.
    """

    def __init__(self, build=19041, *, self_map=True):
        self.build, self.memory = build, Memory()
        self.tables = Tables(self.memory)
        self.at = {}
        if self_map:
            self.memory.put_u64(0x1000 + 8 * SELF, 0x1000 | P | W | A | D)
        self.tables.map(VA, 0x50000, flags=P | W | U | A)
        self.memory.fill(0x50)
        table, directory, upper = (self.tables.entry(VA, level) >> 12 for level in (1, 2, 3))
        self.frames = (table, directory, upper)
        self.put(1, ACTIVE, pte=pte_of(VA, 5), frame=1, u2=3, references=1)
        self.put(upper, ACTIVE, pte=pte_of(VA, 4), frame=1, u2=1, references=1)
        self.put(directory, ACTIVE, pte=pte_of(VA, 3), frame=upper, u2=1, references=1)
        self.put(table, ACTIVE, pte=pte_of(VA, 2), frame=directory, u2=1, references=1)
        self.put(
            0x50, ACTIVE, pte=pte_of(VA, 1), frame=table, u1=7, u2=1, references=2, original=0x80, flags=2,
            e3=5,
        )  # fmt: skip

    def put(self, pfn, state, **fields):
        """Write the entry of a frame."""
        self.write(BASE + pfn * 0x30, entry(self.build, state, **fields))

    def write(self, va, data):
        """Put bytes at a kernel VA; pages are made as needed."""
        for k, byte in enumerate(data):
            page = va + k & ~0xFFF
            if page not in self.at:
                self.at[page] = 0x200 + len(self.at)
                self.tables.map(page, self.at[page] << 12, flags=P | W | A | D)
            self.memory.page(self.at[page])[(va + k) % PAGE] = byte

    def kdbg(self, *, runs=None, variable=VARIABLES, encoded=False):
        """Make a debugger data block, the variables it names and, of `runs`, the list of RAM."""
        block = bytearray(0x380)
        struct.pack_into("<4sI", block, 0x10, b"\xaa\xbb\xcc\xdd" if encoded else b"KDBG", 0x380)
        struct.pack_into("<Q", block, 0xC0, variable)
        self.write(VARIABLES, struct.pack("<Q", BASE))
        if runs is not None:
            struct.pack_into("<Q", block, 0x270, VARIABLES + 8)
            total = sum(count for _, count in runs)
            listed = b"".join(struct.pack("<QQ", *run) for run in runs)
            self.write(VARIABLES + 8, struct.pack("<Q", VARIABLES + 0x20))
            self.write(VARIABLES + 0x20, struct.pack("<QQ", len(runs), total) + listed)
        self.write(KDBG, block)
        return KDBG

    def dump(self, **header):
        """The image of the dump; the header says BASE unless told otherwise."""
        fields = {"minor_version": self.build, "pfn_database": BASE, **header}
        return self.memory.dump(BITMAP, **fields)


def pte_of(va, level):
    """Address in the self map of the entry of `va`: level 1 is the PTE, 5 the root's own entry."""
    for _ in range(level):
        va = PTES + (va & 0xFFFF_FFFF_FFFF) // 0x1000 * 8
    return va
