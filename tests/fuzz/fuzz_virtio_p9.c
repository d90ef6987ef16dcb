/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shared folder, below one that holds what nobody may touch. The first byte says whether the rest
 * is a driver's program, or 9P messages one after the other, which come further than those that a
 * driver's program puts together by chance.
 */
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz_virtio.h"
#include "virtio/p9.h"
#include "virtio/p9/server.h"

static char top[] = "/tmp/rf-fuzz-XXXXXX";
static char share[64], secret[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    return ftw->level ? remove(path) : 0;
}

static void clean(void) {
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    rmdir(top);
}

static void prepare(void) {
    int fd;

    if (!share[0]) {
        if (!mkdtemp(top))
            abort();
        snprintf(share, sizeof(share), "%s/share", top);
        snprintf(secret, sizeof(secret), "%s/secret", top);
        atexit(clean);
        mkdir(share, 0755);
        fd = open(secret, O_WRONLY | O_CREAT, 0444);
        close(fd);
    }
    nftw(share, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* What lies beside the folder is as it was. */
static void check_secret(void) {
    struct stat st;

    if (stat(secret, &st) < 0 || st.st_size != 0 || (st.st_mode & 07777) != 0444 ||
        st.st_nlink != 1)
        abort();
}

static struct p9_server *new_server(void) {
    static const struct p9_options options;
    struct p9_server *s = p9_server_new(share, &options, NULL);

    if (!s)
        abort();
    return s;
}

static struct virtio_device *make(struct mem *m, struct loop *l) {
    return virtio_p9_new(m, new_server(), "tag", l, NULL);
}

static void say(struct p9_server *s, const uint8_t *body, size_t n) {
    static uint8_t message[512], answer[8192];
    const uint32_t size = (uint32_t)MIN(n, sizeof(message) - 4) + 4;
    const struct iovec out = {message, size}, in = {answer, sizeof(answer)};

    memcpy(message, &size, 4);
    memcpy(message + 4, body, size - 4);
    p9_serve(s, &out, 1, &in, 1);
}

/* Each message: its length, then type, tag and fields. The session is there already, with fid 0. */
static void talk(const uint8_t *data, size_t size) {
    static const uint8_t version[] = "\x64\xff\xff\x00\x20\x00\x00\x08\x00"
                                     "9P2000.L";
    static const uint8_t attach[] = "\x68\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"
                                    "\x00\x00\x00\x00";
    struct p9_server *s = new_server();

    say(s, version, sizeof(version) - 1);
    say(s, attach, sizeof(attach) - 1);
    while (size) {
        size_t n = MIN((size_t)data[0], size - 1);

        say(s, data + 1, n);
        data += 1 + n;
        size -= 1 + n;
    }
    p9_server_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size)
        return 0;
    prepare();
    if (data[0] & 1)
        talk(data + 1, size - 1);
    else
        fuzz_virtio(make, data + 1, size - 1);
    check_secret();
    return 0;
}
