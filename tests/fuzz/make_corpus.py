"""Makes the seeds of the fuzz targets: small dumps of every kind, and small page-table programs.

    python tests/fuzz/make_corpus.py DIRECTORY

writes DIRECTORY/TARGET/*. Nothing of it is kept in the repository; what a fuzzer found is, in
tests/fuzz/corpus/.

SPDX-License-Identifier: MIT
"""

import io
import struct
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from archtables import KUSER, put_kuser
from archtables import dump as arch_dump
from dumpbuilder import (
    BITMAP,
    COMPLETE,
    FULL,
    HEADER,
    HEADER_ONLY,
    L1TF,
    LARGE,
    NX,
    PROTOTYPE,
    RANGES8,
    SUMMARY,
    TRANSITION,
    Memory,
    P,
    Tables,
    U,
    W,
    bitmap_dump,
    header_page,
    patched,
    ranges_dump,
    runs_dump,
)

from kdmp import write_triage

KERNEL = 0xFFFF_F800_0000_0000
SIZE_LIMIT = 260_000  # of all seeds together


def small_memory():
    """Five frames: the tables of one address, and a data page with a list, a text and a KDBG tag."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(KERNEL, 0x5000, flags=P | W)
    memory.put_u64(0x5000, KERNEL)  # a list that is only its head
    memory.put_u64(0x5008, KERNEL)
    memory.put(0x5100, b"text\0")
    memory.put(0x5200, "wide".encode("utf-16-le") + bytes(2))
    memory.put(0x5410, b"KDBG")
    return memory


def open_seeds():
    """Dumps by name: every kind whole, and the shapes that only damage has."""
    facts = {
        "ps_loaded_module_list": KERNEL,
        "ps_active_process_head": KERNEL,
        "kd_debugger_data_block": KERNEL + 0x400,
        "number_processors": 2,
    }
    memory = small_memory()
    seeds = {}
    for kind in (FULL, SUMMARY, BITMAP):  # the others share a layout with one of these, or follow below
        image = memory.dump(kind, **facts)
        # Only one keeps all pages: the corpus stays small, and cut dumps are worth having.
        lost = {FULL: 0, BITMAP: 4}.get(kind, 5)
        seeds[f"kind{kind}"] = image[: len(image) - 0x1000 * lost]
    seeds["kind3"] = header_page(HEADER_ONLY)
    seeds["overlap"] = runs_dump([(1, 2), (2, 2), (9, 1)])[: HEADER + 0x800]
    seeds["odd-bits"] = bitmap_dump(13, [0, 3, 12])[: HEADER + 0x100]
    seeds["ranges"] = ranges_dump([(5, 1), (2, 2)], kind=RANGES8, spare=1)[: HEADER + 0x100]
    seeds["complete"] = ranges_dump([(2, 1), (7, 1)], kind=COMPLETE)[: HEADER + 0x100]
    seeds["huge"] = patched(bitmap_dump(16, [1])[: HEADER + 0x40], bits=2**40, stored=2**63)
    seeds["empty"] = b""
    seeds["minidump"] = b"MDMP" + bytes(28)
    seeds["header32"] = b"PAGEDUMP" + b"PAGE" * 1022
    for bits in (64, 32):
        seeds[f"triage{bits}"] = small_triage(bits)
    for paging in ("x86", "pae"):
        for kind in (1, 5) if paging == "pae" else (6,):
            seeds[f"{paging}-kind{kind}"] = small_dump32(paging, kind)
    return seeds


def small_triage(bits):
    """A triage dump with every part, whose copies can be found."""
    wide, base = bits == 64, KERNEL if bits == 64 else 0x8000_0000
    width = bits // 8
    kdbg = bytearray(0x340)
    struct.pack_into("<4sI", kdbg, 0x10, b"KDBG", 0x340)
    struct.pack_into("<Q", kdbg, 0x218, base + 0x500)
    sizes = ((0x2A0, 16), (0x2A8, 24), (0x2B0, 32), (0x2B4, width), (0x2BE, 20), (0x2C0, 32))
    for offset, value in sizes:
        struct.pack_into("<H", kdbg, offset, value)
    out = io.BytesIO()
    write_triage(
        out,
        header={
            "minor_version": 7601, "number_processors": 1, "kd_debugger_data_block": base + 0x400,
            "machine_image_type": 0x8664 if wide else 0x14C,
        },
        mm=bytes(0x50 if wide else 0x34),
        unloaded=[("old.sys", base, base + 0x1000)],
        prcb=bytes(width) + (base + 0x2000).to_bytes(width, "little") + bytes(32 - 2 * width),
        process=b"E" * 24,
        thread=bytes(16) + (base + 0x3000).to_bytes(width, "little") + bytes(16 - width),
        stack=(base + 0x100, b"stack" * 8),
        debugger_data=kdbg,
        drivers=[("nt.exe", base, 0x1000, 1, 2)],
        data_blocks=[
            (base, b"text\0" + bytes(11)), (base + 16, b"next"), (base + 8, b"over"),
            (base + 0x500, (base + 0x1000).to_bytes(width, "little")),
        ],
        data_page=(base + 0x200, b"page" * 8),
        blobs=[(uuid.UUID(int=0), b""), (uuid.UUID(int=1), b"data")],
    )  # fmt: skip
    return out.getvalue()


def one_page(paging, pfn=0):
    """A page that is everything: the root that maps itself, all tables below it, and KUSER_SHARED_DATA."""
    page = Memory()
    put_kuser(page, 0)
    data = page.pages[0]
    wide = paging in ("x64", "arm64")
    slots = {"x86": (0x1F0, 0x300, 0x3FF), "pae": (0, 1, 2, 3, 0x1F0, 0x1FE)}.get(paging, (0, 0x1ED, 0x1EF))
    for slot in slots:
        flags = 0x703 if paging == "arm64" else 1 if paging == "pae" and slot < 4 else 0x63
        size = 4 if paging == "x86" else 8
        data[slot * size : (slot + 1) * size] = (pfn << 12 | flags).to_bytes(size, "little")
    head = KUSER[wide] + 0x400
    data[0x400:0x410] = struct.pack("<QQ", head, head) if wide else struct.pack("<4I", *[head] * 4)
    data[0x510:0x514] = b"KDBG"
    data[0x536] = paging == "pae"
    return bytes(data)


def small_dump32(paging, kind):
    """A 32-bit dump of one page."""
    head = KUSER[False] + 0x400
    return arch_dump(
        {5: one_page(paging, 5)}, paging, 0x5000, kind,
        ps_loaded_module_list=head, kd_debugger_data_block=head + 0x100,
    )  # fmt: skip


def core(paging, image):
    """An ELF core of a page that two segments show."""
    is64 = paging != "pae"
    cpu = {"pae": 3, "arm64": 183}.get(paging, 62)
    entry, first = (56, 64 + 3 * 56) if is64 else (32, 52 + 3 * 32)
    out = b"\x7fELF" + bytes([2 if is64 else 1, 1, 1]) + bytes(9)
    head = 64 if is64 else 52
    out += struct.pack(
        "<HHI" + ("QQQ" if is64 else "III") + "I6H", 4, cpu, 1, 0, head, 0, 0, head, entry, 3, 0, 0, 0
    )
    for kind, at, offset, size in ((4, 0, first, 0), (1, 0, first, 0x1000), (1, 0x5000, first, 0x1000)):
        if is64:
            out += struct.pack("<IIQQQQQQ", kind, 7, offset, 0, at, size, size, 0)
        else:
            out += struct.pack("<8I", kind, offset, 0, at, size, size, 7, 0)
    return out + image


def raw_seeds():
    """Memory images by name: a machine byte, runs, and the image."""
    seeds = {}
    for paging, number in (("x64", 1), ("x86", 2)):
        seeds[f"flat-{paging}"] = bytes([number, 0]) + one_page(paging)
    for paging, number in (("pae", 2), ("arm64", 3)):
        seeds[f"run-{paging}"] = bytes([number, 1]) + struct.pack("<3Q", 5, 1, 0) + one_page(paging, 5)
    image = one_page("x64")
    runs = struct.pack("<9Q", 5, 1, 0, 7, 2, 8, 9, 1 << 20, 0x800)
    seeds["runs"] = bytes([1, 3]) + runs + image
    seeds["limits"] = bytes([0, 2]) + struct.pack("<6Q", (1 << 40) - 1, 1, 0, 1 << 39, 1 << 40, 2**64 - 1)
    seeds["elf64"] = bytes(2) + core("x64", image)
    seeds["elf32"] = bytes(2) + core("pae", one_page("pae"))
    return seeds


def program(paging, commands, *, flags=0, absent=7, cut=6, root=0x1000, mask=0):
    """One input of fuzz_translate: (slot address, entry) stores, (None, address, size) uses."""
    out = struct.pack("<BBBBQQ", paging, flags, absent, cut, root, mask)
    for command in commands:
        if command[0] is None:
            _, address, size = command
            out += struct.pack("<IQ", 1 << 31 | size, address)
        else:
            where, value = command
            out += struct.pack("<IQ", where // 8, value)
    return out


def translate_seeds():
    """Programs by name, for 4 and 5 levels."""
    tables = [
        (0x1000, 0x2000 | P | W | U),
        (0x1000 + 8 * 511, 0x2000 | P | W),
        (0x2000, 0x3000 | P | W | U),
        (0x2000 + 8 * 511, 0x3000 | P | W),
        (0x2000 + 8, P | W | LARGE),
        (0x3000, 0x4000 | P | W | U),
        (0x3000 + 8 * 511, 0x4000 | P | W),
        (0x3000 + 8, P | W | LARGE),
        (0x4000, 0x5000 | P | W | U),
        (0x4000 + 8, 0x4000 | P | U | NX),
        (0x4000 + 16, 0x5000 | TRANSITION | 4 << 5),
        (0x4000 + 24, 0x5000 | TRANSITION | L1TF | 4 << 5),
        (0x4000 + 32, 0x5000 | TRANSITION | PROTOTYPE),
        (0x4000 + 40, 0x6000 | P),
        (0x4000 + 48, 0x7000 | P),
        (0x4000 + 56, 5 << 32 | 4 << 5),
        (0x4000 + 8 * 511, 0x5000 | P | W),
    ]
    uses = [(None, page << 12, size) for page, size in ((0, 0x1FFF), (1, 9), (2, 8), (3, 8), (4, 8), (5, 8))]
    uses += [(None, 0x6FF8, 16), (None, 0x1F_FFF8, 16), (None, 0x20_0000, 0x1FFF), (None, 1 << 30, 64)]
    uses += [(None, 2**64 - 16, 17), (None, 2**64 - 0x1000, 0x1000), (None, 0x7FFF_FFFF_FFF8, 16)]
    seeds = {f"x64-{flags}": program(1, tables + uses, flags=flags, mask=L1TF) for flags in range(8)}
    top = [(0, 0x1000 | P | W | U), (8 * 511, 0x1000 | P | W)]
    seeds["la57"] = program(2, top + tables + uses, root=0)
    seeds["itself"] = program(1, [(0x1000, 0x1000 | P | W), *uses])
    seeds["physical"] = program(0, [(0x5000, 2**64 - 1), *uses])
    seeds["others"] = program(4, tables + uses)
    return seeds


def triage_seeds(opened):
    """What follows the headers of triage dumps, by name."""
    seeds = {}
    for bits, header, at in ((64, 0x2000, 0x80), (32, 0x1000, 0x60)):
        image = opened[f"triage{bits}"]
        kdbg = image[at : at + bits // 8].ljust(8, b"\0")
        seeds[f"{bits}"] = bytes([bits == 64]) + kdbg + image[header:]
    return seeds


def layout_seeds(opened):
    """The tables of small dumps without their pages: see fuzz_layout.c."""
    seeds = {}
    for name, image in opened.items():
        if image[:8] not in (b"PAGEDU64", b"PAGEDUMP") or name.startswith("triage") or len(image) < 0x2000:
            continue
        is64 = image[4:8] == b"DU64"
        header, runs, kind = (0x2000, 0x88, image[0xF98]) if is64 else (0x1000, 0x64, image[0xF88])
        seeds[name] = bytes([is64, kind, 5, 1]) + image[runs : runs + 0x70] + image[header : header + 0x80]
    return seeds


def pte_seeds(programs):
    """Programs with a format of software PTEs each: that of current builds, an old one, and odd ones."""
    formats = {
        "current": ((4, 5, 5, 3, 16, 12, 32), 0x0000_FFFF_FFFF_F000),
        "old": ((0, 5, 5, 8, 16, 1, 32), 0x0000_FFFF_FFFF_F000),
        "low-mask": ((4, 5, 5, 3, 16, 12, 32), 2**64 - 1),
        "x86": ((0, 5, 63, 9, 128, 1, 12), 0xFFFF_F000),
        "ends": ((63, 63, 63, 63, 63, 63, 63), 1 << 63),
    }
    seeds = {}
    for number, (name, (positions, mask)) in enumerate(formats.items()):
        for flags in (0, 27):
            image = programs[f"x64-{number}"]
            head = struct.pack("<8BQQ", flags, *positions, mask, 0x1000)
            seeds[f"{name}-{flags}"] = image[:20] + head + image[20:]
    return seeds


def mapping_seeds(programs):
    """Programs whose first two uses are bounds."""
    seeds = dict(programs)
    table = [(0x1000, 0x2067), (0x2000, 0x3063)]
    ends = (None, 1 << 40, 8), (None, 1 << 32, 8)
    seeds["x86-beyond"] = program(3, [*table, *ends])
    seeds["x86-up-to-beyond"] = program(3, [*table, (None, 0, 8), ends[1], (None, 0x1000, 8)])
    seeds["pae-beyond"] = program(4, [*table, *ends])
    seeds["hole"] = program(1, [*table, (None, 1 << 47, 3), (None, 2**64 - 2**47, 8)])
    return seeds


def scan_seeds(programs):
    """Programs with four patterns and what else to find: see fuzz_scan.c."""
    patterns = b"".join(
        bytes([size, 0x12, 0x23, size, 0, 0, 0, 0]) + b"\xff\xff\xf0\xff\xff\xff\xff\xff"
        for size in (0, 0x81, 3, 0x86)
    )
    texts = [(0x5000 + 8 * k, int.from_bytes(b"text\0t\0e", "little")) for k in range(4)]
    seeds = {}
    for number in range(4):
        for what in (0, 7, 8, 0x17, 0xE3):
            image = program(number & 1, texts, flags=number) + programs[f"x64-{number}"][20:]
            more = bytes([what, number, what + number, 40]) + patterns
            uses = program(0, [(None, 0x4FF0 + 0x1000 * number, 0x1F00), (None, 0x2000, 0x1000)])[20:]
            seeds[f"{number}-{what}"] = image[:20] + more + image[20:] + uses
    return seeds


def overlay_seeds():
    """Programs of overlay commands: (what, frame, other frame, size, offset, value), zeros left out."""
    write, virtual, create, remap, revert = 0, 3, 5, 6, 7
    snapshot, restore, drop, forget, watch, unwatch, dirty, check = 8, 9, 10, 11, 12, 13, 14, 15
    mapped = [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003), (0x4000, 0x5003), (0x4008, 0x4003)]
    programs = {
        "writes": [(write, 5, 0, 32, 1, 7), (write, 4, 0, 0x1800, 15, 9), (check,)],
        "frames": [
            (create, 9), (write, 9, 0, 64, 0, 3), (remap, 10, 9), (write, 10, 0, 9, 3, 5),
            (revert, 9), (revert, 10), (check,),
        ],
        "snapshots": [
            (snapshot,), (write, 5, 0, 8, 0, 1), (snapshot,), (create, 11), (write, 5, 0, 8, 0, 2),
            (drop,), (restore,), (check,), (forget, 0, 0, 0, 0, 1), (forget, 0, 0, 0, 0, 2),
        ],
        "watches": [
            (watch, 5), (watch, 12), (write, 5, 0, 20, 1, 4), (dirty, 0, 0, 3), (snapshot,),
            (remap, 12, 5), (write, 12, 0, 20, 1, 4), (restore,), (dirty, 0, 0, 0x1FF), (unwatch, 5),
        ],
        "tables": [
            (virtual, 0, 0, 64, 0, 8), (virtual, 0, 0, 64, 0, 0x1010), (2, 4, 0, 8, 0, 0x50000),
            (check, 0, 0, 64, 0, 8), (virtual, 0, 0, 0x40, 0, 0xFF0), (virtual, 0, 0, 64, 1, 0x1008),
        ],
    }  # fmt: skip
    seeds = {}
    for name, commands in programs.items():
        whole = [(*command, *(0,) * (6 - len(command))) for command in commands]
        tail = b"".join(
            struct.pack("<IQ", 1 << 31 | what | a << 4 | b << 8 | size << 12 | offset << 26, value)
            for what, a, b, size, offset, value in whole
        )
        for flags in (0, 6):
            seeds[f"{name}-{flags}"] = program(1, mapped, flags=flags) + tail
    return seeds


def diff_seeds():
    """Pairs of sources: runs of (frame, pages, place in the file, changed byte)."""
    runs = [(1, 3, 0, 1), (9, 2, 3, 7), (30, 4, 1, 0)]
    other = [(1, 3, 1, 1), (10, 3, 3, 8), (28, 8, 0, 0)]
    commands = bytes(number for run in runs + other for number in run)
    return {
        f"{flags}-{room}": bytes([flags, room, 0, 50]) + commands for flags in range(16) for room in (0, 5)
    }


def all_seeds():
    """The seeds of every target, by its name."""
    opened, programs = open_seeds(), translate_seeds()
    return {
        "open": opened,
        "layout": layout_seeds(opened),
        "raw": raw_seeds(),
        "triage": triage_seeds(opened),
        "translate": programs,
        "pte": pte_seeds(programs),
        "batch": programs,
        "mappings": mapping_seeds(programs),
        "extents": mapping_seeds(programs),
        "scan": scan_seeds(programs),
        "overlay": overlay_seeds(),
        "diff": diff_seeds(),
    }


def main(folder):
    """Write all seeds below `folder`; refuse to let them grow large."""
    total = 0
    for target, seeds in all_seeds().items():
        place = Path(folder, target)
        place.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (place / name).write_bytes(data)
            total += len(data)
    if total >= SIZE_LIMIT:
        raise SystemExit(f"the corpus has {total} bytes; keep it below {SIZE_LIMIT}")
    return total


if __name__ == "__main__":
    print(f"{main(sys.argv[1])} bytes of seeds in {sys.argv[1]}")
