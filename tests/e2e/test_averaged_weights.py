"""Averaged weights are part of a run: resumed from and handed on when whole, named when not.

Truth: an undisturbed run, the files that it wrote, and the exit codes of the design (1 failed, 2 wrong
usage or recipe).
"""

import shutil

import pytest
from safetensors.torch import load_file, save_file

import runs

STEPS = 6
LEVEL = {"optimizer.warmup_steps": 0, "optimizer.schedule": "constant", "checkpoint.every": 2}


@pytest.fixture(scope="module")
def pretrained(keiko, few, tmp_path_factory):
    """(recipe, run folder) of a V-JEPA 2 run with checkpoints of steps 2, 4 and 6; not to be changed."""
    folder = tmp_path_factory.mktemp("pretrained")
    recipe = runs.changed(runs.VJEPA2, LEVEL | {"data": str(few / "train.kix"), "steps": STEPS, "objective.ema": [0.9, 0.9]})
    keiko("train", runs.write_recipe(folder / "r.yaml", recipe, {"run": str(folder / "run")}))
    return recipe, folder / "run"


@pytest.fixture
def spoilt(keiko, pretrained, tmp_path):
    """A copy of the run to be spoiled, and a function that trains it again (its last steps are taken away)."""
    recipe, whole = pretrained
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    (run / "checkpoints" / "latest").write_text("step-00000004\n")

    def again():
        return keiko("train", runs.write_recipe(tmp_path / "r.yaml", recipe, {"run": str(run)}), check=False)

    return run, again


def average_of(run, step):
    return run / "checkpoints" / f"step-{step:08d}" / "ema.safetensors"


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("spoil", [flip_a_byte, remove])
def test_a_checkpoint_without_a_whole_average_is_named_and_passed_over(pretrained, spoilt, spoil):
    """The run goes on from the one before it, to the bytes of the undisturbed run."""
    run, again = spoilt
    spoil(average_of(run, 4))
    done = again()
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "step-00000004/ema.safetensors" in said and "step-00000002 at step 2" in said, said
    for file in ("ema.safetensors", "model.safetensors", "optimizer-0-of-1.safetensors"):
        assert (runs.checkpoint(run, STEPS) / file).read_bytes() == (runs.checkpoint(pretrained[1], STEPS) / file).read_bytes()


@pytest.mark.parametrize("spoil", [flip_a_byte, remove])
def test_a_run_whose_averages_are_all_spoilt_ends_with_their_name(spoilt, spoil):
    run, again = spoilt
    for step in (2, 4):
        spoil(average_of(run, step))
    done = again()
    assert done.returncode == 1 and "ema.safetensors" in done.stderr, done.stderr
    assert not (run / "checkpoints" / "step-00000006").exists()


def start_from(keiko, few, tmp_path, source, **keys):
    """`train` with steps=0 of a classifier with V-JEPA 2's encoder: (finished process, run folder)."""
    recipe = runs.changed(runs.CLASSIFY, {
        "data": str(few / "train.kix"), "run": str(tmp_path / "tuned"), "steps": 0, "init_from": str(source),
        "objective.backbone": "vjepa2", "objective.heads": 3, "objective.positions": "rope",
        "objective.pooler_depth": 0} | keys)
    return keiko("train", runs.write_recipe(tmp_path / "tuned.yaml", recipe), check=False), tmp_path / "tuned"


@pytest.mark.parametrize("choice, file", [("auto", "ema.safetensors"), ("ema", "ema.safetensors"),
                                          ("model", "model.safetensors")])
def test_init_weights_chooses_which_weights_are_handed_on(keiko, few, pretrained, tmp_path, choice, file):
    """Every tensor of the encoder is the one of that file, whose two kinds differ."""
    done, tuned = start_from(keiko, few, tmp_path, pretrained[1], init_weights=choice)
    assert done.returncode == 0, done.stderr
    found, wanted = runs.weights(tuned, 0), runs.weights(pretrained[1], file=file)
    other = runs.weights(pretrained[1], file="ema.safetensors" if file.startswith("model") else "model.safetensors")
    names = [name for name in wanted if name.startswith("encoder.")]
    assert names and {f"vjepa2.{name}" for name in names} == {n for n in found if n.startswith("vjepa2.")}
    assert all(found[f"vjepa2.{name}"].equal(wanted[name]) for name in names)
    assert any(not wanted[name].equal(other[name]) for name in names)


def test_an_average_that_is_not_there_is_refused_by_name(keiko, few, train, tmp_path):
    """init_weights: ema from a VideoMAE run, which averages nothing."""
    source = train("plain", runs.PRETRAIN, {"data": str(few / "train.kix"), "steps": 0})
    done, tuned = start_from(keiko, few, tmp_path, source, init_weights="ema")
    assert done.returncode == 2, done.stderr
    assert "init_weights" in done.stderr and "ema.safetensors" in done.stderr and str(source) in done.stderr
    assert not list(tuned.rglob("COMMIT"))


@pytest.mark.parametrize("spoil", [flip_a_byte, remove])
@pytest.mark.parametrize("choice", ["auto", "ema"])
def test_a_source_whose_average_was_lost_is_refused_by_name(keiko, few, spoilt, tmp_path, spoil, choice):
    """A checkpoint that is named itself: the weights beside the average are not taken in its place."""
    run, _ = spoilt
    spoil(average_of(run, 4))
    done, tuned = start_from(keiko, few, tmp_path, average_of(run, 4).parent, init_weights=choice)
    assert done.returncode == 1 and str(average_of(run, 4)) in done.stderr, done.stderr
    assert not list(tuned.rglob("COMMIT"))


def test_a_run_whose_newest_average_was_lost_hands_on_the_one_before(keiko, few, spoilt, tmp_path):
    run, _ = spoilt
    remove(average_of(run, 4))
    done, tuned = start_from(keiko, few, tmp_path, run)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and str(average_of(run, 4)) in said and str(average_of(run, 2).parent) in said, said
    wanted, found = runs.weights(run, 2, "ema.safetensors"), runs.weights(tuned, 0)
    assert all(found[f"vjepa2.{name}"].equal(tensor) for name, tensor in wanted.items())


def test_a_teacher_that_lacks_a_tensor_is_refused_by_its_name(keiko, few, pretrained, tmp_path):
    """Pretraining from a folder whose ema.safetensors is of another model."""
    recipe, whole = pretrained
    source = tmp_path / "source"
    source.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(runs.checkpoint(whole) / file, source)
    average = load_file(runs.checkpoint(whole) / "ema.safetensors")
    del average["encoder.layer.1.norm2.weight"]
    save_file(average, source / "ema.safetensors")
    done = keiko("train", runs.write_recipe(tmp_path / "r.yaml", recipe, {
        "run": str(tmp_path / "run"), "init_from": str(source)}), check=False)
    assert done.returncode == 1 and "encoder.layer.1.norm2.weight" in done.stderr, done.stderr


@pytest.mark.parametrize("base", [runs.PRETRAIN, runs.VJEPA2], ids=["videomae", "vjepa2"])
def test_layer_decay_without_a_head_is_refused(keiko, few, tmp_path, base):
    recipe = runs.write_recipe(tmp_path / "r.yaml", base, {"data": str(few / "train.kix"), "run": str(tmp_path / "run"),
                                                           "optimizer.layer_decay": 0.75})
    done = keiko("train", recipe, check=False)
    assert done.returncode == 2, done.stderr
    assert "layer_decay = 0.75" in done.stderr and base["objective"]["name"] in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("changes, key, value", [
    ({"augment.repeats": 1, "batch_size": 7, "micro_batch_size": 0}, "batch_size", 7),
    ({"augment.repeats": 1, "batch_size": 8, "micro_batch_size": 3}, "micro_batch_size", 3),
    ({"augment.repeats": 2, "batch_size": 10, "micro_batch_size": 0}, "batch_size", 10)])
def test_batches_that_would_part_mixup_partners_are_refused(keiko, few, tmp_path, changes, key, value):
    """Pairs of clips, or of clips with all their views."""
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.FINE_TUNE,
                               {"data": str(few / "train.kix"), "run": str(tmp_path / "run")} | changes)
    done = keiko("train", recipe, check=False)
    assert done.returncode == 2, done.stderr
    assert f"{key} = {value}" in done.stderr and "mixup" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
