/* SPDX-License-Identifier: Apache-2.0 */
/* The known name that somebody most likely meant, for "did you mean" in messages. */
#ifndef RINGFENCE_DOMAIN_SUGGEST_H
#define RINGFENCE_DOMAIN_SUGGEST_H

#include <stddef.h>

/*
 * A search for the nearest of several names: suggest_init, suggest_try for each, then suggest_best,
 * which is NULL when none is near enough. Distance counts inserted, dropped, replaced and swapped
 * neighbouring characters (optimal string alignment); a name that starts with what was typed is
 * near too.
 */
struct suggest {
    const char *typed;
    const char *best;
    size_t distance;
};

void suggest_init(struct suggest *s, const char *typed);
void suggest_try(struct suggest *s, const char *name);
const char *suggest_best(const struct suggest *s);

#endif
