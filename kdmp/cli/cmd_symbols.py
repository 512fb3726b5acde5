"""`kdmp symbols`: which symbol file the kernel of a dump needs, and which symbols are in use.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING
from uuid import UUID

from kdmp.cli.options import add_file, open_dump
from kdmp.cli.output import Json, Output, hexa, plural

if TYPE_CHECKING:
    from kdmp import Dump
    from kdmp.symbols.structs import Layout

HELP = "tell which symbol file the kernel needs, which symbols are in use, and search them"

_SERVER = "https://msdl.microsoft.com/download/symbols/"

_EXACT = {  # by exact, verified
    (True, True): "yes",
    (False, True): "no, but it agrees with the dump; addresses of symbols are not used",
    (False, False): "no: offsets may differ, addresses of symbols are not used",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --symbols, --find, --json."""
    add_file(parser)
    parser.add_argument(
        "--symbols",
        metavar="PATH",
        action="append",
        help="a symbol table of Volatility (.json, .xz, .gz, .bz2, .zip) or a folder of them; may be "
        "repeated (default: what the environment variable KDMP_SYMBOLS lists)",
    )
    parser.add_argument(
        "--find",
        metavar="PATTERN",
        help="list the symbols whose names match: * is any text, ? one character, case does not matter",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print identity, names of files and what is in use; exit code 1 if there are no symbols at all."""
    from kdmp.symbols import SymbolError

    with open_dump(args, out, symbols=args.symbols) as dump:
        layout, problem, digits = None, None, 2 * dump.pointer_size
        try:
            layout = dump.windows.layout
        except SymbolError as error:
            problem = str(error)
        if args.find is not None and not out.json:
            return _list_symbols(dump, layout, problem, args.find, out)
        facts: Json = {"file": args.file, "kernel": _kernel(dump, layout)}
        needed = _needed(dump, layout)
        facts |= {"needed": needed} if needed else {}
        facts |= {"in_use": _in_use(layout)} if layout is not None else {"problem": problem}
        if args.find is not None:
            facts["symbols"] = _found(dump, layout, args.find)
    if out.json:
        out.document(facts)
    else:
        out.facts(_lines(facts, digits))
    return 1 if layout is None or facts.get("symbols") == [] else 0


# --- facts -------------------------------------------------------------------------------------------------


def _kernel(dump: "Dump", layout: "Layout | None") -> Json:
    """What the dump says about its kernel; the version is that of the list of kernels."""
    facts: Json = {"arch": dump.arch, "build": dump.build}
    if layout is not None:
        version = layout.build.version if layout.exact else layout.source.wanted or ""
        facts["version"] = version if version.count(".") == 3 else None
    kernel = dump.kernel
    if kernel is not None:
        image = kernel.image
        facts |= {
            "base": image.base,
            "found": kernel.how,
            "timestamp": image.timestamp,
            "size": image.size,
            "image_id": image.image_id if image.size else None,
        }
    return {name: value for name, value in facts.items() if value is not None}


def _needed(dump: "Dump", layout: "Layout | None") -> Json:
    """The symbol file of the kernel, and what each tool calls it; empty if nothing tells."""
    image = dump.kernel.image if dump.kernel is not None else None
    build = layout.build if layout is not None and layout.exact else None
    if image is not None and image.guid is not None and image.age is not None:
        pdb, guid, age, source = image.pdb or "ntkrnlmp.pdb", image.guid, image.age, "the kernel's image"
    elif build is not None and build.guid is not None and build.age is not None:
        # A triage dump has time stamp and size of the kernel only: enough for one that is known.
        pdb, guid, age = build.pdb or "ntkrnlmp.pdb", build.guid, build.age
        source = f"the list of known kernels, {build.version}"
    else:
        return _image_only(dump)
    key = f"{guid}{age:X}"
    return {
        "pdb": pdb,
        "guid": guid,
        "age": age,
        "known_by": source,
        "guid_text": f"{{{UUID(hex=guid)}}}".upper(),
        "symbol_server": f"{pdb}/{key}/{pdb}",
        "windbg": f"{pdb}\\{key}\\{pdb}",
        "volatility": f"{pdb}/{guid}-{age}.json.xz",
        **_image_only(dump),
    }


def _image_only(dump: "Dump") -> Json:
    """Where a symbol server has the image itself, whose CodeView record names the PDB."""
    image = dump.kernel.image if dump.kernel is not None else None
    if image is None or not image.size or not image.timestamp:
        return {}
    return {"symbol_server_image": f"ntoskrnl.exe/{image.image_id}/ntoskrnl.exe"}


def _in_use(layout: "Layout") -> Json:
    source, build = layout.source, layout.build
    facts: Json = {
        "source": str(source),
        "match": str(source.match),
        "path": source.file,
        "exact": source.exact,
        "verified": source.verified,
        "version": build.version if build.number else None,
        "arch": layout.arch,
        "structs": len(layout.structs),
        "enums": len(layout.enums),
        "symbols": len(layout.symbols),
        "complete": layout.complete_symbols,
        "note": build.note or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _found(dump: "Dump", layout: "Layout | None", pattern: str) -> list[Json]:
    base = dump.kernel.base if dump.kernel is not None else None
    found = layout.find_symbols(pattern) if layout is not None else []
    return [
        {"name": name, "rva": rva} | ({} if base is None else {"address": base + rva}) for name, rva in found
    ]


# --- text --------------------------------------------------------------------------------------------------


def _lines(facts: Json, digits: int) -> list[tuple[str, str]]:
    kernel, needed, used = facts["kernel"], facts.get("needed", {}), facts.get("in_use")
    number = f" build {kernel['build']}" if "build" in kernel else ""
    version = f", version {kernel['version']}" if "version" in kernel else ""
    lines = [("kernel", f"{kernel['arch']}{number}{version}")]
    if "base" in kernel:
        lines.append(("base", f"{hexa(kernel['base'], digits)} (found by {kernel['found']})"))
    else:
        lines.append(("base", "not found"))
    if "image_id" in kernel:
        lines.append(("image id", kernel["image_id"]))
    if "pdb" in needed:
        lines += [
            ("PDB", f"{needed['pdb']} (from {needed['known_by']})"),
            ("GUID", needed["guid_text"]),
            ("age", str(needed["age"])),
            ("symbol server", _SERVER + needed["symbol_server"]),
            ("WinDbg, MemProcFS", needed["windbg"]),
            ("Volatility", needed["volatility"]),
        ]
    if "symbol_server_image" in needed:
        lines.append(("image", _SERVER + needed["symbol_server_image"]))
    if used is None:
        return [*lines, ("in use", "nothing"), ("", facts["problem"])]
    count = plural(used["symbols"], "symbol")
    lines += [
        ("in use", used["source"]),
        ("exact", _EXACT[used["exact"], used["verified"]]),
        ("content", f"{used['structs']} structures, {used['enums']} enumerations, {count}"),
    ]
    if "note" in used:
        lines.append(("note", used["note"]))
    return lines


def _list_symbols(
    dump: "Dump", layout: "Layout | None", problem: str | None, pattern: str, out: Output
) -> int:
    found = _found(dump, layout, pattern)
    if layout is None:
        out.note(f"no symbols: {problem}")
    elif not layout.exact:
        out.note(f"no addresses of this kernel's symbols: {layout.source}")
    elif not layout.complete_symbols:
        out.note(f"only some symbols are known: {layout.source}")
    if not found:
        out.note(f"no symbol matches {pattern}")
        return 1
    digits = 2 * dump.pointer_size
    based = "address" in found[0]
    rows = [
        (hexa(one["address"], digits) if based else "?", hexa(one["rva"]), f"nt!{one['name']}")
        for one in found
    ]
    out.table(("address", "rva", "name"), rows, right=("rva",))
    return 0
