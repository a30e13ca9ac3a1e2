"""keiko bench reduce: its figures hold together, and simulate reads them."""

import json
import subprocess

import pytest

from launching import free_port


def measure(keiko_bin, keiko_env, out, ranks, *options):
    port = str(free_port())
    command = [keiko_bin, "bench", "reduce", "--steps", "3", "--threads", "1", "--json", str(out), *options]
    started = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                env=keiko_env | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                                                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}) for rank in range(ranks)]
    for process in started:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    return json.loads(out.read_text())


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_slept_steps_take_the_time_they_sleep_and_hide_what_they_can(keiko, keiko_bin, keiko_env, tmp_path, wire):
    """Sleeping leaves both cores to the reduction: it must hide. 88 MB take a fraction of 1.5 s on loopback."""
    j = measure(keiko_bin, keiko_env, tmp_path / "two.json", 2, "--compute-sleep", "0.1,1.5", "--wire", wire)
    assert j["world_size"] == 2 and j["bytes"] == sum(j["buckets"])
    numbers = j["bytes"] / (2 if wire == "bf16" else 4)
    assert 1 <= numbers / j["parameters"] < 1.001, "buffers are padded to 64 bytes, and no more"
    assert j["without_s"] == pytest.approx(1.6, abs=0.3)
    assert j["hidden"] == pytest.approx(1 - (j["with_s"] - j["without_s"]) / j["alone_s"])
    assert j["after_s"] > j["without_s"] and j["with_s"] < j["after_s"]
    told = keiko("simulate", "--costs", tmp_path / "two.json", "--ranks", "8")
    assert "8" in told.stdout


def test_one_rank_has_nothing_to_reduce(keiko_bin, keiko_env, tmp_path):
    j = measure(keiko_bin, keiko_env, tmp_path / "one.json", 1, "--compute-sleep", "0,0.2")
    assert "hidden" not in j and j["alone_s"] < 0.1 and j["with_s"] == pytest.approx(0.2, abs=0.1)


def test_computed_steps_start_buckets_early(keiko_bin, keiko_env, tmp_path):
    j = measure(keiko_bin, keiko_env, tmp_path / "two.json", 2, "--frames", "4", "--side", "32", "--batch", "1")
    assert j["started_early"] == len(j["buckets"])
