/*
 * internal.h: what the files of the core share and nobody else sees.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_INTERNAL_H
#define KDMP_INTERNAL_H

#include "bytes.h"
#include "index.h"
#include "kdmp.h"

#if defined(__GNUC__)
#define KDMP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define KDMP_PRINTF(fmt, args)
#endif

enum {
    PAGE_SHIFT = 12,
    PAGE_SIZE = 0x1000,
    HEADER64_SIZE = 0x2000,
    HEADER32_SIZE = 0x1000
};

/* Runs that fit in the header's descriptor (crash-dump format: 700 bytes,
 * and 4 bytes of padding that a writer may count in). */
#define MAX_RUNS64 43u
#define MAX_RUNS32 86u

/* ---- error.c ---- */

/* Fill *err (which may be NULL) and return 'status'. */
enum kdmp_status kdmp_fail(struct kdmp_error *err, enum kdmp_status status,
                           uint64_t where, const char *format, ...)
    KDMP_PRINTF(4, 5);

/* ---- alloc.c ---- */

void *kdmp_calloc(uint64_t count, uint64_t size);
void kdmp_free(void *memory);

#ifdef KDMP_TEST_ALLOC
/* Make the n-th allocation from now (0 = the next) fail; -1: none. */
void kdmp_test_fail_alloc(long nth);
/* Whether that allocation has been asked for. */
int kdmp_test_alloc_failed(void);
#endif

/* ---- file.c: the only file with calls to the operating system ---- */

struct kdmp_file {
    const uint8_t *ptr; /* mapped or given bytes; NULL: read them */
    uint64_t size;
    int mapped;                  /* ptr is ours to unmap */
    int fd;                      /* ours to close; -1 */
    struct kdmp_stream stream;   /* read_at != NULL: read through it */
    struct kdmp_map_watch watch; /* mapped != NULL: to be told of mappings */
};

enum kdmp_status kdmp_file_from_fd(struct kdmp_file *file, int fd, int map,
                                   struct kdmp_error *err);
enum kdmp_status kdmp_file_from_path(struct kdmp_file *file, const char *path,
                                     int map, struct kdmp_error *err);
/* From any input; file->fd must be -1 and the rest 0. */
enum kdmp_status kdmp_file_from_input(struct kdmp_file *file,
                                      const struct kdmp_input *input,
                                      struct kdmp_error *err);
void kdmp_file_close(struct kdmp_file *file);

/* Copy 'size' bytes at 'off'; all of them must lie inside the file. */
enum kdmp_status kdmp_file_read(const struct kdmp_file *file, uint64_t off,
                                void *buffer, uint64_t size,
                                struct kdmp_error *err);

/* ---- dump.c ---- */

struct kdmp_dump {
    struct kdmp_file file;
    struct kdmp_info info;
    struct kdmp_index index;
    struct kdmp_source source;
    uint64_t triage[KDMP_TRIAGE_FIELD_COUNT];
    struct kdmp_va_range *va_ranges; /* triage dumps: all, as found */
    uint64_t va_range_count;
    uint64_t va_bytes;          /* that all of them show of the file */
    struct kdmp_index va_index; /* ... and in units of bytes, merged */
    uint8_t *bitmap_copy;       /* the bitmap, when the file is not mapped */
};

/* The locate() of a dump's page source; the walk calls it without the
 * indirection when it can. */
enum kdmp_status kdmp_dump_locate(const struct kdmp_source *self,
                                  uint64_t paddr, uint64_t want,
                                  struct kdmp_extent *out);

/* ---- translate.c ---- */

/* Bytes from a canonical 'vaddr' on to the end of its half. */
uint64_t kdmp_canonical_rest(enum kdmp_paging paging, uint64_t vaddr);

/* Bytes from 'vaddr' on that have no canonical form; 0 if it has one.  Of a
 * paging that has tables, as the next one. */
uint64_t kdmp_canonical_hole(enum kdmp_paging paging, uint64_t vaddr);

/* log2 of what a whole table at a level maps. */
unsigned kdmp_table_shift(enum kdmp_paging paging, int level);

/* ---- pagefile.c ---- */

/* Bytes of a page that a walk found to be in a page file; KDMP_E_NOT_PRESENT
 * if that file was not given or is too short. */
enum kdmp_status kdmp_pagefile_read(const struct kdmp_space *space,
                                    const struct kdmp_translation *walk,
                                    uint64_t in_page, void *buffer,
                                    uint64_t size);

/* Whether such a page is in a page file that was given. */
int kdmp_pagefile_has(const struct kdmp_space *space,
                      const struct kdmp_translation *walk);

/* ---- header.c ---- */

/* Decode the header fields from the first header_size bytes into *info. */
void kdmp_decode_header(const uint8_t *header, int is64,
                        struct kdmp_info *info);

/* Whether the header's writer stored the field. */
static inline int
has_field(const struct kdmp_info *info, enum kdmp_field field)
{
    return !(info->absent >> field & 1);
}

/* ---- probe.c ---- */

/* Say what a file is that does not begin as a kernel dump. */
enum kdmp_status kdmp_name_wrong_file(const uint8_t *head, size_t head_size,
                                      uint64_t file_size,
                                      struct kdmp_error *err);

/* ---- fmt_*.c: one per on-disk layout; fill info and index ---- */

enum kdmp_status kdmp_load_runs(struct kdmp_dump *dump, const uint8_t *header,
                                struct kdmp_error *err);
enum kdmp_status kdmp_load_summary(struct kdmp_dump *dump,
                                   struct kdmp_error *err);
enum kdmp_status kdmp_load_bitmap(struct kdmp_dump *dump,
                                  struct kdmp_error *err);
enum kdmp_status kdmp_load_ranges(struct kdmp_dump *dump,
                                  struct kdmp_error *err);
enum kdmp_status kdmp_load_raw(struct kdmp_dump *dump,
                               const struct kdmp_raw *raw,
                               struct kdmp_error *err);
enum kdmp_status kdmp_load_triage(struct kdmp_dump *dump,
                                  struct kdmp_error *err);

#endif /* KDMP_INTERNAL_H */
