"""Simulated federations: a round gives the mean of its clients' models, on any number of ranks. With privacy, updates
are clipped, epsilon is the accountant's, and the budget ends the simulation."""

import fcntl
import json
import os
from pathlib import Path

import numpy

import runs
from e2e.images_test import prepare
from runs import PROGRAM, assert_same_weights, checkpoints, run, weights

CLIENTS = 8
COUNTER = os.environ["CONCLAVE_BUILD"] + "/tests/libcount_allocations.so"
# Nothing that is random or depends on an example's place among others.
STILL = ["image.flip=false", "image.erase=0", "model.dropout=0", "model.embedding_dropout=0"]
SIMULATION = """
[simulation]
recipe = "images.toml"
clients = 8
rounds = 1
local_batch = 0
client_rate = 0.05
"""


def simulate(ranks, directory, *options, **how):
    start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    sets = [f"--set={option}" for option in ("moe.balancer=none", f"simulation.directory={directory}", *options)]
    return run([*start, PROGRAM, "federate", "simulate", "simulation.toml", *sets], **how)


def model(directory):
    tensors = weights(checkpoints(directory)[-1])
    return {name: numpy.frombuffer(data, numpy.float32).astype(float) for name, data in tensors.items()}


def metrics(directory, key):
    lines = map(json.loads, Path(directory, "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def farthest(one, other):
    return max(abs(one[name] - other[name]).max() for name in one)


def changes(model, start):
    return {name: model[name] - start[name] for name in start}


def norm(change):
    return sum((values**2).sum() for values in change.values()) ** 0.5


def plus_mean(start, updates, weights, total):
    return {name: start[name] + sum(w * u[name] for w, u in zip(weights, updates)) / total for name in start}


def test_one_step():
    """One step of every client on all of its examples equals one step on all examples."""
    one_step = ["simulation.local_steps=1", *STILL]
    simulate(1, "clients", *one_step)
    simulate(1, "pooled", *one_step, "simulation.clients=1")
    apart = farthest(model("clients"), model("pooled"))
    assert apart < 1e-6 < 1e-3 < farthest(model("clients"), model("start")), apart


def test_mean():
    """Several local steps: the result is the mean of the clients' models, each from a simulation of its own."""
    steps = ["simulation.local_steps=3", *STILL]
    start = model("start")
    updates, examples = [], []
    for client in range(CLIENTS):
        part = [f"data.parts={CLIENTS}", f"data.part={client}", "simulation.clients=1"]
        output = simulate(1, f"client{client}", *steps, *part)
        examples.append(int(output.split("clients: ")[1].split(" examples")[0]))
        updates.append(changes(model(f"client{client}"), start))
    assert sum(examples) == 550 and len(set(examples)) > 1, examples
    simulate(2, "mean", *steps)
    apart = farthest(model("mean"), plus_mean(start, updates, examples, sum(examples)))
    assert apart < 1e-6, apart

    # FedProx's penalty keeps clients near the model that they were sent.
    simulate(1, "near", *steps, "strategy.name=fedprox", "strategy.proximal=10")
    near, far = (norm(changes(model(name), start)) for name in ("near", "mean"))
    assert 0.2 * far < near < 0.8 * far, (near, far)

    # With privacy, all clients have the same weight, and updates are clipped to the bound, here the median norm.
    bound = sorted(map(norm, updates))[CLIENTS // 2]
    clipped = [min(1, bound / norm(update)) for update in updates]
    assert min(clipped) < 0.99, clipped
    noise = 1e-4
    private = [f"client_privacy.clip_norm={bound}", f"client_privacy.noise_multiplier={noise}", "client_privacy.delta=1e-3"]
    simulate(2, "clipped", *steps, *private)
    apart = farthest(model("clipped"), plus_mean(start, updates, clipped, CLIENTS))
    assert 0 < apart < 6 * noise * bound / CLIENTS, apart


def test_parts():
    """A step that is computed in several parts learns what it learns in one, also from auxiliary losses."""
    runs.prepare()
    whole = ["simulation.recipe=tiny.toml", "simulation.clients=2", "simulation.local_steps=1", "model.bigrams=0", *STILL]
    whole.append("model.token_dropout=0.5")
    for tokens in (48, 4096):
        of_parts = [*whole, f"train.batch_tokens={tokens}"]
        simulate(1, f"none{tokens}", *of_parts)
        router = ["moe.balancer=aux_loss", "moe.aux_coefficient=10", "moe.z_coefficient=1"]
        for name, terms in ("router", router), ("masked", ["train.masked_weight=1"]):
            simulate(1, f"{name}{tokens}", *of_parts, *terms)
    for name in ("router", "masked"):
        few, many = (norm(changes(model(f"{name}{tokens}"), model(f"none{tokens}"))) for tokens in (4096, 48))
        assert 0.8 < many / few < 1.25, (name, many, few)


def test_ranks():
    """The result does not depend on the number of ranks: random numbers belong to clients."""
    several = ["simulation.clients=30", "simulation.cohort=11", "simulation.rounds=4", "simulation.local_batch=7"]
    several += ["simulation.local_epochs=2", "strategy.name=fedadam"]
    for ranks in (1, 2, 4):
        simulate(ranks, f"ranks{ranks}", *several)
    for ranks in (2, 4):
        apart = farthest(model("ranks1"), model(f"ranks{ranks}"))
        assert apart < 1e-5, (ranks, apart)
    assert metrics("ranks1", "train/clients") == [11] * 4
    simulate(1, "again", *several)
    assert_same_weights(checkpoints("ranks1")[-1], checkpoints("again")[-1])


PRIVATE = ["simulation.clients=400", "simulation.cohort=100", "client_privacy.delta=1e-3"]


def epsilon(noise, rounds):
    options = [f"--noise={noise}", "--rate=0.25", f"--steps={rounds}", "--delta=1e-3"]
    return float(run([PROGRAM, "privacy", "epsilon", *options]).split()[1])


def test_privacy():
    """Epsilon is the accountant's for noise, rate and rounds. A budget determines the noise, or ends the simulation."""
    simulate(2, "private", *PRIVATE, "simulation.rounds=5", "client_privacy.noise_multiplier=1")
    for rounds, spent in enumerate(metrics("private", "privacy/epsilon"), start=1):
        assert abs(spent / epsilon(1, rounds) - 1) < 1e-4, (rounds, spent)
    taking_part = metrics("private", "train/clients")
    assert len(taking_part) == 5 and len(set(taking_part)) > 1 and all(50 < count < 150 for count in taking_part), taking_part

    # Ranges for integers would be learned from clients' examples without noise.
    quantize = [PROGRAM, "quantize", "private", "--out", "integers"]
    run([*quantize, "--set=quantization.activations=tensor"], status=1, says=["the model was trained with privacy"])
    run(quantize, says=["times smaller"])

    simulate(1, "budget", *PRIVATE, "simulation.rounds=6", "client_privacy.epsilon=3", says=["epsilon 2.99"])
    spent = metrics("budget", "privacy/epsilon")
    assert len(spent) == 6 and 2.99 < spent[-1] <= 3, spent

    # The seed does not determine which clients take part.
    counts = metrics("budget", "train/clients")
    simulate(1, "members", *PRIVATE, "simulation.rounds=6", "client_privacy.epsilon=3")
    assert len(counts) == 6 and metrics("members", "train/clients") != counts, counts

    stops = ["simulation.rounds=40", "client_privacy.epsilon=2", "client_privacy.noise_multiplier=1.5"]
    simulate(1, "stops", *PRIVATE, *stops, says=["the budget of 2 has no room for the other"])
    spent = metrics("stops", "privacy/epsilon")
    assert 0 < len(spent) < 40 and spent[-1] <= 2 < epsilon(1.5, len(spent) + 1), spent
    none = ["client_privacy.epsilon=0.01", "client_privacy.noise_multiplier=1"]
    simulate(1, "none", *PRIVATE, *none, status=1, says=["exceeds it"])

    # The adaptive bound approaches the median norm of the updates, and epsilon does not change.
    adaptive = ["simulation.rounds=25", "client_privacy.noise_multiplier=1", "client_privacy.adaptive=true"]
    simulate(1, "adaptive", *PRIVATE, *adaptive, "client_privacy.clip_norm=20", "client_privacy.clip_rate=0.5")
    bounds = metrics("adaptive", "privacy/clip_norm")
    assert bounds[0] == 20 and bounds[-1] < 1.5 and bounds[10] < bounds[5] < bounds[1] < 20, bounds
    assert abs(metrics("adaptive", "privacy/epsilon")[-1] / epsilon(1, 25) - 1) < 1e-4


def test_noise():
    """If clients learn nothing, a round adds only the noise, drawn once and with the right deviation. The seed does not
    determine it."""
    nothing = ["simulation.client_rate=1e-9", "client_privacy.delta=1e-3", "client_privacy.clip_norm=2", "client_privacy.noise_multiplier=3"]
    for ranks in (1, 2):
        simulate(ranks, f"noise{ranks}", *nothing)
        moved = changes(model(f"noise{ranks}"), model("start"))
        elements = sum(values.size for values in moved.values())
        deviation = norm(moved) / elements**0.5
        assert abs(deviation / (3 * 2 / CLIENTS) - 1) < 6 / (2 * elements) ** 0.5 and elements > 5000, deviation
        assert abs(sum(values.sum() for values in moved.values()) / elements) < 6 * deviation / elements**0.5
    simulate(1, "noise", *nothing)
    apart = norm(changes(model("noise"), model("noise1"))) / elements**0.5
    assert abs(apart / (2**0.5 * deviation) - 1) < 0.1, (apart, deviation)  # independent noise: twice the variance


def test_allocations():
    """More clients do not cause more allocations."""
    counts = []
    for cohort in (20, 80):
        name = f"counted{cohort}"
        counted = ["env", f"LD_PRELOAD={COUNTER}", f"COUNT_ALLOCATIONS={name}"]
        options = ["moe.balancer=none", "simulation.clients=80", f"simulation.cohort={cohort}", "simulation.directory=counted"]
        sets = [f"--set={option}" for option in (*options, "simulation.local_batch=4", "simulation.local_epochs=2")]
        # Under mpirun, as otherwise the program would start a process of Open MPI, which would be counted.
        run(["mpirun", "-n", "1", *counted, PROGRAM, "federate", "simulate", "simulation.toml", *sets])
        rows = [line.split() for line in Path(f"{name}.0").read_text().splitlines()]
        counts.append({(file, place): int(count) for count, file, place in rows if Path(file).name == Path(PROGRAM).name})
    few, many = counts
    assert sum(few.values()) > 1000, few
    more = {place: many[place] - few.get(place, 0) for place in many if many[place] - few.get(place, 0) > 20}
    assert not more, more


def test_learns():
    """The result is an ordinary checkpoint of a model that has learned."""
    learn = ["simulation.rounds=20", "simulation.local_batch=10", "simulation.client_rate=0.2", "simulation.evaluate_every=10"]
    output = simulate(2, "learned", *learn, *STILL, says=["round 20 of 20: loss", "per second", "test: accuracy"])
    accuracy = float(output.split("test: accuracy ")[1].split(",")[0])
    result = json.loads(run([PROGRAM, "eval", "learned"]))
    assert abs(result["accuracy"] - accuracy) < 1e-3 and accuracy > 0.5 and result["step"] == 20, (result, accuracy)
    assert len(metrics("learned", "validation/accuracy")) == 2
    run([PROGRAM, "inspect", "learned", "--verify"], says=["step 20; model of", "every tensor matches"])
    run([PROGRAM, "inspect", "stops"], says=["privacy of each client: "])
    # A run that starts from a private model says what that had spent, and does not take it for its own.
    before = "the model that it started from: privacy of each client: "
    simulate(1, "after", "train.start_from=stops", *STILL, says=[before, "; what follows does not count it"])
    lines = run([PROGRAM, "inspect", "after"], says=[before]).splitlines()
    assert not any(line.startswith("privacy of each") for line in lines), lines
    loss = metrics("learned", "train/loss")
    assert loss[-1] < 0.7 * loss[0], loss


def test_folder():
    """A simulation sets an earlier one's files aside, and waits for no other process in its folder."""
    simulate(1, "used", "simulation.rounds=6")
    simulate(2, "used", "simulation.rounds=3", says=["1 checkpoints that this run does not go on from are now in used/earlier"])
    assert len(metrics("used", "train/loss")) == 3 and len(metrics("used/earlier", "train/loss")) == 6
    assert json.loads(run([PROGRAM, "eval", "used"]))["step"] == 3
    files = checkpoints("used")
    with open("used/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        simulate(2, "used", status=1, says=["used: another process is at work in this folder"])
        run([PROGRAM, "quantize", "start", "--out", "used"], status=1, says=["used: another process"])
    assert checkpoints("used") == files
    # A quantized model would not be what later commands find in a folder with a later step.
    says = ["used/step-00000003.h5 is there already; name another folder by --out"]
    run([PROGRAM, "quantize", "start", "--out", "used"], status=1, says=says)
    assert checkpoints("used") == files


def test_mistakes():
    for options, status, says in [
        (["moe.balancer=bias"], 1, "loads of all clients' experts"),
        (["image.norm=batch"], 1, "running statistics"),
        (["moe.gate=expert_choice"], 1, "the parts that a client's step is computed in"),
        (["quantization.enabled=true", "quantization.activations=tensor"], 1, "ranges are no part"),
        (["quantization.enabled=true", "quantization.start_step=5"], 1, "counts rounds; set it to 0"),
        (["strategy.name=median"], 1, "take a strategy that needs no more"),
        (["simulation.cohort=9"], 2, "is more than simulation.clients = 8"),
        (["simulation.client=9"], 2, "the nearest is simulation.clients"),
        (["client_privacy.adaptive=true"], 2, "is for privacy"),
        (["client_privacy.epsilon=1", "client_privacy.delta=0.1", "simulation.clients=10"], 2, "publish all data of one of them"),
        (["model.hiden=9"], 2, "the nearest is model.hidden"),
    ]:
        simulate(1, "wrong", *options, status=status, says=[says])
    # A model of images has no tokenizer, and none may be learned from clients' texts.
    runs.prepare()
    texts = ["simulation.recipe=tiny.toml", "model.bigrams=0", "train.start_from=start"]
    says = ["start/step-00000000.h5: it has no tokenizer", "in train.start_from"]
    simulate(1, "told", *texts, "client_privacy.noise_multiplier=1", "client_privacy.delta=1e-3", status=1, says=says)
    nothing = [*texts[:-1], "train.start_from="]
    simulate(1, "told", *nothing, "client_privacy.noise_multiplier=1", "client_privacy.delta=1e-3", status=1, says=says[1:])


def main():
    prepare()
    Path("simulation.toml").write_text(SIMULATION)
    run([PROGRAM, "federate", "initialize", "images.toml", "--out", "start", "--set=moe.balancer=none"])
    tests = [test_one_step, test_mean, test_parts, test_ranks, test_privacy, test_noise, test_allocations, test_learns, test_folder, test_mistakes]
    for test in tests:
        test()


if __name__ == "__main__":
    main()
