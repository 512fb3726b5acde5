"""Windows' times as Python's.

SPDX-License-Identifier: MIT
"""

from datetime import UTC, datetime, timedelta

__all__ = ["filetime", "interval"]

_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def filetime(value: int | None) -> datetime | None:
    """Return a FILETIME (100 ns since 1601) as UTC; None for 0 and for what no datetime can hold."""
    if not value:
        return None
    try:
        return _FILETIME_EPOCH + timedelta(microseconds=value // 10)
    except OverflowError:
        return None


def interval(value: int | None) -> timedelta | None:
    """Return a time span in units of 100 ns; None for None and for what no timedelta can hold."""
    try:
        return None if value is None else timedelta(microseconds=value // 10)
    except OverflowError:
        return None
