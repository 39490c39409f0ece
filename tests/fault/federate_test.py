"""A federation whose network is bad and whose processes are killed, whenever that is: it ends with the same bits as
one that was left alone (where these do not depend on who is faster), and every update was counted once. `scripts/federate_faults 100` does so a hundred times."""

import json
import random
import shutil
import signal
import sqlite3
import sys
import time
from pathlib import Path

from e2e.federate_test import Started, coordinator, free_port, site
from faulty_proxy import FaultyProxy
from runs import PROGRAM, assert_same_weights, checkpoints, own_temporary_files, prepare, run

SITES, ROUNDS = ["east", "north", "south"], 3
FEDERATION = """
[federation]
name = "faults"
sites = ["east", "north", "south"]
start = "start"
rounds = 3
local_steps = 2
gather_seconds = 0
"""
STRATEGIES = ["fedavg", "fedadam", "scaffold"]  # and fedbuff, whose bits depend on who is faster
BUFFER = 3
KILLS, FAULTS = 4, 8
# What is there while something is being done in which a kill would be worst.
MOMENTS = {"upload": "updates/*.part", "checkpoint": "*.tmp", "download": "*/model-*.part", "whenever": None}


class Federation:
    def __init__(self, directory, strategy, seed=None):
        self.directory, self.seed = Path(directory), seed
        self.directory.mkdir()
        inner = free_port()
        outer = free_port() if seed is not None else inner
        self.proxy = FaultyProxy(outer, inner, seed, FAULTS) if seed is not None else None
        self.commands = {
            "coordinator": coordinator(
                directory,
                f"--set=federation.listen=localhost:{inner}",
                f"--set=strategy.name={strategy}",
                f"--set=strategy.buffer={BUFFER}",
            )
        }
        for name in SITES:
            self.commands[name] = site(name, directory, f"--set=site.address=localhost:{outer}", sites=SITES)
        self.processes = {}
        self.start(self.commands)

    def start(self, names):
        for name in names:
            self.processes[name] = Started(self.directory / f"{name}.log", self.commands[name])

    def ended(self, name):
        status = self.processes[name].process.poll()
        assert status in (None, 0), f"{name} ended with status {status}:\n{self.told()}"
        return status == 0

    def told(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self.directory.glob("*.log")))

    def finish(self):
        deadline = time.monotonic() + 120
        while not all([self.ended(name) for name in SITES]):
            assert time.monotonic() < deadline, f"it does not end:\n{self.told()}"
            if self.ended("coordinator"):  # a site that was killed asks for the result once more
                self.start(["coordinator"])
            time.sleep(0.01)
        leader = self.processes["coordinator"].process
        leader.terminate()  # else one that was started again waits a minute for sites that have the result
        assert leader.wait(timeout=60) in (0, 130, -signal.SIGTERM), self.told()

    def close(self):
        for one in self.processes.values():
            one.kill()
            one.file.close()
        if self.proxy:
            self.proxy.close()

    def kill(self, choose):
        """One process at one moment, and starts it again some time later. Returns what it was, in words."""
        victim, moment = choose.choice(list(self.commands)), choose.choice(list(MOMENTS))
        until = time.monotonic() + choose.uniform(0, 4)
        while time.monotonic() < until:
            if MOMENTS[moment] and any(self.directory.glob(MOMENTS[moment])):
                break
            time.sleep(0.001)
        else:
            moment = "whenever"
        time.sleep(choose.uniform(0, 0.01))
        self.ended(victim)
        self.processes[victim].kill()
        time.sleep(choose.uniform(0, 0.5))
        self.start([victim])
        return f"{victim} at {moment}" if moment != "whenever" else f"{victim} whenever"


def check(directory, calm):
    """That every round came to its end once, with each site's update once, and the model is the calm one's."""
    run([PROGRAM, "federate", "audit", directory], says=[f"{ROUNDS} entries hold;"])
    entries = [json.loads(line)["entry"] for line in Path(directory, "transcript.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in entries] == list(range(1, ROUNDS + 1)), entries
    expected = [json.loads(line)["entry"] for line in Path(calm, "transcript.jsonl").read_text().splitlines()]
    assert [entry["sites"] for entry in entries] == [entry["sites"] for entry in expected], (entries, expected)
    with sqlite3.connect(Path(directory, "rounds.sqlite")) as database:
        counted = database.execute("SELECT round, site FROM updates ORDER BY round, site").fetchall()
    assert counted == [(number, name) for number in range(ROUNDS) for name in SITES], counted
    assert checkpoints(directory)[-1].name == f"step-{ROUNDS:08}.h5", checkpoints(directory)
    assert_same_weights(checkpoints(calm)[-1], checkpoints(directory)[-1])


def check_buffered(directory):
    """That every round is of as many updates as it is to be, and of a site each update counts once."""
    run([PROGRAM, "federate", "audit", directory], says=[f"{ROUNDS} entries hold;"])
    with sqlite3.connect(Path(directory, "rounds.sqlite")) as database:
        counted = database.execute("SELECT round, site, turn, base FROM updates ORDER BY site, turn").fetchall()
    assert sorted(number for number, *_ in counted) == [number for number in range(ROUNDS) for _ in range(BUFFER)], counted
    for name in SITES:
        mine = [row for row in counted if row[1] == name]
        assert [turn for _, _, turn, _ in mine] == list(range(len(mine))), counted
        assert mine == sorted(mine, key=lambda row: row[3]) and all(base <= number for number, _, _, base in mine), counted
    assert checkpoints(directory)[-1].name == f"step-{ROUNDS:08}.h5", checkpoints(directory)


def one_run(seed):
    choose = random.Random(seed)
    strategy = choose.choice([*STRATEGIES, "fedbuff"])
    federation = Federation("run", strategy, seed)
    began = time.monotonic()
    kills = []
    try:
        for _ in range(choose.randint(1, KILLS)):
            kills.append(federation.kill(choose))
        federation.finish()
        check_buffered("run") if strategy == "fedbuff" else check("run", f"calm_{strategy}")
    except BaseException:
        print(f"seed {seed}, {strategy}; killed: {', '.join(kills)}; network: {federation.proxy.disturbed}")
        print(federation.told(), flush=True)
        raise
    finally:
        federation.close()
    shutil.rmtree("run")
    faults = " ".join(federation.proxy.disturbed)
    print(f"seed {seed}: {time.monotonic() - began:.1f} s, {strategy}; killed: {', '.join(kills)}; network: {faults}", flush=True)


def main(runs, seed):
    with own_temporary_files():
        prepare()
        Path("federation.toml").write_text(FEDERATION)
        run([PROGRAM, "federate", "provision", "federation.toml"], says=["kits/coordinator", "kits/south"])
        run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", "start"])
        for strategy in STRATEGIES:
            calm = Federation(f"calm_{strategy}", strategy)
            try:
                calm.finish()
            finally:
                calm.close()
        for number in range(runs):
            one_run(seed + number)
    print(f"{runs} runs ended with each update counted once and, but for fedbuff, the same bits as undisturbed ones")


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["3", "1"][len(sys.argv) - 1 :])))
