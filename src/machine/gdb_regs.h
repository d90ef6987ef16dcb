/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers of a vCPU as gdb knows them: numbers, sizes and the target description (gdb manual,
 * appendix G, "Target Descriptions"; features org.gnu.gdb.i386.*). All values are little-endian.
 */
#ifndef RINGFENCE_MACHINE_GDB_REGS_H
#define RINGFENCE_MACHINE_GDB_REGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct x86_state;

#define GDB_REG_MAX 16 /* bytes of the widest register */

unsigned gdb_reg_count(void);
/* Bytes of register n; 0 when there is none. */
unsigned gdb_reg_size(unsigned n);
void gdb_reg_read(const struct x86_state *s, unsigned n, uint8_t out[GDB_REG_MAX]);
/* False when the register cannot be changed to that: a selector in protected mode, a control
 * register. */
bool gdb_reg_write(struct x86_state *s, unsigned n, const uint8_t in[GDB_REG_MAX]);

/* target.xml; the caller frees it. */
char *gdb_regs_xml(size_t *len);

#endif
