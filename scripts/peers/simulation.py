"""Clients per second of `conclave federate simulate`, of pfl and of Flower, alternating on the same two cores: for
scripts/bench_peers --simulation.

    python simulation.py build/release/conclave --rounds 3

All simulate recipes/simulations/fashion_clients.toml: model, clients, cohort, local batches and steps, clipping and
noise. Two things differ: training images are assigned to clients at random, and the clipping norm is constant. Each has
a process or worker per core. Start-up and the first round of a simulation are not timed.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
SIMULATION = ROOT / "recipes/simulations/fashion_clients.toml"
CORES = 2
SIMULATED = 4  # rounds of a simulation; Conclave, whose rounds are short, runs ten times as many


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("conclave", help="the program")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}

    def run(*command):
        done = subprocess.run(list(map(str, command)), env=environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"simulation: {command} failed: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        recipe = pathlib.Path(folder) / "recipe.toml"
        recipe.write_text(run(arguments.conclave, "recipe", "show", ROOT / "recipes/fashion_small.toml"))

        def conclave():
            rounds = 10 * SIMULATED
            settings = [f"simulation.directory={folder}/run", f"simulation.rounds={rounds}",
                        f"simulation.evaluate_every={rounds}", "simulation.parts_by=random",
                        "client_privacy.adaptive=false", "run.threads=1"]
            said = run(ROOT / "scripts/run_ranks", CORES, arguments.conclave, "federate", "simulate", SIMULATION,
                       *(word for setting in settings for word in ("--set", setting)))
            parameters = re.search(r"a model of (\d+) parameters", said)[1]
            speeds = [int(speed) for speed in re.findall(r"^round .*, (\d+) per second", said, re.MULTILINE)]
            return statistics.median(speeds[1:]), parameters

        def peer(*command):
            out = pathlib.Path(folder) / "result.json"
            out.unlink(missing_ok=True)
            run(*command, recipe, SIMULATION, "--rounds", SIMULATED, "--parameters", parameters, "--out", out)
            return json.loads(out.read_text())

        found = []
        print(f"{'clients/s':10} {'Conclave':>10} {'pfl':>10} {'Flower':>10}")
        for number in range(1, arguments.rounds + 1):
            speed, parameters = conclave()
            pfl = peer(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", CORES,
                       HERE / "pfl_simulation.py")
            flower = peer(sys.executable, HERE / "flower_simulation.py")
            found.append([speed, pfl["clients_per_second"], flower["clients_per_second"]])
            row(number, found[-1])
    ours, *theirs = medians = [statistics.median(values) for values in zip(*found)]
    row("median", medians)
    for name, result, speed in zip(["pfl", "Flower"], [pfl, flower], theirs):
        print(f"Conclave simulates {ours / speed:.1f} times as many clients per second as {name} "
              f"{result['version']} (target 5)")


def row(name, values):
    print("{:10} {:10.0f} {:10.0f} {:10.0f}".format(str(name), *values), flush=True)


if __name__ == "__main__":
    main()
