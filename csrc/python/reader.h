/*
 * The reader and how its methods get at memory.
 *
 * A method converts its address with access_convert(), starts with
 * access_begin(), which pins the dump, and ends with access_end().
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_READER_H
#define KDMP_READER_H

#include "pykdmp.h"

typedef struct {
    PyObject_HEAD
    struct module_state *state;
    DumpObject *dump;       /* NULL until initialised */
    OverlayObject *overlay; /* NULL: the dump as it is */
    struct kdmp_space space;
    struct kdmp_tlb *tlb;    /* also in 'space' while it is enabled */
    struct kdmp_view *views; /* also in 'space', once they are known */
    uint64_t string_limit;   /* bytes; UINT64_MAX for None */
    uint8_t pointer_size;
    char strict; /* raises even if faults are collected */
    char views_asked;
} ReaderObject;

extern PyType_Spec reader_spec;

/* Where to read: an address in 'space', which is the reader's own or, for
   an AccessContext, 'other'. */
struct access {
    uint64_t address;
    const struct kdmp_space *space;
    const AccessContextObject *context; /* borrowed; NULL for a number */
    struct kdmp_space other;
};

int access_convert_slow(ReaderObject *self, PyObject *arg,
                        struct access *access);
int access_resolve(ReaderObject *self, struct access *access);
int reader_not_initialised(void);

static inline int
access_convert(ReaderObject *self, PyObject *arg, struct access *access)
{
    access->space = &self->space;
    access->context = NULL;
    if (PyLong_CheckExact(arg))
        return as_u64(arg, "va", &access->address);
    return access_convert_slow(self, arg, access);
}

static inline int
access_begin(ReaderObject *self, struct access *access)
{
    if (self->dump == NULL)
        return reader_not_initialised();
    if (dump_pin(self->dump) < 0)
        return -1;
    return access->context != NULL ? access_resolve(self, access) : 0;
}

static inline enum kdmp_status
access_end(ReaderObject *self, enum kdmp_status status)
{
    return dump_end(self->dump, status);
}

/* Give up the GIL for a read of 'size' bytes, if that pays: other threads may
   read then, but an overlay is not written, and the translation cache is left
   alone. */
static inline PyThreadState *
access_release(ReaderObject *self, struct access *access, uint64_t size)
{
    if (size < RELEASE_GIL_MIN || self->dump->file != NULL)
        return NULL;
    if (access->space != &access->other)
        access->other = *access->space; /* others may change the reader's */
    access->other.tlb = NULL;
    access->space = &access->other;
    if (self->overlay != NULL)
        self->overlay->readers++;
    return PyEval_SaveThread();
}

static inline void
access_reacquire(ReaderObject *self, PyThreadState *ts)
{
    if (ts == NULL)
        return;
    map_guard_glance(&self->dump->guard);
    PyEval_RestoreThread(ts);
    if (self->overlay != NULL)
        self->overlay->readers--;
}

/* reader_views.c: after a walk that ended at an entry which leaves the answer
   to the VAD, ask once what the VADs say.  1: more is known now, and the
   access has begun again; 0: no; -1: an exception. */
int access_ask_vads(ReaderObject *self, struct access *access);

static inline int
access_again(ReaderObject *self, struct access *access, enum kdmp_status status,
             const struct kdmp_translation *walk)
{
    if (status != KDMP_E_NOT_PRESENT || walk->state != KDMP_PTE_VAD
        || self->views_asked || access->context != NULL)
        return 0;
    return access_ask_vads(self, access);
}

/* The address 'offset' bytes further; KDMP_E_ADDRESS_END and a fault that
   says so if the space ends before. */
enum kdmp_status access_advance(const struct access *access, uint64_t offset,
                                uint64_t *address_out,
                                struct kdmp_fault *fault);

/* Read 'size' bytes into 'buffer' or raise: what the first missing byte
   raises, or PartialReadError if it is not the first of all.  Ends the
   access. */
int access_fetch(ReaderObject *self, struct access *access, void *buffer,
                 size_t size);

/* --- reader_mappings.c: for all that goes through a space ---------------- */

/* The bounds of [start, end], which may be NULL or None; -1 with an
   exception. */
int reader_bounds(ReaderObject *self, PyObject *start, PyObject *end,
                  uint64_t *first_out, uint64_t *last_out);

/* Page tables that may be visited: those there are, each several times, since
   there are self maps and shared tables, but not without end.  -1 with an
   exception. */
int reader_table_limit(ReaderObject *self, uint64_t *limit_out);

/* Raise that they were too many; -1. */
int reader_raise_limit(ReaderObject *self, uint64_t address);

/* Raise for an iterator that fetches for another thread, or for a file object
   that uses it; -1. */
int reader_raise_busy(void);

/* --- faults.c ---------------------------------------------------------- */

/* Whether what this reader misses may interest a collector: never so after
   a read that succeeds, else this is all that it costs without one. */
static inline int
reader_collects(const ReaderObject *self)
{
    return self->dump != NULL && self->dump->collectors != 0;
}

/* Tell the collector what is missing of the bytes from 'offset' to 'size' of
   an access that has ended.  -1 with an exception. */
int reader_missed(ReaderObject *self, const struct access *access,
                  uint64_t offset, uint64_t size);
/* Tell it that an address has no translation. */
int reader_missed_walk(ReaderObject *self, const struct access *access,
                       const struct kdmp_translation *walk);
/* An exception is set: None instead, if a collector has been told. */
PyObject *reader_collected(ReaderObject *self);
PyObject *reader_get_strict(PyObject *op, void *closure);
int reader_set_strict(PyObject *op, PyObject *value, void *closure);

/* Methods, one file per topic. */
#define READER_METHOD(name)                                                    \
    extern const char reader_##name##_doc[];                                   \
    PyObject *reader_##name(PyObject *op, PyObject *const *args,               \
                            Py_ssize_t nargs, PyObject *kwnames)

/* reader_object.c */
READER_METHOD(translate);
READER_METHOD(try_translate);
/* reader_bytes.c */
READER_METHOD(read);
READER_METHOD(read_exact);
READER_METHOD(try_read_exact);
READER_METHOD(read_into);
READER_METHOD(read_gaps);
READER_METHOD(is_readable);
/* reader_missing.c */
READER_METHOD(missing);
/* reader_mappings.c */
READER_METHOD(mappings);
READER_METHOD(mappings_buffer);
READER_METHOD(find_frame);
/* reader_extents.c */
READER_METHOD(extents);
/* reader_scan.c */
READER_METHOD(scan);
/* reader_write.c */
READER_METHOD(write);
READER_METHOD(write_uint);
READER_METHOD(write_u8);
READER_METHOD(write_u16);
READER_METHOD(write_u32);
READER_METHOD(write_u64);
/* reader_cache.c */
READER_METHOD(cache_flush);
READER_METHOD(cache_resize);
PyObject *reader_get_cache_figures(PyObject *op, void *closure);
PyObject *reader_get_cache_enabled(PyObject *op, void *closure);
int reader_set_cache_enabled(PyObject *op, PyObject *value, void *closure);
/* Give a new reader its cache; -1 with an exception. */
int reader_cache_init(ReaderObject *self, uint64_t capacity);
/* reader_many.c */
READER_METHOD(translate_into);
READER_METHOD(read_many_into);
/* reader_scalars.c */
READER_METHOD(read_u8);
READER_METHOD(read_u16);
READER_METHOD(read_u32);
READER_METHOD(read_u64);
READER_METHOD(read_i8);
READER_METHOD(read_i16);
READER_METHOD(read_i32);
READER_METHOD(read_i64);
READER_METHOD(read_f32);
READER_METHOD(read_f64);
READER_METHOD(read_uint);
READER_METHOD(read_ptr);
/* reader_strings.c */
READER_METHOD(read_cstr);
READER_METHOD(read_cstr_bytes);
READER_METHOD(read_wstr);
READER_METHOD(read_unicode_string);

#endif /* KDMP_READER_H */
