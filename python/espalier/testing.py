"""Checks for strategies of one's own."""
from __future__ import annotations

import pathlib
import tempfile
from typing import Any, Dict, Optional, Type, Union

from ._engine import Error
from ._run import simulate
from ._strategy import Strategy

#: A federation that takes a second: 6 clients of synthetic data, 3 of them per round.
TINY: Dict[str, Any] = {
    "seed": 5, "rounds": 4,
    "data": {"name": "synthetic", "synthetic_train_samples": 240, "synthetic_test_samples": 60, "synthetic_shape": [1, 8, 8], "partition": {"name": "dirichlet", "clients": 6}},
    "model": {"name": "mlp", "hidden": [16]},
    "train": {"lr": 0.05},
    "strategy": {"clients_per_round": 3},
}


def _bytes(folder: pathlib.Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def check_strategy(strategy: Union[str, Type[Strategy]], config: Optional[Dict[str, Any]] = None, **settings: Any) -> None:
    """Raises AssertionError, saying what differs, unless the strategy has what every strategy must have:

    - the order in which clients answer changes no bit (one thread against three);
    - save and restore: a run that is stopped and resumed ends in the bytes of one that is not;
    - two runs with the same seed are the same.

    strategy: a registered class or its name. config: in place of a federation that takes a second.
    """
    name = strategy if isinstance(strategy, str) else getattr(strategy, "registered_name", None)
    if name is None:
        raise Error(f"[testing] {strategy} is not registered: decorate it with @espalier.register(\"name\")")
    base = TINY if config is None else config
    chosen = {"strategy.name": name, **settings}
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)

        def run(what: str, **more: Any) -> bytes:
            arguments: Dict[str, Any] = {**chosen, **more}
            simulate(base, out=folder / what, progress=False, **arguments)
            return _bytes(folder / what)

        whole = run("one", threads=1)
        assert run("again", threads=1) == whole, "two runs with the same seed end in different models: is something random that is not drawn from Context.key?"
        assert run("three", threads=3) == whole, "the order in which clients answer changes the result: keep what clients share out of run_client"
        rounds = int(base.get("rounds", 4))
        run("half", rounds=max(1, rounds // 2), threads=1)
        simulate(resume=folder / "half", rounds=rounds, progress=False, threads=1)
        assert _bytes(folder / "half") == whole, "a resumed run ends in another model: state() and restore() leave something out"
