"""A killed run ends with the bytes of an uninterrupted one, and never silently becomes another run.

Truth: the uninterrupted run of the same recipe. SIGKILL comes at random moments (also while a
checkpoint is being written); fsync and power cuts are tested in C++ through `Env`.
"""

import math
import random
import signal
import subprocess
import time

import pytest

import runs

STEPS = 12
KILLS = {"videomae": 12, "classification": 6, "vjepa2": 4, "fine-tuning": 4}
EXACT_FIELDS = ("step", "position", "epoch", "loss", "lr", "grad_norm")


def uncommitted(run):
    """Whether a checkpoint is being written right now."""
    folder = run / "checkpoints"
    entries = list(folder.iterdir()) if folder.is_dir() else []
    return any("step-" in entry.name and not (entry / "COMMIT").exists() for entry in entries)


def trained_steps(run):
    """Lines in metrics.jsonl, 0 before it exists."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture
def launch(keiko_bin, keiko_env, tmp_path):
    """launch(*args): starts keiko in the background; killed at the end of the test if still there."""
    started = []

    def start(*args):
        log = open(tmp_path / f"output-{len(started)}.txt", "w+")
        started.append((subprocess.Popen([keiko_bin, *map(str, args)], env=keiko_env, stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=subprocess.STDOUT), log))
        return started[-1][0]

    yield start
    for process, log in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()


def wait_until(process, condition, timeout=60):
    """Polls until `condition` holds or the process ends."""
    end = time.monotonic() + timeout
    while process.poll() is None and not condition():
        assert time.monotonic() < end, "the run neither ended nor got where the test waits for it"
        time.sleep(0.0005)


def files_of(checkpoint):
    return {p.name: p.read_bytes() for p in checkpoint.glob("*.safetensors")}


def assert_same_run(found, wanted):
    assert files_of(runs.checkpoint(found, STEPS)).keys() == files_of(runs.checkpoint(wanted, STEPS)).keys()
    for name, content in files_of(runs.checkpoint(wanted, STEPS)).items():
        assert files_of(runs.checkpoint(found, STEPS))[name] == content, f"{found}: {name} differs from {wanted}"
    exact = [[[line[f] for f in EXACT_FIELDS] for line in runs.metrics(run)] for run in (found, wanted)]
    assert exact[0] == exact[1], f"{found}: metrics.jsonl differs from {wanted}"
    assert (found / "samples-0.jsonl").read_bytes() == (wanted / "samples-0.jsonl").read_bytes()


@pytest.mark.parametrize("objective", KILLS)
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(keiko, drift, train, tmp_path, launch, objective):
    """Half of the kills strike while a checkpoint is being written, half at any time of a run's life. Averaged
    weights are compared as all others."""
    base = runs.OBJECTIVES[objective]
    changes = {"data": str(drift / "train.kix"), "steps": STEPS, "checkpoint.every": 2}
    begin = time.monotonic()
    whole = train("whole", base, changes)
    lifetime = time.monotonic() - begin
    assert [line["step"] for line in runs.metrics(whole)] == list(range(1, STEPS + 1))
    assert ("ema.safetensors" in files_of(runs.checkpoint(whole, STEPS))) == ("ema" in base["objective"])

    rng, kills, saving, lives, finished = random.Random(5), 0, 0, 0, []
    wanted_kills = KILLS[objective]
    run = tmp_path / "killed-0"
    while kills < wanted_kills:
        assert lives < 8 * wanted_kills, f"only {kills} of {lives} starts could be killed"
        process = launch("train", tmp_path / "whole.yaml", f"run={run}")
        if lives % 2:
            wait_until(process, lambda: uncommitted(run))
            time.sleep(rng.choice([0, 0.0005, 0.002]))
        elif rng.random() < 0.5:
            target = trained_steps(run) + rng.randrange(1, 4)
            wait_until(process, lambda: trained_steps(run) >= target)
        else:
            time.sleep(rng.uniform(0.3, 1.0) * lifetime)
        lives += 1
        was_saving = uncommitted(run)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            kills += 1
            saving += was_saving
        else:
            assert process.returncode == 0
            finished.append(run)
            run = tmp_path / f"killed-{len(finished)}"
    keiko("train", tmp_path / "whole.yaml", f"run={run}")
    print(f"{kills} kills ({saving} while saving), {len(finished) + 1} runs compared")
    for run in [*finished, run]:
        assert_same_run(run, whole)


def test_more_steps_continue_a_finished_run_without_being_told(keiko, drift, train):
    """A constant learning rate makes 6 + 6 steps the same computation as 12."""
    level = {"data": str(drift / "train.kix"), "optimizer.warmup_steps": 0, "optimizer.min_lr": 0.001,
             "steps": STEPS, "checkpoint.every": 6}
    whole = train("whole", runs.PRETRAIN, level)
    halves = train("halves", runs.PRETRAIN, level, "steps=6")
    assert runs.checkpoint(halves).name == "step-00000006"
    train("halves", runs.PRETRAIN, level)
    assert_same_run(halves, whole)


def test_training_a_finished_run_again_changes_nothing(drift, train):
    run = train("run", runs.PRETRAIN, {"data": str(drift / "train.kix")})
    before = (files_of(runs.checkpoint(run)), runs.metrics(run))
    train("run", runs.PRETRAIN, {"data": str(drift / "train.kix")})
    assert (files_of(runs.checkpoint(run)), runs.metrics(run)) == before


@pytest.mark.parametrize("key, old, new", [("optimizer.base_lr", 0.001, 0.002), ("seed", 7, 8),
                                           ("objective.mask_ratio", 0.75, 0.5)])
def test_a_changed_defining_key_is_refused_with_both_values(keiko, drift, train, tmp_path, key, old, new):
    run = train("run", runs.PRETRAIN, {"data": str(drift / "train.kix")})
    before = files_of(runs.checkpoint(run))
    refused = keiko("train", tmp_path / "run.yaml", f"{key}={new}", "steps=7", check=False)
    assert refused.returncode == 2, refused.stderr
    lines = [line for line in refused.stderr.splitlines() if key in line]
    assert any(numbers(line)[-2:] == [old, new] for line in lines), refused.stderr
    assert files_of(runs.checkpoint(run)) == before


def numbers(line):
    """The numbers among a line's words."""
    found = []
    for word in line.replace("=", " ").replace(",", " ").split():
        try:
            found.append(float(word))
        except ValueError:
            pass
    return found


def test_a_changed_free_key_is_accepted(keiko, drift, train, tmp_path):
    run = train("run", runs.PRETRAIN, {"data": str(drift / "train.kix")})
    keiko("train", tmp_path / "run.yaml", "log.every=2", "loader.prefetch=1", "checkpoint.every=3", "steps=7")
    assert runs.checkpoint(run).name == "step-00000007"


def test_sigterm_saves_and_ends_with_75_and_the_run_goes_on_later(keiko, drift, tmp_path, launch):
    """Exit code 75 is EX_TEMPFAIL of sysexits.h: what schedulers take as "start me again"."""
    run = tmp_path / "run"
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN,
                               {"data": str(drift / "train.kix"), "run": str(run), "steps": 1_000_000})
    process = launch("train", recipe)
    wait_until(process, lambda: trained_steps(run) >= 3)
    process.terminate()
    assert process.wait(timeout=60) == 75

    saved = runs.checkpoint(run)
    step = int(saved.name.removeprefix("step-"))
    assert step == runs.metrics(run)[-1]["step"] >= 3
    keiko("train", recipe, f"steps={step + 2}")
    assert [line["step"] for line in runs.metrics(run)] == list(range(1, step + 3))
    assert all(math.isfinite(line["loss"]) for line in runs.metrics(run))


def test_every_step_checkpoint_names_what_it_holds(drift, train):
    """The files that the design lists, and `latest` naming the newest."""
    run = train("run", runs.PRETRAIN, {"data": str(drift / "train.kix"), "checkpoint.every": 2})
    for step in (2, 4, 5):
        names = {p.name for p in runs.checkpoint(run, step).iterdir()}
        assert names >= {"config.json", "model.safetensors", "optimizer-0-of-1.safetensors", "state.json", "COMMIT"}
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000005"


def test_only_the_newest_checkpoints_are_kept(drift, train):
    run = train("run", runs.PRETRAIN, {"data": str(drift / "train.kix"), "steps": 8, "checkpoint.every": 1,
                                       "checkpoint.keep": 2})
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*")) == ["step-00000007", "step-00000008"]
