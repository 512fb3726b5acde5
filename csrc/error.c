/*
 * error.c: statuses by name, and the one way to fill a struct kdmp_error.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static const char *const status_names[] = {
    "KDMP_OK",
    "KDMP_E_NOMEM",
    "KDMP_E_OS",
    "KDMP_E_WRONG_FILE",
    "KDMP_E_FORMAT",
    "KDMP_E_UNSUPPORTED",
    "KDMP_E_ARGUMENT",
    "KDMP_E_NOT_PRESENT",
    "KDMP_E_NOT_IN_DUMP",
    "KDMP_E_TRUNCATED",
    "KDMP_E_NON_CANONICAL",
    "KDMP_E_BAD_ENTRY",
    "KDMP_E_ADDRESS_END",
    "KDMP_E_LIMIT",
};
_Static_assert(sizeof(status_names) / sizeof(status_names[0])
                   == KDMP_STATUS_COUNT,
               "a name for every status");

const char *
kdmp_status_name(int status)
{
    if (status < 0 || status >= KDMP_STATUS_COUNT)
        return "?";
    return status_names[status];
}

enum kdmp_status
kdmp_fail(struct kdmp_error *err, enum kdmp_status status, uint64_t where,
          const char *format, ...)
{
    va_list args;

    if (err == NULL)
        return status;
    err->status = status;
    err->os_errno = 0;
    err->where = where;
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    return status;
}
