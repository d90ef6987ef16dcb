/* SPDX-License-Identifier: Apache-2.0 */
/* One question, one answer, one connection. */
#include "domain/client.h"

#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "domain/state.h"

#define PATIENCE_S 20
#define ANSWER_MAX (4u << 20)
#define TICK_MS 20

static void tick(void) {
    const struct timespec t = {.tv_nsec = TICK_MS * 1000000};

    nanosleep(&t, NULL);
}

static int no_answer(const char *domain, struct err *e) {
    bool late = errno == EAGAIN || errno == EWOULDBLOCK;

    if (late)
        return err_set(e, ETIMEDOUT, "domain %s: no answer within %d s", domain, PATIENCE_S);
    return err_set(e, errno, "domain %s: control socket", domain);
}

static int send_all(int fd, const char *domain, const char *text, size_t len, struct err *e) {
    for (ssize_t n; len; text += n, len -= (size_t)n) {
        n = send(fd, text, len, MSG_NOSIGNAL);
        if (n <= 0)
            return no_answer(domain, e);
    }
    return 0;
}

/* A line, without its newline; the caller's. */
static uint8_t *receive_line(int fd, const char *domain, size_t *len, struct err *e) {
    uint8_t *buf = NULL, *newline = NULL;
    size_t cap = 0;

    for (*len = 0; !newline && *len < ANSWER_MAX;) {
        xreserve(&buf, &cap, *len, 4096);
        ssize_t n = recv(fd, buf + *len, 4096, 0);
        if (n <= 0) {
            errno = n ? errno : ECONNRESET;
            no_answer(domain, e);
            free(buf);
            return NULL;
        }
        newline = memchr(buf + *len, '\n', (size_t)n);
        *len += (size_t)n;
    }
    if (newline) {
        *len = (size_t)(newline - buf);
        return buf;
    }
    err_set(e, 0, "domain %s: an answer without an end", domain);
    free(buf);
    return NULL;
}

/* The result of an answer, or the error that it tells. */
static json_t *open_answer(const char *domain, const uint8_t *line, size_t len, struct err *e) {
    json_t *answer = json_loadb((const char *)line, len, 0, NULL);
    json_t *result = json_incref(json_object_get(answer, "result"));
    const json_t *error = json_object_get(answer, "error");
    const char *message = json_string_value(json_object_get(error, "message"));

    if (!result)
        err_set(e, 0, "domain %s: %s", domain, message ? message : "an answer that is none");
    json_decref(answer);
    return result;
}

static char *make_request(const char *method, json_t *params) {
    json_t *o = json_object();
    char *text, *line;

    json_object_set_new(o, "jsonrpc", json_string("2.0"));
    json_object_set_new(o, "id", json_integer(1));
    json_object_set_new(o, "method", json_string(method));
    if (params)
        json_object_set_new(o, "params", params);
    text = json_dumps(o, JSON_COMPACT);
    line = xasprintf("%s\n", text);
    free(text);
    json_decref(o);
    return line;
}

json_t *client_call(const char *domain, const char *method, json_t *params, struct err *e) {
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    cleanup_free char *request = make_request(method, params);
    cleanup_free uint8_t *answer = NULL;
    cleanup_close int fd = state_connect(domain, e);
    size_t len;

    if (fd < 0)
        return NULL;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (send_all(fd, domain, request, strlen(request), e) < 0)
        return NULL;
    answer = receive_line(fd, domain, &len, e);
    return answer ? open_answer(domain, answer, len, e) : NULL;
}

/* --- names and IDs --- */

static bool has_id(const char *name, long id) {
    json_t *info = client_call(name, "domain.info", NULL, NULL);
    bool same = json_integer_value(json_object_get(info, "pid")) == id;

    json_decref(info);
    return same;
}

static char *find_id(long id, struct err *e) {
    char *found = NULL, **names;
    size_t count;

    names = state_list(&count, e);
    if (!names)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        if (!found && has_id(names[i], id))
            found = names[i];
        else
            free(names[i]);
    }
    free(names);
    if (!found)
        err_set(e, 0, "there is no domain with the ID %ld (see rf list)", id);
    return found;
}

char *client_resolve(const char *domain, struct err *e) {
    char *end;
    long id = strtol(domain, &end, 10);

    if (*end || end == domain || state_is_alive(domain))
        return state_check_name(domain, e) < 0 ? NULL : xstrdup(domain);
    return find_id(id, e);
}

bool client_wait_end(const char *domain, int ms) {
    for (int waited = 0; state_is_alive(domain); waited += TICK_MS) {
        if (ms >= 0 && waited >= ms)
            return false;
        tick();
    }
    return true;
}
