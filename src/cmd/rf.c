/* SPDX-License-Identifier: Apache-2.0 */
/* The command: a table of verbs, and what stands before them. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cmd/verbs.h"
#include "domain/domain.h"
#include "domain/suggest.h"

const struct verb verbs[] = {
    {"run", cmd_run, cmd_run_help, "run a domain in the foreground, its console on this terminal"},
    {"list", cmd_list, cmd_list_help, "list running domains"},
    {"shutdown", cmd_shutdown, cmd_shutdown_help, "press a domain's power button"},
    {"destroy", cmd_destroy, cmd_destroy_help, "end a domain at once"},
    {"mem-set", cmd_mem_set, cmd_mem_set_help, "set how much memory a domain shall have"},
    {"block-attach", cmd_block_attach, cmd_block_attach_help, "attach a disk to a running domain"},
    {"block-list", cmd_block_list, cmd_block_list_help, "list the disks of a running domain"},
    {"block-detach", cmd_block_detach, cmd_block_detach_help, "detach a disk"},
    {"network-attach", cmd_network_attach, cmd_network_attach_help,
     "attach a network interface to a running domain"},
    {"network-list", cmd_network_list, cmd_network_list_help,
     "list the network interfaces of a running domain"},
    {"network-detach", cmd_network_detach, cmd_network_detach_help, "detach a network interface"},
    {"image", cmd_image, cmd_image_help, "make, look at, check and change disk images"},
    {"check", cmd_check, cmd_check_help, "say what this machine offers for running domains"},
    {"help", cmd_help, cmd_help_help, "open the manual of a verb"},
    {0},
};

const struct verb *verb_find(const char *name) {
    for (const struct verb *v = verbs; v->name; v++)
        if (strcmp(v->name, name) == 0)
            return v;
    return NULL;
}

int usage_error(const char *verb, const struct err *e) {
    fprintf(stderr, "rf%s%s: %s\nTry: rf %s%s--help\n", verb ? " " : "", verb ? verb : "",
            err_msg(e), verb ? verb : "", verb ? " " : "");
    return STATUS_USAGE;
}

int failure(const struct err *e) {
    fprintf(stderr, "rf: %s\n", err_msg(e));
    return STATUS_FAILED;
}

/* Standard output may be a full disk; a version that nobody got is a failure. */
static int flushed(int status) {
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "rf: standard output: write error\n");
    return STATUS_FAILED;
}

static int unknown_verb(const char *name) {
    cleanup_err struct err e = ERR_INIT;
    struct suggest s;

    suggest_init(&s, name);
    for (const struct verb *v = verbs; v->name; v++)
        suggest_try(&s, v->name);
    suggest_try(&s, "--help");
    suggest_try(&s, "--version");
    if (suggest_best(&s))
        err_set(&e, 0, "unknown %s '%s'; did you mean '%s'?", name[0] == '-' ? "option" : "verb",
                name, suggest_best(&s));
    else
        err_set(&e, 0, "unknown %s '%s'", name[0] == '-' ? "option" : "verb", name);
    return usage_error(NULL, &e);
}

int main(int argc, char **argv) {
    const struct verb *v;

    if (argc < 2) {
        fprintf(stderr, "usage: rf VERB [OPTIONS] ...; verbs and options: rf --help\n");
        return STATUS_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help_overview();
        return flushed(0);
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("rf (Ringfence) " RF_VERSION "\n");
        return flushed(0);
    }
    v = verb_find(argv[1]);
    return v ? flushed(v->run(argc - 2, argv + 2)) : unknown_verb(argv[1]);
}
