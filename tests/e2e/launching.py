"""What the tests of launchers and networks share: the ranks of a run as processes, and runs to be equal."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import runs

# Long enough to be hit in its middle; the order of float32 sums is the same with the same number of ranks.
LONG = {"steps": 200, "checkpoint": {"every": 40, "keep": 2}, "train": {"threads": 1, "timeout_s": 60}}
SCRIPTS = runs.CONFIGS / "launch"
RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def under_torchrun(keiko_bin, keiko_env, recipe, ranks, folder):
    torchrun = Path(sys.executable).with_name("torchrun")
    with open(folder / "torchrun.txt", "w+") as log:
        code = subprocess.run([torchrun, "--no-python", "--nproc-per-node", str(ranks), "--master-addr", "127.0.0.1",
                               "--master-port", str(free_port()), keiko_bin, "train", recipe],
                              env=keiko_env, stdout=log, stderr=subprocess.STDOUT, timeout=180).returncode
    assert code == 0, (folder / "torchrun.txt").read_text()[-4000:]


def start_by_hand(keiko_bin, keiko_env, recipe, ranks, folder, *options):
    """The ranks of a run as processes, without a launcher; what each says is in folder/rank-R.txt."""
    port, started = str(free_port()), []
    for rank in range(ranks):
        env = keiko_env | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with open(folder / f"rank-{rank}.txt", "w") as log:
            started.append(subprocess.Popen([keiko_bin, "train", recipe, *options], env=env, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT))
    return started


def by_hand(keiko_bin, keiko_env, recipe, ranks, folder, *options):
    started = start_by_hand(keiko_bin, keiko_env, recipe, ranks, folder, *options)
    try:
        codes = [process.wait(timeout=180) for process in started]
    finally:
        for process in started:
            process.kill()
    said = "\n".join((folder / f"rank-{r}.txt").read_text()[-2000:] for r in range(ranks))
    assert codes == [0] * ranks, said


def rank_processes(keiko_bin, recipe):
    """{rank: process id} of this binary training this recipe; only what the test itself started can match."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if arguments[:3] != [os.fsencode(keiko_bin), b"train", os.fsencode(str(recipe))]:
                continue
            variables = dict(v.split("=", 1) for v in os.fsdecode((folder / "environ").read_bytes()).split("\0") if "=" in v)
        except OSError:
            continue  # gone meanwhile, or another user's
        found[next((int(variables[name]) for name in RANK_VARIABLES if name in variables), 0)] = int(folder.name)
    return found


def steps_of(run):
    """Steps logged so far; events, such as that a rank is slow, are lines of their own."""
    try:
        return len(re.findall(rb'"kind": ?"train".*\n', (run / "metrics.jsonl").read_bytes()))
    except FileNotFoundError:
        return 0


def without_steps(text):
    """What a run said, but for the lines of single steps."""
    return re.sub(r"(?m)^.*\bstep +\d+  loss.*\n", "", text)[-6000:]


class Launched:
    """A launcher at work, its output in a file; `end` leaves nothing of it behind."""

    def __init__(self, keiko_bin, recipe, command, env, log):
        self.keiko_bin, self.recipe, self.log = keiko_bin, recipe, log
        with open(log, "a") as out:
            self.process = subprocess.Popen([str(c) for c in command], env=env, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent)

    def said(self):
        return without_steps(self.log.read_text(errors="replace"))

    def ranks(self):
        return rank_processes(self.keiko_bin, self.recipe)

    def wait_for_step(self, run, step, seconds=120):
        """Returns while the run is under way and has logged `step` more steps than before the call."""
        until, goal = time.monotonic() + seconds, steps_of(run) + step
        while steps_of(run) < goal:
            assert self.process.poll() is None, f"ended with {self.process.returncode} too early:\n{self.said()}"
            assert time.monotonic() < until, f"no {step} steps in {seconds} s:\n{self.said()}"
            time.sleep(0.01)

    def signal(self, victim, number):
        """To a rank (its number), or to the launcher."""
        os.kill(self.process.pid if victim == "launcher" else self.ranks()[victim], number)

    def wait(self, seconds=180):
        """The launcher's exit code; no rank may outlive it for long."""
        code = self.process.wait(timeout=seconds)
        until = time.monotonic() + 10
        while self.ranks():
            assert time.monotonic() < until, f"still running after the launcher's end: {self.ranks()}\n{self.said()}"
            time.sleep(0.05)
        return code

    def end(self):
        for process in (*self.ranks().values(), self.process.pid):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def assert_same_bits(found, wanted, ranks, step):
    """Weights, moments and the samples of every rank are those of a run that nobody disturbed."""
    last = f"checkpoints/step-{step:08d}"
    for name in ["model.safetensors", *(f"optimizer-{r}-of-{ranks}.safetensors" for r in range(ranks))]:
        assert (found / last / name).read_bytes() == (wanted / last / name).read_bytes(), name
    for rank in range(ranks):
        name = f"samples-{rank}.jsonl"
        assert (found / name).read_text() == (wanted / name).read_text(), name
    assert [line["step"] for line in runs.metrics(found)] == list(range(1, step + 1))


def positions(run, ranks):
    return sorted(line["position"] for rank in range(ranks) for line in runs.samples(run, rank))
