/*
 * mutator.c: changes inputs as what they are.
 *
 * Random bytes rarely get past the first checks of a format.  Half of the
 * time this changes one field of a dump's headers to a number that programs
 * get wrong and leaves the rest plausible: counts that agree with their
 * tables, offsets that lie in the file.  Programs for the other targets get
 * commands exchanged, repeated and taken out.  The other half of the time the
 * fuzzer's own changes are made.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

enum { HEADER64 = 0x2000, HEADER32 = 0x1000, PAGE = 0x1000 };

struct place {
    uint32_t offset;
    uint32_t size;
};

/* What is being changed. */
struct input {
    uint8_t *bytes;
    size_t size;
    size_t room;
    uint64_t random;
};

static uint64_t
next_random(struct input *in)
{
    in->random ^= in->random << 13;
    in->random ^= in->random >> 7;
    in->random ^= in->random << 17;
    return in->random * UINT64_C(0x2545F4914F6CDD1D);
}

static size_t
below(struct input *in, size_t limit)
{
    return limit ? (size_t)(next_random(in) >> 16) % limit : 0;
}

/* A number that programs get wrong, near one of those there are. */
static uint64_t
odd_number(struct input *in, uint64_t old, unsigned width)
{
    uint64_t near = UINT64_C(1) << below(in, width * 8);
    uint64_t size = in->size;

    switch (below(in, 14)) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return size;
    case 3:
        return size - 1;
    case 4:
        return size + 1 + below(in, PAGE);
    case 5:
        return near;
    case 6:
        return near - 1;
    case 7:
        return 0 - near;
    case 8:
        return UINT64_MAX;
    case 9:
        return old + 1;
    case 10:
        return old - 1;
    case 11: /* somewhere in the file */
        return below(in, in->size + 1);
    case 12: /* a page in the file, or a frame */
        return below(in, 2) ? below(in, in->size + 1) & ~(size_t)(PAGE - 1)
                            : below(in, 32);
    default:
        return UINT64_C(1) << 52 >> below(in, 2) * 12;
    }
}

/* Change 'width' bytes at 'at', if they are there. */
static void
change(struct input *in, size_t at, unsigned width)
{
    uint64_t old;

    if (at > in->size || width > in->size - at)
        return;
    old = fuzz_load(in->bytes + at, width);
    fuzz_store(in->bytes + at, odd_number(in, old, width), width);
}

static void
change_place(struct input *in, size_t base, const struct place *places,
             size_t count)
{
    const struct place *place = &places[below(in, count)];

    change(in, base + place->offset, place->size);
}

#define CHANGE_ONE(in, base, places)                                           \
    change_place(in, base, places, sizeof(places) / sizeof((places)[0]))

/* Cut or lengthen; the end of a page, of a header and one byte less or more
 * are where it matters. */
static void
resize(struct input *in)
{
    size_t size = below(in, in->size + 1), most;

    switch (below(in, 5)) {
    case 0:
        size &= ~(size_t)(PAGE - 1);
        break;
    case 1:
        size = in->size - (in->size > 0);
        break;
    case 2: /* the tables behind the header only */
        size = HEADER64 + below(in, 0x100);
        break;
    case 3:
        size = in->size + below(in, 2) * PAGE + below(in, 64);
        break;
    default:
        break;
    }
    most = in->room;
    if (size > most)
        size = most;
    if (size > in->size)
        memset(in->bytes + in->size, (int)below(in, 256), size - in->size);
    in->size = size;
}

/* ---- the layouts behind the header ---- */

static uint64_t
load_at(const struct input *in, size_t at, unsigned width)
{
    if (at > in->size || width > in->size - at)
        return 0;
    return fuzz_load(in->bytes + at, width);
}

static void
store_at(struct input *in, size_t at, uint64_t value, unsigned width)
{
    if (at <= in->size && width <= in->size - at)
        fuzz_store(in->bytes + at, value, width);
}

/* A list of (frame, count): one number, or an entry copied or exchanged. */
static void
change_runs(struct input *in, size_t table, uint64_t count, unsigned width)
{
    size_t entry = table + below(in, (size_t)(count % 64) + 1) * width * 2;
    size_t other = table + below(in, (size_t)(count % 64) + 1) * width * 2;
    uint64_t number = load_at(in, other, width);

    switch (below(in, 4)) {
    case 0: /* next to another one, or over it */
        store_at(in, entry,
                 number + load_at(in, other + width, width) * below(in, 2)
                     + below(in, 3) - 1,
                 width);
        break;
    case 1:
        store_at(in, entry + width, below(in, 6), width);
        break;
    default:
        change(in, entry + below(in, 2) * width, width);
    }
}

static void
change_full(struct input *in, int is64)
{
    unsigned width = is64 ? 8 : 4;
    size_t at = is64 ? 0x88 : 0x64, table = is64 ? 0x98 : 0x6c;
    uint64_t count = load_at(in, at, 4), total = 0, i;

    if (below(in, 4) == 0)
        store_at(in, at, count = 1 + below(in, 6), 4);
    else if (below(in, 4) == 0)
        change(in, at, 4);
    else
        change_runs(in, table, count, width);
    if (below(in, 2)) { /* the total agrees */
        for (i = 0; i < count && i < 90; i++)
            total += load_at(in, table + (2 * i + 1) * width, width);
        store_at(in, is64 ? 0x90 : 0x68, total, width);
    }
}

static void
change_bitmap(struct input *in, size_t base, int is_old, int is64)
{
    static const struct place fields[] = {{0x20, 8}, {0x28, 8}, {0x30, 8}};
    static const struct place old_fields[] = {{0xc, 4}, {0x10, 4}, {0x14, 4}};
    size_t table = base + (is_old ? (is64 ? 0x28 : 0x20) : 0x38);
    uint64_t bits =
        is_old ? load_at(in, base + 0x10, 4) : load_at(in, base + 0x30, 8);
    uint64_t set = 0, i;

    switch (below(in, 5)) {
    case 0:
        if (is_old)
            CHANGE_ONE(in, base, old_fields);
        else
            CHANGE_ONE(in, base, fields);
        return;
    case 1: /* not a multiple of 8, 64 or 512 */
        bits = 1 + below(in, 600);
        store_at(in, base + (is_old ? 0x10 : 0x30), bits, is_old ? 4 : 8);
        break;
    case 2: /* the page follows the bitmap at once */
        store_at(in, base + (is_old ? 0xc : 0x20), table + (bits + 7) / 8,
                 is_old ? 4 : 8);
        break;
    default:
        i = table + below(in, (size_t)(bits % 4096) / 8 + 2);
        if (i < in->size)
            in->bytes[i] = below(in, 2)
                               ? (uint8_t)next_random(in)
                               : in->bytes[i] ^ (uint8_t)(1 << below(in, 8));
    }
    if (below(in, 2)) { /* the number of pages agrees */
        for (i = 0; i < bits && i < 4096; i++)
            set += load_at(in, table + i / 8, 1) >> i % 8 & 1;
        store_at(in, base + (is_old ? 0x14 : 0x28), set, is_old ? 4 : 8);
    }
}

static void
change_ranges(struct input *in, size_t base)
{
    static const struct place fields[] = {
        {0, 4}, {0x10, 8}, {0x18, 8}, {0x20, 4}, {0x28, 8}};
    uint64_t count = load_at(in, base + 0x10, 8) / 16, total = 0, i;

    if (below(in, 4) == 0) {
        CHANGE_ONE(in, base, fields);
        return;
    }
    if (below(in, 4) == 0) {
        count = 2 + below(in, 5);
        store_at(in, base + 0x10, count * 16, 8);
        store_at(in, base + 0x18, base + 0x30 + (count - 1) * 16, 8);
    } else {
        change_runs(in, base + 0x30, count, 8);
    }
    if (below(in, 2)) {
        for (i = 0; i + 1 < count && i < 64; i++)
            total += load_at(in, base + 0x38 + i * 16, 8);
        store_at(in, base + 0x28, total, 8);
        store_at(in, base + 0x20, count - 1, 4);
    }
}

/* 'shift' is what file offsets are more than offsets in the input. */
static void
change_triage(struct input *in, size_t base, int is64, uint64_t shift)
{
    static const struct place fields64[] = {
        {0x4, 4},  {0x1c, 4}, {0x20, 4}, {0x24, 4}, {0x28, 4},
        {0x2c, 4}, {0x48, 8}, {0x60, 8}, {0x68, 4}, {0x6c, 4},
        {0x70, 4}, {0x74, 4}, {0x78, 4}, {0x7c, 4}};
    static const struct place fields32[] = {
        {0x4, 4},  {0x1c, 4}, {0x20, 4}, {0x24, 4}, {0x28, 4},
        {0x2c, 4}, {0x48, 4}, {0x4c, 4}, {0x50, 4}, {0x54, 4},
        {0x58, 4}, {0x5c, 4}, {0x60, 4}, {0x64, 4}};
    size_t offset_at = base + (is64 ? 0x78 : 0x60);
    uint64_t table = load_at(in, offset_at, 4);
    uint64_t count = load_at(in, base + (is64 ? 0x7c : 0x64), 4);
    size_t entry = (size_t)(table - shift) + below(in, count % 64 + 1) * 16;
    size_t other = (size_t)(table - shift) + below(in, count % 64 + 1) * 16;
    uint64_t number;

    switch (below(in, 6)) {
    case 0:
        if (is64)
            CHANGE_ONE(in, base, fields64);
        else
            CHANGE_ONE(in, base, fields32);
        break;
    case 1: /* an offset in the file */
        store_at(in, base + 0x1c + 4 * below(in, 4),
                 shift + below(in, in->size + 1), 4);
        break;
    case 2: /* a table that fits */
        store_at(in, offset_at, shift + base + 0x80, 4);
        store_at(in, base + (is64 ? 0x7c : 0x64), below(in, 9), 4);
        break;
    case 3: /* two blocks next to each other or one over the other */
        number = load_at(in, other, 8) + below(in, 3) - 1;
        if (below(in, 2))
            number += load_at(in, other + 12, 4);
        store_at(in, entry, number, 8);
        break;
    case 4: /* a block somewhere in the file */
        store_at(in, entry + 8, shift + below(in, in->size + 1), 4);
        store_at(in, entry + 12, below(in, 0x200), 4);
        break;
    default:
        change(in, entry + below(in, 4) * 4, below(in, 2) ? 8 : 4);
    }
}

/* ---- inputs as a whole ---- */

/* What a dump of this type has behind its header, or in it. */
static void
change_tables(struct input *in, uint64_t kind, size_t base, int is64)
{
    switch (kind) {
    case 1:
        change_full(in, is64);
        break;
    case 4:
        change_triage(in, base, is64, 0);
        break;
    case 8:
    case 9:
    case 0xa:
        change_ranges(in, base);
        break;
    default:
        change_bitmap(in, base, kind == 2, is64);
    }
}

static void
change_dump(struct input *in)
{
    static const struct place header64[] = {
        {0x10, 8}, {0x20, 8}, {0x28, 8},  {0x30, 4},   {0x34, 4},   {0x80, 8},
        {0x88, 4}, {0x90, 8}, {0xfa0, 8}, {0x1038, 4}, {0x1050, 4}, {0, 8}};
    static const struct place header32[] = {
        {0x10, 4}, {0x18, 4}, {0x1c, 4}, {0x20, 4},  {0x24, 4},  {0x5c, 1},
        {0x60, 4}, {0x64, 4}, {0x68, 4}, {0xf8c, 4}, {0xfa0, 8}, {0, 8}};
    static const uint32_t machines[] = {0x8664, 0x14c, 0xaa64, 0x1c4, 0x200};
    int is64 = load_at(in, 4, 4) != 0x504d5544; /* "DUMP" */
    size_t base = is64 ? HEADER64 : HEADER32, kind_at = is64 ? 0xf98 : 0xf88;

    if (in->size < base) {
        in->size = LLVMFuzzerMutate(in->bytes, in->size, in->room);
        return;
    }
    switch (below(in, 12)) {
    case 0:
        if (is64)
            CHANGE_ONE(in, 0, header64);
        else
            CHANGE_ONE(in, 0, header32);
        return;
    case 1:
        store_at(in, kind_at, below(in, 12), 4);
        return;
    case 2:
        store_at(in, is64 ? 0x30 : 0x20, machines[below(in, 5)], 4);
        return;
    case 3:
        resize(in);
        return;
    default:
        break;
    }
    change_tables(in, load_at(in, kind_at, 4), base, is64);
}

/* fuzz_layout.c: the dump is made, changed and taken apart again. */
static void
change_layout(struct input *in)
{
    uint8_t image[HEADER64 + 0x1000];
    size_t head = fuzz_shape.head, rest = in->size > head ? in->size - head : 0;
    int is64 = in->bytes[0] & 1;
    size_t base = is64 ? HEADER64 : HEADER32, runs = is64 ? 0x88 : 0x64;
    struct input dump = {image, base + rest, sizeof(image), in->random};

    if (in->size < head || rest > 0x1000 || below(in, 8) == 0) {
        in->bytes[below(in, in->size < 4 ? in->size : 4)] =
            (uint8_t)below(in, 17);
        return;
    }
    memset(image, 0, sizeof(image));
    memcpy(image + runs, in->bytes + 4, head - 4);
    memcpy(image + base, in->bytes + head, rest);
    change_tables(&dump, in->bytes[1], base, is64);
    in->random = dump.random;
    memcpy(in->bytes + 4, image + runs, head - 4);
    memcpy(in->bytes + head, image + base, rest);
}

/* fuzz_raw.c: machine, count of runs, runs, image (an ELF core may be). */
static void
change_raw(struct input *in)
{
    static const struct place header[] = {{18, 2}, {32, 8}, {28, 4}, {40, 8},
                                          {44, 2}, {54, 2}, {56, 2}, {42, 2}};
    static const struct place segment[] = {{0, 4},  {4, 4},  {8, 8}, {12, 4},
                                           {16, 4}, {24, 8}, {32, 8}};
    size_t head = fuzz_shape.head, run = fuzz_shape.command;
    size_t image = head + load_at(in, 1, 1) % 9 * run, table;
    int is64 = load_at(in, image + 4, 1) == 2;

    if (load_at(in, 1, 1) % 9 != 0 && below(in, 3)) {
        change(in, head + below(in, (image - head) / 8) * 8, 8);
    } else if (load_at(in, image, 4) == 0x464c457f && below(in, 4)) {
        table = image + (size_t)load_at(in, image + (is64 ? 32 : 28), 4);
        if (below(in, 3) == 0)
            CHANGE_ONE(in, image, header);
        else
            CHANGE_ONE(in, table + below(in, 3) * (is64 ? 56 : 32), segment);
    } else if (below(in, 2)) {
        change(in, below(in, in->size) & ~(size_t)7, 8);
    } else {
        resize(in);
    }
}

/* Commands: exchange two, repeat one, take one out, change its numbers. */
static void
change_program(struct input *in)
{
    size_t head = fuzz_shape.head, unit = fuzz_shape.command, count, one, two;
    uint8_t copy[64];

    if (in->size < head + unit || unit > sizeof(copy)) {
        in->size = LLVMFuzzerMutate(in->bytes, in->size, in->room);
        return;
    }
    count = (in->size - head) / unit;
    one = head + below(in, count) * unit;
    two = head + below(in, count) * unit;
    memcpy(copy, in->bytes + one, unit);
    switch (below(in, 7)) {
    case 0:
        memcpy(in->bytes + one, in->bytes + two, unit);
        memcpy(in->bytes + two, copy, unit);
        break;
    case 1: /* insert a copy */
        if (in->room - in->size < unit)
            break;
        memmove(in->bytes + two + unit, in->bytes + two, in->size - two);
        memcpy(in->bytes + two, copy, unit);
        in->size += unit;
        break;
    case 2:
        memmove(in->bytes + one, in->bytes + one + unit, in->size - one - unit);
        in->size -= unit;
        break;
    case 3: /* the value of another one, a little different */
        memcpy(in->bytes + one + unit - 8, in->bytes + two + unit - 8, 8);
        change(in, one + unit - 8, 1);
        break;
    case 4:
        in->bytes[below(in, head)] = (uint8_t)below(in, 256);
        break;
    case 5: /* one bit of an entry */
        in->bytes[one + below(in, unit)] ^= (uint8_t)(1 << below(in, 8));
        break;
    default:
        change(in, one + unit - 8, 8);
    }
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                        unsigned seed)
{
    struct input in = {data, size, max_size,
                       (uint64_t)seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
    size_t rounds;

    if (size == 0 || fuzz_shape.kind == FUZZ_BYTES || below(&in, 2))
        return LLVMFuzzerMutate(data, size, max_size);
    for (rounds = 1 + below(&in, 4); rounds > 0 && in.size > 0; rounds--) {
        switch (fuzz_shape.kind) {
        case FUZZ_DUMP:
            change_dump(&in);
            break;
        case FUZZ_RAW:
            change_raw(&in);
            break;
        case FUZZ_LAYOUT:
            if (below(&in, 8) == 0)
                resize(&in);
            else
                change_layout(&in);
            break;
        case FUZZ_TRIAGE:
            if (below(&in, 8) == 0)
                resize(&in);
            else
                change_triage(&in, fuzz_shape.head, data[0] & 1,
                              (data[0] & 1 ? HEADER64 : HEADER32)
                                  - fuzz_shape.head);
            break;
        default:
            change_program(&in);
        }
    }
    return in.size > 0 ? in.size : 1;
}
