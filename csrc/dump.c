/*
 * dump.c: open a dump, decide its layout, and be its page source.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "internal.h"

/* The bytes after the header: enough to see a secondary signature and the
 * fields by which the two bitmap layouts differ. */
#define SECONDARY_SIZE 0x30

static int
is_sig(const uint8_t *p, const char *text)
{
    return memcmp(p, text, strlen(text)) == 0;
}

/*
 * The summary layout of Windows 7 keeps three u32 at +0xC, the newer one
 * three u64 at +0x20 and nothing from +0xC to +0x1F.
 */
static int
is_new_bitmap(const uint8_t *p, uint32_t header_size)
{
    uint64_t first_page = load_le64(p + 0x20);
    int i;

    if (first_page < header_size + 0x38u || first_page > UINT32_MAX)
        return 0;
    for (i = 0xc; i < 0x20; i++)
        if (p[i] != 0)
            return 0;
    return 1;
}

/* Runs are believed for an unknown type only if they fit the file exactly. */
static int
runs_fit_file(const struct kdmp_dump *dump, const uint8_t *header)
{
    const struct kdmp_info *info = &dump->info;
    uint32_t size = info->pointer_size == 8 ? 8 : 4;
    uint32_t table = info->pointer_size == 8 ? 0x98 : 0x6c;
    uint64_t count = info->field[KDMP_F_NUMBER_OF_RUNS], total = 0, i;

    if (!has_field(info, KDMP_F_NUMBER_OF_RUNS)
        || count > (size == 8 ? MAX_RUNS64 : MAX_RUNS32))
        return 0;
    for (i = 0; i < count; i++)
        total =
            add_sat(total, load_le(header + table + (2 * i + 1) * size, size));
    return count > 0
           && add_sat(info->header_size, mul_sat(total, PAGE_SIZE))
                  == dump->file.size;
}

/* Decide the layout: by the secondary signature where there is one, by
 * DumpType otherwise. */
static enum kdmp_status
load_layout(struct kdmp_dump *dump, const uint8_t *header,
            struct kdmp_error *err)
{
    struct kdmp_info *info = &dump->info;
    uint64_t type = info->field[KDMP_F_DUMP_TYPE];
    uint32_t type_offset = info->pointer_size == 8 ? 0xf98 : 0xf88;
    uint8_t second[SECONDARY_SIZE] = {0};
    uint64_t size = dump->file.size - info->header_size;
    enum kdmp_status status;

    status = kdmp_file_read(&dump->file, info->header_size, second,
                            min_u64(size, sizeof(second)), err);
    if (status != KDMP_OK)
        return status;
    if (is_sig(second, "SDMPDUMP") || is_sig(second, "FDMPDUMP")) {
        if (type == 2 && !is_new_bitmap(second, info->header_size))
            return kdmp_load_summary(dump, err);
        return kdmp_load_bitmap(dump, err);
    }
    if (is_sig(second + 4, "RDMPDUMP") && load_le32(second) == 0x40)
        return kdmp_load_ranges(dump, err);
    switch (type) {
    case 1:
        return kdmp_load_runs(dump, header, err);
    case 3:
        info->layout = KDMP_LAYOUT_NONE;
        info->data_end = info->header_size;
        return KDMP_OK;
    case 4:
        return kdmp_load_triage(dump, err);
    case 2:
    case 5:
    case 6:
    case 7:
        return kdmp_fail(err, KDMP_E_FORMAT, info->header_size,
                         "a dump of type %" PRIu64
                         " needs SDMP or FDMP after the header, found "
                         "0x%08" PRIx32,
                         type, load_le32(second));
    case 8:
    case 9:
    case 0xa:
        return kdmp_fail(err, KDMP_E_FORMAT, info->header_size,
                         "a dump of type %" PRIu64
                         " needs RDMP after the header, found 0x%08" PRIx32,
                         type, load_le32(second + 4));
    default:
        if (runs_fit_file(dump, header))
            return kdmp_load_runs(dump, header, err);
        return kdmp_fail(err, KDMP_E_UNSUPPORTED, type_offset,
                         "the dump type 0x%" PRIx64 " is not known", type);
    }
}

static enum kdmp_status
dump_read_file(const struct kdmp_source *self, uint64_t file_offset,
               void *buffer, size_t size)
{
    const struct kdmp_dump *dump = self->context;

    return kdmp_file_read(&dump->file, file_offset, buffer, size, NULL);
}

static int
dump_next_run(const struct kdmp_source *self, uint64_t pfn,
              struct kdmp_run *out)
{
    const struct kdmp_dump *dump = self->context;

    return kdmp_index_next_run(&dump->index, pfn, out);
}

enum kdmp_status
kdmp_dump_locate(const struct kdmp_source *self, uint64_t paddr, uint64_t want,
                 struct kdmp_extent *out)
{
    const struct kdmp_dump *dump = self->context;
    uint64_t pfn = paddr >> PAGE_SHIFT, in_page = paddr & (PAGE_SIZE - 1);
    uint64_t pages = 1, offset = 0;
    enum kdmp_status status = index_find(&dump->index, pfn, &offset);

    want = min_u64(want, MAX_PFN << PAGE_SHIFT);
    if (want > PAGE_SIZE - in_page)
        pages = kdmp_index_extent(&dump->index, pfn,
                                  ((want - 1 + in_page) >> PAGE_SHIFT) + 1);
    out->length = min_u64(want, (pages << PAGE_SHIFT) - in_page);
    out->file_offset = offset + in_page;
    out->ptr = status == KDMP_OK && dump->file.ptr != NULL
                   ? dump->file.ptr + out->file_offset
                   : NULL;
    return status;
}

/* Read the header and the layout it names. */
static enum kdmp_status
load_dump(struct kdmp_dump *dump, struct kdmp_error *err)
{
    uint8_t header[HEADER64_SIZE] = {0};
    uint64_t size = min_u64(dump->file.size, sizeof(header));
    struct kdmp_info *info = &dump->info;
    enum kdmp_status status;
    int is64;

    status = kdmp_file_read(&dump->file, 0, header, size, err);
    if (status != KDMP_OK)
        return status;
    is64 = size >= 8 && is_sig(header, "PAGEDU64");
    if (!is64 && !(size >= 8 && is_sig(header, "PAGEDUMP")))
        return kdmp_name_wrong_file(header, (size_t)size, dump->file.size, err);
    info->file_size = dump->file.size;
    if (size < (is64 ? HEADER64_SIZE : HEADER32_SIZE))
        return kdmp_fail(err, KDMP_E_FORMAT, size,
                         "the file ends inside the dump header (0x%" PRIx64
                         " of 0x%x bytes)",
                         size, is64 ? HEADER64_SIZE : HEADER32_SIZE);
    kdmp_decode_header(header, is64, info);
    return load_layout(dump, header, err);
}

/* What all layouts have in common once they are loaded. */
static void
complete(struct kdmp_dump *dump)
{
    struct kdmp_info *info = &dump->info;

    info->pages_described = dump->index.pages_described;
    info->pages_available = dump->index.pages_available;
    info->pfn_end = kdmp_index_pfn_end(&dump->index);
    dump->source.locate = kdmp_dump_locate;
    dump->source.read_file = dump_read_file;
    dump->source.next_run = dump_next_run;
    dump->source.context = dump;
}

static struct kdmp_dump *
new_dump(struct kdmp_error *err)
{
    struct kdmp_dump *dump = kdmp_calloc(1, sizeof(*dump));

    if (dump == NULL)
        kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    else
        dump->file.fd = -1;
    return dump;
}

/* Finish an open whose file part ended with 'status'; raw is NULL for files
 * with a dump header. */
static enum kdmp_status
finish_open(struct kdmp_dump *dump, enum kdmp_status status,
            const struct kdmp_raw *raw, struct kdmp_dump **dump_out,
            struct kdmp_error *err)
{
    if (status == KDMP_OK)
        status =
            raw != NULL ? kdmp_load_raw(dump, raw, err) : load_dump(dump, err);
    if (status != KDMP_OK) {
        kdmp_close(dump);
        return status;
    }
    complete(dump);
    *dump_out = dump;
    return KDMP_OK;
}

enum kdmp_status
kdmp_open_fd(int fd, int map, struct kdmp_dump **dump_out,
             struct kdmp_error *err)
{
    struct kdmp_dump *dump = new_dump(err);

    *dump_out = NULL;
    if (dump == NULL)
        return KDMP_E_NOMEM;
    return finish_open(dump, kdmp_file_from_fd(&dump->file, fd, map, err), NULL,
                       dump_out, err);
}

enum kdmp_status
kdmp_open_input(const struct kdmp_input *input, const struct kdmp_raw *raw,
                struct kdmp_dump **dump_out, struct kdmp_error *err)
{
    struct kdmp_dump *dump = new_dump(err);
    enum kdmp_status status;

    *dump_out = NULL;
    if (dump == NULL)
        return KDMP_E_NOMEM;
    status = kdmp_file_from_input(&dump->file, input, err);
    return finish_open(dump, status, raw, dump_out, err);
}

enum kdmp_status
kdmp_open_path(const char *path, int map, struct kdmp_dump **dump_out,
               struct kdmp_error *err)
{
    struct kdmp_input input = {.path = path, .map = map};

    return kdmp_open_input(&input, NULL, dump_out, err);
}

enum kdmp_status
kdmp_open_memory(const void *data, size_t size, struct kdmp_dump **dump_out,
                 struct kdmp_error *err)
{
    struct kdmp_input input = {.data = data, .size = size};

    return kdmp_open_input(&input, NULL, dump_out, err);
}

enum kdmp_status
kdmp_open_stream(const struct kdmp_stream *stream, struct kdmp_dump **dump_out,
                 struct kdmp_error *err)
{
    struct kdmp_input input = {.stream = stream};

    return kdmp_open_input(&input, NULL, dump_out, err);
}

void
kdmp_close(struct kdmp_dump *dump)
{
    if (dump == NULL)
        return;
    kdmp_index_deinit(&dump->index);
    kdmp_index_deinit(&dump->va_index);
    kdmp_free(dump->va_ranges);
    kdmp_free(dump->bitmap_copy);
    kdmp_file_close(&dump->file);
    kdmp_free(dump);
}

const struct kdmp_info *
kdmp_get_info(const struct kdmp_dump *dump)
{
    return &dump->info;
}

const uint8_t *
kdmp_file_bytes(const struct kdmp_dump *dump, uint64_t *size_out)
{
    *size_out = dump->file.size;
    return dump->file.ptr;
}

enum kdmp_status
kdmp_read_file(const struct kdmp_dump *dump, uint64_t file_offset, void *buffer,
               size_t size, struct kdmp_error *err)
{
    return kdmp_file_read(&dump->file, file_offset, buffer, size, err);
}

const struct kdmp_source *
kdmp_get_source(const struct kdmp_dump *dump)
{
    return &dump->source;
}

enum kdmp_status
kdmp_frame_status(const struct kdmp_dump *dump, uint64_t pfn)
{
    uint64_t offset;

    return index_find(&dump->index, pfn, &offset);
}

uint64_t
kdmp_count_frames(const struct kdmp_dump *dump, uint64_t first, uint64_t end)
{
    if (first >= end)
        return 0;
    return kdmp_index_rank(&dump->index, end)
           - kdmp_index_rank(&dump->index, first);
}

int
kdmp_next_run(const struct kdmp_dump *dump, uint64_t pfn, struct kdmp_run *out)
{
    return kdmp_index_next_run(&dump->index, pfn, out);
}
