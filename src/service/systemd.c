#include "service/systemd.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/banned.h"

enum { MESSAGE_MAX = 1024 };

bool systemd_listens(void)
{
    const char *path = getenv("NOTIFY_SOCKET");

    return path && (*path == '/' || *path == '@');
}

void systemd_notify(const char *fmt, ...)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    char message[MESSAGE_MAX];
    va_list ap;

    if (!systemd_listens() || strlen(path) >= sizeof(addr.sun_path))
        return;
    va_start(ap, fmt);
    int n = vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    if (n < 0 || n >= MESSAGE_MAX)
        return;
    size_t len = strlen(path);
    memcpy(addr.sun_path, path, len);
    if (addr.sun_path[0] == '@')
        addr.sun_path[0] = 0; /* an abstract socket */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    socklen_t addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    (void)sendto(fd, message, (size_t)n, MSG_NOSIGNAL, (const struct sockaddr *)&addr, addr_len);
    close(fd);
}

void systemd_reloading(void)
{
    systemd_notify("RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_mono_ns() / 1000);
}

uint64_t systemd_watchdog_us(void)
{
    const char *us = getenv("WATCHDOG_USEC");
    const char *pid = getenv("WATCHDOG_PID");

    if (!us || (pid && strtoll(pid, NULL, 10) != (long long)getpid()))
        return 0;
    return strtoull(us, NULL, 10);
}
