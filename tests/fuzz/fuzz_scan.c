/*
 * fuzz_scan.c: a search for patterns, pointers or text, beside looking at
 * every address.
 *
 * The input is a program for fuzz_memory.h with a longer head: what to find
 * (u8: bits 0-1 patterns more than one, 4 pointers too, 8 text instead, bits
 * 5-7 eight more patterns each), an alignment (u8, a power of two), the least
 * text (u8), the budget in units of 16 bytes more than 512 (u8), and PATTERNS
 * patterns of a length (u8) and 7 bytes and a mask of 8.  The u32 of a command
 * that is no store is how many bytes there are to search, its u64 is where; the
 * first one's u64 is also the range of pointers: 0x4000 bytes from there.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_memory.h"

enum {
    PATTERNS = 4,
    LONGEST = 7,
    MANY = 56,
    ROOM = 70, /* at least one match of each at an address */
    HEAD = MEMORY_HEAD + 4 + PATTERNS * 16,
    MAX_USES = 3,
    WINDOW = 6 * PAGE, /* that one search covers, and behind it */
    BEFORE = PAGE,
    MAX_MATCHES = 20000
};

const struct fuzz_shape fuzz_shape = {FUZZ_PROGRAM, HEAD, MEMORY_COMMAND};

struct view {
    uint64_t base;
    uint64_t size;
    uint8_t bytes[BEFORE + WINDOW];
    uint8_t there[BEFORE + WINDOW];
};

struct match {
    uint64_t address;
    uint64_t length;
    uint64_t pattern;
};

/* What can be read, page by page. */
static void
look(const struct kdmp_space *space, uint64_t base, struct view *view)
{
    uint64_t at, done;

    view->base = base;
    memset(view->there, 0, sizeof(view->there));
    for (at = 0; at < view->size; at += done > 0 ? done : 1) {
        uint64_t rest = PAGE - (base + at) % PAGE;

        if (rest > view->size - at)
            rest = view->size - at;
        (void)kdmp_read(space, base + at, view->bytes + at, rest, &done, NULL);
        memset(view->there + at, 1, done);
        if (done < rest) {
            struct kdmp_fault fault;

            (void)kdmp_read(space, base + at + done, view->bytes + at, 1, &rest,
                            &fault);
            if (rest == 0)
                done += fault.missing < PAGE ? fault.missing
                                             : PAGE - (base + at + done) % PAGE;
        }
    }
}

static int
fits(const struct view *view, uint64_t at, const struct kdmp_pattern *pattern)
{
    uint64_t i;

    for (i = 0; i < pattern->length; i++) {
        uint8_t mask = pattern->mask != NULL ? pattern->mask[i] : 0xff;

        if (at + i >= view->size || !view->there[at + i]
            || (view->bytes[at + i] & mask) != (pattern->bytes[i] & mask))
            return 0;
    }
    return 1;
}

static int
points_into(const struct view *view, uint64_t at,
            const struct kdmp_pointer_range *range)
{
    uint64_t value, i;

    for (i = 0; i < range->size; i++)
        if (at + i >= view->size || !view->there[at + i])
            return 0;
    value = fuzz_load(view->bytes + at, (unsigned)range->size);
    return value >= range->first && value <= range->last;
}

/* Whether there is a character of 'width' bytes. */
static int
is_text(const struct view *view, uint64_t at, unsigned width)
{
    uint8_t c;

    if (at + width > view->size || !view->there[at]
        || !view->there[at + width - 1])
        return 0;
    c = view->bytes[at];
    if (width == 2 && view->bytes[at + 1] != 0)
        return 0;
    return c == 9 || (c >= 0x20 && c <= 0x7e) || (width == 2 && c >= 0xa0);
}

/* The length in bytes of a run that begins here, 0 if none does. */
static uint64_t
text_at(const struct view *view, uint64_t at, unsigned width, uint64_t least)
{
    uint64_t end = at;

    if (at >= width && is_text(view, at - width, width))
        return 0;
    while (is_text(view, end, width))
        end += width;
    return (end - at) / width >= least ? end - at : 0;
}

static size_t
slow_scan(const struct view *view, const struct kdmp_matcher_spec *spec,
          uint64_t first, uint64_t last, struct match *out)
{
    size_t count = 0;
    uint64_t at, k;

    for (at = first - view->base; at <= last - view->base; at++) {
        uint64_t address = view->base + at, length;

        if (address % spec->alignment != 0)
            continue;
        for (k = 0; k < spec->pattern_count; k++)
            if (count < MAX_MATCHES && fits(view, at, &spec->patterns[k]))
                out[count++] =
                    (struct match){address, spec->patterns[k].length, k};
        for (k = 0; k < spec->pointer_count; k++)
            if (count < MAX_MATCHES
                && points_into(view, at, &spec->pointers[k]))
                out[count++] = (struct match){address, spec->pointers[k].size,
                                              spec->pattern_count + k};
        for (k = 0; k < 2; k++) {
            if (spec->text_minimum == 0 || !(spec->text_kinds >> k & 1))
                continue;
            length = text_at(view, at, (unsigned)k + 1, spec->text_minimum);
            if (count < MAX_MATCHES && length > 0)
                out[count++] = (struct match){address, length, k};
        }
    }
    return count;
}

static void
search(const struct kdmp_space *space, const struct kdmp_matcher *matcher,
       const struct kdmp_matcher_spec *spec, uint64_t first, uint64_t size,
       uint64_t budget)
{
    static struct view view;
    static struct match want[MAX_MATCHES];
    struct kdmp_match found[ROOM];
    struct kdmp_search state = {
        .next = first, .budget = budget, .tables_left = 1000};
    size_t expected, seen = 0, count, i, calls;
    uint64_t readable = 0, end = kdmp_last_address(space->paging);

    if (end > UINT64_MAX / 2) /* the ends of halves are for other targets */
        end = UINT64_C(1) << 46;
    if (first < BEFORE || first > end - WINDOW - 1)
        return;
    state.last = first + size - 1;
    view.size = sizeof(view.bytes);
    look(space, first - BEFORE, &view);
    expected = slow_scan(&view, spec, first, state.last, want);
    if (expected == MAX_MATCHES)
        return;
    for (calls = 0; !state.done; calls++) {
        enum kdmp_status status =
            kdmp_scan(space, matcher, &state, found, ROOM, &count);

        if (status == KDMP_E_LIMIT) /* tables that show each other */
            return;
        REQUIRE(status == KDMP_OK && count <= ROOM && calls < 100000);
        for (i = 0; i < count; i++, seen++) {
            REQUIRE(seen < expected);
            REQUIRE(found[i].address == want[seen].address);
            REQUIRE(found[i].pattern == want[seen].pattern);
            REQUIRE(found[i].length == want[seen].length);
        }
        REQUIRE(seen == expected || want[seen].address >= state.next
                || state.done == 0);
    }
    REQUIRE(seen == expected);
    for (i = 0; i < size; i++)
        readable += view.there[BEFORE + i];
    REQUIRE(state.bytes == readable);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory memory;
    struct kdmp_space space;
    struct use uses[MAX_USES];
    struct kdmp_pattern patterns[PATTERNS + MANY];
    uint8_t bytes[MANY][LONGEST];
    struct kdmp_pointer_range range = {0, 0, 8};
    struct kdmp_matcher_spec spec = {
        .patterns = patterns, .pointers = &range, .alignment = 1};
    struct kdmp_matcher *matcher;
    const uint8_t *more = data + MEMORY_HEAD;
    size_t used, i;

    if (size < HEAD)
        return 0;
    memory_init(&memory, &space, data);
    used = memory_program(&memory, data + HEAD, size - HEAD, uses, MAX_USES);
    for (i = 0; i < PATTERNS; i++) {
        const uint8_t *p = more + 4 + 16 * i;

        patterns[i].bytes = p + 1;
        patterns[i].length = p[0] % LONGEST + 1u;
        patterns[i].mask = p[0] & 0x80 ? p + 8 : NULL;
    }
    spec.alignment = UINT64_C(1) << more[1] % 6;
    if (more[0] & 8) {
        spec.text_minimum = 2 + more[2] % 8u;
        spec.text_kinds = 1 + more[2] / 8 % 3u;
    } else {
        spec.pattern_count = more[0] % 4u + 1;
        for (i = 0; i < more[0] / 32u * 8; i++) { /* others like them */
            struct kdmp_pattern *like = &patterns[spec.pattern_count];

            *like = patterns[i % PATTERNS];
            memcpy(bytes[i], like->bytes, LONGEST);
            bytes[i][i % like->length] += (uint8_t)i;
            like->bytes = bytes[i];
            spec.pattern_count++;
        }
        spec.pointer_count = more[0] >> 2 & 1;
    }
    range.first = used > 0 ? uses[0].value : 0;
    range.last =
        range.first > UINT64_MAX - 0x4000 ? UINT64_MAX : range.first + 0x4000;
    range.size = more[0] & 16 ? 4 : 8;
    if (range.size == 4) {
        range.first &= UINT32_MAX;
        range.last = range.first | 0xffff;
    }
    if (kdmp_matcher_open(&spec, &matcher, NULL) == KDMP_OK) {
        for (i = 0; i < used; i++)
            search(&space, matcher, &spec, uses[i].value,
                   uses[i].what % (WINDOW / 2) + 1, more[3] * 16u + 0x200);
        kdmp_matcher_close(matcher);
    }
    memory_deinit(&memory);
    return 0;
}
