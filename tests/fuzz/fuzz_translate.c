/*
 * fuzz_translate.c: arbitrary page tables behind a page source that is not a
 * dump.
 *
 * The input is a program for fuzz_memory.h.  A command that is no store
 * translates and reads at its u64; the low 13 bits of the u32 are the size.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_memory.h"

const struct fuzz_shape fuzz_shape = {FUZZ_PROGRAM, MEMORY_HEAD,
                                      MEMORY_COMMAND};

static void
check_walk(const struct memory *memory, const struct kdmp_translation *walk)
{
    unsigned i;

    REQUIRE(walk->depth <= 5 && walk->level <= 5);
    REQUIRE(walk->state < KDMP_PTE_STATE_COUNT);
    REQUIRE((walk->page_size & (walk->page_size - 1)) == 0);
    for (i = 0; i < walk->depth; i++) {
        uint64_t paddr = walk->entries[i].paddr;
        int narrow = walk->paging == KDMP_PAGING_X86;

        REQUIRE(paddr < MEMORY_SIZE && paddr >> 12 != memory->absent);
        REQUIRE(walk->entries[i].value
                == fuzz_load(memory->bytes + paddr, narrow ? 4 : 8));
    }
    if (walk->status != KDMP_OK || walk->depth == 0)
        return;
    REQUIRE(walk->state == KDMP_PTE_VALID || walk->state == KDMP_PTE_TRANSITION
            || (walk->state == KDMP_PTE_PROTOTYPE && walk->prototype != 0));
    REQUIRE(((walk->paddr ^ walk->vaddr) & (walk->page_size - 1)) == 0);
    REQUIRE(walk->paddr >> 52 == 0);
}

/* A read is its bytes, one by one. */
static void
check_read(const struct kdmp_space *space, uint64_t address, uint64_t size)
{
    uint8_t *buffer = malloc(size ? size : 1);
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t done, one, i, step;
    uint8_t byte;

    REQUIRE(buffer != NULL);
    status = kdmp_read(space, address, buffer, size, &done, &fault);
    REQUIRE(done <= size && (status == KDMP_OK) == (done == size));
    step = done / 8 + 1;
    for (i = 0; i < done; i += step) {
        REQUIRE(kdmp_read(space, address + i, &byte, 1, &one, NULL) == KDMP_OK);
        REQUIRE(byte == buffer[i]);
    }
    if (status == KDMP_E_ADDRESS_END) {
        REQUIRE(address + done == 0
                || address + done == kdmp_last_address(space->paging) + 1);
    } else if (status != KDMP_OK) {
        REQUIRE(fault.status == status);
        REQUIRE(fault.address == address + done && fault.missing > 0);
        REQUIRE(kdmp_read(space, fault.address, &byte, 1, &one, NULL)
                == status);
        /* The last missing byte fails as well. */
        if (fault.missing - 1 <= UINT64_MAX - fault.address)
            REQUIRE(kdmp_read(space, fault.address + fault.missing - 1, &byte,
                              1, &one, NULL)
                    != KDMP_OK);
    }
    free(buffer);
}

/* A probe says what a read of one byte does, and no less far. */
static void
check_probe(const struct kdmp_space *space, uint64_t address)
{
    struct kdmp_fault probed = {0}, read = {0};
    uint64_t done;
    uint8_t byte;
    enum kdmp_status status = kdmp_probe_byte(space, address, &probed);

    REQUIRE(kdmp_read(space, address, &byte, 1, &done, &read) == status);
    if (status == KDMP_OK)
        return;
    REQUIRE(probed.status == status && probed.address == address);
    REQUIRE(probed.missing >= read.missing && probed.paddr == read.paddr);
    if (probed.missing - 1 <= UINT64_MAX - address)
        REQUIRE(kdmp_read(space, address + (probed.missing - 1), &byte, 1,
                          &done, NULL)
                != KDMP_OK);
}

static void
check_string(const struct kdmp_space *space, uint64_t address, unsigned unit,
             uint64_t limit)
{
    uint8_t *buffer = malloc(limit ? limit : 1);
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t done, i;

    REQUIRE(buffer != NULL);
    status =
        kdmp_read_string(space, address, unit, buffer, limit, &done, &fault);
    REQUIRE(done <= limit);
    if (status == KDMP_OK)
        REQUIRE(done % unit == 0);
    for (i = 0; i + unit <= done; i += unit)
        REQUIRE(fuzz_load(buffer + i, unit) != 0);
    free(buffer);
}

static void
run_command(const struct kdmp_space *space, struct memory *memory,
            uint32_t what, uint64_t value)
{
    struct kdmp_translation walk;

    if (!(what >> 31)) {
        memory_store(memory, what, value);
        return;
    }
    REQUIRE(kdmp_translate(space, value, &walk)
            == (enum kdmp_status)walk.status);
    check_walk(memory, &walk);
    check_read(space, value, what & 0x1fff);
    check_probe(space, value);
    check_string(space, value, 1u << what % 3, what & 0xfff);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory memory;
    struct kdmp_space space;
    size_t at, commands = 0;

    if (size < MEMORY_HEAD)
        return 0;
    memory_init(&memory, &space, data);
    for (at = MEMORY_HEAD;
         size - at >= MEMORY_COMMAND && commands < MAX_COMMANDS;
         at += MEMORY_COMMAND, commands++)
        run_command(&space, &memory, (uint32_t)fuzz_load(data + at, 4),
                    fuzz_load(data + at + 4, 8));
    memory_deinit(&memory);
    return 0;
}
