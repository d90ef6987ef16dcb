/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two cascaded 8259A programmable interrupt controllers (Intel 8259A data sheet, 231468-003) at
 * 0x20 and 0xa0, with the PC's edge/level control registers at 0x4d0 (Intel 82371, ELCR1 and
 * ELCR2).
 *
 * Left out: MCS-80/85 mode (ICW4.uPM = 0 behaves as 8086 mode), and buffered mode, which changes
 * pins only.
 */
#include "dev/pic8259.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"

enum { ICW1_IC4 = 0x01, ICW1_SNGL = 0x02, ICW1_LTIM = 0x08, ICW1_INIT = 0x10 };
enum { ICW4_AEOI = 0x02, ICW4_SFNM = 0x10 };
enum { OCW2_LEVEL = 0x07, OCW2_EOI = 0x20, OCW2_SL = 0x40, OCW2_R = 0x80 };
enum {
    OCW3_RIS = 0x01,
    OCW3_RR = 0x02,
    OCW3_P = 0x04,
    OCW3_OCW3 = 0x08,
    OCW3_SMM = 0x20,
    OCW3_ESMM = 0x40
};

#define CASCADE 2
/* IRQ 0, 1, 2, 8 and 13 are always edge-triggered. */
#define ELCR_MASTER 0xf8
#define ELCR_SLAVE 0xde

struct chip_regs {
    uint8_t irr, imr, isr;
    uint8_t lines; /* the IR inputs as they are */
    uint8_t elcr;
    uint8_t icw1, icw2, icw3, icw4;
    uint8_t next_icw; /* the ICW that the next write to A0 = 1 is, or 0 */
    uint8_t lowest;   /* the IR level of lowest priority */
    bool smm, read_isr, poll, rotate_aeoi;
};

struct chip {
    struct chip_regs r;
    struct pic8259 *pair;
    bool slave;
    bool out; /* INT */
};

struct pic8259 {
    struct device dev;
    struct mem *mem;
    struct irq_line intr;
    struct chip chip[2]; /* master, slave */
    struct region *region[4];
};

static void update(struct chip *c);

/* --- priorities --- */

static unsigned level_at(const struct chip_regs *r, unsigned priority) {
    return (r->lowest + 1u + priority) & 7;
}

/* The priority (0 is highest) of the first level in `set`, or 8. */
static unsigned highest(const struct chip_regs *r, uint8_t set) {
    unsigned p = 0;

    while (p < 8 && !(set & 1u << level_at(r, p)))
        p++;
    return p;
}

/* The IR level that INT asks for, or -1: an unmasked request above all that is in service. */
static int requested(const struct chip *c) {
    const struct chip_regs *r = &c->r;
    uint8_t in_service = r->isr;

    if (r->smm)
        in_service &= (uint8_t)~r->imr;
    /* Special fully nested mode: the slave may interrupt itself; only it knows its own priorities.
     */
    if (!c->slave && (r->icw4 & ICW4_SFNM))
        in_service &= (uint8_t) ~(1u << CASCADE);
    unsigned p = highest(r, r->irr & (uint8_t)~r->imr);
    return p < highest(r, in_service) ? (int)level_at(r, p) : -1;
}

static uint8_t level_mask(const struct chip_regs *r) {
    return r->icw1 & ICW1_LTIM ? 0xff : r->elcr;
}

/*
 * A request goes away when its input does, in either trigger mode (data sheet, "Interrupt request
 * register"); an acknowledge that comes too late then finds nothing and is answered as IR7.
 */
static void set_line(struct chip *c, unsigned ir, bool level) {
    struct chip_regs *r = &c->r;
    uint8_t bit = (uint8_t)(1u << ir);

    if (!level)
        r->irr &= (uint8_t)~bit;
    else if (!(r->lines & bit) || (level_mask(r) & bit))
        r->irr |= bit;
    r->lines = level ? r->lines | bit : r->lines & (uint8_t)~bit;
    update(c);
}

static void drive_out(struct chip *c, bool level) {
    if (c->out == level)
        return;
    c->out = level;
    if (c->slave)
        set_line(&c->pair->chip[0], CASCADE, level);
    else
        irq_set(&c->pair->intr, level);
}

static void update(struct chip *c) {
    drive_out(c, c->r.next_icw == 0 && requested(c) >= 0);
}

/* --- acknowledge and end of interrupt --- */

static void end_of_interrupt(struct chip *c, unsigned ir, bool rotate) {
    c->r.isr &= (uint8_t) ~(1u << ir);
    if (rotate)
        c->r.lowest = (uint8_t)ir;
}

/* INTA: freezes the winner. Returns its IR level; 7 with nothing in service when there is none. */
static unsigned acknowledge(struct chip *c) {
    struct chip_regs *r = &c->r;
    int ir = requested(c);

    if (ir < 0)
        return 7;
    if (!(level_mask(r) & 1u << ir))
        r->irr &= (uint8_t) ~(1u << ir);
    if (r->icw4 & ICW4_AEOI)
        end_of_interrupt(c, (unsigned)ir, r->rotate_aeoi);
    else
        r->isr |= (uint8_t)(1u << ir);
    /* INT drops with INTA, so that a further request is a new edge for the master. */
    drive_out(c, false);
    update(c);
    return (unsigned)ir;
}

int pic8259_ack(void *pic) {
    struct pic8259 *p = pic;
    struct chip *master = &p->chip[0], *slave = &p->chip[1];

    mem_io_lock(p->mem);
    bool cascaded = requested(master) == CASCADE && !(master->r.icw1 & ICW1_SNGL);
    /* The slave sees its INTA only after the master froze its own state. */
    unsigned ir = acknowledge(master);
    int vector = (master->r.icw2 & 0xf8) | (int)ir;
    if (cascaded)
        vector = (slave->r.icw2 & 0xf8) | (int)acknowledge(slave);
    mem_io_unlock(p->mem);
    return vector;
}

/* --- command words --- */

static void write_icw1(struct chip *c, uint8_t v) {
    struct chip_regs *r = &c->r;

    r->icw1 = v;
    r->next_icw = 2;
    r->imr = 0;
    r->isr = 0;
    r->lowest = 7;
    r->smm = false;
    r->read_isr = false;
    r->poll = false;
    r->rotate_aeoi = false;
    if (!(v & ICW1_IC4))
        r->icw4 = 0;
    /* The edge sense circuit is reset: an input that stays high asks for nothing. */
    r->irr = r->lines & level_mask(r);
}

static void write_icw(struct chip *c, uint8_t v) {
    struct chip_regs *r = &c->r;
    bool wants_icw4 = r->icw1 & ICW1_IC4;

    if (r->next_icw == 2) {
        r->icw2 = v;
        r->next_icw = !(r->icw1 & ICW1_SNGL) ? 3 : wants_icw4 ? 4 : 0;
    } else if (r->next_icw == 3) {
        r->icw3 = v;
        r->next_icw = wants_icw4 ? 4 : 0;
    } else {
        r->icw4 = v;
        r->next_icw = 0;
    }
}

static void write_ocw2(struct chip *c, uint8_t v) {
    struct chip_regs *r = &c->r;
    bool rotate = v & OCW2_R;
    unsigned ir = v & OCW2_LEVEL;

    if (v & OCW2_EOI && !(v & OCW2_SL)) {
        /* In special mask mode a non-specific EOI doesn't reach a masked level. */
        unsigned p = highest(r, r->smm ? r->isr & (uint8_t)~r->imr : r->isr);
        if (p < 8)
            end_of_interrupt(c, level_at(r, p), rotate);
    } else if (v & OCW2_EOI) {
        end_of_interrupt(c, ir, rotate);
    } else if (!(v & OCW2_SL)) {
        r->rotate_aeoi = rotate;
    } else if (rotate) {
        r->lowest = (uint8_t)ir;
    }
}

static void write_ocw3(struct chip *c, uint8_t v) {
    struct chip_regs *r = &c->r;

    if (v & OCW3_P)
        r->poll = true;
    else if (v & OCW3_RR)
        r->read_isr = v & OCW3_RIS;
    if (v & OCW3_ESMM)
        r->smm = v & OCW3_SMM;
}

static void chip_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct chip *c = dev;
    uint8_t v = (uint8_t)value;

    (void)size;
    if (off == 0 && (v & ICW1_INIT))
        write_icw1(c, v);
    else if (off == 0 && (v & OCW3_OCW3))
        write_ocw3(c, v);
    else if (off == 0)
        write_ocw2(c, v);
    else if (c->r.next_icw)
        write_icw(c, v);
    else
        c->r.imr = v;
    update(c);
}

/* The read after a poll command is an acknowledge without a vector. */
static uint8_t read_poll(struct chip *c) {
    c->r.poll = false;
    if (requested(c) < 0)
        return 0;
    return (uint8_t)(0x80 | acknowledge(c));
}

static uint64_t chip_read(void *dev, uint64_t off, unsigned size) {
    struct chip *c = dev;

    (void)size;
    if (c->r.poll)
        return read_poll(c);
    if (off == 1)
        return c->r.imr;
    return c->r.read_isr ? c->r.isr : c->r.irr;
}

static const struct io_ops chip_io = {
    .read = chip_read,
    .write = chip_write,
    .min_size = 1,
    .max_size = 1,
};

static uint64_t elcr_read(void *dev, uint64_t off, unsigned size) {
    const struct chip *c = dev;

    (void)off;
    (void)size;
    return c->r.elcr;
}

static void elcr_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct chip *c = dev;

    (void)off;
    (void)size;
    c->r.elcr = (uint8_t)value & (c->slave ? ELCR_SLAVE : ELCR_MASTER);
    c->r.irr |= c->r.lines & c->r.elcr;
    update(c);
}

static const struct io_ops elcr_io = {
    .read = elcr_read,
    .write = elcr_write,
    .min_size = 1,
    .max_size = 1,
};

/* --- device --- */

void pic8259_set_irq(void *pic, unsigned irq, bool level) {
    struct pic8259 *p = pic;

    if (irq < 16 && irq != CASCADE)
        set_line(&p->chip[irq >> 3], irq & 7, level);
}

/* Power-up leaves the chips undefined; all masked is what a guest that never programs them wants.
 */
static void reset_chip(struct chip *c) {
    uint8_t lines = c->slave ? c->r.lines : c->r.lines & (uint8_t) ~(1u << CASCADE);

    c->r = (struct chip_regs){.imr = 0xff, .lowest = 7, .lines = lines};
    c->r.icw3 = c->slave ? CASCADE : 1u << CASCADE;
}

static void pic8259_reset(struct device *d) {
    struct pic8259 *p = (struct pic8259 *)d;

    for (int i = 1; i >= 0; i--) {
        reset_chip(&p->chip[i]);
        update(&p->chip[i]);
    }
}

static void pic8259_save(const struct device *d, struct record_writer *w) {
    const struct pic8259 *p = (const struct pic8259 *)d;

    for (int i = 0; i < 2; i++) {
        const struct chip_regs *r = &p->chip[i].r;
        const uint8_t fields[] = {r->irr,  r->imr,  r->isr,      r->lines,       r->elcr,
                                  r->icw1, r->icw2, r->icw3,     r->icw4,        r->next_icw,
                                  r->smm,  r->poll, r->read_isr, r->rotate_aeoi, r->lowest};
        rec_put_bytes(w, fields, sizeof(fields));
    }
}

static void get_chip(struct chip_regs *r, struct record_reader *rr) {
    r->irr = rec_get_u8(rr);
    r->imr = rec_get_u8(rr);
    r->isr = rec_get_u8(rr);
    r->lines = rec_get_u8(rr);
    r->elcr = rec_get_u8(rr);
    r->icw1 = rec_get_u8(rr);
    r->icw2 = rec_get_u8(rr);
    r->icw3 = rec_get_u8(rr);
    r->icw4 = rec_get_u8(rr);
    r->next_icw = rec_get_u8(rr);
    r->smm = rec_get_u8(rr);
    r->poll = rec_get_u8(rr);
    r->read_isr = rec_get_u8(rr);
    r->rotate_aeoi = rec_get_u8(rr);
    r->lowest = rec_get_u8(rr);
}

static int pic8259_check(const struct device *d, struct record_reader *rr, struct err *e) {
    (void)d;
    for (int i = 0; i < 2; i++) {
        struct chip_regs r;
        get_chip(&r, rr);
        if (r.lowest > 7 || r.next_icw > 4 || r.next_icw == 1)
            return err_set(e, 0, "pic8259: chip %d: impossible state", i);
        if (r.elcr & ~(i ? ELCR_SLAVE : ELCR_MASTER))
            return err_set(e, 0, "pic8259: chip %d: ELCR 0x%02x", i, r.elcr);
    }
    return rec_done(rr, e);
}

static void pic8259_load(struct device *d, struct record_reader *rr) {
    struct pic8259 *p = (struct pic8259 *)d;

    get_chip(&p->chip[0].r, rr);
    get_chip(&p->chip[1].r, rr);
    /* INT follows from the registers; the slave's is the master's IR2 input, which was saved. */
    p->chip[1].out = p->chip[0].r.lines & 1u << CASCADE;
    update(&p->chip[1]);
    update(&p->chip[0]);
    irq_set(&p->intr, p->chip[0].out);
}

static void pic8259_destroy(struct device *d) {
    struct pic8259 *p = (struct pic8259 *)d;

    for (unsigned i = 0; i < ARRAY_LEN(p->region); i++)
        if (p->region[i])
            mem_del_region(p->mem, p->region[i]);
    free(p);
}

static const struct device_ops pic8259_ops = {
    .name = "pic8259",
    .version = 1,
    .reset = pic8259_reset,
    .save = pic8259_save,
    .check = pic8259_check,
    .load = pic8259_load,
    .destroy = pic8259_destroy,
};

static int add_ports(struct pic8259 *p, struct mem *m, struct err *e) {
    static const uint16_t base[2] = {0x20, 0xa0};
    static const char *const name[2] = {"pic8259 master", "pic8259 slave"};

    for (unsigned i = 0; i < 2; i++) {
        struct chip *c = &p->chip[i];
        p->region[i] = mem_add_port(m, base[i], 2, name[i], &chip_io, c, e);
        if (!p->region[i])
            return -1;
        p->region[2 + i] = mem_add_port(m, (uint16_t)(0x4d0 + i), 1, "elcr", &elcr_io, c, e);
        if (!p->region[2 + i])
            return -1;
    }
    return 0;
}

struct pic8259 *pic8259_new(struct mem *m, struct irq_line intr, struct err *e) {
    struct pic8259 *p = xcalloc(1, sizeof(*p));

    p->dev.ops = &pic8259_ops;
    p->mem = m;
    p->intr = intr;
    for (int i = 0; i < 2; i++) {
        p->chip[i].pair = p;
        p->chip[i].slave = i;
    }
    if (add_ports(p, m, e) < 0) {
        pic8259_destroy(&p->dev);
        return NULL;
    }
    pic8259_reset(&p->dev);
    return p;
}
