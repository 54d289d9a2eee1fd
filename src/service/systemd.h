/* systemd.h - tell the service manager how we are: sd_notify(3) by its plain datagram.
 *
 * Without NOTIFY_SOCKET nothing happens. Loop thread only. */
#ifndef WK_SERVICE_SYSTEMD_H
#define WK_SERVICE_SYSTEMD_H

#include <stdbool.h>
#include <stdint.h>

bool systemd_listens(void);
/* "READY=1", "STOPPING=1", "STATUS=...", lines separated by \n. A lost one is no error. */
void systemd_notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* RELOADING=1 with the time that systemd wants with it. READY=1 ends it. */
void systemd_reloading(void);
/* How often WATCHDOG=1 is expected at the latest, 0: never. Half of it is a good interval. */
uint64_t systemd_watchdog_us(void);

#endif
