/* SPDX-License-Identifier: Apache-2.0 */
/* XSAVE areas, CPUID's agreement with itself, and MSRs: which there are, and what they refuse. */
#include "lib.h"

static void test_cpuid_leaves(void) {
    struct cpuid r = cpuid(0, 0);
    uint32_t max = r.a, ext = cpuid(0x80000000, 0).a;

    check(max >= 7 && max < 0x100, "highest basic leaf", "0x%x", max);
    check(ext >= 0x80000008 && ext < 0x80000100, "highest extended leaf", "0x%x", ext);
    check_eq("clflush line is 64 bytes", cpuid(1, 0).b >> 8 & 0xff, 8);
    check(cpuid(0x80000001, 0).d & 1 << 29, "LM", "it is missing");
    check_eq("OSXSAVE is CR4's", cpuid(1, 0).c >> 27 & 1, read_cr4() >> 18 & 1);
    check((cpuid(0x80000002, 0).a & 0x80) == 0, "brand string is text", "0x%x",
          cpuid(0x80000002, 0).a);
    if (max >= 0xb) {
        check_eq("leaf 0xb, our x2APIC id", cpuid(0xb, 0).d, cpuid(1, 0).b >> 24);
        check_eq("leaf 0xb, type of level 0", cpuid(0xb, 0).c >> 8 & 0xff, 1);
        check_eq("leaf 0xb, the end", cpuid(0xb, 5).c & 0xff00, 0);
    }
    if (max >= 4) {
        unsigned i;

        for (i = 0; i < 8 && (cpuid(4, i).a & 31); i++)
            ;
        check(i < 8, "leaf 4 ends", "it does not");
    }
    for (unsigned i = 0; i < 100; i++)
        cpuid(i, 0);
    check(cpuid(max + 1, 0).a == cpuid(max + 1, 0).a, "a leaf beyond the last", "differs");
}

static void xsetbv(uint32_t index, uint64_t v) {
    asm volatile("xsetbv" ::"c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

static int try_xsetbv(uint32_t index, uint64_t v) {
    return TRY("xsetbv", ::"c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

static uint64_t xgetbv(uint32_t index) {
    uint32_t lo, hi;

    asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(index));
    return (uint64_t)hi << 32 | lo;
}

static uint64_t supported(void) {
    return cpuid(0xd, 0).a | (uint64_t)cpuid(0xd, 0).d << 32;
}

static void test_xcr0(void) {
    uint32_t size = 576;

    CHECK_TRY("#UD xgetbv without OSXSAVE", 6, 0, "xgetbv", ::"c"(0) : "rax", "rdx");
    write_cr4(read_cr4() | CR4_OSXSAVE);
    check_eq("OSXSAVE is CR4's now", cpuid(1, 0).c >> 27 & 1, 1);
    check_eq("XCR0 after reset", xgetbv(0), 1);
    check_eq("#GP XCR0 without x87", (ulong)try_xsetbv(0, 2), 13);
    check_eq("#GP XCR0 with AVX without SSE", (ulong)try_xsetbv(0, 5), 13);
    check_eq("#GP XCR0 with what is not there", (ulong)try_xsetbv(0, supported() | 1ull << 62), 13);
    check_eq("#GP XCR1", (ulong)try_xsetbv(1, 1), 13);
    check_eq("area for x87 alone", cpuid(0xd, 0).b, 576);
    for (unsigned i = 2; i < 63; i++) {
        struct cpuid c = cpuid(0xd, i);

        if (supported() >> i & 1) {
            check(c.a && c.b >= 576, "a component has size and place", "%u: %u at %u", i, c.a, c.b);
            if (c.b + c.a > size)
                size = c.b + c.a;
        } else if (i < 32 && c.a && !(c.c & 1)) {
            check(false, "a component that is not there has no size", "%u: %u", i, c.a);
        }
    }
    check_eq("size of all is the end of the last", cpuid(0xd, 0).c, size);
    xsetbv(0, supported());
    check_eq("size of what is on", cpuid(0xd, 0).b, size);
    check_eq("XCR0 reads back", xgetbv(0), supported());
}

static uint8_t *area;

#define XSAVE(insn, mask)                                                                          \
    asm volatile(insn " (%0)" ::"r"(area), "a"((uint32_t)(mask)), "d"(0) : "memory")
#define XSTATE_BV (*(volatile uint64_t *)(area + 512))
#define XCOMP_BV (*(volatile uint64_t *)(area + 520))

static uint64_t xmm0(void) {
    uint64_t v;

    asm volatile("movq %%xmm0, %0" : "=r"(v));
    return v;
}

static void test_xsave(void) {
    area = page_alloc(4);
    memset(area, 0xff, 512);
    asm volatile("fninit; fld1; movq %0, %%xmm0" ::"r"(0x1122334455667788ul));
    XSAVE("xsave64", 3);
    check_eq("XSTATE_BV", XSTATE_BV & 3, 3);
    check_eq("xmm0 in the area", *(uint64_t *)(area + 160), 0x1122334455667788);
    check_eq("st0 in the area", *(uint64_t *)(area + 32), 1ul << 63);
    check_eq("control word in the area", *(uint16_t *)area, 0x37f);
    asm volatile("fninit; xorps %xmm0, %xmm0");
    XSAVE("xrstor64", 2);
    check_eq("xrstor of SSE", xmm0(), 0x1122334455667788);
    XSTATE_BV = 1;
    XSAVE("xrstor64", 2);
    check_eq("xrstor of what is in its initial state", xmm0(), 0);
    XSTATE_BV = 1ull << 62;
    CHECK_TRY("#GP xrstor, XSTATE_BV beyond XCR0", 13, 0, "xrstor64 (%0)", ::"r"(area), "a"(3),
              "d"(0));
    XSTATE_BV = 3;
    XCOMP_BV = 1;
    CHECK_TRY("#GP xrstor, XCOMP_BV without compaction", 13, 0, "xrstor64 (%0)", ::"r"(area),
              "a"(3), "d"(0));
    XCOMP_BV = 0;
    *(uint64_t *)(area + 528) = 1;
    CHECK_TRY("#GP xrstor, reserved bytes of the header", 13, 0, "xrstor64 (%0)", ::"r"(area),
              "a"(3), "d"(0));
    *(uint64_t *)(area + 528) = 0;
    *(uint32_t *)(area + 24) = 0xffff0000;
    CHECK_TRY("#GP xrstor, reserved bits of MXCSR", 13, 0, "xrstor64 (%0)", ::"r"(area), "a"(3),
              "d"(0));
    *(uint32_t *)(area + 24) = 0x1f80;
    CHECK_TRY("#GP xsave unaligned", 13, 0, "xsave64 (%0)", ::"r"(area + 16), "a"(3), "d"(0));
    write_cr0(read_cr0() | CR0_TS);
    CHECK_TRY("#NM xsave with TS", 7, 0, "xsave64 (%0)", ::"r"(area), "a"(3), "d"(0));
    asm volatile("clts");
    if (!(cpuid(0xd, 1).a & 2)) {
        skip("xsavec", "not there");
        return;
    }
    memset(area, 0, 4096);
    asm volatile("movq %0, %%xmm0" ::"r"(0x99ul));
    XSAVE("xsavec64", 3);
    check_eq("xsavec, XCOMP_BV", XCOMP_BV, 1ull << 63 | 3);
    asm volatile("xorps %xmm0, %xmm0");
    XSAVE("xrstor64", 3);
    check_eq("xrstor of a compacted area", xmm0(), 0x99);
}

static void test_avx(void) {
    uint64_t v[4] = {1, 2, 3, 4}, w[4];
    uint32_t offset = cpuid(0xd, 2).b;

    if (!cpu_has1c(28)) {
        skip("AVX", "not there");
        return;
    }
    memset(area, 0, 4096);
    asm volatile("vmovups %0, %%ymm0" ::"m"(v));
    XSAVE("xsave64", 7);
    check_eq("ymm0's upper half in the area", *(uint64_t *)(area + offset), 3);
    asm volatile("vzeroall");
    XSAVE("xrstor64", 7);
    asm volatile("vmovups %%ymm0, %0" : "=m"(w));
    check_eq("ymm0 again", (ulong)memcmp(v, w, 32), 0);
    xsetbv(0, 3);
    CHECK_TRY("#UD AVX without XCR0.AVX", 6, 0, "vmovups %%ymm0, %0", : "=m"(w));
    xsetbv(0, supported());
    write_cr4(read_cr4() & ~(ulong)CR4_OSXSAVE);
    CHECK_TRY("#UD AVX without OSXSAVE", 6, 0, "vmovups %%ymm0, %0", : "=m"(w));
    write_cr4(read_cr4() | CR4_OSXSAVE);
}

static void test_msrs(void) {
    uint64_t v, old;

    check_eq("#GP an MSR that is none, read", (ulong)try_rdmsr(0x4b564dff, &v), 13);
    check_eq("#GP an MSR that is none, write", (ulong)try_wrmsr(0x4b564dff, 0), 13);
    check_eq("#GP EFER, reserved bit", (ulong)try_wrmsr(0xc0000080, rdmsr(0xc0000080) | 1ull << 40),
             13);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x400ull);
    check_eq("LMA cannot be written", rdmsr(0xc0000080) >> 10 & 1, 1);
    check_eq("PAT after reset", rdmsr(0x277), 0x0007040600070406);
    check_eq("#GP PAT, a type that is none", (ulong)try_wrmsr(0x277, 2), 13);
    wrmsr(0x277, 0x0007010600070106);
    check_eq("PAT reads back", rdmsr(0x277), 0x0007010600070106);
    v = rdmsr(0xfe);
    check((v & 0xff) >= 1 && (v & 0xff) <= 16, "MTRRs are counted", "%lu", v & 0xff);
    old = rdmsr(0x200);
    wrmsr(0x200, 0x80000006);
    check_eq("MTRR base reads back", rdmsr(0x200), 0x80000006);
    check_eq("#GP MTRR, a type that is none", (ulong)try_wrmsr(0x200, 2), 13);
    wrmsr(0x200, old);
    check_eq("#GP read-only MTRRcap", (ulong)try_wrmsr(0xfe, 0), 13);
    check_eq("#GP default type that is none", (ulong)try_wrmsr(0x2ff, 0xc02), 13);
    wrmsr(0xc0000103, 0x1234);
    if (cpuid(0x80000001, 0).d & 1 << 27) {
        uint32_t aux;

        asm volatile("rdtscp" : "=c"(aux)::"rax", "rdx");
        check_eq("rdtscp tells TSC_AUX", aux, 0x1234);
    }
    check_eq("#GP TSC_AUX of 33 bits", (ulong)try_wrmsr(0xc0000103, 1ull << 32), 13);
    check(rdmsr(0x1a0) & 1, "MISC_ENABLE, fast strings", "0x%lx", rdmsr(0x1a0));
}

int main(void) {
    test_cpuid_leaves();
    if (cpu_has1c(26)) {
        test_xcr0();
        test_xsave();
        test_avx();
    }
    test_msrs();
    return 0;
}
