/*
 * fuzz_use.h: what the targets that open files do with one.  It is opened
 * twice, from memory and as a stream; both must say and read the same.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_FUZZ_USE_H
#define KDMP_FUZZ_USE_H

#include "fuzz.h"

enum { MAX_RUNS_SEEN = 64, MAX_RANGES_SEEN = 24, BUFFER = 0x1800 };

struct bytes {
    const uint8_t *ptr;
    size_t size;
};

static inline int
read_at(void *context, uint64_t offset, void *buffer, size_t size)
{
    const struct bytes *bytes = context;

    REQUIRE(offset <= bytes->size && size <= bytes->size - offset);
    memcpy(buffer, bytes->ptr + offset, size);
    return 0;
}

/* The same read from both dumps. */
static inline void
read_both(const struct kdmp_space *mapped, const struct kdmp_space *streamed,
          uint64_t address, uint64_t size)
{
    uint8_t *one = calloc(1, BUFFER), *two = calloc(1, BUFFER);
    struct kdmp_fault fault_one, fault_two;
    uint64_t done_one, done_two;
    enum kdmp_status status;

    REQUIRE(one != NULL && two != NULL && size <= BUFFER);
    status = kdmp_read(mapped, address, one, size, &done_one, &fault_one);
    REQUIRE(kdmp_read(streamed, address, two, size, &done_two, &fault_two)
            == status);
    REQUIRE(done_one == done_two && done_one <= size);
    REQUIRE((status == KDMP_OK) == (done_one == size));
    REQUIRE(memcmp(one, two, BUFFER) == 0);
    if (status != KDMP_OK) {
        REQUIRE(fault_one.status == status && fault_one.missing > 0);
        REQUIRE(fault_one.address == fault_two.address);
        REQUIRE(status == KDMP_E_ADDRESS_END
                || fault_one.address == address + done_one);
    }
    free(one);
    free(two);
}

static inline void
read_strings(const struct kdmp_space *space, uint64_t address)
{
    static const unsigned units[] = {1, 2, 4};
    unsigned i;

    for (i = 0; i < 3; i++) {
        uint8_t *buffer = malloc(300);
        uint64_t done;

        REQUIRE(buffer != NULL);
        (void)kdmp_read_string(space, address, units[i], buffer, 300, &done,
                               NULL);
        REQUIRE(done <= 300);
        free(buffer);
    }
}

/* In all modes.  'tlb' is for walks only: the pages that reads would have it
 * keep are those of one mode. */
static inline void
use_address(struct kdmp_space *mapped, struct kdmp_space *streamed,
            struct kdmp_tlb *tlb, uint64_t address)
{
    int paging, again;

    for (paging = 0; paging < KDMP_PAGING_COUNT; paging++) {
        struct kdmp_translation walk = {0};

        mapped->paging = streamed->paging = (enum kdmp_paging)paging;
        REQUIRE(kdmp_translate(mapped, address, &walk)
                == (enum kdmp_status)walk.status);
        REQUIRE(walk.depth <= 5);
        for (again = 0; again < 2; again++) {
            struct kdmp_space remembering = *mapped;
            struct kdmp_translation other = {0};

            remembering.tlb = tlb;
            (void)kdmp_translate(&remembering, address, &other);
            REQUIRE(memcmp(&walk, &other, sizeof(walk)) == 0);
        }
        read_both(mapped, streamed, address, 16);
        read_both(mapped, streamed, address - 0x800, BUFFER);
        read_strings(mapped, address);
    }
}

static inline void
use_runs(const struct kdmp_dump *dump, struct kdmp_space *mapped,
         struct kdmp_space *streamed)
{
    const struct kdmp_info *info = kdmp_get_info(dump);
    uint64_t pfn = 0, total = 0;
    struct kdmp_run run;
    int seen;

    for (seen = 0; seen < MAX_RUNS_SEEN && kdmp_next_run(dump, pfn, &run);
         seen++) {
        uint64_t last = run.pfn + run.count - 1;

        REQUIRE(run.count > 0 && run.pfn >= pfn && last < info->pfn_end);
        REQUIRE(run.file_offset <= info->file_size
                && run.count <= (info->file_size - run.file_offset) >> 12);
        REQUIRE(kdmp_frame_status(dump, run.pfn) == KDMP_OK);
        REQUIRE(kdmp_frame_status(dump, last) == KDMP_OK);
        mapped->paging = streamed->paging = KDMP_PAGING_PHYSICAL;
        read_both(mapped, streamed, run.pfn << 12, 0x1000);
        read_both(mapped, streamed, (last << 12) + 0xff8, 16);
        total += run.count;
        pfn = last + 1;
    }
    REQUIRE(total <= info->pages_available);
    REQUIRE(kdmp_count_frames(dump, 0, pfn) == total);
    if (seen < MAX_RUNS_SEEN)
        REQUIRE(total == info->pages_available);
    REQUIRE(kdmp_count_frames(dump, 0, UINT64_MAX) == info->pages_available);
    REQUIRE(info->pages_available <= info->pages_described);
    /* The pieces of a raw image may repeat parts of the file. */
    REQUIRE(info->layout == KDMP_LAYOUT_RAW
            || info->pages_available <= info->file_size >> 12);
}

/* The virtual ranges of a triage dump: each is in the file and readable, and
 * its neighbours are where kdmp_nearest_va() says. */
static inline void
use_ranges(const struct kdmp_dump *dump, struct kdmp_space *mapped,
           struct kdmp_space *streamed)
{
    const struct kdmp_info *info = kdmp_get_info(dump);
    uint64_t count = kdmp_va_range_count(dump), i, value;
    struct kdmp_run below, above;
    struct kdmp_va_range range;
    int field, found;

    REQUIRE(info->layout == KDMP_LAYOUT_TRIAGE || count == 0);
    REQUIRE(!kdmp_get_va_range(dump, count, &range));
    for (field = -1; field <= KDMP_TRIAGE_FIELD_COUNT; field++)
        REQUIRE(kdmp_triage_field(dump, field, &value)
                == (info->layout == KDMP_LAYOUT_TRIAGE
                    && kdmp_triage_field_name(field) != NULL));
    mapped->paging = streamed->paging = KDMP_PAGING_TRIAGE;
    for (i = 0; i < count && i < MAX_RANGES_SEEN; i++) {
        REQUIRE(kdmp_get_va_range(dump, i, &range));
        REQUIRE(kdmp_va_origin_name((int)range.origin) != NULL);
        REQUIRE(range.size > 0 && range.file_offset < info->file_size);
        REQUIRE(range.address <= UINT64_MAX - range.size);
        read_both(mapped, streamed, range.address, 64);
        read_both(mapped, streamed, range.address + range.size - 8, 16);
        found = kdmp_nearest_va(dump, range.address - 1, &below, &above);
        REQUIRE(!(found & 1) || below.pfn <= range.address - 1);
        REQUIRE(!(found & 2) || above.pfn >= range.address - 1);
        read_both(mapped, streamed, range.address - 8, BUFFER);
        read_strings(mapped, range.address + range.size - 3);
    }
}

/* Everything else that one does with a dump. */
static inline void
use_dump(const struct kdmp_dump *dump, const struct kdmp_dump *other)
{
    const struct kdmp_info *info = kdmp_get_info(dump);
    struct kdmp_space mapped = {0}, streamed = {0};
    enum kdmp_paging_source how;
    enum kdmp_paging paging;
    struct kdmp_tlb *tlb;
    int field;

    REQUIRE(memcmp(info, kdmp_get_info(other), sizeof(*info)) == 0);
    REQUIRE((unsigned)info->layout < KDMP_LAYOUT_COUNT);
    mapped.source = kdmp_get_source(dump);
    mapped.dump = dump;
    streamed.source = kdmp_get_source(other);
    streamed.dump = other;
    mapped.root = streamed.root = info->field[KDMP_F_DIRECTORY_TABLE_BASE];
    use_runs(dump, &mapped, &streamed);
    use_ranges(dump, &mapped, &streamed);
    (void)kdmp_choose_paging(dump, mapped.root, &paging, &how);
    for (field = 0; field < KDMP_FIELD_COUNT; field++)
        REQUIRE(!(info->absent >> field & 1) || info->field[field] == 0);
    REQUIRE(kdmp_tlb_open(1, NULL, &tlb) == KDMP_OK);
    use_address(&mapped, &streamed, tlb, 0);
    use_address(&mapped, &streamed, tlb, 0x10000);
    use_address(&mapped, &streamed, tlb, UINT64_MAX - 8);
    use_address(&mapped, &streamed, tlb, UINT32_MAX - 8);
    use_address(&mapped, &streamed, tlb, UINT64_C(0xFFFFF80000000000));
    use_address(&mapped, &streamed, tlb,
                info->field[KDMP_F_KD_DEBUGGER_DATA_BLOCK]);
    use_address(&mapped, &streamed, tlb,
                info->field[KDMP_F_PS_LOADED_MODULE_LIST]);
    kdmp_tlb_close(tlb);
}

/* Roots by trial: the same from both, and one that can be read. */
static inline void
find_roots(const struct kdmp_dump *dump, const struct kdmp_dump *other)
{
    int paging;

    for (paging = 0; paging < KDMP_PAGING_COUNT; paging++) {
        uint64_t one, two;
        enum kdmp_status status =
            kdmp_find_root(dump, (enum kdmp_paging)paging, &one);

        REQUIRE(kdmp_find_root(other, (enum kdmp_paging)paging, &two)
                == status);
        REQUIRE(one == two && (status == KDMP_OK || one == 0));
        if (status == KDMP_OK)
            REQUIRE(kdmp_frame_status(dump, one >> 12) == KDMP_OK);
        else
            REQUIRE(status == KDMP_E_NOT_PRESENT || status == KDMP_E_ARGUMENT);
    }
}

/* Use what opened, or check that both ways failed alike. */
static inline void
use_both(enum kdmp_status status, struct kdmp_dump *dump,
         struct kdmp_dump *other, const struct kdmp_error *err,
         const struct kdmp_error *other_err)
{
    if (status == KDMP_OK) {
        use_dump(dump, other);
        find_roots(dump, other);
    } else {
        REQUIRE(dump == NULL && other == NULL);
        REQUIRE(err->status == status && err->message[0] != '\0');
        REQUIRE(strcmp(err->message, other_err->message) == 0);
        REQUIRE(err->where == other_err->where);
    }
    kdmp_close(dump);
    kdmp_close(other);
}

#endif /* KDMP_FUZZ_USE_H */
