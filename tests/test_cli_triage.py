"""The command line on triage dumps: info, ranges, blobs, and what the other commands say of them.

SPDX-License-Identifier: MIT
"""

import hashlib
import json
import os
import random
import struct

import pytest
import shareddata
from clidumps import BLOBS, KERNEL, MM, STACK, TAG, fields, triage32_dump, triage_dump
from dumpbuilder import FULL, build, stamp

import kdmp

pytest_plugins = ["clifixtures"]

REAL = (
    "rtech_116_1 rtech_13a rtech_1a rtech_3b_0 rtech_7e_0 rtech_7e_1 rtech_9f rtech_be_0 rtech_d1 rtech_ef "
    "triage_arm64 triage_x64"
).split()


@pytest.fixture(scope="module")
def triage(tmp_path_factory):
    """The path of `triage_dump`."""
    path = tmp_path_factory.mktemp("cli") / "mini.dmp"
    path.write_bytes(triage_dump())
    return str(path)


@pytest.fixture(scope="module", params=REAL)
def real(request):
    """The path of a real triage dump, and what an independent parser says of it."""
    facts = next(f for f in shareddata.triage_index() if f["file"] == f"{request.param}.dmp.xz")
    return str(shareddata.unpack("triage", facts["file"])), facts


# ---- info ----


def test_info_json_has_every_part(run_json, triage):
    facts = run_json("info", triage)
    assert facts["layout"] == "triage"
    assert not {"pages", "paging", "packed", "raw"} & set(facts)
    parts = facts["triage"]
    assert (parts["complete"], parts["overflowed"], parts["options"]) == (True, True, 0x141)
    assert (parts["drivers"], parts["unloaded_drivers"], parts["broken_driver"]) == (2, 1, "bad.sys")
    assert parts["kernel"] == {
        "name": "\\SystemRoot\\system32\\ntoskrnl.exe",
        "base": KERNEL,
        "end": KERNEL + 0x1046000,
        "size": 0x1046000,
        "checksum": 0xA5938C,
        "timestamp": 0x0D8333E6,
        "image_id": "0D8333E61046000",
    }
    assert parts["stack"] == {"address": STACK, "size": 256}
    assert parts["data_blocks"] == {"count": 6, "claimed": 6, "bytes": 24 + 3 * 40 + 2 * 0x4D0}
    assert parts["copies"] == {"debugger_data": 0x380, "prcb": 0x100}
    assert parts["processors"] == [
        {"number": 0, "prcb": KERNEL + 0x2000, "ip": 0xA000, "sp": 0xB000},
        {"number": 1, "prcb": KERNEL + 0x3000, "ip": 0xA001, "sp": 0xB001},
        {"number": 2, "prcb": KERNEL + 0x4000},
    ]
    assert tuple(parts["mm"].values()) == MM
    secondary = facts["secondary_data"]
    assert (secondary["count"], secondary["bytes"], secondary["truncated"]) == (3, 206, False)
    assert secondary["build_number"] == 0xF0004A61


def test_info_text(run, triage):
    code, out, err = run("info", triage)
    assert (code, err) == (0, "")
    shown = fields(out)
    assert shown["pages"] == "none (virtual ranges instead)"
    assert shown["drivers"] == "2 loaded, 1 unloaded"
    assert shown["the first"] == f"\\SystemRoot\\system32\\ntoskrnl.exe at {KERNEL:#x}"
    assert shown["image id"] == "0D8333E61046000"
    assert shown["broken driver"] == "bad.sys"
    assert shown["stack"] == f"{STACK:#x} to {STACK + 255:#x}, 256"
    assert shown["data blocks"].startswith("6 blocks, 2608 ")
    assert shown["copies of"] == "debugger data (KDBG) 896, KPRCB 256"
    assert shown["control blocks"] == "of 3 processors"
    assert shown["processor 1"] == f"KPRCB {KERNEL + 0x3000:#x}, ip 0x000000000000a001"
    assert shown["processor 2"].endswith("no registers")
    assert shown["triage options"] == "0x141"
    assert "overflowed" in shown
    assert shown["committed pages"] == "500 of 4000, peak 550"
    assert shown["nonpaged pool"] == "800 of 9000"
    assert shown["paged pool"] == "60 of 7000"
    assert shown["verifier"] == "driver level 0x3, kernel 0x1"
    assert shown["secondary data"].startswith("3 blobs, 206, at file offset 0x")
    assert shown["of build"] == "19041 (0xf0004a61)"
    assert "call stack" in shown["triage parts"]
    assert "cut short" not in shown


def test_info_leaves_out_what_a_triage_dump_does_not_have(run, run_json, tmp_path):
    path = tmp_path / "bare.dmp"
    kdmp.write_triage(path, mm=struct.pack("<6I7Q", 1, 0x50, *[0] * 11))
    facts = run_json("info", path)
    assert "secondary_data" not in facts
    absent = {"kernel", "unloaded_drivers", "broken_driver", "stack", "mm", "options", "service_pack_build"}
    assert not absent & set(facts["triage"])
    code, out, _ = run("info", path)
    assert code == 0
    assert not {"stack", "nonpaged pool", "secondary data", "triage options", "overflowed"} & set(fields(out))
    assert "None" not in out


def test_info_of_a_triage_dump_that_is_cut_short(run, run_json, tmp_path):
    path = tmp_path / "cut.dmp"
    image = triage_dump()
    with kdmp.open(image) as dump:
        size = dump.triage_header["size_of_dump"]
    path.write_bytes(image[: size - 0x500])
    facts = run_json("info", path)
    assert facts["triage"]["complete"] is False
    assert facts["triage"]["data_blocks"]["claimed"] == 6
    assert "cut short" in fields(run("info", path)[1])


def test_info_of_a_32_bit_triage_dump(run, run_json, tmp_path):
    path = tmp_path / "x86.dmp"
    path.write_bytes(triage32_dump())
    facts = run_json("info", path)
    assert (facts["arch"], facts["pointer_size"]) == ("x86", 4)
    assert facts["triage"]["kernel"]["image_id"] == "4CE78A09412000"
    assert fields(run("info", path)[1])["stack"] == "0x8f000f00 to 0x8f000f0e, 15"


def test_info_of_secondary_data_that_is_cut_short(run, run_json, tmp_path):
    path = tmp_path / "cut.dmp"
    path.write_bytes(triage_dump()[:-100])
    assert run_json("info", path)["secondary_data"]["truncated"] is True
    assert "beyond the end of the file" in fields(run("info", path)[1])["cut short"]


def test_info_of_real_dumps(run, run_json, real):
    path, truth = real
    facts = run_json("info", path)
    parts = facts["triage"]
    assert (facts["arch"], facts["build"], facts["file_size"]) == (
        truth["arch"],
        truth["build"],
        truth["size"],
    )
    assert parts["complete"]
    assert parts["drivers"] == len(truth["drivers"])
    assert parts["kernel"]["base"] == truth["drivers"][0]["base"]
    assert parts["unloaded_drivers"] == len(truth["unloaded_drivers"])
    assert parts["stack"] == {"address": truth["stack"]["top_of_stack"], "size": truth["stack"]["size"]}
    assert parts["data_blocks"] == {
        "count": truth["data_blocks"]["count"],
        "claimed": truth["data_blocks"]["count"],
        "bytes": truth["data_blocks"]["bytes"],
    }
    # Only dumps that the crashing kernel wrote have the memory manager's figures.
    assert ("mm" in parts) == (truth["build"] == 26100)
    assert facts["secondary_data"]["build_number"] == 0xF0000000 | truth["build"]
    code, out, err = run("info", path)
    assert (code, err) == (0, "")
    assert fields(out)["drivers"].startswith(f"{len(truth['drivers'])} loaded")


# ---- ranges ----


def test_ranges(run, run_json, triage):
    code, out, err = run("ranges", triage)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["address", "size", "file", "offset", "origin"]
    assert lines[1].split()[:2] == [f"{KERNEL + 0x1000:#x}", "0x18"]
    facts = run_json("ranges", triage)
    with kdmp.open(triage) as dump:
        assert [tuple(r.values()) for r in facts["ranges"]] == [tuple(r) for r in dump.ranges]
    assert lines[-1].startswith(f"{facts['count']} ranges, {facts['bytes']}")
    assert {"data block", "call stack", "debugger data"} <= {r["origin"] for r in facts["ranges"]}


def test_ranges_sorted(run, run_json, triage):
    addresses = [r["address"] for r in run_json("ranges", triage, "--sort")["ranges"]]
    assert addresses == sorted(r["address"] for r in run_json("ranges", triage)["ranges"])
    shown = [int(line.split()[0], 16) for line in run("ranges", triage, "--sort")[1].splitlines()[1:-1]]
    assert shown == addresses


def test_ranges_of_real_dumps_are_the_bytes_in_the_file(run_json, real):
    path, truth = real
    blocks = {r["address"]: r for r in run_json("ranges", path)["ranges"] if r["origin"] == "data block"}
    assert len(blocks) == truth["data_blocks"]["count"]
    with open(path, "rb") as file:
        for sample in truth["data_blocks"]["samples"]:
            block = blocks[sample["address"]]
            assert (block["size"], block["file_offset"]) == (sample["size"], sample["offset"])
            file.seek(block["file_offset"])
            assert hashlib.sha256(file.read(block["size"])).hexdigest() == sample["sha256"]


# ---- blobs ----


def test_blobs(run, run_json, triage):
    code, out, err = run("blobs", triage)
    assert (code, err) == (0, "")
    lines = [line.split(maxsplit=4) for line in out.splitlines()]
    assert lines[1][0:3] == ["0", str(TAG), "6"]
    assert lines[1][4] == "SMBIOS tables"
    assert out.splitlines()[-1] == "3 blobs, 206"
    facts = run_json("blobs", triage)["blobs"]
    assert [(blob["number"], blob["tag"], blob["size"]) for blob in facts] == [
        (number, str(tag), len(data)) for number, (tag, data) in enumerate(BLOBS)
    ]
    assert "name" not in facts[2]
    with open(triage, "rb") as file:
        file.seek(facts[2]["offset"])
        assert file.read(200) == BLOBS[2][1]


def test_extract_one_blob(run, run_json, triage, tmp_path):
    target = tmp_path / "blob.bin"
    code, out, _ = run("blobs", triage, "--extract", "2", "--to", target)
    assert (code, out) == (0, f"{target}  blob 2, 200\n")
    assert target.read_bytes() == BLOBS[2][1]
    code, out, err = run("blobs", triage, "--extract", "0", "--to", target)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert target.read_bytes() == BLOBS[2][1]
    facts = run_json("blobs", triage, "--extract", "0", "--to", target, "--force")
    assert target.read_bytes() == BLOBS[0][1]
    assert [(blob["number"], blob["path"], blob["written"]) for blob in facts["blobs"]] == [
        (0, str(target), 6)
    ]


def test_extract_a_blob_that_is_not_there(run, triage, tmp_path):
    code, out, err = run("blobs", triage, "--extract", "3", "--to", tmp_path / "x")
    assert (code, out) == (1, "")
    assert "there are 3 blobs" in err
    assert not (tmp_path / "x").exists()


def test_extract_onto_the_dump_itself_is_refused(run, tmp_path):
    path = tmp_path / "mini.dmp"
    path.write_bytes(triage_dump())
    code, _, err = run("blobs", path, "--extract", "0", "--to", path, "--force")
    assert code == 2
    assert "itself" in err
    assert path.read_bytes() == triage_dump()


def test_extract_all_blobs(run, triage, tmp_path):
    folder = tmp_path / "new" / "blobs"
    code, out, _ = run("blobs", triage, "--extract-all", folder)
    assert code == 0
    assert out.splitlines()[-1] == "2 files written"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f"{number}-{tag}.bin": data for number, (tag, data) in enumerate(BLOBS) if data
    }
    (folder / f"0-{TAG}.bin").unlink()
    code, out, err = run("blobs", triage, "--extract-all", folder)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert not (folder / f"0-{TAG}.bin").exists()
    assert run("blobs", triage, "--extract-all", folder, "--force")[0] == 0
    assert len(list(folder.iterdir())) == 2


def test_a_blob_that_is_cut_short_gives_what_is_there(run, tmp_path):
    path = tmp_path / "cut.dmp"
    path.write_bytes(triage_dump()[:-100])
    code, _, err = run("blobs", path, "--extract", "2", "--to", tmp_path / "blob")
    assert code == 0
    assert "blob 2 goes on beyond the end of the file" in err
    assert (tmp_path / "blob").read_bytes() == BLOBS[2][1][:100]


def test_blobs_of_a_dump_without_any(run, small, tmp_path):
    code, out, err = run("blobs", small)
    assert (code, out) == (1, "")
    assert "no secondary data" in err
    code, out, _ = run("blobs", small, "--json")
    assert (code, json.loads(out)["blobs"]) == (1, [])
    assert run("blobs", small, "--extract-all", tmp_path / "folder")[0] == 1
    assert not (tmp_path / "folder").exists()


def test_blobs_behind_the_pages(run, run_json, tmp_path):
    image = triage_dump()
    with kdmp.open(image) as dump:
        blobs = image[dump.triage_header["size_of_dump"] :]
    path = tmp_path / "full.dmp"
    path.write_bytes(build(FULL, {1: stamp(1)}) + blobs)
    assert [blob["size"] for blob in run_json("blobs", path)["blobs"]] == [6, 0, 200]
    assert fields(run("info", path)[1])["secondary data"].startswith("3 blobs")


def test_blobs_of_real_dumps(run_json, real):
    path, truth = real
    blobs = run_json("blobs", path)["blobs"]
    assert blobs
    assert not any(blob["truncated"] for blob in blobs)
    assert any("name" in blob for blob in blobs)
    end = blobs[-1]["offset"] + blobs[-1]["size"]
    with open(path, "rb") as file:
        file.seek(end)
        # Up to the end of the sector; what the kernel reserved beyond that keeps what the disk held before.
        assert not any(file.read(-end % 512))
    unused = run_json("info", path)["secondary_data"].get("unused_bytes", 0)
    assert unused == (os.path.getsize(path) - end if truth["build"] == 26100 else 0)


# ---- the other commands ----


def test_dumps_of_pages_have_no_ranges(run, small):
    code, out, err = run("ranges", small)
    assert (code, out) == (1, "")
    assert "only triage dumps" in err


def test_read_crosses_no_hole_silently(run, run_json, triage):
    code, out, err = run("read", triage, f"{STACK + 0xF0:x}", "32")
    assert code == 0
    assert out.splitlines()[0].split()[1:17] == [f"{byte:02x}" for byte in range(0xF0, 0x100)]
    assert out.splitlines()[1].split()[1:17] == ["??"] * 16
    assert "not in this triage dump" in err
    facts = run_json("read", triage, f"{STACK:x}", "256")
    assert facts["segments"][0]["hex"] == bytes(range(256)).hex()
    assert facts["paging"] == "triage"
    assert "dtb" not in facts


def test_read_of_real_dumps(run_json, real):
    path, truth = real
    sample = truth["data_blocks"]["samples"][0]
    facts = run_json("read", path, f"{sample['address']:x}", sample["size"])
    assert hashlib.sha256(bytes.fromhex(facts["segments"][0]["hex"])).hexdigest() == sample["sha256"]


@pytest.mark.parametrize("extra", [["--phys"], ["--dtb", "1000"], ["--paging", "x64"]])
def test_a_triage_dump_has_neither_frames_nor_tables(run, triage, extra):
    code, out, err = run("read", triage, f"{STACK:x}", "8", *extra)
    assert (code, out) == (1, "")
    assert "a triage dump holds no" in err


@pytest.mark.parametrize("command", [["translate", "0"], ["pages"]])
@pytest.mark.parametrize("json_too", [False, True])
def test_what_needs_pages_points_to_ranges(run, triage, command, json_too):
    code, out, err = run(command[0], triage, *command[1:], *(["--json"] if json_too else []))
    assert (code, out) == (1, "")
    assert "virtual ranges" in err
    assert "kdmp ranges" in err


def test_convert_is_refused_with_a_reason(run, triage, tmp_path):
    for kind in ("full", "bitmap", "rdmpA", "raw"):
        code, out, err = run("convert", triage, tmp_path / "out", "--to", kind)
        assert (code, out) == (1, "")
        assert "virtual ranges, not physical pages" in err
    assert list(tmp_path.iterdir()) == []


def test_regs_of_a_processor(run, run_json, triage):
    assert f"rsp={STACK:016x}" in run("regs", triage)[1]
    code, out, err = run("regs", triage, "--cpu", "1")
    assert (code, err) == (0, "")
    assert "rip=000000000000a001 rsp=000000000000b001" in out
    facts = run_json("regs", triage, "--cpu", "0")
    assert (facts["processor"], facts["registers"]["rip"]) == (0, 0xA000)
    assert "exception" not in facts


@pytest.mark.parametrize("number, reason", [(2, "only its control block"), (3, "those of 0, 1")])
def test_a_processor_without_registers(run, triage, number, reason):
    code, out, err = run("regs", triage, "--cpu", number)
    assert (code, out) == (1, "")
    assert f"no registers of processor {number}" in err
    assert reason in err


def test_cpu_needs_a_triage_dump(run, small):
    code, out, err = run("regs", small, "--cpu", "0")
    assert (code, out) == (1, "")
    assert "triage" in err


def test_regs_of_real_dumps(run, run_json, real):
    path, truth = real
    ip = "pc" if truth["arch"] == "arm64" else "rip"
    assert run_json("regs", path)["registers"][ip] == truth["rip_or_pc"]
    processors = run_json("info", path)["triage"]["processors"]
    assert processors
    for processor in processors:
        code, out, _ = run("regs", path, "--cpu", processor["number"])
        assert code == (0 if "ip" in processor else 1)
        assert "ip" not in processor or f"{processor['ip']:016x}" in out


# ---- damage ----


def test_damaged_triage_dumps_give_results_or_messages(run, tmp_path):
    image = triage_dump()
    rng = random.Random(3)
    target = tmp_path / "damaged.dmp"
    outcomes = set()
    for _ in range(80):
        damaged = bytearray(image)
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(*rng.choice([(0xF98, 0x1060), (0x2000, 0x2080), (0x2080, len(image) - 8)]))
            size = rng.choice([1, 2, 4, 8])
            damaged[start : start + size] = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)])
        target.write_bytes(damaged[: rng.choice([len(image), rng.randrange(len(image))])])
        commands = (["info"], ["modules"], ["ranges"], ["blobs"], ["regs", "--cpu", "0"], ["read", "0", "64"])
        for command in commands:
            for extra in ([], ["--json"]):
                code, out, err = run(command[0], target, *command[1:], *extra)
                assert code in (0, 1)
                assert code == 0 or err.startswith("kdmp: ")
                assert not extra or not out or json.loads(out)
                outcomes.add((command[0], code))
    everything = {(name, code) for name in ("info", "modules", "ranges", "blobs", "regs") for code in (0, 1)}
    assert everything <= outcomes
