/* SPDX-License-Identifier: Apache-2.0 */
/* Clean-up by scope, and allocation that does not fail: what the monitor allocates itself is small.
 */
#include "base/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void cleanup_free_fn(void *pptr) {
    void *p;

    /* The variable has some other pointer type; copying its bytes keeps to the aliasing rules. */
    memcpy(&p, pptr, sizeof(p));
    free(p);
}

void cleanup_close_fn(const int *fd) {
    if (*fd >= 0)
        close(*fd);
}

static void *must(void *p) {
    if (unlikely(!p)) {
        fputs("rf: error: out of memory\n", stderr);
        exit(1);
    }
    return p;
}

void *xcalloc(size_t count, size_t size) {
    return must(calloc(MAX(count, 1), MAX(size, 1)));
}

char *xstrdup(const char *s) {
    return must(strdup(s));
}

char *xasprintf(const char *fmt, ...) {
    char *s;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return must(n < 0 ? NULL : s);
}

/* Not realloc: what was not written yet reads as zero. */
void xreserve(uint8_t **buf, size_t *cap, size_t len, size_t more) {
    size_t bigger = MAX(MAX(*cap * 2, len + more), 256);
    uint8_t *grown;

    if (more <= *cap - len)
        return;
    grown = xcalloc(bigger, 1);
    if (len)
        memcpy(grown, *buf, len);
    free(*buf);
    *buf = grown;
    *cap = bigger;
}
