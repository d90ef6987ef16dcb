/* SPDX-License-Identifier: Apache-2.0 */
/* SYSCALL and SYSENTER with their returns, FS and GS bases, call gates, IRET and RETF in 64-bit
 * mode. */
#include "lib.h"

enum {
    EFER = 0xc0000080,
    STAR,
    LSTAR,
    CSTAR,
    FMASK,
    FS_BASE = 0xc0000100,
    GS_BASE,
    KERNEL_GS_BASE
};
enum { SYSENTER_CS = 0x174, SYSENTER_ESP, SYSENTER_EIP };

/* What system64_entry.S's entries saw. */
extern ulong entry_rcx, entry_r11, entry_rsp, entry_flags, entry_cs, entry_ss, entry_count,
    entry_frame[4];
extern char entry_syscall[], entry_sysret32[], entry_sysenter[], entry_sysexit32[], entry_gate[],
    entry_stack_top[];
extern char compat_code[], user_after_syscall[], user_after_gate[];
extern uint32_t compat_result;
void user_syscall(void), user_sysenter(void), user_sysenter32(void), user_gate(void),
    user_sysret(void);
void user_swapgs(void), user_compat(void), user_syscall32(void), user_noncanonical_return(void);

static void test_syscall(void) {
    check_eq("EFER reads SCE, LME, LMA, NXE", rdmsr(EFER), 0xd01);
    wrmsr(STAR, (ulong)(SEL_UCODE32 & ~3) << 48 | (ulong)SEL_CODE << 32);
    wrmsr(LSTAR, (ulong)entry_syscall);
    wrmsr(FMASK, EFLAGS_IF | EFLAGS_TF | 0x40001);
    entry_count = 0;
    check_eq("syscall and sysret", (ulong)user_run_flags(user_syscall, 0x40001), VECTOR_USER_EXIT);
    check_eq("syscall reached LSTAR", entry_count, 1);
    check_eq("RCX of syscall", entry_rcx, (ulong)user_after_syscall);
    check_eq("R11 of syscall", entry_r11 & 0x40001, 0x40001);
    check_eq("flags masked by FMASK", entry_flags & 0x40001, 0);
    check_eq("CS after syscall", entry_cs, SEL_CODE);
    check_eq("SS after syscall", entry_ss, SEL_DATA);
    check(entry_rsp < (ulong)user_stack_top && entry_rsp > (ulong)user_stack,
          "RSP after syscall is the user's", "0x%lx", entry_rsp);
    check_eq("CS after sysret", trap.cs, SEL_UCODE64);
    check_eq("SS after sysret", trap.ss, SEL_UDATA);
    check_eq("flags after sysret", trap.flags & 0x40001, 0x40001);
    wrmsr(LSTAR, (ulong)entry_sysret32);
    compat_result = 0;
    check_eq("syscall and sysret to 32-bit code", (ulong)user_run(user_syscall), VECTOR_USER_EXIT);
    check_eq("CS after sysret to 32-bit code", trap.cs, SEL_UCODE32);
    check_eq("32-bit code ran", compat_result, 0x12345679);
    user_run(user_syscall32);
    check_trap("#UD syscall in 32-bit code", 6, 0);
    user_run(user_sysret);
    check_trap("#GP sysret at CPL 3", 13, 0);
    CHECK_TRY("#GP sysret to a non-canonical address", 13, 0, "sysretq", ::"c"(1ul << 47));
    check_eq("#GP non-canonical LSTAR", (ulong)try_wrmsr(LSTAR, 1ul << 47), 13);
    wrmsr(EFER, rdmsr(EFER) & ~1ul);
    user_run(user_syscall);
    check_trap("#UD syscall without SCE", 6, 0);
    wrmsr(EFER, rdmsr(EFER) | 1);
}

static void test_sysenter(void) {
    wrmsr(SYSENTER_CS, 0);
    user_run(user_sysenter);
    check_trap("#GP sysenter with a null CS", 13, 0);
    wrmsr(SYSENTER_CS, SEL_CODE);
    wrmsr(SYSENTER_ESP, (ulong)entry_stack_top);
    wrmsr(SYSENTER_EIP, (ulong)entry_sysenter);
    entry_count = 0;
    check_eq("sysenter and sysexit", (ulong)user_run_flags(user_sysenter, 1), VECTOR_USER_EXIT);
    check_eq("sysenter reached its EIP", entry_count, 1);
    check_eq("RSP after sysenter", entry_rsp, (ulong)entry_stack_top);
    check_eq("CS after sysenter", entry_cs, SEL_CODE);
    check_eq("SS after sysenter", entry_ss, SEL_DATA);
    check_eq("sysenter clears IF and keeps CF", entry_flags & (EFLAGS_IF | 1), 1);
    check_eq("CS after sysexit", trap.cs, SEL_UCODE64);
    check_eq("SS after sysexit", trap.ss, SEL_UDATA64);
    wrmsr(SYSENTER_EIP, (ulong)entry_sysexit32);
    compat_result = 0;
    check_eq("sysenter and sysexit to 32-bit code", (ulong)user_run(user_sysenter),
             VECTOR_USER_EXIT);
    check_eq("CS after sysexit to 32-bit code", trap.cs, SEL_UCODE32);
    check_eq("32-bit code ran after sysexit", compat_result, 0x12345679);
    check_eq("#GP non-canonical SYSENTER_EIP", (ulong)try_wrmsr(SYSENTER_EIP, 1ul << 47), 13);
}

uint64_t bases[2] = {0x1111, 0x2222};

static ulong read_gs0(void) {
    ulong v;

    asm volatile("mov %%gs:0, %0" : "=r"(v));
    return v;
}

static void test_bases(void) {
    ulong v;

    wrmsr(GS_BASE, (ulong)&bases[0]);
    wrmsr(KERNEL_GS_BASE, (ulong)&bases[1]);
    check_eq("GS base by MSR", read_gs0(), 0x1111);
    asm volatile("swapgs");
    check_eq("swapgs", read_gs0(), 0x2222);
    check_eq("swapgs stores the old base", rdmsr(KERNEL_GS_BASE), (ulong)&bases[0]);
    user_run(user_swapgs);
    check_trap("#GP swapgs at CPL 3", 13, 0);
    asm volatile("mov %w0, %%gs" ::"r"(SEL_DATA));
    check_eq("GS loaded from a descriptor without a base", rdmsr(GS_BASE), 0);
    gdt_set(SEL_FREE, 0x12345678, 0xfffff, 0x93, 0xc);
    asm volatile("mov %w0, %%fs" ::"r"(SEL_FREE));
    check_eq("FS loaded from a descriptor with a base", rdmsr(FS_BASE), 0x12345678);
    asm volatile("mov %w0, %%ds" ::"r"(SEL_FREE));
    asm volatile("mov %%ds:bases, %0; mov %w1, %%ds" : "=&r"(v) : "r"(SEL_DATA));
    check_eq("DS has no base in 64-bit mode", v, 0x1111);
    if (!cpu_has7(0)) {
        skip("FSGSBASE", "not there");
        return;
    }
    write_cr4(read_cr4() & ~(ulong)CR4_FSGSBASE);
    CHECK_TRY("#UD rdfsbase without CR4.FSGSBASE", 6, 0, "rdfsbase %%rax", ::: "rax");
    write_cr4(read_cr4() | CR4_FSGSBASE);
    asm volatile("wrgsbase %1; rdgsbase %0" : "=r"(v) : "r"(&bases[1]));
    check_eq("wrgsbase and rdgsbase", v, (ulong)&bases[1]);
    check_eq("wrgsbase is the MSR", rdmsr(GS_BASE), (ulong)&bases[1]);
    asm volatile("wrfsbase %k1; rdfsbase %0" : "=r"(v) : "r"(-1ul));
    check_eq("wrfsbase of 32 bits", v, 0xffffffff);
    CHECK_TRY("#GP wrgsbase non-canonical", 13, 0, "wrgsbase %0", ::"r"(1ul << 47));
    asm volatile("mov %w0, %%gs; mov %w0, %%fs" ::"r"(0));
}

static void set_gate(unsigned selector, unsigned access) {
    ulong at = (ulong)entry_gate;

    gdt[SEL_FREE >> 3] =
        (at & 0xffff) | (ulong)selector << 16 | (ulong)access << 40 | (at >> 16 & 0xffff) << 48;
    gdt[(SEL_FREE >> 3) + 1] = at >> 32;
}

static void test_call_gate(void) {
    set_gate(SEL_CODE, 0xec);
    entry_count = 0;
    check_eq("64-bit call gate and far return", (ulong)user_run(user_gate), VECTOR_USER_EXIT);
    check_eq("the gate's target ran", entry_count, 1);
    check_eq("its CS", entry_cs, SEL_CODE);
    check_eq("its SS is null", entry_ss, 0);
    check_eq("its RSP", entry_rsp, (ulong)trap_stack_top - 32);
    check_eq("saved RIP", entry_frame[0], (ulong)user_after_gate);
    check_eq("saved CS", entry_frame[1], SEL_UCODE64);
    check_eq("saved SS", entry_frame[3], SEL_UDATA);
    check_eq("CS after the far return", trap.cs, SEL_UCODE64);
    set_gate(SEL_CODE, 0x8c);
    user_run(user_gate);
    check_trap("#GP call gate of DPL 0 at CPL 3", 13, SEL_FREE);
    set_gate(SEL_CODE, 0x6c);
    user_run(user_gate);
    check_trap("#NP call gate not present", 11, SEL_FREE);
    set_gate(SEL_CODE32, 0xec);
    user_run(user_gate);
    check_trap("#GP call gate to a 32-bit segment", 13, SEL_CODE32);
    set_gate(SEL_DATA, 0xec);
    user_run(user_gate);
    check_trap("#GP call gate to a data segment", 13, SEL_DATA);
    set_gate(SEL_CODE, 0xec);
    gdt[(SEL_FREE >> 3) + 1] |= 0x1ful << 40;
    user_run(user_gate);
    check_trap("#GP type in a call gate's upper half", 13, SEL_FREE);
    set_gate(SEL_CODE, 0xe4);
    user_run(user_gate);
    check_trap("#GP 16-bit call gate in long mode", 13, SEL_FREE);
}

#define IRET(name, error, ss, sp, cs, ip)                                                          \
    CHECK_TRY(name, 13, error,                                                                     \
              "mov %%rsp, %%rbx; push %0; push %1; push $2; push %2; push %3; iretq",              \
              ::"r"((ulong)(ss)), "r"((ulong)(sp)), "r"((ulong)(cs)), "r"((ulong)(ip))             \
              : "rbx", "memory");                                                                  \
    asm volatile("add $40, %%rsp" ::: "memory")

static void test_iret(void) {
    IRET("#GP iret to a non-canonical address", 0, SEL_DATA, stack_top, SEL_CODE, 1ul << 47);
    IRET("#GP iret with a null CS", 0, SEL_DATA, stack_top, 0, 0x100000);
    IRET("#GP iret with a null SS to CPL 3", 0, 0, stack_top, SEL_UCODE64, 0x100000);
    IRET("#GP iret to a data segment", SEL_DATA, SEL_DATA, stack_top, SEL_DATA, 0x100000);
    IRET("#GP iret with SS of another ring", SEL_DATA, SEL_DATA, stack_top, SEL_UCODE64, 0x100000);
    IRET("#GP iret beyond the GDT", 0xfff8, SEL_DATA, stack_top, 0xfff8, 0x100000);
    write_flags(EFLAGS_NT);
    IRET("#GP iret with NT in long mode", 0, SEL_DATA, stack_top, SEL_CODE, 0x100000);
    write_flags(0);
    user_run(user_noncanonical_return);
    check_trap("#GP ret to a non-canonical address", 13, 0);
    user_run(user_compat);
    check(trap.vector == VECTOR_USER_EXIT && trap.cs == SEL_UCODE32, "far jump to 32-bit code",
          "vector %d cs 0x%lx", trap.vector, trap.cs);
}

static volatile ulong supervisor_calls, user_target;

static void for_supervisors(void) {
    supervisor_calls++;
}

static void user_jump(void) {
    asm volatile("jmp *%0" ::"r"(user_target));
}

/*
 * Code that is found by the sum of its address and a number that stands for who runs it is found
 * from elsewhere too, by an address that makes up for the difference.
 */
static void test_aliases(void) {
    void (*volatile call)(void) = for_supervisors;
    ulong faults = 0, calls = 0;
    for (ulong high = 1; high < 0x10000; high++) {
        call();
        calls++;
        user_target = (ulong)for_supervisors | high << 48;
        user_run(user_jump);
        faults += trap.vector == 13 && trap.error == 0;
    }
    check_eq("#GP jumps to what would be supervisors' code but for the highest bits", faults,
             0xffff);
    check_eq("and none of it ran", supervisor_calls, calls);
}

static volatile ulong user_ds, user_es;

static void user_read_segments(void) {
    asm volatile("mov %%ds, %0; mov %%es, %1" : "=r"(user_ds), "=r"(user_es));
}

static void test_null_segments(void) {
    asm volatile("mov %w0, %%ds; mov %w1, %%es" ::"r"(3), "r"(SEL_DATA));
    user_run(user_read_segments);
    check_eq("a null selector's RPL is gone behind iret to CPL 3", user_ds, 0);
    check_eq("and CPL 0's segment is", user_es, 0);
    asm volatile("mov %w0, %%ds; mov %w0, %%es" ::"r"(SEL_DATA));
}

int main(void) {
    test_null_segments();
    test_syscall();
    test_sysenter();
    test_bases();
    test_call_gate();
    test_iret();
    test_aliases();
    return 0;
}
