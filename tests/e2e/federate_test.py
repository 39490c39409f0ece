"""A federation of processes on this machine: what it computes, which sites it accepts, and that it ends with the same bits as
an undisturbed one whichever process is killed, at any moment."""

import atexit
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy

from e2e import images_test
from runs import PROGRAM, assert_same_weights, checkpoints, own_temporary_files, prepare, run, weights

SITES = ["north", "south"]
FEDERATION = """
[federation]
name = "test"
address = "localhost:{port}"
sites = ["north", "south"]
start = "start"
directory = "runs"
rounds = 3
local_steps = 4
gather_seconds = 0.2
"""


@atexit.register
def end_all():
    for process in Started.all:
        process.kill()


def free_port():
    """A port below the range from which systems assign ports to clients, so that no client takes it before a coordinator does."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) != 0:
                return port


def coordinator(directory, *options):
    return [PROGRAM, "federate", "coordinator", "federation.toml", f"--set=federation.directory={directory}", *options]


def site(name, directory, *options, ranks=1, sites=SITES):
    start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    part = [f"--set=data.parts={len(sites)}", f"--set=data.part={sites.index(name)}", "--set=data.path=texts.jsonl"]
    own = [f"--set=site.directory={directory}/{name}", f"--set=run.directory={directory}/{name}/training"]
    return [*start, PROGRAM, "federate", "site", f"kits/{name}/site.toml", *part, *own, *options]


class Started:
    """A process whose output goes to a file. All are killed at the end of the test."""

    all = []

    def __init__(self, log, command):
        self.log = Path(log)
        self.file = open(log, "a")
        self.process = subprocess.Popen(command, stdout=self.file, stderr=subprocess.STDOUT)
        Started.all.append(self.process)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ends(self, status=0):
        wanted = [status] if isinstance(status, int) else status
        assert self.process.wait(timeout=120) in wanted, f"status {self.process.returncode}: {self.log.read_text()}"
        return self.log.read_text()

    def until(self, text):
        deadline = time.monotonic() + 60
        while text not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)


SECURE_SITES = ["east", "north", "south", "west"]
# A sum then has all sites, however late one of them comes on a busy machine. Nothing waits that long if all come.
ALL_TAKE_PART = "--set=secure_aggregation.phase_seconds=60"
SECURE = """
[federation]
name = "secure"
address = "localhost:{port}"
sites = ["east", "north", "south", "west"]
kits = "secure_kits"
start = "start"
rounds = 2
quorum = 3
local_steps = 2
gather_seconds = 4
[secure_aggregation]
enabled = true
clip_norm = 10
phase_seconds = 5
"""


def secure_coordinator(directory, *options):
    return [PROGRAM, "federate", "coordinator", "secure.toml", f"--set=federation.directory={directory}", *options]


def secure_site(name, directory, *options):
    part = [f"--set=data.parts={len(SECURE_SITES)}", f"--set=data.part={SECURE_SITES.index(name)}", "--set=data.path=texts.jsonl"]
    own = [f"--set=site.directory={directory}/{name}", f"--set=run.directory={directory}/{name}/training"]
    return [PROGRAM, "federate", "site", f"secure_kits/{name}/site.toml", *part, *own, "--set=site.secure_only=true", *options]


def start_secure(directory, *options, members=SECURE_SITES, own=()):
    Path(directory).mkdir()
    leader = Started(f"{directory}/coordinator.log", secure_coordinator(directory, *options))
    leader.until("listens at port")
    return leader, {name: Started(f"{directory}/{name}.log", secure_site(name, directory, *own)) for name in members}


def entries(directory):
    return [json.loads(line)["entry"] for line in Path(directory, "transcript.jsonl").read_text().splitlines()]


def federation(directory, members, *options, ranks=1):
    """Runs a federation to its end, and returns the last checkpoint."""
    Path(directory).mkdir()
    leader = Started(f"{directory}/coordinator.log", coordinator(directory, *options))
    leader.until("listens at port")
    trained = [Started(f"{directory}/{name}.log", site(name, directory, ranks=ranks)) for name in members]
    for one in trained:
        one.ends()
    leader.ends()
    return checkpoints(directory)[-1]


def numbers(checkpoint):
    return {name: numpy.frombuffer(data, numpy.float32) for name, data in weights(checkpoint).items() if "bigrams" not in name}


def test_mean():
    """A round of two sites gives the mean of the models that each would make alone, weighted by examples."""
    alone = [
        numbers(federation(f"alone_{name}", [name], "--set=federation.rounds=1", "--set=federation.quorum=1"))
        for name in SITES
    ]
    both = federation("both", SITES, "--set=federation.rounds=1")
    audit = run([PROGRAM, "federate", "audit", "both"], says=["1 entries hold"])
    assert "head" in audit
    entry = json.loads(Path("both/transcript.jsonl").read_text())["entry"]
    share = [entry["sites"][name]["examples"] for name in SITES]
    assert min(share) > 200 and 500 < sum(share) < 600 and share[0] != share[1], share
    start = numbers(checkpoints("start")[-1])
    worst = moved = 0
    for name, value in numbers(both).items():
        expected = sum(s * one[name].astype(float) for s, one in zip(share, alone)) / sum(share)
        worst = max(worst, abs(value - expected).max())
        moved = max(moved, abs(value - start[name]).max())
    assert worst < 1e-6 < 1e-3 < moved, (worst, moved)

    run([PROGRAM, "federate", "status", "both"], says=["of north, south; model", "1 rounds are over"])
    run([PROGRAM, "federate", "status", "kits"], 1, ["no coordinator has been at work"])
    gauges = Path("both/metrics.prom").read_text()
    assert "conclave_rounds_done 1\n" in gauges and 'conclave_examples{site="north"} ' in gauges, gauges


def test_repaired():
    """A round that is missing in the transcript is added as it was made, even if the coordinator now has other options."""
    shutil.copytree("both", "repaired")
    Path("repaired/transcript.jsonl").write_text("")
    noisy = ["--set=federation.rounds=1", "--set=privacy.unit=site", "--set=privacy.noise_multiplier=3", "--set=federation.listen=localhost:0"]
    leader = Started("repaired/again.log", secure_coordinator("repaired", *noisy))
    leader.until("listens at port")
    leader.kill()
    assert entries("repaired") == entries("both")


def test_ranks():
    """A site with two ranks, and experts divided between them, computes the same model up to rounding."""
    one, two = numbers(checkpoints("both")[-1]), numbers(federation("ranks", SITES, "--set=federation.rounds=1", ranks=2))
    worst = max(abs(two[name] - value).max() for name, value in one.items())
    assert worst < 1e-4, worst


def test_kills():
    """Coordinator and sites are killed without notice, and started again."""
    calm = federation("calm", SITES, "--set=federation.keep=0")
    Path("killed").mkdir()
    leader = Started("killed/coordinator.log", coordinator("killed"))
    north = Started("killed/north.log", site("north", "killed"))
    north.until("round 1 of 3: delivered")
    leader.kill()  # it has one of two updates on its disk
    leader = Started("killed/coordinator.log", coordinator("killed"))
    south = Started("killed/south.log", site("south", "killed"))
    south.until("round 1 of 3: delivered")
    south.kill()  # in round 2 or before it
    leader.until("round 2 of 3 begins")
    leader.kill()
    shutil.copy("killed/rounds.sqlite", "alone.sqlite")  # a copy without the log beside it has the first round
    with sqlite3.connect("alone.sqlite") as database:
        assert database.execute("SELECT count(*) FROM updates WHERE round = 0").fetchall() == [(2,)]
    database.close()
    south = Started("killed/south.log", site("south", "killed"))
    north.kill()
    time.sleep(0.5)
    leader = Started("killed/coordinator.log", coordinator("killed"))
    north = Started("killed/north.log", site("north", "killed"))
    for one in (north, south, leader):
        one.ends()
    assert_same_weights(calm, checkpoints("killed")[-1])
    run([PROGRAM, "federate", "audit", "killed"], says=["3 entries hold"])

    # If the newest model is damaged, its round is repeated with the same updates.
    shutil.copytree("calm", "damaged", ignore=shutil.ignore_patterns("*.log"))
    newest = checkpoints("damaged")[-1]
    with h5py.File(newest) as file:
        offset = file["model/layers/0/moe/experts/up/weight"].id.get_offset()
    with open(newest, "r+b") as file:
        file.seek(offset + 5)
        byte = file.read(1)[0]
        file.seek(offset + 5)
        file.write(bytes([byte ^ 0x10]))
    leader = Started("damaged/coordinator.log", coordinator("damaged", "--set=federation.keep=0"))
    leader.until("round 3 of 3 begins")
    assert "warning: skipped" in leader.log.read_text() and newest.name in leader.log.read_text()
    for one in [*(Started(f"damaged/{name}.log", site(name, "damaged")) for name in SITES), leader]:
        one.ends()
    assert_same_weights(calm, checkpoints("damaged")[-1])
    run([PROGRAM, "federate", "audit", "damaged"], says=["4 entries hold", "3 checkpoints are those of the transcript"])
    assert [entry.get("repeated", False) for entry in entries("damaged")] == [False, False, False, True]
    assert "warning: round 3 is in the transcript once more" in leader.log.read_text()
    repeated_and_replaced(newest)
    for path in checkpoints("damaged"):
        path.write_text("something else")
    run(coordinator("damaged"), 1, ["its transcript has rounds, and none of its checkpoints is whole"])


def repeated_and_replaced(newest):
    """A checkpoint that differs from the transcript's is refused, unless its round was begun again after that entry."""
    shutil.copytree("damaged", "replaced", ignore=shutil.ignore_patterns("*.log", *SITES))
    path = Path("replaced", newest.name)
    was = path.read_bytes()
    path.write_bytes(was + b"more")  # which HDF5 does not mind
    both = [hashlib.sha256(path.read_bytes()).hexdigest(), f"was {hashlib.sha256(was).hexdigest()}"]
    run([PROGRAM, "federate", "audit", "replaced"], 1, [f"{path}: its SHA-256", *both])
    run([PROGRAM, "federate", "audit", "replaced/transcript.jsonl"], says=["4 entries hold"])
    run(coordinator("replaced", "--set=federation.keep=0"), 1, [f"{path}: its SHA-256", *both, "another file has taken its place"])
    assert len(entries("replaced")) == 4
    # As after a kill of a coordinator that had begun the third round again and saved its model.
    with sqlite3.connect("replaced/rounds.sqlite") as database:
        database.execute("INSERT OR REPLACE INTO repeated VALUES(2, 4)")
    database.close()
    leader = Started("replaced/coordinator.log", coordinator("replaced", "--set=federation.keep=0"))
    leader.until("listens at port")
    leader.kill()
    last = entries("replaced")[-1]
    assert len(entries("replaced")) == 5 and last["repeated"] and last["model_sha256"] == both[0], last
    run([PROGRAM, "federate", "audit", "replaced"], says=["3 checkpoints are those of the transcript"])


def test_unlike_tables():
    """A site's own table may lack classes of the model, and must not have others."""
    rows = [json.loads(line) for line in open("texts.jsonl")]
    tables = {"north": ["class 1", "class 2"], "south": ["class 0", "class 1"], "stranger": ["class 1", "class 3"]}
    for name, classes in tables.items():
        chosen = [{**row, "label": "class 3" if "class 3" in classes and row["label"] == "class 0" else row["label"]} for row in rows]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen if row["label"] in classes))

    def own(table):
        return [f"--set=data.path={table}.jsonl", "--set=data.parts=1", "--set=data.part=0"]

    Path("unlike").mkdir()
    leader = Started("unlike/coordinator.log", coordinator("unlike", "--set=federation.rounds=8", "--set=federation.local_steps=12"))
    leader.until("listens at port")
    refused = Started("unlike/stranger.log", site("south", "unlike", *own("stranger")))
    assert 'the data has a class "class 3", but the model was trained on: class 0, class 1, class 2' in refused.ends(1)
    trained = [Started(f"unlike/{name}.log", site(name, "unlike", *own(name))) for name in SITES]
    for one in [*trained, leader]:
        one.ends()
    told = run([PROGRAM, "eval", "unlike", "--set=data.path=texts.jsonl"])
    assert json.loads(told[told.index("{") :])["accuracy"] > 0.8, told


def test_straggler():
    """A round without a quorum is reported; a site that missed the deadline still gets the result; a process whose output cannot be
    written still does its work."""
    options = ["--set=federation.rounds=1", "--set=federation.deadline_seconds=1"]
    for _ in range(5):
        shutil.rmtree("straggler", ignore_errors=True)
        Path("straggler").mkdir()
        leader = Started("straggler/coordinator.log", coordinator("straggler", *options))
        leader.until("listens at port")
        south = subprocess.Popen(site("south", "straggler"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        Started.all.append(south)
        while not Path("straggler/south/model-00000000.h5").exists():
            time.sleep(0.002)
        south.send_signal(signal.SIGSTOP)
        if not Path("straggler/updates/south.0.f32").exists():
            break
        south.kill()  # it was too fast
        leader.kill()
    south.stdout.close()  # from now on its output has no reader
    north = Started("straggler/north.log", site("north", "straggler"))
    north.until("round 1 of 1: delivered")
    leader.until("is past its deadline and waits: 1 of 2 updates came; of the sites that began it, south did not deliver; 2 sites are let in")
    assert "conclave_updates_waiting 1\n" in Path("straggler/metrics.prom").read_text()
    leader.kill()
    leader = Started("/dev/full", coordinator("straggler", *options, "--set=federation.quorum=1"))
    while not Path("straggler/step-00000001.h5").exists():
        time.sleep(0.01)
    south.send_signal(signal.SIGCONT)
    north.ends()
    assert south.wait(timeout=120) == leader.process.wait(timeout=120) == 1  # because they could not print
    (entry,) = entries("straggler")
    assert list(entry["sites"]) == ["north"], entry


def test_sharing():
    """Each site keeps its last expert with its router row; the other experts are averaged by their tokens."""
    options = ["--set=federation.rounds=2", "--set=sharing.private=*.moe.*[3]", "--set=sharing.by_tokens=*.moe.experts.*"]
    result, start = numbers(federation("sharing", SITES, *options)), numbers(checkpoints("start")[-1])
    seen = 0
    for name, value in result.items():
        change = abs(value - start[name])
        if "/moe/experts/" in name or "/moe/router/weight" in name:
            by_expert = change.reshape(4, -1).max(axis=1)
            assert by_expert[3] == 0 and (by_expert[:3] > 0).all(), (name, by_expert)
            seen += 1
        elif "/moe/" not in name:
            assert change.max() > 0 or "masked" in name, name
    assert seen == 10, seen
    last = json.loads(Path("sharing/transcript.jsonl").read_text().splitlines()[-1])["entry"]
    for told in last["sites"].values():
        assert "classify/private_validation_accuracy" in told["metrics"], told
    assert list(Path("sharing/north").glob("private-*.f32"))
    # In the end each site has the common model with its own last expert.
    own = {name: numbers(checkpoints(f"sharing/{name}/training")[-1]) for name in SITES}
    for name, value in result.items():
        for mine in own.values():
            change = abs(mine[name] - value).reshape(4 if "/moe/experts/" in name or "/moe/router/weight" in name else 1, -1)
            assert change[:3].max() == 0 or len(change) == 1 and "/moe/" in name, name
            assert len(change) == 1 or change[3].max() > 0, name
    expert = next(name for name in result if "/moe/experts/" in name)
    assert (own[SITES[0]][expert] != own[SITES[1]][expert]).any()
    run([PROGRAM, "eval", "sharing/north/training"], says=["accuracy"])
    run(coordinator("mistaken", "--set=sharing.private=*.nothing"), 1, ["*.nothing"])

    # A coordinator cannot make a site share what its own sharing.private names.
    Path("refused").mkdir()
    leader = Started("refused/coordinator.log", coordinator("refused", "--set=sharing.private=*.moe.*[3]"))
    leader.until("listens at port")
    run(site("north", "refused", "--set=sharing.private=*.moe.*[2,3]"), 1, ["coordinator asks for 'layers.", "[2]', which this site's sharing.private"])
    south = Started("refused/south.log", site("south", "refused", "--set=sharing.private=*.moe.*[3]"))
    south.until("round 1 of 3: delivered")
    assert not Path("refused/north/update.f32").exists()
    south.kill()
    leader.process.send_signal(signal.SIGTERM)
    leader.ends(130)


def test_strategy():
    """FedAdam's state survives a restart, also one between writing its own checkpoint and the model's."""
    options = ["--set=strategy.name=fedadam", "--set=strategy.server_rate=0.01"]
    calm = federation("adam", SITES, *options)
    Path("adam2").mkdir()
    leader = Started("adam2/coordinator.log", coordinator("adam2", *options, "--set=federation.keep=1"))
    sites = [Started(f"adam2/{name}.log", site(name, "adam2")) for name in SITES]
    leader.until("round 2 of 3 begins")
    leader.process.send_signal(signal.SIGTERM)
    leader.ends((0, 130))
    leader = Started("adam2/coordinator.log", coordinator("adam2", *options, "--set=federation.keep=1"))
    for one in [*sites, leader]:
        one.ends()
    (end,) = checkpoints("adam2")
    assert_same_weights(calm, end)

    # As after a kill before the last round's model was written: the round is repeated, and the transcript has it twice.
    Path("adam2/strategy", end.name).write_text("something else")
    run(coordinator("adam2", *options), 1, [f"adam2/strategy/{end.name}", f"Restore it, or remove {end}: the coordinator then goes on"])
    end.unlink()
    shutil.copy(checkpoints("adam")[-2], "adam2")
    leader = Started("adam2/again.log", coordinator("adam2", *options, "--set=federation.keep=1"))
    leader.until("round 3 of 3 begins")
    assert [entry["round"] for entry in entries("adam2")] == [1, 2, 3]
    for one in [*(Started(f"adam2/{name}.log", site(name, "adam2")) for name in SITES), leader]:
        one.ends()
    assert_same_weights(calm, checkpoints("adam2")[-1])
    run([PROGRAM, "federate", "status", "adam2"], says=["3 rounds are over"])
    assert [entry["round"] for entry in entries("adam2")] == [1, 2, 3, 3]
    # A coordinator that was killed before the repeated round was in the transcript would know that it was begun again.
    with sqlite3.connect("adam2/rounds.sqlite") as database:
        assert database.execute("SELECT round, lines FROM repeated").fetchall() == [(2, 3)]
    database.close()
    # As after a kill before the last round was in the transcript: it is added with the strategy that made it, not the new one.
    transcript = Path("adam2/transcript.jsonl")
    transcript.write_text("".join(transcript.read_text().splitlines(keepends=True)[:-2]))
    leader = Started("adam2/repaired.log", coordinator("adam2", "--set=strategy.name=fedbuff", "--set=strategy.buffer=2"))
    leader.until("listens at port")
    leader.kill()
    last = entries("adam2")[-1]
    assert last["round"] == 3 and last["strategy"] == "fedadam" and all("models" not in said for said in last["sites"].values()), last
    run(coordinator("adam2", *options, "--set=federation.rounds=2"), 1, ["3 rounds are over, and federation.rounds = 2"])
    one, other = numbers(calm), numbers(checkpoints("calm")[-1])
    assert max(abs(other[name] - value).max() for name, value in one.items()) > 1e-3


def test_scaffold():
    """Control variates begin at zero, correct for differences between sites' data, and survive kills."""
    options = ["--set=strategy.name=scaffold", "--set=federation.keep=0"]
    calm = federation("scaffold", SITES, *options)
    # The first round's steps are those of fedavg, but all sites count equally.
    first = numbers(federation("scaffold_first", SITES, *options, "--set=federation.rounds=1"))
    federation("first", SITES, "--set=federation.rounds=1")
    steps = []
    for name in SITES:
        steps.append(numpy.fromfile(f"first/{name}/update.f32", numpy.float32).astype(float))
        sent = numpy.fromfile(f"scaffold_first/{name}/update.f32", numpy.float32)
        assert len(sent) == 2 * len(steps[-1]) and (sent[: len(sent) // 2] == steps[-1]).all()
    start = numbers(checkpoints("start")[-1])
    moved = numpy.concatenate([first[name].astype(float) - start[name] for name in sorted(start)])
    assert abs(moved - sum(steps) / len(SITES)).max() < 1e-6 < abs(moved).max()
    plain, corrected = numbers(checkpoints("calm")[-1]), numbers(calm)
    assert max(abs(corrected[name] - value).max() for name, value in plain.items()) > 1e-3

    def control_of(path):
        with h5py.File(path) as file:
            names = []
            file["control"].visititems(lambda name, tensor: names.append(name) if isinstance(tensor, h5py.Dataset) else None)
            return numpy.concatenate([file["control"][name][()].ravel() for name in sorted(names)])

    # After rounds of another strategy, all control variates begin anew, also that of a site that took no part in those rounds.
    for strategy, members in [("fedavg", ["north"]), ("scaffold", SITES)]:
        rounds = len(checkpoints("scaffold_first"))
        leader = Started("scaffold_first/coordinator.log", coordinator("scaffold_first", *options, f"--set=strategy.name={strategy}", f"--set=federation.rounds={rounds}", f"--set=federation.quorum={len(members)}"))
        again = [Started(f"scaffold_first/{name}.log", site(name, "scaffold_first")) for name in members]
        for process in [*again, leader]:
            process.ends()
        model = checkpoints("scaffold_first")[-1]
        with h5py.File(model) as file:
            named = json.loads(file["state/metadata"][()]).get("control_sites")
        assert named == (SITES if strategy == "scaffold" else None), named
    own = [numpy.fromfile(f"scaffold_first/{name}/control-{rounds:08}.f32", numpy.float32) for name in SITES]
    assert abs(control_of(model) - sum(own) / 2).max() < 1e-6 < abs(sum(own)).max()
    assert all("control variate" not in one.log.read_text() for one in again)

    # With an older record of updates, the sites would begin their control variates anew.
    shutil.copytree("scaffold", "scaffold_older", ignore=shutil.ignore_patterns("*.log", *SITES))
    with sqlite3.connect("scaffold_older/rounds.sqlite") as database:
        database.execute("DELETE FROM models WHERE round = 2")
        database.execute("DELETE FROM updates WHERE round = 2")
    database.close()
    run(coordinator("scaffold_older", *options), 1, ["3 rounds are over, and rounds.sqlite has the first 2: it is an older copy"])

    # A site sends the change of its own control variate.
    changed = numpy.fromfile("scaffold/north/update.f32", numpy.float32)
    before, after = [numpy.fromfile(f"scaffold/north/control-{round:08}.f32", numpy.float32) for round in (2, 3)]
    assert len(changed) == 2 * len(after) and abs(after - before - changed[len(after) :]).max() < 1e-6 < abs(after).max()

    # If a site is replaced, c remains the mean of all sites' control variates, of which the new ones' are zero.
    leader = Started("scaffold/more.log", coordinator("scaffold", *options, "--set=federation.rounds=4", '--set=federation.sites=["north", "east", "west"]', "--set=federation.quorum=2"))
    for process in [*(Started(f"scaffold/{name}.log", site(name, "scaffold")) for name in SITES), leader]:
        process.ends()
    assert "strategy scaffold keeps correcting for the data of sites that were removed: south. To begin" in leader.log.read_text()
    for path, sites in [(calm, 2), (checkpoints("scaffold")[-1], 4)]:
        own = [numpy.fromfile(f"scaffold/{name}/{path.stem.replace('step', 'control')}.f32", numpy.float32) for name in SITES]
        assert abs(control_of(path) - sum(own) / sites).max() < 1e-6 < abs(sum(own)).max(), path
    leader = Started("scaffold/fewer.log", coordinator("scaffold", *options, "--set=federation.rounds=5", "--set=federation.quorum=2"))
    leader.until("warning: strategy scaffold keeps correcting for the data of sites that were removed: east, west. To begin")
    leader.kill()

    # Between sites with the same data there is nothing to correct.
    one = federation("scaffold_one", ["north"], "--set=federation.quorum=1")
    Path("scaffold_alike").mkdir()
    leader = Started("scaffold_alike/coordinator.log", coordinator("scaffold_alike", *options))
    sites = [Started(f"scaffold_alike/{name}.log", site(name, "scaffold_alike", "--set=data.part=0")) for name in SITES]
    for process in [*sites, leader]:
        process.ends()
    assert_same_weights(one, checkpoints("scaffold_alike")[-1])

    Path("scaffold_killed").mkdir()
    leader = Started("scaffold_killed/coordinator.log", coordinator("scaffold_killed", *options))
    sites = {name: Started(f"scaffold_killed/{name}.log", site(name, "scaffold_killed")) for name in SITES}
    sites["south"].until("round 2 of 3: delivered")
    sites["north"].kill()  # before or after its delivery, or while it writes its next control variate
    leader.kill()
    for path in Path("scaffold_killed/north").glob("update.json"):
        path.unlink()  # it repeats the update, with its previous control variate
    leader = Started("scaffold_killed/coordinator.log", coordinator("scaffold_killed", *options))
    sites["north"] = Started("scaffold_killed/north.log", site("north", "scaffold_killed"))
    for process in [*sites.values(), leader]:
        process.ends()
    assert_same_weights(calm, checkpoints("scaffold_killed")[-1])

    two = numbers(federation("scaffold_ranks", SITES, *options, ranks=2))
    worst = max(abs(two[name] - value).max() for name, value in corrected.items())
    assert worst < 1e-3, worst


def test_buffer():
    """Asynchronous rounds: every update counts once, whichever process is killed, with a weight by the age of its model."""
    options = ["--set=strategy.name=fedbuff", "--set=federation.keep=0", "--set=strategy.buffer=1"]
    assert_same_weights(checkpoints("scaffold_one")[-1], federation("buffer_one", ["north"], *options))

    def start(directory, name, *more):
        command = coordinator(directory, *options, *more) if name == "coordinator" else site(name, directory)
        return Started(f"{directory}/{name}.log", command)

    def models(directory):
        return [{name: told["models"] for name, told in entry["sites"].items()} for entry in entries(directory)]

    two = "--set=strategy.buffer=2"
    calm = federation("buffer_calm", ["north"], *options, two)
    Path("buffer_killed").mkdir()
    leader, north = start("buffer_killed", "coordinator", two), start("buffer_killed", "north")
    north.until("round 2 of 3: delivered")  # the first of the round's two updates
    leader.kill()
    north.kill()
    leader, north = start("buffer_killed", "coordinator", two), start("buffer_killed", "north")
    for one in (north, leader):
        one.ends()
    assert_same_weights(calm, checkpoints("buffer_killed")[-1])
    assert models("buffer_killed") == [{"north": [number] * 2} for number in range(3)], models("buffer_killed")

    # An update that waits at a site until two rounds are over counts with the factor 1 / sqrt(3).
    Path("buffer_stale").mkdir()
    leader, south = start("buffer_stale", "coordinator"), start("buffer_stale", "south")
    while not Path("buffer_stale/south/model-00000000.h5").exists():
        time.sleep(0.002)
    leader.kill()
    while not Path("buffer_stale/south/update.json").exists():
        time.sleep(0.01)
    south.kill()
    leader, north = start("buffer_stale", "coordinator", "--set=federation.rounds=2"), start("buffer_stale", "north")
    north.ends()
    leader.process.send_signal(signal.SIGTERM)  # it would wait for the other site
    leader.ends()
    leader, south = start("buffer_stale", "coordinator"), start("buffer_stale", "south")
    south.ends()
    leader.process.send_signal(signal.SIGTERM)
    leader.ends()
    assert models("buffer_stale") == [{"north": [0]}, {"north": [1]}, {"south": [0]}], models("buffer_stale")
    before, after = [numbers(path) for path in checkpoints("buffer_stale")[-2:]]
    changed = numpy.concatenate([after[name].astype(float) - before[name] for name in sorted(before)])
    sent = numpy.fromfile("buffer_stale/south/update.f32", numpy.float32)
    assert abs(changed - sent / 3**0.5).max() < 1e-6 < 1e-3 < abs(sent).max()

    # Both sites at the same time.
    federation("buffer", SITES, *options, "--set=strategy.buffer=3", "--set=federation.rounds=4")
    with sqlite3.connect("buffer/rounds.sqlite") as database:
        counted = database.execute("SELECT round, site, turn, base FROM updates ORDER BY site, turn").fetchall()
    database.close()
    assert sorted(number for number, *_ in counted) == [number for number in range(4) for _ in range(3)], counted
    for name in SITES:
        mine = [row for row in counted if row[1] == name]
        assert [row[2] for row in mine] == list(range(len(mine))), counted
        assert all(base <= number for number, *_, base in mine), counted


def no_update_in(directory, files):
    """Fails if an unmasked update, one of the sites' `files`, is anywhere in the coordinator's folder."""
    plain = [Path(file).read_bytes() for file in files]
    for path in Path(directory).rglob("*"):
        if path.is_file() and path.parts[1] not in SECURE_SITES:
            kept = path.read_bytes()
            assert path.suffix != ".f32" and not any(update[:400] in kept for update in plain), path


def test_secure_mean():
    """The coordinator has the unweighted mean of the sites' updates, and no single update."""
    leader, sites = start_secure("secure", "--set=federation.rounds=1", ALL_TAKE_PART)
    for one in sites.values():
        one.ends()
    leader.ends()
    files = [f"secure/{name}/update.f32" for name in SECURE_SITES]
    updates = [numpy.fromfile(file, numpy.float32).astype(float) for file in files]
    norms = [numpy.linalg.norm(update) for update in updates]
    expected = sum(updates) / len(updates)
    start, end = numbers(checkpoints("start")[-1]), numbers(checkpoints("secure")[-1])
    changed = numpy.concatenate([end[name].astype(float) - start[name] for name in sorted(start)])
    worst = abs(changed - expected).max()
    assert max(norms) < 10 and worst < 1e-6 < 1e-3 < abs(expected).max(), (norms, worst, abs(expected).max())
    no_update_in("secure", files)
    for path in Path("secure").rglob("*"):  # except metrics.prom, for other users, and this test's logs
        if path.suffix not in (".log", ".prom"):
            assert path.stat().st_mode & 0o077 == 0, path
    (entry,) = entries("secure")
    assert entry["secure_aggregation"] == "survivors" and sorted(entry["sites"]) == SECURE_SITES, entry

    leader, sites = start_secure("clipped", "--set=federation.rounds=1", ALL_TAKE_PART, f"--set=secure_aggregation.clip_norm={min(norms) / 2}")
    for one in [*sites.values(), leader]:
        one.ends()
    end = numbers(checkpoints("clipped")[-1])
    changed = numpy.concatenate([end[name].astype(float) - start[name] for name in sorted(start)])
    expected = sum(update / norm for update, norm in zip(updates, norms)) / len(updates) * min(norms) / 2
    assert abs(changed - expected).max() < 1e-6, abs(changed - expected).max()


def test_secure_weights():
    """Each site counts by its examples, up to a bound, and the coordinator learns only their total."""
    start = numbers(checkpoints("start")[-1])
    for directory, most in {"weighted": 1000, "bounded": 135}.items():
        weights = [f"--set=secure_aggregation.{key}" for key in ["weights=examples", f"most_examples={most}"]]
        leader, sites = start_secure(directory, "--set=federation.rounds=1", ALL_TAKE_PART, *weights)
        for one in [*sites.values(), leader]:
            one.ends()
        updates = [numpy.fromfile(f"{directory}/{name}/update.f32", numpy.float32).astype(float) for name in SECURE_SITES]
        examples = [json.loads(Path(f"{directory}/{name}/update.json").read_text())["examples"] for name in SECURE_SITES]
        counted = [min(number, most) for number in examples]
        assert len(set(counted)) > 1 and (counted == examples) == (most == 1000), examples
        end = numbers(checkpoints(directory)[-1])
        changed = numpy.concatenate([end[name].astype(float) - start[name] for name in sorted(start)])
        expected = sum(weight * update for weight, update in zip(counted, updates)) / sum(counted)
        equal = sum(updates) / len(updates)
        assert abs(changed - expected).max() < 1e-6 < 1e-5 < abs(changed - equal).max(), abs(changed - expected).max()
        (entry,) = entries(directory)
        told = [site["examples"] for site in entry["sites"].values()]
        assert max(told) - min(told) < 1e-9 and abs(sum(told) - sum(counted)) < 1e-2, (told, counted)
    wrong = {"secure_aggregation.weights=examples": "need most_examples of 1 or more", "secure_aggregation.most_examples=7": "need most_examples of 1 or more"}
    for mistake, message in wrong.items():
        run([*secure_coordinator("weighted"), f"--set={mistake}"], 2, [message])
    noisy = ["--set=privacy.unit=site", "--set=privacy.epsilon=1"]
    run([*secure_coordinator("weighted", *weights), *noisy], 2, ["weights would have no noise"])


def test_secure_kills():
    """A site that is killed after sharing keys is not in the sum; a killed coordinator continues after its restart."""

    def stop_before_masking(name):
        os.mkfifo(f"secure_kills/{name}/masked.bin")  # a FIFO: opening it for writing waits for a reader

    Path("secure_kills/west").mkdir(parents=True)
    stop_before_masking("west")
    leader = Started("secure_kills/coordinator.log", secure_coordinator("secure_kills"))
    leader.until("listens at port")
    sites = {name: Started(f"secure_kills/{name}.log", secure_site(name, "secure_kills")) for name in SECURE_SITES}
    sites["west"].until("round 1 of 2: keys are shared")
    sites["west"].kill()
    sites["north"].until("round 1 of 2: delivered")
    stop_before_masking("north")
    sites["north"].until("round 2 of 2: keys are shared")
    leader.kill()
    no_update_in("secure_kills", [f"secure_kills/{name}/update.f32" for name in SECURE_SITES])
    leader = Started("secure_kills/coordinator.log", secure_coordinator("secure_kills", "--set=federation.quorum=4"))
    sites["north"].kill()
    Path("secure_kills/north/masked.bin").unlink()
    Path("secure_kills/west/masked.bin").unlink()
    for name in ["north", "west"]:
        sites[name] = Started(f"secure_kills/{name}.log", secure_site(name, "secure_kills"))
    for one in [*sites.values(), leader]:
        one.ends()
    first, second = entries("secure_kills")
    assert "west is gone at sending masked updates" in leader.log.read_text()
    assert sorted(first["sites"]) == SECURE_SITES[:3] and first["secure_aggregation"] == "survivors", first
    assert sorted(second["sites"]) == SECURE_SITES and second["secure_aggregation"] == "survivors", second


def test_one_sum():
    """A round whose sum was unmasked has no second sum: the coordinator skips the round, and sites refuse."""
    with sqlite3.connect("secure_kills/rounds.sqlite") as database:  # as after a kill between unmasking and the checkpoint
        database.execute("INSERT INTO secure_attempts(round, unmasked) VALUES(2, 1)")
    database.close()
    run(secure_coordinator("secure_kills", "--set=federation.rounds=3"), says=["round 3 of 3 is skipped"])
    before, after = checkpoints("secure_kills")[-2:]
    assert_same_weights(before, after)
    third = entries("secure_kills")[2]
    assert third["secure_aggregation"] == "skipped" and not third["sites"], third

    # East has sent its update into a later attempt, the others have helped to unmask one. None of them sends anything again.
    with sqlite3.connect("secure/east/unmasked.sqlite") as database:
        database.execute("DELETE FROM unmasked")
        database.execute("INSERT OR REPLACE INTO sent VALUES(0, ?)", (1 << 40,))
    database.close()
    Path("again").mkdir()
    shutil.copy(checkpoints("secure")[0], "again")
    leader = Started("again/coordinator.log", secure_coordinator("again", "--set=federation.rounds=1"))
    leader.until("listens at port")
    sites = {name: Started(f"again/{name}.log", secure_site(name, "secure")) for name in SECURE_SITES}
    for name, one in sites.items():
        said = one.ends(1)
        assert ("expected a higher number" if name == "east" else "this site helped to unmask one before") in said, said
        assert "masking the update" not in said, said
    leader.kill()

    # Sums over too few sites are refused, too.
    Path("few").mkdir()
    shutil.copy(checkpoints("secure")[0], "few")
    leader = Started("few/coordinator.log", secure_coordinator("few", "--set=federation.rounds=1"))
    leader.until("listens at port")
    for one in [Started(f"few/{name}.log", secure_site(name, "secure", "--set=site.least_sites=4")) for name in SECURE_SITES]:
        said = one.ends(1)
        assert "only into sums of 4 or more" in said and "start the site again" in said, said
    leader.kill()


def test_one_model():
    """Sites that began with a model from which nothing is learned refuse another one. Otherwise the sum would be the update of the
    one site that did not begin with it."""
    run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", "dead", "--set=train.learning_rate=0", "--set=train.final_learning_rate=0"])
    members = ["north", "south", "west"]
    leader, sites = start_secure("one_model", "--set=federation.start=dead", "--set=federation.quorum=4", members=members)
    are_ready("one_model", sites)
    leader.kill()
    Path("one_model/step-00000000.h5").unlink()
    leader = Started("one_model/coordinator.log", secure_coordinator("one_model", "--set=federation.quorum=4"))
    leader.until("listens at port")
    for one in sites.values():
        assert "another recipe, tokenizer or classes than this site began with" in one.ends(1)
    leader.kill()


def make_public_start(name="public", *options):
    """Initializes a model in which no example affects the gradient of another, as privacy requires."""
    if not Path(name).exists():
        sets = [f"--set={key}" for key in ["model.bigrams=0", "moe.balancer=none", "train.clip_norm=0", *options]]
        run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", name, *sets])


def test_shared_noise():
    """The sites' shares add up to noise of the configured size, in the sum only; each site's ledger has the spend."""
    make_public_start()
    make_public_start("public_clients", "data.client_column=who")
    start = numbers(checkpoints("public")[-1])
    noise, clip_norm = 3.0, 0.25
    of_records = [f"--set=privacy.{key}" for key in ["unit=record", f"clip_norm={clip_norm}", "rate=1"]]
    of_clients = [f"--set=privacy.{key}" for key in ["unit=client", f"clip_norm={clip_norm}", "rate=1"]]
    kinds = {"record": (of_records, ["--set=federation.local_steps=1"], clip_norm),
             "client": (of_clients, ["--set=federation.local_steps=1", "--set=federation.start=public_clients"], clip_norm),
             "site": (["--set=privacy.unit=site"], [], 10)}
    for kind, (privacy, options, changed_by_one) in kinds.items():
        directory = f"noisy_{kind}"
        options = [*options, *privacy, f"--set=privacy.noise_multiplier={noise}", "--set=federation.rounds=1"]
        if kind != "client":
            options += ["--set=federation.start=public"]
        leader, sites = start_secure(directory, ALL_TAKE_PART, *options, own=["--set=data.client_column=who"] if kind == "client" else [])
        for one in [*sites.values(), leader]:
            one.ends()
        updates = [numpy.fromfile(f"{directory}/{name}/update.f32", numpy.float32).astype(float) for name in SECURE_SITES]
        (entry,) = entries(directory)
        examples = sum(site.get("examples", 0) for site in entry["sites"].values())
        end = numbers(checkpoints(directory)[-1])
        changed = numpy.concatenate([end[name].astype(float) - start[name] for name in sorted(start)])
        added = changed * (len(updates) if kind == "site" else examples) - sum(updates)
        if kind == "client":  # a client has many texts, whose gradients together would exceed the norm
            for name, update in zip(SECURE_SITES, updates, strict=True):
                clients = entry["sites"][name]["examples"]
                assert clients == 10 and 0.01 < numpy.linalg.norm(update) <= clip_norm * clients * 1.001, (clients, update)
        # Three of the four sites must stay, and the noise of three is enough. So four add more.
        expected = noise * changed_by_one * (4 / 3) ** 0.5
        assert abs(added.std() / expected - 1) < 0.05 and abs(added.mean()) < 0.1 * expected, (kind, added.std(), expected)
        ranges = ["--out", f"{directory}/ranges", "--set=quantization.activations=tensor"]
        run([PROGRAM, "quantize", directory, *ranges], 1, ["the model was trained with privacy"])
        # Where sites are hidden, nobody knows how many examples they have.
        assert all(("examples" in site) == (kind != "site") for site in entry["sites"].values()), entry
        assert entry["privacy"]["unit"] == kind and all(not site["metrics"] for site in entry["sites"].values()), entry
        for name in SECURE_SITES:
            with sqlite3.connect(f"{directory}/{name}/privacy.sqlite") as database:
                assert database.execute("SELECT noise, rate, steps FROM spends").fetchall() == [(noise, 1.0, 1)]
            database.close()
        log = leader.log.read_text()
        assert f"privacy of each {kind}: in 1 rounds" in log and f"epsilon {entry['privacy']['epsilon']:.4f}" in log, log

        # What was spent is in the checkpoint, in the coordinator's status and in its gauges.
        spent = f"{entry['privacy']['epsilon']:.4f}"
        run([PROGRAM, "inspect", directory], says=[f"privacy of each {kind}: 1 rounds, epsilon {spent} at delta 1e-05, noise multiplier 3"])
        of = {"record": f"{examples:.0f} examples", "client": f"{examples:.0f} examples", "site": "updates"}[kind]
        run([PROGRAM, "federate", "status", directory], says=[f"round 1: {of} of east, north, south, west;", f"; epsilon {spent} at delta 1e-05"])
        gauges = Path(directory, "metrics.prom").read_text()
        assert "\nconclave_sites 4\n" in gauges and ("conclave_examples{" in gauges) == (kind != "site"), gauges
        assert ("round 1 of 1: 4 sites, epsilon" in log) == (kind == "site"), log
        gauge = re.search(r"\nconclave_epsilon ([\d.]+)\n", Path(directory, "metrics.prom").read_text())
        assert f"{float(gauge.group(1)):.4f}" == spent, gauge

    # A site may have its own budget. It refuses to start if it requires more noise than the federation has.
    Path("noisy_budget").mkdir()
    leader = Started("noisy_budget/coordinator.log", secure_coordinator("noisy_budget", *kinds["record"][1], *of_records, f"--set=privacy.noise_multiplier={noise}", "--set=federation.start=public"))
    leader.until("listens at port")
    own = ["--set=privacy.unit=record", "--set=privacy.delta=1e-5"]
    run([*secure_site("north", "noisy_budget"), *own, "--set=privacy.epsilon=0.5"], 1, ["epsilon"])
    run([*secure_site("south", "noisy_budget"), *own, "--set=privacy.noise_multiplier=4"], 2, ["more than the federation's 3"])
    of_persons = [option.replace("=record", "=client") for option in own]
    run([*secure_site("south", "noisy_budget"), *of_persons, "--set=privacy.epsilon=9"], 2, ["hides single records only"])
    leader.process.send_signal(signal.SIGTERM)
    leader.ends(130)

    # Only the site says which client a row belongs to: a column with another name in each row would make each record a client.
    Path("noisy_clients").mkdir()
    leader = Started("noisy_clients/coordinator.log", secure_coordinator("noisy_clients", *kinds["client"][1], *of_clients, f"--set=privacy.noise_multiplier={noise}"))
    leader.until("listens at port")
    run(secure_site("north", "noisy_clients"), 2, ["only this site may say which client a row belongs to"])
    # A ledger with spends that hid records cannot be used for clients.
    run(secure_site("north", "noisy_record", "--set=data.client_column=who"), 1, ["what was spent hid each record", 'privacy.unit = "record"'])
    leader.kill()
    run([*secure_coordinator("noisy_record", *kinds["client"][1], *of_clients), "--set=privacy.noise_multiplier=3"], 1, ["earlier rounds hid each record"])

    # A site's budget is at its own delta. At the coordinator's delta, epsilon would be only 0.3.
    Path("noisy_delta").mkdir()
    leader = Started("noisy_delta/coordinator.log", secure_coordinator("noisy_delta", "--set=privacy.unit=site", "--set=privacy.delta=0.1", f"--set=privacy.noise_multiplier={noise}"))
    leader.until("listens at port")
    own = ["--set=privacy.unit=none", "--set=privacy.epsilon=1"]
    run([*secure_site("north", "noisy_delta"), *own], 2, ["without privacy.delta"])
    run([*secure_site("north", "noisy_delta"), *own, "--set=privacy.delta=1e-5"], 1, ["round 1 ", "at delta 1e-05, and the budget is 1"])
    run([*secure_site("north", "noisy_delta"), "--set=privacy.unit=none", "--set=privacy.noise_multiplier=4"], 2, ["more than the federation's 3"])
    leader.process.send_signal(signal.SIGTERM)
    leader.ends(130)
    mistakes = {"secure_aggregation.enabled=false": "sites' shares of the noise", "federation.local_steps=2": "a round is one step",
                "privacy.noise_multiplier=0": "wants noise", "secure_aggregation.clip_norm=0.1": "the largest norm of a site's sum"}
    for mistake, message in mistakes.items():
        run([*secure_coordinator("noisy_budget"), *kinds["record"][1], *of_records, "--set=privacy.noise_multiplier=1", f"--set={mistake}"], 2, [message])
    narrow = ["--set=secure_aggregation.bits=16", "--set=privacy.unit=site", "--set=privacy.noise_multiplier=3", "--set=federation.start=public"]
    run(secure_coordinator("narrow", *narrow), 1, ["no sum of the updates of 3 sites is possible", "take wider words"])


def are_ready(directory, sites):
    """Waits until each of the sites has an update, and waits for other sites."""
    deadline = time.monotonic() + 60
    while not all(Path(directory, name, "update.json").exists() for name in sites):
        assert time.monotonic() < deadline, [one.log.read_text() for one in sites.values()]
        time.sleep(0.005)


def test_noise_again():
    """An update in a second attempt has new noise and is spent again, because the first sum may have been unmasked."""
    make_public_start()
    Path("noisy_again/west").mkdir(parents=True)
    os.mkfifo("noisy_again/west/masked.bin")  # a FIFO: opening it for writing waits for a reader
    options = ["--set=privacy.unit=site", "--set=privacy.noise_multiplier=3", "--set=federation.start=public", "--set=federation.rounds=1", "--set=federation.quorum=4"]
    leader = Started("noisy_again/coordinator.log", secure_coordinator("noisy_again", *options))
    leader.until("listens at port")
    sites = {name: Started(f"noisy_again/{name}.log", secure_site(name, "noisy_again")) for name in SECURE_SITES}
    for one in sites.values():
        one.until("keys are shared")
    sites["west"].kill()
    Path("noisy_again/west/masked.bin").unlink()
    model = checkpoints("noisy_again")[-1]
    was = model.read_bytes()
    Path("other.h5").write_bytes(was + b"more")
    os.replace("other.h5", model)  # the coordinator restores the model, so that sites have the right one
    leader.until("west is gone at sending masked updates")
    sites["west"] = Started("noisy_again/west.log", secure_site("west", "noisy_again"))
    for one in [*sites.values(), leader]:
        one.ends()
    assert "step-00000000.h5 was changed or removed by another program" in leader.log.read_text()
    assert model.read_bytes() == was
    for name, times in {"east": 2, "north": 2, "south": 2, "west": 1}.items():
        with sqlite3.connect(f"noisy_again/{name}/privacy.sqlite") as database:
            assert database.execute("SELECT count(DISTINCT digest), count(*) FROM spends").fetchall() == [(times, times)], name
        database.close()
        assert ("round 1: privacy has now been spent for it 2 times" in sites[name].log.read_text()) == (times == 2), name


    # What was spent changes in the model's metadata from round to round; sites expect that.
    options[-2:] = ["--set=federation.rounds=2", "--set=sharing.private=*.moe.*[3]"]
    leader, sites = start_secure("noisy_rounds", ALL_TAKE_PART, *options)
    for one in [*sites.values(), leader]:
        one.ends()
    first, second = (entry["privacy"]["epsilon"] for entry in entries("noisy_rounds"))
    assert second > first
    for path, spent, rounds in zip(checkpoints("noisy_rounds"), (first, second), (1, 2), strict=True):
        with h5py.File(path) as file:
            told = json.loads(file["state/metadata"][()])["round_privacy"]
        assert told == {"unit": "site", "epsilon": spent, "delta": 1e-5, "noise_multiplier": 3, "rounds": rounds}, told

    # A site's own expert was trained without noise, so its model is not private, and has what the common one spent.
    own = "noisy_rounds/north/training"
    common = f"the model that it started from: privacy of each site: 2 rounds, epsilon {second:.4f} at delta 1e-05"
    says = ["privacy of each site: epsilon infinite (noise is in the shared parameters only; what the site kept was trained without noise)", common]
    run([PROGRAM, "inspect", own], says=says)
    Path("own.toml").write_text(run([PROGRAM, "inspect", own, "--recipe"]))
    private = [f"--set=privacy.{key}" for key in ["unit=record", "batch=4", "noise_multiplier=1", "delta=1e-3"]]
    resumed = [PROGRAM, "train", "own.toml", f"--resume={checkpoints(own)[-1]}", "--set=train.steps=9", "--set=privacy.ledger=", "--set=run.directory=own"]
    run([*resumed, *private], 1, ["it does not say how many steps", "train.start_from"])


def test_drawn_again():
    """Sampled records are in one noisy sum only: for another attempt, records are drawn anew, also after a kill."""
    make_public_start()
    Path("noisy_drawn/west").mkdir(parents=True)
    os.mkfifo("noisy_drawn/west/masked.bin")  # a FIFO: opening it for writing waits for a reader
    options = [f"--set=privacy.{key}" for key in ["unit=record", "rate=0.5", "noise_multiplier=3"]]
    options += ["--set=federation.local_steps=1", "--set=federation.start=public", "--set=federation.rounds=1", "--set=federation.quorum=4", "--set=secure_aggregation.phase_seconds=8"]
    leader = Started("noisy_drawn/coordinator.log", secure_coordinator("noisy_drawn", *options))
    leader.until("listens at port")
    sites = {name: Started(f"noisy_drawn/{name}.log", secure_site(name, "noisy_drawn")) for name in SECURE_SITES}
    for one in sites.values():
        one.until("keys are shared")
    others = [name for name in SECURE_SITES if name != "west"]
    first = {name: Path(f"noisy_drawn/{name}/update.f32").read_bytes() for name in others}
    for name in others:
        sites[name].until("privacy: epsilon")
        assert not Path(f"noisy_drawn/{name}/update.json").exists(), name
    sites["east"].kill()
    sites["west"].kill()
    Path("noisy_drawn/west/masked.bin").unlink()
    leader.until("west is gone at sending masked updates")
    # What it sent was spent, although the attempt failed and the update is forgotten, so its ledger must not begin anew elsewhere.
    run(secure_site("east", "noisy_drawn", "--set=privacy.ledger=elsewhere.sqlite"), 1, ["there were rounds here (", "elsewhere.sqlite, is missing"])
    assert Path("noisy_drawn/east/spent.txt").read_text().startswith(f"{Path('noisy_drawn/east/privacy.sqlite').absolute()}\nnewest spend: ")
    for name in ["east", "west"]:
        sites[name] = Started(f"noisy_drawn/{name}.log", secure_site(name, "noisy_drawn"))
    for one in [*sites.values(), leader]:
        one.ends()
    assert "ready for the next, by other records" in sites["north"].log.read_text()
    for name in others:
        assert Path(f"noisy_drawn/{name}/update.f32").read_bytes() != first[name], name
        with sqlite3.connect(f"noisy_drawn/{name}/privacy.sqlite") as database:
            assert database.execute("SELECT count(DISTINCT digest), count(*) FROM spends").fetchall() == [(2, 2)], name
        database.close()


def test_noise_once():
    """A round's sum is released with one noise only, under the terms that sites began with; an unmasked sum is spent."""
    start = ["--set=privacy.unit=site", "--set=federation.start=public", "--set=federation.rounds=1"]
    if not Path("noisy_site").exists():
        make_public_start()
        leader, sites = start_secure("noisy_site", *start, "--set=privacy.noise_multiplier=3")
        for one in [*sites.values(), leader]:
            one.ends()
    Path("noisy_twice").mkdir()
    leader = Started("noisy_twice/coordinator.log", secure_coordinator("noisy_twice", *start, "--set=privacy.noise_multiplier=3"))
    leader.until("listens at port")
    for one in [Started(f"noisy_twice/{name}.log", secure_site(name, "noisy_site")) for name in SECURE_SITES]:
        assert "asks for its sum once more" in one.ends(1)
    leader.kill()
    for name in SECURE_SITES:  # nothing was sent again, so nothing more is spent
        with sqlite3.connect(f"noisy_site/{name}/privacy.sqlite") as database:
            assert database.execute("SELECT count(DISTINCT digest), noise FROM spends").fetchall() == [(1, 3.0)]
        database.close()

    # A coordinator that was killed before a round was in its transcript adds it with the noise that it had, not the new options'.
    before = entries("noisy_site")
    Path("noisy_site/transcript.jsonl").write_text("")
    leader = Started("noisy_site/again.log", secure_coordinator("noisy_site", *start, "--set=privacy.noise_multiplier=5"))
    leader.until("noise of 5.0000")
    leader.kill()
    (entry,) = entries("noisy_site")
    assert [entry] == before and entry["privacy"]["noise_multiplier"] == 3 and sorted(entry["sites"]) == SECURE_SITES, (entry, before)
    # Also if the new options have no noise and no secure aggregation.
    Path("noisy_site/transcript.jsonl").write_text("")
    leader = Started("noisy_site/plain.log", secure_coordinator("noisy_site", "--set=federation.rounds=1", "--set=secure_aggregation.enabled=false"))
    leader.until("listens at port")
    leader.kill()
    assert entries("noisy_site") == before

    # What sums have spent is on record in the database, so a coordinator does not begin without it, or with an older one.
    noisy = secure_coordinator("forgotten", *start, "--set=privacy.noise_multiplier=3")
    shutil.copytree("noisy_site", "forgotten", ignore=shutil.ignore_patterns("*.log", *SECURE_SITES))
    with sqlite3.connect("forgotten/rounds.sqlite") as database:
        database.execute("DELETE FROM secure_attempts")
    database.close()
    run(noisy, 1, [f"have spent epsilon {before[0]['privacy']['epsilon']:.4f} at delta 1e-05, and by rounds.sqlite it is 0.0000"])
    for path in Path("forgotten").glob("rounds.sqlite*"):
        path.unlink()
    for _ in range(2):  # it makes none, with which it would begin the next time
        run(noisy, 1, ["there were rounds here (step-00000001.h5), and rounds.sqlite, the record of"])
    Path("forgotten/step-00000001.h5").unlink()
    run(noisy, 1, ["there were rounds here (transcript.jsonl)"])

    # Two sites wait for the third one that a sum needs. Then the coordinator goes on with the next round, with less noise.
    start[-1] = "--set=federation.rounds=3"
    leader, sites = start_secure("noisy_less", *start, "--set=privacy.noise_multiplier=3", members=["north", "south"])
    are_ready("noisy_less", sites)
    leader.kill()
    with sqlite3.connect("noisy_less/rounds.sqlite") as database:
        database.execute("INSERT INTO secure_attempts(number, round, unmasked) VALUES(7, 0, 1)")
        database.execute("INSERT INTO secure_noise VALUES(7, 3, 1, 'site', 1e-5)")
    database.close()
    less = secure_coordinator("noisy_less", *start, "--set=privacy.noise_multiplier=0.01")
    leader = Started("noisy_less/coordinator.log", less)
    for one in sites.values():
        assert "other terms than this site began with" in one.ends(1)
    leader.kill()
    # The first round's spend stays as recorded, although the noise is now larger.
    before = entries("noisy_less")[0]["privacy"]["epsilon"]
    run([*less, "--set=privacy.noise_multiplier=30", f"--set=privacy.epsilon={before}"], 1, ["what was summed up so far has spent", "it would be"])

    # If a sum is lost during unmasking, its privacy is spent once, and the round is skipped.
    spent = subprocess.run([PROGRAM, "privacy", "epsilon", "--noise=30", "--rate=1", "--steps=3", "--delta=1e-5"], capture_output=True, text=True, check=True)
    epsilon = float(re.search(r"epsilon ([\d.]+)", spent.stdout).group(1)) + 1e-4
    budgeted = secure_coordinator("noisy_skipped", *start, "--set=privacy.noise_multiplier=30", f"--set=privacy.epsilon={epsilon}")
    Path("noisy_skipped").mkdir()
    once = float(re.search(r"epsilon ([\d.]+)", subprocess.run([PROGRAM, "privacy", "epsilon", "--noise=30", "--rate=1", "--steps=1", "--delta=1e-5"], capture_output=True, text=True, check=True).stdout).group(1))
    for says in ["round 1 of 3 begins", f"reveal their difference, epsilon {once:.4f}"]:
        leader = Started("noisy_skipped/coordinator.log", budgeted)
        leader.until(says)
        leader.kill()
        if "begins" in says:
            with sqlite3.connect("noisy_skipped/rounds.sqlite") as database:
                database.execute("INSERT INTO secure_attempts(number, round, unmasked) VALUES(7, 0, 1)")
                database.execute("INSERT INTO secure_noise VALUES(7, 30, 1, 'site', 1e-5)")
            database.close()
    # So if there are to be no more rounds than before the one whose sum is lost.
    with sqlite3.connect("noisy_skipped/rounds.sqlite") as database:
        database.execute("INSERT INTO secure_attempts(number, round, unmasked) VALUES(8, 1, 1)")
        database.execute("INSERT INTO secure_noise VALUES(8, 30, 1, 'site', 1e-5)")
    database.close()
    run([*budgeted, "--set=federation.rounds=1"], says=["privacy of each site: in 1 rounds"])
    # If a round had no secure aggregation, nothing bounds what all rounds together have revealed.
    with sqlite3.connect("noisy_skipped/rounds.sqlite") as database:
        database.execute("UPDATE models SET secure = 0 WHERE round = 0")
    database.close()
    run(budgeted, 1, ["noisy_skipped: it had rounds without secure aggregation or without noise", "privacy.epsilon = 0 and privacy.noise_multiplier = 30"])
    leader = Started("noisy_skipped/plain.log", secure_coordinator("noisy_skipped", *start, "--set=privacy.noise_multiplier=30"))
    leader.until("round 3 of 3 begins")
    leader.kill()
    assert "reveal their difference, epsilon infinite" in leader.log.read_text()
    assert entries("noisy_skipped")[-1]["privacy"]["epsilon"] is None, entries("noisy_skipped")
    assert "\nconclave_epsilon inf\n" in Path("noisy_skipped/metrics.prom").read_text()

    # Sites that expect other noise than the coordinator cannot take part in its attempt.
    leader, sites = start_secure("noisy_other", *start, "--set=privacy.noise_multiplier=3", members=["north", "south"])
    are_ready("noisy_other", sites)
    leader.kill()
    leader = Started("noisy_other/coordinator.log", secure_coordinator("noisy_other", *start, "--set=privacy.noise_multiplier=0.01"))
    Started("noisy_other/east.log", secure_site("east", "noisy_other"))
    for one in sites.values():
        assert "start the site again" in one.ends(1)
    leader.kill()


def test_private():
    """A site's own [privacy] hides its clients, and the site counts by its clients. The tokenizer comes with the model. Epsilon
    continues after a restart."""
    make_public_start()
    Path("private").mkdir()
    options = ["--set=federation.start=public", "--set=federation.rounds=2", "--set=federation.quorum=1"]
    leader = Started("private/coordinator.log", coordinator("private", *options, "--set=federation.gather_seconds=3"))
    leader.until("listens at port")
    privacy = ["unit=client", "noise_multiplier=1", "delta=1e-3", "batch=2"]
    private = site("north", "private", "--set=data.client_column=who", *[f"--set=privacy.{key}" for key in privacy])
    north = Started("private/north.log", private)
    north.until("round 1 of 2: delivered")
    north.kill()
    north = Started("private/north.log", private)
    for one in (north, leader):
        one.ends()
    lines = map(json.loads, Path("private/north/training/metrics.jsonl").read_text().splitlines())
    epsilon = {line["step"]: line["privacy/epsilon"] for line in lines if "privacy/epsilon" in line}
    log = north.log.read_text()
    assert "privacy: of 8 steps" in log and f"epsilon {epsilon[8]:.3f} at delta" in log, (epsilon, log)
    sent = [line["entry"]["sites"]["north"] for line in map(json.loads, Path("private/transcript.jsonl").read_text().splitlines())]
    assert [one["metrics"] for one in sent] == [{}, {}], sent  # metrics would have no noise, so none are sent
    clients = int(re.search(r"of (\d+) clients on average", log).group(1))
    assert [one["examples"] for one in sent] == [clients, clients] and clients <= 10, (sent, clients)

    # If a coordinator begins again at round 1, the site stays within its budget, because its ledger has the earlier rounds.
    spent = float(re.search(r"epsilon ([\d.]+) at delta 0.001 with this round", log.split("round 1 of 2: delivered")[1]).group(1))
    assert abs(spent - epsilon[8]) < 2e-3, (spent, epsilon)
    Path("again_private").mkdir()
    leader = Started("again_private/coordinator.log", coordinator("again_private", *options))
    leader.until("listens at port")
    os.replace("private/north/privacy.sqlite", "ledger.sqlite")
    run(private, 1, ["the ledger of what they spent, private/north/privacy.sqlite, is missing"])
    budget = ["--set=privacy.ledger=ledger.sqlite", f"--set=privacy.epsilon={1.1 * spent}"]
    run([*private, *budget], 1, ["would bring epsilon to", "nothing was released"])
    budget = ["--set=privacy.unit=none", "--set=privacy.epsilon=1", "--set=privacy.delta=1e-5"]
    run([*site("south", "again_private"), *budget], 2, ["the federation's sums have no noise"])
    leader.process.send_signal(signal.SIGTERM)
    leader.ends(130)

    # If the model has no tokenizer, a site does not learn one from its texts.
    images_test.prepare()
    run([PROGRAM, "federate", "initialize", "images.toml", "--out", "pictures"])
    Path("no_tokenizer").mkdir()
    leader = Started("no_tokenizer/coordinator.log", coordinator("no_tokenizer", "--set=federation.start=pictures"))
    leader.until("listens at port")
    texts = ["--set=data.source=table", "--set=data.max_length=32"]
    run([*site("south", "no_tokenizer"), *texts], 1, ["the coordinator's model has no tokenizer"])
    assert not Path("no_tokenizer/south/training").exists()
    leader.process.send_signal(signal.SIGTERM)
    leader.ends(130)
    run([*site("north", "private"), "--set=privacy.epsilon=2"], 2, ["must say its unit: none, record or client"])


def test_audit():
    transcript = Path("calm/transcript.jsonl")
    lines = transcript.read_text().splitlines(keepends=True)
    changed = lines[1].replace('"round":2', '"round":7')
    assert changed != lines[1]
    Path("changed.jsonl").write_text(lines[0] + changed + lines[2])
    run([PROGRAM, "federate", "audit", "changed.jsonl"], 1, ["line 3"])
    # A noted head shows that the transcript's end was changed or removed.
    head = re.search("head ([0-9a-f]{64})", run([PROGRAM, "federate", "audit", "calm"])).group(1)
    run([PROGRAM, "federate", "audit", "calm", "--head", head], says=["that of line 3"])
    Path("changed.jsonl").write_text("".join(lines[:2]))
    run([PROGRAM, "federate", "audit", "changed.jsonl"], says=["2 entries hold"])
    run([PROGRAM, "federate", "audit", "changed.jsonl", "--head", head], 1, ["none of its 2 lines has the head"])
    run([PROGRAM, "federate", "audit", "calm", "--head", "abc"], 2, ["not 64 digits"])


def test_early_site():
    """A site that starts before the coordinator finds it soon after it begins to listen."""
    Path("early").mkdir()
    north = Started("early/north.log", site("north", "early"))
    north.until("trying again")
    # Several sites share this machine, so threads of a site do not spin for long while they wait.
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        assert b"GOMP_SPINCOUNT=3000" in Path(f"/proc/{north.process.pid}/environ").read_bytes()
    run(site("north", "early"), 1, ["early/north: another process is at work in this folder"])
    leader = Started("early/coordinator.log", coordinator("early", "--set=federation.rounds=1", "--set=federation.quorum=1"))
    leader.until("listens at port")
    began = time.monotonic()
    north.until("round 1 of 1: delivered")
    assert time.monotonic() - began < 10
    north.ends()
    leader.ends()


def test_admission():
    """Refused are sites without a certificate, with an expired or revoked one or another authority's, and with an old TLS."""
    Path("guarded").mkdir()
    leader = Started("guarded/coordinator.log", coordinator("guarded"))
    leader.until("listens at port")
    port = Path("federation.toml").read_text().split("localhost:")[1].split('"')[0]

    def handshake(*options):
        command = ["openssl", "s_client", "-connect", f"localhost:{port}", "-alpn", "h2", "-CAfile", "kits/authority/authority.pem"]
        done = subprocess.run([*command, *options], input="", capture_output=True, text=True, errors="replace", timeout=30)
        return done.stdout + done.stderr

    kit = ["-cert", "kits/north/certificate.pem", "-key", "kits/north/key.pem"]
    assert "Cipher is TLS_" in handshake("-tls1_3", *kit)
    assert "Cipher is (NONE)" in handshake("-tls1_2", *kit)

    def answers(*certificate):
        """Whether the coordinator answers in HTTP/2 after a TLS handshake with this certificate."""
        context = ssl.create_default_context(cafile="kits/authority/authority.pem")
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        if certificate:
            context.load_cert_chain(*certificate)
        try:
            with socket.create_connection(("localhost", int(port)), timeout=30) as plain, context.wrap_socket(plain) as secure:
                secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                return bool(secure.recv(1))
        except OSError:
            return False

    authority = ["-CA", "kits/authority/authority.pem", "-CAkey", "kits/authority/authority.key"]
    run(["openssl", "req", "-new", "-key", "kits/north/key.pem", "-subj", "/O=test/CN=north", "-out", "request.pem"])
    for days in (1, -1):
        made = ["-days", str(days), "-set_serial", "7", "-out", f"days{days}.pem"]
        run(["openssl", "x509", "-req", "-in", "request.pem", *authority, *made])
    assert answers("kits/north/certificate.pem", "kits/north/key.pem")
    assert answers("days1.pem", "kits/north/key.pem") and not answers("days-1.pem", "kits/north/key.pem")
    assert not answers()

    impatient = "--set=site.patience_seconds=1"
    run([PROGRAM, "federate", "provision", "federation.toml", "--set=federation.kits=foreign"], says=["foreign/north"])
    run(["cp", "-r", "foreign/north", "kits/stranger"])
    stranger = [argument.replace("kits/north", "kits/stranger") for argument in site("north", "guarded", impatient)]
    run(stranger, 1, ["could not be reached"])
    assert not answers("foreign/north/certificate.pem", "foreign/north/key.pem")

    run([PROGRAM, "federate", "provision", "federation.toml", "--revoke", "south"], says=["1 certificates are no longer let in"])
    run(site("south", "guarded", impatient), 1, ['does not let in the certificate of "south"'])
    leader.until('refused the certificate of "south" at ')
    assert re.search(r'refused the certificate of "south" at \S+: it is not in the list of those let in', leader.log.read_text())
    run([PROGRAM, "federate", "provision", "federation.toml", "--renew", "south"], says=["kits/south"])
    Started("guarded/south.log", site("south", "guarded")).until("started from")

    os.chmod("kits/north/key.pem", 0o644)
    run(site("north", "guarded"), 1, ["chmod 600"])
    os.chmod("kits/north/key.pem", 0o600)
    run(coordinator("guarded"), 1, ["another process is at work in this folder"])
    leader.process.send_signal(signal.SIGTERM)
    assert "it goes on" in leader.ends(130)


def test_provision():
    """If making kits was interrupted, the next call makes what is missing; every accepted certificate can be revoked."""
    provision = [PROGRAM, "federate", "provision", "federation.toml", "--set=federation.kits=pieces"]

    def cut_short(piece, *options):
        obstacle = Path(f"pieces/{piece}.tmp/in/the/way")
        obstacle.mkdir(parents=True)
        run([*provision, *options], 1)
        shutil.rmtree(obstacle.parents[2])

    def is_whole():
        let_in = Path("pieces/coordinator/sites.txt").read_text()
        for name in SITES:
            certificate = ssl.PEM_cert_to_DER_cert(Path(f"pieces/{name}/certificate.pem").read_text())
            assert f"{name} {hashlib.sha256(certificate).hexdigest()}\n" in let_in, (name, let_in)
            assert "[data]" in Path(f"pieces/{name}/site.toml").read_text()
            run(["openssl", "verify", "-CAfile", f"pieces/{name}/authority.pem", f"pieces/{name}/certificate.pem"])

    pieces = ["authority/authority.key", "authority/authority.pem", "coordinator/key.pem", "coordinator/certificate.pem", "coordinator/sites.txt"]
    for piece in [*pieces, *(f"north/{name}" for name in ["key.pem", "authority.pem", "site.toml", "certificate.pem"])]:
        shutil.rmtree("pieces", ignore_errors=True)
        cut_short(piece)
        run(provision, says=["pieces/south"])
        is_whole()
    for piece in ["key.pem", "authority.pem", "certificate.pem"]:
        cut_short(f"north/{piece}", "--renew", "north")
        run(provision, says=["pieces/north"])
        is_whole()

    asked = run([PROGRAM, "federate", "request", "north", "--out", "made_at_north"], says=["request.pem: send this"])
    request = ["--request", "made_at_north/request.pem"]
    run([*provision, *request], 1, ["add --renew north"])
    run([PROGRAM, "federate", "request", "stranger"])
    run([*provision, "--request", "stranger/request.pem"], 1, ["not one of federation.sites"])
    let_in = Path("pieces/coordinator/sites.txt").read_text()
    key = asked.split()[-1]
    run([*provision, *request, "--renew", "north"], 1, [f"for the key with SHA-256 {key}. Ask north", f"add --key-sha256 {key}"])
    other = hashlib.sha256(b"a forger's key").hexdigest()
    run([*provision, *request, "--renew", "north", "--key-sha256", other], 1, [f"{key}, which --key-sha256 does not name"])
    assert Path("pieces/coordinator/sites.txt").read_text() == let_in and Path("pieces/north/key.pem").exists()
    run([*provision, *request, "--renew", "north", "--key-sha256", key], says=[key])
    is_whole()
    assert not Path("pieces/north/key.pem").exists()
    run([*provision, "--renew", "north"], 1, ["--request pieces/north/request.pem"])

    shutil.rmtree("pieces/north")
    at_once = [subprocess.Popen([*provision, *option], stdout=subprocess.DEVNULL) for option in [("--renew", "north"), ("--revoke", "south")]]
    assert [one.wait() for one in at_once] == [0, 0]
    assert {line.split()[0] for line in Path("pieces/coordinator/sites.txt").read_text().splitlines()[1:]} == {"north"}
    run([*provision, "--renew", "south"], says=["pieces/south"])

    moved = run([*provision, "--set=federation.address=elsewhere:9"])
    for name in SITES:  # the kits may already be at the sites
        assert f"pieces/{name}/site.toml: site.address is localhost:" in moved and "federation.address elsewhere:9" in moved, moved
    Path("fewer.toml").write_text(FEDERATION.format(port=1).replace('"north", "south"', '"north"'))
    provision[3] = "fewer.toml"
    one = ["--set=federation.sites=lock", "--set=federation.kits=locked", "--set=federation.directory=locked"]
    run([*provision, *one], says=["locked/lock: a certificate"])
    run([*provision, "--revoke", "south"], says=["south: 1 certificates are no longer let in"])
    assert "south" not in Path("pieces/coordinator/sites.txt").read_text()
    run([*provision, "--revoke", "south"], 1, ["no certificate of that name is let in"])


def test_mistakes():
    for text, says in [
        ("sites = []", "there must be some"),
        ('sites = ["a", "a"]', "is there twice"),
        ('sites = ["a b"]', "cannot be a site's name"),
        ('sites = ["a"]\nquorum = 2', "more than the 1 sites"),
        ('sites = ["a"]\naddress = "nowhere"', "has no port"),
        ('sites = ["a"]\nrounds = 1000000\nlocal_steps = 1000', "are more than the 100000000 steps"),
        ('sites = ["a"]\nround = 2', "the nearest is federation.rounds"),
        ('sites = ["a", "b"]\n[secure_aggregation]\nenabled = true', "each site could compute the other's update"),
        (f"sites = {[f's{i}' for i in range(4001)]}\n[secure_aggregation]\nenabled = true", "with 4001 sites: expected at most 4000"),
        ('sites = ["a", "b", "c"]\nquorum = 2\n[secure_aggregation]\nenabled = true', "needs 3 sites in every round"),
        ('sites = ["a", "b", "c"]\n[strategy]\nname = "median"\n[secure_aggregation]\nenabled = true', "looks at each update"),
        ('sites = ["a", "b", "c"]\n[strategy]\nname = "scaffold"\n[secure_aggregation]\nenabled = true', "needs exact control variates"),
        ('sites = ["a", "b", "c"]\n[strategy]\nname = "fedbuff"\n[secure_aggregation]\nenabled = true', "is asynchronous"),
        ('sites = ["a"]\n[secure_aggregation]\nbits = 20', "multiple of 8"),
    ]:
        Path("mistaken.toml").write_text(f"[federation]\n{text}\n")
        run([PROGRAM, "federate", "provision", "mistaken.toml"], 2, ["mistaken.toml:", says])
    run(site("north", "mistaken", "--set=run.thread=1"), 2, ["run.threads"])
    late = ["--set=quantization.enabled=true", "--set=quantization.start_step=5"]
    run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", "late", *late], 1, ["counts rounds; set it to 0"])


def main():
    with own_temporary_files():
        prepare()
        Path("federation.toml").write_text(FEDERATION.format(port=free_port()))
        run([PROGRAM, "federate", "provision", "federation.toml"], says=["kits/coordinator", "kits/north", "kits/south"])
        # With a smaller epsilon, Adam turns rounding into steps where gradients are nearly zero.
        run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", "start", "--set=train.epsilon=1e-5"], says=["step-00000000.h5"])
        Path("secure.toml").write_text(SECURE.format(port=free_port()))
        run([PROGRAM, "federate", "provision", "secure.toml"], says=["secure_kits/west"])
        make_public_start()
        of_one_port = [test_mean, test_repaired, test_ranks, test_kills, test_unlike_tables, test_straggler, test_sharing, test_strategy, test_scaffold, test_buffer, test_private, test_audit]
        of_the_other = [test_secure_mean, test_secure_weights, test_secure_kills, test_one_sum, test_one_model, test_shared_noise, test_noise_again, test_drawn_again, test_noise_once]
        groups = [[*of_one_port, test_early_site, test_admission, test_provision, test_mistakes], of_the_other]
        with ThreadPoolExecutor(len(groups)) as pool:  # tests wait more than they compute
            list(pool.map(run_all, groups))


def run_all(tests):
    for test in tests:
        if test.__name__ in sys.argv[1:] or len(sys.argv) == 1:
            began = time.monotonic()
            test()
            print(f"{test.__name__}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
