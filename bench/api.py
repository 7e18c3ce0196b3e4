"""What a method file imports: the contract, the inner loop, the losses. Nothing else of bench.

from bench.api import Batch, Method, TrainState, maximise, losses, register
"""

from bench import losses
from bench.archs.batchnorm import recorded_statistics
from bench.attacks.maximise import ModelMode, Start, attack_mode, maximise
from bench.errors import ConfigError
from bench.method import Batch, Method, TrainState
from bench.registry import get_method, register
from bench.threat import REFERENCE_EPS, Threat, rowwise

__all__ = [
    "REFERENCE_EPS",
    "Batch",
    "ConfigError",
    "Method",
    "ModelMode",
    "Start",
    "Threat",
    "TrainState",
    "attack_mode",
    "get_method",
    "losses",
    "maximise",
    "recorded_statistics",
    "register",
    "rowwise",
]
