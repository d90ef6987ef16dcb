/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plain accesses to guest RAM through a host pointer that mem.h or a TLB gave, of any alignment.
 * Other vCPUs write there at any time: what is read is of no use but as the guest's own value, and
 * is to be read once. ThreadSanitizer is told so here and nowhere else.
 */
#ifndef RINGFENCE_MEM_GUEST_H
#define RINGFENCE_MEM_GUEST_H

#include <stdint.h>
#include <string.h>

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define GUEST_RACES
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define GUEST_RACES
#endif

/* Sanitized callers may not inline what is not sanitized. */
#ifdef GUEST_RACES
#define GUEST_ACCESS __attribute__((no_sanitize("thread"), noinline, unused))
#else
#define GUEST_ACCESS inline __attribute__((always_inline))
#endif

#define GUEST_ACCESSORS(bits)                                                                      \
    static GUEST_ACCESS uint##bits##_t guest_ld##bits(const void *p) {                             \
        uint##bits##_t v;                                                                          \
        memcpy(&v, p, sizeof(v));                                                                  \
        return v;                                                                                  \
    }                                                                                              \
    static GUEST_ACCESS void guest_st##bits(void *p, uint##bits##_t v) {                           \
        memcpy(p, &v, sizeof(v));                                                                  \
    }
GUEST_ACCESSORS(8)
GUEST_ACCESSORS(16)
GUEST_ACCESSORS(32)
GUEST_ACCESSORS(64)
#undef GUEST_ACCESSORS

/* 1, 2, 4 or 8 bytes. */
static inline uint64_t guest_ld(const void *p, unsigned size) {
    return size == 8   ? guest_ld64(p)
           : size == 4 ? guest_ld32(p)
           : size == 2 ? guest_ld16(p)
                       : guest_ld8(p);
}

static inline void guest_st(void *p, uint64_t v, unsigned size) {
    if (size == 8)
        guest_st64(p, v);
    else if (size == 4)
        guest_st32(p, (uint32_t)v);
    else if (size == 2)
        guest_st16(p, (uint16_t)v);
    else
        guest_st8(p, (uint8_t)v);
}

/* When they overlap, `to` is below `from`. The sanitizer's memcpy and memset look at memory, a
 * string instruction does not.
 */
static inline void guest_copy(void *to, const void *from, uint64_t n) {
#ifdef GUEST_RACES
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#else
    memmove(to, from, n);
#endif
}

static inline void guest_fill(void *to, uint8_t v, uint64_t n) {
#ifdef GUEST_RACES
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory");
#else
    memset(to, v, n);
#endif
}

#endif
