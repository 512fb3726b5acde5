"""The other readers, if they are installed, behind as little code as possible.

SPDX-License-Identifier: MIT
"""

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any


def kdmp_parser() -> Any | None:
    """Return the module `kdmp_parser`, None if it is not installed."""
    try:
        return importlib.import_module("kdmp_parser")
    except ImportError:
        return None


def open_kdmp_parser(path: Path) -> Any | None:
    """Return an open `kdmp_parser.KernelDumpParser`, None if the package is not installed."""
    module = kdmp_parser()
    return None if module is None else module.KernelDumpParser(str(path))


def raw_kdmp_parser(parser: Any) -> Any | None:
    """Return the C++ object inside a KernelDumpParser: its methods without the Python wrapper."""
    return getattr(parser, "_KernelDumpParser__dump", None)


def versions() -> dict[str, str | None]:
    """Return the installed version of every peer, None for missing ones."""
    found: dict[str, str | None] = {}
    for name in ("kdmp_parser", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


NOT_INSTALLED = "kdmp_parser is not installed (see the dependency group bench)"
