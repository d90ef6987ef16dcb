/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON-RPC 2.0 (jsonrpc.org/specification), one message a line: bytes become lines, a request
 * becomes an answer. It knows neither sockets nor domains.
 */
#ifndef RINGFENCE_DOMAIN_JSONRPC_H
#define RINGFENCE_DOMAIN_JSONRPC_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_t;

/* Errors of the protocol; what a method itself has to complain of is JSONRPC_FAILED. */
enum {
    JSONRPC_PARSE_ERROR = -32700,
    JSONRPC_INVALID_REQUEST = -32600,
    JSONRPC_METHOD_NOT_FOUND = -32601,
    JSONRPC_INVALID_PARAMS = -32602,
    JSONRPC_FAILED = -32000,
};

struct jsonrpc_method {
    const char *name;
    /* Returns the result, or NULL with the error set. `params` is an object; empty when the request
     * has none. */
    struct json_t *(*call)(void *arg, struct json_t *params, struct err *e);
};

/* Says that the request's parameters are at fault, as err_set; returns -1. */
int jsonrpc_bad_params(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define JSONRPC_BATCH_MAX 16

/* The answer to one line, without a newline, for the caller to free; NULL when none is due. `table`
 * ends with an entry that has no name. */
char *jsonrpc_answer(const struct jsonrpc_method *table, void *arg, const char *line, size_t len);
/* The answer to a line that is too long to be looked at. */
char *jsonrpc_too_long(void);

/* Lines out of a stream of bytes. All zeroes is an empty one. */
#define JSONRPC_LINE_MAX 65536
struct jsonrpc_lines {
    char buf[JSONRPC_LINE_MAX];
    size_t len;
    bool skipping; /* the rest of a line that is too long */
};

/* Calls fn for each line that is complete, without its newline; and once with NULL for one that is
 * too long. */
typedef void jsonrpc_line_fn(void *arg, const char *line, size_t len);
void jsonrpc_feed(struct jsonrpc_lines *l, const char *data, size_t len, jsonrpc_line_fn *fn,
                  void *arg);

/* Text of any origin as a JSON string: what is not UTF-8 becomes question marks. */
struct json_t *jsonrpc_text(const char *text);

#endif
