#!/usr/bin/env python3
"""Divides a run of `netkin sat` by a real HyperQueue, kills one of its tasks, and compares the result with a run alone.

    pip install hyperqueue
    cargo build --release && python scripts/hyperqueue_check.py

A server and two workers run on this machine (HyperQueue's LocalCluster). Four tasks take their shares by `--shard auto/4`;
one is killed by SIGKILL while it works. `netkin status --shards 4` names what is missing, which is submitted once more. The
merged results must have the bytes of a run that one process did.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

NETWORKS = ["demo_mobilenetv2", "demo_vit_patch7", "demo_resnext"]
SHARDS = 4


def numbers(text):
    """0,2-3 → 0, 2, 3"""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--netkin", type=Path, default=Path("target/release/netkin"), help="[target/release/netkin]")
    parser.add_argument("--images", type=int, default=500, help="[500]")
    options = parser.parse_args()
    netkin, scratch = str(options.netkin.resolve()), Path(tempfile.mkdtemp(prefix="netkin-hyperqueue-"))
    data, run, alone = scratch / "data", scratch / "run", scratch / "alone"

    def said(*command, codes=(0,)):
        done = subprocess.run([netkin, "--quiet", *map(str, command)], stdout=subprocess.PIPE)
        if done.returncode not in codes:
            sys.exit(f"netkin {command[0]} ended with {done.returncode}; see {scratch}")
        return done.stdout

    said("demo", "--limit", 1, "--steps", 1, "--out", data)
    settings = [*NETWORKS, "--steps", 5, "--limit", options.images, "--data", data / "images", "--labels", data / "labels.csv"]
    expected = said("--json", "sat", *settings, "--run", alone)
    said("plan", *settings, "--run", run)

    share = [netkin, "--threads", "1", "sat", *map(str, settings), "--run", str(run), "--shard"]
    # The first share of the first job is killed in the midst of its work.
    killed = 'task=$HQ_TASK_ID; if [ "$task" = 0 ]; then timeout --signal=KILL 0.5 "$@"; else exec "$@"; fi'
    with LocalCluster() as cluster:
        for _ in range(2):
            cluster.start_worker(WorkerConfig(cores=1))
        client = cluster.client()
        # Without a limit of failures, or the killed task would end the others.
        job = Job(default_workdir=scratch, max_fails=None)
        for _ in range(SHARDS):
            job.program(["sh", "-c", killed, "sh", *share, f"auto/{SHARDS}"])
        submitted = client.submit(job)
        finished = client.wait_for_jobs([submitted], raise_on_error=False)
        status = json.loads(said("--json", "status", run, "--shards", SHARDS, codes=(0, 1)))
        print(f"after one kill -9: all finished: {finished}; missing: {status['missing']} of {status['total']}, array {status['array']!r}")
        if not status["missing"]:
            sys.exit("the killed task was done before it was killed; give more --images")
        again = Job(default_workdir=scratch)
        for shard in numbers(status["array"]):
            again.program([*share, f"{shard}/{SHARDS}"])
        if not client.wait_for_jobs([client.submit(again)], raise_on_error=False):
            sys.exit(f"a share failed; see {scratch}")
    merged = said("--json", "merge", "--into", run)
    same = merged == expected and (run / "sat.csv").read_bytes() == (alone / "sat.csv").read_bytes()
    print("the same bytes as one process" if same else f"OTHER BYTES; see {scratch}")
    if not same:
        sys.exit(1)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
