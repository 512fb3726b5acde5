"""`kdmp cpus`: the processors, their registers and their interrupt tables.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdmp.cli.options import add_file, add_space, add_symbols, open_dump
from kdmp.cli.output import Json, Output, hexa, plural

if TYPE_CHECKING:
    from kdmp.windows.cpus import Cpu, Cpus
    from kdmp.windows.idt import IdtEntry

HELP = "list the processors with their threads and registers, show one of them, or its interrupt table"


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --cpu, --idt, --symbols, --json, --dtb, --paging."""
    add_file(parser)
    parser.add_argument(
        "--cpu",
        metavar="N",
        type=_cpu,
        help="show processor N, counted from 0: registers, tables, provenance",
    )
    parser.add_argument(
        "--idt",
        action="store_true",
        help="list the interrupt table of processor N (without --cpu: of the one that crashed, or the first)",
    )
    add_symbols(parser)
    add_space(parser)


def _cpu(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"not the number of a processor: {text[:40]!r}")
    return int(text)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the list, one processor, or a table; exit code 1 if there is nothing to be had."""

    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        listing = dump.windows.cpus
        chosen = _chosen(args, listing)
        if args.cpu is not None and not chosen:
            known = ", ".join(str(cpu.number) for cpu in listing) or "none"
            out.note(f"{args.file}: processor {args.cpu} is not known; known are: {known}")
            return 1
        if out.json:
            return _document(args, listing, chosen, out)
        if args.idt:
            return _idt(args, chosen, out)
        if args.cpu is not None:
            _one(chosen[0], out)
            _notes(args, out, chosen)
            return 0
        _table(listing, out)
        for problem in listing.problems:
            out.note(f"{args.file}: {problem}")
        _notes(args, out, listing)
        return 0 if listing else 1


def _chosen(args: argparse.Namespace, listing: "Cpus") -> "list[Cpu]":
    """The processors that the arguments mean: one with --cpu or --idt, else all."""
    number = args.cpu
    if number is None and args.idt and listing:
        number = listing.crashing if listing.crashing is not None else next(iter(listing)).number
    return [cpu for cpu in listing if number is None or cpu.number == number]


def _notes(args: argparse.Namespace, out: Output, cpus: "list[Cpu]") -> None:
    for cpu in cpus:
        for problem in cpu.problems:
            out.note(f"{args.file}: cpu {cpu.number}: {problem}")


def _table(listing: "Cpus", out: Output) -> None:
    out.table(
        ("cpu", "kprcb", "kpcr", "cr3", "thread", "ip", "symbol", "registers from"),
        [
            (
                str(cpu.number),
                *(cpu.show(name) or "?" for name in ("kprcb", "kpcr", "cr3", "current_thread", "ip")),
                cpu.symbol or "",
                cpu.context_source or "nowhere",
            )
            for cpu in listing
        ],
        right=("cpu",),
    )
    if listing.crashing is not None:
        out.line(f"processor {listing.crashing} crashed: {listing.crashing_why}")
    elif listing:
        out.line(f"which processor crashed is not known: {listing.crashing_why}")


def _one(cpu: "Cpu", out: Output) -> None:
    """Facts, registers, special registers with their provenance, segments."""
    out.facts(_facts(cpu))
    if cpu.context is not None:
        out.line()
        out.lines(str(cpu.context).splitlines())
    if cpu.special is not None:
        out.line()
        out.table(
            ("register", "value", "from"),
            [
                (name, "?" if value is None else hexa(value), cpu.special.source(name))
                for name, value in cpu.special.items()
            ],
        )
    if cpu.gdt:
        out.line()
        out.table(
            ("selector", "base", "limit", "dpl", "kind"),
            [
                (hexa(entry.selector), hexa(entry.base), hexa(entry.limit), str(entry.dpl), entry.kind)
                for entry in cpu.gdt
            ],
        )


def _facts(cpu: "Cpu") -> Iterator[tuple[str, str]]:
    crashed = {True: "yes", False: "no", None: "not known"}[cpu.is_crashing]
    yield "processor", str(cpu.number)
    yield "crashed", crashed
    for label, name in (
        ("kprcb", "kprcb"),
        ("kpcr", "kpcr"),
        ("current thread", "current_thread"),
        ("next thread", "next_thread"),
        ("idle thread", "idle_thread"),
        ("process", "current_process"),
        ("tss", "tss"),
        ("vendor", "vendor"),
        ("MHz", "mhz"),
    ):
        text = cpu.show(name)
        if text:
            yield label, text
    if cpu.cpu_type is not None:
        yield "cpu", f"family {cpu.cpu_type}, model {cpu.cpu_model}, stepping {cpu.cpu_stepping}"
    if cpu.context_source is not None:
        yield "registers from", cpu.context_source
    if cpu.symbol is not None:
        yield "at", cpu.symbol


def _idt(args: argparse.Namespace, chosen: "list[Cpu]", out: Output) -> int:
    entries = chosen[0].idt if chosen else None
    if entries:
        out.table(
            ("vector", "handler", "ist", "dpl", "type", "for", "symbol"),
            [_gate(entry) for entry in entries if entry.handler is not None or entry.present is not None],
            right=("ist", "dpl"),
        )
        missing = sum(entry.present is None for entry in entries)
        if missing:
            out.note(f"{args.file}: {plural(missing, 'vector')} of {len(entries)} not in the dump")
        return 0
    _notes(args, out, chosen)
    out.note(f"{args.file}: no interrupt table in this dump")
    return 1


def _gate(entry: "IdtEntry") -> tuple[str, ...]:
    absent = "" if entry.present else ", not present"
    return (
        hexa(entry.vector, 2),
        "" if entry.handler is None else hexa(entry.handler, 16),
        str(entry.ist or ""),
        str(entry.dpl),
        f"{entry.type_name or entry.type}{absent}",
        entry.name or "",
        entry.symbol or "",
    )


def _document(args: argparse.Namespace, listing: "Cpus", chosen: "list[Cpu]", out: Output) -> int:
    document: Json = {"file": args.file}
    if listing.crashing is not None:
        document["crashing"] = listing.crashing
    document["crashing_why"] = listing.crashing_why
    document["cpus"] = [_fact(cpu, idt=args.idt, detail=args.cpu is not None) for cpu in chosen]
    document["problems"] = [_present(problem.to_dict()) for problem in listing.problems]
    out.document(document)
    return 0 if chosen else 1


def _fact(cpu: "Cpu", *, idt: bool, detail: bool) -> Json:
    fact = _present(cpu.to_dict())
    fact.pop("address", None)
    if cpu.symbol is not None:
        fact["symbol"] = cpu.symbol
    if cpu.special is not None:
        fact["special"] = _present(fact["special"])
        if detail:
            fact["special_sources"] = dict(cpu.special.sources)
    if detail and cpu.gdt:
        fact["gdt"] = [entry.to_dict() for entry in cpu.gdt]
    if idt and cpu.idt:
        fact["idt"] = [_present(entry.to_dict()) for entry in cpu.idt if entry.present is not None]
    fact["problems"] = [_present(problem.to_dict()) for problem in cpu.problems]
    return fact


def _present(fact: Json) -> Json:
    return {name: value for name, value in fact.items() if value is not None}
