/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Linux/x86 boot protocol, 2.00 to 2.15: Documentation/x86/boot.rst, "The Real-Mode Kernel
 * Header". Fields exist from a protocol version on; older headers get the protocol's defaults.
 */
#include "boot/bzimage.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/decompress.h"

#define MAGIC "HdrS"
#define SECTOR 512
#define LEAST_SIZE 1024 /* the boot sector and the sector with the header */

static uint16_t get16(const struct bzimage *k, size_t off) {
    uint16_t v;

    memcpy(&v, k->data + off, sizeof(v));
    return v;
}

static uint32_t get32(const struct bzimage *k, size_t off) {
    uint32_t v;

    memcpy(&v, k->data + off, sizeof(v));
    return v;
}

static uint64_t get64(const struct bzimage *k, size_t off) {
    return get32(k, off) | (uint64_t)get32(k, off + 4) << 32;
}

bool bzimage_is(const uint8_t *data, size_t size) {
    return size >= LEAST_SIZE && !memcmp(data + HDR_MAGIC, MAGIC, 4) &&
           data[HDR_BOOT_FLAG] == 0x55 && data[HDR_BOOT_FLAG + 1] == 0xaa;
}

static void parse_fields(struct bzimage *k) {
    uint16_t v = k->version;

    k->loadflags = k->data[HDR_LOADFLAGS];
    k->code32_start = k->loadflags & LOADED_HIGH ? 0x100000 : 0x10000;
    k->initrd_addr_max = v >= 0x203 ? get32(k, HDR_INITRD_ADDR_MAX) : 0x37ffffff;
    k->relocatable = v >= 0x205 && k->data[HDR_RELOCATABLE];
    k->cmdline_size = v >= 0x206 ? get32(k, HDR_CMDLINE_SIZE) : 255;
    k->pref_address = v >= 0x20a ? get64(k, HDR_PREF_ADDRESS) : 0x100000;
    k->init_size = v >= 0x20a ? get32(k, HDR_INIT_SIZE) : 0;
    k->xloadflags = v >= 0x20c ? get16(k, HDR_XLOADFLAGS) : 0;
}

/* Payload offset and length are relative to the protected-mode part (2.08). */
static int parse_payload(struct bzimage *k, struct err *e) {
    uint64_t off, len;

    if (k->version < 0x208)
        return 0;
    off = (uint64_t)get32(k, HDR_PAYLOAD_OFFSET) + k->setup_bytes;
    len = get32(k, HDR_PAYLOAD_LENGTH);
    if (!range_within(off, len, k->size))
        return err_set(e, 0, "truncated: the payload ends at byte %llu, the file has %zu",
                       (unsigned long long)(off + len), k->size);
    k->payload_offset = off;
    k->payload_length = len;
    return 0;
}

int bzimage_parse(struct bzimage *k, const uint8_t *data, size_t size, struct err *e) {
    uint64_t whole;

    *k = (struct bzimage){.data = data, .size = size};
    if (!bzimage_is(data, size))
        return err_set(e, 0, "not a bzImage");
    k->version = get16(k, HDR_VERSION);
    if (k->version < 0x200)
        return err_set(e, 0, "boot protocol %u.%02u is older than 2.00", k->version >> 8,
                       k->version & 0xff);
    /* 0 means 4, for old kernels; the boot sector is not counted. */
    k->setup_bytes = (size_t)((data[HDR_SETUP_SECTS] ? data[HDR_SETUP_SECTS] : 4) + 1) * SECTOR;
    k->header_end = MIN((size_t)HDR_MAGIC + data[HDR_JUMP + 1], (size_t)HDR_END_MAX);
    if (k->setup_bytes >= size)
        return err_set(e, 0, "truncated: %zu bytes, the setup code alone has %zu", size,
                       k->setup_bytes);
    parse_fields(k);
    /* syssize has 4 bytes, in paragraphs, and is reliable from 2.04 on. */
    whole = k->setup_bytes + (uint64_t)get32(k, HDR_SYSSIZE) * 16;
    if (k->version >= 0x204 && whole > align_up(size, 16))
        return err_set(e, 0, "truncated: the kernel has %llu bytes, the file %zu",
                       (unsigned long long)whole, size);
    return parse_payload(k, e);
}

/*
 * The build appends the size of the decompressed kernel to the payload, except to gzip's, where the
 * trailer of the format itself is just that.
 */
int bzimage_payload(const struct bzimage *k, size_t max, uint8_t **out, size_t *out_size,
                    struct err *e) {
    const uint8_t *p = k->data + k->payload_offset;
    size_t size = k->payload_length;
    size_t hint;

    if (size < 8)
        return err_set(e, 0, "no payload");
    hint = get32(k, k->payload_offset + size - 4);
    if (decompress_probe(p, size) != DECOMPRESS_GZIP)
        size -= 4;
    /* A size that no compression ratio of these formats explains is not worth reserving. */
    if (hint / 256 > size)
        hint = 0;
    int r = decompress(p, size, max, hint, out, out_size, e);
    return r < 0 ? err_wrap(e, "payload") : 0;
}
