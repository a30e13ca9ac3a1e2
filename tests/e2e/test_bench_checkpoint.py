"""keiko bench checkpoint: its figures hold together, its files are a whole checkpoint's, and nothing of them stays."""

import json
import subprocess

import pytest

from launching import free_port

SMALL = ("--frames", "4", "--side", "32", "--rounds", "2", "--threads", "1")
PARTS = ("step_ms", "copy_ms", "logs_ms", "stall_ms", "files_ms", "write_ms", "fsync_ms", "hash_ms", "commit_ms", "remove_ms",
         "verify_ms", "load_ms")


def measure(keiko_bin, keiko_env, folder, ranks, *options):
    port, out = str(free_port()), folder.parent / f"{ranks}.json"
    command = [keiko_bin, "bench", "checkpoint", *SMALL, "--dir", str(folder), "--json", str(out), *options]
    started = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                env=keiko_env | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                                                 "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                                                 "MASTER_PORT": port}) for rank in range(ranks)]
    for process in started:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    return json.loads(out.read_text())


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_parts_add_up_and_the_bytes_are_weights_and_two_moments(keiko_bin, keiko_env, tmp_path, ranks):
    folder = tmp_path / "disk"
    folder.mkdir()
    j = measure(keiko_bin, keiko_env, folder, ranks)
    assert (j["model"], j["world_size"]) == ("videomae-s", ranks)
    # Float32; headers, config.json and state.json besides. Moments are as long as padded buffers.
    assert 1 <= j["weight_bytes"] / (4 * j["parameters"]) < 1.01
    assert 1 <= (j["bytes"] - j["weight_bytes"]) / (8 * j["parameters"]) < 1.01
    for part in PARTS:
        figures = j[part]
        assert len(figures["all"]) == 2 and figures["min"] <= figures["median"] <= figures["max"], part
    for r in range(2):
        at = {part: j[part]["all"][r] for part in PARTS}
        assert at["copy_ms"] > 0 and at["write_ms"] > 0 and at["load_ms"] > 0 and at["verify_ms"] > 0
        if ranks == 1:  # with several, each part is its slowest rank's
            assert at["copy_ms"] + at["logs_ms"] + at["commit_ms"] <= at["stall_ms"] + 1e-6
            assert at["write_ms"] + at["fsync_ms"] + at["hash_ms"] >= at["files_ms"] - 1e-6
    assert j["stall_over_step"] == pytest.approx(j["stall_ms"]["median"] / j["step_ms"]["median"])
    assert j["files_mb_per_s"] == pytest.approx(j["bytes"] / 1e3 / j["files_ms"]["median"])
    assert j["load_mb_per_s"] == pytest.approx(j["bytes"] / 1e3 / (j["verify_ms"]["median"] + j["load_ms"]["median"]))
    assert j["limit"].split(":")[0].split()[0] in ("the", "write")
    assert list(folder.iterdir()) == [], "what was written is removed"


def test_a_folder_that_is_not_there_is_refused_by_name(keiko, tmp_path):
    refused = keiko("bench", "checkpoint", *SMALL, "--dir", tmp_path / "nowhere", check=False)
    assert refused.returncode == 2 and "nowhere: no such folder" in refused.stderr, refused.stderr


def test_the_table_names_what_a_run_stands_still_for(keiko, tmp_path):
    told = keiko("bench", "checkpoint", *SMALL, "--dir", tmp_path).stdout
    for words in ("it stands still for", "host copy", "fsync", "commit", "stall over step", "limit"):
        assert words in told
