"""The extension module; everything else is in pyproject.toml.

Environment: KDMP_WERROR makes warnings errors, KDMP_DEBUG builds with assertions and symbols,
KDMP_SANITIZE=address,undefined with those sanitizers as well; KDMP_SANITIZE=coverage counts, for gcov,
how often each line runs.

SPDX-License-Identifier: MIT
"""

import os
import sys
import tomllib
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
env = os.environ.get
sanitize = env("KDMP_SANITIZE", "")
version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
os.chdir(ROOT)

cflags: list[str] = []
ldflags: list[str] = []
if sys.platform == "win32":
    cflags += ["/std:c11", "/experimental:c11atomics", "/W3"]
else:
    cflags += ["-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wshadow", "-Wvla", "-Wundef"]
    cflags += ["-Wmissing-prototypes", "-Wstrict-prototypes", "-Wno-unused-parameter"]
    if env("KDMP_WERROR"):
        cflags += ["-Werror"]
    if sanitize == "coverage":
        cflags += ["-O0", "--coverage", "-fprofile-update=atomic"]
        ldflags += ["--coverage"]
    elif env("KDMP_DEBUG") or sanitize:
        cflags += ["-O1", "-g3", "-UNDEBUG", "-fno-omit-frame-pointer"]
    else:
        cflags += ["-O2"]
    if sanitize and sanitize != "coverage":
        cflags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
        ldflags += [f"-fsanitize={sanitize}"]

setup(
    ext_modules=[
        Extension(
            "kdmp._kdmp",
            sources=sorted(glob("csrc/*.c") + glob("csrc/python/*.c")),
            depends=[
                "setup.py",
                "pyproject.toml",
                *sorted(glob("csrc/**/*.h", recursive=True)),
                *glob("csrc/*.inc"),
            ],
            include_dirs=["csrc"],
            define_macros=[("KDMP_VERSION", f'"{version}"'), ("KDMP_SANITIZE", f'"{sanitize}"')],
            extra_compile_args=cflags,
            extra_link_args=ldflags,
        )
    ],
)
