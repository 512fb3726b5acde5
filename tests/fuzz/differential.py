"""kdmp beside the slow readers of the tests, on damaged dumps: whether they open, what frames they have,
what is in them, what the page tables say.

`verdict` says from the format's description alone whether a 64-bit dump can be opened.

SPDX-License-Identifier: MIT
"""

import struct
from types import SimpleNamespace

import agree
import refptes
from dumpbuilder import ALL_KINDS, FULL, KB4, L1TF, MB2, PROTOTYPE, TRANSITION, Memory, P, Tables, U, W
from refreader import RefDump, RefPhysical, RefSpace, u32, u64

import kdmp

HEADER = 0x2000
MOST_PAGES = 3000  # that the slow reader is asked to list
PAGES_LIMIT, FRAMES_LIMIT, BITS_LIMIT = 1 << 34, 1 << 40, 1 << 36
USER, KERNEL = 0x7FF0_0000_0000, 0xFFFF_F800_0000_0000
ADDRESSES = (
    0, USER, USER + 0xFF8, USER + 0x1FFC, USER + 0x5000, USER + 0x6000, USER + 0x7000, USER + 0x20_0000,
    USER + 0x3F_FFFC, KERNEL, KERNEL + 0xFFF, KERNEL + 8, (1 << 47) - 4, (1 << 64) - 4,
)  # fmt: skip


class Unsure(Exception):
    """The description leaves it open."""


class Refused(Exception):
    """The file contradicts itself."""


def _require(condition):
    if not condition:
        raise Refused


def verdict(data):
    """How many pages a dump describes. Raises Refused, or Unsure."""
    if len(data) < 8 or data[:8] != b"PAGEDU64":
        raise Unsure  # not of this kind
    _require(len(data) >= HEADER)
    second = bytes(data[HEADER : HEADER + 0x30]).ljust(0x30, b"\0")
    kind = 0 if data[0xF98:0xF9C] == b"PAGE" else u32(data, 0xF98)
    if second[:8] in (b"SDMPDUMP", b"FDMPDUMP"):
        return _bitmap(data, second, kind)
    if second[:12] == b"\x40\0\0\0RDMPDUMP":
        return _ranges(data, kind)
    if kind == 3:
        return 0
    if kind == 4:
        raise Unsure  # has virtual memory only
    _require(kind not in (2, 5, 6, 7, 8, 9, 10))
    return _runs(data, kind)


def _bitmap(data, second, kind):
    if kind == 2:
        zeros = not any(second[0xC:0x20])
        if zeros != (HEADER + 0x38 <= u64(second, 0x20) <= 0xFFFFFFFF) or zeros == any(second[0xC:0x18]):
            raise Unsure  # neither the old nor the new layout
        if not zeros:
            return _bits(data, HEADER + 0x28, u32(second, 0x10), u32(second, 0xC))
    _require(len(data) >= HEADER + 0x38)
    numbers = u64(data, HEADER + 0x28), u64(data, HEADER + 0x30)
    return _bits(data, HEADER + 0x38, max(numbers), u64(data, HEADER + 0x20))


def _bits(data, table, bits, first_page):
    size = (bits + 7) // 8
    _require(1 <= bits <= BITS_LIMIT and table + size <= len(data))
    _require(table + size <= first_page and first_page + bits * KB4 < 1 << 64)
    whole = int.from_bytes(data[table : table + size], "little") & (1 << bits) - 1
    return whole.bit_count()


def _ranges(data, kind):
    _require(len(data) >= HEADER + 0x30)
    size, first_page = u64(data, HEADER + 0x10), u64(data, HEADER + 0x18)
    total = u64(data, HEADER + 0x28) if kind == 0xA else None
    _require(size >= 16 and size % 16 == 0 and HEADER + 0x20 + size <= len(data) and size > 16)
    _require(HEADER + 0x20 + size <= first_page < (1 << 64) - PAGES_LIMIT * KB4)
    pages = 0
    for at in range(HEADER + 0x30, HEADER + 0x20 + size, 16):
        pfn, count = struct.unpack_from("<QQ", data, at)
        if pfn == 0 or pages == total:
            break
        if count:
            _require(pfn + count <= FRAMES_LIMIT and pages + count < PAGES_LIMIT)
            pages += count
            _require(total is None or pages <= total)
    return pages


def _runs(data, kind):
    count = u32(data, 0x88)
    _require(1 <= count <= 43)
    runs = [struct.unpack_from("<QQ", data, 0x98 + 16 * k) for k in range(count)]
    pages = sum(number for _, number in runs)
    if kind != 1:  # an unknown type is believed only if everything fits
        _require(HEADER + pages * KB4 == len(data))
    _require(all(pfn + number <= FRAMES_LIMIT and pfn < FRAMES_LIMIT for pfn, number in runs if number))
    _require(0 < pages < PAGES_LIMIT)
    return pages


# ---- the target of pyfuzz.py ----


def dumps():
    """Dumps of all kinds with entries of all sorts in their page tables."""
    memory = Memory()
    tables = Tables(memory)
    for page in range(4):
        tables.map(USER + page * KB4, 0x30000 + page * KB4)
    tables.map(USER + 0x20_0000, 0x20_0000, MB2, P | W | U)
    tables.raw(USER + 0x5000, 0x31000 | L1TF | TRANSITION | 4 << 5)
    tables.raw(USER + 0x6000, KERNEL + 8 << 16 & (1 << 64) - 1 | PROTOTYPE)
    tables.raw(USER + 0x7000, 7 << 32 | 2 << 12)
    tables.map(KERNEL, 0x34000)
    memory.fill(0x30, 0x32, 0x33, 0x200)
    memory.put_u64(0x34000, 0x32000 | TRANSITION | 4 << 5)
    memory.put_u64(0x34008, 0x33000 | P)
    return [memory.dump(kind) for kind in ALL_KINDS]


def compare(image):
    """Assert that both say the same of an image."""
    data = bytes(image)
    try:
        pages = verdict(data)
    except Unsure:
        return
    except Refused:
        try:
            dump = kdmp.open(data)
        except (kdmp.FormatError, kdmp.UnsupportedDumpError):
            return
        raise AssertionError(f"opens, but should not: {dump!r}") from None
    with kdmp.open(data) as dump:
        assert dump.figures["pages_described"] <= pages
        if pages <= MOST_PAGES and not dump.encrypted:
            _agree(dump, data)


def _agree(dump, data):
    reference = RefDump(data)
    agree.agree_on_pages(dump, reference)
    physical = RefPhysical(reference)
    for pfn in [*reference.frames()[:2], *list(reference.offsets)[-2:]]:
        agree.agree_on_gaps(dump.phys, physical, pfn * KB4 - 16 if pfn else 0, 0x40)
    layout = refptes.X64_NEW
    reader = kdmp.Reader(dump, paging="x64", dtb=reference.dtb, pte_format=layout.format)
    space = RefSpace(reference, reference.dtb, 4, None, layout)
    for va in ADDRESSES:
        agree.agree_on_walk(reader, space, va)
        agree.agree_on_read(reader, space, va, 24)


def target(patches):
    """What pytargets.py needs of this one: inputs, what to do with them, errors that are none."""
    return SimpleNamespace(inputs=patches(dumps()), use=compare, allowed=())


def self_test():
    """The undamaged dumps are all of a kind that this compares."""
    images = dumps()
    assert [verdict(image) for image in images] == [len(RefDump(image).frames()) for image in images]
    assert FULL in ALL_KINDS


if __name__ == "__main__":
    self_test()
