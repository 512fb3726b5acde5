"""Types of structure members, as the layout data write them ("u4", "p:_KTHREAD", "a15:u1", "b4:3:5").

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal["unsigned", "signed", "float", "pointer", "struct", "array", "bits", "enum"]

_NUMBERS: dict[str, Kind] = {"u": "unsigned", "i": "signed", "f": "float"}


@dataclass(frozen=True, slots=True)
class TypeRef:
    """The type of a member.

    `size` is in bytes; for a bit field that of its container; None for an embedded structure whose size is
    not known. `name` is that of the structure or enumeration. `element` is what an array holds or a pointer
    points to, None for a pointer to void, code or an unnamed type. `count` is the length of an array; `start`
    (lowest bit) and `width` describe a bit field, and are 0 otherwise.
    """

    kind: Kind
    size: int | None
    name: str | None = None
    element: "TypeRef | None" = None
    count: int = 0
    start: int = 0
    width: int = 0

    def __str__(self) -> str:
        if self.kind == "pointer":
            return f"{self.element or 'void'}*"
        if self.kind == "array":
            return f"{self.element}[{self.count}]"
        if self.kind == "bits":
            return f"bits {self.start}-{self.start + self.width - 1}"
        return self.name or f"{self.kind[0]}{self.size}"


@cache
def parse_type(text: str, pointer_size: int) -> TypeRef:
    """The type that `text` describes, on a machine with pointers of `pointer_size` bytes.

    Raises ValueError for what is not a type. The notation is the layout data set's.
    """
    head, _, rest = text.partition(":")
    kind, digits = head[:1], head[1:]
    if kind in _NUMBERS and digits.isdecimal():
        return TypeRef(_NUMBERS[kind], int(digits))
    if head == "p":
        return TypeRef("pointer", pointer_size, element=_target(rest, pointer_size) if rest else None)
    if head == "s":
        name, _, size = rest.partition("/")
        return TypeRef("struct", int(size) if size else None, name)
    if kind == "a" and rest:
        element, count = parse_type(rest, pointer_size), int(digits)
        if count < 0:  # the extent in bytes instead
            count = -count // (element.size or 1)
        size_of = None if element.size is None else element.size * count
        return TypeRef("array", size_of, element=element, count=count)
    if kind == "b" and rest:
        start, _, width = rest.partition(":")
        return TypeRef("bits", int(digits), start=int(start), width=int(width))
    if kind == "e" and digits.isdecimal():
        return TypeRef("enum", int(digits), rest or None)
    raise ValueError(f"not a type: {text!r}")


def _target(text: str, pointer_size: int) -> TypeRef:
    """What a pointer points to: a structure's bare name, or a type."""
    if text[:1] == "_" or (":" not in text and not text[1:].isdecimal() and text != "p"):
        return TypeRef("struct", None, text)
    return parse_type(text, pointer_size)
