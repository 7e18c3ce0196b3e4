"""Data sets by name. Without torch; `bench.data.loader` puts them on a device."""

from bench.data.dataset import Dataset, Source, Split, cut
from bench.data.sources import SOURCES, list_datasets, load_dataset

__all__ = ["Dataset", "Split", "load_dataset", "list_datasets", "SOURCES", "Source", "cut"]
