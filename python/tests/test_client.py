"""Clients in Python against `espalier serve`: the engine's training on arrays, and a program of one's own."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy as np

import espalier

ESPALIER = os.environ.get("ESPALIER", "espalier")
CONFIG = """
seed = 3
rounds = 3
[data]
name = "synthetic"
synthetic_train_samples = 240
synthetic_test_samples = 60
synthetic_shape = [12]
synthetic_noise = 0.5
[data.partition]
name = "iid"
clients = 2
[model]
name = "mlp"
hidden = []
[train]
lr = 0.1
batch_size = 1000
[strategy]
clients_per_round = 2
[server]
goodbye_s = 60
[network]
heartbeat_s = 0.5
lease_s = 5
poll_s = 2
"""


def run(*arguments):
    subprocess.run([ESPALIER, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def softmax_gradient(weights, inputs, labels):
    """Of the mean cross-entropy of a linear model in its first two tensors; loss and accuracy."""
    matrix, bias = (weights[name] for name in weights.names)
    logits = inputs @ matrix.T + bias
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    picked = shares[np.arange(len(labels)), labels]
    accuracy = float((shares.argmax(axis=1) == labels).mean())
    shares[np.arange(len(labels)), labels] -= 1
    return shares.T @ inputs / len(labels), shares.mean(axis=0), float(-np.log(picked).mean()), accuracy


class Federation(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = pathlib.Path(self.temporary.name)
        self.config = self.folder / "config.toml"
        self.config.write_text(CONFIG)
        run("pki", "init", self.folder / "pki")
        run("pki", "issue", self.folder / "pki", 0, 1)
        self.settings, self.kept = [], []

    def serve(self, **settings):
        self.settings = [argument for key, value in settings.items() for argument in ("--set", f"{key.replace('__', '.')}={value}")]
        if not (self.folder / "shards").exists():
            run("data", "export", self.config, "--out", self.folder / "shards", *self.settings)
        self.server = subprocess.Popen([ESPALIER, "serve", str(self.config), "--pki", str(self.folder / "pki"), "--out", str(self.folder / "served"), "--listen", "127.0.0.1:0",
                                        "--set", "server.status_listen=", *self.settings], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.server.stderr.close)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.kill)
        for line in self.server.stderr:
            if found := re.search(r"listening on port (\d+)", line):
                threading.Thread(target=self.server.stderr.read, daemon=True).start()
                return int(found[1])
        self.fail("the server did not start")

    def simulate(self, name="simulated"):
        run("simulate", self.config, "--out", self.folder / name, "--quiet", *self.settings)
        return espalier.load_run(self.folder / name)

    def samples(self, client):
        """Inputs and labels of both parts of a client's shard."""
        out = []
        for part in ("train", "test"):
            tensors = espalier._run.Model(self.folder / f"shards/client-{client}/{part}.safetensors")
            out += [np.array(tensors["inputs"]), np.array(tensors["labels"])]
        return out

    def client(self, client, port, **more):
        return espalier.Client(f"localhost:{port}", pki=self.folder / "pki", client=client, **{"folder": self.folder / f"state-{client}", "retry_max_s": 1, "progress": bool(os.environ.get("SAY")), **more})

    def together(self, *clients):
        """Runs them in threads; what each returned or raised."""
        results = [None] * len(clients)

        def one(index):
            try:
                results[index] = clients[index].run()
            except BaseException as error:
                results[index] = error

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(clients))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            self.assertFalse(thread.is_alive(), "a client hangs")
        return results

    def program(self, client, failing_round=None, tells=("loss", "accuracy", "steps", "macs"), **more):
        """A linear model in NumPy, with the strategy's term in every step."""
        inputs, labels, test_inputs, test_labels = self.samples(client)
        seen, kept = [], self.kept

        def train(weights, task):
            if task.round == failing_round:
                raise ZeroDivisionError("no luck today")
            seen.append(task)
            kept.append(weights)
            losses, hits = [], []
            for _ in range(task.epochs):
                gradients = weights.zeros()
                matrix, bias, loss, accuracy = softmax_gradient(weights, inputs, labels)
                losses.append(loss)
                hits.append(accuracy)
                for name, value in zip(weights.names, (matrix, bias)):
                    gradients[name] = value
                if task.before_step:
                    task.before_step(weights, gradients)
                weights.values[:] -= np.float32(task.lr) * gradients.values
            told = {"loss": np.mean(losses), "accuracy": np.mean(hits), "steps": task.epochs, "macs": 3 * task.epochs * len(labels) * matrix.size}
            self.assertEqual((task.data["kind"], task.data["shape"], task.data["classes"]), ("floats", [12], 10))
            return {name: told[name] for name in tells}

        def evaluate(weights):
            return softmax_gradient(weights, test_inputs, test_labels)[2:]

        made = self.client(client, port=more.pop("port"), train=train, evaluate=evaluate, num_samples=len(labels), num_test_samples=len(test_labels), **more)
        return made, seen


class Clients(Federation):
    def test_the_engine_on_arrays_ends_in_the_bytes_of_a_simulation(self):
        port = self.serve(train__batch_size=10, model__hidden=[16])
        clients = []
        for client in range(2):
            inputs, labels, test_inputs, test_labels = self.samples(client)
            clients.append(self.client(client, port, data=espalier.Dataset(inputs, labels, test=(test_inputs, test_labels), classes=10)))
        self.assertEqual(self.together(*clients), [3, 3])
        self.server.wait(60)
        run = self.simulate()
        self.assertEqual((self.folder / "served/model.safetensors").read_bytes(), (run.folder / "model.safetensors").read_bytes())

    def test_a_program_of_ones_own_trains_as_the_engine_does(self):
        port = self.serve(strategy__name="fedprox", strategy__mu=0.5, train__epochs=3, evaluate="clients")
        (first, seen), (second, _) = (self.program(client, port=port) for client in range(2))
        self.assertEqual(self.together(first, second), [6, 6])
        self.server.wait(60)
        served, simulated = espalier.load_run(self.folder / "served"), self.simulate()
        for name, values in simulated.model.items():
            np.testing.assert_allclose(served.model[name], values, rtol=0, atol=2e-6)
        np.testing.assert_allclose(served.metrics["accuracy"], simulated.metrics["accuracy"])
        np.testing.assert_allclose(served.metrics["loss"], simulated.metrics["loss"], rtol=1e-5)
        np.testing.assert_allclose(served.metrics["train_loss"], simulated.metrics["train_loss"], rtol=1e-5)
        self.assertEqual([task.round for task in seen], [1, 2, 3])
        self.assertEqual((seen[0].epochs, seen[0].lr, seen[0].num_samples), (3, 0.1, 120))
        self.assertEqual(len({task.seed for task in seen}), 3)
        with self.assertRaisesRegex(espalier.Error, "over"):
            seen[0].before_step(self.kept[0], self.kept[0].zeros())

    def test_an_exception_is_told_to_the_server_and_raised_and_the_client_comes_back(self):
        port = self.serve()
        (first, _), (second, _) = self.program(0, failing_round=2, port=port), self.program(1, port=port)
        failed, done = [], []
        thread = threading.Thread(target=lambda: done.append(self.together(second)))
        thread.start()
        try:
            first.run()
        except ZeroDivisionError as error:
            failed.append(str(error))
        self.assertEqual(failed, ["no luck today"])
        again, seen = self.program(0, port=port)
        again.run()
        thread.join(120)
        self.assertEqual(self.server.wait(60), 0)
        self.assertIn(3, [task.round for task in seen])
        served = espalier.load_run(self.folder / "served")
        self.assertEqual(len(served.rounds), 3)
        self.assertIn("no luck today", "".join(path.read_text() for path in served.folder.glob("server/*.jsonl")))

    def test_strategies_that_need_more_of_a_trainer_fail_with_the_reason(self):
        port = self.serve(strategy__name="fedgkt", strategy__server_model="small-server", model__name="small-client", data__synthetic_shape=[1, 12, 12], rounds=1)
        results = self.together(*[self.client(client, port, train=lambda weights, task: None, num_samples=120) for client in range(2)])
        for result in results:
            self.assertIsInstance(result, espalier.Error)
            self.assertIn("a program of one's own", str(result))

    def test_steps_that_are_not_told_are_counted(self):
        for strategy in ("fednova", "scaffold"):
            shutil.rmtree(self.folder / "served", ignore_errors=True)
            port = self.serve(strategy__name=strategy, train__epochs=2)
            clients = [self.program(client, port=port, tells=(), folder=self.folder / f"{strategy}-{client}")[0] for client in range(2)]
            self.assertEqual(self.together(*clients), [3, 3])
            self.server.wait(60)
            simulated = self.simulate(f"simulated-{strategy}")
            served = espalier.load_run(self.folder / "served")
            for name, values in simulated.model.items():
                np.testing.assert_allclose(served.model[name], values, rtol=0, atol=2e-6)
            self.assertFalse(any("train_loss" in line and line["train_loss"] > 0 for line in served.rounds))

    def test_a_forgotten_hook_and_wrong_gradients_are_raised(self):
        port = self.serve(strategy__name="fedprox", strategy__mu=0.5)
        first, second = self.program(0, port=port)[0], self.client(1, port, train=lambda weights, task: None, num_samples=120)
        thread = threading.Thread(target=first.run)
        thread.start()
        with self.assertRaisesRegex(espalier.Error, "before_step"):
            second.run()
        first.stop()
        thread.join(60)
        self.assertFalse(thread.is_alive())

    def test_gradients_of_another_task_are_refused(self):
        port = self.serve(strategy__name="fedprox", strategy__mu=0.5, model__hidden="[16]", submodel__name="ordered", submodel__keep=0.5, submodel__whole_from=2)
        kept = []

        def train(weights, task):
            kept.append(weights.zeros())  # round 2 has larger tensors
            task.before_step(weights, kept[0])
            return {"steps": 1}

        results = self.together(*[self.client(client, port, train=train, num_samples=120) for client in range(2)])
        for result in results:
            self.assertIsInstance(result, espalier.Error)
            self.assertRegex(str(result), "zeros|ended the run")

    def test_a_client_runs_again(self):
        port = self.serve()
        fails = [True]
        first, _ = self.program(0, port=port)
        train = first._train

        def once(weights, task):
            if fails[0]:
                raise ZeroDivisionError("once")
            return train(weights, task)

        first._train = once
        second, _ = self.program(1, port=port)
        thread = threading.Thread(target=second.run)
        thread.start()
        try:
            first.run()
            self.fail("nothing was raised")
        except ZeroDivisionError:
            fails[0] = False
            first.run()
        thread.join(60)
        self.assertFalse(thread.is_alive())
        self.assertEqual(self.server.wait(60), 0)
        first.stop()
        self.assertEqual(first.run(), 0)  # a stop before it runs is not lost

    def test_arrays_may_be_kept(self):
        port = self.serve()
        first, _ = self.program(0, port=port)
        kept, train = [], first._train

        def keeps(weights, task):
            result = train(weights, task)
            kept.append(weights.values)
            return result

        first._train = keeps
        second, _ = self.program(1, port=port)
        self.assertEqual(self.together(first, second), [3, 3])
        copies = [array.copy() for array in kept]
        self.assertFalse(np.array_equal(copies[0], copies[1]))
        for array in kept:
            array[:] = 0  # memory of its own
        self.assertEqual(self.server.wait(60), 0)

    def test_what_is_wrong_is_said_at_once(self):
        with self.assertRaisesRegex(espalier.Error, "train=FUNCTION"):
            espalier.Client("localhost:1", pki=self.folder / "pki", client=0)
        with self.assertRaisesRegex(espalier.Error, "num_samples"):
            self.client(0, 1, train=lambda weights, task: None)
        with self.assertRaisesRegex(espalier.Error, "cert"):
            espalier.Client("localhost:1", ca="ca.pem", train=lambda weights, task: None, num_samples=3)
        for wrong in ({"retry_max_s": 0.5}, {"retry_max_s": 0}, {"num_samples": -1}, {"memory_mb": -1}, {"num_samples": 1.5}):
            with self.assertRaises((TypeError, ValueError)):
                self.client(0, 1, **{"train": lambda weights, task: None, "num_samples": np.int64(3), **wrong})
        with self.assertRaisesRegex(espalier.Error, "client-7"):
            espalier.Client("localhost:1", pki=self.folder / "pki", client=7, train=lambda weights, task: None, num_samples=3, folder=self.folder / "x").run()
        port = self.serve()
        other, _ = self.program(1, port=port)
        thread = threading.Thread(target=other.run)
        thread.start()
        client = self.client(0, port, train=lambda weights, task: {"los": 1}, num_samples=3)
        with self.assertRaisesRegex(ValueError, "los"):
            client.run()
        other.stop()
        thread.join(60)
        self.assertFalse(thread.is_alive())

    def test_an_evaluation_tells_loss_and_accuracy(self):
        def told(result):
            client = self.client(0, 1, train=lambda weights, task: None, evaluate=lambda weights: result, num_samples=3, num_test_samples=10)
            return client._work("evaluate", {}, None, None)

        self.assertEqual(told((0.5, 0.9)), {"loss": 0.5, "correct": 9, "count": 10})
        for result, missing in (({"accuracy": 0.9}, "loss"), ({"loss": 0.9}, "accuracy")):
            with self.assertRaisesRegex(ValueError, f"no {missing}"):
                told(result)

    def test_ctrl_c_while_it_waits_and_while_it_trains(self):
        port = self.serve()
        text = f"""
import sys, time, espalier
def train(weights, task):
    print("training", flush=True)
    time.sleep(60)
espalier.Client("localhost:{port}", pki={str(self.folder / 'pki')!r}, client=0, folder={str(self.folder / 'state-0')!r}, train=train, num_samples=5).run()
"""
        for trains in (False, True):
            process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if trains:  # the other one is there: rounds begin
                other, _ = self.program(1, port=port)
                thread = threading.Thread(target=other.run)
                thread.start()
                self.assertEqual(process.stdout.readline(), "training\n")
            else:
                time.sleep(2)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
            self.assertIn("KeyboardInterrupt", said)
            self.assertLess(time.monotonic() - started, 10)
        other.stop()
        thread.join(60)
        self.assertFalse(thread.is_alive())


if __name__ == "__main__":
    unittest.main()
