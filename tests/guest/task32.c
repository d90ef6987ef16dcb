/* SPDX-License-Identifier: Apache-2.0 */
/* Task switches in 32-bit protected mode: JMP, CALL, IRET, task gates, busy bits, links, and #TS.
 */
#include "lib.h"

enum {
    T1 = SEL_FREE,
    GATE = SEL_FREE + 8,
    T16 = SEL_FREE + 16,
    LDT = SEL_FREE + 24,
    SMALL = SEL_FREE + 32
};
enum { TSS_FREE = 0x89, TSS_BUSY = 0x8b };

static struct tss other; /* the second task's */
static char other_stack[4096] __attribute__((aligned(16)));
static uint64_t ldt[2];
static volatile struct { uint32_t count, flags, tr, link, cr0, es, error; } saw;

static unsigned access_of(unsigned selector) {
    return gdt[selector >> 3] >> 40 & 0xff;
}

static unsigned task_register(void) {
    uint16_t tr;

    asm volatile("str %0" : "=r"(tr));
    return tr;
}

static void look(void) {
    saw.count++;
    saw.flags = read_flags();
    saw.tr = task_register();
    saw.link = other.link;
    saw.cr0 = read_cr0();
    asm volatile("mov %%es, %0" : "=r"(saw.es));
}

/* A task that returns by IRET, again and again. */
static void task_iret(void) {
    for (;;) {
        look();
        asm volatile("iret");
    }
}

static void task_jump(void) {
    for (;;) {
        look();
        asm volatile("ljmp $0x50, $0");
    }
}

/* A fault's task: takes the error code, and lets the interrupted task go on behind TRY's
 * instruction. */
void task_error(void);
asm("task_error: pop saw_error; call fault_resume; iret");
void fault_resume(void);
volatile uint32_t saw_error;

void fault_resume(void) {
    look();
    tss.eip = trap_resume;
}

static void task_set(void (*entry)(void)) {
    memset(&other, 0, 104);
    other.eip = (uint32_t)entry;
    other.eflags = EFLAGS_FIXED;
    other.esp = (uint32_t)(other_stack + sizeof(other_stack));
    other.cs = SEL_CODE;
    other.ss = other.ds = other.es = other.fs = other.gs = SEL_DATA;
    other.cr3 = 0;
    other.iomap = 104;
    gdt_set(T1, (uint32_t)&other, 103, TSS_FREE, 0);
    saw.count = 0;
}

static void test_call(void) {
    task_set(task_iret);
    asm volatile("clts");
    asm volatile("lcall $0x60, $0" ::: "memory");
    check_eq("call of a task and iret back", saw.count, 1);
    check_eq("TR within the task", saw.tr, T1);
    check_eq("its link", saw.link, SEL_TSS);
    check(saw.flags & EFLAGS_NT, "NT within the task", "flags 0x%x", saw.flags);
    check(saw.cr0 & CR0_TS, "a switch sets TS", "CR0 0x%x", saw.cr0);
    check_eq("TR after it", task_register(), SEL_TSS);
    check(!(read_flags() & EFLAGS_NT), "NT after it", "it is set");
    check_eq("the task left is free", access_of(T1), TSS_FREE);
    check_eq("our task is busy", access_of(SEL_TSS), TSS_BUSY);
    check(!(other.eflags & EFLAGS_NT), "iret saves the task with NT clear", "eflags 0x%x",
          other.eflags);
    asm volatile("lcall $0x60, $0" ::: "memory");
    check_eq("call again goes on behind iret", saw.count, 2);
    asm volatile("clts");
}

static void test_jump(void) {
    ulong flags = 0x8d5, seen;

    task_set(task_jump);
    other.eflags = EFLAGS_FIXED | 1;
    asm volatile("push %1; popf; ljmp $0x60, $0; pushf; pop %0"
                 : "=r"(seen)
                 : "r"(flags)
                 : "memory", "cc");
    check_eq("jump to a task and back", saw.count, 1);
    check(!(saw.flags & EFLAGS_NT), "no NT by jump", "flags 0x%x", saw.flags);
    check_eq("no link by jump", saw.link, 0);
    check_eq("flags come back", seen & 0xfd5, flags & 0xfd5);
    check_eq("the task jumped from is free", access_of(T1), TSS_FREE);
    check_eq("the task jumped to is busy", access_of(SEL_TSS), TSS_BUSY);
    asm volatile("clts");
}

static void test_gates(void) {
    task_set(task_iret);
    gdt[GATE >> 3] = (uint64_t)T1 << 16 | 0x8500ull << 32;
    asm volatile("lcall $0x68, $0" ::: "memory");
    check_eq("call through a task gate", saw.count, 1);
    idt[0x90] = (uint64_t)T1 << 16 | 0x8500ull << 32;
    asm volatile("int $0x90" ::: "memory");
    check_eq("int through a task gate", saw.count, 2);
    check_eq("its link is us", saw.link, SEL_TSS);
    task_set(task_error);
    idt[13] = (uint64_t)T1 << 16 | 0x8500ull << 32;
    TRY("mov %w0, %%es", ::"r"(0x4a8));
    trap_resume = 0;
    check_eq("#GP through a task gate", saw.count, 1);
    check_eq("its error code is on the task's stack", saw_error, 0x4a8);
    task_set(task_error);
    idt[8] = (uint64_t)T1 << 16 | 0x8500ull << 32;
    idt_set_present(13, false);
    TRY("mov %w0, %%es", ::"r"(0x4a8));
    trap_resume = 0;
    check_eq("#DF through a task gate", saw.count, 1);
    check_eq("#DF's error code", saw_error, 0);
    idt_set(13, (void (*)(void))(ulong)(trap_entries + 16 * 13), SEL_CODE, 0xe, 0, 0);
    gdt[GATE >> 3] = (uint64_t)SEL_DATA << 16 | 0x8500ull << 32;
    CHECK_TRY("#GP task gate to a data segment", 13, SEL_DATA, "lcall $0x68, $0");
    gdt[GATE >> 3] = (uint64_t)T1 << 16 | 0x0500ull << 32;
    CHECK_TRY("#NP task gate", 11, GATE, "lcall $0x68, $0");
    asm volatile("clts");
}

static void user_call_task(void) {
    asm volatile("lcall $0x60, $0");
}

static void test_refusals(void) {
    task_set(task_iret);
    gdt_set(T1, (uint32_t)&other, 103, TSS_BUSY, 0);
    CHECK_TRY("#GP jump to a busy task", 13, T1, "ljmp $0x60, $0");
    gdt_set(T1, (uint32_t)&other, 102, TSS_FREE, 0);
    CHECK_TRY("#TS task segment too small", 10, T1, "ljmp $0x60, $0");
    gdt_set(T1, (uint32_t)&other, 103, TSS_FREE & 0x7f, 0);
    CHECK_TRY("#NP task segment", 11, T1, "ljmp $0x60, $0");
    gdt_set(T1, (uint32_t)&other, 103, TSS_FREE, 0);
    user_run(user_call_task);
    check_trap("#GP call of a task of DPL 0 at CPL 3", 13, T1);
    other.link = SEL_DATA;
    tss.link = SEL_DATA;
    CHECK_TRY("#TS iret with NT and a link that is no task", 10, SEL_DATA,
              "pushf; orl $0x4000, (%esp); popf; iret");
    write_flags(0);
    tss.link = T1;
    CHECK_TRY("#TS iret with NT and a link that is not busy", 10, T1,
              "pushf; orl $0x4000, (%esp); popf; iret");
    write_flags(0);
}

static void on_bad_task(struct frame *f) {
    saw.error = f->error;
    saw.tr = task_register();
    saw.count++;
    /* Back to the first task, as IRET would: the new one's own state is what it is. */
    asm volatile("ljmp $0x50, $0");
}

/* What is found wrong after the switch is raised in the new task. */
static void test_bad_state(void) {
    struct {
        const char *name;
        unsigned vector;
        size_t field;
        uint32_t value, error;
    } cases[] = {
        {"#TS null code segment", 10, offsetof(struct tss, cs), 0, 0},
        {"#TS data as code segment", 10, offsetof(struct tss, cs), SEL_DATA, SEL_DATA},
        {"#TS null stack segment", 10, offsetof(struct tss, ss), 0, 0},
        {"#TS code as stack segment", 10, offsetof(struct tss, ss), SEL_CODE, SEL_CODE},
        {"#TS rpl of data", 10, offsetof(struct tss, ds), 0xfff8, 0xfff8},
        {"#TS LDT that is none", 10, offsetof(struct tss, ldt), SEL_DATA, SEL_DATA},
    };

    trap_handle(10, on_bad_task);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        static struct tss handler;

        /* #TS gets a task of its own, since the new task's stack may be unusable. */
        task_set(task_iret);
        memcpy((char *)&other + cases[i].field, &cases[i].value, 4);
        memcpy(&handler, &tss, 104);
        handler.eip = (uint32_t)(trap_entries + 16 * 10);
        handler.esp = (uint32_t)(other_stack + 2048);
        handler.cs = SEL_CODE;
        handler.ss = handler.ds = handler.es = handler.fs = handler.gs = SEL_DATA;
        handler.eflags = EFLAGS_FIXED;
        handler.ldt = 0;
        handler.cr3 = 0;
        gdt_set(T16, (uint32_t)&handler, 103, TSS_FREE, 0);
        idt[10] = (uint64_t)T16 << 16 | 0x8500ull << 32;
        asm volatile("ljmp $0x60, $0" ::: "memory");
        check(saw.count == 1 && saw.error == cases[i].error, cases[i].name,
              "count %u error 0x%x, want 0x%x", saw.count, saw.error, cases[i].error);
        check_eq("it is told from the new task", handler.link, T1);
    }
    trap_handle(10, NULL);
    idt_set(10, (void (*)(void))(ulong)(trap_entries + 160), SEL_CODE, 0xe, 0, 0);
    asm volatile("clts");
}

static volatile uint32_t debug_dr6, debug_ip;

static void on_debug(struct frame *f) {
    debug_dr6 = read_dr6();
    debug_ip = f->ip;
    write_dr6(0xffff0ff0);
}

static void task_ldt(void) {
    look();
    asm volatile("mov %%ss:0, %%eax; iret" ::: "eax");
}

static void test_trap_bit(void) {
    trap_handle(1, on_debug);
    task_set(task_iret);
    other.trap = 1;
    asm volatile("lcall $0x60, $0" ::: "memory");
    check_eq("the T bit, DR6.BT", debug_dr6 & 0xe00f, 0x8000);
    check_eq("before the task's first instruction", debug_ip, (uint32_t)task_iret);
    trap_handle(1, NULL);
    task_set(task_ldt);
    ldt[1] = gdt[SEL_DATA >> 3];
    gdt_set(LDT, (uint32_t)ldt, sizeof(ldt) - 1, 0x82, 0);
    other.ldt = LDT;
    other.es = 0xc;
    asm volatile("lcall $0x60, $0" ::: "memory");
    check_eq("a task's LDT and what it selects", saw.es & 0xffff, 0xc);
    {
        uint16_t now;

        asm volatile("sldt %0" : "=r"(now));
        check_eq("our LDT is back", now, 0);
    }
    asm volatile("clts");
}

/* A 16-bit TSS (286): 44 bytes. */
static struct __attribute__((packed)) {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs,
        ss, ds, ldt;
} task286;

static void test_286(void) {
    extern char code286[];

    asm volatile("jmp 1f; code286: incl saw; iret; .code32; 1:");
    memset(&task286, 0, sizeof(task286));
    gdt_set(SMALL, (uint32_t)code286, 0xffff, 0x9b, 4);
    task286.cs = SMALL;
    task286.ss = task286.ds = task286.es = SEL_DATA;
    task286.sp = 0x7000;
    task286.flags = 2;
    saw.count = 0;
    gdt_set(T1, (uint32_t)&task286, 43, 0x81, 0);
    asm volatile("lcall $0x60, $0" ::: "memory");
    check_eq("call of a 16-bit task and iret", saw.count, 1);
    check_eq("its link, 16-bit", task286.link, SEL_TSS);
    check_eq("it is free again", access_of(T1), 0x81);
    asm volatile("clts");
}

int main(void) {
    test_call();
    test_jump();
    test_gates();
    test_refusals();
    test_bad_state();
    test_trap_bit();
    test_286();
    return 0;
}
