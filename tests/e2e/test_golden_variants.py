"""The models against transformers on shapes that the ready-made fixtures do not have.

golden_variants.json describes them: clips that are not square, other frame counts and tubelets, no
attention biases, odd MLP widths, no mean pooling, shuffled and overlapping masks. KEIKO_GOLDEN's own
make_golden.py makes the fixtures with transformers; the golden tests then walk them as any other.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_variants_give_what_transformers_gives(keiko_bin, keiko_env, tmp_path):
    golden = os.environ.get("KEIKO_GOLDEN")
    if not golden:
        pytest.skip("KEIKO_GOLDEN is not set: shapes beyond the fixtures are NOT tested")
    maker = Path(golden) / "make_golden.py"
    if not maker.exists():
        pytest.skip(f"{maker} is not there: shapes beyond the fixtures are NOT tested")
    model_test = Path(keiko_bin).parent / "model_test"
    if not model_test.exists():
        pytest.skip(f"{model_test} is not built: shapes beyond the fixtures are NOT tested")
    variants = Path(__file__).parent / "golden_variants.json"
    subprocess.run([sys.executable, "-B", maker, "--out", tmp_path, "--preset", variants], check=True,
                   capture_output=True, timeout=900, env=keiko_env | {"HF_HUB_OFFLINE": "1"})
    done = subprocess.run([model_test, "--gtest_filter=Golden.EveryFixture*:Golden.BothSpellings*"],
                          capture_output=True, text=True, env=keiko_env | {"KEIKO_GOLDEN": str(tmp_path)},
                          timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]
    for name in ("pretrain_nonsquare", "classify_token0", "vjepa2_shuffled", "vjepa2_classify_more"):
        assert name in done.stdout, f"{name} was not checked:\n{done.stdout[-2000:]}"
    assert "SKIPPED" not in done.stdout, done.stdout[-2000:]
