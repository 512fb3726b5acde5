"""Builds the fuzz targets, replays the corpus and fuzzes for a while.

    python tests/fuzz/runfuzz.py [--seconds N] [--seed N] [--build DIRECTORY] [TARGET...]

With clang and its libFuzzer that is what fuzzes; otherwise `cc` and standalone.c do, with ASan and
UBSan and, where the compiler has it, coverage. Found inputs are written to the build directory;
one that showed a bug belongs into tests/fuzz/corpus/TARGET/ together with the fix.

SPDX-License-Identifier: MIT
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGETS = ("open", "raw", "translate")
MAX_LEN = 1 << 16
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COVER = "-fsanitize-coverage=trace-pc"


def compiler():
    """The C compiler as a list of words, or None."""
    words = os.environ.get("CC", "cc").split()
    return words if shutil.which(words[0]) else None


def _call(command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, timeout=300, **options)


def _accepts(cc, flags, place):
    probe = place / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = [*cc, *flags, "-c", str(probe), "-o", str(place / "probe.o")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build_standalone(target, place, *, sanitize=True):
    """Compile fuzz_<target>.c, the core and standalone.c; return the program's path."""
    place.mkdir(parents=True, exist_ok=True)
    cc = compiler()
    flags = ["-std=c11", "-O1", "-g", "-fno-omit-frame-pointer", f"-I{ROOT / 'csrc'}"]
    flags += SANITIZE if sanitize else []
    cover = [COVER] if sanitize and _accepts(cc, [COVER], place) else []
    # The runner is compiled apart: it must not trace itself.
    runner = place / f"standalone-{target}.o"
    _call([*cc, *flags, "-c", str(HERE / "standalone.c"), "-o", str(runner)])
    program = place / f"fuzz_{target}"
    sources = [str(HERE / f"fuzz_{target}.c"), *map(str, sorted((ROOT / "csrc").glob("*.c")))]
    _call([*cc, *flags, *cover, *sources, str(runner), "-o", str(program)])
    return program


def build_libfuzzer(target, place):
    """Compile with clang's libFuzzer; None where that is not installed."""
    clang = shutil.which("clang")
    if clang is None:
        return None
    program = place / f"libfuzzer_{target}"
    sources = [str(HERE / f"fuzz_{target}.c"), *map(str, sorted((ROOT / "csrc").glob("*.c")))]
    flags = ["-std=c11", "-O1", "-g", f"-I{ROOT / 'csrc'}", "-fsanitize=fuzzer,address,undefined"]
    command = [clang, *flags, "-fno-sanitize-recover=all", *sources, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return program if done.returncode == 0 else None


def inputs(target, seeds):
    """The folders of a target's inputs: fresh seeds, and what was once found."""
    found = HERE / "corpus" / target
    return [str(folder) for folder in (seeds / target, found) if folder.is_dir()]


def _fuzz(target, place, seconds, seed):
    program = build_standalone(target, place)
    folders = inputs(target, place / "seeds")
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    options = [
        f"-prefix={place}/{target}-",
        f"-dict={HERE / 'kdmp.dict'}",
        f"-max_len={MAX_LEN}",
        f"-seed={seed}",
    ]
    libfuzzer = build_libfuzzer(target, place) if seconds else None
    if seconds and libfuzzer is None:
        options.append(f"-seconds={seconds}")
    print(f"fuzz_{target}: standalone, seed {seed}", flush=True)
    subprocess.run([str(program), *options, *folders], check=True, env=environment, timeout=seconds + 600)
    if libfuzzer:
        kept = place / "kept" / target
        kept.mkdir(parents=True, exist_ok=True)
        options = [
            f"-artifact_prefix={place}/{target}-",
            f"-dict={HERE / 'kdmp.dict'}",
            f"-max_len={MAX_LEN}",
        ]
        options += [f"-max_total_time={seconds}", "-timeout=10", f"-seed={seed}", "-print_final_stats=1"]
        print(f"fuzz_{target}: libFuzzer", flush=True)
        subprocess.run([str(libfuzzer), *options, str(kept), *folders], check=True, timeout=seconds + 600)


def main(argv=None):
    """Exit status: 0, or 1 if a target failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=15, help="of mutation for each target; 0: replay only")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "fuzz", help="where to build")
    args = parser.parse_args(argv)
    if compiler() is None:
        parser.error("no C compiler (set CC)")
    from make_corpus import main as make_corpus

    make_corpus(args.build / "seeds")
    failed = []
    for target in args.targets:
        try:
            _fuzz(target, args.build, args.seconds, args.seed)
        except subprocess.CalledProcessError as exc:
            print(exc.stderr or "", exc, file=sys.stderr)
            failed.append(target)
    if failed:
        print(f"failed: {', '.join(failed)}; inputs are in {args.build}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
