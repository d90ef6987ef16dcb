/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk formats of other hypervisors: random operations against a model, qemu-img's view of our
 * files and ours of its where it is installed, writers that are killed, full disks, files that lie.
 *
 * RF_CRASHES=N kills N writers rather than some, RF_OPERATIONS=N does N operations a kind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/volume.h"

#define MODEL_BYTES (24u << 20)
#define PATH_BYTES 64

/* What is tried of each format. */
static const struct kind {
    const struct volume_format *format;
    const char *subformat;
    const char *qemu;         /* qemu-img's name of the format */
    const char *qemu_options; /* which give the same kind of image */
    bool qemu_checks, grows;
} kinds[] = {
    {&volume_vdi, "dynamic", "vdi", "static=off", true, true},
    {&volume_vdi, "fixed", "vdi", "static=on", true, false},
    {&volume_vhd, "dynamic", "vpc", "subformat=dynamic", false, true},
    {&volume_vhd, "fixed", "vpc", "subformat=fixed,force_size=on", false, false},
    {&volume_vmdk, "monolithicSparse", "vmdk", "subformat=monolithicSparse", true, false},
    {&volume_vmdk, "monolithicFlat", "vmdk", "subformat=monolithicFlat", false, false},
    {&volume_vmdk, "twoGbMaxExtentFlat", "vmdk", "subformat=twoGbMaxExtentFlat", false, false},
};

struct fixture {
    char dir[32], path[PATH_BYTES], raw[PATH_BYTES];
};

static unsigned from_env(const char *name, unsigned otherwise) {
    const char *text = getenv(name);

    return text ? (unsigned)atoi(text) : otherwise;
}

static uint64_t seed = 1;

static uint32_t rnd(uint32_t below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 20) % below;
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    strcpy(f->dir, "/tmp/rf-volumes-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, PATH_BYTES, "%s/image", f->dir);
    snprintf(f->raw, PATH_BYTES, "%s/raw", f->dir);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    cleanup_free char *command = xasprintf("rm -r %s", f->dir);

    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static struct volume *must_open(const char *path, const struct volume_format *f, bool read_only) {
    const struct volume_options o = {.format = f, .read_only = read_only};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v = volume_open(path, &o, &e);

    if (!v)
        fail_msg("%s", err_msg(&e));
    return v;
}

static void must_create(const char *path, const struct kind *k, uint64_t size) {
    const struct volume_create c = {.size = size, .force = true, .subformat = k->subformat};
    cleanup_err struct err e = ERR_INIT;

    if (volume_create(path, k->format, &c, &e) < 0)
        fail_msg("%s", err_msg(&e));
}

static void print_finding(void *arg, const char *line) {
    (void)arg;
    print_message("%s\n", line);
}

static struct volume_check check(const char *path, const struct kind *k, enum volume_repair how) {
    const struct volume_options o = {
        .format = k->format, .read_only = how == VOLUME_REPAIR_NONE, .for_repair = true};
    struct volume_check c = {.say = print_finding};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v = volume_open(path, &o, &e);

    if (!v || (v->ops->check && v->ops->check(v, how, &c, &e) < 0))
        fail_msg("%s", err_msg(&e));
    assert_int_equal(volume_close(v), 0);
    return c;
}

/* Whether there is a qemu-img, and that it succeeds. */
__attribute__((format(printf, 1, 2))) static bool qemu_img(const char *fmt, ...) {
    char arguments[512];
    va_list ap;

    if (system("command -v qemu-img >/dev/null 2>&1") != 0)
        return false;
    va_start(ap, fmt);
    vsnprintf(arguments, sizeof(arguments), fmt, ap);
    va_end(ap);
    cleanup_free char *command = xasprintf("qemu-img %s >&2", arguments);
    if (system(command) != 0)
        fail_msg("%s", command);
    return true;
}

static void must_be_clean(const char *path, const struct kind *k) {
    struct volume_check c = check(path, k, VOLUME_REPAIR_NONE);

    assert_int_equal(c.corruptions, 0);
    assert_int_equal(c.leaks, 0);
    if (k->qemu_checks)
        qemu_img("check -q -f %s %s", k->qemu, path);
}

/* --- random operations --- */

struct model {
    struct volume *v;
    const struct kind *kind;
    const char *path;
    uint8_t *now, *buf;
};

static void verify(struct model *m, uint64_t off, uint64_t len) {
    assert_int_equal(volume_read(m->v, off, m->buf, len), 0);
    for (uint64_t i = 0; memcmp(m->buf, m->now + off, len) != 0 && i < len; i++)
        if (m->buf[i] != m->now[off + i])
            fail_msg("at %#llx: %#x, not %#x", (unsigned long long)(off + i), m->buf[i],
                     m->now[off + i]);
}

static void do_write(struct model *m, uint64_t off, uint64_t len) {
    for (uint64_t i = 0; i < len; i++)
        m->now[off + i] = (uint8_t)rnd(256);
    assert_int_equal(volume_write(m->v, off, m->now + off, len), 0);
}

static void do_zero(struct model *m, uint64_t off, uint64_t len) {
    memset(m->now + off, 0, len);
    assert_int_equal(m->v->ops->zero(m->v, off, len, rnd(2)), 0);
}

/* Each byte is what it was, or 0. */
static void do_discard(struct model *m, uint64_t off, uint64_t len) {
    assert_int_equal(m->v->ops->discard(m->v, off, len), 0);
    assert_int_equal(volume_read(m->v, off, m->buf, len), 0);
    for (uint64_t i = 0; i < len; i++)
        assert_true(!m->buf[i] || m->buf[i] == m->now[off + i]);
    memcpy(m->now + off, m->buf, len);
}

static void reopen(struct model *m) {
    assert_int_equal(volume_close(m->v), 0);
    must_be_clean(m->path, m->kind);
    m->v = must_open(m->path, m->kind->format, false);
}

static void one_operation(struct model *m) {
    uint64_t off = rnd(MODEL_BYTES / 512) * 512ull;
    uint64_t len = MIN((1 + rnd(1u << rnd(13))) * 512ull, MODEL_BYTES - off);

    switch (rnd(16)) {
    case 0:
        do_zero(m, off, len);
        break;
    case 1:
        do_discard(m, off, len);
        break;
    case 2:
        assert_int_equal(m->v->ops->flush(m->v), 0);
        break;
    case 3:
        if (rnd(8) == 0)
            reopen(m);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        verify(m, off, len);
        break;
    default:
        do_write(m, off, len);
    }
}

static void write_file(const char *path, const uint8_t *p, size_t len) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_int_equal(write(fd, p, len), (ssize_t)len);
    close(fd);
}

static void run_model(const struct fixture *f, const struct kind *k) {
    struct model m = {.path = f->path, .kind = k};

    m.now = xcalloc(1, MODEL_BYTES);
    m.buf = xcalloc(1, MODEL_BYTES);
    must_create(f->path, k, MODEL_BYTES);
    m.v = must_open(f->path, k->format, false);
    for (unsigned i = 0; i < from_env("RF_OPERATIONS", 120); i++)
        one_operation(&m);
    verify(&m, 0, MODEL_BYTES);
    reopen(&m);
    verify(&m, 0, MODEL_BYTES);
    assert_int_equal(volume_close(m.v), 0);
    write_file(f->raw, m.now, MODEL_BYTES);
    qemu_img("compare -q -f %s -F raw %s %s", k->qemu, f->path, f->raw);
    free(m.now);
    free(m.buf);
}

static void random_operations(void **state) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        print_message("%s %s\n", kinds[i].format->name, kinds[i].subformat);
        run_model(*state, &kinds[i]);
    }
}

/* An image of qemu-img's, read, and written on. */
static void qemu_images(void **state) {
    const struct fixture *f = *state;
    struct model m = {.path = f->path};

    m.now = xcalloc(1, MODEL_BYTES);
    m.buf = xcalloc(1, MODEL_BYTES);
    for (unsigned i = 0; i < MODEL_BYTES / 2; i++)
        m.now[i + MODEL_BYTES / 4] = (uint8_t)rnd(256);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        m.kind = &kinds[i];
        write_file(f->raw, m.now, MODEL_BYTES);
        if (!qemu_img("convert -f raw -O %s -o %s %s %s", m.kind->qemu, m.kind->qemu_options,
                      f->raw, f->path))
            skip();
        must_be_clean(f->path, m.kind);
        m.v = must_open(f->path, m.kind->format, false);
        assert_true(m.v->size >= MODEL_BYTES);
        verify(&m, 0, MODEL_BYTES);
        for (unsigned n = 0; n < 20; n++)
            do_write(&m, rnd(MODEL_BYTES / 512 - 256) * 512ull, (1 + rnd(256)) * 512ull);
        reopen(&m);
        verify(&m, 0, MODEL_BYTES);
        assert_int_equal(volume_close(m.v), 0);
        write_file(f->raw, m.now, MODEL_BYTES);
        qemu_img("compare -q -f %s -F raw %s %s", m.kind->qemu, f->path, f->raw);
    }
    free(m.now);
    free(m.buf);
}

/* --- writers that are killed --- */

#define BLOCK 65536u
#define BLOCKS (MODEL_BYTES / BLOCK)

/* What the writer says of itself, in memory that outlives it. */
struct ledger {
    uint32_t written[BLOCKS], flushed[BLOCKS]; /* versions */
};

static void fill_block(uint32_t *p, uint32_t block, uint32_t version) {
    for (unsigned i = 0; i < BLOCK / 4; i++)
        p[i] = block * 2654435761u ^ version * 40503u;
    p[0] = version;
}

static void write_for_ever(const char *path, const struct kind *k, struct ledger *l) {
    struct volume *v = must_open(path, k->format, false);
    uint32_t buf[BLOCK / 4], done[BLOCKS];

    memcpy(done, l->written, sizeof(done));
    for (;;) {
        uint32_t block = rnd(BLOCKS);

        fill_block(buf, block, done[block] + 1);
        l->written[block] = done[block] + 1;
        /* A kill may leave the first half of a larger write: each sector has its own version. */
        if (volume_write(v, (uint64_t)block * BLOCK, buf, 4096) < 0)
            _exit(1);
        done[block]++;
        if (rnd(4) == 0) {
            if (v->ops->flush(v) < 0)
                _exit(1);
            memcpy(l->flushed, done, sizeof(done));
        }
    }
}

/* What was flushed is there, or something newer. */
static void verify_ledger(const char *path, const struct kind *k, struct ledger *l) {
    struct volume *v = must_open(path, k->format, true);
    uint32_t buf[BLOCK / 4], want[BLOCK / 4];

    for (uint32_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(volume_read(v, (uint64_t)i * BLOCK, buf, BLOCK), 0);
        assert_in_range(buf[0], l->flushed[i], l->written[i]);
        memset(want, 0, sizeof(want));
        if (buf[0])
            fill_block(want, i, buf[0]);
        memset((uint8_t *)want + 4096, 0, BLOCK - 4096);
        assert_memory_equal(buf, want, BLOCK);
        l->flushed[i] = l->written[i] = buf[0];
    }
    volume_close(v);
}

static void kill_one(const char *path, const struct kind *k, struct ledger *l) {
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0)
        write_for_ever(path, k, l);
    usleep(2000 + rnd(30000));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void run_crashes(const char *path, const struct kind *k) {
    struct ledger *l =
        mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(l, MAP_FAILED);
    must_create(path, k, MODEL_BYTES);
    for (unsigned i = 0; i < from_env("RF_CRASHES", 8); i++) {
        rnd(2);
        kill_one(path, k, l);
        assert_int_equal(check(path, k, VOLUME_REPAIR_NONE).corruptions, 0);
        if (k->qemu_checks)
            qemu_img("check -q -f %s %s", k->qemu, path);
        verify_ledger(path, k, l);
        if (i % 4 == 3) {
            check(path, k, VOLUME_REPAIR_LEAKS);
            must_be_clean(path, k);
        }
    }
    munmap(l, sizeof(*l));
}

static void killed_writers(void **state) {
    const struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        run_crashes(f->path, &kinds[i]);
}

/* --- a full disk --- */

static void run_full(const struct fixture *f, const struct kind *k) {
    const struct rlimit small = {9u << 20, RLIM_INFINITY};
    cleanup_free uint8_t *in = xcalloc(1, BLOCK), *buf = xcalloc(1, BLOCK);
    struct rlimit before;
    unsigned failed = 0, last = 0;

    must_create(f->path, k, MODEL_BYTES);
    struct volume *v = must_open(f->path, k->format, false);
    memset(buf, 0x5a, BLOCK);
    getrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (unsigned i = 0; i < BLOCKS && failed < 20; i++) {
        if (volume_write(v, (uint64_t)i * BLOCK, buf, BLOCK) < 0)
            failed++;
        else
            last = i;
    }
    assert_int_equal(failed, 20);
    v->ops->flush(v);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    for (unsigned i = 0; i <= last; i++) {
        assert_int_equal(volume_read(v, (uint64_t)i * BLOCK, in, BLOCK), 0);
        assert_memory_equal(in, buf, BLOCK);
    }
    assert_int_equal(volume_write(v, MODEL_BYTES - BLOCK, buf, BLOCK), 0);
    assert_int_equal(volume_close(v), 0);
    must_be_clean(f->path, k);
    v = must_open(f->path, k->format, true);
    assert_int_equal(volume_read(v, MODEL_BYTES - BLOCK, in, BLOCK), 0);
    assert_memory_equal(in, buf, BLOCK);
    volume_close(v);
}

static void full_disk(void **state) {
    signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        run_full(*state, &kinds[i]);
}

/* --- sizes --- */

static void run_sizes(const struct fixture *f, const struct kind *k) {
    cleanup_err struct err e = ERR_INIT;
    uint8_t buf[8192], in[8192];
    struct volume *v;

    memset(buf, 7, sizeof(buf));
    must_create(f->path, k, 3u << 20);
    v = must_open(f->path, k->format, false);
    assert_int_equal(volume_write(v, 4096, buf, sizeof(buf)), 0);
    assert_int_equal(v->ops->resize(v, 64u << 20, &e), 0);
    assert_int_equal(volume_write(v, (64u << 20) - 8192, buf, sizeof(buf)), 0);
    assert_int_equal(volume_close(v), 0);
    must_be_clean(f->path, k);
    v = must_open(f->path, k->format, false);
    assert_int_equal(v->size, 64u << 20);
    assert_int_equal(volume_read(v, 4096, in, sizeof(in)), 0);
    assert_memory_equal(in, buf, sizeof(in));
    assert_int_equal(volume_read(v, (64u << 20) - 8192, in, sizeof(in)), 0);
    assert_memory_equal(in, buf, sizeof(in));
    assert_true(v->ops->resize(v, 4096, &e) < 0);
    assert_true(v->ops->resize(v, 1ull << 60, &e) < 0);
    assert_int_equal(volume_close(v), 0);
    must_be_clean(f->path, k);
}

static void a_disk_that_changes_its_size(void **state) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (kinds[i].grows)
            run_sizes(*state, &kinds[i]);
}

/* --- files that lie --- */

struct lie {
    uint64_t off;
    const char *bytes; /* of `count` bytes */
    unsigned count;
    const char *why;
};

static void patch(const char *path, uint64_t off, const void *bytes, unsigned count) {
    int fd = open(path, O_RDWR);

    assert_int_equal(pwrite(fd, bytes, count, (off_t)off), count);
    close(fd);
}

static void refused(const char *path, const struct volume_format *f, const char *why) {
    const struct volume_options o = {.format = f};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v = volume_open(path, &o, &e);

    if (v)
        fail_msg("opened, though: %s", why);
    if (!strstr(err_msg(&e), why))
        fail_msg("'%s' is not in: %s", why, err_msg(&e));
}

/* Two blocks are in use. `seal` makes checksums right again; NULL: there are none. */
static void run_lies(const char *path, const struct kind *k, const struct lie *lies, size_t n,
                     void (*seal)(const char *path)) {
    uint8_t buf[512] = {1};

    for (size_t i = 0; i < n; i++) {
        must_create(path, k, MODEL_BYTES);
        struct volume *v = must_open(path, k->format, false);
        assert_int_equal(volume_write(v, 0, buf, sizeof(buf)), 0);
        assert_int_equal(volume_write(v, 8u << 20, buf, sizeof(buf)), 0);
        assert_int_equal(volume_close(v), 0);
        patch(path, lies[i].off, lies[i].bytes, lies[i].count);
        if (seal)
            seal(path);
        refused(path, k->format, lies[i].why);
    }
}

static void vdi_lies(void **state) {
    static const struct lie lies[] = {
        {0x40, "\1", 1, "not a vdi image"},
        {0x44, "\2", 1, "vdi version"},
        {0x4c, "\4", 1, "differencing and undo"},
        {0x168, "\0\20", 2, "sectors of 4096"},
        {0x178, "\1", 1, "blocks of 1048577 bytes"},
        {0x17c, "\1", 1, "and 1 more"},
        {0x170, "\0\0\0\0\0\0\0\0", 8, "a size of 0 bytes"},
        {0x170, "\0\0\0\0\0\0\0\x7f", 8, "a size of 9151314442816847872 bytes, of 24 blocks"},
        {0x180, "\xff\xff\xff\xff", 4, "of 4294967295 blocks"},
        {0x154, "\0\1\0\0", 4, "a block table at 0x100"},
        {0x158, "\0\2\0\0", 4, "blocks at 0x200"},
        {0x158, "\0\0\0\x70", 4, "ends within the block table"},
        {0x200, "\1\0\0\0", 4, "block 8 lies on top of another"},
        {0x200, "\2\0\0\0", 4, "block 0 lies behind the end"},
        {0x204, "\xfd\xff\xff\xff", 4, "block 1 lies behind the end"},
    };
    const struct fixture *f = *state;
    struct volume_check c;

    run_lies(f->path, &kinds[0], lies, ARRAY_LEN(lies), NULL);
    assert_int_equal(check(f->path, &kinds[0], VOLUME_REPAIR_NONE).corruptions, 1);
    /* A wrong number of blocks is mended. */
    must_create(f->path, &kinds[0], MODEL_BYTES);
    patch(f->path, 0x184, "\5", 1);
    c = check(f->path, &kinds[0], VOLUME_REPAIR_ALL);
    assert_int_equal(c.corruptions, 1);
    assert_int_equal(c.corruptions_fixed, 1);
    must_be_clean(f->path, &kinds[0]);
}

/* The footer's sum at both ends, and the header's. */
static void seal_at(int fd, off_t at, unsigned len, unsigned sum_at) {
    uint8_t p[1024], be[4];
    uint32_t sum = 0;

    assert_int_equal(pread(fd, p, len, at), len);
    memset(p + sum_at, 0, 4);
    for (unsigned i = 0; i < len; i++)
        sum += p[i];
    be32_put(be, ~sum);
    assert_int_equal(pwrite(fd, be, 4, at + sum_at), 4);
}

static void vhd_seal(const char *path) {
    uint8_t footer[512];
    int fd = open(path, O_RDWR);

    seal_at(fd, 0, 512, 64);
    seal_at(fd, 512, 1024, 36);
    assert_int_equal(pread(fd, footer, 512, 0), 512);
    assert_int_equal(pwrite(fd, footer, 512, lseek(fd, 0, SEEK_END) - 512), 512);
    close(fd);
}

static void vhd_lies(void **state) {
    static const struct lie lies[] = {
        {0, "x", 1, "not a vhd image"},
        {16, "\1", 1, "a header at 0x1"},
        {60, "\0\0\0\5", 4, "type 5"},
        {48, "\0\0\0\0\0\0\0\0", 8, "a size of 0 bytes"},
        {48, "\0\0\0\0\x7f\0\0\0", 8, "a size of 2130706432 bytes, of 12 blocks"},
        {512, "x", 1, "the header is damaged"},
        {512 + 16, "\0\0\0\0\0\0\1\0", 8, "a block table at 0x100"},
        {512 + 16, "\x7f\0\0\0\0\0\0\0", 8, "a block table at 0x7f00"},
        {512 + 28, "\x7f\0\0\0", 4, "a block table at 0x600"},
        {512 + 32, "\0\0\0\1", 4, "blocks of 1 bytes"},
        {1536, "\0\0\0\0", 4, "block 0 lies within the tables"},
        {1536, "\0\0\x18\2", 4, "block 4 lies on top of another"},
        {1536, "\x10\0\0\0", 4, "block 0 lies behind the end"},
    };
    const struct fixture *f = *state;
    const struct kind *k = &kinds[2];

    run_lies(f->path, k, lies, ARRAY_LEN(lies), vhd_seal);
    /* Without the footer at the end, the one at the start does. */
    must_create(f->path, k, MODEL_BYTES);
    assert_int_equal(truncate(f->path, 1u << 20), 0);
    volume_close(must_open(f->path, k->format, true));
    patch(f->path, 100, "x", 1);
    refused(f->path, k->format, "checksum is wrong");
}

static void a_fixed_vhd_that_lies(void **state) {
    const struct fixture *f = *state;
    const struct kind *k = &kinds[3];
    cleanup_free char *vhd = xasprintf("%s/a.vhd", f->dir), *img = xasprintf("%s/a.img", f->dir);
    cleanup_err struct err e = ERR_INIT;
    int fd;

    must_create(vhd, k, MODEL_BYTES);
    assert_ptr_equal(volume_probe(vhd, &e), &volume_vhd);
    /* A raw disk whose guest wrote a footer. */
    must_create(img, k, MODEL_BYTES);
    assert_null(volume_probe(img, &e));
    assert_non_null(strstr(err_msg(&e), "may be a guest's"));
    patch(vhd, MODEL_BYTES + 48, "\0\0\0\0\x7f\0\0\0", 8);
    fd = open(vhd, O_RDWR);
    seal_at(fd, MODEL_BYTES, 512, 64);
    close(fd);
    refused(vhd, k->format, "a disk of 2130706432 bytes in a file of");
}

/* Sectors 0 to 7 of the second block are its own, all others are the parent's. */
static void a_differencing_vhd(void **state) {
    static const char name[] = "\0p\0.\0v\0h\0d\0";
    const struct fixture *f = *state;
    const struct kind *k = &kinds[2];
    cleanup_free char *parent = xasprintf("%s/p.vhd", f->dir);
    uint8_t *want = xcalloc(1, MODEL_BYTES), *in = xcalloc(1, MODEL_BYTES);
    cleanup_free uint8_t *bitmap = xcalloc(1, 512);
    struct volume *v;

    must_create(parent, k, MODEL_BYTES);
    v = must_open(parent, k->format, false);
    memset(want + (1u << 20), 3, 4u << 20);
    assert_int_equal(volume_write(v, 1u << 20, want + (1u << 20), 4u << 20), 0);
    assert_int_equal(volume_close(v), 0);
    must_create(f->path, k, MODEL_BYTES);
    v = must_open(f->path, k->format, false);
    memset(want + (2u << 20), 9, 4096);
    assert_int_equal(volume_write(v, 2u << 20, want + (2u << 20), 4096), 0);
    assert_int_equal(volume_close(v), 0);
    bitmap[0] = 0xff;
    patch(f->path, 1u << 20, bitmap, 512);
    patch(f->path, 60, "\0\0\0\4", 4);
    patch(f->path, 512 + 64, name, sizeof(name));
    vhd_seal(f->path);
    v = must_open(f->path, k->format, true);
    assert_non_null(v->backing);
    assert_int_equal(volume_read(v, 0, in, MODEL_BYTES), 0);
    assert_memory_equal(in, want, MODEL_BYTES);
    assert_int_equal(volume_close(v), 0);
    refused(f->path, k->format, "can be read only");
    patch(f->path, 512 + 64, "\0/", 2);
    vhd_seal(f->path);
    const struct volume_options o = {.format = k->format, .read_only = true};
    cleanup_err struct err e = ERR_INIT;
    assert_null(volume_open(f->path, &o, &e));
    assert_non_null(strstr(err_msg(&e), "in another folder"));
    free(want);
    free(in);
}

static void vmdk_lies(void **state) {
    /* Sectors: descriptor 1, second directory 21, its table 22, directory 26, its table 27. */
    static const struct lie lies[] = {
        {0, "x", 1, "not a vmdk image"},
        {4, "\4", 1, "vmdk version 4"},
        {8, "\3\0\1", 3, "an unknown compression"},
        {20, "\7", 1, "grains of 7 sectors"},
        {12, "\0\0\0\0\0\0\0\0", 8, "a size of 0 sectors"},
        {12, "\0\0\0\0\0\1\0\0", 8, "a size of 1099511627776 sectors"},
        {12, "\0\0\0\1\0\0\0\0", 8, "each in its place"},
        {28, "\xff\xff", 2, "a descriptor of 20 sectors at 65535"},
        {36, "\xff\xff", 2, "a descriptor of 65535 sectors"},
        {44, "\0\4", 2, "grain tables of 1024 entries"},
        {48, "\x1a", 1, "each in its place"},
        {56, "\xff\xff\xff\xff\xff\xff\xff", 7, "a grain directory at sector"},
        {64, "\1", 1, "each in its place"},
        {64, "\0", 1, "tables of 0 sectors"},
        {75, "\n", 1, "a transfer as text"},
        {26 * 512, "\0\0\0\x70", 4, "grain table 0 lies behind the end"},
        {26 * 512, "\0", 1, "each in its place"},
        {27 * 512, "\1", 1, "block 0 lies within the tables"},
        {27 * 512, "\0\0\0\x70", 4, "block 0 lies behind the end"},
        {27 * 512, "\x81", 1, "block 128 lies on top of another"},
        {512 + 55, "0", 1, "a snapshot of another disk"},
    };
    const struct fixture *f = *state;

    run_lies(f->path, &kinds[4], lies, ARRAY_LEN(lies), NULL);
}

static void vmdk_descriptors_that_lie(void **state) {
    static const struct {
        const char *extents, *why;
    } lies[] = {
        {"", "has no extents"},
        {"RW 10 FLAT", "makes no sense"},
        {"RW 8 FLAT \"/etc/passwd\" 0", "is in another folder"},
        {"RW 8 FLAT \"..\" 0", "is in another folder"},
        {"RW 8 FLAT \"none\" 0", "No such file"},
        {"RW 8 SPARSE \"raw\"", "extents of type SPARSE"},
        {"RW 9 FLAT \"raw\" 0", "ends before the extent does"},
        {"RW 8 FLAT \"raw\" 1", "ends before the extent does"},
        {"RW 8 FLAT \"raw\" 18446744073709551615", "ends before the extent does"},
        {"RW 18446744073709551615 ZERO", "an extent of 18446744073709551615 sectors"},
        {"RW 0 ZERO", "an extent of 0 sectors"},
        {"RDONLY 8 FLAT \"raw\" 0", "can be read only"},
    };
    const struct fixture *f = *state;
    uint8_t sectors[4096], in[8192], want[8192] = {0};

    memset(sectors, 5, sizeof(sectors));
    write_file(f->raw, sectors, sizeof(sectors));
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        cleanup_free char *text = xasprintf("# Disk DescriptorFile\n%s\n", lies[i].extents);

        write_file(f->path, (const uint8_t *)text, strlen(text));
        refused(f->path, &volume_vmdk, lies[i].why);
    }
    /* What does not lie. */
    static const char good[] = "# Disk DescriptorFile\r\nparentCID = FFFFFFFF\r\nRW 8 ZERO\r\n"
                               "RW 7 FLAT \"raw\" 1\r\nRW 1 FLAT \"raw\"";
    write_file(f->path, (const uint8_t *)good, strlen(good));
    struct volume *v = must_open(f->path, &volume_vmdk, true);
    assert_int_equal(v->size, sizeof(in));
    assert_int_equal(volume_read(v, 0, in, sizeof(in)), 0);
    memset(want + 4096, 5, 4096);
    assert_memory_equal(in, want, sizeof(in));
    volume_close(v);
}

/* qemu-img's, which is read. */
static void a_compressed_vmdk(void **state) {
    const struct fixture *f = *state;
    struct model m = {.path = f->path};
    uint8_t buf[512];
    int fd;

    m.now = xcalloc(1, MODEL_BYTES);
    m.buf = xcalloc(1, MODEL_BYTES);
    for (unsigned i = 0; i < MODEL_BYTES / 2; i++)
        m.now[i + MODEL_BYTES / 4] = (uint8_t)rnd(i >> 18 & 1 ? 256 : 2);
    write_file(f->raw, m.now, MODEL_BYTES);
    if (qemu_img("convert -f raw -O vmdk -o subformat=streamOptimized %s %s", f->raw, f->path)) {
        refused(f->path, &volume_vmdk, "can be read only");
        m.v = must_open(f->path, &volume_vmdk, true);
        verify(&m, 0, MODEL_BYTES);
        verify(&m, MODEL_BYTES / 4 - 512, 1024);
        assert_int_equal(volume_close(m.v), 0);
        /* A grain of another place is found out. */
        fd = open(f->path, O_RDONLY);
        assert_int_equal(pread(fd, buf, 512, 65536), 512);
        close(fd);
        buf[0] ^= 1;
        patch(f->path, 65536, buf, 1);
        m.v = must_open(f->path, &volume_vmdk, true);
        assert_int_equal(volume_read(m.v, 0, m.buf, MODEL_BYTES), -EIO);
        volume_close(m.v);
    }
    free(m.now);
    free(m.buf);
}

/* Ours, which is written once. */
static void a_stream(void **state) {
    static const struct kind k = {&volume_vmdk, "streamOptimized", "vmdk", "", true, false};
    const struct fixture *f = *state;
    struct model m = {.path = f->path, .kind = &k};

    m.now = xcalloc(1, MODEL_BYTES);
    m.buf = xcalloc(1, MODEL_BYTES);
    must_create(f->path, &k, MODEL_BYTES - 512);
    must_be_clean(f->path, &k);
    m.v = must_open(f->path, &volume_vmdk, false);
    assert_int_equal(volume_write(m.v, 512, m.now, 512), -EROFS);
    for (uint64_t off = 0; off < m.v->size; off += 5 * BLOCK)
        do_write(&m, off, MIN(2ull * BLOCK, m.v->size - off));
    assert_int_equal(volume_write(m.v, 0, m.now, BLOCK), -EROFS);
    verify(&m, 0, m.v->size);
    assert_int_equal(volume_close(m.v), 0);
    must_be_clean(f->path, &k);
    refused(f->path, &volume_vmdk, "can be read only");
    m.v = must_open(f->path, &volume_vmdk, true);
    verify(&m, 0, m.v->size);
    assert_int_equal(volume_close(m.v), 0);
    write_file(f->raw, m.now, MODEL_BYTES - 512);
    qemu_img("compare -q -f vmdk -F raw %s %s", f->path, f->raw);
    free(m.now);
    free(m.buf);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(random_operations),
        TEST(qemu_images),
        TEST(killed_writers),
        TEST(full_disk),
        TEST(a_disk_that_changes_its_size),
        TEST(vdi_lies),
        TEST(vhd_lies),
        TEST(a_fixed_vhd_that_lies),
        TEST(a_differencing_vhd),
        TEST(vmdk_lies),
        TEST(vmdk_descriptors_that_lie),
        TEST(a_compressed_vmdk),
        TEST(a_stream),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
