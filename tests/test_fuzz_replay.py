"""The fuzz targets, built with whatever C compiler there is, over their seeds and what was once found.

SPDX-License-Identifier: MIT
"""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import make_corpus  # noqa: E402
import runfuzz as fuzz  # noqa: E402

pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def seeds(place):
    size = make_corpus.main(place / "seeds")
    assert 0 < size < make_corpus.SIZE_LIMIT
    return place / "seeds"


@pytest.fixture(scope="module")
def driver(cc, place):
    return fuzz.Standalone(place, sanitize=False)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_replay_and_mutate(target, driver, place, seeds):
    program = driver.build(target)
    folders = fuzz.inputs(target, seeds)
    count = sum(path.is_file() for folder in folders for path in Path(folder).iterdir())
    options = [f"-prefix={place}/", "-runs=2000", "-seed=1", f"-dict={FUZZ / 'kdmp.dict'}"]
    done = subprocess.run(
        [program, *options, *folders], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} inputs replayed" in done.stdout
    assert "2000 mutations" in done.stdout


def test_a_finding_is_reported_and_kept(cc, tmp_path, seeds):
    """The runner itself: a target that aborts leaves its input behind."""
    source = tmp_path / "target.c"
    source.write_text(
        '#include "fuzz.h"\n'
        "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)\n"
        '{ REQUIRE(size < 4 || memcmp(data, "BAD!", 4) != 0); return 0; }\n'
    )
    program = tmp_path / "target"
    includes = [f"-I{FUZZ}", f"-I{FUZZ.parents[1] / 'csrc'}"]
    command = [*cc, "-std=c11", *includes, str(source), str(FUZZ / "standalone.c"), "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    (tmp_path / "good").write_bytes(b"good")
    (tmp_path / "bad").write_bytes(b"BAD!")
    call = [program, f"-prefix={tmp_path}/"]
    assert subprocess.run([*call, tmp_path / "good"], check=False, timeout=60).returncode == 0
    done = subprocess.run([*call, tmp_path / "bad"], check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 1
    assert "not true: size < 4" in done.stderr
    [kept] = tmp_path.glob("crash-*")
    assert kept.read_bytes() == b"BAD!"
