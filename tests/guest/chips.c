/* SPDX-License-Identifier: Apache-2.0 */
/* 8259s, 8254, RTC, I/O APIC, HPET and PM timer as a guest finds them, and that their clocks agree.
 */
#include "apic.h"

enum { PIC1 = 0x20, PIC2 = 0xa0, VECTOR = 0x50, PIT = 0x40, RTC_VECTOR = VECTOR + 8 };
#define IOAPIC 0xfec00000ul
#define HPET 0xfed00000ul

static volatile unsigned ticks, rtc_ticks, level_count;
static volatile uint8_t rtc_cause, isr1;

static void pic_init(void) {
    outb(PIC1, 0x11);
    outb(PIC2, 0x11);
    outb(PIC1 + 1, VECTOR);
    outb(PIC2 + 1, VECTOR + 8);
    outb(PIC1 + 1, 4);
    outb(PIC2 + 1, 2);
    outb(PIC1 + 1, 1);
    outb(PIC2 + 1, 1);
    outb(PIC1 + 1, 0xff);
    outb(PIC2 + 1, 0xff);
}

static uint8_t pic_read(uint16_t port, uint8_t ocw3) {
    outb(port, ocw3);
    return inb(port);
}

static uint8_t rtc(uint8_t reg) {
    outb(0x70, reg);
    return inb(0x71);
}

static void rtc_set(uint8_t reg, uint8_t v) {
    outb(0x70, reg);
    outb(0x71, v);
}

static void on_tick(struct frame *f) {
    (void)f;
    ticks++;
    isr1 = pic_read(PIC1, 0x0b);
    outb(PIC1, 0x20);
}

static void on_rtc(struct frame *f) {
    (void)f;
    rtc_ticks++;
    rtc_cause = rtc(0x0c);
    outb(PIC2, 0x20);
    outb(PIC1, 0x20);
}

static void pit_start(unsigned mode, uint16_t count) {
    outb(PIT + 3, 0x30 | mode << 1);
    outb(PIT, count & 0xff);
    outb(PIT, count >> 8);
}

static unsigned pit_read(void) {
    unsigned lo;

    outb(PIT + 3, 0x00);
    lo = inb(PIT);
    return lo | inb(PIT) << 8;
}

/* n interrupts come, and not sooner than they may since `start` of the PM timer. The host may be
 * late at any time. */
static void check_rate(const char *name, volatile unsigned *count, unsigned n, unsigned period_us,
                       uint32_t start) {
    uint64_t passed = 0;

    while (*count < n && passed < 4 * PM_HZ)
        passed = (inl(PM_TIMER) - start) & 0xffffff;
    passed = ((inl(PM_TIMER) - start) & 0xffffff) * 1000000ul / PM_HZ;
    check(*count >= n && passed >= (uint64_t)n * period_us * 9 / 10, name, "%u of %u in %lu us",
          *count, n, passed);
}

/* That a counter runs at `hz` by the PM timer, to 1 %, in one of ten tries. */
static void check_clock(const char *name, uint64_t (*read)(void), uint64_t mask, uint64_t hz) {
    uint64_t got = 0;

    for (unsigned i = 0; i < 10; i++) {
        uint64_t from = read();
        uint32_t pm = inl(PM_TIMER);

        delay_us(10000);
        got = (read() - from) & mask;
        got = got * PM_HZ / ((inl(PM_TIMER) - pm) & 0xffffff);
        if (got > hz - hz / 100 && got < hz + hz / 100)
            break;
    }
    check(got > hz - hz / 100 && got < hz + hz / 100, name, "%lu Hz, want %lu", got, hz);
}

static uint64_t pit_up(void) {
    return -(uint64_t)pit_read();
}

static void test_pic(void) {
    uint32_t start;

    pic_init();
    outb(PIC1 + 1, 0xa5);
    check_eq("IMR reads back", inb(PIC1 + 1), 0xa5);
    outb(PIC1 + 1, 0xfe);
    trap_handle(VECTOR, on_tick);
    pit_start(0, 2000);
    for (unsigned i = 0; i < 1000 && !(pic_read(PIC1, 0x0a) & 1); i++)
        delay_us(1000);
    check_eq("IRR while IF is 0", pic_read(PIC1, 0x0a) & 1, 1);
    sti();
    check(wait_for(&ticks, 1, 100), "IRQ 0 through the 8259", "%u", ticks);
    check_eq("ISR within the handler", isr1, 1);
    delay_us(4000);
    check_eq("mode 0 gives one", ticks, 1);
    ticks = 0;
    start = inl(PM_TIMER);
    pit_start(2, 1193);
    check_rate("mode 2 gives one a millisecond", &ticks, 20, 1000, start);
    cli();
    outb(PIC1 + 1, 0xff);
    sti();
    ticks = 0;
    delay_us(5000);
    cli();
    check_eq("masked", ticks, 0);
}

static void test_pit(void) {
    pit_start(2, 0);
    check_clock("the PIT counts at its rate", pit_up, 0xffff, 1193182);
    outb(0x61, inb(0x61) & 0xfc);
    outb(PIT + 3, 0xb0);
    outb(PIT + 2, 0xff);
    outb(PIT + 2, 0x10);
    outb(0x61, inb(0x61) | 1);
    check_eq("channel 2's output is low", inb(0x61) & 0x20, 0);
    delay_us(10000);
    check_eq("channel 2's output when it is through", inb(0x61) & 0x20, 0x20);
    outb(PIT + 3, 0xe2);
    check_eq("read-back, status of channel 0", inb(PIT) & 0x3f, 0x34);
}

static unsigned bcd(uint8_t v) {
    return rtc(0x0b) & 4 ? v : (v >> 4) * 10u + (v & 15);
}

static void test_rtc(void) {
    unsigned seconds, later;
    uint32_t start;

    check(rtc(0x0d) & 0x80, "RTC's battery", "0x%x", rtc(0x0d));
    check(bcd(rtc(8)) >= 1 && bcd(rtc(8)) <= 12 && bcd(rtc(7)) >= 1 && bcd(rtc(7)) <= 31 &&
              bcd(rtc(4)) < 24 && bcd(rtc(2)) < 60,
          "date and time are some", "%u-%u %u:%u", bcd(rtc(8)), bcd(rtc(7)), bcd(rtc(4)),
          bcd(rtc(2)));
    check(bcd(rtc(9)) >= 24 && bcd(rtc(9)) < 90 && bcd(rtc(0x32)) == 20, "year", "%u%u",
          bcd(rtc(0x32)), bcd(rtc(9)));
    seconds = bcd(rtc(0));
    delay_us(1100000);
    while (rtc(0x0a) & 0x80)
        pause();
    later = (bcd(rtc(0)) + 60 - seconds) % 60;
    check(later >= 1 && later <= 5, "seconds go on", "%u in 1.1 s", later);
    trap_handle(RTC_VECTOR, on_rtc);
    outb(PIC1 + 1, 0xfb);
    outb(PIC2 + 1, 0xfe);
    rtc_set(0x0a, 0x26); /* 1024 Hz */
    rtc(0x0c);
    rtc_set(0x0b, rtc(0x0b) | 0x40);
    start = inl(PM_TIMER);
    sti();
    check_rate("periodic interrupt through both 8259s", &rtc_ticks, 30, 900, start);
    cli();
    rtc_set(0x0b, rtc(0x0b) & ~0x40);
    check_eq("its cause", rtc_cause & 0xc0, 0xc0);
    outb(PIC1 + 1, 0xff);
    outb(PIC2 + 1, 0xff);
}

static uint32_t io_read(uint32_t reg) {
    *(volatile uint32_t *)IOAPIC = reg;
    return *(volatile uint32_t *)(IOAPIC + 0x10);
}

static void io_write(uint32_t reg, uint32_t v) {
    *(volatile uint32_t *)IOAPIC = reg;
    *(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

static void on_level(struct frame *f) {
    (void)f;
    if (++level_count == 3)
        *(volatile uint64_t *)(HPET + 0x20) = 1; /* writing 1 takes the line back */
    apic_eoi();
}

static void test_ioapic(void) {
    uint32_t start;

    apic_enable();
    check((io_read(1) & 0xf0) == 0x10 || (io_read(1) & 0xf0) == 0x20, "I/O APIC version", "0x%x",
          io_read(1));
    check_eq("24 pins", io_read(1) >> 16 & 0xff, 23);
    check(io_read(0x10) & 0x10000, "pins are masked after reset", "0x%x", io_read(0x10));
    io_write(0x14, 0x150ff);
    check_eq("read-only bits of an entry", io_read(0x14) & 0x5000, 0);
    io_write(0x14, 0x10000);
    apic_count_vector(0x61);
    io_write(0x15, apic_id() << 24);
    io_write(0x14, 0x61);
    start = inl(PM_TIMER);
    pit_start(2, 11932);
    apic_count[0x61] = 0;
    sti();
    check_rate("PIT on pin 2, edge", &apic_count[0x61], 5, 10000, start);
    cli();
    io_write(0x14, 0x10061);
    check_eq("not level in TMR", apic_bit(APIC_TMR, 0x61), 0);
}

static uint64_t hpet(unsigned reg) {
    return *(volatile uint64_t *)(HPET + reg);
}

static void hpet_set(unsigned reg, uint64_t v) {
    *(volatile uint64_t *)(HPET + reg) = v;
}

static uint64_t hpet_counter(void) {
    return hpet(0xf0);
}

static void test_hpet(void) {
    uint64_t period = hpet(0) >> 32;
    uint32_t start;
    unsigned pin = 0;

    check(period > 0 && period <= 100000000, "HPET period", "%lu fs", period);
    hpet_set(0x10, 0);
    hpet_set(0xf0, 0);
    hpet_set(0x10, 1);
    check_clock("HPET counts at its rate", hpet_counter, -1ul, 1000000000000000ul / period);
    while (pin < 32 && !(hpet(0x100) >> (32 + pin) & 1))
        pin++;
    if (pin < 16)
        for (pin = 16; pin < 24 && !(hpet(0x100) >> (32 + pin) & 1);)
            pin++;
    check(pin < 24, "timer 0 can reach a pin", "0x%lx", hpet(0x100));
    trap_handle(0x62, on_level);
    io_write(0x10 + 2 * pin + 1, apic_id() << 24);
    io_write(0x10 + 2 * pin, 0x8062);
    hpet_set(0x100, (uint64_t)pin << 9 | 2 | 4); /* level, on */
    hpet_set(0x108, hpet(0xf0) + 1000000000000 / period);
    sti();
    wait_for(&level_count, 3, 1000);
    delay_us(3000);
    cli();
    check_eq("a level comes again until it is taken back", level_count, 3);
    check_eq("level in TMR", apic_bit(APIC_TMR, 0x62), 1);
    hpet_set(0x100, 0);
    io_write(0x10 + 2 * pin, 0x10000);
    apic_count_vector(0x63);
    io_write(0x10 + 2 * pin, 0x63);
    hpet_set(0x10, 0);
    hpet_set(0xf0, 0);
    hpet_set(0x100, (uint64_t)pin << 9 | 4 | 8 | 0x40); /* edge, periodic, value set */
    hpet_set(0x108, 2000000000000 / period);
    hpet_set(0x108, 2000000000000 / period);
    start = inl(PM_TIMER);
    hpet_set(0x10, 1);
    sti();
    check_rate("HPET periodic, edge", &apic_count[0x63], 8, 2000, start);
    cli();
    hpet_set(0x100, 0);
}

/* What CPUID tells of the TSC: leaf 0x15, or the hypervisors' 0x40000010 (kHz). */
static uint64_t told_hz(void) {
    if (cpuid(0, 0).a >= 0x15) {
        struct cpuid c = cpuid(0x15, 0);

        if (c.a && c.b && c.c)
            return (uint64_t)c.c * c.b / c.a;
    }
    if (cpuid(1, 0).c >> 31 && cpuid(0x40000000, 0).a >= 0x40000010)
        return cpuid(0x40000010, 0).a * 1000ull;
    return 0;
}

static void test_tsc(void) {
    uint64_t last = rdtsc(), hz = told_hz();
    bool monotonic = true;

    for (unsigned i = 0; i < 20000; i++) {
        uint64_t now = rdtsc();

        monotonic &= now >= last;
        last = now;
    }
    check(monotonic, "TSC never goes back", "it did");
    if (!hz) {
        skip("TSC frequency", "not told");
        return;
    }
    check_clock("TSC frequency is what CPUID tells", rdtsc, -1ul, hz);
    wrmsr(0x10, 1000);
    check(rdtsc() >= 1000 && rdtsc() < 1000 + hz, "TSC can be written", "%lu", rdtsc());
    if (cpu_has7(1)) {
        int64_t adjust = (int64_t)rdmsr(0x3b);

        wrmsr(0x3b, (uint64_t)adjust + (1ul << 40));
        check(rdtsc() >= 1ul << 40, "TSC_ADJUST moves it", "%lu", rdtsc());
        wrmsr(0x3b, (uint64_t)adjust);
        check(rdtsc() < 1ul << 40, "and back", "%lu", rdtsc());
    }
}

int main(void) {
    test_pic();
    test_pit();
    test_rtc();
    test_ioapic();
    test_hpet();
    test_tsc();
    return 0;
}
