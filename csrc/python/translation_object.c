/*
 * kdmp.Translation: the core's record of a walk, shown to Python.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#define WALK(op) (&((TranslationObject *)(op))->walk)

static void
translation_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    type->tp_free(op);
    Py_DECREF(type);
}

static uint64_t
page_offset(const struct kdmp_translation *walk)
{
    return walk->page_size != 0 ? walk->paddr & (walk->page_size - 1) : 0;
}

static PyObject *
get_va(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(WALK(op)->vaddr);
}

static PyObject *
get_pa(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(WALK(op)->paddr);
}

static PyObject *
get_pfn(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(WALK(op)->paddr >> 12);
}

static PyObject *
get_offset(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(page_offset(WALK(op)));
}

static PyObject *
get_page_size(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(WALK(op)->page_size);
}

static PyObject *
get_dtb(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(WALK(op)->root);
}

static PyObject *
get_paging(PyObject *op, void *closure)
{
    return PyUnicode_InternFromString(paging_name(WALK(op)->paging));
}

static PyObject *
get_level(PyObject *op, void *closure)
{
    return PyLong_FromLong(WALK(op)->level);
}

static PyObject *
get_state(PyObject *op, void *closure)
{
    return PyUnicode_InternFromString(state_name(WALK(op)->state));
}

static PyObject *
get_transition(PyObject *op, void *closure)
{
    return PyBool_FromLong(WALK(op)->state == KDMP_PTE_TRANSITION);
}

static PyObject *
get_protection(PyObject *op, void *closure)
{
    if (WALK(op)->state != KDMP_PTE_TRANSITION
        && WALK(op)->state != KDMP_PTE_PROTOTYPE)
        Py_RETURN_NONE;
    return PyLong_FromLong(WALK(op)->protection);
}

static PyObject *
get_prototype(PyObject *op, void *closure)
{
    if (WALK(op)->prototype == 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(
        closure != NULL ? WALK(op)->prototype_value : WALK(op)->prototype);
}

static PyObject *
get_flag(PyObject *op, void *closure)
{
    return PyBool_FromLong((WALK(op)->flags & (uintptr_t)closure) != 0);
}

static PyObject *
get_entries(PyObject *op, void *closure)
{
    struct module_state *state = state_of_type(Py_TYPE(op));

    return state != NULL ? walk_entries(state, WALK(op)) : NULL;
}

static PyObject *
translation_int(PyObject *op)
{
    return get_pa(op, NULL);
}

static PyObject *
translation_repr(PyObject *op)
{
    const struct kdmp_translation *walk = WALK(op);

    return format_text(
        "<Translation 0x%llx -> 0x%llx, page of 0x%llx, %s%s%s%s%s>",
        (unsigned long long)walk->vaddr, (unsigned long long)walk->paddr,
        (unsigned long long)walk->page_size,
        walk->flags & KDMP_T_USER ? "u" : "k", "r",
        walk->flags & KDMP_T_WRITABLE ? "w" : "-",
        walk->flags & KDMP_T_EXECUTABLE ? "x" : "-",
        walk->state == KDMP_PTE_TRANSITION  ? ", transition"
        : walk->state == KDMP_PTE_PROTOTYPE ? ", prototype"
                                            : "");
}

static Py_hash_t
translation_hash(PyObject *op)
{
    const struct kdmp_translation *walk = WALK(op);
    uint64_t mix = walk->vaddr * 0x9e3779b97f4a7c15u;

    mix ^= mix >> 32;
    mix = (mix + walk->paddr) * 0xff51afd7ed558ccdu;
    mix ^= mix >> 29;
    mix += walk->root;
    return (Py_hash_t)mix == -1 ? -2 : (Py_hash_t)mix;
}

static int
same_walk(const struct kdmp_translation *a, const struct kdmp_translation *b)
{
    if (a->vaddr != b->vaddr || a->paddr != b->paddr || a->root != b->root
        || a->page_size != b->page_size || a->flags != b->flags
        || a->paging != b->paging || a->state != b->state
        || a->level != b->level || a->depth != b->depth
        || a->protection != b->protection || a->prototype != b->prototype
        || a->prototype_value != b->prototype_value) {
        return 0;
    }
    for (int i = 0; i < a->depth; i++) {
        if (a->entries[i].paddr != b->entries[i].paddr
            || a->entries[i].value != b->entries[i].value) {
            return 0;
        }
    }
    return 1;
}

static PyObject *
translation_richcompare(PyObject *a, PyObject *b, int op)
{
    if (Py_TYPE(a) != Py_TYPE(b) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    return PyBool_FromLong(same_walk(WALK(a), WALK(b)) == (op == Py_EQ));
}

/* --- pickling ---------------------------------------------------------- */

static PyObject *
translation_reduce(PyObject *op, PyObject *unused)
{
    const struct kdmp_translation *walk = WALK(op);
    PyObject *restore, *entries;

    restore = PyObject_GetAttrString((PyObject *)Py_TYPE(op), "_restore");
    if (restore == NULL)
        return NULL;
    entries = PyTuple_New(walk->depth);
    for (int i = 0; i < walk->depth && entries != NULL; i++) {
        PyObject *item =
            Py_BuildValue("(KK)", (unsigned long long)walk->entries[i].paddr,
                          (unsigned long long)walk->entries[i].value);
        if (item != NULL)
            PyTuple_SET_ITEM(entries, i, item);
        else
            Py_CLEAR(entries);
    }
    if (entries == NULL) {
        Py_DECREF(restore);
        return NULL;
    }
    return Py_BuildValue(
        "(N(KKKKIssiiNKK))", restore, (unsigned long long)walk->vaddr,
        (unsigned long long)walk->root, (unsigned long long)walk->paddr,
        (unsigned long long)walk->page_size, (unsigned int)walk->flags,
        paging_name(walk->paging), state_name(walk->state), (int)walk->level,
        (int)walk->protection, entries, (unsigned long long)walk->prototype,
        (unsigned long long)walk->prototype_value);
}

static PyObject *
translation_restore(PyObject *cls, PyObject *args)
{
    struct module_state *state = state_of_type((PyTypeObject *)cls);
    unsigned long long vaddr, root, paddr, page_size, prototype, value;
    unsigned int flags;
    const char *paging, *pte_state;
    unsigned char level, protection;
    PyObject *entries;
    TranslationObject *self;

    if (state == NULL
        || !PyArg_ParseTuple(args, "KKKKIssbbO!KK:_restore", &vaddr, &root,
                             &paddr, &page_size, &flags, &paging, &pte_state,
                             &level, &protection, &PyTuple_Type, &entries,
                             &prototype, &value)) {
        return NULL;
    }
    if (paging_by_name(paging) < 0 || state_by_name(pte_state) < 0
        || PyTuple_GET_SIZE(entries) > 5 || level > 5) {
        PyErr_SetString(PyExc_ValueError, "not a pickled Translation");
        return NULL;
    }
    self = translation_new(state);
    if (self == NULL)
        return NULL;
    self->walk = (struct kdmp_translation){
        .vaddr = vaddr,
        .root = root,
        .paddr = paddr,
        .page_size = page_size,
        .flags = flags,
        .paging = (uint8_t)paging_by_name(paging),
        .state = (uint8_t)state_by_name(pte_state),
        .level = level,
        .depth = (uint8_t)PyTuple_GET_SIZE(entries),
        .protection = protection,
        .prototype = prototype,
        .prototype_value = value,
    };
    for (int i = 0; i < self->walk.depth; i++) {
        unsigned long long entry_pa, entry;

        if (!PyArg_Parse(PyTuple_GET_ITEM(entries, i), "(KK)", &entry_pa,
                         &entry)) {
            Py_DECREF(self);
            return NULL;
        }
        self->walk.entries[i].paddr = entry_pa;
        self->walk.entries[i].value = entry;
    }
    return (PyObject *)self;
}

static PyMethodDef translation_methods[] = {
    {"__reduce__", translation_reduce, METH_NOARGS, "For pickle."},
    {"_restore", translation_restore, METH_VARARGS | METH_CLASS, "For pickle."},
    {NULL},
};

#define FLAG(name, bit, doc) {name, get_flag, NULL, doc, (void *)(bit)}

static PyGetSetDef translation_getset[] = {
    GETTER("va", get_va, "The virtual address."),
    GETTER("pa", get_pa, "The physical address of the same byte."),
    GETTER("pfn", get_pfn, "Number of the 4096-byte frame: `pa >> 12`."),
    GETTER("offset", get_offset,
           "Offset of the byte within the page (of `page_size`)."),
    GETTER(
        "page_size", get_page_size,
        "Size of the page in bytes: 0x1000, 0x200000, 0x40000000 or 0x400000."),
    GETTER("dtb", get_dtb, "The page-table root the walk began at."),
    GETTER("paging", get_paging,
           "The paging mode: \"x64\", \"la57\", \"x86\", \"pae\", \"arm64\" or "
           "\"physical\"."),
    GETTER(
        "level", get_level,
        "Level of the entry that maps the page: 1 = PT, 2 = PD, 3 = PDPT; 0 if "
        "there was no walk."),
    GETTER(
        "state", get_state,
        "What the last entry is: \"valid\", \"transition\", \"prototype\" (a "
        "shared page), or\n"
        "\"none\" if there was no walk."),
    GETTER(
        "transition", get_transition,
        "Whether the page is on its way out: invalid for the CPU, still in its "
        "frame."),
    FLAG("writable", KDMP_T_WRITABLE,
         "Whether Windows lets the page be written, directly or after a "
         "fault."),
    FLAG("executable", KDMP_T_EXECUTABLE, "Whether code may run there."),
    FLAG("user", KDMP_T_USER, "Whether user mode has access."),
    FLAG("global_", KDMP_T_GLOBAL,
         "Whether the TLB keeps the entry across address spaces."),
    FLAG("accessed", KDMP_T_ACCESSED, "Whether the CPU has used the entry."),
    FLAG("dirty", KDMP_T_DIRTY, "Whether the CPU has written the page."),
    FLAG("copy_on_write", KDMP_T_COPY_ON_WRITE,
         "Whether a write makes a private copy (Windows' software bit)."),
    FLAG("hardware_writable", KDMP_T_HARDWARE_WRITABLE,
         "Whether the CPU would let the page be written without a fault."),
    FLAG("write_through", KDMP_T_WRITE_THROUGH, "The PWT bit."),
    FLAG("cache_disable", KDMP_T_CACHE_DISABLE, "The PCD bit."),
    FLAG("pat", KDMP_T_PAT, "The PAT bit."),
    FLAG("nx_ignored", KDMP_T_TOP_NX_IGNORED,
         "Whether the no-execute bit that KVA shadow puts into a user top "
         "entry was disregarded."),
    FLAG("unswizzled", KDMP_T_UNSWIZZLED,
         "Whether the L1TF bits of a software PTE were removed."),
    FLAG("kernel_executable", KDMP_T_KERNEL_EXECUTABLE,
         "ARM64: whether EL1 may run code there."),
    GETTER(
        "protection", get_protection,
        "The 5-bit Windows protection of a transition or prototype PTE, else "
        "None."),
    GETTER(
        "prototype", get_prototype,
        "Address of the prototype PTE that led to a shared page, else None."),
    {"prototype_value", get_prototype, NULL,
     "Content of that prototype PTE, else None.", (void *)1},
    GETTER("entries", get_entries,
           "The entries of the walk, a tuple of PageTableEntry, root first."),
    {NULL},
};

PyDoc_STRVAR(translation_doc,
             "A virtual address, its physical address, and the walk between "
             "them.\n\n"
             "Comes from `Reader.translate`. `int(t)` is the physical "
             "address. Equal if all of\n"
             "the walk is equal; hashable; picklable.");

static PyType_Slot translation_slots[] = {
    {Py_tp_doc, (void *)translation_doc},
    {Py_tp_dealloc, translation_dealloc},
    {Py_tp_repr, translation_repr},
    {Py_tp_hash, translation_hash},
    {Py_tp_richcompare, translation_richcompare},
    {Py_tp_methods, translation_methods},
    {Py_tp_getset, translation_getset},
    {Py_nb_int, translation_int},
    {0, NULL},
};

PyType_Spec translation_spec = {
    .name = "kdmp.Translation",
    .basicsize = sizeof(TranslationObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = translation_slots,
};
