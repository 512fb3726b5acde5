"""`kdmp dlls`: the modules of processes.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_file, add_space, add_symbols, open_dump
from kdmp.cli.output import Json, Output, hexa, printable
from kdmp.cli.processes import add_process, chosen, heading, identity, known

if TYPE_CHECKING:
    from kdmp.windows.entity import Listing
    from kdmp.windows.ldr import UserModule
    from kdmp.windows.processes import Process
    from kdmp.windows.userimages import UserImage

HELP = "list the modules (executable and DLLs) of processes, of 64 bits and of 32"

# What only the VADs know has "vad" for the list.
_COLUMNS = ("base", "size", "arch", "loaded", "lists", "name", "path")
_CSV = (
    "pid", "process", "base", "size", "entry", "name", "path", "arch", "timestamp", "load_time", "load_count",
    "lists", "pdb", "symbol_id",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --pid, --name, --csv, --json, --symbols, --dtb, --paging."""
    add_file(parser)
    add_process(parser)
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")
    add_symbols(parser)
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the modules; exit code 1 if there are none at all."""
    if args.csv and args.json:
        raise UsageError("--csv and --json exclude each other")
    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        processes = chosen(dump.windows, args)
        found = [_Found(process) for process in processes]
        if out.json:
            out.document({"file": args.file, "processes": [_document(one) for one in found]})
        elif args.csv:
            out.csv(_CSV, [row for one in found for row in _records(one)])
        else:
            _print([one for one in found if one.modules or one.others], out)
        if not out.json:
            for one in found:
                for problem in one.modules.problems:
                    out.note(f"{args.file}: {heading(one.process)}: {problem}")
        return 0 if any(one.modules or one.others for one in found) else 1


class _Found:
    """The modules of a process, and the images that only its VADs know."""

    def __init__(self, process: "Process") -> None:
        from kdmp.windows.ldr import modules
        from kdmp.windows.userimages import images

        self.process = process
        self.modules: Listing[UserModule] = modules(process)
        self.others = [image for image in images(process) if not image.listed]


def _print(listings: list[_Found], out: Output) -> None:
    for number, one in enumerate(listings):
        if number:
            out.line()
        out.lines([printable(heading(one.process))])
        digits = 2 * one.process.windows.pointer_size
        rows = [_row(module, digits) for module in one.modules]
        rows += [_image_row(image, digits) for image in one.others]
        out.table(_COLUMNS, rows, right=("size",))


def _row(module: "UserModule", digits: int) -> list[str]:
    return [
        "?" if module.base is None else hexa(module.base, digits),
        module.show("size"),
        module.arch,
        module.show("load_time"),
        # The executable has no initialization routine: two lists are all it is in.
        " ".join(module.lists),
        module.name or "?",
        module.path or "?",
    ]


def _image_row(image: "UserImage", digits: int) -> list[str]:
    return [hexa(image.base, digits), image.show("size"), "", "", "vad", image.name or "?", image.path or "?"]


def _records(found: _Found) -> list[list[str]]:
    process = found.process
    owner = {"pid": process.show("pid"), "process": process.full_name or process.name or ""}
    rows = []
    for module in found.modules:
        facts = owner | {name: module.show(name) for name in _CSV[2:11]}
        facts |= {
            "lists": " ".join(module.lists),
            "pdb": module.pdb or "",
            "symbol_id": module.symbol_id or "",
        }
        rows.append([facts[name] for name in _CSV])
    for image in found.others:
        facts = owner | {name: image.show(name) for name in ("base", "size", "name", "path")}
        facts |= {"lists": "vad", "pdb": image.pdb or "", "symbol_id": image.symbol_id or ""}
        rows.append([facts.get(name, "") for name in _CSV])
    return rows


def _document(found: _Found) -> Json:
    document = identity(found.process) | {"modules": [_facts(module) for module in found.modules]}
    if found.others:
        document["unlisted_images"] = [_facts(image) for image in found.others]
    if found.modules.problems:
        document["problems"] = [problem.to_dict() for problem in found.modules.problems]
    return document


def _facts(one: "UserModule | UserImage") -> Json:
    facts = known(one)
    if one.symbol_id is not None:
        facts |= {"pdb": one.pdb, "symbol_id": one.symbol_id}
    return facts
