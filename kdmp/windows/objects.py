"""Typed objects: a structure of Windows at an address, read field by field as Python attributes.

    process = dump.windows.object("_EPROCESS", va)
    process.UniqueProcessId, process.Pcb.DirectoryTableBase, process.ImageFileName.text

Nothing is read before a field is asked for, and nothing is remembered: an object is a type and a place.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Callable, Iterator
from html import escape
from operator import index
from typing import Any, Self, SupportsIndex

from kdmp._kdmp import KdmpError
from kdmp.reader import Reader
from kdmp.symbols.errors import FieldNotFoundError, TypeNotFoundError
from kdmp.symbols.structs import Field, Layout
from kdmp.symbols.types import TypeRef

__all__ = ["Array", "EnumValue", "Object", "Pointer", "Types"]

_FLOATS = {2: "<e", 4: "<f", 8: "<d"}
_MAX_TEXT = 0x10000  # bytes of a string that is nobody's to bound
_SHOWN = 16  # elements of an array that str() shows
_MAX_DEPTH = 8  # of to_dict()
_MAX_ELEMENTS = 0x10000  # of an array in to_dict(); longer ones are given by their address

Get = Callable[[Reader, int], Any]


class EnumValue(int):
    """A value of an enumeration: an int with a `name`, None if the enumeration has no such value."""

    name: str | None

    def __new__(cls, value: int, name: str | None) -> Self:
        self = super().__new__(cls, value)
        self.name = name
        return self

    def __repr__(self) -> str:
        return f"<{self.name or '?'}: {int(self)}>"

    def __str__(self) -> str:
        return self.name or str(int(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return EnumValue, (int(self), self.name)


class Pointer(int):
    """A pointer: an int, the address it holds, that knows what is there.

    `target` is what it points to; attributes go to the structure there, so `thread.Process.UniqueProcessId`
    works. `p[n]` is the n-th element of an array that begins there, `p["a.b"]` a field of the structure.
    """

    _types: "Types"
    _reader: Reader
    _to: TypeRef | None

    def __new__(cls, value: int, types: "Types", reader: Reader, to: TypeRef | None) -> Self:
        self = super().__new__(cls, value)
        self._types, self._reader, self._to = types, reader, to
        return self

    @property
    def type(self) -> str:
        """Name of the type pointed to, "void" if it is not known."""
        return str(self._to or "void")

    @property
    def target(self) -> Any:
        """What is at the address: an Object, or the value of a plain type. TypeError for void."""
        return self[0]

    def cast(self, type: str) -> "Object":
        """Return what is at the address as the structure `type`."""
        return self._types.object(type, int(self), self._reader)

    def __getitem__(self, n: SupportsIndex | str) -> Any:
        if self._to is None:
            raise TypeError("a pointer to void has no target")
        if isinstance(n, str):
            return self.target[n]
        number = index(n)
        if number and self._to.size is None:
            raise TypeNotFoundError(str(self._to))
        return self._types.value(self._to, int(self) + number * (self._to.size or 0), self._reader)

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_" or self._to is None or self._to.kind != "struct":
            raise AttributeError(f"a pointer to {self.type} has no attribute {name!r}")
        return getattr(self.target, name)

    def __repr__(self) -> str:
        return f"<{self.type}* {int(self):#x}>"

    def __str__(self) -> str:
        return hex(int(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


class Array:
    """An array in memory: `len()`, indexing, iteration; `bytes()` is its memory, `text` its text."""

    __slots__ = ("_element", "_reader", "_types", "address", "count")

    def __init__(
        self, types: "Types", reader: Reader, element: TypeRef | None, address: int, count: int
    ) -> None:
        self._types, self._reader, self._element = types, reader, element
        self.address = address
        self.count = count

    @property
    def type(self) -> str:
        """The type in C's manner, "u1[15]"."""
        return f"{self._element}[{self.count}]"

    def _size(self) -> int:
        if self._element is None or self._element.size is None:
            raise TypeNotFoundError(str(self._element))
        return self._element.size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: Any) -> Any:
        if isinstance(n, slice):
            return [self[k] for k in range(*n.indices(self.count))]
        number = index(n)
        if number < 0:
            number += self.count
        if not 0 <= number < self.count:
            raise IndexError(f"{n} is outside {self.type}")
        size = self._size()
        assert self._element is not None
        return self._types.value(self._element, self.address + number * size, self._reader)

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(self.count))

    def __bytes__(self) -> bytes:
        return self._reader.read_exact(self.address, self.count * self._size())

    @property
    def is_bytes(self) -> bool:
        """Whether the elements are numbers of one byte."""
        element = self._element
        return element is not None and element.size == 1 and element.kind in ("unsigned", "signed")

    def head(self, count: int) -> bytes:
        """Return the bytes of the first elements, at most `count` of them."""
        return self._reader.read_exact(self.address, min(count, self.count) * self._size())

    @property
    def text(self) -> str:
        """The characters up to the first NUL, of an array of 1-byte (UTF-8) or 2-byte (UTF-16) numbers."""
        size = self._size()
        if size not in (1, 2):
            raise TypeError(f"{self.type} is no text")
        data = bytes(self)
        if size == 1:
            return data.split(b"\0", 1)[0].decode("utf-8", "replace")
        return data.decode("utf-16-le", "replace").split("\0", 1)[0]

    def __repr__(self) -> str:
        return f"<{self.type} at {self.address:#x}>"

    def __str__(self) -> str:
        shown = ", ".join(_text(self, k) for k in range(min(self.count, _SHOWN)))
        return f"[{shown}{', ...' if self.count > _SHOWN else ''}]"

    def to_list(self, depth: int = 1) -> list[Any]:
        """Return the elements as plain Python values, structures as dicts."""
        return [_plain(self, k, depth) for k in range(self.count)]


class Object:
    """A structure of type `type` at `address`. Fields are attributes by Windows' names, or `obj["a.b"]`.

    Numbers are int, pointers Pointer, arrays Array, structures Object, enumerations EnumValue; bit fields
    are extracted. A name that other releases used for the same field works too. Reading raises
    UnreadableError where memory is missing, and FieldNotFoundError (an AttributeError) for what the layout
    lacks.
    """

    __slots__ = ("_prefix", "_reader", "_types", "address", "type")

    def __init__(self, types: "Types", reader: Reader, type: str, address: int, prefix: str = "") -> None:
        self._types, self._reader, self._prefix = types, reader, prefix
        self.type = type
        self.address = address

    @property
    def size(self) -> int | None:
        """Bytes of the structure, None if not known."""
        return self._types.layout.size(self.type)

    @property
    def reader(self) -> Reader:
        """The address space it is read from."""
        return self._reader

    def __getattr__(self, name: str) -> Any:
        # Protocols of Python ask for such names; a few structures do have fields called __something.
        if name.startswith(("__", "_repr_", "_ipython")) and not self._has(name):
            raise AttributeError(name)
        return self._types.accessor(self.type, self._prefix + name)(self._reader, self.address)

    def _has(self, name: str) -> bool:
        try:
            return self._prefix + name in self._types.layout.struct(self.type)
        except TypeNotFoundError:
            return False

    def __getitem__(self, path: str) -> Any:
        value: Any = self
        try:
            return self._types.accessor(self.type, self._prefix + path)(self._reader, self.address)
        except FieldNotFoundError:
            if "." not in path:
                raise
        for part in path.split("."):  # through pointers
            value = getattr(value, part)
        return value

    def find(self, name: str) -> Any:
        """Return the field `name` of this structure or, failing that, of one embedded in it."""
        field = self._types.layout.find_field(self.type, name)
        return self._types.compile(field.type)(self._reader, self.address + field.offset)

    def field(self, path: str) -> Field:
        """Return offset and type of a field; raises FieldNotFoundError."""
        return self._types.layout.field(self.type, self._prefix + path)

    def field_address(self, path: str) -> int:
        """Return the address of a field; raises FieldNotFoundError."""
        return self.address + self.field(path).offset

    def cast(self, type: str) -> "Object":
        """Return the same place as another structure."""
        return Object(self._types, self._reader, type, self.address)

    def __bytes__(self) -> bytes:
        size = self.size
        if size is None:
            raise TypeNotFoundError(self.type)
        return self._reader.read_exact(self.address, size)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names()]

    def _names(self) -> list[str]:
        """Names of the fields one level down, by offset; the members of an unnamed union under its own."""
        skip = len(self._prefix)
        paths = (field.path for field in self._types.layout.struct(self.type))
        inside = (path[skip:] for path in paths if path.startswith(self._prefix))
        return list(dict.fromkeys(path.partition(".")[0] for path in inside))

    def __int__(self) -> int:
        return self.address

    __index__ = __int__
    __iter__ = None  # fields are got by name, not by number

    def __reduce__(self) -> Any:
        raise TypeError("a typed object cannot be pickled: it is a place in a dump. Pickle its to_dict()")

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Object):
            return NotImplemented
        same = (self.type, self.address, self._prefix) == (other.type, other.address, other._prefix)
        return same and self._reader.dtb == other._reader.dtb

    def __hash__(self) -> int:
        return hash((self.type, self.address, self._prefix))

    def __repr__(self) -> str:
        return f"<{self.type}{self._prefix and '.' + self._prefix[:-1]} at {self.address:#x}>"

    def __str__(self) -> str:
        lines = [f"{self.type} at {self.address:#x}"]
        for name in self._names():
            lines.append(f"   {self._place(name):<11} {name:<28} : {_text(self, name)}")
        return "\n".join(lines)

    def _place(self, name: str) -> str:
        try:
            field = self.field(name)
            return f"+{field.offset:#05x}" + ("" if field.bit_start is None else f":{field.bit_start}")
        except KdmpError:
            return ""  # an unnamed union has no entry of its own

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def to_dict(self, depth: int = 1) -> dict[str, Any]:
        """Return the fields as plain Python values, structures inside up to `depth` levels as dicts.

        Arrays of bytes are bytes, which JSON does not know. What cannot be read is None. Deeper structures
        are given by their addresses.
        """
        return {name: _plain(self, name, depth) for name in self._names()}


def _fetch(value: Any, key: Any) -> Any:
    return getattr(value, key) if isinstance(key, str) else value[key]


def _plain(holder: Any, key: Any, depth: int) -> Any:
    try:
        value = _fetch(holder, key)
        if isinstance(value, Object):
            return value.to_dict(depth - 1) if 0 < depth <= _MAX_DEPTH else value.address
        if isinstance(value, Array):
            if value.count > _MAX_ELEMENTS:
                return value.address
            if value.is_bytes:
                return bytes(value)
            return value.to_list(depth - 1) if 0 < depth <= _MAX_DEPTH else value.address
        return int(value) if isinstance(value, Pointer) else value
    except (KdmpError, OverflowError):
        return None


def _text(holder: Any, key: Any) -> str:
    """One value in a line, as WinDbg's dt has it; what cannot be read is "????"."""
    try:
        value = _fetch(holder, key)
        if isinstance(value, Object):
            return value.type if not value._prefix else "<unnamed>"
        if isinstance(value, Array):
            if value.is_bytes:
                return f"{value.type} {value.head(_SHOWN)!r}"
            return f"{value.type} {value}"
        if isinstance(value, Pointer):
            return f"{int(value):#018x} {value.type}*" if value else "(null)"
        if isinstance(value, EnumValue):
            return f"{int(value)} ( {value} )"
        return f"{value:#x}" if isinstance(value, int) else str(value)
    except (KdmpError, OverflowError):
        return "????"


class Types:
    """The types of one layout, with the way to read each field remembered."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._accessors: dict[tuple[str, str], Get] = {}

    def object(self, type: str, address: int, reader: Reader) -> Object:
        """The structure `type` at `address`; raises TypeNotFoundError.

        "nt!" before the name and a missing underscore do not matter. OverflowError for what is no address.
        """
        va = index(address)
        if not 0 <= va < 1 << 64:
            raise OverflowError(f"{va:#x} is outside 0 ... 2**64 - 1")
        return Object(self, reader, self._struct(type.removeprefix("nt!")), va)

    def _struct(self, name: str) -> str:
        try:
            return self.layout.struct(name).name
        except TypeNotFoundError:
            if name[:1] == "_" or "_" + name not in self.layout:
                raise
            return self.layout.struct("_" + name).name

    def accessor(self, struct: str, path: str) -> Get:
        """How to read a field: called with a Reader and the structure's address."""
        get = self._accessors.get((struct, path))
        if get is None:
            get = self._accessors[struct, path] = self._make(struct, path)
        return get

    def _make(self, struct: str, path: str) -> Get:
        try:
            field = self.layout.field(struct, path)
        except FieldNotFoundError:
            prefix = path + "."
            if any(name.startswith(prefix) for name in self.layout.struct(struct).paths):
                return lambda reader, address: Object(self, reader, struct, address, prefix)
            raise
        get, offset = self.compile(field.type), field.offset
        return lambda reader, address: get(reader, address + offset)

    def value(self, type: TypeRef, address: int, reader: Reader) -> Any:
        """The value of type `type` at `address`."""
        return self.compile(type)(reader, address)

    def compile(self, type: TypeRef) -> Get:
        """How to read a value of this type: called with a Reader and an address."""
        size = type.size or 0
        if type.kind == "struct":
            name = type.name or "void"
            return lambda reader, address: Object(self, reader, name, address)
        if type.kind == "pointer":
            to = self._sized(type.element)
            return lambda reader, address: Pointer(reader.read_uint(address, size), self, reader, to)
        if type.kind == "array":
            element, count = self._sized(type.element), type.count
            return lambda reader, address: Array(self, reader, element, address, count)
        if type.kind == "bits":
            start, mask = type.start, (1 << type.width) - 1
            return lambda reader, address: reader.read_uint(address, size) >> start & mask
        if type.kind == "float":
            form = _FLOATS.get(size, f"{size}s")
            return lambda reader, address: struct.unpack(form, reader.read_exact(address, size))[0]
        if type.kind == "enum":
            names = self._enumerators(type.name)
            return lambda reader, address: _enum(reader.read_uint(address, size), names, size)
        return _NUMBERS.get((type.kind, size)) or _bytes_number(size, type.kind == "signed")

    def _sized(self, type: TypeRef | None) -> TypeRef | None:
        return None if type is None else self.layout.sized(type)

    def _enumerators(self, name: str | None) -> dict[int, str]:
        if name is None or name not in self.layout.enums:
            return {}
        return {value: text for text, value in reversed(list(self.layout.enum(name).items()))}


def _enum(value: int, names: dict[int, str], size: int) -> EnumValue:
    if value not in names and value >> (8 * size - 1):  # enumerators are signed
        signed = value - (1 << 8 * size)
        value = signed if signed in names else value
    return EnumValue(value, names.get(value))


def _bytes_number(size: int, signed: bool) -> Get:
    return lambda reader, address: int.from_bytes(reader.read_exact(address, size), "little", signed=signed)


_NUMBERS: dict[tuple[str, int], Get] = {
    ("unsigned", 1): lambda reader, address: reader.read_u8(address),
    ("unsigned", 2): lambda reader, address: reader.read_u16(address),
    ("unsigned", 4): lambda reader, address: reader.read_u32(address),
    ("unsigned", 8): lambda reader, address: reader.read_u64(address),
    ("signed", 1): lambda reader, address: reader.read_i8(address),
    ("signed", 2): lambda reader, address: reader.read_i16(address),
    ("signed", 4): lambda reader, address: reader.read_i32(address),
    ("signed", 8): lambda reader, address: reader.read_i64(address),
}
