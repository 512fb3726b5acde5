"""`kdmp blobs`: the secondary data of a dump, listed or extracted.

SPDX-License-Identifier: MIT
"""

import argparse
import os
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_file, open_dump
from kdmp.cli.outfiles import check_free, refuse_dump
from kdmp.cli.output import Json, Output, bytes_text, hexa, plural

if TYPE_CHECKING:
    from kdmp import Dump
    from kdmp.secondary import Blob

HELP = "list the secondary data that drivers appended, or extract it"


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --json, --extract with --to, --extract-all, --force."""
    add_file(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--extract", metavar="N", type=_number, help="write the bytes of blob N to --to PATH")
    what.add_argument(
        "--extract-all", metavar="DIR", help="write each blob that is not empty to DIR/N-TAG.bin"
    )
    parser.add_argument("--to", metavar="PATH", help="where --extract writes")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"not the number of a blob: {text[:40]!r}")
    return int(text)


def run(args: argparse.Namespace, out: Output) -> int:
    """List or extract; exit code 1 if there is no secondary data, or no such blob."""
    if (args.extract is None) != (args.to is None):
        raise UsageError("--extract N and --to PATH go together")
    if args.force and args.extract is None and args.extract_all is None:
        raise UsageError("--force goes with --extract or --extract-all")
    if args.to is not None:
        refuse_dump(args.to, args.file)
    with open_dump(args, out) as dump:
        blobs = list(dump.blobs())
        facts = [_facts(number, blob) for number, blob in enumerate(blobs)]
        if args.extract is not None:
            if args.extract >= len(blobs):
                out.note(f"{args.file}: no blob {args.extract}: there are {plural(len(blobs), 'blob')}")
                return 1
            facts = [facts[args.extract]]
            _extract(dump, blobs[args.extract], facts[0], args.to, args.force)
        elif args.extract_all is not None and blobs:
            _extract_all(dump, blobs, facts, args)
    if out.json:
        out.document({"file": args.file, "blobs": facts})
    elif facts:
        _show(out, facts)
    for fact in facts:
        if fact["truncated"]:
            out.note(f"{args.file}: blob {fact['number']} goes on beyond the end of the file")
    if not blobs:
        out.note(f"{args.file}: no secondary data")
    return 0 if blobs else 1


def _facts(number: int, blob: "Blob") -> Json:
    facts: Json = {"number": number, "tag": str(blob.tag)}
    if blob.name is not None:
        facts["name"] = blob.name
    return {**facts, "offset": blob.offset, "size": blob.size, "truncated": blob.truncated}


def _show(out: Output, facts: list[Json]) -> None:
    if "path" in facts[0] and len(facts) == 1:
        out.facts([(facts[0]["path"], f"blob {facts[0]['number']}, {bytes_text(facts[0]['written'])}")])
        return
    rows = [
        (str(fact["number"]), fact["tag"], str(fact["size"]), hexa(fact["offset"]), fact.get("name", ""))
        for fact in facts
    ]
    out.table(("blob", "tag", "size", "file offset", "name"), rows, right=("blob", "size", "file offset"))
    total = sum(fact["size"] for fact in facts)
    out.line(f"{plural(len(facts), 'blob')}, {bytes_text(total)}")
    written = sum("path" in fact for fact in facts)
    if written:
        out.line(f"{plural(written, 'file')} written")


def _extract(dump: "Dump", blob: "Blob", fact: Json, path: str, force: bool) -> None:
    data = blob.read(dump)
    check_free(path, force)
    with open(path, "wb" if force else "xb") as file:
        file.write(data)
    fact |= {"path": path, "written": len(data)}


def _extract_all(dump: "Dump", blobs: "list[Blob]", facts: list[Json], args: argparse.Namespace) -> None:
    """Write the blobs that have bytes; if a file is in the way, nothing is written."""
    width = len(str(len(blobs) - 1))
    wanted = [
        (blob, fact, os.path.join(args.extract_all, f"{fact['number']:0{width}}-{fact['tag']}.bin"))
        for blob, fact in zip(blobs, facts, strict=True)
        if blob.size
    ]
    for _, _, path in wanted:
        check_free(path, args.force)
    os.makedirs(args.extract_all, exist_ok=True)
    for blob, fact, path in wanted:
        _extract(dump, blob, fact, path, args.force)
