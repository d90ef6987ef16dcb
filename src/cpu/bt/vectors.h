/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's sixteen YMM registers to memory and back, as pieces of inline assembly with GS at
 * struct bt_cpu and `zmm` the offset of the first. Flags are changed.
 *
 * Where all upper halves are zero the processor must know it: on some (Ice Lake, Rocket Lake) an
 * SSE instruction with a VEX one before it costs 200 ns unless it does, and a load of a whole YMM
 * register, be it of zero, makes it forget.
 */
#ifndef RINGFENCE_CPU_BT_VECTORS_H
#define RINGFENCE_CPU_BT_VECTORS_H

#define VECTORS_EACH(M)                                                                            \
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)

/* Registers of 64 bytes, of which the lower halves are in use. */
#define VECTORS_STORE_YMM(n) "vmovdqu %%ymm" #n ", %%gs:%c[zmm]+64*" #n "\n\t"
#define VECTORS_LOAD_YMM(n) "vmovdqu %%gs:%c[zmm]+64*" #n ", %%ymm" #n "\n\t"
#define VECTORS_LOAD_XMM(n) "vmovdqu %%gs:%c[zmm]+64*" #n ", %%xmm" #n "\n\t"
#define VECTORS_OR_UPPER(n) "vpor %%gs:%c[zmm]+64*" #n "+16, %%xmm0, %%xmm0\n\t"

/* The upper halves are clean afterwards. */
#define VECTORS_STORE VECTORS_EACH(VECTORS_STORE_YMM) "vzeroupper\n\t"

/* Takes that they are clean. */
#define VECTORS_LOAD                                                                               \
    "vpxor %%xmm0, %%xmm0, %%xmm0\n\t" VECTORS_EACH(                                               \
        VECTORS_OR_UPPER) "vptest %%xmm0, %%xmm0\n\t"                                              \
                          "jnz 21f\n\t" VECTORS_EACH(                                              \
                              VECTORS_LOAD_XMM) "jmp 22f\n\t"                                      \
                                                "21:\n\t" VECTORS_EACH(VECTORS_LOAD_YMM) "22:\n\t"

#endif
