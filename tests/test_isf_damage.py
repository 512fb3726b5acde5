"""Symbol files (ISF) that are wrong: whatever it is, a SymbolError names the file.

SPDX-License-Identifier: MIT
"""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isftables import GUID, U4, VOID, array, base, bits, fields, isf_error, named, pointer, table

from kdmp.symbols import FieldNotFoundError, SymbolError, isf

pytest_plugins = ["isffixtures"]
pytestmark = pytest.mark.usefixtures("isf_cache")

# --- what is wrong with a file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"9" * 10_000,
        b'{"metadata": 1e999',
        b"\x80\x04\x95",
        b"[0" + b",0" * 7_000_000 + b"]",
    ],
    ids=[
        "empty",
        "null",
        "list",
        "object",
        "utf-16",
        "lists",
        "objects",
        "digits",
        "cut",
        "pickle",
        "values",
    ],
)
def test_what_is_no_symbol_file(tmp_path, data):
    isf_error(tmp_path, data)


def nested(depth, make_one, inner):
    for _ in range(depth):
        inner = make_one(inner)
    return inner


def struct_with(members):
    return {"user_types": {"_X": {"kind": "struct", "size": 8, "fields": members}}}


def with_field(kind, offset=0):
    return struct_with({"f": {"offset": offset, "type": kind}})


UNNAMED = named("struct", "__unnamed_1")

BAD = {
    "format": {"metadata": {"format": "7.0.0"}},
    "no format": {"metadata": {}},
    "linux": {"metadata": {"format": "6.0.0", "linux": {}}},
    "windows": {"metadata": {"format": "6.0.0", "windows": []}},
    "guid": {"metadata": {"format": "6.0.0", "windows": {"pdb": {"GUID": "x", "age": 1, "database": "n"}}}},
    "age": {"metadata": {"format": "6.0.0", "windows": {"pdb": {"GUID": GUID, "age": -1, "database": "n"}}}},
    "pe": {"metadata": {"format": "6.0.0", "windows": {"pe": {"major": "10"}}}},
    "base types": {"base_types": []},
    "base size": {"base_types": {"unsigned long": base(1000)}},
    "base kind": {"base_types": {"unsigned long": base(4, kind="complex")}},
    "big endian": {"base_types": {"unsigned long": base(4) | {"endian": "big"}}},
    "void pointer": {"base_types": {"pointer": base(8, kind="void")}},
    "enum": {"enums": {"E": None}},
    "enum size": {"enums": {"E": {"size": "4", "base": "int", "constants": {}}}},
    "enum constants": {"enums": {"E": {"size": 4, "base": "int", "constants": []}}},
    "enum value": {"enums": {"E": {"size": 4, "base": "int", "constants": {"a": 2**64}}}},
    "enum text": {"enums": {"E": {"size": 4, "base": "int", "constants": {"a": "1"}}}},
    "symbol": {"symbols": {"S": 5}},
    "symbol address": {"symbols": {"S": {"address": -1}}},
    "symbol huge": {"symbols": {"S": {"address": 2**64}}},
    "symbol bool": {"symbols": {"S": {"address": True}}},
    "symbol none": {"symbols": {"S": {}}},
    "symbol name": {"symbols": {"": {"address": 1}}},
    "surrogate": {"symbols": {"\ud800": {"address": 1}}},
    "struct size": {"user_types": {"_X": {"kind": "struct", "size": -1, "fields": {}}}},
    "struct fields": {"user_types": {"_X": {"kind": "struct", "size": 1}}},
    "field": {"user_types": {"_X": {"kind": "struct", "size": 1, "fields": {"f": 1}}}},
    "field name": struct_with({"f\ng": {"offset": 0, "type": U4}}),
    "offset": with_field(U4, -1),
    "offset float": with_field(U4, 0.5),
    "no type": with_field(None),
    "kind": with_field({"kind": "tensor"}),
    "kind type": with_field({"kind": {}}),
    "unknown base": with_field(named("base", "nothing")),
    "unknown enum": with_field(named("enum", "nothing")),
    "base name": with_field(named("base", [])),
    "struct name": with_field(named("struct", 7)),
    "no subtype": with_field({"kind": "pointer"}),
    "count": with_field(array(-1, U4)),
    "huge count": with_field(array(2**40, U4)),
    "huge array": with_field(array(2**20, array(2**20, U4))),
    "huge array of structures": with_field(array(2**20, named("struct", "_X"))) | {"user_types": {
        "_X": {"kind": "struct", "size": 2**20, "fields": fields(a=(0, array(2**20, named("struct", "_X"))))}
    }},
    "arrays": with_field(nested(50, lambda inner: array(2, inner), U4)),
    "pointers": with_field(nested(400, pointer, U4)),
    "bits": with_field(bits(30, 5, U4)),
    "bits of nothing": with_field(bits(0, 1, VOID)),
    "bits of struct": with_field(bits(0, 1, named("struct", "_X"))),
    "pointer base": with_field(pointer(U4, base="nothing")),
    "unnamed in itself": {
        "user_types": {
            "__unnamed_1": {"kind": "struct", "size": 8, "fields": fields(a=(0, UNNAMED))}
        }
    },
    "unnamed, multiplied": {
        "user_types": {
            f"__unnamed_{k}": {"kind": "struct", "size": 8, "fields": fields(
                **{f"f{n}": (0, named("struct", f"__unnamed_{k + 1}") if k < 9 else U4) for n in range(8)}
            )}
            for k in range(10)
        }
    },
    "long names, multiplied": {
        "user_types": {
            "__unnamed_1": {"kind": "struct", "size": 8, "fields": fields(
                **{f"f{n}": (0, U4) for n in range(2000)}
            )},
            "_X": {"kind": "struct", "size": 8, "fields": fields(
                **{f"{n}" + "x" * 30_000: (0, UNNAMED) for n in range(40)}
            )},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_odd_files_are_refused_by_name(tmp_path, changes):
    text = isf_error(tmp_path, json.dumps(table(**changes)).encode())
    assert len(text) < 1000


def test_structures_in_structures_end(make_isf):
    """Structures that embed themselves and each other do not keep a search busy."""
    many = {f"f{n}": (n, named("struct", f"_S{n}")) for n in range(60)}
    layout = isf.load(make_isf(user_types={
        f"_S{k}": {"kind": "struct", "size": 64, "fields": fields(**many)} for k in range(60)
    }))  # fmt: skip
    with pytest.raises(FieldNotFoundError):
        layout.find_field("_S0", "nothing")
    assert layout.find_field("_S0", "f5").path == "f5"
    assert layout.field("_S0", "f1.f2.f3").offset == 6


def mutate(value, rng):
    """A copy of a JSON value with one thing changed somewhere."""
    odd = [None, True, -1, 0, 2**70, 1.5, "", "x", "__unnamed_1", [], {}, ["a"], {"kind": "base"}, "\ud800"]
    if isinstance(value, dict) and value and rng.random() < 0.93:
        result = dict(value)
        key = rng.choice(list(result))
        action = rng.random()
        if action < 0.06:
            del result[key]
        elif action < 0.1:
            result[rng.choice(["", "kind", "x\ny", "_POINT", "size"])] = result[key]
        else:
            result[key] = mutate(result[key], rng)
        return result
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice([value + 1, -value, value << 31 if isinstance(value, int) else 0, 2**63])
    return rng.choice(odd)


def use(layout):
    """Ask a layout for everything; only SymbolError is allowed."""
    for name in layout.structs:
        for field in layout.struct(name):
            str(field.type)
            layout.sized(field.type)
        with pytest.raises(SymbolError):
            layout.find_field(name, "no such field")
    for name in layout.enums:
        dict(layout.enum(name))
    for name in layout.symbols:
        assert layout.nearest_symbol(layout.symbol(name))[1] == 0
    layout.find_symbols("*a*")


@pytest.mark.parametrize("seed", range(8))
def test_mutated_files(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "mutant.json"
    refused = 0
    for _ in range(120):
        value = table()
        for _ in range(rng.randrange(1, 4)):
            value = mutate(value, rng)
        path.write_text(json.dumps(value))
        try:
            layout = isf.load(path)
        except SymbolError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            use(layout)
    assert 10 < refused < 119


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_bytes(tmp_path, data):
    text = bytearray(json.dumps(table()).encode())
    for place in data.draw(st.lists(st.integers(0, len(text) - 1), min_size=1, max_size=8)):
        text[place] = data.draw(st.sampled_from(b'0123456789"{}[],:\x00\xff\\eE-.nt'))
    path = tmp_path / "mutant.json"
    path.write_bytes(text)
    try:
        layout = isf.load(path)
    except SymbolError:
        return
    use(layout)
