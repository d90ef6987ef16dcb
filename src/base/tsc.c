/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's time-stamp counter: Intel SDM volume 3, 18.17. The frequency comes from the
 * hypervisor's timing leaf (0x40000010, as VMware defined it and KVM took it over), from CPUID leaf
 * 0x15, or from measuring.
 */
#include "base/tsc.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "base/loop.h"

struct sample {
    uint64_t tsc, ns;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t host_hz;

uint64_t tsc_host_read(void) {
    return __rdtsc();
}

static bool tsc_invariant(void) {
    unsigned a, b, c, d;

    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & (1u << 8));
}

static uint64_t hz_from_hypervisor(void) {
    unsigned a, b, c, d;
    char name[13] = {0};

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 31)))
        return 0;
    __cpuid(0x40000000, a, b, c, d);
    memcpy(name, &b, 4);
    memcpy(name + 4, &c, 4);
    memcpy(name + 8, &d, 4);
    /* Other hypervisors give the leaf other meanings. */
    if (a < 0x40000010 || (strcmp(name, "KVMKVMKVM") != 0 && strcmp(name, "VMwareVMware") != 0))
        return 0;
    __cpuid(0x40000010, a, b, c, d);
    return a * 1000ull;
}

static uint64_t hz_from_leaf_15(void) {
    unsigned denominator, numerator, crystal, d;

    if (!__get_cpuid_count(0x15, 0, &denominator, &numerator, &crystal, &d) || !denominator)
        return 0;
    return (uint64_t)crystal * numerator / denominator;
}

/* Of several, the sample during which least time passed: the others were interrupted. */
static struct sample sample_now(void) {
    struct sample best = {0};
    uint64_t best_width = UINT64_MAX;

    for (int i = 0; i < 8; i++) {
        uint64_t before = tsc_host_read();
        uint64_t ns = mono_now();
        uint64_t width = tsc_host_read() - before;

        if (width < best_width) {
            best = (struct sample){before + width / 2, ns};
            best_width = width;
        }
    }
    return best;
}

static uint64_t hz_measured(uint64_t for_ns) {
    struct sample a = sample_now();
    struct timespec ts = {.tv_nsec = (long)for_ns};

    nanosleep(&ts, NULL);
    struct sample b = sample_now();
    return (uint64_t)((unsigned __int128)(b.tsc - a.tsc) * NS_PER_S / (b.ns - a.ns));
}

/* Counters run at whole kilohertz, most at whole megahertz; 25 ms tell frequencies apart to 10 ppm.
 */
static uint64_t round_hz(uint64_t hz) {
    uint64_t mhz = (hz + 500000) / 1000000 * 1000000;
    uint64_t off = mhz > hz ? mhz - hz : hz - mhz;

    return off <= hz / 50000 ? mhz : (hz + 500) / 1000 * 1000;
}

static bool within_percent(uint64_t a, uint64_t b) {
    return (a > b ? a - b : b - a) <= b / 100;
}

static void find_hz(void) {
    if (!tsc_invariant())
        return;

    uint64_t told = hz_from_hypervisor();
    if (!told)
        told = hz_from_leaf_15();
    /* Some virtual machines pass on leaf 15 of a processor whose TSC they scale. */
    if (told && within_percent(told, hz_measured(1000000)))
        host_hz = told;
    else
        host_hz = round_hz(hz_measured(25000000));
}

uint64_t tsc_host_hz(void) {
    pthread_once(&once, find_hz);
    return host_hz;
}
