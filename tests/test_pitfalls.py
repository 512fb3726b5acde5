"""One test per row of the pitfall list that concerns 64-bit physical dumps, named after the row.

The rows (F: wrong bytes on valid dumps, R: hostile or damaged files) say what existing readers do wrong.
Rows about Windows objects (F16-F20, R8, R9) are tested with those objects.

SPDX-License-Identifier: MIT
"""

import os
import struct
import time

import pytest
from dumpbuilder import (
    ALL_KINDS,
    BITMAP,
    COMPLETE,
    FULL,
    GB1,
    KB4,
    KERNEL,
    L1TF,
    LARGE,
    MB2,
    NX,
    PAT_LARGE,
    PROTOTYPE,
    RANGES8,
    RANGES9,
    SWIZZLED,
    TRANSITION,
    Memory,
    P,
    Tables,
    U,
    W,
    bitmap_dump,
    build,
    header_page,
    patched,
    ranges_dump,
    runs_dump,
    stamp,
)

import kdmp

LOW = 0x7FF0_0000_0000
WORDS = struct.Struct("<512Q")


def reader_of(memory, dtb=0x1000, **options):
    return kdmp.open(memory.dump(dtb=dtb)).reader(**options)


def small_image(kind=FULL, **header):
    return build(kind, {1: stamp(1), 2: stamp(2), 3: stamp(3)}, **header)


# ---- F: wrong bytes on valid dumps ----


@pytest.mark.parametrize(
    "size, pa, next_pa", [(MB2, 0x4000_0000, 0x5000_0000), (GB1, 0x4000_0000, 0x1_0000_0000)]
)
def test_f1_read_across_the_end_of_a_large_page(size, pa, next_pa):
    memory = Memory()
    tables = Tables(memory)
    va = 0x7F80_0000_0000
    tables.map(va, pa, size)
    tables.map(va + size, next_pa, KB4)
    memory.fill(pa + size - KB4 >> 12, pa >> 12, (pa >> 12) + 1, next_pa >> 12)
    reader = reader_of(memory)
    assert reader.read_exact(va + size - 0x10, 0x20) == (
        bytes(memory.pages[pa + size - KB4 >> 12])[-0x10:] + bytes(memory.pages[next_pa >> 12])[:0x10]
    )


@pytest.mark.parametrize("offset", [0, 1, 0x800, 0xFFF])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_f2_long_reads_are_contiguous(kind, offset):
    pages = {pfn: stamp(pfn) for pfn in range(0x200, 0x20A)}
    memory = Memory()
    Tables(memory).map(0x4000_0000, 0x20_0000, MB2)
    image = build(kind, memory.pages | pages, directory_table_base=0x1000)
    flat = b"".join(pages.values())
    with kdmp.open(image) as dump:
        size = len(flat) - offset
        assert dump.phys.read_exact(0x20_0000 + offset, size) == flat[offset:]
        assert dump.reader().read_exact(0x4000_0000 + offset, size) == flat[offset:]


@pytest.mark.parametrize("paging, levels", [("x64", 4), ("la57", 5)])
def test_f3_last_virtual_page(paging, levels):
    memory = Memory()
    tables = Tables(memory, levels=levels)
    last = 0xFFFF_FFFF_FFFF_F000
    tables.map(last, 0xA000)
    tables.map(0, 0xB000)
    memory.fill(0xA, 0xB)
    page = bytes(memory.pages[0xA])
    reader = reader_of(memory, paging=paging)
    assert reader.translate(last + 0xFFF).pa == 0xAFFF
    assert reader.read_exact(last, 0x1000) == page
    assert reader.read(last + 0xFF0, 0x1000) == page[-16:], "and not the page at 0"
    assert reader.read_u8(last + 0xFFF) == page[-1]
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_exact(last + 0xFF8, 0x10)
    assert (caught.value.actual, caught.value.address) == (8, 1 << 64)
    assert type(caught.value.reason) is kdmp.AddressEndError
    data, gaps = reader.read_gaps(last, 0x1008, fill=0xCC)
    assert data == page + b"\xcc" * 8
    assert [(gap.address, gap.size, type(gap.reason)) for gap in gaps] == [(1 << 64, 8, kdmp.AddressEndError)]


def test_f3_string_at_the_last_virtual_page():
    memory = Memory()
    tables = Tables(memory)
    last = 0xFFFF_FFFF_FFFF_F000
    tables.map(last, 0xA000)
    tables.map(0, 0xB000)
    memory.put(0xAFF8, b"eightish")
    memory.put(0xB000, b"wrapped\0")
    memory.put(0xAFE0, b"whole\0")
    reader = reader_of(memory)
    assert reader.read_cstr(last + 0xFE0) == "whole"
    assert reader.read_cstr_bytes(last + 0xFF8, strict=False) == b"eightish", "and not the page at 0"
    with pytest.raises(kdmp.UnreadableError) as caught:
        reader.read_cstr(last + 0xFF8)
    assert (caught.value.data, caught.value.address) == (b"eightish", 1 << 64)
    assert type(caught.value.reason) is kdmp.AddressEndError
    with pytest.raises(kdmp.UnreadableError):
        reader.read_wstr(last + 0xFF8)
    assert reader.read_cstr(last + 0xFF8, 8) == "eightish", "the limit ends before the space does"


def test_f4_prototype_is_no_transition():
    memory = Memory()
    Tables(memory).raw(LOW, 0xA000 | PROTOTYPE | TRANSITION)
    memory.fill(0xA)
    reader = reader_of(memory)
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(LOW)
    assert caught.value.state == "prototype"
    assert reader.try_read_exact(LOW, 8) is None


SWIZZLE = [  # entry, mask, frames in the dump; expected frame, unswizzled
    (0xA000 | L1TF, L1TF, [0xA], 0xA, True),
    (0xA000, L1TF, [0xA], 0xA, False),
    (0xA000 | L1TF | SWIZZLED, L1TF, [0x2_0000_000A], 0x2_0000_000A, False),
    (0xA000 | L1TF, 0, [0x2_0000_000A], 0x2_0000_000A, False),
    (0xA000 | L1TF, L1TF | 1 << 44, [0xA], 0xA, True),
    (0xA000 | L1TF | 1 << 44, L1TF | 1 << 44, [0xA], 0xA, True),
    (0xA000 | L1TF, None, [0xA], 0xA, True),
    (0xA000 | L1TF, None, [0x2_0000_000A], 0x2_0000_000A, False),
    (0xA000 | L1TF, None, [0xA, 0x2_0000_000A], 0x2_0000_000A, False),
    (0xA000, None, [0xA], 0xA, False),
    (0xA000 | L1TF | SWIZZLED, None, [0xA, 0x2_0000_000A], 0x2_0000_000A, False),
]


@pytest.mark.parametrize("entry, mask, frames, frame, unswizzled", SWIZZLE)
def test_f5_swizzled_transition_entry(entry, mask, frames, frame, unswizzled):
    memory = Memory()
    Tables(memory).raw(LOW, entry | TRANSITION | 4 << 5)
    memory.fill(*frames)
    reader = reader_of(memory, invalid_pte_mask=mask)
    got = reader.translate(LOW + 0x123)
    assert (got.pfn, got.pa & 0xFFF, got.unswizzled) == (frame, 0x123, unswizzled)
    assert reader.read_exact(LOW, 0x1000) == bytes(memory.pages[frame])


def test_f5_no_reading_of_a_swizzled_frame_is_in_the_dump():
    memory = Memory()
    Tables(memory).raw(LOW, 0xA000 | L1TF | TRANSITION | 4 << 5)
    memory.fill(0x30)
    reader = reader_of(memory)
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader.translate(LOW)
    assert (caught.value.state, caught.value.pa) == ("transition", 0xA000), (
        "below the last frame: the likely one"
    )
    assert caught.value.level == 0, "the page is missing, not a table"
    assert "table" not in str(caught.value)
    assert reader.try_translate(LOW) is None
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader.read_u64(LOW)
    assert (caught.value.level, caught.value.pa, caught.value.address) == (0, 0xA000, LOW)


def test_f5_swizzle_bit_set_means_no_doubt():
    """With SwizzleBit the frame is the entry's own, as certain as that of a valid entry."""
    memory = Memory()
    Tables(memory).raw(LOW, 0xA000 | L1TF | SWIZZLED | TRANSITION | 4 << 5)
    reader = reader_of(memory)
    assert reader.translate(LOW).pfn == 0x2_0000_000A
    with pytest.raises(kdmp.NotInDumpError):
        reader.read_u64(LOW)


def test_f6_transition_rights_come_from_protection():
    memory = Memory()
    tables = Tables(memory)
    tables.raw(LOW, 0xA000 | TRANSITION | 4 << 5)  # read-write; bits 1 and 2 (R/W, U/S of the hardware) are 0
    tables.raw(LOW + KB4, 0xA000 | TRANSITION | 1 << 5 | W | U | NX)  # read-only, whatever those bits say
    reader = reader_of(memory, invalid_pte_mask=0)
    writable, read_only = reader.translate(LOW), reader.translate(LOW + KB4)
    assert (writable.writable, writable.executable, writable.user, writable.protection) == (
        True,
        False,
        True,
        4,
    )
    assert (read_only.writable, read_only.executable, read_only.protection) == (False, False, 1)


@pytest.mark.parametrize("size", [MB2, GB1])
def test_f7_pat_bit_of_a_large_page(size):
    memory = Memory()
    Tables(memory).map(0x4000_0000, 0x4000_0000, size, P | W | PAT_LARGE)
    memory.fill(0x40000)
    reader = reader_of(memory)
    assert reader.translate(0x4000_0000).pa == 0x4000_0000
    assert reader.read_exact(0x4000_0000, 8) == bytes(memory.pages[0x40000])[:8]


@pytest.mark.parametrize("kind", [FULL, RANGES8, RANGES9, COMPLETE])
@pytest.mark.parametrize("pfn", [1 << 36, (1 << 36) + 1, 1 << 39, (1 << 40) - 1])
def test_f8_52_bit_frames(pfn, kind):
    memory = Memory()
    tables = Tables(memory, root=pfn - 1 << 12)
    tables.map(LOW, pfn << 12)
    memory.fill(pfn)
    with kdmp.open(memory.dump(kind, dtb=pfn - 1 << 12)) as dump:
        assert dump.reader().translate(LOW).pfn == pfn
        assert dump.reader().read_exact(LOW, 0x1000) == bytes(memory.pages[pfn])
        assert pfn in dump.pages


@pytest.mark.parametrize(
    "va", [0x0000_8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF, 0x1_7FF0_0000_0000, 0x8000_7FF0_0000_0000]
)
def test_f9_non_canonical(va):
    memory = Memory()
    tables = Tables(memory)
    tables.map(va & 0x7FFF_FFFF_F000, 0xA000)
    tables.map(va & 0x7FFF_FFFF_F000 | 0xFFFF_8000_0000_0000, 0xA000)
    memory.fill(0xA)
    reader = reader_of(memory)
    with pytest.raises(kdmp.NonCanonicalError):
        reader.translate(va)
    assert reader.read(va, 8) == b""
    with pytest.raises(kdmp.NonCanonicalError):
        reader.read_u64(va)


@pytest.mark.parametrize("level", [2, 3])
def test_f10_large_bit_of_an_entry_that_is_not_present(level):
    memory = Memory()
    Tables(memory).raw(LOW, 0xA000 | LARGE, level)
    memory.fill(0xA)
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader_of(memory).translate(LOW)
    assert (caught.value.level, caught.value.entry) == (level, 0xA000 | LARGE)


def test_f11_context_behind_xmm15(tmp_path):
    """CONTEXT is 0x4D0 bytes; VectorControl is at 0x4A0, LastExceptionFromRip at 0x4C8."""
    context = bytearray(struct.pack("<616H", *range(0x1000, 0x1000 + 616)))
    struct.pack_into("<I", context, 0x30, 0x10001F)
    struct.pack_into("<I", context, 0x118, struct.unpack_from("<I", context, 0x34)[0])
    path = tmp_path / "image.dmp"
    kdmp.write_dump(path, FULL, {1: stamp(1)}, context=bytes(context))
    with kdmp.open(path) as dump:
        for name, offset, size in [
            ("rax", 0x78, 8), ("rip", 0xF8, 8), ("xmm0", 0x1A0, 16), ("xmm15", 0x290, 16),
            ("vector_control", 0x4A0, 8), ("debug_control", 0x4A8, 8), ("last_branch_to_rip", 0x4B0, 8),
            ("last_branch_from_rip", 0x4B8, 8), ("last_exception_to_rip", 0x4C0, 8),
            ("last_exception_from_rip", 0x4C8, 8),
        ]:  # fmt: skip
            assert dump.context[name] == int.from_bytes(context[offset : offset + size], "little"), name


@pytest.mark.parametrize("bits", [1, 7, 9, 31, 33, 63, 65, 100, 127, 1001, 65_537])
@pytest.mark.parametrize("kind", [BITMAP, KERNEL])
def test_f12_odd_number_of_bits(bits, kind):
    frames = sorted({0, bits // 2, max(bits - 2, 0), bits - 1})
    with kdmp.open(bitmap_dump(bits, frames, kind=kind)) as dump:
        assert list(dump.pages) == frames
        for place, pfn in enumerate(frames):
            assert bytes(dump.pages[pfn]) == stamp(place)
        assert dump.truncated == 0


def test_f12_bits_beyond_the_last_do_not_count():
    with kdmp.open(bitmap_dump(13, [2, 12], extra=[13, 14, 15])) as dump:
        assert list(dump.pages) == [2, 12]
        assert bytes(dump.pages[12]) == stamp(1)
        assert dump.truncated == 0


@pytest.mark.parametrize("kind", [RANGES8, RANGES9])
def test_f13_number_of_ranges(kind):
    """(MetadataSize - 0x10) / 0x10 entries, and page data right behind that looks like one more."""
    fake = struct.pack("<QQ", 0x77, 1) * 256
    image = ranges_dump([(5, 1), (9, 1)], kind=kind, pages=[fake, stamp(1)])
    with kdmp.open(image) as dump:
        assert list(dump.pages) == [5, 9]
        assert bytes(dump.pages[5]) == fake
        assert dump.truncated == 0


@pytest.mark.parametrize("pa", [0x1001, 0x1003, 0x1FFF, 0x2008])
def test_f14_unaligned_physical_address(pa):
    with kdmp.open(small_image()) as dump:
        flat = stamp(1) + stamp(2) + stamp(3)
        assert dump.phys.read_exact(pa, 0x11) == flat[pa - 0x1000 :][:0x11]
        assert dump.phys.translate(pa).pa == pa


@pytest.mark.parametrize("start", [0x800, 0xFFE, 0xFFF])
def test_f15_string_across_two_page_boundaries(start):
    text = "".join(chr(0x21 + k % 90) for k in range(0x1900))
    memory = Memory()
    tables = Tables(memory)
    for page, pfn in enumerate((0x30, 0x36, 0x33, 0x31, 0x34)):
        tables.map(LOW + page * KB4, pfn * KB4)
        memory.page(pfn)
    order = (0x30, 0x36, 0x33, 0x31, 0x34)
    raw = text.encode() + b"\0"
    for k, byte in enumerate(raw):
        memory.page(order[(start + k) // KB4])[(start + k) % KB4] = byte
    assert reader_of(memory).read_cstr(LOW + start) == text
    raw = text.encode("utf-16-le") + b"\0\0"
    for k, byte in enumerate(raw):
        memory.page(order[(start + k) // KB4])[(start + k) % KB4] = byte
    assert reader_of(memory).read_wstr(LOW + start) == text


# ---- R: hostile or damaged files ----


@pytest.mark.parametrize("size", [0, 1, 4, 7, 8, 0x40, 0xF97, 0x1000, 0x1FFF])
@pytest.mark.parametrize("how", ["memory", "map", "read"])
def test_r1_cut_in_the_header(tmp_path, size, how):
    image = small_image()[:size]
    path = tmp_path / "cut.dmp"
    path.write_bytes(image)
    with pytest.raises(kdmp.FormatError) as caught:
        kdmp.open(image) if how == "memory" else kdmp.open(path, io=how)
    assert caught.value.offset is not None and caught.value.offset <= size
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("how", ["memory", "map", "read"])
def test_r2_cut_in_the_pages(tmp_path, kind, how):
    image = small_image(kind)[: -0x1000 - 1]
    path = tmp_path / "cut.dmp"
    path.write_bytes(image)
    with kdmp.open(image) if how == "memory" else kdmp.open(path, io=how) as dump:
        assert dump.truncated == 2
        assert list(dump.pages) == [1] and len(dump.pages) == 1
        assert dump.phys.read(0x1000, 0x3000) == stamp(1)
        with pytest.raises(kdmp.PartialReadError) as caught:
            dump.phys.read_exact(0x1000, 0x3000)
        assert type(caught.value.reason) is kdmp.TruncatedError
        assert caught.value.address == 0x2000
        _, gaps = dump.phys.read_gaps(0x1000, 0x4000)
        assert [(g.address, g.size, type(g.reason)) for g in gaps] == [
            (0x2000, 0x2000, kdmp.TruncatedError),
            (0x4000, 0x1000, kdmp.NotInDumpError),
        ]


def test_r3_file_that_shrinks(tmp_path):
    """Without a mapping a file that is cut while it is open is an error, never a signal.

    With one it is, too: test_mapguard.py."""
    path = tmp_path / "shrinks.dmp"
    path.write_bytes(small_image())
    with kdmp.open(path, io="read") as dump:
        assert dump.phys.read_exact(0x3000, 0x1000) == stamp(3)
        os.truncate(path, 0x2800)
        for call in (
            lambda: dump.phys.read_exact(0x3000, 0x1000),
            lambda: dump.phys.read_gaps(0x3000, 1),
            lambda: dump.pages[3],
        ):
            with pytest.raises(OSError):
                call()
        assert dump.phys.read_exact(0x1000, 0x800) == stamp(1)[:0x800]


HUGE = [43 + 1, 86, 1 << 16, 1 << 31, (1 << 32) - 1]


def refused(image):
    """Opening must fail as a format error, at once."""
    start = time.process_time()
    with pytest.raises(kdmp.FormatError) as caught:
        kdmp.open(image)
    assert time.process_time() - start < 1
    assert caught.value.offset is not None and caught.value.offset <= max(len(image), 0x2000)
    return caught.value


@pytest.mark.parametrize("count", [0, *HUGE])
def test_r4_number_of_runs(count):
    assert refused(patched(small_image(), runs=count)).offset == 0x88


@pytest.mark.parametrize("pages", [1 << 34, 1 << 40, 1 << 52, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("place", ["run0", "range0"])
def test_r4_pages_in_a_run(pages, place):
    image = small_image(FULL if place == "run0" else RANGES8)
    refused(patched(image, **{place: (1, pages)}))


@pytest.mark.parametrize("bits", [0, 1 << 20, 1 << 32, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_r4_bits_of_a_bitmap(bits):
    refused(patched(small_image(BITMAP), bits=bits, stored=bits))


@pytest.mark.parametrize("bits", [1 << 20, (1 << 32) - 1, 0])
def test_r4_bits_of_an_old_bitmap(bits):
    image = bytearray(small_image(2))
    struct.pack_into("<I", image, 0x2010, bits)
    refused(bytes(image))


@pytest.mark.parametrize("metadata", [0, 8, 0x18, 1 << 20, 1 << 34, 1 << 62, (1 << 64) - 0x10, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [RANGES8, RANGES9, COMPLETE])
def test_r4_size_of_a_range_table(metadata, kind):
    refused(patched(small_image(kind), metadata=metadata))


@pytest.mark.parametrize("kind", [RANGES8, COMPLETE])
def test_r4_many_pages_in_a_few_ranges(kind):
    """Each range is below the limit, all of them together are not."""
    refused(
        patched(
            ranges_dump([(1, 1)] * 20, kind=kind, total=1 << 63),
            range0=(1, 1 << 33),
            range1=(1 << 34, 1 << 33),
        )
    )


def test_r4_range_total_is_exceeded():
    refused(ranges_dump([(1, 2), (5, 2)], kind=COMPLETE, total=3))


def test_r4_largest_claim_that_is_allowed_costs_nothing():
    """A run of nearly 64 TiB in a file of 20 KiB is a dump that was cut short."""
    start = time.process_time()
    with kdmp.open(patched(runs_dump([(1, 3)]), run0=(1, (1 << 34) - 2))) as dump:
        assert dump.truncated == (1 << 34) - 2 - 3
        assert (len(dump.pages), list(dump.pages)) == (3, [1, 2, 3])
        assert 1 << 33 not in dump.pages
        with pytest.raises(kdmp.TruncatedError):
            dump.pages[1 << 33]
    assert time.process_time() - start < 1


@pytest.mark.parametrize("first_page", [1 << 62, (1 << 64) - 1, (1 << 64) - 0x1000, 0, 0x2000])
@pytest.mark.parametrize("kind, field", [(BITMAP, "first_page"), (RANGES8, "range_first_page")])
def test_r5_impossible_first_page(kind, field, first_page):
    image = patched(small_image(kind), **{field: first_page})
    try:
        dump = kdmp.open(image)
    except kdmp.FormatError:
        return
    with dump:  # beyond the end is also "cut short"; inside the header is not
        assert first_page > len(image)
        assert (len(dump.pages), dump.truncated) == (0, 3)


@pytest.mark.parametrize("pad", [1, 2, 3, 5, 0x7FF])
def test_r5_unaligned_first_page(pad):
    with kdmp.open(bitmap_dump(20, [3, 4, 19], pad=pad)) as dump:
        assert [bytes(dump.pages[pfn]) for pfn in dump.pages] == [stamp(0), stamp(1), stamp(2)]
        assert dump.phys.read_exact(0x3FF0, 0x20) == stamp(0)[-0x10:] + stamp(1)[:0x10]


@pytest.mark.parametrize(
    "make", [runs_dump, ranges_dump, lambda runs: ranges_dump(runs, kind=COMPLETE, spare=3)]
)
def test_r6_first_of_overlapping_runs_wins(make):
    with kdmp.open(make([(5, 2), (6, 3), (1, 1), (1, 7)])) as dump:
        #           file pages: 0-1     2-4     5       6-12
        want = {5: 0, 6: 1, 7: 3, 8: 4, 1: 5, 2: 7, 3: 8, 4: 9}
        assert {pfn: bytes(dump.pages[pfn]) for pfn in dump.pages} == {
            pfn: stamp(n) for pfn, n in want.items()
        }
        assert dump.figures["pages_overlapped"] == 1 + 4
        assert dump.phys.read_exact(0x5FF8, 0x10) == stamp(0)[-8:] + stamp(1)[:8]


@pytest.mark.parametrize("make", [runs_dump, ranges_dump])
def test_r6_unsorted_runs(make):
    with kdmp.open(make([(0x30, 1), (0x10, 2), (0x20, 1)])) as dump:
        assert list(dump.pages) == [0x10, 0x11, 0x20, 0x30]
        assert bytes(dump.pages[0x10]) == stamp(1)
        assert dump.figures["pages_overlapped"] == 0


@pytest.mark.parametrize("pfn", [1 << 40, 1 << 52, (1 << 52) + 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("place", ["run0", "range0"])
def test_r7_frame_beyond_52_bits(pfn, place):
    image = small_image(FULL if place == "run0" else RANGES8)
    refused(patched(image, **{place: (pfn, 1)}))


@pytest.mark.parametrize("place", ["run0", "range0"])
def test_r7_run_that_ends_beyond_52_bits(place):
    image = small_image(FULL if place == "run0" else RANGES8)
    refused(patched(image, **{place: ((1 << 40) - 1, 2)}))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_r10_number_of_processors(kind):
    start = time.process_time()
    with kdmp.open(small_image(kind, number_processors=(1 << 32) - 1)) as dump:
        assert dump.processors == (1 << 32) - 1
        assert list(dump.pages) == [1, 2, 3]
    assert time.process_time() - start < 1


@pytest.mark.parametrize("levels, paging", [(4, "x64"), (5, "la57")])
def test_r11_table_that_points_to_itself(levels, paging):
    memory = Memory()
    for index in range(512):
        memory.put_u64(0x1000 + 8 * index, 0x1000 | P | W | U)
    reader = reader_of(memory, paging=paging)
    got = reader.translate(0x1234_5678)
    assert (got.pa, len(got.entries), got.page_size) == (0x1678, levels, KB4)
    assert reader.read_exact(0x1234_5678, 8) == bytes(memory.pages[1])[0x678:0x680]
    assert len(reader.read_exact(0, 0x100000)) == 0x100000


def test_r11_table_above_the_dump():
    memory = Memory()
    Tables(memory).raw(LOW, 0x000F_FFFF_FFFF_F000 | P, 3)
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader_of(memory).translate(LOW)
    assert (caught.value.level, caught.value.pa >> 12) == (2, (1 << 40) - 1)


def test_r12_arm64_is_not_x64():
    with kdmp.open(patched(small_image(directory_table_base=0x1000), machine=0xAA64)) as dump:
        assert dump.arch == "arm64"
        try:
            assert dump.reader().paging == "arm64"
        except kdmp.UnsupportedDumpError as exc:
            assert "arm64" in str(exc).lower()


def test_r12_32_bit_header_is_not_x64():
    head = bytearray(b"PAGEDUMP" + b"PAGE" * 0x3FE)
    struct.pack_into("<I", head, 0x20, 0x14C)
    struct.pack_into("<II", head, 0x64, 1, 1)
    struct.pack_into("<II", head, 0x6C, 5, 1)
    struct.pack_into("<I", head, 0xF88, 1)
    with kdmp.open(bytes(head) + stamp(0)) as dump:
        assert (dump.arch, dump.pointer_size) == ("x86", 4)
        assert dump.phys.read_exact(0x5000, 0x1000) == stamp(0)


def test_r13_filler_is_absent():
    image = bytearray(header_page(3))
    struct.pack_into("<I", image, 0xC, 0x45474150)
    with kdmp.open(bytes(image)) as dump:
        written = {"major_version", "machine_image_type", "dump_type", "required_dump_space"}
        names = set(dump.header) - written - {"number_of_runs", "number_of_pages"}
        assert len(names) >= 20
        for name in names:
            assert dump.header[name] is None, name
        assert dump.build is dump.bugcheck is dump.context is dump.comment is None


def test_r13_runs_that_were_never_written():
    image = bytearray(small_image())
    image[0x88:0x344] = b"PAGE" * 0xAF
    assert refused(bytes(image)).offset == 0x88


@pytest.mark.parametrize("lie", [1, 3, 4, 5, 7, 9, 0x77])
@pytest.mark.parametrize("kind", [BITMAP, KERNEL])
def test_r14_secondary_signature_beats_the_dump_type(kind, lie):
    with kdmp.open(patched(small_image(kind), kind=lie)) as dump:
        assert (dump.layout, list(dump.pages)) == ("bitmap", [1, 2, 3])
        assert bytes(dump.pages[3]) == stamp(3)


@pytest.mark.parametrize("lie", [1, 5, 6, 9])
def test_r14_ranges_signature_beats_the_dump_type(lie):
    with kdmp.open(patched(small_image(RANGES8), kind=lie)) as dump:
        assert (dump.layout, list(dump.pages)) == ("ranges", [1, 2, 3])


@pytest.mark.parametrize("lie", [2, 5, 6, 7, 8, 9, 10])
def test_r14_kind_without_its_signature(lie):
    error = refused(patched(small_image(FULL), kind=lie))
    assert error.offset == 0x2000


def test_r14_root_of_nothing_is_an_error_with_its_reason():
    with (
        kdmp.open(small_image(directory_table_base=0x7777_7000)) as dump,
        pytest.raises(kdmp.NotInDumpError) as caught,
    ):
        dump.reader().translate(0xFFFF_F800_0000_0000)
    assert (caught.value.level, caught.value.pa >> 12) == (4, 0x77777)


def test_r15_use_after_close():
    dump = kdmp.open(small_image(directory_table_base=0x1000))
    pages, phys, reader, runs, frames = (
        dump.pages,
        dump.phys,
        dump.reader(),
        dump.pages.runs(),
        iter(dump.pages),
    )
    next(frames)
    dump.close()
    for call in (
        lambda: dump.header, lambda: dump.pages, lambda: dump.choose_paging(0x1000),
        lambda: dump.read_file(0, 1),
        lambda: pages[1], lambda: len(pages), lambda: list(pages), lambda: 1 in pages, lambda: next(runs),
        lambda: phys.read(0x1000, 1), lambda: reader.translate(0x1000),
        lambda: reader.read_gaps(0x1000, 1), lambda: dump.__enter__(),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            call()
    try:  # the iterator may know the rest of its run, but nothing else
        assert set(frames) <= {2, 3}
    except ValueError:
        pass


def test_r15_use_after_collection():
    view = kdmp.open(small_image()).pages[2]
    reader = kdmp.open(small_image()).phys
    assert bytes(view) == stamp(2)
    assert reader.read_exact(0x1000, 0x1000) == stamp(1)


def test_r15_view_of_a_closed_dump(tmp_path):
    """Either the close waits for the view or the view keeps the mapping; never a bad pointer."""
    path = tmp_path / "image.dmp"
    path.write_bytes(small_image())
    dump = kdmp.open(path)
    view = dump.pages[3]
    try:
        dump.close()
    except BufferError:
        assert not dump.closed
    assert bytes(view) == stamp(3)
    view.release()
    dump.close()
    assert dump.closed


def test_r16_nothing_is_printed(capfd):
    for image in (b"", b"x", small_image()[:0x1000], patched(small_image(), runs=99), small_image()[:-5]):
        try:
            with kdmp.open(image) as dump:
                dump.phys.read_gaps(0, 0x10000)
                dump.reader(dtb=0x1000).read_gaps(0, 0x10000)
                dump.reader(dtb=0x1000).try_translate(0)
        except kdmp.KdmpError:
            pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "head, word",
    [
        (b"MDMP\x93\xa7\0\0", "minidump"),
        (b"HIBR" + bytes(60), "hibernation"),
        (b"hibr" + bytes(60), "hibernation"),
        (b"\x7fELF\x02\x01\x01", "elf"),
        (b"PK\x03\x04\x14\0", "zip"),
        (b"MSCF\0\0\0\0", "cabinet"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"hello, this is text\n", "text"),
        (bytes(0x3000), "zero"),
        (b"", "empty"),
        (b"PAGE\0\0\0\0" + bytes(0x3000), "PAGE"),
        (b"PAGEDU63" + bytes(0x3000), "PAGE"),
    ],
)
def test_r17_wrong_files_are_named(tmp_path, head, word):
    path = tmp_path / "file"
    path.write_bytes(head)
    for source in (path, head):
        with pytest.raises(kdmp.WrongFileError) as caught:
            kdmp.open(source)
        assert word.lower() in str(caught.value).lower()
        assert isinstance(caught.value, kdmp.FormatError)


def test_words_of_a_stamp_differ():
    """What the tests above rely on: a page read from the wrong place is never equal."""
    assert len({*WORDS.unpack(stamp(1)), *WORDS.unpack(stamp(2))}) == 1024
