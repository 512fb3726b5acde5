"""Entries of handle tables of all eras, and tables of all depths, in made memory.

SPDX-License-Identifier: MIT
"""

import random
import struct
from types import SimpleNamespace

import pytest

import kdmp
from kdmp.windows.handletable import EntryFormat, HandleTable

PAGE = 0x1000


class FakeLayout:
    """A layout with just what handle tables need."""

    def __init__(self, pointer_size=8, shift=None, width=None, attributes=None):
        self.pointer_size = pointer_size
        self.bits = {"ObjectPointerBits": (shift, width), "Attributes": (attributes, 3)} if shift else {}

    def has(self, struct_name, field=""):
        return field in self.bits

    def field(self, struct_name, path):
        start, width = self.bits[path]
        return SimpleNamespace(bit_start=start, bit_width=width)

    def size(self, name):
        return 2 * self.pointer_size

    def offset(self, name, field):
        assert (name, field) == ("_HANDLE_TABLE", "TableCode")
        return 8


class FakeMemory:
    """Memory made of pages; what is not there raises."""

    def __init__(self):
        self.pages = {}
        self.reads = 0

    def read_exact(self, va, size):
        self.reads += 1
        page, offset = va & ~0xFFF, va & 0xFFF
        if page not in self.pages or offset + size > PAGE:
            raise kdmp.UnreadableError(f"nothing at {va:#x}")
        return bytes(self.pages[page][offset : offset + size])

    def read_uint(self, va, size):
        return int.from_bytes(self.read_exact(va, size), "little")


BASE = 0xFFFF800000000000
SEVEN = FakeLayout()
EIGHT = FakeLayout(shift=23, width=41, attributes=20)
TEN = FakeLayout(shift=20, width=44, attributes=17)
X86 = FakeLayout(pointer_size=4)


def table(layout, code, pages, base=BASE):
    memory = FakeMemory()
    memory.pages = {base: bytearray(PAGE)} | pages
    struct.pack_into("<Q" if layout.pointer_size == 8 else "<I", memory.pages[base], 8, code)
    windows = SimpleNamespace(layout=layout, reader=memory, pointer_size=layout.pointer_size)
    return HandleTable(windows, base), memory


def entries(layout, values):
    """A page of entries from {number: (low, high)}."""
    page, size = bytearray(PAGE), 2 * layout.pointer_size
    for number, pair in values.items():
        struct.pack_into("<QQ" if size == 16 else "<II", page, number * size, *pair)
    return page


@pytest.mark.parametrize("header", [0xFFFFF8A000001230, 0xFFFFFA8010005890])
def test_decoding_by_era(header):
    """The formulas of windows-objects.md section 9."""
    for low, layout in (
        (header | 1 | 2, SEVEN),
        ((header >> 4 << 23 | 2 << 20 | 5) & (1 << 64) - 1, EIGHT),
        ((header >> 4 << 20 | 2 << 17 | 5) & (1 << 64) - 1, TEN),
    ):
        page = entries(layout, {3: (low, 0x1F0003)})
        format = EntryFormat(layout)
        entry = format.entry(page, 3, 12, BASE)
        assert (entry.object, entry.access, entry.attributes) == (header, 0x1F0003, 2)
        assert format.used(bytes(page)) == [(3, header)]
    # The formulas, word by word.
    low = 0xE010005890123456
    signed = low - (1 << 64) if low >> 63 else low
    assert EntryFormat(EIGHT).object(low) == (signed >> 19 & ~0xF) & (1 << 64) - 1
    assert EntryFormat(TEN).object(low) == 0xFFFF000000000000 | (low >> 16 & 0xFFFFFFFFFFFF & ~0xF)


def test_32_bits():
    page = entries(X86, {1: (0x85001233, 0x2100003)})
    entry = EntryFormat(X86).entry(page, 1, 4, 0x8000)
    assert (entry.object, entry.access, entry.attributes) == (0x85001230, 0x100003, 3)
    made, _ = table(X86, 0x80001000, {0x80001000: page}, base=0x80000000)
    assert [e.handle for e in made.entries()] == [4]
    # A second page begins with handle 0x800: 512 entries of 8 bytes.
    top = bytearray(struct.pack("<II", 0x80001000, 0x80002000)).ljust(PAGE, b"\0")
    pages = {0x80001000: page, 0x80002000: page, 0x80003000: top}
    made, _ = table(X86, 0x80003001, pages, base=0x80000000)
    assert [e.handle for e in made.entries()] == [4, 0x804]


def pointers(*values):
    return bytearray(struct.pack(f"<{len(values)}Q", *values).ljust(PAGE, b"\0"))


def test_three_levels():
    leaf = entries(SEVEN, {0: (BASE, 0), 5: (BASE + 0x100, 1)})
    pages = {
        BASE + 0x1000: pointers(BASE + 0x2000, 0, BASE + 0x3000),
        BASE + 0x2000: pointers(0, BASE + 0x4000),
        BASE + 0x3000: pointers(BASE + 0x5000),
        BASE + 0x4000: leaf,
        BASE + 0x5000: leaf,
    }
    made, _ = table(SEVEN, BASE + 0x1000 | 2, pages)
    assert made.level == 2
    # The first entry of a page is not a handle.
    first = 4 * (256 * 1 + 5)
    second = 4 * (256 * 512 * 2 + 5)
    assert [(e.handle, e.address) for e in made.entries()] == [
        (first, BASE + 0x4050),
        (second, BASE + 0x5050),
    ]
    assert made.problems == []
    assert made.find(second).object == BASE + 0x100
    assert made.find(second + 4) is None
    assert made.find(second - 20) is None
    assert made.find(1 << 40) is None


def test_pages_are_lost_and_repeated():
    leaf = entries(SEVEN, {1: (BASE + 0x100, 1)})
    top = pointers(BASE + 0x2000, BASE + 0x2000, BASE + 0x9000, 0x10, BASE + 1)
    made, _ = table(SEVEN, BASE + 0x1000 | 1, {BASE + 0x1000: top, BASE + 0x2000: leaf})
    assert [handle for handle, _ in made.objects()] == [4]
    said = " ".join(problem.why for problem in made.problems)
    assert made.lost == 4
    assert "there twice" in said
    assert "the entries of 0x800 to 0xbfc are lost" in said
    assert "no address" in said


def test_hostile_trees_end():
    """Every page of the tree full of pointers to the same few pages."""
    dice = random.Random(1)
    places = [BASE + 0x1000 * (n + 1) for n in range(20)]
    pages = {at: pointers(*(dice.choice(places) for _ in range(512))) for at in places}
    made, memory = table(SEVEN, places[0] | 2, pages)
    list(made.entries())
    assert memory.reads < 100
    assert made.lost > len(made.problems)
    assert len(made.problems) <= 16
