/*
 * fmt_ranges.c: DumpType 8, 9 and 0xA ("RDMP", written by WinDbg's .dump).
 * A table of (frame, count) ranges; their pages follow in the table's order.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "internal.h"

enum {
    ENTRY_SIZE = 16,
    METADATA_FROM = 0x20, /* MetadataSize counts from here ... */
    TABLE_FROM = 0x30,    /* ... and this much of it precedes the table */
    BLOCK_ENTRIES = 256   /* read at once */
};

/* Ranges: each costs some 100 bytes while the dump opens. */
#define MAX_RANGES (UINT64_C(1) << 23)

/* Part of the table, as it is in the file. */
struct block {
    uint64_t first; /* number of its first entry */
    uint64_t count;
    uint8_t bytes[BLOCK_ENTRIES * ENTRY_SIZE];
};

/* Entry number 'i' of 'limit', or NULL and the status. */
static const uint8_t *
table_entry(struct kdmp_dump *dump, struct block *block, uint64_t i,
            uint64_t limit, enum kdmp_status *status, struct kdmp_error *err)
{
    uint64_t table = dump->info.header_size + TABLE_FROM;

    if (i - block->first >= block->count) {
        block->first = i;
        block->count = min_u64(limit - i, BLOCK_ENTRIES);
        *status = kdmp_file_read(&dump->file, table + i * ENTRY_SIZE,
                                 block->bytes, block->count * ENTRY_SIZE, err);
        if (*status != KDMP_OK)
            return NULL;
    }
    return block->bytes + (i - block->first) * ENTRY_SIZE;
}

/* Check a range and make it '*run'. */
static enum kdmp_status
add_range(struct kdmp_run *run, uint64_t pfn, uint64_t pages, uint64_t *total,
          uint64_t where, struct kdmp_error *err)
{
    if (pfn >= MAX_PFN || pages > MAX_PFN - pfn)
        return kdmp_fail(err, KDMP_E_FORMAT, where,
                         "a range (frame 0x%" PRIx64 ", 0x%" PRIx64
                         " pages) lies beyond the 52-bit address space",
                         pfn, pages);
    if (pages >= MAX_PAGES - *total)
        return kdmp_fail(err, KDMP_E_FORMAT, where,
                         "the ranges describe more than the limit of 64 TiB");
    run->pfn = pfn;
    run->count = pages;
    *total += pages;
    return KDMP_OK;
}

/* Entries up to the first with frame 0, which ends the table. */
static enum kdmp_status
count_entries(struct kdmp_dump *dump, uint64_t limit, uint64_t *count_out,
              struct kdmp_error *err)
{
    struct block block = {.count = 0};
    enum kdmp_status status = KDMP_OK;
    uint64_t i;

    for (i = 0; i < limit; i++) {
        const uint8_t *entry =
            table_entry(dump, &block, i, limit, &status, err);

        if (entry == NULL)
            return status;
        if (load_le64(entry) == 0)
            break;
    }
    *count_out = i;
    return KDMP_OK;
}

/* Read the table's 'limit' entries into 'runs'. */
static enum kdmp_status
read_table(struct kdmp_dump *dump, struct kdmp_run *runs, uint64_t limit,
           uint64_t *used_out, uint64_t *total_out, struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint64_t table = info->header_size + TABLE_FROM, used = 0, total = 0, i;
    int counted = info->field[KDMP_F_DUMP_TYPE] == 0xa;
    struct block block = {.count = 0};
    enum kdmp_status status = KDMP_OK;

    for (i = 0; i < limit; i++) {
        uint64_t where = table + i * ENTRY_SIZE, pfn, pages;
        const uint8_t *entry =
            table_entry(dump, &block, i, limit, &status, err);

        if (entry == NULL)
            return status;
        pfn = load_le64(entry);
        pages = load_le64(entry + 8);
        if (counted && total == info->pages_claimed)
            break;
        if (pages == 0)
            continue;
        status = add_range(&runs[used], pfn, pages, &total, where, err);
        if (status != KDMP_OK)
            return status;
        if (counted && total > info->pages_claimed)
            return kdmp_fail(err, KDMP_E_FORMAT, where,
                             "the ranges describe 0x%" PRIx64
                             " pages, more than the total of 0x%" PRIx64,
                             total, info->pages_claimed);
        runs[used].file_offset =
            info->first_page + ((total - pages) << PAGE_SHIFT);
        used++;
    }
    *used_out = used;
    *total_out = total;
    return KDMP_OK;
}

enum kdmp_status
kdmp_load_ranges(struct kdmp_dump *dump, struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint64_t base = info->header_size, table = base + TABLE_FROM;
    uint64_t metadata, limit, used = 0, total = 0;
    struct kdmp_run *runs;
    uint8_t block[TABLE_FROM];
    enum kdmp_status status;

    status = kdmp_file_read(&dump->file, base, block, sizeof(block), err);
    if (status != KDMP_OK) {
        if (err != NULL)
            err->where = dump->file.size;
        return status;
    }
    metadata = load_le64(block + 0x10);
    info->layout = KDMP_LAYOUT_RANGES;
    info->first_page = load_le64(block + 0x18);
    if (metadata < ENTRY_SIZE || metadata % ENTRY_SIZE != 0)
        return kdmp_fail(err, KDMP_E_FORMAT, base + 0x10,
                         "the metadata size 0x%" PRIx64
                         " is not a positive multiple of 0x10",
                         metadata);
    if (metadata > dump->file.size
        || base + METADATA_FROM > dump->file.size - metadata)
        return kdmp_fail(err, KDMP_E_FORMAT, dump->file.size,
                         "the file ends inside the range table (metadata of "
                         "0x%" PRIx64 " bytes)",
                         metadata);
    if (info->first_page < base + METADATA_FROM + metadata)
        return kdmp_fail(err, KDMP_E_FORMAT, base + 0x18,
                         "the first page (0x%" PRIx64
                         ") lies inside the range table",
                         info->first_page);
    if (info->first_page > UINT64_MAX - (MAX_PAGES << PAGE_SHIFT))
        return kdmp_fail(err, KDMP_E_FORMAT, base + 0x18,
                         "the first page's offset 0x%" PRIx64
                         " is beyond any file",
                         info->first_page);
    if (info->field[KDMP_F_DUMP_TYPE] == 0xa)
        info->pages_claimed = load_le64(block + 0x28);
    limit = (metadata - ENTRY_SIZE) / ENTRY_SIZE;
    if (limit == 0)
        return kdmp_fail(err, KDMP_E_FORMAT, table, "the range table is empty");
    /* The size may cover much that is unused: allocate for what is there. */
    status = count_entries(dump, limit, &limit, err);
    if (status != KDMP_OK)
        return status;
    if (limit > MAX_RANGES)
        return kdmp_fail(err, KDMP_E_FORMAT, table,
                         "%" PRIu64 " ranges, above the limit of %" PRIu64,
                         limit, MAX_RANGES);

    runs = kdmp_calloc(limit + 1, sizeof(*runs));
    if (runs == NULL)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    status = read_table(dump, runs, limit, &used, &total, err);
    if (status == KDMP_OK
        && kdmp_index_runs(&dump->index, PAGE_SHIFT, runs, used,
                           dump->file.size, &info->pages_overlapped)
               != KDMP_OK)
        status = kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    kdmp_free(runs);
    info->data_end = info->first_page + (total << PAGE_SHIFT);
    return status;
}
