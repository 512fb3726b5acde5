"""What the data frames of a filled dump hold: a mixture such as memory has, always the same.

A pool of 16 MiB (pages of zeros, of text, of pointers and numbers, of something like code) is repeated; in
every frame 8 bytes hold its own physical address, so that a frame taken for another one is noticed. What
scans look for is planted in the pool; one needle lies across the end of a page.

SPDX-License-Identifier: MIT
"""

import random
import struct
from array import array
from functools import cache

PAGE = 0x1000
POOL_PAGES = 4096
STAMP = 0x800  # where in each page its own address is

NEEDLE = b"kdmp\x00needle\x01\x02\x03\x04\x05"  # 16 bytes
TEXT = "C:\\Windows\\System32\\ntoskrnl.exe"  # planted as UTF-16
MASKED = "48 8B 0D ?? ?? ?? ?? 48 85 C9 74 1C"  # planted with other bytes for ??
URL = rb"https?://[a-z0-9.-]{4,40}/[a-z]{3,8}"
_URL = b"https://example.invalid/path"
_SEED = 20260102
_WORDS = (
    "system registry process handle thread object device driver kernel memory page table section event "
    "mutant file path value name type data size flags length offset buffer string status error version"
).split()
# Bytes that x64 code has more often than others.
_COMMON = bytes.fromhex("488b 0000 00ff 4c89 e80f 8445 c3cc 8d05 2408 eb74 7585 c001 1083 f641 488b")
_SKEWED = bytes(k if k % 8 > 4 else _COMMON[k % len(_COMMON)] for k in range(256))


@cache
def many_patterns(count: int) -> tuple[bytes, ...]:
    """Return `count` different patterns of 8 to 24 bytes; each tenth of the first hundred is planted."""
    rng = random.Random(_SEED + 1)
    return tuple(rng.randbytes(rng.randrange(8, 25)) for _ in range(1000))[:count]


@cache
def pool() -> bytes:
    """Return the pool."""
    rng = random.Random(_SEED)
    pages = bytearray()
    for _ in range(POOL_PAGES):
        kind = rng.random()
        if kind < 0.2:
            pages += bytes(PAGE)
        elif kind < 0.45:
            pages += _text(rng)
        elif kind < 0.7:
            pages += _pointers(rng)
        else:
            pages += _code(rng)
    for at, data in _planted():
        pages[at : at + len(data)] = data
    return bytes(pages)


@cache
def _prose() -> str:
    rng = random.Random(_SEED + 2)
    return "".join(rng.choice(_WORDS) + rng.choice((" ", ".", "\\", "\0", "\0\0\0")) for _ in range(20_000))


def _text(rng: random.Random) -> bytes:
    encoding = rng.choice(("ascii", "ascii", "utf-16-le"))
    start = rng.randrange(len(_prose()) - PAGE)
    return _prose()[start : start + PAGE].encode(encoding)[:PAGE]


def _pointers(rng: random.Random) -> bytes:
    base = 0xFFFF_8000_0000_0000 + rng.randrange(1 << 20 << 12)
    kinds = rng.choices((0, 1, 2), (5, 3, 2), k=PAGE // 8)
    numbers = (0, rng.randrange(1 << 12), base)
    return array("Q", (numbers[kind] + 16 * k * (kind == 2) for k, kind in enumerate(kinds))).tobytes()


def _code(rng: random.Random) -> bytes:
    return rng.randbytes(PAGE).translate(_SKEWED)


def _planted() -> list[tuple[int, bytes]]:
    """Places in the pool, none of them over a stamp."""
    where = [(17 * PAGE + 0x123, NEEDLE), (1001 * PAGE - 7, NEEDLE)]
    where += [(2000 * PAGE + 0x40, TEXT.encode("utf-16-le")), (2100 * PAGE + 0x41, _URL)]
    masked = bytes.fromhex(MASKED.replace("??", "A5"))
    where += [(2200 * PAGE + 0x333, masked), (2201 * PAGE + 0x334, masked.replace(b"\xa5", b"\x5a"))]
    where += [(2300 * PAGE + 0x1000 * k, pattern) for k, pattern in enumerate(many_patterns(100)[::10])]
    return where


def word(pa: int, first_pfn: int) -> int:
    """Return the 8 bytes at an address that is a multiple of 8, as a number."""
    if pa % PAGE == STAMP:
        return pa - STAMP
    at = (pa // PAGE - first_pfn) % POOL_PAGES * PAGE + pa % PAGE
    return int.from_bytes(pool()[at : at + 8], "little")


def pages(first: int, count: int, first_pfn: int) -> bytearray:
    """Return the bytes of `count` frames from frame `first` on, which are within one turn of the pool."""
    start = (first - first_pfn) % POOL_PAGES * PAGE
    data = bytearray(pool()[start : start + count * PAGE])
    for k in range(count):
        struct.pack_into("<Q", data, k * PAGE + STAMP, (first + k) * PAGE)
    return data
