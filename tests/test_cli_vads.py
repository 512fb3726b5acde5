"""`kdmp vads`: the ranges of a process as a table, JSON, CSV; `kdmp explain` by them.

SPDX-License-Identifier: MIT
"""

import csv
import io

import pytest
from shareddata import machine_dump, truth

pytest_plugins = ["clifixtures"]


def ranges(machine, pid):
    (facts,) = (one for one in truth(machine)["processes"] if one["pid"] == pid)
    return sorted(facts["vads"], key=lambda one: one["start"])


@pytest.mark.parametrize("kind", ["full", "kernel"])
def test_table(run, kind):
    expected = ranges("win10-19041", 2316)
    code, out, err = run("vads", machine_dump("win10-19041", kind), "--pid", "2316")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["start", "end", "protection", "kind", "commit", "vad", "file"]
    assert lines[-1] == f"{len(expected)} ranges"
    for line, one in zip(lines[1:-1], expected, strict=True):
        assert line.startswith(f"0x{one['start']:016x}  0x{one['end']:016x}  ")
        assert line.endswith(one["file"] or f"0x{one['address']:016x}")


def test_json(run_json):
    expected = ranges("win11-22000-pti", 412)
    (document,) = run_json("vads", machine_dump("win11-22000-pti", "full"), "--name", "csrss.exe")[
        "processes"
    ][:1]
    assert (document["pid"], document["name"]) == (412, "csrss.exe")
    assert [vad["start"] for vad in document["vads"]] == [one["start"] for one in expected]
    assert [vad.get("file") for vad in document["vads"]] == [one["file"] for one in expected]
    assert [vad["tag"] for vad in document["vads"]] == [one["tag"] for one in expected]


def test_csv(run):
    expected = ranges("win7-7601", 412)
    code, out, _ = run("vads", machine_dump("win7-7601", "full"), "--pid", "0x19c", "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [int(row["start"], 16) for row in rows] == [one["start"] for one in expected]
    assert [int(row["commit"]) for row in rows] == [one["commit"] for one in expected]


def test_a_damaged_tree(run):
    code, out, err = run("vads", machine_dump("win10-19041-damaged", "full"), "--name", "lsass")
    assert code == 0
    assert out.endswith("13 ranges\n")
    assert "leads from" in err


def test_two_of_a_name(run):
    code, out, _ = run("vads", machine_dump("win10-19041", "full"), "--name", "csrss")
    assert code == 0
    assert out.count("process ") == 2


def test_who_is_not_there(run):
    code, _, err = run("vads", machine_dump("win10-19041", "full"), "--pid", "1")
    assert code == 1
    assert "there is no process 1" in err


@pytest.mark.parametrize("arguments", [[], ["--pid", "4", "--json", "--csv"]])
def test_wrong_usage(run, arguments):
    assert run("vads", "file", *arguments)[0] == 2


def test_explain_by_vads(run, run_json):
    sample = next(one for one in truth("win10-19041")["ptes"] if one["state"] == "vad-prototype")
    path = machine_dump("win10-19041", "full")
    arguments = [path, f"{sample['va']:x}", "--dtb", f"{sample['dtb']:x}"]
    code, out, _ = run("explain", *arguments)
    assert code == 0
    assert f"prototype PTE at {sample['prototype']:#x} names the frame" in out
    (document,) = run_json("explain", *arguments)["addresses"]
    assert (document["pa"], document["prototype"]) == (sample["pa"], sample["prototype"])
    assert document["vad_kind"] in ("mapped", "image")


def test_no_symbols(run, small):
    """A dump without a kernel: exit code 1 and what is missing."""
    code, out, err = run("vads", small, "--pid", "4")
    assert (code, out) == (1, "")
    assert "small.dmp: " in err
