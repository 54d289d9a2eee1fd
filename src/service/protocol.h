/* protocol.h - what is spoken on the control socket: one JSON object a line, both ways.
 *
 * A connection carries one request. The service answers with the same lines that the command
 * prints with --json; the last line is the document, or has "type":"summary", or is
 * {"type":"error","code":N,"message":...}; then the service closes. A request is at most 64 KiB and
 * must arrive within 10 s; a peer that does not read is dropped after 30 s.
 *
 * {"type":"working"} comes at least every half second from the request to the last line, as long as
 * the service gets on with its work. A client that hears nothing for as long as it is willing to
 * wait knows that the service does not answer, however long the work itself may take.
 *
 * {"command":"save","watches":["bot"]|null,"name":..|null,"note":..|null,"moved":bool,
 *  "accept":bool,"progress":bool}
 *     A barrier first: every change that the kernel reported before the request is in it. With
 *     "progress" lines {"type":"progress","files":N,"bytes":N,"files_total":N,"bytes_total":N}.
 *     "safety":true makes the snapshot before a restore in place: always one, of the whole tree.
 *     "paths" instead of "watches": [{"name":..|null,"path":..}] of watches the service may not
 * have.
 * {"command":"list","watch":..|null,"recent":N,"since":S|null,"until":S|null}
 * {"command":"show","snapshot":"TEXT","watch":..|null}
 * {"command":"status"}
 * {"command":"verify","level":"quick"|"full"|"restore-test","snapshots":["TEXT",...],"watch":..|null}
 * {"command":"pin"|"unpin","snapshot":"TEXT","watch":..|null}
 * {"command":"prune","watch":..|null,"dry_run":bool,"thaw":bool}
 * {"command":"record","watch":"bot","text":"..."}
 *     Of a restore in place, as snapshot/restore_record.h has it.
 * {"command":"archive","snapshots":[N,...],"name":..|null,"meta":["KEY=VALUE",...],"progress":bool}
 *     Archives of these, one after the other: {"type":"archived",...} lines, errors, the summary.
 * {"command":"reload"}  {"command":"rebuild"}  {"command":"stop"}
 *
 * Peers: root, the repository's owner and the service's own user may do all; members of the
 * configured group may list, show, status, save and archive; everybody else gets code 12. */
#ifndef WK_SERVICE_PROTOCOL_H
#define WK_SERVICE_PROTOCOL_H

#define PROTOCOL_REQUEST_MAX (64 * 1024)
#define PROTOCOL_REQUEST_MS 10000
#define PROTOCOL_STALL_MS 30000
#define PROTOCOL_WORKING_MS 500

#endif
