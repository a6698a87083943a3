"""Arrays as data sets: nothing is copied where type and layout allow."""
from __future__ import annotations

import json
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from . import _engine


def _array(values: Any, what: str) -> npt.NDArray[Any]:
    """NumPy's view of an array, a tensor or a data frame."""
    if hasattr(values, "detach"):  # torch: without its gradients, on this machine's memory
        values = values.detach().cpu()
    if hasattr(values, "to_numpy"):  # pandas
        values = values.to_numpy()
    try:
        return np.asarray(values)
    except Exception as error:
        raise TypeError(f"{what}: expected an array, got {type(values).__name__}") from error


def _inputs(values: Any, layout: Optional[str]) -> npt.NDArray[Any]:
    array = _array(values, "inputs")
    if array.ndim < 2:
        raise ValueError(f"inputs: expected (samples, ...), got shape {array.shape}")
    if array.dtype == np.uint8:
        if array.ndim == 3:
            array = array[..., np.newaxis]
        if array.ndim != 4:
            raise ValueError(f"uint8 inputs are images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), got {array.shape}; measured values are float32")
        if layout is None:
            last, first = array.shape[3] in (1, 3, 4), array.shape[1] in (1, 3, 4)
            if not last and not first:
                raise ValueError(f"which axis of {array.shape} holds the channels? Say layout=\"NHWC\" or \"NCHW\"")
            layout = "NHWC" if last else "NCHW"
        if layout not in ("NHWC", "NCHW"):
            raise ValueError(f"layout is \"NHWC\" or \"NCHW\", not {layout!r}")
        return np.ascontiguousarray(array if layout == "NHWC" else array.transpose(0, 2, 3, 1))
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind in "iu":
        if array.ndim != 2:
            raise ValueError(f"integer inputs are token sequences of shape (N, length), got {array.shape}; pixels are uint8, measured values float32")
        return np.ascontiguousarray(array, dtype=np.int32)
    raise TypeError(f"inputs: expected uint8 images, floating-point values or integer tokens, got {array.dtype}")


def _labels(values: Any, samples: int, what: str) -> npt.NDArray[Any]:
    labels = _array(values, what).reshape(-1)
    if labels.dtype.kind not in "iub":
        if labels.dtype.kind != "f" or not np.all(labels == np.round(labels)):
            raise TypeError(f"{what}: expected class numbers from 0, got {labels.dtype}")
    if len(labels) != samples:
        raise ValueError(f"{what}: expected {samples}, one per sample, got {len(labels)}")
    if samples and labels.min() < 0:
        raise ValueError(f"{what}: class numbers begin at 0, got {labels.min()}")
    return labels.astype(np.int32)


class Partition:
    """Which client has which samples."""

    def __init__(self, samples: List[npt.NDArray[Any]], labels: npt.NDArray[Any], classes: int) -> None:
        #: Indices of each client's samples, ascending.
        self.samples = samples
        #: Samples per client.
        self.counts = np.array([len(one) for one in samples])
        #: Samples of each class (columns) at each client (rows): `plt.imshow(partition.histogram)`.
        self.histogram = np.stack([np.bincount(labels[one], minlength=classes) for one in samples]) if samples else np.zeros((0, classes), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"<Partition: {len(self)} clients of {self.counts.min()} to {self.counts.max()} samples>"


class Dataset:
    """Labeled samples in arrays, for `simulate(data=...)`.

    inputs: uint8 images (N, H, W), (N, H, W, C) or (N, C, H, W); floating-point values of any shape (channels first, where they are images); or integer tokens
    (N, length). labels: class numbers from 0, one per sample. NumPy arrays, torch tensors and pandas objects; contiguous uint8 in NHWC and contiguous float32 are used
    where they lie, and must not change while a run goes on.

    test: (inputs, labels), or a share of the samples, drawn by `seed`, that is held out for evaluation.
    clients: the owner of each sample, by number or name: the clients of a natural partition. With a data frame as inputs, `clients` and `labels` may name its columns.
    classes, vocabulary: numbers of classes and tokens; by default what the arrays need. mean, stddev: of pixels/255 per channel; by default those of the training images.
    The configuration's `data.normalize` says whether images are normalized by these ("dataset"), divided by 255 ("unit") or read as they are ("none").
    """

    def __init__(self, inputs: Any, labels: Any, *, clients: Any = None, test: Union[None, float, Tuple[Any, Any], "Dataset"] = 0.1, layout: Optional[str] = None,
                 classes: Optional[int] = None, vocabulary: Optional[int] = None, mean: Optional[Sequence[float]] = None, stddev: Optional[Sequence[float]] = None,
                 name: str = "arrays", seed: int = 0) -> None:
        if hasattr(inputs, "columns"):
            named = [column for column in (labels, clients) if isinstance(column, str)]
            frame, labels = inputs, inputs[labels] if isinstance(labels, str) else labels
            clients = frame[clients] if isinstance(clients, str) else clients
            inputs = frame.drop(columns=named).to_numpy(dtype=np.float32)
        self.inputs = _inputs(inputs, layout)
        self.labels = _labels(labels, len(self.inputs), "labels")
        owners = None if clients is None else _array(clients, "clients").reshape(-1)
        if owners is not None and len(owners) != len(self.inputs):
            raise ValueError(f"clients: expected {len(self.inputs)}, one per sample, got {len(owners)}")
        if isinstance(test, Dataset):
            self.test_inputs, self.test_labels = test.inputs, test.labels
        elif isinstance(test, (float, int)) and not isinstance(test, bool):
            if not 0 < test < 1:
                raise ValueError(f"test: a share of the samples between 0 and 1, or (inputs, labels), got {test}")
            order = np.random.default_rng(seed).permutation(len(self.inputs))
            held = np.sort(order[:max(1, round(test * len(order)))])
            rest = np.sort(order[len(held):])
            self.test_inputs, self.test_labels = self.inputs[held], self.labels[held]
            self.inputs, self.labels = self.inputs[rest], self.labels[rest]
            owners = None if owners is None else owners[rest]
        elif test is None:
            raise ValueError("test: say (inputs, labels) to evaluate on, or the share of the samples that is held out")
        else:
            self.test_inputs = _inputs(test[0], layout)
            self.test_labels = _labels(test[1], len(self.test_inputs), "test labels")
        if not len(self.inputs) or not len(self.test_inputs):
            raise ValueError("there are no samples to train on, or none to evaluate on")
        self.classes = int(classes if classes is not None else max(self.labels.max(), self.test_labels.max()) + 1)
        tokens = self.inputs.dtype == np.int32
        self.vocabulary = int(vocabulary if vocabulary is not None else max(self.inputs.max(), self.test_inputs.max()) + 1) if tokens else 0
        self.name = name
        self.client_names: List[str] = []
        numbers = np.zeros(0, dtype=np.uint32)
        if owners is not None:
            names, numbers = np.unique(owners, return_inverse=True)
            self.client_names = [str(one) for one in names]
        self.clients: Optional[npt.NDArray[Any]] = numbers if owners is not None else None
        self._data = _engine.Data(name, self.inputs, self.labels.tolist(), self.test_inputs, self.test_labels.tolist(), self.classes, self.vocabulary, numbers.tolist(),
                                  self.client_names, list(mean or []), list(stddev or []))

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        owners = f", {len(self.client_names)} clients" if self.client_names else ""
        return f"<Dataset {self.name}: {len(self)} + {len(self.test_inputs)} samples of {self.inputs.shape[1:]} {self.inputs.dtype}, {self.classes} classes{owners}>"

    def partition(self, name: Optional[str] = None, *, seed: int = 0, **options: Any) -> Partition:
        """Who would hold what: `data.partition("dirichlet", clients=100, alpha=0.5)`, with the keys of `[data.partition]` and the seed of the run."""
        chosen: Mapping[str, Any] = {"name": name or ("natural" if self.client_names else "iid"), **options}
        return Partition(self._data.partition(json.dumps(chosen), seed), self.labels, self.classes)
