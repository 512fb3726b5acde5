"""Hexadecimal dumps of memory in which bytes may be missing.

A missing byte is shown as `??`, never as a number, so that a hole cannot be mistaken for zeros:

>>> from kdmp.hexdump import hexdump
>>> print(hexdump(b"MZ\\x90\\0kdmp", 0xfffff80012340000, holes=[(0xfffff80012340002, 2)]))
fffff80012340000  4d 5a ?? ?? 6b 64 6d 70                          MZ??kdmp

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmp._kdmp import Gap

__all__ = ["hexdump", "hexdump_lines"]

_TEXT = bytes(c if 0x20 <= c < 0x7F else 0x2E for c in range(256))


def _mask(size: int, address: int, holes: Iterable["Gap | tuple[int, int]"]) -> bytearray | None:
    """One byte per byte of data, 1 where it is missing; None when nothing is."""
    mask: bytearray | None = None
    for hole in holes:
        start = max(hole[0] - address, 0)
        stop = min(hole[0] + hole[1] - address, size)
        if start < stop:
            if mask is None:
                mask = bytearray(size)
            mask[start:stop] = b"\x01" * (stop - start)
    return mask


def _cells(row: bytes, missing: bytearray | None, width: int) -> str:
    """The units of one line, highest byte first; ?? for each missing byte of a unit."""
    if missing is not None:
        pairs = ["??" if gone else f"{value:02x}" for value, gone in zip(row, missing, strict=True)]
    elif width == 1:
        return row.hex(" ")
    else:
        pairs = [f"{value:02x}" for value in row]
    units = (pairs[i : i + width] for i in range(0, len(pairs), width))
    return " ".join("".join(reversed(unit)).rjust(2 * width) for unit in units)


def _text(row: bytes, missing: bytearray | None) -> str:
    shown = row.translate(_TEXT)
    if missing is not None:
        shown = bytes(0x3F if gone else c for c, gone in zip(shown, missing, strict=True))
    return shown.decode("ascii")


def hexdump_lines(
    data: bytes | bytearray | memoryview,
    address: int = 0,
    *,
    holes: Iterable["Gap | tuple[int, int]"] = (),
    width: int = 1,
    columns: int = 16,
    address_digits: int = 16,
    text: bool | None = None,
) -> Iterator[str]:
    """Yield one line of text, without a line end, for every `columns` bytes of `data`.

    `address` is that of the first byte. `holes` are (address, size in bytes) pairs, or the gaps
    that `Reader.read_gaps` gives, whose bytes in `data` do not count. `width` is the size of a unit
    in bytes: 1, 2, 4 or 8; units are little-endian and shown as numbers, and in a unit that is
    partly missing each missing byte is `??`. `text` appends the bytes as ASCII; by default only
    when `width` is 1.

    ValueError: another `width`, or `columns` that are not a positive multiple of it.
    """
    if width not in (1, 2, 4, 8):
        raise ValueError(f"width must be 1, 2, 4 or 8 bytes, not {width}")
    if columns <= 0 or columns % width:
        raise ValueError(f"columns must be a positive multiple of {width}, not {columns}")
    if text is None:
        text = width == 1
    view = memoryview(data).cast("B")
    mask = _mask(len(view), address, holes)
    units = columns // width
    room = units * 2 * width + units - 1
    all_missing = bytearray(b"\x01" * columns)
    empty_line = "  " + _cells(bytes(columns), all_missing, width) + ("  " + "?" * columns if text else "")
    for at in range(0, len(view), columns):
        missing = None if mask is None else mask[at : at + columns]
        if missing == all_missing:
            yield f"{address + at:0{address_digits}x}{empty_line}"
            continue
        if missing is not None and 1 not in missing:
            missing = None
        row = bytes(view[at : at + columns])
        cells = _cells(row, missing, width)
        line = f"{address + at:0{address_digits}x}  {cells}"
        if text:
            line += " " * (room - len(cells) + 2) + _text(row, missing)
        yield line


def hexdump(
    data: bytes | bytearray | memoryview,
    address: int = 0,
    *,
    holes: Iterable["Gap | tuple[int, int]"] = (),
    width: int = 1,
    columns: int = 16,
    address_digits: int = 16,
    text: bool | None = None,
) -> str:
    """The lines of `hexdump_lines`, with the same arguments, as one string without a final line end."""
    return "\n".join(
        hexdump_lines(
            data,
            address,
            holes=holes,
            width=width,
            columns=columns,
            address_digits=address_digits,
            text=text,
        )
    )
