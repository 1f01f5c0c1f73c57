"""Make torchvision's ResNet-50 shift invariant, with its own weights and without training.

python examples/convert_resnet50.py
python examples/convert_resnet50.py --weights none --size 64      # random weights, no download
"""

import argparse

import torch
import torchvision

import shiftproof

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--weights", default="DEFAULT", help="name of torchvision's weights, or none")
parser.add_argument("--size", type=int, default=224, help="height and width, in pixels")
args = parser.parse_args()

torch.manual_seed(0)
weights = None if args.weights == "none" else args.weights
model = torchvision.models.resnet50(weights=weights).eval()
images = torch.randn(2, 3, args.size, args.size)

conversion = shiftproof.convert(model, images)
print(conversion.summary)
print(shiftproof.certify(model, images))
print(shiftproof.certify(conversion.model, images))

# The parameters have the names of the original: its checkpoints load, and the result saves as one.
conversion.model.load_state_dict(model.state_dict())
