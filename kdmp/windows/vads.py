"""The VADs of a process: the tree of its address ranges.

    for vad in vads(process):
        print(hex(vad.start), hex(vad.end), vad.protection_name, vad.kind, vad.file)

Trees of all releases: a plain pointer (XP), _MM_AVL_TABLE whose real root is BalancedRoot.RightChild (2003
to 8.0), _RTL_AVL_TREE (8.1 and later). Sources: type information of public symbol files.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from kdmp._kdmp import FormatError, KdmpError
from kdmp.windows.entity import Listing, Problem
from kdmp.windows.sections import is_kernel_address
from kdmp.windows.vad import Vad, VadProcess
from kdmp.windows.vadflags import VadHead, VadShape

if TYPE_CHECKING:
    from kdmp.symbols.structs import Layout
    from kdmp.windows.session import Windows

__all__ = ["MAX_VADS", "Vad", "VadProcess", "find", "read_page", "resolve", "vads"]

MAX_VADS = 1 << 18
"""VADs of a process that are collected."""

_MAX_PROBLEMS = 100
_MAX_DEPTH = 64  # an AVL tree of that depth has more nodes than memory can hold


# ---- the tree ----


@dataclass(frozen=True, slots=True)
class _Tree:
    """The tree of a process: its root node (0: empty), and how many nodes it says it has."""

    process: VadProcess
    shape: VadShape
    root: int
    count: int | None
    last_vpn: int

    @property
    def windows(self) -> "Windows":
        return self.process.windows

    def read(self, address: int) -> VadHead:
        """Decode the node at an address; UnreadableError, FormatError if it cannot be one."""
        if not is_kernel_address(self.windows, address, self.shape.pointer_size):
            raise FormatError(f"{address:#x} is no address of a VAD")
        return self.shape.decode(self.windows.reader.read_exact(address, self.shape.size))

    def wrong(self, address: int, head: VadHead, parent: int) -> str | None:
        """Why what was read is no VAD; None if it may be one."""
        if head.start_vpn > head.end_vpn or head.end_vpn > self.last_vpn or not head.start_vpn:
            return f"the VAD at {address:#x} has the pages {head.start_vpn:#x}-{head.end_vpn:#x}"
        if parent and head.parent & ~7 != parent and not self._is_tagged(address):
            return f"what is at {address:#x} does not know its parent and has no tag of a VAD"
        return None

    def _is_tagged(self, address: int) -> bool:
        distance = 12 if self.shape.pointer_size == 8 else 4
        return self.windows.reader.read(address - distance, 3) == b"Vad"


@lru_cache(maxsize=8)
def _shape(layout: "Layout", la57: bool) -> VadShape:
    return VadShape(layout, high_nibble=la57)


def _tree(process: VadProcess) -> _Tree:
    """The tree of a process. Raises UnreadableError, SymbolError."""
    windows = process.windows
    layout, eprocess = windows.layout, process.object
    la57 = windows.reader.paging == "la57"
    shape = _shape(layout, la57)
    if layout.has("_EPROCESS", "VadRoot.BalancedRoot.RightChild"):
        path, count = "VadRoot.BalancedRoot.RightChild", "VadRoot.NumberGenericTableElements"
    elif layout.has("_EPROCESS", "VadRoot.Root"):
        path, count = "VadRoot.Root", "VadCount"
    else:
        path, count = "VadRoot", ""
    root = windows.pointer(eprocess.field_address(path), eprocess.reader)
    number = None
    if count and layout.has("_EPROCESS", count):
        number = int(eprocess[count])
    bits = {4: 32}.get(windows.pointer_size, 56 if la57 else 47)
    if windows.dump.arch == "arm64":
        bits = 48
    return _Tree(process, shape, root, number, (1 << bits - 12) - 1)


def vads(process: VadProcess) -> Listing[Vad]:
    """Return the VADs of a process by their addresses; `problems` tells what is wrong with the tree.

    Nothing raises for damage: nodes that cannot be read cost themselves and what hangs from them, and each
    VAD comes once even if the tree leads back into itself.
    """
    problems: list[Problem] = []
    try:
        tree = _tree(process)
    except (KdmpError, OverflowError) as error:
        return Listing((), [Problem("vads", str(error), process.address)], Vad)
    found = [Vad(process, address, head) for address, head in _walk(tree, problems)]
    found.sort(key=lambda vad: (vad.start, vad.end))
    for below, above in pairwise(found):
        if above.start <= below.end:
            problems.append(Problem("vads", f"{above!r} overlaps {below!r}", above.address))
    if tree.count is not None and tree.count != len(found):
        problems.append(Problem("vads", f"the process counts {tree.count} VADs, {len(found)} were found"))
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [Problem("vads", f"and {len(problems) - _MAX_PROBLEMS} more problems")]
    return Listing(found, problems, Vad)


def _walk(tree: _Tree, problems: list[Problem]) -> Iterator[tuple[int, VadHead]]:
    """The nodes of a tree, each once, in no order."""
    todo, seen, count = [(tree.root, 0)] if tree.root else [], {tree.root}, 0
    while todo:
        address, parent = todo.pop()
        if count >= MAX_VADS:
            problems.append(Problem("vads", f"there are more than {MAX_VADS}"))
            return
        try:
            head = tree.read(address)
        except (KdmpError, OverflowError) as error:
            problems.append(Problem("vads", f"what hangs from {parent:#x} is lost: {error}", address))
            continue
        wrong = tree.wrong(address, head, parent)
        if wrong:
            problems.append(Problem("vads", wrong, address))
            continue
        count += 1
        yield address, head
        for child in (head.left, head.right):
            if child in seen:
                problems.append(
                    Problem("vads", f"the tree leads from {address:#x} back to {child:#x}", address)
                )
            elif child:
                seen.add(child)
                todo.append((child, address))


def find(process: VadProcess, va: int) -> Vad | None:
    """Return the VAD that covers a user address, None if there is none.

    Goes down the tree; where the tree is damaged all VADs are looked through. Raises what stands in the way
    of saying no: UnreadableError, SymbolError without a layout, FormatError for a damaged tree.
    """
    tree = _tree(process)
    vpn, address, parent = va >> 12, tree.root, 0
    low, high = 0, tree.last_vpn
    for _ in range(_MAX_DEPTH):
        if not address:
            return None
        try:
            head = tree.read(address)
        except (KdmpError, OverflowError):
            break
        if tree.wrong(address, head, parent) or head.start_vpn < low or head.end_vpn > high:
            break
        if head.start_vpn <= vpn <= head.end_vpn:
            return Vad(process, address, head)
        parent = address
        if vpn < head.start_vpn:
            address, high = head.left, head.start_vpn - 1
        else:
            address, low = head.right, head.end_vpn + 1
    every = _again(process)
    for vad in every:
        if vad.contains(va):
            return vad
    if every.problems and tree.count != len(every):  # else none is lost
        raise FormatError(f"the tree of VADs is damaged: {every.problems[0].why}")
    return None


def _again(process: VadProcess) -> Listing[Vad]:
    """All VADs of a process with a damaged tree, which those who go through its pages ask for each of them:
    those of the process asked for last are kept."""
    kept: dict[int, Listing[Vad]] = process.windows.once("damaged VADs", dict)
    found = kept.get(process.address)
    if found is None:
        found = vads(process)
        kept.clear()
        kept[process.address] = found
    return found


# ---- pages that only a VAD leads to ----


def resolve(process: VadProcess, va: int) -> int | None:
    """Return the physical address of a user address, also where only the VAD's prototype PTE tells.

    None if the page is not in memory, or nothing sure can be said. The frame may be missing from the dump.
    """
    from kdmp.windows.vadpages import resolve

    return resolve(process, va)


def read_page(process: VadProcess, va: int) -> bytes | None:
    """Return the 4096 bytes of the page that an address lies in, as `resolve`; None if they are not there."""
    from kdmp.windows.vadpages import read_page

    return read_page(process, va)
