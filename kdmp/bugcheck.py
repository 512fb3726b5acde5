"""The bug check of a dump: its code, its name, and its four parameters with their meaning."""
# SPDX-License-Identifier: MIT

from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from typing import Any, Self, SupportsIndex

from . import ntstatus
from .bugcheck_codes import LIVE_DUMP_CODES, NAMES
from .bugcheck_parameters import CASES, IRQL_PARAMETERS, MEANINGS, STATUS_PARAMETERS, VALUES

# Set in codes whose crash was handled by another path (BUGCHECK_..._M); the meaning stays the same.
VARIANT_BIT = 0x10000000

# First Windows 10 (version 1507): since then 0x50 uses other access codes and says the kind of fault.
_BUILD_1507 = 10240

_IRQL = {0: "PASSIVE_LEVEL", 1: "APC_LEVEL", 2: "DISPATCH_LEVEL"}
_HIGH_LEVEL = {"x86": 31, "x64": 15, "arm64": 15}


def name(code: int) -> str | None:
    """The name of a bug check code, or None if it is unknown.

    A code with bit 0x10000000 has its own name where Microsoft prints one (ending in `_M`), else that of
    the code without the bit.
    """
    return NAMES.get(code) or NAMES.get(code & ~VARIANT_BIT)


@dataclass(frozen=True, slots=True)
class BugCheckParameter:
    """One parameter of a bug check. Usable as an integer: `int(p)`, `hex(p)`.

    `value`: as stored. `name`: what the parameter is, in a few words, or None if unknown or reserved.
    `text`: the value in words when it is an enumeration, an NTSTATUS or an IRQL, else None.
    """

    value: int
    name: str | None = None
    text: str | None = None

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __str__(self) -> str:
        head = f"{self.name}: {self.value:#x}" if self.name else f"{self.value:#x}"
        return f"{head} ({self.text})" if self.text else head

    def __repr__(self) -> str:
        return f"BugCheckParameter({self.value:#x}, name={self.name!r}, text={self.text!r})"

    def to_dict(self) -> dict[str, Any]:
        """`value`, `name` and `text` as a dict for JSON."""
        return {"value": self.value, "name": self.name, "text": self.text}


@dataclass(frozen=True, slots=True)
class BugCheck:
    """Why the machine stopped: `code` as stored, its `name` (None if unknown) and four `parameters`."""

    code: int
    name: str | None
    parameters: tuple[BugCheckParameter, ...]

    @classmethod
    def from_values(
        cls,
        code: int,
        parameters: Iterable[SupportsIndex],
        *,
        build: int | None = None,
        arch: str | None = None,
    ) -> Self:
        """Make one from the raw code and the four raw parameters.

        `build` (10240 ...) and `arch` ("x64", "x86", "arm64") decide what some values mean (the access in
        0x50, IRQLs); without them only what is true for all is put into words. ValueError if there are not
        four parameters.
        """
        values = tuple(index(p) for p in parameters)
        if len(values) != 4:
            raise ValueError(f"a bug check has four parameters, not {len(values)}")
        base = code & ~VARIANT_BIT
        names = _parameter_names(base, values[0])
        return cls(
            code,
            name(code),
            tuple(
                BugCheckParameter(value, names[i], _text(base, i, value, build, arch))
                for i, value in enumerate(values)
            ),
        )

    @property
    def base_code(self) -> int:
        """The code without bit 0x10000000, as the documentation lists it."""
        return self.code & ~VARIANT_BIT

    @property
    def is_live_dump(self) -> bool:
        """True if the code marks a dump of a system that went on running, not a crash."""
        text = self.name or ""
        return self.base_code in LIVE_DUMP_CODES or "LIVEDUMP" in text or "LIVE_DUMP" in text

    def __str__(self) -> str:
        values = ", ".join(f"{p.value:#x}" for p in self.parameters)
        head = f"0x{self.code:X} {self.name}" if self.name else f"0x{self.code:X}"
        return f"{head} ({values})"

    def __repr__(self) -> str:
        return f"<BugCheck {self}>"

    def to_dict(self) -> dict[str, Any]:
        """`code`, `name`, `live_dump` and the `parameters` (a list of dicts) for JSON."""
        return {
            "code": self.code,
            "name": self.name,
            "live_dump": self.is_live_dump,
            "parameters": [p.to_dict() for p in self.parameters],
        }


def _parameter_names(base: int, first: int) -> tuple[str | None, str | None, str | None, str | None]:
    general = MEANINGS.get(base, (None, None, None, None))
    case = CASES.get((base, first))
    return general if case is None else (general[0], *case)


def _text(base: int, index: int, value: int, build: int | None, arch: str | None) -> str | None:
    """The value of one parameter in words, or None."""
    key = (base, index)
    if key == (0x50, 1):
        return _page_fault_access(value, build, arch)
    if key == (0x50, 3) and build is not None and build < _BUILD_1507:
        return None  # reserved then
    if key == (0x161, 0):
        return _ascii(value)
    if key in IRQL_PARAMETERS:
        return "HIGH_LEVEL" if value == _HIGH_LEVEL.get(arch or "") else _IRQL.get(value)
    if key in STATUS_PARAMETERS and value:
        return ntstatus.name(value)
    return VALUES.get(key, {}).get(value)


def _page_fault_access(value: int, build: int | None, arch: str | None) -> str | None:
    """Parameter 2 of 0x50, which changed in Windows 10 1507; the three schemes do not contradict."""
    if build is not None and build < _BUILD_1507:
        return {0: "read", 1: "write"}.get(value)
    arm = {0: "read", 1: "write", 8: "execute"}
    intel = {0: "read", 2: "write", 0x10: "execute"}
    if arch in ("arm64", "arm"):
        return arm.get(value)
    if arch in ("x64", "x86") and build is not None:
        return intel.get(value)
    return (arm | intel).get(value)


def _ascii(value: int) -> str | None:
    """Characters packed into an integer, first one in the highest byte (0x161: "Taskmgr")."""
    data = value.to_bytes(8, "big").lstrip(b"\0") if 0 <= value < 1 << 64 else b""
    return data.decode("ascii") if data and all(0x20 < byte < 0x7F for byte in data) else None
