"""The bundled layouts: offsets of Windows structures for some hundred kernel builds.

    layout = find(guid="5278AFF86C341677D7D7835C85B7B844", age=1)
    layout.offset("_EPROCESS", "ActiveProcessLinks")    # 0x448
    print(layout.source)                                # how the layout was chosen

Nothing is read on import. The first use of a build unpacks the data (some tens of milliseconds) and leaves
what it needed in the user's cache folder, from which later processes have it in one or two.

SPDX-License-Identifier: MIT
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from zlib import crc32

from kdmp.symbols import cache as disk
from kdmp.symbols.structs import (
    Build,
    Field,
    Layout,
    LayoutSource,
    Match,
    StructLayout,
    version_number,
    version_revision,
)

__all__ = [
    "Build",
    "Catalogue",
    "Field",
    "Kernel",
    "Layout",
    "LayoutSource",
    "Match",
    "StructLayout",
    "bundled",
    "candidates",
    "find",
    "known_builds",
]

DATA = os.path.join(os.path.dirname(__file__), "data")

# Values of kernels.json.xz that are offsets of members which the layouts have too.
_KERNEL_FACTS = {
    "EpObjectTable": ("_EPROCESS", "ObjectTable"),
    "EpSectionObject": ("_EPROCESS", "SectionObject"),
    "HtHandleContentionEvent": ("_HANDLE_TABLE", "HandleContentionEvent"),
    "OtIndex": ("_OBJECT_TYPE", "Index"),
    "OtName": ("_OBJECT_TYPE", "Name"),
    **{
        "Kt" + name: ("_KTHREAD", name)
        for name in (
            "InitialStack StackLimit StackBase KernelStack ReadOperationCount WriteOperationCount "
            "OtherOperationCount ReadTransferCount WriteTransferCount OtherTransferCount"
        ).split()
    },
}


@dataclass(frozen=True)
class Kernel:
    """What is known about a kernel for which a layout is wanted; None is unknown.

    `guid` (in any spelling) and `age` are the PDB identity, `timestamp` and `size_of_image` those of its PE
    header or loader entry. `build` may be the number that Windows reports (19045 has a 19041 kernel).
    `pae` matters on x86 only.
    """

    guid: str | None = None
    age: int | None = None
    timestamp: int | None = None
    size_of_image: int | None = None
    build: int | None = None
    revision: int | None = None
    arch: str = "x64"
    pae: bool | None = None

    @property
    def plain_guid(self) -> str | None:
        """The GUID as 32 capital hex digits."""
        return self.guid.strip("{}").replace("-", "").upper() if self.guid else None

    @property
    def pdb(self) -> str | None:
        """The symbol file, "ntkrnlmp.pdb GUID-AGE"; the name is that of multiprocessor kernels."""
        if self.guid is None or self.age is None:
            return None
        name = "ntkrpamp.pdb" if self.arch == "x86" and self.pae is not False else "ntkrnlmp.pdb"
        return f"{name} {self.plain_guid}-{self.age}"


class Catalogue:
    """The builds of one data set: `folder` holds `builds*.json.xz` and `layouts*.json.xz`.

    The module's functions use the bundled one. `suffix` stands for the star; `keep` leaves builds out, for
    tests of what happens on an unknown one. Reading happens on first use and raises OSError when the files
    are missing.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] = DATA,
        suffix: str = "",
        *,
        keep: Callable[[Build], bool] | None = None,
    ) -> None:
        self.folder = os.fspath(folder)
        self.suffix = suffix
        self._keep = keep

    def __repr__(self) -> str:
        return f"<Catalogue {self.folder!r} {self.suffix!r}>"

    # --- reading -------------------------------------------------------------------------------------------

    def _packed(self, name: str) -> bytes:
        with open(os.path.join(self.folder, f"{name}.json.xz"), "rb") as stream:
            return stream.read()

    def _load(self, name: str) -> Any:
        import lzma  # not needed when the cache has what is asked for

        return json.loads(lzma.decompress(self._packed(name)))

    @cached_property
    def _key(self) -> str:
        """Folder of the cache: other data, other folder."""
        names = ["builds" + self.suffix, "layouts" + self.suffix, "kernels"]
        sums = [crc32(self._packed(name)) for name in names if self._has(name)]
        return "layouts-2-" + "-".join(f"{value:08x}" for value in sums)

    def _has(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.folder, f"{name}.json.xz"))

    def _cached(self, name: str, make: Callable[[], Any]) -> Any:
        key = f"{self._key}/{name}"
        value = disk.load(key)
        if not isinstance(value, dict):
            value = make()
            disk.store(key, value)
        return value

    @cached_property
    def _builds_file(self) -> Any:
        return self._load("builds" + self.suffix)

    @cached_property
    def _layouts_file(self) -> Any:
        return self._load("layouts" + self.suffix)

    def _make_index(self) -> dict[str, Any]:
        table = self._builds_file
        rows = []
        for row in table["builds"]:
            row = dict(row)
            row["has_symbols"] = any(rva is not None for rva in row.pop("rva", ()))
            rows.append(row)
        return {"aliases": table["aliases"], "builds": rows}

    @cached_property
    def _index(self) -> Any:
        return self._cached("index", self._make_index)

    @cached_property
    def _builds(self) -> tuple[Build, ...]:
        builds = (_build(number, row) for number, row in enumerate(self._index["builds"]))
        return tuple(build for build in builds if self._keep is None or self._keep(build))

    def _build_with(self, first: str, value: Any, second: str, other: Any) -> Build | None:
        """The build with these two values in its row; looks at rows, since making all builds takes longer."""
        for number, row in enumerate(self._index["builds"]):
            if row.get(first) == value and row.get(second) == other:
                build = _build(number, row)
                if self._keep is None or self._keep(build):
                    return build
        return None

    def _make_record(self, build: Build) -> dict[str, Any]:
        table, rva = self._builds_file, self._builds_file["builds"][build.index].get("rva", ())
        data = self._layouts_file
        chosen = data["sets"][build.layout_set]
        structs = {}
        for (name, struct), variant in zip(data["structs"].items(), chosen["structs"], strict=True):
            if variant >= 0:
                size, offsets = struct["variants"][variant]
                members = zip(struct["fields"], offsets, strict=False)  # missing offsets are null
                lines = [f"{f[0]} {offset} {f[1]}" for f, offset in members if offset is not None]
                structs[name] = [size, "\n".join(lines)]  # one text: split only if it is looked at
        enums = {
            name: values[variant]
            for (name, values), variant in zip(data["enums"].items(), chosen["enums"], strict=True)
            if variant >= 0
        }
        symbols = {name: at for name, at in zip(table["symbols"], rva, strict=False) if at is not None}
        return {"structs": structs, "enums": enums, "symbols": symbols}

    def _make_kernel(self, timestamp: int, size: int) -> dict[str, Any]:
        if not self._has("kernels"):
            return {}
        data = self._load("kernels")
        columns = {name: place for place, name in enumerate(data["columns"])}
        at = columns["timestamp"], columns["image_size"]
        for row in data["kernels"]:
            if row[at[0]] == timestamp and row[at[1]] == size:
                values = data["sets"][row[columns["set"]]]
                facts = {n: v for n, v in zip(data["fields"], values, strict=True) if v is not None}
                return {"version": row[columns["version"]], "arch": row[columns["arch"]], "facts": facts}
        return {}

    # --- looking up ----------------------------------------------------------------------------------------

    def known_builds(self) -> tuple[Build, ...]:
        """All builds whose layouts are in the data set."""
        return self._builds

    def kernel_number(self, reported: int) -> int:
        """Build number of the kernel file for one that Windows reports: 19045 is a 19041 kernel."""
        number: int = self._index["aliases"].get(str(reported), reported)
        return number

    def layout(self, build: Build, source: LayoutSource | None = None) -> Layout:
        """The layout of one of the known builds."""
        record = self._cached(f"build-{build.index}", lambda: self._make_record(build))
        if source is None:
            match = Match.PDB if build.guid else Match.VERSION
            source = LayoutSource(match, build.version, build.arch, build.version, build.symbol_file)
        return Layout(build, source, record)

    def identify(self, timestamp: int, size_of_image: int) -> str | None:
        """Full version ("10.0.19041.804") of the kernel image with this time stamp and size, else None."""
        build = self._build_with("timestamp", timestamp, "image_size", size_of_image)
        if build:
            return build.version
        version: str | None = self._kernel(timestamp, size_of_image).get("version")
        return version

    def listed_offsets(self, timestamp: int, size_of_image: int) -> dict[tuple[str, str], int]:
        """Offsets of members, {(struct, field): offset}, that are known of the kernel image with this time
        stamp and size; empty if it is not listed."""
        return _offsets(self._kernel(timestamp, size_of_image))

    def _kernel(self, timestamp: int, size: int) -> dict[str, Any]:
        key = f"{self._key}/kernel-{timestamp:x}-{size:x}"
        cached = disk.load(key)
        if isinstance(cached, dict):
            return cached
        found = self._make_kernel(timestamp, size)
        if found:  # what is not listed costs a look each time, and no file
            disk.store(key, found)
        return found

    def find(self, kernel: Kernel) -> Layout | None:
        """The best layout for a kernel: the first of candidates(), None when there is none."""
        return next(self.candidates(kernel), None)

    def candidates(self, kernel: Kernel) -> Iterator[Layout]:
        """Layouts that may fit a kernel, the best first; each differs from those before.

        An image whose PDB identity, or time stamp and size, is known has one, exact. Otherwise come those of
        the same build number, the nearest revision first, then the nearest build numbers, which are a guess:
        `source.same_build` tells, and the caller has to check them against the dump. Layouts that contradict
        the offsets which are known of the listed kernel images come after those that agree. Nothing comes for
        an unknown architecture.
        """
        known, match = None, Match.PDB
        if kernel.pdb:
            known = self._build_with("guid", kernel.plain_guid, "age", kernel.age)
        timestamp, size = kernel.timestamp, kernel.size_of_image
        if known is None and timestamp is not None and size is not None:
            known, match = self._build_with("timestamp", timestamp, "image_size", size), Match.IMAGE
        if known is not None:
            source = LayoutSource(match, known.version, known.arch, known.version, known.symbol_file)
            yield self.layout(known, source)
            return
        number, revision, wanted, arch = kernel.build, kernel.revision, "", kernel.arch
        listed = {} if timestamp is None or size is None else self._kernel(timestamp, size)
        facts = _offsets(listed)
        if listed:
            wanted, arch = listed["version"], listed["arch"]
            number, revision = version_number(wanted), version_revision(wanted)
        if number is not None:
            wanted = wanted or (str(number) if revision is None else f"{number}.{revision}")
            pae = None if arch != "x86" else kernel.pae
            fitting = self._fitting(self.kernel_number(number), revision, arch, pae)
            yield from self._agreeing(fitting, facts, wanted, kernel.pdb)

    def _fitting(
        self, number: int, revision: int | None, arch: str, pae: bool | None
    ) -> list[list[tuple[Match, Build]]]:
        """Builds of this number, then all others, each group in the order of trying them."""
        builds = [b for b in self.known_builds() if b.arch == arch and (pae is None or b.pae is pae)]
        same = sorted(
            (b for b in builds if b.number == number), key=lambda b: _distance(b.revision, revision)
        )
        # Of two equally far numbers the older; of one number the newest revision.
        others = sorted(
            (b for b in builds if b.number != number),
            key=lambda b: (abs(b.number - number), b.number, -(b.revision or 0)),
        )
        exact = revision is not None
        return [
            [(Match.VERSION if exact and b.revision == revision else Match.REVISION, b) for b in same],
            [(Match.NEAREST, b) for b in others],
        ]

    def _agreeing(
        self,
        groups: list[list[tuple[Match, Build]]],
        facts: Mapping[tuple[str, str], int],
        wanted: str,
        pdb: str | None,
    ) -> Iterator[Layout]:
        """The layouts of the builds, each once; in a group those that contradict the facts least first."""
        seen: set[int] = set()
        for group in groups:
            later: list[tuple[int, Layout]] = []
            for match, build in group:
                if build.layout_set in seen:
                    continue
                seen.add(build.layout_set)
                layout = self.layout(build, LayoutSource(match, build.version, build.arch, wanted, pdb))
                wrong = len(layout.disagreements(facts)) if facts else 0
                if wrong:
                    later.append((wrong, layout))
                else:
                    yield layout
            yield from (layout for _, layout in sorted(later, key=lambda pair: pair[0]))


def _build(index: int, row: Mapping[str, Any]) -> Build:
    return Build(
        index,
        row["version"],
        row["arch"],
        row["set"],
        row["source"],
        row.get("pdb"),
        row.get("guid"),
        row.get("age"),
        row.get("timestamp"),
        row.get("image_size"),
        row.get("pae"),
        row["has_symbols"],
        tuple(row.get("inferred", ())),
        row.get("note", ""),
    )


def _offsets(listed: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """The values of a listed kernel that are offsets of members."""
    values = listed.get("facts", {}).items()
    return {_KERNEL_FACTS[name]: value for name, value in values if name in _KERNEL_FACTS}


def _distance(own: int | None, wanted: int | None) -> tuple[int, int]:
    """Order of revisions: nearest first, the newest when none is wanted, an unknown one last."""
    if own is None:
        return (1, 0)
    return (0, -own if wanted is None else abs(own - wanted))


@cache
def bundled() -> Catalogue:
    """The catalogue that comes with the package."""
    return Catalogue()


def known_builds() -> tuple[Build, ...]:
    """All builds whose layouts are bundled."""
    return bundled().known_builds()


def find(
    guid: str | None = None,
    age: int | None = None,
    *,
    timestamp: int | None = None,
    size_of_image: int | None = None,
    build: int | None = None,
    revision: int | None = None,
    arch: str = "x64",
    pae: bool | None = None,
) -> Layout | None:
    """The best bundled layout for a kernel, None when there is none; the arguments are those of Kernel.

    `Layout.source` says how it was chosen; one of another build number (`source.same_build` is false) is a
    guess that has to be verified against the dump. See Catalogue.candidates() for the order.
    """
    return bundled().find(Kernel(guid, age, timestamp, size_of_image, build, revision, arch, pae))


def candidates(kernel: Kernel) -> Iterator[Layout]:
    """Bundled layouts that may fit a kernel, the best first, see Catalogue.candidates()."""
    return bundled().candidates(kernel)
