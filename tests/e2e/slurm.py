"""A Slurm of our own on this machine: munged, slurmctld and one slurmd, with a configuration in a folder.

It shares nothing with a Slurm that is installed here: own key, sockets, ports and state.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"

CONF = """
ClusterName=keiko
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
# Own credentials. A requeued job waits for as long as the old credential could still be used.
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# Containers have no systemd and often no cgroup that one may write.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=10
# Two tasks must fit on a machine of one core, too.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """What keeps a Slurm from being started here, in words; empty when nothing does."""
    absent = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "slurmd must be started by root"


def free_ports(count):
    with_ports = [socket.socket() for _ in range(count)]
    try:
        for s in with_ports:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in with_ports]
    finally:
        for s in with_ports:
            s.close()


class Slurm:
    def __init__(self, folder, env):
        self.folder, self.daemons = folder, []
        host = socket.gethostname().split(".")[0]
        controller_port, node_port = free_ports(2)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=host, folder=folder, cpus=max(2, os.cpu_count() or 2),
                                    controller_port=controller_port, node_port=node_port))
        self.env = env | {"SLURM_CONF": str(conf), "PATH": PATH}
        try:
            self.start(host)
        except BaseException:
            self.stop()
            raise

    def start(self, host):
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        socket_file = self.folder / "munge.socket"
        self.daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket_file}",
                    f"--pid-file={self.folder}/munged.pid", f"--seed-file={self.folder}/munged.seed",
                    f"--log-file={self.folder}/munged.log")
        self.wait_for(socket_file.exists, 20, "munged to open its socket")
        self.daemon("slurmctld", "-D", "-c")
        self.daemon("slurmd", "-D", "-N", host)
        self.wait_for(lambda: re.search(r"\bState=(IDLE|MIXED)\b", self.says("scontrol", "show", "node", host)), 60,
                      "the node to become idle")

    def daemon(self, program, *args):
        with open(self.folder / f"{program}.txt", "w") as log:
            self.daemons.append(subprocess.Popen([shutil.which(program, path=PATH), *args], env=self.env,
                                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def wait_for(self, condition, seconds, what):
        until = time.monotonic() + seconds
        while not condition():
            dead = [d.args[0] for d in self.daemons if d.poll() is not None]
            assert not dead and time.monotonic() < until, \
                f"waited {seconds} s for {what}; ended: {dead or 'no daemon'}\n{self.logs()}"
            time.sleep(0.1)

    def logs(self):
        return "\n".join(f"{f.name}: {f.read_text(errors='replace')[-1500:]}"
                         for f in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.txt")]))

    def says(self, *command):
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL).stdout

    def submit(self, *args, cwd, env=None):
        """The number of the new job."""
        done = subprocess.run(["sbatch", "--parsable", *map(str, args)], env=self.env | (env or {}), cwd=cwd,
                              capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr + self.logs()
        return done.stdout.strip()

    def job(self, number):
        """What scontrol says of a job: {"JobState": "RUNNING", "Restarts": "1", ...}."""
        return dict(re.findall(r"(\w+)=(\S*)", self.says("scontrol", "show", "job", number)))

    def wait_for_end(self, number, seconds):
        """What scontrol says of the job when it is over for good."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait_for(lambda: self.job(number).get("JobState") in ends, seconds, f"job {number} to end")
        return self.job(number)

    def stop(self):
        """Ends all jobs and daemons; what they leave behind is in the folder alone."""
        if len(self.daemons) == 3:
            self.says("scancel", "--full", "--user=root")
            until = time.monotonic() + 20
            while self.says("squeue", "--noheader").strip() and time.monotonic() < until:
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
