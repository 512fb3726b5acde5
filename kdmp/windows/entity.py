"""What the things of Windows (processes, threads, modules ...) have in common.

An entity is an address and properties that are read when they are first asked for. A property whose memory
is not in the dump, or whose field no symbols know, is None, and `problems` says why: a missing page costs
one property, never a list.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

from kdmp._kdmp import KdmpError

if TYPE_CHECKING:
    from kdmp.windows.session import Windows

__all__ = ["Entity", "Listing", "Problem", "fact"]

T = TypeVar("T")
E = TypeVar("E", bound="Entity")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was lost or is wrong: `what` (a property or a list), `why`, and the `address` if one is
    to blame."""

    what: str
    why: str
    address: int | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)


class fact(Generic[T]):  # noqa: N801 - used as a decorator
    """A property of an Entity, read once; None, and a Problem, when memory or symbols are missing."""

    def __init__(self, read: Callable[[Any], T | None]) -> None:
        self._read = read
        self._name = read.__name__
        self.__doc__ = read.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, entity: None, owner: type) -> Self: ...
    @overload
    def __get__(self, entity: "Entity", owner: type) -> T | None: ...
    def __get__(self, entity: "Entity | None", owner: type) -> Self | T | None:
        if entity is None:
            return self
        try:
            value = self._read(entity)
        except (KdmpError, OverflowError) as error:
            entity.note(self._name, error)
            value = None
        entity.__dict__[self._name] = value  # the next access does not come here
        return value


class Entity:
    """Base of what Windows keeps a structure of. `address` is that structure's; `int()` gives it, too."""

    # Names of the facts that to_dict(), str() and examine() go through, and the columns of a Listing.
    FACTS: ClassVar[tuple[str, ...]] = ()
    COLUMNS: ClassVar[tuple[str, ...]] = ()
    # Names whose numbers people read in hexadecimal.
    HEX: ClassVar[frozenset[str]] = frozenset({"address"})

    def __init__(self, windows: "Windows", address: int) -> None:
        self.windows = windows
        self.address = address
        self._problems: list[Problem] = []

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was lost or looked wrong, of the properties read so far; `examine` reads all."""
        return tuple(self._problems)

    def note(self, what: str, why: object, address: int | None = None) -> None:
        """Add to `problems`."""
        if address is None:
            address = getattr(why, "va", None)
        problem = Problem(what, str(why), address)
        if problem not in self._problems:
            self._problems.append(problem)

    def examine(self) -> tuple[Problem, ...]:
        """Read every property and return the problems."""
        for name in self.FACTS:
            getattr(self, name)
        return self.problems

    def __int__(self) -> int:
        return self.address

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.address == other.address and self.windows is other.windows

    def __hash__(self) -> int:
        return hash((type(self), self.address))

    def __repr__(self) -> str:
        try:
            return self._brief()
        except (ValueError, OSError):  # the dump is closed or lost
            return f"<{type(self).__name__} at {self.address:#x}>"

    def _brief(self) -> str:
        """What `repr` shows while the dump is open."""
        return f"<{type(self).__name__} at {self.address:#x}>"

    def __reduce__(self) -> Any:
        name = type(self).__name__
        raise TypeError(f"a {name} cannot be pickled: it is a place in a dump. Pickle its to_dict()")

    def __str__(self) -> str:
        width = max((len(name) for name in self.FACTS), default=0)
        lines = [f"{name:<{width}}  {self.show(name)}".rstrip() for name in self.FACTS]
        return "\n".join([repr(self), *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(self.show(name))}</td></tr>" for name in self.FACTS
        )
        return f"<table>{rows}</table>"

    def show(self, name: str) -> str:
        """Return a property as text: addresses in hexadecimal, "" for None."""
        return show(getattr(self, name), hexadecimal=name in self.HEX)

    def to_dict(self) -> dict[str, Any]:
        """Return the properties as plain Python values: numbers, text, datetimes, lists, None."""
        return {"address": self.address} | {
            name: plain(getattr(self, name)) for name in self.FACTS if name != "address"
        }


def show(value: Any, *, hexadecimal: bool = False) -> str:
    """Return a value as people read it in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, int) and hexadecimal:
        return hex(value)
    if isinstance(value, Entity):
        return hex(value.address)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, (list, tuple)):
        return ", ".join(show(item, hexadecimal=hexadecimal) for item in value)
    return str(value)


def plain(value: Any) -> Any:
    """Return a value as plain Python data."""
    if isinstance(value, Entity):
        return value.address
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, int) and type(value) not in (int, bool):
        return int(value)
    return value


class Listing(list[E]):
    """A list of entities with `problems`: what the list lost, and how it was put together."""

    def __init__(
        self, items: Iterable[E] = (), problems: Iterable[Problem] = (), kind: type[Entity] | None = None
    ) -> None:
        super().__init__(items)
        self.problems: tuple[Problem, ...] = tuple(problems)
        self._kind = kind

    @property
    def columns(self) -> tuple[str, ...]:
        """The properties that `str()` shows."""
        kind = self._kind or (type(self[0]) if self else Entity)
        return kind.COLUMNS or kind.FACTS or ("address",)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the items' `to_dict()`."""
        return [item.to_dict() for item in self]

    def to_frame(self, columns: Sequence[str] | None = None) -> Any:
        """Return a pandas.DataFrame, a row an item; `columns` chooses properties (default: all of FACTS).

        ImportError without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("data frames need pandas: install kdmp[pandas]") from error
        kind = self._kind or (type(self[0]) if self else Entity)
        names = tuple(columns or dict.fromkeys(("address", *kind.FACTS)))
        rows = [[plain(getattr(item, name)) for name in names] for item in self]
        return pandas.DataFrame(rows, columns=list(names))

    def _cells(self) -> list[list[str]]:
        return [[item.show(name) for name in self.columns] for item in self]

    def __str__(self) -> str:
        rows = [list(self.columns), *self._cells()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(self.columns))]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([*lines, *(f"({problem})" for problem in self.problems)])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._cells()
        )
        notes = "".join(f"<p>{escape(str(problem))}</p>" for problem in self.problems)
        return f"<table><tr>{head}</tr>{body}</table>{notes}"
