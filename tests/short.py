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
