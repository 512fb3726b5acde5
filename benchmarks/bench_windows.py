"""`kdmp ps` on a dump with 300 processes, from nothing, against Volatility 3's windows.pslist.

Each sample is a process of its own, from its start to its end; the caches of both are warm. Their lists of
process ids are compared first.

SPDX-License-Identifier: MIT
"""

import importlib.util
import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import manyprocs, peers
from benchmarks.harness import (
    MEMPROCFS,
    OURS,
    PEER,
    VOLATILITY,
    Claim,
    Mismatch,
    Options,
    Row,
    interleaved,
)

MACHINE = "win11-22000-pti"
SYMBOLS = "0CE4A95C0CD782A7596B034D8648E585-1.json.xz"  # of that machine's kernel
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
_SLOWING = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # each process would compile its modules again
_TIMEOUT = 300


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    name = f"process list, {manyprocs.COUNT} processes, new process"
    claim = Claim("value", 0.25)
    packed = SHARED / "machines" / MACHINE / "full.dmp.xz"
    if importlib.util.find_spec("kdmp.cli.cmd_ps") is None:
        yield Row("windows", name, "s", {}, claim, missing={OURS: "there is no command kdmp ps"})
        return
    if not packed.exists():
        yield Row(
            "windows", name, "s", {}, claim, missing={OURS: f"no machine to make a dump of at {packed}"}
        )
        return
    path = _dump(packed, options.directory)
    environment = {name: value for name, value in os.environ.items() if name not in _SLOWING}
    environment["XDG_CACHE_HOME"] = str(options.directory / "cache")
    ours = [sys.executable, "-m", "kdmp", "ps", str(path)]
    found = {OURS: _our_ids([*ours, "--json"], environment)}
    sides = {OURS: _timed(ours, environment)}
    theirs, reason = _volatility(options.directory)
    if theirs:
        command = [*theirs, "-f", str(path), "windows.pslist"]
        found[VOLATILITY] = _their_ids(
            [*theirs, "-r", "json", "-f", str(path), "windows.pslist"], environment
        )
        sides[VOLATILITY] = _timed(command, environment)
    _check(found)
    samples = interleaved(sides, options.rounds, patience=4 * options.patience)
    missing = {MEMPROCFS: _memprocfs(path), PEER: "kdmp_parser has no process list"}
    if not theirs:
        missing[VOLATILITY] = reason
    claims = (claim, Claim("ratio", 5, against=VOLATILITY))
    note = "volatility3: windows.pslist" if theirs else ""
    yield Row("windows", name, "s", samples, claims, note=note, missing=missing, dump="300 processes")


def _memprocfs(path: Path) -> str:
    """Why it is not measured: the machines are made up and hold no image of a kernel that it could find."""
    reason = peers.load(MEMPROCFS)
    if reason:
        return reason
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.memprocfs", str(path)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode == 0:
        return "memprocfs starts, but is not measured"
    why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    return f"memprocfs does not start: it finds no Windows kernel's image in this made-up machine ({why[0]})"


def _dump(packed: Path, directory: Path) -> Path:
    """The dump with many processes, made if it is not there yet."""
    path = directory / f"processes-{manyprocs.COUNT}-{MACHINE}-v{manyprocs.VERSION}.dmp"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        plain, scratch = (path.with_suffix(f".{os.getpid()}.{part}") for part in ("plain", "tmp"))
        try:
            plain.write_bytes(lzma.decompress(packed.read_bytes()))
            manyprocs.make(plain, scratch)
            os.replace(scratch, path)
        finally:
            plain.unlink(missing_ok=True)
            scratch.unlink(missing_ok=True)
    return path


def _volatility(directory: Path) -> tuple[list[str], str]:
    """The command up to the file, with symbols and a cache of its own; nothing and why if it is not there."""
    beside = Path(sys.executable).with_name("vol")
    program = os.environ.get("KDMP_BENCH_VOLATILITY") or (
        str(beside) if beside.exists() else shutil.which("vol")
    )
    if program is None or shutil.which(program) is None:
        return [], "Volatility 3 is not installed (its program is vol, or set KDMP_BENCH_VOLATILITY)"
    symbols = SHARED / "isf" / SYMBOLS
    if not symbols.exists():
        return [], f"no symbols for Volatility 3 at {symbols}"
    folder = directory / "symbols"
    place = folder / "windows" / "ntkrnlmp.pdb" / SYMBOLS
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        shutil.copy(symbols, place)
    cache = directory / "volatility"
    cache.mkdir(exist_ok=True)
    return [program, "-q", "--offline", "--cache-path", str(cache), "-s", str(folder)], ""


def _output(command: Sequence[str], environment: dict[str, str]) -> str:
    """What the command prints; exit code 1 (something is missing) is no failure."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT)
    if done.returncode not in (0, 1) or not done.stdout:
        raise Mismatch(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _our_ids(command: Sequence[str], environment: dict[str, str]) -> set[int]:
    return {one["pid"] for one in json.loads(_output(command, environment))["processes"]}


def _their_ids(command: Sequence[str], environment: dict[str, str]) -> set[int]:
    return {one["PID"] for one in json.loads(_output(command, environment))}


def _check(found: dict[str, set[int]]) -> None:
    """All clones are in every list, and nothing of the peer's is missing from ours, which also unhides."""
    clones = {manyprocs.FIRST_ID + 4 * k for k in range(manyprocs.COUNT)}
    for who, ids in found.items():
        if not clones <= ids:
            raise Mismatch(f"{who} lists {len(clones & ids)} of {len(clones)} new processes")
        if not ids <= found[OURS]:
            raise Mismatch(f"{who} lists processes that kdmp does not: {sorted(ids - found[OURS])}")


def _timed(command: Sequence[str], environment: dict[str, str]) -> Callable[[], float]:
    def sample() -> float:
        start = time.perf_counter()
        _output(command, environment)
        return time.perf_counter() - start

    return sample
