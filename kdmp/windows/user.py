"""The user side of a process: PEB, process parameters with the environment; TEBs are in kdmp.windows.teb.

No symbols are needed, see kdmp.windows.userbase.

SPDX-License-Identifier: MIT
"""

from kdmp._kdmp import KdmpError
from kdmp.windows.entity import Entity, fact
from kdmp.windows.teb import TLS_SLOTS, Teb, teb
from kdmp.windows.userbase import ABI, UserProcess, UserStructure

__all__ = [
    "MAX_ENVIRONMENT",
    "TLS_SLOTS",
    "Parameters",
    "Peb",
    "Teb",
    "UserProcess",
    "UserStructure",
    "parameters",
    "peb",
    "teb",
]

MAX_ENVIRONMENT = 1 << 20
"""Bytes of an environment that are read at most."""

_VISTA = 6000  # the first build with EnvironmentSize
_NORMALIZED = 1  # RTL_USER_PROC_PARAMS_NORMALIZED: string buffers are addresses, not offsets
_CHUNK = 0x1000


class Peb(UserStructure):
    """The process environment block, of 64 or, with `width` 4, of 32 bits (WoW64)."""

    FACTS = (
        "image_base", "ldr", "parameters_address", "being_debugged", "session_id", "processors", "os_version",
        "os_build", "process_heap", "nt_global_flag",
    )  # fmt: skip
    HEX = Entity.HEX | {"image_base", "ldr", "parameters_address", "process_heap", "nt_global_flag"}

    def _at(self, name: str) -> int:
        return ABI[self.width].peb[name]

    @fact
    def image_base(self) -> int | None:
        """ImageBaseAddress: where the executable is."""
        return self._pointer(self._at("ImageBaseAddress"))

    @fact
    def ldr(self) -> int | None:
        """Address of PEB_LDR_DATA, which heads the loader's lists; 0 in a process that has not begun."""
        return self._pointer(self._at("Ldr"))

    @fact
    def parameters_address(self) -> int | None:
        """ProcessParameters: address of the RTL_USER_PROCESS_PARAMETERS."""
        return self._pointer(self._at("ProcessParameters"))

    @fact
    def being_debugged(self) -> bool | None:
        """BeingDebugged: whether a user-mode debugger is attached, as IsDebuggerPresent says."""
        return bool(self._uint(self._at("BeingDebugged"), 1))

    @fact
    def session_id(self) -> int | None:
        """SessionId: the terminal session."""
        return self._uint(self._at("SessionId"))

    @fact
    def processors(self) -> int | None:
        """NumberOfProcessors."""
        return self._uint(self._at("NumberOfProcessors"))

    @fact
    def os_version(self) -> str | None:
        """OSMajorVersion and OSMinorVersion, "10.0": what the process is told, which a shim may change."""
        return f"{self._uint(self._at('OSMajorVersion'))}.{self._uint(self._at('OSMinorVersion'))}"

    @fact
    def os_build(self) -> int | None:
        """OSBuildNumber."""
        return self._uint(self._at("OSBuildNumber"), 2)

    @fact
    def process_heap(self) -> int | None:
        """ProcessHeap: address of the default heap."""
        return self._pointer(self._at("ProcessHeap"))

    @fact
    def nt_global_flag(self) -> int | None:
        """NtGlobalFlag, the FLG_* bits of gflags."""
        return self._uint(self._at("NtGlobalFlag"))

    @property
    def parameters(self) -> "Parameters | None":
        """The process parameters; None if the pointer to them is NULL or not there."""
        va = self.parameters_address
        return Parameters(self.process, va, self.width) if va else None


class Parameters(UserStructure):
    """RTL_USER_PROCESS_PARAMETERS: how the process was started, and its environment."""

    FACTS = (
        "image_path_name", "command_line", "current_directory", "dll_path", "window_title", "desktop",
        "normalized", "environment",
    )  # fmt: skip

    def _at(self, name: str) -> int:
        return ABI[self.width].parameters[name]

    def _string(self, name: str, field: str) -> str | None:
        # Until RtlNormalizeProcessParams has run, buffers are offsets from the structure.
        base = 0 if self._uint(self._at("Flags")) & _NORMALIZED else self.address
        return self._text(name, self._at(field), base)

    @fact
    def normalized(self) -> bool | None:
        """Whether the strings' buffers are addresses (they become that early in the process's life)."""
        return bool(self._uint(self._at("Flags")) & _NORMALIZED)

    @fact
    def image_path_name(self) -> str | None:
        """ImagePathName: full path of the executable."""
        return self._string("image_path_name", "ImagePathName")

    @fact
    def command_line(self) -> str | None:
        """CommandLine, as CreateProcess was given it; the process may have changed it."""
        return self._string("command_line", "CommandLine")

    @fact
    def current_directory(self) -> str | None:
        """CurrentDirectory.DosPath, with a backslash at its end."""
        return self._string("current_directory", "CurrentDirectory")

    @fact
    def dll_path(self) -> str | None:
        """DllPath: where DLLs are looked for; None where it is made up when needed (8 and later)."""
        return self._string("dll_path", "DllPath")

    @fact
    def window_title(self) -> str | None:
        """WindowTitle of the STARTUPINFO: often the path of the shortcut."""
        return self._string("window_title", "WindowTitle")

    @fact
    def desktop(self) -> str | None:
        r"""DesktopInfo: window station and desktop, "Winsta0\Default"."""
        return self._string("desktop", "DesktopInfo")

    @fact
    def environment(self) -> dict[str, str] | None:
        """The environment variables by name, in their order; None if any of it is missing.

        Names keep their case; that of a current directory of a drive begins with "=" ("=C:"). Of two equal
        names the first counts, as in Windows. `environment_strings` gives what is there.
        """
        strings, missing = self.environment_strings()
        if missing:
            self.note("environment", missing)
            return None
        variables: dict[str, str] = {}
        for string in strings:
            name, _, value = string[1:].partition("=")  # the first character never separates
            variables.setdefault(string[:1] + name, value)
        return variables

    def environment_strings(self) -> tuple[list[str], str | None]:
        """Return the strings of the environment as far as they are there, and what is missing, in words.

        At most MAX_ENVIRONMENT bytes are read. Raises UnreadableError if the pointer is not there.
        """
        va = self._pointer(self._at("Environment"))
        if not va:
            return [], None
        size = 0
        if (self.windows.dump.build or _VISTA) >= _VISTA:
            size = self.reader.read_uint(self.address + self._at("EnvironmentSize"), self.width)
        data, missing = self._environment_bytes(va, min(size or MAX_ENVIRONMENT, MAX_ENVIRONMENT))
        end = _end_of_environment(data)
        if end is not None:
            missing = None
            data = data[:end]
        elif missing is None:
            missing = f"it has no end within {len(data):#x} bytes"
        text = data.decode("utf-16-le", "replace")
        strings = text.split("\0")
        if end is None:
            strings.pop()  # cut short, or the end of the last string
        return [string for string in strings if string], missing

    def _environment_bytes(self, va: int, limit: int) -> tuple[bytes, str | None]:
        """The bytes from `va` up to the double NUL, a hole or the limit; and why it is a hole."""
        data = bytearray()
        while len(data) < limit:
            size = min(_CHUNK - (va + len(data)) % _CHUNK, limit - len(data))
            try:
                part = self.reader.read(va + len(data), size)
                if len(part) < size:
                    self.reader.read_exact(va + len(data) + len(part), 1)  # raises the reason
            except (KdmpError, OverflowError) as error:
                return bytes(data), str(error)
            data += part
            if _end_of_environment(data) is not None:
                break
        return bytes(data), None


def _end_of_environment(data: bytes | bytearray) -> int | None:
    """Bytes before the empty string that ends an environment; None if there is none."""
    if data[:2] == b"\0\0":
        return 0
    at = data.find(b"\0\0\0\0")
    while at >= 0:
        if at % 2 == 0:
            return at
        # One byte further is the place if the character before is U+xx00.
        if data[at + 1 : at + 5] == b"\0\0\0\0":
            return at + 1
        at = data.find(b"\0\0\0\0", at + 1)
    return None


def peb(process: UserProcess, *, wow64: bool = False) -> Peb | None:
    """Return the PEB of a process, with `wow64` its 32-bit one; None if the process has none."""
    va = process.peb32 if wow64 else process.peb
    return Peb(process, int(va), 4 if wow64 else process.windows.pointer_size) if va else None


def parameters(process: UserProcess, *, wow64: bool = False) -> Parameters | None:
    """Return the process parameters, with `wow64` those of the 32-bit PEB; None if nothing leads to them.

    What was in the way is noted in the process's `problems`, if it keeps any.
    """
    block = peb(process, wow64=wow64)
    if block is None:
        return None
    found = block.parameters
    note = getattr(process, "note", None)
    if found is None and note is not None:
        for problem in block.problems:
            note("parameters", problem.why, problem.address)
    return found
