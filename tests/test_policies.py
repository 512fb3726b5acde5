"""What a reader may fall back on: zeros, page files, a second root; and prototype PTEs that lead astray.

SPDX-License-Identifier: MIT
"""

import os
import pickle

import pytest
import refptes
from agree import agree_on_walk
from archtables import ArchTables
from archtables import dump as arch_dump
from dumpbuilder import PAGE, PROTOTYPE, SWIZZLED, TRANSITION, Memory, P, Tables, U, W, stamp
from refreader import RefDump, RefSpace

import kdmp
from kdmp._kdmp import DumpBase

VA = 0x7FF0_0000_5000
POOL = 0xFFFF_9C20_1234_5000  # prototype PTEs are in this page, frame 0x40
RW = 4 << 5
L1TF = 1 << 45


def to(address, bits=RW):
    """An entry that points to the prototype PTE at `address`; its bits are its own."""
    return address << 16 & (1 << 64) - 1 | PROTOTYPE | SWIZZLED | bits


def paged_out(number, page):
    return page << 32 | number << 12 | RW | SWIZZLED


class World:
    """User pages at VA with the given entries, prototype PTEs at POOL, contents in frames 0x30 and 0x31."""

    def __init__(self, entries=(), prototypes=(), pool=True):
        self.memory = Memory()
        self.tables = Tables(self.memory)
        for k, value in enumerate(entries):
            self.tables.raw(VA + k * PAGE, value)
        for k, value in enumerate(prototypes):
            self.memory.put_u64(0x40000 + 8 * k, value)
        if pool:
            self.tables.map(POOL, 0x40000)
        self.memory.fill(0x30, 0x31)

    def open(self, **options):
        return DumpBase(self.memory.dump(), **options)

    def reader(self, pagefiles=None, **options):
        facts = {"paging": "x64", "dtb": 0x1000, **options}
        return kdmp.Reader(self.open(pagefiles=pagefiles), **facts)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def reason(reader, va=VA):
    with pytest.raises(kdmp.UnreadableError) as caught:
        reader.read_u8(va)
    return caught.value


# ---- zeros ----


@pytest.mark.parametrize(
    "value, behind",
    [(RW, None), (RW | 0x10 << 5, None), (RW | 7 << 1 | 1 << 16, None), (to(POOL), RW)],
    ids=["plain", "guard", "other bits", "by prototype"],
)
def test_zero_fill(value, behind):
    world = World([value, 0x30000 | P | W | U], [behind or 0])
    plain, filled = world.reader(), world.reader(zero_fill=True)
    assert (plain.zero_fill, filled.zero_fill) == (False, True)
    assert plain.read(VA, 16) == b""
    assert plain.is_readable(VA) is False
    assert reason(plain).state == "demand_zero"
    assert filled.read_exact(VA, PAGE) == bytes(PAGE)
    assert filled.is_readable(VA, PAGE + 1) is True
    assert filled.read_exact(VA + PAGE - 4, 8) == bytes(4) + stamp(0x30)[:4]
    assert filled.read_u64(VA + 8) == 0
    assert filled.read_cstr(VA) == ""
    assert filled.read_gaps(VA, 2 * PAGE) == (bytes(PAGE) + stamp(0x30), [])
    buffer = bytearray(b"\xcc" * 32)
    assert filled.read_into(VA + 5, buffer) == 32 and not any(buffer)
    with pytest.raises(kdmp.NotPresentError):  # there is no frame all the same
        filled.translate(VA)
    assert filled.try_translate(VA) is None


@pytest.mark.parametrize(
    "value, behind, state",
    [
        (0, None, "zero"),
        (paged_out(0, 5), None, "pagefile"),
        (0xFFFF_FFFF_0000_0430, None, "vad"),
        (to(POOL), 0, "zero"),
        (to(POOL), paged_out(1, 1), "pagefile"),
        (to(POOL), to(0x9300_1234_5678), "subsection"),
        (to(POOL + PAGE), None, "prototype"),
    ],
)
def test_zero_fill_is_for_demand_zero_only(value, behind, state):
    reader = World([value], [behind or 0]).reader(zero_fill=True)
    assert reader.try_read_exact(VA, 1) is None
    assert reason(reader).state == state


@pytest.mark.parametrize("level", [2, 3, 4])
def test_zero_fill_is_for_pages_not_for_tables(level):
    """A page table to be made on demand says nothing about the pages that it will map."""
    world = World()
    world.tables.raw(0x6000_0000_0000, RW, level)
    reader = world.reader(zero_fill=True)
    assert reason(reader, 0x6000_0000_0000).level == level


def test_zero_fill_does_not_invent_prototype_ptes():
    world = World([to(POOL)], pool=False)
    world.tables.raw(POOL, RW)
    reader = world.reader(zero_fill=True)
    assert reader.read_exact(POOL, 8) == bytes(8)
    error = reason(reader)
    assert (error.state, error.prototype) == ("prototype", None)


# ---- page files ----


@pytest.fixture
def pagefile(tmp_path):
    """Makes files of some pages; the n-th page is stamp(number * 0x100 + n)."""

    def make(number=0, pages=8, extra=0):
        path = tmp_path / f"pagefile{number}.sys"
        path.write_bytes(b"".join(stamp(number * 0x100 + n) for n in range(pages)) + bytes(extra))
        return path

    return make


def test_page_files_by_number(pagefile):
    entries = [paged_out(0, 3), paged_out(1, 0), paged_out(2, 7), paged_out(15, 1), 0x30000 | P]
    world = World(entries)
    paths = [None] * 16
    for number in (0, 2, 15):
        paths[number] = pagefile(number)
    reader = world.reader(pagefiles=paths)
    assert reader.read_exact(VA, PAGE) == stamp(3)
    assert reader.read_u32(VA + 0x10) == 3
    assert reader.read_exact(VA + 2 * PAGE, PAGE) == stamp(0x207)
    assert reader.read_exact(VA + 3 * PAGE, 2 * PAGE) == stamp(0xF01) + stamp(0x30)
    assert reader.read(VA, 5 * PAGE) == stamp(3)
    data, gaps = reader.read_gaps(VA, 5 * PAGE)
    assert [(gap.address, gap.size) for gap in gaps] == [(VA + PAGE, PAGE)]
    assert (gaps[0].reason.pagefile, gaps[0].reason.pagefile_page) == (1, 0)
    assert data[2 * PAGE :] == stamp(0x207) + stamp(0xF01) + stamp(0x30)
    with pytest.raises(kdmp.NotPresentError):
        reader.translate(VA)


@pytest.mark.parametrize("io", ["map", "read"])
def test_pages_beyond_the_end(io, pagefile):
    """Only whole pages: what the file has of a last one is not believed."""
    world = World([paged_out(0, 2), paged_out(0, 3), paged_out(0, 4), paged_out(0, 0xFFFF_FFFE)])
    opened = DumpBase(world.memory.dump(), io=io, pagefiles=[pagefile(0, 3, extra=PAGE - 1)])
    reader = kdmp.Reader(opened, paging="x64", dtb=0x1000)
    assert reader.read_exact(VA, PAGE) == stamp(2)
    for k, page in ((1, 3), (2, 4), (3, 0xFFFF_FFFE)):
        error = reason(reader, VA + k * PAGE)
        assert (type(error), error.state) == (kdmp.NotPresentError, "pagefile")
        assert (error.pagefile, error.pagefile_page) == (0, page)


def test_page_file_behind_a_prototype_pte(pagefile):
    world = World([to(POOL), to(POOL + 8)], [paged_out(1, 2), paged_out(1, 99)])
    reader = world.reader(pagefiles=[None, pagefile(1)])
    assert reader.read_exact(VA + 0x20, 4) == stamp(0x102)[0x20:0x24]
    error = reason(reader, VA + PAGE)
    assert (error.prototype, error.pagefile, error.pagefile_page) == (POOL + 8, 1, 99)


def test_swizzled_page_number(pagefile):
    """Bit 45 of the entry is bit 13 of the page number (pitfalls F5, F16)."""
    path = pagefile(0)
    for mask in (None, L1TF):
        reader = World([5 << 32 | RW | L1TF]).reader(pagefiles=[path], invalid_pte_mask=mask)
        assert reader.read_exact(VA, PAGE) == stamp(5)
    for value, mask in ((5 << 32 | RW | L1TF | SWIZZLED, L1TF), (5 << 32 | RW | L1TF, 0)):
        reader = World([value]).reader(pagefiles=[path], invalid_pte_mask=mask)
        assert reason(reader).pagefile_page == 5 | 1 << 13


def test_page_file_of_an_old_layout(pagefile):
    """F16: until the swizzle bit came, the number of the page file was in bits 1-4."""
    value = 2 << 32 | 3 << 1 | RW | 0xF << 12
    paths = [pagefile(n) for n in range(16)]
    old = World([value]).reader(pagefiles=paths, pte_format=refptes.X64_OLD10.format)
    new = World([value]).reader(pagefiles=paths)
    assert old.read_exact(VA, 8) == stamp(0x302)[:8]
    assert new.read_exact(VA, 8) == stamp(0xF02)[:8]


def test_paged_out_page_tables_are_not_read(pagefile):
    world = World()
    world.tables.raw(0x6000_0000_0000, paged_out(0, 1), 2)
    error = reason(world.reader(pagefiles=[pagefile()]), 0x6000_0000_0000)
    assert (error.level, error.pagefile, error.pagefile_page) == (2, 0, 1)


def test_prototype_ptes_are_not_in_page_files(pagefile):
    world = World([to(POOL)], pool=False)
    world.tables.raw(POOL, paged_out(0, 1))
    reader = world.reader(pagefiles=[pagefile()])
    assert reader.read_exact(POOL, 8) == stamp(1)[:8]
    assert (reason(reader).state, reason(reader).prototype) == ("prototype", None)


@pytest.mark.parametrize("paging", ["x86", "pae", "arm64"])
def test_page_files_of_other_machines(paging, pagefile):
    layout = refptes.DEFAULT[paging]
    value = refptes.place(2, *layout.low) | refptes.place(6, *layout.high) | 4 << layout.protection[0]
    memory = Memory()
    root = 0x1020 if paging == "pae" else 0x1000
    ArchTables(memory, paging, root=root).raw(0x40_3000, value)
    opened = DumpBase(arch_dump(memory.pages, paging, root), pagefiles=[None, None, pagefile(2)])
    reader = kdmp.Reader(opened, paging=paging, dtb=root)
    assert reader.read_exact(0x40_3000, PAGE) == stamp(0x206)


def test_page_files_that_cannot_be_had(tmp_path, pagefile):
    world = World([paged_out(0, 1)])
    good = pagefile()
    with pytest.raises(FileNotFoundError) as caught:
        world.open(pagefiles=[good, tmp_path / "missing.sys"])
    assert "missing.sys" in str(caught.value.filename)
    with pytest.raises(IsADirectoryError):
        world.open(pagefiles=[tmp_path])
    with pytest.raises(ValueError):
        world.open(pagefiles=[good] * 17)
    for wrong in (7, [7], [good, 1.5], [b"a\0b"]):
        with pytest.raises((TypeError, ValueError)):
            world.open(pagefiles=wrong)
    for none in (None, [], [None], [None] * 16, ()):
        with world.open(pagefiles=none) as dump:
            assert reason(kdmp.Reader(dump, paging="x64", dtb=0x1000)).state == "pagefile"
    empty = tmp_path / "empty.sys"
    empty.touch()
    assert reason(world.reader(pagefiles=[empty])).pagefile_page == 1


def test_paths_of_all_kinds(pagefile):
    path = pagefile()
    for given in (path, str(path), os.fsencode(path)):
        assert World([paged_out(0, 1)]).reader(pagefiles=(given,)).read_exact(VA, PAGE) == stamp(1)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_page_files_are_closed_with_the_dump(pagefile):
    world = World([paged_out(0, 1)])
    before = descriptors()
    for io in ("map", "read"):
        opened = DumpBase(world.memory.dump(), io=io, pagefiles=[pagefile(n) for n in range(16)])
        reader = kdmp.Reader(opened, paging="x64", dtb=0x1000)
        assert reader.read_exact(VA, PAGE) == stamp(1)
        opened.close()
        assert descriptors() == before
        with pytest.raises(ValueError):
            reader.read_u8(VA)
        opened.close()
    with pytest.raises(OSError):
        world.open(pagefiles=[pagefile(0), "/no/such/file"])
    assert descriptors() == before


def test_a_page_file_is_not_written(pagefile):
    path = pagefile()
    content = path.read_bytes()
    path.chmod(0o444)
    assert World([paged_out(0, 1)]).reader(pagefiles=[path]).read_exact(VA, 4) == stamp(1)[:4]
    assert path.read_bytes() == content


# ---- a second root ----


def two_roots(prototypes, own=None):
    """User tables at 0x1000 that do not map POOL (or map it as `own`), the kernel's at 0x9000 that do."""
    world = World([to(POOL), to(POOL + 8)], prototypes, pool=False)
    Tables(world.memory, root=0x9000, spare=0x10).map(POOL, 0x40000)
    if own is not None:
        world.tables.raw(POOL, own)
    return world


def test_second_root():
    world = two_roots([0x30000 | P, 0x31000 | TRANSITION | RW])
    assert reason(world.reader()).state == "prototype"
    reader = world.reader(kernel_dtb=0x9000)
    assert (reader.kernel_dtb, world.reader().kernel_dtb) == (0x9000, None)
    assert reader.read_exact(VA, 2 * PAGE) == stamp(0x30) + stamp(0x31)
    got = reader.translate(VA)
    assert (got.state, got.prototype, got.prototype_value, got.dtb) == ("prototype", POOL, 0x30001, 0x1000)
    assert reader.try_read_exact(POOL, 8) is None, "the second root is for prototype PTEs only"


@pytest.mark.parametrize("own", [0, RW, 0x99000 | P, paged_out(0, 1), to(POOL), 0x99000 | TRANSITION])
def test_second_root_where_the_own_one_fails(own):
    reader = two_roots([0x30000 | P], own).reader(kernel_dtb=0x9000, zero_fill=True)
    assert reader.read_exact(VA, PAGE) == stamp(0x30)


def test_own_root_comes_first():
    world = two_roots([0x30000 | P], 0x41000 | P)
    world.memory.put_u64(0x41000, 0x31000 | P)
    assert world.reader(kernel_dtb=0x9000).read_exact(VA, PAGE) == stamp(0x31)


@pytest.mark.parametrize("root", [0x99000, 0x30000, 2**64 - 1, 0x1000, 0x40000])
def test_second_root_that_is_none(root):
    reader = two_roots([0x30000 | P]).reader(kernel_dtb=root)
    assert reason(reader).state == "prototype"


# ---- prototype PTEs that lead astray ----

BAD_ADDRESSES = [
    0,
    8,
    0x7FF0_0000_5000,  # user half
    0x7FFF_FFFF_FFF8,
    POOL + 1,
    POOL + 4,
    POOL + PAGE,  # nothing there
    0xFFFF_8000_0000_0000,
    0xFFFF_FFFE_FFFF_FFF8,
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
@pytest.mark.parametrize("kernel_dtb", [0, 0x1000])
def test_addresses_that_lead_nowhere(address, kernel_dtb):
    value = to(address)
    world = World([value], [0x30000 | P] * 8)
    world.tables.map(0, 0x40000)  # a word that looks like a good one at each of the user addresses
    world.tables.map(0x7FFF_FFFF_F000, 0x40000)
    reader = world.reader(kernel_dtb=kernel_dtb, zero_fill=True)
    error = reason(reader)
    assert (error.state, error.entry, error.prototype, error.prototype_value) == (
        "prototype", value, None, None,
    )  # fmt: skip


def test_prototype_address_is_never_within_the_hole():
    """48 bits, sign-extended, are canonical; under LA57 they are, too."""
    for number in (1 << 47, (1 << 48) - 8, 1 << 46, 8):
        address = refptes.prototype_address(number << 16, refptes.X64_NEW)
        assert address >> 47 in (0, (1 << 17) - 1)


@pytest.mark.parametrize(
    "behind",
    [to(POOL), to(POOL + 8), to(VA), to(0xFFFF_9C20_1234_5000, 0)],
    ids=["itself", "another", "user", "no rights"],
)
def test_prototype_of_a_prototype_is_a_file_page(behind):
    """In an array of prototype PTEs the bit means a subsection; nothing is followed from there."""
    reader = World([to(POOL)], [behind, 0x30000 | P]).reader()
    error = reason(reader)
    assert (error.state, error.prototype, error.prototype_value) == ("subsection", POOL, behind)


def test_prototype_pte_on_a_page_that_is_shared_itself():
    """One level: the page with the prototype PTE may not be behind one again."""
    world = World([to(POOL)], [0x30000 | P], pool=False)
    world.tables.raw(POOL, to(0xFFFF_9C20_1234_6000))
    world.tables.map(0xFFFF_9C20_1234_6000, 0x41000)
    world.memory.put_u64(0x41000, 0x40000 | P | W)
    reader = world.reader()
    assert reader.read_u64(POOL) == 0x30000 | P, "a page behind a prototype PTE as any other"
    assert (reason(reader).state, reason(reader).prototype) == ("prototype", None)


def test_pages_that_point_to_their_own_entries():
    """Through the self map an entry can be its own prototype PTE; or two entries each other's."""
    world = World()
    world.tables.raw(0xFFFF_F680_0000_0000, 0x1000 | P | W, 4)
    own = 0xFFFF_F680_0000_0000 + (VA >> 12) * 8
    world.tables.raw(VA, to(own))
    world.tables.raw(VA + PAGE, to(own + 16))
    world.tables.raw(VA + 2 * PAGE, to(own + 8))
    reader = world.reader()
    for k, there in enumerate((own, own + 16, own + 8)):
        error = reason(reader, VA + k * PAGE)
        assert (error.state, error.prototype) == ("subsection", there)
        assert error.prototype_value == reader.read_u64(there)
    image = world.memory.dump()
    with kdmp.open(image) as dump:
        for va in (VA, VA + PAGE):
            agree_on_walk(dump.reader(), RefSpace(RefDump(image), 0x1000), va)


def test_a_kernel_page_behind_a_prototype_pte_that_maps_it():
    """The prototype PTE's own page is the page that it describes."""
    world = World([to(POOL)], [0x40000 | P], pool=True)
    reader = world.reader()
    assert reader.read_u64(VA) == 0x40000 | P


@pytest.mark.parametrize("frame", [0x99, 1 << 30, (1 << 40) - 1])
@pytest.mark.parametrize("bits", [P, TRANSITION | SWIZZLED | RW])
def test_frames_that_are_not_in_the_dump(frame, bits):
    reader = World([to(POOL)], [frame * PAGE | bits]).reader(invalid_pte_mask=0)
    assert reader.translate(VA + 3).pa == frame * PAGE + 3
    error = reason(reader)
    assert (type(error), error.pa, error.level) == (kdmp.NotInDumpError, frame * PAGE, 0)
    assert (error.prototype, error.prototype_value) == (POOL, frame * PAGE | bits)


def test_two_readings_of_an_address():
    """With the mask unknown an address with bit 29 may have got it from the L1TF mitigation: no guess."""
    other = POOL | 1 << 29
    value = to(other) & ~SWIZZLED

    def reader(plain, raw, mask=None):
        world = World([value], [plain] if plain is not None else [], pool=plain is not None)
        if raw is not None:
            world.tables.map(other & ~0xFFF, 0x41000)
            world.memory.put_u64(0x41000, raw)
        return world.reader(invalid_pte_mask=mask)

    one, two = 0x30000 | P, 0x31000 | P
    assert reader(one, None).translate(VA).prototype == POOL
    assert reader(None, two).translate(VA).prototype == other
    assert reader(one, 0).translate(VA).prototype == POOL
    assert reader(0, two).translate(VA).prototype == other
    assert reader(one, 0x99000 | P).translate(VA).prototype == POOL
    assert (reason(reader(one, two)).state, reason(reader(one, two)).prototype) == ("prototype", None)
    assert reason(reader(0, 0)).prototype is None
    for mask, expected in ((L1TF, POOL), (0, other)):
        assert reader(one, two, mask).translate(VA).prototype == expected
    assert reader(None, two, L1TF).translate(VA).prototype == other, "un-swizzled it cannot be read"


def test_prototypes_of_32_bit_machines():
    """PAE has 32 bits of address, non-PAE two parts; both in the kernel half only."""
    for paging, size in (("pae", 8), ("x86", 4)):
        layout = refptes.DEFAULT[paging]
        for address, works in ((0x8C20_5600, True), (0x8C20_5600 + size // 2, False), (0x4C20_5600, False)):
            if layout.split:
                value = 0x400 | (address >> 10 & 0x1F_FFFF) << 11 | (address >> 2 & 0xFF) << 1
                if address >> 31 == 0 or address % 4:
                    continue  # cannot be written
            else:
                value = 0x400 | address << 32 | 0x10
            memory = Memory()
            root = 0x1020 if paging == "pae" else 0x1000
            tables = ArchTables(memory, paging, root=root)
            tables.raw(0x40_3000, value)
            tables.map(address & ~0xFFF, 0x40000)
            tables.store(0x40000 | address & 0xFF8, 0x30063)
            memory.fill(0x30)
            reader = kdmp.open(arch_dump(memory.pages, paging, root)).reader(paging=paging)
            got = reader.try_translate(0x40_3000)
            assert (got is not None) == works, (paging, hex(address))
            if works:
                assert (got.pa, got.prototype, got.prototype_value) == (0x30000, address, 0x30063)


def test_arm64_kernel_and_user_execution():
    """Who executes a shared page is decided by the half of the address, not by the prototype PTE's place."""
    for value, user, kernel in ((1 << 54, False, True), (1 << 53, True, False), (3 << 53, False, False)):
        memory = Memory()
        tables = ArchTables(memory, "arm64")
        address = 0xFFFF_9C20_1234_5000
        for va in (0x40_3000, 0xFFFF_8000_0000_3000):
            tables.raw(va, address << 16 & (1 << 64) - 1 | 0x400)
        tables.map(address, 0x40000)
        tables.store(0x40000, 0x30703 | value)
        reader = kdmp.open(arch_dump(memory.pages, "arm64", 0x1000)).reader()
        got = reader.translate(0x40_3000)
        assert (got.executable, got.kernel_executable) == (user, kernel), hex(value)
        got = reader.translate(0xFFFF_8000_0000_3000)
        assert (got.executable, got.kernel_executable) == (kernel, kernel), hex(value)


# ---- readers keep what they were told ----


def test_other_readers_keep_the_policy(tmp_path):
    world = World([RW])
    path = tmp_path / "policy.dmp"
    path.write_bytes(world.memory.dump())
    options = {
        "kernel_dtb": 0x9000, "zero_fill": True, "pte_format": refptes.X64_OLD10.format,
        "invalid_pte_mask": L1TF,
    }  # fmt: skip
    with kdmp.open(path) as dump:
        reader = kdmp.Reader(dump, paging="x64", dtb=0x1000, **options)
        copy = pickle.loads(pickle.dumps(reader))
        for other in (reader.at(0x2000), copy):
            assert {name: getattr(other, name) for name in options} == options
        assert reader.at(0x1000).read_exact(VA, 4) == bytes(4)
        copy.dump.close()


def test_pickled_dumps_keep_their_page_files(tmp_path, pagefile):
    path = tmp_path / "policy.dmp"
    path.write_bytes(World([paged_out(0, 1)]).memory.dump())
    with kdmp.Dump(path, pagefiles=[pagefile()]) as dump, pickle.loads(pickle.dumps(dump)) as copy:
        assert kdmp.Reader(copy, paging="x64", dtb=0x1000).read_exact(VA, 4) == stamp(1)[:4]


def test_values_of_shared_pages(small_image):
    """Equality, pickling and text of a Translation by way of a prototype PTE."""
    world = World([to(POOL), to(POOL + 8)], [0x30000 | P, 0x30000 | P])
    reader = world.reader()
    one, two = reader.translate(VA), reader.translate(VA + PAGE)
    assert one == reader.translate(VA) and one != two
    again = pickle.loads(pickle.dumps(one))
    assert again == one and hash(again) == hash(one)
    assert (again.prototype, again.prototype_value) == (POOL, 0x30000 | P)
    assert "prototype" in repr(one)
    assert (one.protection, one.transition) == (4, False)
    plain = kdmp.open(small_image).reader(dtb=0x1000, paging="x64").translate(0xFFFF_F800_0000_0000)
    assert (plain.prototype, plain.prototype_value) == (None, None)
    with pytest.raises(kdmp.NotPresentError) as caught:
        World([to(POOL)], [paged_out(3, 9)]).reader().translate(VA)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.prototype, copy.pagefile, copy.pagefile_page, copy.protection) == (POOL, 3, 9, 4)
