"""The command line of kdmp: `main` parses the arguments, and each command is one module.

A command is a module of this package named `cmd_NAME` with

* `HELP`: one line for the list of commands,
* `configure(parser)`: add its arguments to an `argparse.ArgumentParser` (a description, too),
* `run(args, out)`: do it, write to the `Output` and return the exit code.

It is found by its file name; nothing else has to know it. Such a module imports at its top only the
standard library's small parts and this package; what it needs to work, `kdmp` included, it
imports in `run`, so that `kdmp --help` and the other commands stay quick.

SPDX-License-Identifier: MIT
"""

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

from kdmp.cli.options import UsageError
from kdmp.cli.output import Output
from kdmp.cli.values import ADDRESS_HELP

__all__ = ["build_parser", "main"]

_PREFIX = "cmd_"

OK, NO, USAGE, INTERRUPTED = 0, 1, 2, 130

_EPILOG = f"""\
{ADDRESS_HELP}

Results go to stdout, everything else to stderr. With --json, addresses and numbers
are integers, times are ISO 8601, and what the dump does not say is left out.

exit codes: 0 done, 1 the dump (or the file) says no, 2 wrong usage
"""


class Command(Protocol):
    """What a `cmd_*` module offers."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, args: argparse.Namespace, out: Output) -> int:
        """Do what was asked; return the exit code."""


def _commands(only: str | None = None) -> Iterator[tuple[str, Command]]:
    """The commands by name, in alphabetical order; just the one called `only` if there is one."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith(_PREFIX)]
    wanted = _PREFIX + (only or "").replace("-", "_")
    for module in [wanted] if wanted in names else sorted(names):
        name = module.removeprefix(_PREFIX).replace("_", "-")
        yield name, cast(Command, importlib.import_module(f"{__name__}.{module}"))


class _Version(argparse.Action):
    """--version, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from kdmp import __version__

        Output().line(f"kdmp {__version__}")
        parser.exit()


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line. `args.command` is the command's module.

    With `only`, the name of a command, just that one is imported; any other text changes nothing.
    """
    parser = argparse.ArgumentParser(
        prog="kdmp",
        description="Read Windows kernel crash dumps.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _commands(only):
        sub = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[:1].upper() + command.HELP[1:] + ".",
            epilog=ADDRESS_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.configure(sub)
        sub.set_defaults(command=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's) and return the exit code.

    0: done; 1: the dump, or the file, says no; 2: wrong usage; 130: interrupted. When whoever reads
    stdout has seen enough and closes it, that is the quiet end of the command.
    """
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        args = build_parser(words[0] if words else None).parse_args(words)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else USAGE
    out = Output(json=getattr(args, "json", False))
    try:
        code = _run(args, out)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return OK


def _run(args: argparse.Namespace, out: Output) -> int:
    """Run the command; turn what a dump, a file or the arguments do wrong into a message."""
    from kdmp import KdmpError

    try:
        return cast(int, args.command.run(args, out))
    except UsageError as error:
        out.note(f"{error}")
        return USAGE
    except BrokenPipeError:
        raise
    except KdmpError as error:
        out.note(f"{args.file}: {error}")
        for hint in getattr(error, "__notes__", ()):
            out.note(hint)
    except OSError as error:
        out.note(f"{error.filename or args.file}: {error.strerror or error}")
    return NO


def _discard_stdout() -> None:
    """Let the interpreter's flush at exit go nowhere, instead of complaining about the closed pipe."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # stdout is not a file, or closed
        pass
