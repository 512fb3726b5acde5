"""What the machine allows: bench_bound.c over a map of the same file, called through ctypes.

SPDX-License-Identifier: MIT
"""

import array
import ctypes
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import kdmp
from benchmarks.compiler import compiler
from benchmarks.harness import Loop

SOURCE = Path(__file__).with_name("bench_bound.c")
_POINTER, _U64, _INT = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int


class _Run(ctypes.Structure):
    _fields_ = (("first", _U64), ("count", _U64), ("offset", _U64))


@cache
def _library(directory: Path) -> Any:
    """The library, built anew; None without a C compiler."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "bench_bound.so"
    command = [*compiler(), "-std=c11", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(target)]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    library = ctypes.CDLL(str(target))
    walk = [_POINTER, _POINTER, _INT, _U64, _POINTER, _U64, _POINTER]
    for name, result, arguments in (
        ("map", _POINTER, [ctypes.c_char_p, ctypes.POINTER(_U64)]),
        ("unmap", None, [_POINTER, _U64]),
        ("translate", None, walk),
        ("read_u64", None, walk),
        ("one_by_one", _U64, [_POINTER, _POINTER, _INT, _U64, _POINTER, _U64, _INT, _U64]),
        ("page_by_page", _U64, [_POINTER, _POINTER, _INT, _U64, _POINTER, _U64, _POINTER, _U64]),
        ("copy", None, [_POINTER, _U64, _POINTER, _U64]),
        ("find", _U64, [_POINTER, _U64, ctypes.c_char_p, _U64]),
        ("find_byte", _U64, [_POINTER, _U64, _INT]),
    ):
        function = getattr(library, f"bound_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class Bound:
    """A map of a dump's file, and where its frames lie in it."""

    def __init__(self, dump: kdmp.Dump, path: Path, directory: Path) -> None:
        self.library = _library(directory)
        self.usable = self.library is not None
        if not self.usable:
            return
        self._size = _U64()
        self.base = self.library.bound_map(str(path).encode(), ctypes.byref(self._size))
        if self.base is None:
            raise OSError(f"cannot map {path}")
        self.offset = partial(offset, dump)
        runs = [(run.pfn, run.count, run.file_offset) for run in dump.pages.runs()]
        runs.sort(key=lambda run: -run[1])  # the longest first, as anybody would who knows the dump
        self._runs = (_Run * len(runs))(*(_Run(*run) for run in runs))

    def close(self) -> None:
        """Unmap the file."""
        if self.usable:
            self.library.bound_unmap(self.base, self._size)
            self.usable = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def walk(self, name: str, dtb: int, addresses: Any, results: Any) -> Callable[[int, int], None]:
        """Return work(start, stop) that translates ("translate") or reads ("read_u64") these addresses."""
        function = getattr(self.library, f"bound_{name}")
        if len(results) < len(addresses):
            raise ValueError("no room for all results")
        source, target = _address(addresses), _address(results)

        def work(start: int, stop: int) -> None:
            function(
                self.base,
                self._runs,
                len(self._runs),
                dtb,
                source + 8 * start,
                stop - start,
                target + 8 * start,
            )

        return work

    def one_by_one(self, dtb: int, addresses: Any, *, load: bool) -> Loop:
        """Return the loop of a C walk, with a load if so wanted, that waits for each answer."""
        function, source = self.library.bound_one_by_one, _address(addresses)

        def loop() -> int:
            function(self.base, self._runs, len(self._runs), dtb, source, len(addresses), load, 0)
            return len(addresses)

        return loop

    def page_by_page(self, dtb: int, addresses: Any) -> Loop:
        """Return the loop of a C walk and the copy of a page that waits for each page."""
        function, source = self.library.bound_page_by_page, _address(addresses)
        page = (ctypes.c_uint8 * 4096)()

        def loop() -> int:
            function(self.base, self._runs, len(self._runs), dtb, source, len(addresses), page, 0)
            return len(addresses)

        return loop

    def copy(self, pa: int, chunk: int) -> Callable[[int, int], None]:
        """Return work(start, stop) that copies these bytes from a physical address on into one buffer."""
        base = self.base + self.offset(pa)

        def work(start: int, stop: int) -> None:
            buffer = (ctypes.c_uint8 * chunk)()
            self.library.bound_copy(base + start, stop - start, buffer, chunk)

        return work

    def find(self, pa: int, needles: Sequence[bytes]) -> Callable[[int, int], int]:
        """Return work(start, stop) that counts needles with memmem, one after the other."""
        base = self.base + self.offset(pa)

        def work(start: int, stop: int) -> int:
            find = self.library.bound_find
            return sum(find(base + start, stop - start, needle, len(needle)) for needle in needles)

        return work

    def find_byte(self, pa: int, byte: int) -> Callable[[int, int], int]:
        """Return work(start, stop) that counts a byte with memchr."""
        base = self.base + self.offset(pa)
        return lambda start, stop: self.library.bound_find_byte(base + start, stop - start, byte)


def offset(dump: kdmp.Dump, pa: int) -> int:
    """Where in the file a physical address is kept."""
    for run in dump.pages.runs():
        if run.pfn <= pa >> 12 < run.pfn + run.count:
            return int(run.file_offset + pa - run.pfn * 4096)
    raise ValueError(f"no frame at {pa:#x}")


def shared(work: Callable[[int, int], object], count: int, threads: int) -> list[Any]:
    """Call work(start, stop) for equal parts of range(count), in so many threads; return what they give."""
    bounds = [count * k // threads for k in range(threads + 1)]
    if threads == 1:
        return [work(0, count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, bounds[:-1], bounds[1:]))


def as_numbers(values: Iterable[int]) -> "array.array[int]":
    """Return numbers as a writable buffer of unsigned 64-bit ones."""
    return array.array("Q", iter(values))  # of bytes, too, their values


def _address(buffer: Any) -> int:
    """Where a writable buffer begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
