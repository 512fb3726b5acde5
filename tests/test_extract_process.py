"""Process.extract: the user memory of a process in one file, with an index.

SPDX-License-Identifier: MIT
"""

import hashlib
import io
import json
import os
import random
from types import SimpleNamespace

import pytest
from shareddata import MACHINES, machine_dump, truth, unpack

import kdmp
from kdmp.mappings import bounds
from kdmp.windows.processfile import KINDS, _joined, _split, _stretches, extract_process
from kdmp.windows.processmemory import ProcessMemory, Resident
from kdmp.windows.vadpages import read_page
from kdmp.windows.vads import vads

PAGE = 0x1000


@pytest.fixture(scope="module")
def machine():
    """Dumps of machines by name and kind, opened once."""
    opened = {}

    def get(name, kind="full"):
        if (name, kind) not in opened:
            opened[name, kind] = kdmp.open(machine_dump(name, kind))
        return opened[name, kind].windows

    yield get
    for dump in opened.values():
        dump.close()


# ---- processes ----


def oracle(process):
    """What is in the user half, page by page: {va: bytes}, of the VADs and of what is mapped outside."""
    reader = process.reader
    pages = {}
    places = [va for vad in vads(process) for va in range(vad.start, vad.stop, PAGE) if vad.size < 1 << 30]
    for one in reader.mappings(*bounds(reader.paging, 0, None, "user")):
        if one.state != "table":
            places += range(one.start, one.start + one.size, PAGE)
    for va in dict.fromkeys(places):
        data = read_page(process, va)
        if data is not None:
            pages[va] = data
    return pages


def contents(result, data):
    """The pages that a result says are in its file: {va: bytes}, and those that are gaps."""
    pages, missing = {}, set()
    for one in result.ranges:
        assert one.va % PAGE == one.offset % PAGE == one.size % PAGE == 0
        holes = {va for gap in one.gaps for va in range(gap.address, gap.address + gap.size, PAGE)}
        assert sum(gap.size for gap in one.gaps) == one.missing
        for va in range(one.va, one.stop, PAGE):
            part = data[one.offset + va - one.va :][:PAGE]
            if va in holes:
                assert part == bytes(PAGE)
                missing.add(va)
            else:
                pages[va] = part
    return pages, missing


@pytest.mark.parametrize("kind", ["full", "kernel", "rdmp9"])
@pytest.mark.parametrize("name", MACHINES)
def test_processes_of_the_machines(machine, name, kind, tmp_path):
    for process in machine(name, kind).processes()[::3]:
        path = tmp_path / f"{process.pid}.bin"
        result = process.extract(path)
        data = path.read_bytes()
        assert len(data) == result.size == sum(one.size for one in result.ranges)
        assert [one.offset for one in result.ranges] == [
            sum(one.size for one in result.ranges[:k]) for k in range(len(result.ranges))
        ]
        assert [one.va for one in result.ranges] == sorted(one.va for one in result.ranges)
        pages, missing = contents(result, data)
        expected = oracle(process)
        assert expected.keys() <= pages.keys()
        assert {va: pages[va] for va in expected} == expected
        # What else is in the file are pages that are zero when they are first used.
        for va in pages.keys() - expected.keys():
            assert pages[va] == bytes(PAGE)
            assert process.reader.missing(va).reason.state == "demand_zero"
        assert result.missing == len(missing) * PAGE
        assert result.written == len(pages) * PAGE
        assert (result.pid, result.name) == (process.pid, process.full_name or process.name)


@pytest.mark.parametrize("name", ["win10-19041", "win7-7601", "win11-22000-pti"])
def test_sampled_pages_of_the_truth(machine, name, tmp_path):
    """SHA-256 of pages by the generator of the machines, also of those that only a VAD leads to."""
    windows, seen = machine(name), set()
    for process in windows.processes():
        samples = [
            one
            for one in truth(name)["ptes"]
            if one["pid"] == process.pid and "sha256" in one and one["va"] < 1 << 47
        ]
        if not samples:
            continue
        result = process.extract(tmp_path / str(process.pid))
        data = (tmp_path / str(process.pid)).read_bytes()
        pages, _ = contents(result, data)
        for one in samples:
            assert hashlib.sha256(pages[one["va"] & -PAGE]).hexdigest() == one["sha256"]
            seen.add(one["state"])
    assert {"valid", "transition", "prototype"} <= seen


def test_ranges_are_those_of_the_vads(machine, tmp_path):
    process = machine("win10-19041").process(2316)
    (facts,) = (one for one in truth("win10-19041")["processes"] if one["pid"] == 2316)
    by_address = {one["address"]: one for one in facts["vads"]}
    result = process.extract(tmp_path / "out")
    for one in result.ranges:
        vad = by_address[one.vad]
        assert vad["start"] <= one.va < one.stop <= vad["end"] + 1
        assert one.file == vad["file"]
        assert result.at(one.va) is result.at(one.stop - 1) is one
        assert one.kind in KINDS
    assert result.at(0) is None
    assert {one.kind for one in result.ranges} >= {"private", "image", "mapped"}


def test_the_index_is_beside_the_file(machine, tmp_path):
    process = machine("win10-19041").process(2316)
    result = process.extract(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out", "out.json"]
    facts = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert facts == result.to_dict()
    assert (facts["pid"], facts["index"]) == (2316, str(tmp_path / "out.json"))
    assert facts["process"] == "notes-日本語.exe"
    assert facts["ranges"][0]["protection"] == "ReadOnly"
    with pytest.raises(FileExistsError):
        process.extract(tmp_path / "out")
    (tmp_path / "out").unlink()
    with pytest.raises(FileExistsError):
        process.extract(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out.json"]
    process.extract(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("index, names", [(False, ["out"]), (True, ["out", "out.json"]), ("i", ["i", "out"])])
def test_where_the_index_goes(machine, tmp_path, index, names):
    place = str(tmp_path / index) if isinstance(index, str) else index
    result = machine("win7-7601").process(308).extract(tmp_path / "out", index=place)
    assert sorted(os.listdir(tmp_path)) == names
    assert (result.index is None) == (index is False)


def test_a_process_into_memory(machine, tmp_path):
    process, out = machine("win7-7601").process(308), io.BytesIO()
    result = process.extract(out)
    process.extract(tmp_path / "out")
    assert out.getvalue() == (tmp_path / "out").read_bytes()
    assert result.index is None
    assert result.path is None


@pytest.mark.parametrize("what", ["image", ["private", "mapped"], "none", []])
def test_what_is_wanted(machine, what):
    process = machine("win10-19041").process(2316)
    everything = process.extract(io.BytesIO()).ranges
    got = process.extract(io.BytesIO(), what=what).ranges
    wanted = {what} if isinstance(what, str) else set(what)
    assert [(one.va, one.size) for one in got] == [
        (one.va, one.size) for one in everything if one.kind in wanted
    ]


def test_what_may_be_a_function(machine):
    process = machine("win10-19041").process(2316)
    got = process.extract(io.BytesIO(), what=lambda vad: vad.rights.execute and vad.private)
    assert [one.protection for one in got.ranges] == ["ExecuteReadWrite"]
    with pytest.raises(ValueError, match="no such kind: heap"):
        process.extract(io.BytesIO(), what="heap")


def test_untouched_memory(machine):
    process = machine("win10-19041").process(2316)
    before = process.extract(io.BytesIO())
    after = process.extract(io.BytesIO(), untouched=True)
    assert after.size >= before.size
    assert after.written == before.written
    whole = [vad for vad in vads(process) if vad.private and vad.mem_commit and vad.kind == "private"]
    for vad in whole:
        one = after.at(vad.start)
        assert (one.va, one.stop) == (vad.start, vad.stop)


def test_lost_page_tables_are_told(machine):
    result = machine("win10-19041", "kernel").process("explorer").extract(io.BytesIO())
    assert (result.size, result.ranges) == (0, ())
    assert "page tables are not in the dump" in str(result)


def test_a_process_as_text(machine):
    text = str(machine("win10-19041").process("explorer").extract(io.BytesIO())).splitlines()
    assert text[0].endswith("15 ranges")
    assert any("image, ExecuteWriteCopy, \\Windows\\System32\\ntdll.dll" in line for line in text)
    assert "missing:" in text


def test_interrupted(machine, tmp_path):
    process = machine("win10-19041").process("explorer")

    def stop(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.extract(tmp_path / "out", progress=stop)
    assert os.listdir(tmp_path) == []
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError):
            process.extract("/dev/full")
        with pytest.raises(OSError):
            process.extract(tmp_path / "out", index="/dev/full")
        assert os.listdir(tmp_path) == []


def test_progress_of_a_process(machine):
    calls = []
    result = (
        machine("win10-19041")
        .process("explorer")
        .extract(io.BytesIO(), progress=lambda done, total: calls.append((done, total)))
    )
    assert calls[0] == (0, result.size)
    assert calls[-1] == (result.size, result.size)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_the_limit_of_a_process(machine, tmp_path):
    with pytest.raises(ValueError, match="limit"):
        machine("win10-19041").process("explorer").extract(tmp_path / "out", limit=0x1000)
    assert os.listdir(tmp_path) == []


def test_no_page_tables(machine):
    process = machine("win10-19041").process("explorer")
    other = kdmp.windows.processes.process_at(process.windows, process.address)
    other.__dict__["dtb"] = None
    with pytest.raises(kdmp.RootNotPresentError):
        other.extract(io.BytesIO())


def test_faults_are_not_collected(machine):
    windows = machine("win10-19041")
    with windows.dump.collect_faults() as faults:
        result = windows.process("explorer").extract(io.BytesIO())
    assert result.missing
    assert not faults


def test_mutated_vads_never_crash(machine):
    """Damage in the VADs and page tables costs ranges, and little time."""
    windows = machine("win10-19041")
    dump = windows.dump
    process = windows.process("explorer")
    places = [windows.dump.reader().translate(vad.address).pa for vad in vads(process)]
    places += [entry.pa for entry in process.reader.translate(process.peb).entries]
    rng = random.Random(7)
    for _ in range(25):
        with dump.overlay() as overlay:
            for pa in rng.sample(places, 3):
                at = pa + 8 * rng.randrange(8)
                overlay.write_u64(kdmp.phys(at), rng.choice([0, (1 << 64) - 1, rng.getrandbits(64), at]))
            reader = overlay.reader(dtb=process.dtb)
            hurt = SimpleNamespace(
                windows=windows, address=process.address, object=process.object, reader=reader, pid=1,
                full_name="x", name="x",
            )  # fmt: skip
            try:
                extract_process(
                    hurt, "/dev/null", what=None, untouched=True, index=False, overwrite=False, limit=1 << 62,
                    progress=None,
                )  # fmt: skip
            except kdmp.KdmpError:
                pass


def test_triage_dumps_have_user_memory_too():
    out = io.BytesIO()
    kernel = 0xFFFFF80000000000
    kdmp.write_triage(out, header={}, data_blocks=[(kernel, b"kernel"), (0x7FF000000010, b"user" * 4)])
    with kdmp.open(out.getvalue()) as dump:
        memory = SimpleNamespace(reader=dump.reader())
        assert list(_stretches(memory, [])) == [(0x7FF000000010, 0x7FF000000020)]


def test_the_process_of_a_triage_dump():
    with kdmp.open(unpack("triage", "triage_x64.dmp.xz")) as dump:
        (process,) = dump.windows.processes()
        result = process.extract(io.BytesIO())
        assert (result.pid, result.size) == (4, 0)
        module = next(one for one in dump.windows.modules() if dump.reader().missing(one.base))
        whole = module.extract(io.BytesIO())
        assert whole.size == module.size
        with pytest.raises(kdmp.UnreadableError):
            module.extract(io.BytesIO(), layout="file")


def test_stretches_are_joined_and_cut():
    assert list(_joined([(0, 4), (2, 3), (4, 6), (8, 9), (8, 8), (1, 2)])) == [(0, 6), (8, 9)]
    assert list(_joined([])) == []
    one, two, three = (SimpleNamespace(start=a, stop=b) for a, b in ((2, 5), (4, 8), (8, 9)))
    assert list(_split([(0, 10)], [one, two, three])) == [
        (0, 2, None),
        (2, 5, one),
        (5, 8, two),
        (8, 9, three),
        (9, 10, None),
    ]
    assert list(_split([(0, 1), (3, 4), (20, 21)], [one])) == [(0, 1, None), (3, 4, one), (20, 21, None)]


# ---- memory that only VADs lead to ----


@pytest.mark.parametrize("name", ["win10-19041", "win7-7601"])
def test_process_memory_reads_as_page_by_page(machine, name):
    """Against kdmp.windows.vadpages.read_page, in pieces that end anywhere."""
    rng = random.Random(3)
    for process in machine(name).processes()[-4:]:
        memory = ProcessMemory(process, process.reader, vads(process))
        for vad in vads(process):
            if vad.size > 1 << 22:
                continue
            start = vad.start + rng.randrange(PAGE)
            at = start
            while at < vad.stop:
                buffer = memoryview(bytearray(min(vad.stop - at, rng.randrange(1, 0x5000))))
                got = memory.read_into(at, buffer)
                for va in (at, *range((at | 0xFFF) + 1, at + got, PAGE)) if got else ():
                    page = read_page(process, va)
                    expected = bytes(PAGE) if page is None else page
                    part = bytes(buffer[va - at : got][: PAGE - va % PAGE])
                    assert part == expected[va % PAGE :][: len(part)]
                at += got
                if got < len(buffer):
                    gap = memory.missing(at, vad.stop - at)
                    assert read_page(process, at) is None
                    assert (gap.address, gap.size > 0) == (at, True)
                    for va in range(at, at + gap.size, PAGE):
                        assert read_page(process, va) is None
                    at += gap.size
                    if at < vad.stop:
                        assert (
                            memory.missing(at) is None
                            or type(memory.missing(at).reason) is not type(gap.reason)
                            or memory.reader.missing(at, 1).reason.state == "vad"
                        )


def test_resident_pages_follow_each_other():
    one = Resident(0x1000, 0x5000, 0x2000)
    assert one.stop == 0x3000
