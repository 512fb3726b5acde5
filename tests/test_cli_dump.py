"""`kdmp dump`: memory, processes and modules into files.

SPDX-License-Identifier: MIT
"""

import io
import json
import os
import sys

import pytest
from clidumps import GAP, NOTHING, VA, core_of, triage_dump
from dumpbuilder import PAGE
from shareddata import machine_dump, truth

import kdmp
from kdmp.cli import main
from kdmp.cli.cmd_dump import KINDS
from kdmp.windows import processfile

pytest_plugins = ["clifixtures"]

MACHINE = "win10-19041"


def test_kinds_are_those_of_the_library():
    assert KINDS == processfile.KINDS


def test_virtual_memory(run, small, tmp_path):
    target = tmp_path / "out"
    code, out, err = run("dump", small, target, "--va", f"{VA:x}", "--size", "0x3000")
    assert code == 0
    assert out == f"{target}  12288 (12 KiB), 4096 bytes read\n"
    assert err.splitlines()[0] == "kdmp: 8192 of 12288 bytes missing, in 2 holes:"
    assert err.splitlines()[1].startswith(f"kdmp:   {GAP:#x} to {GAP + 0xFFF:#x}: ")
    data = target.read_bytes()
    assert data[:11] == b"kernel dump"
    assert data[PAGE:] == bytes(2 * PAGE)
    assert os.listdir(tmp_path) == ["out"]


def test_virtual_memory_json(run_json, small, tmp_path):
    target = tmp_path / "out"
    facts = run_json("dump", small, target, "--va", f"{VA:x}", "--size", "12K", "--fill", "cc")
    assert target.read_bytes()[PAGE:] == b"\xcc" * 2 * PAGE
    assert (facts["file"], facts["out"]) == (str(small), str(target))
    assert (facts["size"], facts["written"], facts["missing"]) == (12288, 4096, 8192)
    assert [(gap["address"], gap["size"], gap["type"]) for gap in facts["gaps"]] == [
        (GAP, PAGE, "NotInDumpError"),
        (NOTHING, PAGE, "NotPresentError"),
    ]


def test_physical_memory(run, small, tmp_path):
    code, out, _ = run("dump", small, tmp_path / "out", "--pa", "a000", "--size", "16")
    assert code == 0
    assert (tmp_path / "out").read_bytes() == b"kernel dump" + bytes(5)
    assert "16 bytes read" in out


def test_nothing_at_all_is_exit_code_1(run, small, tmp_path):
    code, out, err = run("dump", small, tmp_path / "out", "--va", f"{NOTHING:x}", "--size", "16")
    assert code == 1
    assert "0 bytes read" in out
    assert "16 of 16 bytes missing, in 1 hole" in err


@pytest.mark.parametrize("kind", ["full", "kernel"])
def test_a_process(run, run_json, tmp_path, kind):
    path = machine_dump(MACHINE, kind)
    code, out, _ = run("dump", path, tmp_path / "out", "--pid", "2316")
    assert code == 0
    with kdmp.open(path) as dump:
        expected = io.BytesIO()
        result = dump.windows.process(2316).extract(expected)
    assert (tmp_path / "out").read_bytes() == expected.getvalue()
    lines = out.splitlines()
    assert lines[1].split() == ["start", "end", "offset", "missing", "kind", "protection", "file"]
    assert lines[-1] == f"{len(result.ranges)} ranges"
    for line, one in zip(lines[2:-1], result.ranges, strict=True):
        assert line.startswith(f"0x{one.va:016x}  0x{one.stop - 1:016x}  {one.offset:#x} ")
        assert line.endswith(one.file or one.protection)
    facts = run_json("dump", path, tmp_path / "out", "--pid", "2316", "--force")
    index = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert [one["va"] for one in facts["ranges"]] == [one["va"] for one in index["ranges"]]
    assert facts["pid"] == 2316


def test_a_process_by_name_and_what(run_json, tmp_path):
    path = machine_dump(MACHINE, "full")
    facts = run_json("dump", path, tmp_path / "out", "--name", "LSASS", "--what", "image", "--what", "mapped")
    assert {one["kind"] for one in facts["ranges"]} == {"image", "mapped"}
    more = run_json("dump", path, tmp_path / "more", "--name", "lsass", "--untouched")
    assert more["size"] > facts["size"]


def test_a_process_without_page_tables(run, tmp_path):
    code, out, err = run("dump", machine_dump(MACHINE, "kernel"), tmp_path / "out", "--name", "explorer.exe")
    assert code == 1
    assert out.endswith("0 ranges\n")
    assert "page tables are not in the dump" in err


def test_memory_of_a_process(run, tmp_path):
    path = machine_dump(MACHINE, "full")
    (facts,) = (one for one in truth(MACHINE)["processes"] if one["pid"] == 2316)
    code, _, _ = run(
        "dump", path, tmp_path / "out", "--va", f"{facts['peb']:x}", "--size", "64", "--pid", "2316"
    )
    assert code == 0
    with kdmp.open(path) as dump:
        assert (tmp_path / "out").read_bytes() == dump.windows.process(2316).reader.read_exact(
            facts["peb"], 64
        )


@pytest.mark.parametrize("layout", ["memory", "file"])
@pytest.mark.parametrize("name", ["ntoskrnl.exe", "nt", "HAL"])
def test_a_module_of_the_kernel(run_json, tmp_path, name, layout):
    path = machine_dump(MACHINE, "full")
    facts = run_json("dump", path, tmp_path / "out", "--module", name, "--layout", layout)
    wanted = {"nt": "ntoskrnl.exe", "HAL": "hal.dll"}.get(name, name)
    (module,) = (one for one in truth(MACHINE)["modules"] if one["name"] == wanted)
    assert (facts["base"], facts["layout"]) == (module["base"], layout)
    assert (facts["size"] == module["size"]) == (layout == "memory")
    assert (tmp_path / "out").read_bytes()[:2] == b"MZ"
    assert facts["size"] == (tmp_path / "out").stat().st_size


@pytest.mark.parametrize("name", ["ntdll", "NTDLL.dll"])
def test_a_module_of_a_process(run, tmp_path, name):
    path = machine_dump(MACHINE, "full")
    code, _, err = run("dump", path, tmp_path / "out", "--module", name, "--pid", "2316")
    assert code == 0
    assert "4096 of 32768 bytes missing, in 1 hole" in err


def test_memory_images_and_triage_dumps(run, run_json, crash, tmp_path):
    core = tmp_path / "core"
    with kdmp.open(crash[0]) as dump:
        core.write_bytes(core_of(dump))
    code, _, _ = run("dump", core, tmp_path / "a", "--raw", "--pa", "1ad000", "--size", "4K")
    assert code == 0
    with kdmp.open(crash[0]) as dump:
        assert (tmp_path / "a").read_bytes() == dump.phys.read_exact(0x1AD000, 0x1000)
    triage = tmp_path / "triage.dmp"
    triage.write_bytes(triage_dump())
    with kdmp.open(triage) as dump:
        place = dump.ranges[0]
        expected = dump.reader().read_exact(place.address, place.size)
    run_json("dump", triage, tmp_path / "b", "--va", f"{place.address:x}", "--size", str(place.size))
    assert (tmp_path / "b").read_bytes() == expected


# ---- what is wrong ----


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--va", "0"],
        ["--size", "8"],
        ["--pid", "4", "--size", "8"],
        ["--va", "0", "--pa", "0", "--size", "8"],
        ["--va", "0", "--module", "nt", "--size", "8"],
        ["--module", "nt", "--size", "8"],
        ["--pa", "0", "--size", "8", "--pid", "4"],
        ["--pa", "0", "--size", "8", "--dtb", "1000"],
        ["--pa", "0", "--size", "8", "--paging", "x64"],
        ["--va", "ffffffffffffffff", "--size", "2"],
        ["--module", "nt", "--fill", "cc"],
        ["--module", "nt", "--limit", "1"],
        ["--module", "nt", "--layout", "disk"],
        ["--pid", "4", "--layout", "file"],
        ["--pid", "4", "--what", "heap"],
        ["--va", "0", "--size", "1", "--pid", "4", "--what", "image"],
        ["--module", "nt", "--untouched"],
        ["--pid", "4", "--name", "x"],
        ["--va", "0", "--size", "2G", "--limit", "1G"],
    ],
)
def test_wrong_usage(run, small, tmp_path, argv):
    code, out, err = run("dump", small, tmp_path / "out", *argv)
    assert (code, out) == (2, "")
    assert "kdmp" in err
    assert os.listdir(tmp_path) == []


def test_two_processes_of_a_name(run, tmp_path):
    code, _, err = run("dump", machine_dump(MACHINE, "full"), tmp_path / "out", "--name", "csrss")
    assert code == 2
    assert "412, 496" in err


@pytest.mark.parametrize(
    "argv", [["--pid", "99999"], ["--module", "nothing"], ["--module", "x", "--pid", "2316"]]
)
def test_what_is_not_there(run, tmp_path, argv):
    code, out, err = run("dump", machine_dump(MACHINE, "full"), tmp_path / "out", *argv)
    assert (code, out) == (1, "")
    assert err.startswith("kdmp: ")
    assert os.listdir(tmp_path) == []


def test_a_file_that_exists(run, small, tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"precious")
    arguments = ("dump", small, target, "--va", f"{VA:x}", "--size", "16")
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert target.read_bytes() == b"precious"
    assert run(*arguments, "--force")[0] == 0
    assert target.read_bytes()[:6] == b"kernel"


def test_an_index_that_exists(run, tmp_path):
    (tmp_path / "out.json").write_bytes(b"precious")
    code, _, err = run("dump", machine_dump(MACHINE, "full"), tmp_path / "out", "--pid", "308")
    assert code == 1
    assert "out.json" in err and "--force" in err
    assert os.listdir(tmp_path) == ["out.json"]


def test_the_dump_itself(run, small, tmp_path):
    with open(small, "rb") as file:
        before = file.read()
    link = tmp_path / "link"
    link.symlink_to(small)
    for path in (small, link):
        code, _, err = run("dump", small, path, "--va", f"{VA:x}", "--size", "16", "--force")
        assert code == 2
        assert "itself" in err
    with open(small, "rb") as file:
        assert file.read() == before


def test_a_full_disk(run, small, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    code, out, err = run("dump", small, "/dev/full", "--va", f"{VA:x}", "--size", "16")
    assert (code, out) == (1, "")
    assert "space" in err


def test_an_interrupt_leaves_nothing(run, small, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdmp.targets.write_all", interrupted)
    code, _, _ = run("dump", small, tmp_path / "out", "--va", f"{VA:x}", "--size", "16")
    assert code == 130
    assert os.listdir(tmp_path) == []


# ---- progress ----


def test_progress(run, small, tmp_path, monkeypatch):
    arguments = ["dump", small, str(tmp_path / "out"), "--va", f"{VA:x}", "--size", "16", "--force"]
    assert run(*arguments)[2] == ""
    code, _, err = run(*arguments, "--progress")
    assert code == 0
    assert err == "kdmp: writing 0%\nkdmp: writing 100%\n"

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(arguments) == 0
    assert sys.stderr.getvalue().endswith("\rwriting 100%\n")
