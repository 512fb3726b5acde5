/*
 * paging.c: choose the paging mode of a dump, and show what the choice rests
 * on.
 *
 * SPDX-License-Identifier: MIT
 */
#include "internal.h"

/* KDDEBUGGER_DATA64: OwnerTag at +0x10, and at +0x36 a u16 whose bits 2-5 are
 * PagingLevels (0: not recorded). */
enum {
    KDBG_TAG = 0x4742444B,
    KDBG_PREFIX = 0x38
};

struct trial {
    int score;
    int kdbg_levels; /* what a readable KDBG says; 0: nothing */
};

/* A list head is believed if the first element points back to it. */
static int
score_list(const struct kdmp_space *space, uint64_t head)
{
    uint8_t link[8];
    uint64_t done;

    if (kdmp_read(space, head, link, sizeof(link), &done, NULL) != KDMP_OK)
        return 0;
    if (kdmp_read(space, add_sat(load_le64(link), 8), link, sizeof(link),
                  &done, NULL)
            == KDMP_OK
        && load_le64(link) == head)
        return 4;
    return 1;
}

static struct trial
try_paging(const struct kdmp_dump *dump, uint64_t root,
           enum kdmp_paging paging)
{
    const struct kdmp_info *info = &dump->info;
    struct kdmp_space space = {.source = &dump->source,
                               .dump = dump,
                               .root = root,
                               .paging = paging};
    struct trial trial = {0, 0};
    uint8_t kdbg[KDBG_PREFIX];
    uint64_t done;

    if (has_field(info, KDMP_F_KD_DEBUGGER_DATA_BLOCK)
        && kdmp_read(&space, info->field[KDMP_F_KD_DEBUGGER_DATA_BLOCK], kdbg,
                     sizeof(kdbg), &done, NULL)
               == KDMP_OK) {
        trial.score++;
        if (load_le32(kdbg + 0x10) == KDBG_TAG) {
            trial.score += 4;
            trial.kdbg_levels = load_le16(kdbg + 0x36) >> 2 & 15;
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

enum kdmp_status
kdmp_choose_paging(const struct kdmp_dump *dump, uint64_t root,
                   enum kdmp_paging *paging_out,
                   enum kdmp_paging_source *source_out)
{
    struct trial four, five, best;

    *paging_out = KDMP_PAGING_PHYSICAL;
    *source_out = KDMP_PAGING_FROM_MACHINE;
    if (dump->info.machine != KDMP_MACHINE_X64)
        return KDMP_E_UNSUPPORTED;
    four = try_paging(dump, root, KDMP_PAGING_X64);
    five = try_paging(dump, root, KDMP_PAGING_LA57);
    *paging_out = KDMP_PAGING_X64;
    best = four;
    if (five.score > four.score) {
        *paging_out = KDMP_PAGING_LA57;
        best = five;
    }
    if (best.kdbg_levels == kdmp_paging_levels(*paging_out))
        *source_out = KDMP_PAGING_FROM_KDBG;
    else
        *source_out = best.score > 0 ? KDMP_PAGING_FROM_TRIAL
                                     : KDMP_PAGING_BY_DEFAULT;
    return KDMP_OK;
}
