"""write_triage: every part against the format tables, what is refused, and the habits of real dumps.

The offsets here are written out once more on purpose; nothing is taken from the writer's tables.

SPDX-License-Identifier: MIT
"""

import array
import io
import struct
import uuid

import pytest
import shareddata
from test_writer import HEADER, HEADER32, OFFSETS, OFFSETS32, u32, u64

from kdmp import triage_writer
from kdmp.triage_writer import write_triage

X86 = {"machine_image_type": 0x14C}
HIGH = 0xFFFFF80400000000
GUID = uuid.UUID("65755a40-f146-43ea-8c91-36b85728fd35")

# Offsets in the 18 u32 at the start of TRIAGE_DUMP, the same in both sizes.
COMMON = {
    "service_pack": 0x00,
    "size": 0x04,
    "valid": 0x08,
    "context": 0x0C,
    "exception": 0x10,
    "mm": 0x14,
    "unloaded": 0x18,
    "prcb": 0x1C,
    "process": 0x20,
    "thread": 0x24,
    "stack": 0x28,
    "stack_size": 0x2C,
    "drivers": 0x30,
    "driver_count": 0x34,
    "pool": 0x38,
    "pool_size": 0x3C,
    "broken": 0x40,
    "options": 0x44,
}
TAIL64 = {"data_page": 0x68, "data_page_size": 0x6C, "kdbg": 0x70, "kdbg_size": 0x74, "blocks": 0x78}
TAIL32 = {"data_page": 0x50, "data_page_size": 0x54, "kdbg": 0x58, "kdbg_size": 0x5C, "blocks": 0x60}

PARTS = {
    "context": b"\x01" * 0x4D0,
    "exception": b"\x02" * 0x98,
    "mm": b"\x03" * 0x50,
    "unloaded": [
        ("dam.sys", HIGH + 0x1000, HIGH + 0x2000),
        ("dump_diskdump.sys", HIGH + 0x3000, HIGH + 0x4000),
    ],
    "prcb": b"\x04" * 0xAF00,
    "process": b"\x05" * 0xA40,
    "thread": b"\x06" * 0x898,
    "stack": (0xFFFF850429890EE8, b"\x07" * 0x2118),
    "debugger_data": b"\x08" * 0x380,
    "drivers": [
        ("\\SystemRoot\\system32\\ntoskrnl.exe", HIGH, 0x1046000, 0xA5938C, 0x0D8333E6),
        ("hal.dll", HIGH + 0x2000000, 0x6000, 0x1234, 0xFFFFFFFF),
        ("\u00e9\U0001f600.sys", HIGH + 0x3000000, 0xFFFFFFFF, 0, 1),
    ],
    "broken_driver": "broken.sys",
    "data_blocks": [(HIGH + 0x100, b"\x09" * 13), (HIGH, b"\x0a" * 0x101), (0xFFFFFFFFFFFFFFFF, b"\x0b")],
    "data_page": (0xFFFF850400001000, b"\x0c" * 0x1000),
    "blobs": [(GUID, b""), (uuid.UUID(int=7), b"\x0d" * 0x44), (GUID, b"\x0e" * 0x2A8)],
}
LOW = 0x80000000
PARTS32 = PARTS | {
    "context": b"\x01" * 0x2CC,
    "exception": b"\x02" * 0x50,
    "mm": b"\x03" * 0x34,
    "unloaded": [("dam.sys", LOW + 0x1000, LOW + 0x2000), ("dump_diskdump.sys", LOW + 0x3000, 0xFFFFFFFF)],
    "prcb": b"\x04" * 0x120,
    "stack": (0x8F000F00, b"\x07" * 0x104),
    "drivers": [(name, LOW + k * 0x100000, *rest) for k, (name, _, *rest) in enumerate(PARTS["drivers"])],
    "data_blocks": [(LOW + 0x100, b"\x09" * 13), (LOW, b"\x0a" * 0x101), (0xFFFFFFFF, b"\x0b")],
    "data_page": (0x8F002000, b"\x0c" * 0x1000),
}


def image(**parts):
    """The bytes of a triage dump."""
    out = io.BytesIO()
    write_triage(out, **parts)
    return out.getvalue()


def triage(data):
    """The numbers of TRIAGE_DUMP64 or TRIAGE_DUMP32, by name."""
    small = data[4:8] == b"DUMP"
    base = 0x1000 if small else 0x2000
    names = COMMON | (TAIL32 if small else TAIL64)
    facts = {name: u32(data, base + offset) for name, offset in names.items()}
    facts["block_count"] = u32(data, base + (0x64 if small else 0x7C))
    facts["top_of_stack"] = u32(data, base + 0x48) if small else u64(data, base + 0x48)
    facts["data_page_address"] = u32(data, base + 0x4C) if small else u64(data, base + 0x60)
    return facts


def string(data, offset):
    """A DUMP_STRING, and where the next one starts."""
    length = u32(data, offset)
    end = offset + 4 + 2 * length
    assert data[end : end + 2] == b"\0\0"
    return data[offset + 4 : end].decode("utf-16-le"), (end + 2 + 7) // 8 * 8


def check_identities(data, stride):
    """What section 17 of the format description says of the parts' neighbours."""
    t = triage(data)
    assert t["stack"] + t["stack_size"] == t["kdbg"]
    assert t["kdbg"] + t["kdbg_size"] == t["drivers"]
    assert t["drivers"] + stride * t["driver_count"] == t["pool"]
    assert t["pool"] + t["pool_size"] == t["blocks"]
    assert u32(data, t["drivers"]) == t["pool"]  # the kernel's name is the first string
    assert t["valid"] == t["size"] - 4
    assert data[t["valid"] : t["size"]] == b"TRGD"
    offset = t["blocks"] + 16 * t["block_count"]
    for k in range(t["block_count"]):
        _, start, size = struct.unpack_from("<QII", data, t["blocks"] + 16 * k)
        assert start == offset
        offset += size
    assert offset <= t["valid"]
    assert t["valid"] % 8 == 0


def blob_list(data):
    """The build number and the (tag, bytes) of the secondary data, which must end the file."""
    offset = triage(data)["size"]
    signature, header, build = struct.unpack_from("<8sII", data, offset)
    assert (signature, header) == (b"DumpBlob", 0x10)
    offset += header
    found = []
    while offset < len(data):
        header, tag, size, before, after = struct.unpack_from("<I16sIII", data, offset)
        assert (header, before) == (0x20, 0)
        assert (size + after) % 8 == 0
        assert after < 8
        found.append((uuid.UUID(bytes_le=tag), data[offset + 0x20 : offset + 0x20 + size]))
        offset += header + size + after
    assert offset == len(data)
    return build, found


# ---- 64-bit ----


@pytest.mark.parametrize("machine", [0x8664, 0xAA64])
def test_header(machine):
    data = image(header={**HEADER, "machine_image_type": machine}, **PARTS)
    assert data[:8] == b"PAGEDU64"
    for name, (offset, layout) in OFFSETS.items():
        if name not in ("machine_image_type", "mini_dump_fields"):
            assert struct.unpack_from(layout, data, offset)[0] == HEADER[name], name
    assert u32(data, 0x30) == machine
    assert u32(data, 0xF98) == 4
    assert u64(data, 0xFA0) == len(data)
    assert u32(data, 0x1038) == 0xFFF  # all parts, whatever the given header says
    assert data[0x88:0x344] == b"PAGE" * 175  # no runs
    assert data[0x348 : 0x348 + 3000] == PARTS["context"] + bytes(3000 - 0x4D0)
    assert data[0xF00:0xF98] == PARTS["exception"]


def test_parts_are_where_their_offsets_say():
    data = image(**PARTS)
    t = triage(data)
    assert (t["service_pack"], t["context"], t["exception"]) == (0, 0x348, 0xF00)
    assert (t["mm"], t["unloaded"], t["prcb"]) == (0x2080, 0x20D0, 0x20D0 + 8 + 2 * 0x38)
    sizes = {"mm": 0x50, "prcb": 0xAF00, "process": 0xA40, "thread": 0x898}
    for name, size in sizes.items():
        assert data[t[name] : t[name] + size] == PARTS[name], name
    assert (t["top_of_stack"], t["stack_size"]) == (0xFFFF850429890EE8, 0x2118)
    assert data[t["stack"] : t["kdbg"]] == PARTS["stack"][1]
    assert data[t["kdbg"] : t["drivers"]] == PARTS["debugger_data"]
    assert t["kdbg_size"] == 0x380
    assert (t["data_page_address"], t["data_page_size"]) == (0xFFFF850400001000, 0x1000)
    assert data[t["data_page"] : t["data_page"] + 0x1000] == PARTS["data_page"][1]
    assert t["options"] == 0xFFFFFFFF
    assert data[0x2050:0x2060] == bytes(16)  # Ia64


def test_identities():
    data = image(**PARTS)
    t = triage(data)
    assert t["prcb"] + 0xAF00 == t["process"]
    assert t["process"] + 0xA40 == t["thread"]
    assert t["thread"] + 0x898 == t["stack"]
    check_identities(data, 0x90)


def test_unloaded_drivers():
    data = image(**PARTS)
    offset = triage(data)["unloaded"]
    assert u64(data, offset) == 2
    first, second = (data[offset + 8 + 0x38 * k :][:0x38] for k in range(2))
    assert struct.unpack("<HH4xQ24sQQ", first) == (
        *(14, 14, 0, "dam.sys".encode("utf-16-le") + bytes(10)),
        *(HIGH + 0x1000, HIGH + 0x2000),
    )
    assert struct.unpack_from("<HH4xQ24s", second) == (24, 24, 0, "dump_diskdum".encode("utf-16-le"))


def test_drivers_and_their_names():
    data = image(**PARTS)
    t = triage(data)
    assert t["driver_count"] == 3
    expected = t["pool"]
    for k, (name, base, size, checksum, timestamp) in enumerate(PARTS["drivers"]):
        entry = data[t["drivers"] + 0x90 * k :][:0x90]
        assert u64(entry, 0x38) == base
        assert (u32(entry, 0x48), u32(entry, 0x80), u32(entry, 0x88)) == (size, checksum, timestamp)
        assert not any(entry[4:0x38] + entry[0x40:0x48] + entry[0x4C:0x80] + entry[0x84:0x88] + entry[0x8C:])
        assert u32(entry, 0) == expected
        found, expected = string(data, expected)
        assert found == name
    assert t["broken"] == expected
    assert string(data, expected) == ("broken.sys", t["pool"] + t["pool_size"])


def test_string_length_counts_utf16_units():
    data = image(drivers=[("\U0001f600", 0, 0, 0, 0)])
    assert data[triage(data)["pool"] :][:12] == b"\x02\0\0\0\x3d\xd8\x00\xde\0\0\0\0"


def test_data_blocks_follow_their_table_without_gaps():
    data = image(**PARTS)
    t = triage(data)
    assert t["block_count"] == 3
    offset = t["blocks"] + 3 * 16
    for k, (address, content) in enumerate(PARTS["data_blocks"]):
        assert struct.unpack_from("<QII", data, t["blocks"] + 16 * k) == (address, offset, len(content))
        assert data[offset : offset + len(content)] == content
        offset += len(content)


def test_blobs_end_the_file():
    data = image(header={"minor_version": 19041}, **PARTS)
    build, found = blob_list(data)
    assert build == 0xF0004A61
    assert found == PARTS["blobs"]


@pytest.mark.parametrize(
    "header, more, build",
    [
        ({}, {}, 0xF0000000),
        ({"major_version": 0xC, "minor_version": 7601}, {}, 0xC0001DB1),
        ({"minor_version": 22000}, {"build_number": 0x12345678}, 0x12345678),
        ({"minor_version": 22000}, {"build_number": 0}, 0),
    ],
)
def test_build_number_of_the_blobs(header, more, build):
    assert blob_list(image(header=header, blobs=[(GUID, b"x")], **more))[0] == build


def test_a_dump_without_parts():
    data = image()
    t = triage(data)
    assert (t.pop("size"), t.pop("valid"), t.pop("options")) == (0x2084, 0x2080, 0xFFFFFFFF)
    assert not any(t.values())
    assert data[0x2080:] == b"TRGD"
    assert u32(data, 0x1038) == 0
    assert u64(data, 0xFA0) == 0x2084


def test_empty_parts_are_absent():
    empty = dict.fromkeys(PARTS, b"") | dict.fromkeys(("unloaded", "stack", "data_page", "broken_driver"))
    assert image(**empty) == image() == image(stack=(0, b""), data_page=(0, b""))


def test_an_empty_list_of_unloaded_drivers_is_a_list():
    data = image(unloaded=[])
    assert triage(data)["unloaded"] == 0x2080
    assert data[0x2080:] == bytes(8) + b"TRGD"


@pytest.mark.parametrize(
    "part, bit",
    [
        ("context", 0x001),
        ("exception", 0x002),
        ("prcb", 0x004),
        ("process", 0x008),
        ("thread", 0x010),
        ("stack", 0x020),
        ("drivers", 0x040),
        ("broken_driver", 0x080),
        ("mm", 0x100),
        ("data_page", 0x200),
        ("debugger_data", 0x400),
        ("data_blocks", 0x800),
        ("unloaded", 0),
        ("blobs", 0),
    ],
)
def test_mini_dump_fields_name_the_parts(part, bit):
    assert u32(image(**{part: PARTS[part]}), 0x1038) == bit
    assert u32(image(header=X86, **{part: PARTS32[part]}), 0xF8C) == bit


def test_mini_dump_fields_and_options_may_be_given():
    data = image(mini_dump_fields=0xCFF, triage_options=0x41, **PARTS)
    assert u32(data, 0x1038) == 0xCFF
    assert triage(data)["options"] == 0x41
    assert u32(image(mini_dump_fields=0, **PARTS), 0x1038) == 0


def test_parts_of_odd_sizes_are_filled_up_with_zeros():
    data = image(
        process=b"\x11" * 5, thread=b"\x22", stack=(0x1000, b"\x33" * 9), data_blocks=[(7, b"\x44" * 3)]
    )
    t = triage(data)
    assert (t["process"], t["thread"], t["stack"], t["blocks"]) == (0x2080, 0x2088, 0x2090, 0x20A0)
    assert data[0x2080:0x20A0] == b"\x11" * 5 + bytes(3) + b"\x22" + bytes(7) + b"\x33" * 9 + bytes(7)
    assert data[0x20B0:] == b"\x44" * 3 + bytes(5) + b"TRGD"


# ---- 32-bit ----


def test_32_bit_header():
    data = image(header=HEADER32, **PARTS32)
    assert data[:8] == b"PAGEDUMP"
    for name, (offset, layout) in OFFSETS32.items():
        if name != "mini_dump_fields":
            assert struct.unpack_from(layout, data, offset)[0] == HEADER32[name], name
    assert (u32(data, 0xF88), u32(data, 0xF8C), u64(data, 0xFA0)) == (4, 0xFFF, len(data))
    assert data[0x64:0x320] == b"PAGE" * 175
    assert data[0x320:0x820] == PARTS32["context"] + bytes(1200 - 0x2CC) + PARTS32["exception"]


def test_32_bit_parts():
    data = image(header=X86, **PARTS32)
    t = triage(data)
    assert (t["context"], t["exception"]) == (0x320, 0x7D0)
    assert (t["mm"], t["unloaded"], t["prcb"]) == (0x1068, 0x109C, 0x109C + 4 + 2 * 0x28)
    for name in ("mm", "prcb", "process", "thread"):
        assert data[t[name] : t[name] + len(PARTS32[name])] == PARTS32[name], name
    assert (t["top_of_stack"], t["stack_size"]) == (0x8F000F00, 0x104)
    assert data[t["stack"] : t["kdbg"]] == PARTS32["stack"][1]
    assert data[t["kdbg"] : t["drivers"]] == PARTS32["debugger_data"]
    assert (t["data_page_address"], t["data_page_size"]) == (0x8F002000, 0x1000)
    assert data[t["data_page"] : t["data_page"] + 0x1000] == PARTS32["data_page"][1]
    check_identities(data, 0x4C)
    assert blob_list(data) == (0xF0000000, PARTS32["blobs"])


def test_32_bit_drivers():
    data = image(header=X86, **PARTS32)
    t = triage(data)
    assert t["driver_count"] == 3
    for k, (name, *numbers) in enumerate(PARTS32["drivers"]):
        entry = data[t["drivers"] + 0x4C * k :][:0x4C]
        assert [u32(entry, offset) for offset in (0x1C, 0x24, 0x44, 0x48)] == numbers
        assert not any(entry[4:0x1C] + entry[0x20:0x24] + entry[0x28:0x44])
        assert (u32(entry, 0) - t["pool"]) % 8 == 0
        length = u32(data, u32(entry, 0))
        assert data[u32(entry, 0) + 4 :][: 2 * length].decode("utf-16-le") == name


def test_32_bit_unloaded_drivers():
    data = image(header=X86, **PARTS32)
    offset = triage(data)["unloaded"]
    assert u32(data, offset) == 2
    assert struct.unpack_from("<HHI24sII", data, offset + 4) == (
        *(14, 14, 0, "dam.sys".encode("utf-16-le") + bytes(10)),
        *(LOW + 0x1000, LOW + 0x2000),
    )
    assert struct.unpack_from("<HHI24sII", data, offset + 4 + 0x28)[4:] == (LOW + 0x3000, 0xFFFFFFFF)


# ---- what is refused ----


@pytest.mark.parametrize(
    "parts, named",
    [
        ({"header": {"colour": 1}}, "colour"),
        ({"header": {"minor_version": 1 << 32}}, "minor_version"),
        ({"context": bytes(3001)}, "context"),
        ({"exception": bytes(3)}, "exception"),
        ({"mm": bytes(0x34)}, "mm"),
        ({"mm": bytes(0x50), "header": X86}, "mm"),
        ({"stack": (-1, b"x")}, "stack"),
        ({"stack": (0xFFFFFFFFFFFFFFFF, b"xy")}, "stack"),
        ({"stack": (1 << 32, b""), "header": X86}, "stack"),
        ({"stack": (0xFFFFFFFF, b"xy"), "header": X86}, "stack"),
        ({"stack": (1,)}, "stack"),
        ({"data_page": (1 << 64, b"")}, "data_page"),
        ({"data_blocks": [(0, b"x"), (1 << 64, b"x")]}, r"data_blocks\[1\]"),
        ({"data_blocks": [(0, b"x", 1)]}, r"data_blocks\[0\]"),
        ({"data_blocks": [(HIGH, b"x")], "header": X86}, r"data_blocks\[0\]"),
        ({"drivers": [("a", 1 << 64, 0, 0, 0)]}, r"drivers\[0\] base"),
        ({"drivers": [("a", 1 << 32, 0, 0, 0)], "header": X86}, r"drivers\[0\] base"),
        ({"drivers": [("a", 0, 1 << 32, 0, 0)]}, r"drivers\[0\] size"),
        ({"drivers": [("a", 0, 0, -1, 0)]}, r"drivers\[0\] checksum"),
        ({"drivers": [("a", 0, 0, 0, 1 << 32)]}, r"drivers\[0\] timestamp"),
        ({"drivers": [("a\0b", 0, 0, 0, 0)]}, r"drivers\[0\] name"),
        ({"drivers": [("a", 0, 0)]}, r"drivers\[0\]"),
        ({"unloaded": [("a", -1, 0)]}, r"unloaded\[0\] start"),
        ({"unloaded": [("a", 0, 1 << 64)]}, r"unloaded\[0\] end"),
        ({"unloaded": [("a", 0, 1 << 32)], "header": X86}, r"unloaded\[0\] end"),
        ({"unloaded": [("a\0", 0, 0)]}, r"unloaded\[0\] name"),
        ({"broken_driver": "\0"}, "broken_driver"),
        ({"blobs": [(GUID, b"", 0)]}, r"blobs\[0\]"),
        ({"build_number": 1 << 32}, "build_number"),
        ({"triage_options": -1}, "triage_options"),
        ({"mini_dump_fields": 1 << 32}, "mini_dump_fields"),
    ],
)
def test_values_out_of_range_are_refused_by_name(parts, named, tmp_path):
    path = tmp_path / "out.dmp"
    with pytest.raises(ValueError, match=named):
        write_triage(path, **parts)
    assert not path.exists()  # refused before the file is touched


@pytest.mark.parametrize(
    "parts, named",
    [
        ({"context": 5}, "context"),
        ({"exception": "text"}, "exception"),
        ({"prcb": 0x1000}, "prcb"),
        ({"stack": ("1", b"x")}, "stack address"),
        ({"stack": (1, "x")}, "stack"),
        ({"data_blocks": [(0, 5)]}, r"data_blocks\[0\]"),
        ({"drivers": [(b"a", 0, 0, 0, 0)]}, r"drivers\[0\] name"),
        ({"drivers": [("a", 1.5, 0, 0, 0)]}, r"drivers\[0\] base"),
        ({"blobs": [("65755a40-f146-43ea-8c91-36b85728fd35", b"")]}, r"blobs\[0\] tag"),
        ({"broken_driver": b"a"}, "broken_driver"),
        ({"build_number": "1"}, "build_number"),
    ],
)
def test_wrong_types_are_refused_by_name(parts, named):
    with pytest.raises(TypeError, match=named):
        image(**parts)


@pytest.mark.parametrize(
    "parts, named",
    [
        ({"prcb": bytes(0x1000)}, "prcb"),
        ({"drivers": [("a" * 0x800, 0, 0, 0, 0)]}, "string pool"),
        ({"data_blocks": [(0, bytes(0x100)), (0, bytes(0xF00))]}, r"data_blocks\[1\]"),
        ({"prcb": bytes(0xFFC)}, "end mark"),
    ],
)
def test_offsets_have_32_bits(parts, named, monkeypatch):
    monkeypatch.setattr(triage_writer, "_MAX_SIZE", 0x307F)  # 4 GiB would take too long
    with pytest.raises(ValueError, match=rf"{named}.* does not fit"):
        image(**parts)


# ---- where it is written ----


def test_target_may_be_a_path(tmp_path):
    path = tmp_path / "one.dmp"
    path.write_bytes(bytes(0x100000))
    write_triage(path, **PARTS)
    assert path.read_bytes() == image(**PARTS)
    write_triage(str(path))
    assert path.read_bytes() == image()


def test_a_dump_starts_at_the_position_of_its_file_object():
    class Trickle(io.BytesIO):
        def write(self, data):
            return super().write(memoryview(data)[:1000])

    out = Trickle()
    out.write(b"head" + b"old" * 300)
    out.seek(4)
    write_triage(out, **PARTS)
    assert out.getvalue() == b"head" + image(**PARTS)


def test_parts_may_be_any_buffer_and_any_iterable():
    parts = PARTS | {
        "prcb": memoryview(array.array("I", [0x04040404]) * (0xAF00 // 4)),
        "process": bytearray(PARTS["process"]),
        "drivers": iter(PARTS["drivers"]),
        "unloaded": (list(entry) for entry in PARTS["unloaded"]),
        "data_blocks": iter(PARTS["data_blocks"]),
        "blobs": iter(PARTS["blobs"]),
    }
    assert image(**parts) == image(**PARTS)


# ---- the habits of real kernels ----

# Written by the crashing kernel; the other files in that folder were carved and laid out by another writer.
BY_KERNEL = (
    *("rtech_116_1", "rtech_7e_0", "rtech_7e_1", "rtech_9f", "rtech_d1", "rtech_ef"),
    *("triage_arm64", "triage_x64"),
)


@pytest.fixture(scope="module", params=BY_KERNEL)
def real(request):
    return shareddata.unpack("triage", f"{request.param}.dmp.xz").read_bytes()


def take_apart(data):
    """The arguments of write_triage that a real 64-bit dump was made of."""
    t = triage(data)

    def part(start, end):
        return data[t[start] : t[end]]

    names = [u32(data, t["drivers"] + 0x90 * k) for k in range(t["driver_count"])]
    drivers = [
        (
            string(data, name)[0],
            u64(data, entry + 0x38),
            *(u32(data, entry + at) for at in (0x48, 0x80, 0x88)),
        )
        for name, entry in zip(names, range(t["drivers"], t["pool"], 0x90), strict=True)
    ]
    unloaded = []
    for offset in range(t["unloaded"] + 8, t["prcb"], 0x38):
        size, _, name, start, end = struct.unpack_from("<HH12x24sQQ", data, offset)
        unloaded.append((name[:size].decode("utf-16-le"), start, end))
    assert len(unloaded) == u64(data, t["unloaded"])
    blocks = list(struct.iter_unpack("<QII", data[t["blocks"] :][: 16 * t["block_count"]]))
    build, blobs = blob_list(data)
    return {
        "header": {name: struct.unpack_from(layout, data, at)[0] for name, (at, layout) in OFFSETS.items()},
        "context": data[0x348:0xF00],
        "exception": data[0xF00:0xF98],
        "mm": part("mm", "unloaded"),
        "unloaded": unloaded,
        "prcb": part("prcb", "process"),
        "process": part("process", "thread"),
        "thread": part("thread", "stack"),
        "stack": (t["top_of_stack"], part("stack", "kdbg")),
        "debugger_data": part("kdbg", "drivers"),
        "drivers": drivers,
        "data_blocks": [(address, data[offset : offset + size]) for address, offset, size in blocks],
        "blobs": blobs,
        "build_number": build,
        "mini_dump_fields": 0xCFF,
    }


def test_identities_hold_in_real_dumps(real):
    check_identities(real, 0x90)
    t = triage(real)
    kdbg = t["kdbg"]
    sizes = [struct.unpack_from("<H", real, kdbg + at)[0] for at in (0x2B0, 0x2A8, 0x2C0)]
    assert [t["prcb"] + sizes[0], t["process"] + sizes[1], t["thread"] + sizes[2]] == [
        t["process"],
        t["thread"],
        t["stack"],
    ]
    assert (t["context"], t["exception"], t["mm"], t["unloaded"]) == (0x348, 0xF00, 0x2080, 0x20D0)
    assert t["options"] == 0xFFFFFFFF


def test_a_real_dump_is_reproduced_byte_for_byte(real):
    made = image(**take_apart(real))
    t, mine = triage(real), triage(made)
    start, size = struct.unpack_from("<8xII", real, t["blocks"] + 16 * t["block_count"] - 16)
    end = start + size
    # Windows reserved some bytes more than it used, in RequiredDumpSpace and in front of the end mark.
    assert not any(real[end : t["valid"]])
    assert mine["valid"] == (end + 7) // 8 * 8 <= t["valid"]
    assert u64(made, 0xFA0) == len(made)
    assert made[:0xFA0] == real[:0xFA0]
    assert made[0xFA8:0x2004] == real[0xFA8:0x2004]
    assert made[0x200C:end] == real[0x200C:end]
    assert made[mine["valid"] :] == real[t["valid"] :]
