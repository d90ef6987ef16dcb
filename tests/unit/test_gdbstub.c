/* SPDX-License-Identifier: Apache-2.0 */
/* The remote protocol, packet by packet, against a target of two vCPUs with a page of memory each
 * may see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "cpu/x86/state.h"
#include "machine/gdb_regs.h"
#include "machine/gdb_stub.h"

struct target {
    struct gdb_target ops;
    struct gdb_stub *stub;
    struct x86_state cpu[2];
    uint8_t page[256]; /* at 0x1000 */
    enum gdb_action actions[2];
    const struct engine_debug *points;
    unsigned resumed, interrupts, detached, killed;
    struct vcpu_exit stop[2];
    bool stop_news[2];
    char sent[40000];
    size_t sent_len;
};

static void get_state(void *arg, unsigned cpu, struct x86_state *s) {
    *s = ((struct target *)arg)->cpu[cpu];
}

static void set_state(void *arg, unsigned cpu, const struct x86_state *s) {
    ((struct target *)arg)->cpu[cpu] = *s;
}

static size_t clip(uint64_t va, size_t len) {
    if (va < 0x1000 || va >= 0x1100)
        return 0;
    return MIN(len, 0x1100 - va);
}

static size_t read_mem(void *arg, unsigned cpu, uint64_t va, void *buf, size_t len) {
    len = clip(va, len);
    (void)cpu;
    if (len)
        memcpy(buf, ((struct target *)arg)->page + (va - 0x1000), len);
    return len;
}

static size_t write_mem(void *arg, unsigned cpu, uint64_t va, const void *buf, size_t len) {
    len = clip(va, len);
    (void)cpu;
    if (len)
        memcpy(((struct target *)arg)->page + (va - 0x1000), buf, len);
    return len;
}

static void resume(void *arg, const enum gdb_action *actions, const struct engine_debug *points) {
    struct target *t = arg;

    memcpy(t->actions, actions, sizeof(t->actions));
    t->points = points;
    t->resumed++;
}

static bool take_stop(void *arg, unsigned cpu, struct vcpu_exit *x) {
    struct target *t = arg;
    bool news = t->stop_news[cpu];

    *x = t->stop[cpu];
    t->stop_news[cpu] = false;
    return news;
}

static void interrupt(void *arg) {
    ((struct target *)arg)->interrupts++;
}

static void detach(void *arg) {
    ((struct target *)arg)->detached++;
}

static void kill_domain(void *arg) {
    ((struct target *)arg)->killed++;
}

static char *monitor(void *arg, unsigned cpu, const char *command) {
    (void)arg;
    return xasprintf("%u:%s", cpu, command);
}

static void sent(void *arg, const void *data, size_t len) {
    struct target *t = arg;

    assert_true(t->sent_len + len < sizeof(t->sent));
    memcpy(t->sent + t->sent_len, data, len);
    t->sent_len += len;
    t->sent[t->sent_len] = 0;
}

static void feed(struct target *t, const char *bytes, size_t len) {
    t->sent_len = 0;
    t->sent[0] = 0;
    gdb_stub_feed(t->stub, (const uint8_t *)bytes, len);
}

static void send_packet(struct target *t, const char *payload, size_t len) {
    char frame[1024];
    uint8_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += (uint8_t)payload[i];
    frame[0] = '$';
    memcpy(frame + 1, payload, len);
    snprintf(frame + 1 + len, 4, "#%02x", sum);
    feed(t, frame, len + 4);
}

/* The payload of the one packet that answers `payload`, its frame checked. */
static const char *ask(struct target *t, const char *payload) {
    static char answer[40000];
    uint8_t sum = 0;
    char trailer[4];
    const char *hash;

    send_packet(t, payload, strlen(payload));
    assert_int_equal(t->sent[0], '+');
    assert_int_equal(t->sent[1], '$');
    hash = strchr(t->sent, '#');
    assert_non_null(hash);
    assert_int_equal(strlen(hash), 3);
    for (const char *p = t->sent + 2; p < hash; p++)
        sum += (uint8_t)*p;
    snprintf(trailer, sizeof(trailer), "#%02x", sum);
    assert_string_equal(hash, trailer);
    snprintf(answer, sizeof(answer), "%.*s", (int)(hash - t->sent - 2), t->sent + 2);
    return answer;
}

static int setup(void **state) {
    /* The states in it are aligned for vectors; calloc's memory need not be. */
    struct target *t = aligned_alloc(_Alignof(struct target), sizeof(*t));

    assert_non_null(t);
    memset(t, 0, sizeof(*t));
    t->ops = (struct gdb_target){t,      2,         get_state, set_state, read_mem,    write_mem,
                                 resume, take_stop, interrupt, detach,    kill_domain, monitor};
    t->stub = gdb_stub_new(&t->ops, sent, t);
    for (int i = 0; i < 256; i++)
        t->page[i] = (uint8_t)i;
    *state = t;
    return 0;
}

static int teardown(void **state) {
    struct target *t = *state;

    gdb_stub_free(t->stub);
    free(t);
    return 0;
}

static void frames(void **state) {
    struct target *t = *state;

    feed(t, "$?#00", 5);
    assert_string_equal(t->sent, "-");
    feed(t, "$?#zz", 5);
    assert_string_equal(t->sent, "-");
    feed(t, "+garbage$?#3f", 13);
    assert_string_equal(t->sent, "+$T05thread:1;#d7");
    feed(t, "-", 1);
    assert_string_equal(t->sent, "$T05thread:1;#d7");
    assert_string_equal(ask(t, "QStartNoAckMode"), "OK");
    feed(t, "$?#3f", 5);
    assert_string_equal(t->sent, "$T05thread:1;#d7");
    feed(t, "-", 1);
    assert_string_equal(t->sent, "");
}

static void packets_that_are_too_long_are_refused(void **state) {
    struct target *t = *state;
    cleanup_free char *big = xcalloc(3 * GDB_PACKET_MAX, 1);

    memset(big, 'm', 3 * GDB_PACKET_MAX);
    feed(t, "$", 1);
    feed(t, big, 3 * GDB_PACKET_MAX);
    feed(t, "#00", 3);
    assert_string_equal(t->sent, "-");
    assert_string_equal(ask(t, "?"), "T05thread:1;");
}

static void registers_by_number(void **state) {
    struct target *t = *state;

    t->cpu[0].gpr[RBX] = 0x1122334455667788;
    t->cpu[0].rip = 0xffffffff81000000;
    t->cpu[0].seg[SEG_GS].base = 0xabc;
    memset(t->cpu[0].fpu.zmm[15], 0x5a, 16);
    assert_string_equal(ask(t, "p1"), "8877665544332211");
    assert_string_equal(ask(t, "p10"), "00000081ffffffff");
    assert_string_equal(ask(t, "p37"), "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    assert_string_equal(ask(t, "P5=0102030405060708"), "OK");
    assert_true(t->cpu[0].gpr[RDI] == 0x0807060504030201);
    assert_string_equal(ask(t, "P5=01"), "E22");
    assert_string_equal(ask(t, "pfff"), "E22");
    assert_string_equal(ask(t, "p"), "E22");
    assert_string_equal(ask(t, "Pffffffffffffffffffff=0"), "E22");
}

static void all_registers(void **state) {
    struct target *t = *state;
    cleanup_free char *again = NULL;
    const char *all;
    size_t bytes = 0;

    for (unsigned n = 0; n < gdb_reg_count(); n++)
        bytes += gdb_reg_size(n);
    for (int i = 0; i < 16; i++)
        t->cpu[0].gpr[i] = (uint64_t)i * 0x0101010101010101;
    t->cpu[0].rflags = FLAG_FIXED | FLAG_ZF;
    all = ask(t, "g");
    assert_int_equal(strlen(all), 2 * bytes);
    assert_memory_equal(all, "00000000000000000303030303030303", 32);
    again = xasprintf("G%.*s", 2 * 4 * 8, all);
    memset(t->cpu[0].gpr, 0xee, sizeof(t->cpu[0].gpr));
    assert_string_equal(ask(t, again), "OK");
    assert_true(t->cpu[0].gpr[RDX] == 0x0202020202020202);
    assert_true(t->cpu[0].gpr[RSI] == 0xeeeeeeeeeeeeeeee);
    assert_string_equal(ask(t, "Gxx"), "E22");
}

/* The tag word has two bits a register, by physical number; TOP is 6 here. */
static void the_tag_word_is_whole(void **state) {
    struct target *t = *state;
    struct x86_fpu *f = &t->cpu[0].fpu;
    static const uint8_t one[10] = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f};
    static const uint8_t nan[10] = {1, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0x7f};

    f->fsw = 6 << 11;
    f->ftw = 1 << 6 | 1 << 7 | 1 << 0;
    memcpy(f->st[0], one, 10); /* physical 6 */
    memcpy(f->st[1], nan, 10); /* physical 7; physical 0 is zero */
    assert_string_equal(ask(t, "p22"), "fd8f0000");
    assert_string_equal(ask(t, "P22=ffff0000"), "OK");
    assert_int_equal(f->ftw, 0);
}

static void selectors_change_only_in_real_mode(void **state) {
    struct target *t = *state;

    assert_string_equal(ask(t, "P12=00100000"), "OK");
    assert_int_equal(t->cpu[0].seg[SEG_CS].base, 0x10000);
    t->cpu[0].cr0 = CR0_PE;
    assert_string_equal(ask(t, "P12=08000000"), "E22");
    assert_string_equal(ask(t, "P12=00100000"), "OK");
}

static void memory(void **state) {
    struct target *t = *state;

    assert_string_equal(ask(t, "m1010,4"), "10111213");
    assert_string_equal(ask(t, "m10fe,10"), "feff");
    assert_string_equal(ask(t, "m2000,4"), "E14");
    assert_string_equal(ask(t, "m1000,0"), "");
    assert_string_equal(ask(t, "m1000"), "E22");
    assert_string_equal(ask(t, "m1000,ffffffffffffffff") + 508, "feff");
    assert_string_equal(ask(t, "M1000,2:cafe"), "OK");
    assert_int_equal(t->page[0], 0xca);
    assert_string_equal(ask(t, "M1000,3:cafe"), "E22");
    assert_string_equal(ask(t, "M1000,ffffffff:cafe"), "E22");
    assert_string_equal(ask(t, "M2000,2:cafe"), "E14");
}

static void binary_writes(void **state) {
    struct target *t = *state;
    static const char packet[] = "X1000,4:}\x03\0}]}\x04";

    send_packet(t, packet, sizeof(packet) - 1);
    assert_string_equal(t->sent, "+$OK#9a");
    assert_memory_equal(t->page, "#\0}$", 4);
    assert_string_equal(ask(t, "X1000,2:a"), "E22");
    assert_string_equal(ask(t, "X1000,0:"), "OK");
}

static void points(void **state) {
    struct target *t = *state;

    assert_string_equal(ask(t, "Z0,1000,1"), "OK");
    assert_string_equal(ask(t, "Z0,1000,1"), "OK");
    assert_string_equal(ask(t, "Z1,2000,1"), "OK");
    assert_string_equal(ask(t, "Z2,3000,8"), "OK");
    assert_string_equal(ask(t, "Z5,3000,8"), "");
    assert_string_equal(ask(t, "Z2,3000,0"), "E22");
    assert_string_equal(ask(t, "Z2,3000,ffffffff"), "E22");
    assert_string_equal(ask(t, "z1,2000,1"), "OK");
    assert_string_equal(ask(t, "z1,9999,1"), "OK");
    send_packet(t, "c", 1);
    assert_int_equal(t->resumed, 1);
    assert_true(t->points->active);
    assert_int_equal(t->points->count, 2);
    assert_int_equal(t->points->points[0].type, POINT_EXEC);
    assert_int_equal(t->points->points[1].addr, 0x3000);
    assert_int_equal(t->points->points[1].len, 8);
    assert_int_equal(t->points->points[1].type, POINT_WRITE);
}

static void points_are_bounded(void **state) {
    struct target *t = *state;
    char packet[32];

    for (int i = 0; i < DEBUG_POINTS_MAX; i++) {
        snprintf(packet, sizeof(packet), "Z0,%x,1", 0x1000 + i);
        assert_string_equal(ask(t, packet), "OK");
    }
    assert_string_equal(ask(t, "Z0,9000,1"), "E22");
    assert_string_equal(ask(t, "z0,1000,1"), "OK");
    assert_string_equal(ask(t, "Z0,9000,1"), "OK");
}

static void stops_say_why(void **state) {
    struct target *t = *state;
    struct vcpu_exit x = {.reason = VCPU_DEBUG, .debug = {.cause = DEBUG_BREAK}};

    ask(t, "Z0,1000,1");
    ask(t, "Z3,3000,8");
    send_packet(t, "c", 1);
    t->cpu[1].rip = 0x1000;
    t->sent_len = 0;
    gdb_stub_stopped(t->stub, 1, &x);
    assert_string_equal(t->sent, "$T05swbreak:;thread:2;#3c");
    assert_string_equal(ask(t, "qC"), "QC2");
    send_packet(t, "c", 1);
    x.debug.cause = DEBUG_WATCH;
    x.debug.addr = 0x3004;
    gdb_stub_stopped(t->stub, 0, &x);
    assert_string_equal(ask(t, "?"), "T05rwatch:3004;thread:1;");
    send_packet(t, "c", 1);
    x.reason = VCPU_SHUTDOWN;
    gdb_stub_stopped(t->stub, 1, &x);
    assert_string_equal(ask(t, "?"), "T0bthread:2;");
    send_packet(t, "c", 1);
    feed(t, "\x03", 1);
    assert_int_equal(t->interrupts, 1);
    gdb_stub_stopped(t->stub, 0, NULL);
    assert_string_equal(ask(t, "?"), "T02thread:1;");
    feed(t, "\x03", 1);
    assert_int_equal(t->interrupts, 1);
}

/* The second of two vCPUs that hit a breakpoint at once. */
static void stop_both(struct target *t) {
    struct vcpu_exit x = {.reason = VCPU_DEBUG, .debug = {DEBUG_BREAK, 0x1000}};

    send_packet(t, "c", 1);
    t->cpu[0].rip = t->cpu[1].rip = 0x1000;
    t->stop[1] = x;
    t->stop_news[1] = true;
    gdb_stub_stopped(t->stub, 0, &x);
    assert_string_equal(ask(t, "?"), "T05swbreak:;thread:1;");
}

static void two_stop_at_once(void **state) {
    struct target *t = *state;

    ask(t, "Z0,1000,1");
    stop_both(t);
    /* gdb steps the first over its breakpoint, alone. */
    send_packet(t, "vCont;s:1", 9);
    assert_int_equal(t->resumed, 2);
    gdb_stub_stopped(t->stub, 0, &(struct vcpu_exit){.reason = VCPU_DEBUG});
    assert_string_equal(ask(t, "vCont;c"), "T05swbreak:;thread:2;");
    assert_int_equal(t->resumed, 2);
    assert_string_equal(ask(t, "qC"), "QC2");
    send_packet(t, "c", 1);
    assert_int_equal(t->resumed, 3);
}

static void a_second_stop_may_be_stale(void **state) {
    struct target *t = *state;

    ask(t, "Z0,1000,1");
    stop_both(t);
    ask(t, "z0,1000,1");
    send_packet(t, "c", 1); /* the breakpoint is gone */
    assert_int_equal(t->resumed, 2);
    gdb_stub_stopped(t->stub, 0, NULL);
    ask(t, "Z0,1000,1");
    stop_both(t);
    ask(t, "Hg2");
    ask(t, "P10=0020000000000000"); /* RIP was moved */
    send_packet(t, "c", 1);
    assert_int_equal(t->resumed, 4);
    gdb_stub_stopped(t->stub, 0, NULL);
    t->stop[1] = (struct vcpu_exit){.reason = VCPU_DEBUG, .debug = {DEBUG_STEP, 0}};
    t->stop_news[1] = true;
    send_packet(t, "c", 1); /* a step that nobody waits for any more */
    assert_int_equal(t->resumed, 5);
    gdb_stub_stopped(t->stub, 0, NULL);
    ask(t, "Z2,3000,8");
    t->stop[1].debug.cause = DEBUG_WATCH;
    t->stop[1].debug.addr = 0x3000;
    t->stop_news[1] = true;
    assert_string_equal(ask(t, "c"), "T05watch:3000;thread:2;");
    t->stop_news[1] = true;
    ask(t, "z2,3000,8");
    send_packet(t, "c", 1);
    assert_int_equal(t->resumed, 6);
}

static void who_goes_on(void **state) {
    struct target *t = *state;
    struct vcpu_exit x = {.reason = VCPU_DEBUG, .debug = {.cause = DEBUG_STEP}};
    static const struct {
        const char *packet;
        enum gdb_action first, second;
    } cases[] = {
        {"vCont;c", GDB_CONTINUE, GDB_CONTINUE}, {"vCont;s:2", GDB_STAY, GDB_STEP},
        {"vCont;s:1;c", GDB_STEP, GDB_CONTINUE}, {"vCont;S05:2;C05:-1", GDB_CONTINUE, GDB_STEP},
        {"vCont;s:0;c:1", GDB_STEP, GDB_STAY},   {"s", GDB_STEP, GDB_CONTINUE},
        {"C05", GDB_CONTINUE, GDB_CONTINUE},     {"S05;1234", GDB_STEP, GDB_CONTINUE},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        send_packet(t, cases[i].packet, strlen(cases[i].packet));
        assert_string_equal(t->sent, "+");
        assert_int_equal(t->resumed, i + 1);
        assert_int_equal(t->actions[0], cases[i].first);
        assert_int_equal(t->actions[1], cases[i].second);
        gdb_stub_stopped(t->stub, 0, &x);
    }
    assert_int_equal(t->cpu[0].rip, 0x1234);
    assert_string_equal(ask(t, "Hc2"), "OK");
    send_packet(t, "s", 1);
    assert_int_equal(t->actions[0], GDB_STAY);
    assert_int_equal(t->actions[1], GDB_STEP);
}

static void bad_continuations_do_not_run(void **state) {
    static const char *const bad[] = {"vCont;",    "vCont;x",     "vCont;s:3", "vCont;s:zz",
                                      "vCont;C:1", "vCont;s:1;;", "vCont;cc"};
    struct target *t = *state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_string_equal(ask(t, bad[i]), "E22");
    assert_int_equal(t->resumed, 0);
}

static void threads(void **state) {
    struct target *t = *state;

    t->cpu[1].activity = X86_HALTED;
    assert_string_equal(ask(t, "qfThreadInfo"), "m1,2");
    assert_string_equal(ask(t, "qsThreadInfo"), "l");
    assert_string_equal(ask(t, "T2"), "OK");
    assert_string_equal(ask(t, "T3"), "E22");
    assert_string_equal(ask(t, "Hg2"), "OK");
    assert_string_equal(ask(t, "Hg3"), "E22");
    assert_string_equal(ask(t, "Hx1"), "E22");
    t->cpu[1].gpr[RAX] = 7;
    assert_string_equal(ask(t, "p0"), "0700000000000000");
    assert_string_equal(ask(t, "qThreadExtraInfo,2"), "4350552031205b68616c7465645d");
    assert_string_equal(ask(t, "qThreadExtraInfo,9"), "E22");
    assert_string_equal(ask(t, "qRcmd,6869"), "313a6869");
}

static void the_description_comes_in_parts(void **state) {
    struct target *t = *state;
    cleanup_free char *xml = NULL, *whole = NULL;
    size_t len, at = 0;

    xml = gdb_regs_xml(&len);
    whole = xcalloc(len + 64, 1);
    for (const char *part = "m"; *part == 'm' && at < len;) {
        char packet[64];

        snprintf(packet, sizeof(packet), "qXfer:features:read:target.xml:%zx,3e8", at);
        part = ask(t, packet);
        for (const char *p = part + 1; *p; p++) {
            bool escaped = *p == '}';

            p += escaped;
            whole[at++] = (char)(*p ^ (escaped ? 0x20 : 0));
        }
    }
    assert_string_equal(whole, xml);
    assert_string_equal(ask(t, "qXfer:features:read:target.xml:fffffff,10"), "l");
    assert_string_equal(ask(t, "qXfer:features:read:target.xml:"), "E22");
    assert_string_equal(ask(t, "qXfer:features:read:other.xml:0,10"), "");
}

static void ends(void **state) {
    struct target *t = *state;

    send_packet(t, "c", 1);
    t->sent_len = 0;
    gdb_stub_exited(t->stub, 3);
    assert_string_equal(t->sent, "$W03#ba");
    assert_string_equal(ask(t, "vKill;1"), "OK");
    send_packet(t, "k", 1);
    assert_int_equal(t->killed, 2);
    ask(t, "Z0,1000,1");
    assert_string_equal(ask(t, "D"), "OK");
    assert_int_equal(t->detached, 1);
}

static void what_is_not_known_is_empty(void **state) {
    static const char *const packets[] = {"", "vMustReplyEmpty", "qTStatus", "QPassSignals:e", "j"};
    struct target *t = *state;

    for (size_t i = 0; i < ARRAY_LEN(packets); i++)
        assert_string_equal(ask(t, packets[i]), "");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(frames),
        TEST(packets_that_are_too_long_are_refused),
        TEST(registers_by_number),
        TEST(all_registers),
        TEST(the_tag_word_is_whole),
        TEST(selectors_change_only_in_real_mode),
        TEST(memory),
        TEST(binary_writes),
        TEST(points),
        TEST(points_are_bounded),
        TEST(stops_say_why),
        TEST(two_stop_at_once),
        TEST(a_second_stop_may_be_stale),
        TEST(who_goes_on),
        TEST(bad_continuations_do_not_run),
        TEST(threads),
        TEST(the_description_comes_in_parts),
        TEST(ends),
        TEST(what_is_not_known_is_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
