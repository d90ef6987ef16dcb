/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog timer of the 6300ESB I/O controller hub (Intel 300641-004, chapter 16): two stages,
 * each with a preload value; the end of the first interrupts, that of the second resets.
 *
 * Left out: the SMI, and free-running mode's toggling of a pin.
 */
#include "dev/i6300esb.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pci.h"
#include "mem/mem.h"

/* Configuration space. */
enum { WDT_CONFIG = 0x60, WDT_LOCK = 0x68 };
enum {
    CONFIG_INT_TYPE = 0x03, /* 0: the pin; 2: SMI; 3: none */
    CONFIG_1MHZ = 0x04,
    CONFIG_NO_OUTPUT = 0x20,
    CONFIG_BITS = CONFIG_INT_TYPE | CONFIG_1MHZ | CONFIG_NO_OUTPUT,
};
enum { LOCK_LOCKED = 1, LOCK_ENABLE = 2, LOCK_FREE_RUN = 4 };

/* Memory BAR. */
enum { PRELOAD_1 = 0x0, PRELOAD_2 = 0x4, INTERRUPT_STATUS = 0x8, RELOAD = 0xc, BAR_SIZE = 0x10 };
enum { RELOAD_RELOAD = 0x100, RELOAD_TIMEOUT = 0x200 };
#define PRELOAD_BITS 0xfffffu
/* Two magic writes to RELOAD let the next write through. */
enum { UNLOCK_1 = 0x80, UNLOCK_2 = 0x86 };

/* The timer counts the PCI clock, divided by 2^15 or 2^5. */
#define PCI_HZ 33000000u
/* No stage is shorter, so that no guest keeps the loop busy with them. */
#define STAGE_MIN_NS 100000u

struct i6300esb {
    struct device dev;
    struct mem *mem;
    struct pci_bus *bus;
    struct pci_function f;
    struct timer *timer;
    struct clock *clock;
    void (*expired)(void *arg);
    void *arg;

    uint32_t preload[2];
    uint8_t unlocked; /* magic writes seen */
    bool interrupted, timed_out;
    uint8_t stage;   /* 0: not running; 1 or 2 */
    uint64_t due_ns; /* guest time at which the stage ends */
};

static struct i6300esb *of_function(struct pci_function *f) {
    return container_of(f, struct i6300esb, f);
}

static uint32_t config(const struct i6300esb *w) {
    return pci_config_read(&w->f, WDT_CONFIG, 2);
}

static uint32_t lock(const struct i6300esb *w) {
    return pci_config_read(&w->f, WDT_LOCK, 1);
}

/* --- the timer --- */

static void stop(struct i6300esb *w) {
    w->stage = 0;
    timer_disarm(w->timer);
}

static void start_stage(struct i6300esb *w, uint8_t stage) {
    unsigned shift = config(w) & CONFIG_1MHZ ? 5 : 15;
    uint64_t clocks = (uint64_t)w->preload[stage - 1] << shift;

    w->stage = stage;
    w->due_ns = clock_now(w->clock) + MAX(clocks * NS_PER_S / PCI_HZ, (uint64_t)STAGE_MIN_NS);
    timer_arm(w->timer, w->due_ns);
}

static void first_stage_ends(struct i6300esb *w) {
    if (!(config(w) & CONFIG_INT_TYPE)) {
        w->interrupted = true;
        pci_set_intx(&w->f, true);
    }
    start_stage(w, 2);
}

static void second_stage_ends(struct i6300esb *w) {
    bool output = !(config(w) & CONFIG_NO_OUTPUT);

    stop(w);
    if (output) {
        w->timed_out = true;
        w->expired(w->arg);
    }
    if (lock(w) & LOCK_FREE_RUN)
        start_stage(w, 1);
}

static void on_timer(void *arg) {
    struct i6300esb *w = arg;

    mem_io_lock(w->mem);
    /* It may have been reloaded while this waited for the lock. */
    if (w->stage && clock_now(w->clock) >= w->due_ns) {
        if (w->stage == 1)
            first_stage_ends(w);
        else
            second_stage_ends(w);
    }
    mem_io_unlock(w->mem);
}

/* --- configuration space --- */

static void write_lock(struct i6300esb *w, uint32_t value) {
    uint32_t old = lock(w);

    if (old & LOCK_LOCKED)
        return;
    pci_config_set(&w->f, WDT_LOCK, 1, value & (LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUN));
    if (!(value & LOCK_ENABLE))
        stop(w);
    else if (!(old & LOCK_ENABLE))
        start_stage(w, 1);
}

static void config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t value) {
    pci_config_write(f, off, size, value);
    if (off == WDT_LOCK)
        write_lock(of_function(f), value);
}

/* --- registers --- */

static uint64_t esb_read(void *dev, uint64_t off, unsigned size) {
    const struct i6300esb *w = dev;

    (void)size;
    switch (off) {
    case PRELOAD_1:
        return w->preload[0];
    case PRELOAD_2:
        return w->preload[1];
    case INTERRUPT_STATUS:
        return w->interrupted;
    case RELOAD:
        return w->timed_out ? RELOAD_TIMEOUT : 0;
    default:
        return 0;
    }
}

static void write_reload(struct i6300esb *w, uint32_t value) {
    if (value & RELOAD_TIMEOUT)
        w->timed_out = false;
    if (value & RELOAD_RELOAD && lock(w) & LOCK_ENABLE)
        start_stage(w, 1);
}

static void write_unlocked(struct i6300esb *w, uint64_t off, uint32_t value) {
    if (off == PRELOAD_1 || off == PRELOAD_2)
        w->preload[off / 4] = value & PRELOAD_BITS;
    else if (off == RELOAD)
        write_reload(w, value);
}

static void esb_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct i6300esb *w = dev;

    (void)size;
    if (off == INTERRUPT_STATUS) {
        if (value & 1)
            w->interrupted = false;
        pci_set_intx(&w->f, w->interrupted);
    } else if (w->unlocked == 2) {
        write_unlocked(w, off, (uint32_t)value);
        w->unlocked = 0;
    } else if (off == RELOAD) {
        w->unlocked = w->unlocked == 0 && value == UNLOCK_1   ? 1
                      : w->unlocked == 1 && value == UNLOCK_2 ? 2
                                                              : 0;
    }
}

static const struct io_ops esb_io = {
    .read = esb_read,
    .write = esb_write,
    .min_size = 2,
    .max_size = 4,
};

/* --- device --- */

static void forget(struct i6300esb *w) {
    stop(w);
    w->preload[0] = w->preload[1] = PRELOAD_BITS;
    w->unlocked = 0;
    w->interrupted = false;
}

/* What it did last outlives the reset that it caused: the driver reports it. */
static void esb_reset(struct device *d) {
    struct i6300esb *w = (struct i6300esb *)d;

    forget(w);
    pci_function_reset(&w->f);
}

static void esb_save(const struct device *d, struct record_writer *r) {
    const struct i6300esb *w = (const struct i6300esb *)d;

    pci_function_save(&w->f, r);
    rec_put_u8(r, (uint8_t)lock(w));
    rec_put_u32(r, w->preload[0]);
    rec_put_u32(r, w->preload[1]);
    rec_put_u8(r, w->unlocked);
    rec_put_u8(r, w->interrupted);
    rec_put_u8(r, w->timed_out);
    rec_put_u8(r, w->stage);
    rec_put_u64(r, w->due_ns);
}

static int esb_check(const struct device *d, struct record_reader *r, struct err *e) {
    const struct i6300esb *w = (const struct i6300esb *)d;

    if (pci_function_check(&w->f, r, e) < 0)
        return -1;
    uint8_t locked = rec_get_u8(r);
    uint32_t one = rec_get_u32(r), two = rec_get_u32(r);
    if (locked & ~(LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUN) || (one | two) & ~PRELOAD_BITS)
        return err_set(e, 0, "i6300esb: lock 0x%x, preload 0x%x, 0x%x", locked, one, two);
    uint8_t unlocked = rec_get_u8(r), interrupted = rec_get_u8(r), timed_out = rec_get_u8(r);
    uint8_t stage = rec_get_u8(r);
    rec_get_u64(r);
    if (unlocked > 2 || interrupted > 1 || timed_out > 1 || stage > 2)
        return err_set(e, 0, "i6300esb: impossible state");
    return rec_done(r, e);
}

static void esb_load(struct device *d, struct record_reader *r) {
    struct i6300esb *w = (struct i6300esb *)d;

    stop(w);
    pci_function_load(&w->f, r);
    pci_config_set(&w->f, WDT_LOCK, 1, rec_get_u8(r));
    w->preload[0] = rec_get_u32(r);
    w->preload[1] = rec_get_u32(r);
    w->unlocked = rec_get_u8(r);
    w->interrupted = rec_get_u8(r);
    w->timed_out = rec_get_u8(r);
    w->stage = rec_get_u8(r);
    w->due_ns = rec_get_u64(r);
    if (w->stage)
        timer_arm(w->timer, w->due_ns);
}

static void esb_destroy(struct device *d) {
    struct i6300esb *w = (struct i6300esb *)d;

    if (w->f.bus)
        pci_remove(w->bus, w->f.devfn);
    pci_fini(&w->f);
    timer_free(w->timer);
    free(w);
}

static const struct device_ops esb_ops = {
    .name = "i6300esb",
    .version = 1,
    .reset = esb_reset,
    .save = esb_save,
    .check = esb_check,
    .load = esb_load,
    .destroy = esb_destroy,
};

struct i6300esb *i6300esb_new(struct mem *m, struct clock *c, struct pci_bus *bus, uint8_t devfn,
                              void (*expired)(void *arg), void *arg, struct err *e) {
    static const struct pci_id id = {
        .vendor = 0x8086,
        .device = 0x25ab,
        .class_code = 0x088000,
        .revision = 2,
        .pin = 1,
    };
    struct i6300esb *w = xcalloc(1, sizeof(*w));
    const struct pci_bar bar = {
        .kind = PCI_BAR_MEM32,
        .size = BAR_SIZE,
        .name = "i6300esb",
        .ops = &esb_io,
        .dev = w,
    };

    w->dev.ops = &esb_ops;
    w->mem = m;
    w->clock = c;
    w->bus = bus;
    w->expired = expired;
    w->arg = arg;
    w->timer = timer_new(c, on_timer, w);
    pci_init(&w->f, &id);
    pci_set_bar(&w->f, 0, &bar);
    w->f.write = config_write;
    w->f.writable[WDT_CONFIG] = CONFIG_BITS;
    forget(w);
    if (pci_add(bus, devfn, &w->f) == 0)
        return w;
    err_set(e, 0, "i6300esb: PCI slot %02x.%x is taken", devfn >> 3, devfn & 7u);
    esb_destroy(&w->dev);
    return NULL;
}
