/* SPDX-License-Identifier: Apache-2.0 */
/* Local APICs of four processors: registers, priorities, interrupt shadows, IPIs, NMI, timer,
 * x2APIC. */
#include "apic.h"

enum { OTHERS = 3, LOW_VECTOR = 0x90, HIGH_VECTOR = 0xa0 };

static volatile unsigned order[8], order_count;

static void note(struct frame *f) {
    order[order_count++ & 7] = (unsigned)f->vector;
    apic_last_ip = f->ip;
    apic_eoi();
}

static void self(unsigned vector) {
    apic_send(0, ICR_SELF | ICR_ASSERT | vector);
}

static void window(void) {
    asm volatile("sti; nop; nop; cli" ::: "memory");
}

static void test_registers(void) {
    uint64_t base = rdmsr(MSR_APIC_BASE);

    check_eq("APIC base", base & ~0xffful, APIC_ADDRESS);
    check_eq("BSP, enabled", base & 0xd00, APIC_BASE_BSP | APIC_BASE_ON);
    check((apic_read(APIC_VERSION) & 0xff) - 0x10u < 6, "version", "0x%x", apic_read(APIC_VERSION));
    check_eq("id is CPUID's", apic_id(), cpuid(1, 0).b >> 24);
    apic_write(APIC_TPR, 0x35);
    check_eq("TPR", apic_read(APIC_TPR), 0x35);
    check_eq("CR8 is TPR's upper half", read_cr8(), 3);
    check_eq("PPR follows", apic_read(APIC_PPR), 0x35);
    write_cr8(0);
    check_eq("CR8 sets TPR", apic_read(APIC_TPR), 0);
    check_eq("DFR after reset", apic_read(APIC_DFR), 0xffffffff);
    apic_write(APIC_DFR, 0);
    check_eq("DFR's lower bits are 1", apic_read(APIC_DFR), 0x0fffffff);
    apic_write(APIC_DFR, 0xffffffff);
}

static void test_priorities(void) {
    trap_handle(LOW_VECTOR, note);
    trap_handle(HIGH_VECTOR, note);
    order_count = 0;
    self(LOW_VECTOR);
    check(apic_bit(APIC_IRR, LOW_VECTOR), "IRR while IF is 0", "clear");
    self(HIGH_VECTOR);
    window();
    check(order_count == 2 && order[0] == HIGH_VECTOR && order[1] == LOW_VECTOR,
          "the higher vector first", "%u: 0x%x 0x%x", order_count, order[0], order[1]);
    check(!apic_bit(APIC_IRR, LOW_VECTOR) && !apic_bit(APIC_ISR, LOW_VECTOR), "nothing is left",
          "something is");
    order_count = 0;
    write_cr8(9);
    self(LOW_VECTOR + 0xf);
    self(LOW_VECTOR);
    self(HIGH_VECTOR);
    window();
    check(order_count == 1 && order[0] == HIGH_VECTOR, "TPR holds its own class back", "%u: 0x%x",
          order_count, order[0]);
    trap_handle(LOW_VECTOR + 0xf, note);
    write_cr8(0);
    window();
    check(order_count == 3 && order[1] == LOW_VECTOR + 0xf, "and lets it go", "%u: 0x%x",
          order_count, order[1]);
}

static void test_shadows(void) {
    ulong at;

    apic_count_vector(LOW_VECTOR);
    self(LOW_VECTOR);
    asm volatile("sti; cli; nop" ::: "memory");
    check_eq("sti, cli lets nothing in", apic_count[LOW_VECTOR], 0);
    asm volatile("lea 1f(%%rip), %0; sti; nop; 1: nop; cli" : "=&r"(at)::"memory");
    check_eq("sti takes effect one instruction later", apic_last_ip, at);
    self(LOW_VECTOR);
    asm volatile("lea 1f(%%rip), %0; mov %%ss, %%eax; sti; mov %%eax, %%ss; nop; 1: nop; cli"
                 : "=&r"(at)::"rax", "memory");
    check_eq("mov ss holds interrupts back for one more", apic_last_ip, at);
    self(LOW_VECTOR);
    asm volatile("lea 1f(%%rip), %0; pushf; orl $0x200, (%%rsp); popf; 1: nop; cli"
                 : "=&r"(at)::"memory");
    check_eq("popf has no shadow", apic_last_ip, at);
    self(LOW_VECTOR);
    asm volatile("lea 1f(%%rip), %0; sti; hlt; 1: cli" : "=&r"(at)::"memory");
    check_eq("sti, hlt wakes", apic_last_ip, at);
    check_eq("four were delivered", apic_count[LOW_VECTOR], 4);
}

static volatile unsigned nmis, nested;

static void on_nmi(struct frame *f) {
    (void)f;
    nmis++;
    if (nmis > 1)
        return;
    apic_send(apic_id(), ICR_ASSERT | ICR_NMI);
    delay_us(50);
    nested = nmis;
}

static void test_nmi(void) {
    trap_handle(2, on_nmi);
    nmis = 0;
    apic_send(apic_id(), ICR_ASSERT | ICR_NMI);
    delay_us(50);
    check_eq("no NMI within an NMI", nested, 1);
    check_eq("NMI with IF 0, and the one held back", nmis, 2);
    nmis = 5;
    asm volatile("sti");
    apic_send(apic_id(), ICR_ASSERT | ICR_NMI);
    delay_us(50);
    asm volatile("cli");
    check_eq("NMI with IF 1", nmis, 6);
    trap_handle(2, NULL);
}

static volatile bool stop;

static void cpu_sti(void) {
    sti();
    while (!stop)
        pause();
    cli();
}

static volatile uint32_t ids[CPUS_MAX];

static void cpu_report(void) {
    ids[smp_id()] = apic_id();
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x01000000u << smp_id());
}

static void listen(void) {
    apic_count_vector(LOW_VECTOR);
    stop = false;
    for (unsigned i = 1; i <= OTHERS; i++)
        smp_run(i, cpu_sti);
}

/* All of `want` have come, and no more. */
static void finish(const char *name, unsigned want) {
    sti();
    wait_for(&apic_count[LOW_VECTOR], want, 2000);
    delay_us(1000);
    cli();
    stop = true;
    for (unsigned i = 1; i <= OTHERS; i++)
        smp_wait(i, 2000);
    check_eq(name, apic_count[LOW_VECTOR], want);
}

static void ipi(const char *name, uint32_t destination, uint32_t icr, unsigned want) {
    listen();
    apic_send(destination, icr | ICR_ASSERT | LOW_VECTOR);
    finish(name, want);
}

static void test_ipis(void) {
    cpu_report();
    for (unsigned i = 1; i <= OTHERS; i++) {
        smp_run(i, cpu_report);
        check(smp_wait(i, 1000), "processor works", "%u does not answer", i);
    }
    for (unsigned i = 1; i <= OTHERS; i++)
        for (unsigned j = 0; j < i; j++)
            check(ids[i] != ids[j], "ids differ", "%u and %u have 0x%x", i, j, ids[i]);
    ipi("fixed, physical, to one", ids[2], 0, 1);
    ipi("logical, flat, to two", 0x06, ICR_LOGICAL, 2);
    ipi("logical, flat, to all four", 0xff, ICR_LOGICAL, 4);
    ipi("lowest priority reaches one", 0x0e, ICR_LOGICAL | ICR_LOWEST, 1);
    ipi("to all", 0, ICR_ALL, 4);
    ipi("to all others", 0, ICR_OTHERS, 3);
    ipi("physical broadcast", 0xff, 0, 4);
    ipi("to nobody", 0x60, 0, 0);
}

static void test_errors(void) {
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
    apic_send(0, ICR_SELF | ICR_ASSERT | 5);
    apic_write(APIC_ESR, 0);
    check(apic_read(APIC_ESR) & 0x60, "illegal vector in ESR", "0x%x", apic_read(APIC_ESR));
    apic_write(APIC_ESR, 0);
    check_eq("ESR clears", apic_read(APIC_ESR), 0);
}

static void test_timer(void) {
    uint32_t first, second;

    apic_count_vector(HIGH_VECTOR);
    apic_write(APIC_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, HIGH_VECTOR);
    sti();
    apic_write(APIC_INITIAL, 100000);
    check(wait_for(&apic_count[HIGH_VECTOR], 1, 1000), "one-shot", "no interrupt");
    check_eq("current count after it", apic_read(APIC_CURRENT), 0);
    delay_us(2000);
    check_eq("it is one", apic_count[HIGH_VECTOR], 1);
    apic_write(APIC_INITIAL, 0xffffffff);
    first = apic_read(APIC_CURRENT);
    delay_us(1000);
    second = apic_read(APIC_CURRENT);
    check(second < first && first > 0xf0000000, "it counts down", "0x%x, then 0x%x", first, second);
    apic_write(APIC_INITIAL, 0);
    check_eq("0 stops it", apic_read(APIC_CURRENT), 0);
    check_eq("stopped without an interrupt", apic_count[HIGH_VECTOR], 1);
    apic_count[HIGH_VECTOR] = 0;
    apic_write(APIC_LVT_TIMER, HIGH_VECTOR | LVT_PERIODIC);
    apic_write(APIC_INITIAL, (first - second) * 2);
    for (unsigned i = 0; i < 5000 && apic_count[HIGH_VECTOR] < 5; i++)
        delay_us(1000);
    apic_write(APIC_INITIAL, 0);
    check(apic_count[HIGH_VECTOR] >= 5, "periodic", "%u", apic_count[HIGH_VECTOR]);
    cli();
    apic_write(APIC_LVT_TIMER, HIGH_VECTOR | LVT_MASKED);
    apic_count[HIGH_VECTOR] = 0;
    apic_write(APIC_INITIAL, 1000);
    delay_us(2000);
    window();
    check_eq("masked", apic_count[HIGH_VECTOR], 0);
}

static void test_deadline(void) {
    uint64_t at;

    if (!cpu_has1c(24)) {
        skip("TSC deadline", "not there");
        return;
    }
    apic_count_vector(HIGH_VECTOR);
    apic_write(APIC_LVT_TIMER, HIGH_VECTOR | LVT_DEADLINE);
    asm volatile("mfence");
    at = rdtsc() + 3000000;
    wrmsr(MSR_DEADLINE, at);
    check(rdmsr(MSR_DEADLINE) == at || rdtsc() > at, "deadline reads back", "0x%lx",
          rdmsr(MSR_DEADLINE));
    asm volatile("sti; hlt; cli" ::: "memory");
    check(rdtsc() >= at, "not before its deadline", "%lu early", at - rdtsc());
    check_eq("deadline", apic_count[HIGH_VECTOR], 1);
    check_eq("deadline reads 0 after it", rdmsr(MSR_DEADLINE), 0);
    wrmsr(MSR_DEADLINE, 1);
    window();
    check_eq("a deadline that is past", apic_count[HIGH_VECTOR], 2);
    wrmsr(MSR_DEADLINE, rdtsc() + 3000000);
    wrmsr(MSR_DEADLINE, 0);
    delay_us(5000);
    window();
    check_eq("0 disarms", apic_count[HIGH_VECTOR], 2);
    apic_write(APIC_LVT_TIMER, HIGH_VECTOR);
    wrmsr(MSR_DEADLINE, 1);
    check_eq("no deadline in another mode", rdmsr(MSR_DEADLINE), 0);
}

static void test_x2(void) {
    uint64_t base = rdmsr(MSR_APIC_BASE), v;
    uint32_t id = apic_id();

    if (!cpu_has1c(21)) {
        skip("x2APIC", "not there");
        return;
    }
    check_eq("#GP x2APIC MSR in xAPIC mode", (ulong)try_rdmsr(0x802, &v), 13);
    check_eq("#GP x2APIC without the enable bit",
             (ulong)try_wrmsr(MSR_APIC_BASE, (base | APIC_BASE_X2) & ~(ulong)APIC_BASE_ON), 13);
    wrmsr(MSR_APIC_BASE, base | APIC_BASE_X2);
    check_eq("id", apic_id(), id);
    check_eq("logical id", apic_read(APIC_LDR), (id >> 4) << 16 | 1u << (id & 15));
    check_eq("#GP write to the id", (ulong)try_wrmsr(0x802, 1), 13);
    check_eq("#GP DFR", (ulong)try_rdmsr(0x80e, &v), 13);
    check_eq("#GP upper half of ICR", (ulong)try_rdmsr(0x831, &v), 13);
    check_eq("#GP a register that is none", (ulong)try_rdmsr(0x801, &v), 13);
    check_eq("#GP read of EOI", (ulong)try_rdmsr(0x80b, &v), 13);
    check_eq("#GP EOI of 1", (ulong)try_wrmsr(0x80b, 1), 13);
    check_eq("#GP reserved bit of SVR", (ulong)try_wrmsr(0x80f, 1ul << 32), 13);
    check_eq("#GP back to xAPIC at once", (ulong)try_wrmsr(MSR_APIC_BASE, base), 13);
    apic_count_vector(LOW_VECTOR);
    wrmsr(0x83f, LOW_VECTOR);
    window();
    check_eq("self IPI", apic_count[LOW_VECTOR], 1);
    listen();
    apic_send(ids[1], ICR_ASSERT | LOW_VECTOR);
    apic_send(ids[0], ICR_ASSERT | LOW_VECTOR);
    finish("IPIs by 64-bit ICR", 2);
    wrmsr(MSR_APIC_BASE, base & ~(ulong)APIC_BASE_ON);
    check_eq("APIC off, CPUID says so", cpuid(1, 0).d >> 9 & 1, 0);
    wrmsr(MSR_APIC_BASE, base);
    check_eq("APIC on again", cpuid(1, 0).d >> 9 & 1, 1);
}

int main(void) {
    apic_enable();
    test_registers();
    test_priorities();
    test_shadows();
    test_nmi();
    check(smp_start(OTHERS), "INIT and SIPI", "%u started", smp_started);
    test_ipis();
    test_errors();
    test_timer();
    test_deadline();
    test_x2();
    return 0;
}
