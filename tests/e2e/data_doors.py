"""Data at every door: simulate, data info and data partition count the same and refuse with the same words; what is guessed is said,
a fault has a place, rare classes show, float images are augmented. Needs numpy."""
import json
import struct
import sys

try:
    import numpy as np
except ImportError:
    print("SKIPPED: numpy is not installed")
    sys.exit(77)

from common import ESPALIER, Folder, check, metrics, ok, run

TYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8"}
CONFIG = """rounds = 2
[data]
name = "safetensors"
[data.partition]
clients = 5
[model]
name = "mlp"
[train]
lr = 0.1
batch_size = 16
[strategy]
clients_per_round = 3
"""


def tensors(path, values, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    header, body = {"__metadata__": metadata} if metadata else {}, b""
    for name, value in values.items():
        data = np.ascontiguousarray(value).tobytes()
        header[name] = {"dtype": TYPES[str(value.dtype)], "shape": list(value.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def blobs(count, shape, classes, seed):
    centres = np.random.default_rng(99).normal(size=(classes, *shape)) * 2
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (centres[labels] + rng.normal(size=(count, *shape))).astype(np.float32), labels


class Case:
    """Training and test files of a folder, and the commands on them."""

    def __init__(self, folder, name, train, test, metadata=None):
        self.folder, self.root = folder, folder / name
        for part, (inputs, labels, *client) in (("train", train), ("test", test)):
            owner = {"client": client[0]} if client else {}
            tensors(self.root / f"{part}.safetensors", {"inputs": inputs, "labels": labels, **owner}, metadata)

    def simulate(self, out, *settings, flags=()):
        words = [word for s in (f"data.root={self.root}", *settings) for word in ("--set", s)]
        return run("simulate", self.folder / "base.toml", "--threads", 1, "--out", self.root / out, *flags, *words)

    def info(self, *flags):
        return run("data", "info", "safetensors", "--root", self.root, *flags)

    def partition(self, *flags):
        return run("data", "partition", "safetensors", "--root", self.root, *flags)

    def notes(self, out="noted", *settings):
        """The notes of a run, the same ones wherever they are kept."""
        result = ok(self.simulate(out, *settings))
        notes = [line[6:] for line in result.stderr.splitlines() if line.startswith("note: ")]
        kept = json.loads((self.root / out / "summary.json").read_text())["notes"]
        check(notes == kept, f"the summary keeps the notes: {notes} {kept}")
        info = [line[6:] for line in ok(self.info()).stdout.splitlines() if line.startswith("note: ")]
        of_data = [line for line in notes if line.startswith("[data]")]
        check(info == of_data, f"data info says what a run says: {info} {of_data}")
        check(json.loads(ok(self.info("--json")).stdout)["notes"] == of_data, "and so does --json")
        check(all(len(note) <= 220 for note in notes), f"short notes: {notes}")
        report = (self.root / out / "report.html").read_text()
        check(not notes or "<h2>Notes</h2>" in report, "the report has the notes")
        quiet = ok(self.simulate(out + "-quiet", *settings, flags=["--quiet"]))
        check(quiet.stderr == "" and quiet.stdout == "", f"--quiet says nothing: {quiet.stderr}")
        return notes


def one(notes, *expected):
    check(len(notes) == 1, f"expected one note, got {notes}")
    for text in expected:
        check(text in notes[0], f"expected '{text}' in '{notes[0]}'")


def refused(results, *expected):
    """The same one line, exit 2, at every door."""
    lines = set()
    for result in results:
        check(result.returncode == 2, f"{result.args}: exit {result.returncode}\n{result.stdout}{result.stderr}")
        found = result.stderr.strip().splitlines()
        check(len(found) == 1 and len(found[0]) < 400, f"{result.args}: expected one line, got {found}")
        lines.add(found[0])
    check(len(lines) == 1, f"the same words at every door: {lines}")
    for text in expected:
        check(text in (line := lines.copy().pop()), f"expected '{text}' in '{line}'")


def all_doors(case, *expected):
    refused([case.simulate("never"), case.info(), case.partition()], *expected)


def table(count, seed, classes=3):
    return blobs(count, (8,), classes, seed)


with Folder() as folder:
    (folder / "base.toml").write_text(CONFIG)
    x, y = table(300, 1)
    xt, yt = table(100, 2)
    plain = Case(folder, "plain", (x, y), (xt, yt))
    check(plain.notes() == [], "ordinary data need no word")

    # --- What is guessed is said.
    one(Case(folder, "from-one", (x, y + 1), (xt, yt + 1)).notes(), "class 0", "labels - 1")
    one(Case(folder, "gaps", (x, y * 2), (xt, yt * 2)).notes(), "classes 1 and 3", "in both files alike")
    one(Case(folder, "single", (x, y * 0), (xt, yt * 0)).notes(), "all training samples are of class 0")
    keep = y < 2
    one(Case(folder, "lacks", (x[keep], y[keep]), (xt, yt)).notes(), "training samples lack class 2", "of 100 test samples")
    one(Case(folder, "copied", (x, y), (np.concatenate([xt[:60], x[:40]]), np.concatenate([yt[:60], y[:40]]))).notes(),
        "40 of 100 test samples are training samples as well")
    one(Case(folder, "raw", (x * 90000, y), (xt * 90000, yt)).notes("noted", "train.lr=1e-9"), "inputs reach")
    image = lambda a, s: np.clip(a.reshape(-1, *s) * 20 + 128, 0, 255)
    (p, q), (pt, qt) = blobs(300, (144,), 3, 1), blobs(100, (144,), 3, 2)
    one(Case(folder, "float-pixels", (np.round(image(p, (1, 12, 12))), q), (np.round(image(pt, (1, 12, 12))), qt)).notes("noted", "train.lr=1e-6"),
        "look like pixels", "divide them by 255")
    (r, s), (rt, st) = blobs(300, (8, 8, 3), 3, 1), blobs(100, (8, 8, 3), 3, 2)
    one(Case(folder, "channels-last", (image(r, (8, 8, 3)).astype(np.uint8), s), (image(rt, (8, 8, 3)).astype(np.uint8), st)).notes(),
        "read as 8 channels of 8×3", "transpose(0, 3, 1, 2)")
    check(Case(folder, "declared", (x, y * 2), (xt, yt * 2), {"num_classes": "5"}).notes() == [], "a declared number of classes is meant")

    # Pixels in rows: read as tokens, which is said, and no model sends to another that refuses as well.
    flat = Case(folder, "flat", (image(p, (144,)).astype(np.uint8), q), (image(pt, (144,)).astype(np.uint8), qt))
    one(flat.notes("lstm", "model.name=lstm", "model.lstm_units=8"), "read as token sequences", "(samples, 1, 12, 12)")
    for model in ("cnn", "mlp"):
        refused([flat.simulate("never", f"model.name={model}")], "cannot read sequences of [144] tokens (\"lstm\" can)", "store pixels as uint8")
    refused([plain.simulate("never", "model.name=lstm")], "model.name = \"mlp\"", "integers (samples, length)")

    # --- A fault has a place, at every door the same.
    bad = xt.copy()
    bad[17, 3] = np.nan
    all_doors(Case(folder, "nan", (x, y), (bad, yt)), "test.safetensors", "inputs, got nan (sample 17, position 3; 1 of 800 values)")
    wide = p.reshape(-1, 1, 12, 12).astype(np.float64)
    wide[5, 0, 2, 7] = 1e300
    all_doors(Case(folder, "overflow", (wide, q), (pt.reshape(-1, 1, 12, 12), qt)), "train.safetensors", "1e+300 (sample 5, [0, 2, 7]")
    all_doors(Case(folder, "signs", (x, np.where(y > 0, 1, -1)), (xt, yt)), "(labels + 1) // 2")
    marked = y.copy()
    marked[42] = -100
    all_doors(Case(folder, "marked", (x, marked), (xt, yt)), "got -100 (sample 42)")
    all_doors(Case(folder, "float-labels", (x, y.astype(np.float32)), (xt, yt)), "labels.astype(np.int64)")
    all_doors(Case(folder, "one-hot", (x, np.eye(3, dtype=np.int64)[y]), (xt, yt)), "argmax(1)")
    all_doors(Case(folder, "gray", (image(p, (12, 12)).astype(np.uint8), q), (xt, yt)), "inputs[:, None]")

    # --- One rule at all doors: owners, limits, defaults.
    owned = Case(folder, "owned", (x, y, np.repeat([7, 9], 150)), (xt, yt, np.repeat([7, 1000], 50)))
    check(json.loads(ok(owned.info("--json")).stdout)["natural_clients"] == 2, "owners with training samples")
    check("natural clients  2\n" in ok(owned.info()).stdout, "owners with training samples")
    check(json.loads(ok(owned.partition("--partition-name", "natural", "--json")).stdout)["clients"] == 2, "the same owners")
    check(json.loads(ok(owned.info("--json", "--max-train-samples", 100)).stdout)["natural_clients"] == 1, "limits count for owners")
    natural = ["data.partition.name=natural", "data.partition.clients=0", "strategy.clients_per_round=10"]
    notes = owned.notes("natural", *natural)
    one(notes, "clients_per_round is lowered", "2 clients")
    check(json.loads((owned.root / "natural/summary.json").read_text())["clients"] == 2, "simulate counts them too")
    one(owned.notes("iid"), "2 owners", "natural")

    few = Case(folder, "few", (x[:60], y[:60]), (xt, yt))
    for name, clients in (("iid", 10), ("dirichlet", 3), ("shards", None)):
        shown = json.loads(ok(few.partition("--partition-name", name, "--json")).stdout)
        settings = [f"data.partition.name={name}", "data.partition.clients=100", "strategy.clients_per_round=10"]
        notes = few.notes(name, *settings)
        check(notes[0] == shown["notes"][0] and "lowered from its default 100" in notes[0], f"{name}: {notes} {shown['notes']}")
        check(clients in (None, shown["clients"]), f"{name}: {shown['clients']} clients")
        summary = json.loads((few.root / name / "summary.json").read_text())
        check(summary["clients"] == shown["clients"], "the same number of clients at both doors")
    flag = lambda key, value: ["--" + key.replace("_", "-"), value]
    for settings, flags, text in (
            ({"clients": 2000}, [], "at most 300 clients"),
            ({"clients": 0}, [], "data.partition.clients"),
            ({"clients": -1}, [], "data.partition.clients"),
            ({"name": "dirichlet", "alpha": 0}, [], "data.partition.alpha"),
            ({"name": "dirichlet", "clients": 20, "min_samples": 16}, [], "20 × 16"),
            ({"name": "shards", "classes_per_client": 4}, [], "classes_per_client of at most 3"),
            ({"name": "natural"}, [], "no clients of its own"),
            ({"name": "dirichlte"}, [], "did you mean 'dirichlet'"),
            ({"cap": "false"}, [], "data.partition.cap = false has no effect")):
        words = [w for k, v in settings.items() for w in flag("partition-name" if k == "name" else k, v)]
        refused([plain.simulate("never", *[f"data.partition.{k}={v}" for k, v in settings.items()]), plain.partition(*words)], text)
    refused([plain.simulate("never", "data.max_train_samples=-1"), plain.info("--max-train-samples", -1), plain.partition("--max-train-samples", -1)],
            "data.max_train_samples")
    refused([run("data", "info", "fashion-mnits"), run("data", "partition", "fashion-mnits"),
             plain.simulate("never", "data.name=fashion-mnits")], "did you mean 'fashion-mnist'")
    ten = Case(folder, "ten", table(300, 1, 10), table(100, 2, 10))
    largest_class = np.bincount(table(300, 1, 10)[1]).max()
    sizes = [[json.loads(ok(ten.partition("--partition-name", "dirichlet", "--clients", 5, "--alpha", 0.3, "--min-samples", 1, "--json",
                                          "--seed", seed, "--cap", cap)).stdout)["samples"]["max"] for seed in range(1, 7)]
             for cap in ("true", "false")]
    check(max(sizes[0]) <= 60 + largest_class, f"a client gets no class once it has its share: {sizes}")
    check(max(sizes[1]) > 60 + largest_class, f"plain Dirichlet does not stop there: {sizes}")

    # --- A class that is never found.
    part = lambda count, seed: ((labels := (np.random.default_rng(seed).random(count) < 0.03).astype(np.int64)),
                                (np.random.default_rng(seed + 9).normal(size=(count, 8)) + labels[:, None] * 0.8).astype(np.float32))
    (b, a), (bt, at) = part(2000, 1), part(500, 2)
    rare = Case(folder, "rare", (a, b), (at, bt))
    result = ok(rare.simulate("run", "model.hidden=[16]"))
    check("balanced accuracy  50.00%, class 1 is never found" in result.stdout, result.stdout)
    check("of the training samples are of class 0" in result.stderr, result.stderr)
    summary = json.loads((rare.root / "run/summary.json").read_text())
    check(summary["final_balanced_accuracy"] == 0.5 and summary["final_never_found"] == [1] and summary["final_recall"] == {"0": 1.0, "1": 0.0},
          f"summary: {summary}")
    check(summary["final_accuracy"] == 1 - bt.mean(), "the classes' counts are those of the accuracy")
    last = metrics(rare.root / "run")[-1]
    check(last["balanced_accuracy"] == 0.5 and last["recall"] == {"0": 1.0, "1": 0.0}, f"metrics: {last}")
    check("class 1 is never found" in (rare.root / "run/report.html").read_text(), "the report says so")
    shown = ok(run("evaluate", rare.root / "run")).stdout
    check("balanced_accuracy    50.00%" in shown and "never_found          [1]" in shown, shown)
    for runtime in ("dense", "pruned"):
        found = json.loads(ok(run("evaluate", rare.root / "run", "--runtime", runtime, "--json")).stdout)
        found = found.get("variants", {}).get("pruned", found)
        check(found["balanced_accuracy"] == 0.5 and found["recall"]["1"] == 0, f"{runtime}: {found}")
    # A resumed run that has nothing left to do still knows.
    ok(run("simulate", "--resume", rare.root / "run"))
    check(json.loads((rare.root / "run/summary.json").read_text())["final_recall"] == {"0": 1.0, "1": 0.0}, "resumed")
    learned = ok(plain.simulate("learned", "rounds=8"))
    check("balanced accuracy" not in learned.stdout, "no word where accuracy tells all")

    # --- Float images are augmented as pixels are, and nothing else is.
    floats = Case(folder, "floats", (p.reshape(-1, 1, 12, 12), q), (pt.reshape(-1, 1, 12, 12), qt))
    weights = {}
    for name, setting in (("none", "train.flip=false"), ("flip", "train.flip=true"), ("cutout", "train.cutout=12"), ("crop", "train.crop_padding=6")):
        ok(floats.simulate(name, "model.name=cnn", "model.width=0.25", "model.fc_units=16", setting))
        weights[name] = (floats.root / name / "model.safetensors").read_bytes()
    check(len(set(weights.values())) == 4, "flip, cutout and crop each change what is learned")
    for case, model in ((plain, "mlp"), (flat, "lstm")):
        for setting in ("train.flip=true", "train.cutout=3", "train.crop_padding=1"):
            refused([case.simulate("never", f"model.name={model}", setting)], "train.flip", "images")
print("1 passed, 0 failed")
