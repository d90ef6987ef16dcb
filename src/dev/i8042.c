/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The AT's keyboard controller with a PS/2 auxiliary port (Intel 8042 as programmed by the IBM PS/2
 * Hardware Interface Technical Reference, "Keyboard and auxiliary device controller"), and port
 * 0x92.
 *
 * Nothing is plugged in yet: a byte for either device times out, as the manual says (0xfe, with
 * status bit 6).
 */
#include "dev/i8042.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/record.h"
#include "base/util.h"
#include "dev/device.h"
#include "dev/pc_layout.h"
#include "mem/mem.h"

#define PORT_A 0x92

enum {
    STR_OBF = 0x01,
    STR_SYS = 0x04,
    STR_CMD = 0x08,
    STR_UNLOCKED = 0x10,
    STR_AUX = 0x20,
    STR_TIMEOUT = 0x40,
};
enum {
    CTR_KBD_INT = 0x01,
    CTR_AUX_INT = 0x02,
    CTR_SYS = 0x04,
    CTR_KBD_DIS = 0x10,
    CTR_AUX_DIS = 0x20,
};
enum { OUT_NOT_RESET = 0x01, OUT_A20 = 0x02, OUT_KBD_OBF = 0x10, OUT_AUX_OBF = 0x20 };
enum { PORT_A_RESET = 0x01, PORT_A_A20 = 0x02 };

#define NO_DEVICE 0xfe
#define TEST_PASSED 0x55

struct i8042 {
    struct device dev;
    struct mem *mem;
    struct region *region[3];
    struct i8042_config cf;

    uint8_t ram[32]; /* byte 0 is the command byte */
    uint8_t status, data;
    uint8_t command; /* whose parameter the next write to 0x60 is, or 0 */
    bool a20, port_a_reset;
};

static void update_irqs(struct i8042 *k) {
    bool full = k->status & STR_OBF, aux = k->status & STR_AUX;

    irq_set(&k->cf.irq1, full && !aux && (k->ram[0] & CTR_KBD_INT));
    irq_set(&k->cf.irq12, full && aux && (k->ram[0] & CTR_AUX_INT));
}

static void put_output(struct i8042 *k, uint8_t v, uint8_t from) {
    k->data = v;
    k->status = (uint8_t)((k->status & ~(STR_AUX | STR_TIMEOUT)) | STR_OBF | from);
    update_irqs(k);
}

static uint8_t output_port(const struct i8042 *k) {
    uint8_t v = OUT_NOT_RESET | 0xc0;

    if (k->a20)
        v |= OUT_A20;
    if (k->status & STR_OBF)
        v |= k->status & STR_AUX ? OUT_AUX_OBF : OUT_KBD_OBF;
    return v;
}

static void write_output_port(struct i8042 *k, uint8_t v) {
    k->a20 = v & OUT_A20;
    if (!(v & OUT_NOT_RESET))
        k->cf.reset(k->cf.arg);
}

static void write_ram(struct i8042 *k, unsigned at, uint8_t v) {
    k->ram[at] = v;
    if (at != 0)
        return;
    k->status = (uint8_t)((k->status & ~STR_SYS) | (v & CTR_SYS));
    update_irqs(k);
}

static void self_test(struct i8042 *k) {
    write_ram(k, 0, k->ram[0] | CTR_SYS);
    put_output(k, TEST_PASSED, 0);
}

static void set_ctr(struct i8042 *k, uint8_t clear, uint8_t set) {
    write_ram(k, 0, (uint8_t)((k->ram[0] & ~clear) | set));
}

static void write_command(struct i8042 *k, uint8_t v) {
    k->command = 0;
    k->status |= STR_CMD;
    switch (v) {
    case 0x20 ... 0x3f:
        put_output(k, k->ram[v & 31], 0);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        k->command = v;
        break;
    case 0xa4: /* no password is installed */
        put_output(k, 0xf1, 0);
        break;
    case 0xa7:
        set_ctr(k, 0, CTR_AUX_DIS);
        break;
    case 0xa8:
        set_ctr(k, CTR_AUX_DIS, 0);
        break;
    case 0xa9: /* both interfaces test well */
    case 0xab:
        put_output(k, 0x00, 0);
        break;
    case 0xaa:
        self_test(k);
        break;
    case 0xad:
        set_ctr(k, 0, CTR_KBD_DIS);
        break;
    case 0xae:
        set_ctr(k, CTR_KBD_DIS, 0);
        break;
    case 0xc0: /* input port: keyboard not inhibited, colour display, 256 KiB or more */
        put_output(k, 0xa0, 0);
        break;
    case 0xd0:
        put_output(k, output_port(k), 0);
        break;
    case 0xe0: /* clock and data of both devices idle high */
        put_output(k, 0x0f, 0);
        break;
    case 0xf0 ... 0xff: /* pulses the output lines whose bits are 0 */
        if (!(v & OUT_NOT_RESET))
            k->cf.reset(k->cf.arg);
        break;
    default:
        break;
    }
}

static void write_data(struct i8042 *k, uint8_t v) {
    uint8_t command = k->command;

    k->command = 0;
    k->status &= (uint8_t)~STR_CMD;
    if (command >= 0x60 && command <= 0x7f)
        write_ram(k, command & 31, v);
    else if (command == 0xd1)
        write_output_port(k, v);
    else if (command == 0xd2)
        put_output(k, v, 0);
    else if (command == 0xd3)
        put_output(k, v, STR_AUX);
    else if (command == 0xd4)
        put_output(k, NO_DEVICE, STR_AUX | STR_TIMEOUT);
    else
        put_output(k, NO_DEVICE, STR_TIMEOUT);
}

static uint64_t data_read(void *dev, uint64_t off, unsigned size) {
    struct i8042 *k = dev;

    (void)off;
    (void)size;
    k->status &= (uint8_t) ~(STR_OBF | STR_AUX | STR_TIMEOUT);
    update_irqs(k);
    return k->data;
}

static void data_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    (void)off;
    (void)size;
    write_data(dev, (uint8_t)value);
}

static uint64_t status_read(void *dev, uint64_t off, unsigned size) {
    const struct i8042 *k = dev;

    (void)off;
    (void)size;
    return k->status | STR_UNLOCKED;
}

static void command_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    (void)off;
    (void)size;
    write_command(dev, (uint8_t)value);
}

static uint64_t port_a_read(void *dev, uint64_t off, unsigned size) {
    const struct i8042 *k = dev;

    (void)off;
    (void)size;
    return (k->a20 ? PORT_A_A20 : 0) | (k->port_a_reset ? PORT_A_RESET : 0);
}

static void port_a_write(void *dev, uint64_t off, unsigned size, uint64_t value) {
    struct i8042 *k = dev;
    bool reset = value & PORT_A_RESET, rises = reset && !k->port_a_reset;

    (void)off;
    (void)size;
    k->a20 = value & PORT_A_A20;
    k->port_a_reset = reset;
    if (rises)
        k->cf.reset(k->cf.arg);
}

static const struct io_ops data_io = {
    .read = data_read, .write = data_write, .min_size = 1, .max_size = 1};
static const struct io_ops status_io = {
    .read = status_read, .write = command_write, .min_size = 1, .max_size = 1};
static const struct io_ops port_a_io = {
    .read = port_a_read, .write = port_a_write, .min_size = 1, .max_size = 1};

bool i8042_a20(const struct i8042 *k) {
    return k->a20;
}

/* --- device --- */

static void i8042_reset(struct device *d) {
    struct i8042 *k = (struct i8042 *)d;

    for (unsigned i = 0; i < ARRAY_LEN(k->ram); i++)
        k->ram[i] = 0;
    /* Both interrupts off and the system flag set, as after the power-on self test. */
    k->ram[0] = CTR_SYS;
    k->status = STR_SYS;
    k->data = 0;
    k->command = 0;
    k->a20 = true;
    k->port_a_reset = false;
    update_irqs(k);
}

static void i8042_save(const struct device *d, struct record_writer *w) {
    const struct i8042 *k = (const struct i8042 *)d;

    rec_put_bytes(w, k->ram, sizeof(k->ram));
    rec_put_u8(w, k->status);
    rec_put_u8(w, k->data);
    rec_put_u8(w, k->command);
    rec_put_u8(w, k->a20);
    rec_put_u8(w, k->port_a_reset);
}

static int i8042_check(const struct device *d, struct record_reader *r, struct err *e) {
    uint8_t ram[32];

    (void)d;
    rec_get_bytes(r, ram, sizeof(ram));
    for (int i = 0; i < 3; i++)
        rec_get_u8(r);
    uint8_t a20 = rec_get_u8(r), reset = rec_get_u8(r);
    if (a20 > 1 || reset > 1)
        return err_set(e, 0, "i8042: port 0x92: A20 %u, reset %u", a20, reset);
    return rec_done(r, e);
}

static void i8042_load(struct device *d, struct record_reader *r) {
    struct i8042 *k = (struct i8042 *)d;

    rec_get_bytes(r, k->ram, sizeof(k->ram));
    k->status = rec_get_u8(r);
    k->data = rec_get_u8(r);
    k->command = rec_get_u8(r);
    k->a20 = rec_get_u8(r);
    k->port_a_reset = rec_get_u8(r);
    update_irqs(k);
}

static void i8042_destroy(struct device *d) {
    struct i8042 *k = (struct i8042 *)d;

    for (unsigned i = 0; i < ARRAY_LEN(k->region); i++)
        if (k->region[i])
            mem_del_region(k->mem, k->region[i]);
    free(k);
}

static const struct device_ops i8042_ops = {
    .name = "i8042",
    .version = 1,
    .reset = i8042_reset,
    .save = i8042_save,
    .check = i8042_check,
    .load = i8042_load,
    .destroy = i8042_destroy,
};

struct i8042 *i8042_new(struct mem *m, const struct i8042_config *config, struct err *e) {
    static const struct {
        uint16_t port;
        const char *name;
        const struct io_ops *ops;
    } ports[] = {
        {PC_I8042_DATA, "i8042 data", &data_io},
        {PC_I8042_CMD, "i8042 status", &status_io},
        {PORT_A, "port A", &port_a_io},
    };
    struct i8042 *k = xcalloc(1, sizeof(*k));

    k->dev.ops = &i8042_ops;
    k->mem = m;
    k->cf = *config;
    for (unsigned i = 0; i < ARRAY_LEN(ports); i++) {
        k->region[i] = mem_add_port(m, ports[i].port, 1, ports[i].name, ports[i].ops, k, e);
        if (!k->region[i]) {
            i8042_destroy(&k->dev);
            return NULL;
        }
    }
    i8042_reset(&k->dev);
    return k;
}
