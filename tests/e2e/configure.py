"""What a machine with the packages of scripts/install-dependencies alone configures, as `scripts/build` does: everything but what needs
more. Then the packages come, and the same folder has the rest."""
import pathlib
import subprocess
import tempfile

from common import SOURCE, check

PACKAGES = ["GTest", "benchmark", "MPI"]
FILES = ["GRPC_LIBRARY", "MICROHTTPD_LIBRARY", "PYBIND11_INCLUDE"]
SWITCHES = ["TESTS", "BENCH", "MPI", "RPC", "LIVE", "PYTHON"]


def configure(folder, *arguments):
    done = subprocess.run(["cmake", "--preset", "release", "-B", str(folder), *arguments], cwd=SOURCE, capture_output=True, text=True, timeout=300)
    check(done.returncode == 0, f"cmake fails:\n{done.stderr}")


def targets(folder):
    done = subprocess.run(["ninja", "-C", str(folder), "-t", "targets", "all"], capture_output=True, text=True, timeout=60)
    return {line.split(":")[0] for line in done.stdout.splitlines()}


def switches(folder):
    cache = (folder / "CMakeCache.txt").read_text().splitlines()
    return {name: next(line.split("=")[1] for line in cache if line.startswith(f"ESPALIER_{name}:")) for name in SWITCHES}


with tempfile.TemporaryDirectory() as work:
    build = pathlib.Path(work) / "build"
    configure(build, *[f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in PACKAGES], *[f"-D{name}=" for name in FILES])
    bare = targets(build)
    check("bin/espalier" in bare, "the command is not built")
    extra = sorted(name for name in bare if name.endswith(("_test", "_bench", "libespalier_rpc.a", "libespalier_live.a")))
    check(not extra, f"built without what they need: {extra}")
    check(set(switches(build).values()) == {"AUTO"}, f"what was not found is remembered: {switches(build)}")
    configure(build, *[f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=OFF" for name in PACKAGES], *[f"-U{name}" for name in FILES])
    check("params_test" in targets(build), "the tests are not built once their packages are there")
print("configure: passed")
