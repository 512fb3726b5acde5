"""PE images in dumped memory: just enough to tell which image it is.

In memory an image lies as its RVAs say; file offsets play no part. Layouts: Microsoft's PE/COFF
specification.

SPDX-License-Identifier: MIT
"""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from kdmp.reader import Reader

from kdmp._kdmp import KdmpError

_MAX_HEADER = 0x1000
_MAX_DEBUG_ENTRIES = 32
_MAX_PDB_NAME = 260
_CODEVIEW = 2


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


def identify(reader: "Reader", base: int) -> ImageIdentity | None:
    """Return what the image at `base` is, None if there is no readable PE header."""
    try:
        return _identify(reader, base)
    except (KdmpError, OverflowError, struct.error):
        return None


def _identify(reader: "Reader", base: int) -> ImageIdentity | None:
    head = reader.read(base, _MAX_HEADER)
    if head[:2] != b"MZ":
        return None
    (nt,) = struct.unpack_from("<I", head, 0x3C)
    if nt > _MAX_HEADER - 0x108 or head[nt : nt + 4] != b"PE\0\0":
        return None
    machine, _sections, timestamp = struct.unpack_from("<HHI", head, nt + 4)
    (magic,) = struct.unpack_from("<H", head, nt + 0x18)
    if magic not in (0x10B, 0x20B):
        return None
    size, _headers, checksum = struct.unpack_from("<III", head, nt + 0x18 + 0x38)
    directories = nt + 0x18 + (0x60 if magic == 0x10B else 0x70)
    count, debug, debug_size = (
        *struct.unpack_from("<I", head, directories - 4),
        *struct.unpack_from("<II", head, directories + 6 * 8),
    )
    plain = ImageIdentity(base, machine, size, timestamp, checksum)
    if count < 7 or not debug:
        return plain
    return _with_codeview(reader, plain, base + debug, debug_size // 28) or plain


def _with_codeview(reader: "Reader", image: ImageIdentity, va: int, entries: int) -> ImageIdentity | None:
    for number in range(min(entries, _MAX_DEBUG_ENTRIES)):
        entry = reader.try_read_exact(va + 28 * number, 28)
        if entry is None:
            return None
        kind, size, rva = struct.unpack_from("<III", entry, 0x0C)
        if kind != _CODEVIEW or size < 0x19:
            continue
        record = reader.read(image.base + rva, min(size, 0x18 + _MAX_PDB_NAME))
        if record[:4] != b"RSDS" or len(record) < 0x19:
            continue
        name = record[0x18:].split(b"\0", 1)[0].decode("utf-8", "replace")
        return ImageIdentity(
            image.base, image.machine, image.size, image.timestamp, image.checksum,
            name.replace("\\", "/").rsplit("/", 1)[-1],
            UUID(bytes_le=record[4:20]).hex.upper(),
            int.from_bytes(record[20:24], "little"),
        )  # fmt: skip
    return None
