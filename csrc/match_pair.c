/*
 * match_pair.c: find one pattern by two of its bytes.
 *
 * Two bytes that are likely to be rare are compared at 16 or 32 places at once;
 * what has both is compared in full.  Where that happens too often, as when a
 * page of zeros is looked for among zeros, a long pattern without wildcards is
 * found by its failure function (Knuth, Morris and Pratt) instead, which looks
 * at each byte at most twice.
 *
 * SPDX-License-Identifier: MIT
 */
#include "match.h"

#if MATCH_X64
#include <immintrin.h>
#endif

/* Bytes compared in vain in a block, beyond those in it, before the failure
 * function is used. */
#define PATIENCE 0x10000

/* ---- preparation ---- */

/* How good a byte is to search for: less is better. */
static unsigned
anchor_score(const struct needle *needle, uint32_t at)
{
    uint8_t bits = needle->mask != NULL ? needle->mask[at] : 0xFF;

    return kdmp_byte_rank(needle->bytes[at]) + 128 * (8 - popcount64(bits));
}

static void
choose_anchors(struct needle *needle)
{
    uint32_t at, best = 0, other = 0;
    unsigned best_score = UINT32_MAX, other_score = UINT32_MAX;
    int i;

    for (at = 0; at < needle->length; at++) {
        unsigned score = anchor_score(needle, at);

        if (score < best_score) {
            best_score = score;
            best = at;
        }
    }
    for (at = 0; at < needle->length; at++) {
        /* The same byte again says less. */
        unsigned score = anchor_score(needle, at)
                         + 64 * (needle->bytes[at] == needle->bytes[best]);

        if (at != best && score < other_score) {
            other_score = score;
            other = at;
        }
    }
    needle->anchor[0] = best;
    needle->anchor[1] = needle->length > 1 ? other : best;
    for (i = 0; i < 2; i++) {
        at = needle->anchor[i];
        needle->value[i] = needle->bytes[at];
        needle->bits[i] = needle->mask != NULL ? needle->mask[at] : 0xFF;
    }
}

/* failure[k]: length of the longest part that begins the pattern and also ends
 * its first k + 1 bytes, and is shorter than those. */
static void
init_failure(struct needle *needle)
{
    uint32_t k, matched = 0;

    needle->failure[0] = 0;
    for (k = 1; k < needle->length; k++) {
        while (matched > 0 && needle->bytes[k] != needle->bytes[matched])
            matched = needle->failure[matched - 1];
        matched += needle->bytes[k] == needle->bytes[matched];
        needle->failure[k] = matched;
    }
}

void
kdmp_needle_init(struct needle *needle)
{
    choose_anchors(needle);
    if (needle->failure != NULL)
        init_failure(needle);
}

/* ---- search ---- */

/* Where a search is. */
struct pursuit {
    const struct kdmp_matcher *matcher;
    const struct needle *needle;
    const struct block *block;
    struct hits *hits;
    uint64_t patience; /* hits->work at which it is over */
    size_t places;     /* where the needle may begin */
};

/* Look closer at a place: 1 to stop the search. */
static int
check_place(const struct pursuit *p, size_t at)
{
    uint64_t address = p->block->address + at;

    if (!is_aligned(p->matcher, address)
        || !kdmp_needle_fits(p->needle, p->block->data + at, &p->hits->work))
        return is_too_much(p->hits);
    return add_hit(p->hits, address, p->needle->length, p->needle->number);
}

/* The rest of the block from 'at' on, in time that does not depend on the
 * content. */
static void
find_by_failure(const struct pursuit *p, size_t at)
{
    const struct needle *needle = p->needle;
    const uint8_t *data = p->block->data;
    size_t end = p->places + needle->length - 1;
    uint32_t matched = 0;

    for (; at < end; at++) {
        while (matched > 0 && data[at] != needle->bytes[matched])
            matched = needle->failure[matched - 1];
        matched += data[at] == needle->bytes[matched];
        if (matched == needle->length) {
            uint64_t address = p->block->address + at + 1 - matched;

            if (is_aligned(p->matcher, address)
                && add_hit(p->hits, address, matched, needle->number))
                return;
            matched = needle->failure[matched - 1];
        }
    }
}

/* Look closer at the places whose bits are set; bit 0 is 'at'.  1 to stop the
 * search. */
static int
check_places(const struct pursuit *p, size_t at, uint64_t found)
{
    for (; found != 0; found &= found - 1) {
        size_t place = at + ctz64(found);

        if (check_place(p, place))
            return 1;
        if (p->hits->work > p->patience) {
            find_by_failure(p, place + 1);
            return 1;
        }
    }
    return 0;
}

/* Few places, or a machine without vectors. */
static void
find_plain(const struct pursuit *p)
{
    const struct needle *needle = p->needle;
    const uint8_t *first = p->block->data + needle->anchor[0];
    const uint8_t *second = p->block->data + needle->anchor[1];
    size_t at = 0;

    for (; at < p->places; at++) {
        if (needle->bits[0] == 0xFF && p->places - at > 32) {
            const uint8_t *found =
                memchr(first + at, needle->value[0], p->places - at);

            if (found == NULL)
                return;
            at = (size_t)(found - first);
        }
        if ((first[at] & needle->bits[0]) == needle->value[0]
            && (second[at] & needle->bits[1]) == needle->value[1]
            && check_places(p, at, 1))
            return;
    }
}

#if MATCH_X64

/*
 * The search with vectors of WIDTH bytes.  The last vector overlaps the one
 * before; no byte beyond the needle's last possible place is read.  EQ(at)
 * has all bits set where both bytes fit.
 */
#define DEFINE_FIND(name, attributes, vector, WIDTH, load, splat, and, equal,  \
                    or, movemask)                                              \
    attributes static void name(const struct pursuit *p)                       \
    {                                                                          \
        const struct needle *needle = p->needle;                               \
        const uint8_t *first = p->block->data + needle->anchor[0];             \
        const uint8_t *second = p->block->data + needle->anchor[1];            \
        const vector value0 = splat((char)needle->value[0]);                   \
        const vector value1 = splat((char)needle->value[1]);                   \
        const vector bits0 = splat((char)needle->bits[0]);                     \
        const vector bits1 = splat((char)needle->bits[1]);                     \
        const uint64_t all = UINT64_MAX >> (64 - WIDTH);                       \
        size_t at = 0, places = p->places;                                     \
                                                                               \
        for (; places - at >= 4 * WIDTH; at += 4 * WIDTH) {                    \
            vector found[4];                                                   \
            uint64_t low, high;                                                \
            int i;                                                             \
                                                                               \
            for (i = 0; i < 4; i++)                                            \
                found[i] = and(                                                \
                    equal(and(load(first + at + i * WIDTH), bits0), value0),   \
                    equal(and(load(second + at + i * WIDTH), bits1), value1)); \
            if (movemask(or(or(found[0], found[1]), or(found[2], found[3])))   \
                == 0)                                                          \
                continue;                                                      \
            low = (movemask(found[0]) & all)                                   \
                  | (movemask(found[1]) & all) << WIDTH;                       \
            high = (movemask(found[2]) & all)                                  \
                   | (movemask(found[3]) & all) << WIDTH;                      \
            if (check_places(p, at, low)                                       \
                || check_places(p, at + 2 * WIDTH, high))                      \
                return;                                                        \
        }                                                                      \
        while (at < places) {                                                  \
            size_t from = min_u64(at, places - WIDTH);                         \
            uint64_t found =                                                   \
                movemask(and(equal(and(load(first + from), bits0), value0),    \
                             equal(and(load(second + from), bits1), value1))); \
                                                                               \
            found &= all;                                                      \
            if (check_places(p, at, found >> (at - from)))                     \
                return;                                                        \
            at = from + WIDTH;                                                 \
        }                                                                      \
    }

#define LOAD128(at) _mm_loadu_si128((const void *)(at))
#define LOAD256(at) _mm256_loadu_si256((const void *)(at))
#define MOVEMASK128(v) ((uint64_t)(uint32_t)_mm_movemask_epi8(v))
#define MOVEMASK256(v) ((uint64_t)(uint32_t)_mm256_movemask_epi8(v))

/* clang-format off */
DEFINE_FIND(find_sse2, , __m128i, 16, LOAD128, _mm_set1_epi8, _mm_and_si128,
            _mm_cmpeq_epi8, _mm_or_si128, MOVEMASK128)

DEFINE_FIND(find_avx2, __attribute__((target("avx2"))), __m256i, 32, LOAD256,
            _mm256_set1_epi8, _mm256_and_si256, _mm256_cmpeq_epi8,
            _mm256_or_si256, MOVEMASK256)
/* clang-format on */

#endif

void
kdmp_find_needle(const struct kdmp_matcher *matcher,
                 const struct needle *needle, const struct block *block,
                 struct hits *hits)
{
    struct pursuit p = {.matcher = matcher,
                        .needle = needle,
                        .block = block,
                        .hits = hits,
                        .patience = UINT64_MAX};

    if (block->size < needle->length)
        return;
    p.places = min_u64(block->starts, block->size - needle->length + 1);
    if (needle->failure != NULL)
        p.patience = hits->work + PATIENCE + p.places;
#if MATCH_X64
    if (p.places >= 32 && matcher->avx2) {
        find_avx2(&p);
        return;
    }
    if (p.places >= 16) {
        find_sse2(&p);
        return;
    }
#endif
    find_plain(&p);
}
