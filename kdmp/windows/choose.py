"""Which structure layout is a kernel read by?

In this order: a symbol file of the user's for this very kernel, the bundled layout of it, the bundled layout
of the same build number that agrees best with what the dump itself tells, and for a build number that nobody
knows a layout that agrees in everything that can be compared and reads the list of processes right. Of one
that agrees only in what processes are made of, only that is used. Else there is a SymbolError with the name
of the symbol file to get. Addresses of variables never come from a layout that is not exact.

What the dump tells: offsets and sizes in the debugger data block, offsets that are known of the listed kernel
images, and what the bytes of running processes show (`kdmp.windows.derive`).

SPDX-License-Identifier: MIT
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from kdmp._kdmp import KdmpError
from kdmp.symbols import layouts
from kdmp.symbols.errors import SymbolError
from kdmp.symbols.structs import Field, Layout, Match
from kdmp.windows.derive import Facts, derived_facts, kdbg_facts
from kdmp.windows.kdbg import find_kdbg
from kdmp.windows.verify import Verdict, check_processes

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader
    from kdmp.symbols.layouts import Catalogue
    from kdmp.windows.kdbg import DebuggerData
    from kdmp.windows.kernel import Kernel

__all__ = ["choose_layout", "exact_layout"]

Path: TypeAlias = "str | os.PathLike[str]"
Places: TypeAlias = "Path | Sequence[Path]"

# So many offsets and sizes must be there to compare for an unknown build number.
_MIN_FACTS = 20

# A layout of the right build number that contradicts more than this is not of this build.
_MAX_WRONG = 3

# Members that make out a process. All must be told by the dump for a layout to be used in part.
_CORE = frozenset(
    ("_EPROCESS", name)
    for name in (
        "UniqueProcessId", "ActiveProcessLinks", "ImageFileName", "InheritedFromUniqueProcessId", "Peb",
        "Pcb.DirectoryTableBase",
    )
)  # fmt: skip

# Structures that are the same in all 64-bit releases from Windows 7 to 11 24H2, but for bit fields; of those
# the ones that are the same in all 32-bit releases.
_FIXED_32 = frozenset(
    "_LIST_ENTRY _SINGLE_LIST_ENTRY _LARGE_INTEGER _ULARGE_INTEGER _UNICODE_STRING _STRING _CLIENT_ID"
    " _EX_FAST_REF".split()
)
_FIXED = _FIXED_32 | frozenset(
    "_DISPATCHER_HEADER _KAPC_STATE _KLDR_DATA_TABLE_ENTRY _KTRAP_FRAME _CONTEXT _KSPECIAL_REGISTERS"
    " _KPROCESSOR_STATE _KDESCRIPTOR _OBJECT_HEADER _FILE_OBJECT _DRIVER_OBJECT _DEVICE_OBJECT".split()
)

# Too many forms (a dozen in 60 layouts) to take it from another build.
_NEVER_LENT = "_MI_SYSTEM_INFORMATION"


def choose_layout(
    dump: "Dump",
    kernel: "Kernel | None" = None,
    kdbg: "DebuggerData | None" = None,
    *,
    places: "Places | None" = None,
    catalogue: "Catalogue | None" = None,
) -> Layout:
    """Return the structure layouts to read a dump by; `source` says how they were chosen.

    `kernel` and `kdbg` are the dump's by default, the latter looked for only if it is needed. `places` are
    symbol files and folders of the user's (default: those that `kdmp.open` was given, else KDMP_SYMBOLS),
    `catalogue` the bundled layouts. Raises SymbolError, which names the symbol file to get.
    """
    return _Choice(dump, kernel or dump.kernel, kdbg, catalogue or layouts.bundled()).run(places)


def exact_layout(
    dump: "Dump", kernel: "Kernel | None", catalogue: "Catalogue | None" = None
) -> Layout | None:
    """Return the bundled layout of this very kernel, None if there is none."""
    if kernel is None:
        return None
    found = (catalogue or layouts.bundled()).find(_identity(dump, kernel))
    return found if found is not None and found.exact else None


def _identity(dump: "Dump", kernel: "Kernel | None") -> layouts.Kernel:
    image = kernel.image if kernel is not None else None
    pae = None
    if dump.arch == "x86":
        try:
            pae = {"pae": True, "x86": False}.get(dump.paging)
        except KdmpError:
            pae = None
    return layouts.Kernel(
        image.guid if image else None,
        image.age if image else None,
        image.timestamp if image and image.timestamp else None,
        image.size if image else None,
        dump.build,
        arch=dump.arch,
        pae=pae,
    )


class _Choice:
    """One choice of a layout."""

    def __init__(
        self, dump: "Dump", kernel: "Kernel | None", kdbg: "DebuggerData | None", catalogue: "Catalogue"
    ) -> None:
        self.dump, self.kernel, self.given, self.catalogue = dump, kernel, kdbg, catalogue
        self.identity = _identity(dump, kernel)

    def run(self, places: "Places | None") -> Layout:
        own = self._users(places)
        if own is not None:
            return own
        candidates = self.catalogue.candidates(self.identity)
        tried: list[Layout] = []
        for layout in candidates:
            if layout.exact:
                return layout
            if not layout.source.same_build:
                candidates = chain([layout], candidates)
                break
            found = self._agreeing(layout)
            if found is not None:
                return found
            tried.append(layout)
        found = self._best(tried) or self._unknown(chain(tried, candidates))
        if found is None:
            raise self._error()
        return found

    # ---- what is known ----

    @cached_property
    def reader(self) -> "Reader | None":
        try:
            return self.dump.reader(discover=False)
        except KdmpError:
            return None

    @cached_property
    def kdbg(self) -> "DebuggerData | None":
        return self.given or find_kdbg(self.dump, self.reader)

    @cached_property
    def facts(self) -> Facts:
        """All offsets and sizes that are known of this kernel without its symbols."""
        facts = kdbg_facts(self.kdbg)
        stamp, size = self.identity.timestamp, self.identity.size_of_image
        if stamp is not None and size is not None:
            facts |= self.catalogue.listed_offsets(stamp, size)
        return facts | self.derived

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Those of `facts` that are sizes of structures."""
        return {struct: size for (struct, field), size in self.facts.items() if not field}

    @cached_property
    def derived(self) -> Facts:
        return derived_facts(self.dump, self.reader, self.kdbg) if self.reader is not None else {}

    def _disagreements(self, layout: Layout) -> list[tuple[str, str]]:
        """Which facts a layout contradicts. A size of the few members that are public is none."""
        prcb = self.facts.get(("_KPRCB", ""), 0)
        known = layout.size("_KPRCB") if layout.has("_KPRCB") else None
        partial = known is not None and known < prcb // 2
        wrong = layout.disagreements(self.facts)
        return [one for one in wrong if not partial or one not in (("_KPRCB", ""), ("_KPCR", ""))]

    def _verdict(self, layout: Layout) -> Verdict:
        """Whether the processes are read right by a layout."""
        if self.dump.triage is not None or self.reader is None:
            return self._verdict_by_copy(layout)
        heads = (self.dump.ps_active_process_head, self.kdbg.PsActiveProcessHead if self.kdbg else None)
        return check_processes(self.dump, self.reader, layout, heads)

    def _verdict_by_copy(self, layout: Layout) -> Verdict:
        """A triage dump has no list, but a copy of the crashing process: what that shows must agree."""
        if not any(struct == "_EPROCESS" for struct, _ in self.derived):
            return Verdict(None, "the dump holds no process")
        if layout.disagreements(self.derived):
            return Verdict(None, "the copy of the crashing process is not as it says")
        return Verdict(True, "it fits the crashing process")

    # ---- the ways ----

    def _users(self, places: "Places | None") -> Layout | None:
        """From the user's symbol files. What is wrong with those that were named is an error."""
        named = self.dump.symbols if places is None else places
        if named is None and not os.environ.get("KDMP_SYMBOLS"):
            return None
        from kdmp.symbols import isf

        guid, age = self.identity.plain_guid, self.identity.age
        pdb = self.kernel.image.pdb if self.kernel is not None else None
        if guid is None or age is None:
            # A triage dump does not name the symbol file, but the table of builds may.
            known = exact_layout(self.dump, self.kernel, self.catalogue)
            guid, age = (known.build.guid, known.build.age) if known is not None else (None, None)
        try:
            found = isf.find(guid, age, named, pdb or "ntkrnlmp.pdb")
        except SymbolError:
            if named is not None:
                raise
            return None
        if found is None or found.exact:
            return found
        verdict = self._verdict(found)
        if self._disagreements(found) or verdict.right is False:
            raise SymbolError(f"{found.source.file} is not of this kernel: {verdict.why}")
        return self._labelled(found, found.source.match, verdict)

    def _agreeing(self, layout: Layout) -> Layout | None:
        """A layout of the same build number, if nothing at all speaks against it."""
        if self._disagreements(layout):
            return None
        verdict = self._verdict(layout)
        return None if verdict.right is False else self._labelled(layout, layout.source.match, verdict)

    def _best(self, candidates: list[Layout]) -> Layout | None:
        """Of layouts of the same build number, that each contradict a little, the one that agrees best.

        It must read the processes right, and what is known to be elsewhere is left out of it.
        """
        for layout in sorted(candidates, key=lambda layout: len(self._disagreements(layout))):
            wrong = set(self._disagreements(layout)) - self.derived.keys()
            if len(wrong) > _MAX_WRONG or any("." in path for _, path in wrong):
                continue
            verdict = self._verdict(layout)
            if verdict.right:
                found = self._labelled(layout, layout.source.match, verdict)
                return found.sourced(found.source, _Except(wrong), self.sizes)
        return None

    def _unknown(self, candidates: Iterable[Layout]) -> Layout | None:
        """For a build number without layouts: what fits in everything, else in what makes out a process."""
        core = {fact: value for fact, value in self.facts.items() if fact in _CORE}
        # Most layouts fail here, and the rest of them is not looked at.
        fitting = [layout for layout in candidates if not layout.disagreements(core)]
        wrong = [self._disagreements(layout) for layout in fitting]
        for layout, against in zip(fitting, wrong, strict=True):
            compared = sum(layout.has(*fact) for fact in self.facts)
            if against or compared < _MIN_FACTS:
                continue
            verdict = self._verdict(layout)
            if verdict.right:
                found = self._labelled(layout, Match.VERIFIED, verdict)
                return found.sourced(found.source, _lent)
        if core.keys() != _CORE:
            return None
        for layout, against in zip(fitting, wrong, strict=True):
            if not all(layout.has(*fact) for fact in _CORE):
                continue
            verdict = self._verdict(layout)
            if verdict.right:
                found = self._labelled(layout, Match.VERIFIED, verdict)
                agreed = {fact for fact in self.facts if layout.has(*fact)} - set(against)
                source = replace(found.source, evidence=found.source.evidence + "; only what agrees is used")
                return found.sourced(source, _Core(agreed, layout.pointer_size), self.sizes)
        return None

    def _labelled(self, layout: Layout, match: Match, verdict: Verdict) -> Layout:
        """The layout with what speaks for it."""
        compared = sum(layout.has(*fact) for fact in self.facts)
        agreeing = compared - len(self._disagreements(layout))
        words = [f"{agreeing} of {compared} known offsets agree"] if compared else []
        words += [verdict.why] if verdict.right else []
        evidence = ", ".join(words) if verdict.right or agreeing == compared else ""
        return layout.sourced(replace(layout.source, match=match, evidence=evidence))

    def _error(self) -> SymbolError:
        """What to get."""
        image = self.kernel.image if self.kernel is not None else None
        build = f"build {self.dump.build} {self.dump.arch}"
        if image is not None and image.guid is not None and image.age is not None:
            pdb = f"{image.pdb} {image.guid}-{image.age}"
            what = f"; the symbol file is {pdb}"
        else:
            pdb, what = None, ""
            if image is not None:
                version = self.catalogue.identify(image.timestamp, image.size) if image.timestamp else None
                what = f"; get the symbol file of ntoskrnl.exe {image.image_id}"
                what += f" ({version})" if version else ""
        return SymbolError(f"no structure layout is known to fit this kernel ({build}){what}", pdb)


def _lent(field: Field) -> bool:
    """Whether a member may be taken from a layout of another build number that agrees in everything."""
    return field.type.kind != "bits" and field.struct != _NEVER_LENT


class _Except:
    """All members but those that are known to be elsewhere."""

    def __init__(self, wrong: set[tuple[str, str]]) -> None:
        self.wrong = wrong

    def __call__(self, field: Field) -> bool:
        return (field.struct, field.path) not in self.wrong


class _Core:
    """Which members may be taken from a layout that agrees in part: those that agree, and fixed ones."""

    def __init__(self, agreed: set[tuple[str, str]], pointer_size: int) -> None:
        # A path through an embedded structure needs its first member, too.
        self.members = {(struct, part) for struct, path in agreed for part in _beginnings(path)}
        self.members |= {("_KPROCESS", "Header"), ("_KPROCESS", "DirectoryTableBase"), ("_ETHREAD", "Tcb")}
        self.fixed = _FIXED if pointer_size == 8 else _FIXED_32

    def __call__(self, field: Field) -> bool:
        if field.type.kind == "bits":
            return False
        return field.struct in self.fixed or (field.struct, field.path) in self.members


def _beginnings(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))
