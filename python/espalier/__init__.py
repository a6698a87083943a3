"""Federated learning for clients short of bandwidth, compute and memory.

    import espalier
    run = espalier.simulate("examples/fashion-mnist.toml", rounds=5, **{"strategy.name": "fedprox"})
    run.metrics["accuracy"]

The engine is the command line's: the same configuration ends in the same bytes. Every key of a
configuration: `espalier list options`.
"""
from ._client import Client, ClientTask
from ._data import Dataset, Partition
from ._engine import Context, Error, Parameters, StorageError, Update, __version__
from ._run import Comparison, ConfigError, Model, Report, Round, Run, Stream, Study, compare, load_run, simulate, stream, study
from ._strategy import Strategy, Sums, Task, register
from ._codec import Codec, codec

__all__ = [
    "Client", "ClientTask", "Codec", "Comparison", "ConfigError", "Context", "Dataset", "Error", "Model", "Parameters", "Partition", "Report", "Round", "Run", "StorageError", "Strategy", "Stream",
    "Study", "Sums", "Task", "Update", "__version__", "codec", "compare", "load_run", "register", "simulate", "stream", "study",
]
