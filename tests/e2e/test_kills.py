"""Two ranks killed at random moments, in every phase of a step and of a save, end with the bits of a run left alone.

KEIKO_KILLS sets how many kills there are of each kind of run; with 60 or more each phase must have been hit twice.
"""

import collections
import os
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

import runs
from launching import free_port

# By what the ranks share out.
KILLS = {shard: int(os.environ.get("KEIKO_KILLS", kills)) for shard, kills in
         (("none", 12), ("gradients", 2), ("parameters", 2))}
RANKS = 2
PHASES = {1: "step", 2: "reduce", 3: "update", 4: "host copy", 5: "commit"}
# Large enough for copies and files that take milliseconds; a save at every step.
WIDE = {"objective.width": 192, "objective.depth": 3, "checkpoint": {"every": 1, "keep": 2},
        "log": {"every": 1, "samples": True}, "debug": {"phases": True}}


def start(keiko_bin, keiko_env, recipe):
    port = str(free_port())
    return [subprocess.Popen([keiko_bin, "train", str(recipe)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, env=keiko_env | {"RANK": str(rank), "WORLD_SIZE": str(RANKS),
                                                                         "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                                                                         "MASTER_PORT": port}) for rank in range(RANKS)]


def phase_of(run, rank):
    try:
        main, writing = (run / f"phase-{rank}").read_bytes()
    except (FileNotFoundError, ValueError):
        return ["start"]
    return [PHASES.get(main, "start")] + (["write"] if writing else [])


@pytest.mark.parametrize("shard", KILLS)
def test_kills_in_every_phase_lose_nothing(keiko_bin, keiko_env, drift, tmp_path, shard):
    kills, steps = KILLS[shard], 40 if shard == "none" else 20
    recipe = {name: runs.write_recipe(tmp_path / f"{name}.yaml", runs.PRETRAIN,
                                      WIDE | {"train.shard": shard, "steps": steps, "data": str(drift / "train.kix"),
                                              "run": str(tmp_path / name)})
              for name in ("whole", "killed")}
    begun = time.monotonic()
    assert [p.wait(timeout=300) for p in start(keiko_bin, keiko_env, recipe["whole"])] == [0] * RANKS
    step_s = (time.monotonic() - begun) / steps
    random, hit, run = Random(6), collections.Counter(), tmp_path / "killed"
    saved = []
    for kill in range(kills):
        latest = run / "checkpoints" / "latest"
        before = latest.read_text() if latest.exists() else ""
        for phase in run.glob("phase-*"):
            phase.unlink()
        ranks = start(keiko_bin, keiko_env, recipe["killed"])
        # Past the start: training again and, mostly, something new saved; then a random moment.
        until = time.monotonic() + 60
        while not (run / "phase-0").exists() and time.monotonic() < until and ranks[0].poll() is None:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 3 * step_s))
        done = [p.poll() for p in ranks]
        for rank in random.sample(range(RANKS), RANKS):
            ranks[rank].kill()
        for process in ranks:
            process.wait()
        if None in done:
            for rank in range(RANKS):
                hit.update(phase_of(run, rank))
        if latest.exists() and latest.read_text() >= "step-%08d" % (steps - 3):
            saved.append(kill)  # nearly done: start over, so that every kill hits work
            subprocess.run(["rm", "-r", str(run)], check=True)
    assert [p.wait(timeout=300) for p in start(keiko_bin, keiko_env, recipe["killed"])] == [0] * RANKS
    last = Path("checkpoints") / ("step-%08d" % steps)
    for name in ("model.safetensors", *(f"optimizer-{r}-of-{RANKS}.safetensors" for r in range(RANKS))):
        assert (run / last / name).read_bytes() == (tmp_path / "whole" / last / name).read_bytes(), name
    for rank in range(RANKS):
        name = f"samples-{rank}.jsonl"
        assert (run / name).read_text() == (tmp_path / "whole" / name).read_text(), name
    print(f"{kills} kills of {RANKS} ranks, train.shard {shard}, phases hit (of each rank): {dict(hit)}")
    if kills >= 60:
        for phase in (*PHASES.values(), "write"):
            assert hit[phase] >= 2, (phase, hit)
