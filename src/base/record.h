/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Save records: typed, versioned, length-prefixed, little-endian. No raw structs.
 * A record is: tag (length-prefixed string), instance u32, version u16, length u32, then fields in
 * the order in which they were put. Readers never read past a record; an underflow is sticky.
 */
#ifndef RINGFENCE_BASE_RECORD_H
#define RINGFENCE_BASE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

struct record_writer {
    uint8_t *buf; /* owned */
    size_t len, cap, length_at;
};

void rec_begin(struct record_writer *w, const char *tag, uint32_t instance, uint16_t version);
void rec_end(struct record_writer *w);
void rec_put_u8(struct record_writer *w, uint8_t v);
void rec_put_u16(struct record_writer *w, uint16_t v);
void rec_put_u32(struct record_writer *w, uint32_t v);
void rec_put_u64(struct record_writer *w, uint64_t v);
void rec_put_bytes(struct record_writer *w, const void *p, size_t len);
void rec_writer_free(struct record_writer *w);

struct record_reader {
    const uint8_t *p, *end; /* the fields of one record */
    char tag[32];
    uint32_t instance;
    uint16_t version;
    bool bad; /* a field was asked for that is not there */
};

/*
 * Opens the record at *cursor and moves the cursor past it. Returns 1; 0 at the end; <0 when it is
 * malformed, and the cursor stays.
 */
int rec_next(const uint8_t **cursor, const uint8_t *end, struct record_reader *r, struct err *e);
uint8_t rec_get_u8(struct record_reader *r);
uint16_t rec_get_u16(struct record_reader *r);
uint32_t rec_get_u32(struct record_reader *r);
uint64_t rec_get_u64(struct record_reader *r);
void rec_get_bytes(struct record_reader *r, void *p, size_t len);
/* For the end of check(): 0 when nothing was missing and nothing is left over. */
int rec_done(const struct record_reader *r, struct err *e);

#endif
