/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small writer of ACPI Machine Language: terms in order, packages nested by begin and end. What
 * it writes is little-endian, without checksums; boot/acpi.c puts a table header in front.
 */
#ifndef RINGFENCE_BOOT_AML_H
#define RINGFENCE_BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH 8

struct aml {
    uint8_t *buf; /* owned: aml_free() */
    size_t len, cap;
    unsigned depth;
    size_t open[AML_DEPTH]; /* where the PkgLength of each open package goes */
};

void aml_free(struct aml *a);

/* Names are paths as ASL writes them: "_HID", "\\_SB", "PCI0"; segments shorter than 4 are padded
 * with '_'. */
void aml_scope_begin(struct aml *a, const char *name);
void aml_device_begin(struct aml *a, const char *name);
void aml_end(struct aml *a);

/* Name(NAME, …): one of the value terms below follows. */
void aml_name(struct aml *a, const char *name);

void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
/* EISAID("PNP0501") as the integer that it stands for. */
void aml_eisaid(struct aml *a, const char *id);
void aml_package_begin(struct aml *a, uint8_t count);

/* Method(NAME, args); its terms follow, up to aml_end. */
void aml_method_begin(struct aml *a, const char *name, unsigned args);
/* OperationRegion(NAME, SystemIO, port, len), and a Field over it whose units of 32 bits, with
 * accesses of that size, are `names` in order (4 characters each, one after the other). */
void aml_io_registers(struct aml *a, const char *region, uint16_t port, uint8_t len,
                      const char *names);

/* Operators are followed by their operands: values, names, locals and arguments. */
void aml_arg(struct aml *a, unsigned n);
void aml_local(struct aml *a, unsigned n);
void aml_ref(struct aml *a, const char *name); /* a name as a value, or a call of a method */
void aml_store(struct aml *a);                 /* source, target */
void aml_notify(struct aml *a);                /* object, value */
/* ShiftLeft(1, operand): the operand follows; the result goes to what follows that. */
void aml_bit_of(struct aml *a);
/* If (operand & mask) { … }: the operand is ArgN. aml_end closes it. */
void aml_if_arg_has(struct aml *a, unsigned arg, uint32_t mask);

/* ResourceTemplate: a buffer whose size is filled in by aml_resources_end. */
void aml_resources_begin(struct aml *a);
void aml_resources_end(struct aml *a);

void aml_io(struct aml *a, uint16_t port, uint8_t len);
void aml_irq(struct aml *a, unsigned irq);       /* edge-triggered, active high, exclusive */
void aml_interrupt(struct aml *a, uint32_t gsi); /* level-triggered, active high, shared */
void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t len, bool writable);
void aml_word_bus(struct aml *a, uint16_t first, uint16_t last);
void aml_word_io(struct aml *a, uint16_t first, uint16_t last);
void aml_dword_memory(struct aml *a, uint32_t first, uint32_t last, bool cacheable);

#endif
