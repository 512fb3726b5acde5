"""kdmp.packed: every container, whole.

SPDX-License-Identifier: MIT
"""

import gzip
import importlib
import io
import lzma
import mmap
import os
import random
import struct
import zipfile
import zlib

import pytest
from packers import (
    ALL,
    BLOCK,
    DUMP,
    PACKERS,
    PAGES,
    left_behind,
    lznt1,
    make_cab,
    make_dump,
    make_zdmp,
    make_zip,
    make_zstd,
    zblock,
)

import kdmp
from kdmp.packed import SIGNATURE_SIZE, container_of, unpack
from kdmp.packed.lznt1 import LZNT1Error, decompress

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
