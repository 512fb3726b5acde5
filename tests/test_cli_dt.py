"""`kdmp dt`: layouts, enumerations and objects.

SPDX-License-Identifier: MIT
"""

import pytest
import shareddata

pytest_plugins = ["clifixtures"]

MACHINE = "win10-19041"


@pytest.fixture(scope="module")
def file():
    return shareddata.machine_dump(MACHINE, "full")


@pytest.fixture(scope="module")
def process():
    return shareddata.truth(MACHINE)["processes"][5]


def test_a_layout(run, file):
    code, out, err = run("dt", file, "_LIST_ENTRY")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "_LIST_ENTRY, 0x10 bytes",
        "   +0x000 Flink                        : _LIST_ENTRY*",
        "   +0x008 Blink                        : _LIST_ENTRY*",
    ]


def test_the_underscore_and_capitals_may_be_left_out(run, file):
    assert run("dt", file, "list_entry") == run("dt", file, "_LIST_ENTRY")


def test_one_field(run, file):
    code, out, _ = run("dt", file, "_EPROCESS.Pcb.DirectoryTableBase")
    assert code == 0
    assert "+0x028 Pcb.DirectoryTableBase" in out
    code, out, _ = run("dt", file, "_MMPTE.u")
    assert code == 0
    assert "u.Hard" in out


def test_an_enumeration(run, file):
    code, out, _ = run("dt", file, "_KWAIT_REASON")
    assert code == 0
    assert "   Executive = 0" in out


def test_an_object(run, file, process):
    code, out, _ = run("dt", file, "_EPROCESS", hex(process["eprocess"]))
    assert code == 0
    assert f"{process['pid']:#018x}" in out
    assert process["image_file_name"] in out


def test_a_field_of_an_object(run, file, process):
    code, out, _ = run("dt", file, "_EPROCESS.UniqueProcessId", hex(process["eprocess"]))
    assert (code, out) == (0, f"{process['pid']:#x}\n")


def test_json(run_json, file, process):
    facts = run_json("dt", file, "_EPROCESS")
    assert facts["type"] == "_EPROCESS"
    assert facts["size"] == 0xA40
    by_path = {field["path"]: field for field in facts["fields"]}
    assert by_path["UniqueProcessId"]["offset"] == 0x440
    assert by_path["ProcessExiting"]["bits"] == 1
    whole = run_json("dt", file, "_EPROCESS", hex(process["eprocess"]), "--depth", "1")["value"]
    assert whole["UniqueProcessId"] == process["pid"]
    assert whole["Pcb"]["DirectoryTableBase"] == process["dtb"]
    name = run_json("dt", file, "_EPROCESS.ImageFileName", hex(process["eprocess"]))["value"]
    assert bytes(name).rstrip(b"\0").decode() == process["image_file_name"]
    assert run_json("dt", file, "_KWAIT_REASON")["values"]["Executive"] == 0


def test_what_is_not_known_or_not_there(run, file, process):
    code, out, err = run("dt", file, "_NOT_A_STRUCTURE")
    assert (code, out) == (1, "")
    assert "no structure _NOT_A_STRUCTURE" in err
    code, _, err = run("dt", file, "_EPROCESS.Nothing")
    assert code == 1
    assert "_EPROCESS has no field Nothing" in err
    code, _, err = run("dt", file, "_EPROCESS.UniqueProcessId", "1000")
    assert code == 1
    assert "0x1" in err
    code, out, _ = run("dt", file, "_EPROCESS", "1000")
    assert code == 0
    assert "????" in out
    code, _, err = run("dt", file, "_EPROCESS", "1000", "--depth", "2")
    assert code == 2
    assert "--json" in err
