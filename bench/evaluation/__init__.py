"""Evaluation: survivors per image under strong attacks, on any model."""

from bench.evaluation.checks import Check
from bench.evaluation.chunk import Outcome, attack_chunk
from bench.evaluation.evaluate import Evaluation, evaluate

__all__ = ["Check", "Evaluation", "Outcome", "attack_chunk", "evaluate"]
