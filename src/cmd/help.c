/* SPDX-License-Identifier: Apache-2.0 */
/* Help on the terminal: the manual page where one is installed, the built-in text otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cmd/verbs.h"
#include "domain/domain.h"
#include "domain/options.h"
#include "domain/suggest.h"

#define COLUMN 34 /* where the explanations start */

void help_options(const struct option *table) {
    for (const struct option *o = table; o->name; o++) {
        cleanup_free char *left = NULL;

        if (!o->help)
            continue;
        left = xasprintf("  %c%c --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                         o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        if (strlen(left) < COLUMN - 1)
            printf("%-*s%s\n", COLUMN, left, o->help);
        else
            printf("%s\n%*s%s\n", left, COLUMN, "", o->help);
    }
}

void help_overview(void) {
    printf(
        "usage: rf VERB [OPTIONS] ...\n\n"
        "Ringfence runs unmodified operating systems, with or without hardware virtualization.\n\n"
        "verbs:\n");
    for (const struct verb *v = verbs; v->name; v++)
        printf("  %-15s %s\n", v->name, v->summary);
    printf("\noptions:\n"
           "  --help     this text; rf VERB --help for a verb's own\n"
           "  --version  the version\n\n"
           "Start with: rf check\n");
}

/* Whether man(1) is there and knows the page. */
static bool has_manual(void) {
    return system("man -w rf >/dev/null 2>&1") == 0;
}

/* Some verbs have a page of their own. */
static void open_manual(const struct verb *v) {
    bool own = v && strcmp(v->name, "image") == 0;

    execlp("man", "man", own ? "rf-image" : "rf", (char *)NULL);
}

static int unknown_topic(const char *name) {
    cleanup_err struct err e = ERR_INIT;
    struct suggest s;

    suggest_init(&s, name);
    for (const struct verb *v = verbs; v->name; v++)
        suggest_try(&s, v->name);
    if (suggest_best(&s))
        err_set(&e, 0, "there is no verb '%s'; did you mean '%s'?", name, suggest_best(&s));
    else
        err_set(&e, 0, "there is no verb '%s'", name);
    return usage_error("help", &e);
}

void cmd_help_help(void) {
    printf(
        "usage: rf help [VERB]\n\n"
        "Opens the manual page rf(1), or prints the help text of VERB where it is not installed.\n");
}

int cmd_help(int argc, char **argv) {
    const struct verb *v = NULL;

    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        cmd_help_help();
        return 0;
    }
    if (argc > 0) {
        v = verb_find(argv[0]);
        if (!v)
            return unknown_topic(argv[0]);
    }
    if (isatty(STDOUT_FILENO) && has_manual())
        open_manual(v);
    if (v)
        v->help();
    else
        help_overview();
    return 0;
}
