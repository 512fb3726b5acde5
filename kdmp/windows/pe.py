"""PE images in dumped memory: headers, memory by RVA, and which image it is.

In memory an image lies as its RVAs say; file offsets play no part. Layouts: Microsoft's PE/COFF
specification. `kdmp.windows.image` shows a whole image.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from kdmp._kdmp import FormatError, KdmpError, UnreadableError

__all__ = [
    "CodeView",
    "Headers",
    "ImageIdentity",
    "ImageMemory",
    "Reads",
    "debug_entries",
    "find_codeview",
    "identify",
    "parse_headers",
]

PAGE = 0x1000
DEBUG_DIRECTORY = 6

_MAX_HEADER = 0x1000
_MAX_DEBUG_ENTRIES = 32
_MAX_PDB_NAME = 260
_CODEVIEW = 2
_CACHED_PAGES = 64


class Reads(Protocol):
    """What is needed of a reader."""

    def read(self, va: int, size: int, /) -> bytes: ...
    def read_exact(self, va: int, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Headers:
    """The PE headers of an image, as stored.

    Versions are (major, minor). `image_base` is what the file prefers (the loader writes the real one into
    memory). `directories` are (RVA, size) of the data directories there are, at most 16. `section_table` is
    the RVA of the section headers.
    """

    machine: int
    section_count: int
    timestamp: int
    characteristics: int
    bits: int
    linker_version: tuple[int, int]
    entry_rva: int
    image_base: int
    section_alignment: int
    os_version: tuple[int, int]
    image_version: tuple[int, int]
    subsystem_version: tuple[int, int]
    size: int
    size_of_headers: int
    checksum: int
    subsystem: int
    dll_characteristics: int
    directories: tuple[tuple[int, int], ...]
    section_table: int

    def directory(self, number: int) -> tuple[int, int]:
        """RVA and size of a data directory, (0, 0) if there is none."""
        return self.directories[number] if number < len(self.directories) else (0, 0)


def parse_headers(head: bytes) -> Headers:
    """Return the headers in the first page of an image.

    FormatError if it is no image, struct.error if the page is cut.
    """
    if head[:2] != b"MZ":
        raise FormatError("no PE image: it does not begin with MZ")
    (nt,) = struct.unpack_from("<I", head, 0x3C)
    if nt > _MAX_HEADER - 0x108:
        raise FormatError(f"no PE image: e_lfanew is {nt:#x}")
    signature, machine, sections, stamp, _symbols, _count, optional, flags = struct.unpack_from(
        "<4sHHIIIHH", head, nt
    )
    if signature != b"PE\0\0":
        raise FormatError("no PE image: it has no PE signature")
    at = nt + 0x18
    magic, *linker, _code, _data, _bss, entry = struct.unpack_from("<HBBIIII", head, at)
    if magic not in (0x10B, 0x20B):
        raise FormatError(f"no PE image: the optional header's magic is {magic:#x}")
    wide = magic == 0x20B
    (image_base,) = (
        struct.unpack_from("<Q", head, at + 0x18) if wide else struct.unpack_from("<I", head, at + 0x1C)
    )
    alignment, _file, *rest = struct.unpack_from("<II6HIIIIHH", head, at + 0x20)
    versions, (_win32, size, headers, checksum, subsystem, dll_flags) = rest[:6], rest[6:]
    table = at + (0x70 if wide else 0x60)
    (count,) = struct.unpack_from("<I", head, table - 4)
    pairs = struct.unpack_from(f"<{2 * min(count, 16)}I", head, table)
    return Headers(
        machine, sections, stamp, flags, 64 if wide else 32, (linker[0], linker[1]), entry, image_base,
        alignment, (versions[0], versions[1]), (versions[2], versions[3]), (versions[4], versions[5]),
        size, headers, checksum, subsystem, dll_flags,
        tuple(zip(pairs[::2], pairs[1::2], strict=True)), at + optional,
    )  # fmt: skip


class ImageMemory:
    """The memory of an image by RVA, up to `size` bytes; pages that were read are kept, some of them.

    Without `reasons`, errors do not say why a page is missing: it is not looked for a second time.
    """

    def __init__(self, reader: Reads, base: int, size: int = 0, *, reasons: bool = True) -> None:
        self.base = base
        self.size = size or 1 << 32  # RVAs have 32 bits
        self._reader = reader
        self._reasons = reasons
        self._pages: dict[int, bytes] = {}

    def _page(self, number: int) -> bytes:
        """What is there of a page: all of it, or less up to the first hole."""
        page = self._pages.get(number)
        if page is None:
            try:
                page = self._reader.read(self.base + number * PAGE, PAGE)
            except (KdmpError, OverflowError):
                page = b""
            if len(self._pages) >= _CACHED_PAGES:
                self._pages.clear()
            self._pages[number] = page
        return page

    def read(self, rva: int, size: int) -> bytes:
        """Return up to `size` bytes: those before the first hole or the end of the image."""
        size = min(size, self.size - rva)
        parts = []
        while size > 0:
            number, offset = divmod(rva, PAGE)
            part = self._page(number)[offset : offset + size]
            parts.append(part)
            if len(part) < min(size, PAGE - offset):
                break
            rva, size = rva + len(part), size - len(part)
        return b"".join(parts)

    def exact(self, rva: int, size: int) -> bytes:
        """Return exactly `size` bytes; UnreadableError if some are missing, FormatError outside the image."""
        data = self.read(rva, size)
        if len(data) == size:
            return data
        if rva + size > self.size:
            raise FormatError(f"RVA {rva:#x} and {size:#x} bytes are not inside the image of {self.size:#x}")
        if not self._reasons:
            raise UnreadableError(f"RVA {rva:#x} is not in memory")
        try:
            return self._reader.read_exact(self.base + rva, size)
        except OverflowError as error:
            raise FormatError(f"RVA {rva:#x} is beyond the last address") from error

    def string(self, rva: int, limit: int) -> bytes:
        """Return the bytes up to a NUL, at most `limit`; errors as of `exact`."""
        # Nearly always all of it is in one page.
        number, offset = divmod(rva, PAGE)
        page = self._page(number) if rva < self.size else b""
        end = page.find(b"\0", offset, offset + limit)
        if end >= 0:
            return page[offset:end]
        data = self.read(rva, limit)
        end = data.find(b"\0")
        if end >= 0:
            return data[:end]
        return self.exact(rva, min(len(data) + 1, limit))


@dataclass(frozen=True, slots=True)
class CodeView:
    """Which PDB belongs to an image: `path` as the linker wrote it, and what must match.

    `guid` (32 upper-case hex digits) is that of an RSDS record; the old NB10 record has a `signature`, the
    time stamp of the PDB.
    """

    path: str
    age: int
    guid: str | None = None
    signature: int | None = None

    @property
    def pdb(self) -> str:
        """Name of the PDB without its folders."""
        return self.path.replace("\\", "/").rsplit("/", 1)[-1]

    @property
    def symbol_id(self) -> str:
        """Key of the PDB on a symbol server: GUID (or signature) and age."""
        first = self.guid if self.guid is not None else f"{self.signature:08X}"
        return f"{first}{self.age:X}"


def find_codeview(memory: ImageMemory, directory: tuple[int, int]) -> CodeView | None:
    """Return the CodeView record that a debug directory (RVA, size) leads to; None if it lists none.

    UnreadableError if the directory or the record is not in memory, FormatError for one of another kind.
    """
    for kind, size, rva in debug_entries(memory, directory):
        if kind == _CODEVIEW and rva and size > 0x10:
            return _codeview(memory, rva, size)
    return None


def debug_entries(memory: ImageMemory, directory: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield (type, size, RVA) of the entries of a debug directory (RVA, size), at most 32.

    UnreadableError if one is not in memory.
    """
    rva, size = directory
    for number in range(min(size // 28, _MAX_DEBUG_ENTRIES) if rva else 0):
        yield struct.unpack_from("<III", memory.exact(rva + 28 * number, 28), 0x0C)


def _codeview(memory: ImageMemory, rva: int, length: int) -> CodeView:
    magic = memory.exact(rva, 4)
    name_at = {b"RSDS": 0x18, b"NB10": 0x10}.get(magic)
    if name_at is None or length <= name_at:
        raise FormatError(f"the CodeView record at RVA {rva:#x} is of no known kind: {magic!r}")
    head = memory.exact(rva, name_at)
    name = memory.string(rva + name_at, min(length - name_at, _MAX_PDB_NAME))
    path = name.decode("utf-8", "replace")
    age = int.from_bytes(head[-4:], "little")
    if magic == b"RSDS":
        return CodeView(path, age, guid=UUID(bytes_le=head[4:20]).hex.upper())
    return CodeView(path, age, signature=int.from_bytes(head[8:12], "little"))


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """Which image is at `base`: facts of its headers.

    `size` is SizeOfImage in bytes, `timestamp` TimeDateStamp; `pdb`, `guid` (32 upper-case hex digits) and
    `age` are those of the CodeView record, None if it is not in memory.
    """

    base: int
    machine: int
    size: int
    timestamp: int
    checksum: int
    pdb: str | None = None
    guid: str | None = None
    age: int | None = None

    @property
    def image_id(self) -> str:
        """Key of the image on a symbol server: TimeDateStamp and SizeOfImage."""
        return f"{self.timestamp:08X}{self.size:x}"

    @property
    def symbol_id(self) -> str | None:
        """Key of the PDB on a symbol server: GUID and age; None without a CodeView record."""
        return None if self.guid is None else f"{self.guid}{self.age:x}".upper()


def identify(reader: Reads, base: int) -> ImageIdentity | None:
    """Return what the image at `base` is, None if there is no readable PE header."""
    try:
        headers = parse_headers(reader.read(base, _MAX_HEADER))
    except (KdmpError, OverflowError, struct.error):
        return None
    plain = (base, headers.machine, headers.size, headers.timestamp, headers.checksum)
    try:
        record = find_codeview(ImageMemory(reader, base, reasons=False), headers.directory(DEBUG_DIRECTORY))
    except KdmpError:
        record = None
    if record is None or record.guid is None:
        return ImageIdentity(*plain)
    return ImageIdentity(*plain, record.pdb, record.guid, record.age)
