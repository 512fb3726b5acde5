/*
 * fuzz_batch.c: many translations and reads at once, and reads through a
 * translation cache, beside single ones without.
 *
 * The input is a program for fuzz_memory.h.  A command that is no store adds
 * its u64 to the addresses; the low 7 bits of the last one's u32 are the size
 * of the reads.  Bits 8-10 of each u32 are how far apart copies of an address
 * are added, so that pages follow each other.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_memory.h"

enum { MAX_ADDRESSES = 150 };

const struct fuzz_shape fuzz_shape = {FUZZ_PROGRAM, MEMORY_HEAD,
                                      MEMORY_COMMAND};

static void
check_translations(const struct kdmp_space *space, const uint64_t *addresses,
                   size_t count)
{
    uint64_t *paddrs = malloc((count + 1) * sizeof(*paddrs));
    uint8_t *statuses = malloc(count + 1);
    size_t i;

    REQUIRE(paddrs != NULL && statuses != NULL);
    paddrs[count] = 0x5a5a;
    statuses[count] = 0x5a;
    REQUIRE(kdmp_translate_many(space, addresses, count, paddrs, statuses)
            == KDMP_OK);
    REQUIRE(paddrs[count] == 0x5a5a && statuses[count] == 0x5a);
    for (i = 0; i < count; i++) {
        struct kdmp_translation walk;

        REQUIRE(statuses[i] == kdmp_translate(space, addresses[i], &walk));
        REQUIRE(paddrs[i]
                == (statuses[i] == KDMP_OK ? walk.paddr : UINT64_MAX));
    }
    free(paddrs);
    free(statuses);
}

static void
check_reads(const struct kdmp_space *space, const uint64_t *addresses,
            size_t count, uint64_t size)
{
    uint8_t *all = malloc(count * size + 1), *one = calloc(1, size + 1);
    uint8_t *statuses = malloc(count + 1);
    size_t i;

    REQUIRE(all != NULL && one != NULL && statuses != NULL);
    memset(all, 0xa5, count * size + 1);
    statuses[count] = 0x5a;
    REQUIRE(kdmp_read_many(space, addresses, count, size, all, statuses)
            == KDMP_OK);
    REQUIRE(all[count * size] == 0xa5 && statuses[count] == 0x5a);
    for (i = 0; i < count; i++) {
        uint64_t done;

        memset(one, 0, size);
        REQUIRE(kdmp_read(space, addresses[i], one, size, &done, NULL)
                == (enum kdmp_status)statuses[i]);
        memset(one + done, 0, size - done);
        REQUIRE(memcmp(all + i * size, one, size) == 0);
    }
    free(all);
    free(one);
    free(statuses);
}

/* The cache must not show, whatever is in it. */
static void
check_cache(const struct kdmp_space *space, const uint64_t *addresses,
            size_t count, uint64_t size)
{
    struct kdmp_space cached = *space;
    struct kdmp_tlb *tlb;
    struct kdmp_tlb_info info;
    size_t i;
    int round;

    REQUIRE(kdmp_tlb_open(1 + count % 7, NULL, &tlb) == KDMP_OK);
    cached.tlb = tlb;
    for (round = 0; round < 2; round++) {
        for (i = 0; i < count; i++) {
            require_same_read(&cached, space, addresses[i], size);
            if (i % 5 == 4)
                (void)kdmp_tlb_flush_page(tlb, addresses[i / 2]);
            kdmp_tlb_get_info(tlb, &info);
            REQUIRE(info.size <= info.capacity);
        }
        check_reads(&cached, addresses, count, size);
        check_translations(&cached, addresses, count);
    }
    kdmp_tlb_flush(tlb);
    kdmp_tlb_get_info(tlb, &info);
    REQUIRE(info.size == 0);
    kdmp_tlb_close(tlb);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory memory;
    struct kdmp_space space;
    struct use uses[MAX_ADDRESSES];
    uint64_t addresses[MAX_ADDRESSES], width;
    size_t count = 0, used, i;

    if (size < MEMORY_HEAD)
        return 0;
    memory_init(&memory, &space, data);
    used = memory_program(&memory, data + MEMORY_HEAD, size - MEMORY_HEAD, uses,
                          MAX_ADDRESSES);
    for (i = 0; i < used; i++) {
        uint64_t step = (uint64_t)(uses[i].what >> 8 & 7) * 0x800, copies;

        for (copies = 0; copies < 4 && count < MAX_ADDRESSES; copies++) {
            addresses[count++] = uses[i].value + copies * step;
            if (step == 0)
                break;
        }
    }
    width = used > 0 ? uses[used - 1].what & 0x7f : 8;
    check_translations(&space, addresses, count);
    check_reads(&space, addresses, count, width);
    check_cache(&space, addresses, count, width);
    memory_deinit(&memory);
    return 0;
}
