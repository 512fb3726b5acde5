"""Memory as memoryviews without a copy: what is in one piece in the mapped file is shown where it is.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from operator import index
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from kdmp._kdmp import NotContiguousError
from kdmp.scopes import uncollected

if TYPE_CHECKING:
    from kdmp._kdmp import Address, DumpBase, Extent
    from kdmp.reader import Reader

__all__ = ["Piece", "buffer", "buffers"]

CHUNK = 1 << 20
"""Bytes of a piece, at most, where it is a copy."""


class Piece(NamedTuple):
    """Bytes that follow each other: their `address`, `data`, and where they are kept.

    `pa` is the physical address and `offset` the place in the file of the first byte; None if there is none:
    triage dumps have no frames, and pages of overlays, of page files and of zeros are not in the file.
    """

    address: int
    pa: int | None
    offset: int | None
    data: memoryview

    @property
    def size(self) -> int:
        """How many bytes."""
        return len(self.data)


def _in_memory(dump: "DumpBase") -> bool:
    return dump.io in ("map", "memory")


def _view(dump: "DumpBase", offset: int, size: int) -> memoryview:
    return memoryview(dump)[offset : offset + size]


@uncollected
def buffer(reader: "Reader", va: "Address", size: SupportsIndex) -> memoryview:
    """As `Reader.buffer`, which see."""
    reader, address = reader._place(va)
    count = index(size)
    if count < 0 or not 0 <= address < 1 << 64 or address + count > 1 << 64:
        raise ValueError(f"{count} bytes at {address:#x} are no part of an address space")
    if not count:
        return memoryview(b"")
    found = None
    if reader.missing(address) is None:  # else the search would go on to the next that is not
        found = next(reader.extents(address, address + count - 1), None)
    if found is None:
        reader.read_u8(address)  # says why not
        raise _elsewhere(address, "has just changed")
    if found.offset is None:
        raise _elsewhere(address, "is not in the file of the dump")
    if not _in_memory(reader.dump):
        raise _elsewhere(address, "is in a file that is read, not mapped")
    if found.size < count:
        reader.read_u8(address + found.size)
        raise _elsewhere(address + found.size, "does not follow in the file what is before it")
    return _view(reader.dump, found.offset, count)


def _elsewhere(address: int, how: str) -> NotContiguousError:
    error = NotContiguousError(f"the byte at {address:#x} {how}")
    error.address = address
    return error


def buffers(reader: "Reader", start: SupportsIndex, last: SupportsIndex | None) -> Iterator[Piece]:
    """As `Reader.buffers`, which see."""
    return _pieces(reader, reader.extents(start, last))


def _pieces(reader: "Reader", extents: "Iterator[Extent]") -> Iterator[Piece]:
    shown = _in_memory(reader.dump)
    for one in extents:
        if one.offset is not None and shown:
            yield Piece(one.address, one.pa, one.offset, _view(reader.dump, one.offset, one.size))
        else:
            yield from _copies(reader, one)


def _copies(reader: "Reader", one: "Extent") -> Iterator[Piece]:
    """An extent in pieces that are copies."""
    for at in range(0, one.size, CHUNK):
        data = _read(reader, one.address + at, min(CHUNK, one.size - at))
        pa = None if one.pa is None else one.pa + at
        yield Piece(one.address + at, pa, None if one.offset is None else one.offset + at, memoryview(data))


@uncollected
def _read(reader: "Reader", address: int, size: int) -> bytes:
    return reader.read_exact(address, size)
