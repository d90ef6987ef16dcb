/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 9P2000.L server for one shared folder: a request's bytes in, an answer's bytes out. It knows
 * nothing of virtio. It calls the host's file system and may wait for it. One thread.
 */
#ifndef RINGFENCE_VIRTIO_P9_SERVER_H
#define RINGFENCE_VIRTIO_P9_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;
struct p9_server;
struct record_reader;
struct record_writer;

#define P9_MAPS_MAX 8
#define P9_FIDS_MAX 65536

/* Guests' ids [guest, guest + count) are the host's [host, host + count). */
struct p9_map {
    uint32_t guest, host, count;
};

struct p9_options {
    bool read_only;
    /* Without maps ids are the same on both sides. With some, other ids of the host are nobody's
     * (65534), and other ids of the guest are refused. */
    struct p9_map uids[P9_MAPS_MAX], gids[P9_MAPS_MAX];
    unsigned uid_count, gid_count;
};

/* NULL with the error set when the folder cannot be opened. */
struct p9_server *p9_server_new(const char *path, const struct p9_options *o, struct err *e);
void p9_server_free(struct p9_server *s); /* NULL is allowed */

/* Forgets all fids, as when the other side went away. */
void p9_server_reset(struct p9_server *s);

/*
 * Answers one request. Both vectors may be a guest's memory. Returns the bytes of the answer; 0
 * when there is no message or no room to answer.
 */
size_t p9_serve(struct p9_server *s, const struct iovec *out, unsigned out_count,
                const struct iovec *in, unsigned in_count);

/* Fids that exist, for tests and statistics. */
unsigned p9_server_fids(const struct p9_server *s);

/*
 * Fids by their paths. load opens anew what was open; a file that is not there any more answers
 * ESTALE from then on.
 */
void p9_server_save(const struct p9_server *s, struct record_writer *w);
int p9_server_check(struct record_reader *r, struct err *e);
void p9_server_load(struct p9_server *s, struct record_reader *r);

#endif
