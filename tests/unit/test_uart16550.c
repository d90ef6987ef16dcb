/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A, register by register (PC16550D data sheet). */
#include "dev_test.h"
#include "fake_clock.h"

#include <string.h>

#include "dev/uart16550.h"
#include "ui/chardev.h"

#define COM1 UART16550_COM1

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

/* A back end that takes `room` more bytes. */
struct sink {
    struct chardev chr;
    size_t room, got, offered_room;
    char data[65536];
};

struct fixture {
    struct clock clock;
    struct mem *mem;
    struct probe irq;
    struct sink sink;
    struct uart16550 *uart;
};

static int sink_write(void *chr, const uint8_t *buf, size_t len) {
    struct sink *s = chr;
    size_t n = MIN(len, s->room);

    memcpy(s->data + s->got, buf, n);
    s->got += n;
    s->room -= n;
    return (int)n;
}

static void sink_readable(void *chr) {
    struct sink *s = chr;

    s->offered_room++;
}

static const struct chardev_ops sink_ops = {sink_write, sink_readable};

static int set_up(void **state) {
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->mem = test_mem();
    f->sink.chr.ops = &sink_ops;
    f->sink.room = sizeof(f->sink.data);
    f->uart = uart16550_new(f->mem, &f->clock, COM1, probe_line(&f->irq), &f->sink.chr, NULL);
    assert_non_null(f->uart);
    outb(f->mem, COM1 + MCR, 0x0b);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct device *d = (struct device *)f->uart;

    d->ops->destroy(d);
    assert_null(f->sink.chr.front);
    assert_null(f->clock.timers);
    mem_free(f->mem);
    free(f);
    return 0;
}

static void receive(struct fixture *f, const char *text) {
    f->sink.chr.front->receive(f->sink.chr.front_arg, (const uint8_t *)text, strlen(text));
}

static void looks_like_a_16550a(void **state) {
    struct fixture *f = *state;

    assert_int_equal(inb(f->mem, COM1 + LSR), 0x60);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x01);
    outb(f->mem, COM1 + IIR, 0x01);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0xc1);
    outb(f->mem, COM1 + IER, 0xff);
    assert_int_equal(inb(f->mem, COM1 + IER), 0x0f);
    outb(f->mem, COM1 + SCR, 0x5a);
    assert_int_equal(inb(f->mem, COM1 + SCR), 0x5a);
    assert_int_equal(inb(f->mem, COM1 + MSR), 0xb0);
}

static void divisor_hides_behind_dlab(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + LCR, 0x83);
    outb(f->mem, COM1 + RBR, 0x34);
    outb(f->mem, COM1 + IER, 0x12);
    assert_int_equal(inb(f->mem, COM1 + RBR), 0x34);
    assert_int_equal(inb(f->mem, COM1 + IER), 0x12);
    outb(f->mem, COM1 + LCR, 0x03);
    assert_int_equal(inb(f->mem, COM1 + IER), 0);
    assert_int_equal(f->sink.got, 0);
}

static void transmits_and_tells(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + IER, 0x02);
    assert_true(f->irq.level); /* the holding register is empty already */
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x02);
    assert_false(f->irq.level); /* reading IIR is the answer to it */
    outb(f->mem, COM1 + RBR, 'x');
    assert_true(f->irq.level);
    assert_int_equal(f->sink.got, 1);
    assert_int_equal(f->sink.data[0], 'x');
}

static void slow_host_withholds_thre(void **state) {
    struct fixture *f = *state;

    f->sink.room = 3;
    outb(f->mem, COM1 + IER, 0x02);
    inb(f->mem, COM1 + IIR);
    for (int i = 0; i < 10; i++)
        outb(f->mem, COM1 + RBR, (uint8_t)('0' + i));
    assert_int_equal(inb(f->mem, COM1 + LSR) & 0x60, 0);
    inb(f->mem, COM1 + IIR);
    assert_false(f->irq.level);
    f->sink.room = 100;
    uart16550_writable(f->uart);
    assert_int_equal(inb(f->mem, COM1 + LSR) & 0x60, 0x60);
    assert_true(f->irq.level);
    assert_int_equal(f->sink.got, 10);
    assert_memory_equal(f->sink.data, "0123456789", 10);
}

static void guest_that_ignores_thre_loses_nothing_for_long(void **state) {
    struct fixture *f = *state;

    f->sink.room = 0;
    for (int i = 0; i < 20000; i++)
        outb(f->mem, COM1 + RBR, (uint8_t)i);
    outb(f->mem, COM1 + IIR, 0x07); /* clearing the FIFOs recalls nothing */
    f->sink.room = sizeof(f->sink.data);
    uart16550_writable(f->uart);
    assert_int_equal(f->sink.got, 16384);
    for (int i = 0; i < 16384; i++)
        assert_int_equal((uint8_t)f->sink.data[i], (uint8_t)i);
}

static void one_character_without_fifo(void **state) {
    struct fixture *f = *state;

    assert_int_equal(uart16550_can_receive(f->uart), 1);
    outb(f->mem, COM1 + IER, 0x05);
    receive(f, "a");
    assert_int_equal(uart16550_can_receive(f->uart), 0);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x04);
    receive(f, "b"); /* overrun: the new one replaces the old */
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x06);
    assert_int_equal(inb(f->mem, COM1 + LSR), 0x63);
    assert_int_equal(inb(f->mem, COM1 + LSR), 0x61);
    assert_int_equal(inb(f->mem, COM1 + RBR), 'b');
    assert_int_equal(inb(f->mem, COM1 + LSR), 0x60);
    assert_false(f->irq.level);
    assert_true(f->sink.offered_room > 0);
}

static void fifo_triggers_at_its_level(void **state) {
    static const struct {
        uint8_t fcr;
        unsigned level;
    } cases[] = {{0x01, 1}, {0x41, 4}, {0x81, 8}, {0xc1, 14}};
    struct fixture *f = *state;

    outb(f->mem, COM1 + IER, 0x01);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        outb(f->mem, COM1 + IIR, cases[i].fcr | 0x02);
        assert_int_equal(uart16550_can_receive(f->uart), 16);
        for (unsigned n = 1; n <= cases[i].level; n++) {
            assert_false(f->irq.level);
            receive(f, "z");
        }
        assert_int_equal(inb(f->mem, COM1 + IIR), 0xc4);
        inb(f->mem, COM1 + RBR);
        assert_false(f->irq.level);
    }
}

static void fifo_overruns_at_seventeen(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + IIR, 0x01);
    receive(f, "0123456789abcdefX");
    assert_int_equal(inb(f->mem, COM1 + LSR), 0x63);
    for (int i = 0; i < 16; i++)
        assert_int_equal(inb(f->mem, COM1 + RBR), "0123456789abcdef"[i]);
    assert_int_equal(inb(f->mem, COM1 + LSR), 0x60);
}

/* 115200 8N1: four characters of ten bits are 347 us. */
static void few_characters_time_out(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + LCR, 0x83);
    outb(f->mem, COM1 + RBR, 1);
    outb(f->mem, COM1 + IER, 0);
    outb(f->mem, COM1 + LCR, 0x03);
    outb(f->mem, COM1 + IER, 0x01);
    outb(f->mem, COM1 + IIR, 0xc1);
    receive(f, "ab");
    fake_clock_advance(&f->clock, 347000);
    assert_false(f->irq.level);
    fake_clock_advance(&f->clock, 1000);
    assert_true(f->irq.level);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0xcc);
    assert_int_equal(inb(f->mem, COM1 + RBR), 'a'); /* starts the time anew */
    assert_false(f->irq.level);
    fake_clock_advance(&f->clock, 348000);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0xcc);
    assert_int_equal(inb(f->mem, COM1 + RBR), 'b');
    fake_clock_advance(&f->clock, 1000000);
    assert_false(f->irq.level);
}

static void break_is_a_character_with_errors(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + IIR, 0x01);
    receive(f, "a");
    uart16550_receive_break(f->uart);
    assert_int_equal(inb(f->mem, COM1 + LSR), 0xe1); /* somewhere in the FIFO */
    inb(f->mem, COM1 + RBR);
    assert_int_equal(inb(f->mem, COM1 + LSR) & 0x1f, 0x19); /* at its top */
    assert_int_equal(inb(f->mem, COM1 + RBR), 0);
    assert_int_equal(inb(f->mem, COM1 + LSR), 0x60);
}

static void loopback_turns_everything_round(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + MCR, 0x1a);
    assert_int_equal(inb(f->mem, COM1 + MSR) & 0xf0, 0x90);
    outb(f->mem, COM1 + MCR, 0x15);
    assert_int_equal(inb(f->mem, COM1 + MSR), 0x6b); /* DSR and RI; CTS, DSR and DCD changed */
    outb(f->mem, COM1 + MCR, 0x10);
    assert_int_equal(inb(f->mem, COM1 + MSR), 0x06); /* DSR changed, RI fell */
    outb(f->mem, COM1 + IER, 0x01);
    outb(f->mem, COM1 + RBR, 0xa5);
    assert_int_equal(f->sink.got, 0);
    assert_int_equal(uart16550_can_receive(f->uart), 0);
    assert_false(f->irq.level); /* OUT2 is held inactive */
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x04);
    assert_int_equal(inb(f->mem, COM1 + RBR), 0xa5);
}

static void out2_gates_the_line(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + MCR, 0x03);
    outb(f->mem, COM1 + IER, 0x02);
    assert_false(f->irq.level);
    outb(f->mem, COM1 + MCR, 0x0b);
    assert_true(f->irq.level);
}

static void priorities(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + MCR, 0x1b);
    outb(f->mem, COM1 + MCR, 0x10); /* modem status */
    outb(f->mem, COM1 + MCR, 0x0b);
    outb(f->mem, COM1 + IER, 0x0f); /* transmitter empty */
    receive(f, "ab");               /* received data, overrun */
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x06);
    inb(f->mem, COM1 + LSR);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x04);
    inb(f->mem, COM1 + RBR);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x02);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x00);
    inb(f->mem, COM1 + MSR);
    assert_int_equal(inb(f->mem, COM1 + IIR), 0x01);
    assert_false(f->irq.level);
}

static void state_moves(void **state) {
    struct fixture *f = *state;
    struct probe irq = {0};
    struct sink *sink = xcalloc(1, sizeof(*sink));
    struct mem *m = test_mem();

    sink->chr.ops = &sink_ops;
    sink->room = 100;
    struct uart16550 *u = uart16550_new(m, &f->clock, COM1, probe_line(&irq), &sink->chr, NULL);
    struct device *d = (struct device *)u;
    outb(f->mem, COM1 + IIR, 0xc1);
    outb(f->mem, COM1 + IER, 0x01);
    f->sink.room = 0;
    outb(f->mem, COM1 + RBR, 'o');
    receive(f, "in");

    struct record_writer w = {0};
    save_device((struct device *)f->uart, &w);
    assert_int_equal(load_record(d, w.buf, w.len), 0);
    assert_int_equal(sink->got, 1); /* what was still to go out */
    fake_clock_advance(&f->clock, 100000000);
    assert_true(irq.level);
    assert_int_equal(inb(m, COM1 + RBR), 'i');
    assert_int_equal(inb(m, COM1 + RBR), 'n');
    refuses_nonsense(d);
    rec_writer_free(&w);
    d->ops->destroy(d);
    mem_free(m);
    free(sink);
}

static void ports_in_use_are_an_error(void **state) {
    struct fixture *f = *state;
    cleanup_err struct err e = ERR_INIT;

    assert_null(uart16550_new(f->mem, &f->clock, COM1, (struct irq_line){0}, NULL, &e));
    assert_non_null(e.msg);
}

/* What a driver does while it opens the port (clear the FIFOs, read what is there) loses nothing.
 */
static void without_rts_the_other_end_waits(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + MCR, 0x09);
    outb(f->mem, COM1 + IIR, 0x01);
    assert_int_equal(uart16550_can_receive(f->uart), 0);
    for (unsigned i = 0; i < 100; i++) { /* writing text polls, too */
        assert_int_equal(inb(f->mem, COM1 + LSR), 0x60);
        outb(f->mem, COM1 + RBR, 'x');
    }
    outb(f->mem, COM1 + IER, 0x01);
    fake_clock_advance(&f->clock, 50000000);
    outb(f->mem, COM1 + IER, 0x00);
    fake_clock_advance(&f->clock, 100000000);
    assert_int_equal(uart16550_can_receive(f->uart), 0);
    f->sink.offered_room = 0;
    outb(f->mem, COM1 + MCR, 0x0b);
    assert_int_equal(uart16550_can_receive(f->uart), 16);
    assert_int_equal(f->sink.offered_room, 1);
    outb(f->mem, COM1 + MCR, 0x09);
    assert_int_equal(uart16550_can_receive(f->uart), 0);
}

static void an_interrupt_listens_without_rts(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + MCR, 0x08);
    outb(f->mem, COM1 + IER, 0x01);
    fake_clock_advance(&f->clock, 99999999);
    assert_int_equal(uart16550_can_receive(f->uart), 0);
    fake_clock_advance(&f->clock, 1);
    assert_int_equal(uart16550_can_receive(f->uart), 1);
}

static void polling_listens_without_rts(void **state) {
    struct fixture *f = *state;

    outb(f->mem, COM1 + MCR, 0x00);
    f->sink.offered_room = 0;
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(uart16550_can_receive(f->uart), 0);
        inb(f->mem, COM1 + LSR);
    }
    assert_int_equal(uart16550_can_receive(f->uart), 1);
    assert_int_equal(f->sink.offered_room, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(without_rts_the_other_end_waits),
        TEST(an_interrupt_listens_without_rts),
        TEST(polling_listens_without_rts),
        TEST(looks_like_a_16550a),
        TEST(divisor_hides_behind_dlab),
        TEST(transmits_and_tells),
        TEST(slow_host_withholds_thre),
        TEST(guest_that_ignores_thre_loses_nothing_for_long),
        TEST(one_character_without_fifo),
        TEST(fifo_triggers_at_its_level),
        TEST(fifo_overruns_at_seventeen),
        TEST(few_characters_time_out),
        TEST(break_is_a_character_with_errors),
        TEST(loopback_turns_everything_round),
        TEST(out2_gates_the_line),
        TEST(priorities),
        TEST(state_moves),
        TEST(ports_in_use_are_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
