"""The fuzz targets in Python, over their seeds and what was once found; the fuzzer itself.

SPDX-License-Identifier: MIT
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import differential  # noqa: E402
import pyfuzz  # noqa: E402
from dumpbuilder import FULL, patched, ranges_dump, runs_dump  # noqa: E402


def test_replay(tmp_path):
    """In a process of its own: targets limit its memory and exchange what is slow."""
    command = [sys.executable, str(FUZZ / "pyfuzz.py"), "all", f"--prefix={tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("inputs replayed") == len(pyfuzz.TARGETS)


def test_a_finding_is_kept(tmp_path):
    class Fragile:
        inputs = pyfuzz.Bytes([b"good"])
        allowed = (ValueError,)

        @staticmethod
        def use(data):
            if b"odd" in data:
                raise ValueError
            assert b"BAD" not in data

    runner = pyfuzz.Runner(Fragile, f"{tmp_path}/", None)
    assert runner.run(b"good") == runner.run(b"odd") == 0
    with pytest.raises(pyfuzz.Findings):
        runner.run(b"a BAD one")
    [kept] = tmp_path.glob("crash-*")
    assert kept.read_bytes() == b"a BAD one"


def test_lines_are_news_once():
    from kdmp.times import filetime

    coverage = pyfuzz.Coverage()
    assert coverage.watch(filetime, None) > 0
    assert coverage.watch(filetime, None) == 0
    assert coverage.watch(filetime, 10**17) > 0
    assert sys.gettrace() is None


def test_changes_are_applied():
    patches = pyfuzz.Patches([b"0123456789", b"abcdefgh"])
    data = pyfuzz.HEAD.pack(1, 6) + pyfuzz.PATCH.pack(2, 1, 0x5A59)
    assert patches.apply(data) == b"abYZef"
    assert patches.apply(pyfuzz.HEAD.pack(2, 0)) is None
    rng = random.Random(1)
    for _ in range(200):
        data = patches.mutate(data, rng)
        assert len(patches.apply(data)) <= 10


def test_verdicts_of_the_differential():
    differential.self_test()
    whole = runs_dump([(1, 2), (9, 1)])
    assert differential.verdict(whole) == 3
    for image in (
        whole[:0x1FFF], patched(whole, runs=44), patched(whole, run0=(1 << 40, 1)),
        patched(ranges_dump([(1, 1)]), metadata=8), patched(whole, kind=5),
    ):  # fmt: skip
        with pytest.raises(differential.Refused):
            differential.verdict(image)
    with pytest.raises(AssertionError, match="should not"):
        broken = differential.verdict
        try:
            differential.verdict = lambda data: differential._require(False)
            differential.compare(whole)
        finally:
            differential.verdict = broken
    assert patched(whole, kind=FULL) == whole
