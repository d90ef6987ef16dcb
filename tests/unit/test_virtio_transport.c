/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio over PCI (modern and legacy) and over MMIO, register by register, with the entropy device.
 */
#include "virtio_driver.h"

#include "dev/device.h"
#include "dev/pci.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"
#include "virtio/rng.h"

enum { DEVFN = PCI_DEVFN(3, 0), LEGACY = 0xc000, GSI = 16 + 3 };
#define MSIX_AT 0xd0000000ull
#define MODERN_AT 0xd0010000ull
#define MMIO_AT 0xd0020000ull
#define RING 0x4000ull
#define BUFFER 0x8000ull

struct fixture {
    struct vdriver *v; /* memory and loop */
    struct pci_bus *bus;
    struct device *chip;
    bool level[24];
    unsigned messages;
    uint32_t data;
    uint16_t used;
};

static void set_line(void *arg, unsigned pin, bool level) {
    struct fixture *f = arg;

    f->level[pin] = level;
}

static void message(void *arg, uint64_t addr, uint32_t data) {
    struct fixture *f = arg;

    (void)addr;
    f->messages++;
    f->data = data;
}

static uint8_t no_reset_read(void *arg) {
    (void)arg;
    return 0;
}

static void no_reset_write(void *arg, uint8_t value) {
    (void)arg;
    (void)value;
}

static struct device *new_pci(struct fixture *f, bool transitional) {
    const struct virtio_pci_config config = {DEVFN, transitional, f->v->loop};
    struct virtio_device *d = virtio_rng_new(f->v->mem, f->v->loop, NULL);

    return (struct device *)virtio_pci_new(f->v->mem, f->bus, d, &config, NULL);
}

static struct fixture *start(void) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    const struct pci_bus_config config = {
        {no_reset_read, no_reset_write, NULL}, {set_line, f, 0}, message, f};

    f->v = vdriver_new();
    f->bus = pci_bus_new(f->v->mem, &config, NULL);
    assert_non_null(f->bus);
    return f;
}

static void end(struct fixture *f) {
    struct device *bus = (struct device *)f->bus;

    f->chip->ops->destroy(f->chip);
    bus->ops->destroy(bus);
    vdriver_free(f->v);
    free(f);
}

static uint32_t rd(struct fixture *f, uint64_t at, unsigned size) {
    return (uint32_t)mem_io_read(f->v->mem, GPA(at), size);
}

static void wr(struct fixture *f, uint64_t at, unsigned size, uint64_t v) {
    mem_io_write(f->v->mem, GPA(at), size, v);
}

static uint64_t config_at(unsigned off) {
    return 0xfeb00000ull + (DEVFN << 12) + off;
}

/* As firmware leaves it. */
static void map(struct fixture *f, bool legacy) {
    if (legacy)
        wr(f, config_at(0x10), 4, LEGACY);
    wr(f, config_at(0x14), 4, MSIX_AT);
    wr(f, config_at(0x20), 4, MODERN_AT);
    wr(f, config_at(PCI_COMMAND), 2, 7);
}

static void enable_msix(struct fixture *f) {
    unsigned cap = rd(f, config_at(PCI_CAPABILITIES), 1);

    assert_int_equal(rd(f, config_at(cap), 1), 0x11);
    for (unsigned i = 0; i < 2; i++) {
        wr(f, MSIX_AT + 16 * i, 4, 0xfee00000);
        wr(f, MSIX_AT + 16 * i + 8, 4, 0x40 + i);
        wr(f, MSIX_AT + 16 * i + 12, 4, 0);
    }
    wr(f, config_at(cap + 2), 2, 0x8000);
}

/* A split ring of 8 entries at RING, in the legacy layout where asked for. */
static void add_buffer(struct fixture *f, uint64_t desc, uint64_t driver, unsigned size) {
    uint16_t idx = (uint16_t)vget(f->v, driver + 2, 2);

    vdesc_put(f->v, desc, BUFFER, 64, VDESC_WRITE, 0);
    vput(f->v, driver + 4 + 2u * (idx & (size - 1)), 0, 2);
    vput(f->v, driver + 2, idx + 1, 2);
    memset(vmem(f->v, BUFFER), 0, 64);
}

static void expect_entropy(struct fixture *f, uint64_t device, unsigned size) {
    unsigned zeroes = 0;

    vdriver_run(f->v);
    assert_int_equal(vget(f->v, device + 2, 2), ++f->used);
    assert_int_equal(vget(f->v, device + 4 + 8u * ((f->used - 1u) & (size - 1)) + 4, 4), 64);
    for (unsigned i = 0; i < 64; i++)
        zeroes += vget(f->v, BUFFER + i, 1) == 0;
    assert_true(zeroes < 16);
}

static void modern_set_up(struct fixture *f) {
    uint64_t c = MODERN_AT;

    wr(f, c + 20, 1, 0);
    wr(f, c + 20, 1, 3);
    wr(f, c + 0, 4, 1);
    assert_int_equal(rd(f, c + 4, 4) & 1, 1); /* VERSION_1 is offered */
    wr(f, c + 8, 4, 1);
    wr(f, c + 12, 4, 1);
    wr(f, c + 20, 1, 11);
    assert_int_equal(rd(f, c + 20, 1), 11);
    assert_int_equal(rd(f, c + 18, 2), 1); /* one queue */
    wr(f, c + 22, 2, 0);
    assert_int_equal(rd(f, c + 24, 2), 64);
    wr(f, c + 24, 2, 8);
    wr(f, c + 32, 8, RING);
    wr(f, c + 40, 8, RING + 0x1000);
    wr(f, c + 48, 8, RING + 0x2000);
    wr(f, c + 28, 2, 1);
    assert_int_equal(rd(f, c + 28, 2), 1);
    wr(f, c + 20, 1, 15);
    assert_int_equal(rd(f, c + 20, 1), 15);
}

static void modern_work(struct fixture *f) {
    add_buffer(f, RING, RING + 0x1000, 8);
    wr(f, MODERN_AT + 0x3000, 2, 0);
    expect_entropy(f, RING + 0x2000, 8);
}

static void modern(void **state) {
    (void)state;
    struct fixture *f = start();

    f->chip = new_pci(f, false);
    assert_int_equal(rd(f, config_at(0), 4), 0x10441af4);
    assert_int_equal(rd(f, config_at(0x10), 4), 0); /* no legacy BAR */
    map(f, false);
    modern_set_up(f);

    /* The pin, until the status is read. */
    modern_work(f);
    assert_true(f->level[GSI]);
    assert_int_equal(rd(f, MODERN_AT + 0x1000, 1), 1);
    assert_false(f->level[GSI]);
    assert_int_equal(rd(f, MODERN_AT + 0x1000, 1), 0);

    /* Messages. */
    enable_msix(f);
    wr(f, MODERN_AT + 26, 2, 1);
    wr(f, MODERN_AT + 16, 2, 0);
    assert_int_equal(rd(f, MODERN_AT + 26, 2), 1);
    modern_work(f);
    assert_int_equal(f->messages, 1);
    assert_int_equal(f->data, 0x41);
    assert_false(f->level[GSI]);
    wr(f, MODERN_AT + 26, 2, 2); /* there is none */
    assert_int_equal(rd(f, MODERN_AT + 26, 2), 0xffff);
    modern_work(f);
    assert_int_equal(f->messages, 1);

    /* Nonsense: an available index far ahead. */
    wr(f, MODERN_AT + 16, 2, 0);
    vput(f->v, RING + 0x1002, 1000, 2);
    wr(f, MODERN_AT + 0x3000, 2, 0);
    vdriver_run(f->v);
    assert_int_equal(rd(f, MODERN_AT + 20, 1), 15 | 64);
    assert_true(f->messages == 2 && f->data == 0x40);
    wr(f, MODERN_AT + 20, 1, 0);
    assert_int_equal(rd(f, MODERN_AT + 20, 1), 0);
    assert_int_equal(rd(f, MODERN_AT + 28, 2), 0);
    assert_int_equal(rd(f, MODERN_AT + 16, 2), 0xffff);
    end(f);
}

/* The BAR through configuration space. */
static void config_window(void **state) {
    (void)state;
    struct fixture *f = start();
    unsigned cap;

    f->chip = new_pci(f, false);
    cap = rd(f, config_at(PCI_CAPABILITIES), 1);
    while (rd(f, config_at(cap), 1) != 9 || rd(f, config_at(cap + 3), 1) != 5) {
        cap = rd(f, config_at(cap + 1), 1);
        assert_int_not_equal(cap, 0);
    }
    wr(f, config_at(cap + 4), 1, 4);
    wr(f, config_at(cap + 8), 4, 20);
    wr(f, config_at(cap + 12), 4, 1);
    wr(f, config_at(cap + 16), 1, 3);
    assert_int_equal(rd(f, config_at(cap + 16), 1), 3);
    wr(f, config_at(cap + 8), 4, 18);
    wr(f, config_at(cap + 12), 4, 2);
    assert_int_equal(rd(f, config_at(cap + 16), 2), 1);
    wr(f, config_at(cap + 4), 1, 1); /* another BAR, odd sizes, beyond the end */
    rd(f, config_at(cap + 16), 4);
    wr(f, config_at(cap + 4), 1, 4);
    wr(f, config_at(cap + 12), 4, 3);
    rd(f, config_at(cap + 16), 4);
    wr(f, config_at(cap + 12), 4, 4);
    wr(f, config_at(cap + 8), 4, UINT32_MAX - 3);
    wr(f, config_at(cap + 16), 4, 0);
    map(f, false);
    assert_int_equal(rd(f, MODERN_AT + 20, 1), 3);
    end(f);
}

static void legacy(void **state) {
    (void)state;
    struct fixture *f = start();
    struct mem *m = f->v->mem;
    uint64_t driver = RING + 64 * 16, device = RING + 0x1000;

    f->chip = new_pci(f, true);
    assert_int_equal(rd(f, config_at(0), 4), 0x10051af4);
    assert_int_equal(rd(f, config_at(8), 1), 0);
    assert_int_equal(rd(f, config_at(0x2e), 2), 4);
    map(f, true);
    mem_port_write(m, LEGACY + 18, 1, 0);
    mem_port_write(m, LEGACY + 18, 1, 3);
    assert_int_equal(mem_port_read(m, LEGACY, 4) >> 28 & 3, 3); /* indirect, event index */
    mem_port_write(m, LEGACY + 4, 4, 0);
    mem_port_write(m, LEGACY + 14, 2, 0);
    assert_int_equal(mem_port_read(m, LEGACY + 12, 2), 64);
    mem_port_write(m, LEGACY + 8, 4, RING >> 12);
    assert_int_equal(mem_port_read(m, LEGACY + 8, 4), RING >> 12);
    /* Before DRIVER_OK, as old drivers do. */
    add_buffer(f, RING, driver, 64);
    mem_port_write(m, LEGACY + 16, 2, 0);
    expect_entropy(f, device, 64);
    assert_int_equal(mem_port_read(m, LEGACY + 19, 1), 1);
    mem_port_write(m, LEGACY + 18, 1, 7);
    enable_msix(f);
    mem_port_write(m, LEGACY + 22, 2, 1);
    assert_int_equal(mem_port_read(m, LEGACY + 22, 2), 1);
    add_buffer(f, RING, driver, 64);
    mem_port_write(m, LEGACY + 16, 2, 0);
    expect_entropy(f, device, 64);
    assert_int_equal(f->messages, 1);
    mem_port_write(m, LEGACY + 14, 2, 1); /* no such queue */
    assert_int_equal(mem_port_read(m, LEGACY + 12, 2), 0);
    mem_port_write(m, LEGACY + 8, 4, 5);
    mem_port_write(m, LEGACY + 14, 2, 0);
    mem_port_write(m, LEGACY + 8, 4, 0);
    assert_int_equal(mem_port_read(m, LEGACY + 8, 4), 0);
    end(f);
}

static void mmio_set_up(struct fixture *f) {
    uint64_t r = MMIO_AT;

    wr(f, r + 0x70, 4, 0);
    wr(f, r + 0x70, 4, 3);
    wr(f, r + 0x14, 4, 1);
    assert_int_equal(rd(f, r + 0x10, 4) & 1, 1);
    wr(f, r + 0x24, 4, 1);
    wr(f, r + 0x20, 4, 1);
    wr(f, r + 0x70, 4, 11);
    assert_int_equal(rd(f, r + 0x70, 4), 11);
    wr(f, r + 0x30, 4, 0);
    assert_int_equal(rd(f, r + 0x34, 4), 64);
    wr(f, r + 0x38, 4, 8);
    wr(f, r + 0x80, 4, RING);
    wr(f, r + 0x90, 4, RING + 0x1000);
    wr(f, r + 0xa0, 4, RING + 0x2000);
    wr(f, r + 0x44, 4, 1);
    assert_int_equal(rd(f, r + 0x44, 4), 1);
    wr(f, r + 0x70, 4, 15);
}

static void over_mmio(void **state) {
    (void)state;
    struct fixture *f = start();
    const struct irq_line irq = {set_line, f, 20};
    struct virtio_device *d = virtio_rng_new(f->v->mem, f->v->loop, NULL);

    f->chip = (struct device *)virtio_mmio_new(f->v->mem, MMIO_AT, irq, f->v->loop, d, NULL);
    assert_int_equal(rd(f, MMIO_AT, 4), 0x74726976);
    assert_int_equal(rd(f, MMIO_AT + 4, 4), 2);
    assert_int_equal(rd(f, MMIO_AT + 8, 4), 4);
    mmio_set_up(f);
    for (unsigned i = 0; i < 10; i++) {
        add_buffer(f, RING, RING + 0x1000, 8);
        wr(f, MMIO_AT + 0x50, 4, 0);
        expect_entropy(f, RING + 0x2000, 8);
        assert_true(f->level[20]);
        assert_int_equal(rd(f, MMIO_AT + 0x60, 4), 1);
        wr(f, MMIO_AT + 0x64, 4, 1);
        assert_false(f->level[20]);
    }
    wr(f, MMIO_AT + 0x44, 4, 0);
    assert_int_equal(rd(f, MMIO_AT + 0x44, 4), 0);
    wr(f, MMIO_AT + 0x30, 4, 7);
    assert_int_equal(rd(f, MMIO_AT + 0x34, 4), 0);
    wr(f, MMIO_AT + 0x44, 4, 1);
    assert_int_equal(rd(f, MMIO_AT + 1, 1), 0);
    end(f);
}

/* The saved state of a chip goes to another, which the driver goes on with. */
static void load_into(const struct device *from, struct device *to) {
    struct record_writer w = {0}, again = {0};
    struct record_reader r;
    const uint8_t *at;

    rec_begin(&w, from->ops->name, 0, from->ops->version);
    from->ops->save(from, &w);
    rec_end(&w);
    at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, NULL), 1);
    struct record_reader first = r;
    assert_int_equal(to->ops->check(to, &first, NULL), 0);
    to->ops->load(to, &r);
    rec_begin(&again, to->ops->name, 0, to->ops->version);
    to->ops->save(to, &again);
    rec_end(&again);
    assert_int_equal(w.len, again.len);
    assert_memory_equal(w.buf, again.buf, w.len);
    rec_writer_free(&w);
    rec_writer_free(&again);
}

static void state_moves(void **state) {
    (void)state;
    struct fixture *f = start(), *g = start();

    f->chip = new_pci(f, true);
    map(f, true);
    modern_set_up(f);
    enable_msix(f);
    wr(f, MODERN_AT + 26, 2, 1);
    modern_work(f);
    g->chip = new_pci(g, true);
    for (uint64_t at = RING; at < RING + 0x3000; at += 8)
        vput(g->v, at, vget(f->v, at, 8), 8);
    load_into(f->chip, g->chip);
    g->used = f->used;
    modern_work(g);
    assert_true(g->messages == 1 && g->data == 0x41);

    g->chip->ops->reset(g->chip);
    assert_int_equal(rd(g, MODERN_AT + 20, 1), 0xff); /* not mapped any more */
    map(g, true);
    assert_int_equal(rd(g, MODERN_AT + 20, 1), 0);
    end(f);
    end(g);
}

static void taken_slot(void **state) {
    (void)state;
    struct fixture *f = start();

    f->chip = new_pci(f, true);
    assert_null(new_pci(f, true));
    end(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modern),    cmocka_unit_test(config_window), cmocka_unit_test(legacy),
        cmocka_unit_test(over_mmio), cmocka_unit_test(state_moves),   cmocka_unit_test(taken_slot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
