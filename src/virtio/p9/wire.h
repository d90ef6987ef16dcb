/* SPDX-License-Identifier: Apache-2.0 */
/* Fields of 9P messages: little-endian integers, strings with a 16-bit length, qids. */
#ifndef RINGFENCE_VIRTIO_P9_WIRE_H
#define RINGFENCE_VIRTIO_P9_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is left of a message; `bad` once a field was asked for that is not there. */
struct p9_in {
    const uint8_t *p, *end;
    bool bad;
};

uint8_t p9_get_u8(struct p9_in *in);
uint16_t p9_get_u16(struct p9_in *in);
uint32_t p9_get_u32(struct p9_in *in);
uint64_t p9_get_u64(struct p9_in *in);
/*
 * A string of less than `size` bytes, with a terminating zero. A longer one is cut to nothing and
 * sets *too_long; one with a zero byte in it is bad.
 */
void p9_get_str(struct p9_in *in, char *s, size_t size, bool *too_long);

/* Room for an answer; `full` once something did not fit. */
struct p9_out {
    uint8_t *buf;
    size_t len, cap;
    bool full;
};

struct p9_qid {
    uint8_t type;
    uint32_t version;
    uint64_t path;
};

void p9_put_u8(struct p9_out *out, uint8_t v);
void p9_put_u16(struct p9_out *out, uint16_t v);
void p9_put_u32(struct p9_out *out, uint32_t v);
void p9_put_u64(struct p9_out *out, uint64_t v);
void p9_put_str(struct p9_out *out, const char *s);
void p9_put_qid(struct p9_out *out, const struct p9_qid *q);

#endif
