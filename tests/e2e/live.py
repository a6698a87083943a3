"""The page that shows a run while it goes, of a simulation and of a server, in a browser where there is one."""
import json
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

from common import ESPALIER, SOURCE, Folder, check, ok, run


def get(url, **headers):
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10).read().decode()


def started(*command):
    """The process and the address of its page."""
    process = subprocess.Popen([ESPALIER, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"live page: (http://127\.0\.0\.1:\d+/)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()  # nobody waits for a reader
            return process, found[1]
    process.wait()
    check(False, f"{command}: no page, exit {process.returncode}")


def look(url):
    if shutil.which("chromium") is None:
        print("the page was not looked at: chromium is not installed")
        return
    result = subprocess.run([SOURCE / "scripts/check-report", url], capture_output=True, text=True, timeout=120)
    check(result.returncode == 0 and "4 charts" in result.stdout, f"{result.stdout}{result.stderr}")


with Folder() as folder:
    process, url = started("simulate", folder / "small.toml", "--out", folder / "run", "--live", "--set", "rounds=100000", "--set", "record_clients=false", "--set",
                           "eval_every=2")
    until = time.time() + 60
    while (status := json.loads(get(url + "status.json")))["round"] < 10:
        check(time.time() < until, f"rounds pass: {status['round']}")
        time.sleep(0.1)
    check(status["state"] == "running" and status["rounds"] == 100000 and status["strategy"] == "fedavg", f"what it is: {status['state']}")
    check(len(status["series"]["round"]) == len(status["series"]["accuracy"]) == status["round"] and status["series"]["accuracy"][0] is None, "a value per round")
    later = json.loads(get(url + f"status.json?since={status['round']}"))
    check(all(number > status["round"] for number in later["series"]["round"]), "only what is new")
    check(re.search(r"^espalier_round \d+$", get(url + "metrics"), re.M), "Prometheus")
    try:
        get(url, Host="evil.example")
        check(False, "another host is refused")
    except urllib.error.HTTPError as error:
        check(error.code == 403, f"another host: {error.code}")
    page = get(url)
    check(str(folder) not in page and "http://" not in page.replace("http://www.w3.org", ""), "self-contained, no path of this machine")
    look(url)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    check(process.returncode == 3, f"interrupted: {process.returncode}")
    process, url = started("simulate", "--resume", folder / "run", "--live-at", "127.0.0.1:0", "--set", "rounds=100000")
    check(json.loads(get(url + "status.json"))["series"]["round"][0] == 1, "a run that goes on shows its rounds before")
    process.send_signal(signal.SIGINT)
    process.wait(60)
    bad = run("simulate", folder / "small.toml", "--out", folder / "never", "--live-at", "0.0.0.0:1")
    check(bad.returncode == 2 and "this machine alone" in bad.stderr, bad.stderr)
    if re.search(r"^ +serve ", ok(run("--help")).stdout, re.MULTILINE):
        process, url = started("serve", folder / "small.toml", "--out", folder / "served", "--insecure", "--listen", "127.0.0.1:0", "--set", "server.status_listen=127.0.0.1:0",
                               "--set", "data.partition.clients=2", "--set", "strategy.clients_per_round=2")
        status = json.loads(get(url + "status.json"))
        check(status["state"] == "waiting" and [one["enrolled"] for one in status["devices"]] == [False, False], f"nobody is there: {status}")
        check("espalier_clients{state=\"away\"} 2" in get(url + "metrics"), "two are away")
        text = ok(run("status", url)).stdout
        check("waiting, round 0 of" in text and text.count("never seen") == 2, text)
        check(json.loads(ok(run("status", url, "--json")).stdout)["state"] == "waiting" and "espalier_round 0" in ok(run("status", url, "--metrics")).stdout, "as it is")
        process.send_signal(signal.SIGINT)
        process.wait(60)
        check(process.returncode == 3, f"interrupted: {process.returncode}")
        token, short = folder / "token", folder / "short"
        token.write_text("0123456789abcdef\n")
        short.write_text("guess\n")
        process, url = started("serve", folder / "small.toml", "--out", folder / "guarded", "--insecure", "--listen", "127.0.0.1:0", "--set", "server.status_listen=0.0.0.0:0",
                               "--set", f"server.status_token_file={token}", "--set", "data.partition.clients=2", "--set", "strategy.clients_per_round=2")
        refused = run("status", url)
        check(refused.returncode == 2 and "401" in refused.stderr, refused.stderr)
        check("waiting" in ok(run("status", url, "--token-file", token)).stdout, "with the token")
        check(run("status", url, "--token-file", short).returncode == 2, "no token")
        process.send_signal(signal.SIGTERM)
        process.wait(60)
print("passed")
