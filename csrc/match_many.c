/*
 * match_many.c: find many patterns at once.
 *
 * Of each pattern some bytes in a row are taken that have no wildcards and are
 * likely to be rare: 'stride' grams of 'size' bytes, each a byte further than
 * the one before.  In a block only every stride-th gram is looked up: one of
 * the pattern's is among them, wherever it lies.  A bitmap of hashes that fits
 * in the processor's cache answers for nearly all that are not.
 *
 * With a mask of 0xDF the grams of patterns that ignore the case of letters
 * count, too.
 *
 * SPDX-License-Identifier: MIT
 */
#include "match.h"

#define REACH 64 /* how far into a pattern its grams are taken from */
#define NONE UINT32_MAX
#define FOLD 0x20u
#define USAGE_SHIFT 20 /* log2 of the hashes by which grams are counted: 12 */

#define SINGLE FILTERS /* none of them */

/* Of the kinds of filters: grams, bytes in a row that a pattern needs, and how
 * many patterns make it quicker than one search for each. */
static const struct {
    uint32_t size;
    uint32_t stride;
    uint32_t fewest;
} kinds[FILTERS] = {{4, 4, 4}, {4, 1, 6}, {2, 1, 12}};

static uint32_t
hash_gram(uint32_t gram)
{
    return gram * UINT32_C(0x9E3779B1);
}

/* ---- where a pattern's grams are ---- */

/* Whether a byte of a needle is known, but for the bits in 'fold'. */
static int
is_known(const struct needle *needle, uint32_t at, unsigned fold)
{
    return needle->mask == NULL || (needle->mask[at] | fold) == 0xFF;
}

/* The most bytes in a row that are known, among those of interest. */
static uint32_t
longest_run(const struct needle *needle, unsigned fold)
{
    uint32_t end = (uint32_t)min_u64(needle->length, REACH), at;
    uint32_t run = 0, best = 0;

    for (at = 0; at < end; at++) {
        run = is_known(needle, at, fold) ? run + 1 : 0;
        if (run > best)
            best = run;
    }
    return best;
}

/* A long pattern that begins with one byte over and over would be compared
 * again and again in memory that has it, too. */
static int
is_monotonous(const struct needle *needle)
{
    uint32_t at;

    if (needle->failure == NULL)
        return 0;
    for (at = 1; at < REACH; at++)
        if (needle->bytes[at] != needle->bytes[0])
            return 0;
    return 1;
}

static int
kind_of(const struct needle *needle, unsigned fold)
{
    uint32_t run = longest_run(needle, fold);
    int kind;

    if (is_monotonous(needle))
        return SINGLE;
    for (kind = 0; kind < FILTERS; kind++)
        if (run >= kinds[kind].size + kinds[kind].stride - 1)
            return kind;
    return SINGLE;
}

static uint32_t
gram_at(const struct filter *filter, const uint8_t *bytes)
{
    uint32_t gram = 0, i;

    for (i = 0; i < filter->size; i++)
        gram |= (uint32_t)bytes[i] << 8 * i;
    return gram & filter->mask;
}

/* Where in a needle the grams begin that are likely to be the rarest, and have
 * been taken least for the needles before. */
static uint32_t
choose_offset(const struct filter *filter, const struct needle *needle,
              uint16_t *usage)
{
    unsigned fold = filter->mask & FOLD ? 0 : FOLD;
    uint32_t need = filter->size + filter->stride - 1;
    uint32_t end = (uint32_t)min_u64(needle->length, REACH), at, k;
    uint32_t run = 0, best = 0, best_score = UINT32_MAX;

    for (at = 0; at < end; at++) {
        uint32_t score = 0, from;

        run = is_known(needle, at, fold) ? run + 1 : 0;
        if (run < need)
            continue;
        from = at + 1 - need;
        for (k = 0; k < need; k++)
            score += kdmp_byte_rank(needle->bytes[from + k]);
        for (k = 0; k < filter->stride; k++)
            score +=
                32u
                * usage[hash_gram(gram_at(filter, needle->bytes + from + k))
                        >> USAGE_SHIFT];
        if (score < best_score) {
            best_score = score;
            best = from;
        }
    }
    return best;
}

/* ---- the tables ---- */

static unsigned
bits_for(uint64_t count, unsigned least, unsigned most)
{
    unsigned bits = least;

    while (bits < most && UINT64_C(1) << bits < count)
        bits++;
    return bits;
}

static enum kdmp_status
allocate(struct filter *filter)
{
    uint64_t count = (uint64_t)filter->needle_count * filter->stride, i;
    unsigned set_bits = bits_for(64 * count, 12, 20);
    unsigned head_bits = bits_for(2 * count, 8, 20);

    filter->shift = 32 - set_bits;
    filter->head_shift = 32 - head_bits;
    filter->set = kdmp_calloc(UINT64_C(1) << set_bits >> 6, 8);
    filter->heads = kdmp_calloc(UINT64_C(1) << head_bits, 4);
    filter->grams = kdmp_calloc(count, sizeof(*filter->grams));
    if (filter->set == NULL || filter->heads == NULL || filter->grams == NULL)
        return KDMP_E_NOMEM;
    for (i = 0; i < UINT64_C(1) << head_bits; i++)
        filter->heads[i] = NONE;
    return KDMP_OK;
}

static void
add_gram(struct filter *filter, uint32_t needle, uint32_t offset)
{
    struct gram *gram = &filter->grams[filter->gram_count];
    uint32_t hash;

    gram->value = gram_at(filter, filter->needles[needle].bytes + offset);
    gram->needle = needle;
    gram->offset = offset;
    hash = hash_gram(gram->value);
    gram->next = filter->heads[hash >> filter->head_shift];
    filter->heads[hash >> filter->head_shift] = filter->gram_count++;
    hash >>= filter->shift;
    filter->set[hash >> 6] |= UINT64_C(1) << (hash & 63);
    if (offset > filter->reach)
        filter->reach = offset;
}

static enum kdmp_status
fill(struct filter *filter, uint16_t *usage)
{
    enum kdmp_status status = allocate(filter);
    uint32_t i, k;

    if (status != KDMP_OK)
        return status;
    memset(usage, 0, sizeof(*usage) << (32 - USAGE_SHIFT));
    for (i = filter->needle_count; i-- > 0;) { /* chains begin with the first */
        uint32_t from = choose_offset(filter, &filter->needles[i], usage);

        for (k = 0; k < filter->stride; k++) {
            uint32_t value =
                gram_at(filter, filter->needles[i].bytes + from + k);
            uint16_t *count = &usage[hash_gram(value) >> USAGE_SHIFT];

            add_gram(filter, i, from + k);
            *count = (uint16_t)(*count + (*count < UINT16_MAX));
        }
    }
    return KDMP_OK;
}

/* Put the needles in the order of their kinds, each with its own number. */
static enum kdmp_status
sort_needles(struct kdmp_matcher *matcher, uint8_t *kind_of_each,
             const uint32_t counts[FILTERS + 1])
{
    struct needle *sorted = kdmp_calloc(matcher->needle_count, sizeof(*sorted));
    uint32_t at[FILTERS + 1], i;
    int kind;

    if (sorted == NULL)
        return KDMP_E_NOMEM;
    at[SINGLE] = 0;
    at[0] = counts[SINGLE];
    for (kind = 1; kind < FILTERS; kind++)
        at[kind] = at[kind - 1] + counts[kind - 1];
    for (kind = 0; kind < FILTERS; kind++)
        matcher->filters[kind].needles = sorted + at[kind];
    for (i = 0; i < matcher->needle_count; i++)
        sorted[at[kind_of_each[i]]++] = matcher->needles[i];
    kdmp_free(matcher->needles);
    matcher->needles = sorted;
    matcher->single_count = counts[SINGLE];
    return KDMP_OK;
}

static enum kdmp_status
make_filters(struct kdmp_matcher *matcher, uint8_t *kind_of_each,
             uint16_t *usage)
{
    uint32_t counts[FILTERS + 1] = {0}, i;
    int folds[FILTERS + 1] = {0}, kind;
    enum kdmp_status status;

    for (i = 0; i < matcher->needle_count; i++) {
        kind = kind_of(&matcher->needles[i], FOLD);
        kind_of_each[i] = (uint8_t)kind;
        counts[kind]++;
        folds[kind] |= kind != kind_of(&matcher->needles[i], 0);
    }
    for (i = 0; i < matcher->needle_count; i++)
        if (kind_of_each[i] != SINGLE
            && counts[kind_of_each[i]] < kinds[kind_of_each[i]].fewest)
            kind_of_each[i] = SINGLE;
    for (kind = 0; kind < FILTERS; kind++)
        if (counts[kind] < kinds[kind].fewest) {
            counts[SINGLE] += counts[kind];
            counts[kind] = 0;
        }
    status = sort_needles(matcher, kind_of_each, counts);
    for (kind = 0; kind < FILTERS && status == KDMP_OK; kind++) {
        struct filter *filter = &matcher->filters[kind];

        filter->size = kinds[kind].size;
        filter->stride = kinds[kind].stride;
        filter->needle_count = counts[kind];
        filter->mask = UINT32_MAX >> (32 - 8 * filter->size);
        if (folds[kind])
            filter->mask &= ~(FOLD * 0x01010101u);
        if (counts[kind] > 0)
            status = fill(filter, usage);
    }
    return status;
}

enum kdmp_status
kdmp_filters_init(struct kdmp_matcher *matcher)
{
    uint8_t *kind_of_each = kdmp_calloc(matcher->needle_count, 1);
    uint16_t *usage =
        kdmp_calloc(UINT64_C(1) << (32 - USAGE_SHIFT), sizeof(*usage));
    enum kdmp_status status = KDMP_E_NOMEM;

    if (kind_of_each != NULL && usage != NULL)
        status = make_filters(matcher, kind_of_each, usage);
    kdmp_free(kind_of_each);
    kdmp_free(usage);
    return status;
}

void
kdmp_filters_deinit(struct kdmp_matcher *matcher)
{
    int kind;

    for (kind = 0; kind < FILTERS; kind++) {
        kdmp_free(matcher->filters[kind].set);
        kdmp_free(matcher->filters[kind].heads);
        kdmp_free(matcher->filters[kind].grams);
    }
}

/* ---- search ---- */

struct pursuit {
    const struct kdmp_matcher *matcher;
    const struct filter *filter;
    const struct block *block;
    struct hits *hits;
};

/* The needles that may have the gram at 'at': 1 to stop the search. */
static KDMP_COLD int
check_gram(const struct pursuit *p, size_t at, uint32_t value)
{
    const struct filter *filter = p->filter;
    const struct block *block = p->block;
    uint32_t i = filter->heads[hash_gram(value) >> filter->head_shift];

    for (; i != NONE; i = filter->grams[i].next) {
        const struct gram *gram = &filter->grams[i];
        const struct needle *needle = &filter->needles[gram->needle];
        size_t start = at - gram->offset;

        p->hits->work += 4;
        if (is_too_much(p->hits))
            return 1;
        if (gram->value != value || at < gram->offset || start >= block->starts
            || needle->length > block->size - start
            || !is_aligned(p->matcher, block->address + start)
            || !kdmp_needle_fits(needle, block->data + start, &p->hits->work))
            continue;
        if (add_hit(p->hits, block->address + start, needle->length,
                    needle->number))
            return 1;
    }
    return 0;
}

/* Bit 0 says whether the set has the gram, the others nothing. */
KDMP_INLINE uint64_t
look_up(const uint64_t *set, unsigned shift, uint32_t value)
{
    uint32_t hash = hash_gram(value) >> shift;

    return set[hash >> 6] >> (hash & 63);
}

/* Inlined once for each stride.  'end' is where the last gram may begin. */
KDMP_INLINE int
find_strided(const struct pursuit *p, size_t *at_io, size_t end, size_t stride)
{
    const uint8_t *data = p->block->data;
    const uint64_t *set = p->filter->set;
    const unsigned shift = p->filter->shift;
    const uint32_t mask = p->filter->mask;
    size_t at = *at_io, i;

    /* Four bytes are read, however long a gram is. */
    for (; at + 3 * stride < end && at + 3 * stride + 4 <= p->block->size;
         at += 4 * stride) {
        const uint8_t *bytes = data + at;

        if (!((look_up(set, shift, load_le32(bytes) & mask)
               | look_up(set, shift, load_le32(bytes + stride) & mask)
               | look_up(set, shift, load_le32(bytes + 2 * stride) & mask)
               | look_up(set, shift, load_le32(bytes + 3 * stride) & mask))
              & 1))
            continue;
        for (i = 0; i < 4; i++) {
            uint32_t value = load_le32(bytes + i * stride) & mask;

            if (look_up(set, shift, value) & 1
                && check_gram(p, at + i * stride, value))
                return 1;
        }
    }
    *at_io = at;
    return 0;
}

void
kdmp_find_many(const struct kdmp_matcher *matcher, const struct filter *filter,
               const struct block *block, struct hits *hits)
{
    struct pursuit p = {
        .matcher = matcher, .filter = filter, .block = block, .hits = hits};
    size_t at = 0, end;

    if (block->size < filter->size)
        return;
    end =
        min_u64(block->size - filter->size + 1, block->starts + filter->reach);
    if (filter->stride == 4 ? find_strided(&p, &at, end, 4)
                            : find_strided(&p, &at, end, 1))
        return;
    for (; at < end; at += filter->stride) {
        uint32_t value = gram_at(filter, block->data + at);

        if (look_up(filter->set, filter->shift, value) & 1
            && check_gram(&p, at, value))
            return;
    }
}
