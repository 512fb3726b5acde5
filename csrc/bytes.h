/*
 * bytes.h: little-endian loads, bit counts and checked arithmetic.
 *
 * Everything that comes from a file or from dumped memory is taken apart
 * here; no other file casts such bytes to a struct.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_BYTES_H
#define KDMP_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* For what the page walk does at every level: it must not cost a call. */
#if defined(__GNUC__)
#define KDMP_INLINE static inline __attribute__((always_inline))
#define KDMP_COLD __attribute__((noinline, cold))
/* Nothing happens if the address cannot be had. */
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define KDMP_INLINE static inline
#define KDMP_COLD
#define PREFETCH(address) ((void)(address))
#endif

/* A read-only run of bytes. */
struct span {
    const uint8_t *ptr;
    uint64_t len;
};

/* Return 'len' bytes at 'off', or NULL if any of them lie outside 's'. */
static inline const uint8_t *
span_at(struct span s, uint64_t off, uint64_t len)
{
    if (off > s.len || len > s.len - off)
        return NULL;
    return s.ptr + off;
}

static inline uint16_t
load_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t
load_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16
           | (uint32_t)p[3] << 24;
}

static inline uint64_t
load_le64(const uint8_t *p)
{
    return (uint64_t)load_le32(p) | (uint64_t)load_le32(p + 4) << 32;
}

/* Load 'size' (1, 2, 4 or 8) bytes. */
static inline uint64_t
load_le(const uint8_t *p, unsigned size)
{
    switch (size) {
    case 1:
        return p[0];
    case 2:
        return load_le16(p);
    case 4:
        return load_le32(p);
    default:
        return load_le64(p);
    }
}

static inline unsigned
popcount64(uint64_t x)
{
#if defined(__POPCNT__)
    return (unsigned)__builtin_popcountll(x);
#else
    /* Without the instruction the compiler's builtin is a library call. */
    x -= x >> 1 & UINT64_C(0x5555555555555555);
    x = (x & UINT64_C(0x3333333333333333))
        + (x >> 2 & UINT64_C(0x3333333333333333));
    x = (x + (x >> 4)) & UINT64_C(0x0F0F0F0F0F0F0F0F);
    return (unsigned)(x * UINT64_C(0x0101010101010101) >> 56);
#endif
}

/* Number of trailing zero bits of x, which is not 0. */
static inline unsigned
ctz64(uint64_t x)
{
#if defined(__GNUC__)
    return (unsigned)__builtin_ctzll(x);
#else
    return popcount64((x & (0 - x)) - 1);
#endif
}

static inline uint64_t
min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* a * b, or UINT64_MAX if that does not fit. */
static inline uint64_t
mul_sat(uint64_t a, uint64_t b)
{
    if (a != 0 && b > UINT64_MAX / a)
        return UINT64_MAX;
    return a * b;
}

/* a + b, or UINT64_MAX if that does not fit. */
static inline uint64_t
add_sat(uint64_t a, uint64_t b)
{
    return b > UINT64_MAX - a ? UINT64_MAX : a + b;
}

/*
 * memcpy() of what may be a page or more.  With "rep movsb", which C libraries
 * use for such sizes, some processors (AMD's) take five times as long if the
 * target lies a few bytes higher in its page than the source does: when pages
 * are copied into a large block of malloc(), for one.  Half a MiB and more is
 * copied in other ways.
 */
static inline void
copy_bytes(uint8_t *target, const uint8_t *source, uint64_t size)
{
    uint8_t some[64];

    if ((((uintptr_t)target - (uintptr_t)source) & 0xFFF) - 1 < 31
        && size < 0x80000) {
        for (; size >= sizeof(some); size -= sizeof(some)) {
            memcpy(some, source, sizeof(some));
            memcpy(target, some, sizeof(some));
            target += sizeof(some);
            source += sizeof(some);
        }
    }
    memcpy(target, source, (size_t)size);
}

/* Fetch the beginning of what will be gone through next: the processor does
 * not know where it is, but goes on by itself. */
static inline void
prefetch_bytes(const uint8_t *bytes, uint64_t size)
{
    uint64_t i, end = min_u64(size, 2048);

    if (bytes != NULL)
        for (i = 0; i < end; i += 64)
            PREFETCH(bytes + i);
}

#endif /* KDMP_BYTES_H */
