"""What is promised of speed and memory, and how the rows that measure it are put together.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.harness import BOUND, LARGE, OURS, Claim, Row

# kdmp_parser's raw translation takes 280 ns where a call of kdmp may take 150 ns.
SCALAR_RATIO = 280 / 150

BATCH_RATIO = "batch translate: at least 10 times kdmp_parser's rate"
BATCH_RATE = "batch translate: at least 25 million per second where a plain C walk reaches that"
SCALAR_TRANSLATE = "translate: at most 150 ns per call, scaled by kdmp_parser's raw translate (280 ns)"
SCALAR_READ = "read_u64: at most 150 ns per call, scaled by kdmp_parser's raw translate (280 ns)"
PAGE_READ = "page read: at least 50 times kdmp_parser's"
SEQUENTIAL = "sequential reads: at 80 % of memcpy over the same mapped file"
SCANS = "scans: at 80 % of memmem over the same mapped file"
TWO_THREADS_SCAN = "two threads: at least 1.8 times one thread on scans"
TWO_THREADS_BATCH = "two threads: at least 1.8 times one thread on batches"
OPEN_TIME = "open of the 64 GiB bitmap dump: below 10 ms"
OPEN_MEMORY = "open of the 64 GiB bitmap dump: below 5 MiB"
IMPORT = "import kdmp: below 30 ms"

LINES = (
    BATCH_RATIO,
    BATCH_RATE,
    SCALAR_TRANSLATE,
    SCALAR_READ,
    PAGE_READ,
    SEQUENTIAL,
    SCANS,
    TWO_THREADS_SCAN,
    TWO_THREADS_BATCH,
    OPEN_TIME,
    OPEN_MEMORY,
    IMPORT,
)


@dataclass(frozen=True)
class Verdict:
    """One promise: what was measured for it, row by row, and whether all of it is met."""

    line: str
    measured: tuple[str, ...]
    met: bool | None  # None: nothing to judge it by


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """Return a verdict on every promise."""
    rows = list(rows)
    result = []
    for line in LINES:
        judged = [(row, claim) for row in rows for claim in row.claims if claim.line == line]
        answers = [row.judge(claim) for row, claim in judged]
        known = [answer for answer in answers if answer is not None]
        texts = tuple(_measured(row, claim) for row, claim in judged)
        result.append(Verdict(line, texts, all(known) if known else None))
    return result


def _measured(row: Row, claim: Claim) -> str:
    name = f"{row.name}, {row.dump}" if row.dump else row.name
    met = {True: "", False: " (NOT met)", None: " (not measured)"}[row.judge(claim)]
    if row.judge(claim) is False and row.beyond(claim):
        met = f" (NOT met, nor would the bound: {row.median(BOUND):.3g})"
    ours = row.median(OURS)
    if ours is None:
        return f"{name}: not measured"
    text = f"{ours:.3g} {row.unit}"
    if claim.kind == "ratio":
        theirs, ratio = row.median(claim.against), row.ratio(claim.against)
        if ratio is not None:
            text = f"{ratio:.2f}x ({text}, {claim.against} {theirs:.3g})"
    elif claim.kind in ("slowdown", "reach"):
        bound, ratio = row.median(BOUND), row.ratio(BOUND)
        if ratio is not None and claim.kind == "slowdown":
            text = f"{100 * ratio:.0f} % ({text}, bound {bound:.3g})"
        elif bound is not None:
            text = f"{1e3 / ours:.1f} M/s (a plain C walk: {1e3 / bound:.1f} M/s)"
    elif claim.kind == "same":
        text = f"{text}, 64 GiB {row.median(LARGE) or 0:.3g}"
    return f"{name}: {text}{met}"


def as_table(found: Sequence[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    lines = ["| promise | measured | met |", "|---|---|---|"]
    for one in found:
        met = {True: "yes", False: "NO", None: "not measured"}[one.met]
        lines.append(f"| {one.line} | {'<br>'.join(one.measured)} | {met} |")
    return "\n".join(lines)
