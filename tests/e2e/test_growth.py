"""What the save of a small change adds to the packs, and that every version reads back equal."""
import os
import sys

import wk

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.environ["WK_SOURCE"], "bench"))
os.environ["WK_BIN"] = wk.BIN
import growth  # noqa: E402
import tools  # noqa: E402

SAVES = 40 if wk.SANITIZED else 300


class Program(tools.Watchkeep):
    codec = "zstd"

    def env(self):
        conf = os.path.join(self.place, "conf")
        if not os.path.exists(conf):
            wk.write(conf, "[service]\nrepository = %s\ncodec = %s\n" % (self.repo, self.codec))
        return wk.environment(WATCHKEEP_CONFIG=conf,
                              XDG_STATE_HOME=os.path.join(self.place, "state"))


def grow(scratch, case, count, scale=1.0, codec="zstd"):
    p = Program(os.path.join(scratch, case))
    p.codec = codec
    return growth.measure(p, case, os.path.join(scratch, case + "-source"), count, scale,
                          packs="packs")


def mean(values):
    return sum(values) / len(values)


def one_field_of_a_json_file(scratch):
    r = grow(scratch, "same", SAVES)
    assert mean(r["grown"]) <= 600, mean(r["grown"])


def any_field_of_a_json_file(scratch):
    r = grow(scratch, "random", SAVES)
    assert mean(r["grown"]) <= 1200, mean(r["grown"])


def a_field_with_zlib(scratch):
    """32 KiB reach back over a short file."""
    r = grow(scratch, "same", 30, 0.2, codec="zlib")
    assert mean(r["grown"]) <= 700, mean(r["grown"])


def a_page_of_a_large_file(scratch):
    """4,096 pages, of which many hold a place where the file is cut."""
    r = grow(scratch, "page", 20 if wk.SANITIZED else 60, 0.0625)
    assert sum(r["grown"]) <= 1.2 * sum(r["least"]), (sum(r["grown"]), sum(r["least"]))
    assert max(g - l for g, l in zip(r["grown"], r["least"])) < 4096, "a change stored a chunk"


def a_row_of_a_database(scratch):
    """Of one row two pages change, its own and the first; most of both stays."""
    r = grow(scratch, "row", 20, 0.1)
    assert mean(r["grown"]) <= 2500, mean(r["grown"])


def lines_of_a_log(scratch):
    """A chunk grows until it is cut off: deltas over several versions repeat what came between."""
    r = grow(scratch, "log", 60)
    assert sum(r["grown"]) <= 3 * sum(r["least"]) + 60 * 600, (sum(r["grown"]), sum(r["least"]))


wk.main(one_field_of_a_json_file, any_field_of_a_json_file, a_field_with_zlib,
        a_page_of_a_large_file, a_row_of_a_database, lines_of_a_log)
