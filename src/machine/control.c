/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's life: holding and releasing it, and what happens on reset, power-off, triple fault
 * and debug points. Devices and vCPUs only ask; it is done on the loop's thread when no vCPU is in
 * run() any more.
 */
#include "machine/pc.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "boot/boot.h"
#include "boot/entry.h"
#include "cpu/x86/state.h"
#include "dev/device.h"
#include "dev/lapic.h"
#include "dev/pci.h"
#include "machine/devices.h"
#include "mem/mem.h"

static int load_kernel(struct machine *m, struct x86_state *bsp, struct err *e) {
    const struct boot_params_in in = {
        .kernel = m->params.kernel,
        .initrd = m->params.initrd,
        .cmdline = m->params.cmdline,
        .layout = &m->layout,
        .vcpus = m->params.vcpus,
        .virtio_mmio = m->virtio_mmio,
        .hotplug = machine_hotplug_slots(m),
        .protocol = BOOT_AUTO,
    };

    pci_bus_assign(m->pci);
    return boot_load(m->mem, &in, bsp, NULL, e);
}

#define SHADOW_BYTES (E820_EXTENDED - E820_FIRMWARE)

/* The first time the image is mapped; later, firmware may have overwritten its own copy in RAM. */
static int load_firmware(struct machine *m, struct err *e) {
    int r;

    if (m->shadow) {
        r = mem_write(m->mem, GPA(E820_FIRMWARE), m->shadow, SHADOW_BYTES);
    } else if ((r = boot_load_rom(m->mem, m->params.bios, e)) == 0) {
        m->shadow = xcalloc(SHADOW_BYTES, 1);
        r = mem_read(m->mem, GPA(E820_FIRMWARE), m->shadow, SHADOW_BYTES);
    } else {
        return r;
    }
    return r < 0 ? err_set(e, -r, "firmware %s: shadow", m->params.bios) : 0;
}

int machine_load(struct machine *m, struct err *e) {
    struct x86_state bsp, ap;
    int r = 0;

    x86_state_reset(&bsp, true);
    x86_state_reset(&ap, false);
    if (m->params.kernel) {
        entry_memory_types(&bsp, m->cpuid.phys_bits);
        entry_memory_types(&ap, m->cpuid.phys_bits);
        r = load_kernel(m, &bsp, e);
    } else if (m->params.bios) {
        r = load_firmware(m, e);
    }
    if (r == 0)
        vcpu_set_reset(&m->set, &bsp, &ap);
    return r;
}

int machine_reset(struct machine *m, struct err *e) {
    mem_io_lock(m->mem);
    for (struct device *d = m->devices; d; d = d->next)
        if (d->ops->reset)
            d->ops->reset(d);
    mem_io_unlock(m->mem);
    if (machine_load(m, e) < 0)
        return -1;
    /* What was decoded before is of another kernel's memory, or of the same one before it patched
     * itself. */
    mem_wrote(m->mem, m->mem->ram, m->layout.ram_bytes);
    m->vcpus[0]->ops->invalidate(m->vm);
    return 0;
}

/* Guest time stands still from the first hold to the last release. */
static void note_held(struct machine *m) {
    if (m->held++ == 0)
        clock_pause(m->clock);
}

int machine_start(struct machine *m, bool held, struct err *e) {
    int r = vcpu_set_start(&m->set, e);

    if (r < 0)
        return r;
    if (held)
        note_held(m);
    else
        vcpu_set_release(&m->set);
    return 0;
}

void machine_hold(struct machine *m) {
    vcpu_set_hold_begin(&m->set);
    vcpu_set_hold_wait(&m->set);
    note_held(m);
}

void machine_release(struct machine *m) {
    if (--m->held == 0)
        clock_resume(m->clock);
    vcpu_set_release(&m->set);
}

uint64_t machine_icount(const struct machine *m) {
    uint64_t n = 0;

    for (unsigned i = 0; i < m->params.vcpus; i++)
        n += m->vcpus[i]->ops->icount(m->vcpus[i]);
    return n;
}

static void end(struct machine *m, enum machine_end how) {
    if (m->end != MACHINE_ALIVE)
        return;
    m->end = how;
    m->params.ended(m->params.arg);
}

static void restart(struct machine *m) {
    m->restarts++;
    m->panicked = false;
    if (machine_reset(m, &m->error) < 0) {
        err_wrap(&m->error, "restart");
        end(m, MACHINE_FAILED);
        return;
    }
    machine_release(m);
}

static void restart_or_end(struct machine *m, bool again, enum machine_end how) {
    if (again)
        restart(m);
    else
        end(m, how);
}

static void fail(struct machine *m) {
    const struct vcpu_thread *t = &m->set.threads[m->stopped_vcpu];

    err_set(&m->error, 0, "engine %s: vCPU %u: %s", m->params.engine->name, m->stopped_vcpu,
            t->stop.why ? t->stop.why : "no reason given");
    end(m, MACHINE_FAILED);
}

static void stop_for_debugger(struct machine *m) {
    m->debug(m->debug_arg, m->stopped_vcpu, &m->set.threads[m->stopped_vcpu].stop);
}

/* A debugger sees a crash before it is the end; let go, the vCPU only asks again. */
static void crash(struct machine *m) {
    if (m->debug)
        stop_for_debugger(m);
    else
        restart_or_end(m, m->params.restart_on_crash, MACHINE_CRASHED);
}

static void panic(struct machine *m) {
    m->panicked = true;
    restart_or_end(m, m->params.restart_on_crash, MACHINE_CRASHED);
}

/* The gravest request counts; with all vCPUs held there is nobody to ask for more. */
static void handle(struct machine *m, unsigned requests) {
    const struct machine_params *p = &m->params;

    if (requests & MACHINE_REQ_FAILED)
        fail(m);
    else if (requests & MACHINE_REQ_DEBUG_EXIT)
        end(m, MACHINE_DEBUG_EXIT);
    else if (requests & MACHINE_REQ_POWER_OFF)
        restart_or_end(m, p->restart_on_power_off, MACHINE_POWERED_OFF);
    else if (requests & MACHINE_REQ_CRASH)
        crash(m);
    else if (requests & MACHINE_REQ_PANIC)
        panic(m);
    else if (requests & MACHINE_REQ_RESET)
        restart_or_end(m, p->restart_on_reboot, MACHINE_REBOOTED);
    else if (m->debug)
        stop_for_debugger(m);
    else
        machine_release(m); /* the debugger left meanwhile */
}

static void on_request(void *arg) {
    struct machine *m = arg;
    unsigned requests;

    vcpu_set_hold_wait(&m->set);
    note_held(m);
    pthread_mutex_lock(&m->lock);
    requests = m->requests;
    m->requests = 0;
    pthread_mutex_unlock(&m->lock);
    if (m->end == MACHINE_ALIVE)
        handle(m, requests);
}

/* Under the lock, so that nobody who asks second runs on before the first has closed the gate. */
void machine_request(struct machine *m, unsigned request) {
    pthread_mutex_lock(&m->lock);
    if (!m->requests) {
        vcpu_set_hold_begin(&m->set);
        loop_call(m->loop, on_request, m);
    }
    m->requests |= request;
    pthread_mutex_unlock(&m->lock);
}

static void vcpu_stopped(void *arg, struct vcpu_thread *t) {
    static const unsigned request[] = {
        [VCPU_SHUTDOWN] = MACHINE_REQ_CRASH,
        [VCPU_DEBUG] = MACHINE_REQ_DEBUG,
        [VCPU_FAILED] = MACHINE_REQ_FAILED,
    };
    struct machine *m = arg;
    unsigned r = request[t->stop.reason];

    pthread_mutex_lock(&m->lock);
    /* The first and the gravest is the one to be looked at. */
    if (r > m->requests)
        m->stopped_vcpu = t->v->index;
    pthread_mutex_unlock(&m->lock);
    machine_request(m, r);
}

static void vcpu_init_ipi(void *arg, unsigned index) {
    struct machine *m = arg;

    lapic_init(m->lapics[index]);
}

const struct vcpu_set_ops machine_vcpu_ops = {vcpu_stopped, vcpu_init_ipi};
