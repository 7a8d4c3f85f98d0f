#!/usr/bin/env python3
"""Kills a run of `netkin sat` at random moments, takes its disk away, damages what it kept, and compares the results.

    cargo build --release && python scripts/torture.py --kills 200 --faults 50 --damages 20     # what docs/scale.md promises
    python scripts/torture.py --kills 5 --faults 3 --damages 3                                  # the short form, in CI

Two processes share one run folder. They are killed by SIGKILL after a random time; or may write files up to a random size only,
where a full disk would stop them, in the midst of a file; or find a random bit of a random file changed. After all that the
same command ends the run, and its output and sat.csv must have the bytes of a run that was left alone. A seed makes the moments
the same again, as far as the machine is.
"""

import argparse
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NETWORKS = ["demo_mobilenetv2", "demo_vit_patch7"]


def sat(netkin, data, run, images, limit=None, quiet=True):
    def limited():
        if limit is not None:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [netkin, "--json", "--threads", "1", "sat", *NETWORKS, "--steps", "3", "--limit", str(images), "--keep-adversarial"]
    command += ["--data", data / "images", "--labels", data / "labels.csv", "--run", run]
    errors = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, preexec_fn=limited)


def finished(process):
    output = process.communicate()[0]
    return output if process.returncode == 0 else None


def change_a_bit(run, chance):
    files = [path for name in ("units", "large") for path in (run / name).rglob("*") if path.is_file()]
    if not files:
        return False
    path = chance.choice(sorted(files))
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--netkin", type=Path, default=Path("target/release/netkin"), help="[target/release/netkin]")
    parser.add_argument("--kills", type=int, default=20, help="[20]")
    parser.add_argument("--faults", type=int, default=5, help="[5]")
    parser.add_argument("--damages", type=int, default=5, help="[5]")
    parser.add_argument("--images", type=int, default=200, help="[200]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    options = parser.parse_args()
    chance, netkin = random.Random(options.seed), options.netkin.resolve()
    scratch = Path(tempfile.mkdtemp(prefix="netkin-torture-"))
    data = scratch / "data"
    subprocess.run([netkin, "--quiet", "demo", "--limit", "1", "--steps", "1", "--out", data], check=True, stdout=subprocess.DEVNULL)

    start = time.monotonic()
    expected = finished(sat(netkin, data, scratch / "alone", options.images, quiet=False))
    seconds = time.monotonic() - start
    if expected is None:
        sys.exit("the run that was left alone failed")

    trials = ["kill"] * options.kills + ["fault"] * options.faults + ["damage"] * options.damages
    chance.shuffle(trials)
    rounds, run, done = 0, scratch / "run", 0
    while trials:
        # A run that is complete has nothing more to lose: the next begins.
        if rounds and finished_already(netkin, data, run, options.images, expected):
            shutil.rmtree(run)
            done += 1
        rounds += 1
        trial = trials.pop()
        if trial == "kill":
            pair = [sat(netkin, data, run, options.images) for _ in range(2)]
            for process in pair:
                time.sleep(chance.uniform(0, 0.35 * seconds))
                process.kill()
                process.communicate()
        elif trial == "fault":
            finished(sat(netkin, data, run, options.images, limit=chance.randrange(40_000)))
        elif not change_a_bit(run, chance):
            trials.insert(0, "kill")
            trials.insert(0, "damage")
    result = finished(sat(netkin, data, run, options.images, quiet=False))
    same = result == expected and (run / "sat.csv").read_bytes() == (scratch / "alone" / "sat.csv").read_bytes()
    print(
        f"{options.kills} kills, {options.faults} write faults, {options.damages} changed bits; {done} runs ended in between: "
        + ("the same bytes" if same else "OTHER BYTES")
    )
    if not same:
        sys.exit(f"see {scratch}")
    shutil.rmtree(scratch)


def finished_already(netkin, data, run, images, expected):
    """Whether nothing is missing; if so, the results must be right."""
    status = subprocess.run([netkin, "status", run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if status.returncode != 0:
        return False
    if finished(sat(netkin, data, run, images, quiet=False)) != expected:
        sys.exit(f"other bytes; see {run.parent}")
    return True


if __name__ == "__main__":
    main()
