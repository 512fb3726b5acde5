"""Threads: against the truth of the machines, on damaged lists, in triage dumps.

SPDX-License-Identifier: MIT
"""

from datetime import timedelta
from types import SimpleNamespace

import patcheddump
import pytest
import shareddata

import kdmp
from kdmp.symbols.errors import TypeNotFoundError
from kdmp.windows.enums import processor_mode, thread_state, wait_reason
from kdmp.windows.threads import Thread, all_threads, thread_at

MACHINES, KINDS = shareddata.MACHINES, shareddata.KINDS
DAMAGED = "win10-19041-damaged"
SAME = {
    "tid": "tid", "pid": "pid", "state": "state", "wait_reason": "wait_reason", "start_address": "start",
    "win32_start_address": "win32_start", "teb": "teb", "stack_base": "stack_base",
    "stack_limit": "stack_limit", "kernel_stack": "kernel_stack", "initial_stack": "initial_stack",
    "trap_frame": "trap_frame", "priority": "priority",
}  # fmt: skip
NULLS = {"teb", "trap_frame"}
STATES = {2: "Running", 4: "Terminated", 5: "Waiting"}
REASONS = {0: "Executive", 4: "DelayExecution", 6: "UserRequest", 15: "WrQueue", 16: "WrLpcReceive"}
# A page of a user process is in these kinds.
ALL_RAM = ("full", "bitmap", "rdmpA")


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


def test_every_fact_is_that_of_the_truth(machine):
    truth, _, windows = machine
    for process in windows.processes():
        expected = {t["address"]: t for t in process_of(truth, process.pid)["threads"]}
        listing = process.threads()
        assert [t.address for t in listing] == list(expected)
        for thread in listing:
            known = expected[thread.address]
            for name, key in SAME.items():
                value = known[key]
                assert getattr(thread, name) == (None if value == 0 and name in NULLS else value), name
            assert thread.create_time == windows.filetime(known["create_time"])
            assert thread.exit_time == windows.filetime(known["exit_time"])
            assert thread.terminated is (known["state"] == 4)
            assert thread.process is process
            assert thread.attached_process is process
            assert str(thread.state) == STATES[known["state"]]
            assert str(thread.wait_reason) == REASONS[known["wait_reason"]]
            assert str(thread.wait_mode) in ("KernelMode", "UserMode")
            assert thread.name is None
            assert thread.impersonating is False
            assert thread.problems == ()


def test_all_threads(machine):
    truth, _, windows = machine
    found = [t.address for t in windows.threads()]
    order = [p.pid for p in windows.processes()]
    expected = [t["address"] for pid in order for t in process_of(truth, pid)["threads"]]
    assert found == expected
    ids = {entry["object"] for entry in truth["cid_table"]["entries"]}
    assert ids >= {t.address for t in windows.threads() if t.state != 4}


def test_which_processor_runs_it(machine):
    truth, _, windows = machine
    running = {cpu["current_thread"]: cpu["cpu"] for cpu in truth["cpus"]}
    for thread in windows.threads():
        assert thread.current == running.get(thread.address)
        assert (thread.current is not None) == (thread.state == 2)


def test_idle_threads(machine):
    """They are in no process' list; the processors lead to them."""
    truth, _, windows = machine
    for cpu in truth["cpus"]:
        thread = thread_at(windows, cpu["idle_thread"])
        assert thread.address not in {t.address for t in windows.threads()}
        assert repr(thread).startswith("<Thread ")


def test_32_bit_tebs(machine):
    _, kind, windows = machine
    for process in windows.processes():
        for thread in process.threads():
            if not process.wow64 or thread.teb is None:
                assert thread.teb32 is None
                assert thread.problems == ()
            elif process.reader.is_readable(thread.teb + 0x2018, 4):
                assert thread.teb32 == thread.teb + 0x2000
                assert process.reader.read_u32(thread.teb32 + 0x30) == process.peb32
            else:
                assert kind not in ALL_RAM
                assert thread.teb32 is None
                assert [p.what for p in thread.problems] == ["teb32"]


def test_registers_in_user_mode(machine):
    truth, _, windows = machine
    for process in windows.processes():
        for thread in process.threads():
            known = next(t for t in process_of(truth, process.pid)["threads"] if t["tid"] == thread.tid)
            registers = thread.registers
            if not known["trap_frame"]:
                assert registers is None
            elif registers is None:
                # The frame's page is missing from the dump; the thread says so.
                assert not windows.reader.is_readable(known["trap_frame"], 0x190)
                assert "registers" in [p.what for p in thread.problems]
            else:
                assert (registers["rip"], registers["rsp"]) == (known["user_rip"], known["user_rsp"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_in_a_list_of_threads(kind):
    truth = shareddata.truth(DAMAGED)
    damage = next(d for d in truth["damage"] if d["kind"] == "thread-list-self-loop")
    listing = windows_of(DAMAGED, kind).process(damage["pid"]).threads()
    assert sorted(t.tid for t in listing) == sorted({*damage["forward"], *damage["backward"]})
    assert any("executive's list" in p.why and "a cycle" in p.why for p in listing.problems)
    assert not any("kernel's list" in p.why for p in listing.problems)


def test_one_list_alone_has_them_all():
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    explorer = process_of(truth, 1788)
    expected = {t["tid"] for t in explorer["threads"]}
    for field in ("ThreadListHead", "Pcb.ThreadListHead"):
        head = explorer["eprocess"] + windows.layout.offset("_EPROCESS", field)
        damaged = patcheddump.patched("win10-19041", "kernel", {head: bytes(16)}).windows
        listing = damaged.process(1788).threads()
        assert {t.tid for t in listing} == expected
        assert listing.problems
        # Without both, the table of ids is left; the terminated thread is not in it any more.
    both = {
        explorer["eprocess"] + windows.layout.offset("_EPROCESS", f): bytes(16)
        for f in ("ThreadListHead", "Pcb.ThreadListHead")
    }
    listing = patcheddump.patched("win10-19041", "kernel", both).windows.process(1788).threads()
    alive = {t["tid"] for t in explorer["threads"] if t["state"] != 4}
    assert {t.tid for t in listing} == alive
    assert any("table of ids" in p.why for p in listing.problems)


def test_entries_that_are_no_threads():
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    thread = process_of(truth, 1788)["threads"][1]["address"]
    owner = thread + windows.layout.offset("_KTHREAD", "Process")
    for at, value in ((thread, b"\x03"), (owner, 0x1000)):
        listing = patcheddump.patched("win10-19041", "kernel", {at: value}).windows.process(1788).threads()
        assert thread not in [t.address for t in listing]
        assert len(listing) == 4
        assert any("no threads of the process" in p.why for p in listing.problems)


def test_a_missing_page_costs_properties_only():
    truth = shareddata.truth("win10-19041")
    known = process_of(truth, 560)["threads"][0]
    dump = patcheddump.without_pages("win10-19041", "kernel", known["address"])
    (thread,) = dump.windows.process(560).threads()
    assert thread.address == known["address"]
    thread.examine()
    assert thread.problems
    for name, key in SAME.items():
        assert getattr(thread, name) in (None, known[key])
    str(thread)


def patch_thread(patches, pid=1788, number=0):
    """The first thread of explorer.exe with fields changed: {path: value}."""
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    at = process_of(truth, pid)["threads"][number]["address"]
    changed = {at + windows.layout.offset("_ETHREAD", path): value for path, value in patches.items()}
    return thread_at(patcheddump.patched("win10-19041", "kernel", changed).windows, at)


def test_a_living_thread_has_no_exit_time():
    """ExitTime is KeyedWaitChain while the thread lives."""
    thread = patch_thread({"ExitTime": 133000000000000000})
    assert thread.exit_time is None
    thread = patch_thread({"ExitTime": 133000000000000000, "CrossThreadFlags": b"\1\0\0\0"})
    assert thread.terminated
    assert thread.exit_time.year == 2022
    thread = patch_thread({"ExitTime": 0xFFFF800012345678, "CrossThreadFlags": b"\1\0\0\0"})
    assert thread.exit_time is None


def test_times_and_flags():
    windows = windows_of()
    at = windows.symbol("KeTimeIncrement")
    truth = shareddata.truth("win10-19041")
    address = process_of(truth, 1788)["threads"][0]["address"]
    layout = windows.layout
    patches = {
        at: (156250).to_bytes(4, "little"),
        address + layout.offset("_ETHREAD", "Tcb.KernelTime"): (640).to_bytes(4, "little"),
        address + layout.offset("_ETHREAD", "Tcb.UserTime"): bytes(4),
        address + layout.offset("_ETHREAD", "Tcb.NextProcessor"): (0x80000003).to_bytes(4, "little"),
        address + layout.offset("_ETHREAD", "CrossThreadFlags"): b"\x08\0\0\0",
    }
    thread = thread_at(patcheddump.patched("win10-19041", "kernel", patches).windows, address)
    assert thread.kernel_time == timedelta(seconds=10)
    assert thread.user_time == timedelta(0)
    assert thread.next_processor == 3
    assert thread.impersonating is True
    assert thread.terminated is False
    patches[at] = b"\xff\xff\xff\xff"
    thread = thread_at(patcheddump.patched("win10-19041", "kernel", patches).windows, address)
    assert thread.kernel_time is None
    assert "no length of a tick" in thread.problems[0].why


def test_names_of_threads():
    truth, windows = shareddata.truth("win10-19041"), windows_of()
    # Any UNICODE_STRING will do: that of the path of the process' image.
    process = windows.process(1788)
    string = process.number("SeAuditProcessCreationInfo.ImageFileName")
    assert patch_thread({"ThreadName": string}).name == process_of(truth, 1788)["nt_image_path"]
    thread = patch_thread({"ThreadName": 0xFFFFA00000000010})
    assert thread.name is None
    assert thread.problems[0].what == "name"


def test_attached_to_another_process():
    truth = shareddata.truth("win10-19041")
    thread = patch_thread({"Tcb.ApcState.Process": process_of(truth, 596)["eprocess"]})
    assert thread.process.pid == 1788
    assert thread.attached_process.pid == 596
    assert thread.to_dict()["attached_process"] == process_of(truth, 596)["eprocess"]


def test_states_and_reasons_by_build():
    def session(build):
        def enum(name):
            raise TypeNotFoundError(name)

        return SimpleNamespace(dump=SimpleNamespace(build=build), layout=SimpleNamespace(enum=enum))

    assert thread_state(session(26100), 5).name == "Waiting"
    assert thread_state(session(26100), 9).name == "WaitingForProcessInSwap"
    assert thread_state(session(26100), 10).name is None
    assert wait_reason(session(2600), 6).name == "UserRequest"
    assert wait_reason(session(2600), 22).name is None
    assert wait_reason(session(7601), 36).name == "WrRundown"
    assert wait_reason(session(7601), 37).name is None
    assert wait_reason(session(9600), 38).name == "WrDeferredPreempt"
    assert wait_reason(session(9600), 39).name is None
    assert wait_reason(session(26100), 40).name == "WrIoRing"
    assert wait_reason(session(26100), 200).name is None
    assert int(wait_reason(session(26100), 200)) == 200
    assert str(processor_mode(1)) == "UserMode"
    assert str(processor_mode(9)) == "9"


def test_our_names_are_those_of_the_kernels():
    """Where the symbols have the enumerations, our tables for builds that lack them say the same."""
    for name in MACHINES:
        windows = windows_of(name)
        for enum, ours in (("_KTHREAD_STATE", thread_state), ("_KWAIT_REASON", wait_reason)):
            if enum not in windows.layout.enums:
                continue
            without = SimpleNamespace(dump=windows.dump, layout=SimpleNamespace(enum=lambda name: {}))
            for text, value in windows.layout.enum(enum).items():
                if text in ("GateWaitObsolete", "WrSpare0"):
                    continue  # no longer in use under a new name
                expected = None if text.startswith("Maximum") else text
                assert ours(without, value).name == expected


# ---- triage dumps ----


def triage_files():
    if not shareddata.SHARED.exists():
        return []
    return [entry["file"] for entry in shareddata.triage_index()]


@pytest.mark.parametrize("file", triage_files())
def test_the_crashing_thread_of_triage_dumps(file):
    facts = next(entry for entry in shareddata.triage_index() if entry["file"] == file)
    with kdmp.open(shareddata.unpack("triage", file)) as dump:
        windows = dump.windows
        (thread,) = all_threads(windows)
        (process,) = windows.processes()
        assert thread.process == process
        assert thread.pid == process.pid == facts["process"]["pid"]
        assert thread.tid > 0
        assert thread.tid % 4 == 0
        assert str(thread.state) == "Running"
        assert thread.create_time < dump.system_time
        # The context's stack pointer may be that of another stack (DPC, double fault), but is known.
        assert thread.stack_limit < thread.stack_base
        assert thread.stack_base % 0x1000 == 0
        assert thread_at(windows, thread.address).tid == thread.tid
        assert thread.memory.read_u8(thread.address) == 6
        stack = facts["stack"]["top_of_stack"]
        on_it = thread.stack_limit <= stack < thread.stack_base
        assert on_it or thread.current is not None
        thread.examine()
        str(thread)
        thread.to_dict()


def test_plain_data():
    thread = windows_of().process(2652).threads()[0]
    assert isinstance(thread, Thread)
    facts = thread.to_dict()
    assert (facts["state"], facts["pid"], facts["process"]) == (5, 2652, thread.process.address)
    assert "Waiting" in str(thread)
    assert thread == thread_at(thread.windows, thread.address)


def test_all_lists_together_are_bounded(monkeypatch):
    """Hostile lists of many processes must not cost the product of their lengths."""
    monkeypatch.setattr("kdmp.windows.threads._MAX_ENTRIES", 20)
    listing = windows_of().threads()
    assert any("goes on after" in p.why for p in listing.problems)
    # The table of ids has those that the lists were not asked for.
    truth = shareddata.truth("win10-19041")
    alive = {t["tid"] for p in truth["processes"] for t in p["threads"] if t["state"] != 4}
    assert {t.tid for t in listing} >= alive
