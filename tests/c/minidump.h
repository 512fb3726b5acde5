/*
 * minidump.h: builds dumps of a few pages, one for each physical layout.
 *
 * Frames 1 to 4 are one page table of each level, 5 and 8 are data; the
 * tables map:
 *
 *   0x5000 -> frame 5, 0x6000 -> frame 8, 0x7000 -> frame 9 (not in the
 *   dump), 0x8000 -> nothing, 0xFFFFFFFFFFFFF000 -> frame 5
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_TEST_MINIDUMP_H
#define KDMP_TEST_MINIDUMP_H

#include <stdint.h>
#include <string.h>

#include "kdmp.h"

enum {
    MINI_HEADER = 0x2000,
    MINI_PAGE = 0x1000,
    MINI_PAGES = 6,
    MINI_MAX = MINI_HEADER + (MINI_PAGES + 1) * MINI_PAGE
};

static const uint64_t mini_frames[MINI_PAGES] = {1, 2, 3, 4, 5, 8};
static const int mini_types[] = {1, 5, 6, 8, 9, 0xa};

static inline void
store_le(uint8_t *p, uint64_t value, unsigned size)
{
    unsigned i;

    for (i = 0; i < size; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

/* Byte 'i' of data frame 'pfn': a text at 0x100, a pattern elsewhere. */
static inline uint8_t
mini_byte(uint64_t pfn, uint64_t i)
{
    static const char text[] = "hello";

    if (i >= 0x100 && i < 0x100 + sizeof(text))
        return (uint8_t)text[i - 0x100];
    return (uint8_t)(1 + (pfn * 31 + i * 7 + (i >> 8)) % 255);
}

static inline void
mini_page(uint8_t *page, uint64_t pfn)
{
    uint64_t i;

    memset(page, 0, MINI_PAGE);
    switch (pfn) {
    case 1:
        store_le(page, 0x2000 | 3, 8);
        store_le(page + 8 * 511, 0x2000 | 3, 8);
        break;
    case 2:
        store_le(page, 0x3000 | 3, 8);
        store_le(page + 8 * 511, 0x3000 | 3, 8);
        break;
    case 3:
        store_le(page, 0x4000 | 3, 8);
        store_le(page + 8 * 511, 0x4000 | 3, 8);
        break;
    case 4:
        store_le(page + 8 * 5, 0x5000 | 3, 8);
        store_le(page + 8 * 6, 0x8000 | 3, 8);
        store_le(page + 8 * 7, 0x9000 | 3, 8);
        store_le(page + 8 * 511, 0x5000 | 3, 8);
        break;
    default:
        for (i = 0; i < MINI_PAGE; i++)
            page[i] = mini_byte(pfn, i);
    }
}

/* Write a dump of one of mini_types into 'out' (MINI_MAX bytes); its size. */
static inline size_t
mini_dump(uint8_t *out, int type)
{
    uint8_t *second = out + MINI_HEADER;
    size_t at = MINI_HEADER;
    unsigned i;

    for (i = 0; i < MINI_HEADER; i += 4)
        memcpy(out + i, "PAGE", 4);
    memset(second, 0, MINI_PAGE);
    memcpy(out, "PAGEDU64", 8);
    store_le(out + 0x08, 0xf, 4);
    store_le(out + 0x0c, 19041, 4);
    store_le(out + 0x10, 0x1000, 8);
    store_le(out + 0x30, 0x8664, 4);
    store_le(out + 0x34, 2, 4);
    store_le(out + 0xf98, (uint64_t)type, 4);
    if (type == 1) {
        store_le(out + 0x88, 2, 4);
        store_le(out + 0x90, MINI_PAGES, 8);
        store_le(out + 0x98, 1, 8);
        store_le(out + 0xa0, 5, 8);
        store_le(out + 0xa8, 8, 8);
        store_le(out + 0xb0, 1, 8);
    } else if (type == 5 || type == 6) {
        memcpy(second, type == 5 ? "FDMPDUMP" : "SDMPDUMP", 8);
        at += 0x40;
        store_le(second + 0x20, at, 8);
        store_le(second + 0x28, MINI_PAGES, 8);
        store_le(second + 0x30, 16, 8);
        store_le(second + 0x38, 0x13e, 2);
    } else {
        const unsigned table = 0x30;

        store_le(second, 0x40, 4);
        memcpy(second + 4, "RDMPDUMP", 8);
        store_le(second + 0x10, 0x10 + 2 * 0x10, 8);
        at += table + 2 * 0x10;
        store_le(second + 0x18, at, 8);
        if (type == 0xa) {
            store_le(second + 0x20, 2, 4);
            store_le(second + 0x28, MINI_PAGES, 8);
        }
        store_le(second + table, 1, 8);
        store_le(second + table + 8, 5, 8);
        store_le(second + table + 0x10, 8, 8);
        store_le(second + table + 0x18, 1, 8);
    }
    for (i = 0; i < MINI_PAGES; i++, at += MINI_PAGE)
        mini_page(out + at, mini_frames[i]);
    return at;
}

/* A stream over bytes in memory. */
struct mini_bytes {
    const uint8_t *ptr;
    size_t size;
};

static inline int
mini_read_at(void *context, uint64_t offset, void *buffer, size_t size)
{
    const struct mini_bytes *bytes = context;

    if (offset > bytes->size || size > bytes->size - offset)
        return 5; /* EIO */
    memcpy(buffer, bytes->ptr + offset, size);
    return 0;
}

static inline struct kdmp_space
mini_space(const struct kdmp_dump *dump, enum kdmp_paging paging)
{
    struct kdmp_space space = {0};

    space.source = kdmp_get_source(dump);
    space.dump = dump;
    space.root = 0x1000;
    space.paging = paging;
    return space;
}

#endif /* KDMP_TEST_MINIDUMP_H */
