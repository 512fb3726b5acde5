"""Structure layouts of one kernel build, and how they were chosen.

`kdmp.symbols.layouts` finds them; this is what it returns.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kdmp.symbols import aliases
from kdmp.symbols.errors import FieldNotFoundError, SymbolNotFoundError, TypeNotFoundError
from kdmp.symbols.types import TypeRef, parse_type

if TYPE_CHECKING:
    from kdmp.symbols.search import AddressIndex

__all__ = ["Build", "Field", "Layout", "LayoutSource", "Match", "StructLayout"]

MAX_DEPTH = 8  # structures inside structures

UNKNOWN_VERSION = "0.0.0"  # of a kernel whose symbol file does not say, and which no list has


class Match(StrEnum):
    """How a layout was chosen, the surest way first."""

    ISF = "symbol file"
    PDB = "pdb GUID+age"
    IMAGE = "image timestamp+size"
    VERSION = "same version"
    REVISION = "same build number, nearest revision"
    VERIFIED = "nearest build, verified against the dump"
    NEAREST = "nearest build, unverified"


@dataclass(frozen=True, slots=True)
class LayoutSource:
    """Where a layout comes from: `build` is the version it was made for, `wanted` the one asked for.

    `wanted` is as precise as the identity allowed: a full version, a build number, or None. `pdb` is the
    symbol file of the kernel asked for ("ntkrnlmp.pdb GUID-AGE"), None when not known. A layout that was
    read from a symbol file has its path as `file`; `other` says that the file is not known to be of the
    kernel asked for. `evidence` says what in the dump agrees with a layout that is not exact.
    """

    match: Match
    build: str
    arch: str
    wanted: str | None = None
    pdb: str | None = None
    file: str | None = None
    other: bool = False
    evidence: str = ""

    @property
    def exact(self) -> bool:
        """Whether the layout is of this very image, and so are the addresses of its variables."""
        return self.match in (Match.PDB, Match.IMAGE, Match.ISF) and not self.other

    @property
    def same_build(self) -> bool:
        """Whether the layout is at least of the same build number."""
        return self.match not in (Match.NEAREST, Match.VERIFIED)

    @property
    def verified(self) -> bool:
        """Whether the layout is exact, or agrees with what the dump itself tells (see `evidence`)."""
        return self.exact or bool(self.evidence)

    @property
    def revision(self) -> int | None:
        """Revision of the kernel asked for (804 in 10.0.19041.804), None when not known."""
        return version_revision(self.build if self.exact else self.wanted or "")

    def __str__(self) -> str:
        evidence = f"; {self.evidence}" if self.evidence else ""
        if self.match is Match.ISF:
            version = "" if self.build == UNKNOWN_VERSION else self.build + " "
            doubt = "; not known to be of this kernel" if self.other else ""
            return f"{self.match} {self.file} ({version}{self.arch}{doubt}{evidence})"
        wanted = f"; for {self.wanted}" if self.wanted and self.wanted != self.build else ""
        return f"bundled layout of {self.build} {self.arch} ({self.match}{wanted}{evidence})"


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel build whose layouts are known.

    `number` and `revision` are the last two parts of `version` (None: the data name no revision). `pdb`,
    `guid`, `age` identify the symbol file; `timestamp` and `image_size` the kernel image; None when unknown.
    `pae` is set on x86. `inferred` lists structures taken over from a close build, and `note` says why.
    """

    index: int
    version: str
    arch: str
    layout_set: int
    origin: str
    pdb: str | None = None
    guid: str | None = None
    age: int | None = None
    timestamp: int | None = None
    image_size: int | None = None
    pae: bool | None = None
    has_symbols: bool = False
    inferred: tuple[str, ...] = ()
    note: str = ""

    @property
    def number(self) -> int:
        """Build number, 19041 in 10.0.19041.804."""
        return version_number(self.version)

    @property
    def revision(self) -> int | None:
        """Revision, 804 in 10.0.19041.804; None when the data do not name it."""
        return version_revision(self.version)

    @property
    def symbol_file(self) -> str | None:
        """The symbol file, "ntkrnlmp.pdb GUID-AGE", None when not known."""
        return f"{self.pdb} {self.guid}-{self.age}" if self.guid else None

    def __str__(self) -> str:
        pae = {None: "", True: " PAE", False: " without PAE"}[self.pae]
        version = "unknown version" if self.version == UNKNOWN_VERSION else self.version
        return f"{version} {self.arch}{pae}"


@dataclass(frozen=True, slots=True)
class Field:
    """A member: `offset` in bytes from the start of the structure `struct`, and its type.

    For a bit field the offset is that of its container, and `bit_start` (lowest bit) and `bit_width` are set.
    """

    struct: str
    path: str
    offset: int
    type: TypeRef

    @property
    def size(self) -> int | None:
        """Bytes to read; None for an embedded structure of unknown size."""
        return self.type.size

    @property
    def bit_start(self) -> int | None:
        """Lowest bit of a bit field, None for other members."""
        return self.type.start if self.type.kind == "bits" else None

    @property
    def bit_width(self) -> int | None:
        """Number of bits of a bit field, None for other members."""
        return self.type.width if self.type.kind == "bits" else None


class StructLayout:
    """One structure: `name`, `size` (bytes, None when unknown) and its members by path.

    Members of unnamed structures and unions have dotted paths ("u2.ShareCount"); all offsets count from the
    start of the structure. `path in struct`, iteration (by offset) and `len()` work.
    """

    __slots__ = ("_fields", "_layout", "_raw", "name", "size")

    def __init__(self, layout: "Layout", name: str, size: int | None, text: str) -> None:
        self._layout = layout
        lines = (line.rsplit(" ", 2) for line in text.split("\n") if line)
        self._raw = {path: (int(at), type) for path, at, type in lines}
        self._fields: dict[str, Field] = {}
        self.name = name
        self.size = size

    @property
    def fields(self) -> Mapping[str, Field]:
        """All members by path, in the order of their offsets."""
        if len(self._fields) != len(self._raw):
            fields = [self.field(path) for path in self._raw]
            fields.sort(key=lambda field: (field.offset, field.bit_start or 0))
            self._fields = {field.path: field for field in fields}
        return self._fields

    def field(self, path: str) -> Field:
        """The member `path`, spelled as in the data; raises FieldNotFoundError."""
        found = self._fields.get(path)
        if found is None:
            raw = self._raw.get(path)
            if raw is None:
                raise FieldNotFoundError(
                    self.name, path, self._layout.source.pdb, where=str(self._layout.source)
                )
            found = Field(self.name, path, raw[0], self._layout.type(raw[1]))
            self._fields[path] = found
        return found

    @property
    def paths(self) -> Collection[str]:
        """The paths of all members, in no order."""
        return self._raw.keys()

    def __contains__(self, path: object) -> bool:
        return path in self._raw

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields.values())

    def __len__(self) -> int:
        return len(self._raw)

    def __repr__(self) -> str:
        size = "?" if self.size is None else hex(self.size)
        return f"<StructLayout {self.name} size={size} fields={len(self)}>"


class Layout:
    """The structures of one kernel build; `source` says how it was chosen.

    Structures and fields are looked up by their Windows names; a name that another release used for the same
    thing is found too. What the build does not have raises TypeNotFoundError or FieldNotFoundError, both
    SymbolError.
    """

    def __init__(self, build: Build, source: LayoutSource, record: Mapping[str, Any]) -> None:
        self.build = build
        self.source = source
        self.pointer_size = 4 if build.arch == "x86" else 8
        self._record = record
        self._structs: dict[str, StructLayout] = {}
        self._found: dict[tuple[str, str], Field] = {}
        self._addresses: AddressIndex | None = None

    @property
    def arch(self) -> str:
        """ "x64", "x86" or "arm64"."""
        return self.build.arch

    @property
    def exact(self) -> bool:
        """Whether the layout is of the very image asked for; only then it has symbol addresses."""
        return self.source.exact

    @property
    def structs(self) -> tuple[str, ...]:
        """Names of all structures of this build."""
        return tuple(self._record["structs"])

    def __contains__(self, struct: object) -> bool:
        return struct in self._record["structs"]

    def struct(self, name: str) -> StructLayout:
        """The structure `name` ("_EPROCESS"); raises TypeNotFoundError."""
        found = self._structs.get(name)
        if found is None:
            structs = self._record["structs"]
            for own in (name, *aliases.TYPES.get(name, ())):
                if own in structs:
                    found = self._structs[name] = StructLayout(self, own, *structs[own])
                    return found
            raise TypeNotFoundError(name, self.source.pdb, where=str(self.source))
        return found

    def type(self, text: str) -> TypeRef:
        """The type that the data write as `text`, with sizes of structures filled in."""
        return self.sized(parse_type(text, self.pointer_size))

    def sized(self, type: TypeRef) -> TypeRef:
        """The same type with the sizes of structures filled in where they are known."""
        if type.kind == "struct" and type.size is None and type.name in self._record["structs"]:
            return replace(type, size=self._record["structs"][type.name][0])
        if type.kind == "array" and type.size is None and type.element is not None:
            element = self.sized(type.element)
            return replace(
                type, element=element, size=None if element.size is None else element.size * type.count
            )
        return type

    def field(self, struct: str, path: str) -> Field:
        """The member `path` of `struct`; raises FieldNotFoundError, TypeNotFoundError.

        The path may go on through embedded structures ("Pcb.DirectoryTableBase"); the offset counts from the
        start of `struct`. An older or newer name of the same member is tried when there is none of this one.
        """
        key = struct, path
        found = self._found.get(key)
        if found is None:
            found = self._walk(self.struct(struct), path, MAX_DEPTH)
            if found is None:
                raise FieldNotFoundError(struct, path, self.source.pdb, where=str(self.source))
            self._found[key] = found
        return found

    def _walk(self, struct: StructLayout, path: str, depth: int) -> Field | None:
        for name in (path, *aliases.FIELDS.get(struct.name, {}).get(path, ())):
            hit = self._step(struct, name, depth)
            if hit:
                return hit
        return None

    def _step(self, struct: StructLayout, path: str, depth: int) -> Field | None:
        """`path` as it is, or its longest beginning that is a known structure, and from there on."""
        if path in struct:
            return struct.field(path)
        parts = path.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            head, rest = ".".join(parts[:cut]), ".".join(parts[cut:])
            if head not in struct or not depth:
                continue
            outer = struct.field(head)
            inner = self._inner(outer)
            hit = inner and self._walk(inner, rest, depth - 1)
            if hit:
                return Field(struct.name, f"{head}.{hit.path}", outer.offset + hit.offset, hit.type)
        return None

    def _inner(self, field: Field) -> StructLayout | None:
        """The layout of the structure that `field` embeds, if it is known."""
        name = field.type.name if field.type.kind == "struct" else None
        return self.struct(name) if name is not None and name in self else None

    def find_field(self, struct: str, name: str) -> Field:
        """Like field(), but searches unnamed unions and embedded structures for `name` too.

        The member closest to `struct` wins: fewest structures to go into, then shortest path, then offset.
        """
        try:
            return self.field(struct, name)
        except FieldNotFoundError:
            pass
        top = self.struct(struct)
        level = {top.name: (top, "", 0)}
        seen = {top.name}  # what is not in a structure is not in it deeper down, either
        for _ in range(MAX_DEPTH):
            hits: list[Field] = []
            deeper: dict[str, tuple[StructLayout, str, int]] = {}
            for layout, prefix, base in level.values():
                for field in layout:
                    if field.path == name or field.path.endswith("." + name):
                        hits.append(Field(struct, prefix + field.path, base + field.offset, field.type))
                    inner = self._inner(field)
                    if inner is None or inner.name in seen:
                        continue
                    found = inner, f"{prefix}{field.path}.", base + field.offset
                    deeper[inner.name] = min(deeper.get(inner.name, found), found, key=_nearness)
            if hits:
                return min(hits, key=lambda hit: (hit.path.count("."), hit.offset))
            seen.update(deeper)
            level = deeper
        raise FieldNotFoundError(struct, name, self.source.pdb, where=str(self.source))

    def has(self, struct: str, path: str = "") -> bool:
        """Whether the build has `struct`, and in it the member `path` (under any of its names)."""
        try:
            if path:
                self.field(struct, path)
            else:
                self.struct(struct)
        except (TypeNotFoundError, FieldNotFoundError):
            return False
        return True

    def offset(self, struct: str, path: str) -> int:
        """Offset of a member in bytes; for a bit field that of its container. Errors as of field()."""
        return self.field(struct, path).offset

    def size(self, struct: str) -> int | None:
        """Size of a structure in bytes, None when it is not known; raises TypeNotFoundError."""
        return self.struct(struct).size

    @property
    def enums(self) -> tuple[str, ...]:
        """Names of all enumerations of this build."""
        return tuple(self._record["enums"])

    def enum(self, name: str) -> Mapping[str, int]:
        """The enumerators of an enumeration and their values; raises TypeNotFoundError."""
        try:
            values: Mapping[str, int] = self._record["enums"][name]
        except KeyError:
            raise TypeNotFoundError(name, self.source.pdb, where=str(self.source)) from None
        return values

    @property
    def symbols(self) -> Mapping[str, int]:
        """Addresses of kernel variables relative to the image base; empty unless the layout is exact.

        Between two revisions with the same layout most addresses differ, so they are never lent.
        """
        symbols: Mapping[str, int] = self._record["symbols"] if self.exact else {}
        return symbols

    def symbol(self, name: str) -> int:
        """Address of a kernel variable relative to the image base; raises SymbolNotFoundError."""
        try:
            return self.symbols[name]
        except KeyError:
            why = str(self.source) if self.exact else f"{self.source} is not exactly this kernel"
            raise SymbolNotFoundError(name, self.source.pdb, where=why) from None

    @property
    def complete_symbols(self) -> bool:
        """Whether `symbols` are all that the kernel's public symbol file has, so that the one below an
        address names what is there; the bundled tables hold a hundred variables."""
        return self.exact and bool(self._record.get("complete"))

    def find_symbols(self, pattern: str) -> list[tuple[str, int]]:
        """Names and relative addresses of the symbols that match a wildcard pattern, by name.

        `*` any characters, `?` one, `[a-c]` one of these; upper and lower case are the same, and a leading
        "nt!" is left out ("nt!mi*resolve*fault*"). Empty unless the layout is exact.
        """
        from kdmp.symbols.search import matching

        return matching(self.symbols, pattern)

    def nearest_symbol(self, rva: int) -> tuple[str, int] | None:
        """The symbol at a relative address or, in a complete table, the last one below it, and the distance.

        None when there is none. Of several names of an address a plain one is taken. The table does not say
        where the last symbol or the image ends: whether `rva` is inside is the caller's to know.
        """
        index = self._addresses
        if index is None:
            from kdmp.symbols.search import AddressIndex

            index = self._addresses = AddressIndex.of(self.symbols)
        hit = index.nearest(rva)
        return hit if hit is None or hit[1] == 0 or self.complete_symbols else None

    def sourced(
        self,
        source: LayoutSource,
        keep: Callable[[Field], bool] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> "Layout":
        """The same layout with another source; with `keep`, only of the members that it keeps, and with the
        sizes of structures that `sizes` tells."""
        if keep is None:
            return Layout(self.build, source, self._record)
        structs = {}
        for name, (size, text) in self._record["structs"].items():
            struct = self.struct(name)
            lines = (line for line in text.split("\n") if line)
            kept = [line for line in lines if keep(struct.field(line.rsplit(" ", 2)[0]))]
            if kept:
                structs[name] = [(sizes or {}).get(name, size), "\n".join(kept)]
        return Layout(self.build, source, {**self._record, "structs": structs})

    def disagreements(self, facts: Mapping[tuple[str, str], int]) -> list[tuple[str, str]]:
        """Which of the known offsets `{(struct, field): offset}` this layout contradicts.

        The field "" stands for the size of the structure. What the layout lacks does not count.
        """
        wrong = []
        for (struct, field), value in facts.items():
            if self.has(struct, field):
                own = self.offset(struct, field) if field else self.size(struct)
                if own is not None and own != value:
                    wrong.append((struct, field))
        return wrong

    def __repr__(self) -> str:
        return f"<Layout {self.build}: {self.source.match}>"


def _nearness(found: tuple[StructLayout, str, int]) -> tuple[int, int]:
    """Order of places in find_field(): the fewest dots in the path, then the lowest offset."""
    return found[1].count("."), found[2]


def version_number(version: str) -> int:
    """Build number of a version, 19041 in "10.0.19041.804", "19041.804" and "19041"."""
    parts = version.split(".")
    return int(parts[2] if len(parts) > 2 else parts[0])


def version_revision(version: str) -> int | None:
    """Revision of a version, 804 in "10.0.19041.804" and "19041.804"; None when it has none."""
    parts = version.split(".")
    place = 3 if len(parts) > 2 else 1
    return int(parts[place]) if len(parts) > place else None
