/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI hot-plug: its registers as ACPI's methods use them, and a machine whose disk is pulled while
 * a request is under way.
 */
#include "dev_test.h"

#include <stdlib.h>
#include <string.h>

#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "cpu/engine.h"
#include "dev/pc_layout.h"
#include "dev/pci.h"
#include "dev/pci_hotplug.h"
#include "machine/devices.h"
#include "machine/pc.h"

enum {
    UP = PC_PCI_HOTPLUG,
    DOWN = PC_PCI_HOTPLUG + 4,
    EJECT = PC_PCI_HOTPLUG + 8,
    REMOVABLE = PC_PCI_HOTPLUG + 12,
};

/* --- registers --- */

struct fixture {
    struct mem *mem;
    struct pci_hotplug *h;
    unsigned news, ejections;
    uint32_t ejected;
};

static void on_news(void *arg) {
    struct fixture *f = arg;

    f->news++;
}

static void on_eject(void *arg, unsigned slot) {
    struct fixture *f = arg;

    f->ejections++;
    f->ejected |= 1u << slot;
}

static struct pci_hotplug *new_chip(struct fixture *f, struct mem *m) {
    const struct pci_hotplug_events events = {on_news, on_eject, f};
    struct pci_hotplug *h = pci_hotplug_new(m, &events, NULL);

    assert_non_null(h);
    return h;
}

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->h = new_chip(f, f->mem);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->h;

    d->ops->destroy(d);
    mem_free(f->mem);
    free(f);
    return 0;
}

static uint32_t rd(const struct fixture *f, uint16_t port) {
    return mem_port_read(f->mem, port, 4);
}

static void coming(void **state) {
    struct fixture *f = *state;

    assert_int_equal(rd(f, UP) | rd(f, DOWN) | rd(f, REMOVABLE), 0);
    pci_hotplug_added(f->h, 5);
    pci_hotplug_added(f->h, 31);
    assert_int_equal(f->news, 2);
    assert_int_equal(rd(f, REMOVABLE), 0x80000020);
    assert_int_equal(rd(f, UP), 0x80000020);
    assert_int_equal(rd(f, UP), 0); /* known by now */
    assert_int_equal(rd(f, EJECT), 0);
    mem_port_write(f->mem, UP, 4, UINT32_MAX);
    mem_port_write(f->mem, DOWN, 4, UINT32_MAX);
    mem_port_write(f->mem, REMOVABLE, 4, 0);
    assert_int_equal(rd(f, UP) | rd(f, DOWN), 0);
    assert_int_equal(rd(f, REMOVABLE), 0x80000020);
}

static void going(void **state) {
    struct fixture *f = *state;

    pci_hotplug_set_removable(f->h, 3, true);
    pci_hotplug_set_removable(f->h, 4, true);
    assert_int_equal(f->news, 0);
    pci_hotplug_ask(f->h, 4);
    assert_int_equal(f->news, 1);
    assert_int_equal(rd(f, DOWN), 0x10);
    assert_int_equal(rd(f, DOWN), 0x10); /* until it is followed */
    pci_hotplug_ask(f->h, 4);
    assert_int_equal(f->news, 2);
    mem_port_write(f->mem, EJECT, 4, 0x10);
    assert_int_equal(f->ejected, 0x10);
    assert_int_equal(rd(f, DOWN), 0);
    assert_int_equal(rd(f, REMOVABLE), 0x08);
}

/* A guest may let go of what nobody asked for, but of nothing that is not there or fixed. */
static void unasked(void **state) {
    struct fixture *f = *state;

    pci_hotplug_set_removable(f->h, 9, true);
    mem_port_write(f->mem, EJECT, 4, ~0x200u);
    assert_int_equal(f->ejections, 0);
    mem_port_write(f->mem, EJECT, 4, UINT32_MAX);
    assert_int_equal(f->ejected, 0x200);
    mem_port_write(f->mem, EJECT, 4, UINT32_MAX);
    assert_int_equal(f->ejections, 1);
}

static void ejected_before_it_was_seen(void **state) {
    struct fixture *f = *state;

    pci_hotplug_added(f->h, 7);
    mem_port_write(f->mem, EJECT, 4, 0x80);
    assert_int_equal(rd(f, UP), 0);
}

static void reset_follows_requests(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->h;

    pci_hotplug_added(f->h, 1);
    pci_hotplug_added(f->h, 2);
    pci_hotplug_ask(f->h, 2);
    d->ops->reset(d);
    assert_int_equal(f->ejected, 4);
    assert_int_equal(rd(f, UP) | rd(f, DOWN), 0);
    assert_int_equal(rd(f, REMOVABLE), 2);
}

static void records(void **state) {
    struct fixture *f = *state;
    struct mem *m = test_mem();
    struct pci_hotplug *to = new_chip(f, m);
    struct device *d = (struct device *)to;
    const uint8_t slot4[8] = {0x10}, slot5[8] = {0x20}, five[5] = {0x10};

    for (unsigned slot = 3; slot < 5; slot++) {
        pci_hotplug_added(f->h, slot);
        pci_hotplug_set_removable(to, slot, true);
    }
    pci_hotplug_ask(f->h, 3);
    copy_state((struct device *)f->h, d);
    assert_int_equal(mem_port_read(m, UP, 4), 0x18);
    assert_int_equal(mem_port_read(m, DOWN, 4), 0x08);
    refuses_nonsense(d);
    assert_int_equal(check_bytes(d, slot4, 8), 0);
    assert_true(check_bytes(d, slot5, 8) < 0);
    assert_true(check_bytes(d, five, 5) < 0);
    d->ops->destroy(d);
    mem_free(m);
}

/* --- a machine --- */

#define RING 0x4000ull
#define BUFFER 0x8000ull
#define MODERN_AT 0xd0010000ull
enum { COMMON = 0, NOTIFY = 0x3000, STATUS = 20, QUEUE_SELECT = 22, QUEUE_ENABLE = 28 };

/* A disk that answers when it is told to. */
struct slow_disk {
    struct block b;
    struct block_req *held;
};

struct pulled {
    struct loop *loop;
    struct machine *machine;
    struct machine_devices devices;
    struct slow_disk disk;
    struct machine_plug *gone;
};

static void slow_submit(struct block *b, struct block_req *r) {
    struct slow_disk *d = container_of(b, struct slow_disk, b);

    assert_null(d->held);
    d->held = r;
}

static const struct block_ops slow_ops = {.name = "slow", .submit = slow_submit};

static void on_ejected(void *arg, struct machine_plug *p) {
    struct pulled *t = arg;

    assert_null(t->gone);
    t->gone = p;
}

static void stop_loop(void *loop) {
    loop_stop(loop);
}

/* Everything that is due. */
static void run_loop(struct pulled *t) {
    for (int i = 0; i < 5; i++) {
        loop_call(t->loop, stop_loop, t->loop);
        assert_int_equal(loop_run(t->loop, NULL), 0);
    }
}

static struct pulled *machine_up(void) {
    struct pulled *t = xcalloc(1, sizeof(*t));
    struct machine_params p = {
        .engine = &engine_interp,
        .cpu = "x86-64-v2",
        .memory = 16 << 20,
        .vcpus = 1,
        .devices = &t->devices,
        .ejected = on_ejected,
        .arg = t,
    };

    t->loop = loop_new(NULL);
    t->devices.rng = true;
    t->disk.b = (struct block){
        .ops = &slow_ops,
        .loop = t->loop,
        .info = {.size = 1 << 20, .logical_block = 512, .physical_block = 512},
    };
    t->machine = machine_new(t->loop, &p, NULL);
    assert_non_null(t->machine);
    return t;
}

static void machine_down(struct pulled *t) {
    machine_free(t->machine);
    loop_free(t->loop);
    free(t);
}

static uint64_t config_at(unsigned slot, unsigned off) {
    return PC_ECAM_BASE + ((uint64_t)slot << 15) + off;
}

static uint32_t mmio(struct pulled *t, uint64_t at, unsigned size) {
    return (uint32_t)mem_io_read(t->machine->mem, GPA(at), size);
}

static void set(struct pulled *t, uint64_t at, unsigned size, uint64_t v) {
    mem_io_write(t->machine->mem, GPA(at), size, v);
}

/* A driver brings the device up and asks for 512 bytes in its first queue. */
static void post_a_read(struct pulled *t, unsigned slot) {
    const uint64_t at[] = {RING, RING + 0x1000, RING + 0x2000};
    /* Descriptors: 16 bytes of header, then 512 of data and the status. */
    const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } desc[] = {{BUFFER, 16, 1, 1}, {BUFFER + 0x1000, 513, 2, 0}};
    const uint16_t avail[] = {0, 1, 0};

    set(t, config_at(slot, 0x20), 4, MODERN_AT);
    set(t, config_at(slot, PCI_COMMAND), 2, 6);
    set(t, MODERN_AT + STATUS, 1, 3);
    set(t, MODERN_AT + 8, 4, 1); /* the upper half of the features: VERSION_1 */
    set(t, MODERN_AT + 12, 4, 1);
    set(t, MODERN_AT + STATUS, 1, 11);
    set(t, MODERN_AT + QUEUE_SELECT, 2, 0);
    for (unsigned i = 0; i < 3; i++)
        set(t, MODERN_AT + 32 + 8 * i, 4, at[i]);
    set(t, MODERN_AT + QUEUE_ENABLE, 2, 1);
    set(t, MODERN_AT + STATUS, 1, 15);
    assert_int_equal(mem_write(t->machine->mem, GPA(RING), desc, sizeof(desc)), 0);
    assert_int_equal(mem_write(t->machine->mem, GPA(RING + 0x1000), avail, sizeof(avail)), 0);
    set(t, MODERN_AT + NOTIFY, 2, 0);
    run_loop(t);
    assert_non_null(t->disk.held);
}

static struct machine_plug *attach(struct pulled *t) {
    const struct machine_disk disk = {.block = &t->disk.b};
    struct machine_plug *p = machine_attach_disk(t->machine, &disk, NULL);

    assert_non_null(p);
    return p;
}

static bool in_slot(struct pulled *t, unsigned slot) {
    return mmio(t, config_at(slot, 0), 4) != UINT32_MAX;
}

static void answer(struct pulled *t) {
    struct block_req *r = t->disk.held;

    t->disk.held = NULL;
    r->done(r, 0);
}

/* The guest ejects while a read is under way: the device is gone at once, and freed after that. */
static void pulled_in_mid_flight(void **state) {
    struct pulled *t = machine_up();
    struct mem *m = t->machine->mem;
    (void)state;

    for (int i = 0; i < 3; i++) {
        struct machine_plug *p = attach(t);
        unsigned slot = machine_plug_slot(p);

        assert_int_equal(mem_port_read(m, UP, 4), 1u << slot);
        assert_int_equal(mem_port_read(m, PC_GPE0, 1), 1 << PC_GPE_PCI_HOTPLUG);
        post_a_read(t, slot);
        machine_detach(t->machine, p);
        assert_int_equal(mem_port_read(m, DOWN, 4), 1u << slot);
        assert_true(in_slot(t, slot));
        mem_port_write(m, EJECT, 4, 1u << slot);
        assert_false(in_slot(t, slot));
        assert_int_equal(mmio(t, MODERN_AT + STATUS, 1), 0xff);
        assert_null(t->gone);
        run_loop(t);
        assert_ptr_equal(t->gone, p);
        assert_false(machine_plug_idle(p));
        answer(t);
        assert_true(machine_plug_idle(p));
        /* Nothing was said to the driver, which is not there any more. */
        assert_int_equal(mmio(t, RING + 0x2002, 2), 0);
        machine_forget(t->machine, p);
        t->gone = NULL;
    }
    machine_down(t);
}

/* Another device takes the slot while the old one is not freed yet. */
static void the_slot_is_free_at_once(void **state) {
    struct pulled *t = machine_up();
    struct machine_plug *old = attach(t), *new;
    unsigned slot = machine_plug_slot(old);
    (void)state;

    post_a_read(t, slot);
    mem_port_write(t->machine->mem, EJECT, 4, 1u << slot);
    answer(t);
    new = attach(t);
    assert_int_equal(machine_plug_slot(new), slot);
    assert_true(in_slot(t, slot));
    run_loop(t);
    assert_ptr_equal(t->gone, old);
    machine_forget(t->machine, old);
    assert_true(in_slot(t, slot));
    machine_down(t);
}

/* What was asked for goes in a reset; what was not is still there, and found by its address. */
static void goes_in_a_reset(void **state) {
    struct pulled *t = machine_up();
    struct machine_plug *a = attach(t), *b = attach(t);
    (void)state;

    machine_detach(t->machine, a);
    assert_int_equal(machine_reset(t->machine, NULL), 0);
    run_loop(t);
    assert_ptr_equal(t->gone, a);
    assert_false(in_slot(t, machine_plug_slot(a)));
    assert_true(in_slot(t, machine_plug_slot(b)));
    machine_forget(t->machine, a);
    assert_int_equal(machine_reset(t->machine, NULL), 0);
    assert_true(in_slot(t, machine_plug_slot(b)));
    machine_down(t);
}

/* A machine that ends between the guest's letting go and the owner's frees all the same. */
static void ends_meanwhile(void **state) {
    struct pulled *t = machine_up();
    struct machine_plug *p = attach(t), *other = attach(t);
    (void)state;

    mem_port_write(t->machine->mem, EJECT, 4, 1u << machine_plug_slot(p));
    run_loop(t);
    assert_ptr_equal(t->gone, p);
    mem_port_write(t->machine->mem, EJECT, 4, 1u << machine_plug_slot(other));
    machine_down(t);
}

/* The entropy device has no back end that could go: its slot cannot be ejected. */
static void fixed_devices_stay(void **state) {
    struct pulled *t = machine_up();
    uint32_t slots = machine_hotplug_slots(t->machine);
    (void)state;

    assert_int_equal(slots, 0xfffffffc); /* not the bridge, not the device in slot 1 */
    mem_port_write(t->machine->mem, EJECT, 4, UINT32_MAX);
    assert_true(in_slot(t, 1));
    while (pci_free_slot(t->machine->pci) >= 0)
        attach(t);
    assert_int_equal(machine_hotplug_slots(t->machine), slots);
    cleanup_err struct err e = ERR_INIT;
    const struct machine_disk disk = {.block = &t->disk.b};
    assert_null(machine_attach_disk(t->machine, &disk, &e));
    assert_string_equal(err_msg(&e), "there is no free PCI slot: detach something first");
    machine_down(t);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(coming),
        TEST(going),
        TEST(unasked),
        TEST(ejected_before_it_was_seen),
        TEST(reset_follows_requests),
        TEST(records),
        cmocka_unit_test(pulled_in_mid_flight),
        cmocka_unit_test(the_slot_is_free_at_once),
        cmocka_unit_test(goes_in_a_reset),
        cmocka_unit_test(ends_meanwhile),
        cmocka_unit_test(fixed_devices_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
