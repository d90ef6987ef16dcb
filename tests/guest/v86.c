/* SPDX-License-Identifier: Apache-2.0 */
/* Virtual-8086 mode: what traps, what IOPL and the I/O bitmap let through, and VME with its
 * redirected interrupts and VIF. */
#include "lib.h"

enum { BASE = 0x10000, SEG = BASE >> 4 }; /* where the 16-bit code is put */
enum { IOPL3 = 0x3000, VIF = EFLAGS_VIF, VIP = EFLAGS_VIP };

static struct { ulong ds, es, fs, gs, ip, cs, flags, sp, ss, ax, si, di; } saw;

/* Everything that ends a run comes here through user_leave(), but for what a test handles itself.
 */
void v86_enter(ulong ip, ulong flags);
asm("v86_enter: mov 4(%esp), %eax; mov 8(%esp), %ecx; push %ebx; push %ebp; push %esi; push %edi; mov %esp, user_kernel_sp\n"
    "push $0x4444; push $0x3333; push $0x1111; push $0x2222; push $0x1000; push $0xfff0; push %ecx; push $0x1000; push %eax\n"
    "iret");

static void keep(struct frame *f) {
    trap.vector = (int)f->vector;
    trap.error = f->error;
    saw.ip = f->ip;
    saw.cs = f->cs;
    saw.flags = f->flags;
    saw.sp = f->sp;
    saw.ss = f->ss;
    saw.ds = f->v86_ds;
    saw.es = f->v86_es;
    saw.fs = f->v86_fs;
    saw.gs = f->v86_gs;
    saw.ax = f->ax;
    saw.si = f->si;
    saw.di = f->di;
    if (f->vector == 1)
        write_dr6(0xffff0ff0);
    user_leave();
}

/* Runs bytes at SEG:0 until something traps to the monitor. */
static int run(const char *code, size_t size, ulong flags) {
    memset((void *)BASE, 0xf4, 256); /* hlt traps */
    memcpy((void *)BASE, code, size);
    trap.vector = -1;
    v86_enter(0, flags | EFLAGS_VM | EFLAGS_FIXED);
    return trap.vector;
}

#define RUN(code, flags) run(code, sizeof(code) - 1, flags)
#define EXPECT(name, code, flags, number, code_of_it, at)                                          \
    expect(name, RUN(code, flags), number, code_of_it, at)

static void expect(const char *name, int vector, int want, ulong error, ulong ip) {
    check(vector == want && trap.error == error && saw.ip == ip, name,
          "vector %d error 0x%lx ip 0x%lx, want %d 0x%lx 0x%lx", vector, trap.error, saw.ip, want,
          error, ip);
}

static void test_frame(void) {
    EXPECT("hlt", "\x90\xf4", 0, 13, 0, 1);
    check_eq("CS", saw.cs, SEG);
    check_eq("SS", saw.ss, SEG);
    check_eq("SP", saw.sp, 0xfff0);
    check(saw.flags & EFLAGS_VM, "VM in the saved flags", "0x%lx", saw.flags);
    check(saw.ds == 0x1111 && saw.es == 0x2222 && saw.fs == 0x3333 && saw.gs == 0x4444,
          "data segments are saved in order", "0x%lx 0x%lx 0x%lx 0x%lx", saw.ds, saw.es, saw.fs,
          saw.gs);
    *(uint8_t *)(0x11110 + 0x20) = 0x9d;
    EXPECT("ds is a paragraph", "\xa0\x20\x00\xf4", 0, 13, 0, 3);
    check_eq("what it reads", saw.ax & 0xff, 0x9d);
    EXPECT("mov to a segment", "\xb8\x78\x56\x8e\xd8\x8c\xde\xf4", 0, 13, 0, 7);
    check_eq("its value", saw.si & 0xffff, 0x5678);
    EXPECT("#GP word at offset ffff", "\xa1\xff\xff\xf4", 0, 13, 0, 0);
    EXPECT("far jump", "\xea\x00\x00\x08\x10", 0, 13, 0, 0);
    check_eq("CS of a far jump", saw.cs, 0x1008);
}

static void test_sensitive(void) {
    EXPECT("cli with IOPL 0", "\xfa", 0, 13, 0, 0);
    EXPECT("sti with IOPL 0", "\xfb", 0, 13, 0, 0);
    EXPECT("pushf with IOPL 0", "\x9c", 0, 13, 0, 0);
    EXPECT("popf with IOPL 0", "\x9d", 0, 13, 0, 0);
    EXPECT("iret with IOPL 0", "\xcf", 0, 13, 0, 0);
    EXPECT("int n with IOPL 0", "\xcd\x21", 0, 13, 0, 0);
    EXPECT("int3 with IOPL 0", "\xcc", 0, 3, 0, 1);
    EXPECT("cli with IOPL 3", "\xfa\xf4", IOPL3, 13, 0, 1);
    EXPECT("pushf and popf with IOPL 3", "\x9c\x9d\xf4", IOPL3, 13, 0, 2);
    EXPECT("int n with IOPL 3", "\xcd\x80", IOPL3, 0x80, 0, 2);
    EXPECT("int n with IOPL 3, gate of DPL 0", "\xcd\x21", IOPL3, 13, 0x21 * 8 + 2, 0);
    EXPECT("in without the bitmap's leave, IOPL 3", "\xe4\x80", IOPL3, 13, 0, 0);
    tss.iomap = offsetof(struct tss, bitmap);
    EXPECT("in with the bitmap's leave", "\xe4\x80\xf4", 0, 13, 0, 2);
    tss.bitmap[0x80 / 8] = 2;
    EXPECT("in of a word, one port refused", "\xe5\x80\xf4", 0, 13, 0, 0);
    tss.bitmap[0x80 / 8] = 0;
    EXPECT("mov from cr0", "\x0f\x20\xc0", IOPL3, 13, 0, 0);
    EXPECT("#UD lar", "\x0f\x02\xc0", IOPL3, 6, 0, 0);
    EXPECT("#UD sldt", "\x0f\x00\xc0", IOPL3, 6, 0, 0);
    EXPECT("#UD arpl", "\x63\xc0", IOPL3, 6, 0, 0);
    EXPECT("smsw", "\x0f\x01\xe0\xf4", 0, 13, 0, 3);
    EXPECT("#DE", "\x31\xc9\xf7\xf1", 0, 0, 0, 2);
    EXPECT("single step", "\x90\x90", EFLAGS_TF, 1, 0, 1);
}

/* popf at IOPL 3 changes IF, and neither IOPL nor VM. */
static void test_flags(void) {
    RUN("\x68\x00\x02\x9d\xf4", IOPL3);
    check_eq("popf with IOPL 3", saw.flags & (EFLAGS_IF | IOPL3 | EFLAGS_VM),
             EFLAGS_IF | IOPL3 | EFLAGS_VM);
    RUN("\x66\x68\x00\x00\x02\x00\x66\x9d\xf4", IOPL3 | EFLAGS_IF);
    check_eq("popfd with IOPL 3", saw.flags & (EFLAGS_IF | IOPL3 | EFLAGS_VM), IOPL3 | EFLAGS_VM);
    RUN("\x68\x00\x30\x68\x00\x10\x68\x10\x00\xcf", IOPL3 | EFLAGS_IF);
    check(saw.ip == 0x10 && saw.cs == SEG && saw.flags & EFLAGS_VM, "iret with IOPL 3",
          "0x%lx:0x%lx flags 0x%lx", saw.cs, saw.ip, saw.flags);
}

static void test_vme(void) {
    uint16_t *ivt = NULL;

    asm("" : "+r"(ivt));
    if (!(cpuid(1, 0).d & 2)) {
        skip("VME", "not there");
        return;
    }
    write_cr4(read_cr4() | CR4_VME);
    EXPECT("VME, cli with IOPL 0", "\xfa\xf4", VIF, 13, 0, 1);
    check_eq("VME, cli clears VIF", saw.flags & VIF, 0);
    EXPECT("VME, sti with IOPL 0", "\xfb\xf4", 0, 13, 0, 1);
    check_eq("VME, sti sets VIF", saw.flags & VIF, VIF);
    EXPECT("VME, sti with VIP", "\xfb\xf4", VIP, 13, 0, 0);
    EXPECT("VME, pushf with IOPL 0", "\x9c\x58\xf4", VIF, 13, 0, 2);
    check_eq("VME, pushf shows VIF as IF and IOPL 3", saw.ax & 0x3200, 0x3200);
    EXPECT("VME, popf with IOPL 0", "\x68\x00\x02\x9d\xf4", 0, 13, 0, 4);
    check_eq("VME, popf sets VIF", saw.flags & (VIF | EFLAGS_IF), VIF);
    EXPECT("VME, popf of IF with VIP", "\x68\x00\x02\x9d\xf4", VIP, 13, 0, 3);
    EXPECT("VME, popf of TF", "\x68\x00\x01\x9d\xf4", 0, 13, 0, 3);
    EXPECT("VME, 32-bit popf still traps", "\x66\x9d", 0, 13, 0, 0);
    ivt[0x21 * 2] = 0x40;
    ivt[0x21 * 2 + 1] = SEG;
    memset(tss.redirect, 0, sizeof(tss.redirect));
    RUN("\xcd\x21", VIF | 1);
    check(trap.vector == 13 && saw.ip == 0x40 && saw.cs == SEG,
          "VME, int n goes to the 8086 program's handler", "vector %d 0x%lx:0x%lx", trap.vector,
          saw.cs, saw.ip);
    check_eq("VME, its VIF", saw.flags & VIF, 0);
    check_eq("VME, its stack", saw.sp, 0xfff0 - 6);
    check_eq("VME, flags pushed", ((uint16_t *)(BASE + 0xffea))[2] & 0x3201, 0x3201);
    check_eq("VME, IP pushed", ((uint16_t *)(BASE + 0xffea))[0], 2);
    tss.redirect[0x21 / 8] = 1 << (0x21 % 8);
    EXPECT("VME, int n not redirected with IOPL 0", "\xcd\x21", 0, 13, 0, 0);
    ivt[0x80 * 2] = 0x40;
    ivt[0x80 * 2 + 1] = SEG;
    EXPECT("VME, int n redirected with IOPL 3", "\xcd\x80", IOPL3, 13, 0, 0x40);
    tss.redirect[0x80 / 8] = 1;
    EXPECT("VME, int n not redirected with IOPL 3, by the IDT", "\xcd\x80", IOPL3, 0x80, 0, 2);
    write_cr4(read_cr4() & ~(ulong)CR4_VME);
}

int main(void) {
    for (unsigned v = 0; v < 0x20; v++)
        trap_handle(v, keep);
    trap_handle(0x80, keep);
    test_frame();
    test_sensitive();
    test_flags();
    test_vme();
    return 0;
}
