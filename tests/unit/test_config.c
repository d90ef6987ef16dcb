/* SPDX-License-Identifier: Apache-2.0 */
/* Domain configurations: xl.cfg syntax, what each key accepts, and the messages for what it does
 * not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/err.h"
#include "base/log.h"
#include "domain/config.h"
#include "domain/xlcfg.h"

static int parse(struct config *c, const char *text, struct err *e) {
    config_init(c);
    return config_parse(c, text, strlen(text), "t.cfg", e);
}

static void a_whole_file(void **state) {
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    assert_int_equal(parse(&c,
                           "# a comment\n"
                           "name = \"web\" # behind\r\n"
                           "memory=1024;vcpus = 0x2\n"
                           "kernel = '/boot/vm \"x\"'\n"
                           "ramdisk=\"i\\x41\\101\\\"\"\n"
                           "extra = 'console=ttyS0'\n"
                           "extra += ' quiet'\n"
                           "root = '/dev/vda1'\n"
                           "disk = [\n\n]\nvif=[ ]\n"
                           "on_reboot='destroy'\n"
                           "debug_exit=1\n"
                           "timeout = '2.5'",
                           &e),
                     0);
    assert_string_equal(c.name, "web");
    assert_int_equal(c.memory, 1ull << 30);
    assert_int_equal(c.vcpus, 2);
    assert_string_equal(c.kernel, "/boot/vm \"x\"");
    assert_string_equal(c.ramdisk, "iAA\"");
    assert_int_equal(c.on_reboot, ACTION_DESTROY);
    assert_int_equal(c.on_poweroff, ACTION_DESTROY);
    assert_true(c.debug_exit);
    assert_int_equal(c.timeout_ms, 2500);
    assert_int_equal(config_check(&c, &e), 0);
    assert_string_equal(c.cmdline, "root=/dev/vda1 console=ttyS0 quiet");
}

static void cmdline_wins_over_extra(void **state) {
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    assert_int_equal(parse(&c, "kernel='k'; cmdline='a'; extra='b'", &e), 0);
    assert_int_equal(config_check(&c, &e), 0);
    assert_string_equal(c.cmdline, "a");
}

static void syntax_errors_name_the_line(void **state) {
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"\n\nname", "t.cfg: line 3: expected '=' before the end"},
        {"name =\n", "t.cfg: line 1: expected a string in quotes, a number or a list before the "
                     "end of the line"},
        {"name = web\n", "t.cfg: line 1: 'web' is not a number (strings need quotes)"},
        {"name = 'a\nb'", "t.cfg: line 1: a string that starts with ' does not end"},
        {"name = 'a' vcpus=1", "t.cfg: line 1: expected the end of the line or ';', found 'v'"},
        {"1 = 2", "t.cfg: line 1: expected a name, found '1'"},
        {"x = ['a' 'b']", "t.cfg: line 1: expected ',' or ']', found '''"},
        {"x = ['a',\n", "t.cfg: line 2: expected a string in quotes, a number or a list before "
                        "the end"},
        {"x = '\\q'", "t.cfg: line 1: invalid escape after '\\' in a string"},
        {"x = '\\x00'", "t.cfg: line 1: invalid escape after '\\' in a string"},
        {"\x01", "t.cfg: line 1: expected a name, found byte 0x01"},
        {"x = [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", "t.cfg: line 1: lists nest too deeply"},
        {"name = ['a']", "t.cfg: line 1: name: a list is not accepted here"},
        {"vcpus += 1", "t.cfg: line 1: vcpus: += is only for text"},
        {"type = 'pv'", "t.cfg: line 1: type: 'pv' is none of hvm|pvh"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cleanup_config struct config c;
        cleanup_err struct err e = ERR_INIT;

        assert_true(parse(&c, cases[i].text, &e) < 0);
        assert_string_equal(err_msg(&e), cases[i].message);
    }
}

static void a_nul_byte_is_no_text(void **state) {
    static const char in_string[] = "name = 'a\0b'", outside[] = "name\0= 'a'";
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    config_init(&c);
    assert_true(config_parse(&c, in_string, sizeof(in_string) - 1, "t", &e) < 0);
    err_clear(&e);
    assert_true(config_parse(&c, outside, sizeof(outside) - 1, "t", &e) < 0);
}

static void sizes(void **state) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"512M", 512ull << 20}, {"1G", 1ull << 30},      {"64", 64ull << 20},
                {"1.5G", 3ull << 29},   {"2048K", 2ull << 20},   {"3GiB", 3ull << 30},
                {"4gb", 4ull << 30},    {"8388608T", UINT64_MAX}};
    static const char *const bad[] = {"",    "M",    "-1",  "12X", "1GG",
                                      "1G ", "0x10", "1e3", ".",   "nan"};
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        uint64_t bytes = 1;

        assert_int_equal(config_parse_size(good[i].text, &bytes, &e), 0);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint64_t bytes;

        assert_true(config_parse_size(bad[i], &bytes, &e) < 0);
        err_clear(&e);
    }
}

static void pairs(void **state) {
    static const struct {
        const char *pair, *message; /* NULL: accepted */
    } cases[] = {
        {"name=web", NULL},
        {"name='web one'", NULL},
        {"memory=1", "memory: '1' is too small: a PC has at least 2M"},
        {"memory=2T", "memory: '2T' is too large: at most 1T can be addressed"},
        {"memory=lots", "memory: 'lots' is not a size such as 512M or 2G"},
        {"vcpus=0", "vcpus: 0 is out of range: 1 to 254"},
        {"vcpus=255", "vcpus: 255 is out of range: 1 to 254"},
        {"vcpus=99999999999999999999", "vcpus: '99999999999999999999' is not a number"},
        {"vcpus=2x", "vcpus: '2x' is not a number"},
        {"engine=qemu", "engine: 'qemu' is none of auto|interp|bt|kvm"},
        {"serial=stido", "serial: 'stido' is none of stdio, pty, file:FILE, unix:SOCKET, none"},
        {"serial=file:", "serial: 'file:' needs the name of a file behind it"},
        {"serial=file:/x", NULL},
        {"debug-exit=yes", NULL},
        {"debug_exit=2", "debug-exit: '2' is neither 0 nor 1"},
        {"timeout=0", "timeout: '0' is out of range: more than 0, at most 1000000000 seconds"},
        {"timeout=x", "timeout: 'x' is not a number of seconds"},
        {"display=vnc", "display: 'vnc' is none of none"},
        {"memroy=1", "unknown key 'memroy'; did you mean 'memory'?"},
        {"nothing", "'nothing' is not KEY=VALUE"},
        {"vif=none", NULL},
        {"vif=user", NULL},
        {"vif=['user', 'mac=00:16:3e:00:00:01,rate=1MB/s@20ms', '']", NULL},
        {"vif=usr", "vif: unknown key 'usr'; did you mean 'user'?"},
        {"name='web", "name: line 1: a string that starts with ' does not end"},
        {"name='web' x", "name: line 1: expected the end of the value, found 'x'"},
        {"initrd=/i", NULL},
        {"append=quiet", NULL},
    };
    cleanup_config struct config c;

    (void)state;
    config_init(&c);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cleanup_err struct err e = ERR_INIT;
        int r = config_set_pair(&c, cases[i].pair, &e);

        if (cases[i].message) {
            assert_true(r < 0);
            assert_string_equal(err_msg(&e), cases[i].message);
        } else {
            assert_int_equal(r, 0);
        }
    }
    assert_string_equal(c.name, "web one");
    assert_string_equal(c.ramdisk, "/i");
    assert_string_equal(c.cmdline, "quiet");
    assert_true(c.debug_exit);
}

static void unknown_keys_are_no_error(void **state) {
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    log_set_level(LOG_ERROR);
    assert_int_equal(parse(&c, "vncpasswd='x'\nusb=['a', ['b', 1]]\nvcpus=3", &e), 0);
    log_set_level(LOG_WARN);
    assert_int_equal(c.vcpus, 3);
}

static void contradictions(void **state) {
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"kernel='k'; bios='b'", "kernel and bios exclude each other: give one of them"},
        {"ramdisk='r'", "ramdisk: there is no kernel to load it; add --kernel FILE"},
        {"gdb_wait=1", "gdb-wait: nobody could continue the guest; add --gdb [HOST]:PORT"},
        {"gdb='1234'", "gdb: '1234' is not [HOST]:PORT with a port up to 65535"},
        {"gdb=':65536'", "gdb: ':65536' is not [HOST]:PORT with a port up to 65535"},
        {"gdb=':'", "gdb: ':' is not [HOST]:PORT with a port up to 65535"},
        {"memory='1T'", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cleanup_config struct config c;
        cleanup_err struct err e = ERR_INIT;

        assert_int_equal(parse(&c, cases[i].text, &e), 0);
        assert_true(config_check(&c, &e) < 0);
        if (cases[i].message)
            assert_string_equal(err_msg(&e), cases[i].message);
        else
            assert_non_null(strstr(err_msg(&e), "is more than this host has"));
    }
}

static void as_json(void **state) {
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;
    json_t *o;

    (void)state;
    assert_int_equal(parse(&c, "kernel='k'; memory=64; timeout=3; on_crash='restart'", &e), 0);
    o = config_to_json(&c);
    assert_string_equal(json_string_value(json_object_get(o, "kernel")), "k");
    assert_int_equal(json_integer_value(json_object_get(o, "memory")), 64);
    assert_true(json_real_value(json_object_get(o, "timeout")) == 3.0);
    assert_true(json_is_null(json_object_get(o, "ramdisk")));
    assert_string_equal(json_string_value(json_object_get(o, "on_crash")), "restart");
    assert_true(json_is_false(json_object_get(o, "debug_exit")));
    json_decref(o);
}

static void files(void **state) {
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;

    (void)state;
    config_init(&c);
    assert_true(config_load(&c, "/nonexistent/x.cfg", &e) < 0);
    assert_string_equal(err_msg(&e), "/nonexistent/x.cfg: open: No such file or directory");
    err_clear(&e);
    assert_true(config_load(&c, "/dev/zero", &e) < 0);
    assert_string_equal(err_msg(&e), "/dev/zero: File too large");
    assert_int_equal(config_load(&c, "/dev/null", &e), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file),
        cmocka_unit_test(cmdline_wins_over_extra),
        cmocka_unit_test(syntax_errors_name_the_line),
        cmocka_unit_test(a_nul_byte_is_no_text),
        cmocka_unit_test(sizes),
        cmocka_unit_test(pairs),
        cmocka_unit_test(unknown_keys_are_no_error),
        cmocka_unit_test(contradictions),
        cmocka_unit_test(as_json),
        cmocka_unit_test(files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
