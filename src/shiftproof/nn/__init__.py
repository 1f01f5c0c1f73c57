"""Layers: thin state over ``shiftproof.ops``."""

from shiftproof.nn.conv import Conv2d
from shiftproof.nn.downsample import (
    AlignPhase1d,
    AlignPhase2d,
    AlignPhase3d,
    PolyphaseDownsample1d,
    PolyphaseDownsample2d,
    PolyphaseDownsample3d,
    SelectPhase1d,
    SelectPhase2d,
    SelectPhase3d,
)
from shiftproof.nn.grid import BandLimited, GridLock1d, GridLock2d, GridLock3d, WholePixels
from shiftproof.nn.lowpass import (
    BlurPool1d,
    BlurPool2d,
    BlurPool3d,
    LowPass1d,
    LowPass2d,
    LowPass3d,
)
from shiftproof.nn.pool import GlobalMean, MaxPool2d
from shiftproof.nn.salience import CornerStrength, DifferenceOfGaussians, Energy, Tapered
from shiftproof.nn.selectors import (
    DarkestPhase,
    FirstPhase,
    LargestNorm,
    LargestValue,
    SmallestNorm,
)
from shiftproof.nn.upsample import PolyphaseUpsample1d, PolyphaseUpsample2d, PolyphaseUpsample3d

__all__ = [
    "AlignPhase1d",
    "AlignPhase2d",
    "AlignPhase3d",
    "BandLimited",
    "BlurPool1d",
    "BlurPool2d",
    "BlurPool3d",
    "Conv2d",
    "CornerStrength",
    "DarkestPhase",
    "DifferenceOfGaussians",
    "Energy",
    "FirstPhase",
    "GlobalMean",
    "GridLock1d",
    "GridLock2d",
    "GridLock3d",
    "LargestNorm",
    "LargestValue",
    "LowPass1d",
    "LowPass2d",
    "LowPass3d",
    "MaxPool2d",
    "PolyphaseDownsample1d",
    "PolyphaseDownsample2d",
    "PolyphaseDownsample3d",
    "PolyphaseUpsample1d",
    "PolyphaseUpsample2d",
    "PolyphaseUpsample3d",
    "SelectPhase1d",
    "SelectPhase2d",
    "SelectPhase3d",
    "SmallestNorm",
    "Tapered",
    "WholePixels",
]
