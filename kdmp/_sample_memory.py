"""Physical memory and x64 page tables under construction, for the sample dump.

SPDX-License-Identifier: MIT
"""

import struct

# Page-table entries: present, writable, accessed, dirty and so on, with software bits that
# Windows keeps above the frame number (x64-PTE, _MMPTE_HARDWARE).
_SOFT = 0x0A << 56
NX = 1 << 63
KERNEL_TABLE = _SOFT | 0x863
USER_TABLE = _SOFT | 0x867
KERNEL_DATA = NX | _SOFT | 0x963
KERNEL_CODE = _SOFT | 0x121
USER_DATA = NX | _SOFT | 0x867
USER_READ_ONLY = NX | _SOFT | 0x025
LARGE = 0x80
LARGE_PAT = 0x1000
_FRAME = 0x000FFFFFFFFFF000


class Memory:
    """Physical memory and page tables under construction."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self._next = 0x1AE

    def frame(self) -> int:
        """Return a fresh zeroed frame; some numbers are left out, as firmware does."""
        while self._next % 0x40 == 0x3F:
            self._next += 1
        if self._next >= 0x400:
            raise AssertionError("the sample's low memory is full")
        return self.frames(self._next, 1)

    def frames(self, pfn: int, count: int) -> int:
        """Make these frames exist and return the first one's number."""
        for k in range(pfn, pfn + count):
            if k in self.pages:
                raise AssertionError(f"frame {k:#x} is taken")
            self.pages[k] = bytearray(0x1000)
        self._next = max(self._next, pfn + count) if pfn + count <= 0x400 else self._next
        return pfn

    def entry(self, root: int, va: int, level: int = 1) -> tuple[int, int]:
        """Return (frame, offset) of the entry for `va` at `level`, making the tables above it."""
        table = root
        flags = USER_TABLE if va < 1 << 47 else KERNEL_TABLE
        for above in range(4, level, -1):
            at = self._index(va, above)
            (value,) = struct.unpack_from("<Q", self.pages[table], at)
            if not value & 1:
                value = self.frame() << 12 | flags
                struct.pack_into("<Q", self.pages[table], at, value)
            table = (value & _FRAME) >> 12
        return table, self._index(va, level)

    def set_entry(self, root: int, va: int, value: int, level: int = 1) -> None:
        """Store the entry for `va` at `level`."""
        table, at = self.entry(root, va, level)
        struct.pack_into("<Q", self.pages[table], at, value)

    def map(self, root: int, va: int, flags: int, count: int = 1) -> None:
        """Map fresh frames at `va` and the following pages."""
        for k in range(count):
            self.set_entry(root, va + 0x1000 * k, self.frame() << 12 | flags)

    def write(self, root: int, va: int, data: bytes) -> None:
        """Write to mapped virtual memory."""
        while data:
            pa = self.physical(root, va)
            here = min(len(data), 0x1000 - (pa & 0xFFF))
            self.pages[pa >> 12][pa & 0xFFF : (pa & 0xFFF) + here] = data[:here]
            data, va = data[here:], va + here

    def physical(self, root: int, va: int) -> int:
        """Return the physical address behind `va`."""
        table = root
        for level in range(4, 0, -1):
            (value,) = struct.unpack_from("<Q", self.pages[table], self._index(va, level))
            if not value & 1:
                raise AssertionError(f"{va:#x} is not mapped")
            if level == 1 or (level < 4 and value & LARGE):
                inside = (1 << 12 + 9 * (level - 1)) - 1
                return int(value & _FRAME & ~inside | va & inside)
            table = (value & _FRAME) >> 12
        raise AssertionError("unreachable")

    def runs(self) -> tuple[tuple[int, int], ...]:
        """Return the existing frames as (first, count)."""
        found: list[list[int]] = []
        for pfn in sorted(self.pages):
            if found and sum(found[-1]) == pfn:
                found[-1][1] += 1
            else:
                found.append([pfn, 1])
        return tuple((first, count) for first, count in found)

    @staticmethod
    def _index(va: int, level: int) -> int:
        return (va >> 12 + 9 * (level - 1) & 0x1FF) * 8


class Pool:
    """A bump allocator in the kernel's address space."""

    def __init__(self, memory: Memory, root: int, base: int, pages: int) -> None:
        self._memory, self._root = memory, root
        self._next = base + 0x40
        memory.map(root, base, KERNEL_DATA, pages)

    def reserve(self, size: int) -> int:
        """Return the address of `size` zero bytes."""
        at = self._next
        self._next += (size + 0x1F) & ~0xF
        return at

    def put(self, data: bytes) -> int:
        """Return the address of a copy of `data`."""
        at = self.reserve(len(data))
        self._memory.write(self._root, at, data)
        return at
