/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes from a client of the control socket, in pieces whose sizes they choose, and what
 * they say a disk or a network interface is. Answers are lines of JSON. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "domain/disks.h"
#include "domain/jsonrpc.h"
#include "domain/vif.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *as_disk(const char *spec, struct err *e) {
    struct disk_spec s, again;
    char *text;

    if (disk_spec_parse(&s, spec, e) < 0)
        return NULL;
    text = disk_spec_text(&s, e);
    if (!text || disk_spec_parse(&again, text, NULL) < 0 || again.cdrom != s.cdrom ||
        again.queues != s.queues)
        abort();
    free(text);
    disk_spec_free(&again);
    disk_spec_free(&s);
    return json_object();
}

static json_t *as_vif(const char *spec, struct err *e) {
    struct vif v;
    int r = vif_parse(spec, &v, e);

    vif_free(&v);
    return r < 0 ? NULL : json_object();
}

static json_t *attach(void *arg, json_t *params, struct err *e) {
    const char *kind = json_string_value(json_object_get(params, "kind"));
    const char *spec = json_string_value(json_object_get(params, "spec"));

    (void)arg;
    if (kind && spec)
        return strcmp(kind, "disk") == 0 ? as_disk(spec, e) : as_vif(spec, e);
    jsonrpc_bad_params(e, "%s", kind ? kind : "none");
    return NULL;
}

static json_t *echo(void *arg, json_t *params, struct err *e) {
    (void)arg;
    (void)e;
    return json_incref(params);
}

static const struct jsonrpc_method methods[] = {{"attach", attach}, {"echo", echo}, {0}};

static void on_line(void *arg, const char *line, size_t len) {
    char *answer = line ? jsonrpc_answer(methods, arg, line, len) : jsonrpc_too_long();
    json_t *o = answer ? json_loads(answer, 0, NULL) : NULL;

    if (answer && (!o || strchr(answer, '\n')))
        abort();
    json_decref(o);
    free(answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct jsonrpc_lines *l = xcalloc(1, sizeof(*l));
    size_t piece = size ? (size_t)data[0] * 16 + 1 : 1;

    for (size_t at = 1; at < size; at += piece)
        jsonrpc_feed(l, (const char *)data + at, MIN(piece, size - at), on_line, NULL);
    free(l);
    return 0;
}
