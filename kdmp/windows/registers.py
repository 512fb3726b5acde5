"""Values of registers that may be unknown, each with where it is from.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from kdmp._kdmp import KdmpError

__all__ = ["Registers", "UnknownRegisterError"]


class UnknownRegisterError(KdmpError, LookupError):
    """The value of a register is needed, but the dump does not say it."""


class Registers(Mapping[str, int | None]):
    """Registers of a processor by lower-case name: `regs.cr3`, `regs["cr3"]`; None is "not known".

    `source(name)` says where a value is from, or why there is none. A mapping: it can be iterated, compared
    and turned into a dict.
    """

    def __init__(self, arch: str, values: Mapping[str, tuple[int | None, str]]) -> None:
        """Make it of {name: (value or None, where it is from)}. `arch` is "x64", "x86" or "arm64"."""
        self.arch = arch
        self._values = {name: value for name, (value, _) in values.items()}
        self._sources = {name: source for name, (_, source) in values.items()}

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value is from, or why it is not known, by name."""
        return MappingProxyType(self._sources)

    @property
    def known(self) -> dict[str, int]:
        """The registers whose values are known."""
        return {name: value for name, value in self._values.items() if value is not None}

    def source(self, name: str) -> str:
        """Return where the value is from, or why it is not known; KeyError for an unknown name."""
        return self._sources[self._canonical(name)]

    def require(self, name: str) -> int:
        """Return the value of a register; raises UnknownRegisterError if it is not known."""
        name = self._canonical(name)
        value = self._values[name]
        if value is None:
            raise UnknownRegisterError(f"{name} is not known: {self._sources[name]}")
        return value

    def to_dict(self) -> dict[str, int | None]:
        """Return the values by name."""
        return dict(self._values)

    def _canonical(self, name: str) -> str:
        """The name as this mapping has it; KeyError if there is none."""
        if name not in self._values:
            raise KeyError(name)
        return name

    def __getitem__(self, name: str) -> int | None:
        return self._values[self._canonical(name)]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            try:
                return self[name]
            except KeyError:
                pass
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.arch}, {len(self.known)} of {len(self)} known>"

    def __str__(self) -> str:
        width = max(map(len, self._values), default=0)
        digits = 8 if self.arch == "x86" else 16
        lines = []
        for name, value in self._values.items():
            shown = "?" * digits if value is None else f"{value:0{digits}x}"
            lines.append(f"{name:<{width}}  {shown}  {self._sources[name]}")
        return "\n".join(lines)
