/* SPDX-License-Identifier: Apache-2.0 */
/* Where things lie in the memory of a lockstep guest. Shared with kernel.S. */
#ifndef RINGFENCE_TESTS_ENGINE_LAYOUT_H
#define RINGFENCE_TESTS_ENGINE_LAYOUT_H

/* Guest-physical. All of it is also mapped at KERNEL, for CPL 0. */
#define P_PML4 0x1000
#define P_PDPT 0x2000
#define P_PD 0x3000
#define P_PT 0x4000
#define P_PDPT_K 0x6000
#define P_PD_K 0x7000
#define P_GDT 0x8000
#define P_TSS 0x9000
#define P_IDT 0xa000
#define P_KERNEL 0x10000
#define P_STACK_END 0x20000
#define P_LOG 0x20000 /* where the next entry goes, the count of entries, the entries */
#define P_WINDOW 0x100000
#define RAM 0x200000

#define KERNEL 0xffff800000000000

/* A window of 1 MiB that programs see twice, so that the same memory is run and accessed by two
 * addresses. */
#define WINDOW 0x20000000
#define ALIAS 0x10000000 /* added to it */
#define CODE_PAGE 0
#define CODE_PAGES 16
#define DATA_PAGE 0x20
#define DATA_PAGES 24
#define STACK_PAGE 0x50
#define STACK_PAGES 4
#define HOLE_PAGE 0x60 /* from here on nothing is mapped */

#define EXIT_VECTOR 0x80
#define LOG_ENTRIES 2000

#endif
