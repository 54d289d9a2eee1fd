#include "config/ini_file.h"

#include "base/buffer.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { SILENT_MAX_MS = 2000 };

struct ini_state {
    const char *file;
    const char *at, *end; /* what is still to be read */
    int line;             /* of the line the library has now */
    char section[INI_LINE_MAX + 1];
    const struct ini_sink *sink;
    int rc; /* first failure; nothing more is read then */
    struct error *e;
};

static int fail_at(struct ini_state *s, int line, const char *what)
{
    s->rc = error_set(s->e, ERR_USAGE, "%s:%d: %s", s->file, line, what);
    error_path(s->e, s->file);
    return s->rc;
}

/* Take what the sink returned; its ERR_USAGE gets file and line in front. */
static int take_result(struct ini_state *s, int rc)
{
    char what[sizeof(s->e->message)];

    s->rc = rc;
    if (rc != ERR_USAGE)
        return rc;
    snprintf(what, sizeof(what), "%s", s->e->message);
    return fail_at(s, s->line, what);
}

/* "[watch bot]" into s->section. */
static void begin_section(struct ini_state *s, const char *line)
{
    const char *end = strchr(line, ']');
    size_t len = end ? (size_t)(end - line - 1) : 0;

    if (!end)
        return; /* the library refuses it */
    memcpy(s->section, line + 1, len);
    s->section[len] = 0;
    take_result(s, s->sink->section(s->sink->ctx, s->section, s->line, s->e));
}

/* Check the line of len bytes and put it into out without its indent. */
static bool take_line(struct ini_state *s, const char *line, size_t len, char *out)
{
    if (len > 0 && line[len - 1] == '\r')
        len--;
    while (len > 0 && (*line == ' ' || *line == '\t')) {
        line++;
        len--;
    }
    if (len > INI_LINE_MAX) {
        fail_at(s, s->line, "the line is longer than 199 bytes");
    } else if (memchr(line, 0, len)) {
        fail_at(s, s->line, "the line holds a NUL byte");
    } else {
        memcpy(out, line, len);
        out[len] = 0;
        if (*out == '[')
            begin_section(s, out);
    }
    return s->rc == 0;
}

/* fgets for libinih: one line of the text each time, without its end. */
static char *next_line(char *out, int cap, void *ctx)
{
    struct ini_state *s = ctx;
    static const char bom[] = "\xef\xbb\xbf";

    if (s->rc != 0 || s->at == s->end || cap <= INI_LINE_MAX)
        return NULL;
    if (s->line == 0 && s->end - s->at >= 3 && memcmp(s->at, bom, 3) == 0)
        s->at += 3;
    s->line++;
    const char *line = s->at;
    const char *newline = memchr(line, '\n', (size_t)(s->end - line));
    s->at = newline ? newline + 1 : s->end;
    if (!take_line(s, line, (size_t)((newline ? newline : s->end) - line), out))
        return NULL;
    return out;
}

static int take_setting(void *ctx, const char *section, const char *key, const char *value)
{
    struct ini_state *s = ctx;

    (void)section; /* cut by the library when long */
    if (s->rc == 0)
        take_result(
            s, s->sink->setting(s->sink->ctx, s->section, key, value ? value : "", s->line, s->e));
    return s->rc == 0;
}

int ini_text_read(const char *file, const char *text, size_t n, const struct ini_sink *sink,
                  struct error *e)
{
    struct ini_state s = {.file = file, .at = text, .end = text + n, .sink = sink, .e = e};
    int wrong_line = ini_parse_stream(next_line, &s, take_setting, &s);

    if (s.rc != 0 && (wrong_line <= 0 || wrong_line >= s.line))
        return s.rc;
    if (wrong_line > 0)
        return fail_at(&s, wrong_line, "neither '[section]' nor 'key = value'");
    return wrong_line < 0 ? error_set(e, ERR_FAILED, "no memory to read '%s'", file) : 0;
}

/* A pipe that nobody has written into yet reads as if it were at its end. Files are ready at once.
 */
static int wait_for_text(int fd, const char *file, struct error *e)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int rc;

    do
        rc = poll(&p, 1, SILENT_MAX_MS);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return error_sys(e, errno, "cannot read '%s'", file);
    if (rc == 0)
        return error_set(
            e, ERR_USAGE,
            "'%s' gives nothing to read, for %d s: give the path of a regular file, or "
            "write into the other end of the pipe",
            file, SILENT_MAX_MS / 1000);
    return 0;
}

static int read_whole(int fd, const char *file, struct buffer *out, struct error *e)
{
    for (;;) {
        uint8_t *p = buffer_reserve(out, 65536) ? out->data + out->len : NULL;
        ssize_t got = p ? read(fd, p, 65536) : -1;
        if (!p)
            return error_sys(e, ENOMEM, "cannot read '%s'", file);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN) {
            int rc = wait_for_text(fd, file, e);
            if (rc != 0)
                return rc;
            continue;
        }
        if (got < 0 && errno == EISDIR)
            return error_set(e, ERR_USAGE, "'%s' is a folder, not a configuration file", file);
        if (got < 0)
            return error_sys(e, errno, "cannot read '%s'", file);
        if (got == 0)
            return 0;
        out->len += (size_t)got;
        if (out->len > INI_FILE_MAX)
            return error_set(e, ERR_USAGE, "%s:1: the file is larger than 1 MiB", file);
    }
}

int ini_file_read(const char *file, const struct ini_sink *sink, struct error *e)
{
    struct buffer text = BUFFER_INIT;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int rc;

    if (fd < 0)
        return error_sys(e, errno, "cannot read '%s'", file);
    rc = wait_for_text(fd, file, e);
    if (rc == 0)
        rc = read_whole(fd, file, &text, e);
    if (rc == 0)
        rc = ini_text_read(file, text.data ? (const char *)text.data : "", text.len, sink, e);
    close(fd);
    buffer_release(&text);
    return rc;
}
