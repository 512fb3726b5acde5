"""Files with the signature ZDMP: dumps that the driver of DumpIt has compressed (`.zdmp`).

The layout is not documented in prose. Two public sources agree on the structures; how they are read rests
on the second alone, and no file that DumpIt wrote was at hand:
`Z2Dmp.h` of Comae's Z2Dmp (the structures; github.com/MagnetForensics/Z2Dmp) and `zdmp.rs` of its port
to Rust (z2dmp-rust), which is in use. Everything is little-endian:

    0x0000  ZDMP_FILE_HEADER: "ZDMP", ULONG Version (0x100), LARGE_INTEGER FileSize, ULONG BlockSize,
            USHORT DataType (1 compressed, 2 encrypted), USHORT CompressionFormat (2, LZNT1)
    0x1000  blocks, without gaps, each a ZDMP_BLOCK_HEADER: "ZBLK", ULONG DataSize, ULONG Crc32 (the one
            of zlib, over what is stored), and DataSize bytes, which unpack to BlockSize bytes;
            a block whose DataSize is BlockSize is stored as it is

How sure: the structures are certain. FileSize is taken to be the size of the packed file, because the
first version of the port reads blocks up to there; so that a writer who meant something else does no
harm, blocks are read to the end of the file, and FileSize only tells whether some are missing.
No file by DumpIt itself has been at hand to test with.

SPDX-License-Identifier: MIT
"""

import struct
import zlib
from collections.abc import Iterator

from kdmp.packed.common import Damage, Feed, NotSupported, read_exactly
from kdmp.packed.lznt1 import LZNT1Error, decompress

__all__ = ["zdmp_chunks"]

_FILE_HEADER = struct.Struct("<4sIQIHH")
_BLOCK_HEADER = struct.Struct("<4sII")
_FIRST_BLOCK = 0x1000
_MAX_BLOCK = 64 << 20

_COMPRESSED = 1
_ENCRYPTED = 2
_LZNT1 = 2
# The COMPRESSION_FORMAT_* numbers of ntifs.h.
_FORMATS = {3: "XPRESS", 4: "XPRESS with Huffman"}


def _check_header(header: bytes) -> tuple[int, int]:
    """Return FileSize and BlockSize; raise for what is not read."""
    if len(header) < _FILE_HEADER.size:
        raise Damage("the zdmp file ends inside its header", cut=True)
    _signature, _version, file_size, block_size, data_type, method = _FILE_HEADER.unpack(header)
    if data_type == _ENCRYPTED:
        raise NotSupported("this zdmp file is encrypted (DataType 2)")
    if data_type != _COMPRESSED:
        raise NotSupported(f"this zdmp file has the unknown DataType {data_type}")
    if method != _LZNT1:
        name = _FORMATS.get(method, "an unknown method")
        raise NotSupported(f"this zdmp file is packed with {name} (CompressionFormat {method}), not LZNT1")
    if not 0 < block_size <= _MAX_BLOCK:
        raise Damage(f"the zdmp header has the BlockSize {block_size}, not 1 to {_MAX_BLOCK}")
    return file_size, block_size


def zdmp_chunks(read: Feed) -> Iterator[bytes]:
    """Yield the blocks of a zdmp file, unpacked. Raises Damage or NotSupported.

    It ends at the first damaged block: the places of all later pages follow from those before.
    """
    file_size, block_size = _check_header(read_exactly(read, _FILE_HEADER.size))
    read_exactly(read, _FIRST_BLOCK - _FILE_HEADER.size)
    at, written, short = _FIRST_BLOCK, 0, False
    while header := read_exactly(read, _BLOCK_HEADER.size):
        where = f"the zdmp block at file offset 0x{at:x}"
        if header[:4] != b"ZBLK"[: len(header)]:
            if file_size and at >= file_size:
                return  # what the file system put behind the end
            raise Damage(f"{where} does not begin with ZBLK")
        if len(header) < _BLOCK_HEADER.size:
            raise Damage(f"{where} ends inside its header", cut=True)
        _signature, size, crc = _BLOCK_HEADER.unpack(header)
        if size > block_size:
            raise Damage(f"{where} has {size} bytes, more than the BlockSize {block_size}")
        if short:
            raise Damage(f"{where} follows one that unpacks to less than the BlockSize {block_size}")
        data = read_exactly(read, size)
        if len(data) < size:
            raise Damage(f"{where} is cut short", cut=True)
        if zlib.crc32(data) != crc:
            raise Damage(f"{where} has the CRC 0x{zlib.crc32(data):08x}, not 0x{crc:08x}")
        if size != block_size:
            try:
                data = decompress(data, block_size)
            except LZNT1Error as exc:
                raise Damage(f"{where} is damaged: {exc}") from exc
        short = len(data) < block_size
        written += len(data)
        at += _BLOCK_HEADER.size + size
        yield data
    if file_size > at and not 0 <= written - file_size < block_size:
        raise Damage(f"the zdmp file ends at {at} bytes of {file_size}", cut=True)
