"""The main job on one page: build the sample dump, open it, say what it is, translate, read, list.

    python tools/demo.py [FILE]

FILE is where the sample is built (default: build/sample.dmp). Exits with 1 when something that must
be in the sample is not there.

SPDX-License-Identifier: MIT
"""

import argparse
import sys
from pathlib import Path

import kdmp
from kdmp import sample

LEVELS = {5: "PML5E", 4: "PML4E", 3: "PDPTE", 2: "PDE", 1: "PTE"}

wrong: list[str] = []


def main() -> int:
    parser = argparse.ArgumentParser(description="Show what kdmp does, on a sample dump.")
    parser.add_argument("file", nargs="?", type=Path, help="where to build the sample (build/sample.dmp)")
    path = parser.parse_args().file or Path(__file__).resolve().parents[1] / "build" / "sample.dmp"

    path.parent.mkdir(parents=True, exist_ok=True)
    facts = sample.build(path)
    with kdmp.open(path) as dump:
        information(dump, facts)
        crash(dump, facts)
        reader = dump.reader()
        translations(reader, facts)
        reads(reader, facts)
        processes(dump, facts)
        modules(dump, facts)
    if wrong:
        print(f"\n{len(wrong)} not as expected:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    print("\nEverything is where it should be.")
    return 0


def expect(what: str, found: object, expected: object) -> None:
    """Remember a difference; the demonstration goes on."""
    if found != expected:
        wrong.append(f"{what}: {found!r}, expected {expected!r}")


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def information(dump: kdmp.Dump, facts: sample.Facts) -> None:
    title("What it is")
    kind = dump.kind.name if isinstance(dump.kind, kdmp.DumpKind) else dump.kind
    runs = list(dump.pages.runs())
    for name, value in (
        ("kind", f"{kind} ({dump.layout})"),
        ("machine", f"{dump.arch}, {dump.processors} processors, build {dump.build}"),
        ("crashed", f"{dump.system_time:%Y-%m-%d %H:%M:%S} UTC, up {dump.uptime}"),
        ("comment", dump.comment),
        ("pages", f"{len(dump.pages)} in {len(runs)} runs, {dump.truncated} cut off"),
        ("root", f"{dump.dtb:#x}, {dump.paging} paging (known from: {dump.paging_source})"),
    ):
        print(f"{name:8} {value}")
    expect("build", dump.build, facts.build)
    expect("system time", dump.system_time, facts.system_time)
    expect("uptime", dump.uptime, facts.uptime)
    expect("comment", dump.comment, facts.comment)
    expect("pages", len(dump.pages), facts.pages)
    expect("root", dump.dtb, facts.dtb)


def crash(dump: kdmp.Dump, facts: sample.Facts) -> None:
    title("What happened")
    if dump.bugcheck is None or dump.context is None or dump.exception is None:
        wrong.append("bug check, context or exception record are missing")
        return
    print(f"{dump.bugcheck.code:#x} {dump.bugcheck.name}")
    for parameter in dump.bugcheck.parameters:
        says = ": ".join(filter(None, (parameter.name, parameter.text)))
        print(f"  {parameter.value:016x}  {says}")
    print(f"rip {dump.context.rip:016x}  rsp {dump.context.rsp:016x}")
    print(f"exception {dump.exception.code:#x} at {dump.exception.address:#x}")
    expect("bug check", dump.bugcheck.code, facts.bug_check_code)
    expect("parameters", tuple(p.value for p in dump.bugcheck.parameters), facts.bug_check_parameters)
    expect("rip", dump.context.rip, facts.instruction_pointer)
    expect("exception", dump.exception.code, facts.exception_code)


def translations(reader: kdmp.Reader, facts: sample.Facts) -> None:
    title("Translation")
    for what, va in (
        ("kernel code", facts.instruction_pointer),
        ("user text", facts.ascii_address),
        ("a page in transition", facts.transition_va),
    ):
        found = reader.translate(va)
        rights = "".join(
            letter if on else "-"
            for letter, on in (("r", True), ("w", found.writable), ("x", found.executable), ("u", found.user))
        )
        print(f"{what}: {va:#x} -> {found.pa:#x}, {found.page_size:#x} bytes, {rights}, {found.state}")
        walk(found.entries)
    expect("kernel code", reader.translate(facts.kernel_large_va).pa, facts.kernel_large_pa)
    expect("transition", reader.translate(facts.transition_va).pa, facts.transition_pa)

    touched = facts.bug_check_parameters[0]
    try:
        reader.translate(touched)
        wrong.append(f"{touched:#x} is mapped")
    except kdmp.NotPresentError as error:
        print(f"what the driver touched: {error}")
        walk(error.entries)


def walk(entries: tuple[kdmp.PageTableEntry, ...]) -> None:
    for entry in entries:
        print(f"  {LEVELS[entry.level]:5} at {entry.pa:9x} = {entry.value:016x}")


def reads(reader: kdmp.Reader, facts: sample.Facts) -> None:
    title("Reads")
    data = reader.read(facts.unicode_string_address, 0x50)
    for k in range(0, len(data), 16):
        row = data[k : k + 16]
        text = "".join(chr(c) if 32 <= c < 127 else "." for c in row)
        print(f"{facts.unicode_string_address + k:016x}  {row.hex(' ')}  {text}")
    for what, found, expected in (
        ("C string", reader.read_cstr(facts.ascii_address), facts.ascii_text),
        ("wide string", reader.read_wstr(facts.utf16_address), facts.utf16_text),
        (
            "UNICODE_STRING",
            reader.read_unicode_string(facts.unicode_string_address),
            facts.unicode_string_text,
        ),
        ("across pages", reader.read_cstr(facts.crossing_address), facts.crossing_text),
        ("build lab", reader.read_cstr(facts.build_lab_address), facts.build_lab),
    ):
        print(f"{what:15} {found}")
        expect(what, found, expected)
    try:
        reader.read_exact(facts.hole_va, 8)
        wrong.append(f"{facts.hole_va:#x} is readable")
    except kdmp.UnreadableError as error:
        print(f"a hole          {error}")
    _, gaps = reader.read_gaps(facts.user_large_va, 0x200000)
    for gap in gaps:
        print(f"a large page without its middle: {gap.size:#x} bytes at {gap.address:#x}: {gap.reason}")
    expect("holes of the large page", len(gaps), 1)


def processes(dump: kdmp.Dump, facts: sample.Facts) -> None:
    title("Processes")
    listing = dump.windows.processes()
    print(f"structures by   {dump.windows.layout_source}")
    found = []
    print(f"{'pid':>5} {'parent':>6}  {'root':>8}  {'created':19}  {'name':14}  user memory")
    for process in listing:
        own = process.reader
        readable = own is not None and own.is_readable(facts.greeting_address)
        greeting = own.read_cstr(facts.greeting_address) if own is not None and readable else None
        print(
            f"{process.pid:5} {process.ppid:6}  {process.dtb:8x}  {process.create_time:%Y-%m-%d %H:%M:%S}  "
            f"{process.name:14}  {greeting or '-'}"
        )
        found.append((process.pid, process.ppid, process.dtb, process.name, greeting))
    expect("processes", found, [(p.pid, p.ppid, p.dtb, p.name, p.greeting) for p in facts.processes])


def modules(dump: kdmp.Dump, facts: sample.Facts) -> None:
    title("Modules")
    found = []
    for module in dump.windows.modules():
        print(f"{module.base:016x} {module.size:8x}  {module.name:14} {module.symbol_id}  {module.path}")
        found.append((module.name, module.path, module.base, module.size, module.guid))
    expect("modules", found, [(m.name, m.path, m.base, m.size, m.guid) for m in facts.modules])


if __name__ == "__main__":
    sys.exit(main())
