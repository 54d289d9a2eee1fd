#include "keep/archive_report.h"

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

static int add_item(void *ctx, const struct archive_item *item, struct error *e)
{
    if (json_array_append_new(ctx, archive_report_item(item)) == 0)
        return 0;
    return error_set(e, ERR_FAILED, "out of memory");
}

int archive_report_list(const char *folder, const char *watch, uint64_t recent, json_t **out,
                        struct error *e)
{
    json_t *list = json_array();
    int rc = list ? archive_list(folder, watch, add_item, list, e)
                  : error_set(e, ERR_FAILED, "out of memory");

    while (rc == 0 && recent && json_array_size(list) > recent)
        json_array_remove(list, 0);
    *out = rc == 0 ? json_pack("{s:i,s:O}", "schema", 1, "archives", list) : NULL;
    json_decref(list);
    return rc == 0 && !*out ? error_set(e, ERR_FAILED, "out of memory") : rc;
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
