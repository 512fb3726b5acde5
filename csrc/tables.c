/*
 * tables.c: whole page tables, for those who go through an address space.
 *
 * SPDX-License-Identifier: MIT
 */
#include "mmu.h"

/* Where a table of this level can be copied to, or NULL. */
static uint8_t *
table_copy(struct kdmp_tables *tables, int level)
{
    if (tables->copies == NULL)
        tables->copies = kdmp_calloc((uint64_t)tables->mmu->levels, PAGE_SIZE);
    if (tables->copies == NULL)
        return NULL;
    return tables->copies + (size_t)(level - 1) * PAGE_SIZE;
}

static int
is_missing(enum kdmp_status status)
{
    return status == KDMP_E_NOT_IN_DUMP || status == KDMP_E_TRUNCATED;
}

enum kdmp_status
kdmp_load_table(struct kdmp_tables *tables, uint64_t table, uint64_t size,
                int level, const uint8_t **bytes_out)
{
    const struct kdmp_source *source = tables->source;
    uint8_t *copy = NULL;
    uint64_t done = 0;

    *bytes_out = NULL;
    while (done < size) {
        struct kdmp_extent extent;
        enum kdmp_status status =
            source->locate(source, table + done, size - done, &extent);

        if (status != KDMP_OK)
            return is_missing(status) ? KDMP_OK : status;
        if (extent.ptr != NULL && extent.length == size) {
            *bytes_out = extent.ptr;
            return KDMP_OK;
        }
        if (copy == NULL && (copy = table_copy(tables, level)) == NULL)
            return KDMP_E_NOMEM;
        if (extent.ptr != NULL)
            memcpy(copy + done, extent.ptr, (size_t)extent.length);
        else
            status = source->read_file(source, extent.file_offset, copy + done,
                                       (size_t)extent.length);
        if (status != KDMP_OK)
            return is_missing(status) ? KDMP_OK : status;
        done += extent.length;
    }
    *bytes_out = copy;
    return KDMP_OK;
}
