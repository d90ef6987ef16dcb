/* SPDX-License-Identifier: Apache-2.0 */
/* Files that guests are started from: reading them safely, and telling by content what they are. */
#ifndef RINGFENCE_BOOT_IMAGE_H
#define RINGFENCE_BOOT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define IMAGE_KERNEL_MAX ((size_t)1 << 30) /* of a kernel file, and of what it decompresses to */

enum image_kind {
    IMAGE_UNKNOWN,
    IMAGE_BZIMAGE,    /* Linux/x86 boot protocol 2.00 and later, zImage included */
    IMAGE_PVH,        /* ELF for x86 with a PVH entry */
    IMAGE_MULTIBOOT,  /* multiboot 1 header, ELF or not */
    IMAGE_ELF,        /* ELF for x86 that offers no way to enter it */
    IMAGE_NOT_EXEC,   /* ELF for x86, but an object file, module or core dump */
    IMAGE_COMPRESSED, /* decompress() knows how */
    IMAGE_FOREIGN,    /* a kernel for another processor */
};

struct image_id {
    enum image_kind kind;
    const char *arch; /* IMAGE_FOREIGN: the processor's name */
};

struct image {
    uint8_t *data; /* owned: image_free() */
    size_t size;
};

/*
 * Opens a regular file for reading, without waiting for anybody. Returns the descriptor and the
 * size, or a negative value for what is missing, unreadable, empty, or no regular file. Messages
 * don't repeat the path.
 */
int image_open(const char *path, uint64_t *size, struct err *e);

/* Reads exactly `size` bytes from the descriptor's start. */
int image_fill(int fd, void *buf, uint64_t size, struct err *e);

/* Reads a whole file of at most `max` bytes. */
int image_read(struct image *img, const char *path, size_t max, struct err *e);
void image_free(struct image *img);

struct image_id image_identify(const uint8_t *data, size_t size);

/* Reads a kernel file; when it is compressed as a whole (vmlinux.gz, Image.gz), what is in it. */
int image_read_kernel(struct image *img, struct image_id *id, const char *path, struct err *e);

/* The error for an image that cannot be started, with the reason in words. */
int image_reject(struct image_id id, struct err *e);

#endif
