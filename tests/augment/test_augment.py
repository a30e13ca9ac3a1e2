"""Every augmentation step gives what Pillow gives: bit for bit, and within a level where it interpolates.

AUGMENT_FRAMES names the program that runs the steps on raw frames. Nothing here imports Keiko: the truth
is Pillow with the few lines that timm and torchvision wrap around it.
"""

import os
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

FRAMES = 3
FILL = (128, 128, 128)


def pictures(size):
    """[3, FRAMES, size, size] of three kinds: noise, a smooth ramp with few values, a dark blurred one."""
    rng = np.random.default_rng(size)
    noise = rng.integers(0, 256, (size, size, 3))
    y, x = np.mgrid[:size, :size]
    ramp = np.stack([40 + x * 150 // size, y * 255 // size, (x + y) // 2 % 7 * 30], axis=2)
    soft = Image.fromarray(rng.integers(0, 90, (size, size, 3)).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
    frames = np.stack([noise, ramp, np.asarray(soft)]).astype(np.uint8)
    return frames, [Image.fromarray(f) for f in frames]


def run(frames, size, *steps):
    planes = np.ascontiguousarray(frames.transpose(3, 0, 1, 2))
    done = subprocess.run([os.environ["AUGMENT_FRAMES"], str(len(frames)), str(size), *steps], input=planes.tobytes(),
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.uint8).reshape(3, len(frames), size, size).transpose(1, 2, 3, 0)


def solarize_add(image, add):
    return image.point([min(255, i + add) if i < 128 else i for i in range(256)] * 3)


def hue(image, factor):
    """torchvision's adjust_hue for pictures of Pillow."""
    h, s, v = image.convert("HSV").split()
    turned = np.asarray(h, np.uint8) + np.array(int(factor * 255) % 256, np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), s, v)).convert("RGB")


EXACT = {
    "AutoContrast": (lambda i, a: ImageOps.autocontrast(i), [0]),
    "Equalize": (lambda i, a: ImageOps.equalize(i), [0]),
    "Invert": (lambda i, a: ImageOps.invert(i), [0]),
    "Posterize": (ImageOps.posterize, [1, 2, 3, 4, 8]),
    "Solarize": (ImageOps.solarize, [0, 1, 77, 128, 255, 256]),
    "SolarizeAdd": (solarize_add, [0, 33, 77, 110, 200]),
    "Color": (lambda i, a: ImageEnhance.Color(i).enhance(a), [0, 0.1, 0.37, 1, 1.63, 1.9]),
    "Contrast": (lambda i, a: ImageEnhance.Contrast(i).enhance(a), [0, 0.1, 0.37, 1, 1.63, 1.9]),
    "Brightness": (lambda i, a: ImageEnhance.Brightness(i).enhance(a), [0, 0.1, 0.37, 1, 1.63, 1.9]),
    "Sharpness": (lambda i, a: ImageEnhance.Sharpness(i).enhance(a), [0, 0.1, 0.37, 1, 1.63, 1.9]),
    "Hue": (hue, [-0.5, -0.21, -0.004, 0, 0.1, 0.37, 0.5]),
}


@pytest.mark.parametrize("size", [8, 63, 224])
@pytest.mark.parametrize("name", EXACT)
def test_an_integer_step_equals_pillow_bit_for_bit(name, size):
    frames, images = pictures(size)
    reference, arguments = EXACT[name]
    for argument in arguments:
        ours = run(frames, size, f"{name}={argument!r}")
        for t, image in enumerate(images):
            theirs = np.asarray(reference(image, argument))
            bad = np.argwhere(ours[t] != theirs)
            assert len(bad) == 0, (f"{name} {argument}, picture {t}: {len(bad)} values differ, the first at {bad[0]}: "
                                   f"{ours[t][tuple(bad[0])]} here, {theirs[tuple(bad[0])]} in Pillow")


def transform(coefficients):
    return lambda i, a, r: i.transform(i.size, Image.Transform.AFFINE, coefficients(a, i.size[0]), resample=r,
                                       fillcolor=FILL)


AFFINE = {
    "Rotate": (lambda i, a, r: i.rotate(a, resample=r, fillcolor=FILL), [-30, -21.3, -0.4, 0, 7.77, 30]),
    "ShearX": (transform(lambda a, n: (1, a, 0, 0, 1, 0)), [-0.3, -0.213, 0.05, 0.3]),
    "ShearY": (transform(lambda a, n: (1, 0, 0, a, 1, 0)), [-0.3, -0.213, 0.05, 0.3]),
    "TranslateXRel": (transform(lambda a, n: (1, 0, a * n, 0, 1, 0)), [-0.45, -0.311, 0.01, 0.25, 0.45]),
    "TranslateYRel": (transform(lambda a, n: (1, 0, 0, 0, 1, a * n)), [-0.45, -0.311, 0.01, 0.25, 0.45]),
}


@pytest.mark.parametrize("size", [8, 63, 224])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_step_is_within_a_level_of_pillow(name, filter, size):
    frames, images = pictures(size)
    reference, arguments = AFFINE[name]
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[filter]
    for argument in arguments:
        ours = run(frames, size, f"{name}={argument!r}", *(["bicubic"] if filter == "bicubic" else []))
        for t, image in enumerate(images):
            theirs = np.asarray(reference(image, argument, resample)).astype(int)
            off = np.abs(ours[t] - theirs)
            worst = np.unravel_index(off.argmax(), off.shape)
            assert off.max() <= 1, (f"{name} {argument} {filter}, picture {t} at {worst}: {ours[t][worst]} here, "
                                    f"{theirs[worst]} in Pillow; {(off > 1).sum()} values")
            assert (off > 0).mean() < 0.15, f"{name} {argument} {filter}, picture {t}: {(off > 0).mean():.3f} differ"


def test_posterize_to_no_bits_is_black():
    """As Pillow before 13, which refuses it; timm's highest magnitude asks for it."""
    frames, _ = pictures(63)
    assert (run(frames, 63, "Posterize=0") == 0).all()


def test_steps_are_done_in_order():
    frames, images = pictures(63)
    ours = run(frames, 63, "Contrast=1.5", "Posterize=3", "Equalize=0", "Sharpness=0.3")
    for t, image in enumerate(images):
        image = ImageOps.equalize(ImageOps.posterize(ImageEnhance.Contrast(image).enhance(1.5), 3))
        assert np.array_equal(ours[t], np.asarray(ImageEnhance.Sharpness(image).enhance(0.3))), f"picture {t}"


def test_no_steps_leave_every_byte():
    frames, _ = pictures(63)
    assert np.array_equal(run(frames, 63), frames)


def test_an_erased_box_holds_imagenet_normalised_noise_and_nothing_else_changes():
    size, frames = 224, np.full((4, 224, 224, 3), 7, np.uint8)
    ours = run(frames, size, "erase=20,30,150,100,99")
    inside = np.zeros((size, size), bool)
    inside[30:130, 20:170] = True
    assert (ours[:, ~inside] == 7).all()
    noise = ours[:, inside].astype(float)  # [4, 15000, 3]
    for c, (mean, spread) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        # What N(0, 1) gives after the same rounding and clamping.
        truth = np.random.default_rng(1).standard_normal(4_000_000)
        truth = np.clip(np.floor(255 * (mean + spread * truth) + 0.5), 0, 255)
        n = noise[..., c].size
        assert abs(noise[..., c].mean() - truth.mean()) < 5 * truth.std() / n**0.5
        assert abs(noise[..., c].std() / truth.std() - 1) < 5 / n**0.5
        # Kolmogorov's distance, 0.1% level.
        ours_cdf, true_cdf = (np.bincount(v.astype(int).ravel(), minlength=256).cumsum() / v.size
                              for v in (noise[..., c], truth))
        assert np.abs(ours_cdf - true_cdf).max() < 1.95 / n**0.5 + 0.001
    # Channels, frames and neighbours do not repeat each other.
    for a, b in [(noise[0, :, 0], noise[0, :, 1]), (noise[0, :, 0], noise[1, :, 0]),
                 (noise[0, :-1, 0], noise[0, 1:, 0])]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / a.size**0.5
