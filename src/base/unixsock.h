/* SPDX-License-Identifier: Apache-2.0 */
/* Unix stream sockets by name, non-blocking. */
#ifndef RINGFENCE_BASE_UNIXSOCK_H
#define RINGFENCE_BASE_UNIXSOCK_H

struct err;

/*
 * Listens on `path`, with room for `room` more bytes behind it; a socket that nobody listens on any
 * more is replaced. Negative with the error set when the name is taken or too long.
 */
int unixsock_listen(const char *path, unsigned room, struct err *e);
/* A descriptor or -errno; never waits. */
int unixsock_connect(const char *path);

#endif
