"""Benchmarks of kdmp against its peers: run with `python -m benchmarks` from the repository root.

SPDX-License-Identifier: MIT
"""
