"""Volatility's Intermediate Symbol Format: JSON to the structures, types and symbols of a layout.

The format is that of the schemas 4.0 to 6.x of Volatility 3 (`volatility3/schemas`). Members of unnamed
structures and unions get dotted paths, as in the bundled layouts; such a structure also stays under the name
the file has for it, for arrays of them and pointers to them. Whatever is not as the schema says is a
ValueError.

SPDX-License-Identifier: MIT
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdmp.symbols.places import plain_guid
from kdmp.symbols.types import is_bare, quoted

__all__ = ["Isf", "parse"]

Json = dict[str, Any]

MAX_VALUES = 6_000_000  # in the JSON text; a kernel has some 300 thousand
MAX_FIELDS = 1 << 18  # of all structures, with those of unnamed structures inside
MAX_NESTING = 16  # arrays of arrays, unnamed structures in unnamed structures
MAX_EXTENT = 1 << 28  # bytes of a structure or an array

_FORMAT = re.compile(r"[456]\.\d{1,3}(\.\d{1,3})?", re.ASCII)
_UNNAMED = re.compile(r"(^|::)(__unnamed|__anonymous|<unnamed-|<anonymous-|unnamed_[0-9a-f]+$)")
_ARCHES = {0x14C: "x86", 0x8664: "x64", 0xAA64: "arm64"}  # IMAGE_FILE_MACHINE_*


@dataclass
class Isf:
    """What a symbol file says. `guid`, `age` and `version` are None if it does not."""

    arch: str
    pdb: str | None = None
    guid: str | None = None
    age: int | None = None
    version: str | None = None
    structs: dict[str, tuple[int, str]] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)


def parse(data: bytes) -> Isf:
    """Return what a symbol file says; ValueError if it is none, or damaged."""
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        top = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except MemoryError as error:
        raise ValueError("takes too much memory") from error
    top = _object(top, "the file")
    for part in ("metadata", "base_types", "user_types", "enums", "symbols"):
        if part not in top:
            raise ValueError(f"no symbol file: it has no {part}")
    return _Parser(top).isf()


# --- checked values ----------------------------------------------------------------------------------------


def _object(value: Any, what: str) -> Json:
    if type(value) is not dict:
        raise ValueError(f"{what} is not an object")
    return value


def _text(value: Any, what: str) -> str:
    if type(value) is not str or not value or len(value) > 0x10000:
        raise ValueError(f"{what} is not a name")
    return value


def _number(value: Any, what: str, last: int, first: int = 0) -> int:
    if type(value) is float and value.is_integer():  # the schema allows "number" for addresses
        value = int(value)
    if type(value) is not int or not first <= value <= last:
        raise ValueError(f"{what} is not a number in its range")
    return value


# --- the parts ---------------------------------------------------------------------------------------------


class _Parser:
    """One file being read."""

    def __init__(self, top: Json) -> None:
        self.top = top
        self.base = {name: self._base(name, one) for name, one in self._items("base_types")}
        self.user = dict(self._items("user_types"))
        self.enum_sizes: dict[str, int] = {}
        self.left = MAX_FIELDS

    def _items(self, part: str) -> Iterator[tuple[str, Json]]:
        for name, value in _object(self.top[part], part).items():
            yield _text(name, f"a name in {part}"), _object(value, f"{part} {name[:80]!r}")

    def isf(self) -> Isf:
        """Everything; ValueError."""
        found = self._identity()
        pointer = self.base.get("pointer")
        self.pointer_size = 4 if found.arch == "x86" else 8
        if pointer is not None and int(pointer[1:]) != self.pointer_size:
            raise ValueError(f"its pointers do not have the size of those on {found.arch}")
        found.enums = dict(self._enums())
        for name, struct in self.user.items():
            size = _number(struct.get("size"), f"the size of {name[:80]!r}", MAX_EXTENT)
            found.structs[name] = size, "\n".join(self._lines(name, struct))
        for name, symbol in self._items("symbols"):
            found.symbols[name] = _number(
                symbol.get("address"), f"the address of {name[:80]!r}", (1 << 64) - 1
            )
        return found

    def _identity(self) -> Isf:
        meta = _object(self.top["metadata"], "metadata")
        version = meta.get("format")
        if type(version) is not str or not _FORMAT.fullmatch(version):
            raise ValueError(f"a symbol file of format {str(version)[:20]!r}, not 4.x to 6.x")
        if "linux" in meta or "mac" in meta:
            raise ValueError("symbols of another operating system")
        windows = _object(meta.get("windows", {}), "metadata.windows")
        pointer = self.base.get("pointer", "u8")
        if "pdb" not in windows:
            return Isf("x86" if pointer == "u4" else "x64", version=_version(windows))
        pdb = _object(windows["pdb"], "metadata.windows.pdb")
        machine = pdb.get("machine_type", 0x8664 if pointer == "u8" else 0x14C)
        if type(machine) is not int or machine not in _ARCHES:
            raise ValueError(f"symbols for the machine {str(machine)[:20]}")
        return Isf(
            _ARCHES[machine],
            _text(pdb.get("database"), "the PDB's name"),
            plain_guid(_text(pdb.get("GUID"), "the PDB's GUID")),
            _number(pdb.get("age"), "the PDB's age", (1 << 32) - 1),
            _version(windows),
        )

    def _base(self, name: str, one: Json) -> str:
        """A base type in the notation of kdmp.symbols.types; "" for void."""
        kind, size = one.get("kind"), _number(one.get("size"), f"the size of {name[:80]!r}", 64)
        if kind == "void":
            return ""
        if one.get("endian", "little") != "little" and size > 1:
            raise ValueError(f"{name[:80]!r} is not little-endian")
        if name == "wchar":
            return f"u{size}"  # what Volatility calls signed is WCHAR, an unsigned short
        if kind == "float":
            return f"f{size}"
        if kind in ("int", "char"):
            return f"{'i' if one.get('signed') is True else 'u'}{size}"
        if kind == "bool":
            return f"u{size}"
        raise ValueError(f"{name[:80]!r} is of no known kind")

    def _enums(self) -> Iterator[tuple[str, dict[str, int]]]:
        for name, enum in self._items("enums"):
            what = f"enumeration {name[:80]!r}"
            self.enum_sizes[name] = _number(enum.get("size"), f"the size of {what}", 16)
            constants = _object(enum.get("constants"), f"{what}'s constants")
            for value in constants.values():
                _number(value, f"a constant of {what}", (1 << 64) - 1, -1 << 63)
            yield name, {key: int(value) for key, value in constants.items()}

    def _lines(self, name: str, struct: Json) -> Iterator[str]:
        """The members, "path offset type"."""
        seen = set()
        for path, offset, kind in self._members(struct, "", 0, name, 0):
            if path not in seen:
                seen.add(path)
                line = f"{path} {offset} {kind}"
                self._spend(len(line) // 64)
                yield line

    def _spend(self, amount: int) -> None:
        """Bound what unnamed structures in unnamed structures can multiply."""
        self.left -= amount
        if self.left < 0:
            raise ValueError(f"more than {MAX_FIELDS} fields, or endless names")

    def _members(
        self, struct: Json, prefix: str, base: int, where: str, depth: int
    ) -> Iterator[tuple[str, int, str]]:
        if depth > MAX_NESTING:
            raise ValueError(f"{where[:80]!r}: unnamed structures nested too deeply")
        for name, member in _object(struct.get("fields"), f"the fields of {where[:80]!r}").items():
            self._spend(1)
            what = f"{where[:80]!r}.{name[:80]!r}"
            if not name.isprintable():
                raise ValueError(f"{what} is not a name")
            _object(member, what)
            kind = _object(member.get("type"), f"the type of {what}")
            offset = base + _number(member.get("offset"), f"the offset of {what}", MAX_EXTENT)
            inner = self._unnamed(kind)
            if inner is None:
                yield prefix + name, offset, self.type(kind, what)
            else:
                below = prefix if member.get("anonymous") is True else f"{prefix}{name}."
                yield from self._members(inner, below, offset, where, depth + 1)

    def _unnamed(self, kind: Json) -> Json | None:
        """The structure that a member's type embeds, if that has no name of its own."""
        name = kind.get("name")
        if kind.get("kind") not in ("struct", "union", "class") or type(name) is not str:
            return None
        return self.user.get(name) if _UNNAMED.search(name) else None

    def type(self, kind: Mapping[str, Any], what: str, depth: int = 0) -> str:
        """A type in the notation of kdmp.symbols.types."""
        if depth > MAX_NESTING:
            raise ValueError(f"the type of {what} is nested too deeply")
        match kind.get("kind"):
            case "base":
                return self._known_base(kind.get("name"), what) or "a0:u1"  # void: nothing to read
            case "struct" | "union" | "class":
                return "s:" + quoted(_text(kind.get("name"), f"the type of {what}"))
            case "enum":
                return self._enum(kind.get("name"), what)
            case "pointer":
                return self._pointer(kind, what, depth)
            case "array":
                count = _number(kind.get("count"), f"the length of {what}", MAX_EXTENT)
                element = _object(kind.get("subtype"), f"the element of {what}")
                text = f"a{count}:{self.type(element, what, depth + 1)}"
                if count * self._size(element) > MAX_EXTENT:
                    raise ValueError(f"{what} is too large")
                return text
            case "bitfield":
                start = _number(kind.get("bit_position"), f"the bit position of {what}", 128)
                width = _number(kind.get("bit_length"), f"the bit length of {what}", 128)
                size = int(self._container(_object(kind.get("type"), f"the container of {what}"), what))
                if start + width > 8 * size:
                    raise ValueError(f"{what} reaches beyond its container")
                return f"b{size}:{start}:{width}"
            case "function":
                return "a0:u1"  # code: nothing to read
        raise ValueError(f"the type of {what} is of no known kind")

    def _size(self, kind: Mapping[str, Any]) -> int:
        """Bytes of a type that type() has accepted; 0 for a structure that is not known."""
        match kind["kind"]:
            case "base":
                return int(self.base[kind["name"]][1:] or 0)
            case "enum":
                return self.enum_sizes[kind["name"]]
            case "array":
                return int(kind["count"]) * self._size(kind["subtype"])
            case "struct" | "union" | "class":
                size = self.user.get(kind["name"], {}).get("size")
                return size if type(size) is int else 0
        return 8

    def _known_base(self, name: Any, what: str) -> str:
        base = self.base.get(_text(name, f"the type of {what}"))
        if base is None:
            raise ValueError(f"the type of {what}, {name[:80]!r}, is not in base_types")
        return base

    def _enum(self, name: Any, what: str) -> str:
        size = self.enum_sizes.get(_text(name, f"the type of {what}"))
        if size is None:
            raise ValueError(f"the type of {what}, {name[:80]!r}, is not in enums")
        return f"e{size}:{quoted(name)}"

    def _pointer(self, kind: Mapping[str, Any], what: str, depth: int) -> str:
        head = "p"
        if "base" in kind:
            base = self._known_base(kind["base"], what)
            if base[1:] != str(self.pointer_size):
                head += base[1:]
        target = _object(kind.get("subtype"), f"what {what} points to")
        to = self.type(target, what, depth + 1)
        if target.get("kind") == "function" or (target.get("kind") == "base" and to == "a0:u1"):
            return head
        return f"{head}:{to[2:] if to[:2] == 's:' and is_bare(to[2:]) else to}"

    def _container(self, kind: Json, what: str) -> str:
        """Size of what a bit field lies in."""
        text = self._enum(kind.get("name"), what) if kind.get("kind") == "enum" else ""
        text = text.split(":")[0] or self._known_base(kind.get("name"), what)
        return text[1:] or "0"


def _version(windows: Json) -> str | None:
    """The version of the image as metadata.windows.pe has it, None if it has none."""
    pe = windows.get("pe")
    if pe is None:
        return None
    pe = _object(pe, "metadata.windows.pe")
    parts = [pe.get(name, 0) for name in ("major", "minor", "revision", "build")]
    return ".".join(str(_number(part, "a part of the version", 0xFFFFFFFF)) for part in parts)
