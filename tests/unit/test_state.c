/* SPDX-License-Identifier: Apache-2.0 */
/* Power-up, INIT and startup IPI: SDM 3A table 10-1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/x86/state.h"

static struct x86_state s;

static void power_up(void **state) {
    (void)state;
    memset(&s, 0xa5, sizeof s);
    x86_state_reset(&s, true);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.seg[SEG_CS].sel, 0xf000);
    assert_int_equal(s.seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(s.seg[SEG_SS].base, 0);
    assert_int_equal(s.seg[SEG_SS].limit, 0xffff);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.cr0, 0x60000010);
    assert_int_equal(s.cr4 | s.cr3 | s.cr2 | s.efer | s.zero, 0);
    assert_int_equal(s.gpr[RDX] >> 8 & 0xf, 6);
    assert_int_equal(s.gpr[RAX] | s.gpr[RSP] | s.gpr[R15], 0);
    assert_int_equal(s.dr[6], 0xffff0ff0);
    assert_int_equal(s.dr[7], 0x400);
    assert_int_equal(s.idtr.limit, 0xffff);
    assert_int_equal(s.gdtr.base, 0);
    assert_int_equal(s.xcr0, 1);
    assert_int_equal(s.fpu.fcw, 0x40);
    assert_int_equal(s.fpu.ftw, 0xff);
    assert_int_equal(s.fpu.mxcsr, 0x1f80);
    assert_true(s.msr.pat == 0x0007040600070406ull);
    assert_int_equal(s.msr.feature_control, 1);
    assert_int_equal(s.activity, X86_RUNNING);
}

static void init_keeps_what_it_must(void **state) {
    (void)state;
    x86_state_reset(&s, true);
    s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_NW;
    s.cr4 = CR4_PAE;
    s.efer = EFER_LME | EFER_LMA | EFER_SCE;
    s.gpr[RBX] = 7;
    s.dr[0] = 0x1234;
    s.dr[7] = 0x401;
    s.xcr0 = 7;
    s.msr.pat = 0x0606060606060606ull;
    s.msr.lstar = 0x1000;
    s.tsc_offset = 99;
    s.fpu.fcw = 0x37f;
    s.nmi_blocked = s.shadow_sti = true;
    x86_state_init_ipi(&s, true);
    assert_int_equal(s.cr0, CR0_ET | CR0_NW);
    assert_int_equal(s.cr4 | s.efer | s.gpr[RBX] | s.dr[0], 0);
    assert_int_equal(s.dr[7], 0x400);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(s.xcr0, 7);
    assert_int_equal(s.msr.lstar, 0x1000);
    assert_true(s.msr.pat == 0x0606060606060606ull);
    assert_int_equal(s.tsc_offset, 99);
    assert_int_equal(s.fpu.fcw, 0x37f);
    assert_false(s.nmi_blocked || s.shadow_sti);
    assert_int_equal(s.activity, X86_RUNNING);
}

static void startup_ipi(void **state) {
    (void)state;
    x86_state_reset(&s, false);
    assert_int_equal(s.activity, X86_WAIT_SIPI);
    x86_state_sipi(&s, 0x9a);
    assert_int_equal(s.activity, X86_RUNNING);
    assert_int_equal(s.seg[SEG_CS].sel, 0x9a00);
    assert_int_equal(s.seg[SEG_CS].base, 0x9a000);
    assert_int_equal(s.rip, 0);
    x86_state_sipi(&s, 0x11); /* a second one is ignored */
    assert_int_equal(s.seg[SEG_CS].sel, 0x9a00);
    x86_state_init_ipi(&s, false);
    assert_int_equal(s.activity, X86_WAIT_SIPI);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_up),
        cmocka_unit_test(init_keeps_what_it_must),
        cmocka_unit_test(startup_ipi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
