"""`kdmp translate` and `kdmp read`: text, JSON, holes and their reasons.

SPDX-License-Identifier: MIT
"""

import pytest
from clidumps import GAP, LARGE, NOTHING, VA, fields
from dumpbuilder import (
    BITMAP,
    COMPLETE,
    FULL,
    GB1,
    MB2,
    NX,
    PAGE,
    A,
    D,
    Memory,
    P,
    Tables,
    U,
    W,
    build,
    stamp,
)

import kdmp
from kdmp.cli import main

pytest_plugins = ["clifixtures"]


# ---- translate ----


def test_translate_shows_every_entry(run, small):
    code, out, err = run("translate", small, f"{VA + 0x123:x}")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    names = [row[0] for row in rows]
    assert names[:3] == ["va", "dtb", "entry"]
    assert names[3:7] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert rows[6][3] == f"0x{0xA000 | P | W | U | A | D | NX:016x}"
    shown = fields(out)
    assert shown["pa"] == "0xa123"
    assert shown["frame"] == "0xa"
    assert shown["page size"] == "4096 (4 KiB), offset 0x123"
    assert shown["rights"] == "read-write, no execute, user"
    assert shown["state"] == "valid"
    assert shown["in the dump"].startswith("yes, at file offset 0x")


def test_translate_json(run_json, small):
    facts = run_json("translate", small, f"{VA + 0x123:x}")
    assert facts["va"] == VA + 0x123
    assert (facts["pa"], facts["pfn"], facts["offset"]) == (0xA123, 0xA, 0x123)
    assert (facts["page_size"], facts["paging"], facts["dtb"]) == (PAGE, "x64", 0x1000)
    assert [entry["name"] for entry in facts["entries"]] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert [entry["level"] for entry in facts["entries"]] == [4, 3, 2, 1]
    indices = [VA >> shift & 0x1FF for shift in (39, 30, 21, 12)]
    assert [entry["index"] for entry in facts["entries"]] == indices
    assert facts["entries"][0]["pa"] == 0x1000 + 8 * indices[0]
    assert facts["entries"][3]["value"] == 0xA000 | P | W | U | A | D | NX
    assert facts["rights"] == {"writable": True, "executable": False, "user": True, "copy_on_write": False}
    assert facts["transition"] is False
    with open(small, "rb") as file:
        file.seek(facts["file_offset"] - 0x123)
        assert file.read(6) == b"kernel"


def test_translate_a_large_page(run_json, small):
    facts = run_json("translate", small, f"{LARGE + 0x1_2345:x}")
    assert facts["page_size"] == MB2
    assert facts["pa"] == 0x40_0000 + 0x1_2345
    assert [entry["name"] for entry in facts["entries"]] == ["PML4E", "PDPTE", "PDE"]
    assert facts["in_dump"] is False  # only the first of its frames was captured
    assert "file_offset" not in facts


def test_translate_to_a_frame_that_is_not_there(run, run_json, small):
    code, out, _ = run("translate", small, f"{GAP:x}")
    assert code == 0
    assert fields(out)["in the dump"] == "no, the frame was not captured"
    assert run_json("translate", small, f"{GAP:x}")["pa"] == 0xBBB000


def test_translate_failing_shows_the_evidence_and_the_reason(run, run_json, small):
    code, out, err = run("translate", small, f"{NOTHING:x}")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()[3:]] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert err.startswith(f"kdmp: {small}: ")
    assert f"{NOTHING:#x}" in err
    facts = run_json("translate", small, f"{NOTHING:x}", code=1)
    assert facts["error"]["type"] == "NotPresentError"
    assert (facts["error"]["state"], facts["error"]["level"]) == ("zero", 1)
    assert len(facts["entries"]) == 4
    assert facts["entries"][3]["value"] == 0
    assert "pa" not in facts


def test_translate_a_non_canonical_address(run, run_json, small):
    code, out, err = run("translate", small, "0000800000000000")
    assert code == 1
    assert "canonical" in err
    assert "PML4E" not in out
    facts = run_json("translate", small, "0000800000000000", code=1)
    assert facts["error"]["type"] == "NonCanonicalError"
    assert facts["entries"] == []


def test_translate_with_another_root(run, run_json, small):
    facts = run_json("translate", small, f"{VA:x}", "--dtb", "0xccc000", code=1)
    assert facts["error"]["type"] == "NotInDumpError"
    assert facts["dtb"] == 0xCCC000
    assert run("translate", small, f"{VA:x}", "--dtb", "1000", "--paging", "x64")[0] == 0


def test_translate_with_five_levels(run_json, tmp_path):
    memory = Memory()
    Tables(memory, levels=5).map(0x12_3456_7000_0000, 0, GB1)
    path = tmp_path / "la57.dmp"
    path.write_bytes(memory.dump(COMPLETE))
    facts = run_json("translate", path, "12345670000000", "--paging", "la57")
    assert [entry["name"] for entry in facts["entries"]] == ["PML5E", "PML4E", "PDPTE"]
    assert facts["entries"][0]["index"] == 0x12_3456_7000_0000 >> 48
    assert facts["page_size"] == GB1


def test_translate_without_a_root_says_what_to_do(run, tmp_path):
    path = tmp_path / "rootless.dmp"
    path.write_bytes(build(FULL, {1: stamp(1)}))
    code, out, err = run("translate", path, "0")
    assert (code, out) == (1, "")
    assert "dtb" in err.lower() or "directorytablebase" in err.lower()


def test_translate_transition_pages_of_the_sample(run, run_json, crash):
    path, truth = crash
    facts = run_json("translate", path, f"{truth.transition_va:x}")
    assert facts["transition"] is True
    assert facts["pa"] == truth.transition_pa
    assert "protection" in facts
    assert fields(run("translate", path, f"{truth.transition_va:x}")[1])["state"] == "transition"


# ---- read ----


def test_read_shows_bytes_and_text(run, small):
    code, out, err = run("read", small, f"{VA:x}", "16")
    assert (code, err) == (0, "")
    assert out == "00007ff000005000  6b 65 72 6e 65 6c 20 64 75 6d 70 00 00 00 00 00  kernel dump.....\n"


def test_read_physical(run, small):
    assert run("read", small, "a000", "6", "--phys") == (
        0,
        "0000a000  6b 65 72 6e 65 6c                                kernel\n",
        "",
    )


@pytest.mark.parametrize(
    "form, cells",
    [("u64", "1122334455667788 ????????????????"), ("u32", "55667788 11223344 ???????? ????????")],
)
def test_read_numbers(run, small, form, cells):
    code, out, err = run("read", small, f"{VA + 0xFF8:x}", "16", "--format", form)
    assert code == 0
    assert out == f"00007ff000005ff8  {cells}\n"
    assert "8 of 16 bytes missing" in err


def test_read_marks_what_is_missing_and_says_why(run, small):
    code, out, err = run("read", small, f"{GAP - 4:x}", "0x1010")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 0x101
    assert lines[0].split("  ")[1] == "44 33 22 11" + " ??" * 12
    assert lines[1].split("  ")[1] == "?? " * 15 + "??"
    notes = err.splitlines()
    assert notes[0] == "kdmp: 4108 of 4112 bytes missing, in 2 holes:"
    assert f"{GAP:#x} to {GAP + 0xFFF:#x}: " in notes[1]
    assert f"{NOTHING:#x} to {NOTHING + 11:#x}: " in notes[2]


def test_reading_nothing_is_exit_code_1(run, small):
    code, out, err = run("read", small, f"{NOTHING:x}", "32")
    assert code == 1
    assert len(out.splitlines()) == 2
    assert set(out.splitlines()[0].split("  ")[1]) == {"?", " "}
    assert "32 of 32 bytes missing, in 1 hole" in err


def test_read_json(run_json, small):
    facts = run_json("read", small, f"{VA + 0xFF8:x}", "0x20")
    assert (facts["address"], facts["size"], facts["read"]) == (VA + 0xFF8, 0x20, 8)
    assert (facts["space"], facts["paging"], facts["dtb"]) == ("virtual", "x64", 0x1000)
    assert facts["segments"] == [{"address": VA + 0xFF8, "size": 8, "hex": "8877665544332211"}]
    (hole,) = facts["holes"]
    assert (hole["address"], hole["size"], hole["type"]) == (GAP, 24, "NotInDumpError")
    assert f"{GAP:#x}" in hole["message"]


def test_read_json_numbers(run_json, small):
    facts = run_json("read", small, f"{VA + 0xFF4:x}", "20", "--format", "u64")
    assert facts["values"] == [0x55667788_00000000, None, None]
    facts = run_json("read", small, "affc", "8", "--phys", "--format", "u32")
    assert facts["values"] == [0x11223344, None]
    assert facts["space"] == "physical"
    assert "dtb" not in facts


def test_read_json_of_more_than_one_piece_is_one_segment(run_json, crash):
    path, truth = crash
    size = 0x18_0000
    facts = run_json("read", path, f"{truth.kernel_large_va:x}", hex(size))
    assert facts["holes"] == []
    assert [(segment["address"], segment["size"]) for segment in facts["segments"]] == [
        (truth.kernel_large_va, size)
    ]
    with kdmp.open(path) as dump:
        assert facts["segments"][0]["hex"] == dump.phys.read_exact(truth.kernel_large_pa, size).hex()


def test_read_of_more_than_one_piece_goes_on_where_it_was(run, crash):
    path, truth = crash
    lines = run("read", path, f"{truth.kernel_large_va + 8:x}", "1025K")[1].splitlines()
    starts = [int(line.split()[0], 16) for line in lines]
    assert starts == list(range(truth.kernel_large_va + 8, truth.kernel_large_va + 8 + 1025 * 1024, 16))


def test_read_raw(capsysbinary, small):
    assert main(["read", small, f"{VA:x}", "11", "--format", "raw"]) == 0
    assert capsysbinary.readouterr() == (b"kernel dump", b"")


def test_read_raw_refuses_holes(capsysbinary, small):
    assert main(["read", small, f"{VA:x}", "8K", "--format", "raw"]) == 1
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert b"--fill" in err


def test_read_raw_with_fill(capsysbinary, small):
    assert main(["read", small, f"{GAP - 8:x}", "16", "--format", "raw", "--fill", "cc"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == bytes.fromhex("8877665544332211") + b"\xcc" * 8
    assert b"8 of 16 bytes missing" in err


def test_read_the_last_byte_of_the_address_space(run, small):
    code, out, err = run("read", small, "ffffffff`ffffffff", "1")
    assert code == 1
    assert out.startswith("ffffffffffffffff  ??")
    assert "1 of 1 byte missing" in err


def test_read_many_holes_makes_a_short_summary(run, tmp_path):
    path = tmp_path / "holes.dmp"
    path.write_bytes(build(BITMAP, {2 * k: stamp(k) for k in range(1, 13)}))
    code, _, err = run("read", path, "2000", hex(24 * PAGE), "--phys")
    assert code == 0
    assert "in 12 holes" in err
    assert len(err.splitlines()) == 10
    assert err.splitlines()[-1] == "kdmp:   ... and 4 more holes"
