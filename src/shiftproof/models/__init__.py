"""The zoo: residual networks in every placement, by name."""

from shiftproof.models import zoo
from shiftproof.models.registry import create_model, list_models
from shiftproof.models.sizes import valid_sizes
from shiftproof.models.weights import load_published

__all__ = ["create_model", "list_models", "load_published", "valid_sizes", "zoo"]
