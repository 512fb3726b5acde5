"""A small symbol file (ISF) with all kinds of types, as JSON values.

SPDX-License-Identifier: MIT
"""

import copy

import pytest

from kdmp.symbols import SymbolError, isf

GUID = "00112233445566778899AABBCCDDEEFF"


def base(size, signed=False, kind="int"):
    return {"size": size, "signed": signed, "kind": kind, "endian": "little"}


def named(kind, name):
    return {"kind": kind, "name": name}


def pointer(to, **more):
    return {"kind": "pointer", "subtype": to, **more}


def array(count, of):
    return {"kind": "array", "count": count, "subtype": of}


def bits(start, width, of):
    return {"kind": "bitfield", "bit_position": start, "bit_length": width, "type": of}


def fields(**members):
    return {name: {"offset": offset, "type": kind} for name, (offset, kind) in members.items()}


U4, CHAR, VOID = named("base", "unsigned long"), named("base", "char"), named("base", "void")


def table(**changes):
    """A small symbol file as JSON values."""
    whole = {
        "metadata": {
            "format": "6.2.0",
            "producer": {"name": "test", "version": "1.0.0"},
            "windows": {
                "pdb": {"GUID": GUID, "age": 10, "database": "ntkrnlmp.pdb", "machine_type": 0x8664},
                "pe": {"major": 10, "minor": 0, "revision": 12345, "build": 6},
            },
        },
        "base_types": {
            "pointer": base(8),
            "pointer32": base(4),
            "unsigned long": base(4),
            "char": base(1, True, "char"),
            "unsigned char": base(1, False, "char"),
            "long long": base(8, True),
            "wchar": base(2, True),
            "double": base(8, True, "float"),
            "long double": base(10, True, "float"),
            "bool": base(1, False, "bool"),
            "void": base(0, False, "void"),
            "int128": base(16, True),
        },
        "enums": {
            "_COLOR": {"size": 4, "base": "int", "constants": {"Red": 0, "None": -1, "Big": 0xFFFFFFFF}},
            "tiny": {"size": 1, "base": "char", "constants": {}},
        },
        "user_types": {
            "_POINT": {"kind": "struct", "size": 8, "fields": fields(x=(0, U4), y=(4, U4))},
            "u4": {"kind": "class", "size": 1, "fields": fields(c=(0, CHAR))},
            "pair<int, a/b>": {"kind": "class", "size": 4, "fields": fields(first=(0, U4))},
            "__unnamed_1": {"kind": "union", "size": 8, "fields": fields(
                Whole=(0, named("base", "long long")), Parts=(0, named("struct", "<unnamed-type-parts>")),
            )},
            "<unnamed-type-parts>": {"kind": "struct", "size": 8, "fields": fields(
                Low=(0, U4), High=(4, U4), Bit=(4, bits(31, 1, U4)),
            )},
            "Outer::__anonymous_2": {"kind": "struct", "size": 4, "fields": fields(Deep=(0, U4))},
            "_ALL": {"kind": "struct", "size": 0x200, "fields": fields(
                number=(0, U4), signed=(8, named("base", "long long")), letter=(16, CHAR),
                wide=(18, named("base", "wchar")), real=(24, named("base", "double")),
                extended=(32, named("base", "long double")), flag=(42, named("base", "bool")),
                big=(48, named("base", "int128")), nothing=(64, VOID),
                to_void=(64, pointer(VOID)), to_code=(72, pointer({"kind": "function"})),
                code=(80, {"kind": "function"}), to_point=(80, pointer(named("struct", "_POINT"))),
                to_to=(88, pointer(pointer(named("class", "pair<int, a/b>")))),
                to_u4=(96, pointer(named("class", "u4"))), to_number=(104, pointer(U4)),
                to_enum=(112, pointer(named("enum", "_COLOR"))),
                to_array=(120, pointer(array(3, CHAR))),
                narrow=(128, pointer(named("struct", "_POINT"), base="pointer32")),
                color=(132, named("enum", "_COLOR")), small=(136, named("enum", "tiny")),
                name=(137, array(15, CHAR)), matrix=(152, array(2, array(3, named("struct", "_POINT")))),
                none=(200, array(0, U4)), points=(200, array(2, pointer(named("struct", "_POINT")))),
                bit=(216, bits(3, 5, U4)), color_bits=(216, bits(8, 4, named("enum", "_COLOR"))),
                u=(224, named("union", "__unnamed_1")), parts=(232, array(2, named("union", "__unnamed_1"))),
                scoped=(248, named("struct", "Outer::__anonymous_2")),
                unknown=(256, named("struct", "_ELSEWHERE")), templ=(264, named("class", "pair<int, a/b>")),
            ) | {"any": {"offset": 272, "type": named("union", "__unnamed_1"), "anonymous": True}}},
        },
        "symbols": {
            "Start": {"address": 0x1000}, "Big": {"address": 2**64 - 1}, "Real": {"address": 4096.0},
            "?f@@YAXXZ": {"address": 0x2000, "type": VOID, "linkage_name": "_f", "constant_data": ""},
        },
    }  # fmt: skip
    return whole | copy.deepcopy(changes)


def isf_error(tmp_path, data):
    """What is said about a file with this content."""
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(SymbolError) as error:
        isf.load(path)
    assert str(error.value).startswith(str(path))
    return str(error.value)
