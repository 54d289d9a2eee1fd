/* watchkeep.h - save, list, restore and verify snapshots from a program (libwatchkeep).
 *
 * What the library promises: no file of what is saved is ever opened in your process. SQLite's
 * locks are POSIX locks, and closing any descriptor of a database drops all locks that the process
 * has on it; so wk_save asks the running service, or else starts the program `watchkeep`, which is
 * found by the environment variable WATCHKEEP_PROGRAM, in the folder it was installed to, or in
 * PATH. Listing, restoring and verifying read the repository, in this process, without the writer's
 * lock and also while a service runs.
 *
 * A function that can fail returns 0 or a negative code of enum wk_code; wk_error tells the last
 * failure of that handle in words. A handle serves one thread at a time; any number of handles may
 * be open. Structs with a `size` member begin with their own size, so that later versions can add
 * to them; the WK_..._INIT macros set it. */
#ifndef WATCHKEEP_H
#define WATCHKEEP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define WK_API __attribute__((visibility("default")))
#else
#define WK_API
#endif

#define WK_VERSION_MAJOR 0
#define WK_VERSION_MINOR 1

/* The negated exit codes of the program. */
enum wk_code {
    WK_OK = 0,
    WK_FAILED = -1,     /* anything without a code of its own */
    WK_USAGE = -2,      /* an argument that cannot be */
    WK_INCOMPLETE = -3, /* done, but some file could not be read or kept changing */
    WK_DAMAGED = -4,    /* stored bytes are not what they were */
    WK_REFUSED = -5,    /* a guard says no: name taken, target not empty, target is watched */
    WK_NOTFOUND = -6,   /* no such snapshot, path or watch */
    WK_NOREPO = -10,    /* no repository there, or one this version cannot use */
    WK_BUSY = -11,      /* somebody else holds it */
    WK_DENIED = -12,    /* not permitted */
    WK_NOSPACE = -13,   /* no space left */
    WK_CANCELLED = -130 /* interrupted */
};

typedef struct wk_handle wk_handle;

/* "0.1.0" of the library that is running. */
WK_API const char *wk_version(void);

enum wk_open_flag { WK_CREATE = 1 }; /* make the repository when there is none */

/* Open the repository in the folder `repository`. *handle is set also on failure (NULL only when
 * there is no memory), for wk_error; close it in every case. Nothing is locked or kept open. */
WK_API int wk_open(const char *repository, unsigned flags, wk_handle **handle);
WK_API void wk_close(wk_handle *handle); /* NULL is fine */

/* The last failure of the handle: never NULL, valid until the next call with it. handle NULL: "out
 * of memory". */
WK_API const char *wk_error(const wk_handle *handle);
WK_API int wk_error_code(const wk_handle *handle);

/* ---- saving ---- */

typedef struct wk_save_options {
    size_t size;
    const char *name; /* of the snapshot, unique in its watch; or NULL */
    const char *note; /* or NULL */
} wk_save_options;
#define WK_SAVE_OPTIONS_INIT                \
    {                                       \
        sizeof(wk_save_options), NULL, NULL \
    }

typedef struct wk_save_result {
    size_t size;
    uint64_t snapshot; /* the one made; 0: nothing had changed and no name was given */
    uint64_t current;  /* the one that holds the state at the call, new or not */
    uint64_t files_new, files_changed, files_removed, files_unchanged;
    uint64_t bytes_read, bytes_stored;
    uint64_t incomplete; /* files that could not be read whole */
    double seconds;
} wk_save_result;
#define WK_SAVE_RESULT_INIT                                    \
    {                                                          \
        sizeof(wk_save_result), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0 \
    }

/* Save one watch now and return when it is durable. `watch` is the name of a configured watch, a
 * path (with a slash in it), or NAME=PATH. options and result may be NULL. WK_INCOMPLETE: saved,
 * but see result->incomplete. WK_BUSY: another process holds the repository, or the service on it
 * has been silent for 30 s. Blocks; a child process of the caller may come and go. */
WK_API int wk_save(wk_handle *handle, const char *watch, const wk_save_options *options,
                   wk_save_result *result);

/* ---- listing ---- */

typedef struct wk_snapshot { /* borrowed: valid during the callback */
    size_t size;
    uint64_t number;
    const char *watch;
    const char *kind;        /* "change", "interval", "manual", "startup", "shutdown", "safety" */
    const char *name, *note; /* or NULL */
    int64_t time_s;          /* since the epoch; a label: order is by number */
    uint32_t time_ns;
    int complete, damaged, suspect, pinned; /* 0 or 1 */
    int64_t verified_s;                     /* when every byte of it was last read back, 0: never */
    uint64_t files, bytes, changed, bytes_stored;
    double seconds;
} wk_snapshot;

/* A return other than 0 stops the listing and is what wk_list returns. */
typedef int (*wk_snapshot_fn)(void *context, const wk_snapshot *snapshot);

typedef struct wk_list_options {
    size_t size;
    const char *watch; /* of this watch only; NULL: of all */
    uint64_t recent;   /* the newest N only; 0: all */
} wk_list_options;
#define WK_LIST_OPTIONS_INIT             \
    {                                    \
        sizeof(wk_list_options), NULL, 0 \
    }

/* Snapshots in rising order of number. options may be NULL. */
WK_API int wk_list(wk_handle *handle, const wk_list_options *options, wk_snapshot_fn visit,
                   void *context);

/* ---- restoring ---- */

typedef struct wk_restore_options {
    size_t size;
    const char *watch; /* whose `latest`, when there are several; or NULL */
    int overwrite;     /* 1: the target may hold things, which are replaced one by one */
    unsigned threads;  /* 0: as many as there are processors, at most 4 */
} wk_restore_options;
#define WK_RESTORE_OPTIONS_INIT                \
    {                                          \
        sizeof(wk_restore_options), NULL, 0, 0 \
    }

typedef struct wk_restore_result {
    size_t size;
    uint64_t snapshot;     /* the one that was meant */
    uint64_t files, bytes; /* written */
    uint64_t skipped;      /* not there because their content is damaged */
    double seconds;
} wk_restore_result;
#define WK_RESTORE_RESULT_INIT                     \
    {                                              \
        sizeof(wk_restore_result), 0, 0, 0, 0, 0.0 \
    }

/* Bring what the snapshot holds into the folder target, which is made when missing. `selector` is
 * SNAPSHOT or SNAPSHOT:PATH; SNAPSHOT a number, a name, latest, latest~N, good, @TIME. A target
 * that is, holds or lies in a watched folder is WK_REFUSED: that is for the program's own `restore
 * --in-place`. WK_DAMAGED: the rest was restored. options and result may be NULL. */
WK_API int wk_restore(wk_handle *handle, const char *selector, const char *target,
                      const wk_restore_options *options, wk_restore_result *result);

/* ---- verifying ---- */

enum wk_verify_flag { WK_VERIFY_QUICK = 1 }; /* framing and sums only, not every byte */

typedef struct wk_verify_result {
    size_t size;
    uint64_t snapshots, chunks, bytes;
    uint64_t errors; /* 0: all is well */
    double seconds;
} wk_verify_result;
#define WK_VERIFY_RESULT_INIT                     \
    {                                             \
        sizeof(wk_verify_result), 0, 0, 0, 0, 0.0 \
    }

/* Read back what is stored: of one snapshot (a selector without a path), or NULL for all.
 * WK_DAMAGED when something is; wk_error then names the first. Nothing is recorded. */
WK_API int wk_verify(wk_handle *handle, const char *selector, unsigned flags,
                     wk_verify_result *result);

#ifdef __cplusplus
}
#endif

#endif
