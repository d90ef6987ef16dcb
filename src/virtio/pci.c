/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio over PCI (virtio 1.2, section 4.1), with the legacy interface (4.1.4.10 and others) for
 * drivers that know no other.
 *
 * The registers are reached without the I/O lock, so that a notification costs no more than ringing
 * a bell; everything else takes it here. After a reset the driver goes on when no buffer is in
 * flight any more: it waits without the lock.
 */
#include "virtio/pci.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/notifier.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pci.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

enum { VENDOR = 0x1af4, MODERN_BASE = 0x1040 };
enum { BAR_LEGACY = 0, BAR_MSIX = 1, BAR_MODERN = 4 };

/* The modern BAR: a page each. */
enum { COMMON = 0x0000, ISR = 0x1000, CONFIG = 0x2000, NOTIFY = 0x3000, MODERN_SIZE = 0x4000 };
enum { NOTIFY_STEP = 4, PAGE = 0x1000 };

/* Vendor capabilities (4.1.4). */
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };
enum { CAP_LEN = 2, CAP_TYPE = 3, CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_EXTRA = 16 };

/* Common configuration (4.1.4.3). */
enum {
    DEVICE_FEATURE_SELECT = 0,
    DEVICE_FEATURE = 4,
    DRIVER_FEATURE_SELECT = 8,
    DRIVER_FEATURE = 12,
    CONFIG_VECTOR = 16,
    NUM_QUEUES = 18,
    STATUS = 20,
    GENERATION = 21,
    QUEUE_SELECT = 22,
    QUEUE_SIZE = 24,
    QUEUE_VECTOR = 26,
    QUEUE_ENABLE = 28,
    QUEUE_NOTIFY_OFF = 30,
    QUEUE_DESC = 32,
    QUEUE_DRIVER = 40,
    QUEUE_DEVICE = 48,
    COMMON_BYTES = 56,
};

/* Legacy registers (4.1.4.10). */
enum {
    LEGACY_DEVICE_FEATURES = 0,
    LEGACY_DRIVER_FEATURES = 4,
    LEGACY_QUEUE_PFN = 8,
    LEGACY_QUEUE_SIZE = 12,
    LEGACY_QUEUE_SELECT = 14,
    LEGACY_QUEUE_NOTIFY = 16,
    LEGACY_STATUS = 18,
    LEGACY_ISR = 19,
    LEGACY_CONFIG_VECTOR = 20,
    LEGACY_QUEUE_VECTOR = 22,
    LEGACY_VECTORS_END = 24,
    LEGACY_ALIGN = 4096,
};

enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };
#define NO_VECTOR 0xffff

struct virtio_pci {
    struct device dev;
    struct mem *mem;
    struct pci_bus *bus;
    struct pci_function f;
    struct virtio_device *d;
    struct notifier *pin;
    unsigned pci_cap; /* the one through which configuration space reaches BARs */

    /* Written under the I/O lock. */
    uint32_t device_select, driver_select;
    uint64_t driver_features;
    uint16_t queue_select;
    /* Read by whoever interrupts. */
    _Atomic uint8_t isr;
    _Atomic uint16_t config_vector, queue_vector[VIRTIO_QUEUES_MAX];
};

static struct virtio_pci *of_function(struct pci_function *f) {
    return container_of(f, struct virtio_pci, f);
}

/* --- interrupts --- */

/* The pin is the I/O lock's, which whoever interrupts must not take: the main loop moves it. */
static void move_pin(void *arg) {
    struct virtio_pci *p = arg;

    mem_io_lock(p->mem);
    pci_set_intx(&p->f, atomic_load(&p->isr) != 0);
    mem_io_unlock(p->mem);
}

static void interrupt(struct virtio_pci *p, uint16_t vector, uint8_t isr) {
    if (pci_msix_enabled(&p->f)) {
        pci_msix_raise(&p->f, vector);
        return;
    }
    atomic_fetch_or(&p->isr, isr);
    notifier_ring(p->pin);
}

static void queue_interrupt(void *arg, const struct virtq *q) {
    struct virtio_pci *p = arg;

    interrupt(p, atomic_load(&p->queue_vector[q->index]), ISR_QUEUE);
}

static void config_changed(void *arg) {
    struct virtio_pci *p = arg;

    interrupt(p, atomic_load(&p->config_vector), ISR_CONFIG | ISR_QUEUE);
}

static const struct virtio_transport transport = {queue_interrupt, config_changed};

static uint8_t read_isr(struct virtio_pci *p) {
    uint8_t isr = atomic_exchange(&p->isr, 0);

    move_pin(p);
    return isr;
}

/* --- what both interfaces share; I/O lock held --- */

static struct virtq *selected(const struct virtio_pci *p) {
    return p->queue_select < p->d->queue_count ? &p->d->queues[p->queue_select] : NULL;
}

static uint16_t checked_vector(const struct virtio_pci *p, uint32_t v) {
    return (uint16_t)(v < p->f.msix.vectors ? v : NO_VECTOR);
}

static void forget(struct virtio_pci *p) {
    p->device_select = p->driver_select = 0;
    p->driver_features = 0;
    p->queue_select = 0;
    atomic_store(&p->isr, 0);
    atomic_store(&p->config_vector, NO_VECTOR);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        atomic_store(&p->queue_vector[i], NO_VECTOR);
    pci_set_intx(&p->f, false);
}

static void set_status(struct virtio_pci *p, uint8_t status, bool legacy) {
    virtio_set_status(p->d, status, legacy);
    if (!status)
        forget(p);
}

/* --- common configuration --- */

static uint32_t read_queue(const struct virtio_pci *p, unsigned lane) {
    const struct virtq *q = selected(p);

    switch (lane) {
    case QUEUE_SIZE:
        return !q ? 0 : q->size | (uint32_t)atomic_load(&p->queue_vector[q->index]) << 16;
    case QUEUE_ENABLE:
        return !q ? 0 : q->enabled | q->index << 16;
    case QUEUE_DESC:
        return !q ? 0 : (uint32_t)q->desc;
    case QUEUE_DESC + 4:
        return !q ? 0 : (uint32_t)(q->desc >> 32);
    case QUEUE_DRIVER:
        return !q ? 0 : (uint32_t)q->driver;
    case QUEUE_DRIVER + 4:
        return !q ? 0 : (uint32_t)(q->driver >> 32);
    case QUEUE_DEVICE:
        return !q ? 0 : (uint32_t)q->device;
    case QUEUE_DEVICE + 4:
        return !q ? 0 : (uint32_t)(q->device >> 32);
    default:
        return UINT32_MAX;
    }
}

static uint32_t half(uint64_t v, uint32_t select) {
    return select > 1 ? 0 : (uint32_t)(v >> 32 * select);
}

/* The 32 bits that an access of any size lies in. */
static uint32_t read_common(const struct virtio_pci *p, unsigned lane) {
    const struct virtio_device *d = p->d;

    switch (lane) {
    case DEVICE_FEATURE_SELECT:
        return p->device_select;
    case DEVICE_FEATURE:
        return half(virtio_offered(d), p->device_select);
    case DRIVER_FEATURE_SELECT:
        return p->driver_select;
    case DRIVER_FEATURE:
        return half(p->driver_features, p->driver_select);
    case CONFIG_VECTOR:
        return atomic_load(&p->config_vector) | d->queue_count << 16;
    case STATUS:
        return virtio_status(d) | (uint32_t)atomic_load(&d->config_generation) << 8 |
               (uint32_t)p->queue_select << 16;
    default:
        return read_queue(p, lane);
    }
}

static void write_features(struct virtio_pci *p, uint32_t value) {
    unsigned shift = 32 * p->driver_select;

    if (p->driver_select > 1)
        return;
    p->driver_features = (p->driver_features & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value
                                                                                       << shift;
    virtio_accept(p->d, p->driver_features);
}

static uint64_t with_half(uint64_t old, bool high, uint32_t value) {
    return high ? (old & UINT32_MAX) | (uint64_t)value << 32
                : (old & ~(uint64_t)UINT32_MAX) | value;
}

static void write_address(struct virtq *q, unsigned off, uint32_t value) {
    uint64_t desc = q->desc, driver = q->driver, device = q->device;
    bool high = off & 4;

    if (off < QUEUE_DRIVER)
        desc = with_half(desc, high, value);
    else if (off < QUEUE_DEVICE)
        driver = with_half(driver, high, value);
    else
        device = with_half(device, high, value);
    virtio_queue_setup(q, q->size, desc, driver, device);
}

static void write_queue(struct virtio_pci *p, unsigned off, unsigned size, uint32_t value) {
    struct virtq *q = selected(p);

    if (!q)
        return;
    if (off == QUEUE_SIZE && size == 2)
        virtio_queue_setup(q, (uint16_t)value, q->desc, q->driver, q->device);
    else if (off == QUEUE_VECTOR && size == 2)
        atomic_store(&p->queue_vector[q->index], checked_vector(p, value));
    else if (off == QUEUE_ENABLE && size == 2 && value == 1)
        virtio_queue_enable(q);
    else if (off >= QUEUE_DESC && size == 4)
        write_address(q, off, value);
}

static void write_common(struct virtio_pci *p, unsigned off, unsigned size, uint32_t value) {
    if (off == DEVICE_FEATURE_SELECT && size == 4)
        p->device_select = value;
    else if (off == DRIVER_FEATURE_SELECT && size == 4)
        p->driver_select = value;
    else if (off == DRIVER_FEATURE && size == 4)
        write_features(p, value);
    else if (off == CONFIG_VECTOR && size == 2)
        atomic_store(&p->config_vector, checked_vector(p, value));
    else if (off == STATUS && size == 1)
        set_status(p, (uint8_t)value, false);
    else if (off == QUEUE_SELECT && size == 2)
        p->queue_select = (uint16_t)value;
    else if (off >= QUEUE_SIZE && off < COMMON_BYTES)
        write_queue(p, off, size, value);
}

/* --- the modern BAR; no lock held --- */

static uint64_t modern_locked_read(struct virtio_pci *p, unsigned off, unsigned size) {
    if (off < COMMON_BYTES)
        return read_common(p, off & ~3u) >> 8 * (off & 3);
    if (off >= CONFIG && off < CONFIG + PAGE)
        return virtio_config_read(p->d, off - CONFIG, size);
    return UINT64_MAX;
}

static uint64_t modern_read(void *dev, uint64_t off, unsigned size) {
    struct virtio_pci *p = dev;

    if (off == ISR)
        return read_isr(p);
    mem_io_lock(p->mem);
    uint64_t v = modern_locked_read(p, (unsigned)off, size);
    mem_io_unlock(p->mem);
    return v;
}

static void modern_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct virtio_pci *p = dev;

    if (off >= NOTIFY) {
        virtio_notify(p->d, (unsigned)(off - NOTIFY) / NOTIFY_STEP);
        return;
    }
    mem_io_lock(p->mem);
    if (off < COMMON_BYTES)
        write_common(p, (unsigned)off, size, (uint32_t)value);
    else if (off >= CONFIG)
        virtio_config_write(p->d, (unsigned)off - CONFIG, size, (uint32_t)value);
    mem_io_unlock(p->mem);
    if (off == STATUS && !value)
        virtio_drain(p->d);
}

static const struct io_ops modern_io = {
    .read = modern_read,
    .write = modern_write,
    .min_size = 1,
    .max_size = 4,
    .unlocked = true,
};

/* --- the legacy BAR --- */

/* The device's configuration follows the vectors, which are there while MSI-X is enabled. */
static unsigned legacy_config(struct virtio_pci *p) {
    return pci_msix_enabled(&p->f) ? LEGACY_VECTORS_END : LEGACY_CONFIG_VECTOR;
}

static uint32_t legacy_locked_read(struct virtio_pci *p, unsigned off, unsigned size) {
    const struct virtq *q = selected(p);

    if (off >= legacy_config(p))
        return virtio_config_read(p->d, off - legacy_config(p), size);
    switch (off) {
    case LEGACY_DEVICE_FEATURES:
        return (uint32_t)virtio_offered(p->d);
    case LEGACY_DRIVER_FEATURES:
        return (uint32_t)p->driver_features;
    case LEGACY_QUEUE_PFN:
        return q && q->enabled ? (uint32_t)(q->desc / LEGACY_ALIGN) : 0;
    case LEGACY_QUEUE_SIZE:
        return q ? q->max_size : 0;
    case LEGACY_QUEUE_SELECT:
        return p->queue_select;
    case LEGACY_STATUS:
        return virtio_status(p->d);
    case LEGACY_CONFIG_VECTOR:
        return atomic_load(&p->config_vector);
    case LEGACY_QUEUE_VECTOR:
        return q ? atomic_load(&p->queue_vector[q->index]) : NO_VECTOR;
    default:
        return UINT32_MAX;
    }
}

static uint64_t legacy_read(void *dev, uint64_t off, unsigned size) {
    struct virtio_pci *p = dev;

    if (off == LEGACY_ISR)
        return read_isr(p);
    mem_io_lock(p->mem);
    uint32_t v = legacy_locked_read(p, (unsigned)off, size);
    mem_io_unlock(p->mem);
    return v;
}

/* One run of memory, the used ring at the next page (2.7.2). */
static void legacy_queue(struct virtq *q, uint32_t pfn) {
    uint64_t desc = (uint64_t)pfn * LEGACY_ALIGN, driver = desc + 16ull * q->max_size;
    uint64_t device = align_up(driver + 6 + 2ull * q->max_size, LEGACY_ALIGN);

    if (!pfn) {
        virtio_queue_disable(q);
        return;
    }
    virtio_queue_setup(q, q->max_size, desc, driver, device);
    virtio_queue_enable(q);
}

static void legacy_locked_write(struct virtio_pci *p, unsigned off, unsigned size, uint32_t value) {
    struct virtq *q = selected(p);

    if (off >= legacy_config(p)) {
        virtio_config_write(p->d, off - legacy_config(p), size, value);
    } else if (off == LEGACY_DRIVER_FEATURES && size == 4) {
        p->driver_features = value;
        virtio_accept(p->d, value);
    } else if (off == LEGACY_QUEUE_PFN && size == 4 && q) {
        legacy_queue(q, value);
    } else if (off == LEGACY_QUEUE_SELECT && size == 2) {
        p->queue_select = (uint16_t)value;
    } else if (off == LEGACY_STATUS && size == 1) {
        set_status(p, (uint8_t)value, true);
    } else if (off == LEGACY_CONFIG_VECTOR && size == 2) {
        atomic_store(&p->config_vector, checked_vector(p, value));
    } else if (off == LEGACY_QUEUE_VECTOR && size == 2 && q) {
        atomic_store(&p->queue_vector[q->index], checked_vector(p, value));
    }
}

static void legacy_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct virtio_pci *p = dev;

    if (off == LEGACY_QUEUE_NOTIFY) {
        virtio_notify(p->d, (uint16_t)value);
        return;
    }
    mem_io_lock(p->mem);
    legacy_locked_write(p, (unsigned)off, size, (uint32_t)value);
    mem_io_unlock(p->mem);
    if ((off == LEGACY_STATUS || off == LEGACY_QUEUE_PFN) && !value)
        virtio_drain(p->d);
}

static const struct io_ops legacy_io = {
    .read = legacy_read,
    .write = legacy_write,
    .min_size = 1,
    .max_size = 4,
    .unlocked = true,
};

/* --- configuration space: one capability is a window on the modern BAR (4.1.4.9) --- */

static bool window(const struct virtio_pci *p, unsigned *off, unsigned *size) {
    const struct pci_function *f = &p->f;

    *off = pci_config_read(f, p->pci_cap + CAP_OFFSET, 4);
    *size = pci_config_read(f, p->pci_cap + CAP_LENGTH, 4);
    return f->config[p->pci_cap + CAP_BAR] == BAR_MODERN &&
           (*size == 1 || *size == 2 || *size == 4) && !(*off & (*size - 1)) && *off < MODERN_SIZE;
}

static bool in_window(const struct virtio_pci *p, unsigned off) {
    return off >= p->pci_cap + CAP_EXTRA && off < p->pci_cap + CAP_EXTRA + 4;
}

static uint32_t config_read(struct pci_function *f, unsigned off, unsigned size) {
    struct virtio_pci *p = of_function(f);
    unsigned at, bytes;

    if (in_window(p, off) && window(p, &at, &bytes))
        pci_config_set(f, p->pci_cap + CAP_EXTRA, 4, (uint32_t)modern_read(p, at, bytes));
    return pci_config_read(f, off, size);
}

/* A reset by this way waits with the I/O lock held, which nobody needs to finish what is in flight.
 */
static void config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t value) {
    struct virtio_pci *p = of_function(f);
    unsigned at, bytes;

    pci_config_write(f, off, size, value);
    if (in_window(p, off) && window(p, &at, &bytes))
        modern_write(p, at, bytes, pci_config_read(f, p->pci_cap + CAP_EXTRA, 4));
}

static unsigned add_cap(struct virtio_pci *p, uint8_t type, uint32_t off, uint32_t len,
                        unsigned bytes) {
    unsigned at = pci_add_cap(&p->f, PCI_CAP_VENDOR, bytes);

    pci_config_set(&p->f, at + CAP_LEN, 1, bytes);
    pci_config_set(&p->f, at + CAP_TYPE, 1, type);
    pci_config_set(&p->f, at + CAP_BAR, 1, BAR_MODERN);
    pci_config_set(&p->f, at + CAP_OFFSET, 4, off);
    pci_config_set(&p->f, at + CAP_LENGTH, 4, len);
    return at;
}

static void add_caps(struct virtio_pci *p) {
    unsigned queues = p->d->queue_count;

    add_cap(p, CAP_COMMON, COMMON, COMMON_BYTES, 16);
    add_cap(p, CAP_ISR, ISR, 1, 16);
    if (p->d->config_len)
        add_cap(p, CAP_DEVICE, CONFIG, p->d->config_len, 16);
    unsigned notify = add_cap(p, CAP_NOTIFY, NOTIFY, queues * NOTIFY_STEP, 20);
    pci_config_set(&p->f, notify + CAP_EXTRA, 4, NOTIFY_STEP);
    p->pci_cap = add_cap(p, CAP_PCI, 0, 0, 20);
    p->f.writable[p->pci_cap + CAP_BAR] = 0xff;
    for (unsigned i = CAP_OFFSET; i < CAP_EXTRA + 4; i++)
        p->f.writable[p->pci_cap + i] = 0xff;
}

/* --- device --- */

static void virtio_pci_reset(struct device *dev) {
    struct virtio_pci *p = (struct virtio_pci *)dev;

    virtio_set_status(p->d, 0, false);
    forget(p);
    pci_function_reset(&p->f);
    virtio_drain(p->d);
}

void virtio_pci_pull(struct virtio_pci *p) {
    virtio_set_status(p->d, 0, false);
    forget(p);
    pci_function_reset(&p->f);
    pci_remove(p->bus, p->f.devfn);
}

static void virtio_pci_save(const struct device *dev, struct record_writer *w) {
    const struct virtio_pci *p = (const struct virtio_pci *)dev;

    pci_function_save(&p->f, w);
    rec_put_u32(w, p->device_select);
    rec_put_u32(w, p->driver_select);
    rec_put_u64(w, p->driver_features);
    rec_put_u16(w, p->queue_select);
    rec_put_u8(w, atomic_load(&p->isr));
    rec_put_u16(w, atomic_load(&p->config_vector));
    for (unsigned i = 0; i < p->d->queue_count; i++)
        rec_put_u16(w, atomic_load(&p->queue_vector[i]));
    virtio_save(p->d, w);
}

static bool vector_ok(const struct virtio_pci *p, uint16_t v) {
    return v < p->f.msix.vectors || v == NO_VECTOR;
}

static int virtio_pci_check(const struct device *dev, struct record_reader *r, struct err *e) {
    const struct virtio_pci *p = (const struct virtio_pci *)dev;

    if (pci_function_check(&p->f, r, e) < 0)
        return -1;
    rec_get_u32(r);
    rec_get_u32(r);
    rec_get_u64(r);
    rec_get_u16(r);
    uint8_t isr = rec_get_u8(r);
    bool ok = vector_ok(p, rec_get_u16(r)) && !(isr & ~(ISR_QUEUE | ISR_CONFIG));
    for (unsigned i = 0; i < p->d->queue_count; i++)
        ok &= vector_ok(p, rec_get_u16(r));
    if (!ok)
        return err_set(e, 0, "%s: impossible interrupt vectors or status", p->d->ops->name);
    if (virtio_check(p->d, r, e) < 0)
        return -1;
    return rec_done(r, e);
}

static void virtio_pci_load(struct device *dev, struct record_reader *r) {
    struct virtio_pci *p = (struct virtio_pci *)dev;

    pci_function_load(&p->f, r);
    p->device_select = rec_get_u32(r);
    p->driver_select = rec_get_u32(r);
    p->driver_features = rec_get_u64(r);
    p->queue_select = rec_get_u16(r);
    atomic_store(&p->isr, rec_get_u8(r));
    atomic_store(&p->config_vector, rec_get_u16(r));
    for (unsigned i = 0; i < p->d->queue_count; i++)
        atomic_store(&p->queue_vector[i], rec_get_u16(r));
    virtio_load(p->d, r);
}

static void virtio_pci_destroy(struct device *dev) {
    struct virtio_pci *p = (struct virtio_pci *)dev;

    if (p->f.bus)
        pci_remove(p->bus, p->f.devfn);
    p->d->ops->destroy(p->d);
    notifier_free(p->pin);
    pci_fini(&p->f);
    free(p);
}

static const struct device_ops virtio_pci_ops = {
    .name = "virtio-pci",
    .version = 1,
    .reset = virtio_pci_reset,
    .save = virtio_pci_save,
    .check = virtio_pci_check,
    .load = virtio_pci_load,
    .destroy = virtio_pci_destroy,
};

/* --- making one --- */

/* Device types of before virtio 1.0 have their own PCI device numbers (4.1.2.1). */
static uint16_t transitional_id(uint16_t id) {
    static const struct {
        uint16_t id, pci;
    } map[] = {
        {VIRTIO_ID_NET, 0x1000},     {VIRTIO_ID_BLOCK, 0x1001}, {VIRTIO_ID_BALLOON, 0x1002},
        {VIRTIO_ID_CONSOLE, 0x1003}, {VIRTIO_ID_SCSI, 0x1004},  {VIRTIO_ID_ENTROPY, 0x1005},
        {VIRTIO_ID_9P, 0x1009},
    };

    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (map[i].id == id)
            return map[i].pci;
    return 0;
}

static void add_legacy_bar(struct virtio_pci *p) {
    struct pci_bar bar = {
        .kind = PCI_BAR_IO,
        .size = 32,
        .name = p->d->ops->name,
        .ops = &legacy_io,
        .dev = p,
    };

    while (bar.size < LEGACY_VECTORS_END + p->d->config_len)
        bar.size *= 2;
    pci_set_bar(&p->f, BAR_LEGACY, &bar);
}

static void describe(struct virtio_pci *p, bool transitional) {
    uint16_t id = p->d->ops->id, old = transitional ? transitional_id(id) : 0;
    const struct pci_id identity = {
        .vendor = VENDOR,
        .device = old ? old : (uint16_t)(MODERN_BASE + id),
        .subsystem_vendor = VENDOR,
        .subsystem = old ? id : MODERN_BASE,
        .class_code = p->d->ops->pci_class,
        .revision = old ? 0 : 1,
        .pin = 1,
    };
    const struct pci_bar modern = {
        .kind = PCI_BAR_MEM64,
        .prefetchable = true,
        .size = MODERN_SIZE,
        .name = p->d->ops->name,
        .ops = &modern_io,
        .dev = p,
    };

    pci_init(&p->f, &identity);
    p->f.read = config_read;
    p->f.write = config_write;
    if (old)
        add_legacy_bar(p);
    pci_add_msix(&p->f, p->d->queue_count + 1, BAR_MSIX);
    pci_set_bar(&p->f, BAR_MODERN, &modern);
    add_caps(p);
}

struct virtio_pci *virtio_pci_new(struct mem *m, struct pci_bus *bus, struct virtio_device *d,
                                  const struct virtio_pci_config *config, struct err *e) {
    struct virtio_pci *p = xcalloc(1, sizeof(*p));

    p->dev.ops = &virtio_pci_ops;
    p->mem = m;
    p->bus = bus;
    p->d = d;
    describe(p, config->transitional);
    virtio_attach(d, &transport, p);
    forget(p);
    p->pin = notifier_new(config->loop, move_pin, p, e);
    if (p->pin && pci_add(bus, config->devfn, &p->f) == 0)
        return p;
    if (p->pin)
        err_set(e, 0, "%s: PCI slot %02x.%x is taken", d->ops->name, config->devfn >> 3,
                config->devfn & 7u);
    virtio_pci_destroy(&p->dev);
    return NULL;
}
