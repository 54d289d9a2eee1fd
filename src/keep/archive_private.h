/* archive_private.h - what the files of the archive share; nobody else includes it.
 *
 * archive.c         the order of the whole
 * archive_place.c   folders, names, temporaries, putting in place, removing
 * archive_tar.c     the tree as a tar, cut into pieces
 * archive_piece.c   a piece of it, made and packed by a worker (archive_piece.h)
 * archive_tail.c    what stands behind the tree in a tar
 * archive_folder.c  the tree as plain files
 * archive_meta.c    metadata.json and NAME.json: written, and their head read
 * archive_hash.c    SHA-256 of files as people count it: holes are zeros
 * archive_read.c    an archive of either form, entry by entry (tar_read.c, archive_walk.c)
 * archive_use.c     restore, cat, ls of one
 * archive_verify.c  reading back
 * archive_list.c    what there is, and which one is meant
 * archive_report.c  as JSON */
#ifndef WK_KEEP_ARCHIVE_PRIVATE_H
#define WK_KEEP_ARCHIVE_PRIVATE_H

#include "keep/archive.h"

#include "base/buffer.h"
#include "store/hash.h"
#include "store/node.h"

#include <jansson.h>
#include <stdio.h>

#define ARCHIVE_TAR_SUFFIX ".tar.gz"
#define ARCHIVE_NAME_MAX 96 /* "backup_", a name of 64, "-NNNN" */
#define ARCHIVE_TEMP_MAX 128
#define ARCHIVE_TREE "tree" /* in the temporary folder of a directory: what gets the final name */

/* ---- archive_place.c ---- */

struct archive_place {
    int dir;                     /* <archives>/WATCH/automatic or manual */
    int lock;                    /* our temporary archive, open and locked while it is ours; -1 */
    char *folder;                /* path of dir */
    char name[ARCHIVE_NAME_MAX]; /* backup_... */
    char temp[ARCHIVE_TEMP_MAX]; /* of the archive: a file, or a folder */
    char temp_meta[ARCHIVE_TEMP_MAX + 8]; /* of NAME.json */
    bool made, meta_made;                 /* the temporaries are there */
    bool published;
    enum archive_format format;
};
/* Make the folder, remove what killed runs left, choose a free name, make the temporaries. */
int archive_place_open(const struct archive_order *o, struct wall_time now, struct archive_place *p,
                       struct error *e);
/* Both are flushed: give them their names. After a failure `published` tells whether they stand all
 * the same (then only the flush of the folder failed). */
int archive_place_publish(struct archive_place *p, struct error *e);
/* Remove temporaries that have no final name, close. */
void archive_place_close(struct archive_place *p);
bool archive_name_taken(int dir, const char *name);
/* 0, or ERR_NOSPACE: with so many bytes written more too little were left to others. fd: anything
 * on that file system. */
int archive_room(const struct archive_order *o, int fd, uint64_t bytes, struct error *e);
/* Whoever changes names in such a folder, or replaces a NAME.json, holds its lock. */
int archive_folder_lock(int dir, struct error *e);
void archive_folder_unlock(int dir);

/* ---- archive_hash.c ---- */

struct archive_hasher { /* content comes as the data runs end to end */
    struct hash_stream *stream;
    const struct node *node;
    uint64_t pos, in_extent; /* in the file; in the run at hand */
    uint32_t extent;
};
int archive_hash_begin(struct archive_hasher *h, const struct node *n, struct error *e);
int archive_hash_add(struct archive_hasher *h, const uint8_t *p, uint64_t len, struct error *e);
int archive_hash_end(struct archive_hasher *h, struct hash *out, struct error *e);
void archive_hash_release(struct archive_hasher *h);

/* ---- archive_tail.c ---- */

struct gzip_packer;
struct archive_tail { /* folders that are named once more behind everything; all zero: none */
    struct gzip_packer *packer;
    struct buffer raw, packed;
};
int archive_tail_folder(struct archive_tail *t, const char *top, const char *path,
                        const struct node *n, struct error *e);
void archive_tail_release(struct archive_tail *t);

/* ---- archive_meta.c ---- */

struct archive_meta { /* gathered while the archive is written */
    const struct archive_order *order;
    struct wall_time time;
    const char *name;   /* backup_... as first chosen: the top folder */
    const char *inside; /* what the file is called in the archive */
    char *root;         /* of the watch */
    char repository[ARCHIVE_REPOSITORY_MAX];
    uint64_t files, bytes;
    struct buffer entries;   /* of files_backed_up, as they are written */
    struct buffer databases; /* paths, each with a NUL behind it */
    uint64_t database_max;   /* bytes of the largest */
    struct buffer counted;   /* entries of `databases`, as they are written */
    struct archive_left_out *left_out;
    size_t left_out_count;
    uint64_t left_out_total;
    struct archive_tail tail;
};
void archive_meta_release(struct archive_meta *m);
/* Both in the order of the archive's entries. */
void archive_meta_database(struct archive_meta *m, const char *path, uint64_t size);
void archive_meta_file(struct archive_meta *m, const char *path, uint64_t size,
                       const struct hash *sha256);
int archive_meta_left_out(struct archive_meta *m, const char *path, const char *reason,
                          struct error *e);
/* Open each database, as the snapshot has it, from a scratch copy in the folder. */
int archive_meta_databases(struct archive_meta *m, struct repo *r, const char *scratch,
                           struct error *e);
/* The whole text; the entries go into it. */
int archive_meta_text(struct archive_meta *m, struct buffer *out, struct error *e);

/* What NAME.json tells besides, once the archive stands or was checked. */
struct archive_verdict {
    struct wall_time verified; /* s = 0: null */
    bool damaged;
    uint64_t stored_bytes;
    double seconds;
};
/* Replace NAME.json by one with that verdict; takes the folder's lock. */
int archive_meta_record(int dir, const char *name, const struct archive_verdict *v,
                        struct error *e);
/* What the metadata in an archive's folder is called, "" for none; path: of the archive. */
#define ARCHIVE_INSIDE_MAX 64
bool archive_inside_name(unsigned i, char inside[ARCHIVE_INSIDE_MAX]); /* the i-th choice */
void archive_meta_inside(int dir, const char *path, char inside[ARCHIVE_INSIDE_MAX]);

/* The files and databases that a metadata text names, one after the other. */
struct archive_expected {
    const struct buffer *text;
    size_t at;
};
/* From the beginning of a list; false: the text is not of ours. */
bool archive_expect_files(struct archive_expected *x, const struct buffer *text);
bool archive_expect_databases(struct archive_expected *x, const struct buffer *text);
/* The next entry, its line borrowed; false at the end. */
bool archive_expect_next(struct archive_expected *x, const char **line, size_t *len);
/* Whether the line is of that path, and what it says. */
bool archive_expect_file(const char *line, size_t len, const char *path, uint64_t *bytes,
                         struct hash *sha256);
bool archive_expect_database(const char *line, size_t len, const char *path, const char *detail);
bool archive_expect_is(const char *line, size_t len, const char *path);
/* What the line of a path has in common with the path, and with no other. Caller frees; NULL on no
 * memory. */
char *archive_expect_key(const char *line, size_t len);
char *archive_path_key(const char *path);
/* The metadata of an archive: NAME.json, or where that is missing, that in the archive. */
int archive_meta_find(const struct archive_item *item, struct buffer *out, struct error *e);
/* Fill from a text what NAME.json would tell, if that were there. */
int archive_meta_take(struct archive_item *item, const struct buffer *text, struct error *e);
/* The keys that a text begins with, a new reference, or NULL. */
json_t *archive_meta_head(const struct buffer *text);
/* The whole of NAME.json. ERR_NOTFOUND. */
int archive_meta_load(int dir, const char *name, struct buffer *out, struct error *e);

/* Fill item from NAME.json in dir. ERR_DAMAGED, ERR_NOTFOUND. */
int archive_meta_read(int dir, const char *name, struct archive_item *item, struct error *e);

/* ---- archive_tar.c, archive_tail.c, archive_folder.c ---- */

/* How many threads make it. */
unsigned archive_workers(const struct archive_order *o);

/* Write all of it but its metadata to fd; m is filled. *offset: bytes written. */
int archive_tar_write(struct repo *r, struct archive_meta *m, int fd, uint64_t *offset,
                      struct error *e);
/* The metadata, the folders that are named once more, and the end. */
int archive_tar_finish(struct archive_meta *m, const struct buffer *text, int fd, uint64_t *offset,
                       struct error *e);

/* Restore the tree into the temporary folder; hashes are taken from what stands there then. */
int archive_folder_write(struct repo *r, struct archive_meta *m, struct archive_place *p,
                         uint64_t *stored, struct error *e);
int archive_folder_finish(struct archive_meta *m, struct archive_place *p,
                          const struct buffer *text, struct error *e);

#endif
