/* log.h - lines for the operator, on stderr, as text or JSON.
 *
 * Any thread may log. A line is one write(2); a failing stderr is ignored (the service goes on).
 * Control characters and bytes that are not UTF-8 in arguments come out escaped, so that a line
 * stays a line. Text lines begin with "<N>" priorities only when stderr is the journal. */
#ifndef WK_BASE_LOG_H
#define WK_BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* May be called again at any time (reload). Before the first call: warn, text. */
void log_setup(enum log_level level, enum log_format format);
bool log_enabled(enum log_level level);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
