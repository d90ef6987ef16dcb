/* SPDX-License-Identifier: Apache-2.0 */
/* Which engines there are is decided here and nowhere else. */
#include "domain/engines.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/engine.h"

/* In the order in which `auto` tries them: the fastest first. */
const struct engine_ops *const engines[] = {&engine_bt, &engine_interp, NULL};

static const struct engine_ops *pick_auto(char **why, struct err *e) {
    cleanup_err struct err last = ERR_INIT;

    for (const struct engine_ops *const *o = engines; *o; o++) {
        cleanup_err struct err now = ERR_INIT;
        if ((*o)->probe(&now) < 0) {
            err_set(&last, 0, "not %s: %s", (*o)->name, err_msg(&now));
            continue;
        }
        *why = xasprintf("engine %s: %s", (*o)->name,
                         o == engines ? "the fastest, and it works on this host" : err_msg(&last));
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
