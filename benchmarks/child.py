"""Runs in a fresh process: opens one dump with one reader and prints time and memory as JSON.

    python -m benchmarks.child kdmp|kdmp_parser|import PATH

SPDX-License-Identifier: MIT
"""

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any


def _status() -> dict[str, int]:
    """Return VmRSS, VmHWM and RssAnon of this process in bytes; Linux only, else zeros."""
    wanted = {"VmRSS": 0, "VmHWM": 0, "RssAnon": 0}
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return wanted
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in wanted:
            wanted[name] = int(value.split()[0]) * 1024
    return wanted


def main(reader: str, path: str) -> dict[str, Any]:
    """Open `path` with `reader`; return nanoseconds and the growth of memory in bytes."""
    if reader == "import":
        start = time.perf_counter_ns()
        import kdmp

        return {"ns": time.perf_counter_ns() - start}
    if reader == "kdmp":
        import kdmp

        opener: Any = kdmp.Dump
    else:
        import kdmp_parser  # type: ignore[import-untyped,import-not-found,unused-ignore]

        opener = kdmp_parser.KernelDumpParser
    gc.collect()
    gc.disable()
    before = _status()
    start = time.perf_counter_ns()
    dump = opener(path)
    ns = time.perf_counter_ns() - start
    after = _status()
    # Only now: what `len` touches is not part of opening.
    frames = len(dump.pages) if reader == "kdmp" else None
    return {
        "ns": ns,
        "rss": after["VmRSS"] - before["VmRSS"],
        "peak": max(after["VmHWM"] - before["VmRSS"], 0),
        "anonymous": after["RssAnon"] - before["RssAnon"],
        "frames": frames,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))
