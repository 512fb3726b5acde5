"""`kdmp dt`: show a structure of Windows, its layout or what is at an address.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING, Any

from kdmp.cli.options import UsageError, add_dtb, add_file, add_symbols, open_dump
from kdmp.cli.output import Json, Output, hexa
from kdmp.cli.values import address

if TYPE_CHECKING:
    from kdmp import Dump
    from kdmp.symbols.structs import Layout

HELP = "show the layout of a structure, or the structure at an address"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    add_dtb(parser)
    add_symbols(parser)
    parser.add_argument(
        "type", metavar="TYPE[.FIELD]", help="a structure or enumeration: _EPROCESS, _EPROCESS.Pcb"
    )
    parser.add_argument("address", metavar="ADDR", type=address, nargs="?", help="where one of them is")
    parser.add_argument(
        "--depth", type=int, default=0, metavar="N", help="with --json and ADDR: structures inside, N deep"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the structure."""
    with open_dump(args, out, dtb=args.dtb) as dump:
        layout = dump.windows.layout
        if not layout.exact:
            out.note(f"{args.file}: {layout.source}")
        name, path = _split(layout, args.type)
        if args.address is not None:
            return _object(dump, name, path, args, out)
        if name in layout.enums:
            return _enum(layout, name, out)
        return _layout(layout, name, path, out)


def _split(layout: "Layout", text: str) -> tuple[str, str]:
    """The type's own name (the underscore may be left out) and the path of a field in it."""
    head, _, path = text.removeprefix("nt!").partition(".")
    for name in (head, f"_{head}", f"_{head.upper()}", head.upper()):
        if name in layout or name in layout.enums:
            return name, path
    return layout.struct(head).name, path  # an older name, or the error


def _layout(layout: "Layout", name: str, path: str, out: Output) -> int:
    struct = layout.struct(name)
    fields = [
        field for field in struct if not path or field.path == path or field.path.startswith(f"{path}.")
    ]
    if path and not fields:
        fields = [layout.field(name, path)]
    listed: list[Json] = [
        {
            "path": field.path,
            "offset": field.offset,
            "size": field.size,
            "type": str(field.type),
            **({"bit": field.bit_start, "bits": field.bit_width} if field.bit_width is not None else {}),
        }
        for field in fields
    ]
    if out.json:
        out.document({"type": name, "size": struct.size, "layout": str(layout.source), "fields": listed})
        return 0
    size = "unknown" if struct.size is None else hexa(struct.size)
    out.line(f"{name}, {size} bytes")
    for entry in listed:
        out.line(f"   +{entry['offset']:#05x} {entry['path']:<28} : {entry['type']}")
    return 0


def _enum(layout: "Layout", name: str, out: Output) -> int:
    values = dict(layout.enum(name))
    if out.json:
        out.document({"type": name, "layout": str(layout.source), "values": values})
        return 0
    out.line(f"enum {name}")
    for text, value in sorted(values.items(), key=lambda pair: pair[1]):
        out.line(f"   {text} = {value}")
    return 0


def _object(dump: "Dump", name: str, path: str, args: argparse.Namespace, out: Output) -> int:
    from kdmp.windows.objects import Object

    whole: Object = dump.windows.object(name, args.address, dump.reader())
    value: Any = whole[path] if path else whole
    if out.json:
        plain = value.to_dict(args.depth) if isinstance(value, Object) else value
        if hasattr(value, "to_list"):
            plain = value.to_list(args.depth)
        out.document({"type": args.type, "address": args.address, "value": plain})
        return 0
    if not isinstance(value, Object):
        text = value if hasattr(value, "text") or not isinstance(value, int) else hexa(value)
        out.line(str(text))
        return 0
    if args.depth:
        raise UsageError("--depth goes with --json")
    out.lines(str(value).splitlines())
    return 0
