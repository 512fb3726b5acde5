"""SnapshotSeries: which dumps make one, and what changed between them.

SPDX-License-Identifier: MIT
"""

import pickle
from typing import NamedTuple

import pytest
import seriesdumps
import shareddata
from clidumps import arm64_dump, x86_dump
from conftest import small_machine
from dumpbuilder import BITMAP, FULL, build, stamp
from seriesdumps import KUSER, MACHINE, Later, original
from triagedumps import small_triage

import kdmp
from kdmp.series_windows import _same
from kdmp.times import filetime
from kdmp.windows.entity import Problem


def series_of(*dumps, **options):
    return kdmp.SnapshotSeries(dumps, **options)


# ---- one machine and one boot ----


def refused(second, first=None, **options):
    """What speaks against a series."""
    first = original() if first is None else first
    with pytest.raises(kdmp.SeriesError) as info:
        series_of(first, second, **options)
    assert isinstance(info.value, ValueError) and isinstance(info.value, kdmp.KdmpError)
    copy = pickle.loads(pickle.dumps(info.value))
    assert copy.mismatches == info.value.mismatches and str(copy) == str(info.value)
    loose = series_of(first, second, check=False)
    assert loose.mismatches == info.value.mismatches == loose.diff().mismatches
    assert all(one.what in str(info.value) for one in loose.mismatches[:4])
    return {one.what for one in loose.mismatches}


def test_another_machine():
    what = refused(original("win7-7601"))
    assert {"build", "kernel", "kernel base", "page-table root of System", "boot time"} <= what
    what = refused(original("win10-19041-damaged"))
    assert "kernel" in what and "build" not in what
    with kdmp.open(build(FULL, {1: stamp(1)}, minor_version=19042)) as other:
        assert refused(other) == {"build"}


def test_another_architecture():
    with kdmp.open(x86_dump()) as small, kdmp.open(arm64_dump()) as arm:
        assert {"architecture"} <= refused(small) and {"architecture"} <= refused(arm, small)


@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_a_later_dump_of_the_same_boot(machine):
    with Later(machine, "kernel").open() as second:
        series = series_of(original(machine, "kernel"), second)
        assert series.mismatches == () and series.diff().seconds == 60
        first = series.identities[0]
        assert first.kernel and first.kernel_base and first.system_dtb and first.boot_id == 17
        truth = shareddata.truth(machine)
        assert first.ram == tuple(map(tuple, truth["physical_runs"]))
        assert first.system_dtb == truth["processes"][0]["dtb"] & ~0xFFF
        assert first.boot_time == filetime(truth["boot_time"])


def test_the_order_of_time():
    with Later().open() as second:
        assert refused(original(), second) == {"order, by uptime"}
        series = series_of(original(), second, second)
        assert [diff.positions for diff in series.pairs()] == [(0, 1), (1, 2)]
        assert series.diff(0, -1).seconds == 60


def test_boot_time():
    """The same kernel at the same place, but booted at another time."""
    later = Later()
    later.move(3600, 0)
    with later.open() as second:  # boot id and kernel base agree: the clock was set
        assert series_of(original(), second).diff().seconds == 60
    for changed in (0, 18):
        later.raw(seriesdumps.BOOT_ID, changed, 4)
        later.put(KUSER + 0x2C4, changed.to_bytes(4, "little"))
        with later.open() as second:
            what = (
                {"boot time"} if changed == 0 else {"boot id in the header", "boot id in KUSER_SHARED_DATA"}
            )
            assert refused(second) == what | {"boot time"}
    later = Later()
    later.move(100, 0)  # a clock that was adjusted
    later.raw(seriesdumps.BOOT_ID, 0, 4)
    later.put(KUSER + 0x2C4, bytes(4))
    with later.open() as second:
        series_of(original(), second)


def test_system_and_ram():
    later = Later()
    system = later.eprocess(4)
    later.put_u64(later.field("_EPROCESS", "Pcb.DirectoryTableBase", system), 0x1234000)
    block = later.u64(original().windows.symbol("MmPhysicalMemoryBlock"))
    later.put_u64(block + 16 + 8, later.u64(block + 16 + 8) - 1)
    later.put_u64(block + 8, later.u64(block + 8) - 1)
    with later.open() as second:
        assert refused(second) == {"page-table root of System", "RAM"}


def test_header_lists():
    later = Later()
    later.header("ps_active_process_head", 0xFFFFF80000001000)
    later.header("ps_loaded_module_list", 0xFFFFF80000002000)
    with later.open() as second:
        assert {"PsLoadedModuleList", "PsActiveProcessHead"} <= refused(second)


def test_mismatches_beyond_neighbours():
    """A dump between that knows nothing does not hide what its neighbours say."""
    with kdmp.open(build(FULL, {1: stamp(1)})) as empty:
        series = series_of(original(), empty, original("win7-7601"), check=False)
        assert {(one.first, one.second) for one in series.mismatches if one.what == "kernel base"} == {(0, 2)}
        assert series.diff(0, 1).mismatches == ()


def test_memory_images():
    """Without a header: the times are those of KUSER_SHARED_DATA."""
    path = shareddata.unpack("machines", MACHINE, "memory.raw.xz")
    with kdmp.open_raw(path) as raw:
        series = series_of(original(), raw, check=False)
        identity = series.identities[1]
        assert (identity.build, identity.boot_id, identity.kernel_boot_id) == (None, None, 17)
        assert identity.kernel_base == series.identities[0].kernel_base
        assert [one.what for one in series.mismatches if not one.what.startswith("order")] == []
        assert series.diff().frames.same == sum(pfn in raw.pages for pfn in original().pages)


def test_refused_dumps():
    with kdmp.open(small_triage()) as triage, pytest.raises(kdmp.UnsupportedDumpError, match="triage"):
        series_of(triage, triage)
    with kdmp.open(build(FULL, {1: stamp(1)}, attributes=0x100)) as secret:
        assert secret.encrypted
        with pytest.raises(kdmp.UnsupportedDumpError, match="encrypted"):
            series_of(secret)
    with pytest.raises(ValueError, match="at least one"):
        series_of()
    with pytest.raises(TypeError):
        series_of(5)


def test_paths_and_sequence(tmp_path):
    paths = [tmp_path / "a.dmp", str(tmp_path / "b.dmp")]
    for path in paths:
        with open(path, "wb") as file:
            file.write(build(BITMAP, {1: stamp(1)}))
    with kdmp.open(paths[0]) as mine:
        with series_of(mine, *paths) as series:
            assert len(series) == 3 and list(series) == series[:] == [series[k] for k in range(3)]
            assert mine is series[0] and mine in series
            assert series.diff(0, 2).positions == (0, 2) == series.diff(-3, -1).positions
            for wrong in ((0, 3), (-4, 0)):
                with pytest.raises(IndexError):
                    series.diff(*wrong)
            assert "3" in repr(series) and "1" in repr(series.diff(0, 1)) and repr(series.monitor_source())
            dumps = list(series)
            assert series.diff().seconds is None
        assert [dump.closed for dump in dumps] == [False, True, True]
        with pytest.raises(kdmp.WrongFileError):
            series_of(mine, paths[0], __file__)
        assert not mine.closed


# ---- processes, threads, modules ----


def facts(changes):
    return [(change.after.address, dict(change.facts)) for change in changes.changed]


def plain_facts(change):
    return {name: (fact["old"], fact["new"]) for name, fact in change.to_dict()["facts"].items()}


@pytest.mark.parametrize("kind", ["full", "kernel"])
@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_processes(machine, kind):
    later = Later(machine, kind)
    lsass, services, smss, shell = map(later.eprocess, (596, 560, 308, 1788))
    by_pid = {p["pid"]: p for p in later.truth["processes"]}
    ended = by_pid[308]["create_time"] + 10**9
    # 308 ends, 596 loses threads, 560 is taken out of the list, and 1788's id goes to a new process.
    later.put_u64(later.field("_EPROCESS", "ExitTime", smss), ended)
    later.put(later.field("_EPROCESS", "ActiveThreads", lsass), (77).to_bytes(4, "little"))
    later.unlink(later.field("_EPROCESS", "ActiveProcessLinks", services))
    later.put_u64(later.field("_EPROCESS", "CreateTime", shell), by_pid[1788]["create_time"] + 10**9)
    with later.open() as second:
        first = original(machine, kind)
        changes = series_of(first, second).diff().processes
        assert changes.available and changes
        assert [(p.pid, p.address) for p in changes.gone] == [(1788, shell)] and changes.gone[
            0
        ].windows.dump is first
        assert [(p.pid, p.address) for p in changes.came] == [(1788, shell)]
        assert changes.came[0].windows.dump is second
        by_address = {change.after.address: change for change in changes.changed}
        assert by_address.keys() == {lsass, services, smss}
        assert by_address[lsass].facts["thread_count"] == (by_pid[596]["thread_count"], 77)
        assert "thread_count 1 -> 77" in str(by_address[lsass])
        assert by_address[smss].facts["exit_time"] == (None, filetime(ended))
        assert by_address[services].facts["hidden"] == (False, True)
        assert [p["pid"] for p in changes.to_dict()["came"]] == [1788]
        for change in by_address.values():
            assert change.before.windows.dump is first and plain_facts(change).keys() == change.facts.keys()


def test_processes_in_reverse():
    """What came in one direction went in the other."""
    later = Later(seconds=0)
    made = later.field("_EPROCESS", "UniqueProcessId", later.eprocess(2500))
    later.put_u64(made, 4444)
    with later.open() as second:
        for dumps, came, gone in (((original(), second), 4444, 2500), ((second, original()), 2500, 4444)):
            changes = series_of(*dumps).diff().processes
            assert [p.pid for p in changes.came] == [came]
            assert [p.pid for p in changes.gone] == [gone]


def test_what_cannot_be_read_is_no_change():
    """The page with a handle table is gone in the second dump: a problem, not a change."""
    later = Later()
    found = list(original().windows.processes())
    ids = later.u64(original().windows.symbol("PspCidTable"))  # without it fewer processes are found
    table = next(p.object_table for p in found if p.object_table and p.object_table >> 12 != ids >> 12)
    later.unmap(table)
    sharing = [p for p in found if p.object_table and p.object_table >> 12 == table >> 12]
    with later.open() as second:
        changes = series_of(original(), second).diff().processes
        assert not changes and changes.available
        (problem,) = [problem for problem in changes.problems if problem.what == "handle_count"]
        assert problem.why == f"not known of {len(sharing)} processes"


class Key(NamedTuple):
    """What tells a process."""

    pid: int
    create_time: int | None
    problems: tuple[Problem, ...] = ()


def test_lost_keys_do_not_part_a_process():
    """The creation time cannot be read in one of the dumps: it is still the same process."""
    key = ("pid", "create_time")
    whole, unknown = Key(4, 5), Key(4, None, (Problem("create_time", "is not in the dump"),))
    assert _same(whole, unknown, key) and _same(unknown, whole, key)
    assert not _same(whole, Key(4, None), key)
    assert not _same(whole, unknown._replace(pid=8), key)


def test_threads():
    later = Later()
    shell = next(p for p in later.truth["processes"] if p["pid"] == 1788)
    one, two = (t["address"] for t in shell["threads"][:2])
    later.put(later.field("_ETHREAD", "Tcb.Priority", one), b"\x1f")
    later.put_u64(later.field("_ETHREAD", "CreateTime", two), shell["create_time"] + 12345)
    with later.open() as second:
        changes = series_of(original(), second).diff().threads
        assert [t.address for t in changes.came] == [t.address for t in changes.gone] == [two]
        (changed,) = changes.changed
        assert (changed.after.address, changed.facts["priority"][1]) == (one, 31)
        assert changed.before.priority == changed.facts["priority"][0]


def test_modules():
    later = Later()
    entries = {module["name"]: module["ldr"] for module in later.truth["modules"]}
    type = "_KLDR_DATA_TABLE_ENTRY"
    later.unlink(entries["ndis.sys"])
    later.put(later.field(type, "LoadCount", entries["tcpip.sys"]), (9).to_bytes(2, "little"))
    later.put(later.field(type, "TimeDateStamp", entries["Npfs.SYS"]), (0x12345678).to_bytes(4, "little"))
    with later.open() as second:
        changes = series_of(original(), second).diff().modules
        assert sorted(m.name for m in changes.gone) == ["Npfs.SYS", "ndis.sys"]
        assert [(m.name, m.timestamp) for m in changes.came] == [("Npfs.SYS", 0x12345678)]
        (changed,) = changes.changed
        assert (changed.after.name, changed.facts["load_count"][1]) == ("tcpip.sys", 9)


def test_without_windows():
    """No kernel, no symbols: said, not raised; the frames are compared all the same."""
    images = [build(FULL, {1: stamp(k), 2: stamp(2)}) for k in range(2)]
    with kdmp.open(images[0]) as first, kdmp.open(images[1]) as second:
        diff = series_of(first, second).diff()
        assert list(diff.frames.changed) == [1]
        for changes in (diff.processes, diff.threads, diff.modules):
            assert not changes and not changes.available and len(changes.problems) == 1
            assert changes.problems[0].why.startswith("first dump: ")


# ---- page-table monitor ----


class Monitor:
    """What a series needs of a PageTableMonitor."""

    def __init__(self, source, *roots):
        self.source, self.roots, self.pa = source, list(roots), 0x1000

    def state(self):
        return {"addresses": [{"root": root} for root in self.roots]}

    def advance(self):
        return [self.source.read_u64(self.pa)]


def test_going_from_dump_to_dump():
    values = (bytes(8), b"A" * 8, None, b"B" * 8)
    images = [build(FULL, {2: stamp(2)} | ({1: v * 512} if v else {})) for v in values]
    dumps = [kdmp.open(image) for image in images]
    series = series_of(*dumps)
    assert (series.position, series.dump, series.read_u64(0x1000)) == (0, dumps[0], 0)
    expected = [int.from_bytes(v, "little") if v else None for v in values]
    source = series.monitor_source()
    assert list(series.events(Monitor(series))) == [(k, [expected[k]]) for k in (1, 2, 3)]
    assert (series.position, source.position, series.dump) == (3, 0, dumps[3])
    assert list(series.events(Monitor(series))) == []
    assert list(source.events(Monitor(source))) == [(k, [expected[k]]) for k in (1, 2, 3)]
    assert source.next() is False and source.read_u64(2**63) is None
    for dump in dumps:
        dump.close()


def test_roots_must_stay_with_their_process():
    """5c: a root that went to another process would give events about that one."""
    later = Later()
    dtb, old = (next(p for p in later.truth["processes"] if p["pid"] == pid) for pid in (1788, 596))
    later.put_u64(later.field("_EPROCESS", "CreateTime", dtb["eprocess"]), dtb["create_time"] + 10**9)
    with later.open() as second:
        series = series_of(original(), second)
        assert [k for k, _ in series.monitor_source().events(Monitor(series, old["dtb"], 0x1F000))] == [1]
        source = series.monitor_source()
        monitor = Monitor(source, old["dtb"], dtb["dtb"])
        with pytest.raises(kdmp.SeriesError, match=r"belongs to process 1788 .* in dump 0 and to 1788"):
            next(source.events(monitor))
        assert source.position == 0
        monitor.roots.pop()
        assert len(list(source.events(monitor))) == 1
        loose = series_of(original(), second, check=False)
        assert len(list(loose.events(Monitor(loose, dtb["dtb"])))) == 1


def test_monitor_events():
    """B11: a page is reserved, then committed (demand zero), then valid; its neighbour stays reserved."""
    monitors = pytest.importorskip("kdmp.monitor")
    from dumpbuilder import Memory, P, Tables, U, W

    va, images = 0x7FF6_0000_1000, []
    for leaf in (0, 4 << 5, 0x9000 | P | W | U):
        memory = Memory()
        tables = Tables(memory)
        tables.raw(va, leaf)
        tables.raw(va + 0x1000, 0)
        memory.fill(9)
        images.append(memory.dump(minor_version=19041))
    dumps = [kdmp.open(image) for image in images]
    series = series_of(*dumps)
    monitor = monitors.PageTableMonitor(series)
    for k in range(2):
        monitor.monitor(va + k * 0x1000, 0x1000, tag=k, paging="x64")
    (_, one), (_, two) = series.events(monitor)
    assert [(type(e).__name__, e.tag) for e in one] == [("StateChanged", 0)]
    assert (one[0].old, one[0].new) == ("zero", "demand_zero")
    assert [(e.tag, e.pa) for e in two if isinstance(e, monitors.PageIn)] == [(0, 0x9000)]
    assert not [e for e in (*one, *two) if e.tag == 1]
    for dump in dumps:
        dump.close()


def test_a_series_in_a_collector_records_nothing():
    """What the series looks for to tell the machine is no fault of the user's."""
    with kdmp.open(small_machine().dump()) as first, kdmp.open(small_machine().dump()) as second:
        for dump in (first, second):
            with dump.collect_faults() as faults:
                series = series_of(first, second)
            assert list(faults) == []
            assert len(series) == 2


def test_remarks_about_dumps_that_tell_nothing():
    with (
        kdmp.open(build(FULL, {1: stamp(1)})) as blank,
        kdmp.open(build(BITMAP, {1: stamp(1)})) as other,
        kdmp.open(build(FULL, {1: stamp(1)}, minor_version=19041)) as known,
        kdmp.open(build(FULL, {1: stamp(1)}, system_time=132_579_599_029_877_650)) as dated,
    ):
        series = series_of(blank, other, known, known)
        assert [remark.split(": ")[1][:13] for remark in series.remarks] == ["dumps 0 and 1", "dumps 1 and 2"]
        assert all("nothing tells whether these are of one machine" in remark for remark in series.remarks)
        assert series.mismatches == ()
        assert len(series_of(dated, dated).remarks) == 1  # a time alone is no boot
        assert series_of(known, known).remarks == series_of(blank).remarks == []
    with Later().open() as second:
        assert series_of(original(), second).remarks == []
