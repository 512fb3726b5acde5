/*
 * fmt_triage.c: DumpType 4, the small dump.  It has no physical pages but
 * pieces of virtual memory: data blocks, the stack, and copies of the
 * processor, process and thread that crashed.
 *
 * A part exists when its offset is not zero and lies in the file;
 * MiniDumpFields is only advice (both readings are seen in real files).
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "internal.h"

/* Blocks are at most what a table may list; 16 bytes each in the file. */
#define MAX_BLOCKS (UINT64_C(1) << 18)
/* Ranges may show the same bytes of the file, but all together not more than
 * this often the file: those behind that are left out. */
#define MAX_TIMES_SHOWN 16u
/* Besides the blocks: stack, data page, KDBG, processor, thread, process. */
#define OTHER_RANGES 6

/* KDDEBUGGER_DATA64 */
enum {
    KDBG_PROCESSOR_BLOCK = 0x218, /* u64, address of KiProcessorBlock */
    KDBG_APC_PROCESS = 0x2A0,     /* u16, offset in KTHREAD */
    KDBG_PRCB_THREAD = 0x2B4,     /* u16, CurrentThread in KPRCB */
    KDBG_PRCB_NUMBER = 0x2BE      /* u16, Number in KPRCB */
};

struct triage_field {
    const char *name;
    uint8_t offset64;
    uint8_t offset32;
    uint8_t size64; /* 0: this dump does not have the field */
    uint8_t size32;
};

/* TRIAGE_DUMP64 and TRIAGE_DUMP32. */
static const struct triage_field fields[] = {
    [KDMP_TF_SERVICE_PACK_BUILD] = {"service_pack_build", 0x0, 0x0, 4, 4},
    [KDMP_TF_SIZE_OF_DUMP] = {"size_of_dump", 0x4, 0x4, 4, 4},
    [KDMP_TF_VALID_OFFSET] = {"valid_offset", 0x8, 0x8, 4, 4},
    [KDMP_TF_CONTEXT_OFFSET] = {"context_offset", 0xc, 0xc, 4, 4},
    [KDMP_TF_EXCEPTION_OFFSET] = {"exception_offset", 0x10, 0x10, 4, 4},
    [KDMP_TF_MM_OFFSET] = {"mm_offset", 0x14, 0x14, 4, 4},
    [KDMP_TF_UNLOADED_DRIVERS_OFFSET] = {"unloaded_drivers_offset", 0x18, 0x18,
                                         4, 4},
    [KDMP_TF_PRCB_OFFSET] = {"prcb_offset", 0x1c, 0x1c, 4, 4},
    [KDMP_TF_PROCESS_OFFSET] = {"process_offset", 0x20, 0x20, 4, 4},
    [KDMP_TF_THREAD_OFFSET] = {"thread_offset", 0x24, 0x24, 4, 4},
    [KDMP_TF_CALL_STACK_OFFSET] = {"call_stack_offset", 0x28, 0x28, 4, 4},
    [KDMP_TF_SIZE_OF_CALL_STACK] = {"size_of_call_stack", 0x2c, 0x2c, 4, 4},
    [KDMP_TF_DRIVER_LIST_OFFSET] = {"driver_list_offset", 0x30, 0x30, 4, 4},
    [KDMP_TF_DRIVER_COUNT] = {"driver_count", 0x34, 0x34, 4, 4},
    [KDMP_TF_STRING_POOL_OFFSET] = {"string_pool_offset", 0x38, 0x38, 4, 4},
    [KDMP_TF_STRING_POOL_SIZE] = {"string_pool_size", 0x3c, 0x3c, 4, 4},
    [KDMP_TF_BROKEN_DRIVER_OFFSET] = {"broken_driver_offset", 0x40, 0x40, 4, 4},
    [KDMP_TF_TRIAGE_OPTIONS] = {"triage_options", 0x44, 0x44, 4, 4},
    [KDMP_TF_TOP_OF_STACK] = {"top_of_stack", 0x48, 0x48, 8, 4},
    [KDMP_TF_DATA_PAGE_ADDRESS] = {"data_page_address", 0x60, 0x4c, 8, 4},
    [KDMP_TF_DATA_PAGE_OFFSET] = {"data_page_offset", 0x68, 0x50, 4, 4},
    [KDMP_TF_DATA_PAGE_SIZE] = {"data_page_size", 0x6c, 0x54, 4, 4},
    [KDMP_TF_DEBUGGER_DATA_OFFSET] = {"debugger_data_offset", 0x70, 0x58, 4, 4},
    [KDMP_TF_DEBUGGER_DATA_SIZE] = {"debugger_data_size", 0x74, 0x5c, 4, 4},
    [KDMP_TF_DATA_BLOCKS_OFFSET] = {"data_blocks_offset", 0x78, 0x60, 4, 4},
    [KDMP_TF_DATA_BLOCKS_COUNT] = {"data_blocks_count", 0x7c, 0x64, 4, 4},
};
_Static_assert(sizeof(fields) / sizeof(fields[0]) == KDMP_TRIAGE_FIELD_COUNT,
               "an offset for every field");

static const char *const origin_names[] = {
    "data block", "call stack", "data page", "debugger data",
    "processor",  "thread",     "process",
};
_Static_assert(sizeof(origin_names) / sizeof(origin_names[0])
                   == KDMP_VA_ORIGIN_COUNT,
               "a name for every origin");

const char *
kdmp_triage_field_name(int field)
{
    if (field < 0 || field >= KDMP_TRIAGE_FIELD_COUNT)
        return NULL;
    return fields[field].name;
}

const char *
kdmp_va_origin_name(int origin)
{
    if (origin < 0 || origin >= KDMP_VA_ORIGIN_COUNT)
        return NULL;
    return origin_names[origin];
}

/* Add a range if it is in the file at least in part and its addresses can be
 * counted. */
static void
add_range(struct kdmp_dump *dump, uint64_t address, uint64_t size,
          uint64_t offset, enum kdmp_va_origin origin)
{
    struct kdmp_va_range *range = &dump->va_ranges[dump->va_range_count];
    uint64_t shown;

    if (dump->info.pointer_size == 4) {
        address &= UINT32_MAX;
        size = min_u64(size, (UINT64_C(1) << 32) - address);
    }
    if (offset == 0 || size == 0 || offset >= dump->file.size
        || address >= UINT64_MAX - size)
        return;
    shown = min_u64(size, dump->file.size - offset);
    if (dump->va_bytes + shown > mul_sat(dump->file.size, MAX_TIMES_SHOWN))
        return;
    dump->va_bytes += shown;
    range->address = address;
    range->size = size;
    range->file_offset = offset;
    range->origin = origin;
    dump->va_range_count++;
}

/* Entries of 'stride' bytes: do the first and the last point into the file? */
static int
blocks_fit(const struct kdmp_dump *dump, uint64_t table, uint64_t count,
           uint32_t stride)
{
    uint64_t which[2] = {0, count - 1};
    int i;

    if (count * stride > dump->file.size - table)
        return 0;
    for (i = 0; i < 2; i++) {
        uint8_t tail[8];

        if (kdmp_file_read(&dump->file, table + which[i] * stride + stride - 8,
                           tail, sizeof(tail), NULL)
                != KDMP_OK
            || load_le32(tail) > dump->file.size
            || load_le32(tail + 4) > dump->file.size - load_le32(tail))
            return 0;
    }
    return 1;
}

static enum kdmp_status
add_blocks(struct kdmp_dump *dump, struct kdmp_error *err)
{
    uint64_t table = dump->triage[KDMP_TF_DATA_BLOCKS_OFFSET];
    uint64_t count = dump->triage[KDMP_TF_DATA_BLOCKS_COUNT], i;
    uint32_t stride = 16;
    uint8_t entry[16];

    if (table == 0 || table >= dump->file.size)
        count = 0;
    /* Two descriptions of 32-bit dumps have 16-byte entries, one has 12. */
    if (count > 0 && dump->info.pointer_size == 4
        && !blocks_fit(dump, table, count, 16)
        && blocks_fit(dump, table, count, 12))
        stride = 12;
    if (count > 0)
        count = min_u64(count, (dump->file.size - table) / stride);
    if (count > MAX_BLOCKS)
        return kdmp_fail(err, KDMP_E_FORMAT, table,
                         "%" PRIu64 " data blocks, above the limit of %" PRIu64,
                         count, MAX_BLOCKS);
    dump->va_ranges =
        kdmp_calloc(count + OTHER_RANGES, sizeof(*dump->va_ranges));
    if (dump->va_ranges == NULL)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    for (i = 0; i < count; i++) {
        enum kdmp_status status =
            kdmp_file_read(&dump->file, table + i * stride, entry, stride, err);

        if (status != KDMP_OK)
            return status;
        add_range(dump, load_le(entry, stride - 8),
                  load_le32(entry + stride - 4), load_le32(entry + stride - 8),
                  KDMP_VA_DATA_BLOCK);
    }
    return KDMP_OK;
}

/* Build the search index from the ranges there are; earlier ones win. */
static enum kdmp_status
build_index(struct kdmp_dump *dump, struct kdmp_error *err)
{
    struct kdmp_run *runs =
        kdmp_calloc(dump->va_range_count + 1, sizeof(*runs));
    uint64_t repeated, i;
    enum kdmp_status status;

    if (runs == NULL)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    for (i = 0; i < dump->va_range_count; i++) {
        runs[i].pfn = dump->va_ranges[i].address;
        runs[i].count = dump->va_ranges[i].size;
        runs[i].file_offset = dump->va_ranges[i].file_offset;
    }
    kdmp_index_deinit(&dump->va_index);
    memset(&dump->va_index, 0, sizeof(dump->va_index));
    status = kdmp_index_runs(&dump->va_index, 0, runs, dump->va_range_count,
                             dump->file.size, &repeated);
    kdmp_free(runs);
    if (status != KDMP_OK)
        return kdmp_fail(err, status, 0, "out of memory");
    return KDMP_OK;
}

/* A number of 'size' bytes in the file; 0 if it is not there. */
static uint64_t
file_number(const struct kdmp_dump *dump, uint64_t offset, unsigned size)
{
    uint8_t bytes[8];

    if (kdmp_file_read(&dump->file, offset, bytes, size, NULL) != KDMP_OK)
        return 0;
    return load_le(bytes, size);
}

/*
 * The copies of processor, thread and process have no address in the header.
 * The thread is KPRCB.CurrentThread, the process KTHREAD.ApcState.Process,
 * and the processor is found in KiProcessorBlock if that array was captured.
 */
static void
add_copies(struct kdmp_dump *dump)
{
    const uint64_t *t = dump->triage;
    unsigned width = dump->info.pointer_size;
    uint64_t kdbg = t[KDMP_TF_DEBUGGER_DATA_OFFSET];
    uint64_t prcb = t[KDMP_TF_PRCB_OFFSET];
    uint64_t thread = t[KDMP_TF_THREAD_OFFSET];
    struct kdmp_space space = {
        .source = &dump->source, .dump = dump, .paging = KDMP_PAGING_TRIAGE};
    uint64_t offset, array, done;
    uint8_t pointer[8];

    if (kdbg == 0 || t[KDMP_TF_DEBUGGER_DATA_SIZE] < KDBG_PRCB_NUMBER + 2)
        return;
    array = file_number(dump, kdbg + KDBG_PROCESSOR_BLOCK, 8);
    offset = file_number(dump, kdbg + KDBG_PRCB_NUMBER, 2);
    if (prcb != 0 && array != 0) {
        uint64_t number = file_number(dump, prcb + offset, 4);

        if (width == 4)
            array &= UINT32_MAX;
        if (number < 0x10000
            && kdmp_read(&space, array + number * width, pointer, width, &done,
                         NULL)
                   == KDMP_OK)
            add_range(dump, load_le(pointer, width),
                      file_number(dump, kdbg + 0x2B0, 2), prcb,
                      KDMP_VA_PROCESSOR);
    }
    if (prcb != 0 && thread != 0) {
        offset = file_number(dump, kdbg + KDBG_PRCB_THREAD, 2);
        if (offset == 0)
            offset = width; /* KPRCB: after MxCsr / MinorVersion ... */
        add_range(dump, file_number(dump, prcb + offset, width),
                  file_number(dump, kdbg + 0x2C0, 2), thread, KDMP_VA_THREAD);
    }
    if (thread != 0 && t[KDMP_TF_PROCESS_OFFSET] != 0) {
        offset = file_number(dump, kdbg + KDBG_APC_PROCESS, 2);
        if (offset != 0)
            add_range(dump, file_number(dump, thread + offset, width),
                      file_number(dump, kdbg + 0x2A8, 2),
                      t[KDMP_TF_PROCESS_OFFSET], KDMP_VA_PROCESS);
    }
}

enum kdmp_status
kdmp_load_triage(struct kdmp_dump *dump, struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    int is64 = info->pointer_size == 8;
    uint32_t size = is64 ? 0x80 : 0x68;
    uint64_t *t = dump->triage;
    uint8_t block[0x80];
    enum kdmp_status status;
    unsigned i;

    info->layout = KDMP_LAYOUT_TRIAGE;
    status = kdmp_file_read(&dump->file, info->header_size, block, size, err);
    if (status == KDMP_E_FORMAT)
        return kdmp_fail(err, status, dump->file.size,
                         "the file ends inside the triage header");
    if (status != KDMP_OK)
        return status;
    for (i = 0; i < KDMP_TRIAGE_FIELD_COUNT; i++)
        t[i] = load_le(block + (is64 ? fields[i].offset64 : fields[i].offset32),
                       is64 ? fields[i].size64 : fields[i].size32);
    info->data_end = t[KDMP_TF_SIZE_OF_DUMP];

    /* In the order of trust: blocks, stack, then copies. */
    status = add_blocks(dump, err);
    if (status != KDMP_OK)
        return status;
    add_range(dump, t[KDMP_TF_TOP_OF_STACK], t[KDMP_TF_SIZE_OF_CALL_STACK],
              t[KDMP_TF_CALL_STACK_OFFSET], KDMP_VA_CALL_STACK);
    add_range(dump, t[KDMP_TF_DATA_PAGE_ADDRESS], t[KDMP_TF_DATA_PAGE_SIZE],
              t[KDMP_TF_DATA_PAGE_OFFSET], KDMP_VA_DATA_PAGE);
    if (has_field(info, KDMP_F_KD_DEBUGGER_DATA_BLOCK))
        add_range(dump, info->field[KDMP_F_KD_DEBUGGER_DATA_BLOCK],
                  t[KDMP_TF_DEBUGGER_DATA_SIZE],
                  t[KDMP_TF_DEBUGGER_DATA_OFFSET], KDMP_VA_DEBUGGER_DATA);
    status = build_index(dump, err);
    if (status != KDMP_OK)
        return status;
    /* Finding the copies takes reads through what has been indexed. */
    add_copies(dump);
    return build_index(dump, err);
}

int
kdmp_triage_field(const struct kdmp_dump *dump, int field, uint64_t *value_out)
{
    *value_out = 0;
    if (dump->info.layout != KDMP_LAYOUT_TRIAGE || field < 0
        || field >= KDMP_TRIAGE_FIELD_COUNT)
        return 0;
    *value_out = dump->triage[field];
    return 1;
}

uint64_t
kdmp_va_range_count(const struct kdmp_dump *dump)
{
    return dump->va_range_count;
}

int
kdmp_get_va_range(const struct kdmp_dump *dump, uint64_t number,
                  struct kdmp_va_range *out)
{
    if (number >= dump->va_range_count)
        return 0;
    *out = dump->va_ranges[number];
    return 1;
}

int
kdmp_nearest_va(const struct kdmp_dump *dump, uint64_t vaddr,
                struct kdmp_run *below_out, struct kdmp_run *above_out)
{
    const struct kdmp_segment *below = index_segment(&dump->va_index, vaddr);
    int found = 0;

    if (below != NULL) {
        below_out->pfn = below->pfn;
        below_out->count = below->available;
        below_out->file_offset = below->offset;
        found |= 1;
    }
    if (kdmp_index_next_run(&dump->va_index, vaddr, above_out))
        found |= 2;
    return found;
}
