"""What an examination hands back: findings, and what still works.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = ["Finding", "Report", "Severity", "shown"]


class Severity(IntEnum):
    """How bad a finding is."""

    INFO = 1
    """Good to know; nothing is lost."""
    WARNING = 2
    """Something is wrong, and results may be incomplete."""
    ERROR = 3
    """Data is missing or cannot be used."""


def shown(value: object) -> str:
    """Return an expected or found value as people read it: small numbers also decimal, bytes in hex."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value.hex(" ") if isinstance(value, bytes) else str(value)
    if -10 < value < 10:
        return str(value)
    return f"{value} ({value:#x})" if 0 < value < 1 << 31 else f"{value:#x}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is odd or wrong.

    `code` is a short name that stays the same between versions (listed in `kdmp.doctor`), `message` a
    sentence. `offset` is where in the file it shows, None if nowhere in particular. `expected` and
    `found` are the two values that disagree, None where there are none. `advice` says what can be done,
    "" for nothing.
    """

    severity: Severity
    code: str
    message: str
    offset: int | None = None
    expected: Any = None
    found: Any = None
    advice: str = ""

    def __str__(self) -> str:
        words = [f"{self.severity.name.lower()}: {self.message}"]
        if self.offset is not None:
            words.append(f"(file offset {self.offset:#x})")
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON: the severity by its name, absent ones left out."""
        facts: dict[str, Any] = {
            "severity": self.severity.name.lower(),
            "code": self.code,
            "message": self.message,
        }
        for name in ("offset", "expected", "found"):
            value = getattr(self, name)
            if value is not None:
                facts[name] = value.hex() if isinstance(value, bytes) else value
        if self.advice:
            facts["advice"] = self.advice
        return facts


@dataclass(frozen=True, slots=True)
class Report:
    """The result of examining a file.

    `dump_opens` tells whether `kdmp.open` takes it and `error`, if not, what it says. `findings` are sorted,
    worst first. `works` says in words what can be had from the file. `runs` are for a file that does
    not open: where pages still are, as `kdmp.open_raw` takes them; empty if that is not known.
    """

    dump_opens: bool
    findings: list[Finding]
    works: list[str]
    error: str | None = None
    runs: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing is at WARNING or above."""
        return all(finding.severity < Severity.WARNING for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dict for JSON."""
        facts: dict[str, Any] = {
            "dump_opens": self.dump_opens,
            "healthy": self.healthy,
            "findings": [finding.to_dict() for finding in self.findings],
            "works": list(self.works),
        }
        if self.error is not None:
            facts["error"] = self.error
        if self.runs:
            facts["runs"] = [list(run) for run in self.runs]
        return facts


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by severity; within one, keep the order."""
    return sorted(findings, key=lambda finding: -finding.severity)


def info(code: str, message: str, **more: Any) -> Finding:
    """A Finding of severity INFO."""
    return Finding(Severity.INFO, code, message, **more)


def warning(code: str, message: str, **more: Any) -> Finding:
    """A Finding of severity WARNING."""
    return Finding(Severity.WARNING, code, message, **more)


def error(code: str, message: str, **more: Any) -> Finding:
    """A Finding of severity ERROR."""
    return Finding(Severity.ERROR, code, message, **more)
