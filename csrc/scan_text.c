/*
 * scan_text.c: find runs of text in an address space.
 *
 * Memory is looked at in words of 64 bytes, as bits: which bytes are printable,
 * and which end a character of UTF-16.  Three tracks follow runs of such bits
 * from word to word: ASCII, and UTF-16 whose characters end at even and at odd
 * addresses.  Nothing is copied, however long a run is.
 *
 * SPDX-License-Identifier: MIT
 */
#include "scan.h"

#if MATCH_X64
#include <immintrin.h>
#endif

#define WORD 64u
#define TRACKS 3
/* Looked at between two checks of the budget. */
#define CHUNK 0x10000
#define EVEN_BITS UINT64_C(0x5555555555555555)

/* A run that has not ended. */
struct track {
    uint64_t start;
    int open;
};

struct text {
    struct scan_source source;
    struct kdmp_stretch recent[2]; /* the one being looked at comes first */
    const struct kdmp_matcher *matcher;
    struct kdmp_search *search;
    struct kdmp_match *out;
    size_t room;
    size_t count;
    uint64_t first; /* runs that begin earlier are not given */
    uint64_t last;
    uint64_t minimum;  /* characters */
    uint64_t position; /* of the next byte */
    int at_end;        /* position is 0: the last address of all was seen */
    uint64_t cut;      /* the lowest run there was no room for */
    struct track tracks[TRACKS];
    uint64_t carry; /* 1 if the last byte may begin a character of UTF-16 */
    uint8_t *buffer;
};

/* What is known of the bytes of a word: a bit for each. */
struct classes {
    uint64_t ascii;
    uint64_t latin; /* or ascii */
    uint64_t zero;
};

/* ---- runs ---- */

/* A run from 'start' to before 'end'. */
static void
emit(struct text *t, int track, uint64_t start, uint64_t end)
{
    struct kdmp_match *match;
    int wide = track > 0;

    if ((end - start) >> wide < t->minimum || start < t->first
        || start > t->last || !is_aligned(t->matcher, start))
        return;
    if (t->count == t->room || t->cut != UINT64_MAX) {
        t->cut = min_u64(t->cut, start);
        return;
    }
    match = &t->out[t->count++];
    match->address = start;
    match->length = end - start;
    match->pattern = (uint64_t)wide;
    kdmp_scan_place(
        &t->source,
        &t->recent[start - t->recent[0].address >= t->recent[0].length], match);
}

/* Follow a track through a word: 'bits' are characters by their last byte, of
 * the places in 'mask' where they can end. */
KDMP_INLINE void
follow(struct text *t, int number, uint64_t bits, uint64_t mask, uint64_t base)
{
    struct track *track = &t->tracks[number];
    unsigned wide = number > 0, have;
    uint64_t missing = ~bits & mask, tail, starts;

    bits &= mask;
    if (track->open) {
        unsigned gap;

        if (missing == 0)
            return;
        gap = ctz64(missing);
        track->open = 0;
        emit(t, number, track->start, base + gap - wide);
        bits &= UINT64_MAX << gap;
    }
    if (bits == 0)
        return;
    /* What goes on to the end of the word is still open. */
    tail = bits;
    if (missing != 0) {
        uint64_t above = missing; /* all bits from the highest down */

        above |= above >> 1;
        above |= above >> 2;
        above |= above >> 4;
        above |= above >> 8;
        above |= above >> 16;
        above |= above >> 32;
        tail &= ~above;
    }
    if (tail != 0) {
        track->open = 1;
        track->start = base + ctz64(tail) - wide;
        bits &= ~tail;
    }
    if (t->minimum > WORD >> wide)
        return;
    /* Where a run begins or goes on for as long as it must have. */
    for (starts = bits, have = 1; have < t->minimum && starts != 0;) {
        unsigned more = (unsigned)min_u64(have, t->minimum - have);

        starts &= starts >> (more << wide);
        have += more;
    }
    while (starts != 0) {
        unsigned from = ctz64(starts);
        unsigned gap = ctz64(missing & UINT64_MAX << from);

        emit(t, number, base + from - wide, base + gap - wide);
        starts &= UINT64_MAX << gap;
    }
}

/* Cut runs that hold the whole block before 'address', a multiple of its
 * size. */
static void
cut_runs(struct text *t, uint64_t address)
{
    int i;

    for (i = 0; i < TRACKS; i++) {
        struct track *track = &t->tracks[i];
        /* After the last character that ends below 'address'. */
        uint64_t end = address - (i == 1);

        if (!track->open || track->start > address - KDMP_TEXT_BLOCK)
            continue;
        emit(t, i, track->start, end);
        track->open = 0;
    }
}

/* Memory ends at t->position: so do all runs. */
static void
end_runs(struct text *t)
{
    int i;

    for (i = 0; i < TRACKS; i++) {
        uint64_t end = t->position;

        if (i > 0 && (end - 1) % 2 != (uint64_t)(i - 1))
            end--;
        if (t->tracks[i].open)
            emit(t, i, t->tracks[i].start, end);
        t->tracks[i].open = 0;
    }
    t->carry = 0;
}

/* The 'size' (1-64) bytes of a word at t->position. */
KDMP_INLINE void
take_word(struct text *t, const struct classes *classes, unsigned size)
{
    uint64_t all = UINT64_MAX >> (WORD - size), base = t->position;
    uint64_t wide = classes->zero & (classes->latin << 1 | t->carry);
    uint64_t even = base % 2 == 0 ? EVEN_BITS : ~EVEN_BITS;

    t->carry = classes->latin >> (size - 1) & 1;
    if (base % KDMP_TEXT_BLOCK == 0 && base > 0)
        cut_runs(t, base);
    if (t->matcher->text_kinds & KDMP_TEXT_ASCII
        && (classes->ascii | (uint64_t)t->tracks[0].open) != 0)
        follow(t, 0, classes->ascii, all, base);
    if (t->matcher->text_kinds & KDMP_TEXT_UTF16
        && (wide | (uint64_t)(t->tracks[1].open | t->tracks[2].open)) != 0) {
        follow(t, 1, wide, all & even, base);
        follow(t, 2, wide, all & ~even, base);
    }
    t->position += size;
    t->at_end = t->position == 0;
}

/* ---- classes of bytes ---- */

static void
classify(const uint8_t *data, struct classes *out)
{
    unsigned i;

    memset(out, 0, sizeof(*out));
    for (i = 0; i < WORD; i++) {
        uint64_t bit = UINT64_C(1) << i;
        uint8_t byte = data[i];

        if (byte == 0)
            out->zero |= bit;
        else if (byte == 9 || (byte >= 0x20 && byte < 0x7F))
            out->ascii |= bit;
        else if (byte >= 0xA0)
            out->latin |= bit;
    }
    out->latin |= out->ascii;
}

/* A word that is not full. */
static void
take_part(struct text *t, const uint8_t *data, unsigned size)
{
    struct classes classes;
    uint8_t word[WORD];

    memset(word, 1, sizeof(word));
    memcpy(word, data, size);
    classify(word, &classes);
    take_word(t, &classes, size);
}

#if MATCH_X64

#define DEFINE_TAKE(name, attributes, vector, WIDTH, load, splat, equal,       \
                    greater, movemask)                                         \
    attributes static size_t name(struct text *t, const uint8_t *data,         \
                                  size_t size)                                 \
    {                                                                          \
        const vector tab = splat(9), low = splat(0x1F), high = splat(0x7F);    \
        const vector control = splat((char)0x9F), nothing = splat(0);          \
        size_t at = 0;                                                         \
                                                                               \
        for (; at + WORD <= size && t->cut == UINT64_MAX; at += WORD) {        \
            struct classes classes = {0, 0, 0};                                \
            unsigned i;                                                        \
                                                                               \
            for (i = 0; i < WORD; i += WIDTH) {                                \
                vector bytes = load(data + at + i);                            \
                /* As signed numbers those from 0x80 on are negative. */       \
                uint64_t text = (movemask(greater(bytes, low))                 \
                                 & movemask(greater(high, bytes)))             \
                                | movemask(equal(bytes, tab));                 \
                uint64_t upper =                                               \
                    movemask(bytes) & movemask(greater(bytes, control));       \
                                                                               \
                classes.ascii |= text << i;                                    \
                classes.latin |= (text | upper) << i;                          \
                classes.zero |= movemask(equal(bytes, nothing)) << i;          \
            }                                                                  \
            take_word(t, &classes, WORD);                                      \
        }                                                                      \
        return at;                                                             \
    }

#define LOAD128(at) _mm_loadu_si128((const void *)(at))
#define LOAD256(at) _mm256_loadu_si256((const void *)(at))
#define MOVEMASK128(v) ((uint64_t)(uint32_t)_mm_movemask_epi8(v))
#define MOVEMASK256(v) ((uint64_t)(uint32_t)_mm256_movemask_epi8(v))

/* clang-format off */
DEFINE_TAKE(take_sse2, , __m128i, 16, LOAD128, _mm_set1_epi8, _mm_cmpeq_epi8,
            _mm_cmpgt_epi8, MOVEMASK128)

DEFINE_TAKE(take_avx2, __attribute__((target("avx2"))), __m256i, 32, LOAD256,
            _mm256_set1_epi8, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8,
            MOVEMASK256)
/* clang-format on */

#endif

/* Full words: how many bytes were taken. */
static size_t
take_words(struct text *t, const uint8_t *data, size_t size)
{
    struct classes classes;
    size_t at = 0;

#if MATCH_X64
    if (t->matcher->avx2)
        return take_avx2(t, data, size);
    return take_sse2(t, data, size);
#endif
    for (; at + WORD <= size && t->cut == UINT64_MAX; at += WORD) {
        classify(data + at, &classes);
        take_word(t, &classes, WORD);
    }
    return at;
}

/* Bytes at t->position, until there is no more room. */
static void
take_bytes(struct text *t, const uint8_t *data, size_t size)
{
    size_t head = (size_t)min_u64(size, (0 - t->position) % WORD);

    if (head > 0)
        take_part(t, data, (unsigned)head);
    head += take_words(t, data + head, size - head);
    if (head < size && t->cut == UINT64_MAX)
        take_part(t, data + head, (unsigned)(size - head));
}

/* ---- where to begin ---- */

/* Where in the bytes before 'address' no run can go on: after a byte that no
 * text has, or after two zeros; else their beginning. */
static int
find_break(const uint8_t *bytes, size_t size, size_t *at_out)
{
    size_t at;

    for (at = size; at > 0; at--) {
        uint8_t byte = bytes[at - 1];
        int zeros = byte == 0 && at > 1 && bytes[at - 2] == 0;
        int printable =
            byte == 9 || (byte >= 0x20 && byte < 0x7F) || byte >= 0xA0;

        if (zeros || (byte != 0 && !printable)) {
            *at_out = at;
            return 1;
        }
    }
    return 0;
}

/* The address from which on all runs are as if everything had been seen. */
static uint64_t
find_beginning(const struct scan_source *source, uint64_t address)
{
    uint64_t block = address - address % KDMP_TEXT_BLOCK, lowest = 0;
    uint64_t size = 256, done;
    uint8_t bytes[256];
    size_t at;

    if (block > KDMP_TEXT_BLOCK) /* a character may end at its first byte */
        lowest = block - KDMP_TEXT_BLOCK - 1;
    while (address > lowest) {
        struct kdmp_stretch piece = {.paddr = UINT64_MAX};

        size = min_u64(size, address - lowest);
        piece.address = address - size;
        if (kdmp_scan_read(source, &piece, 0, bytes, size, &done) != KDMP_OK
            || done < size) {
            if (size == 1)
                return address;
            size /= 2;
            continue;
        }
        if (find_break(bytes, (size_t)size, &at))
            return address - size + at;
        /* The first byte may be one of two zeros. */
        address -= size > 1 ? size - 1 : 1;
    }
    return lowest;
}

/* ---- the search ---- */

static int
is_wanted(const struct text *t, const struct track *track)
{
    return track->open && track->start >= t->first && track->start <= t->last;
}

/* Below which address all runs have been seen to their end. */
static uint64_t
complete_below(const struct text *t)
{
    uint64_t below = t->at_end ? t->cut : min_u64(t->cut, t->position);
    int i;

    for (i = 0; i < TRACKS; i++)
        if (is_wanted(t, &t->tracks[i]))
            below = min_u64(below, t->tracks[i].start);
    return below;
}

/* How many of 'size' bytes from 'from' on are between the bounds. */
static uint64_t
between(const struct text *t, uint64_t from, uint64_t size)
{
    uint64_t end; /* inclusive */

    if (size == 0)
        return 0;
    end = min_u64(from + (size - 1), t->last);
    if (from < t->first)
        from = t->first;
    return from <= end ? end - from + 1 : 0;
}

/* Whether everything up to the last address has been seen. */
static int
is_past_last(const struct text *t)
{
    return t->at_end || t->position > t->last;
}

/* Whether enough has been seen after a part of a stretch. */
static int
is_enough(const struct text *t, uint64_t budget)
{
    int i;

    if (t->cut != UINT64_MAX)
        return 1;
    if (is_past_last(t)) {
        for (i = 0; i < TRACKS; i++)
            if (is_wanted(t, &t->tracks[i]))
                return 0;
        return 1;
    }
    return budget == 0 && complete_below(t) > t->first;
}

/* 1 to stop. */
static int
take_stretch(struct text *t, const struct kdmp_stretch *stretch,
             uint64_t *budget, enum kdmp_status *status)
{
    uint64_t offset = 0;

    if (stretch->address != t->position) {
        end_runs(t);
        if (t->cut != UINT64_MAX)
            return 1;
        t->position = stretch->address;
    }
    t->recent[1] = t->recent[0];
    t->recent[0] = *stretch;
    while (offset < stretch->length) {
        uint64_t size = min_u64(CHUNK, stretch->length - offset), done = size;
        uint64_t before = t->position;
        const uint8_t *data = t->buffer;

        if (stretch->ptr != NULL)
            data = stretch->ptr + offset;
        else
            *status = kdmp_scan_read(&t->source, stretch, offset, t->buffer,
                                     size, &done);
        if (*status != KDMP_OK)
            return 1;
        take_bytes(t, data, (size_t)done);
        t->search->bytes += between(t, before, t->position - before);
        *budget -= min_u64(*budget, t->position - before);
        if (is_enough(t, *budget))
            return 1;
        if (done < size) /* not there after all: the next stretch ends runs */
            return 0;
        offset += size;
    }
    return 0;
}

static enum kdmp_status
scan_all(struct text *t)
{
    uint64_t budget = t->search->budget;
    enum kdmp_status status = KDMP_OK;
    struct kdmp_stretch stretch;

    for (;;) {
        switch (kdmp_scan_next(&t->source, &stretch, &status)) {
        case SCAN_STRETCH_GIVEN:
            if (stretch.ptr == NULL && t->buffer == NULL)
                t->buffer = kdmp_calloc(1, CHUNK);
            if (stretch.ptr == NULL && t->buffer == NULL)
                return KDMP_E_NOMEM;
            if (take_stretch(t, &stretch, &budget, &status)) {
                t->search->done = status == KDMP_OK && t->cut == UINT64_MAX
                                  && is_past_last(t);
                return status;
            }
            break;
        case SCAN_END:
            end_runs(t);
            t->search->done = t->cut == UINT64_MAX;
            return KDMP_OK;
        case SCAN_LATER:
            end_runs(t);
            if (t->cut == UINT64_MAX)
                t->position = kdmp_scan_position(&t->source);
            return KDMP_OK;
        default:
            return status;
        }
    }
}

enum kdmp_status
kdmp_scan_text(const struct kdmp_space *space,
               const struct kdmp_matcher *matcher, struct kdmp_search *search,
               struct kdmp_match *out, size_t room, size_t *count_out)
{
    struct text t;
    enum kdmp_status status;
    uint64_t below;

    memset(&t, 0, sizeof(t));
    t.matcher = matcher;
    t.search = search;
    t.out = out;
    t.room = room;
    t.first = search->next;
    t.last = search->last;
    t.minimum = matcher->text_minimum;
    t.cut = UINT64_MAX;
    kdmp_scan_begin(&t.source, space, search, 0, 0);
    t.position = find_beginning(&t.source, t.first);
    t.source.cursor.next = t.position;
    t.source.cursor.last = add_sat(t.last, 2 * KDMP_TEXT_BLOCK + 2);
    status = scan_all(&t);
    kdmp_free(t.buffer);
    kdmp_sort_matches(out, t.count);
    if (!search->done) { /* what begins later is found again */
        below = complete_below(&t);
        if (below < t.first)
            below = t.first;
        if (t.at_end || t.position > below)
            search->bytes -= between(&t, below, t.position - below);
        search->next = below;
        search->done = status == KDMP_OK && below > t.last;
        while (t.count > 0 && out[t.count - 1].address >= search->next)
            t.count--;
    }
    search->tables_left = t.source.cursor.tables_left;
    search->met_vad |= t.source.cursor.met_vad;
    *count_out = t.count;
    return status;
}
