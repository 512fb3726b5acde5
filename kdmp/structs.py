# SPDX-License-Identifier: MIT
"""Structures out of memory: ctypes classes, `struct` formats, numpy dtypes and cffi types.

A description of a Windows structure must mean the same bytes on every host. So what has the host's size
is refused with a `TypeError` that says what to write instead: `long` (32 bits in Windows, 64 on Linux and
macOS), pointers (they point into the dump, not into this process), `size_t`, `wchar_t`, `long double`.

One thing cannot be refused: a bare `ctypes.c_long`. ctypes makes it the very same class as `c_int64` on
64-bit Linux and macOS, and as `c_int32` on Windows, so nothing can tell which one was meant; the same goes
for `c_ulong`, `c_size_t` and the plain names in `ctypes.wintypes` (`DWORD`, `LONG` ...). Structures of
`ctypes.wintypes` are refused. Use `kdmp.wintypes`, and compare `size_of` with the size Windows has.

Bit fields are laid out by the host's compiler rules. They agree with Windows as long as all fields of a
run have one type and none straddles a unit of it.
"""

import ctypes
import importlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, TypeVar, overload

if TYPE_CHECKING:
    from kdmp._kdmp import Address

__all__ = ["read_struct", "read_structs", "size_of"]

T = TypeVar("T")


class ExactReader(Protocol):
    """All that structures need of a `Reader`."""

    def read_exact(self, va: "Address", size: SupportsIndex, /) -> bytes | None:
        """Return exactly `size` bytes or raise; None where faults are collected."""


@overload
def read_struct(reader: ExactReader, address: "Address", spec: type[T]) -> T: ...
@overload
def read_struct(
    reader: ExactReader, address: "Address", spec: str | bytes | struct.Struct
) -> tuple[Any, ...]: ...
@overload
def read_struct(reader: ExactReader, address: "Address", spec: Any) -> Any: ...
def read_struct(reader: ExactReader, address: "Address", spec: Any) -> Any:
    """Read one structure at `address` and return a value that owns its bytes.

    What `spec` may be, and what comes back:

    * a ctypes structure, union, array or simple type (`kdmp.wintypes` has the Windows ones): an instance;
    * a `struct` format, `str`, `bytes` or `struct.Struct`: a tuple, as `struct.unpack` returns it. Without
      a prefix the numbers are little-endian, and a format that alignment would lengthen is refused: write
      `<` for no padding or `@` for the natural alignment that Windows structures have;
    * a numpy dtype or scalar type: a read-only scalar (`numpy.void` if structured, an array if a subarray);
    * a cffi type, `ffi.typeof("struct s")` of any `ffi`, or the pair `(ffi, "struct s")`: an owning `cdata`,
      or the Python value of a primitive or enum. `kdmp.wintypes.ffi()` has the Windows types.

    Raises `TypeError` for a type that has no size or whose size depends on the host, `ValueError` for a
    malformed format, and what `Reader.read_exact` raises where memory is missing; None where faults are
    collected instead (`Dump.collect_faults`).
    """
    layout = _layout(spec)
    data = reader.read_exact(address, layout.size)
    return None if data is None else layout.one(data)


def read_structs(reader: ExactReader, address: "Address", spec: Any, count: SupportsIndex) -> Any:
    """Read `count` structures that lie one after another, in one read.

    Returns a list of what `read_struct` returns, or one read-only numpy array if `spec` is a numpy type.
    Raises as `read_struct` does, and `ValueError` for a negative count.
    """
    n = index(count)
    if n < 0:
        raise ValueError(f"count must not be negative, got {n}")
    layout = _layout(spec)
    data = reader.read_exact(address, layout.size * n) if n else b""
    return None if data is None else layout.many(data)


def size_of(spec: Any) -> int:
    """Return how many bytes `read_struct` reads for this spec. Raises for the same specs."""
    return _layout(spec).size


@dataclass(frozen=True, slots=True)
class _Layout:
    """A checked spec: its size in bytes, and how to make one value, and all of an array, out of bytes."""

    size: int
    one: Callable[[bytes], Any]
    many: Callable[[bytes], Any]


def _layout(spec: Any) -> _Layout:
    try:
        hash(spec)
    except TypeError:
        return _make_layout(spec)  # nothing that describes a structure, and this says so
    return _cached_layout(spec)


# Checking walks every field, reading is one copy: keep what was checked. `typed`, because numpy dtypes
# compare equal to their names.
@lru_cache(maxsize=256, typed=True)
def _cached_layout(spec: Any) -> _Layout:
    return _make_layout(spec)


def _make_layout(spec: Any) -> _Layout:
    layout: _Layout
    if isinstance(spec, str | bytes | struct.Struct):
        layout = _struct_layout(spec)
    elif isinstance(spec, type) and issubclass(spec, _CTYPES):
        layout = _ctypes_layout(spec)
    elif _is_numpy(spec):
        layout = _numpy_layout(spec)
    elif _is_cffi(spec):
        layout = _cffi_layout(spec)
    elif (
        isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[1], str) and hasattr(spec[0], "typeof")
    ):
        layout = _cffi_layout(spec[0].typeof(spec[1]))
    else:
        hint = "; pass the class, not an instance" if isinstance(spec, _CTYPES) else ""
        raise TypeError(
            "a structure is described by a ctypes class, a struct format, a numpy dtype, a cffi type or "
            f"(ffi, 'C type'), not by {spec!r}{hint}"
        )
    if layout.size == 0:
        raise TypeError(f"{spec!r} describes no bytes")
    return layout


# --- struct formats ---

_HOST_CODES = {
    "l": "write '<l' (or 'i') for a Windows LONG",
    "L": "write '<L' (or 'I') for a Windows ULONG",
    "n": "write 'i' or 'q', by the dump's pointer size",
    "N": "write 'I' or 'Q', by the dump's pointer size",
    "P": "write 'I' or 'Q', by the dump's pointer size",
}


def _struct_layout(spec: str | bytes | struct.Struct) -> _Layout:
    fmt = spec.format if isinstance(spec, struct.Struct) else spec
    if isinstance(fmt, bytes):
        fmt = fmt.decode("ascii")
    if re.fullmatch(r"(?:\w+!)?[A-Za-z_]\w*", fmt) and ("_" in fmt or "!" in fmt):
        raise TypeError(f"{fmt!r} names a type that is found in symbols, and no symbols are loaded")
    if re.match(r"(?:struct|union|enum)\s", fmt):
        raise TypeError(f"{fmt!r} names a C type: pass (ffi, {fmt!r}) with the cffi.FFI that declares it")
    prefix = fmt[:1] if fmt[:1] in tuple("@=<>!") else ""
    if prefix in ("", "@"):
        for code in fmt:
            if code in _HOST_CODES:
                raise TypeError(
                    f"{code!r} in struct format {fmt!r} has the size of the host's C type, which is not "
                    f"that of Windows everywhere: {_HOST_CODES[code]}"
                )
    try:
        packed = struct.Struct(fmt if prefix else "<" + fmt)
    except struct.error as exc:
        hint = " (a pointer is 'I' or 'Q', by the dump's pointer size)" if re.search("[nNP]", fmt) else ""
        raise ValueError(f"{fmt!r} is not a struct format: {exc}{hint}") from None
    aligned = struct.calcsize("@" + fmt) if not prefix else packed.size
    if aligned != packed.size:
        raise TypeError(
            f"struct format {fmt!r} has {packed.size} bytes without padding and {aligned} with: "
            f"write '<{fmt}' or '@{fmt}'"
        )
    return _Layout(packed.size, packed.unpack, lambda data: list(packed.iter_unpack(data)))


# --- ctypes ---

_Simple: Any = ctypes._SimpleCData
_Pointer: Any = ctypes._Pointer
_Function: Any = ctypes._CFuncPtr  # type: ignore[attr-defined]
_CTYPES: Any = (ctypes.Structure, ctypes.Union, ctypes.Array, _Simple, _Pointer, _Function)

# Codes of simple types whose size is the same everywhere, or, for l, L, q and Q, fixed by the names c_int32,
# c_int64 ... that share them. "v" is VARIANT_BOOL, two bytes.
_FIXED_CODES = frozenset("?cbBhHiIlLqQfdv")

_POINTER_ADVICE = "use kdmp.wintypes.POINTER64 or POINTER32, by the dump's pointer size"


def _ctypes_layout(spec: Any) -> _Layout:
    problem = _ctypes_problem(spec, spec.__name__)
    if problem:
        raise TypeError(problem)
    try:
        size = ctypes.sizeof(spec)
    except TypeError:
        raise TypeError(f"{spec.__name__} is an abstract ctypes class: it has no size") from None

    def many(data: bytes) -> list[Any]:
        return [spec.from_buffer_copy(data, at) for at in range(0, len(data), size)]

    return _Layout(size, spec.from_buffer_copy, many)


def _ctypes_problem(spec: Any, where: str) -> str | None:
    """Return why this type cannot describe the target's memory, or None. `where` names it in the answer."""
    if issubclass(spec, _Pointer | _Function):
        return f"{where} is a pointer of the host, {ctypes.sizeof(ctypes.c_void_p)} bytes: {_POINTER_ADVICE}"
    if issubclass(spec, ctypes.Array):
        item = getattr(spec, "_type_", None)  # ctypes.Array itself has none
        return _ctypes_problem(item, f"{where}[]") if item is not None else None
    if issubclass(spec, ctypes.Structure | ctypes.Union):
        if spec.__module__ == "ctypes.wintypes":
            return (
                f"{where} is ctypes.wintypes.{spec.__name__}, whose DWORD and LONG have the size of the "
                "host's long: declare it with the types of kdmp.wintypes"
            )
        for cls in reversed(spec.__mro__):
            for name, kind, *_ in cls.__dict__.get("_fields_", ()):
                problem = _ctypes_problem(kind, f"{where}.{name}")
                if problem:
                    return problem
        return None
    return _ctypes_simple_problem(getattr(spec, "_type_", None), where)


def _ctypes_simple_problem(code: str | None, where: str) -> str | None:
    if code is None or code in _FIXED_CODES:
        return None
    if code in "PzZX":
        return f"{where} is a pointer of the host, {ctypes.sizeof(ctypes.c_void_p)} bytes: {_POINTER_ADVICE}"
    if code == "u":
        return (
            f"{where} is the host's wchar_t, {ctypes.sizeof(ctypes.c_wchar)} bytes: use kdmp.wintypes.WCHAR"
        )
    if code == "g":
        return f"{where} is a long double of the host: use c_double, or c_uint8 * 10 for an x87 register"
    return f"{where} (ctypes code {code!r}) is not plain memory"


# --- numpy ---


def _is_numpy(spec: Any) -> bool:
    """Whether the spec is numpy's, found out without importing numpy."""
    kind = spec if isinstance(spec, type) else type(spec)
    if not any(base.__module__.partition(".")[0] == "numpy" for base in kind.__mro__):
        return False
    numpy = importlib.import_module("numpy")
    return isinstance(spec, numpy.dtype) or (isinstance(spec, type) and issubclass(spec, numpy.generic))


def _numpy_layout(spec: Any) -> _Layout:
    numpy = importlib.import_module("numpy")
    dtype = numpy.dtype(spec)
    if dtype.hasobject:
        raise TypeError(f"{dtype!r} holds Python objects, which memory of a dump cannot be")

    def many(data: bytes) -> Any:
        return numpy.frombuffer(data, dtype) if data else numpy.empty(0, dtype)

    return _Layout(dtype.itemsize, lambda data: numpy.frombuffer(data, dtype)[0], many)


# --- cffi ---

_FIXED_C_NAMES = frozenset(
    [
        *("_Bool", "char", "signed char", "unsigned char", "short", "unsigned short", "int", "unsigned int"),
        *("long long", "unsigned long long", "float", "double", "char16_t", "char32_t"),
        *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    ]
)

_C_ADVICE = {
    "long": "LONG or int32_t: long is 32 bits in Windows and not everywhere else",
    "unsigned long": "ULONG or uint32_t: unsigned long is 32 bits in Windows and not everywhere else",
    "wchar_t": "WCHAR or char16_t",
    "long double": "double, or uint8_t[10] for an x87 register",
}
_C_WORD_ADVICE = "uint32_t or uint64_t, by the dump's pointer size"


def _is_cffi(spec: Any) -> bool:
    return (type(spec).__module__, type(spec).__name__) == ("_cffi_backend", "CType")


def _cffi_layout(ctype: Any) -> _Layout:
    problem = _cffi_problem(ctype, ctype.cname)
    if problem:
        raise TypeError(problem)
    backend = importlib.import_module("_cffi_backend")
    try:
        size: int = backend.sizeof(ctype)
    except ValueError:
        raise TypeError(f"{ctype.cname} has no size: it was declared, but its fields were not") from None
    # A type does not know its ffi, and ffi.new wants a pointer type. The backend serves types of any ffi.
    is_array = ctype.kind == "array"
    owner = ctype if is_array else backend.new_pointer_type(ctype)

    def one(data: bytes | memoryview) -> Any:
        value = backend.newp(owner)
        backend.memmove(value, data, size)
        return value if is_array else value[0]  # value[0] of a structure keeps the memory alive

    def many(data: bytes) -> list[Any]:
        view = memoryview(data)
        return [one(view[at : at + size]) for at in range(0, len(data), size)]

    return _Layout(size, one, many)


def _cffi_problem(ctype: Any, where: str) -> str | None:
    """Return why this type cannot describe the target's memory, or None. `where` names it in the answer."""
    kind = ctype.kind
    if kind == "primitive":
        if ctype.cname in _FIXED_C_NAMES:
            return None
        advice = _C_ADVICE.get(ctype.cname, _C_WORD_ADVICE)
        return (
            f"{where} has the size of the host's {ctype.cname}: declare it {advice} (see kdmp.wintypes.ffi)"
        )
    if kind == "array":
        if ctype.length is None:
            return f"{where} is an array without a length: declare how many items it has"
        return _cffi_problem(ctype.item, f"{where}[]" if where != ctype.cname else where)
    if kind in ("struct", "union"):
        for name, field in ctype.fields or ():
            problem = _cffi_problem(field.type, f"{where}.{name}" if name else where)
            if problem:
                return problem
        return None
    if kind == "enum":
        if importlib.import_module("_cffi_backend").sizeof(ctype) == 4:
            return None
        return f"{where} is an enum that is not 32 bits here, as it is in Windows: declare the field LONGLONG"
    if kind in ("pointer", "function"):
        return f"{where} is a pointer of the host: declare it POINTER64 or POINTER32 (see kdmp.wintypes.ffi)"
    return f"{where} is {kind}, which is not plain memory"
