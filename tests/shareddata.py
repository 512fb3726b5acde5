"""Where the shared test data is: `<repository>/../shared`, outside the repository.

A test that needs a file of it is skipped, with a reason, where the folder is absent.

SPDX-License-Identifier: MIT
"""

import atexit
import functools
import json
import lzma
import tempfile
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
MACHINES = ("win7-7601", "win10-19041", "win10-19041-damaged", "win11-22000-pti")
KINDS = ("full", "bitmap", "kernel", "rdmp8", "rdmp9", "rdmpA")


def require(*parts):
    """Path below shared/data; skips the test if it does not exist."""
    path = SHARED.joinpath("data", *parts)
    if not path.exists():
        pytest.skip(f"no shared test data at {path}")
    return path


@functools.cache
def _folder():
    folder = tempfile.TemporaryDirectory(prefix="kdmp-shared-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def _unpacked(packed):
    target = _folder() / "-".join(packed.relative_to(SHARED).with_suffix("").parts)
    target.write_bytes(lzma.decompress(packed.read_bytes()))
    return target


def unpack(*parts):
    """Path of the decompressed copy of an .xz file below shared/data; decompressed once a test run."""
    return _unpacked(require(*parts))


@functools.cache
def truth(machine):
    """The truth file of a synthetic machine."""
    return json.loads(unpack("machines", machine, "truth.json.xz").read_text("utf-8"))


def machine_dump(machine, kind):
    """Path of one dump of a synthetic machine."""
    return unpack("machines", machine, f"{kind}.dmp.xz")


@functools.cache
def triage_index():
    """Facts of the real triage dumps, read by an independent parser."""
    return json.loads(require("triage", "index.json").read_text("utf-8"))
