/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands of disks and CD drives. Data commands go to the back end in place; all others are
 * answered at once. Left out: reservations, audio, and writing to CDs.
 */
#include "virtio/scsi/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/util.h"

enum {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    READ_6 = 0x08,
    WRITE_6 = 0x0a,
    INQUIRY = 0x12,
    MODE_SENSE_6 = 0x1a,
    START_STOP_UNIT = 0x1b,
    PREVENT_ALLOW = 0x1e,
    READ_CAPACITY_10 = 0x25,
    READ_10 = 0x28,
    WRITE_10 = 0x2a,
    VERIFY_10 = 0x2f,
    SYNCHRONIZE_CACHE_10 = 0x35,
    WRITE_SAME_10 = 0x41,
    UNMAP = 0x42,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    MODE_SENSE_10 = 0x5a,
    READ_16 = 0x88,
    WRITE_16 = 0x8a,
    VERIFY_16 = 0x8f,
    SYNCHRONIZE_CACHE_16 = 0x91,
    WRITE_SAME_16 = 0x93,
    SERVICE_ACTION_IN_16 = 0x9e,
    REPORT_LUNS = 0xa0,
    READ_12 = 0xa8,
    WRITE_12 = 0xaa,
    MECHANISM_STATUS = 0xbd,
};

/* Sense: key << 16 | additional code << 8 | qualifier. */
enum {
    INVALID_OPCODE = 0x052000,
    LBA_OUT_OF_RANGE = 0x052100,
    INVALID_FIELD = 0x052400,
    NO_SUCH_UNIT = 0x052500,
    NO_MEDIUM = 0x023a00,
    WRITE_PROTECTED = 0x072700,
    READ_ERROR = 0x031100,
    WRITE_ERROR = 0x030c00,
    SPACE_FULL = 0x072707,
};

#define CD_BLOCK 2048u
#define UNMAP_MAX 256u        /* descriptors */
#define WRITE_SAME_MAX 65536u /* blocks with contents that are not zeroes */
#define ANSWER_MAX 256u

/* --- answers --- */

static void finish(struct scsi_command *c, uint8_t status) {
    c->status = status;
    c->done(c);
}

static void set_sense(uint8_t *s, uint32_t what) {
    memset(s, 0, SCSI_SENSE_SIZE);
    s[0] = 0x70;
    s[2] = (uint8_t)(what >> 16);
    s[7] = SCSI_SENSE_SIZE - 8;
    s[12] = (uint8_t)(what >> 8);
    s[13] = (uint8_t)what;
}

static void fail(struct scsi_command *c, uint32_t what) {
    set_sense(c->sense, what);
    finish(c, SCSI_CHECK_CONDITION);
}

/* Data of our own, cut to what the command asked for. */
static void answer(struct scsi_command *c, const uint8_t *data, size_t len, size_t asked) {
    c->moved = iov_write(c->in, c->in_count, 0, data, MIN(len, asked));
    finish(c, SCSI_GOOD);
}

static uint64_t get_be(const uint8_t *p, unsigned bytes) {
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | p[i];
    return v;
}

static void put_be(uint8_t *p, uint64_t v, unsigned bytes) {
    while (bytes) {
        p[--bytes] = (uint8_t)v;
        v >>= 8;
    }
}

static void put_text(uint8_t *p, const char *s, size_t len) {
    memset(p, ' ', len);
    memcpy(p, s, MIN(strlen(s), len));
}

static uint32_t block_bytes(const struct scsi_unit *u) {
    return u->cdrom ? CD_BLOCK : u->block->info.logical_block;
}

static uint64_t blocks_of(const struct scsi_unit *u) {
    return u->block->info.size / block_bytes(u);
}

static bool can_unmap(const struct scsi_unit *u) {
    return !u->cdrom && u->block->info.discard_align && !u->block->info.read_only;
}

/* --- what it is --- */

static size_t vpd_identification(const struct scsi_unit *u, uint8_t *p) {
    const size_t len = strlen(u->serial);

    p[0] = 2; /* ASCII */
    p[1] = 1; /* a vendor's identifier of the unit */
    p[3] = (uint8_t)(8 + len);
    put_text(p + 4, "RINGFENC", 8);
    memcpy(p + 12, u->serial, len);
    return 12 + len;
}

/* Block limits and logical block provisioning (SBC-3, 6.6.4 and 6.6.5). */
static size_t vpd_limits(const struct scsi_unit *u, uint8_t *p) {
    if (can_unmap(u)) {
        put_be(p + 16, UINT32_MAX, 4);
        put_be(p + 20, UNMAP_MAX, 4);
        put_be(p + 24, MAX(u->block->info.discard_align / block_bytes(u), 1u), 4);
    }
    put_be(p + 32, WRITE_SAME_MAX, 8);
    return 60;
}

static size_t vpd_page(const struct scsi_unit *u, uint8_t page, uint8_t *p) {
    static const uint8_t disk_pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};

    switch (page) {
    case 0x00:
        memcpy(p, disk_pages, sizeof(disk_pages));
        return u->cdrom ? 3 : sizeof(disk_pages);
    case 0x80:
        memcpy(p, u->serial, strlen(u->serial));
        return strlen(u->serial);
    case 0x83:
        return vpd_identification(u, p);
    case 0xb0:
        return vpd_limits(u, p);
    case 0xb1:
        p[1] = 1; /* does not rotate */
        return 60;
    case 0xb2:
        p[1] = can_unmap(u) ? 0xe0 : 0; /* UNMAP, WRITE SAME (16) and (10) */
        p[2] = can_unmap(u) ? 2 : 0;    /* thin */
        return 4;
    default:
        return 0;
    }
}

static void inquiry_vpd(const struct scsi_unit *u, struct scsi_command *c, size_t asked) {
    uint8_t a[ANSWER_MAX] = {u->cdrom ? 5 : 0, c->cdb[2]};
    size_t len = vpd_page(u, c->cdb[2], a + 4);

    if (!len && c->cdb[2] != 0x80) {
        fail(c, INVALID_FIELD);
        return;
    }
    if (u->cdrom && c->cdb[2] >= 0xb0) {
        fail(c, INVALID_FIELD);
        return;
    }
    put_be(a + 2, len, 2);
    answer(c, a, 4 + len, asked);
}

static void inquiry(const struct scsi_unit *u, struct scsi_command *c) {
    const size_t asked = get_be(c->cdb + 3, 2);
    uint8_t a[36] = {0};

    if (c->cdb[1] & 1) {
        inquiry_vpd(u, c, asked);
        return;
    }
    if (c->cdb[2]) {
        fail(c, INVALID_FIELD);
        return;
    }
    a[0] = u->cdrom ? 5 : 0;
    a[1] = u->cdrom ? 0x80 : 0; /* removable */
    a[2] = 6;                   /* SPC-4 */
    a[3] = 2;
    a[4] = sizeof(a) - 5;
    a[7] = 2; /* command queuing */
    put_text(a + 8, "RINGFENC", 8);
    put_text(a + 16, u->cdrom ? "CD-ROM" : "DISK", 16);
    put_text(a + 32, "1.0", 4);
    answer(c, a, sizeof(a), asked);
}

void scsi_no_unit(struct scsi_command *c) {
    static const uint8_t nobody[36] = {0x7f, 0, 6, 2, 31};

    if (c->cdb[0] == INQUIRY && !(c->cdb[1] & 1)) {
        answer(c, nobody, sizeof(nobody), get_be(c->cdb + 3, 2));
    } else if (c->cdb[0] == REQUEST_SENSE) {
        set_sense(c->sense, NO_SUCH_UNIT);
        answer(c, c->sense, SCSI_SENSE_SIZE, c->cdb[4]);
    } else {
        fail(c, NO_SUCH_UNIT);
    }
}

static void request_sense(struct scsi_command *c) {
    uint8_t a[SCSI_SENSE_SIZE];

    set_sense(a, 0); /* it came with the status already */
    answer(c, a, sizeof(a), c->cdb[4]);
}

static void report_luns(struct scsi_command *c) {
    static const uint8_t a[16] = {0, 0, 0, 8};
    const size_t asked = get_be(c->cdb + 6, 4);

    if (asked < 16)
        fail(c, INVALID_FIELD);
    else
        answer(c, a, sizeof(a), asked);
}

/* --- capacity and mode pages --- */

static void read_capacity_10(const struct scsi_unit *u, struct scsi_command *c) {
    uint8_t a[8];

    put_be(a, MIN(blocks_of(u) - 1, (uint64_t)UINT32_MAX), 4);
    put_be(a + 4, block_bytes(u), 4);
    answer(c, a, sizeof(a), sizeof(a));
}

static void service_action_in(const struct scsi_unit *u, struct scsi_command *c) {
    uint8_t a[32] = {0};
    unsigned exponent = 0;

    if ((c->cdb[1] & 0x1f) != 0x10) {
        fail(c, INVALID_FIELD);
        return;
    }
    while (!u->cdrom && block_bytes(u) << exponent < u->block->info.physical_block && exponent < 15)
        exponent++;
    put_be(a, blocks_of(u) - 1, 8);
    put_be(a + 8, block_bytes(u), 4);
    a[13] = (uint8_t)exponent;
    a[14] = can_unmap(u) ? 0x80 : 0;
    answer(c, a, sizeof(a), get_be(c->cdb + 10, 4));
}

/* Caching for disks, capabilities for CD drives (MMC-3, 6.3.11). */
static size_t mode_page(const struct scsi_unit *u, uint8_t page, bool changeable, uint8_t *p) {
    if (page == 0x08 && !u->cdrom) {
        p[0] = 0x08;
        p[1] = 18;
        p[2] = !changeable && u->block->info.write_cache ? 4 : 0;
        return 20;
    }
    if (page == 0x2a && u->cdrom) {
        p[0] = 0x2a;
        p[1] = 18;
        if (!changeable) {
            p[2] = 0x3b; /* reads CD-R, CD-RW, DVDs */
            p[4] = 0x70; /* multi-session */
            p[6] = 0x28; /* a tray, which can be locked */
        }
        return 20;
    }
    return 0;
}

static void mode_sense(const struct scsi_unit *u, struct scsi_command *c, bool ten) {
    const uint8_t page = c->cdb[2] & 0x3f, control = c->cdb[2] >> 6;
    const size_t head = ten ? 8 : 4, asked = ten ? get_be(c->cdb + 7, 2) : c->cdb[4];
    uint8_t a[ANSWER_MAX] = {0};
    size_t len = head;

    if (control == 3) {
        fail(c, 0x053900); /* saving parameters is not supported */
        return;
    }
    len += mode_page(u, page == 0x3f ? (u->cdrom ? 0x2a : 0x08) : page, control == 1, a + len);
    if (len == head && page != 0x3f) {
        fail(c, INVALID_FIELD);
        return;
    }
    put_be(a, len - (ten ? 2 : 1), ten ? 2 : 1);
    if (!u->cdrom && u->block->info.read_only)
        a[ten ? 3 : 2] = 0x80;
    answer(c, a, len, asked);
}

/* --- CD drives --- */

static void put_position(uint8_t *p, uint64_t lba, bool msf) {
    lba = MIN(lba, (uint64_t)UINT32_MAX);
    if (msf) {
        lba += 150;
        p[1] = (uint8_t)(lba / 75 / 60);
        p[2] = (uint8_t)(lba / 75 % 60);
        p[3] = (uint8_t)(lba % 75);
    } else {
        put_be(p, lba, 4);
    }
}

/* One data track, and the lead-out. */
static void read_toc(const struct scsi_unit *u, struct scsi_command *c) {
    const bool msf = c->cdb[1] & 2;
    const uint8_t format = c->cdb[2] & 0x0f, track = c->cdb[6];
    uint8_t a[20] = {0, 0, 1, 1};
    size_t len = 4;

    if (format > 1 || (format == 0 && track > 1 && track != 0xaa)) {
        fail(c, INVALID_FIELD);
        return;
    }
    if (format == 1 || track <= 1) {
        a[len + 1] = 0x14;
        a[len + 2] = 1;
        put_position(a + len + 4, 0, msf);
        len += 8;
    }
    if (format == 0) {
        a[len + 1] = 0x14;
        a[len + 2] = 0xaa;
        put_position(a + len + 4, blocks_of(u), msf);
        len += 8;
    }
    put_be(a, len - 2, 2);
    answer(c, a, len, get_be(c->cdb + 7, 2));
}

/* Profiles (CD-ROM and DVD-ROM), and the core feature. */
static void get_configuration(const struct scsi_unit *u, struct scsi_command *c) {
    const bool dvd = blocks_of(u) > 450000; /* more than fits on a CD */
    uint8_t a[32] = {0};

    put_be(a, sizeof(a) - 4, 4);
    put_be(a + 6, dvd ? 0x10 : 0x08, 2);
    a[10] = 3; /* persistent and current */
    a[11] = 8;
    put_be(a + 12, 0x10, 2);
    a[14] = dvd;
    put_be(a + 16, 0x08, 2);
    a[18] = !dvd;
    put_be(a + 20, 1, 2);
    a[22] = 0x0b;
    a[23] = 8;
    put_be(a + 24, 1, 4); /* SCSI */
    a[28] = 1;
    answer(c, a, sizeof(a), get_be(c->cdb + 7, 2));
}

static void get_event_status(struct scsi_command *c) {
    const bool media = c->cdb[4] & 0x10;
    uint8_t a[8] = {0, media ? 6 : 2, media ? 4 : 0x80, 0x10, 0, media ? 2 : 0};

    if (c->cdb[1] & 1)
        answer(c, a, media ? 8 : 4, get_be(c->cdb + 7, 2));
    else
        fail(c, INVALID_FIELD); /* asynchronous events are not supported */
}

static void read_disc_information(struct scsi_command *c) {
    uint8_t a[34] = {0, 32, 0x0e, 1, 1, 1, 1, 0x20};

    answer(c, a, sizeof(a), get_be(c->cdb + 7, 2));
}

static void mechanism_status(struct scsi_command *c) {
    static const uint8_t a[8] = {0, 0, 0, 0, 0, 1};

    answer(c, a, sizeof(a), get_be(c->cdb + 8, 2));
}

/* --- data --- */

static void on_done(struct block_req *r, int result) {
    struct scsi_command *c = container_of(r, struct scsi_command, req);

    free(c->zeroes);
    c->zeroes = NULL;
    if (result == 0) {
        c->moved = r->op == BLOCK_READ || r->op == BLOCK_WRITE ? r->len : c->out_len;
        finish(c, SCSI_GOOD);
    } else if (result == -EROFS) {
        fail(c, WRITE_PROTECTED);
    } else if (result == -ENOSPC) {
        fail(c, SPACE_FULL);
    } else {
        fail(c, r->op == BLOCK_READ ? READ_ERROR : WRITE_ERROR);
    }
}

/* False when the command has failed already. */
static bool set_range(const struct scsi_unit *u, struct scsi_command *c, uint64_t lba,
                      uint64_t count) {
    if (!range_within(lba, count, blocks_of(u))) {
        fail(c, LBA_OUT_OF_RANGE);
        return false;
    }
    c->req.off = lba * block_bytes(u);
    c->req.len = count * block_bytes(u);
    return true;
}

static void submit(const struct scsi_unit *u, struct scsi_command *c, enum block_op op) {
    c->req.op = op;
    c->req.done = on_done;
    if (op != BLOCK_READ && op != BLOCK_FLUSH && (u->cdrom || u->block->info.read_only))
        fail(c, WRITE_PROTECTED);
    else if (!c->req.len && op != BLOCK_FLUSH)
        finish(c, SCSI_GOOD);
    else
        block_submit(u->block, &c->req);
}

/* Where a read, write, verify or write same goes, by the length of its command. */
static void get_range(const uint8_t *cdb, uint64_t *lba, uint64_t *count) {
    switch (cdb[0] >> 5) {
    case 0:
        *lba = get_be(cdb + 1, 3) & 0x1fffff;
        *count = cdb[4] ? cdb[4] : 256;
        break;
    case 1:
    case 2:
        *lba = get_be(cdb + 2, 4);
        *count = get_be(cdb + 7, 2);
        break;
    case 4:
        *lba = get_be(cdb + 2, 8);
        *count = get_be(cdb + 10, 4);
        break;
    default:
        *lba = get_be(cdb + 2, 4);
        *count = get_be(cdb + 6, 4);
    }
}

static void transfer(const struct scsi_unit *u, struct scsi_command *c, bool write) {
    uint64_t lba, count;

    get_range(c->cdb, &lba, &count);
    if (!set_range(u, c, lba, count))
        return;
    if (c->req.len > (write ? c->out_len : c->in_len)) {
        c->overrun = true;
        finish(c, SCSI_GOOD);
        return;
    }
    c->req.iov = write ? c->out : c->in;
    c->req.iov_count = write ? c->out_count : c->in_count;
    submit(u, c, write ? BLOCK_WRITE : BLOCK_READ);
}

/* The medium is as good as the host's file. Comparing with data is not offered. */
static void verify(const struct scsi_unit *u, struct scsi_command *c) {
    uint64_t lba, count;

    get_range(c->cdb, &lba, &count);
    if (c->cdb[1] & 6)
        fail(c, INVALID_FIELD);
    else if (set_range(u, c, lba, count))
        finish(c, SCSI_GOOD);
}

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

/* One block's contents, which the back end sees as often as it is to be written. */
static void write_pattern(const struct scsi_unit *u, struct scsi_command *c, const uint8_t *block) {
    const uint32_t bytes = block_bytes(u);
    const size_t count = c->req.len / bytes, unit = MIN(count, (size_t)1024);
    uint8_t *data;

    if (count > WRITE_SAME_MAX) {
        fail(c, INVALID_FIELD);
        return;
    }
    /* Vectors first, then up to 1024 copies that they show again and again. */
    const size_t vectors = (count + unit - 1) / unit;
    c->zeroes = xcalloc(1, vectors * sizeof(struct iovec) + unit * bytes);
    data = (uint8_t *)(c->zeroes + vectors);
    for (size_t i = 0; i < unit; i++)
        memcpy(data + i * bytes, block, bytes);
    for (size_t i = 0, left = count; i < vectors; i++, left -= MIN(left, unit))
        c->zeroes[i] = (struct iovec){data, MIN(left, unit) * bytes};
    c->req.iov = c->zeroes;
    c->req.iov_count = (unsigned)vectors;
    submit(u, c, BLOCK_WRITE);
}

static void write_same(const struct scsi_unit *u, struct scsi_command *c) {
    const bool sixteen = c->cdb[0] == WRITE_SAME_16, unmap = c->cdb[1] & 8;
    uint8_t block[4096] = {0};
    uint64_t lba, count;

    get_range(c->cdb, &lba, &count);
    if (!count)
        count = blocks_of(u) - MIN(lba, blocks_of(u));
    if ((c->cdb[1] & 0x16) || (unmap && !can_unmap(u))) {
        fail(c, INVALID_FIELD);
        return;
    }
    if (!set_range(u, c, lba, count))
        return;
    if (!(sixteen && (c->cdb[1] & 1)) &&
        iov_read(c->out, c->out_count, 0, block, block_bytes(u)) < block_bytes(u)) {
        c->overrun = true;
        finish(c, SCSI_GOOD);
        return;
    }
    c->req.unmap = unmap;
    if (all_zero(block, block_bytes(u)))
        submit(u, c, BLOCK_WRITE_ZEROES);
    else if (c->req.len && !u->cdrom && !u->block->info.read_only)
        write_pattern(u, c, block);
    else
        submit(u, c, BLOCK_WRITE);
}

/* UNMAP's descriptors, one after the other. */
static void on_unmapped(struct block_req *r, int result);

static void unmap_next(const struct scsi_unit *u, struct scsi_command *c) {
    uint8_t d[16];

    while (c->left) {
        uint64_t count;

        c->left--;
        iov_read(c->out, c->out_count, c->next, d, sizeof(d));
        c->next += sizeof(d);
        count = get_be(d + 8, 4);
        if (!set_range(u, c, get_be(d, 8), count))
            return;
        if (!count)
            continue;
        c->req.op = BLOCK_DISCARD;
        c->req.done = on_unmapped;
        block_submit(u->block, &c->req);
        return;
    }
    c->moved = c->out_len;
    finish(c, SCSI_GOOD);
}

static void on_unmapped(struct block_req *r, int result) {
    struct scsi_command *c = container_of(r, struct scsi_command, req);

    if (result == 0)
        unmap_next(c->unit, c);
    else
        on_done(r, result);
}

static void unmap(const struct scsi_unit *u, struct scsi_command *c) {
    const uint64_t length = get_be(c->cdb + 7, 2);
    uint8_t head[8];
    uint64_t bytes;

    if (!length) {
        finish(c, SCSI_GOOD);
        return;
    }
    if (iov_read(c->out, c->out_count, 0, head, sizeof(head)) < sizeof(head) ||
        length > c->out_len) {
        c->overrun = true;
        finish(c, SCSI_GOOD);
        return;
    }
    bytes = get_be(head + 2, 2);
    if (!can_unmap(u) || bytes + 8 > length || bytes / 16 > UNMAP_MAX || c->cdb[1] & 1) {
        fail(c, can_unmap(u) ? INVALID_FIELD : INVALID_OPCODE);
        return;
    }
    c->next = 8;
    c->left = bytes / 16;
    unmap_next(u, c);
}

/* --- commands --- */

/* True when it was one that both kinds have. */
static bool common(const struct scsi_unit *u, struct scsi_command *c) {
    switch (c->cdb[0]) {
    case TEST_UNIT_READY:
    case START_STOP_UNIT:
    case PREVENT_ALLOW:
        finish(c, SCSI_GOOD);
        return true;
    case REQUEST_SENSE:
        request_sense(c);
        return true;
    case INQUIRY:
        inquiry(u, c);
        return true;
    case MODE_SENSE_6:
    case MODE_SENSE_10:
        mode_sense(u, c, c->cdb[0] == MODE_SENSE_10);
        return true;
    case READ_CAPACITY_10:
        read_capacity_10(u, c);
        return true;
    case SERVICE_ACTION_IN_16:
        service_action_in(u, c);
        return true;
    case REPORT_LUNS:
        report_luns(c);
        return true;
    case READ_6:
    case READ_10:
    case READ_12:
    case READ_16:
        transfer(u, c, false);
        return true;
    default:
        return false;
    }
}

static void disk_only(const struct scsi_unit *u, struct scsi_command *c) {
    switch (c->cdb[0]) {
    case WRITE_6:
    case WRITE_10:
    case WRITE_12:
    case WRITE_16:
        transfer(u, c, true);
        break;
    case VERIFY_10:
    case VERIFY_16:
        verify(u, c);
        break;
    case SYNCHRONIZE_CACHE_10:
    case SYNCHRONIZE_CACHE_16:
        submit(u, c, BLOCK_FLUSH);
        break;
    case WRITE_SAME_10:
    case WRITE_SAME_16:
        write_same(u, c);
        break;
    case UNMAP:
        unmap(u, c);
        break;
    default:
        fail(c, INVALID_OPCODE);
    }
}

static void cd_only(const struct scsi_unit *u, struct scsi_command *c) {
    switch (c->cdb[0]) {
    case READ_TOC:
        read_toc(u, c);
        break;
    case GET_CONFIGURATION:
        get_configuration(u, c);
        break;
    case GET_EVENT_STATUS:
        get_event_status(c);
        break;
    case READ_DISC_INFORMATION:
        read_disc_information(c);
        break;
    case MECHANISM_STATUS:
        mechanism_status(c);
        break;
    default:
        fail(c, INVALID_OPCODE);
    }
}

/* An empty file is a drive without a medium. */
static bool needs_medium(uint8_t opcode) {
    return opcode != INQUIRY && opcode != REQUEST_SENSE && opcode != REPORT_LUNS &&
           opcode != PREVENT_ALLOW && opcode != START_STOP_UNIT;
}

void scsi_unit_start(const struct scsi_unit *u, struct scsi_command *c) {
    c->unit = u;
    if (!blocks_of(u) && needs_medium(c->cdb[0])) {
        fail(c, NO_MEDIUM);
        return;
    }
    if (common(u, c))
        return;
    if (u->cdrom)
        cd_only(u, c);
    else
        disk_only(u, c);
}
