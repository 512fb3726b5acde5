"""What the tests of the command line run it on, and how they read its text.

SPDX-License-Identifier: MIT
"""

import io
import re
import struct
import uuid

from dumpbuilder import BITMAP, FULL, MB2, NX, PAGE, A, D, Memory, P, Tables, U, W

from kdmp import write_dump, write_triage

VA = 0x7FF0_0000_5000
GAP = 0x7FF0_0000_6000  # mapped, but the frame was not captured
NOTHING = 0x7FF0_0000_7000  # a page-table entry of 0
LARGE = 0x7FF0_4000_0000


def small_dump():
    """A dump of a few pages: text at VA, then a frame that is missing, then nothing."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(VA, 0xA000, flags=P | W | U | A | D | NX)
    tables.map(GAP, 0xBBB000, flags=P | W | U | A)
    tables.map(LARGE, 0x40_0000, MB2, flags=P | A)
    memory.put(0xA000, b"kernel dump")
    memory.put(0xAFF8, struct.pack("<Q", 0x1122334455667788))
    memory.put(0x40_0000, b"large")
    return memory.dump(BITMAP)


# ---- 32-bit and ARM64 ----

VA32 = 0x8000_1000
X86_REGISTERS = {"eax": 0xB0, "ebp": 0xB4, "eip": 0xB8, "esp": 0xC4}  # offsets in CONTEXT


def x86_dump(kind=FULL, *, pae=True, frames=None, **header):
    """A 32-bit dump with text at VA32, and registers whose value is their offset in CONTEXT."""
    # Root, directories, page table; a non-PAE root is the directory itself.
    with_pae = {0x1010: 0x2001, 0x2000: 0x3063, 0x3008: 0x5063}
    tables = with_pae if pae else {0x1800: 0x3063, 0x3004: 0x5063}
    memory = Memory()
    for pa, value in tables.items():
        memory.put(pa, struct.pack("<Q" if pae else "<I", value))
    memory.put(0x5000, b"thirty-two")
    context = bytearray(0x2CC)
    struct.pack_into("<I", context, 0, 0x10007)
    for offset in X86_REGISTERS.values():
        struct.pack_into("<I", context, offset, offset)
    facts = {
        "machine_image_type": 0x14C,
        "minor_version": 7601,
        "directory_table_base": 0x1000,
        "pae_enabled": int(pae),
        "bug_check_code": 0xD1,
        "number_processors": 2,
    }
    out = io.BytesIO()
    pages = memory.pages if frames is None else frames
    write_dump(out, kind, pages, header=facts | header, context=context)
    return out.getvalue()


def arm64_dump():
    """An ARM64 dump whose register Xn is 0x1000 + n."""
    context = bytearray(0x390)
    struct.pack_into("<II31QQQ", context, 0, 0x400007, 0x80000144, *range(0x1000, 0x101F), 0x2000, 0x3000)
    struct.pack_into("<QQ", context, 0x110, 0x1111, 0x2222)
    out = io.BytesIO()
    write_dump(out, FULL, {1: bytes(PAGE)}, header={"machine_image_type": 0xAA64}, context=context)
    return out.getvalue()


# ---- triage ----

KERNEL = 0xFFFF_F804_0000_0000
STACK = 0xFFFF_8504_2989_0EE8
TAG = uuid.UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758")
BLOBS = [(TAG, b"smbios"), (uuid.UUID(int=0), b""), (uuid.UUID(int=7), bytes(range(200)))]
MM = (1, 0x50, 0x6C6F6F50, 0, 3, 1, 9000, 800, 7000, 60, 500, 550, 4000)  # DUMP_MM_STORAGE64


def _context(ip, sp):
    data = bytearray(0x4D0)
    struct.pack_into("<I", data, 0x30, 0x10001F)
    struct.pack_into("<Q", data, 0x98, sp)
    struct.pack_into("<Q", data, 0xF8, ip)
    return bytes(data)


def triage_dump(**parts):
    """A triage dump that has everything: three processors, of which the last has no registers."""
    debugger = bytearray(0x380)
    array, prcbs, contexts = KERNEL + 0x1000, KERNEL + 0x2000, KERNEL + 0x8000
    struct.pack_into("<Q", debugger, 0x218, array)  # KiProcessorBlock
    struct.pack_into("<H", debugger, 0x2B0, 0x100)  # SizePrcb
    struct.pack_into("<H", debugger, 0x338, 0x20)  # OffsetPrcbContext
    blocks = [(array, struct.pack("<3Q", *(prcbs + 0x1000 * n for n in range(3))))]
    for n in range(3):
        pointer = contexts + 0x1000 * n if n < 2 else 0
        blocks.append((prcbs + 0x1000 * n, bytes(0x20) + struct.pack("<Q", pointer)))
    blocks += [(contexts + 0x1000 * n, _context(0xA000 + n, 0xB000 + n)) for n in range(2)]
    everything = {
        "header": {
            "minor_version": 19041,
            "number_processors": 3,
            "bug_check_code": 0x9F,
            "directory_table_base": 0x1AD000,
            "kd_debugger_data_block": KERNEL + 0x500,
        },
        "context": _context(0xA000, STACK),
        "mm": struct.pack("<6I7Q", *MM),
        "unloaded": [("dam.sys", KERNEL + 0x1000, KERNEL + 0x3000)],
        "prcb": bytes(0x100),
        "stack": (STACK, bytes(range(256))),
        "debugger_data": debugger,
        "drivers": [
            ("\\SystemRoot\\system32\\ntoskrnl.exe", KERNEL, 0x1046000, 0xA5938C, 0x0D8333E6),
            ("bad.sys", KERNEL + 0x2000000, 0x6000, 0x1234, 0x99),
        ],
        "broken_driver": "bad.sys",
        "data_blocks": blocks,
        "blobs": BLOBS,
        "triage_options": 0x141,
    }
    out = io.BytesIO()
    write_triage(out, **everything | parts)
    return out.getvalue()


def triage32_dump():
    """A 32-bit triage dump with a driver and a stack."""
    out = io.BytesIO()
    write_triage(
        out,
        header={"machine_image_type": 0x14C, "minor_version": 7601},
        stack=(0x8F000F00, b"stack of an x86"),
        drivers=[("ntkrnlpa.exe", 0x8280_0000, 0x412000, 0x3C0000, 0x4CE78A09)],
    )
    return out.getvalue()


# ---- memory images ----


def elf_core(runs, machine=62):
    """An ELF core whose PT_LOAD segments are `runs`, pairs of frame number and bytes."""
    offset = 64 + 56 * len(runs)
    head = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 4, machine, 1, 0, 64, 0, 0, 64, 56, len(runs), 0, 0, 0
    )
    body = b""
    for pfn, data in runs:
        where = offset + len(body)
        head += struct.pack("<IIQQQQQQ", 1, 7, where, 0, pfn * PAGE, len(data), len(data), 0)
        body += data
    return head + body


def core_of(dump):
    """The ELF core of the machine whose crash dump is open as `dump`."""
    runs = [(r.pfn, dump.phys.read_exact(r.pfn * PAGE, r.count * PAGE)) for r in dump.pages.runs()]
    return elf_core(runs)


def fields(text):
    """The label and value lines of a fact list as a dict."""
    pairs = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
