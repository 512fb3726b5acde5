/*
 * probe.c: say what a file is that is not a kernel dump.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>

#include "internal.h"

struct signature {
    uint8_t offset;
    uint8_t size;
    char bytes[9];
    const char *what;
};

static const struct signature signatures[] = {
    {0, 4, "MDMP", "a user-mode minidump of one process (MDMP)"},
    {0, 4, "HIBR", "a Windows hibernation file (HIBR)"},
    {0, 4, "hibr", "a Windows hibernation file (hibr)"},
    {0, 4, "WAKE", "a Windows hibernation file that was resumed (WAKE)"},
    {0, 4, "wake", "a Windows hibernation file that was resumed (wake)"},
    {0, 4, "RSTR", "a Windows hibernation file that was restored (RSTR)"},
    {0, 4, "HORM", "a Windows hibernation file (HORM)"},
    {0, 4, "\177ELF",
     "an ELF file; the core of a virtual machine opens as a raw image"},
    {0, 4, "PK\3\4", "a zip archive"},
    {0, 2, "\x1f\x8b", "gzip-compressed data"},
    {0, 6,
     "\xfd"
     "7zXZ",
     "xz-compressed data"},
    {0, 3, "BZh", "bzip2-compressed data"},
    {0, 4, "\x28\xb5\x2f\xfd", "zstd-compressed data"},
    {0, 4, "7z\xbc\xaf", "a 7-Zip archive"},
    {0, 4, "MSCF", "a cabinet file"},
    {0, 4, "ZDMP", "a compressed dump (ZDMP)"},
    {0, 4, "Rar!", "a RAR archive"},
    {0, 4, "EMiL", "a LiME memory image"},
    {0, 4, "AVML", "an AVML memory image"},
    {0, 4, "KDMP", "a diagnostic file that begins with KDMP"},
    {0, 8, "vhdxfile", "a VHDX disk image"},
    {0, 4, "KDMV", "a VMware disk image"},
    {0, 4, "\xd2\xbe\xd2\xbe", "a VMware state file (.vmss, .vmsn)"},
    {0, 4, "\xd0\xbe\xd2\xbe", "a VMware state file (.vmss, .vmsn)"},
    {0, 4, "%PDF", "a PDF document"},
    {0, 2, "MZ", "a Windows program (MZ)"},
};

static int
is_text(const uint8_t *head, size_t size)
{
    size_t i;

    for (i = 0; i < size; i++)
        if (head[i] == 0x7f
            || (head[i] < 0x20 && head[i] != '\t' && head[i] != '\n'
                && head[i] != '\r' && head[i] != '\f' && head[i] != 0x1b))
            return 0;
    return size > 0;
}

static int
is_zero(const uint8_t *head, size_t size)
{
    size_t i;

    for (i = 0; i < size; i++)
        if (head[i] != 0)
            return 0;
    return 1;
}

enum kdmp_status
kdmp_name_wrong_file(const uint8_t *head, size_t head_size, uint64_t file_size,
                     struct kdmp_error *err)
{
    struct span bytes = {head, head_size};
    size_t i;

    if (file_size == 0)
        return kdmp_fail(err, KDMP_E_WRONG_FILE, 0,
                         "not a kernel dump: the file is empty");
    for (i = 0; i < sizeof(signatures) / sizeof(signatures[0]); i++) {
        const struct signature *s = &signatures[i];
        const uint8_t *p = span_at(bytes, s->offset, s->size);

        if (p != NULL && memcmp(p, s->bytes, s->size) == 0)
            return kdmp_fail(err, KDMP_E_WRONG_FILE, 0,
                             "not a kernel dump: this is %s", s->what);
    }
    if (head_size >= 8 && memcmp(head, "PAGE", 4) == 0)
        return kdmp_fail(err, KDMP_E_WRONG_FILE, 4,
                         "not a finished kernel dump: PAGE is followed by "
                         "0x%08" PRIx32 ", not by DU64 or DUMP (a page file, "
                         "or a dump that was never completed)",
                         load_le32(head + 4));
    if (is_zero(head, head_size))
        return kdmp_fail(err, KDMP_E_WRONG_FILE, 0,
                         "not a kernel dump: the file begins with zeros");
    if (is_text(head, head_size))
        return kdmp_fail(err, KDMP_E_WRONG_FILE, 0,
                         "not a kernel dump: this is a text file");
    return kdmp_fail(err, KDMP_E_WRONG_FILE, 0,
                     "not a kernel dump: it does not begin with PAGEDU64 or "
                     "PAGEDUMP");
}
