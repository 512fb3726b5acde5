"""What to look for in memory: bytes with or without a mask, text, pointers, regular expressions.

    kdmp.Pattern.hex("48 8B ?? 05")
    kdmp.Pattern.text("lsass.exe", ignore_case=True)
    kdmp.Pattern.pointers(module.base, module.end - 1)
    kdmp.Pattern.regex(rb"https?://[!-~]{4,200}")

SPDX-License-Identifier: MIT
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import index
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

__all__ = ["MAX_MATCH", "MAX_PATTERN", "Pattern", "Sequence", "as_patterns"]

MAX_PATTERN = 65536
"""The longest byte sequence that can be looked for, in bytes."""

MAX_MATCH = 4096
"""The longest match of a regular expression unless it says otherwise, in bytes."""

_MOST_MATCH = 1 << 20

_Bytes: TypeAlias = bytes  # inside the class `bytes` is a way to make a Pattern
_HEX_TOKEN = re.compile(r"\?|(?:[0-9a-fA-F?]{2})+")


class Sequence(NamedTuple):
    """Bytes to look for: memory matches where `memory & mask == value`. `encoding` is that of a text."""

    value: bytes
    mask: bytes | None = None
    encoding: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Pattern:
    """Something to look for in memory. Made by `bytes`, `hex`, `text`, `pointers` and `regex`.

    A value: immutable, hashable, equal if it means the same. `kind` is "bytes", "text", "pointers" or
    "regex".
    """

    kind: str
    # Of "bytes" and "text": each of these is a match.
    sequences: tuple[Sequence, ...] = ()
    # Of "pointers": first and last value; size in bytes and alignment, None: as the reader has it.
    first: int | None = None
    last: int | None = None
    pointer_size: int | None = None
    alignment: int | None = None
    # Of "regex".
    expression: "re.Pattern[_Bytes] | None" = None
    max_match: int | None = None
    # How it was made, for people.
    source: str = field(default="", compare=False)

    # ---- ways to make one ----

    @classmethod
    def bytes(cls, value: Any, mask: Any = None) -> "Pattern":
        """Return a pattern of these bytes (any bytes-like object, 1 to 65536 bytes).

        Where a bit of `mask`, which has the same length, is 0, any bit matches. ValueError for a length that
        is out of range or differs, and for a mask without any bit.
        """
        plain = _Bytes(memoryview(value))
        if mask is None:
            _check_length(len(plain), "a pattern")
            return cls("bytes", (Sequence(plain),), source=f"bytes({plain!r})")
        bits = _Bytes(memoryview(mask))
        if len(bits) != len(plain):
            raise ValueError(f"value and mask differ in length: {len(plain)} and {len(bits)}")
        return cls("bytes", (_masked(plain, bits),), source=f"bytes({plain!r}, {bits!r})")

    @classmethod
    def hex(cls, text: str) -> "Pattern":
        """Return a pattern of hexadecimal digits: "48 8B ?? 05", "488b??05"; `?` is any digit ("4?").

        Spaces may separate bytes; a `?` on its own is any byte. ValueError for anything else.
        """
        value, mask = bytearray(), bytearray()
        for token in text.split():
            if not _HEX_TOKEN.fullmatch(token):
                raise ValueError(f"not hexadecimal bytes: {token[:40]!r}")
            digits = "??" if token == "?" else token
            value += _Bytes.fromhex(digits.replace("?", "0"))
            mask += _Bytes.fromhex(re.sub("[^?]", "f", digits).replace("?", "0"))
        if 0 in mask or any(bits != 0xFF for bits in mask):
            sequence = _masked(_Bytes(value), _Bytes(mask))
        else:
            _check_length(len(value), "a pattern")
            sequence = Sequence(_Bytes(value))
        return cls("bytes", (sequence,), source=f"hex({_hex_text(sequence)!r})")

    @classmethod
    def text(
        cls, text: str, encodings: Iterable[str] = ("utf-8", "utf-16-le"), ignore_case: bool = False
    ) -> "Pattern":
        """Return a pattern of a text in one or more encodings, each of which is a match.

        UTF-8 is ASCII for what ASCII has. With `ignore_case` the letters A to Z match in both cases; other
        letters, umlauts say, only as they are. ValueError for an empty text and for what an encoding cannot
        say (UnicodeEncodeError is one), LookupError for an encoding that does not exist.
        """
        names = (encodings,) if isinstance(encodings, str) else tuple(encodings)
        if not names:
            raise ValueError("a text needs an encoding")
        found: dict[tuple[_Bytes, _Bytes | None], Sequence] = {}
        for name in names:
            sequence = _encoded(text, name, ignore_case)
            found.setdefault(sequence[:2], sequence)
        option = ", ignore_case=True" if ignore_case else ""
        return cls("text", tuple(found.values()), source=f"text({text!r}, {names!r}{option})")

    @classmethod
    def pointers(
        cls,
        first: SupportsIndex,
        last: SupportsIndex,
        size: SupportsIndex | None = None,
        alignment: SupportsIndex | None = None,
    ) -> "Pattern":
        """Return a pattern of little-endian pointers with values from `first` to `last`, both included.

        `size` is 4 or 8 bytes, by default the reader's `pointer_size`; they are at addresses that are
        multiples of `alignment`, a power of two, by default their size.
        """
        low, high = index(first), index(last)
        if not 0 <= low <= high < 1 << 64:
            raise ValueError(f"not a range of pointers: {low:#x} to {high:#x}")
        width = None if size is None else index(size)
        if width not in (None, 4, 8):
            raise ValueError(f"pointers have 4 or 8 bytes, not {width}")
        if width == 4 and low >= 1 << 32:
            raise ValueError(f"no pointer of 4 bytes is {low:#x} or more")
        step = None if alignment is None else check_alignment(alignment)
        options = (f", size={width}" if width else "") + (f", alignment={step}" if step else "")
        return cls(
            "pointers", first=low, last=high, pointer_size=width, alignment=step,
            source=f"pointers({low:#x}, {high:#x}{options})",
        )  # fmt: skip

    @classmethod
    def regex(
        cls,
        expression: "_Bytes | str | re.Pattern[_Bytes]",
        flags: int = 0,
        max_match: SupportsIndex = MAX_MATCH,
    ) -> "Pattern":
        r"""Return a pattern of a regular expression on bytes, as Python's `re` has them.

        A str is taken as ASCII (`r"MZ.{64}\x00"`). A match has 1 to `max_match` bytes, which may be up to
        1 MiB: one that could be longer ends there, or is none. See `Reader.search` for what is matched
        against what. re.error (`re.PatternError`) for an expression that is none.
        """
        if isinstance(expression, str):
            expression = expression.encode("ascii")
        compiled = re.compile(expression, flags) if isinstance(expression, _Bytes) else expression
        if not isinstance(compiled, re.Pattern) or not isinstance(compiled.pattern, _Bytes):
            raise TypeError("a regular expression on bytes is needed, not on str")
        most = index(max_match)
        if not 1 <= most <= _MOST_MATCH:
            raise ValueError(f"max_match is 1 to {_MOST_MATCH} bytes, not {most}")
        named = [flag.name for flag in re.RegexFlag if compiled.flags & flag and flag.name != "UNICODE"]
        option = (", " + " | ".join(f"re.{name}" for name in named)) if named else ""
        option += f", max_match={most}" if most != MAX_MATCH else ""
        return cls(
            "regex", expression=compiled, max_match=most, source=f"regex({compiled.pattern!r}{option})"
        )

    @classmethod
    def of(cls, what: Any) -> "Pattern":
        """Return what `Reader.search` makes of one thing to look for.

        bytes-like: these bytes; str: that text; int: that pointer; range: pointers into it; re.Pattern on
        bytes; a Pattern is itself. TypeError for anything else.
        """
        if isinstance(what, Pattern):
            return what
        if isinstance(what, str):
            return cls.text(what)
        if isinstance(what, re.Pattern):
            return cls.regex(what)
        if isinstance(what, range):
            if what.step != 1 or not what:
                raise ValueError(f"a range of pointers is contiguous and not empty: {what!r}")
            return cls.pointers(what[0], what[-1])
        if isinstance(what, SupportsIndex) and not isinstance(what, bool):
            return cls.pointers(what, what)
        try:
            return cls.bytes(what)
        except TypeError:
            raise TypeError(f"cannot search for a {type(what).__name__}") from None

    # ---- what it is ----

    def __repr__(self) -> str:
        return f"Pattern.{self.source}"

    @property
    def size(self) -> int | None:
        """How many bytes each match has; None if they differ or the reader decides."""
        if self.kind == "pointers":
            return self.pointer_size
        sizes = {len(sequence.value) for sequence in self.sequences}
        return sizes.pop() if len(sizes) == 1 else None


def as_patterns(what: Any) -> tuple[Pattern, ...]:
    """Return the patterns that an argument of `Reader.search` means; ValueError if there are none."""
    single = isinstance(what, Pattern | str | range | re.Pattern | SupportsIndex)
    if not single:
        try:
            memoryview(what)
            single = True
        except TypeError:
            pass
    if single or not isinstance(what, Iterable):
        return (Pattern.of(what),)
    patterns = tuple(Pattern.of(one) for one in what)
    if not patterns:
        raise ValueError("there is nothing to search for")
    return patterns


def check_alignment(value: SupportsIndex) -> int:
    """Return an alignment in bytes; ValueError if it is no power of two up to 1 MiB."""
    step = index(value)
    if not 1 <= step <= 1 << 20 or step & (step - 1):
        raise ValueError(f"an alignment is a power of two up to 2**20, not {step}")
    return step


def _check_length(size: int, what: str) -> None:
    if not 1 <= size <= MAX_PATTERN:
        raise ValueError(f"{what} has 1 to {MAX_PATTERN} bytes, not {size}")


def _masked(value: bytes, mask: bytes) -> Sequence:
    """A sequence with a mask, without one if all bits count."""
    _check_length(len(value), "a pattern")
    if not any(mask):
        raise ValueError("a pattern of which nothing counts is everywhere")
    if all(bits == 0xFF for bits in mask):
        return Sequence(value)
    return Sequence(bytes(byte & bits for byte, bits in zip(value, mask, strict=True)), mask)


def _encoded(text: str, encoding: str, ignore_case: bool) -> Sequence:
    """A text in an encoding; with `ignore_case` with the bits masked in which a letter's cases differ."""
    value = text.encode(encoding)
    _check_length(len(value), "a text")
    if not ignore_case:
        return Sequence(value, None, encoding)
    upper, lower = (_ascii_case(text, wanted).encode(encoding) for wanted in (str.upper, str.lower))
    differ = [a ^ b for a, b in zip(upper, lower, strict=False)]
    if len(upper) != len(lower) or any(bits & (bits - 1) for bits in differ):
        raise ValueError(f"upper and lower case cannot be matched at once in {encoding}")
    if not any(differ):
        return Sequence(value, None, encoding)
    mask = bytes(0xFF ^ bits for bits in differ)
    return Sequence(bytes(a & bits for a, bits in zip(upper, mask, strict=True)), mask, encoding)


def _ascii_case(text: str, change: Any) -> str:
    return "".join(change(char) if char.isascii() else char for char in text)


def _hex_text(sequence: Sequence) -> str:
    """A sequence as `Pattern.hex` reads it; its masks are whole digits."""
    mask = sequence.mask or b"\xff" * len(sequence.value)
    pairs = []
    for byte, bits in zip(sequence.value, mask, strict=True):
        high = f"{byte >> 4:X}" if bits & 0xF0 else "?"
        pairs.append(high + (f"{byte & 15:X}" if bits & 0x0F else "?"))
    return " ".join(pairs)
