/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: regions, bounded accessors, how accesses are cut, page flags, and readers in other
 * threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/epoch.h"
#include "base/err.h"
#include "base/fence.h"
#include "base/util.h"
#include "mem/mem.h"

#define RAM_PAGES 64
#define ROM_AT 0xfffff000ull

static struct mem *m;

/* RAM at 0 and, the rest of it, right behind a hole of one page; a ROM page high up. */
static int setup(void **state) {
    (void)state;
    m = mem_new(RAM_PAGES * PAGE_SIZE, PAGE_SIZE, NULL);
    if (!m || mem_add_ram(m, GPA(0), 32 * PAGE_SIZE, 0, NULL) ||
        mem_add_ram(m, GPA(33 * PAGE_SIZE), 32 * PAGE_SIZE, 32 * PAGE_SIZE, NULL))
        return -1;
    return mem_add_rom(m, GPA(ROM_AT), PAGE_SIZE, mem_alloc_rom(m, 100), NULL);
}

static int teardown(void **state) {
    (void)state;
    mem_free(m);
    return 0;
}

/* A device that remembers its accesses; byte n reads as n. */
struct probe {
    char log[256];
    uint8_t bytes[16];
};

static void note(struct probe *p, char what, uint64_t off, unsigned size) {
    size_t len = strlen(p->log);

    snprintf(p->log + len, sizeof(p->log) - len, "%c%u@%u ", what, size, (unsigned)off);
}

static uint64_t probe_read(void *dev, uint64_t off, unsigned size) {
    struct probe *p = dev;
    uint64_t v = UINT64_MAX; /* what lies above `size` is for the core to cut off */

    note(p, 'r', off, size);
    memcpy(&v, p->bytes + off, size);
    return v;
}

static void probe_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct probe *p = dev;

    note(p, 'w', off, size);
    memcpy(p->bytes + off, &value, size);
    if (size < 8)
        assert_true(value >> (8 * size) == 0);
}

static void probe_reset(struct probe *p) {
    p->log[0] = 0;
    for (size_t i = 0; i < sizeof(p->bytes); i++)
        p->bytes[i] = (uint8_t)i;
}

static const struct io_ops any = {.read = probe_read, .write = probe_write, .max_size = 8};
static const struct io_ops words = {.read = probe_read, .write = probe_write, .min_size = 4};
static const struct io_ops bytes_only = {.read = probe_read, .write = probe_write, .max_size = 1};
static const struct io_ops by_default = {.read = probe_read, .write = probe_write};
static const struct io_ops silent = {.unlocked = true};

static void sizes_that_cannot_be(void **state) {
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    assert_null(mem_new(0, 0, &e));
    assert_non_null(strstr(err_msg(&e), "--memory"));
    assert_null(mem_new(4097, 0, &e));
    assert_null(mem_new(4096, 1, &e));
    static const uint64_t sizes[] = {1ull << 50, 1ull << 63, 0ull - PAGE_SIZE};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        assert_null(mem_new(sizes[i], PAGE_SIZE, &e));
        assert_int_equal(e.code, ENOMEM);
        assert_non_null(strstr(err_msg(&e), "try a smaller --memory"));
        assert_null(mem_new(PAGE_SIZE, sizes[i], &e));
    }
}

static void file_size_limit_is_no_signal(void **state) {
    cleanup_err struct err e = ERR_INIT;
    struct rlimit old, small;

    (void)state;
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 1 << 20;
    setrlimit(RLIMIT_FSIZE, &small);
    struct mem *big = mem_new(2 << 20, 0, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_null(big);
    assert_int_equal(e.code, EFBIG);
}

static void backing_is_sealed_and_shared(void **state) {
    uint8_t byte = 0;

    (void)state;
    assert_int_equal(ftruncate(m->memfd, 4096), -1);
    assert_int_equal(ftruncate(m->memfd, 1 << 30), -1);
    assert_int_equal(fcntl(m->memfd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    mem_io_write(m, GPA(0x1234), 1, 0x5a);
    assert_int_equal(pread(m->memfd, &byte, 1, 0x1234), 1);
    assert_int_equal(byte, 0x5a);
    assert_int_equal(m->ram_bytes, (RAM_PAGES + 1) * PAGE_SIZE);
}

static void rom_backing_runs_out(void **state) {
    (void)state;
    struct mem *n = mem_new(PAGE_SIZE, 3 * PAGE_SIZE, NULL);
    assert_true(mem_alloc_rom(n, 4 * PAGE_SIZE) == UINT64_MAX);
    assert_true(mem_alloc_rom(n, UINT64_MAX) == UINT64_MAX);
    assert_true(mem_alloc_rom(n, 0) == UINT64_MAX);
    assert_int_equal(mem_alloc_rom(n, PAGE_SIZE + 1), PAGE_SIZE);
    assert_int_equal(mem_alloc_rom(n, PAGE_SIZE), 3 * PAGE_SIZE);
    assert_true(mem_alloc_rom(n, 1) == UINT64_MAX);
    mem_free(n);
}

static void regions_that_cannot_be(void **state) {
    cleanup_err struct err e = ERR_INIT;
    static const struct io_ops bad_sizes = {.min_size = 4, .max_size = 2};
    static const struct io_ops odd_size = {.max_size = 3};

    (void)state;
    assert_true(mem_add_ram(m, GPA(31 * PAGE_SIZE), 2 * PAGE_SIZE, 0, &e) < 0);
    assert_string_equal(err_msg(&e), "memory RAM at 0x1f000-0x20fff overlaps RAM at 0x0-0x1ffff: "
                                     "File exists");
    assert_true(mem_add_ram(m, GPA(1), PAGE_SIZE, 0, &e) < 0);
    assert_true(mem_add_ram(m, GPA(1 << 30), 0, 0, &e) < 0);
    assert_true(mem_add_ram(m, GPA(1 << 30), PAGE_SIZE, 65 * PAGE_SIZE, &e) < 0);
    assert_true(mem_add_ram(m, GPA(0ull - PAGE_SIZE), PAGE_SIZE, 0, &e) < 0);
    assert_true(mem_add_rom(m, GPA(1 << 30), PAGE_SIZE, UINT64_MAX - PAGE_MASK, &e) < 0);
    assert_null(mem_add_mmio(m, GPA(ROM_AT - 8), 16, "hpet", &silent, NULL, &e));
    assert_non_null(strstr(err_msg(&e), "hpet"));
    assert_null(mem_add_mmio(m, GPA(UINT64_MAX - 8), 16, "hpet", &silent, NULL, &e));
    assert_null(mem_add_mmio(m, GPA(1 << 30), 0, "hpet", &silent, NULL, &e));
    assert_null(mem_add_mmio(m, GPA(1 << 30), 16, "hpet", &bad_sizes, NULL, &e));
    assert_null(mem_add_mmio(m, GPA(1 << 30), 16, "hpet", &odd_size, NULL, &e));
    assert_null(mem_add_mmio(m, GPA(1 << 30), 18, "hpet", &words, NULL, &e));
    assert_null(mem_add_port(m, 0xffff, 2, "pit", &silent, NULL, &e));
    assert_non_null(mem_add_port(m, 0xfffc, 4, "pit", &silent, NULL, &e));
    assert_null(mem_add_port(m, 0xffff, 1, "rtc", &silent, NULL, &e));
    assert_non_null(strstr(err_msg(&e), "overlaps pit"));
}

static void lookup_at(uint64_t gpa, enum mem_kind kind, uint64_t bytes) {
    struct mem_hit hit;

    mem_lookup(m, GPA(gpa), &hit);
    assert_int_equal(hit.kind, kind);
    assert_true(hit.bytes == bytes);
    assert_true((hit.host != NULL) == (kind == MEM_RAM || kind == MEM_ROM));
}

static void lookup(void **state) {
    (void)state;
    struct mem *none = mem_new(PAGE_SIZE, 0, NULL), *saved = m;
    m = none;
    lookup_at(0, MEM_NONE, UINT64_MAX);
    lookup_at(1, MEM_NONE, UINT64_MAX);
    m = saved;
    mem_free(none);

    mem_add_mmio(m, GPA(0x10000000), 0x400, "hpet", &silent, NULL, NULL);
    lookup_at(0, MEM_RAM, 32 * PAGE_SIZE);
    lookup_at(32 * PAGE_SIZE - 1, MEM_RAM, 1);
    lookup_at(32 * PAGE_SIZE, MEM_NONE, PAGE_SIZE);
    lookup_at(33 * PAGE_SIZE, MEM_RAM, 32 * PAGE_SIZE);
    lookup_at(0x100003ff, MEM_MMIO, 1);
    lookup_at(0x10000400, MEM_NONE, ROM_AT - 0x10000400);
    lookup_at(ROM_AT + 5, MEM_ROM, PAGE_SIZE - 5);
    lookup_at(ROM_AT + PAGE_SIZE, MEM_NONE, 0 - (ROM_AT + PAGE_SIZE));
    lookup_at(UINT64_MAX, MEM_NONE, 1);
}

static void bounded_accessor(void **state) {
    (void)state;
    assert_ptr_equal(mem_ptr_w(m, GPA(0), 32 * PAGE_SIZE), m->ram);
    assert_ptr_equal(mem_ptr_r(m, GPA(33 * PAGE_SIZE + 1), 4), m->ram + 32 * PAGE_SIZE + 1);
    assert_null(mem_ptr_w(m, GPA(1), 32 * PAGE_SIZE));
    assert_null(mem_ptr_r(m, GPA(1), UINT64_MAX));
    assert_null(mem_ptr_r(m, GPA(UINT64_MAX), 2));
    assert_null(mem_ptr_r(m, GPA(32 * PAGE_SIZE), 1));
    assert_non_null(mem_ptr_r(m, GPA(ROM_AT), PAGE_SIZE));
    assert_null(mem_ptr_w(m, GPA(ROM_AT), 1));
}

static void copies(void **state) {
    uint8_t in[2 * PAGE_SIZE], out[2 * PAGE_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(i * 7);
    assert_int_equal(mem_write(m, GPA(100), in, sizeof(in)), 0);
    assert_int_equal(mem_read(m, GPA(100), out, sizeof(out)), 0);
    assert_memory_equal(in, out, sizeof(in));

    /* All or nothing at the hole, at the end of addresses, and over devices. */
    assert_int_equal(mem_write(m, GPA(31 * PAGE_SIZE), in, PAGE_SIZE + 1), -EFAULT);
    assert_int_equal(mem_io_read(m, GPA(31 * PAGE_SIZE), 8), 0);
    assert_int_equal(mem_read(m, GPA(UINT64_MAX), out, 2), -EFAULT);
    assert_int_equal(mem_read(m, GPA(0), out, UINT64_MAX), -EFAULT);
    assert_int_equal(mem_read(m, GPA(32 * PAGE_SIZE), out, 0), 0);

    /* Two regions side by side are one range, and a guest's writes to ROM are dropped. */
    assert_int_equal(mem_add_ram(m, GPA(ROM_AT - PAGE_SIZE), PAGE_SIZE, 63 * PAGE_SIZE, NULL), 0);
    assert_int_equal(mem_write(m, GPA(ROM_AT - PAGE_SIZE), in, sizeof(in)), 0);
    assert_int_equal(mem_read(m, GPA(ROM_AT - PAGE_SIZE), out, sizeof(out)), 0);
    assert_memory_equal(out, in, PAGE_SIZE);
    assert_int_equal(out[PAGE_SIZE + 1], 0);
    assert_int_equal(mem_write_rom(m, GPA(ROM_AT), in, PAGE_SIZE), 0);
    mem_io_write(m, GPA(ROM_AT + 1), 2, 0xffff);
    assert_int_equal(mem_io_read(m, GPA(ROM_AT), 4), 0x150e0700);
}

static void io_on_memory(void **state) {
    (void)state;
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned off = 0; off < 9; off++) {
            uint64_t v = 0x8877665544332211 >> (64 - 8 * size), at = PAGE_SIZE - 4 + off;

            for (unsigned word = 0; word < 4; word++)
                mem_io_write(m, GPA(PAGE_SIZE - 8 + 8 * word), 8, 0);
            mem_io_write(m, GPA(at), size, v | (size < 8 ? 0xffull << (8 * size) : 0));
            assert_true(mem_io_read(m, GPA(at), size) == v);
            assert_int_equal(mem_io_read(m, GPA(at + size), 1), 0);
        }
    }
    assert_true(mem_io_read(m, GPA(32 * PAGE_SIZE), 8) == UINT64_MAX);
    mem_io_write(m, GPA(32 * PAGE_SIZE), 8, 0);
    /* Half in RAM, half in the hole. */
    mem_io_write(m, GPA(32 * PAGE_SIZE - 2), 4, 0x44332211);
    assert_int_equal(mem_io_read(m, GPA(32 * PAGE_SIZE - 2), 4), 0xffff2211);
    assert_int_equal(mem_io_read(m, GPA(UINT64_MAX), 1), 0xff);
}

static void expect(struct probe *p, unsigned off, unsigned size, const char *reads) {
    static const uint64_t bytes = 0x0706050403020100, base = 0x20000000;
    char writes[256];

    uint64_t want = 0;
    for (unsigned i = 0; i < size; i++)
        want |= ((bytes >> (8 * (off & 7))) + i) << (8 * i) & (0xffull << (8 * i));
    probe_reset(p);
    assert_true(mem_io_read(m, GPA(base + off), size) == want);
    assert_string_equal(p->log, reads);

    probe_reset(p);
    mem_io_write(m, GPA(base + off), size, 0xfffefdfcfbfaf9f8);
    for (unsigned i = 0; i < sizeof(p->bytes); i++)
        assert_int_equal(p->bytes[i], i >= off && i < off + size ? 0xf8 + i - off : i);
    size_t n = 0;
    for (char *c = p->log; *c; c = strchr(c, ' ') + 1)
        if (*c == 'w') {
            size_t len = (size_t)(strchr(c, ' ') + 1 - c);
            memcpy(writes + n, c, len);
            writes[n] = 'r';
            n += len;
        }
    writes[n] = 0;
    assert_string_equal(writes, reads);
}

static void accesses_are_cut_to_the_device(void **state) {
    static const struct {
        const struct io_ops *ops;
        unsigned off, size;
        const char *accesses;
    } cases[] = {
        {&any, 0, 8, "r8@0 "},
        {&any, 2, 1, "r1@2 "},
        {&any, 4, 4, "r4@4 "},
        {&any, 1, 4, "r1@1 r2@2 r1@4 "},
        {&any, 4, 8, "r4@4 r4@8 "},
        {&any, 6, 4, "r2@6 r2@8 "},
        {&by_default, 0, 8, "r4@0 r4@4 "},
        {&by_default, 3, 2, "r1@3 r1@4 "},
        {&bytes_only, 1, 4, "r1@1 r1@2 r1@3 r1@4 "},
        {&words, 0, 4, "r4@0 "},
        {&words, 1, 1, "r4@0 "},
        {&words, 1, 2, "r4@0 "},
        {&words, 3, 2, "r4@0 r4@4 "},
        {&words, 2, 8, "r4@0 r4@4 r4@8 "},
    };
    struct probe p;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct region *r = mem_add_mmio(m, GPA(0x20000000), 16, "probe", cases[i].ops, &p, NULL);

        assert_non_null(r);
        expect(&p, cases[i].off, cases[i].size, cases[i].accesses);
        mem_del_region(m, r);
    }
}

static void accesses_end_with_the_region(void **state) {
    struct probe p, q;

    (void)state;
    mem_add_mmio(m, GPA(0x20000000), 6, "p", &any, &p, NULL);
    mem_add_mmio(m, GPA(0x20000006), 3, "q", &any, &q, NULL);
    probe_reset(&p);
    probe_reset(&q);
    assert_true(mem_io_read(m, GPA(0x20000004), 8) == 0xffffff0201000504);
    assert_string_equal(p.log, "r2@4 ");
    assert_string_equal(q.log, "r2@0 r1@2 ");
    mem_add_mmio(m, GPA(0x30000000), 16, "silent", &silent, NULL, NULL);
    assert_int_equal(mem_io_read(m, GPA(0x30000000), 4), 0xffffffff);
    mem_io_write(m, GPA(0x30000000), 4, 0);
}

static void ports(void **state) {
    struct probe p;

    (void)state;
    struct region *r = mem_add_port(m, 0x70, 2, "rtc", &bytes_only, &p, NULL);
    probe_reset(&p);
    assert_int_equal(mem_port_read(m, 0x70, 1), 0);
    assert_int_equal(mem_port_read(m, 0x71, 4), 0xffffff01);
    assert_int_equal(mem_port_read(m, 0x6f, 2), 0x00ff);
    mem_port_write(m, 0x70, 2, 0xbbaa);
    assert_int_equal(mem_port_read(m, 0x70, 2), 0xbbaa);
    mem_del_region(m, r);
    assert_int_equal(mem_port_read(m, 0x70, 2), 0xffff);
    /* Beyond the last port. */
    assert_int_equal(mem_port_read(m, 0xffff, 4), 0xffffffff);
    mem_port_write(m, 0xffff, 4, 0);
    for (unsigned port = 0; port < 0x10000; port++) {
        assert_int_equal(mem_port_read(m, (uint16_t)port, 2), 0xffff);
        mem_port_write(m, (uint16_t)port, 1, 0);
    }
}

/* A BAR that moves itself, as PCI configuration writes do: from inside a handler. */
struct mover {
    struct region *region;
    uint64_t at;
};

static const struct io_ops mover_ops;

static void mover_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct mover *v = dev;

    (void)off;
    (void)size;
    mem_del_region(m, v->region);
    v->at = value;
    v->region = mem_add_mmio(m, GPA(value), PAGE_SIZE, "mover", &mover_ops, v, NULL);
}

static uint64_t mover_read(void *dev, uint64_t off, unsigned size) {
    (void)size;
    return ((struct mover *)dev)->at + off;
}

static const struct io_ops mover_ops = {.read = mover_read, .write = mover_write};

static void handlers_may_change_the_map(void **state) {
    struct mover v = {.at = 0x40000000};

    (void)state;
    v.region = mem_add_mmio(m, GPA(v.at), PAGE_SIZE, "mover", &mover_ops, &v, NULL);
    size_t most = 0;
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t to = 0x40000000 + (i % 7) * PAGE_SIZE;

        mem_io_write(m, GPA(v.at), 4, to);
        assert_int_equal(mem_io_read(m, GPA(to + 8), 4), to + 8);
        most = MAX(most, epoch_pending());
    }
    /* What is retired does not pile up. */
    assert_true(most <= 64);
}

static void io_lock_nests(void **state) {
    struct probe p;

    (void)state;
    probe_reset(&p);
    mem_add_port(m, 0x80, 1, "post", &any, &p, NULL);
    mem_io_lock(m);
    mem_io_lock(m);
    assert_int_equal(mem_port_read(m, 0x80, 1), 0);
    mem_io_unlock(m);
    mem_io_unlock(m);
}

static bool code_flagged(uint64_t page) {
    return m->page_flags[page] & MEM_PAGE_CODE;
}

static bool claim(uint64_t page, uint64_t off, uint64_t len) {
    return mem_code_commit(m, page, off, m->ram + page * PAGE_SIZE + off, len);
}

static void code_pages(void **state) {
    const uint64_t page = 33, at = 34 * PAGE_SIZE; /* where it is shown */
    uint8_t byte = 0x90;

    (void)state;
    assert_false(claim(page, 0, 1)); /* was not begun */
    uint32_t gen = mem_code_begin(m, page);
    assert_true(claim(page, 10, 100));
    assert_int_equal(mem_code_begin(m, page), gen);
    mem_io_write(m, GPA(33 * PAGE_SIZE), 8, 1); /* the page before */
    mem_io_write(m, GPA(at + 128), 8, 1);       /* the line behind */
    assert_int_equal(m->page_gen[page], gen);

    mem_io_write(m, GPA(at - 1), 2, 0x1111); /* its first byte */
    assert_int_equal(m->page_gen[page], gen + 1);
    mem_io_write(m, GPA(at), 8, 1); /* the same line, that holds code no more */
    assert_int_equal(m->page_gen[page], gen + 1);
    assert_int_equal(mem_write(m, GPA(at + 64), &byte, 1), 0);
    assert_int_equal(m->page_gen[page], gen + 2);

    assert_true(code_flagged(page)); /* for code that is written again */
    mem_io_write(m, GPA(at), 8, 1);
    assert_false(code_flagged(page));

    /* Not the guest's memory at all: nothing happens. */
    mem_wrote(m, &byte, 1);
    mem_wrote(m, m->ram, 0);
    mem_wrote(m, m->ram + m->ram_bytes - 1, 2);
}

static void code_is_what_was_copied(void **state) {
    uint8_t copy[3] = {1, 2, 3};

    (void)state;
    mem_code_begin(m, 3);
    memcpy(m->ram + 4 * PAGE_SIZE - 3, copy, 3);
    assert_true(mem_code_commit(m, 3, PAGE_SIZE - 3, copy, 3));
    m->ram[4 * PAGE_SIZE - 1] = 0;
    assert_false(mem_code_commit(m, 3, PAGE_SIZE - 3, copy, 3));
}

/* Writes to a page without a hit until it is watched no more; returns how many it took. */
static unsigned writes_until_plain(uint64_t page) {
    unsigned n = 0;

    mem_code_begin(m, page);
    assert_true(claim(page, 0, 1));
    while (code_flagged(page)) {
        mem_wrote(m, m->ram + page * PAGE_SIZE + 2048, 4);
        assert_true(++n < 10000);
    }
    return n;
}

static void patience_with_data_beside_code(void **state) {
    uint32_t gen = m->page_gen[5];

    (void)state;
    unsigned first = writes_until_plain(5), second = writes_until_plain(5), last = 0;
    assert_true(first > 1 && second > first);
    assert_int_equal(m->page_gen[5], gen + 2); /* what was there is not valid any more */
    for (int n = 0; n < 20; n++)
        last = writes_until_plain(5);
    assert_int_equal(writes_until_plain(5), last); /* there is an end to it */
}

static void dirty_log(void **state) {
    uint64_t bits[3];
    uint8_t buf[2 * PAGE_SIZE] = {0};

    (void)state;
    mem_io_write(m, GPA(0), 1, 1);
    assert_int_equal(mem_log_start(m, NULL), 0);
    assert_int_equal(mem_log_start(m, NULL), -EBUSY);
    mem_log_fetch(m, bits, 3);
    assert_true((bits[0] | bits[1] | bits[2]) == 0);

    mem_io_write(m, GPA(3 * PAGE_SIZE), 1, 1);
    mem_io_write(m, GPA(3 * PAGE_SIZE), 1, 1);
    mem_write(m, GPA(8 * PAGE_SIZE + 1), buf, sizeof(buf));
    mem_write_rom(m, GPA(ROM_AT), buf, 1);
    mem_io_write(m, GPA(33 * PAGE_SIZE), 1, 1); /* backing page 32 */
    assert_int_equal(m->page_flags[3], 0);
    mem_log_fetch(m, bits, 3);
    assert_true(bits[0] == (1ull << 3 | 7ull << 8 | 1ull << 32));
    assert_true(bits[1] == 1);
    assert_true(bits[2] == 0);

    mem_code_begin(m, 3);
    assert_true(claim(3, 0, 1));
    mem_io_write(m, GPA(3 * PAGE_SIZE), 1, 1);
    mem_log_fetch(m, bits, 2);
    assert_true(bits[0] == 1ull << 3);
    mem_log_stop(m);
    mem_io_write(m, GPA(4 * PAGE_SIZE), 1, 1);
    mem_log_fetch(m, bits, 2);
    assert_true((bits[0] | bits[1]) == 0);
    assert_int_equal(m->page_flags[9], 0);
    assert_int_equal(mem_log_start(m, NULL), 0);
}

/* Threads */

static _Atomic bool done;

#define BAR_AT 0x50000000ull
#define FIXED_AT 0x50004000ull

static uint64_t answer(void *dev, uint64_t off, unsigned size) {
    (void)size;
    return (uint64_t)(uintptr_t)dev + off;
}

static const struct io_ops answers = {.read = answer, .max_size = 4};
static const struct io_ops answers_unlocked = {.read = answer, .unlocked = true};

static void *keep_reading(void *failures) {
    _Atomic int *bad = failures;
    struct mem_hit hit;

    while (!atomic_load(&done)) {
        uint64_t bar = mem_io_read(m, GPA(BAR_AT + 4), 4);

        if (bar != 0xffffffff && bar != 0x1004 && bar != 0x2004)
            ++*bad;
        if (mem_io_read(m, GPA(FIXED_AT), 4) != 0x3000 || mem_port_read(m, 0x60, 1) != 0x64)
            ++*bad;
        mem_lookup(m, GPA(FIXED_AT + 4), &hit);
        if (hit.kind != MEM_MMIO || !mem_ptr_r(m, GPA(0), 16))
            ++*bad;
    }
    return NULL;
}

static void *come_and_go(void *unused) {
    for (int i = 0; i < 3000; i++) {
        const struct io_ops *ops = i % 2 ? &answers : &answers_unlocked;
        void *dev = (void *)(uintptr_t)(i % 3 ? 0x1000 : 0x2000);
        struct region *r = mem_add_mmio(m, GPA(BAR_AT), 16, "bar", ops, dev, NULL);
        struct region *p = mem_add_port(m, 0x100, 8, "bar", ops, dev, NULL);

        mem_del_region(m, r);
        mem_del_region(m, p);
    }
    atomic_store(&done, true);
    return unused;
}

static void readers_while_regions_come_and_go(void **state) {
    pthread_t readers[3], writer;
    _Atomic int failures = 0;

    (void)state;
    atomic_store(&done, false);
    mem_add_mmio(m, GPA(FIXED_AT), 16, "fixed", &answers, (void *)0x3000, NULL);
    mem_add_port(m, 0x60, 1, "kbd", &answers_unlocked, (void *)0x64, NULL);
    for (int i = 0; i < 3; i++)
        pthread_create(&readers[i], NULL, keep_reading, &failures);
    pthread_create(&writer, NULL, come_and_go, NULL);
    pthread_join(writer, NULL);
    for (int i = 0; i < 3; i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(failures, 0);
    epoch_reclaim();
    assert_int_equal(epoch_pending(), 0);
}

/* Under the lock, a region that was removed does not start its handler any more. */
static _Atomic bool gone;
static _Atomic int late;

static uint64_t must_not_be_gone(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    (void)off;
    (void)size;
    late += atomic_load(&gone);
    return 0;
}

static const struct io_ops watched = {.read = must_not_be_gone};

static void *read_watched(void *unused) {
    while (!atomic_load(&done))
        mem_io_read(m, GPA(BAR_AT), 4);
    return unused;
}

static void no_handler_starts_after_removal(void **state) {
    pthread_t thread;

    (void)state;
    atomic_store(&done, false);
    pthread_create(&thread, NULL, read_watched, NULL);
    for (int i = 0; i < 2000; i++) {
        mem_io_lock(m);
        struct region *r = mem_add_mmio(m, GPA(BAR_AT), 16, "bar", &watched, NULL, NULL);
        atomic_store(&gone, false);
        mem_io_unlock(m);
        sched_yield();
        mem_io_lock(m);
        mem_del_region(m, r);
        atomic_store(&gone, true);
        mem_io_unlock(m);
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    assert_int_equal(late, 0);
}

/* Dekker's litmus test: with a light half on one side and a heavy one on the other, one sees the
 * other. */
static _Atomic int turn, x, y, saw_y;

static void *light_side(void *unused) {
    for (int round = 1; round <= 20000; round++) {
        while (atomic_load(&turn) < round)
            ;
        atomic_store_explicit(&x, round, memory_order_release);
        atomic_signal_fence(memory_order_seq_cst);
        int seen = atomic_load_explicit(&y, memory_order_acquire);
        atomic_store_explicit(&saw_y, seen, memory_order_release);
        atomic_store(&turn, -round);
    }
    return unused;
}

static void fence_reaches_all_threads(void **state) {
    int missed = 0;
    pthread_t thread;

    (void)state;
    atomic_store(&turn, 0);
    pthread_create(&thread, NULL, light_side, NULL);
    for (int round = 1; round <= 20000; round++) {
        atomic_store_explicit(&turn, round, memory_order_release);
        atomic_store_explicit(&y, round, memory_order_release);
        fence_all_threads();
        int saw_x = atomic_load_explicit(&x, memory_order_acquire);
        while (atomic_load(&turn) != -round)
            ;
        missed += saw_x != round && atomic_load(&saw_y) != round;
    }
    pthread_join(thread, NULL);
    assert_int_equal(missed, 0);
}

/*
 * The code protocol: one thread rewrites a counter in a page, the other decodes it into a block and
 * runs the block as long as it is valid. After the writer's k-th write has finished, no valid block
 * may be older than k.
 */
static _Atomic uint32_t finished;

static void *rewrite(void *unused) {
    for (uint32_t k = 1; k <= 300000; k++) {
        mem_io_write(m, GPA(PAGE_SIZE), 4, k);
        atomic_store(&finished, k);
        if (k % 64 == 0)
            sched_yield();
    }
    atomic_store(&done, true);
    return unused;
}

static void *decode_and_run(void *failures) {
    _Atomic int *bad = failures;

    while (!atomic_load(&done)) {
        uint32_t gen = mem_code_begin(m, 1);
        uint32_t block = (uint32_t)mem_io_read(m, GPA(PAGE_SIZE), 4);

        if (!mem_code_commit(m, 1, 0, &block, sizeof(block)))
            continue;
        for (int i = 0; i < 50; i++) {
            uint32_t least = atomic_load(&finished);

            if (atomic_load(&m->page_gen[1]) != gen)
                break;
            *bad += block < least;
        }
    }
    return NULL;
}

static void no_write_to_code_is_missed(void **state) {
    pthread_t engines[2], writer;
    _Atomic int failures = 0;

    (void)state;
    atomic_store(&done, false);
    atomic_store(&finished, 0);
    for (int i = 0; i < 2; i++)
        pthread_create(&engines[i], NULL, decode_and_run, &failures);
    pthread_create(&writer, NULL, rewrite, NULL);
    pthread_join(writer, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(engines[i], NULL);
    assert_int_equal(failures, 0);
}

/* Every write is in the log that is fetched after it, though the log is fetched all the time. */
static void *write_pages(void *counts) {
    uint32_t *count = counts;

    for (uint32_t i = 0; i < 1000000; i++) {
        uint32_t page = i % 16;

        mem_io_write(m, GPA(page * PAGE_SIZE), 4, ++count[page]);
    }
    atomic_store(&done, true);
    return NULL;
}

static void no_write_is_missing_from_the_log(void **state) {
    uint32_t counts[16] = {0}, copy[16] = {0};
    uint64_t bits[2];
    pthread_t writer;
    bool last;

    (void)state;
    atomic_store(&done, false);
    assert_int_equal(mem_log_start(m, NULL), 0);
    pthread_create(&writer, NULL, write_pages, counts);
    do {
        last = atomic_load(&done);
        mem_log_fetch(m, bits, 2);
        for (unsigned page = 0; page < 16; page++)
            if (bits[0] & (1ull << page))
                copy[page] = (uint32_t)mem_io_read(m, GPA(page * PAGE_SIZE), 4);
    } while (!last);
    pthread_join(writer, NULL);
    assert_memory_equal(copy, counts, sizeof(copy));
}

#define mem_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_that_cannot_be),
        cmocka_unit_test(file_size_limit_is_no_signal),
        cmocka_unit_test(rom_backing_runs_out),
        mem_test(backing_is_sealed_and_shared),
        mem_test(regions_that_cannot_be),
        mem_test(lookup),
        mem_test(bounded_accessor),
        mem_test(copies),
        mem_test(io_on_memory),
        mem_test(accesses_are_cut_to_the_device),
        mem_test(accesses_end_with_the_region),
        mem_test(ports),
        mem_test(handlers_may_change_the_map),
        mem_test(io_lock_nests),
        mem_test(code_pages),
        mem_test(code_is_what_was_copied),
        mem_test(patience_with_data_beside_code),
        mem_test(dirty_log),
        mem_test(readers_while_regions_come_and_go),
        mem_test(no_handler_starts_after_removal),
        cmocka_unit_test(fence_reaches_all_threads),
        mem_test(no_write_to_code_is_missed),
        mem_test(no_write_is_missing_from_the_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
