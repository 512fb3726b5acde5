"""A slow and obvious reader of 64-bit physical dumps: the oracle of the tests.

Written from the format and paging references alone, never from kdmp's code. It keeps a dict with one
entry per page, looks at one bit at a time, and copies byte by byte; it is for small dumps.

SPDX-License-Identifier: MIT
"""

import struct
from dataclasses import dataclass, field

import refptes

PAGE = 0x1000
ADDRESS_MASK = 0x000F_FFFF_FFFF_F000
LAST = 1 << 64

PRESENT, WRITE, USER, PWT, PCD, ACCESSED, DIRTY = (1 << bit for bit in range(7))
LARGE = GLOBAL_OR_PAT = 1 << 7
GLOBAL = 1 << 8
COPY_ON_WRITE = 1 << 9
SOFTWARE_WRITE = 1 << 11
LARGE_PAT = 1 << 12
NX = 1 << 63

# Statuses: the words that these tests use for what kdmp says with an exception type.
OK = "ok"
NOT_PRESENT = "not present"
NOT_IN_DUMP = "not in dump"
TRUNCATED = "truncated"
NON_CANONICAL = "non-canonical"
BAD_ENTRY = "bad entry"
ADDRESS_END = "address end"


class RefError(Exception):
    """The reference cannot make sense of the file."""


def u32(data, offset):
    return struct.unpack_from("<I", data, offset)[0]


def u64(data, offset):
    return struct.unpack_from("<Q", data, offset)[0]


class RefDump:
    """Frames of a dump: `offsets` maps each described frame to its file offset, the first one wins."""

    def __init__(self, data):
        self.data = bytes(data)
        self.offsets = {}
        self.claims = 0  # pages that the layout describes, repetitions counted
        if len(self.data) < 0x2000 or self.data[:8] != b"PAGEDU64":
            raise RefError("not a 64-bit dump")
        self.kind = u32(self.data, 0xF98)
        self.dtb = u64(self.data, 0x10)
        if self.data[0x2000:0x2008] in (b"SDMPDUMP", b"FDMPDUMP"):
            if self.kind == 2 and not self._is_new_bitmap():
                self.layout = "summary"
                first, bits = u32(self.data, 0x200C), u32(self.data, 0x2010)
                self._bitmap(0x2028, bits, first)
            else:
                self.layout = "bitmap"
                bits = max(u64(self.data, 0x2028), u64(self.data, 0x2030))
                self._bitmap(0x2038, bits, u64(self.data, 0x2020))
        elif self.data[0x2000:0x200C] == b"\x40\0\0\0RDMPDUMP":
            self.layout = "ranges"
            self._ranges()
        elif self.kind == 3:
            self.layout = "none"
        else:
            self.layout = "runs"
            self._runs()

    def _is_new_bitmap(self):
        # The old layout's numbers stand at +0xC, +0x10 and +0x14, where the new one has nothing.
        return self.data[0x200C:0x2018] == bytes(12)

    def _add(self, pfn, offset):
        self.claims += 1
        self.offsets.setdefault(pfn, offset)

    def _bitmap(self, at, bits, first_page):
        stored = 0
        for pfn in range(bits):
            if self.data[at + pfn // 8] >> pfn % 8 & 1:
                self._add(pfn, first_page + stored * PAGE)
                stored += 1

    def _runs(self):
        table = range(0x98, 0x98 + 16 * u32(self.data, 0x88), 16)
        self._take([struct.unpack_from("<QQ", self.data, at) for at in table], 0x2000)

    def _ranges(self):
        size, first_page = u64(self.data, 0x2010), u64(self.data, 0x2018)
        total = u64(self.data, 0x2028) if self.kind == 0xA else None
        ranges = []
        for k in range((size - 0x10) // 0x10):
            pfn, count = struct.unpack_from("<QQ", self.data, 0x2030 + 16 * k)
            if pfn == 0 or sum(n for _, n in ranges) == total:
                break
            ranges.append((pfn, count))
        self._take(ranges, first_page)

    def _take(self, runs, offset):
        for pfn, count in runs:
            for k in range(count):
                self._add(pfn + k, offset)
                offset += PAGE

    @property
    def pfn_end(self):
        return max(self.offsets, default=-1) + 1

    def status(self, pfn):
        if pfn not in self.offsets:
            return NOT_IN_DUMP
        return OK if self.offsets[pfn] + PAGE <= len(self.data) else TRUNCATED

    def frames(self):
        """The readable frames, sorted."""
        return sorted(pfn for pfn in self.offsets if self.status(pfn) == OK)

    @property
    def truncated(self):
        return sum(self.status(pfn) == TRUNCATED for pfn in self.offsets)

    def page(self, pfn):
        """The 4096 bytes of a readable frame."""
        assert self.status(pfn) == OK, hex(pfn)
        return self.data[self.offsets[pfn] : self.offsets[pfn] + PAGE]


@dataclass
class Walk:
    """What a page walk found. `entries` are (level, physical address, value), root first."""

    va: int
    status: str = OK
    level: int = 0
    pa: int | None = None
    page_size: int | None = None
    state: str | None = None
    entries: list = field(default_factory=list)
    writable: bool = False
    executable: bool = False
    user: bool = False
    hardware_writable: bool = False
    global_: bool = False
    accessed: bool = False
    dirty: bool = False
    copy_on_write: bool = False
    write_through: bool = False
    cache_disable: bool = False
    pat: bool = False
    nx_ignored: bool = False
    unswizzled: bool = False
    protection: int | None = None
    prototype: int | None = None
    prototype_value: int | None = None
    pagefile: int | None = None
    pagefile_page: int | None = None

    def says(self, soft):
        """Take over what an invalid entry says about the page."""
        self.state, self.pagefile, self.pagefile_page = soft.state, soft.pagefile, soft.page


@dataclass
class PrototypePte:
    """A prototype PTE as read through one of the addresses that an entry may mean."""

    address: int
    value: int
    soft: refptes.Soft | None  # None for a valid one
    frame: int | None  # its page's address
    certain: bool
    sensible: bool  # it names a frame of the dump, or says where else the page is


class RefSpace:
    """An x64 address space over a RefDump. `mask` is InvalidPteMask, None if nobody knows it.

    `kernel_root` is a second root to read prototype PTEs by.
    """

    def __init__(self, dump, root, levels=4, mask=None, layout=refptes.X64_NEW, kernel_root=None):
        self.dump, self.root, self.levels, self.mask = dump, root, levels, mask
        self.layout, self.kernel_root = layout, kernel_root

    def canonical(self, va):
        """Whether all bits from the highest translated one upwards are equal."""
        sign = va >> (12 + 9 * self.levels - 1)
        return sign in (0, (1 << (64 - 12 - 9 * self.levels + 1)) - 1)

    def walk(self, va, follow=True):
        """Walk the tables; without `follow` a reference to a prototype PTE is the end."""
        out = Walk(va)
        if not self.canonical(va):
            out.status = NON_CANONICAL
            return out
        uppers = []  # values of the valid upper-level entries
        table = self.root & ADDRESS_MASK
        for level in range(self.levels, 0, -1):
            out.level = level
            shift = 12 + 9 * (level - 1)
            out.page_size = 1 << shift
            entry_pa = table + 8 * (va >> shift & 0x1FF)
            out.status = self.dump.status(table >> 12)
            if out.status != OK:
                out.pa = entry_pa
                return out
            value = u64(self.dump.page(table >> 12), entry_pa % PAGE)
            out.entries.append((level, entry_pa, value))
            if value & PRESENT:
                if level >= 4 and value & LARGE:
                    out.status, out.state = BAD_ENTRY, "bad"
                    return out
                if level == 1 or value & LARGE:
                    return self._valid_leaf(out, uppers, value, level)
                uppers.append((level, value))
                table = value & ADDRESS_MASK
                continue
            soft = refptes.decode(value, self.layout, self.mask)
            if soft.state == "prototype" and level == 1 and follow:
                return self._shared_leaf(out, uppers, value, soft)
            if soft.state != "transition":
                out.status = NOT_PRESENT
                out.says(soft)
                return out
            table, certain, changed = self._transition_frame(value)
            out.unswizzled |= changed
            if level == 1:
                out.pa = table + va % PAGE
                out.status = OK if certain else NOT_IN_DUMP
                return self._transition_leaf(out, uppers, soft)
        raise AssertionError("not reached")

    def _transition_frame(self, value):
        """(physical address, whether it is certain, whether bits were taken away).

        Without a mask, the reading that the dump supports.
        """
        raw = refptes.decode(value, self.layout, 0).frame
        plain = refptes.decode(value, self.layout, self.mask).frame
        if self.mask is not None or not refptes.swizzled(value, self.layout):
            return plain, True, plain != raw
        for frame in (raw, plain):
            if self.dump.status(frame >> 12) != NOT_IN_DUMP:
                return frame, True, frame != raw
        if plain >> 12 < self.dump.pfn_end <= raw >> 12:
            return plain, False, True
        return raw, False, False

    # ---- prototype PTEs ----

    def _shared_leaf(self, out, uppers, value, soft):
        found = self._prototype(value, soft)
        out.protection = soft.protection
        if found is None:
            out.status, out.state = NOT_PRESENT, "prototype"
            return out
        out.prototype, out.prototype_value = found.address, found.value
        if found.frame is None:
            out.status = NOT_PRESENT
            out.says(found.soft)
            return out
        out.pa = found.frame + out.va % PAGE
        if found.soft is not None:
            out.unswizzled |= found.frame != refptes.decode(found.value, self.layout, 0).frame
        if not found.certain:
            out.status, out.state = NOT_IN_DUMP, "transition"
            return out
        out.status, out.state = OK, "prototype"
        writable, executable = self._upper_rights(out, uppers)
        granted = self._shared_rights(soft, found)
        out.writable = writable and granted[0] and not soft.read_only
        out.executable = executable and granted[1]
        out.copy_on_write = granted[2]
        return out

    def _shared_rights(self, soft, found):
        """Rights of the view: those of the entry that points; if it has none, of the prototype PTE."""
        if soft.protection:
            return refptes.rights(soft.protection)
        if found.soft is not None:
            return refptes.rights(found.soft.protection)
        value = found.value
        return bool(value & (WRITE | SOFTWARE_WRITE)), not value & NX, bool(value & COPY_ON_WRITE)

    def _prototype(self, value, soft):
        """The PrototypePte that an entry points to. With an unknown mask it may mean two: no guess."""
        plain = self._read_prototype(soft.address)
        stored = refptes.prototype_address(value, self.layout)
        if refptes.unswizzled(value, self.layout, self.mask) == value:
            return plain
        raw = self._read_prototype(stored)
        if self.mask is not None or plain is None or raw is None:
            return plain or raw
        if plain.sensible == raw.sensible:
            return None
        return plain if plain.sensible else raw

    def _read_prototype(self, address):
        if address is None or address >> 63 == 0 or address % 8:
            return None
        value = self._kernel_word(address)
        if value is None:
            return None
        if value & PRESENT:
            frame = value & ADDRESS_MASK
            return PrototypePte(
                address, value, None, frame, True, self.dump.status(frame >> 12) != NOT_IN_DUMP
            )
        soft = refptes.decode_prototype(value, self.layout, self.mask)
        if soft.state != "transition":
            return PrototypePte(address, value, soft, None, True, soft.state != "zero")
        frame, certain, _ = self._transition_frame(value)
        sensible = certain and self.dump.status(frame >> 12) != NOT_IN_DUMP
        return PrototypePte(address, value, soft, frame, certain, sensible)

    def _kernel_word(self, address):
        """Eight bytes in memory, by this root or the kernel's, without following prototype PTEs again."""
        for root in (self.root, self.kernel_root):
            if root is None:
                continue
            space = RefSpace(self.dump, root, self.levels, self.mask, self.layout)
            walk = space.walk(address, follow=False)
            if walk.status == OK and self.dump.status(walk.pa >> 12) == OK:
                return u64(self.dump.page(walk.pa >> 12), walk.pa % PAGE)
        return None

    # ---- rights ----

    def _upper_rights(self, out, uppers):
        out.user = all(value & USER for _, value in uppers)
        writable = all(value & WRITE for _, value in uppers)
        executable = True
        for level, value in uppers:
            if value & NX:
                if level == self.levels and out.va < 1 << 63:
                    out.nx_ignored = True  # KVA shadow's software SMEP, not a right
                else:
                    executable = False
        return writable, executable

    def _valid_leaf(self, out, uppers, value, level):
        size = 1 << (12 + 9 * (level - 1))
        out.status, out.state, out.page_size = OK, "valid", size
        out.pa = (value & ADDRESS_MASK) // size * size + out.va % size
        writable, executable = self._upper_rights(out, uppers)
        out.hardware_writable = writable and bool(value & WRITE)
        out.writable = writable and bool(value & (WRITE | SOFTWARE_WRITE))
        out.executable = executable and not value & NX
        out.user = out.user and bool(value & USER)
        out.global_ = bool(value & GLOBAL)
        out.accessed = bool(value & ACCESSED)
        out.dirty = bool(value & DIRTY)
        out.copy_on_write = bool(value & COPY_ON_WRITE)
        out.write_through = bool(value & PWT)
        out.cache_disable = bool(value & PCD)
        out.pat = bool(value & (GLOBAL_OR_PAT if level == 1 else LARGE_PAT))
        return out

    def _transition_leaf(self, out, uppers, soft):
        out.state, out.page_size, out.protection = "transition", PAGE, soft.protection
        granted = refptes.rights(soft.protection)
        writable, executable = self._upper_rights(out, uppers)
        out.writable = writable and granted[0]
        out.executable = executable and granted[1]
        out.copy_on_write = granted[2]
        return out

    def byte(self, va):
        """(value, None) or (None, status)."""
        if va >= LAST:
            return None, ADDRESS_END
        walk = self.walk(va)
        if walk.status != OK:
            return None, walk.status
        return physical_byte(self.dump, walk.pa)

    def read(self, va, size):
        """(bytes up to the first hole, None or the status there)."""
        out, page_va, page = bytearray(), None, None
        for address in range(va, va + size):
            if address // PAGE != page_va:  # one walk per 4 KiB, whatever maps it
                page_va, page = address // PAGE, None
                value, status = self.byte(address)
                if value is None:
                    return bytes(out), status
                page = self.dump.page(self.walk(address).pa >> 12)
            out.append(page[address % PAGE])
        return bytes(out), None

    def read_gaps(self, va, size, fill=0):
        """(bytes with holes filled, [(address, size, status)]); one hole per address page and status."""
        return gaps_of(self, va, size, fill)


class RefPhysical:
    """Physical memory of a RefDump."""

    def __init__(self, dump):
        self.dump = dump

    def byte(self, pa):
        if pa >= LAST:
            return None, ADDRESS_END
        return physical_byte(self.dump, pa)

    def read(self, pa, size):
        out = bytearray()
        for address in range(pa, pa + size):
            value, status = self.byte(address)
            if value is None:
                return bytes(out), status
            out.append(value)
        return bytes(out), None

    def read_gaps(self, pa, size, fill=0):
        return gaps_of(self, pa, size, fill)


def physical_byte(dump, pa):
    status = dump.status(pa >> 12)
    if status != OK:
        return None, status
    return dump.data[dump.offsets[pa >> 12] + pa % PAGE], None


def gaps_of(space, va, size, fill):
    out, holes = bytearray(), []
    address = va
    while address < va + size:
        stop = min(va + size, address // PAGE * PAGE + PAGE)
        got, status = space.read(address, stop - address)
        assert status is None or not got, "a hole begins at a page"
        if status is None:
            out += got
        else:
            out += bytes([fill]) * (stop - address)
            holes.append((address, stop - address, status))
        address = stop
    return bytes(out), holes


def merge(holes):
    """Holes as (address, end, status), neighbours of the same status joined."""
    out = []
    for address, size, status in holes:
        if out and out[-1][1] == address and out[-1][2] == status:
            out[-1] = (out[-1][0], address + size, status)
        else:
            out.append((address, address + size, status))
    return out
