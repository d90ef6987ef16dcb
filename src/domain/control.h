/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A domain's control socket: JSON-RPC for clients of the same user (or root), on the loop's thread.
 * Nobody is waited for: what a client does not read holds up only its own requests, and the one
 * that was silent longest gives way when there are too many.
 */
#ifndef RINGFENCE_DOMAIN_CONTROL_H
#define RINGFENCE_DOMAIN_CONTROL_H

struct control;
struct err;
struct jsonrpc_method;
struct loop;

#define CONTROL_CLIENTS_MAX 16

/* Listens at `path`; methods are called with `arg`. NULL with the error set. */
struct control *control_new(struct loop *l, const char *path, const struct jsonrpc_method *methods,
                            void *arg, struct err *e);
/* Closes all connections. On the loop's thread, or while it does not run; NULL is allowed. */
void control_free(struct control *k);

#endif
