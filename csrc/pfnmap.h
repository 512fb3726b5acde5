/*
 * pfnmap.h: a hash map from frame numbers to small indices.
 *
 * Open addressing with linear probing; removal closes the gap, so there are
 * no tombstones and a map that empties is as fast as a new one.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_PFNMAP_H
#define KDMP_PFNMAP_H

#include "internal.h"

struct pfn_slot {
    uint64_t key; /* frame number + 1; 0: empty */
    uint32_t value;
};

struct pfn_map {
    struct pfn_slot *slots; /* NULL until something is put in */
    uint64_t capacity;      /* a power of two, or 0 */
    uint64_t count;
    unsigned shift; /* 64 - log2(capacity) */
};

#define PFN_MAP_NONE UINT32_MAX

/* Fibonacci hashing: neighbouring frames spread. */
static inline uint64_t
pfn_map_home(const struct pfn_map *map, uint64_t key)
{
    return key * UINT64_C(0x9E3779B97F4A7C15) >> map->shift;
}

/* The value of a frame, PFN_MAP_NONE if it has none. */
static inline uint32_t
pfn_map_find(const struct pfn_map *map, uint64_t pfn)
{
    uint64_t key = pfn + 1, at;

    if (map->count == 0)
        return PFN_MAP_NONE;
    for (at = pfn_map_home(map, key); map->slots[at].key != 0;
         at = (at + 1) & (map->capacity - 1))
        if (map->slots[at].key == key)
            return map->slots[at].value;
    return PFN_MAP_NONE;
}

/* Make room for 'more' further frames; 0, or -1 without memory. */
int kdmp_pfn_map_reserve(struct pfn_map *map, uint64_t more);

/* Set the value of a frame; there must be room. */
void kdmp_pfn_map_set(struct pfn_map *map, uint64_t pfn, uint32_t value);

/* Forget a frame that is in the map. */
void kdmp_pfn_map_remove(struct pfn_map *map, uint64_t pfn);

void kdmp_pfn_map_deinit(struct pfn_map *map);

#endif /* KDMP_PFNMAP_H */
