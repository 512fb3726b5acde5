"""Containers of a single nameless stream: gzip, xz, bzip2, zstd.

The decompressors come from the standard library, zstd's before Python 3.14 from its backport. They
are driven by hand and not through `gzip.open` and its like, because those drop what they have
unpacked when the stream ends early, and their output per call has no bound.

SPDX-License-Identifier: MIT
"""

import bz2
import contextlib
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from kdmp.packed.common import CHUNK, SIGNATURE_SIZE, Damage, Feed, NotSupported, container_of

__all__ = ["stream_chunks"]

# xz announces how large a dictionary it wants, up to 4 GiB; `xz -9` wants 64 MiB.
_XZ_MEMORY = 1 << 30

# A stream may be a chain of frames, and a frame may unpack to nothing: that chain must end somewhere.
_MAX_EMPTY_FRAMES = 1 << 16


class _Decompressor(Protocol):
    """What bz2, lzma and compression.zstd agree on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor for one gzip member, in the shape of the others.

    What zlib has unpacked in a call that fails it keeps to itself: all of a small dump whose checksum
    at the end is wrong. So a call that fails is repeated byte by byte, and its error comes later.
    """

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._full = False
        self._error: zlib.error | None = None

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        # A call that filled its limit may have left output inside zlib with no input to go with it.
        return not self._zlib.unconsumed_tail and not self._full and self._error is None

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        if self._error is not None:
            raise self._error
        before = self._zlib.copy()
        data = self._zlib.unconsumed_tail + data
        try:
            out = self._zlib.decompress(data, max_length)
        except zlib.error as exc:
            self._error = exc
            self._zlib = before.copy()  # one that is not at its end
            return self._salvage(before, data)
        self._full = len(out) == max_length
        return out

    def _salvage(self, decompressor: "zlib._Decompress", data: bytes) -> bytes:
        """Return what comes before the error, which a byte more or less of input tells apart."""
        out = bytearray()
        with contextlib.suppress(zlib.error):
            for at in range(len(data)):
                out += decompressor.decompress(data[at : at + 1])
        return bytes(out)


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise NotSupported('zstd needs Python 3.14 or the extra "zstd": pip install "kdmp[zstd]"')


def _open_zstd() -> tuple[Callable[[], _Decompressor], type[Exception]]:
    module = _zstd()
    return module.ZstdDecompressor, module.ZstdError


# How a decompressor for one frame is made, and what it raises for bad data.
_STREAMS: dict[str, Callable[[], tuple[Callable[[], _Decompressor], type[Exception]]]] = {
    "gzip": lambda: (_Gzip, zlib.error),
    "xz": lambda: (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), lzma.LZMAError),
    "bzip2": lambda: (bz2.BZ2Decompressor, OSError),
    "zstd": _open_zstd,
}


def stream_chunks(kind: str, read: Feed) -> Iterator[bytes]:
    """Yield what a stream of this kind unpacks to, at most CHUNK bytes at a time.

    Frames that follow each other are joined, as the commands gzip, xz, bzip2 and zstd do it. What
    follows the last frame and is no frame is ignored: padding, mostly.
    """
    make, error = _STREAMS[kind]()
    data = read(CHUNK)
    empty = 0
    while data:
        decompressor, produced = make(), False
        while not decompressor.eof:
            if decompressor.needs_input and not data:
                data = read(CHUNK)
                if not data:
                    raise Damage(f"the {kind} stream ends early", cut=True)
            try:
                out = decompressor.decompress(data, max_length=CHUNK)
            except (error, EOFError) as exc:
                raise Damage(f"the {kind} stream is damaged: {exc}") from exc
            data = b""
            if out:
                produced = True
                yield out
        empty = 0 if produced else empty + 1
        if empty > _MAX_EMPTY_FRAMES:
            raise Damage(f"the {kind} stream has more than {_MAX_EMPTY_FRAMES} empty frames in a row")
        data = decompressor.unused_data.lstrip(b"\0")
        if len(data) < SIGNATURE_SIZE:
            data = (data + read(CHUNK)).lstrip(b"\0")
        if container_of(data[:SIGNATURE_SIZE]) != kind:
            return
