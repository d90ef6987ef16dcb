/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 16550A UART (National Semiconductor PC16550D data sheet).
 *
 * Characters cross the line at once: there is no baud-rate delay in either direction, and all eight
 * bits are passed on whatever the word length. What the host cannot take yet is on the line, as far
 * as the guest can see: THRE and TEMT stay clear until the back end has taken all of it.
 *
 * The other end sends only to who listens, as over a cable that joins RTS to CTS: drivers empty the
 * receiver more than once while they open a port, and what was sent by then would be lost. A guest
 * that leaves RTS alone listens when it waits for the receiver's interrupt or polls LSR.
 */
#include "dev/uart16550.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "mem/mem.h"
#include "ui/chardev.h"

#define UART_CLOCK_HZ 1843200u
#define FIFO_SIZE 16
/* Without RTS: how long the receiver's interrupt must have been enabled (Linux enables it just
 * before it clears the FIFO for the last time), or how many reads of LSR follow each other. */
#define LISTEN_NS 100000000ull
#define LISTEN_POLLS 16
/* A guest that ignores THRE loses data only beyond this. Power of two. */
#define OUT_SIZE 16384

enum {
    REG_RBR = 0,
    REG_IER = 1,
    REG_IIR = 2,
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7
};

enum { IER_ERBFI = 0x01, IER_ETBEI = 0x02, IER_ELSI = 0x04, IER_EDSSI = 0x08 };
enum {
    IIR_MSR = 0x00,
    IIR_NONE = 0x01,
    IIR_THRE = 0x02,
    IIR_RDA = 0x04,
    IIR_RLS = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04, FCR_TRIGGER = 0xc0 };
enum { LCR_WLS = 0x03, LCR_STB = 0x04, LCR_PEN = 0x08, LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10 };
enum {
    LSR_DR = 0x01,
    LSR_OE = 0x02,
    LSR_PE = 0x04,
    LSR_FE = 0x08,
    LSR_BI = 0x10,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERR = 0x80,
    LSR_ERRORS = LSR_OE | LSR_PE | LSR_FE | LSR_BI,
};
enum {
    MSR_DCTS = 0x01,
    MSR_DDSR = 0x02,
    MSR_TERI = 0x04,
    MSR_DDCD = 0x08,
    MSR_DELTA = 0x0f,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

struct uart_regs {
    uint8_t ier, lcr, mcr, lsr, msr, scr, fcr;
    uint16_t divisor;
    bool thre_pending, timeout_pending;
    uint8_t rx[FIFO_SIZE];
    uint8_t rx_err[FIFO_SIZE]; /* LSR_PE, LSR_FE, LSR_BI of each character */
    uint8_t rx_head, rx_count;
    uint64_t timeout_at; /* guest ns of the character timeout, 0 while none runs */
    bool listens;        /* without RTS */
    uint8_t polls;       /* reads of LSR since anything was written */
    uint64_t listen_at;  /* guest ns at which an enabled interrupt counts, 0: none */
};

struct uart16550 {
    struct device dev;
    struct mem *mem;
    struct clock *clock;
    struct region *region;
    struct irq_line irq;
    struct chardev *chr;
    struct timer *timer, *listen_timer;
    struct uart_regs r;
    uint32_t out_head, out_count;
    uint8_t out[OUT_SIZE];
};

static bool fifos_on(const struct uart16550 *u) {
    return u->r.fcr & FCR_ENABLE;
}

static unsigned rx_capacity(const struct uart16550 *u) {
    return fifos_on(u) ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart16550 *u) {
    static const uint8_t level[4] = {1, 4, 8, 14};
    return fifos_on(u) ? level[u->r.fcr >> 6] : 1;
}

/* The highest-priority pending interrupt (data sheet, table IV). */
static uint8_t interrupt_id(const struct uart16550 *u) {
    const struct uart_regs *r = &u->r;

    if ((r->ier & IER_ELSI) && (r->lsr & LSR_ERRORS))
        return IIR_RLS;
    if ((r->ier & IER_ERBFI) && r->rx_count >= rx_trigger(u))
        return IIR_RDA;
    if ((r->ier & IER_ERBFI) && r->timeout_pending)
        return IIR_TIMEOUT;
    if ((r->ier & IER_ETBEI) && r->thre_pending)
        return IIR_THRE;
    if ((r->ier & IER_EDSSI) && (r->msr & MSR_DELTA))
        return IIR_MSR;
    return IIR_NONE;
}

/* On a PC, OUT2 opens the gate between INTRPT and the bus; loopback holds the OUT2 pin inactive. */
static void update_irq(struct uart16550 *u) {
    bool gate = (u->r.mcr & MCR_OUT2) && !(u->r.mcr & MCR_LOOP);

    irq_set(&u->irq, gate && interrupt_id(u) != IIR_NONE);
}

/* --- receiver --- */

static uint64_t four_characters_ns(const struct uart16550 *u) {
    unsigned bits =
        1 + 5 + (u->r.lcr & LCR_WLS) + !!(u->r.lcr & LCR_PEN) + 1 + !!(u->r.lcr & LCR_STB);
    unsigned divisor = u->r.divisor ? u->r.divisor : 1;

    return 4ull * bits * divisor * 16 * NS_PER_S / UART_CLOCK_HZ;
}

static void restart_timeout(struct uart16550 *u) {
    u->r.timeout_pending = false;
    if (!fifos_on(u) || u->r.rx_count == 0) {
        u->r.timeout_at = 0;
        timer_disarm(u->timer);
        return;
    }
    u->r.timeout_at = clock_now(u->clock) + four_characters_ns(u);
    timer_arm(u->timer, u->r.timeout_at);
}

static void timeout_fired(void *arg) {
    struct uart16550 *u = arg;

    mem_io_lock(u->mem);
    /* A character may have come or gone while this call waited for the lock. */
    if (u->r.timeout_at && clock_now(u->clock) >= u->r.timeout_at) {
        u->r.timeout_at = 0;
        u->r.timeout_pending = true;
        update_irq(u);
    }
    mem_io_unlock(u->mem);
}

/* The error bits of LSR belong to the character at the top of the FIFO. */
static void reveal_top(struct uart16550 *u) {
    struct uart_regs *r = &u->r;
    uint8_t any = 0;

    for (unsigned i = 0; i < r->rx_count; i++)
        any |= r->rx_err[(r->rx_head + i) % FIFO_SIZE];
    r->lsr &= (uint8_t)~LSR_DR;
    if (r->rx_count) {
        r->lsr |= LSR_DR | r->rx_err[r->rx_head];
        r->rx_err[r->rx_head] = 0;
    }
    if (any && fifos_on(u))
        r->lsr |= LSR_FIFO_ERR;
}

static void push_rx(struct uart16550 *u, uint8_t c, uint8_t errors) {
    struct uart_regs *r = &u->r;

    if (r->rx_count == rx_capacity(u)) {
        r->lsr |= LSR_OE;
        if (fifos_on(u))
            return; /* the shift register is overwritten, the FIFO is not */
        r->rx_count = 0;
    }
    unsigned at = (r->rx_head + r->rx_count) % FIFO_SIZE;
    r->rx[at] = c;
    r->rx_err[at] = errors;
    r->rx_count++;
    reveal_top(u);
    restart_timeout(u);
}

static bool listening(const struct uart16550 *u) {
    return (u->r.mcr & MCR_RTS) || u->r.listens;
}

static void start_listening(struct uart16550 *u) {
    u->r.listens = true;
    chardev_readable(u->chr);
}

static void listen_fired(void *arg) {
    struct uart16550 *u = arg;

    mem_io_lock(u->mem);
    if (u->r.listen_at && clock_now(u->clock) >= u->r.listen_at) {
        u->r.listen_at = 0;
        if (u->r.ier & IER_ERBFI)
            start_listening(u);
    }
    mem_io_unlock(u->mem);
}

static uint8_t pop_rx(struct uart16550 *u) {
    struct uart_regs *r = &u->r;
    uint8_t c = r->rx[r->rx_head];

    if (r->rx_count == 0)
        return c; /* the last character stays in the buffer */
    r->rx_count--;
    if (r->rx_count || fifos_on(u))
        r->rx_head = (r->rx_head + 1) % FIFO_SIZE;
    reveal_top(u);
    restart_timeout(u);
    chardev_readable(u->chr);
    return c;
}

static void clear_rx(struct uart16550 *u) {
    u->r.rx_count = 0;
    u->r.rx_head = 0;
    memset(u->r.rx_err, 0, sizeof(u->r.rx_err));
    u->r.lsr &= (uint8_t)~LSR_FIFO_ERR;
    reveal_top(u);
    restart_timeout(u);
    chardev_readable(u->chr);
}

/* --- transmitter --- */

static void drain_out(struct uart16550 *u) {
    while (u->out_count) {
        size_t run = MIN(u->out_count, OUT_SIZE - u->out_head);
        size_t n = chardev_write(u->chr, u->out + u->out_head, run);

        n = MIN(n, run);
        u->out_head = (u->out_head + (uint32_t)n) % OUT_SIZE;
        u->out_count -= (uint32_t)n;
        if (n < run)
            return;
    }
    if (!(u->r.lsr & LSR_THRE)) {
        u->r.lsr |= LSR_THRE | LSR_TEMT;
        u->r.thre_pending = true;
    }
}

static void transmit(struct uart16550 *u, uint8_t c) {
    u->r.thre_pending = false;
    u->r.lsr &= (uint8_t) ~(LSR_THRE | LSR_TEMT);
    if (u->r.mcr & MCR_LOOP) {
        push_rx(u, c, 0);
    } else if (u->out_count < OUT_SIZE) {
        u->out[(u->out_head + u->out_count) % OUT_SIZE] = c;
        u->out_count++;
    }
    drain_out(u);
}

/* --- registers --- */

/* In loopback the modem outputs drive the modem inputs; otherwise a ready modem is connected. */
static uint8_t modem_inputs(const struct uart16550 *u) {
    uint8_t mcr = u->r.mcr, in = 0;

    if (!(mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    if (mcr & MCR_RTS)
        in |= MSR_CTS;
    if (mcr & MCR_DTR)
        in |= MSR_DSR;
    if (mcr & MCR_OUT1)
        in |= MSR_RI;
    if (mcr & MCR_OUT2)
        in |= MSR_DCD;
    return in;
}

static void write_mcr(struct uart16550 *u, uint8_t v) {
    uint8_t was = u->r.msr, delta = was & MSR_DELTA;
    bool leaves_loop = (u->r.mcr & MCR_LOOP) && !(v & MCR_LOOP);
    bool calls = !(u->r.mcr & MCR_RTS) && (v & MCR_RTS);

    u->r.mcr = v & 0x1f;
    uint8_t now = modem_inputs(u);
    delta |= ((was ^ now) & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4;
    if ((was & MSR_RI) && !(now & MSR_RI))
        delta |= MSR_TERI;
    u->r.msr = now | delta;
    if (leaves_loop || calls)
        chardev_readable(u->chr);
}

/* The transmitter's clear bit drops nothing: what was written is on the line already. */
static void write_fcr(struct uart16550 *u, uint8_t v) {
    bool toggled = (v ^ u->r.fcr) & FCR_ENABLE;

    u->r.fcr = v & FCR_ENABLE ? v & (FCR_ENABLE | FCR_TRIGGER) : 0;
    if (toggled || ((v & FCR_ENABLE) && (v & FCR_CLEAR_RX)))
        clear_rx(u);
}

static void write_ier(struct uart16550 *u, uint8_t v) {
    v &= 0x0f;
    /* Enabling the interrupt while the holding register is empty raises it. */
    if ((v & IER_ETBEI) && !(u->r.ier & IER_ETBEI) && (u->r.lsr & LSR_THRE))
        u->r.thre_pending = true;
    if ((v & IER_ERBFI) && !(u->r.ier & IER_ERBFI) && !listening(u)) {
        u->r.listen_at = clock_now(u->clock) + LISTEN_NS;
        timer_arm(u->listen_timer, u->r.listen_at);
    }
    u->r.ier = v;
}

static void write_lcr(struct uart16550 *u, uint8_t v) {
    bool starts = (v & LCR_BREAK) && !(u->r.lcr & LCR_BREAK);

    u->r.lcr = v;
    if (starts && (u->r.mcr & MCR_LOOP))
        push_rx(u, 0, LSR_BI | LSR_FE);
}

static void write_divisor(struct uart16550 *u, unsigned shift, uint8_t v) {
    u->r.divisor = (uint16_t)((u->r.divisor & ~(0xffu << shift)) | (unsigned)v << shift);
}

static void uart16550_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct uart16550 *u = dev;
    uint8_t v = (uint8_t)value;
    bool dlab = u->r.lcr & LCR_DLAB;

    (void)size;
    u->r.polls = 0;
    if (off == REG_RBR && dlab)
        write_divisor(u, 0, v);
    else if (off == REG_RBR)
        transmit(u, v);
    else if (off == REG_IER && dlab)
        write_divisor(u, 8, v);
    else if (off == REG_IER)
        write_ier(u, v);
    else if (off == REG_IIR)
        write_fcr(u, v);
    else if (off == REG_LCR)
        write_lcr(u, v);
    else if (off == REG_MCR)
        write_mcr(u, v);
    else if (off == REG_SCR)
        u->r.scr = v;
    update_irq(u);
}

static uint8_t read_iir(struct uart16550 *u) {
    uint8_t id = interrupt_id(u);

    if (id == IIR_THRE)
        u->r.thre_pending = false;
    return fifos_on(u) ? id | IIR_FIFOS : id;
}

static uint8_t read_lsr(struct uart16550 *u) {
    uint8_t v = u->r.lsr;

    u->r.lsr &= (uint8_t) ~(LSR_ERRORS | LSR_FIFO_ERR);
    reveal_top(u);
    /* Who waits for the transmitter does not wait for the receiver. */
    if (!listening(u) && (v & LSR_THRE) && ++u->r.polls == LISTEN_POLLS)
        start_listening(u);
    return v;
}

static uint8_t read_msr(struct uart16550 *u) {
    uint8_t v = u->r.msr;

    u->r.msr &= (uint8_t)~MSR_DELTA;
    return v;
}

static uint8_t read_reg(struct uart16550 *u, uint64_t off) {
    bool dlab = u->r.lcr & LCR_DLAB;

    switch (off) {
    case REG_RBR:
        return dlab ? (uint8_t)u->r.divisor : pop_rx(u);
    case REG_IER:
        return dlab ? (uint8_t)(u->r.divisor >> 8) : u->r.ier;
    case REG_IIR:
        return read_iir(u);
    case REG_LCR:
        return u->r.lcr;
    case REG_MCR:
        return u->r.mcr;
    case REG_LSR:
        return read_lsr(u);
    case REG_MSR:
        return read_msr(u);
    default:
        return u->r.scr;
    }
}

static uint64_t uart16550_read(void *dev, uint64_t off, unsigned size) {
    struct uart16550 *u = dev;
    uint8_t v = read_reg(u, off);

    (void)size;
    update_irq(u);
    return v;
}

static const struct io_ops uart16550_io = {
    .read = uart16550_read,
    .write = uart16550_write,
    .min_size = 1,
    .max_size = 1,
};

/* --- back end --- */

size_t uart16550_can_receive(struct uart16550 *u) {
    mem_io_lock(u->mem);
    /* In loopback the serial input is disconnected; the back end keeps what it has until it is not.
     */
    bool connected = !(u->r.mcr & MCR_LOOP) && listening(u);
    size_t room = connected ? rx_capacity(u) - u->r.rx_count : 0;
    mem_io_unlock(u->mem);
    return room;
}

void uart16550_receive(struct uart16550 *u, const uint8_t *buf, size_t len) {
    mem_io_lock(u->mem);
    for (size_t i = 0; i < len; i++)
        push_rx(u, buf[i], 0);
    update_irq(u);
    mem_io_unlock(u->mem);
}

void uart16550_receive_break(struct uart16550 *u) {
    mem_io_lock(u->mem);
    push_rx(u, 0, LSR_BI | LSR_FE);
    update_irq(u);
    mem_io_unlock(u->mem);
}

void uart16550_writable(struct uart16550 *u) {
    mem_io_lock(u->mem);
    drain_out(u);
    update_irq(u);
    mem_io_unlock(u->mem);
}

static size_t front_can_receive(void *front) {
    return uart16550_can_receive(front);
}

static void front_receive(void *front, const uint8_t *buf, size_t len) {
    uart16550_receive(front, buf, len);
}

static void front_writable(void *front) {
    uart16550_writable(front);
}

static const struct chardev_front uart16550_front = {
    .can_receive = front_can_receive,
    .receive = front_receive,
    .writable = front_writable,
};

/* --- device --- */

/* Output that the host has not taken yet survives: it left the chip before the reset. */
static void uart16550_reset(struct device *d) {
    struct uart16550 *u = (struct uart16550 *)d;

    timer_disarm(u->timer);
    timer_disarm(u->listen_timer);
    u->r = (struct uart_regs){.divisor = 12};
    u->r.msr = modem_inputs(u);
    u->r.lsr = u->out_count ? 0 : LSR_THRE | LSR_TEMT;
    update_irq(u);
}

static void uart16550_save(const struct device *d, struct record_writer *w) {
    const struct uart16550 *u = (const struct uart16550 *)d;
    const struct uart_regs *r = &u->r;

    rec_put_u8(w, r->ier);
    rec_put_u8(w, r->lcr);
    rec_put_u8(w, r->mcr);
    rec_put_u8(w, r->lsr);
    rec_put_u8(w, r->msr);
    rec_put_u8(w, r->scr);
    rec_put_u8(w, r->fcr);
    rec_put_u16(w, r->divisor);
    rec_put_u8(w, r->thre_pending);
    rec_put_u8(w, r->timeout_pending);
    rec_put_bytes(w, r->rx, FIFO_SIZE);
    rec_put_bytes(w, r->rx_err, FIFO_SIZE);
    rec_put_u8(w, r->rx_head);
    rec_put_u8(w, r->rx_count);
    rec_put_u64(w, r->timeout_at);
    rec_put_u8(w, r->listens);
    rec_put_u8(w, r->polls);
    rec_put_u64(w, r->listen_at);
    rec_put_u32(w, u->out_count);
    for (uint32_t i = 0; i < u->out_count; i++)
        rec_put_u8(w, u->out[(u->out_head + i) % OUT_SIZE]);
}

static void get_regs(struct uart_regs *r, struct record_reader *rr) {
    r->ier = rec_get_u8(rr);
    r->lcr = rec_get_u8(rr);
    r->mcr = rec_get_u8(rr);
    r->lsr = rec_get_u8(rr);
    r->msr = rec_get_u8(rr);
    r->scr = rec_get_u8(rr);
    r->fcr = rec_get_u8(rr);
    r->divisor = rec_get_u16(rr);
    r->thre_pending = rec_get_u8(rr);
    r->timeout_pending = rec_get_u8(rr);
    rec_get_bytes(rr, r->rx, FIFO_SIZE);
    rec_get_bytes(rr, r->rx_err, FIFO_SIZE);
    r->rx_head = rec_get_u8(rr);
    r->rx_count = rec_get_u8(rr);
    r->timeout_at = rec_get_u64(rr);
    r->listens = rec_get_u8(rr);
    r->polls = rec_get_u8(rr);
    r->listen_at = rec_get_u64(rr);
}

static int uart16550_check(const struct device *d, struct record_reader *rr, struct err *e) {
    struct uart_regs r;

    (void)d;
    get_regs(&r, rr);
    unsigned capacity = r.fcr & FCR_ENABLE ? FIFO_SIZE : 1;
    if (r.ier & ~0x0f || r.mcr & ~0x1f || r.fcr & ~(FCR_ENABLE | FCR_TRIGGER))
        return err_set(e, 0, "uart16550: reserved register bits are set");
    if (r.rx_head >= FIFO_SIZE || r.rx_count > capacity)
        return err_set(e, 0, "uart16550: receive FIFO of %u at %u", r.rx_count, r.rx_head);
    uint32_t out = rec_get_u32(rr);
    if (out > OUT_SIZE)
        return err_set(e, 0, "uart16550: %u bytes of output", out);
    for (uint32_t i = 0; i < out; i++)
        rec_get_u8(rr);
    return rec_done(rr, e);
}

static void uart16550_load(struct device *d, struct record_reader *rr) {
    struct uart16550 *u = (struct uart16550 *)d;

    get_regs(&u->r, rr);
    u->out_head = 0;
    u->out_count = rec_get_u32(rr);
    rec_get_bytes(rr, u->out, u->out_count);
    if (u->r.timeout_at)
        timer_arm(u->timer, u->r.timeout_at);
    if (u->r.listen_at)
        timer_arm(u->listen_timer, u->r.listen_at);
    drain_out(u);
    update_irq(u);
}

static void uart16550_destroy(struct device *d) {
    struct uart16550 *u = (struct uart16550 *)d;

    if (u->chr)
        chardev_attach(u->chr, NULL, NULL);
    mem_del_region(u->mem, u->region);
    timer_free(u->timer);
    timer_free(u->listen_timer);
    free(u);
}

static const struct device_ops uart16550_ops = {
    .name = "uart16550",
    .version = 1,
    .reset = uart16550_reset,
    .save = uart16550_save,
    .check = uart16550_check,
    .load = uart16550_load,
    .destroy = uart16550_destroy,
};

struct uart16550 *uart16550_new(struct mem *m, struct clock *c, uint16_t port, struct irq_line irq,
                                struct chardev *chr, struct err *e) {
    struct uart16550 *u = xcalloc(1, sizeof(*u));

    u->dev.ops = &uart16550_ops;
    u->mem = m;
    u->clock = c;
    u->irq = irq;
    u->chr = chr;
    u->region = mem_add_port(m, port, 8, "uart16550", &uart16550_io, u, e);
    if (!u->region) {
        free(u);
        return NULL;
    }
    u->timer = timer_new(c, timeout_fired, u);
    u->listen_timer = timer_new(c, listen_fired, u);
    if (chr)
        chardev_attach(chr, &uart16550_front, u);
    uart16550_reset(&u->dev);
    return u;
}
