/*
 * find_root.c: find a page-table root in memory that has no header.
 *
 * Windows' tables map themselves: one entry of the root points to the root.
 * Many pages look so by chance; a root is believed only if it maps
 * KUSER_SHARED_DATA and finds a plausible one there.
 *
 * SPDX-License-Identifier: MIT
 */
#include "internal.h"

#define KUSER64 UINT64_C(0xFFFFF78000000000)
#define KUSER32 UINT64_C(0xFFDF0000)

enum {
    KUSER_SYSTEM_ROOT = 0x30, /* NtSystemRoot, UTF-16: "C:\Windows" */
    KUSER_MAJOR = 0x26C,
    KUSER_MINOR = 0x270,
    KUSER_SIZE = 0x274,
    /* A process' full tables have at least this many kernel entries; the
     * user tables of KVA shadow have fewer. */
    ENOUGH_KERNEL_ENTRIES = 6,
    /* PAE: directories whose table is looked for, each by another scan. */
    MAX_DIRECTORIES = 16,
    /* Frames that one scan looks at, 8 GiB of memory, and all together. */
    MAX_SCANNED = 1 << 21,
    MAX_LOOKED_AT = 1 << 22
};

struct search {
    const struct kdmp_dump *dump;
    enum kdmp_paging paging;
    uint64_t best_root;
    int best_score;  /* 0: none yet */
    int directories; /* PAE: looked for so far */
    uint64_t left;   /* frames that may still be looked at */
};

static int
maps_kuser(const struct search *search, uint64_t root)
{
    struct kdmp_space space = {.source = &search->dump->source,
                               .dump = search->dump,
                               .root = root,
                               .paging = search->paging};
    int is32 =
        search->paging == KDMP_PAGING_X86 || search->paging == KDMP_PAGING_PAE;
    uint8_t kuser[KUSER_SIZE];
    uint64_t done;
    uint16_t letter;

    if (kdmp_read(&space, is32 ? KUSER32 : KUSER64, kuser, sizeof(kuser), &done,
                  NULL)
        != KDMP_OK)
        return 0;
    letter = load_le16(kuser + KUSER_SYSTEM_ROOT);
    return letter >= 'A' && letter <= 'Z'
           && load_le16(kuser + KUSER_SYSTEM_ROOT + 2) == ':'
           && load_le16(kuser + KUSER_SYSTEM_ROOT + 4) == '\\'
           && load_le32(kuser + KUSER_MAJOR) >= 5
           && load_le32(kuser + KUSER_MAJOR) <= 20
           && load_le32(kuser + KUSER_MINOR) <= 20;
}

/* Does a 64-bit root candidate map itself?  Count its kernel entries. */
static int
check_root64(const uint8_t *page, uint64_t pfn, int *score_out)
{
    int self = 0, present = 0, i;

    for (i = 256; i < 512; i++) {
        uint64_t entry = load_le64(page + 8 * i);

        if (!(entry & 1))
            continue;
        present++;
        if ((entry >> PAGE_SHIFT & (MAX_PFN - 1)) == pfn)
            self = 1;
    }
    *score_out = present;
    return self;
}

static int
check_root32(const uint8_t *page, uint64_t pfn, int *score_out)
{
    uint32_t self = load_le32(page + 4 * 0x300);
    int present = 0, i;

    for (i = 0x200; i < 0x400; i++)
        present += load_le32(page + 4 * i) & 1;
    *score_out = present;
    return (self & 1) && self >> PAGE_SHIFT == pfn;
}

/* The directory of the last GiB names all four directories in entries 0-3. */
static int
check_pae_directory(const uint8_t *page, uint64_t pfn)
{
    int i;

    for (i = 0; i < 4; i++)
        if (!(load_le64(page + 8 * i) & 1))
            return 0;
    return (load_le64(page + 8 * 3) >> PAGE_SHIFT & (MAX_PFN - 1)) == pfn;
}

static void
consider(struct search *search, uint64_t root, int score)
{
    if (score > search->best_score && maps_kuser(search, root)) {
        search->best_root = root;
        search->best_score = score;
    }
}

/* Look for a 32-byte PDPT whose entries equal the four of 'directory'. */
static void
match_pdpt(struct search *search, const uint8_t *page, uint64_t pfn,
           const uint8_t *directory)
{
    const uint64_t frame = UINT64_C(0x000FFFFFFFFFF000);
    int at, i;

    for (at = 0; at < PAGE_SIZE; at += 32) {
        for (i = 0; i < 4; i++) {
            uint64_t entry = load_le64(page + at + 8 * i);

            if (!(entry & 1)
                || ((entry ^ load_le64(directory + 8 * i)) & frame) != 0)
                break;
        }
        if (i == 4)
            consider(search, (pfn << PAGE_SHIFT) + (uint64_t)at,
                     ENOUGH_KERNEL_ENTRIES);
    }
}

/* Call back for each frame until the search has what it needs. */
typedef void visit_fn(struct search *search, const uint8_t *page, uint64_t pfn,
                      const uint8_t *argument);

static void
visit_frames(struct search *search, visit_fn *visit, const uint8_t *argument)
{
    const struct kdmp_dump *dump = search->dump;
    struct kdmp_run run;
    uint64_t pfn = 0;
    /* Segments of a hostile file may show the same bytes again and again. */
    uint64_t budget =
        min_u64(2 * (dump->file.size >> PAGE_SHIFT) + 2, MAX_SCANNED);
    uint8_t copy[PAGE_SIZE];

    while (kdmp_index_next_run(&dump->index, pfn, &run)) {
        uint64_t i;

        for (i = 0; i < run.count; i++) {
            uint64_t offset = run.file_offset + (i << PAGE_SHIFT);
            const uint8_t *page = copy;

            if (budget-- == 0 || search->left == 0)
                return;
            search->left--;
            if (dump->file.ptr != NULL)
                page = dump->file.ptr + offset;
            else if (kdmp_file_read(&dump->file, offset, copy, PAGE_SIZE, NULL)
                     != KDMP_OK)
                continue;
            visit(search, page, run.pfn + i, argument);
            if (search->best_score >= ENOUGH_KERNEL_ENTRIES)
                return;
        }
        pfn = run.pfn + run.count;
    }
}

static void
visit_frame(struct search *search, const uint8_t *page, uint64_t pfn,
            const uint8_t *argument)
{
    int score = 0, found = 0;

    (void)argument;
    switch (search->paging) {
    case KDMP_PAGING_X86:
        found = check_root32(page, pfn, &score);
        break;
    case KDMP_PAGING_PAE:
        if (search->directories < MAX_DIRECTORIES
            && check_pae_directory(page, pfn)) {
            uint8_t directory[32];

            search->directories++;
            memcpy(directory, page, sizeof(directory));
            visit_frames(search, match_pdpt, directory);
        }
        return;
    default:
        found = check_root64(page, pfn, &score);
        break;
    }
    if (found)
        consider(search, pfn << PAGE_SHIFT, score);
}

enum kdmp_status
kdmp_find_root(const struct kdmp_dump *dump, enum kdmp_paging paging,
               uint64_t *root_out)
{
    struct search search = {
        .dump = dump, .paging = paging, .left = MAX_LOOKED_AT};

    *root_out = 0;
    if (kdmp_paging_levels(paging) == 0)
        return KDMP_E_ARGUMENT;
    visit_frames(&search, visit_frame, NULL);
    if (search.best_score == 0)
        return KDMP_E_NOT_PRESENT;
    *root_out = search.best_root;
    return KDMP_OK;
}
