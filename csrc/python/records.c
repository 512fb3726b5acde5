/*
 * Named tuples: one entry of a page walk, a gap, a run of frames.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include <structmember.h>

static PyStructSequence_Field entry_fields[] = {
    {"level", "Level of the table: 1 = PT, 4 = PML4, 5 = PML5."},
    {"pa", "Physical address of the entry."},
    {"value", "The entry itself."},
    {NULL, NULL},
};

static PyStructSequence_Desc entry_desc = {
    "kdmp.PageTableEntry",
    "One entry of a page walk: `level`, `pa` of the entry, its `value`.\n\n"
    "Levels count from the leaf: 1 = PT, 2 = PD, 3 = PDPT, 4 = PML4, "
    "5 = PML5.",
    entry_fields, 3};

static PyStructSequence_Field gap_fields[] = {
    {"address", "Address of the first missing byte."},
    {"size", "How many bytes are missing."},
    {"reason", "The exception that reading the first of them raises."},
    {NULL, NULL},
};

static PyStructSequence_Desc gap_desc = {
    "kdmp.Gap",
    "A hole in a read: `address`, `size` in bytes, and the `reason`, an "
    "exception.",
    gap_fields, 3};

static PyStructSequence_Field run_fields[] = {
    {"pfn", "Number of the first frame."},
    {"count", "How many frames of 4096 bytes."},
    {"file_offset", "Where in the file the first one's bytes are."},
    {NULL, NULL},
};

static PyStructSequence_Desc run_desc = {
    "kdmp.Run",
    "A stretch of frames: first `pfn`, `count`, `file_offset` of the first "
    "one's bytes.",
    run_fields, 3};

static PyStructSequence_Field va_range_fields[] = {
    {"address", "Virtual address of the first byte."},
    {"size", "How many bytes."},
    {"file_offset", "Where in the file the first one is."},
    {"origin", "Where the range comes from, such as \"call stack\"."},
    {NULL, NULL},
};

static PyStructSequence_Desc va_range_desc = {
    "kdmp.VaRange",
    "A virtual range of a triage dump: `address`, `size` in bytes, "
    "`file_offset`, `origin`.\n\n"
    "`origin` is \"data block\", \"call stack\", \"data page\", "
    "\"debugger data\", \"processor\",\n"
    "\"thread\" or \"process\"; the last three are copies of structures.",
    va_range_fields, 4};

static PyStructSequence_Field mapping_fields[] = {
    {"start", "First virtual address."},
    {"size", "How many bytes."},
    {"page_size", "Size of each page; of what one entry maps if none does."},
    {"pa", "Physical address of the first page; None without a frame."},
    {"state", "What the entries are, as Translation.state; \"table\": a page "
              "table is missing."},
    {"writable", "Whether Windows lets the pages be written."},
    {"executable", "Whether code may run there."},
    {"user", "Whether user mode has access."},
    {NULL, NULL},
};

static PyStructSequence_Desc mapping_desc = {
    "kdmp.Mapping",
    "A mapped range: `start`, `size` in bytes, `page_size`, `pa`, `state` and "
    "rights.\n\n"
    "Neighbouring pages of one size, state and rights are one range; their "
    "frames need not\n"
    "follow each other.",
    mapping_fields, 8};

static PyStructSequence_Field extent_fields[] = {
    {"address", "Address of the first byte."},
    {"pa", "Physical address of the first byte; None without a frame."},
    {"offset", "Where in the dump's file the first byte is; None if it is not "
               "there."},
    {"size", "How many bytes."},
    {NULL, NULL},
};

static PyStructSequence_Desc extent_desc = {
    "kdmp.Extent",
    "Readable bytes in one piece: `address`, `pa`, `offset` in the file, "
    "`size` "
    "in bytes.\n\n"
    "Address, physical address and file offset go up together in it.",
    extent_fields, 4};

static PyStructSequence_Field scanned_fields[] = {
    {"matches", "Tuples of address, pa, offset, size and pattern's number."},
    {"next", "The address to go on at; None at the end."},
    {"size", "How many bytes were looked at."},
    {"tables", "How many page tables were visited."},
    {NULL, NULL},
};

static PyStructSequence_Desc scanned_desc = {
    "kdmp.Scanned",
    "What a scan has found: `matches`, the address `next` to go on at, `size` "
    "in bytes, `tables`.\n\n"
    "A match is (address, pa, offset, size, number of the pattern).",
    scanned_fields, 4};

/* Name(field=0x1, ...): ints in hex, the rest as it is. */
static PyObject *
record_repr(PyObject *self, PyObject *unused)
{
    /* The names of all records have a dot. */
    PyObject *text =
        PyUnicode_FromFormat("%s(", strrchr(Py_TYPE(self)->tp_name, '.') + 1);

    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self) && text != NULL; i++) {
        PyObject *item = PyTuple_GET_ITEM(self, i);
        PyObject *shown = PyLong_CheckExact(item) ? PyNumber_ToBase(item, 16)
                                                  : PyObject_Repr(item);
        PyObject *longer = NULL;

        if (shown != NULL) {
            longer =
                PyUnicode_FromFormat("%U%s%s=%U", text, i > 0 ? ", " : "",
                                     Py_TYPE(self)->tp_members[i].name, shown);
            Py_DECREF(shown);
        }
        Py_SETREF(text, longer);
    }
    if (text != NULL)
        Py_SETREF(text, PyUnicode_FromFormat("%U)", text));
    return text;
}

static PyMethodDef repr_def = {"__repr__", record_repr, METH_NOARGS,
                               "Return repr(self)."};

static PyTypeObject *
record_type(PyStructSequence_Desc *desc)
{
    PyTypeObject *type = PyStructSequence_NewType(desc);
    PyObject *repr;
    int rc;

    if (type == NULL)
        return NULL;
    repr = PyDescr_NewMethod(type, &repr_def);
    if (repr == NULL) {
        Py_DECREF(type);
        return NULL;
    }
    rc = PyObject_SetAttrString((PyObject *)type, "__repr__", repr);
    Py_DECREF(repr);
    if (rc < 0)
        Py_CLEAR(type);
    /* Never given back: a struct sequence asks its type's dict when it goes,
       which the collector may have cleared by then (at exit, for objects in
       cycles), and CPython reports that as an error. */
    Py_XINCREF(type);
    return type;
}

int
records_init(struct module_state *state)
{
    state->types[T_ENTRY] = record_type(&entry_desc);
    if (state->types[T_ENTRY] == NULL)
        return -1;
    state->types[T_GAP] = record_type(&gap_desc);
    if (state->types[T_GAP] == NULL)
        return -1;
    state->types[T_RUN] = record_type(&run_desc);
    if (state->types[T_RUN] == NULL)
        return -1;
    state->types[T_VA_RANGE] = record_type(&va_range_desc);
    if (state->types[T_VA_RANGE] == NULL)
        return -1;
    state->types[T_MAPPING] = record_type(&mapping_desc);
    if (state->types[T_MAPPING] == NULL)
        return -1;
    state->types[T_EXTENT] = record_type(&extent_desc);
    if (state->types[T_EXTENT] == NULL)
        return -1;
    state->types[T_SCANNED] = record_type(&scanned_desc);
    return state->types[T_SCANNED] != NULL ? 0 : -1;
}

/* A record of three values, stealing the references; NULL if one is NULL. */
static PyObject *
record(PyTypeObject *type, PyObject *a, PyObject *b, PyObject *c)
{
    PyObject *self = NULL;

    if (a != NULL && b != NULL && c != NULL)
        self = PyStructSequence_New(type);
    if (self == NULL) {
        Py_XDECREF(a);
        Py_XDECREF(b);
        Py_XDECREF(c);
        return NULL;
    }
    PyStructSequence_SetItem(self, 0, a);
    PyStructSequence_SetItem(self, 1, b);
    PyStructSequence_SetItem(self, 2, c);
    /* The reason of a Gap is an exception, whose traceback may lead back
       here; not every release of CPython lets the collector see that. */
    if (!PyObject_GC_IsTracked(self))
        PyObject_GC_Track(self);
    return self;
}

PyObject *
mapping_record(struct module_state *state, const struct kdmp_mapping *mapping,
               PyObject *state_text)
{
    PyObject *self = PyStructSequence_New(state->types[T_MAPPING]);
    PyObject *items[8];
    int complete = 1;

    if (self == NULL)
        return NULL;
    items[0] = PyLong_FromUnsignedLongLong(mapping->start);
    items[1] = PyLong_FromUnsignedLongLong(mapping->size);
    items[2] = PyLong_FromUnsignedLongLong(mapping->page_size);
    items[3] = mapping->paddr != 0 || mapping->state == KDMP_PTE_VALID
                   ? PyLong_FromUnsignedLongLong(mapping->paddr)
                   : Py_NewRef(Py_None);
    items[4] = Py_NewRef(state_text);
    items[5] = PyBool_FromLong(mapping->flags & KDMP_T_WRITABLE);
    items[6] = PyBool_FromLong((mapping->flags & KDMP_T_EXECUTABLE) != 0);
    items[7] = PyBool_FromLong((mapping->flags & KDMP_T_USER) != 0);
    for (Py_ssize_t i = 0; i < 8; i++) {
        PyStructSequence_SET_ITEM(self, i, items[i]);
        complete &= items[i] != NULL;
    }
    if (!complete)
        Py_CLEAR(self);
    return self;
}

PyObject *
number_or_none(uint64_t value)
{
    if (value == UINT64_MAX)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(value);
}

PyObject *
extent_record(struct module_state *state, const struct kdmp_stretch *stretch)
{
    PyObject *self = PyStructSequence_New(state->types[T_EXTENT]);
    PyObject *items[4];
    int complete = 1;

    if (self == NULL)
        return NULL;
    items[0] = PyLong_FromUnsignedLongLong(stretch->address);
    items[1] = number_or_none(stretch->paddr);
    items[2] = number_or_none(stretch->file_offset);
    items[3] = PyLong_FromUnsignedLongLong(stretch->length);
    for (Py_ssize_t i = 0; i < 4; i++) {
        PyStructSequence_SET_ITEM(self, i, items[i]);
        complete &= items[i] != NULL;
    }
    if (!complete)
        Py_CLEAR(self);
    return self;
}

PyObject *
va_range_record(struct module_state *state, const struct kdmp_va_range *range)
{
    PyObject *self = PyStructSequence_New(state->types[T_VA_RANGE]);
    PyObject *items[4];

    if (self == NULL)
        return NULL;
    items[0] = PyLong_FromUnsignedLongLong(range->address);
    items[1] = PyLong_FromUnsignedLongLong(range->size);
    items[2] = PyLong_FromUnsignedLongLong(range->file_offset);
    items[3] =
        PyUnicode_InternFromString(kdmp_va_origin_name((int)range->origin));
    for (Py_ssize_t i = 0; i < 4; i++)
        PyStructSequence_SetItem(self, i, items[i]);
    if (PyErr_Occurred())
        Py_CLEAR(self);
    return self;
}

PyObject *
run_record(struct module_state *state, const struct kdmp_run *run)
{
    return record(state->types[T_RUN], PyLong_FromUnsignedLongLong(run->pfn),
                  PyLong_FromUnsignedLongLong(run->count),
                  PyLong_FromUnsignedLongLong(run->file_offset));
}

PyObject *
gap_record(struct module_state *state, PyObject *address, uint64_t size,
           PyObject *reason)
{
    return record(state->types[T_GAP], address,
                  PyLong_FromUnsignedLongLong(size), reason);
}

PyObject *
walk_entries(struct module_state *state, const struct kdmp_translation *walk)
{
    int levels = kdmp_paging_levels((enum kdmp_paging)walk->paging);
    PyObject *entries = PyTuple_New(walk->depth);

    for (int i = 0; i < walk->depth && entries != NULL; i++) {
        const struct kdmp_entry *entry = &walk->entries[i];
        PyObject *item =
            record(state->types[T_ENTRY], PyLong_FromLong(levels - i),
                   PyLong_FromUnsignedLongLong(entry->paddr),
                   PyLong_FromUnsignedLongLong(entry->value));

        if (item != NULL)
            PyTuple_SET_ITEM(entries, i, item);
        else
            Py_CLEAR(entries);
    }
    return entries;
}
