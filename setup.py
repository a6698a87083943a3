"""`pip install .`: CMake builds the extension module with the libraries of scripts/install-dependencies --python."""
import os
import pathlib
import re
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent


class Build(build_ext):
    def build_extension(self, extension):
        target = pathlib.Path(self.get_ext_fullpath(extension.name)).resolve()
        build = ROOT / "build" / "python"
        subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DESPALIER_TESTS=OFF", "-DESPALIER_BENCH=OFF", "-DESPALIER_PYTHON=ON",
                        f"-DPython3_EXECUTABLE={sys.executable}", *os.environ.get("ESPALIER_CMAKE", "").split()], check=True)
        subprocess.run(["cmake", "--build", build, "--target", "espalier_python"], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = next((build / "python" / "espalier").glob("_engine*.so"))
        target.write_bytes(made.read_bytes())
        # What brings libtorch, if there is one, lies beside it.
        for module in (build / "python" / "espalier").glob("espalier_torch.so"):
            (target.parent / module.name).write_bytes(module.read_bytes())


version = re.search(r"project\(espalier VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
setup(version=version, packages=["espalier"], package_dir={"": "python"}, package_data={"espalier": ["py.typed", "*.pyi"]}, ext_modules=[Extension("espalier._engine", [])],
      cmdclass={"build_ext": Build})
