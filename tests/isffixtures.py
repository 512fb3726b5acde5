"""Fixtures of the tests of symbol files: a cache folder of their own, and small files.

SPDX-License-Identifier: MIT
"""

import json

import pytest
from isftables import table


@pytest.fixture
def isf_cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    home = tmp_path / "cache-home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setenv("LOCALAPPDATA", str(home))
    monkeypatch.delenv("KDMP_SYMBOLS", raising=False)
    return home


@pytest.fixture
def make_isf(tmp_path):
    """Writes a symbol file and returns its path."""

    def write(name="table.json", **changes):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(table(**changes)))
        return path

    return write
