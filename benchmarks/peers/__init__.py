"""The other readers behind one set of names, so that a benchmark can ask who takes part.

A peer is a module here with `load()`, which imports it, and `open_dump(path, dtb)`, which gives a `Peer`.
What a peer cannot do has a reason, which ends up in the table.

SPDX-License-Identifier: MIT
"""

import importlib
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.harness import MEMPROCFS, PEER, PEERS, VOLATILITY

ROOT = Path(__file__).parents[2]
_MODULES = {PEER: "kdmp_parser", VOLATILITY: "volatility", MEMPROCFS: "memprocfs"}
_NO_SUCH_FUNCTION = "has no such function"


def _nothing() -> None:
    """Closing what needs no closing."""


@dataclass
class Peer:
    """An open dump of another reader.

    `calls` has functions by what they do: "translate" (va), "read8" and "page" (va), "read" (va, size),
    "phys8" and "phys_page" (pa), "phys_read" (pa, size), "scan" and "phys_scan" (first, size, needle),
    "mappings" (first, size).
    """

    name: str
    calls: dict[str, Callable[..., Any]]
    reasons: dict[str, str] = field(default_factory=dict)  # for what it cannot do
    close: Callable[[], None] = _nothing
    inner: Any = None  # its own object


class Sides:
    """The peers that take part in what is measured on one dump."""

    def __init__(self, peers: Mapping[str, Peer], missing: Mapping[str, str]) -> None:
        self._peers, self._missing = peers, missing

    def get(self, name: str) -> Peer | None:
        """Return a peer if it has this dump open."""
        return self._peers.get(name)

    def calls(self, what: str) -> dict[str, Callable[..., Any]]:
        """Return the function for this of everyone who has one."""
        return {name: peer.calls[what] for name, peer in self._peers.items() if what in peer.calls}

    def check(self, what: str, arguments: Sequence[Any], expected: Callable[..., object]) -> None:
        """Compare answers; who gives another one, or an exception, is out of what it was asked."""
        for name, peer in self._peers.items():
            function = peer.calls.get(what)
            for argument in arguments if function is not None else ():
                values = argument if isinstance(argument, tuple) else (argument,)
                reason = _wrong(function, values, expected)
                if reason:
                    self.drop(name, what, reason)
                    break

    def drop(self, name: str, what: str, reason: str) -> None:
        """Take a function from a peer."""
        del self._peers[name].calls[what]
        self._peers[name].reasons[what] = f"{name}, {what}: {reason}"

    def missing(self, what: str) -> dict[str, str]:
        """Return why the others do not take part."""
        reasons = dict(self._missing)
        for name, peer in self._peers.items():
            if what not in peer.calls:
                reasons[name] = peer.reasons.get(what, f"{name} {_NO_SUCH_FUNCTION}")
        return reasons


def _wrong(function: Any, values: tuple[Any, ...], expected: Callable[..., object]) -> str:
    try:
        answer = function(*values)
    except Exception as error:
        return f"fails: {type(error).__name__}: {str(error)[:80]}"
    return "" if answer == expected(*values) else f"wrong answer for {', '.join(map(_text, values))}"


def _text(value: object) -> str:
    return hex(value) if isinstance(value, int) else repr(value)[:40]


@cache
def load(name: str) -> str | None:
    """Import a peer; return why that is not possible, None if it is."""
    try:
        _module(name).load()
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (_MODULES[name], name):
            return f"{name} is not installed (see the dependency group bench)"
        return f"{name} does not run here: {error}"
    return None


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.peers.{_MODULES[name]}")


def open_dump(name: str, path: Path, dtb: int) -> Peer:
    """Open a dump with a peer that can be loaded."""
    peer: Peer = _module(name).open_dump(path, dtb)
    return peer


@cache
def first(name: str, path: Path, dtb: int, seconds: float) -> dict[str, Any] | str:
    """Open a dump with a peer in a process of its own; return as `child`."""
    return load(name) or child(name, path, dtb, seconds)


def trial(name: str, path: Path, dtb: int, seconds: float) -> str | None:
    """Return why a peer does not open a dump within so many seconds, None if it does."""
    found = first(name, path, dtb, seconds)
    return found if isinstance(found, str) else None


def child(name: str, path: Path, dtb: int, seconds: float) -> dict[str, Any] | str:
    """Return what benchmarks/child.py says of opening a dump, or why it says nothing."""
    command = [sys.executable, "-m", "benchmarks.child", name, str(path), hex(dtb)]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"{name} does not open {_kind(path)} within {seconds:.0f} s"
    if done.returncode < 0:
        return f"{name} dies on {_kind(path)}: signal {-done.returncode}"
    if done.returncode > 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return f"{name} does not open {_kind(path)}: {last[0].strip()[:120]}"
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "seconds": time.monotonic() - start}


def _kind(path: Path) -> str:
    return path.name.rsplit("-", 2)[0]


_open: dict[tuple[str, Path], Peer] = {}


def opened(path: Path, dtb: int, seconds: float) -> Sides:
    """Open a dump with every peer that can; each tries in a process of its own first, within `seconds`.

    They stay open, since some take many seconds for that.
    """
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for name in PEERS:
        reason = trial(name, path, dtb, seconds)
        if reason:
            missing[name] = reason
            continue
        if (name, path) not in _open:
            _open[name, path] = open_dump(name, path, dtb)
        kept = _open[name, path]
        peers[name] = replace(kept, calls=dict(kept.calls), reasons=dict(kept.reasons))
    return Sides(peers, missing)


def close_all() -> None:
    """Close what `opened` left open."""
    while _open:
        _open.popitem()[1].close()


def versions() -> dict[str, str | None]:
    """Return the installed version of every peer and tool, None for missing ones."""
    found: dict[str, str | None] = {}
    for name in (*PEERS, "numpy", "matplotlib"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def plain_kdmp_parser(path: Path) -> Any:
    """Return an open `kdmp_parser.KernelDumpParser`, None if the package is not installed."""
    return None if load(PEER) else open_dump(PEER, path, 0).inner


def raw_kdmp_parser(parser: Any) -> Any:
    """Return the C++ object inside a KernelDumpParser, None if it is not where it was."""
    return getattr(parser, "_KernelDumpParser__dump", None)
