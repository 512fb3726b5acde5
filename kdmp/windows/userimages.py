"""Images in a process by its VADs: what is mapped as an image, whatever the loader's lists say.

The VADs and the names of their files are kernel memory, which kernel dumps have; the loader's lists are user
memory, which a process can change. So this is the surer way to a process's modules, and what the lists lack
is worth a look.

SPDX-License-Identifier: MIT
"""

from functools import cached_property

from kdmp.windows.entity import Entity, Listing
from kdmp.windows.ldr import UserModule, modules
from kdmp.windows.pe import ImageIdentity, identify
from kdmp.windows.user import UserProcess
from kdmp.windows.userimagefile import Extractable
from kdmp.windows.vadpages import UserMemory
from kdmp.windows.vads import Vad, vads

__all__ = ["UserImage", "find_image", "images"]


class UserImage(Entity, Extractable):
    """An image that a VAD maps; `address` is that of the VAD.

    `modules` are the loader's entries for it: none for one that the loader does not know, or whose lists are
    not there; two, of 64 and 32 bits, for the executable of a WoW64 process.
    """

    FACTS = ("base", "size", "name", "path", "listed")
    HEX = Entity.HEX | {"base", "size"}

    def __init__(self, process: UserProcess, vad: Vad, modules: tuple[UserModule, ...]) -> None:
        super().__init__(process.windows, vad.address)
        self.process = process
        self.vad = vad
        self.modules = modules

    def __repr__(self) -> str:
        return f"<UserImage {self.name or '?'} at {self.base:#x}>"

    @property
    def base(self) -> int:
        """Address of the image."""
        return self.vad.start

    @property
    def size(self) -> int:
        """Bytes, whole pages."""
        return self.vad.size

    @property
    def path(self) -> str | None:
        """Path of its file without the volume, None if it cannot be read."""
        return self.vad.file

    @property
    def name(self) -> str | None:
        """Name of its file."""
        return None if self.path is None else self.path.rsplit("\\", 1)[-1]

    @property
    def listed(self) -> bool:
        """Whether one of the loader's lists has it."""
        return bool(self.modules)

    @cached_property
    def image(self) -> ImageIdentity | None:
        """What the image in memory says it is: time stamp, size, PDB; None if its headers are not there."""
        return identify(UserMemory(self.process), self.base)

    @property
    def pdb(self) -> str | None:
        """Name of its PDB, None if not known."""
        return self.image.pdb if self.image else None

    @property
    def symbol_id(self) -> str | None:
        """Key of its PDB on a symbol server, None if not known."""
        return self.image.symbol_id if self.image else None

    @property
    def image_id(self) -> str | None:
        """Key of the image on a symbol server, None if not known."""
        return self.image.image_id if self.image else None


def images(process: UserProcess) -> Listing[UserImage]:
    """Return the images mapped in a process by their addresses; `problems` are those of the VADs."""
    known: dict[int | None, list[UserModule]] = {}
    for module in modules(process):
        known.setdefault(module.base, []).append(module)
    every = vads(process)
    found = [UserImage(process, vad, tuple(known.get(vad.start, ()))) for vad in every if vad.kind == "image"]
    return Listing(found, every.problems, UserImage)


def find_image(process: UserProcess, name: str) -> UserImage | UserModule | None:
    """Return the image with this file name, in any case: by the VADs first, else by the loader's lists.

    Of two images of one name (WoW64 has an ntdll.dll of each width) the lowest address counts. None if there
    is none.
    """
    wanted = name.lower()
    candidates: list[UserImage | UserModule] = [*images(process), *modules(process)]
    return next((one for one in candidates if (one.name or "").lower() == wanted), None)
