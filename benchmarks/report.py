"""The table, the JSON file and RESULTS.md.

SPDX-License-Identifier: MIT
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.bench_core import compiler
from benchmarks.harness import OURS, PEER, Row


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": _compiler(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "peers": peers.versions(),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _compiler() -> str:
    try:
        done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.splitlines()[0]


HEADINGS = ("measurement", "unit", "kdmp", "kdmp_parser", "ratio (min to max)", "other", "claim", "met")


def table(rows: Sequence[Row]) -> str:
    """Return all rows as one Markdown table, medians with ratios of medians."""
    lines = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADINGS))]
    text = [_line(HEADINGS, widths), "|" + "|".join("-" * (w + 2) for w in widths) + "|"]
    text += [_line(line, widths) for line in lines[1:]]
    return "\n".join(text)


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _cells(row: Row) -> tuple[str, ...]:
    spread = row.ratio_range(PEER)
    ratio = row.ratio(PEER)
    ratio_text = (
        f"{_number(ratio)} ({_number(spread[0])} to {_number(spread[1])})" if ratio and spread else ""
    )
    others = []
    for who in row.samples:
        if who not in (OURS, PEER):
            against = row.ratio(who)
            others.append(f"{who} {_number(row.median(who))}" + (f" = {against:.2f}x" if against else ""))
    met = {True: "yes", False: "NO", None: ""}[row.met()]
    return (
        row.name + (" [*]" if row.note else ""),
        row.unit,
        _number(row.median(OURS)) or ("skipped" if OURS in row.missing else ""),
        _number(row.median(PEER)) or ("skipped" if PEER in row.missing else ""),
        ratio_text,
        ", ".join(others),
        str(row.claim) if row.claim else "",
        met,
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def notes(rows: Sequence[Row]) -> str:
    """Return the remarks that the table refers to, and the reasons for skipped columns."""
    texts = {f"[*] {row.note}" for row in rows if row.note}
    texts |= {f"skipped: {reason}" for row in rows for reason in row.missing.values()}
    return "\n".join(f"* {text}" for text in sorted(texts))


def as_markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Return the text of RESULTS.md."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["peers"].items() if version)
    about = [
        f"* {facts['date']}, {facts['cpu']}, {facts['cores']} cores, load {facts['load']} at the end",
        f"* {facts['system']}, {facts['python']}, {facts['compiler']}",
        f"* {versions}",
    ]
    return "\n".join(
        [
            "# Results",
            "",
            "Written by `python -m benchmarks --write`; README.md tells how the figures are made.",
            "Medians; a ratio is the other one's median divided by that of kdmp (above 1: kdmp is faster),",
            "in parentheses the smallest and the largest ratio of one round.",
            "",
            *about,
            "",
            table(rows),
            "",
            notes(rows),
            "",
        ]
    )


def write_json(path: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Write everything, samples included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": facts, "argv": sys.argv[1:], "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(data, indent=1) + "\n")
