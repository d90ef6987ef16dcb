/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared folder: what a guest does through 9P is what the same calls do on the host; nothing
 * leads out of the folder; whatever a guest sends is answered; fids survive a save.
 */
#include "p9_client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "virtio/p9.h"

enum { ROOT = 0 };

struct fixture {
    char top[32];                /* holds: */
    char share[64], outside[64]; /* the folder, and one beside it with a file `secret` */
    struct p9_client *c;
};

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static struct p9_server *new_server(struct fixture *f, const struct p9_options *o) {
    static const struct p9_options none;
    struct p9_server *s = p9_server_new(f->share, o ? o : &none, NULL);

    assert_non_null(s);
    return s;
}

static void restart(struct fixture *f, const struct p9_options *o) {
    p9_server_free(f->c->server);
    f->c->server = new_server(f, o);
    p9c_attach(f->c);
}

static int setup(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    char path[128];

    strcpy(f->top, "/tmp/rf-p9-XXXXXX");
    assert_non_null(mkdtemp(f->top));
    snprintf(f->share, sizeof(f->share), "%s/share", f->top);
    snprintf(f->outside, sizeof(f->outside), "%s/outside", f->top);
    assert_int_equal(mkdir(f->share, 0755), 0);
    assert_int_equal(mkdir(f->outside, 0755), 0);
    snprintf(path, sizeof(path), "%s/secret", f->outside);
    write_file(path, "secret");
    f->c = xcalloc(1, sizeof(*f->c));
    f->c->server = new_server(f, NULL);
    p9c_attach(f->c);
    *state = f;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int teardown(void **state) {
    struct fixture *f = *state;

    p9_server_free(f->c->server);
    nftw(f->top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(f->c);
    free(f);
    return 0;
}

/* The host's view of a name in the share. */
static const char *host(const struct fixture *f, const char *name) {
    static char path[2][PATH_MAX];
    static unsigned turn;

    turn ^= 1;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", f->share, name);
    return path[turn];
}

/* Opens (or makes) a file in the root folder as `fid`. */
static int create(struct p9_client *c, uint32_t fid, const char *name, uint32_t mode) {
    assert_int_equal(p9c_walk(c, ROOT, fid, ""), 0);
    return p9c_do(c, P9_LCREATE, "dsddd", N(fid), name, N(O_RDWR), N(mode), N(0));
}

static int put(struct p9_client *c, uint32_t fid, uint64_t off, const void *data, size_t n) {
    p9c_start(c, P9_WRITE);
    p9c_int(c, fid, 4);
    p9c_int(c, off, 8);
    p9c_int(c, n, 4);
    p9c_data(c, data, n);
    int r = p9c_raw(c);
    return r < 0 ? r : (int)p9c_get(c, 4);
}

static int fetch(struct p9_client *c, uint32_t fid, uint64_t off, uint32_t n) {
    int r = p9c_do(c, P9_READ, "dqd", N(fid), N(off), N(n));

    return r < 0 ? r : (int)p9c_get(c, 4);
}

static int open_fid(struct p9_client *c, uint32_t fid, const char *path, uint32_t flags) {
    int r = p9c_walk(c, ROOT, fid, path);

    if (r < 0)
        return r;
    r = p9c_do(c, P9_LOPEN, "dd", N(fid), N(flags));
    if (r < 0)
        assert_int_equal(p9c_clunk(c, fid), 0);
    return r;
}

struct attr {
    uint32_t mode, uid, gid;
    uint64_t nlink, size, mtime, ino;
};

static int getattr(struct p9_client *c, uint32_t fid, struct attr *a) {
    *a = (struct attr){0};
    int r = p9c_do(c, P9_GETATTR, "dq", N(fid), N(0x7ff));

    if (r < 0)
        return r;
    assert_int_equal(p9c_get(c, 8), 0x7ff);
    p9c_get(c, 5);
    a->ino = p9c_get(c, 8);
    a->mode = (uint32_t)p9c_get(c, 4);
    a->uid = (uint32_t)p9c_get(c, 4);
    a->gid = (uint32_t)p9c_get(c, 4);
    a->nlink = p9c_get(c, 8);
    p9c_get(c, 8);
    a->size = p9c_get(c, 8);
    p9c_get(c, 8);
    p9c_get(c, 8);
    p9c_get(c, 8);
    p9c_get(c, 8);
    a->mtime = p9c_get(c, 8);
    return 0;
}

static int setattr(struct p9_client *c, uint32_t fid, uint32_t valid, uint32_t mode, uint32_t uid,
                   uint64_t size, uint64_t mtime) {
    return p9c_do(c, P9_SETATTR,
                  "ddddd"
                  "q"
                  "qqqq",
                  N(fid), N(valid), N(mode), N(uid), N(uid), N(size), N(0), N(0), N(mtime), N(0));
}

/* --- protocol --- */

static void test_version_comes_first(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;

    p9_server_reset(c->server);
    assert_int_equal(p9c_do(c, P9_ATTACH, "ddssd", N(0), N(P9_NO_FID), "", "", N(0)), -EPROTO);
    assert_int_equal(p9c_do(c, P9_VERSION, "ds", N(100), "9P2000.L"), -EMSGSIZE);
    assert_int_equal(p9c_do(c, P9_VERSION, "ds", N(8192), "9P2000.u"), 0);
    p9c_get(c, 4);
    assert_int_equal(p9c_get(c, 2), 7);
    assert_memory_equal(c->answer + c->at, "unknown", 7);
    assert_int_equal(p9c_do(c, P9_GETATTR, "dq", N(0), N(0)), -EPROTO);
    assert_int_equal(p9c_do(c, P9_VERSION, "ds", N(UINT32_MAX), "9P2000.L"), 0);
    assert_int_equal(p9c_get(c, 4), 512 << 10);
    assert_int_equal(p9c_do(c, P9_ATTACH, "ddssd", N(0), N(5), "", "", N(0)), -EOPNOTSUPP);
    assert_int_equal(p9c_do(c, P9_ATTACH, "ddssd", N(0), N(P9_NO_FID), "", "/etc", N(0)), -ENOENT);
    assert_int_equal(p9c_do(c, P9_ATTACH, "ddssd", N(0), N(P9_NO_FID), "root", "/", N(0)), 0);
    assert_int_equal(p9c_do(c, P9_ATTACH, "ddssd", N(0), N(P9_NO_FID), "", "", N(0)), -EBADF);
    assert_int_equal(p9c_do(c, P9_FLUSH, "w", N(3)), 0);
    assert_int_equal(p9c_do(c, 102, "dss", N(1), "", ""), -EOPNOTSUPP);
}

/* Every message, cut at every length and with bytes that don't mean anything, gets an answer. */
static void test_messages_that_are_none(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    uint64_t seed = 1;

    for (unsigned round = 0; round < 20000; round++) {
        p9c_start(c, (uint8_t)(round % 128));
        if (round % 128 == P9_VERSION)
            continue;
        size_t n = round / 128 % 64;
        for (size_t i = 0; i < n; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            p9c_int(c, i < 4 ? 0 : seed >> 56 & (round & 1 ? 3 : 255), 1);
        }
        p9c_raw(c);
    }
    assert_true(access(host(f, ""), F_OK) == 0);
    restart(f, NULL);
    assert_int_equal(p9c_walk(c, ROOT, 1, ""), 0);
}

static void test_sizes_that_lie(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    uint8_t request[64] = {0}, answer[64];
    struct iovec out = {request, 19}, in = {answer, sizeof(answer)};

    static const uint32_t sizes[] = {0, 6, 20, 0x7fffffff, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        memcpy(request, &sizes[i], 4);
        request[4] = P9_GETATTR;
        assert_int_equal(p9_serve(c->server, &out, 1, &in, 1), 11);
        assert_int_equal(answer[4], P9_LERROR);
        assert_int_equal(answer[7], EINVAL);
    }
    /* No room for the answer to a good request; then not even for an error. */
    memcpy(request, &(uint32_t){19}, 4);
    memset(request + 7, 0, 12);
    in.iov_len = 30;
    assert_int_equal(p9_serve(c->server, &out, 1, &in, 1), 11);
    assert_int_equal(answer[7], EMSGSIZE);
    in.iov_len = 10;
    assert_int_equal(p9_serve(c->server, &out, 1, &in, 1), 0);
    out.iov_len = 6;
    in.iov_len = 64;
    assert_int_equal(p9_serve(c->server, &out, 1, &in, 1), 0);
    assert_int_equal(p9_serve(c->server, NULL, 0, &in, 1), 0);
    /* A write that says it has more than it brings. */
    assert_int_equal(create(c, 1, "file", 0644), 0);
    assert_int_equal(p9c_do(c, P9_WRITE, "dqd", N(1), N(0), N(5)), -EINVAL);
    assert_int_equal(p9c_do(c, P9_WRITE, "dqd", N(1), N(0), N(UINT32_MAX)), -EINVAL);
    assert_int_equal(p9c_do(c, P9_READ, "dqd", N(1), N(UINT64_MAX), N(5)), -EINVAL);
}

/* --- files --- */

static void test_a_file(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    struct attr a;
    struct stat st;

    assert_int_equal(create(c, 1, "file", 0640), 0);
    assert_int_equal(put(c, 1, 3, "hello", 5), 5);
    assert_int_equal(fetch(c, 1, 0, 100), 8);
    assert_memory_equal(c->answer + c->at, "\0\0\0hello", 8);
    assert_int_equal(fetch(c, 1, 100, 100), 0);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(stat(host(f, "file"), &st), 0);
    assert_int_equal(a.mode, S_IFREG | 0640);
    assert_int_equal(a.ino, st.st_ino);
    assert_int_equal(a.uid, st.st_uid);
    assert_int_equal(a.size, 8);
    assert_int_equal(p9c_do(c, P9_FSYNC, "dd", N(1), N(0)), 0);
    assert_int_equal(p9c_do(c, P9_FSYNC, "dd", N(ROOT), N(0)), -EBADF);
    assert_int_equal(setattr(c, 1, 8 | 32 | 256, 0, 0, 2, 12345), 0);
    assert_int_equal(stat(host(f, "file"), &st), 0);
    assert_int_equal(st.st_size, 2);
    assert_int_equal(st.st_mtime, 12345);
    assert_int_equal(p9c_clunk(c, 1), 0);
    assert_int_equal(p9c_clunk(c, 1), -EBADF);
    assert_int_equal(fetch(c, 1, 0, 1), -EBADF);
}

static void test_the_process_umask_does_not_matter(void **state) {
    struct fixture *f = *state;
    mode_t before = umask(077);
    struct stat st;

    assert_int_equal(create(f->c, 1, "file", 0666), 0);
    assert_int_equal(p9c_do(f->c, P9_MKDIR, "dsdd", N(ROOT), "dir", N(01777), N(0)), 0);
    umask(before);
    assert_int_equal(stat(host(f, "file"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0666);
    assert_int_equal(stat(host(f, "dir"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 01777);
}

/* An open file goes on when its name is gone. */
static void test_unlinked_and_renamed_while_open(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    struct attr a;

    assert_int_equal(create(c, 1, "file", 0644), 0);
    assert_int_equal(p9c_walk(c, ROOT, 2, "file"), 0);
    assert_int_equal(p9c_do(c, P9_RENAMEAT, "dsds", N(ROOT), "file", N(ROOT), "other"), 0);
    assert_int_equal(getattr(c, 2, &a), 0);
    assert_int_equal(p9c_do(c, P9_RENAME, "dds", N(2), N(ROOT), "third"), 0);
    assert_int_equal(access(host(f, "third"), F_OK), 0);
    assert_int_equal(p9c_do(c, P9_UNLINKAT, "dsd", N(ROOT), "third", N(0)), 0);
    assert_int_equal(put(c, 1, 0, "x", 1), 1);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.nlink, 0);
    assert_int_equal(getattr(c, 2, &a), -ENOENT);
    /* Another file of that name is another file. */
    assert_int_equal(create(c, 3, "third", 0644), 0);
    assert_int_equal(getattr(c, 2, &a), -ENOENT);
    assert_int_equal(p9c_do(c, P9_REMOVE, "d", N(2)), -ESTALE);
    assert_int_equal(p9c_do(c, P9_REMOVE, "d", N(3)), 0);
    assert_int_equal(access(host(f, "third"), F_OK), -1);
    assert_int_equal(p9c_do(c, P9_REMOVE, "d", N(ROOT)), -EBUSY);
    assert_int_equal(p9c_clunk(c, ROOT), -EBADF);
}

/* Names below a folder that is renamed stay reachable; moving it into itself does not work. */
static void test_renamed_folders(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    struct attr a;

    assert_int_equal(mkdir(host(f, "a"), 0755), 0);
    assert_int_equal(mkdir(host(f, "a/b"), 0755), 0);
    write_file(host(f, "a/b/c"), "text");
    assert_int_equal(p9c_walk(c, ROOT, 1, "a/b/c"), 0);
    assert_int_equal(p9c_walk(c, ROOT, 2, "a/b"), 0);
    assert_int_equal(p9c_do(c, P9_RENAMEAT, "dsds", N(ROOT), "a", N(ROOT), "z"), 0);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.size, 4);
    assert_int_equal(p9c_do(c, P9_RENAMEAT, "dsds", N(ROOT), "z", N(2), "in"), -EINVAL);
    assert_int_equal(p9c_walk(c, 2, 3, "../../../.."), 0);
    assert_int_equal(getattr(c, 3, &a), 0);
    struct stat st;
    assert_int_equal(stat(f->share, &st), 0);
    assert_int_equal(a.ino, st.st_ino);
}

static unsigned list(struct p9_client *c, uint32_t fid, uint32_t count, char names[][16]) {
    uint64_t off = 0;
    unsigned n = 0;

    for (;;) {
        assert_int_equal(p9c_do(c, P9_READDIR, "dqd", N(fid), off, N(count)), 0);
        size_t end = p9c_get(c, 4);
        assert_true(end <= count);
        end += c->at;
        if (c->at == end)
            return n;
        while (c->at < end) {
            p9c_get(c, 5);
            p9c_get(c, 8);
            off = p9c_get(c, 8);
            p9c_get(c, 1);
            size_t len = p9c_get(c, 2);
            memcpy(names[n], c->answer + c->at, len);
            names[n++][len] = 0;
            c->at += len;
        }
    }
}

static int compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

static void test_folders_are_listed_whole(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    static char names[1100][16];
    char name[16];

    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "n%04u", i);
        write_file(host(f, name), "");
    }
    assert_int_equal(open_fid(c, 1, "", O_RDONLY | O_DIRECTORY), 0);
    static const uint32_t counts[] = {64, 1000, 60000};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        assert_int_equal(list(c, 1, counts[i], names), 1002);
        qsort(names, 1002, sizeof(names[0]), compare_names);
        assert_string_equal(names[0], ".");
        assert_string_equal(names[1], "..");
        for (unsigned k = 0; k < 1000; k++) {
            snprintf(name, sizeof(name), "n%04u", k);
            assert_string_equal(names[k + 2], name);
        }
    }
    assert_int_equal(fetch(c, 1, 0, 10), -EISDIR);
    assert_int_equal(open_fid(c, 2, "n0001", O_RDONLY), 0);
    assert_int_equal(p9c_do(c, P9_READDIR, "dqd", N(2), N(0), N(1000)), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_STATFS, "d", N(2)), 0);
    assert_int_equal(p9c_get(c, 4), 0x01021997);
}

static void test_locks(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;

    write_file(host(f, "file"), "text");
    assert_int_equal(open_fid(c, 1, "file", O_RDWR), 0);
    assert_int_equal(open_fid(c, 2, "file", O_RDWR), 0);
    assert_int_equal(p9c_do(c, P9_LOCK, "dbdqqds", N(1), N(1), N(0), N(0), N(2), N(7), "g"), 0);
    assert_int_equal(p9c_get(c, 1), 0);
    assert_int_equal(p9c_do(c, P9_LOCK, "dbdqqds", N(2), N(0), N(1), N(1), N(0), N(8), "g"), 0);
    assert_int_equal(p9c_get(c, 1), 1);
    assert_int_equal(p9c_do(c, P9_GETLOCK, "dbqqds", N(2), N(0), N(1), N(0), N(8), "g"), 0);
    assert_int_equal(p9c_get(c, 1), 1);
    assert_int_equal(p9c_get(c, 8), 0);
    assert_int_equal(p9c_get(c, 8), 2);
    assert_int_equal(p9c_clunk(c, 1), 0);
    assert_int_equal(p9c_do(c, P9_LOCK, "dbdqqds", N(2), N(0), N(1), N(1), N(0), N(8), "g"), 0);
    assert_int_equal(p9c_get(c, 1), 0);
    assert_int_equal(p9c_do(c, P9_LOCK, "dbdqqds", N(2), N(9), N(1), N(1), N(0), N(8), "g"),
                     -EINVAL);
    assert_int_equal(
        p9c_do(c, P9_LOCK, "dbdqqds", N(2), N(0), N(1), N(UINT64_MAX), N(0), N(8), "g"), -EINVAL);
}

static int set_xattr(struct p9_client *c, const char *name, const char *value, uint32_t flags) {
    assert_int_equal(p9c_walk(c, ROOT, 9, "file"), 0);
    int r = p9c_do(c, P9_XATTRCREATE, "dsqd", N(9), name, N(strlen(value)), N(flags));
    if (r == 0 && *value)
        assert_int_equal(put(c, 9, 0, value, strlen(value)), strlen(value));
    int closed = p9c_clunk(c, 9);
    return r < 0 ? r : closed;
}

static void test_extended_attributes(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;

    write_file(host(f, "file"), "");
    if (setxattr(host(f, "file"), "user.x", "old", 3, 0) < 0)
        skip();
    assert_int_equal(set_xattr(c, "user.name", "value", 0), 0);
    assert_int_equal(set_xattr(c, "user.name", "other", XATTR_CREATE), -EEXIST);
    assert_int_equal(set_xattr(c, "trusted.name", "value", 0), -EOPNOTSUPP);
    assert_int_equal(set_xattr(c, "security.capability", "value", 0), -EOPNOTSUPP);
    assert_int_equal(set_xattr(c, "user.x", "", 0), 0);
    assert_int_equal(p9c_walk(c, ROOT, 1, "file"), 0);
    assert_int_equal(p9c_do(c, P9_XATTRWALK, "dds", N(1), N(2), "user.name"), 0);
    assert_int_equal(p9c_get(c, 8), 5);
    assert_int_equal(fetch(c, 2, 1, 100), 4);
    assert_memory_equal(c->answer + c->at, "alue", 4);
    assert_int_equal(p9c_clunk(c, 2), 0);
    assert_int_equal(p9c_do(c, P9_XATTRWALK, "dds", N(1), N(2), "user.x"), -ENODATA);
    assert_int_equal(p9c_do(c, P9_XATTRWALK, "dds", N(1), N(2), ""), 0);
    assert_int_equal(p9c_get(c, 8), 10);
    assert_int_equal(p9c_do(c, P9_XATTRCREATE, "dsqd", N(1), "user.y", N(UINT64_MAX), N(0)),
                     -E2BIG);
    /* Out of order, too much, and not all of it. */
    assert_int_equal(p9c_do(c, P9_XATTRCREATE, "dsqd", N(1), "user.y", N(4), N(0)), 0);
    assert_int_equal(put(c, 1, 1, "x", 1), -EINVAL);
    assert_int_equal(put(c, 1, 0, "12345", 5), -ENOSPC);
    assert_int_equal(put(c, 1, 0, "123", 3), 3);
    assert_int_equal(p9c_clunk(c, 1), -EINVAL);
    /* As many as there may be. */
    int r = 0;
    for (uint32_t i = 0; i < 100 && r == 0; i++) {
        assert_int_equal(p9c_walk(c, ROOT, 100 + i, "file"), 0);
        r = p9c_do(c, P9_XATTRCREATE, "dsqd", N(100 + i), "user.y", N(65536), N(0));
    }
    assert_int_equal(r, -ENFILE);
}

/* --- what a guest may not do --- */

static void test_hostile_names(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    char longest[NAME_MAX + 2];
    static const char *const bad[] = {"", ".", "..", "/", "a/b", "../outside", "/etc/passwd", "a/"};

    assert_int_equal(mkdir(host(f, "a"), 0755), 0);
    write_file(host(f, "file"), "");
    assert_int_equal(p9c_walk(c, ROOT, 1, "a"), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *n = bad[i];

        assert_int_equal(p9c_do(c, P9_MKDIR, "dsdd", N(1), n, N(0755), N(0)), -EINVAL);
        assert_int_equal(p9c_do(c, P9_LCREATE, "dsddd", N(1), n, N(2), N(0644), N(0)), -EINVAL);
        assert_int_equal(p9c_do(c, P9_SYMLINK, "dssd", N(1), n, "x", N(0)), -EINVAL);
        assert_int_equal(p9c_do(c, P9_MKNOD, "dsdddd", N(1), n, N(0100644), N(0), N(0), N(0)),
                         -EINVAL);
        assert_int_equal(p9c_do(c, P9_LINK, "dds", N(ROOT), N(1), n), -EINVAL);
        assert_int_equal(p9c_do(c, P9_RENAME, "dds", N(1), N(ROOT), n), -EINVAL);
        assert_int_equal(p9c_do(c, P9_RENAMEAT, "dsds", N(ROOT), n, N(1), "x"), -EINVAL);
        assert_int_equal(p9c_do(c, P9_RENAMEAT, "dsds", N(ROOT), "file", N(1), n), -EINVAL);
        assert_int_equal(p9c_do(c, P9_UNLINKAT, "dsd", N(1), n, N(0)), -EINVAL);
        if (strcmp(n, "..") != 0)
            assert_int_equal(p9c_do(c, P9_WALK, "ddws", N(1), N(2), N(1), n), -EINVAL);
    }
    memset(longest, 'x', sizeof(longest));
    longest[NAME_MAX + 1] = 0;
    assert_int_equal(p9c_do(c, P9_MKDIR, "dsdd", N(1), longest, N(0755), N(0)), -ENAMETOOLONG);
    assert_int_equal(p9c_do(c, P9_WALK, "ddws", N(1), N(2), N(1), longest), -ENAMETOOLONG);
    longest[NAME_MAX] = 0;
    assert_int_equal(p9c_do(c, P9_MKDIR, "dsdd", N(1), longest, N(0755), N(0)), 0);
    /* A zero byte within a name. */
    p9c_start(c, P9_MKDIR);
    p9c_int(c, 1, 4);
    p9c_int(c, 3, 2);
    p9c_data(c, "a\0b", 3);
    p9c_int(c, 0755, 4);
    p9c_int(c, 0, 4);
    assert_int_equal(p9c_raw(c), -EINVAL);
    assert_int_equal(p9c_do(c, P9_UNLINKAT, "dsd", N(ROOT), "file", N(1)), -EINVAL);
}

static void test_links_lead_nowhere(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    char path[256];
    struct attr a;

    assert_int_equal(p9c_do(c, P9_SYMLINK, "dssd", N(ROOT), "abs", f->outside, N(0)), 0);
    assert_int_equal(p9c_do(c, P9_SYMLINK, "dssd", N(ROOT), "rel", "../outside", N(0)), 0);
    snprintf(path, sizeof(path), "%s/secret", f->outside);
    assert_int_equal(p9c_do(c, P9_SYMLINK, "dssd", N(ROOT), "file", path, N(0)), 0);
    assert_int_equal(p9c_walk(c, ROOT, 1, "abs/secret"), -ENOENT);
    assert_int_equal(p9c_walk(c, ROOT, 1, "rel/secret"), -ENOENT);
    assert_int_equal(p9c_walk(c, ROOT, 1, "rel"), 0);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_true(S_ISLNK(a.mode));
    assert_int_equal(p9c_do(c, P9_LOPEN, "dd", N(1), N(O_RDONLY)), -ELOOP);
    assert_int_equal(p9c_do(c, P9_LCREATE, "dsddd", N(1), "new", N(2), N(0644), N(0)), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_MKDIR, "dsdd", N(1), "new", N(0755), N(0)), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_UNLINKAT, "dsd", N(1), "secret", N(0)), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_READLINK, "d", N(1)), 0);
    assert_int_equal(p9c_get(c, 2), strlen("../outside"));
    assert_int_equal(open_fid(c, 2, "file", O_RDONLY), -ELOOP);
    assert_int_equal(create(c, 3, "file", 0644), -EEXIST);
    /* Attributes are the link's, not of what it names. */
    assert_int_equal(p9c_walk(c, ROOT, 4, "file"), 0);
    assert_int_equal(setattr(c, 4, 32 | 256, 0, 0, 0, 12345), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_mtime != 12345);
    assert_int_equal(setattr(c, 4, 8, 0, 0, 0, 0), -ELOOP);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 6);
}

/* The host, or another guest, puts a link where a folder was that a fid stands for. */
static void test_folders_that_turn_into_links(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    struct attr a;

    assert_int_equal(mkdir(host(f, "a"), 0755), 0);
    assert_int_equal(mkdir(host(f, "a/b"), 0755), 0);
    write_file(host(f, "a/b/secret"), "mine");
    assert_int_equal(p9c_walk(c, ROOT, 1, "a/b"), 0);
    assert_int_equal(p9c_walk(c, ROOT, 2, "a/b/secret"), 0);
    assert_int_equal(rename(host(f, "a/b"), host(f, "gone")), 0);
    assert_int_equal(symlink(f->outside, host(f, "a/b")), 0);
    assert_int_equal(getattr(c, 2, &a), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_LOPEN, "dd", N(2), N(O_RDONLY)), -ENOTDIR);
    assert_int_equal(p9c_walk(c, 1, 3, "secret"), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_LOPEN, "dd", N(1), N(O_RDONLY)), -ELOOP);
    assert_int_equal(p9c_do(c, P9_MKDIR, "dsdd", N(1), "new", N(0755), N(0)), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_UNLINKAT, "dsd", N(1), "secret", N(0)), -ENOTDIR);
    assert_int_equal(p9c_do(c, P9_RENAMEAT, "dsds", N(1), "secret", N(ROOT), "x"), -ENOTDIR);
    assert_int_equal(setattr(c, 2, 1, 0777, 0, 0, 0), -ENOTDIR);
}

static void test_the_folder_vanishes(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    struct attr a;

    assert_int_equal(rmdir(f->share), 0);
    assert_int_equal(getattr(c, ROOT, &a), 0);
    assert_int_equal(p9c_do(c, P9_MKDIR, "dsdd", N(ROOT), "x", N(0755), N(0)), -ENOENT);
    assert_int_equal(p9c_walk(c, ROOT, 1, "x"), -ENOENT);
    cleanup_err struct err e = ERR_INIT;
    static const struct p9_options none;
    assert_null(p9_server_new(f->share, &none, &e));
    assert_non_null(strstr(err_msg(&e), "No such file"));
}

static void test_read_only(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    const struct p9_options o = {.read_only = true};

    write_file(host(f, "file"), "text");
    restart(f, &o);
    assert_int_equal(create(c, 1, "new", 0644), -EROFS);
    assert_int_equal(p9c_do(c, P9_MKDIR, "dsdd", N(ROOT), "x", N(0755), N(0)), -EROFS);
    assert_int_equal(p9c_do(c, P9_SYMLINK, "dssd", N(ROOT), "x", "y", N(0)), -EROFS);
    assert_int_equal(p9c_do(c, P9_MKNOD, "dsdddd", N(ROOT), "x", N(0100644), N(0), N(0), N(0)),
                     -EROFS);
    assert_int_equal(p9c_do(c, P9_LINK, "dds", N(ROOT), N(1), "x"), -EROFS);
    assert_int_equal(p9c_do(c, P9_RENAMEAT, "dsds", N(ROOT), "file", N(ROOT), "x"), -EROFS);
    assert_int_equal(p9c_do(c, P9_RENAME, "dds", N(1), N(ROOT), "x"), -EROFS);
    assert_int_equal(p9c_do(c, P9_UNLINKAT, "dsd", N(ROOT), "file", N(0)), -EROFS);
    assert_int_equal(setattr(c, ROOT, 1, 0700, 0, 0, 0), -EROFS);
    assert_int_equal(open_fid(c, 2, "file", O_RDWR), -EROFS);
    assert_int_equal(open_fid(c, 2, "file", O_RDONLY | O_TRUNC), -EROFS);
    assert_int_equal(p9c_walk(c, ROOT, 3, "file"), 0);
    assert_int_equal(p9c_do(c, P9_XATTRCREATE, "dsqd", N(3), "user.x", N(1), N(0)), -EROFS);
    assert_int_equal(p9c_do(c, P9_REMOVE, "d", N(3)), -EROFS);
    assert_int_equal(open_fid(c, 4, "file", O_RDONLY), 0);
    assert_int_equal(fetch(c, 4, 0, 10), 4);
    assert_int_equal(put(c, 4, 0, "x", 1), -EBADF);
}

static void test_nothing_to_run_or_to_wait_for(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    struct stat st;

    assert_int_equal(create(c, 1, "prog", 06755), 0);
    assert_int_equal(stat(host(f, "prog"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_int_equal(setattr(c, 1, 1, 07777, 0, 0, 0), 0);
    assert_int_equal(stat(host(f, "prog"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 01777);
    assert_int_equal(
        p9c_do(c, P9_MKNOD, "dsdddd", N(ROOT), "null", N(S_IFCHR | 0666), N(1), N(3), N(0)),
        -EPERM);
    assert_int_equal(
        p9c_do(c, P9_MKNOD, "dsdddd", N(ROOT), "fifo", N(S_IFIFO | 0666), N(0), N(0), N(0)), 0);
    assert_int_equal(open_fid(c, 2, "fifo", O_RDONLY), -ENXIO);
    assert_int_equal(create(c, 3, "fifo", 0644), -EEXIST);
    assert_int_equal(p9c_clunk(c, 3), 0);
    assert_int_equal(open_fid(c, 3, "prog", O_ACCMODE), -EINVAL);
}

static void test_ids_are_mapped(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    const struct p9_options o = {.uids = {{1000, geteuid(), 1}},
                                 .gids = {{100, getegid(), 1}},
                                 .uid_count = 1,
                                 .gid_count = 1};
    struct attr a;

    restart(f, &o);
    assert_int_equal(create(c, 1, "file", 0644), 0);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.uid, 1000);
    assert_int_equal(a.gid, 100);
    assert_int_equal(setattr(c, 1, 2, 0, 1000, 0, 0), 0);
    assert_int_equal(setattr(c, 1, 2, 0, 0, 0, 0), -EPERM);
    if (geteuid() == 0) {
        assert_int_equal(chown(host(f, "file"), 5, 6), 0);
        assert_int_equal(getattr(c, 1, &a), 0);
        assert_int_equal(a.uid, 65534);
        assert_int_equal(a.gid, 65534);
    }
}

static void test_fids_are_bounded(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    uint32_t i = 1;
    int r;

    while ((r = p9c_walk(c, ROOT, i, "")) == 0 && i < 100000)
        i++;
    assert_int_equal(r, -ENFILE);
    assert_int_equal(i, P9_FIDS_MAX);
    assert_int_equal(p9_server_fids(c->server), P9_FIDS_MAX);
    assert_int_equal(p9c_clunk(c, 7), 0);
    assert_int_equal(p9c_walk(c, ROOT, 7, ""), 0);
    assert_int_equal(p9c_walk(c, ROOT, 7, ""), -EBADF);
    assert_int_equal(p9c_walk(c, ROOT, P9_NO_FID, ""), -EBADF);
    p9_server_reset(c->server);
    assert_int_equal(p9_server_fids(c->server), 0);
}

static void test_open_files_are_bounded(void **state) {
    struct fixture *f = *state;
    struct p9_client *c = f->c;
    struct rlimit before, few = {64, 64};
    int r = 0;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    restart(f, NULL);
    write_file(host(f, "file"), "");
    uint32_t i = 1;
    while ((r = open_fid(c, i, "file", O_RDONLY)) == 0 && i < 100)
        i++;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(r, -EMFILE);
    assert_int_equal(i, 33);
    assert_int_equal(p9c_clunk(c, 1), 0);
    assert_int_equal(open_fid(c, 1, "file", O_RDONLY), 0);
}

/* --- a thousand random operations --- */

#define TWIN_FILES 5

struct twin {
    struct fixture *f;
    char path[64]; /* a folder where the host's own calls do the same */
    uint64_t seed;
};

static unsigned pick(struct twin *t, unsigned n) {
    t->seed = t->seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(t->seed >> 33) % n;
}

/* A random path of one to three names; folder and last name apart. */
static void random_path(struct twin *t, char folder[16], char name[8]) {
    unsigned depth = pick(t, 3);

    *folder = 0;
    for (unsigned i = 0; i < depth; i++)
        sprintf(folder + strlen(folder), "%s%c", i ? "/" : "", 'a' + pick(t, TWIN_FILES));
    sprintf(name, "%c", 'a' + pick(t, TWIN_FILES));
}

static const char *twin_path(const struct twin *t, const char *folder, const char *name) {
    static char path[2][256];
    static unsigned turn;

    turn ^= 1;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s/%s", t->path, folder, name);
    return path[turn];
}

static int by_host_write(const char *path, uint64_t off, const char *data, size_t n, int flags) {
    int fd = open(path, O_WRONLY | O_NOFOLLOW | flags, 0644);

    if (fd < 0)
        return -errno;
    assert_int_equal(pwrite(fd, data, n, (off_t)off), n);
    close(fd);
    return 0;
}

static int by_guest_write(struct p9_client *c, const char *name, uint64_t off, const char *data,
                          size_t n, bool fresh) {
    int r;

    if (fresh)
        r = p9c_do(c, P9_LCREATE, "dsddd", N(1), name, N(O_WRONLY), N(0644), N(0));
    else
        r = p9c_do(c, P9_WALK, "ddws", N(1), N(1), N(1), name);
    if (r == 0 && !fresh)
        r = p9c_do(c, P9_LOPEN, "dd", N(1), N(O_WRONLY));
    return r < 0 ? r : put(c, 1, off, data, n) == (int)n ? 0 : -EIO;
}

/* One operation on both sides; fid 1 is the folder. They must agree on whether it works. */
static void operate(struct twin *t, struct p9_client *c, unsigned what, const char *folder,
                    const char *name) {
    const char *path = twin_path(t, folder, name), *to_path;
    char to_folder[16], to[8], data[300];
    size_t n = 1 + pick(t, sizeof(data) - 1);
    uint64_t off = pick(t, 5000);
    int guest, own;

    memset(data, 'A' + (int)pick(t, 26), sizeof(data));
    random_path(t, to_folder, to);
    to_path = twin_path(t, to_folder, to);
    switch (what) {
    case 0:
        guest = p9c_do(c, P9_MKDIR, "dsdd", N(1), name, N(0755), N(0));
        own = mkdir(path, 0755);
        break;
    case 1:
    case 2:
        guest = by_guest_write(c, name, off, data, n, what == 1);
        own = by_host_write(path, off, data, n, what == 1 ? O_CREAT : 0);
        break;
    case 3:
        guest = p9c_do(c, P9_UNLINKAT, "dsd", N(1), name, N(0));
        own = unlink(path);
        break;
    case 4:
        guest = p9c_do(c, P9_UNLINKAT, "dsd", N(1), name, N(AT_REMOVEDIR));
        own = rmdir(path);
        break;
    case 5:
        guest = p9c_walk(c, ROOT, 2, to_folder);
        if (guest == 0)
            guest = p9c_do(c, P9_RENAMEAT, "dsds", N(1), name, N(2), to);
        own = rename(path, to_path);
        break;
    case 6:
        guest = p9c_walk(c, ROOT, 2, to_folder);
        if (guest == 0)
            guest = p9c_do(c, P9_WALK, "ddws", N(1), N(1), N(1), name);
        if (guest == 0)
            guest = p9c_do(c, P9_LINK, "dds", N(2), N(1), to);
        own = link(path, to_path);
        break;
    case 7:
        guest = p9c_do(c, P9_SYMLINK, "dssd", N(1), name, "nowhere", N(0));
        own = symlink("nowhere", path);
        break;
    default:
        guest = p9c_do(c, P9_WALK, "ddws", N(1), N(1), N(1), name);
        if (guest == 0)
            guest = what == 8 ? setattr(c, 1, 8, 0, 0, off, 0)
                              : setattr(c, 1, 1, 0600 | (uint32_t)(off & 077), 0, 0, 0);
        own = what == 8 ? truncate(path, (off_t)off) : chmod(path, 0600 | (off & 077));
    }
    p9c_clunk(c, 2);
    if ((guest == 0) != (own == 0))
        fail_msg("operation %u on %s/%s: guest %d, host %d (%s)", what, folder, name, guest, own,
                 strerror(errno));
}

/* The tree as text: types, modes, sizes, links and contents, in order of names. */
static void describe(const char *path, FILE *out) {
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);

    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        char sub[PATH_MAX];
        struct stat st;

        snprintf(sub, sizeof(sub), "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.') {
            assert_int_equal(lstat(sub, &st), 0);
            fprintf(out, "%s %o %lu\n", names[i]->d_name, st.st_mode, (unsigned long)st.st_nlink);
            if (S_ISREG(st.st_mode)) {
                FILE *f = fopen(sub, "r");
                for (int c; (c = getc(f)) != EOF;)
                    putc(c, out);
                fclose(f);
            } else if (S_ISDIR(st.st_mode)) {
                describe(sub, out);
            }
        }
        free(names[i]);
    }
    fprintf(out, "end\n");
    free(names);
}

static void compare_trees(const char *a, const char *b) {
    char *text[2];
    size_t len[2];

    for (int i = 0; i < 2; i++) {
        FILE *out = open_memstream(&text[i], &len[i]);
        describe(i ? b : a, out);
        fclose(out);
    }
    assert_int_equal(len[0], len[1]);
    assert_memory_equal(text[0], text[1], len[0]);
    assert_true(len[0] > 1000);
    free(text[0]);
    free(text[1]);
}

static void test_a_thousand_random_operations(void **state) {
    struct fixture *f = *state;
    struct twin t = {.f = f, .seed = 42};

    snprintf(t.path, sizeof(t.path), "%s/twin", f->top);
    assert_int_equal(mkdir(t.path, 0755), 0);
    for (unsigned i = 0; i < 3000; i++) {
        char folder[16], name[8];

        random_path(&t, folder, name);
        if (p9c_walk(f->c, ROOT, 1, folder) < 0)
            continue;
        operate(&t, f->c, pick(&t, 10), folder, name);
        assert_int_equal(p9c_clunk(f->c, 1), 0);
    }
    compare_trees(f->share, t.path);
    assert_int_equal(p9_server_fids(f->c->server), 1);
}

/* --- the device --- */

static void with_device(struct fixture *f, unsigned how,
                        void (*test)(struct fixture *f, struct p9_client *c)) {
    struct p9_client *c = xcalloc(1, sizeof(*c));

    c->v = vdriver_new();
    c->out_gpa = vdriver_alloc(c->v, P9_CLIENT_MAX);
    c->in_gpa = vdriver_alloc(c->v, P9_CLIENT_MAX);
    struct virtio_device *d =
        virtio_p9_new(c->v->mem, new_server(f, NULL), "tag", c->v->loop, NULL);
    assert_non_null(d);
    assert_int_equal(virtio_config_get(d, 0, 2), 3);
    assert_int_equal(virtio_config_get(d, 2, 3), 't' | 'a' << 8 | 'g' << 16);
    vdriver_start(c->v, d, 1, how);
    p9c_attach(c);
    test(f, c);
    vdriver_free(c->v);
    free(c);
}

static void each_ring(void **state, void (*test)(struct fixture *f, struct p9_client *c)) {
    static const unsigned hows[] = {VDRIVER_SPLIT, VDRIVER_PACKED, VDRIVER_INDIRECT,
                                    VDRIVER_PACKED | VDRIVER_INDIRECT | VDRIVER_EVENT_IDX};

    for (size_t i = 0; i < ARRAY_LEN(hows); i++)
        with_device(*state, hows[i], test);
}

static void on_device(struct fixture *f, struct p9_client *c) {
    uint32_t len;
    int id;

    assert_int_equal(create(c, 1, "file", 0644), 0);
    assert_int_equal(put(c, 1, 0, "0123456789", 10), 10);
    assert_int_equal(fetch(c, 1, 2, 60000), 8);
    assert_memory_equal(c->answer + c->at, "23456789", 8);
    /* Several at once, each to be answered. */
    p9c_start(c, P9_CLUNK);
    p9c_int(c, 99, 4);
    memcpy(c->request, &(uint32_t){11}, 4);
    memcpy(vmem(c->v, c->out_gpa), c->request, 11);
    for (unsigned i = 0; i < 8; i++) {
        const struct vbuf b[2] = {{c->out_gpa, 11}, {c->in_gpa + 64 * i, 11}};
        vq_add(c->v, 0, b, 1, 1);
    }
    vq_kick(c->v, 0);
    vdriver_run(c->v);
    for (unsigned i = 0; i < 8; i++) {
        assert_true(vq_get(c->v, 0, &id, &len));
        assert_int_equal(len, 11);
        assert_int_equal(vget(c->v, c->in_gpa + 64 * i + 7, 4), EBADF);
    }
    assert_int_equal(unlink(host(f, "file")), 0);
}

static void test_device(void **state) {
    each_ring(state, on_device);
}

static void moved(struct fixture *f, struct p9_client *c) {
    struct attr a;

    write_file(host(f, "kept"), "0123456789");
    write_file(host(f, "lost"), "x");
    assert_int_equal(mkdir(host(f, "dir"), 0755), 0);
    write_file(host(f, "dir/in"), "inside");
    assert_int_equal(open_fid(c, 1, "kept", O_RDWR), 0);
    assert_int_equal(open_fid(c, 2, "lost", O_RDONLY), 0);
    assert_int_equal(p9c_walk(c, ROOT, 3, "dir/in"), 0);
    assert_int_equal(open_fid(c, 4, "dir", O_RDONLY | O_DIRECTORY), 0);
    assert_int_equal(p9c_walk(c, ROOT, 5, "kept"), 0);
    assert_int_equal(p9c_do(c, P9_XATTRCREATE, "dsqd", N(5), "user.y", N(4), N(0)), 0);
    assert_int_equal(put(c, 5, 0, "ab", 2), 2);
    assert_int_equal(p9c_do(c, P9_UNLINKAT, "dsd", N(ROOT), "lost", N(0)), 0);
    vdriver_copy_state(c->v,
                       virtio_p9_new(c->v->mem, new_server(f, NULL), "tag", c->v->loop, NULL));
    assert_int_equal(fetch(c, 1, 4, 100), 6);
    assert_int_equal(put(c, 1, 0, "x", 1), 1);
    assert_int_equal(fetch(c, 2, 0, 100), -ESTALE);
    assert_int_equal(p9c_clunk(c, 2), 0);
    assert_int_equal(getattr(c, 3, &a), 0);
    assert_int_equal(a.size, 6);
    assert_int_equal(p9c_do(c, P9_READDIR, "dqd", N(4), N(0), N(1000)), 0);
    assert_int_equal(put(c, 5, 2, "cd", 2), 2);
    nftw(f->share, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir(f->share, 0755), 0);
}

static void test_save_and_load(void **state) {
    each_ring(state, moved);
}

/* A record whose every byte may be wrong is refused or loaded, and never out of the folder. */
static void test_records_that_are_wrong(void **state) {
    struct fixture *f = *state;
    struct record_writer w = {0};

    write_file(host(f, "file"), "");
    assert_int_equal(open_fid(f->c, 1, "file", O_RDONLY), 0);
    rec_begin(&w, "p9", 0, 1);
    p9_server_save(f->c->server, &w);
    rec_end(&w);
    size_t start = w.length_at + 4;
    unsigned refused = 0;
    for (size_t i = start; i < w.len; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            struct record_reader r = {.p = w.buf + start, .end = w.buf + w.len}, again = r;

            w.buf[i] ^= (uint8_t)(1 << bit);
            if (p9_server_check(&r, NULL) == 0)
                p9_server_load(f->c->server, &again);
            else
                refused++;
            w.buf[i] ^= (uint8_t)(1 << bit);
        }
    assert_true(refused > 100);
    char *name = memmem(w.buf, w.len, "file", 4);
    struct record_reader r = {.p = w.buf + start, .end = w.buf + w.len};
    memcpy(name, "../x", 4);
    assert_true(p9_server_check(&r, NULL) < 0);
    rec_writer_free(&w);
}

static void reset_forgets(struct fixture *f, struct p9_client *c) {
    (void)f;
    assert_int_equal(p9c_walk(c, ROOT, 1, ""), 0);
    vdriver_start(c->v, c->v->d, 1, c->v->how);
    assert_int_equal(p9c_do(c, P9_CLUNK, "d", N(1)), -EPROTO);
    p9c_attach(c);
    assert_int_equal(p9c_clunk(c, 1), -EBADF);
}

static void test_reset_forgets_fids(void **state) {
    each_ring(state, reset_forgets);
}

static void no_room(struct fixture *f, struct p9_client *c) {
    const struct vbuf b[2] = {{c->out_gpa, 7}, {c->in_gpa, 5}};

    (void)f;
    assert_int_equal(vq_do(c->v, 0, b, 1, 1), 0);
    assert_true(virtio_status(c->v->d) & VIRTIO_NEEDS_RESET);
    vdriver_start(c->v, c->v->d, 1, c->v->how);
    p9c_attach(c);
}

static void test_no_room_for_an_answer(void **state) {
    each_ring(state, no_room);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_version_comes_first),
        T(test_messages_that_are_none),
        T(test_sizes_that_lie),
        T(test_a_file),
        T(test_the_process_umask_does_not_matter),
        T(test_unlinked_and_renamed_while_open),
        T(test_renamed_folders),
        T(test_folders_are_listed_whole),
        T(test_locks),
        T(test_extended_attributes),
        T(test_hostile_names),
        T(test_links_lead_nowhere),
        T(test_folders_that_turn_into_links),
        T(test_the_folder_vanishes),
        T(test_read_only),
        T(test_nothing_to_run_or_to_wait_for),
        T(test_ids_are_mapped),
        T(test_fids_are_bounded),
        T(test_open_files_are_bounded),
        T(test_a_thousand_random_operations),
        T(test_device),
        T(test_save_and_load),
        T(test_records_that_are_wrong),
        T(test_reset_forgets_fids),
        T(test_no_room_for_an_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
