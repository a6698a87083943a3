from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

__version__: str

class Error(RuntimeError):
    """What a configuration, a file, a client or a strategy did wrong, in one line."""

class StorageError(Error):
    """A full disk, say: it ends the run and not a client."""

Floats = npt.NDArray[np.float32]

class Parameters:
    """Named float32 tensors in one buffer: a model, an update, a control variate. `parameters[name]` and `.values` are views."""

    @property
    def names(self) -> List[str]: ...
    @property
    def trainable(self) -> List[str]:
        """Names of the tensors that optimizers change; statistics and counters are not among them."""
    @property
    def trainable_mask(self) -> npt.NDArray[np.bool_]:
        """One truth value per value: whether it belongs to a trainable tensor."""
    @property
    def values(self) -> Floats:
        """All values, one after the other: a view. Set by as many, in one dimension."""
    @values.setter
    def values(self, values: npt.ArrayLike) -> None: ...
    def __getitem__(self, name: str) -> Floats: ...
    def __setitem__(self, name: str, values: npt.ArrayLike) -> None:
        """Of the tensor's very shape."""
    def __contains__(self, name: object) -> bool: ...
    def __len__(self) -> int: ...
    def copy(self) -> "Parameters": ...
    def zeros(self) -> "Parameters":
        """Of the same tensors, all 0."""
    def apply(self, mean: "Parameters", lr: float = 1.0) -> None:
        """Adds lr times the mean change of what is trained; statistics take theirs whole, counters are rounded: FedAvg's step of the server."""

class Update:
    """What a client returns; the engine's from then on."""

    @property
    def delta(self) -> Parameters:
        """Weights after the training minus before."""
    weight: float
    """Of delta in the round's mean, from 0 to num_samples (or 1); num_samples unless it is set."""
    @property
    def num_samples(self) -> float: ...
    @property
    def steps(self) -> float: ...
    def add(self, name: str, values: Parameters, weight: float = 1.0) -> None:
        """One more payload, with a weight as delta's; the strategy's `payloads` names it."""
    def add_scalar(self, name: str, value: float) -> None: ...

class Context:
    """What a client half works with during one task."""

    @property
    def client(self) -> int: ...
    @property
    def round(self) -> int: ...
    @property
    def lr(self) -> float:
        """The round's learning rate."""
    @property
    def num_samples(self) -> int: ...
    @property
    def key(self) -> int:
        """A number that is this client's in this round: seed what is random with it."""
    @property
    def remembered(self) -> Dict[str, Parameters]:
        """What remember() kept in the client's last round, by name."""
    def remember(self, name: str, values: Parameters) -> None: ...
    def train(self, before_step: Optional[Callable[[Floats, Floats], None]] = None, after_step: Optional[Callable[[Floats], None]] = None) -> Update:
        """The engine's own training of the task's model. before_step(weights, gradients) may change the gradients of a step, after_step(weights) the weights: views of
        one flat buffer, for the call alone."""

class Codec:
    """Made by espalier.codec()."""

    def __init__(self, stages: str) -> None: ...
    def encode(self, array: npt.ArrayLike, key: int = 0) -> bytes:
        """The message, whose randomness follows from `key`. Values that are not finite raise Error."""
    def decode(self, message: bytes, shape: Sequence[int]) -> Floats:
        """The array again; Error for anything that encode() of this codec did not make."""
    def evaluate(self, array: npt.ArrayLike, trials: int = 10, seed: int = 1) -> Dict[str, float]:
        """vnmse, bias2, bits_per_coordinate and encoded_bytes over so many keys."""
    @property
    def unbiased(self) -> bool: ...
    @property
    def lossless(self) -> bool: ...

class Data:
    mean: List[float]
    stddev: List[float]
    def __init__(self, name: str, inputs: npt.NDArray[Any], labels: List[int], test_inputs: npt.NDArray[Any], test_labels: List[int], classes: int, vocabulary: int,
                 client_of_sample: List[int], client_names: List[str], mean: List[float], stddev: List[float]) -> None: ...
    def partition(self, options: str, seed: int) -> List[npt.NDArray[np.uint32]]: ...

class Run:
    def __init__(self, config: str, assignments: List[str], out: str, beside: str, resume: str, threads: int, data: Optional[Data], stop_after: int = 0) -> None: ...
    def next(self, seconds: float) -> Optional[str]: ...
    def over(self) -> bool: ...
    def stop(self) -> None: ...
    def end(self) -> None: ...

class ClientRun:
    """Only in builds with a network."""

    def __init__(self, options: str, data: Optional[Data], trains: bool, evaluates: bool) -> None: ...
    def next(self, seconds: float) -> Optional[Tuple[Any, ...]]: ...
    def over(self) -> bool: ...
    @property
    def rounds(self) -> int: ...
    def answer(self, figures: str) -> None: ...
    def fail(self, why: str) -> None: ...
    def before_step(self, weights: Parameters, gradients: Parameters) -> None: ...
    def after_step(self, weights: Parameters) -> None: ...
    def stop(self) -> None: ...
    def end(self) -> None: ...

def read_config(path: str) -> str: ...
def compare_text(folders: List[str]) -> str: ...
def compare_json(folders: List[str]) -> str: ...
def write_html(folders: List[str], file: str) -> None: ...
def register_strategy(name: str, cls: type, summary: str, defaults: str, own_client: bool) -> None: ...
