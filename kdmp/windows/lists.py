"""Walks of LIST_ENTRY lists that hostile or torn memory cannot lead astray.

A list is walked forward from its head through Flink. Where that breaks (an entry that is not in the dump,
a pointer to nowhere, a cycle that misses the head) it is walked backward from the head through Blink, too,
and what only that way reaches is appended: between the two parts entries may be missing.

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass
from typing import Protocol

from kdmp._kdmp import KdmpError

__all__ = ["MAX_ENTRIES", "LinkWalk", "walk_list"]

# More entries than any list of processes, threads or modules has; a bound for what damage can cost.
MAX_ENTRIES = 1 << 18


class _Memory(Protocol):
    def read_uint(self, va: int, size: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class LinkWalk:
    """A walk of a list: `links` are the addresses of its LIST_ENTRYs, in list order, without the head.

    `complete` says that the forward walk came back to the head. `repaired` counts the entries that only the
    backward walk reached; `problems` tells in words, with the address where each was met, what was wrong.
    `unread` are addresses that an entry names as its neighbour but whose own links cannot be read: garbage,
    or an entry on a page that is not in the dump. One that both walks end at is an entry, and in `links`.
    `gap` says that the two walks did not meet: entries between them may be missing.
    """

    links: tuple[int, ...]
    complete: bool
    repaired: int
    problems: tuple[tuple[str, int], ...]
    unread: tuple[int, ...] = ()
    gap: bool = False


def walk_list(memory: _Memory, head: int, pointer_size: int, limit: int = MAX_ENTRIES) -> LinkWalk:
    """Walk the list whose head (a LIST_ENTRY) is at `head`; at most `limit` entries.

    Never raises for what is in memory: a head that cannot be read is a problem, too.
    """
    ahead = _Walk(memory, head, pointer_size, limit)
    ahead.run()
    if ahead.closed:
        return LinkWalk(tuple(ahead.entries), True, 0, tuple(ahead.problems))
    behind = _Walk(memory, head, pointer_size, limit, backward=True, stop=set(ahead.entries))
    behind.run()
    found = behind.entries[::-1]
    problems = ahead.problems + behind.problems
    if found:
        problems.append((f"{len(found)} entries were found only backward, through Blink", head))
    unread = tuple({walk.unread for walk in (ahead, behind) if walk.unread is not None})
    if len(unread) == 1 and ahead.unread == behind.unread:
        return LinkWalk((*ahead.entries, *unread, *found), False, len(found), tuple(problems))
    gap = not behind.closed or behind.met != [head, *ahead.entries][-1]
    return LinkWalk((*ahead.entries, *found), False, len(found), tuple(problems), unread, gap)


class _Walk:
    """One walk, through Flink or Blink. `stop` are entries that end it as the head does."""

    def __init__(
        self,
        memory: _Memory,
        head: int,
        width: int,
        limit: int,
        *,
        backward: bool = False,
        stop: set[int] | None = None,
    ) -> None:
        self.memory, self.head, self.width, self.limit = memory, head, width, limit
        self.names = ("Blink", "Flink") if backward else ("Flink", "Blink")
        self.link, self.other = (width, 0) if backward else (0, width)
        self.check = not backward  # the forward walk has told already
        self.stop = stop or set()
        self.entries: list[int] = []
        self.problems: list[tuple[str, int]] = []
        self.closed = False
        self.met: int | None = None
        self.unread: int | None = None

    def run(self) -> None:
        """Walk until the head, or something that is wrong, is met."""
        at, previous, seen = self.head, self.head, set[int]()
        while True:
            following = self._read(at + self.link)
            if following is None:
                who = "the head" if at == self.head else f"the entry at {at:#x}"
                by = "" if at == self.head else f", to which the entry at {previous:#x} leads"
                self.problems.append((f"{self.names[0]} of {who} cannot be read{by}", at))
                if at != self.head:
                    self.unread = self.entries.pop()
                return
            if self.check and at != self.head:
                self._check_back(at, previous)
            if following == self.head or following in self.stop:
                self.closed, self.met = True, following
                return
            wrong = self._wrong(following, seen)
            if wrong:
                self.problems.append((f"{self.names[0]} of the entry at {at:#x} {wrong}", at))
                return
            seen.add(following)
            self.entries.append(following)
            at, previous = following, at

    def _read(self, va: int) -> int | None:
        try:
            return self.memory.read_uint(va, self.width)
        except (KdmpError, OverflowError):
            return None

    def _check_back(self, at: int, previous: int) -> None:
        back = self._read(at + self.other)
        if back is not None and back != previous:
            self.problems.append(
                (f"{self.names[1]} of the entry at {at:#x} is {back:#x}, not {previous:#x}", at)
            )

    def _wrong(self, following: int, seen: set[int]) -> str | None:
        """What speaks against the next entry, None if nothing does."""
        if following in seen:
            return f"leads back to {following:#x}: a cycle"
        if len(self.entries) >= self.limit:
            return f"goes on after {self.limit} entries"
        # An address of a LIST_ENTRY: aligned, not in the first 64 KiB, canonical even with 5 levels.
        if following % self.width or following < 0x10000:
            return f"is {following:#x}, no address"
        if self.width == 8 and following >> 56 not in (0, 0xFF):
            return f"is {following:#x}, no address"
        return None
