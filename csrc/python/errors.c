/*
 * The exceptions, and the one place where a status becomes one.
 *
 * What an exception knows is set on the instance, so that BaseException's own
 * pickling carries it; the class has the defaults.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include <errno.h>

enum { NO_BASE = -1, MAX_ATTRIBUTES = 12 };

enum second_base {
    JUST_ONE,
    VALUE_ERROR,
    LOOKUP_ERROR,
    NOT_IMPLEMENTED,
    BUFFER_ERROR
};

struct error_spec {
    const char *name;
    int base; /* enum error_index, or NO_BASE */
    enum second_base second;
    const char *attributes[MAX_ATTRIBUTES + 1]; /* the class says None */
    const char *doc;
};

static const struct error_spec specs[] = {
    [E_KDMP] = {"kdmp.KdmpError",
                NO_BASE,
                JUST_ONE,
                {NULL},
                "Base of every error that is about a dump."},
    [E_FORMAT] =
        {"kdmp.FormatError",
         E_KDMP,
         VALUE_ERROR,
         {"offset", NULL},
         "The file contradicts itself. `offset` is where in the file."},
    [E_WRONG_FILE] =
        {"kdmp.WrongFileError",
         E_FORMAT,
         JUST_ONE,
         {NULL},
         "The file is not a Windows kernel dump; the message says what it "
         "is."},
    [E_UNSUPPORTED] =
        {"kdmp.UnsupportedDumpError",
         E_KDMP,
         NOT_IMPLEMENTED,
         {NULL},
         "A kernel dump that cannot do what was asked (no physical pages, "
         "unknown type ...)."},
    [E_UNREADABLE] =
        {"kdmp.UnreadableError",
         E_KDMP,
         LOOKUP_ERROR,
         {"address", NULL},
         "Base of \"not there, because\": memory that cannot be read.\n\n"
         "`address` is the first byte that is missing, in the terms of the "
         "reader\n(virtual or physical)."},
    [E_TRANSLATION] =
        {"kdmp.TranslationError",
         E_UNREADABLE,
         JUST_ONE,
         {"va", "dtb", "paging", "level", "entry", "entry_pa", "state",
          "protection", "prototype", "prototype_value", "pagefile",
          "pagefile_page", NULL},
         "A page walk that found no page.\n\n"
         "`va`, `dtb` and `paging` say what was translated (`va` and `dtb` "
         "are None for\n"
         "a physical address). `level` is that of the last entry (4 = PML4 "
         "... 1 = PT),\n"
         "`entry` its value and `entry_pa` its physical address (None if none "
         "was read).\n"
         "`entries` is all that was read, root first. `state` is what Windows "
         "means by the\n"
         "entry: \"zero\", \"prototype\", \"demand_zero\", \"pagefile\", "
         "\"subsection\", \"vad\",\n"
         "\"transition\", \"bad\", \"table\" (leads to a table that could not "
         "be read), \"valid\"\n"
         "or \"none\". `protection` is the 5-bit Windows protection of a "
         "software PTE, None\n"
         "for other entries; `prototype` and `prototype_value` are address "
         "and content of a\n"
         "prototype PTE that was followed; `pagefile` and `pagefile_page` say "
         "where a\n"
         "paged-out page is (page number)."},
    [E_NOT_PRESENT] =
        {"kdmp.NotPresentError",
         E_TRANSLATION,
         JUST_ONE,
         {NULL},
         "A page-table entry says that there is no page in memory."},
    [E_NON_CANONICAL] =
        {"kdmp.NonCanonicalError",
         E_TRANSLATION,
         JUST_ONE,
         {NULL},
         "The address is not canonical (or too large) for this paging mode."},
    [E_BAD_ENTRY] =
        {"kdmp.BadEntryError",
         E_TRANSLATION,
         JUST_ONE,
         {NULL},
         "A present entry has reserved bits set: a fault on hardware, usually "
         "a wrong root."},
    [E_NOT_IN_DUMP] =
        {"kdmp.NotInDumpError",
         E_TRANSLATION,
         JUST_ONE,
         {"pa", NULL},
         "The frame at physical address `pa` was not captured.\n\n"
         "`level` > 0 means that it holds a page table of that level, 0 that "
         "it is the\n"
         "page itself."},
    [E_TRUNCATED] =
        {"kdmp.TruncatedError",
         E_NOT_IN_DUMP,
         JUST_ONE,
         {NULL},
         "The frame was captured but lies beyond the end of the (cut short) "
         "file."},
    [E_ADDRESS_END] = {"kdmp.AddressEndError",
                       E_UNREADABLE,
                       JUST_ONE,
                       {NULL},
                       "The range runs past the last address of the space."},
    [E_PARTIAL_READ] =
        {"kdmp.PartialReadError",
         E_UNREADABLE,
         JUST_ONE,
         {"reason", NULL},
         "Fewer bytes than asked for.\n\n"
         "`expected` and `actual` count bytes, `data` holds what was read, "
         "`reason` is the\n"
         "error of the first missing byte and `address` its address. For a "
         "string without\n"
         "its end, `expected` is the limit."},
    [E_ROOT_NOT_PRESENT] =
        {"kdmp.RootNotPresentError",
         E_KDMP,
         LOOKUP_ERROR,
         {NULL},
         "A virtual address without a page-table root to translate it by."},
    [E_NOT_CONTIGUOUS] =
        {"kdmp.NotContiguousError",
         E_KDMP,
         BUFFER_ERROR,
         {"address", NULL},
         "Bytes that are there, but not in one piece of memory that a view "
         "could show.\n\n"
         "`address` is the first byte that does not follow those before it, "
         "or the first of\n"
         "all if that is not in the mapped file (but in an overlay, a page "
         "file, a stream)."},
};
_Static_assert(sizeof(specs) / sizeof(specs[0]) == ERROR_COUNT,
               "an exception is missing");

/* --- creation ---------------------------------------------------------- */

/* Store 'value' (stolen; NULL is an error already set) in a dict. */
static int
dict_put(PyObject *dict, const char *key, PyObject *value)
{
    int rc = value != NULL ? PyDict_SetItemString(dict, key, value) : -1;

    Py_XDECREF(value);
    return rc;
}

static PyObject *
class_dict(int index)
{
    const char *const *name = specs[index].attributes;
    PyObject *dict = PyDict_New();
    int rc = 0;

    if (dict == NULL)
        return NULL;
    for (; *name != NULL && rc == 0; name++)
        rc = dict_put(dict, *name, Py_NewRef(Py_None));
    if (rc == 0 && index == E_TRANSLATION)
        rc = dict_put(dict, "entries", PyTuple_New(0));
    if (rc == 0 && index == E_PARTIAL_READ) {
        rc = dict_put(dict, "expected", PyLong_FromLong(0));
        if (rc == 0)
            rc = dict_put(dict, "actual", PyLong_FromLong(0));
        if (rc == 0)
            rc = dict_put(dict, "data", PyBytes_FromStringAndSize(NULL, 0));
    }
    if (rc < 0)
        Py_CLEAR(dict);
    return dict;
}

static PyObject *
class_bases(struct module_state *state, const struct error_spec *spec)
{
    PyObject *first =
        spec->base == NO_BASE ? PyExc_Exception : state->errors[spec->base];

    switch (spec->second) {
    case VALUE_ERROR:
        return PyTuple_Pack(2, first, PyExc_ValueError);
    case LOOKUP_ERROR:
        return PyTuple_Pack(2, first, PyExc_LookupError);
    case NOT_IMPLEMENTED:
        return PyTuple_Pack(2, first, PyExc_NotImplementedError);
    case BUFFER_ERROR:
        return PyTuple_Pack(2, first, PyExc_BufferError);
    case JUST_ONE:
        break;
    }
    return PyTuple_Pack(1, first);
}

int
errors_init(struct module_state *state, PyObject *module)
{
    for (int i = 0; i < ERROR_COUNT; i++) {
        const struct error_spec *spec = &specs[i];
        PyObject *bases = class_bases(state, spec);
        PyObject *dict = bases != NULL ? class_dict(i) : NULL;

        if (dict != NULL) {
            state->errors[i] =
                PyErr_NewExceptionWithDoc(spec->name, spec->doc, bases, dict);
        }
        Py_XDECREF(dict);
        Py_XDECREF(bases);
        if (state->errors[i] == NULL
            || PyModule_AddObjectRef(module, strchr(spec->name, '.') + 1,
                                     state->errors[i])
                   < 0) {
            return -1;
        }
    }
    return 0;
}

/* --- about the file ---------------------------------------------------- */

/* A new exception; steals 'message', which may be NULL. */
static PyObject *
new_exception(PyObject *type, PyObject *message)
{
    PyObject *exc = NULL;

    if (message != NULL)
        exc = PyObject_CallOneArg(type, message);
    Py_XDECREF(message);
    return exc;
}

/* Set an attribute; steals 'value', which may be NULL. */
static int
put(PyObject *exc, const char *name, PyObject *value)
{
    int rc = value != NULL ? PyObject_SetAttrString(exc, name, value) : -1;

    Py_XDECREF(value);
    return rc;
}

static int
put_u64(PyObject *exc, const char *name, uint64_t value)
{
    return put(exc, name, PyLong_FromUnsignedLongLong(value));
}

/* Raise 'exc' (stolen; NULL is an error already set). */
static PyObject *
raise(PyObject *exc)
{
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
    return NULL;
}

static PyObject *
raise_format(PyObject *type, const struct kdmp_error *err, int tell_offset)
{
    PyObject *exc;

    exc = new_exception(
        type, tell_offset ? format_text("%s (file offset 0x%llx)", err->message,
                                        (unsigned long long)err->where)
                          : format_text("%s", err->message));
    if (exc != NULL && put_u64(exc, "offset", err->where) < 0)
        Py_CLEAR(exc);
    return raise(exc);
}

PyObject *
raise_error(struct module_state *state, const struct kdmp_error *err,
            PyObject *filename)
{
    if (PyErr_Occurred())
        return NULL;
    switch (err->status) {
    case KDMP_E_NOMEM:
        return PyErr_NoMemory();
    case KDMP_E_OS:
        errno = err->os_errno != 0 ? err->os_errno : EIO;
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, filename);
    case KDMP_E_WRONG_FILE:
        return raise_format(state->errors[E_WRONG_FILE], err, 0);
    case KDMP_E_FORMAT:
        return raise_format(state->errors[E_FORMAT], err, 1);
    case KDMP_E_UNSUPPORTED:
        return raise_text(state->errors[E_UNSUPPORTED], "%s", err->message);
    case KDMP_E_ARGUMENT:
        return raise_text(PyExc_ValueError, "%s", err->message);
    default:
        return PyErr_Format(state->errors[E_KDMP], "%s (%s)", err->message,
                            kdmp_status_name((int)err->status));
    }
}

/* --- about memory ------------------------------------------------------ */

typedef unsigned long long ull; /* for "%llx" */

static PyObject *
error_class(struct module_state *state, enum kdmp_status status)
{
    switch (status) {
    case KDMP_E_NOMEM:
        return PyExc_MemoryError;
    case KDMP_E_OS:
        return PyExc_OSError;
    case KDMP_E_FORMAT:
        return state->errors[E_FORMAT];
    case KDMP_E_UNSUPPORTED:
        return state->errors[E_UNSUPPORTED];
    case KDMP_E_ARGUMENT:
        return PyExc_ValueError;
    case KDMP_E_NOT_PRESENT:
        return state->errors[E_NOT_PRESENT];
    case KDMP_E_NOT_IN_DUMP:
        return state->errors[E_NOT_IN_DUMP];
    case KDMP_E_TRUNCATED:
        return state->errors[E_TRUNCATED];
    case KDMP_E_NON_CANONICAL:
        return state->errors[E_NON_CANONICAL];
    case KDMP_E_BAD_ENTRY:
        return state->errors[E_BAD_ENTRY];
    case KDMP_E_ADDRESS_END:
        return state->errors[E_ADDRESS_END];
    case KDMP_E_LIMIT:
        return state->errors[E_UNREADABLE];
    default:
        return state->errors[E_KDMP];
    }
}

static const char *
entry_name(enum kdmp_paging paging, int level)
{
    static const char *const names[] = {"entry", "PTE",   "PDE",
                                        "PDPTE", "PML4E", "PML5E"};

    return paging == KDMP_PAGING_ARM64 || level < 0 || level > 5 ? names[0]
                                                                 : names[level];
}

static const char *
state_clause(int state)
{
    switch (state) {
    case KDMP_PTE_TRANSITION:
        return "is in transition";
    case KDMP_PTE_PROTOTYPE:
        return "points to a prototype PTE";
    case KDMP_PTE_ZERO:
        return "is zero";
    case KDMP_PTE_DEMAND_ZERO:
        return "is demand-zero";
    case KDMP_PTE_PAGEFILE:
        return "names a page of a page file";
    case KDMP_PTE_BAD:
        return "has reserved bits set";
    case KDMP_PTE_SUBSECTION:
        return "leads to a page of a mapped file that is not in memory";
    case KDMP_PTE_VAD:
        return "says to ask the VAD";
    default:
        return "is not valid";
    }
}

/* "no page at VA: PTE 0x0 at 0x1ac008 (level 1) is zero, root 0x1ad000" */
static PyObject *
no_page_message(const struct kdmp_space *space, const struct kdmp_fault *fault)
{
    const struct kdmp_translation *walk = &fault->walk;
    const struct kdmp_entry *last;

    if (walk->depth == 0) {
        return format_text("no page at 0x%llx", (ull)fault->address);
    }
    last = &walk->entries[walk->depth - 1];
    return format_text(
        "no page at 0x%llx: %s 0x%llx at 0x%llx (level %d) %s, root 0x%llx",
        (ull)fault->address, entry_name(space->paging, walk->level),
        (ull)last->value, (ull)last->paddr, (int)walk->level,
        state_clause(walk->state), (ull)walk->root);
}

/* Whether a frame is missing that holds a page table, not the page: a walk
   that ends at a transition PTE knows its page. */
static int
table_is_missing(const struct kdmp_translation *walk)
{
    return walk->status != KDMP_OK && walk->state != KDMP_PTE_TRANSITION;
}

/* "0x1000 is not in this triage dump; the nearest bytes end at ..." */
static PyObject *
no_block_message(const struct kdmp_fault *fault)
{
    char below[64] = "", above[64] = "";

    if (fault->status == KDMP_E_TRUNCATED) {
        return format_text(
            "0x%llx lies beyond the end of the file, which was cut short",
            (ull)fault->address);
    }
    if (fault->below_end != 0) {
        PyOS_snprintf(below, sizeof(below), "; the nearest below end at 0x%llx",
                      (ull)fault->below_end);
    }
    if (fault->above_start != 0) {
        PyOS_snprintf(above, sizeof(above),
                      "; the nearest above start at 0x%llx",
                      (ull)fault->above_start);
    }
    return format_text("0x%llx is not in this triage dump%s%s",
                       (ull)fault->address, below, above);
}

static PyObject *
no_frame_message(const struct kdmp_space *space, const struct kdmp_fault *fault)
{
    const struct kdmp_translation *walk = &fault->walk;
    const char *why = fault->status == KDMP_E_TRUNCATED
                          ? "lies beyond the end of the file, which was cut "
                            "short"
                          : "is not in the dump";

    if (space->paging == KDMP_PAGING_TRIAGE)
        return no_block_message(fault);
    if (space->paging == KDMP_PAGING_PHYSICAL)
        return format_text("physical address 0x%llx %s", (ull)fault->paddr,
                           why);
    if (table_is_missing(walk)) {
        return format_text(
            "cannot translate 0x%llx: the page table with its %s, at 0x%llx "
            "(level %d), %s, root 0x%llx",
            (ull)fault->address, entry_name(space->paging, walk->level),
            (ull)fault->paddr, (int)walk->level, why, (ull)walk->root);
    }
    return format_text(
        "the page at 0x%llx, physical address 0x%llx, %s, root 0x%llx",
        (ull)fault->address, (ull)fault->paddr, why, (ull)walk->root);
}

static PyObject *
fault_message(const struct kdmp_space *space, const struct kdmp_fault *fault)
{
    switch (fault->status) {
    case KDMP_E_NOT_PRESENT:
    case KDMP_E_BAD_ENTRY:
        return no_page_message(space, fault);
    case KDMP_E_NOT_IN_DUMP:
    case KDMP_E_TRUNCATED:
        return no_frame_message(space, fault);
    case KDMP_E_NON_CANONICAL:
        if (kdmp_last_address(space->paging) < UINT64_MAX) {
            return format_text(
                "0x%llx is above the last address of this space, 0x%llx",
                (ull)fault->address, (ull)kdmp_last_address(space->paging));
        }
        return format_text("0x%llx is not a canonical address (%s)",
                           (ull)fault->address,
                           paging_name((int)space->paging));
    case KDMP_E_ADDRESS_END:
        return format_text("the range runs past the last address, 0x%llx",
                           (ull)kdmp_last_address(space->paging));
    case KDMP_E_UNSUPPORTED:
        return PyUnicode_FromFormat(
            "addresses of the paging mode '%s' cannot be translated in this "
            "dump",
            paging_name((int)space->paging));
    default:
        return format_text("cannot read 0x%llx (%s)", (ull)fault->address,
                           kdmp_status_name((int)fault->status));
    }
}

/* Whether the walk ended at an entry that Windows gave a protection. */
static int
has_protection(const struct kdmp_translation *walk)
{
    switch (walk->state) {
    case KDMP_PTE_TRANSITION:
    case KDMP_PTE_PROTOTYPE:
    case KDMP_PTE_DEMAND_ZERO:
    case KDMP_PTE_PAGEFILE:
    case KDMP_PTE_SUBSECTION:
    case KDMP_PTE_VAD:
        return 1;
    default: /* whatever its prototype PTE is, the entry itself has one */
        return walk->prototype != 0;
    }
}

/* What a TranslationError has beyond its address. */
static int
put_walk(struct module_state *state, PyObject *exc,
         const struct kdmp_space *space, const struct kdmp_fault *fault)
{
    const struct kdmp_translation *walk = &fault->walk;
    int missing_frame = fault->status == KDMP_E_NOT_IN_DUMP
                        || fault->status == KDMP_E_TRUNCATED;
    PyObject *paging = PyUnicode_FromString(paging_name((int)space->paging));

    if (put(exc, "paging", paging) < 0)
        return -1;
    if (missing_frame && space->paging != KDMP_PAGING_TRIAGE
        && put_u64(exc, "pa", fault->paddr) < 0) {
        return -1;
    }
    if (space->paging == KDMP_PAGING_PHYSICAL)
        return put_u64(exc, "level", 0);
    if (put_u64(exc, "va", fault->address) < 0)
        return -1;
    if (space->paging == KDMP_PAGING_TRIAGE)
        return put_u64(exc, "level", 0);
    if (put_u64(exc, "dtb", space->root) < 0
        || put_u64(exc, "level",
                   missing_frame && !table_is_missing(walk) ? 0 : walk->level)
               < 0
        || put(exc, "state", PyUnicode_FromString(state_name(walk->state)))
               < 0) {
        return -1;
    }
    if (walk->depth == 0)
        return 0;
    if (walk->prototype != 0
        && (put_u64(exc, "prototype", walk->prototype) < 0
            || put_u64(exc, "prototype_value", walk->prototype_value) < 0))
        return -1;
    if (walk->state == KDMP_PTE_PAGEFILE
        && (put_u64(exc, "pagefile", walk->pagefile) < 0
            || put_u64(exc, "pagefile_page", walk->pagefile_page) < 0))
        return -1;
    if (has_protection(walk)
        && put_u64(exc, "protection", walk->protection) < 0)
        return -1;
    if (put_u64(exc, "entry", walk->entries[walk->depth - 1].value) < 0
        || put_u64(exc, "entry_pa", walk->entries[walk->depth - 1].paddr) < 0) {
        return -1;
    }
    return put(exc, "entries", walk_entries(state, walk));
}

PyObject *
address_after(uint64_t address, uint64_t offset)
{
    PyObject *a, *b, *sum = NULL;

    if (offset <= UINT64_MAX - address)
        return PyLong_FromUnsignedLongLong(address + offset);
    a = PyLong_FromUnsignedLongLong(address);
    b = PyLong_FromUnsignedLongLong(offset);
    if (a != NULL && b != NULL)
        sum = PyNumber_Add(a, b);
    Py_XDECREF(a);
    Py_XDECREF(b);
    return sum;
}

static PyObject *
fault_address(const struct kdmp_space *space, const struct kdmp_fault *fault)
{
    if (fault->status == KDMP_E_ADDRESS_END)
        return address_after(kdmp_last_address(space->paging), 1);
    return PyLong_FromUnsignedLongLong(fault->address);
}

PyObject *
fault_exception(struct module_state *state, const struct kdmp_space *space,
                const struct kdmp_fault *fault)
{
    PyObject *type = error_class(state, fault->status);
    PyObject *exc;
    int rc = 0;

    if (fault->status == KDMP_E_OS)
        return PyObject_CallFunction(type, "iN", EIO,
                                     fault_message(space, fault));
    exc = new_exception(type, fault_message(space, fault));
    if (exc == NULL)
        return NULL;
    if (is_absent(fault->status)) {
        rc = put(exc, "address", fault_address(space, fault));
        if (rc == 0 && fault->status != KDMP_E_ADDRESS_END
            && fault->status != KDMP_E_LIMIT)
            rc = put_walk(state, exc, space, fault);
    }
    if (rc < 0)
        Py_CLEAR(exc);
    return exc;
}

PyObject *
raise_fault(struct module_state *state, const struct kdmp_space *space,
            const struct kdmp_fault *fault)
{
    if (PyErr_Occurred())
        return NULL;
    return raise(fault_exception(state, space, fault));
}

PyObject *
raise_walk(struct module_state *state, const struct kdmp_space *space,
           const struct kdmp_translation *walk)
{
    struct kdmp_fault fault = {.status = (enum kdmp_status)walk->status,
                               .address = walk->vaddr,
                               .paddr = walk->paddr,
                               .missing = 1,
                               .walk = *walk};

    return raise_fault(state, space, &fault);
}

PyObject *
raise_partial(struct module_state *state, const struct kdmp_space *space,
              const struct kdmp_fault *fault, uint64_t address,
              uint64_t expected, PyObject *data)
{
    PyObject *reason, *exc, *text, *message = NULL;
    ull actual = (ull)PyBytes_GET_SIZE(data);

    if (PyErr_Occurred())
        return NULL;
    reason = fault_exception(state, space, fault);
    if (reason == NULL)
        return NULL;
    text = format_text("read %llu of %llu bytes at 0x%llx", actual,
                       (ull)expected, (ull)address);
    if (text != NULL) {
        message = PyUnicode_FromFormat("%U: %S", text, reason);
        Py_DECREF(text);
    }
    exc = new_exception(state->errors[E_PARTIAL_READ], message);
    if (exc != NULL
        && (put(exc, "address", fault_address(space, fault)) < 0
            || put_u64(exc, "expected", expected) < 0
            || put_u64(exc, "actual", actual) < 0
            || put(exc, "data", Py_NewRef(data)) < 0
            || put(exc, "reason", Py_NewRef(reason)) < 0)) {
        Py_CLEAR(exc);
    }
    Py_DECREF(reason);
    return raise(exc);
}
