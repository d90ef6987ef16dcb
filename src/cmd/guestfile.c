/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recognising files by their magic numbers: kernels first (a bzImage also carries a boot sector's
 * signature), then disks and ISOs, which are named for what they are; what is text is a
 * configuration.
 */
#include "cmd/guestfile.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/image.h"
#include "domain/config.h"

#define HEAD_BYTES 40960u /* up to ISO 9660's volume descriptor */

struct magic {
    unsigned offset;
    const char *bytes;
    const char *what;
};

static const struct magic magics[] = {
    {0, "QFI\xfb", "a qcow2 disk"},
    {0, "KDMV", "a VMDK disk"},
    {0, "# Disk DescriptorFile", "a VMDK disk"},
    {0, "conectix", "a VHD disk"},
    {0, "vhdxfile", "a VHDX disk"},
    {64, "\x7f\x10\xda\xbe", "a VDI disk"},
    {32769, "CD001", "an ISO image"},
    {512, "EFI PART", "a disk with a GPT partition table"},
    {510, "\x55\xaa", "a disk with a boot sector"},
};

static const char *disk_kind(const uint8_t *head, size_t len) {
    for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
        size_t n = strlen(magics[i].bytes);

        if (magics[i].offset + n <= len && memcmp(head + magics[i].offset, magics[i].bytes, n) == 0)
            return magics[i].what;
    }
    return NULL;
}

/* As libmagic does: no byte that no text has. */
static bool is_text(const uint8_t *head, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (head[i] < 32 && !strchr("\t\n\v\f\r\033", head[i]))
            return false;
    return true;
}

static int set_default(char **field, const char *value) {
    if (!**field) {
        free(*field);
        *field = xstrdup(value);
    }
    return 0;
}

/* A name from a path: without folder and without what follows the last dot. */
static char *stem(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');

    return xasprintf("%.*s", dot && dot > base ? (int)(dot - base) : (int)strlen(base), base);
}

static int apply_kernel(struct config *c, const char *path, struct err *e) {
    if (c->kernel)
        return err_set(e, 0, "%s is a kernel, and there is one already: %s", path, c->kernel);
    return config_set_text(c, config_key_find("kernel"), path, e);
}

/* Takes the file for what its content says. */
static int apply_content(struct config *c, const char *path, const struct image *img, bool whole,
                         struct err *e) {
    struct image_id id = image_identify(img->data, img->size);
    const char *disk = disk_kind(img->data, img->size);

    if (whole && id.kind != IMAGE_UNKNOWN)
        return apply_kernel(c, path, e);
    if (disk)
        return err_set(e, ENOTSUP,
                       "%s: %s, which this version cannot boot from; give a kernel (--kernel FILE) "
                       "or a domain configuration",
                       path, disk);
    if (!whole || !is_text(img->data, MIN(img->size, (size_t)HEAD_BYTES)))
        return err_set(e, 0, "%s: neither a kernel nor a domain configuration", path);
    return config_load(c, path, e);
}

int guestfile_apply(struct config *c, const char *path, struct err *e) {
    cleanup_close int fd = -1;
    cleanup_free char *name = stem(path);
    struct image img = {0};
    uint64_t size = 0;
    bool whole;
    int r;

    fd = image_open(path, &size, e);
    if (fd < 0)
        return err_wrap(e, "%s", path);
    whole = size <= IMAGE_KERNEL_MAX;
    img.size = whole ? (size_t)size : HEAD_BYTES;
    img.data = malloc(img.size);
    if (!img.data)
        return err_set(e, ENOMEM, "%s", path);
    r = image_fill(fd, img.data, img.size, e);
    r = r < 0 ? err_wrap(e, "%s", path) : apply_content(c, path, &img, whole, e);
    image_free(&img);
    if (r == 0)
        set_default(&c->name, name);
    return r;
}

/* The folder that the program is in. */
static char *program_dir(void) {
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    char *slash;

    if (n < 0)
        return xstrdup(".");
    path[n] = 0;
    slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    return xstrdup(path);
}

static char *find_appliance(void) {
    const char *env = getenv("RINGFENCE_APPLIANCE");
    cleanup_free char *dir = program_dir();
    char *candidates[] = {
        env && *env ? xstrdup(env) : NULL,
        env && *env ? NULL : xasprintf("%s/appliance", dir),
        env && *env ? NULL : xasprintf("%s/../share/ringfence/appliance", dir),
    };
    char *found = NULL;

    for (size_t i = 0; i < ARRAY_LEN(candidates); i++) {
        cleanup_free char *kernel = NULL;

        if (candidates[i])
            kernel = xasprintf("%s/vmlinuz", candidates[i]);
        if (kernel && !found && access(kernel, R_OK) == 0)
            found = candidates[i];
        else
            free(candidates[i]);
    }
    return found;
}

/* The first line of a file. */
static int read_line(const char *path, char **line, struct err *e) {
    struct image img;
    int r = image_read(&img, path, 4096, e);

    if (r < 0)
        return err_wrap(e, "%s", path);
    *line = xasprintf("%.*s", (int)strcspn((const char *)img.data, "\n"), (const char *)img.data);
    image_free(&img);
    return 0;
}

int guestfile_appliance(struct config *c, struct err *e) {
    cleanup_free char *dir = find_appliance(), *line = NULL, *kernel = NULL, *initrd = NULL;
    cleanup_free char *cmdline = NULL;

    if (!dir)
        return err_set(e, 0,
                       "there is nothing to run: give a FILE or --kernel FILE, or type 'make run' "
                       "once, which builds the demonstration appliance that is run without them");
    cmdline = xasprintf("%s/cmdline", dir);
    if (read_line(cmdline, &line, e) < 0)
        return err_wrap(e, "appliance");
    kernel = xasprintf("%s/vmlinuz", dir);
    initrd = xasprintf("%s/initrd.img", dir);
    set_default(&c->name, "appliance");
    config_set_text(c, config_key_find("kernel"), kernel, e);
    if (!c->ramdisk)
        config_set_text(c, config_key_find("ramdisk"), initrd, e);
    if (!c->cmdline)
        config_set_text(c, config_key_find("cmdline"), line, e);
    return 0;
}
