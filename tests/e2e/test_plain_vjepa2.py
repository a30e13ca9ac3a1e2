"""The plain PyTorch reference must itself be right before it may judge Keiko.

Truth: KEIKO_GOLDEN, what transformers 5.23 computes at float64 from random tiny models.
"""

import pytest
import torch
from safetensors.torch import load_file

import plain_vjepa2
from runs import scaled_difference


def differences(found, truth):
    assert found.shape == truth.shape
    return scaled_difference(found.detach(), truth)


@pytest.fixture(scope="module")
def pretraining(golden):
    """(model, teacher of the same weights, golden tensors)."""
    folder = golden / "vjepa2_tiny"
    model = plain_vjepa2.load(folder)
    return model, plain_vjepa2.load(folder).encoder, load_file(folder / "case.safetensors")


@pytest.fixture(scope="module")
def classifier(golden):
    folder = golden / "vjepa2_classify_tiny"
    return plain_vjepa2.load(folder), load_file(folder / "case.safetensors")


def assert_gradients(model, truth, prefix):
    """1e-7 scaled, because the file holds them rounded to float32; what is zero in exact arithmetic (a key
    bias without positions) absolutely."""
    gradients = {f"{prefix}{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == {n for n in truth if n.startswith(prefix)}
    for name, gradient in gradients.items():
        if truth[name].abs().max() < 1e-14:
            assert gradient.abs().max() < 1e-14, name
        else:
            assert differences(gradient, truth[name]) < 1e-7, name


def test_a_training_step_is_the_one_of_transformers_modules(pretraining):
    """Tokens dropped after the patch embedding, the target from the whole clip. Tolerance 1e-10 scaled."""
    model, teacher, truth = pretraining
    pixels = truth["in.pixel_values_videos"].double()
    context, target = truth["in.context_mask"], truth["in.target_mask"]
    found = {"out.last_hidden_state": model.encoder(pixels), "train.context_hidden_state": model.encoder(pixels, context),
             "train.predictor.last_hidden_state": model.said(pixels, context, target)[0],
             "train.loss": model.loss(teacher, pixels, [(context, target)]),
             "long.last_hidden_state": model.encoder(truth["in.long_clip"].double())}
    for name, value in found.items():
        assert differences(value, truth[name]) < 1e-10, name
    model.zero_grad()
    found["train.loss"].backward()
    assert_gradients(model, truth, "train.grad.")


@pytest.mark.parametrize("name, interleaved", [("rope.output", False), ("rope.output_interleaved", True)])
def test_positions_turn_queries_and_keys_as_published(pretraining, name, interleaved):
    model, _, truth = pretraining
    places = model.encoder.places(torch.arange(64)[None])
    assert differences(plain_vjepa2.rotate(truth["rope.input"].double(), places, interleaved), truth[name]) < 1e-10


def test_the_classifier_is_the_one_of_transformers(classifier):
    model, truth = classifier
    pixels = truth["in.pixel_values_videos"].double()
    tokens = model.vjepa2.encoder(pixels)
    found = {"out.last_hidden_state": tokens, "mid.pooled": model.pooler(tokens), "out.logits": model(pixels),
             "out.loss": model.loss(pixels, truth["in.labels"])}
    for name, value in found.items():
        assert differences(value, truth[name]) < 1e-10, name
    found["out.loss"].backward()
    assert_gradients(model, truth, "grad.")


def test_the_distance_of_a_context_token_is_the_one_to_the_nearest_target(pretraining):
    """Worked by hand on the 4 x 4 x 4 grid: tokens 0 (0,0,0), 21 (1,1,1), 63 (3,3,3) to 22 (1,1,2) and 3 (0,0,3)."""
    model, _, _ = pretraining
    found = model.distances(torch.tensor([[0, 21, 63]]), torch.tensor([[22, 3]]))
    assert torch.allclose(found, torch.tensor([[6.0, 1.0, 9.0]], dtype=torch.float64).sqrt(), atol=0, rtol=1e-15)
