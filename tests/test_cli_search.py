"""`kdmp search` and `kdmp strings`.

SPDX-License-Identifier: MIT
"""

import csv
import io
import json
import shutil
import subprocess

import pytest
import shareddata
from clidumps import VA, small_dump
from conftest import KERNEL_VA
from test_leaks import small_triage

import kdmp

pytest_plugins = ["clifixtures"]

KERNEL_DUMP = b"kernel dump"


@pytest.fixture(scope="module")
def triage(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "triage.dmp"
    path.write_bytes(small_triage())
    return path


@pytest.fixture(scope="module")
def machine():
    return str(shareddata.machine_dump("win10-19041", "full"))


@pytest.fixture(scope="module")
def truth():
    return shareddata.truth("win10-19041")


def offset_of(path, pa):
    with kdmp.open(path) as dump:
        return next(dump.phys.extents(pa, pa)).offset


# ---- search ----


def test_text(run, small):
    code, out, err = run("search", small, "kernel dump")
    assert (code, err) == (0, "")
    where = offset_of(small, 0xA000)
    assert out.split(maxsplit=2) == ["0x0000a000", f"{where:#x}", "kernel dump       kernel dump\n"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--text", "kernel dump"],
        ["--hex", "6b 65 ?? 6? 65 6c"],
        ["--regex", "k[a-z]+ dump"],
        ["--regex", "K[A-Z]+ DUMP", "--ignore-case"],
        ["KERNEL dump", "--ignore-case"],
        ["--pointer", hex(int.from_bytes(KERNEL_DUMP[:8], "little"))],
        ["--pointer", "6400000000000000-65ffffffffffffff"],
        ["--hex", "6b", "--align", "0x1000"],
        ["kernel", "--start", "a000", "--last", "a000"],
        ["kernel", "--order", "file"],
        ["kernel", "--threads", "2"],
        ["dump", "kernel", "--limit", "1"],
    ],
    ids=" ".join,
)
def test_forms(arguments, run_json, small):
    document = run_json("search", small, *arguments)
    assert document["space"] == "physical"
    (match,) = document["matches"]
    assert match["address"] == match["pa"] == 0xA000
    assert match["offset"] == offset_of(small, 0xA000)
    assert KERNEL_DUMP.startswith(bytes.fromhex(match["data"]))


def test_several(run_json, small):
    matches = run_json("search", small, "dump", "kernel", "--hex", "6c61726765")["matches"]
    assert [(match["pa"], match["what"], match["number"]) for match in matches] == [
        (0xA000, "kernel", 1),
        (0xA007, "dump", 0),
        (0x40_0000, "6c61726765", 2),
    ]


def test_virtual(run, run_json, small):
    for space in (["--virtual"], ["--dtb", "1000"], ["--paging", "x64"]):
        document = run_json("search", small, "kernel", *space)
        assert (document["space"], document["dtb"], document["paging"]) == ("virtual", 0x1000, "x64")
        assert [(match["va"], match["pa"]) for match in document["matches"]] == [(VA, 0xA000)]
    code, out, _ = run("search", small, "kernel", "--virtual")
    assert code == 0
    assert out.startswith(f"{VA:#018x}  ")


def test_nothing(run, run_json, small):
    assert run("search", small, "no such text") == (1, "", "")
    assert run_json("search", small, "no such text", code=1)["matches"] == []


def test_context(run, run_json, small):
    code, out, _ = run("search", small, "kernel", "--context", "8")
    assert code == 0
    lines = out.splitlines()
    assert lines[1].startswith("00009ff8  ?? ?? ?? ?? ?? ?? ?? ?? 6b 65 72 6e 65 6c 20 64")
    (match,) = run_json("search", small, "kernel", "--context", "8")["matches"]
    assert match["context"]["address"] == 0x9FF8
    assert bytes.fromhex(match["context"]["data"])[8:] == KERNEL_DUMP + bytes(3)
    assert match["context"]["holes"] == [{"address": 0x9FF8, "size": 8}]


def test_csv(run, small):
    code, out, _ = run("search", small, "kernel", "dump", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["address"], row["what"], row["data"]) for row in rows] == [
        ("0xa000", "kernel", b"kernel".hex()),
        ("0xa007", "dump", b"dump".hex()),
    ]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "what to look for"),
        (["--hex", "4"], "not hexadecimal"),
        (["--hex", "??"], "everywhere"),
        (["--regex", "("], "regex"),
        (["--pointer", "9-5"], "range of pointers"),
        (["--pointer", "xyz"], "not an address"),
        ([""], "1 to"),
        (["a", "--align", "3"], "power of two"),
        (["a", "--json", "--csv"], "exclude"),
        (["a", "--physical", "--dtb", "1000"], "--physical"),
        (["a", "--virtual", "--pid", "4"], "--pid"),
        (["a", "--virtual", "--order", "file"], "--order"),
        (["a", "--start", "9", "--last", "5"], "--last"),
        (["a", "--threads", "0"], "--threads"),
        (["a", "--context", "5", "--csv"], "--context"),
        (["a", "--yara", "x.yar"], "--yara"),
    ],
    ids=str,
)
def test_usage(arguments, said, run, small):
    code, out, err = run("search", small, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_triage_search(run, run_json, triage):
    document = run_json("search", triage, "block")
    assert document["paging"] == "triage"
    assert [match["va"] for match in document["matches"]][:2] == [KERNEL_VA, KERNEL_VA + 5]
    assert all("pa" not in match for match in document["matches"])
    code, _, err = run("search", triage, "block", "--physical")
    assert code == 1 and "no physical pages" in err
    code, _, err = run("search", triage, "block", "--pid", "4")
    assert code == 1 and "no address spaces" in err


def test_yara(run, run_json, small, tmp_path):
    pytest.importorskip("yara_x")
    rules = tmp_path / "rules.yar"
    rules.write_text('rule dump { strings: $d = "dump" condition: $d }')
    (match,) = run_json("search", small, "--yara", str(rules))["matches"]
    assert (match["pa"], match["rule"], match["pattern"], match["what"]) == (0xA007, "dump", "$d", "dump $d")
    code, out, _ = run("search", small, "--yara", str(rules))
    assert code == 0 and "dump $d" in out
    rules.write_text("rule broken {")
    code, _, err = run("search", small, "--yara", str(rules))
    assert code == 2 and "do not compile" in err
    code, _, err = run("search", small, "--yara", str(tmp_path / "missing.yar"))
    assert code == 1 and "missing.yar" in err


# ---- whose memory ----


def test_owner_of_a_frame(run_json, machine, truth):
    process = next(p for p in truth["processes"] if p["peb"] and not p["exited"] and not p["hidden"])
    document = run_json("search", machine, process["image_file_name"], "--owner")
    owners = [owner for match in document["matches"] for owner in match["owners"]]
    assert process["pid"] in {owner.get("pid") for owner in owners}
    with kdmp.open(machine) as dump:
        for match in document["matches"]:
            for owner in match["owners"]:
                reader = dump.windows.process(owner["pid"]).reader if "pid" in owner else dump.reader()
                assert reader.translate(owner["va"]).pa == match["pa"]


def test_owners_that_are_not_known_are_told(run, machine, monkeypatch):
    monkeypatch.setattr("kdmp.ownership._MOST_PLACES", 5)
    for command in (["search", machine, "lsass.exe"], ["strings", machine, "-n", "20"]):
        code, _, err = run(*command, "--owner", "--limit", "3")
        assert code == 0
        assert "owners that are not shown" in err
        assert run(*command, "--limit", "3")[2] == ""


def test_owner_is_a_module(run, run_json, machine, truth):
    module = truth["modules"][0]
    with kdmp.open(machine) as dump:
        head = dump.reader().read(module["base"], 64)
    document = run_json("search", machine, "--hex", head.hex(), "--virtual", "--owner")
    names = {owner.get("name") for match in document["matches"] for owner in match["owners"]}
    assert f"{module['name']}+0x0" in names
    code, out, _ = run("search", machine, "--hex", head.hex(), "--owner")
    assert code == 0
    assert f"{module['name']}+0x0" in out


def test_process(run_json, run, machine, truth):
    process = next(p for p in truth["processes"] if p["modules"] and not p["exited"] and not p["hidden"])
    document = run_json(
        "search", machine, "--hex", "4d5a", "--pid", process["pid"], "--owner", "--align", "4K"
    )
    assert document["pid"] == process["pid"]
    found = {match["va"]: match["owners"][0] for match in document["matches"]}
    with kdmp.open(machine) as dump:
        reader = dump.windows.process(process["pid"]).reader
        bases = [one["base"] for one in process["modules"] if reader.read(one["base"], 2) == b"MZ"]
    assert bases
    for base in bases:
        assert found[base]["pid"] == process["pid"]
    name = process["image_file_name"]
    assert run("search", machine, "MZ", "--name", name)[0] == (0 if _only(truth, name) else 1)


def _only(truth, name):
    return sum(process["image_file_name"] == name for process in truth["processes"]) == 1


# ---- strings ----


def test_strings(run, small):
    code, out, err = run("strings", small)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["0x0000a000 a kernel dump", '0x0000aff9 a wfUD3"', "0x00400000 a large"]
    code, out, _ = run("strings", small, "-n", "11")
    assert out == "0x0000a000 a kernel dump\n"
    assert run("strings", small, "-n", "12") == (1, "", "")
    assert run("strings", small, "-e", "l") == (1, "", "")


@pytest.mark.parametrize("radix", "xdo")
def test_strings_radix(radix, run, small):
    code, out, _ = run("strings", small, "-t", radix, "-e", "s", "-n", "11")
    assert code == 0
    assert out == f"{format(offset_of(small, 0xA000), radix):>7} kernel dump\n"


def test_strings_as_gnu_strings_has_them(run, machine, tmp_path):
    if shutil.which("strings") is None:
        pytest.skip("no GNU strings")
    theirs = subprocess.run(
        ["strings", "-n", "6", "-t", "d", "-e", "s", machine], capture_output=True, check=True
    ).stdout.decode("latin-1").splitlines()  # fmt: skip
    code, out, _ = run("strings", machine, "-n", "6", "-t", "d", "-e", "s", "--order", "file")
    assert code == 0
    with kdmp.open(machine) as dump:
        begin = min(run.file_offset for run in dump.pages.runs())
    # Theirs has the header, too, and texts that go over the edges of runs of frames.
    ours = set(out.splitlines())
    behind = {line for line in theirs if int(line.split(maxsplit=1)[0]) >= begin}
    assert len(behind - ours) <= len(behind) // 100
    assert len(ours - behind) <= len(ours) // 100
    assert len(ours) > 100


def test_strings_json_and_csv(run, run_json, small):
    document = run_json("strings", small, "-n", "11")
    assert document["strings"] == [
        {"address": 0xA000, "pa": 0xA000, "offset": offset_of(small, 0xA000), "size": 11, "encoding": "ascii",
         "text": "kernel dump"},
    ]  # fmt: skip
    code, out, _ = run("strings", small, "-n", "11", "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert (row["address"], row["encoding"], row["text"]) == ("0xa000", "ascii", "kernel dump")
    assert run_json("strings", small, "-n", "100", code=1)["strings"] == []


def test_strings_of_a_space(run, small):
    code, out, _ = run("strings", small, "--virtual", "-n", "5")
    assert code == 0
    assert out.splitlines()[0] == f"{VA:#018x} a kernel dump"
    code, out, _ = run("strings", small, "--start", "400000", "--last", "400000")
    assert out == "0x00400000 a large\n"


def test_strings_with_owner(run, machine, truth):
    process = next(p for p in truth["processes"] if p["command_line"] and not p["exited"] and not p["hidden"])
    code, out, _ = run("strings", machine, "--owner", "-e", "l", "-n", "8")
    assert code == 0
    lines = [line for line in out.splitlines() if process["command_line"] in line]
    assert any(f" {process['pid']} " in line for line in lines)
    code, out, _ = run("strings", machine, "--pid", process["pid"], "--owner", "-e", "l", "-n", "8")
    assert code == 0
    assert process["command_line"] in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["-n", "0"], "--min-length"),
        (["-t", "x", "--json"], "--radix"),
        (["--physical", "--virtual"], "--physical"),
        (["--json", "--csv"], "exclude"),
    ],
    ids=str,
)
def test_strings_usage(arguments, said, run, small):
    code, out, err = run("strings", small, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_control_characters_stay_out_of_the_terminal(run, tmp_path):
    image = bytearray(small_dump())
    at = image.index(b"kernel dump")
    image[at : at + 11] = "k\x9b\xa0é\xadüöäß".encode("utf-16-le")[:11]
    path = tmp_path / "odd.dmp"
    path.write_bytes(image)
    for arguments in (["strings", path, "-n", "2"], ["search", path, "--hex", "6b00"]):
        _, out, _ = run(*arguments)
        assert all(char == "\n" or char.isprintable() for char in out)


def test_listing_is_one_document(capsys):
    from kdmp.cli.output import Output

    for items in ([], [{"a": 1}], [{"a": 1}, {"b": b"\x01"}]):
        Output().listing({"file": "x"}, "items", iter(items))
        document = json.loads(capsys.readouterr().out)
        assert document == {"file": "x", "items": [{"a": 1}, {"b": "01"}][: len(items)]}
