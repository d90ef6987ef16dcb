/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AML encoding: ACPI 6.4 section 20.2 (grammar) and 6.4 (resource descriptors). A package's length
 * is known at its end only, so the end inserts it in its shortest form; packages close from the
 * innermost out.
 */
#include "boot/aml.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

enum {
    ZERO_OP = 0x00,
    ONE_OP = 0x01,
    NAME_OP = 0x08,
    BYTE_PREFIX = 0x0a,
    WORD_PREFIX = 0x0b,
    DWORD_PREFIX = 0x0c,
    STRING_PREFIX = 0x0d,
    QWORD_PREFIX = 0x0e,
    SCOPE_OP = 0x10,
    BUFFER_OP = 0x11,
    PACKAGE_OP = 0x12,
    METHOD_OP = 0x14,
    DUAL_NAME_PREFIX = 0x2e,
    MULTI_NAME_PREFIX = 0x2f,
    EXT_OP_PREFIX = 0x5b,
    DEVICE_OP = 0x82,
    ROOT_CHAR = 0x5c,
    LOCAL0_OP = 0x60,
    ARG0_OP = 0x68,
    STORE_OP = 0x70,
    SHIFT_LEFT_OP = 0x79,
    AND_OP = 0x7b,
    NOTIFY_OP = 0x86,
    IF_OP = 0xa0,
};

/* Behind EXT_OP_PREFIX. */
enum { REGION_OP = 0x80, FIELD_OP = 0x81 };
enum { REGION_SYSTEM_IO = 1 };
enum { FIELD_DWORD_ACC = 0x03, FIELD_WRITE_AS_ZEROS = 0x40 };

enum {
    RES_IRQ_NOFLAGS = 0x22,
    RES_IO = 0x47,
    RES_END_TAG = 0x79,
    RES_MEMORY32_FIXED = 0x86,
    RES_DWORD_SPACE = 0x87,
    RES_WORD_SPACE = 0x88,
    RES_EXTENDED_IRQ = 0x89,
};

/* Address space descriptors: resource types and flags. */
enum { SPACE_MEMORY = 0, SPACE_IO = 1, SPACE_BUS = 2 };
enum {
    SPACE_MIN_FIXED = 0x04,
    SPACE_MAX_FIXED = 0x08,
    SPACE_ENTIRE_RANGE = 0x03, /* I/O: ISA and non-ISA ranges */
    SPACE_WRITABLE = 0x01,
    SPACE_CACHEABLE = 0x02,
};

void aml_free(struct aml *a) {
    free(a->buf);
    *a = (struct aml){0};
}

/* Opens a gap of n bytes at `at`. */
static uint8_t *insert(struct aml *a, size_t at, size_t n) {
    xreserve(&a->buf, &a->cap, a->len, n);
    memmove(a->buf + at + n, a->buf + at, a->len - at);
    a->len += n;
    return a->buf + at;
}

static void put(struct aml *a, uint64_t v, unsigned bytes) {
    memcpy(insert(a, a->len, bytes), &v, bytes);
}

static void open_package(struct aml *a) {
    if (a->depth < AML_DEPTH)
        a->open[a->depth++] = a->len;
}

/* PkgLength counts itself: 1 byte up to 63, else 2 to 4 with the low 4 bits in the first (20.2.4).
 */
void aml_end(struct aml *a) {
    if (!a->depth)
        return;
    size_t at = a->open[--a->depth];
    size_t len = a->len - at;
    unsigned extra = len + 1 < 0x40 ? 0 : len + 2 < 0x1000 ? 1 : len + 3 < 0x100000 ? 2 : 3;
    uint8_t *p = insert(a, at, extra + 1);

    len += extra + 1;
    p[0] = (uint8_t)(extra ? extra << 6 | (len & 0xf) : len);
    for (unsigned i = 1; i <= extra; i++)
        p[i] = (uint8_t)(len >> (8 * i - 4));
}

/* One NameSeg: up to a dot or the end, padded. Returns what follows. */
static const char *put_segment(struct aml *a, const char *s) {
    uint8_t *p = insert(a, a->len, 4);

    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(*s && *s != '.' ? *s++ : '_');
    return *s == '.' ? s + 1 : s;
}

static unsigned count_segments(const char *name) {
    unsigned n = 1;

    while ((name = strchr(name, '.')))
        n++, name++;
    return n;
}

static void put_name(struct aml *a, const char *name) {
    if (*name == '\\')
        put(a, ROOT_CHAR, 1), name++;
    unsigned segments = count_segments(name);
    if (segments == 2) {
        put(a, DUAL_NAME_PREFIX, 1);
    } else if (segments > 2) {
        put(a, MULTI_NAME_PREFIX, 1);
        put(a, segments, 1);
    }
    while (*name)
        name = put_segment(a, name);
}

void aml_scope_begin(struct aml *a, const char *name) {
    put(a, SCOPE_OP, 1);
    open_package(a);
    put_name(a, name);
}

void aml_device_begin(struct aml *a, const char *name) {
    put(a, EXT_OP_PREFIX, 1);
    put(a, DEVICE_OP, 1);
    open_package(a);
    put_name(a, name);
}

void aml_name(struct aml *a, const char *name) {
    put(a, NAME_OP, 1);
    put_name(a, name);
}

void aml_int(struct aml *a, uint64_t v) {
    if (v <= 1) {
        put(a, v ? ONE_OP : ZERO_OP, 1);
        return;
    }
    unsigned bytes = v <= UINT8_MAX ? 1 : v <= UINT16_MAX ? 2 : v <= UINT32_MAX ? 4 : 8;

    put(a,
        bytes == 1   ? BYTE_PREFIX
        : bytes == 2 ? WORD_PREFIX
        : bytes == 4 ? DWORD_PREFIX
                     : QWORD_PREFIX,
        1);
    put(a, v, bytes);
}

void aml_string(struct aml *a, const char *s) {
    size_t n = strlen(s) + 1;

    put(a, STRING_PREFIX, 1);
    memcpy(insert(a, a->len, n), s, n);
}

static unsigned hex_digit(char c) {
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of 5 bits and four hex digits, big-endian (ACPI 6.4, 19.3.4). */
void aml_eisaid(struct aml *a, const char *id) {
    uint32_t v = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 |
                 (uint32_t)(id[2] - '@') << 16;

    for (unsigned i = 0; i < 4; i++)
        v |= hex_digit(id[3 + i]) << (12 - 4 * i);
    put(a, DWORD_PREFIX, 1);
    put(a, __builtin_bswap32(v), 4);
}

void aml_package_begin(struct aml *a, uint8_t count) {
    put(a, PACKAGE_OP, 1);
    open_package(a);
    put(a, count, 1);
}

/* --- methods and what they do (20.2.5) --- */

void aml_method_begin(struct aml *a, const char *name, unsigned args) {
    put(a, METHOD_OP, 1);
    open_package(a);
    put_name(a, name);
    put(a, args & 7, 1); /* not serialized */
}

void aml_io_registers(struct aml *a, const char *region, uint16_t port, uint8_t len,
                      const char *names) {
    put(a, EXT_OP_PREFIX, 1);
    put(a, REGION_OP, 1);
    put_name(a, region);
    put(a, REGION_SYSTEM_IO, 1);
    aml_int(a, port);
    aml_int(a, len);

    put(a, EXT_OP_PREFIX, 1);
    put(a, FIELD_OP, 1);
    open_package(a);
    put_name(a, region);
    put(a, FIELD_DWORD_ACC | FIELD_WRITE_AS_ZEROS, 1);
    for (; *names; names += 4) {
        memcpy(insert(a, a->len, 4), names, 4);
        put(a, 32, 1); /* bits, as a package length */
    }
    aml_end(a);
}

void aml_arg(struct aml *a, unsigned n) {
    put(a, ARG0_OP + n, 1);
}

void aml_local(struct aml *a, unsigned n) {
    put(a, LOCAL0_OP + n, 1);
}

void aml_ref(struct aml *a, const char *name) {
    put_name(a, name);
}

void aml_store(struct aml *a) {
    put(a, STORE_OP, 1);
}

void aml_notify(struct aml *a) {
    put(a, NOTIFY_OP, 1);
}

void aml_bit_of(struct aml *a) {
    put(a, SHIFT_LEFT_OP, 1);
    aml_int(a, 1);
}

void aml_if_arg_has(struct aml *a, unsigned arg, uint32_t mask) {
    put(a, IF_OP, 1);
    open_package(a);
    put(a, AND_OP, 1);
    aml_arg(a, arg);
    aml_int(a, mask);
    put(a, ZERO_OP, 1); /* no target */
}

/* A buffer's size stands before its bytes: a word, whatever its value, so that it can be filled in.
 */
void aml_resources_begin(struct aml *a) {
    put(a, BUFFER_OP, 1);
    open_package(a);
    put(a, WORD_PREFIX, 1);
    put(a, 0, 2);
}

void aml_resources_end(struct aml *a) {
    if (!a->depth)
        return;
    put(a, RES_END_TAG, 1);
    put(a, 0, 1); /* checksum: 0 says that it isn't used */
    size_t size_at = a->open[a->depth - 1] + 1;
    uint16_t size = (uint16_t)(a->len - size_at - 2);

    memcpy(a->buf + size_at, &size, sizeof(size));
    aml_end(a);
}

void aml_io(struct aml *a, uint16_t port, uint8_t len) {
    put(a, RES_IO, 1);
    put(a, 1, 1); /* decodes 16 bits */
    put(a, port, 2);
    put(a, port, 2);
    put(a, 1, 1); /* alignment */
    put(a, len, 1);
}

void aml_irq(struct aml *a, unsigned irq) {
    put(a, RES_IRQ_NOFLAGS, 1);
    put(a, 1u << irq, 2);
}

enum { IRQ_CONSUMER = 1, IRQ_SHARED = 8 };

void aml_interrupt(struct aml *a, uint32_t gsi) {
    put(a, RES_EXTENDED_IRQ, 1);
    put(a, 6, 2);
    put(a, IRQ_CONSUMER | IRQ_SHARED, 1);
    put(a, 1, 1); /* how many */
    put(a, gsi, 4);
}

void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t len, bool writable) {
    put(a, RES_MEMORY32_FIXED, 1);
    put(a, 9, 2);
    put(a, writable, 1);
    put(a, base, 4);
    put(a, len, 4);
}

static void space(struct aml *a, uint8_t tag, uint8_t type, uint8_t type_flags, uint64_t first,
                  uint64_t last) {
    unsigned bytes = tag == RES_WORD_SPACE ? 2 : 4;

    put(a, tag, 1);
    put(a, 3 + 5 * bytes, 2);
    put(a, type, 1);
    put(a, SPACE_MIN_FIXED | SPACE_MAX_FIXED, 1); /* producer, positive decode */
    put(a, type_flags, 1);
    put(a, 0, bytes); /* granularity */
    put(a, first, bytes);
    put(a, last, bytes);
    put(a, 0, bytes); /* translation offset */
    put(a, last - first + 1, bytes);
}

void aml_word_bus(struct aml *a, uint16_t first, uint16_t last) {
    space(a, RES_WORD_SPACE, SPACE_BUS, 0, first, last);
}

void aml_word_io(struct aml *a, uint16_t first, uint16_t last) {
    space(a, RES_WORD_SPACE, SPACE_IO, SPACE_ENTIRE_RANGE, first, last);
}

void aml_dword_memory(struct aml *a, uint32_t first, uint32_t last, bool cacheable) {
    space(a, RES_DWORD_SPACE, SPACE_MEMORY, SPACE_WRITABLE | (cacheable ? SPACE_CACHEABLE : 0),
          first, last);
}
