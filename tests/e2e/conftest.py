"""Drives the keiko binary from outside, as a user or a job scheduler does.

KEIKO_BIN names the binary (required), KEIKO_TEST_MEDIA a folder with real/ and edge/ videos,
KEIKO_GOLDEN the transformers fixtures. What needs an absent one is skipped, and says so at the end.
Nothing here imports Keiko: the truth is the ffmpeg command line, plain PyTorch, TensorBoard's
reader and transformers.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import runs

# A test must not see the job it runs in: a launcher's variables would make every keiko a rank.
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "OMPI_", "PMIX_", "SLURM_", "GLOO_")


def pytest_configure(config):
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"  # a skipped test is always listed with its reason


@pytest.fixture(scope="session")
def keiko_bin():
    """Absolute path of the binary under test."""
    path = os.environ.get("KEIKO_BIN")
    if not path or not os.access(path, os.X_OK):
        pytest.fail(f"KEIKO_BIN = {path!r} is not an executable; set it to the keiko binary", pytrace=False)
    return str(Path(path).resolve())


@pytest.fixture(scope="session")
def keiko_env():
    """The environment every keiko gets: no launcher, no GPU (bit-exactness is promised on the CPU)."""
    env = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES and not k.startswith(LAUNCHER_PREFIXES)}
    return env | {"CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="session")
def keiko(keiko_bin, keiko_env):
    """keiko(*args): runs the binary and returns its CompletedProcess (text).

    With check=True (the default) any exit code but 0 fails the test with what the binary said. A
    death by signal fails it always: bad input may be refused, never crashed on.
    """

    def run(*args, check=True, env=None, cwd=None, timeout=240):
        command = [keiko_bin, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout,
                              stdin=subprocess.DEVNULL, cwd=cwd, env=keiko_env | (env or {}))
        if done.returncode < 0 or (check and done.returncode != 0):
            pytest.fail(f"{' '.join(command)}\nended with {done.returncode}\n"
                        f"stdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}", pytrace=False)
        return done

    return run


def synthesise(keiko, folder, train, test):
    keiko("synth", "--task", "drift", "--out", folder, "--train", train, "--test", test, "--seed", 1)
    for split in ("train", "test"):
        if not (folder / f"{split}.kix").exists():
            keiko("index", folder / split, "--out", folder / f"{split}.kix")
    return folder


@pytest.fixture(scope="session")
def drift(keiko, tmp_path_factory):
    """256 training and 64 test clips of the embedded data set: DIR/{train,test}/CLASS/*.mp4, DIR/{train,test}.kix."""
    return synthesise(keiko, tmp_path_factory.mktemp("drift"), 256, 64)


@pytest.fixture(scope="session")
def few(keiko, tmp_path_factory):
    """The same with 16 and 8 clips, for tests that look at every file."""
    return synthesise(keiko, tmp_path_factory.mktemp("few"), 16, 8)


@pytest.fixture
def train(keiko, tmp_path):
    """train(name, base, changes, *overrides): writes NAME.yaml (run folder NAME), trains, returns the run folder."""

    def start(name, base, changes=None, *overrides, check=True, env=None):
        recipe = runs.write_recipe(tmp_path / f"{name}.yaml", base, {"run": str(tmp_path / name)} | (changes or {}))
        keiko("train", recipe, *overrides, check=check, env=env)
        return tmp_path / name

    return start


@pytest.fixture(scope="session")
def media():
    """The folder of test videos."""
    path = os.environ.get("KEIKO_TEST_MEDIA")
    if not path:
        pytest.skip("KEIKO_TEST_MEDIA IS NOT SET: nothing is proven on real videos in this run")
    return Path(path)


@pytest.fixture(scope="session")
def golden():
    """The folder of transformers' numbers."""
    path = os.environ.get("KEIKO_GOLDEN")
    if not path:
        pytest.skip("KEIKO_GOLDEN IS NOT SET: the plain PyTorch reference is not proven in this run")
    return Path(path)


@pytest.fixture(scope="session", autouse=True)
def ffmpeg():
    """Path of the ffmpeg command line."""
    path = shutil.which("ffmpeg")
    if not path:
        pytest.fail("the ffmpeg command line is missing; install the package ffmpeg", pytrace=False)
    return path
