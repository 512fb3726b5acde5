"""x64 translation: page sizes, rights, software states, and the evidence that a walk leaves.

SPDX-License-Identifier: MIT
"""

import pickle

import pytest
from agree import entries
from dumpbuilder import (
    COW,
    GB1,
    KB4,
    LARGE,
    MB2,
    NX,
    PAT4K,
    PAT_LARGE,
    PCD,
    PROTOTYPE,
    PWT,
    SW_WRITE,
    TRANSITION,
    A,
    D,
    G,
    Memory,
    P,
    Tables,
    U,
    W,
)

import kdmp

TABLES = {                                     # physical address: entry
    0x1000 + 8 * 0: 0x2000 | P | W | U,        # PML4[0] -> PDPT at 0x2000
    0x2000 + 8 * 0: 0x3000 | P | W | U,        # PDPT[0] -> PD at 0x3000
    0x2000 + 8 * 1: 0x8000_0000 | P | LARGE,   # PDPT[1] -> 1 GiB page
    0x3000 + 8 * 0: 0x4000 | P | W | U,        # PD[0]   -> PT at 0x4000
    0x3000 + 8 * 1: 0xE0_0000 | P | W | LARGE,  # PD[1]   -> 2 MiB page
    0x3000 + 8 * 2: 0x9000 | P | W | U,        # PD[2]   -> a table that is not in the dump
    0x4000 + 8 * 5: 0xA000 | P | W,            # PT[5]   -> page at 0xa000
    0x4000 + 8 * 6: 0xB000 | P,                # PT[6]   -> a page that is not in the dump
}  # fmt: skip
CASES = [  # va, pa, page size, level
    (0x5123, 0xA123, KB4, 1),
    (0x6FFF, 0xBFFF, KB4, 1),
    (0x23_4567, 0xE3_4567, MB2, 2),
    (0x4000_0000, 0x8000_0000, GB1, 3),
    (0x7FFF_FFFF, 0xBFFF_FFFF, GB1, 3),
]


def reader_of(memory, dtb=0x1000, **options):
    return kdmp.open(memory.dump(dtb=dtb)).reader(**options)


@pytest.fixture
def reader():
    memory = Memory()
    memory.entries(TABLES)
    memory.fill(0xA)
    return reader_of(memory)


@pytest.mark.parametrize("va, pa, page_size, level", CASES)
def test_translate(reader, va, pa, page_size, level):
    got = reader.translate(va)
    assert (got.pa, got.page_size, got.level, got.state) == (pa, page_size, level, "valid")
    assert (got.va, got.pfn, got.offset, got.dtb, got.paging) == (va, pa >> 12, pa % page_size, 0x1000, "x64")
    assert int(got) == pa
    assert reader.try_translate(va) == got


def test_evidence_of_a_success(reader):
    assert entries(reader.translate(0x5123)) == [
        (4, 0x1000, 0x2000 | P | W | U),
        (3, 0x2000, 0x3000 | P | W | U),
        (2, 0x3000, 0x4000 | P | W | U),
        (1, 0x4028, 0xA000 | P | W),
    ]
    first = reader.translate(0x4000_0000).entries[-1]
    assert (first.level, first.pa, first.value) == (3, 0x2008, 0x8000_0000 | P | LARGE)
    assert tuple(first) == (3, 0x2008, 0x8000_0000 | P | LARGE)


def test_evidence_of_an_empty_entry(reader):
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(0x7008)
    exc = caught.value
    assert (exc.level, exc.entry, exc.entry_pa, exc.state) == (1, 0, 0x4038, "zero")
    assert (exc.va, exc.address, exc.dtb, exc.paging) == (0x7008, 0x7008, 0x1000, "x64")
    assert len(exc.entries) == 4
    assert "0x7008" in str(exc)
    assert isinstance(exc, LookupError)


def test_evidence_of_a_missing_table(reader):
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader.translate(0x40_1000)
    exc = caught.value
    assert type(exc) is kdmp.NotInDumpError
    assert (exc.level, exc.pa) == (1, 0x9008)
    assert entries(exc)[-1] == (2, 0x3010, 0x9000 | P | W | U)


def test_missing_page_translates_but_does_not_read(reader):
    assert reader.translate(0x6010).pa == 0xB010
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_exact(0x6010, 4)
    reason = caught.value.reason
    assert type(reason) is kdmp.NotInDumpError
    assert (reason.level, reason.pa, reason.address) == (0, 0xB010, 0x6010)
    assert len(reason.entries) == 4


def test_missing_root():
    memory = Memory()
    memory.fill(0xA)
    reader = reader_of(memory, dtb=0x77000)
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader.translate(0x1000)
    assert (caught.value.level, caught.value.pa, caught.value.entries) == (4, 0x77000, ())
    assert reader.try_translate(0x1000) is None


def test_truncated_table():
    memory = Memory()
    tables = Tables(memory, root=0x1000, spare=0x20)
    tables.map(0x5000, 0xA000)
    memory.fill(0xA)
    image = memory.dump()[:-0x1000]  # the page table is the last page
    with pytest.raises(kdmp.TruncatedError) as caught:
        kdmp.open(image).reader().translate(0x5000)
    assert (caught.value.level, caught.value.pa) == (1, 0x22028)


RIGHTS = [  # flags of the upper levels, of the leaf; writable, executable, user, hardware_writable
    (P | W | U, P | W | U, True, True, True, True),
    (P | W | U, P | U, False, True, True, False),
    (P | W | U, P | U | SW_WRITE, True, True, True, False),
    (P | U, P | W | U, False, True, True, False),
    (P | U, P | W | U | SW_WRITE, False, True, True, False),
    (P | W, P | W | U, True, True, False, True),
    (P | W | U, P | W, True, True, False, True),
    (P | W | U, P | W | U | NX, True, False, True, True),
    (P | W | SW_WRITE, P, False, True, False, False),
]


@pytest.mark.parametrize("upper, leaf, writable, executable, user, hardware", RIGHTS)
@pytest.mark.parametrize("size", [KB4, MB2, GB1])
def test_rights_combine_over_the_levels(upper, leaf, writable, executable, user, hardware, size):
    memory = Memory()
    tables = Tables(memory)
    va = 0x4000_0000
    tables.entry(va, {KB4: 1, MB2: 2, GB1: 3}[size], flags=upper)
    tables.map(va, 0x4000_0000, size, leaf)
    got = reader_of(memory).translate(va)
    assert (got.writable, got.executable, got.user) == (writable, executable, user)
    assert (got.hardware_writable, got.nx_ignored) == (hardware, False)


@pytest.mark.parametrize("level", [2, 3])
def test_nx_of_a_middle_level_counts(level):
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x5000, 0xA000)
    where = tables.entry(0x5000, level)
    tables.raw(0x5000, int.from_bytes(memory.page(where >> 12)[where % KB4 :][:8], "little") | NX, level)
    assert reader_of(memory).translate(0x5000).executable is False


@pytest.mark.parametrize("levels", [4, 5])
def test_nx_of_the_top_level_counts_for_the_kernel_only(levels):
    """KVA shadow sets NX in the top entries of the user half (x64-paging.md 2.1)."""
    memory = Memory()
    tables = Tables(memory, levels=levels)
    for va in (0x5000, 0xFFFF_FFFF_FFFF_5000):
        tables.map(va, 0xA000)
        where = tables.entry(va, levels)
        tables.raw(va, int.from_bytes(memory.page(where >> 12)[where % KB4 :][:8], "little") | NX, levels)
    reader = reader_of(memory, paging={4: "x64", 5: "la57"}[levels])
    user, kernel = reader.translate(0x5000), reader.translate(0xFFFF_FFFF_FFFF_5000)
    assert (user.executable, user.nx_ignored) == (True, True)
    assert (kernel.executable, kernel.nx_ignored) == (False, False)


@pytest.mark.parametrize(
    "bit, name",
    [
        (PWT, "write_through"),
        (PCD, "cache_disable"),
        (A, "accessed"),
        (D, "dirty"),
        (G, "global_"),
        (COW, "copy_on_write"),
    ],
)
@pytest.mark.parametrize("size", [KB4, MB2, GB1])
def test_leaf_bits(bit, name, size):
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x4000_0000, 0, size, P | bit)
    tables.map(0x8000_0000, 0, size, P)
    reader = reader_of(memory)
    assert getattr(reader.translate(0x4000_0000), name) is True
    assert getattr(reader.translate(0x8000_0000), name) is False


@pytest.mark.parametrize("size, bit", [(KB4, PAT4K), (MB2, PAT_LARGE), (GB1, PAT_LARGE)])
def test_pat_bit(size, bit):
    memory = Memory()
    Tables(memory).map(0x4000_0000, 0x8000_0000, size, P | bit)
    got = reader_of(memory).translate(0x4000_0123)
    assert (got.pat, got.pa, got.page_size) == (True, 0x8000_0123, size)


@pytest.mark.parametrize("level", [4, 5])
def test_large_bit_above_level_3_is_reserved(level):
    memory = Memory()
    tables = Tables(memory, levels=5)
    tables.raw(0x5000, 0xA000 | P | LARGE, level)
    memory.fill(0xA)
    with pytest.raises(kdmp.BadEntryError) as caught:
        reader_of(memory, paging="la57").translate(0x5000)
    assert (caught.value.level, caught.value.entry, caught.value.state) == (level, 0xA000 | P | LARGE, "bad")
    assert reader_of(memory, paging="la57").try_translate(0x5000) is None


# MM protection: base values 1 R, 2 X, 3 RX, 4 RW, 5 WC, 6 RWX, 7 XWC; 8, 0x10, 0x18 modify.
PROTECTIONS = [(p, p & 7 in (4, 5, 6, 7), p & 7 in (2, 3, 6, 7), p & 7 in (5, 7)) for p in range(32)]


@pytest.mark.parametrize("protection, writable, executable, copy_on_write", PROTECTIONS)
def test_transition_page(protection, writable, executable, copy_on_write):
    memory = Memory()
    tables = Tables(memory)
    memory.fill(0xA)
    value = 0xA000 | TRANSITION | protection << 5
    tables.raw(0x7FF0_0000_5000, value)
    reader = reader_of(memory)
    got = reader.translate(0x7FF0_0000_5123)
    assert (got.pa, got.state, got.transition, got.page_size) == (0xA123, "transition", True, KB4)
    assert (got.protection, got.writable, got.executable) == (protection, writable, executable)
    assert (got.copy_on_write, got.user, got.hardware_writable) == (copy_on_write, True, False)
    assert got.entries[-1].value == value
    assert reader.read_exact(0x7FF0_0000_5000, 0x1000) == bytes(memory.pages[0xA])


def test_valid_page_has_no_software_protection(reader):
    assert reader.translate(0x5000).protection is None
    assert reader.translate(0x5000).transition is False


@pytest.mark.parametrize(
    "value, state",
    [
        (0, "zero"),
        (0x80, "demand_zero"),
        (0x1234_0000_0080, "pagefile"),
        (0x0000_0000_2000_0080 | 0x1000, "pagefile"),
        (PROTOTYPE, "prototype"),
        (0xFFFF_8000_1234_0000 | PROTOTYPE | TRANSITION, "prototype"),
        (0xFFFF_FFFF_0000_0430, "vad"),
        (0xFFFF_FFFF_0000_0090, "vad"),
    ],
)
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_invalid_entries(value, state, level):
    memory = Memory()
    tables = Tables(memory)
    tables.raw(0x7FF0_0000_5000, value, level)
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader_of(memory).translate(0x7FF0_0000_5000)
    assert (caught.value.level, caught.value.entry, caught.value.state) == (level, value, state)


@pytest.mark.parametrize(
    ("value", "state", "level", "protection"),
    [
        (0, "zero", 1, None),
        (0, "zero", 4, None),
        (1 << 45, "zero", 1, None),  # nothing but the L1TF mask
        (0x99000 | P | W, "table", 3, None),  # a table that is not in the dump
        (0x20000 | P | W | 0x80, "bad", 4, None),
        (0x80, "demand_zero", 1, 4),
        (0x10, "demand_zero", 1, 0),  # a protection of 0 is one
        (3 << 32 | 0x10 | 6 << 5, "pagefile", 2, 6),
        (0x9000 << 48 | 0x410 | 2 << 5, "prototype", 1, 2),
        (0xFFFF_FFFF_0000_0430, "vad", 1, 1),
    ],
)
def test_protection_is_that_of_software_entries(value, state, level, protection):
    """None where the entry has no such thing: 0 would mean that nothing may be done with the page."""
    memory = Memory()
    Tables(memory).raw(0x7000_0000, value, level)
    with pytest.raises(kdmp.TranslationError) as caught:
        kdmp.open(memory.dump()).reader().translate(0x7000_0000)
    assert (caught.value.state, caught.value.protection) == (state, protection)


def test_protection_of_a_page_whose_frame_is_missing():
    """Reading fails behind a translation: a valid entry has no protection, one in transition has."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x7000_0000, 0x99000)
    tables.raw(0x7000_1000, 0x99000 | 0x810 | 3 << 5)
    reader = kdmp.open(memory.dump()).reader()
    for va, protection in ((0x7000_0000, None), (0x7000_1000, 3)):
        with pytest.raises(kdmp.PartialReadError) as caught:
            reader.read_exact(va, 4)
        assert caught.value.reason.state == ("valid" if protection is None else "transition")
        assert caught.value.reason.protection == protection


def test_page_table_in_transition_is_followed():
    """x64-paging.md section 6: page-table pages can be in transition themselves."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(0x5000, 0xA000)
    where = tables.entry(0x5000, 2)
    table = int.from_bytes(memory.page(where >> 12)[where % KB4 :][:8], "little") & ~0xFFF
    memory.put_u64(where, table | TRANSITION | 4 << 5)
    got = reader_of(memory).translate(0x5678)
    assert (got.pa, got.state, got.protection, got.transition) == (0xA678, "valid", None, False)
    assert (got.writable, got.user, got.executable) == (True, True, True)


@pytest.mark.parametrize(
    "paging, first, last",
    [
        ("x64", 0x0000_8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF),
        ("la57", 0x0100_0000_0000_0000, 0xFEFF_FFFF_FFFF_FFFF),
    ],
)
def test_canonical_bounds(paging, first, last):
    memory = Memory()
    memory.page(1)
    reader = reader_of(memory, paging=paging)
    for va in (first, last, (first + last) // 2):
        with pytest.raises(kdmp.NonCanonicalError) as caught:
            reader.translate(va)
        assert (caught.value.va, caught.value.entries) == (va, ())
    for va in (first - 1, last + 1):
        with pytest.raises(kdmp.NotPresentError):
            reader.translate(va)


def test_five_levels():
    memory = Memory()
    tables = Tables(memory, levels=5)
    va = 0x00AB_8765_4321_5000
    tables.map(va, 0xA000)
    memory.fill(0xA)
    reader = reader_of(memory, paging="la57")
    got = reader.translate(va + 7)
    assert (got.pa, got.paging, [e.level for e in got.entries]) == (0xA007, "la57", [5, 4, 3, 2, 1])
    assert got.entries[0].pa == 0x1000 + 8 * (va >> 48 & 0x1FF)
    assert reader.read_exact(va, 0x1000) == bytes(memory.pages[0xA])


@pytest.mark.parametrize("bits", [0, 1, 2, 0xFFF, 1 << 63, 0x8000_0000_0000_0FFF])
def test_root_bits_that_are_no_address_do_no_harm(bits):
    """PCID, PWT/PCD and the "do not flush" bit (x64-paging.md section 2)."""
    memory = Memory()
    Tables(memory).map(0x5000, 0xA000)
    got = reader_of(memory, dtb=0x1000 | bits).translate(0x5000)
    assert (got.pa, got.dtb) == (0xA000, 0x1000 | bits)


@pytest.mark.parametrize("levels, paging", [(4, "x64"), (5, "la57")])
def test_paging_is_found_by_trial(levels, paging):
    """Only one of the two modes maps the lists that the header names."""
    memory = Memory()
    tables = Tables(memory, levels=levels, spare=0x100)
    head = 0xFFFF_F800_0000_5010
    tables.map(head & ~0xFFF, 0xA000)
    memory.put_u64(0xA010, head)
    memory.put_u64(0xA018, head)
    image = memory.dump(ps_loaded_module_list=head, ps_active_process_head=head)
    with kdmp.open(image) as dump:
        assert (dump.paging, dump.paging_source) == (paging, "trial")
        assert dump.reader().translate(head).pa == 0xA010
    with kdmp.open(image, paging="x64") as dump:
        assert (dump.paging, dump.paging_source) == ("x64", "argument")


@pytest.mark.parametrize("levels, paging", [(4, "x64"), (5, "la57")])
def test_paging_is_found_in_kdbg(levels, paging):
    """Bits 2-5 of the u16 at KDBG+0x36 are PagingLevels (x64-paging.md 1.5)."""
    memory = Memory()
    tables = Tables(memory, levels=levels, spare=0x100)
    kdbg = 0xFFFF_F800_0000_5000
    tables.map(kdbg, 0xA000)
    memory.put(0xA010, b"KDBG")
    memory.put(0xA036, (levels << 2 | 1).to_bytes(2, "little"))
    with kdmp.open(memory.dump(kd_debugger_data_block=kdbg)) as dump:
        assert (dump.paging, dump.paging_source) == (paging, "kdbg")


def test_paging_without_a_clue_is_four_levels():
    memory = Memory()
    memory.page(1)
    with kdmp.open(memory.dump()) as dump:
        assert (dump.paging, dump.paging_source) == ("x64", "default")


def test_unknown_paging_is_refused():
    memory = Memory()
    memory.page(1)
    with kdmp.open(memory.dump()) as dump, pytest.raises((ValueError, kdmp.UnsupportedDumpError)):
        dump.reader(paging="x65")


def test_reader_without_a_root():
    memory = Memory()
    memory.page(1)
    with kdmp.open(memory.dump(dtb=None)) as dump:
        assert dump.dtb is None
        with pytest.raises(kdmp.RootNotPresentError):
            dump.reader()
        assert dump.reader(dtb=0x1000).dtb == 0x1000


def test_reader_at_another_root(reader):
    other = reader.at(0x4000)
    assert (other.dtb, other.paging, other.invalid_pte_mask) == (0x4000, "x64", None)
    with pytest.raises(kdmp.NotPresentError) as caught:
        other.translate(0x1234_5000)
    assert caught.value.dtb == 0x4000


def test_translation_is_a_value(reader):
    one, same, other = (reader.translate(va) for va in (0x5123, 0x5123, 0x5124))
    assert one == same and hash(one) == hash(same) and one is not same
    assert one != other and one != 0xA123
    assert pickle.loads(pickle.dumps(one)) == one
    assert "0x5123" in repr(one) and "0xa123" in repr(one)


def test_errors_are_values(reader):
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(0x7008)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is kdmp.NotPresentError
    assert (str(copy), copy.level, copy.entries, copy.state) == (
        str(caught.value), 1, caught.value.entries, "zero",
    )  # fmt: skip


def test_translate_takes_an_access_context(reader):
    assert reader.translate(kdmp.virt(0x5123)).pa == 0xA123
    assert reader.translate(kdmp.virt(0x5123) + 1).pa == 0xA124
    assert reader.at(0x4000).translate(kdmp.virt(0x5123, 0x1000)).pa == 0xA123
    assert reader.read_exact(kdmp.phys(0xA000), 8) == reader.read_exact(0x5000, 8)


@pytest.mark.parametrize(
    "va, error", [(-1, OverflowError), (1 << 64, OverflowError), (1.5, TypeError), ("5", TypeError)]
)
def test_what_is_no_address(reader, va, error):
    with pytest.raises(error):
        reader.translate(va)
    with pytest.raises(error):
        reader.try_translate(va)
