"""Turn what people type into numbers: addresses, frame numbers, lengths.

Addresses follow WinDbg: hexadecimal unless told otherwise, a backtick between the halves allowed,
`0n` for decimal. Lengths are counts of bytes and decimal unless they begin with `0x`. Every
function is usable as `type=` of an argparse argument: a bad value raises
`argparse.ArgumentTypeError`.

SPDX-License-Identifier: MIT
"""

import argparse
import re

ADDRESS_HELP = """\
Addresses and frame numbers are hexadecimal, with or without 0x; a backtick or an
underscore may separate digits, as in fffff800`12345678; 0n marks a decimal
number, as in WinDbg. Lengths are decimal, or hexadecimal with 0x, and may end in
K, M or G (1024, 1024^2, 1024^3 bytes)."""

_SEPARATED = r"{d}+(?:[`_]{d}+)*"
_HEX = re.compile(r"(?:0[xX])?(" + _SEPARATED.format(d="[0-9a-fA-F]") + r")")
_MARKED_HEX = re.compile(r"0[xX](" + _SEPARATED.format(d="[0-9a-fA-F]") + r")")
_MARKED_DECIMAL = re.compile(r"0[nN](" + _SEPARATED.format(d="[0-9]") + r")")
_DECIMAL = re.compile(r"(" + _SEPARATED.format(d="[0-9]") + r")")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LIMIT = 1 << 64


def _digits(text: str) -> str:
    return text.replace("`", "").replace("_", "")


def _number(text: str, base: int, what: str) -> int:
    # A number of 64 bits has at most 20 digits; refuse more before int() sees them.
    digits = _digits(text).lstrip("0") or "0"
    value = int(digits, base) if len(digits) <= 20 else _LIMIT
    if value >= _LIMIT:
        raise argparse.ArgumentTypeError(f"{what} does not fit in 64 bits: {text[:80]}")
    return value


def _hexadecimal(text: str, what: str) -> int:
    stripped = text.strip()
    if match := _MARKED_DECIMAL.fullmatch(stripped):
        return _number(match[1], 10, what)
    if match := _HEX.fullmatch(stripped):
        return _number(match[1], 16, what)
    raise argparse.ArgumentTypeError(
        f"not {what}: {text[:80]!r} (hexadecimal digits, with or without 0x; 0n for decimal)"
    )


def address(text: str) -> int:
    """The address in `text`: hexadecimal, or decimal after `0n`; 0 to 2^64 - 1."""
    return _hexadecimal(text, "an address")


def length(text: str) -> int:
    """The number of bytes in `text`, at least 1: decimal, or hexadecimal after `0x`; K, M or G may follow."""
    stripped = text.strip()
    suffix = stripped[-1:].upper()
    unit = _UNITS.get(suffix, 1) if suffix else 1
    body = stripped[:-1] if suffix in ("K", "M", "G") else stripped
    if match := _MARKED_HEX.fullmatch(body):
        value = _number(match[1], 16, "a length")
    elif match := _MARKED_DECIMAL.fullmatch(body) or _DECIMAL.fullmatch(body):
        value = _number(match[1], 10, "a length")
    else:
        raise argparse.ArgumentTypeError(
            f"not a length: {text[:80]!r} (decimal digits, or hexadecimal ones after 0x; K, M, G may follow)"
        )
    value *= unit
    if value == 0:
        raise argparse.ArgumentTypeError("a length of 0 bytes: nothing to read")
    if value > _LIMIT:
        raise argparse.ArgumentTypeError(f"a length beyond 2^64: {text[:80]}")
    return value


def byte(text: str) -> int:
    """The byte in `text`, hexadecimal like an address."""
    value = _hexadecimal(text, "a byte")
    if value > 0xFF:
        raise argparse.ArgumentTypeError(f"not a byte (00 to ff): {text[:80]!r}")
    return value


def piece(text: str) -> tuple[int, int, int]:
    """The run in `text`, PFN:COUNT:OFFSET: frame number and offset hexadecimal, COUNT like a length."""
    parts = text.split(":")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"not PFN:COUNT:OFFSET: {text[:80]!r}")
    pfn, count, offset = parts
    return _hexadecimal(pfn, "a frame number"), length(count), _hexadecimal(offset, "a file offset")
