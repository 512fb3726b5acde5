"""What kdmp knows about the symbols of Windows kernels: structure layouts and addresses of variables.

`kdmp.symbols.layouts` has the bundled layouts, `kdmp.symbols.isf` reads symbol files, `kdmp.symbols.mmpte`
has the page table entries and the PFN database entry of a build. Nothing is read before it is asked for.

SPDX-License-Identifier: MIT
"""

from kdmp.symbols.errors import FieldNotFoundError, SymbolError, SymbolNotFoundError, TypeNotFoundError

__all__ = ["FieldNotFoundError", "SymbolError", "SymbolNotFoundError", "TypeNotFoundError"]
