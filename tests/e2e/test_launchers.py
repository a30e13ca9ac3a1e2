"""Every launcher, really started, with the scripts of configs/launch: ranks, signals, restarts, exit codes.

Truth: the run of one rank for what is trained, and a run of two ranks that nobody disturbed for the bits.
A launcher that is not installed is skipped, and says so.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml

import runs
import slurm
from launching import LONG, SCRIPTS, Launched, assert_same_bits, free_port, positions, steps_of, without_steps
from test_ranks import WEIGHT_TOLERANCE

STEPS = 5


def command_of(launcher, keiko_bin):
    """(the command before the recipe, the variables it wants) for two ranks on this machine; skips when the launcher is absent."""
    if launcher == "by_hand":
        return [SCRIPTS / "by_hand.sh"], {"MASTER_PORT": str(free_port())}
    if launcher in ("torchrun", "bare torchrun"):
        torchrun = Path(sys.executable).with_name("torchrun")
        if not torchrun.exists():
            pytest.skip(f"{torchrun} IS MISSING: nothing is proven about torchrun in this run")
        if launcher == "torchrun":
            return [SCRIPTS / "torchrun.sh"], {"TORCHRUN": str(torchrun)}
        options = "--standalone --nproc-per-node 2 --max-restarts 1 --no-python"
        return [torchrun, *options.split(), keiko_bin, "train"], {}
    mpirun = shutil.which("mpirun")
    if not mpirun:
        pytest.skip("mpirun IS NOT INSTALLED (Debian: openmpi-bin): nothing is proven about it in this run")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return [SCRIPTS / "mpirun.sh"], as_root | {"MPIRUN": mpirun, "MPIRUN_OPTIONS": "--oversubscribe -n 2"}


@pytest.fixture
def launch(keiko_bin, keiko_env, tmp_path):
    """launch(launcher, recipe, *overrides): starts it; it and its ranks are gone after the test."""
    started = []

    def start(launcher, recipe, *overrides):
        command, variables = command_of(launcher, keiko_bin)
        started.append(Launched(keiko_bin, recipe, [*command, recipe, *overrides],
                                keiko_env | {"KEIKO": keiko_bin} | variables, tmp_path / "said.txt"))
        return started[-1]

    yield start
    for launched in started:
        launched.end()


@pytest.fixture
def recipe(drift, tmp_path):
    """recipe(changes): r.yaml, whose run folder is `run` beside it."""
    return lambda changes: runs.write_recipe(
        tmp_path / "r.yaml", runs.PRETRAIN, {"data": str(drift / "train.kix"), "run": str(tmp_path / "run")} | changes)


@pytest.fixture(scope="module")
def alone(keiko, drift, tmp_path_factory):
    """STEPS steps on one rank."""
    folder = tmp_path_factory.mktemp("alone")
    keiko("train", runs.write_recipe(folder / "r.yaml", runs.PRETRAIN, {
        "data": str(drift / "train.kix"), "run": str(folder / "run"), "steps": STEPS}))
    return folder / "run"


@pytest.fixture(scope="module")
def whole(keiko_bin, keiko_env, drift, tmp_path_factory):
    """The long run on two ranks, started once and left alone."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = runs.write_recipe(folder / "r.yaml", runs.PRETRAIN,
                               {"data": str(drift / "train.kix"), "run": str(folder / "run")} | LONG)
    command, variables = command_of("by_hand", keiko_bin)
    launched = Launched(keiko_bin, recipe, [*command, recipe], keiko_env | {"KEIKO": keiko_bin} | variables,
                        folder / "said.txt")
    try:
        assert launched.wait() == 0, launched.said()
    finally:
        launched.end()
    return folder / "run"


def assert_trained_as_alone(run, alone):
    assert positions(run, 2) == positions(alone, 1) == list(range(8 * STEPS))
    assert all(runs.samples(run, rank) for rank in range(2)), "a rank saw no sample"
    found, wanted = runs.weights(run), runs.weights(alone)
    for name in wanted:
        difference = runs.scaled_difference(found[name], wanted[name])
        assert difference < WEIGHT_TOLERANCE, f"{name} differs by {difference}"


@pytest.mark.parametrize("launcher", ["by_hand", "torchrun", "mpirun"])
def test_two_ranks_train_what_one_trains(launch, recipe, alone, tmp_path, launcher):
    launched = launch(launcher, recipe({"steps": STEPS}))
    assert launched.wait() == 0, launched.said()
    assert_trained_as_alone(tmp_path / "run", alone)


@pytest.mark.parametrize("launcher", ["by_hand", "torchrun", "mpirun"])
@pytest.mark.parametrize("victim, number", [("launcher", signal.SIGTERM), ("launcher", signal.SIGUSR1),
                                            (1, signal.SIGTERM), (0, signal.SIGUSR1)])
def test_a_signal_to_the_launcher_or_to_any_one_rank_saves_and_ends_with_75(launch, recipe, whole, tmp_path, launcher,
                                                                           victim, number):
    """All ranks save the same step; started again, the run ends with the bits of one that was left alone."""
    file, run = recipe(LONG), tmp_path / "run"
    launched = launch(launcher, file)
    launched.wait_for_step(run, 20)
    launched.signal(victim, number)
    assert launched.wait() == 75, launched.said()
    reached = steps_of(run)
    assert reached < LONG["steps"], "the signal came too late to show anything"
    assert (run / "checkpoints" / "latest").read_text().strip() == f"step-{reached:08d}"
    assert len(list((run / "checkpoints").glob("*/COMMIT"))) == len(list((run / "checkpoints").glob("step-*")))
    again = launch(launcher, file)
    assert again.wait() == 0, again.said()
    assert_same_bits(run, whole, 2, LONG["steps"])


@pytest.mark.parametrize("launcher", ["by_hand", "mpirun"])
def test_a_killed_rank_ends_the_run_and_starting_again_goes_on(launch, recipe, whole, tmp_path, launcher):
    file, run = recipe(LONG), tmp_path / "run"
    launched = launch(launcher, file)
    launched.wait_for_step(run, 55)
    launched.signal(1, signal.SIGKILL)
    assert launched.wait() not in (0, 75), launched.said()
    again = launch(launcher, file)
    assert again.wait() == 0, again.said()
    assert_same_bits(run, whole, 2, LONG["steps"])


@pytest.mark.parametrize("launcher, rank", [("torchrun", 0), ("bare torchrun", 1)])
def test_torchrun_starts_the_ranks_again_when_one_is_killed(launch, recipe, whole, tmp_path, launcher, rank):
    """By itself, from the last commit: nobody starts anything a second time. With the script and without."""
    file, run = recipe(LONG), tmp_path / "run"
    launched = launch(launcher, file)
    launched.wait_for_step(run, 55)
    first = launched.ranks()
    launched.signal(rank, signal.SIGKILL)
    assert launched.wait() == 0, launched.said()
    assert len(first) == 2
    assert_same_bits(run, whole, 2, LONG["steps"])
    done = re.findall(r"step +(\d+) +loss", (run / "log.txt").read_text())
    assert len(done) > LONG["steps"], "no step was done twice: the kill hit nothing"


def test_a_wrong_recipe_ends_every_launcher_without_restarts(launch, recipe, tmp_path):
    file = recipe({"steps": STEPS, "clip.num_frames": 7})
    for number, launcher in enumerate(("by_hand", "torchrun"), 1):
        launched = launch(launcher, file)
        assert launched.wait() in (1, 2), launched.said()
        # Each of the two ranks says it once; what all launchers say goes to one file.
        assert launched.said().count("clip.num_frames = 7") == 2 * number, launched.said()


@pytest.fixture(scope="module")
def cluster(keiko_env, tmp_path_factory):
    """A Slurm of this test's own."""
    missing = slurm.missing()
    if missing:
        pytest.skip(f"NO SLURM HERE, {missing}: nothing is proven about it in this run")
    cluster = slurm.Slurm(tmp_path_factory.mktemp("slurm"), keiko_env)
    yield cluster
    cluster.stop()


class Job(Launched):
    """A job of slurm.sbatch in place of a launcher."""

    def __init__(self, cluster, keiko_bin, recipe, *options):
        self.cluster, self.keiko_bin, self.recipe = cluster, keiko_bin, recipe
        self.folder = recipe.parent
        self.number = cluster.submit("--cpus-per-task=1", "--time=10", *options, SCRIPTS / "slurm.sbatch", recipe,
                                     cwd=self.folder, env={"KEIKO": keiko_bin})
        self.process = self  # what Launched asks of its process

    returncode = None

    def poll(self):
        return None if self.cluster.job(self.number).get("JobState") in ("PENDING", "RUNNING", "COMPLETING") else 1

    def said(self):
        return "\n".join(without_steps(f.read_text(errors="replace")) for f in self.folder.glob("keiko-*.txt"))

    def wait_for_end(self):
        done = self.cluster.wait_for_end(self.number, 180)
        return done["JobState"], int(done["Restarts"]), self.said()


def test_a_slurm_job_of_two_tasks_trains_what_one_rank_trains(cluster, keiko_bin, recipe, alone, tmp_path):
    state, restarts, said = Job(cluster, keiko_bin, recipe({"steps": STEPS})).wait_for_end()
    assert (state, restarts) == ("COMPLETED", 0), said
    assert_trained_as_alone(tmp_path / "run", alone)


def test_keiko_inside_a_batch_script_is_one_rank(cluster, keiko_bin, recipe, alone, tmp_path):
    """The script has SLURM_NTASKS=2 and SLURM_PROCID=0, but nobody started a second one."""
    script = tmp_path / "plain.sbatch"
    script.write_text(f"#!/bin/sh\n#SBATCH --ntasks=2 --output=keiko-%j.txt\n{keiko_bin} train {recipe({'steps': STEPS})}\n")
    done = cluster.wait_for_end(cluster.submit(script, cwd=tmp_path), 120)
    assert done["JobState"] == "COMPLETED", "\n".join(f.read_text() for f in tmp_path.glob("keiko-*.txt"))
    assert runs.samples(tmp_path / "run") == runs.samples(alone)


@pytest.mark.parametrize("victim", ["script", 0, 1])
def test_a_warned_slurm_job_saves_requeues_itself_and_goes_on(cluster, keiko_bin, recipe, whole, tmp_path, victim):
    """SIGUSR1 to the batch script, as Slurm sends it before the time limit (--signal=B:USR1), or to one rank."""
    run = tmp_path / "run"
    job = Job(cluster, keiko_bin, recipe(LONG))
    job.wait_for_step(run, 20)
    if victim == "script":
        cluster.says("scancel", "--batch", "--signal=USR1", job.number)
    else:
        job.signal(victim, signal.SIGUSR1)
    state, restarts, said = job.wait_for_end()
    assert (state, restarts) == ("COMPLETED", 1), said
    assert "stopped by a signal after step" in said and "ended with 75" in said, said
    assert_same_bits(run, whole, 2, LONG["steps"])


def test_a_slurm_job_outlives_a_killed_rank(cluster, keiko_bin, recipe, whole, tmp_path):
    """A second step in the same allocation goes on from the last commit."""
    run = tmp_path / "run"
    job = Job(cluster, keiko_bin, recipe(LONG))
    job.wait_for_step(run, 55)
    job.signal(1, signal.SIGKILL)
    state, restarts, said = job.wait_for_end()
    assert (state, restarts) == ("COMPLETED", 0), said
    assert re.search(r"step 0 ended with (1|137)\b", said) and "step 1 ended with 0" in said, said
    assert_same_bits(run, whole, 2, LONG["steps"])


def test_a_cancelled_slurm_job_saves_and_stays_cancelled(cluster, keiko_bin, recipe, tmp_path):
    run = tmp_path / "run"
    job = Job(cluster, keiko_bin, recipe(LONG))
    job.wait_for_step(run, 20)
    cluster.says("scancel", job.number)
    state, restarts, said = job.wait_for_end()
    assert (state, restarts) == ("CANCELLED", 0), said
    assert runs.checkpoint(run).name == f"step-{steps_of(run):08d}", said


def test_a_slurm_job_with_a_wrong_recipe_is_not_tried_again(cluster, keiko_bin, recipe):
    state, restarts, said = Job(cluster, keiko_bin, recipe({"steps": STEPS, "clip.num_frames": 7})).wait_for_end()
    assert (state, restarts) == ("FAILED", 0) and said.count("ended with 2") == 1, said


def test_the_kubernetes_manifest_says_the_same_number_of_ranks_everywhere():
    """It cannot be started here; what must agree in it, agrees."""
    service, job = yaml.safe_load_all((SCRIPTS / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    variables = {v["name"]: v for v in pod["containers"][0]["env"]}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert int(variables["WORLD_SIZE"]["value"]) == spec["completions"]
    assert "job-completion-index" in variables["RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert variables["MASTER_ADDR"]["value"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    actions = {code: rule["action"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule
               for code in rule["onExitCodes"]["values"]}
    assert actions == {75: "Ignore", 2: "FailJob", 3: "FailJob"}
    mounts = {m["name"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounts <= {v["name"] for v in pod["volumes"]}


def test_every_script_may_be_executed():
    for script in SCRIPTS.iterdir():
        if script.suffix != ".yaml":
            assert os.access(script, os.X_OK), script
