/* SPDX-License-Identifier: Apache-2.0 */
/* #DB: single step, breakpoints on instructions, data and ports, RF, GD, and what MOV SS holds
 * back. */
#include "lib.h"

enum { DR6_B0 = 1, DR6_B1 = 2, DR6_BD = 0x2000, DR6_BS = 0x4000, DR6_IDLE = 0xffff0ff0 };
enum { BREAK_EXEC = 0, BREAK_WRITE = 1, BREAK_IO = 2, BREAK_ACCESS = 3 };

#define MAX 32
static struct { ulong ip, dr6, flags; } volatile seen[MAX];
static volatile unsigned count;
static bool stop_at_first;

static void on_debug(struct frame *f) {
    if (count < MAX) {
        seen[count].ip = f->ip;
        seen[count].flags = f->flags;
        seen[count].dr6 = read_dr6();
    }
    count++;
    write_dr6(DR6_IDLE);
    f->flags |= EFLAGS_RF;
    if (stop_at_first || count >= MAX)
        f->flags &= ~(ulong)EFLAGS_TF;
}

static void arm(unsigned type, unsigned bytes, ulong address) {
    static const uint8_t lengths[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};

    count = 0;
    write_dr6(DR6_IDLE);
    write_dr0(address);
    write_dr7(0x400 | 2 | type << 16 | (ulong)lengths[bytes] << 18);
}

static void expect(const char *name, unsigned n, ulong dr6) {
    write_dr7(0x400);
    check(count == n && (!n || seen[0].dr6 == (DR6_IDLE | dr6)), name,
          "%u #DB, first at 0x%lx with DR6 0x%lx, want %u with 0x%lx", count, seen[0].ip,
          seen[0].dr6, n, DR6_IDLE | dr6);
}

static void check_at(const char *name, ulong at) {
    check_eq(name, seen[0].ip, at);
}

#define TF_ON "pushf; orl $0x100, (%%rsp); popf\n"
#define TF_OFF "pushf; andl $~0x100, (%%rsp); popf\n"

static void test_single_step(void) {
    ulong at;

    count = 0;
    asm volatile("lea 1f(%%rip), %0\n" TF_ON "nop; 1: nop; nop\n" TF_OFF : "=&r"(at)::"memory");
    expect("single step, one #DB an instruction", 6, DR6_BS);
    check_at("the first is behind the instruction after popf", at);
    check(!(seen[0].flags & EFLAGS_RF), "RF saved by a trap is 0", "it is 1");
    check(seen[0].flags & EFLAGS_TF, "TF is saved", "it is 0");
    count = 0;
    asm volatile("lea 1f(%%rip), %0; mov %%ss, %%ecx\n" TF_ON "mov %%ecx, %%ss; nop; 1:\n" TF_OFF
                 : "=&r"(at)::"rcx", "memory");
    expect("no single step right behind mov ss", 4, DR6_BS);
    check_at("it comes one instruction later", at);
    count = 0;
    stop_at_first = true;
    asm volatile("xor %%ecx, %%ecx; lea 1f(%%rip), %0\n" TF_ON "xor %%ecx, %%ecx; 1: nop; nop"
                 : "=&r"(at)::"rcx", "memory");
    expect("TF cleared in the saved flags ends it", 1, DR6_BS);
    stop_at_first = false;
    count = 0;
    {
        void *to = page_alloc(1);
        const void *from = (void *)0x100000;
        ulong n = 5;

        asm volatile(TF_ON "rep movsb; nop\n" TF_OFF : "+D"(to), "+S"(from), "+c"(n)::"memory");
    }
    /* Each iteration is a step: five, then nop, pushf, andl, popf. */
    expect("single step stops at every iteration of rep", 9, DR6_BS);
    check(seen[0].ip == seen[3].ip && seen[4].ip != seen[3].ip, "RIP stays at rep until the last",
          "0x%lx 0x%lx 0x%lx", seen[0].ip, seen[3].ip, seen[4].ip);
}

static ulong int_count;

static void on_int(struct frame *f) {
    int_count++;
    check(!(read_flags() & EFLAGS_TF), "int clears TF for its handler", "flags 0x%lx",
          read_flags());
    check(f->flags & EFLAGS_TF, "int saves TF", "flags 0x%lx", f->flags);
}

static void test_step_and_traps(void) {
    ulong at;

    trap_handle(0x80, on_int);
    count = 0;
    asm volatile("lea 1f(%%rip), %0\n" TF_ON "int $0x80; nop; 1:\n" TF_OFF : "=&r"(at)::"memory");
    /* int itself is not followed by a step: iret restores TF, and the next instruction is. */
    check_at("int under TF, the step comes after the instruction behind it", at);
    check_eq("int's handler ran", int_count, 1);
    trap_handle(0x80, NULL);
    count = 0;
    CHECK_TRY("a faulting instruction", 6, 0, "pushf; orl $0x100, (%rsp); popf; ud2");
    check_eq("is no step", count, 0);
    check(trap.flags & EFLAGS_RF, "RF saved by a fault is 1", "flags 0x%lx", trap.flags);
    CHECK_TRY("int 0x80 again", 0x80, 0, "int $0x80");
    check(!(trap.flags & EFLAGS_RF), "RF saved by int n is 0", "flags 0x%lx", trap.flags);
    count = 0;
    write_dr6(DR6_IDLE);
    asm volatile(".byte 0xf1");
    expect("int1 leaves DR6", 1, 0);
}

void break_here(void);
asm("break_here: nop; nop; break_2: ret; break_ud: ud2; ret");
extern char break_2[], break_ud[];

static void test_instruction(void) {
    arm(BREAK_EXEC, 1, (ulong)break_2);
    break_here();
    expect("instruction breakpoint", 1, DR6_B0);
    check_at("it is a fault", (ulong)break_2);
    check(!(seen[0].flags & EFLAGS_RF), "RF it saves is 0", "it is 1");
    arm(BREAK_EXEC, 1, (ulong)break_2 - 1);
    write_dr7(0x400);
    break_here();
    expect("not without its enable bits", 0, 0);
    arm(BREAK_EXEC, 1, (ulong)break_ud);
    CHECK_TRY("#UD after the breakpoint's RF", 6, 0, "jmp break_ud");
    expect("instruction breakpoint before #UD", 1, DR6_B0);
    {
        ulong ss = SEL_DATA;

        asm volatile(
            "lea 1f(%%rip), %%rax; mov %%rax, %%dr0; mov %1, %%rax; mov %%rax, %%dr7; movl $0, %0; mov %w2, %%ss; 1: nop"
            : "=m"(count)
            : "r"(0x402ul), "r"(ss)
            : "rax");
        expect("no instruction breakpoint right behind mov ss", 0, 0);
    }
    arm(BREAK_EXEC, 1, (ulong)break_here);
    write_dr1((ulong)break_here);
    write_dr7(0x400 | 2 | 8);
    break_here();
    expect("two at one place", 1, DR6_B0 | DR6_B1);
    arm(BREAK_EXEC, 1, 1ul << 40); /* where nothing is mapped */
    CHECK_TRY("#PF of an instruction's fetch", 14, 0x10, "jmp *%0", ::"r"(1ul << 40));
    expect("instruction breakpoint before it", 1, DR6_B0);
    check_at("at its address", 1ul << 40);
}

static uint64_t watched[4] __attribute__((aligned(32)));

static void test_data(void) {
    volatile uint8_t *p = (uint8_t *)watched;
    ulong at;

    arm(BREAK_WRITE, 4, (ulong)p + 8);
    asm volatile("lea 1f(%%rip), %0; movb $1, 11(%1); 1: nop" : "=&r"(at) : "r"(p) : "memory");
    expect("data breakpoint", 1, DR6_B0);
    check_at("it is a trap", at);
    arm(BREAK_WRITE, 4, (ulong)p + 8);
    p[7] = p[12] = 1;
    (void)p[8];
    expect("not beside it and not for a read", 0, 0);
    arm(BREAK_WRITE, 1, (ulong)p + 8);
    *(volatile uint64_t *)(p + 5) = 1;
    expect("a wide write over it", 1, DR6_B0);
    arm(BREAK_ACCESS, 2, (ulong)p + 8);
    (void)p[9];
    expect("access breakpoint for a read", 1, DR6_B0);
    arm(BREAK_WRITE, 8, (ulong)p + 8);
    p[15] = 2;
    expect("8-byte breakpoint, last byte", 1, DR6_B0);
    arm(BREAK_WRITE, 4, (ulong)p + 10);
    p[8] = 3;
    expect("an unaligned address is aligned down", 1, DR6_B0);
    arm(BREAK_ACCESS, 8, (ulong)p);
    asm volatile("lea 1f(%%rip), %0; mov %1, %%ss; nop; 1:"
                 : "=&r"(at)
                 : "m"(*(uint16_t *)p)
                 : "memory");
    expect("what mov ss reads is told", 1, DR6_B0);
    check_at("one instruction later", at);
    asm volatile("mov %w0, %%ss" ::"r"(SEL_DATA));
    arm(BREAK_WRITE, 1, (ulong)p + 2);
    {
        const void *from = (void *)0x100000;
        volatile void *to = p;
        ulong n = 6;

        asm volatile("lea 1f(%%rip), %0; 1: rep movsb"
                     : "=&r"(at), "+D"(to), "+S"(from), "+c"(n)::"memory");
    }
    expect("data breakpoint within rep movsb", 1, DR6_B0);
    check_at("after that iteration", at);
    arm(BREAK_WRITE, 8, (ulong)p + 24);
    asm volatile("mov %%rsp, %%rbx; lea 32(%0), %%rsp; push %%rax; mov %%rbx, %%rsp" ::"r"(p)
                 : "rbx", "memory");
    expect("push is a write", 1, DR6_B0);
    arm(BREAK_WRITE, 1, (ulong)p);
    asm volatile(TF_ON "movb $1, (%0)\n" TF_OFF ::"r"(p) : "memory");
    check(seen[0].dr6 == (DR6_IDLE | DR6_BS | DR6_B0), "breakpoint and single step in one #DB",
          "DR6 0x%lx", seen[0].dr6);
    write_dr7(0x400);
}

static void test_io(void) {
    ulong at;

    write_cr4(read_cr4() | CR4_DE);
    arm(BREAK_IO, 1, 0x80);
    asm volatile("lea 1f(%%rip), %0; outb %%al, $0x80; 1: nop" : "=&r"(at));
    expect("port breakpoint, out", 1, DR6_B0);
    check_at("it is a trap too", at);
    arm(BREAK_IO, 1, 0x80);
    (void)inb(0x80);
    expect("port breakpoint, in", 1, DR6_B0);
    arm(BREAK_IO, 2, 0x80);
    (void)inb(0x82);
    expect("not another port", 0, 0);
    CHECK_TRY("#UD dr4 with DE", 6, 0, "mov %%dr4, %%rax", ::: "rax");
    write_cr4(read_cr4() & ~(ulong)CR4_DE);
    CHECK_TRY("dr4 without DE", -1, 0, "mov %%dr4, %%rax", ::: "rax");
}

static void test_general_detect(void) {
    ulong at;

    count = 0;
    write_dr7(0x2400);
    asm volatile("lea 1f(%%rip), %0; 1: mov %%dr0, %%rax" : "=&r"(at)::"rax");
    check_eq("GD, one #DB", count, 1);
    check_eq("BD in DR6", seen[0].dr6, DR6_IDLE | DR6_BD);
    check_at("GD is a fault", at);
    check_eq("GD is off in and after the handler", read_dr7(), 0x400);
}

static void user_dr(void) {
    asm volatile("mov %%dr7, %%rax" ::: "rax");
}

static void test_registers(void) {
    write_dr7(0);
    check_eq("bit 10 of DR7 is 1", read_dr7(), 0x400);
    write_dr6(0);
    check_eq("DR6 when nothing is set", read_dr6() | 0x10000, DR6_IDLE);
    write_dr6(0xe00f);
    check_eq("what DR6 keeps", read_dr6() & 0xe00f, 0xe00f);
    write_dr6(DR6_IDLE);
    user_run(user_dr);
    check_trap("#GP mov from dr7 at CPL 3", 13, 0);
}

int main(void) {
    trap_handle(1, on_debug);
    test_single_step();
    test_step_and_traps();
    test_instruction();
    test_data();
    test_io();
    test_general_detect();
    test_registers();
    return 0;
}
