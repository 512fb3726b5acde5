/*
 * pfnmap.c: see pfnmap.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pfnmap.h"

static void
put(struct pfn_map *map, uint64_t key, uint32_t value)
{
    uint64_t at = pfn_map_home(map, key);

    while (map->slots[at].key != 0 && map->slots[at].key != key)
        at = (at + 1) & (map->capacity - 1);
    if (map->slots[at].key == 0)
        map->count++;
    map->slots[at].key = key;
    map->slots[at].value = value;
}

int
kdmp_pfn_map_reserve(struct pfn_map *map, uint64_t more)
{
    uint64_t capacity = map->capacity != 0 ? map->capacity : 64, i;
    struct pfn_map grown = {0};

    /* Never more than half full. */
    while (capacity / 2 < map->count + more)
        capacity *= 2;
    if (capacity == map->capacity)
        return 0;
    grown.slots = kdmp_calloc(capacity, sizeof(*grown.slots));
    if (grown.slots == NULL)
        return -1;
    grown.capacity = capacity;
    grown.shift = 64 - ctz64(capacity);
    for (i = 0; i < map->capacity; i++)
        if (map->slots[i].key != 0)
            put(&grown, map->slots[i].key, map->slots[i].value);
    kdmp_free(map->slots);
    *map = grown;
    return 0;
}

void
kdmp_pfn_map_set(struct pfn_map *map, uint64_t pfn, uint32_t value)
{
    put(map, pfn + 1, value);
}

void
kdmp_pfn_map_remove(struct pfn_map *map, uint64_t pfn)
{
    uint64_t mask = map->capacity - 1, key = pfn + 1, gap, at;

    gap = pfn_map_home(map, key);
    while (map->slots[gap].key != key)
        gap = (gap + 1) & mask;
    /* Move back whatever would not be found across the gap. */
    for (at = (gap + 1) & mask; map->slots[at].key != 0; at = (at + 1) & mask) {
        uint64_t home = pfn_map_home(map, map->slots[at].key);

        if (((at - home) & mask) >= ((at - gap) & mask)) {
            map->slots[gap] = map->slots[at];
            gap = at;
        }
    }
    map->slots[gap].key = 0;
    map->count--;
}

void
kdmp_pfn_map_deinit(struct pfn_map *map)
{
    kdmp_free(map->slots);
    memset(map, 0, sizeof(*map));
}
