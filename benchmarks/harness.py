"""How things are timed: interleaved rounds, medians, and what a measurement is compared with.

Nothing is subtracted: a figure is the time of a plain Python loop divided by its calls, loop
included, the same for every contender.

SPDX-License-Identifier: MIT
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS = "kdmp"
PEER = "kdmp_parser"
BOUND = "bound"
LARGE = "kdmp, 64 GiB dump"

# One contender's loop: does all its calls once and returns how many "operations" that was.
Loop = Callable[[], int]


class Mismatch(Exception):
    """Two contenders gave different answers; their times would mean nothing."""


@dataclass(frozen=True)
class Options:
    """What the command line decided."""

    directory: Path
    quick: bool = False
    rounds: int = 7

    def scaled(self, n: int) -> int:
        """Return `n` calls, or a sixteenth of it in a smoke run."""
        return max(1, n // 16) if self.quick else n


@dataclass(frozen=True)
class Claim:
    """What a measurement has to reach.

    `kind` is "ratio" (the contender `against` / ours at least `limit`), "slowdown" (ours / bound at
    most `limit`), "value" (ours at most `limit`, in the row's unit) or "same" (the large dump's at
    most `limit` times ours).
    """

    kind: str
    limit: float
    against: str = PEER

    def __str__(self) -> str:
        return {
            "ratio": f"≥ {self.limit:g}x" + ("" if self.against == PEER else f" of {self.against}"),
            "slowdown": f"≤ {self.limit:g}x bound",
            "value": f"≤ {self.limit:g}",
            "same": f"64 GiB ≤ {self.limit:g}x",
        }[self.kind]


@dataclass
class Row:
    """One line of the table: samples of every contender, in `unit` per operation; less is better."""

    group: str
    name: str
    unit: str
    samples: dict[str, list[float]]
    claim: Claim | None = None
    note: str = ""
    missing: dict[str, str] = field(default_factory=dict)  # contender: why it has no figure

    def median(self, who: str) -> float | None:
        """Return the median of a contender's samples, None if it has none."""
        values = self.samples.get(who)
        return statistics.median(values) if values else None

    def ratio(self, who: str) -> float | None:
        """Return the ratio of medians `who` / kdmp: above 1 means that kdmp is faster."""
        ours, theirs = self.median(OURS), self.median(who)
        return theirs / ours if ours and theirs else None

    def ratio_range(self, who: str) -> tuple[float, float] | None:
        """Return the smallest and largest ratio of any two samples of the same round."""
        pairs = [
            b / a for a, b in zip(self.samples.get(OURS, ()), self.samples.get(who, ()), strict=False) if a
        ]
        return (min(pairs), max(pairs)) if pairs else None

    def met(self) -> bool | None:
        """Return whether the claim holds; None if there is no claim or nothing to judge it by."""
        if self.claim is None:
            return None
        ours = self.median(OURS)
        if self.claim.kind == "ratio":
            ratio = self.ratio(self.claim.against)
            return None if ratio is None else ratio >= self.claim.limit
        if self.claim.kind == "slowdown":
            ratio = self.ratio(BOUND)
            return None if ratio is None else 1 / ratio <= self.claim.limit
        if self.claim.kind == "same":
            ratio = self.ratio(LARGE)
            return None if ratio is None else ratio <= self.claim.limit
        return None if ours is None else ours <= self.claim.limit

    def as_json(self) -> dict[str, Any]:
        """Return everything about the row in JSON types."""
        return {
            "group": self.group,
            "name": self.name,
            "unit": self.unit,
            "samples": self.samples,
            "median": {who: self.median(who) for who in self.samples},
            "ratio": {who: self.ratio(who) for who in self.samples if who != OURS},
            "claim": str(self.claim) if self.claim else None,
            "met": self.met(),
            "note": self.note,
            "missing": self.missing,
        }


@contextmanager
def gc_off() -> Iterator[None]:
    """Keep the garbage collector out of the figures."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def interleaved(
    sides: Mapping[str, Callable[[], float]], rounds: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Call every side once per round, the order reversed every other round; return their samples."""
    order = list(sides)
    if warm:
        for who in order:
            sides[who]()
    samples: dict[str, list[float]] = {who: [] for who in order}
    for k in range(rounds):
        for who in order if k % 2 == 0 else reversed(order):
            samples[who].append(sides[who]())
    return samples


def time_loops(loops: Mapping[str, Loop], rounds: int, *, scale: float = 1.0) -> dict[str, list[float]]:
    """Time interleaved loops; return nanoseconds per operation, times `scale`."""

    def sample(loop: Loop) -> float:
        start = time.perf_counter_ns()
        n = loop()
        return (time.perf_counter_ns() - start) / n * scale

    with gc_off():
        return interleaved({who: _bind(sample, loop) for who, loop in loops.items()}, rounds)


def _bind(sample: Callable[[Loop], float], loop: Loop) -> Callable[[], float]:
    return lambda: sample(loop)


def over(function: Callable[[int], object], arguments: Sequence[int]) -> Loop:
    """Return the loop that calls `function` with every argument."""

    def loop() -> int:
        for argument in arguments:
            function(argument)
        return len(arguments)

    return loop


def expect_equal(what: str, answers: Mapping[str, object]) -> None:
    """Raise Mismatch unless all contenders gave the same answer."""
    first = next(iter(answers.values()))
    for who, answer in answers.items():
        if answer != first:
            raise Mismatch(f"{what}: {who} answers {_short(answer)}, {next(iter(answers))} {_short(first)}")


def _short(value: object) -> str:
    text = hex(value) if isinstance(value, int) else repr(value)
    return text if len(text) < 100 else text[:100] + "..."
