/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Framing, acknowledgement and the commands of the remote protocol. Thread ids are vCPU index + 1.
 * Left out: non-stop mode, multiprocess ids, tracepoints, file I/O.
 */
#include "machine/gdb_stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cpu/x86/state.h"
#include "machine/gdb_regs.h"

#define WATCH_MAX 4096 /* bytes of one watchpoint */

enum rx_state { RX_IDLE, RX_DATA, RX_SUM1, RX_SUM2 };

struct gdb_stub {
    const struct gdb_target *t;
    gdb_send_fn *send;
    void *send_arg;

    enum rx_state rx;
    char in[GDB_PACKET_MAX + 1];
    size_t in_len;
    bool overflow;
    uint8_t sum, sum_hi;

    char out[2 * GDB_PACKET_MAX + 8]; /* '$', payload (every byte may be escaped), '#', sum */
    size_t out_len;
    bool no_ack, running;

    unsigned g_cpu; /* what registers and memory are about */
    int c_cpu;      /* what c and s are about; -1: all */
    char stop[96];  /* the last stop reply */

    enum gdb_action *actions;
    struct engine_debug points;
    uint8_t z_type[DEBUG_POINTS_MAX];
    char *xml;
    size_t xml_len;
};

/* Building a reply. What doesn't fit is dropped: callers bound what they put. */

static void put_raw(struct gdb_stub *g, char ch) {
    if (g->out_len < sizeof(g->out) - 4)
        g->out[g->out_len++] = ch;
}

static void put_byte(struct gdb_stub *g, char ch) {
    if (ch == '#' || ch == '$' || ch == '}' || ch == '*') {
        put_raw(g, '}');
        ch ^= 0x20;
    }
    put_raw(g, ch);
}

static void put_str(struct gdb_stub *g, const char *s) {
    while (*s)
        put_byte(g, *s++);
}

static void put_hex(struct gdb_stub *g, const void *data, size_t len) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++) {
        put_raw(g, digits[p[i] >> 4]);
        put_raw(g, digits[p[i] & 15]);
    }
}

static void reply_begin(struct gdb_stub *g) {
    g->out[0] = '$';
    g->out_len = 1;
}

static void reply_end(struct gdb_stub *g) {
    uint8_t sum = 0;

    for (size_t i = 1; i < g->out_len; i++)
        sum += (uint8_t)g->out[i];
    g->out_len += (size_t)snprintf(g->out + g->out_len, 4, "#%02x", sum);
    g->send(g->send_arg, g->out, g->out_len);
}

static void reply(struct gdb_stub *g, const char *text) {
    reply_begin(g);
    put_str(g, text);
    reply_end(g);
}

static void reply_ok(struct gdb_stub *g, bool ok) {
    reply(g, ok ? "OK" : "E22");
}

/* Reading a command. */

static int hex_digit(char ch) {
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    if (ch >= 'a' && ch <= 'f')
        return ch - 'a' + 10;
    if (ch >= 'A' && ch <= 'F')
        return ch - 'A' + 10;
    return -1;
}

/* A hex number at *p, which moves behind it. False when there is no digit or it passes 64 bits. */
static bool get_hex(const char **p, uint64_t *v) {
    const char *start = *p;

    for (*v = 0; hex_digit(**p) >= 0; (*p)++) {
        if (*v >> 60)
            return false;
        *v = *v << 4 | (unsigned)hex_digit(**p);
    }
    return *p != start;
}

static bool get_char(const char **p, char ch) {
    if (**p != ch)
        return false;
    (*p)++;
    return true;
}

/* Pairs of hex digits into bytes; how many bytes there were, at most `max`. */
static size_t get_bytes(const char *p, void *out, size_t max) {
    uint8_t *o = out;
    size_t n = 0;

    while (n < max && hex_digit(p[0]) >= 0 && hex_digit(p[1]) >= 0) {
        o[n++] = (uint8_t)(hex_digit(p[0]) << 4 | hex_digit(p[1]));
        p += 2;
    }
    return n;
}

/* A thread id; -1 for all, and 0 (any) becomes `any`. False when there is no such vCPU. */
static bool get_thread(const struct gdb_stub *g, const char **p, int any, int *cpu) {
    uint64_t id;

    if (strncmp(*p, "-1", 2) == 0) {
        *p += 2;
        *cpu = -1;
        return true;
    }
    if (!get_hex(p, &id) || id > g->t->vcpus)
        return false;
    *cpu = id ? (int)id - 1 : any;
    return true;
}

/* Registers. */

static void cmd_read_regs(struct gdb_stub *g) {
    struct x86_state s;
    uint8_t value[GDB_REG_MAX];

    g->t->get_state(g->t->arg, g->g_cpu, &s);
    reply_begin(g);
    for (unsigned n = 0; n < gdb_reg_count(); n++) {
        gdb_reg_read(&s, n, value);
        put_hex(g, value, gdb_reg_size(n));
    }
    reply_end(g);
}

/* What cannot be changed is left as it is: gdb writes back everything that it has read. */
static void cmd_write_regs(struct gdb_stub *g, const char *p) {
    struct x86_state s;
    uint8_t value[GDB_REG_MAX];
    unsigned n;

    g->t->get_state(g->t->arg, g->g_cpu, &s);
    for (n = 0; n < gdb_reg_count(); n++) {
        unsigned size = gdb_reg_size(n);

        if (get_bytes(p, value, size) != size)
            break;
        gdb_reg_write(&s, n, value);
        p += 2 * size;
    }
    if (n > 0)
        g->t->set_state(g->t->arg, g->g_cpu, &s);
    reply_ok(g, n > 0);
}

static void cmd_read_reg(struct gdb_stub *g, const char *p) {
    struct x86_state s;
    uint8_t value[GDB_REG_MAX];
    uint64_t n;

    if (!get_hex(&p, &n) || n >= gdb_reg_count()) {
        reply_ok(g, false);
        return;
    }
    g->t->get_state(g->t->arg, g->g_cpu, &s);
    gdb_reg_read(&s, (unsigned)n, value);
    reply_begin(g);
    put_hex(g, value, gdb_reg_size((unsigned)n));
    reply_end(g);
}

static void cmd_write_reg(struct gdb_stub *g, const char *p) {
    struct x86_state s;
    uint8_t value[GDB_REG_MAX];
    uint64_t n;
    bool ok;

    ok = get_hex(&p, &n) && n < gdb_reg_count() && get_char(&p, '=') &&
         get_bytes(p, value, gdb_reg_size((unsigned)n)) == gdb_reg_size((unsigned)n);
    if (ok) {
        g->t->get_state(g->t->arg, g->g_cpu, &s);
        ok = gdb_reg_write(&s, (unsigned)n, value);
        if (ok)
            g->t->set_state(g->t->arg, g->g_cpu, &s);
    }
    reply_ok(g, ok);
}

/* Memory. */

static bool get_range(const char **p, uint64_t *addr, uint64_t *len) {
    return get_hex(p, addr) && get_char(p, ',') && get_hex(p, len);
}

static void cmd_read_mem(struct gdb_stub *g, const char *p) {
    uint8_t buf[GDB_PACKET_MAX / 2];
    uint64_t addr, len;
    size_t done;

    if (!get_range(&p, &addr, &len)) {
        reply_ok(g, false);
        return;
    }
    len = MIN(len, sizeof(buf));
    done = g->t->read(g->t->arg, g->g_cpu, addr, buf, (size_t)len);
    if (len && !done) {
        reply(g, "E14");
        return;
    }
    reply_begin(g);
    put_hex(g, buf, done);
    reply_end(g);
}

static void write_mem(struct gdb_stub *g, uint64_t addr, const void *buf, uint64_t len,
                      size_t have) {
    if (have != len)
        reply_ok(g, false);
    else if (g->t->write(g->t->arg, g->g_cpu, addr, buf, have) == have)
        reply(g, "OK");
    else
        reply(g, "E14");
}

static void cmd_write_mem(struct gdb_stub *g, const char *p) {
    uint8_t buf[GDB_PACKET_MAX / 2];
    uint64_t addr, len;

    if (!get_range(&p, &addr, &len) || !get_char(&p, ':') || len > sizeof(buf))
        reply_ok(g, false);
    else
        write_mem(g, addr, buf, len, get_bytes(p, buf, (size_t)len));
}

/* X: the same in binary; the packet's bytes may be NUL, so its length counts. */
static void cmd_write_binary(struct gdb_stub *g, const char *p) {
    const char *end = g->in + g->in_len;
    uint8_t buf[GDB_PACKET_MAX];
    uint64_t addr, len;
    size_t n = 0;

    if (!get_range(&p, &addr, &len) || !get_char(&p, ':')) {
        reply_ok(g, false);
        return;
    }
    while (p < end && n < sizeof(buf)) {
        bool escaped = *p == '}' && p + 1 < end;

        p += escaped;
        buf[n++] = (uint8_t)(*p++ ^ (escaped ? 0x20 : 0));
    }
    write_mem(g, addr, buf, len, n);
}

/* Breakpoints and watchpoints. */

static int find_point(const struct gdb_stub *g, uint64_t z, uint64_t addr, uint64_t len) {
    for (uint32_t i = 0; i < g->points.count; i++)
        if (g->z_type[i] == z && g->points.points[i].addr == addr && g->points.points[i].len == len)
            return (int)i;
    return -1;
}

static bool add_point(struct gdb_stub *g, uint64_t z, uint64_t addr, uint64_t len) {
    static const enum debug_point_type types[] = {POINT_EXEC, POINT_EXEC, POINT_WRITE, POINT_READ,
                                                  POINT_ACCESS};
    uint32_t i = g->points.count;

    if (find_point(g, z, addr, len) >= 0)
        return true;
    if (i == DEBUG_POINTS_MAX)
        return false;
    g->points.points[i].addr = addr;
    g->points.points[i].len = (uint32_t)len;
    g->points.points[i].type = types[z];
    g->z_type[i] = (uint8_t)z;
    g->points.count++;
    return true;
}

static void remove_point(struct gdb_stub *g, uint64_t z, uint64_t addr, uint64_t len) {
    int i = find_point(g, z, addr, len);

    if (i < 0)
        return;
    g->points.count--;
    g->points.points[i] = g->points.points[g->points.count];
    g->z_type[i] = g->z_type[g->points.count];
}

static void cmd_point(struct gdb_stub *g, bool add, const char *p) {
    uint64_t z, addr, len;

    if (!get_hex(&p, &z) || !get_char(&p, ',') || !get_range(&p, &addr, &len)) {
        reply_ok(g, false);
        return;
    }
    if (z > 4) {
        reply(g, "");
        return;
    }
    len = z < 2 ? 1 : len; /* an execution point is its first byte */
    if (len < 1 || len > WATCH_MAX) {
        reply_ok(g, false);
        return;
    }
    if (!add)
        remove_point(g, z, addr, len);
    reply_ok(g, add ? add_point(g, z, addr, len) : true);
}

/* Running and stopping. */

static bool point_at(const struct gdb_stub *g, bool data, uint64_t addr) {
    for (uint32_t i = 0; i < g->points.count; i++)
        if ((g->points.points[i].type != POINT_EXEC) == data &&
            addr - g->points.points[i].addr < g->points.points[i].len)
            return true;
    return false;
}

/*
 * Whether a stop that waited is still news: the debugger may have taken the point away, or moved
 * the vCPU. A step that ended beside another's stop is not asked for any more, and a vCPU that is
 * shut down says so again.
 */
static bool still_meant(const struct gdb_stub *g, unsigned cpu, const struct vcpu_exit *x) {
    struct x86_state s;

    if (x->reason != VCPU_DEBUG || x->debug.cause == DEBUG_STEP)
        return false;
    if (x->debug.cause == DEBUG_WATCH)
        return point_at(g, true, x->debug.addr);
    g->t->get_state(g->t->arg, cpu, &s);
    return s.seg[SEG_CS].base + s.rip == x->debug.addr && point_at(g, false, x->debug.addr);
}

/* Of vCPUs that stopped at once, one was reported; the others are when they would go on. */
static bool report_waiting(struct gdb_stub *g) {
    struct vcpu_exit x;

    for (unsigned i = 0; i < g->t->vcpus; i++)
        if (g->actions[i] != GDB_STAY && g->t->take_stop(g->t->arg, i, &x) &&
            still_meant(g, i, &x)) {
            gdb_stub_stopped(g, i, &x);
            return true;
        }
    return false;
}

static void resume(struct gdb_stub *g) {
    g->running = true;
    if (report_waiting(g))
        return;
    g->points.active = g->points.count > 0;
    g->t->resume(g->t->arg, g->actions, &g->points);
}

/* c, C, s, S: one action for the thread that Hc chose, or for all. */
static void cmd_resume_one(struct gdb_stub *g, enum gdb_action action, const char *p) {
    unsigned chosen = g->c_cpu >= 0 ? (unsigned)g->c_cpu : g->g_cpu;
    uint64_t addr;

    if (get_hex(&p, &addr)) {
        struct x86_state s;

        g->t->get_state(g->t->arg, chosen, &s);
        s.rip = addr;
        g->t->set_state(g->t->arg, chosen, &s);
    }
    for (unsigned i = 0; i < g->t->vcpus; i++)
        g->actions[i] = g->c_cpu >= 0 ? GDB_STAY : GDB_CONTINUE;
    g->actions[chosen] = action;
    resume(g);
}

/* One ";action[:thread]" of vCont. The first that names a vCPU counts for it. */
static bool vcont_action(struct gdb_stub *g, const char **p, bool *taken) {
    enum gdb_action action;
    int cpu = -1;
    char what;

    if (!get_char(p, ';') || !**p)
        return false;
    what = *(*p)++;
    if (what == 'C' || what == 'S') {
        uint64_t signal;

        if (!get_hex(p, &signal))
            return false;
    } else if (what != 'c' && what != 's') {
        return false;
    }
    action = what == 'c' || what == 'C' ? GDB_CONTINUE : GDB_STEP;
    if (get_char(p, ':') && !get_thread(g, p, (int)g->g_cpu, &cpu))
        return false;
    for (unsigned i = 0; i < g->t->vcpus; i++)
        if ((cpu < 0 || (unsigned)cpu == i) && !taken[i]) {
            taken[i] = true;
            g->actions[i] = action;
        }
    return true;
}

static void cmd_vcont(struct gdb_stub *g, const char *p) {
    cleanup_free bool *taken = xcalloc(g->t->vcpus, sizeof(*taken));
    bool any = false;

    for (unsigned i = 0; i < g->t->vcpus; i++)
        g->actions[i] = GDB_STAY;
    while (*p)
        if (!vcont_action(g, &p, taken)) {
            reply_ok(g, false);
            return;
        }
    for (unsigned i = 0; i < g->t->vcpus; i++)
        any |= g->actions[i] != GDB_STAY;
    if (any)
        resume(g);
    else
        reply_ok(g, false);
}

/* Which kind of point made an execution stop at `rip`. */
static const char *break_kind(const struct gdb_stub *g, uint64_t linear) {
    for (uint32_t i = 0; i < g->points.count; i++)
        if (g->points.points[i].type == POINT_EXEC && g->points.points[i].addr == linear)
            return g->z_type[i] == 0 ? "swbreak:;" : "hwbreak:;";
    return "";
}

static const char *watch_kind(const struct gdb_stub *g, uint64_t addr) {
    for (uint32_t i = 0; i < g->points.count; i++)
        if (g->z_type[i] >= 2 && addr - g->points.points[i].addr < g->points.points[i].len)
            return g->z_type[i] == 2 ? "watch" : g->z_type[i] == 3 ? "rwatch" : "awatch";
    return "watch";
}

/* What a stop reply says between the signal and the thread. */
static void stop_details(struct gdb_stub *g, unsigned cpu, const struct vcpu_exit *x, char *out,
                         size_t size) {
    struct x86_state s;

    out[0] = 0;
    if (x->debug.cause == DEBUG_WATCH) {
        snprintf(out, size, "%s:%llx;", watch_kind(g, x->debug.addr),
                 (unsigned long long)x->debug.addr);
    } else if (x->debug.cause == DEBUG_BREAK) {
        g->t->get_state(g->t->arg, cpu, &s);
        /* With a base, gdb would look for the breakpoint at the bare offset, find none and go on.
         */
        if (s.seg[SEG_CS].base == 0)
            snprintf(out, size, "%s", break_kind(g, s.rip));
    }
}

void gdb_stub_stopped(struct gdb_stub *g, unsigned cpu, const struct vcpu_exit *x) {
    int signal = GDB_SIGINT;
    char what[48] = "";

    if (!g->running)
        return;
    g->running = false;
    g->g_cpu = cpu;
    g->c_cpu = -1;
    if (x) {
        signal = x->reason == VCPU_SHUTDOWN ? GDB_SIGSEGV : GDB_SIGTRAP;
        if (x->reason == VCPU_DEBUG)
            stop_details(g, cpu, x, what, sizeof(what));
    }
    snprintf(g->stop, sizeof(g->stop), "T%02x%sthread:%x;", (unsigned)signal, what, cpu + 1);
    reply(g, g->stop);
}

bool gdb_stub_running(const struct gdb_stub *g) {
    return g->running;
}

void gdb_stub_exited(struct gdb_stub *g, int status) {
    if (!g->running)
        return;
    g->running = false;
    snprintf(g->stop, sizeof(g->stop), "W%02x", status & 0xff);
    reply(g, g->stop);
}

/* Queries. */

static void query_features(struct gdb_stub *g, const char *p) {
    uint64_t off, len;

    if (!get_range(&p, &off, &len)) {
        reply_ok(g, false);
        return;
    }
    reply_begin(g);
    if (off < g->xml_len) {
        uint64_t n = MIN(MIN(len, g->xml_len - off), (uint64_t)GDB_PACKET_MAX - 2);

        put_raw(g, off + n < g->xml_len ? 'm' : 'l');
        for (uint64_t i = 0; i < n; i++)
            put_byte(g, g->xml[off + i]);
    } else {
        put_raw(g, 'l');
    }
    reply_end(g);
}

static void query_threads(struct gdb_stub *g) {
    char id[16];

    reply_begin(g);
    for (unsigned i = 0; i < g->t->vcpus; i++) {
        snprintf(id, sizeof(id), "%c%x", i ? ',' : 'm', i + 1);
        put_str(g, id);
    }
    reply_end(g);
}

static void query_thread_info(struct gdb_stub *g, const char *p) {
    static const char *const names[] = {"running", "halted", "waiting for SIPI", "shut down"};
    struct x86_state s;
    char text[48];
    int cpu;

    if (!get_thread(g, &p, 0, &cpu) || cpu < 0) {
        reply_ok(g, false);
        return;
    }
    g->t->get_state(g->t->arg, (unsigned)cpu, &s);
    snprintf(text, sizeof(text), "CPU %d [%s]", cpu, names[s.activity & 3]);
    reply_begin(g);
    put_hex(g, text, strlen(text));
    reply_end(g);
}

static void query_monitor(struct gdb_stub *g, const char *p) {
    char command[256] = "";
    cleanup_free char *answer = NULL;
    size_t n = get_bytes(p, command, sizeof(command) - 1);

    command[n] = 0;
    answer = g->t->monitor(g->t->arg, g->g_cpu, command);
    reply_begin(g);
    put_hex(g, answer, MIN(strlen(answer), (size_t)GDB_PACKET_MAX / 2));
    reply_end(g);
}

static void cmd_query(struct gdb_stub *g, const char *p) {
    static const char features[] = "Xfer:features:read:target.xml:";
    char text[32];

    if (strncmp(p, "Supported", 9) == 0) {
        snprintf(text, sizeof(text), "PacketSize=%x", GDB_PACKET_MAX);
        reply_begin(g);
        put_str(g, text);
        put_str(g, ";QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+");
        reply_end(g);
    } else if (strncmp(p, features, sizeof(features) - 1) == 0) {
        query_features(g, p + sizeof(features) - 1);
    } else if (strcmp(p, "fThreadInfo") == 0) {
        query_threads(g);
    } else if (strcmp(p, "sThreadInfo") == 0) {
        reply(g, "l");
    } else if (strncmp(p, "ThreadExtraInfo,", 16) == 0) {
        query_thread_info(g, p + 16);
    } else if (strcmp(p, "C") == 0) {
        snprintf(text, sizeof(text), "QC%x", g->g_cpu + 1);
        reply(g, text);
    } else if (strcmp(p, "Attached") == 0) {
        reply(g, "1");
    } else if (strncmp(p, "Rcmd,", 5) == 0) {
        query_monitor(g, p + 5);
    } else {
        reply(g, "");
    }
}

static void cmd_set(struct gdb_stub *g, const char *p) {
    if (strcmp(p, "StartNoAckMode") != 0) {
        reply(g, "");
        return;
    }
    reply(g, "OK");
    g->no_ack = true;
}

static void cmd_thread(struct gdb_stub *g, const char *p) {
    char what = *p ? *p++ : 0;
    int cpu;

    if ((what != 'g' && what != 'c') ||
        !get_thread(g, &p, what == 'g' ? (int)g->g_cpu : -1, &cpu)) {
        reply_ok(g, false);
        return;
    }
    if (what == 'c')
        g->c_cpu = cpu;
    else if (cpu >= 0)
        g->g_cpu = (unsigned)cpu;
    reply(g, "OK");
}

static void cmd_alive(struct gdb_stub *g, const char *p) {
    uint64_t id;

    reply_ok(g, get_hex(&p, &id) && id >= 1 && id <= g->t->vcpus);
}

static void cmd_detach(struct gdb_stub *g) {
    g->points.count = 0;
    g->running = true;
    reply(g, "OK");
    g->t->detach(g->t->arg);
}

static void cmd_v(struct gdb_stub *g, const char *p) {
    if (strcmp(p, "Cont?") == 0) {
        reply(g, "vCont;c;C;s;S");
    } else if (strncmp(p, "Cont;", 5) == 0) {
        cmd_vcont(g, p + 4);
    } else if (strncmp(p, "Kill", 4) == 0) {
        reply(g, "OK");
        g->t->kill(g->t->arg);
    } else {
        reply(g, "");
    }
}

/* Skips the signal number of C and S, and the ';' before their address. */
static const char *skip_signal(const char *p) {
    uint64_t signal;

    get_hex(&p, &signal);
    get_char(&p, ';');
    return p;
}

static void dispatch(struct gdb_stub *g) {
    const char *p = g->in + 1;

    switch (g->in[0]) {
    case '?':
        reply(g, g->stop);
        break;
    case 'g':
        cmd_read_regs(g);
        break;
    case 'G':
        cmd_write_regs(g, p);
        break;
    case 'p':
        cmd_read_reg(g, p);
        break;
    case 'P':
        cmd_write_reg(g, p);
        break;
    case 'm':
        cmd_read_mem(g, p);
        break;
    case 'M':
        cmd_write_mem(g, p);
        break;
    case 'X':
        cmd_write_binary(g, p);
        break;
    case 'Z':
    case 'z':
        cmd_point(g, g->in[0] == 'Z', p);
        break;
    case 'c':
    case 's':
        cmd_resume_one(g, g->in[0] == 's' ? GDB_STEP : GDB_CONTINUE, p);
        break;
    case 'C':
    case 'S':
        cmd_resume_one(g, g->in[0] == 'S' ? GDB_STEP : GDB_CONTINUE, skip_signal(p));
        break;
    case 'H':
        cmd_thread(g, p);
        break;
    case 'T':
        cmd_alive(g, p);
        break;
    case 'D':
        cmd_detach(g);
        break;
    case 'k':
        g->t->kill(g->t->arg);
        break;
    case 'q':
        cmd_query(g, p);
        break;
    case 'Q':
        cmd_set(g, p);
        break;
    case 'v':
        cmd_v(g, p);
        break;
    default:
        reply(g, "");
    }
}

static void packet_done(struct gdb_stub *g, uint8_t wanted) {
    bool good = g->sum == wanted && !g->overflow;

    if (!g->no_ack)
        g->send(g->send_arg, good ? "+" : "-", 1);
    /* In all-stop mode gdb sends nothing but an interrupt while the target runs. */
    if (!good || g->running)
        return;
    g->in[g->in_len] = 0;
    dispatch(g);
}

static void idle_byte(struct gdb_stub *g, uint8_t ch) {
    if (ch == '$') {
        g->rx = RX_DATA;
        g->in_len = 0;
        g->sum = 0;
        g->overflow = false;
    } else if (ch == 3 && g->running) {
        g->t->interrupt(g->t->arg);
    } else if (ch == '-' && !g->no_ack && g->out_len) {
        g->send(g->send_arg, g->out, g->out_len);
    }
}

static void data_byte(struct gdb_stub *g, uint8_t ch) {
    if (ch == '#') {
        g->rx = RX_SUM1;
        return;
    }
    g->sum += ch;
    if (g->in_len < GDB_PACKET_MAX)
        g->in[g->in_len++] = (char)ch;
    else
        g->overflow = true;
}

void gdb_stub_feed(struct gdb_stub *g, const uint8_t *data, size_t len) {
    for (size_t i = 0; i < len; i++) {
        int digit = hex_digit((char)data[i]);

        switch (g->rx) {
        case RX_IDLE:
            idle_byte(g, data[i]);
            break;
        case RX_DATA:
            data_byte(g, data[i]);
            break;
        case RX_SUM1:
            g->sum_hi = (uint8_t)digit;
            g->overflow |= digit < 0;
            g->rx = RX_SUM2;
            break;
        case RX_SUM2:
            g->overflow |= digit < 0;
            g->rx = RX_IDLE;
            packet_done(g, (uint8_t)(g->sum_hi << 4 | (digit & 15)));
            break;
        }
    }
}

struct gdb_stub *gdb_stub_new(const struct gdb_target *t, gdb_send_fn *send, void *send_arg) {
    struct gdb_stub *g = xcalloc(1, sizeof(*g));

    g->t = t;
    g->send = send;
    g->send_arg = send_arg;
    g->c_cpu = -1;
    g->actions = xcalloc(t->vcpus, sizeof(*g->actions));
    g->xml = gdb_regs_xml(&g->xml_len);
    snprintf(g->stop, sizeof(g->stop), "T%02xthread:1;", GDB_SIGTRAP);
    return g;
}

void gdb_stub_free(struct gdb_stub *g) {
    if (!g)
        return;
    free(g->actions);
    free(g->xml);
    free(g);
}
