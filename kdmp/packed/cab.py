"""Members of a Microsoft cabinet (.cab), stored or packed with MSZIP.

The layout is [MS-CAB]'s (CFHEADER, CFFOLDER, CFFILE, CFDATA), MSZIP is [MS-MCI]'s: blocks of up to 32 KiB,
each "CK" and a raw deflate stream whose window begins with the block before; zlib does the work.

There are packages that read cabinets, but none fits a dump. cabarchive unpacks the whole cabinet into
memory, without a bound; the bindings to libmspack, which alone know LZX and Quantum, are young.
So this is a reader of the container only, in bounded memory, and other methods are refused by name.

SPDX-License-Identifier: MIT
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from kdmp.packed.common import Damage, Input, Member, NotSupported

__all__ = ["CabArchive"]

_HEADER = struct.Struct("<4sIIIIIBBHHHHH")
_RESERVES = struct.Struct("<HBB")
_FOLDER = struct.Struct("<IHH")
_FILE = struct.Struct("<IIHHHH")
_DATA = struct.Struct("<IHH")

_HAS_PREVIOUS = 0x1
_HAS_NEXT = 0x2
_HAS_RESERVES = 0x4

_METHOD_MASK = 0xF
_STORED = 0
_MSZIP = 1
_METHODS = {2: "Quantum", 3: "LZX"}

# iFolder of a file that begins in the cabinet before or goes on in the next one.
_FIRST_CONTINUED = 0xFFFD
_NAME_IS_UTF8 = 0x80
_MAX_NAME = 256

_MAX_BLOCK = 0x8000  # unpacked
_MAX_PACKED = _MAX_BLOCK + 6144  # what FDI accepts as the size of a packed block
# Blocks that are unpacked to look into the files, of all folders, which can have the same ones: 8 GiB.
_MAX_LOOKED_AT = 1 << 18


class _Folder(NamedTuple):
    """A stream of blocks, which holds files one behind the other."""

    offset: int
    blocks: int
    method: int


class _File(NamedTuple):
    folder: int
    offset: int
    size: int


class CabArchive:
    """A cabinet; a `common.Archive`. Raises Damage or NotSupported if its directory cannot be read."""

    def __init__(self, file: Input) -> None:
        self._file = file
        header = _HEADER.unpack(self._take(0, _HEADER.size))
        first_file, minor, major = header[4], header[6], header[7]
        folder_count, file_count, flags = header[8:11]
        if major != 1:
            raise NotSupported(f"this cabinet has the format version {major}.{minor}, not 1.3")
        at = _HEADER.size
        folder_reserve = self._data_reserve = 0
        if flags & _HAS_RESERVES:
            header_reserve, folder_reserve, self._data_reserve = _RESERVES.unpack(
                self._take(at, _RESERVES.size)
            )
            at += _RESERVES.size + header_reserve
        for flag in (_HAS_PREVIOUS, _HAS_NEXT):
            if flags & flag:
                at = self._text(at)[1]  # name of that cabinet
                at = self._text(at)[1]  # name of its disk
        self._folders = []
        for _ in range(folder_count):
            self._folders.append(_Folder(*_FOLDER.unpack(self._take(at, _FOLDER.size))))
            at += _FOLDER.size + folder_reserve
        self._files: list[_File] = []
        self.members: list[Member] = []
        at = first_file
        for index in range(file_count):
            size, offset, folder, _date, _time, attributes = _FILE.unpack(self._take(at, _FILE.size))
            raw, at = self._text(at + _FILE.size)
            # Names that are not UTF-8 are in some code page: cp437 at least maps every byte.
            name = raw.decode("utf-8", "replace") if attributes & _NAME_IS_UTF8 else raw.decode("cp437")
            self._files.append(_File(folder, offset, size))
            self.members.append(Member(name, size, file.size, index))

    def _take(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise Damage(f"the cabinet ends inside its directory (at 0x{offset:x})", cut=True)
        return data

    def _text(self, offset: int) -> tuple[bytes, int]:
        """Return the NUL-terminated text at `offset` and the offset behind it."""
        self._file.seek(offset)
        text, nul, _rest = self._file.read(_MAX_NAME + 1).partition(b"\0")
        if not nul:
            raise Damage(f"the name at 0x{offset:x} of the cabinet does not end")
        return text, offset + len(text) + 1

    def heads(self, size: int) -> Iterator[tuple[Member, bytes | Damage | NotSupported]]:
        """A folder is unpacked once for all its members: they can be had in that order only."""
        order = sorted(self.members, key=lambda member: self._files[member.index])
        folder, start, window = -1, 0, b""  # the window is what was unpacked last, from `start` on
        blocks: Iterator[bytes] = iter(())
        problem: Damage | NotSupported | None = None
        left = _MAX_LOOKED_AT
        for member in order:
            file = self._files[member.index]
            if file.folder != folder:
                folder, start, window, problem = file.folder, 0, b"", None
                blocks = self._blocks(folder)
            size_here = min(size, file.size)
            block: bytes | None = b""
            while block is not None:
                window += block
                passed = min(len(window), file.offset - start)
                window, start = window[passed:], start + passed
                if start == file.offset and len(window) >= size_here:
                    break
                left -= 1
                if left < 0:
                    problem = NotSupported(f"the file lies behind {_MAX_LOOKED_AT} blocks of the cabinet")
                    break
                try:
                    block = next(blocks, None)
                except (Damage, NotSupported) as exc:
                    problem, block = exc, None
            head = window[:size_here] if start == file.offset else b""
            yield member, head if head or problem is None else problem

    def chunks(self, member: Member) -> Iterator[bytes]:
        file = self._files[member.index]
        self._file.begin(self._file.size)
        skip, left = file.offset, file.size
        for block in self._blocks(file.folder):
            if skip < len(block):
                part = block[skip : skip + left]
                left -= len(part)
                yield part
                if not left:
                    return
            skip = max(0, skip - len(block))
        if left:
            raise Damage(f"{member.name!r} in the cabinet lacks {left} of its {file.size} bytes")

    def _blocks(self, number: int) -> Iterator[bytes]:
        """Yield the blocks of a folder, unpacked."""
        if number >= _FIRST_CONTINUED:
            raise NotSupported("this cabinet is one of a set, and the file is in several of them")
        if number >= len(self._folders):
            raise Damage(f"the cabinet has no folder {number}")
        folder = self._folders[number]
        method = folder.method & _METHOD_MASK
        if method not in (_STORED, _MSZIP):
            name = _METHODS.get(method, f"the unknown method {method}")
            raise NotSupported(
                f"this cabinet is packed with {name}, which kdmp does not read; unpack it first"
            )
        at, history = folder.offset, b""
        for index in range(folder.blocks):
            where = f"block {index} of folder {number} of the cabinet"
            self._file.seek(at)
            header = self._file.read(_DATA.size + self._data_reserve)
            if len(header) < _DATA.size + self._data_reserve:
                raise Damage(f"the cabinet ends before {where}", cut=True)
            checksum, packed_size, size = _DATA.unpack_from(header)
            if size == 0:
                raise NotSupported("this cabinet is one of a set, and the file goes on in the next one")
            if size > _MAX_BLOCK or packed_size > _MAX_PACKED:
                raise Damage(f"{where} claims {packed_size} bytes that unpack to {size}")
            data = self._file.read(packed_size)
            if len(data) < packed_size:
                raise Damage(f"the cabinet ends inside {where}", cut=True)
            # Writers disagree on whether the reserved bytes belong to what is summed.
            sums = {_checksum(data) ^ _checksum(header[4:end]) for end in (_DATA.size, len(header))}
            if checksum and checksum not in sums:
                raise Damage(f"{where} has a wrong checksum")
            if method == _MSZIP:
                data = _unpack_block(data, history, where)
            if len(data) != size:
                raise Damage(f"{where} unpacks to {len(data)} bytes, not {size}")
            at += len(header) + packed_size
            history = (history + data)[-_MAX_BLOCK:]
            yield data


def _unpack_block(data: bytes, history: bytes, where: str) -> bytes:
    if data[:2] != b"CK":
        raise Damage(f"{where} does not begin with CK")
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=history)
    try:
        return unpacker.decompress(data[2:], _MAX_BLOCK + 1)
    except zlib.error as exc:
        raise Damage(f"{where} is damaged: {exc}") from exc


def _checksum(data: bytes) -> int:
    """Return the exclusive or of the 32-bit words, as CFDATA.csum wants it.

    The one to three bytes that are left over count as one number, the first byte highest.
    """
    whole = len(data) // 4 * 4
    folded = int.from_bytes(data[:whole], "little")
    words = whole // 4
    while words > 1:  # halve: 32 KiB in 13 steps
        half = (words + 1) // 2
        folded = (folded & (1 << 32 * half) - 1) ^ (folded >> 32 * half)
        words = half
    return folded ^ int.from_bytes(data[whole:], "big")
