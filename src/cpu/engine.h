/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract of an execution engine. The machine owns the threads, one per vCPU, and one shared
 * loop (machine/vcpu.c) that calls run() and handles the reason it came back with, whatever the
 * engine. Software engines complete port I/O and MMIO in place through mem.h and never report them
 * (docs/decisions/001-io-in-place.md); a hardware engine reports them.
 */
#ifndef RINGFENCE_CPU_ENGINE_H
#define RINGFENCE_CPU_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct clock;
struct err;
struct mem;
struct trace;
struct x86_cpuid;
struct x86_state;
struct vcpu;

enum vcpu_reason {
    VCPU_KICKED,   /* kick() was called, or an event that the loop handles is pending */
    VCPU_HALT,     /* HLT: nothing to do until an event is raised */
    VCPU_SHUTDOWN, /* triple fault */
    VCPU_DEBUG,    /* a debug point or the end of a single step; the guest sees nothing of it */
    VCPU_IO,
    VCPU_MMIO,
    VCPU_FAILED, /* the engine cannot go on; `why` says so */
};

enum vcpu_debug_cause { DEBUG_STEP, DEBUG_BREAK, DEBUG_WATCH };

struct vcpu_exit {
    enum vcpu_reason reason;
    union {
        struct {
            enum vcpu_debug_cause cause;
            uint64_t addr; /* the watched address that was hit */
        } debug;
        struct {
            uint64_t addr;
            uint64_t *data;
            uint8_t size;
            bool write;
        } io; /* VCPU_IO, VCPU_MMIO */
        const char *why;
    };
};

/* Asynchronous events, as bits of vcpu->events. */
enum {
    VCPU_EVENT_INTR = 1u << 0, /* irqchip->pending() may be true: engine asks and delivers */
    VCPU_EVENT_NMI = 1u << 1,  /* engine delivers */
    VCPU_EVENT_INIT = 1u << 2, /* loop handles */
    VCPU_EVENT_SIPI = 1u << 3, /* loop handles; vector in vcpu->sipi_vector */
    VCPU_EVENT_SMI = 1u << 4,  /* dropped: there is no SMM */
    VCPU_EVENT_STOP = 1u << 5, /* loop: leave run() and wait (pause, debugger, shutdown) */
    /*
     * Another NMI that came before the engine saw the first; vcpu_raise() sets it. A processor
     * takes the first at the next instruction and holds the second: only a third is lost.
     */
    VCPU_EVENT_NMI_2 = 1u << 6,
};

/* How a processor talks to its interrupt controller. Thread: the vCPU's own, no lock held. */
struct x86_irqchip_ops {
    /* Whether an interrupt would be delivered now if RFLAGS.IF were 1. */
    bool (*pending)(void *apic);
    /* Acknowledges the highest and returns its vector; -1 when it has gone away. */
    int (*ack)(void *apic);
    uint8_t (*get_cr8)(void *apic);
    void (*set_cr8)(void *apic, uint8_t value);
    /* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range 0x800..0x8ff. Return false for #GP. */
    bool (*read_msr)(void *apic, uint32_t msr, uint64_t *value);
    bool (*write_msr)(void *apic, uint32_t msr, uint64_t value);
    /* The page that the local APIC answers at (IA32_APIC_BASE), or UINT64_MAX when it answers none.
     */
    uint64_t (*mmio_base)(void *apic);
    /* Accesses to that page by this vCPU (off in 0..4095; size 1..8). */
    uint64_t (*mmio_read)(void *apic, uint64_t off, unsigned size);
    void (*mmio_write)(void *apic, uint64_t off, unsigned size, uint64_t value);
    /* The value of FERR#/IGNNE#-style x87 errors with CR0.NE = 0: raises IRQ 13. */
    void (*ferr)(void *apic, bool level);
    /* Guest TSC moved (WRMSR TSC, TSC_ADJUST; vcpu->tsc_offset is new): re-arm the deadline timer.
     */
    void (*tsc_changed)(void *apic);
};

struct engine_vm_params {
    struct mem *mem;
    struct clock *clock;
    const struct x86_cpuid *cpuid; /* outlives the vm */
    unsigned vcpus;
    uint64_t code_cache; /* bytes for translated code; 0: as many as the engine likes */
    bool perf_map;       /* tell perf(1) the names of translated code */
    struct trace *trace; /* NULL: none; outlives the vm */
};

/*
 * One counter of an engine: the heading that it belongs under, its name and unit ("guest code,
 * bytes"; a share in percent ends in "%"), its value. The texts are only valid during the call.
 */
typedef void engine_stat_fn(void *arg, const char *group, const char *name, double value);

enum debug_point_type { POINT_EXEC, POINT_WRITE, POINT_READ, POINT_ACCESS };

#define DEBUG_POINTS_MAX 256

/* What a debugger asks for: by linear address, all vCPUs alike. Guest memory is never patched. */
struct engine_debug {
    bool active;
    bool step; /* stop after one instruction */
    uint32_t count;
    struct {
        uint64_t addr;
        uint32_t len;
        enum debug_point_type type;
    } points[DEBUG_POINTS_MAX];
};

struct engine_vm;

struct engine_ops {
    const char *name;
    /* 0 when usable on this host; otherwise the error says why not and what would help. */
    int (*probe)(struct err *e);
    struct engine_vm *(*vm_create)(const struct engine_vm_params *p, struct err *e);
    void (*vm_destroy)(struct engine_vm *vm);
    struct vcpu *(*vcpu_create)(struct engine_vm *vm, unsigned index, struct err *e);
    void (*vcpu_destroy)(struct vcpu *v);
    /* Executes until there is a reason not to. On the vCPU's thread, no lock held. */
    void (*run)(struct vcpu *v, struct vcpu_exit *x);
    /* Makes run() return soon with VCPU_KICKED or look at events. Any thread; async-signal-safe. */
    void (*kick)(struct vcpu *v);
    /* While the vCPU is not inside run(). */
    void (*get_state)(struct vcpu *v, struct x86_state *s);
    void (*set_state)(struct vcpu *v, const struct x86_state *s);
    void (*set_debug)(struct vcpu *v, const struct engine_debug *d); /* d outlives its use */
    /* The map of guest-physical memory changed: forget what was derived from it. Any thread. */
    void (*invalidate)(struct engine_vm *vm);
    /* Instructions retired by this vCPU so far (an estimate where the engine cannot count). */
    uint64_t (*icount)(const struct vcpu *v);
    bool icount_exact;
    /* Tells what it counted, in the order in which to print it. While no vCPU is inside run().
     * NULL: nothing. */
    void (*stats)(struct engine_vm *vm, engine_stat_fn *fn, void *arg);
};

/* The part of a vCPU that all engines share; an engine's own struct embeds it first. */
struct vcpu {
    const struct engine_ops *ops;
    struct engine_vm *vm;
    unsigned index;
    _Atomic uint32_t events;
    _Atomic uint8_t sipi_vector;
    _Atomic int64_t
        tsc_offset; /* the engine's: guest TSC = clock_tsc() + this, for the APIC's timer */
    const struct x86_irqchip_ops *irqchip;
    void *apic;
    void (*wake)(struct vcpu *v); /* set by the loop: wakes a halted vCPU's thread */
    void *wake_arg;
};

/* Raises events and makes the vCPU notice, wherever it is. Any thread. */
void vcpu_raise(struct vcpu *v, uint32_t events);

extern const struct engine_ops engine_interp, engine_bt;

#endif
