"""Shared by all parts of scripts/reproduce: runs that are kept, figures over the seeds, tables."""

import hashlib
import json
import math
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

# The encoder of recipes/quick.toml alone, as a linear model beside it would hide differences, and the balancer of most recipes.
ENCODER = ["model.bigrams=0", "moe.balancer=bias", "moe.bias_rate=0.01"]
OUT = Path("build/reproduce")
CONCLAVE = "build/release/conclave"


def call(arguments, log=None):
    """Runs a command and returns its output; a failure ends the program with the last lines of it."""
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if log:
        log.write_text(done.stdout)
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-5:])
        sys.exit(f"reproduce: status {done.returncode} of: {' '.join(map(str, arguments))}\n{last}")
    return done.stdout


def digest(data):
    return hashlib.sha256(data).hexdigest()


def kept(path, made_by, make):
    """Returns the result of make(), cached in the file `path`; makes it again if the file has another `made_by`."""
    saved = json.loads(path.read_text()) if path.exists() else {}
    if saved.get("made_by") != made_by:
        saved = {"made_by": made_by, "made": make()}
        path.write_text(json.dumps(saved))
    return saved["made"]


def origin_of(recipe, options, sets):
    """Everything a run depends on: its options (for readers), all keys of its recipe, and the model it starts from."""
    shown = call([CONCLAVE, "recipe", "show", recipe, *sets])
    start = tomllib.loads(shown)["train"]["start_from"]
    if start and Path(start).is_dir():
        start = max(Path(start).glob("step-*.h5"), default="")
    model = digest(Path(start).read_bytes()) if start and Path(start).exists() else ""  # training reports a missing one
    return {"options": options, "recipe": digest(shown.encode()), "start": model}


def train(directory, recipe, options):
    """Trains on two ranks; returns the metrics, a list of dictionaries. A completed run is reused if its origin is
    unchanged; changes of the program do not matter."""
    done = directory / "options.json"
    sets = [f"--set={option}" for option in (*options, f"run.directory={directory}")]
    wanted = origin_of(recipe, options, sets)
    if not done.exists() or json.loads(done.read_text()) != wanted:
        print(f"training {directory.relative_to(OUT)}", flush=True)
        directory.mkdir(parents=True, exist_ok=True)
        for old in (old for pattern in ("*.json", "*.h5", "events.*") for old in directory.glob(pattern)):
            old.unlink()
        call(["scripts/run_ranks", "2", CONCLAVE, "train", recipe, *sets], directory / "log.txt")
        done.write_text(json.dumps(wanted))
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def costs(directory):
    """Parameters and FLOPs of a run's model, by the name of the part."""
    said = call([CONCLAVE, "inspect", "--cost", directory])
    found = re.findall(r"^(\S+) +(\d+) +[0-9.]+% +(\d+) ", said, re.MULTILINE)
    return {name: (int(parameters), int(flops)) for name, parameters, flops in found}


class Measured:
    """A figure of several runs, one for each seed."""

    def __init__(self, runs, name):
        self.values = [run[name] for run in runs]
        self.mean = statistics.fmean(self.values)
        self.error = statistics.stdev(self.values) / math.sqrt(len(self.values)) if len(self.values) > 1 else 0.0

    def __str__(self):
        return f"{self.mean:.2f} ± {self.error:.2f}" if len(self.values) > 1 else f"{self.mean:.2f}"


def not_below(figure, other):
    """Whether a figure is better than another or at most one standard error of the difference worse."""
    return figure.mean >= other.mean - math.hypot(figure.error, other.error)


def show(title, rows):
    print(f"\n{title}")
    width = max(len(what) for _, what, *_ in rows)
    for claim, what, claimed, measured, passes in rows:
        verdict = "" if passes is None else "passes" if passes else "MISSES"
        print(f"  {claim:>3}  {what:<{width}}  {claimed:<12}  {measured:<36}  {verdict}".rstrip())
