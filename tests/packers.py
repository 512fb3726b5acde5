"""Containers packed by other means than the package's own: what tests of `kdmp.packed` open.

SPDX-License-Identifier: MIT
"""

import bz2
import functools
import gzip
import io
import lzma
import random
import struct
import zipfile
import zlib

import pytest

from kdmp.packed import common, streams
from kdmp.writer import write_dump

PAGES = 24
BLOCK = 0x10000


def make_dump(seed=1, pages=PAGES):
    """A small dump of type 1 whose pages are half noise, half repetition."""
    noise = random.Random(seed)
    file = io.BytesIO()
    write_dump(file, 1, {3 + i: noise.randbytes(0x800) + bytes([i & 255]) * 0x800 for i in range(pages)})
    return file.getvalue()


DUMP = make_dump()


def make_zip(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def cab_checksum(data, seed=0):
    """CSUMCompute of [MS-CAB], word by word."""
    for at in range(0, len(data) // 4 * 4, 4):
        seed ^= struct.unpack_from("<I", data, at)[0]
    rest = data[len(data) // 4 * 4 :]
    return seed ^ int.from_bytes(rest, "big")


def make_cab(members, method=1, *, reserve=b"", flags=0, checksums=True, blocks=None):
    """A cabinet of one folder: method 0 stored, 1 MSZIP, any other number over stored blocks."""
    content = b"".join(members.values())
    data = bytearray()
    count, history = 0, b""
    for at in range(0, len(content), 0x8000):
        part = content[at : at + 0x8000]
        if method == 1:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=history)
            packed = b"CK" + packer.compress(part) + packer.flush()
        else:
            packed = part
        sizes = struct.pack("<HH", len(packed), len(part))
        total = cab_checksum(sizes, cab_checksum(packed)) if checksums else 0
        data += struct.pack("<I", total) + sizes + bytes(len(reserve)) + packed
        count, history = count + 1, part
    reserves = struct.pack("<HBB", len(reserve), len(reserve), len(reserve)) + reserve if reserve else b""
    names = b"prev.cab\0disk 1\0" if flags & 1 else b""
    first_file = 36 + len(reserves) + len(names) + 8 + len(reserve)
    files, offset = b"", 0
    for name, part in members.items():
        files += struct.pack("<IIHHHH", len(part), offset, 0, 0, 0, 0x20) + name.encode() + b"\0"
        offset += len(part)
    start = first_file + len(files)
    header = struct.pack(
        "<4sIIIIIBBHHHHH", b"MSCF", 0, start + len(data), 0, first_file, 0, 3, 1, 1, len(members),
        flags | (4 if reserve else 0), 7, 0,
    )  # fmt: skip
    folder = struct.pack("<IHH", start, count if blocks is None else blocks, method) + reserve
    return header + reserves + names + folder + files + bytes(data)


def lznt1(data):
    """A greedy encoder, as slow and as plain as it can be."""
    out = bytearray()
    for start in range(0, len(data), 0x1000):
        chunk = data[start : start + 0x1000]
        body, at = bytearray(), 0
        while at < len(chunk):
            flags, group = 0, bytearray()
            for bit in range(8):
                if at >= len(chunk):
                    break
                back_bits = 4
                while 1 << back_bits < at:
                    back_bits += 1
                longest = (1 << 16 - back_bits) + 2
                # Only a few distances are tried: enough to get near and far and overlapping copies.
                best = (0, 0)
                for back in (1, 3, 17, 0x800, at):
                    n = 0
                    while 0 < back <= at and n < longest and at + n < len(chunk):
                        if chunk[at + n] != chunk[at + n - back]:
                            break
                        n += 1
                    best = max(best, (n, back))
                length, back = best
                if length >= 3:
                    flags |= 1 << bit
                    group += struct.pack("<H", (back - 1) << 16 - back_bits | (length - 3))
                    at += length
                else:
                    group.append(chunk[at])
                    at += 1
            body += bytes([flags]) + group
        if len(body) < len(chunk):
            out += struct.pack("<H", 0xB000 | len(body) - 1) + body
        else:
            out += struct.pack("<H", 0x3000 | len(chunk) - 1) + chunk
    return bytes(out)


def zblock(data, block_size=BLOCK):
    packed = lznt1(data)
    if len(packed) >= block_size:
        packed = data
    return struct.pack("<4sII", b"ZBLK", len(packed), zlib.crc32(packed)) + packed


def make_zdmp(content, block_size=BLOCK, *, data_type=1, method=2, file_size=None, blocks=None):
    if blocks is None:
        parts = [content[at : at + block_size] for at in range(0, len(content), block_size)]
        blocks = [zblock(part, block_size) for part in parts]
    body = b"".join(blocks)
    size = 0x1000 + len(body) if file_size is None else file_size
    header = struct.pack("<4sIQIHH", b"ZDMP", 0x100, size, block_size, data_type, method)
    return header.ljust(0x1000, b"\0") + body


def make_zstd(data):
    try:
        module = streams._zstd()
    except common.NotSupported as exc:
        pytest.skip(str(exc))
    return module.compress(data)


PACKERS = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": make_zstd,
    "zip": lambda data: make_zip({"MEMORY.DMP": data}),
    "cab": lambda data: make_cab({"MEMORY.DMP": data}),
    "zdmp": make_zdmp,
}
# Packing takes longer than unpacking, LZNT1 in Python most of all.
PACKERS = {kind: functools.cache(pack) for kind, pack in PACKERS.items()}
ALL = list(PACKERS)
STREAMED = ["gzip", "xz", "bzip2", "zstd", "zdmp"]


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("kdmp-"))
