"""`kdmp modules`: the kernel's modules, those that were unloaded, and what one of them exports.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_file, add_space, open_dump
from kdmp.cli.output import Json, Output, hexa, plural

if TYPE_CHECKING:
    from kdmp.windows.entity import Listing, Problem
    from kdmp.windows.exports import Export
    from kdmp.windows.modules import Module
    from kdmp.windows.session import Windows
    from kdmp.windows.unloaded import UnloadedModule

HELP = "list the kernel's modules (drivers), those that were unloaded, or what one of them exports"

_UNNAMED = "(name unreadable)"


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --unloaded, --exports, --csv, --json, --dtb, --paging."""
    add_file(parser)
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--unloaded", action="store_true", help="list the drivers that were unloaded (JSON has both lists)"
    )
    what.add_argument(
        "--exports", metavar="NAME", help='list what this module exports ("nt" or "ntoskrnl.exe", "hal" ...)'
    )
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print a list; exit code 1 if there is nothing to be had."""
    if args.csv and args.json:
        raise UsageError("--csv and --json exclude each other")
    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        windows = dump.windows
        if args.exports is not None:
            return _exports(windows, args, out)
        if out.json:
            return _document(windows, args, out)
        return (_unloaded if args.unloaded else _modules)(windows, args, out)


def _rows(
    args: argparse.Namespace, out: Output, titles: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    (out.csv if args.csv else out.table)(titles, list(rows))


def _notes(args: argparse.Namespace, out: Output, problems: "Iterable[Problem]") -> None:
    for problem in problems:
        out.note(f"{args.file}: {problem}")


# ---- loaded and unloaded ----


def _modules(windows: "Windows", args: argparse.Namespace, out: Output) -> int:
    listing = windows.modules()
    digits = 2 * windows.pointer_size
    # A triage dump has no images, and so no PDBs: the key of the image itself is what there is.
    key = "pdb id" if any(module.symbol_id for module in listing) else "image id"
    if args.csv:
        titles = "base end size entry name path timestamp time checksum image_id pdb symbol_id".split()
        rows = [[_field(module, name, digits) for name in titles] for module in listing]
    else:
        titles = ["base", "end", "name", key, "time stamp", "path"]
        rows = [
            [
                hexa(module.base, digits),
                "?" if module.end is None else hexa(module.end, digits),
                module.name or _UNNAMED,
                (module.symbol_id if key == "pdb id" else module.image_id) or "",
                _stamp(module),
                module.path or "",
            ]
            for module in listing
        ]
    _rows(args, out, titles, rows)
    if not args.csv:
        out.line(plural(len(listing), "module"))
        if windows.dump.triage is not None and windows.dump.triage.broken_driver:
            out.facts([("broken driver", windows.dump.triage.broken_driver)])
    _notes(args, out, listing.problems)
    return _code(listing)


def _unloaded(windows: "Windows", args: argparse.Namespace, out: Output) -> int:
    listing = windows.unloaded_modules()
    digits = 2 * windows.pointer_size
    titles = ("start", "end", "unloaded", "name")
    _rows(args, out, titles, [_gone(module, digits) for module in listing])
    if not args.csv:
        out.line(plural(len(listing), "unloaded module"))
    _notes(args, out, listing.problems)
    return _code(listing)


def _gone(module: "UnloadedModule", digits: int) -> list[str]:
    places = ["?" if va is None else hexa(va, digits) for va in (module.start, module.end)]
    return [*places, module.show("time"), module.name or _UNNAMED]


def _stamp(module: "Module") -> str:
    """The time stamp as a time if it can be one, else as it is; with a question mark if it may be a hash."""
    from kdmp.windows.image import stamp_time

    if module.timestamp is None:
        return ""
    time, sure = module.time, ""
    if time is None and (module.image is None or module.image.reproducible is None):
        time, sure = stamp_time(module.timestamp, module.windows.dump.system_time), " ?"
    return hexa(module.timestamp, 8) if time is None else time.strftime("%Y-%m-%d %H:%M:%S") + sure


def _field(module: "Module", name: str, digits: int) -> str:
    value = getattr(module, name)
    if isinstance(value, int):
        return hexa(value, digits if name in ("base", "end", "entry") else 0)
    return module.show(name)


def _document(windows: "Windows", args: argparse.Namespace, out: Output) -> int:
    loaded, unloaded = windows.modules(), windows.unloaded_modules()
    triage = windows.dump.triage
    document: Json = {
        "file": args.file,
        "modules": [_facts(module, with_problems=triage is None) for module in loaded],
        "unloaded": [_known(module.to_dict()) for module in unloaded],
    }
    if triage is not None and triage.broken_driver:
        document["broken_driver"] = triage.broken_driver
    problems = [*loaded.problems, *unloaded.problems]
    if problems:
        document["problems"] = [_known(problem.to_dict()) for problem in problems]
    out.document(document)
    _notes(args, out, problems)
    return _code(loaded)


def _facts(module: "Module", *, with_problems: bool) -> Json:
    facts = _known(module.to_dict())
    if module.version is not None:
        facts["version"] = _known(module.version.to_dict())
    if with_problems and module.problems:
        facts["problems"] = [_known(problem.to_dict()) for problem in module.problems]
    return facts


def _known(facts: Json) -> Json:
    """Without what the dump does not say; a triage dump has no loader entries, thus no addresses of them."""
    return {
        name: value
        for name, value in facts.items()
        if value is not None and not (name == "address" and value == 0)
    }


def _code(listing: "Listing[Module] | Listing[UnloadedModule]") -> int:
    return 1 if listing.problems and not listing else 0


# ---- exports ----


def _exports(windows: "Windows", args: argparse.Namespace, out: Output) -> int:
    from kdmp.windows.modules import find_module

    module = find_module(windows, args.exports)
    if module is None:
        out.note(f"{args.file}: no module is called {args.exports}")
        return 1
    image = module.image
    if image is None:
        _notes(args, out, module.problems)
        return 1
    table = image.exports
    listed = list(table) if table is not None else []
    problems = [problem for problem in image.problems if problem.what == "exports"]
    if out.json:
        document: Json = {
            "file": args.file,
            "module": _facts(module, with_problems=True),
            "exports": [_known(export.to_dict()) for export in listed],
        }
        if problems:
            document["problems"] = [_known(problem.to_dict()) for problem in problems]
        out.document(document)
    else:
        digits = 2 * windows.pointer_size
        _rows(
            args, out, ("ordinal", "rva", "address", "name"), [_export(args, one, digits) for one in listed]
        )
        if not args.csv:
            out.line(plural(len(listed), "export"))
    _notes(args, out, problems)
    return 1 if problems and not listed else 0


def _export(args: argparse.Namespace, export: "Export", digits: int) -> list[str]:
    name = export.name or ("" if args.csv else "(by ordinal)")
    if export.forwarder is not None:
        name += f" -> {export.forwarder}"
    return [str(export.ordinal), hexa(export.rva), hexa(export.address, digits), name]
