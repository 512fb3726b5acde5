"""Which processes a command is about: --pid and --name.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING, Any

from kdmp.cli.output import Json

if TYPE_CHECKING:
    from kdmp.windows.entity import Entity
    from kdmp.windows.processes import Process
    from kdmp.windows.session import Windows


def add_process(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add --pid and --name, of which one may (or must) be given."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--pid", metavar="N", type=_pid, help="the process with this id (decimal, or 0x...)")
    group.add_argument(
        "--name", metavar="NAME", help='the processes of this name, any case ("lsass.exe" or "lsass")'
    )


def _pid(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not the id of a process: {text[:40]!r}") from None


def chosen(windows: "Windows", args: argparse.Namespace) -> "list[Process]":
    """The processes that --pid or --name name, all without; KdmpError if there is no such process."""
    from kdmp import KdmpError

    if args.pid is not None:
        try:
            return [windows.process(args.pid)]
        except KdmpError:  # a SymbolError is a LookupError, too
            raise
        except LookupError as error:
            raise KdmpError(str(error)) from None
    listing = windows.processes()
    if args.name is None:
        return list(listing)
    wanted = args.name.lower()
    wanted = {wanted, wanted + ".exe"}
    found = [process for process in listing if _names(process) & wanted]
    if not found:
        raise KdmpError(f"there is no process {args.name!r} in the dump")
    return found


def _names(process: "Process") -> set[str]:
    return {name.lower() for name in (process.name, process.full_name) if name}


def heading(process: "Process") -> str:
    """A line that says which process: its id, name and EPROCESS."""
    name = process.full_name or process.name or "?"
    return f"process {process.show('pid') or '?'} {name} ({process.address:#x})"


def identity(process: "Process") -> Json:
    """The same as facts."""
    facts: Json = {
        "pid": process.pid,
        "name": process.full_name or process.name,
        "eprocess": process.address,
    }
    return {name: value for name, value in facts.items() if value is not None}


def known(entity: "Entity") -> Json:
    """What is known of an entity, and what was lost of it."""
    facts: Json = {name: value for name, value in entity.to_dict().items() if value is not None}
    problems: list[Any] = [problem.to_dict() for problem in entity.problems]
    return facts | ({"problems": problems} if problems else {})
