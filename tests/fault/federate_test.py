"""A federation with a faulty network, whose processes are killed at random moments. It ends with the same bits as an
undisturbed one (unless the bits depend on noise or on which site is faster), every update counts once, and the ledgers have all
spent privacy. `scripts/federate_faults 100` makes a hundred such runs."""

import random
import re
import shutil
import signal
import sqlite3
import sys
import time
from functools import cache
from pathlib import Path

from e2e.federate_test import Started, coordinator, entries, free_port, make_public_start, numbers, site
from faulty_proxy import FaultyProxy
from runs import PROGRAM, assert_same_weights, checkpoints, own_temporary_files, prepare, run

SITES, ROUNDS = ["east", "north", "south", "west"], 3
FEDERATION = """
[federation]
name = "faults"
sites = ["east", "north", "south", "west"]
start = "start"
rounds = 3
local_steps = 2
gather_seconds = 0
"""
BUFFER = 3
NOISE, DELTA = 3, 1e-5
PLAIN = ["fedavg", "fedadam", "scaffold"]
SECURE = ["secure_aggregation.enabled=true", "secure_aggregation.clip_norm=10", "secure_aggregation.phase_seconds=3"]
# Options of the coordinator, in addition to federation.toml, and below those of the sites.
COORDINATOR = {
    **{name: [f"strategy.name={name}"] for name in PLAIN},
    "fedbuff": ["strategy.name=fedbuff", f"strategy.buffer={BUFFER}"],
    "secure": SECURE,
    "noisy": [*SECURE, "federation.quorum=3", "federation.start=public", "privacy.unit=site", f"privacy.noise_multiplier={NOISE}", f"privacy.delta={DELTA}"],
    "private": ["federation.start=public"],
}
SITE = {
    "noisy": ["site.least_sites=3", "site.secure_only=true"],
    "private": ["privacy.unit=record", "privacy.noise_multiplier=1", "privacy.delta=1e-3", "privacy.batch=50"],
}
KINDS = ["noisy", "fedavg", "secure", "private", "fedbuff", "scaffold", "fedadam"]  # in this order, by seed
KILLS, FAULTS = 4, 8
# Files that exist during the operations that a kill can harm most.
MOMENTS = {
    "upload": ["updates/*.part", "masked/*.part"],
    "checkpoint": ["*.tmp"],
    "download": ["*/model-*.part"],
    "masking": ["*/masked.bin"],
    "delivered": [],
    "whenever": [],
}


def sets(*options):
    return [f"--set={option}" for option in options]


def rows(database, query):
    """Result of a query on the database of a process that has ended; [] if there is no such file."""
    if not Path(database).exists():
        return []
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
        found = opened.execute(query).fetchall()
    opened.close()
    return found


class Federation:
    def __init__(self, directory, kind, seed=None, *options):
        self.directory, self.seed = Path(directory), seed
        self.directory.mkdir(exist_ok=True)
        inner = free_port()
        outer = free_port() if seed is not None else inner
        self.proxy = FaultyProxy(outer, inner, seed, FAULTS) if seed is not None else None
        self.commands = {
            "coordinator": coordinator(
                directory, *sets(f"federation.listen=localhost:{inner}", *COORDINATOR[kind], *options)
            )
        }
        for name in SITES:
            options = sets(f"site.address=localhost:{outer}", *SITE.get(kind, []))
            self.commands[name] = site(name, directory, *options, sites=SITES)
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
        restarts = 0
        while not all([self.ended(name) for name in SITES]):
            assert time.monotonic() < deadline, f"it does not end:\n{self.told()}"
            if self.ended("coordinator"):
                # A killed site asks for the result again, so the coordinator is started once more. It then waits up to
                # a minute for all sites that were given the round, so a second restart would mean that it missed one.
                restarts += 1
                assert restarts <= 1, f"the coordinator left before its sites knew:\n{self.told()}"
                self.start(["coordinator"])
            time.sleep(0.01)
        leader = self.processes["coordinator"].process
        leader.terminate()  # a restarted one would wait a minute for sites that already have the result
        assert leader.wait(timeout=60) in (0, 130, -signal.SIGTERM), self.told()

    def close(self):
        for one in self.processes.values():
            one.kill()
            one.file.close()
        if self.proxy:
            self.proxy.close()

    def delivered(self):
        return self.told().count(": delivered")

    def kill(self, choose):
        """Kills one process at one moment, and starts it again some time later. Returns a description."""
        victim, moment = choose.choice(list(self.commands)), choose.choice(list(MOMENTS))
        until = time.monotonic() + choose.uniform(0, 4)
        delivered = self.delivered()
        while time.monotonic() < until:
            if any(any(self.directory.glob(pattern)) for pattern in MOMENTS[moment]):
                break
            if moment == "delivered" and self.delivered() > delivered:
                break  # in a secure round, the sum is being unmasked
            time.sleep(0.001)
        else:
            moment = "whenever"
        time.sleep(choose.uniform(0, 0.01))
        self.ended(victim)
        self.processes[victim].kill()
        time.sleep(choose.uniform(0, 0.5))
        self.start([victim])
        return f"{victim} at {moment}" if moment != "whenever" else f"{victim} whenever"


def finished(directory):
    """Checks that the federation has ended. Returns the entries of its transcript, one for each round."""
    run([PROGRAM, "federate", "audit", directory], says=[f"{ROUNDS} entries hold;"])
    found = entries(directory)
    assert [entry["round"] for entry in found] == list(range(1, ROUNDS + 1)), found
    assert checkpoints(directory)[-1].name == f"step-{ROUNDS:08}.h5", checkpoints(directory)
    return found


def counted_once(directory):
    """Checks that every round has one update of each site. Returns the entries of the transcript."""
    found = finished(directory)
    assert all(sorted(entry["sites"]) == SITES for entry in found), found
    counted = rows(f"{directory}/rounds.sqlite", "SELECT round, site FROM updates ORDER BY round, site")
    assert counted == [(number, name) for number in range(ROUNDS) for name in SITES], counted
    return found


def check_plain(directory, kind):
    """Checks that each update counted once, and that the model has the same bits as that of an undisturbed federation."""
    calm = calm_one(kind)
    told = [[entry["sites"] for entry in entries_of] for entries_of in (counted_once(directory), finished(calm))]
    assert told[0] == told[1], told
    assert_same_weights(checkpoints(calm)[-1], checkpoints(directory)[-1])


def check_fedbuff(directory, _):
    """Checks that every round has BUFFER updates, and that each update of a site counted once."""
    finished(directory)
    counted = rows(f"{directory}/rounds.sqlite", "SELECT round, site, turn, base FROM updates ORDER BY site, turn")
    assert sorted(number for number, *_ in counted) == [number for number in range(ROUNDS) for _ in range(BUFFER)], counted
    for name in SITES:
        mine = [row for row in counted if row[1] == name]
        assert [turn for _, _, turn, _ in mine] == list(range(len(mine))), counted
        assert mine == sorted(mine, key=lambda row: row[3]) and all(base <= number for number, _, _, base in mine), counted


def skipped_rounds(directory, least):
    """Returns the rounds without a sum. Checks that every other round has one sum, of the same attempt in all records of it, and
    that the `least` sites or more that must help to unmask it have a record."""
    found = finished(directory)
    skipped = [entry["round"] for entry in found if entry["secure_aggregation"] == "skipped"]
    asked = rows(f"{directory}/rounds.sqlite", "SELECT round, number FROM secure_attempts WHERE unmasked ORDER BY round")
    assert [number for number, _ in asked] == list(range(ROUNDS)), asked
    for entry in found:
        there = sorted(entry["sites"])
        assert bool(there) == (entry["round"] not in skipped), entry
        helped = []
        for name in SITES:
            helped += rows(f"{directory}/{name}/unmasked.sqlite", f"SELECT attempt FROM unmasked WHERE round = {entry['round'] - 1}")
        # A site that was killed before it could help has no record.
        assert set(helped) <= {asked[entry["round"] - 1][1:]}, (entry, helped)
        assert not there or len(helped) >= least, (entry, helped)
    return skipped


def check_secure(directory, _):
    """Checks that each round has the sum of all sites' updates, up to rounding, or was skipped: the model is close to that of an
    undisturbed federation that skips the same rounds."""
    skipped = skipped_rounds(directory, least=len(SITES))
    assert all(sorted(entry["sites"]) == SITES for entry in entries(directory) if entry["round"] not in skipped)
    calm = calm_one("secure", skipped)
    start, expected, found = (numbers(checkpoints(one)[-1]) for one in ("start", calm, directory))
    far, near = (
        sum(((value - other[name].astype(float)) ** 2).sum() for name, value in expected.items()) ** 0.5 for other in (start, found)
    )
    # Numbers are rounded at random, and the steps of small gradients depend on that.
    assert near < 1e-3 * far or len(skipped) == ROUNDS and near == far == 0, (near, far)


@cache
def epsilon_of(releases):
    """Epsilon of so many releases, too large by at most a ten-thousandth."""
    told = run([PROGRAM, "privacy", "epsilon", f"--noise={NOISE}", "--rate=1", f"--steps={releases}", f"--delta={DELTA}"])
    return float(re.match(r"epsilon ([\d.]+) at", told).group(1))


def check_noisy(directory, _):
    """Checks that each site in a round's sum recorded a spend for it, and not more spends than there were attempts; and that the
    coordinator counts each sum once, also a lost one."""
    skipped_rounds(directory, least=3)
    found = entries(directory)
    attempts = dict(rows(f"{directory}/rounds.sqlite", "SELECT round, count(*) FROM secure_attempts GROUP BY round"))
    for name in SITES:
        spends = rows(f"{directory}/{name}/privacy.sqlite", "SELECT round, digest, noise, rate, steps FROM spends")
        assert len({digest for _, digest, *_ in spends}) == len(spends), spends
        assert all(event == [NOISE, 1, 1] for _, _, *event in spends), spends
        for number in range(ROUNDS):
            times = sum(round == number for round, *_ in spends)
            in_it = name in found[number]["sites"]
            assert in_it <= times <= attempts[number], (name, number, times, attempts)
    for entry in found:
        expected = epsilon_of(entry["round"])
        assert abs(entry["privacy"]["epsilon"] / expected - 1) < 1e-4, (entry, expected)


def check_private(directory, _):
    """Checks that each update trained with noise was spent once, however often it was sent."""
    counted_once(directory)
    for name in SITES:
        spends = rows(f"{directory}/{name}/privacy.sqlite", "SELECT round FROM spends ORDER BY round")
        assert spends == [(number,) for number in range(ROUNDS)], (name, spends)


CHECKS = {**{name: check_plain for name in PLAIN}, "fedbuff": check_fedbuff, "secure": check_secure, "noisy": check_noisy, "private": check_private}


def calm_one(kind, skipped=()):
    """Runs an undisturbed federation that skips the rounds of these numbers. Returns its folder."""
    directory = "_".join(["calm", kind, *map(str, skipped)])
    if Path(directory).exists():
        return directory
    if skipped:
        Path(directory).mkdir()
        leader = Started(f"{directory}/before.log", coordinator(directory, *sets(*COORDINATOR[kind], f"federation.listen=localhost:{free_port()}")))
        leader.until("listens at port")
        leader.kill()
        with sqlite3.connect(f"{directory}/rounds.sqlite") as database:
            for number in skipped:
                database.execute("INSERT INTO secure_attempts(round, unmasked) VALUES(?, 1)", (number - 1,))
                for name in SITES:  # as if the round had been assigned to them
                    database.execute("INSERT INTO assigned VALUES(?, ?)", (number - 1, name))
        database.close()
    calm = Federation(directory, kind)
    try:
        calm.finish()
    finally:
        calm.close()
    return directory


def one_run(seed, kind):
    choose = random.Random(seed)
    # A budget for one sum per round, and not for one more.
    budget = [f"privacy.epsilon={1.001 * epsilon_of(ROUNDS)}"] if kind == "noisy" else []
    federation = Federation("run", kind, seed, *budget)
    began = time.monotonic()
    kills = []
    try:
        for _ in range(choose.randint(1, KILLS)):
            kills.append(federation.kill(choose))
        federation.finish()
        CHECKS[kind]("run", kind)
    except BaseException:
        print(f"seed {seed}, {kind}; killed: {', '.join(kills)}; network: {federation.proxy.disturbed}")
        print(federation.told(), flush=True)
        raise
    finally:
        federation.close()
    shutil.rmtree("run")
    faults = " ".join(federation.proxy.disturbed)
    print(f"seed {seed}: {time.monotonic() - began:.1f} s, {kind}; killed: {', '.join(kills)}; network: {faults}", flush=True)


def main(runs="4", first="1", *kinds):
    kinds = kinds or KINDS
    assert set(kinds) <= set(KINDS), f"of {', '.join(kinds)} not all are among {', '.join(KINDS)}"
    with own_temporary_files():
        prepare()
        Path("federation.toml").write_text(FEDERATION)
        run([PROGRAM, "federate", "provision", "federation.toml"], says=["kits/coordinator", "kits/south"])
        # Every token goes to all experts. Otherwise rounding would decide between experts with nearly equal scores, and models
        # would differ by much more than rounding.
        run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", "start", "--set=moe.top_k=4"])
        make_public_start()
        for seed in range(int(first), int(first) + int(runs)):
            one_run(seed, kinds[(seed - 1) % len(kinds)])
    print(f"{runs} runs ended with each update and each spend counted once and, where they can have, the same model as undisturbed ones")


if __name__ == "__main__":
    main(*sys.argv[1:])
