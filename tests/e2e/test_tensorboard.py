"""TensorBoard shows what metrics.jsonl says.

Truth: TensorBoard's own reader, EventAccumulator.
"""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import runs


def curves(run):
    """{tag: {step: value}} of all scalars in the run's tensorboard folder."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        found[tag] = [(e.step, make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        found[tag] = [(step, value.item()) for step, value in found[tag] if value.ndim == 0]
    for tag, points in found.items():
        assert len({step for step, _ in points}) == len(points), f"{tag} has a step twice"
    return {tag: dict(points) for tag, points in found.items()}


@pytest.fixture
def run(drift, train):
    """A classification run of 3 and then 3 more steps, so that two processes wrote events."""
    changes = {"data": str(drift / "train.kix"), "steps": 6, "eval": {"every": 3, "data": str(drift / "test.kix")}}
    train("run", runs.CLASSIFY, changes, "steps=3")
    return train("run", runs.CLASSIFY, changes)


def assert_same_curve(curve, lines, field):
    assert curve == {line["step"]: np.float32(line[field]) for line in lines}


def test_tensorboard_reads_the_values_of_metrics_jsonl(run):
    """Equal to the last bit of float32, the precision of a TensorBoard scalar."""
    found = curves(run)
    assert len(runs.metrics(run)) == 6
    for field in ("loss", "lr", "grad_norm"):
        assert f"train/{field}" in found, f"tags: {sorted(found)}"
        assert_same_curve(found[f"train/{field}"], runs.metrics(run), field)


def test_tensorboard_reads_the_evaluations(run):
    found = curves(run)
    assert [line["step"] for line in runs.metrics(run, "eval")] == [3, 6]
    for field in ("loss", "top1"):
        assert f"eval/{field}" in found, f"tags: {sorted(found)}"
        assert_same_curve(found[f"eval/{field}"], runs.metrics(run, "eval"), field)
