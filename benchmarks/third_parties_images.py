"""Small networks of libraries for images, with random weights."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from benchmarks.third_party_networks import Network, network


def segmentation_models() -> Iterator[Network]:
    import segmentation_models_pytorch as smp

    def one(name: str, shape: tuple[int, ...] = (2, 3, 64, 64), **options: Any) -> Network:
        options = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3, **options}
        model = getattr(smp, name)
        return network(f"segmentation_models_pytorch:{name}", lambda: model(**options), shape)

    for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "UPerNet"):
        yield one(name)
    for name in ("DeepLabV3", "DeepLabV3Plus", "Segformer"):
        yield one(name)
    yield one("PAN", (2, 3, 128, 128))


def transformers() -> Iterator[Network]:
    import transformers

    def one(
        model: str, shape: tuple[int, ...] = (2, 3, 64, 64), images: Any = None, **config: Any
    ) -> Network:
        kind = getattr(transformers, model)
        key = f"transformers:{model}"
        return network(
            key,
            lambda: kind(kind.config_class(**config)),
            shape,
            names=("pixel_values",),
            images=images,
        )

    def stages(widths: str = "hidden_sizes") -> dict[str, Any]:
        return {widths: [16, 32, 48, 64], "depths": [1] * 4}

    vit = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 8,
    }
    vit_mlp_ratio = {name: value for name, value in vit.items() if name != "intermediate_size"}
    heads = {"num_heads": [1, 2, 4, 8], "depths": [2, 2, 2, 2]}
    swin = {"image_size": 128, "embed_dim": 16, "window_size": 4, **heads}
    mixed = {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
    }
    neck = {"neck_hidden_sizes": [8, 16, 24, 32], "fusion_hidden_size": 16, "num_hidden_layers": 4}
    convnext = transformers.ConvNextConfig(
        **stages(), out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    dinov2 = transformers.Dinov2Config(
        **{**vit_mlp_ratio, "num_hidden_layers": 4},
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    small = {"image_size": 64, "initializer_range": 0.2}
    residual = {"embedding_size": 8, **stages()}

    yield one("ConvNextForImageClassification", **stages(), layer_scale_init_value=0.5)
    yield one("ConvNextV2ForImageClassification", **stages())
    yield one("DINOv3ConvNextModel", **stages(), layer_scale_init_value=0.5)
    yield one("ResNetForImageClassification", **residual)
    yield one("BitForImageClassification", **residual, num_groups=4)
    yield one("RegNetForImageClassification", **residual, groups_width=8)
    yield one("MobileNetV1ForImageClassification", depth_multiplier=0.25, initializer_range=0.1)
    yield one("MobileNetV2ForImageClassification", depth_multiplier=0.25)
    yield one("MobileNetV2ForSemanticSegmentation", depth_multiplier=0.25)
    yield one(
        "EfficientNetForImageClassification",
        width_coefficient=0.25,
        depth_coefficient=0.5,
        hidden_dim=320,
        initializer_range=0.2,
    )
    yield one("TextNetForImageClassification", **TEXTNET)
    yield one("PoolFormerForImageClassification", **stages(), layer_scale_init_value=0.5)
    yield one(
        "SwiftFormerForImageClassification", **stages("embed_dims"), layer_scale_init_value=0.5
    )
    yield one("FocalNetForImageClassification", (2, 3, 128, 128), embed_dim=16, image_size=128)
    yield one(
        "CvtForImageClassification", embed_dim=[8, 16, 32], num_heads=[1, 2, 4], depth=[1, 2, 3]
    )
    yield one(
        "LevitForImageClassification",
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[2, 2, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        image_size=64,
    )
    yield one(
        "MobileViTForImageClassification",
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 48],
        **small,
    )
    yield one("MobileViTForSemanticSegmentation", **small, aspp_out_channels=16)
    yield one("MobileViTV2ForImageClassification", width_multiplier=0.25, **small)
    yield one("SwinForImageClassification", (2, 3, 128, 128), **swin)
    yield one("Swinv2ForImageClassification", (2, 3, 128, 128), **swin)
    yield one(
        "Swin2SRForImageSuperResolution",
        (2, 3, 32, 32),
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
        image_size=32,
    )
    yield one("PvtForImageClassification", **mixed, image_size=64)
    yield one("PvtV2ForImageClassification", **mixed, image_size=64)
    yield one("SegformerForImageClassification", **mixed)
    yield one("SegformerForSemanticSegmentation", **mixed, decoder_hidden_size=16)
    yield one("GLPNForDepthEstimation", **mixed, decoder_hidden_size=16)
    yield one(
        "HieraForImageClassification",
        (2, 3, 128, 128),
        image_size=[128, 128],
        embed_dim=16,
        depths=[1, 1, 2, 1],
    )
    yield one("ViTForImageClassification", **vit)
    yield one("DeiTForImageClassification", **vit)
    yield one("Dinov2ForImageClassification", **vit_mlp_ratio)
    yield one("BeitForImageClassification", **vit, use_relative_position_bias=True)
    yield one("DPTForDepthEstimation", **{**vit, **neck}, backbone_out_indices=[0, 1, 2, 3])
    yield one(
        "DepthAnythingForDepthEstimation",
        backbone_config=dinov2,
        patch_size=8,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    yield one("UperNetForSemanticSegmentation", backbone_config=convnext, hidden_size=16)
    yield one("YolosForObjectDetection", **{**vit, "image_size": [64, 64]}, num_detection_tokens=5)
    yield one("CLIPVisionModel", **vit)
    yield one("SiglipVisionModel", **vit)
    frames = {"images": {"pixel_values": (3, 4)}, "num_frames": 4}
    yield one("VideoMAEForVideoClassification", (2, 4, 3, 64, 64), **frames, **vit)
    yield one("TimesformerForVideoClassification", (2, 4, 3, 64, 64), **frames, **vit)


TEXTNET = {
    "stem_out_channels": 8,
    "hidden_sizes": [8, 8, 16, 16, 32],
    "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [1, 3]], [[3, 3], [3, 1]], [[3, 3]]],
    "conv_layer_strides": [[2], [2, 1], [2, 1], [2]],
}
"""Widths, kernels and strides of a TextNet of four stages."""


def kornia() -> Iterator[Network]:
    from kornia import feature, filters
    from kornia.feature.disk._unets import Unet
    from kornia.models import dexined, rrdbnet, small_sr, tiny_vit, vit, vit_mobile
    from kornia.models.efficient_vit.backbone import EfficientViTBackbone
    from kornia.models.rt_detr.architecture.resnet_d import BasicBlockD, ResNetD
    from kornia.models.yunet.model import YuNet

    def one(name: str, create: Callable[[], nn.Module], *shape: int) -> Network:
        return network(f"kornia:{name}", create, shape)

    def blurred() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            filters.BlurPool2D(3, stride=2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            filters.MaxBlurPool2D(3, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )

    for name in ("HardNet", "HardNet8", "HyNet", "TFeat", "SOSNet", "OriNet"):
        kind = getattr(feature, name)
        yield one(name, partial(kind, pretrained=False), 2, 1, 32, 32)
    keynet = {"num_filters": 16, "num_levels": 3, "kernel_size": 5, "Detector_conf": {}}
    yield one("KeyNet", lambda: feature.KeyNet(False, keynet), 2, 1, 64, 64)
    yield one("XFeatModel", feature.XFeatModel, 2, 3, 64, 64)
    yield one("DISK-Unet", lambda: Unet(in_features=3, down=[8, 16, 16], up=[16, 9]), 2, 3, 64, 64)
    yield one("DeFMO-encoder", lambda: feature.DeFMO(pretrained=False).encoder, 2, 6, 64, 64)
    yield one("DexiNed", lambda: dexined.DexiNed(pretrained=False), 2, 3, 64, 64)
    yield one("RRDBNet", lambda: rrdbnet.RRDBNet(3, 3, 2, 8, 1, 4), 2, 3, 32, 32)
    yield one("SmallSRNet", lambda: small_sr.SmallSRNet(2, pretrained=False), 2, 1, 32, 32)
    yield one("YuNet", lambda: YuNet("test", pretrained=False), 2, 3, 64, 64)
    yield one("ResNetD", lambda: ResNetD([1, 1, 1, 1], BasicBlockD), 2, 3, 64, 64)
    yield one("MobileViT", vit_mobile.MobileViT, 2, 3, 64, 64)
    yield one(
        "EfficientViTBackbone",
        lambda: EfficientViTBackbone([8, 16, 16, 24, 32], [1] * 5, dim=8),
        *(2, 3, 64, 64),
    )
    yield one("VisionTransformer", lambda: vit.VisionTransformer(64, 8, 3, 32, 2, 2), 2, 3, 64, 64)
    yield one(
        "TinyViT",
        lambda: tiny_vit.TinyViT(
            128, 3, 5, (16, 16, 32, 32), (1, 1, 2, 1), (1, 1, 2, 2), (4, 4, 8, 4)
        ),
        *(2, 3, 128, 128),
    )
    yield one("BlurPool2D-net", blurred, 2, 3, 32, 32)


def torchvision() -> Iterator[Network]:
    from torchvision import models
    from torchvision.models.detection import backbone_utils

    def one(name: str, shape: tuple[int, ...], images: Any = None, **options: Any) -> Network:
        options = {"weights": None, **options}
        create = models.get_model_builder(name)
        return network(f"torchvision:{name}", lambda: create(**options), shape, images=images)

    for name in (
        "fcn_resnet50",
        "deeplabv3_resnet50",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
    ):
        yield one(name, (2, 3, 64, 64), weights_backbone=None, num_classes=3)
    for name, trunk, options in (
        ("resnet_fpn_backbone", "resnet18", {}),
        ("mobilenet_backbone", "mobilenet_v3_large", {"fpn": True}),
    ):
        create = partial(getattr(backbone_utils, name), backbone_name=trunk, weights=None)
        yield network(f"torchvision:{name}", partial(create, **options), (2, 3, 64, 64))
    for name in ("r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t"):
        yield one(name, (2, 3, 8, 64, 64), num_classes=5)
    yield one("s3d", (2, 3, 16, 224, 224), num_classes=5)
    yield network(
        "torchvision:raft_small",
        lambda: models.optical_flow.raft_small(weights=None),
        *[(2, 3, 128, 128)] * 2,
        names=("image1", "image2"),
        num_flow_updates=2,
    )
