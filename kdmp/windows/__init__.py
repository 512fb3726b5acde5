"""What Windows had in the dump. Pure Python on top of `Reader`, one topic per file.

SPDX-License-Identifier: MIT
"""
