/*
 * read.c: copy bytes out of an address space, up to the first that is not
 * there, and say why it is not.
 *
 * SPDX-License-Identifier: MIT
 */
#include "mmu.h"
#include "tlb.h"

/* Reads of so many bytes go by stretches, so many at once at most. */
#define STRETCHED 0x10000
#define STRETCHED_WINDOW 0x200000
#define STRETCHES 32

/* Fill a fault; 'walk' may be NULL. */
static enum kdmp_status
stop(struct kdmp_fault *fault, enum kdmp_status status, uint64_t address,
     uint64_t paddr, uint64_t missing, const struct kdmp_translation *walk)
{
    if (fault == NULL)
        return status;
    memset(fault, 0, sizeof(*fault));
    fault->status = status;
    fault->address = address;
    fault->paddr = paddr;
    fault->missing = missing > 0 ? missing : 1;
    if (walk != NULL)
        fault->walk = *walk;
    return status;
}

/* Bytes from 'address' to the end of its block of 2^shift bytes; shift < 64. */
static uint64_t
rest_of_block(uint64_t address, unsigned shift)
{
    return (UINT64_C(1) << shift) - (address & ((UINT64_C(1) << shift) - 1));
}

/* Bytes from 'address' to the end of all addresses. */
static uint64_t
rest_of_all(uint64_t address)
{
    return address != 0 ? 0 - address : UINT64_MAX;
}

/* How far a failed walk's cause reaches. */
static uint64_t
missing_after(const struct kdmp_translation *walk)
{
    enum kdmp_paging paging = (enum kdmp_paging)walk->paging;

    switch (walk->status) {
    case KDMP_E_NON_CANONICAL:
        return kdmp_canonical_hole(paging, walk->vaddr);
    case KDMP_E_NOT_IN_DUMP:
    case KDMP_E_TRUNCATED:
        if (walk->state == KDMP_PTE_TRANSITION)
            return rest_of_block(walk->vaddr, PAGE_SHIFT);
        return min_u64(
            rest_of_block(walk->vaddr, kdmp_table_shift(paging, walk->level)),
            kdmp_canonical_rest(paging, walk->vaddr));
    default:
        if (walk->page_size == 0)
            return UINT64_MAX;
        return walk->page_size - (walk->vaddr & (walk->page_size - 1));
    }
}

/* Copy physical bytes; on failure *hole_out is how many are missing. */
static enum kdmp_status
copy_physical(const struct kdmp_source *source, uint64_t paddr, uint8_t *buffer,
              uint64_t size, uint64_t *done_out, uint64_t *hole_out)
{
    uint64_t done = 0;
    enum kdmp_status status = KDMP_OK;

    if (source->clean != NULL)
        source = source->clean;
    *hole_out = 1;
    while (done < size) {
        struct kdmp_extent extent;

        status = source->locate(source, paddr + done, size - done, &extent);
        if (status != KDMP_OK) {
            *hole_out = extent.length;
            break;
        }
        if (extent.ptr != NULL) {
            copy_bytes(buffer + done, extent.ptr, extent.length);
        } else {
            status = source->read_file(source, extent.file_offset,
                                       buffer + done, (size_t)extent.length);
            if (status != KDMP_OK)
                break;
        }
        done += extent.length;
    }
    *done_out = done;
    return status;
}

static enum kdmp_status
read_physical(const struct kdmp_space *space, uint64_t address, uint8_t *buffer,
              uint64_t size, uint64_t *done_out, struct kdmp_fault *fault)
{
    uint64_t hole;
    enum kdmp_status status =
        copy_physical(space->source, address, buffer, size, done_out, &hole);

    if (status != KDMP_OK)
        return stop(fault, status, address + *done_out, address + *done_out,
                    hole, NULL);
    return KDMP_OK;
}

/* Bytes of a page that is not in memory but known all the same: zeros, or in
 * a page file that was given.  KDMP_E_NOT_PRESENT if they are not known.
 * Level 1 only: above it a whole table is missing. */
static enum kdmp_status
supply_page(const struct kdmp_space *space, const struct kdmp_translation *walk,
            uint8_t *buffer, uint64_t size)
{
    if (walk->level != 1)
        return KDMP_E_NOT_PRESENT;
    if (walk->state == KDMP_PTE_PAGEFILE && space->pagefile_count > 0)
        return kdmp_pagefile_read(space, walk, walk->vaddr & (PAGE_SIZE - 1),
                                  buffer, size);
    if (walk->state != KDMP_PTE_DEMAND_ZERO || !space->zero_fill)
        return KDMP_E_NOT_PRESENT;
    memset(buffer, 0, (size_t)size);
    return KDMP_OK;
}

/* Whether reads of this space may go by stretches: its memory is mapped. */
static int
has_stretches(const struct kdmp_space *space)
{
    const struct kdmp_source *source = space->source;
    struct kdmp_extent extent;

    if (source->clean != NULL)
        source = source->clean;
    return source->locate(source,
                          space->root & kdmp_mmu_of(space->paging)->root_mask,
                          8, &extent)
               == KDMP_OK
           && extent.ptr != NULL;
}

/* Copy what follows each other from 'address' on, until something is missing
 * or not in memory; how many bytes that were.  Much faster than a walk for
 * each page, but it cannot tell why. */
static uint64_t
copy_stretches(const struct kdmp_space *space, uint64_t address,
               uint8_t *buffer, uint64_t size)
{
    struct kdmp_stretch batch[STRETCHES];
    struct kdmp_extent_cursor cursor = {.next = address,
                                        .last = address + (size - 1),
                                        .tables_left = UINT64_MAX};
    uint64_t done = 0;

    while (done < size) {
        size_t count, i;

        if (kdmp_next_extents(space, &cursor, batch, STRETCHES, &count)
                != KDMP_OK
            || count == 0)
            break;
        for (i = 0; i < count; i++) {
            if (batch[i].ptr == NULL || batch[i].address != address + done)
                return done;
            if (i + 1 < count)
                prefetch_bytes(batch[i + 1].ptr, batch[i + 1].length);
            copy_bytes(buffer + done, batch[i].ptr, batch[i].length);
            done += batch[i].length;
        }
    }
    return done;
}

static enum kdmp_status
read_virtual(const struct kdmp_space *space, uint64_t address, uint8_t *buffer,
             uint64_t size, uint64_t *done_out, struct kdmp_fault *fault)
{
    uint64_t done = 0, window = STRETCHED_WINDOW;
    uint64_t stretched = 0; /* from where on stretches are tried */
    enum kdmp_status status = KDMP_OK;

    if (size < STRETCHED || !has_stretches(space))
        stretched = UINT64_MAX;
    while (done < size) {
        struct kdmp_translation walk;
        uint64_t chunk, copied, hole, paddr;

        if (done >= stretched && size - done >= STRETCHED) {
            chunk = min_u64(size - done, window);
            copied =
                copy_stretches(space, address + done, buffer + done, chunk);
            done += copied;
            if (copied < chunk) { /* it may be so for long */
                stretched = done + STRETCHED;
                window = STRETCHED;
            } else {
                window = STRETCHED_WINDOW;
            }
            continue;
        }
        if (space->tlb != NULL
            && kdmp_tlb_find(space->tlb, address + done, &paddr)) {
            chunk = min_u64(rest_of_block(paddr, PAGE_SHIFT), size - done);
            status = copy_physical(space->source, paddr, buffer + done, chunk,
                                   &copied, &hole);
            if (status == KDMP_OK) {
                done += chunk;
                continue;
            } /* the walk tells why */
        }
        status = kdmp_translate(space, address + done, &walk);
        if (status == KDMP_E_NOT_PRESENT) {
            chunk = min_u64(rest_of_block(walk.vaddr, PAGE_SHIFT), size - done);
            status = supply_page(space, &walk, buffer + done, chunk);
            if (status == KDMP_OK) {
                done += chunk;
                continue;
            }
        }
        if (status != KDMP_OK) {
            stop(fault, status, address + done, walk.paddr,
                 missing_after(&walk), &walk);
            break;
        }
        if (space->tlb != NULL)
            kdmp_tlb_keep(space->tlb, &walk);
        chunk = walk.page_size - (walk.vaddr & (walk.page_size - 1));
        chunk = min_u64(chunk, size - done);
        status = copy_physical(space->source, walk.paddr, buffer + done, chunk,
                               &copied, &hole);
        done += copied;
        if (status != KDMP_OK) {
            stop(fault, status, address + done, walk.paddr + copied, hole,
                 &walk);
            break;
        }
    }
    *done_out = done;
    return status;
}

/* Where the nearest bytes of a triage dump are. */
static void
name_neighbours(const struct kdmp_dump *dump, uint64_t vaddr,
                struct kdmp_fault *fault)
{
    struct kdmp_run below, above;
    int found = kdmp_nearest_va(dump, vaddr, &below, &above);

    if (fault == NULL)
        return;
    if (found & 1)
        fault->below_end = below.pfn + below.count;
    if (found & 2)
        fault->above_start = above.pfn;
}

/* Copy out of a triage dump's virtual ranges, stitching those that touch. */
static enum kdmp_status
read_ranges(const struct kdmp_space *space, uint64_t address, uint8_t *buffer,
            uint64_t size, uint64_t *done_out, struct kdmp_fault *fault)
{
    const struct kdmp_dump *dump = space->dump;

    while (*done_out < size) {
        uint64_t vaddr = address + *done_out, offset = 0, length;
        enum kdmp_status status = index_find(&dump->va_index, vaddr, &offset);

        length = kdmp_index_extent(&dump->va_index, vaddr, size - *done_out);
        if (status == KDMP_OK)
            status = kdmp_file_read(&dump->file, offset, buffer + *done_out,
                                    length, NULL);
        if (status != KDMP_OK) {
            stop(fault, status, vaddr, 0, length, NULL);
            name_neighbours(dump, vaddr, fault);
            return status;
        }
        *done_out += length;
    }
    return KDMP_OK;
}

enum kdmp_status
kdmp_read(const struct kdmp_space *space, uint64_t address, void *buffer,
          uint64_t size, uint64_t *done_out, struct kdmp_fault *fault)
{
    uint64_t last = kdmp_last_address(space->paging), room;
    enum kdmp_status status;

    *done_out = 0;
    if (size == 0)
        return KDMP_OK;
    /* Bytes up to the last address, less one so that it fits. */
    room = address <= last ? last - address : UINT64_MAX;
    if (size - 1 > room)
        size = room + 1;
    else
        room = UINT64_MAX;
    switch (space->paging) {
    case KDMP_PAGING_PHYSICAL:
        status = read_physical(space, address, buffer, size, done_out, fault);
        break;
    case KDMP_PAGING_TRIAGE:
        status = read_ranges(space, address, buffer, size, done_out, fault);
        break;
    default:
        status = read_virtual(space, address, buffer, size, done_out, fault);
        break;
    }
    if (status == KDMP_OK && room != UINT64_MAX)
        return stop(fault, KDMP_E_ADDRESS_END, last, 0, UINT64_MAX, NULL);
    return status;
}

/* Physical memory from 'paddr' on, at most 'want' bytes: *fault if they are
 * missing. */
static enum kdmp_status
probe_physical(const struct kdmp_source *source, uint64_t address,
               uint64_t paddr, uint64_t want,
               const struct kdmp_translation *walk, struct kdmp_fault *fault)
{
    struct kdmp_extent extent;
    enum kdmp_status status = source->locate(source, paddr, want, &extent);

    if (status != KDMP_OK)
        stop(fault, status, address, paddr, extent.length, walk);
    return status;
}

static enum kdmp_status
probe_virtual(const struct kdmp_space *space, uint64_t address,
              struct kdmp_fault *fault)
{
    struct kdmp_translation walk;
    enum kdmp_status status = kdmp_translate(space, address, &walk);
    uint8_t byte;

    if (status == KDMP_E_NOT_PRESENT
        && supply_page(space, &walk, &byte, 1) == KDMP_OK)
        return KDMP_OK;
    if (status != KDMP_OK)
        return stop(fault, status, address, walk.paddr, missing_after(&walk),
                    &walk);
    return probe_physical(space->source, address, walk.paddr,
                          walk.page_size - (address & (walk.page_size - 1)),
                          &walk, fault);
}

static enum kdmp_status
probe_range(const struct kdmp_space *space, uint64_t address,
            struct kdmp_fault *fault)
{
    const struct kdmp_index *index = &space->dump->va_index;
    uint64_t offset;
    enum kdmp_status status = index_find(index, address, &offset);

    if (status != KDMP_OK) {
        stop(fault, status, address, 0,
             kdmp_index_extent(index, address, rest_of_all(address)), NULL);
        name_neighbours(space->dump, address, fault);
    }
    return status;
}

enum kdmp_status
kdmp_probe_byte(const struct kdmp_space *space, uint64_t address,
                struct kdmp_fault *fault)
{
    switch (space->paging) {
    case KDMP_PAGING_PHYSICAL:
        return probe_physical(space->source, address, address,
                              rest_of_all(address), NULL, fault);
    case KDMP_PAGING_TRIAGE:
        return probe_range(space, address, fault);
    default:
        return probe_virtual(space, address, fault);
    }
}

/* Offset of the first zero unit in [from, size), or 'size'. */
static uint64_t
find_end(const uint8_t *bytes, uint64_t from, uint64_t size, unsigned unit)
{
    uint64_t i;

    if (unit == 1) {
        const uint8_t *end = memchr(bytes + from, 0, (size_t)(size - from));

        return end != NULL ? (uint64_t)(end - bytes) : size;
    }
    for (i = from; i + unit <= size; i += unit)
        if (load_le(bytes + i, unit) == 0)
            return i;
    return size;
}

enum kdmp_status
kdmp_read_string(const struct kdmp_space *space, uint64_t address,
                 unsigned unit, void *buffer, uint64_t limit,
                 uint64_t *done_out, struct kdmp_fault *fault)
{
    uint64_t last = kdmp_last_address(space->paging);
    uint8_t *bytes = buffer;
    uint64_t done = 0;

    *done_out = 0;
    if (unit != 1 && unit != 2 && unit != 4)
        return stop(fault, KDMP_E_ARGUMENT, address, 0, 1, NULL);
    limit -= limit % unit;
    while (done < limit) {
        uint64_t chunk = rest_of_block(address + done, PAGE_SHIFT);
        uint64_t from = done - done % unit, copied, end;
        enum kdmp_status status;

        if (address <= last && done > last - address) {
            *done_out = done;
            return stop(fault, KDMP_E_ADDRESS_END, last, 0, UINT64_MAX, NULL);
        }
        chunk = min_u64(chunk, limit - done);
        status = kdmp_read(space, address + done, bytes + done, chunk, &copied,
                           fault);
        done += copied;
        end = find_end(bytes, from, done, unit);
        if (end < done - done % unit) {
            *done_out = end;
            return KDMP_OK;
        }
        if (status != KDMP_OK) {
            *done_out = done;
            return status;
        }
    }
    *done_out = done;
    return stop(fault, KDMP_E_LIMIT, address + done, 0, 1, NULL);
}
