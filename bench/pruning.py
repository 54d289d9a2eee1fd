"""pruning.py - dropping the oldest of ten snapshots of W1, one file in a hundred changed between them.

What a tool does to forget one and to give its space back is timed as one: `prune` of watchkeep,
`forget --prune` of restic, `prune` and `compact` of borg. watchkeep's snapshots are verified before,
as its service does by night; without that a prune first reads what its floor stands on, which is
measured too (cold).
"""
import os
import random
import shutil
import time

import tools
import workload

SNAPSHOTS = 10


def ten(rig, source, args, i):
    shutil.rmtree(source, ignore_errors=True)
    workload.make("W1", source, args.scale, args.seed, args.synthetic)
    rig.fresh()
    for n in range(SNAPSHOTS):
        if n:
            workload.change("W1", source, 1, random.Random("%d %d %d" % (args.seed, i, n)))
        time.sleep(0.1)
        rig.save(source)


def prune_one(rig):
    """Drop the oldest; what runs is durable when it returns, or made so."""
    keep = str(SNAPSHOTS - 1)
    if rig.name == "watchkeep":
        conf = os.path.join(rig.place, "prune.conf")
        with open(conf, "w") as f:
            f.write("[retention]\nkeep_days = off\nkeep_daily = off\nkeep_monthly = off\n"
                    "keep_last = %s\n" % keep)
        return rig.wk("-c", conf, "prune")
    if rig.name == "restic":
        return tools.run(["restic", "forget", "-q", "--prune", "--keep-last", keep], env=rig.env())
    cost = tools.run(["borg", "prune", "--keep-last", keep, rig.repo], env=rig.env())
    more = tools.run(["borg", "compact", rig.repo], env=rig.env())
    return tools.Cost(cost.seconds + more.seconds, max(cost.rss, more.rss))


def measure(rig, source, args, i):
    """[(what, Cost)] of one round."""
    out = []
    if rig.name == "watchkeep":
        ten(rig, source, args, i)
        out.append(("prune the oldest of 10, cold", prune_one(rig)))
    ten(rig, source, args, i)
    if rig.name == "watchkeep":
        rig.verify()
    out.append(("prune the oldest of 10", prune_one(rig)))
    return out
