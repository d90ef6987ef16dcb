/* SPDX-License-Identifier: Apache-2.0 */
/* Error chains. A message is formatted before the old one is dropped, so it may quote the old one.
 */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

static char *format(const char *fmt, va_list ap) {
    char *msg = NULL;

    if (vasprintf(&msg, fmt, ap) < 0)
        msg = xstrdup("out of memory");
    return msg;
}

static char *with_errno(char *msg, int errnum) {
    char buf[128];
    char *full = xasprintf("%s: %s", msg, strerror_r(errnum, buf, sizeof(buf)));

    free(msg);
    return full;
}

int err_set(struct err *e, int errnum, const char *fmt, ...) {
    int ret = errnum ? -errnum : -1;

    if (!e)
        return ret;

    va_list ap;
    va_start(ap, fmt);
    char *msg = format(fmt, ap);
    va_end(ap);

    if (errnum)
        msg = with_errno(msg, errnum);
    free(e->msg);
    e->msg = msg;
    e->code = errnum;
    return ret;
}

int err_wrap(struct err *e, const char *fmt, ...) {
    if (!e)
        return -1;

    va_list ap;
    va_start(ap, fmt);
    char *context = format(fmt, ap);
    va_end(ap);

    char *msg = xasprintf("%s: %s", context, err_msg(e));
    free(context);
    free(e->msg);
    e->msg = msg;
    return e->code ? -e->code : -1;
}

const char *err_msg(const struct err *e) {
    return e && e->msg ? e->msg : "no error";
}

void err_clear(struct err *e) {
    free(e->msg);
    *e = ERR_INIT;
}
