/*
 * paging.c: choose the paging mode of a dump, by what its machine allows and
 * by trial on addresses that the header names.
 *
 * SPDX-License-Identifier: MIT
 */
#include "internal.h"

/* KDDEBUGGER_DATA64: OwnerTag at +0x10, and at +0x36 a u16: bit 0 PaeEnabled,
 * bits 2-5 PagingLevels (0: not recorded). */
enum { KDBG_TAG = 0x4742444B, KDBG_PREFIX = 0x38 };

struct trial {
    enum kdmp_paging paging;
    int score;
    int confirmed; /* a readable KDBG names this very mode */
};

/* A list head is believed if the first element points back to it. */
static int
score_list(const struct kdmp_space *space, uint64_t head)
{
    unsigned width = space->dump->info.pointer_size;
    uint8_t link[8];
    uint64_t done;

    if (kdmp_read(space, head, link, width, &done, NULL) != KDMP_OK)
        return 0;
    if (kdmp_read(space, add_sat(load_le(link, width), width), link, width,
                  &done, NULL)
            == KDMP_OK
        && load_le(link, width) == head)
        return 4;
    return 1;
}

static int
confirms(enum kdmp_paging paging, unsigned flags)
{
    int levels = flags >> 2 & 15;

    if (paging == KDMP_PAGING_PAE || paging == KDMP_PAGING_X86)
        return (flags & 1) == (paging == KDMP_PAGING_PAE);
    return levels == kdmp_paging_levels(paging);
}

static struct trial
try_paging(const struct kdmp_dump *dump, uint64_t root, enum kdmp_paging paging)
{
    const struct kdmp_info *info = &dump->info;
    struct kdmp_space space = {
        .source = &dump->source, .dump = dump, .root = root, .paging = paging};
    struct trial trial = {paging, 0, 0};
    uint8_t kdbg[KDBG_PREFIX];
    uint64_t done;

    if (has_field(info, KDMP_F_KD_DEBUGGER_DATA_BLOCK)
        && kdmp_read(&space, info->field[KDMP_F_KD_DEBUGGER_DATA_BLOCK], kdbg,
                     sizeof(kdbg), &done, NULL)
               == KDMP_OK) {
        trial.score++;
        if (load_le32(kdbg + 0x10) == KDBG_TAG) {
            trial.score += 4;
            trial.confirmed = confirms(paging, load_le16(kdbg + 0x36));
        }
    }
    if (has_field(info, KDMP_F_PS_LOADED_MODULE_LIST))
        trial.score +=
            score_list(&space, info->field[KDMP_F_PS_LOADED_MODULE_LIST]);
    if (has_field(info, KDMP_F_PS_ACTIVE_PROCESS_HEAD))
        trial.score +=
            score_list(&space, info->field[KDMP_F_PS_ACTIVE_PROCESS_HEAD]);
    return trial;
}

/* Of two modes take the better; the first if both do equally well. */
static struct trial
try_both(const struct kdmp_dump *dump, uint64_t root, enum kdmp_paging first,
         enum kdmp_paging second)
{
    struct trial a = try_paging(dump, root, first);
    struct trial b = try_paging(dump, root, second);

    return b.score > a.score ? b : a;
}

enum kdmp_status
kdmp_choose_paging(const struct kdmp_dump *dump, uint64_t root,
                   enum kdmp_paging *paging_out,
                   enum kdmp_paging_source *source_out)
{
    const struct kdmp_info *info = &dump->info;
    uint64_t pae = info->field[KDMP_F_PAE_ENABLED];
    int pae_known = has_field(info, KDMP_F_PAE_ENABLED) && pae <= 1;
    struct trial best;

    *paging_out = KDMP_PAGING_PHYSICAL;
    *source_out = KDMP_PAGING_FROM_MACHINE;
    if (info->layout == KDMP_LAYOUT_TRIAGE) {
        *paging_out = KDMP_PAGING_TRIAGE;
        return KDMP_OK;
    }
    switch (info->machine) {
    case KDMP_MACHINE_ARM64:
        *paging_out = KDMP_PAGING_ARM64;
        return KDMP_OK;
    case KDMP_MACHINE_X64:
        best = try_both(dump, root, KDMP_PAGING_X64, KDMP_PAGING_LA57);
        break;
    case KDMP_MACHINE_X86:
        /* Without a hint PAE is tried first: Windows 8 and later know no
         * other. */
        if (pae_known && !pae)
            best = try_both(dump, root, KDMP_PAGING_X86, KDMP_PAGING_PAE);
        else
            best = try_both(dump, root, KDMP_PAGING_PAE, KDMP_PAGING_X86);
        break;
    default:
        return KDMP_E_UNSUPPORTED;
    }
    *paging_out = best.paging;
    if (best.confirmed)
        *source_out = KDMP_PAGING_FROM_KDBG;
    else if (pae_known && (best.paging == KDMP_PAGING_PAE) == (int)pae)
        *source_out = KDMP_PAGING_FROM_HEADER;
    else if (best.score > 0)
        *source_out = KDMP_PAGING_FROM_TRIAL;
    else
        *source_out = KDMP_PAGING_BY_DEFAULT;
    return KDMP_OK;
}
