"""A federation of processes on this machine: what it computes, whom it lets in, and that whoever is killed in
whichever moment, it reaches the same bits as one that was left alone."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy

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


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def coordinator(directory, *options):
    return [PROGRAM, "federate", "coordinator", "federation.toml", f"--set=federation.directory={directory}", *options]


def site(name, directory, *options, ranks=1):
    start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    part = [f"--set=data.parts={len(SITES)}", f"--set=data.part={SITES.index(name)}", "--set=data.path=texts.jsonl"]
    own = [f"--set=site.directory={directory}/{name}", f"--set=run.directory={directory}/{name}/training"]
    return [*start, PROGRAM, "federate", "site", f"kits/{name}/site.toml", *part, *own, *options]


class Started:
    """A process whose output is in a file."""

    def __init__(self, log, command):
        self.log = Path(log)
        self.file = open(log, "a")
        self.process = subprocess.Popen(command, stdout=self.file, stderr=subprocess.STDOUT)

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


def federation(directory, members, *options, ranks=1):
    """Runs one to its end, and returns the last checkpoint."""
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
    """One round of two sites is the mean of what each makes of the same model, by their examples."""
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


def test_ranks():
    """A site of two ranks, experts spread over both, makes the same of its data."""
    one, two = numbers(checkpoints("both")[-1]), numbers(federation("ranks", SITES, "--set=federation.rounds=1", ranks=2))
    worst = max(abs(two[name] - value).max() for name, value in one.items())
    assert worst < 1e-4, worst


def test_kills():
    """Coordinator and sites are killed without notice, and started again."""
    calm = federation("calm", SITES)
    Path("killed").mkdir()
    leader = Started("killed/coordinator.log", coordinator("killed"))
    north = Started("killed/north.log", site("north", "killed"))
    north.until("round 1 of 3: delivered")
    leader.kill()  # with one of two updates on its disk
    leader = Started("killed/coordinator.log", coordinator("killed"))
    south = Started("killed/south.log", site("south", "killed"))
    south.until("round 1 of 3: delivered")
    south.kill()  # in the middle of round 2, or before
    leader.until("round 2 of 3 begins")
    leader.kill()
    south = Started("killed/south.log", site("south", "killed"))
    north.kill()
    time.sleep(0.5)
    leader = Started("killed/coordinator.log", coordinator("killed"))
    north = Started("killed/north.log", site("north", "killed"))
    for one in (north, south, leader):
        one.ends()
    assert_same_weights(calm, checkpoints("killed")[-1])
    run([PROGRAM, "federate", "audit", "killed"], says=["3 entries hold"])


def test_sharing():
    """Each site keeps the last expert and its row of the router; the others are averaged by their tokens."""
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
    for site in last["sites"].values():
        assert "classify/private_validation_accuracy" in site["metrics"], site
    assert list(Path("sharing/north").glob("private-*.f32"))
    run(coordinator("mistaken", "--set=sharing.private=*.nothing"), 1, ["*.nothing"])


def test_strategy():
    """What FedAdam remembers of earlier rounds survives a restart."""
    options = ["--set=strategy.name=fedadam", "--set=strategy.server_rate=0.01"]
    calm = federation("adam", SITES, *options)
    Path("adam2").mkdir()
    leader = Started("adam2/coordinator.log", coordinator("adam2", *options))
    sites = [Started(f"adam2/{name}.log", site(name, "adam2")) for name in SITES]
    leader.until("round 2 of 3 begins")
    leader.process.send_signal(signal.SIGTERM)
    leader.ends((0, 130))
    leader = Started("adam2/coordinator.log", coordinator("adam2", *options))
    for one in [*sites, leader]:
        one.ends()
    assert_same_weights(calm, checkpoints("adam2")[-1])
    one, other = numbers(calm), numbers(checkpoints("calm")[-1])
    assert max(abs(other[name] - value).max() for name, value in one.items()) > 1e-3


def test_audit():
    transcript = Path("calm/transcript.jsonl")
    lines = transcript.read_text().splitlines(keepends=True)
    changed = lines[1].replace('"round":2', '"round":7')
    assert changed != lines[1]
    Path("changed.jsonl").write_text(lines[0] + changed + lines[2])
    run([PROGRAM, "federate", "audit", "changed.jsonl"], 1, ["line 3"])


def test_admission():
    """Who has no certificate, another authority's, a revoked one, or an old TLS, is not let in."""
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

    impatient = "--set=site.patience_seconds=1"
    run([PROGRAM, "federate", "provision", "federation.toml", "--set=federation.kits=foreign"], says=["foreign/north"])
    run(["cp", "-r", "foreign/north", "kits/stranger"])
    stranger = [argument.replace("kits/north", "kits/stranger") for argument in site("north", "guarded", impatient)]
    run(stranger, 1, ["could not be reached"])

    run([PROGRAM, "federate", "provision", "federation.toml", "--revoke", "south"], says=["1 certificates are no longer let in"])
    run(site("south", "guarded", impatient), 1, ['does not let in the certificate of "south"'])
    run([PROGRAM, "federate", "provision", "federation.toml", "--renew", "south"], says=["kits/south"])
    Started("guarded/south.log", site("south", "guarded")).until("started from")

    os.chmod("kits/north/key.pem", 0o644)
    run(site("north", "guarded"), 1, ["chmod 600"])
    os.chmod("kits/north/key.pem", 0o600)
    run(coordinator("guarded"), 1, ["another process is at work in this folder"])
    leader.process.send_signal(signal.SIGTERM)
    assert "it goes on" in leader.ends(130)
    run(["pkill", "-KILL", "-f", "guarded/south"], (0, 1))


def test_mistakes():
    for text, says in [
        ("sites = []", "there must be some"),
        ('sites = ["a", "a"]', "is there twice"),
        ('sites = ["a b"]', "cannot be a site's name"),
        ('sites = ["a"]\nquorum = 2', "more than the 1 sites"),
        ('sites = ["a"]\naddress = "nowhere"', "has no port"),
        ('sites = ["a"]\nround = 2', "the nearest is federation.rounds"),
    ]:
        Path("mistaken.toml").write_text(f"[federation]\n{text}\n")
        run([PROGRAM, "federate", "provision", "mistaken.toml"], 2, ["mistaken.toml:", says])
    run(site("north", "mistaken", "--set=run.thread=1"), 2, ["run.threads"])


with own_temporary_files():
    prepare()
    Path("federation.toml").write_text(FEDERATION.format(port=free_port()))
    run([PROGRAM, "federate", "provision", "federation.toml"], says=["kits/coordinator", "kits/north", "kits/south"])
    run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", "start"], says=["step-00000000.h5"])
    for test in [test_mean, test_ranks, test_kills, test_sharing, test_strategy, test_audit, test_admission, test_mistakes]:
        began = time.monotonic()
        test()
        print(f"{test.__name__}: {time.monotonic() - began:.1f} s")
