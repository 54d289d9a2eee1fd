#include "base/log.h"

#include "base/clock.h"
#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { MESSAGE_MAX = 2048, ESCAPED_MAX = 6 * MESSAGE_MAX, LINE_MAX_BYTES = ESCAPED_MAX + 128 };

static const struct {
    const char *word;
    int priority; /* of syslog(3) */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARN] = {"warn", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

static atomic_int current_level = LOG_LEVEL_WARN;
static atomic_int current_format = LOG_FORMAT_TEXT;
static atomic_bool to_journal;

/* systemd.exec(5): JOURNAL_STREAM holds "device:inode" of the stream it gave us. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    char own[64];
    struct stat st;

    if (!stream || fstat(STDERR_FILENO, &st) != 0)
        return false;
    snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return strcmp(own, stream) == 0;
}

void log_setup(enum log_level level, enum log_format format)
{
    atomic_store(&current_level, (int)level);
    atomic_store(&current_format, (int)format);
    atomic_store(&to_journal, stderr_is_journal());
}

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load(&current_level);
}

/* Copy a message with nothing in it that could end or forge a line. In JSON the escapes are those
 * of JSON; a byte that is no UTF-8 reads \xHH in both. */
static void escape_message(const char *s, bool json, char out[ESCAPED_MAX + 1])
{
    size_t left = strlen(s);
    size_t at = 0;

    while (left > 0 && at + 6 <= ESCAPED_MAX) {
        size_t len = text_utf8_char(s, left);
        size_t used = len ? len : 1;
        unsigned c = (unsigned char)*s;
        if (json && len == 1 && (c == '"' || c == '\\')) {
            at += (size_t)snprintf(out + at, 7, "\\%c", (int)c);
        } else if (json && len == 2 && !text_printable(s, len)) {
            at += (size_t)snprintf(out + at, 7, "\\u%04x", (unsigned)(unsigned char)s[1]);
        } else if (len > 0 && text_printable(s, len)) {
            memcpy(out + at, s, len);
            at += len;
        } else if (json && len == 1) {
            at += (size_t)snprintf(out + at, 7, "\\u%04x", c);
        } else if (!json && c == '\n') {
            at += (size_t)snprintf(out + at, 7, "\\n");
        } else {
            at += (size_t)snprintf(out + at, 7, json ? "\\\\x%02x" : "\\x%02x", c);
            used = 1;
        }
        s += used;
        left -= used;
    }
    out[at] = 0;
}

static void write_line(const char *line, size_t n)
{
    ssize_t put;

    do
        put = write(STDERR_FILENO, line, n);
    while (put < 0 && errno == EINTR);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    char message[MESSAGE_MAX];
    char escaped[ESCAPED_MAX + 1];
    char line[LINE_MAX_BYTES];
    char now[40];
    va_list ap;
    int n;

    if (!log_enabled(level))
        return;
    int saved = errno;
    va_start(ap, fmt);
    n = vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    if ((size_t)n >= sizeof(message)) {
        size_t at = sizeof(message) - 4;
        while (at > 0 && ((unsigned char)message[at] & 0xc0) == 0x80)
            at--;
        memcpy(message + at, "...", 4);
    }
    bool json = atomic_load(&current_format) == LOG_FORMAT_JSON;
    escape_message(message, json, escaped);
    time_rfc3339(clock_wall(), now, sizeof(now));
    if (json)
        n = snprintf(line, sizeof(line), "{\"time\":\"%s\",\"level\":\"%s\",\"message\":\"%s\"}\n",
                     now, levels[level].word, escaped);
    else if (atomic_load(&to_journal))
        n = snprintf(line, sizeof(line), "<%d>%s\n", levels[level].priority, escaped);
    else
        n = snprintf(line, sizeof(line), "%s %s: %s\n", now, levels[level].word, escaped);
    write_line(line, (size_t)n);
    errno = saved;
}
