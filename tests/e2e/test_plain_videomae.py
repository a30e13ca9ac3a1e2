"""The plain PyTorch reference must itself be right before it may judge Keiko.

Truth: KEIKO_GOLDEN, what transformers 5.23 computes at float64 from random tiny models.
"""

import pytest
import torch
from safetensors.torch import load_file

import plain_videomae
from runs import scaled_difference


@pytest.fixture(scope="module", params=["videomae_pretrain_tiny", "videomae_classify_tiny"])
def case(request, golden):
    """(model with gradients of the loss, results by golden name, the golden tensors)."""
    model = plain_videomae.load(golden / request.param)
    truth = load_file(golden / request.param / "case.safetensors")
    pixels = truth["in.pixel_values"].double()
    if isinstance(model, plain_videomae.Pretraining):
        masked = truth["in.bool_masked_pos"]
        loss = model.loss(pixels, masked)
        found = {"out.last_hidden_state": model.videomae(pixels, masked), "out.logits": model(pixels, masked),
                 "mid.labels": model.targets(pixels, masked)}
    else:
        loss = model.loss(pixels, truth["in.labels"])
        found = {"out.last_hidden_state": model.videomae(pixels), "out.logits": model(pixels)}
    loss.backward()
    return model, found | {"out.loss": loss}, truth


def test_the_reference_computes_what_transformers_computes_at_float64(case):
    """Tolerance 1e-10 scaled: the golden README's float64 row."""
    _, found, truth = case
    for name, value in found.items():
        assert value.shape == truth[name].shape, name
        assert scaled_difference(value, truth[name]) < 1e-10, name


def test_the_reference_has_the_gradients_of_transformers(case):
    """Every parameter's gradient; 1e-7 scaled, because the file holds them rounded to float32."""
    model, _, truth = case
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert {f"grad.{n}" for n in gradients} == {n for n in truth if n.startswith("grad.")}
    for name, gradient in gradients.items():
        assert scaled_difference(gradient, truth[f"grad.{name}"]) < 1e-7, name


def test_the_position_table_is_rounded_to_float32_from_double(case):
    _, _, truth = case
    for name in ("mid.position_table", "mid.decoder_position_table"):
        if name in truth:
            table = truth[name][0]
            assert torch.equal(plain_videomae.position_table(*table.shape), table), name
