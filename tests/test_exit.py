"""The end of the interpreter is quiet, whatever is still alive.

SPDX-License-Identifier: MIT
"""

import os
import subprocess
import sys
from pathlib import Path

from conftest import KERNEL_VA, small_machine

import kdmp

SCRIPT = """
import sys
import kdmp

class Notebook: pass

notebook = Notebook()
notebook.self = notebook  # only the collector can free it
notebook.dump = kdmp.open(sys.argv[1])
reader = notebook.dump.reader(dtb=0x1000, paging="x64")
notebook.walk = reader.translate(int(sys.argv[2]))
notebook.entries = notebook.walk.entries
notebook.runs = list(notebook.dump.pages.runs())
notebook.mappings = list(reader.mappings())
notebook.gaps = reader.read_gaps(int(sys.argv[2]), 0x4000)
notebook.overlay = notebook.dump.overlay("kept")
try:
    reader.read_u64(0)
except kdmp.UnreadableError as error:
    notebook.error = error
"""


def test_objects_in_cycles_at_exit(tmp_path):
    path = tmp_path / "small.dmp"
    path.write_bytes(small_machine().dump())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(KERNEL_VA)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(kdmp.__file__).parents[1])},
        cwd=tmp_path,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
