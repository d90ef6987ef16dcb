/* SPDX-License-Identifier: Apache-2.0 */
/* PCI: configuration space, BARs, and interrupts of all kinds. */
#include "dev_test.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "dev/pci.h"

enum { ADDRESS = 0xcf8, DATA = 0xcfc };

struct fixture {
    struct mem *mem;
    struct pci_bus *bus;
    uint8_t reset_port;
    struct probe gsi[4];
    unsigned messages;
    uint64_t addr;
    uint32_t data;
};

static uint8_t reset_read(void *arg) {
    const struct fixture *f = arg;

    return f->reset_port;
}

static void reset_write(void *arg, uint8_t value) {
    struct fixture *f = arg;

    f->reset_port = value;
}

static void gsi_set(void *arg, unsigned pin, bool level) {
    struct fixture *f = arg;

    assert_in_range(pin, 16, 19);
    probe_set(&f->gsi[pin - 16], pin, level);
}

static void msi(void *arg, uint64_t addr, uint32_t data) {
    struct fixture *f = arg;

    f->messages++;
    f->addr = addr;
    f->data = data;
}

static struct pci_bus *new_bus(struct fixture *f, struct mem *m) {
    const struct pci_bus_config config = {
        .reset = {reset_read, reset_write, f},
        .gsi = {gsi_set, f, 0},
        .msi = msi,
        .msi_arg = f,
    };
    struct pci_bus *bus = pci_bus_new(m, &config, NULL);

    assert_non_null(bus);
    return bus;
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->bus = new_bus(f, f->mem);
    assert_non_null(f->bus);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->bus;

    d->ops->destroy(d);
    mem_free(f->mem);
    free(f);
    return 0;
}

static void select_reg(struct fixture *f, unsigned bus, unsigned devfn, unsigned off) {
    mem_port_write(f->mem, ADDRESS, 4, 1u << 31 | bus << 16 | devfn << 8 | (off & 0xfc));
}

static uint32_t rd(struct fixture *f, unsigned devfn, unsigned off, unsigned size) {
    select_reg(f, 0, devfn, off);
    return mem_port_read(f->mem, (uint16_t)(DATA + (off & 3)), size);
}

static void wr(struct fixture *f, unsigned devfn, unsigned off, unsigned size, uint32_t v) {
    select_reg(f, 0, devfn, off);
    mem_port_write(f->mem, (uint16_t)(DATA + (off & 3)), size, v);
}

static void host_bridge(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, 0, 0, 4), 0x12378086);
    assert_int_equal(rd(f, 0, 2, 2), 0x1237);
    assert_int_equal(rd(f, 0, 0x0b, 1), 0x06);
    assert_int_equal(rd(f, 0, 0x08, 4), 0x06000002);
    assert_int_equal(rd(f, 0, 0x0e, 1), 0);
    wr(f, 0, 0, 4, UINT32_MAX);
    assert_int_equal(rd(f, 0, 0, 4), 0x12378086);
}

static void the_rest_is_empty(void **state) {
    struct fixture *f = *state;

    for (unsigned devfn = 1; devfn < 256; devfn++)
        assert_int_equal(rd(f, devfn, 0, 4), UINT32_MAX);
    select_reg(f, 1, 0, 0);
    assert_int_equal(mem_port_read(f->mem, DATA, 4), UINT32_MAX);
    assert_int_equal(mem_port_read(f->mem, DATA + 2, 2), 0xffff);
    mem_port_write(f->mem, DATA, 4, 0);
}

static void address_register(void **state) {
    struct fixture *f = *state;

    mem_port_write(f->mem, ADDRESS, 4, UINT32_MAX);
    assert_int_equal(mem_port_read(f->mem, ADDRESS, 4), 0x80fffffc);
    mem_port_write(f->mem, ADDRESS, 1, 0); /* narrow writes are not for it */
    mem_port_write(f->mem, ADDRESS + 2, 2, 0);
    assert_int_equal(mem_port_read(f->mem, ADDRESS, 4), 0x80fffffc);
    assert_int_equal(mem_port_read(f->mem, ADDRESS, 1), 0xff);
    mem_port_write(f->mem, ADDRESS, 4, 0); /* disabled */
    assert_int_equal(mem_port_read(f->mem, DATA, 4), UINT32_MAX);
}

static void reset_port_is_passed_on(void **state) {
    struct fixture *f = *state;

    outb(f->mem, 0xcf9, 0x06);
    assert_int_equal(f->reset_port, 0x06);
    assert_int_equal(inb(f->mem, 0xcf9), 0x06);
    mem_port_write(f->mem, ADDRESS, 4, 0x80000000);
    assert_int_equal(f->reset_port, 0x06);
}

static uint32_t hooked_read(struct pci_function *fn, unsigned off, unsigned size) {
    return off == 0x40 ? 0xabcd0000 + size : pci_config_read(fn, off, size);
}

static void hooked_write(struct pci_function *fn, unsigned off, unsigned size, uint32_t value) {
    pci_config_write(fn, off, size, value);
    if (off == 0x44)
        pci_config_set(fn, 0x48, 4, value + 1);
}

static void functions_plug_in(void **state) {
    struct fixture *f = *state;
    struct pci_function fn = {.read = hooked_read, .write = hooked_write};
    uint8_t devfn = PCI_DEVFN(3, 1);

    pci_config_set(&fn, PCI_VENDOR_ID, 4, 0x10011af4);
    for (unsigned i = 0; i < 4; i++)
        fn.writable[0x44 + i] = i == 1 ? 0x0f : 0xff;
    assert_int_equal(pci_add(f->bus, devfn, &fn), 0);
    assert_int_equal(pci_add(f->bus, devfn, &fn), -EBUSY);
    assert_int_equal(pci_add(f->bus, 0, &fn), -EBUSY);
    assert_int_equal(rd(f, devfn, 0, 4), 0x10011af4);
    assert_int_equal(rd(f, devfn, 0x40, 1), 0x01);
    wr(f, devfn, 0x44, 4, 0xffffffff);
    assert_int_equal(rd(f, devfn, 0x44, 4), 0xffff0fff);
    assert_int_equal(rd(f, devfn, 0x48, 4), 0);
    wr(f, devfn, 0x44, 2, 0x1111);
    assert_int_equal(rd(f, devfn, 0x44, 4), 0xffff0111);
    assert_int_equal(rd(f, devfn, 0x48, 4), 0x1112);
    wr(f, devfn, 0xff, 1, 1);
    pci_remove(f->bus, devfn);
    assert_int_equal(rd(f, devfn, 0, 4), UINT32_MAX);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct mem *m = test_mem();
    struct pci_bus *other = new_bus(f, m);
    struct device *d = (struct device *)other;

    select_reg(f, 0, 0, 8);
    copy_state((struct device *)f->bus, d);
    assert_int_equal(mem_port_read(m, DATA, 4), 0x06000002);
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

/* A device with a BAR of each kind, MSI and MSI-X. */
enum { DEV = PCI_DEVFN(5, 0), MSIX_CAP = 0x40, MSI_CAP = 0x4c };

struct device_under_test {
    struct pci_function f;
    uint64_t last; /* what was written where */
};

static uint64_t dut_read(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    return 0x1000 * size + off;
}

static void dut_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct device_under_test *d = dev;

    (void)size;
    d->last = off << 32 | value;
}

static const struct io_ops dut_io = {.read = dut_read, .write = dut_write};

static struct device_under_test *plug(struct fixture *f, uint8_t devfn) {
    struct device_under_test *d = xcalloc(1, sizeof(*d));
    const struct pci_id id = {.vendor = 0x1af4, .device = 0x1000, .class_code = 0x020000, .pin = 1};
    const struct pci_bar io = {
        .kind = PCI_BAR_IO, .size = 32, .name = "io", .ops = &dut_io, .dev = d};
    const struct pci_bar wide = {.kind = PCI_BAR_MEM64,
                                 .prefetchable = true,
                                 .size = 0x4000,
                                 .name = "wide",
                                 .ops = &dut_io,
                                 .dev = d};

    pci_init(&d->f, &id);
    pci_set_bar(&d->f, 0, &io);
    pci_add_msix(&d->f, 40, 1);
    pci_add_msi(&d->f, 4);
    pci_set_bar(&d->f, 4, &wide);
    assert_int_equal(pci_add(f->bus, devfn, &d->f), 0);
    return d;
}

static void unplug(struct fixture *f, struct device_under_test *d) {
    pci_remove(f->bus, d->f.devfn);
    pci_fini(&d->f);
    free(d);
}

static void bars_are_sized(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV);

    for (unsigned i = 0; i < 6; i++)
        wr(f, DEV, 0x10 + 4 * i, 4, UINT32_MAX);
    assert_int_equal(rd(f, DEV, 0x10, 4), 0xffffffe1);
    assert_int_equal(rd(f, DEV, 0x14, 4), 0xfffff000);
    assert_int_equal(rd(f, DEV, 0x18, 4), 0);
    assert_int_equal(rd(f, DEV, 0x20, 4), 0xffffc00c);
    assert_int_equal(rd(f, DEV, 0x24, 4), 0xffffffff);
    assert_int_equal(rd(f, DEV, 0x30, 4), 0); /* no ROM */
    unplug(f, d);
}

static void bars_are_mapped(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV), *other = plug(f, PCI_DEVFN(6, 0));
    uint64_t high = 0x1234560000ull;

    wr(f, DEV, 0x10, 4, 0xc000);
    wr(f, DEV, 0x20, 4, (uint32_t)high);
    wr(f, DEV, 0x24, 4, (uint32_t)(high >> 32));
    assert_int_equal(mem_port_read(f->mem, 0xc000, 4), UINT32_MAX);
    wr(f, DEV, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal(mem_port_read(f->mem, 0xc004, 4), 0x4004);
    assert_int_equal(mem_port_read(f->mem, 0xc020, 4), UINT32_MAX);
    assert_int_equal(mem_io_read(f->mem, GPA(high), 4), UINT32_MAX);
    wr(f, DEV, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(mem_port_read(f->mem, 0xc004, 4), UINT32_MAX);
    assert_int_equal(mem_io_read(f->mem, GPA(high + 0x3ffc), 4), 0x7ffc);
    mem_io_write(f->mem, GPA(high + 8), 4, 0xabcd);
    assert_int_equal(d->last, 8ull << 32 | 0xabcd);

    /* Over another one it isn't there until that one goes. */
    wr(f, PCI_DEVFN(6, 0), PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    wr(f, PCI_DEVFN(6, 0), 0x20, 4, (uint32_t)high);
    wr(f, PCI_DEVFN(6, 0), 0x24, 4, (uint32_t)(high >> 32));
    mem_io_write(f->mem, GPA(high + 8), 4, 1);
    assert_int_equal(d->last, 8ull << 32 | 1);
    wr(f, DEV, 0x20, 4, (uint32_t)high + 0x4000);
    mem_io_write(f->mem, GPA(high + 8), 4, 2);
    assert_int_equal(d->last, 8ull << 32 | 1);
    assert_int_equal(other->last, 8ull << 32 | 2);
    mem_io_write(f->mem, GPA(high + 0x4008), 4, 3);
    assert_int_equal(d->last, 8ull << 32 | 3);

    pci_function_reset(&d->f);
    assert_int_equal(mem_io_read(f->mem, GPA(high + 0x4000), 4), UINT32_MAX);
    assert_int_equal(rd(f, DEV, 0x20, 4), 0xc);
    unplug(f, other);
    assert_int_equal(mem_io_read(f->mem, GPA(high), 4), UINT32_MAX);
    unplug(f, d);
}

static void firmware_assigns(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV), *other = plug(f, PCI_DEVFN(6, 0));

    pci_bus_assign(f->bus);
    uint32_t io = rd(f, DEV, 0x10, 4) & ~3u, memory = rd(f, DEV, 0x20, 4) & ~0xfu;
    assert_int_equal(rd(f, DEV, PCI_COMMAND, 2), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    assert_int_equal(rd(f, DEV, PCI_INTERRUPT_LINE, 1), 17);
    assert_int_equal(mem_port_read(f->mem, (uint16_t)io, 4), 0x4000);
    assert_int_equal(mem_io_read(f->mem, GPA(memory), 4), 0x4000);
    assert_int_not_equal(rd(f, PCI_DEVFN(6, 0), 0x20, 4) & ~0xfu, memory);
    assert_in_range(memory, 0xc0000000, 0xfeafc000);
    unplug(f, other);
    unplug(f, d);
}

static void interrupt_pin(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV), *other = plug(f, PCI_DEVFN(9, 0));

    pci_set_intx(&d->f, true); /* slot 5, INTA: 16 + (5 & 3) */
    assert_true(f->gsi[1].level);
    assert_int_equal(rd(f, DEV, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    pci_set_intx(&other->f, true); /* shared */
    pci_set_intx(&d->f, false);
    assert_true(f->gsi[1].level);
    wr(f, PCI_DEVFN(9, 0), PCI_COMMAND, 2, PCI_COMMAND_INTX_OFF);
    assert_false(f->gsi[1].level);
    assert_int_equal(rd(f, PCI_DEVFN(9, 0), PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    wr(f, PCI_DEVFN(9, 0), PCI_COMMAND, 2, 0);
    assert_true(f->gsi[1].level);
    wr(f, PCI_DEVFN(9, 0), MSIX_CAP + 2, 2, 0x8000);
    assert_false(f->gsi[1].level);
    wr(f, PCI_DEVFN(9, 0), MSIX_CAP + 2, 2, 0);
    wr(f, PCI_DEVFN(9, 0), MSI_CAP + 2, 2, 1);
    assert_false(f->gsi[1].level);
    wr(f, PCI_DEVFN(9, 0), MSI_CAP + 2, 2, 0);
    assert_true(f->gsi[1].level);
    unplug(f, other);
    assert_false(f->gsi[1].level);
    unplug(f, d);
}

#define TABLE 0xd0000000ull

static void msix_entry(struct fixture *f, unsigned i, uint32_t data, uint32_t control) {
    mem_io_write(f->mem, GPA(TABLE + 16 * i), 8, 0x100000000ull | 0xfee01000);
    mem_io_write(f->mem, GPA(TABLE + 16 * i + 8), 4, data);
    mem_io_write(f->mem, GPA(TABLE + 16 * i + 12), 4, control);
}

static void msix(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV);

    assert_int_equal(rd(f, DEV, PCI_CAPABILITIES, 1), MSIX_CAP);
    assert_int_equal(rd(f, DEV, MSIX_CAP, 4), MSI_CAP << 8 | 0x11 | 39u << 16);
    assert_int_equal(rd(f, DEV, MSIX_CAP + 4, 4), 1);
    assert_int_equal(rd(f, DEV, MSIX_CAP + 8, 4), 0x801);
    wr(f, DEV, 0x14, 4, TABLE);
    wr(f, DEV, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(mem_io_read(f->mem, GPA(TABLE + 12), 4), 1); /* masked */
    msix_entry(f, 0, 0x41, 0);
    msix_entry(f, 39, 0x42, 1);
    pci_msix_raise(&d->f, 0); /* off */
    assert_int_equal(f->messages, 0);
    wr(f, DEV, MSIX_CAP + 2, 2, 0x8000);
    assert_true(pci_msix_enabled(&d->f));
    pci_msix_raise(&d->f, 0);
    assert_int_equal(f->messages, 1);
    assert_int_equal(f->data, 0x41);
    assert_true(f->addr == 0x1fee01000);
    pci_msix_raise(&d->f, 40); /* there is none */
    pci_msix_raise(&d->f, 39);
    assert_int_equal(f->messages, 1);
    assert_int_equal(mem_io_read(f->mem, GPA(TABLE + 0x804), 4), 0x80);
    msix_entry(f, 39, 0x43, 0);
    assert_int_equal(f->messages, 2);
    assert_int_equal(f->data, 0x43);
    assert_int_equal(mem_io_read(f->mem, GPA(TABLE + 0x804), 4), 0);
    wr(f, DEV, MSIX_CAP + 2, 2, 0xc000);
    pci_msix_raise(&d->f, 0);
    pci_msix_raise(&d->f, 0);
    assert_int_equal(f->messages, 2);
    wr(f, DEV, MSIX_CAP + 2, 2, 0x8000);
    assert_int_equal(f->messages, 3);
    wr(f, DEV, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* may not write to memory */
    pci_msix_raise(&d->f, 0);
    assert_int_equal(f->messages, 3);
    wr(f, DEV, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(f->messages, 4);
    pci_function_reset(&d->f);
    assert_false(pci_msix_enabled(&d->f));
    unplug(f, d);
}

static void plain_msi(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV);

    wr(f, DEV, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    wr(f, DEV, MSI_CAP + 4, 4, 0xfee02003);
    wr(f, DEV, MSI_CAP + 8, 4, 0);
    wr(f, DEV, MSI_CAP + 12, 2, 0x53);
    pci_msi_raise(&d->f, 0);
    assert_int_equal(f->messages, 0);
    wr(f, DEV, MSI_CAP + 2, 2, 0x21); /* all four */
    assert_int_equal(rd(f, DEV, MSI_CAP + 2, 2), 0x1a5);
    pci_msi_raise(&d->f, 2);
    assert_true(f->messages == 1 && f->addr == 0xfee02000 && f->data == 0x52);
    wr(f, DEV, MSI_CAP + 16, 4, UINT32_MAX);
    assert_int_equal(rd(f, DEV, MSI_CAP + 16, 4), 0xf);
    pci_msi_raise(&d->f, 1);
    assert_int_equal(f->messages, 1);
    assert_int_equal(rd(f, DEV, MSI_CAP + 20, 4), 2);
    wr(f, DEV, MSI_CAP + 16, 4, 0);
    assert_true(f->messages == 2 && f->data == 0x51);
    assert_int_equal(rd(f, DEV, MSI_CAP + 20, 4), 0);
    wr(f, DEV, MSI_CAP + 2, 2, 1); /* one only */
    pci_msi_raise(&d->f, 3);
    assert_int_equal(f->data, 0x53);
    unplug(f, d);
}

static void memory_mapped_configuration(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV);
    uint64_t at = 0xfeb00000 + (DEV << 12);

    assert_int_equal(mem_io_read(f->mem, GPA(0xfeb00000), 4), 0x12378086);
    assert_int_equal(mem_io_read(f->mem, GPA(at), 8), 0x0010000010001af4);
    mem_io_write(f->mem, GPA(at + PCI_COMMAND), 2, 7);
    assert_int_equal(rd(f, DEV, PCI_COMMAND, 2), 7);
    assert_int_equal(mem_io_read(f->mem, GPA(at + 0x100), 4), UINT32_MAX);
    mem_io_write(f->mem, GPA(at + 0x104), 4, 0);
    assert_int_equal(mem_io_read(f->mem, GPA(0xfeb00000 + (99 << 12)), 4), UINT32_MAX);
    unplug(f, d);
}

static void functions_move(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, DEV), *to = plug(f, PCI_DEVFN(7, 0));
    struct record_writer w = {0};
    struct record_reader r;
    const uint8_t *at;

    wr(f, DEV, 0x14, 4, TABLE);
    wr(f, DEV, 0x10, 4, 0xd000);
    wr(f, DEV, PCI_COMMAND, 2, 7);
    msix_entry(f, 3, 0x44, 1);
    wr(f, DEV, MSIX_CAP + 2, 2, 0x8000);
    pci_msix_raise(&d->f, 3);
    rec_begin(&w, "pci", 0, 1);
    pci_function_save(&d->f, &w);
    rec_end(&w);
    pci_function_reset(&d->f);
    at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, NULL), 1);
    struct record_reader checked = r;
    assert_int_equal(pci_function_check(&to->f, &checked, NULL), 0);
    assert_int_equal(rec_done(&checked, NULL), 0);
    pci_function_load(&to->f, &r);
    assert_int_equal(mem_port_read(f->mem, 0xd004, 4), 0x4004);
    msix_entry(f, 3, 0x44, 0);
    assert_true(f->messages == 1 && f->data == 0x44);
    at = w.buf;
    assert_int_equal(rec_next(&at, w.buf + w.len, &r, NULL), 1);
    w.buf[r.p - w.buf] = 0xff; /* the vendor is not the guest's to write */
    assert_true(pci_function_check(&to->f, &r, NULL) < 0);
    rec_writer_free(&w);
    unplug(f, to);
    unplug(f, d);
}

static void free_slots(void **state) {
    struct fixture *f = *state;
    struct device_under_test *d = plug(f, PCI_DEVFN(1, 3));

    assert_int_equal(pci_free_slot(f->bus), 2);
    unplug(f, d);
    assert_int_equal(pci_free_slot(f->bus), 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(host_bridge),
        TEST(the_rest_is_empty),
        TEST(address_register),
        TEST(reset_port_is_passed_on),
        TEST(functions_plug_in),
        TEST(state_moves),
        TEST(bars_are_sized),
        TEST(bars_are_mapped),
        TEST(firmware_assigns),
        TEST(interrupt_pin),
        TEST(msix),
        TEST(plain_msi),
        TEST(memory_mapped_configuration),
        TEST(functions_move),
        TEST(free_slots),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
