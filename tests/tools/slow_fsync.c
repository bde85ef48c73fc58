// Makes a disk slow: preloaded into a program, it delays fsync and fdatasync of everything in one
// directory. The environment says which (SLOW_FSYNC_DIR), for how many milliseconds at least and at
// most (SLOW_FSYNC_MIN, SLOW_FSYNC_MAX), and where each delay is noted as a byte (SLOW_FSYNC_LOG).
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void delay(int file) {
    const char *directory = getenv("SLOW_FSYNC_DIR"), *log = getenv("SLOW_FSYNC_LOG");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!directory || !log || length < 0)
        return;
    path[length] = 0;
    if (strncmp(path, directory, strlen(directory)) != 0)
        return;
    int note = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (note < 0 || write(note, ".", 1) != 1)
        abort();
    close(note);
    // Not random: the same run has the same delays.
    static unsigned calls;
    unsigned least = atoi(getenv("SLOW_FSYNC_MIN")), most = atoi(getenv("SLOW_FSYNC_MAX"));
    unsigned step = __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) * 7919;
    unsigned millis = least + step % (most - least + 1);
    struct timespec time = {millis / 1000, millis % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

int fsync(int file) {
    delay(file);
    return syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    delay(file);
    return syscall(SYS_fdatasync, file);
}
