"""The user memory of a process in one file: its ranges one after another, and an index of them.

SPDX-License-Identifier: MIT
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from kdmp._kdmp import Gap, KdmpError
from kdmp.extract import Extracted, Writing, check_size, gap_facts, gap_lines
from kdmp.mappings import bounds
from kdmp.scopes import uncollected
from kdmp.targets import Writable, appearing, refuse_source, target, write_all
from kdmp.windows.entity import Problem
from kdmp.windows.processmemory import ProcessMemory
from kdmp.windows.vads import Vad, vads

if TYPE_CHECKING:
    from kdmp.dump import Progress
    from kdmp.windows.processes import Process

__all__ = ["KINDS", "MAX_RANGES", "ExtractedProcess", "Range", "What", "extract_process"]

What: TypeAlias = "str | Iterable[str] | Callable[[Vad], bool] | None"

KINDS = (
    "private", "image", "mapped", "pagefile", "large-pages", "awe", "write-watch", "physical", "rotate",
    "unknown", "none",
)  # fmt: skip
"""What ranges can be: kinds of VADs (`Vad.kind`), "unknown" ones, and memory that is in no VAD."""

MAX_RANGES = 1 << 18
"""Ranges of a process that are written."""

# States of page table entries behind which there is, or was, memory of the process.
_STATES = ("valid", "transition", "prototype", "demand_zero", "pagefile", "subsection", "vad")
_SHOWN = 1 << 12


@dataclass(frozen=True, slots=True)
class Range:
    """A part of the file: `size` bytes at `offset` are those at the address `va`.

    `kind` is that of the VAD, "none" outside all VADs; `protection` that of the whole VAD in words, `file`
    the path behind it, `vad` its address. `missing` bytes are not there; `gaps` says where and why.
    """

    offset: int
    va: int
    size: int
    missing: int
    kind: str
    protection: str | None = None
    file: str | None = None
    vad: int | None = None
    gaps: tuple[Gap, ...] = field(default=(), repr=False)

    @property
    def stop(self) -> int:
        """The address behind it."""
        return self.va + self.size

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what is not known is left out."""
        names = ("offset", "va", "size", "missing", "kind", "protection", "file", "vad")
        facts = {name: getattr(self, name) for name in names}
        facts["gaps"] = [gap_facts(gap) for gap in self.gaps]
        return {name: value for name, value in facts.items() if value is not None}

    def __str__(self) -> str:
        text = f"{self.va:#x} to {self.stop - 1:#x} at {self.offset:#x}: {self.kind}"
        for more in (self.protection, self.file, f"{self.missing} bytes missing" if self.missing else None):
            text += f", {more}" if more else ""
        return text


@dataclass(frozen=True)
class ExtractedProcess(Extracted):
    """What was written of a process: `ranges` in the order of their addresses and of the file.

    `index` is the path of the index, None without one: a JSON object with what `to_dict` gives. `problems` is
    what went wrong with the VADs.
    """

    pid: int | None = None
    name: str | None = None
    ranges: tuple[Range, ...] = field(default=(), repr=False)
    index: str | None = None
    problems: tuple[Problem, ...] = field(default=(), repr=False)

    def at(self, va: int) -> Range | None:
        """Return the range that an address is in, None if it is in none."""
        return next((one for one in self.ranges if one.va <= va < one.stop), None)

    def to_dict(self) -> dict[str, Any]:
        """As of Extracted, with the gaps in the `ranges` they belong to."""
        facts = super().to_dict()
        del facts["gaps"]
        process = {"pid": self.pid, "process": self.name, "index": self.index}
        facts |= {name: value for name, value in process.items() if value is not None}
        facts["ranges"] = [one.to_dict() for one in self.ranges]
        if self.problems:
            facts["problems"] = [problem.to_dict() for problem in self.problems]
        return facts

    def _lines(self) -> Iterator[str]:
        yield f"{self._heading()}, {len(self.ranges)} ranges"
        for one in self.ranges[:_SHOWN]:
            yield f"  {one}"
        if len(self.ranges) > _SHOWN:
            yield f"  ... and {len(self.ranges) - _SHOWN} more ranges"
        if self.gaps:
            yield "missing:"
            yield from gap_lines(self.gaps, self.dropped)
        yield from (f"({problem})" for problem in self.problems)


# ---- which addresses ----


def _wanted(what: What) -> "Callable[[str, Vad | None], bool]":
    """Whether a range is wanted, by its kind and its VAD; ValueError for a kind that there is not."""
    if what is None:
        return lambda kind, vad: True
    if callable(what):
        choose = what
        return lambda kind, vad: vad is not None and bool(choose(vad))
    kinds = frozenset([what] if isinstance(what, str) else what)
    if not kinds <= set(KINDS):
        raise ValueError(f"no such kind: {', '.join(sorted(kinds - set(KINDS)))}; one of {', '.join(KINDS)}")
    return lambda kind, vad: kind in kinds


def _stretches(memory: ProcessMemory, problems: list[Problem]) -> Iterator[tuple[int, int]]:
    """What the page tables know of user space, and what only views lead to, as (start, stop) by start."""
    reader = memory.reader
    triage = reader.paging == "triage"
    window = bounds(reader.owner.arch if triage else reader.paging, 0, None, "user")
    first, last = window if window is not None else (0, 0)
    if triage:
        ranges = sorted((one.address, one.address + one.size) for one in reader.owner.ranges)
        yield from ((start, min(stop, last + 1)) for start, stop in ranges if start <= last)
        return
    at, lost = first, 0
    for one in reader.mappings(half="user"):
        stop = min(one.start + one.size, last + 1)
        yield from ((run.va, run.stop) for run in memory.resident(at, one.start))
        if one.state in _STATES:
            yield one.start, stop
        elif one.state == "table":
            lost += 1
            yield from ((run.va, run.stop) for run in memory.resident(one.start, stop))
        at = max(at, stop)
    yield from ((run.va, run.stop) for run in memory.resident(at, last + 1))
    if lost:
        problems.append(Problem("ranges", f"{lost} stretches of page tables are not in the dump"))


def _joined(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Without overlaps; what touches is one."""
    start = stop = 0
    for first, end in parts:
        if stop > start and first <= stop:
            stop = max(stop, end)
            continue
        if stop > start:
            yield start, stop
        start, stop = max(first, stop), end
    if stop > start:
        yield start, stop


def _split(parts: Iterable[tuple[int, int]], known: list[Vad]) -> "Iterator[tuple[int, int, Vad | None]]":
    """Cut where VADs begin and end; of two VADs that overlap, the first counts."""
    number = 0
    for start, stop in parts:
        while start < stop:
            while number < len(known) and known[number].stop <= start:
                number += 1
            vad = known[number] if number < len(known) and known[number].start < stop else None
            if vad is None:
                yield start, stop, None
                break
            if start < vad.start:
                yield start, vad.start, None
                start = vad.start
            end = min(stop, vad.stop)
            yield start, end, vad
            start = end


def _untouched(known: Iterable[Vad]) -> Iterator[tuple[int, int]]:
    """The private memory that is committed as a whole."""
    for vad in known:
        whole = vad.mem_commit or (vad.commit or 0) >= vad.size >> 12
        if whole and vad.private and vad.kind in ("private", "write-watch"):
            yield vad.start, vad.stop


# ---- writing ----


@uncollected
def extract_process(
    process: "Process",
    where: Writable,
    *,
    what: What,
    untouched: bool,
    index: bool | str | os.PathLike[str] | None,
    overwrite: bool,
    limit: SupportsIndex | None,
    progress: "Progress | None",
) -> ExtractedProcess:
    """As `Process.extract`, which see."""
    wanted = _wanted(what)
    reader = process.reader
    listing = vads(process)
    problems = list(listing.problems)
    memory = ProcessMemory(process, reader, listing)
    stretches = _stretches(memory, problems)
    if untouched:
        stretches = iter(sorted([*stretches, *_untouched(listing)]))
    chosen: list[tuple[int, int, Vad | None]] = []
    try:
        for start, stop, vad in _split(_joined(stretches), list(listing)):
            if not wanted(_kind(vad), vad):
                continue
            if len(chosen) == MAX_RANGES:
                problems.append(
                    Problem("ranges", f"there are more than {MAX_RANGES}: the rest is left out", start)
                )
                break
            chosen.append((start, stop, vad))
    except KdmpError as error:  # page tables without an end
        problems.append(Problem("ranges", str(error), process.address))
    if memory.cut:
        problems.append(
            Problem("ranges", "there are too many prototype PTEs: some shared pages are left out")
        )
    total = sum(stop - start for start, stop, _ in chosen)
    check_size(total, limit)
    name = _index_path(where, index)
    with contextlib.ExitStack() as stack:
        listed = None
        if name is not None:
            refuse_source(name, reader.dump)
            listed = stack.enter_context(appearing(name, overwrite=overwrite))
        with target(where, reader.dump, overwrite=overwrite) as out:
            writing = Writing(out, total, progress)
            ranges = tuple(_write(writing, memory, *one) for one in chosen)
            result = ExtractedProcess(
                **writing.facts(where),
                pid=process.pid,
                name=process.full_name or process.name,
                ranges=ranges,
                index=name,
                problems=tuple(problems),
            )
            if listed is not None:
                write_all(listed, memoryview(json.dumps(result.to_dict(), indent=1).encode() + b"\n"))
    return result


def _kind(vad: Vad | None) -> str:
    return "none" if vad is None else vad.kind or "unknown"


def _write(writing: Writing, memory: ProcessMemory, start: int, stop: int, vad: Vad | None) -> Range:
    offset = writing.out.size
    gaps = writing.copy(memory, start, stop - start)
    facts: dict[str, Any] = {}
    if vad is not None:
        facts = {"protection": vad.protection_name, "file": vad.file, "vad": vad.address}
    return Range(offset, start, stop - start, gaps.size, _kind(vad), gaps=tuple(gaps.kept), **facts)


def _index_path(where: Writable, index: bool | str | os.PathLike[str] | None) -> str | None:
    """Where the index goes: beside the file if it has a path, unless something else is asked for."""
    if index is None or index is True:
        if isinstance(where, str | os.PathLike) and (not os.path.exists(where) or os.path.isfile(where)):
            return f"{os.fsdecode(where)}.json"
        return None
    return None if index is False else os.fsdecode(index)
