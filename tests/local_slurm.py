"""`bench` with submitit's local executor in place of Slurm, by `python -m tests.local_slurm`."""

import psutil
import submitit

from bench.cli import main
from bench.jobs.slurm import SlurmEngine


class LocalJob(submitit.LocalJob):  # type: ignore[misc]
    """A job whose end is seen by commands that did not start it."""

    def done(self, force_check: bool = False) -> bool:
        try:
            return bool(psutil.Process(int(self.job_id)).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


class LocalExecutor(submitit.LocalExecutor):  # type: ignore[misc]
    job_class = LocalJob


def local(engine: SlurmEngine, options: object) -> LocalExecutor:
    executor = LocalExecutor(engine._submitit, max_num_timeout=5)
    executor.update_parameters(timeout_min=60)
    return executor


if __name__ == "__main__":
    SlurmEngine.executor = local  # type: ignore[method-assign, assignment]
    main()
