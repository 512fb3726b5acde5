"""What the compiled objects show to a linker.

SPDX-License-Identifier: MIT
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import kdmp._kdmp as extension

CSRC = Path(__file__).resolve().parents[1] / "csrc"


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} (binutils) is not installed")
    return path


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def objects(cc, tmp_path_factory):
    """The core's object files, made by the one command that must always work."""
    folder = tmp_path_factory.mktemp("objects")
    sources = sorted(map(str, CSRC.glob("*.c")))
    command = [*cc, "-std=c11", "-Wall", "-Werror", f"-I{CSRC}", "-c", *sources]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    made = sorted(folder.glob("*.o"))
    assert len(made) == len(sources)
    return made


def test_extension_exports_one_symbol(instrumented):
    if instrumented:
        pytest.skip("sanitizers export symbols of their own")
    lines = output(tool("nm"), "-D", "--defined-only", extension.__file__).splitlines()
    linker = {"_init", "_fini", "_edata", "_end", "__bss_start"}
    assert {line.split()[-1] for line in lines} - linker == {"PyInit__kdmp"}


@pytest.mark.compiles
def test_core_names_start_with_kdmp(objects):
    names = set()
    for path in objects:
        names |= {
            line.split()[-1] for line in output(tool("nm"), "-g", "--defined-only", str(path)).splitlines()
        }
    assert "kdmp_open_memory" in names
    assert {name for name in names if not name.startswith("kdmp_")} == set()


@pytest.mark.compiles
def test_core_has_no_writable_data(objects):
    """No globals but constant tables. Tables of pointers are relocated once, then read-only."""
    seen = 0
    for path in objects:
        for line in output(tool("size"), "-A", str(path)).splitlines():
            words = line.split()
            if len(words) != 3 or not words[0].startswith((".data", ".bss", ".tdata", ".tbss")):
                continue
            if words[0].startswith(".data.rel.ro"):
                continue
            seen += 1
            assert int(words[1]) == 0, f"{path.name}: {words[0]} has {words[1]} bytes"
    assert seen >= 2 * len(objects)


def test_the_core_knows_nothing_of_python_and_prints_nothing():
    forbidden = ("Python.h", "PyObject", "printf(", "puts(", "stderr", "stdout")
    for path in [*CSRC.glob("*.c"), *CSRC.glob("*.h")]:
        text = path.read_text("utf-8").replace("vsnprintf(", "").replace("snprintf(", "")
        for word in forbidden:
            if word == "Python.h" and path.name == "kdmp.h":
                continue
            found = [
                line
                for line in text.splitlines()
                if word in line and not line.lstrip().startswith(("*", "/*"))
            ]
            assert not found, f"{path.name}: {found}"


def test_only_file_c_calls_the_operating_system():
    system = ("<unistd.h>", "<fcntl.h>", "<sys/", "<stdio.h>", "<windows.h>")
    for path in CSRC.glob("*.[ch]"):
        text = path.read_text("utf-8")
        found = [name for name in system if f"#include {name}" in text]
        allowed = {"file.c": list(system), "error.c": ["<stdio.h>"]}.get(path.name, [])
        assert set(found) <= set(allowed), f"{os.path.basename(path)} includes {found}"
