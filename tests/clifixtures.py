"""Fixtures for the tests of the command line, a plugin that those tests name.

SPDX-License-Identifier: MIT
"""

import json

import pytest
from clidumps import small_dump

from kdmp import sample
from kdmp.cli import main


@pytest.fixture(scope="module")
def crash(tmp_path_factory):
    """The sample dump and what is in it."""
    path = tmp_path_factory.mktemp("cli") / "sample.dmp"
    return str(path), sample.build(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The path of `small_dump`."""
    path = tmp_path_factory.mktemp("cli") / "small.dmp"
    path.write_bytes(small_dump())
    return str(path)


@pytest.fixture
def run(capsys):
    """Run a command line: (exit code, stdout, stderr)."""

    def run(*argv):
        code = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run_json(run):
    """Run a command line with --json and return the object; nothing may be wrong."""

    def run_json(*argv, code=0):
        got, out, err = run(*argv, "--json")
        assert got == code, err
        return json.loads(out)

    return run_json
