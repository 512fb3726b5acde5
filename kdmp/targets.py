"""Files that bytes are written to: under a temporary name until they are complete, and with holes.

SPDX-License-Identifier: MIT
"""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from kdmp._kdmp import DumpBase

__all__ = ["Target", "Writable", "appearing", "target", "write_all"]

Writable: TypeAlias = str | os.PathLike[str] | BinaryIO
"""Where to write to: a path, or a binary file object."""

_FILLER = 1 << 20  # bytes of a gap that are written at a time where there can be no hole
_NAMES = 100


def write_all(file: Any, data: memoryview) -> None:
    """Write all of `data`; an unbuffered file may take less at a time."""
    while len(data):
        written = file.write(data)
        if not written:
            raise BlockingIOError("the file object did not accept all bytes")
        data = data[written:]


@contextlib.contextmanager
def appearing(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[io.FileIO]:
    """Open a file for writing that has its name only when the block has ended well; else nothing is left.

    It is written under a temporary name in the same folder. Without `overwrite` FileExistsError if `path`
    exists, before anything is written, and again at the end. What is no regular file (a device, a pipe) is
    written to as it is.
    """
    name = os.fsdecode(path)
    if _is_special(name):
        with open(name, "wb", buffering=0) as file:
            yield file
        return
    if not overwrite:
        _refuse_existing(name)
    file = _open_part(name)
    try:
        with file:
            yield file
        _give_name(str(file.name), name, overwrite)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(str(file.name))
        raise


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _refuse_existing(path: str) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _open_part(path: str) -> io.FileIO:
    for number in range(_NAMES):
        part = f"{path}.{os.getpid()}{f'-{number}' if number else ''}.part"
        try:
            return open(part, "xb", buffering=0)
        except FileExistsError:
            if number + 1 == _NAMES:
                raise
    raise AssertionError


def _give_name(part: str, path: str, overwrite: bool) -> None:
    if overwrite:
        os.replace(part, path)
        return
    try:
        os.link(part, path)  # fails if somebody else made the file meanwhile
    except FileExistsError:
        raise
    except (OSError, AttributeError):  # no links on this file system
        _refuse_existing(path)
        os.rename(part, path)
    else:
        os.unlink(part)


class Target:
    """A file that gets bytes, and gaps between them, one after another from where it stands.

    `size` counts both. Gaps are holes, which cost no room, with `sparse` and `fill` 0 if that is possible: at
    the end of a regular file.
    """

    def __init__(self, file: Any, *, fill: int = 0, sparse: bool = True) -> None:
        self.size = 0
        self._file = file
        self._filler = memoryview(bytes([fill]) * _FILLER)
        self._end = _end_of(file) if sparse and not fill else None

    @property
    def sparse(self) -> bool:
        """Whether gaps are holes."""
        return self._end is not None

    def write(self, data: memoryview) -> None:
        """Write bytes."""
        write_all(self._file, data)
        self._add(len(data))

    def skip(self, size: int) -> Iterator[int]:
        """Leave a gap; yields the bytes left out so far as the work goes on."""
        if self._end is not None:
            end = self._end + size
            try:
                self._file.truncate(end)
                self._file.seek(end)
            except OverflowError as error:  # beyond what an offset can be
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG)) from error
            self._add(size)
            yield size
            return
        for at in range(0, size, _FILLER):
            count = min(_FILLER, size - at)
            self.write(self._filler[:count])
            yield at + count

    def _add(self, size: int) -> None:
        self.size += size
        if self._end is not None:
            self._end += size


def _end_of(file: Any) -> int | None:
    """Where a regular file stands if that is its end, else None."""
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or not file.seekable():
            return None
        at = int(file.tell())
        end = int(file.seek(0, 2))
        if at != end:
            file.seek(at)
            return None
    except (OSError, AttributeError, TypeError, ValueError):  # io.UnsupportedOperation is of two of them
        return None
    return end


@contextlib.contextmanager
def target(
    where: Writable, dump: "DumpBase", *, fill: int = 0, sparse: bool = True, overwrite: bool = False
) -> Iterator[Target]:
    """Open what a user wants written to: see `appearing` for a path; a file object stays open.

    ValueError if it is the dump itself, or a file that belongs to it.
    """
    refuse_source(where, dump)
    if not isinstance(where, str | os.PathLike):
        yield Target(where, fill=fill, sparse=sparse)
        return
    with appearing(where, overwrite=overwrite) as file:
        yield Target(file, fill=fill, sparse=sparse)


def refuse_source(where: Any, dump: "DumpBase") -> None:
    """Raise ValueError if `where` is a file that `dump` is read from."""
    unpacked = getattr(dump, "_unpacked", None)
    sources = [getattr(dump, "_source", None), getattr(unpacked, "source", None)]
    sources += getattr(dump, "_pagefiles", None) or []
    identity = _identity(where)
    for source in sources:
        if source is None:
            continue
        if source is where or (identity is not None and identity == _identity(source)):
            raise ValueError(f"{where!r} is the dump itself, or belongs to it")


def _identity(file: Any) -> tuple[int, int] | None:
    """What tells a file from others; None for what is no file, or is not there."""
    try:
        status = os.stat(file) if isinstance(file, str | os.PathLike) else os.fstat(file.fileno())
    except (OSError, AttributeError, TypeError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None
