"""`Reader.explain`, `is_resident`, page files, owners: the machines, and dumps built for the rest.

SPDX-License-Identifier: MIT
"""

import pickle
import sys

import pytest
from archtables import ArchTables
from archtables import dump as archdump
from clidumps import triage_dump
from dumpbuilder import PROTOTYPE, TRANSITION, Memory, P, Tables, U, W
from shareddata import MACHINES, machine_dump, truth

import kdmp
from kdmp.freeptes import page_files, why_no_page_file
from kdmp.mappings import STATES

VA, KERNEL_VA = 0x7FF0_0000_5000, 0xFFFF_F800_0000_5000


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """A cache of the tests' own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def space(entry, *, level=1, va=VA, build=19041, extra=(), **options):
    """An open dump in which the entry of `va` at `level` has this value, and its kernel half's pages."""
    memory = Memory()
    tables = Tables(memory)
    memory.put_u64(tables.entry(va, level), entry)
    for address, pa in extra:
        tables.map(address, pa, flags=P | W)
    memory.fill(0x20, 0x21)
    memory.put_u64(0x20000 + 8, options.pop("proto", 0))
    return kdmp.open(memory.dump(minor_version=build), **options)


def proto_entry(address):
    """A prototype reference whose mask bits are its own."""
    return (address & (1 << 48) - 1) << 16 | PROTOTYPE | 0x10


# ---- the machines ----

REASONS = {
    "valid": {"readable", "not_in_dump"},
    "transition": {"readable", "not_in_dump"},
    "prototype-valid": {"readable", "not_in_dump"},
    "prototype-transition": {"readable", "not_in_dump"},
    "prototype-subsection": {"file_backed"},
    "prototype-pagefile": {"paged_out"},
    "prototype-zero": {"demand_zero"},
    "vad-prototype": {"readable", "not_in_dump"},
    "demand-zero": {"demand_zero"},
    "pagefile": {"paged_out"},
    "zero": {"empty", "untouched"},
    "unmapped": {"empty", "reserved"},
}


@pytest.mark.parametrize("kind", ["full", "kernel", "rdmp8"])
@pytest.mark.parametrize("machine", MACHINES)
def test_machines(machine, kind):
    """The reason is the sample's state's; a page is readable exactly if its frame was captured."""
    samples, seen = truth(machine)["ptes"], set()
    with kdmp.open(machine_dump(machine, kind)) as dump:
        frames = dump.pages
        for sample in samples:
            reader = dump.reader(sample["dtb"])
            explanation = reader.explain(sample["va"])
            state = sample["state"] + (f"-{sample['resolves']}" if sample["state"] == "prototype" else "")
            if explanation.reason == "table_not_in_dump":
                missing = [e for e in sample["entries"] if e["pa"] >> 12 not in frames]
                assert missing or sample.get("damage") or machine == "win10-19041-damaged"
                continue
            if explanation.reason == "prototype":  # its page of prototype PTEs was not captured
                assert kind != "full"
                continue
            assert explanation.reason in REASONS[state], (hex(sample["va"]), str(explanation))
            seen.add(state)
            if explanation.reason in ("readable", "not_in_dump"):
                assert explanation.pa == sample["pa"]
                assert explanation.in_dump == (sample["pa"] >> 12 in frames)
            readable = reader.is_readable(sample["va"])
            assert explanation.readable == readable == reader.is_resident(sample["va"])
            if readable:
                size = min(16, 0x1000 - sample["va"] % 0x1000)
                assert dump.read_file(explanation.file_offset, size) == reader.read(sample["va"], size)
            if state == "pagefile":
                assert (explanation.pagefile, explanation.pagefile_page) == (
                    sample["pagefile"],
                    sample["offset"],
                )
            assert str(explanation).startswith(f"{sample['va']:#x} ")
    if kind == "full":
        assert seen == set(REASONS)


# ---- one of each ----


def test_readable():
    with space(0x20000 | P | W | U) as dump:
        found = dump.reader().explain(VA + 0x10)
        assert (found.reason, found.pa, found.pfn, found.level) == ("readable", 0x20010, 0x20, 1)
        assert dump.read_file(found.file_offset, 8) == dump.reader().read(VA + 0x10, 8)
        assert str(found) == (
            f"{VA + 0x10:#x} is readable from frame 0x20 at file offset {found.file_offset:#x}."
        )
        assert found.to_dict()["readable"] is True
        assert "pagefile" not in found.to_dict()


def test_frame_and_table_not_in_dump():
    with space(0x99000 | P | W | U) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.readable, found.in_dump, found.pfn) == ("not_in_dump", False, False, 0x99)
        assert "frame 0x99 is not in this dump" in str(found)
        assert not dump.reader().is_resident(VA)
    with space(0x99000 | P | W | U, level=2) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.level) == ("table_not_in_dump", 1)
        assert "page table of level 1 (frame 0x99) is not in this dump" in str(found)


def test_truncated():
    memory = Memory()
    tables = Tables(memory)
    tables.map(VA, 0x21000)
    memory.fill(0x20, 0x21)
    image = memory.dump(minor_version=19041)
    with kdmp.open(image[:-0x1000]) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.readable) == ("truncated", False)
        assert "beyond the end of the cut short file" in str(found)


def test_demand_zero_and_zero_fill():
    with space(4 << 5) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.protection_name) == ("demand_zero", "ReadWrite")
        assert "zero_fill=True" in found.suggestion
        reader = dump.reader(zero_fill=True)
        found = reader.explain(VA)
        assert (found.reason, found.readable, found.suggestion) == ("zero_filled", True, None)
        assert reader.read_exact(VA, 0x1000) == bytes(0x1000)
        assert not reader.is_resident(VA)
        assert reader.at(dump.dtb).zero_fill


def test_prototype():
    place = KERNEL_VA + 8
    with space(proto_entry(place), extra=[(KERNEL_VA, 0x20000)], proto=0x21000 | P | W) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.state, found.prototype, found.pfn) == (
            "readable",
            "prototype",
            place,
            0x21,
        )
        assert f"prototype PTE at {place:#x}" in str(found)
        assert dump.reader().is_resident(VA)
        assert dump.reader().pte(VA).prototype.pa == 0x20008
    with space(proto_entry(place), extra=[(KERNEL_VA, 0x20000)], proto=0x99000 | P | W) as dump:
        assert dump.reader().explain(VA).reason == "not_in_dump"
    with space(proto_entry(place), extra=[(KERNEL_VA, 0x20000)], proto=0) as dump:
        found = dump.reader().explain(VA)
        assert found.reason == "empty"
        assert "not committed" in str(found)
    with space(proto_entry(place)) as dump:
        assert dump.reader().explain(VA).reason == "prototype"


def test_prototypes_are_read_by_the_kernels_root():
    """A root that does not map the prototype PTE gets help from the dump's own."""
    memory = Memory()
    kernel, user = Tables(memory), Tables(memory, root=0x40000, spare=0x41)
    kernel.map(KERNEL_VA, 0x20000, flags=P | W)
    memory.put_u64(0x20008, 0x21000 | P | W)
    memory.fill(0x21)
    memory.put_u64(user.entry(VA), proto_entry(KERNEL_VA + 8))
    with kdmp.open(memory.dump(minor_version=19041)) as dump:
        reader = dump.reader(0x40000)
        assert reader.kernel_dtb == 0x1000
        assert reader.explain(VA).pfn == 0x21
        assert reader.pte(VA).prototype.pa == 0x20008


def test_transition():
    with space(0x21000 | TRANSITION | 4 << 5) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.state, found.pfn, found.protection) == ("readable", "transition", 0x21, 4)
        assert "in transition" in str(found)
        assert dump.reader().is_resident(VA)
    with space(0x99000 | TRANSITION | 4 << 5) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.state, found.readable) == ("not_in_dump", "transition", False)
        assert found.pfn == 0x99


def test_paged_out_and_page_files(tmp_path):
    entry = 3 << 32 | 1 << 12 | 4 << 5 | 0x10
    with space(entry) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.pagefile, found.pagefile_page, found.compressed) == (
            "paged_out",
            1,
            3,
            False,
        )
        assert "pagefiles={1: PATH}" in found.suggestion
    path = tmp_path / "pagefile.sys"
    path.write_bytes(bytes(0x3000) + b"paged".ljust(0x1000, b"."))
    for files in ({1: path}, [None, str(path)]):
        with space(entry, pagefiles=files) as dump:
            reader = dump.reader()
            found = reader.explain(VA)
            assert (found.reason, found.readable) == ("from_pagefile", True)
            assert reader.read(VA, 5) == b"paged"
            assert not reader.is_resident(VA)
    with pytest.raises(ValueError, match="0 to 15"):
        space(entry, pagefiles={16: path})
    with pytest.raises(FileNotFoundError):
        space(entry, pagefiles=[tmp_path / "absent"])


def test_page_files_survive_pickling(tmp_path):
    path, image = tmp_path / "pagefile.sys", tmp_path / "memory.dmp"
    path.write_bytes(bytes(0x3000) + b"paged".ljust(0x1000, b"."))
    memory = Memory()
    memory.put_u64(Tables(memory).entry(VA), 3 << 32 | 4 << 5 | 0x10)
    image.write_bytes(memory.dump(minor_version=19041))
    with kdmp.open(image, pagefiles=[path]) as dump:
        again = pickle.loads(pickle.dumps(dump.reader()))
    assert again.read(VA, 5) == b"paged"


def test_compression_store():
    with space(3 << 32 | 2 << 12 | 4 << 5 | 0x10) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.compressed) == ("paged_out", None)
        assert "2 is usually the compression store" in str(found)
    with space(3 << 32 | 4 << 5 | 1 << 3 | 0x10, build=9600) as dump:  # InStore
        found = dump.reader().explain(VA)
        assert (found.reason, found.compressed) == ("compressed", True)
    with space(3 << 32 | 2 << 12 | 4 << 5 | 0x10, build=9600) as dump:
        assert dump.reader().explain(VA).compressed is False


def test_subsection_vad_and_empty():
    place = KERNEL_VA + 8
    with space(proto_entry(place), extra=[(KERNEL_VA, 0x20000)], proto=proto_entry(KERNEL_VA)) as dump:
        assert dump.reader().explain(VA).reason == "file_backed"
    with space(0xFFFFFFFF_00000430) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.protection_name) == ("vad", "ReadOnly")
    with space(0) as dump:
        user, kernel = dump.reader().explain(VA), dump.reader().explain(KERNEL_VA)
        assert user.reason == kernel.reason == "empty"
        assert "VAD" in str(user)
        assert "VAD" not in str(kernel)
        assert "its PXE is empty" in str(kernel)


def test_page_table_that_is_paged_out():
    with space(3 << 32 | 4 << 5 | 0x10, level=2) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.level, found.pagefile_page) == ("paged_out", 2, 3)
        assert "page table of level 1" in str(found)


# ---- free entries of the kernel's own PTE ranges ----


KDBG, COUNT = KERNEL_VA + 0x1000, KERNEL_VA + 0x2000
LISTED = 0x12 << 32 | 3 << 12 | 2 | 0x10  # OneEntry, NextEntry 0x120: or page 0x12 of page file 3


def kernel_space(entry, *, count=None, level=1, build=19041, **options):
    """A dump in which a kernel address has this entry, and KDBG says how many page files there are."""
    memory = Memory()
    tables = Tables(memory)
    memory.put_u64(tables.entry(KERNEL_VA, level), entry)
    if count is not None:
        tables.map(KDBG, 0x22000, flags=P | W)
        tables.map(COUNT, 0x23000, flags=P | W)
        block = bytearray(0x380)
        block[0x10:0x18] = b"KDBG" + len(block).to_bytes(4, "little")
        block[0xE0:0xE8] = COUNT.to_bytes(8, "little")
        memory.put(0x22000, block)
        memory.put(0x23000, count.to_bytes(4, "little"))
    block_at = KDBG if count is not None else 0
    return kdmp.open(memory.dump(minor_version=build, kd_debugger_data_block=block_at), **options)


@pytest.mark.parametrize("count", [None, 0, 4, 16, 17, 1 << 31])
def test_kernel_entries_are_not_paged_out_for_certain(count):
    """The file exists, or nobody knows: both readings stand, and both are given."""
    with kernel_space(LISTED, count=count) as dump:
        found, row = dump.reader().explain(KERNEL_VA), dump.reader().pte(KERNEL_VA).rows[-1]
        assert (found.reason, found.certain, found.readable) == ("paged_out_or_free", False, False)
        assert (found.pagefile, found.pagefile_page) == (3, 0x12)
        assert "may be paged out" in str(found)
        assert "do not tell" in str(found)
        assert found.readings == row.readings
        assert (found.readings["list"]["NextEntry"], found.readings["list"]["OneEntry"]) == (0x120, 1)
        assert found.readings["timestamp"]["GlobalTimeStamp"] == 0x12
        assert found.to_dict()["certain"] is False
        assert row.kind == "pagefile"


def test_kernel_entry_that_names_a_page_file_that_does_not_exist():
    with kernel_space(LISTED, count=3) as dump:
        found = dump.reader().explain(KERNEL_VA)
        assert (found.reason, found.certain, found.pagefile) == ("free_pte", True, None)
        assert "the machine has no page file 3" in str(found)
        assert "paged out" not in str(found)
        assert found.readings["list"]["NextEntry"] == 0x120


def test_user_entries_are_what_they_say():
    """No list entries there: the reading as a page file stays, whatever the number of files."""
    with space(LISTED) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.certain, found.readings) == ("paged_out", True, None)
        assert dump.reader().pte(VA).rows[-1].readings is None


def test_prototype_ptes_are_no_free_entries():
    """A page-file entry behind a prototype PTE is one, in kernel space, too."""
    place = COUNT + 8
    memory = Memory()
    tables = Tables(memory)
    memory.put_u64(tables.entry(KERNEL_VA), proto_entry(place))
    tables.map(COUNT, 0x23000, flags=P | W)
    memory.put_u64(0x23008, LISTED)
    found = kdmp.open(memory.dump(minor_version=19041)).reader().explain(KERNEL_VA)
    assert (found.reason, found.certain, found.pagefile) == ("paged_out", True, 3)


def test_last_entry_of_a_list():
    """All bits of NextEntry set: no VAD is to be asked in kernel space, but one of user space is."""
    for value, reason in ((0xFFFF_FFFF_0000_0002, "free_pte"), (0xFFFF_FFFF_0000_0400, "vad")):
        with kernel_space(value) as dump:
            found = dump.reader().explain(KERNEL_VA)
            assert found.reason == reason
            assert (found.certain, found.readings is None) == (reason == "vad", reason == "vad")
    with space(0xFFFF_FFFF_0000_0002) as dump:
        assert dump.reader().explain(VA).reason == "vad"


def test_kernel_entries_and_given_page_files(tmp_path):
    """What is given is read; that it may be another kind of entry is said."""
    path = tmp_path / "pagefile.sys"
    path.write_bytes(bytes(0x12000) + b"paged".ljust(0x1000, b"."))
    with kernel_space(LISTED, pagefiles={3: path}) as dump:
        found = dump.reader().explain(KERNEL_VA)
        assert (found.reason, found.readable, found.certain) == ("from_pagefile", True, False)
        assert "unless" in str(found)


@pytest.mark.parametrize("machine", ["win7-7601", "win10-19041"])
def test_kernel_ranges_of_the_machines(machine):
    """Nothing of kernel space is said to be paged out for certain."""
    with kdmp.open(machine_dump(machine, "full")) as dump:
        reader, seen = dump.reader(), 0
        for one in reader.mappings(half="kernel", states="pagefile"):
            found = reader.explain(one.start)
            assert (found.reason, found.certain) == ("paged_out_or_free", False)
            seen += 1
        assert seen


class PageFileArray:
    """A reader that has nothing but MmPagingFile: for `page_files`."""

    paging, kernel_dtb = "x64", None
    base, array = 0xFFFF_F800_0000_0000, 0x1000

    def __init__(self, pointers, sizes, symbol="MmPagingFile"):
        self.data = {self.base + self.array: b"".join(p.to_bytes(8, "little") for p in pointers)}
        self.data |= {at: size.to_bytes(8, "little") for at, size in sizes.items()}
        self.owner = self.kernel = self.structure_layout = self.windows = self
        self.exact, self.symbols, self.kdbg = True, {symbol}, None

    def try_read_exact(self, va, size):
        data = self.data.get(va, b"")
        return data if len(data) == size else None

    def symbol(self, name):
        return self.array

    def has(self, *names):
        return True

    def offset(self, *names):
        return 0


def test_page_files_of_the_array():
    one, two = 0xFFFF_FA80_0000_1000, 0xFFFF_FA80_0000_2000
    array = [one, 0, two, *[0] * 13]
    reader = PageFileArray(array, {one: 0x500})
    assert page_files(reader) == {0: 0x500, 2: None}
    assert why_no_page_file(reader, 0, 0x4FF) is None
    assert "has only 0x500 pages" in why_no_page_file(reader, 0, 0x500)
    assert "no page file 1" in why_no_page_file(reader, 1, 0)
    assert why_no_page_file(reader, 2, 1 << 31) is None
    assert page_files(PageFileArray([0] * 16, {})) is None
    assert page_files(PageFileArray([0x1234, *[0] * 15], {})) is None  # a user address: something else
    assert page_files(PageFileArray(array[:5], {})) is None
    assert page_files(PageFileArray(array, {}, symbol="MiState")) is None


# ---- builds whose references to prototype PTEs are not followed ----


def test_prototypes_that_are_an_index():
    with space(0x1234 << 12 | PROTOTYPE | 4 << 5 | 0x10, build=28000) as dump:
        found = dump.reader().explain(VA)
        assert (found.reason, found.suggestion) == ("prototype", None)
        assert "28000" in str(found)
        assert "index" in str(found)
        assert dump.reader().pte(VA).rows[-1].fields["ProtoIndex"] == 0x1234


def test_prototypes_of_xp():
    memory = Memory()
    tables = ArchTables(memory, "x86")
    tables.raw(0x403000, 0x1234_5000 | PROTOTYPE | 0x10)
    with kdmp.open(archdump(memory.pages, "x86", 0x1000, minor_version=2600, pae_enabled=0)) as dump:
        found = dump.reader().explain(0x403000)
        assert found.reason == "prototype"
        assert "XP" in str(found)
        assert "not followed" in str(found)
        assert {"ProtoAddressLow", "ProtoAddressHigh", "WhichPool"} <= dump.reader().pte(0x403000).rows[
            -1
        ].fields.keys()


def test_bad_entries_and_addresses():
    with space(0x20000 | P | W | 0x80, level=4) as dump:
        found = dump.reader().explain(VA)
        assert found.reason == "bad_entry"
        assert "reserved bits" in str(found)
        found = dump.reader().explain(1 << 62)
        assert (found.reason, found.level, found.state) == ("non_canonical", None, "none")


def test_physical_and_contexts():
    with space(0x20000 | P | W | U) as dump:
        found = dump.phys.explain(0x21008)
        assert (found.reason, found.pa, found.level) == ("readable", 0x21008, None)
        assert dump.phys.explain(0x99000).reason == "not_in_dump"
        assert dump.phys.is_resident(0x21008)
        reader = dump.reader()
        assert reader.explain(kdmp.phys(0x21008)) == found
        assert reader.explain(kdmp.virt(VA, dump.dtb)) == reader.explain(VA)
        assert reader.is_resident(kdmp.phys(0x21008))


def test_triage():
    with kdmp.open(triage_dump()) as dump:
        reader, one = dump.reader(), dump.ranges[0]
        found = reader.explain(one.address)
        assert (found.reason, found.readable, found.file_offset) == ("readable", True, one.file_offset)
        assert one.origin in str(found)
        assert reader.is_resident(one.address)
        away = reader.explain(0x10)
        assert (away.reason, away.readable) == ("no_range", False)
        assert len(away.ranges) == 1
        assert "the nearest are" in str(away)
        assert not reader.is_resident(0x10)


# ---- mappings and owners ----


def test_mappings_filters():
    with space(0x20000 | P | W | U, extra=[(KERNEL_VA, 0x21000), (VA + 0x10000, 0x21000)]) as dump:
        reader = dump.reader()
        every = list(reader.mappings())
        assert [m.start for m in every] == [VA, VA + 0x10000, KERNEL_VA]
        assert [m.start for m in reader.mappings(half="kernel")] == [KERNEL_VA]
        assert [m.start for m in reader.mappings(half="user")] == [VA, VA + 0x10000]
        assert [m.start for m in reader.mappings(VA + 0x20000, half="user")] == []
        assert list(reader.mappings(0, VA, half="kernel")) == []
        assert list(reader.mappings(states="transition")) == []
        assert list(reader.mappings(states=["valid", "table"])) == every
        with pytest.raises(ValueError, match="no such state"):
            reader.mappings(states="swapped")
        with pytest.raises(ValueError, match="half"):
            reader.mappings(half="lower")


@pytest.mark.parametrize("machine", ["win10-19041", "win7-7601"])
def test_mappings_array(machine):
    """The array says what the iterator says."""
    pytest.importorskip("numpy")
    with kdmp.open(machine_dump(machine, "full")) as dump:
        reader = dump.reader()
        for options in ({}, {"half": "user"}, {"states": ("valid", "transition")}):
            array = reader.mappings_array(**options)
            ranges = list(reader.mappings(**options))
            assert len(array) == len(ranges) > 10
            for row, one in zip(array, ranges, strict=True):
                assert (row["start"], row["size"], row["page_size"]) == (one.start, one.size, one.page_size)
                assert STATES[row["state"]] == one.state
                assert row["pa"] == (one.pa or 0)
                assert (bool(row["flags"] & 1), bool(row["flags"] & 4)) == (one.writable, one.user)
        assert {STATES[k] for k in reader.mappings_array()["state"]} >= {"valid", "transition"}


def test_mappings_array_without_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with space(0x20000 | P | W | U) as dump, pytest.raises(ImportError, match="needs numpy"):
        dump.reader().mappings_array()


def test_owners():
    memory = Memory()
    first, second = Tables(memory), Tables(memory, root=0x40000, spare=0x41)
    memory.fill(0x20, 0x21)
    first.map(VA, 0x21000)
    first.map(KERNEL_VA, 0x20_0000, size=0x20_0000, flags=P | W)
    second.map(VA + 0x3000, 0x21000)
    with kdmp.open(memory.dump(minor_version=19041)) as dump:
        assert dump.phys.owners(0x21) == [(0x1000, VA, 0x1000)]  # the dump's own root
        dump.reader(0x40000)
        assert dump.roots == [0x1000, 0x40000]
        assert dump.phys.owners(0x21) == [(0x1000, VA, 0x1000), (0x40000, VA + 0x3000, 0x1000)]
        assert dump.phys.owners(0x21, roots=[0x40000]) == [(0x40000, VA + 0x3000, 0x1000)]
        large = dump.phys.owners(0x234, roots=[0x1000])
        assert large == [(0x1000, (KERNEL_VA & -0x20_0000) + 0x34000, 0x20_0000)]
        assert dump.phys.owners(0x77) == []
