"""Search in a table of symbols: names by wildcards, and what lies at an address.

SPDX-License-Identifier: MIT
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

__all__ = ["AddressIndex", "address_order", "matching"]


def matching(symbols: Mapping[str, int], pattern: str) -> list[tuple[str, int]]:
    """Return the symbols whose names match a wildcard pattern, with their addresses, by name.

    `*` is any number of characters, `?` one, `[a-c]` one of a set; case does not matter. A leading "nt!" is
    left out.
    """
    import fnmatch  # not needed by who never searches
    import re

    if pattern[:3].lower() == "nt!":
        pattern = pattern[3:]
    fits = re.compile(fnmatch.translate(pattern), re.IGNORECASE).match
    return sorted((name, symbols[name]) for name in symbols if fits(name))


def address_order(names: Sequence[str], addresses: Sequence[int]) -> list[int]:
    """Return the positions of the symbols by address; of several at one address the best name first.

    A compiler's own names ("??_C@_0...", "$$12", "__imp_...") come after a programmer's.
    """

    def rank(k: int) -> tuple[int, int, str]:
        name = names[k]
        first = name[:1]
        return addresses[k], 0 if first.isalpha() else 1 if first == "_" else 2, name

    return sorted(range(len(names)), key=rank)


class AddressIndex:
    """Which symbol is at an address.

    `addresses` are sorted; `order` has, parallel to them, the positions of their `names`.
    """

    __slots__ = ("_addresses", "_names", "_order")

    def __init__(self, names: Sequence[str], addresses: Sequence[int], order: Sequence[int]) -> None:
        self._names = names
        self._addresses = addresses
        self._order = order

    @classmethod
    def of(cls, symbols: Mapping[str, int]) -> "AddressIndex":
        """Return the index of a table of symbols."""
        ready = getattr(symbols, "by_address", None)  # a compiled table has it
        if isinstance(ready, cls):
            return ready
        names, addresses = list(symbols), list(symbols.values())
        order = address_order(names, addresses)
        return cls(names, [addresses[k] for k in order], order)

    def __reduce__(self) -> tuple[object, ...]:
        # A memoryview cannot be pickled.
        return type(self), (list(self._names), list(self._addresses), list(self._order))

    def nearest(self, address: int) -> tuple[str, int] | None:
        """Return the symbol at `address`, or the last one below, and its distance; None if there is none."""
        place = bisect_right(self._addresses, address) - 1
        if place < 0:
            return None
        found = self._addresses[place]
        if place and self._addresses[place - 1] == found:  # several: the first has the best name
            place = bisect_left(self._addresses, found, hi=place)
        return self._names[self._order[place]], address - found
