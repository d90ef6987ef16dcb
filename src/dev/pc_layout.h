/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where things are in machine `pc`: the addresses that both the chips and the firmware tables name.
 * Ports and lines of the ISA era are where the PC/AT put them; the rest follows PIIX4 and ICH.
 */
#ifndef RINGFENCE_DEV_PC_LAYOUT_H
#define RINGFENCE_DEV_PC_LAYOUT_H

/* Memory. RAM ends at or below PC_HOLE; what is beyond it goes on at PC_HIGH. */
#define PC_HOLE 0xc0000000ull /* to 4 GiB: PCI, then the chips, then firmware */
#define PC_HIGH 0x100000000ull
#define PC_PCI_MMIO_END 0xfeb00000ull
#define PC_ECAM_BASE 0xfeb00000ull /* bus 0 only */
#define PC_ECAM_SIZE 0x100000ull
#define PC_IOAPIC_BASE 0xfec00000ull
#define PC_VIRTIO_MMIO_BASE 0xfec10000ull
#define PC_VIRTIO_MMIO_SIZE 0x200
#define PC_VIRTIO_MMIO(i) (PC_VIRTIO_MMIO_BASE + (i)*PC_VIRTIO_MMIO_SIZE)
#define PC_HPET_BASE 0xfed00000ull
#define PC_HPET_SIZE 0x400
#define PC_LAPIC_BASE 0xfee00000ull

/* Power management (ACPI fixed hardware). The machine is always in ACPI mode: SCI_EN reads as 1. */
#define PC_PM_BASE 0x600
#define PC_PM1A_EVT 0x600
#define PC_PM1A_EVT_LEN 4
#define PC_PM1A_CNT 0x604
#define PC_PM1A_CNT_LEN 2
#define PC_PM_TMR 0x608
#define PC_PM_TMR_LEN 4
#define PC_GPE0 0x620
#define PC_GPE0_LEN 4
#define PC_GPE_PCI_HOTPLUG 1 /* the general-purpose event that says that slots have news */
#define PC_SLP_TYP_S5 5
#define PC_RESET_PORT 0xcf9
#define PC_RESET_VALUE 6

/* ISA ports. */
#define PC_PIC_MASTER 0x20
#define PC_PIC_SLAVE 0xa0
#define PC_PIC_ELCR 0x4d0
#define PC_PIT 0x40
#define PC_PORT61 0x61
#define PC_I8042_DATA 0x60
#define PC_I8042_CMD 0x64
#define PC_RTC 0x70
#define PC_COM1 0x3f8
#define PC_PVPANIC 0x505
#define PC_PCI_ADDR 0xcf8
#define PC_PCI_DATA 0xcfc
#define PC_PCI_HOTPLUG 0xae00 /* where QEMU has it */
#define PC_PCI_HOTPLUG_LEN 0x14
#define PC_PCI_IO 0xc000 /* to the end: where PCI devices' ports are put */

/* Interrupts: ISA lines, which are also I/O APIC pins except that IRQ 0 is wired to pin 2. */
#define PC_IRQ_PIT 0
#define PC_IRQ_KBD 1
#define PC_IRQ_CASCADE 2
#define PC_IRQ_COM1 4
#define PC_IRQ_RTC 8
#define PC_IRQ_SCI 9
#define PC_IRQ_MOUSE 12
#define PC_IRQ_FPU 13
#define PC_GSI_PIT 2
#define PC_IOAPIC_ID 0
#define PC_IOAPIC_PINS 24

/* INTA..INTD (pin 0..3) of PCI slot `slot`: four I/O APIC pins of their own, swizzled by slot. */
#define PC_PCI_GSI_FIRST 16
#define PC_PCI_GSI(slot, pin) (PC_PCI_GSI_FIRST + (((slot) + (pin)) & 3))

/* Those of virtio-mmio devices: the last four. */
#define PC_VIRTIO_MMIO_GSI(i) (20 + (i))

#endif
