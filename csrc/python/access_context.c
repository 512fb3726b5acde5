/*
 * kdmp.AccessContext: an address together with how to read there.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include <structmember.h>

static PyObject *
context_new(PyTypeObject *type, uint64_t address,
            const AccessContextObject *like)
{
    AccessContextObject *self = PyObject_New(AccessContextObject, type);

    if (self == NULL)
        return NULL;
    self->address = address;
    self->dtb = like->dtb;
    self->has_dtb = like->has_dtb;
    self->physical = like->physical;
    return (PyObject *)self;
}

static PyObject *
context_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"address", "dtb", "physical", NULL};
    PyObject *address_arg, *dtb_arg = Py_None;
    AccessContextObject like = {.dtb = 0};
    uint64_t address;
    int physical = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$p:AccessContext", names,
                                     &address_arg, &dtb_arg, &physical)
        || as_u64(address_arg, "address", &address) < 0) {
        return NULL;
    }
    if (dtb_arg != Py_None) {
        if (physical) {
            PyErr_SetString(PyExc_ValueError,
                            "a physical address has no page-table root: "
                            "give dtb or physical, not both");
            return NULL;
        }
        if (as_u64(dtb_arg, "dtb", &like.dtb) < 0)
            return NULL;
        like.has_dtb = 1;
    }
    like.physical = (char)physical;
    return context_new(type, address, &like);
}

static void
context_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
context_repr(PyObject *op)
{
    AccessContextObject *self = (AccessContextObject *)op;

    if (self->physical)
        return format_text("AccessContext(0x%llx, physical=True)",
                           (unsigned long long)self->address);
    if (self->has_dtb)
        return format_text("AccessContext(0x%llx, 0x%llx)",
                           (unsigned long long)self->address,
                           (unsigned long long)self->dtb);
    return format_text("AccessContext(0x%llx)",
                       (unsigned long long)self->address);
}

static Py_hash_t
context_hash(PyObject *op)
{
    AccessContextObject *self = (AccessContextObject *)op;
    uint64_t mix = self->address * 0x9e3779b97f4a7c15u;

    mix ^= mix >> 32;
    mix = (mix + self->dtb) * 0xff51afd7ed558ccdu;
    mix ^= mix >> 29;
    mix += (uint64_t)(self->has_dtb + 2 * self->physical);
    return (Py_hash_t)mix == -1 ? -2 : (Py_hash_t)mix;
}

static PyObject *
context_richcompare(PyObject *a, PyObject *b, int op)
{
    AccessContextObject *x = (AccessContextObject *)a;
    AccessContextObject *y = (AccessContextObject *)b;
    int equal;

    if (Py_TYPE(a) != Py_TYPE(b) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    equal = x->address == y->address && x->dtb == y->dtb
            && x->has_dtb == y->has_dtb && x->physical == y->physical;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

/* The context 'self' moved by an int, with 'operation' of the number
   protocol doing the sum: results may be anything. */
static PyObject *
context_move(AccessContextObject *self, PyObject *by, binaryfunc operation)
{
    PyObject *start, *moved;
    uint64_t address;
    int rc;

    start = PyLong_FromUnsignedLongLong(self->address);
    if (start == NULL)
        return NULL;
    by = PyNumber_Index(by);
    if (by == NULL) {
        Py_DECREF(start);
        return NULL;
    }
    moved = operation(start, by);
    Py_DECREF(start);
    Py_DECREF(by);
    if (moved == NULL)
        return NULL;
    rc = as_u64(moved, "the resulting address", &address);
    Py_DECREF(moved);
    return rc == 0 ? context_new(Py_TYPE(self), address, self) : NULL;
}

static int
is_context(PyObject *op)
{
    return Py_TYPE(op)->tp_dealloc == context_dealloc;
}

static PyObject *
context_add(PyObject *a, PyObject *b)
{
    if (is_context(a) && PyIndex_Check(b))
        return context_move((AccessContextObject *)a, b, PyNumber_Add);
    if (is_context(b) && PyIndex_Check(a))
        return context_move((AccessContextObject *)b, a, PyNumber_Add);
    Py_RETURN_NOTIMPLEMENTED;
}

static PyObject *
context_subtract(PyObject *a, PyObject *b)
{
    if (is_context(a) && PyIndex_Check(b))
        return context_move((AccessContextObject *)a, b, PyNumber_Subtract);
    Py_RETURN_NOTIMPLEMENTED;
}

static PyObject *
context_get_dtb(PyObject *op, void *closure)
{
    AccessContextObject *self = (AccessContextObject *)op;

    if (!self->has_dtb)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->dtb);
}

static PyObject *
context_getnewargs_ex(PyObject *op, PyObject *unused)
{
    AccessContextObject *self = (AccessContextObject *)op;
    PyObject *dtb = context_get_dtb(op, NULL);

    if (dtb == NULL)
        return NULL;
    return Py_BuildValue("((KN){sO})", (unsigned long long)self->address, dtb,
                         "physical", self->physical ? Py_True : Py_False);
}

static PyMethodDef context_methods[] = {
    {"__getnewargs_ex__", context_getnewargs_ex, METH_NOARGS,
     "Arguments that make an equal context; for pickle."},
    {NULL},
};

static PyMemberDef context_members[] = {
    {"address", T_ULONGLONG, offsetof(AccessContextObject, address), READONLY,
     "The address."},
    {"physical", T_BOOL, offsetof(AccessContextObject, physical), READONLY,
     "Whether the address is physical."},
    {NULL},
};

static PyGetSetDef context_getset[] = {
    GETTER(
        "dtb", context_get_dtb,
        "Page-table root of a virtual address; None means the reader's own."),
    {NULL},
};

PyDoc_STRVAR(
    context_doc,
    "AccessContext(address, dtb=None, *, physical=False)\n--\n\n"
    "What to read and how: a physical address, or a virtual one with an "
    "optional root.\n\n"
    "Accepted wherever a reader takes an address. A physical address is read "
    "from the\n"
    "same dump without translation; a virtual one with `dtb` is translated "
    "by that\n"
    "root, and without it by the reader's own. Hashable and immutable; "
    "adding or\n"
    "subtracting an int gives the context of the address that much further.\n"
    "OverflowError for addresses outside 0 ... 2**64 - 1, ValueError for a "
    "physical\n"
    "address with a root.");

static PyType_Slot context_slots[] = {
    {Py_tp_doc, (void *)context_doc},
    {Py_tp_new, context_tp_new},
    {Py_tp_dealloc, context_dealloc},
    {Py_tp_repr, context_repr},
    {Py_tp_hash, context_hash},
    {Py_tp_richcompare, context_richcompare},
    {Py_tp_methods, context_methods},
    {Py_tp_members, context_members},
    {Py_tp_getset, context_getset},
    {Py_nb_add, context_add},
    {Py_nb_subtract, context_subtract},
    {0, NULL},
};

PyType_Spec access_context_spec = {
    .name = "kdmp.AccessContext",
    .basicsize = sizeof(AccessContextObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = context_slots,
};
