/*
 * What only triage dumps have: named header fields and virtual ranges.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

const char dump_triage_header_doc[] = PyDoc_STR(
    "The fields of the triage header by name, a new dict of ints; None for "
    "other dumps.\n\n"
    "Offsets are file offsets, 0 for what is absent.");

PyObject *
dump_triage_header(PyObject *op, void *closure)
{
    DumpObject *self = (DumpObject *)op;
    PyObject *dict;
    uint64_t value;

    if (dump_pin(self) < 0)
        return NULL;
    if (!kdmp_triage_field(self->handle, 0, &value)) {
        dump_unpin(self);
        Py_RETURN_NONE;
    }
    dict = PyDict_New();
    for (int i = 0; i < KDMP_TRIAGE_FIELD_COUNT && dict != NULL; i++) {
        PyObject *number;

        kdmp_triage_field(self->handle, i, &value);
        number = PyLong_FromUnsignedLongLong(value);
        if (number == NULL
            || PyDict_SetItemString(dict, kdmp_triage_field_name(i), number)
                   < 0)
            Py_CLEAR(dict);
        Py_XDECREF(number);
    }
    dump_unpin(self);
    return dict;
}

const char dump_va_ranges_doc[] = PyDoc_STR(
    "va_ranges($self, /)\n--\n\n"
    "Return the virtual ranges of a triage dump, a new list of VaRange.\n\n"
    "In the order of the file, copies of structures last; ranges may overlap, "
    "and reads take\n"
    "the earlier one. Other dumps have none.");

PyObject *
dump_va_ranges(PyObject *op, PyObject *unused)
{
    DumpObject *self = (DumpObject *)op;
    struct kdmp_va_range range;
    PyObject *list;

    if (dump_pin(self) < 0)
        return NULL;
    list = PyList_New(0);
    for (uint64_t i = 0;
         list != NULL && kdmp_get_va_range(self->handle, i, &range); i++) {
        PyObject *item = va_range_record(self->state, &range);

        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    dump_unpin(self);
    return list;
}
