/*
 * fmt_runs.c: DumpType 1.  The header's physical memory descriptor lists runs
 * of frames; their pages follow the header in the same order, without gaps.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "internal.h"

enum kdmp_status
kdmp_load_runs(struct kdmp_dump *dump, const uint8_t *header,
               struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    int is64 = info->pointer_size == 8;
    uint32_t entry_size = is64 ? 16 : 8;
    uint32_t count_offset = is64 ? 0x88 : 0x64;
    uint32_t table = is64 ? 0x98 : 0x6c;
    uint32_t limit = is64 ? MAX_RUNS64 : MAX_RUNS32;
    struct kdmp_run runs[MAX_RUNS32];
    uint64_t count = info->field[KDMP_F_NUMBER_OF_RUNS];
    uint64_t offset = info->header_size, total = 0, used = 0, i;

    if (!has_field(info, KDMP_F_NUMBER_OF_RUNS))
        return kdmp_fail(err, KDMP_E_FORMAT, count_offset,
                         "a full dump without a list of physical memory runs "
                         "(the field was never written)");
    if (count == 0 || count > limit)
        return kdmp_fail(err, KDMP_E_FORMAT, count_offset,
                         "%" PRIu64 " physical memory runs; 1 to %" PRIu32
                         " fit in the header",
                         count, limit);
    for (i = 0; i < count; i++) {
        uint64_t where = table + i * entry_size;
        const uint8_t *entry = header + where;
        uint64_t pfn = load_le(entry, entry_size / 2);
        uint64_t pages = load_le(entry + entry_size / 2, entry_size / 2);

        if (pages == 0)
            continue;
        if (pfn >= MAX_PFN || pages > MAX_PFN - pfn)
            return kdmp_fail(err, KDMP_E_FORMAT, where,
                             "run %" PRIu64 " (frame 0x%" PRIx64 ", 0x%" PRIx64
                             " pages) lies beyond the 52-bit address space",
                             i, pfn, pages);
        total += pages;
        if (total >= MAX_PAGES)
            return kdmp_fail(err, KDMP_E_FORMAT, where,
                             "the runs describe 0x%" PRIx64
                             " pages or more, above the limit of 64 TiB",
                             total);
        runs[used].pfn = pfn;
        runs[used].count = pages;
        runs[used].file_offset = offset;
        used++;
        offset += pages << PAGE_SHIFT;
    }
    if (used == 0)
        return kdmp_fail(err, KDMP_E_FORMAT, count_offset,
                         "all physical memory runs are empty");
    info->layout = KDMP_LAYOUT_RUNS;
    info->first_page = info->header_size;
    info->pages_claimed = info->field[KDMP_F_NUMBER_OF_PAGES];
    info->data_end = offset;
    if (kdmp_index_runs(&dump->index, PAGE_SHIFT, runs, used, dump->file.size,
                        &info->pages_overlapped)
        != KDMP_OK)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    return KDMP_OK;
}
