"""Processes: against the truth of the machines, on damaged lists, in triage dumps.

SPDX-License-Identifier: MIT
"""

import random
import struct
import time

import crowd
import patcheddump
import pytest
import shareddata

import kdmp
from kdmp.windows import process_sources
from kdmp.windows.handletable import HandleTable
from kdmp.windows.lists import walk_list
from kdmp.windows.processes import Process, process_at, processes

MACHINES, KINDS = shareddata.MACHINES, shareddata.KINDS
DAMAGED = "win10-19041-damaged"
# Property: name in the truth. All of it lies in pool or in the kernel's image, which every kind has.
SAME = {
    "pid": "pid", "ppid": "ppid", "name": "image_file_name", "full_name": "name",
    "image_path": "nt_image_path", "session": "session", "wow64": "wow64", "exited": "exited", "dtb": "dtb",
    "hidden": "hidden", "thread_count": "thread_count", "handle_count": "handle_count", "token": "token",
    "peb": "peb", "peb32": "peb32", "image_base": "image_base", "section_object": "section_object",
}  # fmt: skip

# Pointers, which the truth has as 0 when they are NULL.
NULLS = {"peb", "peb32", "image_base", "section_object"}


@pytest.fixture(scope="module", params=[(m, k) for m in MACHINES for k in KINDS], ids="-".join)
def machine(request):
    """(truth, kind, Windows) of a dump."""
    name, kind = request.param
    with kdmp.open(shareddata.machine_dump(name, kind)) as dump:
        yield shareddata.truth(name), kind, dump.windows


def windows_of(name="win10-19041", kind="kernel"):
    return kdmp.open(shareddata.machine_dump(name, kind)).windows


def process_of(truth, pid):
    return next(p for p in truth["processes"] if p["pid"] == pid)


def offset(windows, struct, field):
    return windows.layout.offset(struct, field)


def test_every_fact_is_that_of_the_truth(machine):
    truth, _, windows = machine
    listing = processes(windows)
    known = {p["eprocess"]: p for p in truth["processes"]}
    assert {p.address for p in listing} == set(known)
    for process in listing:
        expected = known[process.address]
        for name, key in SAME.items():
            value = expected[key]
            if value == 0 and name in NULLS:
                value = None
            assert getattr(process, name) == value, (process, name)
        root = expected["user_dtb"]
        assert process.user_dtb == (root if root >= 0x1000 else None)
        assert process.create_time == windows.filetime(expected["create_time"])
        assert process.exit_time == windows.filetime(expected["exit_time"])
        table = expected["object_table"]
        assert process.object_table == (None if table is None else table["address"])
        assert process.object.UniqueProcessId == expected["pid"]
        assert process.problems == ()


def test_list_order_and_then_the_others(machine):
    truth, _, windows = machine
    pids = [p.pid for p in windows.processes()]
    in_list = [p["pid"] for p in truth["processes"] if not p["hidden"]]
    assert pids == in_list + [p["pid"] for p in truth["processes"] if p["hidden"]]
    assert pids[0] == 4


def test_what_is_hidden_is_found_other_ways(machine):
    truth, _, windows = machine
    for process in windows.processes():
        expected = process_of(truth, process.pid)
        assert ("active list" in process.sources) is not expected["hidden"]
        assert "cid table" in process.sources
        assert ("thread owner" in process.sources) is bool(expected["threads"])
        # The rootkit of the machines leaves the session's list, too.
        in_session = expected["session"] is not None and not expected["hidden"]
        assert ("session list" in process.sources) is in_session
        # System is the owner of its handle table, but the table does not name it.
        tables = expected["object_table"] is not None and process.pid != 4
        assert ("handle table list" in process.sources) is tables


def test_readers_of_processes_see_their_own_memory(machine):
    truth, kind, windows = machine
    for process in windows.processes():
        expected = process_of(truth, process.pid)
        assert process.reader.dtb == expected["dtb"]
        if kind in ("full", "bitmap", "rdmpA") and process.peb and process.image_base:
            # ImageBaseAddress of the PEB, unless the machine's damage took the page.
            lost = any(d["kind"] == "missing-page" and d.get("pid") == process.pid for d in truth["damage"])
            if process.is_resident(process.peb):
                assert process.reader.read_u64(process.peb + 0x10) == process.image_base
            else:
                assert lost


def test_the_table_of_ids_is_the_truth(machine):
    truth, _, windows = machine
    table = HandleTable(windows, windows.pointer(windows.symbol("PspCidTable")))
    assert table.address == truth["cid_table"]["address"]
    expected = sorted((entry["id"], entry["object"]) for entry in truth["cid_table"]["entries"])
    assert list(table.objects()) == expected
    assert [(e.handle, e.object) for e in table.entries()] == expected
    assert table.problems == []
    for number, where in expected[:5]:
        assert table.find(number).object == where
    assert table.find(expected[-1][0] + 4 * 4096) is None


def test_handle_tables_are_the_truth(machine):
    truth, _, windows = machine
    damaged = {d["pid"]: d for d in truth["damage"] if d["kind"].startswith("handle") or "lost_handles" in d}
    for expected in truth["processes"]:
        if expected["object_table"] is None:
            continue
        table = HandleTable(windows, expected["object_table"]["address"])
        found = {e.handle: e for e in table.entries()}
        damage = damaged.get(expected["pid"], {})
        if damage.get("kind") == "handle-table-level":
            assert not found
            assert "there are 3" in table.problems[0].why
            continue
        lost = set(damage.get("lost_handles", ()))
        wrong = damage.get("handle") if damage.get("kind") == "handle-object-garbage" else None
        assert set(found) == {h["handle"] for h in expected["handles"]} - lost
        facts = expected["object_table"]
        paged_out = facts["leaf_pages"] - facts["resident_leaf_pages"]
        # The damage counts as one page more, unless it is among them.
        assert table.lost - paged_out in ((0, 1) if lost else (0,))
        assert len(table.problems) == min(table.lost, 16)
        assert table.level == expected["object_table"]["level"]
        for handle in expected["handles"]:
            entry = found.get(handle["handle"])
            if entry is None or handle["handle"] == wrong:
                continue
            header = windows.layout.offset("_OBJECT_HEADER", "Body")
            assert entry.object == handle["object"] - header
            assert entry.address == handle["entry"]
            assert (entry.access, entry.attributes) == (handle["access"], handle["attributes"])


# ---- finding one ----


def test_find_by_id_and_name():
    windows = windows_of()
    assert windows.process(1788).name == "explorer.exe"
    for name in ("explorer.exe", "EXPLORER", "RuntimeBrokerH", "runtimebrokerhelperservice.exe", "stealth"):
        assert windows.process(name).pid in (1788, 2044, 2652)
    with pytest.raises(LookupError, match="no process 1789"):
        windows.process(1789)
    with pytest.raises(LookupError, match="no process 'explore'"):
        windows.process("explore")
    with pytest.raises(LookupError, match=r"2 processes 'csrss': 412, 496"):
        windows.process("csrss")
    assert windows.process("notes-日本語.exe").pid == 2316


def test_it_prints_and_becomes_plain_data():
    windows = windows_of()
    listing = windows.processes()
    process = listing[-1]
    assert repr(process) == f"<Process 2652 'stealth.exe' at {process.address:#x}>"
    facts = process.to_dict()
    assert (facts["pid"], facts["hidden"], facts["exit_time"]) == (2652, True, None)
    assert facts["sources"] == ["cid table", "thread owner", "handle table list"]
    assert "stealth.exe" in str(listing)
    assert len(listing.to_dicts()) == 15
    assert process == process_at(windows, process.address)
    assert process_at(windows, process.address).hidden is True
    assert windows.processes()[0].protection == "Full (WinSystem)"
    assert windows.process("smss.exe").protection == "Light (WinTcb)"
    assert process.protection == "None"
    assert windows.process("finished.exe").exit_status == 0
    assert process.exit_status is None


def test_pandas_frame():
    pytest.importorskip("pandas")
    frame = windows_of().processes().to_frame()
    assert len(frame) == 15
    assert list(frame["pid"])[:2] == [4, 92]


def test_names_of_all_kinds():
    truth = shareddata.truth("win10-19041")
    eprocess = process_of(truth, 1788)["eprocess"]
    at = eprocess + offset(windows_of(), "_EPROCESS", "ImageFileName")
    for raw, text in (
        (b"caf\xc3\xa9.exe\0\0\0\0\0\0", "café.exe"),
        (b"caf\xe9.exe\0\0\0\0\0\0\0", "café.exe"),
        (b"\0" * 15, ""),
        (b"fifteen chars!!", "fifteen chars!!"),
    ):
        windows = patcheddump.patched("win10-19041", "kernel", {at: raw}).windows
        assert Process(windows, eprocess).name == text


def test_full_name_is_not_guessed():
    """Without the path, a name that may be cut, or lost characters, is no full name."""
    truth = shareddata.truth("win10-19041")
    windows = windows_of()
    patches = {}
    for pid in (1788, 2044, 2316):
        eprocess = process_of(truth, pid)["eprocess"]
        for field in ("SeAuditProcessCreationInfo.ImageFileName", "ImageFilePointer"):
            patches[eprocess + offset(windows, "_EPROCESS", field)] = 0xFFFFA00000000010
    windows = patcheddump.patched("win10-19041", "kernel", patches).windows
    found = {pid: windows.process(pid) for pid in (1788, 2044, 2316)}
    assert {pid: p.full_name for pid, p in found.items()} == {1788: "explorer.exe", 2044: None, 2316: None}
    assert [p.what for p in found[2044].problems] == ["image_path"]
    # The file object alone knows the path inside the volume.
    at = process_of(truth, 2044)["eprocess"]
    at += offset(windows, "_EPROCESS", "SeAuditProcessCreationInfo.ImageFileName")
    process = patcheddump.patched("win10-19041", "kernel", {at: 0}).windows.process(2044)
    path = process_of(truth, 2044)["nt_image_path"]
    assert process.image_path == path.removeprefix("\\Device\\HarddiskVolume2")
    assert process.full_name == "RuntimeBrokerHelperService.exe"


# ---- damaged lists ----


@pytest.mark.parametrize("kind", KINDS)
def test_the_cut_list_is_repaired(kind):
    truth = shareddata.truth(DAMAGED)
    damage = next(d for d in truth["damage"] if d["kind"] == "process-list-flink")
    windows = windows_of(DAMAGED, kind)
    listing = windows.processes()
    in_list = [p.pid for p in listing if "active list" in p.sources]
    assert in_list == damage["forward"] + damage["backward"][::-1]
    assert any(problem.what == "active list" for problem in listing.problems)
    # Both ends of the cut are known, so that what is missing from the list is hidden indeed.
    assert [p.pid for p in listing if p.hidden] == [2652]
    assert windows.process(724).name == "fifteenchar.exe"


def cut(name, *pids, blink=False):
    """The machine with the Flink (and Blink) of some processes leading nowhere."""
    truth, windows = shareddata.truth(name), windows_of(name)
    at = offset(windows, "_EPROCESS", "ActiveProcessLinks")
    patches = {}
    for pid in pids:
        link = process_of(truth, pid)["eprocess"] + at
        patches[link] = 0xFFFFA00000000010
        if blink:
            patches[link + 8] = 0xFFFFA00000000010 + (pid << 16)
    return patcheddump.patched(name, "kernel", patches).windows


def test_with_a_gap_nobody_is_called_hidden():
    windows = cut("win10-19041", 308, 560, blink=True)
    listing = windows.processes()
    assert {p.pid for p in listing} == {p["pid"] for p in shareddata.truth("win10-19041")["processes"]}
    outside = {p.pid: p.hidden for p in listing if "active list" not in p.sources}
    assert set(outside) >= {2652, 412, 488, 496}
    assert set(outside.values()) == {None}
    assert any("cannot be read" in p.why for p in listing.problems)


def test_a_cycle_ends():
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    at = offset(windows, "_EPROCESS", "ActiveProcessLinks")
    links = {pid: process_of(truth, pid)["eprocess"] + at for pid in (308, 560)}
    listing = patcheddump.patched("win10-19041", "kernel", {links[560]: links[308]}).windows.processes()
    assert len(listing) == 15
    assert "a cycle" in str(listing.problems[0])


def test_without_the_head_all_are_found():
    truth = shareddata.truth("win10-19041")
    head = truth["symbols"]["PsActiveProcessHead"]
    windows = patcheddump.patched("win10-19041", "kernel", {head: bytes(16)}).windows
    listing = windows.processes()
    assert sorted(p.pid for p in listing) == sorted(p["pid"] for p in truth["processes"])
    assert {p.hidden for p in listing} == {None}
    assert listing[0].pid == 4


def test_without_head_and_ids_lists_through_processes_lead_on():
    """PsInitialSystemProcess leads to the scheduler's list, and from there to the other lists."""
    truth = shareddata.truth("win10-19041")
    windows = windows_of()
    ring = [process_of(truth, pid)["eprocess"] for pid in (4, 92, 412, 2652)]
    at = offset(windows, "_EPROCESS", "Pcb.ProcessListEntry")
    patches = {truth["symbols"]["PsActiveProcessHead"]: bytes(16), truth["symbols"]["PspCidTable"]: 0}
    for this, following in zip(ring, ring[1:] + ring[:1], strict=True):
        patches[this + at] = following + at
        patches[following + at + 8] = this + at
    listing = patcheddump.patched("win10-19041", "kernel", patches).windows.processes()
    by_pid = {p.pid: p for p in listing}
    assert "scheduler list" in by_pid[2652].sources
    assert "scheduler list" not in by_pid[308].sources
    # One process with a handle table leads to the others', that of a session to the rest of it.
    assert set(by_pid) == {p["pid"] for p in truth["processes"]}
    assert by_pid[2808].sources == ("session list",)


@pytest.mark.parametrize("field", ["MmProcessLinks", "SessionProcessLinks"])
def test_memory_managers_lists(field):
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    at = offset(windows, "_EPROCESS", field)
    first, last = (process_of(truth, pid)["eprocess"] + at for pid in (4, 92))
    patches = {first: last, first + 8: last, last: first, last + 8: first}
    listing = patcheddump.patched("win10-19041", "kernel", patches).windows.processes()
    way = {"MmProcessLinks": "mm list", "SessionProcessLinks": "session list"}[field]
    assert [way in p.sources for p in listing][:3] == [True, True, False]
    assert listing.problems == ()


def test_entries_that_are_no_process_are_left_out():
    truth = shareddata.truth("win10-19041")
    windows = windows_of()
    first = process_of(truth, 412)["eprocess"]
    for at, value, why in (
        (0, b"\x06", "its object type is 6"),
        (offset(windows, "_EPROCESS", "UniqueProcessId"), 413, "its id would be 0x19d"),
        (offset(windows, "_EPROCESS", "UniqueProcessId"), 1 << 40, "its id would be"),
        (offset(windows, "_EPROCESS", "Pcb.DirectoryTableBase"), 0, "its page-table root would be 0x0"),
        (offset(windows, "_EPROCESS", "Pcb.DirectoryTableBase"), 1 << 60, "its page-table root would be"),
    ):
        listing = patcheddump.patched("win10-19041", "kernel", {first + at: value}).windows.processes()
        assert first not in [p.address for p in listing]
        assert len(listing) == 14
        assert any(why in p.why and p.what == "active list" for p in listing.problems), why


def test_an_exited_process_may_have_no_root():
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    at = process_of(truth, 2808)["eprocess"] + offset(windows, "_EPROCESS", "Pcb.DirectoryTableBase")
    windows = patcheddump.patched("win10-19041", "kernel", {at: 0}).windows
    process = windows.process(2808)
    assert process.dtb == 0
    with pytest.raises(kdmp.RootNotPresentError, match="2808"):
        process.reader.read(0x1000, 1)


def test_a_page_that_is_missing_costs_properties_only():
    """Every page that an EPROCESS lies on is taken away in turn; the process stays in the list."""
    truth = shareddata.truth("win10-19041")
    eprocess = process_of(truth, 560)["eprocess"]
    size = windows_of().layout.size("_EPROCESS")
    pages = sorted({(eprocess + n) & ~0xFFF for n in (0, size - 1)})
    for page in pages:
        windows = patcheddump.without_pages("win10-19041", "kernel", page).windows
        listing = windows.processes()
        assert eprocess in [p.address for p in listing]
        process = next(p for p in listing if p.address == eprocess)
        process.examine()
        assert process.problems
        for name, key in SAME.items():
            value = getattr(process, name)
            assert value in (None, process_of(truth, 560)[key]), name


def test_a_page_of_the_table_of_ids_is_missing():
    truth = shareddata.truth("win10-19041")
    windows = windows_of()
    table = HandleTable(windows, truth["cid_table"]["address"])
    leaf = next(page for first, page in table.leaves() if first <= 2652 < first + 0x400)
    listing = patcheddump.without_pages("win10-19041", "kernel", leaf).windows.processes()
    assert any(p.what == "cid table" and "are lost" in p.why for p in listing.problems)
    # The hidden one is still in the list of handle tables.
    assert next(p for p in listing if p.pid == 2652).sources == ("handle table list",)


def test_tables_that_are_nonsense():
    truth = shareddata.truth("win10-19041")
    table = truth["cid_table"]["address"]
    code = table + offset(windows_of(), "_HANDLE_TABLE", "TableCode")
    for value in (0, 1, 2, 3, 7, 0xFFFFA00000000001, table | 2, 1 << 63, (1 << 64) - 1):
        windows = patcheddump.patched("win10-19041", "kernel", {code: value}).windows
        listing = windows.processes()
        assert len(listing) == 15
        assert any(p.what == "cid table" for p in listing.problems), hex(value)


def test_a_tree_of_pages_that_leads_to_itself():
    """A page of pointers full of its own address: no entry is visited twice."""
    truth = shareddata.truth("win10-19041")
    table = truth["cid_table"]["address"]
    windows = windows_of()
    leaf = next(page for _, page in HandleTable(windows, table).leaves())
    code = table + offset(windows, "_HANDLE_TABLE", "TableCode")
    full = leaf.to_bytes(8, "little") * 512
    began = time.process_time()
    windows = patcheddump.patched("win10-19041", "kernel", {code: leaf | 2, leaf: full}).windows
    assert len(windows.processes()) == 15
    assert time.process_time() - began < 10


def test_census_is_taken_once():
    windows = windows_of()
    assert process_sources.census(windows) is process_sources.census(windows)
    assert [p.address for p in windows.processes()] == [p.address for p in windows.processes()]


def test_gap_of_a_walk():
    """A walk that is cut at one link has no gap: the way back leads to where the way there ended."""

    class Memory:
        def __init__(self, links):
            self.words = links

        def read_uint(self, va, size):
            if va not in self.words:
                raise kdmp.UnreadableError(f"nothing at {va:#x}")
            return self.words[va]

    nodes = [0xFFFF800000000000 + n * 0x100 for n in range(6)]
    words = {}
    for this, following in zip(nodes, nodes[1:] + nodes[:1], strict=True):
        words[this], words[following + 8] = following, this
    assert not walk_list(Memory(words), nodes[0], 8).gap
    assert not walk_list(Memory(words | {nodes[2]: 0}), nodes[0], 8).gap
    broken = words | {nodes[2]: 0, nodes[4] + 8: 0}
    walk = walk_list(Memory(broken), nodes[0], 8)
    assert walk.gap
    assert walk.links == (nodes[1], nodes[2], nodes[4], nodes[5])
    assert walk_list(Memory(words | {nodes[0]: 0}), nodes[0], 8).gap is False
    lonely = {key: value for key, value in words.items() if key not in (nodes[3], nodes[3] + 8)}
    walk = walk_list(Memory(lonely), nodes[0], 8)
    assert not walk.gap
    assert set(walk.links) == set(nodes[1:])


def examine(windows):
    """Ask for everything there is about processes and threads."""
    listing = windows.processes()
    str(listing)
    for process in listing:
        process.examine()
        str(process)
        own = process.threads()
        for thread in own:
            thread.examine()
            thread.registers
    for thread in windows.threads():
        thread.to_dict()
    return listing


@pytest.mark.parametrize("name", ["win7-7601", "win11-22000-pti"])
def test_mutations_never_raise_and_never_hang(name):
    """Seeded damage of process, thread, handle table and token memory."""
    truth = shareddata.truth(name)
    windows = windows_of(name)
    places = [p["eprocess"] for p in truth["processes"]]
    places += [t["address"] for p in truth["processes"] for t in p["threads"]]
    tables = [p["object_table"]["address"] for p in truth["processes"] if p["object_table"]]
    tables += [truth["cid_table"]["address"]]
    pages = [page for _, page in HandleTable(windows, truth["cid_table"]["address"]).leaves()]
    heads = [truth["symbols"]["PsActiveProcessHead"], truth["symbols"]["PspCidTable"]]
    interesting = [
        0, 1, 7, 0xFF, 0x7FFFFFFF, 1 << 31, 1 << 47, 1 << 63, (1 << 64) - 1, 0xFFFFA00000000010,
        *places[:6], *(place + 0x10 for place in places[:6]), *pages, *heads,
    ]  # fmt: skip
    sizes = {"_EPROCESS": windows.layout.size("_EPROCESS"), "_ETHREAD": windows.layout.size("_ETHREAD")}
    for seed in range(25):
        dice = random.Random(seed)
        patches = {}
        for _ in range(dice.choice((1, 5, 60))):
            kind = dice.random()
            if kind < 0.7:
                at = dice.choice(places) + dice.randrange(0, sizes["_ETHREAD"], 8)
            elif kind < 0.8:
                at = dice.choice(tables) + dice.randrange(0, 0x60, 8)
            elif kind < 0.95:
                at = dice.choice(pages) + dice.randrange(0, 0x1000, 8)
            else:
                at = dice.choice(heads) + dice.choice((0, 8))
            value = dice.choice(interesting) if dice.random() < 0.7 else dice.getrandbits(64)
            patches[at] = value
        began = time.process_time()
        with patcheddump.patched(name, "kernel", patches) as dump:
            try:
                examine(dump.windows)
            except kdmp.symbols.SymbolError:
                pass  # damage that no layout fits: that is an answer
        assert time.process_time() - began < 20, seed


# ---- triage dumps ----


def triage_files():
    if not shareddata.SHARED.exists():
        return []
    return [entry["file"] for entry in shareddata.triage_index()]


@pytest.mark.parametrize("file", triage_files())
def test_the_crashing_process_of_triage_dumps(file):
    facts = next(entry for entry in shareddata.triage_index() if entry["file"] == file)
    with kdmp.open(shareddata.unpack("triage", file)) as dump:
        listing = dump.windows.processes()
        (process,) = listing
        assert {"pid": process.pid, "name": process.name} == facts["process"]
        assert "alone" in listing.problems[0].why
        assert process.create_time < dump.system_time
        assert process.hidden is None
        assert dump.windows.process(process.pid) == process
        assert process.reader.read_u8(process.address) == 3
        process.examine()
        str(process)


def test_triage_dumps_without_the_copies(tmp_path):
    """A part of the triage header that is not there costs what it held."""
    if not shareddata.SHARED.exists():
        pytest.skip("no shared test data")
    path = shareddata.unpack("triage", "triage_x64.dmp.xz")
    data = bytearray(path.read_bytes())
    header = kdmp.open(path).triage_header
    at = next(
        n
        for n in range(0x2000, 0x2100, 4)
        if int.from_bytes(data[n : n + 4], "little") == header["process_offset"]
    )
    data[at : at + 4] = bytes(4)
    with kdmp.open(bytes(data)) as dump:
        for process in dump.windows.processes():
            process.examine()
        dump.windows.threads()


def test_a_crowd(tmp_path):
    """Many processes: all in order, with their threads, and quickly."""
    path = tmp_path / "crowd.dmp"
    path.write_bytes(crowd.crowd(150))
    with kdmp.open(path) as dump:
        began = time.process_time()
        listing = dump.windows.processes()
        rows = [(p.pid, p.full_name, p.session, p.create_time) for p in listing]
        assert time.process_time() - began < 1
        assert len(rows) == 165
        pids = [row[0] for row in rows if row[0] >= crowd.FIRST_PID]
        assert len(pids) == 150
        assert pids == sorted(pids)
        assert {row[1] for row in rows if row[0] >= crowd.FIRST_PID} == {"explorer.exe"}
        crowded = [p for p in listing if p.pid >= crowd.FIRST_PID]
        assert {tuple(t.tid - p.pid for t in p.threads()) for p in crowded} == {(4, 8)}
        assert {t.pid - p.pid for p in crowded for t in p.threads()} == {0}


def test_links_into_a_list_that_does_not_know_of_them():
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    at = offset(windows, "_EPROCESS", "SessionProcessLinks")
    one, two, stealth = (process_of(truth, pid)["eprocess"] + at for pid in (1788, 2044, 2652))
    windows = patcheddump.patched("win10-19041", "kernel", {stealth: two, stealth + 8: one}).windows
    listing = windows.processes()
    assert "session list" not in windows.process(2652).sources
    (problem,) = listing.problems
    assert problem.what == "session list"
    assert "is in no list, but leads into one" in problem.why


def test_problems_are_told_a_few_times_only():
    """A list of thousands of entries that are no processes: a bounded report."""
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    head = truth["symbols"]["PsActiveProcessHead"]
    page = windows.reader.read_u64(head) & ~0xFFF  # the page of some EPROCESS, filled with links
    chain = b"".join(struct.pack("<QQ", page + 16 * (n + 1), page + 16 * (n - 1)) for n in range(255))
    windows = patcheddump.patched("win10-19041", "kernel", {head: page, page: chain}).windows
    listing = windows.processes()
    mine = [p for p in listing.problems if p.what == "active list"]
    assert len(mine) <= 17
    assert "more of that kind" in mine[-1].why
    assert len(listing) >= 13


def test_32_bit_pebs_that_lead_nowhere():
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    at = process_of(truth, 2500)["eprocess"] + offset(windows, "_EPROCESS", "WoW64Process")
    process = patcheddump.patched("win10-19041", "kernel", {at: 0xFFFFA00000000010}).windows.process(2500)
    assert (process.wow64, process.peb32) == (True, None)
    assert [p.what for p in process.problems] == ["peb32"]
    # Until Windows 8.1 the field is the address itself.
    process = patcheddump.patched("win10-19041", "kernel", {at: 0x7EFDE000}).windows.process(2500)
    assert process.peb32 == 0x7EFDE000


@pytest.mark.parametrize("name", shareddata.MACHINES)
def test_parents_and_children(name):
    truth = {p["pid"]: p for p in shareddata.truth(name)["processes"]}
    with kdmp.open(shareddata.machine_dump(name, "full")) as dump:
        for process in dump.windows.processes():
            ppid = truth[process.pid]["ppid"]
            assert (process.parent and process.parent.pid) == (ppid if ppid in truth else None)
            assert {child.pid for child in process.children()} == {
                pid for pid, p in truth.items() if p["ppid"] == process.pid
            }


def test_an_id_that_was_used_again_is_no_parent():
    truth = {p["pid"]: p for p in shareddata.truth("win10-19041")["processes"]}
    with kdmp.open(shareddata.machine_dump("win10-19041", "kernel")) as dump:
        offset = dump.windows.layout.offset("_EPROCESS", "CreateTime")
    later = truth[1788]["create_time"] + 100_000_000_000
    patches = {truth[1788]["eprocess"] + offset: later}
    windows = patcheddump.patched("win10-19041", "kernel", patches).windows
    assert windows.process(2316).ppid == 1788
    assert windows.process(2316).parent is None
    assert [child.pid for child in windows.process(1788).children()] == []
