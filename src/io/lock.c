#include "io/lock.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

/* There is no F_OFD_SETLKW with a time limit; a held lock is asked for again this often. */
enum { POLL_NS = 2000000 };

static struct flock range(short type, uint64_t byte, uint64_t len)
{
    return (struct flock){
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = (off_t)len};
}

static int set_lock(int fd, short type, uint64_t byte)
{
    struct flock lock = range(type, byte, 1);
    int rc;

    do
        rc = fcntl(fd, F_OFD_SETLK, &lock);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : errno;
}

int lock_take(int fd, uint64_t byte, bool exclusive, unsigned wait_ms, struct error *e)
{
    uint64_t end = clock_mono_ns() + wait_ms * UINT64_C(1000000);

    for (;;) {
        int sys = set_lock(fd, exclusive ? F_WRLCK : F_RDLCK, byte);
        if (sys == 0)
            return 0;
        if (sys != EAGAIN && sys != EACCES)
            return error_sys(e, sys, "cannot lock byte %llu", (unsigned long long)byte);
        uint64_t now = clock_mono_ns();
        if (now >= end)
            return error_set(e, ERR_BUSY, "the lock is held by somebody else");
        uint64_t pause = end - now < POLL_NS ? end - now : POLL_NS;
        nanosleep(&(struct timespec){.tv_nsec = (long)pause}, NULL);
    }
}

void lock_drop(int fd, uint64_t byte)
{
    set_lock(fd, F_UNLCK, byte);
}

bool lock_held(int fd, uint64_t byte, uint64_t len, bool exclusive)
{
    struct flock lock = range(exclusive ? F_WRLCK : F_RDLCK, byte, len);

    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}
