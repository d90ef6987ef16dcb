/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions in 64-bit mode: every vector that can be made to happen, with its error code and
 * return address. */
#include "lib.h"

static ulong here(void) {
    return trap.ip;
}

/* A fault's saved RIP is that of the instruction, a trap's that of the next. */
static void test_divide(void) {
    ulong at;

    TRY("lea 1f(%%rip), %0; xor %%ecx, %%ecx; 1: div %%ecx", : "=&r"(at)::"rax", "rcx", "rdx");
    check_trap("#DE by zero", 0, 0);
    check_eq("#DE is a fault", here(), at);
    CHECK_TRY("#DE quotient too large", 0, 0, "div %%ecx", ::"a"(0), "d"(5), "c"(5));
    CHECK_TRY("#DE idiv most negative by -1", 0, 0, "idiv %%ecx", ::"a"(0x80000000u), "d"(-1),
              "c"(-1));
    CHECK_TRY("#DE idiv 64-bit most negative by -1", 0, 0, "idiv %%rcx", ::"a"(1ul << 63), "d"(-1l),
              "c"(-1l));
    CHECK_TRY("#DE div r8", 0, 0, "div %%cl", ::"a"(0x500), "c"(5));
}

static void test_int_bp_of(void) {
    ulong at;

    TRY("lea 1f(%%rip), %0; int3; 1: nop", : "=&r"(at));
    check_trap("#BP by int3", 3, 0);
    check_eq("#BP is a trap", here(), at);
    CHECK_TRY("#BP by int 3", 3, 0, "int $3");
    CHECK_TRY("int1 is #DB", 1, 0, ".byte 0xf1");
    CHECK_TRY("int 0x80", 0x80, 0, "int $0x80");
    CHECK_TRY("into is #UD in 64-bit mode", 6, 0, ".byte 0xce");
    CHECK_TRY("int 4 reaches #OF's vector", 4, 0, "int $4");
    CHECK_TRY("bound is EVEX or #UD in 64-bit mode", 6, 0, ".byte 0x62, 0x00, 0x00, 0x00, 0x00");
}

static void test_undefined(void) {
    ulong at;

    TRY("lea 1f(%%rip), %0; 1: ud2", : "=&r"(at));
    check_trap("#UD by ud2", 6, 0);
    check_eq("#UD is a fault", here(), at);
    CHECK_TRY("#UD by ud1", 6, 0, ".byte 0x0f, 0xb9, 0xc0");
    CHECK_TRY("#UD lock on a register", 6, 0, ".byte 0xf0, 0x01, 0xc0");
    CHECK_TRY("#UD lock on mov", 6, 0, ".byte 0xf0, 0x89, 0x04, 0x24");
    CHECK_TRY("#UD push es in 64-bit mode", 6, 0, ".byte 0x06");
    CHECK_TRY("#UD daa in 64-bit mode", 6, 0, ".byte 0x27");
    CHECK_TRY("#UD far jmp with immediate in 64-bit mode", 6, 0, ".byte 0xea, 0, 0, 0, 0, 8, 0");
    CHECK_TRY("#UD mov to cs", 6, 0, "xor %%eax, %%eax; .byte 0x8e, 0xc8", ::: "rax");
    CHECK_TRY("#UD mov from cr1", 6, 0, ".byte 0x0f, 0x20, 0xc8", ::: "rax");
    CHECK_TRY("#UD mov from cr5", 6, 0, ".byte 0x0f, 0x20, 0xe8", ::: "rax");
    CHECK_TRY("#UD lea with a register", 6, 0, ".byte 0x8d, 0xc0");
    CHECK_TRY("#UD cmpxchg8b with a register", 6, 0, ".byte 0x0f, 0xc7, 0xc8");
}

static void test_too_long(void) {
    CHECK_TRY("15 bytes are an instruction", -1, 0, ".fill 14, 1, 0x66; nop");
    CHECK_TRY("#GP beyond 15 bytes", 13, 0, ".fill 15, 1, 0x66; nop");
}

static void test_device_not_available(void) {
    write_cr0(read_cr0() | CR0_TS);
    CHECK_TRY("#NM x87 with TS", 7, 0, "fld1");
    CHECK_TRY("#NM SSE with TS", 7, 0, "xorps %xmm0, %xmm0");
    CHECK_TRY("#NM wait with TS and MP", 7, 0, "fwait");
    write_cr0(read_cr0() & ~(ulong)CR0_MP);
    CHECK_TRY("no #NM wait with TS without MP", -1, 0, "fwait");
    asm volatile("clts");
    write_cr0(read_cr0() | CR0_EM);
    CHECK_TRY("#NM x87 with EM", 7, 0, "fnop");
    CHECK_TRY("#UD SSE with EM", 6, 0, "xorps %xmm0, %xmm0");
    CHECK_TRY("no #NM wait with EM", -1, 0, "fwait");
    write_cr0((read_cr0() & ~(ulong)CR0_EM) | CR0_MP);
    write_cr4(read_cr4() & ~0x200ul);
    CHECK_TRY("#UD SSE without OSFXSR", 6, 0, "xorps %xmm0, %xmm0");
    CHECK_TRY("fxsave without OSFXSR", -1, 0, "fxsave (%0)", ::"r"(page_alloc(1)) : "memory");
    write_cr4(read_cr4() | 0x200);
}

static void test_floating_point(void) {
    uint16_t control = 0x037b; /* zero divide unmasked */
    uint32_t mxcsr = 0x1d80;   /* likewise */
    ulong at;

    asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp %%st, %%st(1)" ::"m"(control));
    TRY("lea 1f(%%rip), %0; 1: fwait", : "=&r"(at));
    check_trap("#MF at the next waiting instruction", 16, 0);
    check_eq("#MF is a fault", here(), at);
    CHECK_TRY("fnstsw does not wait", -1, 0, "fnstsw %%ax", ::: "rax");
    CHECK_TRY("#MF again at fld1", 16, 0, "fld1");
    CHECK_TRY("fnclex clears it", -1, 0, "fnclex; fld1");
    asm volatile("fninit");
    TRY("ldmxcsr %0; cvtsi2ss %2, %%xmm0; cvtsi2ss %1, %%xmm1; divss %%xmm1, %%xmm0", ::"m"(mxcsr),
        "r"(0), "r"(1));
    check_trap("#XM by divss", 19, 0);
    asm volatile("stmxcsr %0" : "=m"(mxcsr));
    check_eq("MXCSR.ZE after #XM", mxcsr & 0x3f, 4);
    mxcsr = 0x1d80;
    write_cr4(read_cr4() & ~0x400ul);
    TRY("ldmxcsr %0; divss %%xmm1, %%xmm0", ::"m"(mxcsr));
    check_trap("#UD instead of #XM without OSXMMEXCPT", 6, 0);
    write_cr4(read_cr4() | 0x400);
    mxcsr = 0x1f80;
    asm volatile("ldmxcsr %0" ::"m"(mxcsr));
    mxcsr = 0x10000;
    CHECK_TRY("#GP reserved bit of MXCSR", 13, 0, "ldmxcsr %0", ::"m"(mxcsr));
}

char ac_area[64] __attribute__((aligned(64)));

static void user_unaligned(void) {
    asm volatile("mov ac_area + 1, %%eax" ::: "rax");
}

static void user_aligned(void) {
    asm volatile("mov ac_area + 4, %%eax; mov ac_area + 3, %%al" ::: "rax");
}

static void user_movups(void) {
    asm volatile("movups ac_area + 1, %xmm0");
}

static void test_alignment_check(void) {
    write_cr0(read_cr0() | CR0_AM);
    user_run_flags(user_unaligned, EFLAGS_AC);
    check_trap("#AC at CPL 3", 17, 0);
    check_eq("aligned access has no #AC", (ulong)user_run_flags(user_aligned, EFLAGS_AC),
             VECTOR_USER_EXIT);
    check_eq("no #AC without EFLAGS.AC", (ulong)user_run_flags(user_unaligned, 0),
             VECTOR_USER_EXIT);
    write_flags(EFLAGS_AC);
    CHECK_TRY("no #AC at CPL 0", -1, 0, "mov ac_area + 1, %%eax", ::: "rax");
    write_flags(0);
    write_cr0(read_cr0() & ~(ulong)CR0_AM);
    check_eq("no #AC without CR0.AM", (ulong)user_run_flags(user_unaligned, EFLAGS_AC),
             VECTOR_USER_EXIT);
    CHECK_TRY("#GP movaps unaligned", 13, 0, "movaps ac_area + 1, %xmm0");
    CHECK_TRY("#GP cmpxchg16b unaligned", 13, 0, "cmpxchg16b ac_area + 8", ::
                  : "rax", "rbx", "rcx", "rdx");
    check_eq("movups unaligned", (ulong)user_run(user_movups), VECTOR_USER_EXIT);
}

static void test_canonical(void) {
    ulong bad = 0x800000000000ul;

    CHECK_TRY("#GP load non-canonical", 13, 0, "mov (%0), %%al", ::"r"(bad) : "rax");
    TRY("mov %%rbp, %%rbx; mov %0, %%rbp; mov (%%rbp), %%al; nop", ::"r"(bad) : "rax", "rbx");
    asm volatile("mov %%rbx, %%rbp" ::: "memory");
    check_trap("#SS through rbp non-canonical", 12, 0);
    CHECK_TRY("#GP jump to a non-canonical address", 13, 0, "jmp *%0", ::"r"(bad));
    CHECK_TRY("#GP wrmsr non-canonical FS base", 13, 0, "wrmsr", ::"c"(0xc0000100), "a"(0),
              "d"(0x8000));
    CHECK_TRY("#GP operand crosses into the hole", 13, 0, "mov (%0), %%rax", ::"r"(bad - 4)
              : "rax");
}

static void test_general_protection(void) {
    CHECK_TRY("#GP rdmsr of an unknown MSR", 13, 0, "rdmsr", ::"c"(0x12345678) : "rax", "rdx");
    CHECK_TRY("#GP selector beyond the GDT", 13, 0xfff8, "mov %w0, %%ds", ::"r"(0xfff8));
    CHECK_TRY("#GP code segment into ss", 13, SEL_CODE, "mov %w0, %%ss", ::"r"(SEL_CODE));
    CHECK_TRY("#GP rpl 3 into ss at CPL 0", 13, SEL_UDATA & ~3, "mov %w0, %%ss", ::"r"(SEL_UDATA));
    CHECK_TRY("#GP LDT selector without an LDT", 13, 0xc, "mov %w0, %%ds", ::"r"(0xc));
    gdt_set(SEL_FREE, 0, 0xfffff, 0x13, 0xc);
    CHECK_TRY("#NP data segment not present", 11, SEL_FREE, "mov %w0, %%ds", ::"r"(SEL_FREE));
    CHECK_TRY("#SS stack segment not present", 12, SEL_FREE, "mov %w0, %%ss", ::"r"(SEL_FREE));
    CHECK_TRY("null into ds", -1, 0, "mov %w0, %%ds", ::"r"(0));
    CHECK_TRY("null into ss at CPL 0 in 64-bit mode", -1, 0, "mov %w0, %%ss", ::"r"(0));
    asm volatile("mov %w0, %%ds; mov %w0, %%ss" ::"r"(SEL_DATA));
    CHECK_TRY("#GP ltr of a busy TSS", 13, SEL_TSS, "ltr %w0", ::"r"(SEL_TSS));
    CHECK_TRY("#GP ltr of null", 13, 0, "ltr %w0", ::"r"(0));
    CHECK_TRY("#GP lldt of a data segment", 13, SEL_DATA, "lldt %w0", ::"r"(SEL_DATA));
    CHECK_TRY("#GP CR0 with PG without PE", 13, 0, "mov %0, %%cr0", ::"r"(read_cr0() & ~1ul));
    CHECK_TRY("#GP CR0 with NW without CD", 13, 0, "mov %0, %%cr0", ::"r"(read_cr0() | CR0_NW));
    CHECK_TRY("#GP upper half of CR0", 13, 0, "mov %0, %%cr0", ::"r"(read_cr0() | 1ul << 32));
    CHECK_TRY("#GP reserved bit of CR4", 13, 0, "mov %0, %%cr4", ::"r"(read_cr4() | 1ul << 31));
    CHECK_TRY("#GP CR4.PAE cleared in long mode", 13, 0, "mov %0, %%cr4",
              ::"r"(read_cr4() & ~(ulong)CR4_PAE));
    CHECK_TRY("#GP reserved bit of CR8", 13, 0, "mov %0, %%cr8", ::"r"(16ul));
    CHECK_TRY("#GP upper half of DR7", 13, 0, "mov %0, %%dr7", ::"r"(1ul << 32));
    CHECK_TRY("#GP upper half of DR6", 13, 0, "mov %0, %%dr6", ::"r"(1ul << 32));
    CHECK_TRY("#GP EFER.LME changed under paging", 13, 0, "wrmsr", ::"c"(0xc0000080), "a"(0x801),
              "d"(0));
}

static void test_idt_gates(void) {
    idt_set_present(0x90, false);
    CHECK_TRY("#NP int through a gate not present", 11, 0x90 * 8 + 2, "int $0x90");
    idt_set(0x90, (void (*)(void))0x1000, SEL_CODE, 0xa, 0, 0);
    CHECK_TRY("#GP int through a gate of wrong type", 13, 0x90 * 8 + 2, "int $0x90");
    idt_set(0x90, (void (*)(void))0x1000, SEL_CODE32, 0xe, 0, 0);
    CHECK_TRY("#GP gate to a 32-bit segment in long mode", 13, SEL_CODE32, "int $0x90");
    idt_set(0x90, (void (*)(void))0x1000, 0, 0xe, 0, 0);
    CHECK_TRY("#GP gate with a null selector", 13, 0, "int $0x90");
    idt_set(0x90, (void (*)(void))0x1000, SEL_DATA, 0xe, 0, 0);
    CHECK_TRY("#GP gate to a data segment", 13, SEL_DATA, "int $0x90");
}

static void user_int90(void) {
    asm volatile("int $0x90");
}

static void user_hlt(void) {
    asm volatile("hlt");
}

static void user_cli(void) {
    asm volatile("cli");
}

static void user_in(void) {
    asm volatile("inb $0x80, %%al" ::: "rax");
}

static void user_cr0(void) {
    asm volatile("mov %%cr0, %%rax" ::: "rax");
}

static void user_sgdt(void) {
    asm volatile("sgdt -16(%rsp)");
}

static void user_rdtsc(void) {
    asm volatile("rdtsc" ::: "rax", "rdx");
}

static void test_user(void) {
    idt_set(0x90, (void (*)(void))0x1000, SEL_CODE, 0xe, 0, 0);
    user_run(user_int90);
    check_trap("#GP int through a gate of DPL 0 at CPL 3", 13, 0x90 * 8 + 2);
    user_run(user_hlt);
    check_trap("#GP hlt at CPL 3", 13, 0);
    check_eq("saved CS at CPL 3", trap.cs, SEL_UCODE);
    check_eq("saved SS at CPL 3", trap.ss, SEL_UDATA);
    user_run(user_cli);
    check_trap("#GP cli at CPL 3 with IOPL 0", 13, 0);
    user_run(user_in);
    check_trap("#GP in at CPL 3 without a bitmap", 13, 0);
    check_eq("in at CPL 3 with IOPL 3", (ulong)user_run_flags(user_in, 0x3000), VECTOR_USER_EXIT);
    tss.iomap = offsetof(struct tss, bitmap);
    check_eq("in at CPL 3 by the bitmap", (ulong)user_run(user_in), VECTOR_USER_EXIT);
    tss.bitmap[0x80 / 8] = 1;
    user_run(user_in);
    check_trap("#GP in at CPL 3 by the bitmap", 13, 0);
    user_run(user_cr0);
    check_trap("#GP mov from cr0 at CPL 3", 13, 0);
    check_eq("sgdt at CPL 3", (ulong)user_run(user_sgdt), VECTOR_USER_EXIT);
    write_cr4(read_cr4() | CR4_TSD);
    user_run(user_rdtsc);
    check_trap("#GP rdtsc at CPL 3 with TSD", 13, 0);
    write_cr4(read_cr4() & ~(ulong)CR4_TSD);
    check_eq("rdtsc at CPL 3", (ulong)user_run(user_rdtsc), VECTOR_USER_EXIT);
    if (!(cpuid(7, 0).c & 4)) {
        skip("#GP sgdt at CPL 3 with UMIP", "no UMIP");
        return;
    }
    write_cr4(read_cr4() | CR4_UMIP);
    user_run(user_sgdt);
    check_trap("#GP sgdt at CPL 3 with UMIP", 13, 0);
    write_cr4(read_cr4() & ~(ulong)CR4_UMIP);
}

/* Where priorities are fixed: a fetch's faults before decoding's, those before the operation's. */
static void test_priorities(void) {
    write_cr0(read_cr0() | CR0_TS);
    CHECK_TRY("#UD lock before #NM", 6, 0, ".byte 0xf0, 0xd9, 0xe8");
    CHECK_TRY("#NM before a non-canonical operand", 7, 0, "fldl (%0)", ::"r"(1ul << 47));
    asm volatile("clts");
    user_run(user_cr0);
    check_trap("#GP privilege", 13, 0);
}

static ulong df_error = -1ul, df_count;
static struct frame *ist_frame;
static char ist_stack[4096] __attribute__((aligned(4096)));

static void on_double_fault(struct frame *f) {
    df_error = f->error;
    df_count++;
    ist_frame = f;
    f->ip = trap_resume;
    trap_resume = 0;
}

static void test_double_fault(void) {
    tss.ist[0] = (ulong)(ist_stack + sizeof(ist_stack)) - 3;
    idt_set(8, (void (*)(void))(ulong)(trap_entries + 16 * 8), SEL_CODE, 0xe, 0, 1);
    trap_handle(8, on_double_fault);
    idt_set_present(13, false);
    TRY("mov (%0), %%al", ::"r"(1ul << 47) : "rax");
    idt_set_present(13, true);
    check_eq("#GP whose gate is not present is #DF", df_count, 1);
    check_eq("#DF error code", df_error, 0);
    check_eq("IST stack is aligned to 16", (ulong)(&ist_frame->ss + 1),
             ((ulong)(ist_stack + sizeof(ist_stack)) - 3) & -16ul);
    idt_set_present(14, false);
    TRY("mov (%0), %%al", ::"r"(1ul << 40) : "rax");
    idt_set_present(14, true);
    check_eq("#PF whose gate is not present is #DF", df_count, 2);
    idt_set_present(6, false);
    CHECK_TRY("#UD whose gate is not present is #NP", 11, 6 * 8 + 3, "ud2");
    idt_set_present(6, true);
    check_eq("a benign fault makes no #DF", df_count, 2);
    trap_handle(8, NULL);
}

static ulong stack_seen;

static void on_stack_alignment(struct frame *f) {
    stack_seen = (ulong)(&f->ss + 1);
}

static void test_stack_alignment(void) {
    trap_handle(0x80, on_stack_alignment);
    for (unsigned skew = 0; skew < 16; skew += 5) {
        ulong sp;

        asm volatile(
            "mov %%rsp, %%rbx; sub $256, %%rsp; sub %1, %%rsp; mov %%rsp, %0; int $0x80; mov %%rbx, %%rsp"
            : "=&r"(sp)
            : "r"((ulong)skew)
            : "rbx", "memory");
        check(stack_seen == (sp & -16ul), "interrupt frame is aligned to 16",
              "skew %u: 0x%lx from 0x%lx", skew, stack_seen, sp);
    }
    trap_handle(0x80, NULL);
}

int main(void) {
    test_divide();
    test_int_bp_of();
    test_undefined();
    test_too_long();
    test_device_not_available();
    test_floating_point();
    test_alignment_check();
    test_canonical();
    test_general_protection();
    test_idt_gates();
    test_user();
    test_priorities();
    test_double_fault();
    test_stack_alignment();
    return 0;
}
