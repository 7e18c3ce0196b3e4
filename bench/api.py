"""Everything that a method file may import from bench: the contract, the ascent, the losses.

from bench.api import Batch, Method, TrainState, losses, param, register
"""

from bench import losses
from bench.archs.batchnorm import recorded_statistics, statistics_of
from bench.attacks.maximise import ModelMode, Start, attack_mode, maximise
from bench.errors import ConfigError
from bench.method import Batch, Method, TrainState, predict
from bench.param import param
from bench.ranks import drawn
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
    "drawn",
    "get_method",
    "losses",
    "maximise",
    "param",
    "predict",
    "recorded_statistics",
    "register",
    "rowwise",
    "statistics_of",
]
