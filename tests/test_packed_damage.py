"""kdmp.packed: containers cut short, damaged and hostile, and what is left on the disk.

SPDX-License-Identifier: MIT
"""

import errno
import gc
import gzip
import io
import os
import random
import struct
import subprocess
import sys
import time
import zipfile

import pytest
from packers import ALL, DUMP, PACKERS, STREAMED, left_behind, make_cab, make_dump, make_zip

import kdmp
from kdmp.packed import common, streams, unpack

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
