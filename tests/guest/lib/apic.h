/* SPDX-License-Identifier: Apache-2.0 */
/* Local APIC, delays and further processors of 64-bit guests. */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include "lib.h"

enum {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_ERROR = 0x370,
    APIC_INITIAL = 0x380,
    APIC_CURRENT = 0x390,
    APIC_DIVIDE = 0x3e0,
};
enum {
    ICR_LOWEST = 0x100,
    ICR_NMI = 0x400,
    ICR_INIT = 0x500,
    ICR_SIPI = 0x600,
    ICR_LOGICAL = 0x800,
    ICR_ASSERT = 0x4000
};
enum { ICR_SELF = 0x40000, ICR_ALL = 0x80000, ICR_OTHERS = 0xc0000 };
enum { LVT_MASKED = 0x10000, LVT_PERIODIC = 0x20000, LVT_DEADLINE = 0x40000 };
enum {
    MSR_APIC_BASE = 0x1b,
    MSR_DEADLINE = 0x6e0,
    APIC_BASE_X2 = 0x400,
    APIC_BASE_ON = 0x800,
    APIC_BASE_BSP = 0x100
};

#define APIC_ADDRESS 0xfee00000ul

static inline bool apic_is_x2(void) {
    return rdmsr(MSR_APIC_BASE) & APIC_BASE_X2;
}
static inline uint32_t apic_read(unsigned reg) {
    return apic_is_x2() ? (uint32_t)rdmsr(0x800 + reg / 16)
                        : *(volatile uint32_t *)(APIC_ADDRESS + reg);
}
static inline void apic_write(unsigned reg, uint32_t v) {
    if (apic_is_x2())
        wrmsr(0x800 + reg / 16, v);
    else
        *(volatile uint32_t *)(APIC_ADDRESS + reg) = v;
}
static inline bool apic_bit(unsigned reg, unsigned vector) {
    return apic_read(reg + vector / 32 * 16) >> (vector % 32) & 1;
}
static inline void apic_eoi(void) {
    apic_write(APIC_EOI, 0);
}

void apic_enable(void); /* with spurious vector 0xff */
void apic_send(uint32_t destination, uint32_t icr);
uint32_t apic_id(void);

/* The ACPI PM timer. */
enum { PM_TIMER = 0x608, PM_HZ = 3579545 };
void delay_us(unsigned us);
/* Until *p is `want`, at most that long; whether it is. Interrupts as they are. */
bool wait_for(volatile unsigned *p, unsigned want, unsigned ms);

/* Starts the other processors, which then wait for work. Their number, 0-based: 1, 2, … */
enum { CPUS_MAX = 8 };
bool smp_start(unsigned others);
void smp_run(unsigned cpu, void (*fn)(void)); /* returns at once */
bool smp_wait(unsigned cpu, unsigned ms);     /* until it is through */
unsigned smp_id(void);                        /* ours */
extern volatile unsigned smp_started;

/* Counts interrupts of a vector, with EOI. */
extern volatile unsigned apic_count[256];
extern volatile ulong apic_last_ip;
void apic_count_vector(unsigned vector);

#endif
