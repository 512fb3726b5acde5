"""Slow page walkers for x86 without and with PAE, LA57 and ARM64: the oracle of test_walkers.py.

Written from the tables of the architecture manuals and of Windows' software PTEs, never from kdmp's
code: one class per mode that answers one question at a time about one entry, over a dict of frames.
The results are refreader.Walk objects, so that agree.py can compare them.

SPDX-License-Identifier: MIT
"""

from refreader import (
    ADDRESS_END,
    BAD_ENTRY,
    NON_CANONICAL,
    NOT_IN_DUMP,
    NOT_PRESENT,
    OK,
    PAGE,
    TRUNCATED,
    Walk,
    gaps_of,
)


def bit(value, number):
    return value >> number & 1 == 1


def bits(value, low, high):
    """The number in bits `low` to `high`, inclusive."""
    return value >> low & (1 << high - low + 1) - 1


def keep(value, low, high):
    """Those bits where they are, all others 0."""
    return bits(value, low, high) << low


class Frames:
    """Frames by number; `lost` ones are described by the dump but beyond its end."""

    def __init__(self, pages, lost=()):
        self.pages, self.lost = {pfn: bytes(page) for pfn, page in pages.items()}, frozenset(lost)
        self.pfn_end = max(self.pages) + 1

    def status(self, pfn):
        if pfn in self.lost:
            return TRUNCATED
        return OK if pfn in self.pages else NOT_IN_DUMP


class Walker:
    """What all modes share: the way down. Subclasses know the entries."""

    entry_bytes = 8
    last = (1 << 64) - 1
    shifts = ()  # by level - 1
    top_bits = 9  # bits of the root's index
    paging = ""

    def __init__(self, frames, root, mask=None):
        self.frames, self.root, self.mask = frames, root, mask

    @property
    def levels(self):
        return len(self.shifts)

    def page_size(self, level):
        return 1 << self.shifts[level - 1]

    def index(self, va, level):
        if level == self.levels:
            return bits(va, self.shifts[-1], self.shifts[-1] + self.top_bits - 1)
        return bits(va, self.shifts[level - 1], self.shifts[level] - 1)

    def possible(self, va):
        return True

    def first_table(self):
        raise NotImplementedError

    def kind(self, value, level, va):
        """Whether a valid entry is a "table", a "page" or "bad"; or that it is "invalid"."""
        raise NotImplementedError

    def table(self, value, level):
        """Physical address of the table that a valid entry leads to."""
        raise NotImplementedError

    def page(self, value, level):
        """Physical address of the page that a valid entry maps."""
        raise NotImplementedError

    def state(self, value, level):
        """What Windows means by an invalid entry."""
        raise NotImplementedError

    def paged_out(self, value):
        """(number of the page file, number of the page in it)."""
        raise NotImplementedError

    def transition(self, value):
        """(frame's address, whether that is certain, whether swizzle bits were taken away)."""
        raise NotImplementedError

    def protection(self, value):
        raise NotImplementedError

    def leaf_flags(self, out, value, level):
        raise NotImplementedError

    def upper(self, value, level, va, right):
        """Whether an upper-level entry leaves a right ("write", "user", "execute", "kernel") alone."""
        raise NotImplementedError

    def walk(self, va):
        out = Walk(va)
        out.kernel_executable = False
        if va > self.last or not self.possible(va):
            out.status = NON_CANONICAL
            return out
        above = []
        table = self.first_table()
        for level in range(self.levels, 0, -1):
            out.level, out.page_size = level, self.page_size(level)
            where = table + self.entry_bytes * self.index(va, level)
            out.status = self.frames.status(where >> 12)
            if out.status != OK:
                out.pa = where
                return out
            at = where % PAGE
            value = int.from_bytes(self.frames.pages[where >> 12][at : at + self.entry_bytes], "little")
            out.entries.append((level, where, value))
            kind = self.kind(value, level, va)
            if kind == "bad":
                out.status, out.state = BAD_ENTRY, "bad"
                return out
            if kind == "page":
                out.state = "valid"
                out.pa = self.page(value, level) + va % out.page_size
                self.leaf_flags(out, value, level)
                self.allow(out, above)
                return out
            if kind == "table":
                above.append((value, level))
                table = self.table(value, level)
                continue
            state = self.state(value, level)
            if state != "transition":
                out.status, out.state = NOT_PRESENT, state
                if state == "pagefile":
                    out.pagefile, out.pagefile_page = self.paged_out(value)
                return out
            table, certain, changed = self.transition(value)
            out.unswizzled |= changed
            if level == 1:
                out.pa, out.state = table + va % PAGE, state
                if not certain:
                    out.status = NOT_IN_DUMP
                    return out
                self.soft_rights(out, value)
                self.allow(out, above)
                return out
        raise AssertionError("a leaf table led to another table")

    def allow(self, out, above):
        """Take away what the levels above forbid."""
        for value, level in above:
            if not self.upper(value, level, out.va, "write"):
                out.writable = out.hardware_writable = False
            if not self.upper(value, level, out.va, "user"):
                out.user = False
            if not self.upper(value, level, out.va, "execute"):
                out.executable = False
            if not self.upper(value, level, out.va, "kernel"):
                out.kernel_executable = False

    def soft_rights(self, out, value):
        out.protection = self.protection(value)
        base = out.protection % 8
        out.writable = base in (4, 5, 6, 7)
        out.copy_on_write = base in (5, 7)
        out.executable = out.kernel_executable = base in (2, 3, 6, 7)
        out.user = True  # as far as the levels above allow

    def byte(self, va):
        """(value, None) or (None, status)."""
        walk = self.walk(va)
        status = walk.status
        if status == OK:
            status = self.frames.status(walk.pa >> 12)
        if status != OK:
            return None, status
        return self.frames.pages[walk.pa >> 12][walk.pa % PAGE], None

    def read(self, va, size):
        """(bytes up to the first hole, None or the status there)."""
        out, address = bytearray(), va
        while address < va + size:
            _, status = self.byte(address)
            if va <= self.last < address:
                status = ADDRESS_END
            if status is not None:
                return bytes(out), status
            stop = min(va + size, (address // PAGE + 1) * PAGE)
            pa = self.walk(address).pa
            out += self.frames.pages[pa >> 12][pa % PAGE : pa % PAGE + stop - address]
            address = stop
        return bytes(out), None

    def read_gaps(self, va, size, fill=0):
        out, holes = gaps_of(self, va, size, fill)
        return out, [
            (address, length, ADDRESS_END if va <= self.last < address else status)
            for address, length, status in holes
        ]


class IntelWalker(Walker):
    """The leaf bits that x86, PAE and x64 have in common."""

    def leaf_flags(self, out, value, level):
        out.hardware_writable = bit(value, 1)
        out.writable = bit(value, 1) or bit(value, 11)  # Windows' own Write
        out.user = bit(value, 2)
        out.write_through, out.cache_disable = bit(value, 3), bit(value, 4)
        out.accessed, out.dirty, out.global_ = bit(value, 5), bit(value, 6), bit(value, 8)
        out.copy_on_write = bit(value, 9)
        out.pat = bit(value, 7 if level == 1 else 12)
        out.executable = out.kernel_executable = not self.no_execute(value)

    def no_execute(self, value):
        return bit(value, 63)

    def upper(self, value, level, va, right):
        return {"write": bit(value, 1), "user": bit(value, 2)}.get(right, not self.no_execute(value))

    def protection(self, value):
        return bits(value, 5, 9)


class X86Walker(IntelWalker):
    """Two levels of 4-byte entries, 4 MiB pages with PSE-36."""

    paging = "x86"
    entry_bytes = 4
    last = 0xFFFF_FFFF
    shifts = (12, 22)
    top_bits = 10

    def first_table(self):
        return keep(self.root, 12, 31)

    def kind(self, value, level, va):
        if not bit(value, 0):
            return "invalid"
        return "page" if level == 1 or bit(value, 7) else "table"

    def table(self, value, level):
        return keep(value, 12, 31)

    def page(self, value, level):
        if level == 1:
            return keep(value, 12, 31)
        return keep(value, 22, 31) + (bits(value, 13, 20) << 32)

    def no_execute(self, value):
        return False

    def state(self, value, level):
        if value == 0:
            return "zero"
        if bits(value, 12, 31) == 0xFFFFF and (bit(value, 10) or not bit(value, 11)):
            return "vad"  # "look in the VAD"; a transition PTE has a frame there
        if bit(value, 10):
            return "prototype"
        if bit(value, 11):
            return "transition"
        if bits(value, 1, 4) == 0 and bits(value, 12, 31) == 0:
            return "demand_zero"
        return "pagefile"

    def paged_out(self, value):
        return bits(value, 1, 4), bits(value, 12, 31)

    def transition(self, value):
        return keep(value, 12, 31), True, False


class PaeWalker(IntelWalker):
    """Three levels; the root is four PDPTEs, 32-byte aligned, without rights."""

    paging = "pae"
    last = 0xFFFF_FFFF
    shifts = (12, 21, 30)
    top_bits = 2
    frame_bits = (12, 37)  # of a software PTE
    usual_mask = 1 << 45

    def first_table(self):
        return keep(self.root, 5, 31)

    def kind(self, value, level, va):
        if not bit(value, 0):
            return "invalid"
        if level == 3:
            reserved = bit(value, 1) or bit(value, 2) or bits(value, 5, 8) or bit(value, 63)
            return "bad" if reserved else "table"
        return "page" if level == 1 or bit(value, 7) else "table"

    def table(self, value, level):
        return keep(value, 12, 51)

    def page(self, value, level):
        return keep(value, 12 if level == 1 else 21, 51)

    def upper(self, value, level, va, right):
        return level == 3 or super().upper(value, level, va, right)

    def plain(self, value):
        """The entry without the bits that the L1TF mitigation added; the usual one if nobody knows."""
        mask = self.usual_mask if self.mask is None else self.mask
        return value if bit(value, 4) else value & ~mask

    def state(self, value, level):
        if level == 3:
            return "zero" if value == 0 else "bad"
        plain = self.plain(value)
        if plain == 0:
            return "zero"
        if bits(value, 32, 63) == 0xFFFF_FFFF and (bit(value, 10) or not bit(value, 11)):
            return "vad"
        if bit(plain, 10):
            return "prototype"
        if bit(plain, 11):
            return "transition"
        if bits(plain, 32, 63) == 0 and bits(plain, 12, 15) == 0:
            return "demand_zero"
        return "pagefile"

    def paged_out(self, value):
        plain = self.plain(value)
        return bits(plain, 12, 15), bits(plain, 32, 63)

    def transition(self, value):
        stored, plain = keep(value, *self.frame_bits), keep(self.plain(value), *self.frame_bits)
        if bit(value, 4):
            return stored, True, False
        if self.mask is not None:
            return plain, True, plain != stored
        for frame in (stored, plain):
            if self.frames.status(frame >> 12) != NOT_IN_DUMP:
                return frame, True, frame != stored
        if plain >> 12 < self.frames.pfn_end <= stored >> 12:
            return plain, False, True
        return stored, False, False


class X64Walker(PaeWalker):
    """Four levels, canonical addresses."""

    paging = "x64"
    last = (1 << 64) - 1
    shifts = (12, 21, 30, 39)
    top_bits = 9
    frame_bits = (12, 51)

    def possible(self, va):
        width = self.shifts[-1] + 9
        return bits(va, width - 1, 63) in (0, (1 << 65 - width) - 1)

    def first_table(self):
        return keep(self.root, 12, 51)

    def kind(self, value, level, va):
        if not bit(value, 0):
            return "invalid"
        if level == 1:
            return "page"
        if bit(value, 7):
            return "page" if level <= 3 else "bad"
        return "table"

    def page(self, value, level):
        return keep(value, self.shifts[level - 1], 51)

    def upper(self, value, level, va, right):
        if right == "execute" and level == self.levels and not bit(va, 63):
            return True  # KVA shadow's NX in the user half of the root
        return IntelWalker.upper(self, value, level, va, right)

    def state(self, value, level):
        return super().state(value, 1)

    def walk(self, va):
        out = super().walk(va)
        if out.status == OK:
            tops = [value for level, _, value in out.entries if level == self.levels]
            out.nx_ignored = bit(tops[0], 0) and bit(tops[0], 63) and not bit(va, 63)
        return out


class La57Walker(X64Walker):
    """Five levels."""

    paging = "la57"
    shifts = (12, 21, 30, 39, 48)


class Arm64Walker(Walker):
    """4 KiB granule, four levels, one root page for both halves, no SwizzleBit."""

    paging = "arm64"
    shifts = (12, 21, 30, 39)

    def possible(self, va):
        return bits(va, 47, 63) in (0, 0x1FFFF)

    def first_table(self):
        return keep(self.root, 12, 47)

    def kind(self, value, level, va):
        low = bits(value, 0, 1)
        if low in (0b00, 0b10):
            return "invalid"
        if low == 0b11:
            return "page" if level == 1 else "table"
        return "page" if level in (2, 3) else "bad"

    def table(self, value, level):
        return keep(value, 12, 47)

    def page(self, value, level):
        return keep(value, self.shifts[level - 1], 47)

    def leaf_flags(self, out, value, level):
        kernel = bit(out.va, 63)
        out.user = bit(value, 6)
        out.hardware_writable = not bit(value, 7)
        out.writable = not bit(value, 7) or bit(value, 55)
        out.dirty = not bit(value, 7)
        out.accessed = bit(value, 10)
        out.global_ = not bit(value, 11)
        out.copy_on_write = bit(value, 56)
        out.kernel_executable = not bit(value, 53)
        out.executable = not bit(value, 53 if kernel else 54)

    def upper(self, value, level, va, right):
        number = {"kernel": 59, "execute": 59 if bit(va, 63) else 60, "user": 61, "write": 62}[right]
        return not bit(value, number)

    def state(self, value, level):
        if value == 0:
            return "zero"
        if bits(value, 32, 63) == 0xFFFF_FFFF and (bit(value, 10) or not bit(value, 11)):
            return "vad"
        if bit(value, 10):
            return "prototype"
        if bit(value, 11):
            return "transition"
        if bits(value, 6, 9) == 0 and bits(value, 32, 63) == 0:
            return "demand_zero"
        return "pagefile"

    def paged_out(self, value):
        return bits(value, 6, 9), bits(value, 32, 63)

    def transition(self, value):
        return keep(value, 12, 47), True, False

    def protection(self, value):
        return bits(value, 1, 5)


WALKERS = {cls.paging: cls for cls in (X86Walker, PaeWalker, X64Walker, La57Walker, Arm64Walker)}
