/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machine `pc`: memory, chips, wires and processors of one PC, and its life from power-on to the
 * end. All functions are called on the loop's thread, except where they say otherwise.
 */
#ifndef RINGFENCE_MACHINE_PC_H
#define RINGFENCE_MACHINE_PC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "boot/e820.h"
#include "cpu/x86/cpuid.h"
#include "dev/irq.h"
#include "machine/vcpu.h"

struct apic_bus;
struct chardev;
struct clock;
struct device;
struct engine_debug;
struct engine_vm;
struct lapic;
struct loop;
struct machine_devices;
struct machine_plug;
struct mem;
struct pci_bus;
struct pci_hotplug;
struct trace;
struct virtio_device;
struct x86_state;

/* How a machine ended. */
enum machine_end {
    MACHINE_ALIVE,
    MACHINE_POWERED_OFF, /* by the guest */
    MACHINE_REBOOTED,    /* by the guest, and the policy is not to start again */
    MACHINE_CRASHED,     /* triple fault, or a panic that it announced (m->panicked) */
    MACHINE_DEBUG_EXIT,  /* by the guest; `exit_value` is what it wrote */
    MACHINE_FAILED,      /* the host or the engine could not go on; `error` says why */
};

struct machine_params {
    const struct engine_ops *engine;
    const char *cpu; /* as x86_cpuid_build takes it */
    uint64_t memory;
    unsigned vcpus;
    uint64_t code_cache; /* as in engine_vm_params */
    bool perf_map;
    struct trace *trace;                   /* likewise */
    bool watched;                          /* where the vCPUs' time goes is to be known */
    const char *kernel, *initrd, *cmdline; /* kernel may be NULL */
    const char *bios;                      /* instead of a kernel; may be NULL */
    struct chardev *serial, *debugcon;     /* NULL: not connected */
    const struct machine_devices *devices; /* the domain's own; may be NULL */
    bool debug_exit, testdev;
    bool restart_on_power_off, restart_on_reboot, restart_on_crash;
    /* On the loop's thread, all vCPUs held: the machine has ended, and says so in m->end. */
    void (*ended)(void *arg);
    /* On the loop's thread: a device has been ejected (machine/devices.h). May be NULL. */
    void (*ejected)(void *arg, struct machine_plug *p);
    void *arg;
};

/* What a debugger asks to be told, debug points and triple faults; on the loop's thread, all vCPUs
 * held. It must release them in the end. */
typedef void machine_debug_fn(void *arg, unsigned vcpu, const struct vcpu_exit *x);

struct machine {
    struct machine_params params; /* what it points to outlives the machine */
    struct loop *loop;
    struct clock *clock;
    struct mem *mem;
    struct e820_layout layout;
    struct x86_cpuid cpuid;
    uint8_t *shadow; /* firmware's copy below 1 MiB, as it was at power-on */

    struct engine_vm *vm;
    struct vcpu **vcpus;
    struct vcpu_set set;
    unsigned held; /* holds, as the loop's thread counts them */

    struct device *devices, **last_device; /* in order of creation */
    struct apic_bus *bus;
    struct lapic **lapics;
    struct pci_bus *pci;
    struct pci_hotplug *hotplug;
    struct machine_plug *plugs;    /* devices that can be detached; see hotplug.c */
    struct virtio_device *balloon; /* NULL: there is none */
    unsigned virtio_mmio;          /* transports in use */
    void *pic, *ioapic, *pm, *hpet;

    pthread_mutex_t lock; /* over requests */
    unsigned requests;    /* what devices and vCPUs asked for, as bits */
    uint32_t exit_value;
    bool panicked;         /* the crash is one that the guest announced */
    unsigned stopped_vcpu; /* the one that crashed, failed or hit a debug point */

    enum machine_end end;
    struct err error;
    unsigned restarts;
    machine_debug_fn *debug;
    void *debug_arg;
};

/*
 * Wires the machine and loads what it boots. Nothing runs yet. NULL with the error set; the message
 * says which part would not do.
 */
struct machine *machine_new(struct loop *loop, const struct machine_params *p, struct err *e);
void machine_free(struct machine *m);

/* Starts the vCPUs' threads; `held`: they wait for the first machine_release(). */
int machine_start(struct machine *m, bool held, struct err *e);

/* All vCPUs out of run() and guest time stopped, until as many releases. */
void machine_hold(struct machine *m);
void machine_release(struct machine *m);

/* As at power-on, in place: chips, processors, and the kernel loaded anew. While all are held. */
int machine_reset(struct machine *m, struct err *e);

/*
 * A reset, a power-off, … that a device or a vCPU asks for: holds all vCPUs soon, and is then
 * handled on the loop's thread. Any thread, with or without the I/O lock.
 */
enum {
    MACHINE_REQ_RESET = 1,
    MACHINE_REQ_POWER_OFF = 2,
    MACHINE_REQ_DEBUG = 4,
    MACHINE_REQ_DEBUG_EXIT = 8,
    MACHINE_REQ_CRASH = 16,
    MACHINE_REQ_FAILED = 32,
    MACHINE_REQ_PANIC = 64,
};
void machine_request(struct machine *m, unsigned request);

/* Instructions that all vCPUs have retired. */
uint64_t machine_icount(const struct machine *m);

/* For the files of machine/: what belongs to making, not to running. */
/* Appends a chip (whose first member is its struct device) to the machine's list; false for NULL.
 */
bool machine_add(struct machine *m, void *chip);
int machine_load(struct machine *m, struct err *e);
extern const struct vcpu_set_ops machine_vcpu_ops;

#endif
