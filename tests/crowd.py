"""A dump with hundreds of processes: a synthetic machine with copies of one process in its list.

SPDX-License-Identifier: MIT
"""

import struct

import shareddata
from patcheddump import Patched

MACHINE, KIND = "win10-19041", "full"
PRESENT, WRITABLE, NO_EXECUTE = 1, 2, 1 << 63
FIRST_PID = 0x4000


def crowd(count):
    """The bytes of a dump with `count` processes more, each with two threads."""
    patch = Patched(shareddata.machine_dump(MACHINE, KIND))
    data, dump = patch.image, patch.original
    layout = dump.windows.layout
    truth = shareddata.truth(MACHINE)
    model = next(p for p in truth["processes"] if p["pid"] == 1788)
    places = {pfn: patch.file_offset(pfn << 12) for pfn in dump.pages}
    free = [pfn for pfn, at in places.items() if not any(data[at : at + 0x1000])]

    def qword(at, value):
        struct.pack_into("<Q", data, at, value)

    # Page tables in empty slots next to the one that maps the model.
    walk = dump.reader().translate(model["eprocess"])
    directory = places[walk.entries[-2].pa >> 12]
    slots = [k for k in range(512) if not any(data[directory + 8 * k : directory + 8 * k + 8])]
    tables = [(free.pop(), slot) for slot in slots[: count * 3 // 512 + 1]]
    for table, slot in tables:
        qword(directory + 8 * slot, table << 12 | PRESENT | WRITABLE)
    half = model["eprocess"] >> 30 << 30
    link = layout.offset("_EPROCESS", "ActiveProcessLinks")
    head = truth["symbols"]["PsActiveProcessHead"]

    def page(number, model_at, kind):
        """Map page `number` and fill it with a copy of a structure."""
        pfn = free.pop()
        table, slot = tables[number // 512]
        qword(places[table] + 8 * (number % 512), pfn << 12 | PRESENT | WRITABLE | NO_EXECUTE)
        content = dump.reader().read_exact(model_at, layout.size(kind))
        data[places[pfn] : places[pfn] + len(content)] = content
        return places[pfn], half + (slot << 21) + (number % 512 << 12)

    def field(kind, path):
        return layout.offset(kind, path)

    def va(address):
        return patch.file_offset_of(address)

    last = dump.reader().read_u64(head + 8)
    where = {head: va(head), last: va(last)}
    for n in range(count):
        at, address = page(3 * n, model["eprocess"], "_EPROCESS")
        pid = FIRST_PID + 12 * n + (12 * n // 0x3FC + 1) * 4
        qword(at + field("_EPROCESS", "UniqueProcessId"), pid)
        for path in ("SessionProcessLinks", "ObjectTable"):
            qword(at + field("_EPROCESS", path), 0)
        where[address + link] = at + link
        qword(where[last], address + link)
        qword(at + link + 8, last)
        last = address + link
        heads = [field("_EPROCESS", path) for path in ("ThreadListHead", "Pcb.ThreadListHead")]
        links = [field("_ETHREAD", "ThreadListEntry"), field("_KTHREAD", "ThreadListEntry")]
        members = [(at, address, heads)]
        for k in (1, 2):
            spot, thread = page(3 * n + k, model["threads"][0]["address"], "_ETHREAD")
            qword(spot + field("_ETHREAD", "Cid"), pid)
            qword(spot + field("_ETHREAD", "Cid") + 8, pid + 4 * k)
            qword(spot + field("_KTHREAD", "Process"), address)
            members.append((spot, thread, links))
        for k, (spot, _, places_of) in enumerate(members):
            _, following, to = members[(k + 1) % 3]
            _, before, back = members[k - 1]
            for which in (0, 1):
                qword(spot + places_of[which], following + to[which])
                qword(spot + places_of[which] + 8, before + back[which])
    qword(where[last], head)
    qword(where[head] + 8, last)
    return bytes(data)
