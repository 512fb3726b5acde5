"""Opening dumps that are packed: gzip, xz, bzip2, zstd, zip, cabinets, and DumpIt's zdmp.

    from kdmp.packed import unpack

    with unpack("MEMORY.DMP.gz") as unpacked:
        dump = kdmp.open(unpacked.source)

What is small stays in memory, the rest goes to a temporary file that lives as long as the `Unpacked`.
One module per container knows its layout; the decompressors are the standard library's, but for
LZNT1, which only Windows and its dumps use.

SPDX-License-Identifier: MIT
"""

import contextlib
import errno
import io
import ntpath
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, Self

from kdmp._kdmp import DumpBase, FormatError, KdmpError, UnsupportedDumpError, WrongFileError
from kdmp.packed.cab import CabArchive
from kdmp.packed.common import (
    CHUNK,
    SIGNATURE_SIZE,
    Archive,
    Damage,
    Feed,
    Input,
    Member,
    NotSupported,
    container_of,
    feed_of,
    read_exactly,
)
from kdmp.packed.streams import stream_chunks
from kdmp.packed.zdmp import zdmp_chunks
from kdmp.packed.zips import ZipArchive

__all__ = ["SIGNATURE_SIZE", "Unpacked", "container_of", "unpack"]

_MAX_DEPTH = 3
# What is unpacked without being told otherwise: 512 bytes of bzip2 stand for as many MiB as one likes.
_ALWAYS_ALLOWED = 8 << 30  # bytes, however small the packed file is
_MAX_RATIO = 256  # more for a larger file, but not more than this
_MAX_UNPACKED = 1 << 40
_HEAD_SIZE = 64
_REPORT_EVERY = 1 << 20  # unpacked bytes between two calls of the progress callback

# What may come out: kernel dumps, and ELF cores of virtual machines.
_WANTED = (b"PAGEDU64", b"PAGEDUMP", b"\x7fELF")

_ARCHIVES: dict[str, Callable[[Input], Archive]] = {"zip": ZipArchive, "cab": CabArchive}


class Unpacked:
    """What was in a packed file: `source` can be opened like any dump.

    `source` is the content as bytes if it was small, else the path of a temporary file, which `close`
    removes, as do garbage collection and the end of the interpreter. `size` is its size in bytes.
    `name` is the name of the file inside, None if there is none. `container` is the outermost
    container and `containers` all of them, from outside in, such as ("zip", "gzip").

    `truncated` tells that the packed data ended early or was damaged, and `problem` how, in words;
    what came before is in `source`.
    """

    source: bytes | str
    size: int
    name: str | None
    containers: tuple[str, ...]
    truncated: bool
    problem: str | None

    def __init__(
        self, sink: "_Sink", name: str | None, containers: tuple[str, ...], problem: str | None
    ) -> None:
        self._sink = sink
        self.source = sink.take()
        self.size = sink.size
        self.name = name
        self.containers = containers
        self.truncated = problem is not None
        self.problem = problem

    @property
    def container(self) -> str:
        """The outermost container, one of the names that `container_of` returns."""
        return self.containers[0]

    def close(self) -> None:
        """Remove the temporary file, if there is one. Open mappings of it stay valid."""
        self._sink.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "in memory" if isinstance(self.source, bytes) else f"at {self.source!r}"
        name = f" {self.name!r}" if self.name else ""
        return (
            f"<kdmp.Unpacked{name} from {' in '.join(reversed(self.containers))}, {self.size} bytes {where}>"
        )


def _remove(path: str, pid: int) -> None:
    # A forked child inherits the finalizer but not the file.
    if os.getpid() == pid:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


class _Sink:
    """Takes the unpacked bytes: in memory up to a limit, then in a temporary file."""

    def __init__(self, memory_limit: int, max_size: int, directory: str | None) -> None:
        self._memory_limit = memory_limit
        self._max_size = max_size
        self._directory = directory
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._path: str | None = None
        self._finalizer: weakref.finalize[[str, int], _Sink] | None = None
        self.size = 0

    def write(self, data: bytes) -> None:
        if len(data) > self._max_size - self.size:
            raise FormatError(
                f"the file unpacks to more than the limit of {self._max_size} bytes (max_size of "
                "kdmp.packed.unpack)"
            )
        self.size += len(data)
        if self._file is None and self.size < self._memory_limit:
            self._buffer += data
            return
        if self._file is None:
            self._file = self._start_file()
            self._file.write(self._buffer)
            self._buffer.clear()
        if data.count(0) == len(data):
            self._file.seek(len(data), os.SEEK_CUR)  # zeros need no room on the disk
        else:
            self._file.write(data)

    def _start_file(self) -> BinaryIO:
        descriptor, path = tempfile.mkstemp(prefix="kdmp-", suffix=".dmp", dir=self._directory)
        self._path = path
        self._finalizer = weakref.finalize(self, _remove, path, os.getpid())
        return open(descriptor, "wb")

    def finish(self) -> None:
        """Complete the file."""
        if self._file is not None:
            with self._file:
                self._file.truncate(self.size)
            self._file = None

    def take(self) -> bytes | str:
        """Return the finished content, or the path of the file with it."""
        if self._path is not None:
            return self._path
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def discard(self) -> None:
        """Give up: close and remove the file."""
        if self._file is not None:
            # Whatever is left in its buffer need not be written.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if self._finalizer is not None:
            self._finalizer()

    def reopen(self) -> BinaryIO:
        """Return the finished content as a file."""
        return io.BytesIO(self._buffer) if self._path is None else open(self._path, "rb")


class _Job:
    """One call of `unpack`: the options, and what has been found on the way in."""

    def __init__(
        self,
        source: Input,
        make_sink: Callable[[], _Sink],
        stack: contextlib.ExitStack,
        member: str | None,
        any_content: bool,
    ) -> None:
        self.input = source
        self.make_sink = make_sink
        self.stack = stack
        self.member = member
        self.any_content = any_content
        self.name: str | None = None
        self.containers: list[str] = []
        self.problem: str | None = None

    def open(self, kind: str, file: Input | None, read: Feed) -> Iterator[bytes]:
        """Return the innermost content of a container, whose bytes are in `file` or else in `read`."""
        if len(self.containers) == _MAX_DEPTH:
            raise UnsupportedDumpError(
                f"{' in '.join(reversed([*self.containers, kind]))}: "
                f"more than {_MAX_DEPTH} containers inside each other are not unpacked"
            )
        self.containers.append(kind)
        if kind in _ARCHIVES:
            archive = _ARCHIVES[kind](file or self._spool(read))
            member = self._choose(archive, kind)
            self.name = member.name
            chunks = archive.chunks(member)
        else:
            self.name = _without_suffix(self.name)
            chunks = zdmp_chunks(read) if kind == "zdmp" else stream_chunks(kind, read)
        return self._look_inside(chunks, kind)

    def _look_inside(self, chunks: Iterator[bytes], kind: str) -> Iterator[bytes]:
        feed = feed_of(chunks)
        head, damage = b"", None
        try:
            while len(head) < _HEAD_SIZE and (more := feed(_HEAD_SIZE - len(head))):
                head += more
        except Damage as exc:
            damage = exc
        rest = _feed_behind(head, feed, damage)
        inner = container_of(head)
        if inner is not None:
            return self.open(inner, None, rest)
        if not self.any_content and not head.startswith(_WANTED):
            if damage is not None:
                raise damage
            raise WrongFileError(f"in the {kind} file: {_what_else(head)}")
        if self.member is not None:
            raise KdmpError(f"member={self.member!r} is for zip archives and cabinets; this is {kind}")
        return iter(lambda: rest(CHUNK), b"")

    def _spool(self, read: Feed) -> Input:
        """Unpack a container that cannot be read front to back, for reading it from anywhere."""
        sink = self.make_sink()
        self.stack.callback(sink.discard)
        try:
            while data := read(_REPORT_EVERY):
                sink.write(data)
                self.input.report()
        except Damage as exc:
            self.problem = str(exc)  # which need not concern the member that is wanted
        sink.finish()
        return Input(self.stack.enter_context(sink.reopen()), None)

    def _choose(self, archive: Archive, kind: str) -> Member:
        """Return the member that is the dump."""
        if self.member is not None:
            wanted, self.member = self.member, None
            found = [member for member in archive.members if member.name == wanted]
            if not found:
                raise KdmpError(f"the {kind} file has no member {wanted!r}, but {_names(archive.members)}")
            return found[0]
        if not archive.members:
            raise WrongFileError(f"the {kind} file is empty")
        if len(archive.members) == 1:
            return archive.members[0]
        dumps, packed, problems = [], [], []
        for member, head in archive.heads(_HEAD_SIZE):
            if isinstance(head, Exception):
                problems.append(head)
            elif head.startswith(_WANTED):
                dumps.append(member)
            elif container_of(head) is not None:
                packed.append(member)
        found = dumps or packed or (archive.members if self.any_content else [])
        if len(found) == 1:
            return found[0]
        if found:
            raise KdmpError(
                f"the {kind} file has {len(found)} members that may be the dump: {_names(found)}; "
                "say which with member="
            )
        if problems:
            raise problems[0]
        raise WrongFileError(f"the {kind} file holds no kernel dump, only {_names(archive.members)}")


def _feed_behind(head: bytes, feed: Feed, damage: Damage | None) -> Feed:
    """Return a Feed of `head` and then of what follows it."""

    def read(size: int, /) -> bytes:
        nonlocal head
        if head:
            data, head = head[:size], head[size:]
            return data
        if damage is not None:
            raise damage
        return feed(size)

    return read


def _what_else(head: bytes) -> str:
    """Say what a file is that is no dump, in the words of the core."""
    try:
        DumpBase(head).close()
    except KdmpError as exc:
        return str(exc)
    return "not a kernel dump"


def _names(members: list[Member], limit: int = 8) -> str:
    names = ", ".join(repr(member.name) for member in members[:limit])
    return f"{names} and {len(members) - limit} more" if len(members) > limit else names


def _without_suffix(name: str | None) -> str | None:
    """Return MEMORY.DMP for MEMORY.DMP.gz, and None for a name that tells nothing."""
    base = ntpath.basename(name or "")
    stem, suffix = ntpath.splitext(base)
    if suffix.lower() in (".gz", ".xz", ".bz2", ".zst", ".zstd"):
        return stem or None
    return f"{stem}.dmp" if suffix.lower() == ".zdmp" and stem else base or None


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[BinaryIO]:
    """Give the source as a file; a file object is given back at the position it had."""
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield file
        return
    try:
        view = memoryview(source)
    except TypeError:
        position = source.seek(0, 1)
        try:
            yield source
        finally:
            source.seek(position)
    else:
        with view, view.cast("B") as data, io.BufferedReader(_Buffer(data)) as file:
            yield file


class _Buffer(io.RawIOBase):
    """A bytes-like object as a file, without a copy of it."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        start = (0, self._at, len(self._data))[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def unpack(
    source: Any,
    *,
    progress: Callable[[int, int], object] | None = None,
    memory_limit: int = 64 << 20,
    directory: str | os.PathLike[str] | None = None,
    max_size: int | None = None,
    member: str | None = None,
    any_content: bool = False,
) -> Unpacked | None:
    """Unpack a packed dump; None if `source` is no container that is known.

    `source` is a path, a binary file object that can read and seek (the container begins at offset 0; its
    position is kept), or a bytes-like object. Containers inside each other are unpacked up to a depth of
    three. Less than `memory_limit` bytes stay in memory; more go to a temporary file in `directory`
    (default: where `tempfile` puts them). More than `max_size` bytes are refused; without it, more than
    256 times the size of the packed file, where 8 GiB are always allowed and more than 1 TiB never.

    `progress(done, total)` is called now and then with bytes of packed input; an exception it raises
    ends the unpacking, and nothing stays behind.

    In an archive the dump is found by its content. `member` names it if there are several: the
    name in the outermost archive. With `any_content` what comes out need not be a dump, for memory images.

    A stream that ends early or is damaged gives what could be unpacked, if it begins as a dump does: see
    `Unpacked.truncated`.

    Raises WrongFileError if there is no dump inside, FormatError if nothing can be unpacked or too much,
    UnsupportedDumpError for what is not read (encrypted, LZX, a missing extra), KdmpError if it is
    not clear which member is meant, OSError if the input cannot be read or the disk is full.
    """
    folder = None if directory is None else os.fspath(directory)

    def make_sink() -> _Sink:
        return _Sink(memory_limit, limit, folder)

    with contextlib.ExitStack() as stack:
        reader = Input(stack.enter_context(_opened(source)), progress)
        limit = min(max(_ALWAYS_ALLOWED, _MAX_RATIO * reader.size), _MAX_UNPACKED)
        limit = limit if max_size is None else max_size
        kind = container_of(read_exactly(reader.read, SIGNATURE_SIZE))
        if kind is None:
            return None
        reader.seek(0)
        reader.begin(reader.size)
        job = _Job(reader, make_sink, stack, member, any_content)
        job.name = _file_name(source)
        sink = make_sink()
        try:
            problem = _pour(job, kind, sink)
            sink.finish()
            reader.report()
        except Damage as exc:
            sink.discard()
            earlier = f" ({job.problem})" if job.problem else ""
            raise FormatError(f"{exc}{earlier}; nothing can be unpacked") from exc
        except NotSupported as exc:
            sink.discard()
            raise UnsupportedDumpError(str(exc)) from exc
        except BaseException:
            sink.discard()
            raise
    return Unpacked(sink, job.name, tuple(job.containers), problem)


def _pour(job: _Job, kind: str, sink: _Sink) -> str | None:
    """Unpack into `sink`; return what is wrong with the packed data, None if nothing is."""
    chunks = job.open(kind, job.input, job.input.read)
    reported = -_REPORT_EVERY
    try:
        for data in chunks:
            sink.write(data)
            if sink.size - reported >= _REPORT_EVERY:
                job.input.report()
                reported = sink.size
    except Damage as exc:
        if not sink.size:
            raise
        return str(exc)
    return job.problem


def _file_name(source: Any) -> str | None:
    """Return the name of a path or of what a file object was opened by."""
    if not isinstance(source, str | os.PathLike):
        source = getattr(source, "name", None)
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else None
