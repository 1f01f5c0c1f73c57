"""Small networks for volumes, signals and diffusion, with random weights."""

from collections.abc import Iterator
from typing import Any

from benchmarks.third_party_networks import Network, network


def monai() -> Iterator[Network]:
    from monai.networks import nets

    flat, solid = (2, 1, 64, 64), (2, 1, 32, 32, 32)

    def one(name: str, shape: tuple[int, ...], suffix: str = "", **options: Any) -> Network:
        kind = getattr(nets, name)
        key = f"monai:{name}{suffix}"
        return network(key, lambda: kind(**options), shape)

    for dims, shape in ((2, flat), (3, solid)):
        suffix = f"-{dims}d"
        maps = {"spatial_dims": dims, "in_channels": 1}
        yield one("UNet", shape, suffix, **maps, **NARROW, num_res_units=1)
        yield one("AttentionUnet", shape, suffix, **maps, **NARROW)
        yield one("BasicUNet", shape, suffix, **maps, features=[8, 8, 16, 16, 32, 8])
        yield one("BasicUNetPlusPlus", shape, suffix, **maps, features=[8, 8, 16, 16, 32, 8])
        yield one(
            "DynUNet",
            shape,
            suffix,
            **maps,
            out_channels=2,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[8, 16, 32],
        )
        yield one("SegResNet", shape, suffix, **maps)
        yield one("SegResNetDS", shape, suffix, **maps, init_filters=8)
        yield one("VNet", shape, suffix, **maps, dropout_dim=dims)
        yield one("HighResNet", (*shape[:2], *(16,) * dims), suffix, **maps)
        yield one("MedNeXt", shape, suffix, **maps, init_filters=8, kernel_size=3)
        yield one(
            "DenseNet121", shape, suffix, **maps, out_channels=2, init_features=16, growth_rate=8
        )
        yield one(
            "ResNet",
            shape,
            suffix,
            spatial_dims=dims,
            n_input_channels=1,
            block="basic",
            layers=[1, 1, 1, 1],
            block_inplanes=[8, 16, 24, 32],
            conv1_t_stride=2,
            num_classes=2,
        )
        yield one(
            "UNETR",
            shape,
            suffix,
            **maps,
            out_channels=2,
            img_size=shape[2:],
            feature_size=8,
            hidden_size=32,
            mlp_dim=64,
            num_heads=2,
        )
        yield one(
            "SwinUNETR",
            (*shape[:2], *(64,) * dims),
            suffix,
            **maps,
            out_channels=2,
            feature_size=12,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 3, 4],
            window_size=4,
        )
        yield one(
            "ViT",
            shape,
            suffix,
            **maps,
            img_size=shape[2:],
            patch_size=8,
            hidden_size=32,
            mlp_dim=64,
            num_layers=2,
            num_heads=2,
            classification=True,
        )
    yield one("FlexibleUNet", flat, in_channels=1, out_channels=2, backbone="resnet18")
    yield one(
        "EfficientNetBN",
        flat,
        model_name="efficientnet-b0",
        pretrained=False,
        in_channels=1,
        num_classes=2,
    )
    yield one(
        "SENet",
        flat,
        spatial_dims=2,
        in_channels=1,
        block="se_resnet_bottleneck",
        layers=[1, 1, 1, 1],
        groups=1,
        reduction=16,
        inplanes=16,
        num_classes=2,
    )
    yield one("PatchDiscriminator", flat, spatial_dims=2, in_channels=1, channels=8)


NARROW = {"out_channels": 2, "channels": [8, 16, 32], "strides": [2, 2]}
"""Widths and strides of monai's U-Nets."""


def diffusers() -> Iterator[Network]:
    import diffusers

    def one(name: str, *shapes: tuple[int, ...], call: Any = None, **config: Any) -> Network:
        kind = getattr(diffusers, name)
        key = f"diffusers:{name}"
        call = call or {}
        return network(key, lambda: kind(**config), *shapes, **call)

    image, latent, text = (2, 3, 64, 64), (2, 4, 32, 32), (2, 5, 16)
    groups = {"norm_num_groups": 4, "layers_per_block": 1}
    pair = {"block_out_channels": (16, 32), **groups}
    codec = {
        **pair,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    denoise = {"names": ("sample",), "timestep": 7}
    guided = {"names": ("sample", "encoder_hidden_states"), "timestep": 7}

    yield one("AutoencoderKL", image, **codec)
    yield one("VQModel", image, **codec)
    yield one(
        "AsymmetricAutoencoderKL",
        image,
        down_block_types=["DownEncoderBlock2D"] * 2,
        down_block_out_channels=(16, 32),
        up_block_types=["UpDecoderBlock2D"] * 2,
        up_block_out_channels=(16, 32),
        norm_num_groups=4,
    )
    yield one(
        "AutoencoderTiny",
        image,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    yield one(
        "AutoencoderDC",
        image,
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
    )
    yield one(
        "AutoencoderKLTemporalDecoder",
        (4, 3, 32, 32),
        call={"names": ("sample",), "num_frames": 2},
        down_block_types=["DownEncoderBlock2D"] * 2,
        block_out_channels=(32, 64),
    )
    yield one(
        "UNet2DModel",
        image,
        call=denoise,
        **pair,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    yield one(
        "UNet2DConditionModel",
        latent,
        text,
        call=guided,
        **pair,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    yield one(
        "UNet3DConditionModel",
        (2, 4, 3, 32, 32),
        text,
        call={**guided, "images": {"sample": (3, 4)}},
        block_out_channels=(32, 64),
        **groups,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    yield one(
        "UNet1DModel",
        (2, 2, 64),
        call=denoise,
        block_out_channels=(32, 32),
        extra_in_channels=64,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    )


def braindecode() -> Iterator[Network]:
    from braindecode import models

    def one(name: str, times: int = 960, **options: Any) -> Network:
        options = {"n_chans": 8, "n_outputs": 4, "n_times": times, **options}
        kind = getattr(models, name)
        return network(f"braindecode:{name}", lambda: kind(**options), (2, 8, times))

    for name in ("EEGNet", "EEGTCNet", "EEGNeX", "EEGITNet"):
        yield one(name, 1024)
    yield one("ATCNet", 1008, sfreq=250)
    yield one("Deep4Net", 972)
    yield one("EEGConformer", num_layers=2)
    yield one("ShallowFBCSPNet")
    yield one("AttentionBaseNet")
    yield one("TIDNet", sfreq=250)
    yield one("EEGInceptionERP", 1024, sfreq=128)
    yield one("EEGInceptionMI", 1000, sfreq=250)
    yield one("CTNet", 1024, sfreq=250, num_layers=2)
    yield one("SCCNet", 1000, sfreq=250)
    yield one("SPARCNet", 1024)
    yield one("SleepStagerChambon2018", 3000, sfreq=100)
    yield one("USleep", 3072, sfreq=100, depth=4)
