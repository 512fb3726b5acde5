"""Fuzzes what is written in Python: guided by the lines it reaches, with nothing but Python.

    python tests/fuzz/pyfuzz.py [--seconds N] [--runs N] [--seed N] [--kept DIRECTORY]
                                [--prefix PATH] TARGET [FILE...]

A target (pytargets.py) has bases: sound files and images made by kdmp's own writers. An input is
small: which base, where to cut it, and a list of changes; `Patches` below. Changes know numbers that
programs get wrong, and put words of the image in the place of others, so that lists get cycles and
lengths lead beyond the end. Some targets take bytes or JSON as they are.

Anything but the errors a target allows is a finding, and so is an input that takes more than LIMIT
seconds of a processor; it is written to PREFIXcrash-... With FILEs they are run and nothing else.

SPDX-License-Identifier: MIT
"""

import argparse
import hashlib
import random
import resource
import signal
import struct
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

TARGETS = (
    "reference",
    "dump", "doctor", "triage", "raw", "packed", "lznt1", "isf", "cache", "pe", "version", "machine",
    "vads", "handles",
)  # fmt: skip
LIMIT = 15  # seconds of processor time for one input
MEMORY = 4 << 30
HEAD, PATCH = struct.Struct("<BI"), struct.Struct("<IBQ")
MAX_PATCHES = 24
PACKAGE = str(HERE.parents[1] / "kdmp")


class Findings(Exception):
    """An input that showed a bug."""


class TooSlow(BaseException):
    """The time for one input is over; not an Exception, so that nothing swallows it."""


# ---- coverage ----


class Coverage:
    """Lines of the package that have ever been reached. Functions all of whose lines are known run
    without being watched."""

    def __init__(self):
        self.todo = {}  # code: lines not seen
        self.news = 0
        self.known = 0

    def _call(self, frame, event, argument):
        code = frame.f_code
        left = self.todo.get(code)
        if left is None:
            own = code.co_filename.startswith(PACKAGE)
            left = self.todo[code] = {line for _, _, line in code.co_lines() if line} if own else frozenset()
        if not left:
            return None
        return self._line

    def _line(self, frame, event, argument):
        if event == "line":
            left = self.todo[frame.f_code]
            if frame.f_lineno in left:
                left.discard(frame.f_lineno)
                self.news += 1
        return self._line

    def watch(self, call, *arguments):
        """Call something; how many new lines it reached."""
        self.news = 0
        sys.settrace(self._call)
        try:
            call(*arguments)
        finally:
            sys.settrace(None)
            self.known += self.news
        return self.news


# ---- inputs ----


def odd_number(rng, old, width, size):
    """A number that programs get wrong."""
    bits = 8 * width
    near = 1 << rng.randrange(bits)
    choices = (
        0, 1, 2, old + 1, old - 1, old + 8, old ^ near, near, near - 1, -near, (1 << bits) - 1, size,
        size - 1, size + 1, rng.randrange(size + 1), rng.randrange(64), 1 << 31, 1 << 52,
        rng.getrandbits(bits),
    )  # fmt: skip
    return rng.choice(choices) & ((1 << bits) - 1)


class Patches:
    """A base and changes to it: an u8 and a u32 (cut there; 0: not at all), then records of where (u32),
    how many bytes (u8) and what (u64)."""

    def __init__(self, bases):
        self.bases = bases
        self.words = [self._interesting(base) for base in bases]

    @staticmethod
    def _interesting(base):
        """Places of 4 bytes that are not all zero, filler or the same as before."""
        view = memoryview(base)[: len(base) // 4 * 4].cast("I")
        return [4 * k for k, word in enumerate(view) if word and word != 0x45474150] or [0]

    def seeds(self):
        return [HEAD.pack(number, 0) for number in range(len(self.bases))]

    def apply(self, data):
        """The changed image; None if the input is no good."""
        if len(data) < HEAD.size:
            return None
        number, cut = HEAD.unpack_from(data)
        if number >= len(self.bases):
            return None
        image = bytearray(self.bases[number])
        for at in range(HEAD.size, len(data) - PATCH.size + 1, PATCH.size):
            where, width, value = PATCH.unpack_from(data, at)
            width = width % 8 + 1
            if where + width <= len(image):
                image[where : where + width] = value.to_bytes(8, "little")[:width]
        if cut:
            del image[cut:]
        return image

    def mutate(self, data, rng):
        number, cut = HEAD.unpack_from(data)
        number %= len(self.bases)
        base, words = self.bases[number], self.words[number]
        patches = [data[at : at + PATCH.size] for at in range(HEAD.size, len(data), PATCH.size)]
        patches = [patch for patch in patches if len(patch) == PATCH.size]
        for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
            choice = rng.random()
            if choice < 0.05:
                cut = rng.choice((0, 0, rng.randrange(len(base) + 1), rng.randrange(0x3000)))
            elif choice < 0.25 and patches:
                patches.pop(rng.randrange(len(patches)))
            elif len(patches) < MAX_PATCHES:
                patches.append(self._patch(base, words, rng))
        return HEAD.pack(number, cut) + b"".join(patches)

    @staticmethod
    def _patch(base, words, rng):
        where = rng.choice(words) if rng.random() < 0.9 else rng.randrange(len(base))
        where += rng.choice((0, 0, 0, 0, 4, 8, -4, 1, 2))
        width = rng.choice((1, 2, 4, 4, 8, 8))
        where = min(max(where, 0), max(len(base) - width, 0))
        old = int.from_bytes(base[where : where + width], "little")
        if rng.random() < 0.4:  # what is elsewhere, so that pointers lead to something
            other = rng.choice(words)
            value = int.from_bytes(base[other : other + width], "little") + rng.choice(
                (0, 0, 0, 1, 8, -8, 16)
            )
            value &= (1 << 64) - 1
        else:
            value = odd_number(rng, old, width, len(base))
        return PATCH.pack(where, width - 1, value)


class Bytes:
    """Bytes as they are."""

    def __init__(self, bases):
        self.bases = bases

    def seeds(self):
        return list(self.bases)

    def apply(self, data):
        return bytearray(data)

    def mutate(self, data, rng):
        out = bytearray(data or b"\0")
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(out) + 1)
            width = rng.choice((1, 1, 2, 4))
            choice = rng.randrange(6)
            if choice == 0:
                del out[at : at + rng.randrange(16)]
            elif choice == 1:
                out[at:at] = rng.randbytes(rng.randrange(8))
            elif choice == 2:
                other = rng.choice(self.bases)
                start = rng.randrange(len(other) + 1)
                out[at : at + rng.randrange(32)] = other[start : start + rng.randrange(32)]
            else:
                old = int.from_bytes(out[at : at + width], "little")
                out[at : at + width] = odd_number(rng, old, width, len(out)).to_bytes(width, "little")
        return bytes(out[: 1 << 15])


# ---- running ----


def _alarm(number, frame):
    raise TooSlow


class Runner:
    """Runs inputs of one target and keeps those that reach something new."""

    def __init__(self, target, prefix, kept):
        self.target, self.prefix, self.kept = target, prefix, kept
        self.coverage, self.pool, self.runs, self.found = Coverage(), [], 0, 0

    def _use(self, image):
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            self.target.use(image)
        except self.target.allowed:
            pass
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def run(self, data, watch=True):
        """Run one input; how many lines it was the first to reach. Raises Findings."""
        image = self.target.inputs.apply(data)
        if image is None:
            return 0
        self.runs += 1
        try:
            if watch:
                return self.coverage.watch(self._use, image)
            self._use(image)
        except (Exception, TooSlow) as exc:
            sys.settrace(None)
            path = Path(f"{self.prefix}crash-{hashlib.sha1(data).hexdigest()[:16]}")
            path.write_bytes(data)
            traceback.print_exc()
            raise Findings(f"{type(exc).__name__}: the input is in {path}") from exc
        return 0

    def keep(self, data):
        """Add an input to those that are changed further."""
        self.pool.append(data)
        if self.kept is not None:
            (self.kept / hashlib.sha1(data).hexdigest()).write_bytes(data)

    def fuzz(self, seconds, runs, rng):
        """Change inputs until the time is over; returns how many were kept."""
        end, kept, start = time.monotonic() + seconds, 0, self.runs
        while (seconds and time.monotonic() < end) or (runs and self.runs - start < runs):
            # Recent ones more often: they reached what the others did not.
            place = int(len(self.pool) * max(rng.random(), rng.random()))
            data = self.target.inputs.mutate(self.pool[place], rng)
            if self.run(data):
                self.keep(data)
                kept += 1
        return kept


def corpus(name, kept):
    """Inputs of a target that are in the repository, and those of earlier runs."""
    places = [HERE / "corpus" / f"py-{name}", *([kept] if kept else [])]
    return [path.read_bytes() for place in places if place.is_dir() for path in sorted(place.iterdir())]


def main(argv=None):
    """Exit status: 0, or 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=(*TARGETS, "all"))
    parser.add_argument("files", nargs="*", type=Path, help="run these only")
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", type=Path, help="where inputs are kept that reach something new")
    parser.add_argument("--into", type=Path, help="put the inputs there that reach all that any does")
    parser.add_argument("--prefix", default="./", help="of the file of a finding")
    args = parser.parse_args(argv)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, _alarm)
    if args.kept is not None:
        args.kept.mkdir(parents=True, exist_ok=True)
    return max(_run(name, args) for name in (TARGETS if args.target == "all" else [args.target]))


def _minimise(runner, inputs, folder):
    """Put those of the inputs into a folder that reach what smaller ones and the seeds do not."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in runner.target.inputs.seeds():
        runner.run(data)
    runner.kept = folder
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        if runner.run(data):
            runner.keep(data)
    print(f"{len(runner.pool)} of {len(inputs)} inputs kept, {runner.coverage.known} lines")
    return 0


def _run(name, args):
    from pytargets import make

    with make(name) as target:
        runner = Runner(target, args.prefix, None)
        try:
            if args.into is not None:
                return _minimise(runner, corpus(name, args.kept), args.into)
            if args.files:
                for path in args.files:
                    runner.run(path.read_bytes(), watch=False)
                return 0
            for data in [*target.inputs.seeds(), *corpus(name, args.kept)]:
                runner.run(data, watch=bool(args.seconds or args.runs))
                runner.pool.append(data)
            replayed, runner.kept = runner.runs, args.kept
            kept = runner.fuzz(args.seconds, args.runs, random.Random(args.seed))
        except Findings as exc:
            print(f"{name}: {runner.runs} runs, 0 kept\n{exc}", file=sys.stderr)
            return 1
    lines = runner.coverage.known
    print(f"{name}: {replayed} inputs replayed; {runner.runs} runs, {kept} kept, {lines} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
