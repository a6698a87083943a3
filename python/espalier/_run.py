"""Runs: started, watched, read and compared."""
from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from html import escape
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from . import _engine
from ._data import Dataset
from ._json import json_text
from ._live import keep_track

PathLike = Union[str, "os.PathLike[str]"]
Round = Dict[str, Any]  #: A round's line of metrics.jsonl.
Config = Union[None, PathLike, Mapping[str, Any]]


class ConfigError(_engine.Error, ValueError):
    """What was asked for cannot be run: found before the first round."""


def _toml(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, float, np.integer, np.floating)):
        return repr(value.item() if isinstance(value, (np.integer, np.floating)) else value)
    if isinstance(value, (str, os.PathLike)):
        return json.dumps(os.fspath(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple, np.ndarray)):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    raise TypeError(f"a setting is a number, a text, a list or a table, not {type(value).__name__}")


def _assignments(settings: Mapping[str, Any]) -> List[str]:
    return [f"{key}={_toml(value)}" for key, value in settings.items()]


def _find(tree: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return tree


def _given(tree: Mapping[str, Any], settings: Mapping[str, Any], key: str) -> Any:
    """A key of a configuration with settings over it: by itself, or in a table."""
    value = _find(tree, key)
    for name, one in settings.items():
        if name == key:
            value = one
        elif key.startswith(name + "."):
            value = _find(one, key[len(name) + 1:])
    return value


def _is_path(text: str) -> bool:
    """Rather than a model's name, which has neither folder nor ending."""
    return pathlib.PurePath(text).name != text or pathlib.PurePath(text).suffix != ""


def _script(model: Any, folder: pathlib.Path) -> str:
    """A torch module as a TorchScript file."""
    import torch

    jit: Any = torch.jit
    if not isinstance(model, jit.ScriptModule):
        try:
            model = jit.script(model)
        except Exception as error:
            raise ConfigError(f"[python] torch.jit.script cannot read {type(model).__name__}: {error}") from error
    path = folder / "module.pt"
    model.save(str(path))
    return str(path)


class Model(Mapping[str, npt.NDArray[Any]]):
    """The tensors of a safetensors file by name: arrays that lie in the file until they are used."""

    def __init__(self, path: PathLike) -> None:
        self.path = pathlib.Path(path)
        with open(self.path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        self.metadata: Dict[str, str] = header.pop("__metadata__", {})
        types = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8, "I8": np.int8, "BOOL": np.bool_}
        memory = np.memmap(self.path, dtype=np.uint8, mode="r") if header else np.zeros(0, np.uint8)
        self._tensors: Dict[str, npt.NDArray[Any]] = {}
        for name, tensor in header.items():
            begin, end = (8 + size + offset for offset in tensor["data_offsets"])
            self._tensors[name] = memory[begin:end].view(types[tensor["dtype"]]).reshape(tensor["shape"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def state_dict(self) -> Dict[str, Any]:
        """The tensors as torch's, for `module.load_state_dict(run.model.state_dict())`."""
        import torch

        return {name: torch.from_numpy(np.array(values)) for name, values in self.items()}

    def __repr__(self) -> str:
        return f"<Model: {len(self)} tensors, {sum(one.size for one in self.values())} values>"


class Report:
    """A page with curves; a notebook shows it where it stands."""

    def __init__(self, path: PathLike) -> None:
        self.path = pathlib.Path(path)

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.path.read_text())}" style="width: 100%; height: 720px; border: 0"></iframe>'

    def __repr__(self) -> str:
        return f"<Report: {self.path}>"


class Run:
    """A run's folder, read."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = pathlib.Path(folder)
        if not (self.folder / "config.toml").exists():
            raise ConfigError(f"[python] {self.folder} is no run: it has no config.toml")

    @property
    def config(self) -> Dict[str, Any]:
        """Every key of the configuration, defaults included."""
        tree: Dict[str, Any] = json.loads(_engine.read_config(str(self.folder / "config.toml")))
        return tree

    @property
    def rounds(self) -> List[Round]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    @property
    def metrics(self) -> Dict[str, npt.NDArray[Any]]:
        """Columns, one value per round, NaN where a round has none: `pandas.DataFrame(run.metrics)`."""
        rounds = self.rounds
        names: Dict[str, None] = {}
        for line in rounds:
            names.update((name, None) for name, value in line.items() if isinstance(value, (int, float)) and not isinstance(value, bool))
        return {name: np.array([line.get(name, np.nan) for line in rounds]) for name in names}

    @property
    def summary(self) -> Dict[str, Any]:
        """What the run came to; empty before its end."""
        path = self.folder / "summary.json"
        summary: Dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return summary

    @property
    def model(self) -> Model:
        return Model(self.folder / "model.safetensors")

    @property
    def accuracy(self) -> float:
        """Of the last evaluation; NaN before the first."""
        evaluated = [line["accuracy"] for line in self.rounds if "accuracy" in line]
        return float(evaluated[-1]) if evaluated else float("nan")

    def export(self, path: PathLike, *, runtime: Optional[str] = None) -> Dict[str, Any]:
        """Writes the trained model as a TorchScript file that PyTorch runs by itself (`torch.jit.load(path)`), by the command line; returns its sizes, accuracy and latency.

        runtime: "pruned" (without units that do nothing) or "dense"; by default pruned where the model has a smaller network. A run on arrays cannot be exported: its
        test samples are in no file.
        """
        command = [*_command(), "export", str(self.folder), "--out", os.fspath(path), "--json", *(["--runtime", runtime] if runtime else [])]
        figures: Dict[str, Any] = json.loads(_called(command))
        return figures

    def report(self) -> Report:
        return Report(self.folder / "report.html")

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>" for key, value in self.summary.items() if not isinstance(value, (dict, list)))
        return f"<b>{escape(str(self.folder))}</b><table>{rows}</table>"

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {len(self.rounds)} rounds, accuracy {self.accuracy:.4f}>"


class Stream(Iterator[Round]):
    """A run that goes on: an iterator over its rounds, each as soon as it is done. `.run` is its folder's `Run`, `.notes` what a person should know.

    Ctrl-C, and close(), let the round in progress end; the run can be resumed then.
    """

    def __init__(self, engine: Any, temporary: Optional[tempfile.TemporaryDirectory[str]] = None) -> None:
        self._engine, self._temporary = engine, temporary
        self.notes: List[str] = []
        self.rounds = self.completed = 0
        self.size = ""
        self.finished = False
        self._run: Optional[Run] = None
        # What is wrong with a configuration shows before the first round.
        while self._run is None:
            try:
                event = self._next()
            except BaseException:
                self._clean()
                raise
            if event is None:
                raise _engine.Error("[python] the run has ended before it began")
            if event["event"] == "start":
                self._run = Run(event["folder"])
                self.rounds, self.completed, self.size = event["rounds"], event["completed"], event["size"]
                self.notes = list(event["notes"])

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    def _next(self) -> Optional[Dict[str, Any]]:
        while True:
            try:
                text = self._engine.next(0.1)
            except _engine.StorageError:
                raise
            except _engine.Error as error:
                raise (ConfigError(str(error)) if self._run is None else error) from None
            if text is not None:
                event: Dict[str, Any] = json.loads(text)
                return event
            if self._engine.over():
                self._clean()
                return None

    def _clean(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
        self._temporary = None

    def __next__(self) -> Round:
        try:
            while True:
                event = self._next()
                if event is None:
                    raise StopIteration
                if event["event"] == "round":
                    self.completed += 1
                    line: Round = event["line"]
                    return line
                if event["event"] == "note":
                    self.notes.append(event["text"])
                if event["event"] == "end":
                    self.finished = event["finished"]
        except KeyboardInterrupt:
            self.close()
            raise

    def close(self) -> None:
        """Lets the round in progress end and waits for it."""
        self._engine.stop()
        while self._next() is not None:
            pass


class _Progress:
    """A line that changes, on a terminal or in a notebook; nothing elsewhere."""

    def __init__(self, shown: Optional[bool], stream: Stream) -> None:
        notebook = "ipykernel" in sys.modules
        self.shown = (notebook or sys.stderr.isatty()) if shown is None else shown
        self.stream, self.started, self.accuracy = stream, time.monotonic(), ""
        self.before = stream.completed
        if self.shown:
            print(stream.size, file=sys.stderr)
            for note in stream.notes:
                print("note:", note, file=sys.stderr)

    def update(self, line: Round) -> None:
        if not self.shown:
            return
        if "accuracy" in line:
            self.accuracy = f"  accuracy {100 * line['accuracy']:.2f} %"
        done, rounds = self.stream.completed, self.stream.rounds
        width = 24
        full = width * done // max(1, rounds)
        left = (time.monotonic() - self.started) / max(1, done - self.before) * (rounds - done)
        print(f"\r{'█' * full}{'░' * (width - full)} round {done} of {rounds}{self.accuracy}  {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self.shown:
            print(file=sys.stderr)


def stream(config: Config = None, *, data: Optional[Dataset] = None, model: Any = None, out: Optional[PathLike] = None, resume: Optional[PathLike] = None, threads: int = 0,
           **settings: Any) -> Stream:
    """Starts a run and yields its rounds while it goes on; the arguments are simulate()'s.

        for round in espalier.stream("examples/fashion-mnist.toml"):
            print(round["round"], round.get("accuracy"))
    """
    return _start(settings, config=config, data=data, model=model, out=out, resume=resume, threads=threads)


def _start(settings: Mapping[str, Any], *, config: Config = None, data: Optional[Dataset] = None, model: Any = None, out: Optional[PathLike] = None,
           resume: Optional[PathLike] = None, threads: int = 0, stop_after: int = 0) -> Stream:
    """As stream(); stop_after: the run stops after so many rounds, as if it were closed then."""
    if resume is not None and (config is not None or out is not None or model is not None):
        raise ConfigError("[python] resume=FOLDER goes on with what the folder has: leave out config, out and model")
    temporary: Optional[tempfile.TemporaryDirectory[str]] = None
    beside = pathlib.Path("runs") / "python"
    tree: Mapping[str, Any] = {}
    if isinstance(config, Mapping):
        tree = config
    elif config is not None:
        path = pathlib.Path(config)
        try:
            tree = json.loads(_engine.read_config(str(path)))
        except _engine.Error as error:
            raise ConfigError(str(error)) from None
        beside = pathlib.Path("runs") / path.stem
    chosen: Dict[str, Any] = dict(settings)
    if data is not None and resume is not None:
        _refuse_other_data(pathlib.Path(resume))
    if data is not None and resume is None:
        name = _given({}, settings, "data.name")
        if name not in (None, "memory"):
            raise ConfigError(f"[python] data=Dataset is in place of data.name = \"{name}\": leave out one of them")
        chosen["data.name"] = "memory"
        if data.client_names and _given(tree, settings, "data.partition.name") is None:
            chosen["data.partition.name"] = "natural"
    if model is not None:
        if isinstance(model, str) and not _is_path(model):
            chosen["model.name"] = model
        else:
            if not isinstance(model, (str, os.PathLike)):
                temporary = tempfile.TemporaryDirectory()
                try:
                    model = _script(model, pathlib.Path(temporary.name))
                except BaseException:
                    temporary.cleanup()
                    raise
            chosen["model.name"], chosen["model.file"] = "torchscript", os.fspath(model)
    engine = keep_track(_engine.Run(json_text(tree), _assignments(chosen), os.fspath(out) if out is not None else "", str(beside), os.fspath(resume) if resume is not None else "", threads,
                         data._data if data is not None else None, stop_after))
    return Stream(engine, temporary)


def _refuse_other_data(folder: pathlib.Path) -> None:
    try:
        name = _find(json.loads(_engine.read_config(str(folder / "config.toml"))), "data.name")
    except _engine.Error:
        return  # what is wrong with the folder is said when it is resumed
    if name != "memory":
        raise ConfigError(f"[python] the run in {folder} goes on with what it was begun with, data.name = \"{name}\": leave out data")


def simulate(config: Config = None, *, data: Optional[Dataset] = None, model: Any = None, out: Optional[PathLike] = None, resume: Optional[PathLike] = None, threads: int = 0,
             progress: Optional[bool] = None, **settings: Any) -> Run:
    """Runs a federated training on this machine and returns the run.

    config: a TOML file, or its tables as a dictionary; settings override it by dotted keys: `rounds=5, **{"strategy.name": "fedprox"}`.
    data: arrays (espalier.Dataset) in place of `[data]`. model: a name, a TorchScript file (a path with a folder or an ending), or a torch module, which is scripted for you;
    its weights are where it begins.
    out: the run's folder; by default runs/<name of the configuration>. resume: a folder to go on with (with the same `data`). threads: clients at a time; 0: one per
    processor. progress: a bar on standard error; by default on terminals and in notebooks.

    Ctrl-C finishes the round and raises KeyboardInterrupt; `resume=` goes on. Raises ConfigError before the first round, Error (StorageError for a full disk) afterwards.
    """
    rounds = stream(config, data=data, model=model, out=out, resume=resume, threads=threads, **settings)
    bar = _Progress(progress, rounds)
    try:
        for line in rounds:
            bar.update(line)
    finally:
        bar.finish()
    return rounds.run


def load_run(folder: PathLike) -> Run:
    """A run that was made before, here or by the command line."""
    return Run(folder)


class Comparison:
    """Runs side by side: as a text, as a page, as figures."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = list(folders)

    @property
    def rows(self) -> List[Dict[str, Any]]:
        """One per run: name, its summary, and the ratio of its bytes to the first's."""
        rows: List[Dict[str, Any]] = json.loads(_engine.compare_json(self.folders))["runs"]
        return rows

    def save(self, path: PathLike) -> Report:
        """A page with the curves of all runs."""
        _engine.write_html(self.folders, os.fspath(path))
        return Report(path)

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            return self.save(pathlib.Path(folder) / "comparison.html")._repr_html_()

    def __str__(self) -> str:
        return _engine.compare_text(self.folders)

    __repr__ = __str__


def compare(runs: Sequence[Union[Run, PathLike]]) -> Comparison:
    """Accuracy, bytes, products, time and memory of several runs; ratios are to the first."""
    return Comparison([str(one.folder) if isinstance(one, Run) else os.fspath(one) for one in runs])


class Study:
    """What `espalier study` left in a folder."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = pathlib.Path(folder)

    @property
    def results(self) -> Dict[str, Any]:
        results: Dict[str, Any] = json.loads((self.folder / "study.json").read_text())
        return results

    def report(self) -> Report:
        return Report(self.folder / "study.html")

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


def _command() -> Tuple[str, ...]:
    beside = pathlib.Path(__file__).resolve().parent
    for place in [os.environ.get("ESPALIER"), beside / "bin" / "espalier", beside.parent.parent / "bin" / "espalier", shutil.which("espalier")]:
        if place and pathlib.Path(place).exists():
            return (str(place),)
    raise _engine.Error("[python] the command `espalier` is not found; install it, or set ESPALIER to where it is")


def _called(command: Sequence[str]) -> str:
    """What the command line prints; its error as an exception."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise (ConfigError if result.returncode == 2 else _engine.Error)(last.removeprefix("espalier: "))
    return result.stdout


def study(path: PathLike, *, out: PathLike, jobs: int = 0, threads: int = 0) -> Study:
    """Runs a study (docs/study.md) by the command line, in processes of their own, and goes on with one that was begun in `out`."""
    command = [*_command(), "study", os.fspath(path), "--out", os.fspath(out)]
    command += ["--jobs", str(jobs)] if jobs else []
    command += ["--threads", str(threads)] if threads else []
    _called(command)
    return Study(out)
