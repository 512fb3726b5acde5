/*
 * kdmp._kdmp.DumpBase: an open dump, its life, its bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include <errno.h>

enum kdmp_status
dump_raise_lost(DumpObject *self)
{
    PyObject *text, *exc = NULL;
    char what[32] = "the dump";
    uint64_t offset;
    int file;

    if (PyErr_Occurred() || !map_guard_loss(&self->guard, &file, &offset))
        return KDMP_E_OS;
    if (file > 0)
        PyOS_snprintf(what, sizeof(what), "page file %d", file - 1);
    text = format_text("the file of %s cannot be read any more from offset "
                       "0x%llx on: it has become shorter or its medium has "
                       "failed while it was mapped; open the dump again",
                       what, (unsigned long long)offset);
    if (text != NULL && self->path != NULL)
        exc =
            PyObject_CallFunction(PyExc_OSError, "iOO", EIO, text, self->path);
    else if (text != NULL)
        exc = PyObject_CallFunction(PyExc_OSError, "iO", EIO, text);
    Py_XDECREF(text);
    if (exc != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_XDECREF(exc);
    return KDMP_E_OS;
}

int
dump_not_open(DumpObject *self)
{
    if (self->pins >= 0 && map_guard_is_lost(&self->guard)) {
        dump_raise_lost(self);
        return -1;
    }
    PyErr_SetString(PyExc_ValueError, self->pins == PINS_CLOSED
                                          ? "the dump is closed"
                                          : "the dump has not been opened");
    return -1;
}

/* --- life -------------------------------------------------------------- */

static PyObject *
dump_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct module_state *state = state_of_type(type);
    DumpObject *self;

    if (state == NULL)
        return NULL;
    self = (DumpObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->state = state;
        self->pins = PINS_NEW;
    }
    return (PyObject *)self;
}

static int
dump_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"source", "io", "raw", "pagefiles", NULL};
    DumpObject *self = (DumpObject *)op;
    PyObject *source, *raw = Py_None, *pagefiles = Py_None;
    const char *io = "map";
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$sOO:DumpBase", names,
                                     &source, &io, &raw, &pagefiles)) {
        return -1;
    }
    if (strcmp(io, "map") != 0 && strcmp(io, "read") != 0) {
        PyErr_Format(PyExc_ValueError, "io must be 'map' or 'read', not '%s'",
                     io);
        return -1;
    }
    if (!pins_swap(self, PINS_NEW, PINS_OPENING)) {
        PyErr_SetString(PyExc_ValueError, "the dump has already been opened");
        return -1;
    }
    rc = dump_open(self, source, io[0] == 'm', raw, pagefiles);
    pins_swap(self, PINS_OPENING, rc == 0 ? 0 : PINS_NEW);
    return rc;
}

static int
dump_traverse(PyObject *op, visitproc visit, void *arg)
{
    DumpObject *self = (DumpObject *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->source.obj);
    Py_VISIT(self->file);
    return 0;
}

static int
dump_clear(PyObject *op)
{
    DumpObject *self = (DumpObject *)op;

    if (pins_swap(self, 0, PINS_CLOSED))
        dump_release(self);
    return 0;
}

static void
dump_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    dump_release((DumpObject *)op);
    Py_CLEAR(((DumpObject *)op)->path);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Close the dump. Closing it again does nothing.\n\n"
             "BufferError while a memoryview of it lives or another thread "
             "reads from it.\n"
             "Afterwards everything that needs the file raises ValueError.");

static PyObject *
dump_close(PyObject *op, PyObject *unused)
{
    DumpObject *self = (DumpObject *)op;

    if (pins_swap(self, 0, PINS_CLOSED)) {
        dump_release(self);
    } else if (self->pins != PINS_CLOSED && self->pins != PINS_NEW) {
        PyErr_SetString(PyExc_BufferError,
                        "cannot close a dump while memoryviews of it exist "
                        "or calls use it");
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\n"
                        "Return the dump itself; ValueError if it is closed.");

static PyObject *
dump_enter(PyObject *op, PyObject *unused)
{
    if (dump_pin((DumpObject *)op) < 0)
        return NULL;
    dump_unpin((DumpObject *)op);
    return Py_NewRef(op);
}

PyDoc_STRVAR(exit_doc, "__exit__($self, exc_type, exc, tb, /)\n--\n\n"
                       "Close the dump.");

static PyObject *
dump_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    return PyObject_CallMethod(op, "close", NULL);
}

/* --- work -------------------------------------------------------------- */

PyObject *
raise_no_paging(DumpObject *self, enum kdmp_status status, int machine)
{
    struct kdmp_error err = {.status = status};

    PyOS_snprintf(err.message, sizeof(err.message),
                  "kdmp cannot translate addresses of this machine (%s)",
                  machine_name(machine));
    return raise_error(self->state, &err, NULL);
}

PyDoc_STRVAR(choose_paging_doc,
             "choose_paging($self, /, dtb)\n--\n\n"
             "Return the paging mode for the root `dtb` and where it comes "
             "from.\n\n"
             "The mode is one of \"x64\", \"la57\", \"x86\", \"pae\", "
             "\"arm64\", \"triage\"; the source\n"
             "is \"machine\" (no choice), \"header\", \"kdbg\" (the debugger "
             "data block says),\n"
             "\"trial\" (only this one maps the kernel's data) or "
             "\"default\". UnsupportedDumpError\n"
             "for machines without a walk here.");

static PyObject *
dump_choose_paging(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    SIGNATURE("choose_paging", 1, 1, 1, "dtb");
    DumpObject *self = (DumpObject *)op;
    enum kdmp_status status;
    enum kdmp_paging paging;
    enum kdmp_paging_source source;
    int machine;
    uint64_t dtb;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_u64(slot[0], "dtb", &dtb) < 0 || dump_pin(self) < 0) {
        return NULL;
    }
    machine = kdmp_get_info(self->handle)->machine;
    status = kdmp_choose_paging(self->handle, dtb, &paging, &source);
    status = dump_end(self, status);
    if (status != KDMP_OK) {
        return raise_no_paging(self, status, machine);
    }
    return Py_BuildValue("(ss)", paging_name((int)paging),
                         paging_source_name((int)source));
}

PyDoc_STRVAR(find_root_doc,
             "find_root($self, /, paging)\n--\n\n"
             "Return a page-table root found by trial, or None.\n\n"
             "A root is a table that maps itself and under which "
             "KUSER_SHARED_DATA is where Windows\n"
             "has it. Reads all frames at worst.");

static PyObject *
dump_find_root(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    SIGNATURE("find_root", 1, 1, 1, "paging");
    DumpObject *self = (DumpObject *)op;
    enum kdmp_status status;
    const char *name;
    PyThreadState *ts;
    uint64_t root;
    int paging;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0)
        return NULL;
    name = PyUnicode_AsUTF8(slot[0]);
    if (name == NULL)
        return NULL;
    paging = paging_by_name(name);
    if (paging < 0 || kdmp_paging_levels((enum kdmp_paging)paging) == 0) {
        PyErr_Format(PyExc_ValueError, "no page tables in paging '%s'", name);
        return NULL;
    }
    if (dump_pin(self) < 0)
        return NULL;
    ts = work_begin(self, UINT64_MAX);
    status = kdmp_find_root(self->handle, (enum kdmp_paging)paging, &root);
    (void)map_guard_check(&self->guard);
    work_end(ts);
    if (dump_done(self) < 0)
        return NULL;
    if (status != KDMP_OK)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(root);
}

/* Copy 'size' bytes of the file.  The dump is pinned; ends the pin. */
static PyObject *
file_range(DumpObject *self, uint64_t offset, uint64_t size)
{
    uint64_t file_size = kdmp_get_info(self->handle)->file_size;
    struct kdmp_error err = {.status = KDMP_OK};
    PyObject *out;
    PyThreadState *ts;

    if (offset > file_size || size > file_size - offset) {
        err.status = KDMP_E_FORMAT;
        err.where = file_size;
        PyOS_snprintf(err.message, sizeof(err.message),
                      "0x%llx bytes at 0x%llx run past the end of the file",
                      (unsigned long long)size, (unsigned long long)offset);
        dump_unpin(self);
        return raise_error(self->state, &err, NULL);
    }
    out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (out == NULL) {
        dump_unpin(self);
        return NULL;
    }
    ts = work_begin(self, size);
    err.status = kdmp_read_file(self->handle, offset, PyBytes_AS_STRING(out),
                                (size_t)size, &err);
    if (ts != NULL)
        map_guard_glance(&self->guard);
    work_end(ts);
    err.status = dump_end(self, err.status);
    if (err.status != KDMP_OK) {
        Py_DECREF(out);
        return raise_error(self->state, &err, NULL);
    }
    return out;
}

PyDoc_STRVAR(read_file_doc,
             "read_file($self, /, offset, size)\n--\n\n"
             "Return `size` bytes of the file itself, from `offset`.\n\n"
             "FormatError if the file does not have them all, OSError if it "
             "cannot be read.");

static PyObject *
dump_read_file(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    SIGNATURE("read_file", 2, 2, 2, "offset", "size");
    DumpObject *self = (DumpObject *)op;
    uint64_t offset;
    Py_ssize_t size;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_u64(slot[0], "offset", &offset) < 0
        || as_size(slot[1], "size", &size) < 0 || dump_pin(self) < 0) {
        return NULL;
    }
    return file_range(self, offset, (uint64_t)size);
}

PyDoc_STRVAR(
    check_doc,
    "check($self, /)\n--\n\n"
    "Raise OSError (EIO) if the mapped file is shorter now than when it was "
    "opened.\n\n"
    "Lost pages are noticed when they are needed, and calls of more than 20 ms "
    "look at the size\n"
    "when they end. But if the file now ends within a page of 4 KiB, the rest "
    "of that page reads\n"
    "as zeros, and short reads do not notice; this call does. It takes a "
    "microsecond, and does\n"
    "nothing for a dump that is not mapped.");

static PyObject *
dump_check(PyObject *op, PyObject *unused)
{
    DumpObject *self = (DumpObject *)op;

    if (dump_pin(self) < 0)
        return NULL;
    (void)map_guard_check(&self->guard);
    if (dump_done(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(context_bytes_doc,
             "context_bytes($self, /)\n--\n\n"
             "Return the bytes of the header's ContextRecord area as they are: "
             "a CONTEXT, or filler.");

static PyObject *
dump_context_bytes(PyObject *op, PyObject *unused)
{
    const struct kdmp_info *info = dump_facts(op);

    return info != NULL ? file_range((DumpObject *)op, info->context_offset,
                                     info->context_size)
                        : NULL;
}

PyDoc_STRVAR(exception_bytes_doc,
             "exception_bytes($self, /)\n--\n\n"
             "Return the bytes of the header's EXCEPTION_RECORD as they are, "
             "perhaps filler.");

static PyObject *
dump_exception_bytes(PyObject *op, PyObject *unused)
{
    const struct kdmp_info *info = dump_facts(op);

    return info != NULL ? file_range((DumpObject *)op, info->exception_offset,
                                     info->exception_size)
                        : NULL;
}

/* --- the file as a buffer ---------------------------------------------- */

static int
dump_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    DumpObject *self = (DumpObject *)op;
    const uint8_t *bytes;
    uint64_t size;

    view->obj = NULL;
    if (dump_pin(self) < 0)
        return -1;
    bytes = kdmp_file_bytes(self->handle, &size);
    if (bytes == NULL || size > PY_SSIZE_T_MAX) {
        PyErr_SetString(PyExc_BufferError,
                        "the file of this dump is not mapped");
        dump_unpin(self);
        return -1;
    }
    if (PyBuffer_FillInfo(view, op, (void *)bytes, (Py_ssize_t)size, 1, flags)
        < 0) {
        dump_unpin(self);
        return -1;
    }
    return 0;
}

static void
dump_releasebuffer(PyObject *op, Py_buffer *view)
{
    dump_unpin((DumpObject *)op);
}

#define KEYWORDS(function)                                                     \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef dump_methods[] = {
    {"close", dump_close, METH_NOARGS, close_doc},
    {"__enter__", dump_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))dump_exit, METH_FASTCALL,
     exit_doc},
    {"va_ranges", dump_va_ranges, METH_NOARGS, dump_va_ranges_doc},
    {"find_root", KEYWORDS(dump_find_root), find_root_doc},
    {"compare", KEYWORDS(dump_compare), dump_compare_doc},
    {"choose_paging", KEYWORDS(dump_choose_paging), choose_paging_doc},
    {"read_file", KEYWORDS(dump_read_file), read_file_doc},
    {"check", dump_check, METH_NOARGS, check_doc},
    {"context_bytes", dump_context_bytes, METH_NOARGS, context_bytes_doc},
    {"exception_bytes", dump_exception_bytes, METH_NOARGS, exception_bytes_doc},
    {"_collect", dump_collect, METH_O, NULL},
    {NULL},
};

PyDoc_STRVAR(
    dump_doc,
    "DumpBase(source, *, io=\"map\", raw=None, pagefiles=None)\n--\n\n"
    "An open crash dump: its facts, its pages and the bytes of its file.\n\n"
    "`source` is a path (str or os.PathLike), the content of a dump in any "
    "bytes-like\n"
    "object, or a binary file object with seek() and read(). A file given by "
    "path is mapped: if\n"
    "it shrinks or fails meanwhile, the call that notices and all later ones "
    "raise OSError, see\n"
    "`lost`, and a memoryview shows zeros from there on. With `io=\"read\"` it "
    "is read instead:\n"
    "slower, but each byte is either right or an error. `raw` is for memory "
    "without a dump\n"
    "header: a pair of the machine (\"x64\", \"x86\", \"arm64\", or None) and "
    "a "
    "sequence of runs\n"
    "(pfn, count, file_offset), empty for the whole file or what an ELF core "
    "lists. `pagefiles`\n"
    "are paths of page files by number, None for those that are missing; at "
    "most 16.\n\n"
    "OSError if the file cannot be opened, WrongFileError if it is no kernel "
    "dump,\n"
    "FormatError if it is damaged, UnsupportedDumpError if kdmp cannot read "
    "its kind.\n"
    "memoryview(dump) is the whole file, read-only, if it is in memory; no "
    "call checks what is\n"
    "read through it.");

static PyType_Slot dump_slots[] = {
    {Py_tp_doc, (void *)dump_doc},
    {Py_tp_new, dump_new},
    {Py_tp_init, dump_init},
    {Py_tp_traverse, dump_traverse},
    {Py_tp_clear, dump_clear},
    {Py_tp_dealloc, dump_dealloc},
    {Py_tp_methods, dump_methods},
    {Py_tp_getset, dump_getset},
    {Py_bf_getbuffer, dump_getbuffer},
    {Py_bf_releasebuffer, dump_releasebuffer},
    {0, NULL},
};

PyType_Spec dump_spec = {
    .name = "kdmp._kdmp.DumpBase",
    .basicsize = sizeof(DumpObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = dump_slots,
};
