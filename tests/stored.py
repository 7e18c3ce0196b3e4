"""Write outcomes to a run's folder as the driver does."""

from bench.records import Chunk
from bench.records.measure import Measured, measure_files
from bench.records.run_folder import EvaluationFolder, RunFolder, chunk_files
from bench.records.spec import MeasureSpec
from bench.storage import write_files


def store_chunk(evaluation: EvaluationFolder, number: int, chunk: Chunk) -> None:
    write_files(evaluation.path.parent.parent, chunk_files(evaluation.spec, number, chunk))


def store_measure(run: RunFolder, spec: MeasureSpec, measured: Measured) -> None:
    write_files(run.path, measure_files(spec, measured, 1.5, {"threads": 2}))
