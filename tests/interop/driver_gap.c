// Measures the CPU time of a thread between two polls of its I/O driver. As a preloaded library it wraps epoll_wait and
// epoll_pwait, and writes the results into the file named by DRIVER_GAP. fairness.py reads it.
//
// The file holds a `struct report`. The reader starts a new measurement by incrementing `generation`. A thread clears its
// part at its next poll and does not count the gap that ends there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define THREADS 64
#define BUCKETS 8192
#define BUCKET_NS 10000

struct gaps {
    char name[16];
    uint64_t generation;
    uint64_t polls;
    uint64_t max_ns;
    uint32_t buckets[BUCKETS]; // the last one also counts all longer gaps
};

struct report {
    uint64_t generation;
    uint64_t threads;
    struct gaps gaps[THREADS];
};

static struct report *report;
static int (*real_wait)(int, struct epoll_event *, int, int);
static int (*real_pwait)(int, struct epoll_event *, int, int, const sigset_t *);
static __thread struct gaps *mine;
static __thread uint64_t returned_ns;

static uint64_t cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((constructor)) static void start(void) {
    real_wait = dlsym(RTLD_NEXT, "epoll_wait");
    real_pwait = dlsym(RTLD_NEXT, "epoll_pwait");
    const char *path = getenv("DRIVER_GAP");
    int fd = path ? open(path, O_RDWR) : -1;
    if (fd < 0 || ftruncate(fd, sizeof *report)) return;
    void *map = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED) report = map;
}

static void enter(void) {
    if (!report) return;
    if (!mine) {
        uint64_t place = __atomic_fetch_add(&report->threads, 1, __ATOMIC_RELAXED);
        if (place >= THREADS) return;
        mine = &report->gaps[place];
        prctl(PR_GET_NAME, mine->name);
        return;
    }
    uint64_t generation = __atomic_load_n(&report->generation, __ATOMIC_ACQUIRE);
    if (mine->generation != generation) {
        mine->polls = mine->max_ns = 0;
        memset(mine->buckets, 0, sizeof mine->buckets);
        __atomic_store_n(&mine->generation, generation, __ATOMIC_RELEASE);
        return;
    }
    uint64_t gap_ns = cpu_ns() - returned_ns;
    uint64_t bucket = gap_ns / BUCKET_NS;
    mine->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    mine->polls++;
    if (gap_ns > mine->max_ns) mine->max_ns = gap_ns;
}

static int leave(int events) {
    if (mine) returned_ns = cpu_ns();
    return events;
}

int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout) {
    enter();
    return leave(real_wait(epfd, events, max, timeout));
}

int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask) {
    enter();
    return leave(real_pwait(epfd, events, max, timeout, mask));
}
