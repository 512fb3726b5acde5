"""Handle tables: the table of a process' handles, and PspCidTable, the table of process and thread ids.

A table is a tree of pages, one to three levels deep; the lowest hold the entries. A handle is four times the
number of its entry. Sources of the facts: `windows-objects.md` section 9 and the structures' symbols.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdmp._kdmp import KdmpError
from kdmp.reader import Reader
from kdmp.windows.entity import Problem

if TYPE_CHECKING:
    from kdmp.symbols.structs import Layout
    from kdmp.windows.session import Windows

__all__ = ["HANDLE_STEP", "Entry", "EntryFormat", "HandleTable"]

HANDLE_STEP = 4  # between the handles of neighbouring entries
_PAGE = 0x1000
_LEVELS = 3
# Leaf pages of the largest table: Windows gives a process 2^24 handles at most.
_MAX_LEAVES = 1 << 16
_PROTECT = 1 << 25  # in GrantedAccess, until Windows 7: the handle is protected from closing
_NOTED = 16  # problems of one table


@dataclass(frozen=True, slots=True)
class Entry:
    """A used entry: its `handle`, its own `address`, and `object`: the address of the object's header, in
    PspCidTable of the object itself. `access` is the granted access mask, `attributes` 1 protected from
    closing, 2 inherited, 4 audited."""

    handle: int
    address: int
    object: int
    access: int
    attributes: int


class EntryFormat:
    """How _HANDLE_TABLE_ENTRY keeps the pointer, the attributes and the access in this build.

    `size` is in bytes. Raises SymbolError if the layout does not have it.
    """

    def __init__(self, layout: "Layout") -> None:
        wide = layout.pointer_size == 8
        self.size = layout.size("_HANDLE_TABLE_ENTRY") or 2 * layout.pointer_size
        self._unpack = struct.Struct("<QQ" if wide else "<II")
        if wide and layout.has("_HANDLE_TABLE_ENTRY", "ObjectPointerBits"):
            bits = layout.field("_HANDLE_TABLE_ENTRY", "ObjectPointerBits")
            # The bits lack the lowest 4 of the pointer and the highest, which are all ones in the kernel.
            self._shift = bits.bit_start or 0
            self._ones = (1 << 64) - (1 << (bits.bit_width or 0) + 4)
            self._attributes_at = 17
            if layout.has("_HANDLE_TABLE_ENTRY", "Attributes"):
                self._attributes_at = layout.field("_HANDLE_TABLE_ENTRY", "Attributes").bit_start or 17
            self.object: Callable[[int], int] = self._packed
        else:
            self.object = self._plain
            self._attributes_at = 0

    def _packed(self, low: int) -> int:
        """From Windows 8 on, 64 bits: a bit field."""
        pointer = low >> self._shift << 4
        return pointer | self._ones if pointer else 0

    @staticmethod
    def _plain(low: int) -> int:
        """The pointer with attributes in its low 3 bits."""
        return low & ~7

    def used(self, page: bytes) -> list[tuple[int, int]]:
        """Return (number in the page, address of the object) of the used entries of a leaf page."""
        object_of = self.object
        lows = (low for low, _ in self._unpack.iter_unpack(page[: len(page) // self.size * self.size]))
        # The first entry of every page is the table's own.
        return [(n, where) for n, low in enumerate(lows) if n and (where := object_of(low))]

    def entry(self, page: bytes, number: int, handle: int, address: int) -> Entry:
        """Return an entry of a leaf page, decoded."""
        low, high = self._unpack.unpack_from(page, number * self.size)
        if self._attributes_at:
            attributes = low >> self._attributes_at & 7
            return Entry(handle, address, self.object(low), high & 0x1FFFFFF, attributes)
        attributes = (low & 6) | bool(high & _PROTECT)
        return Entry(handle, address, self.object(low), high & 0xFFFFFFFF & ~_PROTECT, attributes)


class HandleTable:
    """The _HANDLE_TABLE at `address`, read through `memory`.

    Walking it notes what is wrong in `problems`, and how much in `lost`: of the pages of a large table that
    Windows has paged out only the first are told one by one.

    Raises SymbolError if the layout lacks the structure.
    """

    def __init__(self, windows: "Windows", address: int, memory: Reader | None = None) -> None:
        layout = windows.layout
        self.address = address
        self.memory = windows.reader if memory is None else memory
        self.format = EntryFormat(layout)
        self.problems: list[Problem] = []
        self._code_at = address + layout.offset("_HANDLE_TABLE", "TableCode")
        self._width = windows.pointer_size
        self._seen: set[int] = set()
        self.lost = 0

    def note(self, why: str, address: int) -> None:
        """Add to `problems`, at most some of one table."""
        self.lost += 1
        if self.lost <= _NOTED:
            self.problems.append(Problem("handle table", why, address))

    @property
    def code(self) -> int:
        """TableCode: the address of the top page, and the level in the low bits. Raises UnreadableError."""
        return self.memory.read_uint(self._code_at, self._width)

    @property
    def level(self) -> int:
        """How many levels of pointers there are above the entries: 0 to 2 in a table that is whole."""
        return self.code & 7

    def leaves(self) -> Iterator[tuple[int, int]]:
        """Yield (handle of the first entry, address) of the pages of entries; never raises."""
        self._seen.clear()
        try:
            code = self.code
        except (KdmpError, OverflowError) as error:
            return self.note(str(error), self._code_at)
        if code & 7 >= _LEVELS:
            return self.note(f"TableCode {code:#x} names level {code & 7}; there are 3", self._code_at)
        for number, page in self._below(code & ~7, code & 7, 0):
            if len(self._seen) > _MAX_LEAVES:
                return self.note(f"goes on after {_MAX_LEAVES} pages", page)
            yield number * (_PAGE // self.format.size) * HANDLE_STEP, page

    def _below(self, page: int, level: int, number: int) -> Iterator[tuple[int, int]]:
        """Yield (number of the leaf, address) of the leaves below a page of the tree."""
        if page % 16 or page < 0x10000:
            return self.note(f"{page:#x} is no address of a page of entries", page)
        if page in self._seen:
            return self.note(f"the page at {page:#x} is there twice", page)
        self._seen.add(page)
        if level == 0:
            yield number, page
            return
        try:
            data = self.memory.read_exact(page, _PAGE)
        except (KdmpError, OverflowError) as error:
            return self.note(f"a page of pointers is lost: {error}", page)
        count = _PAGE // self._width
        pointers = struct.unpack(f"<{count}{'Q' if self._width == 8 else 'I'}", data)
        for k, pointer in enumerate(pointers):
            if pointer:
                yield from self._below(pointer, level - 1, number * count + k)

    def _pages(self) -> Iterator[tuple[int, int, bytes]]:
        for first, page in self.leaves():
            try:
                yield first, page, self.memory.read_exact(page, _PAGE)
            except (KdmpError, OverflowError) as error:
                last = first + (_PAGE // self.format.size - 1) * HANDLE_STEP
                self.note(f"the entries of {first:#x} to {last:#x} are lost: {error}", page)

    def objects(self) -> Iterator[tuple[int, int]]:
        """Yield (handle, address of the object) of the used entries, by handle; never raises."""
        for first, _, data in self._pages():
            for number, where in self.format.used(data):
                yield first + number * HANDLE_STEP, where

    def entries(self) -> Iterator[Entry]:
        """Yield the used entries, by handle; never raises."""
        for first, page, data in self._pages():
            for number, _ in self.format.used(data):
                handle, address = first + number * HANDLE_STEP, page + number * self.format.size
                yield self.format.entry(data, number, handle, address)

    def find(self, handle: int) -> Entry | None:
        """Return the entry of a handle, None if there is none or it is not in the dump."""
        number = handle // HANDLE_STEP
        per_page = _PAGE // self.format.size
        for first, page in self.leaves():
            if first // HANDLE_STEP == number - number % per_page:
                try:
                    data = self.memory.read_exact(page, _PAGE)
                except (KdmpError, OverflowError):
                    return None
                at = number % per_page
                entry = self.format.entry(data, at, number * HANDLE_STEP, page + at * self.format.size)
                return entry if at and entry.object else None
        return None
