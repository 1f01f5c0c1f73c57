"""Fitting batch norm to a network that has changed, from images without labels."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_Model = TypeVar("_Model", bound=nn.Module)


def _running(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


class _Pool:
    """Mean and variance of all that one batch norm has seen, as a forward hook of it.

    With a momentum of 1, a call leaves the statistics of its batch as the running ones.  They are
    merged on the CPU in float64, which some devices lack: so one batch comes out as it went in.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm = norm
        self.calls = self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def __call__(self, norm: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        mean, variance = (values.cpu().double() for values in _running(self.norm))
        count = output.numel() // len(mean)
        total = self.count + count
        difference = mean - self.mean
        self.mean = self.mean + difference * (count / total)
        between = difference.square() * (self.count * count / total)
        self.squares = self.squares + variance * (count - 1) + between
        self.count = total
        self.calls += 1

    @property
    def variance(self) -> Tensor:
        """Unbiased, as batch norm keeps it."""
        return self.squares / (self.count - 1)

    def write(self, reference: "_Pool | None") -> None:
        """Make what was seen, or its difference from what the reference saw, the statistics."""
        mean, variance = _running(self.norm)
        if reference is None:
            mean.copy_(self.mean)
            variance.copy_(self.variance)
            assert self.norm.num_batches_tracked is not None
            self.norm.num_batches_tracked.fill_(self.calls)
            return
        before, trained, eps = reference.variance, variance.cpu().double(), self.norm.eps
        moved = (self.mean - reference.mean) * ((trained + eps) / (before + eps)).sqrt()
        mean.copy_(mean.cpu().double() + moved)
        variance.copy_(trained * ((self.variance + eps) / (before + eps)))


def _pools(model: nn.Module, role: str) -> dict[str, _Pool]:
    pools = {
        name: _Pool(module)
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
    if not pools:
        raise ValueError(
            f"recalibrate: the {role} must have a batch norm with running statistics, got "
            f"{type(model).__name__} without; a network without needs no recalibration"
        )
    return pools


@contextlib.contextmanager
def _pooling(model: nn.Module, pools: Iterable[_Pool]) -> Iterator[None]:
    """Let the batch norms measure, and nothing else train; put everything back afterwards."""
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        for pool in pools:
            norm = pool.norm
            stack.callback(setattr, norm, "momentum", norm.momentum)
            for buffer in norm.buffers(recurse=False):
                stack.callback(buffer.copy_, buffer.clone())
            stack.callback(norm.register_forward_hook(pool).remove)
            norm.reset_running_stats()  # 0 times a running mean that is not finite would stay
            norm.momentum = 1.0
            # Not norm.train(), which would start the drop path that timm keeps inside its layer.
            norm.training = True
        yield


def _take_images(batch: Any, number: int) -> Tensor:
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(images, Tensor):
        raise TypeError(
            "recalibrate: the loader must yield images, or tuples that begin with them, got "
            f"{type(images).__name__}; wrap it in a generator that picks the images"
        )
    if not bool(images.isfinite().all()):
        raise ValueError(
            f"recalibrate: all pixels must be finite, got NaN or infinity in batch {number}; "
            "leave these images out"
        )
    return images


@torch.no_grad()
def recalibrate(
    model: _Model,
    loader: Iterable[Any],
    *,
    num_batches: int | None = None,
    reference: nn.Module | None = None,
) -> _Model:
    """Measure the running statistics of every batch norm anew.

    A network whose padding was changed meets other activations than those it was trained with.
    Each batch norm gets the mean and the unbiased variance of all values that reach it, over all
    images together, whatever the sizes of the batches; its input is that of a network in training,
    where the layers before it normalise by the batch.  So batches should be as large as in
    training.  Nothing else trains: dropout and drop path are off, no weight and no gradient
    changes.  A batch norm that the network does not use in evaluation, as in an auxiliary head,
    keeps its statistics.

    Statistics of a few images differ from those of training even where nothing was changed.  With a
    ``reference``, the network before the change, all images go through both.  Each batch norm then
    keeps its trained statistics but for the difference between the two: the mean moves by the
    difference of the means, in units of the standard deviation, and the variance is multiplied by
    the quotient of the variances.

    In a process group nothing is exchanged but what ``SyncBatchNorm`` exchanges: every process
    finds the statistics of its own images.  Give all of them the same images, or take over the
    buffers of one.

    Args:
        model: The network; changed in place.  Its modes and momenta are put back.
        loader: Yields batches of images, or tuples that begin with them; labels are not read.
            Images are moved to the device of the first batch norm; empty batches are passed over.
        num_batches: Batches to read at most; all if None.
        reference: The network before it was changed, with batch norms of the same names, on the
            same device; it stays as it is.  None measures the statistics by themselves.

    Returns:
        The same network.

    Raises:
        ValueError: If there is no batch norm with running statistics, the reference has others, no
            image or a pixel that is not finite was read, activations are not finite, or
            ``num_batches`` is below 1.  The network is then as it was.
        TypeError: If the loader yields something else.

    Examples:
        >>> model = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU()).eval()
        >>> images = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(4, 1, 1, 1)
        >>> recalibrate(model, images.split(2))[0].running_mean
        tensor([3.])
    """
    if num_batches is not None and num_batches < 1:
        raise ValueError(
            f"recalibrate: num_batches must be at least 1, got {num_batches}; pass None for all"
        )
    pools = _pools(model, "network")
    networks: list[tuple[nn.Module, dict[str, _Pool]]] = [(model, pools)]
    if reference is not None:
        networks.append((reference, _pools(reference, "reference")))
        different = sorted(pools.keys() ^ networks[1][1].keys())
        if different:
            raise ValueError(
                "recalibrate: the reference must have the batch norms of the network, got "
                f"{', '.join(different[:3])} in one of them only; pass the network as it was "
                "before it was converted"
            )
    _measure(networks, itertools.islice(loader, num_batches))
    if not any(pool.calls for pool in pools.values()):
        raise ValueError(
            "recalibrate: the loader must yield images that reach a batch norm, got none; a "
            "generator can be read only once"
        )
    for name in pools:
        if not all(bool(p[name].squares.isfinite().all()) for _, p in networks):
            raise ValueError(
                f"recalibrate: activations must be finite, got others at {name}; use a wider dtype "
                "or check the weights"
            )
    for name, pool in pools.items():
        other = None if reference is None else networks[1][1][name]
        if pool.calls and (other is None or other.calls):
            pool.write(other)
    return model


def _measure(networks: list[tuple[nn.Module, dict[str, _Pool]]], batches: Iterable[Any]) -> None:
    """Show the images to the networks."""
    device = next(next(iter(networks[0][1].values())).norm.buffers()).device
    with contextlib.ExitStack() as stack:
        for network, pools in networks:
            stack.enter_context(_pooling(network, pools.values()))
        # Compiled code would be compiled anew for this one pass.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for number, batch in enumerate(batches):
            images = _take_images(batch, number).to(device)
            if len(images):
                for network, _ in networks:
                    network(images)
