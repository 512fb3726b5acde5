"""`kdmp threads`: the table, JSON and CSV.

SPDX-License-Identifier: MIT
"""

import csv
import io

import pytest
import shareddata

pytest_plugins = ["clifixtures"]


@pytest.fixture(scope="module")
def dump():
    return shareddata.machine_dump("win11-22000-pti", "kernel")


def test_all(run, dump):
    code, out, err = run("threads", dump)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    count = sum(len(p["threads"]) for p in shareddata.truth("win11-22000-pti")["processes"])
    assert lines[-1] == f"{count} threads"
    assert len(lines) == count + 2
    (running,) = (line for line in lines if " Running " in line)
    assert running.split()[0] == "2316"
    assert running.endswith("  0")


def test_of_one_process(run, dump):
    code, out, _ = run("threads", "--pid", "1788", dump)
    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == "5 threads"
    (ended,) = (line for line in lines if "Terminated" in line)
    assert "Executive" not in ended
    assert sum("Waiting" in line for line in lines) == 4
    assert {line.split()[2] for line in lines[1:-1]} == {"explorer.exe"}


def test_of_nobody(run, dump):
    code, out, err = run("threads", "--pid", "1789", dump)
    assert (code, out) == (1, "")
    assert "no process 1789" in err
    assert run("threads", "--pid", "explorer", dump)[0] == 2
    code, out, _ = run("threads", "--pid", "2808", dump)
    assert (code, out.splitlines()[-1]) == (1, "0 threads")


def test_json(run_json, dump):
    facts = run_json("threads", "--pid", "2316", dump)
    truth = next(p for p in shareddata.truth("win11-22000-pti")["processes"] if p["pid"] == 2316)
    assert [t["tid"] for t in facts["threads"]] == [t["tid"] for t in truth["threads"]]
    first = facts["threads"][0]
    assert first["state"] in ("Running", "Waiting")
    assert first["process"] == truth["eprocess"]
    assert first["create_time"].endswith("+00:00")
    assert first["address"] == truth["threads"][0]["address"]
    assert {"stack_base", "kernel_stack", "start_address"} <= set(first)


def test_csv(run, dump):
    code, out, _ = run("threads", "--csv", dump)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    truth = {t["tid"]: t for p in shareddata.truth("win11-22000-pti")["processes"] for t in p["threads"]}
    assert {int(row["tid"]) for row in rows} == set(truth)
    for row in rows:
        assert int(row["ethread"], 16) == truth[int(row["tid"])]["address"]
    assert run("threads", "--csv", "--json", dump)[0] == 2


def test_triage(run_json):
    facts = run_json("threads", shareddata.unpack("triage", "rtech_ef.dmp.xz"))
    (thread,) = facts["threads"]
    assert (thread["pid"], thread["state"]) == (3656, "Running")
    assert thread["problems"]
    assert any("alone" in problem["why"] for problem in facts["problems"])


def test_threads_of_the_processes_of_a_name(run, run_json):
    truth, path = shareddata.truth("win10-19041"), shareddata.machine_dump("win10-19041", "full")
    expected = {t["tid"] for p in truth["processes"] if p["name"] == "csrss.exe" for t in p["threads"]}
    facts = run_json("threads", path, "--name", "csrss")
    assert {thread["tid"] for thread in facts["threads"]} == expected
    assert len(expected) > 1
    code, out, err = run("threads", path, "--name", "nobody")
    assert (code, out) == (1, "")
    assert "there is no process 'nobody' in the dump" in err
