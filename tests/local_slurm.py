"""`bench` with submitit's local executor in place of Slurm, by `python -m tests.local_slurm`."""

import psutil
import submitit

from bench.cli import main
from bench.jobs.slurm import SlurmEngine


def local(engine: SlurmEngine, options: object) -> submitit.LocalExecutor:
    executor = submitit.LocalExecutor(engine._submitit, max_num_timeout=5)
    executor.update_parameters(timeout_min=60)
    return executor


def queue(engine: SlurmEngine) -> set[str]:
    """Ids of jobs are those of processes."""
    return {slurm_id for slurm_id in engine._out if _runs(int(slurm_id))}


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    SlurmEngine.executor = local  # type: ignore[method-assign, assignment]
    SlurmEngine.queue = queue  # type: ignore[method-assign, assignment]
    main()
