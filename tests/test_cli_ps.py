"""`kdmp ps`: the table, the tree, JSON and CSV.

SPDX-License-Identifier: MIT
"""

import csv
import io

import patcheddump
import pytest
import shareddata

pytest_plugins = ["clifixtures"]


@pytest.fixture(scope="module")
def dump():
    return shareddata.machine_dump("win10-19041", "kernel")


def test_table(run, dump):
    code, out, err = run("ps", dump)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == (
        "pid ppid name session threads created exited wow64 dtb eprocess hidden".split()
    )
    assert lines[-1] == "15 processes"
    assert lines[1].split()[:4] == ["4", "0", "System", "4"]
    (stealth,) = (line for line in lines if "stealth.exe" in line)
    assert stealth.endswith("  yes")
    (old,) = (line for line in lines if "old32.exe" in line)
    assert " yes " in old
    assert sum(line.endswith("  yes") for line in lines) == 1
    assert any("RuntimeBrokerHelperService.exe" in line for line in lines)


def test_tree(run, dump):
    code, out, _ = run("ps", "--tree", dump)
    assert code == 0
    lines = out.splitlines()
    column = lines[0].index("name")
    names = [line[column:] for line in lines[1:-1]]
    assert names[0].startswith("System")
    assert names[1].startswith("  Registry")
    services = next(n for n, name in enumerate(names) if name.strip().startswith("services.exe"))
    assert names[services].startswith("  services")
    assert names[services + 1].startswith("    fifteenchar.exe")
    assert len(names) == 15


def test_tree_without_parents_that_came_later(run, tmp_path):
    """An id is used again: who was created later is no parent, and a circle loses nobody."""
    truth = shareddata.truth("win10-19041")
    at = {p["pid"]: p["eprocess"] for p in truth["processes"]}
    with patcheddump.patched("win10-19041", "kernel", {}) as made:
        layout = made.windows.layout
        parent = layout.offset("_EPROCESS", "InheritedFromUniqueProcessId")
        created = layout.offset("_EPROCESS", "CreateTime")
    patches = {
        at[412] + parent: 2808,  # created after it
        at[560] + parent: 596, at[596] + parent: 560, at[560] + created: 0, at[596] + created: 0,
    }  # fmt: skip
    path = tmp_path / "odd.dmp"
    data = bytearray(shareddata.machine_dump("win10-19041", "kernel").read_bytes())
    for va, value in patches.items():
        place = patcheddump.Patched(shareddata.machine_dump("win10-19041", "kernel")).file_offset_of(va)
        data[place : place + 8] = value.to_bytes(8, "little")
    path.write_bytes(data)
    code, out, _ = run("ps", "--tree", path)
    assert code == 0
    lines = out.splitlines()
    column = lines[0].index("name")
    names = [line[column:] for line in lines[1:-1]]
    assert len(names) == 15
    assert any(name.startswith("csrss.exe") for name in names)
    assert any(name.startswith("services.exe") for name in names)
    assert any(name.startswith("  lsass.exe") for name in names)


def test_json(run_json, dump):
    facts = run_json("ps", dump)
    assert facts["file"] == str(dump)
    assert facts["problems"] == []
    assert "10.0.19041.1706" in facts["layout"]
    processes = {p["pid"]: p for p in facts["processes"]}
    truth = {p["pid"]: p for p in shareddata.truth("win10-19041")["processes"]}
    assert set(processes) == set(truth)
    for pid, process in processes.items():
        known = truth[pid]
        assert process["address"] == known["eprocess"]
        assert process["hidden"] is known["hidden"]
        assert process["wow64"] is known["wow64"]
        assert process.get("image_path") == known["nt_image_path"]
        assert process.get("session") == known["session"]
    assert processes[2652]["sources"] == ["cid table", "thread owner", "handle table list"]
    assert processes[2808]["exit_time"].endswith("+00:00")
    assert "exit_time" not in processes[4]


def test_csv(run, dump):
    code, out, err = run("ps", "--csv", dump)
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 15
    assert rows[0]["name"] == "System"
    assert rows[-1]["name"] == "stealth.exe"
    assert (rows[-1]["hidden"], rows[0]["hidden"]) == ("yes", "no")
    assert int(rows[0]["eprocess"], 16) == shareddata.truth("win10-19041")["processes"][0]["eprocess"]


def test_damage_is_told(run):
    code, out, err = run("ps", shareddata.machine_dump("win10-19041-damaged", "kernel"))
    assert code == 0
    assert out.splitlines()[-1] == "15 processes"
    assert "active list: Flink" in err


def test_wrong_usage(run, dump):
    assert run("ps", "--csv", "--json", dump)[0] == 2
    assert run("ps", "--tree", "--json", dump)[0] == 2


def test_triage(run):
    code, out, err = run("ps", shareddata.unpack("triage", "rtech_9f.dmp.xz"))
    assert code == 0
    assert "EpicGamesLauncher.exe" in out
    assert out.splitlines()[-1] == "1 process"
    assert "alone" in err


def test_without_symbols(run, small):
    """Nobody knows this kernel: the error names what would help, and nothing else is printed."""
    code, out, err = run("ps", small)
    assert (code, out) == (1, "")
    assert "kdmp: " in err


def test_files_of_symbols(run, dump):
    """A symbol table that the user gives is what is used; it need not be there for the bundled builds."""
    folder = shareddata.require("isf")
    path = shareddata.machine_dump("win10-19041-damaged", "kernel")
    code, out, _ = run("ps", "--symbols", folder, "--json", path)
    assert code == 0
    assert "bundled" not in out.split('"processes"')[0]
