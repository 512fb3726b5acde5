/*
 * Fault collectors: what readers miss is told to the collector of this
 * context, if there is one, and what would raise gives None.
 *
 * Which collector that is, kdmp.faults knows: state->collector is a context
 * variable with the innermost one or None, whose method _sink(dump) returns
 * the one that counts, or None, and whose _add() takes a fault.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

#define PROBE_SIZE 0x4000
/* Bytes behind the first missing one that are looked at, however long the
   read was. */
#define NOTED_LIMIT 0x1000000

/* --- the collector ----------------------------------------------------- */

/* The collector that this reader's faults go to, or None; NULL with an
   exception. */
static PyObject *
collector_of(ReaderObject *self)
{
    PyObject *innermost = NULL, *sink;

    if (self->state->collector == NULL)
        Py_RETURN_NONE;
    if (PyContextVar_Get(self->state->collector, NULL, &innermost) < 0)
        return NULL;
    if (innermost == NULL || innermost == Py_None) {
        Py_XDECREF(innermost);
        Py_RETURN_NONE;
    }
    sink = PyObject_CallMethod(innermost, "_sink", "O", self->dump);
    Py_DECREF(innermost);
    return sink;
}

/* Tell of 'size' missing bytes, 'offset' behind the access's address. */
static int
tell(ReaderObject *self, PyObject *sink, const struct access *access,
     uint64_t offset, uint64_t size, const struct kdmp_fault *fault)
{
    const struct kdmp_space *space = access->space;
    PyObject *error = NULL, *root = NULL, *result = NULL;
    PyObject *address = address_after(access->address, offset);

    if (address != NULL) {
        root = kdmp_paging_levels(space->paging) == 0
                   ? Py_NewRef(Py_None)
                   : PyLong_FromUnsignedLongLong(space->root);
    }
    if (root != NULL)
        error = fault_exception(self->state, space, fault);
    if (error != NULL) {
        result = PyObject_CallMethod(sink, "_add", "OKOO", address,
                                     (unsigned long long)size, root, error);
    }
    Py_XDECREF(address);
    Py_XDECREF(root);
    Py_XDECREF(error);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* --- what is missing --------------------------------------------------- */

/* Go through the bytes from 'offset' to 'size' and tell of each hole.  The
   dump is pinned. */
static int
tell_holes(ReaderObject *self, PyObject *sink, const struct access *access,
           uint64_t offset, uint64_t size)
{
    uint8_t scratch[PROBE_SIZE];
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t address, done, left, missing;

    while (offset < size) {
        left = size - offset;
        done = 0;
        status = access_advance(access, offset, &address, &fault);
        if (status == KDMP_OK) {
            status =
                kdmp_read(access->space, address, scratch,
                          left < PROBE_SIZE ? left : PROBE_SIZE, &done, &fault);
        }
        if (PyErr_Occurred()) /* that of a file object */
            return -1;
        offset += done;
        if (status == KDMP_OK)
            continue;
        if (!is_absent(status)) {
            raise_fault(self->state, access->space, &fault);
            return -1;
        }
        left = size - offset;
        missing = fault.missing > 0 ? fault.missing : 1;
        if (status == KDMP_E_ADDRESS_END || missing > left)
            missing = left;
        if (tell(self, sink, access, offset, missing, &fault) < 0)
            return -1;
        offset += missing;
    }
    return 0;
}

int
reader_missed(ReaderObject *self, const struct access *access, uint64_t offset,
              uint64_t size)
{
    PyObject *sink = collector_of(self);
    int rc = 0;

    if (sink == NULL)
        return -1;
    if (sink != Py_None) {
        if (size > offset && size - offset > NOTED_LIMIT)
            size = offset + NOTED_LIMIT;
        rc = dump_pin(self->dump);
        if (rc == 0) {
            rc = tell_holes(self, sink, access, offset, size);
            if (dump_done(self->dump) < 0)
                rc = -1;
        }
    }
    Py_DECREF(sink);
    return rc;
}

int
reader_missed_walk(ReaderObject *self, const struct access *access,
                   const struct kdmp_translation *walk)
{
    struct kdmp_fault fault = {.status = (enum kdmp_status)walk->status,
                               .address = walk->vaddr,
                               .paddr = walk->paddr,
                               .missing = 1,
                               .walk = *walk};
    PyObject *sink = collector_of(self);
    int rc = 0;

    if (sink == NULL)
        return -1;
    if (sink != Py_None)
        rc = tell(self, sink, access, 0, 1, &fault);
    Py_DECREF(sink);
    return rc;
}

/* --- None instead of an exception -------------------------------------- */

PyObject *
reader_collected(ReaderObject *self)
{
    PyObject *type, *value, *traceback, *sink;

    if (self->strict
        || !PyErr_ExceptionMatches(self->state->errors[E_UNREADABLE]))
        return NULL;
    PyErr_Fetch(&type, &value, &traceback);
    sink = collector_of(self);
    if (sink == NULL || sink != Py_None) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        Py_XDECREF(sink);
        if (sink == NULL)
            return NULL;
        Py_RETURN_NONE;
    }
    Py_DECREF(sink);
    PyErr_Restore(type, value, traceback);
    return NULL;
}

/* --- switches ---------------------------------------------------------- */

PyObject *
reader_get_strict(PyObject *op, void *closure)
{
    return PyBool_FromLong(((ReaderObject *)op)->strict);
}

int
reader_set_strict(PyObject *op, PyObject *value, void *closure)
{
    int strict;

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete strict");
        return -1;
    }
    strict = PyObject_IsTrue(value);
    if (strict < 0)
        return -1;
    ((ReaderObject *)op)->strict = (char)strict;
    return 0;
}

PyObject *
dump_collect(PyObject *op, PyObject *arg)
{
    DumpObject *self = (DumpObject *)op;
    int on = PyObject_IsTrue(arg);

    if (on < 0)
        return NULL;
    if (on)
        self->collectors++;
    else
        self->collectors--;
    Py_RETURN_NONE;
}
