"""kdmp.packed: every container, whole, cut short, damaged and hostile.

SPDX-License-Identifier: MIT
"""

import bz2
import errno
import functools
import gc
import gzip
import importlib
import io
import lzma
import mmap
import os
import random
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import pytest

import kdmp
from kdmp.packed import SIGNATURE_SIZE, common, container_of, streams, unpack
from kdmp.packed.lznt1 import LZNT1Error, decompress
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


# ---- packers ----


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


# ---- what is what ----


@pytest.mark.parametrize("kind", ALL)
def test_signature(kind):
    assert container_of(PACKERS[kind](DUMP)[:SIGNATURE_SIZE]) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"P",
        DUMP[:16],
        b"BZh9 and more text",
        b"BZhx1AY&SY",
        b"MSCFxxxx",
        b"\x50\x2a\x4d\x19",
        b"\x1f\x8b",
    ],
)
def test_no_signature(head):
    assert container_of(head) is None
    assert unpack(head + bytes(100)) is None


def test_skippable_zstd_frame_is_zstd():
    packed = b"\x50\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc" + make_zstd(DUMP)
    assert container_of(packed[:SIGNATURE_SIZE]) == "zstd"
    assert unpack(packed).source == DUMP


# ---- round trips ----


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("limit", [1 << 30, 1000])
def test_round_trip(kind, limit, tmp_path):
    packed = tmp_path / "MEMORY.DMP.bin"
    packed.write_bytes(PACKERS[kind](DUMP))
    temporary = tmp_path / "t"
    temporary.mkdir()
    with unpack(packed, memory_limit=limit, directory=temporary) as unpacked:
        assert unpacked.container == kind
        assert unpacked.containers == (kind,)
        assert unpacked.size == len(DUMP)
        assert (unpacked.truncated, unpacked.problem) == (False, None)
        if limit == 1000:
            assert os.path.dirname(unpacked.source) == str(temporary)
            assert os.stat(unpacked.source).st_mode & 0o777 == 0o600
            with open(unpacked.source, "rb") as file:
                assert file.read() == DUMP
        else:
            assert unpacked.source == DUMP
            assert left_behind(temporary) == []
        with kdmp.Dump(unpacked.source) as dump:
            assert len(dump.pages) == PAGES
    assert left_behind(temporary) == []


@pytest.mark.parametrize("kind", ALL)
def test_sources(kind):
    packed = PACKERS[kind](DUMP)
    file = io.BytesIO(packed)
    file.seek(5)
    for source in (packed, bytearray(packed), memoryview(packed), file):
        assert unpack(source).source == DUMP
    assert file.tell() == 5
    assert not file.closed


def test_mapped_source(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip({"a.dmp": DUMP}))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert unpack(view).source == DUMP
    # Leaving the block closed the mapping, which fails while anything still holds its bytes.
    assert view.closed


def test_path_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "none.gz")


@pytest.mark.parametrize(
    "file_name, expected",
    [("MEMORY.DMP.gz", "MEMORY.DMP"), ("a.b.GZ", "a.b"), ("plain", "plain")],
)
def test_name_of_a_stream(tmp_path, file_name, expected):
    path = tmp_path / file_name
    path.write_bytes(gzip.compress(DUMP))
    assert unpack(path).name == expected
    with open(path, "rb") as file:
        assert unpack(file).name == expected
    assert unpack(path.read_bytes()).name is None
    assert repr(unpack(path)) == f"<kdmp.Unpacked {expected!r} from gzip, {len(DUMP)} bytes in memory>"


def test_zdmp_name(tmp_path):
    path = tmp_path / "HOST.zdmp"
    path.write_bytes(make_zdmp(DUMP))
    assert unpack(path).name == "HOST.dmp"


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd"])
def test_frames_are_joined_and_padding_is_ignored(kind):
    pack = PACKERS[kind]
    packed = pack(DUMP[:5000]) + pack(b"") + pack(DUMP[5000:])
    for tail in (b"", bytes(64), b"something else"):
        unpacked = unpack(packed + tail)
        assert (unpacked.source, unpacked.problem) == (DUMP, None)
    assert unpack(packed + pack(b"more")[:-3]).truncated


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_zip_methods(method):
    assert unpack(make_zip({"a.dmp": DUMP}, method)).source == DUMP


@pytest.mark.parametrize("method", [0, 1])
@pytest.mark.parametrize("reserve", [b"", b"\1\2\3\4\5"])
@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("checksums", [True, False])
def test_cab_variants(method, reserve, flags, checksums):
    packed = make_cab(
        {"readme.txt": b"x" * 40000, "a.dmp": DUMP}, method, reserve=reserve, flags=flags, checksums=checksums
    )
    unpacked = unpack(packed)
    assert (unpacked.source, unpacked.name) == (DUMP, "a.dmp")


def test_cab_by_another_writer():
    # Made with cabarchive 0.2.5: MINI.DMP (b"PAGEDU64", 8 zeros, 70,000 x) and readme.txt (b"hello").
    packed = bytes.fromhex(
        "4d5343460000000007010000000000002c00000000000000030101000200000000000000600000000300010080110100"
        "000000000000755d2a7a00004d494e492e444d500005000000801101000000755d2a7a0000726561646d652e74787400"
        "d879d6b141000080434bedc1310d00200c003044117e1208ef1ebc209f672ed636e6d9eb8eded2030000000000000000"
        "0000000000000000000000000000000000000000000080823ebf25758830000080434bedc101010000008090dbcdef08"
        "0a0000000000000000000000000000000000000000000000000000000000000018ef8ad3081e008511434bedc1b10900"
        "000803b06b0507c1b5e77b855b9204000000804f5d337b"
    )
    unpacked = unpack(packed)
    assert unpacked.name == "MINI.DMP"
    assert unpacked.source == b"PAGEDU64" + bytes(8) + b"x" * 70000
    assert unpack(packed, member="readme.txt", any_content=True).source == b"hello"


@pytest.mark.parametrize("outer", ALL)
@pytest.mark.parametrize("inner", ALL)
def test_nested(outer, inner, tmp_path):
    if outer in ("zip", "cab"):
        pack = {"zip": make_zip, "cab": make_cab}[outer]
        packed = pack({"notes.txt": b"nothing", "x.packed": PACKERS[inner](DUMP)})
    else:
        packed = PACKERS[outer](PACKERS[inner](DUMP))
    unpacked = unpack(packed, memory_limit=3000, directory=tmp_path)
    assert unpacked.containers == (outer, inner)
    with open(unpacked.source, "rb") as file:
        assert file.read() == DUMP
    assert left_behind(tmp_path) == [os.path.basename(unpacked.source)]
    unpacked.close()
    assert left_behind(tmp_path) == []


def test_depth():
    three = gzip.compress(make_zip({"a": lzma.compress(DUMP)}))
    assert unpack(three).containers == ("gzip", "zip", "xz")
    with pytest.raises(kdmp.UnsupportedDumpError, match="xz in zip in gzip in gzip: more than 3"):
        unpack(gzip.compress(three))


# ---- LZNT1 ----


def test_lznt1_of_the_specification():
    # The example of [MS-XCA] 3.3.
    packed = bytes.fromhex(
        "38b08846232000204720410010a24701a045204400084501507900c045200524138805b4024a44ef0358028c09160148"
        "4500be009e000401189000"
    )
    assert decompress(packed, 0x1000) == (
        b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# "
        b"G F# E D E A F# F# G A A G F# E D D E F# E D D\0"
    )


@pytest.mark.parametrize("size", [0, 1, 3, 16, 17, 18, 33, 2048, 2049, 4095, 4096, 4097, 9000])
def test_lznt1_round_trip(size):
    noise = random.Random(size)
    for data in (bytes(size), noise.randbytes(size), bytes(noise.choices(b"ab", k=size)), b"xyz" * size):
        assert decompress(lznt1(data), len(data)) == data
        assert decompress(lznt1(data) + bytes(8), len(data)) == data  # a head of zero ends it


def test_lznt1_short_chunk_before_the_last_is_filled():
    assert decompress(lznt1(b"abc") + lznt1(b"def"), 0x2000) == b"abc".ljust(0x1000, b"\0") + b"def"


@pytest.mark.parametrize(
    "packed, text",
    [
        ("05b0", "runs past the end"),
        ("00b0", "runs past the end"),
        ("01900041", "has the signature 1"),
        ("02b0010000", "before its chunk"),
        ("03b002410010", "before its chunk"),
        ("02b0024101", "inside a token"),
        # One byte and a copy of 4098, the most that a token can say.
        ("03b00241ff0f", "more than 4096 bytes"),
    ],
)
def test_lznt1_damage(packed, text):
    with pytest.raises(LZNT1Error, match=text):
        decompress(bytes.fromhex(packed), 1 << 20)


def test_lznt1_literals_beyond_a_chunk():
    body = (b"\0" + bytes(8)) * 455 + b"\0"
    assert len(body) == 4096
    assert len(decompress(struct.pack("<H", 0xB000 | len(body) - 1) + body, 5000)) == 455 * 8
    one = b"\1" + struct.pack("<BH", 0, 0)  # a token that refers to nothing
    with pytest.raises(LZNT1Error):
        decompress(struct.pack("<H", 0xB000 | len(one) - 1) + one, 5000)


def test_lznt1_limit():
    with pytest.raises(LZNT1Error, match="more than 4096 bytes"):
        decompress(lznt1(bytes(0x2000)), 0x1000)


def test_lznt1_noise_is_decoded_or_refused():
    noise = random.Random(7)
    good = lznt1(DUMP[:0x3000])
    seen = set()
    for _ in range(600):
        bad = bytearray(good)
        for _ in range(3):
            bad[noise.randrange(len(bad))] = noise.randrange(256)
        try:
            assert len(decompress(bytes(bad), 0x4000)) <= 0x4000
            seen.add("decoded")
        except LZNT1Error:
            seen.add("refused")
    assert seen == {"decoded", "refused"}


# ---- zdmp ----


def test_zdmp_stored_blocks_and_a_short_last_one():
    noise = DUMP[:8] + random.Random(3).randbytes(0x3000 - 8) + b"tail"
    packed = make_zdmp(noise, 0x1000)
    assert packed[0x1000:0x100C] == b"ZBLK" + struct.pack("<II", 0x1000, zlib.crc32(noise[:0x1000]))
    assert unpack(packed).source == noise


@pytest.mark.parametrize("file_size", [0, None, len(DUMP)])
def test_zdmp_file_size_is_only_a_hint(file_size):
    unpacked = unpack(make_zdmp(DUMP, file_size=file_size))
    assert (unpacked.source, unpacked.problem) == (DUMP, None)


def test_zdmp_with_something_behind_it():
    assert unpack(make_zdmp(DUMP) + bytes(5000)).problem is None
    unpacked = unpack(make_zdmp(DUMP, file_size=1 << 40) + bytes(5000))
    assert unpacked.source == DUMP
    assert "does not begin with ZBLK" in unpacked.problem


def test_zdmp_missing_blocks():
    whole = make_zdmp(DUMP, 0x1000)
    first = len(zblock(DUMP[:0x1000], 0x1000))
    unpacked = unpack(whole[: 0x1000 + first])
    assert unpacked.truncated
    assert unpacked.source == DUMP[:0x1000]
    assert f"ends at {0x1000 + first} bytes of {len(whole)}" in unpacked.problem


@pytest.mark.parametrize(
    "options, text",
    [
        ({"data_type": 2}, "encrypted"),
        ({"data_type": 9}, "unknown DataType 9"),
        ({"method": 4}, "XPRESS with Huffman"),
        ({"method": 77}, "an unknown method"),
    ],
)
def test_zdmp_unsupported(options, text):
    with pytest.raises(kdmp.UnsupportedDumpError, match=text):
        unpack(make_zdmp(DUMP, **options))


@pytest.mark.parametrize("block_size", [0, (64 << 20) + 1])
def test_zdmp_block_size(block_size):
    with pytest.raises(kdmp.FormatError, match="BlockSize"):
        unpack(make_zdmp(b"", block_size, blocks=[zblock(DUMP[:0x1000])]))


@pytest.mark.parametrize(
    "bad, text",
    [
        (b"ZBLK" + struct.pack("<II", BLOCK + 1, 0), "more than the BlockSize"),
        (b"ZBLK" + struct.pack("<II", 4, 0) + b"abcd", "has the CRC"),
        (
            b"ZBLK" + struct.pack("<II", 2, zlib.crc32(b"ab")) + b"ab",
            "is damaged: the chunk at 0x0 runs past",
        ),
        (b"ZBLK\0", "ends inside its header"),
        (b"ZBLK" + struct.pack("<II", 400, 0) + b"abcd", "is cut short"),
        (zblock(b"short") + zblock(DUMP[:BLOCK]), "follows one that unpacks to less"),
        (zblock(DUMP[:BLOCK] + b"more", BLOCK + 4), "is damaged: unpacks to more than 65536"),
    ],
)
def test_zdmp_bad_block(bad, text):
    unpacked = unpack(make_zdmp(b"", blocks=[zblock(DUMP[:BLOCK]), bad]))
    assert unpacked.truncated
    assert text in unpacked.problem
    assert unpacked.source[:BLOCK] == DUMP[:BLOCK]
    assert f"0x{0x1000 + len(zblock(DUMP[:BLOCK])):x}" in unpacked.problem or "follows" in text


# ---- which member ----


@pytest.mark.parametrize("pack", [make_zip, make_cab])
def test_the_member_that_is_a_dump(pack):
    unpacked = unpack(
        pack({"fake.dmp": b"no dump" * 10, "x/real.bin": DUMP, "empty": b"", "z.gz": gzip.compress(DUMP)})
    )
    assert (unpacked.name, unpacked.source) == ("x/real.bin", DUMP)


@pytest.mark.parametrize("pack", [make_zip, make_cab])
def test_several_dumps(pack):
    other = make_dump(2)
    packed = pack({"a.dmp": DUMP, "notes": b"text", "b.dmp": other})
    with pytest.raises(kdmp.KdmpError, match=r"2 members.*'b\.dmp'.*member=") as caught:
        unpack(packed)
    assert "'a.dmp'" in str(caught.value)
    assert unpack(packed, member="b.dmp").source == other
    with pytest.raises(kdmp.KdmpError, match=r"no member 'c'.*'a\.dmp'"):
        unpack(packed, member="c")
    with pytest.raises(kdmp.WrongFileError, match="in the"):
        unpack(packed, member="notes")
    # The member is one of the outermost archive, the streams around and inside it do not count.
    assert unpack(gzip.compress(packed), member="b.dmp").source == other


def test_member_of_what_has_none():
    with pytest.raises(kdmp.KdmpError, match=r"member='a' is for zip archives and cabinets; this is gzip"):
        unpack(gzip.compress(DUMP), member="a")


@pytest.mark.parametrize("pack", [make_zip, make_cab])
def test_no_dump_among_the_members(pack):
    with pytest.raises(kdmp.WrongFileError, match=r"only 'm0', .*'m7' and 4 more"):
        unpack(pack({f"m{i}": b"text" for i in range(12)}))
    with pytest.raises(kdmp.WrongFileError, match="user-mode minidump"):
        unpack(pack({"a": b"MDMP" + bytes(100)}))


def test_empty_archives():
    with pytest.raises(kdmp.WrongFileError, match="is empty"):
        unpack(make_zip({}))
    with pytest.raises(kdmp.WrongFileError, match="is empty"):
        unpack(make_cab({}))
    with pytest.raises(kdmp.WrongFileError, match="is empty"):
        unpack(gzip.compress(b""))


@pytest.mark.parametrize("kind", ALL)
def test_other_content(kind):
    image = random.Random(5).randbytes(100_000)
    packed = PACKERS[kind](image)
    with pytest.raises(kdmp.WrongFileError):
        unpack(packed)
    assert unpack(packed, any_content=True).source == image


def test_other_content_is_refused_at_once():
    file = io.BytesIO(gzip.compress(random.Random(5).randbytes(8 << 20), 1))
    calls = []
    with pytest.raises(kdmp.WrongFileError, match="not a kernel dump"):
        unpack(file, progress=lambda *_: calls.append(1))
    assert calls == []


def test_elf_core_is_let_through():
    core = b"\x7fELF" + bytes(1000)
    assert unpack(gzip.compress(core)).source == core


# ---- refused ----


def test_encrypted_zip():
    packed = bytearray(make_zip({"a.dmp": DUMP}))
    packed[6] |= 1  # the flag in the local header
    packed[packed.rindex(b"PK\1\2") + 8] |= 1  # and in the directory
    with pytest.raises(kdmp.UnsupportedDumpError, match=r"'a\.dmp' in the zip archive is encrypted"):
        unpack(packed)


def test_encrypted_zip_with_several_members():
    packed = bytearray(make_zip({"a.dmp": DUMP, "b.txt": b"text"}))
    packed[6] |= 1
    packed[packed.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(kdmp.UnsupportedDumpError, match="encrypted"):
        unpack(packed)


def test_zip_method_that_zipfile_lacks():
    packed = bytearray(make_zip({"a.dmp": DUMP}, zipfile.ZIP_STORED))
    packed[8:10] = struct.pack("<H", 9)
    at = packed.rindex(b"PK\1\2") + 10
    packed[at : at + 2] = struct.pack("<H", 9)  # Deflate64
    with pytest.raises(kdmp.UnsupportedDumpError, match="cannot be unpacked"):
        unpack(packed)


@pytest.mark.parametrize("method, name", [(2, "Quantum"), (0x1503, "LZX"), (9, "unknown method 9")])
def test_cab_methods_that_are_not_read(method, name):
    with pytest.raises(kdmp.UnsupportedDumpError, match=name):
        unpack(make_cab({"a.dmp": DUMP}, method))
    with pytest.raises(kdmp.UnsupportedDumpError, match=name):
        unpack(make_cab({"a.dmp": DUMP, "b.dmp": DUMP}, method))


def test_missing_zstd(monkeypatch):
    packed = make_zstd(DUMP)

    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(kdmp.UnsupportedDumpError, match=r'pip install "kdmp\[zstd\]"'):
        unpack(packed)


def test_xz_dictionary_that_is_too_large():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    packed = bytearray(lzma.compress(DUMP, filters=filters))
    at = packed.index(b"\x21\x01", 12) + 2
    packed[at] = 40  # 4 GiB - 1
    header = packed[12 : 12 + (packed[12] + 1) * 4]
    packed[12 + len(header) - 4 : 12 + len(header)] = struct.pack("<I", zlib.crc32(header[:-4]))
    with pytest.raises(kdmp.FormatError, match=r"[Mm]emory"):
        unpack(packed)


# ---- cut short and damaged ----


@pytest.mark.parametrize("kind", STREAMED)
def test_cut_stream_keeps_what_there_is(kind, tmp_path):
    whole = DUMP if kind == "zdmp" else make_dump(1, 300)
    packed = PACKERS[kind](whole)
    kept = []
    for part in (0.3, 0.6, 0.9, 1 - 1 / len(packed)):
        cut = packed[: int(len(packed) * part)]
        try:
            unpacked = unpack(cut, memory_limit=5000, directory=tmp_path)
        except kdmp.FormatError:  # not even the first block is whole
            kept.append(0)
            continue
        assert unpacked.truncated
        assert unpacked.problem
        with unpacked:
            data = unpacked.source
            if isinstance(data, str):
                with open(data, "rb") as file:
                    data = file.read()
        assert whole.startswith(data)
        kept.append(len(data))
    assert kept == sorted(kept)
    assert left_behind(tmp_path) == []
    assert kept[-1] > 0


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_of_prefix(kind):
    packed = PACKERS[kind](DUMP)
    for size in [*range(0, 200, 3), *range(200, len(packed), 9001)]:
        try:
            unpacked = unpack(packed[:size])
        except kdmp.FormatError as exc:
            assert str(exc)
        else:
            assert unpacked is None or (unpacked.truncated and DUMP.startswith(unpacked.source))


@pytest.mark.parametrize("kind", ALL)
def test_damage_in_the_middle(kind):
    packed = bytearray(PACKERS[kind](make_dump(9, 100)))
    whole = make_dump(9, 100)
    for at in (len(packed) // 2, len(packed) * 2 // 3):
        packed[at : at + 64] = bytes(a ^ 0x5A for a in packed[at : at + 64])
    try:
        unpacked = unpack(bytes(packed))
    except kdmp.FormatError:
        assert kind in ("bzip2", "zstd")  # their blocks are large: the first one is damaged already
        return
    assert unpacked.truncated
    assert unpacked.problem
    # A checksum at the very end finds out late: what precedes the damage is good in any case.
    assert unpacked.source[: len(whole) // 5] == whole[: len(whole) // 5]


@pytest.mark.parametrize("kind", ALL)
def test_mutations_give_results_or_typed_errors(kind):
    noise = random.Random(11)
    good = PACKERS[kind](make_dump(4, 4))
    started = time.process_time()
    for _ in range(100):
        bad = bytearray(good)
        for _ in range(noise.choice((1, 1, 4, 20))):
            span = len(bad) if noise.random() < 0.5 else min(len(bad), 120)
            bad[noise.randrange(span)] = noise.randrange(256)
        try:
            unpacked = unpack(bytes(bad), max_size=1 << 22)
        except kdmp.KdmpError as exc:
            assert str(exc)
        else:
            assert unpacked is None or unpacked.size <= 1 << 22
    assert time.process_time() - started < 60


def test_zip_without_its_directory():
    packed = make_zip({"a.dmp": DUMP})
    with pytest.raises(kdmp.FormatError, match="directory at the end"):
        unpack(packed[:-60])


def test_gzip_with_a_bad_checksum_keeps_everything():
    packed = gzip.compress(DUMP)
    unpacked = unpack(packed[:-8] + bytes(4) + packed[-4:])
    assert unpacked.source == DUMP
    assert "incorrect data check" in unpacked.problem


def test_damage_around_an_archive_is_told():
    packed = gzip.compress(make_zip({"a.dmp": DUMP}))
    bad = packed[:-8] + bytes(4) + packed[-4:]
    unpacked = unpack(bad)  # only the CRC at the end is wrong
    assert unpacked.source == DUMP
    assert "the gzip stream is damaged" in unpacked.problem
    with pytest.raises(kdmp.FormatError, match=r"directory .* \(the gzip stream ends early\)"):
        unpack(packed[: len(packed) // 2])


def test_zip_with_a_bad_checksum():
    packed = bytearray(make_zip({"a.dmp": DUMP}, zipfile.ZIP_STORED))
    packed[50000] ^= 1
    unpacked = unpack(packed)
    assert unpacked.truncated
    assert "CRC" in unpacked.problem


@pytest.mark.parametrize("size", [0xFFFFFFFE, 0])
def test_zip_that_lies_about_a_size(size):
    packed = bytearray(make_zip({"a.dmp": DUMP}))
    at = packed.rindex(b"PK\1\2") + 24
    packed[at : at + 4] = struct.pack("<I", size)
    try:
        assert unpack(packed).size <= len(DUMP)
    except kdmp.FormatError as exc:
        assert size == 0, exc


def test_cab_bad_blocks():
    good = make_cab({"a.dmp": DUMP})
    start = good.index(b"CK") - 8
    for offset, value, text in [
        (4, struct.pack("<H", 0xFFFF), "claims"),
        (6, struct.pack("<H", 0x8001), "claims"),
        (0, b"\1\2\3\4", "wrong checksum"),
    ]:
        bad = bytearray(good)
        bad[start + offset : start + offset + len(value)] = value
        with pytest.raises(kdmp.FormatError, match=text):
            unpack(bad)
    bad = bytearray(make_cab({"a.dmp": DUMP}, checksums=False))
    bad[start + 8] = 0
    with pytest.raises(kdmp.FormatError, match="does not begin with CK"):
        unpack(bad)


def test_cab_lacks_blocks():
    unpacked = unpack(make_cab({"a.dmp": DUMP}, blocks=2))
    assert unpacked.source == DUMP[:0x10000]
    assert f"lacks {len(DUMP) - 0x10000} of its {len(DUMP)} bytes" in unpacked.problem


def test_cab_that_is_part_of_a_set():
    packed = bytearray(make_cab({"a.dmp": DUMP}))
    at = packed.index(b"a.dmp") - 8
    packed[at : at + 2] = b"\xfe\xff"
    with pytest.raises(kdmp.UnsupportedDumpError, match="one of a set"):
        unpack(packed)
    packed[at : at + 2] = b"\x05\x00"
    with pytest.raises(kdmp.FormatError, match="no folder 5"):
        unpack(packed)


# ---- too much ----


@pytest.mark.parametrize("kind", ALL)
def test_bomb(kind, tmp_path):
    packed = PACKERS[kind](DUMP[:0x2000] + bytes((3 << 20) + 5))
    with pytest.raises(kdmp.FormatError, match="more than the limit of 2000000 bytes"):
        unpack(packed, memory_limit=1 << 20, max_size=2_000_000, directory=tmp_path)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bomb_in_a_zip_of_any_method(method, tmp_path):
    packed = make_zip({"a.dmp": DUMP[:0x2000] + bytes(40 << 20)}, method)
    with pytest.raises(kdmp.FormatError, match="limit"):
        unpack(packed, memory_limit=1 << 16, max_size=20 << 20, directory=tmp_path)
    assert left_behind(tmp_path) == []


def test_bomb_inside_a_spooled_container(tmp_path):
    packed = gzip.compress(make_zip({"a.dmp": DUMP[:0x2000] + bytes(8 << 20)}, zipfile.ZIP_STORED))
    with pytest.raises(kdmp.FormatError, match="limit"):
        unpack(packed, memory_limit=1 << 16, max_size=1 << 20, directory=tmp_path)
    assert left_behind(tmp_path) == []


def test_endless_empty_frames(monkeypatch):
    monkeypatch.setattr(streams, "_MAX_EMPTY_FRAMES", 50)
    with pytest.raises(kdmp.FormatError, match="more than 50 empty frames"):
        unpack(gzip.compress(b"") * 100 + gzip.compress(DUMP))


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd"])
def test_output_per_call_is_bounded(kind):
    packed = PACKERS[kind](bytes(20 << 20))
    sizes = [len(data) for data in streams.stream_chunks(kind, io.BytesIO(packed).read)]
    assert sum(sizes) == 20 << 20
    assert max(sizes) <= common.CHUNK


def test_zeros_take_no_room_on_the_disk(tmp_path):
    with unpack(gzip.compress(DUMP + bytes(64 << 20)), memory_limit=1 << 16, directory=tmp_path) as unpacked:
        info = os.stat(unpacked.source)
        assert info.st_size == unpacked.size == len(DUMP) + (64 << 20)
        with open(unpacked.source, "rb") as file:
            assert file.read(len(DUMP)) == DUMP
            file.seek(-(1 << 20), 2)
            assert file.read() == bytes(1 << 20)
        if info.st_blocks * 512 > 32 << 20:
            pytest.skip("this file system keeps no holes")
        assert info.st_blocks * 512 < 8 << 20


# ---- the temporary file ----


def test_close_removes_the_file_and_mappings_stay(tmp_path):
    unpacked = unpack(gzip.compress(DUMP), memory_limit=0, directory=tmp_path)
    with kdmp.Dump(unpacked.source) as dump:
        unpacked.close()
        unpacked.close()
        assert left_behind(tmp_path) == []
        assert bytes(dump.pages[3]) == DUMP[0x2000:0x3000]


def test_garbage_collection_removes_the_file(tmp_path):
    unpacked = unpack(gzip.compress(DUMP), memory_limit=0, directory=tmp_path)
    assert len(left_behind(tmp_path)) == 1
    del unpacked
    gc.collect()
    assert left_behind(tmp_path) == []


def test_the_file_that_somebody_else_removed(tmp_path):
    unpacked = unpack(gzip.compress(DUMP), memory_limit=0, directory=tmp_path)
    os.unlink(unpacked.source)
    unpacked.close()
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "1 / 0"])
def test_end_of_the_interpreter_removes_the_file(tmp_path, ending):
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(DUMP))
    script = (
        "import os, sys\nfrom kdmp.packed import unpack\n"
        f"u = unpack({str(packed)!r}, memory_limit=0, directory={str(tmp_path)!r})\n"
        "assert os.path.exists(u.source)\n"
        "if hasattr(os, 'fork') and os.fork() == 0: sys.exit()\n"
        "if hasattr(os, 'fork'): os.wait()\n"
        "assert os.path.exists(u.source), 'a child removed it'\n"
        "print('made', flush=True)\n" + ending
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(kdmp.__file__)))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert result.stdout == "made\n", result.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("at_call", [1, 2])
def test_cancel(kind, at_call, tmp_path):
    class Cancelled(Exception):
        pass

    calls = []

    def progress(done, total):
        calls.append((done, total))
        if len(calls) == at_call:
            assert len(left_behind(tmp_path)) == 1
            raise Cancelled

    packed = PACKERS[kind](make_dump(1, 300))
    with pytest.raises(Cancelled):
        unpack(packed, progress=progress, memory_limit=0, directory=tmp_path)
    assert len(calls) == at_call
    assert left_behind(tmp_path) == []


def test_cancel_while_a_container_is_spooled(tmp_path):
    def progress(done, total):
        raise KeyboardInterrupt

    packed = gzip.compress(make_zip({"a.dmp": DUMP}))
    with pytest.raises(KeyboardInterrupt):
        unpack(packed, progress=progress, memory_limit=0, directory=tmp_path)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("kind", ALL)
def test_progress(kind):
    packed = PACKERS[kind](make_dump(1, 300))
    calls = []
    unpack(packed, progress=lambda done, total: calls.append((done, total)))
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert len({total for _, total in calls}) == 1
    total = calls[0][1]
    assert 0 <= done[0] <= done[-1] <= total <= len(packed)
    assert done[-1] >= total * 0.99


def test_full_disk(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("builtins.open", lambda file, mode: Full(file, mode))
    with pytest.raises(OSError, match="no space"):
        unpack(gzip.compress(DUMP), memory_limit=0, directory=tmp_path)
    monkeypatch.undo()
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("kind", ALL)
def test_input_that_cannot_be_read(kind, tmp_path):
    class Bad(io.BytesIO):
        reads = 0

        def read(self, size=-1):
            self.reads += 1
            if self.reads > 5 or self.tell() > 20_000:
                raise OSError(errno.EIO, "input/output error")
            return super().read(min(size, 5000) if size >= 0 else size)

    with pytest.raises(OSError, match="input/output"):
        unpack(Bad(PACKERS[kind](DUMP)), memory_limit=0, directory=tmp_path)
    assert left_behind(tmp_path) == []


def test_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        unpack(gzip.compress(DUMP), memory_limit=0, directory=tmp_path / "none")
