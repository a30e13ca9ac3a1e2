"""Ranks that die, stop, differ or compute wrongly: who is named, how fast, and that nothing is lost."""

import os
import re
import signal
import subprocess
import time

import pytest

import runs
from launching import free_port, steps_of

HEARTBEAT_S = 10  # the shortest silence that the tests of a whole program use
# Enough steps to be hit in their middle.
LONG = {"steps": 100000, "checkpoint": {"every": 50, "keep": 2}, "log": {"every": 1, "samples": False},
        "train": {"threads": 1, "heartbeat_s": HEARTBEAT_S}}


class Job:
    """Ranks of one run, started by hand; `ends` are {rank: (exit code, what it said)}."""

    def __init__(self, keiko_bin, keiko_env, recipe, ranks, extra=lambda rank: [], variables=None):
        port = str(free_port())
        self.processes = [
            subprocess.Popen([keiko_bin, "train", str(recipe), *extra(rank)], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
                             env=keiko_env | (variables or {}) | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                                              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
            for rank in range(ranks)]

    def ends(self, timeout, but=()):
        until = time.monotonic() + timeout
        found = {}
        for rank, process in enumerate(self.processes):
            if rank in but:
                continue
            _, said = process.communicate(timeout=max(0.1, until - time.monotonic()))
            found[rank] = (process.returncode, said)
        return found

    def kill(self):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@pytest.fixture
def job(keiko_bin, keiko_env):
    jobs = []

    def start(recipe, ranks, **options):
        jobs.append(Job(keiko_bin, keiko_env, recipe, ranks, **options))
        return jobs[-1]

    yield start
    for one in jobs:
        one.kill()


def recipe_of(drift, tmp_path, name="run", changes=None):
    return runs.write_recipe(tmp_path / f"{name}.yaml", runs.PRETRAIN,
                             LONG | {"data": str(drift / "train.kix"), "run": str(tmp_path / name)} | (changes or {}))


def wait_for_checkpoint(run, job):
    """Until step 60, when that of step 50 is long committed."""
    for _ in range(1200):
        if steps_of(run) >= 60 and (run / "checkpoints" / "latest").exists():
            return
        assert all(p.poll() is None for p in job.processes), job.ends(1)
        time.sleep(0.05)
    raise AssertionError("no checkpoint within 30 s")


@pytest.mark.parametrize("ranks, victim", [(2, 1), (3, 1), (3, 2)])
def test_a_killed_rank_is_named_by_all_others_with_its_step(job, drift, tmp_path, ranks, victim):
    started = job(recipe_of(drift, tmp_path), ranks)
    wait_for_checkpoint(tmp_path / "run", started)
    started.processes[victim].kill()
    begun = time.monotonic()
    ends = started.ends(3 * HEARTBEAT_S, but=[victim])
    assert time.monotonic() - begun < 2 * HEARTBEAT_S
    for rank, (code, said) in ends.items():
        assert code == 1, (rank, said)
        assert re.search(rf"keiko train: rank {victim} \(.+\) has not answered for \d+ s; last seen in step [\d,]+, ", said), said
        assert re.search(r"start it again to go on from step [\d,]+", said), said


@pytest.mark.parametrize("ranks, victim", [(2, 0), (2, 1), (3, 1), (3, 2)])
def test_a_stopped_rank_ends_the_job_too(job, drift, tmp_path, ranks, victim):
    """SIGSTOP: its connections stay open, so only its silence tells. Rank 0 serves the store."""
    started = job(recipe_of(drift, tmp_path), ranks)
    wait_for_checkpoint(tmp_path / "run", started)
    started.processes[victim].send_signal(signal.SIGSTOP)
    ends = started.ends(4 * HEARTBEAT_S, but=[victim])
    for rank, (code, said) in ends.items():
        assert code == 1, (rank, said)
        assert re.search(rf"rank {victim} \(.+\) has not answered" if victim else r"the store of rank 0 at \S+ has not answered", said), said
    started.processes[victim].send_signal(signal.SIGCONT)
    assert started.processes[victim].wait(timeout=4 * HEARTBEAT_S) == 1


def test_the_loss_of_rank_0_is_reported_as_the_loss_of_the_stores_host(job, drift, tmp_path):
    started = job(recipe_of(drift, tmp_path), 3)
    wait_for_checkpoint(tmp_path / "run", started)
    started.processes[0].kill()
    for rank, (code, said) in started.ends(3 * HEARTBEAT_S, but=[0]).items():
        assert code == 1 and "lost the store of rank 0 at 127.0.0.1:" in said, (rank, said)


@pytest.mark.parametrize("override, words", [("steps=77", "recipe"), ("batch_size=16", "recipe"), ("data", "data set")])
def test_a_rank_that_differs_is_refused_at_the_start(job, drift, few, tmp_path, override, words):
    if override == "data":
        override = f"data={few / 'train.kix'}"
        words = "recipe"  # the path is a key; equal paths with other content are `data set`
    started = job(recipe_of(drift, tmp_path), 2, extra=lambda rank: [override] if rank == 1 else [])
    for rank, (code, said) in started.ends(60).items():
        assert code == 2 and f"rank 1 (" in said and f"has another {words} than rank 0" in said, (rank, said)
        assert override.split("=")[0] in said, said
    assert not (tmp_path / "run").exists()


def test_a_ranks_own_error_is_what_the_others_report(job, drift, tmp_path):
    """Rank 1 alone cannot write its samples: its folder of run files is made unwritable for it by a full device."""
    recipe = recipe_of(drift, tmp_path, changes={"log": {"every": 1, "samples": True}})
    (tmp_path / "run").mkdir()
    os.symlink("/dev/full", tmp_path / "run" / "samples-1.jsonl")
    started = job(recipe, 2)
    ends = started.ends(60)
    assert all(code == 1 for code, _ in ends.values()), ends
    assert "samples-1.jsonl" in ends[1][1], ends[1]
    assert re.search(r"rank 1 \(.+\) ended in step \d+: .*samples-1.jsonl", ends[0][1]), ends[0]


@pytest.mark.parametrize("ranks, shard", [(2, "none"), (3, "none"), (3, "optimizer")])
def test_a_flipped_bit_stops_the_run_and_names_buffer_and_rank(job, drift, tmp_path, ranks, shard):
    """With a shared-out optimiser, copies are compared before the next update spreads or heals the fault."""
    started = job(recipe_of(drift, tmp_path, changes={"guard": {"replicas_every": 1 if shard == "optimizer" else 5}}), ranks,
                  extra=lambda rank: ["debug.flip_bit_rank=1", "debug.flip_bit_step=7", f"train.shard={shard}"])
    for rank, (code, said) in started.ends(60).items():
        assert code == 1 and re.search(rf"step {7 if shard == 'optimizer' else 10}: the weights of the ranks differ in block\d+\.[\w.]+: ", said), (rank, said)
        assert ("rank 1 has others than most" if ranks == 3 else "no majority") in said, said
    assert not (tmp_path / "run" / "checkpoints" / "latest").exists(), "nothing wrong was saved"


@pytest.mark.parametrize("ranks, shard", [(2, "none"), (4, "gradients"), (4, "parameters")])
def test_a_run_that_goes_back_ends_with_the_bits_of_one_without_the_fault(job, drift, tmp_path, ranks, shard):
    """Where weights are shared out, in groups of two: there are copies to compare, and groups meet anew."""
    short = {"steps": 20, "checkpoint": {"every": 6, "keep": 9}, "guard": {"replicas_every": 1, "replicas": "rollback"},
             "train": {"threads": 1, "shard": shard, "shard_group": 0 if shard == "none" else 2}}
    for name, flips in (("whole", []), ("flipped", ["debug.flip_bit_rank=1", "debug.flip_bit_step=9"])):
        started = job(recipe_of(drift, tmp_path, name, short), ranks, extra=lambda rank, flips=flips: flips)
        for rank, (code, said) in started.ends(120).items():
            assert code == 0, (name, rank, said)
            assert ("going back to the last checkpoint (1 of 3 times)" in said) == (name == "flipped"), said
    last = "checkpoints/step-00000020"
    for file in ("model.safetensors", *(f"optimizer-{r}-of-{ranks}.safetensors" for r in range(ranks))):
        assert (tmp_path / "flipped" / last / file).read_bytes() == (tmp_path / "whole" / last / file).read_bytes(), file
    steps = [line["step"] for line in runs.metrics(tmp_path / "flipped")]
    assert steps == list(range(1, 21)), "no step is logged twice"
    logged = (tmp_path / "flipped" / "log.txt").read_text().splitlines()
    assert sum("step     20 " in line for line in logged) == 1, "every line goes to the log once"


def test_old_checkpoints_of_every_so_many_steps_stay(train, drift):
    run = train("kept", runs.PRETRAIN, {"data": str(drift / "train.kix"), "steps": 10,
                                        "checkpoint": {"every": 1, "keep": 2, "keep_every": 4}})
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*")) == [f"step-{s:08d}" for s in (4, 8, 9, 10)]


def test_a_preempted_process_that_its_launcher_starts_again_ends_at_once(keiko, keiko_bin, keiko_env, drift, tmp_path):
    recipe = recipe_of(drift, tmp_path)
    torchrun = {"TORCHELASTIC_RUN_ID": "job-1", "TORCHELASTIC_RESTART_COUNT": "0"}
    process = subprocess.Popen([keiko_bin, "train", str(recipe)], env=keiko_env | torchrun, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if steps_of(tmp_path / "run") > 3:
            break
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 75
    before = steps_of(tmp_path / "run")
    assert (tmp_path / "run" / "PREEMPTED").exists()
    again = keiko("train", recipe, check=False, env=torchrun | {"TORCHELASTIC_RESTART_COUNT": "1"}, timeout=30)
    assert again.returncode == 75 and "not started again in this job" in again.stderr, again.stderr
    assert steps_of(tmp_path / "run") == before
    keiko("train", recipe, f"steps={before + 2}", env={"TORCHELASTIC_RUN_ID": "job-2", "TORCHELASTIC_RESTART_COUNT": "0"})
    assert steps_of(tmp_path / "run") == before + 2 and not (tmp_path / "run" / "PREEMPTED").exists()


def test_an_error_that_no_restart_mends_is_not_met_again(keiko, drift, tmp_path):
    """A wrong data set of an existing run: the first process of the job says why, the restarted one repeats it at once."""
    recipe = recipe_of(drift, tmp_path, changes={"steps": 2})
    keiko("train", recipe)
    torchrun = {"TORCHELASTIC_RUN_ID": "job-1", "TORCHELASTIC_RESTART_COUNT": "0"}
    first = keiko("train", recipe, "batch_size=16", check=False, env=torchrun)
    again = keiko("train", recipe, "batch_size=16", check=False, env=torchrun | {"TORCHELASTIC_RESTART_COUNT": "1"})
    assert first.returncode == again.returncode == 2
    assert "this run folder holds a run of another recipe" in first.stderr and "not started again" in again.stderr
    keiko("train", recipe, "steps=3", env={"TORCHELASTIC_RUN_ID": "job-1", "TORCHELASTIC_RESTART_COUNT": "0"})
