/* SPDX-License-Identifier: Apache-2.0 */
/* The engines that this build has, and which of them a domain gets. */
#ifndef RINGFENCE_DOMAIN_ENGINES_H
#define RINGFENCE_DOMAIN_ENGINES_H

struct engine_ops;
struct err;

/* NULL-terminated, best first. */
extern const struct engine_ops *const engines[];

/*
 * The engine for a configuration's name for it. For "auto" that is the best that works here, and
 * *why is set to a sentence about the choice, for the caller to free. NULL with the error set when
 * there is none.
 */
const struct engine_ops *engine_pick(const char *name, char **why, struct err *e);

#endif
