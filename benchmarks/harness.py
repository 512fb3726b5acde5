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
RAW = "kdmp_parser, raw translate"  # the method of its C++ object, without the Python around it
VOLATILITY = "volatility3"
MEMPROCFS = "memprocfs"
BOUND = "bound"
LARGE = "kdmp, 64 GiB dump"
ONE = "kdmp, 1 thread"
BOUND_ONE = "bound, 1 thread"
PEERS = (PEER, VOLATILITY, MEMPROCFS)  # the other readers, in the order of the table

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

    @property
    def patience(self) -> float:
        """Seconds that a contender may take for all its samples of a row."""
        return 0.5 if self.quick else 4.0

    @property
    def opening(self) -> float:
        """Seconds that a peer may take to open a dump, or it does not take part."""
        return 3.0 if self.quick else 30.0

    @property
    def sample(self) -> float:
        """Seconds that one sample of a slow contender should take about."""
        return 0.01 if self.quick else 0.05

    def scaled(self, n: int) -> int:
        """Return `n` calls, or a sixteenth of it in a smoke run."""
        return max(1, n // 16) if self.quick else n


@dataclass(frozen=True)
class Claim:
    """What a measurement has to reach.

    `kind` is "ratio" (the contender `against` / ours at least `limit`), "slowdown" (ours / bound at
    most `limit`), "value" (ours at most `limit`, in the row's unit), "same" (the large dump's at
    most `limit` times ours) or "reach" (ours at most `limit`, or at most the bound's if that is more).
    `line` names the promise it belongs to, see claims.py.
    """

    kind: str
    limit: float
    against: str = PEER
    line: str = ""

    def __str__(self) -> str:
        return {
            "ratio": f"≥ {self.limit:.3g}x" + ("" if self.against == PEER else f" of {self.against}"),
            "slowdown": f"≥ {100 / self.limit:.0f} % of bound",
            "value": f"≤ {self.limit:g}",
            "same": f"64 GiB ≤ {self.limit:g}x",
            "reach": f"≤ {self.limit:g} or bound",
        }[self.kind]


@dataclass
class Row:
    """One line of the table: samples of every contender, in `unit` per operation; less is better."""

    group: str
    name: str
    unit: str
    samples: dict[str, list[float]]
    claim: Claim | tuple[Claim, ...] | None = None
    note: str = ""
    missing: dict[str, str] = field(default_factory=dict)  # contender: why it has no figure
    dump: str = ""

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the row has to reach."""
        if self.claim is None:
            return ()
        return self.claim if isinstance(self.claim, tuple) else (self.claim,)

    def median(self, who: str) -> float | None:
        """Return the median of a contender's samples, None if it has none."""
        values = self.samples.get(who)
        return statistics.median(values) if values else None

    def spread(self, who: str) -> tuple[float, float] | None:
        """Return the quartiles of a contender's samples, None if there are fewer than 3."""
        values = self.samples.get(who)
        if not values or len(values) < 3:
            return None
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return low, high

    def ratio(self, who: str) -> float | None:
        """Return the ratio of medians `who` / kdmp: above 1 means that kdmp is faster."""
        ours, theirs = self.median(OURS), self.median(who)
        return theirs / ours if ours and theirs else None

    def judge(self, claim: Claim) -> bool | None:
        """Return whether a claim holds; None if there is nothing to judge it by."""
        ours = self.median(OURS)
        if claim.kind == "ratio":
            ratio = self.ratio(claim.against)
            return None if ratio is None else ratio >= claim.limit
        if claim.kind == "slowdown":
            ratio = self.ratio(BOUND)
            return None if ratio is None else 1 / ratio <= claim.limit
        if claim.kind == "same":
            ratio = self.ratio(LARGE)
            return None if ratio is None else ratio <= claim.limit
        if claim.kind == "reach":
            bound = self.median(BOUND)
            return None if ours is None or bound is None else ours <= max(claim.limit, bound)
        return None if ours is None else ours <= claim.limit

    def beyond(self, claim: Claim) -> bool:
        """Return whether the bound, in the place of kdmp, would not meet the claim either."""
        if claim.kind != "ratio":
            return False
        against = BOUND_ONE if claim.against == ONE else claim.against
        bound, theirs = self.median(BOUND), self.median(against)
        return bool(bound and theirs and theirs / bound < claim.limit)

    def met(self) -> bool | None:
        """Return whether all claims hold; None if there is none or nothing to judge them by."""
        answers = [answer for answer in map(self.judge, self.claims) if answer is not None]
        return all(answers) if answers else None

    def as_json(self, *, samples: bool = True) -> dict[str, Any]:
        """Return everything about the row in JSON types, without the single samples if so wanted."""
        result: dict[str, Any] = {
            "group": self.group,
            "name": self.name,
            "dump": self.dump,
            "unit": self.unit,
            "median": {who: _rounded(self.median(who)) for who in self.samples},
            "quartiles": {who: _rounded(self.spread(who)) for who in self.samples},
            "samples": {who: len(values) for who, values in self.samples.items()},
            "ratio": {who: _rounded(self.ratio(who)) for who in self.samples if who != OURS},
            "claims": [{"claim": str(claim), "met": self.judge(claim)} for claim in self.claims],
            "note": self.note,
            "missing": self.missing,
        }
        if samples:
            result["samples"] = self.samples
        return result


def _rounded(value: Any) -> Any:
    """A number or some of them with 4 significant digits."""
    if isinstance(value, tuple):
        return [_rounded(one) for one in value]
    return None if value is None else float(f"{value:.4g}")


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
    sides: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    warm: bool = True,
    patience: float | None = None,
) -> dict[str, list[float]]:
    """Call every side once per round, the order reversed every other round; return their samples.

    A side whose first call shows that all of them would take longer than `patience` seconds gets fewer, and
    if that call alone takes longer, it is its only sample.
    """
    order = list(sides)
    samples: dict[str, list[float]] = {who: [] for who in order}
    turns = dict.fromkeys(order, rounds)
    if warm:
        for who in order:
            start = time.perf_counter()
            first = sides[who]()
            spent = time.perf_counter() - start
            if patience is not None and spent * rounds > patience:
                turns[who] = int(patience // spent)
                if turns[who] == 0:
                    samples[who].append(first)
    for k in range(rounds):
        for who in order if k % 2 == 0 else reversed(order):
            if k < turns[who]:
                samples[who].append(sides[who]())
    return samples


def time_loops(
    loops: Mapping[str, Loop], rounds: int, *, scale: float = 1.0, patience: float | None = None
) -> dict[str, list[float]]:
    """Time interleaved loops; return nanoseconds per operation, times `scale`."""

    def sample(loop: Loop) -> float:
        start = time.perf_counter_ns()
        n = loop()
        return (time.perf_counter_ns() - start) / n * scale

    with gc_off():
        return interleaved(
            {who: _bind(sample, loop) for who, loop in loops.items()}, rounds, patience=patience
        )


def _bind(sample: Callable[[Loop], float], loop: Loop) -> Callable[[], float]:
    return lambda: sample(loop)


def over(function: Callable[[int], object], arguments: Sequence[int]) -> Loop:
    """Return the loop that calls `function` with every argument."""

    def loop() -> int:
        for argument in arguments:
            function(argument)
        return len(arguments)

    return loop


def over_sized(function: Callable[[int, int], object], arguments: Sequence[int], size: int) -> Loop:
    """Return the loop that calls `function` with every argument and `size`."""

    def loop() -> int:
        for argument in arguments:
            function(argument, size)
        return len(arguments)

    return loop


def for_a_while(function: Callable[[int], object], arguments: Sequence[int], seconds: float) -> Loop:
    """Return the loop over as many of the arguments as take about so many seconds.

    Every time it goes on behind where it was: a reader that keeps its last answers would otherwise be
    measured giving them again.
    """
    some = arguments[: min(16, len(arguments))]
    start = time.perf_counter()
    for argument in some:
        function(argument)
    each = (time.perf_counter() - start) / len(some)
    count = min(max(len(some), int(seconds / max(each, 1e-9))), len(arguments))
    position = len(some)

    def loop() -> int:
        nonlocal position
        if position + count > len(arguments):
            position = 0
        for argument in arguments[position : position + count]:
            function(argument)
        position += count
        return count

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
