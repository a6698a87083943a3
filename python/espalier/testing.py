"""Checks for strategies of one's own."""
from __future__ import annotations

import pathlib
import tempfile
from typing import Any, Dict, Optional, Type, Union

from ._data import Dataset
from ._engine import Error
from ._run import Run, _start, simulate
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


def check_strategy(strategy: Union[str, Type[Strategy]], config: Optional[Dict[str, Any]] = None, *, data: Optional[Dataset] = None, **settings: Any) -> None:
    """Raises AssertionError, saying what differs, unless the strategy has what every strategy must have:

    - the order in which clients answer changes no bit (one thread against three);
    - save and restore: a run that is stopped half-way and resumed ends in the bytes of one that is not;
    - two runs with the same seed are the same.

    strategy: a registered class or its name. config, data and settings as simulate() has them; config by default a federation that takes a second.
    """
    name = strategy if isinstance(strategy, str) else getattr(strategy, "registered_name", None)
    if name is None:
        raise Error(f"[testing] {strategy} is not registered: decorate it with @espalier.register(\"name\")")
    base = TINY if config is None else config
    model = settings.pop("model", None)
    chosen = {"strategy.name": name, **settings}
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)

        def run(what: str, threads: int, stop_after: int = 0) -> Run:
            stream = _start(chosen, config=base, data=data, model=model, out=folder / what, threads=threads, stop_after=stop_after)
            for _ in stream:
                pass
            return stream.run

        whole = run("one", 1)
        rounds = int(whole.config["rounds"])
        if rounds < 2:
            raise Error(f"[testing] a run of {rounds} rounds is not stopped half-way: give it 2 or more")
        expected = _bytes(whole.folder)
        assert _bytes(run("again", 1).folder) == expected, "two runs with the same seed end in different models: is something random that is not drawn from Context.key?"
        assert _bytes(run("three", 3).folder) == expected, "the order in which clients answer changes the result: keep what clients share out of run_client"
        half = run("half", 1, stop_after=rounds // 2)
        simulate(resume=half.folder, data=data, progress=False, threads=1)
        assert _bytes(half.folder) == expected, "a resumed run ends in another model: state() and restore() leave something out"
