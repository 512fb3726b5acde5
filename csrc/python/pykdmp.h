/*
 * What the files of the binding share: module state, object layouts, and the
 * helpers that turn Python values into C values and failures into exceptions.
 *
 * The rules of every method: convert all arguments first (__index__ is Python
 * code and may close the dump), then pin the dump, call the core, end that with
 * dump_end() or dump_done(), and only then build the result or the exception.
 * dump_unpin() alone is for what has not looked at the file.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef PYKDMP_H
#define PYKDMP_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kdmp.h"
#include "mapguard.h"

/* Shorter work keeps the GIL: giving it up costs more than it yields. */
#define RELEASE_GIL_MIN 0x10000

enum type_index {
    T_DUMP,
    T_READER,
    T_PAGES,
    T_PAGE_ITERATOR,
    T_RUN_ITERATOR,
    T_FRAME,
    T_TRANSLATION,
    T_ACCESS_CONTEXT,
    T_ENTRY,
    T_GAP,
    T_RUN,
    T_VA_RANGE,
    T_MAPPING,
    T_MAPPING_ITERATOR,
    T_EXTENT,
    T_EXTENT_ITERATOR,
    T_MATCHER,
    T_SCANNED,
    T_OVERLAY,
    TYPE_COUNT
};

enum error_index {
    E_KDMP,
    E_FORMAT,
    E_WRONG_FILE,
    E_UNSUPPORTED,
    E_UNREADABLE,
    E_TRANSLATION,
    E_NOT_PRESENT,
    E_NON_CANONICAL,
    E_BAD_ENTRY,
    E_NOT_IN_DUMP,
    E_TRUNCATED,
    E_ADDRESS_END,
    E_PARTIAL_READ,
    E_ROOT_NOT_PRESENT,
    E_NOT_CONTIGUOUS,
    ERROR_COUNT
};

struct module_state {
    PyTypeObject *types[TYPE_COUNT];
    PyObject *errors[ERROR_COUNT];
    PyObject *collector; /* context variable, see faults.c */
};

/* Entries of a PyGetSetDef table. */
#define GETTER(name, get, doc) {name, get, NULL, doc, NULL}
#define PROPERTY(name, get, set, doc) {name, get, set, doc, NULL}

/* module.c */
extern PyModuleDef kdmp_module_def;
struct module_state *state_of_type(PyTypeObject *type);

/* names.c: what enumerators are called in Python; "?" if out of range. */
const char *paging_name(int paging);
const char *paging_source_name(int source);
const char *state_name(int state);
const char *layout_name(int layout);
const char *machine_name(int machine);
/* The enumerator of that name, or -1. */
int paging_by_name(const char *name);
int state_by_name(const char *name);
/* Machines that have a walk only. */
int machine_by_name(const char *name);

/* --- args.c ------------------------------------------------------------ */

struct signature {
    const char *function;
    const char *const *parameters;
    int count;      /* of parameters in all */
    int positional; /* how many of them may be given by position */
    int required;
};

/* Declare 'sig' and 'slot' for a method with up to 'n' parameters. */
#define SIGNATURE(function, n, positional, required, ...)                      \
    static const char *const parameters[] = {__VA_ARGS__};                     \
    static const struct signature sig = {function, parameters, n, positional,  \
                                         required};                            \
    PyObject *slot[n]

int bind_slow(const struct signature *sig, PyObject *const *args,
              Py_ssize_t nargs, PyObject *kwnames, PyObject **slots);

/* Bind a vectorcall argument list to named slots; unset slots are NULL.
   References are borrowed from the caller's frame. */
static inline int
bind_args(const struct signature *sig, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames, PyObject **slots)
{
    if (kwnames != NULL || nargs < sig->required || nargs > sig->positional)
        return bind_slow(sig, args, nargs, kwnames, slots);
    for (int i = 0; i < sig->count; i++)
        slots[i] = i < nargs ? args[i] : NULL;
    return 0;
}

/* Converters: 0, or -1 with an exception that names the argument. */
int as_u64_slow(PyObject *arg, const char *name, uint64_t *out);
int as_size_slow(PyObject *arg, const char *name, Py_ssize_t *out);
int as_flag(PyObject *arg, int missing, int *out);

static inline int
as_u64(PyObject *arg, const char *name, uint64_t *out)
{
#if SIZEOF_LONG == 8
    if (PyLong_CheckExact(arg)) {
        unsigned long value = PyLong_AsUnsignedLong(arg);
        if (value != (unsigned long)-1) {
            *out = value;
            return 0;
        }
    }
#endif
    return as_u64_slow(arg, name, out);
}

static inline int
as_size(PyObject *arg, const char *name, Py_ssize_t *out)
{
    if (PyLong_CheckExact(arg)) {
        Py_ssize_t value = PyLong_AsSsize_t(arg);
        if (value >= 0) {
            *out = value;
            return 0;
        }
    }
    return as_size_slow(arg, name, out);
}

/* --- dump_object.c, dump_source.c, dump_facts.c ------------------------ */

enum dump_io { IO_MAP, IO_READ, IO_MEMORY, IO_FILE };

/*
 * 'pins' answers "may the handle go away?": exported buffers and calls in
 * flight hold one each.  Its negative values are the other stages of a life.
 */
enum { PINS_NEW = -3, PINS_OPENING = -2, PINS_CLOSED = -1 };

#ifdef Py_GIL_DISABLED
typedef _Atomic(Py_ssize_t) pin_count;
#else
typedef Py_ssize_t pin_count;
#endif

/* PageFileLow has four bits. */
#define PAGEFILE_COUNT 16

typedef struct {
    PyObject_HEAD
    struct module_state *state;
    struct map_guard guard;
    struct kdmp_dump *handle; /* owned; valid while 'pins' >= 0 */
    pin_count pins;
    pin_count collectors; /* fault collectors of all contexts */
    enum dump_io io;
    Py_buffer source; /* IO_MEMORY: keeps the bytes alive */
    PyObject *file;   /* IO_FILE: has seek() and read() */
    PyObject *path;   /* str; NULL if it was not opened by path */
    struct kdmp_pagefile *pagefiles[PAGEFILE_COUNT]; /* by number; or NULL */
    PyThread_type_lock file_lock; /* around each seek() and read() */
#ifdef Py_GIL_DISABLED
    _Atomic(unsigned long) file_owner;
#else
    unsigned long file_owner; /* thread inside the file's methods, or 0 */
#endif
} DumpObject;

extern PyType_Spec dump_spec;

/* Open 'source' into 'self', which owns nothing yet.  'raw' is None or
   (arch, runs). */
int dump_open(DumpObject *self, PyObject *source, int map, PyObject *raw,
              PyObject *pagefiles);
/* Give back what dump_open() has taken. */
void dump_release(DumpObject *self);

/* Raise what kdmp_choose_paging() said; returns NULL. */
PyObject *raise_no_paging(DumpObject *self, enum kdmp_status status,
                          int machine);

extern PyGetSetDef dump_getset[];

/* Pin the dump and return its facts; NULL with an exception. */
const struct kdmp_info *dump_facts(PyObject *op);

/* Set the exception for a dump that cannot be pinned; return -1. */
int dump_not_open(DumpObject *self);

/* Raise OSError for a dump whose file is lost, unless an exception is set;
   return KDMP_E_OS. */
enum kdmp_status dump_raise_lost(DumpObject *self);

static inline int
pins_swap(DumpObject *self, Py_ssize_t from, Py_ssize_t to)
{
#ifdef Py_GIL_DISABLED
    return atomic_compare_exchange_strong(&self->pins, &from, to);
#else
    if (self->pins != from)
        return 0;
    self->pins = to;
    return 1;
#endif
}

static inline int
dump_pin(DumpObject *self)
{
    if (map_guard_is_lost(&self->guard))
        return dump_not_open(self);
#ifdef Py_GIL_DISABLED
    Py_ssize_t pins = atomic_load_explicit(&self->pins, memory_order_relaxed);

    while (pins >= 0) {
        if (atomic_compare_exchange_weak_explicit(&self->pins, &pins, pins + 1,
                                                  memory_order_acquire,
                                                  memory_order_relaxed)) {
            return 0;
        }
    }
#else
    if (self->pins >= 0) {
        self->pins++;
        return 0;
    }
#endif
    return dump_not_open(self);
}

static inline void
dump_unpin(DumpObject *self)
{
#ifdef Py_GIL_DISABLED
    atomic_fetch_sub_explicit(&self->pins, 1, memory_order_release);
#else
    self->pins--;
#endif
}

/* Unpin.  An exception of the file object outranks what the core made of it,
   so that it reaches the caller as it was.  So does the loss of the file: zeros
   were read then. */
static inline enum kdmp_status
dump_end(DumpObject *self, enum kdmp_status status)
{
    dump_unpin(self);
    if (map_guard_is_lost(&self->guard))
        return dump_raise_lost(self);
    return self->file != NULL && PyErr_Occurred() ? KDMP_E_OS : status;
}

/* The same for what has no status.  -1 with an exception. */
static inline int
dump_done(DumpObject *self)
{
    return dump_end(self, KDMP_OK) == KDMP_OK ? 0 : -1;
}

/* Detach from the interpreter around long work; NULL if it stays attached.
   A dump over a file object calls Python and needs the interpreter. */
static inline PyThreadState *
work_begin(DumpObject *dump, uint64_t size)
{
    return size >= RELEASE_GIL_MIN && dump->file == NULL ? PyEval_SaveThread()
                                                         : NULL;
}

/* Call map_guard_glance() before, if the mapping was looked at. */
static inline void
work_end(PyThreadState *ts)
{
    if (ts != NULL)
        PyEval_RestoreThread(ts);
}

/* --- triage.c: what only triage dumps have ----------------------------- */

extern const char dump_va_ranges_doc[];
PyObject *dump_va_ranges(PyObject *op, PyObject *unused);
extern const char dump_triage_header_doc[];
PyObject *dump_triage_header(PyObject *op, void *closure);

/* --- dump_diff.c ------------------------------------------------------- */

extern const char dump_compare_doc[];
PyObject *dump_compare(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);

/* --- faults.c: collecting what is missing ------------------------------ */

PyObject *dump_collect(PyObject *op, PyObject *arg);

/* --- overlay_object.c -------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct module_state *state;
    DumpObject *dump;            /* NULL until initialised */
    struct kdmp_overlay *handle; /* the dump is pinned whenever it is used */
    PyObject *on_write;          /* called after writes; may be NULL */
    Py_ssize_t readers;          /* reads going on without the GIL */
} OverlayObject;

extern PyType_Spec overlay_spec;

/* Wait until nobody reads the overlay without the GIL. */
void overlay_wait(OverlayObject *self);

/* --- reader_mappings.c ------------------------------------------------- */

extern PyType_Spec mapping_iterator_spec;

/* --- matcher_object.c --------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct kdmp_matcher *handle; /* NULL until made */
    uint64_t alignment;
} MatcherObject;

extern PyType_Spec matcher_spec;

/* --- reader_extents.c --------------------------------------------------- */

extern PyType_Spec extent_iterator_spec;

/* --- pages_object.c ---------------------------------------------------- */

extern PyType_Spec pages_spec;
extern PyType_Spec page_iterator_spec;
extern PyType_Spec run_iterator_spec;
extern PyType_Spec frame_spec;

PyObject *pages_new(DumpObject *dump, uint64_t start, uint64_t stop);

/* --- access_context.c -------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    uint64_t address;
    uint64_t dtb;
    char has_dtb;
    char physical;
} AccessContextObject;

extern PyType_Spec access_context_spec;

/* --- translation_object.c ---------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct kdmp_translation walk;
} TranslationObject;

extern PyType_Spec translation_spec;

static inline TranslationObject *
translation_new(struct module_state *state)
{
    return PyObject_New(TranslationObject, state->types[T_TRANSLATION]);
}

/* --- records.c: named tuples ------------------------------------------- */

int records_init(struct module_state *state);
PyObject *run_record(struct module_state *state, const struct kdmp_run *run);
PyObject *mapping_record(struct module_state *state,
                         const struct kdmp_mapping *mapping,
                         PyObject *state_text);
/* A number, or None for UINT64_MAX. */
PyObject *number_or_none(uint64_t value);
PyObject *extent_record(struct module_state *state,
                        const struct kdmp_stretch *stretch);
PyObject *va_range_record(struct module_state *state,
                          const struct kdmp_va_range *range);
/* Steals both references; NULL if one is NULL. */
PyObject *gap_record(struct module_state *state, PyObject *address,
                     uint64_t size, PyObject *reason);
/* The entries of a walk, root first. */
PyObject *walk_entries(struct module_state *state,
                       const struct kdmp_translation *walk);

/* --- text.c ------------------------------------------------------------ */

#if defined(__GNUC__)
#define PRINTF_LIKE(at, first) __attribute__((format(printf, at, first)))
#else
#define PRINTF_LIKE(at, first)
#endif

/* Short ASCII text by C's own printf: PyUnicode_FromFormat() of Python 3.11
   does not know %llx. */
PyObject *format_text(const char *format, ...) PRINTF_LIKE(1, 2);
/* Raise an exception with such a text; returns NULL. */
PyObject *raise_text(PyObject *type, const char *format, ...) PRINTF_LIKE(2, 3);

/* --- errors.c ---------------------------------------------------------- */

int errors_init(struct module_state *state, PyObject *module);

/* An answer about memory, as opposed to a failure. */
static inline int
is_absent(enum kdmp_status status)
{
    return status >= KDMP_E_NOT_PRESENT && status <= KDMP_E_LIMIT;
}

/* The one place where a status becomes an exception.  All return NULL with
   an exception set; one that is already set stays. */
PyObject *raise_error(struct module_state *state, const struct kdmp_error *err,
                      PyObject *filename);
PyObject *raise_fault(struct module_state *state,
                      const struct kdmp_space *space,
                      const struct kdmp_fault *fault);
PyObject *raise_walk(struct module_state *state, const struct kdmp_space *space,
                     const struct kdmp_translation *walk);
/* 'data' is bytes: what was read before the fault.  Borrowed. */
PyObject *raise_partial(struct module_state *state,
                        const struct kdmp_space *space,
                        const struct kdmp_fault *fault, uint64_t address,
                        uint64_t expected, PyObject *data);
/* The exception that raise_fault() raises, as a new object. */
PyObject *fault_exception(struct module_state *state,
                          const struct kdmp_space *space,
                          const struct kdmp_fault *fault);

/* 'address' + 'offset' as an int; unlike uint64_t it can pass 2^64. */
PyObject *address_after(uint64_t address, uint64_t offset);

#endif /* PYKDMP_H */
