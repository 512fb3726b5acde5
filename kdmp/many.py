"""Many addresses at once: translations, reads of a fixed size, and one field of many structures.

Input is any buffer of unsigned 64-bit numbers (a numpy array, an `array`, a memoryview), or an iterable of
int. Output are numpy arrays when numpy is installed, and memoryviews of the same form when it is not. Nothing
raises for what is not there: each address has a status, 0 for "all there", else a Status.

SPDX-License-Identifier: MIT
"""

import array
import importlib.util
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = ["Gathered", "ReadMany", "Status", "TranslateMany"]

_SMALLEST_SHARE = 1 << 14  # addresses, about 0.2 ms of work: for fewer another thread does not pay
_MAX_BYTES = 1 << 40


class Status(IntEnum):
    """What became of one address; the numbers are those of the core's enum kdmp_status."""

    OK = 0
    OS_ERROR = 2
    UNSUPPORTED = 5
    NOT_PRESENT = 7
    NOT_IN_DUMP = 8
    TRUNCATED = 9
    NON_CANONICAL = 10
    BAD_ENTRY = 11
    ADDRESS_END = 12


class TranslateMany(NamedTuple):
    """Physical addresses (2**64 - 1 without one) and a status of each address."""

    pa: Any
    status: Any


class ReadMany(NamedTuple):
    """What is at each address, a row each (zeros where bytes are missing), and a status of each address."""

    data: Any
    status: Any


class Gathered(NamedTuple):
    """The value of a field at each address (0 where it is missing), and a status of each address."""

    values: Any
    status: Any


@cache
def _numpy() -> Any:
    """numpy, or None if it is not installed."""
    if importlib.util.find_spec("numpy") is None:
        return None
    import numpy

    return numpy


def _addresses(addresses: Any) -> Any:
    """A contiguous, aligned buffer of unsigned 64-bit numbers."""
    np = _numpy()
    if np is not None and isinstance(addresses, np.ndarray):
        if addresses.dtype.kind not in "ui":
            raise TypeError(f"addresses must be unsigned 64-bit numbers, not {addresses.dtype}")
        return np.ascontiguousarray(addresses, dtype=np.uint64).reshape(-1)
    try:
        view = memoryview(addresses)
    except TypeError:
        return array.array("Q", addresses)
    if view.itemsize != 8 or view.format.lstrip("@=<") not in ("Q", "L", "N", "q", "l", "n"):
        raise TypeError(f"addresses must be unsigned 64-bit numbers, not items of format {view.format!r}")
    return view if view.c_contiguous and view.ndim == 1 else array.array("Q", view.tobytes())


def _new(count: int, kind: str) -> Any:
    """A buffer for `count` numbers of a struct/numpy kind, "Q" or "B"."""
    np = _numpy()
    if np is not None:
        return np.zeros(count, {"Q": np.uint64, "B": np.uint8}[kind])
    return memoryview(bytearray(8 * count)).cast("Q") if kind == "Q" else memoryview(bytearray(count))


def _new_rows(count: int, size: int) -> Any:
    """A buffer for `count` rows of `size` bytes; a memoryview has no rows if there is nothing in it."""
    np = _numpy()
    if np is not None:
        return np.zeros((count, size), np.uint8)
    return memoryview(bytearray(count * size)).cast("B", (count, size)) if count * size else memoryview(b"")


def _shared(count: int, threads: int, work: Callable[[int, int], None]) -> None:
    """Call work(start, stop) for the parts of range(count), in up to `threads` threads, one of them this."""
    threads = max(1, min(threads, count // _SMALLEST_SHARE))
    bounds = [count * k // threads for k in range(threads + 1)]
    if threads == 1:
        work(0, count)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        jobs = [pool.submit(work, *pair) for pair in pairwise(bounds[1:])]
        work(0, bounds[1])
        for job in jobs:
            job.result()


def _flat(rows: Any) -> memoryview:
    """The bytes of an array of rows, writable."""
    view = memoryview(rows)
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def translate_many(reader: "Reader", addresses: Any, threads: int) -> TranslateMany:
    """As `Reader.translate_many`."""
    vas = _addresses(addresses)
    count = len(vas)
    pas, statuses = _new(count, "Q"), _new(count, "B")

    def work(start: int, stop: int) -> None:
        reader.translate_into(vas[start:stop], pas[start:stop], statuses[start:stop])

    _shared(count, threads, work)
    return TranslateMany(pas, statuses)


def read_many(reader: "Reader", addresses: Any, size: int, threads: int) -> ReadMany:
    """As `Reader.read_many`."""
    vas = _addresses(addresses)
    count = len(vas)
    if size < 0:
        raise ValueError(f"size must not be negative, got {size}")
    if count * size > _MAX_BYTES:
        raise MemoryError(f"{count} times {size} bytes")
    data, statuses = _new_rows(count, size), _new(count, "B")
    flat = _flat(data)

    def work(start: int, stop: int) -> None:
        reader.read_many_into(vas[start:stop], size, flat[start * size : stop * size], statuses[start:stop])

    _shared(count, threads, work)
    return ReadMany(data, statuses)


def read_u64_many(reader: "Reader", addresses: Any, threads: int) -> Gathered:
    """As `Reader.read_u64_many`."""
    vas = _addresses(addresses)
    count = len(vas)
    values, statuses = _new(count, "Q"), _new(count, "B")

    def work(start: int, stop: int) -> None:
        reader.read_many_into(vas[start:stop], 8, values[start:stop], statuses[start:stop])

    _shared(count, threads, work)
    return Gathered(values, statuses)


def gather(reader: "Reader", struct: str, path: str, addresses: Any, threads: int) -> Gathered:
    """As `Reader.gather`."""
    layout = reader.owner.windows.layout
    field = layout.field(struct, path)
    size = field.size
    if size is None:
        raise TypeError(f"the size of {struct}.{path} is not known")
    vas = _addresses(addresses)
    np = _numpy()
    if np is not None:
        places = np.asarray(vas, dtype=np.uint64) + np.uint64(field.offset)
    else:
        places = array.array("Q", ((va + field.offset) & (1 << 64) - 1 for va in vas))
    data, statuses = read_many(reader, places, size, threads)
    if field.type.kind not in ("unsigned", "signed", "pointer", "bits", "enum") or size not in (1, 2, 4, 8):
        return Gathered(data, statuses)
    signed = field.type.kind == "signed"
    return Gathered(_numbers(data, size, signed, field.bit_start, field.bit_width), statuses)


def _numbers(data: Any, size: int, signed: bool, start: int | None, width: int | None) -> Any:
    np = _numpy()
    mask = None if width is None else (1 << width) - 1
    if np is not None:
        values = data.reshape(-1).view(f"<{'i' if signed else 'u'}{size}")
        if mask is None:
            return values
        return (values >> values.dtype.type(start)) & values.dtype.type(mask)
    codes: dict[int, Any] = {1: "B", 2: "H", 4: "I", 8: "Q"}
    code = codes[size].lower() if signed else codes[size]
    flat = memoryview(_flat(data)).cast(code)
    if mask is None:
        return flat
    return memoryview(array.array(code, (value >> (start or 0) & mask for value in flat)))


def as_addresses(addresses: Iterable[int]) -> Any:
    """Return addresses in the form the functions here like best: a numpy array, or an `array`."""
    np = _numpy()
    return array.array("Q", addresses) if np is None else np.fromiter(addresses, dtype=np.uint64)
