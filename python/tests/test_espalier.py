"""The package as its users have it. Run by ctest, and by `PYTHONPATH=BUILD/python python3 -m unittest` here."""
import gc
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy as np

import espalier
from espalier import testing

ESPALIER = os.environ.get("ESPALIER")


@espalier.register("my-fedavg")
class MyFedAvg(espalier.Strategy):
    """FedAvg, every part of it in Python."""

    def run_client(self, context, task):
        return context.train()


@espalier.register("my-fedavg-server")
class MyFedAvgServer(espalier.Strategy):
    """FedAvg, its server's half in Python."""


@espalier.register("my-fedprox")
class MyFedProx(espalier.Strategy):
    """FedProx in Python."""

    options = {"mu": 0.01}

    def run_client(self, context, task):
        anchor, trained = task["model"].values, task["model"].trainable_mask
        mu = np.float32(self.mu)

        def pull(weights, gradients):
            gradients[trained] += mu * (weights[trained] - anchor[trained])

        return context.train(before_step=pull)


@espalier.register("my-scaffold")
class MyScaffold(espalier.Strategy):
    """SCAFFOLD in Python."""

    payloads = ("delta", "control_delta")
    client_state = True

    def start(self, model, num_clients):
        self.control, self.num_clients = model.zeros(), num_clients

    def configure(self, round, model, task):
        task.add("model", model)
        task.add("control", self.control)

    def run_client(self, context, task):
        control, trained = task["control"].values, task["model"].trainable_mask
        own = context.remembered["control"].copy() if context.remembered else task["control"].zeros()

        def correct(weights, gradients):
            gradients[trained] += control[trained] - own.values[trained]

        update = context.train(before_step=correct)
        change = task["control"].zeros()
        if update.steps > 0:
            factor = np.float32(1 / (update.steps * context.lr))
            change.values[trained] = -control[trained] - factor * update.delta.values[trained]
        own.values[:] += change.values
        context.remember("control", own)
        update.add("control_delta", change)
        return update

    def finish(self, round, sums, model):
        model.apply(sums.mean("delta"))
        share = np.float32(sums.num_updates / self.num_clients)
        self.control.values[:] += share * sums.mean("control_delta").values

    def state(self):
        return {"control": self.control}

    def restore(self, state):
        self.control.values = state["control"]


class Base(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name)
        self.addCleanup(self.temporary.cleanup)

    def run_tiny(self, what, config=testing.TINY, **settings):
        return espalier.simulate(config, out=self.folder / what, progress=False, **settings)

    def model_bytes(self, run):
        return (run.folder / "model.safetensors").read_bytes()


class Runs(Base):
    def test_the_import_is_quick_and_needs_nobody_else(self):
        text = "import sys, time; t = time.monotonic(); import espalier; print(time.monotonic() - t, 'torch' in sys.modules, 'pandas' in sys.modules, sorted(espalier.__all__) == sorted(sum(espalier._HOMES.values(), [])))"
        said = [subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
        self.assertLess(min(float(one[0]) for one in said), 0.3)
        self.assertEqual(said[0][1:], ["False", "False", "True"])
        self.assertIn("simulate", dir(espalier))
        with self.assertRaises(AttributeError):
            espalier.simulat

    def test_a_run_has_what_its_folder_has(self):
        run = self.run_tiny("run", rounds=3)
        self.assertEqual([line["round"] for line in run.rounds], [1, 2, 3])
        self.assertEqual(list(run.metrics["round"]), [1, 2, 3])
        self.assertEqual(run.metrics["accuracy"].shape, (3,))
        self.assertEqual(run.summary["rounds_completed"], 3)
        self.assertEqual(run.config["strategy"]["clients_per_round"], 3)
        self.assertAlmostEqual(run.accuracy, run.summary["final_accuracy"])
        self.assertEqual({name: values.shape for name, values in run.model.items()}, {"fc1.weight": (16, 64), "fc1.bias": (16,), "fc2.weight": (10, 16), "fc2.bias": (10,)})
        self.assertTrue(all(np.isfinite(values).all() for values in run.model.values()))
        self.assertIn("<iframe", run.report()._repr_html_())
        self.assertIn("final_accuracy", run._repr_html_())
        self.assertEqual(repr(espalier.load_run(run.folder)), repr(run))
        with self.assertRaises(espalier.ConfigError):
            espalier.load_run(self.folder)

    def test_the_command_line_ends_in_the_same_bytes(self):
        if not ESPALIER:
            self.skipTest("ESPALIER is not set")
        config = self.folder / "tiny.toml"
        config.write_text('seed = 5\nrounds = 3\n[data]\nname = "synthetic"\nsynthetic_train_samples = 240\nsynthetic_test_samples = 60\nsynthetic_shape = [1, 8, 8]\n'
                          '[data.partition]\nname = "dirichlet"\nclients = 6\n[model]\nname = "mlp"\nhidden = [16]\n[strategy]\nclients_per_round = 3\n')
        mine = self.run_tiny("mine", config, **{"strategy.name": "fedprox", "uplink": [{"stage": "hadamard"}, {"stage": "quantize", "bits": 4}]})
        subprocess.run([ESPALIER, "simulate", config, "--set", "strategy.name=fedprox", "--set", 'uplink=[{stage="hadamard"},{stage="quantize",bits=4}]', "--out",
                        self.folder / "theirs", "--quiet"], check=True)
        self.assertEqual(self.model_bytes(mine), self.model_bytes(espalier.load_run(self.folder / "theirs")))
        comparison = espalier.compare([mine, self.folder / "theirs"])
        self.assertEqual(len(comparison.rows), 2)
        self.assertIn("fedprox", str(comparison))
        self.assertTrue(comparison.save(self.folder / "both.html").path.exists())

    def test_rounds_come_while_it_runs_and_a_closed_stream_is_resumed(self):
        whole = self.run_tiny("whole", rounds=30)
        rounds = espalier.stream(testing.TINY, out=self.folder / "part", rounds=30)
        self.assertEqual(next(rounds)["round"], 1)
        rounds.close()
        done = len(rounds.run.rounds)
        self.assertLess(done, 30)
        self.assertFalse(rounds.finished)
        run = espalier.simulate(resume=self.folder / "part", progress=False)
        self.assertEqual(len(run.rounds), 30)
        self.assertEqual(self.model_bytes(run), self.model_bytes(whole))

    def test_an_interrupt_finishes_the_round(self):
        out = self.folder / "interrupted"
        process = subprocess.Popen([sys.executable, "-c", f"import espalier; from espalier import testing; espalier.simulate(testing.TINY, out={str(out)!r}, rounds=100000)"],
                                   stderr=subprocess.PIPE, text=True)
        until = time.time() + 60
        while time.time() < until and not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_bytes().count(b"\n") > 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        self.assertIn("KeyboardInterrupt", said)
        done = len(espalier.load_run(out).rounds)
        self.assertLess(done, 100000)
        run = espalier.simulate(resume=out, rounds=done + 2, progress=False)
        self.assertEqual([line["round"] for line in run.rounds], list(range(1, done + 3)))

    def test_two_runs_in_two_threads(self):
        alone = [self.run_tiny(f"alone-{seed}", seed=seed, rounds=20, **{"strategy.name": "my-fedavg"}) for seed in (1, 2)]
        together, threads = [None, None], []
        for index, seed in enumerate((1, 2)):
            def work(index=index, seed=seed):
                together[index] = self.run_tiny(f"together-{seed}", seed=seed, rounds=20, **{"strategy.name": "my-fedavg"})
            threads.append(threading.Thread(target=work))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            self.assertFalse(thread.is_alive(), "a run hangs")
        for one, two in zip(alone, together):
            self.assertEqual(self.model_bytes(one), self.model_bytes(two))

    def test_the_interpreter_may_end_while_a_run_goes_on(self):
        for code, end in [(0, ""), (5, "import sys; sys.exit(5)"), (1, "raise ValueError('enough')")]:
            folder = self.folder / f"end-{code}"
            text = f"""
import espalier
from espalier import testing

@espalier.register("slow")
class Slow(espalier.Strategy):
    "Half of it in Python."
    def run_client(self, context, task):
        return context.train(before_step=lambda weights, gradients: None)

rounds = espalier.stream(testing.TINY, out={str(folder)!r}, rounds=100000, **{{"strategy.name": "slow"}})
next(rounds)
{end}
"""
            result = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertNotIn("Fatal", result.stderr)
            self.assertGreaterEqual(len(espalier.load_run(folder).rounds), 1)

    def test_an_exception_in_a_callback_leaves_a_folder_that_goes_on(self):
        fails = [True]

        @espalier.register("fails-once")
        class FailsOnce(espalier.Strategy):
            """Fails in its fourth round."""

            def finish(self, round, sums, model):
                if round == 4 and fails[0]:
                    raise RuntimeError("once")
                super().finish(round, sums, model)

        with self.assertRaisesRegex(espalier.Error, "once"):
            self.run_tiny("fails", rounds=6, checkpoint_every=1, **{"strategy.name": "fails-once"})
        fails[0] = False
        run = espalier.simulate(resume=self.folder / "fails", progress=False)
        self.assertEqual([line["round"] for line in run.rounds], [1, 2, 3, 4, 5, 6])
        whole = self.run_tiny("whole", rounds=6, **{"strategy.name": "fails-once"})
        self.assertEqual(self.model_bytes(run), self.model_bytes(whole))

    def test_what_was_handed_over_is_given_back(self):
        inputs, labels = np.random.default_rng(1).normal(size=(200, 12)).astype(np.float32), np.arange(200) % 4
        before = sys.getrefcount(inputs)
        for number in range(3):
            data = espalier.Dataset(inputs, labels, test=(inputs[:20], labels[:20]))
            espalier.simulate(data=data, model="mlp", rounds=2, out=self.folder / f"data-{number}", progress=False,
                              **{"data.partition.clients": 4, "strategy.clients_per_round": 2})
            self.assertGreater(sys.getrefcount(inputs), before)
            del data
        gc.collect()
        self.assertEqual(sys.getrefcount(inputs), before)

    def test_an_exported_model_is_torchs_own(self):
        run = self.run_tiny("exported", rounds=3)
        self.assertTrue(run.export(self.folder / "model.pt"))
        with self.assertRaises(espalier.Error):
            run.export(self.folder / "model.pt", runtime="none")
        try:
            import torch
        except ImportError:
            self.skipTest("no torch")
        module = torch.jit.load(str(self.folder / "model.pt"))
        self.assertEqual(module(torch.zeros([5, *run.config["data"]["synthetic_shape"]])).shape[0], 5)

    def test_mistakes_are_said_in_one_line_before_the_first_round(self):
        for settings, words in [({"strategy.name": "fedagv"}, "did you mean 'fedavg'"), ({"rounds": "many"}, "rounds"), ({"train.lrr": 1}, "lr"), ({"rounds": -1}, "rounds")]:
            with self.assertRaisesRegex(espalier.ConfigError, words):
                self.run_tiny("wrong", **settings)
        with self.assertRaisesRegex(espalier.ConfigError, "nowhere.toml"):
            espalier.simulate("nowhere.toml")
        self.assertTrue(issubclass(espalier.ConfigError, ValueError) and issubclass(espalier.ConfigError, espalier.Error))

    def test_numpys_numbers_and_paths_are_settings(self):
        config = json.loads(json.dumps(testing.TINY))
        config["data"]["partition"]["clients"] = np.int64(6)
        config["train"]["lr"] = np.float32(0.25)
        config["model"]["hidden"] = np.array([16])
        run = self.run_tiny("numbers", config, rounds=np.int64(1), evaluate=np.str_("server"), **{"train.drop_last": np.bool_(True)})
        self.assertEqual((run.config["train"]["lr"], run.config["train"]["drop_last"]), (0.25, True))
        with self.assertRaisesRegex(TypeError, "a setting is"):
            self.run_tiny("wrong", {"train": {"lr": object()}})

    def test_a_path_is_a_models_file_whatever_its_ending(self):
        for model in ("net.pth", str(self.folder / "net"), f".{os.sep}net"):
            with self.assertRaisesRegex(espalier.ConfigError, "net") as caught:
                self.run_tiny("path", model=model)
            self.assertNotIn("unknown model", str(caught.exception))
        with self.assertRaisesRegex(espalier.ConfigError, "unknown model.*mlp"):
            self.run_tiny("name", model="mpl")

    def test_a_study(self):
        if not ESPALIER:
            self.skipTest("ESPALIER is not set")
        (self.folder / "tiny.toml").write_text("rounds = 1\n[data]\nname = \"synthetic\"\nsynthetic_train_samples = 60\nsynthetic_test_samples = 20\n[data.partition]\nclients = 2\n"
                                               "[strategy]\nclients_per_round = 2\n")
        (self.folder / "study.toml").write_text('base = "tiny.toml"\nseeds = [1, 2]\n[[variant]]\nname = "a"\n[[variant]]\nname = "b"\n[variant.set]\ntrain.lr = 0.2\n')
        study = espalier.study(self.folder / "study.toml", out=self.folder / "study", jobs=2)
        self.assertIn("<iframe", study._repr_html_())
        self.assertTrue(json.dumps(study.results))
        with self.assertRaises(espalier.ConfigError):
            espalier.study(self.folder / "missing.toml", out=self.folder / "none")


class Data(Base):
    def setUp(self):
        super().setUp()
        draw = np.random.default_rng(1)
        self.labels = draw.integers(0, 3, 200)
        self.images = (draw.integers(0, 60, (200, 8, 8, 1)) + 60 * self.labels[:, None, None, None]).astype(np.uint8)
        self.floats = np.ascontiguousarray(self.images.transpose(0, 3, 1, 2).astype(np.float32) / 255)

    def test_arrays_are_used_where_they_lie(self):
        test = (self.images[:20], self.labels[:20])
        dataset = espalier.Dataset(self.images, self.labels, test=test)
        self.assertTrue(np.shares_memory(dataset.inputs, self.images))
        self.assertTrue(np.shares_memory(espalier.Dataset(self.floats, self.labels, test=(self.floats, self.labels)).inputs, self.floats))
        turned = self.images.transpose(0, 3, 1, 2)
        channels_first = espalier.Dataset(turned, self.labels, test=(turned[:20], self.labels[:20]), layout="NCHW")
        np.testing.assert_array_equal(channels_first.inputs, self.images)
        np.testing.assert_allclose(dataset._data.mean, [self.images.mean() / 255], rtol=1e-5)

    def test_runs_learn_from_them(self):
        settings = {"model.name": "mlp", "model.hidden": [16], "data.partition.clients": 4, "strategy.clients_per_round": 4, "train.lr": 0.1, "rounds": 30}
        dataset = espalier.Dataset(self.images, self.labels, test=0.2)
        self.assertEqual((len(dataset), len(dataset.test_inputs)), (160, 40))
        run = self.run_tiny("images", {}, data=dataset, **settings)
        self.assertGreater(run.accuracy, 0.9)
        run = self.run_tiny("floats", {}, data=espalier.Dataset(self.floats, self.labels), **settings)
        self.assertGreater(run.accuracy, 0.9)
        tokens = espalier.Dataset(np.repeat(self.labels[:, None], 6, axis=1), self.labels)
        self.assertEqual(tokens.vocabulary, 3)

    def test_bytes_are_read_as_the_run_says(self):
        dataset = espalier.Dataset(self.images, self.labels, test=(self.images, self.labels))
        settings = {"model.name": "mlp", "model.hidden": [16], "data.partition.clients": 4, "strategy.clients_per_round": 4, "train.lr": 0.1, "rounds": 2}
        runs = {}
        for how in ("dataset", "unit"):
            run = runs[how] = self.run_tiny(how, {}, data=dataset, **settings, **{"data.normalize": how})
            self.assertEqual(run.config["data"]["normalize"], how)
            self.assertEqual(json.loads((run.folder / "data.json").read_text())["samples"]["stddev"] == [1], how == "unit")
        self.assertNotEqual(runs["dataset"].rounds[-1]["loss"], runs["unit"].rounds[-1]["loss"])
        with self.assertRaisesRegex(espalier.Error, "data.normalize was"):
            espalier.simulate(resume=runs["unit"].folder, data=dataset, rounds=3, progress=False, **{"data.normalize": "none"})
        self.assertEqual(len(espalier.simulate(resume=runs["unit"].folder, data=dataset, rounds=3, progress=False).rounds), 3)
        with self.assertRaisesRegex(espalier.Error, "leave it out"):
            self.run_tiny("wrong", {}, data=espalier.Dataset(self.floats, self.labels), **settings, **{"data.normalize": "unit"})

    def test_clients_and_partitions(self):
        owners = np.array(["ann", "bob", "cyd", "dan"])[np.arange(200) % 4]
        dataset = espalier.Dataset(self.images, self.labels, clients=owners, test=(self.images, self.labels))
        self.assertEqual(dataset.client_names, ["ann", "bob", "cyd", "dan"])
        natural = dataset.partition()
        self.assertEqual(list(natural.counts), [50] * 4)
        np.testing.assert_array_equal(natural.samples[1], np.arange(1, 200, 4))
        skewed = dataset.partition("dirichlet", clients=5, alpha=0.3, seed=4)
        self.assertEqual(skewed.histogram.shape, (5, 3))
        self.assertEqual(skewed.histogram.sum(), 200)
        with self.assertRaisesRegex(espalier.Error, "did you mean"):
            dataset.partition("dirichlett")
        run = self.run_tiny("owners", {}, data=dataset, rounds=2, **{"model.name": "mlp", "strategy.clients_per_round": 2})
        self.assertEqual(run.config["data"]["partition"]["name"], "natural")
        # It goes on with the same data, and only with these.
        with self.assertRaisesRegex(espalier.Error, "handed over"):
            espalier.simulate(resume=run.folder, rounds=3, progress=False)
        self.assertEqual(len(espalier.simulate(resume=run.folder, data=dataset, rounds=3, progress=False).rounds), 3)
        other = espalier.Dataset(255 - self.images, self.labels, clients=owners, test=(self.images, self.labels))
        with self.assertRaisesRegex(espalier.Error, "not those"):
            espalier.simulate(resume=run.folder, data=other, rounds=4, progress=False)

    def test_a_partition_that_is_asked_for_is_not_overridden(self):
        dataset = espalier.Dataset(self.images, self.labels, clients=np.arange(200) % 4, test=(self.images, self.labels))
        others = {"model.name": "mlp", "strategy.clients_per_round": 2, "rounds": 1}
        asked = {"name": "iid", "clients": 5}
        for number, (config, settings) in enumerate([({}, {"data.partition": asked}), ({}, {"data.partition.name": "iid", "data.partition.clients": 5}), ({"data": {"partition": asked}}, {})]):
            run = self.run_tiny(f"asked-{number}", config, data=dataset, **settings, **others)
            self.assertEqual((run.config["data"]["partition"]["name"], run.config["data"]["partition"]["clients"]), ("iid", 5))
        run = self.run_tiny("natural", {}, data=dataset, **{"data.partition": {}}, **others)
        self.assertEqual(run.config["data"]["partition"]["name"], "natural")
        self.assertEqual(len(dataset.partition("iid", clients=np.int64(3))), 3)

    def test_data_beside_other_data_are_refused(self):
        dataset = espalier.Dataset(self.images, self.labels)
        with self.assertRaisesRegex(espalier.ConfigError, "synthetic.*leave out one"):
            self.run_tiny("both", {}, data=dataset, model="mlp", **{"data.name": "synthetic"})
        run = self.run_tiny("files", rounds=1)
        with self.assertRaisesRegex(espalier.ConfigError, "synthetic.*leave out data"):
            espalier.simulate(resume=run.folder, data=dataset, rounds=2, progress=False)
        with self.assertRaisesRegex(espalier.ConfigError, "nowhere"):
            espalier.simulate(resume=self.folder / "nowhere", data=dataset)

    def test_values_that_are_not_finite_are_refused_with_their_place(self):
        table = np.ones((40, 5), dtype=np.float32)
        table[17, 3] = np.nan
        with self.assertRaisesRegex(ValueError, r"^inputs: .*got nan \(sample 17, position 3; 1 of 200 values\).*missing"):
            espalier.Dataset(table, np.arange(40) % 4)
        with self.assertRaisesRegex(ValueError, r"^test inputs: .*sample 17, position 3"):
            espalier.Dataset(np.ones((40, 5)), np.arange(40) % 4, test=(table, np.arange(40) % 4))
        images = np.zeros((4, 2, 3, 1))  # channels last: the place is the person's
        images[2, 1, 2, 0] = -np.inf
        with self.assertRaisesRegex(ValueError, r"got -inf \(sample 2, \[1, 2, 0\]"):
            espalier.Dataset(images, np.zeros(4), layout="NHWC")
        large = np.ones((40, 5))
        large[3, 0] = 1e39
        with self.assertRaisesRegex(ValueError, r"got 1e\+39 \(sample 3, position 0.*float32 cannot hold"):
            espalier.Dataset(large, np.arange(40) % 4)

    def test_class_numbers_and_tokens_do_not_wrap(self):
        labels = np.arange(40) % 4
        labels[7] = 2**32 + 1
        with self.assertRaisesRegex(ValueError, "class numbers.*4294967297 .sample 7"):
            espalier.Dataset(np.ones((40, 5)), labels)
        tokens = np.ones((40, 5), dtype=np.int64)
        tokens[9, 2] = 2**32 + 3
        with self.assertRaisesRegex(ValueError, "tokens.*4294967299 .sample 9, position 2"):
            espalier.Dataset(tokens, np.arange(40) % 4)
        tokens[9, 2] = -1
        with self.assertRaisesRegex(ValueError, "got -1"):
            espalier.Dataset(tokens, np.arange(40) % 4)

    def test_all_of_another_dataset_is_evaluated_on(self):
        inner = espalier.Dataset(self.images[:50], self.labels[:50])
        self.assertLess(len(inner), 50)
        dataset = espalier.Dataset(self.images, self.labels, test=inner)
        self.assertEqual((len(dataset), len(dataset.test_inputs), len(dataset.test_labels)), (200, 50, 50))
        self.assertEqual(dataset.test_inputs.sum(), self.images[:50].sum())
        np.testing.assert_array_equal(dataset.test_inputs[:, 0, 0, 0] // 60, dataset.test_labels)

    def test_mean_and_deviation_are_both_given_and_of_images(self):
        test = (self.images, self.labels)
        dataset = espalier.Dataset(self.images, self.labels, test=test, mean=np.array([0.0]), stddev=np.array([0.5]))
        self.assertEqual((dataset._data.mean, dataset._data.stddev), ([0.0], [0.5]))
        colored = np.repeat(self.images, 3, axis=3)
        dataset = espalier.Dataset(colored, self.labels, test=(colored, self.labels), mean=np.array([0.5, 0.5, 0.5]), stddev=[0.25] * 3)
        self.assertEqual(dataset._data.mean, [0.5] * 3)
        for one in ({"mean": [0.5]}, {"stddev": [0.5]}):
            with self.assertRaisesRegex(ValueError, "together"):
                espalier.Dataset(self.images, self.labels, test=test, **one)
        with self.assertRaisesRegex(ValueError, "uint8 images"):
            espalier.Dataset(self.floats, self.labels, mean=[0.5], stddev=[0.5])
        with self.assertRaisesRegex(ValueError, "expected 1, one per channel, got 3"):
            espalier.Dataset(self.images, self.labels, mean=[0.5] * 3, stddev=[0.5] * 3)

    def test_arrays_of_any_descent(self):
        images = pickle.loads(pickle.dumps(self.images))
        self.assertIsNot(images.dtype, np.dtype(np.uint8))
        np.testing.assert_array_equal(espalier.Dataset(images, self.labels, test=(images, self.labels)).inputs, self.images)
        floats = espalier.Dataset(self.floats.astype(">f4"), self.labels.astype(">i8"), test=(self.floats, self.labels))
        np.testing.assert_array_equal(floats.inputs, self.floats)
        np.testing.assert_array_equal(floats.labels, self.labels)
        self.assertEqual(espalier.Dataset(np.repeat(self.labels[:, None], 6, axis=1).astype(">i2"), self.labels).vocabulary, 3)

    def test_the_layout_of_float_images(self):
        last = np.random.default_rng(3).normal(size=(200, 4, 5, 3)).astype(np.float32)
        dataset = espalier.Dataset(last, self.labels, layout="NHWC", test=(last[:9], self.labels[:9]))
        np.testing.assert_array_equal(dataset.inputs, last.transpose(0, 3, 1, 2))
        self.assertEqual((dataset.test_inputs.shape, dataset.inputs.flags["C_CONTIGUOUS"]), ((9, 3, 4, 5), True))
        np.testing.assert_array_equal(espalier.Dataset(last, self.labels, layout="NCHW", test=(last, self.labels)).inputs, last)
        with self.assertRaisesRegex(ValueError, "NHWC.*NCWH"):
            espalier.Dataset(last, self.labels, layout="NCWH")
        for inputs in (last[:, 0], last[:, 0, 0], self.images[..., 0], np.ones((200, 3), dtype=int)):
            with self.assertRaisesRegex(ValueError, "leave it out"):
                espalier.Dataset(inputs, self.labels, layout="NCHW")

    def test_training_and_test_samples_of_two_kinds_are_named(self):
        with self.assertRaisesRegex(ValueError, r"uint8 images of shape \(8, 8, 1\), got float32 values of shape \(1, 8, 8\)"):
            espalier.Dataset(self.images, self.labels, test=(self.floats, self.labels))
        with self.assertRaisesRegex(ValueError, r"\(1, 8, 8\), got float32 values of shape \(8, 8\)"):
            espalier.Dataset(self.floats, self.labels, test=espalier.Dataset(self.floats[:, 0], self.labels))

    def test_frames(self):
        try:
            import pandas
        except ImportError:
            self.skipTest("pandas is not installed")
        frame = pandas.DataFrame({"x": self.floats[:, 0, 0, 0], "y": self.floats[:, 0, 1, 1], "label": self.labels, "owner": np.arange(200) % 3})
        dataset = espalier.Dataset(frame, "label", clients="owner")
        self.assertEqual(dataset.inputs.shape[1:], (2,))
        self.assertEqual(dataset.client_names, ["0", "1", "2"])
        frame.loc[5, "y"] = None
        with self.assertRaisesRegex(ValueError, r"sample 5, position 1; 1 of 400 values\).*missing"):
            espalier.Dataset(frame, "label", clients="owner")

    def test_what_is_wrong_is_said(self):
        for arguments, words in [((self.images, self.labels[:9]), "expected 200"), ((self.images, self.labels - 1), "begin at 0"), ((self.images.astype(np.int64), self.labels), "uint8"),
                                 ((self.images, self.labels + 0.5), "class numbers")]:
            with self.assertRaisesRegex((ValueError, TypeError), words):
                espalier.Dataset(*arguments)
        with self.assertRaisesRegex(ValueError, "share"):
            espalier.Dataset(self.images, self.labels, test=2)


class Models(Base):
    def test_a_torch_module_goes_in_and_comes_back(self):
        try:
            import torch
        except ImportError:
            self.skipTest("torch is not installed")
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        before = module[1].weight.detach().numpy().copy()
        run = self.run_tiny("module", model=module, rounds=1, **{"train.lr": 1e-9})
        np.testing.assert_allclose(run.model["1.weight"], before, atol=1e-6)
        module.load_state_dict(run.model.state_dict())
        np.testing.assert_array_equal(module[1].weight.detach().numpy(), run.model["1.weight"])
        class Bad(torch.nn.Module):
            def forward(self, x):
                return eval("x")
        with self.assertRaisesRegex(espalier.ConfigError, "Bad"):
            self.run_tiny("bad", model=Bad())


class Codecs(unittest.TestCase):
    def test_there_and_back(self):
        x = np.random.default_rng(2).normal(size=(30, 70)).astype(np.float32)
        exact = espalier.codec()
        np.testing.assert_array_equal(exact.decode(exact.encode(x), x.shape), x)
        coded = espalier.codec("hadamard,dithered:bits=2")
        self.assertEqual(repr(coded), 'espalier.codec("hadamard,dithered:bits=2")')
        message = coded.encode(x, key=7)
        self.assertEqual(message, coded.encode(x, key=7))
        self.assertNotEqual(message, coded.encode(x, key=8))
        self.assertLess(len(message), x.nbytes / 12)
        error = np.sum((coded.decode(message, x.shape) - x) ** 2) / np.sum(x ** 2)
        self.assertLess(error, 0.2)
        self.assertAlmostEqual(coded.evaluate(x, trials=50)["vnmse"], error, delta=0.05)
        self.assertEqual(espalier.codec("quantize", quantize={"bits": 4}).encode(x), espalier.codec("quantize:bits=4").encode(x))
        with self.assertRaises(espalier.Error):
            coded.decode(message[:-1], x.shape)
        with self.assertRaises(espalier.Error):
            coded.encode(np.array([np.nan], dtype=np.float32))
        with self.assertRaisesRegex(espalier.Error, "hadamard"):
            espalier.codec("hadamrd")

    def test_messages_lie_in_memory_of_any_stride(self):
        x = np.random.default_rng(2).normal(size=(30, 70)).astype(np.float32)
        exact = espalier.codec()
        message = np.frombuffer(exact.encode(x), dtype=np.uint8)
        for strided in (np.repeat(message, 2)[::2], message[::-1].copy()[::-1], memoryview(bytes(np.repeat(message, 3)))[::3]):
            np.testing.assert_array_equal(exact.decode(strided, x.shape), x)
        np.testing.assert_array_equal(exact.decode(bytearray(message.tobytes()), x.shape), x)


class Strategies(Base):
    def same(self, mine, theirs, **settings):
        one = self.run_tiny("mine", **{"strategy.name": mine, **settings})
        two = self.run_tiny("theirs", **{"strategy.name": theirs, **settings})
        self.assertEqual(self.model_bytes(one), self.model_bytes(two))

    def test_fedavg_is_the_built_in_one(self):
        self.same("my-fedavg", "fedavg")

    def test_its_server_half_alone(self):
        self.same("my-fedavg-server", "fedavg", uplink=[{"stage": "hadamard"}, {"stage": "quantize", "bits": 4}])

    def test_fedprox_is_the_built_in_one(self):
        self.same("my-fedprox", "fedprox", **{"strategy.mu": 0.3})

    def test_scaffold_is_the_built_in_one(self):
        self.same("my-scaffold", "scaffold")

    def test_they_conform(self):
        for cls in (MyFedAvg, MyFedAvgServer, MyFedProx, MyScaffold):
            with self.subTest(cls.__name__):
                testing.check_strategy(cls)

    def test_what_does_not_conform_is_named(self):
        @espalier.register("forgetful")
        class Forgetful(espalier.Strategy):
            """Counts its rounds and forgets them."""

            def start(self, model, num_clients):
                self.seen = 0

            def finish(self, round, sums, model):
                self.seen += 1
                model.apply(sums.mean("delta"), lr=1 / self.seen)

        with self.assertRaisesRegex(AssertionError, "state"):
            testing.check_strategy(Forgetful)

    def test_they_conform_whatever_the_run(self):
        tiny = {key: value for key, value in testing.TINY.items() if key != "rounds"}
        with self.subTest("rounds in the settings"):
            testing.check_strategy(MyScaffold, tiny, rounds=6)
        with self.subTest("a schedule over the run"):
            testing.check_strategy(MyFedAvg, rounds=6, **{"train.lr_schedule": "cosine"})
        with self.subTest("arrays"):
            inputs = np.random.default_rng(1).normal(size=(120, 12)).astype(np.float32)
            data = espalier.Dataset(inputs, np.arange(120) % 4, clients=np.arange(120) % 6)
            testing.check_strategy(MyScaffold, {"rounds": 4, "train": {"lr": 0.05}}, data=data, model="mlp", **{"strategy.clients_per_round": 3})
        with self.assertRaisesRegex(espalier.Error, "half-way"):
            testing.check_strategy(MyFedAvg, rounds=1)

    def test_what_was_lent_is_taken_back_also_after_a_failure(self):
        kept = []

        @espalier.register("keeper")
        class Keeper(espalier.Strategy):
            """Keeps what it is lent and fails."""

            def finish(self, round, sums, model):
                kept.append(model)
                raise ValueError("kept")

        with self.assertRaisesRegex(espalier.Error, "kept"):
            self.run_tiny("keeper", **{"strategy.name": "keeper"})
        with self.assertRaisesRegex(espalier.Error, "lent"):
            kept[0].copy()

    def test_arrays_of_the_model_that_are_kept_show_what_they_showed(self):
        kept, sums_kept = [], []

        @espalier.register("collector")
        class Collector(espalier.Strategy):
            """FedAvg that keeps all that it sees."""

            def configure(self, round, model, task):
                if not kept or kept[-1][0] is not model:
                    kept.append((model, model.values, model["fc1.bias"][2:], model.values.copy()))
                super().configure(round, model, task)

            def finish(self, round, sums, model):
                before, view, part, copy = kept[-1]
                super().finish(round, sums, model)
                assert not np.array_equal(model.values, copy)
                assert np.array_equal(before.values, copy) and np.array_equal(view, copy)
                kept[-1] += (model.values, model["fc1.bias"], model.values.copy(), model)
                sums_kept.append(sums)

        for number, settings in enumerate(({}, {"submodel.name": "ordered", "submodel.keep": 0.5})):
            kept.clear()
            mine = self.run_tiny(f"collector-{number}", rounds=3, **{"strategy.name": "collector", **settings})
            theirs = self.run_tiny(f"plain-{number}", rounds=3, **{"strategy.name": "fedavg", **settings})
            self.assertEqual(self.model_bytes(mine), self.model_bytes(theirs))
            self.assertEqual(len(kept), 3)
            for before, view, part, copy, after, bias, after_copy, model in kept:
                np.testing.assert_array_equal(view, copy)
                np.testing.assert_array_equal(before.values, copy)
                np.testing.assert_array_equal(part, before["fc1.bias"][2:])
                np.testing.assert_array_equal(after, after_copy)
                self.assertTrue(np.shares_memory(after, bias))
                after[:] = 0  # memory of its own
                with self.assertRaisesRegex(espalier.Error, "lent"):
                    model.values
        for sums in sums_kept:
            self.assertEqual(len(sums.mean().values), len(kept[0][3]))
            with self.assertRaisesRegex(espalier.Error, "lent"):
                sums.sum("steps")

    def test_an_update_that_was_returned_is_the_engines(self):
        kept, again = [], [False]

        @espalier.register("hoarder")
        class Hoarder(espalier.Strategy):
            """FedAvg that keeps its updates."""

            def run_client(self, context, task):
                if again[0] and kept:
                    return kept[0][0]
                update = context.train()
                kept.append((update, update.delta, update.delta.values.copy()))
                return update

        mine = self.run_tiny("hoarder", threads=1, **{"strategy.name": "hoarder"})
        self.assertEqual(self.model_bytes(mine), self.model_bytes(self.run_tiny("plain", **{"strategy.name": "fedavg"})))
        self.assertEqual(len(kept), 12)
        for update, delta, copy in kept:
            np.testing.assert_array_equal(delta.values, copy)
            delta.values[:] = 0  # memory of its own
            for use in (lambda: update.weight, lambda: update.delta, lambda: update.steps, lambda: update.num_samples, lambda: update.add_scalar("x", 1), lambda: update.add("x", delta),
                        lambda: setattr(update, "weight", 1)):
                with self.assertRaisesRegex(espalier.Error, "returned"):
                    use()
        again[0] = True
        with self.assertRaisesRegex(espalier.Error, "update was returned"):
            self.run_tiny("again", **{"strategy.name": "hoarder"})

    def test_weights_have_bounds(self):
        seen = []

        @espalier.register("weighing")
        class Weighing(espalier.Strategy):
            """FedAvg by weights of its own."""

            def run_client(self, context, task):
                update = context.train()
                for wrong in (-1, update.num_samples + 1, float("nan")):
                    for use in (lambda: setattr(update, "weight", wrong), lambda: update.add("x", update.delta, weight=wrong)):
                        try:
                            use()
                        except espalier.Error as error:
                            seen.append(str(error))
                update.weight = update.num_samples / 2
                return update

        self.run_tiny("weighing", rounds=1, threads=1, **{"strategy.name": "weighing"})
        self.assertEqual(len(seen), 3 * 6)
        self.assertRegex(seen[1], "from 0 to .*samples")

    def test_a_class_that_is_registered_again_brings_its_defaults(self):
        seen = []

        def register(default, client=True):
            class Again(espalier.Strategy):
                """Says what it has."""

                options = {"mu": default, "label": str(default)}

                def start(self, model, num_clients):
                    seen.append(("server", self.mu, self.label))

            if client:
                def run_client(self, context, task):
                    seen.append(("client", self.mu, self.label))
                    return context.train()

                Again.run_client = run_client
            espalier.register("again")(Again)

        def run(**settings):
            seen.clear()
            config = self.run_tiny(f"again-{len(list(self.folder.iterdir()))}", rounds=1, **{"strategy.name": "again", **settings}).config
            self.assertEqual({one[1:] for one in seen}, {(seen[0][1], str(seen[0][1]))})
            self.assertEqual(config["strategy"]["mu"], seen[0][1])
            return seen[0][1], {one[0] for one in seen}

        both = {"server", "client"}
        register(0.25)
        self.assertEqual(run(), (0.25, both))
        register(0.5)
        self.assertEqual(run(), (0.5, both))
        self.assertEqual(run(**{"strategy.mu": 0.25, "strategy.label": "0.25"}), (0.25, both))
        register(0.75, client=False)
        self.assertEqual(run(), (0.75, {"server"}))
        register(1.0)
        self.assertEqual(run(), (1.0, both))

    def test_clients_train_with_the_servers_options_whatever_their_defaults(self):
        seen = []

        def register(default):
            @espalier.register("elsewhere")
            class Elsewhere(espalier.Strategy):
                """Has other defaults on the clients from the second round on."""

                options = {"mu": default}

                def run_client(self, context, task):
                    seen.append((context.round, self.mu))
                    return context.train()

                def finish(self, round, sums, model):
                    super().finish(round, sums, model)
                    if round == 1:
                        register(0.5)

        register(0.5)
        register(0.25)
        self.run_tiny("elsewhere", rounds=2, **{"strategy.name": "elsewhere"})
        self.assertEqual(set(seen), {(1, 0.25), (2, 0.25)})

    def test_values_have_the_tensors_shape(self):
        seen = []

        @espalier.register("shapes")
        class Shapes(espalier.Strategy):
            """Sets tensors."""

            def start(self, model, num_clients):
                weight, size = model["fc2.weight"], model.values.size
                for name, wrong in (("fc2.weight", weight.T), ("fc2.weight", weight.reshape(-1)), ("fc2.weight", weight[:1]), ("fc2.bias", 0.0), ("fc2.bias", np.zeros((10, 1)))):
                    try:
                        model[name] = wrong
                    except espalier.Error as error:
                        seen.append(str(error))
                for wrong in (np.zeros((1, size)), np.zeros(size - 1), 0.0):
                    try:
                        model.values = wrong
                    except espalier.Error as error:
                        seen.append(str(error))
                model["fc2.weight"] = np.ones((10, 16))
                model["fc2.bias"] = [3.0] * 10
                assert model["fc2.weight"].sum() == 160 and model["fc2.bias"].sum() == 30
                model.values = np.arange(size)
                assert model.values[5] == 5

        self.run_tiny("shapes", rounds=1, **{"strategy.name": "shapes"})
        self.assertEqual(len(seen), 8, seen)
        self.assertRegex(seen[0], r"fc2.weight of shape \[10, 16\], got \[16, 10\]")

    def test_what_no_task_can_hold_is_said(self):
        def run(words, **members):
            cls = type("Mistaken", (espalier.Strategy,), {"__doc__": "Mistaken.", **members})
            espalier.register("mistaken")(cls)
            with self.assertRaisesRegex(espalier.Error, "mistaken.*" + words):
                self.run_tiny(f"mistaken-{len(list(self.folder.iterdir()))}", rounds=1, **{"strategy.name": "mistaken"})

        run("'model' is Parameters, not ndarray.*copy", configure=lambda self, round, model, task: task.add("model", model.values))
        run("'extra' is Parameters, not list", configure=lambda self, round, model, task: task.payloads.update(model=model, extra=[1]))
        run("'share' is a number, not None", configure=lambda self, round, model, task: (task.add("model", model), task.scalars.update(share=None)))
        run("'x' is to be Parameters, not ndarray", run_client=lambda self, context, task: context.train().add("x", np.zeros(3)))
        run("'x' is to be Parameters, not float", run_client=lambda self, context, task: context.remember("x", 1.0))
        run("names in a tuple", payloads=property(lambda self: "delta"))
        run("Unable to cast", client_state="yes")
        for wrong in ("delta", (), (1,)):
            with self.assertRaisesRegex(TypeError, "names in a tuple"):
                espalier.register("mistaken")(type("Mistaken", (espalier.Strategy,), {"__doc__": "Mistaken.", "payloads": wrong}))
        for wrong in ([1], None, float("nan")):
            with self.assertRaisesRegex(TypeError, "Mistaken.options: 'x'"):
                espalier.register("mistaken")(type("Mistaken", (espalier.Strategy,), {"__doc__": "Mistaken.", "options": {"x": wrong}}))

    def test_states_are_what_a_checkpoint_holds(self):
        held = [{}]

        @espalier.register("stateful")
        class Stateful(espalier.Strategy):
            """Has a state."""

            def state(self):
                return held[0]

            def restore(self, state):
                held[0] = state

        def run(what, **state):
            held[0] = state
            return self.run_tiny(what, rounds=1, **{"strategy.name": "stateful"})

        done = run("plain", a=np.float32(0.5), b=[np.int64(2), "two"], c={"d": np.bool_(True)}, e=np.arange(3), f=None)
        espalier.simulate(resume=done.folder, rounds=2, progress=False)
        self.assertEqual({name: value for name, value in held[0].items() if name != "e"}, {"a": 0.5, "b": [2, "two"], "c": {"d": True}, "f": None})
        np.testing.assert_array_equal(held[0]["e"], np.arange(3))
        for number, (words, wrong) in enumerate((("array of objects", np.array([{}], dtype=object)), ("set", {1}), ("keys", {1: "one"}), ("array within", [np.zeros(2)]), ("complex", np.complex64(1)))):
            with self.assertRaisesRegex(espalier.Error, f"stateful.*'seen' holds.*({words})"):
                run(f"wrong-{number}", seen=wrong)

    def test_views_of_a_step_cannot_be_kept(self):
        kept = []

        def register(name, take):
            @espalier.register(name)
            class Keeps(espalier.Strategy):
                """Keeps what it sees."""

                def run_client(self, context, task):
                    return context.train(before_step=lambda weights, gradients: kept.append(take(weights)))

        register("keeps-a-view", lambda weights: weights)
        register("keeps-a-part", lambda weights: weights[:3])
        register("keeps-a-copy", lambda weights: weights.copy())
        for name in ("keeps-a-view", "keeps-a-part"):
            with self.assertRaisesRegex(espalier.Error, r"kept an array.*copy\(\)"):
                self.run_tiny(name, **{"strategy.name": name})
        self.run_tiny("keeps-a-copy", **{"strategy.name": "keeps-a-copy"})

    def test_mistakes_name_the_strategy_and_the_place(self):
        @espalier.register("broken")
        class Broken(espalier.Strategy):
            """Raises."""

            def finish(self, round, sums, model):
                raise ValueError("no such luck")

        with self.assertRaisesRegex(espalier.Error, "broken.*no such luck"):
            self.run_tiny("broken", **{"strategy.name": "broken"})
        with self.assertRaisesRegex(espalier.ConfigError, "strategy.mue.*mu"):
            self.run_tiny("wrong", **{"strategy.name": "my-fedprox", "strategy.mue": 1})
        with self.assertRaisesRegex(espalier.ConfigError, "strategy.mu"):
            self.run_tiny("wrong", **{"strategy.name": "my-fedprox", "strategy.mu": "much"})
        with self.assertRaisesRegex(espalier.Error, "built in"):
            espalier.register("fedavg")(Broken)


if __name__ == "__main__":
    unittest.main()
