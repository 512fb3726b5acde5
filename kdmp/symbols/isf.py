"""Symbol files: Volatility 3's tables (ISF), alone or in folders as Volatility and others keep them.

    layout = load("5278AFF86C341677D7D7835C85B7B844-1.json.xz")
    layout = find(guid, age, ["/srv/symbols"])

The first use of a file reads its JSON, which takes some tenths of a second, and leaves a compiled form in the
user's cache folder, from which later uses have it in a millisecond or two. Files may be hostile: whatever is
wrong with one is a SymbolError that names it.

SPDX-License-Identifier: MIT
"""

import os
from collections.abc import Sequence
from typing import Any

from kdmp.symbols import store
from kdmp.symbols.errors import SymbolError
from kdmp.symbols.places import candidates, default_places, named_identity, plain_guid
from kdmp.symbols.structs import UNKNOWN_VERSION, Build, Layout, LayoutSource, Match

__all__ = ["default_places", "find", "load"]

Path = str | os.PathLike[str]


def load(path: Path) -> Layout:
    """Return the layout that a symbol file describes: plain JSON, or packed by xz, gz, bz2 or zip.

    Of an archive the first .json member is read. The layout is taken as that of the kernel in question, so
    it is exact. Raises SymbolError.
    """
    file = _open(os.fspath(path))
    return _layout(file, os.fspath(path), file.meta["guid"], file.meta["age"])


def find(
    guid: str | None,
    age: int | None,
    places: Path | Sequence[Path] | None,
    pdb: str = "ntkrnlmp.pdb",
) -> Layout | None:
    """Return the layout for the kernel with this PDB identity, None if no place has it.

    A place is a folder that holds `GUID-AGE.json` (.xz, .gz, .bz2, .zip), directly or in `PDB/`,
    `windows/PDB/` or `symbols/windows/PDB/`, in any case, or a zip archive of such files; or a symbol file of
    any name, whose content tells the identity. None stands for default_places(). Raises SymbolError if
    nothing fits and a file that was named is another kernel's, or a file is damaged or missing. Without a
    GUID a file that was named is taken, and its layout is not exact: the addresses of its symbols are unused.
    """
    if places is None:
        places = default_places()
    elif isinstance(places, str | os.PathLike):
        places = [places]
    try:
        guid = None if guid is None or age is None else plain_guid(guid)
    except ValueError as error:
        raise SymbolError(str(error)) from error
    wrong: SymbolError | None = None
    for place in places:
        for path, member, named in candidates(os.fspath(place), guid, age, pdb):
            try:
                file = _open(path, member)
            except SymbolError as error:
                wrong = wrong or error
                continue
            if guid is None or (file.meta["guid"], file.meta["age"]) == (guid, age):
                return _layout(file, path, guid, age, pdb)
            if named:
                own = _symbol_file(file.meta["pdb"], file.meta["guid"], file.meta["age"])
                text = f"{path}: is {own or 'of an unknown kernel'}, not {pdb} {guid}-{age}"
                wrong = wrong or SymbolError(text, _symbol_file(pdb, guid, age))
    if wrong is not None:
        raise wrong
    return None


# --- reading -----------------------------------------------------------------------------------------------


def _open(path: str, member: str | None = None) -> store.Compiled:
    """The compiled form of a file; SymbolError."""
    key = os.path.abspath(path) + (f"|{member}" if member else "")
    try:
        state = os.stat(path)
        stamp = state.st_size, state.st_mtime_ns, state.st_ctime_ns
        found = store.load(key, stamp)
        if found is not None:
            return found
        data = _compile(path, member, [key, stamp])
    except OSError as error:
        raise SymbolError(f"{path}: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise SymbolError(f"{path}: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise SymbolError(f"{path}: too large or too deep") from error
    store.save(key, data)
    return store.Compiled(data)


def _compile(path: str, member: str | None, of: Any) -> bytes:
    from kdmp.symbols import isf_file, isf_parse

    isf = isf_parse.parse(isf_file.read(path, member))
    if isf.guid is None:  # files of the older formats have it in their name only
        isf.guid, isf.age = named_identity(member or path)
    version, timestamp, image_size = _known(isf.guid, isf.age)
    meta = {
        "of": of,
        "arch": isf.arch,
        "pdb": isf.pdb,
        "guid": isf.guid,
        "age": isf.age,
        "version": version or isf.version or UNKNOWN_VERSION,
        "timestamp": timestamp,
        "image_size": image_size,
    }
    return store.compiled(meta, isf.structs, isf.enums, isf.symbols)


def _known(guid: str | None, age: int | None) -> tuple[str | None, int | None, int | None]:
    """Version, time stamp and size of the image, if the bundled data have the kernel."""
    from kdmp.symbols import layouts

    try:
        known = layouts.find(guid, age)
    except OSError:
        return None, None, None
    build = known.build if known else None
    return (build.version, build.timestamp, build.image_size) if build else (None, None, None)


def _symbol_file(pdb: str | None, guid: str | None, age: int | None) -> str | None:
    return None if guid is None else f"{pdb or 'ntkrnlmp.pdb'} {guid}-{age}"


def _layout(
    file: store.Compiled, path: str, guid: str | None, age: int | None, pdb: str | None = None
) -> Layout:
    """The layout of a file, for the kernel that `guid` and `age` name."""
    meta = file.meta
    pae = None
    if meta["arch"] == "x86" and meta["pdb"]:
        pae = meta["pdb"].lower() in ("ntkrnlpa.pdb", "ntkrpamp.pdb")
    build = Build(
        -1, meta["version"], meta["arch"], -1, "isf", meta["pdb"], meta["guid"], meta["age"],
        meta["timestamp"], meta["image_size"], pae, True,
    )  # fmt: skip
    source = LayoutSource(
        Match.ISF,
        build.version,
        build.arch,
        build.version,
        _symbol_file(meta["pdb"] or pdb, guid, age),
        path,
        (meta["guid"], meta["age"]) != (guid, age) or (pdb is not None and guid is None),
    )
    return Layout(build, source, file)
