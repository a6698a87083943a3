"""One client of a network: `espalier serve` on the other side, any framework on this one."""
from __future__ import annotations

import json
import math
import operator
import os
import pathlib
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from . import _engine
from ._data import Dataset
from ._engine import Parameters
from ._live import keep_track

PathLike = Union[str, "os.PathLike[str]"]
Figures = Mapping[str, float]


class ClientTask:
    """What a client is asked to train for one round."""

    def __init__(self, engine: Any, said: Mapping[str, Any]) -> None:
        #: From 1.
        self.round: int = said["round"]
        #: Of this client.
        self.num_samples: int = said["num_samples"]
        #: What samples look like to the run's model: kind ("images", "floats", "tokens"), shape (channels first), classes, vocabulary, and mean and stddev per channel: an
        #: image goes in as (pixel/255 - mean)/stddev.
        self.data: Dict[str, Any] = said["data"]
        #: The run's [train] keys for this round: lr, epochs, batch_size, momentum, …
        self.options: Dict[str, Any] = said["options"]
        #: Of this client in this round: the same whenever the task is done again.
        self.seed: int = said["seed"]
        #: `before_step(weights, gradients)` adds the strategy's term (FedProx, SCAFFOLD) to the gradients of one step, in place; both are Parameters. None: no term.
        self.before_step: Optional[Callable[[Parameters, Parameters], None]] = engine.before_step if said["before_step"] else None
        #: `after_step(weights)` changes the weights after one step, in place. None: nothing to do.
        self.after_step: Optional[Callable[[Parameters], None]] = engine.after_step if said["after_step"] else None

    @property
    def lr(self) -> float:
        return float(self.options["lr"])

    @property
    def epochs(self) -> int:
        return int(self.options["epochs"])

    @property
    def batch_size(self) -> int:
        return int(self.options["batch_size"])

    def __repr__(self) -> str:
        return f"<ClientTask: round {self.round}, {self.num_samples} samples, lr {self.lr}, {self.epochs} epochs of batches of {self.batch_size}>"


Train = Callable[[Parameters, ClientTask], Optional[Figures]]
Evaluate = Callable[[Parameters], Union[Figures, Tuple[float, float]]]


def _existing(path: Optional[PathLike], what: str) -> str:
    if path is None:
        raise _engine.Error(f"[python] {what} is missing: ca, cert and key are what `espalier pki` made for this client (or pki=FOLDER, client=ID on one machine)")
    return os.fspath(path)


class Client:
    """One client of `espalier serve`, in any framework or in none.

        def train(weights, task):                 # weights["conv1.weight"] is a NumPy view: change it in place
            net.load_state_dict({name: torch.from_numpy(weights[name].copy()) for name in weights.names})
            ...                                   # task.lr, task.epochs, task.batch_size, task.seed
            for name, value in net.state_dict().items():
                weights[name] = value.numpy()
            return {"loss": loss, "accuracy": accuracy}

        espalier.Client("server:8443", ca="ca.pem", cert="client-3.pem", key="client-3.key", train=train, num_samples=600).run()

    server: host and port. ca, cert, key: PEM files; or pki and client, for tries on one machine; or client and insecure=True, on loopback.
    train(weights, task): trains `weights` in place by its own data; returns what it knows of loss, accuracy (0 to 1), steps (taken; by default what [train] says), samples
    (seen, all epochs together) and macs (multiply-accumulates), or None. `task.data` says how the run's model expects samples. Without it the engine trains on `data`, as `espalier join` does.
    evaluate(weights): (loss, accuracy) of the weights on the client's test samples, or {"loss": …, "accuracy": …}; needs num_test_samples.
    num_samples, num_test_samples: what the client has; by default those of `data`. folder: what the client keeps between rounds and after a stop; one of its own for
    every client. memory_mb: that training may take; tasks beyond it fail. module: the TorchScript file of a run that trains one. progress: lines on standard error.

    What leaves this machine is what the run's strategy sends (weights, coded), the figures above and the numbers of samples. Strategies that need more of a trainer than
    this (FedGKT, AutoFLIP, FjORD) fail with an error that says so.
    """

    def __init__(self, server: str, *, ca: Optional[PathLike] = None, cert: Optional[PathLike] = None, key: Optional[PathLike] = None, pki: Optional[PathLike] = None,
                 client: Optional[int] = None, insecure: bool = False, data: Optional[Dataset] = None, train: Optional[Train] = None, evaluate: Optional[Evaluate] = None,
                 num_samples: Optional[int] = None, num_test_samples: Optional[int] = None, folder: PathLike = "espalier-client", device: str = "python", memory_mb: int = 0,
                 module: Optional[PathLike] = None, retry_max_s: int = 300, progress: bool = True) -> None:
        if not hasattr(_engine, "ClientRun"):
            raise _engine.Error("[python] this build of espalier has no network: configure it with ESPALIER_RPC=ON")
        if train is None and data is None:
            raise _engine.Error("[python] a client needs train=FUNCTION, or data=Dataset for the engine to train on")
        if evaluate is not None and train is None:
            raise _engine.Error("[python] evaluate=FUNCTION goes with train=FUNCTION; without it the engine evaluates on the data's test part")
        memory_mb, retry_max_s = _whole(memory_mb, "memory_mb", 0), _whole(retry_max_s, "retry_max_s", 1, 86400)
        client = None if client is None else _whole(client, "client", 0)
        num_samples = None if num_samples is None else _whole(num_samples, "num_samples", 1)
        num_test_samples = None if num_test_samples is None else _whole(num_test_samples, "num_test_samples", 0)
        options: Dict[str, Any] = {"server": server, "folder": os.fspath(folder), "device": device, "memory_mb": memory_mb, "retry_max_s": retry_max_s}
        if insecure:
            if client is None:
                raise _engine.Error("[python] insecure=True needs client=ID: who this is")
            options["client"] = client
        elif pki is not None:
            if client is None:
                raise _engine.Error("[python] pki=FOLDER needs client=ID: whose certificate it is")
            clients = pathlib.Path(pki) / "clients"
            options.update(ca=str(pathlib.Path(pki) / "ca.pem"), cert=str(clients / f"client-{client}.pem"), key=str(clients / f"client-{client}.key"))
        else:
            options.update(ca=_existing(ca, "ca"), cert=_existing(cert, "cert"), key=_existing(key, "key"))
        if module is not None:
            options["module"] = os.fspath(module)
        if train is not None:
            samples = num_samples if num_samples is not None else len(data) if data is not None else 0
            if samples < 1:
                raise _engine.Error("[python] train=FUNCTION needs num_samples (or data): the server weighs updates by it")
            tests = num_test_samples if num_test_samples is not None else len(data.test_inputs) if data is not None else 0
            options.update(num_samples=samples, num_test_samples=tests if evaluate is not None else 0)
            if evaluate is not None and tests < 1:
                raise _engine.Error("[python] evaluate=FUNCTION needs num_test_samples (or data)")
        self._options, self._data, self._train, self._evaluate, self._progress, self._stop = options, data, train, evaluate, progress, threading.Event()

    def stop(self) -> None:
        """Makes run(), or the next one, return: from another thread or from a function of the client's. Running again goes on. Training that the engine does is finished first."""
        self._stop.set()

    def run(self) -> int:
        """Takes part until the run is complete, or until stop(); returns the number of tasks that it has answered, evaluations among them.

        Waits for a server that is not there, and goes on where it was after any break: of the connection, of the server, of this program (the same `folder`). An
        exception in train() or evaluate() is told to the server as this client's failure of the round and raised here, as is an Error for what they return; Ctrl-C is raised
        without telling the server. Raises Error when the server refuses the client or ends the run early.
        """
        engine = keep_track(_engine.ClientRun(json.dumps(self._options), self._data._data if self._data is not None else None, self._train is not None, self._evaluate is not None))
        try:
            while True:
                if self._stop.is_set():
                    engine.stop()
                event = engine.next(0.1)
                if event is None:
                    if engine.over():
                        return int(engine.rounds)
                    continue
                said = json.loads(event[1])
                if event[0] == "say":
                    self._say(said["line"])
                elif event[0] == "failed":
                    if self._train is not None:
                        raise _engine.Error(said["why"])
                elif not self._stop.is_set():
                    try:
                        figures = self._work(event[0], said, event[2], engine)
                    except Exception as error:
                        self._fail(engine, f"{type(error).__name__}: {error}")
                        raise
                    engine.answer(json.dumps(figures))
        finally:
            engine.end()
            self._stop.clear()

    def _work(self, what: str, said: Mapping[str, Any], weights: Parameters, engine: Any) -> Dict[str, float]:
        if what == "train":
            assert self._train is not None
            return _figures(self._train(weights, ClientTask(engine, said)) or {}, ("loss", "accuracy", "steps", "samples", "macs"), "train")
        assert self._evaluate is not None
        result = self._evaluate(weights)
        if isinstance(result, tuple):
            loss, accuracy = result
            result = {"loss": loss, "accuracy": accuracy}
        figures = _figures(result, ("loss", "accuracy"), "evaluate")
        for name in ("loss", "accuracy"):
            if name not in figures:
                raise ValueError(f"evaluate() returns (loss, accuracy) or a dictionary of them; it has told no {name}")
        count = int(self._options["num_test_samples"])
        return {"loss": figures["loss"], "correct": round(figures["accuracy"] * count), "count": count}

    def _fail(self, engine: Any, why: str) -> None:
        """Waits until the server has heard of it, but not long where it cannot be reached."""
        engine.fail(why)
        until = time.monotonic() + 20
        while not engine.over() and time.monotonic() < until and not self._stop.is_set():
            try:
                event = engine.next(0.1)
            except _engine.Error:
                return
            if event is None:
                continue
            if event[0] == "failed":
                return
            if event[0] == "say":
                self._say(json.loads(event[1])["line"])
            else:
                engine.fail(why)  # asked again before it was told

    def _say(self, line: str) -> None:
        if self._progress:
            print(line, file=sys.stderr, flush=True)


def _whole(value: Any, what: str, least: int, most: int = 2**53) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what}: expected a whole number, got {value!r}") from None
    if not least <= number <= most:
        raise ValueError(f"{what}: expected {least} to {most}, got {number}")
    return number


def _figures(given: Any, known: Tuple[str, ...], function: str) -> Dict[str, float]:
    if not isinstance(given, Mapping):
        forms = "(loss, accuracy) or a dictionary of them" if function == "evaluate" else f"a dictionary of figures ({', '.join(known)}) or None"
        raise TypeError(f"{function}() returns {forms}, not {type(given).__name__}")
    out: Dict[str, float] = {}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{function}(): unknown figure {name!r}; known are {', '.join(known)}")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{function}(): {name} is {number}")
        if number < 0 or (name == "accuracy" and number > 1):
            raise ValueError(f"{function}(): {name} is {number}; expected {'0 to 1' if name == 'accuracy' else 'at least 0'}")
        out[name] = int(number) if name in ("steps", "samples", "macs") else number
    return out
