import json

import pytest
import torch
from convertible import NETWORKS, UNet, converted, network
from torch import nn

import shiftproof
from shiftproof.conversion import ConversionError, ConversionPlan, apply_plan, convert
from shiftproof.nn import FirstPhase, LargestNorm


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_plan_converts_a_network_of_the_same_code(name: str, tmp_path) -> None:
    conversion = converted(name)
    conversion.plan.save(tmp_path / "plan.json")
    plan = ConversionPlan.load(tmp_path / "plan.json")
    assert plan == conversion.plan
    assert str(plan) == str(conversion.plan) == str(conversion.summary)
    other = network(name, seed=1)
    other.load_state_dict(network(name).state_dict())
    with torch.no_grad():
        expected = conversion.model(images())
        assert torch.equal(apply_plan(plan, other)(images()), expected)


def test_a_plan_beside_a_safetensors_file(tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    conversion = convert(UNet().eval(), images())
    conversion.plan.save(tmp_path / "plan.json")
    safetensors.save_model(conversion.model, tmp_path / "weights.safetensors")
    model = shiftproof.apply_plan(ConversionPlan.load(tmp_path / "plan.json"), UNet().eval())
    safetensors.load_model(model, tmp_path / "weights.safetensors")
    with torch.no_grad():
        assert torch.equal(model(images())["out"], conversion.model(images())["out"])


def test_a_plan_is_refused_elsewhere() -> None:
    class Head(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    plan = convert(network("residual"), images()).plan
    with pytest.raises(ConversionError, match=r"the network must have body\.\d.* of shape"):
        apply_plan(plan, network("strided"))
    with pytest.raises(ConversionError, match="the network must have the class Head, got UNet"):
        apply_plan(plan, UNet())
    changed = network("residual")
    changed.body[1] = nn.LeakyReLU()
    with pytest.raises(ConversionError, match="got another forward pass of some module"):
        apply_plan(plan, changed)
    converted = apply_plan(plan, network("residual"))
    with pytest.raises(ConversionError, match=r"must not be converted yet|another forward pass"):
        apply_plan(plan, converted)


def test_files_that_hold_no_plan(tmp_path) -> None:
    path = tmp_path / "plan.json"
    for text, message in [
        ("{", "the file must hold JSON"),
        ("[]", "schema_version must be 2, got None"),
        ('{"schema_version": 0}', "schema_version must be 2, got 0"),
        ('{"schema_version": 2}', "must have all its fields, got KeyError"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            ConversionPlan.load(path)


def test_a_plan_knows_its_selector() -> None:
    for selector in (None, FirstPhase(), LargestNorm(1), LargestNorm(torch.inf)):
        conversion = convert(network("residual"), images(), selector=selector)
        plan = ConversionPlan.from_dict(json.loads(json.dumps(conversion.plan.as_dict())))
        with torch.no_grad():
            expected = conversion.model(images())
            assert torch.equal(apply_plan(plan, network("residual"))(images()), expected)

    class Own(LargestNorm):
        pass

    plan = convert(network("residual"), images(), selector=Own()).plan
    with pytest.raises(
        ValueError, match="the selector of the plan must be given, got None for Own"
    ):
        apply_plan(plan, network("residual"))
    apply_plan(plan, network("residual"), selector=Own())
