# SPDX-License-Identifier: MIT
"""The Windows base types with their Windows sizes, whatever the host: for ctypes, and as `ffi()` for cffi.

Take types from here, not from `ctypes.wintypes`, whose `DWORD` and `LONG` are `unsigned long` and `long`:
32 bits on Windows, but 64 on Linux and macOS, where a structure built of them reads the wrong bytes.

Pointers in a dump point into the dump, so here they are unsigned integers of the target's width, suffixed
32 (x86 and WoW64) or 64, never host pointers. Structures whose size depends on the pointer exist twice, and
every byte of padding is a field of its own, so that no compiler's alignment rules matter.

Sources: [MS-DTYP] 2.2 (base types) and 2.3 (GUID, UNICODE_STRING); `ntdef.h`, `basetsd.h` and
`wdm.h` of the WDK (LIST_ENTRY, LARGE_INTEGER, CLIENT_ID); public symbols of ntoskrnl for EX_FAST_REF.
"""

import ctypes
import importlib
from typing import Any, Literal, Self
from uuid import UUID

__all__ = [
    "BOOL",
    "BOOLEAN",
    "BYTE",
    "CDEF",
    "CHAR",
    "CLIENT_ID32",
    "CLIENT_ID64",
    "DWORD",
    "DWORD64",
    "EX_FAST_REF64",
    "GUID",
    "HANDLE32",
    "HANDLE64",
    "LARGE_INTEGER",
    "LIST_ENTRY32",
    "LIST_ENTRY64",
    "LONG",
    "LONG64",
    "LONGLONG",
    "NTSTATUS",
    "POINTER32",
    "POINTER64",
    "PVOID32",
    "PVOID64",
    "SHORT",
    "SINGLE_LIST_ENTRY32",
    "SINGLE_LIST_ENTRY64",
    "SIZE_T32",
    "SIZE_T64",
    "STRING32",
    "STRING64",
    "UCHAR",
    "ULARGE_INTEGER",
    "ULONG",
    "ULONG64",
    "ULONGLONG",
    "ULONG_PTR32",
    "ULONG_PTR64",
    "UNICODE_STRING32",
    "UNICODE_STRING64",
    "USHORT",
    "WCHAR",
    "WORD",
    "ffi",
]

BYTE = UCHAR = BOOLEAN = ctypes.c_uint8  # BOOLEAN is one byte, BOOL is four
CHAR = ctypes.c_char
USHORT = WORD = ctypes.c_uint16
SHORT = ctypes.c_int16
WCHAR = ctypes.c_uint16  # a UTF-16 unit; bytes(field).decode("utf-16-le") makes text of an array
ULONG = DWORD = ctypes.c_uint32
LONG = BOOL = NTSTATUS = ctypes.c_int32
ULONGLONG = ULONG64 = DWORD64 = ctypes.c_uint64
LONGLONG = LONG64 = ctypes.c_int64
POINTER32 = PVOID32 = HANDLE32 = SIZE_T32 = ULONG_PTR32 = ctypes.c_uint32
POINTER64 = PVOID64 = HANDLE64 = SIZE_T64 = ULONG_PTR64 = ctypes.c_uint64


class _LargeParts(ctypes.LittleEndianStructure):
    _fields_ = [("LowPart", ULONG), ("HighPart", LONG)]


class _UlargeParts(ctypes.LittleEndianStructure):
    _fields_ = [("LowPart", ULONG), ("HighPart", ULONG)]


class LARGE_INTEGER(ctypes.LittleEndianUnion):
    """64 signed bits, whole (`QuadPart`) or in halves. System times count 100 ns since 1601 in one."""

    _anonymous_ = ("u",)
    _fields_ = [("u", _LargeParts), ("QuadPart", LONGLONG)]


class ULARGE_INTEGER(ctypes.LittleEndianUnion):
    """64 unsigned bits, whole (`QuadPart`) or in halves."""

    _anonymous_ = ("u",)
    _fields_ = [("u", _UlargeParts), ("QuadPart", ULONGLONG)]


class LIST_ENTRY32(ctypes.LittleEndianStructure):
    """A link of a doubly linked ring in a 32-bit address space. `Flink` is next, `Blink` previous."""

    _fields_ = [("Flink", POINTER32), ("Blink", POINTER32)]


class LIST_ENTRY64(ctypes.LittleEndianStructure):
    """A link of a doubly linked ring in a 64-bit address space. `Flink` is next, `Blink` previous."""

    _fields_ = [("Flink", POINTER64), ("Blink", POINTER64)]


class SINGLE_LIST_ENTRY32(ctypes.LittleEndianStructure):
    """A link of a singly linked list in a 32-bit address space."""

    _fields_ = [("Next", POINTER32)]


class SINGLE_LIST_ENTRY64(ctypes.LittleEndianStructure):
    """A link of a singly linked list in a 64-bit address space."""

    _fields_ = [("Next", POINTER64)]


class UNICODE_STRING32(ctypes.LittleEndianStructure):
    """A counted UTF-16 string in a 32-bit address space. Lengths count bytes, without a terminator."""

    _fields_ = [("Length", USHORT), ("MaximumLength", USHORT), ("Buffer", POINTER32)]


class UNICODE_STRING64(ctypes.LittleEndianStructure):
    """A counted UTF-16 string in a 64-bit address space. Lengths count bytes, without a terminator."""

    _fields_ = [("Length", USHORT), ("MaximumLength", USHORT), ("Padding", ULONG), ("Buffer", POINTER64)]


class STRING32(ctypes.LittleEndianStructure):
    """A counted string of bytes (ANSI_STRING, OEM_STRING) in a 32-bit address space."""

    _fields_ = [("Length", USHORT), ("MaximumLength", USHORT), ("Buffer", POINTER32)]


class STRING64(ctypes.LittleEndianStructure):
    """A counted string of bytes (ANSI_STRING, OEM_STRING) in a 64-bit address space."""

    _fields_ = [("Length", USHORT), ("MaximumLength", USHORT), ("Padding", ULONG), ("Buffer", POINTER64)]


class CLIENT_ID32(ctypes.LittleEndianStructure):
    """Process and thread id of a thread (`_ETHREAD.Cid`) in a 32-bit address space."""

    _fields_ = [("UniqueProcess", HANDLE32), ("UniqueThread", HANDLE32)]


class CLIENT_ID64(ctypes.LittleEndianStructure):
    """Process and thread id of a thread (`_ETHREAD.Cid`) in a 64-bit address space."""

    _fields_ = [("UniqueProcess", HANDLE64), ("UniqueThread", HANDLE64)]


class EX_FAST_REF64(ctypes.LittleEndianUnion):
    """A pointer to a 16-byte aligned object whose low four bits count references that were taken ahead.

    `Value` is both together, `RefCnt` the count (0 to 15) and `pointer` the object's address. Found for
    instance in `_EPROCESS.Token`. (32-bit kernels use three bits of 32.)
    """

    _fields_ = [("Value", ULONGLONG), ("RefCnt", ULONGLONG, 4)]

    @property
    def pointer(self) -> int:
        """The address of the object, without the reference count."""
        return int(self.Value) & ~0xF


class GUID(ctypes.LittleEndianStructure):
    """A globally unique identifier. The first three parts are numbers, so their bytes lie reversed."""

    _fields_ = [("Data1", ULONG), ("Data2", USHORT), ("Data3", USHORT), ("Data4", UCHAR * 8)]

    @property
    def uuid(self) -> UUID:
        """The same identifier as a `uuid.UUID`; `str` of it is what debuggers show between braces."""
        return UUID(bytes_le=bytes(self))

    @classmethod
    def from_uuid(cls, value: UUID) -> Self:
        """Return the GUID of a `uuid.UUID`."""
        return cls.from_buffer_copy(value.bytes_le)


CDEF = """
typedef uint8_t BYTE, UCHAR, BOOLEAN;
typedef char CHAR;
typedef uint16_t USHORT, WORD;
typedef int16_t SHORT;
typedef char16_t WCHAR;
typedef uint32_t ULONG, DWORD;
typedef int32_t LONG, BOOL, NTSTATUS;
typedef uint64_t ULONGLONG, ULONG64, DWORD64;
typedef int64_t LONGLONG, LONG64;
typedef uint32_t POINTER32, PVOID32, HANDLE32, SIZE_T32, ULONG_PTR32;
typedef uint64_t POINTER64, PVOID64, HANDLE64, SIZE_T64, ULONG_PTR64;

typedef union _LARGE_INTEGER {
    struct { ULONG LowPart; LONG HighPart; };
    LONGLONG QuadPart;
} LARGE_INTEGER;
typedef union _ULARGE_INTEGER {
    struct { ULONG LowPart; ULONG HighPart; };
    ULONGLONG QuadPart;
} ULARGE_INTEGER;
typedef struct _LIST_ENTRY32 { POINTER32 Flink; POINTER32 Blink; } LIST_ENTRY32;
typedef struct _LIST_ENTRY64 { POINTER64 Flink; POINTER64 Blink; } LIST_ENTRY64;
typedef struct _SINGLE_LIST_ENTRY32 { POINTER32 Next; } SINGLE_LIST_ENTRY32;
typedef struct _SINGLE_LIST_ENTRY64 { POINTER64 Next; } SINGLE_LIST_ENTRY64;
typedef struct _STRING32 { USHORT Length; USHORT MaximumLength; POINTER32 Buffer; } STRING32;
typedef struct _STRING64 { USHORT Length; USHORT MaximumLength; ULONG Padding; POINTER64 Buffer; } STRING64;
typedef struct _UNICODE_STRING32 { USHORT Length; USHORT MaximumLength; POINTER32 Buffer; } UNICODE_STRING32;
typedef struct _UNICODE_STRING64 {
    USHORT Length; USHORT MaximumLength; ULONG Padding; POINTER64 Buffer;
} UNICODE_STRING64;
typedef struct _CLIENT_ID32 { HANDLE32 UniqueProcess; HANDLE32 UniqueThread; } CLIENT_ID32;
typedef struct _CLIENT_ID64 { HANDLE64 UniqueProcess; HANDLE64 UniqueThread; } CLIENT_ID64;
typedef union _EX_FAST_REF64 { ULONGLONG Value; ULONGLONG RefCnt : 4; } EX_FAST_REF64;
typedef struct _GUID { ULONG Data1; USHORT Data2; USHORT Data3; UCHAR Data4[8]; } GUID;
"""
"""The types of this module as C declarations, for `cffi.FFI.cdef` (and without needing cffi)."""

_BY_POINTER = [
    *("PVOID", "HANDLE", "SIZE_T", "ULONG_PTR", "LIST_ENTRY", "SINGLE_LIST_ENTRY"),
    *("STRING", "UNICODE_STRING", "CLIENT_ID"),
]


def ffi(*, pointer_size: Literal[4, 8] = 8) -> Any:
    """Return a new `cffi.FFI` that knows the Windows types, ready for structures of your own.

    `pointer_size`, in bytes, is the dump's (`Reader.pointer_size`): it decides what the names without a
    suffix are (`PVOID`, `HANDLE`, `SIZE_T`, `ULONG_PTR`, `LIST_ENTRY`, `SINGLE_LIST_ENTRY`, `STRING`,
    `UNICODE_STRING`, `CLIENT_ID`). Write `PVOID` or `POINTER64` where the Windows header has a `T *`.

    Write `LONG` and `ULONG` where it has `long` and `unsigned long`: those are 32 bits in Windows, but cffi
    makes them as wide as the host's, 64 bits on Linux, so `read_struct` refuses them.

    Raises `ImportError` without cffi, `ValueError` for another pointer size.

    >>> c = ffi()
    >>> c.cdef("struct module { LIST_ENTRY links; PVOID base; ULONG size; };")
    >>> c.sizeof("struct module")
    32
    """
    if pointer_size not in (4, 8):
        raise ValueError(f"pointer_size must be 4 or 8 bytes, not {pointer_size!r}")
    try:
        cffi = importlib.import_module("cffi")
    except ImportError as exc:
        raise ImportError("C declarations need cffi: install kdmp[cffi]") from exc
    result = cffi.FFI()
    result.cdef(CDEF)
    bits = pointer_size * 8
    result.cdef("".join(f"typedef {name}{bits} {name};" for name in _BY_POINTER))
    return result
