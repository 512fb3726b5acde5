/*
 * kdmp._kdmp.ReaderBase: one address space of a dump.  Here are its life,
 * its facts, translation, and what its other methods share.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

#define DEFAULT_STRING_LIMIT 0x10000
#define DEFAULT_CACHE 8192 /* pages */

/* --- access ------------------------------------------------------------ */

int
reader_not_initialised(void)
{
    PyErr_SetString(PyExc_ValueError, "the reader has no dump");
    return -1;
}

int
access_convert_slow(ReaderObject *self, PyObject *arg, struct access *access)
{
    if (Py_TYPE(arg) == self->state->types[T_ACCESS_CONTEXT]) {
        access->context = (const AccessContextObject *)arg;
        access->address = access->context->address;
        return 0;
    }
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError,
                     "va must be an int or an AccessContext, not %.100s",
                     Py_TYPE(arg)->tp_name);
        return -1;
    }
    return as_u64(arg, "va", &access->address);
}

static int
has_walk(enum kdmp_paging paging)
{
    return paging != KDMP_PAGING_PHYSICAL && paging != KDMP_PAGING_TRIAGE;
}

static int
root_not_present(ReaderObject *self, uint64_t address)
{
    raise_text(self->state->errors[E_ROOT_NOT_PRESENT],
               "virtual address 0x%llx has no page-table root, and a "
               "physical reader has none either",
               (unsigned long long)address);
    return -1;
}

/* Build the space an AccessContext asks for.  The dump is pinned, and stays
   so only on success. */
int
access_resolve(ReaderObject *self, struct access *access)
{
    const AccessContextObject *context = access->context;
    enum kdmp_status status;
    enum kdmp_paging_source source;

    access->other = self->space;
    access->other.tlb = NULL; /* it knows this reader's space only */
    access->other.views = NULL;
    access->other.view_count = 0;
    if (context->physical) {
        access->other.paging = KDMP_PAGING_PHYSICAL;
        access->other.root = 0;
    } else if (context->has_dtb) {
        access->other.root = context->dtb;
        if (!has_walk(self->space.paging)) {
            status = kdmp_choose_paging(self->dump->handle, context->dtb,
                                        &access->other.paging, &source);
            if (PyErr_Occurred() || status != KDMP_OK) {
                int machine = kdmp_get_info(self->dump->handle)->machine;

                status = dump_end(self->dump, status);
                raise_no_paging(self->dump, status, machine);
                return -1;
            }
        }
    } else if (self->space.paging == KDMP_PAGING_PHYSICAL) {
        dump_unpin(self->dump);
        return root_not_present(self, access->address);
    }
    access->space = &access->other;
    return 0;
}

enum kdmp_status
access_advance(const struct access *access, uint64_t offset,
               uint64_t *address_out, struct kdmp_fault *fault)
{
    uint64_t last = kdmp_last_address(access->space->paging);

    if (access->address > last || offset <= last - access->address) {
        *address_out = access->address + offset;
        return KDMP_OK;
    }
    memset(fault, 0, sizeof(*fault));
    fault->status = KDMP_E_ADDRESS_END;
    fault->address = last;
    *address_out = last;
    return KDMP_E_ADDRESS_END;
}

int
access_fetch(ReaderObject *self, struct access *access, void *buffer,
             size_t size)
{
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t done;
    PyObject *data;
    int again;

    do {
        status = kdmp_read(access->space, access->address, buffer, size, &done,
                           &fault);
        status = access_end(self, status);
        if (status == KDMP_OK)
            return 0;
        again = access_again(self, access, status, &fault.walk);
    } while (again > 0);
    if (again < 0)
        return -1;
    if (is_absent(status) && reader_collects(self)
        && reader_missed(self, access, done, size) < 0) {
        return -1;
    }
    if (done == 0 || !is_absent(status)) {
        raise_fault(self->state, access->space, &fault);
        return -1;
    }
    data = PyBytes_FromStringAndSize(buffer, (Py_ssize_t)done);
    if (data != NULL) {
        raise_partial(self->state, access->space, &fault, access->address, size,
                      data);
        Py_DECREF(data);
    }
    return -1;
}

/* --- life -------------------------------------------------------------- */

static PyObject *
reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct module_state *state = state_of_type(type);
    ReaderObject *self;

    if (state == NULL)
        return NULL;
    self = (ReaderObject *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

/* None or a count of bytes. */
static int
as_string_limit(PyObject *arg, uint64_t *out)
{
    Py_ssize_t limit;

    if (arg == Py_None) {
        *out = UINT64_MAX;
        return 0;
    }
    if (as_size(arg, "string_limit", &limit) < 0)
        return -1;
    *out = (uint64_t)limit;
    return 0;
}

/* The members of struct kdmp_pte_format in their order. */
static int
as_pte_format(PyObject *arg, struct kdmp_pte_format *out)
{
    unsigned long long mask;

    if (!PyTuple_Check(arg)) {
        PyErr_SetString(PyExc_TypeError, "pte_format must be a tuple of ints");
        return -1;
    }
    if (!PyArg_ParseTuple(arg, "Kbbbbbbbb;pte_format has nine numbers", &mask,
                          &out->swizzle, &out->protection,
                          &out->prototype_protection, &out->prototype_read_only,
                          &out->prototype_address, &out->prototype_split,
                          &out->pagefile_low, &out->pagefile_high)) {
        return -1;
    }
    out->frame_mask = mask;
    if (mask == 0 || out->swizzle > 63 || out->protection > 58
        || (out->prototype_protection > 58 && out->prototype_protection != 63)
        || out->prototype_read_only > 63 || out->prototype_address > 63
        || out->pagefile_low > 59 || out->pagefile_high > 63) {
        PyErr_SetString(PyExc_ValueError,
                        "pte_format has a bit position beyond the entry");
        return -1;
    }
    return 0;
}

/* None (NULL) or an overlay over this dump; borrowed. */
static int
as_overlay(const ReaderObject *self, PyObject *dump, PyObject *arg,
           OverlayObject **out)
{
    OverlayObject *overlay = (OverlayObject *)arg;

    *out = NULL;
    if (arg == Py_None)
        return 0;
    if (!PyObject_TypeCheck(arg, self->state->types[T_OVERLAY])) {
        PyErr_Format(PyExc_TypeError, "overlay must be an Overlay, not %.100s",
                     Py_TYPE(arg)->tp_name);
        return -1;
    }
    if (overlay->handle == NULL || (PyObject *)overlay->dump != dump) {
        PyErr_SetString(PyExc_ValueError, "the overlay is of another dump");
        return -1;
    }
    *out = overlay;
    return 0;
}

static uint8_t
space_pointer_size(enum kdmp_paging paging, const struct kdmp_info *info)
{
    if (!has_walk(paging))
        return info->pointer_size;
    return paging == KDMP_PAGING_X86 || paging == KDMP_PAGING_PAE ? 4 : 8;
}

static int
reader_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ReaderObject *)op)->dump);
    Py_VISIT(((ReaderObject *)op)->overlay);
    return 0;
}

static int
reader_clear(PyObject *op)
{
    Py_CLEAR(((ReaderObject *)op)->dump);
    Py_CLEAR(((ReaderObject *)op)->overlay);
    return 0;
}

static int
reader_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"dump",
                            "paging",
                            "dtb",
                            "invalid_pte_mask",
                            "string_limit",
                            "kernel_dtb",
                            "pte_format",
                            "zero_fill",
                            "overlay",
                            "translation_cache",
                            NULL};
    ReaderObject *self = (ReaderObject *)op;
    PyObject *dump_arg, *dtb_arg = NULL, *mask_arg = Py_None;
    PyObject *limit_arg = NULL, *kernel_arg = NULL, *format_arg = Py_None;
    PyObject *overlay_arg = Py_None, *cache_arg = NULL;
    int zero_fill = 0;
    Py_ssize_t cache = DEFAULT_CACHE;
    DumpObject *dump;
    OverlayObject *overlay;
    struct kdmp_space space = {.root = 0};
    uint64_t limit = DEFAULT_STRING_LIMIT;
    const char *paging_arg = NULL; /* required, but by keyword */
    int paging;

    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!|$sOOOOOpOO:ReaderBase", names,
            self->state->types[T_DUMP], &dump_arg, &paging_arg, &dtb_arg,
            &mask_arg, &limit_arg, &kernel_arg, &format_arg, &zero_fill,
            &overlay_arg, &cache_arg)) {
        return -1;
    }
    if (paging_arg == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "ReaderBase() is missing the argument 'paging'");
        return -1;
    }
    paging = paging_by_name(paging_arg);
    if (paging < 0) {
        PyErr_Format(PyExc_ValueError,
                     "paging must be one of 'physical', 'x64', 'la57', "
                     "'x86', 'pae', 'arm64' and 'triage', not '%s'",
                     paging_arg);
        return -1;
    }
    if ((dtb_arg != NULL && as_u64(dtb_arg, "dtb", &space.root) < 0)
        || (limit_arg != NULL && as_string_limit(limit_arg, &limit) < 0)) {
        return -1;
    }
    if ((kernel_arg != NULL
         && as_u64(kernel_arg, "kernel_dtb", &space.kernel_root) < 0)
        || (format_arg != Py_None
            && as_pte_format(format_arg, &space.format) < 0)) {
        return -1;
    }
    space.zero_fill = (uint8_t)zero_fill;
    if (cache_arg != NULL
        && as_size(cache_arg, "translation_cache", &cache) < 0) {
        return -1;
    }
    if (cache == 0) {
        PyErr_SetString(PyExc_ValueError,
                        "translation_cache must be at least 1 page; "
                        "cache_enabled switches the cache off");
        return -1;
    }
    if (as_overlay(self, dump_arg, overlay_arg, &overlay) < 0)
        return -1;
    if (mask_arg != Py_None) {
        if (as_u64(mask_arg, "invalid_pte_mask", &space.invalid_pte_mask) < 0)
            return -1;
        space.mask_known = 1;
    }
    if (self->dump != NULL) {
        PyErr_SetString(PyExc_ValueError, "the reader already has a dump");
        return -1;
    }
    dump = (DumpObject *)dump_arg;
    if (dump_pin(dump) < 0)
        return -1;
    space.source = overlay != NULL ? kdmp_overlay_source(overlay->handle)
                                   : kdmp_get_source(dump->handle);
    space.dump = dump->handle;
    space.pagefiles = (const struct kdmp_pagefile *const *)dump->pagefiles;
    space.pagefile_count = PAGEFILE_COUNT;
    space.paging = (enum kdmp_paging)paging;
    if (!has_walk(space.paging))
        space.root = 0;
    self->pointer_size =
        space_pointer_size(space.paging, kdmp_get_info(dump->handle));
    dump_unpin(dump);
    self->space = space;
    self->string_limit = limit;
    self->dump = (DumpObject *)Py_NewRef(dump_arg);
    self->overlay = (OverlayObject *)Py_XNewRef(overlay);
    if (has_walk(space.paging)
        && reader_cache_init(self, (uint64_t)cache) < 0) {
        (void)reader_clear(op);
        return -1;
    }
    return 0;
}

static void
reader_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    kdmp_tlb_close(((ReaderObject *)op)->tlb);
    PyMem_Free(((ReaderObject *)op)->views);
    (void)reader_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* --- facts ------------------------------------------------------------- */

static PyObject *
get_dump(PyObject *op, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;

    if (self->dump == NULL) {
        reader_not_initialised();
        return NULL;
    }
    return Py_NewRef(self->dump);
}

static PyObject *
get_overlay(PyObject *op, void *closure)
{
    PyObject *overlay = (PyObject *)((ReaderObject *)op)->overlay;

    return Py_NewRef(overlay != NULL ? overlay : Py_None);
}

static PyObject *
get_dtb(PyObject *op, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;

    if (!has_walk(self->space.paging))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->space.root);
}

static PyObject *
get_paging(PyObject *op, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;

    return PyUnicode_InternFromString(paging_name((int)self->space.paging));
}

static PyObject *
get_pointer_size(PyObject *op, void *closure)
{
    return PyLong_FromLong(((ReaderObject *)op)->pointer_size);
}

static PyObject *
get_mask(PyObject *op, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;

    if (!self->space.mask_known)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->space.invalid_pte_mask);
}

static PyObject *
get_kernel_dtb(PyObject *op, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;

    if (self->space.kernel_root == 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->space.kernel_root);
}

static PyObject *
get_pte_format(PyObject *op, void *closure)
{
    const struct kdmp_pte_format *f = &((ReaderObject *)op)->space.format;

    if (f->frame_mask == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("(Kiiiiiiii)", (unsigned long long)f->frame_mask,
                         f->swizzle, f->protection, f->prototype_protection,
                         f->prototype_read_only, f->prototype_address,
                         f->prototype_split, f->pagefile_low, f->pagefile_high);
}

static PyObject *
get_zero_fill(PyObject *op, void *closure)
{
    return PyBool_FromLong(((ReaderObject *)op)->space.zero_fill);
}

static PyObject *
get_string_limit(PyObject *op, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;

    if (self->string_limit == UINT64_MAX)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(self->string_limit);
}

static int
set_string_limit(PyObject *op, PyObject *value, void *closure)
{
    ReaderObject *self = (ReaderObject *)op;
    uint64_t limit;

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete string_limit");
        return -1;
    }
    if (as_string_limit(value, &limit) < 0)
        return -1;
    self->string_limit = limit;
    return 0;
}

static PyGetSetDef reader_getset[] = {
    GETTER("dump", get_dump, "The dump that is read."),
    GETTER("dtb", get_dtb,
           "The page-table root as Windows stores it, None for a physical or "
           "triage reader."),
    GETTER("paging", get_paging,
           "How addresses become frames: \"physical\", \"x64\", \"la57\", "
           "\"x86\", \"pae\", \"arm64\" or \"triage\"."),
    GETTER("pointer_size", get_pointer_size,
           "Size of a pointer in this space: 4 or 8 bytes."),
    GETTER(
        "invalid_pte_mask", get_mask,
        "MiState.Hardware.InvalidPteMask, as given; None if it is not known."),
    GETTER("kernel_dtb", get_kernel_dtb,
           "A second root to read prototype PTEs by, None if there is none."),
    GETTER("pte_format", get_pte_format,
           "Where Windows keeps what in a PTE that is not valid; None for that "
           "of current builds.\n\n"
           "frame_mask, then bit numbers: swizzle, protection, "
           "prototype_protection,\n"
           "prototype_read_only, prototype_address, prototype_split (a flag), "
           "pagefile_low,\n"
           "pagefile_high."),
    GETTER("zero_fill", get_zero_fill,
           "Whether demand-zero pages read as zeros."),
    GETTER("overlay", get_overlay,
           "The overlay that is read and written; None for the dump as it is."),
    GETTER("cache_figures", reader_get_cache_figures,
           "Of the translation cache: hits, misses, pages known, capacity."),
    PROPERTY("cache_enabled", reader_get_cache_enabled,
             reader_set_cache_enabled,
             "Whether reads remember where pages are; switching it off forgets "
             "them."),
    PROPERTY("strict", reader_get_strict, reader_set_strict,
             "Whether what is missing raises even where faults are "
             "collected."),
    PROPERTY(
        "string_limit", get_string_limit, set_string_limit,
        "Bytes that a string without an explicit limit may have; None means "
        "16 MiB."),
    {NULL},
};

/* --- translation ------------------------------------------------------- */

/* Translate the address in args.  The Translation, or NULL with either an
   exception set or 'status' saying why not. */
static TranslationObject *
translate(ReaderObject *self, PyObject *arg, struct access *access,
          enum kdmp_status *status, struct kdmp_translation *failed)
{
    TranslationObject *result;
    int again;

    *status = KDMP_OK;
    if (access_convert(self, arg, access) < 0)
        return NULL;
    result = translation_new(self->state);
    if (result == NULL)
        return NULL;
    if (access_begin(self, access) < 0) {
        Py_DECREF(result);
        return NULL;
    }
    do {
        *status = kdmp_translate(access->space, access->address, &result->walk);
        *status = access_end(self, *status);
        if (*status == KDMP_OK)
            return result;
        again = access_again(self, access, *status, &result->walk);
    } while (again > 0);
    *failed = result->walk;
    failed->status = (uint8_t)*status;
    Py_DECREF(result);
    if (again < 0) {
        *status = KDMP_OK;
        return NULL;
    }
    if (is_absent(*status) && reader_collects(self)
        && reader_missed_walk(self, access, failed) < 0) {
        *status = KDMP_OK;
    }
    return NULL;
}

const char reader_translate_doc[] = PyDoc_STR(
    "translate($self, /, va)\n--\n\n"
    "Return the Translation of a virtual address.\n\n"
    "The page tables alone decide: the frame they name may still be missing "
    "from the\n"
    "dump, which reading it tells. A page in transition translates, too. "
    "Raises\n"
    "NotPresentError, NonCanonicalError, BadEntryError, or, if a page table "
    "is missing,\n"
    "NotInDumpError or TruncatedError. A physical address translates to "
    "itself.");

PyObject *
reader_translate(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    SIGNATURE("translate", 1, 1, 1, "va");
    ReaderObject *self = (ReaderObject *)op;
    struct access access;
    enum kdmp_status status;
    struct kdmp_translation failed;
    TranslationObject *result;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0)
        return NULL;
    result = translate(self, slot[0], &access, &status, &failed);
    if (result == NULL && status != KDMP_OK)
        return raise_walk(self->state, access.space, &failed);
    return (PyObject *)result;
}

const char reader_try_translate_doc[] = PyDoc_STR(
    "try_translate($self, /, va)\n--\n\n"
    "Return the Translation of a virtual address, or None if it has none.\n\n"
    "As `translate`, but what is merely not there is None.");

PyObject *
reader_try_translate(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    SIGNATURE("try_translate", 1, 1, 1, "va");
    ReaderObject *self = (ReaderObject *)op;
    struct access access;
    enum kdmp_status status;
    struct kdmp_translation failed;
    TranslationObject *result;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0)
        return NULL;
    result = translate(self, slot[0], &access, &status, &failed);
    if (result == NULL && is_absent(status))
        Py_RETURN_NONE;
    if (result == NULL && status != KDMP_OK)
        return raise_walk(self->state, access.space, &failed);
    return (PyObject *)result;
}

/* --- the type ---------------------------------------------------------- */

#define ENTRY(name, function)                                                  \
    {#name, (PyCFunction)(void (*)(void))(function),                           \
     METH_FASTCALL | METH_KEYWORDS, reader_##name##_doc}
#define METHOD(name) ENTRY(name, reader_##name)
#define COLLECTING(name) ENTRY(name, collecting_##name)

/* A method that gives None where faults are collected instead of raising. */
#define COLLECTING_METHOD(name)                                                \
    static PyObject *collecting_##name(PyObject *op, PyObject *const *args,    \
                                       Py_ssize_t nargs, PyObject *kwnames)    \
    {                                                                          \
        PyObject *result = reader_##name(op, args, nargs, kwnames);            \
                                                                               \
        if (result == NULL && reader_collects((ReaderObject *)op))             \
            result = reader_collected((ReaderObject *)op);                     \
        return result;                                                         \
    }

COLLECTING_METHOD(translate)
COLLECTING_METHOD(read_exact)
COLLECTING_METHOD(read_u8)
COLLECTING_METHOD(read_u16)
COLLECTING_METHOD(read_u32)
COLLECTING_METHOD(read_u64)
COLLECTING_METHOD(read_i8)
COLLECTING_METHOD(read_i16)
COLLECTING_METHOD(read_i32)
COLLECTING_METHOD(read_i64)
COLLECTING_METHOD(read_f32)
COLLECTING_METHOD(read_f64)
COLLECTING_METHOD(read_uint)
COLLECTING_METHOD(read_ptr)
COLLECTING_METHOD(read_cstr)
COLLECTING_METHOD(read_cstr_bytes)
COLLECTING_METHOD(read_wstr)
COLLECTING_METHOD(read_unicode_string)

static PyMethodDef reader_methods[] = {
    COLLECTING(translate),
    METHOD(try_translate),
    METHOD(read),
    COLLECTING(read_exact),
    METHOD(try_read_exact),
    METHOD(read_into),
    METHOD(read_gaps),
    METHOD(is_readable),
    METHOD(missing),
    METHOD(mappings),
    METHOD(mappings_buffer),
    METHOD(find_frame),
    METHOD(extents),
    METHOD(scan),
    COLLECTING(read_u8),
    COLLECTING(read_u16),
    COLLECTING(read_u32),
    COLLECTING(read_u64),
    COLLECTING(read_i8),
    COLLECTING(read_i16),
    COLLECTING(read_i32),
    COLLECTING(read_i64),
    COLLECTING(read_f32),
    COLLECTING(read_f64),
    COLLECTING(read_uint),
    COLLECTING(read_ptr),
    COLLECTING(read_cstr),
    COLLECTING(read_cstr_bytes),
    COLLECTING(read_wstr),
    COLLECTING(read_unicode_string),
    METHOD(write),
    METHOD(write_uint),
    METHOD(write_u8),
    METHOD(write_u16),
    METHOD(write_u32),
    METHOD(write_u64),
    METHOD(translate_into),
    METHOD(read_many_into),
    METHOD(cache_flush),
    METHOD(cache_resize),
    {NULL},
};

PyDoc_STRVAR(
    reader_doc,
    "ReaderBase(dump, *, paging, dtb=0, invalid_pte_mask=None, "
    "string_limit=65536, kernel_dtb=0, pte_format=None, "
    "zero_fill=False, overlay=None, translation_cache=8192)\n--\n\n"
    "One address space of a dump: translation, bytes, numbers and "
    "strings.\n\n"
    "Every address may be an int or an AccessContext. Numbers are little-"
    "endian, sizes and\n"
    "limits count bytes. Memory that is not there raises an UnreadableError "
    "that says why;\n"
    "OverflowError is for addresses outside 0 ... 2**64 - 1, ValueError for "
    "a closed dump.\n"
    "`paging` is \"physical\", \"x64\", \"la57\", \"x86\", \"pae\", "
    "\"arm64\" or \"triage\"; `dtb` the\n"
    "page-table root; `invalid_pte_mask` the kernel's "
    "MiState.Hardware.InvalidPteMask.\n"
    "`kernel_dtb` is a second root to read prototype PTEs by, `pte_format` the "
    "nine numbers\n"
    "of the attribute of that name; with `zero_fill` demand-zero pages read as "
    "zeros.\n"
    "With an `overlay` its writes are seen. `translation_cache` is how many "
    "pages reads\n"
    "remember the place of.");

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, (void *)reader_doc},
    {Py_tp_new, reader_new},
    {Py_tp_init, reader_init},
    {Py_tp_traverse, reader_traverse},
    {Py_tp_clear, reader_clear},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_getset},
    {0, NULL},
};

PyType_Spec reader_spec = {
    .name = "kdmp._kdmp.ReaderBase",
    .basicsize = sizeof(ReaderObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};
