"""Memory of a scan: how far private memory and all that is resident rise, in a process of its own.

The dump is opened and its data searched for what is not there; meanwhile the process is looked at every few
milliseconds. What is resident counts pages of the mapped file, which belong to the page cache.

SPDX-License-Identifier: MIT
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import dumps, peers
from benchmarks.child import memory
from benchmarks.harness import OURS, PEER, PEERS, Mismatch, Options, Row

MIB = 1 << 20
_EVERY = 0.002
_TIMEOUT = 120.0


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    machine = dumps.bitmap_1g(quick=options.quick)
    path = dumps.ensure(machine, options.directory)
    size = machine.mapped * dumps.PAGE
    private: dict[str, list[float]] = {}
    resident: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for name in (OURS, *PEERS):
        reason = _reason(name, path, machine, options)
        if reason:
            missing[name] = reason
            continue
        # A peer that takes long gets one sample.
        for _ in range(3 if name == OURS else 1):
            try:
                found = _watched(name, path, machine, size)
            except Mismatch as error:
                missing[name] = str(error)
                break
            private.setdefault(name, []).append(found["private"] / MIB)
            resident.setdefault(name, []).append(found["resident"] / MIB)
    what = f"{size >> 20} MiB"
    for text, samples in (("private memory", private), ("resident memory, mapped file included", resident)):
        yield Row(
            "memory", f"physical scan of {what}: {text}", "MiB", samples, None, "", missing, machine.name
        )


def _reason(name: str, path: Path, machine: dumps.Machine, options: Options) -> str | None:
    if name == OURS:
        import kdmp

        return None if hasattr(kdmp.Reader, "search") else "kdmp has no Reader.search here"
    if name == PEER:
        return "kdmp_parser has no scan"
    return peers.trial(name, path, machine.dtb, options.opening)


def _watched(name: str, path: Path, machine: dumps.Machine, size: int) -> dict[str, float]:
    """Run a scan in a process and look at it; return the growth since before the dump was open."""
    command = [sys.executable, "-m", "benchmarks.child", name, str(path), hex(machine.dtb), "scan"]
    command += [hex(machine.data_start), hex(size)]
    highest = {"RssAnon": 0, "VmRSS": 0}
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT) as process:
        while process.poll() is None:
            now = memory(process.pid)
            highest = {key: max(value, now[key]) for key, value in highest.items()}
            if time.monotonic() - start > _TIMEOUT:
                process.kill()
                raise Mismatch(f"{name} does not scan {size >> 20} MiB within {_TIMEOUT:.0f} s")
            time.sleep(_EVERY)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise Mismatch(f"{name}: its scan ends with exit code {process.returncode}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    if result["found"]:
        raise Mismatch(f"{name} finds what is not there")
    before = result["before"]
    return {
        "private": max(highest["RssAnon"] - before["RssAnon"], 0),
        "resident": max(highest["VmRSS"] - before["VmRSS"], 0),
    }
