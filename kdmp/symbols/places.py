"""Where symbol files are: files and folders as Volatility and others keep them, and KDMP_SYMBOLS.

SPDX-License-Identifier: MIT
"""

import os
import stat
from collections.abc import Iterator

__all__ = ["ENDINGS", "VARIABLE", "candidates", "default_places", "is_zip", "named_identity", "plain_guid"]

VARIABLE = "KDMP_SYMBOLS"
"""The environment variable with files and folders of symbols, separated as in PATH."""

ENDINGS = (".json.xz", ".json", ".json.gz", ".json.bz2", ".json.zip")

_MAX_ENTRIES = 200_000  # looked at in a folder
_PACKS = ("windows.zip", "symbols/windows.zip")  # as Volatility's symbol packs are named


def default_places() -> list[str]:
    """Return the files and folders that the environment variable KDMP_SYMBOLS names, those that exist."""
    places = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [place for place in places if place and os.path.exists(place)]


def plain_guid(text: str) -> str:
    """Return a GUID in any spelling as 32 capital hex digits; ValueError for anything else."""
    plain = text.strip().strip("{}").replace("-", "").upper()
    if len(plain) != 32 or not set(plain) <= set("0123456789ABCDEF"):
        raise ValueError(f"not a GUID: {text[:60]!r}")
    return plain


def named_identity(path: str) -> tuple[str | None, int | None]:
    """Return GUID and age as the name of a symbol file has them ("GUID-AGE.json.xz"), else None twice."""
    stem = path.replace("\\", "/").rsplit("/", 1)[-1].split(".", 1)[0]
    guid, _, age = stem.rpartition("-")
    try:
        return (plain_guid(guid), int(age)) if age.isdecimal() and len(age) < 10 else (None, None)
    except ValueError:
        return None, None


def is_zip(path: str) -> bool:
    """Return whether a file is a zip archive. Raises OSError; ValueError for what is no plain file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a plain file")
    with open(path, "rb") as stream:
        return stream.read(4) == b"PK\3\4"


def candidates(
    place: str, guid: str | None, age: int | None, pdb: str
) -> Iterator[tuple[str, str | None, bool]]:
    """Yield path, member of an archive or None, and whether it was named, of what may be the symbol file.

    What is found in a folder, or by its name in an archive, was not named.
    """
    if not os.path.isdir(place):
        yield from _in_file(place, guid, age)
        return
    if guid is None:
        return
    listings: dict[str, dict[str, str]] = {}
    for folder in (pdb, f"windows/{pdb}", f"symbols/windows/{pdb}", ""):
        for ending in ENDINGS:
            path = _lookup(place, f"{folder}/{guid}-{age}{ending}".lstrip("/"), listings)
            if path is not None:
                yield path, None, False
    for pack in _PACKS:
        path = _lookup(place, pack, listings)
        if path is not None:
            yield from ((path, member, False) for _, member, _ in _in_file(path, guid, age) if member)


def _in_file(path: str, guid: str | None, age: int | None) -> Iterator[tuple[str, str | None, bool]]:
    """A file that was named: itself, or what an archive has under the name of the kernel's file."""
    names: list[str] = []
    try:
        if is_zip(path):
            from kdmp.symbols.isf_file import members

            names = members(path)
    except (OSError, ValueError):
        pass  # opening it will say what is wrong
    stem = f"{guid}-{age}.json".lower()
    fitting = [name for name in names if name.rsplit("/", 1)[-1].lower().startswith(stem)]
    if fitting:
        yield from ((path, name, True) for name in fitting)
    else:
        yield path, None, True


def _lookup(place: str, path: str, listings: dict[str, dict[str, str]]) -> str | None:
    """The plain file at `path` below `place`, whatever the case of its parts; None if there is none."""
    here = os.path.join(place, *path.split("/"))
    if os.path.isfile(here):
        return here
    here = place
    for part in path.split("/"):
        if here not in listings:
            listings[here] = _listing(here)
        name = listings[here].get(part.casefold())
        if name is None:
            return None
        here = os.path.join(here, name)
    return here if os.path.isfile(here) else None


def _listing(folder: str) -> dict[str, str]:
    """What is in a folder, by its name in small letters."""
    names: dict[str, str] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.setdefault(entry.name.casefold(), entry.name)
                if len(names) > _MAX_ENTRIES:
                    break
    except OSError:
        pass
    return names
