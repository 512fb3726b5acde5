"""Where the results of a command go: aligned text, rich tables on a terminal, or JSON.

Results are written to stdout, notes and progress to stderr. Text from a dump is never sent to a
terminal as it is: control characters are shown as escapes.

JSON convention: addresses, sizes and register values are integers, times are ISO 8601 with their
offset, byte strings are hexadecimal text, and what a dump does not say is left out.

SPDX-License-Identifier: MIT
"""

import contextlib
import importlib.util
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TextIO

Json = dict[str, Any]
Progress = Callable[[int, int], None]


def printable(text: str) -> str:
    """`text` with everything that is not a visible character or a space as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def hexa(value: int, digits: int = 0) -> str:
    """`value` as people read addresses: 0x and at least `digits` hexadecimal digits."""
    return f"0x{value:0{digits}x}"


def bytes_text(size: int) -> str:
    """A size in bytes, and in a larger unit when that helps: `8192 (8 KiB)`."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size} ({size / (1 << shift):.4g} {unit})"
    return str(size)


def plural(count: int, noun: str) -> str:
    """`1 page`, `2 pages`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Output:
    """The two streams of a command. `json` tells whether the user wants JSON instead of text."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    # -- results ---------------------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        """One line of text to stdout. What came from a dump must have gone through `printable`."""
        _write(sys.stdout, text + "\n")

    def lines(self, texts: Iterable[str]) -> None:
        """Many lines to stdout, in bunches: a line at a time would be slow."""
        lines = iter(texts)
        while bunch := list(itertools.islice(lines, 1024)):
            self.line("\n".join(bunch))

    def data(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes to stdout, as they are."""
        sys.stdout.flush()
        sys.stdout.buffer.write(data)

    def document(self, value: Json) -> None:
        """One JSON object to stdout."""
        _write(sys.stdout, json.dumps(value, indent=2, default=_json_default) + "\n")

    def listing(self, facts: Json, name: str, items: Iterable[Json]) -> None:
        """One JSON object to stdout: `facts`, and behind them a list that is written as it comes."""
        head = json.dumps({**facts, name: []}, indent=2, default=_json_default).removesuffix("]\n}")
        _write(sys.stdout, head)
        separator = "\n    "
        for item in items:
            _write(sys.stdout, separator + json.dumps(item, default=_json_default))
            separator = ",\n    "
        _write(sys.stdout, ("]" if separator[0] == "\n" else "\n  ]") + "\n}\n")

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Label and value pairs, one per line, aligned; an empty label continues the one above."""
        rows = [(label, printable(value)) for label, value in facts]
        width = max((len(label) for label, _ in rows), default=0)
        if rich := self._rich():
            rich.facts(rows)
            return
        for label, value in rows:
            self.line(f"{label:<{width}}  {value}".rstrip())

    def table(
        self,
        titles: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        right: Sequence[str] = (),
        widths: Sequence[int] | None = None,
    ) -> None:
        """A table with a title line; the columns named in `right` are aligned to the right.

        With `widths` (at least so many characters per column) plain rows are written as they come,
        not collected first.
        """
        cells: Iterable[list[str]] = ([printable(cell) for cell in row] for row in rows)
        if rich := self._rich():
            rich.table(titles, list(cells), right)
            return
        if widths is None:
            cells = list(cells)
            widths = [max((len(row[k]) for row in cells), default=0) for k in range(len(titles))]
        widths = [max(len(title), width) for title, width in zip(titles, widths, strict=True)]
        for row in itertools.chain([list(titles)], cells):
            aligned = (
                cell.rjust(width) if title in right else cell.ljust(width)
                for cell, width, title in zip(row, widths, titles, strict=True)
            )
            self.line("  ".join(aligned).rstrip())

    def csv(self, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Comma-separated values with a title line, quoted where they must be; one row a line."""
        import csv

        lines = itertools.chain([list(titles)], ([printable(cell) for cell in row] for row in rows))
        while bunch := list(itertools.islice(lines, 1024)):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(bunch)
            _write(sys.stdout, text.getvalue())

    def _rich(self) -> Any:
        """The rich face of stdout, or None: not a terminal, or rich is not installed."""
        if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
            return None
        from kdmp.cli import richtext

        return richtext

    # -- everything else -------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """One remark to stderr."""
        _write(sys.stderr, f"kdmp: {printable(text)}\n")

    @contextlib.contextmanager
    def progress(self, title: str, *, always: bool = False) -> Iterator[Progress | None]:
        """A progress bar on stderr, to be called with (done, total).

        If stderr is no terminal it is None, or, with `always`, plain lines.
        """
        if not sys.stderr.isatty():
            yield from _progress_lines(title) if always else iter([None])
        elif importlib.util.find_spec("rich") is not None:
            from kdmp.cli import richtext

            with richtext.progress(title) as update:
                yield update
        else:
            yield from _plain_progress(title)


def _progress_lines(title: str) -> Iterator[Progress]:
    shown = -1

    def update(done: int, total: int) -> None:
        nonlocal shown
        tenth = 10 * done // total if total else 10
        if tenth != shown:
            shown = tenth
            _write(sys.stderr, f"kdmp: {title} {10 * tenth}%\n")
            sys.stderr.flush()

    yield update


def _plain_progress(title: str) -> Iterator[Progress]:
    shown = -1

    def update(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total if total else 100
        if percent != shown:
            shown = percent
            _write(sys.stderr, f"\r{title} {percent:3d}%")
            sys.stderr.flush()

    try:
        yield update
    finally:
        if shown >= 0:
            _write(sys.stderr, "\n")


def _write(stream: TextIO, text: str) -> None:
    """Write text that the stream's encoding may not know every character of."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _json_default(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")
