"""kdmp.doctor on files that do not open, and on packed ones.

SPDX-License-Identifier: MIT
"""

import gzip
import io
import random
import struct
import zipfile

import pytest
from doctordumps import (
    ERROR,
    INFO,
    Machine,
    only,
    poke,
    triage,
)
from dumpbuilder import (
    BITMAP,
    COMPLETE,
    FULL,
    HEADER,
    RANGES8,
    SUMMARY,
    patched,
    ranges_dump,
    runs_dump,
    stamp,
)

import kdmp
from kdmp.doctor import examine
from kdmp.doctor.rawheader import bitmap_runs

SEED = 20_240_314
FIELD = {"block_count": 0x207C}


# ---- files that do not open ----


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"MDMP" + bytes(100), "minidump"),
        (b"HIBR" + bytes(100), "hibernation"),
        (b"\x7fELF" + bytes(100), "ELF"),
        (b"PAGE" + bytes(100), "page file"),
        (bytes(5000), "zeros"),
        (b"some text", "text file"),
        (b"PAG", "text file"),
        (b"\x01" * 100, "PAGEDU64"),
    ],
)
def test_wrong_file(content, words, tmp_path):
    """pitfalls.md R17."""
    (tmp_path / "file").write_bytes(content)
    for source in (content, tmp_path / "file", io.BytesIO(content)):
        report = examine(source)
        finding = only(report.findings, "wrong-file")
        assert words in finding.message
        assert (report.dump_opens, finding.severity, report.works) == (False, ERROR, [])
        assert report.error


def test_advice_for_an_elf_core():
    assert "open_raw" in only(examine(b"\x7fELF" + bytes(100)).findings, "wrong-file").advice


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        examine(tmp_path / "missing.dmp")
    with pytest.raises(TypeError):
        examine(7.5)


@pytest.mark.parametrize("size", [8, 0x30, 0x100, 0x1000, 0x1FFF])
def test_header_cut(size):
    report = examine(Machine().dump()[:size])
    finding = only(report.findings, "header-cut")
    assert (finding.offset, finding.expected, finding.found) == (size, 0x2000, size)
    assert [finding.code for finding in report.findings] == ["header-cut"]
    assert bool(report.works) == (size > 0x10)


def test_header_lost():
    image = bytes(HEADER) + Machine().dump()[HEADER:]
    finding = only(examine(image).findings, "header-lost")
    assert (finding.severity, finding.offset, finding.expected) == (ERROR, 0, b"PAGEDU64")


def test_second_half_of_the_signature():
    image = Machine().dump(FULL)
    report = examine(poke(image, (4, "4s", b"DUXX")))
    finding = only(report.findings, "signature")
    assert (finding.offset, finding.expected, finding.found) == (4, b"DU64", b"DUXX")
    narrow = examine(poke(Machine("pae").dump(FULL), (4, "4s", b"\0\0\0\0")))
    assert only(narrow.findings, "signature").expected == b"DUMP"


def test_run_count():
    """The runs behind a wrong count cannot be believed, those before a wrong run can."""
    for count, found in ((0, 0), (44, 44), (0xFFFFFFFF, 0xFFFFFFFF), (0x45474150, None)):
        report = examine(patched(Machine().dump(FULL), runs=count))
        finding = only(report.findings, "run-list")
        assert (finding.severity, finding.offset, finding.found) == (ERROR, 0x88, found)
        assert report.runs == []


def test_run_beyond_memory():
    image = patched(runs_dump([(1, 2), (9, 1)]), run1=(1 << 60, 1))
    report = examine(image)
    finding = only(report.findings, "run-list")
    assert (finding.offset, finding.found) == (0xA8, 1 << 60)
    assert report.runs == [(1, 2, 0x2000)]
    assert "2 pages" in only(report.findings, "raw").message
    with kdmp.open_raw(image, report.runs) as dump:
        assert bytes(dump.pages[2]) == stamp(1)


def test_runs_and_a_type_that_is_unknown_or_wrong():
    image = Machine().dump(FULL)
    report = examine(patched(image, kind=6))
    assert only(report.findings, "signature").offset == HEADER
    assert only(report.findings, "dump-type").expected == 1
    pages = Machine().pages
    with kdmp.open_raw(image, report.runs) as dump:
        assert {pfn: bytes(dump.pages[pfn]) for pfn in dump.pages} == pages
    unknown = only(examine(patched(image[:-1], kind=77)).findings, "dump-type")
    assert (unknown.expected, unknown.found) == ("1 to 10", 77)
    filler = examine(poke(image[:-1], (0xF98, "4s", b"PAGE")))
    assert not filler.dump_opens
    assert "never written" in only(filler.findings, "dump-type").message


def test_triage_with_another_type():
    report = examine(patched(triage(), kind=5))
    assert (report.dump_opens, only(report.findings, "dump-type").expected) == (False, 4)


def test_bitmap_bits():
    for bits in (0, 1 << 40, (1 << 64) - 1):
        image = poke(Machine().dump(BITMAP), (0x2028, "<QQ", 0, bits))
        finding = only(examine(image).findings, "bitmap-bits")
        assert (finding.offset, finding.found) == (0x2030, bits)


def test_bitmap_cut():
    report = examine(Machine().dump(BITMAP)[:0x2040])
    finding = only(report.findings, "bitmap-cut")
    assert (finding.offset, finding.expected) == (0x2040, 0x2038 + 0x440 // 8)
    assert only(examine(Machine().dump(BITMAP)[:0x2020]).findings, "header-cut").expected == 0x2038
    assert only(examine(Machine().dump(SUMMARY)[:0x2020]).findings, "header-cut").offset == 0x2020


@pytest.mark.parametrize("first", [0, 0x2038, (1 << 64) - 0x1000])
def test_first_page_of_a_bitmap(first):
    """The usual place is proposed, and right."""
    machine = Machine()
    report = examine(patched(machine.dump(BITMAP), first_page=first))
    finding = only(report.findings, "first-page")
    assert (finding.offset, finding.expected, finding.found) == (0x2020, 0x3000, first)
    assert "fill the file exactly" in finding.advice
    with kdmp.open_raw(machine.dump(BITMAP), report.runs) as dump:
        assert {pfn: bytes(dump.pages[pfn]) for pfn in dump.pages} == machine.pages


def test_first_page_of_a_summary():
    finding = only(examine(poke(Machine().dump(SUMMARY), (0x200C, "<I", 0x2000))).findings, "first-page")
    assert (finding.offset, finding.found) == (0x200C, 0x2000)


@pytest.mark.parametrize("kind, mark", [(BITMAP, b"XDMPDUMP"), (RANGES8, b"\x40\0\0\0RDXXDUMP")])
def test_damaged_signature(kind, mark):
    """What stands behind half a signature is read all the same."""
    machine = Machine()
    image = machine.dump(kind)
    report = examine(poke(image, (HEADER, f"{len(mark)}s", mark)))
    assert [f.severity for f in report.findings if f.code == "signature"] == [ERROR, INFO]
    with kdmp.open_raw(image, report.runs) as dump:
        assert {pfn: bytes(dump.pages[pfn]) for pfn in dump.pages} == machine.pages


@pytest.mark.parametrize("metadata", [0, 0x18, 1 << 40])
def test_range_metadata(metadata):
    machine = Machine()
    image = machine.dump(RANGES8)
    right = struct.unpack_from("<Q", image, 0x2010)[0]
    report = examine(patched(image, metadata=metadata))
    finding = only(report.findings, "range-metadata")
    assert (finding.offset, finding.expected, finding.found) == (0x2010, right, metadata)
    with kdmp.open_raw(image, report.runs) as dump:
        assert set(dump.pages) == set(machine.pages)
    hopeless = examine(patched(image, metadata=metadata, range_first_page=0))
    assert only(hopeless.findings, "range-metadata").expected == "a positive multiple of 0x10"


def test_first_page_of_ranges():
    finding = only(examine(patched(Machine().dump(RANGES8), range_first_page=0x2010)).findings, "first-page")
    assert (finding.severity, finding.offset, finding.found) == (ERROR, 0x2018, 0x2010)


def test_range_total_and_entries():
    image = ranges_dump([(1, 2), (8, 4)], kind=COMPLETE, total=5)
    finding = only(examine(image).findings, "page-count")
    assert (finding.offset, finding.expected, finding.found) == (0x2028, 6, 5)
    report = examine(patched(ranges_dump([(1, 2), (8, 4)]), range1=(1 << 50, 1)))
    assert only(report.findings, "range-entry").offset == 0x2040
    assert report.runs == [(1, 2, 0x2050)]
    assert only(examine(ranges_dump([(1, 2)])[:0x2028]).findings, "header-cut").expected == 0x2030
    assert "range table" in examine(patched(ranges_dump([(1, 2)]), metadata=0x10)).findings[0].message


def test_triage_that_does_not_open():
    image = triage()
    assert only(examine(image[:0x2040]).findings, "header-cut").expected == 0x2080
    huge = image + bytes(16 << 18)
    finding = only(examine(poke(huge, (FIELD["block_count"], "<I", 0xFFFFFF))).findings, "triage-blocks")
    assert (finding.severity, finding.offset, finding.found) == (ERROR, FIELD["block_count"], 0xFFFFFF)


def test_last_words():
    """What only the core knows is told in its words: here, more memory than there can be."""
    report = examine(runs_dump([(0, 1 << 39)], pages=[]))
    finding = only(report.findings, "format")
    assert (finding.severity, finding.message) == (ERROR, report.error)


def test_bitmap_runs():
    bits = random.Random(SEED).getrandbits(300)
    runs = bitmap_runs(bits.to_bytes(38, "little"), 300)
    assert sum((1 << count) - 1 << first for first, count in runs) == bits
    assert bitmap_runs(b"\xff\xff", 9) == [(0, 9)]
    assert bitmap_runs(b"\0", 8) == []


# ---- packed files ----


def test_packed():
    image = Machine().dump()
    packed = gzip.compress(random.Random(SEED).randbytes(16) and image, 1)
    assert examine(packed).healthy
    cut = examine(packed[:-30])
    finding = only(cut.findings, "packed-damage")
    assert (cut.dump_opens, finding.severity) == (True, ERROR)


def test_packed_without_a_dump():
    text = examine(gzip.compress(b"text"))
    assert (text.dump_opens, only(text.findings, "wrong-file").severity) == (False, ERROR)
    broken = examine(gzip.compress(b"x")[:12])
    assert only(broken.findings, "packed-damage").severity == ERROR
    damaged = examine(gzip.compress(patched(Machine().dump(FULL), runs=44)))
    assert only(damaged.findings, "run-list").offset == 0x88
    assert damaged.runs == []


def test_packed_with_two_dumps():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.dmp", Machine().dump())
        archive.writestr("b.dmp", Machine().dump(FULL))
    assert only(examine(out.getvalue()).findings, "packed-members").severity == ERROR


def test_packed_in_a_way_that_is_not_read():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.dmp", Machine().dump())
    locked = bytearray(out.getvalue())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.index(mark) + at] |= 1
    assert only(examine(bytes(locked)).findings, "packed-unsupported").severity == ERROR
