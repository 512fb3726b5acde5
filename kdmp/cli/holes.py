"""The holes of a read: collected, merged and told on stderr.

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdmp.cli.output import Json, Output, plural

if TYPE_CHECKING:
    from kdmp import UnreadableError

_SHOWN = 8


@dataclass
class Hole:
    """`size` missing bytes at `address`, and why."""

    address: int
    size: int
    reason: "UnreadableError"

    def _cause(self) -> tuple[type, object]:
        return type(self.reason), getattr(self.reason, "state", None)

    def goes_on_with(self, other: "Hole") -> bool:
        """Whether `other` follows immediately and is missing for the same kind of reason."""
        return self.address + self.size == other.address and self._cause() == other._cause()


class Holes:
    """Holes in ascending order; neighbours with the same kind of reason are one.

    At most `limit` are kept (None: all), but all are counted: `count`, and `missing` bytes.
    """

    def __init__(self, *, limit: int | None) -> None:
        self.kept: list[Hole] = []
        self.count = 0
        self.missing = 0
        self._limit = limit
        self._last: Hole | None = None

    def add(self, hole: Hole) -> None:
        """Add a hole behind the ones that are there."""
        self.missing += hole.size
        if self._last is not None and self._last.goes_on_with(hole):
            self._last.size += hole.size
            return
        self._last = Hole(hole.address, hole.size, hole.reason)
        self.count += 1
        if self._limit is None or self.count <= self._limit:
            self.kept.append(self._last)

    def report(self, out: Output, wanted: int) -> None:
        """Say on stderr how much of `wanted` bytes is missing, where, and why."""
        if not self.count:
            return
        out.note(f"{self.missing} of {plural(wanted, 'byte')} missing, in {plural(self.count, 'hole')}:")
        for hole in self.kept[:_SHOWN]:
            last = hole.address + hole.size - 1
            out.note(f"  {hole.address:#x} to {last:#x}: {hole.reason}")
        if self.count > _SHOWN:
            out.note(f"  ... and {plural(self.count - _SHOWN, 'more hole')}")


def hole_facts(hole: Hole) -> Json:
    """A hole as JSON: `address`, `size`, `type` of the reason and its `message`."""
    facts: Json = {"address": hole.address, "size": hole.size}
    state = getattr(hole.reason, "state", None)
    if state is not None:
        facts["state"] = state
    return {**facts, "type": type(hole.reason).__name__, "message": str(hole.reason)}
