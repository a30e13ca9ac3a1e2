"""examples/my_objective, as somebody outside this repository meets it: install, build, train, resume.

The installed tree is moved before it is used, and the example is copied away from the repository, so that
nothing can lean on the source or the build tree. KEIKO_BUILD names the build tree (CMake's cache says the
rest); CXX_OPTIONS are more -D options for the example's CMake (compiler, compiler cache, linker).
"""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "my_objective"
BUILD = Path(os.environ["KEIKO_BUILD"])
SOURCE = EXAMPLE.parents[1]
CMAKE = os.environ.get("CMAKE", "cmake")
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in LAUNCHER} | {"CUDA_VISIBLE_DEVICES": ""}
SMALL = ["batch_size=8", "micro_batch_size=4", "steps=6", "optimizer.warmup_steps=2", "checkpoint.every=3",
         "checkpoint.keep=10", "eval.every=6", "eval.max_items=8", "log.every=1", "train.threads=1",
         "loader.threads=1", "objective.width=24", "objective.depth=2", "objective.heads=2"]


def call(*command, cwd=None, env=None, check=True, timeout=300):
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=ENVIRONMENT | (env or {}), text=True,
                          capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if done.returncode < 0 or (check and done.returncode != 0):
        pytest.fail(f"{' '.join(map(str, command))}\nended with {done.returncode}\n"
                    f"stdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}", pytrace=False)
    return done


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """An installed Keiko, moved after it was installed."""
    missing = [name for name in ("src/keiko", "src/libkeiko_cli.a") if not (BUILD / name).exists()]
    if missing:
        pytest.skip(f"{BUILD} IS NOT BUILT ({', '.join(missing)} missing): the installed package is not proven; "
                    "run scripts/build.sh --tests first")
    if os.environ.get("KEIKO_SANITIZE"):
        pytest.skip("KEIKO_SANITIZE IS SET: instrumented libraries need the example's flags to match; the "
                    "installed package is not proven in this build")
    folder = tmp_path_factory.mktemp("install")
    call(CMAKE, "--install", BUILD, "--prefix", folder / "here")
    (folder / "here").rename(folder / "moved")
    return folder / "moved"


@pytest.fixture(scope="session")
def built(prefix, tmp_path_factory):
    """The example's build folder."""
    work = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, work / "source")
    options = list(filter(None, os.environ.get("CXX_OPTIONS", "").split("|")))
    call(CMAKE, "-G", "Ninja", "-S", work / "source", "-B", work / "build", f"-DCMAKE_PREFIX_PATH={prefix}",
         *options)
    call(CMAKE, "--build", work / "build", "--parallel", 2, timeout=600)
    return work / "build"


@pytest.fixture(scope="session")
def mine(built, tmp_path_factory):
    """mine(*args): runs the example's program in a folder with data/{train,test}.kix and recipe.yaml."""
    folder = tmp_path_factory.mktemp("work")

    def run(*args, **options):
        return call(built / "my_keiko", *args, cwd=folder, **options)

    run.folder, run.program = folder, built / "my_keiko"
    shutil.copy(EXAMPLE / "recipe.yaml", folder)
    run("synth", "--out", "data", "--train", 32, "--test", 8, "--seed", 1)
    for split in ("train", "test"):
        if not (folder / f"data/{split}.kix").exists():
            run("index", f"data/{split}", "--out", f"data/{split}.kix")
    return run


@pytest.fixture(scope="session")
def trained(mine):
    """The run folder of six steps without a break, with checkpoints at 3 and 6."""
    mine("train", "recipe.yaml", "run=whole", *SMALL)
    return mine.folder / "whole"


def last(run):
    return run / "checkpoints" / "step-00000006"


def steps(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["grad_norm"], line["accuracy"]) for line in lines
            if line["kind"] == "train"]


def test_the_installed_tree_names_neither_the_source_nor_the_build_tree(prefix):
    files = [path for path in prefix.rglob("*") if path.is_file()]
    assert any(path.name == "KeikoTargets.cmake" for path in files) and len(files) > 30
    for path in files:
        content = path.read_bytes()
        for tree in (SOURCE, BUILD):
            assert str(tree).encode() not in content, f"{path.relative_to(prefix)} holds the path {tree}"


def test_the_examples_own_test_passes(built):
    out = call(built / "my_objective_test").stdout
    assert "LossesAndGradientsAddUpOverAnyCutOfTheBatch" in out and "[  PASSED  ]" in out


def test_it_trains_evaluates_and_shows_itself(mine, trained):
    assert [step for step, *_ in steps(trained)] == [1, 2, 3, 4, 5, 6]
    figures = json.loads(mine("eval", trained, "--json").stdout)
    assert "accuracy" in json.dumps(figures) and "chance_loss" in json.dumps(figures), figures
    mine("preview", trained, "--step", 0, "--tensors", "batch.safetensors")
    batch = load_file(mine.folder / "batch.safetensors")
    assert set(batch["0/changed"].tolist()) == {0, 1}, "of eight clips some are changed, and not all"
    mine("preview", trained, "--step", 0)
    assert list((trained / "previews").glob("*.png"))


def test_a_run_cut_short_goes_on_to_the_same_bytes(mine, trained):
    cut = mine.folder / "cut"
    shutil.copytree(trained, cut)
    (last(cut) / "COMMIT").unlink()  # as if it had been killed while it wrote the last checkpoint
    before = mine("train", "recipe.yaml", "run=cut", *SMALL).stderr
    assert "step-00000003" in before or "step 3" in before, before
    for file in ("model.safetensors", "optimizer-0-of-1.safetensors"):
        assert (last(cut) / file).read_bytes() == (last(trained) / file).read_bytes(), file
    assert steps(cut) == steps(trained)


def test_two_ranks_come_to_the_same_weights(mine, trained):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    args = [str(mine.program), "train", "recipe.yaml", "run=ranks", *SMALL]
    ranks = [subprocess.Popen(args, cwd=mine.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True,
                              env=ENVIRONMENT | {"RANK": str(r), "WORLD_SIZE": "2", "LOCAL_RANK": str(r),
                                                 "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                                                 "MASTER_PORT": str(port)}) for r in range(2)]
    for rank in ranks:
        out, _ = rank.communicate(timeout=300)
        assert rank.returncode == 0, out[-3000:]
    one, two = (load_file(last(run) / "model.safetensors") for run in (trained, mine.folder / "ranks"))
    for name in one:
        assert (one[name] - two[name]).abs().max() <= 1e-4 * one[name].abs().max() + 1e-6, name


def test_its_keys_are_checked_like_any_others(mine, prefix):
    done = mine("train", "recipe.yaml", "objective.chagne=reverse", check=False)
    assert done.returncode == 2 and "did you mean change?" in done.stderr, done.stderr
    # The installed keiko works, and does not know what it was not told.
    plain = call(prefix / "bin" / "keiko", "train", "recipe.yaml", cwd=mine.folder, check=False)
    assert plain.returncode == 2 and "arrow_of_time" in plain.stderr, plain.stderr
