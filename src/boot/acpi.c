/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET, MCFG (PCI Firmware 3.0, 4.1.2) and DSDT (ACPI 5.1
 * and 6.4, chapter 5). Fixed hardware as PIIX4 has it, always in ACPI mode (SMI_CMD = 0). No SMM,
 * no sleep states but S5, no processor power states.
 */
#include "boot/acpi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "boot/aml.h"
#include "boot/e820.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

#define OEM_ID "RNGFNC"
#define OEM_TABLE "RINGFNCE"
#define CREATOR "RNGF"

#define PACKED __attribute__((packed))

struct PACKED acpi_rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t ext_checksum;
    uint8_t reserved[3];
};

struct PACKED acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table[8];
    uint32_t oem_revision;
    char creator[4];
    uint32_t creator_revision;
};

enum { GAS_MEMORY = 0, GAS_IO = 1 };

/* Generic Address Structure (5.2.3.2). */
struct PACKED acpi_gas {
    uint8_t space, bits, offset, access; /* access: 1 byte, 2 word, 3 dword */
    uint64_t addr;
};

enum { FADT_NO_VGA = 1 << 2, FADT_LEGACY_DEVICES = 1 << 0, FADT_8042 = 1 << 1 };

enum {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_SLP_BUTTON = 1 << 5, /* no fixed sleep button; the fixed power button is there */
    FADT_RESET_REG_SUP = 1 << 10,
};

struct PACKED acpi_fadt {
    struct acpi_header h;
    uint32_t firmware_ctrl, dsdt;
    uint8_t reserved1, preferred_pm_profile;
    uint16_t sci_int;
    uint32_t smi_cmd;
    uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base;
    uint8_t cst_cnt;
    uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
    uint16_t iapc_boot_arch;
    uint8_t reserved2;
    uint32_t flags;
    struct acpi_gas reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_version;
    uint64_t x_firmware_ctrl, x_dsdt;
    struct acpi_gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0,
        x_gpe1;
    struct acpi_gas sleep_control, sleep_status;
};

_Static_assert(sizeof(struct acpi_fadt) == 268, "FADT revision 5");

struct PACKED acpi_facs {
    char signature[4];
    uint32_t length, hardware_signature, waking_vector, global_lock, flags;
    uint64_t x_waking_vector;
    uint8_t version, reserved[31];
};

_Static_assert(sizeof(struct acpi_facs) == 64, "FACS");

struct PACKED acpi_hpet {
    struct acpi_header h;
    uint32_t id;
    struct acpi_gas addr;
    uint8_t number;
    uint16_t min_tick;
    uint8_t protection;
};

struct PACKED acpi_mcfg {
    struct acpi_header h;
    uint64_t reserved1, base;
    uint16_t segment;
    uint8_t first_bus, last_bus;
    uint32_t reserved2;
};

enum {
    MADT_LAPIC = 0,
    MADT_IOAPIC = 1,
    MADT_OVERRIDE = 2,
    MADT_LAPIC_NMI = 4,
    MADT_X2APIC = 9,
    MADT_X2APIC_NMI = 10,
    MADT_PCAT_COMPAT = 1,
    MADT_ENABLED = 1,
};

struct PACKED madt_head {
    struct acpi_header h;
    uint32_t lapic_base, flags;
};

struct PACKED madt_lapic {
    uint8_t type, len, uid, apic_id;
    uint32_t flags;
};

struct PACKED madt_x2apic {
    uint8_t type, len;
    uint16_t reserved;
    uint32_t apic_id, flags, uid;
};

struct PACKED madt_ioapic {
    uint8_t type, len, id, reserved;
    uint32_t base, gsi_base;
};

struct PACKED madt_override {
    uint8_t type, len, bus, irq;
    uint32_t gsi;
    uint16_t flags; /* bits 0-1: polarity, 1 high; bits 2-3: trigger, 1 edge, 3 level; 0 as the bus
                       has it */
};

struct PACKED madt_lapic_nmi {
    uint8_t type, len, uid;
    uint16_t flags;
    uint8_t lint;
};

struct PACKED madt_x2apic_nmi {
    uint8_t type, len;
    uint16_t flags;
    uint32_t uid;
    uint8_t lint, reserved[3];
};

/* Apic ids up to this one fit in the 8-bit entries; 255 is broadcast. */
#define LAPIC_MAX_ID 254

struct builder {
    uint8_t *buf;
    size_t len, cap;
    uint32_t base;
};

static void *append(struct builder *b, const void *p, size_t n) {
    xreserve(&b->buf, &b->cap, b->len, n);
    void *at = b->buf + b->len;

    memcpy(at, p, n);
    b->len += n;
    return at;
}

static void align_to(struct builder *b, size_t align) {
    static const uint8_t ZERO[64];

    append(b, ZERO, align_up(b->len, align) - b->len);
}

static uint8_t checksum(const void *p, size_t n) {
    const uint8_t *c = p;
    uint8_t sum = 0;

    while (n--)
        sum += *c++;
    return (uint8_t)-sum;
}

static struct acpi_header header(const char *signature, uint8_t revision) {
    struct acpi_header h = {.revision = revision, .oem_revision = 1, .creator_revision = 1};

    memcpy(h.signature, signature, sizeof(h.signature));
    memcpy(h.oem_id, OEM_ID, sizeof(h.oem_id));
    memcpy(h.oem_table, OEM_TABLE, sizeof(h.oem_table));
    memcpy(h.creator, CREATOR, sizeof(h.creator));
    return h;
}

/* Finishes the table that starts at `at` and goes to the end of the blob. Returns its address. */
static uint32_t seal(struct builder *b, size_t at) {
    struct acpi_header h;

    memcpy(&h, b->buf + at, sizeof(h));
    h.length = (uint32_t)(b->len - at);
    h.checksum = 0;
    memcpy(b->buf + at, &h, sizeof(h));
    b->buf[at + offsetof(struct acpi_header, checksum)] = checksum(b->buf + at, b->len - at);
    align_to(b, 16);
    return b->base + (uint32_t)at;
}

/* DSDT */

static void name_int(struct aml *a, const char *name, uint64_t v) {
    aml_name(a, name);
    aml_int(a, v);
}

static void isa_device_begin(struct aml *a, const char *name, const char *hid) {
    aml_device_begin(a, name);
    aml_name(a, "_HID");
    aml_eisaid(a, hid);
    aml_name(a, "_CRS");
    aml_resources_begin(a);
}

static void isa_device_end(struct aml *a) {
    aml_resources_end(a);
    aml_end(a);
}

static void dsdt_pci_crs(struct aml *a) {
    aml_name(a, "_CRS");
    aml_resources_begin(a);
    aml_word_bus(a, 0, 0);
    aml_io(a, PC_PCI_ADDR, 8);
    aml_word_io(a, 0, PC_PCI_ADDR - 1);
    aml_word_io(a, PC_PCI_ADDR + 8, 0xffff);
    aml_dword_memory(a, E820_VGA, E820_UPPER - 1, true);
    aml_dword_memory(a, PC_HOLE, PC_PCI_MMIO_END - 1, false);
    aml_resources_end(a);
}

/* Every slot's four pins, wired straight to the I/O APIC (_PRT, 6.2.13). */
static void dsdt_pci_prt(struct aml *a) {
    aml_name(a, "_PRT");
    aml_package_begin(a, 32 * 4);
    for (unsigned slot = 0; slot < 32; slot++)
        for (unsigned pin = 0; pin < 4; pin++) {
            aml_package_begin(a, 4);
            aml_int(a, (uint64_t)slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0); /* no link device */
            aml_int(a, PC_PCI_GSI(slot, pin));
            aml_end(a);
        }
    aml_end(a);
}

/* --- PCI hot-plug: the registers of dev/pci_hotplug.c --- */

enum { NOTIFY_DEVICE_CHECK = 1, NOTIFY_EJECT_REQUEST = 3 };

/* The slots' own objects (6.1.1 _ADR, 6.1.11 _SUN, 6.3.3 _EJx). */
static void dsdt_slot(struct aml *a, unsigned slot) {
    char name[8];

    snprintf(name, sizeof(name), "SL%02X", slot & 0x1f);
    aml_device_begin(a, name);
    name_int(a, "_ADR", (uint64_t)slot << 16);
    name_int(a, "_SUN", slot);
    aml_method_begin(a, "_EJ0", 1);
    aml_store(a);
    aml_bit_of(a);
    aml_ref(a, "_SUN");
    aml_int(a, 0); /* no other target */
    aml_ref(a, "HPEJ");
    aml_end(a);
    aml_end(a);
}

/* HPNT(slots, value): notifies each slot whose bit is set. */
static void dsdt_notify_slots(struct aml *a, uint32_t slots) {
    aml_method_begin(a, "HPNT", 2);
    for (unsigned slot = 0; slot < 32; slot++) {
        char name[8];

        if (!(slots >> slot & 1))
            continue;
        snprintf(name, sizeof(name), "SL%02X", slot);
        aml_if_arg_has(a, 0, 1u << slot);
        aml_notify(a);
        aml_ref(a, name);
        aml_arg(a, 1);
        aml_end(a);
    }
    aml_end(a);
}

static void notify_slots(struct aml *a, const char *reg, unsigned what) {
    aml_ref(a, "HPNT");
    aml_ref(a, reg);
    aml_int(a, what);
}

static void dsdt_pci_hotplug(struct aml *a, uint32_t slots) {
    aml_io_registers(a, "HPRG", PC_PCI_HOTPLUG, 12, "HPUPHPDNHPEJ");
    for (unsigned slot = 0; slot < 32; slot++)
        if (slots >> slot & 1)
            dsdt_slot(a, slot);
    dsdt_notify_slots(a, slots);
    aml_method_begin(a, "HPCK", 0);
    notify_slots(a, "HPUP", NOTIFY_DEVICE_CHECK);
    notify_slots(a, "HPDN", NOTIFY_EJECT_REQUEST);
    aml_end(a);
}

/* _E and the event's number: an edge, whose status is cleared before the method runs (5.6.4.1), so
 * that news during it are an event of their own. */
static void dsdt_gpe(struct aml *a) {
    char name[8];

    snprintf(name, sizeof(name), "_E%02X", PC_GPE_PCI_HOTPLUG);
    aml_scope_begin(a, "\\_GPE");
    aml_method_begin(a, name, 0);
    aml_ref(a, "\\_SB.PCI0.HPCK");
    aml_end(a);
    aml_end(a);
}

static void dsdt_pci(struct aml *a, uint32_t hotplug) {
    aml_device_begin(a, "PCI0");
    aml_name(a, "_HID");
    aml_eisaid(a, "PNP0A03");
    name_int(a, "_UID", 0);
    name_int(a, "_BBN", 0);
    dsdt_pci_crs(a);
    dsdt_pci_prt(a);
    if (hotplug)
        dsdt_pci_hotplug(a, hotplug);
    aml_end(a);
}

static void dsdt_system_chips(struct aml *a) {
    isa_device_begin(a, "PIC", "PNP0000");
    aml_io(a, PC_PIC_MASTER, 2);
    aml_io(a, PC_PIC_SLAVE, 2);
    aml_io(a, PC_PIC_ELCR, 2);
    aml_irq(a, PC_IRQ_CASCADE);
    isa_device_end(a);

    isa_device_begin(a, "TIMR", "PNP0100");
    aml_io(a, PC_PIT, 4);
    aml_irq(a, PC_IRQ_PIT);
    isa_device_end(a);

    isa_device_begin(a, "RTC", "PNP0B00");
    aml_io(a, PC_RTC, 2);
    aml_irq(a, PC_IRQ_RTC);
    isa_device_end(a);

    isa_device_begin(a, "HPET", "PNP0103");
    aml_memory32_fixed(a, PC_HPET_BASE, PC_HPET_SIZE, false);
    isa_device_end(a);

    /* What no driver claims: reserved, so that nobody else is placed there. */
    isa_device_begin(a, "SYSR", "PNP0C02");
    aml_io(a, PC_PORT61, 1);
    aml_io(a, PC_PM_BASE, 0x40);
    aml_io(a, PC_PCI_HOTPLUG, PC_PCI_HOTPLUG_LEN);
    aml_memory32_fixed(a, PC_ECAM_BASE, PC_ECAM_SIZE, true);
    isa_device_end(a);
}

static void dsdt_i8042(struct aml *a) {
    isa_device_begin(a, "KBD", "PNP0303");
    aml_io(a, PC_I8042_DATA, 1);
    aml_io(a, PC_I8042_CMD, 1);
    aml_irq(a, PC_IRQ_KBD);
    isa_device_end(a);

    /* Without it Linux warns that the controller's second port is disabled. */
    isa_device_begin(a, "MOU", "PNP0F13");
    aml_irq(a, PC_IRQ_MOUSE);
    isa_device_end(a);
}

static void dsdt_com1(struct aml *a) {
    aml_device_begin(a, "COM1");
    aml_name(a, "_HID");
    aml_eisaid(a, "PNP0501");
    name_int(a, "_UID", 1);
    aml_name(a, "_CRS");
    aml_resources_begin(a);
    aml_io(a, PC_COM1, 8);
    aml_irq(a, PC_IRQ_COM1);
    aml_resources_end(a);
    aml_end(a);
}

static void dsdt_pvpanic(struct aml *a) {
    aml_device_begin(a, "PEVT");
    aml_name(a, "_HID");
    aml_string(a, "QEMU0001");
    aml_name(a, "_CRS");
    aml_resources_begin(a);
    aml_io(a, PC_PVPANIC, 1);
    aml_resources_end(a);
    aml_end(a);
}

static void dsdt_virtio_mmio(struct aml *a, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        char name[8];

        snprintf(name, sizeof(name), "VR%02X", i & 0xff);
        aml_device_begin(a, name);
        aml_name(a, "_HID");
        aml_string(a, "LNRO0005");
        name_int(a, "_UID", i);
        name_int(a, "_CCA", 1);
        aml_name(a, "_CRS");
        aml_resources_begin(a);
        aml_memory32_fixed(a, (uint32_t)PC_VIRTIO_MMIO(i), PC_VIRTIO_MMIO_SIZE, true);
        aml_interrupt(a, PC_VIRTIO_MMIO_GSI(i));
        aml_resources_end(a);
        aml_end(a);
    }
}

static void dsdt_processors(struct aml *a, unsigned vcpus) {
    for (unsigned i = 0; i < vcpus; i++) {
        char name[8];

        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        aml_device_begin(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        name_int(a, "_UID", i);
        aml_end(a);
    }
}

static void dsdt_terms(struct aml *a, const struct acpi_params *p) {
    aml_scope_begin(a, "\\_SB");
    dsdt_pci(a, p->hotplug);
    dsdt_system_chips(a);
    if (p->i8042)
        dsdt_i8042(a);
    dsdt_com1(a);
    dsdt_pvpanic(a);
    dsdt_virtio_mmio(a, p->virtio_mmio);
    dsdt_processors(a, p->vcpus);
    aml_end(a);

    if (p->hotplug)
        dsdt_gpe(a);

    aml_name(a, "\\_S5");
    aml_package_begin(a, 4);
    aml_int(a, PC_SLP_TYP_S5);
    aml_int(a, PC_SLP_TYP_S5);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a);
}

static uint32_t build_dsdt(struct builder *b, const struct acpi_params *p) {
    struct acpi_header h = header("DSDT", 2);
    struct aml a = {0};
    size_t at = b->len;

    dsdt_terms(&a, p);
    append(b, &h, sizeof(h));
    append(b, a.buf, a.len);
    aml_free(&a);
    return seal(b, at);
}

/* Fixed tables */

static uint32_t build_facs(struct builder *b) {
    struct acpi_facs f = {.signature = "FACS", .length = sizeof(f), .version = 2};

    align_to(b, 64);
    size_t at = b->len;

    append(b, &f, sizeof(f));
    return b->base + (uint32_t)at;
}

static struct acpi_gas gas_io(uint16_t port, unsigned len, uint8_t access) {
    return (struct acpi_gas){GAS_IO, (uint8_t)(len * 8), 0, access, port};
}

static void fadt_pm(struct acpi_fadt *f) {
    f->sci_int = PC_IRQ_SCI;
    f->pm1a_evt = PC_PM1A_EVT;
    f->pm1a_cnt = PC_PM1A_CNT;
    f->pm_tmr = PC_PM_TMR;
    f->gpe0 = PC_GPE0;
    f->pm1_evt_len = PC_PM1A_EVT_LEN;
    f->pm1_cnt_len = PC_PM1A_CNT_LEN;
    f->pm_tmr_len = PC_PM_TMR_LEN;
    f->gpe0_len = PC_GPE0_LEN;
    f->x_pm1a_evt = gas_io(PC_PM1A_EVT, PC_PM1A_EVT_LEN, 2);
    f->x_pm1a_cnt = gas_io(PC_PM1A_CNT, PC_PM1A_CNT_LEN, 2);
    f->x_pm_tmr = gas_io(PC_PM_TMR, PC_PM_TMR_LEN, 3);
    f->x_gpe0 = gas_io(PC_GPE0, PC_GPE0_LEN, 1);
}

static uint32_t build_fadt(struct builder *b, const struct acpi_params *p, uint32_t facs,
                           uint32_t dsdt) {
    struct acpi_fadt f = {
        .h = header("FACP", 5),
        .firmware_ctrl = facs,
        .dsdt = dsdt,
        .x_dsdt = dsdt,
        /* Latencies beyond 100 and 1000 us say that there is neither C2 nor C3. */
        .p_lvl2_lat = 101,
        .p_lvl3_lat = 1001,
        .century = 0x32,
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_RESET_REG_SUP,
        .reset_reg = gas_io(PC_RESET_PORT, 1, 1),
        .reset_value = PC_RESET_VALUE,
        .minor_version = 1,
    };
    size_t at = b->len;

    f.iapc_boot_arch =
        (uint16_t)(FADT_LEGACY_DEVICES | (p->i8042 ? FADT_8042 : 0) | (p->vga ? 0 : FADT_NO_VGA));
    fadt_pm(&f);
    append(b, &f, sizeof(f));
    return seal(b, at);
}

static void madt_processors(struct builder *b, unsigned vcpus) {
    for (unsigned i = 0; i < vcpus; i++) {
        if (i <= LAPIC_MAX_ID) {
            struct madt_lapic l = {MADT_LAPIC, sizeof(l), (uint8_t)i, (uint8_t)i, MADT_ENABLED};

            append(b, &l, sizeof(l));
        } else {
            struct madt_x2apic x = {MADT_X2APIC, sizeof(x), 0, i, MADT_ENABLED, i};

            append(b, &x, sizeof(x));
        }
    }
}

/* LINT1 is NMI on every processor, as on a PC. */
static void madt_nmi(struct builder *b, unsigned vcpus) {
    struct madt_lapic_nmi n = {MADT_LAPIC_NMI, sizeof(n), 0xff, 0, 1};
    struct madt_x2apic_nmi x = {MADT_X2APIC_NMI, sizeof(x), 0, 0xffffffff, 1, {0}};

    append(b, &n, sizeof(n));
    if (vcpus > LAPIC_MAX_ID + 1)
        append(b, &x, sizeof(x));
}

static uint32_t build_madt(struct builder *b, const struct acpi_params *p) {
    struct madt_head h = {header("APIC", 4), PC_LAPIC_BASE, MADT_PCAT_COMPAT};
    struct madt_ioapic io = {MADT_IOAPIC, sizeof(io), PC_IOAPIC_ID, 0, PC_IOAPIC_BASE, 0};
    struct madt_override pit = {MADT_OVERRIDE, sizeof(pit), 0, PC_IRQ_PIT, PC_GSI_PIT, 0};
    struct madt_override sci = {MADT_OVERRIDE, sizeof(sci), 0, PC_IRQ_SCI, PC_IRQ_SCI, 0xd};
    size_t at = b->len;

    append(b, &h, sizeof(h));
    madt_processors(b, p->vcpus);
    append(b, &io, sizeof(io));
    append(b, &pit, sizeof(pit));
    append(b, &sci, sizeof(sci));
    madt_nmi(b, p->vcpus);
    return seal(b, at);
}

static uint32_t build_hpet(struct builder *b) {
    struct acpi_hpet t = {
        .h = header("HPET", 1),
        /* As the HPET's capabilities have it: Intel, legacy routing, 64 bits, 3 timers, revision 1.
         */
        .id = 0x8086a201,
        .addr = {GAS_MEMORY, 64, 0, 0, PC_HPET_BASE},
        .min_tick = 0x80,
    };
    size_t at = b->len;

    append(b, &t, sizeof(t));
    return seal(b, at);
}

static uint32_t build_mcfg(struct builder *b) {
    struct acpi_mcfg t = {.h = header("MCFG", 1), .base = PC_ECAM_BASE};
    size_t at = b->len;

    append(b, &t, sizeof(t));
    return seal(b, at);
}

/* RSDT and XSDT differ in the width of their entries. */
static uint32_t build_root(struct builder *b, const char *signature, const uint32_t *tables,
                           size_t count, size_t width) {
    struct acpi_header h = header(signature, 1);
    size_t at = b->len;

    append(b, &h, sizeof(h));
    for (size_t i = 0; i < count; i++) {
        uint64_t addr = tables[i];

        append(b, &addr, width);
    }
    return seal(b, at);
}

static struct acpi_rsdp build_rsdp(uint32_t rsdt, uint32_t xsdt) {
    struct acpi_rsdp r = {.revision = 2, .rsdt = rsdt, .length = sizeof(r), .xsdt = xsdt};

    memcpy(r.signature, "RSD PTR ", sizeof(r.signature));
    memcpy(r.oem_id, OEM_ID, sizeof(r.oem_id));
    r.checksum = checksum(&r, 20);
    r.ext_checksum = checksum(&r, sizeof(r));
    return r;
}

void acpi_build(struct acpi_blob *blob, const struct acpi_params *p, uint32_t base) {
    struct builder b = {.base = base};
    struct acpi_rsdp rsdp = {0};
    uint32_t tables[4];

    append(&b, &rsdp, sizeof(rsdp));
    uint32_t facs = build_facs(&b);
    uint32_t dsdt = build_dsdt(&b, p);
    tables[0] = build_fadt(&b, p, facs, dsdt);
    tables[1] = build_madt(&b, p);
    tables[2] = build_hpet(&b);
    tables[3] = build_mcfg(&b);
    uint32_t rsdt = build_root(&b, "RSDT", tables, ARRAY_LEN(tables), 4);
    uint32_t xsdt = build_root(&b, "XSDT", tables, ARRAY_LEN(tables), 8);
    rsdp = build_rsdp(rsdt, xsdt);
    memcpy(b.buf + ACPI_RSDP_OFFSET, &rsdp, sizeof(rsdp));
    *blob = (struct acpi_blob){b.buf, b.len};
}

void acpi_blob_free(struct acpi_blob *b) {
    free(b->data);
    *b = (struct acpi_blob){0};
}

int acpi_write(struct mem *m, const struct acpi_params *p, uint64_t *rsdp, struct err *e) {
    struct acpi_blob b;
    int r = 0;

    acpi_build(&b, p, E820_FIRMWARE);
    if (b.size > E820_BIOS - E820_FIRMWARE)
        r = err_set(e, 0,
                    "ACPI: tables for %u processors take %zu KiB, more than the firmware's area",
                    p->vcpus, b.size >> 10);
    else if (mem_write(m, GPA(E820_FIRMWARE), b.data, b.size) < 0)
        r = err_set(e, 0, "ACPI: no RAM at 0x%llx", E820_FIRMWARE);
    else
        *rsdp = E820_FIRMWARE + ACPI_RSDP_OFFSET;
    acpi_blob_free(&b);
    return r;
}
