"""Installs, builds upon the installation, makes Debian packages and runs what is in them, everything in an empty folder.
Usage: check_package.py BUILD SOURCE TYPE"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

build, source, kind = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
torch = "ESPALIER_TORCH:BOOL=ON" in (build / "CMakeCache.txt").read_text()


def run(*command, **options):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def works(espalier, folder):
    assert run(espalier, "--version").startswith("espalier 0."), "it says what it is"
    (folder / "tiny.toml").write_text('rounds = 1\n[data]\nname = "synthetic"\nsynthetic_train_samples = 100\nsynthetic_test_samples = 20\n'
                                      '[data.partition]\nclients = 2\n[strategy]\nclients_per_round = 2\n')
    run(espalier, "simulate", folder / "tiny.toml", "--out", folder / "run", "--quiet")
    assert (folder / "run/model.safetensors").exists(), "it trains"
    if torch:
        run(espalier, "export", folder / "run", "--out", folder / "net.pt")
        assert (folder / "net.pt").exists(), "it finds the module that brings libtorch"


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    prefix = folder / "prefix"
    run("cmake", "--install", build, "--prefix", prefix, "--strip")
    (folder / "installed").mkdir()
    works(prefix / "bin/espalier", folder / "installed")
    assert not list(prefix.rglob("test_*.h")), "no headers of tests"
    # Nothing installed knows where it was built.
    for file in [*prefix.rglob("*.cmake"), *prefix.rglob("*.service"), *prefix.rglob("*.so"), prefix / "bin/espalier"]:
        assert str(source).encode() not in file.read_bytes(), f"{file} names {source}"
    run("cmake", "-S", source / "tests/package/consumer", "-B", folder / "consumer", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_BUILD_TYPE={kind}",
        f"-DSOURCE={source}/tests/link/client_link.cpp")
    run("cmake", "--build", folder / "consumer")
    print("a program of others:", run(folder / "consumer/consumer").strip())

    if shutil.which("dpkg-shlibdeps") is None:
        print("no packages were made: dpkg-dev is not installed")
        sys.exit()
    run("cpack", "--config", build / "CPackConfig.cmake", "-B", folder / "packages")
    packages = {re.match("[a-z0-9-]+(?=_)", path.name)[0]: path for path in (folder / "packages").glob("*.deb")}
    assert {"espalier", "espalier-dev"} <= set(packages) <= {"espalier", "espalier-dev", "python3-espalier"}, packages
    if "python3-espalier" in packages:
        run("dpkg-deb", "--extract", packages["python3-espalier"], folder / "python-root")
        environment = {**os.environ, "PYTHONPATH": str(folder / "python-root/usr/lib/python3/dist-packages")}
        said = run(sys.executable, "-c", "import espalier; print(espalier.__version__, espalier.codec('quantize:bits=4'))", env=environment)
        assert said.startswith("0."), said
        if torch:
            run(sys.executable, "-c", f"import espalier; espalier.simulate('{folder}/installed/tiny.toml', **{{'model.name': 'torchscript', 'model.file': '{folder}/installed/net.pt'}})", env=environment)
    about = run("dpkg-deb", "--info", packages["espalier"])
    assert re.search(r"^ Depends: .*libdnnl2", about, re.M), about
    root = folder / "root"
    run("dpkg-deb", "--extract", packages["espalier"], root)
    assert not list(root.rglob("*.h")) and not list(root.rglob("*.a")), "the command's package has no libraries"
    works(root / "usr/bin/espalier", folder)
    units = list(root.rglob("*.service"))
    if units and shutil.which("systemd-analyze"):
        for unit in units:
            # systemd looks for the command in /usr/bin and /usr/local/bin; here it is not there.
            text = unit.read_text().replace("ExecStart=espalier", f"ExecStart={root}/usr/bin/espalier")
            instance = folder / unit.name.replace("@", "@check")
            instance.write_text(text)
            result = subprocess.run(["systemd-analyze", "verify", "--man=no", instance], capture_output=True, text=True)
            complaints = [line for line in result.stderr.splitlines() if "check.service" in line and "EnvironmentFile" not in line]
            assert result.returncode == 0 and not complaints, result.stderr
    sizes = {name: path.stat().st_size for name, path in packages.items()}
    print("packages:", ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(sizes.items())))
print("passed")
