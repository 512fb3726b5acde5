"""YARA rules over memory, with `yara-x`: `Reader.yara`, and what it gives.

SPDX-License-Identifier: MIT
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeAlias

from kdmp._kdmp import KdmpError
from kdmp.dump import Progress
from kdmp.located import Located
from kdmp.scanning import Batch, Engine, Hit, Ledger, Scan, place, read
from kdmp.search_jobs import jobs

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = ["Rules", "YaraMatch", "YaraScan", "compile_rules"]

# Source text, a path, compiled yara_x.Rules, or several of the former two.
Rules: TypeAlias = Any

_MOST_PIECE = 1 << 30


class _YaraMatch(NamedTuple):
    va: int | None
    pa: int | None
    offset: int | None
    size: int
    rule: str
    namespace: str
    pattern: str | None
    tags: tuple[str, ...]
    metadata: tuple[tuple[str, Any], ...]
    reader: "Reader"


class YaraMatch(_YaraMatch, Located):
    """A rule that matched, and one place where a pattern of it did.

    `pattern` is the pattern's identifier ("$a"); None, with `size` 0, for a rule that matched a piece of
    memory without any pattern: the place is the beginning of the piece then. `va` is the virtual address
    (None in physical memory), `pa` the physical one and `offset` the place in the file of the first byte
    (None where there is none). `tags` and `metadata` are those of the rule.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        place = f"{self.address:#x}" if self.va is None else f"va {self.va:#x}"
        return f"<YaraMatch {place}: {self.size} bytes, {self.namespace}.{self.rule} {self.pattern or ''}>"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the bytes as plain values; None is left out."""
        facts = {**self._asdict(), "tags": list(self.tags), "metadata": dict(self.metadata)}
        del facts["reader"]
        return {name: value for name, value in facts.items() if value is not None}


def _yara_x() -> Any:
    try:
        import yara_x
    except ImportError as error:
        raise ImportError("YARA rules need yara-x: pip install kdmp[yara]") from error
    return yara_x


def compile_rules(rules: Rules) -> Any:
    """Return compiled yara_x.Rules.

    `rules` is what `Reader.yara` takes. ValueError, with YARA's own words, for rules that do not compile,
    OSError for a file that cannot be read.
    """
    yara_x = _yara_x()
    if isinstance(rules, yara_x.Rules):
        return rules
    compiler = yara_x.Compiler()
    single = isinstance(rules, str | os.PathLike) or not isinstance(rules, Iterable)
    try:
        for one in [rules] if single else rules:
            if isinstance(one, str) and "{" in one:  # no rule is without a brace
                compiler.add_source(one)
                continue
            path = os.fspath(one)
            with open(path, encoding="utf-8") as file:
                source = file.read()
            compiler.add_include_dir(os.path.dirname(os.path.abspath(path)))
            compiler.add_source(source, origin=os.fsdecode(path))
        return compiler.build()
    except yara_x.CompileError as error:
        raise ValueError(f"the YARA rules do not compile:\n{error}") from None


class YaraScan(Scan[YaraMatch]):
    """A search by YARA rules that is going on: an iterator of YaraMatch. Get it from `Reader.yara`."""

    def __init__(
        self, reader: "Reader", rules: Rules, start: SupportsIndex, last: SupportsIndex | None, *,
        piece: SupportsIndex, overlap: SupportsIndex, timeout: SupportsIndex | None, order: str,
        limit: SupportsIndex | None, progress: Progress | None,
    ) -> None:  # fmt: skip
        super().__init__(
            reader, start, last, order=order, unique=False, limit=limit, threads=1, progress=progress
        )
        self._piece, self._overlap = index(piece), index(overlap)
        if not 0 <= self._overlap < self._piece <= _MOST_PIECE:
            raise ValueError(f"overlap < piece <= {_MOST_PIECE} is needed, not {overlap}, {piece}")
        self._yara = _yara_x()
        self.rules = compile_rules(rules)
        self._scanner = self._yara.Scanner(self.rules)
        if timeout is not None:
            self._scanner.set_timeout(index(timeout))
        self._virtual = reader.paging != "physical"

    def _engines(self) -> Sequence[Engine]:
        return [self._engine]

    def _results(self, hits: Sequence[Hit]) -> Iterator[YaraMatch]:
        for _, address, _, size, pa, offset, (rule, pattern) in hits:
            yield YaraMatch(
                address if self._virtual else None, pa, offset, size, rule.identifier, rule.namespace,
                pattern, tuple(rule.tags), tuple(rule.metadata), self.reader,
            )  # fmt: skip

    def _engine(self, scan: Scan[Any], ledger: Ledger) -> Generator[Batch, None, None]:
        """Give the rules contiguous memory, piece by piece."""
        window, reader = self.window, self.reader
        for job in jobs(reader, window.start, window.last, window.order, unique=False, longest=1, share=None):
            at = end = -1
            for extent in reader.extents(job.start, job.last):
                if extent.address != end:
                    at = extent.address
                counted = extent.address
                end = extent.address + extent.size
                while at < end and not self.flag.stop:
                    data = read(reader, at, min(self._piece, job.last + 1 - at + self._overlap))
                    own = len(data) if len(data) < self._piece else self._piece - self._overlap
                    own = max(1, min(own, job.last + 1 - at))
                    yield Batch((job.number, at + own), self._look(data, own, at, job.number))
                    at += own
                    ledger.count(min(at, end) - counted)
                    counted = min(at, end)
                if self.flag.stop:
                    return
                ledger.count(end - counted)

    def _look(self, data: bytes, own: int, base: int, job: int) -> list[Hit]:
        """The matches in a piece that begin in its first `own` bytes."""
        try:
            results = self._scanner.scan(data)
        except self._yara.TimeoutError as error:
            raise TimeoutError(f"YARA rules took too long at {base:#x}") from error
        except self._yara.ScanError as error:
            raise KdmpError(f"YARA failed at {base:#x}: {error}") from error
        hits: list[Hit] = []
        for number, rule in enumerate(results.matching_rules):
            found = [(pattern.identifier, match) for pattern in rule.patterns for match in pattern.matches]
            if not found:
                hits.append((job, base, number, 0, *place(self.reader, base), (rule, None)))
            for identifier, match in found:
                if match.offset < own:
                    at = base + match.offset
                    where = place(self.reader, at)
                    hits.append((job, at, number, match.length, *where, (rule, identifier)))
        hits.sort(key=lambda hit: hit[:4])
        return hits
