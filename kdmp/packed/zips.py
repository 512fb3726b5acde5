"""Members of a zip archive, by the standard library.

SPDX-License-Identifier: MIT
"""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from kdmp.packed.common import CHUNK, Damage, Input, Member, NotSupported

__all__ = ["ZipArchive"]

# zipfile bounds what it unpacks at a time for these methods only; of the others little is fed to it.
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SMALL_READ = 0x1000

# Of an archive with more members only the largest are looked into; fewer if they are packed by a method
# that zipfile does not bound: 4 KiB of bzip2 are 80 MB.
_MAX_LOOKED_AT = 4096
_MAX_UNBOUNDED = 16

# Bytes of the directory, of which zipfile makes some twelve times as much.
_MAX_DIRECTORY = 32 << 20

_LZMA_MEMORY = 1 << 30  # for its dictionary, as for xz

_ENCRYPTED = 0x1

# What zipfile and its decompressors raise for bad data. ValueError is for absurd extra fields.
_BAD = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ValueError, OverflowError)


class ZipArchive:
    """A zip archive; a `common.Archive`. Raises Damage if its directory cannot be read."""

    def __init__(self, file: Input) -> None:
        self._file = file
        file.most = _MAX_DIRECTORY
        try:
            self._zip = zipfile.ZipFile(file)
        except NotImplementedError as exc:
            raise NotSupported(f"this zip archive cannot be read: {exc}") from exc
        except (*_BAD, EOFError) as exc:
            if file.error is not None:
                raise file.error from exc
            raise Damage(f"the directory at the end of the zip archive cannot be read: {exc}") from exc
        finally:
            file.most = None
        self._infos = self._zip.infolist()
        self.members = [
            Member(info.filename, info.file_size, info.compress_size, index)
            for index, info in enumerate(self._infos)
            if not info.filename.endswith("/")
        ]

    def heads(self, size: int) -> Iterator[tuple[Member, bytes | Damage | NotSupported]]:
        largest = sorted(self.members, key=lambda member: member.size, reverse=True)
        unbounded = 0
        for member in largest[:_MAX_LOOKED_AT]:
            if self._infos[member.index].compress_type not in _BOUNDED:
                unbounded += 1
                if unbounded > _MAX_UNBOUNDED:
                    continue
            head = b""
            try:
                for chunk in self._read(member, size):
                    head += chunk
                    if len(head) >= size:
                        break
            except (Damage, NotSupported) as exc:
                if not head:
                    yield member, exc
                    continue
            yield member, head[:size]

    def chunks(self, member: Member) -> Iterator[bytes]:
        self._file.begin(member.packed_size)
        yield from self._read(member, CHUNK)

    def _check_dictionary(self, info: zipfile.ZipInfo) -> None:
        """Raise for an LZMA member that wants more memory than is given."""
        self._file.seek(info.header_offset + 26)
        lengths = self._file.read(4)
        if len(lengths) < 4:
            return  # zipfile says so
        self._file.seek(info.header_offset + 30 + sum(struct.unpack("<HH", lengths)))
        # Two bytes of version, two of the properties' size, one of lc, lp and pb.
        wanted = int.from_bytes(self._file.read(9)[5:], "little")
        if wanted > _LZMA_MEMORY:
            raise NotSupported(f"{info.filename!r} in the zip archive wants a dictionary of {wanted} bytes")

    def _read(self, member: Member, size: int) -> Iterator[bytes]:
        info = self._infos[member.index]
        if info.flag_bits & _ENCRYPTED:
            raise NotSupported(
                f"{member.name!r} in the zip archive is encrypted; unpack it with its password"
            )
        if info.compress_type not in _BOUNDED:
            size = min(size, _SMALL_READ)
        if info.compress_type == zipfile.ZIP_LZMA:
            self._check_dictionary(info)
        try:
            with self._zip.open(info) as opened:
                stream: Any = opened  # a ZipExtFile, whose read1 keeps nothing back when data is bad
                while data := stream.read1(size):
                    yield data
        except (NotImplementedError, RuntimeError) as exc:
            raise NotSupported(f"{member.name!r} in the zip archive cannot be unpacked: {exc}") from exc
        except EOFError as exc:
            raise Damage(f"{member.name!r} in the zip archive is cut short", cut=True) from exc
        except OSError as exc:
            if self._file.error is not None:
                raise
            # So bz2 says that data is bad.
            raise Damage(f"{member.name!r} in the zip archive is damaged: {exc}") from exc
        except _BAD as exc:
            raise Damage(f"{member.name!r} in the zip archive is damaged: {exc}") from exc
