"""`kdmp cpus`: the list, one processor, an interrupt table, as text and as JSON.

SPDX-License-Identifier: MIT
"""

import pytest
import shareddata

pytest_plugins = ["clifixtures"]


@pytest.fixture(scope="module")
def file():
    return shareddata.machine_dump("win11-22000-pti", "rdmp9")


@pytest.fixture(scope="module")
def truth():
    return shareddata.truth("win11-22000-pti")["cpus"]


def test_list(run, file, truth):
    code, out, err = run("cpus", file)
    assert (code, err) == (0, "")
    title, *rows, last = out.splitlines()
    assert title.split()[:6] == ["cpu", "kprcb", "kpcr", "cr3", "thread", "ip"]
    assert len(rows) == len(truth)
    for row, one in zip(rows, truth, strict=True):
        cells = row.split()
        values = [
            one["kprcb"],
            one["kpcr"],
            one["specials"]["Cr3"],
            one["current_thread"],
            one["registers"]["rip"],
        ]
        assert cells[0] == str(one["cpu"])
        assert [int(cell, 16) for cell in cells[1:6]] == values
    assert rows[0].endswith("header") and rows[1].endswith("KPRCB.Context")
    assert last.startswith("processor 0 crashed")


def test_one(run, file, truth):
    code, out, _ = run("cpus", file, "--cpu", "1")
    assert code == 0
    assert f"kprcb           {truth[1]['kprcb']:#x}" in out
    assert f"rip={truth[1]['registers']['rip']:016x}" in out
    line = next(line for line in out.splitlines() if line.startswith("msr_lstar"))
    assert line.split()[1:] == [
        hex(truth[1]["specials"]["MsrLStar"]),
        "KPRCB.ProcessorState.SpecialRegisters",
    ]
    assert "busy TSS" in out and "64-bit code" in out


def test_idt_with_symbols(run, file, truth):
    code, out, _ = run("cpus", file, "--idt", "--symbols", shareddata.require("isf"))
    assert code == 0
    _, *rows = out.splitlines()
    assert [int(row.split()[1], 16) for row in rows] == truth[0]["idt_handlers"]
    assert rows[14].split()[-2:] == ["#PF", "nt!KiPageFaultShadow"]


def test_json(run_json, file, truth):
    facts = run_json("cpus", file)
    assert (facts["file"], facts["crashing"], facts["problems"]) == (str(file), 0, [])
    for fact, one in zip(facts["cpus"], truth, strict=True):
        assert {name: fact[name] for name in ("kprcb", "kpcr", "current_thread", "tss")} == {
            name: one[name] for name in ("kprcb", "kpcr", "current_thread", "tss")
        }
        assert fact["context"]["registers"].items() >= one["registers"].items()
        assert fact["special"]["cr3"] == one["specials"]["Cr3"]
        assert fact["is_crashing"] is (one["cpu"] == 0)
        assert "idt" not in fact and "next_thread" not in fact
    facts = run_json("cpus", file, "--cpu", "1", "--idt")
    (fact,) = facts["cpus"]
    assert [entry["handler"] for entry in fact["idt"]] == truth[1]["idt_handlers"]
    assert fact["special_sources"]["cr3"] == "KPRCB.ProcessorState.SpecialRegisters"
    assert any(entry["kind"] == "busy TSS" and entry["base"] == truth[1]["tss"] for entry in fact["gdt"])


def test_processors_that_are_not_there(run, run_json, file):
    code, out, err = run("cpus", file, "--cpu", "2")
    assert (code, out) == (1, "")
    assert "processor 2 is not known; known are: 0, 1" in err
    for number in ("-1", "x", "99999999999"):
        assert run("cpus", file, "--cpu", number)[0] == 2


def test_triage_dump(run, run_json):
    file = shareddata.unpack("triage", "rtech_13a.dmp.xz")
    code, out, err = run("cpus", file)
    assert code == 0
    assert "12 of 12 processors" in err
    assert "processor 11 crashed: its KPRCB is in the triage header" in out
    facts = run_json("cpus", file)
    (fact,) = facts["cpus"]
    assert "msr_lstar" not in fact["special"] and fact["number"] == 11
    code, _, err = run("cpus", file, "--idt")
    assert code == 1 and "no interrupt table" in err


def test_dump_without_a_kernel(run, small):
    code, _, err = run("cpus", small)
    assert code == 1
    assert "KiProcessorBlock" in err
