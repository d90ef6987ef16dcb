/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table says for every key its name, its option, its type and its field; everything else here
 * walks that table. Key names and units are xl.cfg(5)'s where it has them.
 */
#include "domain/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/trace.h"
#include "base/util.h"
#include "cpu/x86/cpuid.h"
#include "domain/channels.h"
#include "domain/disks.h"
#include "domain/shares.h"
#include "domain/suggest.h"
#include "domain/vif.h"
#include "domain/xlcfg.h"

enum {
    T_STRING,
    T_SIZE,
    T_CACHE,
    T_COUNT,
    T_BOOL,
    T_SECONDS,
    T_ACTION,
    T_CHARDEV,
    T_LIST,
    T_ABSENT
};

#define AT(field) offsetof(struct config, field)

const struct config_key config_keys[] = {
    {"name", NULL, "NAME", "the domain's name", true, T_STRING, AT(name), NULL},
    {"type", NULL, NULL, NULL, false, T_STRING, AT(type), "hvm|pvh"},
    {"builder", NULL, NULL, NULL, false, T_STRING, AT(type), "hvm|pvh"},
    {"engine", NULL, "auto|interp|bt|kvm", "what executes the guest (auto)", true, T_STRING,
     AT(engine), "auto|interp|bt|kvm"},
    {"code-cache", NULL, "SIZE", "memory for translated code, 1M to 1G (128M)", true, T_CACHE,
     AT(code_cache), NULL},
    {"perf-map", NULL, NULL, "name translated code for perf(1), in /tmp/perf-PID.map", true, T_BOOL,
     AT(perf_map), NULL},
    {"trace", NULL, "WHAT[,WHAT...]", "record int, mode, block, exec, io (as QEMU's -d)", true,
     T_STRING, AT(trace), NULL},
    {"trace-file", NULL, "FILE", "where to (standard error)", true, T_STRING, AT(trace_file), NULL},
    {"memory", NULL, "SIZE", "RAM: 512M, 1G, or a bare number of MiB (512M)", true, T_SIZE,
     AT(memory), NULL},
    {"maxmem", NULL, "SIZE", "RAM of which the guest gives back what is beyond memory (memory)",
     true, T_SIZE, AT(maxmem), NULL},
    {"vcpus", NULL, "N", "virtual CPUs, 1 to 254 (1)", true, T_COUNT, AT(vcpus), NULL},
    {"cpu", NULL, "MODEL[,+f,-f]", "host, x86-64-v2, x86-64-v3 and features to add or drop (host)",
     true, T_STRING, AT(cpu), NULL},
    {"kernel", NULL, "FILE", "boot this kernel: bzImage, PVH ELF or multiboot", true, T_STRING,
     AT(kernel), NULL},
    {"ramdisk", "initrd", "FILE", "its initramfs (also --initrd)", true, T_STRING, AT(ramdisk),
     NULL},
    {"cmdline", "append", "TEXT", "its command line (also --append)", true, T_STRING, AT(cmdline),
     NULL},
    {"root", NULL, NULL, NULL, false, T_STRING, AT(root), NULL},
    {"extra", NULL, NULL, NULL, false, T_STRING, AT(extra), NULL},
    {"bios", NULL, "FILE", "start at the reset vector of this raw ROM image", true, T_STRING,
     AT(bios), NULL},
    {"serial", NULL, "stdio|pty|file:F|none", "what COM1 is connected to (stdio)", true, T_CHARDEV,
     AT(serial), NULL},
    {"debugcon", NULL, "stdio|pty|file:F|none", "the debug console at port 0xe9 (none)", true,
     T_CHARDEV, AT(debugcon), NULL},
    {"display", NULL, "none", "screen; this version has none", true, T_STRING, AT(display), "none"},
    {"disk", NULL, "SPEC", "a disk: FILE, or key=value,...,target=FILE as xl has it", true, T_LIST,
     AT(disks), NULL},
    {"virtio", NULL, "pci|pci-modern|mmio", "how guests reach their virtio devices (pci)", true,
     T_STRING, AT(virtio), "pci|pci-modern|mmio"},
    {"watchdog", NULL, "none|reset|poweroff",
     "what follows when the guest's watchdog runs out (none)", true, T_STRING, AT(watchdog),
     "none|reset|poweroff"},
    {"vif", NULL, "SPEC", "a network interface: user, tap=, bridge=, switch=, socket, none (user)",
     true, T_LIST, AT(vifs), NULL},
    {"share", "p9", "SPEC",
     "a folder for guests to mount: DIR, or tag=T,path=DIR,access=ro,uid=G:H", true, T_LIST,
     AT(shares), NULL},
    {"console", NULL, "stdio|pty|file:F|unix:F|none", "what the virtio console hvc0 is (none)",
     true, T_CHARDEV, AT(console), NULL},
    {"channel", NULL, "SPEC",
     "a port for the guest's programs: name=N,connection=pty|socket,path=F", true, T_LIST,
     AT(channels), NULL},
    {"vsock", NULL, "[path=]F[,cid=N]", "sockets to the guest: F, and F_PORT for those it reaches",
     true, T_STRING, AT(vsock), NULL},
    {"debug-exit", NULL, NULL, "a write of V to port 0xf4 ends the run with status (V<<1)|1", true,
     T_BOOL, AT(debug_exit), NULL},
    {"testdev", NULL, NULL, "add the device that kvm-unit-tests need", true, T_BOOL, AT(testdev),
     NULL},
    {"timeout", NULL, "SECONDS", "end the run after that time, with status 124", true, T_SECONDS,
     AT(timeout_ms), NULL},
    {"gdb", NULL, "[HOST]:PORT", "listen there for gdb's \"target remote\"", true, T_STRING,
     AT(gdb), NULL},
    {"gdb-wait", NULL, NULL, "start stopped, until gdb continues", true, T_BOOL, AT(gdb_wait),
     NULL},
    {"on_poweroff", NULL, NULL, NULL, false, T_ACTION, AT(on_poweroff), "destroy|restart"},
    {"on_reboot", NULL, NULL, NULL, false, T_ACTION, AT(on_reboot), "destroy|restart"},
    {"on_crash", NULL, NULL, NULL, false, T_ACTION, AT(on_crash), "destroy|restart"},
};
const size_t config_key_count = ARRAY_LEN(config_keys);

static char **str_at(struct config *c, const struct config_key *k) {
    return (char **)(void *)((char *)c + k->at);
}

static struct config_list *list_at(struct config *c, const struct config_key *k) {
    return (struct config_list *)(void *)((char *)c + k->at);
}

static void list_clear(struct config_list *l) {
    for (size_t i = 0; i < l->count; i++)
        free(l->items[i]);
    free(l->items);
    *l = (struct config_list){0};
}

static uint64_t *u64_at(struct config *c, const struct config_key *k) {
    return (uint64_t *)(void *)((char *)c + k->at);
}

static void set_str(char **field, const char *s) {
    char *copy = xstrdup(s);

    free(*field);
    *field = copy;
}

void config_init(struct config *c) {
    *c = (struct config){
        .name = xstrdup(""),
        .type = xstrdup("hvm"),
        .engine = xstrdup("auto"),
        .cpu = xstrdup("host"),
        .serial = xstrdup("stdio"),
        .debugcon = xstrdup("none"),
        .console = xstrdup("none"),
        .display = xstrdup("none"),
        .virtio = xstrdup("pci"),
        .watchdog = xstrdup("none"),
        .memory = 512ull << 20,
        .code_cache = 128ull << 20,
        .vcpus = 1,
        .on_poweroff = ACTION_DESTROY,
        .on_reboot = ACTION_RESTART,
        .on_crash = ACTION_DESTROY,
    };
}

void config_free(struct config *c) {
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];

        if (k->type == T_STRING || k->type == T_CHARDEV) {
            free(*str_at(c, k));
            *str_at(c, k) = NULL;
        } else if (k->type == T_LIST) {
            list_clear(list_at(c, k));
        }
    }
}

static bool same_name(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (*a != *b && !(strchr("-_", *a) && strchr("-_", *b)))
            return false;
    return *a == *b;
}

const struct config_key *config_key_find(const char *name) {
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];

        if (same_name(k->name, name) || (k->alias && same_name(k->alias, name)))
            return k;
    }
    return NULL;
}

const char *config_key_suggest(const char *name) {
    struct suggest s;

    suggest_init(&s, name);
    for (size_t i = 0; i < config_key_count; i++) {
        suggest_try(&s, config_keys[i].name);
        if (config_keys[i].alias)
            suggest_try(&s, config_keys[i].alias);
    }
    return suggest_best(&s);
}

/* A non-negative decimal number and where it ends; NaN when there is none. No exponent, no hex. */
static double parse_decimal(const char *text, const char **end) {
    size_t len = strspn(text, "0123456789.");
    cleanup_free char *digits = xasprintf("%.*s", (int)MIN(len, (size_t)64), text);
    char *stop;
    double n = strtod(digits, &stop);

    *end = text + (stop - digits);
    return stop == digits ? NAN : n;
}

int config_parse_size(const char *text, uint64_t *bytes, struct err *e) {
    static const char units[] = "KMGT";
    const char *end;
    double n = parse_decimal(text, &end);
    unsigned shift = 20;

    if (isnan(n))
        return err_set(e, 0, "'%s' is not a size such as 512M or 2G", text);
    if (*end) {
        const char *u = strchr(units, toupper((unsigned char)*end));

        if (!u)
            return err_set(e, 0, "'%s' is not a size such as 512M or 2G", text);
        shift = 10 * (unsigned)(u - units + 1);
        end++;
        if (strcmp(end, "") != 0 && strcasecmp(end, "B") != 0 && strcasecmp(end, "iB") != 0)
            return err_set(e, 0, "'%s' is not a size such as 512M or 2G", text);
    }
    n *= (double)(1ull << shift);
    *bytes = n < 0x1p63 ? (uint64_t)n : UINT64_MAX;
    return 0;
}

static int set_memory(struct config *c, const struct config_key *k, const char *text,
                      struct err *e) {
    uint64_t bytes;
    int r = config_parse_size(text, &bytes, e);

    if (r < 0)
        return r;
    if (bytes < CONFIG_MEMORY_MIN)
        return err_set(e, 0, "'%s' is too small: a PC has at least 2M", text);
    if (bytes > CONFIG_MEMORY_MAX)
        return err_set(e, 0, "'%s' is too large: at most 1T can be addressed", text);
    *u64_at(c, k) = align_down(bytes, 4096);
    return 0;
}

static int set_cache(struct config *c, const struct config_key *k, const char *text,
                     struct err *e) {
    uint64_t bytes;
    int r = config_parse_size(text, &bytes, e);

    if (r < 0)
        return r;
    if (bytes < CONFIG_CODE_CACHE_MIN || bytes > CONFIG_CODE_CACHE_MAX)
        return err_set(e, 0, "'%s' is out of range: 1M to 1G", text);
    *u64_at(c, k) = align_down(bytes, 4096);
    return 0;
}

static int set_vcpus(struct config *c, const struct config_key *k, const char *text,
                     struct err *e) {
    char *end;
    long long n;

    errno = 0;
    n = strtoll(text, &end, 0);
    if (end == text || *end || errno)
        return err_set(e, 0, "'%s' is not a number", text);
    if (n < 1 || n > CONFIG_VCPUS_MAX)
        return err_set(e, 0, "%s is out of range: 1 to %d", text, CONFIG_VCPUS_MAX);
    *u64_at(c, k) = (uint64_t)n;
    return 0;
}

static int set_bool(struct config *c, const struct config_key *k, const char *text, struct err *e) {
    static const char *const words[][2] = {
        {"0", "1"}, {"no", "yes"}, {"off", "on"}, {"false", "true"}};

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        for (int v = 0; v < 2; v++)
            if (strcasecmp(text, words[i][v]) == 0) {
                *((bool *)c + k->at) = v;
                return 0;
            }
    return err_set(e, 0, "'%s' is neither 0 nor 1", text);
}

static int set_seconds(struct config *c, const struct config_key *k, const char *text,
                       struct err *e) {
    const char *end;
    double s = parse_decimal(text, &end);

    if (isnan(s) || (*end && strcmp(end, "s") != 0))
        return err_set(e, 0, "'%s' is not a number of seconds", text);
    if (s <= 0 || s > 1e9)
        return err_set(e, 0, "'%s' is out of range: more than 0, at most 1000000000 seconds", text);
    *u64_at(c, k) = (uint64_t)ceil(s * 1000);
    return 0;
}

static int set_chardev(struct config *c, const struct config_key *k, const char *text,
                       struct err *e) {
    static const char *const names[] = {"stdio", "pty", "none"};
    struct suggest s;

    suggest_init(&s, text);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        suggest_try(&s, names[i]);
        if (strcmp(text, names[i]) == 0) {
            set_str(str_at(c, k), text);
            return 0;
        }
    }
    if (strncmp(text, "file:", 5) != 0 && strncmp(text, "unix:", 5) != 0)
        return err_set(e, 0, "'%s' is none of stdio, pty, file:FILE, unix:SOCKET, none", text);
    if (!text[5])
        return err_set(e, 0, "'%s' needs the name of a file behind it", text);
    set_str(str_at(c, k), text);
    return 0;
}

/* The index of `text` among words that are separated by '|'; -1 when it is none of them. */
static int choice_index(const char *choices, const char *text) {
    size_t len = strlen(text);
    int index = 0;

    for (const char *p = choices; p; index++) {
        const char *bar = strchr(p, '|');
        size_t n = bar ? (size_t)(bar - p) : strlen(p);

        if (n == len && memcmp(p, text, n) == 0)
            return index;
        p = bar ? bar + 1 : NULL;
    }
    return -1;
}

static int set_choice(struct config *c, const struct config_key *k, const char *text,
                      struct err *e) {
    int i = choice_index(k->choices, text);

    if (i < 0)
        return err_set(e, 0, "'%s' is none of %s", text, k->choices);
    if (k->type == T_ACTION)
        *(enum config_action *)(void *)((char *)c + k->at) = (enum config_action)i;
    else
        set_str(str_at(c, k), text);
    return 0;
}

static int check_disk(const char *text, struct err *e) {
    struct disk_spec s;
    int r = disk_spec_parse(&s, text, e);

    if (r == 0)
        disk_spec_free(&s);
    return r;
}

static int check_vif(const char *text, struct err *e) {
    struct vif v;
    int r = vif_parse(text, &v, e);

    vif_free(&v);
    return r;
}

static int check_share(const char *text, struct err *e) {
    struct share_spec s;
    int r = share_spec_parse(&s, text, e);

    if (r == 0)
        share_spec_free(&s);
    return r;
}

static int check_channel(const char *text, struct err *e) {
    struct channel_spec s;
    int r = channel_spec_parse(&s, text, e);

    channel_spec_free(&s);
    return r;
}

static int set_vsock(struct config *c, const struct config_key *k, const char *text,
                     struct err *e) {
    struct vsock_spec s;
    int r = vsock_spec_parse(&s, text, e);

    if (r < 0)
        return r;
    vsock_spec_free(&s);
    set_str(str_at(c, k), text);
    return 0;
}

/* What an item means is said where it is used. */
static int check_item(const struct config_key *k, const char *text, struct err *e) {
    if (k->at == AT(disks))
        return check_disk(text, e);
    if (k->at == AT(shares))
        return check_share(text, e);
    if (k->at == AT(channels))
        return check_channel(text, e);
    return k->at == AT(vifs) ? check_vif(text, e) : 0;
}

static int add_item(struct config *c, const struct config_key *k, const char *text, struct err *e) {
    struct config_list *l = list_at(c, k);
    int r = check_item(k, text, e);
    char **items;

    if (r < 0)
        return r;
    items = xcalloc(l->count + 1, sizeof(*items));
    for (size_t i = 0; i < l->count; i++)
        items[i] = l->items[i];
    items[l->count] = xstrdup(text);
    free(l->items);
    l->items = items;
    l->count++;
    l->given = true;
    return 0;
}

static int set_absent(const struct config_key *k, const char *text, struct err *e) {
    if (!*text || strcmp(text, "none") == 0)
        return 0;
    return err_set(e, ENOTSUP, "this version has no %s devices",
                   strcmp(k->name, "disk") == 0 ? "disk" : "network");
}

static int set_trace(struct config *c, const struct config_key *k, const char *text,
                     struct err *e) {
    unsigned what = 0;

    if (trace_parse(text, &what, e) < 0)
        return -1;
    set_str(str_at(c, k), text);
    return 0;
}

static int set_text(struct config *c, const struct config_key *k, const char *text, struct err *e) {
    if (k->choices)
        return set_choice(c, k, text, e);
    switch (k->type) {
    case T_SIZE:
        return set_memory(c, k, text, e);
    case T_CACHE:
        return set_cache(c, k, text, e);
    case T_COUNT:
        return set_vcpus(c, k, text, e);
    case T_BOOL:
        return set_bool(c, k, text, e);
    case T_SECONDS:
        return set_seconds(c, k, text, e);
    case T_CHARDEV:
        return set_chardev(c, k, text, e);
    case T_LIST:
        return add_item(c, k, text, e);
    case T_ABSENT:
        return set_absent(k, text, e);
    default:
        if (k->at == AT(vsock))
            return set_vsock(c, k, text, e);
        if (k->at == AT(trace))
            return set_trace(c, k, text, e);
        if (k->at == AT(name))
            c->name_given = *text;
        set_str(str_at(c, k), text);
        return 0;
    }
}

int config_set_text(struct config *c, const struct config_key *key, const char *text,
                    struct err *e) {
    int r = set_text(c, key, text, e);

    return r < 0 ? err_wrap(e, "%s", key->name) : 0;
}

static bool takes_list(const struct config_key *k) {
    return k->type == T_LIST || k->type == T_ABSENT;
}

static int add_value(struct config *c, const struct config_key *key,
                     const struct xlcfg_value *value, struct err *e) {
    if (value->kind != XLCFG_LIST)
        return config_set_text(c, key, value->text, e);
    if (!takes_list(key))
        return err_set(e, 0, "%s: a list is not accepted here", key->name);
    for (size_t i = 0; i < value->count; i++) {
        const struct xlcfg_value *item = &value->items[i];
        int r = config_set_text(c, key, item->text ? item->text : "[]", e);

        if (r < 0)
            return r;
    }
    return 0;
}

int config_set(struct config *c, const struct config_key *key, const struct xlcfg_value *value,
               struct err *e) {
    if (key->type == T_LIST) {
        list_clear(list_at(c, key));
        list_at(c, key)->given = true;
    }
    return add_value(c, key, value, e);
}

static int unknown_key(const char *name, struct err *e) {
    const char *near = config_key_suggest(name);

    if (near)
        return err_set(e, 0, "unknown key '%s'; did you mean '%s'?", name, near);
    return err_set(e, 0, "unknown key '%s'", name);
}

int config_set_pair(struct config *c, const char *pair, struct err *e) {
    const char *eq = strchr(pair, '=');
    cleanup_xlcfg_value struct xlcfg_value value = {0};
    cleanup_free char *name = NULL;
    const struct config_key *key;
    int r;

    if (!eq)
        return err_set(e, 0, "'%s' is not KEY=VALUE", pair);
    name = xasprintf("%.*s", (int)(eq - pair), pair);
    key = config_key_find(name);
    if (!key)
        return unknown_key(name, e);
    r = xlcfg_parse_value(eq + 1, &value, e);
    return r < 0 ? err_wrap(e, "%s", name) : config_set(c, key, &value, e);
}

/* NAME += VALUE: text is joined to the end, as xl does. */
static int append(struct config *c, const struct config_key *key, const struct xlcfg_value *value,
                  struct err *e) {
    cleanup_free char *joined = NULL;
    const char *old;

    if (takes_list(key))
        return add_value(c, key, value, e);
    if (key->type != T_STRING || key->choices || value->kind == XLCFG_LIST)
        return err_set(e, 0, "%s: += is only for text", key->name);
    old = *str_at(c, key);
    joined = xasprintf("%s%s", old ? old : "", value->text);
    return config_set_text(c, key, joined, e);
}

int config_parse(struct config *c, const char *text, size_t len, const char *origin,
                 struct err *e) {
    cleanup_xlcfg struct xlcfg file = {0};
    int r = xlcfg_parse(text, len, &file, e);

    if (r < 0)
        return err_wrap(e, "%s", origin);
    for (size_t i = 0; i < file.count; i++) {
        const struct xlcfg_setting *s = &file.settings[i];
        const struct config_key *key = config_key_find(s->name);
        cleanup_err struct err unknown = ERR_INIT;

        if (!key) {
            unknown_key(s->name, &unknown);
            log_warn("%s: line %u: %s (ignored)", origin, s->line, err_msg(&unknown));
            continue;
        }
        r = s->append ? append(c, key, &s->value, e) : config_set(c, key, &s->value, e);
        if (r < 0)
            return err_wrap(e, "%s: line %u", origin, s->line);
    }
    return 0;
}

int config_load(struct config *c, const char *path, struct err *e) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    cleanup_free char *text = NULL;
    size_t len = 0;
    ssize_t n;

    if (fd < 0)
        return err_set(e, errno, "%s: open", path);
    text = xcalloc(CONFIG_FILE_MAX + 1, 1);
    while ((n = read(fd, text + len, CONFIG_FILE_MAX + 1 - len)) > 0)
        len += (size_t)n;
    if (n < 0)
        return err_set(e, errno, "%s: read", path);
    if (len > CONFIG_FILE_MAX)
        return err_set(e, EFBIG, "%s", path);
    return config_parse(c, text, len, path, e);
}

/* root and extra are how older files write cmdline; cmdline wins, as in xl. */
static void fold_cmdline(struct config *c) {
    const char *gap = c->root && c->extra ? " " : "";

    if (c->cmdline || (!c->root && !c->extra))
        return;
    c->cmdline = xasprintf("%s%s%s%s", c->root ? "root=" : "", c->root ? c->root : "", gap,
                           c->extra ? c->extra : "");
}

static int check_host_memory(const struct config *c, struct err *e) {
    struct sysinfo si;
    uint64_t host;

    if (sysinfo(&si) < 0)
        return err_set(e, errno, "memory: sysinfo");
    host = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
    if (MAX(c->memory, c->maxmem) <= host)
        return 0;
    return err_set(e, 0, "memory: %lluM is more than this host has (%lluM with swap)",
                   (unsigned long long)MAX(c->memory, c->maxmem) >> 20,
                   (unsigned long long)host >> 20);
}

/* The resolver takes port numbers modulo 2^16. */
static int check_gdb(const struct config *c, struct err *e) {
    const char *colon = c->gdb ? strrchr(c->gdb, ':') : NULL;
    char *end = NULL;

    if (!c->gdb)
        return 0;
    if (colon && isdigit((unsigned char)colon[1]) && strtoul(colon + 1, &end, 10) <= UINT16_MAX &&
        !*end)
        return 0;
    return err_set(e, 0, "gdb: '%s' is not [HOST]:PORT with a port up to 65535", c->gdb);
}

/* The TSC's frequency changes what the guest reads, not what may be asked for. */
static int check_cpu(const struct config *c, struct err *e) {
    cleanup_free struct x86_cpuid *id = xcalloc(1, sizeof(*id));

    return x86_cpuid_build(id, c->cpu, (unsigned)c->vcpus, NS_PER_S, e);
}

int config_check(struct config *c, struct err *e) {
    fold_cmdline(c);
    if (c->kernel && c->bios)
        return err_set(e, 0, "kernel and bios exclude each other: give one of them");
    if (c->ramdisk && !c->kernel)
        return err_set(e, 0, "ramdisk: there is no kernel to load it; add --kernel FILE");
    if (c->gdb_wait && !c->gdb)
        return err_set(e, 0, "gdb-wait: nobody could continue the guest; add --gdb [HOST]:PORT");
    if (c->trace_file && !c->trace)
        return err_set(e, 0, "trace-file: nothing is traced; add --trace int, for one");
    if (c->maxmem && c->maxmem < c->memory)
        return err_set(e, 0, "maxmem: it is less than memory");
    if (check_gdb(c, e) < 0 || check_host_memory(c, e) < 0)
        return -1;
    return check_cpu(c, e);
}

static json_t *list_to_json(const struct config_list *l) {
    json_t *a = json_array();

    for (size_t i = 0; i < l->count; i++)
        json_array_append_new(a, json_string(l->items[i]));
    return a;
}

static json_t *key_to_json(struct config *c, const struct config_key *k) {
    static const char *const actions[] = {"destroy", "restart"};
    enum config_action *action = (enum config_action *)(void *)((char *)c + k->at);

    switch (k->type) {
    case T_STRING:
    case T_CHARDEV:
        return *str_at(c, k) ? json_string(*str_at(c, k)) : json_null();
    case T_SIZE:
    case T_CACHE:
        return json_integer((json_int_t)(*u64_at(c, k) >> 20));
    case T_COUNT:
        return json_integer((json_int_t)*u64_at(c, k));
    case T_SECONDS:
        return *u64_at(c, k) ? json_real((double)*u64_at(c, k) / 1000) : json_null();
    case T_BOOL:
        return json_boolean(*((bool *)c + k->at));
    case T_ACTION:
        return json_string(actions[*action]);
    case T_LIST:
        return list_to_json(list_at(c, k));
    default:
        return json_array();
    }
}

/* Under the name that a configuration file has for it; text that is not UTF-8 cannot be shown. */
static void set_json(json_t *o, const char *name, json_t *value) {
    cleanup_free char *key = xstrdup(name);

    for (char *c = strchr(key, '-'); c; c = strchr(c, '-'))
        *c = '_';
    json_object_set_new(o, key, value ? value : json_null());
}

struct json_t *config_to_json(const struct config *c) {
    struct config view = *c; /* the field accessors want it writable */
    json_t *o = json_object();

    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];

        if (k->at == AT(root) || k->at == AT(extra) || strcmp(k->name, "builder") == 0)
            continue;
        set_json(o, k->name, key_to_json(&view, k));
    }
    return o;
}
