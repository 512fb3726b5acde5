/*
 * The attributes of a dump: what its header and its layout say, its state.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

const struct kdmp_info *
dump_facts(PyObject *op)
{
    DumpObject *self = (DumpObject *)op;

    return dump_pin(self) == 0 ? kdmp_get_info(self->handle) : NULL;
}

/* Store 'value' (stolen; NULL is an error already set) in a dict. */
static int
put(PyObject *dict, const char *key, PyObject *value)
{
    int rc = value != NULL ? PyDict_SetItemString(dict, key, value) : -1;

    Py_XDECREF(value);
    return rc;
}

static int
put_u64(PyObject *dict, const char *key, uint64_t value)
{
    return put(dict, key, PyLong_FromUnsignedLongLong(value));
}

/* Text of the header: Latin-1 cannot fail whatever the file says. */
static int
put_text(PyObject *dict, const char *key, int present, const char *text)
{
    return put(
        dict, key,
        present ? PyUnicode_DecodeLatin1(text, (Py_ssize_t)strlen(text), NULL)
                : Py_NewRef(Py_None));
}

static PyObject *
header_dict(const struct kdmp_info *info)
{
    PyObject *dict = PyDict_New();
    int rc = 0;

    if (dict == NULL)
        return NULL;
    for (int i = 0; i < KDMP_FIELD_COUNT && rc == 0; i++) {
        rc = info->absent >> i & 1
                 ? put(dict, kdmp_field_name(i), Py_NewRef(Py_None))
                 : put_u64(dict, kdmp_field_name(i), info->field[i]);
    }
    if (rc < 0
        || put_text(dict, "version_user", info->has_version_user,
                    info->version_user)
               < 0
        || put_text(dict, "comment", info->has_comment, info->comment) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *
get_header(PyObject *op, void *closure)
{
    const struct kdmp_info *info = dump_facts(op);
    PyObject *dict;

    if (info == NULL)
        return NULL;
    dict = header_dict(info);
    dump_unpin((DumpObject *)op);
    return dict;
}

static PyObject *
figures_dict(const struct kdmp_info *info)
{
    const struct {
        const char *name;
        uint64_t value;
    } figures[] = {
        {"header_size", info->header_size},
        {"first_page", info->first_page},
        {"pages_described", info->pages_described},
        {"pages_available", info->pages_available},
        {"pages_claimed", info->pages_claimed},
        {"pages_overlapped", info->pages_overlapped},
        {"pfn_end", info->pfn_end},
        {"bitmap_bits", info->bitmap_bits},
        {"data_end", info->data_end},
    };
    PyObject *dict = PyDict_New();

    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        if (dict == NULL)
            return NULL;
        if (put_u64(dict, figures[i].name, figures[i].value) < 0)
            Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *
get_figures(PyObject *op, void *closure)
{
    const struct kdmp_info *info = dump_facts(op);
    PyObject *dict;

    if (info == NULL)
        return NULL;
    dict = figures_dict(info);
    dump_unpin((DumpObject *)op);
    return dict;
}

enum fact { LAYOUT, ARCH, POINTER_SIZE, FILE_SIZE, LOST_PAGES };

static PyObject *
get_fact(PyObject *op, void *closure)
{
    const struct kdmp_info *info = dump_facts(op);
    PyObject *value = NULL;

    if (info == NULL)
        return NULL;
    switch ((enum fact)(intptr_t)closure) {
    case LAYOUT:
        value = PyUnicode_InternFromString(layout_name((int)info->layout));
        break;
    case ARCH:
        value = PyUnicode_InternFromString(machine_name(info->machine));
        break;
    case POINTER_SIZE:
        value = PyLong_FromLong(info->pointer_size);
        break;
    case FILE_SIZE:
        value = PyLong_FromUnsignedLongLong(info->file_size);
        break;
    case LOST_PAGES:
        value = PyLong_FromUnsignedLongLong(info->pages_described
                                            - info->pages_available);
        break;
    }
    dump_unpin((DumpObject *)op);
    return value;
}

static PyObject *
get_closed(PyObject *op, void *closure)
{
    return PyBool_FromLong(((DumpObject *)op)->pins < 0);
}

static PyObject *
get_lost(PyObject *op, void *closure)
{
    uint64_t offset;
    int file;

    if (!map_guard_loss(&((DumpObject *)op)->guard, &file, &offset))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(offset);
}

static PyObject *
get_io(PyObject *op, void *closure)
{
    static const char *const names[] = {"map", "read", "memory", "file"};

    return PyUnicode_InternFromString(names[((DumpObject *)op)->io]);
}

static PyObject *
get_pages(PyObject *op, void *closure)
{
    return pages_new((DumpObject *)op, 0, UINT64_MAX);
}

PyGetSetDef dump_getset[] = {
    GETTER("closed", get_closed, "Whether the dump is closed."),
    GETTER("lost", get_lost,
           "Where the mapped file has been lost: an offset in it, or None.\n\n"
           "Everything from there on cannot be read any more, because the file "
           "has become shorter or\n"
           "its medium has failed. From then on everything that needs the file "
           "raises OSError\n"
           "(EIO), which says if it is a page file. `check` looks for what has "
           "not been noticed."),
    GETTER("io", get_io,
           "How the file is read: \"map\", \"read\", \"memory\" (a bytes-like "
           "object) or \"file\" (a file object)."),
    GETTER(
        "header", get_header,
        "The raw fields of the header by name, a new dict.\n\n"
        "None is a field that was left as filler or that this header does not "
        "have.\n"
        "Names are those of DUMP_HEADER64 in snake case; times are in units of "
        "100 ns."),
    GETTER(
        "figures", get_figures,
        "Figures of the page layout, a new dict of ints.\n\n"
        "`header_size`, `first_page` and `data_end` are bytes and file "
        "offsets,\n"
        "`bitmap_bits` counts bits, `pfn_end` is the highest described frame "
        "number plus\n"
        "one; `pages_described`, `pages_available` (in the file), "
        "`pages_claimed` (by the\n"
        "layout's own counter) and `pages_overlapped` count frames."),
    {"layout", get_fact, NULL,
     "How pages are stored: \"runs\", \"summary\", \"bitmap\", \"ranges\", "
     "\"triage\", \"raw\" or \"none\".",
     (void *)LAYOUT},
    {"arch", get_fact, NULL,
     "The machine: \"x64\", \"x86\", \"arm64\", \"arm\", \"ia64\" or "
     "\"unknown\".",
     (void *)ARCH},
    {"pointer_size", get_fact, NULL,
     "Size of a pointer of the machine: 4 or 8 bytes.", (void *)POINTER_SIZE},
    {"file_size", get_fact, NULL, "Size of the file in bytes.",
     (void *)FILE_SIZE},
    {"truncated", get_fact, NULL,
     "How many frames the dump describes that lie beyond the end of the "
     "file.",
     (void *)LOST_PAGES},
    GETTER("pages", get_pages, "The captured frames, as Pages."),
    GETTER("triage_header", dump_triage_header, dump_triage_header_doc),
    {NULL},
};
