"""`kdmp diff`: what changed between two dumps of one machine.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING, Any

from kdmp.cli.options import UsageError, add_file, add_symbols, open_dump
from kdmp.cli.output import Json, Output, bytes_text, hexa, plural
from kdmp.cli.processes import known

if TYPE_CHECKING:
    from kdmp import Dump
    from kdmp.series import SnapshotDiff
    from kdmp.series_frames import FrameDiff, FrameSet
    from kdmp.series_windows import Changes, EntityChange
    from kdmp.windows.entity import Entity

HELP = "compare two dumps of one machine and boot: frames, processes, threads, modules"

_KINDS = ("processes", "threads", "modules")
_FRAME_KINDS = (("changed", "changed"), ("only_first", "only in FILE"), ("only_second", "only in OTHER"))


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE OTHER, --frames, --force, --threads, --json, --symbols, --io."""
    add_file(parser, raw=False)
    parser.add_argument("other", metavar="OTHER", help="the later dump of the same machine")
    parser.add_argument("--frames", action="store_true", help="list the frames that differ, as runs")
    parser.add_argument(
        "--force", action="store_true", help="compare even if the dumps are not of one machine and boot"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="how many threads compare frames (default: all processors)"
    )
    add_symbols(parser)
    parser.set_defaults(raw=False, run=None, arch=None)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print what changed; exit code 1 if the dumps are not of one machine and boot, unless --force."""
    from kdmp import KdmpError, SeriesError, SnapshotSeries

    if args.threads is not None and args.threads < 1:
        raise UsageError("--threads: at least 1")
    with open_dump(args, out) as first:
        try:
            later = argparse.Namespace(**{**vars(args), "file": args.other})
            second = open_dump(later, out)
        except KdmpError as error:
            out.note(f"{args.other}: {error}")
            for hint in getattr(error, "__notes__", ()):
                out.note(hint)
            return 1
        with second:
            try:
                series = SnapshotSeries([first, second], check=not args.force, threads=args.threads)
            except SeriesError as error:
                return _refuse(error, args, out)
            diff = series.diff(0, 1)
            if series.remarks:
                out.note("nothing tells whether these are of one machine")
            if out.json:
                out.document(_document(diff, args))
            else:
                _print(diff, args, out)
    return 0


def _refuse(error: Any, args: argparse.Namespace, out: Output) -> int:
    if out.json:
        facts = {"type": "SeriesError", "message": str(error)}
        mismatches = [_mismatch(one) for one in error.mismatches]
        out.document({"file": args.file, "other": args.other, "mismatches": mismatches, "error": facts})
    for one in error.mismatches:
        out.note(f"{one.what}: {one.old} in {args.file}, {one.new} in {args.other}")
    out.note("these dumps are not of one machine and boot, in this order; --force compares them all the same")
    return 1


def _mismatch(one: Any) -> Json:
    return {"what": one.what, "old": one.old, "new": one.new}


# ---- text ----


def _print(diff: "SnapshotDiff", args: argparse.Namespace, out: Output) -> None:
    frames = diff.frames
    seconds = diff.seconds
    out.facts(
        [
            ("first", _about(args.file, diff.first)),
            ("second", _about(args.other, diff.second)),
            ("time between", "?" if seconds is None else _span(seconds)),
            *(("mismatch", f"{one.what}: {one.old}, then {one.new}") for one in diff.mismatches),
            ("frames", f"{frames.same} same, {len(frames.changed)} changed"),
            ("changed bytes", bytes_text(frames.changed_bytes)),
            ("only in first", plural(len(frames.only_first), "frame")),
            ("only in second", plural(len(frames.only_second), "frame")),
        ]
    )
    if args.frames:
        _print_frames(frames, out)
    for what in _KINDS:
        _print_changes(what, getattr(diff, what), out)
    problems = [f"{problem}" for what in _KINDS for problem in getattr(diff, what).problems]
    for text in dict.fromkeys(problems):  # processes and threads share some
        out.note(text)


def _about(file: str, dump: "Dump") -> str:
    kind = getattr(dump.kind, "name", dump.kind)
    parts = [file, f"{kind} {dump.arch} build {dump.build}"]
    if dump.system_time is not None:
        parts.append(dump.system_time.isoformat(sep=" ", timespec="seconds"))
    return ", ".join(parts)


def _span(seconds: float) -> str:
    from datetime import timedelta

    sign = "-" if seconds < 0 else ""
    return f"{sign}{timedelta(seconds=abs(seconds))}"


def _print_frames(frames: "FrameDiff", out: Output) -> None:
    rows = (
        (title, hexa(first), hexa(first + count - 1), str(count))
        for name, title in _FRAME_KINDS
        for first, count in getattr(frames, name).runs
    )
    out.line()
    out.table(("change", "first", "last", "frames"), rows, right=("first", "last", "frames"))


def _print_changes(what: str, changes: "Changes[Any]", out: Output) -> None:
    out.line()
    if not changes.available:
        out.line(f"{what}: cannot be compared")
    elif not changes:
        out.line(f"{what}: no change")
    else:
        counts = ((changes.came, "came"), (changes.gone, "gone"), (changes.changed, "changed"))
        out.line(f"{what}: " + ", ".join(f"{len(items)} {word}" for items, word in counts))
        rows = [("+", *_who(one), "") for one in changes.came]
        rows += [("-", *_who(one), "") for one in changes.gone]
        for change in changes.changed:
            facts = "; ".join(f"{name} {change.show(name)}" for name in change.facts)
            rows.append(("*", *_who(change.after), facts))
        out.table(("", "id", "name", "address", "what"), rows, right=("id",))


def _who(entity: "Entity") -> tuple[str, str, str]:
    """Id, name and address of a process, thread or module."""
    digits = 2 * entity.windows.pointer_size
    if hasattr(entity, "tid"):
        owner = entity.process  # type: ignore[attr-defined]
        name = "" if owner is None else owner.name or ""
        return f"{entity.show('pid')}.{entity.show('tid')}", name, hexa(entity.address, digits)
    if hasattr(entity, "base"):
        return "", entity.show("name"), hexa(entity.base, digits)
    return entity.show("pid"), entity.show("name"), hexa(entity.address, digits)


# ---- JSON ----


def _document(diff: "SnapshotDiff", args: argparse.Namespace) -> Json:
    frames = diff.frames
    counts: Json = frames.to_dict()
    if args.frames:
        counts |= {f"{name}_runs": _runs(getattr(frames, name)) for name, _ in _FRAME_KINDS}
    old, new = diff.series.identities
    document: Json = {
        "file": args.file,
        "other": args.other,
        "first": old.to_dict(),
        "second": new.to_dict(),
        "mismatches": [_mismatch(one) for one in diff.mismatches],
        "remarks": diff.series.remarks,
        "frames": counts,
    }
    if diff.seconds is not None:
        document["seconds"] = diff.seconds
    return document | {what: _changes(getattr(diff, what)) for what in _KINDS}


def _runs(frames: "FrameSet") -> list[Json]:
    return [{"pfn": first, "count": count} for first, count in frames.runs]


def _changes(changes: "Changes[Any]") -> Json:
    facts: Json = {"available": changes.available}
    if changes.available:
        facts |= {
            "came": [_facts(one) for one in changes.came],
            "gone": [_facts(one) for one in changes.gone],
            "changed": [_change(change) for change in changes.changed],
        }
    return facts | {"problems": [problem.to_dict() for problem in changes.problems]}


def _value(value: Any, otherwise: Any) -> Any:
    """A value as JSON has it."""
    from datetime import timedelta

    from kdmp.windows.objects import EnumValue

    if isinstance(value, EnumValue):
        return value.name or int(value)
    return value.total_seconds() if isinstance(value, timedelta) else otherwise


def _facts(entity: "Entity") -> Json:
    """What is known of an entity; enumerations by name, if they have one, as in the other commands."""
    facts = known(entity)
    return {name: _value(getattr(entity, name, value), value) for name, value in facts.items()}


def _change(change: "EntityChange[Any]") -> Json:
    from kdmp.windows.entity import plain

    entity = change.after
    facts: Json = {name: getattr(entity, name, None) for name in ("pid", "tid", "name", "base")}
    facts = {name: value for name, value in facts.items() if value is not None}
    return facts | {
        "address": entity.address,
        "facts": {
            name: {"old": _value(old, plain(old)), "new": _value(new, plain(new))}
            for name, (old, new) in change.facts.items()
        },
    }
