#include "keep/archive_report.h"

#include "keep/archive_private.h"
#include "snapshot/report.h"

#include <stdlib.h>

#include "base/banned.h"

static json_t *number(uint64_t v)
{
    return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

static json_t *told(const struct archive_item *i, json_t *value)
{
    if (i->told)
        return value;
    json_decref(value);
    return json_null();
}

json_t *archive_report_item(const struct archive_item *i)
{
    json_t *o = json_object();
    bool ok =
        o && json_object_set_new(o, "name", report_text(i->name)) == 0 &&
        json_object_set_new(o, "watch", report_text(i->watch)) == 0 &&
        json_object_set_new(o, "snapshot", told(i, number(i->snapshot))) == 0 &&
        json_object_set_new(o, "time", report_time(i->time)) == 0 &&
        json_object_set_new(o, "kind", json_string(i->manual ? "manual" : "automatic")) == 0 &&
        json_object_set_new(o, "format", json_string(archive_format_word(i->format))) == 0 &&
        json_object_set_new(o, "files", told(i, number(i->files))) == 0 &&
        json_object_set_new(o, "bytes", told(i, number(i->bytes))) == 0 &&
        json_object_set_new(o, "stored_bytes", number(i->stored_bytes)) == 0 &&
        json_object_set_new(o, "seconds", told(i, json_real(i->seconds))) == 0 &&
        json_object_set_new(o, "complete", told(i, json_boolean(i->complete))) == 0 &&
        json_object_set_new(o, "suspect", told(i, json_boolean(i->suspect))) == 0 &&
        json_object_set_new(o, "verified",
                            i->verified.s ? report_time(i->verified) : json_null()) == 0 &&
        json_object_set_new(o, "damaged", json_boolean(i->damaged)) == 0;

    if (ok)
        report_path(o, "path", i->path);
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}

json_t *archive_report_written(const struct archive_result *r, int exit_code)
{
    json_t *o = archive_report_item(&r->item);
    json_t *left_out = json_array();

    for (size_t i = 0; left_out && i < r->left_out_count; i++) {
        json_t *one = json_object();
        report_path(one, "path", r->left_out[i].path);
        json_object_set_new(one, "reason", report_text(r->left_out[i].reason));
        json_array_append_new(left_out, one);
    }
    if (o && left_out) {
        json_object_set_new(o, "type", json_string("archived"));
        json_object_set(o, "left_out", left_out);
        json_object_set_new(o, "exit", json_integer(exit_code));
    }
    json_decref(left_out);
    return o;
}

static json_int_t sum(const json_t *lines, const char *key)
{
    json_int_t total = 0;
    size_t i;
    json_t *line;

    json_array_foreach(lines, i, line) total += json_integer_value(json_object_get(line, key));
    return total;
}

json_t *archive_report_summary(const json_t *lines, int exit_code)
{
    double seconds = 0;
    size_t i;
    json_t *line;

    json_array_foreach(lines, i, line) seconds +=
        json_number_value(json_object_get(line, "seconds"));
    return json_pack("{s:s,s:I,s:I,s:I,s:I,s:f,s:i}", "type", "summary", "archives",
                     (json_int_t)json_array_size(lines), "files", sum(lines, "files"), "bytes",
                     sum(lines, "bytes"), "stored_bytes", sum(lines, "stored_bytes"), "seconds",
                     seconds, "exit", exit_code);
}

int archive_report_show(struct archive_item *item, json_t **out, struct error *e)
{
    static const char *const keys[] = {"root", "snapshot_time",    "zone", "host", "left_out",
                                       "app",  "watchkeep_version"};
    struct buffer text = BUFFER_INIT;
    struct archive_expected x;
    json_t *databases = json_array();
    const char *line;
    size_t len;

    int rc = archive_meta_find(item, &text, e);
    if (rc == 0 && !item->told)
        rc = archive_meta_take(item, &text, e);
    bool told = item->told;
    item->told = item->told || rc == 0;
    json_t *o = archive_report_item(item);
    item->told = told;
    json_t *head = rc == 0 ? archive_meta_head(&text) : NULL;
    for (size_t i = 0; o && i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *value = json_object_get(head, keys[i]);
        json_object_set_new(o, keys[i], value ? json_incref(value) : json_null());
    }
    if (rc == 0 && archive_expect_databases(&x, &text)) {
        while (archive_expect_next(&x, &line, &len))
            json_array_append_new(databases, json_loadb(line, len, 0, NULL));
    }
    if (o && databases) {
        json_object_set_new(o, "schema", json_integer(1));
        json_object_set(o, "databases", databases);
    }
    json_decref(databases);
    json_decref(head);
    buffer_release(&text);
    if (rc != 0 || !o) {
        json_decref(o);
        return rc != 0 ? rc : error_set(e, ERR_FAILED, "out of memory");
    }
    *out = o;
    return 0;
}
