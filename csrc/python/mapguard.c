/*
 * The SIGBUS handler, and the list of mappings it looks in.
 *
 * Both belong to the process and not to a module: there is one handler for a
 * signal, whatever interpreter, and a fault does not say whose it is.  So they
 * are static data, the only writable ones of the binding.  The handler may run
 * at any moment in any thread: the list has no locks, and blocks of it are
 * never freed.
 *
 * The handler stays once it is installed, even if nothing is mapped: another
 * library that came later may have remembered it as the one to call next.
 *
 * SPDX-License-Identifier: MIT
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "mapguard.h"

#if MAP_GUARD

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "a signal handler cannot wait for a lock");

/* Mappings start at pages, which are no smaller, so this much of an offset
   is free for the number of the file. */
#define FILE_BITS 12
#define FILE_MASK (((uintptr_t)1 << FILE_BITS) - 1)

/* --- the list ---------------------------------------------------------- */

#define SLOTS 32 /* mappings per block */

/* A mapping; 'base' is 0 in a free slot.  'version' is odd while the slot
   changes: then no thread can be reading that mapping. */
struct slot {
    atomic_uint version;
    _Atomic(uintptr_t) base;
    _Atomic(size_t) size;
    _Atomic(struct map_guard *) guard;
    atomic_int fd;
    atomic_int file;
};

struct block {
    struct slot slots[SLOTS];
    _Atomic(struct block *) next;
};

static struct block first_block;

/* What a slot had when it was looked at. */
struct mapping {
    uintptr_t base;
    size_t size;
    struct map_guard *guard;
    int fd;
    int file;
};

static struct slot *
next_slot(struct block **block, int *index)
{
    if (*index == SLOTS) {
        *block = atomic_load(&(*block)->next);
        *index = 0;
    }
    return *block != NULL ? &(*block)->slots[(*index)++] : NULL;
}

/* Copy a slot in use: 1, or 0 if it is free or changing. */
static int
slot_get(struct slot *slot, struct mapping *out)
{
    unsigned version =
        atomic_load_explicit(&slot->version, memory_order_acquire);

    out->base = atomic_load_explicit(&slot->base, memory_order_relaxed);
    out->size = atomic_load_explicit(&slot->size, memory_order_relaxed);
    out->guard = atomic_load_explicit(&slot->guard, memory_order_relaxed);
    out->fd = atomic_load_explicit(&slot->fd, memory_order_relaxed);
    out->file = atomic_load_explicit(&slot->file, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    return out->base != 0 && version % 2 == 0
           && atomic_load_explicit(&slot->version, memory_order_relaxed)
                  == version;
}

/* Fill a slot, or empty it with a base of 0.  Its version is odd. */
static void
slot_put(struct slot *slot, const struct mapping *mapping)
{
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&slot->base, mapping->base, memory_order_relaxed);
    atomic_store_explicit(&slot->size, mapping->size, memory_order_relaxed);
    atomic_store_explicit(&slot->guard, mapping->guard, memory_order_relaxed);
    atomic_store_explicit(&slot->fd, mapping->fd, memory_order_relaxed);
    atomic_store_explicit(&slot->file, mapping->file, memory_order_relaxed);
    atomic_fetch_add_explicit(&slot->version, 1, memory_order_release);
}

/* Make a free slot one's own: its version is odd afterwards. */
static int
slot_claim(struct slot *slot)
{
    unsigned version =
        atomic_load_explicit(&slot->version, memory_order_acquire);

    return version % 2 == 0
           && atomic_load_explicit(&slot->base, memory_order_relaxed) == 0
           && atomic_compare_exchange_strong(&slot->version, &version,
                                             version + 1);
}

/* Add a block behind the last; another thread may be faster.  -1: no memory. */
static int
add_block(void)
{
    struct block *last = &first_block, *next, *made;

    made = PyMem_RawCalloc(1, sizeof(*made));
    if (made == NULL)
        return -1;
    for (;;) {
        next = NULL;
        if (atomic_compare_exchange_strong(&last->next, &next, made))
            return 0;
        last = next;
    }
}

static int
list_add(const struct mapping *mapping)
{
    for (;;) {
        struct block *block = &first_block;
        struct slot *slot;
        int index = 0;

        while ((slot = next_slot(&block, &index)) != NULL)
            if (slot_claim(slot)) {
                slot_put(slot, mapping);
                return 0;
            }
        if (add_block() < 0)
            return -1;
    }
}

/* A mapping is taken out by the thread that put it in, or one that has been
   told by it: nobody else changes this slot. */
static void
list_remove(uintptr_t base)
{
    static const struct mapping none = {.fd = -1};
    struct block *block = &first_block;
    struct slot *slot;
    int index = 0;

    while ((slot = next_slot(&block, &index)) != NULL)
        if (atomic_load_explicit(&slot->base, memory_order_relaxed) == base) {
            atomic_fetch_add_explicit(&slot->version, 1, memory_order_acq_rel);
            slot_put(slot, &none);
            return;
        }
}

/* --- losses ------------------------------------------------------------ */

/* Pages are 4 KiB or more, the handler may ask: sysconf() is safe there. */
static uintptr_t
page_mask(void)
{
    return (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
}

/* Note a loss: the first one, or a lower offset in the same file. */
static void
note_loss(const struct mapping *mapping, uintptr_t offset)
{
    uintptr_t note = (offset & ~FILE_MASK) | (uintptr_t)(1 + mapping->file);
    uintptr_t noted = atomic_load(&mapping->guard->lost);

    while (noted == 0
           || ((noted & FILE_MASK) == (note & FILE_MASK) && note < noted))
        if (atomic_compare_exchange_strong(&mapping->guard->lost, &noted, note))
            return;
}

/* Whether all from 'offset' on has been noted as lost. */
static int
is_noted(const struct mapping *mapping, uintptr_t offset)
{
    uintptr_t noted = atomic_load(&mapping->guard->lost);

    return (noted & FILE_MASK) == (uintptr_t)(1 + mapping->file)
           && (noted & ~FILE_MASK) <= offset;
}

/* Note that a mapping is lost from 'offset' on, and let everything from there
   read as zeros: one fault is enough, however large the file.  0 if that
   cannot be. */
static int
replace(const struct mapping *mapping, uintptr_t offset)
{
    offset &= ~page_mask();
    note_loss(mapping, offset);
    return mmap((void *)(mapping->base + offset), mapping->size - offset,
                PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
           != MAP_FAILED;
}

/* A fault at an address: 1 if it was ours and is no more. */
static int
fault_at(uintptr_t address)
{
    struct block *block = &first_block;
    uintptr_t mask = page_mask();
    struct mapping mapping;
    struct slot *slot;
    int index = 0;

    while ((slot = next_slot(&block, &index)) != NULL)
        if (slot_get(slot, &mapping) && address >= mapping.base
            && address - mapping.base < ((mapping.size + mask) & ~mask))
            return replace(&mapping, address - mapping.base);
    return 0;
}

/* How long the file of a mapping is; its size if that is not known. */
static uintptr_t
size_now(const struct mapping *mapping)
{
    struct stat st;

    if (fstat(mapping->fd, &st) != 0 || !S_ISREG(st.st_mode)
        || (uint64_t)st.st_size >= mapping->size)
        return mapping->size;
    return (uintptr_t)st.st_size;
}

/* Note it if the file of a mapping has become shorter.  1 if pages were lost
   that had not been noted. */
static int
look_at(const struct mapping *mapping)
{
    uintptr_t size = size_now(mapping), mask = page_mask();
    uintptr_t end = (size + mask) & ~mask;
    int is_new = end < mapping->size && !is_noted(mapping, end);

    if (size < mapping->size)
        note_loss(mapping, size);
    return is_new && replace(mapping, end);
}

/*
 * A SIGBUS that this process raised: that is how faulthandler, if it
 * was enabled after us, hands on a fault once it has written its traceback, and
 * where the fault was is not told.  If a mapping is now longer than its file
 * that is why; returning repeats what faulted.
 */
static int
fault_somewhere(void)
{
    struct block *block = &first_block;
    struct mapping mapping;
    struct slot *slot;
    int index = 0, found = 0;

    while ((slot = next_slot(&block, &index)) != NULL)
        if (slot_get(slot, &mapping))
            found |= look_at(&mapping);
    return found;
}

/* --- the handler ------------------------------------------------------- */

/* Who had the signal before: the newer of two, so that it can be changed
   while the handler runs. */
static struct sigaction previous[2];
static atomic_int newer;
static atomic_int installed;

/* By a process, and not by the hardware. */
static int
was_sent(const siginfo_t *info)
{
    return info->si_code <= 0 || info->si_code == SI_USER
           || info->si_code == SI_QUEUE;
}

/* By raise() in this process. */
static int
was_raised(const siginfo_t *info)
{
#ifdef SI_TKILL
    return info->si_code == SI_TKILL && info->si_pid == getpid();
#else
    return info->si_code == SI_USER && info->si_pid == getpid();
#endif
}

static void
pass_on(int signum, siginfo_t *info, void *context)
{
    const struct sigaction *to = &previous[atomic_load(&newer)];
    struct sigaction nobody;

    if ((to->sa_flags & SA_SIGINFO) != 0) {
        to->sa_sigaction(signum, info, context);
    } else if (to->sa_handler == SIG_IGN && was_sent(info)) {
        return;
    } else if (to->sa_handler == SIG_DFL || to->sa_handler == SIG_IGN) {
        /* A fault happens again and is fatal then, and leaves a core that
           shows where it was. */
        memset(&nobody, 0, sizeof(nobody));
        nobody.sa_handler = SIG_DFL;
        sigaction(signum, &nobody, NULL);
        if (was_sent(info))
            raise(signum);
    } else {
        to->sa_handler(signum);
    }
}

static void
on_sigbus(int signum, siginfo_t *info, void *context)
{
    int saved = errno, ours;

    if (was_sent(info))
        ours = was_raised(info) && fault_somewhere();
    else
        ours =
            info->si_code != BUS_ADRALN && fault_at((uintptr_t)info->si_addr);
    if (!ours)
        pass_on(signum, info, context);
    errno = saved;
}

static int
is_default(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) == 0
           && (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN);
}

static int
is_same(const struct sigaction *a, const struct sigaction *b)
{
    if ((a->sa_flags & SA_SIGINFO) != (b->sa_flags & SA_SIGINFO))
        return 0;
    return (a->sa_flags & SA_SIGINFO) != 0 ? a->sa_sigaction == b->sa_sigaction
                                           : a->sa_handler == b->sa_handler;
}

/*
 * Be the one who gets SIGBUS, before whoever has it.
 *
 * If somebody has taken our place since, it stays so: that one may hand on
 * what is not its own to us, and then we must not hand it back.  Unless it is
 * nobody, or who was there before us and cannot know us.
 */
static void
install(void)
{
    struct sigaction ours, now;
    int next = 1 - atomic_load(&newer);

    memset(&ours, 0, sizeof(ours));
    ours.sa_sigaction = on_sigbus;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) != 0 || is_same(&now, &ours))
        return;
    if (atomic_load(&installed) && !is_default(&now)
        && !is_same(&now, &previous[1 - next]))
        return;
    previous[next] = now;
    atomic_store(&newer, next);
    atomic_store(&installed, 1);
    sigaction(SIGBUS, &ours, NULL);
}

/* --- what others see --------------------------------------------------- */

static int
on_mapped(void *context, const void *base, size_t size, int fd)
{
    struct map_guard *guard = context;
    const struct mapping mapping = {.base = (uintptr_t)base,
                                    .size = size,
                                    .guard = guard,
                                    .fd = fd,
                                    .file = guard->file};

    install();
    if (list_add(&mapping) < 0)
        return -1;
    guard->mappings++;
    return 0;
}

static void
on_unmapping(void *context, const void *base)
{
    list_remove((uintptr_t)base);
    ((struct map_guard *)context)->mappings--;
}

struct kdmp_map_watch
map_guard_watch(struct map_guard *guard)
{
    return (struct kdmp_map_watch){
        .mapped = on_mapped, .unmapping = on_unmapping, .context = guard};
}

int
map_guard_loss(const struct map_guard *guard, int *file, uint64_t *offset)
{
    uintptr_t lost = atomic_load(&guard->lost);

    *file = (int)(lost & FILE_MASK) - 1;
    *offset = lost & ~FILE_MASK;
    return lost != 0;
}

int
map_guard_check(struct map_guard *guard)
{
    struct block *block = &first_block;
    struct mapping mapping;
    struct slot *slot;
    int index = 0, left = guard->mappings;

    while (left > 0 && (slot = next_slot(&block, &index)) != NULL)
        if (slot_get(slot, &mapping) && mapping.guard == guard) {
            (void)look_at(&mapping);
            left--;
        }
    return map_guard_is_lost(guard);
}

void
map_guard_glance(struct map_guard *guard)
{
#ifdef CLOCK_MONOTONIC_COARSE
    const clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
    const clockid_t clock = CLOCK_MONOTONIC;
#endif
    struct timespec time;
    uintptr_t now;

    if (guard->mappings == 0 || clock_gettime(clock, &time) != 0)
        return;
    now = (uintptr_t)time.tv_sec * 1000 + (uintptr_t)time.tv_nsec / 1000000;
    if (now - atomic_load_explicit(&guard->looked, memory_order_relaxed)
        < GLANCE_MS)
        return;
    atomic_store_explicit(&guard->looked, now, memory_order_relaxed);
    (void)map_guard_check(guard);
}

int
map_guard_count(void)
{
    struct block *block = &first_block;
    struct mapping mapping;
    struct slot *slot;
    int index = 0, count = 0;

    while ((slot = next_slot(&block, &index)) != NULL)
        count += slot_get(slot, &mapping);
    return count;
}

#else /* nothing is guarded */

struct kdmp_map_watch
map_guard_watch(struct map_guard *guard)
{
    return (struct kdmp_map_watch){.mapped = NULL};
}

int
map_guard_loss(const struct map_guard *guard, int *file, uint64_t *offset)
{
    return 0;
}

int
map_guard_check(struct map_guard *guard)
{
    return 0;
}

void
map_guard_glance(struct map_guard *guard)
{
}

int
map_guard_count(void)
{
    return 0;
}

#endif

void
map_guard_init(struct map_guard *guard)
{
    atomic_store(&guard->lost, 0);
    atomic_store(&guard->looked, 0);
    guard->file = 0;
    guard->mappings = 0;
}
