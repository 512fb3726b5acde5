"""`kdmp dlls`: modules of processes as a table, JSON, CSV.

SPDX-License-Identifier: MIT
"""

import csv
import io

import pytest
from shareddata import machine_dump, truth

pytest_plugins = ["clifixtures"]


def process(machine, pid):
    return next(one for one in truth(machine)["processes"] if one["pid"] == pid)


def test_table(run):
    facts = process("win10-19041", 2500)
    code, out, err = run("dlls", machine_dump("win10-19041", "full"), "--pid", "2500")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("process 2500 old32.exe (0x")
    assert lines[1].split()[:3] == ["base", "size", "arch"]
    modules = facts["modules"] + facts["modules32"]
    assert len(lines) == 2 + len(modules)
    for line, module in zip(lines[2:], modules, strict=True):
        assert line.startswith(f"0x{module['base']:016x}")
        assert line.endswith(module["path"])
    assert sum(" x86 " in line for line in lines) == len(facts["modules32"])


def test_json_of_all(run_json):
    facts = truth("win7-7601")
    document = run_json("dlls", machine_dump("win7-7601", "full"))
    found = {one["pid"]: one for one in document["processes"]}
    for one in facts["processes"]:
        expected = [m["name"] for m in (one["modules"] or []) + (one["modules32"] or [])]
        assert [m["name"] for m in found[one["pid"]]["modules"]] == expected
    explorer = found[1788]
    assert explorer["name"] == "explorer.exe"
    assert explorer["modules"][0]["symbol_id"].endswith(str(process("win7-7601", 1788)["modules"][0]["age"]))
    assert "unlisted_images" not in explorer


def test_csv_by_name(run):
    code, out, _ = run("dlls", machine_dump("win10-19041", "full"), "--name", "CSRSS", "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["pid"] for row in rows} == {"412", "496"}
    assert rows[0]["name"] == "csrss.exe"
    assert rows[0]["lists"] == "load memory"
    assert rows[0]["load_time"].startswith("2023-")


def test_images_that_only_vads_know(run, run_json):
    """A kernel dump has no loader lists of the other processes, but their VADs."""
    path = machine_dump("win10-19041", "kernel")
    code, out, err = run("dlls", path, "--pid", "560")
    assert code == 0
    assert "is not in the dump" in err
    assert "services.exe" in out
    assert all(" vad " in line for line in out.splitlines()[2:])
    (document,) = run_json("dlls", path, "--pid", "560")["processes"]
    assert document["modules"] == []
    assert {one["name"] for one in document["unlisted_images"]} >= {"services.exe", "ntdll.dll"}
    assert document["problems"]
    code, out, _ = run("dlls", path, "--pid", "560", "--csv")
    assert code == 0
    assert {row["lists"] for row in csv.DictReader(io.StringIO(out))} == {"vad"}


def test_who_is_not_there(run):
    path = machine_dump("win10-19041", "full")
    for arguments in (["--pid", "1"], ["--name", "nobody"]):
        code, out, err = run("dlls", path, *arguments)
        assert (code, out) == (1, "")
        assert "there is no process" in err
    code, _, err = run("dlls", path, "--pid", "4")  # System has no user side
    assert (code, err) == (1, "")


@pytest.mark.parametrize(
    "arguments", [["--json", "--csv"], ["--pid", "4", "--name", "System"], ["--pid", "many"]]
)
def test_wrong_usage(run, arguments):
    assert run("dlls", "file", *arguments)[0] == 2


def test_no_symbols(run, small):
    """A dump without a kernel: exit code 1 and what is missing."""
    code, out, err = run("dlls", small)
    assert (code, out) == (1, "")
    assert "small.dmp: " in err
