"""Every kind of PTE in every layout, with and without the L1TF swizzle, against the decoder of refptes.py.

The matrix builds each entry from its fields and knows what must come out; the random part lets
refptes.py, written from the tables of the `_MMPTE` types, say it.

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass

import pytest
import refptes
from archtables import MODES, ArchTables, dump
from dumpbuilder import PAGE, Memory, stamp
from refptes import LAYOUTS, bits, place, rights

import kdmp
from kdmp.freeptes import readings
from kdmp.symbols.mmpte import pte_layout

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

VA = 0x0040_3000
FRAME = 0x30
ROOT = {"pae": 0x1020}
RX, RW, WC = 3, 4, 5


def mask_for(layout):
    """An InvalidPteMask that falls into every field of the layout."""
    return 1 << 36 if layout.paging == "pae" else 1 << 45


@dataclass
class Entry:
    """An entry, the prototype PTE behind it, and what both come to."""

    value: int
    state: str
    behind: int | None = None
    pa: int | None = None
    rights: tuple = ()  # writable, executable, copy_on_write
    protection: int | None = None
    place: tuple = (None, None)  # page file and page in it


class Maker:
    """Entries of one layout from their fields; with `natural` every number has bits of the mask."""

    def __init__(self, layout, natural=False):
        self.layout, self.paging = layout, layout.paging
        self.extra = mask_for(layout) if natural else 0

    @property
    def frame(self):
        return FRAME * PAGE | self.extra & refptes.mask_of(self.layout.frame)

    @property
    def page(self):
        return 0x123 | self.extra >> self.layout.high[0]

    @property
    def address(self):
        """Of the prototype PTE."""
        address = 0xFFFF_9C20_1234_5600 if self.layout.pointer == 64 else 0x8C20_5600
        return address | (self.extra >> self.layout.address[0] if self.layout.address else 0)

    def software(self, protection, number=0, page=0):
        layout = self.layout
        return place(protection, *layout.protection) | place(number, *layout.low) | place(page, *layout.high)

    def transition(self, protection):
        return self.frame | 1 << refptes.TRANSITION | place(protection, *self.layout.protection)

    def prototype(self, protection=0, read_only=False, address=None):
        layout = self.layout
        address = self.address if address is None else address
        value = 1 << refptes.PROTOTYPE | read_only << layout.read_only
        if layout.prototype_protection:
            value |= place(protection, *layout.prototype_protection)
        if layout.split:
            low, high = layout.split
            return value | place(bits(address, 2, 9), *low) | place(bits(address, 10, 30), *high)
        low, high = layout.address
        return value | place(bits(address, 0, high - low), low, high)

    def subsection(self, protection):
        """The address 0x...9234_5670 in the layout's upper bits; none of the tests needs it."""
        upper = 0x9300 << 48 | 0x1234_5670 << 16 if self.layout.width == 64 else 0x1234_5800
        if self.layout.address and self.layout.address[0] == 32:
            upper = 0x8765_4320 << 32
        return upper | self.extra | 1 << refptes.PROTOTYPE | place(protection, *self.layout.protection)

    def marker(self, protection):
        layout = self.layout
        value = place((1 << layout.high[1] - layout.high[0] + 1) - 1, *layout.high) | 1 << refptes.PROTOTYPE
        if layout.prototype_protection:
            value |= place(protection, *layout.prototype_protection)
        return value | (1 << layout.swizzle if layout.swizzle else 0)

    def valid(self):
        return self.frame | MODES[self.paging].page

    def behind(self, protection):
        """Protection of a view: where the entry that points has no field for it, the prototype PTE's."""
        return protection if self.layout.prototype_protection else 0


VALID_RIGHTS = True, True, False  # of Maker.valid()
NOTHING = (None, None)


def hardware(m):
    return Entry(m.valid(), "valid", pa=m.frame, rights=VALID_RIGHTS)


def transition(m):
    return Entry(m.transition(WC), "transition", pa=m.frame, rights=rights(WC), protection=WC)


def to_valid(m):
    shown = m.behind(RX)
    granted = rights(RX) if shown else VALID_RIGHTS
    return Entry(m.prototype(RX), "prototype", m.valid(), m.frame, granted, shown)


def to_valid_read_only(m):
    shown = m.behind(RW)
    granted = (False, *(rights(RW) if shown else VALID_RIGHTS)[1:])
    return Entry(m.prototype(RW, True), "prototype", m.valid(), m.frame, granted, shown)


def to_valid_without_rights_of_its_own(m):
    return Entry(m.prototype(), "prototype", m.valid(), m.frame, VALID_RIGHTS, 0)


def to_transition(m):
    shown = m.behind(RW)
    return Entry(m.prototype(RW), "prototype", m.transition(WC), m.frame, rights(shown or WC), shown)


def to_subsection(m):
    return Entry(m.prototype(RX), "subsection", m.subsection(RX), protection=m.behind(RX))


def to_pagefile(m):
    where = 5, m.page
    return Entry(m.prototype(RW), "pagefile", m.software(RW, *where), protection=m.behind(RW), place=where)


def to_demand_zero(m):
    return Entry(m.prototype(RW), "demand_zero", m.software(RW), protection=m.behind(RW))


def to_zero(m):
    return Entry(m.prototype(RW), "zero", 0, protection=m.behind(RW))


def to_marker(m):
    return Entry(m.prototype(RW), "vad", m.marker(RW), protection=m.behind(RW))


def to_nowhere(m):
    return Entry(m.prototype(RX, address=m.address + 0x10_0000), "prototype", None, protection=m.behind(RX))


def vad(m):
    return Entry(m.marker(RX), "vad", protection=m.behind(RX))


def vad_without_the_prototype_bit(m):
    return Entry(m.marker(0) ^ 1 << refptes.PROTOTYPE | m.software(RW), "vad", protection=RW)


def pagefile(m):
    return Entry(m.software(RW, 15, m.page), "pagefile", protection=RW, place=(15, m.page))


def pagefile_page_0(m):
    return Entry(m.software(RW, 1, 0), "pagefile", protection=RW, place=(1, 0))


def pagefile_0(m):
    return Entry(m.software(WC, 0, m.page), "pagefile", protection=WC, place=(0, m.page))


def demand_zero(m):
    return Entry(m.software(RW), "demand_zero", protection=RW)


def guard(m):
    return Entry(m.software(RW | 0x10), "demand_zero", protection=RW | 0x10)


def zero(m):
    return Entry(0, "zero")


KINDS = (
    hardware, transition, to_valid, to_valid_read_only, to_valid_without_rights_of_its_own, to_transition,
    to_subsection, to_pagefile, to_demand_zero, to_zero, to_marker, to_nowhere, vad,
    vad_without_the_prototype_bit, pagefile, pagefile_page_0, pagefile_0, demand_zero, guard, zero,
)  # fmt: skip

# How the kernel wrote it, and what the reader is told: (mask of the kernel, natural bits, reader's mask).
SWIZZLES = {
    "not swizzled": lambda m: (0, False, None),
    "mask is 0": lambda m: (0, False, 0),
    "swizzled": lambda m: (m, False, m),
    "bits of its own": lambda m: (m, True, m),
    "swizzled, mask unknown": lambda m: (refptes.USUAL_MASK, False, None),
    "no such bit": lambda m: (0, False, m),
}


def stored(value, layout, mask):
    """As a kernel with this mask writes it: the mask is added, or SwizzleBit tells that it was there."""
    if not mask or value == 0 or value & 1 or refptes.looks_in_vad(value, layout):
        return value
    return value | 1 << layout.swizzle if value & mask else value | mask


def reader_of(layout, value, behind=None, address=None, level=1, mask=None, frame=FRAME):
    memory = Memory()
    root = ROOT.get(layout.paging, 0x1000)
    tables = ArchTables(memory, layout.paging, root=root)
    tables.raw(VA, value, level)
    if address is not None:
        tables.map(address & ~0xFFF, 0x4_0000)
        tables.store(0x4_0000 | address & 0xFFF, behind or 0)
    memory.page(frame)[:] = stamp(frame & 0xFFFF_FFFF)
    opened = kdmp.open(dump(memory.pages, layout.paging, root))
    return kdmp.Reader(
        opened, paging=layout.paging, dtb=root, invalid_pte_mask=mask, pte_format=layout.format
    )


MATRIX = [
    (layout, swizzle)
    for layout in LAYOUTS
    for swizzle in SWIZZLES
    if (swizzle != "no such bit" if layout.swizzle else swizzle in ("not swizzled", "no such bit"))
]


@pytest.mark.parametrize("noise", [False, True], ids=["plain", "noise"])
@pytest.mark.parametrize("layout, swizzle", MATRIX, ids=lambda x: getattr(x, "name", x))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_matrix(kind, layout, swizzle, noise):
    kernel_mask, natural, told = SWIZZLES[swizzle](mask_for(layout))
    maker = Maker(layout, natural)
    want = kind(maker)
    value, behind = want.value, want.behind
    if noise and value:
        value |= noise_of(value, layout)
    value = stored(value, layout, kernel_mask)
    behind = behind and stored(behind, layout, kernel_mask)
    address = maker.address if want.behind is not None else None
    reader = reader_of(layout, value, behind, address, mask=told, frame=(want.pa or 0x30_000) >> 12)
    check(reader, want, value, behind, address)


def noise_of(value, layout):
    """All bits that mean nothing for this kind of entry."""
    if value & 1 or refptes.looks_in_vad(value, layout):
        return 0
    if value >> refptes.PROTOTYPE & 1:
        return layout.noise_prototype
    return layout.noise_transition if value >> refptes.TRANSITION & 1 else layout.noise_software


def check(reader, want, value, behind, address):
    if want.pa is None:
        with pytest.raises(kdmp.NotPresentError) as caught:
            reader.translate(VA)
        exc = caught.value
        assert (exc.state, exc.level, exc.entry) == (want.state, 1, value)
        assert (exc.pagefile, exc.pagefile_page) == want.place
        assert exc.protection == want.protection
        assert (exc.prototype, exc.prototype_value) == (address, behind)
        assert reader.try_read_exact(VA, 8) is None
        return
    got = reader.translate(VA + 0x21)
    assert (got.state, got.pa, got.page_size, got.level) == (want.state, want.pa | 0x21, PAGE, 1)
    assert (got.writable, got.executable, got.copy_on_write) == want.rights
    assert got.protection == want.protection
    assert (got.prototype, got.prototype_value) == (address, behind)
    assert got.transition == (want.state == "transition")
    if want.state != "valid":
        assert got.hardware_writable is False
    assert reader.read_exact(VA, PAGE) == stamp(want.pa >> 12 & 0xFFFF_FFFF)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_transition_comes_before_the_look_up_in_the_vad(layout):
    """A frame all of whose bits are set is still a frame (the highest there can be)."""
    value = refptes.mask_of(layout.high) | refptes.mask_of(layout.frame) | 1 << refptes.TRANSITION
    value |= 1 << layout.swizzle if layout.swizzle else 0
    got = reader_of(layout, value, mask=0).translate(VA)
    assert (got.state, got.pa) == ("transition", refptes.mask_of(layout.frame))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("kind", [to_valid, vad, pagefile, demand_zero], ids=lambda kind: kind.__name__)
def test_page_directory_entries(kind, layout):
    """Page tables can be paged out, too; but no page table is behind a prototype PTE."""
    want = kind(Maker(layout))
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader_of(layout, want.value, level=2, mask=0).translate(VA)
    exc = caught.value
    assert (exc.state, exc.level, exc.entry) == (
        "prototype" if kind is to_valid else want.state,
        2,
        want.value,
    )
    assert (exc.pagefile, exc.pagefile_page) == want.place
    assert exc.prototype is None


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_default_layout(layout):
    """Without a format a reader takes that of current builds of its paging mode."""
    reader = reader_of(layout, 0)
    plain = kdmp.Reader(reader.dump, paging=layout.paging, dtb=reader.dtb)
    assert (reader.pte_format, plain.pte_format) == (layout.format, None)
    default = refptes.DEFAULT[layout.paging]
    for value in (Maker(default).software(RW, 3, 0x77), Maker(default).prototype(RX)):
        for kind in (None, default.format):
            other = reader_of(default, value, mask=0)
            other = kdmp.Reader(
                other.dump, paging=default.paging, dtb=other.dtb, invalid_pte_mask=0, pte_format=kind
            )
            with pytest.raises(kdmp.NotPresentError) as caught:
                other.translate(VA)
            soft = refptes.decode(value, default, 0)
            assert (caught.value.state, caught.value.pagefile_page) == (soft.state, soft.page)
            assert caught.value.protection == soft.protection


@pytest.mark.parametrize(
    "change, error",
    [
        ((0, 0), ValueError),  # no frame mask
        ((1, 64), ValueError),
        ((2, 59), ValueError),
        ((3, 59), ValueError),
        ((4, 64), ValueError),
        ((5, 64), ValueError),
        ((7, 60), ValueError),
        ((8, 64), ValueError),
        ((2, 256), OverflowError),
        ((2, -1), OverflowError),
        ((0, "12"), TypeError),
        ((3, None), TypeError),
    ],
)
def test_impossible_formats_are_refused(change, error):
    numbers = list(refptes.X64_NEW.format)
    numbers[change[0]] = change[1]
    opened = reader_of(refptes.X64_NEW, 0).dump
    with pytest.raises(error):
        kdmp.Reader(opened, paging="x64", dtb=0x1000, pte_format=tuple(numbers))
    with pytest.raises(TypeError):
        kdmp.Reader(opened, paging="x64", dtb=0x1000, pte_format=tuple(numbers[:8]))
    with pytest.raises(TypeError):
        kdmp.Reader(opened, paging="x64", dtb=0x1000, pte_format=numbers)


# ---- random values ----


@st.composite
def raw_entries(draw, layout):
    """Values whose valid bit is 0; often with nothing, or everything, in the upper half."""
    value = draw(st.integers(0, (1 << layout.width) - 1)) & ~1
    shape = draw(st.sampled_from("rrrrhlmoz"))
    upper = refptes.mask_of((layout.high[0], layout.width - 1))
    if shape == "h":
        value &= ~upper
    elif shape == "l":
        value &= upper | 0xC00 | (1 << layout.swizzle if layout.swizzle else 0)
    elif shape == "m":
        value = value & ~upper | mask_for(layout) & upper
    elif shape == "o":
        value |= upper
    elif shape == "z":
        value &= 0x3E0 | refptes.mask_of(layout.protection)
    return value


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(st.data())
def test_random_entries(layout, data):
    values = data.draw(st.lists(raw_entries(layout), min_size=1, max_size=40))
    mask = data.draw(st.sampled_from([None, 0, mask_for(layout), mask_for(layout) | 1 << 44]))
    memory = Memory()
    root = ROOT.get(layout.paging, 0x1000)
    tables = ArchTables(memory, layout.paging, root=root)
    for k, value in enumerate(values):
        tables.raw(VA + k * PAGE, value)
        directory = (1 + k) << MODES[layout.paging].shifts[1]
        tables.raw(directory + (1 << 23), value, 2)
    image = dump(memory.pages, layout.paging, root)
    with kdmp.open(image) as opened:
        reader = kdmp.Reader(
            opened, paging=layout.paging, dtb=root, invalid_pte_mask=mask, pte_format=layout.format
        )
        for k, value in enumerate(values):
            soft = refptes.decode(value, layout, mask)
            check_random(reader, VA + k * PAGE, value, soft, 1, layout)
            if soft.state != "transition":
                directory = (1 + k) << MODES[layout.paging].shifts[1]
                check_random(reader, directory + (1 << 23), value, soft, 2, layout)


def free_readings(value, layout, mask):
    """What kdmp reads, without the fields that the oracle does not have."""
    number, new = refptes.FREE[layout].build
    known = pte_layout(None, layout.paging, number, swizzle=new)
    assert known.swizzle == new
    names = {"OneEntry", "NextEntry", "GlobalTimeStamp", "PageFileLow", "Protection"}
    found = readings(value, known, mask)
    found.get("list", {}).pop("Protection", None)  # named in some of the layouts only
    return {kind: {name: fields[name] for name in names & fields.keys()} for kind, fields in found.items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(st.data())
def test_list_and_time_stamp_entries(layout, data):
    """Whatever is neither valid nor prototype nor transition, read as the other two kinds it can be."""
    value = data.draw(raw_entries(layout))
    if data.draw(st.booleans()):
        value &= ~0xC00
    mask = data.draw(st.sampled_from([None, 0, mask_for(layout), mask_for(layout) | 1 << 44]))
    assert free_readings(value, layout, mask) == refptes.decode_free(value, layout, mask), hex(value)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_list_entries_have_their_fields(layout):
    """Entries put together from their fields, stored as by a kernel with the mask, come apart again."""
    free, mask = refptes.FREE[layout], mask_for(layout)
    if free.next_entry is None:
        assert free_readings(1 << 40, layout, mask) == {}
        return
    widest = (1 << free.next_entry[1] - free.next_entry[0] + 1) - 1
    for following in (1, 0x1234, 0x8_1234 & widest, widest):
        for one in (0, 1):
            value = place(following, *free.next_entry) | one << free.one_entry
            got = free_readings(stored(value, layout, layout.swizzle and mask), layout, mask)
            assert got["list"] == {"NextEntry": following, "OneEntry": one}
    value = place(0x4321, *free.time_stamp) | place(2, *layout.low) | place(RW, *layout.protection)
    got = free_readings(stored(value, layout, layout.swizzle and mask), layout, mask)
    assert got["timestamp"] == {"GlobalTimeStamp": 0x4321, "PageFileLow": 2, "Protection": RW}


def check_random(reader, va, value, soft, level, layout):
    """Against the decoder; no prototype address leads anywhere, and no frame is in the dump by chance."""
    if soft.state == "transition":
        check_random_transition(reader, va, value, soft, layout)
        return
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(va)
    exc = caught.value
    assert (exc.state, exc.entry, exc.level) == (soft.state, value, level), hex(value)
    assert (exc.pagefile, exc.pagefile_page) == (soft.pagefile, soft.page), hex(value)
    assert exc.protection == soft.protection, hex(value)
    assert exc.prototype is None


def check_random_transition(reader, va, value, soft, layout):
    certain = reader.invalid_pte_mask is not None or not refptes.swizzled(value, layout)
    try:
        got = reader.translate(va)
    except kdmp.NotInDumpError as exc:
        assert not certain
        assert (exc.state, exc.level) == ("transition", 0)
        return
    if certain:
        assert got.pa == soft.frame, hex(value)
    else:  # one of the two readings is a frame of this dump
        assert got.pa in (soft.frame, refptes.decode(value, layout, 0).frame)
        assert got.pfn in reader.dump.pages
    assert (got.state, got.protection) == ("transition", soft.protection)
    assert (got.writable, got.executable, got.copy_on_write) == rights(soft.protection), hex(value)
