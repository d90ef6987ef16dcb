/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User-mode computing: what a processor does between two system calls. Small and self-contained, so
 * that every contestant runs the same instructions.
 */
#include "bench.h"

#include <math.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Registers only: no load and no store in the loop. */
static uint64_t batch_xorshift(void) {
    uint64_t x = BENCH_SEED;
    for (unsigned i = 0; i < 1000000; i++)
        x = bench_xorshift(x);
    return x;
}

enum { SORT_ITEMS = 100000 };

static int sort_source[SORT_ITEMS], sort_items[SORT_ITEMS];

static int compare_ints(const void *a, const void *b) {
    const int *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void prepare_qsort(void) {
    uint64_t x = BENCH_SEED;
    for (unsigned i = 0; i < SORT_ITEMS; i++) {
        x = bench_xorshift(x);
        sort_source[i] = (int)(x >> 33);
    }
}

static uint64_t batch_qsort(void) {
    memcpy(sort_items, sort_source, sizeof(sort_items));
    qsort(sort_items, SORT_ITEMS, sizeof(sort_items[0]), compare_ints);
    return (uint64_t)sort_items[SORT_ITEMS / 3];
}

/* A red-black tree of the C library, each node from malloc: filled, searched, emptied. */
enum { TREE_KEYS = 10000 };

static uint64_t tree_keys[TREE_KEYS];

static int compare_keys(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void keep_key(void *key) {
    (void)key;
}

static void prepare_tree(void) {
    uint64_t x = BENCH_SEED;
    for (unsigned i = 0; i < TREE_KEYS; i++)
        tree_keys[i] = x = bench_xorshift(x);
}

static uint64_t batch_tree(void) {
    void *root = NULL;
    uint64_t sum = 0;
    for (unsigned i = 0; i < TREE_KEYS; i++)
        tsearch(&tree_keys[i], &root, compare_keys);
    for (unsigned i = 0; i < TREE_KEYS; i++) {
        uint64_t **found = tfind(&tree_keys[i], &root, compare_keys);
        sum += **found;
    }
    tdestroy(root, keep_key);
    return sum;
}

enum { MATRIX = 256 };

static double matrix_a[MATRIX][MATRIX], matrix_b[MATRIX][MATRIX], matrix_c[MATRIX][MATRIX];

static void prepare_matrix(void) {
    for (unsigned i = 0; i < MATRIX; i++) {
        for (unsigned j = 0; j < MATRIX; j++) {
            matrix_a[i][j] = (double)(i + j) / MATRIX;
            matrix_b[i][j] = (double)(i ^ j) / MATRIX;
        }
    }
}

static uint64_t batch_matrix(void) {
    memset(matrix_c, 0, sizeof(matrix_c));
    for (unsigned i = 0; i < MATRIX; i++) {
        for (unsigned k = 0; k < MATRIX; k++) {
            for (unsigned j = 0; j < MATRIX; j++)
                matrix_c[i][j] += matrix_a[i][k] * matrix_b[k][j];
        }
    }
    return (uint64_t)(matrix_c[MATRIX - 1][MATRIX - 1] * 1024);
}

/* The check is coarse: the C library picks its code by CPUID, and the last digits go with it. */
static uint64_t batch_libm(void) {
    double sum = 0;
    for (unsigned i = 0; i < 100000; i++)
        sum += sin(i * 0.001) + sqrt(i);
    return (uint64_t)sum;
}

/* Long doubles are the x87's. */
static uint64_t batch_x87(void) {
    long double x = 0.5L, sum = 0;
    for (unsigned i = 0; i < 100000; i++) {
        x = 3.75L * x * (1.0L - x);
        sum += x / (x + 1.0L);
    }
    return (uint64_t)(sum * 1024);
}

enum { COPY_BYTES = 1 << 20, COPY_BLOCK = 16384 };

static unsigned char copy_from[COPY_BYTES], copy_to[COPY_BYTES];

static void prepare_copy(void) {
    uint64_t x = BENCH_SEED;
    for (unsigned i = 0; i < COPY_BYTES; i++) {
        x = bench_xorshift(x);
        copy_from[i] = (unsigned char)x;
    }
}

static uint64_t batch_memcpy(void) {
    for (unsigned i = 0; i < COPY_BYTES; i += COPY_BLOCK)
        memcpy(copy_to + i, copy_from + (COPY_BYTES - COPY_BLOCK - i), COPY_BLOCK);
    return copy_to[COPY_BYTES / 2];
}

/* Lengths as programs have them: 1 to 256 bytes, anyhow aligned. */
static uint64_t batch_memcpy_small(void) {
    uint64_t x = BENCH_SEED;
    for (unsigned i = 0; i < 100000; i++) {
        x = bench_xorshift(x);
        memcpy(copy_to + (x >> 8 & 0xffff), copy_from + (x >> 24 & 0xffff), 1 + (x & 0xff));
    }
    return copy_to[12345];
}

/*
 * A machine of eight registers and a memory, whose program counts primes: as interpreters go, loads
 * of small structures and a jump through a table for each operation.
 */
enum op { OP_SET, OP_ADD, OP_INC, OP_LESS, OP_LOAD, OP_STORE, OP_IF, OP_GOTO, OP_END };

struct code {
    uint8_t op, a, b, c;
    int32_t imm;
};

enum { SIEVE = 20000 };

/* r0 i, r1 j, r2 limit, r3 flag, r4 one, r5 count */
static const struct code sieve_code[] = {
    {OP_SET, 0, 0, 0, 2},     /* 0: i = 2 */
    {OP_SET, 2, 0, 0, SIEVE}, /* 1 */
    {OP_SET, 4, 0, 0, 1},     /* 2 */
    {OP_SET, 5, 0, 0, 0},     /* 3 */
    {OP_LESS, 3, 0, 2, 0},    /* 4: while i < limit */
    {OP_IF, 3, 0, 0, 7},      /* 5 */
    {OP_END, 5, 0, 0, 0},     /* 6 */
    {OP_LOAD, 3, 0, 0, 0},    /* 7: marked? */
    {OP_IF, 3, 0, 0, 15},     /* 8 */
    {OP_INC, 5, 0, 0, 0},     /* 9: one more */
    {OP_ADD, 1, 0, 0, 0},     /* 10: j = 2i */
    {OP_LESS, 3, 1, 2, 0},    /* 11: while j < limit */
    {OP_IF, 3, 0, 0, 17},     /* 12 */
    {OP_GOTO, 0, 0, 0, 15},   /* 13 */
    {OP_GOTO, 0, 0, 0, 15},   /* 14 */
    {OP_INC, 0, 0, 0, 0},     /* 15: i++ */
    {OP_GOTO, 0, 0, 0, 4},    /* 16 */
    {OP_STORE, 1, 4, 0, 0},   /* 17: mark j */
    {OP_ADD, 1, 1, 0, 0},     /* 18: j += i */
    {OP_GOTO, 0, 0, 0, 11},   /* 19 */
};

static uint64_t run_code(const struct code *code, int64_t *memory) {
    int64_t r[8] = {0};
    for (const struct code *p = code;; p++) {
        switch ((enum op)p->op) {
        case OP_SET:
            r[p->a] = p->imm;
            break;
        case OP_ADD:
            r[p->a] = r[p->b] + r[p->c];
            break;
        case OP_INC:
            r[p->a]++;
            break;
        case OP_LESS:
            r[p->a] = r[p->b] < r[p->c];
            break;
        case OP_LOAD:
            r[p->a] = memory[r[p->b]];
            break;
        case OP_STORE:
            memory[r[p->a]] = r[p->b];
            break;
        case OP_IF:
            if (r[p->a])
                p = code + p->imm - 1;
            break;
        case OP_GOTO:
            p = code + p->imm - 1;
            break;
        case OP_END:
            return (uint64_t)r[p->a];
        }
    }
}

static uint64_t batch_bytecode(void) {
    static int64_t memory[SIEVE];
    memset(memory, 0, sizeof(memory));
    return run_code(sieve_code, memory);
}

/* SHA-256 (FIPS 180-4). Our own, because libraries choose processors' special instructions. */
static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, unsigned n) {
    return x >> n | x << (32 - n);
}

static void sha_schedule(uint32_t w[64], const unsigned char *block) {
    for (unsigned i = 0; i < 16; i++) {
        memcpy(&w[i], block + 4 * i, 4);
        w[i] = __builtin_bswap32(w[i]);
    }
    for (unsigned i = 16; i < 64; i++) {
        uint32_t s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
}

static void sha_block(uint32_t h[8], const unsigned char *block) {
    uint32_t w[64], s[8];
    sha_schedule(w, block);
    memcpy(s, h, sizeof(s));
    for (unsigned i = 0; i < 64; i++) {
        uint32_t e1 = ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25);
        uint32_t t1 = s[7] + e1 + ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
        uint32_t e0 = ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22);
        uint32_t t2 = e0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof(s[0]));
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++)
        h[i] += s[i];
}

enum { SHA_BYTES = 64 << 10 };

static uint64_t batch_sha256(void) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (unsigned i = 0; i < SHA_BYTES; i += 64)
        sha_block(h, copy_from + i);
    return (uint64_t)h[0] << 32 | h[7];
}

/* Text of pseudo-random words, compressed and uncompressed again. */
enum { TEXT_BYTES = 128 << 10 };

static unsigned char text[TEXT_BYTES], text_packed[TEXT_BYTES], text_again[TEXT_BYTES];

static void prepare_zlib(void) {
    uint64_t x = BENCH_SEED;
    for (unsigned at = 0; at < TEXT_BYTES;) {
        x = bench_xorshift(x);
        uint64_t word = (x >> 20 & x >> 40) % 1000; /* some words more often than others */
        for (unsigned n = 2 + word % 7; n && at < TEXT_BYTES; n--, word = word * 31 + 7)
            text[at++] = (unsigned char)('a' + word % 26);
        if (at < TEXT_BYTES)
            text[at++] = ' ';
    }
}

static uint64_t batch_zlib(void) {
    uLongf packed = sizeof(text_packed), again = sizeof(text_again);
    if (compress2(text_packed, &packed, text, TEXT_BYTES, 6) != Z_OK ||
        uncompress(text_again, &again, text_packed, packed) != Z_OK || again != TEXT_BYTES ||
        memcmp(text, text_again, TEXT_BYTES) != 0)
        bench_die("zlib");
    return bench_mix(packed, crc32(0, text_packed, (uInt)packed));
}

const struct work compute_works[] = {
    {"xorshift", NULL, batch_xorshift, 1000000},
    {"qsort", prepare_qsort, batch_qsort, SORT_ITEMS},
    {"tree", prepare_tree, batch_tree, TREE_KEYS},
    {"matrix", prepare_matrix, batch_matrix, 1},
    {"libm", NULL, batch_libm, 100000},
    {"x87", NULL, batch_x87, 100000},
    {"memcpy", prepare_copy, batch_memcpy, COPY_BYTES / COPY_BLOCK},
    {"memcpy-small", prepare_copy, batch_memcpy_small, 100000},
    {"bytecode", NULL, batch_bytecode, 1},
    {"sha256", prepare_copy, batch_sha256, SHA_BYTES / 1024},
    {"zlib", prepare_zlib, batch_zlib, TEXT_BYTES / 1024},
    {0},
};
