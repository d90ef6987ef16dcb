/* SPDX-License-Identifier: Apache-2.0 */
/* The loop around run(), with an engine whose run() does what each test tells it to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/x86/state.h"
#include "machine/vcpu.h"
#include "mem/mem.h"

#define VCPUS 3

/* A vCPU that comes back from run() with `next`, or spins there until it is kicked. */
struct fake {
    struct vcpu v; /* first */
    struct x86_state s;
    _Atomic bool spin, kicked, inside;
    _Atomic unsigned runs;
    struct vcpu_exit next;
};

static struct fake fakes[VCPUS];
static struct vcpu_set set;
static struct mem *mem;
static _Atomic unsigned stops, inits;

static void fake_run(struct vcpu *v, struct vcpu_exit *x) {
    struct fake *f = (struct fake *)v;

    f->inside = true;
    f->runs++;
    while (f->spin && !f->kicked && !atomic_load(&v->events))
        sched_yield();
    f->kicked = false;
    *x = f->spin ? (struct vcpu_exit){.reason = VCPU_KICKED} : f->next;
    /* What is reported once is done. */
    if (x->reason == VCPU_IO || x->reason == VCPU_MMIO)
        f->spin = true;
    atomic_fetch_and(&v->events, ~(uint32_t)VCPU_EVENT_INTR);
    f->inside = false;
}

static void fake_kick(struct vcpu *v) {
    ((struct fake *)v)->kicked = true;
}

static void fake_get(struct vcpu *v, struct x86_state *s) {
    *s = ((struct fake *)v)->s;
}

static void fake_set(struct vcpu *v, const struct x86_state *s) {
    ((struct fake *)v)->s = *s;
}

static const struct engine_ops fake_ops = {.name = "fake",
                                           .run = fake_run,
                                           .kick = fake_kick,
                                           .get_state = fake_get,
                                           .set_state = fake_set};

static void on_stopped(void *arg, struct vcpu_thread *t) {
    (void)arg;
    (void)t;
    stops++;
    vcpu_set_hold_begin(&set);
}

static void on_init(void *arg, unsigned index) {
    (void)arg;
    (void)index;
    inits++;
}

static const struct vcpu_set_ops set_ops = {on_stopped, on_init};

static int setup(void **state) {
    struct vcpu *vcpus[VCPUS];
    struct x86_state bsp, ap;

    (void)state;
    memset(fakes, 0, sizeof(fakes));
    stops = inits = 0;
    mem = mem_new(0x10000, 0, NULL);
    for (unsigned i = 0; i < VCPUS; i++) {
        fakes[i].v.ops = &fake_ops;
        fakes[i].v.index = i;
        fakes[i].spin = true;
        vcpus[i] = &fakes[i].v;
    }
    vcpu_set_init(&set, mem, vcpus, VCPUS, &set_ops, NULL);
    x86_state_reset(&bsp, true);
    x86_state_reset(&ap, false);
    vcpu_set_reset(&set, &bsp, &ap);
    return vcpu_set_start(&set, NULL);
}

static int teardown(void **state) {
    (void)state;
    vcpu_set_free(&set);
    mem_free(mem);
    return 0;
}

/* Until `*word` reaches `value`; false after ten seconds. */
static bool reaches(_Atomic unsigned *word, unsigned value) {
    for (int i = 0; i < 10000; i++) {
        if (*word >= value)
            return true;
        usleep(1000);
    }
    return false;
}

static bool gets_inside(struct fake *f) {
    for (int i = 0; i < 10000 && !f->inside; i++)
        usleep(1000);
    return f->inside;
}

static void nothing_runs_before_the_release(void **state) {
    (void)state;
    usleep(20000);
    assert_int_equal(fakes[0].runs, 0);
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, 1));
    usleep(20000);
    assert_int_equal(fakes[1].runs, 0); /* the others wait for a SIPI */
}

static void a_hold_waits_until_all_are_out(void **state) {
    (void)state;
    vcpu_set_release(&set);
    for (int i = 0; i < 100; i++) {
        assert_true(gets_inside(&fakes[0]));
        vcpu_set_hold_begin(&set);
        vcpu_set_hold_wait(&set);
        assert_false(fakes[0].inside);
        vcpu_set_release(&set);
    }
}

static void holds_nest(void **state) {
    unsigned runs;

    (void)state;
    vcpu_set_release(&set);
    assert_true(gets_inside(&fakes[0]));
    vcpu_set_hold_begin(&set);
    vcpu_set_hold_begin(&set);
    vcpu_set_hold_wait(&set);
    runs = fakes[0].runs;
    vcpu_set_release(&set);
    usleep(20000);
    assert_int_equal(fakes[0].runs, runs);
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, runs + 1));
}

static void init_and_sipi_start_a_processor(void **state) {
    (void)state;
    vcpu_set_release(&set);
    atomic_store(&fakes[1].v.sipi_vector, 0x9a);
    vcpu_raise(&fakes[1].v, VCPU_EVENT_INIT);
    assert_true(reaches(&inits, 1));
    vcpu_raise(&fakes[1].v, VCPU_EVENT_SIPI);
    assert_true(reaches(&fakes[1].runs, 1));
    vcpu_set_hold_begin(&set);
    vcpu_set_hold_wait(&set);
    assert_int_equal(fakes[1].s.seg[SEG_CS].sel, 0x9a00);
    assert_int_equal(fakes[1].s.seg[SEG_CS].base, 0x9a000);
    assert_int_equal(fakes[1].s.rip, 0);
    assert_int_equal(fakes[2].runs, 0);
}

static void a_sipi_does_not_disturb_who_runs(void **state) {
    (void)state;
    vcpu_set_release(&set);
    assert_true(gets_inside(&fakes[0]));
    vcpu_raise(&fakes[0].v, VCPU_EVENT_SIPI);
    vcpu_set_hold_begin(&set);
    vcpu_set_hold_wait(&set);
    assert_int_equal(fakes[0].s.seg[SEG_CS].sel, 0xf000);
}

static void halt(struct fake *f, uint64_t flags) {
    f->s.rflags = FLAG_FIXED | flags;
    f->next = (struct vcpu_exit){.reason = VCPU_HALT};
    f->spin = false;
}

static void a_halted_processor_sleeps_until_an_interrupt(void **state) {
    (void)state;
    halt(&fakes[0], FLAG_IF);
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, 1));
    usleep(20000);
    assert_int_equal(fakes[0].runs, 1);
    vcpu_raise(&fakes[0].v, VCPU_EVENT_INTR);
    assert_true(reaches(&fakes[0].runs, 2));
}

static void masked_interrupts_do_not_wake(void **state) {
    (void)state;
    halt(&fakes[0], 0);
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, 1));
    vcpu_raise(&fakes[0].v, VCPU_EVENT_INTR);
    usleep(20000);
    assert_int_equal(fakes[0].runs, 1);
    vcpu_raise(&fakes[0].v, VCPU_EVENT_NMI);
    assert_true(reaches(&fakes[0].runs, 2));
}

static void a_sleeping_processor_can_be_held(void **state) {
    (void)state;
    halt(&fakes[0], FLAG_IF);
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, 1));
    vcpu_set_hold_begin(&set);
    vcpu_set_hold_wait(&set);
    assert_int_equal(set.beyond, 0);
}

static void a_crash_is_reported_and_held(void **state) {
    (void)state;
    fakes[0].next = (struct vcpu_exit){.reason = VCPU_SHUTDOWN};
    fakes[0].spin = false;
    vcpu_set_release(&set);
    assert_true(reaches(&stops, 1));
    vcpu_set_hold_wait(&set);
    assert_int_equal(set.threads[0].stop.reason, VCPU_SHUTDOWN);
    usleep(10000);
    assert_int_equal(stops, 1);
}

static uint64_t device_read(void *dev, uint64_t off, unsigned size) {
    (void)dev;
    return off << 8 | size;
}

static void device_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    (void)size;
    ((uint64_t *)dev)[off] = value;
}

static const struct io_ops device = {.read = device_read, .write = device_write};

static void accesses_are_carried_out(void **state) {
    static uint64_t written[16];
    uint64_t data = 0;

    (void)state;
    assert_non_null(mem_add_port(mem, 0x100, 16, "ports", &device, written, NULL));
    fakes[0].next = (struct vcpu_exit){.reason = VCPU_IO, .io = {0x104, &data, 4, false}};
    fakes[0].spin = false;
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, 2));
    assert_int_equal(data, 4 << 8 | 4);
}

static void memory_mapped_writes_are_carried_out(void **state) {
    static uint64_t written[16];
    uint64_t data = 0xabcd;

    (void)state;
    assert_non_null(mem_add_mmio(mem, GPA(0x20000), 16, "mmio", &device, written, NULL));
    fakes[0].next = (struct vcpu_exit){.reason = VCPU_MMIO, .io = {0x20008, &data, 4, true}};
    fakes[0].spin = false;
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, 2));
    assert_int_equal(written[8], 0xabcd);
}

static void one_processor_may_stay_behind(void **state) {
    unsigned runs;

    (void)state;
    vcpu_set_release(&set);
    vcpu_raise(&fakes[1].v, VCPU_EVENT_SIPI);
    assert_true(gets_inside(&fakes[1]));
    vcpu_set_hold_begin(&set);
    vcpu_set_hold_wait(&set);
    vcpu_set_stay(&set, 0, true);
    runs = fakes[0].runs;
    vcpu_set_release(&set);
    assert_true(gets_inside(&fakes[1]));
    usleep(10000);
    assert_int_equal(fakes[0].runs, runs);
    vcpu_set_hold_begin(&set);
    vcpu_set_hold_wait(&set);
    vcpu_set_stay(&set, 0, false);
    vcpu_set_release(&set);
    assert_true(reaches(&fakes[0].runs, runs + 1));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(nothing_runs_before_the_release),
        TEST(a_hold_waits_until_all_are_out),
        TEST(holds_nest),
        TEST(init_and_sipi_start_a_processor),
        TEST(a_sipi_does_not_disturb_who_runs),
        TEST(a_halted_processor_sleeps_until_an_interrupt),
        TEST(masked_interrupts_do_not_wake),
        TEST(a_sleeping_processor_can_be_held),
        TEST(a_crash_is_reported_and_held),
        TEST(accesses_are_carried_out),
        TEST(memory_mapped_writes_are_carried_out),
        TEST(one_processor_may_stay_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
