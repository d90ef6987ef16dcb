/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In place of domain/engines.c in a program that is otherwise rf: whatever engine is asked for, it
 * is the switched one. The linker takes these definitions and leaves the archive's alone.
 */
#include "domain/engines.h"

#include <stddef.h>

#include "base/err.h"
#include "cpu/engine.h"
#include "switched.h"

const struct engine_ops *const engines[] = {&engine_switched, NULL};

const struct engine_ops *engine_pick(const char *name, char **why, struct err *e) {
    (void)why;
    if (engine_switched.probe(e) == 0)
        return &engine_switched;
    err_wrap(e, "engine %s", name);
    return NULL;
}
