"""The command line: pte, explain and maps.

SPDX-License-Identifier: MIT
"""

import pytest
from clidumps import triage_dump
from dumpbuilder import Memory, P, Tables, U, W
from test_pte import pae_dump

pytest_plugins = ["clifixtures"]

VA, KERNEL_VA = 0x7FF0_0000_5000, 0xFFFF_F800_0000_5000


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """A cache of the tests' own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def paged(tmp_path_factory):
    """A dump with a valid page, a paged-out one behind it, and a kernel page; and its page file."""
    folder = tmp_path_factory.mktemp("pages")
    memory = Memory()
    tables = Tables(memory)
    memory.fill(0x20, 0x21)
    tables.map(VA, 0x20000)
    tables.map(KERNEL_VA, 0x21000, flags=P | W)
    memory.put_u64(tables.entry(VA + 0x1000), 3 << 32 | 4 << 5 | 0x10)
    dump, pagefile = folder / "paged.dmp", folder / "pagefile.sys"
    dump.write_bytes(memory.dump(minor_version=19041))
    pagefile.write_bytes(bytes(0x3000) + b"paged".ljust(0x1000, b"."))
    return str(dump), str(pagefile)


@pytest.fixture(scope="module")
def triage(tmp_path_factory):
    """The path of `triage_dump`."""
    path = tmp_path_factory.mktemp("pages") / "mini.dmp"
    path.write_bytes(triage_dump())
    return str(path)


# ---- pte ----


def test_pte(run, tmp_path):
    path = tmp_path / "pae.dmp"
    path.write_bytes(pae_dump(0x8000000069FC8867))
    code, out, err = run("pte", path, "1f0000")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == [
        "PDE at C0600000            PTE at C0000F80",
        "contains 0000000069D28867  contains 8000000069FC8867",
        "pfn 69d28     ---DA--UWEV  pfn 69fc8     ---DA--UW-V",
    ]
    assert run("pte", path, "1f1000")[0] == 1


def test_pte_json(run_json, paged):
    facts = run_json("pte", paged[0], f"{VA:x}")
    assert (facts["state"], facts["pa"]) == ("valid", 0x20000)
    assert [row["level"] for row in facts["rows"]] == [4, 3, 2, 1]
    assert facts["rows"][-1]["flags"] == "-------UWEV"
    facts = run_json("pte", paged[0], f"{VA + 0x1000:x}", code=1)
    assert facts["rows"][-1]["fields"]["PageFileHigh"] == 3


def test_pte_refuses_triage(run, triage):
    code, out, err = run("pte", triage, "1000")
    assert (code, out) == (1, "")
    assert "no page tables" in err
    assert "kdmp explain" in err


# ---- explain ----


def test_explain(run, paged):
    code, out, err = run("explain", paged[0], f"{VA:x}")
    assert (code, err) == (0, "")
    assert out.startswith(f"{VA:#x} is readable from frame 0x20 at file offset ")
    code, out, _ = run("explain", paged[0], f"{VA:x}", f"{VA + 0x1000:x}")
    assert code == 1
    assert out.splitlines()[1:] == [
        f"{VA + 0x1000:#x} is paged out to page 0x3 of page file 0.",
        "  give the page file with pagefiles={0: PATH}",
    ]
    assert run("explain", paged[0], "20000", "--physical")[0] == 0


def test_explain_with_page_file(run, run_json, paged):
    dump, pagefile = paged
    va = f"{VA + 0x1000:x}"
    facts = run_json("explain", dump, va, "--pagefile", f"0={pagefile}")
    assert facts["addresses"][0]["reason"] == "from_pagefile"
    for wrong in ("pagefile.sys", "16=x", "-1=x", "0=", "=x"):
        assert run("explain", dump, va, f"--pagefile={wrong}")[0] == 2
    code, _, err = run("explain", dump, va, "--pagefile", f"0={pagefile}", "--pagefile", f"0={pagefile}")
    assert code == 2
    assert "twice" in err
    code, _, err = run("explain", dump, va, "--pagefile", f"0={pagefile}.absent")
    assert code == 1
    assert "absent" in err


def test_explain_json_of_triage(run_json, triage):
    (fact,) = run_json("explain", triage, "10", code=1)["addresses"]
    assert fact["reason"] == "no_range"
    assert all(len(one) == 2 for one in fact["ranges"])


# ---- maps ----


def test_maps(run, paged):
    code, out, err = run("maps", paged[0])
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines == [
        ["start", "last", "size", "pages", "rights", "state"],
        [f"0x{VA:016x}", f"0x{VA + 0xFFF:016x}", "0x1000", "4K", "rwxu", "valid"],
        [f"0x{VA + 0x1000:016x}", f"0x{VA + 0x1FFF:016x}", "0x1000", "4K", "-", "pagefile"],
        [f"0x{KERNEL_VA:016x}", f"0x{KERNEL_VA + 0xFFF:016x}", "0x1000", "4K", "rwxk", "valid"],
    ]


def test_maps_filters(run_json, run, paged):
    def starts(*options, code=0):
        return [one["start"] for one in run_json("maps", paged[0], *options, code=code)["mappings"]]

    assert starts("--kernel") == [KERNEL_VA]
    assert starts("--user") == [VA, VA + 0x1000]
    assert starts("--state", "pagefile") == [VA + 0x1000]
    assert starts("--state", "pagefile", "--state", "valid", "--from", f"{VA + 1:x}") != []
    assert starts("--to", f"{VA:x}") == [VA]
    assert starts("--kernel", "--state", "transition", code=1) == []
    assert run("maps", paged[0], "--kernel", "--user")[0] == 2
    assert run("maps", paged[0], "--state", "lost")[0] == 2


def test_maps_refuses_triage(run, triage):
    code, _, err = run("maps", triage)
    assert code == 1
    assert "kdmp ranges" in err


def test_user_bit_is_shown(run, tmp_path):
    memory = Memory()
    Tables(memory).map(VA, 0x20000, flags=P | U)
    path = tmp_path / "one.dmp"
    path.write_bytes(memory.dump(minor_version=19041))
    memory.fill(0x20)
    assert run("maps", path)[1].splitlines()[1].split()[4] == "r-xu"
