"""The report in headless Chromium: no script errors, every plot drawn."""
import shutil
import subprocess
import sys

from common import SOURCE, Folder, check, ok, run

if shutil.which("chromium") is None:
    print("SKIPPED: chromium is not installed")
    sys.exit(77)
with Folder() as folder:
    ok(run("simulate", folder / "small.toml", "--out", folder / "run", "--quiet"))
    ok(run("simulate", folder / "small.toml", "--set", "strategy.name=fedprox", "--out", folder / "other", "--quiet"))
    ok(run("compare", folder / "run", folder / "other", "--html", folder / "compare.html"))
    for page in (folder / "run/report.html", folder / "compare.html"):
        check("http://" not in (text := page.read_text()).replace("http://www.w3.org", "") and "src=\"http" not in text, "the page must be self-contained")
        result = subprocess.run([SOURCE / "scripts/check-report", page], capture_output=True, text=True, timeout=120)
        check(result.returncode == 0, f"{page.name}: {result.stdout}{result.stderr}")
print("1 passed, 0 failed")
