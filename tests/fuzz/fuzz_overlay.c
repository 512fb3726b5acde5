/*
 * fuzz_overlay.c: writes, made-up and remapped frames, snapshots and watches,
 * beside arrays that are copied whole.
 *
 * The input is a program for fuzz_memory.h.  Its stores fill the base first;
 * then the other commands are carried out: bits 0-3 of the u32 are what to do,
 * bits 4-7 a frame, bits 8-11 another one, bits 12-25 a size, bits 26-29 an
 * offset in units of 0x101.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_memory.h"

enum {
    MODEL = 16, /* frames that the model knows; the base has FRAMES */
    MAX_USES = 150,
    MAX_SNAPSHOTS = 6,
    UNITS = PAGE / 8
};

const struct fuzz_shape fuzz_shape = {FUZZ_PROGRAM, MEMORY_HEAD,
                                      MEMORY_COMMAND};

enum what { BASE, COPY, REMAP };

struct frame {
    enum what what;
    int synthetic; /* the base does not have it */
    unsigned target;
    uint8_t bytes[PAGE]; /* of COPY */
};

struct state {
    struct frame frames[MODEL];
};

struct model {
    const struct memory *base;
    struct state now;
    struct state *snapshots[MAX_SNAPSHOTS];
    uint64_t ids[MAX_SNAPSHOTS];
    size_t snapshot_count;
    unsigned watchers[MODEL];
    uint8_t seen[MODEL][PAGE]; /* content when dirty units were last taken */
    uint8_t was_there[MODEL];
};

struct session {
    struct model model;
    struct kdmp_overlay *overlay;
    struct kdmp_tlb *tlb;
    struct kdmp_space physical;
    struct kdmp_space virtual;
    struct kdmp_space cached; /* 'virtual' with the cache */
};

static enum kdmp_status
content(const struct model *model, uint64_t pfn, const uint8_t **bytes)
{
    const struct frame *frame = &model->now.frames[pfn];
    enum kdmp_status status;

    if (pfn >= MODEL)
        return KDMP_E_NOT_IN_DUMP;
    if (frame->what == REMAP) {
        pfn = frame->target;
        frame = &model->now.frames[pfn];
        REQUIRE(frame->what != REMAP);
    }
    if (frame->what == COPY) {
        *bytes = frame->bytes;
        return KDMP_OK;
    }
    status = memory_status(model->base, pfn);
    if (status == KDMP_OK)
        *bytes = model->base->bytes + pfn * PAGE;
    return status;
}

/* Whether another frame shows this one. */
static int
is_target(const struct model *model, uint64_t pfn)
{
    size_t i;

    for (i = 0; i < MODEL; i++)
        if (model->now.frames[i].what == REMAP
            && model->now.frames[i].target == pfn)
            return 1;
    return 0;
}

/* The bytes of a frame, to be written. */
static uint8_t *
model_page(struct model *model, uint64_t pfn)
{
    struct frame *frame = &model->now.frames[pfn];

    if (frame->what == REMAP)
        frame = &model->now.frames[pfn = frame->target];
    if (frame->what == BASE) {
        frame->what = COPY;
        memcpy(frame->bytes, model->base->bytes + pfn * PAGE, PAGE);
    }
    return frame->bytes;
}

static void
write_physical(struct session *s, uint64_t paddr, uint8_t fill, uint64_t size)
{
    struct model *model = &s->model;
    uint8_t *data = malloc(size ? size : 1);
    enum kdmp_status want = KDMP_OK, status;
    const uint8_t *bytes;
    struct kdmp_fault fault;
    uint64_t pfn, done, i;

    REQUIRE(data != NULL);
    for (i = 0; i < size; i++)
        data[i] = (uint8_t)(fill + i * 7);
    for (pfn = paddr / PAGE;
         size > 0 && pfn <= (paddr + size - 1) / PAGE && want == KDMP_OK; pfn++)
        want = content(model, pfn, &bytes);
    status = kdmp_overlay_write(s->overlay, &s->physical, paddr, data, size,
                                &done, &fault);
    REQUIRE(status == want && done == (want == KDMP_OK ? size : 0));
    for (i = 0; want == KDMP_OK && i < size; i++)
        model_page(model, (paddr + i) / PAGE)[(paddr + i) % PAGE] = data[i];
    free(data);
}

/* A write by virtual address is one by the physical addresses that single
 * bytes have before it. */
static void
write_virtual(struct session *s, uint64_t vaddr, uint8_t fill, uint64_t size)
{
    const struct kdmp_space *space = fill & 1 ? &s->cached : &s->virtual;
    uint64_t paddrs[2 * PAGE], done, i;
    uint8_t data[2 * PAGE];
    enum kdmp_status want = KDMP_OK, status;

    size %= sizeof(data);
    for (i = 0; i < size && want == KDMP_OK; i++) {
        data[i] = (uint8_t)(fill + i * 5);
        if (i > 0 && vaddr + i == 0) {
            want = KDMP_E_ADDRESS_END;
        } else if (i == 0 || (vaddr + i) % PAGE == 0) {
            want = kdmp_overlay_resolve(s->overlay, &s->virtual, vaddr + i,
                                        &paddrs[i], NULL);
        } else {
            paddrs[i] = paddrs[i - 1] + 1;
        }
    }
    if (vaddr > kdmp_last_address(space->paging) - size)
        return; /* near the end, the order of causes is not the point */
    status =
        kdmp_overlay_write(s->overlay, space, vaddr, data, size, &done, NULL);
    REQUIRE(status == want && done == (want == KDMP_OK ? size : 0));
    for (i = 0; want == KDMP_OK && i < size; i++)
        model_page(&s->model, paddrs[i] / PAGE)[paddrs[i] % PAGE] = data[i];
}

static void
create(struct session *s, unsigned pfn)
{
    struct frame *frame = &s->model.now.frames[pfn];
    int allowed =
        frame->what == BASE && memory_status(s->model.base, pfn) != KDMP_OK;

    REQUIRE(kdmp_overlay_create(s->overlay, pfn)
            == (allowed ? KDMP_OK : KDMP_E_ARGUMENT));
    if (!allowed)
        return;
    frame->what = COPY;
    frame->synthetic = 1;
    memset(frame->bytes, 0, PAGE);
}

static void
remap(struct session *s, unsigned pfn, unsigned target)
{
    struct model *model = &s->model;
    struct frame *frame = &model->now.frames[pfn];
    const struct frame *other = &model->now.frames[target];
    enum kdmp_status want = KDMP_OK;
    const uint8_t *bytes;

    if (pfn == target || other->what == REMAP || is_target(model, pfn))
        want = KDMP_E_ARGUMENT;
    else if (content(model, target, &bytes) != KDMP_OK)
        want = KDMP_E_NOT_IN_DUMP;
    else if (frame->what == COPY)
        want = KDMP_E_ARGUMENT;
    REQUIRE(kdmp_overlay_remap(s->overlay, pfn, target) == want);
    if (want != KDMP_OK)
        return;
    frame->what = REMAP;
    frame->target = target;
    frame->synthetic = memory_status(model->base, pfn) != KDMP_OK;
}

static void
revert(struct session *s, unsigned pfn)
{
    struct frame *frame = &s->model.now.frames[pfn];
    enum kdmp_status want = KDMP_OK;

    if (frame->what == BASE)
        want = KDMP_E_NOT_PRESENT;
    else if (frame->synthetic && is_target(&s->model, pfn))
        want = KDMP_E_ARGUMENT;
    REQUIRE(kdmp_overlay_revert(s->overlay, pfn) == want);
    if (want != KDMP_OK)
        return;
    frame->what = BASE;
    frame->synthetic = 0;
}

static void
drop_snapshots(struct model *model, size_t from)
{
    while (model->snapshot_count > from)
        free(model->snapshots[--model->snapshot_count]);
}

static void
snapshot(struct session *s)
{
    struct model *model = &s->model;
    struct state *copy;

    if (model->snapshot_count == MAX_SNAPSHOTS)
        return;
    copy = malloc(sizeof(*copy));
    REQUIRE(copy != NULL);
    *copy = model->now;
    REQUIRE(
        kdmp_overlay_snapshot(s->overlay, &model->ids[model->snapshot_count])
        == KDMP_OK);
    model->snapshots[model->snapshot_count++] = copy;
}

static void
restore(struct session *s, unsigned which)
{
    struct model *model = &s->model;
    uint64_t frames;

    if (model->snapshot_count == 0) {
        REQUIRE(kdmp_overlay_restore(s->overlay, which, &frames)
                == KDMP_E_ARGUMENT);
        return;
    }
    which %= (unsigned)model->snapshot_count;
    REQUIRE(kdmp_overlay_restore(s->overlay, model->ids[which], &frames)
            == KDMP_OK);
    model->now = *model->snapshots[which];
    drop_snapshots(model, which + 1);
}

static void
drop(struct session *s, unsigned which)
{
    struct model *model = &s->model;

    if (model->snapshot_count == 0) {
        REQUIRE(kdmp_overlay_drop(s->overlay, which) == KDMP_E_ARGUMENT);
        return;
    }
    which %= (unsigned)model->snapshot_count;
    REQUIRE(kdmp_overlay_drop(s->overlay, model->ids[which]) == KDMP_OK);
    free(model->snapshots[which]);
    model->snapshot_count--;
    for (; which < model->snapshot_count; which++) {
        model->snapshots[which] = model->snapshots[which + 1];
        model->ids[which] = model->ids[which + 1];
    }
}

/* ---- watches ---- */

/* What the content of a frame is now is what it was when last asked. */
static void
forget_dirty(struct model *model, unsigned pfn)
{
    const uint8_t *bytes;

    model->was_there[pfn] = content(model, pfn, &bytes) == KDMP_OK;
    if (model->was_there[pfn])
        memcpy(model->seen[pfn], bytes, PAGE);
}

static void
watch(struct session *s, unsigned pfn)
{
    REQUIRE(kdmp_overlay_watch(s->overlay, pfn) == KDMP_OK);
    if (s->model.watchers[pfn]++ == 0)
        forget_dirty(&s->model, pfn);
}

static void
unwatch(struct session *s, unsigned pfn)
{
    kdmp_overlay_unwatch(s->overlay, pfn);
    s->model.watchers[pfn] -= s->model.watchers[pfn] > 0;
}

/* What differs in a watched frame is among what the overlay says. */
static void
take_dirty(struct session *s, size_t room)
{
    struct model *model = &s->model;
    static const uint8_t zeros[8];
    uint8_t dirty[MODEL][UNITS] = {{0}};
    uint64_t places[UNITS];
    const uint8_t *bytes;
    size_t count, i, pfn;

    room = room % UNITS + 1;
    while ((count = kdmp_overlay_take_dirty(s->overlay, places, room)) > 0) {
        REQUIRE(count <= room);
        for (i = 0; i < count; i++) {
            pfn = places[i] / PAGE;
            REQUIRE(pfn < MODEL && places[i] % 8 == 0);
            REQUIRE(model->watchers[pfn] > 0);
            REQUIRE(!dirty[pfn][places[i] % PAGE / 8]);
            dirty[pfn][places[i] % PAGE / 8] = 1;
        }
    }
    for (pfn = 0; pfn < MODEL; pfn++) {
        if (model->watchers[pfn] == 0)
            continue;
        if (content(model, pfn, &bytes) != KDMP_OK)
            bytes = NULL;
        for (i = 0; i < UNITS; i++) {
            const uint8_t *now = bytes != NULL ? bytes + 8 * i : zeros;
            const uint8_t *before =
                model->was_there[pfn] ? model->seen[pfn] + 8 * i : zeros;

            REQUIRE(dirty[pfn][i] || memcmp(now, before, 8) == 0);
        }
        forget_dirty(model, (unsigned)pfn);
    }
}

/* ---- comparison ---- */

static void
check_frames(struct session *s)
{
    const struct kdmp_source *source = kdmp_overlay_source(s->overlay);
    uint64_t changed = 0, remapped = 0, pfn, done;
    struct kdmp_overlay_frame frame;
    struct kdmp_run run;
    uint8_t page[PAGE];

    for (pfn = 0; pfn < MODEL; pfn++) {
        const struct frame *want = &s->model.now.frames[pfn];
        const uint8_t *bytes;
        enum kdmp_status status = content(&s->model, pfn, &bytes);

        REQUIRE(kdmp_read(&s->physical, pfn * PAGE, page, PAGE, &done, NULL)
                == status);
        if (status == KDMP_OK)
            REQUIRE(memcmp(page, bytes, PAGE) == 0);
        REQUIRE(kdmp_overlay_find(s->overlay, pfn, &frame)
                == (want->what != BASE));
        changed += want->what != BASE;
        remapped += want->what == REMAP;
        /* A run begins here if a frame is the base's or made up. */
        if (source->next_run(source, pfn, &run) && run.pfn == pfn)
            REQUIRE(memory_status(s->model.base, pfn) == KDMP_OK
                    || want->synthetic);
        else
            REQUIRE(memory_status(s->model.base, pfn) != KDMP_OK
                    && !want->synthetic);
        if (want->what == BASE)
            continue;
        REQUIRE(frame.remapped == (want->what == REMAP));
        REQUIRE(frame.synthetic == want->synthetic);
        REQUIRE(want->what != REMAP || frame.target == want->target);
    }
    for (done = 0; kdmp_overlay_get(s->overlay, done, &frame); done++)
        REQUIRE(frame.pfn < MODEL
                && s->model.now.frames[frame.pfn].what != BASE);
    REQUIRE(done == changed);
    for (done = 0; kdmp_overlay_get_remap(s->overlay, done, &frame); done++)
        REQUIRE(frame.pfn < MODEL && frame.remapped);
    REQUIRE(done == remapped);
    REQUIRE(kdmp_overlay_count(s->overlay) == changed);
    REQUIRE(kdmp_overlay_remap_count(s->overlay) == remapped);
}

/* One command: everything that can be done to an overlay. */
static void
run_command(struct session *s, uint32_t what, uint64_t value)
{
    unsigned pfn = what >> 4 & 15, other = what >> 8 & 15;
    uint64_t size = what >> 12 & 0x3fff, offset = (what >> 26 & 15) * 0x101;

    switch (what & 15) {
    case 0:
    case 1:
        write_physical(s, (uint64_t)pfn * PAGE + offset, (uint8_t)value,
                       size >> other);
        break;
    case 2: /* a page-table entry, likely */
        write_physical(s, (uint64_t)pfn * PAGE + value % UNITS * 8,
                       (uint8_t)(value >> 16), 8);
        break;
    case 3:
    case 4:
        write_virtual(s, value, (uint8_t)size, size >> other);
        break;
    case 5:
        create(s, pfn);
        break;
    case 6:
        remap(s, pfn, other);
        break;
    case 7:
        revert(s, pfn);
        break;
    case 8:
        snapshot(s);
        break;
    case 9:
        restore(s, other);
        break;
    case 10:
        drop(s, other);
        break;
    case 11:
        if (value & 1) {
            kdmp_overlay_forget(s->overlay);
            drop_snapshots(&s->model, 0);
        } else if (value & 2) {
            kdmp_overlay_reset(s->overlay);
            drop_snapshots(&s->model, 0);
            memset(&s->model.now, 0, sizeof(s->model.now));
        } else {
            REQUIRE(kdmp_tlb_resize(s->tlb, 1 + value % 9) == KDMP_OK);
        }
        break;
    case 12:
        watch(s, pfn);
        break;
    case 13:
        unwatch(s, pfn);
        break;
    case 14:
        take_dirty(s, size);
        break;
    default:
        check_frames(s);
    }
    require_same_read(&s->cached, &s->virtual, value, size >> 2);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct session s; /* too large for a stack; begins at 0 */
    struct memory memory;
    struct kdmp_space space;
    struct use uses[MAX_USES];
    size_t used, i;

    if (size < MEMORY_HEAD)
        return 0;
    memory_init(&memory, &space, data);
    used = memory_program(&memory, data + MEMORY_HEAD, size - MEMORY_HEAD, uses,
                          MAX_USES);
    memset(&s, 0, sizeof(s));
    s.model.base = &memory;
    REQUIRE(kdmp_overlay_open(&memory.source, &s.overlay) == KDMP_OK);
    REQUIRE(kdmp_tlb_open(1 + data[2] % 9, s.overlay, &s.tlb) == KDMP_OK);
    space.source = kdmp_overlay_source(s.overlay);
    s.physical = s.virtual = space;
    s.physical.paging = KDMP_PAGING_PHYSICAL;
    s.cached = s.virtual;
    s.cached.tlb = s.tlb;
    for (i = 0; i < used; i++)
        run_command(&s, uses[i].what, uses[i].value);
    take_dirty(&s, 7);
    check_frames(&s);
    drop_snapshots(&s.model, 0);
    kdmp_tlb_close(s.tlb);
    kdmp_overlay_close(s.overlay);
    memory_deinit(&memory);
    return 0;
}
