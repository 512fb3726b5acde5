/*
 * What the machine allows: the plain C of anybody who has the file mapped and
 * knows where its frames lie.  No checks beyond those that a walk cannot do
 * without.  Loaded by bounds.py as a shared library.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct run {
    uint64_t first, count, offset; /* frames, and where in the file */
};

const uint8_t *
bound_map(const char *path, uint64_t *size_out)
{
    struct stat about;
    void *bytes = MAP_FAILED;
    int file = open(path, O_RDONLY);

    if (file < 0)
        return NULL;
    if (fstat(file, &about) == 0) {
        *size_out = (uint64_t)about.st_size;
        bytes =
            mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
    }
    close(file);
    return bytes == MAP_FAILED ? NULL : bytes;
}

void
bound_unmap(const uint8_t *bytes, uint64_t size)
{
    munmap((void *)bytes, (size_t)size);
}

static const uint8_t *
at(const uint8_t *bytes, const struct run *runs, int n, uint64_t paddr)
{
    for (int i = 0; i < n; i++)
        if ((paddr >> 12) - runs[i].first < runs[i].count)
            return bytes + runs[i].offset + (paddr - (runs[i].first << 12));
    return NULL;
}

static uint64_t
walk(const uint8_t *bytes, const struct run *runs, int n, uint64_t root,
     uint64_t vaddr)
{
    uint64_t table = root;

    for (int shift = 39;; shift -= 9) {
        const uint8_t *place =
            at(bytes, runs, n, table + (vaddr >> shift & 511) * 8);
        uint64_t entry, in_page = (UINT64_C(1) << shift) - 1;

        if (place == NULL)
            return UINT64_MAX;
        memcpy(&entry, place, 8);
        if (!(entry & 1))
            return UINT64_MAX;
        if (shift == 12 || (entry & 0x80))
            return (entry & 0xffffffffff000 & ~in_page) | (vaddr & in_page);
        table = entry & 0xffffffffff000;
    }
}

void
bound_translate(const uint8_t *bytes, const struct run *runs, int n,
                uint64_t root, const uint64_t *vaddrs, uint64_t count,
                uint64_t *paddrs)
{
    for (uint64_t i = 0; i < count; i++)
        paddrs[i] = walk(bytes, runs, n, root, vaddrs[i]);
}

/* Walk and load; what is missing stays as it is. */
void
bound_read_u64(const uint8_t *bytes, const struct run *runs, int n,
               uint64_t root, const uint64_t *vaddrs, uint64_t count,
               uint64_t *values)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t paddr = walk(bytes, runs, n, root, vaddrs[i]);
        const uint8_t *place = at(bytes, runs, n, paddr);

        if (place != NULL)
            memcpy(&values[i], place, 8);
    }
}

/* One translation, with 'load' a read too, after the other, each waiting for
 * the one before as calls from outside do.  'zero' is 0, which the compiler
 * must not know. */
uint64_t
bound_one_by_one(const uint8_t *bytes, const struct run *runs, int n,
                 uint64_t root, const uint64_t *vaddrs, uint64_t count,
                 int load, uint64_t zero)
{
    uint64_t value = 0;

    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *place;

        value = walk(bytes, runs, n, root, vaddrs[i] ^ (value & zero));
        if (!load)
            continue;
        place = at(bytes, runs, n, value);
        if (place != NULL)
            memcpy(&value, place, 8);
    }
    return value;
}

/* As bound_one_by_one; copies the page there into 'page'. */
uint64_t
bound_page_by_page(const uint8_t *bytes, const struct run *runs, int n,
                   uint64_t root, const uint64_t *vaddrs, uint64_t count,
                   uint8_t *page, uint64_t zero)
{
    uint64_t value = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t paddr =
            walk(bytes, runs, n, root, vaddrs[i] ^ (value & zero));
        const uint8_t *place = at(bytes, runs, n, paddr);

        if (place == NULL)
            continue;
        memcpy(page, place, 4096);
        memcpy(&value, page + 4088, 8);
    }
    return value;
}

/* Copy all bytes into a buffer of 'chunk' bytes, again and again. */
void
bound_copy(const uint8_t *bytes, uint64_t size, uint8_t *buffer, uint64_t chunk)
{
    for (uint64_t done = 0; done < size; done += chunk)
        memcpy(buffer, bytes + done,
               (size_t)(size - done < chunk ? size - done : chunk));
}

/* How often a needle is there, by memmem. */
uint64_t
bound_find(const uint8_t *bytes, uint64_t size, const uint8_t *needle,
           uint64_t length)
{
    const uint8_t *end = bytes + size;
    uint64_t found = 0;

    while (
        (bytes = memmem(bytes, (size_t)(end - bytes), needle, (size_t)length))
        != NULL) {
        found++;
        bytes++;
    }
    return found;
}

/* How often a byte is there that is rare, by memchr. */
uint64_t
bound_find_byte(const uint8_t *bytes, uint64_t size, int byte)
{
    const uint8_t *end = bytes + size;
    uint64_t found = 0;

    while ((bytes = memchr(bytes, byte, (size_t)(end - bytes))) != NULL) {
        found++;
        bytes++;
    }
    return found;
}
