"""Training on one process or many: the loop, checkpoints, evaluation and logs."""

from shiftproof.training.config import ModelConfig, RunFiles, TrainConfig
from shiftproof.training.evaluation import Evaluation, evaluate
from shiftproof.training.loop import Trainer

__all__ = ["Evaluation", "ModelConfig", "RunFiles", "TrainConfig", "Trainer", "evaluate"]
