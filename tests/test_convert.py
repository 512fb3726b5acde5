"""kdmp.convert: every kind of dump to every kind that is written, and to raw images.

SPDX-License-Identifier: MIT
"""

import errno
import io
import os
import struct

import pytest
from clidumps import core_of, elf_core, triage32_dump, triage_dump, x86_dump
from dumpbuilder import (
    ALL_KINDS,
    HEADER_ONLY,
    PAGE,
    WRITER_KINDS,
    bitmap_dump,
    build,
    header_page,
    ranges_dump,
    runs_dump,
    stamp,
)

import kdmp
from kdmp import sample
from kdmp.convert import KINDS, RAW, ConversionReport, LeftOut, convert

# Frames with holes between them, one run of more than a chunk (256 pages), one far away.
FRAMES = [1, 2, 5, *range(0x100, 0x100 + 600), 0x12345]
PAGES = {pfn: stamp(pfn) for pfn in FRAMES}
FACTS = {
    "minor_version": 19041,
    "directory_table_base": 0x1AD002,
    "pfn_database": 0xFFFFFA8000000000,
    "ps_loaded_module_list": 0xFFFFF80012345670,
    "ps_active_process_head": 0xFFFFF80012345690,
    "kd_debugger_data_block": 0xFFFFF80012340000,
    "number_processors": 4,
    "bug_check_code": 0x9F,
    "bug_check_parameter1": 3,
    "bug_check_parameter2": 0xFFFFAB8112345678,
    "bug_check_parameter3": 0,
    "bug_check_parameter4": (1 << 64) - 1,
    "system_time": 133_000_000_000_000_000,
    "system_up_time": 1234567890,
    "product_type": 3,
    "suite_mask": 0x110,
    "boot_id": 77,
    "comment": "converted, not stirred",
}
# What follows from the layout instead of being carried over.
DETERMINED = {"dump_type", "required_dump_space", "number_of_runs", "number_of_pages"}


def carried(dump):
    return {name: value for name, value in dump.header.items() if name not in DETERMINED}


def contents(dump):
    return {pfn: bytes(dump.pages[pfn]) for pfn in dump.pages}


def source(kind, pages=PAGES):
    """A dump with header facts, and context and exception records that are no filler."""
    image = bytearray(build(kind, pages, **FACTS))
    image[0x348 : 0x348 + 3000] = bytes(k * 7 % 251 for k in range(3000))
    struct.pack_into("<IIQQI", image, 0xF00, 0xC0000005, 1, 0, 0xFFFFF80011112222, 0)
    return bytes(image)


def converted(image, kind, **arguments):
    """The report, and the bytes of the converted dump."""
    out = io.BytesIO()
    with kdmp.open(image) as dump:
        report = convert(dump, out, kind, **arguments)
    return report, out.getvalue()


@pytest.mark.parametrize("into", WRITER_KINDS)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_becomes_every_kind(kind, into):
    image = source(kind)
    report, result = converted(image, into)
    with kdmp.open(image) as before, kdmp.open(result) as after:
        assert after.kind == into
        assert contents(after) == PAGES == contents(before)
        assert carried(after) == carried(before)
        assert after.context_bytes() == before.context_bytes() == image[0x348 : 0x348 + 3000]
        assert after.exception_bytes() == before.exception_bytes() == image[0xF00:0xF98]
        assert after.header["required_dump_space"] == len(result)
        assert after.truncated == 0
    assert report == ConversionReport(kdmp.DumpKind(into), len(FRAMES), len(result), ())


@pytest.mark.parametrize("kind", WRITER_KINDS)
def test_there_and_back_again_gives_the_same_file(kind):
    image = source(kind)
    for between in WRITER_KINDS:
        assert converted(converted(image, between)[1], kind)[1] == image


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_raw_has_each_page_at_its_physical_address(kind):
    image = source(kind, {pfn: PAGES[pfn] for pfn in FRAMES[:-1]})
    report, result = converted(image, RAW)
    assert len(result) == (FRAMES[-2] + 1) * PAGE == report.size
    for pfn in range(FRAMES[-2] + 1):
        assert result[pfn * PAGE : (pfn + 1) * PAGE] == PAGES.get(pfn, bytes(PAGE))
    assert (report.kind, report.pages, report.left_out) == (RAW, len(FRAMES) - 1, ())


def test_raw_of_a_huge_address_span_is_a_sparse_file(tmp_path):
    far = (1 << 40) // PAGE
    target = tmp_path / "memory.raw"
    with kdmp.open(runs_dump([(1, 1), (far, 1)])) as dump:
        report = convert(dump, target, RAW)
    status = os.stat(target)
    assert status.st_size == report.size == (1 << 40) + PAGE
    assert status.st_blocks * 512 < 1 << 20
    with open(target, "rb") as file:
        assert file.read(PAGE) == bytes(PAGE)
        assert file.read(PAGE) == stamp(0)
        file.seek(far * PAGE)
        assert file.read() == stamp(1)


class NarrowFile(io.BytesIO):
    """A file that cannot be larger than 1 MiB, as one on a file system may be."""

    def __init__(self, number, at="seek"):
        super().__init__()
        self.number, self.at = number, at

    def seek(self, place, whence=0):
        if self.at == "seek" and place > 1 << 20:
            raise OSError(self.number, "no")
        return super().seek(place, whence)

    def write(self, data):
        if self.at == "write" and self.tell() + len(data) > 1 << 20:
            raise OSError(self.number, "no")
        return super().write(data)


@pytest.mark.parametrize("at", ["seek", "write"])
def test_raw_that_the_file_cannot_be(at):
    with kdmp.open(runs_dump([(1, 1), (0x100, 1)])) as dump:
        for number in (errno.EINVAL, errno.EFBIG):
            file = NarrowFile(number, at)
            with pytest.raises(kdmp.UnsupportedDumpError, match=f"{0x101000} bytes because of frame 0x100"):
                convert(dump, file, RAW)
            if at == "seek":
                assert file.getvalue() == b""  # nothing has been written
        with pytest.raises(OSError, match="no"):
            convert(dump, NarrowFile(errno.EIO, at), RAW)


def test_raw_with_a_frame_beyond_any_file(tmp_path):
    with kdmp.open(runs_dump([(1, 1)])) as dump, dump.overlay() as ov:
        ov.create_frame(1 << 39)
        with pytest.raises(kdmp.UnsupportedDumpError, match="frame 0x8000000000,"):
            ov.save_as(io.BytesIO(), RAW)  # 2 PiB of memory
        file = io.BytesIO()
        file.seek(1 << 62)
        with pytest.raises(kdmp.UnsupportedDumpError, match=f"{(1 << 51) + PAGE} bytes"):
            ov.save_as(file, RAW)
        target = tmp_path / "memory.raw"
        try:
            assert ov.save_as(target, RAW).size == target.stat().st_size == (1 << 51) + PAGE
        except kdmp.UnsupportedDumpError as error:  # as ext4
            assert "frame 0x8000000000," in str(error) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, kind", KINDS.items())
def test_kinds_have_names(name, kind):
    report, by_name = converted(source(1), name)
    assert by_name == converted(source(1), kind)[1]
    assert report.kind == kind


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 7, 11, -1, "full dump", ""])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(ValueError, match="kind"):
        converted(source(1), kind)


@pytest.mark.parametrize("kind", [8, 9, 0xA])
def test_ranges_leave_frame_0_out_and_say_so(kind):
    image = build(1, {0: stamp(0), 1: stamp(1), 7: stamp(7)})
    report, result = converted(image, kind)
    assert report.pages == 2
    assert [left.pages for left in report.left_out] == [1]
    assert "frame 0" in report.left_out[0].reason
    with kdmp.open(result) as dump:
        assert contents(dump) == {1: stamp(1), 7: stamp(7)}


@pytest.mark.parametrize("kind", [1, 5, 6])
def test_other_kinds_keep_frame_0(kind):
    image = build(1, {0: stamp(0), 1: stamp(1)})
    report, result = converted(image, kind)
    assert report.left_out == ()
    with kdmp.open(result) as dump:
        assert contents(dump) == {0: stamp(0), 1: stamp(1)}


def test_only_frame_0_does_not_make_a_ranges_dump():
    with pytest.raises(kdmp.UnsupportedDumpError, match="nothing to convert"):
        converted(build(1, {0: stamp(0)}), 0xA)


def test_43_runs_fit_into_a_full_dump():
    pages = {2 * k + 1: stamp(k) for k in range(43)}
    report, result = converted(build(5, pages), 1)
    assert report.pages == 43
    with kdmp.open(result) as dump:
        assert contents(dump) == pages


def test_44_runs_do_not_and_the_error_names_kinds_that_do():
    image = build(5, {2 * k + 1: stamp(k) for k in range(44)})
    with pytest.raises(kdmp.UnsupportedDumpError, match=r"43 runs.*44.*kind 5.*kind 0xA"):
        converted(image, 1)


def test_runs_that_touch_count_once():
    # 50 ranges in the file, but one stretch of frames.
    pages = [stamp(k) for k in range(50)]
    image = ranges_dump([(k + 1, 1) for k in range(50)], pages=pages)
    report, result = converted(image, 1)
    assert report.pages == 50
    with kdmp.open(result) as dump:
        assert contents(dump) == {k + 1: pages[k] for k in range(50)}
        assert dump.header["number_of_runs"] == 1


def test_ranges_out_of_order_and_twice_become_sorted_and_the_first_wins():
    image = ranges_dump([(0x50, 2), (0x10, 2), (0x51, 2)])
    _, result = converted(image, 5)
    with kdmp.open(result) as dump:
        frames = {0x50: stamp(0), 0x51: stamp(1), 0x10: stamp(2), 0x11: stamp(3), 0x52: stamp(5)}
        assert contents(dump) == frames


@pytest.mark.parametrize("into", [*WRITER_KINDS, RAW])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_pages_lost_by_truncation_are_left_out_and_reported(kind, into):
    image = build(kind, {pfn: stamp(pfn) for pfn in range(1, 9)})[: -3 * PAGE + 1]
    report, result = converted(image, into)
    assert report.pages == 5
    assert [left.pages for left in report.left_out] == [3]
    if into != RAW:
        with kdmp.open(result) as dump:
            assert contents(dump) == {pfn: stamp(pfn) for pfn in range(1, 6)}
            assert dump.truncated == 0


@pytest.mark.parametrize("into", [*WRITER_KINDS, RAW])
def test_a_dump_without_pages_is_refused(into):
    with pytest.raises(kdmp.KdmpError):
        converted(header_page(HEADER_ONLY), into)


def test_a_frame_too_high_for_a_bitmap_is_refused_with_the_way_out():
    image = runs_dump([(1 << 31, 1)])
    with pytest.raises(kdmp.UnsupportedDumpError, match="kind 1 or 0xA"):
        converted(image, 5)
    report, _ = converted(image, 0xA)
    assert report.pages == 1


def test_a_bitmap_of_odd_size_keeps_its_last_page():
    _, result = converted(bitmap_dump(13, [1, 12]), 0xA)
    with kdmp.open(result) as dump:
        assert contents(dump) == {1: stamp(0), 12: stamp(1)}


def test_progress_goes_from_nothing_to_everything():
    calls = []
    converted(source(1), 5, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, len(FRAMES))
    assert calls[-1] == (len(FRAMES), len(FRAMES))
    assert sorted(calls) == calls
    assert len(calls) > 4  # the large run came in pieces


def test_an_exception_from_progress_leaves_no_file(tmp_path):
    def stop(done, total):
        if done:
            raise RuntimeError("enough")

    with kdmp.open(source(1)) as dump, pytest.raises(RuntimeError, match="enough"):
        convert(dump, tmp_path / "out.dmp", 5, stop)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_until_the_new_file_is_complete(tmp_path):
    target = tmp_path / "out.dmp"
    target.write_bytes(b"old")
    with kdmp.open(source(1)) as dump:
        with pytest.raises(ZeroDivisionError):
            convert(dump, target, 5, lambda done, total: 1 // (total - done))
        assert target.read_bytes() == b"old"
        convert(dump, target, 5)
    with kdmp.open(target) as dump:
        assert contents(dump) == PAGES
    assert [path.name for path in tmp_path.iterdir()] == ["out.dmp"]


def test_a_target_that_cannot_be_written_is_an_oserror(tmp_path):
    with kdmp.open(source(1)) as dump, pytest.raises(FileNotFoundError):
        convert(dump, tmp_path / "no" / "where.dmp", 5)


@pytest.mark.parametrize("kind", [5, RAW])
def test_a_file_object_is_written_from_its_position_on(kind):
    image = source(1, {1: stamp(1), 3: stamp(3)})
    _, alone = converted(image, kind)
    out = io.BytesIO(b"head" + bytes(100))
    out.seek(4)
    with kdmp.open(image) as dump:
        convert(dump, out, kind)
    assert out.getvalue() == b"head" + alone


def test_reading_instead_of_mapping_gives_the_same(tmp_path):
    path = tmp_path / "in.dmp"
    path.write_bytes(source(5))
    with kdmp.open(path, io="read") as dump:
        out = io.BytesIO()
        convert(dump, out, 0xA)
    assert out.getvalue() == converted(source(5), 0xA)[1]


def test_encrypted_pages_are_not_converted():
    image = bytearray(source(5))
    struct.pack_into("<I", image, 0x1050, 0x100)
    with pytest.raises(kdmp.UnsupportedDumpError, match="encrypted"):
        converted(bytes(image), 1)


@pytest.mark.parametrize("into", [*WRITER_KINDS, RAW])
def test_a_triage_dump_says_that_it_has_no_pages(into):
    for image in (triage_dump(), triage32_dump()):
        with pytest.raises(kdmp.UnsupportedDumpError, match="virtual ranges, not physical pages"):
            converted(image, into)


# ---- 32-bit dumps ----


@pytest.mark.parametrize("pae", [False, True])
@pytest.mark.parametrize("into", [1, 5, 6])
@pytest.mark.parametrize("kind", [1, 5, 6])
def test_32_bit_dumps_go_there_and_back_again(kind, into, pae):
    facts = {name: value & 0xFFFFFFFF for name, value in FACTS.items() if isinstance(value, int)}
    facts |= {"directory_table_base": 0x1000, "pae_enabled": int(pae), "kd_secondary_version": 1}
    image = x86_dump(kind, pae=pae, **facts)
    report, result = converted(image, into)
    assert result[:8] == b"PAGEDUMP"
    assert report.size == len(result)
    with kdmp.open(image) as before, kdmp.open(result) as after:
        assert (after.kind, after.arch, after.pointer_size) == (into, "x86", 4)
        assert contents(after) == contents(before)
        assert carried(after) == carried(before)
        assert after.context == before.context is not None
        assert after.paging == before.paging == ("pae" if pae else "x86")
        assert after.reader().read(0x80001000, 10) == b"thirty-two"
    assert converted(result, kind)[1] == image


def test_raw_of_a_32_bit_dump():
    _, result = converted(x86_dump(), RAW)
    assert result[0x5000:0x500A] == b"thirty-two"
    with kdmp.open_raw(result, arch="x86", dtb=0x1000) as dump:
        assert dump.reader().read(0x80001000, 10) == b"thirty-two"


@pytest.mark.parametrize("kind", [8, 9, 0xA])
def test_32_bit_dumps_have_no_ranges(kind):
    with pytest.raises(kdmp.UnsupportedDumpError, match="choose 1, 5 or 6"):
        converted(x86_dump(), kind)


def test_a_32_bit_full_dump_has_room_for_86_runs():
    frames = {2 * k + 1: stamp(k) for k in range(86)}
    report, result = converted(x86_dump(5, frames=frames), 1)
    assert report.pages == 86
    with kdmp.open(result) as dump:
        assert contents(dump) == frames
    with pytest.raises(kdmp.UnsupportedDumpError, match=r"86 runs.*87.*kind 5\)$"):
        converted(x86_dump(5, frames=frames | {0x1000: stamp(0)}), 1)


# ---- memory images and ELF cores ----


def from_image(image, kind, runs=None, **arguments):
    """The bytes of the dump that a memory image becomes."""
    out = io.BytesIO()
    with kdmp.open_raw(image, runs, **arguments) as dump:
        report = convert(dump, out, kind)
    assert report.left_out == ()
    return out.getvalue()


@pytest.mark.parametrize("kind", WRITER_KINDS)
def test_an_elf_core_becomes_a_dump(kind):
    image = elf_core([(1, stamp(1) + stamp(2)), (0x100000, stamp(3))])
    result = from_image(image, kind, dtb=0x1000)
    with kdmp.open(result) as dump:
        assert contents(dump) == {1: stamp(1), 2: stamp(2), 0x100000: stamp(3)}
        assert (dump.kind, dump.machine, dump.dtb) == (kind, 0x8664, 0x1000)
        assert (dump.build, dump.bugcheck, dump.context, dump.exception) == (None, None, None, None)


def test_without_a_root_the_field_stays_absent():
    with kdmp.open(from_image(stamp(0) + stamp(1), 5)) as dump:
        assert dump.dtb is None
        assert contents(dump) == {0: stamp(0), 1: stamp(1)}


def test_the_root_of_an_image_is_found_by_trial(tmp_path):
    truth = sample.build(tmp_path / "sample.dmp")
    with kdmp.open(tmp_path / "sample.dmp") as before, kdmp.open(from_image(core_of(before), 5)) as after:
        assert after.dtb == truth.system_dtb
        assert contents(after) == contents(before)
        space = before.reader(dtb=truth.system_dtb)
        va = truth.ps_loaded_module_list
        assert after.reader().read_exact(va, 16) == space.read_exact(va, 16)


def test_an_x86_image_keeps_what_kind_of_tables_it_has():
    image = converted(x86_dump(), RAW)[1]
    for paging, enabled in (("pae", 1), ("x86", 0)):
        result = from_image(image, 1, arch="x86", dtb=0x1000, paging=paging)
        assert result[:8] == b"PAGEDUMP"
        with kdmp.open(result) as dump:
            assert (dump.machine, dump.header["pae_enabled"]) == (0x14C, enabled)


def test_an_arm64_image_stays_one():
    with kdmp.open(from_image(stamp(0) + stamp(1), 1, arch="arm64")) as dump:
        assert (dump.arch, dump.machine) == ("arm64", 0xAA64)


def test_a_dump_to_an_image_and_back():
    pages = {1: stamp(1), 2: stamp(2), 9: stamp(9)}
    flat = converted(build(1, pages), RAW)[1]
    result = from_image(flat, 5, runs=[(1, 2, PAGE), (9, 1, 9 * PAGE)])
    with kdmp.open(result) as dump:
        assert contents(dump) == pages
    assert from_image(flat, RAW) == flat


def test_the_report_is_a_value():
    left = LeftOut(3, "why")
    assert LeftOut(3, "why") == left
    with pytest.raises(AttributeError):
        left.pages = 4
