/* SPDX-License-Identifier: Apache-2.0 */
/* A 9P client for tests: messages put together field by field, on a server or on a device. */
#ifndef RINGFENCE_TESTS_P9_CLIENT_H
#define RINGFENCE_TESTS_P9_CLIENT_H

#include "virtio/p9/server.h"
#include "virtio_driver.h"

enum {
    P9_LERROR = 7,
    P9_STATFS = 8,
    P9_LOPEN = 12,
    P9_LCREATE = 14,
    P9_SYMLINK = 16,
    P9_MKNOD = 18,
    P9_RENAME = 20,
    P9_READLINK = 22,
    P9_GETATTR = 24,
    P9_SETATTR = 26,
    P9_XATTRWALK = 30,
    P9_XATTRCREATE = 32,
    P9_READDIR = 40,
    P9_FSYNC = 50,
    P9_LOCK = 52,
    P9_GETLOCK = 54,
    P9_LINK = 70,
    P9_MKDIR = 72,
    P9_RENAMEAT = 74,
    P9_UNLINKAT = 76,
    P9_VERSION = 100,
    P9_ATTACH = 104,
    P9_FLUSH = 108,
    P9_WALK = 110,
    P9_READ = 116,
    P9_WRITE = 118,
    P9_CLUNK = 120,
    P9_REMOVE = 122,
};

#define P9_NO_FID UINT32_MAX
#define P9_CLIENT_MAX 70000

struct p9_client {
    struct p9_server *server; /* or: */
    struct vdriver *v;
    uint64_t out_gpa, in_gpa;
    uint8_t request[P9_CLIENT_MAX], answer[P9_CLIENT_MAX];
    size_t len, answer_len, at;
};

static inline void p9c_int(struct p9_client *c, uint64_t v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        c->request[c->len++] = (uint8_t)(v >> 8 * i);
}

static inline void p9c_data(struct p9_client *c, const void *p, size_t n) {
    memcpy(c->request + c->len, p, n);
    c->len += n;
}

static inline void p9c_str(struct p9_client *c, const char *s) {
    p9c_int(c, strlen(s), 2);
    p9c_data(c, s, strlen(s));
}

static inline uint64_t p9c_get(struct p9_client *c, unsigned bytes) {
    uint64_t v = 0;

    assert_true(c->at + bytes <= c->answer_len);
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)c->answer[c->at++] << 8 * i;
    return v;
}

static inline void p9c_exchange(struct p9_client *c) {
    if (c->v) {
        struct vbuf b[2] = {{c->out_gpa, (uint32_t)c->len}, {c->in_gpa, P9_CLIENT_MAX}};

        memcpy(vmem(c->v, c->out_gpa), c->request, c->len);
        c->answer_len = vq_do(c->v, 0, b, 1, 1);
        memcpy(c->answer, vmem(c->v, c->in_gpa), c->answer_len);
    } else {
        /* In pieces, as they come from guests. */
        struct iovec out[3] = {{c->request, 5},
                               {c->request + 5, MIN(c->len - 5, (size_t)9)},
                               {c->request + 14, c->len > 14 ? c->len - 14 : 0}};
        struct iovec in[2] = {{c->answer, 9}, {c->answer + 9, sizeof(c->answer) - 9}};

        c->answer_len = p9_serve(c->server, out, 3, in, 2);
    }
}

/* 0 or -errno; the answer's fields are behind c->at. */
static inline int p9c_raw(struct p9_client *c) {
    uint8_t type = c->request[4];

    memcpy(c->request, &(uint32_t){(uint32_t)c->len}, 4);
    p9c_exchange(c);
    assert_in_range(c->answer_len, 7, P9_CLIENT_MAX);
    c->at = 0;
    assert_int_equal(p9c_get(c, 4), c->answer_len);
    uint8_t answer = (uint8_t)p9c_get(c, 1);
    assert_int_equal(p9c_get(c, 2), 0x55aa);
    if (answer == P9_LERROR)
        return -(int)p9c_get(c, 4);
    assert_int_equal(answer, type + 1);
    return 0;
}

static inline void p9c_start(struct p9_client *c, uint8_t type) {
    c->len = 0;
    p9c_int(c, 0, 4);
    p9c_int(c, type, 1);
    p9c_int(c, 0x55aa, 2);
}

/*
 * One message: 'b', 'w', 'd', 'q' are integers of 1, 2, 4, 8 bytes (all given as uint64_t), 's' is
 * a string.
 */
static inline int p9c_do(struct p9_client *c, uint8_t type, const char *fields, ...) {
    va_list ap;

    p9c_start(c, type);
    va_start(ap, fields);
    for (; *fields; fields++)
        switch (*fields) {
        case 'b':
            p9c_int(c, va_arg(ap, uint64_t), 1);
            break;
        case 'w':
            p9c_int(c, va_arg(ap, uint64_t), 2);
            break;
        case 'd':
            p9c_int(c, va_arg(ap, uint64_t), 4);
            break;
        case 'q':
            p9c_int(c, va_arg(ap, uint64_t), 8);
            break;
        default:
            p9c_str(c, va_arg(ap, const char *));
        }
    va_end(ap);
    return p9c_raw(c);
}

#define N(x) ((uint64_t)(x))

static inline void p9c_attach(struct p9_client *c) {
    assert_int_equal(p9c_do(c, P9_VERSION, "ds", N(65536), "9P2000.L"), 0);
    assert_int_equal(p9c_get(c, 4), 65536);
    assert_int_equal(p9c_do(c, P9_ATTACH, "ddssd", N(0), N(P9_NO_FID), "", "", N(0)), 0);
}

/* Walks a path (with slashes) from a fid to a new one. -ENOENT when it got only a part of it. */
static inline int p9c_walk(struct p9_client *c, uint32_t from, uint32_t to, const char *path) {
    char copy[4096], *rest = NULL;
    size_t count_at;
    uint16_t n = 0;
    int r;

    assert_true(strlen(path) < sizeof(copy));
    memcpy(copy, path, strlen(path) + 1);
    p9c_start(c, P9_WALK);
    p9c_int(c, from, 4);
    p9c_int(c, to, 4);
    count_at = c->len;
    p9c_int(c, 0, 2);
    for (char *p = strtok_r(copy, "/", &rest); p; p = strtok_r(NULL, "/", &rest), n++)
        p9c_str(c, p);
    memcpy(c->request + count_at, &n, 2);
    r = p9c_raw(c);
    return r < 0 ? r : p9c_get(c, 2) == n ? 0 : -2 /* ENOENT */;
}

static inline int p9c_clunk(struct p9_client *c, uint32_t fid) {
    return p9c_do(c, P9_CLUNK, "d", N(fid));
}

#endif
