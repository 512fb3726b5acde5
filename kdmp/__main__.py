"""`python -m kdmp`: the command line.

SPDX-License-Identifier: MIT
"""

import sys

from kdmp.cli import main

if __name__ == "__main__":
    sys.exit(main())
