/* SPDX-License-Identifier: Apache-2.0 */
/* The SCSI host: commands of disks and CD drives on a disk in memory, and task management. */
#include "virtio_driver.h"

#include <errno.h>

#include "base/iov.h"
#include "block/block.h"
#include "virtio/scsi.h"

enum { CONTROL, EVENT, REQUEST };
enum { HEAD = 51, RESPONSE = 108, DISK = 1 << 20, BLOCK = 512 };
enum { OK = 0, OVERRUN = 1, BAD_TARGET = 3, INCORRECT_LUN = 12 };

/* A disk in memory. */
struct ram_disk {
    struct block b; /* first */
    uint8_t data[DISK];
    bool slow;
    struct block_req *pending;
    int error;
    unsigned flushes;
    uint64_t discarded;
};

struct fixture {
    struct vdriver *v;
    struct ram_disk *disk, *cd;
    uint64_t out, in;
};

static void ram_do(struct ram_disk *d, struct block_req *r) {
    if (d->error) {
        r->done(r, d->error);
        return;
    }
    if (r->op == BLOCK_READ)
        iov_write(r->iov, r->iov_count, 0, d->data + r->off, r->len);
    if (r->op == BLOCK_WRITE)
        iov_read(r->iov, r->iov_count, 0, d->data + r->off, r->len);
    if (r->op == BLOCK_WRITE_ZEROES)
        memset(d->data + r->off, 0, r->len);
    d->flushes += r->op == BLOCK_FLUSH;
    d->discarded += r->op == BLOCK_DISCARD ? r->len : 0;
    r->done(r, 0);
}

static void ram_submit(struct block *b, struct block_req *r) {
    struct ram_disk *d = (struct ram_disk *)(void *)b;

    if (d->slow)
        d->pending = r;
    else
        ram_do(d, r);
}

static void ram_close(struct block *b) {
    free(b);
}

static const struct block_ops ram_ops = {.name = "ram", .submit = ram_submit, .close = ram_close};

static struct ram_disk *new_disk(struct loop *l, bool read_only) {
    struct ram_disk *d = xcalloc(1, sizeof(*d));

    d->b = (struct block){
        .ops = &ram_ops,
        .loop = l,
        .info = {.size = DISK,
                 .logical_block = BLOCK,
                 .physical_block = 4096,
                 .discard_align = 4096,
                 .read_only = read_only,
                 .write_cache = true},
    };
    for (unsigned i = 0; i < DISK; i++)
        d->data[i] = (uint8_t)(i / BLOCK);
    return d;
}

static struct virtio_device *new_device(struct fixture *f) {
    const struct virtio_scsi_target targets[2] = {{&f->disk->b, false, "SERIAL"},
                                                  {&f->cd->b, true, NULL}};

    return virtio_scsi_new(f->v->mem, targets, 2, f->v->loop, NULL);
}

static struct fixture *start(unsigned how) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->v = vdriver_new();
    f->disk = new_disk(f->v->loop, false);
    f->cd = new_disk(f->v->loop, true);
    vdriver_start(f->v, new_device(f), 0, how);
    f->out = vdriver_alloc(f->v, 70000);
    f->in = vdriver_alloc(f->v, 70000);
    return f;
}

static void finish(struct fixture *f) {
    vdriver_free(f->v);
    block_close(&f->disk->b);
    block_close(&f->cd->b);
    free(f);
}

static const unsigned hows[] = {VDRIVER_SPLIT, VDRIVER_PACKED,
                                VDRIVER_INDIRECT | VDRIVER_EVENT_IDX};
#define EACH_RING(f)                                                                               \
    for (size_t how = 0; how < ARRAY_LEN(hows); how++)                                             \
        for (struct fixture *f = start(hows[how]); f; finish(f), f = NULL)

#define CDB(...) ((const uint8_t[32]){__VA_ARGS__})

static void put_request(struct fixture *f, unsigned target, unsigned lun, const uint8_t *cdb) {
    const uint8_t address[8] = {1, (uint8_t)target, (uint8_t)(0x40 | lun >> 8), (uint8_t)lun};

    memset(vmem(f->v, f->out), 0, HEAD);
    memcpy(vmem(f->v, f->out), address, 8);
    memcpy(vmem(f->v, f->out + 19), cdb, 32);
    memset(vmem(f->v, f->in), 0xee, RESPONSE);
}

static void post(struct fixture *f, uint32_t out_len, uint32_t in_len) {
    const struct vbuf b[4] = {
        {f->out, HEAD}, {f->out + HEAD, out_len}, {f->in, RESPONSE}, {f->in + RESPONSE, in_len}};
    const struct vbuf only_in[3] = {b[0], b[2], b[3]};

    if (out_len)
        vq_add(f->v, REQUEST, b, 2, in_len ? 2 : 1);
    else
        vq_add(f->v, REQUEST, only_in, 1, in_len ? 2 : 1);
    vq_kick(f->v, REQUEST);
    vdriver_run(f->v);
}

static void expect_response(struct fixture *f, uint8_t response) {
    uint32_t len;
    int id;

    assert_true(vq_get(f->v, REQUEST, &id, &len));
    assert_true(len >= RESPONSE);
    assert_int_equal(vget(f->v, f->in + 11, 1), response);
}

/* The status: 0, or sense key << 16 | ASC << 8 | ASCQ. */
static uint32_t run(struct fixture *f, unsigned target, const uint8_t *cdb, uint32_t out_len,
                    uint32_t in_len) {
    put_request(f, target, 0, cdb);
    post(f, out_len, in_len);
    expect_response(f, OK);
    if (!vget(f->v, f->in + 10, 1)) {
        assert_int_equal(vget(f->v, f->in, 4), 0);
        return 0;
    }
    assert_int_equal(vget(f->v, f->in + 10, 1), 2);
    assert_int_equal(vget(f->v, f->in, 4), 18);
    assert_int_equal(vget(f->v, f->in + 12, 1), 0x70);
    return (uint32_t)(vget(f->v, f->in + 14, 1) << 16 | vget(f->v, f->in + 24, 1) << 8 |
                      vget(f->v, f->in + 25, 1));
}

static uint8_t *data_in(struct fixture *f) {
    return vmem(f->v, f->in + RESPONSE);
}

static uint8_t *data_out(struct fixture *f) {
    return vmem(f->v, f->out + HEAD);
}

static uint64_t be(const uint8_t *p, unsigned n) {
    uint64_t v = 0;

    while (n--)
        v = v << 8 | *p++;
    return v;
}

static void test_what_is_there(void **state) {
    (void)state;
    EACH_RING(f) {
        assert_int_equal(run(f, 0, CDB(0x12, 0, 0, 0, 36), 0, 36), 0);
        assert_int_equal(data_in(f)[0], 0);
        assert_memory_equal(data_in(f) + 16, "DISK", 4);
        assert_int_equal(run(f, 1, CDB(0x12, 0, 0, 0, 5), 0, 36), 0);
        assert_int_equal(data_in(f)[0], 5);
        assert_int_equal(vget(f->v, f->in + 4, 4), 31);
        assert_int_equal(run(f, 0, CDB(0x12, 1, 0x80, 0, 64), 0, 64), 0);
        assert_memory_equal(data_in(f) + 4, "SERIAL", 6);
        for (unsigned page = 0; page < 256; page++) {
            uint32_t r = run(f, 0, CDB(0x12, 1, (uint8_t)page, 0, 255), 0, 255);
            bool known = page == 0 || page == 0x80 || page == 0x83 || (page >= 0xb0 && page < 0xb3);
            assert_int_equal(r, known ? 0 : 0x052400);
        }
        assert_int_equal(run(f, 0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16), 0, 16), 0);
        assert_int_equal(data_in(f)[3], 8);
        put_request(f, 2, 0, CDB(0));
        post(f, 0, 0);
        expect_response(f, BAD_TARGET);
        put_request(f, 0, 3, CDB(0x12, 0, 0, 0, 36));
        post(f, 0, 36);
        expect_response(f, OK);
        assert_int_equal(data_in(f)[0], 0x7f);
        put_request(f, 0, 3, CDB(0));
        post(f, 0, 0);
        expect_response(f, OK);
        assert_int_equal(vget(f->v, f->in + 24, 1), 0x25);
    }
}

static void test_capacity_and_modes(void **state) {
    (void)state;
    EACH_RING(f) {
        assert_int_equal(run(f, 0, CDB(0x25), 0, 8), 0);
        assert_int_equal(be(data_in(f), 4), DISK / BLOCK - 1);
        assert_int_equal(be(data_in(f) + 4, 4), BLOCK);
        assert_int_equal(run(f, 1, CDB(0x25), 0, 8), 0);
        assert_int_equal(be(data_in(f), 4), DISK / 2048 - 1);
        assert_int_equal(run(f, 0, CDB(0x9e, 0x10, [13] = 32), 0, 32), 0);
        assert_int_equal(be(data_in(f), 8), DISK / BLOCK - 1);
        assert_int_equal(data_in(f)[13], 3);
        assert_int_equal(data_in(f)[14], 0x80);
        assert_int_equal(run(f, 0, CDB(0x9e, 0x11, [13] = 32), 0, 32), 0x052400);
        assert_int_equal(run(f, 0, CDB(0x1a, 0, 0x3f, 0, 192), 0, 192), 0);
        assert_int_equal(data_in(f)[4], 8);
        assert_int_equal(data_in(f)[6], 4);
        assert_int_equal(run(f, 0, CDB(0x5a, 0, 0xc8, [8] = 192), 0, 192), 0x053900);
        assert_int_equal(run(f, 1, CDB(0x5a, 0, 0x2a, [8] = 192), 0, 192), 0);
        assert_int_equal(data_in(f)[8], 0x2a);
        assert_int_equal(run(f, 1, CDB(0x5a, 0, 0x08, [8] = 192), 0, 192), 0x052400);
        assert_int_equal(run(f, 0, CDB(0x00), 0, 0), 0);
        assert_int_equal(run(f, 0, CDB(0xff), 0, 0), 0x052000);
        f->cd->b.info.size = 0;
        assert_int_equal(run(f, 1, CDB(0x00), 0, 0), 0x023a00);
        assert_int_equal(run(f, 1, CDB(0x25), 0, 8), 0x023a00);
    }
}

static void test_reading_and_writing(void **state) {
    (void)state;
    EACH_RING(f) {
        static const uint8_t reads[][16] = {
            {0x08, 0, 0, 7, 2},
            {0x28, 0, 0, 0, 0, 7, 0, 0, 2},
            {0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 2},
            {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2},
        };
        for (unsigned i = 0; i < 4; i++) {
            uint8_t cdb[32] = {0};

            memcpy(cdb, reads[i], 16);
            memset(data_in(f), 0, 1024);
            assert_int_equal(run(f, 0, cdb, 0, 1024), 0);
            assert_memory_equal(data_in(f), f->disk->data + 7 * BLOCK, 1024);
            cdb[0] += 2;
            memset(data_out(f), (int)i + 100, 1024);
            assert_int_equal(run(f, 0, cdb, 1024, 0), 0);
            assert_memory_equal(data_out(f), f->disk->data + 7 * BLOCK, 1024);
            assert_int_equal(run(f, 1, cdb, 1024, 0), 0x052000);
        }
        assert_int_equal(run(f, 0, CDB(0x28, 0, 0, 0, 7, 0xff, 0, 0, 2), 0, 1024), 0x052100);
        assert_int_equal(
            run(f, 0, CDB(0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 2), 0, 1024),
            0x052100);
        /* No room for what was asked for. */
        put_request(f, 0, 0, CDB(0x28, 0, 0, 0, 0, 7, 0, 0, 3));
        post(f, 0, 1024);
        expect_response(f, OVERRUN);
        put_request(f, 0, 0, CDB(0x2a, 0, 0, 0, 0, 7, 0, 0, 3));
        post(f, 1024, 0);
        expect_response(f, OVERRUN);
        assert_int_equal(run(f, 0, CDB(0x35), 0, 0), 0);
        assert_int_equal(f->disk->flushes, 1);
        f->disk->error = -EIO;
        assert_int_equal(run(f, 0, CDB(0x28, [8] = 1), 0, 512), 0x031100);
        assert_int_equal(run(f, 0, CDB(0x2a, [8] = 1), 512, 0), 0x030c00);
        f->disk->error = -ENOSPC;
        assert_int_equal(run(f, 0, CDB(0x2a, [8] = 1), 512, 0), 0x072707);
        f->disk->error = 0;
        f->disk->b.info.read_only = true;
        assert_int_equal(run(f, 0, CDB(0x2a, [8] = 1), 512, 0), 0x072700);
    }
}

static void test_same_and_unmap(void **state) {
    (void)state;
    EACH_RING(f) {
        static const uint8_t zero[BLOCK * 3];

        memset(data_out(f), 0x5a, BLOCK);
        assert_int_equal(run(f, 0, CDB(0x41, 0, 0, 0, 0, 10, 0, 0x04, 0x10), BLOCK, 0), 0);
        for (unsigned i = 0; i < 0x410; i++)
            assert_memory_equal(f->disk->data + (10 + i) * BLOCK, data_out(f), BLOCK);
        assert_int_equal(f->disk->data[(10 + 0x410) * BLOCK], (uint8_t)(10 + 0x410));
        memset(data_out(f), 0, BLOCK);
        assert_int_equal(run(f, 0, CDB(0x93, 8, [9] = 10, [13] = 3), BLOCK, 0), 0);
        assert_memory_equal(f->disk->data + 10 * BLOCK, zero, sizeof(zero));
        assert_int_equal(run(f, 0, CDB(0x93, 2, [9] = 10, [13] = 3), BLOCK, 0), 0x052400);
        /* Two ranges; then one that is not on the disk. */
        uint8_t *p = data_out(f);
        memset(p, 0, 64);
        p[3] = 32;
        p[8 + 7] = 4;
        p[8 + 11] = 8;
        p[24 + 7] = 100;
        p[24 + 11] = 2;
        assert_int_equal(run(f, 0, CDB(0x42, [8] = 40), 40, 0), 0);
        assert_int_equal(f->disk->discarded, 10 * BLOCK);
        p[24] = 1;
        assert_int_equal(run(f, 0, CDB(0x42, [8] = 40), 40, 0), 0x052100);
        p[2] = 255;
        assert_int_equal(run(f, 0, CDB(0x42, [8] = 40), 40, 0), 0x052400);
        put_request(f, 0, 0, CDB(0x42, [7] = 255));
        post(f, 40, 0);
        expect_response(f, OVERRUN);
    }
}

static void test_cd(void **state) {
    (void)state;
    EACH_RING(f) {
        assert_int_equal(run(f, 1, CDB(0x28, [5] = 3, [8] = 1), 0, 2048), 0);
        assert_memory_equal(data_in(f), f->cd->data + 3 * 2048, 2048);
        assert_int_equal(run(f, 1, CDB(0x43, [8] = 20), 0, 20), 0);
        assert_int_equal(be(data_in(f), 2), 18);
        assert_int_equal(data_in(f)[14], 0xaa);
        assert_int_equal(be(data_in(f) + 16, 4), DISK / 2048);
        assert_int_equal(run(f, 1, CDB(0x43, 2, [8] = 20), 0, 20), 0);
        assert_int_equal(data_in(f)[10], 2); /* 00:02:00 */
        assert_int_equal(run(f, 1, CDB(0x46, [8] = 32), 0, 32), 0);
        assert_int_equal(be(data_in(f) + 6, 2), 8);
        assert_int_equal(run(f, 1, CDB(0x4a, 1, [4] = 0x10, [8] = 8), 0, 8), 0);
        assert_int_equal(data_in(f)[5], 2);
        assert_int_equal(run(f, 1, CDB(0x4a, 0, [8] = 8), 0, 8), 0x052400);
        assert_int_equal(run(f, 1, CDB(0x51, [8] = 34), 0, 34), 0);
        assert_int_equal(run(f, 1, CDB(0xbd, [9] = 8), 0, 8), 0);
        assert_int_equal(run(f, 1, CDB(0x12, 1, 0xb0, 0, 255), 0, 255), 0x052400);
    }
}

static void manage(struct fixture *f, uint32_t subtype, unsigned target, unsigned lun) {
    const struct vbuf b[2] = {{f->out + 60000, 24}, {f->in + 60000, 1}};
    uint8_t *p = vmem(f->v, f->out + 60000);

    memset(p, 0, 24);
    p[4] = (uint8_t)subtype;
    p[8] = 1;
    p[9] = (uint8_t)target;
    p[11] = (uint8_t)lun;
    vput(f->v, f->in + 60000, 0xee, 1);
    vq_add(f->v, CONTROL, b, 1, 1);
    vq_kick(f->v, CONTROL);
    vdriver_run(f->v);
}

static void test_task_management(void **state) {
    (void)state;
    EACH_RING(f) {
        uint32_t len;
        int id;

        manage(f, 5, 0, 0);
        assert_true(vq_get(f->v, CONTROL, &id, &len));
        assert_int_equal(vget(f->v, f->in + 60000, 1), 0);
        manage(f, 5, 9, 0);
        assert_int_equal(vget(f->v, f->in + 60000, 1), BAD_TARGET);
        manage(f, 5, 0, 1);
        assert_int_equal(vget(f->v, f->in + 60000, 1), INCORRECT_LUN);
        manage(f, 99, 0, 0);
        assert_int_equal(vget(f->v, f->in + 60000, 1), 11);
        while (vq_get(f->v, CONTROL, &id, &len))
            continue;
        /* It waits for what is under way. */
        f->disk->slow = true;
        put_request(f, 0, 0, CDB(0x28, [8] = 1));
        post(f, 0, 512);
        manage(f, 0, 0, 0);
        assert_false(vq_get(f->v, CONTROL, &id, &len));
        ram_do(f->disk, f->disk->pending);
        expect_response(f, OK);
        vdriver_run(f->v);
        assert_true(vq_get(f->v, CONTROL, &id, &len));
        assert_int_equal(vget(f->v, f->in + 60000, 1), 0);
        /* A reset overtakes both. */
        post(f, 0, 512);
        manage(f, 0, 0, 0);
        virtio_set_status(f->v->d, 0, false);
        ram_do(f->disk, f->disk->pending);
        vdriver_start(f->v, f->v->d, 0, f->v->how);
        f->disk->slow = false;
        assert_int_equal(run(f, 0, CDB(0), 0, 0), 0);
    }
}

static void test_requests_that_are_none(void **state) {
    (void)state;
    EACH_RING(f) {
        const struct vbuf b[2] = {{f->out, HEAD - 1}, {f->in, RESPONSE}};

        vq_do(f->v, REQUEST, b, 1, 1);
        assert_true(virtio_status(f->v->d) & VIRTIO_NEEDS_RESET);
        vdriver_start(f->v, f->v->d, 0, f->v->how);
        vput(f->v, f->out, 77, 4);
        vq_do(f->v, CONTROL, b, 1, 1);
        assert_true(virtio_status(f->v->d) & VIRTIO_NEEDS_RESET);
        vdriver_start(f->v, f->v->d, 0, f->v->how);
        vput(f->v, f->out, 1, 4);
        assert_int_equal(vq_do(f->v, CONTROL, b, 1, 1), 5);
        vdriver_copy_state(f->v, new_device(f));
        assert_int_equal(run(f, 0, CDB(0), 0, 0), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_there),
        cmocka_unit_test(test_capacity_and_modes),
        cmocka_unit_test(test_reading_and_writing),
        cmocka_unit_test(test_same_and_unmap),
        cmocka_unit_test(test_cd),
        cmocka_unit_test(test_task_management),
        cmocka_unit_test(test_requests_that_are_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
