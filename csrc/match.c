/*
 * match.c: compile what is to be found, and find it in a block of bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "match.h"

#define MOST_PATTERNS 65536
#define MOST_LENGTH 65536
#define MOST_BYTES (UINT64_C(16) << 20)
#define MOST_POINTERS 64
#define MOST_ALIGNMENT (UINT64_C(1) << 20)
#define MOST_TEXT 65536

/* Shorter patterns are compared quickly enough without a failure function. */
#define LONG_PATTERN 64

/* ---- bytes ---- */

unsigned
kdmp_byte_rank(uint8_t byte)
{
    /* Of memory as dumps have it: zeros, text and UTF-16, code of x86. */
    static const char common[] = " etaoinsrldcumpgfSEAT01._-,";
    static const uint8_t code[] = {0x48, 0x8B, 0x89, 0x0F, 0xCC, 0xC3, 0xE8,
                                   0x4C, 0x24, 0x83, 0x85, 0x41, 0xC0, 0x44};

    if (byte == 0)
        return 255;
    if (byte == 0xFF)
        return 220;
    if (memchr(common, byte, sizeof(common) - 1) != NULL)
        return 160;
    if (memchr(code, byte, sizeof(code)) != NULL)
        return 150;
    if (byte < 0x10)
        return 140;
    if (byte >= 0x20 && byte < 0x7F)
        return 90;
    if (byte == 0x80 || byte == 0x10 || byte == 0xF8)
        return 110;
    return 50;
}

/* Compared at once; what is longer is compared in parts, to know how much it
 * was. */
#define PART 64

static int
fits_masked(const struct needle *needle, const uint8_t *data, uint64_t *work)
{
    uint32_t i, length = needle->length;

    for (i = 0; i + 8 <= length; i += 8) {
        uint64_t value, mask, bytes;

        memcpy(&value, data + i, 8);
        memcpy(&mask, needle->mask + i, 8);
        memcpy(&bytes, needle->bytes + i, 8);
        if ((value & mask) != bytes) {
            *work += i;
            return 0;
        }
    }
    *work += i;
    for (; i < length; i++)
        if ((data[i] & needle->mask[i]) != needle->bytes[i])
            return 0;
    return 1;
}

int
kdmp_needle_fits(const struct needle *needle, const uint8_t *data,
                 uint64_t *work)
{
    uint32_t i, length = needle->length;

    if (needle->mask != NULL)
        return fits_masked(needle, data, work);
    for (i = 0; i + PART <= length; i += PART)
        if (memcmp(data + i, needle->bytes + i, PART) != 0) {
            *work += i;
            return 0;
        }
    *work += i;
    return memcmp(data + i, needle->bytes + i, length - i) == 0;
}

/* ---- what may be asked for ---- */

static int
has_bits(const struct kdmp_pattern *pattern)
{
    uint64_t i;

    if (pattern->mask == NULL)
        return 1;
    for (i = 0; i < pattern->length; i++)
        if (pattern->mask[i] != 0)
            return 1;
    return 0;
}

static enum kdmp_status
check_patterns(const struct kdmp_matcher_spec *spec, uint64_t *total_out,
               struct kdmp_error *err)
{
    uint64_t i;

    *total_out = 0;
    if (spec->pattern_count > MOST_PATTERNS)
        return kdmp_fail(err, KDMP_E_ARGUMENT, MOST_PATTERNS,
                         "there are more than %d patterns", MOST_PATTERNS);
    for (i = 0; i < spec->pattern_count; i++) {
        const struct kdmp_pattern *pattern = &spec->patterns[i];

        if (pattern->length == 0 || pattern->length > MOST_LENGTH)
            return kdmp_fail(err, KDMP_E_ARGUMENT, i,
                             "pattern %" PRIu64 " has %" PRIu64
                             " bytes, not 1 to %d",
                             i, pattern->length, MOST_LENGTH);
        if (!has_bits(pattern))
            return kdmp_fail(err, KDMP_E_ARGUMENT, i,
                             "pattern %" PRIu64 " fits any bytes", i);
        *total_out += pattern->length;
    }
    if (*total_out > MOST_BYTES)
        return kdmp_fail(err, KDMP_E_ARGUMENT, spec->pattern_count,
                         "the patterns have %" PRIu64
                         " bytes together, more than 16 MiB",
                         *total_out);
    return KDMP_OK;
}

static enum kdmp_status
check_pointers(const struct kdmp_matcher_spec *spec, struct kdmp_error *err)
{
    uint64_t i;

    if (spec->pointer_count > MOST_POINTERS)
        return kdmp_fail(err, KDMP_E_ARGUMENT, MOST_POINTERS,
                         "there are more than %d ranges of pointers",
                         MOST_POINTERS);
    for (i = 0; i < spec->pointer_count; i++) {
        const struct kdmp_pointer_range *range = &spec->pointers[i];

        if (range->size != 4 && range->size != 8)
            return kdmp_fail(err, KDMP_E_ARGUMENT, i,
                             "pointers have 4 or 8 bytes, not %" PRIu64,
                             range->size);
        if (range->first > range->last
            || (range->size == 4 && range->last > UINT32_MAX))
            return kdmp_fail(err, KDMP_E_ARGUMENT, i,
                             "0x%" PRIx64 " to 0x%" PRIx64
                             " is no range of pointers of %" PRIu64 " bytes",
                             range->first, range->last, range->size);
    }
    return KDMP_OK;
}

static enum kdmp_status
check_spec(const struct kdmp_matcher_spec *spec, uint64_t *total_out,
           struct kdmp_error *err)
{
    enum kdmp_status status = check_patterns(spec, total_out, err);

    if (status == KDMP_OK)
        status = check_pointers(spec, err);
    if (status != KDMP_OK)
        return status;
    if (spec->alignment == 0 || spec->alignment > MOST_ALIGNMENT)
        return kdmp_fail(err, KDMP_E_ARGUMENT, spec->alignment,
                         "the alignment must be 1 to 0x%" PRIx64,
                         MOST_ALIGNMENT);
    if (spec->text_minimum == 0) {
        if (spec->pattern_count == 0 && spec->pointer_count == 0)
            return kdmp_fail(err, KDMP_E_ARGUMENT, 0,
                             "there is nothing to look for");
        return KDMP_OK;
    }
    if (spec->pattern_count > 0 || spec->pointer_count > 0)
        return kdmp_fail(err, KDMP_E_ARGUMENT, 0,
                         "text and patterns are looked for separately");
    if (spec->text_minimum < 2 || spec->text_minimum > MOST_TEXT)
        return kdmp_fail(err, KDMP_E_ARGUMENT, spec->text_minimum,
                         "runs of text have at least 2 to %d characters",
                         MOST_TEXT);
    if (spec->text_kinds == 0
        || spec->text_kinds > (KDMP_TEXT_ASCII | KDMP_TEXT_UTF16))
        return kdmp_fail(err, KDMP_E_ARGUMENT, spec->text_kinds,
                         "there is no such kind of text");
    return KDMP_OK;
}

/* ---- compilation ---- */

static int
is_plain(const struct kdmp_pattern *pattern)
{
    uint64_t i;

    for (i = 0; pattern->mask != NULL && i < pattern->length; i++)
        if (pattern->mask[i] != 0xFF)
            return 0;
    return 1;
}

/* Copy a pattern to *room_io, and its mask if it has one that matters. */
static void
copy_pattern(struct needle *needle, const struct kdmp_pattern *pattern,
             uint8_t **room_io)
{
    uint64_t i;

    needle->bytes = *room_io;
    needle->length = (uint32_t)pattern->length;
    memcpy(*room_io, pattern->bytes, (size_t)pattern->length);
    if (!is_plain(pattern)) {
        uint8_t *mask = *room_io + pattern->length;

        memcpy(mask, pattern->mask, (size_t)pattern->length);
        for (i = 0; i < pattern->length; i++)
            (*room_io)[i] &= mask[i];
        needle->mask = mask;
        *room_io += pattern->length;
    }
    *room_io += pattern->length;
}

static enum kdmp_status
compile_patterns(struct kdmp_matcher *matcher,
                 const struct kdmp_matcher_spec *spec, uint64_t total)
{
    uint64_t failures = 0, i;
    uint8_t *room;

    matcher->needles = kdmp_calloc(spec->pattern_count, sizeof(struct needle));
    matcher->bytes = room = kdmp_calloc(2, total);
    if (matcher->needles == NULL || matcher->bytes == NULL)
        return KDMP_E_NOMEM;
    matcher->needle_count = (uint32_t)spec->pattern_count;
    for (i = 0; i < spec->pattern_count; i++) {
        struct needle *needle = &matcher->needles[i];

        copy_pattern(needle, &spec->patterns[i], &room);
        needle->number = (uint32_t)i;
        if (needle->length > LONG_PATTERN && needle->mask == NULL)
            failures += needle->length;
        if (needle->length > matcher->longest)
            matcher->longest = needle->length;
    }
    matcher->failures = kdmp_calloc(failures + 1, sizeof(uint32_t));
    if (matcher->failures == NULL)
        return KDMP_E_NOMEM;
    for (failures = 0, i = 0; i < spec->pattern_count; i++) {
        struct needle *needle = &matcher->needles[i];

        if (needle->length > LONG_PATTERN && needle->mask == NULL) {
            needle->failure = matcher->failures + failures;
            failures += needle->length;
        }
        kdmp_needle_init(needle);
    }
    return kdmp_filters_init(matcher);
}

static enum kdmp_status
compile_pointers(struct kdmp_matcher *matcher,
                 const struct kdmp_matcher_spec *spec)
{
    uint64_t i;

    matcher->pointers =
        kdmp_calloc(spec->pointer_count, sizeof(*matcher->pointers));
    if (matcher->pointers == NULL)
        return KDMP_E_NOMEM;
    matcher->pointer_count = (uint32_t)spec->pointer_count;
    for (i = 0; i < spec->pointer_count; i++) {
        const struct kdmp_pointer_range *range = &spec->pointers[i];
        struct pointers *pointers = &matcher->pointers[i];

        pointers->first = range->first;
        pointers->span = range->last - range->first;
        pointers->size = (uint32_t)range->size;
        pointers->number = (uint32_t)(spec->pattern_count + i);
        if (range->size > matcher->longest)
            matcher->longest = range->size;
    }
    return KDMP_OK;
}

enum kdmp_status
kdmp_matcher_open(const struct kdmp_matcher_spec *spec,
                  struct kdmp_matcher **out, struct kdmp_error *err)
{
    struct kdmp_matcher *matcher;
    uint64_t total;
    enum kdmp_status status = check_spec(spec, &total, err);

    *out = NULL;
    if (status != KDMP_OK)
        return status;
    matcher = kdmp_calloc(1, sizeof(*matcher));
    if (matcher == NULL)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    matcher->alignment = spec->alignment;
    matcher->count = spec->pattern_count + spec->pointer_count;
    matcher->text_minimum = spec->text_minimum;
    matcher->text_kinds = spec->text_kinds;
    if (spec->text_minimum > 0) {
        matcher->count = 2;
        matcher->longest = 2 * KDMP_TEXT_BLOCK;
    }
#if MATCH_X64
    matcher->avx2 = __builtin_cpu_supports("avx2") != 0;
#endif
    if (spec->pattern_count > 0)
        status = compile_patterns(matcher, spec, total);
    if (status == KDMP_OK && spec->pointer_count > 0)
        status = compile_pointers(matcher, spec);
    if (status != KDMP_OK) {
        kdmp_matcher_close(matcher);
        return kdmp_fail(err, status, 0, "out of memory");
    }
    *out = matcher;
    return KDMP_OK;
}

void
kdmp_matcher_close(struct kdmp_matcher *matcher)
{
    if (matcher == NULL)
        return;
    kdmp_filters_deinit(matcher);
    kdmp_free(matcher->needles);
    kdmp_free(matcher->pointers);
    kdmp_free(matcher->bytes);
    kdmp_free(matcher->failures);
    kdmp_free(matcher);
}

uint64_t
kdmp_matcher_count(const struct kdmp_matcher *matcher)
{
    return matcher->count;
}

uint64_t
kdmp_matcher_longest(const struct kdmp_matcher *matcher)
{
    return matcher->longest;
}

/* ---- search ---- */

uint64_t
kdmp_match_cost(const struct kdmp_matcher *matcher)
{
    return 1 + matcher->single_count / 8 + matcher->pointer_count / 8;
}

void
kdmp_match_block(const struct kdmp_matcher *matcher, const struct block *block,
                 struct hits *hits)
{
    uint32_t i;

    for (i = 0; i < matcher->single_count && !is_too_much(hits); i++)
        kdmp_find_needle(matcher, &matcher->needles[i], block, hits);
    for (i = 0; i < FILTERS && !is_too_much(hits); i++)
        if (matcher->filters[i].needle_count > 0)
            kdmp_find_many(matcher, &matcher->filters[i], block, hits);
    for (i = 0; i < matcher->pointer_count && !hits->full; i++)
        kdmp_find_pointers(matcher, &matcher->pointers[i], block, hits);
}
