"""Which networks the coverage table counts, at which size, and how they get weights that speak."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shiftproof.extras import require

CATEGORIES = {
    "torchvision": {
        "convolutional": """
            alexnet convnext densenet efficientnet googlenet inception mnasnet mobilenetv2
            mobilenetv3 regnet resnet shufflenetv2 squeezenet vgg
        """,
        "hybrid": "maxvit",
        "transformer": "swin_transformer vision_transformer",
    },
    "timm": {
        "convolutional": """
            byobnet convmixer convnext cspnet cspnext densenet dla dpn efficientnet fasternet
            fastvit focalnet ghostnet hardcorenas hgnet hrnet inception_next inception_resnet_v2
            inception_v3 inception_v4 lcnetv2 mambaout metaformer mobilenetv3 nasnet nfnet pnasnet
            rdnet regnet repghost repvit res2net resnest resnet resnetv2 rexnet selecsls senet sknet
            starnet tresnet vgg vovnet xception xception_aligned
        """,
        "hybrid": """
            byoanet cpubone csatv2 edgenext efficientformer efficientformer_v2 efficientvit_mit
            iformer lowformer maxxvit mobilenetv5 mobilevit nextvit shvit swiftformer tiny_vit
            visformer vision_transformer_hybrid vitamin
        """,
        "transformer": """
            beit cait coat convit crossvit davit deepseek_vit deit efficientvim efficientvit_msra
            eva gcvit gemma4_vit hiera hieradet_sam2 levit mlp_mixer mvitv2 naflexvit nest pit
            pvt_v2 qwen3_vit sequencer swin_transformer swin_transformer_v2 swin_transformer_v2_cr
            tnt twins vision_transformer vision_transformer_relpos vision_transformer_sam volo xcit
        """,
    },
}
"""Module families by the rule that ``RULE`` states."""

RULE = """\
A family is a module of the library. **Convolutional**: positions are mixed by convolutions and
pools alone. **Hybrid**: some blocks mix positions by convolutions alone, others by attention.
**Transformer**: every block behind the patch embedding mixes tokens by attention, a state space, a
recurrence or a dense layer; convolutions only embed patches, merge them, or stand inside such a
block. Where the variants of a family differ, the one measured decides.
"""

SMALL = {"convolutional": 96, "hybrid": 128, "transformer": 128}
"""Height and width in pixels, unless ``SIZES`` says otherwise."""

SIZES = {
    "torchvision:alexnet": 192,
    "torchvision:maxvit_t": 224,
    "torchvision:swin_[bst]": 224,
    "torchvision:swin_v2_[bst]": 256,
    "torchvision:vgg*": 224,
    "torchvision:vit_h_14": 84,
    "timm:byoanet": 256,
    "timm:convmixer": 98,
    "timm:crossvit": 240,
    "timm:davit": 224,
    "timm:deepseek_vit": 84,
    "timm:efficientformer": 224,
    "timm:efficientvit_msra": 224,
    "timm:gcvit": 224,
    "timm:gemma4_vit": 96,
    "timm:hieradet_sam2": 224,
    "timm:selecsls": 128,
    "timm:sequencer": 112,
    "timm:swin_transformer": 224,
    "timm:swin_transformer_v2": 256,
    "timm:swin_transformer_v2_cr": 224,
    "timm:tiny_vit": 224,
    "timm:twins": 224,
    "timm:vgg": 224,
    "timm:vision_transformer_hybrid": 256,
    "timm:vision_transformer_sam": 224,
}
"""Sizes at which windows, patches and flattened maps have the size that the network expects."""

HUGE = 100_000_000
"""Parameters above which one image has to do."""


@dataclass(frozen=True)
class Subject:
    """One line of the table.

    Attributes:
        library: ``"torchvision"`` or ``"timm"``.
        family: Module of the library.
        category: Convolutional, hybrid or transformer.
        model: Name of the network; empty for the smallest of the family.
        size: Height and width of the images, in pixels.
        recorded: Whether it belongs to the table.
    """

    library: str
    family: str
    category: str
    model: str
    size: int
    recorded: bool = True

    @property
    def key(self) -> str:
        """What names it before its model is known."""
        name = self.model if self.library == "torchvision" or not self.recorded else self.family
        return f"{self.library}:{name}"


def category(library: str, family: str) -> str:
    """The category of a family; one that is not listed is an error, never a guess."""
    for name, families in CATEGORIES[library].items():
        if family in families.split():
            return name
    raise ValueError(
        f"benchmarks.coverage: every module of {library} must have a category, got none for "
        f"{family!r}; add it to CATEGORIES in benchmarks/coverage_models.py"
    )


def choose_size(key: str, kind: str) -> int:
    return next((size for name, size in SIZES.items() if fnmatchcase(key, name)), SMALL[kind])


def subjects() -> Iterator[Subject]:
    """The whole table: each torchvision classification network, each timm family."""
    models = require("torchvision.models", extra="train")
    for name in models.list_models(module=models):
        family = models.get_model_builder(name).__module__.rpartition(".")[2]
        kind = category("torchvision", family)
        yield Subject("torchvision", family, kind, name, choose_size(f"torchvision:{name}", kind))
    for family in require("timm", extra="timm").list_modules():
        kind = category("timm", family)
        yield Subject("timm", family, kind, "", choose_size(f"timm:{family}", kind))


def further_subject(key: str) -> Subject | None:
    """A timm network outside the table, if there is one of that name."""
    library, _, name = key.rpartition(":")
    timm = require("timm", extra="timm")
    if library not in ("", "timm") or not timm.is_model(name):
        return None
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    kind = category("timm", family)
    return Subject("timm", family, kind, name, choose_size(f"timm:{family}", kind), recorded=False)


def smallest(family: str) -> str:
    """The network of a timm family that has the fewest parameters."""
    timm = require("timm", extra="timm")

    def count(name: str) -> int:
        with torch.device("meta"):
            return sum(value.numel() for value in timm.create_model(name).parameters())

    return min(timm.list_models(module=family), key=count)


def named(subject: Subject) -> Subject:
    return subject if subject.model else replace(subject, model=smallest(subject.family))


def build(subject: Subject, size: int) -> tuple[nn.Module, int]:
    """A network with the library's random weights, and the size that it takes.

    A network of fixed size is built for ``size`` if it lets itself be, else for its own.
    """
    torch.manual_seed(0)
    if subject.library == "torchvision":
        options: dict[str, object] = {
            "vision_transformer": {"image_size": size},
            "maxvit": {"input_size": (size, size)},
            "googlenet": {"init_weights": False, "aux_logits": False},
            "inception": {"init_weights": False},
        }.get(subject.family, {})
        models = require("torchvision.models", extra="train")
        return models.get_model(subject.model, weights=None, **options).eval(), size
    timm = require("timm", extra="timm")
    config = timm.get_pretrained_cfg(subject.model)
    # Networks without a classifier return features, which may be a map.
    head = {} if config is None or config.num_classes else {"num_classes": 1000}
    try:
        return timm.create_model(subject.model, img_size=size, **head).eval(), size
    except (AssertionError, RuntimeError, TypeError, ValueError):
        model = timm.create_model(subject.model, **head).eval()
        fixed = config is not None and config.fixed_input_size
        return model, config.input_size[-1] if fixed else size


def draw_images(count: int, size: int) -> Tensor:
    """Seeded noise, fine and coarse, on a colour of each image's own."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(count, 3, size, size, generator=generator)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    colour = torch.randn(count, 3, 1, 1, generator=generator)
    coarse = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return fine + coarse + colour


def _redraw(name: str, value: Tensor, generator: torch.Generator) -> None:
    """Give a parameter that is constant or tiny, and so may hide what is before it, a value."""
    constant = bool(value.min() == value.max())
    if value.numel() == 0 or not (constant or value.abs().max() < 1e-3):
        return
    level = float(value.flatten()[0])
    normal = torch.randn(value.shape, generator=generator)
    if constant and abs(level) >= 1e-3:
        drawn = level * (0.5 + torch.rand(value.shape, generator=generator))
    elif name == "weight" and value.ndim > 1:
        drawn = normal / math.sqrt(value[0].numel())
    elif any(word in name for word in ("bias", "beta", "token", "pos", "embed", "table")):
        drawn = 0.1 * normal
    else:
        drawn = 0.5 + torch.rand(value.shape, generator=generator)
    value.copy_(drawn)


def _keep_alive(model: nn.Module, generator: torch.Generator) -> Iterator[RemovableHandle]:
    """Fit statistics to what arrives, and weights to what leaves, the first time a layer runs."""

    def fit_statistics(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        axes = [0, *range(2, x.ndim)]
        variance = x.var(axes, correction=0)
        variance = variance + 0.1 * variance.mean() + 1e-6
        size = variance.shape
        noise = variance.sqrt() * torch.randn(size, generator=generator)
        module.running_mean.copy_(x.mean(axes) + 0.2 * noise)
        module.running_var.copy_(variance * (0.5 + torch.rand(size, generator=generator)))

    seen: set[nn.Module] = set()

    def fit_weight(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> Tensor:
        rms = result.square().mean().sqrt()
        if module in seen or not 0 < rms < math.inf or 0.3 < rms < 3:
            return result
        seen.add(module)
        for value in (module.weight, module.bias):
            if value is not None:
                value.div_(rms)
        return result / rms

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            yield module.register_forward_pre_hook(fit_statistics)
        elif type(module) in (nn.Conv2d, nn.Linear):
            yield module.register_forward_hook(fit_weight)


def first_tensor(result: object) -> Tensor:
    while not isinstance(result, Tensor):
        result = next(iter(result.values() if isinstance(result, dict) else result))
    return result


@torch.no_grad()
def settle(model: nn.Module, call: Callable[[], object]) -> float:
    """Fit batch-norm statistics and vanishing weights to a call, so that the signal stays alive.

    A converted network needs it again: where circular borders make maps larger than the
    statistics of zero borders say, a deep network amplifies rounding a million times.

    Args:
        model: The network, in eval mode; changed in place.
        call: Calls it with at least two images.

    Returns:
        How far apart the first two are then, in standard deviations of the output.

    Raises:
        ArithmeticError: If the output is not finite, or hardly depends on the image.
    """
    handles = list(_keep_alive(model, torch.Generator().manual_seed(2)))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    output = first_tensor(call())
    response = float((output[0] - output[1]).abs().max() / output.std())
    if not output.isfinite().all() or not response > 1e-3:
        raise ArithmeticError(f"two images are {response:.1e} standard deviations apart")
    return response


@torch.no_grad()
def wake(model: nn.Module, size: int) -> float:
    """Draw weights under which every part of a network is heard in its output.

    Libraries start with norms, layer scales, heads and embeddings at zero or nearly so; a part
    that is multiplied by zero is invariant to everything.

    Args:
        model: The network, in eval mode; changed in place.
        size: Height and width of its images, in pixels.

    Returns:
        What ``settle`` gives.

    Raises:
        ArithmeticError: As ``settle``.
    """
    redraw(model)
    return respond(model, size)


def respond(model: nn.Module, size: int) -> float:
    """What ``settle`` gives for two images of a size."""
    images = draw_images(2, size)
    return settle(model, lambda: model(images.clone()))


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    """Draw every parameter anew that is constant or tiny."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            _redraw(name, value, generator)
