"""The command line on 32-bit and ARM64 dumps, memory images, ELF cores and packed files.

SPDX-License-Identifier: MIT
"""

import gzip
import io
import lzma
import os
import sys
import zipfile

import pytest
import shareddata
from clidumps import VA, VA32, X86_REGISTERS, arm64_dump, core_of, elf_core, fields, small_dump, x86_dump
from dumpbuilder import BITMAP, PAGE, build, stamp

import kdmp
from kdmp.cli import main

pytest_plugins = ["clifixtures"]


@pytest.fixture(scope="module")
def core(crash, tmp_path_factory):
    """The sample machine as an ELF core, and the truth about it."""
    path, truth = crash
    target = tmp_path_factory.mktemp("cli") / "vm.elf"
    with kdmp.open(path) as dump:
        target.write_bytes(core_of(dump))
    return str(target), truth


# ---- 32-bit ----


@pytest.mark.parametrize("pae", [False, True])
def test_info_of_a_32_bit_dump(run, run_json, tmp_path, pae):
    path = tmp_path / "x86.dmp"
    path.write_bytes(x86_dump(pae=pae))
    facts = run_json("info", path)
    assert (facts["arch"], facts["pointer_size"], facts["pae_enabled"]) == ("x86", 4, int(pae))
    assert facts["paging"] == ("pae" if pae else "x86")
    assert facts["machine"] == {"value": 0x14C, "name": "x86"}
    shown = fields(run("info", path)[1])
    assert shown["PAE"] == ("on, says the header" if pae else "off, says the header")
    assert shown["paging"].startswith("pae (" if pae else "x86 (")
    assert shown["parameter 1"].split()[0] == "0x00000000"


def test_a_64_bit_dump_says_nothing_of_pae(run, run_json, small):
    assert "pae_enabled" not in run_json("info", small)
    assert "PAE" not in fields(run("info", small)[1])


@pytest.mark.parametrize("pae", [False, True])
def test_memory_of_a_32_bit_dump(run, run_json, tmp_path, pae):
    path = tmp_path / "x86.dmp"
    path.write_bytes(x86_dump(pae=pae))
    code, out, err = run("read", path, f"{VA32:x}", "10")
    assert (code, err) == (0, "")
    assert out.startswith(f"{VA32:08x}  74 68 ")
    walk = run_json("translate", path, f"{VA32:x}")
    assert walk["pa"] == 0x5000
    assert [entry["name"] for entry in walk["entries"]] == (["PDPTE"] if pae else []) + ["PDE", "PTE"]
    cells = run("translate", path, f"{VA32:x}")[1].split()
    assert (f"0x{0x5063:016x}" if pae else "0x00005063") in cells


def test_regs_of_a_32_bit_dump(run, run_json, tmp_path):
    path = tmp_path / "x86.dmp"
    path.write_bytes(x86_dump())
    code, out, err = run("regs", path)
    assert (code, err) == (0, "")
    for name, value in X86_REGISTERS.items():
        assert f"{name}={value:08x}" in out
    assert run_json("regs", path)["registers"]["eip"] == X86_REGISTERS["eip"]


def test_info_of_the_real_32_bit_header(run, run_json):
    path = shareddata.require("headers", "memflow-coredump_coredump_win7_32bit_stripped.dmp.xz")
    facts = run_json("info", path)
    assert (facts["arch"], facts["paging"], facts["pae_enabled"], facts["build"]) == ("x86", "pae", 1, 7601)
    assert facts["packed"]["containers"] == ["xz"]
    shown = fields(run("info", path)[1])
    assert shown["packed"].startswith("xz, 680, holds memflow-coredump")
    assert "eip=a0133516" in run("regs", path)[1]


# ---- ARM64 ----


def test_an_arm64_dump(run, run_json, tmp_path):
    path = tmp_path / "arm.dmp"
    path.write_bytes(arm64_dump())
    facts = run_json("info", path)
    assert (facts["arch"], facts["machine"]["name"]) == ("arm64", "ARM64")
    code, out, err = run("regs", path)
    assert (code, err) == (0, "")
    for text in ("x0=0000000000001000", "x28=000000000000101c", "lr=000000000000101e", "sp=0000000000002000"):
        assert text in out
    assert "pc=0000000000003000 cpsr=80000144 N--- EL1" in out
    assert "v0" not in run_json("regs", path)["registers"]
    assert run_json("regs", path, "--all")["registers"]["v0"] == 0x2222 << 64 | 0x1111
    assert f"v0             0x{0x2222:016x}{0x1111:016x}" in run("regs", path, "--all")[1]


# ---- memory images and ELF cores ----


def test_info_of_an_elf_core_finds_the_root(run, run_json, core):
    path, truth = core
    facts = run_json("info", path, "--raw")
    assert (facts["layout"], facts["arch"], facts["raw"]["format"]) == ("raw", "x64", "elf")
    with kdmp.open_raw(path) as dump:
        assert facts["raw"]["runs"] == len(list(dump.pages.runs())) > 1
    assert (facts["dtb"], facts["dtb_source"]) == (truth.system_dtb, "trial")
    assert (facts["paging"], facts["paging_source"]) == ("x64", "trial")
    assert facts["pages"]["available"] == truth.pages
    assert not {"kind", "build", "bugcheck", "exception", "triage", "comment"} & set(facts)
    shown = fields(run("info", path, "--raw")[1])
    assert shown["kind"].startswith("memory image: ELF core of a virtual machine, ")
    assert shown["dtb"] == f"{truth.system_dtb:#x} (found by trial)"
    assert "claimed" not in shown


def test_an_elf_core_without_raw_gives_a_hint(run, core):
    code, out, err = run("info", core[0])
    assert (code, out) == (1, "")
    assert "ELF" in err.splitlines()[0]
    assert "--raw" in err.splitlines()[1]


def test_every_command_opens_elf_cores(run, run_json, core):
    path, truth = core
    va = f"{truth.instruction_pointer:x}"
    with kdmp.open_raw(path) as dump:
        expected = dump.reader().read_exact(truth.instruction_pointer, 16).hex()
    assert run_json("read", path, va, "16", "--raw")["segments"][0]["hex"] == expected
    assert run_json("translate", path, va, "--raw")["dtb"] == truth.system_dtb
    assert run_json("pages", path, "--raw")["available"] == truth.pages
    code, _, err = run("regs", path, "--raw")
    assert code == 1
    assert "no registers" in err
    assert run("blobs", path, "--raw")[0] == 1
    assert "only triage" in run("ranges", path, "--raw")[2]


def test_a_flat_image(run, run_json, tmp_path):
    path = tmp_path / "memory.raw"
    assert main(["convert", _write(tmp_path / "a.dmp", small_dump()), str(path), "--to", "raw"]) == 0
    run("--version")  # take away what convert printed
    facts = run_json("read", path, f"{VA:x}", "11", "--raw", "--dtb", "1000")
    assert bytes.fromhex(facts["segments"][0]["hex"]) == b"kernel dump"
    assert run_json("read", path, "a000", "6", "--raw", "--phys")["read"] == 6
    facts = run_json("info", path, "--raw")
    assert facts["raw"] == {"format": "flat", "runs": 1}
    assert not {"dtb", "paging"} & set(facts)
    assert fields(run("info", path, "--raw")[1])["dtb"].startswith("none found by trial")
    facts = run_json("info", path, "--raw", "--dtb", "1000", "--paging", "la57")
    assert (facts["dtb"], facts["dtb_source"], facts["paging"]) == (0x1000, "argument", "la57")
    code, _, err = run("translate", path, f"{VA:x}", "--raw")
    assert code == 1
    assert "--dtb" in err


def _write(path, data):
    path.write_bytes(data)
    return str(path)


def test_an_image_in_pieces(run, run_json, tmp_path):
    path = _write(tmp_path / "pieces", b"head" + stamp(1) + stamp(2) + stamp(3))
    runs = ["--run", "100:2:4", "--run", "0x7:0x1:0x2004"]
    facts = run_json("pages", path, "--raw", *runs, "--runs")
    assert facts["runs"] == [
        {"pfn": 7, "count": 1, "file_offset": 0x2004},
        {"pfn": 0x100, "count": 2, "file_offset": 4},
    ]
    shown = run_json("read", path, "101000", "16", "--raw", "--phys", *runs)
    assert shown["segments"][0]["hex"] == stamp(2)[:16].hex()
    assert run_json("info", path, "--raw", *runs, "--arch", "arm64")["raw"] == {"format": "pieces", "runs": 2}
    assert run_json("info", path, "--raw", "--arch", "x86")["pointer_size"] == 4


def test_impossible_runs_are_wrong_usage(run, tmp_path):
    path = _write(tmp_path / "raw", bytes(PAGE))
    code, out, err = run("info", path, "--raw", "--run", f"0:{1 << 60}:0")
    assert (code, out) == (2, "")
    assert "--run" in err


def test_raw_does_not_take_a_crash_dump_for_memory(run, small):
    code, out, err = run("info", small, "--raw")
    assert (code, out) == (2, "")
    assert "leave out --raw" in err
    assert run("pages", small, "--raw", "--run", "1:1:2000")[0] == 0


def test_raw_and_a_file_that_is_not_there(run, tmp_path):
    code, out, err = run("info", tmp_path / "none", "--raw")
    assert (code, out) == (1, "")
    assert err.startswith(f"kdmp: {tmp_path / 'none'}: ")


def test_a_machine_as_image(run_json):
    path = shareddata.unpack("machines", "win10-19041", "memory.raw.xz")
    facts = run_json("info", path, "--raw")
    truth = shareddata.truth("win10-19041")
    assert facts["dtb"] in {process["dtb"] for process in truth["processes"]}
    assert facts["dtb_source"] == "trial"


# ---- convert ----


@pytest.mark.parametrize("kind", ["full", "bitmap", "kernel", "rdmp8", "rdmpA"])
def test_convert_an_elf_core(run, core, tmp_path, kind):
    path, truth = core
    target = tmp_path / "out.dmp"
    assert run("convert", path, target, "--raw", "--to", kind)[0] == 0
    with kdmp.open(target) as after, kdmp.open_raw(path) as before:
        assert (after.machine, after.dtb) == (0x8664, truth.system_dtb)
        assert list(after.pages) == list(before.pages)
        assert all(after.pages[pfn] == before.pages[pfn] for pfn in before.pages)
        code = truth.instruction_pointer
        assert after.reader().read_exact(code, 16) == before.reader().read_exact(code, 16)


def test_convert_an_image_with_a_root_that_was_given(run, tmp_path):
    path = _write(tmp_path / "vm.elf", elf_core([(1, stamp(1))], machine=183))
    target = tmp_path / "out.dmp"
    assert run("convert", path, target, "--raw", "--to", "full", "--dtb", "2000")[0] == 0
    with kdmp.open(target) as dump:
        assert (dump.arch, dump.dtb, list(dump.pages)) == ("arm64", 0x2000, [1])


@pytest.mark.parametrize("kind", ["full", "bitmap", "kernel"])
def test_convert_a_32_bit_dump(run, tmp_path, kind):
    path = _write(tmp_path / "in.dmp", x86_dump())
    assert run("convert", path, tmp_path / "out.dmp", "--to", kind)[0] == 0
    assert run("read", tmp_path / "out.dmp", f"{VA32:x}", "10")[1].endswith("thirty-two\n")


def test_convert_a_32_bit_dump_to_ranges_is_refused_with_kinds_that_do(run, tmp_path):
    path = _write(tmp_path / "in.dmp", x86_dump())
    code, out, err = run("convert", path, tmp_path / "out.dmp", "--to", "rdmpA")
    assert (code, out) == (1, "")
    assert "choose 1, 5 or 6" in err
    assert not (tmp_path / "out.dmp").exists()


# ---- packed files ----


@pytest.mark.parametrize("pack, container", [(gzip.compress, "gzip"), (lzma.compress, "xz")])
def test_info_of_a_packed_dump(run, run_json, tmp_path, pack, container):
    path = _write(tmp_path / f"MEMORY.DMP.{container}", pack(small_dump()))
    facts = run_json("info", path)
    assert facts["packed"]["containers"] == [container]
    assert facts["packed"]["size"] == os.path.getsize(path)
    assert facts["file_size"] == len(small_dump())
    shown = fields(run("info", path)[1])
    assert shown["packed"].startswith(f"{container}, {os.path.getsize(path)}")
    assert run("read", path, f"{VA:x}", "11")[1].endswith("kernel dump\n")


def test_info_names_the_dump_in_an_archive(run, run_json, tmp_path):
    path = tmp_path / "reports.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dumps/010203-1234-01.dmp.gz", gzip.compress(small_dump()))
    facts = run_json("info", path)
    assert facts["packed"]["containers"] == ["zip", "gzip"]
    assert "010203-1234-01.dmp" in facts["packed"]["name"]
    assert fields(run("info", path)[1])["packed"].startswith("gzip in zip, ")


def test_info_says_what_is_wrong_with_a_packed_file(run, run_json, tmp_path):
    data = gzip.compress(build(BITMAP, {k: os.urandom(PAGE) for k in range(1, 60)}))
    path = _write(tmp_path / "cut.gz", data[: len(data) // 2])
    facts = run_json("info", path)
    assert facts["pages"]["truncated"] > 0
    assert fields(run("info", path)[1])["damaged"] == facts["packed"]["problem"]


def test_a_packed_memory_image(run, run_json, core, tmp_path):
    with open(core[0], "rb") as file:
        path = _write(tmp_path / "vm.elf.gz", gzip.compress(file.read(), 1))
    facts = run_json("info", path, "--raw")
    assert (facts["raw"]["format"], facts["dtb"]) == ("elf", core[1].system_dtb)
    assert facts["packed"]["containers"] == ["gzip"]
    code, _, err = run("info", path)
    assert code == 1
    assert "--raw" in err


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_unpacking_shows_progress_on_a_terminal(monkeypatch, tmp_path, small, capsys):
    path = _write(tmp_path / "a.gz", gzip.compress(small_dump()))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["info", path]) == 0
    assert sys.stderr.getvalue().endswith("\runpacking 100%\n")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["info", small]) == 0
    assert sys.stderr.getvalue() == ""


def test_unpacking_is_silent_without_a_terminal(run, tmp_path):
    path = _write(tmp_path / "a.gz", gzip.compress(small_dump()))
    assert run("info", path)[2] == ""
