"""Errors about symbols: a structure, a field or an address that no source knows.

SPDX-License-Identifier: MIT
"""

from typing import Any

from kdmp._kdmp import KdmpError


class SymbolError(KdmpError, LookupError):
    """Base of "this build's symbols do not say".

    `pdb` names the symbol file that would: "ntkrnlmp.pdb GUID-AGE", None when it is not known.
    """

    def __init__(self, message: str, pdb: str | None = None) -> None:
        super().__init__(message)
        self.pdb = pdb

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[SymbolError], args: tuple[Any, ...], state: dict[str, Any]) -> SymbolError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _told(text: str, pdb: str | None) -> str:
    return f"{text}; the symbol file is {pdb}" if pdb else text


class TypeNotFoundError(SymbolError):
    """The layout has no structure `struct`."""

    def __init__(self, struct: str, pdb: str | None = None, *, where: str = "") -> None:
        super().__init__(_told(f"no structure {struct}{where and ' in ' + where}", pdb), pdb)
        self.struct = struct


class FieldNotFoundError(SymbolError, AttributeError):
    """The structure `struct` has no field `field`, under this name or an older one.

    An AttributeError too, so that `hasattr` and `getattr` with a default work on typed objects.
    """

    def __init__(self, struct: str, field: str, pdb: str | None = None, *, where: str = "") -> None:
        super().__init__(_told(f"{struct} has no field {field}{where and ' in ' + where}", pdb), pdb)
        self.struct = struct
        self.field = field


class SymbolNotFoundError(SymbolError):
    """No address is known for the variable `symbol`."""

    def __init__(self, symbol: str, pdb: str | None = None, *, where: str = "") -> None:
        super().__init__(_told(f"no address of {symbol}{where and ': ' + where}", pdb), pdb)
        self.symbol = symbol
