/* saves_fixture.h - several saves at once, their steps in any order, and what may come between
 * them: by a seed and in one thread. Include it in one file of a test. */
#ifndef WK_TESTS_SAVES_FIXTURE_H
#define WK_TESTS_SAVES_FIXTURE_H

#include "fault_fixture.h"
#include "snapshot/verify.h"
#include "threads_fixture.h"

enum { WATCHES = 4, CONTENTS = 14 };
static const char *const watches[WATCHES] = {"a", "b", "c", "d"};

struct saving {
    struct txn *t;
    struct model_tree from, to;
    size_t next; /* of the files of `to` */
    bool removed;
};

struct said {
    bool named, pinned;
};

/* What is asked for just now: nobody was told of it yet. */
struct asked {
    const char *watch; /* a commit of this tree, or NULL */
    struct model_tree tree;
    uint64_t drop, mark; /* snapshots, or 0 */
    struct said said;    /* of the one that is marked, then */
};

static struct {
    struct scratch *scratch;
    char path[128];
    struct repo *repo;
    struct notices notices; /* since it was opened */
    struct model model;
    struct said said[SNAPSHOTS_MAX]; /* of each of its snapshots */
    struct asked asked;
    struct saving open[WATCHES];
    uint64_t random;
    unsigned copies;
    bool within;  /* a call that other threads may save beside: its reads are where they do */
    bool between; /* that is done just now */
    bool flushing;
} g;

static inline unsigned any(unsigned n)
{
    return (unsigned)(next_random(&g.random) % n);
}

/* ---- saves, step by step ---- */

static inline void begin(unsigned i)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    struct saving *s = &g.open[i];
    struct error e = ERROR_INIT;
    char name[8];

    if (s->t)
        return;
    OK(begin_save(g.repo, watches[i], &s->t, &e), e);
    s->from = s->to = *last_tree(&g.model, watches[i]);
    s->next = 0;
    s->removed = false;
    for (unsigned n = 1 + any(6); n > 0; n--) {
        uint64_t seed = 1 + any(CONTENTS);
        snprintf(name, sizeof(name), "f%u", any(9));
        if (any(4) == 0)
            tree_remove(&s->to, name);
        else
            tree_set(&s->to, name, seed, 300 + seed * seed * 450);
    }
    if (txn_watch_row(s->t)->last == 0)
        OK(txn_node_put(s->t, NODE_ROOT, &root, &e), e);
}

static inline void give_up(unsigned i)
{
    if (g.open[i].t)
        txn_abort(g.open[i].t);
    g.open[i].t = NULL;
}

/* True when nothing is left to be put. */
static inline bool put_next(unsigned i)
{
    struct saving *s = &g.open[i];
    struct error e = ERROR_INIT;

    while (s->next < s->to.count) {
        const struct model_file *f = &s->to.files[s->next++];
        const struct model_file *old = tree_find(&s->from, f->name);
        if (old && old->seed == f->seed && old->len == f->len)
            continue;
        OK(put_file(s->t, f, &e), e);
        return false;
    }
    for (size_t n = 0; !s->removed && n < s->from.count; n++)
        if (!tree_find(&s->to, s->from.files[n].name))
            OK(remove_file(s->t, s->from.files[n].name, &e), e);
    s->removed = true;
    return true;
}

/* As when the operations fill a list. */
static inline void spill(unsigned i)
{
    struct txn *t = g.open[i].t;
    struct error e = ERROR_INIT;

    if (!t || t->ops.len == 0)
        return;
    pthread_mutex_lock(&g.repo->write_lock);
    int rc = txn_spill_ops(t, &e);
    pthread_mutex_unlock(&g.repo->write_lock);
    OK(rc, e);
}

/* The next block is one too many for a small save. */
static inline void grow(unsigned i)
{
    if (g.open[i].t && !g.open[i].t->big)
        g.open[i].t->small_bytes = SMALL_SAVE_MAX;
}

static inline bool is_large(unsigned i)
{
    return g.open[i].t && (g.open[i].t->big || g.open[i].t->small_bytes > SMALL_SAVE_MAX / 2);
}

static inline void finish(unsigned i)
{
    struct saving *s = &g.open[i];
    struct error e = ERROR_INIT;
    uint64_t number;

    if (!s->t)
        return;
    while (!put_next(i))
        if (any(8) == 0)
            spill(i);
    if (any(6) == 0)
        spill(i);
    if (!txn_changed(s->t))
        txn_end_unchanged(s->t);
    else if (g.model.count == SNAPSHOTS_MAX)
        txn_abort(s->t);
    else {
        g.asked = (struct asked){.watch = watches[i], .tree = s->to};
        OK(end_save(s->t, NULL, &s->to, &number, &e), e);
        g.asked = (struct asked){0};
        for (size_t n = 0; n < g.model.count; n++)
            assert_true(g.model.snapshots[n].number != number);
        g.said[g.model.count] = (struct said){0};
        model_add(&g.model, watches[i], number, &s->to);
    }
    s->t = NULL;
}

/* ---- what comes between ---- */

static inline struct model_snapshot *some_snapshot(void)
{
    return g.model.count ? &g.model.snapshots[any((unsigned)g.model.count)] : NULL;
}

static inline void mark_some(void)
{
    static const uint8_t types[] = {MARK_VERIFIED, MARK_NAME, MARK_PIN, MARK_UNPIN};
    struct mark m = {.type = types[any(4)], .count = 1, .time = {.s = fixture_time}};
    struct error e = ERROR_INIT;
    char text[32];

    struct model_snapshot *s = some_snapshot();
    if (!s || s->dropped)
        return;
    snprintf(text, sizeof(text), "n%" PRIu64, s->number);
    m.snapshots = &s->number;
    m.text = m.type == MARK_NAME ? text : NULL;
    struct said *said = &g.said[s - g.model.snapshots];
    g.asked = (struct asked){.mark = s->number, .said = *said};
    g.asked.said.named |= m.type == MARK_NAME;
    if (m.type != MARK_VERIFIED)
        g.asked.said.pinned = m.type != MARK_UNPIN;
    OK(repo_mark(g.repo, &m, &e), e);
    *said = g.asked.said;
    g.asked = (struct asked){0};
}

/* One that is not the newest of its watch. */
static inline void drop_some(void)
{
    struct model_snapshot *s = some_snapshot();
    struct error e = ERROR_INIT;
    bool newest = true;

    if (!s || s->dropped)
        return;
    for (const struct model_snapshot *n = s + 1; n < g.model.snapshots + g.model.count; n++)
        newest &= strcmp(n->watch, s->watch) != 0;
    if (newest)
        return;
    g.asked = (struct asked){.drop = s->number};
    OK(repo_drop(g.repo, &s->number, 1, &e), e);
    g.asked = (struct asked){0};
    s->dropped = true;
}

/* As other threads would while the lock is free. Where a full pack is being flushed there is no
 * other thread to end what waits for it. */
static inline void save_beside(void)
{
    unsigned i = any(WATCHES);

    switch (any(6)) {
    case 0:
        begin(i);
        break;
    case 1:
        spill(i);
        break;
    case 2:
        mark_some();
        break;
    case 3:
        if (!g.flushing)
            grow(i);
        break;
    case 4:
        if (!g.flushing || !is_large(i))
            finish(i);
        break;
    case 5:
        if (!g.flushing || !is_large(i))
            give_up(i);
        break;
    default:
        break;
    }
}

static pthread_t this_thread;

/* Threads of what is asked come by here too: they change nothing. */
static inline bool is_here(void)
{
    return pthread_equal(pthread_self(), this_thread) != 0;
}

static inline void between(unsigned seldom)
{
    if (!g.repo || g.between || any(seldom) != 0 || !nothing_is_locked(g.repo))
        return;
    g.between = true;
    for (unsigned n = 1 + any(4); n > 0; n--)
        save_beside();
    g.between = false;
}

static inline ssize_t pread_between(int fd, void *p, size_t n, off_t off)
{
    if (is_here() && g.within)
        between(30);
    return fileops_system.pread(fd, p, n, off);
}

static inline int gate_between(int op, const char *path)
{
    if (is_here() && g.within && op == FILEOP_READ)
        between(30);
    return 0;
}

/* A full data pack is flushed without the lock. */
static inline void between_flushing(void)
{
    const bool within = g.flushing;

    g.flushing = g.repo && g.repo->ending_count > 0;
    if (g.flushing)
        between(2);
    g.flushing = within;
}

/* ---- the whole repository ---- */

static inline void upkeep(void)
{
    const struct upkeep u = {
        .keep_s = any(3) ? 0 : 86400, .all = any(4) != 0, .pressed = any(4) == 0};
    struct error e = ERROR_INIT;

    g.within = true;
    OK(repo_upkeep(g.repo, &u, NULL, &e), e);
    g.within = false;
}

static inline void verify(struct repo *r, bool recorded)
{
    const struct verify_request q = {
        .repo = r, .level = any(2) ? VERIFY_FULL : VERIFY_QUICK, .workers = 1, .record = recorded};
    struct verify_result result;
    struct error e = ERROR_INIT;

    g.within = true;
    OK(verify_run(&q, &result, &e), e);
    g.within = false;
    for (size_t i = 0; i < result.damaged_count; i++)
        print_message("%s: %s\n", result.damaged[i].pack ? result.damaged[i].pack : "-",
                      result.damaged[i].reason);
    assert_int_equal(result.errors, 0);
    verify_result_release(&result);
}

static inline void verify_a_part(void)
{
    const struct verify_part part = {.repo = g.repo, .record_in = g.repo};
    struct verify_result result;
    struct error e = ERROR_INIT;
    bool all;

    g.within = true;
    OK(any(2) ? verify_new(&part, 1 + any(300000), &result, &all, &e)
              : verify_sample(&part, 1 + any(60), &result, &all, &e),
       e);
    g.within = false;
    assert_int_equal(result.errors, 0);
    verify_result_release(&result);
}

/* The catalog goes while it is in use. */
static inline void lose_catalog(void)
{
    struct catalog_try tried = repo_catalog_try(g.repo);
    char path[160];

    snprintf(path, sizeof(path), "%s/catalog.db", g.path);
    fileops->unlinkat(AT_FDCWD, path, 0);
    assert_true(repo_catalog_replaced(g.repo, ERR_CATALOG, &tried));
}

static inline void rebuild(void)
{
    struct error e = ERROR_INIT;

    OK(repo_rebuild(g.repo, &e), e);
}

static inline void check_said(struct repo *r)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    char text[32];

    for (size_t i = 0; i < g.model.count; i++) {
        const struct model_snapshot *s = &g.model.snapshots[i];
        if (s->dropped)
            continue;
        OK(catalog_snapshot(repo_catalog(r), s->number, &row, &e), e);
        snprintf(text, sizeof(text), "n%" PRIu64, s->number);
        assert_int_equal(row.pinned, g.said[i].pinned);
        assert_string_equal(row.commit.name ? row.commit.name : "", g.said[i].named ? text : "");
        snapshot_row_release(&row);
    }
}

static inline void check(void)
{
    check_model(g.repo, &g.model);
    check_said(g.repo);
    check_refs(g.repo);
}

static inline void read_beside(bool verifies)
{
    const struct repo_options opt = {.distrust = any(3) == 0};
    struct error e = ERROR_INIT;
    struct repo *reader;

    OK(repo_open(g.path, REPO_READ, &opt, &reader, &e), e);
    if (verifies)
        verify(reader, false);
    else
        check_model(reader, &g.model);
    repo_close(reader);
}

static inline void open_again(void)
{
    struct error e = ERROR_INIT;
    char path[160];

    if (any(4) == 0) {
        snprintf(path, sizeof(path), "%s/catalog.db", g.path);
        fileops->unlinkat(AT_FDCWD, path, 0);
    }
    g.notices = (struct notices){0};
    OK(open_repo(g.path, REPO_WRITE, &g.notices, &g.repo, &e), e);
    g.repo->pack_full = 20000 + any(any(2) ? 60000 : 300000);
}

static inline void close_it(void)
{
    for (unsigned i = 0; i < WATCHES; i++)
        give_up(i);
    repo_close(g.repo);
    g.repo = NULL;
}

/* ---- a run ---- */

/* ---- a run ---- */

static inline void step(void (*killed)(void))
{
    unsigned i = any(WATCHES), what = any(34);

    if (what < 6)
        begin(i);
    else if (what < 10 && g.open[i].t)
        put_next(i);
    else if (what < 13)
        spill(i);
    else if (what < 16)
        grow(i);
    else if (what < 20)
        finish(i);
    else if (what < 21)
        give_up(i);
    else if (what < 22)
        mark_some();
    else if (what < 24)
        drop_some();
    else if (what < 27)
        upkeep();
    else if (what < 28)
        verify(g.repo, any(2));
    else if (what < 29)
        verify_a_part();
    else if (what < 31)
        read_beside(any(2));
    else if (what < 32)
        any(2) ? rebuild() : lose_catalog();
    else if (what < 33) {
        close_it();
        open_again();
    } else
        killed();
    if (any(6) == 0)
        check();
}

#endif
