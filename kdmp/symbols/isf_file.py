"""The bytes of a symbol file: plain, xz, gzip, bzip2, or a member of a zip archive; never more than a limit.

What it is, the first bytes tell, not the name. Everything that is wrong is a ValueError or an OSError here.

SPDX-License-Identifier: MIT
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kdmp.symbols.places import is_zip

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

__all__ = ["MAX_SIZE", "members", "read"]

MAX_SIZE = 64 << 20
"""Bytes of a symbol file, packed or not. Those of Windows kernels have 2 to 10 MB."""

_INSIDE = (".json", ".json.xz", ".json.gz", ".json.bz2")  # of an archive
_MAX_MEMBERS = 200_000
_MAX_DIRECTORY = 32 << 20  # bytes of an archive's directory, of which zipfile makes some twelve times as much
_XZ_MEMORY = 256 << 20  # for its dictionary
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12  # zip: the methods that bound the memory they take


def members(path: str) -> list[str]:
    """Names of the members of a zip archive that may be symbol files. Raises OSError, ValueError."""
    with _archive(path) as archive:
        infos = archive.infolist()[:_MAX_MEMBERS]
        return [info.filename for info in infos if info.filename.lower().endswith(_INSIDE)]


def read(path: str, member: str | None = None) -> bytes:
    """Return the unpacked JSON of a symbol file; of an archive `member`, or the first that has the ending.

    Raises OSError, ValueError.
    """
    if is_zip(path):
        member = next(iter(members(path)), None) if member is None else member
        if member is None:
            raise ValueError("an archive without a .json file")
        return _unpacked(_member(path, member))
    with open(path, "rb") as stream:
        return _unpacked(_bounded(stream.read(MAX_SIZE + 1)))


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_SIZE:
        raise ValueError(f"larger than {MAX_SIZE >> 20} MiB, packed or unpacked")
    return data


class _ArchiveFile(io.FileIO):
    """A file of which zipfile cannot read a directory of any size at once."""

    most: int | None = _MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> Any:
        if self.most is not None and size is not None and size > self.most:
            raise ValueError(f"a zip archive with a directory of {size} bytes")
        return super().read(size)


@contextmanager
def _archive(path: str) -> "Iterator[ZipFile]":
    with _ArchiveFile(path) as file:
        archive = _opened(file)
        file.most = None
        yield archive


def _opened(file: io.FileIO) -> "ZipFile":
    import zipfile

    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, LookupError) as error:
        raise ValueError(f"a damaged zip archive: {error}") from error


def _member(path: str, name: str) -> bytes:
    import zipfile
    import zlib

    with _archive(path) as archive:
        try:
            info: ZipInfo = archive.getinfo(name)
            if info.compress_type not in (_STORED, _DEFLATED, _BZIP2):
                raise ValueError(f"{name} is packed by method {info.compress_type}")
            with archive.open(info) as stream:
                return _bounded(stream.read(MAX_SIZE + 1))
        except (zipfile.BadZipFile, RuntimeError, LookupError, EOFError, OverflowError, zlib.error) as error:
            raise ValueError(f"{name} in a damaged zip archive: {error}") from error


def _unpacked(data: bytes) -> bytes:
    import zlib

    try:
        if data[:6] == b"\xfd7zXZ\0":
            return _unpacked_xz(data)
        if data[:2] == b"\x1f\x8b":
            import gzip

            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                return _bounded(stream.read(MAX_SIZE + 1))
        if data[:3] == b"BZh":
            import bz2

            with bz2.BZ2File(io.BytesIO(data)) as stream2:
                return _bounded(stream2.read(MAX_SIZE + 1))
    except (EOFError, zlib.error) as error:
        raise ValueError(f"damaged: {error}") from error
    except ImportError as error:
        raise ValueError(f"this Python cannot unpack it: {error}") from error
    return data


def _unpacked_xz(data: bytes) -> bytes:
    import lzma

    parts: list[bytes] = []
    size = 0
    try:
        while data[:6] == b"\xfd7zXZ\0":  # streams one after the other
            stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            parts.append(stream.decompress(data, MAX_SIZE + 1 - size))
            size += len(parts[-1])
            if size > MAX_SIZE:
                return _bounded(b"".join(parts))
            if not stream.eof:
                raise ValueError("ends too early")
            data = stream.unused_data.lstrip(b"\0")
    except lzma.LZMAError as error:
        raise ValueError(f"damaged: {error}") from error
    return b"".join(parts)
