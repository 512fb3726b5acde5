"""What the readers of all containers share: the input with its progress, and their ways to fail.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

__all__ = [
    "CHUNK",
    "SIGNATURE_SIZE",
    "Archive",
    "Damage",
    "Feed",
    "Input",
    "Member",
    "NotSupported",
    "container_of",
    "feed_of",
    "read_exactly",
]

CHUNK = 1 << 16
"""Bytes that are read at once, and the most that a decompressor may hand out at once.

Not more, because a decompressor that meets bad data keeps what it has unpacked in that call to itself.
"""

SIGNATURE_SIZE = 16
"""Bytes from the start of a file that `container_of` wants to see."""

_SIGNATURES = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"MSCF\0\0\0\0", "cab"),
    (b"ZDMP", "zdmp"),
)


def container_of(head: bytes) -> str | None:
    """Return which container a file is, by its first SIGNATURE_SIZE bytes; None for any other file.

    One of "gzip", "xz", "bzip2", "zstd", "zip", "cab", "zdmp".
    """
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    # "BZh", the block size as a digit, then the number pi for a block or its root for the end.
    if (
        head[:3] == b"BZh"
        and head[3:4] in b"123456789"
        and head[4:10]
        in (
            b"\x31\x41\x59\x26\x53\x59",
            b"\x17\x72\x45\x38\x50\x90",
        )
    ):
        return "bzip2"
    # zstd's skippable frames, 0x184D2A50 to 0x184D2A5F: pzstd begins with one.
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return None


class Damage(Exception):
    """Packed data that cannot be unpacked from here on; what came before is good.

    `cut` tells data that merely ends early from data that is wrong.
    """

    def __init__(self, text: str, *, cut: bool = False) -> None:
        super().__init__(text)
        self.cut = cut


class NotSupported(Exception):
    """A container or a method in it that is not read, or that needs an extra; the text says which."""


@dataclass(frozen=True)
class Member:
    """A file inside an archive: its name, its size unpacked and packed, and its number there."""

    name: str
    size: int
    packed_size: int
    index: int


class Archive(Protocol):
    """A container of named files."""

    members: list[Member]

    def heads(self, size: int) -> Iterator[tuple[Member, bytes | Damage | NotSupported]]:
        """Yield each member with its first `size` bytes, or with what keeps them from being read."""

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Yield the member's bytes. Raises Damage or NotSupported."""


class Input:
    """The packed file, counting what is read from it.

    After `begin(total)` the position reported is what has been read since then, of `total` bytes:
    an archive reads its directory first, which is no progress.
    """

    def __init__(self, file: BinaryIO, callback: Callable[[int, int], object] | None) -> None:
        self._file = file
        self._callback = callback
        self._read = 0
        self.error: OSError | None = None  # the last one of `read`: zipfile hides some
        self.most: int | None = None  # bytes that one `read` may ask for; None: any number
        self._total = self.size = file.seek(0, 2)
        file.seek(0)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.seek(0, 1)

    def read(self, size: int = -1, /) -> bytes:
        if self.most is not None and size > self.most:
            raise Damage(f"{size} bytes are to be read at once; the limit is {self.most}")
        try:
            data = self._file.read(size)
        except OSError as exc:
            self.error = exc
            raise
        self._read += len(data)
        return data

    def seekable(self) -> bool:
        return True

    def begin(self, total: int) -> None:
        self._read = 0
        self._total = total

    def report(self) -> None:
        """Call the progress callback; what it raises ends the unpacking."""
        if self._callback is not None:
            self._callback(min(self._read, self._total), self._total)


class Feed(Protocol):
    """Bytes to unpack, front to back; b"" at the end. May raise Damage."""

    def __call__(self, size: int, /) -> bytes: ...


def feed_of(chunks: Iterator[bytes]) -> Feed:
    """Return a Feed that hands out what an iterator of chunks yields."""
    rest = memoryview(b"")

    def read(size: int, /) -> bytes:
        nonlocal rest
        while not rest:
            data = next(chunks, None)
            if data is None:
                return b""
            rest = memoryview(data)
        data, rest = bytes(rest[:size]), rest[size:]
        return data

    return read


def read_exactly(read: Feed, size: int) -> bytes:
    """Return `size` bytes of a Feed, fewer at its end."""
    data = read(size)
    while len(data) < size:
        more = read(size - len(data))
        if not more:
            break
        data += more
    return data
