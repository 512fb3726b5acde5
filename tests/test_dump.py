"""Opening a dump: from what, what its header says, and what closing means.

SPDX-License-Identifier: MIT
"""

import io
import mmap
import pathlib
import pickle
import struct
from datetime import UTC, datetime, timedelta

import pytest
from dumpbuilder import ALL_KINDS, FULL, HEADER_ONLY, build, header_page, patched, stamp

import kdmp

FACTS = {
    "major_version": 0xF,
    "minor_version": 19041,
    "directory_table_base": 0x1AD002,
    "pfn_database": 0xFFFF_F800_0123_4500,
    "ps_loaded_module_list": 0xFFFF_F800_0022_A390,
    "ps_active_process_head": 0xFFFF_F800_0021_E200,
    "number_processors": 16,
    "bug_check_code": 0xD1,
    "bug_check_parameter1": 0xFFFF_C800_0000_73F0,
    "bug_check_parameter2": 2,
    "bug_check_parameter3": 0,
    "bug_check_parameter4": 0xFFFF_F880_010C_712B,
    "kd_debugger_data_block": 0xFFFF_F800_0020_0B20,
    "system_time": 132_579_599_029_877_650,
    "system_up_time": 37_470_697,
    "mini_dump_fields": 0xCFF,
    "secondary_data_state": 3,
    "product_type": 1,
    "suite_mask": 0x110,
    "writer_status": 0,
    "kd_secondary_version": 2,
    "attributes": 0x10,
    "boot_id": 0xD,
    "comment": "a comment",
    "version_user": "who knows",
}


def image_of(kind=FULL, **facts):
    return build(kind, {1: stamp(1), 2: stamp(2)}, **facts)


@pytest.fixture(params=ALL_KINDS, ids=lambda kind: f"kind{kind}")
def kind(request):
    return request.param


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])
def test_open_bytes_like(wrap):
    with kdmp.open(wrap(image_of())) as dump:
        assert dump.io == "memory"
        assert dump.phys.read_exact(0x1000, 0x1000) == stamp(1)


def test_open_a_mapped_file(tmp_path):
    path = tmp_path / "image.dmp"
    path.write_bytes(image_of())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with kdmp.open(mapped) as dump:
            assert dump.phys.read_exact(0x2000, 0x1000) == stamp(2)
        del dump


@pytest.mark.parametrize("how", ["map", "read"])
@pytest.mark.parametrize("wrap", [str, pathlib.Path])
def test_open_path(tmp_path, wrap, how, kind):
    path = tmp_path / "ünusual näme.dmp"
    path.write_bytes(image_of(kind))
    with kdmp.open(wrap(path), io=how) as dump:
        assert (dump.io, dump.kind, dump.file_size) == (how, kind, path.stat().st_size)
        assert dump.phys.read_exact(0x1000, 0x1000) == stamp(1)
        assert dump.phys.read(0x1FF0, 0x2000) == stamp(1)[0xFF0:] + stamp(2)
        assert bytes(dump.pages[2]) == stamp(2)


def test_open_file_object(kind):
    with kdmp.open(io.BytesIO(image_of(kind))) as dump:
        assert dump.io == "file"
        assert dump.phys.read(0x1FF0, 0x2000) == stamp(1)[0xFF0:] + stamp(2)
        assert list(dump.pages) == [1, 2]


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        kdmp.open(tmp_path / "nothing.dmp")
    assert "nothing.dmp" in str(caught.value)


@pytest.mark.parametrize("how", ["map", "read"])
def test_a_folder_is_no_dump(tmp_path, how):
    with pytest.raises(OSError):
        kdmp.open(tmp_path, io=how)


@pytest.mark.parametrize("source", [None, 1.5, ["x"]])
def test_what_cannot_be_opened(source):
    with pytest.raises(TypeError):
        kdmp.open(source)


def test_unknown_io():
    with pytest.raises((ValueError, TypeError)):
        kdmp.open(image_of(), io="magic")


def test_header_facts(kind):
    with kdmp.open(image_of(kind, **FACTS)) as dump:
        for name, value in FACTS.items():
            assert dump.header[name] == value, name
        assert dump.header["dump_type"] == kind
        assert (dump.kind, dump.arch, dump.machine, dump.pointer_size) == (kind, "x64", 0x8664, 8)
        assert isinstance(dump.kind, kdmp.DumpKind)
        assert (dump.build, dump.checked_build, dump.dtb) == (19041, False, 0x1AD002)
        assert dump.processors == 16
        assert (dump.comment, dump.version_user) == ("a comment", "who knows")
        for name in (
            "ps_loaded_module_list", "ps_active_process_head", "kd_debugger_data_block", "pfn_database",
            "product_type", "suite_mask", "writer_status", "mini_dump_fields", "secondary_data_state",
            "kd_secondary_version", "boot_id", "attributes",
        ):  # fmt: skip
            assert getattr(dump, name) == FACTS[name], name


def test_times():
    """Sample A of the format description: 3.7470697 s after boot, 21 February 2021."""
    with kdmp.open(
        image_of(system_time=FACTS["system_time"], system_up_time=FACTS["system_up_time"])
    ) as dump:
        assert dump.uptime == timedelta(microseconds=3_747_069)
        assert dump.system_time == datetime(1601, 1, 1, tzinfo=UTC) + timedelta(
            microseconds=13_257_959_902_987_765
        )
        assert dump.system_time.utcoffset() == timedelta(0)


@pytest.mark.parametrize("value", [0, (1 << 64) - 1, 1 << 63])
def test_times_that_no_datetime_holds(value):
    with kdmp.open(image_of(system_time=value, system_up_time=value)) as dump:
        assert dump.system_time is None
        assert dump.header["system_time"] == value
        assert dump.uptime is None or dump.uptime.total_seconds() >= 0


def test_bug_check():
    with kdmp.open(image_of(**FACTS)) as dump:
        assert (dump.bugcheck.code, dump.bugcheck.name) == (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL")
        assert [p.value for p in dump.bugcheck.parameters] == [
            0xFFFF_C800_0000_73F0,
            2,
            0,
            0xFFFF_F880_010C_712B,
        ]


def test_bare_header_has_nothing(kind):
    """Whatever the writer did not store is filler, and filler is None."""
    with kdmp.open(image_of(kind)) as dump:
        for name in FACTS:
            if name not in ("major_version", "machine_image_type"):
                assert dump.header[name] is None, name
        for name in (
            "build dtb processors system_time uptime comment version_user ps_loaded_module_list "
            "ps_active_process_head kd_debugger_data_block pfn_database product_type suite_mask attributes "
            "boot_id writer_status mini_dump_fields secondary_data_state bugcheck context exception"
        ).split():
            assert getattr(dump, name) is None, name


def test_context_and_exception():
    context = bytearray(0x4D0)
    struct.pack_into("<I", context, 0x30, 0x10001F)
    struct.pack_into("<QQ", context, 0x98, 0xFFFF_8000_0000_1000, 0xFFFF_8000_0000_2000)
    struct.pack_into("<Q", context, 0xF8, 0xFFFF_F800_1234_5678)
    exception = struct.pack("<IIQQIxxxx15Q", 0xC0000005, 1, 0, 0xFFFF_F800_1234_5678, 2, 1, 0x10, *range(13))
    out = io.BytesIO()
    kdmp.write_dump(out, FULL, {1: stamp(1)}, context=bytes(context), exception=exception)
    with kdmp.open(out.getvalue()) as dump:
        assert (dump.context.rip, dump.context.rsp, dump.context.rbp) == (
            0xFFFF_F800_1234_5678, 0xFFFF_8000_0000_1000, 0xFFFF_8000_0000_2000,
        )  # fmt: skip
        assert dump.context_bytes()[:0x4D0] == bytes(context)
        assert (dump.exception.code, dump.exception.flags) == (0xC0000005, 1)
        assert dump.exception.address == 0xFFFF_F800_1234_5678
        assert tuple(dump.exception.parameters) == (1, 0x10), "only NumberParameters entries are meaningful"


def test_header_only_dump():
    with kdmp.open(header_page(HEADER_ONLY, minor_version=19041)) as dump:
        assert (dump.kind, dump.layout, dump.build) == (kdmp.DumpKind.HEADER, "none", 19041)
        assert len(dump.pages) == 0 and list(dump.pages) == []
        assert 0 not in dump.pages


def test_unknown_kind_is_refused_by_name():
    with pytest.raises(kdmp.UnsupportedDumpError) as caught:
        kdmp.open(patched(image_of(), kind=0x77) + b"x")
    assert "0x77" in str(caught.value)
    assert isinstance(caught.value, NotImplementedError)


def test_unknown_kind_with_sane_runs_opens():
    """Unknown types with sane runs and file size == header + pages: section 10 of the format."""
    with kdmp.open(patched(image_of(), kind=0x77)) as dump:
        assert (dump.kind, dump.layout) == (0x77, "runs")
        assert not isinstance(dump.kind, kdmp.DumpKind)
        assert dump.phys.read_exact(0x1000, 0x1000) == stamp(1)


@pytest.mark.parametrize(
    "machine, arch", [(0xAA64, "arm64"), (0x14C, "x86"), (0x200, "ia64"), (0x1234, "unknown")]
)
def test_other_machines_are_not_translated_as_x64(machine, arch):
    with kdmp.open(patched(image_of(directory_table_base=0x1000), machine=machine)) as dump:
        assert dump.arch == arch
        assert dump.phys.read_exact(0x1000, 8) == stamp(1)[:8]
        try:
            paging = dump.reader().paging
        except kdmp.UnsupportedDumpError:
            pass
        else:
            assert paging != "x64"


def test_encrypted_pages_are_not_memory():
    """Attributes bit 8 without bit 9: ciphertext."""
    with kdmp.open(image_of(attributes=0x100, directory_table_base=0x1000)) as dump:
        assert dump.encrypted
        with pytest.raises(kdmp.UnsupportedDumpError):
            dump.phys.read(0x1000, 1)
        with pytest.raises(kdmp.UnsupportedDumpError):
            dump.reader()
    with kdmp.open(image_of(attributes=0x300)) as dump:
        assert not dump.encrypted
        assert dump.phys.read_exact(0x1000, 0x1000) == stamp(1)


def test_root_and_paging_can_be_given():
    with kdmp.open(image_of(directory_table_base=0x5000), dtb=0x2000, paging="la57") as dump:
        assert (dump.dtb, dump.paging, dump.paging_source) == (0x2000, "la57", "argument")
        assert (dump.reader().dtb, dump.reader().paging) == (0x2000, "la57")


def test_closing():
    dump = kdmp.open(image_of())
    assert not dump.closed
    dump.close()
    assert dump.closed
    dump.close()
    assert "closed" in repr(dump)


def test_with_statement_closes():
    with kdmp.open(image_of()) as dump:
        assert not dump.closed
    assert dump.closed
    with pytest.raises(ValueError):
        dump.header


def test_repr_says_what_it_is(tmp_path):
    path = tmp_path / "memory.dmp"
    path.write_bytes(image_of(minor_version=19041))
    with kdmp.open(path) as dump:
        assert "memory.dmp" in repr(dump) and "FULL" in repr(dump) and "19041" in repr(dump)
        assert "0x1000" in repr(dump.reader(dtb=0x1000))


@pytest.mark.parametrize("how", ["map", "read"])
def test_pickle_by_path(tmp_path, how):
    path = tmp_path / "image.dmp"
    path.write_bytes(image_of(directory_table_base=0x1000))
    with kdmp.open(path, io=how, dtb=0x2000) as dump, pickle.loads(pickle.dumps(dump)) as copy:
        assert (copy.io, copy.dtb, copy.kind) == (how, 0x2000, 1)
        assert copy.phys.read_exact(0x1000, 0x1000) == stamp(1)
        reader = pickle.loads(pickle.dumps(dump.reader(invalid_pte_mask=1 << 45)))
        assert (reader.dtb, reader.paging, reader.invalid_pte_mask) == (0x2000, "x64", 1 << 45)


def test_a_dump_in_memory_is_not_pickled():
    with kdmp.open(image_of()) as dump, pytest.raises(TypeError):
        pickle.dumps(dump)


def test_figures():
    with kdmp.open(image_of()) as dump:
        figures = dump.figures
        assert (figures["pages_described"], figures["pages_available"], figures["pages_claimed"]) == (2, 2, 2)
        assert (figures["first_page"], figures["pfn_end"], figures["data_end"]) == (0x2000, 3, 0x4000)
        assert (figures["pages_overlapped"], figures["bitmap_bits"], figures["header_size"]) == (0, 0, 0x2000)


def test_read_file():
    image = image_of()
    with kdmp.open(image) as dump:
        assert dump.read_file(0, 8) == b"PAGEDU64"
        assert dump.read_file(0x2000, 0x1000) == stamp(1)
        assert dump.read_file(len(image), 0) == b""
        for offset, size in ((len(image), 1), (len(image) - 1, 2), (1 << 63, 1)):
            with pytest.raises(kdmp.FormatError):
                dump.read_file(offset, size)


@pytest.mark.parametrize("dtb", [1.0, "4096"])
def test_a_root_is_an_integer(dtb, small_image):
    with pytest.raises(TypeError, match="integer"):
        kdmp.Dump(small_image, dtb=dtb)
