"""Models that were not trained here: what `bench evaluate --model` can name."""

from bench.external.model import ExternalModel, Named, load_external

__all__ = ["ExternalModel", "Named", "load_external"]
