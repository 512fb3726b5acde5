"""Processes, threads and modules that came, went or changed from one dump to another.

SPDX-License-Identifier: MIT
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kdmp._kdmp import KdmpError
from kdmp.windows.entity import Entity, Listing, Problem, plain, show

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.windows.modules import Module
    from kdmp.windows.processes import Process
    from kdmp.windows.threads import Thread

__all__ = ["Changes", "EntityChange", "module_changes", "process_changes", "thread_changes"]

E = TypeVar("E", bound=Entity)

# What tells one from another that has its place, and what may change while it stays the same.
_PROCESS_KEY = ("pid", "create_time")
_PROCESS_FACTS = (
    "name", "ppid", "session", "exit_time", "exited", "exit_status", "thread_count", "handle_count",
    "protection", "dtb", "token", "job", "hidden",
)  # fmt: skip
_THREAD_KEY = ("tid", "pid", "create_time")
_THREAD_FACTS = (
    "name", "state", "wait_reason", "priority", "base_priority", "exit_time", "terminated",
    "win32_start_address", "context_switches", "kernel_time", "user_time", "impersonating",
    "attached_process",
)  # fmt: skip
_MODULE_KEY = ("name", "size", "timestamp")
_MODULE_FACTS = ("path", "entry", "flags", "load_count")


@dataclass(frozen=True, slots=True)
class EntityChange(Generic[E]):
    """One that is in both dumps and changed: as it is in the first and in the second, and the facts that
    differ by name, (old, new)."""

    before: E
    after: E
    facts: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        parts = (f"{name} {self.show(name)}" for name in self.facts)
        return f"{self.after!r}: {', '.join(parts)}"

    def show(self, name: str) -> str:
        """Return how a fact changed as text: "5 -> 7"."""
        hexadecimal = name in self.after.HEX
        old, new = (show(value, hexadecimal=hexadecimal) or "-" for value in self.facts[name])
        return f"{old} -> {new}"

    def to_dict(self) -> dict[str, Any]:
        """Return address and facts as plain values."""
        facts = {name: {"old": plain(old), "new": plain(new)} for name, (old, new) in self.facts.items()}
        return {"address": self.after.address, "facts": facts}


@dataclass(slots=True)
class Changes(Generic[E]):
    """What became of the entities of one kind: those that `came`, have `gone` (as the first dump has them),
    or `changed`. `problems` says what could not be compared; without a Windows view of both dumps
    `available` is False, and the lists are empty."""

    came: list[E] = field(default_factory=list)
    gone: list[E] = field(default_factory=list)
    changed: list[EntityChange[E]] = field(default_factory=list)
    problems: tuple[Problem, ...] = ()
    available: bool = True

    def __bool__(self) -> bool:
        return bool(self.came or self.gone or self.changed)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, see `Entity.to_dict` and `EntityChange.to_dict`."""
        return {
            "available": self.available,
            "came": [one.to_dict() for one in self.came],
            "gone": [one.to_dict() for one in self.gone],
            "changed": [change.to_dict() for change in self.changed],
            "problems": [problem.to_dict() for problem in self.problems],
        }


def process_changes(first: "Dump", second: "Dump") -> "Changes[Process]":
    """Compare the processes: one is told by EPROCESS, id and creation time; an id that was used again is
    one gone and one come."""
    return _changes(
        "processes",
        lambda dump: dump.windows.processes(),
        (first, second),
        lambda one: one.address,
        _PROCESS_KEY,
        _PROCESS_FACTS,
    )


def thread_changes(first: "Dump", second: "Dump") -> "Changes[Thread]":
    """Compare the threads: one is told by ETHREAD, ids and creation time."""
    return _changes(
        "threads",
        lambda dump: dump.windows.threads(),
        (first, second),
        lambda one: one.address,
        _THREAD_KEY,
        _THREAD_FACTS,
    )


def module_changes(first: "Dump", second: "Dump") -> "Changes[Module]":
    """Compare the kernel's modules: one is told by base, name, size and time stamp."""
    return _changes(
        "modules",
        lambda dump: dump.windows.modules(),
        (first, second),
        lambda one: one.base,
        _MODULE_KEY,
        _MODULE_FACTS,
    )


def _changes(
    what: str,
    listing: "Callable[[Dump], Listing[E]]",
    dumps: "tuple[Dump, Dump]",
    place: Callable[[E], int],
    key: tuple[str, ...],
    facts: tuple[str, ...],
) -> Changes[E]:
    lists: list[Listing[E]] = []
    problems: list[Problem] = []
    for dump, which in zip(dumps, ("first", "second"), strict=True):
        try:
            found = listing(dump)
        except (KdmpError, OverflowError) as error:
            return Changes(problems=(Problem(what, f"{which} dump: {error}"),), available=False)
        if not found:
            why = "; ".join(problem.why for problem in found.problems) or "there are none"
            return Changes(problems=(Problem(what, f"{which} dump: {why}"),), available=False)
        lists.append(found)
        problems += [
            Problem(problem.what, f"{which} dump: {problem.why}", problem.address)
            for problem in found.problems
        ]
    old, new = ({place(one): one for one in reversed(found)} for found in lists)
    result: Changes[E] = Changes()
    unknown: Counter[str] = Counter()
    for one in _once(lists[0], place):
        other = new.get(place(one))
        if other is None or not _same(one, other, key):
            result.gone.append(one)
    for one in _once(lists[1], place):
        before = old.get(place(one))
        if before is None or not _same(before, one, key):
            result.came.append(one)
            continue
        differing = _differing(before, one, facts, unknown)
        if differing:
            result.changed.append(EntityChange(before, one, differing))
    problems += [Problem(name, f"not known of {count} {what}") for name, count in unknown.items()]
    result.problems = tuple(problems)
    return result


def _once(listing: Iterable[E], place: Callable[[E], int]) -> list[E]:
    """The entities without those whose place was there before: a damaged list may repeat itself."""
    return list({place(one): one for one in reversed(list(listing))}.values())[::-1]


def _lost(entity: Entity, name: str) -> bool:
    """Whether a fact is None because it could not be read."""
    return getattr(entity, name) is None and any(problem.what == name for problem in entity.problems)


def _same(before: Entity, after: Entity, key: tuple[str, ...]) -> bool:
    """Whether two in one place are the same one; what cannot be read of either says nothing."""
    return all(
        plain(getattr(before, name)) == plain(getattr(after, name))
        or _lost(before, name)
        or _lost(after, name)
        for name in key
    )


def _differing(
    before: Entity, after: Entity, facts: tuple[str, ...], unknown: Counter[str]
) -> dict[str, tuple[Any, Any]]:
    found = {}
    for name in facts:
        old, new = getattr(before, name), getattr(after, name)
        if plain(old) == plain(new):
            continue
        if _lost(before, name) or _lost(after, name):
            unknown[name] += 1
        else:
            found[name] = (old, new)
    return found
