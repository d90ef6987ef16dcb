/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine for tests, made of two: each vCPU runs now under the one, now under the other, and is
 * moved between them with get_state and set_state at random moments. The machine sees one engine.
 * Each vCPU moves by itself, so code of both engines runs at the same time.
 */
#ifndef RINGFENCE_TESTS_ENGINE_SWITCHED_H
#define RINGFENCE_TESTS_ENGINE_SWITCHED_H

struct engine_ops;

extern const struct engine_ops engine_switched;

#endif
