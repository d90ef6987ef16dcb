/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of rf. Each takes what stands behind its name and returns the exit status. */
#ifndef RINGFENCE_CMD_VERBS_H
#define RINGFENCE_CMD_VERBS_H

struct err;
struct option;

struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    void (*help)(void);
    const char *summary;
};

/* Ends with an entry that has no name. */
extern const struct verb verbs[];

const struct verb *verb_find(const char *name);

int cmd_run(int argc, char **argv);
void cmd_run_help(void);
int cmd_list(int argc, char **argv);
void cmd_list_help(void);
int cmd_shutdown(int argc, char **argv);
void cmd_shutdown_help(void);
int cmd_destroy(int argc, char **argv);
void cmd_destroy_help(void);
int cmd_mem_set(int argc, char **argv);
void cmd_mem_set_help(void);
int cmd_block_attach(int argc, char **argv);
void cmd_block_attach_help(void);
int cmd_block_list(int argc, char **argv);
void cmd_block_list_help(void);
int cmd_block_detach(int argc, char **argv);
void cmd_block_detach_help(void);
int cmd_network_attach(int argc, char **argv);
void cmd_network_attach_help(void);
int cmd_network_list(int argc, char **argv);
void cmd_network_list_help(void);
int cmd_network_detach(int argc, char **argv);
void cmd_network_detach_help(void);
int cmd_image(int argc, char **argv);
void cmd_image_help(void);
int cmd_check(int argc, char **argv);
void cmd_check_help(void);
int cmd_help(int argc, char **argv);
void cmd_help_help(void);

/* The overview that `rf --help` prints. */
void help_overview(void);
/* "  --name ARG   help" for each entry of the table that has a help text. */
void help_options(const struct option *table);

/* "rf: MESSAGE" and where to read on; returns the status for it. */
int usage_error(const char *verb, const struct err *e);
int failure(const struct err *e);

#endif
