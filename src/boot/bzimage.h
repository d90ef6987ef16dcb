/* SPDX-License-Identifier: Apache-2.0 */
/* Linux/x86 kernel files (zImage, bzImage): the setup header, and the vmlinux that is compressed in
 * them. */
#ifndef RINGFENCE_BOOT_BZIMAGE_H
#define RINGFENCE_BOOT_BZIMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* Offsets of the setup header's fields, in the file as in boot_params. */
enum {
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_VID_MODE = 0x1fa,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP = 0x200,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_SETUP_MOVE_SIZE = 0x212,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_HEAP_END_PTR = 0x224,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_PAYLOAD_OFFSET = 0x248,
    HDR_PAYLOAD_LENGTH = 0x24c,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END_MAX = 0x290, /* boot_params has other things from here on */
};

#define LOADED_HIGH 0x01 /* loadflags: the protected-mode code goes to 1 MiB */
#define CAN_USE_HEAP 0x80
#define XLF_KERNEL_64 0x01

/* The header's fields, with the value that the protocol defines for versions that lack one. */
struct bzimage {
    const uint8_t *data; /* the file; the caller's */
    size_t size;
    uint16_t version;   /* 0x020f: 2.15 */
    size_t setup_bytes; /* real-mode part; the protected-mode part follows */
    size_t header_end;  /* of the setup header */
    uint8_t loadflags;
    uint16_t xloadflags;
    bool relocatable;
    uint32_t code32_start, initrd_addr_max, cmdline_size, init_size;
    uint64_t pref_address;
    size_t payload_offset, payload_length; /* in the file; length 0: none */
};

bool bzimage_is(const uint8_t *data, size_t size);

int bzimage_parse(struct bzimage *k, const uint8_t *data, size_t size, struct err *e);

/* Decompresses the payload; *out is for the caller to free. */
int bzimage_payload(const struct bzimage *k, size_t max, uint8_t **out, size_t *out_size,
                    struct err *e);

#endif
