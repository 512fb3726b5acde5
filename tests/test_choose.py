"""Which layout a kernel is read by: exact, of the same build, of one nobody knows; never a wrong one.

SPDX-License-Identifier: MIT
"""

import functools
import random
import subprocess
import sys

import patcheddump
import pytest
import shareddata

import kdmp
from kdmp.symbols import SymbolError, SymbolNotFoundError
from kdmp.symbols.layouts import Catalogue, known_builds
from kdmp.symbols.structs import Match
from kdmp.windows.choose import choose_layout, exact_layout
from kdmp.windows.derive import derived_facts, kdbg_facts, process_facts, thread_facts
from kdmp.windows.kdbg import find_kdbg
from kdmp.windows.lists import walk_list
from kdmp.windows.verify import check_processes

MACHINES = shareddata.MACHINES
NUMBER = {"win7-7601": 7601, "win10-19041": 19041, "win10-19041-damaged": 19041, "win11-22000-pti": 22000}
KINDS = shareddata.KINDS


@pytest.fixture(scope="module", autouse=True)
def cache_home(tmp_path_factory):
    """A cache folder of the module's own, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setenv("LOCALAPPDATA", str(home))
        patch.delenv("KDMP_SYMBOLS", raising=False)
        yield home


@functools.cache
def without_exact(machine):
    """The bundled layouts but that of the machine's own build."""
    guid = shareddata.truth(machine)["pdb"]["guid"]
    return Catalogue(keep=lambda build: build.guid != guid)


@functools.cache
def without_number(number):
    """The bundled layouts but those of a build number."""
    return Catalogue(keep=lambda build: build.number != number)


def listed(machine):
    """Pid and name of each process in the list, from the truth; broken links repaired."""
    processes = shareddata.truth(machine)["processes"]
    return sorted((p["pid"], p["image_file_name"]) for p in processes if not p["hidden"])


def walked(dump, layout):
    """The same, read by a layout."""
    reader = dump.reader(discover=False)
    found = []
    for link in walk_list(reader, dump.ps_active_process_head, 8).links:
        process = link - layout.offset("_EPROCESS", "ActiveProcessLinks")
        pid = reader.read_u64(process + layout.offset("_EPROCESS", "UniqueProcessId"))
        name = reader.read(process + layout.offset("_EPROCESS", "ImageFileName"), 15)
        found.append((pid, name.rstrip(b"\0").decode("utf-8", "replace")))
    return sorted(found)


def chosen(dump, catalogue):
    """The layout, None if there is none."""
    try:
        return choose_layout(dump, catalogue=catalogue)
    except SymbolError:
        return None


def opened(machine, kind="full"):
    return kdmp.open(shareddata.machine_dump(machine, kind))


def patched(machine, kind="full"):
    return patcheddump.Patched(shareddata.machine_dump(machine, kind))


# ---- the order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_very_build(machine, kind):
    with opened(machine, kind) as dump:
        layout = choose_layout(dump)
        assert layout.source.match is Match.PDB
        assert layout.source.verified
        assert layout.build.guid == shareddata.truth(machine)["pdb"]["guid"]
        assert dump.structure_layout.build == layout.build == exact_layout(dump, dump.kernel).build
        assert walked(dump, layout) == listed(machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_headers_not_in_the_dump(machine):
    """The loader's entry has time stamp and size, from Windows 10 on."""
    patch = patched(machine)
    patch.unmap(shareddata.truth(machine)["kernel_base"])
    with patch.open() as dump:
        layout = choose_layout(dump)
        build = exact_layout(dump, dump.kernel)
        own = next(b for b in known_builds() if b.guid == shareddata.truth(machine)["pdb"]["guid"])
        if (
            own.timestamp is not None
            and own.timestamp == shareddata.truth(machine)["modules"][0]["timestamp"]
        ):
            assert build is None or build.build == own
        assert walked(dump, layout) == listed(machine)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_its_build_left_out(machine, kind):
    with opened(machine, kind) as dump:
        layout = chosen(dump, without_exact(machine))
        if machine == "win7-7601":
            assert layout is None  # there is no other of 7601
            return
        assert layout.source.match is Match.REVISION
        assert layout.build.number == NUMBER[machine]
        assert walked(dump, layout) == listed(machine)
        assert "38 of 38 known offsets agree" in str(layout.source)
        assert ("14 processes read by it" in str(layout.source)) == (machine != "win10-19041-damaged")
        assert layout.source.verified
        assert not layout.symbols
        with pytest.raises(SymbolNotFoundError):
            layout.symbol("PsActiveProcessHead")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_its_build_number_left_out(machine, kind):
    pdb = shareddata.truth(machine)["pdb"]
    with opened(machine, kind) as dump:
        exact = choose_layout(dump)
        catalogue = without_number(NUMBER[machine])
        if machine in ("win7-7601", "win10-19041-damaged"):  # nothing like it; the list is broken
            with pytest.raises(SymbolError, match=f"{pdb['guid']}-{pdb['age']}") as error:
                choose_layout(dump, catalogue=catalogue)
            assert error.value.pdb == f"{pdb['name']} {pdb['guid']}-{pdb['age']}"
            return
        layout = choose_layout(dump, catalogue=catalogue)
        assert layout.source.match is Match.VERIFIED
        assert layout.source.verified
        assert not layout.source.exact
        assert not layout.source.same_build
        assert "verified against the dump" in str(layout.source)
        assert walked(dump, layout) == listed(machine)
        # All that is left of it is right, and what rests on bit fields is left out.
        for name in layout.structs:
            for field in layout.struct(name):
                assert field.type.kind != "bits", (name, field.path)
                if exact.has(name, field.path):
                    assert exact.offset(name, field.path) == field.offset, (name, field.path)
        assert layout.size("_EPROCESS") == exact.size("_EPROCESS")
        assert not layout.has("_EPROCESS", "Token")
        assert not layout.symbols


def test_only_one_build_known():
    """Layouts of any single build: the right list or none."""
    sets = {build.layout_set: build for build in known_builds() if build.arch == "x64"}
    for machine in ("win7-7601", "win11-22000-pti"):
        with opened(machine, "kernel") as dump:
            expected = listed(machine)
            for only in sets.values():
                layout = chosen(dump, Catalogue(keep=lambda build, only=only: build == only))
                assert layout is None or walked(dump, layout) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_the_list_of_processes_is_no_witness_for_a_wrong_layout(machine):
    sets = {build.layout_set: build for build in known_builds() if build.arch == "x64"}
    core = ("ActiveProcessLinks", "UniqueProcessId", "ImageFileName", "InheritedFromUniqueProcessId")
    with opened(machine) as dump:
        exact = choose_layout(dump)
        reader = dump.reader()
        verdicts = set()
        for build in sets.values():
            layout = Catalogue().layout(build)
            verdict = check_processes(dump, reader, layout, [dump.ps_active_process_head])
            same = all(layout.offset("_EPROCESS", name) == exact.offset("_EPROCESS", name) for name in core)
            assert same or not verdict.right, (build, verdict)
            verdicts.add(verdict.right)
        assert verdicts == {None if machine == "win10-19041-damaged" else True, False}


# ---- what the dump says against it


def test_what_contradicts_is_left_out():
    """The right build number, but one offset in the debugger data block is another: that member goes."""
    truth = shareddata.truth("win10-19041")
    patch = patched("win10-19041")
    patch.put(truth["kdbg"]["address"] + 0x2AA, (0x558).to_bytes(2, "little"))  # OffsetEprocessPeb
    with patch.open() as dump:
        layout = choose_layout(dump, catalogue=without_exact("win10-19041"))
        assert layout.source.match is Match.REVISION
        assert "37 of 38" in str(layout.source)
        assert not layout.has("_EPROCESS", "Peb")
        assert walked(dump, layout) == listed("win10-19041")
        assert chosen(dump, without_number(19041)) is None


@pytest.mark.parametrize("damage", ["head", "system", "links", "name", "pid"])
def test_an_unknown_build_needs_a_sound_list(damage):
    truth = shareddata.truth("win10-19041")
    patch = patched("win10-19041")
    system = truth["processes"][0]["eprocess"]
    other = truth["processes"][5]["eprocess"]
    if damage == "head":
        patch.put_u64(truth["symbols"]["PsActiveProcessHead"], 0)
    elif damage == "system":
        patch.put(system + 0x5A8, b"Smytes")
    elif damage == "links":
        patch.put_u64(other + 0x448, other + 0x448)
    elif damage == "name":
        patch.put(other + 0x5A8, b"\1\2\3")
    else:
        patch.put_u64(other + 0x440, 4)
    with patch.open() as dump:
        assert chosen(dump, without_number(19041)) is None
        # With layouts of the build number at hand damage is no reason to give up.
        if damage != "system":
            assert chosen(dump, without_exact("win10-19041")).source.match is Match.REVISION


@pytest.mark.parametrize("number", [0, 9600, 12345, 17763, 20348, 22000, 26100, 0xFFFFFFFF])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_header_that_lies_about_the_build(machine, number):
    patch = patched(machine)
    patch.header("build", number)
    with patch.open() as dump:
        layout = chosen(dump, without_exact(machine))
        assert layout is None or walked(dump, layout) == listed(machine)
        if machine == "win10-19041" and number != 0:
            # Everything fits one of 19041, whatever the header says.
            assert layout.source.match is Match.VERIFIED
            assert layout.build.number == 19041
            assert layout.has("_EPROCESS", "Token")


@pytest.mark.parametrize("machine", ["win10-19041", "win11-22000-pti"])
def test_mutations_never_give_a_wrong_list(machine):
    truth = shareddata.truth(machine)
    address, size = truth["kdbg"]["address"], truth["kdbg"]["size"]
    with opened(machine, "kernel") as dump:
        plain = find_kdbg(dump).raw
    rng = random.Random(machine)
    expected, answers = listed(machine), set()
    for turn in range(24):
        data = bytearray(plain)
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(0x298, 0x308, 2) if rng.random() < 0.7 else rng.randrange(0x10, size - 8)
            data[at : at + 2] = rng.choice((bytes(2), b"\xff\xff", rng.randbytes(2), b"\x50\x05"))
        patch = patched(machine, "kernel")
        patch.put(address, bytes(data))
        with patch.open() as dump:
            catalogue = without_exact(machine) if turn % 2 else without_number(NUMBER[machine])
            layout = chosen(dump, catalogue)
            answers.add(layout is None)
            assert layout is None or walked(dump, layout) == expected
    assert answers == {True, False}


def test_nothing_to_go_by():
    patch = patched("win10-19041")
    for field in ("kd_debugger_data_block", "ps_active_process_head", "ps_loaded_module_list"):
        patch.header(field, patcheddump.ABSENT)
    patch.header("context", bytes(0x4D0))
    with patch.open() as dump:
        assert dump.kernel is None
        # The build number alone: the newest layout of it, unverified and saying so.
        layout = choose_layout(dump)
        assert (layout.source.match, layout.source.verified) == (Match.REVISION, False)
        with pytest.raises(SymbolError, match="build 19041 x64"):
            choose_layout(dump, catalogue=without_number(19041))


# ---- triage dumps


def triage_dumps():
    for entry in shareddata.triage_index():
        yield entry, shareddata.unpack("triage", entry["file"])


def test_triage_dumps_by_time_stamp_and_size():
    matches = {}
    for entry, path in triage_dumps():
        with kdmp.open(path) as dump:
            layout = choose_layout(dump)
            assert layout.build.number == entry["build"]
            assert layout.arch == entry["arch"]
            assert layout.source.verified
            facts = derived_facts(dump, dump.reader(), find_kdbg(dump))
            assert {"UniqueProcessId", "ImageFileName", "CreateTime", "Cid"} <= {name for _, name in facts}
            assert not layout.disagreements(facts)
            copy = dump.triage.process
            at = layout.offset("_EPROCESS", "UniqueProcessId")
            name = layout.offset("_EPROCESS", "ImageFileName")
            assert int.from_bytes(copy[at : at + 8], "little") == entry["process"]["pid"]
            assert copy[name : name + 15].rstrip(b"\0").decode() == entry["process"]["name"]
            matches[entry["file"]] = layout.source
    assert matches["triage_x64.dmp.xz"].match is Match.IMAGE
    assert matches["rtech_9f.dmp.xz"].wanted == "10.0.19041.5247"
    assert matches["rtech_1a.dmp.xz"].wanted == "10.0.26100.2314"


def test_triage_dumps_of_unknown_builds():
    """The copy of the process shows whether a layout fits; members that it does not vouch for are gone."""
    for entry, path in triage_dumps():
        with kdmp.open(path) as dump:
            layout = chosen(dump, without_number(entry["build"]))
            if layout is None:
                continue
            assert layout.source.match is Match.VERIFIED
            copy, at = dump.triage.process, layout.offset("_EPROCESS", "UniqueProcessId")
            assert int.from_bytes(copy[at : at + 8], "little") == entry["process"]["pid"]
            assert not layout.has("_EPROCESS", "Token")


def test_sizes_of_the_dump_replace_those_of_another_revision():
    for entry, path in triage_dumps():
        with kdmp.open(path) as dump:
            kdbg, layout = find_kdbg(dump), choose_layout(dump)
            assert layout.size("_EPROCESS") == kdbg.SizeEProcess
            assert layout.size("_ETHREAD") == kdbg.SizeEThread
            assert not layout.disagreements(
                {fact: value for fact, value in kdbg_facts(kdbg).items() if fact[1]}
            ), entry["file"]


# ---- what a dump gives away


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_derived_offsets_are_right(machine, kind):
    with opened(machine, kind) as dump:
        layout = choose_layout(dump)
        facts = derived_facts(dump, dump.reader(), find_kdbg(dump))
        assert facts["_EPROCESS", "ImageFileName"] == layout.offset("_EPROCESS", "ImageFileName")
        assert layout.disagreements(facts) == []
        assert len(facts) >= 3
        facts = kdbg_facts(find_kdbg(dump))
        assert layout.disagreements(facts) == []
        assert len(facts) > 25


def test_garbage_gives_nothing_away():
    rng = random.Random(3)
    for width in (4, 8):
        for data in (b"", b"a", bytes(0x900), b"\xff" * 0x900, b"A" * 0x900, b"AAA\0" * 0x300):
            assert process_facts(data, width) == {}
            assert thread_facts(data, width) == {}
        for _ in range(200):
            data = rng.randbytes(rng.randrange(0xA00))
            facts = process_facts(data, width) | thread_facts(data, width)
            assert all(0 <= at < len(data) for at in facts.values())


# ---- symbol files of the user's


@pytest.mark.parametrize("machine", ["win7-7601", "win10-19041-damaged", "win11-22000-pti"])
def test_a_symbol_file_of_the_user(machine, monkeypatch, tmp_path):
    pdb = shareddata.truth(machine)["pdb"]
    folder = shareddata.require("isf")
    file = shareddata.require("isf", f"{pdb['guid']}-{pdb['age']}.json.xz")
    path = shareddata.machine_dump(machine, "kernel")
    with kdmp.open(path) as dump:
        for places in (folder, file, [tmp_path, folder]):
            layout = choose_layout(dump, places=places, catalogue=without_number(NUMBER[machine]))
            assert layout.source.match is Match.ISF
            assert layout.exact
            assert walked(dump, layout) == listed(machine)
    with kdmp.open(path, symbols=file) as dump:
        assert choose_layout(dump).source.match is Match.ISF
        assert dump.structure_layout.source.match is Match.ISF
    monkeypatch.setenv("KDMP_SYMBOLS", str(folder))
    with kdmp.open(path) as dump:
        assert choose_layout(dump).source.match is Match.ISF


def test_a_symbol_file_that_does_not_fit(monkeypatch, tmp_path):
    other = shareddata.require("isf", "339E74133576439CBCDF7E0229DA3773-1.json.xz")  # of 7601
    path = shareddata.machine_dump("win10-19041", "kernel")
    with kdmp.open(path, symbols=other) as dump, pytest.raises(SymbolError, match="339E74133576439CBC"):
        choose_layout(dump)
    # In the environment it is one place among others.
    bad = tmp_path / "84A84F4D2218BC053913B1204942618D-1.json"
    bad.write_text("{")
    monkeypatch.setenv("KDMP_SYMBOLS", str(tmp_path))
    with kdmp.open(path) as dump:
        assert choose_layout(dump).source.match is Match.PDB
    # Of a kernel without a name the file has to fit what the dump tells.
    patch = patched("win10-19041", "kernel")
    patch.unmap(shareddata.truth("win10-19041")["kernel_base"])
    with patch.open() as dump:
        if dump.kernel.image.guid is None and exact_layout(dump, dump.kernel) is None:
            with pytest.raises(SymbolError, match="is not of this kernel"):
                choose_layout(dump, places=[other])
            fitting = shareddata.require("isf", "5278AFF86C341677D7D7835C85B7B844-1.json.xz")  # 19041.804
            layout = choose_layout(dump, places=[fitting])
            assert (layout.source.match, layout.exact) == (Match.ISF, False)
            assert walked(dump, layout) == listed("win10-19041")


# ---- cheap


def test_readers_stay_cheap(cache_home):
    """What a reader needs of a kernel that was seen before is looked up, not chosen again."""
    path = shareddata.machine_dump("win10-19041", "kernel")
    code = (
        "import sys, kdmp\n"
        f"with kdmp.open({str(path)!r}) as dump:\n"
        "    dump.reader()\n"
        "print(*sorted({'lzma', 'kdmp.windows.choose', 'kdmp.symbols.layouts', 'kdmp.symbols.isf'}"
        " & sys.modules.keys()))\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert runs[1] == []
