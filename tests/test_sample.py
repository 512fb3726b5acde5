"""The sample dump holds what its Facts say, read through kdmp.

SPDX-License-Identifier: MIT
"""

import dataclasses
import struct

import pytest

import kdmp
from kdmp import sample

KINDS = [1, 5, 6, 8, 9, 10]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "sample.dmp"
    return path, sample.build(path)


@pytest.fixture(scope="module")
def facts(built):
    return built[1]


@pytest.fixture
def dump(built):
    with kdmp.open(built[0]) as dump:
        yield dump


@pytest.fixture
def reader(dump):
    return dump.reader()


def ring(reader, head):
    """Addresses of the LIST_ENTRYs behind `head`, checking that the way back is the same."""
    seen, here = [], head
    while (following := reader.read_ptr(here)) != head:
        assert following not in seen
        assert reader.read_ptr(following + 8) == here
        seen.append(following)
        here = following
    assert reader.read_ptr(head + 8) == here
    return seen


def test_same_bytes_each_time(built, tmp_path):
    path, facts = built
    assert sample.build(tmp_path / "again.dmp") == facts == sample.facts()
    assert (tmp_path / "again.dmp").read_bytes() == path.read_bytes()
    assert 2 << 20 < path.stat().st_size < 8 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_the_same_pages(kind, built, tmp_path, dump):
    path = tmp_path / "kind.dmp"
    facts = sample.build(path, kind=kind)
    with kdmp.open(path) as other:
        assert other.kind == kind
        assert len(other.pages) == facts.pages
        assert [(run.pfn, run.count) for run in other.pages.runs()] == list(facts.runs)
        for pfn in dump.pages:
            assert bytes(other.pages[pfn]) == bytes(dump.pages[pfn])


def test_header(dump, facts):
    assert dump.kind == kdmp.DumpKind.BITMAP_FULL
    assert dump.arch == "x64"
    assert dump.build == facts.build
    assert dump.processors == facts.processors
    assert dump.dtb == facts.dtb
    assert dump.system_time == facts.system_time
    assert dump.uptime == facts.uptime
    assert dump.comment == facts.comment
    assert dump.ps_loaded_module_list == facts.ps_loaded_module_list
    assert dump.ps_active_process_head == facts.ps_active_process_head
    assert dump.kd_debugger_data_block == facts.kd_debugger_data_block
    assert dump.pfn_database is None
    assert dump.truncated == 0
    assert dump.paging == "x64"
    assert dump.paging_source == "kdbg"


def test_crash(dump, facts):
    assert dump.bugcheck.code == facts.bug_check_code
    assert tuple(p.value for p in dump.bugcheck.parameters) == facts.bug_check_parameters
    assert dump.context.rip == facts.instruction_pointer
    assert dump.context.rsp == facts.stack_pointer
    assert dump.exception.code == facts.exception_code
    assert dump.exception.address == facts.instruction_pointer


def test_crash_addresses_are_real(reader, facts):
    code = reader.translate(facts.instruction_pointer)
    assert code.executable
    assert not code.user
    assert facts.kernel_base < facts.instruction_pointer < facts.kernel_base + facts.kernel_size
    assert facts.stack_limit < facts.stack_pointer < facts.stack_base
    caller = reader.read_u64(facts.stack_pointer)
    assert reader.translate(caller).executable
    touched, _, _, instruction = facts.bug_check_parameters
    assert reader.read(instruction, 3) == bytes.fromhex("488b01")
    assert reader.read_u64(facts.stack_pointer + 0x28) == instruction  # the fifth argument
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(touched)
    assert caught.value.state == "pagefile"


def test_self_map(reader, facts):
    pte = facts.pte_base + ((facts.ascii_address & 0xFFFFFFFFFFFF) >> 12) * 8
    walk = reader.translate(facts.ascii_address)
    assert reader.translate(pte).pa == walk.entries[-1].pa
    assert reader.read_u64(pte) == walk.entries[-1].value


def test_processes(dump, reader, facts):
    offset = sample.EPROCESS
    links = ring(reader, facts.ps_active_process_head)
    assert [link - offset["ActiveProcessLinks"] for link in links] == [p.eprocess for p in facts.processes]
    for p in facts.processes:
        assert reader.read_u64(p.eprocess + offset["UniqueProcessId"]) == p.pid
        assert reader.read_u64(p.eprocess + offset["InheritedFromUniqueProcessId"]) == p.ppid
        assert reader.read_u64(p.eprocess + offset["Pcb.DirectoryTableBase"]) == p.dtb
        assert reader.read_u64(p.eprocess + offset["Peb"]) == p.peb
        assert reader.read_u64(p.eprocess + offset["CreateTime"]) == p.create_time
        assert reader.read_cstr(p.eprocess + offset["ImageFileName"], 15) == p.name
        own = dump.reader(p.dtb)
        assert own.read_u64(facts.ps_active_process_head) == links[0]
        if p.greeting is None:
            assert own.try_translate(facts.greeting_address) is None
        else:
            assert own.read_cstr(facts.greeting_address) == p.greeting
    assert len({p.dtb for p in facts.processes}) == len(facts.processes) >= 12


def test_modules(reader, facts):
    offset = sample.KLDR_DATA_TABLE_ENTRY
    assert ring(reader, facts.ps_loaded_module_list) == [m.ldr for m in facts.modules]
    for m in facts.modules:
        assert reader.read_unicode_string(m.ldr + offset["BaseDllName"]) == m.name
        assert reader.read_unicode_string(m.ldr + offset["FullDllName"]) == m.path
        assert reader.read_ptr(m.ldr + offset["DllBase"]) == m.base
        assert reader.read_ptr(m.ldr + offset["EntryPoint"]) == m.entry_point
        assert reader.read_u32(m.ldr + offset["SizeOfImage"]) == m.size
        assert reader.read_u32(m.ldr + offset["TimeDateStamp"]) == m.timestamp
        assert reader.read_u32(m.ldr + offset["CheckSum"]) == m.checksum


def test_images_name_their_symbols(reader, facts):
    for m in facts.modules:
        assert reader.read(m.base, 2) == b"MZ"
        nt = m.base + reader.read_u32(m.base + 0x3C)
        assert reader.read(nt, 4) == b"PE\0\0"
        assert reader.read_u32(nt + 8) == m.timestamp
        assert reader.read_u32(nt + 0x18 + 0x38) == m.size
        exports, debug = reader.read_u32(nt + 0x18 + 0x70), reader.read_u32(nt + 0x18 + 0x70 + 48)
        assert reader.read_cstr(m.base + reader.read_u32(m.base + exports + 0xC)) == m.name
        assert reader.read_u32(m.base + debug + 0xC) == 2
        record = m.base + reader.read_u32(m.base + debug + 0x14)
        signature, one, two, three, rest, age = struct.unpack("<4sIHH8sI", reader.read_exact(record, 24))
        assert signature == b"RSDS"
        assert f"{one:08X}{two:04X}{three:04X}{rest.hex().upper()}" == m.guid
        assert age == m.age
        assert reader.read_cstr(record + 24) == m.pdb
        assert len(reader.read(record, 25 + len(m.pdb))) == reader.read_u32(m.base + debug + 0x10)


def test_debugger_data(reader, facts):
    block = facts.kd_debugger_data_block
    assert reader.read(block + 0x10, 4) == b"KDBG"
    assert reader.read_u32(block + 0x14) == 0x380
    assert reader.read_ptr(block + 0x18) == facts.kernel_base
    assert reader.read_ptr(block + 0x48) == facts.ps_loaded_module_list
    assert reader.read_ptr(block + 0x50) == facts.ps_active_process_head
    assert reader.read_ptr(block + 0xC0) == 0
    assert reader.read_ptr(block + 0x360) == facts.pte_base
    assert reader.read_cstr(reader.read_ptr(block + 0x208)) == facts.build_lab
    data = reader.read_ptr(block + 0x88)
    assert reader.read_u64(data) == facts.bug_check_code
    assert tuple(reader.read_u64(data + 8 * k) for k in range(1, 5)) == facts.bug_check_parameters


def test_shared_data_by_both_names(reader, facts):
    shared = facts.kuser_shared_data
    assert reader.read_u32(shared + 0x26C) == 10
    assert reader.read_u32(shared + 0x260) == facts.build
    assert reader.read_wstr(shared + 0x30) == "C:\\Windows"
    user, kernel = reader.translate(0x7FFE0000), reader.translate(shared)
    assert user.pa == kernel.pa
    assert (user.user, user.writable) == (True, False)
    assert (kernel.user, kernel.writable) == (False, True)


def test_text(reader, facts):
    assert reader.read_cstr(facts.ascii_address) == facts.ascii_text
    assert reader.read_wstr(facts.utf16_address) == facts.utf16_text
    assert reader.read_unicode_string(facts.unicode_string_address) == facts.unicode_string_text
    assert facts.crossing_address >> 12 != (facts.crossing_address + len(facts.crossing_text)) >> 12
    assert reader.read_cstr(facts.crossing_address) == facts.crossing_text


def test_large_pages(reader, facts):
    kernel = reader.translate(facts.kernel_large_va + 0x12345)
    assert (kernel.page_size, kernel.pa) == (0x200000, facts.kernel_large_pa + 0x12345)
    user = reader.translate(facts.user_large_va + 0x1FFFFF)
    assert (user.page_size, user.pa) == (0x200000, facts.user_large_pa + 0x1FFFFF)
    huge = reader.translate(facts.huge_va + 0x1234)
    assert (huge.page_size, huge.pa, huge.pat) == (0x40000000, facts.huge_pa + 0x1234, True)
    end = facts.user_large_va + 0x200000 - len(facts.user_large_end_text)
    assert reader.read_cstr(end) == facts.user_large_end_text + facts.user_after_large_text
    assert len(reader.read(facts.huge_va, 0x100000)) == facts.huge_captured
    data, gaps = reader.read_gaps(facts.user_large_va, 0x200000)
    assert data.startswith(b"the first words of a large page\0")
    assert [(gap.address, gap.size) for gap in gaps] == [(facts.user_large_va + 0x8000, 0x1F0000)]
    assert isinstance(gaps[0].reason, kdmp.NotInDumpError)


def test_page_states(reader, facts):
    moving = reader.translate(facts.transition_va)
    assert (moving.state, moving.pa, moving.writable) == ("transition", facts.transition_pa, True)
    assert reader.read_cstr(facts.transition_va) == facts.transition_text
    for va, state in (
        (facts.demand_zero_va, "demand_zero"),
        (facts.pagefile_va, "pagefile"),
        (facts.zero_va, "zero"),
    ):
        with pytest.raises(kdmp.NotPresentError) as caught:
            reader.translate(va)
        assert caught.value.level == 1
        assert caught.value.state == state
    shared = reader.translate(facts.prototype_va)
    assert (shared.state, shared.prototype) == ("prototype", facts.prototype_pte)
    assert shared.prototype_value == reader.read_u64(facts.prototype_pte)
    assert shared.pa == shared.prototype_value & 0xFFFFFFFFFF000


def test_holes(dump, reader, facts):
    for va, pfn in ((facts.hole_va, facts.hole_pfn), (facts.kernel_hole_va, facts.kernel_hole_pfn)):
        assert pfn not in dump.pages
        with pytest.raises(kdmp.UnreadableError) as caught:
            reader.read_exact(va + 8, 4)
        reason = caught.value.reason if isinstance(caught.value, kdmp.PartialReadError) else caught.value
        assert isinstance(reason, kdmp.NotInDumpError)
        assert reason.pa >> 12 == pfn
        assert f"{reason.pa:#x}" in str(reason)


def test_ensure_builds_once(tmp_path):
    folder = tmp_path / "new" / "cache"
    path = sample.ensure(folder)
    assert path == sample.default_path(folder)
    before = path.stat().st_mtime_ns
    assert sample.ensure(folder) == path
    assert path.stat().st_mtime_ns == before
    assert list(folder.iterdir()) == [path]


def test_default_path_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sample.default_path().parent == tmp_path / "kdmp"


def test_facts_are_a_value():
    facts = sample.facts()
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.dtb = 0
    assert hash(facts) == hash(dataclasses.replace(facts))


def test_another_reader_translates_the_same(built, facts):
    kdmp_parser = pytest.importorskip("kdmp_parser")
    peer = kdmp_parser.KernelDumpParser(built[0])
    with kdmp.open(built[0]) as dump:
        reader = dump.reader()
        for va in (
            facts.kernel_large_va + 0x1F5A80,
            facts.kd_debugger_data_block,
            facts.stack_pointer,
            facts.user_large_va + 0x1FFFFF,
            facts.crossing_address,
            facts.hole_va,
            facts.pte_base,
            *(p.eprocess for p in facts.processes),
        ):
            assert peer.translate_virtual(va) == reader.translate(va).pa
        for p in facts.processes:
            if p.peb:
                assert peer.translate_virtual(p.peb, p.dtb) == dump.reader(p.dtb).translate(p.peb).pa
