/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native thunks (thunk.h): a code writer for their few instruction shapes, the cache, and the
 * SIGFPE handler that turns an unmasked SIMD exception inside a thunk into its return value.
 *
 * Code lies in a memfd that is mapped twice, for writing and for execution, so that no page is ever
 * both.
 */
#include "cpu/x86/thunk.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/util.h"

/* Address space, not memory: pages are allocated as thunks are written. */
#define ARENA_SIZE (64u << 20)
#define THUNK_MAX 256 /* the longest thunk */
#define BUCKETS 8192

static struct {
    pthread_mutex_t lock;
    bool tried;
    bool avx;
    uint8_t *rw, *rx;
    size_t used;
    struct sigaction previous;
    struct thunk *bucket[BUCKETS];
} arena = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- the code writer ---- */

struct emit {
    uint8_t *p;
};

static void emit(struct emit *e, const void *bytes, size_t n) {
    memcpy(e->p, bytes, n);
    e->p += n;
}

#define EMIT(e, ...) emit(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* Slot pointers arrive in r8, r9, rdx, rcx. Returns ModRM.rm; *high says whether it needs the B
 * bit. */
static unsigned slot_pointer(unsigned slot, bool *high) {
    static const uint8_t rm[THUNK_SLOTS] = {0, 1, 2, 1};
    *high = slot < 2;
    return rm[slot];
}

static void emit_slot(struct emit *e, unsigned type, unsigned slot, bool store) {
    bool high;
    unsigned modrm = slot_pointer(slot, &high) | thunk_reg(slot) << 3;
    if (type == THUNK_YMM) { /* vmovdqu */
        EMIT(e, 0xc4, high ? 0xc1 : 0xe1, 0x7e, store ? 0x7f : 0x6f, modrm);
        return;
    }
    if (high)
        EMIT(e, 0x41);
    if (type == THUNK_XMM) /* movaps */
        EMIT(e, 0x0f, store ? 0x29 : 0x28, modrm);
    else /* movq mm */
        EMIT(e, 0x0f, store ? 0x7f : 0x6f, modrm);
}

/* ModRM for [rdi + disp8], and the displacement. */
#define FRAME(reg, field) (0x47 | (reg) << 3), offsetof(struct thunk_frame, field)

static void emit_gpr(struct emit *e, unsigned mask, uint8_t opcode) {
    for (unsigned n = 0; n < 3; n++)
        if (mask >> n & 1)
            EMIT(e, 0x48, opcode, 0x47 | n << 3, offsetof(struct thunk_frame, gpr) + 8 * n);
}

static void emit_leave_mxcsr(struct emit *e) {
    EMIT(e, 0x0f, 0xae, FRAME(3, mxcsr));      /* stmxcsr */
    EMIT(e, 0x0f, 0xae, FRAME(2, host_mxcsr)); /* ldmxcsr */
}

/*
 * Arithmetic right behind LDMXCSR costs 110 ns (measured on Sapphire Rapids), so it is loaded only
 * where it differs; on the way out the exception flags, which nobody here looks at, do not count.
 */
static void emit_enter_mxcsr_lazily(struct emit *e) {
    EMIT(e, 0x0f, 0xae, FRAME(3, host_mxcsr));                  /* stmxcsr */
    EMIT(e, 0x8b, FRAME(0, mxcsr), 0x3b, FRAME(0, host_mxcsr)); /* mov eax; cmp eax */
    EMIT(e, 0x74, 4, 0x0f, 0xae, FRAME(2, mxcsr));              /* je over; ldmxcsr */
}

static void emit_leave_mxcsr_lazily(struct emit *e) {
    EMIT(e, 0x0f, 0xae, FRAME(3, mxcsr));                       /* stmxcsr */
    EMIT(e, 0x8b, FRAME(0, mxcsr), 0x33, FRAME(0, host_mxcsr)); /* mov eax; xor eax */
    EMIT(e, 0xa9, 0xc0, 0xff, 0, 0);                            /* test eax, controls */
    EMIT(e, 0x74, 4, 0x0f, 0xae, FRAME(2, host_mxcsr));         /* je over; ldmxcsr */
}

static void emit_enter(struct emit *e, const struct thunk_key *k) {
    if (k->flags & THUNK_MXCSR)
        emit_enter_mxcsr_lazily(e);
    if (k->flags & THUNK_X87)
        EMIT(e, 0x49, 0x0f, 0xae, 0x08); /* fxrstor64 [r8] */
    for (unsigned s = 0; s < THUNK_SLOTS; s++)
        if (k->slot[s] != THUNK_NONE)
            emit_slot(e, k->slot[s], s, false);
    if (k->flags & THUNK_FLAGS_IN)
        EMIT(e, 0xff, FRAME(6, flags), 0x9d); /* push; popfq */
    emit_gpr(e, k->gpr_in, 0x8b);
}

static bool key_uses(const struct thunk_key *k, enum thunk_slot type) {
    return memchr(k->slot, (int)type, sizeof k->slot) != NULL;
}

static void emit_leave(struct emit *e, const struct thunk_key *k) {
    if (k->flags & THUNK_FLAGS)
        EMIT(e, 0x9c, 0x8f, FRAME(0, flags)); /* pushfq; pop */
    emit_gpr(e, k->gpr_out, 0x89);
    if (k->flags & THUNK_STORE_V0)
        emit_slot(e, k->slot[0], 0, true);
    if (k->flags & THUNK_STORE_V3)
        emit_slot(e, k->slot[3], 3, true);
    if (k->flags & THUNK_MXCSR)
        emit_leave_mxcsr_lazily(e);
    if (k->flags & THUNK_X87)
        EMIT(e, 0x49, 0x0f, 0xae, 0x00, 0xdb, 0xe3); /* fxsave64 [r8]; fninit */
    if (key_uses(k, THUNK_MM))
        EMIT(e, 0x0f, 0x77); /* emms */
    if (key_uses(k, THUNK_YMM))
        EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
    EMIT(e, 0x31, 0xc0, 0xc3);     /* xor eax, eax; ret */
}

/* Where the SIGFPE handler sends a thunk: the first code in the arena. */
static void emit_fault_exit(struct emit *e) {
    emit_leave_mxcsr(e);
    EMIT(e, 0x0f, 0x77);
    if (arena.avx)
        EMIT(e, 0xc5, 0xf8, 0x77);
    EMIT(e, 0xb8, 1, 0, 0, 0, 0xc3); /* mov eax, 1; ret */
}

/* ---- SIGFPE ---- */

static void pass_on(int sig, siginfo_t *info, void *context) {
    const struct sigaction *old = &arena.previous;
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, context);
    } else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
        old->sa_handler(sig);
    } else { /* the instruction is run again, and ends the process as it would have without us */
        signal(SIGFPE, SIG_DFL);
    }
}

/* The kernel restores MXCSR, with the exception's flags, from the frame: the fault exit finds it in
 * the register. */
static void on_sigfpe(int sig, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    if (rip - (uintptr_t)arena.rx < ARENA_SIZE)
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)arena.rx;
    else
        pass_on(sig, info, context);
}

/* ---- the arena and the cache ---- */

static bool host_has_avx(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE) && (c & bit_AVX);
}

static void arena_init(void) {
    arena.tried = true;
    arena.avx = host_has_avx();
    cleanup_close int fd = memfd_create("thunks", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, ARENA_SIZE) != 0)
        return;
    void *rw = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (rw == MAP_FAILED)
        return;
    void *rx = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
    struct sigaction sa = {.sa_sigaction = on_sigfpe, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    arena.rx = rx;
    if (rx == MAP_FAILED || sigaction(SIGFPE, &sa, &arena.previous) != 0) {
        munmap(rw, ARENA_SIZE);
        return;
    }
    struct emit e = {rw};
    emit_fault_exit(&e);
    arena.rw = rw;
    arena.used = 64;
}

static unsigned key_hash(const struct thunk_key *k) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t n = 0; n < sizeof *k; n++)
        h = (h ^ ((const uint8_t *)k)[n]) * 0x100000001b3u;
    return (unsigned)(h >> 40) % BUCKETS;
}

static struct thunk *thunk_make(const struct thunk_key *key) {
    if (!arena.tried)
        arena_init();
    if (arena.rw == NULL || arena.used + THUNK_MAX > ARENA_SIZE)
        return NULL;
    if (key_uses(key, THUNK_YMM) && !arena.avx)
        return NULL;
    struct emit e = {arena.rw + arena.used};
    emit_enter(&e, key);
    emit(&e, key->code, key->len);
    emit_leave(&e, key);
    struct thunk *t = xcalloc(1, sizeof *t);
    t->key = *key;
    t->run = (thunk_fn *)(void *)(arena.rx + arena.used);
    arena.used = align_up((size_t)(e.p - arena.rw), 16);
    return t;
}

const struct thunk *thunk_get(const struct thunk_key *key) {
    pthread_mutex_lock(&arena.lock);
    struct thunk **bucket = &arena.bucket[key_hash(key)];
    struct thunk *t = *bucket;
    while (t != NULL && memcmp(&t->key, key, sizeof *key) != 0)
        t = t->chain;
    if (t == NULL && (t = thunk_make(key)) != NULL) {
        t->chain = *bucket;
        *bucket = t;
    }
    pthread_mutex_unlock(&arena.lock);
    return t;
}
