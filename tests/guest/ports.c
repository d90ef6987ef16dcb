/* SPDX-License-Identifier: Apache-2.0 */
/* Every port and a sample of every kind of address that is no RAM, read and written in all sizes:
 * the monitor survives it. */
#include "lib.h"

/* What ends or resets the machine, announces a panic (505h), or is our way to say so. */
static bool spared(unsigned port) {
    return (port >= 0xf4 && port < 0xf8) || (port >= 0x3f8 && port < 0x400) || port == 0x505 ||
           (port >= 0x600 && port < 0x608) || (port >= 0xcf9 && port < 0xcfa) || port == 0x64 ||
           port == 0x60 || port == 0x92;
}

static bool spared_range(unsigned port, unsigned size) {
    for (unsigned i = 0; i < size; i++)
        if (spared((port + i) & 0xffff))
            return true;
    return false;
}

static void read_ports(void) {
    for (unsigned port = 0; port < 0x10000; port++) {
        (void)inb((uint16_t)port);
        (void)inw((uint16_t)port);
        (void)inl((uint16_t)port);
    }
}

static void write_ports(uint32_t v) {
    for (unsigned port = 0; port < 0x10000; port++) {
        if (!spared(port))
            outb((uint16_t)port, (uint8_t)v);
        if (!spared_range(port, 2))
            outw((uint16_t)port, (uint16_t)v);
        if (!spared_range(port, 4))
            outl((uint16_t)port, v);
    }
}

static void string_ports(void) {
    void *to = page_alloc(1);

    for (unsigned port = 0; port < 0x10000; port += 7) {
        void *d = to;
        ulong n = 16;

        asm volatile("rep insb" : "+D"(d), "+c"(n) : "d"(port) : "memory");
    }
}

static void touch(ulong at, bool write) {
    volatile uint8_t *p = (uint8_t *)at;

    (void)*p;
    (void)*(volatile uint16_t *)p;
    (void)*(volatile uint32_t *)p;
    (void)*(volatile uint64_t *)p;
    if (!write)
        return;
    *p = 0x5a;
    *(volatile uint16_t *)p = 0xa5a5;
    *(volatile uint32_t *)p = 0xffffffff;
    *(volatile uint64_t *)p = 0;
    asm volatile(
        "lock incl (%0); lock xaddq %1, (%0); movups (%0), %%xmm0; movups %%xmm0, (%0)" ::"r"(p),
        "r"(1ul)
        : "memory");
}

static void memory(void) {
    for (ulong at = 0xa0000; at < 0x100000; at += 509)
        touch(at, true);
    for (ulong at = 0x10000000; at < 0x100000000; at += 0x301007)
        touch(at, true);
    for (ulong at = 0xfec00000 - 8; at < 0xfec00040; at++)
        touch(at, true);
    for (ulong at = 0xfed00000 - 8; at < 0xfed00408; at++)
        touch(at, true);
    for (ulong at = 0xfee00000 - 8; at < 0xfee01008; at++)
        touch(at, (at & 0xff0) != 0x300); /* no INIT to ourselves */
}

int main(void) {
    read_ports();
    check(true, "every port is read", " ");
    check_eq("a port that is none reads all ones", inl(0x1234), 0xffffffff);
    string_ports();
    check(true, "every seventh port is read by a string operation", " ");
    write_ports(0);
    write_ports(0xffffffff);
    check(true, "every port but those that end the run is written", " ");
    memory();
    check(true, "addresses that are no RAM", " ");
    check_eq("an address that is none reads all ones", *(volatile uint32_t *)0xd0000000,
             0xffffffff);

    read_ports();
    check(true, "every port again", " ");
    return 0;
}
