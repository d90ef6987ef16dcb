/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon: pages that go back to the host are holes in the memory's file, and no others are. */
#include "virtio_driver.h"

#include <sys/stat.h>
#include <unistd.h>

#include "virtio/balloon.h"

enum { INFLATE, DEFLATE, STATS, HINTS, REPORT };
enum { ALL = 1 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5, POISON = 1 << 4 };

static const unsigned hows[] = {VDRIVER_SPLIT, VDRIVER_PACKED,
                                VDRIVER_INDIRECT | VDRIVER_EVENT_IDX};

static struct vdriver *start(unsigned how, uint64_t features) {
    struct vdriver *v = vdriver_new();

    vdriver_start(v, virtio_balloon_new(v->mem, v->loop, NULL), features, how);
    return v;
}

#define EACH_RING(v)                                                                               \
    for (size_t how = 0; how < ARRAY_LEN(hows); how++)                                             \
        for (struct vdriver *v = start(hows[how], ALL); v; vdriver_free(v), v = NULL)

/* Pages of the guest's memory that the host has to keep. */
static uint64_t kept(const struct vdriver *v) {
    struct stat st;

    assert_int_equal(fstat(v->mem->memfd, &st), 0);
    return (uint64_t)st.st_blocks * 512 / PAGE_SIZE;
}

static uint64_t fill(struct vdriver *v, unsigned pages) {
    uint64_t at;

    v->heap = align_up(v->heap, PAGE_SIZE);
    at = vdriver_alloc(v, pages * PAGE_SIZE);
    memset(vmem(v, at), 0xaa, pages * PAGE_SIZE);
    return at;
}

static bool is_filled(struct vdriver *v, uint64_t page) {
    return vget(v, page, 8) == 0xaaaaaaaaaaaaaaaa && vget(v, page + 4088, 8) == 0xaaaaaaaaaaaaaaaa;
}

static void tell(struct vdriver *v, unsigned queue, const uint32_t *pages, unsigned n) {
    const struct vbuf b = {vdriver_alloc(v, 4096), 4 * n};

    memcpy(vmem(v, b.gpa), pages, 4 * n);
    vq_do(v, queue, &b, 1, 0);
}

static void test_inflate(void **state) {
    (void)state;
    EACH_RING(v) {
        uint64_t at = fill(v, 16);
        uint32_t p = (uint32_t)(at >> 12);
        /* Up, down, alone, twice, and beyond the memory. */
        const uint32_t list[] = {p,     p + 1, p + 2,      p + 9,      p + 8,
                                 p + 5, p + 5, 0x7fffffff, UINT32_MAX, VDRIVER_RAM >> 12};

        tell(v, INFLATE, list, ARRAY_LEN(list));
        static const bool gone[16] = {1, 1, 1, 0, 0, 1, 0, 0, 1, 1};
        unsigned count = 0;
        for (unsigned i = 0; i < 16; i++) {
            assert_int_equal(is_filled(v, at + i * PAGE_SIZE), !gone[i]);
            count += gone[i];
        }
        assert_int_equal(count, 6);
        tell(v, DEFLATE, list, ARRAY_LEN(list));
        memset(vmem(v, at), 0xaa, PAGE_SIZE);
        assert_true(is_filled(v, at));
        assert_false(virtio_status(v->d) & VIRTIO_NEEDS_RESET);
    }
}

/* The file shrinks by as much as was given back. */
static void test_memory_goes_back_to_the_host(void **state) {
    struct vdriver *v = start(VDRIVER_SPLIT, ALL);
    uint64_t at = fill(v, 512);
    uint32_t list[512];

    (void)state;
    for (unsigned i = 0; i < 512; i++)
        list[i] = (uint32_t)(at >> 12) + (i * 7 & 511);
    fill(v, 1);
    v->heap = align_up(v->heap, PAGE_SIZE);
    memset(vmem(v, v->heap), 1, PAGE_SIZE);
    uint64_t before = kept(v);
    tell(v, INFLATE, list, 512);
    assert_int_equal(before - kept(v), 512);
    vdriver_free(v);
}

static void report(struct vdriver *v, unsigned queue, uint64_t at, uint32_t len) {
    const struct vbuf b[2] = {{at, len}, {at + 8 * PAGE_SIZE, PAGE_SIZE}};

    vq_do(v, queue, b, 0, 2);
}

static void test_free_pages(void **state) {
    (void)state;
    for (unsigned queue = HINTS; queue <= REPORT; queue++)
        EACH_RING(v) {
            uint64_t at = fill(v, 16);

            /* Only whole pages. */
            report(v, queue, at + 100, 3 * PAGE_SIZE);
            static const bool gone[16] = {0, 1, 1};
            for (unsigned i = 0; i < 16; i++)
                assert_int_equal(vget(v, at + i * PAGE_SIZE + 200, 8) == 0, gone[i]);
            /* A driver that expects its pattern keeps it. */
            at = fill(v, 16);
            virtio_config_write(v->d, 12, 4, 0xaa);
            report(v, queue, at, 4 * PAGE_SIZE);
            assert_true(is_filled(v, at));
        }
}

static void test_stats(void **state) {
    (void)state;
    EACH_RING(v) {
        const struct vbuf b = {vdriver_alloc(v, 64), 33};
        struct virtio_balloon_stats s;
        uint32_t len;
        int id;

        vput(v, b.gpa, BALLOON_S_MEMFREE, 2);
        vput(v, b.gpa + 2, 123456, 8);
        vput(v, b.gpa + 10, 999, 2);
        vput(v, b.gpa + 12, 1, 8);
        vput(v, b.gpa + 20, BALLOON_S_MEMTOT, 2);
        vput(v, b.gpa + 22, 7, 8);
        virtio_balloon_ask(v->d);
        vdriver_run(v);
        vq_add(v, STATS, &b, 1, 0);
        vq_kick(v, STATS);
        vdriver_run(v);
        /* It was asked before, so the first one comes back at once. */
        assert_true(vq_get(v, STATS, &id, &len));
        vq_add(v, STATS, &b, 1, 0);
        vq_kick(v, STATS);
        vdriver_run(v);
        assert_false(vq_get(v, STATS, &id, &len));
        virtio_balloon_stats(v->d, &s);
        assert_int_equal(s.known, 1 << BALLOON_S_MEMFREE | 1 << BALLOON_S_MEMTOT);
        assert_int_equal(s.value[BALLOON_S_MEMFREE], 123456);
        assert_int_equal(s.value[BALLOON_S_MEMTOT], 7);
        virtio_balloon_ask(v->d);
        vdriver_run(v);
        assert_true(vq_get(v, STATS, &id, &len));
        assert_int_equal(len, 0);
    }
}

static void test_target_and_state(void **state) {
    (void)state;
    EACH_RING(v) {
        const struct vbuf b = {vdriver_alloc(v, 64), 10};
        uint32_t len;
        int id;

        virtio_balloon_set_target(v->d, 5 << 20);
        assert_int_equal(v->config_interrupts, 1);
        assert_int_equal(virtio_config_read(v->d, 0, 4), 1280);
        virtio_config_write(v->d, 0, 4, 7);
        virtio_config_write(v->d, 4, 4, 1000);
        virtio_config_write(v->d, 5, 1, 1);
        virtio_config_write(v->d, 6, 4, 0xffff);
        virtio_config_write(v->d, 8, 4, 0xffff);
        virtio_config_write(v->d, 12, 4, 0xbb);
        assert_int_equal(virtio_config_read(v->d, 0, 4), 1280);
        assert_int_equal(virtio_config_read(v->d, 8, 4), 0);
        assert_int_equal(virtio_balloon_actual(v->d), (0x100 | 1000 % 0x100) * 4096);
        vq_add(v, STATS, &b, 1, 0);
        vq_kick(v, STATS);
        vdriver_run(v);
        vdriver_copy_state(v, virtio_balloon_new(v->mem, v->loop, NULL));
        assert_int_equal(virtio_config_read(v->d, 0, 4), 1280);
        assert_int_equal(virtio_config_read(v->d, 12, 4), 0xbb);
        virtio_balloon_ask(v->d);
        vdriver_run(v);
        assert_true(vq_get(v, STATS, &id, &len));
        virtio_set_status(v->d, 0, false);
        assert_int_equal(virtio_balloon_actual(v->d), 0);
        assert_int_equal(virtio_config_read(v->d, 0, 4), 1280);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inflate),
        cmocka_unit_test(test_memory_goes_back_to_the_host),
        cmocka_unit_test(test_free_pages),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_target_and_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
