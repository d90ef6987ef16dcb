/* SPDX-License-Identifier: Apache-2.0 */
/* rf check: what this machine offers for running domains, what is missing, and how to get it. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cmd/verbs.h"
#include "cpu/engine.h"
#include "domain/domain.h"
#include "domain/engines.h"
#include "domain/options.h"

#define ADVICE_MAX 8

struct kvm_info {
    bool present, usable, hardware;
    int api;
    char why[128]; /* not usable: why not */
};

struct host {
    char cpu[49], hypervisor[13];
    bool vmx, svm, pae, lm, nx;
    struct kvm_info kvm;
    uint64_t mem_total, mem_available; /* bytes */
    long cpus;
    bool userns;
    const char *advice[ADVICE_MAX];
    unsigned n_advice;
};

static void advise(struct host *h, const char *text) {
    if (h->n_advice < ADVICE_MAX)
        h->advice[h->n_advice++] = text;
}

static void probe_brand(struct host *h) {
    unsigned r[4];

    if ((unsigned)__get_cpuid_max(0x80000000, NULL) < 0x80000004)
        return;
    for (unsigned i = 0; i < 3; i++) {
        __cpuid(0x80000002 + i, r[0], r[1], r[2], r[3]);
        memcpy(h->cpu + sizeof(r) * i, r, sizeof(r));
    }
}

static void probe_cpu(struct host *h) {
    unsigned a, b, c, d;

    probe_brand(h);
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        h->vmx = c & 1u << 5;
        h->pae = d & 1u << 6;
        if (c & 1u << 31) {
            unsigned name[3];

            __cpuid(0x40000000, a, name[0], name[1], name[2]);
            memcpy(h->hypervisor, name, sizeof(name));
        }
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
        h->svm = c & 1u << 2;
        h->lm = d & 1u << 29;
        h->nx = d & 1u << 20;
    }
}

/* /dev/kvm without vmx or svm is not the processor's doing: a paravirtual or emulated stand-in. */
static void probe_kvm(struct host *h) {
    struct kvm_info *k = &h->kvm;
    cleanup_close int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    k->present = fd >= 0 || access("/dev/kvm", F_OK) == 0;
    k->hardware = k->present && (h->vmx || h->svm);
    if (fd < 0) {
        snprintf(k->why, sizeof(k->why), "%s", k->present ? strerror(errno) : "no such device");
    } else {
        k->api = ioctl(fd, KVM_GET_API_VERSION, 0);
        k->usable = k->api == KVM_API_VERSION;
        if (!k->usable)
            snprintf(k->why, sizeof(k->why), "it does not answer as KVM does");
    }
    if (k->present && !k->usable)
        advise(
            h,
            "/dev/kvm is there but cannot be used: join the group kvm (sudo usermod -aG kvm $USER)");
}

static void probe_memory(struct host *h) {
    char line[128];
    unsigned long long kib;
    FILE *f = fopen("/proc/meminfo", "re");

    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "MemTotal: %llu", &kib) == 1)
            h->mem_total = kib << 10;
        else if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            h->mem_available = kib << 10;
    }
    if (f)
        fclose(f);
    if (h->mem_available && h->mem_available < 512ull << 20)
        advise(h, "less than 512M of memory is available: give domains less (--memory 256M)");
}

/* In a child, because there is no way back. */
static void probe_userns(struct host *h) {
    pid_t child = fork();
    int status = -1;

    if (child == 0)
        _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : 1);
    if (child > 0 && waitpid(child, &status, 0) == child)
        h->userns = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!h->userns)
        advise(h, "user namespaces are not available: domains run, with one wall less around them "
                  "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)");
}

static void probe(struct host *h) {
    h->cpus = sysconf(_SC_NPROCESSORS_ONLN);
    probe_cpu(h);
    probe_kvm(h);
    probe_memory(h);
    probe_userns(h);
    if (!h->vmx && !h->svm)
        advise(h,
               h->hypervisor[0]
                   ? "no vmx or svm: this is a virtual machine without nested virtualization; its "
                     "operator can turn it on, and domains run without it"
                   : "no vmx or svm: turn on virtualization in the firmware's set-up, if the "
                     "processor has it; domains run without it");
}

static const char *yes_no(bool b) {
    return b ? "yes" : "no";
}

static void print_kvm(const struct kvm_info *k) {
    if (k->usable)
        printf("/dev/kvm          usable, API %d, %s\n", k->api,
               k->hardware ? "hardware support" : "no hardware behind it");
    else
        printf("/dev/kvm          %s: %s\n", k->present ? "not usable" : "absent", k->why);
}

static void print_engines(void) {
    for (const struct engine_ops *const *o = engines; *o; o++) {
        cleanup_err struct err e = ERR_INIT;

        if ((*o)->probe(&e) == 0)
            printf("engine %-10s usable\n", (*o)->name);
        else
            printf("engine %-10s not usable: %s\n", (*o)->name, err_msg(&e));
    }
}

static void print_table(const struct host *h) {
    printf("processor         %s, %ld CPU%s\n", h->cpu[0] ? h->cpu : "unknown", h->cpus,
           h->cpus == 1 ? "" : "s");
    printf("flags             vmx %s, svm %s, pae %s, lm %s, nx %s\n", yes_no(h->vmx),
           yes_no(h->svm), yes_no(h->pae), yes_no(h->lm), yes_no(h->nx));
    printf("running under     %s\n", h->hypervisor[0] ? h->hypervisor : "no hypervisor");
    print_kvm(&h->kvm);
    print_engines();
    printf("memory            %lluM, %lluM available\n", (unsigned long long)h->mem_total >> 20,
           (unsigned long long)h->mem_available >> 20);
    printf("user namespaces   %s\n", h->userns ? "usable" : "not usable");
    for (unsigned i = 0; i < h->n_advice; i++)
        printf("note: %s\n", h->advice[i]);
}

static json_t *engines_json(void) {
    json_t *list = json_array();

    for (const struct engine_ops *const *o = engines; *o; o++) {
        cleanup_err struct err e = ERR_INIT;
        bool ok = (*o)->probe(&e) == 0;

        json_array_append_new(list, json_pack("{s:s, s:b, s:s?}", "name", (*o)->name, "usable", ok,
                                              "why", ok ? NULL : err_msg(&e)));
    }
    return list;
}

static void print_json(const struct host *h) {
    json_t *advice = json_array(), *o;

    for (unsigned i = 0; i < h->n_advice; i++)
        json_array_append_new(advice, json_string(h->advice[i]));
    o = json_pack("{s:s, s:i, s:{s:b, s:b, s:b, s:b, s:b}, s:s?, s:{s:b, s:b, s:b, s:s?}, s:o, "
                  "s:{s:I, s:I}, s:b, s:o}",
                  "processor", h->cpu, "cpus", (int)h->cpus, "flags", "vmx", h->vmx, "svm", h->svm,
                  "pae", h->pae, "lm", h->lm, "nx", h->nx, "hypervisor",
                  h->hypervisor[0] ? h->hypervisor : NULL, "kvm", "present", h->kvm.present,
                  "usable", h->kvm.usable, "hardware", h->kvm.hardware, "why",
                  h->kvm.usable ? NULL : h->kvm.why, "engines", engines_json(), "memory", "total",
                  (json_int_t)h->mem_total, "available", (json_int_t)h->mem_available,
                  "user_namespaces", h->userns, "notes", advice);
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

enum { ID_JSON, ID_HELP };

static const struct option options[] = {
    {"json", 0, NULL, "as JSON", ID_JSON},
    {"help", 'h', NULL, "this text", ID_HELP},
    {0},
};

void cmd_check_help(void) {
    printf("usage: rf check [--json]\n\n"
           "Says what this machine offers for running domains, what is missing and how to get it.\n"
           "Exit status: 0 when domains can run here, 1 when no engine works.\n\n");
    help_options(options);
}

struct choice {
    bool json, help;
};

static int on_option(void *arg, const struct option *o, const char *value, struct err *e) {
    struct choice *c = arg;

    if (!o)
        return err_set(e, 0, "'%s': this verb takes no arguments", value);
    if (o->id == ID_JSON)
        c->json = true;
    else
        c->help = true;
    return 0;
}

int cmd_check(int argc, char **argv) {
    cleanup_err struct err e = ERR_INIT;
    cleanup_free char *why = NULL;
    struct choice choice = {0};
    struct host h = {0};

    if (options_parse(options, argc, argv, on_option, &choice, &e) < 0)
        return usage_error("check", &e);
    if (choice.help) {
        cmd_check_help();
        return 0;
    }
    probe(&h);
    if (choice.json)
        print_json(&h);
    else
        print_table(&h);
    return engine_pick("auto", &why, &e) ? 0 : STATUS_FAILED;
}
