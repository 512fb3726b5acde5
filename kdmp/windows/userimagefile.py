"""Images of a process as files: what the loader's modules and the VADs' images have in common.

SPDX-License-Identifier: MIT
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kdmp.dump import Progress
    from kdmp.targets import Writable
    from kdmp.windows.imagefile import ExtractedImage, Layout
    from kdmp.windows.user import UserProcess

__all__ = ["Extractable"]


class _Image(Protocol):
    @property
    def process(self) -> "UserProcess": ...
    @property
    def base(self) -> int | None: ...
    @property
    def size(self) -> int | None: ...


class Extractable:
    """An image in a process, whose bytes can go to a file."""

    def extract(
        self: _Image,
        path: "Writable",
        *,
        layout: "Layout" = "memory",
        overwrite: bool = False,
        progress: "Progress | None" = None,
    ) -> "ExtractedImage":
        """Write the image to a file, as `Module.extract`, and return what of it was missing.

        Pages that only a VAD's prototype PTEs lead to are written, too. RootNotPresentError if the process
        has no page tables.
        """
        from kdmp.windows.processmemory import extract_user_image

        return extract_user_image(
            self.process, self.base, self.size, path, layout, overwrite=overwrite, progress=progress
        )
