"""For which reads faults are collected: a stack of scopes in each context.

Apart from faults.py since every function that reads for its own purposes needs `uncollected`; what faults are
is only needed where they are collected, and costs half as much to import as all the rest.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from functools import wraps

from kdmp._kdmp import _fault_collector

TYPE_CHECKING = False  # see dump.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    from kdmp._kdmp import DumpBase

    P = ParamSpec("P")
    T = TypeVar("T")


class Scope:
    """Something that is in force for a while in this context; inside it others may be."""

    _outer: Scope | None = None
    _open = False

    def _enter(self) -> None:
        self._outer = _innermost()
        self._open = True
        _fault_collector.set(self)

    def _leave(self) -> None:
        # Scopes of generators may end in another order than they began, or in another context.
        self._open = False
        _fault_collector.set(_innermost())

    def _collects(self, dump: DumpBase) -> bool:
        """Whether what reads of this dump do not find is for this scope."""
        return False

    def _sink(self, dump: DumpBase) -> Scope | None:
        """The collector of this dump's faults; called by the extension on the innermost scope."""
        scope: Scope | None = self
        while scope is not None:
            if scope._open:
                if isinstance(scope, Pause):
                    return None
                if scope._collects(dump):
                    return scope
            scope = scope._outer
        return None


class Pause(Scope):
    """A time in which nothing is collected."""


def _innermost() -> Scope | None:
    scope: Scope | None = _fault_collector.get()
    while scope is not None and not scope._open:
        scope = scope._outer
    return scope


def uncollected(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function be as without a collector: its reads raise, and nothing is recorded.

    For code that reads memory for its own purposes and knows what to do about holes.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if _fault_collector.get() is None:
            return function(*args, **kwargs)
        pause = Pause()
        pause._enter()
        try:
            return function(*args, **kwargs)
        finally:
            pause._leave()

    return call
