/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes as a domain's configuration file, then as KEY=VALUE. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "domain/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_file(const uint8_t *data, size_t size) {
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;

    config_init(&c);
    if (config_parse(&c, (const char *)data, size, "fuzz", &e) == 0 && config_check(&c, &e) == 0)
        json_decref(config_to_json(&c));
}

static void as_pair(const uint8_t *data, size_t size) {
    cleanup_config struct config c;
    cleanup_err struct err e = ERR_INIT;
    cleanup_free char *pair = xcalloc(size + 1, 1);

    if (size)
        memcpy(pair, data, size);
    config_init(&c);
    config_set_pair(&c, pair, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    log_set_level(LOG_ERROR);
    as_file(data, size);
    as_pair(data, size);
    return 0;
}
