"""The walks of x86, PAE, LA57 and ARM64 against slow walkers, and how a dump's paging is chosen.

Levels count from the leaf: 1 is the leaf's table, 4 or 5 the root. "executable" on ARM64 is PXN's word
for the kernel half and UXN's for the user half.

SPDX-License-Identifier: MIT
"""

import random
from collections import Counter

import pytest
import refreader as ref
from agree import agree_on_gaps, agree_on_read, agree_on_walk, entries
from archtables import MODES, ArchTables, dump, error_of, put_kdbg, put_list, put_number
from dumpbuilder import PAGE, Memory
from refwalkers import WALKERS, Frames

import kdmp

ADDRESSES = 160_000  # of all runs together
RUNS = [
    ("x86", None), ("pae", None), ("pae", 1 << 37), ("pae", 0),
    ("la57", None), ("la57", 1 << 45), ("arm64", None), ("x64", None),
]  # fmt: skip
FRAMES = [*range(1, 40), 0x80, 0x81, 0xFFFFE]
HIGH = (0x0012_3456, 0x0200_0000 >> 12)  # frames that are in no dump


def without_prototype(value, size):
    """A prototype reference that nobody can follow: to the user half. The walkers here do not."""
    return value & ~(1 << 63) if size == 64 and value & 0x401 == 0x400 else value


def followed(reader, walker, va):
    """Whether kdmp finds a prototype PTE there by its address (x86: by chance), which is another test's."""
    walk = walker.walk(va)
    if (walk.state, walk.level) != ("prototype", 1):
        return False
    try:
        return reader.translate(va).prototype is not None
    except kdmp.TranslationError as exc:
        return getattr(exc, "prototype", None) is not None


def random_entry(rng, paging):
    """An entry that mostly leads on: tables, pages, software states, and garbage."""
    size = 8 * MODES[paging].entry
    frame = rng.choice(HIGH if rng.random() < 0.04 else FRAMES)
    if paging == "x86":
        frame &= 0xFFFFF
    choice = rng.random()
    if choice < 0.04:
        return 0
    if choice < 0.09:
        return without_prototype(rng.getrandbits(size), size)
    low = rng.getrandbits(12)
    high = rng.getrandbits(12) << 52 if size == 64 and rng.random() < 0.6 else 0
    if choice < 0.12:  # demand zero: nothing but a protection
        return rng.getrandbits(5) << (1 if paging == "arm64" else 5)
    if choice < 0.24:  # software: transition, prototype, demand zero, page file
        value = rng.choice((frame << 12, frame << 12, 0, rng.getrandbits(16) << (32 if size == 64 else 12)))
        value |= low & ~1
        if size == 64 and rng.random() < 0.35:
            value |= 1 << rng.choice((37, 45))
        return without_prototype(value & ~1, size)
    if paging == "arm64":
        kind = 3 if rng.random() < 0.85 else 1
        return frame << 12 | low & ~3 | kind | high
    if rng.random() < 0.8:
        low &= ~0x80  # no large page
    if rng.random() < 0.1:
        frame |= rng.getrandbits(9)
    return (frame << 12 | low | 1 | high) & (1 << size) - 1


def random_pdpte(rng):
    choice = rng.random()
    if choice < 0.08:
        return 0
    if choice < 0.2:
        return rng.getrandbits(64)
    value = rng.choice(FRAMES) << 12 | 1 | rng.choice((0, 0, 8, 0x10, 0xE00))
    if choice < 0.3:
        value |= rng.choice((2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63))
    return value


def random_space(rng, paging):
    """(memory, frames lost to truncation, roots)."""
    memory = Memory()
    size = MODES[paging].entry
    for pfn in FRAMES:
        page = memory.page(pfn)
        for at in range(0, PAGE, size):
            page[at : at + size] = random_entry(rng, paging).to_bytes(size, "little")
    if paging != "pae":
        return memory, [pfn << 12 | rng.getrandbits(12) for pfn in rng.sample(FRAMES[:39], 3)]
    roots = [rng.choice(FRAMES[:39]) << 12 | rng.randrange(1, 128) << 5 for _ in range(12)]
    for root in roots:
        for k in range(4):
            memory.put_u64(root + 8 * k, random_pdpte(rng))
    return memory, [root | rng.getrandbits(5) for root in roots]


def random_address(rng, paging):
    if MODES[paging].machine == 0x14C:
        return rng.getrandbits(32) if rng.random() < 0.99 else rng.getrandbits(40) | 1 << 32
    if rng.random() < 0.01:
        return rng.getrandbits(64)
    width = MODES[paging].shifts[-1] + 9
    va = rng.getrandbits(width)
    return va | (1 << 64) - (1 << width) if va >> width - 1 else va


@pytest.mark.parametrize("paging, mask", RUNS)
def test_random_tables(paging, mask):
    rng = random.Random(f"{paging} {mask}")
    seen, count = Counter(), ADDRESSES // len(RUNS)
    images = 3
    for _ in range(images):
        memory, roots = random_space(rng, paging)
        image = dump(memory.pages, paging, roots[0])
        image = image[: len(image) - PAGE]  # the last frame is lost
        frames = Frames(memory.pages, lost=[max(FRAMES)])
        with kdmp.open(image) as opened:
            spaces = [
                (opened.reader(root, paging, invalid_pte_mask=mask), WALKERS[paging](frames, root, mask))
                for root in roots
            ]
            for number in range(count // images + 1):
                reader, walker = rng.choice(spaces)
                va = random_address(rng, paging)
                if followed(reader, walker, va):
                    seen["followed"] += 1
                    continue
                walk = agree_on_walk(reader, walker, va)
                seen[walk.status] += 1
                if walk.state:
                    seen[walk.state, walk.level] += 1
                if walk.status == ref.OK:
                    assert reader.translate(va).kernel_executable == walk.kernel_executable, hex(va)
                    seen["exec", walk.executable, walk.kernel_executable] += 1
                    seen["unswizzled"] += walk.unswizzled
                pages = [min(va + step, walker.last) for step in (0, 0x1000, 0x2000)]
                if number % 60 == 0 and not any(followed(reader, walker, page) for page in pages):
                    agree_on_read(reader, walker, va, 0x30)
                    agree_on_gaps(reader, walker, va & ~0xFFF | 0xFF0, 0x1020)
    top = len(MODES[paging].shifts)
    blocks = [2] if top < 4 else [2, 3]
    wanted = [ref.OK, ref.NOT_PRESENT, ref.NOT_IN_DUMP, ref.TRUNCATED, ref.NON_CANONICAL]
    wanted += [("valid", level) for level in (1, *blocks)]
    wanted += [(state, 1) for state in ("transition", "prototype", "demand_zero", "pagefile", "zero")]
    wanted += [("prototype", 2), ("pagefile", 2)]
    if paging != "x86":
        wanted += [ref.BAD_ENTRY, ("exec", True, True), ("exec", False, False)]
    if paging == "arm64":
        wanted += [("exec", True, False), ("exec", False, True), ("bad", 1), ("bad", 4)]
    if paging == "la57":
        wanted += [("bad", 4), ("bad", 5)]
    if (paging, mask) in (("la57", 1 << 45), ("x64", None)):
        wanted += ["unswizzled"]
    if (paging, mask) == ("pae", 1 << 37):
        wanted += ["unswizzled"]
    assert [what for what in wanted if seen[what] < 10] == [], seen
    assert seen["followed"] < count // 20


# ---- one case at a time ----


def space(paging, va, value, level=1, *, root=0x1000, mask=None, frames=(0x20,), tables_flags=None):
    """A reader of one page table whose entry of `va` at `level` is `value`."""
    memory = Memory()
    tables = ArchTables(memory, paging, root=root)
    tables.raw(va, value, level)
    memory.fill(*frames)
    if tables_flags:
        for upper, flags in tables_flags.items():
            where = tables.entry(va, upper)
            tables.store(where, tables.load(where) | flags)
    image = dump(memory.pages, paging, root)
    return kdmp.open(image).reader(paging=paging, invalid_pte_mask=mask)


def test_x86_4_mib_page():
    reader = space("x86", 0x8040_0000, 0x0080_0000 | 0xE3, 2, frames=(0xABC,))
    found = reader.translate(0x806B_C123)
    assert (found.pa, found.page_size, found.level, found.offset) == (0xABC123, 0x40_0000, 2, 0x2BC123)
    assert reader.read_u32(0x806B_C000 + 8 * 5 + 4) == 5  # stamp(): each 8-byte word ends in its number


def test_x86_pse36_and_pat():
    """Bits 13-20 of a 4 MiB entry are address bits 32-39, bit 12 is PAT and no address bit."""
    reader = space("x86", 0x8040_0000, 0xC000_0000 | 0xA5 << 13 | 1 << 12 | 0xE3, 2)
    found = reader.translate(0x8040_5678)
    assert (found.pa, found.pat) == (0xA5_C000_5678, True)


def test_x86_pdes_are_shared_by_both_halves_of_the_root_page():
    reader = space("x86", 0xFFFF_F000, 0x20063)
    assert reader.translate(0xFFFF_F010).pa == 0x20010
    assert [e.pa for e in reader.translate(0xFFFF_F010).entries] == [0x1FFC, 0x2FFC]


def test_x86_code_runs_everywhere():
    """Without PAE there is no NX bit: nothing forbids it."""
    assert space("x86", 0x1000, 0x20001).translate(0x1000).executable


@pytest.mark.parametrize("root", [0x1000, 0x1020, 0x1FE0, 0x1FFF])
def test_pae_root_is_32_byte_aligned(root):
    reader = space("pae", 0xC012_3000, 0x20063, root=root & ~0x1F)
    reader = reader.at(root)
    found = reader.translate(0xC012_3456)
    assert found.pa == 0x20456
    assert found.entries[0].pa == (root & ~0x1F) + 0x18


def test_pae_2_mib_page():
    found = space("pae", 0x8020_0000, 0x40_0000 | 1 << 12 | 0xE7, 2).translate(0x8034_5678)
    assert (found.pa, found.page_size, found.level, found.pat) == (0x54_5678, 0x20_0000, 2, True)
    assert found.user and found.writable


def test_pae_pdptes_have_no_rights():
    found = space("pae", 0x8000_1000, 0x20000 | 7).translate(0x8000_1000)
    assert found.entries[0].value & 0xFFF == 1
    assert found.writable and found.user and found.executable and found.hardware_writable


@pytest.mark.parametrize("number", [1, 2, 5, 6, 7, 8, 63])
def test_pae_pdpte_with_reserved_bits(number):
    reader = space("pae", 0x8000_1000, 0x20063, tables_flags={3: 1 << number})
    with pytest.raises(kdmp.BadEntryError) as caught:
        reader.translate(0x8000_1000)
    assert (caught.value.level, caught.value.state) == (3, "bad")


@pytest.mark.parametrize("number", [3, 4, 9, 10, 11])
def test_pae_pdpte_bits_that_mean_nothing(number):
    assert space("pae", 0x8000_1000, 0x20063, tables_flags={3: 1 << number}).translate(0x8000_1000)


def test_pae_nx_at_any_level():
    assert not space("pae", 0x1000, 0x20067 | 1 << 63).translate(0x1000).executable
    assert not space("pae", 0x1000, 0x20067, tables_flags={2: 1 << 63}).translate(0x1000).executable
    assert space("pae", 0x1000, 0x20067).translate(0x1000).executable


def test_pae_reaches_beyond_4_gib():
    found = space("pae", 0x1000, 0x12_3456_7000 | 0x63).translate(0x1ABC)
    assert found.pa == 0x12_3456_7ABC


def test_la57_top_index_and_canonical_form():
    va = 0xFF12_3456_789A_B000
    reader = space("la57", va, 0x20063)
    found = reader.translate(va + 5)
    assert (found.pa, len(found.entries), found.entries[0].level) == (0x20005, 5, 5)
    assert found.entries[0].pa == 0x1000 + 8 * (va >> 48 & 0x1FF)
    for wrong in (1 << 56, 0xFEFF_FFFF_FFFF_FFFF):
        assert isinstance(error_of(reader.translate, wrong), kdmp.NonCanonicalError)
    assert isinstance(error_of(reader.translate, (1 << 56) - 1), kdmp.NotPresentError)


def test_la57_nx_at_the_top_is_ignored_for_user_addresses_only():
    for va, ignored in ((0x0001_0000_0000_1000, True), (0xFF00_0000_0000_1000, False)):
        found = space("la57", va, 0x20067, tables_flags={5: 1 << 63}).translate(va)
        assert (found.nx_ignored, found.executable) == (ignored, ignored)
        found = space("la57", va, 0x20067, tables_flags={4: 1 << 63}).translate(va)
        assert (found.nx_ignored, found.executable) == (False, False)


KERNEL, USER = 0xFFFF_8000_1234_5000, 0x0000_7000_1234_5000
PXN, UXN, PXN_TABLE, UXN_TABLE, NO_EL0, RO_TABLE = (1 << number for number in (53, 54, 59, 60, 61, 62))


@pytest.mark.parametrize("level, size", [(2, 0x20_0000), (3, 0x4000_0000)])
def test_arm64_blocks(level, size):
    reader = space("arm64", KERNEL, 0x1_8000_0000 | 0x701, level)
    found = reader.translate(KERNEL + 0x123)
    assert (found.page_size, found.level) == (size, level)
    assert found.pa == 0x1_8000_0000 + (KERNEL + 0x123) % size


@pytest.mark.parametrize("level", [1, 4])
def test_arm64_reserved_descriptor(level):
    """Type 01 is a block at the two middle levels and nothing at the leaf and at the root."""
    reader = space("arm64", KERNEL, 0x20701, level)
    with pytest.raises(kdmp.BadEntryError) as caught:
        reader.translate(KERNEL)
    assert (caught.value.level, caught.value.entry) == (level, 0x20701)


@pytest.mark.parametrize("va", [KERNEL, USER])
@pytest.mark.parametrize(
    "leaf, table, expected",
    [
        (0, 0, "wxk"),
        (0x40, 0, "uwxk"),
        (0x80, 0, "xk"),
        (PXN, 0, {"kernel": "w", "user": "wx"}),
        (UXN, 0, {"kernel": "wxk", "user": "wk"}),
        (PXN | UXN, 0, "w"),
        (0x40, PXN_TABLE, {"kernel": "uw", "user": "uwx"}),
        (0x40, UXN_TABLE, {"kernel": "uwxk", "user": "uwk"}),
        (0x40, NO_EL0, "wxk"),
        (0x40, RO_TABLE, "uxk"),
        (0x80 | 1 << 55, 0, "Wxk"),  # Windows' own Writable
        (0x80 | 1 << 55, RO_TABLE, "xk"),
    ],
)
@pytest.mark.parametrize("level", [2, 3, 4])
def test_arm64_rights(va, leaf, table, expected, level):
    found = space("arm64", va, 0x20703 | leaf, tables_flags={level: table}).translate(va)
    if isinstance(expected, dict):
        expected = expected["kernel" if va >> 63 else "user"]
    got = "u" * found.user + ("w" if found.hardware_writable else "W" * found.writable)
    got += "x" * found.executable + "k" * found.kernel_executable
    assert got == expected


def test_arm64_leaf_flags_and_address_mask():
    value = 0x0000_FFFF_FFFF_F000 | 0xF << 48 | 1 << 52 | 1 << 56 | 0xC00 | 0x83
    found = space("arm64", KERNEL, value).translate(KERNEL + 1)
    assert found.pa == 0x0000_FFFF_FFFF_F001
    assert (found.accessed, found.global_, found.dirty, found.copy_on_write) == (True, False, False, True)


def test_arm64_root_with_asid_and_both_halves():
    reader = space("arm64", KERNEL, 0x20703)
    assert reader.at(0x1234_0000_0000_1000 | 1).translate(KERNEL).pa == 0x20000
    assert reader.translate(KERNEL).entries[0].pa == 0x1000 + 8 * 256
    assert isinstance(error_of(reader.translate, USER), kdmp.NotPresentError)


def test_arm64_invalid_descriptors():
    """Bit 0 alone decides: 10 is as invalid as 00."""
    for value in (0x20702, 0x20700 & ~0xC00 | 2):
        assert isinstance(error_of(space("arm64", KERNEL, value).translate, KERNEL), kdmp.NotPresentError)


# ---- Windows' software states ----

RW = 4
STATES = [
    # x86 without PAE: PageFileLow 1-4, Protection 5-9, Prototype 10, Transition 11, PageFileHigh 12-31
    ("x86", 0, "zero"),
    ("x86", RW << 5, "demand_zero"),
    ("x86", RW << 5 | 2 << 1, "pagefile"),
    ("x86", RW << 5 | 0x12345000, "pagefile"),
    ("x86", RW << 5 | 0x400, "prototype"),
    ("x86", 0x3FFF_F000 | 0x400 | 0x800 | 0x3E, "prototype"),
    ("x86", 0xFFFF_F000 | 0x400 | 4 << 5, "vad"),
    ("x86", 0x20000 | 0x800 | RW << 5, "transition"),
    # PAE: high dword is PageFileHigh, PageFileLow 12-15 (1-4 before the swizzle)
    ("pae", 0, "zero"),
    ("pae", RW << 5, "demand_zero"),
    ("pae", RW << 5 | 2 << 1, "demand_zero"),  # Reserved, Allocated: no part of the place
    ("pae", RW << 5 | 3 << 12, "pagefile"),
    ("pae", RW << 5 | 5 << 32, "pagefile"),
    ("pae", 0x8123_4567 << 32 | 0x400, "prototype"),
    ("pae", 0x8123_4567 << 32 | 0xC00, "prototype"),  # bit 11 is Combined
    ("pae", 0xFFFF_FFFF << 32 | 0x400 | 0x10, "vad"),
    ("pae", 0x20000 | 0x800 | RW << 5, "transition"),
    # ARM64: Protection 1-5, PageFileLow 6-9
    ("arm64", 0, "zero"),
    ("arm64", RW << 1, "demand_zero"),
    ("arm64", RW << 1 | 1 << 12 | 1 << 13, "demand_zero"),
    ("arm64", RW << 1 | 1 << 6, "pagefile"),
    ("arm64", RW << 1 | 1 << 9, "pagefile"),
    ("arm64", RW << 1 | 5 << 32, "pagefile"),
    ("arm64", 0xFFFF_8123_4567 << 16 | 0x400, "prototype"),
    ("arm64", 0xFFFF_8123_4567 << 16 | 0xC00, "prototype"),  # bit 11 is DemandFillProto
    ("arm64", 0xFFFF_FFFF << 32 | 0x400, "vad"),
    ("arm64", 0x20000 | 0x800 | RW << 1, "transition"),
]


@pytest.mark.parametrize("paging, value, state", STATES)
def test_software_state(paging, value, state):
    va = 0x1000
    reader = space(paging, va, value)
    if state == "transition":
        found = reader.translate(va + 0x21)
        assert (found.state, found.transition, found.pa, found.protection) == (state, True, 0x20021, RW)
        assert (found.writable, found.executable, found.hardware_writable) == (True, False, False)
        assert reader.read_u32(va + 8) == 0x20
        return
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(va)
    assert (caught.value.state, caught.value.level, caught.value.entry) == (state, 1, value)


@pytest.mark.parametrize("paging", ["x86", "pae", "arm64"])
@pytest.mark.parametrize("protection", range(32))
def test_transition_rights(paging, protection):
    """From MmProtectToValue: 1 R, 2 X, 3 RX, 4 RW, 5 WC, 6 RWX, 7 XWC; bits 3 and 4 modify."""
    found = space(paging, 0x1000, 0x20800 | protection << (1 if paging == "arm64" else 5)).translate(0x1000)
    assert found.protection == protection
    base = protection % 8
    assert found.writable == (base >= 4)
    assert found.executable == (base in (2, 3, 6, 7))
    assert found.copy_on_write == (base in (5, 7))


@pytest.mark.parametrize("paging", ["x86", "pae", "la57", "arm64"])
def test_a_transition_directory_entry_still_leads_to_its_table(paging):
    memory = Memory()
    tables = ArchTables(memory, paging)
    tables.map(0x5000, 0x20000)
    where = tables.entry(0x5000, 2)
    tables.store(where, tables.load(where) & ~0xFFF | 0x800)
    memory.fill(0x20)
    with kdmp.open(dump(memory.pages, paging, 0x1000)) as opened:
        found = opened.reader(paging=paging).translate(0x5008)
        assert (found.pa, found.state, found.protection) == (0x20008, "valid", None)


@pytest.mark.parametrize("paging", ["x86", "pae", "la57", "arm64"])
def test_ps_means_nothing_in_an_invalid_entry(paging):
    """F10 of the pitfalls, on every architecture."""
    level = 2
    value = 0x40_0000 | 0x80
    if paging == "arm64":
        value = 0x40_0000 | 0x700 & ~0x400
    error = error_of(space(paging, 0x0, value, level).translate, 0x123)
    assert (type(error), error.level) == (kdmp.NotPresentError, 2)


def test_pae_swizzle_with_a_known_mask():
    mask = 1 << 36
    value = 0x20000 | mask | 0x800 | RW << 5
    found = space("pae", 0x1000, value, mask=mask).translate(0x1000)
    assert (found.pa, found.unswizzled) == (0x20000, True)
    own = space("pae", 0x1000, value | 0x10, mask=mask)
    assert own.translate(0x1000).pa == 0x20000 | mask


def test_pae_pdpte_that_is_not_present():
    for value, state in ((0, "zero"), (0x2000 | 0x800, "bad"), (RW << 5, "bad")):
        memory = Memory()
        tables = ArchTables(memory, "pae", root=0x1040)
        put_number(memory, tables.root, value, 8)
        with kdmp.open(dump(memory.pages, "pae", 0x1040)) as opened:
            error = error_of(opened.reader(paging="pae").translate, 0x1000)
        assert (type(error), error.level, error.state) == (kdmp.NotPresentError, 3, state)


@pytest.mark.parametrize("paging, wrong", [("x86", 1 << 32), ("pae", 1 << 32), ("pae", 2**64 - 1)])
def test_32_bit_spaces_end_at_4_gib(paging, wrong):
    reader = space(paging, 0xFFFF_F000, 0x20063)
    error = error_of(reader.translate, wrong)
    assert (type(error), error.entries, error.level or 0) == (kdmp.NonCanonicalError, (), 0)
    assert reader.try_translate(wrong) is None
    assert reader.translate(0xFFFF_FFFF).pa == 0x20FFF


# ---- which paging a dump has ----

LIST_VA, KDBG_VA = 0x8050_0000, 0x8050_1400
KERNEL64 = 0xFFFF_F800_0000_0000


def kernel(paging, *, lists=True, kdbg=None, dtb=None, **header):
    """A dump whose tables are of `paging` and map a list head and perhaps a KDBG."""
    memory = Memory()
    wide = MODES[paging].machine != 0x14C
    base = KERNEL64 if wide else LIST_VA
    if paging == "la57":
        base = 0xFF12_3400_0000_0000
    root = {"pae": 0x1020}.get(paging, 0x1000)
    tables = ArchTables(memory, paging, root=root)
    tables.map(base, 0x20000)
    tables.map(base + 0x1000, 0x21000)
    width = 8 if wide else 4
    if lists:
        put_list(memory, 0x20100, base + 0x100, width)
        put_list(memory, 0x20200, base + 0x200, width)
    if kdbg is not None:
        put_kdbg(memory, 0x21400, flags=kdbg)
    memory.page(0x20), memory.page(0x21)
    facts = {
        "ps_loaded_module_list": base + 0x100, "ps_active_process_head": base + 0x200,
        "kd_debugger_data_block": base + 0x1400,
    }  # fmt: skip
    image = dump(memory.pages, paging, root if dtb is None else dtb, **{**facts, **header})
    return image, base


@pytest.mark.parametrize("paging", ["x86", "pae"])
@pytest.mark.parametrize("hint", ["right", "wrong", "filler", "nonsense"])
@pytest.mark.parametrize("evidence", ["lists", "kdbg", "both", "nothing"])
def test_choice_on_x86(paging, hint, evidence):
    enabled = {
        "right": int(paging == "pae"), "wrong": int(paging != "pae"), "filler": None, "nonsense": 0x50 ^ 7,
    }[hint]  # fmt: skip
    image, base = kernel(
        paging,
        lists=evidence in ("lists", "both"),
        kdbg=int(paging == "pae") if evidence in ("kdbg", "both") else None,
        pae_enabled=enabled,
        **({"ps_loaded_module_list": None, "ps_active_process_head": None} if evidence == "kdbg" else {}),
        **(
            {"ps_loaded_module_list": 0x1000, "ps_active_process_head": 0x1000,
             "kd_debugger_data_block": 0x1000}
            if evidence == "nothing"
            else {}
        ),
    )  # fmt: skip
    with kdmp.open(image) as opened:
        assert opened.header["pae_enabled"] == enabled
        if evidence == "nothing":
            chosen = {"right": paging, "wrong": "pae" if paging == "x86" else "x86"}.get(hint, "pae")
            source = "header" if hint in ("right", "wrong") else "default"
        else:
            chosen = paging
            source = "kdbg" if evidence in ("kdbg", "both") else "header" if hint == "right" else "trial"
        assert (opened.paging, opened.paging_source) == (chosen, source)
        assert opened.reader().paging == chosen
        if evidence in ("lists", "both"):
            assert opened.reader().read_ptr(base + 0x100) == base + 0x140


@pytest.mark.parametrize("paging, levels", [("x64", 0), ("x64", 4), ("la57", 0), ("la57", 5), ("la57", None)])
def test_choice_on_x64(paging, levels):
    image, base = kernel(paging, kdbg=None if levels is None else levels << 2 | 1)
    with kdmp.open(image) as opened:
        assert (opened.paging, opened.paging_source) == (paging, "kdbg" if levels else "trial")
        assert opened.reader().read_ptr(base + 0x200) == base + 0x240


def test_choice_on_x64_without_evidence():
    image, _ = kernel("x64", ps_loaded_module_list=8, ps_active_process_head=None, kd_debugger_data_block=0)
    with kdmp.open(image) as opened:
        assert (opened.paging, opened.paging_source) == ("x64", "default")


def test_arm64_has_no_choice():
    image, base = kernel("arm64")
    with kdmp.open(image) as opened:
        assert (opened.paging, opened.paging_source, opened.arch) == ("arm64", "machine", "arm64")
        assert opened.reader().read_ptr(base + 0x100) == base + 0x140


def test_the_argument_wins():
    image, _ = kernel("pae")
    with kdmp.open(image, paging="x86") as opened:
        assert (opened.paging, opened.paging_source) == ("x86", "argument")
        assert opened.reader().paging == "x86"
    with kdmp.open(image) as opened:
        assert opened.reader(paging="x86").paging == "x86"
        with pytest.raises((kdmp.KdmpError, ValueError)):
            opened.reader(paging="none")


def test_pae_hint_does_not_matter_for_readers_of_another_root():
    """A process' root is read in the machine's mode, whatever that root itself would suggest."""
    image, _ = kernel("pae", pae_enabled=0)
    with kdmp.open(image) as opened:
        assert opened.reader(0x9000).paging == "pae"


@pytest.mark.parametrize("paging", ["x86", "pae", "arm64", "la57"])
def test_root_that_points_to_itself(paging):
    """R11: bounded by the number of levels."""
    memory = Memory()
    tables = ArchTables(memory, paging)
    for k in range(PAGE // tables.mode.entry):
        tables.store(0x1000 + k * tables.mode.entry, 0x1001 if paging == "pae" else 0x1003)
    with kdmp.open(dump(memory.pages, paging, 0x1000)) as opened:
        reader = opened.reader(paging=paging)
        found = reader.translate(0x123)
        assert found.pa == 0x1123
        assert len(found.entries) == len(MODES[paging].shifts)
        assert entries(found) == WALKERS[paging](Frames(memory.pages), 0x1000).walk(0x123).entries
