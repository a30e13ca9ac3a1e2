"""`keiko simulate`, and what bench/scale_check.py makes of figures.

Truth: small cases worked out by hand. Whether the model is right about real ranks is scale_check.py's question.
"""

import importlib.util
import json
import re
import subprocess
import xml.dom.minidom
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "configs" / "scale" / "example_costs.json"
COSTS = {"ranks_per_node": 1, "clips_per_rank": 4, "forward_s": 1, "backward_s": 2, "optimizer_s": 0.5,
         "bucket_bytes": [50e6, 50e6], "link_bytes_per_s": 100e6, "collective": "ring", "scalar_bytes": 0}


@pytest.fixture
def simulate(keiko, tmp_path):
    """simulate(costs, *options): the JSON that the command gives for these costs."""

    def run(costs, *options):
        path = tmp_path / "costs.json"
        path.write_text(json.dumps(costs))
        return json.loads(keiko("simulate", "--costs", path, "--json", "-", *options).stdout)

    return run


def test_a_step_worked_out_by_hand(simulate):
    """Two ranks, two buckets of 0.5 s, filled 1 s apart: the second one shows."""
    told = simulate(COSTS, "--ranks", "1,2")
    one, two = told["predictions"]
    assert (one["ranks"], two["ranks"], two["nodes"]) == (1, 2, 2)
    assert one["step_s"] == pytest.approx(3.5)
    assert two["step_s"] == pytest.approx(4.0) and two["without_s"] == pytest.approx(3.5)
    assert two["alone_s"] == pytest.approx(1.0) and two["hidden"] == pytest.approx(0.5)
    assert two["efficiency"] == pytest.approx(3.5 / 4) and two["clips_per_s"] == pytest.approx(8 / 4)
    assert told["costs"]["link_bytes_per_s"] == 100e6 and told["costs"]["bucket_bytes"] == [50e6, 50e6]


def test_settings_win_over_files_and_later_files_over_earlier_ones(keiko, simulate, tmp_path):
    assert simulate(COSTS, "--ranks", "1", "--set", "forward_s=2")["predictions"][0]["step_s"] == pytest.approx(4.5)
    for name, seconds in (("a", 5), ("b", 6)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"forward_s": seconds}))
    told = json.loads(keiko("simulate", "--costs", tmp_path / "a.json", "--costs", tmp_path / "b.json", "--ranks", 1,
                            "--json", "-").stdout)
    assert told["costs"]["forward_s"] == 6 and told["sources"]["forward_s"] == str(tmp_path / "b.json")


def test_the_same_costs_give_the_same_figures(simulate):
    costs = COSTS | {"jitter": 0.1, "node_mtbf_s": 1e6, "restart_s": 300, "checkpoint_bytes": 1e9,
                     "host_copy_bytes_per_s": 1e9}
    assert simulate(costs) == simulate(costs)


def test_an_unknown_cost_is_answered_with_its_line_and_the_nearest(keiko, tmp_path):
    path = tmp_path / "costs.json"
    path.write_text('{\n  "forward_s": 1,\n  "link_latncy_s": 1e-5\n}\n')
    done = keiko("simulate", "--costs", path, check=False)
    assert done.returncode == 2
    assert f"{path}:3: link_latncy_s is not a cost; did you mean link_latency_s?" in done.stderr
    path.write_text('{"forward_s": "soon"}')
    done = keiko("simulate", "--costs", path, check=False)
    assert done.returncode == 2 and "soon" in done.stderr
    path.write_text('{"forward_s": 1')
    assert keiko("simulate", "--costs", path, check=False).returncode == 2


def test_figures_of_bench_step_and_bench_reduce_are_costs(keiko, tmp_path):
    step, reduce = tmp_path / "step.json", tmp_path / "reduce.json"
    step.write_text(json.dumps({
        "model": "videomae-s", "batch": 4, "parameters": 1000, "step_s": {"median": 3.6, "all": [3.5, 3.7]},
        "parts_s": {"zero_grad": 0.1, "forward": 1, "backward": 2, "norm": 0.2, "optimizer": 0.3}}))
    reduce.write_text(json.dumps({"world_size": 2, "buckets": [3000, 1000], "bytes": 4000, "alone_s": 0.5, "with_s": 4,
                                  "without_s": 3.6, "hidden": 0.2}))
    told = json.loads(keiko("simulate", "--costs", step, "--costs", reduce, "--ranks", 1, "--json", "-").stdout)
    costs = told["costs"]
    assert (costs["forward_s"], costs["backward_s"], costs["clips_per_rank"]) == (1, 2, 4)
    assert costs["optimizer_s"] == pytest.approx(0.6)
    assert (costs["gradient_bytes"], costs["checkpoint_sharded_bytes"]) == (4000, 8000)
    assert costs["bucket_bytes"] == [3000, 1000]
    text = keiko("simulate", "--costs", step, "--costs", reduce, "--ranks", 1).stdout
    assert "2 ranks" in text and "measured" in text and "modelled" in text


def test_the_example_is_simulated_up_to_16384_ranks_and_names_its_sources(keiko, tmp_path):
    done = keiko("simulate", "--costs", EXAMPLE, "--json", tmp_path / "x.json", "--plot", tmp_path / "x.svg", timeout=120)
    told = json.loads((tmp_path / "x.json").read_text())
    assert [p["ranks"] for p in told["predictions"]] == [8, 64, 512, 4096, 16384]
    assert "16,384" in done.stdout and "Young" in done.stdout
    example = json.loads(EXAMPLE.read_text())
    assert set(example["sources"]) == set(example) - {"about", "sources"}, "each number has its source"
    for p in told["predictions"]:
        assert 0 <= p["goodput"] <= 1 and p["best_from"] <= p["best_every"] <= p["best_to"]
        assert p["goodput"] + p["stall_share"] + p["lost_share"] + p["down_share"] == pytest.approx(1)
    plots = [path.read_text() for path in (tmp_path / "x.svg", ROOT / "docs" / "scale.svg")]
    xml.dom.minidom.parseString(plots[0])
    drawn, shown = ([float(n) for n in re.findall(r"\d+\.?\d*", plot)] for plot in plots)
    assert drawn == pytest.approx(shown, abs=1), "docs/scale.svg is not what the example gives; draw it again"


@pytest.fixture(scope="module")
def scale_check():
    spec = importlib.util.spec_from_file_location("scale_check", ROOT / "bench" / "scale_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(ranks, rate_mbit, alone_s):
    return {"ranks": ranks, "rate_mbit": rate_mbit, "latency_s": 1e-4,
            "figures": {"without_s": 2.01, "alone_s": alone_s, "buckets": [6e6, 4e6]}}


def test_a_calibration_finds_what_its_figures_were_made_of(scale_check):
    """10 MB at 0.9 of the rate, and 20 ms for two collectives; 200 MB/s without limit."""
    runs = [figures(1, None, 0)] + [figures(2, rate, 0.02 + 10e6 / (0.9 * rate * 125e3)) for rate in (100, 400)]
    runs.append(figures(2, None, 0.02 + 10e6 / 200e6))
    found = scale_check.fit(runs, [0.5, 1.5])
    assert found["share"] == pytest.approx(0.9) and found["most_bytes_per_s"] == pytest.approx(200e6)
    assert found["costs"]["collective_overhead_s"] == pytest.approx(0.01)
    assert found["costs"]["optimizer_s"] == pytest.approx(0.01)
    # Noise must not give more of a rate than TCP's headers leave.
    runs = [figures(1, None, 0), figures(2, 100, 0.8), figures(2, 400, 0.5)]
    assert scale_check.fit(runs, [0.5, 1.5])["share"] == pytest.approx(1448 / 1514)


def test_a_prediction_too_far_off_is_told(scale_check):
    predictions = [{"ranks": 3, "rate_mbit": 100, "step_s": 2.2, "alone_s": 1.0, "hidden": 0.8}]
    runs = [{"figures": {"with_s": 2.0, "alone_s": 1.0, "hidden": 0.9}}]
    rows, worst = scale_check.compare(predictions, runs)
    assert worst == pytest.approx(0.1) and "| 3 | 100 | with_s | 2.200 s | 2.000 s | +10.0% |" in rows


def test_predictions_that_git_does_not_hold_are_not_measured(scale_check, tmp_path):
    git = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    path = tmp_path / "predictions.json"
    path.write_text("[]")
    with pytest.raises(SystemExit, match="not committed"):
        scale_check.committed(path)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "Predict"], check=True)
    assert len(scale_check.committed(path)) == 40
    path.write_text("[1]")
    with pytest.raises(SystemExit, match="not committed"):
        scale_check.committed(path)
