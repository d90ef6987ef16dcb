/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's CPUID says, by model, and which instructions exist for it. A feature is named by
 * the CPUID register and bit that announces it (SDM 2A, CPUID; APM 3, appendix E).
 */
#ifndef RINGFENCE_CPU_X86_CPUID_H
#define RINGFENCE_CPU_X86_CPUID_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* The feature words, in the order of struct x86_cpuid's `features`. */
enum x86_feature_word {
    FW_1_EDX,
    FW_1_ECX,
    FW_7_EBX,
    FW_7_ECX,
    FW_7_EDX,
    FW_7_1_EAX,
    FW_81_EDX, /* 0x80000001 */
    FW_81_ECX,
    FW_D1_EAX, /* 0xd, subleaf 1 */
    FW_88_EBX, /* 0x80000008 */
    FW_7_2_EDX,
    FW_COUNT
};

#define X86_FEATURE(word, bit) ((word)*32 + (bit))

enum x86_feature {
    FEAT_NONE = -1,
#define F(name, word, bit) FEAT_##name = X86_FEATURE(word, bit),
#include "cpu/x86/features.def"
#undef F
};

struct x86_cpuid_leaf {
    uint32_t leaf, subleaf;
    bool has_subleaf;
    uint32_t eax, ebx, ecx, edx;
};

#define X86_CPUID_LEAVES 96

struct x86_cpuid {
    uint32_t features[FW_COUNT];
    struct x86_cpuid_leaf leaf[X86_CPUID_LEAVES];
    unsigned count;
    uint32_t max_basic, max_extended;
    unsigned vcpus;
    uint64_t tsc_hz;
    uint64_t xcr0_mask; /* what XCR0 may hold */
    unsigned phys_bits, virt_bits;
    char model[32];
};

static inline bool x86_has(const struct x86_cpuid *id, enum x86_feature f) {
    return f == FEAT_NONE || (id->features[(unsigned)f / 32] >> ((unsigned)f % 32) & 1);
}

/*
 * Fills `id` for a model with optional changes, as --cpu says: "x86-64-v2", "x86-64-v3", "host",
 * then ",+name",
 * ",-name". `host` is what this engine can execute of what the host has. An unknown model or
 * feature is an error that lists what there is; a feature the host or engine lacks is one that says
 * so.
 */
int x86_cpuid_build(struct x86_cpuid *id, const char *spec, unsigned vcpus, uint64_t tsc_hz,
                    struct err *e);

/*
 * Executes CPUID for vCPU `index` (its APIC id). `dynamic` carries what depends on the vCPU's
 * state: OSXSAVE, OSPKE, APIC enabled, XCR0 and IA32_XSS sizes.
 */
struct x86_cpuid_dynamic {
    bool osxsave, ospke, apic_enabled;
    uint64_t xcr0, xss;
};
void x86_cpuid_query(const struct x86_cpuid *id, unsigned index,
                     const struct x86_cpuid_dynamic *dyn, uint32_t leaf, uint32_t subleaf,
                     uint32_t out[4]);

/* Names of models and features (in upper case; case does not count), NULL-terminated, for help and
 * suggestions. */
const char *const *x86_cpuid_models(void);
const char *const *x86_cpuid_features(void);

#endif
