"""The recipes in configs/published are what they say: readable, sourced, of the published sizes, trainable.

Truth: YAML's own reader for what stands in the files; the names and shapes of the published checkpoints
(KEIKO_GOLDEN/names, made from the public conversion scripts) for parameter counts.
"""

import math
import re

import pytest
import yaml
from safetensors import safe_open

import runs

FOLDER = runs.CONFIGS / "published"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TAG = re.compile(r"#.*?\[([a-z])\]")


def read(name):
    """The recipe as it is after `extends`, maps merged key by key."""

    def merge(below, above):
        for key, value in above.items():
            below[key] = merge(below.get(key, {}), value) if isinstance(value, dict) else value
        return below

    own = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    base = own.pop("extends", None)
    return merge(read(base.removesuffix(".yaml")) if base else {}, own)


def plan(keiko, *args, cwd):
    """The lines of --dry-run: {"parameters": "94,210,944 trained: ..."}; lines without a word go on with the last."""
    said, last = {}, None
    for line in keiko("train", *args, "--dry-run", cwd=cwd).stdout.splitlines():
        word, text = line[:15].strip(), line[16:]
        last = word or last
        said[last] = f"{said[last]}\n{text}" if not word else text
    return said


def trained(said):
    return int(re.match(r"([\d,]+) trained", said["parameters"])[1].replace(",", ""))


def part(said, name):
    return int(re.search(rf"\b{name} ([\d,]+)", said["parameters"])[1].replace(",", ""))


def test_there_are_recipes():
    """Guards the tests below, which would pass on an empty folder."""
    assert len(RECIPES) > 20


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_has_a_source_that_the_file_names(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    sources = set(re.findall(r"^#   \[([a-z])\] \S", text, re.M))
    for number, line in enumerate(text.splitlines(), 1):
        setting, _, comment = line.partition("#")
        value = setting.partition(":")[2] if not setting.strip().startswith("-") else setting
        if setting.startswith(("extends:", "init_from:")) or not re.search(r"(?<![\w.])\d", value):
            continue
        tag = TAG.search("#" + comment) if comment else None
        assert tag and tag[1] in sources, f"{name}.yaml:{number}: no source of this file behind {setting.strip()!r}"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned_without_its_data(keiko, tmp_path, name):
    """What is printed is what the file says,"""
    recipe = read(name)
    said = plan(keiko, FOLDER / f"{name}.yaml", cwd=tmp_path)
    assert said["data"].startswith("not found")
    assert said["objective"] == recipe["objective"]["name"]
    assert trained(said) > 1_000
    assert float(said["FLOPs a clip"].split()[0]) > 1e9
    scale = recipe["optimizer"].get("lr_scale", {}).get("linear", 0)
    peak = recipe["optimizer"]["base_lr"] * (recipe["batch_size"] / scale if scale else 1)
    assert float(said["learning rate"].split()[0]) == pytest.approx(peak, rel=1e-3)
    if "steps" in recipe:
        assert said["clips to read"].split()[0] == f"{recipe['steps'] * recipe['batch_size']:,}"
    else:
        assert said["clips to read"] == "unknown" and f"{recipe['epochs']:,}".replace(",", "") in said["steps"]
    assert not list(tmp_path.iterdir()), "a dry run left something behind"


# The published file, and what of it the recipe trains: all, or the part before the predictor.
PUBLISHED = {
    "videomae_base_k400_pretrain": "videomae-base",
    "videomae_large_k400_pretrain": "videomae-large",
    "videomae_small_k400_finetune": "videomae-small-finetuned-kinetics",
    "videomae_base_k400_finetune": "videomae-base-finetuned-kinetics",
    "videomae_huge_k400_finetune": "videomae-huge-finetuned-kinetics",
    "vjepa2_large_pretrain": "vjepa2-vitl-fpc64-256",
    "vjepa2_huge_pretrain": "vjepa2-vith-fpc64-256",
    "vjepa2_giant_pretrain": "vjepa2-vitg-fpc64-256",
    "vjepa2_large_cooldown": "vjepa2-vitl-fpc64-256",
    "vjepa2_huge_cooldown": "vjepa2-vith-fpc64-256",
    "vjepa2_giant_cooldown": "vjepa2-vitg-fpc64-256",
    "vjepa2_giant384_cooldown": "vjepa2-vitg-fpc64-384",
}


def count(file, prefixes=("",)):
    """Numbers in the tensors of a names table whose names begin so."""
    total = 0
    for line in file.read_text().splitlines():
        name, shape, _ = line.split("\t")
        if name != "name" and name.startswith(tuple(prefixes)):
            total += math.prod(map(int, shape.split(",")))
    return total


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_in_the_published_file(keiko, golden, tmp_path, name):
    said = plan(keiko, FOLDER / f"{name}.yaml", cwd=tmp_path)
    assert trained(said) == count(golden / "names" / f"{PUBLISHED[name]}.tsv")


@pytest.mark.parametrize("name, published", [("vjepa2_large_ssv2_probe", "vjepa2-vitl-fpc16-256-ssv2"),
                                             ("vjepa2_giant384_ssv2_probe", "vjepa2-vitg-fpc64-384-ssv2")])
def test_a_probe_has_the_published_encoder_and_pooler(keiko, golden, tmp_path, name, published):
    """The data would say the classes; without them a dry run counts one: width + 1 numbers a head and class."""
    file = golden / "names" / f"{published}.tsv"
    said = plan(keiko, FOLDER / f"{name}.yaml", cwd=tmp_path)
    assert part(said, "encoder") == count(file, ["vjepa2.encoder."])
    width = {"large": 1024, "giant": 1408}[read(name)["objective"]["model"]]
    assert trained(said) == 20 * (count(file, ["pooler."]) + width + 1)


def shrunk(recipe, data, run):
    """Overrides that leave a recipe's kind alone and make it two steps on 32 pixels."""
    objective = recipe["objective"]
    batch = 2 * recipe.get("augment", {}).get("repeats", 1)  # two videos: mixup partners
    changes = {
        "data": data, "init_from": '""', "run": run, "clip.num_frames": 4, "clip.size": 32,
        "clip.sampling_rate": 1, "objective.model": "custom", "objective.width": 24, "objective.depth": 2,
        "objective.heads": 2, "objective.patch_size": 8, "batch_size": batch, "micro_batch_size": batch,
        "steps": 2, "precision": "fp32", "train.threads": 1, "loader.threads": 1, "log.every": 1}
    if objective["name"] == "videomae":
        changes |= {"objective.decoder_width": 16, "objective.decoder_heads": 2, "objective.decoder_depth": 1}
    if objective["name"] == "vjepa2":
        changes |= {"objective.predictor_width": 24, "objective.predictor_heads": 2, "objective.predictor_depth": 1}
    if objective.get("pooling") == "attentive":
        changes |= {"objective.pooler_heads": 2, "objective.pooler_depth": 1}
    if recipe["optimizer"].get("warmup_epochs"):
        changes["optimizer.warmup_epochs"] = 0.001
    elif recipe["optimizer"].get("warmup_steps"):
        changes["optimizer.warmup_steps"] = 1
    if "eval" in recipe:
        changes |= {"eval.data": data, "eval.max_items": 2}
    return [f"{key}={value}" for key, value in changes.items()]


@pytest.mark.parametrize("name", RECIPES)
def test_a_shrunk_one_trains_two_steps(keiko, few, tmp_path, name):
    """And a dry run of the same counts the numbers that the checkpoint then holds."""
    recipe = read(name)
    run = tmp_path / "run"
    overrides = shrunk(recipe, few / "train.kix", run)
    said = plan(keiko, FOLDER / f"{name}.yaml", *overrides, cwd=tmp_path)
    keiko("train", FOLDER / f"{name}.yaml", *overrides, cwd=tmp_path)
    lines = runs.metrics(run)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["loss"] > 0 and line["loss"] < 100 for line in lines), lines
    assert ("eval" in recipe) == bool(runs.metrics(run, "eval"))
    with safe_open(runs.checkpoint(run) / "model.safetensors", "pt") as file:
        numbers = sum(math.prod(file.get_slice(tensor).get_shape()) for tensor in file.keys()
                      if not tensor.startswith("probe."))  # statistics of the data, not weights
    frozen = part(said, "encoder") if recipe["objective"]["name"] == "probe" else 0
    assert trained(said) + frozen == numbers


def test_every_recipe_is_in_the_table_of_published_ones():
    text = (runs.CONFIGS.parent / "docs" / "published.md").read_text()
    missing = [name for name in RECIPES if f"`{name}`" not in text]
    assert not missing, f"docs/published.md does not name {missing}"
