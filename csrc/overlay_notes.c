/*
 * overlay_notes.c: frames of an overlay whose changes somebody wants to know:
 * those that are watched, and page tables that walks have used.
 *
 * SPDX-License-Identifier: MIT
 */
#include "overlay_internal.h"

static struct note *
find_note(const struct kdmp_overlay *o, uint64_t pfn)
{
    uint32_t at = pfn_map_find(&o->noted, pfn);

    return at != PFN_MAP_NONE ? &o->notes[at] : NULL;
}

static struct note *
make_note(struct kdmp_overlay *o, uint64_t pfn)
{
    struct note *note = find_note(o, pfn);
    void *grown;

    if (note != NULL)
        return note;
    if (kdmp_pfn_map_reserve(&o->noted, 1) < 0 || !ROOM(o, notes, note, 1))
        return NULL;
    o->notes = grown;
    note = &o->notes[o->note_count];
    memset(note, 0, sizeof(*note));
    note->pfn = pfn;
    kdmp_pfn_map_set(&o->noted, pfn, (uint32_t)o->note_count++);
    return note;
}

static void
drop_note(struct kdmp_overlay *o, struct note *note)
{
    struct note *last = &o->notes[o->note_count - 1];

    o->dirty_count -= note->is_dirty;
    kdmp_pfn_map_remove(&o->noted, note->pfn);
    if (note != last) {
        *note = *last;
        kdmp_pfn_map_set(&o->noted, note->pfn, (uint32_t)(note - o->notes));
    }
    o->note_count--;
}

static void
touch_note(struct kdmp_overlay *o, struct note *note, uint64_t from,
           uint64_t size)
{
    uint64_t slot;

    if (note == NULL)
        return;
    o->epoch += note->is_table;
    if (note->watchers == 0)
        return;
    for (slot = from / 8; slot <= (from + size - 1) / 8; slot++)
        note->dirty[slot / 64] |= UINT64_C(1) << slot % 64;
    o->dirty_count += !note->is_dirty;
    note->is_dirty = 1;
}

void
kdmp_overlay_touched(struct kdmp_overlay *o, uint64_t pfn, uint64_t from,
                     uint64_t size)
{
    uint64_t at = 0;

    if (o->note_count == 0)
        return;
    touch_note(o, find_note(o, pfn), from, size);
    while ((at = next_remap_to(o, pfn, at)) < o->remap_count)
        touch_note(o, find_note(o, o->remaps[at++].pfn), from, size);
}

enum kdmp_status
kdmp_overlay_watch(struct kdmp_overlay *o, uint64_t pfn)
{
    struct note *note;

    if (pfn >= MAX_PFN)
        return KDMP_E_ARGUMENT;
    note = make_note(o, pfn);
    if (note == NULL)
        return KDMP_E_NOMEM;
    note->watchers++;
    return KDMP_OK;
}

void
kdmp_overlay_unwatch(struct kdmp_overlay *o, uint64_t pfn)
{
    struct note *note = find_note(o, pfn);

    if (note == NULL || note->watchers == 0 || --note->watchers > 0)
        return;
    if (!note->is_table) {
        drop_note(o, note);
        return;
    }
    o->dirty_count -= note->is_dirty;
    note->is_dirty = 0;
    memset(note->dirty, 0, sizeof(note->dirty));
}

size_t
kdmp_overlay_take_dirty(struct kdmp_overlay *o, uint64_t *paddr_out,
                        size_t room)
{
    size_t count = 0;
    uint64_t i, slot;

    for (i = 0; i < o->note_count && o->dirty_count > 0; i++) {
        struct note *note = &o->notes[i];

        if (!note->is_dirty)
            continue;
        for (slot = 0; slot < PAGE_SIZE / 8; slot++) {
            uint64_t bit = UINT64_C(1) << slot % 64;

            if (!(note->dirty[slot / 64] & bit))
                continue;
            if (count == room)
                return count;
            paddr_out[count++] = note->pfn << PAGE_SHIFT | slot * 8;
            note->dirty[slot / 64] &= ~bit;
        }
        note->is_dirty = 0;
        o->dirty_count--;
    }
    return count;
}

enum kdmp_status
kdmp_overlay_note_table(struct kdmp_overlay *o, uint64_t pfn)
{
    struct note *note = make_note(o, pfn);

    if (note == NULL)
        return KDMP_E_NOMEM;
    note->is_table = 1;
    return KDMP_OK;
}

uint64_t
kdmp_overlay_epoch(const struct kdmp_overlay *o)
{
    return o->epoch;
}
