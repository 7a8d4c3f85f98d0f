#!/usr/bin/env python3
"""Follows docs/scale.md's recipe for SLURM on a real one while tasks fail, and compares the result with a run alone.

    sudo apt-get install slurmctld slurmd slurm-client munge
    cargo build --release && python scripts/slurm_check.py

A cluster of two nodes runs on this machine, with its own configuration, key and ports, as the user who starts this; it is
gone at the end, also after a failure. Of the four tasks of the array one is killed by SIGKILL while it works, one is started again
by `scontrol requeue` while it works, and one finds its disk full, ends with exit code 75 and is requeued by its script. The
job that merges must say what is missing; the same commands once more must bring it. The merged results must have the bytes of a
run that one process did.
"""

import ctypes
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from recipes import FULL, KILLED, REQUEUED, SHARES, Trial, arguments

NODES = 2
# Debian keeps daemons where users do not look for programs.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

# The processors are not there: they let all four tasks work at once, on any machine. A requeued job waits for as long as
# credentials are valid, which are two minutes otherwise.
CONFIGURATION = """\
ClusterName=check
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16\n"


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def children():
    """The processes whose parent is this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Behind the program's name, which may hold anything, are the state and the parent.
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.append(int(stat.parent.name))
    return found


class Cluster:
    """A SLURM of this machine alone, which ends with the block that it is made for."""

    def __init__(self, trial):
        self.trial, self.folder = trial, trial.scratch / "slurm"
        self.daemons = []
        trial.env["SLURM_CONF"] = str(self.folder / "slurm.conf")

    def __enter__(self):
        # What daemons leave behind becomes a child of this process, to be found at the end (PR_SET_CHILD_SUBREAPER).
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        folder, host = self.folder, socket.gethostname().split(".")[0]
        (folder / "state").mkdir(parents=True)
        names = [f"node{index}" for index in range(NODES)]
        controller_port, *ports = free_ports(1 + NODES)
        nodes = [NODE.format(name=name, host=host, port=port) for name, port in zip(names, ports)]
        configuration = CONFIGURATION.format(
            host=host, controller_port=controller_port, user=getpass.getuser(), folder=folder
        )
        (folder / "slurm.conf").write_text(configuration + "".join(nodes))
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        start = time.monotonic()
        try:
            files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
            self.start("munged", "--foreground", f"--socket={folder}/munge.socket", *files)
            self.trial.wait_for("munge", (folder / "munge.socket").exists, 10)
            self.start("slurmctld", "-D")
            for name in names:
                self.start("slurmd", "-D", "-N", name)
            idle = ["idle", str(NODES)]
            self.trial.wait_for("an idle cluster", lambda: self.said("sinfo", "-h", "-o", "%T %D").split() == idle, 30)
        except BaseException:
            self.__exit__()
            raise
        print(f"{self.said('sinfo', '--version').strip()}: {NODES} nodes are idle after {time.monotonic() - start:.1f} s")
        return self

    def start(self, *command):
        with open(self.folder / f"{command[0]}.output", "ab") as output:
            path = shutil.which(command[0], path=PATH)
            self.daemons.append(subprocess.Popen([path, *command[1:]], env=self.trial.env, stdout=output, stderr=output))

    def said(self, *command):
        """What a program of SLURM prints; nothing if it fails."""
        done = subprocess.run(command, env=self.trial.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout if done.returncode == 0 else ""

    def job(self, number):
        """What SLURM knows of a job or a task of an array."""
        return dict(re.findall(r"(\w+)=(\S+)", self.said("scontrol", "show", "job", number)))

    def wait_for(self, number):
        """Waits until a job has ended: what is known of it then."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.trial.wait_for(f"the end of job {number}", lambda: self.job(number).get("JobState") in ended)
        return self.job(number)

    def __exit__(self, *_):
        if len(self.daemons) > 1:
            self.said("scancel", "--user", getpass.getuser())
            end = time.monotonic() + 10
            while self.said("squeue", "-h") and time.monotonic() < end:
                time.sleep(0.1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        # Each that ends may leave children of its own.
        try:
            while True:
                for process in children():
                    os.kill(process, signal.SIGKILL)
                os.wait()
        except ChildProcessError:
            pass


def main():
    options = arguments(__doc__)
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]
    if absent:
        sys.exit(f"{', '.join(absent)} not found; apt-get install slurmctld slurmd slurm-client munge")
    # So that the daemons end when this is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    trial = Trial("SLURM", options)

    def submit():
        """The numbers of the array and of the job that merges."""
        said = trial.run(trial.commands + "echo $job\n").split()
        return said[-1], said[-2]

    with Cluster(trial) as cluster:
        start = time.monotonic()
        array, merge = submit()
        os.kill(trial.at_work(KILLED, REQUEUED)[0], signal.SIGKILL)
        trial.run(f"scontrol requeue {array}_{REQUEUED}")
        merged = cluster.wait_for(merge)
        tasks = [cluster.job(f"{array}_{task}") for task in range(SHARES)]
        for task, known in enumerate(tasks):
            print(f"task {task}: {known['JobState']}, exit code {known['ExitCode']}, started again: {known['Restarts']}")
        print(f"merge: {merged['JobState']}, exit code {merged['ExitCode']}; {time.monotonic() - start:.1f} s")
        states = ["FAILED" if task == KILLED else "COMPLETED" for task in range(SHARES)]
        restarts = [str(int(task == REQUEUED or (task == FULL and trial.has_full_disk))) for task in range(SHARES)]
        if [known["JobState"] for known in tasks] != states or [known["Restarts"] for known in tasks] != restarts:
            trial.fail(f"expected of the tasks: {states}, started again: {restarts}; if one was done before, give more --steps")
        said = Path(merged["StdOut"]).read_text()
        if merged["ExitCode"] != "1:0" or trial.missing() != str(KILLED) or f"--array={KILLED}\n" not in said:
            trial.fail(f"the killed task alone should be missing, and the merge say so; it said {said!r}")

        array, merge = submit()
        known = cluster.wait_for(merge)
        print(f"submitted again --array={KILLED}; merge: {known['JobState']}; {time.monotonic() - start:.1f} s in all")
        if known["JobState"] != "COMPLETED":
            trial.fail("the second merge failed")
    trial.check_codes({KILLED: [137, 0], FULL: [75, 0] if trial.has_full_disk else [0]})
    trial.compare()


if __name__ == "__main__":
    main()
