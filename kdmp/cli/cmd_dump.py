"""`kdmp dump`: write memory, a process or a module to a file.

SPDX-License-Identifier: MIT
"""

import argparse
import os
import stat
from typing import TYPE_CHECKING, Any

from kdmp.cli.holes import Hole, Holes
from kdmp.cli.options import UsageError, add_file, add_space, add_symbols, open_dump, virtual_reader
from kdmp.cli.outfiles import check_free, refuse_dump
from kdmp.cli.output import Output, Progress, bytes_text, hexa, plural
from kdmp.cli.processes import add_process, chosen, heading
from kdmp.cli.values import address, byte, length

if TYPE_CHECKING:
    from kdmp import Dump, Reader
    from kdmp.extract import Extracted
    from kdmp.windows.ldr import UserModule
    from kdmp.windows.modules import Module
    from kdmp.windows.processes import Process
    from kdmp.windows.processfile import ExtractedProcess
    from kdmp.windows.userimages import UserImage

HELP = "write memory, the memory of a process, or a module to a file; what is missing is listed"

# Repeats kdmp.windows.processfile.KINDS, so that parsing does not load the library; a test compares them.
KINDS = (
    "private", "image", "mapped", "pagefile", "large-pages", "awe", "write-watch", "physical", "rotate",
    "unknown", "none",
)  # fmt: skip

_EPILOG = """\
what to write, one of:
  --va START --size N      memory of the kernel, or of --pid or --name
  --pa START --size N      physical memory (all of it: kdmp convert --to raw)
  --module NAME            a module of the kernel, or of --pid or --name
  --pid N or --name NAME   the user memory of a process, range after range; the
                           index is written beside the file as OUT.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE OUT, --va or --pa with --size, --module, --layout, --pid or --name, --what ..."""
    parser.epilog = f"{_EPILOG}\n{parser.epilog or ''}"
    add_file(parser)
    parser.add_argument("out", metavar="OUT", help="the file to write; it appears when it is complete")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--va", metavar="START", type=address, help="the first virtual address")
    what.add_argument("--pa", metavar="START", type=address, help="the first physical address")
    what.add_argument("--module", metavar="NAME", help='the module of this name ("nt", "ntdll.dll" ...)')
    parser.add_argument("--size", metavar="N", type=length, help="how many bytes, with --va and --pa")
    add_process(parser)
    parser.add_argument(
        "--layout",
        choices=("memory", "file"),
        help="with --module: as it lies in memory (default), or with the sections at their file offsets, "
        "for tools that read PE files",
    )
    parser.add_argument(
        "--what",
        choices=KINDS,
        action="append",
        metavar="KIND",
        help="of a process, only this kind of ranges (private, image, mapped ...); may be repeated",
    )
    parser.add_argument(
        "--untouched",
        action="store_true",
        help="of a process, also memory that is committed and was never touched, as zeros",
    )
    parser.add_argument(
        "--fill", metavar="BYTE", type=byte, help="with --va and --pa: write this for what is missing (00)"
    )
    parser.add_argument(
        "--limit", metavar="N", type=length, help="write no file with more bytes than this (1024G)"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--progress", action="store_true", help="tell the progress even if stderr is no terminal"
    )
    add_symbols(parser)
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Write the file and say what is in it; exit code 1 if nothing of it could be read."""
    _check(args)
    refuse_dump(args.out, args.file)
    if not _is_device(args.out):
        check_free(args.out, args.force)
        if args.module is None and args.size is None:
            check_free(f"{args.out}.json", args.force)
    with (
        open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump,
        out.progress("writing", always=args.progress) as progress,
    ):
        result = _extract(dump, args, progress)
    _show(args, out, result)
    return 0 if result.written else 1


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    memory = args.va is not None or args.pa is not None
    process = args.pid is not None or args.name is not None
    whole = process and not memory and args.module is None
    if not memory and args.module is None and not process:
        raise UsageError("what to write? --va or --pa with --size, --module, --pid or --name")
    if memory != (args.size is not None):
        raise UsageError("--va and --pa go together with --size N")
    if args.pa is not None and (process or args.dtb is not None or args.paging is not None):
        raise UsageError(
            "--pa reads without page tables: a process, --dtb and --paging make no sense with it"
        )
    start = args.va if args.pa is None else args.pa
    if memory and start + args.size > 1 << 64:
        raise UsageError(f"{args.size} bytes at {start:#x} end beyond the last address")
    if args.fill is not None and not memory:
        raise UsageError("--fill goes with --va and --pa")
    if args.layout is not None and args.module is None:
        raise UsageError("--layout goes with --module")
    if args.limit is not None and args.module is not None:
        raise UsageError("--limit goes with --va, --pa and whole processes")
    if (args.what is not None or args.untouched) and not whole:
        raise UsageError("--what and --untouched go with a whole process: --pid or --name alone")


def _extract(dump: "Dump", args: argparse.Namespace, progress: Progress | None) -> "Extracted":
    common: dict[str, Any] = {"overwrite": args.force, "progress": progress}
    process = _process(dump, args)
    try:
        if args.module is not None:
            module = _module(dump, process, args.module)
            return module.extract(args.out, layout=args.layout or "memory", **common)
        if args.limit is not None:
            common["limit"] = args.limit
        if args.size is not None:
            start = args.va if args.pa is None else args.pa
            reader = _reader(dump, process, args)
            return reader.extract(start, args.size, args.out, fill=args.fill or 0, **common)
        assert process is not None
        return process.extract(args.out, what=args.what, untouched=args.untouched, **common)
    except ValueError as error:
        from kdmp import KdmpError

        if isinstance(error, KdmpError):
            raise
        raise UsageError(f"{args.out}: {error}") from None


def _reader(dump: "Dump", process: "Process | None", args: argparse.Namespace) -> "Reader":
    if args.pa is not None:
        return dump.phys
    return virtual_reader(dump, args) if process is None else process.reader


def _process(dump: "Dump", args: argparse.Namespace) -> "Process | None":
    """The one process that --pid or --name name, None without."""
    if args.pid is None and args.name is None:
        return None
    found = chosen(dump.windows, args)
    if len(found) > 1:
        which = ", ".join(process.show("pid") or heading(process) for process in found)
        raise UsageError(f"there are {len(found)} processes {args.name!r}: name one by --pid: {which}")
    return found[0]


def _module(dump: "Dump", process: "Process | None", name: str) -> "Module | UserModule | UserImage":
    from kdmp import KdmpError

    found: Module | UserModule | UserImage | None
    if process is None:
        from kdmp.windows.modules import find_module

        found = find_module(dump.windows, name)
    else:
        from kdmp.windows.userimages import find_image

        found = find_image(process, name) or find_image(process, f"{name}.dll")
    if found is None:
        raise KdmpError(f"no module is called {name}")
    return found


def _show(args: argparse.Namespace, out: Output, result: "Extracted") -> None:
    if out.json:
        facts = result.to_dict()
        del facts["path"]
        out.document({"file": args.file, "out": args.out, **facts})
        return
    out.facts([(args.out, f"{bytes_text(result.size)}, {plural(result.written, 'byte')} read")])
    from kdmp.windows.processfile import ExtractedProcess

    if isinstance(result, ExtractedProcess):
        _ranges(out, result)
    for problem in getattr(result, "problems", ()):
        out.note(f"{args.file}: {problem}")
    holes = Holes(limit=None)
    for gap in result.gaps:
        holes.add(Hole(gap.address, gap.size, gap.reason))
    holes.count += result.dropped
    holes.missing = result.missing
    holes.report(out, result.written + result.missing)


def _ranges(out: Output, result: "ExtractedProcess") -> None:
    digits = 16 if any(one.stop > 1 << 32 for one in result.ranges) else 8
    rows = [
        [
            hexa(one.va, digits),
            hexa(one.stop - 1, digits),
            hexa(one.offset),
            str(one.missing or ""),
            one.kind,
            one.protection or "",
            one.file or "",
        ]
        for one in result.ranges
    ]
    out.table(("start", "end", "offset", "missing", "kind", "protection", "file"), rows, right=("missing",))
    out.line(plural(len(rows), "range"))
