"""`kdmp modules`: loaded and unloaded modules, exports, as table, CSV and JSON.

SPDX-License-Identifier: MIT
"""

import csv
import io
import json
import random
import re
import struct

import pytest
import shareddata
from clidumps import KERNEL, triage32_dump, triage_dump

import kdmp

pytest_plugins = ["clifixtures"]


@pytest.fixture(scope="module")
def triage(tmp_path_factory):
    path = tmp_path_factory.mktemp("modules") / "mini.dmp"
    path.write_bytes(triage_dump())
    return str(path)


# ---- machines ----


@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_table(run, machine):
    truth = shareddata.truth(machine)
    code, out, err = run("modules", shareddata.machine_dump(machine, "kernel"))
    assert code == 0
    title, *lines, count = out.splitlines()
    assert re.split(r"  +", title) == ["base", "end", "name", "pdb id", "time stamp", "path"]
    assert count == "11 modules"
    for line, known in zip(lines, truth["modules"], strict=True):
        base, end, name, key, stamp, path = re.split(r"  +", line)
        assert (int(base, 16), int(end, 16)) == (known["base"], known["base"] + known["size"])
        assert (name, path) == (known["name"], known["path"])
        assert key == f"{known['guid']}{known['age']:X}"
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", stamp)
    assert ("cycle" in err) == (machine == "win10-19041-damaged")
    assert ("backward" in err) == (machine == "win10-19041-damaged")


@pytest.mark.parametrize("kind", shareddata.KINDS)
@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_json(run_json, machine, kind):
    truth = shareddata.truth(machine)
    facts = run_json("modules", shareddata.machine_dump(machine, kind))
    names = "name path base size entry timestamp checksum guid age pdb".split()
    assert [{name: module[name] for name in names} for module in facts["modules"]] == [
        {name: module[name] for name in names} for module in truth["modules"]
    ]
    assert [(u["name"], u["start"], u["end"]) for u in facts["unloaded"]] == [
        (u["name"], u["start"], u["end"]) for u in reversed(truth["unloaded"])
    ]
    assert all(u["time"].endswith("+00:00") for u in facts["unloaded"])
    assert len(facts.get("problems", ())) == (3 if machine == "win10-19041-damaged" else 0)


def test_csv(run):
    truth = shareddata.truth("win10-19041")
    code, out, err = run("modules", shareddata.machine_dump("win10-19041", "kernel"), "--csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["name"], r["path"], int(r["base"], 16), int(r["size"], 16)) for r in rows] == [
        (m["name"], m["path"], m["base"], m["size"]) for m in truth["modules"]
    ]
    assert {r["symbol_id"] for r in rows} == {f"{m['guid']}{m['age']:X}" for m in truth["modules"]}


def test_unloaded(run):
    truth = shareddata.truth("win7-7601")
    path = shareddata.machine_dump("win7-7601", "rdmp9")
    code, out, err = run("modules", path, "--unloaded")
    assert (code, err) == (0, "")
    title, *lines, count = out.splitlines()
    assert title.split() == ["start", "end", "unloaded", "name"]
    assert count == "4 unloaded modules"
    assert [(int(line.split()[0], 16), line.split()[-1]) for line in lines] == [
        (u["start"], u["name"]) for u in reversed(truth["unloaded"])
    ]
    rows = csv.DictReader(io.StringIO(run("modules", path, "--unloaded", "--csv")[1]))
    assert [row["name"] for row in rows] == [u["name"] for u in reversed(truth["unloaded"])]


@pytest.mark.parametrize("which", ["nt", "ntoskrnl.exe", "NTOSKRNL"])
def test_exports(run, run_json, which):
    path = shareddata.machine_dump("win11-22000-pti", "kernel")
    wanted = shareddata.truth("win11-22000-pti")["modules"][0]["exports"]
    code, out, err = run("modules", path, "--exports", which)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert {name: int(rva, 16) for _, rva, _, name in rows} == wanted
    assert out.splitlines()[-1] == f"{len(wanted)} exports"
    facts = run_json("modules", path, "--exports", which)
    assert {e["name"]: e["rva"] for e in facts["exports"]} == wanted
    assert facts["module"]["name"] == "ntoskrnl.exe"
    assert "forwarder" not in facts["exports"][0]
    rows = list(csv.DictReader(io.StringIO(run("modules", path, "--exports", which, "--csv")[1])))
    assert {row["name"]: int(row["rva"], 16) for row in rows} == wanted


def test_exports_of_nothing(run):
    path = shareddata.machine_dump("win10-19041", "kernel")
    code, out, err = run("modules", path, "--exports", "nosuch")
    assert (code, out) == (1, "")
    assert "no module is called nosuch" in err
    assert run("modules", path, "--exports", "crashme-тест")[1] == (
        "ordinal  rva  address  name\n0 exports\n"
    )


# ---- triage dumps ----


def test_triage(run, triage):
    code, out, err = run("modules", triage)
    assert (code, err) == (0, "")
    title, kernel, bad, count, blame = out.splitlines()
    assert re.split(r"  +", title) == ["base", "end", "name", "image id", "time stamp", "path"]
    assert re.split(r"  +", kernel) == [
        f"{KERNEL:#x}", f"{KERNEL + 0x1046000:#x}", "ntoskrnl.exe", "0D8333E61046000", "0x0d8333e6",
        "\\SystemRoot\\system32\\ntoskrnl.exe",
    ]  # fmt: skip
    assert re.split(r"  +", bad)[2:] == ["bad.sys", "000000996000", "0x00000099", "bad.sys"]
    assert (count, blame) == ("2 modules", "broken driver  bad.sys")
    assert run("modules", triage, "--unloaded")[1].splitlines()[1].split() == [
        f"{KERNEL + 0x1000:#x}", f"{KERNEL + 0x3000:#x}", "dam.sys",
    ]  # fmt: skip


def test_triage_json(run_json, triage):
    facts = run_json("modules", triage)
    kernel, bad = facts["modules"]
    assert kernel == {
        "base": KERNEL, "size": 0x1046000, "end": KERNEL + 0x1046000, "name": "ntoskrnl.exe",
        "path": "\\SystemRoot\\system32\\ntoskrnl.exe", "checksum": 0xA5938C, "timestamp": 0x0D8333E6,
        "image_id": "0D8333E61046000", "source": "triage driver list",
    }  # fmt: skip
    assert bad["name"] == facts["broken_driver"] == "bad.sys"
    assert facts["unloaded"] == [
        {"index": 0, "name": "dam.sys", "start": KERNEL + 0x1000, "end": KERNEL + 0x3000, "size": 0x2000}
    ]


def test_times_of_a_triage_dump_are_doubtful(run, tmp_path):
    path = tmp_path / "mini.dmp"
    path.write_bytes(triage_dump(drivers=[("a.sys", KERNEL, 0x1000, 1, 0x3F000000), ("b", KERNEL, 1, 1, 1)]))
    lines = run("modules", path)[1].splitlines()
    assert "2003-06-30 09:16:48 ?" in lines[1]
    assert "0x00000001" in lines[2]


def test_triage_without_a_readable_name(run, run_json, tmp_path):
    image = bytearray(triage_dump())
    with kdmp.open(bytes(image)) as dump:
        at = dump.triage_header["driver_list_offset"]
    struct.pack_into("<I", image, at, 0xFFFFFFF0)
    path = tmp_path / "nameless.dmp"
    path.write_bytes(image)
    assert "name" not in run_json("modules", path)["modules"][0]
    assert "(name unreadable)" in run("modules", path)[1]


def test_32_bits(run, run_json, tmp_path):
    path = tmp_path / "mini32.dmp"
    path.write_bytes(triage32_dump())
    (module,) = run_json("modules", path)["modules"]
    assert f"0x{module['base']:08x}  " in run("modules", path)[1]


@pytest.mark.parametrize("number", range(12))
def test_real_triage_dumps(run, run_json, number):
    truth = shareddata.triage_index()[number]
    path = shareddata.unpack("triage", truth["file"])
    facts = run_json("modules", path)
    assert [(m["path"], m["base"], m["size"], m["timestamp"]) for m in facts["modules"]] == [
        (d["name"], d["base"], d["size"], d["timestamp"]) for d in truth["drivers"]
    ]
    assert [(m["name"], m["start"], m["end"]) for m in facts["unloaded"]] == [
        (d["name"], d["start"], d["end"]) for d in truth["unloaded_drivers"]
    ]
    code, out, _ = run("modules", path)
    assert code == 0
    assert all(driver["name"] in out for driver in truth["drivers"])


# ---- the rest ----


def test_the_sample(run, crash):
    path, _ = crash
    code, out, err = run("modules", path)
    assert (code, err) == (0, "")
    assert "ntoskrnl.exe" in out


def test_a_dump_without_modules(run, small):
    code, out, err = run("modules", small)
    assert code == 1
    assert "0 modules" in out
    assert "PsLoadedModuleList" in err and "Traceback" not in err
    code, out, _ = run("modules", small, "--json")
    assert code == 1 and json.loads(out)["modules"] == []


@pytest.mark.parametrize("arguments", [("--csv", "--json"), ("--unloaded", "--exports", "nt")])
def test_wrong_usage(run, small, arguments):
    code, out, _ = run("modules", small, *arguments)
    assert (code, out) == (2, "")


def test_damaged_triage_dumps(run, tmp_path):
    image, rng = triage_dump(), random.Random(7)
    path = tmp_path / "damaged.dmp"
    for _ in range(60):
        damaged = bytearray(image)
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(*rng.choice([(0x2000, 0x2080), (0x2080, len(image) - 8)]))
            damaged[start : start + 4] = rng.choice([bytes(4), b"\xff" * 4, rng.randbytes(4)])
        path.write_bytes(damaged[: rng.choice([len(image), rng.randrange(len(image))])])
        for extra in ([], ["--json"], ["--csv"], ["--unloaded"], ["--exports", "nt"]):
            code, out, err = run("modules", path, *extra)
            assert code in (0, 1)
            assert code == 0 or err.startswith("kdmp: ")
            assert extra != ["--json"] or not out or json.loads(out)
