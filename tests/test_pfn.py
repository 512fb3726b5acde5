"""The PFN database: against the machines' truth files, and on entries of each layout family.

SPDX-License-Identifier: MIT
"""

import random
import struct
import sys
from collections import Counter

import pfndumps as made
import pytest
import shareddata
from clidumps import VA32, triage_dump, x86_dump
from dumpbuilder import BITMAP, FULL, GB1, MB2, A, P, W
from pfndumps import BASE, VA, VARIABLES, Machine

import kdmp
from kdmp.pfn import CACHE_ATTRIBUTES, STATES

ROOT_MASK = 0x000F_FFFF_FFFF_F000


@pytest.fixture(
    scope="module",
    params=[(name, kind) for name in shareddata.MACHINES for kind in shareddata.KINDS],
    ids="-".join,
)
def machine(request):
    truth = shareddata.truth(request.param[0])
    with kdmp.open(shareddata.machine_dump(*request.param)) as dump:
        yield dump, truth


# ---- the machines ----


def test_every_sample_of_the_machines_agrees(machine):
    dump, truth = machine
    for sample in truth["pfns"]:
        entry = dump.pfn(sample["pfn"])
        assert entry.pfn == sample["pfn"]
        assert entry.address == truth["pfn_database"] + sample["pfn"] * 0x30
        assert entry.state.lower() == sample["state"]
        if "pte" in sample:
            assert entry.pte_address == sample["pte"]
            assert entry.pte_frame == sample["pte_frame"]
            assert entry.prototype == sample["prototype"]
            assert entry.original_pte == sample["original_pte"]
            assert entry.share_count == sample["share"]


def test_owners_of_the_machines_agree(machine):
    dump, truth = machine
    roots = {process["pid"]: process["dtb"] & ROOT_MASK for process in truth["processes"]}
    user_roots = {process["pid"]: process["user_dtb"] & ROOT_MASK for process in truth["processes"]}
    kinds = Counter()
    for sample in truth["pfns"]:
        entry = dump.pfn(sample["pfn"])
        kinds[entry.kind] += 1
        if "pte" not in sample:
            assert (entry.kind, entry.va, entry.region, entry.dtb) == (None, None, None, None)
        elif sample["owner"] == "pagetable" and sample["pte_frame"] == sample["pfn"]:
            assert (entry.kind, entry.va, entry.dtb) == ("page-table root", None, entry.pfn << 12)
            assert entry.dtb in (
                roots[sample["pid"]],
                user_roots[sample["pid"]],
            )  # with KVA shadow there are two
        elif sample["va"] is None:
            assert (entry.kind, entry.va, entry.dtb) == ("prototype", None, None)
        else:
            assert entry.dtb == roots[sample["pid"]]
            # Of large pages the truth has the frame's own address or the first one of the page.
            assert sample["va"] in (
                (entry.va, entry.region) if entry.kind == "large page" else (entry.region,)
            )
            if sample["owner"] == "pagetable":
                assert entry.kind in ("page table", None)
                assert entry.level > 1
            if entry.kind == "page":
                assert (entry.va, entry.level) == (entry.region, 1)
    assert kinds["page"] > 40
    assert kinds["large page"] > 30


def test_frames_are_where_the_database_says(machine):
    dump, truth = machine
    checked = 0
    for sample in truth["pfns"]:
        entry = dump.pfn(sample["pfn"])
        if entry.state != "Active" or entry.va is None or entry.dtb is None:
            continue
        walk = dump.reader(entry.dtb).try_translate(entry.va)
        if walk is not None:
            assert walk.pfn == entry.pfn
            checked += 1
    assert checked > 20


def test_the_base_and_its_sources(machine):
    dump, truth = machine
    pfns = dump.pfns
    assert pfns.base == truth["pfn_database"]
    assert pfns.verified
    assert pfns.disagreeing == ()
    assert pfns.pte_base == truth["pte_base"]
    assert "symbol MmPfnDatabase" in pfns.source
    assert "header PfnDataBase (address of MmPfnDatabase)" in pfns.source
    assert "KDBG.MmPfnDatabase" in pfns.source  # decoded, if it was encoded
    assert pfns.layout.certain


def test_ram_and_summary_of_the_machines(machine):
    dump, truth = machine
    pfns = dump.pfns
    assert [list(run) for run in pfns.ram] == truth["physical_runs"]
    assert len(pfns) == sum(truth["physical_runs"][-1])
    summary = pfns.summary()
    assert summary.source == "MmPhysicalMemoryBlock"
    assert summary.total == sum(count for _, count in truth["physical_runs"])
    assert summary.unknown == 0
    entries = list(pfns)
    assert len(entries) == summary.total
    assert summary.by("state", "cache", "modified", "prototype") == Counter(
        (entry.state, entry.cache, entry.modified, entry.prototype) for entry in entries
    )
    assert summary.states == {**dict.fromkeys(STATES, 0), **summary.by("state"), "unknown": 0}


@pytest.mark.parametrize("name", shareddata.MACHINES)
def test_arrays_have_what_the_entries_have(name):
    pytest.importorskip("numpy")
    with kdmp.open(shareddata.machine_dump(name, "kernel")) as dump:
        table = dump.pfns.arrays()
        entries = list(dump.pfns)
    assert table["pfn"].tolist() == [entry.pfn for entry in entries]
    assert table["known"].all()
    assert [STATES[state] for state in table["state"]] == [entry.state for entry in entries]
    assert [CACHE_ATTRIBUTES[cache] for cache in table["cache"]] == [entry.cache for entry in entries]
    for column, member in (
        ("modified", "modified"), ("prototype", "prototype"), ("share", "share_count"),
        ("reference", "reference_count"), ("pte", "pte_address"), ("pte_frame", "pte_frame"),
        ("original_pte", "original_pte"),
    ):  # fmt: skip
        assert table[column].tolist() == [getattr(entry, member) for entry in entries], column


# ---- the layout families ----


@pytest.mark.parametrize("known", [True, False], ids=["layout", "rule"])
@pytest.mark.parametrize("build", made.BUILDS)
@pytest.mark.parametrize("state", range(8))
def test_each_field_of_each_family(build, known, state):
    machine = Machine(build)
    frame = (1 << made.FRAME_BITS[build]) - 2
    machine.put(
        0x60, state, u1=0x1234, u2=0x77, pte=0xFFFF_8000_0000_1239, original=0xFEDC_BA98_7654_3210,
        references=0xABCD, flags=5, cache=2, e3=0xC6, frame=frame, prototype=1,
        identity=5 if build in made.IDENTITY else 0, partition=0x2A5 if build in made.PARTITION else 0,
    )  # fmt: skip
    with kdmp.open(machine.dump()) as dump:
        if not known:
            dump.__dict__["structure_layout"] = None
        entry = dump.pfn(0x60)
        assert dump.pfns.layout.source.startswith("bundled" if known else "rule")
    assert entry.state == STATES[state]
    assert entry.flink == 0x1234
    assert (entry.blink, entry.share_count) == ((None, 0x77) if state > 5 else (0x77, 0))
    assert entry.pte_address == 0xFFFF_8000_0000_1238
    assert entry.original_pte == 0xFEDC_BA98_7654_3210
    assert entry.reference_count == 0xABCD
    assert (entry.write_in_progress, entry.modified, entry.read_in_progress) == (True, False, True)
    assert entry.cache == "WriteCombined"
    assert (entry.priority, entry.removal_requested, entry.parity_error) == (6, True, True)
    assert entry.pte_frame == frame
    assert entry.prototype
    assert entry.page_identity == (5 if build in made.IDENTITY else None)
    assert entry.partition == (0x2A5 if build in made.PARTITION else None)
    assert entry.kind == ("prototype" if state in (2, 3, 4, 6, 7) else None)


@pytest.mark.parametrize("build", made.BUILDS)
def test_prototype_flag_by_itself(build):
    machine = Machine(build)
    machine.put(0x60, made.ACTIVE, frame=(1 << made.FRAME_BITS[build]) - 1)
    machine.put(0x61, made.ACTIVE, prototype=1)
    with kdmp.open(machine.dump()) as dump:
        assert not dump.pfn(0x60).prototype
        assert dump.pfn(0x61).prototype
        assert dump.pfn(0x61).pte_frame == 0
        assert dump.pfns.summary().by("prototype")[True] == 1


def test_pae_entries():
    row = struct.pack("<IIIHBBQI", 3, 9, 0xC000_0000 + 0x12345 * 8 + 1, 2, 0x56, 5, 0x80, 0x77 | 9 << 28)
    database = bytearray(0x1000)
    database[0x40 * 0x1C : 0x41 * 0x1C] = row
    tables = {1: {0x10: 0x2001}, 2: {0: 0x3063}, 3: {8: 0x5063}}
    pages = {5: database}
    for pfn, entries in tables.items():
        pages[pfn] = bytearray(0x1000)
        for offset, value in entries.items():
            struct.pack_into("<Q", pages[pfn], offset, value)
    with kdmp.open(x86_dump(BITMAP, frames=pages, pfn_database=VA32)) as dump:
        entry = dump.pfn(0x40)
        assert dump.paging == "pae"
        assert dump.pfns.source == "header PfnDataBase (value)"
    assert entry.address == VA32 + 0x40 * 0x1C
    assert (entry.state, entry.modified, entry.cache, entry.priority) == ("Active", True, "Cached", 5)
    assert (entry.flink, entry.share_count, entry.reference_count) == (3, 9, 2)
    assert (entry.pte_address, entry.original_pte, entry.pte_frame) == (0xC009_1A28, 0x80, 0x77)
    assert (entry.color, entry.prototype, entry.kind, entry.va) == (9, False, "page", 0x1234_5000)


# ---- the base ----


def opened(machine, **header):
    return kdmp.open(machine.dump(**header))


def test_the_header_has_the_value():
    with opened(Machine()) as dump:
        assert (dump.pfns.base, dump.pfns.source) == (BASE, "header PfnDataBase (value)")
        assert dump.pfns.verified
        assert repr(dump.pfns).startswith("<kdmp.PfnDatabase at 0xffff900000000000 (header")


def test_the_header_has_the_address():
    machine = Machine()
    machine.write(VARIABLES, struct.pack("<Q", BASE))
    with opened(machine, pfn_database=VARIABLES) as dump:
        assert dump.pfns.base == BASE
        assert dump.pfns.source == "header PfnDataBase (address of MmPfnDatabase)"
        assert dump.pfns.disagreeing == (("header PfnDataBase (value)", VARIABLES),)


@pytest.mark.parametrize("value", [VARIABLES, BASE])
def test_kdbg_and_header_agree(value):
    machine = Machine()
    block = machine.kdbg()
    with opened(machine, pfn_database=value, kd_debugger_data_block=block) as dump:
        assert dump.pfns.base == BASE
        assert dump.pfns.source.startswith("KDBG.MmPfnDatabase, header PfnDataBase (")
        assert dump.pfns.disagreeing == ()


def test_an_encoded_kdbg_is_not_used():
    machine = Machine()
    block = machine.kdbg(encoded=True, runs=[(0, 5)])
    with opened(machine, pfn_database=VARIABLES, kd_debugger_data_block=block) as dump:
        assert dump.pfns.base == BASE
        assert "KDBG" not in dump.pfns.source
        assert dump.pfns.ram_source.startswith("up to the last frame")


def test_what_is_verified_wins():
    machine = Machine()
    block = machine.kdbg()
    machine.write(VARIABLES, struct.pack("<Q", made.KDBG))  # readable, but no database
    with opened(machine, kd_debugger_data_block=block) as dump:
        assert (dump.pfns.base, dump.pfns.source) == (BASE, "header PfnDataBase (value)")
        assert dump.pfns.disagreeing == (("KDBG.MmPfnDatabase", made.KDBG),)


@pytest.mark.parametrize("build, fixed", [(9600, True), (14393, False)])
def test_the_fixed_address_of_old_builds(build, fixed):
    with opened(Machine(build), pfn_database=0) as dump:
        if fixed:
            assert dump.pfns.base == 0xFFFF_FA80_0000_0000
            assert not dump.pfns.verified
            with pytest.raises(kdmp.NotPresentError):
                dump.pfn(1)
        else:
            with pytest.raises(kdmp.UnsupportedDumpError, match="was not found"):
                dump.pfn(1)


@pytest.mark.parametrize(
    "value",
    [1, 0x1000, VA, BASE + 1, 0x8000_0000_0000_0000, 0x0000_8000_0000_0000, (1 << 64) - 1, (1 << 64) - 8,
     (1 << 64) - 0x3000, 0xFFFF_8000_0000_0000, made.PTES, made.PTES + 0x7F_FFFF_F000],
)  # fmt: skip
def test_a_base_that_points_anywhere(value):
    with opened(Machine(), pfn_database=value) as dump:
        try:
            pfns = dump.pfns
        except kdmp.UnsupportedDumpError:
            return
        assert not pfns.verified
        for pfn in (0, 1, 0x50, 0x7FFF_FFFF, (1 << 40) - 1, 1 << 40, 1 << 70, -1):
            try:
                assert pfns[pfn].pfn == pfn
            except kdmp.UnreadableError:
                assert pfn not in pfns or pfn >= len(pfns)
        assert sum(pfns.summary().states.values()) <= len(pfns)


def test_a_triage_dump_has_no_database():
    with kdmp.open(triage_dump()) as dump, pytest.raises(kdmp.KdmpError):
        dump.pfn(1)


# ---- from frames to addresses ----


@pytest.mark.parametrize("self_map", [True, False], ids=["self map", "climb"])
@pytest.mark.parametrize("build", [14393, 19041, 22000])
def test_addresses_and_root(build, self_map):
    machine = Machine(build, self_map=self_map)
    table, directory, upper = machine.frames
    with opened(machine) as dump:
        assert (dump.pfns.pte_base is not None) == self_map
        page = dump.pfn(0x50)
        assert (page.kind, page.va, page.region, page.level, page.dtb) == ("page", VA, VA, 1, 0x1000)
        for frame, level in ((table, 2), (directory, 3), (upper, 4)):
            entry = dump.pfn(frame)
            start = VA >> 12 + 9 * (level - 1) << 12 + 9 * (level - 1)
            assert (entry.kind, entry.level, entry.region) == ("page table", level, start)
            assert entry.dtb == 0x1000
            if self_map:
                assert entry.va == made.pte_of(VA, level - 1) & ~0xFFF
        root = dump.pfn(1)
        assert (root.kind, root.dtb, root.va, root.level) == ("page-table root", 0x1000, None, None)
        assert str(root).endswith("page-table root 1000")


def test_large_pages():
    machine = Machine()
    start = VA & ~0x3FFF_FFFF | 0x1000_0000
    machine.tables.map(start, 0x40_0000, MB2, flags=P | W | A | 1 << 12)  # with PAT
    upper = machine.tables.entry(start, 2) >> 12
    machine.put(0x5AB, made.ACTIVE, pte=made.pte_of(start, 2), frame=upper, u2=1)
    machine.put(0x800, made.ACTIVE, pte=made.pte_of(start, 2), frame=upper, u2=1)  # not in that page
    machine.tables.map(GB1 * 3, GB1, GB1, flags=P | W | A)
    top = machine.tables.entry(GB1 * 3, 3) >> 12
    machine.put(0x40123, made.ACTIVE, pte=made.pte_of(GB1 * 3, 3), frame=top, u2=1)
    with opened(machine) as dump:
        part = dump.pfn(0x5AB)
        assert (part.kind, part.region, part.va) == ("large page", start, start + 0x1AB000)
        stranger = dump.pfn(0x800)
        assert (stranger.kind, stranger.region, stranger.va) == (None, start, None)
        assert "page table or part of a large page" in str(stranger)
        entry = dump.pfn(0x40123)
        assert (entry.kind, entry.va) == ("large page", GB1 * 3 + 0x123000)


@pytest.mark.parametrize("frames", [(0x61, 0x60), (0x61, 0x62, 0x63, 0x64, 0x65, 0x60), (0xF_FFFF_FFFF,)])
def test_climbs_end(frames):
    machine = Machine()
    for pfn, above in zip((0x60, *frames), frames, strict=False):
        machine.put(pfn, made.ACTIVE, pte=made.pte_of(VA, 1), frame=above)
    with opened(machine) as dump:
        entry = dump.pfn(0x60)
        assert (entry.kind, entry.va, entry.dtb) == ("page", VA, None)


def test_a_climb_stops_at_a_prototype():
    machine = Machine()
    table, directory, _ = machine.frames
    machine.put(table, made.ACTIVE, pte=made.pte_of(VA, 2), frame=directory, prototype=1)
    with opened(machine) as dump:
        assert dump.pfn(0x50).dtb is None


@pytest.mark.parametrize("pte", [0, 8, (1 << 64) - 8, made.PTES - 8, made.PTES + (1 << 39), VA])
def test_a_pte_address_outside_the_self_map(pte):
    machine = Machine()
    machine.put(0x60, made.ACTIVE, pte=pte, frame=machine.frames[0])
    with opened(machine) as dump:
        entry = dump.pfn(0x60)
        assert (entry.kind, entry.va, entry.region, entry.pte_address) == (None, None, None, pte)


def test_random_entries_decode():
    rng = random.Random(4)
    machine = Machine()
    machine.write(BASE + 0x60 * 0x30, rng.randbytes(0x30 * 80))
    with opened(machine) as dump:
        for pfn in range(0x60, 0x60 + 80):
            entry = dump.pfn(pfn)
            assert f"PFN {pfn:08X}" in str(entry)
            assert entry.to_dict()["state"] == entry.state


# ---- what is missing ----


def test_unreadable_entries_say_why():
    machine = Machine()
    machine.put(0x3000, made.FREE)
    page = BASE + 0x3000 * 0x30 & ~0xFFF
    del machine.memory.pages[machine.at[page]]
    with opened(machine) as dump:
        with pytest.raises(kdmp.NotInDumpError) as caught:
            dump.pfn(0x3000)
        assert "frame 0x3000 in the PFN database" in caught.value.__notes__[0]
        with pytest.raises(kdmp.NotPresentError):
            dump.pfn(0x10_0000)
        with pytest.raises(kdmp.UnreadableError, match="beyond any PFN database"):
            dump.pfn(1 << 40)
        with pytest.raises(kdmp.UnreadableError, match="beyond any PFN database"):
            dump.pfn(-1)
        assert 0x50 in dump.pfns
        assert 0x3000 not in dump.pfns
        assert "0x50" not in dump.pfns
        with pytest.raises(TypeError):
            dump.pfn("50")


def test_frames_that_are_no_ram():
    machine = Machine()
    block = machine.kdbg(runs=[(1, 0x5F), (0x100, 0x10)])
    with opened(machine, kd_debugger_data_block=block) as dump:
        assert dump.pfns.ram == ((1, 0x5F), (0x100, 0x10))
        assert len(dump.pfns) == 0x110
        assert dump.pfn(0x50).state == "Active"
        for pfn in (0, 0x60, 0xFF, 0x110, -1):
            with pytest.raises(kdmp.UnreadableError, match="is not RAM of this machine, whose last is 0x10f"):
                dump.pfn(pfn)


def test_missing_entries_are_unknown():
    machine = Machine()
    for pfn in range(0x300):
        machine.put(pfn, made.STANDBY)
    machine.put(1, made.ACTIVE, frame=1)
    block = machine.kdbg(runs=[(0, 0x400)])
    lost = machine.at[BASE + 0x3000]
    del machine.memory.pages[lost]
    # Entries 0x100 to 0x155 touch the page at +0x3000; from 0x300 on nothing is mapped.
    with opened(machine, kd_debugger_data_block=block) as dump:
        states = dump.pfns.summary().states
        assert states["unknown"] == 0x56 + 0x100
        assert (states["Standby"], states["Active"]) == (0x300 - 0x56 - 1, 1)
        np = pytest.importorskip("numpy")
        table = dump.pfns.arrays()
        assert np.count_nonzero(~table["known"]) == 0x156
        assert not table["state"][0x100:0x156].any()
        assert dump.pfns.arrays(0x50, 0x60)["pfn"].tolist() == list(range(0x50, 0x60))
        assert len(dump.pfns.arrays(0x400)) == 0
    # Without the list of RAM, frames without a page of the database are taken to be none.
    with opened(machine) as dump:
        summary = dump.pfns.summary()
        assert summary.unknown == 0x56
        assert summary.source.startswith("up to the last frame")
        np = pytest.importorskip("numpy")
        assert len(dump.pfns.arrays()) == summary.total == len(dump.pfns)


@pytest.mark.parametrize(
    "runs",
    [
        [], [(0, 0)], [(5, 5), (1, 2)], [(0, 10), (5, 10)], [(0, 1 << 41)], [((1 << 64) - 1, 2)],
        [(0, 1 << 35)], [(k * 2, 1) for k in range(5000)],
    ],
    ids=["empty", "no frames", "descending", "overlapping", "beyond", "wraps", "too much", "too many"],
)  # fmt: skip
def test_a_list_of_ram_that_is_not_believed(runs):
    machine = Machine()
    machine.kdbg()
    block = machine.kdbg(runs=runs[:20])
    machine.write(VARIABLES + 0x20, struct.pack("<Q", len(runs)))
    with opened(machine, kd_debugger_data_block=block) as dump:
        assert dump.pfns.ram == ((0, dump.figures["pfn_end"]),)
        assert dump.pfn(0x50).state == "Active"


def test_a_full_dump_knows_its_ram():
    machine = Machine()
    image = machine.memory.dump(FULL, minor_version=19041, pfn_database=BASE)
    with kdmp.open(image) as dump:
        assert dump.pfns.ram == tuple((run.pfn, run.count) for run in dump.pages.runs())
        assert dump.pfns.ram_source == "runs in the header"
        with pytest.raises(kdmp.UnreadableError, match="is not RAM"):
            dump.pfn(0x51)


def test_nothing_is_known_of_the_layout():
    with opened(Machine(), minor_version=None) as dump, pytest.raises(kdmp.KdmpError):
        dump.pfn(0x50)


def test_arrays_without_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with opened(Machine()) as dump, pytest.raises(ImportError, match=r"arrays\(\) needs numpy"):
        dump.pfns.arrays()


# ---- text ----


def test_text_as_of_windbg():
    machine = Machine(7601)
    table = machine.frames[0]
    with opened(machine) as dump:
        entry = dump.pfn(0x50)
    assert str(entry).splitlines() == [
        "    PFN 00000050 at address FFFF900000000F00",
        "    flink       00000007  blink / share count 00000001  pteaddress FFFFF6BFF8000028",
        "    reference count 0002    Cached     color 0    Priority 5",
        f"    restore pte 00000080  containing page {table:06X}  Active     M",
        "    Modified",
        "    page at va 7ff000005000, root 1000",
    ]
    assert entry.original == "demand zero, ReadWrite"
    facts = entry.to_dict()
    assert facts["pte_frame"] == table
    assert "blink" not in facts
    with pytest.raises(AttributeError):
        entry.pfn = 3


def test_text_of_flags_and_lists():
    machine = Machine()
    machine.put(
        0x60, made.STANDBY, u1=0x61, u2=0x5F, flags=7, prototype=1, e3=0xC3, pte=0xFFFF_B000_0000_1000
    )
    with opened(machine) as dump:
        entry = dump.pfn(0x60)
    text = str(entry)
    assert "blink / share count 0000005F" in text
    assert "Standby    MPRWXE" in text
    assert "Modified Shared ReadInProgress WriteInProgress RemovalRequested ParityError" in text
    assert text.endswith("prototype")


def test_original_pte_in_words():
    machine = Machine()
    machine.put(0x60, made.ACTIVE, original=0x12_0000_2090)  # swizzled by nothing: bit 4 is set
    machine.put(0x61, made.ACTIVE, original=0xA480_3E50_4730_0430, prototype=1)
    machine.put(0x62, made.ACTIVE, original=0x81)
    with opened(machine) as dump:
        assert dump.pfn(0x60).original == "page file 2, page 12, ReadWrite"
        assert dump.pfn(0x61).original.startswith("subsection ffffa4803e504730")
        assert dump.pfn(0x62).original is None


def test_counting_by_something_else():
    with opened(Machine()) as dump:
        summary = dump.pfns.summary()
    with pytest.raises(ValueError, match="cannot count by"):
        summary.by("colour")
    with pytest.raises(ValueError, match="cannot count by"):
        summary.by()
