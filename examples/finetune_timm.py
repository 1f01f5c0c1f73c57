"""Convert a timm network and fine-tune it, so that it gets used to circular padding.

Run ``python examples/finetune_timm.py PHOTOGRAPHS``, a folder with ``train/<class>/*`` and
``val/<class>/*`` of the classes that the network knows, in the order of their names; or of others,
with ``--classes N`` for a new head.  It prints accuracy and consistency before and after.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import timm
import torch

import shiftproof
from shiftproof.recipes.finetune import finetune, open_photographs, run_finetune
from shiftproof.training.distributed import process_group

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photographs", type=Path)
parser.add_argument("--arch", default="resnet18.a1_in1k", help="name of a timm network")
parser.add_argument("--folder", type=Path, default=Path("out/finetune"), help="where to write")
parser.add_argument("--classes", type=int, help="number of classes, for a new head")
parser.add_argument("--no-pretrained", action="store_true", help="random weights, no download")
parser.add_argument("--size", type=int, default=224, help="height and width, in pixels")
parser.add_argument("--epochs", type=int, default=3)
args = parser.parse_args()

options = {} if args.classes is None else {"num_classes": args.classes}
model = timm.create_model(args.arch, pretrained=not args.no_pretrained, **options)
conversion = shiftproof.convert(model, torch.randn(2, 3, args.size, args.size))
print(conversion.summary)

data = open_photographs(
    args.photographs,
    size=args.size,
    mean=model.pretrained_cfg["mean"],
    std=model.pretrained_cfg["std"],
)
config = finetune(args.arch, model.num_classes, args.folder, epochs=args.epochs)
with process_group() as process:
    run_finetune(replace(config, workers=2), conversion.model, data, process)
