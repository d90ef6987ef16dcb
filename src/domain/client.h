/* SPDX-License-Identifier: Apache-2.0 */
/* The other end of a domain's control socket. */
#ifndef RINGFENCE_DOMAIN_CLIENT_H
#define RINGFENCE_DOMAIN_CLIENT_H

#include <stdbool.h>

struct err;
struct json_t;

/*
 * Calls a method and waits for its result, which the caller owns. `params` (an object, or NULL) is
 * taken over. NULL with the error set: what the domain says, or why it could not be asked (e->code
 * is ESRCH when there is no such domain).
 */
struct json_t *client_call(const char *domain, const char *method, struct json_t *params,
                           struct err *e);

/* The name of a domain that is given by name or by ID (its monitor's process); the caller's. */
char *client_resolve(const char *domain, struct err *e);

/* Waits until the domain's monitor is gone; false when it is not after `ms` (-1: for ever). */
bool client_wait_end(const char *domain, int ms);

#endif
