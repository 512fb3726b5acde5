"""Which lines of csrc the tests execute, from what gcc's --coverage left behind.

    python tools/coverage.py BUILD [--explained FILE]

BUILD holds the objects of every instrumented build, of the extension, the C tests and the fuzz
targets: a line that one of them executed is covered. Prints the figures of each file, each line that
no test executes and why. Exit status 1 if such a line has no reason in tests/coverage.txt, if a reason
there fits no such line any more, or if less than 95 % are covered.

That file has one paragraph a reason:

    csrc/file.c some_function
    | if (some_call() < 0)
    |     return -1;
    Why no test makes some_call() fail.

The quote is consecutive lines of that function, indented as one likes; it explains those of its lines
that are not covered, wherever in the function it occurs. A quote of lines around them tells alike ones
apart.

SPDX-License-Identifier: MIT
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPLAINED = ROOT / "tests" / "coverage.txt"
LEAST = 95.0


@dataclass
class Source:
    """What was measured of one file."""

    text: list[str]  # without indentation; line 1 is text[0]
    counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # of the lines with code
    functions: dict[int, str] = field(default_factory=lambda: defaultdict(str))  # "": inlined everywhere

    def uncovered(self) -> list[int]:
        return sorted(line for line, count in self.counts.items() if not count)

    @property
    def covered(self) -> int:
        return len(self.counts) - len(self.uncovered())


@dataclass
class Reason:
    """A paragraph of tests/coverage.txt."""

    path: str
    function: str
    quote: list[str]
    why: str
    at: int  # its line there

    def lines(self, source: Source) -> set[int]:
        """The uncovered lines it explains."""
        size = len(self.quote)
        return {
            line
            for start in range(len(source.text) - size + 1)
            if source.text[start : start + size] == self.quote
            for line in range(start + 1, start + size + 1)
            if source.counts.get(line) == 0 and source.functions[line] in (self.function, "")
        }


def read_reasons(text: str) -> list[Reason]:
    """The paragraphs of tests/coverage.txt; ValueError says which one is not whole."""
    reasons: list[Reason] = []
    paragraph: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            paragraph.append(line.strip())
            continue
        if paragraph:
            quote = [part[1:].strip() for part in paragraph if part.startswith("|")]
            why = " ".join(part for part in paragraph[1:] if not part.startswith("|"))
            place = paragraph[0].split()
            start = number - len(paragraph)
            if len(place) != 2 or not quote or not why:
                raise ValueError(f"line {start}: expected file and function, quoted lines, a reason")
            reasons.append(Reason(*place, quote, why, start))
        paragraph = []
    return reasons


def _reports(path: Path) -> Iterator[tuple[str, dict]]:
    """What gcov says of an object, executed or not: each file below csrc that is in it."""
    command = ["gcov", "--json-format", "--stdout", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for report in map(json.loads, done.stdout.splitlines()):
        for entry in report["files"]:
            source = Path(report["current_working_directory"], entry["file"]).resolve()
            if source.is_relative_to(ROOT / "csrc"):
                yield source.relative_to(ROOT).as_posix(), entry


def measure(build: Path) -> dict[str, Source]:
    """The files below csrc, by their path in the repository."""
    sources: dict[str, Source] = {}
    for path in sorted(build.rglob("*.gcno")):
        for name, entry in _reports(path):
            if name not in sources:
                text = (ROOT / name).read_text("utf-8").splitlines()
                sources[name] = Source([line.strip() for line in text])
            for line in entry["lines"]:
                sources[name].counts[line["line_number"]] += line["count"]
            for function in entry["functions"]:
                lines = range(function["start_line"], function["end_line"] + 1)
                sources[name].functions.update(dict.fromkeys(lines, function["name"]))
    return dict(sorted(sources.items()))


def print_figures(sources: dict[str, Source]) -> float:
    """A line a file; returns the total in percent."""
    print(f"{'file':32} {'lines':>6} {'covered':>8} {'%':>7}")
    rows = [(name, len(source.counts), source.covered) for name, source in sources.items()]
    for folder in ("csrc/python/", "csrc/"):
        below = [row for row in rows if row[0].startswith(folder)]
        rows.append((f"total of {folder[:-1]}", sum(row[1] for row in below), sum(row[2] for row in below)))
    percent = 0.0
    for name, lines, covered in rows:
        percent = 100 * covered / lines if lines else 100.0
        print(f"{name:32} {lines:6} {covered:8} {percent:7.2f}")
    return percent


def judge(sources: dict[str, Source], reasons: list[Reason]) -> list[str]:
    """Print each uncovered line with its reason; returns what is wrong."""
    wrong = []
    found: dict[tuple[str, int], str] = {}
    for reason in reasons:
        lines = reason.lines(sources[reason.path]) if reason.path in sources else set()
        if not lines:
            wrong.append(f"coverage.txt:{reason.at}: fits no uncovered line of {reason.function} any more")
        found.update(dict.fromkeys(((reason.path, line) for line in lines), reason.why))
    for name, source in sources.items():
        for line in source.uncovered():
            why = found.get((name, line))
            print(f"{name}:{line}: {source.functions[line]}: {source.text[line - 1]}")
            print(f"    {why or 'NOT EXPLAINED'}")
            if why is None:
                wrong.append(f"{name}:{line}: not covered, not explained: {source.text[line - 1]}")
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("build", type=Path, help="folder with the objects and what they counted")
    parser.add_argument("--explained", type=Path, default=EXPLAINED, help="the reasons (tests/coverage.txt)")
    args = parser.parse_args(argv)
    sources = measure(args.build)
    if not sources:
        parser.error(f"nothing below {args.build} was built from csrc with --coverage")
    reasons = read_reasons(args.explained.read_text("utf-8"))
    percent = print_figures(sources)
    wrong = judge(sources, reasons)
    if percent < LEAST:
        wrong.append(f"{percent:.2f} % of the lines are covered, expected {LEAST:.0f} %")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
