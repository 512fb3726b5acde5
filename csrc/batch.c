/*
 * batch.c: many translations and many small reads at once.
 *
 * Addresses are worked through in groups.  For a group the upper levels are
 * walked, whose tables are few and stay in the processor's cache, then the
 * last entries are fetched ahead, then read: the latency of memory is paid
 * once for a group.  What is not plain (an entry that is not valid, a table
 * that is missing) goes through kdmp_translate(), so that the answers are its.
 *
 * SPDX-License-Identifier: MIT
 */
#include "mmu.h"
#include "mmu_x64.h"
#include "tlb.h"

#define GROUP 32

struct batch {
    const struct kdmp_space *space;
    const struct kdmp_source *source;
    const uint8_t *top; /* the root table, NULL: no quick way */
    int levels;
    uint64_t hole;              /* first address without canonical form */
    struct table_place *places; /* 'bytes' NULL: not all in memory */
};

/* The bytes of a frame, or NULL if they are not all in memory. */
static const uint8_t *
frame_bytes(const struct kdmp_source *source, uint64_t paddr)
{
    struct kdmp_extent extent;

    if (source->locate(source, paddr, PAGE_SIZE, &extent) != KDMP_OK
        || extent.length != PAGE_SIZE)
        return NULL;
    return extent.ptr;
}

KDMP_INLINE const uint8_t *
table_bytes(const struct batch *batch, uint64_t table)
{
    uint64_t pfn = table >> PAGE_SHIFT;
    struct table_place *place = table_place_of(batch->places, pfn);

    if (place->pfn_plus_1 != pfn + 1) {
        place->bytes = frame_bytes(batch->source, table);
        place->pfn_plus_1 = pfn + 1;
    }
    return place->bytes;
}

static enum kdmp_status
batch_init(struct batch *batch, const struct kdmp_space *space)
{
    memset(batch, 0, sizeof(*batch));
    batch->space = space;
    batch->source = space->source;
    if (space->paging != KDMP_PAGING_X64 && space->paging != KDMP_PAGING_LA57)
        return KDMP_OK;
    batch->levels = space->paging == KDMP_PAGING_X64 ? 4 : 5;
    batch->hole = UINT64_C(1) << (9 * batch->levels + 11);
    batch->places = kdmp_calloc(TABLE_PLACES, sizeof(*batch->places));
    if (batch->places == NULL)
        return KDMP_E_NOMEM;
    batch->top = frame_bytes(batch->source, space->root & X64_ADDRESS);
    return KDMP_OK;
}

static void
batch_deinit(struct batch *batch)
{
    kdmp_free(batch->places);
}

/* Walk to the entry that decides: its place, or NULL if that is not plain.
 * A large page is decided here: *paddr_out. */
KDMP_INLINE const uint8_t *
upper_levels(const struct batch *batch, uint64_t vaddr, uint64_t *paddr_out)
{
    const uint8_t *table = batch->top;
    int level;

    *paddr_out = UINT64_MAX;
    if (vaddr - batch->hole < 0 - 2 * batch->hole)
        return NULL;
    for (level = batch->levels; level > 1; level--) {
        unsigned shift = x64_shift(level);
        uint64_t entry = load_le64(table + (vaddr >> shift & 511) * 8);

        if (!(entry & X64_P))
            return NULL;
        if (entry & X64_PS) {
            uint64_t in_page = (UINT64_C(1) << shift) - 1;

            if (level <= 3)
                *paddr_out =
                    (entry & X64_ADDRESS & ~in_page) | (vaddr & in_page);
            return NULL;
        }
        table = table_bytes(batch, entry & X64_ADDRESS);
        if (table == NULL)
            return NULL;
    }
    return table + (vaddr >> PAGE_SHIFT & 511) * 8;
}

/* One address, by the walk that knows everything. */
static enum kdmp_status
translate_one(const struct kdmp_space *space, uint64_t vaddr, uint64_t *paddr)
{
    struct kdmp_translation walk;
    enum kdmp_status status = kdmp_translate(space, vaddr, &walk);

    *paddr = status == KDMP_OK ? walk.paddr : UINT64_MAX;
    return status;
}

/* Up to GROUP addresses. */
static void
translate_group(const struct batch *batch, const uint64_t *vaddrs, size_t count,
                uint64_t *paddrs, uint8_t *statuses)
{
    const uint8_t *entries[GROUP];
    size_t i;

    for (i = 0; i < count; i++) {
        entries[i] = NULL;
        paddrs[i] = UINT64_MAX;
        if (batch->top != NULL)
            entries[i] = upper_levels(batch, vaddrs[i], &paddrs[i]);
        if (entries[i] != NULL)
            PREFETCH(entries[i]);
    }
    for (i = 0; i < count; i++) {
        uint64_t entry = entries[i] != NULL ? load_le64(entries[i]) : 0;

        statuses[i] = KDMP_OK;
        if (entry & X64_P)
            paddrs[i] = (entry & X64_ADDRESS) | (vaddrs[i] & (PAGE_SIZE - 1));
        else if (paddrs[i] == UINT64_MAX)
            statuses[i] =
                (uint8_t)translate_one(batch->space, vaddrs[i], &paddrs[i]);
    }
}

enum kdmp_status
kdmp_translate_many(const struct kdmp_space *space, const uint64_t *vaddrs,
                    size_t count, uint64_t *paddrs_out, uint8_t *statuses_out)
{
    struct batch batch;
    enum kdmp_status status = batch_init(&batch, space);
    size_t done, n;

    for (done = 0; status == KDMP_OK && done < count; done += n) {
        n = count - done < GROUP ? count - done : GROUP;
        translate_group(&batch, vaddrs + done, n, paddrs_out + done,
                        statuses_out + done);
    }
    batch_deinit(&batch);
    return status;
}

/* Copy 'size' bytes of one page that have been translated; 0 if they are not
 * in memory as they are, which the general way sees to. */
KDMP_INLINE int
copy_plain(const struct kdmp_extent *extent, uint64_t size, uint8_t *out)
{
    if (extent->ptr == NULL || extent->length < size)
        return 0;
    copy_bytes(out, extent->ptr, size);
    return 1;
}

/* Up to GROUP reads: translate all, find all, then copy. */
static void
read_group(const struct batch *batch, const uint64_t *addresses, size_t count,
           uint64_t size, uint8_t *out, uint8_t *statuses)
{
    uint64_t paddrs[GROUP], done;
    struct kdmp_extent extents[GROUP];
    size_t i;

    translate_group(batch, addresses, count, paddrs, statuses);
    for (i = 0; i < count; i++) {
        extents[i].ptr = NULL;
        extents[i].length = 0;
        if (statuses[i] != KDMP_OK
            || size > PAGE_SIZE - (addresses[i] & (PAGE_SIZE - 1)))
            continue;
        if (batch->source->locate(batch->source, paddrs[i], size, &extents[i])
            != KDMP_OK)
            extents[i].ptr = NULL;
        else if (extents[i].ptr != NULL)
            PREFETCH(extents[i].ptr);
    }
    for (i = 0; i < count; i++) {
        uint8_t *target = out + i * size;

        if (copy_plain(&extents[i], size, target))
            continue;
        statuses[i] = (uint8_t)kdmp_read(batch->space, addresses[i], target,
                                         size, &done, NULL);
        if (statuses[i] != KDMP_OK)
            memset(target + done, 0, (size_t)(size - done));
    }
}

enum kdmp_status
kdmp_read_many(const struct kdmp_space *space, const uint64_t *addresses,
               size_t count, uint64_t size, void *buffer, uint8_t *statuses_out)
{
    struct batch batch;
    enum kdmp_status status = batch_init(&batch, space);
    uint8_t *out = buffer;
    size_t done, n;

    for (done = 0; status == KDMP_OK && size > 0 && done < count; done += n) {
        n = count - done < GROUP ? count - done : GROUP;
        read_group(&batch, addresses + done, n, size, out + done * size,
                   statuses_out + done);
    }
    if (status == KDMP_OK && size == 0)
        memset(statuses_out, KDMP_OK, count);
    batch_deinit(&batch);
    return status;
}
