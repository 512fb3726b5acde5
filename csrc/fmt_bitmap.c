/*
 * fmt_bitmap.c: DumpType 5, 6 and 7, and the older summary dump (type 2).
 * Bit i of a bitmap says that frame i is stored; the pages follow in
 * ascending order from the first page's offset.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "internal.h"

/* Bits of a bitmap that must be copied, because the file is not mapped. */
#define MAX_COPIED_BITS (UINT64_C(1) << 34)

/* The bitmap itself: 'bits' bits at file offset 'table'. */
static enum kdmp_status
load_bits(struct kdmp_dump *dump, uint64_t table, uint64_t bits,
          struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint64_t size = bits / 8 + (bits % 8 != 0);
    const uint8_t *bitmap;
    enum kdmp_status status;

    if (bits == 0 || bits > MAX_BITMAP_BITS)
        return kdmp_fail(
            err, KDMP_E_FORMAT, table,
            "a bitmap of %" PRIu64 " frames; 1 to 2^36 are possible", bits);
    if (table > dump->file.size || size > dump->file.size - table)
        return kdmp_fail(err, KDMP_E_FORMAT, dump->file.size,
                         "the file ends inside the bitmap (0x%" PRIx64
                         " bytes at 0x%" PRIx64 ")",
                         size, table);
    if (info->first_page < table + size)
        return kdmp_fail(err, KDMP_E_FORMAT, info->first_page,
                         "the first page (0x%" PRIx64
                         ") lies inside the bitmap, which ends at 0x%" PRIx64,
                         info->first_page, table + size);
    if (info->first_page > UINT64_MAX - (bits << PAGE_SHIFT))
        return kdmp_fail(err, KDMP_E_FORMAT, table,
                         "the first page's offset 0x%" PRIx64
                         " is beyond any file",
                         info->first_page);
    if (dump->file.ptr != NULL) {
        bitmap = dump->file.ptr + table;
    } else if (bits > MAX_COPIED_BITS) {
        return kdmp_fail(err, KDMP_E_UNSUPPORTED, table,
                         "a bitmap of %" PRIu64
                         " frames can be read only where the file is mapped",
                         bits);
    } else {
        dump->bitmap_copy = kdmp_calloc(size, 1);
        if (dump->bitmap_copy == NULL)
            return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
        status =
            kdmp_file_read(&dump->file, table, dump->bitmap_copy, size, err);
        if (status != KDMP_OK)
            return status;
        bitmap = dump->bitmap_copy;
    }
    info->bitmap_bits = bits;
    if (kdmp_index_bitmap(&dump->index, bitmap, bits, info->first_page,
                          dump->file.size)
        != KDMP_OK)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    info->data_end =
        info->first_page + (dump->index.pages_described << PAGE_SHIFT);
    return KDMP_OK;
}

enum kdmp_status
kdmp_load_summary(struct kdmp_dump *dump, struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint64_t base = info->header_size;
    uint64_t table = base + (info->pointer_size == 8 ? 0x28 : 0x20);
    uint8_t block[0x18];
    enum kdmp_status status;

    status = kdmp_file_read(&dump->file, base, block, sizeof(block), err);
    if (status != KDMP_OK)
        return status;
    info->layout = KDMP_LAYOUT_SUMMARY;
    info->first_page = load_le32(block + 0xc);
    info->pages_claimed = load_le32(block + 0x14);
    return load_bits(dump, table, load_le32(block + 0x10), err);
}

enum kdmp_status
kdmp_load_bitmap(struct kdmp_dump *dump, struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint64_t base = info->header_size;
    uint8_t block[0x38];
    uint64_t pages, bits;
    enum kdmp_status status;

    status = kdmp_file_read(&dump->file, base, block, sizeof(block), err);
    if (status != KDMP_OK) {
        if (err != NULL)
            err->where = dump->file.size;
        return status;
    }
    info->layout = KDMP_LAYOUT_BITMAP;
    info->first_page = load_le64(block + 0x20);
    /* Descriptions disagree which of the two numbers is which.  Pages are
     * never more than bits, so the larger one counts the bits. */
    pages = load_le64(block + 0x28);
    bits = load_le64(block + 0x30);
    if (pages > bits) {
        uint64_t swap = pages;

        pages = bits;
        bits = swap;
    }
    info->pages_claimed = pages;
    return load_bits(dump, base + 0x38, bits, err);
}
