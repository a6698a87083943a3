"""Runs the programs of docs/python.md, in order and each in a folder of its own, as they stand there."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(os.environ["SOURCE"])
programs = re.findall(r"```python\n(.*?)```", (SOURCE / "docs/python.md").read_text(), re.S)
assert len(programs) >= 5, f"{len(programs)} programs in docs/python.md"
for number, program in enumerate(programs, 1):
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"program {number}:\n{program}\n{result.stdout}{result.stderr}"
        print(f"program {number}: {result.stdout.strip().splitlines()[-1:]}")
