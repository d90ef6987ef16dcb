/* SPDX-License-Identifier: Apache-2.0 */
/* PCI configuration mechanism 1. */
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
};

static uint8_t reset_read(void *arg) {
    const struct fixture *f = arg;

    return f->reset_port;
}

static void reset_write(void *arg, uint8_t value) {
    struct fixture *f = arg;

    f->reset_port = value;
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct pci_reset_port reset = {reset_read, reset_write, f};

    f->mem = test_mem();
    f->bus = pci_bus_new(f->mem, &reset, NULL);
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
    struct pci_reset_port reset = {reset_read, reset_write, f};
    struct mem *m = test_mem();
    struct pci_bus *other = pci_bus_new(m, &reset, NULL);
    struct device *d = (struct device *)other;

    select_reg(f, 0, 0, 8);
    copy_state((struct device *)f->bus, d);
    assert_int_equal(mem_port_read(m, DATA, 4), 0x06000002);
    refuses_nonsense(d);
    d->ops->destroy(d);
    mem_free(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(host_bridge),       TEST(the_rest_is_empty),
        TEST(address_register),  TEST(reset_port_is_passed_on),
        TEST(functions_plug_in), TEST(state_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
