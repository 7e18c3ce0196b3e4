"""Records: what a run is, what it leaves in a results folder, and reading it. Without torch."""

from bench.records.evaluation import Chunk as Chunk
from bench.records.evaluation import EvaluationRecord as EvaluationRecord
from bench.records.load import QUANTILES as QUANTILES
from bench.records.load import Records as Records
from bench.records.load import RunRecord as RunRecord
from bench.records.load import load_records as load_records
