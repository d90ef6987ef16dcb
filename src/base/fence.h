/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heavy half of an asymmetric barrier. The light half, on the fast path of other threads, is a
 * compiler barrier: atomic_signal_fence(memory_order_seq_cst).
 */
#ifndef RINGFENCE_BASE_FENCE_H
#define RINGFENCE_BASE_FENCE_H

/*
 * When it returns, every running thread of this process has executed a full memory barrier since
 * the call. Costs a few microseconds. Needs membarrier(2) or, where that is missing, mprotect(2).
 */
void fence_all_threads(void);

/* Makes the set-up calls now, before a system call filter forbids them. */
void fence_init(void);

#endif
