"""Whether dumps are of one machine and one boot of it.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kdmp._kdmp import KdmpError
from kdmp.scopes import uncollected
from kdmp.times import filetime

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader

__all__ = ["Identity", "Mismatch", "SeriesError", "comparable", "identify", "mismatches"]

# Where Windows maps KUSER_SHARED_DATA for the kernel, and what of it counts here. Source: wdm.h; BootId is
# there from Windows 10 on, zeros before.
_KUSER = {"x64": 0xFFFFF78000000000, "arm64": 0xFFFFF78000000000, "x86": 0xFFDF0000}
_INTERRUPT_TIME, _SYSTEM_TIME, _BOOT_ID = 0x08, 0x14, 0x2C4

_ROOT_MASKS = {"x86": 0xFFFF_FFE0, "arm64": 0xFFFF_FFFF_F000}

# By so much the start of one boot may seem to move: clocks are adjusted while a machine runs.
BOOT_TIME_TOLERANCE = timedelta(minutes=2)


class SeriesError(KdmpError, ValueError):
    """Dumps that are not of one machine and boot, or not in time's order. `mismatches` has why."""

    mismatches: "tuple[Mismatch, ...]" = ()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What differs between two dumps of a series: `what`, the two values as text, and the two positions."""

    what: str
    old: str
    new: str
    first: int = 0
    second: int = 1

    def __str__(self) -> str:
        return f"{self.what}: {self.old} in dump {self.first}, {self.new} in dump {self.second}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a machine and its boot; None is not known.

    `kernel` is the identity of the kernel's PDB or image; `boot_id` is the header's, `kernel_boot_id` the
    one in KUSER_SHARED_DATA; `ram` is the list of runs (first frame, count) that the kernel keeps;
    `system_dtb` is the root of the System process. Times are the header's, else those of KUSER_SHARED_DATA.
    """

    arch: str
    build: int | None
    kernel: str | None
    kernel_base: int | None
    module_list: int | None
    process_list: int | None
    boot_id: int | None
    kernel_boot_id: int | None
    system_dtb: int | None
    ram: tuple[tuple[int, int], ...] | None
    system_time: datetime | None
    uptime: timedelta | None

    @property
    def boot_time(self) -> datetime | None:
        """When the machine was booted, as its clock was in the end."""
        if self.system_time is None or self.uptime is None:
            return None
        try:
            return self.system_time - self.uptime
        except OverflowError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that are known, times as datetimes, `uptime` in seconds."""
        facts = {name: value for name, value in asdict(self).items() if value is not None}
        if self.uptime is not None:
            facts["uptime"] = self.uptime.total_seconds()
        if self.boot_time is not None:
            facts["boot_time"] = self.boot_time
        return facts


@uncollected
def identify(dump: "Dump") -> Identity:
    """Return what is known of a dump's machine and boot; nothing is raised for what is missing."""
    kernel = dump.kernel
    image = None if kernel is None else kernel.image
    reader, shared = _shared(dump)
    system_time, uptime = dump.system_time, dump.uptime
    boot_id = None
    if reader is not None:
        boot_id = _number(reader, shared + _BOOT_ID, 4) or None
        if system_time is None:
            system_time = filetime(_number(reader, shared + _SYSTEM_TIME, 8))
        if uptime is None:
            ticks = _number(reader, shared + _INTERRUPT_TIME, 8)
            uptime = timedelta(microseconds=ticks // 10) if ticks else None
    return Identity(
        dump.arch,
        dump.build,
        None if image is None else image.symbol_id or image.image_id,
        None if image is None else image.base,
        dump.ps_loaded_module_list,
        dump.ps_active_process_head,
        dump.boot_id or None,
        boot_id,
        _system_dtb(dump),
        _ram(dump),
        system_time,
        uptime,
    )


def bare_root(dump: "Dump", root: int) -> int:
    """A page-table root without PCID, ASID and flags; of PAE they take 5 bits, and pages have many roots."""
    return root & _ROOT_MASKS.get(dump.arch, 0xF_FFFF_FFFF_F000)


def _shared(dump: "Dump") -> "tuple[Reader | None, int]":
    """A reader and where KUSER_SHARED_DATA is for it."""
    try:
        return (dump.reader(), _KUSER[dump.arch]) if dump.arch in _KUSER else (None, 0)
    except KdmpError:
        return None, 0


def _number(reader: "Reader", va: int, size: int) -> int | None:
    """A number; of a KSYSTEM_TIME (LowPart, High1Time, High2Time) the first 8 bytes are one, in 100 ns."""
    data = reader.try_read_exact(va, size)
    return None if data is None else int.from_bytes(data, "little")


def _system_dtb(dump: "Dump") -> int | None:
    from kdmp.windows.processes import process_at

    windows = dump.windows
    try:
        if not windows.has_layout:
            return None
        variable = windows.try_symbol("PsInitialSystemProcess")
        address = None if variable is None else windows.pointer(variable)
        dtb = process_at(windows, address).dtb if address else None
    except (KdmpError, OverflowError):
        return None
    return None if dtb is None else bare_root(dump, dtb) or None


def _ram(dump: "Dump") -> tuple[tuple[int, int], ...] | None:
    try:
        runs, source = dump.pfns._ram
    except (KdmpError, OverflowError):
        return None
    return None if source is None else runs


def mismatches(old: Identity, new: Identity) -> Iterator[tuple[str, str, str]]:
    """Yield what speaks against one boot of one machine, the later dump second: (what, old, new)."""
    checks: tuple[tuple[str, Any, Any, Callable[[Any], str]], ...] = (
        ("architecture", old.arch, new.arch, str),
        ("build", old.build, new.build, str),
        ("kernel", old.kernel, new.kernel, str),
        ("kernel base", old.kernel_base, new.kernel_base, hex),
        ("PsLoadedModuleList", old.module_list, new.module_list, hex),
        ("PsActiveProcessHead", old.process_list, new.process_list, hex),
        ("boot id in the header", old.boot_id, new.boot_id, str),
        ("boot id in KUSER_SHARED_DATA", old.kernel_boot_id, new.kernel_boot_id, str),
        ("page-table root of System", old.system_dtb, new.system_dtb, hex),
        ("RAM", old.ram, new.ram, _runs_text),
    )
    for what, a, b, text in checks:
        if a is not None and b is not None and a != b:
            yield what, text(a), text(b)
    a, b = old.boot_time, new.boot_time
    if (
        a is not None
        and b is not None
        and abs(a - b) > BOOT_TIME_TOLERANCE
        and not _surely_one_boot(old, new)
    ):
        yield "boot time", str(a), str(b)
    if old.uptime is not None and new.uptime is not None:
        if new.uptime < old.uptime:
            yield "order, by uptime", str(old.uptime), str(new.uptime)
    elif old.system_time is not None and new.system_time is not None and new.system_time < old.system_time:
        yield "order, by system time", str(old.system_time), str(new.system_time)


def comparable(old: Identity, new: Identity) -> bool:
    """Return whether anything but the architecture is known of both that tells machines or boots apart."""
    names = [field.name for field in fields(Identity) if field.name not in ("arch", "system_time", "uptime")]
    return any(
        getattr(old, name) is not None and getattr(new, name) is not None for name in (*names, "boot_time")
    )


def _surely_one_boot(old: Identity, new: Identity) -> bool:
    """Whether kernel base and boot id agree: then the clock was set, and it is still the same boot."""
    ids = {(old.boot_id, new.boot_id), (old.kernel_boot_id, new.kernel_boot_id)}
    same_id = any(a is not None and a == b for a, b in ids)
    return same_id and old.kernel_base is not None and old.kernel_base == new.kernel_base


def _runs_text(runs: tuple[tuple[int, int], ...]) -> str:
    shown = ", ".join(f"{first:#x}+{count:#x}" for first, count in runs[:8])
    return f"{shown} ..." if len(runs) > 8 else shown
