/*
 * fuzz_extents.c: the readable stretches of an address space, beside reads.
 *
 * The input is a program for fuzz_memory.h.  Of the commands that are no
 * stores the first two are the bounds, and the first one's u32 is how many
 * stretches are asked for at a time.  The others are addresses to look up.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_memory.h"

enum { MAX_USES = 40, MAX_STRETCHES = 120, TABLES = 20, MAX_CALLS = 600 };

const struct fuzz_shape fuzz_shape = {FUZZ_PROGRAM, MEMORY_HEAD,
                                      MEMORY_COMMAND};

struct list {
    struct kdmp_stretch stretches[MAX_STRETCHES + 64];
    size_t count;
    int whole; /* the end was reached */
    uint64_t next;
};

static void
enumerate(const struct kdmp_space *space, uint64_t first, uint64_t last,
          size_t room, struct list *list)
{
    struct kdmp_extent_cursor cursor = {
        .next = first, .last = last, .tables_left = TABLES};
    size_t count, calls;

    list->count = 0;
    list->whole = 0;
    for (calls = 0; calls < MAX_CALLS && list->count < MAX_STRETCHES; calls++) {
        enum kdmp_status status = kdmp_next_extents(
            space, &cursor, list->stretches + list->count, room, &count);

        REQUIRE(status == KDMP_OK || status == KDMP_E_LIMIT);
        REQUIRE(count <= room);
        list->count += count;
        list->next = cursor.next;
        if (status == KDMP_E_LIMIT)
            return;
        if (cursor.done && !cursor.has_pending) {
            list->whole = 1;
            return;
        }
    }
    /* What is pending has not been given. */
    if (cursor.has_pending && cursor.pending.address < list->next)
        list->next = cursor.pending.address;
}

/* The bytes of a stretch are those that a read gives. */
static void
check_stretch(const struct kdmp_space *space, const struct memory *memory,
              const struct kdmp_stretch *stretch, uint64_t at, uint64_t size)
{
    struct kdmp_space physical = *space;
    uint8_t one[64], two[64];
    uint64_t done;

    physical.paging = KDMP_PAGING_PHYSICAL;
    REQUIRE(kdmp_read(space, stretch->address + at, one, size, &done, NULL)
            == KDMP_OK);
    if (stretch->ptr != NULL)
        REQUIRE(memcmp(stretch->ptr + at, one, size) == 0);
    if (stretch->paddr != UINT64_MAX) {
        REQUIRE(
            kdmp_read(&physical, stretch->paddr + at, two, size, &done, NULL)
            == KDMP_OK);
        REQUIRE(memcmp(one, two, size) == 0);
    }
    if (stretch->file_offset != UINT64_MAX) {
        REQUIRE(stretch->file_offset + at + size <= MEMORY_SIZE);
        REQUIRE(memcmp(memory->bytes + stretch->file_offset + at, one, size)
                == 0);
    }
}

static void
check_list(const struct kdmp_space *space, const struct memory *memory,
           const struct list *list, uint64_t first, uint64_t last)
{
    size_t i;

    for (i = 0; i < list->count; i++) {
        const struct kdmp_stretch *stretch = &list->stretches[i];
        uint64_t length = stretch->length, end;
        uint64_t size = length < 64 ? length : 64;

        REQUIRE(length > 0);
        end = stretch->address + length - 1;
        REQUIRE(end >= stretch->address && stretch->address >= first
                && end <= last);
        REQUIRE(i == 0
                || stretch->address
                       > stretch[-1].address + (stretch[-1].length - 1));
        if (i > 0
            && stretch->address == stretch[-1].address + stretch[-1].length)
            REQUIRE(stretch->paddr != stretch[-1].paddr + stretch[-1].length
                    || stretch->file_offset
                           != stretch[-1].file_offset + stretch[-1].length
                    || stretch->paddr == UINT64_MAX);
        check_stretch(space, memory, stretch, 0, size);
        check_stretch(space, memory, stretch, length - size, size);
        check_stretch(space, memory, stretch, length / 2,
                      length - length / 2 < size ? length - length / 2 : size);
    }
}

static void
check_lookup(const struct kdmp_space *space, const struct list *list,
             uint64_t first, uint64_t last, uint64_t address)
{
    uint64_t done;
    uint8_t byte;
    size_t i;
    int listed = 0;

    if (address < first || address > last
        || (!list->whole && address >= list->next))
        return;
    for (i = 0; i < list->count; i++)
        listed |=
            address >= list->stretches[i].address
            && address - list->stretches[i].address < list->stretches[i].length;
    REQUIRE((kdmp_read(space, address, &byte, 1, &done, NULL) == KDMP_OK)
            == listed);
}

/* A read of many pages, which goes by stretches, is those of the pages. */
static void
check_large_read(const struct kdmp_space *space, uint64_t address, size_t size)
{
    uint8_t *large = malloc(size), *small = malloc(size);
    uint64_t last = kdmp_last_address(space->paging), done, want = 0, part;
    struct kdmp_fault fault;
    enum kdmp_status status, expected = KDMP_OK;

    REQUIRE(large != NULL && small != NULL);
    status = kdmp_read(space, address, large, size, &done, &fault);
    while (want < size && expected == KDMP_OK) {
        uint64_t at = address + want, rest = PAGE - at % PAGE;

        if (rest > size - want)
            rest = size - want;
        if (want > 0 && (at < address || at > last)) {
            expected = KDMP_E_ADDRESS_END;
            break;
        }
        expected = kdmp_read(space, at, small + want, rest, &part, NULL);
        want += part;
    }
    REQUIRE(status == expected && done == want);
    REQUIRE(memcmp(large, small, done) == 0);
    REQUIRE(status == KDMP_OK || fault.status == status);
    free(large);
    free(small);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct list list, again; /* too large for a stack */
    struct memory memory;
    struct kdmp_space space;
    struct use uses[MAX_USES];
    uint64_t first = 0, last = UINT64_MAX;
    size_t used, room = 7, i;

    if (size < MEMORY_HEAD)
        return 0;
    memory_init(&memory, &space, data);
    used = memory_program(&memory, data + MEMORY_HEAD, size - MEMORY_HEAD, uses,
                          MAX_USES);
    if (used > 0) {
        first = uses[0].value;
        room = uses[0].what % 64 + 1;
    }
    if (used > 1)
        last = uses[1].value;
    enumerate(&space, first, last, room, &list);
    check_list(&space, &memory, &list, first, last);
    enumerate(&space, first, last, 1, &again);
    if (list.whole && again.whole) {
        REQUIRE(list.count == again.count);
        for (i = 0; i < list.count; i++)
            REQUIRE(list.stretches[i].address == again.stretches[i].address
                    && list.stretches[i].length == again.stretches[i].length
                    && list.stretches[i].paddr == again.stretches[i].paddr);
    }
    for (i = 2; i < used; i++)
        check_lookup(&space, &list, first, last, uses[i].value);
    for (i = 2; i < used && i < 4; i++)
        check_large_read(&space, uses[i].value,
                         0x10000 + (uses[i].what & 0x3ffff));
    for (i = 0; i < list.count; i += 1 + list.count / 3)
        check_large_read(&space, list.stretches[i].address + data[5], 0x20000);
    for (i = 0; i < list.count; i += 1 + list.count / 16) {
        uint64_t end = list.stretches[i].address + list.stretches[i].length;

        check_lookup(&space, &list, first, last, end);
        check_lookup(&space, &list, first, last, list.stretches[i].address - 1);
    }
    memory_deinit(&memory);
    return 0;
}
