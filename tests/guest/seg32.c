/* SPDX-License-Identifier: Apache-2.0 */
/* Segments in 32-bit protected mode: types, limits, rights, gates between rings, and the exceptions
 * of 32-bit code only. */
#include "lib.h"

enum { RAM = 0x400000 }; /* where the segments of these tests lie */
enum { A = SEL_FREE, B = SEL_FREE + 8, GATE = SEL_FREE + 16, C = SEL_FREE + 24 };
enum {
    DATA = 0x93,
    DATA_RO = 0x91,
    DOWN = 0x97,
    CODE_X = 0x99,
    CODE_XR = 0x9b,
    CODE_CONFORMING = 0x9f,
    DPL3 = 0x60
};

#define LOAD_ES(sel) asm volatile("mov %w0, %%es" ::"r"(sel))
#define READ_ES(name, vector, at)                                                                  \
    CHECK_TRY(name, vector, 0, "mov %%es:(%0), %%al", ::"r"(at) : "eax")
#define READ4_ES(name, vector, at)                                                                 \
    CHECK_TRY(name, vector, 0, "mov %%es:(%0), %%eax", ::"r"(at) : "eax")
#define WRITE_ES(name, vector, at)                                                                 \
    CHECK_TRY(name, vector, 0, "movb $1, %%es:(%0)", ::"r"(at) : "memory")

static void test_limits(void) {
    gdt_set(A, RAM, 0xfff, DATA, 4);
    LOAD_ES(A);
    READ_ES("byte at the limit", -1, 0xfff);
    READ_ES("#GP byte beyond the limit", 13, 0x1000);
    READ4_ES("dword up to the limit", -1, 0xffc);
    READ4_ES("#GP dword across the limit", 13, 0xffd);
    READ4_ES("#GP dword across 4 GiB", 13, 0xfffffffe);
    gdt_set(A, RAM, 1, DATA, 0xc);
    READ_ES("the cached limit stays", 13, 0x1001);
    LOAD_ES(A);
    READ_ES("page granularity, last byte", -1, 0x1fff);
    READ_ES("#GP page granularity, beyond", 13, 0x2000);
    gdt_set(A, RAM, 0xfff, DOWN, 4);
    LOAD_ES(A);
    READ_ES("#GP expand-down, at the limit", 13, 0xfff);
    READ_ES("expand-down, above the limit", -1, 0x1000);
    gdt_set(A, RAM, 0xfff, DOWN, 0);
    LOAD_ES(A);
    READ_ES("expand-down of 64 KiB, at its top", -1, 0xffff);
    READ_ES("#GP expand-down of 64 KiB, beyond", 13, 0x10000);
    gdt_set(A, 0, RAM / 4096 - 1, DATA, 0xc);
    CHECK_TRY("#SS through ss beyond the limit", 12, 0, "mov %w0, %%ss; mov %%ss:0x400000, %%al",
              ::"r"(A)
              : "eax");
    asm volatile("mov %w0, %%ss" ::"r"(SEL_DATA));
    LOAD_ES(SEL_DATA);
}

static void test_types(void) {
    gdt_set(A, RAM, 0xfffff, DATA_RO & ~1, 0xc);
    LOAD_ES(A);
    check(gdt[A >> 3] >> 40 & 1, "loading a segment sets its accessed bit", "it is clear");
    READ_ES("read of read-only data", -1, 0);
    WRITE_ES("#GP write to read-only data", 13, 0);
    gdt_set(A, RAM, 0xfffff, CODE_XR, 0xc);
    LOAD_ES(A);
    READ_ES("read of readable code", -1, 0);
    WRITE_ES("#GP write to code", 13, 0);
    LOAD_ES(SEL_DATA); /* the trap entry saves and loads ES again: it must stay loadable */
    gdt_set(A, RAM, 0xfffff, CODE_X, 0xc);
    CHECK_TRY("#GP execute-only code into es", 13, A, "mov %w0, %%es", ::"r"(A));
    CHECK_TRY("#GP code into ss", 13, SEL_CODE, "mov %w0, %%ss", ::"r"(SEL_CODE));
    gdt_set(A, RAM, 0xfffff, DATA_RO, 0xc);
    CHECK_TRY("#GP read-only data into ss", 13, A, "mov %w0, %%ss", ::"r"(A));
    CHECK_TRY("#GP null into ss", 13, 0, "mov %w0, %%ss", ::"r"(0));
    CHECK_TRY("#GP TSS into es", 13, SEL_TSS, "mov %w0, %%es", ::"r"(SEL_TSS));
    CHECK_TRY("#GP rpl above dpl into es", 13, SEL_DATA, "mov %w0, %%es", ::"r"(SEL_DATA | 3));
    gdt_set(A, RAM, 0xfffff, CODE_CONFORMING, 0xc);
    CHECK_TRY("conforming code into es with any rpl", -1, 0, "mov %w0, %%es", ::"r"(A | 3));
    LOAD_ES(0);
    READ_ES("#GP read through null", 13, 0);
    gdt_set(A, RAM, 0xfffff, DATA & 0x7f, 0xc);
    CHECK_TRY("#NP into es", 11, A, "mov %w0, %%es", ::"r"(A));
    CHECK_TRY("#SS not present into ss", 12, A, "mov %w0, %%ss", ::"r"(A));
    LOAD_ES(SEL_DATA);
}

static void test_transfers(void) {
    gdt_set(A, 0, 0xfffff, CODE_XR & 0x7f, 0xc);
    CHECK_TRY("#NP far jump", 11, A, "ljmpl $0x60, $1f; 1:");
    gdt_set(A, 0, 0xfff, CODE_XR, 4);
    CHECK_TRY("#GP far jump beyond the limit", 13, 0, "ljmpl $0x60, $0x1000");
    check_eq("it does not change CS", trap.cs, SEL_CODE);
    CHECK_TRY("#GP far jump to data", 13, SEL_DATA, "ljmpl $0x10, $0");
    CHECK_TRY("#GP far jump to null", 13, 0, "ljmpl $0, $0");
    CHECK_TRY("#GP far jump to code of DPL 3", 13, SEL_UCODE32 & ~3, "ljmpl $0x18, $0");
    gdt_set(A, 0, 0xfffff, CODE_CONFORMING, 0xc);
    CHECK_TRY("far jump to conforming code", 6, 0, "ljmpl $0x60, $1f; 1: ud2");
    check_eq("its selector", trap.cs, A);
    asm volatile("ljmpl $0x08, $1f; 1:");
    gdt_set(B, 0, 0xfffff, CODE_XR | DPL3, 0xc);
    CHECK_TRY("#GP retf to an inner selector", 13, SEL_DATA, "push $0x10; push $1f; lret; 1:");
    asm volatile("add $8, %%esp" ::: "memory");
}

static void test_verify(void) {
    uint32_t v, zf;

    gdt_set(A, RAM, 0x12345, DATA, 0xc);
    asm volatile("lsl %2, %0; setz %b1" : "=r"(v), "=q"(zf) : "r"(A));
    check((zf & 1) && v == 0x12345fff, "lsl", "0x%x", v);
    asm volatile("lar %2, %0; setz %b1" : "=r"(v), "=q"(zf) : "r"(A));
    check((zf & 1) && (v & 0xf0ff00) == 0xc09300, "lar", "0x%x", v);
    asm volatile("lar %2, %0; setz %b1" : "=r"(v), "=q"(zf) : "r"(0xfff8));
    check(!(zf & 1), "lar beyond the GDT clears ZF", "ZF is set");
    asm volatile("lsl %2, %0; setz %b1" : "=r"(v), "=q"(zf) : "r"(SEL_TSS));
    check((zf & 1) && v == sizeof(struct tss) - 1, "lsl of a TSS", "0x%x", v);
    asm volatile("verw %w1; setz %b0" : "=q"(zf) : "r"(A));
    check(zf & 1, "verw of data", "ZF is clear");
    asm volatile("verw %w1; setz %b0" : "=q"(zf) : "r"(SEL_CODE));
    check(!(zf & 1), "verw of code", "ZF is set");
    asm volatile("verr %w1; setz %b0" : "=q"(zf) : "r"(SEL_DATA | 3));
    check(!(zf & 1), "verr with an outer rpl", "ZF is set");
    asm volatile("arpl %w2, %w0; setz %b1" : "=r"(v), "=q"(zf) : "r"(3), "0"(0x10));
    check((zf & 1) && (v & 0xffff) == 0x13, "arpl raises the rpl", "0x%x", v);
}

static void test_code32_only(void) {
    static const int bounds[2] = {10, 20};

    CHECK_TRY("bound, inside", -1, 0, "bound %0, %1", ::"r"(15), "m"(bounds));
    CHECK_TRY("#BR bound, outside", 5, 0, "bound %0, %1", ::"r"(21), "m"(bounds));
    CHECK_TRY("#OF into", 4, 0, "mov $0x7f, %%al; inc %%al; into", ::: "eax");
    CHECK_TRY("into without overflow", -1, 0, "test %%al, %%al; into", ::: "cc");
    CHECK_TRY("#DE aam 0", 0, 0, "aam $0", ::: "eax");
    CHECK_TRY("#UD ud0", 6, 0, ".byte 0x0f, 0xff, 0xc0");
}

static struct { uint32_t cs, ss, esp, frame[6], count; } volatile gate;
void gate_entry(void), gate_entry_far2(void), gate_entry_16(void);
extern char user_after_gate[];
#define GATE_LOOK                                                                                                       \
    "push %eax; mov %cs, %eax; mov %eax, %ss:gate; mov %ss, %eax; mov %eax, %ss:gate + 4; lea 4(%esp), %eax;"           \
    "mov %eax, %ss:gate + 8; push %ecx; push %esi; push %edi; push %es; mov %ss, %ecx; mov %ecx, %es; mov %eax, %esi;"  \
    "mov $gate + 12, %edi; mov $6, %ecx; cld; rep movsl %ss:(%esi), %es:(%edi); incl %ss:gate + 36; pop %es; pop %edi;" \
    "pop %esi; pop %ecx; pop %eax;"
asm("gate_entry: " GATE_LOOK "lret\n gate_entry_far2: " GATE_LOOK
    "lret $8\n gate_entry_16: " GATE_LOOK "ljmpl $0x08, $user_leave");

static void gate_set(void (*to)(void), unsigned selector, unsigned access, unsigned words) {
    gdt[GATE >> 3] = ((uint32_t)to & 0xffff) | selector << 16 |
                     (uint64_t)(words | access << 8) << 32 |
                     (uint64_t)((uint32_t)to & 0xffff0000) << 32;
}

static void user_call(void) {
    asm volatile("lcall $0x73, $0; user_after_gate: nop");
}

static void user_call_words(void) {
    asm volatile("pushw $0x1111; pushw $0x2222; lcall $0x73, $0" ::: "memory");
}

/* Also for retf n: the words are gone from the outer stack too. */
static void user_call_balanced(void) {
    asm volatile(
        "mov %%esp, %%ebx; push $0x1111; push $0x2222; lcall $0x73, $0; cmp %%esp, %%ebx; je 1f; ud2; 1:" ::
            : "ebx", "memory");
}

static void user_call_conforming(void) {
    asm volatile("lcall $0x7b, $gate_entry");
}

static void user_jump_gate(void) {
    asm volatile("ljmp $0x73, $0");
}

static void call_expect(const char *name, void (*fn)(void), unsigned cs, unsigned ss) {
    gate.count = 0;
    user_run(fn);
    check(trap.vector == VECTOR_USER_EXIT && gate.count == 1 && gate.cs == cs && gate.ss == ss,
          name, "vector %d error 0x%lx count %u cs 0x%x ss 0x%x", trap.vector, trap.error,
          gate.count, gate.cs, gate.ss);
}

static void test_gates(void) {
    uint32_t sp = (uint32_t)trap_stack_top;

    gate_set(gate_entry, SEL_CODE, 0xec, 0);
    call_expect("call gate to ring 0", user_call, SEL_CODE, SEL_DATA);
    check_eq("ESP there", gate.esp, sp - 16);
    check_eq("saved EIP", gate.frame[0], (uint32_t)user_after_gate);
    check_eq("saved CS", gate.frame[1], SEL_UCODE32);
    check_eq("saved SS", gate.frame[3], SEL_UDATA);
    gate_set(gate_entry_far2, SEL_CODE, 0xec, 2);
    call_expect("call gate with two words", user_call_balanced, SEL_CODE, SEL_DATA);
    check_eq("ESP there, with words", gate.esp, sp - 24);
    check(gate.frame[2] == 0x2222 && gate.frame[3] == 0x1111, "words are copied in order",
          "0x%x 0x%x", gate.frame[2], gate.frame[3]);
    gate_set(gate_entry, SEL_CODE, 0x8c, 0);
    user_run(user_call);
    check_trap("#GP gate of DPL 0", 13, GATE);
    gate_set(gate_entry, SEL_CODE, 0x6c, 0);
    user_run(user_call);
    check_trap("#NP gate", 11, GATE);
    gate_set(gate_entry, SEL_CODE, 0xec, 0);
    user_run(user_jump_gate);
    check_trap("#GP jump through a gate to an inner ring", 13, SEL_CODE);
    gdt_set(C, 0, 0xfffff, CODE_CONFORMING, 0xc);
    gate.count = 0;
    call_expect("conforming code keeps CPL 3", user_call_conforming, C | 3, SEL_UDATA);
    gdt_set(A, 0, 0xfffff, CODE_XR | 0x20, 0xc);
    gdt_set(B, 0, 0xfffff, DATA | 0x20, 0xc);
    tss.esp1 = sp;
    tss.ss1 = B | 1;
    gate_set(gate_entry, A, 0xec, 0);
    call_expect("call gate to ring 1", user_call, A | 1, B | 1);
    tss.ss1 = SEL_UDATA;
    user_run(user_call);
    check_trap("#TS inner stack of the wrong ring", 10, SEL_UDATA & ~3);
    tss.ss1 = 0;
    user_run(user_call);
    check_trap("#TS inner stack null", 10, 0);
    gdt_set(B, 0, 0xfffff, 0x33, 0xc);
    tss.ss1 = B | 1;
    user_run(user_call);
    check_trap("#SS inner stack not present", 12, B);
    gdt_set(A, (uint32_t)gate_entry_16, 0xfff, CODE_XR, 4);
    gate_set((void (*)(void))0, A, 0xe4, 2);
    user_run(user_call_words);
    check(gate.cs == A && (gate.frame[1] >> 16) == 0x1111 && (gate.frame[1] & 0xffff) == 0x2222,
          "16-bit call gate copies words", "cs 0x%x, 0x%x", gate.cs, gate.frame[1]);
    check_eq("16-bit call gate, ESP", gate.esp, sp - 12);
}

static void on_int(struct frame *f) {
    gate.count++;
    gate.frame[0] = read_flags();
    gate.cs = f->cs;
}

static uint32_t seen_es;

static void user_es(void) {
    asm volatile("mov %%es, %0; mov %%ds, %%eax" : "=m"(seen_es)::"eax");
}

static void test_interrupts(void) {
    trap_handle(0x80, on_int);
    sti();
    asm volatile("int $0x80");
    check_eq("an interrupt gate clears IF", gate.frame[0] & EFLAGS_IF, 0);
    idt_set(0x80, (void (*)(void))(ulong)(trap_entries + 16 * 0x80), SEL_CODE, 0xf, 3, 0);
    asm volatile("int $0x80");
    check_eq("a trap gate keeps IF", gate.frame[0] & EFLAGS_IF, EFLAGS_IF);
    cli();
    user_run(user_es);
    check_eq("user's es", seen_es & 0xffff, SEL_UDATA);
    idt_set_present(0x80, false);
    CHECK_TRY("#NP int n", 11, 0x80 * 8 + 2, "int $0x80");
    idt_set_present(0x80, true);
    trap_handle(0x80, NULL);
}

static void user_sti(void) {
    asm volatile("sti");
}

static void user_cli(void) {
    asm volatile("cli");
}

/* Protected-mode virtual interrupts (SDM 3A 21.4): CLI and STI at CPL 3 change VIF. */
static void test_pvi(void) {
    if (!(cpuid(1, 0).d & 2)) {
        skip("PVI", "no VME");
        return;
    }
    user_run(user_sti);
    check_trap("#GP sti at CPL 3 without PVI", 13, 0);
    write_cr4(read_cr4() | CR4_PVI);
    check_eq("sti at CPL 3 with PVI", (ulong)user_run(user_sti), VECTOR_USER_EXIT);
    check_eq("sets VIF alone", trap.flags & (EFLAGS_VIF | EFLAGS_IF), EFLAGS_VIF);
    check_eq("cli with PVI", (ulong)user_run_flags(user_cli, EFLAGS_VIF), VECTOR_USER_EXIT);
    check_eq("clears VIF", trap.flags & EFLAGS_VIF, 0);
    user_run_flags(user_sti, EFLAGS_VIP);
    check_trap("#GP sti with PVI and VIP", 13, 0);
    write_cr4(read_cr4() & ~(ulong)CR4_PVI);
}

static uint64_t ldt[4];

static void test_ldt(void) {
    gdt_set(A, (uint32_t)ldt, sizeof(ldt) - 1, 0x82, 0);
    CHECK_TRY("lldt", -1, 0, "lldt %w0", ::"r"(A));
    ldt[1] = gdt[SEL_DATA >> 3];
    CHECK_TRY("LDT selector", -1, 0, "mov %w0, %%es", ::"r"(0xc));
    CHECK_TRY("#GP LDT selector beyond its limit", 13, 0x24, "mov %w0, %%es", ::"r"(0x24));
    CHECK_TRY("#GP lldt of an LDT selector", 13, 0xc, "lldt %w0", ::"r"(0xc));
    gdt_set(B, (uint32_t)ldt, sizeof(ldt) - 1, 0x02, 0);
    CHECK_TRY("#NP lldt", 11, B, "lldt %w0", ::"r"(B));
    LOAD_ES(SEL_DATA);
    asm volatile("lldt %w0" ::"r"(0));
    CHECK_TRY("#GP LDT selector after lldt 0", 13, 0xc, "mov %w0, %%es", ::"r"(0xc));
}

int main(void) {
    test_limits();
    test_types();
    test_transfers();
    test_verify();
    test_code32_only();
    test_gates();
    test_interrupts();
    test_pvi();
    test_ldt();
    return 0;
}
