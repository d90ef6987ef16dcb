/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BIOS services for setup code: INT 10h (teletype to COM1; mode 3, 80 columns), 12h (base memory),
 * 15h (AX=E820h, E801h, AH=88h) and 16h (no key). Interfaces as in ACPI 6.4 section 15 and Ralf
 * Brown's list. Of interrupts only the timer's is open, 18.2 times a second, and counts ticks. No
 * disks, no clock services: this is no firmware for operating systems that live on theirs.
 */
#include "boot/bios.h"

#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/e820.h"
#include "boot/place.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

#define BIOS_SEGMENT 0xf000u
#define CODE_AT 0xf000u /* in the segment: E820_BIOS */
#define DATA_AT 0xf100u

_Static_assert((BIOS_SEGMENT << 4) + CODE_AT == E820_BIOS, "where the code is assembled for");

/* What the services answer with; CODE names these fields by their offsets from DATA_AT. */
struct __attribute__((packed)) bios_data {
    uint16_t ext_k;     /* +0: INT 15h AH=88h, KiB from 1 MiB on */
    uint16_t below_16m; /* +2: AX=E801h, KiB from 1 to 16 MiB */
    uint16_t above_16m; /* +4: 64 KiB blocks from 16 MiB on */
    uint16_t reserved;
    uint32_t map_count; /* +8 */
    struct __attribute__((packed)) {
        uint64_t base, size;
        uint32_t type;
    } map[8]; /* +12 */
};

enum {
    AT_UNSUPPORTED = 0xf000,
    AT_INT10 = 0xf012,
    AT_INT12 = 0xf029,
    AT_INT15 = 0xf02d,
    AT_INT16 = 0xf09d,
    AT_IRQ0 = 0xf0a8
};

/* clang-format off */
static const uint8_t CODE[] = {
    /* f000 unsupported: the caller's carry = 1 */
    0x55,                         /* push %bp */
    0x89, 0xe5,                   /* mov %sp,%bp */
    0x80, 0x4e, 0x06, 0x01,       /* orb $1,6(%bp) */
    0x5d,                         /* pop %bp */
    0xcf,                         /* iret */
    /* f009 ok: the caller's carry = 0 */
    0x55,                         /* push %bp */
    0x89, 0xe5,                   /* mov %sp,%bp */
    0x80, 0x66, 0x06, 0xfe,       /* andb $0xfe,6(%bp) */
    0x5d,                         /* pop %bp */
    0xcf,                         /* iret */
    /* f012 int10 */
    0x80, 0xfc, 0x0e,             /* cmp $0x0e,%ah */
    0x74, 0x0b,                   /* je teletype */
    0x80, 0xfc, 0x0f,             /* cmp $0x0f,%ah */
    0x75, 0x05,                   /* jne 1f */
    0xb8, 0x03, 0x50,             /* mov $0x5003,%ax: 80 columns, mode 3 */
    0xb7, 0x00,                   /* mov $0,%bh: page 0 */
    0xcf,                         /* 1: iret */
    /* f022 teletype */
    0x52,                         /* push %dx */
    0xba, 0xf8, 0x03,             /* mov $0x3f8,%dx */
    0xee,                         /* out %al,(%dx) */
    0x5a,                         /* pop %dx */
    0xcf,                         /* iret */
    /* f029 int12 */
    0xb8, 0x7f, 0x02,             /* mov $639,%ax */
    0xcf,                         /* iret */
    /* f02d int15 */
    0x3d, 0x20, 0xe8,             /* cmp $0xe820,%ax */
    0x74, 0x23,                   /* je e820 */
    0x3d, 0x01, 0xe8,             /* cmp $0xe801,%ax */
    0x74, 0x09,                   /* je e801 */
    0x80, 0xfc, 0x88,             /* cmp $0x88,%ah */
    0x74, 0x13,                   /* je e88 */
    0xb4, 0x86,                   /* mov $0x86,%ah: function not supported */
    0xeb, 0xc0,                   /* jmp unsupported */
    /* f040 e801 */
    0x2e, 0xa1, 0x02, 0xf1,       /* mov %cs:below_16m,%ax */
    0x2e, 0x8b, 0x1e, 0x04, 0xf1, /* mov %cs:above_16m,%bx */
    0x89, 0xc1,                   /* mov %ax,%cx */
    0x89, 0xda,                   /* mov %bx,%dx */
    0xeb, 0xba,                   /* jmp ok */
    /* f04f e88 */
    0x2e, 0xa1, 0x00, 0xf1,       /* mov %cs:ext_k,%ax */
    0xeb, 0xb4,                   /* jmp ok */
    /* f055 e820: EBX is the index of the entry; 0 follows the last */
    0x66, 0x81, 0xfa, 0x50, 0x41, 0x4d, 0x53, /* cmp $"SMAP",%edx */
    0x75, 0xa2,                   /* jne unsupported */
    0x2e, 0x66, 0x3b, 0x1e, 0x08, 0xf1, /* cmp %cs:map_count,%ebx */
    0x73, 0x9a,                   /* jae unsupported */
    0x66, 0x83, 0xf9, 0x14,       /* cmp $20,%ecx */
    0x72, 0x94,                   /* jb unsupported */
    0x56,                         /* push %si */
    0x57,                         /* push %di */
    0x1e,                         /* push %ds */
    0x6b, 0xf3, 0x14,             /* imul $20,%bx,%si */
    0x81, 0xc6, 0x0c, 0xf1,       /* add $map,%si */
    0x0e,                         /* push %cs */
    0x1f,                         /* pop %ds */
    0xb9, 0x0a, 0x00,             /* mov $10,%cx */
    0xfc,                         /* cld */
    0xf3, 0xa5,                   /* rep movsw */
    0x1f,                         /* pop %ds */
    0x5f,                         /* pop %di */
    0x5e,                         /* pop %si */
    0x66, 0xb9, 0x14, 0x00, 0x00, 0x00, /* mov $20,%ecx */
    0x66, 0x43,                   /* inc %ebx */
    0x2e, 0x66, 0x3b, 0x1e, 0x08, 0xf1, /* cmp %cs:map_count,%ebx */
    0x72, 0x03,                   /* jb 1f */
    0x66, 0x31, 0xdb,             /* xor %ebx,%ebx */
    0x66, 0xb8, 0x50, 0x41, 0x4d, 0x53, /* 1: mov $"SMAP",%eax */
    0xe9, 0x6c, 0xff,             /* jmp ok */
    /* f09d int16: the caller's ZF = 1, AX = 0 */
    0x55,                         /* push %bp */
    0x89, 0xe5,                   /* mov %sp,%bp */
    0x80, 0x4e, 0x06, 0x40,       /* orb $0x40,6(%bp) */
    0x5d,                         /* pop %bp */
    0x31, 0xc0,                   /* xor %ax,%ax */
    0xcf,                         /* iret */
    /* f0a8 irq0 */
    0x1e,                         /* push %ds */
    0x50,                         /* push %ax */
    0x31, 0xc0,                   /* xor %ax,%ax */
    0x8e, 0xd8,                   /* mov %ax,%ds */
    0x66, 0xff, 0x06, 0x6c, 0x04, /* incl 0x46c: ticks */
    0xb0, 0x20,                   /* mov $0x20,%al */
    0xe6, 0x20,                   /* out %al,$0x20: end of interrupt */
    0x58,                         /* pop %ax */
    0x1f,                         /* pop %ds */
    0xcf,                         /* iret */
};
/* clang-format on */

_Static_assert(sizeof(CODE) <= DATA_AT - CODE_AT, "the data follows");

static struct bios_data answers(const struct e820_layout *l) {
    uint64_t ext = l->low_bytes - E820_EXTENDED, below = MIN(ext, 15ull << 20);
    struct bios_data d = {
        .ext_k = (uint16_t)MIN(ext >> 10, 0xfc00ull),
        .below_16m = (uint16_t)(below >> 10),
        .above_16m = (uint16_t)((ext - below) >> 16),
        .map_count = l->map_count,
    };

    for (unsigned i = 0; i < l->map_count; i++) {
        d.map[i].base = l->map[i].base;
        d.map[i].size = l->map[i].size;
        d.map[i].type = l->map[i].type;
    }
    return d;
}

static uint32_t vector(uint16_t at) {
    return BIOS_SEGMENT << 16 | at;
}

/* The 8259s at vectors 08h and 70h, all but the timer masked; the 8254's counter 0 runs freely. */
static void set_up_interrupts(struct mem *m) {
    static const struct {
        uint16_t port;
        uint8_t value;
    } WRITES[] = {
        {PC_PIC_MASTER, 0x11},
        {PC_PIC_MASTER + 1, 0x08},
        {PC_PIC_MASTER + 1, 1u << PC_IRQ_CASCADE},
        {PC_PIC_MASTER + 1, 0x01}, /* not in automatic EOI mode */
        {PC_PIC_SLAVE, 0x11},
        {PC_PIC_SLAVE + 1, 0x70},
        {PC_PIC_SLAVE + 1, PC_IRQ_CASCADE},
        {PC_PIC_SLAVE + 1, 0x01},
        {PC_PIC_MASTER + 1, 0xff & ~(1u << PC_IRQ_PIT | 1u << PC_IRQ_CASCADE)},
        {PC_PIC_SLAVE + 1, 0xff},
        {PC_PIT + 3, 0x34}, /* counter 0, mode 2, both bytes */
        {PC_PIT, 0},
        {PC_PIT, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(WRITES); i++)
        mem_port_write(m, WRITES[i].port, 1, WRITES[i].value);
}

int bios_install(struct place *p, struct err *e) {
    struct bios_data d = answers(p->layout);
    uint32_t ivt[256];

    for (size_t i = 0; i < ARRAY_LEN(ivt); i++)
        ivt[i] = vector(AT_UNSUPPORTED);
    ivt[0x08] = vector(AT_IRQ0);
    ivt[0x10] = vector(AT_INT10);
    ivt[0x12] = vector(AT_INT12);
    ivt[0x15] = vector(AT_INT15);
    ivt[0x16] = vector(AT_INT16);
    if (mem_write(p->mem, GPA(0), ivt, sizeof(ivt)) < 0 ||
        mem_write(p->mem, GPA(E820_BIOS), CODE, sizeof(CODE)) < 0 ||
        mem_write(p->mem, GPA(E820_BIOS + DATA_AT - CODE_AT), &d, sizeof(d)) < 0)
        return err_set(e, 0, "no RAM for BIOS services");
    set_up_interrupts(p->mem);
    return 0;
}
