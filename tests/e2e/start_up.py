"""libtorch is loaded when something needs it and not before: what starts is quick and small. --timed also holds it to bars on processor time."""
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

from common import ESPALIER, Folder, check, ok, run

MODULE = "espalier_torch.so"


def loads_torch(folder, *arguments):
    """Runs the command and says whether the dynamic linker opened libtorch for it."""
    log = folder / "ld"
    ok(subprocess.run([ESPALIER, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                      env={**os.environ, "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(log)}))
    logs = list(folder.glob("ld.*"))
    check(logs, "no output of the dynamic linker")
    text = "".join(path.read_text() for path in logs)
    for path in logs:
        path.unlink()
    check("libstdc++" in text, "the dynamic linker says what it opens")
    return "libtorch" in text or "libc10" in text


def refused(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    check(result.returncode == 2 and result.stderr.count("\n") == 1 and result.stderr.startswith("espalier: [models/torch] "), f"one line that refuses: {result}")
    return result.stderr


def least_seconds(repetitions, make_command):
    """The least of some repetitions: processor time, user and system, of all threads, which a busy machine changes little, and wall time."""
    processor = wall = float("inf")
    for index in range(repetitions):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(make_command(index), check=True, capture_output=True)
        wall = min(wall, time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = min(processor, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return processor, wall


with Folder() as folder:
    config = folder / "small.toml"
    check(not loads_torch(folder, "--version"), "--version loads libtorch")
    check(not loads_torch(folder, "list", "models"), "a list loads libtorch")
    check(not loads_torch(folder, "simulate", config, "--out", folder / "run", "--quiet"), "a run of a built-in model loads libtorch")
    check(not loads_torch(folder, "evaluate", folder / "run", "--runtime", "pruned"), "an evaluation loads libtorch")
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    check(peak_mb < 100, f"without libtorch a process took {peak_mb} MB")

    # What needs libtorch gets it: an export, and a module that is trained by several threads, which all start before it is loaded.
    net = folder / "net.pt"
    check(loads_torch(folder, "export", folder / "run", "--out", net), "an export runs without libtorch")
    scripted = [config, "--set", "model.name=torchscript", "--set", f"model.file={net}", "--quiet"]
    check(loads_torch(folder, "simulate", *scripted, "--out", folder / "scripted", "--threads", 3), "a scripted module runs without libtorch")
    ok(run("simulate", *scripted, "--out", folder / "one", "--threads", 1))
    check((folder / "scripted/model.safetensors").read_bytes() == (folder / "one/model.safetensors").read_bytes(), "3 threads gave other bytes than 1")
    # Errors of the module are the program's: of a type that it knows, in one line.
    result = run("simulate", config, "--set", "model.name=torchscript", "--set", f"model.file={config}", "--out", folder / "never")
    check(result.returncode == 2 and result.stderr.count("\n") == 1 and "torch.jit.script" in result.stderr, f"a file that is no module: {result}")

    # Without its module the program runs what it can, and says what is missing. (A copy of it: it looks beside itself.)
    (folder / "bin").mkdir()
    program = folder / "bin/espalier"
    shutil.copy(ESPALIER, program)
    module = program.parent / MODULE
    ok(subprocess.run([program, "simulate", config, "--out", folder / "alone", "--quiet"], capture_output=True, text=True, timeout=120))
    models = json.loads(ok(subprocess.run([program, "list", "models", "--json"], capture_output=True, text=True)).stdout)
    check(models == json.loads(ok(run("list", "models", "--json")).stdout) and "torchscript" in json.dumps(models), "the same models with and without the module")
    for needs in (["simulate", *scripted, "--out", folder / "never"], ["export", folder / "run", "--out", folder / "never.pt"],
                  ["simulate", config, "--set", "train.device=cuda", "--out", folder / "never"]):
        said = refused(program, *needs)
        check(f"{MODULE}, which brings it, is neither in {program.parent} nor in " in said, f"where it was looked for: {said}")
    whole = (pathlib.Path(ESPALIER).resolve().parent / MODULE).read_bytes()
    build = json.loads((folder / "run/summary.json").read_text())["build"].encode()
    check(whole.count(build) >= 1, "the module says of which build it is")
    module.write_bytes(whole.replace(build, b"0" * len(build)))
    said = refused(program, *needs)
    check("of another build" in said and build.decode() in said and "0" * len(build) in said, f"a module of another build: {said}")
    module.write_bytes(b"no library")
    check(f"{module}: file too short" in refused(program, *needs), "what the dynamic linker says of a file that is no library")
    module.unlink()
    # Where `cmake --install` puts it, whatever the prefix.
    installed = pathlib.Path(refused(program, *needs).split(" nor in ")[1].split(";")[0])
    check(folder in installed.parents, f"{installed} is below the program's prefix")
    installed.mkdir(parents=True)
    (installed / MODULE).write_bytes(whole)
    ok(subprocess.run([program, "export", folder / "run", "--out", folder / "again.pt"], capture_output=True, text=True, timeout=120))

    if "--timed" in sys.argv:
        # Three times what they take.
        for bar, name, make in ((0.09, "--version", lambda index: [ESPALIER, "--version"]),
                                (0.4, "a small run", lambda index: [ESPALIER, "simulate", config, "--threads", "2", "--quiet", "--out", folder / f"timed{index}"])):
            processor, wall = least_seconds(7, make)
            check(processor < bar, f"{name}: {processor:.3f} s of processor time, not less than {bar}")
            print(f"{name}: {processor * 1000:.0f} ms of processor time, {wall * 1000:.0f} ms")
print("1 passed, 0 failed")
