"""DumpWriter: every byte in front of the pages against the format tables, and what it refuses.

The offsets here are written out once more on purpose; nothing is taken from the writer's tables.

SPDX-License-Identifier: MIT
"""

import ctypes
import io
import random
import struct

import pytest
import shareddata

import kdmp
from kdmp import _headers
from kdmp.writer import DumpWriter, write_dump

PAGE = 0x1000
RUNS = [(1, 2), (0x40, 3), (0x200, 1)]
FRAMES = [1, 2, 0x40, 0x41, 0x42, 0x200]
KINDS = [1, 5, 6, 8, 9, 10]

HEADER = {
    "major_version": 0xC,
    "minor_version": 19041,
    "directory_table_base": 0x1AD002,
    "pfn_database": 0xFFFFF8047C6FC500,
    "ps_loaded_module_list": 0xFFFFF8047C62A390,
    "ps_active_process_head": 0xFFFFF8047C61E200,
    "machine_image_type": 0xAA64,
    "number_processors": 16,
    "bug_check_code": 0x1000007E,
    "bug_check_parameter1": 0xFFFFFFFFC0000005,
    "bug_check_parameter2": 2,
    "bug_check_parameter3": 3,
    "bug_check_parameter4": 4,
    "kd_debugger_data_block": 0xFFFFF8047C600B20,
    "system_time": 0x1D707F23DBB3399,
    "system_up_time": 0x23BC1E9,
    "mini_dump_fields": 0xCFF,
    "secondary_data_state": 9,
    "product_type": 1,
    "suite_mask": 0x110,
    "writer_status": 0,
    "kd_secondary_version": 2,
    "attributes": 0x50,
    "boot_id": 13,
    "version_user": "made by hand",
    "comment": "a comment",
}
# name: (offset, struct format), from the description of DUMP_HEADER64
OFFSETS = {
    "major_version": (0x08, "<I"),
    "minor_version": (0x0C, "<I"),
    "directory_table_base": (0x10, "<Q"),
    "pfn_database": (0x18, "<Q"),
    "ps_loaded_module_list": (0x20, "<Q"),
    "ps_active_process_head": (0x28, "<Q"),
    "machine_image_type": (0x30, "<I"),
    "number_processors": (0x34, "<I"),
    "bug_check_code": (0x38, "<I"),
    "bug_check_parameter1": (0x40, "<Q"),
    "bug_check_parameter2": (0x48, "<Q"),
    "bug_check_parameter3": (0x50, "<Q"),
    "bug_check_parameter4": (0x58, "<Q"),
    "kd_debugger_data_block": (0x80, "<Q"),
    "system_time": (0xFA8, "<Q"),
    "system_up_time": (0x1030, "<Q"),
    "mini_dump_fields": (0x1038, "<I"),
    "secondary_data_state": (0x103C, "<I"),
    "product_type": (0x1040, "<I"),
    "suite_mask": (0x1044, "<I"),
    "writer_status": (0x1048, "<I"),
    "kd_secondary_version": (0x104D, "<B"),
    "attributes": (0x1050, "<I"),
    "boot_id": (0x1054, "<I"),
}


def page(pfn):
    """A page that tells its frame number."""
    return struct.pack("<Q", pfn) * (PAGE // 8)


def image(kind, runs=RUNS, **more):
    """The bytes of a dump in which every frame holds page(pfn)."""
    out = io.BytesIO()
    with DumpWriter(out, kind, runs, **more) as writer:
        for pfn, count in runs:
            for k in range(pfn, pfn + count):
                writer.write(k, page(k))
    return out.getvalue()


def u32(data, offset):
    return struct.unpack_from("<I", data, offset)[0]


def u64(data, offset):
    return struct.unpack_from("<Q", data, offset)[0]


# ---- header ----


def test_header_fields_are_at_their_offsets():
    data = image(5, header=HEADER)
    assert data[:8] == b"PAGEDU64"
    for name, (offset, layout) in OFFSETS.items():
        assert struct.unpack_from(layout, data, offset)[0] == HEADER[name], name
    assert data[0x60:0x6D] == b"made by hand\0"
    assert data[0xFB0:0xFBA] == b"a comment\0"
    assert u32(data, 0xF98) == 5
    assert u64(data, 0xFA0) == len(data)


def test_what_is_not_stored_is_filler():
    data = bytearray(image(5)[:0x2000])
    for offset, size in ((0, 8), (0x08, 4), (0x30, 4), (0xF98, 4), (0xFA0, 8)):
        assert data[offset : offset + size] != (b"PAGE" * 2)[:size]
        data[offset : offset + size] = (b"PAGE" * 2)[:size]
    assert bytes(data) == b"PAGE" * 0x800


def test_defaults_and_none():
    data = image(1, header=dict.fromkeys(HEADER))
    assert u32(data, 0x08) == 0xF
    assert u32(data, 0x30) == 0x8664
    assert u32(data, 0x0C) == 0x45474150
    assert data[0xFB0 : 0xFB0 + 128] == b"PAGE" * 32


def test_text_may_fill_its_field_and_leaves_filler_behind_its_end():
    data = image(1, header={"comment": "x" * 128, "version_user": "\xe9"})
    assert data[0xFB0 : 0xFB0 + 129] == b"x" * 128 + b"P"
    assert data[0x60:0x66] == b"\xe9\0GEPA"


def test_context_is_followed_by_zeros_and_a_short_exception_by_filler():
    data = image(5, context=b"\x11" * 0x4D0, exception=b"\x22" * 0x28)
    assert data[0x348 : 0x348 + 0x4D0] == b"\x11" * 0x4D0
    assert data[0x348 + 0x4D0 : 0xF00] == bytes(3000 - 0x4D0)
    assert data[0xF00:0xF28] == b"\x22" * 0x28
    assert data[0xF28:0xF98] == b"PAGE" * 0x1C


def test_counts_of_a_source_header_do_not_leak():
    leak = {"dump_type": 2, "number_of_runs": 77, "number_of_pages": 88, "required_dump_space": 99}
    for kind in KINDS:
        assert image(kind, header=leak) == image(kind)
    bitmap = image(5, header=leak)
    assert bitmap[0x88:0x344] == b"PAGE" * 175


@pytest.mark.parametrize(
    "field, value",
    [
        ("minor_version", 1 << 32),
        ("minor_version", -1),
        ("directory_table_base", 1 << 64),
        ("kd_secondary_version", 256),
        ("comment", "x" * 129),
        ("comment", "a\0b"),
        ("version_user", "\u20ac"),
        ("pae_enabled", 1),
        ("machine_image_type", 1 << 32),
        ("colour", 1),
        ("colour", None),
    ],
)
def test_bad_field_is_refused_by_name(field, value, tmp_path):
    path = tmp_path / "out.dmp"
    with pytest.raises(ValueError, match=field):
        DumpWriter(path, 5, RUNS, header={field: value})
    assert not path.exists()  # refused before the file is touched


@pytest.mark.parametrize("field, value", [("boot_id", "1"), ("boot_id", 1.0), ("comment", b"text")])
def test_field_of_wrong_type_is_refused_by_name(field, value):
    with pytest.raises(TypeError, match=field):
        DumpWriter(io.BytesIO(), 5, RUNS, header={field: value})


@pytest.mark.parametrize("more", [{"context": 5}, {"exception": 0x98}, {"context": "text"}])
def test_record_of_wrong_type_is_refused(more):
    with pytest.raises(TypeError):
        DumpWriter(io.BytesIO(), 5, RUNS, **more)


@pytest.mark.parametrize("more", [{"context": bytes(3001)}, {"exception": bytes(0x99)}, {"exception": b"x"}])
def test_record_of_wrong_size_is_refused(more):
    with pytest.raises(ValueError, match=next(iter(more))):
        DumpWriter(io.BytesIO(), 5, RUNS, **more)


# ---- layouts ----


def test_type_1_puts_the_pages_behind_the_header():
    data = image(1)
    assert u32(data, 0x88) == 3
    assert u64(data, 0x90) == 6
    assert struct.unpack_from("<6Q", data, 0x98) == (1, 2, 0x40, 3, 0x200, 1)
    assert data[0x98 + 48 : 0x344] == b"PAGE" * ((0x344 - 0x98 - 48) // 4)
    assert data[0x2000:] == b"".join(map(page, FRAMES))
    assert u64(data, 0xFA0) == len(data) == 0x2000 + 6 * PAGE


def test_type_1_has_room_for_43_runs():
    runs = [(2 * k, 1) for k in range(43)]
    data = image(1, runs)
    assert u32(data, 0x88) == 43
    assert struct.unpack_from("<QQ", data, 0x98 + 42 * 16) == (84, 1)
    with pytest.raises(ValueError, match="kind 5"):
        DumpWriter(io.BytesIO(), 1, [*runs, (1000, 1)])


def test_runs_are_sorted_and_merged():
    data = image(1, [(0x10, 1), (5, 1), (6, 2), (0x11, 1)])
    assert u32(data, 0x88) == 2
    assert struct.unpack_from("<4Q", data, 0x98) == (5, 3, 0x10, 2)
    assert data[0x2000:] == b"".join(map(page, [5, 6, 7, 0x10, 0x11]))


def test_more_than_43_touching_runs_are_one():
    assert u32(image(1, [(k, 1) for k in range(100)]), 0x88) == 1


@pytest.mark.parametrize("kind, signature", [(5, b"FDMP"), (6, b"SDMP")])
def test_bitmap_layout(kind, signature):
    data = image(kind)
    assert data[0x2000:0x2008] == signature + b"DUMP"
    first_page, pages, bits = struct.unpack_from("<QQQ", data, 0x2020)
    assert data[0x2008:0x2020] == bytes(24)
    assert first_page % PAGE == 0
    assert pages == 6
    assert 0x201 <= bits < 0x201 + 64
    assert first_page >= 0x2038 + bits // 8
    stored = [k for k in range(bits) if data[0x2038 + k // 8] >> k % 8 & 1]
    assert stored == FRAMES
    assert not any(data[0x2038 + bits // 8 : first_page])
    assert data[first_page:] == b"".join(map(page, FRAMES))


@pytest.mark.parametrize("seed", range(8))
def test_bitmap_bits_of_random_runs(seed):
    rng = random.Random(seed)
    frames = {pfn + k for pfn in rng.sample(range(3000), 60) for k in range(rng.randrange(1, 40))}
    runs, bits = [], _headers.bitmap_bits(max(frames) + 1)
    for pfn in sorted(frames):
        if runs and sum(runs[-1]) == pfn:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((pfn, 1))
    expected = sum(1 << pfn for pfn in frames).to_bytes(bits // 8, "little")
    for chunk in (1, 7, 64, 1 << 20):
        assert b"".join(_headers.iter_bitmap(runs, bits, chunk)) == expected


@pytest.mark.parametrize("kind", [8, 9, 10])
def test_ranges_layout(kind):
    data = image(kind)
    assert struct.unpack_from("<I4s4sI", data, 0x2000) == (0x40, b"RDMP", b"DUMP", 0)
    metadata, first_page = struct.unpack_from("<QQ", data, 0x2010)
    assert first_page == metadata + 0x2020
    assert metadata % 0x10 == 0
    assert (metadata - 0x10) // 0x10 >= len(RUNS)
    if kind == 10:
        assert struct.unpack_from("<IHHQ", data, 0x2020) == (3, 0, 0, 6)
    else:
        assert data[0x2020:0x2030] == bytes(16)
    assert struct.unpack_from("<6Q", data, 0x2030) == (1, 2, 0x40, 3, 0x200, 1)
    assert not any(data[0x2030 + 48 : first_page])  # what follows the table ends it
    assert data[first_page:] == b"".join(map(page, FRAMES))


@pytest.mark.parametrize("kind", [8, 9, 10])
def test_ranges_cannot_hold_frame_0(kind):
    with pytest.raises(ValueError, match="frame 0"):
        DumpWriter(io.BytesIO(), kind, [(0, 2)])


@pytest.mark.parametrize("kind", [1, 5])
def test_frame_0_is_an_ordinary_frame_elsewhere(kind):
    assert image(kind, [(0, 1), (9, 1)])[-2 * PAGE :] == page(0) + page(9)


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 7, 11, -1])
def test_other_kinds_are_refused(kind):
    with pytest.raises(ValueError, match="kind"):
        DumpWriter(io.BytesIO(), kind, RUNS)


def test_triage_is_somebody_elses_kind():
    with pytest.raises(ValueError, match="write_triage"):
        DumpWriter(io.BytesIO(), 4, RUNS)


@pytest.mark.parametrize("runs", [[(1, 2), (2, 1)], [(5, 5), (1, 100)], [(7, 1), (7, 1)]])
def test_overlapping_runs_are_refused(runs):
    with pytest.raises(ValueError, match="overlap"):
        DumpWriter(io.BytesIO(), 5, runs)


@pytest.mark.parametrize("run", [(-1, 1), (1, -1), (1 << 40, 1), (0, 1 << 52)])
def test_runs_outside_of_physical_memory_are_refused(run):
    with pytest.raises(ValueError, match="52-bit"):
        DumpWriter(io.BytesIO(), 1, [run])


def test_too_high_a_frame_for_a_bitmap_is_refused():
    with pytest.raises(ValueError, match="0xA"):
        DumpWriter(io.BytesIO(), 5, [(1 << 36, 1)])


def test_a_dump_without_frames_is_possible():
    assert len(image(1, [])) == 0x2000


# ---- 32-bit dumps ----

HEADER32 = {
    "major_version": 0xC,
    "minor_version": 7601,
    "directory_table_base": 0x185000,
    "pfn_database": 0x829B9700,
    "ps_loaded_module_list": 0x82999850,
    "ps_active_process_head": 0x82991F18,
    "machine_image_type": 0x14C,
    "number_processors": 2,
    "bug_check_code": 0xD1,
    "bug_check_parameter1": 0xFFFFFFFF,
    "bug_check_parameter2": 2,
    "bug_check_parameter3": 3,
    "bug_check_parameter4": 4,
    "kd_debugger_data_block": 0x82970C28,
    "system_time": 0x1D6509199BF63E0,
    "system_up_time": 0x23BC1E9FFFF,
    "mini_dump_fields": 0xCFF,
    "secondary_data_state": 9,
    "product_type": 1,
    "suite_mask": 0x110,
    "writer_status": 0,
    "kd_secondary_version": 2,
    "attributes": 0x50,
    "boot_id": 13,
    "pae_enabled": 1,
    "version_user": "made by hand",
    "comment": "a comment",
}
# name: (offset, struct format), from the description of DUMP_HEADER32
OFFSETS32 = {
    "major_version": (0x08, "<I"),
    "minor_version": (0x0C, "<I"),
    "directory_table_base": (0x10, "<I"),
    "pfn_database": (0x14, "<I"),
    "ps_loaded_module_list": (0x18, "<I"),
    "ps_active_process_head": (0x1C, "<I"),
    "machine_image_type": (0x20, "<I"),
    "number_processors": (0x24, "<I"),
    "bug_check_code": (0x28, "<I"),
    "bug_check_parameter1": (0x2C, "<I"),
    "bug_check_parameter2": (0x30, "<I"),
    "bug_check_parameter3": (0x34, "<I"),
    "bug_check_parameter4": (0x38, "<I"),
    "pae_enabled": (0x5C, "<B"),
    "kd_secondary_version": (0x5D, "<B"),
    "kd_debugger_data_block": (0x60, "<I"),
    "attributes": (0x8A0, "<I"),
    "boot_id": (0x8A4, "<I"),
    "mini_dump_fields": (0xF8C, "<I"),
    "secondary_data_state": (0xF90, "<I"),
    "product_type": (0xF94, "<I"),
    "suite_mask": (0xF98, "<I"),
    "writer_status": (0xF9C, "<I"),
    "system_up_time": (0xFB8, "<Q"),
    "system_time": (0xFC0, "<Q"),
}
X86 = {"machine_image_type": 0x14C}
WIN7_X86 = "memflow-coredump_coredump_win7_32bit_stripped.dmp.xz"


@pytest.mark.parametrize("kind", [1, 5, 6])
def test_32_bit_header_fields_are_at_their_offsets(kind):
    data = image(kind, header=HEADER32)
    assert data[:8] == b"PAGEDUMP"
    assert HEADER32.keys() == OFFSETS32.keys() | {"version_user", "comment"}
    for name, (offset, layout) in OFFSETS32.items():
        assert struct.unpack_from(layout, data, offset)[0] == HEADER32[name], name
    assert data[0x3C:0x49] == b"made by hand\0"
    assert data[0x820:0x82A] == b"a comment\0"
    assert u32(data, 0xF88) == kind
    assert u64(data, 0xFA0) == len(data)


@pytest.mark.parametrize("machine", [0x14C, 0x1C4])
def test_what_is_not_stored_in_a_32_bit_header_is_filler(machine):
    data = bytearray(image(5, header={"machine_image_type": machine})[:0x1000])
    assert (u32(data, 8), u32(data, 0x20)) == (0xF, machine)
    for offset, size in ((0, 8), (0x08, 4), (0x20, 4), (0xF88, 4), (0xFA0, 8)):
        assert data[offset : offset + size] != (b"PAGE" * 2)[:size]
        data[offset : offset + size] = (b"PAGE" * 2)[:size]
    assert bytes(data) == b"PAGE" * 0x400


def test_32_bit_context_and_exception():
    data = image(5, header=X86, context=b"\x11" * 0x2CC, exception=b"\x22" * 0x18)
    assert data[0x320 : 0x320 + 0x2CC] == b"\x11" * 0x2CC
    assert data[0x320 + 0x2CC : 0x7D0] == bytes(1200 - 0x2CC)
    assert data[0x7D0:0x7E8] == b"\x22" * 0x18
    assert data[0x7E8:0x820] == b"PAGE" * 14
    full = image(5, header=X86, context=b"\x11" * 1200, exception=b"\x22" * 0x50)
    assert full[0x31C:0x824] == b"PAGE" + b"\x11" * 1200 + b"\x22" * 0x50 + b"PAGE"


def test_32_bit_type_1_puts_the_pages_behind_the_header():
    data = image(1, header=X86)
    assert struct.unpack_from("<8I", data, 0x64) == (3, 6, 1, 2, 0x40, 3, 0x200, 1)
    assert data[0x84:0x320] == b"PAGE" * ((0x320 - 0x84) // 4)
    assert data[0x1000:] == b"".join(map(page, FRAMES))
    assert u64(data, 0xFA0) == len(data) == 0x1000 + 6 * PAGE


def test_32_bit_type_1_has_room_for_86_runs():
    runs = [(2 * k, 1) for k in range(86)]
    data = image(1, runs, header=X86, context=b"\x11" * 4)
    assert u32(data, 0x64) == 86
    assert struct.unpack_from("<II", data, 0x6C + 85 * 8) == (170, 1)
    assert data[0x320:0x324] == b"\x11" * 4
    with pytest.raises(ValueError, match=r"room for 86 runs.*kind 5"):
        DumpWriter(io.BytesIO(), 1, [*runs, (1000, 1)], header=X86)


@pytest.mark.parametrize("kind, signature", [(5, b"FDMP"), (6, b"SDMP")])
def test_32_bit_bitmap_layout(kind, signature):
    data = image(kind, header=X86)
    assert data[0x1000:0x1008] == signature + b"DUMP"
    assert data[0x1008:0x1020] == bytes(24)
    first_page, pages, bits = struct.unpack_from("<QQQ", data, 0x1020)
    assert (first_page, pages) == (0x2000, 6)
    assert 0x201 <= bits < 0x201 + 64
    assert [k for k in range(bits) if data[0x1038 + k // 8] >> k % 8 & 1] == FRAMES
    assert not any(data[0x1038 + bits // 8 : first_page])
    assert data[first_page:] == b"".join(map(page, FRAMES))
    assert data[0x64:0x320] == b"PAGE" * 175  # no descriptor


@pytest.mark.parametrize(
    "field, value",
    [
        ("directory_table_base", 1 << 32),
        ("bug_check_parameter1", 0xFFFFFFFFC0000005),
        ("kd_debugger_data_block", 0xFFFFFFFF82970C28),
        ("pae_enabled", 256),
        ("comment", "x" * 129),
    ],
)
def test_bad_32_bit_field_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        DumpWriter(io.BytesIO(), 5, RUNS, header={**X86, field: value})


@pytest.mark.parametrize(
    "more", [{"context": bytes(1201)}, {"exception": bytes(0x51)}, {"exception": bytes(0x13)}]
)
def test_32_bit_record_of_wrong_size_is_refused(more):
    with pytest.raises(ValueError, match=next(iter(more))):
        DumpWriter(io.BytesIO(), 5, RUNS, header=X86, **more)


@pytest.mark.parametrize("kind", [8, 9, 10])
def test_32_bit_ranges_are_refused(kind):
    with pytest.raises(ValueError, match="64-bit dumps only"):
        DumpWriter(io.BytesIO(), kind, RUNS, header=X86)


@pytest.mark.parametrize("kind", [1, 5])
def test_frames_of_a_32_bit_dump_have_32_bit_numbers(kind):
    with pytest.raises(ValueError, match="frame 0xffffffff is too high for a 32-bit dump"):
        DumpWriter(io.BytesIO(), kind, [(0xFFFFFFF0, 16)], header=X86)


def test_highest_frames_of_a_32_bit_dump():
    out = io.BytesIO()
    DumpWriter(out, 1, [(0, 0xFFFFFFFF)], header=X86, sparse=True)  # never closed: the header is enough
    assert struct.unpack_from("<4I", out.getvalue(), 0x64) == (1, 0xFFFFFFFF, 0, 0xFFFFFFFF)


def test_a_real_32_bit_header_is_reproduced():
    real = shareddata.unpack("headers", WIN7_X86).read_bytes()[:0x1000]
    header = {name: struct.unpack_from(layout, real, at)[0] for name, (at, layout) in OFFSETS32.items()}
    header |= {"version_user": "", "comment": "LiveKD live system view"}
    runs = list(struct.iter_unpack("<II", real[0x6C : 0x6C + 8 * u32(real, 0x64)]))
    out = io.BytesIO()
    writer = DumpWriter(
        out, 1, runs, header=header, context=real[0x320:0x7D0], exception=real[0x7D0:0x820], sparse=True
    )
    made = out.getvalue()  # the pages would take 3 GiB
    assert writer.pages == u32(real, 0x68) == 0xBFF7D
    # LiveKD stores the size of the pages alone in RequiredDumpSpace.
    assert u64(made, 0xFA0) == u64(real, 0xFA0) + 0x1000 == writer.size
    assert made[:0xFA0] == real[:0xFA0]
    assert made[0xFA8:] == real[0xFA8:]


@pytest.mark.parametrize("kind", KINDS)
def test_arm64_has_the_64_bit_header(kind):
    context = bytes(range(256)) * 3 + bytes(0x90)  # 0x390 bytes
    arm64 = image(kind, header={"machine_image_type": 0xAA64}, context=context)
    x64 = image(kind, context=context)
    assert u32(arm64, 0x30) == 0xAA64
    assert arm64[0x348 : 0x348 + 0x390] == context
    assert arm64[:0x30] + arm64[0x34:] == x64[:0x30] + x64[0x34:]


# ---- writing ----


@pytest.mark.parametrize("kind", KINDS)
def test_pages_may_come_in_any_order_and_size(kind):
    out = io.BytesIO()
    with DumpWriter(out, kind, RUNS) as writer:
        assert (writer.pages, writer.missing) == (6, 6)
        writer.write(0x200, page(0x200))
        writer.write(0x41, page(0x41) + page(0x42))
        assert writer.missing == 3
        writer.write(1, bytearray(2 * PAGE))
        writer.write(1, memoryview(page(1) + page(2)))  # again: the last bytes win
        assert writer.missing == 1
        writer.write(0x40, (ctypes.c_ubyte * PAGE).from_buffer_copy(page(0x40)))
        writer.write(0x40, b"")
        assert writer.missing == 0
        assert writer.size == len(out.getbuffer())
    assert writer.closed
    assert not out.closed
    assert out.getvalue() == image(kind)


def test_any_order_gives_the_same_bytes():
    frames = [(3 * k, 2) for k in range(200)]
    want = image(5, frames)
    order = [pfn + k for pfn, count in frames for k in range(count)]
    random.Random(1).shuffle(order)
    out = io.BytesIO()
    with DumpWriter(out, 5, frames) as writer:
        for left, pfn in zip(range(len(order), 0, -1), order, strict=True):
            assert writer.missing == left
            writer.write(pfn, page(pfn))
    assert out.getvalue() == want


@pytest.mark.parametrize(
    "pfn, pages", [(0, 1), (3, 1), (2, 2), (0x3F, 2), (0x40, 4), (0x201, 1), (-1, 1), (1 << 60, 1)]
)
def test_undeclared_frame_is_refused(pfn, pages):
    writer = DumpWriter(io.BytesIO(), 5, RUNS)
    with pytest.raises(ValueError, match="not declared"):
        writer.write(pfn, bytes(pages * PAGE))
    assert writer.missing == 6


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE + 1])
def test_part_of_a_page_is_refused(size):
    with pytest.raises(ValueError, match="whole pages"):
        DumpWriter(io.BytesIO(), 5, RUNS).write(1, bytes(size))


def test_wrong_types_are_refused():
    writer = DumpWriter(io.BytesIO(), 5, RUNS)
    with pytest.raises(TypeError):
        writer.write(1, "text")
    with pytest.raises(TypeError):
        writer.write(1.0, bytes(PAGE))


def test_close_tells_what_is_missing(tmp_path):
    path = tmp_path / "part.dmp"
    writer = DumpWriter(path, 5, RUNS)
    for pfn in (1, 2, 0x41):
        writer.write(pfn, page(pfn))
    with pytest.raises(ValueError, match=r"part\.dmp is incomplete: 3 of 6 .* first is 0x40"):
        writer.close()
    assert writer.closed
    writer.close()  # closing again is no error
    with pytest.raises(ValueError, match="closed"):
        writer.write(1, page(1))


def test_close_at_the_end_of_a_context_checks_too():
    with pytest.raises(ValueError, match="6 of 6"), DumpWriter(io.BytesIO(), 5, RUNS):
        pass


def test_an_exception_in_the_context_stays_visible(tmp_path):
    path = tmp_path / "part.dmp"
    with pytest.raises(KeyError, match="mine"), DumpWriter(path, 5, RUNS) as writer:
        raise KeyError("mine")
    assert writer.closed
    assert path.read_bytes()[:8] == b"PAGEDU64"


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_leaves_zeros(kind, tmp_path):
    path = tmp_path / "sparse.dmp"
    with DumpWriter(path, kind, RUNS, sparse=True) as writer:
        writer.write(2, page(2))
    want = image(kind)
    first = len(want) - 6 * PAGE
    data = path.read_bytes()
    assert data[:first] == want[:first]
    assert data[first:] == bytes(PAGE) + page(2) + bytes(4 * PAGE)


def test_sparse_in_memory_keeps_a_written_last_page():
    out = io.BytesIO()
    with DumpWriter(out, 1, RUNS, sparse=True) as writer:
        writer.write(0x200, page(0x200))
    assert out.getvalue()[-2 * PAGE :] == bytes(PAGE) + page(0x200)


def test_a_large_sparse_dump_takes_no_room(tmp_path):
    path = tmp_path / "large.dmp"
    with DumpWriter(path, 5, [(0x100, 1 << 24)], sparse=True) as writer:
        writer.write(0x100 + (1 << 23), page(7))
    stat = path.stat()
    assert stat.st_size == writer.size > 1 << 36
    assert stat.st_blocks * 512 < 16 << 20
    with open(path, "rb") as file:
        file.seek(writer.size - (1 << 36) + (1 << 35))
        assert file.read(PAGE) == page(7)


def test_many_runs():
    runs = [(2 * k + 1, 1) for k in range(50_000)]
    with DumpWriter(io.BytesIO(), 10, runs, sparse=True) as writer:
        writer.write(2 * 49_999 + 1, bytes(PAGE))
        assert writer.missing == 49_999


class _Trickle(io.BytesIO):
    """Takes at most 1000 bytes at a time, as an unbuffered file may."""

    def write(self, data):
        return super().write(memoryview(data)[:1000])


def test_a_file_object_may_take_less_than_given():
    out = _Trickle()
    with DumpWriter(out, 5, RUNS) as writer:
        for pfn in FRAMES:
            writer.write(pfn, page(pfn))
    assert out.getvalue() == image(5)


def test_a_dump_starts_at_the_position_of_its_file_object():
    out = io.BytesIO(b"head" + b"old contents" * 10_000)
    out.seek(4)
    with DumpWriter(out, 1, RUNS) as writer:
        for pfn in reversed(FRAMES):
            writer.write(pfn, page(pfn))
    assert out.getvalue() == b"head" + image(1)


def test_a_full_disk_is_an_os_error_and_closes():
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() >= 0x4000:
                raise OSError(28, "no space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="space"), DumpWriter(Full(), 1, RUNS) as writer:
        writer.write(0x40, b"".join(map(page, (0x40, 0x41, 0x42))))
    assert writer.closed


def test_a_path_that_cannot_be_opened_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        DumpWriter(tmp_path / "no" / "such.dmp", 1, RUNS)


def test_repr_names_file_kind_and_state():
    writer = DumpWriter(io.BytesIO(), 5, RUNS, sparse=True)
    assert "BITMAP_FULL 6 of 6 frames missing" in repr(writer)
    writer.close()
    assert "closed" in repr(writer)


# ---- write_dump ----


@pytest.mark.parametrize("kind", KINDS)
def test_write_dump_declares_what_it_is_given(kind):
    one, two = io.BytesIO(), io.BytesIO()
    write_dump(one, kind, {pfn: page(pfn) for pfn in reversed(FRAMES)})
    write_dump(two, kind, [(0x40, bytes(3 * PAGE)), *((pfn, page(pfn)) for pfn in FRAMES)])
    assert one.getvalue() == two.getvalue() == image(kind)


def test_write_dump_with_runs():
    out = io.BytesIO()
    write_dump(out, 1, {2: page(2)}, runs=RUNS, sparse=True)
    assert out.getvalue()[0x2000:] == bytes(PAGE) + page(2) + bytes(4 * PAGE)
    with pytest.raises(ValueError, match="not declared"):
        write_dump(io.BytesIO(), 1, {7: page(7)}, runs=RUNS)


# ---- read back ----


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    path = tmp_path / "one.dmp"
    header = {**HEADER, "machine_image_type": 0x8664}
    context = struct.pack("<48xI", 0x10001F).ljust(0x4D0, b"\x33")
    path.write_bytes(image(kind, header=header, context=context, exception=bytes(range(0x98))))
    with kdmp.open(path) as dump:
        assert dump.kind == kind
        assert list(dump.pages) == FRAMES
        for pfn in FRAMES:
            assert bytes(dump.pages[pfn]) == page(pfn)
        assert {name: dump.header[name] for name in header} == header
        assert dump.context_bytes()[:0x4D0] == context
        assert dump.exception_bytes() == bytes(range(0x98))
        assert dump.required_dump_space == path.stat().st_size
        copy = io.BytesIO()
        with DumpWriter(
            copy,
            dump.kind,
            dump.pages.runs(),
            header=dump.header,
            context=dump.context_bytes(),
            exception=dump.exception_bytes(),
        ) as writer:
            for pfn in dump.pages:
                writer.write(pfn, dump.pages[pfn])
    assert copy.getvalue() == path.read_bytes()


@pytest.mark.parametrize("kind", [1, 5, 6])
def test_32_bit_round_trip(kind):
    data = image(kind, header=HEADER32, context=bytes(0x2CC), exception=bytes(range(0x50)))
    with kdmp.open(data) as dump:
        assert (dump.kind, list(dump.pages)) == (kind, FRAMES)
        assert {name: dump.header[name] for name in HEADER32} == HEADER32
        again = {"context": dump.context_bytes(), "exception": dump.exception_bytes()}
        assert image(kind, header=dump.header, **again) == data


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_of_filler_reads_as_absent(kind):
    with kdmp.open(image(kind)) as dump:
        given = {name for name, value in dump.header.items() if value is not None}
        counts = {"number_of_runs", "number_of_pages"} if kind == 1 else set()
        assert given == {"major_version", "machine_image_type", "dump_type", "required_dump_space"} | counts
        assert dump.context is None
        assert dump.exception is None
        again = {"header": dump.header, "context": dump.context_bytes(), "exception": dump.exception_bytes()}
        assert image(kind, **again) == image(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_another_reader_agrees(kind, tmp_path):
    kdmp_parser = pytest.importorskip("kdmp_parser")
    path = tmp_path / "peer.dmp"
    path.write_bytes(image(kind, header={**HEADER, "machine_image_type": 0x8664}))
    peer = kdmp_parser.KernelDumpParser(path)
    assert peer.type == kind
    assert peer.directory_table_base == 0x1AD000
    for pfn in FRAMES:
        assert bytes(peer.read_physical_page(pfn * PAGE)) == page(pfn)
    assert peer.read_physical_page(3 * PAGE) is None
    assert peer.header.BugCheckCode == 0x1000007E
