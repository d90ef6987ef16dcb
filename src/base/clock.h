/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's time. Guest-visible time starts at 0 when the clock is made, stops while the machine
 * is paused, and is never read from the host directly by a device.
 */
#ifndef RINGFENCE_BASE_CLOCK_H
#define RINGFENCE_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct clock;
struct timer;

#define NS_PER_S 1000000000ull

/* The clock runs from the start. `loop` outlives it. */
struct clock *clock_new(struct loop *loop);
void clock_free(struct clock *c);

/* Guest nanoseconds since the clock was made, pauses excluded. Any thread. */
uint64_t clock_now(const struct clock *c);

/* Wall-clock (UTC) nanoseconds since the epoch, for the RTC. Any thread. */
uint64_t clock_wall(const struct clock *c);

void clock_pause(struct clock *c);
void clock_resume(struct clock *c);

/*
 * The guest's time-stamp counter: a fixed frequency, and its value now before any per-vCPU offset.
 * It advances with the host's TSC where that is invariant (value = rdtsc + offset, so that
 * translated code may read it natively) and with clock_now() at 1 GHz where it is not.
 */
uint64_t clock_tsc_hz(const struct clock *c);
uint64_t clock_tsc(const struct clock *c);

/*
 * For an engine that lets guest code read the host's TSC: whether the guest's TSC is the host's
 * plus an offset, and that offset. It changes when the machine is paused and resumed.
 */
bool clock_tsc_is_host(const struct clock *c);
int64_t clock_tsc_offset(const struct clock *c);

/* The clock_now() time at which clock_tsc() reaches `tsc` (saturating). */
uint64_t clock_tsc_to_ns(const struct clock *c, uint64_t tsc);

/*
 * fn(arg) runs once on the loop's thread at or after guest time `ns`. Arm and disarm from any
 * thread; arming replaces; after disarming, a callback that has begun may still be finishing. Free
 * on the loop's thread (from the callback itself too), or while the loop does not run.
 */
typedef void timer_fn(void *arg);
struct timer *timer_new(struct clock *c, timer_fn *fn, void *arg);
void timer_free(struct timer *t);
void timer_arm(struct timer *t, uint64_t ns);
void timer_disarm(struct timer *t);

#endif
