"""An even background, where a real translation is a circular shift: what is exact stays exact."""

import pytest
import torch
from torch import Tensor, nn

from shiftproof import convert, create_model

SHIFTS = [(0, 1), (1, 0), (5, 7), (-9, 4), (12, -12)]


def page(shift: tuple[int, int], *, size: int = 64, value: float = 0.8) -> Tensor:
    """What a camera sees of a picture on an even ground: nothing of it leaves or enters."""
    generator = torch.Generator().manual_seed(0)
    ground = torch.full((2, 3, 3 * size, 3 * size), value)
    first = size + 14
    ground[..., first : first + 32, first : first + 30] = torch.rand(
        2, 3, 32, 30, generator=generator
    )
    dy, dx = shift
    return ground[..., size - dy : 2 * size - dy, size - dx : 2 * size - dx]


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)]
    own = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return {
        "converted": convert(own, page((0, 0))).model,
        "aligned": create_model("cifar_resnet20_pa").eval(),
        "sampled": create_model("cifar_resnet20_aps3").eval(),
    }


@pytest.mark.parametrize("name", ["converted", "aligned", "sampled"])
@torch.no_grad()
def test_a_real_translation_changes_no_bit_on_an_even_ground(name: str) -> None:
    model = networks()[name]
    logits = model(page((0, 0)))
    for shift in SHIFTS:
        assert torch.equal(page(shift), page((0, 0)).roll(shift, (2, 3)))
        assert torch.equal(model(page(shift)), logits)


@torch.no_grad()
def test_control_the_network_as_it_was_changes() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)]
    plain = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not torch.equal(plain(page((0, 0))), plain(page((0, 1))))
