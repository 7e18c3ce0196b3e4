"""AutoAttack with fewer iterations."""

from typing import Any

import pyautoattack


class ShortAutoAttack(pyautoattack.AutoAttack):  # type: ignore[misc]
    """The package's attacks, a tenth as long or less."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 10
        self.square.n_queries = 100


class FewQueries(pyautoattack.AutoAttack):  # type: ignore[misc]
    """The package's attacks at full length, but for Square's queries: a tenth."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.square.n_queries == 5000
        self.square.n_queries = 500


class TinyAutoAttack(pyautoattack.AutoAttack):  # type: ignore[misc]
    """The package's attacks for a few iterations, which run every line and break little."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.apgd.n_iter = self.apgd_targeted.n_iter = 5
        self.apgd.n_restarts = self.fab.n_restarts = self.apgd.eot_iter = 1
        self.fab.n_iter, self.square.n_queries = 2, 10
