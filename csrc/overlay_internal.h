/*
 * overlay_internal.h: what the files of the overlay share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_OVERLAY_INTERNAL_H
#define KDMP_OVERLAY_INTERNAL_H

#include "pfnmap.h"

/* What stands for a frame of the base. */
enum version_kind {
    V_NONE = 0, /* nothing: the base's */
    V_PAGE,     /* a copy, or a frame that was made up */
    V_REMAP     /* another frame */
};

struct version {
    uint64_t pfn;
    uint8_t *page;   /* V_PAGE */
    uint64_t target; /* V_REMAP */
    uint64_t born;   /* generation */
    uint8_t kind;
    uint8_t synthetic; /* the base has no such frame */
    uint8_t unused[6];
};

struct remap {
    uint64_t pfn;
    uint64_t target;
};

struct snapshot {
    uint64_t id;
    uint64_t undo_count; /* length of the log when it was taken */
};

/* A frame whose writes somebody wants to know, or whose content a walk has
 * used. */
struct note {
    uint64_t pfn;
    uint64_t watchers;
    uint64_t dirty[PAGE_SIZE / 8 / 64]; /* a bit for each 8 bytes */
    uint8_t is_dirty;
    uint8_t is_table;
    uint8_t unused[6];
};

struct kdmp_overlay {
    struct kdmp_source source;
    const struct kdmp_source *base;
    struct pfn_map index; /* into versions */
    struct version *versions;
    uint64_t version_count;
    uint64_t version_room;
    uint64_t synthetic_count; /* of them */
    struct remap *remaps;     /* frames that show another one */
    uint64_t remap_count;
    uint64_t remap_room;
    uint64_t generation;
    struct version *undo;
    uint64_t undo_count;
    uint64_t undo_room;
    struct snapshot *snapshots;
    uint64_t snapshot_count;
    uint64_t snapshot_room;
    uint64_t next_snapshot;
    uint8_t **spare; /* pages to use again */
    uint64_t spare_count;
    uint64_t spare_room;
    uint64_t page_count;  /* pages allocated, in use or spare */
    struct pfn_map noted; /* into notes */
    struct note *notes;
    uint64_t note_count;
    uint64_t note_room;
    uint64_t dirty_count;
    uint64_t epoch; /* changes when a table changes */
    /* The base's bytes are read, not mapped, which may run code of others that
     * changes the overlay: no pointers to its pages are given away. */
    int copies;
};

/* What stands for a frame; NULL: it is the base's. */
static inline struct version *
find_version(const struct kdmp_overlay *o, uint64_t pfn)
{
    uint32_t at = pfn_map_find(&o->index, pfn);

    return at != PFN_MAP_NONE ? &o->versions[at] : NULL;
}

/* The first entry of 'remaps' from 'at' on that shows 'pfn'; remap_count if
 * there is none. */
static inline uint64_t
next_remap_to(const struct kdmp_overlay *o, uint64_t pfn, uint64_t at)
{
    while (at < o->remap_count && o->remaps[at].target != pfn)
        at++;
    return at;
}

/* ---- overlay.c ---- */

/* An array with room for 'count' elements, 'used' of which are kept; NULL
 * without memory, and then the old one is still there. */
void *kdmp_overlay_grow(void *array, uint64_t *room, uint64_t used,
                        uint64_t count, uint64_t size);

/* Grow one of the overlay's arrays by 'more'; false without memory. */
#define ROOM(o, array, name, more)                                             \
    ((grown =                                                                  \
          kdmp_overlay_grow((o)->array, &(o)->name##_room, (o)->name##_count,  \
                            (o)->name##_count + (more), sizeof(*(o)->array)))  \
     != NULL)

/* ---- overlay_source.c ---- */

/* The overlay as a page source: fill o->source. */
void kdmp_overlay_init_source(struct kdmp_overlay *o);

/* Whether a frame can be read, and so written. */
enum kdmp_status kdmp_overlay_exists(const struct kdmp_overlay *o,
                                     uint64_t paddr);

/* ---- overlay_notes.c ---- */

/* Bytes of a frame have changed, and so have those of frames that show it. */
void kdmp_overlay_touched(struct kdmp_overlay *o, uint64_t pfn, uint64_t from,
                          uint64_t size);

#endif /* KDMP_OVERLAY_INTERNAL_H */
