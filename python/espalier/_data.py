"""Arrays as data sets: nothing is copied where type and layout allow."""
from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from . import _engine
from ._json import json_text


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


_MOST_IDS = 1 << 24  # classes or tokens; also of espalier/data/tensor_dataset.cpp
_KINDS = {"u": "uint8 images", "f": "float32 values", "i": "tokens"}


def _kind(inputs: npt.NDArray[Any]) -> str:
    return f"{_KINDS[inputs.dtype.kind]} of shape {inputs.shape[1:]}"


def _place(array: npt.NDArray[Any], index: int) -> str:
    """Of a value by its number: "sample 17", "sample 17, position 3", "sample 17, [0, 3, 5]"."""
    sample, *rest = (int(one) for one in np.unravel_index(index, array.shape))
    return f"sample {sample}" + (f", position {rest[0]}" if len(rest) == 1 else f", {rest}" if rest else "")


def _floats(given: npt.NDArray[Any], channels_last: bool, what: str) -> npt.NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.ascontiguousarray(given.transpose(0, 3, 1, 2) if channels_last else given, dtype=np.float32)
        if not array.size or (np.isfinite(array.min()) and np.isfinite(array.max())):
            return array
        wrong = ~np.isfinite(given.astype(np.float32))
    first = int(wrong.argmax())
    value = given.flat[first]
    advice = "scale values that float32 cannot hold" if np.isfinite(value) else "fill missing values, or drop their samples"
    raise ValueError(f"{what}: expected finite float32 values, got {value} ({_place(given, first)}; {np.count_nonzero(wrong)} of {wrong.size} values); {advice}")


def _ids(given: npt.NDArray[Any], what: str, of: str, advice: str) -> npt.NDArray[Any]:
    """Class numbers or tokens as int32, which larger ones do not become unnoticed."""
    if given.size and (given.min() < 0 or given.max() >= _MOST_IDS):
        first = int(((given < 0) | (given >= _MOST_IDS)).argmax())
        raise ValueError(f"{what}: expected {of} from 0 to {_MOST_IDS - 1}, got {given.flat[first]} ({_place(given, first)}); {advice}")
    return np.ascontiguousarray(given, dtype=np.int32)


def _inputs(values: Any, layout: Optional[str], what: str = "inputs") -> npt.NDArray[Any]:
    array = _array(values, what)
    if array.ndim < 2:
        raise ValueError(f"{what}: expected (samples, ...), got shape {array.shape}")
    if layout not in (None, "NHWC", "NCHW"):
        raise ValueError(f"layout is \"NHWC\" or \"NCHW\", not {layout!r}")
    if layout is not None and array.ndim != 4:
        raise ValueError(f"layout says where images of four dimensions have their channels, and the {what} have shape {array.shape}; leave it out")
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
        return np.ascontiguousarray(array if layout == "NHWC" else array.transpose(0, 2, 3, 1), dtype=np.uint8)
    if array.dtype.kind == "f":
        return _floats(array, layout == "NHWC", what)
    if array.dtype.kind in "iu":
        if array.ndim != 2:
            raise ValueError(f"integer inputs are token sequences of shape (N, length), got {array.shape}; pixels are uint8, measured values float32")
        return _ids(array, what, "tokens", "measured values are float32")
    raise TypeError(f"{what}: expected uint8 images, floating-point values or integer tokens, got {array.dtype}")


def _labels(values: Any, samples: int, what: str) -> npt.NDArray[Any]:
    labels = _array(values, what).reshape(-1)
    if labels.dtype.kind not in "iub":
        if labels.dtype.kind != "f" or not np.all(labels == np.round(labels)):
            raise TypeError(f"{what}: expected class numbers from 0, got {labels.dtype}")
    if len(labels) != samples:
        raise ValueError(f"{what}: expected {samples}, one per sample, got {len(labels)}")
    return _ids(labels, what, "class numbers", "they begin at 0, and samples without a class are left out").copy()


def _per_channel(values: Any, inputs: npt.NDArray[Any], what: str) -> List[float]:
    if inputs.dtype != np.uint8:
        raise ValueError(f"{what}: uint8 images are normalized by it, and {_kind(inputs)} are read as they are; leave it out")
    numbers: List[float] = _array(values, what).astype(np.float64).reshape(-1).tolist()
    if len(numbers) != inputs.shape[3]:
        raise ValueError(f"{what}: expected {inputs.shape[3]}, one per channel, got {len(numbers)}")
    return numbers


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

    inputs: uint8 images (N, H, W), (N, H, W, C) or (N, C, H, W); floating-point values of any shape (channels first, where they are images), all finite; or integer tokens
    (N, length). labels: class numbers from 0, one per sample. NumPy arrays, torch tensors and pandas objects; contiguous uint8 in NHWC and contiguous float32 are used
    where they lie, and must not change while a run goes on. layout: "NHWC" or "NCHW", where images of four dimensions have their channels; by default what the shape
    of uint8 says, and channels first for floating-point values.

    test: (inputs, labels), of the same kind and shape; another Dataset, all of its samples, those that it holds out itself too; or a share of the samples, drawn by
    `seed`, that is held out for evaluation.
    clients: the owner of each sample, by number or name: the clients of a natural partition. With a data frame as inputs, `clients` and `labels` may name its columns.
    classes, vocabulary: numbers of classes and tokens; by default what the arrays need. mean, stddev: of pixels/255 per channel of uint8 images, both or
    neither; by default those of the training images.
    The configuration's `data.normalize` says whether images are normalized by these ("dataset"), divided by 255 ("unit") or read as they are ("none").
    """

    test_inputs: npt.NDArray[Any]
    test_labels: npt.NDArray[Any]

    def __init__(self, inputs: Any, labels: Any, *, clients: Any = None, test: Union[None, float, Tuple[Any, Any], "Dataset"] = 0.1, layout: Optional[str] = None,
                 classes: Optional[int] = None, vocabulary: Optional[int] = None, mean: Union[None, Sequence[float], npt.NDArray[Any]] = None,
                 stddev: Union[None, Sequence[float], npt.NDArray[Any]] = None,
                 name: str = "arrays", seed: int = 0) -> None:
        if hasattr(inputs, "columns"):
            named = [column for column in (labels, clients) if isinstance(column, str)]
            frame, labels = inputs, inputs[labels] if isinstance(labels, str) else labels
            clients = frame[clients] if isinstance(clients, str) else clients
            with np.errstate(over="ignore"):
                inputs = frame.drop(columns=named).to_numpy(dtype=np.float32, na_value=np.nan)
        self.inputs = _inputs(inputs, layout)
        self.labels = _labels(labels, len(self.inputs), "labels")
        owners = None if clients is None else _array(clients, "clients").reshape(-1)
        if owners is not None and len(owners) != len(self.inputs):
            raise ValueError(f"clients: expected {len(self.inputs)}, one per sample, got {len(owners)}")
        if isinstance(test, Dataset):
            self.test_inputs = np.concatenate([test.inputs, test.test_inputs])
            self.test_labels = np.concatenate([test.labels, test.test_labels])
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
            self.test_inputs = _inputs(test[0], layout, "test inputs")
            self.test_labels = _labels(test[1], len(self.test_inputs), "test labels")
        if not len(self.inputs) or not len(self.test_inputs):
            raise ValueError("there are no samples to train on, or none to evaluate on")
        if self.inputs.dtype != self.test_inputs.dtype or self.inputs.shape[1:] != self.test_inputs.shape[1:]:
            raise ValueError(f"test inputs: expected samples as those to train on, {_kind(self.inputs)}, got {_kind(self.test_inputs)}")
        if (mean is None) != (stddev is None):
            raise ValueError("mean and stddev go together: give both, or neither for those of the training images")
        means = [] if mean is None else _per_channel(mean, self.inputs, "mean")
        stddevs = [] if stddev is None else _per_channel(stddev, self.inputs, "stddev")
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
                                  self.client_names, means, stddevs)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        owners = f", {len(self.client_names)} clients" if self.client_names else ""
        return f"<Dataset {self.name}: {len(self)} + {len(self.test_inputs)} samples of {self.inputs.shape[1:]} {self.inputs.dtype}, {self.classes} classes{owners}>"

    def partition(self, name: Optional[str] = None, *, seed: int = 0, **options: Any) -> Partition:
        """Who would hold what: `data.partition("dirichlet", clients=100, alpha=0.5)`, with the keys of `[data.partition]` and the seed of the run."""
        chosen: Mapping[str, Any] = {"name": name or ("natural" if self.client_names else "iid"), **options}
        return Partition(self._data.partition(json_text(chosen), seed), self.labels, self.classes)
