"""The texts in memory: `Reader.strings`, and what it gives.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from kdmp._kdmp import Matcher
from kdmp.dump import Progress
from kdmp.scanning import Engine, Hit, Scan, read
from kdmp.search_engine import matcher_engine

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = ["ENCODINGS", "Strings", "Text"]

ENCODINGS = ("ascii", "utf-16-le")
"""The encodings that are known."""

_MOST_LENGTH = 1 << 16
_NEAR = 4096  # texts with less between them are read together
_BLOCK = 256 << 10


class Text(NamedTuple):
    """A text in memory.

    `va` is its virtual address (None in physical memory), `pa` the physical one and `offset` the place in the
    file of its first byte (None where there is none), `size` its bytes. `encoding` is "ascii" or "utf-16-le".
    """

    va: int | None
    pa: int | None
    offset: int | None
    size: int
    encoding: str
    text: str

    @property
    def address(self) -> int:
        """The address in the reader that was searched: `va`, or `pa` in physical memory."""
        address = self.pa if self.va is None else self.va
        assert address is not None
        return address

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are known as a dict."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Strings(Scan[Text]):
    """The texts of a space, as they are found: an iterator of Text. Get it from `Reader.strings`."""

    def __init__(
        self, reader: "Reader", min_length: SupportsIndex, encodings: str | Iterable[str],
        start: SupportsIndex, last: SupportsIndex | None, *, order: str, unique: bool,
        limit: SupportsIndex | None, threads: SupportsIndex, progress: Progress | None,
    ) -> None:  # fmt: skip
        super().__init__(
            reader, start, last, order=order, unique=unique, limit=limit, threads=threads, progress=progress
        )
        least = index(min_length)
        if not 2 <= least <= _MOST_LENGTH:
            raise ValueError(f"min_length must be 2 to {_MOST_LENGTH}, not {least}")
        wanted = {encodings} if isinstance(encodings, str) else set(encodings)
        if not wanted or not wanted <= set(ENCODINGS):
            raise ValueError(f"encodings are {', '.join(ENCODINGS)}, not {sorted(wanted)}")
        self._virtual = reader.paging != "physical"
        kinds = sum(1 << ENCODINGS.index(name) for name in wanted)
        matcher = Matcher(text=(least, kinds))
        meaning = [(number, encoding) for number, encoding in enumerate(ENCODINGS)]
        self._engine = matcher_engine(matcher, meaning, matcher.longest)

    def _engines(self) -> Sequence[Engine]:
        return [self._engine]

    def _results(self, hits: Sequence[Hit]) -> Iterator[Text]:
        reader, virtual = self.reader, self._virtual
        new = tuple.__new__  # what Text() does, without a call in between
        for some in _near(hits):
            first = some[0][1]
            data = read(reader, first, max(hit[1] + hit[3] for hit in some) - first)
            most = len(data)
            for _, address, _, size, pa, offset, encoding in some:
                at = address - first
                raw = data[at : at + size] if at + size <= most else read(reader, address, size)
                # The UTF-16 units are those of Latin-1.
                text = str(raw[::2] if encoding == "utf-16-le" else raw, "latin-1")
                yield new(Text, (address if virtual else None, pa, offset, size, encoding, text))


def _near(hits: Sequence[Hit]) -> Iterator[Sequence[Hit]]:
    """Cut a list of hits where there is much between two, or much in between."""
    begin = 0
    start = before = hits[0][1] if hits else 0
    for k, hit in enumerate(hits):
        address = hit[1]
        if address - before > _NEAR or address - start > _BLOCK:
            yield hits[begin:k]
            begin, start = k, address
        before = address + hit[3]
    if begin < len(hits):
        yield hits[begin:]
