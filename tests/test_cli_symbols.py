"""`kdmp symbols`: the names of the files to get, what is in use, and the search.

SPDX-License-Identifier: MIT
"""

import json
import lzma

import pytest
import shareddata
from isftables import table

pytest_plugins = ["clifixtures", "isffixtures"]
pytestmark = pytest.mark.usefixtures("isf_cache")

WIN7 = "339E74133576439CBCDF7E0229DA3773"
WIN11 = "0CE4A95C0CD782A7596B034D8648E585"
SERVER = "https://msdl.microsoft.com/download/symbols/"


def lines(text):
    """Label -> value of aligned text."""
    return {
        label.strip(): value.strip() for label, value in (line.split("  ", 1) for line in text.splitlines())
    }


@pytest.mark.parametrize("kind", ["full", "kernel", "rdmpA"])
@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_what_is_needed(run_json, machine, kind):
    truth = shareddata.truth(machine)
    facts = run_json("symbols", shareddata.machine_dump(machine, kind))
    kernel, needed, used = facts["kernel"], facts["needed"], facts["in_use"]
    pdb, guid, age = truth_pdb(truth)
    assert (needed["pdb"], needed["guid"], needed["age"]) == (pdb, guid, age)
    assert needed["known_by"] == "the kernel's image"
    assert needed["symbol_server"] == f"{pdb}/{guid}{age:X}/{pdb}"
    assert needed["windbg"] == needed["symbol_server"].replace("/", "\\")
    assert needed["volatility"] == f"{pdb}/{guid}-{age}.json.xz"
    assert needed["guid_text"] == f"{{{guid[:8]}-{guid[8:12]}-{guid[12:16]}-{guid[16:20]}-{guid[20:]}}}"
    assert needed["symbol_server_image"] == f"ntoskrnl.exe/{kernel['image_id']}/ntoskrnl.exe"
    assert (used["exact"], used["complete"], used["match"]) == (True, False, "pdb GUID+age")
    assert used["structs"] > 150
    assert "path" not in used


def truth_pdb(truth):
    """PDB name, GUID and age of the kernel, as the truth file has them."""
    one = truth["pdb"]
    return one["name"], one["guid"].replace("-", "").strip("{}").upper(), one["age"]


def test_text(run):
    path = shareddata.machine_dump("win7-7601", "full")
    code, out, err = run("symbols", path)
    assert (code, err) == (0, "")
    shown = lines(out)
    assert shown["PDB"] == "ntkrnlmp.pdb (from the kernel's image)"
    assert shown["GUID"] == "{339E7413-3576-439C-BCDF-7E0229DA3773}"
    assert shown["age"] == "1"
    assert shown["symbol server"] == f"{SERVER}ntkrnlmp.pdb/{WIN7}1/ntkrnlmp.pdb"
    assert shown["Volatility"] == f"ntkrnlmp.pdb/{WIN7}-1.json.xz"
    assert shown["kernel"] == "x64 build 7601, version 6.1.7601.24540"
    assert shown["in use"] == "bundled layout of 6.1.7601.24540 x64 (pdb GUID+age)"
    assert shown["exact"] == "yes"
    assert shown["content"].endswith("symbols")


def test_a_symbol_file_is_used(run_json, monkeypatch):
    path = shareddata.machine_dump("win7-7601", "kernel")
    file = shareddata.require("isf", f"{WIN7}-1.json.xz")
    expected = json.loads(lzma.decompress(file.read_bytes()))
    for place in (file, file.parent):
        used = run_json("symbols", path, "--symbols", place)["in_use"]
        assert (used["match"], used["path"], used["exact"], used["complete"]) == (
            "symbol file", str(file), True, True
        )  # fmt: skip
        assert (used["structs"], used["symbols"]) == (len(expected["user_types"]), len(expected["symbols"]))
    monkeypatch.setenv("KDMP_SYMBOLS", str(file.parent))
    assert run_json("symbols", path)["in_use"]["path"] == str(file)


def test_find(run, run_json):
    path = shareddata.machine_dump("win11-22000-pti", "full")
    file = shareddata.require("isf", f"{WIN11}-1.json.xz")
    expected = json.loads(lzma.decompress(file.read_bytes()))["symbols"]
    names = sorted(n for n in expected if n.lower().startswith("kipage") and "fault" in n.lower())
    facts = run_json("symbols", path, "--symbols", file, "--find", "nt!KIPAGE*fault*")
    base = facts["kernel"]["base"]
    assert base == shareddata.truth("win11-22000-pti")["kernel_base"]
    assert facts["symbols"] == [
        {"name": n, "rva": expected[n]["address"], "address": base + expected[n]["address"]} for n in names
    ]
    assert "KiPageFault" in names
    code, out, err = run("symbols", path, "--symbols", file, "--find", "kipagefault")
    assert (code, err) == (0, "")
    rva = expected["KiPageFault"]["address"]
    assert out.split() == ["address", "rva", "name", hex(base + rva), hex(rva), "nt!KiPageFault"]
    code, out, err = run("symbols", path, "--symbols", file, "--find", "no such thing")
    assert (code, out) == (1, "")
    assert "no symbol matches" in err
    assert run_json("symbols", path, "--find", "no such thing", code=1)["symbols"] == []


def test_find_in_the_bundled_table_says_that_it_is_small(run):
    path = shareddata.machine_dump("win7-7601", "full")
    code, out, err = run("symbols", path, "--find", "ps*list*")
    assert code == 0
    assert "nt!PsLoadedModuleList" in out
    assert "only some symbols are known" in err


def test_another_kernels_file_is_refused(run, run_json):
    path = shareddata.machine_dump("win7-7601", "full")
    file = shareddata.require("isf", f"{WIN11}-1.json.xz")
    code, out, err = run("symbols", path, "--symbols", file)
    assert (code, err) == (1, "")
    assert lines(out)["in use"] == "nothing"
    assert f"is ntkrnlmp.pdb {WIN11}-1, not ntkrnlmp.pdb {WIN7}-1" in out
    facts = run_json("symbols", path, "--symbols", file, code=1)
    assert str(file) in facts["problem"]
    assert facts["needed"]["guid"] == WIN7
    assert "in_use" not in facts
    code, out, err = run("symbols", path, "--symbols", file, "--find", "*")
    assert (code, out) == (1, "")
    assert "no symbols" in err
    assert run_json("symbols", path, "--symbols", file.parent)["in_use"]["exact"]
    both = run_json("symbols", path, "--symbols", file, "--symbols", file.parent)
    assert both["in_use"]["path"].endswith(f"{WIN7}-1.json.xz")


def test_damaged_symbol_files_are_named(run, tmp_path):
    path = shareddata.machine_dump("win7-7601", "full")
    file = tmp_path / f"{WIN7}-1.json"
    file.write_text(json.dumps(table())[:-50])
    for place in (file, tmp_path):
        code, out, _ = run("symbols", path, "--symbols", place)
        assert code == 1
        assert str(file) in out


def test_triage_dumps(run, run_json):
    """They have time stamp and size of the kernel only; its PDB is known if the list of kernels has it."""
    known = 0
    for facts in shareddata.triage_index():
        path = shareddata.unpack("triage", facts["file"])
        driver = facts["drivers"][0]
        ours = run_json("symbols", path)
        image_id = f"{driver['timestamp']:08X}{driver['size']:x}"
        assert ours["kernel"]["image_id"] == image_id
        assert ours["kernel"]["base"] == driver["base"]
        assert ours["needed"]["symbol_server_image"] == f"ntoskrnl.exe/{image_id}/ntoskrnl.exe"
        if ours["in_use"]["exact"]:
            known += 1
            assert ours["needed"]["known_by"] == "the list of known kernels, 10.0.19041.804"
            assert ours["needed"]["guid"] == "5278AFF86C341677D7D7835C85B7B844"
        else:
            assert "pdb" not in ours["needed"]
            assert ours["in_use"]["symbols"] == 0
            assert lines(run("symbols", path)[1])["exact"].startswith("no")
    assert known == 1


def test_triage_dump_with_a_symbol_file(run_json):
    path = shareddata.unpack("triage", "triage_x64.dmp.xz")
    folder = shareddata.require("isf")
    used = run_json("symbols", path, "--symbols", folder)["in_use"]
    assert (used["exact"], used["complete"], used["symbols"]) == (True, True, 39832)


def test_dump_without_a_kernel(run, run_json, small):
    facts = run_json("symbols", small, code=1)
    assert "base" not in facts["kernel"]
    assert "needed" not in facts
    assert facts["problem"]
    code, out, _ = run("symbols", small)
    assert code == 1
    assert lines(out)["base"] == "not found"
