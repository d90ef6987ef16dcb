/* SPDX-License-Identifier: Apache-2.0 */
/* See apic.h. A processor's number is kept in its IA32_TSC_AUX. */
#include "apic.h"

volatile unsigned apic_count[256];
volatile ulong apic_last_ip;
volatile unsigned smp_started;
extern char smp_trampoline[], smp_trampoline_end[];
char smp_stacks[CPUS_MAX][8192] __attribute__((aligned(16)));
static void (*volatile work[CPUS_MAX])(void);
static volatile unsigned busy[CPUS_MAX];

enum { MSR_TSC_AUX = 0xc0000103, TRAMPOLINE = 0x7000 };

void apic_enable(void) {
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
}

void apic_send(uint32_t destination, uint32_t icr) {
    if (apic_is_x2()) {
        wrmsr(0x830, (uint64_t)destination << 32 | icr);
        return;
    }
    apic_write(APIC_ICR_HIGH, destination << 24);
    apic_write(APIC_ICR, icr);
    while (apic_read(APIC_ICR) & 0x1000)
        pause();
}

uint32_t apic_id(void) {
    return apic_is_x2() ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
}

void delay_us(unsigned us) {
    uint32_t start = inl(PM_TIMER);
    uint32_t ticks = (uint32_t)((uint64_t)us * PM_HZ / 1000000) + 1;

    while (((inl(PM_TIMER) - start) & 0xffffff) < ticks)
        pause();
}

bool wait_for(volatile unsigned *p, unsigned want, unsigned ms) {
    for (unsigned i = 0; i < ms * 10 && *p != want; i++)
        delay_us(100);
    return *p == want;
}

unsigned smp_id(void) {
    return (unsigned)rdmsr(MSR_TSC_AUX);
}

void smp_main(unsigned cpu);
void smp_main(unsigned cpu) {
    struct table_register r = {4095, (ulong)idt};

    asm volatile("lidt %0" ::"m"(r));
    wrmsr(MSR_TSC_AUX, cpu);
    apic_enable();
    asm volatile("lock incl %0" : "+m"(smp_started));
    for (;;) {
        void (*fn)(void) = work[cpu];

        pause();
        if (!fn)
            continue;
        work[cpu] = NULL;
        fn();
        busy[cpu] = 0;
    }
}

bool smp_start(unsigned others) {
    memcpy((void *)TRAMPOLINE, smp_trampoline, (size_t)(smp_trampoline_end - smp_trampoline));
    wrmsr(MSR_TSC_AUX, 0);
    apic_enable();
    apic_send(0, ICR_OTHERS | ICR_ASSERT | ICR_INIT);
    delay_us(10000);
    apic_send(0, ICR_OTHERS | ICR_ASSERT | ICR_SIPI | TRAMPOLINE >> 12);
    delay_us(200);
    apic_send(0, ICR_OTHERS | ICR_ASSERT | ICR_SIPI | TRAMPOLINE >> 12);
    return wait_for(&smp_started, others, 2000);
}

void smp_run(unsigned cpu, void (*fn)(void)) {
    busy[cpu] = 1;
    work[cpu] = fn;
}

bool smp_wait(unsigned cpu, unsigned ms) {
    return wait_for(&busy[cpu], 0, ms);
}

static void count(struct frame *f) {
    asm volatile("lock incl %0" : "+m"(apic_count[f->vector]));
    apic_last_ip = f->ip;
    apic_eoi();
}

void apic_count_vector(unsigned vector) {
    apic_count[vector] = 0;
    trap_handle(vector, count);
}
