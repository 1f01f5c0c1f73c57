import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from shiftproof.conversion.recalibrate import recalibrate


@pytest.fixture
def images():
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
    ).eval()


def statistics(network):
    return [
        value.clone()
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for value in (module.running_mean, module.running_var, module.num_batches_tracked)
    ]


def all_equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def measured(images):
    """What a fresh batch norm makes of one batch."""
    norm = nn.BatchNorm2d(images.shape[1], momentum=1.0)
    norm(images)
    return [norm.running_mean, norm.running_var]


def without(network, images):
    with torch.no_grad(), pytest.raises(ValueError, match="recalibrate"):
        recalibrate(network, images)


def test_one_batch_gives_its_own_statistics(network, images):
    assert recalibrate(network, [images]) is network
    found = statistics(network)
    assert all_equal(found[:2], measured(images))
    torch.testing.assert_close(found[0], images.mean((0, 2, 3)))
    torch.testing.assert_close(found[1], images.var((0, 2, 3)))
    first = nn.BatchNorm2d(3, momentum=1.0)
    assert all_equal(found[3:5], measured(network[1](first(images))))


@pytest.mark.parametrize("sizes", [[6, 6], [1, 4, 7], [11, 1]])
def test_batches_give_what_their_union_gives(network, images, sizes):
    images = images + torch.arange(12.0).view(-1, 1, 1, 1)
    expected = measured(images)
    recalibrate(network, images.split(sizes))
    torch.testing.assert_close([network[0].running_mean, network[0].running_var], expected)
    assert network[0].num_batches_tracked == len(sizes)
    # The control: averages over batches miss what the batches differ by.
    update_bn(images.split(sizes), network)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(network[0].running_var, expected[1])


def test_images_of_other_sizes_count_by_their_pixels(network, images):
    smaller = images[..., :4, :4] + 1
    recalibrate(network, [images, smaller])
    pixels = torch.cat([x.movedim(1, 0).flatten(1) for x in (images, smaller)], 1)
    torch.testing.assert_close(network[0].running_mean, pixels.mean(1))
    torch.testing.assert_close(network[0].running_var, pixels.var(1))


def test_a_layer_used_twice_sees_both(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x) + self.norm(x + 1)

    network = recalibrate(Twice(), [images])
    both = torch.cat([images, images + 1])
    torch.testing.assert_close(network.norm.running_mean, both.mean((0, 2, 3)))
    torch.testing.assert_close(network.norm.running_var, both.var((0, 2, 3)))


def test_what_was_there_before_leaves_no_trace(network, images):
    other = copy.deepcopy(network)
    network[0].running_mean.fill_(torch.nan)
    network[2].running_var.fill_(torch.inf)
    assert all_equal(
        statistics(recalibrate(network, [images])), statistics(recalibrate(other, [images]))
    )


@pytest.mark.parametrize("wrap", [lambda x: (x, torch.zeros(12)), lambda x: [x, "labels"]])
def test_labels_are_not_read(network, images, wrap):
    expected = statistics(recalibrate(copy.deepcopy(network), [images]))
    assert all_equal(statistics(recalibrate(network, [wrap(images)])), expected)


def test_no_more_batches_are_read_than_asked_for(network, images):
    read = []
    batches = (read.append(part) or part for part in images.split(4))
    recalibrate(network, batches, num_batches=2)
    assert len(read) == 2
    torch.testing.assert_close(network[0].running_mean, images[:8].mean((0, 2, 3)))


def test_empty_batches_are_passed_over(network, images):
    expected = statistics(recalibrate(copy.deepcopy(network), [images]))
    assert all_equal(statistics(recalibrate(network, [images[:0], images, images[:0]])), expected)


class Normed(nn.BatchNorm2d):
    """Like timm's: a batch norm with layers of its own inside."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop = nn.Dropout(1.0)

    def forward(self, x):
        return self.drop(super().forward(x))


def test_only_batch_norm_trains(images):
    network = nn.Sequential(nn.Dropout(1.0), Normed(3), nn.BatchNorm2d(3)).eval()
    recalibrate(network, [images])
    # With either dropout on, all would be zero.
    torch.testing.assert_close(network[1].running_mean, images.mean((0, 2, 3)))
    assert (network[2].running_var > 0.9).all()


@pytest.mark.parametrize("fails", [False, True])
def test_modes_momenta_and_hooks_are_put_back(network, images, fails):
    network.train()
    network[2].eval()
    network[0].momentum = None
    before = [module.training for module in network.modules()]
    parameters = [parameter.clone() for parameter in network.parameters()]
    if fails:
        without(network, [images, images * torch.nan])
    else:
        recalibrate(network, [images])
    assert [module.training for module in network.modules()] == before
    assert [network[0].momentum, network[2].momentum] == [None, 0.3]
    assert not any(module._forward_hooks for module in network.modules())
    assert all_equal(parameters, network.parameters())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_a_layer_that_is_not_reached_keeps_its_statistics(images):
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.head(x) if self.training else self.norm(x)

    network = Auxiliary()
    network.head.running_mean.fill_(5.0)
    before = statistics(network.head)
    recalibrate(network, [images])
    assert all_equal(statistics(network.head), before)
    assert all_equal(statistics(network.norm)[:2], measured(images))


def test_an_unchanged_reference_changes_nothing(network, images):
    network[0].running_mean.fill_(5.0)
    network[2].running_var.fill_(0.01)
    before = statistics(network)
    recalibrate(network, images.split(5), reference=copy.deepcopy(network))
    assert all_equal(statistics(network), before)
    # The control: by themselves the same images change everything.
    recalibrate(network, images.split(5))
    assert not any(torch.equal(a, b) for a, b in zip(statistics(network), before, strict=True))


def test_a_reference_leaves_the_difference(images):
    class Scaled(nn.Module):
        def __init__(self, scale, shift):
            super().__init__()
            self.norm = nn.BatchNorm2d(3, eps=1e-9)
            self.scale, self.shift = scale, shift

        def forward(self, x):
            return self.norm(self.scale * x + self.shift)

    network, reference = Scaled(2.0, 3.0), Scaled(1.0, 0.0)
    network.norm.running_var.fill_(4.0)
    network.norm.running_mean.fill_(1.0)
    before = statistics(reference)
    recalibrate(network, images.split(5), reference=reference)
    spread = images.std((0, 2, 3))
    # The mean of the images and a shift of 3, in units of a standard deviation that was 2.
    expected = 1 + 2 * (images.mean((0, 2, 3)) + 3) / spread
    torch.testing.assert_close(network.norm.running_mean, expected)
    torch.testing.assert_close(network.norm.running_var, torch.full((3,), 16.0))
    assert all_equal(statistics(reference), before)


def unreadable(images):
    yield images
    raise OSError("the disk is gone")


def test_an_error_of_the_loader_leaves_everything(network, images):
    before = statistics(network)
    with pytest.raises(OSError, match="the disk is gone"):
        recalibrate(network, unreadable(images))
    assert all_equal(statistics(network), before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pixels_must_be_finite(network, images, value):
    before = statistics(network)
    broken = images.clone()
    broken[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="pixels must be finite, got NaN or infinity in batch 1"):
        recalibrate(network, [images, broken])
    assert all_equal(statistics(network), before)


def test_activations_must_be_finite(network, images):
    before = statistics(network)
    network[1].bias.data.fill_(torch.inf)
    with pytest.raises(ValueError, match="activations must be finite, got others at 2"):
        recalibrate(network, [images])
    assert all_equal(statistics(network), before)


@pytest.mark.parametrize("batches", [[], [torch.empty(0, 3, 8, 8)]])
def test_there_must_be_an_image(network, batches):
    before = statistics(network)
    with pytest.raises(ValueError, match="must yield images that reach a batch norm, got none"):
        recalibrate(network, batches)
    assert all_equal(statistics(network), before)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.BatchNorm2d])
def test_there_must_be_running_statistics_of_batch_norm(images, norm):
    network = nn.Sequential(norm(3, track_running_stats=norm is nn.InstanceNorm2d))
    with pytest.raises(ValueError, match="the network must have a batch norm with running stat"):
        recalibrate(network, [images])


def test_a_reference_must_have_the_same_batch_norms(network, images):
    with pytest.raises(ValueError, match="must have the batch norms of the network, got 2 in one"):
        recalibrate(network, [images], reference=network[:2])
    with pytest.raises(ValueError, match="the reference must have a batch norm with running stat"):
        recalibrate(network, [images], reference=nn.ReLU())


def test_num_batches_must_be_positive(network, images):
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        recalibrate(network, [images], num_batches=0)


@pytest.mark.parametrize("batch", [{"images": 1}, "images", ()])
def test_a_loader_must_yield_images(network, batch):
    with pytest.raises(TypeError, match="must yield images, or tuples that begin with them, got"):
        recalibrate(network, [batch])


def test_compiled_networks_are_measured_too(network, images):
    expected = statistics(recalibrate(copy.deepcopy(network), [images]))
    compiled = torch.compile(network, backend="eager")
    compiled(images)
    recalibrate(compiled, [images])
    assert all_equal(statistics(network), expected)
    torch.testing.assert_close(compiled(images), network(images))
