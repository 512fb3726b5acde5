"""`kdmp regs`: the processor's registers and the exception that the header holds.

SPDX-License-Identifier: MIT
"""

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdmp.cli.facts import exception_facts
from kdmp.cli.options import add_file, add_symbols, open_dump
from kdmp.cli.output import Json, Output, hexa

if TYPE_CHECKING:
    from kdmp import Context, Dump

HELP = "show the registers of the crashing or another processor, and the exception"

# Registers of 128 bits, and the 80-bit ones of the x87: shown with --all only.
_VECTOR = re.compile(r"(?:xmm|(?:fx_)?st|v)\d+")


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --json, --cpu, --all, --format, --symbols."""
    add_file(parser)
    parser.add_argument(
        "--cpu",
        metavar="N",
        type=_cpu,
        help="registers of processor N, counted from 0: of a triage dump (default: those in the header), "
        "with --format of any dump (default: the processor that crashed)",
    )
    parser.add_argument(
        "--all", action="store_true", help="every register that was saved, vector registers, too"
    )
    parser.add_argument(
        "--format",
        choices=("text", "wtf", "unicorn"),
        default="text",
        help="for an emulator, as JSON: wtf is the regs.json of that fuzzer, what is assumed in it is listed "
        "on stderr; unicorn has the names that Unicorn knows registers by",
    )
    add_symbols(parser)


def _cpu(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"not the number of a processor: {text[:40]!r}")
    return int(text)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the registers; exit code 1 if the dump holds neither them nor an exception."""
    if args.format != "text":
        return _emulator(args, out)
    with open_dump(args, out) as dump:
        if args.cpu is None:
            context = dump.context
            missing = "no registers that kdmp knows in the header"
        else:
            context, missing = _of_processor(dump, args.cpu)
        facts = _facts(dump, context, args)
        view = "" if context is None else str(context)
    if out.json:
        out.document({"file": args.file, **facts})
    else:
        if view:
            out.lines(view.splitlines())
        if args.all and "registers" in facts:
            out.line()
            out.facts((name, _hexa(name, value)) for name, value in facts["registers"].items())
        if "exception" in facts:
            out.line()
            out.facts(_exception_text(facts["exception"], 2 * facts["pointer_size"]))
    if "registers" not in facts:
        out.note(f"{args.file}: {missing}")
    return 0 if "registers" in facts or "exception" in facts else 1


def _emulator(args: argparse.Namespace, out: Output) -> int:
    """Print what an emulator reads; exit code 1 if the processor is not known."""
    from kdmp.emulators import unicorn_registers, wtf_state

    with open_dump(args, out) as dump:
        try:
            if args.format == "unicorn":
                out.document(unicorn_registers(dump, args.cpu))
                return 0
            state, assumed = wtf_state(dump, args.cpu)
        except IndexError as error:
            out.note(f"{args.file}: {error}")
            return 1
    out.document(state)
    for one in assumed:
        out.note(f"{args.file}: assumed {one}")
    return 0


def _of_processor(dump: "Dump", number: int) -> "tuple[Context | None, str]":
    """The registers of a processor of a triage dump, and what to say if they are not there."""
    from kdmp import UnsupportedDumpError

    if dump.triage is None:
        raise UnsupportedDumpError("--cpu needs a triage dump; others show one processor")
    found = {processor.number: processor for processor in dump.triage.processors()}
    if number in found and found[number].context is not None:
        return found[number].context, ""
    there = ", ".join(str(n) for n, processor in sorted(found.items()) if processor.context is not None)
    others = f"; there are those of {there}" if there else "; those in the header show without --cpu"
    why = " (only its control block)" if number in found else ""
    return None, f"no registers of processor {number} in this dump{why}{others}"


def _facts(dump: "Dump", context: "Context | None", args: argparse.Namespace) -> Json:
    facts: Json = {"arch": dump.arch, "pointer_size": dump.pointer_size}
    if args.cpu is not None:
        facts["processor"] = args.cpu
    if context is not None:
        facts["parts"] = list(context.parts)
        # What the record does not cover is in it, but means nothing.
        facts["registers"] = {
            name: value
            for name, value in context.items()
            if context.valid(name) and (args.all or not _VECTOR.fullmatch(name))
        }
    exception = exception_facts(dump)
    if exception is not None and args.cpu is None:  # it is the header's
        facts["exception"] = exception
    return facts


def _hexa(name: str, value: int) -> str:
    return hexa(value, 32 if _VECTOR.fullmatch(name) and "st" not in name else 0)


def _exception_text(exception: Json, digits: int) -> Iterator[tuple[str, str]]:
    yield "exception", f"{exception['code']:#x} {exception.get('code_name', '')}".rstrip()
    yield "address", hexa(exception["address"], digits)
    if "record" in exception:
        yield "next record", hexa(exception["record"], digits)
    for number, value in enumerate(exception["parameters"]):
        yield f"information {number}", hexa(value, digits)
