#!/usr/bin/env python3
"""Follows docs/scale.md's recipe for HyperQueue on a real one while tasks fail, and compares the result with a run alone.

    pip install hyperqueue
    cargo build --release && python scripts/hyperqueue_check.py

A server and two workers run on this machine (HyperQueue's LocalCluster). Four tasks take their shares; one is killed by
SIGKILL while it works, and one finds its disk full, ends with exit code 75 and begins again. `netkin status` names what is
missing, which is submitted once more. The merged results must have the bytes of a run that one process did.

The package has no program `hq`: `share.sh` is the recipe's, and what the recipe does by `hq submit`, this does by Python.
"""

import os
import signal

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

from recipes import FULL, KILLED, SHARES, Trial, arguments


def numbers(text):
    """0,2-3 → 0, 2, 3"""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main():
    options = arguments(__doc__)
    trial = Trial("HyperQueue", options)

    def job():
        # Without a limit of failures, or a killed task would end the others.
        job = Job(default_workdir=trial.scratch, max_fails=None, default_env={"PATH": trial.env["PATH"]})
        for shard in numbers(trial.missing()):
            job.program([str(trial.share)]).task_id = shard
        return job

    with LocalCluster() as cluster:
        for _ in range(2):
            cluster.start_worker(WorkerConfig(cores=SHARES // 2))
        client = cluster.client()
        submitted = client.submit(job())
        os.kill(*trial.at_work(KILLED), signal.SIGKILL)
        finished = client.wait_for_jobs([submitted], raise_on_error=False)
        missing = trial.missing()
        print(f"after one kill -9: all finished: {finished}; missing: --array={missing}")
        if finished or missing != str(KILLED):
            trial.fail("the killed task alone should have failed; if it was done before, give more --steps")
        if not client.wait_for_jobs([client.submit(job())], raise_on_error=False):
            trial.fail("the share that was submitted again failed")
    trial.check_codes({KILLED: [137, 0], FULL: [75, 0] if trial.has_full_disk else [0]})
    trial.run(trial.commands.splitlines()[-1])
    trial.compare()


if __name__ == "__main__":
    main()
