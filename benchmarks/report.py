"""The table, the JSON files and RESULTS.md.

SPDX-License-Identifier: MIT
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import claims, compiler, peers
from benchmarks.harness import BOUND, OURS, PEERS, Row

HEADINGS = ("measurement", "dump", "unit", OURS, *PEERS, BOUND, "other", "wanted", "met")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": compiler.version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "peers": peers.versions(),
    }


def _line_of(path: str, start: str) -> str:
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(start):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def _cpu() -> str:
    return _line_of("/proc/cpuinfo", "model name") or platform.processor() or "unknown"


def _memory() -> str:
    text = _line_of("/proc/meminfo", "MemTotal")
    return f"{int(text.split()[0]) / (1 << 20):.1f} GiB" if text else "unknown"


class Remarks:
    """Reasons and notes, numbered as the table refers to them."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        """Return the number of a remark, a new one if it was not made before."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def table(rows: Sequence[Row], remarks: Remarks) -> str:
    """Return all rows as one Markdown table: medians, quartiles, ratios of medians."""
    lines = [HEADINGS, *(_cells(row, remarks) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADINGS))]
    text = [_line(HEADINGS, widths), "|" + "|".join("-" * (w + 2) for w in widths) + "|"]
    text += [_line(line, widths) for line in lines[1:]]
    return "\n".join(text)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _cells(row: Row, remarks: Remarks) -> tuple[str, ...]:
    shown = (OURS, *PEERS, BOUND)
    others = [f"{who} {_figure(row, who)}" for who in row.samples if who not in shown]
    others += [
        f"{who} — [{remarks.number(why)}]" for who, why in row.missing.items() if who not in shown and why
    ]
    return (
        row.name + (f" [{remarks.number(row.note)}]" if row.note else ""),
        row.dump,
        row.unit,
        *(_cell(row, who, remarks) for who in shown),
        ", ".join(others),
        ", ".join(map(str, row.claims)),
        {True: "yes", False: "NO", None: ""}[row.met()],
    )


def _cell(row: Row, who: str, remarks: Remarks) -> str:
    if row.samples.get(who):
        return _figure(row, who)
    reason = row.missing.get(who)
    return f"— [{remarks.number(reason)}]" if reason else ""


def _figure(row: Row, who: str) -> str:
    """Median, quartiles, and what that is against kdmp."""
    text = number(row.median(who))
    spread = row.spread(who)
    if spread:
        text += f" ({number(spread[0])}..{number(spread[1])})"
    ratio = row.ratio(who) if who != OURS else None
    if ratio is not None:
        text += f" {100 * ratio:.0f} %" if who == BOUND else f" {_times(ratio)}x"
    return text


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 20 else f"{ratio:.2g}" if ratio < 1 else f"{ratio:.1f}"


def number(value: float | None) -> str:
    """Return a figure with three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def notes(remarks: Remarks) -> str:
    """Return the remarks that the table refers to."""
    return "\n".join(f"{k}. {text}" for k, text in enumerate(remarks.texts, 1))


def as_markdown(rows: Sequence[Row], facts: dict[str, Any], command: str, seconds: float) -> str:
    """Return the text of RESULTS.md."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["peers"].items() if version)
    remarks = Remarks()
    figures = table(rows, remarks)
    return "\n".join(
        [
            "# Results",
            "",
            f"Written by `{command}` in {seconds / 60:.1f} minutes; README.md tells how figures are made.",
            "",
            f"* {facts['date']}, {facts['cpu']}, {facts['cores']} cores, {facts['memory']} of memory, "
            f"load {facts['load']} at the end",
            f"* {facts['system']}, {facts['python']}, {facts['compiler']}",
            f"* {versions}",
            "",
            "![How many times longer the other readers take](results.svg)",
            "",
            "## Promises",
            "",
            "Computed from the table below.",
            "",
            claims.as_table(claims.verdicts(rows)),
            "",
            "## Figures",
            "",
            "Medians, less is better; in parentheses the quartiles of the samples, if there are at least 3.",
            "`2.5x`: it takes 2.5 times as long as kdmp. `80 %`: kdmp reaches 80 % of the bound's speed.",
            "`—`: no figure; the number leads to the reason below.",
            "",
            figures,
            "",
            notes(remarks),
            "",
        ]
    )


def as_data(rows: Sequence[Row], facts: dict[str, Any], *, samples: bool) -> dict[str, Any]:
    """Return everything in JSON types, with or without the single samples."""
    verdicts = [
        {"promise": one.line, "measured": list(one.measured), "met": one.met} for one in claims.verdicts(rows)
    ]
    return {
        "machine": facts,
        "arguments": sys.argv[1:],
        "promises": verdicts,
        "rows": [row.as_json(samples=samples) for row in rows],
    }


def write_json(path: Path, data: dict[str, Any], *, indent: int = 1) -> None:
    """Write a JSON file, one row per line if it is small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in data["rows"])
    rest = {key: value for key, value in data.items() if key != "rows"}
    text = json.dumps(rest, indent=indent, ensure_ascii=False)
    path.write_text(text.removesuffix("\n}") + ',\n "rows": [\n' + rows + "\n ]\n}\n")
