/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A domain's place on the host: $XDG_RUNTIME_DIR/ringfence/NAME, /run/ringfence/NAME for root,
 * /tmp/ringfence-UID/NAME where there is neither. It holds `lock`, which its monitor keeps locked
 * as long as it lives, `pid`, `config.json` and the socket `control`. A folder whose lock nobody
 * holds is a dead monitor's, and is replaced or removed.
 */
#ifndef RINGFENCE_DOMAIN_STATE_H
#define RINGFENCE_DOMAIN_STATE_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct state;

#define STATE_NAME_MAX 64

/* Up to STATE_NAME_MAX letters, digits, '.', '_', '-', '+'; not starting with '.'. */
int state_check_name(const char *name, struct err *e);

/*
 * Takes the name, or NULL with the error set: e->code is EEXIST when a living monitor has it.
 * `make_unique`: puts -2, -3, … behind a name that is taken, and replaces what cannot be in one.
 */
struct state *state_claim(const char *name, bool make_unique, struct err *e);
const char *state_name(const struct state *s);
/* The path of a file in it, for as long as `s` is there; short enough for a socket's address. */
char *state_path(const struct state *s, const char *file);
int state_write(const struct state *s, const char *file, const char *text, struct err *e);
/* Removes the folder and frees. NULL is allowed. */
void state_release(struct state *s);

/* --- for clients --- */

/* A connection to a domain's control socket, blocking, or negative with the error set. */
int state_connect(const char *name, struct err *e);
/* Whether a monitor has this name. */
bool state_is_alive(const char *name);
/* The names of this user's domains, sorted; each and the list are the caller's to free. Removes
 * what dead monitors have left. */
char **state_list(size_t *count, struct err *e);

#endif
