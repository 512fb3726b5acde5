"""Builds small dumps for the tests, good ones and bad ones, from a few lines that say what they mean.

Good dumps are written by kdmp.DumpWriter. What no writer should write (runs that overlap, a bitmap of
13 bits, a table in the wrong place) is packed here by hand, or patched into a good image.

    memory = Memory()
    tables = Tables(memory)
    tables.map(0x7FF0_0000_5000, 0xA000, flags=P | W | U)
    memory.put(0xA000, b"hello")
    image = memory.dump(kind=5)

SPDX-License-Identifier: MIT
"""

import io
import struct

from kdmp.writer import write_dump

PAGE = 0x1000
HEADER = 0x2000
KB4, MB2, GB1 = 0x1000, 0x20_0000, 0x4000_0000

# Bits of an x64 page-table entry; SW_WRITE, PROTOTYPE and TRANSITION are Windows' own.
P, W, U, PWT, PCD, A, D, LARGE, G = (1 << bit for bit in range(9))
PAT4K = 1 << 7
COW, PROTOTYPE, SW_WRITE, TRANSITION = 1 << 9, 1 << 10, 1 << 11, 1 << 11
PAT_LARGE = 1 << 12
SWIZZLED = 1 << 4  # in an invalid entry: the mask bits are part of the value
NX = 1 << 63
L1TF = 1 << 45

FULL, SUMMARY, HEADER_ONLY, TRIAGE, BITMAP, KERNEL, AUTOMATIC, RANGES8, RANGES9, COMPLETE = range(1, 11)
WRITER_KINDS = (FULL, BITMAP, KERNEL, RANGES8, RANGES9, COMPLETE)
ALL_KINDS = (FULL, SUMMARY, BITMAP, KERNEL, AUTOMATIC, RANGES8, RANGES9, COMPLETE)

# Header fields that tests patch: (offset, struct format).
FIELDS = {
    "machine": (0x30, "<I"),
    "processors": (0x34, "<I"),
    "runs": (0x88, "<I"),
    "pages": (0x90, "<Q"),
    "run0": (0x98, "<QQ"),
    "run1": (0xA8, "<QQ"),
    "kind": (0xF98, "<I"),
    "first_page": (0x2020, "<Q"),  # bitmap
    "stored": (0x2028, "<Q"),
    "bits": (0x2030, "<Q"),
    "bitmap": (0x2038, "<B"),
    "metadata": (0x2010, "<Q"),  # ranges
    "range_first_page": (0x2018, "<Q"),
    "range_total": (0x2028, "<Q"),
    "range0": (0x2030, "<QQ"),
    "range1": (0x2040, "<QQ"),
}


def patched(image, **fields):
    """A copy of `image` with header fields (see FIELDS) overwritten."""
    out = bytearray(image)
    for name, value in fields.items():
        offset, layout = FIELDS[name]
        struct.pack_into(layout, out, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(out)


def stamp(number):
    """A page that no other number has, and in which no two 8-byte words are the same."""
    return b"".join(struct.pack("<II", number, word) for word in range(PAGE // 8))


def build(kind, pages, **header):
    """A dump of `kind` (any of ALL_KINDS) that holds `pages`, a dict of frame number to 4096 bytes."""
    pages = {pfn: bytes(data) for pfn, data in sorted(pages.items())}
    if kind == SUMMARY:
        return summary_dump(max(pages) + 1, pages, **header)
    out = io.BytesIO()
    write_dump(out, BITMAP if kind == AUTOMATIC else kind, pages, header=header)
    return patched(out.getvalue(), kind=kind)


def header_page(kind, **fields):
    """The first 0x2000 bytes of a dump without anything behind them."""
    return patched(build(FULL, {1: bytes(PAGE)}, **fields)[:HEADER], kind=kind)


def runs_dump(runs, pages=None):
    """A full dump with exactly this list of (frame, count), as long as there is room for it.

    The n-th stored page is stamp(n), unless `pages` says otherwise.
    """
    head = bytearray(header_page(FULL))
    total = sum(count for _, count in runs)
    struct.pack_into("<I4xQ", head, 0x88, len(runs), total)
    for k, run in enumerate(runs):
        struct.pack_into("<QQ", head, 0x98 + 16 * k, *run)
    return bytes(head) + _data(total, pages)


def bitmap_dump(bits, frames, *, pages=None, kind=BITMAP, signature=b"FDMP", swap=False, pad=0, extra=b""):
    """A bitmap dump of exactly `bits` bits; the first page follows `pad` bytes after the bitmap.

    `swap` exchanges the two counters, `extra` (bit numbers) sets bits beyond the last one.
    """
    frames = sorted(frames)
    bitmap = _bitmap(bits, [*frames, *extra])
    first_page = HEADER + 0x38 + len(bitmap) + pad
    counters = (bits, len(frames)) if swap else (len(frames), bits)
    block = struct.pack("<4s4sI20xQQQ", signature, b"DUMP", 0, first_page, *counters)
    return header_page(kind) + block + bitmap + bytes(pad) + _data(len(frames), pages)


def summary_dump(bits, pages, **header):
    """A dump of type 2 as Windows 7 and older wrote it."""
    bitmap = _bitmap(bits, sorted(pages))
    first_page = HEADER + 0x28 + len(bitmap)
    first_page += -first_page % PAGE
    block = struct.pack("<4s4sIIIII4xQ", b"SDMP", b"DUMP", 1, first_page, bits, len(pages), bits, 0)
    head = header_page(SUMMARY, **header) + block + bitmap
    return head.ljust(first_page, b"\0") + b"".join(pages[pfn] for pfn in sorted(pages))


def ranges_dump(ranges, *, pages=None, kind=RANGES8, spare=0, total=None):
    """A ranges dump with exactly this table of (frame, count) and `spare` zero entries behind it."""
    stored = sum(count for _, count in ranges)
    metadata = 0x10 + 0x10 * (len(ranges) + spare)
    block = struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, metadata, 0x2020 + metadata)
    if kind == COMPLETE:
        block += struct.pack("<IHHQ", len(ranges), 0, 0, stored if total is None else total)
    else:
        block += bytes(16)
    table = b"".join(struct.pack("<QQ", *entry) for entry in ranges) + bytes(16 * spare)
    return header_page(kind) + block + table + _data(stored, pages)


def _data(count, pages):
    return b"".join(stamp(n) for n in range(count)) if pages is None else b"".join(pages)


def _bitmap(bits, frames):
    out = bytearray((bits + 7) // 8)
    for pfn in frames:
        out[pfn // 8] |= 1 << pfn % 8
    return bytes(out)


class Memory:
    """Physical memory under construction; a frame exists once something was put there."""

    def __init__(self):
        self.pages = {}

    def page(self, pfn):
        """The frame's bytes, to be changed in place."""
        return self.pages.setdefault(pfn, bytearray(PAGE))

    def put(self, pa, data):
        """Store bytes at a physical address, across frames."""
        for k, byte in enumerate(data):
            self.page(pa + k >> 12)[(pa + k) % PAGE] = byte

    def put_u64(self, pa, value):
        """Store one little-endian 8-byte word, such as a page-table entry."""
        struct.pack_into("<Q", self.page(pa >> 12), pa % PAGE, value)

    def entries(self, table):
        """Store page-table entries given as {physical address: value}."""
        for pa, value in table.items():
            self.put_u64(pa, value)

    def fill(self, *frames):
        """Give each frame its own recognisable bytes, stamp(frame)."""
        for pfn in frames:
            self.page(pfn)[:] = stamp(pfn & 0xFFFFFFFF)

    def dump(self, kind=FULL, dtb=0x1000, **header):
        """The image of a dump that holds all frames."""
        return build(kind, self.pages, directory_table_base=dtb, **header)


class Tables:
    """x64 page tables in a Memory, made as they are needed from frame `spare` upwards."""

    def __init__(self, memory, root=0x1000, levels=4, spare=2):
        self.memory, self.root, self.levels, self.spare = memory, root, levels, spare
        memory.page(root >> 12)

    def entry(self, va, level=1, flags=P | W | U):
        """Physical address of the entry of `va` at `level`; missing tables above it are made."""
        table = self.root
        for upper in range(self.levels, level, -1):
            where = table + 8 * (va >> 12 + 9 * (upper - 1) & 0x1FF)
            value = struct.unpack_from("<Q", self.memory.page(where >> 12), where % PAGE)[0]
            if not value & P:
                value = self.spare * PAGE | flags
                self.memory.page(self.spare)
                self.memory.put_u64(where, value)
                self.spare += 1
            table = value & 0x000F_FFFF_FFFF_F000
        return table + 8 * (va >> 12 + 9 * (level - 1) & 0x1FF)

    def raw(self, va, value, level=1):
        """Store `value` as the entry of `va` at `level`."""
        self.memory.put_u64(self.entry(va, level), value)

    def map(self, va, pa, size=KB4, flags=P | W | U):
        """Map one page of `size` at `va` to `pa`."""
        level = {KB4: 1, MB2: 2, GB1: 3}[size]
        self.raw(va, pa | flags | (LARGE if level > 1 else 0), level)
