"""Federated learning for clients short of bandwidth, compute and memory.

    import espalier
    run = espalier.simulate("examples/fashion-mnist.toml", rounds=5, **{"strategy.name": "fedprox"})
    run.metrics["accuracy"]

The engine is the command line's: the same configuration ends in the same bytes. Every key of a
configuration: `espalier list options`. The engine is loaded at the first use of a name, not by the
import.
"""
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from ._client import Client, ClientTask
    from ._codec import Codec, codec
    from ._data import Dataset, Partition
    from ._engine import Context, Error, Parameters, StorageError, Update, __version__
    from ._run import Comparison, ConfigError, Model, Report, Round, Run, Stream, Study, compare, load_run, simulate, stream, study
    from ._strategy import Strategy, Sums, Task, register

__all__ = [
    "Client", "ClientTask", "Codec", "Comparison", "ConfigError", "Context", "Dataset", "Error", "Model", "Parameters", "Partition", "Report", "Round", "Run", "StorageError",
    "Strategy", "Stream", "Study", "Sums", "Task", "Update", "__version__", "codec", "compare", "load_run", "register", "simulate", "stream", "study",
]

_HOMES = {
    "_client": ["Client", "ClientTask"],
    "_codec": ["Codec", "codec"],
    "_data": ["Dataset", "Partition"],
    "_engine": ["Context", "Error", "Parameters", "StorageError", "Update", "__version__"],
    "_run": ["Comparison", "ConfigError", "Model", "Report", "Round", "Run", "Stream", "Study", "compare", "load_run", "simulate", "stream", "study"],
    "_strategy": ["Strategy", "Sums", "Task", "register"],
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(_import_module(f".{home}", __name__), name)
            globals()[name] = value
            return value
    if name in _HOMES or name == "testing":
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
