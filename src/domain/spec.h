/* SPDX-License-Identifier: Apache-2.0 */
/* "VALUE,key=value,…": how configurations describe devices. */
#ifndef RINGFENCE_DOMAIN_SPEC_H
#define RINGFENCE_DOMAIN_SPEC_H

struct err;

/* One parameter; `key` is NULL for the first one when it has none. */
typedef int spec_fn(void *arg, const char *key, const char *value, struct err *e);

/* Calls fn for each parameter in order; stops at the first that returns a negative value, and
 * returns it. */
int spec_parse(const char *text, spec_fn *fn, void *arg, struct err *e);

#endif
