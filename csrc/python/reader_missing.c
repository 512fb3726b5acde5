/*
 * ReaderBase.missing(): how far a hole reaches, without reading it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* Entries of page tables looked at in one call: some milliseconds.  Tables of
   a hostile dump can make a hole of 2^36 single pages. */
#define STEPS 0x10000

/* How many of 'size' bytes from the access's address on are missing for what
   *fault says of the first; 0 if that is there.  Ends before an entry that
   leaves the answer to the VAD if they have not been asked.  Runs without the
   interpreter. */
static enum kdmp_status
measure(const struct access *access, uint64_t size, int asked,
        uint64_t *size_out, struct kdmp_fault *fault)
{
    struct kdmp_fault next;
    uint64_t position = 0, address;

    *size_out = 0;
    for (int step = 0; step < STEPS && position < size; step++) {
        enum kdmp_status status =
            access_advance(access, position, &address, &next);

        if (status == KDMP_E_ADDRESS_END)
            next.missing = UINT64_MAX;
        else if (status == KDMP_OK)
            status = kdmp_probe_byte(access->space, address, &next);
        if (status == KDMP_OK || (position > 0 && status != fault->status))
            break;
        if (position > 0 && !asked && status == KDMP_E_NOT_PRESENT
            && next.walk.state == KDMP_PTE_VAD)
            break;
        if (!is_absent(status)) {
            *fault = next;
            return status;
        }
        if (position == 0)
            *fault = next;
        position =
            next.missing < size - position ? position + next.missing : size;
    }
    *size_out = position;
    return KDMP_OK;
}

const char reader_missing_doc[] = PyDoc_STR(
    "missing($self, /, va, size=1)\n--\n\n"
    "Return the Gap at an address, None if the byte there can be read.\n\n"
    "It says how many of `size` bytes from there on are missing for the same "
    "kind of reason, and\n"
    "which. Nothing is read, so that `size` may be terabytes; a call looks at "
    "65536 page table\n"
    "entries at most, and the gap may go on behind what is returned. Nothing "
    "is told to a fault\n"
    "collector.");

PyObject *
reader_missing(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    SIGNATURE("missing", 2, 2, 1, "va", "size");
    ReaderObject *self = (ReaderObject *)op;
    struct access access;
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t size = 1, found;
    PyThreadState *ts;
    PyObject *reason;
    int again;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &access) < 0
        || (slot[1] != NULL && as_u64(slot[1], "size", &size) < 0)
        || access_begin(self, &access) < 0) {
        return NULL;
    }
    do {
        ts = access_release(self, &access, size);
        status = measure(&access, size, self->views_asked, &found, &fault);
        access_reacquire(self, ts);
        status = access_end(self, status);
        again = 0;
        if (status == KDMP_OK && found > 0)
            again = access_again(self, &access, fault.status, &fault.walk);
    } while (again > 0);
    if (again < 0)
        return NULL;
    if (status != KDMP_OK)
        return raise_fault(self->state, access.space, &fault);
    if (found == 0)
        Py_RETURN_NONE;
    reason = fault_exception(self->state, access.space, &fault);
    if (reason == NULL)
        return NULL;
    return gap_record(self->state, address_after(access.address, 0), found,
                      reason);
}
