"""Bundled structure layouts: against complete symbol files, how one is chosen, and the cache.

SPDX-License-Identifier: MIT
"""

import json
import lzma
import os
import pickle
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import pytest
import shareddata

from kdmp import KdmpError
from kdmp.symbols import FieldNotFoundError, SymbolError, SymbolNotFoundError, TypeNotFoundError
from kdmp.symbols import cache as disk
from kdmp.symbols.layouts import DATA, Catalogue, Kernel, Match, bundled, candidates, find, known_builds
from kdmp.symbols.structs import LayoutSource
from kdmp.symbols.types import parse_type

ISF = {
    "339E74133576439CBCDF7E0229DA3773": "6.1.7601.24540",
    "5278AFF86C341677D7D7835C85B7B844": "10.0.19041.804",
    "0CE4A95C0CD782A7596B034D8648E585": "10.0.22000.2538",
}
GUID = "5278AFF86C341677D7D7835C85B7B844"  # 10.0.19041.804


@pytest.fixture(scope="module", autouse=True)
def cache_home(tmp_path_factory):
    """A cache folder of the module's own, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setenv("LOCALAPPDATA", str(home))
        yield home


def version(text):
    return next(build for build in known_builds() if build.version == text)


# --- against the complete symbol files ---------------------------------------------------------------------


class Isf:
    """A Volatility symbol table, read the slow and obvious way."""

    def __init__(self, guid):
        path = shareddata.require("isf", f"{guid}-1.json.xz")
        self.data = json.loads(lzma.decompress(path.read_bytes()))

    def size(self, kind):
        """Bytes that a value of a type takes."""
        match kind["kind"]:
            case "base":
                return self.data["base_types"][kind["name"]]["size"]
            case "pointer":
                return 8
            case "struct" | "union" | "class":
                return self.data["user_types"][kind["name"]]["size"]
            case "array":
                return kind["count"] * self.size(kind["subtype"])
            case "enum":
                return self.size({"kind": "base", "name": self.data["enums"][kind["name"]]["base"]})
            case "bitfield":
                return self.size(kind["type"])
            case "function":
                return 8
        raise AssertionError(kind)

    def member(self, struct, path):
        """Offset and type of a member, going through unnamed structures by the dots of the path."""
        offset = 0
        for part in path.split("."):
            field = self.data["user_types"][struct]["fields"][part]
            offset += field["offset"]
            struct = field["type"].get("name")
        return offset, field["type"]


@cache
def isf(guid):
    return Isf(guid)


KINDS = {"pointer": "pointer", "array": "array", "enum": "enum", "bitfield": "bits"}


@pytest.mark.parametrize("guid", ISF)
def test_every_member_is_where_the_symbol_file_has_it(guid):
    table, layout = isf(guid), find(guid, 1)
    assert layout.build.version == ISF[guid]
    members = 0
    for name in layout.structs:
        struct = layout.struct(name)
        assert struct.size == table.data["user_types"][name]["size"], name
        for field in struct:
            offset, kind = table.member(name, field.path)
            where = name, field.path
            assert field.offset == offset, where
            assert field.size == table.size(kind), where
            expected = KINDS.get(kind["kind"])
            assert expected is None or field.type.kind == expected, where
            if kind["kind"] == "bitfield":
                assert (field.bit_start, field.bit_width) == (kind["bit_position"], kind["bit_length"]), where
            else:
                assert field.bit_start is None, where
                assert field.bit_width is None, where
            members += 1
    assert members > 2500
    assert len(layout.structs) > 150


@pytest.mark.parametrize("guid", ISF)
def test_enumerations_and_addresses_are_those_of_the_symbol_file(guid):
    table, layout = isf(guid), find(guid, 1)
    for name in layout.enums:
        theirs = table.data["enums"][name]["constants"]
        assert dict(layout.enum(name)) == {key: theirs[key] for key in layout.enum(name)}, name
    for name, address in layout.symbols.items():
        assert table.data["symbols"][name]["address"] == address, name
    assert len(layout.symbols) > 90


@pytest.mark.parametrize("guid", ISF)
def test_nested_paths_add_up(guid):
    table, layout = isf(guid), find(guid, 1)
    for struct, path in (
        ("_EPROCESS", "Pcb.DirectoryTableBase"),
        ("_ETHREAD", "Tcb.ApcState.Process"),
        ("_EPROCESS", "Pcb.Header.SignalState"),
        ("_MMPFN", "OriginalPte.u.Long"),
        ("_KPCR", "Prcb.CurrentThread"),
    ):
        assert layout.offset(struct, path) == table.member(struct, path)[0], path
    field = layout.field("_MMPFN", "OriginalPte.u.Soft.PageFileHigh")
    assert (field.path, field.bit_start, field.bit_width) == ("OriginalPte.u.Soft.PageFileHigh", 32, 32)


def test_all_builds_unpack():
    """Each build's structures can be read as a whole, and every type in them parses."""
    seen = set()
    for build in known_builds():
        if build.layout_set in seen:
            continue
        seen.add(build.layout_set)
        layout = bundled().layout(build)
        for name in layout.structs:
            struct = layout.struct(name)
            for field in struct:
                assert field.offset >= 0
                if struct.size is not None and field.size is not None:
                    assert field.offset + field.size <= struct.size, (str(build), name, field)
    assert len(seen) > 60


# --- lookups -----------------------------------------------------------------------------------------------


def test_known_values():
    layout = find(GUID, 1)
    assert layout.offset("_EPROCESS", "UniqueProcessId") == 0x440
    assert layout.offset("_EPROCESS", "ActiveProcessLinks") == 0x448
    assert layout.offset("_EPROCESS", "Pcb.DirectoryTableBase") == 0x28
    assert layout.size("_EPROCESS") == 0xA40
    assert layout.struct("_LIST_ENTRY").size == 16
    assert layout.enum("_MMLISTS")["ActiveAndValid"] == 6
    flags = layout.field("_MMVAD_FLAGS", "Protection")
    assert (flags.offset, flags.bit_start, flags.bit_width, flags.size) == (0, 7, 5, 4)
    assert layout.has("_EPROCESS", "Token")
    assert not layout.has("_EPROCESS", "Nonsense")
    assert not layout.has("_NONSENSE")
    assert "_EPROCESS" in layout
    assert len(layout.struct("_LIST_ENTRY")) == 2


def test_types_of_members():
    layout = find(GUID, 1)
    name = layout.field("_EPROCESS", "ImageFileName")
    assert (name.type.kind, name.type.count, name.size, str(name.type)) == ("array", 15, 15, "u1[15]")
    links = layout.field("_EPROCESS", "ActiveProcessLinks")
    assert (links.type.kind, links.type.name, links.size) == ("struct", "_LIST_ENTRY", 16)
    peb = layout.field("_EPROCESS", "Peb")
    assert (peb.type.kind, peb.type.element.name, str(peb.type)) == ("pointer", "_PEB", "_PEB*")


@pytest.mark.parametrize(
    "text, kind, size, shown",
    [
        ("u4", "unsigned", 4, "u4"),
        ("i8", "signed", 8, "s8"),
        ("f8", "float", 8, "f8"),
        ("p", "pointer", 8, "void*"),
        ("p:_KTHREAD", "pointer", 8, "_KTHREAD*"),
        ("p:u2", "pointer", 8, "u2*"),
        ("p:p:_EJOB", "pointer", 8, "_EJOB**"),
        ("s:_FOO/24", "struct", 24, "_FOO"),
        ("s:_FOO", "struct", None, "_FOO"),
        ("a15:u1", "array", 15, "u1[15]"),
        ("a2:a256:s:_E/32", "array", 16384, "_E[256][2]"),
        ("a-80:e4", "array", 80, "e4[20]"),
        ("b4:3:5", "bits", 4, "bits 3-7"),
        ("e4:_POOL_TYPE", "enum", 4, "_POOL_TYPE"),
        ("e1", "enum", 1, "e1"),
    ],
)
def test_type_notation(text, kind, size, shown):
    parsed = parse_type(text, 8)
    assert (parsed.kind, parsed.size, str(parsed)) == (kind, size, shown)


@pytest.mark.parametrize("text", ["", "x4", "u", "a3", "b4", "b4:1"])
def test_what_is_not_a_type(text):
    with pytest.raises(ValueError):
        parse_type(text, 8)


def test_missing_names_say_what_and_which_file():
    layout = find(GUID.lower(), 1)
    with pytest.raises(FieldNotFoundError, match=rf"_EPROCESS has no field Nonsense .*{GUID}-1") as field:
        layout.offset("_EPROCESS", "Nonsense")
    assert (field.value.struct, field.value.field) == ("_EPROCESS", "Nonsense")
    assert field.value.pdb == f"ntkrnlmp.pdb {GUID}-1"
    with pytest.raises(TypeNotFoundError) as kind:
        layout.struct("_NONSENSE")
    assert kind.value.struct == "_NONSENSE"
    with pytest.raises(TypeNotFoundError):
        layout.enum("_NONSENSE")
    with pytest.raises(SymbolNotFoundError) as symbol:
        layout.symbol("Nonsense")
    assert symbol.value.symbol == "Nonsense"
    for error in (field.value, kind.value, symbol.value):
        assert isinstance(error, SymbolError)
        assert isinstance(error, KdmpError)
        assert isinstance(error, LookupError)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_renamed_members_and_types():
    windows7, windows10 = find(build=7601), find(GUID, 1)
    assert windows7.offset("_EPROCESS", "WoW64Process") == windows7.offset("_EPROCESS", "Wow64Process")
    assert windows10.offset("_EPROCESS", "Wow64Process") == windows10.offset("_EPROCESS", "WoW64Process")
    assert windows7.field("_EPROCESS", "WoW64Process").path == "Wow64Process"
    assert windows7.has("_CM_KEY_CONTROL_BLOCK", "Discarded")
    assert windows7.struct("_KLDR_DATA_TABLE_ENTRY").name == "_LDR_DATA_TABLE_ENTRY"
    assert windows10.struct("_KLDR_DATA_TABLE_ENTRY").name == "_KLDR_DATA_TABLE_ENTRY"
    assert windows7.field("_MMVAD_SHORT", "Left").path == "LeftChild"
    assert windows10.field("_MMVAD_SHORT", "Left").path == "VadNode.Left"
    assert windows10.field("_MMVAD", "Core.Right").path == "Core.VadNode.Right"
    xp = find(build=2600, arch="x86", pae=True)
    assert xp.field("_ETHREAD", "Tcb.Process").path == "Tcb.ApcState.Process"


def test_search_through_unnamed_and_embedded_structures():
    layout = find(GUID, 1)
    assert layout.find_field("_MMPFN", "PageLocation").path == "u3.e1.PageLocation"
    assert layout.find_field("_MMPFN", "PageLocation").offset == 0x22
    assert layout.find_field("_MMPFN", "Flink").path == "u1.Flink"
    assert layout.find_field("_EPROCESS", "DirectoryTableBase").path == "Pcb.DirectoryTableBase"
    assert layout.find_field("_EPROCESS", "Token").path == "Token"
    with pytest.raises(FieldNotFoundError):
        layout.find_field("_EPROCESS", "Nonsense")
    with pytest.raises(TypeNotFoundError):
        layout.find_field("_NONSENSE", "Token")


# --- choosing ----------------------------------------------------------------------------------------------


def test_identity_gives_the_exact_build():
    for build in known_builds():
        if build.guid:
            layout = find(build.guid, build.age)
            assert (layout.build, layout.source.match, layout.exact) == (build, Match.PDB, True)
    dashed = f"{{{GUID[:8]}-{GUID[8:12]}-{GUID[12:16]}-{GUID[16:20]}-{GUID[20:]}}}".lower()
    assert find(dashed, 1).build.version == "10.0.19041.804"
    assert find(GUID, 2) is None


def test_image_gives_the_exact_build():
    build = version("10.0.19041.804")
    layout = find(timestamp=build.timestamp, size_of_image=build.image_size)
    assert (layout.build, layout.source.match) == (build, Match.IMAGE)
    assert layout.symbol("PsActiveProcessHead") == find(GUID, 1).symbol("PsActiveProcessHead")
    assert bundled().identify(build.timestamp, build.image_size) == "10.0.19041.804"
    # The PDB identity goes first; an unknown one does not stand in the way of the image.
    assert find("0" * 32, 1, timestamp=build.timestamp, size_of_image=build.image_size).exact
    other = version("10.0.22000.2538")
    assert find(other.guid, 1, timestamp=build.timestamp, size_of_image=build.image_size).build == other


def kernels():
    data = json.loads(lzma.decompress(Path(DATA, "kernels.json.xz").read_bytes()))
    return [dict(zip(data["columns"], row, strict=True)) for row in data["kernels"]]


def test_listed_image_gives_the_nearest_revision():
    wanted = next(k for k in kernels() if k["version"] == "10.0.26100.1742" and k["arch"] == "x64")
    layout = find(timestamp=wanted["timestamp"], size_of_image=wanted["image_size"], build=26200)
    assert (layout.build.number, layout.source.match) == (26100, Match.REVISION)
    assert (layout.source.wanted, layout.source.revision) == ("10.0.26100.1742", 1742)
    listed = {(k["timestamp"], k["image_size"]) for k in kernels()}
    unlisted = next(b for b in known_builds() if b.number == 19041 and (b.timestamp, b.image_size) in listed)
    without = Catalogue(keep=lambda b: b.version != unlisted.version)
    kernel = Kernel(timestamp=unlisted.timestamp, size_of_image=unlisted.image_size)
    near = without.find(kernel)
    assert near.source.match is Match.REVISION
    assert near.build.number == unlisted.number
    assert near.source.wanted == unlisted.version
    assert without.identify(unlisted.timestamp, unlisted.image_size) == unlisted.version


def test_same_number_takes_the_nearest_revision():
    revisions = sorted(b.revision for b in known_builds() if b.number == 19041)
    for wanted in (0, 500, 804, 1000, 2000, 9999):
        layout = find(build=19045, revision=wanted)
        nearest = min(abs(own - wanted) for own in revisions)
        assert abs(layout.build.revision - wanted) == nearest
        assert layout.source.match is (Match.REVISION if nearest else Match.VERSION)
        assert layout.source.same_build
        assert layout.source.revision == wanted
        assert not layout.exact
    assert find(build=19045).build.revision == revisions[-1]


def test_reported_numbers_mean_the_kernel_file():
    for reported, number in ((18363, 18362), (19042, 19041), (19044, 19041), (22631, 22621), (26200, 26100)):
        assert find(build=reported).build.number == number
        assert find(build=reported).source.same_build


def test_addresses_are_never_lent():
    layout = find(build=19041)
    assert layout.build.has_symbols
    assert not layout.symbols
    with pytest.raises(SymbolNotFoundError, match="not exactly this kernel"):
        layout.symbol("PsActiveProcessHead")


def test_unknown_numbers_are_a_guess_and_say_so():
    layout = find(build=18999)
    assert (layout.build.number, layout.source.match) == (19041, Match.NEAREST)
    assert not layout.source.same_build
    assert "unverified" in str(layout.source)
    assert layout.source.revision is None
    assert find(build=99999).build.number == 26100
    assert find(build=1).build.number == 7601


def test_architectures_and_pae_do_not_mix():
    assert find(build=3790, arch="ia64") is None
    assert find() is None
    assert find(guid="0" * 32, age=1) is None
    assert find(build=22000, arch="arm64").arch == "arm64"
    assert find(build=26100, arch="arm64").build.revision == 1742
    for pae in (True, False):
        assert find(build=2600, arch="x86", pae=pae).build.pae is pae
    assert find(build=2600, arch="x86").pointer_size == 4
    assert find(build=19041, pae=True).arch == "x64"  # no such thing there: not a reason to refuse


def test_candidates_are_ordered_and_differ():
    found = list(candidates(Kernel(build=19041, revision=804)))
    assert found[0].source.match is Match.VERSION
    ways = [layout.source.same_build for layout in found]
    assert ways == sorted(ways, reverse=True)
    assert len({layout.build.layout_set for layout in found}) == len(found)
    assert len(found) == len({b.layout_set for b in known_builds() if b.arch == "x64"})
    assert len(list(candidates(Kernel(GUID, 1)))) == 1


def test_unknown_number_of_a_listed_image_prefers_what_agrees():
    """A build left out: the layouts that contradict the offsets known of its image come last."""
    wanted = next(k for k in kernels() if k["version"].startswith("10.0.18362.") and k["arch"] == "x64")
    without = Catalogue(keep=lambda b: b.number != 18362)
    kernel = Kernel(timestamp=wanted["timestamp"], size_of_image=wanted["image_size"])
    data = json.loads(lzma.decompress(Path(DATA, "kernels.json.xz").read_bytes()))
    values = dict(zip(data["fields"], data["sets"][wanted["set"]], strict=True))
    facts = {("_KTHREAD", name[2:]): at for name, at in values.items() if name.startswith("Kt")}
    facts |= {("_EPROCESS", name[2:]): at for name, at in values.items() if name.startswith("Ep")}
    facts |= {("_OBJECT_TYPE", name[2:]): at for name, at in values.items() if name.startswith("Ot")}
    facts["_HANDLE_TABLE", "HandleContentionEvent"] = values["HtHandleContentionEvent"]
    facts = {where: at for where, at in facts.items() if at is not None}
    assert find(build=18362).disagreements(facts) == []
    assert find(build=18362).disagreements({("_EPROCESS", ""): 8}) == [("_EPROCESS", "")]
    wrong = [len(layout.disagreements(facts)) for layout in without.candidates(kernel)]
    assert wrong == sorted(wrong)
    assert wrong[0] < wrong[-1]
    assert all(not layout.source.same_build for layout in without.candidates(kernel))


def test_source_reads_as_a_sentence():
    source = LayoutSource(Match.REVISION, "10.0.19041.804", "x64", "19045")
    assert str(source) == (
        "bundled layout of 10.0.19041.804 x64 (same build number, nearest revision; for 19045)"
    )
    assert "nearest" not in str(find(GUID, 1).source)
    assert "10.0.19041.804" in repr(find(GUID, 1))
    assert "without PAE" in str(find(build=2600, arch="x86", pae=False).build)
    layout = find(GUID, 1)
    copy = pickle.loads(pickle.dumps(layout))
    assert copy.offset("_EPROCESS", "Token") == layout.offset("_EPROCESS", "Token")


def test_data_and_notices_are_package_data():
    shared = shareddata.require("nt-layouts")
    for name in ("builds", "kernels", "layouts"):
        assert Path(DATA, f"{name}.json.xz").read_bytes() == (shared / f"{name}.json.xz").read_bytes()
    notice = Path(DATA, "README.md").read_text("utf-8")
    for owner in ("2023 JPCERT Coordination Center", "2022 Winsider", "Redistribution and use"):
        assert owner in notice
    assert sorted(os.listdir(DATA)) == ["README.md", "builds.json.xz", "kernels.json.xz", "layouts.json.xz"]


# --- the cache ---------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, and a function that finds a layout as a new process would."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))

    def look(home=None):
        if home is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", str(home))
            monkeypatch.setenv("LOCALAPPDATA", str(home))
        return Catalogue().find(Kernel(GUID, 1))

    return look


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def works(layout):
    return layout.offset("_EPROCESS", "ActiveProcessLinks") == 0x448 and layout.symbol("PspCidTable") > 0


def test_second_use_reads_only_the_cache(fresh, tmp_path, monkeypatch):
    assert works(fresh())
    assert len(files(tmp_path)) == 2
    assert all(path.suffix == ".json" for path in files(tmp_path))
    monkeypatch.setattr(Catalogue, "_load", lambda self, name: pytest.fail(f"{name} was unpacked"))
    assert works(fresh())


def test_cached_image_lookup(fresh, tmp_path, monkeypatch):
    wanted = next(k for k in kernels() if k["version"] == "10.0.26100.1742" and k["arch"] == "x64")
    image = wanted["timestamp"], wanted["image_size"]
    assert Catalogue().identify(*image) == "10.0.26100.1742"
    assert Catalogue().identify(1, 2) is None
    count = len(files(tmp_path))
    monkeypatch.setattr(Catalogue, "_load", lambda self, name: pytest.fail(f"{name} was unpacked"))
    assert Catalogue().identify(*image) == "10.0.26100.1742"
    assert len(files(tmp_path)) == count == 2


def test_cache_folder_that_cannot_be_made(fresh, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert works(fresh(blocked))
    assert files(tmp_path) == [blocked]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_read_only_cache_folder(fresh, tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert works(fresh())
        assert files(tmp_path) == []
    finally:
        tmp_path.chmod(0o700)


def test_write_errors_leave_no_trace(fresh, tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "no")

    monkeypatch.setattr(os, "replace", refuse)
    assert works(fresh())
    assert files(tmp_path) == []
    assert not disk.store("some/key", {})


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: b"",
        lambda old: old[: len(old) // 2],
        lambda old: old[:-1] + b" ",
        lambda old: old.replace(b"_EPROCESS", b"_EPROCESZ"),
        lambda old: b"\xff" * 100,
        lambda old: b"[" * 100_000,
    ],
    ids=["empty", "cut", "last byte", "changed", "binary", "nested"],
)
def test_damaged_cache_files_are_replaced(fresh, tmp_path, damage):
    assert works(fresh())
    good = {path: path.read_bytes() for path in files(tmp_path)}
    for path, old in good.items():
        path.write_bytes(damage(old))
    assert works(fresh())
    assert {path: path.read_bytes() for path in files(tmp_path)} == good


def test_cache_of_other_data_is_not_used(fresh, tmp_path):
    assert works(fresh())
    folder = tmp_path / "data"
    folder.mkdir()
    table = json.loads(lzma.decompress(Path(DATA, "builds.json.xz").read_bytes()))
    table["aliases"]["12345"] = 19041
    (folder / "builds.json.xz").write_bytes(lzma.compress(json.dumps(table).encode()))
    (folder / "layouts.json.xz").write_bytes(Path(DATA, "layouts.json.xz").read_bytes())
    other = Catalogue(folder)
    assert other.kernel_number(12345) == 19041
    assert Catalogue().kernel_number(12345) == 12345
    assert other.identify(1, 2) is None  # no kernels.json.xz there


def test_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert disk.folder() == str(tmp_path / ".cache" / "kdmp")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody's home
    assert disk.folder() is None
    assert disk.load("some/key") is None
    assert disk.store("some/key", {}) is False


def test_missing_data_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Catalogue(tmp_path).find(Kernel(GUID, 1))


def test_threads_may_start_together(fresh):
    catalogue, found = Catalogue(), []
    gate = threading.Barrier(6)

    def run():
        gate.wait(10)
        found.append(works(catalogue.find(Kernel(GUID, 1))))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [True] * 6


def test_import_reads_nothing():
    code = (
        "import sys, builtins, kdmp, kdmp.symbols.mmpte, kdmp.symbols.layouts as l\n"
        "assert 'lzma' not in sys.modules or 'lzma' in before\n"
        "assert l.bundled.cache_info().currsize == 0"
    )
    code = "import sys, kdmp\nbefore = set(sys.modules)\n" + code
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=root)
