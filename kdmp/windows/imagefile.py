"""PE images out of memory into files: as they lie in memory, or with the sections back at their file offsets.

Layout: Microsoft's PE/COFF specification. The loader maps SizeOfRawData bytes from PointerToRawData, rounded
down to a sector, of each section to its RVA; this is the way back.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kdmp._kdmp import FormatError, Gap, UnreadableError
from kdmp.extract import Extracted, Readable, Writing, gap_facts, pieces
from kdmp.scopes import uncollected
from kdmp.targets import Writable, target
from kdmp.windows.pe import Headers, parse_headers

if TYPE_CHECKING:
    from kdmp._kdmp import DumpBase
    from kdmp.dump import Progress

__all__ = ["MAX_FILE", "ExtractedImage", "Layout", "Part", "extract_image"]

Layout = Literal["memory", "file"]

MAX_FILE = (1 << 32) - 1
"""Bytes that an image may have, in memory or as a file: its sizes have 32 bits."""

_PAGE = 0x1000
_SECTOR = 0x200
_MAX_SECTIONS = 96


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the file: `size` bytes at `offset` are those at the address `va`; some may be `missing`.

    `name` is that of the section; None for the headers, and for an image that is written as it lies in
    memory.
    """

    name: str | None
    offset: int
    va: int
    size: int
    missing: int
    gaps: tuple[Gap, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        names = ("name", "offset", "va", "size", "missing")
        facts = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return facts | {"gaps": [gap_facts(gap) for gap in self.gaps]}


@dataclass(frozen=True)
class ExtractedImage(Extracted):
    """What was written of an image: `parts` in the order of the file.

    `layout` is "memory" or "file", `base` the address of the image; `problems` says in words what of its
    headers makes no sense.
    """

    layout: str = "memory"
    base: int = 0
    parts: tuple[Part, ...] = field(default=(), repr=False)
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As of Extracted, with the gaps in the `parts` they belong to."""
        facts = super().to_dict()
        del facts["gaps"]
        facts |= {"layout": self.layout, "base": self.base, "parts": [part.to_dict() for part in self.parts]}
        return facts | ({"problems": list(self.problems)} if self.problems else {})

    def _lines(self) -> Iterator[str]:
        yield from super()._lines()
        yield from (f"({problem})" for problem in self.problems)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a file: `size` at `offset` are those at `rva`."""

    name: str | None
    offset: int
    rva: int
    size: int


# ---- where the parts belong ----


def _head(memory: Readable, base: int) -> tuple[bytes, Headers]:
    """The first page of an image and its headers.

    UnreadableError if it is not in memory, FormatError if no image begins there."""
    head = _bytes(memory, base, _PAGE)
    try:
        return head, parse_headers(head)
    except struct.error as error:
        raise FormatError("no PE image: its headers go on beyond the first page") from error


def _bytes(memory: Readable, va: int, size: int) -> bytes:
    """Exactly `size` bytes; raises the reason if some are missing."""
    parts = []
    for piece in pieces(memory, va, size):
        if isinstance(piece, Gap):
            raise piece.reason
        parts.append(bytes(piece))
    return b"".join(parts)


def _sections(memory: Readable, base: int, headers: Headers, problems: list[str]) -> Iterator[_Piece]:
    """The sections that have bytes in the file, in the order of the headers."""
    count = headers.section_count
    if count > _MAX_SECTIONS:
        problems.append(f"{count} sections are claimed, {_MAX_SECTIONS} are taken")
        count = _MAX_SECTIONS
    table = _bytes(memory, base + headers.section_table, 40 * count)
    for at in range(0, len(table), 40):
        raw_name, virtual, rva, raw, pointer = struct.unpack_from("<8sIIII", table, at)
        name = raw_name.split(b"\0", 1)[0].decode("utf-8", "replace")
        if not raw or not pointer:
            continue
        offset = pointer - pointer % _SECTOR if headers.section_alignment >= _PAGE else pointer
        size = raw + pointer - offset
        if virtual:
            size = min(size, -(-virtual // _PAGE) * _PAGE)
        if rva >= headers.size:
            problems.append(f"section {name!r} at RVA {rva:#x} is not inside the image")
            continue
        yield _Piece(name, offset, rva, min(size, -(-headers.size // _PAGE) * _PAGE - rva))


def _file_pieces(memory: Readable, base: int, problems: list[str]) -> list[_Piece]:
    """What the file consists of, by its offsets; where sections overlap in the file, the first counts."""
    _, headers = _head(memory, base)
    first = _Piece(None, 0, 0, min(headers.size_of_headers, headers.size) or _PAGE)
    wanted = [first, *sorted(_sections(memory, base, headers, problems), key=lambda piece: piece.offset)]
    found: list[_Piece] = []
    end = 0
    for piece in wanted:
        cut = max(end - piece.offset, 0)
        if cut:
            problems.append(f"section {piece.name!r} overlaps what is before it in the file")
        if cut >= piece.size:
            continue
        found.append(_Piece(piece.name, piece.offset + cut, piece.rva + cut, piece.size - cut))
        end = piece.offset + piece.size
    if end > MAX_FILE:
        raise FormatError(f"the sections would end at file offset {end:#x}: no PE file is that large")
    return found


# ---- writing ----


@uncollected
def extract_image(
    memory: Readable,
    dump: "DumpBase",
    base: int | None,
    size: int | None,
    where: Writable,
    layout: Layout,
    *,
    overwrite: bool,
    progress: "Progress | None",
) -> ExtractedImage:
    """Write the image at `base`; `size` is what the loader says it has in memory. See `Module.extract`."""
    if layout not in ("memory", "file"):
        raise ValueError(f'layout is "memory" or "file", not {layout!r}')
    if base is None:
        raise UnreadableError("the address of the image is not in memory")
    problems: list[str] = []
    if layout == "file":
        wanted = _file_pieces(memory, base, problems)
    else:
        if not size:
            size = _head(memory, base)[1].size
        wanted = [_Piece(None, 0, 0, size)]
    if not 0 < size_of(wanted) <= MAX_FILE or base + max(one.rva + one.size for one in wanted) > 1 << 64:
        raise FormatError(f"the image at {base:#x} has an impossible size")
    parts = []
    with target(where, dump, overwrite=overwrite) as out:
        writing = Writing(out, sum(one.size for one in wanted), progress)
        for one in wanted:
            writing.pad(one.offset - out.size)
            gaps = writing.copy(memory, base + one.rva, one.size)
            parts.append(Part(one.name, one.offset, base + one.rva, one.size, gaps.size, tuple(gaps.kept)))
    return ExtractedImage(
        **writing.facts(where), layout=layout, base=base, parts=tuple(parts), problems=tuple(problems)
    )


def size_of(wanted: list[_Piece]) -> int:
    """Bytes of the file."""
    return wanted[-1].offset + wanted[-1].size if wanted else 0
