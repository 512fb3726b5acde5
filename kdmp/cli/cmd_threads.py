"""`kdmp threads`: the threads of one process or of all.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_file, add_space, add_symbols, open_dump
from kdmp.cli.output import Output, hexa, plural
from kdmp.cli.processes import add_process, chosen

if TYPE_CHECKING:
    from kdmp.windows.entity import Listing
    from kdmp.windows.session import Windows
    from kdmp.windows.threads import Thread

HELP = "list the threads: state, what they wait for, where they began"

_TITLES = (
    "pid", "tid", "process", "state", "waits for", "priority", "created", "start", "teb", "ethread", "cpu",
)  # fmt: skip
_RIGHT = ("pid", "tid", "priority")
_WAITING = 5  # KTHREAD_STATE


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --pid, --name, --csv, --json, --symbols, --dtb, --paging."""
    add_file(parser)
    add_process(parser)
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")
    add_symbols(parser)
    add_space(parser)


def _threads(windows: "Windows", args: argparse.Namespace) -> "Listing[Thread]":
    """The threads of the processes that were named, of all without."""
    from kdmp.windows.entity import Listing
    from kdmp.windows.threads import Thread

    if args.pid is None and args.name is None:
        return windows.threads()
    lists = [process.threads() for process in chosen(windows, args)]
    problems = [problem for one in lists for problem in one.problems]
    return Listing([thread for one in lists for thread in one], problems, Thread)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the threads; exit code 1 if there are none."""
    if args.csv and args.json:
        raise UsageError("--csv and --json exclude each other")
    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        windows = dump.windows
        listing = _threads(windows, args)
        if out.json:
            out.document(
                {
                    "file": args.file,
                    "layout": str(windows.layout_source),
                    "threads": [_facts(thread) for thread in listing],
                    "problems": [problem.to_dict() for problem in listing.problems],
                }
            )
            return 0 if listing else 1
        rows = [_row(thread, args) for thread in listing]
        if args.csv:
            out.csv(_TITLES, rows)
        else:
            out.table(_TITLES, rows, right=_RIGHT)
            out.line(plural(len(listing), "thread"))
        if not windows.layout_source.exact:
            out.note(f"{args.file}: {windows.layout_source}")
        for problem in listing.problems:
            out.note(f"{args.file}: {problem}")
        return 0 if listing else 1


def _facts(thread: "Thread") -> dict[str, object]:
    """What is known of a thread, and what was lost of it. Enumerations are by name, if they have one."""
    facts = {name: value for name, value in thread.to_dict().items() if value is not None}
    for name in ("state", "wait_reason", "wait_mode"):
        if facts.get(name) is not None:
            facts[name] = getattr(thread, name).name or facts[name]
    for name in ("kernel_time", "user_time"):
        if facts.get(name) is not None:
            facts[name] = facts[name].total_seconds()
    problems = [problem.to_dict() for problem in thread.problems]
    return facts | ({"problems": problems} if problems else {})


def _row(thread: "Thread", args: argparse.Namespace) -> list[str]:
    digits = 2 * thread.windows.pointer_size
    process = thread.process
    # A reason stays when the wait is over; people are told of real waits only.
    waits = args.csv or thread.state == _WAITING
    start = thread.win32_start_address or thread.start_address
    return [
        thread.show("pid"),
        thread.show("tid"),
        (process.name or "") if process is not None else "",
        thread.show("state"),
        thread.show("wait_reason") if waits else "",
        thread.show("priority"),
        thread.show("create_time"),
        "" if start is None else hexa(start),
        "" if thread.teb is None else hexa(thread.teb),
        hexa(thread.address, digits),
        thread.show("current"),
    ]
