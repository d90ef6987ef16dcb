/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A domain's disks and network interfaces: those of its configuration, and those that come and go
 * while it runs, each with its back end. All on the loop's thread.
 */
#ifndef RINGFENCE_DOMAIN_PLUGS_H
#define RINGFENCE_DOMAIN_PLUGS_H

#include <stdbool.h>

struct config;
struct err;
struct json_t;
struct loop;
struct machine;
struct machine_devices;
struct machine_plug;
struct plugs;

enum plug_kind { PLUG_DISK, PLUG_NIC };

/* Opens what the configuration asks for (one user network when it doesn't say) and puts it into *d,
 * whose arrays are valid until plugs_free. NULL with the error set, which names the device. */
struct plugs *plugs_open(struct loop *l, const struct config *c, struct machine_devices *d,
                         struct err *e);
/* The machine is there: frames may come. */
void plugs_start(struct plugs *all, struct machine *m);

/*
 * A SPEC of --disk or --vif. Returns what plugs_list says of it, or NULL with the error set. The
 * guest is told; whether it has a driver is its own affair.
 */
struct json_t *plugs_attach(struct plugs *all, enum plug_kind kind, const char *spec,
                            struct err *e);
/*
 * Asks the guest to let go of a disk (by its vdev) or a network interface (by its number or MAC
 * address). It is gone when the guest has done so and its back end is closed; asking twice does no
 * harm.
 */
int plugs_detach(struct plugs *all, enum plug_kind kind, const char *id, struct err *e);
/* For machine_params.ejected. */
void plugs_ejected(struct plugs *all, struct machine_plug *slot);
/* Pulls or plugs a network interface's cable. */
int plugs_set_link(struct plugs *all, const char *id, bool up, struct err *e);
struct json_t *plugs_list(const struct plugs *all, enum plug_kind kind);

/* With all vCPUs held, before the machine is freed: ends all threads and what is under way; frees
 * the rest, after that. NULL is allowed. */
void plugs_stop(struct plugs *all);
void plugs_free(struct plugs *all);

#endif
