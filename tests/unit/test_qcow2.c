/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2: random operations against a model, with every kind of image, and qemu-img's judgement
 * where it is installed; writers that are killed; full disks; images that lie.
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
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "block/bytes_be.h"
#include "block/volume.h"

#define MODEL_BYTES (4u << 20)
#define PATH_BYTES 64

struct fixture {
    char dir[32], path[PATH_BYTES], base[PATH_BYTES];
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

    strcpy(f->dir, "/tmp/rf-qcow2-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, PATH_BYTES, "%s/a.qcow2", f->dir);
    snprintf(f->base, PATH_BYTES, "%s/base.img", f->dir);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;

    unlink(f->path);
    unlink(f->base);
    rmdir(f->dir);
    free(f);
    return 0;
}

static struct volume *must_open(const char *path, bool read_only) {
    const struct volume_options o = {.format = &volume_qcow2, .read_only = read_only};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v = volume_open(path, &o, &e);

    if (!v)
        fail_msg("%s", err_msg(&e));
    return v;
}

static void must_create(const char *path, const struct volume_create *c) {
    cleanup_err struct err e = ERR_INIT;

    if (volume_create(path, &volume_qcow2, c, &e) < 0)
        fail_msg("%s", err_msg(&e));
}

static void print_finding(void *arg, const char *line) {
    (void)arg;
    print_message("%s\n", line);
}

static struct volume_check check(const char *path, enum volume_repair how) {
    const struct volume_options o = {.format = &volume_qcow2,
                                     .read_only = how == VOLUME_REPAIR_NONE,
                                     .for_repair = true,
                                     .no_backing = true};
    struct volume_check c = {.say = print_finding};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v = volume_open(path, &o, &e);

    if (!v || v->ops->check(v, how, &c, &e) < 0)
        fail_msg("%s", err_msg(&e));
    assert_int_equal(volume_close(v), 0);
    return c;
}

/* qemu-img's view: 0 in order, 3 leaks; what is worse fails the test. */
static void ask_qemu(const char *path, bool leaks_allowed) {
    cleanup_free char *command = xasprintf("qemu-img check -q -f qcow2 %s >&2", path);
    int r;

    if (system("command -v qemu-img >/dev/null 2>&1") != 0)
        return;
    r = WEXITSTATUS(system(command));
    if (r != 0 && !(leaks_allowed && r == 3))
        fail_msg("qemu-img check: status %d", r);
}

static void must_be_clean(const char *path) {
    struct volume_check c = check(path, VOLUME_REPAIR_NONE);

    assert_int_equal(c.corruptions, 0);
    assert_int_equal(c.leaks, 0);
    ask_qemu(path, false);
}

/* --- random operations --- */

struct model {
    struct volume *v;
    const char *path;
    uint8_t *now, *buf;
    uint8_t *kept[3]; /* snapshots' contents; NULL: there is none */
};

static void verify(struct model *m, uint64_t off, uint64_t len) {
    assert_int_equal(volume_read(m->v, off, m->buf, len), 0);
    if (memcmp(m->buf, m->now + off, len) == 0)
        return;
    for (uint64_t i = 0; i < len; i++)
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

static void do_compress(struct model *m, uint64_t off) {
    uint64_t at = align_down(off, m->v->cluster);

    memset(m->now + at, (int)rnd(256), m->v->cluster);
    memset(m->now + at, (int)rnd(256), m->v->cluster / 2);
    assert_int_equal(m->v->ops->write_compressed(m->v, at, m->now + at), 0);
}

static void do_snapshot(struct model *m) {
    unsigned i = rnd(ARRAY_LEN(m->kept));
    char name[2] = {(char)('a' + i), 0};
    cleanup_err struct err e = ERR_INIT;
    int r = 0;

    if (!m->kept[i]) {
        r = m->v->ops->snapshots->create(m->v, name, &e);
        if (r < 0 && strstr(err_msg(&e), "too narrow"))
            return;
        m->kept[i] = xcalloc(1, MODEL_BYTES);
        memcpy(m->kept[i], m->now, MODEL_BYTES);
    } else if (rnd(2)) {
        r = m->v->ops->snapshots->apply(m->v, name, &e);
        if (r < 0 && strstr(err_msg(&e), "too narrow"))
            return;
        memcpy(m->now, m->kept[i], MODEL_BYTES);
    } else {
        r = m->v->ops->snapshots->remove(m->v, name, &e);
        free(m->kept[i]);
        m->kept[i] = NULL;
    }
    if (r < 0)
        fail_msg("%s", err_msg(&e));
}

static void reopen(struct model *m) {
    assert_int_equal(volume_close(m->v), 0);
    must_be_clean(m->path);
    m->v = must_open(m->path, false);
}

static void one_operation(struct model *m) {
    uint64_t off = rnd(MODEL_BYTES / 512) * 512ull;
    uint64_t len = MIN((1 + rnd(1u << rnd(10))) * 512ull, MODEL_BYTES - off);

    switch (rnd(16)) {
    case 0:
        do_zero(m, off, len);
        break;
    case 1:
        do_discard(m, off, len);
        break;
    case 2:
        do_compress(m, off);
        break;
    case 3:
        assert_int_equal(m->v->ops->flush(m->v), 0);
        break;
    case 4:
        if (rnd(4) == 0)
            do_snapshot(m);
        break;
    case 5:
        if (rnd(32) == 0)
            reopen(m);
        break;
    case 6:
    case 7:
    case 8:
    case 9:
        verify(m, off, len);
        break;
    default:
        do_write(m, off, len);
    }
}

static void make_base(const char *path, uint8_t *contents) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    for (unsigned i = 0; i < MODEL_BYTES / 2; i++)
        contents[i] = (uint8_t)rnd(256);
    assert_int_equal(write(fd, contents, MODEL_BYTES / 2), MODEL_BYTES / 2);
    close(fd);
}

static void run_model(const struct fixture *f, struct volume_create c, bool backing) {
    struct model m = {.path = f->path};

    m.now = xcalloc(1, MODEL_BYTES);
    m.buf = xcalloc(1, MODEL_BYTES);
    c.size = MODEL_BYTES;
    c.force = true;
    if (backing) {
        make_base(f->base, m.now);
        c.backing = f->base;
        c.backing_format = "raw";
    }
    must_create(f->path, &c);
    m.v = must_open(f->path, false);
    for (unsigned i = 0; i < from_env("RF_OPERATIONS", 500); i++)
        one_operation(&m);
    verify(&m, 0, MODEL_BYTES);
    reopen(&m);
    verify(&m, 0, MODEL_BYTES);
    volume_close(m.v);
    for (size_t i = 0; i < ARRAY_LEN(m.kept); i++)
        free(m.kept[i]);
    free(m.now);
    free(m.buf);
}

static void random_operations(void **state) {
    static const struct volume_create kinds[] = {
        {.cluster = 65536},
        {.cluster = 512},
        {.cluster = 4096, .version = 2},
        {.cluster = 4096, .refcount_bits = 1},
        {.cluster = 1024, .refcount_bits = 4},
        {.cluster = 512, .refcount_bits = 64},
        {.cluster = 16384, .extended_l2 = true},
        {.cluster = 65536, .extended_l2 = true, .zstd = true},
        {.cluster = 4096, .lazy_refcounts = true},
        {.cluster = 2u << 20},
    };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        for (unsigned backing = 0; backing < 2; backing++) {
            print_message("kind %zu, backing file %u\n", i, backing);
            run_model(*state, kinds[i], backing);
        }
}

/* --- writers that are killed --- */

#define BLOCK 4096u
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

static void write_for_ever(const char *path, struct ledger *l) {
    struct volume *v = must_open(path, false);
    uint32_t buf[BLOCK / 4], done[BLOCKS];

    memcpy(done, l->written, sizeof(done));
    for (;;) {
        uint32_t block = rnd(BLOCKS);

        fill_block(buf, block, done[block] + 1);
        l->written[block] = done[block] + 1;
        if (volume_write(v, (uint64_t)block * BLOCK, buf, BLOCK) < 0)
            _exit(1);
        done[block]++;
        if (rnd(8) == 0) {
            if (v->ops->flush(v) < 0)
                _exit(1);
            memcpy(l->flushed, done, sizeof(done));
        }
    }
}

/* What was flushed is there, or something newer. */
static void verify_ledger(const char *path, struct ledger *l) {
    struct volume *v = must_open(path, true);
    uint32_t buf[BLOCK / 4], want[BLOCK / 4];

    for (uint32_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(volume_read(v, (uint64_t)i * BLOCK, buf, BLOCK), 0);
        assert_in_range(buf[0], l->flushed[i], l->written[i]);
        if (buf[0])
            fill_block(want, i, buf[0]);
        else
            memset(want, 0, sizeof(want));
        assert_memory_equal(buf, want, BLOCK);
        l->flushed[i] = l->written[i] = buf[0];
    }
    volume_close(v);
}

static void kill_one(const char *path, struct ledger *l) {
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0)
        write_for_ever(path, l);
    usleep(2000 + rnd(30000));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void run_crashes(const char *path, struct volume_create c) {
    struct ledger *l =
        mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned crashes = from_env("RF_CRASHES", 12);

    assert_ptr_not_equal(l, MAP_FAILED);
    c.size = MODEL_BYTES;
    c.force = true;
    must_create(path, &c);
    for (unsigned i = 0; i < crashes; i++) {
        rnd(2);
        kill_one(path, l);
        if (!c.lazy_refcounts) {
            assert_int_equal(check(path, VOLUME_REPAIR_NONE).corruptions, 0);
            ask_qemu(path, true);
        }
        verify_ledger(path, l);
        /* Opening it for writing mends what lazy refcounts left. */
        assert_int_equal(volume_close(must_open(path, false)), 0);
        assert_int_equal(check(path, VOLUME_REPAIR_NONE).corruptions, 0);
        if (i % 4 == 3) {
            check(path, VOLUME_REPAIR_LEAKS);
            must_be_clean(path);
        }
    }
    munmap(l, sizeof(*l));
}

static void killed_writers(void **state) {
    const struct fixture *f = *state;

    run_crashes(f->path, (struct volume_create){.cluster = 4096});
    run_crashes(f->path, (struct volume_create){.cluster = 512, .version = 2});
    run_crashes(f->path, (struct volume_create){.cluster = 65536, .extended_l2 = true});
    run_crashes(f->path, (struct volume_create){.cluster = 4096, .lazy_refcounts = true});
}

/* --- a full disk --- */

static void full_disk(void **state) {
    const struct fixture *f = *state;
    const struct volume_create c = {.size = MODEL_BYTES, .cluster = 4096};
    const struct rlimit small = {1u << 20, RLIM_INFINITY};
    struct rlimit before;
    uint8_t buf[BLOCK], in[BLOCK];
    unsigned failed = 0, last = 0;

    must_create(f->path, &c);
    struct volume *v = must_open(f->path, false);
    memset(buf, 0x5a, sizeof(buf));
    signal(SIGXFSZ, SIG_IGN);
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
    must_be_clean(f->path);
}

/* --- images that lie --- */

static void patch(const char *path, uint64_t off, uint64_t value, unsigned bytes) {
    uint8_t be[8];
    int fd = open(path, O_RDWR);

    be64_put(be, value);
    assert_int_equal(pwrite(fd, be + 8 - bytes, bytes, (off_t)off), bytes);
    close(fd);
}

static void refused(const char *path, const char *why) {
    const struct volume_options o = {.format = &volume_qcow2};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v = volume_open(path, &o, &e);

    assert_null(v);
    if (!strstr(err_msg(&e), why))
        fail_msg("'%s' is not in: %s", why, err_msg(&e));
}

static void bad_headers(void **state) {
    static const struct {
        uint64_t off, value;
        unsigned bytes;
        const char *why;
    } lies[] = {
        {0, 0x12345678, 4, "not a qcow2 image"},
        {4, 4, 4, "qcow2 version 4"},
        {8, 1ull << 40, 8, "the backing file's name"},
        {20, 30, 4, "clusters of 2^30 bytes"},
        {24, 0, 8, "a size of 0 bytes"},
        {24, 1ull << 50, 8, "too few for the size"},
        {32, 2, 4, "it is encrypted (LUKS)"},
        {36, 1u << 30, 4, "an L1 table of"},
        {40, 77, 8, "L1 table"},
        {48, 3, 8, "a refcount table at offset"},
        {56, 1u << 30, 4, "a refcount table of"},
        {60, 1u << 30, 4, "snapshots"},
        {60, 3, 4, "a snapshot table at offset"},
        {72, 4, 8, "an external data file"},
        {72, 1ull << 40, 8, "not supported: bit 40"},
        {72, 8, 8, "compression type 0"},
        {72, 2, 8, "marked as corrupt"},
        {96, 9, 4, "refcounts of 2^9 bits"},
        {100, 3, 4, "a header of 3 bytes"},
        {112, 0x7fffffff, 4, "header extension"},
    };
    const struct fixture *f = *state;
    const struct volume_create c = {.size = MODEL_BYTES, .force = true};

    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        must_create(f->path, &c);
        patch(f->path, lies[i].off, lies[i].value, lies[i].bytes);
        if (lies[i].off == 112)
            patch(f->path, 116, 0xffffff00, 4);
        refused(f->path, lies[i].why);
    }
}

/* An L2 entry that leads into the tables is not followed, and the image is marked. */
static void an_entry_into_the_tables(void **state) {
    const struct fixture *f = *state;
    const struct volume_create c = {.size = MODEL_BYTES};
    uint8_t buf[512] = {1}, l1[8];
    struct volume *v;
    int fd;

    must_create(f->path, &c);
    v = must_open(f->path, false);
    assert_int_equal(volume_write(v, 0, buf, sizeof(buf)), 0);
    volume_close(v);
    fd = open(f->path, O_RDONLY);
    assert_int_equal(pread(fd, l1, 8, 3 * 65536), 8);
    close(fd);
    patch(f->path, be64_get(l1) & 0xfffffffffffe00, 1ull << 63 | 65536, 8);
    v = must_open(f->path, false);
    assert_int_equal(volume_write(v, 0, buf, sizeof(buf)), -EIO);
    assert_int_equal(volume_read(v, 0, buf, sizeof(buf)), -EIO);
    volume_close(v);
    refused(f->path, "marked as corrupt");
    assert_int_equal(check(f->path, VOLUME_REPAIR_NONE).corruptions, 1);
}

static void a_circular_chain(void **state) {
    const struct fixture *f = *state;
    struct volume_create c = {.size = MODEL_BYTES};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v;

    must_create(f->path, &c);
    c.backing = f->path;
    c.backing_format = "qcow2";
    must_create(f->base, &c);
    v = must_open(f->path, false);
    assert_int_equal(v->ops->set_backing(v, "base.img", "qcow2", &e), 0);
    volume_close(v);
    refused(f->path, "comes back to it");
    unlink(f->base);
    refused(f->path, "base.img: open: No such file");
}

static void a_backing_format_that_nobody_recorded(void **state) {
    const struct fixture *f = *state;
    struct volume_create c = {.size = MODEL_BYTES};
    cleanup_err struct err e = ERR_INIT;
    struct volume *v;

    must_create(f->base, &c);
    must_create(f->path, &c);
    v = must_open(f->path, false);
    assert_int_equal(v->ops->set_backing(v, f->base, NULL, &e), 0);
    volume_close(v);
    refused(f->path, "does not record this file's format");
}

static void a_guest_cannot_choose_the_format(void **state) {
    const struct fixture *f = *state;
    const struct volume_create c = {.size = MODEL_BYTES};
    cleanup_err struct err e = ERR_INIT;

    must_create(f->base, &c); /* base.img: a raw disk's name with a qcow2 header */
    assert_null(volume_probe(f->base, &e));
    assert_non_null(strstr(err_msg(&e), "may be a guest's"));
    must_create(f->path, &c);
    assert_ptr_equal(volume_probe(f->path, &e), &volume_qcow2);
}

static void a_disk_that_changes_its_size(void **state) {
    const struct fixture *f = *state;
    const struct volume_create c = {.size = 1u << 20, .cluster = 512};
    cleanup_err struct err e = ERR_INIT;
    uint8_t buf[8192], in[8192];
    struct volume *v;

    memset(buf, 7, sizeof(buf));
    must_create(f->path, &c);
    v = must_open(f->path, false);
    assert_int_equal(volume_write(v, 0, buf, sizeof(buf)), 0);
    assert_int_equal(v->ops->resize(v, 64u << 20, &e), 0);
    assert_int_equal(volume_write(v, (64u << 20) - 8192, buf, sizeof(buf)), 0);
    assert_int_equal(v->ops->resize(v, 4096, &e), 0);
    assert_int_equal(v->ops->resize(v, 1u << 20, &e), 0);
    memset(buf + 4096, 0, 4096);
    assert_int_equal(volume_read(v, 0, in, sizeof(in)), 0);
    assert_memory_equal(in, buf, sizeof(in));
    assert_int_equal(volume_close(v), 0);
    must_be_clean(f->path);
}

/* Refcounts that are gone are made anew. */
static void a_repair(void **state) {
    const struct fixture *f = *state;
    const struct volume_create c = {.size = MODEL_BYTES, .cluster = 4096};
    struct volume_check found;
    uint8_t buf[BLOCK] = {9}, in[BLOCK];
    struct volume *v;

    must_create(f->path, &c);
    v = must_open(f->path, false);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(volume_write(v, i * 3ull * BLOCK, buf, BLOCK), 0);
    assert_int_equal(volume_close(v), 0);
    patch(f->path, 4096, 0, 8); /* the refcount table's first entry */
    assert_true(check(f->path, VOLUME_REPAIR_NONE).corruptions > 0);
    found = check(f->path, VOLUME_REPAIR_ALL);
    assert_int_equal(found.corruptions, found.corruptions_fixed);
    must_be_clean(f->path);
    v = must_open(f->path, true);
    assert_int_equal(volume_read(v, 39 * 3ull * BLOCK, in, BLOCK), 0);
    assert_memory_equal(in, buf, BLOCK);
    volume_close(v);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(random_operations),
        TEST(killed_writers),
        TEST(full_disk),
        TEST(bad_headers),
        TEST(an_entry_into_the_tables),
        TEST(a_circular_chain),
        TEST(a_backing_format_that_nobody_recorded),
        TEST(a_guest_cannot_choose_the_format),
        TEST(a_disk_that_changes_its_size),
        TEST(a_repair),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
