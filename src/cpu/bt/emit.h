/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing x86-64 host code: the few shapes that the translator puts around guest instructions.
 * Registers are numbered as the architecture does (0 = RAX .. 15 = R15). SDM 2A chapter 2.
 */
#ifndef RINGFENCE_CPU_BT_EMIT_H
#define RINGFENCE_CPU_BT_EMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct emit {
    uint8_t *p;    /* next byte, in the writable mapping */
    uint8_t *end;  /* past it nothing is written; `full` is set instead */
    int64_t to_rx; /* added to a writable address: the executable one */
    bool full;
};

static inline void emit_bytes(struct emit *e, const void *b, unsigned n) {
    if ((unsigned long)(e->end - e->p) < n) {
        e->full = true;
        return;
    }
    memcpy(e->p, b, n);
    e->p += n;
}
static inline void emit8(struct emit *e, unsigned v) {
    uint8_t b = (uint8_t)v;
    emit_bytes(e, &b, 1);
}
static inline void emit32(struct emit *e, uint32_t v) {
    emit_bytes(e, &v, 4);
}
static inline void emit64(struct emit *e, uint64_t v) {
    emit_bytes(e, &v, 8);
}
static inline uint64_t emit_rx(const struct emit *e) {
    return (uint64_t)e->p + (uint64_t)e->to_rx;
}

#define EMIT(e, ...)                                                                               \
    emit_bytes(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

enum { REX = 0x40, REX_W = 8, REX_R = 4, REX_X = 2, REX_B = 1 };
enum {
    OP_STORE = 0x89,
    OP_LOAD = 0x8b,
    OP_XOR = 0x33,
    OP_CMP = 0x3b,
    OP_ADD = 0x03,
    OP_LEA = 0x8d
};

/* OP reg, gs:[disp] (or the other way round), 64 bits. */
static inline void emit_gs(struct emit *e, unsigned op, unsigned reg, uint32_t disp) {
    EMIT(e, 0x65, REX | REX_W | (reg >> 3) * REX_R, op, 0x04 | (reg & 7) << 3, 0x25);
    emit32(e, disp);
}

/* OP reg, gs:[base + disp], 64 bits; base is not RSP or R12. */
static inline void emit_gs_base(struct emit *e, unsigned op, unsigned reg, unsigned base,
                                uint32_t disp) {
    EMIT(e, 0x65, REX | REX_W | (reg >> 3) * REX_R | (base >> 3) * REX_B, op,
         0x80 | (reg & 7) << 3 | (base & 7));
    emit32(e, disp);
}

/* MOV to, from, 64 bits. */
static inline void emit_mov(struct emit *e, unsigned to, unsigned from) {
    EMIT(e, REX | REX_W | (from >> 3) * REX_R | (to >> 3) * REX_B, OP_STORE,
         0xc0 | (from & 7) << 3 | (to & 7));
}

/* LEA to, [base + disp], 64 bits. */
static inline void emit_lea(struct emit *e, unsigned to, unsigned base, int32_t disp) {
    EMIT(e, REX | REX_W | (to >> 3) * REX_R | (base >> 3) * REX_B, OP_LEA,
         0x80 | (to & 7) << 3 | (base & 7));
    if ((base & 7) == 4)
        emit8(e, 0x24);
    emit32(e, (uint32_t)disp);
}

/* LEA to, [base + index], 64 bits; base is not RBP or R13, index is not RSP. */
static inline void emit_lea_sum(struct emit *e, unsigned to, unsigned base, unsigned index) {
    EMIT(e, REX | REX_W | (to >> 3) * REX_R | (index >> 3) * REX_X | (base >> 3) * REX_B, OP_LEA,
         0x04 | (to & 7) << 3, (index & 7) << 3 | (base & 7));
}

/* OP reg, imm for the group 0x81 (/4 AND, /7 CMP, /0 ADD), 64 bits, sign-extended imm32. */
static inline void emit_group1(struct emit *e, unsigned op, unsigned reg, uint32_t imm) {
    EMIT(e, REX | REX_W | (reg >> 3) * REX_B, 0x81, 0xc0 | op << 3 | (reg & 7));
    emit32(e, imm);
}

/* SHR (op 5) or SHL (op 4) reg, n, 64 bits. */
static inline void emit_shift(struct emit *e, unsigned op, unsigned reg, unsigned n) {
    EMIT(e, REX | REX_W | (reg >> 3) * REX_B, 0xc1, 0xc0 | op << 3 | (reg & 7), n);
}

/* A NOP of up to four bytes, or nothing. */
static inline void emit_nop(struct emit *e, unsigned bytes) {
    static const uint8_t nop[5][4] = {
        {0}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}, {0x0f, 0x1f, 0x40, 0x00}};
    emit_bytes(e, nop[bytes], bytes);
}

/* JMP and Jcc rel32 to an executable address; return where the displacement lies (writable). */
static inline uint8_t *emit_jmp(struct emit *e, uint64_t target) {
    emit8(e, 0xe9);
    uint8_t *at = e->p;
    emit32(e, (uint32_t)(target - (emit_rx(e) + 4)));
    return at;
}
static inline uint8_t *emit_jcc(struct emit *e, unsigned cond, uint64_t target) {
    EMIT(e, 0x0f, 0x80 | cond);
    uint8_t *at = e->p;
    emit32(e, (uint32_t)(target - (emit_rx(e) + 4)));
    return at;
}
/* Lets a jump that was emitted go to here. */
static inline void emit_land(struct emit *e, uint8_t *displacement) {
    if (e->full)
        return;
    int32_t rel = (int32_t)(e->p - (displacement + 4));
    memcpy(displacement, &rel, 4);
}

#endif
