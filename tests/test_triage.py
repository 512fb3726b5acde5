"""Triage dumps (type 4): twelve real ones against an independent parser, and small ones made to order.

SPDX-License-Identifier: MIT
"""

import hashlib
import io
import pickle
import struct
from collections import Counter
from functools import cached_property
from itertools import pairwise
from uuid import UUID

import pytest
import shareddata
from archtables import error_of

import kdmp
from kdmp import write_triage
from kdmp.secondary import KNOWN_TAGS

TRIAGE = (
    "rtech_116_1 rtech_13a rtech_1a rtech_3b_0 rtech_7e_0 rtech_7e_1 rtech_9f rtech_be_0 rtech_d1 rtech_ef "
    "triage_arm64 triage_x64"
).split()
BY_THE_KERNEL = {"rtech_1a", "rtech_3b_0", "rtech_13a", "rtech_be_0"}
LAST = 1 << 64


class RefTriage:
    """A 64-bit triage dump read with struct alone, from the description of the format."""

    def __init__(self, data):
        self.data = data
        numbers = struct.unpack_from("<18IQ16xQ6I", data, 0x2000)
        (
            _, self.size, self.valid, self.context, self.exception, self.mm, self.unloaded, self.prcb,
            self.process, self.thread, self.stack_at, self.stack_size, self.drivers_at, self.driver_count,
            self.pool, self.pool_size, self.broken, self.options, self.stack_va, self.page_va, self.page_at,
            self.page_size, self.kdbg_at, self.kdbg_size, self.table, self.count,
        ) = numbers  # fmt: skip

    def u16(self, at):
        return struct.unpack_from("<H", self.data, at)[0]

    def u64(self, at):
        return struct.unpack_from("<Q", self.data, at)[0]

    @cached_property
    def blocks(self):
        """(address, file offset, size) in the table's order."""
        return [struct.unpack_from("<QII", self.data, self.table + 16 * k) for k in range(self.count)]

    @cached_property
    def sources(self):
        """Every stretch with an address in the file, (address, offset, size), most trusted first."""
        stack = (self.stack_va, self.stack_at, self.stack_size)
        page = (self.page_va, self.page_at, self.page_size)
        kdbg = (self.u64(0x80), self.kdbg_at, self.kdbg_size)
        return [source for source in (*self.blocks, stack, page, kdbg) if source[1] and source[2]]

    def memory(self, more=()):
        """{address: byte} of all sources, the first one winning. Slow and plain."""
        out = {}
        for address, offset, size in (*self.sources, *more):
            for k, byte in enumerate(self.data[offset : offset + size]):
                out.setdefault(address + k, byte)
        return out

    def string(self, at):
        length = struct.unpack_from("<I", self.data, at)[0]
        return self.data[at + 4 : at + 4 + 2 * length].decode("utf-16-le")

    def blobs(self):
        """(tag, offset, size) of the secondary data; and where the chain stops."""
        at = self.size
        assert self.data[at : at + 8] == b"DumpBlob"
        at += struct.unpack_from("<I", self.data, at + 8)[0]
        found = []
        while at + 0x20 <= len(self.data):
            size_of, tag, size, pre, post = struct.unpack_from("<I16sIII", self.data, at)
            if size_of < 0x20:
                break
            found.append((UUID(bytes_le=tag), at + size_of + pre, size))
            at += size_of + pre + size + post
        return found, at


class Case:
    def __init__(self, name):
        self.name = name
        self.facts = next(f for f in shareddata.triage_index() if f["file"] == f"{name}.dmp.xz")
        self.path = shareddata.unpack("triage", self.facts["file"])
        self.data = self.path.read_bytes()
        self.ref = RefTriage(self.data)
        self.dump = kdmp.open(self.path)
        self.reader = self.dump.reader()

    @cached_property
    def memory(self):
        copies = [r for r in self.dump.ranges if r.origin in ("processor", "thread", "process")]
        return self.ref.memory([(r.address, r.file_offset, r.size) for r in copies])


@pytest.fixture(scope="module", params=TRIAGE)
def case(request):
    case = Case(request.param)
    with case.dump:
        yield case


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_header_and_paging(case):
    dump, facts = case.dump, case.facts
    assert (dump.kind, dump.layout, dump.arch) == (kdmp.DumpKind.TRIAGE, "triage", facts["arch"])
    assert (dump.paging, dump.reader().paging) == ("triage", "triage")
    assert dump.reader().dtb is None
    assert dump.reader(dtb=0x1000).paging == "triage"
    assert dump.triage.valid and dump.triage.header["size_of_dump"] == facts["size_of_dump"]
    assert dump.figures["data_end"] == facts["size_of_dump"]
    assert not dump.triage.overflowed
    assert dump.triage.header == {
        **dump.triage.header, "data_blocks_count": case.ref.count, "triage_options": case.ref.options,
        "top_of_stack": case.ref.stack_va, "driver_count": case.ref.driver_count,
        "string_pool_size": case.ref.pool_size, "prcb_offset": case.ref.prcb,
        "debugger_data_size": case.ref.kdbg_size, "call_stack_offset": case.ref.stack_at,
    }  # fmt: skip
    assert dump.triage.header["context_offset"] == 0x348
    assert f"{case.ref.driver_count} drivers" in repr(dump.triage)


def test_every_driver_has_its_name(case):
    want = [(d["name"], d["base"], d["size"], d["timestamp"]) for d in case.facts["drivers"]]
    got = [(d.name, d.base, d.size, d.timestamp) for d in case.dump.triage.drivers]
    assert got == want
    assert len(got) == case.ref.driver_count > 100
    assert all(name and name.isprintable() for name, *_ in got)
    assert got[0][0].lower().endswith(("ntoskrnl.exe", "ntkrnlmp.exe"))
    assert got[0][1] == case.facts["kdbg"]["kern_base"]
    kernel = case.dump.triage.drivers[0]
    assert kernel.image_id == f"{kernel.timestamp:08X}{kernel.size:x}"
    assert kernel.to_dict()["checksum"] == kernel.checksum > 0


def test_unloaded_drivers(case):
    got = [(d.name, d.start, d.end) for d in case.dump.triage.unloaded_drivers]
    assert got == [(d["name"], d["start"], d["end"]) for d in case.facts["unloaded_drivers"]]
    assert len(got) == case.ref.u64(case.ref.unloaded)


def test_stack(case):
    facts = case.facts["stack"]
    address, data = case.dump.triage.stack
    assert (address, len(data), sha256(data)) == (facts["top_of_stack"], facts["size"], facts["sha256"])
    [kept] = [r for r in case.dump.ranges if r.origin == "call stack"]
    assert (kept.address, kept.size, kept.file_offset) == (address, len(data), case.ref.stack_at)
    # The stack, unless a data block has (other) bytes of the same addresses.
    assert case.reader.read(address, len(data)) == bytes(case.memory[address + k] for k in range(len(data)))


def test_debugger_data(case):
    kdbg = case.dump.triage.debugger_data
    assert (kdbg[0x10:0x14], len(kdbg)) == (b"KDBG", case.facts["kdbg"]["size"])
    assert int.from_bytes(kdbg[0x18:0x20], "little") == case.facts["kdbg"]["kern_base"]
    assert case.reader.read_exact(case.dump.kd_debugger_data_block, len(kdbg)) == kdbg


def test_copies(case):
    """KPRCB, EPROCESS and ETHREAD have the sizes that KDBG says, and are where other facts point."""
    triage, ref = case.dump.triage, case.ref
    for name, at, size_at in (
        ("prcb", ref.prcb, 0x2B0), ("process", ref.process, 0x2A8), ("thread", ref.thread, 0x2C0),
    ):  # fmt: skip
        size = ref.u16(ref.kdbg_at + size_at)
        assert getattr(triage, name) == case.data[at : at + size], name
        assert size > 0x200
    origins = Counter(r.origin for r in case.dump.ranges)
    assert (origins["thread"], origins["process"]) == (1, 1)
    [thread] = [r for r in case.dump.ranges if r.origin == "thread"]
    assert thread.address == int.from_bytes(triage.prcb[8:16], "little")
    assert case.facts["process"]["name"].encode() in triage.process


def test_mm_storage(case):
    mm = case.dump.triage.mm
    assert (mm.version, mm.size) == struct.unpack_from("<II", case.data, case.ref.mm)
    assert mm.to_dict()["commit_limit_maximum"] == case.ref.u64(case.ref.mm + 0x48)


# ---- data blocks ----


def test_sampled_blocks(case):
    for sample in case.facts["data_blocks"]["samples"]:
        data = case.data[sample["offset"] : sample["offset"] + sample["size"]]
        assert sha256(data) == sample["sha256"]
        assert case.reader.read_exact(sample["address"], sample["size"]) == bytes(
            case.memory[sample["address"] + k] for k in range(sample["size"])
        )


def test_every_block_reads_as_in_the_file(case):
    """Through the reader: the file's bytes; of bytes that two blocks hold, those of the first."""
    assert len(case.ref.blocks) == case.facts["data_blocks"]["count"]
    assert sum(size for _, _, size in case.ref.blocks) == case.facts["data_blocks"]["bytes"]
    own = 0
    for address, offset, size in case.ref.blocks:
        got = case.reader.read_exact(address, size)
        if got == case.data[offset : offset + size]:
            own += 1
        assert got == bytes(case.memory[address + k] for k in range(size)), hex(address)
    assert own >= len(case.ref.blocks) - 8, "blocks hardly overlap"


def test_ranges_say_where_they_come_from(case):
    blocks = [(r.address, r.file_offset, r.size) for r in case.dump.ranges if r.origin == "data block"]
    assert blocks == [block for block in case.ref.blocks if block[2]]
    assert all(isinstance(r, kdmp.VaRange) for r in case.dump.ranges)
    assert case.dump.ranges == case.dump.va_ranges() == case.dump.triage.ranges
    for r in case.dump.ranges:
        assert r.file_offset + r.size <= len(case.data)
        assert case.reader.is_readable(r.address, r.size)


def test_adjacent_blocks_are_stitched(case):
    found = 0
    ends = {address + size: (address, size) for address, _, size in case.ref.blocks}
    for address, _, size in case.ref.blocks:
        if address in ends and size:
            first, length = ends[address]
            want = bytes(case.memory[first + k] for k in range(length + size))
            assert case.reader.read_exact(first, length + size) == want
            assert case.reader.read_exact(address - 1, 2) == want[length - 1 : length + 1]
            found += 1
    assert found >= 1


def stretches(memory):
    """Sorted (start, end) of the addresses in a dict."""
    out = []
    for address in sorted(memory):
        if out and out[-1][1] == address:
            out[-1][1] = address + 1
        else:
            out.append([address, address + 1])
    return out


def test_reads_outside_name_the_nearest_ranges(case):
    parts = stretches(case.memory)
    for (_, below), (above, _) in list(pairwise(parts))[:: max(1, len(parts) // 40)]:
        for address in {below, above - 1, (below + above) // 2}:
            error = error_of(case.reader.read_exact, address, 1)
            assert type(error) is kdmp.NotInDumpError
            assert error.address == address
            text = str(error)
            assert f"{address:#x} is not in this triage dump" in text
            assert f"{below:#x}" in text and f"{above:#x}" in text
            assert case.reader.read(address, 16) == b""
            assert case.reader.try_read_exact(address, 16) is None
    start, end = parts[0][0], parts[-1][1]
    if start:
        assert f"{start:#x}" in str(error_of(case.reader.read_u8, start - 1))
    assert f"{end:#x}" in str(error_of(case.reader.read_u8, end))


def test_short_reads_and_gaps(case):
    parts = stretches(case.memory)
    pairs = [(a, b) for a, b in pairwise(parts) if b[0] - a[1] < 0x4000][:60]
    assert pairs
    for (start, end), (after, last) in pairs:
        start, last = max(start, end - 0x40), min(last, after + 0x40)
        want = bytes(case.memory.get(a, 0xEE) for a in range(start, last))
        got, gaps = case.reader.read_gaps(start, last - start, 0xEE)
        assert got == want
        assert [(g.address, g.size, type(g.reason)) for g in gaps] == [
            (end, after - end, kdmp.NotInDumpError)
        ]
        assert case.reader.read(start, last - start) == want[: end - start]
        with pytest.raises(kdmp.PartialReadError) as caught:
            case.reader.read_exact(start, last - start)
        assert caught.value.data == want[: end - start]
        assert caught.value.reason.address == end


def test_physical_memory_is_refused(case):
    with pytest.raises(kdmp.UnsupportedDumpError, match="no physical pages"):
        _ = case.dump.phys
    for paging in ("x64", "physical", "la57"):
        with pytest.raises(kdmp.UnsupportedDumpError):
            case.dump.reader(paging=paging)
    with pytest.raises(kdmp.KdmpError):
        case.reader.read_u8(kdmp.phys(0x1000))
    with pytest.raises(kdmp.KdmpError):
        case.reader.translate(case.dump.kd_debugger_data_block)


def test_processors(case):
    found = list(case.dump.triage.processors())
    assert 1 <= len(found) <= case.dump.processors
    assert [p.number for p in found] == sorted({p.number for p in found})
    if case.name in BY_THE_KERNEL:
        assert [(p.prcb, p.context) for p in found] == [(None, None)]
        number_at = case.ref.u16(case.ref.kdbg_at + 0x2BE)
        assert found[0].number == struct.unpack_from("<I", case.data, case.ref.prcb + number_at)[0]
        return
    # Carved from a whole dump: every processor's KPRCB and context.
    assert [p.number for p in found] == list(range(case.dump.processors))
    assert len({p.prcb for p in found}) == len(found)
    stack = "sp" if case.dump.arch == "arm64" else "rsp"
    assert all(p.context is not None and getattr(p.context, stack) for p in found)
    [own] = [r for r in case.dump.ranges if r.origin == "processor"]
    crashed = next(p for p in found if p.prcb == own.address)
    assert getattr(crashed.context, stack) >> 16  # a kernel or user stack, no garbage
    assert {getattr(p.context, stack) for p in found} != {0}


def test_blobs(case):
    want, end = case.ref.blobs()
    got = list(case.dump.blobs())
    assert [(b.tag, b.offset, b.size) for b in got] == want
    assert len(case.data) - case.ref.size == case.facts["secondary_bytes"]
    if case.name not in BY_THE_KERNEL:
        assert end == len(case.data), "sizes add up to the end of the file"
    assert not any(b.truncated for b in got)
    assert all(b.name == KNOWN_TAGS.get(b.tag) for b in got)
    named = {b.name for b in got if b.name}
    assert {"ACPI tables", "SMBIOS tables"} & named
    for blob in got[:6]:
        assert blob.read(case.dump) == case.data[blob.offset : blob.offset + blob.size]


def test_pickling(case):
    with pickle.loads(pickle.dumps(case.dump)) as again:
        assert again.ranges == case.dump.ranges
        reader = pickle.loads(pickle.dumps(case.reader))
        block = case.ref.blocks[0]
        assert reader.read_exact(block[0], block[2]) == case.reader.read_exact(block[0], block[2])
        reader.dump.close()
    assert pickle.loads(pickle.dumps(case.dump.ranges)) == case.dump.ranges
    error = error_of(case.reader.read_u8, 0x10)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.address, type(again)) == (str(error), 0x10, kdmp.NotInDumpError)


def test_without_mapping(case):
    with kdmp.open(case.path, io="read") as dump:
        assert dump.ranges == case.dump.ranges
        for address, _, size in case.ref.blocks[:: max(1, len(case.ref.blocks) // 50)]:
            assert dump.reader().read(address, size) == case.reader.read(address, size)


# ---- made to order ----

BASE = 0xFFFF_A000_0000_0000


def triage(data_blocks=(), **parts):
    out = io.BytesIO()
    write_triage(out, data_blocks=data_blocks, **{"header": {"minor_version": 19041}, **parts})
    return out.getvalue()


def test_the_first_of_overlapping_blocks_wins():
    image = triage([(BASE + 8, b"b" * 8), (BASE, b"a" * 24), (BASE + 20, b"c" * 8)])
    reader = kdmp.open(image).reader()
    assert reader.read(BASE, 100) == b"a" * 8 + b"b" * 8 + b"a" * 8 + b"c" * 4


def test_blocks_win_over_the_stack_and_the_stack_over_copies():
    kdbg = bytearray(0x380)
    struct.pack_into("<H", kdbg, 0x2B4, 8)  # CurrentThread's offset in the KPRCB
    struct.pack_into("<H", kdbg, 0x2C0, 0x20)  # SizeEThread
    struct.pack_into("<H", kdbg, 0x2B0, 0x10)
    prcb = struct.pack("<QQ", 0, BASE + 0x10)
    image = triage(
        [(BASE + 4, b"BLOCK")], stack=(BASE, b"s" * 0x20), prcb=prcb, thread=b"t" * 0x20, debugger_data=kdbg
    )
    dump = kdmp.open(image)
    assert dump.reader().read(BASE, 0x100) == b"ssssBLOCK" + b"s" * 23 + b"t" * 0x10
    assert [r.origin for r in dump.ranges] == ["data block", "call stack", "thread"]


def test_data_page_and_debugger_data():
    image = triage(
        data_page=(BASE, b"page" * 8),
        debugger_data=b"KDBG" * 4,
        header={"kd_debugger_data_block": BASE + 0x20, "minor_version": 19041},
    )
    dump = kdmp.open(image)
    assert [(r.origin, r.size) for r in dump.ranges] == [("data page", 32), ("debugger data", 16)]
    assert dump.reader().read(BASE, 48) == b"page" * 8 + b"KDBG" * 4


@pytest.mark.parametrize("width", [4, 8])
def test_copies_of_processor_and_process(width):
    """KiProcessorBlock leads to the KPRCB, KPRCB.CurrentThread to the thread, it to its process."""
    kdbg = bytearray(0x380)
    base = 0x8000_0000 if width == 4 else BASE
    processor_block = base + 0x5000
    struct.pack_into("<Q", kdbg, 0x218, processor_block | (0xFFFF_FFFF << 32 if width == 4 else 0))
    for offset, value in (
        (0x2A0, 0x30), (0x2A8, 0x80), (0x2B0, 0x60), (0x2B4, width), (0x2BE, 0x40), (0x2C0, 0x70),
    ):  # fmt: skip
        struct.pack_into("<H", kdbg, offset, value)
    prcb, thread, process = bytearray(b"P" * 0x60), bytearray(b"T" * 0x70), b"E" * 0x80
    prcb[width : 2 * width] = (base + 0x2000).to_bytes(width, "little")
    struct.pack_into("<I", prcb, 0x40, 1)  # Number
    thread[0x30 : 0x30 + width] = (base + 0x3000).to_bytes(width, "little")
    array = (base + 0x9000).to_bytes(width, "little") + (base + 0x1000).to_bytes(width, "little")
    header = {"minor_version": 9600, "machine_image_type": 0x14C if width == 4 else 0x8664}
    image = triage(
        [(processor_block, array)], header=header, prcb=prcb, thread=thread, process=process,
        debugger_data=kdbg,
    )  # fmt: skip
    dump = kdmp.open(image)
    where = {r.origin: (r.address, r.size) for r in dump.ranges}
    assert where["processor"] == (base + 0x1000, 0x60)
    assert where["thread"] == (base + 0x2000, 0x70)
    assert where["process"] == (base + 0x3000, 0x80)
    assert dump.reader().read_exact(base + 0x3000, 0x80) == process
    assert dump.reader().pointer_size == width
    assert dump.reader().read_ptr(base + 0x1000 + width) == base + 0x2000


def test_gap_of_one_byte_and_touching_blocks():
    image = triage([(BASE + 0x10, b"b" * 0xF), (BASE, b"a" * 0x10), (BASE + 0x20, b"c" * 4)])
    reader = kdmp.open(image).reader()
    assert reader.read(BASE, 0x100) == b"a" * 16 + b"b" * 15
    data, gaps = reader.read_gaps(BASE - 2, 0x40, 0x2E)
    assert data == b"." * 2 + b"a" * 16 + b"b" * 15 + b"." + b"cccc" + b"." * 26
    assert [(g.address - BASE, g.size) for g in gaps] == [(-2, 2), (31, 1), (36, 26)]
    assert reader.read_cstr_bytes(BASE + 0x1E, strict=False) == b"b"
    error = error_of(reader.read_exact, BASE + 0x1F, 1)
    assert f"{BASE + 0x1F:#x}" in str(error) and f"{BASE + 0x20:#x}" in str(error)


def test_strings_across_blocks():
    text = "across blocks".encode("utf-16-le") + bytes(2)
    ustr = struct.pack("<HH4xQ", len(text) - 2, len(text), BASE)
    reader = kdmp.open(triage([(BASE + 7, text[7:]), (BASE, text[:7]), (BASE + 0x100, ustr)])).reader()
    assert reader.read_wstr(BASE) == reader.read_unicode_string(BASE + 0x100) == "across blocks"


def test_a_block_at_the_end_of_the_address_space():
    reader = kdmp.open(triage([(LAST - 0x20, b"e" * 0x10)])).reader()
    assert reader.read(LAST - 0x20, 0x40) == b"e" * 0x10
    error = error_of(reader.read_u8, LAST - 1)
    assert type(error) is kdmp.NotInDumpError and "above" not in str(error)


def test_nothing_captured():
    dump = kdmp.open(triage())
    assert dump.ranges == [] and list(dump.blobs()) == [] and list(dump.triage.processors()) == []
    assert (dump.triage.drivers, dump.triage.unloaded_drivers, dump.triage.mm) == ([], [], None)
    assert (dump.triage.stack, dump.triage.broken_driver) == ((0, b""), None)
    assert (dump.triage.prcb, dump.triage.process, dump.triage.thread) == (b"", b"", b"")
    error = error_of(dump.reader().read_u8, BASE)
    assert type(error) is kdmp.NotInDumpError and "nearest" not in str(error)


def test_other_kinds_have_no_triage_part(small_image):
    with kdmp.open(small_image) as dump:
        assert dump.triage is None and dump.triage_header is None
        assert dump.ranges == dump.va_ranges() == []


def test_a_driver_with_a_damaged_name_keeps_its_facts():
    image = bytearray(triage(drivers=[("one.sys", BASE, 0x1000, 1, 2), ("two.sys", BASE * 1, 0x2000, 3, 4)]))
    ref = RefTriage(bytes(image))
    struct.pack_into("<I", image, ref.drivers_at, 0xFFFF_FFF0)
    first, second = kdmp.open(bytes(image)).triage.drivers
    assert (first.name, first.size, first.timestamp) == (None, 0x1000, 2)
    assert second.name == "two.sys"


def test_lone_surrogates_and_lengths_beyond_the_file():
    image = bytearray(triage(drivers=[("x\ud800y", BASE, 0x1000, 1, 2)]))
    assert kdmp.open(bytes(image)).triage.drivers[0].name == "x\ufffdy"
    at = struct.unpack_from("<I", image, RefTriage(bytes(image)).drivers_at)[0]
    struct.pack_into("<I", image, at, 0xFFFF_FFFF)
    assert kdmp.open(bytes(image)).triage.drivers[0].name is None


def test_blobs_of_no_size_and_truncated_ones():
    tag = UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758")
    image = triage(blobs=[(UUID(int=0), b""), (tag, b"smbios"), (tag, b"")])
    found = list(kdmp.open(image).blobs())
    assert [(b.name, b.size, b.truncated) for b in found] == [
        ("separator", 0, False), ("SMBIOS tables", 6, False), ("SMBIOS tables", 0, False),
    ]  # fmt: skip
    cut = image[: found[1].offset + 3]
    with kdmp.open(cut) as dump:
        last = list(dump.blobs())[-1]
        assert (last.truncated, last.size, last.read(dump)) == (True, 6, b"smb")


# ---- 32-bit ----


def triage32(data_blocks=(), **parts):
    header = {"minor_version": 7601, "machine_image_type": 0x14C, "pae_enabled": 1}
    return triage(data_blocks, **{"header": header, **parts})


def with_short_blocks(image):
    """The same dump with 12-byte entries in the table of blocks."""
    table, count = struct.unpack_from("<II", image, 0x1060)
    entries = b"".join(
        struct.pack("<III", *struct.unpack_from("<QII", image, table + 16 * k)) for k in range(count)
    )
    return image[:table] + entries.ljust(16 * count, b"\xee") + image[table + 16 * count :]


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_32_bit_data_blocks_of_both_forms(short, count):
    blocks = [(0x8000_0000 + 0x100 * k, bytes([k + 1]) * (0x20 + k)) for k in range(count)]
    image = triage32(blocks)
    if short:
        image = with_short_blocks(image)
    dump = kdmp.open(image)
    assert (dump.arch, dump.pointer_size, dump.kind) == ("x86", 4, 4)
    assert [(r.address, r.size) for r in dump.ranges] == [(a, len(b)) for a, b in blocks]
    for address, data in blocks:
        assert dump.reader().read_exact(address, len(data)) == data


def test_32_bit_parts():
    image = triage32(
        [(0x8180_0000, b"block")],
        mm=struct.pack("<13I", *range(1, 14)),
        unloaded=[("old.sys", 0x8100_0000, 0x8110_0000)],
        stack=(0x8B00_0FF0, b"stack" * 4),
        drivers=[("\\SystemRoot\\ntkrnlpa.exe", 0x8280_0000, 0x41_2000, 0xABC, 0x4CE7_9000),
                 ("hal.dll", 0x827F_0000, 0x3_7000, 1, 2)],
        broken_driver="bad.sys",
        blobs=[(UUID(int=0), b"data")],
    )  # fmt: skip
    dump = kdmp.open(image)
    triage = dump.triage
    assert triage.valid and triage.driver_stride == 0x4C
    assert [(d.name, d.base, d.size, d.checksum, d.timestamp) for d in triage.drivers] == [
        ("\\SystemRoot\\ntkrnlpa.exe", 0x8280_0000, 0x41_2000, 0xABC, 0x4CE7_9000),
        ("hal.dll", 0x827F_0000, 0x3_7000, 1, 2),
    ]
    assert [(d.name, d.start, d.end) for d in triage.unloaded_drivers] == [
        ("old.sys", 0x8100_0000, 0x8110_0000)
    ]
    assert triage.broken_driver == "bad.sys"
    assert triage.stack == (0x8B00_0FF0, b"stack" * 4)
    assert (triage.mm.version, triage.mm.commit_limit_maximum) == (1, 13)
    assert dump.reader().read(0x8180_0000, 16) == b"block"
    assert [b.read(dump) for b in dump.blobs()] == [b"data"]
    with pytest.raises(kdmp.UnsupportedDumpError):
        _ = dump.phys


def test_32_bit_sign_extended_block_addresses():
    image = bytearray(triage32([(0x8180_0000, b"block")]))
    (table,) = struct.unpack_from("<I", image, 0x1060)
    struct.pack_into("<Q", image, table, 0xFFFF_FFFF_8180_0000)
    assert kdmp.open(bytes(image)).reader().read(0x8180_0000, 5) == b"block"


def test_32_bit_ranges_end_at_4_gib():
    image = bytearray(triage32([(0xFFFF_FF00, b"0123456789abcdef" * 16)]))
    (table,) = struct.unpack_from("<I", image, 0x1060)
    struct.pack_into("<Q", image, table, 0xFFFF_FFF8)  # 8 bytes fit, the others have no address
    reader = kdmp.open(bytes(image)).reader()
    assert reader.read(0xFFFF_FFF8, 0x20) == b"01234567"
    for address in (1 << 32, 2**64 - 1):
        assert isinstance(error_of(reader.read_u8, address), kdmp.UnreadableError)
