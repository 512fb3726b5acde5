"""What must hold for any page table, any layout and any read: kdmp against the slow reference.

SPDX-License-Identifier: MIT
"""

import struct
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import refptes
import refreader as ref
from agree import agree_on_gaps, agree_on_pages, agree_on_read, agree_on_walk
from dumpbuilder import (
    COMPLETE,
    FULL,
    L1TF,
    LARGE,
    NX,
    PROTOTYPE,
    RANGES8,
    SWIZZLED,
    TRANSITION,
    Memory,
    P,
    Tables,
    bitmap_dump,
    build,
    ranges_dump,
    runs_dump,
    stamp,
    summary_dump,
)

import kdmp

pytest.importorskip("hypothesis")

from hypothesis import assume, event, given
from hypothesis import strategies as st

# Few indices, so that random addresses meet random entries.
INDEX = st.sampled_from([0, 1, 255, 256, 511])
FRAMES = [1, 2, 3, 4, 0x2005, 1 << 36, (1 << 40) - 1]
ABSENT = [0, 5, 0x1FFF, 0x3000, 1 << 39]
WORD = st.integers(0, (1 << 64) - 1)
BASE = 0x7FF0_0000_0000


@st.composite
def entry(draw, level):
    """A page-table entry: one that leads on, mostly, but anything may stand anywhere."""
    frame = draw(st.sampled_from(FRAMES * 6 + ABSENT)) << 12
    bits = draw(st.integers(0, (1 << 12) - 1))
    software = draw(st.sampled_from([0, 0, NX, 0x7FF << 52, NX | 0x155 << 52]))
    kind = draw(st.sampled_from("llllsssLpPPPgz" if level == 1 else "tttttttttttsLLpgzn"))
    if kind == "t":
        return frame | bits & ~LARGE | P | software
    if kind == "l":  # 4 KiB: bit 7 is PAT here
        return frame | bits | P | software
    if kind == "L":  # large, or a reserved bit, or PAT
        return frame | bits | P | LARGE | software
    if kind == "s":  # in transition, perhaps swizzled
        swizzle = draw(st.sampled_from([0, 0, L1TF, L1TF, SWIZZLED, SWIZZLED | L1TF]))
        return (frame | TRANSITION | draw(st.integers(0, 31)) << 5) ^ swizzle
    if kind == "p":
        return draw(st.integers(0, (1 << 48) - 1)) << 16 | PROTOTYPE | bits & ~P
    if kind == "P":  # a prototype PTE where there may be one, perhaps swizzled
        where = draw(address(4)) & ~7 | 0xFFFF << 48 | 1 << 47
        swizzle = draw(st.sampled_from([0, L1TF, SWIZZLED, SWIZZLED]))
        return (where << 16 & (1 << 64) - 1 | PROTOTYPE | bits & ~P & ~SWIZZLED) ^ swizzle
    if kind == "n":  # not present, with the large bit; demand-zero or in a page file
        return draw(st.sampled_from([0, L1TF, 0x123 << 32, 0x3000])) | bits & 0x3F0 | LARGE
    return draw(WORD) if kind == "g" else 0


@st.composite
def address(draw, levels):
    """An address whose indices are likely to be in use, canonical mostly."""
    value = draw(st.integers(0, 0xFFF))
    for level in range(levels):
        value |= draw(INDEX) << 12 + 9 * level
    top = 12 + 9 * levels
    if value >> top - 1 & 1 and draw(st.integers(0, 9)):
        value |= (1 << 64) - (1 << top)
    return value


@dataclass
class Case:
    """An address space; its repr is enough to build it again."""

    table: dict  # physical address: entry
    root: int
    levels: int
    mask: int | None
    layout: refptes.Layout
    kernel: int  # a second root, 0 for none
    addresses: list

    @contextmanager
    def open(self):
        """(kdmp's reader, the reference's) of a dump with FRAMES and these entries in them."""
        memory = Memory()
        for pfn in FRAMES:
            memory.page(pfn)
        memory.entries(self.table)
        image = memory.dump(dtb=self.root)
        with kdmp.open(image) as dump:
            reader = kdmp.Reader(
                dump,
                paging={4: "x64", 5: "la57"}[self.levels],
                dtb=self.root,
                invalid_pte_mask=self.mask,
                kernel_dtb=self.kernel,
                pte_format=self.layout.format,
            )
            facts = self.root, self.levels, self.mask, self.layout, self.kernel or None
            yield reader, ref.RefSpace(ref.RefDump(image), *facts)


@st.composite
def address_space(draw):
    """Tables that point anywhere, themselves included, with entries along the way of some addresses."""
    levels = draw(st.sampled_from([4, 4, 5]))
    root = draw(st.sampled_from([0x1000, 0x1002, 0x8000_0000_0000_1000 | 0x18]))
    mask = draw(st.sampled_from([None, None, 0, L1TF, L1TF | L1TF >> 1]))
    layout = draw(st.sampled_from([refptes.X64_NEW, refptes.X64_NEW, refptes.X64_NEW7601, refptes.X64_OLD10]))
    kernel = draw(st.sampled_from([0, 0, 0x4000]))
    addresses = draw(st.lists(address(levels), min_size=1, max_size=12))
    table = {}
    todo = [(root, va) for va in addresses]
    for start, va in todo:
        here = start & ref.ADDRESS_MASK
        for level in range(levels, 0, -1):
            where = here | 8 * (va >> 12 + 9 * (level - 1) & 0x1FF)
            if where not in table:
                value = table[where] = draw(entry(level))
                if level == 1 and value & (P | PROTOTYPE) == PROTOTYPE:  # mostly there is something behind it
                    behind = draw(st.sampled_from([value, value, value & ~L1TF]))
                    todo.append((kernel or root, refptes.prototype_address(behind, layout)))
            value = table[where]
            here = value & ref.ADDRESS_MASK & ~L1TF
            if not value & (P | TRANSITION) or here >> 12 not in FRAMES:
                break
            if level == 1:
                table.setdefault(here | va & 0xFF8, draw(entry(1)))
    return Case(table, root, levels, mask, layout, kernel, addresses)


@given(address_space())
def test_walks(case):
    with case.open() as (reader, space):
        for va in case.addresses:
            agree_on_walk(reader, space, va)


SHARED = 0xFFFF_F800_0000_0000  # prototype PTEs are here, and in the page that the L1TF bit makes of it
SLOT = st.integers(0, 3)


@st.composite
def prototype_pte(draw):
    """Anything that may stand in an array of prototype PTEs."""
    kind = draw(st.sampled_from("ppptttsdfzvg"))
    frame = draw(st.sampled_from([0x30, 0x30, 0x31, 0x32, 0x99, 1 << 33 | 0x30])) << 12
    swizzle = draw(st.sampled_from([0, L1TF, SWIZZLED, SWIZZLED | L1TF]))
    protection = draw(st.integers(0, 31)) << 5
    if kind == "p":
        return frame | draw(st.integers(0, 0xFFF)) | P | draw(st.sampled_from([0, NX]))
    if kind in "zvg":
        return {"z": 0, "v": 0xFFFF_FFFF << 32 | PROTOTYPE | protection, "g": draw(WORD) & ~P}[kind]
    soft = {
        "t": frame | TRANSITION,
        "s": 0x9300_0012_3450_0000 | PROTOTYPE,
        "d": 0,
        "f": 0x1234 << 32 | draw(st.integers(0, 15)) << 12,
    }[kind]
    return (soft | protection) ^ swizzle


@st.composite
def shared_page(draw):
    """(image, address space of refreader, options of kdmp.Reader): a page behind a prototype PTE."""
    memory = Memory()
    own, kernel = Tables(memory, root=0x1000), Tables(memory, root=0x10000, spare=0x11)
    layout = draw(st.sampled_from([refptes.X64_NEW, refptes.X64_NEW7601, refptes.X64_OLD10]))
    mask = draw(st.sampled_from([None, None, 0, L1TF, L1TF | 1 << 44]))
    kernel_root = draw(st.sampled_from([0, 0x10000]))
    for number, area in enumerate((SHARED, SHARED | 1 << 29)):
        for tables, how in ((own, "mmmmn" if number == 0 else "mnn"), (kernel, "mn")):
            if draw(st.sampled_from(how)) == "m":
                tables.map(area, (0x20 + number) * ref.PAGE)
            elif draw(st.booleans()):  # a prototype PTE is not read through another one
                tables.raw(area, SHARED << 16 & (1 << 64) - 1 | PROTOTYPE)
        for slot in range(4):
            memory.put_u64((0x20 + number) * ref.PAGE + 8 * slot, draw(prototype_pte()))
    memory.fill(0x30, 0x31)
    address = SHARED + 8 * draw(SLOT) | draw(st.sampled_from([0, 0, 0, 1 << 29, 4, 1]))
    value = (address << 16) & (1 << 64) - 1 | PROTOTYPE | draw(st.integers(0, 0xFFFF)) & ~P & ~SWIZZLED
    value ^= draw(st.sampled_from([0, 0, L1TF, SWIZZLED]))
    own.raw(BASE, value)
    image = memory.dump()
    options = {"invalid_pte_mask": mask, "kernel_dtb": kernel_root, "pte_format": layout.format}
    return image, (0x1000, 4, mask, layout, kernel_root or None), options


@given(shared_page())
def test_prototypes(case):
    image, facts, options = case
    with kdmp.open(image) as dump:
        reader = kdmp.Reader(dump, paging="x64", dtb=0x1000, **options)
        space = ref.RefSpace(ref.RefDump(image), *facts)
        walk = agree_on_walk(reader, space, BASE + 0x123)
        event(f"{walk.status} {walk.state} {walk.prototype is not None}")
        agree_on_read(reader, space, BASE + 0xFF8, 16)


@given(address_space(), st.integers(0, 0x3000))
def test_reads_through_random_tables(case, size):
    with case.open() as (reader, space):
        for va in case.addresses[:4]:
            agree_on_read(reader, space, va, size)
            agree_on_gaps(reader, space, va, size)


RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=12)
RANGES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), min_size=1, max_size=12)


class Image(bytes):
    """A dump whose repr is how it was made."""

    recipe = ""

    def __repr__(self):
        return f"<image of {len(self)} bytes: {self.recipe}>"


@st.composite
def layout(draw):
    """The image of any kind of dump with any set of frames, perhaps cut short in its pages."""
    kind = draw(st.sampled_from(["runs", "bitmap", "summary", "ranges", "complete"]))
    if kind == "runs":
        runs = draw(RUNS)
        assume(any(count for _, count in runs))
        image, recipe = runs_dump(runs), f"runs_dump({runs})"
    elif kind in ("ranges", "complete"):
        ranges = draw(RANGES)
        assume(any(count for _, count in ranges))
        options = {"kind": RANGES8 if kind == "ranges" else COMPLETE, "spare": draw(st.integers(0, 3))}
        image, recipe = ranges_dump(ranges, **options), f"ranges_dump({ranges}, **{options})"
    else:
        bits = draw(st.integers(1, 200))
        frames = draw(st.sets(st.integers(0, bits - 1), max_size=20))
        if kind == "summary":
            image = summary_dump(bits, {pfn: stamp(pfn) for pfn in frames})
            recipe = f"summary_dump({bits}, {frames})"
        else:
            options = {
                "extra": draw(st.sets(st.integers(bits, (bits + 7) // 8 * 8 - 1), max_size=3))
                if bits % 8
                else (),
                "signature": draw(st.sampled_from([b"FDMP", b"SDMP"])),
                "pad": draw(st.integers(0, 9)),
                "swap": draw(st.booleans()),
            }
            image, recipe = (
                bitmap_dump(bits, frames, **options),
                f"bitmap_dump({bits}, {frames}, **{options})",
            )
    offsets = ref.RefDump(image).offsets.values()
    out = Image(image[: draw(st.integers(min(offsets, default=len(image)), len(image)))])
    out.recipe = recipe
    return out


@given(layout())
def test_frames_of_any_layout(image):
    with kdmp.open(image) as dump:
        agree_on_pages(dump, ref.RefDump(image))


@given(layout(), st.integers(0, 0x30000), st.integers(0, 0x9000))
def test_physical_reads_of_any_layout(image, pa, size):
    space = ref.RefPhysical(ref.RefDump(image))
    with kdmp.open(image) as dump:
        agree_on_read(dump.phys, space, pa, size)
        agree_on_gaps(dump.phys, space, pa, size)


@given(layout(), st.integers(0, 50), st.integers(0, 50))
def test_windows_of_any_layout(image, first, end):
    frames = [pfn for pfn in ref.RefDump(image).frames() if first <= pfn < end]
    with kdmp.open(image) as dump:
        window = dump.pages[first:end]
        assert list(window) == frames
        assert len(window) == len(frames)
        assert [run.pfn + k for run in window.runs() for k in range(run.count)] == frames


PAGES = 6


def scattered(contents):
    """A reader over `contents`, at most PAGES pages, at BASE: frames in reverse order, page 4 a hole."""
    memory = Memory()
    tables = Tables(memory)
    for page in range(PAGES):
        if page == 4:
            continue
        tables.map(BASE + page * ref.PAGE, (0x40 - page) * ref.PAGE)
        memory.page(0x40 - page)[:] = contents[page * ref.PAGE :][: ref.PAGE].ljust(ref.PAGE, b"\x55")
    return kdmp.open(memory.dump()).reader()


COUNTING = scattered(b"".join(struct.pack("<I", word) for word in range(PAGES * ref.PAGE // 4)))


@given(st.integers(-0x1800, PAGES * ref.PAGE), st.integers(0, 0x3000), st.integers(0, 0x3000))
def test_reads_add_up(offset, n, m):
    """read(a, n + m) is read(a, n) + read(a + n, m), as far as the first is whole."""
    a = BASE + offset
    whole, left = COUNTING.read(a, n + m), COUNTING.read(a, n)
    assert whole == left + (COUNTING.read(a + n, m) if len(left) == n else b"")


@given(st.integers(-0x1800, PAGES * ref.PAGE), st.integers(0, 0x7000))
def test_gaps_and_short_reads_tell_the_same(offset, size):
    a = BASE + offset
    data, gaps = COUNTING.read_gaps(a, size)
    assert len(data) == size
    short = COUNTING.read(a, size)
    assert data.startswith(short)
    assert len(short) == (gaps[0].address - a if gaps else size)
    position = a
    for gap in gaps:  # between the gaps everything reads, in them nothing does
        assert COUNTING.read_exact(position, gap.address - position) == data[position - a : gap.address - a]
        assert COUNTING.read(gap.address, gap.size) == b""
        assert not any(data[gap.address - a : gap.address - a + gap.size])
        position = gap.address + gap.size
    assert COUNTING.read_exact(position, a + size - position) == data[position - a :]


@given(st.integers(0, 4 * ref.PAGE - 8), st.sampled_from("BHIQbhiqfd"))
def test_scalars(offset, code):
    name = {"f": "read_f32", "d": "read_f64"}.get(
        code
    ) or f"read_{'u' if code.isupper() else 'i'}{8 * struct.calcsize(code)}"
    raw = COUNTING.read_exact(BASE + offset, struct.calcsize(code))
    got = getattr(COUNTING, name)(BASE + offset)
    assert struct.pack("<" + code, got) == raw or got != got
    if code in "BHIQbhiq":
        assert COUNTING.read_uint(BASE + offset, len(raw), signed=code.islower()) == got


@given(st.binary(max_size=64), st.integers(0, 4 * ref.PAGE - 70), st.integers(0, 80))
def test_strings(text, offset, limit):
    """Against the slow way: look at one unit after the other."""
    contents = bytearray(b"\x55" * (4 * ref.PAGE))
    contents[offset : offset + len(text)] = text
    reader = scattered(bytes(contents))
    for unit, read in ((1, reader.read_cstr_bytes), (2, reader.read_wstr)):
        want, complete = slow_string(contents[offset:], unit, limit)
        value = want if unit == 1 else want.decode("utf-16-le", "replace")
        assert read(BASE + offset, limit, strict=False) == value
        if complete or offset + limit <= len(contents):
            assert read(BASE + offset, limit) == value
        else:  # neither its end nor the limit comes before the hole
            with pytest.raises(kdmp.UnreadableError):
                read(BASE + offset, limit)


def slow_string(memory, unit, limit):
    """(bytes before the zero unit, whether there was one) within `limit` bytes of memory."""
    out = b""
    for at in range(0, min(len(memory), limit) - unit + 1, unit):
        piece = bytes(memory[at : at + unit])
        if not any(piece):
            return out, True
        out += piece
    return out, False


@given(
    st.dictionaries(st.integers(1, 300), st.integers(0, 99), min_size=1, max_size=12),
    st.sampled_from([1, 2, 5, 6, 7, 8, 9, 10]),
)
def test_what_is_written_is_read(pages, kind):
    image = build(kind, {pfn: stamp(n) for pfn, n in pages.items()})
    with kdmp.open(image) as dump:
        assert {pfn: bytes(dump.pages[pfn]) for pfn in dump.pages} == {
            pfn: stamp(n) for pfn, n in pages.items()
        }
        assert dump.figures["pages_claimed"] in (0, len(pages))
        assert kind != FULL or dump.header["number_of_pages"] == len(pages)
