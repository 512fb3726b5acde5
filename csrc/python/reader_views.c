/*
 * What VADs say of pages whose page table entries refer to them.
 *
 * The reader's Python part knows how to find the process and its VADs; it is
 * asked once, when the first such page is met.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* Take over what _load_views() returned: 24 bytes for each view.  How many
   there are, -1 with an exception. */
static Py_ssize_t
take_views(ReaderObject *self, PyObject *packed)
{
    const Py_ssize_t each = sizeof(struct kdmp_view);
    Py_ssize_t count;
    struct kdmp_view *views;

    if (!PyBytes_Check(packed) || PyBytes_GET_SIZE(packed) % each != 0) {
        PyErr_SetString(PyExc_TypeError, "_load_views() must return bytes");
        return -1;
    }
    count = PyBytes_GET_SIZE(packed) / each;
    if (count == 0 || self->views != NULL)
        return 0;
    views = PyMem_Malloc((size_t)(count * each));
    if (views == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(views, PyBytes_AS_STRING(packed), (size_t)(count * each));
    self->views = views;
    self->space.views = views;
    self->space.view_count = (uint64_t)count;
    return count;
}

int
access_ask_vads(ReaderObject *self, struct access *access)
{
    PyObject *load, *packed;
    Py_ssize_t count;

    _Static_assert(sizeof(struct kdmp_view) == 24, "documented layout");
    self->views_asked = 1; /* first: finding the VADs reads memory, too */
    load = PyObject_GetAttrString((PyObject *)self, "_load_views");
    if (load == NULL) { /* a reader without its Python part */
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    packed = PyObject_CallNoArgs(load);
    Py_DECREF(load);
    count = packed != NULL ? take_views(self, packed) : -1;
    Py_XDECREF(packed);
    if (count < 0)
        self->views_asked = 0; /* interrupted, say: the next call asks again */
    if (count <= 0)
        return (int)count;
    access->space = &self->space;
    return access_begin(self, access) < 0 ? -1 : 1;
}
