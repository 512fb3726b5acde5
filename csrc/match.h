/*
 * match.h: what the parts of a matcher share.
 *
 * A matcher looks at one block of bytes at a time, each of its engines on its
 * own, and notes what it finds as hits; scan.c sorts them and says where they
 * are.  A hit starts in the first 'starts' bytes of the block and ends within
 * its 'size' bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_MATCH_H
#define KDMP_MATCH_H

#include "internal.h"

#if defined(__GNUC__) && defined(__x86_64__)
#define MATCH_X64 1
#else
#define MATCH_X64 0
#endif

struct block {
    const uint8_t *data;
    size_t starts;
    size_t size;
    uint64_t address; /* of data[0] */
};

struct hits {
    struct kdmp_match *out;
    size_t room;
    size_t count;
    /* There was no room for one, or too much work: start again with less. */
    int full;
    uint64_t work; /* bytes that were compared in vain, or about that */
    uint64_t most_work;
};

/* One byte pattern. */
struct needle {
    const uint8_t *bytes; /* masked */
    const uint8_t *mask;  /* NULL: all bits of all bytes count */
    uint32_t *failure;    /* long and without mask: see find_by_failure() */
    uint32_t length;
    uint32_t number;
    /* The two bytes that are likely to be the rarest. */
    uint32_t anchor[2];
    uint8_t value[2];
    uint8_t bits[2];
};

/* Where a pattern has bytes by which it can be found among many. */
struct gram {
    uint32_t value;
    uint32_t needle; /* index in the filter */
    uint32_t offset; /* in the needle */
    uint32_t next;   /* with the same hash; UINT32_MAX: none */
};

/* Many patterns of which each has 'size' bytes without wildcards. */
struct filter {
    uint32_t size; /* of a gram, 1-4 */
    uint32_t stride;
    uint32_t mask; /* of a gram's bytes, one of them the highest */
    unsigned shift;
    uint32_t reach; /* the furthest offset of a gram */
    uint64_t *set;  /* a bit for each hash */
    uint32_t *heads;
    unsigned head_shift;
    struct gram *grams;
    uint32_t gram_count;
    struct needle *needles;
    uint32_t needle_count;
};

struct pointers {
    uint64_t first;
    uint64_t span; /* last - first */
    uint32_t size;
    uint32_t number;
};

#define FILTERS 3

/* Text is cut at multiples of this, see kdmp_scan(). */
#define KDMP_TEXT_BLOCK UINT64_C(0x10000)

struct kdmp_matcher {
    uint64_t alignment;
    uint64_t longest;
    uint64_t count;
    struct needle *needles; /* all; those of filters behind the others */
    uint32_t needle_count;
    uint32_t single_count;
    struct filter filters[FILTERS];
    struct pointers *pointers;
    uint32_t pointer_count;
    uint64_t text_minimum;
    uint32_t text_kinds;
    uint8_t *bytes;
    uint32_t *failures;
    int avx2;
};

/* Whether an address is one that may be given. */
KDMP_INLINE int
is_aligned(const struct kdmp_matcher *matcher, uint64_t address)
{
    uint64_t alignment = matcher->alignment;

    if ((alignment & (alignment - 1)) == 0)
        return (address & (alignment - 1)) == 0;
    return address % alignment == 0;
}

/* Note a hit: 1 if there is no room. */
KDMP_INLINE int
add_hit(struct hits *hits, uint64_t address, uint64_t length, uint64_t number)
{
    struct kdmp_match *match;

    if (hits->count == hits->room) {
        hits->full = 1;
        return 1;
    }
    match = &hits->out[hits->count++];
    match->address = address;
    match->length = length;
    match->pattern = number;
    return 0;
}

/* Whether a block takes so much work that less of it is to be searched. */
KDMP_INLINE int
is_too_much(struct hits *hits)
{
    hits->full |= hits->work > hits->most_work;
    return hits->full;
}

/* ---- match.c ---- */

/* Compare a needle with the bytes at 'data'. */
int kdmp_needle_fits(const struct needle *needle, const uint8_t *data,
                     uint64_t *work);

/* All hits of a block, in no order. */
void kdmp_match_block(const struct kdmp_matcher *matcher,
                      const struct block *block, struct hits *hits);

/* What a byte of a block costs, in bytes of a simple search. */
uint64_t kdmp_match_cost(const struct kdmp_matcher *matcher);

/* How common a byte is in memory, by experience: 0-255. */
unsigned kdmp_byte_rank(uint8_t byte);

/* ---- match_pair.c: one pattern, by two of its bytes ---- */

void kdmp_needle_init(struct needle *needle);
void kdmp_find_needle(const struct kdmp_matcher *matcher,
                      const struct needle *needle, const struct block *block,
                      struct hits *hits);

/* ---- match_pointers.c ---- */

void kdmp_find_pointers(const struct kdmp_matcher *matcher,
                        const struct pointers *pointers,
                        const struct block *block, struct hits *hits);

/* ---- match_many.c ---- */

/* Make the filters: patterns that fit none, or are too few for one, come first
 * in matcher->needles and are single_count. */
enum kdmp_status kdmp_filters_init(struct kdmp_matcher *matcher);
void kdmp_filters_deinit(struct kdmp_matcher *matcher);
void kdmp_find_many(const struct kdmp_matcher *matcher,
                    const struct filter *filter, const struct block *block,
                    struct hits *hits);

#endif /* KDMP_MATCH_H */
