/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a domain is to be: one structure, filled from a configuration file (xl.cfg syntax), from
 * KEY=VALUE arguments and from command-line options, all by the same table of keys. Later settings
 * win.
 */
#ifndef RINGFENCE_DOMAIN_CONFIG_H
#define RINGFENCE_DOMAIN_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_t;
struct xlcfg_value;

/* What a key that may be repeated was given, in order; `given` tells an empty list from none. */
struct config_list {
    char **items;
    size_t count;
    bool given;
};

enum config_action { ACTION_DESTROY, ACTION_RESTART };

struct config {
    char *name, *type, *engine, *cpu;        /* never NULL */
    char *kernel, *ramdisk, *cmdline, *bios; /* NULL when not given */
    char *root, *extra; /* the older way to write cmdline; folded in by config_check */
    char *serial, *debugcon, *display; /* never NULL */
    char *gdb;                         /* [host]:port, or NULL */
    char *virtio, *watchdog;           /* never NULL */
    struct config_list disks;          /* as in domain/disks.h */
    struct config_list vifs;           /* as in domain/vif.h */
    struct config_list shares;         /* as in domain/shares.h */
    struct config_list channels;       /* as in domain/channels.h */
    char *vsock;                       /* likewise; NULL: none */
    char *trace, *trace_file;          /* as in base/trace.h; NULL: nothing, standard error */
    char *console;                     /* never NULL */
    uint64_t memory;                   /* bytes */
    uint64_t maxmem;                   /* bytes; 0: as memory */
    uint64_t code_cache;               /* bytes */
    uint64_t vcpus;
    uint64_t timeout_ms; /* 0: none */
    bool debug_exit, testdev, gdb_wait, perf_map;
    bool name_given; /* somebody chose the name; otherwise it may be made unique */
    enum config_action on_poweroff, on_reboot, on_crash;
};

#define CONFIG_MEMORY_MIN (2ull << 20)
#define CONFIG_MEMORY_MAX (1ull << 40)
#define CONFIG_CODE_CACHE_MIN (1ull << 20)
#define CONFIG_CODE_CACHE_MAX (1ull << 30) /* jumps within it reach 2 GiB */
#define CONFIG_VCPUS_MAX 254               /* xAPIC IDs are 8 bits; 255 is broadcast */
#define CONFIG_FILE_MAX (1u << 20)

/* The defaults of cli.md, with no kernel. */
void config_init(struct config *c);
void config_free(struct config *c);

/*
 * A key of the table. `option` keys are command-line options too, under the same name;
 * `arg` is NULL for those that take no argument there.
 */
struct config_key {
    const char *name, *alias;
    const char *arg, *help;
    bool option;
    unsigned char type;  /* private */
    unsigned short at;   /* private: offset of the field */
    const char *choices; /* private: what the value may be, separated by '|' */
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;

/* By name or alias; '-' and '_' are the same. NULL when there is none. */
const struct config_key *config_key_find(const char *name);
/* The nearest known name, or NULL. */
const char *config_key_suggest(const char *name);

/* Sets one key; a list's becomes what `value` is, and config_set_text adds to it. The error names
 * the key, the value and what would be accepted. */
int config_set(struct config *c, const struct config_key *key, const struct xlcfg_value *value,
               struct err *e);
int config_set_text(struct config *c, const struct config_key *key, const char *text,
                    struct err *e);

/* "KEY=VALUE" from a command line. */
int config_set_pair(struct config *c, const char *pair, struct err *e);

/* Adds a file's settings. Keys that are not known are named in a warning and ignored. */
int config_parse(struct config *c, const char *text, size_t len, const char *origin, struct err *e);
int config_load(struct config *c, const char *path, struct err *e);

/* What single keys cannot know: contradictions, and what this host cannot give. Folds root and
 * extra. */
int config_check(struct config *c, struct err *e);

/* The domain as it would run; the caller owns the reference. */
struct json_t *config_to_json(const struct config *c);

/* "512M", "1G", "1.5G", or a bare number of MiB. Negative with the error set when it is neither. */
int config_parse_size(const char *text, uint64_t *bytes, struct err *e);

#define cleanup_config __attribute__((cleanup(config_free)))

#endif
