/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xl.cfg(5) syntax by recursive descent over a bounded cursor. Accepted as libxlu accepts it: C
 * escapes in strings (\n, \t, \xHH, octal), newlines inside lists, a comma after the last item,
 * several settings on a line with ';'. Not accepted: names that start with a digit.
 */
#include "domain/xlcfg.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

struct cursor {
    const char *p, *end;
    unsigned line;
};

static int peek(const struct cursor *c) {
    return c->p < c->end ? (unsigned char)*c->p : -1;
}

static bool is_word(int ch) {
    return ch >= 0 && (isalnum(ch) || ch == '_' || ch == '-');
}

static void skip_blanks(struct cursor *c) {
    while (peek(c) == ' ' || peek(c) == '\t' || peek(c) == '\r')
        c->p++;
    if (peek(c) == '#')
        while (c->p < c->end && *c->p != '\n')
            c->p++;
}

static void skip_lines(struct cursor *c) {
    for (skip_blanks(c); peek(c) == '\n'; skip_blanks(c)) {
        c->line++;
        c->p++;
    }
}

/* Names what was found instead of what was expected. */
static int unexpected(const struct cursor *c, const char *wanted, struct err *e) {
    int ch = peek(c);

    if (ch < 0)
        return err_set(e, 0, "line %u: expected %s before the end", c->line, wanted);
    if (ch == '\n')
        return err_set(e, 0, "line %u: expected %s before the end of the line", c->line, wanted);
    if (isprint(ch))
        return err_set(e, 0, "line %u: expected %s, found '%c'", c->line, wanted, ch);
    return err_set(e, 0, "line %u: expected %s, found byte 0x%02x", c->line, wanted, ch);
}

static char *copy_range(const char *from, const char *to) {
    size_t len = (size_t)(to - from);
    char *s = xcalloc(len + 1, 1);

    memcpy(s, from, len);
    return s;
}

/* Up to `max` digits of the base; -1 when there is none. */
static int parse_code(struct cursor *c, int base, int max) {
    static const char digits[] = "0123456789abcdef";
    int value = -1;

    for (int n = 0; n < max; n++) {
        int ch = peek(c);
        const char *d = ch > 0 ? memchr(digits, tolower(ch), (size_t)base) : NULL;

        if (!d)
            break;
        value = (value < 0 ? 0 : value) * base + (int)(d - digits);
        c->p++;
    }
    return value;
}

/* The byte that a backslash and what follows it stand for; the cursor is behind the backslash. */
static int parse_escape(struct cursor *c, struct err *e) {
    static const char names[] = "abfnrtv\\'\"";
    static const char bytes[] = "\a\b\f\n\r\t\v\\'\"";
    int ch = peek(c), code;
    const char *n = ch > 0 ? strchr(names, ch) : NULL;

    if (n) {
        c->p++;
        return (unsigned char)bytes[n - names];
    }
    if (ch == 'x') {
        c->p++;
        code = parse_code(c, 16, 2);
    } else {
        code = parse_code(c, 8, 3);
    }
    if (code <= 0 || code > 255)
        return err_set(e, 0, "line %u: invalid escape after '\\' in a string", c->line);
    return code;
}

static int parse_string(struct cursor *c, struct xlcfg_value *v, struct err *e) {
    char quote = *c->p++;
    const char *eol = memchr(c->p, '\n', (size_t)(c->end - c->p));
    cleanup_free char *s = xcalloc((size_t)((eol ? eol : c->end) - c->p) + 1, 1);
    size_t len = 0;

    while (peek(c) != quote) {
        int ch = peek(c);

        if (ch < 0 || ch == '\n')
            return err_set(e, 0, "line %u: a string that starts with %c does not end", c->line,
                           quote);
        if (ch == 0)
            return err_set(e, 0, "line %u: a NUL byte in a string", c->line);
        c->p++;
        if (ch == '\\' && (ch = parse_escape(c, e)) < 0)
            return ch;
        s[len++] = (char)ch;
    }
    c->p++;
    v->kind = XLCFG_STRING;
    v->text = xstrdup(s);
    return 0;
}

static int parse_number(struct cursor *c, struct xlcfg_value *v, struct err *e) {
    const char *start = c->p;
    char *end;

    if (peek(c) == '-')
        c->p++;
    while (is_word(peek(c)))
        c->p++;
    v->kind = XLCFG_NUMBER;
    v->text = copy_range(start, c->p);
    strtoll(v->text, &end, 0);
    if (end == v->text || *end)
        return err_set(e, 0, "line %u: '%s' is not a number (strings need quotes)", c->line,
                       v->text);
    return 0;
}

static int parse_value(struct cursor *c, unsigned depth, struct xlcfg_value *v, struct err *e);

static int parse_list(struct cursor *c, unsigned depth, struct xlcfg_value *v, struct err *e) {
    size_t cap = 0;

    if (depth == XLCFG_DEPTH)
        return err_set(e, 0, "line %u: lists nest too deeply", c->line);
    v->kind = XLCFG_LIST;
    c->p++;
    for (skip_lines(c); peek(c) != ']'; skip_lines(c)) {
        if (v->count == cap) {
            struct xlcfg_value *grown = xcalloc(cap ? cap * 2 : 4, sizeof(*grown));

            if (cap)
                memcpy(grown, v->items, cap * sizeof(*grown));
            free(v->items);
            v->items = grown;
            cap = cap ? cap * 2 : 4;
        }
        int r = parse_value(c, depth + 1, &v->items[v->count++], e);
        if (r < 0)
            return r;
        skip_lines(c);
        if (peek(c) == ',')
            c->p++;
        else if (peek(c) != ']')
            return unexpected(c, "',' or ']'", e);
    }
    c->p++;
    return 0;
}

static int parse_value(struct cursor *c, unsigned depth, struct xlcfg_value *v, struct err *e) {
    int ch = peek(c);

    if (ch == '"' || ch == '\'')
        return parse_string(c, v, e);
    if (ch == '[')
        return parse_list(c, depth, v, e);
    if (ch == '-' || is_word(ch))
        return parse_number(c, v, e);
    return unexpected(c, "a string in quotes, a number or a list", e);
}

static int parse_setting(struct cursor *c, struct xlcfg_setting *s, struct err *e) {
    const char *start = c->p;
    int r;

    s->line = c->line;
    if (isdigit(peek(c)) || !is_word(peek(c)))
        return unexpected(c, "a name", e);
    while (is_word(peek(c)))
        c->p++;
    s->name = copy_range(start, c->p);
    skip_blanks(c);
    if (peek(c) == '+') {
        s->append = true;
        c->p++;
    }
    if (peek(c) != '=')
        return unexpected(c, "'='", e);
    c->p++;
    skip_blanks(c);
    r = parse_value(c, 0, &s->value, e);
    if (r < 0)
        return r;
    skip_blanks(c);
    if (peek(c) != '\n' && peek(c) != ';' && peek(c) >= 0)
        return unexpected(c, "the end of the line or ';'", e);
    return 0;
}

int xlcfg_parse(const char *text, size_t len, struct xlcfg *out, struct err *e) {
    struct cursor c = {text, text + len, 1};
    size_t cap = 0;

    *out = (struct xlcfg){0};
    for (;;) {
        for (skip_lines(&c); peek(&c) == ';'; skip_lines(&c))
            c.p++;
        if (peek(&c) < 0)
            return 0;
        if (out->count == cap) {
            cap = cap ? cap * 2 : 16;
            struct xlcfg_setting *grown = xcalloc(cap, sizeof(*grown));

            if (out->count)
                memcpy(grown, out->settings, out->count * sizeof(*grown));
            free(out->settings);
            out->settings = grown;
        }
        int r = parse_setting(&c, &out->settings[out->count++], e);
        if (r < 0) {
            xlcfg_free(out);
            return r;
        }
    }
}

void xlcfg_value_free(struct xlcfg_value *v) {
    for (size_t i = 0; i < v->count; i++)
        xlcfg_value_free(&v->items[i]);
    free(v->items);
    free(v->text);
    *v = (struct xlcfg_value){0};
}

void xlcfg_free(struct xlcfg *c) {
    for (size_t i = 0; i < c->count; i++) {
        free(c->settings[i].name);
        xlcfg_value_free(&c->settings[i].value);
    }
    free(c->settings);
    *c = (struct xlcfg){0};
}

int xlcfg_parse_value(const char *text, struct xlcfg_value *out, struct err *e) {
    struct cursor c = {text, text + strlen(text), 1};
    int r;

    *out = (struct xlcfg_value){0};
    skip_blanks(&c);
    if (peek(&c) != '"' && peek(&c) != '\'' && peek(&c) != '[') {
        char *end;

        out->text = xstrdup(text);
        strtoll(text, &end, 0);
        out->kind = end != text && !*end ? XLCFG_NUMBER : XLCFG_STRING;
        return 0;
    }
    r = parse_value(&c, 0, out, e);
    skip_blanks(&c);
    if (r == 0 && peek(&c) >= 0)
        r = unexpected(&c, "the end of the value", e);
    if (r < 0)
        xlcfg_value_free(out);
    return r;
}
