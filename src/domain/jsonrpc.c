/* SPDX-License-Identifier: Apache-2.0 */
/* JSON-RPC 2.0: requests, notifications and batches of them. */
#include "domain/jsonrpc.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

int jsonrpc_bad_params(struct err *e, const char *fmt, ...) {
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    err_set(e, 0, "%s", text);
    if (e)
        e->code = JSONRPC_INVALID_PARAMS;
    return -1;
}

json_t *jsonrpc_text(const char *text) {
    json_t *s = json_string(text);
    cleanup_free char *copy = NULL;

    if (s)
        return s;
    copy = xstrdup(text);
    for (char *c = copy; *c; c++)
        *c = *c & 0x80 ? '?' : *c;
    return json_string(copy);
}

/* `id` is taken over; NULL stands for one that could not be read. */
static json_t *envelope(json_t *id) {
    json_t *o = json_object();

    json_object_set_new(o, "jsonrpc", json_string("2.0"));
    json_object_set_new(o, "id", id ? id : json_null());
    return o;
}

static json_t *error_answer(json_t *id, int code, const char *message) {
    json_t *o = envelope(id), *error = json_object();

    json_object_set_new(error, "code", json_integer(code));
    json_object_set_new(error, "message", jsonrpc_text(message));
    json_object_set_new(o, "error", error);
    return o;
}

static const struct jsonrpc_method *find(const struct jsonrpc_method *m, const char *name) {
    while (m->name && strcmp(m->name, name) != 0)
        m++;
    return m->name ? m : NULL;
}

static bool is_id(const json_t *id) {
    return json_is_string(id) || json_is_number(id) || json_is_null(id);
}

static json_t *call(const struct jsonrpc_method *m, void *arg, json_t *request, json_t *id) {
    json_t *params = json_object_get(request, "params"), *none = json_object(), *answer, *result;
    cleanup_err struct err e = ERR_INIT;

    if (params && !json_is_object(params))
        jsonrpc_bad_params(&e, "%s: params is not an object", m->name);
    result = e.msg ? NULL : m->call(arg, params ? params : none, &e);
    json_decref(none);
    if (!result)
        return error_answer(id, e.code < 0 ? e.code : JSONRPC_FAILED, err_msg(&e));
    answer = envelope(id);
    json_object_set_new(answer, "result", result);
    return answer;
}

/* NULL for a notification. */
static json_t *answer_one(const struct jsonrpc_method *table, void *arg, json_t *request) {
    const char *version = json_string_value(json_object_get(request, "jsonrpc"));
    const char *name = json_string_value(json_object_get(request, "method"));
    json_t *id = json_object_get(request, "id"), *answer;
    const struct jsonrpc_method *m;

    if (!version || strcmp(version, "2.0") != 0 || !name || (id && !is_id(id)))
        return error_answer(is_id(id) ? json_incref(id) : NULL, JSONRPC_INVALID_REQUEST,
                            "not a request of JSON-RPC 2.0");
    m = find(table, name);
    answer = m ? call(m, arg, request, json_incref(id))
               : error_answer(json_incref(id), JSONRPC_METHOD_NOT_FOUND, "there is no such method");
    if (id)
        return answer;
    json_decref(answer);
    return NULL;
}

static json_t *answer_batch(const struct jsonrpc_method *table, void *arg, json_t *batch) {
    json_t *answers, *answer;

    if (!json_array_size(batch) || json_array_size(batch) > JSONRPC_BATCH_MAX)
        return error_answer(NULL, JSONRPC_INVALID_REQUEST, "a batch holds 1 to 16 requests");
    answers = json_array();
    for (size_t i = 0; i < json_array_size(batch); i++)
        if ((answer = answer_one(table, arg, json_array_get(batch, i))))
            json_array_append_new(answers, answer);
    if (json_array_size(answers))
        return answers;
    json_decref(answers);
    return NULL;
}

static char *dump(json_t *answer) {
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;

    json_decref(answer);
    return text;
}

char *jsonrpc_answer(const struct jsonrpc_method *table, void *arg, const char *line, size_t len) {
    json_error_t why;
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why),
           *answer;

    if (!request)
        answer = error_answer(NULL, JSONRPC_PARSE_ERROR, why.text);
    else if (json_is_array(request))
        answer = answer_batch(table, arg, request);
    else
        answer = answer_one(table, arg, request);
    json_decref(request);
    return dump(answer);
}

char *jsonrpc_too_long(void) {
    return dump(error_answer(NULL, JSONRPC_INVALID_REQUEST, "a line is longer than 64 KiB"));
}

/* --- lines --- */

/* Bytes of one line, or of a part of it. */
static void take(struct jsonrpc_lines *l, const char *data, size_t len, jsonrpc_line_fn *fn,
                 void *arg) {
    if (l->skipping)
        return;
    if (len > sizeof(l->buf) - l->len) {
        l->skipping = true;
        fn(arg, NULL, 0);
        return;
    }
    memcpy(l->buf + l->len, data, len);
    l->len += len;
}

void jsonrpc_feed(struct jsonrpc_lines *l, const char *data, size_t len, jsonrpc_line_fn *fn,
                  void *arg) {
    const char *end = data + len, *newline;

    for (; (newline = memchr(data, '\n', (size_t)(end - data))); data = newline + 1) {
        take(l, data, (size_t)(newline - data), fn, arg);
        if (!l->skipping && l->len)
            fn(arg, l->buf, l->len);
        l->len = 0;
        l->skipping = false;
    }
    take(l, data, (size_t)(end - data), fn, arg);
}
