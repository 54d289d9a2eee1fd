#include "watch/watch_tree.h"

#include "base/clock.h"
#include "base/text.h"
#include "io/safe_path.h"
#include "watch/filesystem.h"
#include "watch/watch_walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { PATH_QUOTE_MAX = 200 };

/* ---- the tree ---- */

enum { ROUNDS_A_TURN = 4 };

static void on_idle(uv_idle_t *idle)
{
    struct watch_tree *t = idle->data;

    tree_walk_on(t, false);
    t->turn(t->ctx);
}

void tree_walk_on(struct watch_tree *t, bool empty)
{
    bool walked = true;

    for (unsigned i = 0; i < ROUNDS_A_TURN && (walked || t->waiting); i++) {
        walked = walk_slice(t, false);
        if (walked || !empty)
            empty = !t->notify || notify_read(t->notify);
    }
    if (!walked && empty)
        t->ahead = false;
    if (walked || t->ahead || t->waiting)
        uv_idle_start(&t->idle, on_idle);
    else
        uv_idle_stop(&t->idle);
}

int watch_tree_open(uv_loop_t *loop, void (*turn)(void *ctx), void *ctx, struct watch_tree **out,
                    struct error *e)
{
    static const struct notify_calls calls = {
        .event = events_deliver, .overflow = events_overflow, .turn = events_turn};
    struct watch_tree *t = calloc(1, sizeof(*t));
    struct error why = ERROR_INIT;

    if (!t || !node_index_init(&t->index)) {
        free(t);
        return error_sys(e, ENOMEM, "cannot watch");
    }
    t->loop = loop;
    t->turn = turn;
    t->ctx = ctx;
    LIST_INIT(&t->roots);
    TAILQ_INIT(&t->queue);
    TAILQ_INIT(&t->moved);
    uv_idle_init(loop, &t->idle);
    t->idle.data = t;
    if (notify_open(loop, &calls, t, &t->notify, &why) != 0)
        snprintf(t->no_notify, sizeof(t->no_notify), "%.250s", why.message);
    *out = t;
    return 0;
}

static void on_idle_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void watch_tree_close(struct watch_tree *t)
{
    if (!t)
        return;
    while (!LIST_EMPTY(&t->roots))
        watch_tree_remove(t, LIST_FIRST(&t->roots));
    notify_close(t->notify);
    node_index_release(&t->index);
    buffer_release(&t->path);
    buffer_release(&t->child);
    uv_close((uv_handle_t *)&t->idle, on_idle_closed);
}

size_t watch_tree_folders(const struct watch_tree *t)
{
    return t->index.count;
}

uint64_t watch_tree_overflows(const struct watch_tree *t)
{
    return t->overflows;
}

/* ---- guards: a root's path may lead elsewhere though nothing happened to the root ---- */

static void drop_guards(struct watch_root *r)
{
    size_t count = r->guard_count;

    r->guard_count = 0;
    for (size_t i = 0; i < count; i++)
        walk_release_wd(r->tree, r->guards[i]);
}

static void guard(struct watch_root *r, const char *path)
{
    int *guards = reallocarray(r->guards, r->guard_count + 1, sizeof(*guards));
    uint32_t mask = IN_DELETE_SELF | IN_MOVE_SELF;
    struct stat st;

    if (!guards)
        return;
    r->guards = guards;
    /* A link that is replaced while somebody has it open only shows as one with a name less. A
     * folder's attributes are left out: asking for them asks for those of all its entries too. */
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        mask |= IN_ATTRIB;
    int wd = notify_add_entry(r->tree->notify, path, mask);
    if (wd >= 0)
        r->guards[r->guard_count++] = wd;
}

static void set_guards(struct watch_root *r)
{
    char *path = strdup(r->path);

    drop_guards(r);
    if (!r->tree->notify || !path) {
        free(path);
        return;
    }
    for (char *at = path + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = 0;
        guard(r, path);
        *at = '/';
    }
    guard(r, path);
    free(path);
}

/* ---- roots ---- */

int root_open(const struct watch_root *r, struct stat *st, struct error *e)
{
    int fd = long_path_open(r->path, O_PATH | O_DIRECTORY, e);

    if (fd >= 0 && fstat(fd, st) != 0) {
        int rc = error_sys(e, errno, "cannot look at '%s'", r->path);
        close(fd);
        return rc;
    }
    return fd;
}

struct watch_node *root_find(struct watch_root *r, const char *path)
{
    struct watch_node *node = r->top;
    char *copy = strdup(path);
    char *rest = NULL;

    if (!copy)
        return NULL;
    for (char *part = strtok_r(copy, "/", &rest); part && node; part = strtok_r(NULL, "/", &rest))
        node = node_child(&r->tree->index, node, part);
    free(copy);
    return node;
}

void root_lose(struct watch_root *r, const char *why)
{
    struct watch_tree *t = r->tree;

    snprintf(r->problem, sizeof(r->problem), "%.300s", why);
    if (!r->top)
        return;
    events_forget(t, r);
    walk_remove(t, r, r->top);
    r->top = NULL;
    r->exhausted = false;
    r->walking = false;
    r->calls.state(r->ctx);
}

/* The root is there: watch it and all below it. */
static void root_arm(struct watch_root *r, const struct stat *st)
{
    struct watch_tree *t = r->tree;

    r->top = node_new(&t->index, NULL, "");
    if (!r->top) {
        root_lose(r, "out of memory");
        return;
    }
    r->top->root = r;
    r->dev = st->st_dev;
    r->ino = st->st_ino;
    r->problem[0] = 0;
    set_guards(r);
    walk_enqueue(r, r->top, true);
    uv_idle_start(&t->idle, on_idle);
    r->calls.state(r->ctx);
}

bool watch_root_check(struct watch_root *r)
{
    struct error e = ERROR_INIT;
    struct stat st;
    bool doubted = r->doubted;

    r->doubted = false;
    int fd = root_open(r, &st, &e);
    if (fd < 0 && (e.sys == EMFILE || e.sys == ENFILE || e.sys == ENOMEM))
        return r->top != NULL; /* that says nothing about the root */
    if (fd < 0) {
        root_lose(r, e.message);
        return false;
    }
    close(fd);
    if (r->top && st.st_dev == r->dev && st.st_ino == r->ino) {
        if (doubted) {
            set_guards(r); /* some of them may be spent */
            if (r->top->wd < 0 && !(r->top->flags & NODE_POLLED)) {
                walk_enqueue(r, r->top, true);
                uv_idle_start(&r->tree->idle, on_idle);
            }
        }
        return true;
    }
    if (r->top)
        root_lose(r, "another folder stands at its path");
    root_arm(r, &st);
    return r->top != NULL;
}

int watch_tree_add(struct watch_tree *t, const char *path, const struct watch_calls *calls,
                   void *ctx, struct watch_root **out, struct error *e)
{
    struct watch_root *r = calloc(1, sizeof(*r));

    if (!r || !(r->path = strdup(path))) {
        free(r);
        return error_sys(e, ENOMEM, "cannot watch '%s'", path);
    }
    r->tree = t;
    r->calls = *calls;
    r->ctx = ctx;
    TAILQ_INIT(&r->report);
    TAILQ_INIT(&r->polled);
    LIST_INSERT_HEAD(&t->roots, r, link);
    *out = r;
    watch_root_check(r);
    return 0;
}

void watch_tree_remove(struct watch_tree *t, struct watch_root *r)
{
    if (!r)
        return;
    events_forget(t, r);
    if (r->top)
        walk_remove(t, r, r->top);
    drop_guards(r);
    LIST_REMOVE(r, link);
    free(r->guards);
    free(r->path);
    free(r);
}

enum watch_state watch_root_state(const struct watch_root *r)
{
    if (!r->top)
        return WATCH_MISSING;
    if (r->walking)
        return WATCH_WALKING;
    if (r->top->flags & NODE_POLLED)
        return WATCH_POLLING;
    return r->polled_count > 0 ? WATCH_DEGRADED : WATCH_STANDING;
}

static unsigned long long watches_max(void)
{
    FILE *f = fopen("/proc/sys/fs/inotify/max_user_watches", "re");
    unsigned long long max = 0;

    if (f) {
        if (fscanf(f, "%llu", &max) != 1)
            max = 0;
        fclose(f);
    }
    return max;
}

const char *watch_root_problem(struct watch_root *r)
{
    if (!r->top)
        return r->problem;
    if (r->polled_count == 0)
        return "";
    if (!r->tree->notify)
        return r->tree->no_notify;
    if (r->exhausted)
        snprintf(r->problem, sizeof(r->problem),
                 "no inotify watches left: %zu folders and what lies below them are polled; raise "
                 "the limit fs.inotify.max_user_watches (now %llu)",
                 r->polled_count, watches_max());
    else
        snprintf(r->problem, sizeof(r->problem),
                 "%zu folders lie where changes are not reported (a network or FUSE file system, or"
                 " not readable): they are polled",
                 r->polled_count);
    return r->problem;
}

bool watch_root_exhausted(const struct watch_root *r)
{
    return r->top && r->polled_count > 0 && (r->exhausted || !r->tree->notify);
}

/* Report them one by one only while they are few. */
enum { POLLED_PATHS_MAX = 256 };

void watch_tree_poll(struct watch_root *r)
{
    struct watch_node *node;

    if (!r->top || r->polled_count == 0)
        return;
    r->tree->exhausted = false;
    if (r->polled_count > POLLED_PATHS_MAX) {
        TAILQ_FOREACH(node, &r->polled, polled)
        walk_enqueue(r, node, false);
        walk_enqueue(r, r->top, true);
    } else {
        TAILQ_FOREACH(node, &r->polled, polled)
        walk_enqueue(r, node, true);
    }
    uv_idle_start(&r->tree->idle, on_idle);
}

void watch_tree_again(struct watch_root *r, const char *folder)
{
    struct watch_node *node = root_find(r, folder);

    if (!node)
        node = r->top;
    if (!node)
        return;
    walk_enqueue(r, node, true);
    uv_idle_start(&r->tree->idle, on_idle);
}

/* ---- time ---- */

#define SUSPECT_FIRST_NS (UINT64_C(20) * 1000000)
#define SUSPECT_AGAIN_NS (UINT64_C(5) * 1000000)
/* However often folders are renamed, walks take no more than a small part of the time. */
enum { SUSPECT_COST_FACTOR = 10 };

void root_suspect(struct watch_root *r)
{
    uint64_t pause = r->walk_cost * SUSPECT_COST_FACTOR;

    if (r->suspect)
        return;
    r->suspect = true;
    r->suspect_until = clock_mono_ns() + (pause > SUSPECT_FIRST_NS ? pause : SUSPECT_FIRST_NS);
}

uint64_t watch_tree_deadline(const struct watch_tree *t)
{
    const struct moved_from *m = TAILQ_FIRST(&t->moved);
    const struct watch_root *r;
    uint64_t at = m ? m->until : UINT64_MAX;

    LIST_FOREACH(r, &t->roots, link)
    {
        if (r->suspect && r->suspect_until < at)
            at = r->suspect_until;
    }
    return at;
}

/* Put every node right, and tell of everything. */
static void walk_suspect(struct watch_root *r)
{
    r->suspect = false;
    if (r->top)
        walk_enqueue(r, r->top, true);
}

void watch_tree_tick(struct watch_tree *t, uint64_t now_ns)
{
    struct watch_root *r;

    events_expire(t, now_ns);
    LIST_FOREACH(r, &t->roots, link)
    {
        if (!r->suspect || now_ns < r->suspect_until)
            continue;
        if (t->ahead || !TAILQ_EMPTY(&t->moved))
            r->suspect_until = now_ns + SUSPECT_AGAIN_NS; /* not yet: there is more to come */
        else
            walk_suspect(r);
    }
    tree_walk_on(t, false);
}

void watch_tree_drain(struct watch_tree *t)
{
    struct watch_root *r;

    if (t->notify)
        notify_drain(t->notify);
    events_expire(t, UINT64_MAX);
    LIST_FOREACH(r, &t->roots, link)
    {
        if (r->suspect)
            walk_suspect(r);
    }
    while (walk_slice(t, true))
        ;
    uv_idle_stop(&t->idle);
}

bool watch_tree_blind(const struct watch_tree *t)
{
    return !t->notify;
}

bool watch_tree_gets_on(struct watch_tree *t)
{
    return !t->notify || notify_gets_on(t->notify);
}

/* ---- the barrier ---- */

static void wait_for_walks(struct watch_barrier *b)
{
    struct watch_tree *t = b->tree;

    b->next = t->waiting;
    t->waiting = b;
    uv_idle_start(&t->idle, on_idle); /* fires it when, or as soon as, the queue is empty */
}

static void on_passed(void *ctx)
{
    struct watch_barrier *b = ctx;
    struct watch_root *r;

    events_expire(b->tree, UINT64_MAX);
    LIST_FOREACH(r, &b->tree->roots, link)
    {
        if (r->suspect)
            walk_suspect(r);
    }
    wait_for_walks(b);
}

int watch_tree_barrier_folder(struct watch_tree *t, const char *path, struct error *e)
{
    return t->notify ? notify_barrier_folder(t->notify, path, e) : 0;
}

void watch_tree_barrier(struct watch_tree *t, struct watch_barrier *b)
{
    struct error e = ERROR_INIT;

    b->tree = t;
    b->notify.passed = on_passed;
    b->notify.ctx = b;
    if (t->notify && notify_barrier_start(t->notify, &b->notify, &e) == 0)
        return;
    /* No room for a file, perhaps. What happened before is in the kernel's queue all the same. */
    if (t->notify)
        notify_drain(t->notify);
    on_passed(b);
}
