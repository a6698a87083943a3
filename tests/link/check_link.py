#!/usr/bin/env python3
"""check_link.py PROGRAM: fails when a client program contains what belongs to libtorch or to a server, by its symbols, by the
libraries that it loads and by the objects in its link map (PROGRAM.map). Prints the program's size without symbols."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

program = sys.argv[1]
symbols = subprocess.run(["nm", "-C", program], check=True, capture_output=True, text=True).stdout
faults = []
for pattern in (r"\bc10::", r"\bat::", r"(?<!espalier::)\btorch::", r"RoundLoop", r"strategy::Strategy\b", r"RoundSums",
                r"round::Exchange"):
    found = [line for line in symbols.splitlines() if re.search(pattern, line)]
    if found:
        faults.append(f"{len(found)} symbols match {pattern}, for example {found[0].strip()}")
if "ClientAlgorithm" not in symbols or "GraphNet" not in symbols:
    faults.append("no symbol of a client half or of the engine: this is not the program that was meant")
libraries = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
for name in ("libtorch", "libc10", "grpc", "libmpi"):
    if name in libraries:
        faults.append(f"loads a library called {name}")
with open(program + ".map", encoding="utf-8", errors="replace") as file:
    objects = set(re.findall(r"libespalier_(\w+)\.a\(([\w.]+)\)", file.read()))
for module, name in sorted(objects):
    if module in ("strategy", "round", "sim", "run", "script", "torch"):
        faults.append(f"links {name} of module {module}")
ran = subprocess.run([program], capture_output=True, text=True)
if ran.returncode != 0:
    faults.append(f"does not run: {ran.stderr.strip()}")
with tempfile.TemporaryDirectory() as folder:
    stripped = os.path.join(folder, "program")
    shutil.copy(program, stripped)
    subprocess.run(["strip", stripped], check=True)
    size = os.path.getsize(stripped)
print(f"{ran.stdout.strip()}; {len(objects)} objects of {len({m for m, _ in objects})} modules, "
      f"{size / 1e6:.2f} MB stripped, {len(libraries.splitlines())} shared libraries")
for fault in faults:
    print(f"client_link {fault}", file=sys.stderr)
sys.exit(1 if faults else 0)
