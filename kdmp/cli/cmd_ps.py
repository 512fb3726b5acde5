"""`kdmp ps`: the processes.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_file, add_space, add_symbols, open_dump
from kdmp.cli.output import Output, hexa, plural

if TYPE_CHECKING:
    from kdmp.windows.entity import Listing
    from kdmp.windows.processes import Process

HELP = "list the processes, those that the kernel's list hides included"

_TITLES = (
    "pid", "ppid", "name", "session", "threads", "created", "exited", "wow64", "dtb", "eprocess", "hidden",
)  # fmt: skip
_RIGHT = ("pid", "ppid", "session", "threads")


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --tree, --csv, --json, --symbols, --dtb, --paging."""
    add_file(parser)
    parser.add_argument("--tree", action="store_true", help="indent each process under the one that made it")
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")
    add_symbols(parser)
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the processes; exit code 1 if there are none."""
    if args.csv and args.json:
        raise UsageError("--csv and --json exclude each other")
    if args.tree and args.json:
        raise UsageError("--tree is for people; the JSON has each process' ppid")
    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        listing = dump.windows.processes()
        if out.json:
            out.document(
                {
                    "file": args.file,
                    "layout": str(dump.windows.layout_source),
                    "processes": [_facts(process) for process in listing],
                    "problems": [problem.to_dict() for problem in listing.problems],
                }
            )
            return 0 if listing else 1
        rows = [_row(process, depth, args) for process, depth in _ordered(listing, args.tree)]
        if args.csv:
            out.csv(_TITLES, rows)
        else:
            out.table(_TITLES, rows, right=_RIGHT)
            out.line(plural(len(listing), "process").replace("processs", "processes"))
        if not dump.windows.layout_source.exact:
            out.note(f"{args.file}: {dump.windows.layout_source}")
        for problem in listing.problems:
            out.note(f"{args.file}: {problem}")
        return 0 if listing else 1


def _facts(process: "Process") -> dict[str, object]:
    """What is known of a process, and what was lost of it."""
    facts = {name: value for name, value in process.to_dict().items() if value is not None}
    problems = [problem.to_dict() for problem in process.problems]
    return facts | ({"problems": problems} if problems else {})


def _row(process: "Process", depth: int, args: argparse.Namespace) -> list[str]:
    digits = 2 * process.windows.pointer_size
    name = process.full_name or process.name
    # What is the same for almost all is left out for people, not for programs.
    flags = [process.wow64, process.hidden]
    wow64, hidden = (_flag(flag) if args.csv else "yes" if flag else "" for flag in flags)
    return [
        process.show("pid"),
        process.show("ppid"),
        "  " * depth + (name or ("" if args.csv else "?")),
        process.show("session"),
        process.show("thread_count"),
        process.show("create_time"),
        process.show("exit_time"),
        wow64,
        "" if process.dtb is None else hexa(process.dtb),
        hexa(process.address, digits),
        hidden,
    ]


def _flag(flag: bool | None) -> str:
    return "" if flag is None else "yes" if flag else "no"


def _ordered(listing: "Listing[Process]", tree: bool) -> "Iterator[tuple[Process, int]]":
    """The processes with their depths in the tree, all 0 without `tree`.

    Windows uses the ids of the dead again: only who was there first can be the parent.
    """
    if not tree:
        yield from ((process, 0) for process in listing)
        return
    by_pid = {process.pid: process for process in reversed(listing) if process.pid is not None}
    children: dict[int, list[Process]] = {}
    roots: list[Process] = []
    for process in listing:
        parent = None if process.ppid is None else by_pid.get(process.ppid)
        if parent is not None and parent is not process and _older(parent, process):
            children.setdefault(parent.address, []).append(process)
        else:
            roots.append(process)
    seen: set[int] = set()
    for process in (*roots, *listing):  # the latter: whoever is in a circle, where times are lost
        yield from _below(process, children, seen)


def _below(
    root: "Process", children: "dict[int, list[Process]]", seen: set[int]
) -> "Iterator[tuple[Process, int]]":
    waiting = [(root, 0)]
    while waiting:
        process, depth = waiting.pop()
        if process.address in seen:
            continue
        seen.add(process.address)
        yield process, depth
        below: Sequence[Process] = children.get(process.address, ())
        waiting += [(child, depth + 1) for child in reversed(below)]


def _older(parent: "Process", child: "Process") -> bool:
    return parent.create_time is None or child.create_time is None or parent.create_time <= child.create_time
