/* SPDX-License-Identifier: Apache-2.0 */
/* Real mode and the ways to it: IVT, limits, wrap-around, A20, unreal mode; long mode from 32-bit
 * code and back. */
#include "lib.h"

enum { LOW = 0x8000, RESULT = 0x6000 };

void real_run(void (*low_function)(void));
void long_run(void);
void real_int(void), real_wrap_read(void), real_wrap_dword(void), real_far_offset(void),
    real_jump(void), real_divide(void);
void real_lldt(void), real_arpl(void), real_ud2(void), real_int3(void), real_into(void),
    real_bound(void);
void real_no_vector(void), real_above_1m(void), real_push_wrap(void), real_string(void),
    real_ea_wrap(void), real_far(void);
void real_cpuid(void), real_rdmsr(void), real_ret32(void), real_step(void), real_unreal(void);
extern char low_start[], low_end[], real_handlers[], in64[];
extern uint16_t real_divide_offset[], real_after_int_offset[];
extern volatile uint32_t long_result[];
extern struct table_register real_idtr;

/* What modes_entry.S's handlers leave, and what tests add behind it. */
struct result {
    uint16_t vector, sp, ip, cs, flags, handler_flags;
    uint32_t value[3];
};
static volatile struct result *const result = (struct result *)RESULT;

static void real(void (*fn)(void)) {
    memset((void *)RESULT, 0xff, sizeof(*result));
    real_run(fn);
}

static void real_trap(const char *name, void (*fn)(void), unsigned vector) {
    real(fn);
    check(result->vector == vector, name, "vector 0x%x, want 0x%x", result->vector, vector);
}

static void set_vectors(void) {
    volatile uint16_t *ivt = NULL;

    asm("" : "+r"(ivt));
    for (unsigned v = 0; v < 0x64; v++) {
        ivt[2 * v] = (uint16_t)((unsigned)(real_handlers - low_start) + LOW + 8 * v);
        ivt[2 * v + 1] = 0;
    }
}

static void test_interrupts(void) {
    real(real_int);
    check_eq("int in real mode", result->vector, 0x60);
    check_eq("IP saved", result->ip, *real_after_int_offset);
    check_eq("CS saved", result->cs, 0);
    check_eq("flags saved", result->flags & 0x200, 0x200);
    check_eq("IF in the handler", result->handler_flags & 0x200, 0);
    check_eq("SP after iret", result->value[0] & 0xffff, 0x7c00 - 4);
    check_eq("the frame is three words", result->sp, 0x7c00 - 4 - 6);
    real_trap("#DE", real_divide, 0);
    check_eq("IP of #DE is the instruction's", result->ip, *real_divide_offset);
    check_eq("no error code", result->sp, 0x7c00 - 2 - 6);
    real_trap("#BP", real_int3, 3);
    real_trap("#OF", real_into, 4);
    real_trap("#BR", real_bound, 5);
    real_trap("#UD ud2", real_ud2, 6);
    real_trap("#UD lldt in real mode", real_lldt, 6);
    real_trap("#UD arpl in real mode", real_arpl, 6);
    real_trap("#DB single step", real_step, 1);
    real_idtr.limit = 0x61 * 4 + 2;
    real_trap("#GP int beyond the IDT's limit", real_no_vector, 13);
    real_idtr.limit = 0x61 * 4 + 3;
    real_trap("int at the IDT's limit", real_no_vector, 0x61);
    real_idtr.limit = 0x3ff;
}

static void test_addresses(void) {
    real_trap("#GP word at ffff", real_wrap_read, 13);
    check_eq("no error code for #GP", result->sp, 0x7c00 - 2 - 6);
    real_trap("#GP dword at fffd", real_wrap_dword, 13);
    real_trap("#GP 32-bit offset beyond 64 KiB", real_far_offset, 13);
    real_trap("#GP far jump beyond 64 KiB", real_jump, 13);
    real_trap("read above 1 MiB", real_above_1m, 0xffff);
    check_eq("A20 is open", result->value[0], *(volatile uint32_t *)0x100000);
    real(real_push_wrap);
    check_eq("push at SP 0 wraps", result->value[0], 0x7788fffe);
    real_trap("lodsw and lodsb across the wrap", real_string, 0xffff);
    check_eq("SI wraps", result->value[0] & 0xffff, 1);
    real_trap("16-bit effective address", real_ea_wrap, 0xffff);
    {
        volatile uint8_t *six = NULL;

        asm("" : "+r"(six));
        check_eq("wraps at 64 KiB", result->value[0] & 0xff, six[6]);
    }
    real_trap("far call and return", real_far, 0xffff);
    check_eq("CS of a far call", result->value[0] & 0xffff, 0x10);
    real_trap("32-bit return", real_ret32, 0xffff);
    real(real_unreal);
    check_eq("a limit of 4 GiB stays in real mode", result->value[0],
             *(volatile uint32_t *)0x100004);
    check_eq("and stays after a load there", result->value[1], *(volatile uint32_t *)0x100004);
}

static void test_system(void) {
    real_trap("cpuid in real mode", real_cpuid, 0xffff);
    check_eq("its answer", result->value[0], cpuid(0x80000000, 0).a);
    real_trap("rdmsr in real mode", real_rdmsr, 0xffff);
    check_eq("EFER in real mode", result->value[0], (ulong)rdmsr(0xc0000080));
}

static void make_tables(void) {
    uint64_t *pml4 = page_alloc(3), *pdpt = pml4 + 512, *pd = pml4 + 1024;

    pml4[0] = (ulong)pdpt | 7;
    pdpt[0] = (ulong)pd | 7;
    for (unsigned i = 0; i < 32; i++)
        pd[i] = i << 21 | 0x87;
    write_cr3((ulong)pml4);
    gdt_set(SEL_FREE, 0, 0, 0x9b, 2);
}

static void test_long(void) {
    make_tables();
    wrmsr(0xc0000080, 0x100);
    check_eq("#GP PG with LME without PAE", (ulong)try_cr0(read_cr0() | CR0_PG), 13);
    wrmsr(0xc0000080, 0);
    CHECK_TRY("#GP wrmsr EFER with a reserved bit", 13, 0, "wrmsr", ::"c"(0xc0000080), "a"(2),
              "d"(0));
    long_run();
    check_eq("EFER before paging, LME", long_result[0], 0x100);
    check_eq("EFER under paging, LMA", long_result[1], 0x500);
    check_eq("compatibility mode until the far jump", long_result[2], 2);
    check_eq("64-bit code", long_result[4], 0x9abcdef1);
    check_eq("64-bit code, upper half", long_result[5], 0x12345678);
    check_eq("RIP-relative", long_result[3], (ulong)in64);
    check_eq("memory through a null DS", long_result[6], 0x9abcdef1);
    check_eq("16-bit compatibility code", long_result[8] & 0xffff, 0x2222);
    check_eq("LMA clears with PG", long_result[9], 0x100);
    long_run();
    check_eq("again", long_result[4], 0x9abcdef1);
    real_trap("real mode after long mode", real_ud2, 6);
}

int main(void) {
    memcpy((void *)LOW, low_start, (size_t)(low_end - low_start));
    set_vectors();
    test_interrupts();
    test_addresses();
    test_system();
    test_long();
    return 0;
}
