/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sampling by a POSIX timer of the thread's own processor time: what waits costs no samples, and a
 * thread that another displaced is not charged for it. The kernel looks at such timers once a tick,
 * so the period is what it says on average only; overruns make up for it.
 */
#include "base/where.h"

#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/loop.h"

#define PERIOD_NS 997000 /* not a divisor of what guests do periodically */

_Thread_local volatile enum where where_now;

static _Thread_local struct {
    struct where_profile *profile;
    uint64_t code, code_bytes;
    timer_t timer;
} self;

static pthread_once_t handler_once = PTHREAD_ONCE_INIT;

static void on_tick(int sig, siginfo_t *info, void *context) {
    const ucontext_t *uc = context;
    uint64_t ip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    enum where w = where_now;
    (void)sig;

    if (!self.profile || info->si_code != SI_TIMER)
        return;
    if (w == WHERE_CODE && ip - self.code >= self.code_bytes)
        w = WHERE_SWITCH;
    self.profile->samples[w] += 1 + (uint64_t)info->si_overrun;
}

/* On the signal stack, for translated code has the guest's stack pointer. */
static void install(void) {
    struct sigaction sa = {.sa_sigaction = on_tick,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

    sigemptyset(&sa.sa_mask);
    sigaction(SIGPROF, &sa, NULL);
}

bool where_watch(struct where_profile *profile) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    const struct itimerspec period = {{0, PERIOD_NS}, {0, PERIOD_NS}};
    sigset_t prof;

    pthread_once(&handler_once, install);
    sigemptyset(&prof);
    sigaddset(&prof, SIGPROF);
    pthread_sigmask(SIG_UNBLOCK, &prof, NULL);
    event._sigev_un._tid = gettid();
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &self.timer) < 0)
        return false;
    self.profile = profile;
    timer_settime(self.timer, 0, &period, NULL);
    return true;
}

void where_unwatch(void) {
    if (!self.profile)
        return;
    timer_delete(self.timer);
    self.profile = NULL;
}

void where_code_lies(uint64_t start, uint64_t bytes) {
    self.code = start;
    self.code_bytes = bytes;
}

void where_waited(uint64_t ns) {
    if (self.profile)
        self.profile->waited_ns += ns;
}

void where_lock(pthread_mutex_t *lock) {
    if (pthread_mutex_trylock(lock) == 0)
        return;
    uint64_t since = self.profile ? mono_now() : 0;
    pthread_mutex_lock(lock);
    if (self.profile)
        where_waited(mono_now() - since);
}
