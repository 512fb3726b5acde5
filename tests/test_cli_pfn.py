"""`kdmp pfn`: entries and the summary of the PFN database.

SPDX-License-Identifier: MIT
"""

import pfndumps as made
import pytest
import shareddata
from pfndumps import BASE, VA, Machine

pytest_plugins = ["clifixtures"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    machine = Machine()
    machine.put(0x60, made.STANDBY, prototype=1)
    path = tmp_path_factory.mktemp("pfn") / "small.dmp"
    path.write_bytes(machine.dump(kd_debugger_data_block=machine.kdbg(runs=[(0x50, 0x11), (0x10000, 5)])))
    return path


def test_entries(run, file):
    code, out, _ = run("pfn", file, "50", "0x60")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"    PFN 00000050 at address {BASE + 0x50 * 0x30:016X}"
    assert f"    page at va {VA:x}, root 1000" in lines
    assert "    PFN 00000060 at address FFFF900000001200" in lines


def test_entries_as_json(run_json, file):
    facts = run_json("pfn", file, "50")
    assert facts["file"] == str(file)
    assert facts["database"]["address"] == BASE
    assert facts["database"]["verified"] is True
    assert facts["database"]["source"] == "KDBG.MmPfnDatabase, header PfnDataBase (value)"
    (entry,) = facts["frames"]
    assert (entry["pfn"], entry["state"], entry["kind"], entry["va"]) == (0x50, "Active", "page", VA)
    assert "blink" not in entry


def test_one_that_is_missing_does_not_stop_the_others(run, run_json, file):
    code, out, err = run("pfn", file, "51000", "50")
    assert code == 1
    assert "PFN 00000050" in out
    assert "small.dmp: frame 0x51000 is not RAM" in err
    code, _, err = run("pfn", file, "10001")
    assert code == 1
    assert "kdmp: read: the entry of frame 0x10001 in the PFN database" in err
    facts = run_json("pfn", file, "10001", "50", code=1)
    assert facts["frames"][0]["pfn"] == 0x10001
    assert facts["frames"][0]["error"]["type"] == "NotPresentError"
    assert facts["frames"][1]["pfn"] == 0x50


def test_summary(run, file):
    code, out, err = run("pfn", file, "--summary")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["database"][1] == hex(BASE)
    assert rows["RAM"] == ["RAM", "MmPhysicalMemoryBlock"]
    assert rows["state"] == ["state", "frames", "bytes", "shared", "modified"]
    assert rows["Active"] == ["Active", "1", "4096", "(4", "KiB)", "0", "1"]
    assert rows["Standby"] == ["Standby", "1", "4096", "(4", "KiB)", "1", "0"]
    assert rows["not"][:5] == ["not", "in", "the", "dump", "5"]
    assert rows["all"][1] == "22"


def test_summary_as_json(run_json, file):
    facts = run_json("pfn", file, "--summary")
    assert facts["states"]["unknown"] == 5
    assert facts["states"]["Active"] == facts["states"]["Standby"] == 1
    assert (facts["total"], facts["prototype"], facts["modified"]) == (22, 1, 1)
    assert facts["ram_source"] == "MmPhysicalMemoryBlock"


@pytest.mark.parametrize("arguments", [(), ("50", "--summary")])
def test_wrong_usage(run, file, arguments):
    code, _, err = run("pfn", file, *arguments)
    assert code == 2
    assert "--summary" in err


def test_a_dump_without_a_database(run, small):
    code, _, err = run("pfn", small, "50")
    assert code == 1
    assert err.startswith("kdmp: ")
    assert "Traceback" not in err


def test_bases_that_disagree(run_json, tmp_path):
    machine = Machine()
    block = machine.kdbg()
    machine.write(made.VARIABLES, made.KDBG.to_bytes(8, "little"))
    path = tmp_path / "odd.dmp"
    path.write_bytes(machine.dump(kd_debugger_data_block=block))
    facts = run_json("pfn", path, "50")
    assert facts["database"]["disagreeing"] == [{"source": "KDBG.MmPfnDatabase", "address": made.KDBG}]


def test_a_layout_that_is_not_certain(run, tmp_path):
    path = tmp_path / "new.dmp"
    path.write_bytes(Machine(22000).dump(minor_version=30000))
    code, _, err = run("pfn", path, "50")
    assert code == 0
    assert "not certain" in err


@pytest.mark.parametrize("name", shareddata.MACHINES)
def test_the_machines(run_json, name):
    truth = shareddata.truth(name)
    facts = run_json("pfn", shareddata.machine_dump(name, "rdmp8"), "--summary")
    assert facts["database"]["address"] == truth["pfn_database"]
    assert facts["total"] == sum(count for _, count in truth["physical_runs"])
