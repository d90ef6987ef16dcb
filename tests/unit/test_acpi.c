/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables as an operating system finds them: checksums, pointers, fields, and the AML's
 * structure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "boot/acpi.h"
#include "boot/aml.h"
#include "dev/pc_layout.h"

#define BASE 0xe0000u

static struct acpi_blob blob;

static uint32_t u32(size_t off) {
    uint32_t v;

    assert_true(range_within(off, 4, blob.size));
    memcpy(&v, blob.data + off, 4);
    return v;
}

static uint64_t u64(size_t off) {
    return u32(off) | (uint64_t)u32(off + 4) << 32;
}

static uint8_t sum(size_t off, size_t n) {
    uint8_t s = 0;

    assert_true(range_within(off, n, blob.size));
    while (n--)
        s = (uint8_t)(s + blob.data[off++]);
    return s;
}

static void build(unsigned vcpus) {
    const struct acpi_params p = {.vcpus = vcpus, .i8042 = true, .hotplug = 0xfffffff6};

    acpi_blob_free(&blob);
    acpi_build(&blob, &p, BASE);
}

static int teardown(void **state) {
    (void)state;
    acpi_blob_free(&blob);
    return 0;
}

/* Offset of a table by its signature, through the XSDT, after checking it. */
static size_t table(const char *signature) {
    size_t xsdt = (size_t)u64(24) - BASE;

    for (size_t at = xsdt + 36; at < xsdt + u32(xsdt + 4); at += 8) {
        size_t t = (size_t)u64(at) - BASE;

        assert_int_equal(sum(t, u32(t + 4)), 0);
        if (!memcmp(blob.data + t, signature, 4))
            return t;
    }
    fail_msg("no table %s", signature);
    return 0;
}

static void test_roots(void **state) {
    (void)state;
    build(2);
    assert_memory_equal(blob.data, "RSD PTR ", 8);
    assert_int_equal(sum(0, 20), 0);
    assert_int_equal(sum(0, 36), 0);
    assert_int_equal(blob.data[15], 2);
    size_t rsdt = u32(16) - BASE, xsdt = (size_t)u64(24) - BASE;
    assert_memory_equal(blob.data + rsdt, "RSDT", 4);
    assert_memory_equal(blob.data + xsdt, "XSDT", 4);
    assert_int_equal(sum(rsdt, u32(rsdt + 4)), 0);
    assert_int_equal(sum(xsdt, u32(xsdt + 4)), 0);
    assert_int_equal(u32(rsdt + 4), 36 + 4 * 4);
    assert_int_equal(u32(xsdt + 4), 36 + 4 * 8);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(u32(rsdt + 36 + 4 * i), u64(xsdt + 36 + 8 * i));
}

static void test_mcfg(void **state) {
    (void)state;
    build(1);
    size_t t = table("MCFG");

    assert_int_equal(u32(t + 4), 60);
    assert_int_equal(u64(t + 44), 0xfeb00000);
    assert_int_equal(u64(t + 52), 0); /* segment 0, bus 0 only */
}

static void test_fadt(void **state) {
    (void)state;
    build(1);
    size_t f = table("FACP"), facs = u32(f + 36) - BASE, dsdt = u32(f + 40) - BASE;

    assert_int_equal(u32(f + 4), 268);
    assert_int_equal((BASE + facs) % 64, 0);
    assert_memory_equal(blob.data + facs, "FACS", 4);
    assert_int_equal(u32(facs + 4), 64);
    assert_memory_equal(blob.data + dsdt, "DSDT", 4);
    assert_int_equal(u64(f + 140), BASE + dsdt);
    assert_int_equal(sum(dsdt, u32(dsdt + 4)), 0);
    assert_int_equal(blob.data[f + 46], 9);
    assert_int_equal(u32(f + 48), 0); /* no SMI command: always in ACPI mode */
    assert_int_equal(u32(f + 56), 0x600);
    assert_int_equal(u32(f + 64), 0x604);
    assert_int_equal(u32(f + 76), 0x608);
    assert_int_equal(u32(f + 80), 0x620);
    assert_int_equal(blob.data[f + 109], 0x07); /* legacy devices, 8042, no VGA */
    assert_int_equal(u32(f + 112) & 1 << 10, 1 << 10);
    assert_int_equal(u64(f + 120), 0xcf9);
    assert_int_equal(blob.data[f + 128], 6);
    assert_int_equal(u64(f + 152), 0x600);
}

/* Counts the MADT's entries by type, and checks that they tile the table. */
static void madt_count(unsigned counts[16]) {
    size_t t = table("APIC"), end = t + u32(t + 4), at = t + 44;

    memset(counts, 0, 16 * sizeof(*counts));
    assert_int_equal(u32(t + 36), 0xfee00000);
    assert_int_equal(u32(t + 40), 1);
    while (at < end) {
        assert_true(blob.data[at] < 16 && blob.data[at + 1] >= 6);
        counts[blob.data[at]]++;
        at += blob.data[at + 1];
    }
    assert_int_equal(at, end);
}

static void test_madt(void **state) {
    (void)state;
    const struct {
        unsigned vcpus, lapics, x2apics, x2nmis;
    } CASES[] = {{1, 1, 0, 0}, {255, 255, 0, 0}, {256, 255, 1, 1}, {300, 255, 45, 1}};

    for (size_t i = 0; i < ARRAY_LEN(CASES); i++) {
        unsigned n[16];

        build(CASES[i].vcpus);
        madt_count(n);
        assert_int_equal(n[0], CASES[i].lapics);
        assert_int_equal(n[9], CASES[i].x2apics);
        assert_int_equal(n[10], CASES[i].x2nmis);
        assert_int_equal(n[1], 1);
        assert_int_equal(n[2], 2);
        assert_int_equal(n[4], 1);
    }
}

static void test_hpet(void **state) {
    (void)state;
    build(1);
    size_t t = table("HPET");

    assert_int_equal(u32(t + 4), 56);
    assert_int_equal(u64(t + 44), 0xfed00000);
}

static size_t count(const void *needle, size_t n, size_t from, size_t to) {
    size_t found = 0;

    for (size_t at = from; at + n <= to; at++)
        found += !memcmp(blob.data + at, needle, n);
    return found;
}

static void test_dsdt(void **state) {
    (void)state;
    build(3);
    size_t f = table("FACP"), d = u32(f + 40) - BASE, end = d + u32(d + 4);

    assert_int_equal(count("ACPI0007", 9, d, end), 3);
    assert_int_equal(count("C002", 4, d, end), 1);
    assert_int_equal(count("\x08\\_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00", 14, d, end), 1);
    assert_int_equal(count("\x0c\x41\xd0\x0a\x03", 5, d, end), 1); /* EISAID("PNP0A03") */
    assert_int_equal(count("\x0c\x41\xd0\x05\x01", 5, d, end), 1); /* EISAID("PNP0501") */
    /* The first term is Scope(\_SB), and its length reaches exactly to Scope(\_GPE). */
    uint8_t lead = blob.data[d + 37];
    assert_int_equal(blob.data[d + 36], 0x10);
    assert_int_equal(lead >> 6, 1);
    size_t len = (lead & 0xf) | (size_t)blob.data[d + 38] << 4;
    assert_int_equal(blob.data[d + 37 + len], 0x10);
    assert_memory_equal(blob.data + d + 37 + len + 2, "\\_GPE", 5);
}

/* Slots that can be plugged have an address, a number and a way to be ejected; the others nothing.
 */
static void test_slots(void **state) {
    (void)state;
    build(1);
    size_t f = table("FACP"), d = u32(f + 40) - BASE, end = d + u32(d + 4);

    assert_int_equal(count("_EJ0\x01\x70\x79\x01_SUN\x00HPEJ", 16, d, end), 30);
    assert_int_equal(count("SL1F", 4, d, end), 2); /* itself, and its notification */
    assert_int_equal(count("SL03", 4, d, end), 0);
    assert_int_equal(count("SL00", 4, d, end), 0);
    assert_int_equal(count("_E01\x00\\\x2f\x03_SB_PCI0HPCK", 20, d, end), 1);
    /* The registers: SystemIO, 0xae00, three of 32 bits. */
    assert_int_equal(count("HPRG\x01\x0b\x00\xae\x0a\x0c", 10, d, end), 1);
    assert_int_equal(count("HPUP\x20HPDN\x20HPEJ\x20", 15, d, end), 1);
}

/* A package's length takes 1, 2 or 3 bytes and counts them. */
static void test_package_length(void **state) {
    (void)state;
    const struct {
        size_t body;
        uint8_t len[3];
        size_t bytes;
    } CASES[] = {{62, {63}, 1},
                 {63, {0x41, 0x04}, 2},
                 {4093, {0x4f, 0xff}, 2},
                 {4094, {0x81, 0x00, 0x01}, 3}};

    for (size_t i = 0; i < ARRAY_LEN(CASES); i++) {
        struct aml a = {0};

        aml_scope_begin(&a, "ABCD");
        for (size_t n = 4; n < CASES[i].body; n++)
            aml_int(&a, 0);
        aml_end(&a);
        assert_int_equal(a.buf[0], 0x10);
        assert_memory_equal(a.buf + 1, CASES[i].len, CASES[i].bytes);
        assert_int_equal(a.len, 1 + CASES[i].bytes + CASES[i].body);
        aml_free(&a);
    }
}

static void test_integers_and_names(void **state) {
    (void)state;
    static const uint8_t WANT[] = {0x00, 0x01, 0x0a, 2,   0x0b, 0,   1,   0x0c, 0,   0,  1,
                                   0,    0x0e, 0,    0,   0,    0,   1,   0,    0,   0,  0x08,
                                   '\\', 0x2e, '_',  'S', 'B',  '_', 'P', 'C',  'I', '0'};
    struct aml a = {0};

    aml_int(&a, 0);
    aml_int(&a, 1);
    aml_int(&a, 2);
    aml_int(&a, 0x100);
    aml_int(&a, 0x10000);
    aml_int(&a, 0x100000000);
    aml_name(&a, "\\_SB.PCI0");
    assert_int_equal(a.len, sizeof(WANT));
    assert_memory_equal(a.buf, WANT, sizeof(WANT));
    aml_free(&a);
}

/* ACPICA's own opinion, where its compiler is installed. */
static void test_iasl(void **state) {
    (void)state;
    char dir[] = "/tmp/rf-acpi-XXXXXX";
    cleanup_free char *cmd = NULL;
    char file[64];

    if (system("command -v iasl >/dev/null") != 0)
        skip();
    build(2);
    assert_non_null(mkdtemp(dir));
    size_t f = table("FACP"), d = u32(f + 40) - BASE;
    snprintf(file, sizeof(file), "%s/dsdt.aml", dir);
    FILE *out = fopen(file, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(blob.data + d, 1, u32(d + 4), out), u32(d + 4));
    fclose(out);
    cmd = xasprintf(
        "cd %s && iasl -d dsdt.aml >/dev/null 2>&1 && iasl -we -p again dsdt.dsl >log 2>&1;"
        " r=$?; rm -r %s; exit $r",
        dir, dir);
    assert_int_equal(system(cmd), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roots),          cmocka_unit_test(test_fadt),
        cmocka_unit_test(test_mcfg),           cmocka_unit_test(test_madt),
        cmocka_unit_test(test_hpet),           cmocka_unit_test(test_dsdt),
        cmocka_unit_test(test_package_length), cmocka_unit_test(test_integers_and_names),
        cmocka_unit_test(test_slots),          cmocka_unit_test(test_iasl),
    };

    return cmocka_run_group_tests(tests, NULL, teardown);
}
