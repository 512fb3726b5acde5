"""kdmp.doctor on the way into memory: the root, the debugger data block, the lists.

SPDX-License-Identifier: MIT
"""

import re
import struct
import time

import pytest
from doctordumps import (
    BASES,
    ERROR,
    INFO,
    KDBG,
    MODULE,
    MODULES,
    PA,
    PFNS,
    PROCESS,
    PROCESSES,
    ROOT,
    WARNING,
    Machine,
    bad,
    codes,
    only,
    poke,
)
from dumpbuilder import (
    BITMAP,
    FULL,
    PAGE,
    RANGES8,
)

import kdmp
from kdmp import doctor, sample
from kdmp.doctor import examine
from kdmp.sample import EPROCESS

SECONDS = 1.0


# ---- the way into memory ----


@pytest.mark.parametrize("kind", [FULL, BITMAP, RANGES8])
def test_root_that_is_not_in_the_dump(kind):
    report = examine(Machine().dump(kind, directory_table_base=0x20000))
    finding = only(report.findings, "dtb-frame")
    assert (finding.severity, finding.offset) == (ERROR, 0x10)
    assert "frame 0x20 was not captured" in finding.message
    assert not any("virtual" in text for text in report.works)
    high = only(examine(Machine().dump(kind, directory_table_base=0x7F000000)).findings, "dtb-frame")
    assert "above the highest one described, 0x404" in high.message


def test_root_behind_the_cut():
    machine = Machine()
    machine.pages[0x500] = machine.pages.pop(1)
    finding = only(examine(machine.dump(FULL, directory_table_base=0x500000)[:-PAGE]).findings, "dtb-frame")
    assert "beyond the end of the cut file" in finding.message


@pytest.mark.parametrize("paging", ["x64", "pae", "x86", "arm64"])
def test_root_of_nothing(paging):
    machine = Machine(paging)
    machine.pages[9] = bytearray(PAGE)
    report = examine(machine.dump(directory_table_base=0x9000))
    finding = only(report.findings, "dtb")
    assert finding.severity == ERROR
    assert "does not map the kernel: it has no entries for the kernel" in finding.message
    assert bad(report) == {"dtb"}  # nothing that follows from it


def test_root_whose_tables_are_missing():
    machine = Machine()
    del machine.pages[3]
    finding = only(examine(machine.dump()).findings, "dtb")
    assert "page tables of it are not in the dump" in finding.message
    assert "level 2 (frame 0x3)" in finding.message


def test_root_whose_tables_are_cut_off():
    machine = Machine()
    machine.pages[0x500] = machine.pages.pop(2)
    machine.pages[1][8 * 0x1F0 : 8 * 0x1F0 + 8] = (0x500003).to_bytes(8, "little")
    finding = only(examine(machine.dump()[:-PAGE]).findings, "dtb")
    assert "beyond the end of the cut file" in finding.message


def test_root_that_makes_no_sense():
    machine = Machine()
    machine.pages[1][8 * 0x1F0] |= 0x80  # a large page at the root
    assert "make no sense" in only(examine(machine.dump()).findings, "dtb").message


def test_frames_of_the_kernel_missing():
    """The root is right; the frame with the heads and the debugger data block was not captured."""
    machine = Machine()
    del machine.pages[PA + KDBG >> 12]
    report = examine(machine.dump())
    assert bad(report) == {"kdbg-unreadable", "list-unreadable"}
    assert "its frame 0x401 is not in the dump" in only(report.findings, "kdbg-unreadable").message
    assert len(report.findings) >= 3


@pytest.mark.parametrize("low, severity", [(1, INFO), (2, INFO), (8, INFO)])
def test_flags_in_the_root(low, severity):
    finding = only(examine(Machine().dump(directory_table_base=ROOT | low)).findings, "dtb-flags")
    assert (finding.severity, finding.found) == (severity, ROOT | low)
    assert ("KVA shadow" in finding.message) == (low < 8)


def test_user_root_of_kva_shadow():
    machine = Machine()
    machine.pages[9] = bytearray(PAGE)
    report = examine(machine.dump(directory_table_base=0x9001))
    assert only(report.findings, "dtb-flags").severity == WARNING
    assert "dtb" in codes(report)


def test_bits_above_physical_memory():
    finding = only(examine(Machine().dump(directory_table_base=ROOT | 1 << 60)).findings, "dtb-flags")
    assert finding.severity == WARNING


def test_no_address_to_try():
    none = dict.fromkeys(("kd_debugger_data_block", "ps_loaded_module_list", "ps_active_process_head"))
    found = {f.code: f.severity for f in examine(Machine().dump(**none)).findings}
    assert found["dtb-untested"] == INFO
    assert found["paging-default"] == INFO


def test_deep_examination_finds_another_root(tmp_path):
    path = tmp_path / "sample.dmp"
    sample.build(path)
    with kdmp.open(path) as dump:
        pages = {pfn: bytes(dump.pages[pfn]) for pfn in dump.pages} | {0x9: bytes(PAGE)}
        header = dump.header | {"directory_table_base": 0x9000}
    kdmp.write_dump(path, BITMAP, pages, header=header)
    assert "a deep examination" in only(examine(path).findings, "dtb").advice
    advice = only(examine(path, deep=True).findings, "dtb").advice
    another = int(re.search(r"open with dtb=(0x[0-9a-f]+)", advice)[1], 16)
    with kdmp.open(path, dtb=another) as dump:
        assert "dtb" not in {finding.code for finding in dump.findings}
    with kdmp.open(path) as dump:
        assert only(doctor.examine_dump(dump, deep=True), "dtb").severity == ERROR
    machine = Machine()
    machine.pages[9] = bytearray(PAGE)
    image = machine.dump(directory_table_base=0x9000)
    assert "no other root" in only(examine(image, deep=True).findings, "dtb").advice


def test_pae_that_lies():
    finding = only(examine(Machine("pae").dump(pae_enabled=0)).findings, "pae")
    assert (finding.severity, finding.offset, finding.expected, finding.found) == (WARNING, 0x5C, 1, 0)


def test_kdbg_that_contradicts_the_header_about_pae():
    machine = Machine("pae")
    machine.put(KDBG + 0x36, b"\0\0")
    assert only(examine(machine.dump()).findings, "kdbg-pae").severity == INFO


# ---- the debugger data block ----


def encode(block):
    """The encoding of windows-objects.md 1.4, with its test keys."""
    never, always, address = 0x123456789ABCDEF5, 0x0FEDCBA987654321, 0xFFFFF8041234ABCD
    out = b""
    for (plain,) in struct.iter_unpack("<Q", block):
        value = int.from_bytes((always ^ plain).to_bytes(8, "little"), "big") ^ address
        turn = never & 0x3F
        out += struct.pack("<Q", (never ^ (value >> turn | value << 64 - turn)) & (1 << 64) - 1)
    return out


def test_encoded_kdbg():
    """pitfalls.md R14."""
    assert encode(struct.pack("<Q", 0x000003804742444B)) == struct.pack("<Q", 0xD4CA77A7788ACA5A)
    machine = Machine()
    at = PA + KDBG
    machine.put(KDBG, encode(bytes(machine.pages[at >> 12][at % PAGE : at % PAGE + 0x380])))
    report = examine(machine.dump())
    finding = only(report.findings, "kdbg-encoded")
    assert (finding.severity, finding.offset, finding.expected) == (WARNING, 0x80, b"KDBG")
    assert finding.found == bytes.fromhex("5aca8a78")
    assert bad(report) == {"kdbg-encoded"}
    # Windows 7 does not encode.
    assert "kdbg-invalid" in codes(examine(machine.dump(minor_version=7601)))


def test_something_else_where_kdbg_should_be():
    machine = Machine()
    machine.put(KDBG, bytes(0x380))
    finding = only(examine(machine.dump()).findings, "kdbg-invalid")
    assert (finding.severity, finding.found) == (WARNING, bytes(4))
    assert "zeros" in finding.message
    machine.put(KDBG + 0x20, b"something")
    assert "something else" in only(examine(machine.dump()).findings, "kdbg-invalid").message


@pytest.mark.parametrize(
    "size, fits", [(0x340, True), (0x3A0, True), (0x2C, False), (0x387, False), (0x5000, False)]
)
def test_size_of_kdbg(size, fits):
    machine = Machine()
    machine.put(KDBG + 0x14, struct.pack("<I", size))
    assert ("kdbg-size" in codes(examine(machine.dump()))) != fits


def test_kernel_base():
    machine = Machine()
    machine.put(0, b"ZM")
    finding = only(examine(machine.dump()).findings, "kernel-base")
    assert (finding.severity, finding.found) == (WARNING, b"ZM")
    del machine.pages[PA >> 12]
    finding = only(examine(machine.dump()).findings, "kernel-base")
    assert finding.severity == INFO
    assert "frame 0x400 is not in the dump" in finding.message


def test_kdbg_names_other_lists():
    machine = Machine()
    other = machine.va(0x7000)
    machine.put(KDBG + 0x50, struct.pack("<Q", other))
    finding = only(examine(machine.dump()).findings, "kdbg-lists")
    assert (finding.offset, finding.expected, finding.found) == (0x28, other, machine.va(PROCESSES))


def test_pfn_database():
    machine = Machine()
    variable = only(examine(machine.dump()).findings, "pfn-database")
    assert "the address of MmPfnDatabase" in variable.message
    assert f"which is at {machine.va(0x100000):#x}" in variable.message
    value = only(examine(machine.dump(pfn_database=machine.va(0x100000))).findings, "pfn-database")
    assert (value.severity, value.advice) == (INFO, "use it as it is")
    neither = only(examine(machine.dump(pfn_database=machine.va(0x123))).findings, "pfn-database")
    assert (neither.severity, neither.expected) == (WARNING, machine.va(0x100000))
    machine.put(KDBG + 0xC0, bytes(8))
    guess = only(examine(machine.dump()).findings, "pfn-database")
    assert "the address of MmPfnDatabase" in guess.message


# ---- lists ----

LISTS = {"ps_loaded_module_list": MODULES, "ps_active_process_head": PROCESSES}


@pytest.mark.parametrize("paging", BASES)
def test_process_head_is_a_process(paging):
    """pitfalls.md R14, MemProcFS#417."""
    machine = Machine(paging)
    process = machine.va(PROCESS + 0x800)
    report = examine(machine.dump(ps_active_process_head=process))
    finding = only(report.findings, "list-head")
    assert (finding.severity, finding.offset) == (ERROR, 0x28 if machine.width == 8 else 0x1C)
    assert "that of a process object" in finding.message
    assert f"links to other processes are at +{machine.links:#x}" in finding.message
    assert f"{machine.va(PROCESSES):#x}" in finding.advice  # as the debugger data block has it
    machine.put(KDBG + 0x50, bytes(8))
    finding = only(examine(machine.dump(ps_active_process_head=process)).findings, "list-head")
    assert f"{process + machine.links:#x}" in finding.advice


def test_the_process_in_the_sample_is_told(tmp_path):
    facts = sample.build(tmp_path / "sample.dmp")
    image = poke((tmp_path / "sample.dmp").read_bytes(), (0x28, "<Q", facts.processes[2].eprocess))
    finding = only(examine(image).findings, "list-head")
    assert f"+{EPROCESS['ActiveProcessLinks']:#x}" in finding.message


@pytest.mark.parametrize("field", LISTS)
def test_what_is_no_list_head(field):
    machine = Machine()
    finding = only(examine(machine.dump(**{field: machine.va(0x5F00)})).findings, "list-unreadable")
    assert finding.severity == ERROR  # this page does not exist
    finding = only(examine(machine.dump(**{field: machine.va(0x1A00)})).findings, "list-head")
    assert finding.severity == ERROR  # zeros
    machine.pointer(0x1A00, machine.va(PFNS))
    finding = only(examine(machine.dump(**{field: machine.va(0x1A00)})).findings, "list-head")
    assert "points back to 0x0" in finding.message
    assert (finding.expected, finding.found) == (machine.va(LISTS[field]), machine.va(0x1A00))
    unmapped = only(examine(machine.dump(**{field: machine.va(0x400000)})).findings, "list-unreadable")
    assert "no page is mapped there" in unmapped.message


@pytest.mark.parametrize("field", LISTS)
def test_cycle_that_avoids_the_head(field):
    """pitfalls.md R8."""
    machine = Machine()
    first = machine.va(MODULE if field == "ps_loaded_module_list" else PROCESS + machine.links)
    last = (MODULE + 0x200) if field == "ps_loaded_module_list" else PROCESS + 0x1000 + machine.links
    machine.pointer(last, first)
    report = examine(machine.dump())
    finding = only(report.findings, "list-broken")
    assert (finding.severity, finding.found) == (WARNING, 3)
    assert f"returns to the entry at {first:#x}" in finding.message
    assert sum("the list of" in text for text in report.works) == 1


@pytest.mark.parametrize("target", [0, 1, 0xFFFFFFFFFFFFFFFF, 0xFFFFF8000000DEAD, 0x8000000000000000])
def test_link_to_nowhere(target):
    machine = Machine()
    machine.pointer(MODULE + 0x100, target)
    finding = only(examine(machine.dump()).findings, "list-broken")
    assert f"after 2 entries: the entry at {target:#x} cannot be read" in finding.message


def test_first_entry_missing():
    machine = Machine()
    machine.pointer(MODULES, machine.va(0x8000))
    finding = only(examine(machine.dump()).findings, "list-broken")
    assert "The first entry" in finding.message
    assert (finding.expected, finding.found) == (machine.va(MODULES), machine.va(0x8000))


def test_entries_that_do_not_point_back():
    machine = Machine()
    machine.pointer(MODULE + 0x100 + 8, machine.va(0x1234))
    machine.pointer(MODULES + 8, machine.va(MODULE))
    finding = only(examine(machine.dump()).findings, "list-broken")
    assert finding.found == 2
    assert f"the first at {machine.va(MODULE + 0x100):#x}" in finding.message
    live = only(examine(machine.dump(attributes=0x10)).findings, "list-broken")
    assert live.advice == "the system ran on meanwhile"


def test_a_long_list():
    machine = Machine()
    machine.ring(MODULES, [0x10000 + 16 * k for k in range(5000)])
    started = time.process_time()
    finding = only(examine(machine.dump()).findings, "list-long")
    assert time.process_time() - started < SECONDS
    assert (finding.severity, finding.found) == (INFO, 4096)


def test_an_empty_list_is_a_list():
    machine = Machine()
    machine.ring(MODULES, [])
    report = examine(machine.dump())
    assert report.healthy
    assert not any("modules" in text for text in report.works)
