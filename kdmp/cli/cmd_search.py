"""`kdmp search`: where something is in memory.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kdmp.cli import spaces
from kdmp.cli.options import UsageError, open_dump
from kdmp.cli.output import Json, Output, Progress, printable
from kdmp.cli.values import address, length

if TYPE_CHECKING:
    from kdmp import Pattern
    from kdmp.scanning import Scan

HELP = "search memory for text, bytes, pointers, regular expressions or YARA rules"

_CSV = ("address", "offset", "size", "what", "owner", "data")
_PREVIEW = 32
_MOST_CONTEXT = 1 << 16


class _Add(argparse.Action):
    """Something to look for: kept as (kind, text) in the order it was given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        kind = (self.option_strings or ["--text"])[0].removeprefix("--")
        texts = values if isinstance(values, list) else [values]
        namespace.wanted = [*(namespace.wanted or []), *((kind, text) for text in texts)]


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE WHAT, --text, --hex, --regex, --pointer, --yara, and what kdmp.cli.spaces adds."""
    spaces.add_arguments(parser)
    parser.set_defaults(wanted=None)
    parser.add_argument(
        "what", metavar="WHAT", nargs="*", action=_Add, default=None, help="text, as with --text"
    )
    group = parser.add_argument_group("what to look for; each may be repeated")
    for option, name, text in (
        ("--text", "TEXT", "text in UTF-8 and UTF-16LE"),
        ("--hex", "BYTES", 'bytes, ? for any digit: "48 8b ?? 05"'),
        ("--regex", "RE", r"a regular expression on bytes, as Python has them: 'MZ.{64}\x00'"),
        ("--pointer", "ADDR[-ADDR]", "a pointer with this value, or one from the first to the last"),
        ("--yara", "RULES", "a file of YARA rules, which needs yara-x; goes with nothing else"),
    ):
        group.add_argument(option, metavar=name, action=_Add, dest="wanted", help=text)
    parser.add_argument(
        "--ignore-case", action="store_true", help="upper and lower case of A to Z alike (text and --regex)"
    )
    parser.add_argument(
        "--align", metavar="N", type=length, default=1, help="only at multiples of N, a power of two"
    )
    parser.add_argument(
        "--context", metavar="N", type=length, help="show the bytes, and N bytes before and after"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the places; exit code 1 if there are none."""
    spaces.check(args)
    wanted: list[tuple[str, str]] = args.wanted or []
    if not wanted:
        raise UsageError("what to look for? WHAT, --text, --hex, --regex, --pointer or --yara")
    if args.context is not None and (args.csv or args.context > _MOST_CONTEXT):
        raise UsageError(f"--context: up to {_MOST_CONTEXT} bytes, and not with --csv")
    rules = [text for kind, text in wanted if kind == "yara"]
    if rules and (len(rules) < len(wanted) or args.ignore_case or args.align > 1 or args.unique):
        raise UsageError("--yara goes with no other pattern, --ignore-case, --align or --unique")
    patterns = [_pattern(kind, text, args) for kind, text in wanted] if not rules else []
    with open_dump(args, out) as dump, spaces.searching(out, "searching") as progress:
        space = spaces.chosen_space(dump, args)
        with _search(space, patterns, rules, args, progress) as found:
            labels = [text for _, text in wanted]
            finds = _Finds(found, space, labels, args)
            if args.json:
                out.listing({"file": args.file, **space.facts()}, "matches", map(finds.facts, finds))
            elif args.csv:
                out.csv(_CSV, map(finds.row, finds))
            else:
                for lines in map(finds.lines, finds):
                    out.lines(lines)
        space.remark(out)
    return 0 if finds.count else 1


def _pattern(kind: str, text: str, args: argparse.Namespace) -> "Pattern":
    """The pattern that an option means; UsageError if it means none."""
    import re

    from kdmp import Pattern

    try:
        if kind == "hex":
            return Pattern.hex(text)
        if kind == "regex":
            return Pattern.regex(text, re.IGNORECASE if args.ignore_case else 0)
        if kind == "pointer":
            first, _, last = text.partition("-")
            return Pattern.pointers(address(first), address(last or first))
        return Pattern.text(text, ignore_case=args.ignore_case)
    except (ValueError, re.error, argparse.ArgumentTypeError) as error:
        raise UsageError(f"{kind} {text[:80]!r}: {error}") from None


def _search(
    space: spaces.Space,
    patterns: "Sequence[Pattern]",
    rules: Sequence[str],
    args: argparse.Namespace,
    progress: Progress | None,
) -> "Scan[Any]":
    from pathlib import Path

    options: dict[str, Any] = {"order": args.order, "limit": args.limit, "progress": progress}
    try:
        if rules:
            paths = [Path(rule) for rule in rules]
            return space.reader.yara(paths, args.start, args.last, **options)
        return space.reader.search(
            patterns, args.start, args.last, alignment=args.align, unique=args.unique,
            threads=spaces.threads(args), **options,
        )  # fmt: skip
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None


class _Finds:
    """What was found, in the forms it is shown in."""

    def __init__(
        self, found: "Scan[Any]", space: spaces.Space, labels: Sequence[str], args: argparse.Namespace
    ) -> None:
        self._found = found
        self._space = space
        self._labels = labels
        self._args = args
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        for find in self._found:
            self.count += 1
            yield find

    def _label(self, find: Any) -> str:
        """Which of the things asked for it is."""
        if hasattr(find, "rule"):
            name = find.rule if find.namespace == "default" else f"{find.namespace}.{find.rule}"
            return f"{name} {find.pattern or ''}".rstrip()
        label: str = self._labels[find.number]
        return label

    def lines(self, find: Any) -> Iterable[str]:
        """A line for people; with --context the bytes below it."""
        wide = spaces.digits(self._space)
        cells = [
            spaces.place_text(find.address, wide),
            f"{spaces.place_text(find.offset):>10}",
            f"{printable(self._label(find)):<16}",
        ]
        if self._args.owner:
            owner = spaces.owner_text(self._space.owners(find.va, find.pa))
            cells.append(f"{printable(owner):<32}")
        if self._args.context is None:
            data = self._space.reader.read(find.address, min(find.size, _PREVIEW))
            cells.append("".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data))
            yield "  ".join(cells).rstrip()
            return
        yield "  ".join(cells).rstrip()
        yield from self._context(find)

    def _around(self, find: Any) -> tuple[int, bytes, list[Any]]:
        """Where the context begins, its bytes, and the holes in it."""
        start = max(find.address - self._args.context, 0)
        end = min(find.address + find.size + self._args.context, 1 << 64)
        return start, *self._space.reader.read_gaps(start, end - start)

    def _context(self, find: Any) -> Iterator[str]:
        from kdmp.hexdump import hexdump_lines

        start, data, gaps = self._around(find)
        yield from hexdump_lines(data, start, holes=gaps, address_digits=spaces.digits(self._space))
        yield ""

    def row(self, find: Any) -> list[str]:
        """Cells of comma-separated values."""
        owners = self._space.owners(find.va, find.pa) if self._args.owner else []
        return [
            spaces.place_text(find.address),
            "" if find.offset is None else spaces.place_text(find.offset),
            str(find.size),
            self._label(find),
            "; ".join(map(str, owners)),
            find.data.hex(),
        ]

    def facts(self, find: Any) -> Json:
        """The find as JSON."""
        facts: Json = {"address": find.address, **find.to_dict(), "what": self._label(find)}
        facts["data"] = find.data.hex()
        if self._args.owner:
            facts["owners"] = spaces.owner_facts(self._space.owners(find.va, find.pa))
        if self._args.context is not None:
            start, data, gaps = self._around(find)
            holes = [{"address": gap.address, "size": gap.size} for gap in gaps]
            facts["context"] = {"address": start, "data": data.hex(), "holes": holes}
        return facts
