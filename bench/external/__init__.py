"""External models: what `bench evaluate --model` can name."""

from bench.external.model import ExternalModel, Named, load_external, self_check

__all__ = ["ExternalModel", "Named", "load_external", "self_check"]
