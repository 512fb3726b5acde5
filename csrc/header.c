/*
 * header.c: decode the fields of the 64- and 32-bit dump headers.
 *
 * Offsets are those of DUMP_HEADER64 and DUMP_HEADER32.  Before it stores
 * fields Windows fills the header with the text "PAGE"; a field that still
 * reads so was never written and counts as absent.
 *
 * SPDX-License-Identifier: MIT
 */
#include "internal.h"

struct field {
    const char *name;
    uint16_t offset64;
    uint16_t offset32;
    uint8_t size64; /* bytes; 0: this header does not have the field */
    uint8_t size32;
};

static const struct field fields[] = {
    [KDMP_F_MAJOR_VERSION] = {"major_version", 0x8, 0x8, 4, 4},
    [KDMP_F_MINOR_VERSION] = {"minor_version", 0xc, 0xc, 4, 4},
    [KDMP_F_DIRECTORY_TABLE_BASE] = {"directory_table_base", 0x10, 0x10, 8, 4},
    [KDMP_F_PFN_DATABASE] = {"pfn_database", 0x18, 0x14, 8, 4},
    [KDMP_F_PS_LOADED_MODULE_LIST] = {"ps_loaded_module_list", 0x20, 0x18, 8,
                                      4},
    [KDMP_F_PS_ACTIVE_PROCESS_HEAD] = {"ps_active_process_head", 0x28, 0x1c, 8,
                                       4},
    [KDMP_F_MACHINE_IMAGE_TYPE] = {"machine_image_type", 0x30, 0x20, 4, 4},
    [KDMP_F_NUMBER_PROCESSORS] = {"number_processors", 0x34, 0x24, 4, 4},
    [KDMP_F_BUG_CHECK_CODE] = {"bug_check_code", 0x38, 0x28, 4, 4},
    [KDMP_F_BUG_CHECK_PARAMETER1] = {"bug_check_parameter1", 0x40, 0x2c, 8, 4},
    [KDMP_F_BUG_CHECK_PARAMETER2] = {"bug_check_parameter2", 0x48, 0x30, 8, 4},
    [KDMP_F_BUG_CHECK_PARAMETER3] = {"bug_check_parameter3", 0x50, 0x34, 8, 4},
    [KDMP_F_BUG_CHECK_PARAMETER4] = {"bug_check_parameter4", 0x58, 0x38, 8, 4},
    [KDMP_F_KD_DEBUGGER_DATA_BLOCK] = {"kd_debugger_data_block", 0x80, 0x60, 8,
                                       4},
    [KDMP_F_NUMBER_OF_RUNS] = {"number_of_runs", 0x88, 0x64, 4, 4},
    [KDMP_F_NUMBER_OF_PAGES] = {"number_of_pages", 0x90, 0x68, 8, 4},
    [KDMP_F_DUMP_TYPE] = {"dump_type", 0xf98, 0xf88, 4, 4},
    [KDMP_F_REQUIRED_DUMP_SPACE] = {"required_dump_space", 0xfa0, 0xfa0, 8, 8},
    [KDMP_F_SYSTEM_TIME] = {"system_time", 0xfa8, 0xfc0, 8, 8},
    [KDMP_F_SYSTEM_UP_TIME] = {"system_up_time", 0x1030, 0xfb8, 8, 8},
    [KDMP_F_MINI_DUMP_FIELDS] = {"mini_dump_fields", 0x1038, 0xf8c, 4, 4},
    [KDMP_F_SECONDARY_DATA_STATE] = {"secondary_data_state", 0x103c, 0xf90, 4,
                                     4},
    [KDMP_F_PRODUCT_TYPE] = {"product_type", 0x1040, 0xf94, 4, 4},
    [KDMP_F_SUITE_MASK] = {"suite_mask", 0x1044, 0xf98, 4, 4},
    [KDMP_F_WRITER_STATUS] = {"writer_status", 0x1048, 0xf9c, 4, 4},
    [KDMP_F_KD_SECONDARY_VERSION] = {"kd_secondary_version", 0x104d, 0x5d, 1,
                                     1},
    [KDMP_F_ATTRIBUTES] = {"attributes", 0x1050, 0x8a0, 4, 4},
    [KDMP_F_BOOT_ID] = {"boot_id", 0x1054, 0x8a4, 4, 4},
    [KDMP_F_PAE_ENABLED] = {"pae_enabled", 0, 0x5c, 0, 1},
};
_Static_assert(sizeof(fields) / sizeof(fields[0]) == KDMP_FIELD_COUNT,
               "an offset for every field");

const char *
kdmp_field_name(int field)
{
    if (field < 0 || field >= KDMP_FIELD_COUNT)
        return NULL;
    return fields[field].name;
}

/* Whether 'size' bytes at header offset 'off' are the filler.  32-bit headers
 * have been seen with "PAGEDUMP", too. */
static int
is_filler(const uint8_t *header, uint32_t off, uint32_t size)
{
    static const char page[] = "PAGEPAGE", pagedump[] = "PAGEDUMP";
    uint32_t i;
    int is_page = 1, is_pagedump = 1;

    for (i = 0; i < size; i++) {
        is_page &= header[off + i] == page[(off + i) % 8];
        is_pagedump &= header[off + i] == pagedump[(off + i) % 8];
    }
    return is_page || is_pagedump;
}

/* Copy a text field of 'size' bytes; 0 if it is filler up to its end. */
static uint8_t
copy_text(char *out, const uint8_t *header, uint32_t off, uint32_t size)
{
    uint32_t len = 0;

    while (len < size && header[off + len] != 0)
        len++;
    if (len >= 4 && is_filler(header, off, len))
        return 0;
    memcpy(out, header + off, len);
    out[len] = 0;
    return 1;
}

static uint8_t
machine_of(uint64_t image_type)
{
    switch (image_type) {
    case 0x8664:
        return KDMP_MACHINE_X64;
    case 0x14c:
        return KDMP_MACHINE_X86;
    case 0xaa64:
        return KDMP_MACHINE_ARM64;
    case 0x1c4:
        return KDMP_MACHINE_ARM;
    case 0x200:
        return KDMP_MACHINE_IA64;
    default:
        return KDMP_MACHINE_UNKNOWN;
    }
}

void
kdmp_decode_header(const uint8_t *header, int is64, struct kdmp_info *info)
{
    unsigned i;

    for (i = 0; i < KDMP_FIELD_COUNT; i++) {
        const struct field *f = &fields[i];
        uint32_t off = is64 ? f->offset64 : f->offset32;
        uint32_t size = is64 ? f->size64 : f->size32;

        if (size == 0 || is_filler(header, off, size))
            info->absent |= UINT64_C(1) << i;
        else
            info->field[i] = load_le(header + off, size);
    }
    info->pointer_size = is64 ? 8 : 4;
    info->header_size = is64 ? HEADER64_SIZE : HEADER32_SIZE;
    info->context_offset = is64 ? 0x348 : 0x320;
    info->context_size = is64 ? 3000 : 1200;
    info->exception_offset = is64 ? 0xf00 : 0x7d0;
    info->exception_size = is64 ? 0x98 : 0x50;
    info->has_version_user =
        copy_text(info->version_user, header, is64 ? 0x60 : 0x3c, 32);
    info->has_comment =
        copy_text(info->comment, header, is64 ? 0xfb0 : 0x820, 128);
    info->machine = machine_of(info->field[KDMP_F_MACHINE_IMAGE_TYPE]);
}
