/* SPDX-License-Identifier: Apache-2.0 */
/* Optimal string alignment distance over short names, three rows at a time. */
#include "domain/suggest.h"

#include <string.h>

#include "base/util.h"

#define SUGGEST_MAX 64 /* longer words are nobody's typing mistake */

static size_t min3(size_t a, size_t b, size_t c) {
    return MIN(MIN(a, b), c);
}

static size_t distance(const char *a, const char *b) {
    size_t rows[3][SUGGEST_MAX + 1];
    size_t la = strlen(a), lb = strlen(b);

    for (size_t j = 0; j <= lb; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *row = rows[i % 3], *up = rows[(i + 2) % 3], *upup = rows[(i + 1) % 3];

        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            row[j] = min3(row[j - 1] + 1, up[j] + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = MIN(row[j], upup[j - 2] + 1);
        }
    }
    return rows[la % 3][lb];
}

void suggest_init(struct suggest *s, const char *typed) {
    *s = (struct suggest){.typed = typed, .distance = (size_t)-1};
}

void suggest_try(struct suggest *s, const char *name) {
    size_t typed = strlen(s->typed), len = strlen(name), d;

    if (typed == 0 || typed > SUGGEST_MAX || len > SUGGEST_MAX)
        return;
    d = distance(s->typed, name);
    if (typed >= 3 && strncmp(s->typed, name, typed) == 0)
        d = MIN(d, 1);
    if (d > MAX(typed, len) / 3 || d >= s->distance)
        return;
    s->distance = d;
    s->best = name;
}

const char *suggest_best(const struct suggest *s) {
    return s->best;
}
