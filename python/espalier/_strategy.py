"""Algorithms of one's own, in Python, on the engine."""
from __future__ import annotations

import io
import json
import math
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Sequence, Type, TypeVar

import numpy as np

from . import _engine
from ._engine import Context, Parameters, Update
from ._json import json_text


def _payload(name: str, values: Any) -> Parameters:
    if not isinstance(values, Parameters):
        raise TypeError(f"a task's payload {name!r} is Parameters, not {type(values).__name__}: fill model.copy() or model.zeros(), and add that; numbers go into task.scalars")
    return values


def _scalar(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"a task's scalar {name!r} is a number, not {value!r}") from None


def _names(payloads: Any) -> List[str]:
    names = [] if isinstance(payloads, str) or not isinstance(payloads, Sequence) else list(payloads)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"payloads are names in a tuple, such as (\"delta\", \"control_delta\") or (\"delta\",), not {payloads!r}")
    return names


def _options(cls: Type[Strategy]) -> Dict[str, Any]:
    """Of the kinds that a configuration and a task can hold."""
    options = json.loads(json_text(dict(cls.options)))
    for name, value in options.items():
        if not isinstance(value, (bool, int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
            raise TypeError(f"{cls.__name__}.options: {name!r} is {value!r}; options are truth values, numbers and texts")
    return dict(options)


def _plain(value: Any, where: str) -> Any:
    """Of a state, what JSON gives back as it was."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(one, where) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(one, where) for key, one in value.items()}
    kind = "a table whose keys are no texts" if isinstance(value, Mapping) else type(value).__name__
    if isinstance(value, np.ndarray):
        kind = "an array of objects" if value.dtype.hasobject else "an array within a list or table"
    raise TypeError(f"{where} holds {kind}; a checkpoint keeps Parameters and arrays of numbers, each under a name of its own, and numbers, texts, lists and tables of these")


class Task:
    """What goes to one client: named parameters and numbers."""

    def __init__(self, client: int, lr: float, payloads: Dict[str, Parameters], scalars: Dict[str, float]) -> None:
        self.client, self.lr, self.payloads, self.scalars = client, lr, payloads, scalars

    def add(self, name: str, values: Parameters) -> None:
        """One more payload. What may still be changed is copied, and what is shared is not."""
        self.payloads[name] = _payload(name, values)

    def __getitem__(self, name: str) -> Parameters:
        return self.payloads[name]


class Sums:
    """What the clients of a round have sent, added exactly: the order in which they answer changes no bit. The means may be kept; sum() is for the call of finish() alone."""

    def __init__(self, means: Dict[str, Parameters], num_updates: int, total: Callable[[str], float]) -> None:
        self._means, self.num_updates, self._total = means, num_updates, total

    def mean(self, name: str = "delta") -> Parameters:
        """The weighted mean of a payload."""
        return self._means[name]

    def sum(self, scalar: str) -> float:
        """The sum of a scalar over the clients."""
        return self._total(scalar)


class Strategy:
    """A federated algorithm. What is not overridden is FedAvg's.

    `options` are its keys of `[strategy]` with their defaults; an object has them as attributes. An object on the server is asked for tasks and finishes rounds; where
    `run_client` is overridden, another one does the client's half (it sees the task alone, as a device would).
    """

    #: Keys of [strategy] and their defaults: truth values, numbers, texts.
    options: ClassVar[Mapping[str, Any]] = {}
    #: What an update carries, by name: a tuple or a list.
    payloads: Sequence[str] = ("delta",)
    #: Whether clients remember something between rounds (Context.remember).
    client_state: bool = False

    def __init__(self, **options: Any) -> None:
        for name, value in {**self.options, **options}.items():
            setattr(self, name, value)

    def start(self, model: Parameters, num_clients: int) -> None:
        """Before the first round; `model` has the model's tensors, all 0, and `num_clients` are those that may be selected (of `strategy.device`, where one is named)."""

    def configure(self, round: int, model: Parameters, task: Task) -> None:
        """Fills a client's task. Asked twice about the same client and round it says the same. A `model` that is kept stays as it is: the round's end changes another one."""
        task.add("model", model)

    def run_client(self, context: Context, task: Task) -> Update:
        """The client's half; by default the engine's own training, which then is called without Python."""
        return context.train()

    def finish(self, round: int, sums: Sums, model: Parameters) -> None:
        """All updates are in: changes the model, which is lent for this call; arrays of it that are kept show it as it was at its end."""
        model.apply(sums.mean("delta"))

    def state(self) -> Dict[str, Any]:
        """What a checkpoint keeps of the server's half: Parameters, arrays, numbers, texts and lists by name."""
        return {}

    def restore(self, state: Dict[str, Any]) -> None:
        """The reverse, after start(): Parameters come back as arrays."""
        if state:
            raise _engine.Error(f"[strategy] {type(self).__name__} has state() and no restore()")

    # ---- called by the engine
    def _configure(self, round: int, model: Parameters, client: int, lr: float) -> Dict[str, Any]:
        task = Task(client, lr, {}, {})
        self.configure(round, model, task)
        return {"payloads": {name: _payload(name, values) for name, values in task.payloads.items()}, "scalars": {name: _scalar(name, value) for name, value in task.scalars.items()}}

    def _payloads(self) -> List[str]:
        return _names(self.payloads)

    def _run_client(self, context: Context, payloads: Dict[str, Parameters], scalars: Dict[str, float]) -> Update:
        update = self.run_client(context, Task(context.client, context.lr, payloads, scalars))
        if not isinstance(update, Update):
            raise TypeError(f"run_client returns an Update (context.train() makes one), not {type(update).__name__}")
        return update

    def _finish(self, round: int, means: Dict[str, Parameters], num_updates: int, total: Callable[[str], float], model: Parameters) -> None:
        self.finish(round, Sums(means, num_updates, total), model)

    def _save(self) -> bytes:
        arrays, rest = {}, {}
        for name, value in self.state().items():
            where = f"{type(self).__name__}.state(): {name!r}"
            if isinstance(value, Parameters):
                arrays[name] = value.values
            elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
                arrays[name] = value
            else:
                rest[name] = _plain(value, where)
        out = io.BytesIO()
        np.savez(out, **{"": np.frombuffer(json.dumps(rest, sort_keys=True).encode(), dtype=np.uint8)}, **arrays)
        return out.getvalue()

    def _load(self, data: bytes) -> None:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            state: Dict[str, Any] = json.loads(bytes(found[""]).decode())
            state.update({name: found[name] for name in found.files if name})
        self.restore(state)


_Class = TypeVar("_Class", bound=Type[Strategy])


def register(name: str, *, summary: Optional[str] = None) -> Callable[[_Class], _Class]:
    """A class decorator: from now on `strategy.name = name` of a configuration means this class.

    The last class of a name counts, so that a notebook's cell may run again; built-in names are refused.
    """

    def decorate(cls: _Class) -> _Class:
        if not issubclass(cls, Strategy):
            raise TypeError("register() is for subclasses of espalier.Strategy")
        own_client = cls.run_client is not Strategy.run_client
        if not isinstance(cls.payloads, property):
            _names(cls.payloads)
        text = summary or (cls.__doc__ or "A strategy in Python").strip().splitlines()[0]
        _engine.register_strategy(name, cls, text, json.dumps(_options(cls)), own_client)
        cls.registered_name = name  # type: ignore[attr-defined]
        return cls

    return decorate
