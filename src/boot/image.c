/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels by content. Files are read, never mapped: a file that shrinks under a mapping would end
 * the monitor with SIGBUS.
 */
#include "boot/image.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/bzimage.h"
#include "boot/decompress.h"
#include "boot/elf.h"
#include "boot/multiboot.h"

static const char *kind_of_file(mode_t mode) {
    return S_ISDIR(mode)                    ? "a directory"
           : S_ISFIFO(mode)                 ? "a pipe"
           : S_ISSOCK(mode)                 ? "a socket"
           : S_ISBLK(mode) || S_ISCHR(mode) ? "a device"
                                            : "something else";
}

int image_open(const char *path, uint64_t *size, struct err *e) {
    /* O_NONBLOCK: opening a FIFO would wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    int r;

    if (fd < 0)
        return err_set(e, errno, "open");
    if (fstat(fd, &st) < 0)
        r = err_set(e, errno, "stat");
    else if (!S_ISREG(st.st_mode))
        r = err_set(e, 0, "not a file but %s", kind_of_file(st.st_mode));
    else if (st.st_size == 0)
        r = err_set(e, 0, "the file is empty");
    else {
        *size = (uint64_t)st.st_size;
        return fd;
    }
    close(fd);
    return r;
}

int image_fill(int fd, void *buf, uint64_t size, struct err *e) {
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, (uint8_t *)buf + done, size - done, (off_t)done);

        if (n < 0 && errno != EINTR)
            return err_set(e, errno, "read");
        if (n == 0)
            return err_set(e, 0, "the file was cut short while it was read");
        if (n > 0)
            done += (uint64_t)n;
    }
    return 0;
}

int image_read(struct image *img, const char *path, size_t max, struct err *e) {
    uint64_t size;
    cleanup_close int fd = image_open(path, &size, e);
    int r;

    *img = (struct image){0};
    if (fd < 0)
        return fd;
    if (size > max)
        return err_set(e, 0, "%llu MiB is too large: at most %zu MiB",
                       (unsigned long long)(size >> 20), max >> 20);
    img->data = malloc(size);
    if (!img->data)
        return err_set(e, ENOMEM, "%llu MiB", (unsigned long long)(size >> 20));
    img->size = size;
    r = image_fill(fd, img->data, size, e);
    if (r < 0)
        image_free(img);
    return r;
}

void image_free(struct image *img) {
    free(img->data);
    *img = (struct image){0};
}

static bool has(const uint8_t *data, size_t size, size_t off, const char *magic, size_t n) {
    return range_within(off, n, size) && !memcmp(data + off, magic, n);
}

/* Kernels of other processors in formats of their own. */
static const char *foreign_format(const uint8_t *d, size_t n) {
    static const struct {
        uint8_t off, len;
        char magic[9];
        const char *arch;
    } FORMATS[] = {
        {56, 4, "ARM\x64", "AArch64"},        /* Image: Documentation/arm64/booting.rst */
        {0x24, 4, "\x18\x28\x6f\x01", "ARM"}, /* zImage */
        {48, 5, "RISCV", "RISC-V"},           /* Image: Documentation/riscv/boot-image-header */
        {56, 4, "RSC\x05", "RISC-V"},
        {56, 4, "\xcd\x23\x82\x81", "LoongArch"}, /* vmlinux.efi */
    };

    for (size_t i = 0; i < ARRAY_LEN(FORMATS); i++)
        if (has(d, n, FORMATS[i].off, FORMATS[i].magic, FORMATS[i].len))
            return FORMATS[i].arch;
    /* An EFI stub around a compressed kernel, which x86 does not use. */
    return has(d, n, 0, "MZ", 2) && has(d, n, 4, "zimg", 4) ? "AArch64, RISC-V or LoongArch" : NULL;
}

static const char *elf_arch(uint16_t machine) {
    switch (machine) {
    case EM_AARCH64:
        return "AArch64";
    case EM_ARM:
        return "ARM";
    case EM_RISCV:
        return "RISC-V";
    case EM_PPC:
        return "PowerPC";
    case EM_PPC64:
        return "PowerPC64";
    case EM_S390:
        return "s390";
    case EM_MIPS:
        return "MIPS";
    case EM_SPARC:
    case EM_SPARCV9:
        return "SPARC";
    case EM_IA_64:
        return "Itanium";
    case EM_LOONGARCH:
        return "LoongArch";
    default:
        return "another processor";
    }
}

/* The machine of an ELF header in either byte order; EM_NONE when there is none. */
static uint16_t elf_machine(const uint8_t *d, size_t n) {
    if (!elf_is(d, n) || n < 20)
        return EM_NONE;
    return d[EI_DATA] == ELFDATA2MSB ? (uint16_t)(d[18] << 8 | d[19])
                                     : (uint16_t)(d[19] << 8 | d[18]);
}

static struct image_id identify_x86_elf(const uint8_t *d, size_t n) {
    struct elf elf;
    uint32_t entry;
    bool parsed = elf_parse(&elf, d, n, NULL) == 0;

    if (parsed && elf_find_pvh_entry(&elf, &entry))
        return (struct image_id){IMAGE_PVH, NULL};
    if (multiboot_find(d, n, NULL))
        return (struct image_id){IMAGE_MULTIBOOT, NULL};
    if (d[16] == ET_REL || d[16] == ET_CORE)
        return (struct image_id){IMAGE_NOT_EXEC, NULL};
    return (struct image_id){IMAGE_ELF, NULL};
}

struct image_id image_identify(const uint8_t *data, size_t size) {
    uint16_t machine = elf_machine(data, size);
    const char *arch;

    if (bzimage_is(data, size))
        return (struct image_id){IMAGE_BZIMAGE, NULL};
    if (machine == EM_386 || machine == EM_X86_64)
        return identify_x86_elf(data, size);
    if (machine != EM_NONE)
        return (struct image_id){IMAGE_FOREIGN, elf_arch(machine)};
    arch = foreign_format(data, size);
    if (arch)
        return (struct image_id){IMAGE_FOREIGN, arch};
    if (multiboot_find(data, size, NULL))
        return (struct image_id){IMAGE_MULTIBOOT, NULL};
    if (decompress_probe(data, size) != DECOMPRESS_NONE)
        return (struct image_id){IMAGE_COMPRESSED, NULL};
    return (struct image_id){IMAGE_UNKNOWN, NULL};
}

int image_read_kernel(struct image *img, struct image_id *id, const char *path, struct err *e) {
    struct image inner = {0};
    int r = image_read(img, path, IMAGE_KERNEL_MAX, e);

    if (r < 0)
        return r;
    *id = image_identify(img->data, img->size);
    if (id->kind != IMAGE_COMPRESSED)
        return 0;
    r = decompress(img->data, img->size, IMAGE_KERNEL_MAX, 0, &inner.data, &inner.size, e);
    image_free(img);
    if (r < 0)
        return r;
    *img = inner;
    *id = image_identify(img->data, img->size);
    return 0;
}

int image_reject(struct image_id id, struct err *e) {
    switch (id.kind) {
    case IMAGE_FOREIGN:
        return err_set(e, 0, "built for %s, not for x86-64", id.arch);
    case IMAGE_NOT_EXEC:
        return err_set(e, 0, "an ELF object or core file, not a kernel");
    case IMAGE_ELF:
        return err_set(e, 0,
                       "an ELF file with neither a PVH note nor a multiboot header "
                       "(Linux: CONFIG_PVH=y)");
    default:
        return err_set(e, 0, "not a kernel: neither a bzImage nor an ELF file nor multiboot");
    }
}
