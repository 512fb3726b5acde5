"""The views of a dump: the dump as it is, number 0, and the overlays over it.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.overlay import Overlay


class Views(Mapping[int, "Dump | Overlay"]):
    """The views of a dump by number: `views[0]` is the dump, the others are overlays; `views["name"]` works
    too.

    A view that has a name lives until `destroy`, or as long as the dump; one without lives as long as
    somebody uses it. Numbers are not used again. There is no current view: a Reader belongs to the one it
    is made from.
    """

    def __init__(self, dump: "Dump") -> None:
        self._dump = dump
        self._numbers = count(1)
        self._all: WeakValueDictionary[int, Overlay] = WeakValueDictionary()
        self._named: dict[str, Overlay] = {}

    def __getitem__(self, which: SupportsIndex | str) -> "Dump | Overlay":
        if isinstance(which, str):
            return self._named[which]
        number = index(which)
        return self._dump if number == 0 else self._all[number]

    def __iter__(self) -> Iterator[int]:
        return iter([0, *sorted(self._all.keys())])

    def __len__(self) -> int:
        return 1 + len(self._all)

    def __repr__(self) -> str:
        return f"<kdmp.Views {', '.join(repr(view) for view in self.values())}>"

    def create(
        self, name: str | None = None, callback: "Callable[[Overlay, int, int], Any] | None" = None
    ) -> "Overlay":
        """Make a view and return it, as `Dump.overlay`; `callback` watches all of it (`Overlay.watch`)."""
        from kdmp.overlay import Overlay

        view = Overlay(self._dump, name)
        if callback is not None:
            view.watch(0, None, callback)
        return view

    def destroy(self, view: "SupportsIndex | str | Overlay") -> None:
        """Forget a view, its changes, snapshots and watches; readers that are left see the dump as it is.

        KeyError if there is no such view, ValueError for view 0, the dump itself.
        """
        from kdmp.overlay import Overlay

        found = self[view.view if isinstance(view, Overlay) else view]
        if not isinstance(found, Overlay):
            raise ValueError("view 0 is the dump itself: close() it")
        if isinstance(view, Overlay) and found is not view:
            raise KeyError(f"{view!r} is a view of another dump")
        self._remove(found)
        if not self._dump.closed and self._dump.lost is None:
            found.reset()

    def _add(self, overlay: "Overlay", name: str | None) -> int:
        """Give a new overlay its number; ValueError if the name is taken."""
        if name is not None:
            if name in self._named:
                raise ValueError(f"there is a view with the name {name!r}")
            self._named[name] = overlay
        number = next(self._numbers)
        self._all[number] = overlay
        return number

    def _remove(self, overlay: "Overlay") -> None:
        self._all.pop(overlay.view, None)
        if overlay.name is not None and self._named.get(overlay.name) is overlay:
            del self._named[overlay.name]
