/*
 * fuzz_mappings.c: the enumeration of what is mapped, beside translations of
 * single addresses.
 *
 * The input is a program for fuzz_memory.h.  Of the commands that are no
 * stores the first two are the bounds of the enumeration and, in the first
 * one's u32, how many ranges are asked for at a time; the others are addresses
 * to look up.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_memory.h"

enum { MAX_USES = 40, MAX_RANGES = 600, TABLES = 30 };

const struct fuzz_shape fuzz_shape = {FUZZ_PROGRAM, MEMORY_HEAD,
                                      MEMORY_COMMAND};

struct list {
    struct kdmp_mapping *ranges;
    size_t count;
    int whole;     /* the end was reached */
    uint64_t next; /* all below it is in the list */
};

static void
enumerate(const struct kdmp_space *space, uint64_t first, uint64_t last,
          size_t room, struct kdmp_map_cursor *cursor, struct list *list)
{
    struct kdmp_mapping *out = malloc(room * sizeof(*out));
    size_t count, i;

    REQUIRE(out != NULL);
    cursor->next = first;
    cursor->last = last;
    cursor->tables_left = TABLES;
    memset(list, 0, sizeof(*list));
    list->ranges = malloc((MAX_RANGES + room) * sizeof(*list->ranges));
    REQUIRE(list->ranges != NULL);
    for (;;) {
        enum kdmp_status status =
            kdmp_next_mappings(space, cursor, out, room, &count);

        REQUIRE(status == KDMP_OK || status == KDMP_E_LIMIT
                || status == KDMP_E_UNSUPPORTED);
        REQUIRE(count <= room);
        for (i = 0; i < count; i++)
            list->ranges[list->count++] = out[i];
        list->next = cursor->has_pending ? cursor->pending.start : cursor->next;
        if (status == KDMP_E_UNSUPPORTED || status == KDMP_E_LIMIT)
            break;
        if (count == 0 || list->count >= MAX_RANGES) {
            list->whole = count == 0;
            REQUIRE(!list->whole || cursor->done);
            break;
        }
    }
    free(out);
}

/* What a single translation says about a mapped address. */
static void
check_address(const struct kdmp_space *space, const struct kdmp_mapping *range,
              uint64_t address)
{
    const uint32_t rights = KDMP_T_WRITABLE | KDMP_T_EXECUTABLE | KDMP_T_USER;
    struct kdmp_translation walk;
    enum kdmp_status status = kdmp_translate(space, address, &walk);

    switch (range->state) {
    case KDMP_PTE_VALID:
        REQUIRE(status == KDMP_OK && walk.state == KDMP_PTE_VALID);
        break;
    case KDMP_PTE_TRANSITION:
        REQUIRE(walk.state == KDMP_PTE_TRANSITION
                && (status == KDMP_OK || status == KDMP_E_NOT_IN_DUMP));
        break;
    case KDMP_PTE_TABLE:
        REQUIRE(status == KDMP_E_NOT_IN_DUMP || status == KDMP_E_TRUNCATED);
        REQUIRE(walk.state
                == (walk.depth > 0 ? KDMP_PTE_TABLE : KDMP_PTE_NONE));
        return;
    default:
        REQUIRE(status != KDMP_OK && walk.state == range->state);
        return;
    }
    REQUIRE(walk.page_size == range->page_size);
    REQUIRE(status != KDMP_OK || (walk.flags & rights) == range->flags);
    if (address == range->start)
        REQUIRE((walk.paddr & ~(uint64_t)(PAGE - 1)) == range->paddr);
}

static void
check_list(const struct kdmp_space *space, const struct list *list,
           uint64_t first)
{
    struct kdmp_space plain = *space;
    size_t i;

    plain.keep_prototypes = 1;
    for (i = 0; i < list->count; i++) {
        const struct kdmp_mapping *range = &list->ranges[i];
        uint64_t end = range->start + range->size - 1;

        REQUIRE(range->size > 0 && end >= range->start);
        REQUIRE(range->page_size > 0 && range->size % range->page_size == 0);
        REQUIRE(i == 0
                || range->start > range[-1].start + (range[-1].size - 1));
        REQUIRE(end >= first);
        check_address(&plain, range, range->start);
        check_address(&plain, range, end);
        check_address(&plain, range,
                      range->start + range->size / 2 / PAGE * PAGE);
    }
}

/* What is in no range is not mapped. */
static void
check_lookup(const struct kdmp_space *space, const struct list *list,
             uint64_t address, uint64_t first, uint64_t last)
{
    struct kdmp_space plain = *space;
    struct kdmp_translation walk;
    enum kdmp_status status;
    size_t i;

    plain.keep_prototypes = 1;
    if (address < first || address > last
        || (!list->whole && address >= list->next))
        return;
    for (i = 0; i < list->count; i++)
        if (address >= list->ranges[i].start
            && address - list->ranges[i].start < list->ranges[i].size) {
            check_address(&plain, &list->ranges[i], address);
            return;
        }
    status = kdmp_translate(&plain, address, &walk);
    REQUIRE(status == KDMP_E_NON_CANONICAL
            || (status == KDMP_E_NOT_PRESENT && walk.state == KDMP_PTE_ZERO));
}

/* One frame alone: what the whole list has of it. */
static void
check_filter(const struct kdmp_space *space, uint64_t first, uint64_t last,
             uint64_t pfn)
{
    struct kdmp_map_cursor cursor = {.only_pfn = pfn, .filter = 1};
    struct list list;
    size_t i;

    enumerate(space, first, last, 5, &cursor, &list);
    for (i = 0; i < list.count; i++) {
        const struct kdmp_mapping *range = &list.ranges[i];

        REQUIRE(range->size == range->page_size);
        REQUIRE(pfn >= range->paddr >> 12
                && pfn < (range->paddr + range->size) >> 12);
    }
    free(list.ranges);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory memory;
    struct kdmp_space space;
    struct use uses[MAX_USES];
    struct kdmp_map_cursor one = {0}, two = {0};
    struct list list, again;
    uint64_t first = 0, last = UINT64_MAX;
    size_t used, room = 7, i;

    if (size < MEMORY_HEAD)
        return 0;
    memory_init(&memory, &space, data);
    used = memory_program(&memory, data + MEMORY_HEAD, size - MEMORY_HEAD, uses,
                          MAX_USES);
    if (used > 0) {
        first = uses[0].value;
        room = uses[0].what % 67 + 1;
    }
    if (used > 1)
        last = uses[1].value;
    enumerate(&space, first, last, room, &one, &list);
    enumerate(&space, first, last, 1, &two, &again);
    /* How many are asked for at a time does not matter. */
    REQUIRE(list.count == again.count || list.count >= MAX_RANGES);
    for (i = 0; i < list.count && i < again.count; i++)
        REQUIRE(memcmp(&list.ranges[i], &again.ranges[i], sizeof(*list.ranges))
                == 0);
    check_list(&space, &list, first);
    for (i = 2; i < used; i++)
        check_lookup(&space, &list, uses[i].value, first, last);
    check_filter(&space, first, last, data[4] % 16);
    free(list.ranges);
    free(again.ranges);
    memory_deinit(&memory);
    return 0;
}
