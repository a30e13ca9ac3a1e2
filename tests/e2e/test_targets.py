"""Several classes at once, and numbers: read from a table, learned, judged, handed on.

Truth: the tables that the test writes; a textbook PyTorch loop in float64 (plain_training.py) that is fed
with what `keiko preview --tensors` hands out; figures of evaluation computed again in numpy from the plain
model's outputs; transformers' own loss.
"""

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import plain_training
import plain_videomae
import plain_vjepa2
import runs
from published_models import clips, features, opened, refused
from test_ranks import by_hand

STEPS = 20
RTOL = 1e-6
CLASSES, NUMBERS = ["right", "left", "up", "down"], ["across", "along"]


def motion(video):
    """(x, y) of a clip of the embedded data set, y downwards, as its class says."""
    name = video.parent.name
    return ("east" in name) - ("west" in name), ("south" in name) - ("north" in name)


def classes_of(i, video):
    """Now and then a class that nobody looked for, and one that is half there."""
    x, y = motion(video)
    row = [float(x > 0), float(x < 0), float(y < 0), float(y > 0)]
    if i % 5 == 0:
        row[i % 4] = None
    if i % 7 == 3:
        row[1] = 0.25
    return row


def numbers_of(i, video):
    """In units that have nothing in common."""
    x, y = motion(video)
    return [100 + 20.0 * x + 0.25 * (i % 7), None if i % 5 == 0 else 0.5 * y - i % 3]


def write_table(file, names, rows):
    lines = [",".join(["path", *names])]
    lines += [",".join([str(path), *("" if v is None else repr(v) for v in row)]) for path, row in rows]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def tables(few, tmp_path_factory):
    """tables[target][split]: a table for the 16 and 8 clips, and its rows."""
    folder, found = tmp_path_factory.mktemp("tables"), {}
    for target, names, row_of in (("multilabel", CLASSES, classes_of), ("regression", NUMBERS, numbers_of)):
        for split in ("train", "test"):
            rows = [(v, row_of(i, v)) for i, v in enumerate(sorted((few / split).glob("*/*.mp4")))]
            file = write_table(folder / f"{target}-{split}.csv", names, rows)
            found.setdefault(target, {})[split] = SimpleNamespace(file=file, rows=dict(rows))
    return found


def data_of(few, tables, target, split="train"):
    return [{"path": str(few / f"{split}.kix"), "targets": str(tables[target][split].file)}]


LONG = {"precision": "float64", "steps": STEPS, "optimizer.warmup_steps": 3, "optimizer.base_lr": 0.003, "log.samples": False}
VJEPA2_HEAD = {"objective.backbone": "vjepa2", "objective.heads": 3, "objective.positions": "rope",
               "objective.pooler_depth": 1}
RECIPES = {
    "multilabel": runs.changed(runs.CLASSIFY, LONG | {"objective.target": "multilabel"}),
    "multilabel, all that fine-tuning draws": runs.changed(runs.FINE_TUNE, LONG | {"objective.target": "multilabel"}),
    "regression": runs.changed(runs.CLASSIFY, LONG | {"objective.target": "regression"}),
    "regression, all that fine-tuning draws": runs.changed(runs.FINE_TUNE, LONG | VJEPA2_HEAD | {
        "objective.target": "regression", "objective.regression_loss": "smooth_l1", "objective.label_smoothing": 0.0}),
}


def pixels_of(batch, dtype=torch.float64):
    return plain_videomae.normalise_pixels(batch["video"], dtype)


def mixed_rows(batch):
    """Targets of a batch, mixed by share; unknown where either half is."""
    own = batch["target"].double()
    if "mix_share" not in batch:
        return own
    rows = []
    for mine, share, partner in zip(own, batch["mix_share"].tolist(), batch["mix_partner"].tolist()):
        parts = [(s, row) for s, row in ((share, mine), (1 - share, own[partner])) if s > 0]
        rows.append(sum(s * row for s, row in parts))
    return torch.stack(rows)


def plain_loss(model, batch, objective, mean, std):
    """Mean over clips of the mean over what is known of each."""
    outputs = model(plain_training.mixed(pixels_of(batch), batch), batch.get("keep"))
    losses = []
    for said, wanted in zip(outputs, mixed_rows(batch)):
        known = ~wanted.isnan()
        if not known.any():
            losses.append(0 * said.sum())
        elif objective["target"] == "multilabel":
            s = objective["label_smoothing"]
            losses.append(F.binary_cross_entropy_with_logits(said[known], (1 - s) * wanted[known] + s / 2))
        else:
            distance = F.smooth_l1_loss if objective.get("regression_loss") == "smooth_l1" else F.mse_loss
            losses.append(distance(said[known], ((wanted - mean) / std)[known]))
    return torch.stack(losses).mean()


def spread_of(rows):
    """Mean and standard deviation of each column over what is known, in float64 from float32."""
    table = np.array([[np.nan if v is None else v for v in row] for row in rows], np.float32).astype(np.float64)
    return torch.tensor(np.nanmean(table, 0)), torch.tensor(np.nanstd(table, 0))


@pytest.fixture(scope="module", params=RECIPES)
def journey(request, keiko, few, tables, tmp_path_factory):
    """Keiko's run and the plain loop from the same start on the same batches."""
    folder, base = tmp_path_factory.mktemp("journey"), RECIPES[request.param]
    o = base["objective"]
    recipe = runs.changed(base, {"data": data_of(few, tables, o["target"]), "run": str(folder / "run")})
    file = runs.write_recipe(folder / "r.yaml", recipe)
    keiko("train", file, "steps=0")
    start = runs.checkpoint(folder / "run", 0)
    batches = runs.preview_tensors(keiko, file, folder / "batches.safetensors", steps=STEPS)
    keiko("train", file)

    torch.set_num_threads(1)
    model = (plain_vjepa2 if o.get("backbone") == "vjepa2" else plain_videomae).load(start)
    average = copy.deepcopy(model) if o.get("ema") else None
    mean, std = spread_of(tables[o["target"]]["train"].rows.values())

    def follow(step):
        if average:
            plain_training.follow(average, model, o["ema"])

    lines = list(plain_training.train(model, batches, recipe,
                                      lambda batch, step: plain_loss(model, batch, o, mean, std), follow))
    return SimpleNamespace(objective=o, run=folder / "run", batches=batches, lines=lines, model=model, average=average,
                           mean=mean, std=std)


def test_every_step_equals_plain_pytorch(journey):
    ours = runs.metrics(journey.run)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for mine, plain in zip(ours, journey.lines):
        for field in ("loss", "lr", "grad_norm"):
            assert math.isclose(mine[field], plain[field], rel_tol=RTOL, abs_tol=1e-15), \
                f"step {mine['step']}: {field} is {mine[field]!r}, plain PyTorch has {plain[field]!r}"


def test_the_weights_and_their_average_equal_plain_pytorch(journey):
    kinds = [("model.safetensors", journey.model)] + [("ema.safetensors", journey.average)] * bool(journey.average)
    for file, model in kinds:
        weights = {n: w for n, w in runs.weights(journey.run, file=file).items() if not n.startswith("regression.")}
        plain = dict(model.named_parameters())
        assert plain.keys() == weights.keys()
        for name, wanted in plain.items():
            wanted = wanted.detach()
            if wanted.abs().max() < 1e-6:  # a key bias that softmax cancels
                assert (weights[name] - wanted).abs().max() < 1e-6, name
            else:
                assert runs.scaled_difference(weights[name], wanted) < RTOL, name


def test_a_checkpoint_tells_the_targets_of_a_head(journey):
    """Their names, which problem it is, and of numbers the mean and spread of the training data."""
    folder = runs.checkpoint(journey.run)
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    is_multilabel = journey.objective["target"] == "multilabel"
    names = CLASSES if is_multilabel else NUMBERS
    assert config["id2label"] == {str(i): name for i, name in enumerate(names)}
    assert config["problem_type"] == ("multi_label_classification" if is_multilabel else "regression")
    if is_multilabel:
        assert not any(n.startswith("regression.") for n in weights)
    else:
        assert torch.allclose(weights["regression.target_mean"], journey.mean, rtol=1e-12, atol=0)
        assert torch.allclose(weights["regression.target_std"], journey.std, rtol=1e-12, atol=0)


def test_what_was_drawn_says_enough(journey):
    """Guards the test itself: unknown targets, and with mixing clips whose halves both count."""
    targets = torch.cat([batch["target"] for batch in journey.batches])
    assert targets.isnan().any() and not targets.isnan().all(1).any()
    if "mixup" in journey.objective:
        share = torch.cat([batch["mix_share"] for batch in journey.batches])
        assert ((share > 0.05) & (share < 0.95)).double().mean() > 0.5


def test_clips_carry_the_numbers_of_their_line(keiko, few, tables, tmp_path):
    """`keiko preview --json`, video by video."""
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.PRETRAIN, {
        "data": data_of(few, tables, "regression"), "run": str(tmp_path / "run")})
    shown = json.loads(keiko("preview", recipe, "--clips", 8, "--json").stdout)["clips"]
    rows = {str(v.resolve()): row for v, row in tables["regression"]["train"].rows.items()}
    for clip in shown:
        wanted = dict(zip(NUMBERS, rows[clip["path"]]))
        assert clip["targets"].keys() == wanted.keys()
        for name, value in wanted.items():
            assert clip["targets"][name] == (None if value is None else pytest.approx(value, rel=1e-6))


# Clips are whole videos, so that what evaluation sees is what training sees, and preview shows it.
WHOLE = {"clip.num_frames": 16, "precision": "float64", "steps": 6, "optimizer.base_lr": 0.01, "log.samples": False}


@pytest.fixture(scope="module", params=["multilabel", "regression"])
def judged(request, keiko, few, tables, tmp_path_factory):
    """A trained run, its evaluation on its own data, and the plain model's outputs beside the targets, in numpy."""
    folder, target = tmp_path_factory.mktemp("judged"), request.param
    data = data_of(few, tables, target)
    recipe = runs.write_recipe(folder / "r.yaml", runs.CLASSIFY, WHOLE | {
        "objective.target": target, "data": data, "eval": {"data": data}, "run": str(folder / "run")})
    keiko("train", recipe)
    batches = runs.preview_tensors(keiko, folder / "run", folder / "b.safetensors", steps=2)  # one epoch
    model = plain_videomae.load(runs.checkpoint(folder / "run"))
    with torch.no_grad():
        outputs = torch.cat([model(pixels_of(batch)) for batch in batches]).numpy()
    return SimpleNamespace(target=target, run=folder / "run", outputs=outputs,
                           wanted=torch.cat([batch["target"] for batch in batches]).double().numpy(),
                           spread=spread_of(tables[target]["train"].rows.values()))


def average_precision(score, positive):
    """The mean over positives of the share of positives among those with this score or more."""
    return np.mean([positive[score >= s].mean() for s in score[positive]])


def multilabel_figures(outputs, wanted):
    known, positive, said = ~np.isnan(wanted), wanted >= 0.5, outputs >= 0
    cells = np.logaddexp(0, outputs) - np.nan_to_num(wanted) * outputs
    precisions, chances = {}, []
    for c, name in enumerate(CLASSES):
        k = known[:, c]
        if positive[k, c].any():
            precisions[name] = average_precision(outputs[k, c], positive[k, c])
            chances.append(positive[k, c].mean())
    hits = (said & positive & known).sum()
    return {"loss": np.mean([cells[i][known[i]].mean() for i in range(len(cells))]),
            "map": np.mean(list(precisions.values())), "map_chance": np.mean(chances),
            "f1": 2 * hits / ((said & known).sum() + (positive & known).sum())}, precisions


def regression_figures(outputs, wanted, mean, std):
    known, predicted = ~np.isnan(wanted), outputs * std.numpy() + mean.numpy()
    cells = (outputs - (wanted - mean.numpy()) / std.numpy()) ** 2
    by_target = {}
    for c, name in enumerate(NUMBERS):
        p, t = predicted[known[:, c], c], wanted[known[:, c], c]
        by_target[name] = {"clips": len(t), "mae": np.abs(p - t).mean(), "rmse": np.sqrt(((p - t) ** 2).mean()),
                           "r2": 1 - ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum(),
                           "pearson": np.corrcoef(p, t)[0, 1]}
    return {"loss": np.mean([cells[i][known[i]].mean() for i in range(len(cells))]),
            **{key: np.mean([f[key] for f in by_target.values()]) for key in ("r2", "pearson")}}, by_target


def assert_figures(evaluation, figures):
    for key, value in figures.items():
        assert evaluation[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key


@pytest.mark.parametrize("views", [1, 2])
def test_evaluation_says_what_numpy_says(keiko, judged, views):
    """Two views of a video as long as the clip are twice the same: their mean changes nothing."""
    out = json.loads(keiko("eval", judged.run, f"eval.views={{temporal: {views}, spatial: 1}}", "--json").stdout)
    assert out["clips"] == 16
    if judged.target == "multilabel":
        figures, precisions = multilabel_figures(judged.outputs, judged.wanted)
        assert out["ap_by_class"].keys() == precisions.keys()
        assert_figures(out["ap_by_class"], precisions)
    else:
        figures, by_target = regression_figures(judged.outputs, judged.wanted, *judged.spread)
        for name, wanted in by_target.items():
            assert_figures(out["by_target"][name], wanted)
        assert "mae" not in out, "a mean over unlike units"
    assert_figures(out, figures)
    if views == 1:
        [line] = runs.metrics(judged.run, "eval")
        assert_figures(line, figures)


def test_other_data_is_judged_in_the_units_that_were_learned(keiko, few, tables, judged, tmp_path):
    """A regression's own mean and spread come from the checkpoint, not from the evaluation data."""
    if judged.target != "regression":
        return
    shifted = {v: [None if x is None else 3 * x + 1000 for x in row]
               for v, row in tables["regression"]["train"].rows.items()}
    table = write_table(tmp_path / "shifted.csv", NUMBERS, shifted.items())
    out = json.loads(keiko("eval", judged.run, f"eval.data=[{{path: {few / 'train.kix'}, targets: {table}}}]",
                           "--json").stdout)
    figures, by_target = regression_figures(judged.outputs, (3 * judged.wanted + 1000).astype(np.float32).astype(float),
                                            *judged.spread)
    for name, wanted in by_target.items():
        for key, value in wanted.items():
            assert out["by_target"][name][key] == pytest.approx(value, rel=1e-5), f"{name} {key}"


def test_a_resumed_run_is_the_same_to_the_bit(few, tables, train):
    level = {"data": data_of(few, tables, "regression"), "steps": 6, "objective.target": "regression",
             "objective.label_smoothing": 0.0, "optimizer.warmup_steps": 0, "optimizer.schedule": "constant"}
    whole = train("whole", runs.FINE_TUNE, level)
    train("parts", runs.FINE_TUNE, level, "steps=3")
    parts = train("parts", runs.FINE_TUNE, level)
    for file in ("model.safetensors", "ema.safetensors", "optimizer-0-of-1.safetensors"):
        assert (runs.checkpoint(whole) / file).read_bytes() == (runs.checkpoint(parts) / file).read_bytes(), file


@pytest.mark.parametrize("target", ["multilabel", "regression"])
def test_two_ranks_learn_and_judge_as_one_does(keiko, keiko_bin, keiko_env, few, tables, tmp_path, target):
    """Three groups of mixed pairs on two ranks, 8 items on two."""
    changes = {"precision": "float64", "objective.target": target, "data": data_of(few, tables, target),
               "objective.label_smoothing": 0.0, "eval": {"data": data_of(few, tables, target, "test")}}
    for name in ("one", "two"):
        recipe = runs.write_recipe(tmp_path / f"{name}.yaml", runs.FINE_TUNE, changes | {"run": str(tmp_path / name)})
        if name == "one":
            keiko("train", recipe)
        else:
            by_hand(keiko_bin, keiko_env, recipe, 2, tmp_path)
    for kind in ("train", "eval"):
        one, two = (runs.metrics(tmp_path / name, kind) for name in ("one", "two"))
        assert len(one) == len(two)
        for a, b in zip(one, two):
            for key in {"loss", "grad_norm", "accuracy", "scaled_mae", "map", "f1", "r2", "pearson"} & a.keys():
                assert math.isclose(a[key], b[key], rel_tol=1e-9, abs_tol=1e-12), f"{kind} {key}: {a[key]} and {b[key]}"
    one, two = runs.weights(tmp_path / "one"), runs.weights(tmp_path / "two")
    assert all(runs.scaled_difference(two[n], one[n]) < 1e-7 or (two[n] - one[n]).abs().max() < 1e-9 for n in one)


def test_transformers_computes_the_multilabel_loss_that_keiko_logged(keiko, few, tables, train, tmp_path):
    """The folder opens as it is, with nothing left over; all classes are known here."""
    rows = {v: [0.0 if x is None else x for x in row] for v, row in tables["multilabel"]["train"].rows.items()}
    table = write_table(tmp_path / "all.csv", CLASSES, rows.items())
    changes = {"data": [{"path": str(few / "train.kix"), "targets": str(table)}], "objective.target": "multilabel",
               "precision": "float64", "steps": 1}
    run = train("run", runs.CLASSIFY, changes, "steps=0")
    train("run", runs.CLASSIFY, changes)
    [batch] = runs.preview_tensors(keiko, run, tmp_path / "b.safetensors")
    model = opened("VideoMAEForVideoClassification", runs.checkpoint(run, 0))
    assert model.config.num_labels == 4 and model.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        loss = model(pixels_of(batch), labels=batch["target"].double()).loss.item()
    assert math.isclose(loss, runs.metrics(run)[0]["loss"], rel_tol=1e-9)


@pytest.mark.parametrize("backbone", ["VideoMAEForVideoClassification", "VJEPA2ForVideoClassification"])
def test_an_exported_regression_says_the_targets_in_their_own_units(keiko, few, tables, train, tmp_path, backbone):
    head = VJEPA2_HEAD if backbone.startswith("VJEPA2") else {}
    run = train("run", runs.CLASSIFY, head | {
        "data": data_of(few, tables, "regression"), "steps": 2, "optimizer.base_lr": 0.01, "precision": "float64",
        "objective.target": "regression", "objective.ema": 0.5})
    video, plain = clips(frames=8, size=32), plain_vjepa2 if head else plain_videomae
    mean, std = spread_of(tables["regression"]["train"].rows.values())
    for weights in ("model", "ema"):
        said = keiko("export", run, "--out", tmp_path / weights, "--weights", weights, "--dtype", "float64").stdout
        assert "in their own units" in said and "left out" not in said
        model = opened(backbone, tmp_path / weights)
        assert model.config.problem_type == "regression"
        own = plain.load(runs.checkpoint(run))
        if weights == "ema":
            own.load_state_dict(load_file(runs.checkpoint(run) / "ema.safetensors"))
        pixels = plain_videomae.normalise_pixels(video, torch.float64)
        with torch.no_grad():
            wanted, got = own(pixels) * std + mean, model(pixels).logits
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-9)
        ours = features(keiko, run, video, tmp_path, "--weights", weights)["logits"]
        assert torch.allclose(ours, wanted, rtol=1e-9, atol=1e-9)


def test_a_run_starts_from_another_kind_of_run(few, tables, train, tmp_path):
    """From pretraining: the encoder. From a regression: also its head, with the statistics that go with it."""
    pretrained = train("pretrained", runs.PRETRAIN, {"data": str(few / "train.kix"), "steps": 1})
    regression = {"data": data_of(few, tables, "regression"), "objective.target": "regression", "steps": 1}
    first = train("first", runs.CLASSIFY, regression | {"init_from": str(pretrained), "steps": 0})
    source, found = runs.weights(pretrained), runs.weights(first)
    encoder = [n for n in found if n.startswith("videomae.")]
    assert encoder and all(torch.equal(found[n], source[n]) for n in encoder)
    trained = train("trained", runs.CLASSIFY, regression)
    shifted = {v: [None if x is None else x + 7 for x in row] for v, row in tables["regression"]["train"].rows.items()}
    table = write_table(tmp_path / "shifted.csv", NUMBERS, shifted.items())
    second = train("second", runs.CLASSIFY, regression | {
        "init_from": str(trained), "steps": 0, "data": [{"path": str(few / "train.kix"), "targets": str(table)}]})
    source, found = runs.weights(trained), runs.weights(second)
    assert source.keys() == found.keys() and all(torch.equal(found[n], source[n]) for n in source)


def test_changed_targets_are_other_data(keiko, few, tables, train, tmp_path):
    table = tmp_path / "t.csv"
    rows = tables["regression"]["train"].rows
    write_table(table, NUMBERS, rows.items())
    changes = {"data": [{"path": str(few / "train.kix"), "targets": str(table)}], "objective.target": "regression"}
    train("run", runs.CLASSIFY, changes, "steps=1")
    first = next(iter(rows))
    write_table(table, NUMBERS, (rows | {first: [1.0, 2.0]}).items())
    said = refused(keiko, "train", tmp_path / "run.yaml", "steps=2", code=2)
    assert "other data" in said and "--allow-change=data" in said
    write_table(table, NUMBERS, rows.items())
    keiko("train", tmp_path / "run.yaml", "steps=2")


@pytest.mark.parametrize("target, table, wanted", [
    ("regression", None, ["t.csv", "does not exist"]),
    ("regression", "path,across\nVIDEO,fast\n", ["t.csv:2", "across = fast", "not a finite number"]),
    ("regression", "path,across\nVIDEO,1e60\n", ["t.csv:2", "across = 1e60"]),
    ("regression", "across,along\n1,2\n", ["t.csv:1", "path"]),
    ("regression", "path,across\nVIDEO,1\nVIDEO,2\n", ["t.csv:3", "across", "line 2"]),
    ("regression", "path,across\n/no/such.mp4,1\n", ["none of the 1 paths", "/no/such.mp4"]),
    ("multilabel", "path,right\nVIDEO,2\n", ["t.csv:2", "right = 2", "not from 0 to 1", "regression"]),
    ("multilabel", "", ["holds no target"])])
def test_a_table_that_cannot_be_used_is_named(keiko, few, tmp_path, target, table, wanted):
    if table is not None:
        (tmp_path / "t.csv").write_text(table.replace("VIDEO", str(min(few.glob("train/*/*.mp4")))))
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.CLASSIFY, {
        "data": [{"path": str(few / "train.kix"), "targets": str(tmp_path / "t.csv")}], "objective.target": target,
        "run": str(tmp_path / "run")})
    said = refused(keiko, "train", recipe, code=2)
    assert all(part in said for part in wanted), said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_data_and_objective_must_go_together(keiko, few, tables, tmp_path):
    def said(changes):
        recipe = runs.write_recipe(tmp_path / "r.yaml", runs.CLASSIFY, {"run": str(tmp_path / "run")} | changes)
        return refused(keiko, "train", recipe, code=2)

    multilabel = {"data": data_of(few, tables, "multilabel"), "objective.target": "multilabel"}
    without = said({"data": str(few / "train.kix"), "objective.target": "multilabel"})
    assert "data.targets" in without and "multilabel" in without
    assert "num_classes = 3" in said(multilabel | {"objective.num_classes": 3})
    other = said(multilabel | {"eval": {"data": data_of(few, tables, "regression", "test")}})
    assert "other targets" in other and "across" in other and "right" in other
    assert "label_smoothing" in said(multilabel | {"objective.target": "regression", "objective.label_smoothing": 0.1})


def test_a_plan_counts_the_outputs_of_the_head(keiko, few, tables, tmp_path):
    """--dry-run, with the table and without it."""
    recipe = runs.write_recipe(tmp_path / "r.yaml", runs.CLASSIFY, {
        "data": data_of(few, tables, "multilabel"), "objective.target": "multilabel", "run": str(tmp_path / "run")})
    assert "head 292" in keiko("train", recipe, "--dry-run").stdout  # a norm of 48, and 4 rows of 48 and a bias
    absent = f"data=[{{path: {few / 'train.kix'}, targets: {tmp_path / 'absent.csv'}}}]"
    out = keiko("train", recipe, "--dry-run", absent, "objective.num_classes=4").stdout
    assert "absent.csv" in out and "num_classes" in out
