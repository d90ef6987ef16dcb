/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leaves of CPUID, as an Intel processor has them (SDM 2A, CPUID), and the query. There are no
 * hardware threads: each vCPU is a core of the one package. Monitoring counters, SGX, memory
 * protection keys and thermal sensors do not exist, so their leaves are zero.
 */
#include "cpu/x86/cpuid.h"

#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cpu/x86/cpumodel.h"

#define MAX_BASIC 0x16u
#define MAX_EXTENDED 0x80000008u
#define HYPERVISOR_FIRST 0x40000000u
#define HYPERVISOR_TIMING 0x40000010u

/* The core crystal clock, which is also the local APIC timer's input (dev/lapic.h). */
#define CRYSTAL_HZ 1000000000ull

struct regs {
    uint32_t a, b, c, d;
};

static void add_leaf(struct x86_cpuid *id, uint32_t leaf, uint32_t subleaf, bool has_subleaf,
                     struct regs r) {
    if (id->count < X86_CPUID_LEAVES)
        id->leaf[id->count++] = (struct x86_cpuid_leaf){
            leaf, subleaf, has_subleaf, r.a, r.b, r.c, r.d,
        };
}

static void add(struct x86_cpuid *id, uint32_t leaf, struct regs r) {
    add_leaf(id, leaf, 0, false, r);
}

static void add_sub(struct x86_cpuid *id, uint32_t leaf, uint32_t subleaf, struct regs r) {
    add_leaf(id, leaf, subleaf, true, r);
}

static uint32_t four(const char *s) {
    uint32_t v;
    memcpy(&v, s, sizeof v);
    return v;
}

/* Bits of an APIC id that number `count` cores. */
static unsigned id_bits(unsigned count) {
    unsigned bits = 0;
    while (1u << bits < count)
        bits++;
    return bits;
}

/* ---- identity ---- */

static void fill_identity(struct x86_cpuid *id, uint32_t signature) {
    const unsigned clflush_chunks = 8;
    uint32_t ids = MIN(1u << id_bits(id->vcpus), 255u);
    if (id->vcpus > 1)
        id->features[FW_1_EDX] |= 1u << (FEAT_HTT % 32);
    add(id, 0, (struct regs){MAX_BASIC, four("Genu"), four("ntel"), four("ineI")});
    add(id, 1,
        (struct regs){signature, clflush_chunks << 8 | ids << 16, id->features[FW_1_ECX],
                      id->features[FW_1_EDX]});
}

static void fill_brand(struct x86_cpuid *id, const char brand[48]) {
    for (unsigned n = 0; n < 3; n++) {
        const char *p = brand + 16 * n;
        add(id, 0x80000002 + n, (struct regs){four(p), four(p + 4), four(p + 8), four(p + 12)});
    }
}

/* ---- caches and topology ---- */

enum { CACHE_DATA = 1, CACHE_CODE, CACHE_UNIFIED };

static void add_cache(struct x86_cpuid *id, unsigned n, unsigned type, unsigned level,
                      unsigned ways, unsigned sets) {
    const unsigned self_initializing = 1u << 8, line = 64;
    uint32_t cores = MIN((1u << id_bits(id->vcpus)) - 1, 63u);
    uint32_t sharing = level == 3 ? MIN((1u << id_bits(id->vcpus)) - 1, 4095u) : 0;
    add_sub(id, 4, n,
            (struct regs){type | level << 5 | self_initializing | sharing << 14 | cores << 26,
                          (ways - 1) << 22 | (line - 1), sets - 1, 0});
}

static void fill_caches(struct x86_cpuid *id) {
    /* Leaf 2: TLBs as of Nehalem; 0xff sends the reader to leaf 4 for caches. */
    add(id, 2, (struct regs){0x5a03ff01, 0x000000f0, 0, 0x00cab200});
    add_cache(id, 0, CACHE_DATA, 1, 8, 64);
    add_cache(id, 1, CACHE_CODE, 1, 8, 64);
    add_cache(id, 2, CACHE_UNIFIED, 2, 16, 1024);
    add_cache(id, 3, CACHE_UNIFIED, 3, 16, 16384);
    /* L2 again: KiB, "16-way" by table, line size. */
    add(id, 0x80000006, (struct regs){0, 0, 1024u << 16 | 8u << 12 | 64, 0});
}

static void fill_topology(struct x86_cpuid *id) {
    const unsigned level_thread = 1u << 8, level_core = 2u << 8;
    add_sub(id, 0xb, 0, (struct regs){0, 1, level_thread | 0, 0});
    add_sub(id, 0xb, 1, (struct regs){id_bits(id->vcpus), id->vcpus, level_core | 1, 0});
}

/* ---- XSAVE (SDM 1 13.2) ---- */

struct component {
    unsigned bit, size, offset; /* in the standard format */
};

static const struct component COMPONENTS[] = {
    {2, 256, 576},   /* AVX */
    {5, 64, 1088},   /* opmask */
    {6, 512, 1152},  /* ZMM_Hi256 */
    {7, 1024, 1664}, /* Hi16_ZMM */
    {9, 8, 2688},    /* PKRU */
};

#define XSAVE_LEGACY_AND_HEADER 576u

static uint32_t xsave_size(uint64_t components) {
    uint32_t size = XSAVE_LEGACY_AND_HEADER;
    for (unsigned n = 0; n < ARRAY_LEN(COMPONENTS); n++)
        if (components >> COMPONENTS[n].bit & 1)
            size = COMPONENTS[n].offset + COMPONENTS[n].size;
    return size;
}

static uint32_t xsave_size_compacted(uint64_t components) {
    uint32_t size = XSAVE_LEGACY_AND_HEADER;
    for (unsigned n = 0; n < ARRAY_LEN(COMPONENTS); n++)
        if (components >> COMPONENTS[n].bit & 1)
            size += COMPONENTS[n].size;
    return size;
}

static void fill_xsave(struct x86_cpuid *id) {
    uint64_t mask = id->xcr0_mask;
    if (!mask)
        return;
    add_sub(id, 0xd, 0, (struct regs){(uint32_t)mask, 0, xsave_size(mask), (uint32_t)(mask >> 32)});
    add_sub(id, 0xd, 1, (struct regs){id->features[FW_D1_EAX], 0, 0, 0});
    for (unsigned n = 0; n < ARRAY_LEN(COMPONENTS); n++)
        if (mask >> COMPONENTS[n].bit & 1)
            add_sub(id, 0xd, COMPONENTS[n].bit,
                    (struct regs){COMPONENTS[n].size, COMPONENTS[n].offset, 0, 0});
}

/* ---- clocks ---- */

/*
 * The fraction of tsc_hz / CRYSTAL_HZ that comes nearest among those with which a guest that
 * multiplies kHz in 32 bits (Linux, native_calibrate_tsc) does not overflow.
 */
static void tsc_ratio(uint64_t tsc_hz, uint32_t *numerator, uint32_t *denominator) {
    const uint64_t numerator_max = UINT32_MAX / (CRYSTAL_HZ / 1000);
    uint64_t best = UINT64_MAX;
    *numerator = *denominator = 1;
    for (uint64_t den = 1; den <= numerator_max; den++) {
        uint64_t num = (tsc_hz * den + CRYSTAL_HZ / 2) / CRYSTAL_HZ;
        if (num == 0)
            continue;
        if (num > numerator_max)
            break;
        uint64_t hz = CRYSTAL_HZ * num / den;
        uint64_t off = hz > tsc_hz ? hz - tsc_hz : tsc_hz - hz;
        if (off < best) {
            best = off;
            *numerator = (uint32_t)num;
            *denominator = (uint32_t)den;
        }
    }
}

static void fill_clocks(struct x86_cpuid *id) {
    const uint32_t arat = 1u << 2, invariant_tsc = 1u << 8, bus_mhz = 100;
    uint32_t mhz = (uint32_t)((id->tsc_hz + 500000) / 1000000), num, den;
    tsc_ratio(id->tsc_hz, &num, &den);
    add(id, 6, (struct regs){arat, 0, 0, 0});
    add(id, 0x15, (struct regs){den, num, (uint32_t)CRYSTAL_HZ, 0});
    add(id, 0x16, (struct regs){mhz, mhz, bus_mhz, 0});
    add(id, 0x80000007, (struct regs){0, 0, 0, invariant_tsc});
}

/* ---- the rest ---- */

static void fill_hypervisor(struct x86_cpuid *id) {
    if (!x86_has(id, FEAT_HYPERVISOR))
        return;
    add(id, HYPERVISOR_FIRST,
        (struct regs){HYPERVISOR_TIMING, four("Ring"), four("fenc"), four("eRF ")});
    add(id, HYPERVISOR_TIMING,
        (struct regs){(uint32_t)(id->tsc_hz / 1000), (uint32_t)(CRYSTAL_HZ / 1000), 0, 0});
}

static void fill_features(struct x86_cpuid *id) {
    const uint32_t *f = id->features;
    add_sub(id, 7, 0, (struct regs){2, f[FW_7_EBX], f[FW_7_ECX], f[FW_7_EDX]});
    add_sub(id, 7, 1, (struct regs){f[FW_7_1_EAX], 0, 0, 0});
    add_sub(id, 7, 2, (struct regs){0, 0, 0, f[FW_7_2_EDX]});
    add(id, 0x80000000, (struct regs){MAX_EXTENDED, 0, 0, 0});
    add(id, 0x80000001, (struct regs){0, 0, f[FW_81_ECX], f[FW_81_EDX]});
    add(id, 0x80000008, (struct regs){id->phys_bits | id->virt_bits << 8, f[FW_88_EBX], 0, 0});
    if (x86_has(id, FEAT_MONITOR)) /* lines of 64 bytes; extensions enumerated, interrupts break */
        add(id, 5, (struct regs){64, 64, 3, 0});
}

void cpuid_fill(struct x86_cpuid *id, uint32_t signature, const char brand[48]) {
    id->count = 0;
    id->max_basic = MAX_BASIC;
    id->max_extended = MAX_EXTENDED;
    fill_identity(id, signature);
    fill_features(id);
    fill_brand(id, brand);
    fill_caches(id);
    fill_topology(id);
    fill_xsave(id);
    fill_clocks(id);
    fill_hypervisor(id);
}

/* ---- the query ---- */

static const struct x86_cpuid_leaf *find(const struct x86_cpuid *id, uint32_t leaf,
                                         uint32_t subleaf) {
    for (unsigned n = 0; n < id->count; n++) {
        const struct x86_cpuid_leaf *l = &id->leaf[n];
        if (l->leaf == leaf && (!l->has_subleaf || l->subleaf == subleaf))
            return l;
    }
    return NULL;
}

static bool in_range(const struct x86_cpuid *id, uint32_t leaf) {
    if (leaf >= 0x80000000)
        return leaf <= id->max_extended;
    if (leaf >= HYPERVISOR_FIRST && x86_has(id, FEAT_HYPERVISOR))
        return leaf <= HYPERVISOR_TIMING;
    return leaf <= id->max_basic;
}

static void patch_identity(unsigned index, const struct x86_cpuid_dynamic *dyn, uint32_t r[4]) {
    const uint32_t osxsave = 1u << (FEAT_OSXSAVE % 32), apic = 1u << (FEAT_APIC % 32);
    r[1] |= (index & 0xff) << 24;
    r[2] = dyn->osxsave ? r[2] | osxsave : r[2] & ~osxsave;
    if (!dyn->apic_enabled)
        r[3] &= ~apic;
}

static void patch_topology(unsigned index, uint32_t subleaf, uint32_t r[4]) {
    r[2] = (r[2] & ~0xffu) | (subleaf & 0xff); /* echoed for levels that do not exist too */
    r[3] = index;
}

static void patch_xsave(const struct x86_cpuid *id, const struct x86_cpuid_dynamic *dyn,
                        uint32_t subleaf, uint32_t r[4]) {
    if (!id->xcr0_mask)
        return;
    if (subleaf == 0)
        r[1] = xsave_size(dyn->xcr0);
    else if (subleaf == 1 && (x86_has(id, FEAT_XSAVEC) || x86_has(id, FEAT_XSAVES)))
        r[1] = xsave_size_compacted(dyn->xcr0 | dyn->xss);
}

void x86_cpuid_query(const struct x86_cpuid *id, unsigned index,
                     const struct x86_cpuid_dynamic *dyn, uint32_t leaf, uint32_t subleaf,
                     uint32_t out[4]) {
    if (!in_range(id, leaf))
        leaf = id->max_basic;
    const struct x86_cpuid_leaf *l = find(id, leaf, subleaf);
    out[0] = l ? l->eax : 0;
    out[1] = l ? l->ebx : 0;
    out[2] = l ? l->ecx : 0;
    out[3] = l ? l->edx : 0;
    if (leaf == 1)
        patch_identity(index, dyn, out);
    else if (leaf == 7 && subleaf == 0)
        out[2] |= dyn->ospke ? 1u << 4 : 0;
    else if (leaf == 0xb)
        patch_topology(index, subleaf, out);
    else if (leaf == 0xd)
        patch_xsave(id, dyn, subleaf, out);
}
