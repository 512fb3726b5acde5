"""32-bit dumps (PAGEDUMP): every kind, both paging modes, x86 registers, and the end at 4 GiB.

SPDX-License-Identifier: MIT
"""

import io
import pickle
import struct

import pytest
import shareddata
from archtables import ArchTables, dump, error_of, put_kdbg, put_list
from dumpbuilder import PAGE, Memory, stamp

import kdmp
from kdmp import write_triage

FILLER = 0x45474150
KERNEL_VA = 0x8050_0000
CONTEXT_BYTES = 0x2CC


LAST_PAGE = stamp(0x22)[:-2] + b"zz"


def kernel(paging="pae"):
    """Memory with a list head, strings and an address range that ends at 4 GiB: (memory, root)."""
    memory = Memory()
    root = {"pae": 0x1020}.get(paging, 0x1000)
    tables = ArchTables(memory, paging, root=root)
    tables.map(KERNEL_VA, 0x20000)
    tables.map(KERNEL_VA + 0x1000, 0x21000)
    tables.map(KERNEL_VA + 0x3000, 0x99000)
    tables.map(0xFFFF_F000, 0x22000)
    tables.map(0, 0x22000)
    memory.fill(0x20, 0x21)
    memory.put(0x22000, LAST_PAGE)
    put_list(memory, 0x20100, KERNEL_VA + 0x100, 4)
    put_list(memory, 0x20200, KERNEL_VA + 0x200, 4)
    text = "\\Windows".encode("utf-16-le") + bytes(2)
    memory.put(0x20FF4, text)  # from one page into the next
    memory.put(0x20300, struct.pack("<HHI", len(text) - 2, len(text), KERNEL_VA + 0xFF4))
    memory.put(0x20308, struct.pack("<HHI", 7, 8, KERNEL_VA + 0xFF4))
    memory.put(0x20310, b"Idle\0")
    put_kdbg(memory, 0x21400, flags=int(paging == "pae"))
    return memory, root


FACTS = {
    "minor_version": 7601, "number_processors": 2, "bug_check_code": 0x50,
    "bug_check_parameter1": 0xFEDC_BA98, "bug_check_parameter4": 2,
    "ps_loaded_module_list": KERNEL_VA + 0x100, "product_type": 1, "suite_mask": 0x110,
    "ps_active_process_head": KERNEL_VA + 0x200, "kd_debugger_data_block": KERNEL_VA + 0x1400,
    "pfn_database": 0x8290_0000, "system_time": 132_579_599_029_877_650, "system_up_time": 37_470_697,
    "comment": "a 32-bit dump",
}  # fmt: skip


def image_of(kind=1, paging="pae", **header):
    memory, root = kernel(paging)
    return dump(memory.pages, paging, root, kind, **{**FACTS, **header})


def summary(paging="pae"):
    """Type 2: SDMP at 0x1000, three u32 at +0xC, the bitmap at +0x20."""
    memory, root = kernel(paging)
    head = bytearray(dump({1: bytes(PAGE)}, paging, root, **FACTS)[:0x1000])
    struct.pack_into("<I", head, 0xF88, 2)
    struct.pack_into("<II", head, 0x64, FILLER, FILLER)
    bits = max(memory.pages) + 1
    bitmap = bytearray((bits + 7) // 8)
    for pfn in memory.pages:
        bitmap[pfn // 8] |= 1 << pfn % 8
    first = 0x2000
    block = struct.pack("<4s4sIIIIII", b"SDMP", b"DUMP", 1, first, bits, len(memory.pages), bits, 0x8123_4567)
    pages = b"".join(bytes(memory.pages[pfn]) for pfn in sorted(memory.pages))
    return (bytes(head) + block + bitmap).ljust(first, b"\0") + pages


@pytest.fixture(scope="module", params=[1, 2, 5, 6])
def opened(request):
    image = summary() if request.param == 2 else image_of(request.param)
    with kdmp.open(image) as dump:
        yield dump


LAYOUTS = {1: "runs", 2: "summary", 5: "bitmap", 6: "bitmap"}


def test_header(opened):
    assert opened.layout == LAYOUTS[opened.kind]
    assert (opened.arch, opened.pointer_size, opened.machine) == ("x86", 4, 0x14C)
    assert (opened.build, opened.processors, opened.dtb) == (7601, 2, 0x1020)
    assert opened.bugcheck.code == 0x50
    assert [p.value for p in opened.bugcheck.parameters] == [0xFEDC_BA98, 0, 0, 2]
    assert (opened.ps_loaded_module_list, opened.pfn_database) == (KERNEL_VA + 0x100, 0x8290_0000)
    assert opened.system_time.year == 2021 and opened.uptime.total_seconds() == pytest.approx(3.7470697)
    assert (opened.comment, opened.product_type, opened.suite_mask) == ("a 32-bit dump", 1, 0x110)
    assert opened.boot_id is opened.attributes is opened.writer_status is None
    assert opened.header["pae_enabled"] is None
    assert opened.figures["header_size"] == 0x1000


def test_frames(opened):
    memory, _ = kernel()
    assert list(opened.pages) == sorted(memory.pages)
    assert all(bytes(opened.pages[pfn]) == bytes(page) for pfn, page in memory.pages.items())
    assert opened.phys.read_exact(0x22000, PAGE) == LAST_PAGE
    assert opened.phys.pointer_size == 4
    assert type(error_of(opened.phys.read_u8, 0x99000)) is kdmp.NotInDumpError


def test_reads(opened):
    reader = opened.reader()
    assert (reader.paging, reader.pointer_size, reader.dtb) == ("pae", 4, 0x1020)
    assert reader.read_ptr(KERNEL_VA + 0x100) == KERNEL_VA + 0x140
    assert reader.read_ptr(KERNEL_VA + 0x100, size=8) == (KERNEL_VA + 0x140) * (1 + (1 << 32))
    assert reader.read_cstr(KERNEL_VA + 0x310) == "Idle"
    assert reader.read_wstr(KERNEL_VA + 0xFF4) == "\\Windows"
    assert reader.read_struct(KERNEL_VA + 0x100, "<II") == (KERNEL_VA + 0x140, KERNEL_VA + 0x140)
    assert type(error_of(reader.read_u8, KERNEL_VA + 0x2000)) is kdmp.NotPresentError
    missing = error_of(reader.read_u8, KERNEL_VA + 0x3000)
    assert (type(missing), missing.pa, missing.level) == (kdmp.NotInDumpError, 0x99000, 0)


def test_unicode_strings_have_32_bit_pointers(opened):
    reader = opened.reader()
    assert reader.read_unicode_string(KERNEL_VA + 0x300) == "\\Windows"
    with pytest.raises(kdmp.FormatError):
        reader.read_unicode_string(KERNEL_VA + 0x308)
    assert reader.read_unicode_string(KERNEL_VA + 0x308, strict=False) == "\\Wi"


def test_reads_stop_at_4_gib(opened):
    reader = opened.reader()
    assert reader.read(0xFFFF_FF00, 0x1000) == LAST_PAGE[0xF00:]
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_exact(0xFFFF_FFFC, 8)
    assert (caught.value.actual, type(caught.value.reason)) == (4, kdmp.AddressEndError)
    data, gaps = reader.read_gaps(0xFFFF_FFF8, 0x10, 0xAA)
    assert data == LAST_PAGE[0xFF8:] + b"\xaa" * 8, "address 0 must not be read"
    assert [(g.address, g.size, type(g.reason)) for g in gaps] == [(1 << 32, 8, kdmp.AddressEndError)]
    assert reader.read_u32(0xFFFF_FFFC) == 0x7A7A_01FF
    assert reader.read_cstr_bytes(0xFFFF_FFFE, strict=False) == b"zz"
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_cstr(0xFFFF_FFFE)
    assert type(caught.value.reason) is kdmp.AddressEndError
    buffer = bytearray(16)
    assert reader.read_into(0xFFFF_FFF8, buffer) == 8


@pytest.mark.parametrize("address", [1 << 32, (1 << 32) + KERNEL_VA, 0xFFFF_FFFF_8050_0100, 2**64 - 1])
def test_addresses_above_4_gib_are_refused(opened, address):
    """Also sign-extended ones: KDBG holds such, and the caller must cut them."""
    reader = opened.reader()
    for call in (reader.translate, reader.read_u8, reader.read_unicode_string):
        assert type(error_of(call, address)) is kdmp.NonCanonicalError
    assert reader.read(address, 4) == b"" and reader.try_read_exact(address, 1) is None
    assert not reader.is_readable(address)


@pytest.mark.parametrize("paging", ["x86", "pae"])
@pytest.mark.parametrize("kind", [1, 5, 6])
def test_both_paging_modes(paging, kind):
    with kdmp.open(image_of(kind, paging)) as opened:
        assert (opened.paging, opened.paging_source) == (paging, "kdbg")
        assert opened.reader().read_unicode_string(KERNEL_VA + 0x300) == "\\Windows"


def test_86_runs():
    """R4, and the room that the 32-bit header has: 86 runs."""
    pages = {2 * k + 1: stamp(k) for k in range(86)}
    image = dump(pages, "pae", 0x1000)
    with kdmp.open(image) as opened:
        assert list(opened.pages) == list(pages)
        assert opened.header["number_of_runs"] == 86
        assert bytes(opened.pages[171]) == stamp(85)
    broken = bytearray(image)
    struct.pack_into("<I", broken, 0x64, 87)
    with pytest.raises(kdmp.FormatError):
        kdmp.open(broken)


def test_every_prefix():
    image = dump({1: stamp(1), 2: stamp(2), 9: stamp(9)}, "pae", 0x1000, **FACTS)
    assert len(image) == 0x4000
    for size in range(len(image) + 1):
        if size < 0x1000:
            with pytest.raises(kdmp.FormatError) as caught:
                kdmp.open(image[:size])
            assert caught.value.offset <= size
            continue
        with kdmp.open(image[:size]) as opened:
            stored = (size - 0x1000) // PAGE
            assert (len(opened.pages), opened.truncated) == (stored, 3 - stored)
            if size % PAGE < 2:
                assert list(opened.pages) == [1, 2, 9][:stored]
    summed = summary()
    for size in range(0, 0x2000 + PAGE, 3):
        try:
            with kdmp.open(summed[:size]) as opened:
                assert opened.layout == "summary" and len(opened.pages) == max(size - 0x2000, 0) // PAGE
                assert size >= 0x1020 + (struct.unpack_from("<I", summed, 0x1010)[0] + 7) // 8
        except kdmp.FormatError as exc:
            assert exc.offset <= size


def test_filler_is_absent():
    with kdmp.open(dump({1: bytes(PAGE)}, "pae", 0x1000)) as opened:
        absent = {name for name, value in opened.header.items() if value is None}
        assert {
            "minor_version",
            "bug_check_code",
            "kd_debugger_data_block",
            "pae_enabled",
            "comment",
        } <= absent
        assert opened.bugcheck is opened.context is opened.uptime is opened.system_time is None


@pytest.mark.parametrize("code", [b"PAGEDUMP", b"PAGEPAGE"])
def test_both_fillers(code):
    image = bytearray(image_of())
    for at in (0x1C, 0x60):
        image[at : at + 4] = code[at % 8 : at % 8 + 4]
    image[0x5C] = code[4]
    with kdmp.open(image) as opened:
        assert opened.kd_debugger_data_block is opened.ps_active_process_head is None
        assert opened.header["pae_enabled"] is None


def context():
    """An x86 CONTEXT in which every register holds its own offset."""
    out = bytearray(CONTEXT_BYTES)
    for at in range(4, CONTEXT_BYTES - 3, 4):
        struct.pack_into("<I", out, at, 0xC000_0000 + at)
    struct.pack_into("<I", out, 0, 0x0001_003F)
    return bytes(out)


REGISTERS = {
    "dr0": 0x4, "dr1": 0x8, "dr2": 0xC, "dr3": 0x10, "dr6": 0x14, "dr7": 0x18, "edi": 0x9C, "esi": 0xA0,
    "ebx": 0xA4, "edx": 0xA8, "ecx": 0xAC, "eax": 0xB0, "ebp": 0xB4, "eip": 0xB8, "esp": 0xC4,
}  # fmt: skip
SEGMENTS = {"gs": 0x8C, "fs": 0x90, "es": 0x94, "ds": 0x98, "cs": 0xBC, "ss": 0xC8}


@pytest.mark.parametrize("kind", [1, 5])
def test_x86_context_and_exception(kind):
    memory, root = kernel()
    record = struct.pack("<5I15I", 0xC000_0005, 1, 0, 0x8281_2345, 2, 1, 0xDEAD_BEEF, *[FILLER] * 13)
    out = io.BytesIO()
    header = {**FACTS, "machine_image_type": 0x14C, "directory_table_base": root}
    kdmp.write_dump(out, kind, {pfn: bytes(p) for pfn, p in memory.pages.items()},
                    header=header, context=context(), exception=record)  # fmt: skip
    with kdmp.open(out.getvalue()) as opened:
        regs = opened.context
        for name, at in REGISTERS.items():
            assert getattr(regs, name) == 0xC000_0000 + at, name
        assert regs.eflags == 0xC000_00C0
        for name, at in SEGMENTS.items():
            assert getattr(regs, name) == at, name  # selectors have 16 bits
        error = opened.exception
        assert (error.code, error.flags, error.address) == (0xC000_0005, 1, 0x8281_2345)
        assert list(error.parameters) == [1, 0xDEAD_BEEF]
        assert opened.context_bytes()[:CONTEXT_BYTES] == context()
        assert len(opened.exception_bytes()) == 0x50


def test_triage_type_4():
    out = io.BytesIO()
    header = {**FACTS, "machine_image_type": 0x14C}
    write_triage(out, header=header, data_blocks=[(KERNEL_VA, b"block")], context=context())
    with kdmp.open(out.getvalue()) as opened:
        assert (opened.kind, opened.layout, opened.pointer_size) == (4, "triage", 4)
        assert opened.context.eip == 0xC000_00B8
        assert opened.reader().read(KERNEL_VA, 5) == b"block"
        assert opened.bugcheck.code == 0x50


def test_pickling(tmp_path):
    path = tmp_path / "x86.dmp"
    path.write_bytes(image_of())
    with kdmp.open(path, io="read") as opened:
        reader = pickle.loads(pickle.dumps(opened.reader()))
        assert reader.read_ptr(KERNEL_VA + 0x100) == KERNEL_VA + 0x140
        assert (reader.paging, reader.pointer_size, reader.dump.io) == ("pae", 4, "read")
        reader.dump.close()


def test_dump_type_that_lies():
    """R14: the signature after the header decides, not the type."""
    image = bytearray(image_of(5))
    for kind in (6, 7, 1, 0):
        struct.pack_into("<I", image, 0xF88, kind)
        with kdmp.open(image) as opened:
            assert (opened.layout, opened.kind) == ("bitmap", kind)
            assert opened.reader().read_cstr(KERNEL_VA + 0x310) == "Idle"


def test_ranges_dumps_do_not_exist_with_32_bits():
    image = bytearray(image_of())
    struct.pack_into("<I", image, 0xF88, 8)
    with pytest.raises(kdmp.FormatError):
        kdmp.open(image)


def test_real_pae_header():
    """The first page of a Windows 7 PAE dump of 3 GiB; no page came with it."""
    path = shareddata.unpack("headers", "memflow-coredump_coredump_win7_32bit_stripped.dmp.xz")
    data = path.read_bytes()
    with kdmp.open(path) as opened:
        assert (opened.arch, opened.pointer_size, opened.kind) == ("x86", 4, 1)
        assert (opened.dtb, opened.ps_loaded_module_list) == struct.unpack_from("<I4xI", data, 0x10)
        assert data[0x60:0x64] == b"PAGE" and opened.kd_debugger_data_block is None
        assert opened.dtb % 0x20 == 0
        assert opened.header["pae_enabled"] == 1
        assert (opened.paging, opened.paging_source) == ("pae", "header")
        runs = struct.unpack_from("<I", data, 0x64)[0]
        counts = [struct.unpack_from("<II", data, 0x6C + 8 * k)[1] for k in range(runs)]
        assert opened.figures["pages_described"] == sum(counts) == opened.truncated + len(opened.pages)
        regs = opened.context
        assert (regs.eip, regs.esp) == struct.unpack_from("<I8xI", data, 0x320 + 0xB8)
        reader = opened.reader()
        error = error_of(reader.translate, opened.ps_loaded_module_list)
        assert type(error) is kdmp.TruncatedError and error.level == 3
        assert error.pa == opened.dtb + 8 * (opened.ps_loaded_module_list >> 30)
