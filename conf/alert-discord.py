#!/usr/bin/env python3
"""Post an event of watchkeep to a Discord channel: a program for `[alert] command`.

Reads one event as JSON from standard input. The webhook's URL is a secret: it comes from the
environment, DISCORD_WEBHOOK_URL, or from the file that DISCORD_WEBHOOK_URL_FILE names, never from
arguments. With systemd:

    systemctl edit watchkeep
    [Service]
    Environment=DISCORD_WEBHOOK_URL_FILE=/etc/watchkeep/discord-webhook

Exit 0: posted. Python's standard library only.
"""
import json
import os
import sys
import urllib.error
import urllib.request

TIME_OUT_S = 20
CONTENT_MAX = 2000  # Discord's


def webhook_url():
    path = os.environ.get("DISCORD_WEBHOOK_URL_FILE")
    if path:
        with open(path) as f:
            return f.read().strip()
    return os.environ.get("DISCORD_WEBHOOK_URL", "").strip()


def plain(text):
    """So that nothing in a name or path is taken for markup or for a mention."""
    for c in "\\*_~`|>[]()#-":
        text = text.replace(c, "\\" + c)
    return text.replace("@", "@\u200b")


def content(event):
    over = event.get("event") == "recovered"
    what = event.get("watch") or event.get("repository") or "watchkeep"
    lines = ["%s **%s** on %s: %s" % ("\u2705 over:" if over else "\u26a0\ufe0f", plain(what),
                                      plain(event.get("host") or "?"),
                                      plain(event.get("message") or event.get("code") or "?"))]
    if event.get("since"):
        lines.append("since %s" % plain(event["since"]))
    if event.get("do") and not over:
        lines.append("do: %s" % plain(event["do"]))
    return "\n".join(lines)[:CONTENT_MAX]


def main():
    url = webhook_url()
    if not url:
        sys.exit("alert-discord: neither DISCORD_WEBHOOK_URL nor DISCORD_WEBHOOK_URL_FILE is set")
    body = {"content": content(json.load(sys.stdin)), "allowed_mentions": {"parse": []}}
    request = urllib.request.Request(url, json.dumps(body).encode(), method="POST", headers={
        "Content-Type": "application/json", "User-Agent": "watchkeep"})
    try:
        with urllib.request.urlopen(request, timeout=TIME_OUT_S):
            pass
    except urllib.error.HTTPError as e:
        sys.exit("alert-discord: the webhook answered %d" % e.code)
    except OSError as e:
        sys.exit("alert-discord: the webhook cannot be reached: %s" % getattr(e, "reason", e))


main()
