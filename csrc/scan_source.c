/*
 * scan_source.c: the memory that a search goes through, and its results.
 *
 * SPDX-License-Identifier: MIT
 */
#include "scan.h"

void
kdmp_scan_begin(struct scan_source *source, const struct kdmp_space *space,
                const struct kdmp_search *search, uint64_t first, uint64_t last)
{
    source->space = *space;
    source->space.tlb = NULL; /* it is for those who come back */
    memset(&source->cursor, 0, sizeof(source->cursor));
    source->cursor.next = first;
    source->cursor.last = last;
    source->cursor.tables_left = search->tables_left;
    source->cursor.most = SCAN_STRETCH;
    source->count = source->next = 0;
    source->empty = 0;
}

enum scan_next
kdmp_scan_next(struct scan_source *source, struct kdmp_stretch *out,
               enum kdmp_status *status_out)
{
    struct kdmp_extent_cursor *cursor = &source->cursor;

    while (source->next == source->count) {
        enum kdmp_status status;

        source->next = source->count = 0;
        if (cursor->done && !cursor->has_pending)
            return SCAN_END;
        if (source->empty == SCAN_PATIENCE)
            return SCAN_LATER;
        status = kdmp_next_extents(&source->space, cursor, source->batch,
                                   SCAN_BATCH, &source->count);
        if (source->count == 0 && cursor->has_pending) {
            source->batch[source->count++] = cursor->pending;
            cursor->has_pending = 0;
        }
        if (status != KDMP_OK && source->count == 0) {
            *status_out = status;
            return SCAN_FAILURE;
        }
        source->empty = source->count == 0 ? source->empty + 1 : 0;
    }
    *out = source->batch[source->next++];
    if (source->next < source->count)
        prefetch_bytes(source->batch[source->next].ptr,
                       source->batch[source->next].length);
    return SCAN_STRETCH_GIVEN;
}

uint64_t
kdmp_scan_position(const struct scan_source *source)
{
    if (source->next < source->count)
        return source->batch[source->next].address;
    return source->cursor.has_pending ? source->cursor.pending.address
                                      : source->cursor.next;
}

enum kdmp_status
kdmp_scan_read(const struct scan_source *source,
               const struct kdmp_stretch *stretch, uint64_t offset,
               uint8_t *buffer, uint64_t size, uint64_t *done_out)
{
    struct kdmp_space space = source->space;
    uint64_t address = stretch->address;
    enum kdmp_status status;

    if (stretch->paddr != UINT64_MAX) {
        space.paging = KDMP_PAGING_PHYSICAL;
        address = stretch->paddr;
    }
    status = kdmp_read(&space, address + offset, buffer, size, done_out, NULL);
    return status >= KDMP_E_NOT_PRESENT && status <= KDMP_E_LIMIT ? KDMP_OK
                                                                  : status;
}

void
kdmp_scan_place(const struct scan_source *source,
                const struct kdmp_stretch *stretch, struct kdmp_match *match)
{
    struct kdmp_stretch found;
    uint64_t offset;

    if (stretch == NULL || match->address < stretch->address
        || match->address - stretch->address >= stretch->length) {
        struct kdmp_extent_cursor cursor = {.next = match->address,
                                            .last = match->address,
                                            .tables_left = UINT32_MAX};
        size_t count = 0;

        while (count == 0 && (!cursor.done || cursor.has_pending))
            if (kdmp_next_extents(&source->space, &cursor, &found, 1, &count)
                != KDMP_OK)
                break;
        if (count == 0)
            found.paddr = found.file_offset = UINT64_MAX;
        found.address = match->address;
        stretch = &found;
    }
    offset = match->address - stretch->address;
    match->paddr = match->file_offset = UINT64_MAX;
    if (stretch->paddr != UINT64_MAX)
        match->paddr = stretch->paddr + offset;
    if (stretch->file_offset != UINT64_MAX)
        match->file_offset = stretch->file_offset + offset;
}

/* ---- matches in order ---- */

static int
is_before(const struct kdmp_match *a, const struct kdmp_match *b)
{
    return a->address != b->address ? a->address < b->address
                                    : a->pattern < b->pattern;
}

static void
sift(struct kdmp_match *matches, size_t root, size_t count)
{
    struct kdmp_match moved = matches[root];
    size_t child;

    while ((child = 2 * root + 1) < count) {
        if (child + 1 < count
            && is_before(&matches[child], &matches[child + 1]))
            child++;
        if (!is_before(&moved, &matches[child]))
            break;
        matches[root] = matches[child];
        root = child;
    }
    matches[root] = moved;
}

void
kdmp_sort_matches(struct kdmp_match *matches, size_t count)
{
    size_t i;

    for (i = 1; i < count; i++)
        if (is_before(&matches[i], &matches[i - 1]))
            break;
    if (i >= count)
        return;
    for (i = count / 2; i-- > 0;)
        sift(matches, i, count);
    for (i = count; i-- > 1;) {
        struct kdmp_match last = matches[i];

        matches[i] = matches[0];
        matches[0] = last;
        sift(matches, 0, i);
    }
}
