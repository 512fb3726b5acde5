/*
 * fmt_raw.c: memory without a dump header: flat images, images in pieces
 * (runs given by the caller), and ELF cores of virtual machines, whose
 * PT_LOAD segments are runs of physical memory.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "internal.h"

/* ELF: what little is needed here. */
enum {
    ELF_CORE = 4,
    ELF_LOAD = 1,
    ELF_386 = 3,
    ELF_X86_64 = 62,
    ELF_AARCH64 = 183
};

#define MAX_RAW_RUNS (UINT64_C(1) << 16)

/* Segments of an ELF core may show the same bytes of the file as different
 * frames, but not all of it more often than this: a small file could stand
 * for terabytes otherwise. */
#define MAX_TIMES_SHOWN 16u

static uint32_t
image_type_of(enum kdmp_machine machine)
{
    switch (machine) {
    case KDMP_MACHINE_X86:
        return 0x14c;
    case KDMP_MACHINE_ARM64:
        return 0xaa64;
    case KDMP_MACHINE_X64:
        return 0x8664;
    default:
        return 0;
    }
}

/* Check a run and give it to 'runs'; parts of a page are left out. */
static enum kdmp_status
add_run(struct kdmp_run *run, uint64_t paddr, uint64_t offset, uint64_t size,
        uint64_t *total, struct kdmp_error *err)
{
    uint64_t skip = (PAGE_SIZE - paddr % PAGE_SIZE) % PAGE_SIZE;

    run->count = 0;
    if (size < skip + PAGE_SIZE)
        return KDMP_OK;
    run->pfn = paddr / PAGE_SIZE + (skip != 0);
    run->count = (size - skip) / PAGE_SIZE;
    run->file_offset = offset + skip;
    if (run->pfn >= MAX_PFN || run->count > MAX_PFN - run->pfn
        || run->count >= MAX_PAGES - *total || run->file_offset < skip
        || run->file_offset > UINT64_MAX - (MAX_PAGES << PAGE_SHIFT))
        return kdmp_fail(err, KDMP_E_FORMAT, offset,
                         "a run at physical 0x%" PRIx64 " of 0x%" PRIx64
                         " bytes is beyond the limits",
                         paddr, size);
    *total += run->count;
    return KDMP_OK;
}

static enum kdmp_status
index_raw(struct kdmp_dump *dump, const struct kdmp_run *runs, uint64_t count,
          struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint64_t i, end;

    if (kdmp_index_runs(&dump->index, PAGE_SHIFT, runs, count, dump->file.size,
                        &info->pages_overlapped)
        != KDMP_OK)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    info->first_page = UINT64_MAX;
    for (i = 0; i < count; i++) {
        end = runs[i].file_offset + (runs[i].count << PAGE_SHIFT);
        info->first_page = min_u64(info->first_page, runs[i].file_offset);
        if (end > info->data_end)
            info->data_end = end;
    }
    return KDMP_OK;
}

/* Read the program headers of an ELF core: 'table' of 'count' entries. */
static enum kdmp_status
load_segments(struct kdmp_dump *dump, int is64, uint64_t table, uint64_t count,
              uint64_t entry_size, struct kdmp_error *err)
{
    struct kdmp_run *runs = kdmp_calloc(count, sizeof(*runs));
    uint64_t used = 0, total = 0, i;
    enum kdmp_status status = KDMP_OK;

    if (runs == NULL)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    for (i = 0; i < count && status == KDMP_OK; i++) {
        uint8_t p[56];

        status = kdmp_file_read(&dump->file, table + i * entry_size, p,
                                is64 ? 56 : 32, err);
        if (status != KDMP_OK || load_le32(p) != ELF_LOAD)
            continue;
        status =
            add_run(&runs[used], load_le(p + (is64 ? 24 : 12), is64 ? 8 : 4),
                    load_le(p + (is64 ? 8 : 4), is64 ? 8 : 4),
                    load_le(p + (is64 ? 32 : 16), is64 ? 8 : 4), &total, err);
        if (runs[used].count != 0)
            used++;
    }
    if (status == KDMP_OK && used == 0)
        status = kdmp_fail(err, KDMP_E_FORMAT, table,
                           "an ELF core without memory segments");
    if (status == KDMP_OK)
        status = index_raw(dump, runs, used, err);
    kdmp_free(runs);
    if (status == KDMP_OK
        && dump->index.pages_available / MAX_TIMES_SHOWN > dump->file.size
               >> PAGE_SHIFT)
        return kdmp_fail(err, KDMP_E_FORMAT, table,
                         "the segments of the ELF core show 0x%" PRIx64
                         " pages, more than %u times the file",
                         dump->index.pages_available, MAX_TIMES_SHOWN);
    return status;
}

static enum kdmp_status
load_elf(struct kdmp_dump *dump, const uint8_t *head, uint64_t head_size,
         struct kdmp_error *err)
{
    int is64 = head[4] == 2;
    struct span span = {head, head_size};
    const uint8_t *eh = span_at(span, 0, is64 ? 64 : 52);
    uint64_t table, count, entry_size;

    if (eh == NULL)
        return kdmp_fail(err, KDMP_E_FORMAT, dump->file.size,
                         "the file ends inside the ELF header");
    if (head[5] != 1 || load_le16(eh + 16) != ELF_CORE)
        return kdmp_fail(err, KDMP_E_WRONG_FILE, 0,
                         "an ELF file, but not a little-endian core");
    switch (load_le16(eh + 18)) {
    case ELF_386:
        dump->info.machine = KDMP_MACHINE_X86;
        break;
    case ELF_X86_64:
        dump->info.machine = KDMP_MACHINE_X64;
        break;
    case ELF_AARCH64:
        dump->info.machine = KDMP_MACHINE_ARM64;
        break;
    default:
        break;
    }
    table = load_le(eh + (is64 ? 32 : 28), is64 ? 8 : 4);
    entry_size = load_le16(eh + (is64 ? 54 : 42));
    count = load_le16(eh + (is64 ? 56 : 44));
    if (count == 0xffff) { /* PN_XNUM: the first section header knows */
        uint8_t section[64];
        uint64_t sections = load_le(eh + (is64 ? 40 : 32), is64 ? 8 : 4);
        enum kdmp_status status =
            kdmp_file_read(&dump->file, sections, section, is64 ? 64 : 40, err);

        if (status != KDMP_OK)
            return status;
        count = load_le32(section + (is64 ? 44 : 28)); /* sh_info */
    }
    if (entry_size < (is64 ? 56u : 32u) || count == 0 || count > MAX_RAW_RUNS
        || table > dump->file.size
        || count * entry_size > dump->file.size - table)
        return kdmp_fail(err, KDMP_E_FORMAT, table,
                         "the program headers of the ELF core (%" PRIu64
                         " of %" PRIu64 " bytes) do not fit in the file",
                         count, entry_size);
    return load_segments(dump, is64, table, count, entry_size, err);
}

enum kdmp_status
kdmp_load_raw(struct kdmp_dump *dump, const struct kdmp_raw *raw,
              struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint8_t head[64] = {0};
    uint64_t head_size = min_u64(dump->file.size, sizeof(head));
    uint64_t total = 0, used = 0, i;
    struct kdmp_run *runs;
    enum kdmp_status status;

    info->layout = KDMP_LAYOUT_RAW;
    info->file_size = dump->file.size;
    info->machine = KDMP_MACHINE_X64;
    info->absent = (UINT64_C(1) << KDMP_FIELD_COUNT) - 1;
    status = kdmp_file_read(&dump->file, 0, head, head_size, err);
    if (status != KDMP_OK)
        return status;
    if (raw->run_count == 0 && memcmp(head, "\177ELF", 4) == 0) {
        status = load_elf(dump, head, head_size, err);
    } else {
        struct kdmp_run whole = {0, dump->file.size / PAGE_SIZE, 0};
        const struct kdmp_run *given = raw->run_count ? raw->runs : &whole;
        uint64_t count = raw->run_count ? raw->run_count : 1;

        if (count > MAX_RAW_RUNS || (raw->run_count == 0 && whole.count == 0))
            return kdmp_fail(err, KDMP_E_FORMAT, dump->file.size,
                             "not a memory image: no whole page in the file, "
                             "or too many runs");
        runs = kdmp_calloc(count, sizeof(*runs));
        if (runs == NULL)
            return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
        for (i = 0; i < count && status == KDMP_OK; i++) {
            if (given[i].pfn >= MAX_PFN || given[i].count >= MAX_PAGES)
                status = kdmp_fail(err, KDMP_E_ARGUMENT, given[i].pfn,
                                   "run %" PRIu64 " is beyond the limits", i);
            else
                status = add_run(&runs[used], given[i].pfn << PAGE_SHIFT,
                                 given[i].file_offset,
                                 given[i].count << PAGE_SHIFT, &total, err);
            if (status == KDMP_OK && runs[used].count != 0)
                used++;
        }
        if (status == KDMP_OK)
            status = index_raw(dump, runs, used, err);
        kdmp_free(runs);
    }
    if (status != KDMP_OK)
        return status;
    if (raw->machine != KDMP_MACHINE_UNKNOWN)
        info->machine = (uint8_t)raw->machine;
    info->pointer_size = info->machine == KDMP_MACHINE_X86 ? 4 : 8;
    info->field[KDMP_F_MACHINE_IMAGE_TYPE] =
        image_type_of((enum kdmp_machine)info->machine);
    info->absent &= ~(UINT64_C(1) << KDMP_F_MACHINE_IMAGE_TYPE);
    return KDMP_OK;
}
