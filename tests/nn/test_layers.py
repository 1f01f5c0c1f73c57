import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from maps import DTYPES, cases, distinct_map, is_circular_shift, random_map, whole_map
from shiftproof import nn, ops

EXACT = (torch.float64, torch.float32)

selectors = st.sampled_from(
    [nn.LargestNorm(1), nn.LargestNorm(2), nn.SmallestNorm(2), nn.LargestValue()]
)


def layer(name, num_dims, *args, **options):
    return getattr(nn, f"{name}{num_dims}d")(*args, **options)


def assume_no_ties(x, stride, selector):
    scores = selector(x, stride)
    assume((scores == scores.amax(1, keepdim=True)).sum() == len(scores))


@given(cases(), selectors)
def test_select_phase_moves_with_the_map(device, case, selector):
    case = case.to(device)
    assume_no_ties(case.x, case.stride, selector)
    select = layer("SelectPhase", len(case.stride), case.stride, selector)
    expected, _ = ops.shift_phase(select(case.x), case.shift, case.stride)
    assert torch.equal(select(case.moved), expected)


@given(cases(), selectors)
def test_downsampling_moves_with_the_map(device, case, selector):
    case = case.to(device)
    assume_no_ties(case.x, case.stride, selector)
    down = layer("PolyphaseDownsample", len(case.stride), case.stride, selector)
    _, steps = ops.shift_phase(down.select(case.x), case.shift, case.stride)
    assert torch.equal(down(case.moved), ops.circular_shift(down(case.x), steps))


@given(cases(dtypes=EXACT, fill=whole_map), st.integers(2, 4))
def test_filtered_downsampling_moves_with_the_map(device, case, kernel_size):
    case = case.to(device)
    num_dims = len(case.stride)
    lowpass = layer("LowPass", num_dims, kernel_size)
    down = layer("PolyphaseDownsample", num_dims, case.stride, lowpass=lowpass)
    filtered = lowpass(case.x)
    assume_no_ties(filtered, case.stride, down.select.selector)
    _, steps = ops.shift_phase(down.select(filtered), case.shift, case.stride)
    assert torch.equal(down(case.moved), ops.circular_shift(down(case.x), steps))


@given(cases(dtypes=EXACT, fill=whole_map))
def test_down_and_up_again_moves_with_the_map(device, case):
    case = case.to(device)
    num_dims = len(case.stride)
    down = layer("PolyphaseDownsample", num_dims, case.stride)
    up = layer("PolyphaseUpsample", num_dims, case.stride, layer("LowPass", num_dims, 3))
    assume_no_ties(case.x, case.stride, down.select.selector)

    def there_and_back(x):
        phase = down.select(x)
        return up(down(x, phase), phase)

    expected = ops.circular_shift(there_and_back(case.x), case.shift)
    assert torch.equal(there_and_back(case.moved), expected)


@given(cases(), selectors)
def test_alignment_moves_by_multiples_of_the_stride(device, case, selector):
    case = case.to(device)
    assume_no_ties(case.x, case.stride, selector)
    align = layer("AlignPhase", len(case.stride), case.stride, selector)
    _, steps = ops.shift_phase(align.select(case.x), case.shift, case.stride)
    expected = ops.circular_shift(align(case.x), steps * torch.tensor(case.stride, device=device))
    assert torch.equal(align(case.moved), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_pooling_behind_an_alignment_moves_with_the_map(device, kernel_size, dtype):
    pool = nn.MaxPool2d(kernel_size, 2, ((kernel_size - 1) // 2, kernel_size // 2))
    network = torch.nn.Sequential(nn.AlignPhase2d(2), pool)
    x = random_map(1, 3, 6, 10, dtype=dtype).to(device)
    for shift in [(1, 0), (0, 1), (3, -5)]:
        assert is_circular_shift(network(ops.circular_shift(x, shift)), network(x))


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "reflect"])
def test_a_pool_at_a_phase_is_an_alignment_in_front(padding_mode):
    pool = nn.MaxPool2d(3, 2, (1, 1), padding_mode)
    x, phase = random_map(2, 3, 6, 8), torch.tensor([1, 2])
    assert torch.equal(pool(x, phase), pool(ops.align_phase(x, phase, 2)))
    with pytest.raises(ValueError, match="align_phase: each spatial size must be a multiple"):
        pool(torch.zeros(2, 1, 5, 4), phase)


def strided_convolution(padding_mode):
    conv = torch.nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode=padding_mode)
    conv.weight.data = whole_map(3, 2, 3, 3, seed=1)
    return conv


def test_a_strided_convolution_behind_an_alignment_moves_with_the_map(device):
    network = torch.nn.Sequential(nn.AlignPhase2d(2), strided_convolution("circular")).to(device)
    x = whole_map(1, 2, 6, 8).to(device)
    for shift in [(1, 0), (0, 1), (3, -5)]:
        assert is_circular_shift(network(ops.circular_shift(x, shift)), network(x))


@pytest.mark.parametrize(
    "network",
    [
        nn.PolyphaseDownsample2d(2, nn.FirstPhase()),
        nn.PolyphaseDownsample2d(2, lowpass=nn.LowPass2d(3, "zeros")),
        nn.PolyphaseDownsample2d(2, lowpass=nn.LowPass2d(3, "reflect")),
        torch.nn.Sequential(nn.AlignPhase2d(2, nn.FirstPhase()), strided_convolution("circular")),
        torch.nn.Sequential(nn.AlignPhase2d(2), strided_convolution("zeros")),
        torch.nn.Sequential(nn.AlignPhase2d(2), nn.MaxPool2d(3, 2, (1, 1), "zeros")),
        nn.BlurPool2d(3, 2),
        nn.MaxPool2d(2, 2),
    ],
    ids=[
        "the first phase",
        "a filter padded by zeros",
        "a filter padded by reflection",
        "an alignment with the first phase",
        "a convolution padded by zeros",
        "a pool padded by zeros",
        "blur pooling",
        "ordinary max pooling",
    ],
)
def test_control_other_layers_do_not_move_with_the_map(device, network):
    network = copy.deepcopy(network).to(device)
    x = -distinct_map(1, 2, 6, 8, dtype=torch.float32).to(device)
    shifts = [(0, 1), (1, 0), (1, 1)]
    moved = [network(ops.circular_shift(x, shift)) for shift in shifts]
    assert not all(is_circular_shift(y, network(x)) for y in moved)


def test_tied_components_of_a_mirror_symmetric_map_move_with_it(device):
    half = distinct_map(1, 1, 4, 4).to(device)
    x, down = torch.cat([half, half.flip(3)], 3), nn.PolyphaseDownsample2d((1, 2))
    assert is_circular_shift(down(ops.circular_shift(x, (0, 1))), down(x))


@given(cases())
def test_a_given_phase_is_the_one_that_is_kept(device, case):
    case = case.to(device)
    down = layer("PolyphaseDownsample", len(case.stride), case.stride)
    up = layer("PolyphaseUpsample", len(case.stride), case.stride)
    kept = down(case.x, case.phase)
    assert torch.equal(kept, ops.take_phase(case.x, case.phase, case.stride))
    assert torch.equal(up(kept, case.phase), ops.place_phase(kept, case.phase, case.stride))


@given(cases(dtypes=EXACT, fill=whole_map), st.integers(1, 5))
def test_lowpass_moves_with_the_map(device, case, kernel_size):
    case = case.to(device)
    lowpass = layer("LowPass", len(case.stride), kernel_size)
    expected = ops.circular_shift(lowpass(case.x), case.shift)
    assert torch.equal(lowpass(case.moved), expected)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_control_lowpass_with_another_padding_does_not_move_with_the_map(padding_mode):
    x, lowpass = distinct_map(1, 1, 6, 6), nn.LowPass2d(3, padding_mode)
    assert not is_circular_shift(lowpass(ops.circular_shift(x, (1, 2))), lowpass(x))


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "reflect"])
@pytest.mark.parametrize("num_dims", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 6])
def test_blur_pooling_is_a_filter_then_a_stride(kernel_size, num_dims, padding_mode):
    x = whole_map(2, 3, *(7, 6, 2)[:num_dims], dtype=torch.float64)
    for stride in (1, 2, 3):
        filtered = layer("LowPass", num_dims, kernel_size, padding_mode)(x)
        kept = filtered[(..., *[slice(None, None, stride)] * num_dims)]
        pool = layer("BlurPool", num_dims, kernel_size, stride, padding_mode)
        assert torch.equal(pool(x), kept)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_max_pooling_moves_with_the_map(device, kernel_size):
    pool = nn.MaxPool2d(kernel_size, 1, ((kernel_size - 1) // 2, kernel_size // 2))
    x = random_map(2, 3, 5, 6).to(device)
    for shift in [(1, 0), (2, 5)]:
        assert torch.equal(pool(ops.circular_shift(x, shift)), ops.circular_shift(pool(x), shift))


def test_max_pooling_with_zeros_is_torch_s_behind_a_relu():
    x = random_map(2, 3, 5, 6).relu()
    expected = torch.nn.MaxPool2d(3, 2, 1)(x)
    assert torch.equal(nn.MaxPool2d(3, 2, (1, 1), "zeros")(x), expected)


@given(cases(dtypes=EXACT))
def test_a_sample_does_not_depend_on_its_batch(device, case):
    case = case.to(device)
    for name in ("SelectPhase", "PolyphaseDownsample", "AlignPhase"):
        module = layer(name, len(case.stride), case.stride)
        alone = torch.cat([module(sample) for sample in case.x.split(1)])
        assert torch.equal(module(case.x), alone)


def test_layers_hold_no_parameters_and_leave_no_trace_in_a_state_dict():
    block = torch.nn.Sequential(
        nn.PolyphaseDownsample2d(2, lowpass=nn.LowPass2d(3)),
        nn.BlurPool2d(3),
        nn.AlignPhase2d(2),
        nn.MaxPool2d(2),
        nn.PolyphaseUpsample2d(2, nn.LowPass2d(2)),
    )
    assert not block.state_dict()
    assert not list(block.parameters())
    kernel = block.to(torch.float64)[1].kernel
    assert kernel.dtype == torch.float64


def test_layers_do_not_share_a_selector_unless_told_to():
    first, second = nn.SelectPhase2d(), nn.SelectPhase2d()
    assert first.selector is not second.selector
    assert nn.AlignPhase2d(2, first.selector).select.selector is first.selector


def test_layers_show_their_settings():
    assert repr(nn.LowPass2d(3)) == "LowPass2d(kernel_size=3, padding_mode='circular')"
    assert "BlurPool1d(kernel_size=3, stride=(2,), padding_mode=" in repr(nn.BlurPool1d())
    assert "stride=(2, 3)" in repr(nn.AlignPhase2d((2, 3)))
    assert "padding=(0, 1), padding_mode='zeros'" in repr(nn.MaxPool2d(2, 1, (0, 1), "zeros"))
