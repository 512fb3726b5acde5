"""The version resource of an image in memory: numbers and texts that its maker gave it.

Layouts: Microsoft's PE/COFF specification (".rsrc") and the documentation of VS_VERSIONINFO. Sizes and
offsets are the image's own claims and are bounded here.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from kdmp._kdmp import FormatError, KdmpError
from kdmp.windows.pe import ImageMemory

__all__ = ["VersionInfo", "parse_version", "read_version"]

_RT_VERSION = 16
_SUBDIRECTORY = 1 << 31
_MAX_ENTRIES = 4096  # of one resource directory
_MAX_TRIED = 64  # directories or languages
_MAX_SIZE = 0x10000
_MAX_STRINGS = 256
_FIXED = 0xFEEF04BD


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version resource.

    `file_version` and `product_version` are the numbers of VS_FIXEDFILEINFO ("10.0.19041.804"), None without
    one; `strings` are those of the string tables (FileVersion, CompanyName, OriginalFilename ...). `complete`
    is false if a part of the resource is not in memory.
    """

    file_version: str | None
    product_version: str | None
    file_flags: int | None = None
    file_type: int | None = None
    strings: dict[str, str] = field(default_factory=dict)
    complete: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)


def read_version(memory: ImageMemory, directory: tuple[int, int]) -> VersionInfo | None:
    """Return the version resource; `directory` is RVA and size of the resources. None if there is none.

    UnreadableError or FormatError if the way to it is not in memory or makes no sense.
    """
    root, size = directory
    if not root or not size:
        return None
    error: KdmpError | None = None
    for rva, length in _version_data(memory, root):
        data = memory.read(rva, min(length, _MAX_SIZE))
        try:
            if not data:
                memory.exact(rva, 1)
            return parse_version(data, complete=len(data) == length)
        except KdmpError as why:
            error = error or why
    if error is not None:
        raise error
    return None


def _version_data(memory: ImageMemory, root: int) -> Iterator[tuple[int, int]]:
    """The places of version resources: type 16, any name, any language."""
    tried = 0
    for kind, names in _entries(memory, root, root):
        if kind != _RT_VERSION or not names & _SUBDIRECTORY:
            continue
        for _, languages in _entries(memory, root, root + (names & ~_SUBDIRECTORY)):
            if not languages & _SUBDIRECTORY:
                continue
            for _, leaf in _entries(memory, root, root + (languages & ~_SUBDIRECTORY)):
                tried += 1
                if tried > _MAX_TRIED:
                    return
                if not leaf & _SUBDIRECTORY:
                    rva, size = struct.unpack("<II", memory.exact(root + leaf, 8))
                    yield rva, size
            tried += 1
            if tried > _MAX_TRIED:
                return
        return


def _entries(memory: ImageMemory, root: int, rva: int) -> Iterator[tuple[int, int]]:
    """The entries of a resource directory: (name or id, offset)."""
    named, ids = struct.unpack("<HH", memory.exact(rva + 12, 4))
    for number in range(min(named + ids, _MAX_ENTRIES)):
        name, offset = struct.unpack("<II", memory.exact(rva + 16 + 8 * number, 8))
        yield name, offset


def parse_version(data: bytes, *, complete: bool = True) -> VersionInfo:
    """Return what a VS_VERSIONINFO block says; FormatError if it is none. A block cut short gives less."""
    root = next(_blocks(data, 0, len(data)), None)
    if root is None or root.key != "VS_VERSION_INFO":
        raise FormatError("the version resource has no VS_VERSION_INFO")
    numbers: tuple[int, ...] = ()
    if root.value_size >= 52 and root.value + 52 <= root.end:
        numbers = struct.unpack_from("<13I", data, root.value)
    strings: dict[str, str] = {}
    for info in _blocks(data, root.children, root.end):
        if info.key == "StringFileInfo":
            for table in _blocks(data, info.children, info.end):
                _strings(data, table, strings)
    if not numbers or numbers[0] != _FIXED:
        return VersionInfo(None, None, strings=strings, complete=complete)
    return VersionInfo(
        _dotted(*numbers[2:4]), _dotted(*numbers[4:6]),
        numbers[7] & numbers[6], numbers[9], strings, complete,
    )  # fmt: skip


def _dotted(high: int, low: int) -> str:
    return f"{high >> 16}.{high & 0xFFFF}.{low >> 16}.{low & 0xFFFF}"


def _strings(data: bytes, table: "_Block", into: dict[str, str]) -> None:
    for string in _blocks(data, table.children, table.end):
        if len(into) >= _MAX_STRINGS:
            return
        # wValueLength counts words with some linkers and bytes with others: the NUL ends the text.
        nul = _nul(data, string.value, string.end)
        if nul is not None:
            into.setdefault(string.key, data[string.value : nul].decode("utf-16-le", "replace"))
        elif not string.value_size:
            into.setdefault(string.key, "")


class _Block(NamedTuple):
    """A block of the resource: offsets of its value, its children and its end; sizes in bytes."""

    key: str
    value: int
    value_size: int
    children: int
    end: int


def _blocks(data: bytes, start: int, end: int) -> Iterator[_Block]:
    """The blocks that lie behind one another.

    Each is { u16 wLength, wValueLength, wType; UTF-16 szKey; padding to 4; value; padding to 4; children }.
    """
    at = start
    while at + 6 <= end:
        length, size, kind = struct.unpack_from("<HHH", data, at)
        stop = min(at + length, end)
        nul = _nul(data, at + 6, stop)
        if nul is None:
            return
        key = data[at + 6 : nul].decode("utf-16-le", "replace")
        value, size = _aligned(nul + 2), size * (2 if kind == 1 else 1)
        yield _Block(key, value, size, _aligned(value + size), stop)
        at = _aligned(at + length)


def _nul(data: bytes, start: int, end: int) -> int | None:
    """Where the NUL of the UTF-16 text at `start` is; None if there is none before `end`."""
    at = start
    while (at := data.find(b"\0\0", at, end)) >= 0:
        if (at - start) % 2 == 0:
            return at
        at += 1
    return None


def _aligned(at: int) -> int:
    return (at + 3) & ~3
