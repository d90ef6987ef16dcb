/* SPDX-License-Identifier: Apache-2.0 */
/* Work for a compiler, and for what it makes: integers, doubles, a sieve, recursion, a hash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned ackermann(unsigned m, unsigned n) {
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static unsigned primes(unsigned below) {
    char *composite = calloc(below, 1);
    unsigned count = 0;
    for (unsigned i = 2; i < below; i++) {
        if (composite[i])
            continue;
        count++;
        for (unsigned k = 2 * i; k < below; k += i)
            composite[k] = 1;
    }
    free(composite);
    return count;
}

static int order(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return x < y ? -1 : x > y;
}

static unsigned sorted(unsigned count) {
    unsigned *v = malloc(count * sizeof *v), x = 1, hash = 0;
    for (unsigned i = 0; i < count; i++)
        v[i] = x = x * 1664525u + 1013904223u;
    qsort(v, count, sizeof *v, order);
    for (unsigned i = 0; i < count; i++)
        hash = hash * 31 + v[i];
    free(v);
    return hash;
}

int main(void) {
    double sum = 0;
    for (int i = 1; i < 200000; i++)
        sum += (i & 1 ? 4.0 : -4.0) / (2 * i - 1);
    printf("%.15f %u %u %08x\n", sum, ackermann(2, 300), primes(300000), sorted(60000));
    return 0;
}
