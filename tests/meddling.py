"""A file object that uses what is being read through it, as another thread would.

SPDX-License-Identifier: MIT
"""

import io

import pytest


class Meddling(io.BytesIO):
    """While `calls` are set, each read makes them, and they must be refused; `refused` counts such reads."""

    calls = ()
    refused = 0

    def read(self, *args):
        for call in self.calls:
            with pytest.raises(ValueError, match="in use by another thread"):
                call()
        self.refused += bool(self.calls)
        return super().read(*args)
