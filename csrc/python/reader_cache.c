/*
 * The translation cache of a reader.
 *
 * It is used with the GIL held only; builds without a GIL have none.  Nor has
 * an overlay over a file object: reading that lets other threads write between
 * a walk and its being remembered.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

static int
may_remember(const ReaderObject *self)
{
#ifdef Py_GIL_DISABLED
    return 0;
#else
    return self->overlay == NULL || self->dump->file == NULL;
#endif
}

int
reader_cache_init(ReaderObject *self, uint64_t capacity)
{
    struct kdmp_overlay *overlay =
        self->overlay != NULL ? self->overlay->handle : NULL;
    enum kdmp_status status = kdmp_tlb_open(capacity, overlay, &self->tlb);

    if (status == KDMP_E_NOMEM) {
        PyErr_NoMemory();
        return -1;
    }
    if (status != KDMP_OK) {
        PyErr_SetString(PyExc_ValueError, "translation_cache is too large");
        return -1;
    }
    self->space.tlb = may_remember(self) ? self->tlb : NULL;
    return 0;
}

static int
no_cache(void)
{
    PyErr_SetString(PyExc_ValueError,
                    "a reader without page tables has no translation cache");
    return -1;
}

PyObject *
reader_get_cache_figures(PyObject *op, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;
    struct kdmp_tlb_info info = {0};

    if (self->tlb != NULL)
        kdmp_tlb_get_info(self->tlb, &info);
    return Py_BuildValue("(KKKK)", (unsigned long long)info.hits,
                         (unsigned long long)info.misses,
                         (unsigned long long)info.size,
                         (unsigned long long)info.capacity);
}

PyObject *
reader_get_cache_enabled(PyObject *op, void *closure)
{
    return PyBool_FromLong(((ReaderObject *)op)->space.tlb != NULL);
}

int
reader_set_cache_enabled(PyObject *op, PyObject *value, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;
    int enable;

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete cache_enabled");
        return -1;
    }
    enable = PyObject_IsTrue(value);
    if (enable < 0)
        return -1;
    if (self->tlb == NULL)
        return enable ? no_cache() : 0;
    if (!enable)
        kdmp_tlb_flush(self->tlb);
    self->space.tlb = enable && may_remember(self) ? self->tlb : NULL;
    return 0;
}

const char reader_cache_resize_doc[] = PyDoc_STR(
    "cache_resize($self, /, pages)\n--\n\n"
    "Let the translation cache hold this many pages, and forget those it has.");

PyObject *
reader_cache_resize(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    SIGNATURE("cache_resize", 1, 1, 1, "pages");
    ReaderObject *self = (ReaderObject *)op;
    Py_ssize_t pages;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_size(slot[0], "pages", &pages) < 0
        || (self->tlb == NULL && no_cache() < 0)) {
        return NULL;
    }
    if (kdmp_tlb_resize(self->tlb, (uint64_t)pages) != KDMP_OK) {
        PyErr_SetString(PyExc_ValueError,
                        "pages must be at least 1 and below 2**32");
        return NULL;
    }
    Py_RETURN_NONE;
}

const char reader_cache_flush_doc[] = PyDoc_STR(
    "cache_flush($self, /, va=None)\n--\n\n"
    "Forget what the translation cache knows, or the page at an address.\n\n"
    "Returns how many pages it forgot. Only after changes behind the reader's "
    "back is there a\n"
    "need: writes through an overlay are noticed.");

PyObject *
reader_cache_flush(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    SIGNATURE("cache_flush", 1, 1, 0, "va");
    ReaderObject *self = (ReaderObject *)op;
    struct kdmp_tlb_info info = {0};
    uint64_t va;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0)
        return NULL;
    if (slot[0] != NULL && slot[0] != Py_None) {
        if (as_u64(slot[0], "va", &va) < 0)
            return NULL;
        return PyLong_FromLong(
            self->tlb != NULL ? kdmp_tlb_flush_page(self->tlb, va) : 0);
    }
    if (self->tlb != NULL) {
        kdmp_tlb_get_info(self->tlb, &info);
        kdmp_tlb_flush(self->tlb);
    }
    return PyLong_FromUnsignedLongLong(info.size);
}
