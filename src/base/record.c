/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Save records. On the wire: tag length u8, tag, instance u32, version u16, length u32, fields;
 * integers are little-endian. What is read may come from anyone, so every step is bounded.
 */
#include "base/record.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

static uint8_t *reserve(struct record_writer *w, size_t len) {
    xreserve(&w->buf, &w->cap, w->len, len);
    w->len += len;
    return w->buf + w->len - len;
}

static void store_le(uint8_t *p, uint64_t v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t load_le(const uint8_t *p, unsigned bytes) {
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

void rec_begin(struct record_writer *w, const char *tag, uint32_t instance, uint16_t version) {
    size_t len = strlen(tag);

    assert(len && len < sizeof(((struct record_reader *)0)->tag));
    rec_put_u8(w, (uint8_t)len);
    rec_put_bytes(w, tag, len);
    rec_put_u32(w, instance);
    rec_put_u16(w, version);
    w->length_at = w->len;
    rec_put_u32(w, 0);
}

void rec_end(struct record_writer *w) {
    size_t len = w->len - w->length_at - 4;

    assert(len <= UINT32_MAX);
    store_le(w->buf + w->length_at, len, 4);
}

void rec_put_u8(struct record_writer *w, uint8_t v) {
    *reserve(w, 1) = v;
}

void rec_put_u16(struct record_writer *w, uint16_t v) {
    store_le(reserve(w, 2), v, 2);
}

void rec_put_u32(struct record_writer *w, uint32_t v) {
    store_le(reserve(w, 4), v, 4);
}

void rec_put_u64(struct record_writer *w, uint64_t v) {
    store_le(reserve(w, 8), v, 8);
}

void rec_put_bytes(struct record_writer *w, const void *p, size_t len) {
    if (len)
        memcpy(reserve(w, len), p, len);
}

void rec_writer_free(struct record_writer *w) {
    free(w->buf);
    *w = (struct record_writer){0};
}

/* The next `len` bytes, or NULL: then the reader is bad and stays so. */
static const uint8_t *take(struct record_reader *r, size_t len) {
    if (r->bad || len > (size_t)(r->end - r->p)) {
        r->bad = true;
        return NULL;
    }
    r->p += len;
    return r->p - len;
}

static uint64_t get_le(struct record_reader *r, unsigned bytes) {
    const uint8_t *p = take(r, bytes);

    return p ? load_le(p, bytes) : 0;
}

int rec_next(const uint8_t **cursor, const uint8_t *end, struct record_reader *r, struct err *e) {
    if (*cursor == end)
        return 0;

    *r = (struct record_reader){.p = *cursor, .end = end};
    size_t tag_len = rec_get_u8(r);
    if (!tag_len || tag_len >= sizeof(r->tag))
        return err_set(e, 0, "save record: tag of %zu bytes", tag_len);
    rec_get_bytes(r, r->tag, tag_len);
    r->instance = rec_get_u32(r);
    r->version = rec_get_u16(r);
    uint32_t len = rec_get_u32(r);
    const uint8_t *fields = take(r, len);
    if (r->bad)
        return err_set(e, 0, "save record: truncated");
    if (memchr(r->tag, 0, tag_len))
        return err_set(e, 0, "save record: tag with a zero byte");
    r->p = fields;
    r->end = fields + len;
    *cursor = r->end;
    return 1;
}

uint8_t rec_get_u8(struct record_reader *r) {
    return (uint8_t)get_le(r, 1);
}

uint16_t rec_get_u16(struct record_reader *r) {
    return (uint16_t)get_le(r, 2);
}

uint32_t rec_get_u32(struct record_reader *r) {
    return (uint32_t)get_le(r, 4);
}

uint64_t rec_get_u64(struct record_reader *r) {
    return get_le(r, 8);
}

void rec_get_bytes(struct record_reader *r, void *p, size_t len) {
    const uint8_t *from = take(r, len);

    if (from)
        memcpy(p, from, len);
    else
        memset(p, 0, len);
}

int rec_done(const struct record_reader *r, struct err *e) {
    if (r->bad)
        return err_set(e, 0, "save record %s.%u: a field is missing", r->tag, r->instance);
    if (r->p != r->end)
        return err_set(e, 0, "save record %s.%u: %zu bytes are left over", r->tag, r->instance,
                       (size_t)(r->end - r->p));
    return 0;
}
