"""Builds the fuzz targets, replays the corpora and fuzzes for a while.

    python tests/fuzz/runfuzz.py [--seconds N] [--seed N] [--jobs N] [--build DIRECTORY]
                                 [--driver auto|libfuzzer|standalone] [TARGET...]
    python tests/fuzz/runfuzz.py --minimise

With clang and its libFuzzer that is what fuzzes; otherwise `cc` and standalone.c do, with ASan and
UBSan and, where the compiler has it, coverage. Targets whose name begins with "py-" are those of
pyfuzz.py. What is found, and what reached new code, is in the build directory; README.md here says
what to do with it.

SPDX-License-Identifier: MIT
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGETS = (
    "open",
    "raw",
    "triage",
    "translate",
    "pte",
    "batch",
    "mappings",
    "extents",
    "scan",
    "overlay",
    "diff",
)
MAX_LEN = 1 << 16
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COVER = "-fsanitize-coverage=trace-pc"
# What of each corpus is worth its place in the repository: dumps are mostly header.
BUDGET = {"open": 200_000, "raw": 120_000}
USUAL_BUDGET = 50_000


@dataclass
class Result:
    """How a target fared. `new` is how many inputs reached code that none had reached."""

    target: str
    driver: str
    seconds: float = 0.0
    executions: int = 0
    new: int = 0
    output: str = ""
    failed: bool = False

    def __str__(self):
        speed = self.executions / self.seconds if self.seconds else 0
        verdict = "FAILED" if self.failed else "ok"
        return (
            f"{self.target:15} {self.driver:10} {self.executions:>12,} runs {speed:>8,.0f}/s "
            f"{self.new:>6} new  {verdict}"
        )


def compiler():
    """The C compiler as a list of words, or None."""
    words = os.environ.get("CC", "cc").split()
    return words if shutil.which(words[0]) else None


def _call(command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, timeout=300, **options)


def _accepts(cc, flags, place):
    probe = place / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = [*cc, *flags, str(probe), "-o", str(place / "probe")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _compile_all(cc, flags, sources, place):
    """Compile files side by side; their objects."""

    def one(source):
        target = place / f"{Path(source).stem}.o"
        _call([*cc, *flags, "-c", str(source), "-o", str(target)])
        return str(target)

    place.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, sources))


class Standalone:
    """Programs by any compiler: the core and the target, and apart from them, because these must not
    trace themselves, the runner and the mutator."""

    name = "standalone"

    def __init__(self, place, *, sanitize=True):
        place.mkdir(parents=True, exist_ok=True)
        self.cc, self.place = compiler(), place
        self.flags = ["-std=c11", "-O1", "-g", "-fno-omit-frame-pointer", f"-I{ROOT / 'csrc'}"]
        self.flags += SANITIZE if sanitize else []
        self.cover = [COVER] if sanitize and _accepts(self.cc, [COVER, "-c"], place) else []
        core = sorted((ROOT / "csrc").glob("*.c"))
        self.objects = _compile_all(self.cc, [*self.flags, *self.cover], core, place / "core")
        runner = [HERE / "standalone.c", HERE / "mutator.c"]
        self.objects += _compile_all(self.cc, self.flags, runner, place / "runner")

    def build(self, target):
        """The program of a target."""
        program = self.place / f"fuzz_{target}"
        source = str(HERE / f"fuzz_{target}.c")
        _call([*self.cc, *self.flags, *self.cover, source, *self.objects, "-o", str(program)])
        return program

    def run(self, target, folders, kept, seconds, seed):
        """Replay and fuzz; a Result."""
        kept.mkdir(parents=True, exist_ok=True)
        options = [f"-prefix={self.place}/{target}-", f"-dict={HERE / 'kdmp.dict'}", f"-keep={kept}"]
        options += [f"-max_len={MAX_LEN}", f"-seed={seed}"]
        options += [f"-seconds={seconds}"] if seconds else []
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
        result = _watch(
            target, self.name, [self.build(target), *options, *folders, kept], seconds, environment
        )
        result.executions = _number(r"(\d+) mutations", result.output) + _number(
            r"(\d+) inputs replayed", result.output
        )
        result.new = _number(r"(\d+) inputs kept", result.output)
        result.new = max(0, result.new - _number(r"(\d+) inputs replayed", result.output))
        return result


class LibFuzzer:
    """Programs by clang, with its fuzzer."""

    name = "libFuzzer"

    def __init__(self, place):
        self.place, self.cc = place, [shutil.which("clang") or "clang"]
        self.flags = ["-std=c11", "-O1", "-g", f"-I{ROOT / 'csrc'}", "-fno-sanitize-recover=all"]
        self.flags += ["-fsanitize=fuzzer-no-link,address,undefined"]
        core = sorted((ROOT / "csrc").glob("*.c"))
        self.objects = _compile_all(self.cc, self.flags, [*core, HERE / "mutator.c"], place / "clang")

    @staticmethod
    def available(place):
        """Whether clang is there and can link a fuzzer."""
        clang = shutil.which("clang")
        if clang is None:
            return False
        place.mkdir(parents=True, exist_ok=True)
        probe = place / "probe_fuzzer.c"
        probe.write_text("int LLVMFuzzerTestOneInput(const void *d, unsigned long n) { return 0; }\n")
        command = [
            clang,
            "-fsanitize=fuzzer,address,undefined",
            str(probe),
            "-o",
            str(place / "probe_fuzzer"),
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def build(self, target):
        """The program of a target."""
        program = self.place / f"libfuzzer_{target}"
        source = str(HERE / f"fuzz_{target}.c")
        _call([*self.cc, *self.flags, "-fsanitize=fuzzer", source, *self.objects, "-o", str(program)])
        return program

    def run(self, target, folders, kept, seconds, seed):
        """Replay and fuzz; a Result."""
        kept.mkdir(parents=True, exist_ok=True)
        options = [f"-artifact_prefix={self.place}/{target}-", f"-dict={HERE / 'kdmp.dict'}", "-timeout=20"]
        options += [f"-max_len={MAX_LEN}", f"-seed={seed}", "-print_final_stats=1"]
        options += [f"-max_total_time={seconds}"] if seconds else ["-runs=0"]
        result = _watch(
            target, self.name, [self.build(target), *options, kept, *folders], seconds, os.environ
        )
        result.executions = _number(r"number_of_executed_units: (\d+)", result.output)
        result.new = _number(r"new_units_added: +(\d+)", result.output)
        return result

    def merge(self, target, into, folders):
        """Put the smallest inputs into the empty folder `into` that together reach all that any does."""
        into.mkdir(parents=True)
        command = [
            self.build(target),
            "-merge=1",
            "-use_counters=0",
            f"-max_len={MAX_LEN}",
            str(into),
            *folders,
        ]
        _require(_watch(target, self.name, command, 3600, os.environ))


class Python:
    """Targets of pyfuzz.py."""

    name = "python"

    def __init__(self, place):
        self.place = place

    def run(self, target, _folders, kept, seconds, seed):
        """Replay and fuzz; a Result."""
        command = [sys.executable, str(HERE / "pyfuzz.py"), target.removeprefix("py-")]
        command += [f"--seconds={seconds}", f"--seed={seed}", f"--kept={kept}"]
        command += [f"--prefix={self.place}/{target}-"]
        result = _watch(target, self.name, command, seconds, os.environ)
        result.executions = _number(r"(\d+) runs", result.output)
        result.new = _number(r"(\d+) kept", result.output)
        return result

    def merge(self, target, into, folders):
        """Put the smallest inputs into the empty folder `into` that together reach all that any does."""
        into.mkdir(parents=True)
        command = [sys.executable, str(HERE / "pyfuzz.py"), target.removeprefix("py-"), f"--into={into}"]
        _require(_watch(target, self.name, [*command, f"--kept={folders[-1]}"], 3600, os.environ))


def _number(pattern, text):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _require(result):
    if result.failed:
        raise SystemExit(f"{result.target}: {result.output[-4000:]}")


def _watch(target, driver, command, seconds, environment):
    """Run a target's program."""
    start = time.monotonic()
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, encoding="utf-8", errors="replace", check=False, env=environment,
        timeout=seconds + 900,
    )  # fmt: skip
    result = Result(target, driver, time.monotonic() - start, output=done.stdout + done.stderr)
    result.failed = done.returncode != 0
    return result


def build_standalone(target, place, *, sanitize=True):
    """Compile fuzz_<target>.c, the core, the mutator and standalone.c; return the program's path."""
    return Standalone(place, sanitize=sanitize).build(target)


def inputs(target, seeds):
    """The folders of a target's inputs: fresh seeds, and those in the repository."""
    found = HERE / "corpus" / target
    return [str(folder) for folder in (seeds / target, found) if folder.is_dir()]


def python_targets():
    """The names of pyfuzz.py's targets, as they are called here."""
    from pyfuzz import TARGETS as names

    return tuple(f"py-{name}" for name in names)


def _choose_driver(place, wanted, seconds):
    if wanted == "libfuzzer" or (wanted == "auto" and seconds and LibFuzzer.available(place)):
        return LibFuzzer(place)
    return Standalone(place)


def fuzz(targets, place, seconds, seed, jobs, wanted):
    """Run targets side by side; their results."""
    drivers = {True: Python(place)}
    if any(not target.startswith("py-") for target in targets):
        drivers[False] = _choose_driver(place, wanted, seconds)

    def one(target):
        driver = drivers[target.startswith("py-")]
        try:
            result = driver.run(
                target, inputs(target, place / "seeds"), place / "kept" / target, seconds, seed
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
            return Result(target, driver.name, output=f"{exc}\n{exc.stderr or ''}", failed=True)
        print(result, flush=True)
        return result

    print(f"{len(targets)} targets, {seconds} s each, {jobs} at a time, seed {seed}", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, targets))


def minimise(targets, place):
    """Make the corpora in the repository anew from all inputs there are; those with a name that is no
    hash are kept, and so are the seeds, which are made again each time."""
    drivers = {True: Python(place)}
    for target in targets:
        found, fresh = HERE / "corpus" / target, place / "merged" / target
        shutil.rmtree(fresh, ignore_errors=True)
        is_python = target.startswith("py-")
        if is_python not in drivers:
            drivers[False] = LibFuzzer(place)
        drivers[is_python].merge(
            target, fresh, [*inputs(target, place / "seeds"), str(place / "kept" / target)]
        )
        seeds = place / "seeds" / target
        known = {path.read_bytes() for path in (seeds.iterdir() if seeds.is_dir() else ())}
        found.mkdir(parents=True, exist_ok=True)
        for path in found.iterdir():
            if re.fullmatch("[0-9a-f]{40}", path.name):
                path.unlink()
            else:
                known.add(path.read_bytes())
        room = BUDGET.get(target, USUAL_BUDGET)
        for path in sorted(fresh.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
            room -= path.stat().st_size
            if room > 0 and path.read_bytes() not in known:
                shutil.copyfile(path, found / path.name)
        print(f"{target}: {len(list(found.iterdir()))} of {len(list(fresh.iterdir()))} inputs", flush=True)


def main(argv=None):
    """Exit status: 0, or 1 if a target failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}, py-...")
    parser.add_argument("--seconds", type=int, default=15, help="of mutation for each target; 0: replay only")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "fuzz", help="where to build")
    parser.add_argument("--driver", choices=("auto", "libfuzzer", "standalone"), default="auto")
    parser.add_argument("--minimise", action="store_true", help="make tests/fuzz/corpus anew; needs clang")
    args = parser.parse_args(argv)
    if compiler() is None:
        parser.error("no C compiler (set CC)")
    from make_corpus import main as make_corpus

    make_corpus(args.build / "seeds")
    if args.minimise:
        minimise(args.targets or [*TARGETS, *python_targets()], args.build)
        return 0
    targets = args.targets or [*TARGETS, *python_targets()]
    results = fuzz(targets, args.build, args.seconds, args.seed, args.jobs, args.driver)
    failed = [result for result in results if result.failed]
    for result in failed:
        print(f"== {result.target}\n{result.output[-8000:]}", file=sys.stderr)
    total = sum(result.executions for result in results)
    spent = sum(result.seconds for result in results)
    print(f"{total:,} runs in {spent / 60:.1f} minutes, {len(failed)} findings")
    if failed:
        names = ", ".join(result.target for result in failed)
        print(f"failed: {names}; inputs are in {args.build}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
