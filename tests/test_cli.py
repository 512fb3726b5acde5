"""The command line: arguments, text, JSON, exit codes, and what goes to which stream.

SPDX-License-Identifier: MIT
"""

import argparse
import errno
import io
import json
import os
import random
import re
import subprocess
import sys
from datetime import datetime

import pytest
from clidumps import fields
from dumpbuilder import (
    BITMAP,
    FULL,
    HEADER_ONLY,
    KERNEL,
    PAGE,
    WRITER_KINDS,
    build,
    header_page,
    ranges_dump,
    stamp,
)

import kdmp
from kdmp.cli import build_parser, main
from kdmp.cli.cmd_convert import KINDS, kind
from kdmp.cli.output import bytes_text, printable

pytest_plugins = ["clifixtures"]


# ---- output ----


def test_a_long_wrong_argument_makes_a_short_message(run):
    code, out, err = run("translate", "no-file", "z" * 100_000)
    assert (code, out) == (2, "")
    assert len(err) < 2000


def test_control_characters_never_reach_the_terminal():
    assert printable("a\x1b[31mb\nc\x7f\x9b\u202e") == r"a\x1b[31mb\nc\x7f\x9b\u202e"
    assert printable("größe ~") == "größe ~"


@pytest.mark.parametrize(
    "size, text", [(0, "0"), (1023, "1023"), (1024, "1024 (1 KiB)"), (3 << 29, "1610612736 (1.5 GiB)")]
)
def test_sizes_have_a_unit(size, text):
    assert bytes_text(size) == text


def test_a_hostile_comment_is_shown_as_escapes(run, tmp_path):
    path = tmp_path / "evil.dmp"
    path.write_bytes(build(FULL, {1: stamp(1)}, comment="\x1b]0;owned\x07 [red]"))
    code, out, _ = run("info", path)
    assert code == 0
    assert "\x1b" not in out
    assert fields(out)["comment"] == r"\x1b]0;owned\x07 [red]"


def test_an_encoding_without_the_character_is_no_failure(monkeypatch, tmp_path):
    path = tmp_path / "dömp.dmp"
    path.write_bytes(build(FULL, {1: stamp(1)}))
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["info", str(path)]) == 0
    assert rb"d\xf6mp.dmp" in raw.getvalue()


# ---- usage, help, exit codes ----


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["frobnicate"],
        ["info"],
        ["info", "a", "b"],
        ["info", "a", "--jso"],
        ["translate", "a"],
        ["translate", "a", "xyz"],
        ["translate", "a", "0", "--paging", "vax"],
        ["read", "a", "0"],
        ["read", "a", "0", "0"],
        ["read", "a", "0", "8", "--format", "octal"],
        ["read", "a", "0", "8", "--phys", "--dtb", "1000"],
        ["read", "a", "0", "8", "--phys", "--paging", "x64"],
        ["read", "a", "0", "8", "--format", "raw", "--json"],
        ["read", "a", "0", "8", "--fill", "00"],
        ["read", "a", "ffffffffffffffff", "2"],
        ["convert", "a", "b"],
        ["convert", "a", "b", "--to", "7"],
        ["convert", "a", "b", "--to", "zip"],
        ["convert", "a", "b", "--to", "full", "--dtb", "1000"],
        ["info", "a", "--arch", "x86"],
        ["info", "a", "--run", "0:1:0"],
        ["info", "a", "--raw", "--arch", "vax"],
        ["info", "a", "--raw", "--run", "0:1"],
        ["info", "a", "--raw", "--run", "0:0:0"],
        ["info", "a", "--raw", "--run", "x:1:0"],
        ["regs", "a", "--cpu", "-1"],
        ["regs", "a", "--cpu", "x"],
        ["blobs", "a", "--extract", "1"],
        ["blobs", "a", "--to", "b"],
        ["blobs", "a", "--extract", "x", "--to", "b"],
        ["blobs", "a", "--extract", "1", "--to", "b", "--extract-all", "c"],
        ["blobs", "a", "--force"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_goes_to_stderr(run, argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert "kdmp" in err


def commands():
    actions = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return actions[0].choices


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert {"blobs", "convert", "info", "modules", "pages", "ranges", "read", "regs", "translate"} <= set(
        commands()
    )
    for name in commands():
        assert re.search(rf"^ +{name} +\w", out, re.MULTILINE)
    assert "fffff800`12345678" in out
    assert "0n" in out


@pytest.mark.parametrize(
    "name", ["blobs", "convert", "info", "modules", "pages", "ranges", "read", "regs", "translate"]
)
def test_each_command_has_help_and_json(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert out.startswith(f"usage: kdmp {name}")
    assert "--json" in out


def test_a_command_is_a_file(run, monkeypatch, tmp_path):
    (tmp_path / "cmd_say_hello.py").write_text(
        "HELP = 'greet'\n"
        "def configure(parser): parser.add_argument('whom')\n"
        "def run(args, out): out.line(f'hello {args.whom}'); return 0\n"
    )
    monkeypatch.setattr(kdmp.cli, "__path__", [*kdmp.cli.__path__, str(tmp_path)])
    try:
        assert run("say-hello", "you") == (0, "hello you\n", "")
    finally:
        sys.modules.pop("kdmp.cli.cmd_say_hello", None)


def test_version(run):
    assert run("--version") == (0, f"kdmp {kdmp.__version__}\n", "")


@pytest.mark.parametrize("command", [["info"], ["regs"], ["pages"], ["translate", "0"], ["read", "0", "8"]])
def test_a_file_that_is_not_there_is_exit_code_1(run, tmp_path, command):
    path = tmp_path / "missing.dmp"
    code, out, err = run(command[0], path, *command[1:])
    assert (code, out) == (1, "")
    assert err == f"kdmp: {path}: {os.strerror(errno.ENOENT)}\n"


def test_a_folder_is_no_dump(run, tmp_path):
    code, out, err = run("info", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"kdmp: {tmp_path}: ")


@pytest.mark.parametrize(
    "content, name",
    [
        (b"MDMP\x93\xa7" + bytes(100), "minidump"),
        (b"HIBR" + bytes(0x1000), "hibernation"),
        (b"hibr" + bytes(0x1000), "hibernation"),
        (b"WAKE" + bytes(0x1000), "hibernation"),
        (b"RSTR" + bytes(0x1000), "hibernation"),
        (b"\x7fELF\x02\x01\x01" + bytes(0x1000), "ELF"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"\xfd7zXZ\0" + bytes(100), "xz"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z|7-Zip"),
        (b"MSCF\0\0\0\0" + bytes(100), "cab"),
        (b"MZ" + bytes(0x1000), "PE|executable|program"),
        (b"This is a text file, not a dump.\r\n" * 300, "text"),
        (b"", "empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_files_are_named_for_what_they_are(run, tmp_path, content, name):
    path = tmp_path / "file"
    path.write_bytes(content)
    code, out, err = run("info", path)
    assert (code, out) == (1, "")
    assert err.startswith(f"kdmp: {path}: ")
    assert re.search(name, err.removeprefix(f"kdmp: {path}: "), re.IGNORECASE)
    assert err.count("\n") == (2 if name == "ELF" else 1)  # it may be what --raw is for


def test_an_interrupt_is_exit_code_130(run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(kdmp, "open", interrupt)
    assert run("info", "a") == (130, "", "")


def test_a_closed_pipe_is_a_quiet_end(small):
    # A reader that has seen enough: two lines of many, then the pipe is closed.
    script = "import sys; from kdmp.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", script, "read", small, "0", "8M", "--phys"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(kdmp.__file__))},
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert (process.wait(60), err) == (0, b"")


def test_python_m_kdmp(small):
    done = subprocess.run(
        [sys.executable, "-m", "kdmp", "info", small],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(kdmp.__file__))},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert fields(done.stdout)["layout"] == "bitmap"


def modules_after(script):
    """Names of the modules that are loaded after a script, in an interpreter without site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys\n{script}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(kdmp.__file__))},
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_little():
    loaded = modules_after("import kdmp")
    assert {"kdmp.dump", "kdmp.reader", "kdmp._kdmp"} <= loaded
    assert not {"typing", "re", "datetime", "contextlib", "dataclasses", "inspect", "pathlib"} & loaded


def test_importing_the_command_line_loads_nothing_heavy():
    loaded = modules_after("import kdmp.cli; kdmp.cli.build_parser()")
    assert "kdmp.cli.cmd_info" in loaded
    assert not {"rich", "numpy", "cffi", "kdmp.sample", "kdmp.convert", "kdmp.hexdump"} & loaded


# ---- info ----


def test_info_tells_what_the_sample_is(run, crash):
    path, truth = crash
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    shown = fields(out)
    assert shown["file"] == path
    assert shown["kind"].startswith("5 BITMAP_FULL: ")
    assert shown["machine"] == "x64 (0x8664)"
    assert shown["build"] == f"{truth.build} free"
    assert shown["processors"] == str(truth.processors)
    assert shown["crash time"] == f"{truth.system_time:%Y-%m-%d %H:%M:%S.%f} UTC"
    assert shown["uptime"] == str(truth.uptime)
    assert shown["bug check"].startswith(f"{truth.bug_check_code:#x} ")
    for number, value in enumerate(truth.bug_check_parameters, 1):
        assert shown[f"parameter {number}"].startswith(f"0x{value:016x}")
    assert shown["exception"].startswith(f"{truth.exception_code:#x}")
    assert shown["dtb"] == f"{truth.dtb:#x}"
    assert shown["paging"].startswith("x64 (")
    assert shown["KDBG"] == f"0x{truth.kd_debugger_data_block:016x}"
    assert shown["module list"] == f"0x{truth.ps_loaded_module_list:016x}"
    assert shown["process list"] == f"0x{truth.ps_active_process_head:016x}"
    assert shown["pages"].startswith(f"{truth.pages} of {truth.pages} described")
    assert shown["comment"] == truth.comment
    assert "truncated" not in shown
    assert "None" not in out


def test_info_json(run_json, crash):
    path, truth = crash
    facts = run_json("info", path)
    assert facts["file"] == path
    assert facts["file_size"] == os.path.getsize(path) == facts["required_dump_space"]
    assert facts["kind"] == {"number": 5, "name": "BITMAP_FULL"}
    assert (facts["layout"], facts["arch"], facts["pointer_size"]) == ("bitmap", "x64", 8)
    assert facts["machine"] == {"value": 0x8664, "name": "x64"}
    assert (facts["build"], facts["checked_build"]) == (truth.build, False)
    assert facts["processors"] == truth.processors
    assert datetime.fromisoformat(facts["system_time"]) == truth.system_time
    assert facts["uptime_seconds"] == truth.uptime.total_seconds()
    assert facts["bugcheck"]["code"] == truth.bug_check_code
    assert [p["value"] for p in facts["bugcheck"]["parameters"]] == list(truth.bug_check_parameters)
    assert facts["exception"]["code"] == truth.exception_code
    assert (facts["dtb"], facts["paging"]) == (truth.dtb, "x64")
    assert facts["kd_debugger_data_block"] == truth.kd_debugger_data_block
    assert facts["ps_loaded_module_list"] == truth.ps_loaded_module_list
    assert facts["ps_active_process_head"] == truth.ps_active_process_head
    assert facts["pages"]["available"] == facts["pages"]["described"] == truth.pages
    assert facts["pages"]["truncated"] == 0
    assert facts["comment"] == truth.comment
    assert facts["header"]["dump_type"] == 5
    assert None not in facts.values()
    assert None not in facts["header"].values()


@pytest.mark.parametrize("number", WRITER_KINDS)
def test_info_of_every_kind(run, run_json, tmp_path, number):
    path = tmp_path / "a.dmp"
    path.write_bytes(build(number, {1: stamp(1), 9: stamp(9)}, directory_table_base=0x1000))
    assert run_json("info", path)["kind"]["number"] == number
    code, out, _ = run("info", path)
    assert code == 0
    assert fields(out)["pages"].startswith("2 of 2 described")
    assert fields(out)["highest frame"] == "0x9"


def test_info_leaves_out_what_the_header_does_not_say(run, run_json, tmp_path):
    path = tmp_path / "bare.dmp"
    path.write_bytes(build(FULL, {1: stamp(1)}))
    facts = run_json("info", path)
    absent = {"build", "system_time", "uptime_seconds", "bugcheck", "exception", "dtb", "paging", "comment"}
    assert not absent & set(facts)
    code, out, _ = run("info", path)
    assert code == 0
    assert not {"build", "crash time", "bug check", "dtb", "paging"} & set(fields(out))


def test_info_names_bits(run, run_json, tmp_path):
    path = tmp_path / "bits.dmp"
    header = {"attributes": 0x80000014, "suite_mask": 0x110, "product_type": 3, "writer_status": 2}
    path.write_bytes(build(FULL, {1: stamp(1)}, secondary_data_state=5, **header))
    facts = run_json("info", path)
    assert facts["attributes"] == {
        "value": 0x80000014,
        "names": ["InsufficientDumpfileSize", "LiveDumpGeneratedDump", "0x80000000"],
    }
    assert facts["suite_mask"] == {"value": 0x110, "names": ["Terminal", "SingleUserTS"]}
    assert facts["live"] is True
    shown = fields(run("info", path)[1])
    assert shown["attributes"] == "0x80000014 InsufficientDumpfileSize, LiveDumpGeneratedDump, 0x80000000"
    assert shown["product"] == "3 server"
    assert shown["writer status"] == "2 corrupt module list"
    assert shown["secondary state"] == "0x5"
    assert "live" in shown


def test_info_of_a_truncated_dump(run, run_json, tmp_path):
    path = tmp_path / "cut.dmp"
    path.write_bytes(build(BITMAP, {k: stamp(k) for k in range(1, 9)})[: -PAGE - 1])
    facts = run_json("info", path)
    assert facts["pages"]["truncated"] == 2
    assert facts["pages"]["available"] == 6
    shown = fields(run("info", path)[1])
    assert shown["truncated"] == "2 pages beyond the end of the file"
    assert shown["pages"].startswith("6 of 8 described")


def test_info_of_a_header_without_memory(run, tmp_path):
    path = tmp_path / "header.dmp"
    path.write_bytes(header_page(HEADER_ONLY))
    code, out, _ = run("info", path)
    assert code == 0
    assert fields(out)["pages"].startswith("none")


def test_info_reads_without_mapping(run, small):
    assert run("info", small, "--io", "read") == run("info", small)


# ---- regs ----


def test_regs_of_the_sample(run, crash):
    path, truth = crash
    code, out, err = run("regs", path)
    assert (code, err) == (0, "")
    assert f"rip={truth.instruction_pointer:016x}" in out
    assert f"rsp={truth.stack_pointer:016x}" in out
    assert f"{truth.exception_code:#x}" in out
    assert "xmm" not in out


def test_regs_all_has_vector_registers(run, run_json, crash):
    path, _ = crash
    assert re.search(r"^xmm15 +0x[0-9a-f]{32}$", run("regs", path, "--all")[1], re.MULTILINE)
    assert "xmm0" not in run_json("regs", path)["registers"]
    assert "xmm0" in run_json("regs", path, "--all")["registers"]


def test_regs_json(run_json, crash):
    path, truth = crash
    facts = run_json("regs", path)
    assert facts["registers"]["rip"] == truth.instruction_pointer
    assert facts["registers"]["rsp"] == truth.stack_pointer
    assert facts["exception"]["code"] == truth.exception_code
    assert facts["arch"] == "x64"


def test_a_dump_without_registers_says_so(run, small):
    code, out, err = run("regs", small)
    assert (code, out) == (1, "")
    assert "no registers" in err


# ---- pages ----


def test_pages_lists_runs(run, tmp_path):
    path = tmp_path / "runs.dmp"
    path.write_bytes(build(FULL, {1: stamp(1), 2: stamp(2), 0x50: stamp(3)}))
    code, out, err = run("pages", path)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == ["0x1", "0x2", "2", "0x2000"]
    assert lines[2] == ["0x50", "0x50", "1", "0x4000"]
    assert out.splitlines()[-1] == "3 pages in 2 runs, 12288 (12 KiB)"


def test_pages_json(run_json, tmp_path):
    path = tmp_path / "runs.dmp"
    path.write_bytes(build(FULL, {1: stamp(1), 2: stamp(2), 0x50: stamp(3)}))
    facts = run_json("pages", path)
    assert (facts["available"], facts["described"], facts["truncated"]) == (3, 3, 0)
    assert (facts["runs_total"], facts["bytes"]) == (2, 3 * PAGE)
    assert "runs" not in facts
    assert run_json("pages", path, "--runs")["runs"] == [
        {"pfn": 1, "count": 2, "file_offset": 0x2000},
        {"pfn": 0x50, "count": 1, "file_offset": 0x4000},
    ]


def test_pages_shows_the_first_runs_unless_all_are_wanted(run, tmp_path):
    path = tmp_path / "many.dmp"
    path.write_bytes(ranges_dump([(2 * k, 1) for k in range(1, 51)]))
    short = run("pages", path)[1].splitlines()
    assert len(short) == 1 + 32 + 2
    assert short[-2] == "... and 18 more runs (--runs lists all)"
    assert len(run("pages", path, "--runs")[1].splitlines()) == 1 + 50 + 1


def test_pages_of_a_truncated_dump(run, tmp_path):
    path = tmp_path / "cut.dmp"
    path.write_bytes(build(FULL, {1: stamp(1), 2: stamp(2)})[:-1])
    code, out, _ = run("pages", path)
    assert code == 0
    assert out.splitlines()[-1] == "1 page beyond the end of the file, which is cut short"


def test_pages_of_a_dump_without_any(run, tmp_path):
    path = tmp_path / "header.dmp"
    path.write_bytes(header_page(HEADER_ONLY))
    code, out, err = run("pages", path)
    assert (code, out) == (1, "")
    assert "no physical pages" in err


# ---- convert ----


@pytest.mark.parametrize(
    "text, number",
    [
        ("full", 1),
        ("1", 1),
        ("bitmap", 5),
        ("Kernel", 6),
        ("RDMP8", 8),
        ("9", 9),
        ("rdmpA", 10),
        ("rdmpa", 10),
        ("0xA", 10),
        ("10", 10),
        ("A", 10),
        ("raw", "raw"),
    ],
)
def test_kinds(text, number):
    assert kind(text) == number


def test_kinds_are_those_of_the_library():
    from kdmp.convert import KINDS as LIBRARY

    assert {name: "raw" if number is None else number for name, number in KINDS.items()} == LIBRARY


@pytest.mark.parametrize("name", [name for name in KINDS if name != "raw"])
def test_convert(run, crash, tmp_path, name):
    path, truth = crash
    target = tmp_path / "out.dmp"
    code, out, _ = run("convert", path, target, "--to", name)
    assert code == 0
    assert f"{truth.pages} pages" in out
    with kdmp.open(path) as before, kdmp.open(target) as after:
        assert after.kind == KINDS[name]
        assert list(after.pages) == list(before.pages)
        assert all(after.pages[pfn] == before.pages[pfn] for pfn in before.pages)
        assert after.bugcheck == before.bugcheck
        assert after.context == before.context


def test_convert_json(run_json, small, tmp_path):
    target = tmp_path / "out.dmp"
    facts = run_json("convert", small, target, "--to", "full")
    assert facts["kind"] == 1
    assert facts["out"] == str(target)
    assert facts["size"] == target.stat().st_size
    assert facts["left_out"] == []
    assert facts["pages"] == len(kdmp.open(small).pages)


def test_convert_says_what_it_left_out(run, run_json, tmp_path):
    path = tmp_path / "zero.dmp"
    path.write_bytes(build(KERNEL, {0: stamp(0), 1: stamp(1)}))
    code, _, err = run("convert", path, tmp_path / "a", "--to", "rdmp8")
    assert code == 0
    assert "left out 1 page" in err
    assert "frame 0" in err
    facts = run_json("convert", path, tmp_path / "b", "--to", "rdmp8")
    assert facts["left_out"][0]["pages"] == 1


def test_convert_does_not_overwrite_unless_told_to(run, small, tmp_path):
    target = tmp_path / "out.dmp"
    target.write_bytes(b"precious")
    code, out, err = run("convert", small, target, "--to", "full")
    assert (code, out) == (1, "")
    assert "--force" in err
    assert target.read_bytes() == b"precious"
    assert run("convert", small, target, "--to", "full", "--force")[0] == 0
    assert target.read_bytes()[:8] == b"PAGEDU64"


def test_convert_onto_itself_is_refused(run, tmp_path):
    path = tmp_path / "a.dmp"
    image = build(FULL, {1: stamp(1)})
    path.write_bytes(image)
    code, _, err = run("convert", path, path, "--to", "bitmap", "--force")
    assert code == 2
    assert "itself" in err
    assert path.read_bytes() == image


def test_convert_names_the_kind_that_would_do(run, tmp_path):
    path = tmp_path / "many.dmp"
    path.write_bytes(build(BITMAP, {2 * k + 1: stamp(k) for k in range(50)}))
    code, out, err = run("convert", path, tmp_path / "out", "--to", "full")
    assert (code, out) == (1, "")
    assert "kind 5" in err
    assert not (tmp_path / "out").exists()


def test_convert_to_raw(run, small, tmp_path):
    target = tmp_path / "memory.raw"
    assert run("convert", small, target, "--to", "raw")[0] == 0
    with open(target, "rb") as file:
        file.seek(0xA000)
        assert file.read(11) == b"kernel dump"


# ---- damage ----


def test_damaged_headers_give_results_or_messages(run, crash, tmp_path):
    path, truth = crash
    with open(path, "rb") as file:
        image = file.read(0x40000)
    rng = random.Random(2)
    target = tmp_path / "damaged.dmp"
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(image)
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(
                *rng.choice([(0, 0x348), (0x348, 0x900), (0xF00, 0x1060), (0x2000, 0x2100)])
            )
            size = rng.choice([1, 2, 4, 8])
            patch = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size), b"PAGEPAGE"[:size]])
            damaged[start : start + size] = patch
        target.write_bytes(damaged)
        va = f"{truth.instruction_pointer:x}"
        for command in (["info"], ["regs"], ["pages"], ["translate", va], ["read", va, "64"]):
            for extra in ([], ["--json"]):
                code, out, err = run(command[0], target, *command[1:], *extra)
                assert code in (0, 1)
                assert code == 0 or err.startswith("kdmp: ")
                assert not extra or not out or json.loads(out)
                outcomes.add((command[0], code))
    assert {("info", 0), ("info", 1), ("regs", 0), ("pages", 0), ("translate", 1)} <= outcomes


# ---- terminals ----


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_progress_without_rich(monkeypatch, small, tmp_path, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["convert", small, str(tmp_path / "out"), "--to", "full"]) == 0
    shown = sys.stderr.getvalue()
    assert shown.startswith("\rconverting   0%")
    assert shown.endswith("\rconverting 100%\n")


def test_no_progress_without_a_terminal(run, small, tmp_path):
    assert run("convert", small, tmp_path / "out", "--to", "full")[2] == ""


@pytest.mark.parametrize("no_color", [False, True])
def test_rich_on_a_terminal(monkeypatch, small, tmp_path, no_color):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["info", small]) == 0
    assert main(["pages", small]) == 0
    text = terminal.getvalue()
    assert ("\x1b[1;36m" in text) is not no_color
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert re.search(r"layout +bitmap", plain)
    assert "file offset" in plain
