"""`kdmp diff`: text, JSON, exit codes.

SPDX-License-Identifier: MIT
"""

import pytest
import shareddata
from dumpbuilder import BITMAP, FULL, build, stamp
from seriesdumps import MACHINE, Later, original

pytest_plugins = ["clifixtures"]


@pytest.fixture(scope="module")
def first():
    return str(shareddata.machine_dump(MACHINE, "full"))


@pytest.fixture(scope="module")
def later():
    """A minute later: an id used again, a driver gone, a thread of another priority."""
    later = Later()
    later.put_u64(later.field("_EPROCESS", "UniqueProcessId", later.eprocess(2500)), 4444)
    modules = {module["name"]: module["ldr"] for module in later.truth["modules"]}
    later.unlink(modules["ndis.sys"])
    shell = next(p for p in later.truth["processes"] if p["pid"] == 1788)
    later.put(later.field("_ETHREAD", "Tcb.Priority", shell["threads"][0]["address"]), b"\x1f")
    return later


@pytest.fixture(scope="module")
def second(later, tmp_path_factory):
    path = tmp_path_factory.mktemp("diff") / "later.dmp"
    path.write_bytes(later.image)
    return str(path)


@pytest.fixture
def small(tmp_path):
    """Two dumps without Windows, of frames that differ in every way."""
    a = {1: stamp(1), 2: stamp(2), 3: stamp(3), 7: stamp(7)}
    b = {2: stamp(2), 3: stamp(33), 8: stamp(8), 9: stamp(9)}
    paths = tmp_path / "a.dmp", tmp_path / "b.dmp"
    for path, pages, kind in zip(paths, (a, b), (FULL, BITMAP), strict=True):
        path.write_bytes(build(kind, pages))
    return paths


def changed_frames(later):
    before = original().pages
    with later.open() as dump:
        return sorted(pfn for pfn in before if bytes(before[pfn]) != bytes(dump.pages[pfn]))


def test_text(run, first, second, later):
    code, out, err = run("diff", first, second, "--frames")
    assert code == 0
    (note,) = err.splitlines()  # said once, though processes and threads both have it
    assert note.startswith("kdmp: cid table: second dump: what id 2500 leads to")
    lines = out.splitlines()
    facts = dict(line.split("  ", 1) for line in lines[: lines.index("")])
    facts = {label: value.strip() for label, value in facts.items()}
    changed = changed_frames(later)
    assert facts["time between"] == "0:01:00"
    assert facts["frames"] == f"{len(original().pages) - len(changed)} same, {len(changed)} changed"
    assert (facts["only in first"], facts["only in second"]) == ("0 frames", "0 frames")
    listed = [line.split() for line in lines if line.startswith("changed ") and "0x" in line]
    frames = [pfn for _, a, b, _ in listed for pfn in range(int(a, 16), int(b, 16) + 1)]
    assert frames == changed
    assert "processes: 1 came, 1 gone, 0 changed" in lines
    assert "modules: 0 came, 1 gone, 0 changed" in lines
    rows = [line.split() for line in lines]
    assert ["+", "4444", "old32.exe"] in [row[:3] for row in rows]
    assert ["-", "2500", "old32.exe"] in [row[:3] for row in rows]
    assert ["-", "ndis.sys"] in [row[:2] for row in rows]
    (thread,) = [line for line in lines if line.startswith("*") and "explorer.exe" in line]
    assert thread.endswith("-> 31") and "priority" in thread


def test_json(run_json, first, second, later):
    found = run_json("diff", first, second)
    assert (found["file"], found["other"], found["seconds"], found["mismatches"]) == (first, second, 60.0, [])
    changed = changed_frames(later)
    assert found["remarks"] == []
    assert found["frames"]["changed"] == len(changed) and "changed_runs" not in found["frames"]
    assert found["frames"]["same"] == len(original().pages) - len(changed)
    assert found["first"]["kernel_base"] == found["second"]["kernel_base"] == original().kernel.base
    assert found["second"]["uptime"] - found["first"]["uptime"] == 60
    processes = found["processes"]
    assert [p["pid"] for p in processes["came"]] == [4444] and [p["pid"] for p in processes["gone"]] == [2500]
    assert processes["available"] is True
    assert [m["name"] for m in found["modules"]["gone"]] == ["ndis.sys"]
    thread = next(t for t in found["threads"]["changed"] if "priority" in t["facts"])
    assert (thread["pid"], thread["facts"]["priority"]["new"]) == (1788, 31)
    found = run_json("diff", first, str(shareddata.machine_dump("win10-19041-damaged", "full")), "--force")
    assert {t["state"] for t in found["threads"]["came"]} >= {"Waiting", "Running"}
    assert all(isinstance(t.get("kernel_time", 0.0), float) for t in found["threads"]["gone"])
    runs = run_json("diff", first, second, "--frames", "--threads", "1")["frames"]
    listed = [pfn for r in runs["changed_runs"] for pfn in range(r["pfn"], r["pfn"] + r["count"])]
    assert listed == changed and runs["only_first_runs"] == []


def test_not_one_machine(run, run_json, first):
    other = str(shareddata.machine_dump("win7-7601", "kernel"))
    code, out, err = run("diff", first, other)
    assert (code, out) == (1, "")
    assert f"kdmp: build: 19041 in {first}, 7601 in {other}" in err and "--force" in err
    code, out, err = run("diff", first, other, "--force")
    assert code == 0 and "mismatch" in out and "processes: 1" in out
    code, out, err = run("diff", "--json", first, other)
    assert code == 1 and '"SeriesError"' in out and '"kernel base"' in out
    found = run_json("diff", first, other, "--force")
    assert {"build", "kernel"} <= {one["what"] for one in found["mismatches"]}


def test_out_of_order(run, first, second):
    code, _, err = run("diff", second, first)
    assert code == 1 and "order, by uptime" in err
    code, out, _ = run("diff", second, first, "--force")
    assert code == 0 and "-0:01:00" in out


def test_without_windows(run, run_json, small):
    code, out, err = run("diff", *small, "--frames", "--io", "read")
    assert code == 0 and "processes: cannot be compared" in out and "first dump" in err
    assert "kdmp: nothing tells whether these are of one machine" in err.splitlines()
    rows = [line.split() for line in out.splitlines()]
    assert ["changed", "0x3", "0x3", "1"] in rows
    assert ["only", "in", "FILE", "0x1", "0x1", "1"] in rows
    assert ["only", "in", "OTHER", "0x8", "0x9", "2"] in rows
    found = run_json("diff", *small, "--frames")
    assert "dumps 0 and 1" in found["remarks"][0]
    assert found["frames"]["only_second_runs"] == [{"pfn": 8, "count": 2}]
    assert found["processes"]["available"] is False and found["processes"]["problems"]
    assert "seconds" not in found


def test_errors(run, small, tmp_path):
    wrong = tmp_path / "text.txt"
    wrong.write_bytes(b"no dump at all" * 1000)
    for files in ((small[0], wrong), (wrong, small[0])):
        code, out, err = run("diff", *files)
        assert (code, out) == (1, "") and err.startswith(f"kdmp: {wrong}: ")
    code, _, err = run("diff", small[0], tmp_path / "missing.dmp")
    assert code == 1 and "missing.dmp" in err
    assert run("diff", small[0])[0] == 2
    assert run("diff", *small, "--threads", "0")[0] == 2


def test_triage(run, small, tmp_path):
    from triagedumps import small_triage

    path = tmp_path / "triage.dmp"
    path.write_bytes(small_triage())
    code, _, err = run("diff", path, path)
    assert code == 1 and "triage" in err
