/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operand values: boundary integers, and floating-point numbers of every class (zeros, denormals,
 * pseudo-denormals, unnormals, infinities, quiet and signalling NaNs) next to random ones whose
 * exponents meet.
 */
#include "isa.h"

#include <string.h>

uint64_t rng_next(struct rng *r) {
    uint64_t z = r->s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t rng_below(struct rng *r, uint64_t n) {
    return rng_next(r) % n;
}

bool rng_one_in(struct rng *r, unsigned n) {
    return rng_next(r) % n == 0;
}

uint64_t value_int(struct rng *r) {
    uint64_t x = rng_next(r);
    unsigned bits = 1u << (3 + rng_below(r, 4)); /* 8, 16, 32, 64 */
    switch (rng_below(r, 8)) {
    case 0:
        return rng_below(r, 8);
    case 1:
        return -rng_below(r, 8);
    case 2: /* around the sign change of a size */
        return (1ull << (bits - 1)) + rng_below(r, 3) - 1;
    case 3: /* around the overflow of a size */
        return (bits == 64 ? 0 : 1ull << bits) + rng_below(r, 3) - 1;
    case 4: /* of random length */
        return x >> rng_below(r, 64);
    case 5: /* bytes that are 0, 1, 0x7f, 0x80, 0xff */
        for (unsigned i = 0; i < 8; i++)
            ((uint8_t *)&x)[i] = (const uint8_t[]){0, 1, 0x7f, 0x80, 0xff}[rng_below(r, 5)];
        return x;
    default:
        return x;
    }
}

/* A number with `e` exponent and `m` fraction bits. */
static uint64_t value_float(struct rng *r, unsigned e, unsigned m) {
    uint64_t bias = (1ull << (e - 1)) - 1, emax = (1ull << e) - 1;
    uint64_t frac = rng_next(r) & ((1ull << m) - 1), sign = rng_next(r) & 1, ex;
    switch (rng_below(r, 14)) {
    case 0: /* zero */
        ex = frac = 0;
        break;
    case 1: /* denormal */
        ex = 0;
        break;
    case 2: /* infinity */
        ex = emax;
        frac = 0;
        break;
    case 3: /* quiet, or signalling */
        ex = emax;
        frac = rng_one_in(r, 2) ? frac | 1ull << (m - 1) : (frac & ~(1ull << (m - 1))) | 1;
        break;
    case 4: /* near overflow or underflow */
        ex = rng_one_in(r, 2) ? emax - 1 - rng_below(r, 2) : 1 + rng_below(r, 2);
        break;
    case 5: /* small integers and halves */
        ex = bias + rng_below(r, 5) - 1;
        frac &= 7ull << (m - 3);
        break;
    case 6: /* around the range of the integers */
        ex = bias + (const uint8_t[]){7, 8, 14, 15, 16, 30, 31, 32, 62, 63, 64}[rng_below(r, 11)];
        ex = ex >= emax ? emax - 1 : ex;
        frac = rng_one_in(r, 2) ? 0 : rng_one_in(r, 2) ? (1ull << m) - 1 : frac;
        break;
    case 7:
        ex = rng_below(r, emax + 1);
        break;
    default: /* near one another */
        ex = bias + rng_below(r, 9) - 4;
    }
    return sign << (e + m) | ex << m | frac;
}

void value_fill(struct rng *r, enum value_style style, uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v;
        switch (style) {
        case STYLE_F16:
            v = value_float(r, 5, 10) | value_float(r, 5, 10) << 16 | value_float(r, 5, 10) << 32 |
                value_float(r, 5, 10) << 48;
            break;
        case STYLE_F32:
            v = value_float(r, 8, 23) | value_float(r, 8, 23) << 32;
            break;
        case STYLE_F64:
            v = value_float(r, 11, 52);
            break;
        case STYLE_SMALL:
            v = rng_next(r) & 0x0f070f030f010f1full;
            break;
        case STYLE_EDGE:
            v = value_int(r);
            break;
        default:
            v = rng_next(r);
        }
        memcpy(p + i, &v, n - i < 8 ? n - i : 8);
    }
}

void value_f80(struct rng *r, uint8_t p[10]) {
    uint64_t frac = rng_next(r) | 1ull << 63;
    unsigned ex = 0x3fff;
    switch (rng_below(r, 20)) {
    case 0:
        ex = 0;
        frac = 0;
        break;
    case 1: /* denormal, pseudo-denormal */
        ex = 0;
        frac = rng_one_in(r, 2) ? frac : frac & ~(1ull << 63);
        break;
    case 2:
        ex = 0x7fff;
        frac = 1ull << 63;
        break;
    case 3:
        ex = 0x7fff;
        frac = rng_one_in(r, 2) ? frac | 3ull << 62 : (frac & ~(1ull << 62)) | 1;
        break;
    case 4: /* unnormal, pseudo-infinity, pseudo-NaN */
        ex = rng_one_in(r, 2) ? 0x7fff : (unsigned)rng_below(r, 0x7fff);
        frac &= ~(1ull << 63);
        break;
    case 5:
        ex = rng_one_in(r, 2) ? 1 + (unsigned)rng_below(r, 3) : 0x7ffe - (unsigned)rng_below(r, 3);
        break;
    case 6: /* around the ends of the smaller formats */
        ex = 0x3fff + (rng_one_in(r, 2) ? 127 : 1023) + (unsigned)rng_below(r, 3) - 1;
        break;
    case 7:
        ex = 0x3fff - (rng_one_in(r, 2) ? 126 : 1022) - (unsigned)rng_below(r, 66);
        break;
    case 8: /* integers, and around their range */
        ex = 0x3fff + (unsigned)rng_below(r, 66);
        frac &= ~0ull << rng_below(r, 64);
        break;
    case 9:
        ex = (unsigned)rng_below(r, 0x7fff);
        break;
    case 10: /* 1, 1.5, 2, 3, ... */
        ex = 0x3fff + (unsigned)rng_below(r, 3);
        frac = (2 + rng_below(r, 2)) << 62;
        break;
    default:
        ex = 0x3fff + (unsigned)rng_below(r, 9) - 4;
    }
    ex |= (unsigned)(rng_next(r) & 1) << 15;
    memcpy(p, &frac, 8);
    p[8] = (uint8_t)ex;
    p[9] = (uint8_t)(ex >> 8);
}

/* Control and status words: mostly with exceptions masked, so that there are results. */
static void value_control(struct rng *r, struct isa_state *s) {
    uint64_t x = rng_next(r);
    s->fcw = rng_one_in(r, 2) ? 0x37f : (uint16_t)(0x7f | (x & 0x1f00));
    if (rng_one_in(r, 8))
        s->fcw = (uint16_t)((s->fcw & ~0x3f) | (x >> 16 & 0x3f));
    s->fsw = (uint16_t)(x >> 32 & 0x7f7f);
    if (rng_one_in(r, 2))
        s->fsw &= 0x7f00;
    if (!rng_one_in(r, 32))
        s->fsw &= (uint16_t)(0xff40 | s->fcw); /* nothing pending */
    if (s->fsw & ~s->fcw & 0x3f)
        s->fsw |= 0x8080;
    s->mxcsr = 0x1f80 | (x >> 48 & 0x6000);
    if (rng_one_in(r, 4))
        s->mxcsr |= (uint32_t)(x >> 8 & 0x8040);
    if (rng_one_in(r, 4))
        s->mxcsr |= (uint32_t)(x >> 20 & 0x3f);
    if (rng_one_in(r, 8))
        s->mxcsr &= ~(uint32_t)(x >> 24 & 0x1f80);
}

void value_fpu(struct rng *r, struct isa_state *s, enum value_style style) {
    value_control(r, s);
    s->ftw = (uint8_t)(rng_one_in(r, 4) ? rng_next(r) : rng_one_in(r, 3) ? 0x00 : 0xff);
    for (unsigned i = 0; i < 8; i++)
        value_f80(r, s->st[i]);
    if (rng_one_in(r, 4)) /* MMX registers: exponent and sign all ones */
        for (unsigned i = 0; i < 8; i++) {
            value_fill(r, style, s->st[i], 8);
            s->st[i][8] = s->st[i][9] = 0xff;
        }
    for (unsigned i = 0; i < 16; i++)
        value_fill(r, rng_one_in(r, 8) ? (enum value_style)rng_below(r, STYLES) : style, s->ymm[i],
                   32);
    if (rng_one_in(r, 8))
        memcpy(s->ymm[rng_below(r, 16)], s->ymm[rng_below(r, 16)], 32);
    /* The last instruction's addresses: 11 bits of opcode, and canonical ones. */
    s->fop = rng_next(r) & 0x7ff;
    s->fip = rng_next(r) & 0x7fffffffffff;
    s->fdp = rng_next(r) & 0x7fffffffffff;
}
