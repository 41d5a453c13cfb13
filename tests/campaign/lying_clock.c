/* A wall clock that lies, for LD_PRELOAD: off by as many nanoseconds as the first eight bytes of the file
 * $LYING_CLOCK say at that moment. CLOCK_MONOTONIC, sleeps and the times of files stay what they are.
 *
 * libfaketime does the same, but with the monotonic clock left alone it makes clock_nanosleep(TIMER_ABSTIME), and
 * so Python's time.sleep(), fail with EINVAL. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *lie;
static int (*honest)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    honest = dlsym(RTLD_NEXT, "clock_gettime");
    const char *file = getenv("LYING_CLOCK");
    int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *seen = mmap(NULL, sizeof *lie, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (seen != MAP_FAILED)
        lie = seen;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = honest(clock, now);
    if (failed || !lie || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return failed;
    int64_t off = *lie, nanoseconds = now->tv_nsec + off % 1000000000;
    now->tv_sec += off / 1000000000;
    if (nanoseconds < 0)
        nanoseconds += 1000000000, now->tv_sec--;
    if (nanoseconds >= 1000000000)
        nanoseconds -= 1000000000, now->tv_sec++;
    now->tv_nsec = nanoseconds;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec precise;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *now)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}
