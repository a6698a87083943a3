"""Runs examples/espalier.ipynb cell by cell in a kernel, as a person would, in a folder of its own."""
import os
import pathlib
import sys
import tempfile

try:
    import nbformat
    from nbclient import NotebookClient
except ImportError:
    print("no nbclient (scripts/install-dependencies --tests)")
    sys.exit(77)

path = pathlib.Path(os.environ["SOURCE"]) / "examples/espalier.ipynb"
notebook = nbformat.read(path, as_version=4)
nbformat.validate(notebook)
assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
with tempfile.TemporaryDirectory() as folder:
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
texts = ["".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
for text in texts:
    print(text.strip().splitlines()[-1:])
assert float(texts[1].splitlines()[-1]) > 0.4, texts[1]  # learns
assert texts[-1].splitlines()[-1] == "True", texts[-1]  # the built-in algorithm's bytes
html = [output.data for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if "data" in output and "text/html" in output.data]
assert len(html) >= 2 and all("iframe" in one["text/html"] for one in html)  # the report and the comparison
