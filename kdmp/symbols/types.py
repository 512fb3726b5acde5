"""Types of structure members, as the layout data write them ("u4", "p:_KTHREAD", "a15:u1", "b4:3:5").

Symbol files need little more: "p4:_TEB32" is a pointer of 4 bytes on a machine with another size, "p:s:NAME"
one to a structure whose bare name would read as a type, and in names white space, "/" and "%" are written as
their code point ("%20;"), see quoted().

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
    if head == "p" or (kind == "p" and digits.isdecimal()):
        size_of_pointer = int(digits) if digits else pointer_size
        return TypeRef("pointer", size_of_pointer, element=_target(rest, pointer_size) if rest else None)
    if head == "s":
        name, _, size = rest.partition("/")
        return TypeRef("struct", int(size) if size else None, _unquoted(name))
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
        return TypeRef("enum", int(digits), _unquoted(rest) or None)
    raise ValueError(f"not a type: {text!r}")


def _target(text: str, pointer_size: int) -> TypeRef:
    """What a pointer points to: a structure's bare name, or a type."""
    if is_bare(text):
        return TypeRef("struct", None, _unquoted(text))
    return parse_type(text, pointer_size)


def is_bare(text: str) -> bool:
    """Whether `text` after "p:" is the name of a structure; otherwise it is a type."""
    return text[:1] == "_" or (":" not in text and not text[1:].isdecimal() and text != "p")


def quoted(name: str) -> str:
    """A name as it is written in a type."""
    return "".join(f"%{ord(c):x};" if c in "%/" or c.isspace() else c for c in name)


def _unquoted(name: str) -> str:
    if "%" not in name:
        return name
    import re  # hardly ever needed

    return re.sub("%([0-9a-f]{1,5});", lambda hit: chr(int(hit[1], 16)), name)
