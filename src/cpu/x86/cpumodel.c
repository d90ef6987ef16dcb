/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processor models: the levels of the x86-64 psABI, and `host`, which is what this engine executes
 * of what the host has. All are Intel processors, as the engine behaves like one where Intel and
 * AMD differ (a kernel picks its SYSCALL or SYSENTER paths by vendor). What the engine does by
 * itself (paging features, APIC, MSRs) every model has, whatever the host.
 */
#include "cpu/x86/cpumodel.h"

#include <cpuid.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"

#define PHYS_BITS 46
#define VIRT_BITS 48
#define INTEL_NEHALEM 0x106a3u
#define INTEL_HASWELL_EP 0x306f2u

struct words {
    uint32_t w[FW_COUNT];
};

static bool words_has(const struct words *s, enum x86_feature f) {
    return s->w[(unsigned)f / 32] >> ((unsigned)f % 32) & 1;
}

static void words_set(struct words *s, enum x86_feature f, bool on) {
    uint32_t bit = 1u << ((unsigned)f % 32);
    uint32_t *w = &s->w[(unsigned)f / 32];
    *w = on ? *w | bit : *w & ~bit;
}

/* ---- names ---- */

static const char *const FEATURE_NAMES[] = {
#define F(name, word, bit) #name,
#include "cpu/x86/features.def"
#undef F
    NULL,
};

static const enum x86_feature FEATURES[] = {
#define F(name, word, bit) FEAT_##name,
#include "cpu/x86/features.def"
#undef F
};

#define FEATURES_COUNT ARRAY_LEN(FEATURES)

/* Other names in use, among them those of /proc/cpuinfo. */
static const struct {
    const char *name;
    enum x86_feature feature;
} ALIASES[] = {
    {"pni", FEAT_SSE3},
    {"abm", FEAT_LZCNT},
    {"pclmul", FEAT_PCLMULQDQ},
    {"clflush", FEAT_CLFSH},
    {"xd", FEAT_NX},
    {"i64", FEAT_LM},
    {"cmpxchg16b", FEAT_CX16},
    {"cmpxchg8b", FEAT_CX8},
    {"shani", FEAT_SHA},
    {"tscdeadlinetimer", FEAT_TSC_DEADLINE},
    {"ht", FEAT_HTT},
    {"3dnowprefetch", FEAT_PREFETCHW},
    {"fxsave", FEAT_FXSR},
    {"1gbpages", FEAT_PDPE1GB},
    {"ibrs", FEAT_SPEC_CTRL},
};

static bool name_is_separator(char ch) {
    return ch == '_' || ch == '-' || ch == '.';
}

/* Letter case and separators do not count: sse4.1, sse4_1 and SSE41 are one. */
static bool name_equal(const char *a, const char *b) {
    for (;; a++, b++) {
        while (name_is_separator(*a))
            a++;
        while (name_is_separator(*b))
            b++;
        if (tolower((unsigned char)*a) != tolower((unsigned char)*b))
            return false;
        if (!*a)
            return true;
    }
}

static enum x86_feature feature_find(const char *name) {
    for (unsigned n = 0; n < FEATURES_COUNT; n++)
        if (name_equal(name, FEATURE_NAMES[n]))
            return FEATURES[n];
    for (unsigned n = 0; n < ARRAY_LEN(ALIASES); n++)
        if (name_equal(name, ALIASES[n].name))
            return ALIASES[n].feature;
    return FEAT_NONE;
}

/* A feature's name as it is shown: in lower case. */
struct shown {
    char s[24];
};

static struct shown feature_name(enum x86_feature f) {
    struct shown name = {""};
    for (unsigned n = 0; n < FEATURES_COUNT; n++)
        if (FEATURES[n] == f)
            (void)snprintf(name.s, sizeof name.s, "%s", FEATURE_NAMES[n]);
    for (char *p = name.s; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return name;
}

const char *const *x86_cpuid_features(void) {
    return FEATURE_NAMES;
}

/* ---- what there is ---- */

#define LIST(name, ...) static const enum x86_feature name[] = {__VA_ARGS__}
#define SET_LIST(set, list) words_set_list(set, list, ARRAY_LEN(list))

/* The engine's own work: control registers, paging, interrupts, MSRs and the integer instructions.
 */
LIST(SYSTEM, FEAT_VME, FEAT_DE, FEAT_PSE, FEAT_MSR, FEAT_PAE, FEAT_MCE, FEAT_APIC, FEAT_SEP,
     FEAT_MTRR, FEAT_PGE, FEAT_MCA, FEAT_PAT, FEAT_PSE36, FEAT_PCID, FEAT_X2APIC, FEAT_TSC_DEADLINE,
     FEAT_RDRAND, FEAT_HYPERVISOR, FEAT_FSGSBASE, FEAT_TSC_ADJUST, FEAT_SMEP, FEAT_ERMS,
     FEAT_INVPCID, FEAT_RDSEED, FEAT_SMAP, FEAT_UMIP, FEAT_RDPID, FEAT_FSRM, FEAT_SPEC_CTRL,
     FEAT_ARCH_CAPABILITIES, FEAT_BHI_CTRL, FEAT_PDPE1GB, FEAT_RDTSCP);

/* The psABI's levels. */
LIST(LEVEL_1, FEAT_FPU, FEAT_TSC, FEAT_CX8, FEAT_CMOV, FEAT_CLFSH, FEAT_MMX, FEAT_FXSR, FEAT_SSE,
     FEAT_SSE2, FEAT_SYSCALL, FEAT_NX, FEAT_LM);
LIST(LEVEL_2, FEAT_SSE3, FEAT_SSSE3, FEAT_CX16, FEAT_SSE41, FEAT_SSE42, FEAT_POPCNT, FEAT_LAHF_LM);
LIST(LEVEL_3, FEAT_FMA, FEAT_MOVBE, FEAT_XSAVE, FEAT_AVX, FEAT_F16C, FEAT_BMI1, FEAT_AVX2,
     FEAT_BMI2, FEAT_LZCNT, FEAT_XSAVEOPT, FEAT_XSAVEC, FEAT_XGETBV1);

/* `host` has these beyond level 3: ours, and the host's where it has them. */
LIST(BEYOND_OURS, FEAT_MOVBE, FEAT_XSAVE, FEAT_XSAVEOPT, FEAT_XSAVEC, FEAT_XGETBV1, FEAT_XSAVES,
     FEAT_CLFLUSHOPT, FEAT_CLWB, FEAT_PREFETCHW, FEAT_SERIALIZE, FEAT_MOVDIRI, FEAT_MOVDIR64B,
     FEAT_LAHF_LM);

/* Executed by the host's own instruction, so that the host must have it. */
LIST(NATIVE, FEAT_SSE3, FEAT_PCLMULQDQ, FEAT_SSSE3, FEAT_FMA, FEAT_CX16, FEAT_SSE41, FEAT_SSE42,
     FEAT_POPCNT, FEAT_AES, FEAT_AVX, FEAT_F16C, FEAT_BMI1, FEAT_AVX2, FEAT_BMI2, FEAT_ADX,
     FEAT_SHA, FEAT_GFNI, FEAT_VAES, FEAT_VPCLMULQDQ, FEAT_AVX_VNNI, FEAT_LZCNT);

/* How the x87 keeps its pointers: nobody's choice, as the host's x87 does the work. */
LIST(QUIRKS, FEAT_FDP_EXCPTN_ONLY, FEAT_FCS_FDS_DEPRECATED);

/* Only when asked for: a guest that sees MONITOR would idle in MWAIT, which burns a host processor;
 * protection keys cost every change of rights a flush of the TLB. */
LIST(ON_REQUEST, FEAT_MONITOR, FEAT_PKU, FEAT_PKS);

/* What needs what. Sorted so that one pass is enough. */
static const struct {
    enum x86_feature feature, needs;
} DEPENDS[] = {
    {FEAT_SSE, FEAT_FXSR},       {FEAT_SSE2, FEAT_SSE},
    {FEAT_SSE3, FEAT_SSE2},      {FEAT_SSSE3, FEAT_SSE3},
    {FEAT_SSE41, FEAT_SSSE3},    {FEAT_SSE42, FEAT_SSE41},
    {FEAT_AES, FEAT_SSE2},       {FEAT_PCLMULQDQ, FEAT_SSE2},
    {FEAT_SHA, FEAT_SSE2},       {FEAT_GFNI, FEAT_SSE2},
    {FEAT_AVX, FEAT_XSAVE},      {FEAT_AVX2, FEAT_AVX},
    {FEAT_FMA, FEAT_AVX},        {FEAT_F16C, FEAT_AVX},
    {FEAT_VAES, FEAT_AVX},       {FEAT_VPCLMULQDQ, FEAT_AVX},
    {FEAT_AVX_VNNI, FEAT_AVX2},  {FEAT_XSAVEOPT, FEAT_XSAVE},
    {FEAT_XSAVEC, FEAT_XSAVE},   {FEAT_XGETBV1, FEAT_XSAVE},
    {FEAT_XSAVES, FEAT_XSAVEC},  {FEAT_LM, FEAT_PAE},
    {FEAT_LAHF_LM, FEAT_LM},     {FEAT_PDPE1GB, FEAT_LM},
    {FEAT_SYSCALL, FEAT_LM},     {FEAT_PCID, FEAT_LM},
    {FEAT_X2APIC, FEAT_APIC},    {FEAT_TSC_DEADLINE, FEAT_APIC},
    {FEAT_TSC_ADJUST, FEAT_TSC}, {FEAT_RDTSCP, FEAT_TSC},
    {FEAT_PKU, FEAT_LM},         {FEAT_PKS, FEAT_LM},
};

static void words_set_list(struct words *s, const enum x86_feature *list, size_t count) {
    for (size_t n = 0; n < count; n++)
        words_set(s, list[n], true);
}

/* Takes away what lacks something it needs. */
static void words_settle(struct words *s) {
    for (unsigned n = 0; n < ARRAY_LEN(DEPENDS); n++)
        if (!words_has(s, DEPENDS[n].needs))
            words_set(s, DEPENDS[n].feature, false);
}

static void words_and(struct words *s, const struct words *o) {
    for (unsigned n = 0; n < FW_COUNT; n++)
        s->w[n] &= o->w[n];
}

static void words_or(struct words *s, const struct words *o) {
    for (unsigned n = 0; n < FW_COUNT; n++)
        s->w[n] |= o->w[n];
}

/* ---- the host ---- */

struct host {
    struct words words;
    bool intel;
    uint32_t signature;
    char brand[48];
};

static void host_leaf(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {
    if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]))
        memset(r, 0, 4 * sizeof r[0]);
}

static bool host_saves_ymm(void) {
    uint32_t eax, edx;
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (eax & 6) == 6;
}

static void host_words(struct words *s) {
    uint32_t r[4];
    host_leaf(1, 0, r);
    s->w[FW_1_EDX] = r[3];
    s->w[FW_1_ECX] = r[2];
    if (!words_has(s, FEAT_OSXSAVE) || !host_saves_ymm())
        words_set(s, FEAT_AVX, false);
    host_leaf(7, 0, r);
    s->w[FW_7_EBX] = r[1];
    s->w[FW_7_ECX] = r[2];
    s->w[FW_7_EDX] = r[3];
    host_leaf(7, 1, r);
    s->w[FW_7_1_EAX] = r[0];
    host_leaf(7, 2, r);
    s->w[FW_7_2_EDX] = r[3];
    host_leaf(0x80000001, 0, r);
    s->w[FW_81_EDX] = r[3];
    s->w[FW_81_ECX] = r[2];
    host_leaf(0xd, 1, r);
    s->w[FW_D1_EAX] = r[0];
    host_leaf(0x80000008, 0, r);
    s->w[FW_88_EBX] = r[1];
    words_settle(s);
}

static void host_read(struct host *h) {
    uint32_t r[4];
    *h = (struct host){.intel = false};
    host_words(&h->words);
    host_leaf(0, 0, r);
    h->intel = r[1] == signature_INTEL_ebx && r[2] == signature_INTEL_ecx;
    host_leaf(1, 0, r);
    h->signature = r[0] & 0x0fff3fff;
    for (unsigned n = 0; n < 3; n++) {
        host_leaf(0x80000002 + n, 0, r);
        memcpy(h->brand + 16 * n, r, 16);
    }
}

/* ---- models ---- */

enum model { MODEL_V1, MODEL_V2, MODEL_V3, MODEL_HOST, MODEL_COUNT };

static const char *const MODELS[] = {"x86-64", "x86-64-v2", "x86-64-v3", "host", NULL};

const char *const *x86_cpuid_models(void) {
    return MODELS;
}

static void model_words(enum model m, const struct host *h, struct words *s) {
    struct words native = {{0}};
    SET_LIST(s, SYSTEM);
    SET_LIST(s, LEVEL_1);
    if (m == MODEL_V2 || m == MODEL_V3)
        SET_LIST(s, LEVEL_2);
    if (m == MODEL_V3)
        SET_LIST(s, LEVEL_3);
    SET_LIST(&native, QUIRKS);
    if (m == MODEL_HOST) {
        SET_LIST(s, BEYOND_OURS);
        SET_LIST(&native, NATIVE);
    }
    words_and(&native, &h->words);
    words_or(s, &native);
    if (m == MODEL_HOST)
        words_settle(s);
}

/* What may be in a processor here at all. */
static void engine_words(struct words *s) {
    SET_LIST(s, SYSTEM);
    SET_LIST(s, LEVEL_1);
    SET_LIST(s, LEVEL_2);
    SET_LIST(s, LEVEL_3);
    SET_LIST(s, BEYOND_OURS);
    SET_LIST(s, NATIVE);
    SET_LIST(s, QUIRKS);
    SET_LIST(s, ON_REQUEST);
}

static bool host_must_have(enum x86_feature f) {
    struct words s = {{0}};
    SET_LIST(&s, NATIVE);
    SET_LIST(&s, QUIRKS);
    return words_has(&s, f);
}

static int check_available(const struct words *want, const struct host *h, struct err *e) {
    struct words can = {{0}};
    engine_words(&can);
    for (unsigned n = 0; n < FEATURES_COUNT; n++) {
        if (!words_has(want, FEATURES[n]))
            continue;
        if (!words_has(&can, FEATURES[n]))
            return err_set(e, 0, "%s: no engine offers it", feature_name(FEATURES[n]).s);
        if (host_must_have(FEATURES[n]) && !words_has(&h->words, FEATURES[n]))
            return err_set(e, 0, "%s: this host's processor does not have it",
                           feature_name(FEATURES[n]).s);
    }
    return 0;
}

/* ---- the specification: MODEL[,+feature][,-feature]... ---- */

struct choice {
    enum model model;
    struct words plus, minus;
};

static int parse_model(const char *name, enum model *m, struct err *e) {
    for (unsigned n = 0; n < MODEL_COUNT; n++)
        if (strcmp(name, MODELS[n]) == 0) {
            *m = (enum model)n;
            return 0;
        }
    return err_set(e, 0, "no such model '%s' (there are %s, %s, %s and %s)", name, MODELS[0],
                   MODELS[1], MODELS[2], MODELS[3]);
}

static int unknown_feature(const char *name, struct err *e) {
    char list[2048] = "";
    size_t len = 0;
    for (unsigned n = 0; n < FEATURES_COUNT && len < sizeof list - 32; n++)
        len += (size_t)snprintf(list + len, sizeof list - len, " %s", feature_name(FEATURES[n]).s);
    return err_set(e, 0, "no such feature '%s' (there are:%s)", name, list);
}

static int parse_change(const char *word, struct choice *ch, struct err *e) {
    if (*word != '+' && *word != '-')
        return err_set(e, 0, "'%s': expected +feature or -feature", word);
    enum x86_feature f = feature_find(word + 1);
    if (f == FEAT_NONE)
        return unknown_feature(word + 1, e);
    words_set(&ch->plus, f, *word == '+');
    words_set(&ch->minus, f, *word == '-');
    return 0;
}

static int parse_spec(const char *spec, struct choice *ch, struct err *e) {
    cleanup_free char *copy = xstrdup(spec);
    char *rest = copy;
    const char *word = strsep(&rest, ",");
    *ch = (struct choice){.model = MODEL_HOST};
    if (parse_model(word, &ch->model, e) < 0)
        return -1;
    while ((word = strsep(&rest, ",")))
        if (parse_change(word, ch, e) < 0)
            return -1;
    return 0;
}

/* A feature that was asked for must not go silently because another was taken away. */
static int settle_choice(struct words *s, const struct choice *ch, struct err *e) {
    for (unsigned n = 0; n < ARRAY_LEN(DEPENDS); n++)
        if (words_has(&ch->plus, DEPENDS[n].feature) && !words_has(s, DEPENDS[n].needs))
            return err_set(e, 0, "+%s needs %s", feature_name(DEPENDS[n].feature).s,
                           feature_name(DEPENDS[n].needs).s);
    words_settle(s);
    return 0;
}

static int choose_features(const struct choice *ch, const struct host *h, struct words *s,
                           struct err *e) {
    model_words(ch->model, h, s);
    words_or(s, &ch->plus);
    for (unsigned n = 0; n < FW_COUNT; n++)
        s->w[n] &= ~ch->minus.w[n];
    return settle_choice(s, ch, e) < 0 ? -1 : check_available(s, h, e);
}

static uint64_t xcr0_mask(const struct words *s) {
    if (!words_has(s, FEAT_XSAVE))
        return 0;
    return XCR0_X87 | XCR0_SSE | (words_has(s, FEAT_AVX) ? XCR0_AVX : 0) |
           (words_has(s, FEAT_PKU) ? XCR0_PKRU : 0);
}

/*
 * What a compiler makes for several processors (GCC's target_clones) chooses by the model and looks
 * at no feature: a guest without the host's AVX-512 must not have the name of a processor with it.
 */
static uint32_t signature(enum model m, const struct host *h, const struct words *s) {
    bool less = words_has(&h->words, FEAT_AVX512F) && !words_has(s, FEAT_AVX512F);
    if (m == MODEL_HOST && h->intel && !less)
        return h->signature;
    return m >= MODEL_V3 ? INTEL_HASWELL_EP : INTEL_NEHALEM;
}

static void fill(struct x86_cpuid *id, enum model m, const struct host *h, const struct words *s) {
    char brand[48] = {0};
    if (m == MODEL_HOST && h->intel)
        memcpy(brand, h->brand, sizeof brand);
    else
        (void)snprintf(brand, sizeof brand, "Ringfence %s processor", MODELS[m]);
    cpuid_fill(id, signature(m, h, s), brand);
}

int x86_cpuid_build(struct x86_cpuid *id, const char *spec, unsigned vcpus, uint64_t tsc_hz,
                    struct err *e) {
    struct choice ch;
    struct host h;
    struct words s = {{0}};
    memset(id, 0, sizeof *id);
    host_read(&h);
    if (parse_spec(spec, &ch, e) < 0 || choose_features(&ch, &h, &s, e) < 0)
        return err_wrap(e, "cpu %s", spec);
    memcpy(id->features, s.w, sizeof id->features);
    id->vcpus = vcpus;
    id->tsc_hz = tsc_hz;
    id->xcr0_mask = xcr0_mask(&s);
    id->phys_bits = PHYS_BITS;
    id->virt_bits = words_has(&s, FEAT_LM) ? VIRT_BITS : 32;
    (void)snprintf(id->model, sizeof id->model, "%s", MODELS[ch.model]);
    fill(id, ch.model, &h, &s);
    return 0;
}
