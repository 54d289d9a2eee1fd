/* reach.h - how a command gets at the repository: itself, or through the running service. */
#ifndef WK_CLI_REACH_H
#define WK_CLI_REACH_H

#include "cli/cli.h"
#include "service/client.h"
#include "store/repository.h"

/* The repository's path as flag, environment, file and default give it. */
int reach_place(struct cli *cli, const char **path, struct error *e);

/* Open it for reading. ERR_NOREPO names the remedy. */
int reach_read(struct cli *cli, struct repo **out, struct error *e);

/* Open it for writing, waiting at most wait_ms; ERR_BUSY. */
int reach_write(struct cli *cli, unsigned wait_ms, struct repo **out, struct error *e);

/* The same, waiting as long as --wait says, past what the disk refuses to read of data packs. */
int reach_rebuild(struct cli *cli, struct repo **out, struct error *e);

/* The socket of the service that runs on this repository: malloc'ed, or NULL when there is none.
 * Where the repository is closed to us, the configured socket is asked what it serves. */
char *reach_service(struct cli *cli);

/* Whether the line of an answer is an error, which is put into *e. */
bool take_error_line(const json_t *line, struct error *e);

/* Ask the service for one document. ERR_NOTFOUND: no service; ERR_BUSY: it does not answer. */
int reach_document(struct cli *cli, json_t *request, json_t **doc, struct error *e);

/* The same, for what can be done here when nobody answers. *answered: there was a service, and what
 * is returned is its answer, or that it gave none. A request that is NULL is no memory. */
int reach_ask(struct cli *cli, json_t *request, json_t **doc, bool *answered, struct error *e);

/* The document from the service, when the repository could not be read for lack of rights (rc is
 * ERR_DENIED) and a service answers; else rc as it was. */
int reach_fallback(struct cli *cli, int rc, json_t *request, json_t **doc, struct error *e);

#endif
