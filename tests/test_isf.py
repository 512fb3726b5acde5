"""Symbol files (ISF): against the bundled layouts, all kinds of types, archives, folders, damage.

SPDX-License-Identifier: MIT
"""

import json
import lzma
import pickle
import random
import re
from functools import cache

import pytest
import shareddata
from isftables import GUID, base, table

from kdmp.symbols import FieldNotFoundError, SymbolError, SymbolNotFoundError, isf, layouts
from kdmp.symbols.isf_file import MAX_SIZE
from kdmp.symbols.isf_parse import MAX_FIELDS, parse
from kdmp.symbols.structs import Match

pytest_plugins = ["isffixtures"]
pytestmark = pytest.mark.usefixtures("isf_cache")

GUIDS = (
    "339E74133576439CBCDF7E0229DA3773",
    "5278AFF86C341677D7D7835C85B7B844",
    "0CE4A95C0CD782A7596B034D8648E585",
)
WIN10 = GUIDS[1]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The layout of one of the complete files."""
    home = tmp_path_factory.mktemp("cache")

    @cache
    def load(guid):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(home))
            patch.setenv("LOCALAPPDATA", str(home))
            return isf.load(shareddata.require("isf", f"{guid}-1.json.xz"))

    return load


@cache
def raw(guid):
    return json.loads(lzma.decompress(shareddata.require("isf", f"{guid}-1.json.xz").read_bytes()))


# --- the complete files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guid", GUIDS)
def test_everything_bundled_is_equal(real, guid):
    own, bundled = real(guid), layouts.find(guid, 1)
    fields = 0
    for name in bundled.structs:
        ours, theirs = own.struct(name), bundled.struct(name)
        assert ours.size == theirs.size, name
        for field in theirs:
            assert ours.field(field.path) == field, (name, field.path)
            fields += 1
    assert fields > 3000
    for name in bundled.enums:
        assert dict(own.enum(name)) == dict(bundled.enum(name)), name
    for name, rva in bundled.symbols.items():
        assert own.symbol(name) == rva, name
    assert len(bundled.symbols) > 90
    assert own.build.version == bundled.build.version
    assert (own.arch, own.pointer_size) == ("x64", 8)


@pytest.mark.parametrize("guid", GUIDS)
def test_everything_in_the_file_is_there(real, guid):
    table, layout = raw(guid), real(guid)
    assert set(layout.structs) == set(table["user_types"])
    assert set(layout.enums) == set(table["enums"])
    assert len(layout.symbols) == len(table["symbols"])
    assert all(layout.symbols[name] == s["address"] for name, s in table["symbols"].items())
    for name, enum in table["enums"].items():
        assert dict(layout.enum(name)) == enum["constants"]
    for name, theirs in table["user_types"].items():
        ours = layout.struct(name)
        assert ours.size == theirs["size"]
        for member, data in theirs["fields"].items():
            if member in ours:
                assert ours.field(member).offset == data["offset"]
            else:  # unnamed: its members are there
                inner = table["user_types"][data["type"]["name"]]
                assert re.match("__unnamed_|__anonymous_", data["type"]["name"])
                paths = [path for path in ours.paths if path.startswith(member + ".")]
                assert len(paths) >= len(inner["fields"])
        for field in ours:
            assert field.size is not None, (name, field)
            assert field.offset + field.size <= theirs["size"], (name, field)


def test_source_says_where_it_is_from(real):
    path = str(shareddata.require("isf", f"{WIN10}-1.json.xz"))
    layout = real(WIN10)
    source = layout.source
    assert (source.match, source.exact, source.same_build, source.file) == (Match.ISF, True, True, path)
    assert (source.build, source.pdb, source.revision) == ("10.0.19041.804", f"ntkrnlmp.pdb {WIN10}-1", 804)
    assert str(source) == f"symbol file {path} (10.0.19041.804 x64)"
    assert (layout.build.guid, layout.build.age, layout.build.origin) == (WIN10, 1, "isf")
    assert layout.build.image_size == 17063936
    assert layout.complete_symbols
    with pytest.raises(SymbolNotFoundError, match=path) as error:
        layout.symbol("Nonsense")
    assert error.value.pdb == f"ntkrnlmp.pdb {WIN10}-1"


def test_aliases_and_searches_work_on_files_too(real):
    layout = real(WIN10)
    assert layout.offset("_EPROCESS", "Wow64Process") == layout.offset("_EPROCESS", "WoW64Process")
    assert layout.find_field("_MMPFN", "PageLocation").path == "u3.e1.PageLocation"
    assert layout.find_field("_EPROCESS", "DirectoryTableBase").path == "Pcb.DirectoryTableBase"
    assert layout.field("_KPCR", "Prcb.CurrentThread").offset == 0x188
    assert layout.has("_KTHREAD") and not layout.has("_NONSENSE")
    again = pickle.loads(pickle.dumps(layout))
    assert again.symbol("KiPageFault") == layout.symbol("KiPageFault")
    assert again.nearest_symbol(layout.symbol("KiPageFault") + 3) == ("KiPageFault", 3)
    assert again.offset("_EPROCESS", "Token") == layout.offset("_EPROCESS", "Token")


# --- search ------------------------------------------------------------------------------------------------


def test_wildcards(real):
    layout = real(WIN10)
    names = set(raw(WIN10)["symbols"])

    def expected(pattern):
        return sorted(name for name in names if re.fullmatch(pattern, name, re.IGNORECASE | re.DOTALL))

    for pattern, regex in (
        ("mi*resolve*fault*", "mi.*resolve.*fault.*"),
        ("nt!MI*Resolve*FAULT*", "mi.*resolve.*fault.*"),
        ("kipagefault", "kipagefault"),
        ("Ke?ugCheckEx", "ke.ugcheckex"),
        ("Ps[lm]*", "ps[lm].*"),
        ("*", ".*"),
        ("nothing like this", "nothing like this"),
        ("", ""),
        ("[", r"\["),
    ):
        found = layout.find_symbols(pattern)
        assert [name for name, _ in found] == expected(regex), pattern
        assert all(layout.symbol(name) == rva for name, rva in found)
    assert ("KiPageFault", layout.symbol("KiPageFault")) in layout.find_symbols("ki*fault")


def test_wildcards_in_the_bundled_table():
    layout = layouts.find(WIN10, 1)
    assert ("PsLoadedModuleList", layout.symbol("PsLoadedModuleList")) in layout.find_symbols("ps*list*")
    assert layouts.find(build=19041).find_symbols("*") == []
    assert layouts.find(build=19041).nearest_symbol(layout.symbol("PsLoadedModuleList")) is None


def test_nearest(real):
    layout = real(WIN10)
    by_address = {}
    for name, symbol in raw(WIN10)["symbols"].items():
        by_address.setdefault(symbol["address"], set()).add(name)
    addresses = sorted(by_address)
    assert layout.nearest_symbol(addresses[0] - 1) is None
    assert layout.nearest_symbol(-1) is None
    rng = random.Random(5)
    for _ in range(500):
        k = rng.randrange(len(addresses) - 1)
        rva = rng.randrange(addresses[k], addresses[k + 1])
        name, offset = layout.nearest_symbol(rva)
        assert offset == rva - addresses[k]
        assert name in by_address[addresses[k]]
    assert layout.nearest_symbol(addresses[-1] + 5)[1] == 5


def test_nearest_prefers_names_that_people_gave(make_isf):
    symbols = {"??_C@_0x": 16, "__imp_X": 16, "NtX": 16, "AxX": 16, "$$1": 32, "_only": 32, "Later": 48}
    layout = isf.load(make_isf(symbols={name: {"address": at} for name, at in symbols.items()}))
    assert layout.nearest_symbol(20) == ("AxX", 4)
    assert layout.nearest_symbol(32) == ("_only", 0)
    assert layout.nearest_symbol(1 << 70) == ("Later", (1 << 70) - 48)


def test_bundled_tables_know_exact_addresses_only():
    layout = layouts.find(WIN10, 1)
    rva = layout.symbol("PsActiveProcessHead")
    assert not layout.complete_symbols
    assert layout.nearest_symbol(rva) == ("PsActiveProcessHead", 0)
    assert layout.nearest_symbol(rva + 1) is None


# --- a small file with everything --------------------------------------------------------------------------


def test_all_kinds_of_types(make_isf):
    layout = isf.load(make_isf())
    shown = {
        field.path: (field.offset, field.type.kind, field.size, str(field.type))
        for field in layout.struct("_ALL")
    }
    assert shown == {
        "number": (0, "unsigned", 4, "u4"),
        "signed": (8, "signed", 8, "s8"),
        "letter": (16, "signed", 1, "s1"),
        "wide": (18, "unsigned", 2, "u2"),
        "real": (24, "float", 8, "f8"),
        "extended": (32, "float", 10, "f10"),
        "flag": (42, "unsigned", 1, "u1"),
        "big": (48, "signed", 16, "s16"),
        "nothing": (64, "array", 0, "u1[0]"),
        "to_void": (64, "pointer", 8, "void*"),
        "to_code": (72, "pointer", 8, "void*"),
        "code": (80, "array", 0, "u1[0]"),
        "to_point": (80, "pointer", 8, "_POINT*"),
        "to_to": (88, "pointer", 8, "pair<int, a/b>**"),
        "to_u4": (96, "pointer", 8, "u4*"),
        "to_number": (104, "pointer", 8, "u4*"),
        "to_enum": (112, "pointer", 8, "_COLOR*"),
        "to_array": (120, "pointer", 8, "s1[3]*"),
        "narrow": (128, "pointer", 4, "_POINT*"),
        "color": (132, "enum", 4, "_COLOR"),
        "small": (136, "enum", 1, "tiny"),
        "name": (137, "array", 15, "s1[15]"),
        "matrix": (152, "array", 48, "_POINT[3][2]"),
        "none": (200, "array", 0, "u4[0]"),
        "points": (200, "array", 16, "_POINT*[2]"),
        "bit": (216, "bits", 4, "bits 3-7"),
        "color_bits": (216, "bits", 4, "bits 8-11"),
        "u.Whole": (224, "signed", 8, "s8"),
        "u.Parts.Low": (224, "unsigned", 4, "u4"),
        "u.Parts.High": (228, "unsigned", 4, "u4"),
        "u.Parts.Bit": (228, "bits", 4, "bits 31-31"),
        "parts": (232, "array", 16, "__unnamed_1[2]"),
        "scoped.Deep": (248, "unsigned", 4, "u4"),
        "unknown": (256, "struct", None, "_ELSEWHERE"),
        "templ": (264, "struct", 4, "pair<int, a/b>"),
        "Whole": (272, "signed", 8, "s8"),
        "Parts.Low": (272, "unsigned", 4, "u4"),
        "Parts.High": (276, "unsigned", 4, "u4"),
        "Parts.Bit": (276, "bits", 4, "bits 31-31"),
    }
    field = layout.field
    assert field("_ALL", "to_u4").type.element.kind == "struct"
    assert field("_ALL", "to_number").type.element.kind == "unsigned"
    assert field("_ALL", "templ.first").offset == 264
    assert layout.struct("pair<int, a/b>").size == 4
    assert layout.offset("__unnamed_1", "Parts.High") == 4
    assert dict(layout.enum("_COLOR")) == {"Red": 0, "None": -1, "Big": 0xFFFFFFFF}
    assert dict(layout.enum("tiny")) == {}
    assert layout.symbols["Big"] == 2**64 - 1
    assert layout.symbol("Real") == layout.symbol("Start") == 4096
    assert (layout.build.version, layout.build.age) == ("10.0.12345.6", 10)
    assert layout.source.pdb == f"ntkrnlmp.pdb {GUID}-10"
    with pytest.raises(FieldNotFoundError):
        layout.field("_ALL", "u")
    with pytest.raises(SymbolError):
        layout.enum("nothing")
    for wrong in ("", "start", "Starts", "\ud800", 5, None):
        assert wrong not in layout.symbols
        assert wrong not in layout


def test_32_bit_and_arm_files(make_isf):
    pdb = table()["metadata"]["windows"]["pdb"]
    types = table()["base_types"]

    def load(machine, name, size):
        meta = {"format": "5.1.0", "windows": {"pdb": pdb | {"machine_type": machine, "database": name}}}
        return isf.load(make_isf(metadata=meta, base_types=types | {"pointer": base(size)}))

    x86 = load(0x14C, "ntkrpamp.pdb", 4)
    assert (x86.arch, x86.pointer_size, x86.build.pae, x86.build.number) == ("x86", 4, True, 0)
    assert x86.field("_ALL", "to_void").size == 4
    assert "unknown version" in str(x86.build)
    assert x86.source.revision is None
    assert load(0x14C, "ntkrnlmp.pdb", 4).build.pae is False
    assert load(0xAA64, "ntkrnlmp.pdb", 8).arch == "arm64"
    with pytest.raises(SymbolError, match="pointers"):
        load(0x8664, "ntkrnlmp.pdb", 4)
    with pytest.raises(SymbolError, match="machine"):
        load(0x200, "ntkrnlmp.pdb", 8)


def test_old_files_have_their_identity_in_the_name(make_isf):
    old = make_isf(f"{GUID.lower()}-3.json", metadata={"format": "4.1.0"})
    layout = isf.load(old)
    assert (layout.build.guid, layout.build.age, layout.exact) == (GUID, 3, True)
    assert isf.find(GUID, 3, old).exact
    nameless = make_isf("nameless.json", metadata={"format": "4.0.0"})
    assert isf.load(nameless).exact
    assert isf.load(nameless).build.guid is None
    with pytest.raises(SymbolError, match="unknown kernel"):
        isf.find(GUID, 3, nameless)


def test_the_bounds_are_not_reached_by_real_files():
    data = json.dumps(raw(GUIDS[2])).encode()
    assert sum(map(data.count, (b",", b"[", b"{"))) < 2_000_000
    assert len(data) < MAX_SIZE / 8
    assert sum(text.count("\n") + 1 for _, text in parse(data).structs.values()) < MAX_FIELDS / 8
