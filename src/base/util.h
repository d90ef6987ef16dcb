/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that every floor uses: clean-up by scope, container_of, checked arithmetic. */
#ifndef RINGFENCE_BASE_UTIL_H
#define RINGFENCE_BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Each side is evaluated once: it may be a call whose answer another thread changes. */
#define MIN(a, b) PICK(a, <, b, __COUNTER__)
#define MAX(a, b) PICK(a, >, b, __COUNTER__)
#define PICK(a, op, b, n) PICK_NAMED(a, op, b, n)
#ifdef __cppcheck__ /* which cannot read a statement within an expression */
#define PICK_NAMED(a, op, b, n) ((a)op(b) ? (a) : (b))
#else
#define PICK_NAMED(a, op, b, n)                                                                    \
    __extension__({                                                                                \
        const __auto_type a_##n = (a);                                                             \
        const __auto_type b_##n = (b);                                                             \
        a_##n op b_##n ? a_##n : b_##n;                                                            \
    })
#endif

/* Frees the pointer that a variable holds (for cleanup_free). */
void cleanup_free_fn(void *pptr);
/* Closes the descriptor that a variable holds, unless it is negative (for cleanup_close). */
void cleanup_close_fn(const int *fd);

#define cleanup_free __attribute__((cleanup(cleanup_free_fn)))
#define cleanup_close __attribute__((cleanup(cleanup_close_fn)))

/* Memory that is zeroed and never NULL: running out of it ends the process with a message. */
void *xcalloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2), returns_nonnull));

/* Room for `more` bytes behind the `len` in a buffer that xcalloc made (or NULL), which may move.
 */
void xreserve(uint8_t **buf, size_t *cap, size_t len, size_t more);

/* True when [off, off + len) lies within [0, size), without overflow. */
static inline bool range_within(uint64_t off, uint64_t len, uint64_t size) {
    return len <= size && off <= size - len;
}

static inline uint64_t align_down(uint64_t v, uint64_t a) {
    return v & ~(a - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t a) {
    return (v + a - 1) & ~(a - 1);
}

#endif
