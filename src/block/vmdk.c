/* SPDX-License-Identifier: Apache-2.0 */
/* VMDK descriptors, and which kind of image a file is. */
#include "block/vmdk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/util.h"

#define MARK "# Disk DescriptorFile"
#define NO_PARENT "ffffffff"

/* --- reading --- */

static const char *next_line(const char *at) {
    at += strcspn(at, "\n");
    return *at ? at + 1 : at;
}

char *vmdk_value(const char *text, const char *key) {
    size_t n = strlen(key);

    for (const char *at = text; *at; at = next_line(at)) {
        const char *v = at + n;

        if (strncasecmp(at, key, n) != 0)
            continue;
        v += strspn(v, " \t");
        if (*v != '=')
            continue;
        v++;
        v += strspn(v, " \t\"");
        return xasprintf("%.*s", (int)strcspn(v, "\"\r\n"), v);
    }
    return NULL;
}

static bool is_extent(const char *at) {
    return strncmp(at, "RW ", 3) == 0 || strncmp(at, "RDONLY ", 7) == 0 ||
           strncmp(at, "NOACCESS ", 9) == 0;
}

int vmdk_next_extent(const char **at, struct vmdk_extent *x, struct err *e) {
    int n;

    while (**at && !is_extent(*at))
        *at = next_line(*at);
    if (!**at)
        return 0;
    *x = (struct vmdk_extent){0};
    /* Lengths are bounded by sscanf; numbers, by who uses them. */
    n = sscanf(*at, "%15s %" SCNu64 " %15s \"%255[^\"\r\n]\" %" SCNu64, x->access, &x->sectors,
               x->type, x->name, &x->offset);
    *at = next_line(*at);
    if (n < 3 || (n < 4 && strcmp(x->type, "ZERO") != 0))
        return err_set(e, 0, "the descriptor has an extent that makes no sense");
    return 1;
}

int vmdk_judge_text(const char *text, struct err *e) {
    cleanup_free char *parent = vmdk_value(text, "parentCID");

    if (parent && strcasecmp(parent, NO_PARENT) != 0)
        return err_set(e, 0, "it is a snapshot of another disk, which is not supported");
    return 0;
}

/* --- writing --- */

const char *vmdk_name(const struct hostfile *file, const struct volume_create *c) {
    const char *path = c->name ? c->name : file->path, *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

char *vmdk_text(const char *type, const char *extents, uint64_t size, struct err *e) {
    uint64_t cylinders = MIN(size / VMDK_SECTOR / (16 * 63), (uint64_t)16383);
    uint32_t id;

    if (getrandom(&id, sizeof(id), 0) != sizeof(id)) {
        err_set(e, errno, "random numbers");
        return NULL;
    }
    return xasprintf(MARK "\n"
                          "version=1\n"
                          "CID=%08x\n"
                          "parentCID=" NO_PARENT "\n"
                          "createType=\"%s\"\n\n"
                          "# Extent description\n"
                          "%s\n"
                          "# The Disk Data Base\n"
                          "#DDB\n\n"
                          "ddb.virtualHWVersion = \"4\"\n"
                          "ddb.geometry.cylinders = \"%" PRIu64 "\"\n"
                          "ddb.geometry.heads = \"16\"\n"
                          "ddb.geometry.sectors = \"63\"\n"
                          "ddb.adapterType = \"ide\"\n",
                     id & 0xfffffffeu, type, extents, cylinders);
}

/* --- the format --- */

static bool vmdk_probe(const uint8_t *head, size_t len) {
    return vmdk_sparse_probe(head, len) ||
           (len >= strlen(MARK) && memcmp(head, MARK, strlen(MARK)) == 0);
}

static struct volume *open_text(struct hostfile *file, uint64_t size, struct err *e) {
    cleanup_free char *text = xcalloc(1, size + 1);
    int r = hostfile_read(file, 0, text, size);

    if (r == 0 && vmdk_judge_text(text, e) == 0)
        return vmdk_flat_open(file, text, e);
    if (r < 0)
        err_set(e, -r, "read");
    hostfile_close(file);
    return NULL;
}

static struct volume *vmdk_open(struct hostfile *file, bool for_repair, struct err *e) {
    uint8_t head[VMDK_SECTOR] = {0};
    uint64_t size = 0;
    int r = hostfile_size(file, &size);

    if (r == 0)
        r = hostfile_read(file, 0, head, sizeof(head));
    if (r == 0 && vmdk_sparse_probe(head, sizeof(head)))
        return vmdk_sparse_open(file, for_repair, e);
    if (r == 0 && vmdk_probe(head, sizeof(head)) && size <= VMDK_TEXT_MAX)
        return open_text(file, size, e);
    if (r < 0)
        err_set(e, -r, "read");
    else
        err_set(e, 0, "not a vmdk image");
    hostfile_close(file);
    return NULL;
}

static int vmdk_create(struct hostfile *file, const struct volume_create *c, struct err *e) {
    if (volume_create_plain(file, c, &volume_vmdk, e) < 0)
        return -1;
    if (c->size > VMDK_SIZE_MAX)
        return err_set(e, 0, "the size is too large: a vmdk image has 2040G at most");
    if (strpbrk(vmdk_name(file, c), "\"\r\n") || strlen(vmdk_name(file, c)) > 200)
        return err_set(e, 0, "a descriptor cannot have this file's name");
    return c->subformat && strstr(c->subformat, "Flat") ? vmdk_flat_create(file, c, e)
                                                        : vmdk_sparse_create(file, c, e);
}

static const char *const suffixes[] = {"vmdk", NULL};
static const char *const subformats[] = {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentFlat",
                                         "streamOptimized", NULL};

const struct volume_format volume_vmdk = {
    .name = "vmdk",
    .suffixes = suffixes,
    .subformats = subformats,
    .probe = vmdk_probe,
    .open = vmdk_open,
    .create = vmdk_create,
};
