/* What a disk may do to the store, preloaded into a control plane. It looks at the database and its write-ahead log only.

   - Beside each file F it keeps F.unsynced: every write since the last sync, with what was there before, so that a test can
     undo them after a kill, as a power cut does (`disk_kit.power_cut`). The kernel keeps that file when the process dies.
   - DISK_FULL=PATH: while PATH exists, files cannot grow (ENOSPC).
   - DISK_SLEEP_MS=N: every sync takes so much longer.
   - DISK_LIES=1: a sync does nothing, and says that it did it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct note {
    long long at, size, before, after; /* offset, size of the file, bytes that were there, bytes that were written */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int ends(const char *name, const char *end) {
    size_t long_ = strlen(name), short_ = strlen(end);
    return long_ > short_ && !strcmp(name + long_ - short_, end);
}

/* Return whether a file belongs to the store, and the name of the file of its unsynced writes. */
static int ours(int fd, char *notes) {
    char self[64], name[4000];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(self, name, sizeof name - 1);
    if (size <= 0) return 0;
    name[size] = 0;
    if (!ends(name, ".db") && !ends(name, ".db-wal")) return 0;
    snprintf(notes, 4096, "%s.unsynced", name);
    return 1;
}

static ssize_t put(int fd, const void *bytes, size_t count, long long at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    char notes[4096];
    struct stat file;
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (!ours(fd, notes) || fstat(fd, &file)) return real(fd, bytes, count, at);
    const char *full = getenv("DISK_FULL");
    if (full && !access(full, F_OK) && at + (long long)count > file.st_size) {
        errno = ENOSPC;
        return -1;
    }
    pthread_mutex_lock(&lock);
    char *old = malloc(count + 1);
    ssize_t before = pread(fd, old, count, at);
    struct note note = {at, file.st_size, before < 0 ? 0 : before, count};
    struct iovec parts[] = {{&note, sizeof note}, {old, note.before}, {(void *)bytes, count}};
    int book = open(notes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (book < 0 || writev(book, parts, 3) < 0) abort();
    close(book);
    ssize_t done = real(fd, bytes, count, at);
    free(old);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) { return put(fd, bytes, count, at); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return put(fd, bytes, count, at); }

static int flush(int fd, const char *how) {
    int (*real)(int) = dlsym(RTLD_NEXT, how);
    char notes[4096];
    if (!ours(fd, notes)) return real(fd);
    const char *slow = getenv("DISK_SLEEP_MS");
    if (slow) {
        long ms = atol(slow);
        struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
        nanosleep(&pause, 0);
    }
    if (getenv("DISK_LIES")) return 0;
    pthread_mutex_lock(&lock);
    int failed = real(fd);
    if (!failed) unlink(notes);
    pthread_mutex_unlock(&lock);
    return failed;
}

int fsync(int fd) { return flush(fd, "fsync"); }
int fdatasync(int fd) { return flush(fd, "fdatasync"); }
