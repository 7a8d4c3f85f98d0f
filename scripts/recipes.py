"""The recipes of docs/scale.md, followed with four shares of a small run in which something goes wrong.

What slurm_check.py and hyperqueue_check.py have in common. A program named `netkin` stands first in PATH for them: it gives
the real one the run's settings, takes the disk away from one task at its first start, and notes with which codes tasks end.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "scale.md"
NETWORKS = ["demo_mobilenetv2", "demo_vit_patch7", "demo_resnext"]
SHARES = 4
# The task that gets killed, the one that is started again while it works, and the one without a disk: the last, which has the
# number of the whole array in SLURM.
KILLED, REQUEUED, FULL = 0, 1, SHARES - 1

# A disk of two pages, which only this task and what it starts can see. No root is needed where Linux lets users have namespaces.
SMALL_DISK = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8k netkin "$0" && exec "$@"']

WRAPPER = """\
#!/bin/sh
task=${{SLURM_ARRAY_TASK_ID-$HQ_TASK_ID}}
command=$1
set -- {netkin} --config {settings} "$@"
[ "$command" = sat ] && [ -n "$task" ] || exec "$@"
if [ "$task" = "{full}" ] && mkdir {scratch}/full 2>/dev/null; then
    set -- {small_disk} {scratch}/R/units "$@"
fi
"$@" &
echo $! > {scratch}/process-$task
wait $!
code=$?
echo $code >> {scratch}/codes-$task
exit $code
"""


def recipe(heading):
    """The blocks below a heading of docs/scale.md, written for 100 shares and minutes, for SHARES and seconds."""
    section = re.search(rf"^### {heading}\n(.*?)^##", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```bash\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    if not all("100" in block for block in blocks) or len(blocks) != 2:
        sys.exit(f"{heading} in {DOCUMENT} has not the two blocks for 100 shares that are expected")
    return [block.replace("100", str(SHARES)).replace("sleep 60", "sleep 1") for block in blocks]


def arguments(description):
    """The options of a check."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--netkin", type=Path, default=Path("target/release/netkin"), help="[target/release/netkin]")
    parser.add_argument("--images", type=int, default=500, help="[500]")
    parser.add_argument("--steps", type=int, default=20, help="[20]")
    return parser.parse_args()


class Trial:
    """A folder with a planned run R, its recipe, and the same run done by one process."""

    def __init__(self, heading, options):
        self.scratch = scratch = Path(tempfile.mkdtemp(prefix="netkin-"))
        # Daemons may insist on it.
        scratch.chmod(0o755)
        self.env = {**os.environ, "PATH": f"{scratch / 'bin'}:{os.environ['PATH']}"}
        share, self.commands = recipe(heading)
        self.share = scratch / "share.sh"
        self.share.write_text(share)
        self.share.chmod(0o755)

        (scratch / "small").mkdir()
        mounted = subprocess.run([*SMALL_DISK, str(scratch / "small"), "true"], stderr=subprocess.DEVNULL)
        self.has_full_disk = mounted.returncode == 0
        if not self.has_full_disk:
            print("SKIPPED: no task finds its disk full, since nobody may mount one here; try it as root")

        settings = f"steps = {options.steps}\nlimit = {options.images}\nlabels = 'data/labels.csv'\n"
        (scratch / "netkin.toml").write_text(f"quiet = true\nthreads = 1\n[plan]\n{settings}[sat]\n{settings}")
        (scratch / "networks.txt").write_text("\n".join(NETWORKS))
        (scratch / "bin").mkdir()
        wrapper = scratch / "bin" / "netkin"
        wrapper.write_text(
            WRAPPER.format(
                netkin=shlex.quote(str(options.netkin.resolve())),
                settings=scratch / "netkin.toml",
                scratch=scratch,
                full=FULL if self.has_full_disk else "",
                small_disk=shlex.join(SMALL_DISK),
            )
        )
        wrapper.chmod(0o755)

        self.run("netkin demo --limit 1 --steps 1 --out data > demo.txt")
        (scratch / "imagenet").mkdir()
        (scratch / "imagenet" / "val").symlink_to(scratch / "data" / "images")
        start = time.monotonic()
        self.run("netkin sat @networks.txt --data imagenet/val --run alone > alone.txt")
        self.run("netkin plan @networks.txt --data imagenet/val --run R > plan.txt")
        # Where the small disk goes.
        (scratch / "R" / "units").mkdir(exist_ok=True)
        print(f"one process alone: {time.monotonic() - start:.1f} s")

    def run(self, script, codes=(0,)):
        """What a shell says of these commands."""
        done = subprocess.run(["bash", "-c", script], cwd=self.scratch, env=self.env, stdout=subprocess.PIPE, text=True)
        if done.returncode not in codes:
            self.fail(f"{script.strip()!r} ended with {done.returncode}")
        return done.stdout

    def fail(self, reason):
        sys.exit(f"{reason}; see {self.scratch}")

    def wait_for(self, what, condition, seconds=120):
        """What the condition gives once it gives something."""
        end = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > end:
                self.fail(f"{what} did not come about in {seconds} s")
            time.sleep(0.05)
        return result

    def at_work(self, *tasks):
        """The processes of tasks that have worked for a moment, but are not done."""
        paths = [self.scratch / f"process-{task}" for task in tasks]
        for path in paths:
            self.wait_for(path.name, lambda: path.exists() and path.read_text().strip())
        time.sleep(0.5)
        return [int(path.read_text()) for path in paths]

    def codes(self, task):
        """The exit codes of netkin in a task, in their order."""
        path = self.scratch / f"codes-{task}"
        return [int(code) for code in path.read_text().split()] if path.exists() else []

    def check_codes(self, expected):
        for task, codes in expected.items():
            if self.codes(task) != codes:
                self.fail(f"netkin ended in task {task} with {self.codes(task)} in place of {codes}")
        print("exit codes of netkin:", "; ".join(f"task {task}: {self.codes(task)}" for task in range(SHARES)))

    def missing(self):
        """What is missing, as `netkin status` writes it for `--array=`."""
        array = self.run(f"netkin status R --shards {SHARES} | grep ^--array || true").strip()
        return array.removeprefix("--array=")

    def compare(self):
        """Ends the trial."""
        for name in ("sat.csv", "sat.json"):
            if (self.scratch / "R" / name).read_bytes() != (self.scratch / "alone" / name).read_bytes():
                self.fail(f"OTHER BYTES in {name}")
        print("the same bytes as one process")
        shutil.rmtree(self.scratch)
