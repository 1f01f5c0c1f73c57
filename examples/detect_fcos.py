"""Boxes of torchvision's FCOS that move with the image, to the pixel.

    python examples/detect_fcos.py

The weights are random, so the boxes mean nothing; how they move does not depend on that.
"""

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

import shiftproof


class Dense(nn.Module):
    """The part of the detector that is a network: from images to the values of its head."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The values for every anchor, one behind another."""
        return self.head(list(self.backbone(images).values()))


@torch.no_grad()
def detect(detector: nn.Module, dense: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
    """Boxes in pixels of the images, modulo their size, with scores and labels."""
    outputs, offset = shiftproof.call_with_offset(dense, images)
    size = tuple(images.shape[2:])
    features = list(detector.backbone(images).values())  # for their sizes alone
    anchors = detector.anchor_generator(ImageList(images, [size] * len(images)), features)
    counts = [x.shape[2] * x.shape[3] for x in features]
    split = {name: list(value.split(counts, 1)) for name, value in outputs.items()}
    parts = [list(one.split(counts)) for one in anchors]
    found = detector.postprocess_detections(split, parts, [size] * len(images))
    for one, (down, right) in zip(found, offset, strict=True):
        one["boxes"] = one["boxes"] + torch.stack([right, down, right, down])
    return found


def main() -> None:
    """Print by how much boxes move when the image does."""
    torch.manual_seed(0)
    detector = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, score_thresh=0.0, detections_per_img=5
    ).eval()
    images = torch.rand(1, 3, 128, 128)
    dense = shiftproof.convert(Dense(detector), images).model
    (before,) = detect(detector, dense, images)
    for shift in ((0, 1), (5, 0), (17, 40)):
        (after,) = detect(detector, dense, images.roll(shift, (2, 3)))
        moved = (after["boxes"] - before["boxes"]).remainder(128)
        print(f"moved by {shift}: boxes by {sorted(set(map(tuple, moved.round().int().tolist())))}")


if __name__ == "__main__":
    main()
