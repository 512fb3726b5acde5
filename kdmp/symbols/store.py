"""The compiled form of a symbol file: opened in a millisecond or two, looked up without unpacking the rest.

    head      magic, checksum and size of what follows, a line of text
    meta      size (8 digits), JSON: identity, and where each section is
    sections  of each table the sorted names, and parallel to them sizes and texts, or addresses

The files are in the user's cache folder, one for a symbol file, and carry the name, size and time of what
they were made from; any other is made anew. A damaged one is the same as none.

SPDX-License-Identifier: MIT
"""

import json
import os
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any
from zlib import crc32

from kdmp.symbols import cache
from kdmp.symbols.search import AddressIndex, address_order

__all__ = ["Compiled", "SymbolTable", "compiled", "load", "save"]

# Numbers are the machine's own; a home folder may be seen from machines that differ.
_MAGIC = f"kdmp-symbols-1-{sys.byteorder}-{array('I').itemsize}".encode()
_FOLDER = "isf-1"


# --- writing -----------------------------------------------------------------------------------------------


class _Writer:
    """Collects sections."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.places: dict[str, tuple[int, int]] = {}
        self._size = 0

    def add(self, name: str, data: bytes) -> None:
        self.places[name] = (self._size, len(data))
        self.parts.append(data)
        self._size += len(data)

    def texts(self, name: str, texts: list[bytes]) -> None:
        """Texts one after the other, and where each begins and the last ends."""
        ends = array("I", [0])
        total = 0
        for text in texts:
            total += len(text)
            ends.append(total)
        self.add(name + ".at", ends.tobytes())
        self.add(name, b"".join(texts))


def compiled(
    meta: Mapping[str, Any],
    structs: Mapping[str, tuple[int, str]],
    enums: Mapping[str, Mapping[str, int]],
    symbols: Mapping[str, int],
) -> bytes:
    """Return the compiled form: `structs` are sizes and texts as the layout data have them.

    Raises ValueError or OverflowError for text that is no Unicode and numbers that do not fit.
    """
    writer = _Writer()
    by_name = sorted((name.encode(), *structs[name]) for name in structs)
    writer.texts("structs", [name for name, _, _ in by_name])
    writer.add("structs.size", array("q", [size for _, size, _ in by_name]).tobytes())
    writer.texts("structs.text", [text.encode() for _, _, text in by_name])
    lists = sorted((name.encode(), _json(values)) for name, values in enums.items())
    writer.texts("enums", [name for name, _ in lists])
    writer.texts("enums.text", [text for _, text in lists])
    pairs = sorted((name.encode(), rva) for name, rva in symbols.items())
    names, addresses = [name.decode() for name, _ in pairs], [rva for _, rva in pairs]
    writer.texts("symbols", [name for name, _ in pairs])
    writer.add("symbols.rva", array("Q", addresses).tobytes())
    order = address_order(names, addresses)
    writer.add("symbols.order", array("I", order).tobytes())
    writer.add("symbols.sorted", array("Q", [addresses[k] for k in order]).tobytes())
    head = _json({"meta": meta, "sections": writer.places})
    body = b"%08d" % len(head) + head + b"".join(writer.parts)
    return b"%s %08x %d\n" % (_MAGIC, crc32(body), len(body)) + body


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- reading -----------------------------------------------------------------------------------------------


class _Names(Sequence[str]):
    """Sorted names, as bytes one after the other."""

    __slots__ = ("_at", "_blob")

    def __init__(self, at: memoryview, blob: bytes) -> None:
        self._at = at
        self._blob = blob

    def __len__(self) -> int:
        return len(self._at) - 1

    def __getitem__(self, k: Any) -> Any:
        return self._blob[self._at[k] : self._at[k + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        blob, ends = self._blob, self._at.tolist()
        return (blob[a:b].decode() for a, b in pairwise(ends))

    def place(self, name: object) -> int:
        """Position of a name, -1 if it is not there."""
        if not isinstance(name, str):
            return -1
        wanted = name.encode("utf-8", "surrogatepass")
        at, blob = self._at, self._blob
        low, high = 0, len(at) - 1
        while low < high:
            middle = (low + high) >> 1
            here = blob[at[middle] : at[middle + 1]]
            if here < wanted:
                low = middle + 1
            elif here == wanted:
                return middle
            else:
                high = middle
        return -1


class _Table(Mapping[str, Any]):
    """A mapping from sorted names; what is looked up is made then, and kept."""

    def __init__(self, names: _Names) -> None:
        self._names = names
        self._made: dict[str, Any] = {}

    def _make(self, place: int) -> Any:
        raise NotImplementedError

    def __getitem__(self, name: str) -> Any:
        found = self._made.get(name)
        if found is None:
            place = self._names.place(name)
            if place < 0:
                raise KeyError(name)
            found = self._made[name] = self._make(place)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._made or self._names.place(name) >= 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Texts(_Table):
    """Names with a text each, and a size if `sizes` are given: [size, text], else what the JSON holds."""

    def __init__(self, names: _Names, texts: _Names, sizes: memoryview | None = None) -> None:
        super().__init__(names)
        self._texts = texts
        self._sizes = sizes

    def _make(self, place: int) -> Any:
        text = self._texts[place]
        return json.loads(text) if self._sizes is None else [self._sizes[place], text]


class SymbolTable(Mapping[str, int]):
    """All symbols of a file and their relative addresses; threads may share it."""

    def __init__(self, names: _Names, addresses: memoryview, by_address: AddressIndex) -> None:
        self._names = names
        self._addresses = addresses
        self.by_address = by_address

    def __getitem__(self, name: str) -> int:
        place = self._names.place(name)
        if place < 0:
            raise KeyError(name)
        return int(self._addresses[place])

    def __contains__(self, name: object) -> bool:
        return self._names.place(name) >= 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Compiled(Mapping[str, Any]):
    """A compiled symbol file: what `Layout` wants as its record, and `meta`.

    Raises ValueError (or another error of reading) when `data` is not intact.
    """

    def __init__(self, data: bytes) -> None:
        head, _, rest = data[:100].partition(b"\n")
        start = len(head) + 1
        view = memoryview(data)[start:]
        if head != b"%s %08x %d" % (_MAGIC, crc32(view), len(view)):
            raise ValueError("not a compiled symbol file, or a damaged one")
        size = int(rest[:8])
        info = json.loads(bytes(view[8 : 8 + size]))
        self._data = data
        self._view = view[8 + size :]
        self._places = info["sections"]
        self.meta: dict[str, Any] = info["meta"]

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, (self._data,)

    def _numbers(self, section: str, kind: str) -> memoryview:
        start, size = self._places[section]
        return self._view[start : start + size].cast(kind)  # type: ignore[call-overload, no-any-return]

    def _names(self, section: str) -> _Names:
        start, size = self._places[section]
        return _Names(self._numbers(section + ".at", "I"), bytes(self._view[start : start + size]))

    @cached_property
    def structs(self) -> Mapping[str, Any]:
        """Sizes and texts of the structures."""
        sizes = self._numbers("structs.size", "q")
        return _Texts(self._names("structs"), self._names("structs.text"), sizes)

    @cached_property
    def enums(self) -> Mapping[str, Mapping[str, int]]:
        """Values of the enumerations by name."""
        return _Texts(self._names("enums"), self._names("enums.text"))

    @cached_property
    def symbols(self) -> SymbolTable:
        """The symbols."""
        names, rvas = self._names("symbols"), self._numbers("symbols.rva", "Q")
        places = self._numbers("symbols.sorted", "Q"), self._numbers("symbols.order", "I")
        return SymbolTable(names, rvas, AddressIndex(names, *places))

    def __getitem__(self, name: str) -> Any:
        if name == "complete":
            return True
        if name in ("structs", "enums", "symbols"):
            return getattr(self, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("structs", "enums", "symbols", "complete"))

    def __len__(self) -> int:
        return 4


# --- the cache ---------------------------------------------------------------------------------------------


def _name(key: str) -> str:
    """Name of the file for a symbol file `key`; two keys with one name only take turns."""
    stem = os.path.basename(key).split(".", 1)[0]
    plain = "".join(c for c in stem[:64] if c.isascii() and (c.isalnum() or c in "-_"))
    return f"{_FOLDER}/{plain}-{crc32(key.encode('utf-8', 'surrogateescape')):08x}.bin"


def load(key: str, stamp: Sequence[int]) -> Compiled | None:
    """Return what is kept for the symbol file `key` as it was at `stamp`, None if there is none intact."""
    base = cache.folder()
    if base is None:
        return None
    try:
        with open(os.path.join(base, _name(key)), "rb") as stream:
            found = Compiled(stream.read())
        return found if found.meta["of"] == [key, list(stamp)] else None
    except (OSError, ValueError, LookupError, TypeError, MemoryError, RecursionError):
        return None


def save(key: str, data: bytes) -> bool:
    """Keep the compiled form of the symbol file `key`; returns whether that worked."""
    return cache.write(_name(key), data)
