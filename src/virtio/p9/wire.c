/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing the fields of 9P messages, every step bounded. */
#include "virtio/p9/wire.h"

#include <string.h>

static uint64_t get(struct p9_in *in, unsigned bytes) {
    uint64_t v = 0;

    if ((size_t)(in->end - in->p) < bytes) {
        in->bad = true;
        in->p = in->end;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)in->p[i] << (8 * i);
    in->p += bytes;
    return v;
}

uint8_t p9_get_u8(struct p9_in *in) {
    return (uint8_t)get(in, 1);
}

uint16_t p9_get_u16(struct p9_in *in) {
    return (uint16_t)get(in, 2);
}

uint32_t p9_get_u32(struct p9_in *in) {
    return (uint32_t)get(in, 4);
}

uint64_t p9_get_u64(struct p9_in *in) {
    return get(in, 8);
}

void p9_get_str(struct p9_in *in, char *s, size_t size, bool *too_long) {
    size_t len = p9_get_u16(in);

    *s = 0;
    if (len > (size_t)(in->end - in->p) || memchr(in->p, 0, len)) {
        in->bad = true;
        in->p = in->end;
        return;
    }
    if (len >= size) {
        *too_long = true;
    } else {
        memcpy(s, in->p, len);
        s[len] = 0;
    }
    in->p += len;
}

static void put(struct p9_out *out, uint64_t v, unsigned bytes) {
    if (out->cap - out->len < bytes) {
        out->full = true;
        return;
    }
    for (unsigned i = 0; i < bytes; i++)
        out->buf[out->len++] = (uint8_t)(v >> (8 * i));
}

void p9_put_u8(struct p9_out *out, uint8_t v) {
    put(out, v, 1);
}

void p9_put_u16(struct p9_out *out, uint16_t v) {
    put(out, v, 2);
}

void p9_put_u32(struct p9_out *out, uint32_t v) {
    put(out, v, 4);
}

void p9_put_u64(struct p9_out *out, uint64_t v) {
    put(out, v, 8);
}

void p9_put_str(struct p9_out *out, const char *s) {
    size_t len = strlen(s);

    if (len > UINT16_MAX || out->cap - out->len < 2 + len) {
        out->full = true;
        return;
    }
    p9_put_u16(out, (uint16_t)len);
    memcpy(out->buf + out->len, s, len);
    out->len += len;
}

void p9_put_qid(struct p9_out *out, const struct p9_qid *q) {
    p9_put_u8(out, q->type);
    p9_put_u32(out, q->version);
    p9_put_u64(out, q->path);
}
