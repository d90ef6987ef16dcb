/* SPDX-License-Identifier: Apache-2.0 */
/* The block and entropy devices against a guest's driver. */
#include "virtio_driver.h"

#include <errno.h>

#include "base/iov.h"
#include "block/block.h"
#include "virtio/blk.h"
#include "virtio/rng.h"

#define DISK_BYTES (64u << 10)

enum { OP_IN = 0, OP_OUT = 1, OP_FLUSH = 4, OP_ID = 8, OP_DISCARD = 11, OP_ZEROES = 13 };
enum { RO = 5, FLUSH = 9, WCE = 11, DISCARD = 13, ZEROES = 14 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };

/* A disk in memory that answers at once, or when it is told to. */
struct ram_disk {
    struct block b;
    uint8_t bytes[DISK_BYTES];
    bool slow;
    struct block_req *waiting[16];
    unsigned waiting_count, flushes, discards;
    int error;
};

static int perform(struct ram_disk *d, struct block_req *r) {
    switch (r->op) {
    case BLOCK_READ:
        iov_write(r->iov, r->iov_count, 0, d->bytes + r->off, r->len);
        break;
    case BLOCK_WRITE:
        iov_read(r->iov, r->iov_count, 0, d->bytes + r->off, r->len);
        break;
    case BLOCK_FLUSH:
        d->flushes++;
        break;
    case BLOCK_DISCARD:
        d->discards++;
        break;
    case BLOCK_WRITE_ZEROES:
        memset(d->bytes + r->off, r->unmap ? 0xee : 0, r->len);
    }
    return d->error;
}

static void ram_submit(struct block *b, struct block_req *r) {
    struct ram_disk *d = container_of(b, struct ram_disk, b);

    if (d->slow)
        d->waiting[d->waiting_count++] = r;
    else
        r->done(r, perform(d, r));
}

static void ram_answer(struct ram_disk *d) {
    while (d->waiting_count) {
        struct block_req *r = d->waiting[--d->waiting_count];

        r->done(r, perform(d, r));
    }
}

static const struct block_ops ram_ops = {.name = "ram", .submit = ram_submit};

struct fixture {
    struct vdriver *v;
    struct ram_disk disk;
    struct vbuf header, data, status;
};

static struct virtio_device *new_blk(struct fixture *f) {
    struct virtio_device *d =
        virtio_blk_new(f->v->mem, &f->disk.b, 2, "serial-0123456789abcdef", NULL);

    assert_non_null(d);
    return d;
}

static struct fixture *start(unsigned how, uint64_t features, bool read_only) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->v = vdriver_new();
    f->disk.b = (struct block){.ops = &ram_ops, .loop = f->v->loop};
    f->disk.b.info = (struct block_info){.size = DISK_BYTES,
                                         .logical_block = 512,
                                         .physical_block = 4096,
                                         .discard_align = 512,
                                         .optimal_io = 8192,
                                         .read_only = read_only,
                                         .write_cache = true};
    for (unsigned i = 0; i < DISK_BYTES; i++)
        f->disk.bytes[i] = (uint8_t)(i / 512 + i);
    vdriver_start(f->v, new_blk(f), features, how);
    f->header = (struct vbuf){vdriver_alloc(f->v, 16), 16};
    f->data = (struct vbuf){vdriver_alloc(f->v, 16384), 512};
    f->status = (struct vbuf){vdriver_alloc(f->v, 1), 1};
    return f;
}

static void end(struct fixture *f) {
    vdriver_free(f->v);
    free(f);
}

static void put_header(struct fixture *f, uint32_t type, uint64_t sector) {
    vput(f->v, f->header.gpa, type, 8);
    vput(f->v, f->header.gpa + 8, sector, 8);
    vput(f->v, f->status.gpa, 0xff, 1);
}

/* Returns the status; *len is what the device says it wrote. */
static unsigned request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t bytes,
                        uint32_t *len) {
    bool in = type == OP_IN || type == OP_ID;
    struct vbuf bufs[3] = {f->header, f->data, f->status};
    uint32_t written;

    bufs[1].len = bytes;
    put_header(f, type, sector);
    if (!bytes)
        bufs[1] = f->status;
    written = vq_do(f->v, 1, bufs, 1 + (bytes && !in), 1 + (bytes && in));
    if (len)
        *len = written;
    return (unsigned)vget(f->v, f->status.gpa, 1);
}

static const unsigned WAYS[] = {VDRIVER_SPLIT, VDRIVER_SPLIT | VDRIVER_INDIRECT, VDRIVER_PACKED,
                                VDRIVER_PACKED | VDRIVER_INDIRECT | VDRIVER_EVENT_IDX};

static void reads_and_writes(void **state) {
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(WAYS); i++) {
        struct fixture *f = start(WAYS[i], VIRTIO_BIT(FLUSH), false);
        uint32_t len;

        assert_int_equal(request(f, OP_IN, 3, 1024, &len), OK);
        assert_int_equal(len, 1025);
        assert_memory_equal(vmem(f->v, f->data.gpa), f->disk.bytes + 3 * 512, 1024);
        memset(vmem(f->v, f->data.gpa), 0x5a, 2048);
        assert_int_equal(request(f, OP_OUT, 4, 2048, &len), OK);
        assert_int_equal(len, 1);
        assert_int_equal(f->disk.bytes[4 * 512], 0x5a);
        assert_int_equal(f->disk.bytes[8 * 512 - 1], 0x5a);
        assert_int_not_equal(f->disk.bytes[8 * 512], 0x5a);
        assert_int_equal(f->disk.flushes, 0);
        assert_int_equal(request(f, OP_FLUSH, 0, 0, NULL), OK);
        assert_int_equal(f->disk.flushes, 1);
        end(f);
    }
}

/* Header, data and status in one or two descriptors, as a driver may lay them out. */
static void any_layout(void **state) {
    (void)state;
    struct fixture *f = start(VDRIVER_SPLIT, 0, false);
    struct vbuf one = {vdriver_alloc(f->v, 528), 528}, back = {vdriver_alloc(f->v, 513), 513};
    struct vbuf bufs[2] = {one, f->status};

    vput(f->v, one.gpa, OP_OUT, 8);
    vput(f->v, one.gpa + 8, 7, 8);
    memset(vmem(f->v, one.gpa + 16), 0x77, 512);
    assert_int_equal(vq_do(f->v, 0, bufs, 1, 1), 1);
    assert_int_equal(vget(f->v, f->status.gpa, 1), OK);
    assert_int_equal(f->disk.bytes[7 * 512 + 511], 0x77);
    put_header(f, OP_IN, 7);
    bufs[0] = f->header;
    bufs[1] = back;
    assert_int_equal(vq_do(f->v, 0, bufs, 1, 1), 513);
    assert_int_equal(vget(f->v, back.gpa + 511, 1), 0x77);
    assert_int_equal(vget(f->v, back.gpa + 512, 1), OK);
    end(f);
}

static void errors(void **state) {
    (void)state;
    struct fixture *f = start(VDRIVER_SPLIT, 0, false);
    uint32_t len;

    assert_int_equal(request(f, OP_IN, 128, 512, &len), IOERR);
    assert_int_equal(len, 1);
    assert_int_equal(request(f, OP_IN, 127, 1024, NULL), IOERR);
    assert_int_equal(request(f, OP_IN, UINT64_MAX, 512, NULL), IOERR);
    assert_int_equal(request(f, OP_IN, UINT64_MAX / 512 + 1, 512, NULL), IOERR);
    assert_int_equal(request(f, OP_OUT, 0, 100, NULL), IOERR);
    assert_int_equal(request(f, 77, 0, 512, NULL), UNSUPP);
    f->disk.error = -EIO;
    assert_int_equal(request(f, OP_IN, 0, 512, NULL), IOERR);
    assert_int_equal(request(f, OP_FLUSH, 0, 0, NULL), IOERR);
    end(f);

    f = start(VDRIVER_SPLIT, VIRTIO_BIT(RO), true);
    assert_int_equal(virtio_offered(f->v->d) & VIRTIO_BIT(DISCARD), 0);
    assert_int_equal(request(f, OP_OUT, 0, 512, NULL), IOERR);
    assert_int_equal(request(f, OP_IN, 0, 512, NULL), OK);
    end(f);
}

static void no_place_for_a_status(void **state) {
    (void)state;
    for (unsigned in = 0; in < 2; in++) {
        struct fixture *f = start(VDRIVER_SPLIT, 0, false);
        struct vbuf bufs[2] = {f->header, f->status};

        bufs[0].len = in ? 15 : 16;
        vq_add(f->v, 0, bufs, 1, in);
        vq_kick(f->v, 0);
        vdriver_run(f->v);
        assert_true(virtio_status(f->v->d) & VIRTIO_NEEDS_RESET);
        end(f);
    }
}

static void serial(void **state) {
    (void)state;
    struct fixture *f = start(VDRIVER_SPLIT, 0, false);
    uint32_t len;

    assert_int_equal(request(f, OP_ID, 0, 20, &len), OK);
    assert_int_equal(len, 21);
    assert_memory_equal(vmem(f->v, f->data.gpa), "serial-0123456789abc", 20);
    assert_int_equal(request(f, OP_ID, 0, 6, NULL), OK);
    end(f);
}

static void put_range(struct fixture *f, unsigned i, uint64_t sector, uint32_t sectors,
                      uint32_t flags) {
    vput(f->v, f->data.gpa + 16 * i, sector, 8);
    vput(f->v, f->data.gpa + 16 * i + 8, sectors, 4);
    vput(f->v, f->data.gpa + 16 * i + 12, flags, 4);
}

static void ranges(void **state) {
    (void)state;
    struct fixture *f = start(VDRIVER_SPLIT, VIRTIO_BIT(DISCARD) | VIRTIO_BIT(ZEROES), false);

    put_range(f, 0, 0, 2, 0);
    put_range(f, 1, 10, 1, 1);
    assert_int_equal(request(f, OP_ZEROES, 0, 32, NULL), OK);
    assert_int_equal(f->disk.bytes[0] | f->disk.bytes[1023], 0);
    assert_int_equal(f->disk.bytes[10 * 512], 0xee);
    assert_int_not_equal(f->disk.bytes[11 * 512], 0xee);
    assert_int_equal(request(f, OP_DISCARD, 0, 32, NULL), UNSUPP); /* unmap is not for it */
    put_range(f, 1, 10, 1, 0);
    assert_int_equal(request(f, OP_DISCARD, 0, 32, NULL), OK);
    assert_int_equal(f->disk.discards, 2);
    put_range(f, 1, 10, 1, 2);
    assert_int_equal(request(f, OP_ZEROES, 0, 32, NULL), UNSUPP);
    put_range(f, 1, 127, 2, 0);
    assert_int_equal(request(f, OP_ZEROES, 0, 32, NULL), IOERR);
    put_range(f, 1, UINT64_MAX, 1, 0);
    assert_int_equal(request(f, OP_ZEROES, 0, 32, NULL), IOERR);
    assert_int_equal(request(f, OP_DISCARD, 0, 17, NULL), IOERR);
    assert_int_equal(request(f, OP_DISCARD, 0, 0, NULL), IOERR);
    assert_int_equal(request(f, OP_DISCARD, 0, 17 * 16, NULL), IOERR);
    end(f);
}

/* With the cache off a write is complete when it is on the disk. */
static void write_cache(void **state) {
    (void)state;
    struct fixture *f = start(VDRIVER_SPLIT, VIRTIO_BIT(FLUSH) | VIRTIO_BIT(WCE), false);

    assert_int_equal(virtio_config_read(f->v->d, 32, 1), 1);
    virtio_config_write(f->v->d, 32, 1, 0);
    assert_int_equal(request(f, OP_OUT, 0, 512, NULL), OK);
    assert_int_equal(f->disk.flushes, 1);
    assert_int_equal(request(f, OP_IN, 0, 512, NULL), OK);
    assert_int_equal(f->disk.flushes, 1);
    vdriver_copy_state(f->v, new_blk(f));
    assert_int_equal(request(f, OP_OUT, 0, 512, NULL), OK);
    assert_int_equal(f->disk.flushes, 2);
    vdriver_start(f->v, f->v->d, VIRTIO_BIT(FLUSH), VDRIVER_SPLIT);
    assert_int_equal(virtio_config_read(f->v->d, 32, 1), 1);
    vdriver_start(f->v, f->v->d, 0, VDRIVER_SPLIT); /* knows no flush */
    assert_int_equal(request(f, OP_OUT, 0, 512, NULL), OK);
    assert_int_equal(f->disk.flushes, 3);
    end(f);
}

static void late_answers(void **state) {
    (void)state;
    struct fixture *f = start(VDRIVER_PACKED, 0, false);
    struct vbuf bufs[3] = {f->header, f->data, f->status};
    uint32_t len;
    int id, got;

    f->disk.slow = true;
    put_header(f, OP_IN, 1);
    id = vq_add(f->v, 0, bufs, 1, 2);
    vq_add(f->v, 0, bufs, 1, 2);
    vq_kick(f->v, 0);
    vdriver_run(f->v);
    assert_int_equal(f->disk.waiting_count, 2);
    assert_false(vq_get(f->v, 0, &got, &len));
    ram_answer(&f->disk);
    assert_true(vq_get(f->v, 0, &got, &len));
    assert_int_not_equal(got, id); /* the later one is first */
    assert_true(vq_get(f->v, 0, &got, &len) && got == id && len == 513);
    /* One that a reset overtakes does nobody harm. */
    vq_add(f->v, 0, bufs, 1, 2);
    vq_kick(f->v, 0);
    vdriver_run(f->v);
    virtio_set_status(f->v->d, 0, false);
    assert_int_equal(f->disk.waiting_count, 1);
    ram_answer(&f->disk);
    f->disk.slow = false;
    vdriver_start(f->v, f->v->d, 0, VDRIVER_SPLIT);
    assert_int_equal(request(f, OP_IN, 0, 512, NULL), OK);
    end(f);
}

static void configuration(void **state) {
    (void)state;
    struct fixture *f = start(VDRIVER_SPLIT, 0, false);
    struct virtio_device *d = f->v->d;

    assert_int_equal(virtio_config_read(d, 0, 4), DISK_BYTES / 512);
    assert_int_equal(virtio_config_read(d, 12, 4), 254);
    assert_int_equal(virtio_config_read(d, 20, 4), 512);
    assert_int_equal(virtio_config_read(d, 24, 1), 3); /* 4096 bytes a physical block */
    assert_int_equal(virtio_config_read(d, 26, 2), 8);
    assert_int_equal(virtio_config_read(d, 28, 4), 16);
    assert_int_equal(virtio_config_read(d, 34, 2), 2);
    assert_int_equal(virtio_config_read(d, 60, 1), UINT32_MAX);
    end(f);
}

static void entropy(void **state) {
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(WAYS); i++) {
        struct vdriver *v = vdriver_new();
        struct vbuf bufs[2] = {{vdriver_alloc(v, 32), 32}, {vdriver_alloc(v, 8192), 8192}};
        struct virtio_device *d = virtio_rng_new(v->mem, v->loop, NULL);
        unsigned zeroes = 0;

        vdriver_start(v, d, 0, WAYS[i]);
        assert_int_equal(vq_do(v, 0, bufs, 0, 1), 32);
        for (unsigned k = 0; k < 32; k++)
            zeroes += vget(v, bufs[0].gpa + k, 1) == 0;
        assert_true(zeroes < 8);
        assert_int_equal(vq_do(v, 0, bufs, 0, 2), 4096); /* a bounded part */
        assert_int_equal(vq_do(v, 0, bufs, 1, 0), 0);
        vdriver_copy_state(v, virtio_rng_new(v->mem, v->loop, NULL));
        assert_int_equal(vq_do(v, 0, bufs, 0, 1), 32);
        vdriver_free(v);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_writes), cmocka_unit_test(any_layout),
        cmocka_unit_test(errors),           cmocka_unit_test(no_place_for_a_status),
        cmocka_unit_test(serial),           cmocka_unit_test(ranges),
        cmocka_unit_test(write_cache),      cmocka_unit_test(late_answers),
        cmocka_unit_test(configuration),    cmocka_unit_test(entropy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
