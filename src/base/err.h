/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors on host and control paths: a chain of messages that says what was being done and to what.
 *
 * A fallible function takes `struct err *` as its last argument and returns a negative value on
 * failure (or NULL, for those that return a pointer). Success leaves the error untouched. The
 * outermost context comes first: "kernel vmlinuz: payload: xz: unexpected end of input".
 */
#ifndef RINGFENCE_BASE_ERR_H
#define RINGFENCE_BASE_ERR_H

struct err {
    int code;  /* an errno value, or 0 where none fits */
    char *msg; /* owned; NULL while no error is set */
};

#define ERR_INIT ((struct err){0, 0})

/*
 * Sets the error to a formatted message; when errnum is not 0, ": strerror(errnum)" follows it.
 * A null `e` is allowed and drops the message. Returns -errnum, or -1 when errnum is 0, so that
 * `return err_set(e, errno, "open %s", path);` fits on one line.
 */
int err_set(struct err *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "CONTEXT: " before the message. Returns what err_set returned for it. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The message, or "no error". Valid until the error is changed or cleared. */
const char *err_msg(const struct err *e);

/* Releases the message and makes the error reusable. */
void err_clear(struct err *e);

#define cleanup_err __attribute__((cleanup(err_clear)))

#endif
