"""Runs in a fresh process: opens one dump with one reader and prints time and memory as JSON.

    python -m benchmarks.child kdmp|PEER PATH DTB [scan]

With "scan" it then looks for something that is not there in the first GiB of data; see bench_memory.py.

SPDX-License-Identifier: MIT
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ABSENT = b"this is not in there"


def memory(process: int | str = "self") -> dict[str, int]:
    """Return VmRSS, VmHWM, RssAnon and RssFile of a process in bytes; Linux only, else zeros."""
    wanted = {"VmRSS": 0, "VmHWM": 0, "RssAnon": 0, "RssFile": 0}
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return wanted
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in wanted:
            wanted[name] = int(value.split()[0]) * 1024
    return wanted


def _opener(reader: str, path: Path, dtb: int) -> Callable[[], Any]:
    """Import what is needed, so that it is not part of opening."""
    if reader == "kdmp":
        import kdmp

        return lambda: kdmp.Dump(path)
    from benchmarks import peers

    reason = peers.load(reader)
    if reason:
        raise SystemExit(reason)
    return lambda: peers.open_dump(reader, path, dtb)


def main(reader: str, path: str, dtb: str, *more: str) -> dict[str, Any]:
    """Open `path` with `reader`; return nanoseconds and the growth of memory in bytes."""
    opener = _opener(reader, Path(path), int(dtb, 16))
    gc.collect()
    gc.disable()
    before = memory()
    start = time.perf_counter_ns()
    dump = opener()
    ns = time.perf_counter_ns() - start
    after = memory()
    result: dict[str, Any] = {
        "ns": ns,
        "rss": after["VmRSS"] - before["VmRSS"],
        "peak": max(after["VmHWM"] - before["VmRSS"], 0),
        "anonymous": after["RssAnon"] - before["RssAnon"],
        # Only now: what `len` touches is not part of opening.
        "frames": len(dump.pages) if reader == "kdmp" else None,
        "before": before,
    }
    if more and more[0] == "scan":
        first, size = (int(number, 16) for number in more[1:3])
        result["found"] = len(_scan(dump, reader, first, size))
    if reader != "kdmp":
        dump.close()
    return result


def _scan(dump: Any, reader: str, first: int, size: int) -> list[Any]:
    if reader == "kdmp":
        return list(dump.phys.search(ABSENT, first, first + size - 1))
    found: list[Any] = dump.calls["phys_scan"](first, size, ABSENT)
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
