/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-scsi: a control, an event and a request queue in front of SCSI units. Nothing is announced
 * in the event queue, as units neither come nor go. What a back end is doing cannot be taken back:
 * task management answers when the unit has nothing under way any more.
 */
#include "virtio/scsi.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/notifier.h"
#include "base/util.h"
#include "virtio/scsi/unit.h"
#include "virtio/virtio.h"

enum { CONTROL, EVENT, REQUEST, QUEUES, QUEUE_SIZE = 256 };
enum { REQUEST_HEAD = 19 + SCSI_CDB_SIZE, SENSE_SIZE = 96, RESPONSE_HEAD = 12 + SENSE_SIZE };
enum { CONFIG_SIZE = 36 };

/* Responses (5.6.6.1). */
enum { S_OK = 0, S_OVERRUN = 1, S_BAD_TARGET = 3, S_FAILURE = 9 };
enum { S_FUNCTION_REJECTED = 11, S_INCORRECT_LUN = 12 };
/* Control requests (5.6.6.2). */
enum { T_TMF = 0, T_AN_QUERY = 1, T_AN_SUBSCRIBE = 2, TMF_HEAD = 24, TMF_QUERY_TASK_SET = 7 };

struct scsi;

struct request {
    struct virtq_buf buf; /* first */
    struct scsi *s;
    struct request *next; /* of those that wait for a unit to have nothing under way */
    unsigned target;
    struct scsi_command command;
    struct iovec *data; /* of the command: slices of the buffer */
};

struct scsi {
    struct virtio_device d; /* first */
    struct scsi_unit units[VIRTIO_SCSI_TARGETS_MAX];
    unsigned busy[VIRTIO_SCSI_TARGETS_MAX]; /* commands under way */
    struct request *waiting;                /* task management; under the control queue's lock */
    _Atomic bool managed;                   /* there was some */
    struct notifier *idle;
    unsigned count;
    bool in_notify; /* the request queue's lock is held by us */
};

/* {1, target, 0x40 | lun >> 8, lun, 0…}: the unit's target, or -1. */
static int target_of(const struct scsi *s, const uint8_t *lun, unsigned *number) {
    *number = (lun[2] & 0x3fu) << 8 | lun[3];
    return lun[0] == 1 && lun[1] < s->count ? lun[1] : -1;
}

/* --- commands --- */

static void respond(const struct virtq_buf *b, const struct scsi_command *c, uint8_t response) {
    const bool sense = c->status == SCSI_CHECK_CONDITION;
    const uint32_t sense_len = sense ? SCSI_SENSE_SIZE : 0;
    const uint32_t residual = (uint32_t)(MAX(c->in_len, c->out_len) - c->moved);
    uint8_t head[RESPONSE_HEAD] = {0};

    memcpy(head, &sense_len, 4);
    memcpy(head + 4, &residual, 4);
    head[10] = c->status;
    head[11] = response;
    memcpy(head + 12, c->sense, sense_len);
    virtq_write(b, 0, head, sizeof(head));
}

/* From the back end, on the loop: within notify(), or alone. */
static void on_done(struct scsi_command *c) {
    struct request *r = container_of(c, struct request, command);
    struct scsi *s = r->s;
    struct virtq *q = &s->d.queues[REQUEST];
    const bool lock = !s->in_notify;
    const unsigned target = r->target;
    const size_t in = c->in_len ? MIN(c->moved, c->in_len) : 0;

    if (lock)
        virtq_lock(q);
    respond(&r->buf, c, c->overrun ? S_OVERRUN : S_OK);
    free(r->data);
    virtq_put(q, &r->buf, (uint32_t)(RESPONSE_HEAD + in));
    if (lock) {
        virtq_flush(q);
        virtq_unlock(q);
    }
    if (--s->busy[target] == 0 && atomic_load(&s->managed))
        notifier_ring(s->idle);
}

/* The data behind the two headers. */
static void slice(struct request *r) {
    const struct virtq_buf *b = &r->buf;
    struct scsi_command *c = &r->command;

    r->data = xcalloc(b->out_count + b->in_count, sizeof(*r->data));
    c->out = r->data;
    c->out_len = b->out_len - REQUEST_HEAD;
    c->out_count = iov_slice(b->out, b->out_count, REQUEST_HEAD, c->out_len, r->data);
    c->in = r->data + c->out_count;
    c->in_len = b->in_len - RESPONSE_HEAD;
    c->in_count = iov_slice(b->in, b->in_count, RESPONSE_HEAD, c->in_len, r->data + c->out_count);
}

static void start(struct scsi *s, struct virtq *q, struct request *r) {
    struct scsi_command *c = &r->command;
    uint8_t head[REQUEST_HEAD];
    unsigned lun;
    int target;

    if (virtq_read(&r->buf, 0, head, sizeof(head)) < sizeof(head) ||
        r->buf.in_len < RESPONSE_HEAD) {
        virtio_broken(&s->d, "%zu bytes of request, room for %zu of answer", r->buf.out_len,
                      r->buf.in_len);
        virtq_put(q, &r->buf, 0);
        return;
    }
    target = target_of(s, head, &lun);
    if (target < 0) {
        respond(&r->buf, c, S_BAD_TARGET);
        virtq_put(q, &r->buf, RESPONSE_HEAD);
        return;
    }
    r->s = s;
    r->target = (unsigned)target;
    memcpy(c->cdb, head + 19, SCSI_CDB_SIZE);
    c->done = on_done;
    slice(r);
    s->busy[target]++;
    if (lun)
        scsi_no_unit(c);
    else
        scsi_unit_start(&s->units[target], c);
}

static void notify_request(struct scsi *s, struct virtq *q) {
    struct virtq_buf *b;

    s->in_notify = true;
    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q)))
            start(s, q, (struct request *)(void *)b);
        virtq_flush(q);
    } while (virtq_notify_on(q));
    s->in_notify = false;
}

/* --- control --- */

static void reply(struct virtq *q, struct request *r, const void *answer, uint32_t len) {
    virtq_put(q, &r->buf, (uint32_t)virtq_write(&r->buf, 0, answer, len));
}

static void manage(struct scsi *s, struct virtq *q, struct request *r) {
    uint8_t head[TMF_HEAD], answer;
    uint32_t subtype;
    unsigned lun;
    int target;

    virtq_read(&r->buf, 0, head, sizeof(head));
    memcpy(&subtype, head + 4, 4);
    target = target_of(s, head + 8, &lun);
    answer = target < 0                     ? S_BAD_TARGET
             : lun                          ? S_INCORRECT_LUN
             : subtype > TMF_QUERY_TASK_SET ? S_FUNCTION_REJECTED
                                            : S_OK;
    if (answer != S_OK || !s->busy[target]) {
        reply(q, r, &answer, 1);
        return;
    }
    r->target = (unsigned)target;
    r->next = s->waiting;
    s->waiting = r;
    atomic_store(&s->managed, true);
}

/* No asynchronous events are known: none is subscribed to. */
static void control(struct scsi *s, struct virtq *q, struct request *r) {
    static const uint8_t no_events[5];
    uint32_t type = UINT32_MAX;

    virtq_read(&r->buf, 0, &type, 4);
    if (type == T_TMF && r->buf.out_len >= TMF_HEAD && r->buf.in_len >= 1) {
        manage(s, q, r);
    } else if (type == T_AN_QUERY || type == T_AN_SUBSCRIBE) {
        reply(q, r, no_events, sizeof(no_events));
    } else {
        virtio_broken(&s->d, "control request %u of %zu bytes", type, r->buf.out_len);
        virtq_put(q, &r->buf, 0);
    }
}

/* Those whose unit has nothing under way any more. */
static void on_idle(void *arg) {
    struct scsi *s = arg;
    struct virtq *q = &s->d.queues[CONTROL];
    const uint8_t complete = S_OK;

    virtq_lock(q);
    for (struct request **p = &s->waiting, *r; (r = *p);) {
        if (s->busy[r->target]) {
            p = &r->next;
            continue;
        }
        *p = r->next;
        reply(q, r, &complete, 1);
    }
    virtq_flush(q);
    virtq_unlock(q);
}

static void notify_control(struct scsi *s, struct virtq *q) {
    struct virtq_buf *b;

    do {
        virtq_notify_off(q);
        while ((b = virtq_pop(q)))
            control(s, q, (struct request *)(void *)b);
        virtq_flush(q);
    } while (virtq_notify_on(q));
}

/* --- the device --- */

static void scsi_notify(struct virtio_device *d, struct virtq *q) {
    struct scsi *s = (struct scsi *)(void *)d;

    if (q->index == REQUEST)
        notify_request(s, q);
    else if (q->index == CONTROL)
        notify_control(s, q);
}

static void drop_waiting(struct scsi *s) {
    while (s->waiting) {
        struct request *r = s->waiting;

        s->waiting = r->next;
        virtq_drop(&s->d.queues[CONTROL], &r->buf);
    }
}

static void scsi_reset(struct virtio_device *d) {
    drop_waiting((struct scsi *)(void *)d);
}

static void scsi_destroy(struct virtio_device *d) {
    struct scsi *s = (struct scsi *)(void *)d;

    drop_waiting(s);
    notifier_free(s->idle);
    virtio_destroy(d);
    free(d);
}

static const struct virtio_ops scsi_ops = {
    .name = "virtio-scsi",
    .id = VIRTIO_ID_SCSI,
    .version = 1,
    .pci_class = 0x010000,
    .notify = scsi_notify,
    .reset = scsi_reset,
    .destroy = scsi_destroy,
};

static void set_config(struct virtio_device *d) {
    const uint32_t values[] = {1, VIRTQ_MAX_CHAIN - 2, 0xffff, 128, 16, SENSE_SIZE, SCSI_CDB_SIZE};

    for (unsigned i = 0; i < ARRAY_LEN(values); i++)
        virtio_config_set(d, 4 * i, 4, values[i]);
    virtio_config_set(d, 30, 2, VIRTIO_SCSI_TARGETS_MAX - 1);
}

struct virtio_device *virtio_scsi_new(struct mem *m, const struct virtio_scsi_target *targets,
                                      unsigned count, struct loop *l, struct err *e) {
    struct scsi *s = xcalloc(1, sizeof(*s));

    s->count = MIN(count, (unsigned)VIRTIO_SCSI_TARGETS_MAX);
    for (unsigned i = 0; i < s->count; i++) {
        struct scsi_unit *u = &s->units[i];

        u->block = targets[i].block;
        u->cdrom = targets[i].cdrom;
        if (targets[i].serial)
            snprintf(u->serial, sizeof(u->serial), "%s", targets[i].serial);
    }
    virtio_init(&s->d, &scsi_ops, m, 0, CONFIG_SIZE);
    set_config(&s->d);
    s->idle = notifier_new(l, on_idle, s, e);
    if (!s->idle ||
        virtio_add_queues(&s->d, QUEUES, QUEUE_SIZE, sizeof(struct request), l, e) < 0) {
        scsi_destroy(&s->d);
        return NULL;
    }
    return &s->d;
}
