/* SPDX-License-Identifier: Apache-2.0 */
/* The selectors of the guests' GDT, in the order that SYSCALL and SYSENTER want. For C and
 * assembly. */
#ifndef GUEST_SEL_H
#define GUEST_SEL_H

#define SEL_CODE 0x08 /* ring 0, 64-bit in 64-bit guests, 32-bit in 32-bit guests */
#define SEL_DATA 0x10
#define SEL_UCODE32 0x1b
#define SEL_UDATA 0x23
#define SEL_UCODE64 0x2b
#define SEL_UDATA64 0x33
#define SEL_CODE32 0x38
#define SEL_CODE16 0x40
#define SEL_DATA16 0x48
#define SEL_TSS 0x50
#define SEL_FREE 0x60 /* from here on each test has its own */
#define GDT_ENTRIES 64

#ifdef __x86_64__
#define SEL_UCODE SEL_UCODE64
#else
#define SEL_UCODE SEL_UCODE32
#endif

#define VECTOR_USER_EXIT 0x81

#endif
