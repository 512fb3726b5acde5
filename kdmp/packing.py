"""Structures into bytes, the way back of `kdmp.structs`.

SPDX-License-Identifier: MIT
"""

import ctypes
import importlib
import struct
from typing import Any

from kdmp.structs import _is_cffi, _is_numpy, size_of

_Simple: Any = ctypes._SimpleCData
_CTYPES: Any = (ctypes.Structure, ctypes.Union, ctypes.Array, _Simple)


def pack(value: Any, spec: Any = None) -> bytes:
    """Return the bytes of a structure as Windows would have them in memory.

    `value` is a ctypes instance, a numpy scalar or array, or an owned cffi structure; or, with `spec`,
    whatever makes one: a tuple (or one number) for a `struct` format, the arguments of a ctypes class,
    anything that numpy turns into an array of the dtype, an initializer of a cffi type. What
    `kdmp.structs.read_struct` refuses to read, types with the size of the host, is refused here too.

    Raises TypeError for other values, ValueError (struct formats, numpy) or OverflowError (cffi) for numbers
    that do not fit.
    """
    if spec is None:
        return _plain(value)
    if isinstance(spec, str | bytes | struct.Struct):
        return _formatted(value, spec)
    if isinstance(spec, type) and issubclass(spec, _CTYPES):
        size_of(spec)  # or TypeError
        made: Any = value
        if not isinstance(value, spec):
            made = spec(*value) if isinstance(value, tuple | list) else spec(value)
        return bytes(made)
    if _is_numpy(spec):
        numpy = importlib.import_module("numpy")
        size_of(spec)
        return bytes(numpy.asarray(value, numpy.dtype(spec)).tobytes())
    if isinstance(spec, tuple) and len(spec) == 2 and hasattr(spec[0], "typeof"):
        spec = spec[0].typeof(spec[1])
    if _is_cffi(spec):
        size_of(spec)
        backend = importlib.import_module("_cffi_backend")
        owner = spec if spec.kind == "array" else backend.new_pointer_type(spec)
        return bytes(backend.buffer(backend.newp(owner, value)))
    size_of(spec)  # says what a spec may be
    raise TypeError(f"a {type(spec).__name__} describes no structure that can be written")


def _plain(value: Any) -> bytes:
    if isinstance(value, _CTYPES):
        size_of(type(value))
        return bytes(value)
    if hasattr(value, "dtype") and _is_numpy(value.dtype):
        size_of(value.dtype)
        return bytes(value.tobytes())
    if type(value).__module__ == "_cffi_backend" and "CData" in type(value).__name__:
        return _cffi_bytes(value)
    raise TypeError(
        f"a {type(value).__name__} does not tell its layout: pass a ctypes, numpy or cffi value, or a spec"
    )


def _cffi_bytes(value: Any) -> bytes:
    backend = importlib.import_module("_cffi_backend")
    kind = backend.typeof(value)
    if kind.kind in ("struct", "union"):
        size_of(kind)
        return bytes(backend.buffer(backend.newp(backend.new_pointer_type(kind), value)))
    size_of(kind.item if kind.kind == "pointer" else kind)
    return bytes(backend.buffer(value))


def _formatted(value: Any, spec: str | bytes | struct.Struct) -> bytes:
    size_of(spec)
    fmt = spec.format if isinstance(spec, struct.Struct) else spec
    if isinstance(fmt, bytes):
        fmt = fmt.decode("ascii")
    packed = struct.Struct(fmt if fmt[:1] in tuple("@=<>!") else "<" + fmt)
    try:
        return packed.pack(*(value if isinstance(value, tuple | list) else (value,)))
    except struct.error as error:
        raise ValueError(f"{value!r} is no value for the struct format {fmt!r}: {error}") from None
