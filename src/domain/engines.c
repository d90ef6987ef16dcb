/* SPDX-License-Identifier: Apache-2.0 */
/* Which engines there are is decided here and nowhere else. */
#include "domain/engines.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/engine.h"

/* In the order in which `auto` tries them: what has been tested longest comes first for now. */
const struct engine_ops *const engines[] = {&engine_interp, &engine_bt, NULL};

static const struct engine_ops *pick_auto(char **why, struct err *e) {
    cleanup_err struct err last = ERR_INIT;

    for (const struct engine_ops *const *o = engines; *o; o++) {
        err_clear(&last);
        if ((*o)->probe(&last) < 0)
            continue;
        *why = xasprintf("engine %s: %s", (*o)->name,
                         *o == &engine_interp ? "the reference; --engine bt is faster, and new"
                                              : "the first that works on this host");
        return *o;
    }
    err_set(e, 0, "no engine works on this host (see rf check): %s", err_msg(&last));
    return NULL;
}

const struct engine_ops *engine_pick(const char *name, char **why, struct err *e) {
    if (strcmp(name, "auto") == 0)
        return pick_auto(why, e);
    for (const struct engine_ops *const *o = engines; *o; o++) {
        if (strcmp((*o)->name, name) != 0)
            continue;
        if ((*o)->probe(e) == 0)
            return *o;
        err_wrap(e, "engine %s", name);
        return NULL;
    }
    err_set(e, 0, "engine %s: this build does not have it; use --engine interp, or auto", name);
    return NULL;
}
