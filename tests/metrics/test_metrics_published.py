"""Each named protocol against loops over images and pixels, to the last digit.

Only the random numbers are shared: one ``torch.randint`` per axis and version, batch after batch.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch

from shiftproof.metrics import PROTOCOLS, consistency, protocol
from shiftproof.metrics.protocols import judged_by_label

SIZES = (5, 3, 6)
HEIGHT, WIDTH = 42, 44
SHAPE = (HEIGHT, WIDTH)
WEIGHTS = np.random.RandomState(1).randn(4, 4, 3)


def classify(images):
    """Three logits that depend on where the content is: every pixel by the cell it lies in."""
    x = images.double()
    rows, columns = (torch.arange(n) % 4 for n in x.shape[2:])
    weights = torch.from_numpy(WEIGHTS)[rows][:, columns]
    return torch.einsum("nhw,hwk->nk", x[:, 0], weights)


def slow_classes(image):
    height, width = image.shape
    logits = [0.0, 0.0, 0.0]
    for k in range(3):
        cells = [
            [image[i, j] * WEIGHTS[i % 4][j % 4][k] for j in range(width)] for i in range(height)
        ]
        logits[k] = float(np.sum(cells))
    return int(np.argmax(logits))


def rolled(image, shift):
    return np.roll(image, shift, (0, 1))


def zero_filled(image, shift):
    dy, dx = shift
    out = np.zeros_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if 0 <= i - dy < image.shape[0] and 0 <= j - dx < image.shape[1]:
                out[i, j] = image[i - dy, j - dx]
    return out


def window(image, start, margin):
    height, width = (n - margin for n in image.shape)
    return image[start[0] : start[0] + height, start[1] : start[1] + width]


def padded_window(image, shift, most):
    padded = np.zeros([n + 2 * most for n in image.shape])
    padded[most:-most, most:-most] = image
    return window(padded, [most + d for d in shift], 2 * most)


def draw(generator, ranges, count):
    """One number per axis for each of ``count`` rows."""
    axes = [torch.randint(a, b, (count,), generator=generator).tolist() for a, b in ranges]
    return list(zip(*axes, strict=True))


# What is drawn: the range per axis, one row per image or per batch; then the versions of an image.
SLOW = {
    "circular": ([(0, HEIGHT), (0, WIDTH)], 1, True, lambda x, d: [x, rolled(x, d[0])]),
    "zero-fill": ([(-32, 32)] * 2, 1, True, lambda x, d: [x, zero_filled(x, d[0])]),
    "aps-imagenet": ([(-32, 32)] * 2, 2, False, lambda x, d: [rolled(x, s) for s in d]),
    "aps-cifar-test": ([(-3, 3)] * 2, 2, False, lambda x, d: [rolled(x, s) for s in d]),
    "aps-cifar-val": ([(-3, 3)] * 2, 1, False, lambda x, d: [x, rolled(x, d[0])]),
    "aps-cifar-crop": ([(0, 6)] * 2, 2, False, lambda x, d: [padded_crop(x, s, 3) for s in d]),
    "crop": ([(0, 32)] * 2, 2, False, lambda x, d: [window(x, s, 32) for s in d]),
    "lps-crop": ([(0, 32)] * 2, 2, False, lambda x, d: [window(x, s, 32) for s in d]),
    "lps-circular": ([(-32, 32)] * 2, 2, False, lambda x, d: [rolled(x, s) for s in d]),
    "tips": ([(-16, 17)] * 2, 2, False, lambda x, d: [zero_filled(x, s) for s in d]),
    "tips-fidelity": (
        [(-16, 17)] * 2,
        2,
        False,
        lambda x, d: [x, *(zero_filled(x, s) for s in d)],
    ),
    "tips-circular": ([(-16, 17)] * 2, 2, False, lambda x, d: [rolled(x, s) for s in d]),
    "tips-circular-fidelity": (
        [(-16, 17)] * 2,
        2,
        False,
        lambda x, d: [x, *(rolled(x, s) for s in d)],
    ),
}


def padded_crop(image, start, most):
    return padded_window(image, [s - most for s in start], most)


def batches():
    source = torch.Generator().manual_seed(7)
    return [torch.randn(size, 1, HEIGHT, WIDTH, generator=source) for size in SIZES]


def slow_agreement(name, seed, views=None):
    """For each batch, whether each image gets one class, image by image."""
    ranges, count, per_image, versions = SLOW[name]
    count = views or count
    generator = torch.Generator().manual_seed(seed)
    found = []
    for batch in batches():
        rows = len(batch) if per_image else 1
        drawn = [draw(generator, ranges, rows) for _ in range(count)]
        agree = []
        for n, image in enumerate(batch[:, 0].double().numpy()):
            shifts = [rows_of[n if per_image else 0] for rows_of in drawn]
            agree.append(len({slow_classes(view) for view in versions(image, shifts)}) == 1)
        found.append(agree)
    return found


def check(result, found):
    flat = [value for batch in found for value in batch]
    assert (result.n, result.successes) == (len(flat), sum(flat))
    shares = [Fraction(sum(batch), len(batch)) for batch in found]
    assert result.batch_mean == pytest.approx(float(sum(shares) / len(shares)), abs=1e-12)


@pytest.mark.parametrize("name", SLOW)
def test_published_protocols(name):
    seen = set()
    for seed in (0, 1, 2):
        found = slow_agreement(name, seed)
        check(consistency(classify, batches(), protocol(name), seed=seed), found)
        seen |= {value for batch in found for value in batch}
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("name", "field"), [("lps-crop", "num_windows"), ("lps-circular", "num_shifted")]
)
def test_all_of_n_versions_must_agree(name, field):
    found = slow_agreement(name, 3, views=3)
    check(consistency(classify, batches(), protocol(name, **{field: 3}), seed=3), found)


def test_a_pan_against_loops():
    generator = torch.Generator().manual_seed(4)
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    found = []
    for batch in batches():
        chosen = torch.randint(8, (len(batch),), generator=generator).tolist()
        agree = []
        for n, image in enumerate(batch[:, 0].double().numpy()):
            dy, dx = around[chosen[n]]
            starts = [(4 + t * dy, 4 + t * dx) for t in range(-4, 5)]
            agree.append(len({slow_classes(window(image, s, 8)) for s in starts}) == 1)
        found.append(agree)
    check(consistency(classify, batches(), protocol("pan"), seed=4), found)


@pytest.mark.parametrize("method", ["fft", "bilinear"])
def test_fractions_of_a_pixel_against_the_operation(method):
    from shiftproof.ops import fractional_shift

    generator = torch.Generator().manual_seed(4)
    found = []
    for batch in batches():
        unit = torch.rand(len(batch), 2, generator=generator, dtype=torch.float64)
        agree = []
        for n, image in enumerate(batch):
            shift = [float(torch.tensor(2 * u - 1).float()) for u in unit[n].tolist()]
            moved = fractional_shift(image[None], shift, method)
            agree.append(
                slow_classes(image[0].double().numpy())
                == slow_classes(moved[0, 0].double().numpy())
            )
        found.append(agree)
    check(consistency(classify, batches(), protocol(f"subpixel-{method}"), seed=4), found)


def test_adversarial_takes_the_image_and_every_shift():
    chosen = protocol("adversarial", max_shift=4)
    images = torch.arange(30.0).reshape(1, 1, 5, 6)
    views = chosen.views(images, torch.Generator())
    expected = [(0, 0), *((dy, dx) for dy in (1, 2, 3) for dx in (1, 2, 3))]
    assert len(views) == len(expected)
    for view, shift in zip(views, expected, strict=True):
        assert np.array_equal(view[0, 0].numpy(), rolled(images[0, 0].numpy(), shift))
    assert len(PROTOCOLS["adversarial"].views(images, torch.Generator())) == 1 + 31**2
    assert judged_by_label(chosen)
    assert not judged_by_label(PROTOCOLS["circular"])


def test_every_named_protocol_is_checked_here():
    others = {"pan", "subpixel-fft", "subpixel-bilinear", "adversarial"}
    assert {*SLOW, *others} == set(PROTOCOLS)


def test_what_protocols_refuse():
    with pytest.raises(ValueError, match=r"zero-fill.*: max_shift must be a number"):
        protocol("zero-fill", max_shift=None)
    with pytest.raises(ValueError, match="max_shift must be above 0, got 0"):
        protocol("subpixel-fft", max_shift=0)
    with pytest.raises(ValueError, match="there must be windows to compare, got num_windows=1"):
        protocol("lps-crop", num_windows=1)
    for fields in ({"num_frames": 4}, {"num_frames": 1}, {"step": 0}):
        with pytest.raises(ValueError, match="a pan must have an odd number of frames"):
            protocol("pan", **fields)
    with pytest.raises(ValueError, match="max_shift must be at least 2, got 1"):
        protocol("adversarial", max_shift=1)
    with pytest.raises(ValueError, match="images must be larger than margin=8, got 8x9"):
        protocol("pan").views(torch.zeros(1, 1, 8, 9), torch.Generator())
