"""Differentially private training: its messages, its refusals, and its end when the budget is spent."""

import json
import sqlite3
from pathlib import Path

import h5py

import runs
from e2e.images_test import prepare, train
from runs import PROGRAM, checkpoints, run, weights

PRIVATE = ["privacy.unit=record", "moe.balancer=none", "train.clip_norm=0", "privacy.batch=55", "image.erase=0"]
# Practically no noise, and every example in every step.
ALL = [*PRIVATE, "privacy.batch=550", "privacy.noise_multiplier=1e-6", "privacy.clip_norm=100", "train.steps=12"]


def metrics(directory, key):
    lines = map(json.loads, Path(directory, "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[key] for line in lines if key in line}


def notes(directory):
    with h5py.File(checkpoints(directory)[-1]) as file:
        return json.loads(bytes(file["state/metadata"][()]))


def close(one, other):
    return all(abs(a - b) < 3e-3 * max(abs(a), 1) for a, b in zip(one, other, strict=True))


def test_clients():
    """Privacy of whole clients: the mean gradient of a client's texts is clipped, on any number of ranks."""
    runs.prepare()
    still = ["model.bigrams=0", "moe.balancer=none", "train.clip_norm=0", "model.dropout=0", "model.token_dropout=0", "model.embedding_dropout=0"]
    sets = [f"--set={key}" for key in [*still, "data.client_column=who"]]
    run([PROGRAM, "federate", "initialize", "tiny.toml", "--out", "public", *sets])
    clients = [*still, "train.start_from=public", "train.steps=4", "data.client_column=who", "privacy.unit=client"]
    everybody = [*clients, "privacy.rate=1", "privacy.noise_multiplier=1e-6", "privacy.clip_norm=0.3"]
    found = []
    for ranks in (1, 2):
        says = ["privacy: of 4 steps with 10 of 10 clients on average"]
        runs.train(ranks, f"clients{ranks}", *everybody, says=says)
        found.append(list(metrics(f"clients{ranks}", "train/gradient_norm").values()))
    assert close(*found) and 0 < max(found[0]) <= 0.3, found
    says = ["privacy: of 4 steps with 2 of 10 clients on average", "epsilon"]
    runs.train(1, "persons", *clients, "privacy.batch=2", "privacy.noise_multiplier=1", "privacy.delta=1e-3", says=says)
    spent = run([PROGRAM, "privacy", "epsilon", "--noise", "1", "--rate", "0.2", "--steps", "4", "--delta", "1e-3"])
    assert abs(float(spent.split()[1]) - metrics("persons", "privacy/epsilon")[4]) < 1e-3, spent
    noise = ["privacy.batch=2", "privacy.noise_multiplier=1", "privacy.delta=1e-3", "data.client_column="]
    runs.train(1, "nobody", *clients, *noise, status=2, says=["which client does a row belong to?"])
    records = [*clients, "privacy.unit=record", "privacy.batch=2", "privacy.noise_multiplier=1", "privacy.delta=1e-3"]
    resumed = ["privacy.rate=0.2", "train.steps=5"]
    # A model of images has no tokenizer, and none may be learned from the texts that are to be hidden.
    run([PROGRAM, "federate", "initialize", "images.toml", "--out", "pictures"])
    pictures = [*records, "train.start_from=pictures"]
    runs.train(1, "told", *pictures, status=1, says=["pictures/step-00000000.h5: it has no tokenizer", "in train.start_from"])
    assert not Path("told").exists()
    runs.train(1, "records", *records, *resumed, resume=checkpoints("persons")[0], status=1, says=["its unit of privacy was a client"])


def main():
    prepare()
    test_clients()
    # With a huge bound and practically no noise, it equals training on the whole split, on any number of ranks.
    plain = ["train.steps=12", "train.batch_tokens=600", "train.clip_norm=0", "moe.balancer=none", "image.erase=0"]
    still = ["image.flip=false", "model.dropout=0", "model.embedding_dropout=0"]  # these are random in every run
    train(1, "plain", *plain, *still)
    expected = metrics("plain", "train/gradient_norm")
    assert len(expected) == 12, expected
    for ranks in (1, 2, 4):
        train(ranks, f"all{ranks}", *ALL, *still, says=["each with probability 1.00000"])
        found = metrics(f"all{ranks}", "train/gradient_norm")
        assert close(list(expected.values()), list(found.values())), (ranks, expected, found)

    # So are changes to images: if they followed from an image's index, one image less would change all later ones.
    first_losses = []
    for flips in ("image.flip=false", "image.flip=false", "image.flip=true", "image.flip=true"):
        train(1, "flips", *ALL, *still, flips, "train.steps=1")
        first_losses.append(metrics("flips", "train/loss")[1])
    assert first_losses[0] == first_losses[1] and len(set(first_losses)) == 3, first_losses

    # A batch larger than the split has all examples.
    train(1, "more", *ALL, *still, "privacy.batch=5500", says=["with 550 of 550 examples on average (each with probability 1"])
    found = metrics("more", "train/gradient_norm")
    assert close(list(expected.values()), list(found.values())), (expected, found)

    # The bound holds: if no example's gradient is longer than a thousandth, neither is their mean.
    train(1, "clipped", *ALL, *still, "privacy.clip_norm=0.001")
    assert all(0 < norm <= 0.001 for norm in metrics("clipped", "train/gradient_norm").values())

    # A budget determines the noise, and the final epsilon is within the budget.
    says = ["privacy: of 40 steps with 55 of 550 examples on average", "at delta 0.001"]
    train(2, "budget", *PRIVATE, "privacy.epsilon=5", "privacy.delta=1e-3", says=says)
    epsilons = metrics("budget", "privacy/epsilon")
    assert list(epsilons) == list(range(1, 41)) and 4.9 < epsilons[40] <= 5, epsilons
    assert all(epsilons[step] <= epsilons[step + 1] for step in range(1, 40)), epsilons
    # With a given noise, the budget ends training: one more step would exceed it.
    noise = ["privacy.noise_multiplier=1", "privacy.delta=1e-3"]
    train(1, "stops", *PRIVATE, *noise, "privacy.epsilon=2", says=["the budget of 2 has no room for the other"])
    epsilons = list(metrics("stops", "privacy/epsilon").values())
    assert 0 < len(epsilons) < 40 and epsilons[-1] <= 2, epsilons
    train(1, "goes_on", *PRIVATE, *noise, f"train.steps={len(epsilons) + 1}")
    assert metrics("goes_on", "privacy/epsilon")[len(epsilons) + 1] > 2
    assert metrics("all1", "privacy/epsilon")[1] is None, "as good as no noise is no privacy"
    little = ["privacy.noise_multiplier=0.01", "privacy.epsilon=5", "privacy.delta=1e-3"]
    train(1, "none", *PRIVATE, *little, status=1, says=["less than 0.05 is no privacy"])
    train(1, "none", *PRIVATE, *noise, "privacy.epsilon=0.01", status=1, says=["one step with privacy.noise_multiplier"])

    # A loss that is not finite does not end training, which would reveal the example. Weights that are not finite do.
    overflow = ["train.learning_rate=10", "train.weight_decay=10", "train.warmup=0", "train.schedule=constant", "train.steps=25"]
    says = ["the weights are not finite, rank 0: first those of ", "train.learning_rate"]
    for ranks in (1, 2):
        train(ranks, f"overflow{ranks}", *PRIVATE, *noise, *overflow, status=1, says=says)
    losses = list(metrics("overflow1", "train/loss").values())
    assert losses[-2:] == [None, None], losses

    # The seed does not determine the noise: only that differs here, as every step has every example.
    noisy = [*ALL, *still, "privacy.noise_multiplier=1", "privacy.delta=1e-3", "privacy.clip_norm=1", "train.steps=2"]
    for directory in ("noisy1", "noisy2"):
        train(1, directory, *noisy)
    first, second = (weights(checkpoints(directory)[-1]) for directory in ("noisy1", "noisy2"))
    assert first.keys() == second.keys() and all(first[name] != second[name] for name in first), first.keys()
    # Nor does it determine the sampled examples, whose loss in the first step the noise cannot change.
    samples = []
    for _ in range(2):
        train(1, "sampled", *ALL, *still, "privacy.batch=55", "train.steps=1")
        samples.append(metrics("sampled", "train/loss")[1])
    assert samples[0] != samples[1], samples

    # A resumed run continues with the spent epsilon and the same noise.
    # A ledger that it was not in gets its steps first, once however often it is resumed.
    late = ["privacy.epsilon=5", "privacy.delta=1e-3", "privacy.ledger=ledgers/late.sqlite"]
    halfway = metrics("budget", "privacy/epsilon")[20]
    lacked = f"earlier runs spent an epsilon of {halfway:.4f}, including the 20 steps of the checkpoint, which were missing"
    train(2, "again", *PRIVATE, *late, resume=checkpoints("budget")[0], says=["at step 20", lacked])
    train(1, "beyond", *PRIVATE, *late, resume=checkpoints("budget")[0], status=1, says=["and with the 20 steps of this one"])
    with sqlite3.connect("ledgers/late.sqlite") as database:
        assert database.execute("SELECT round, steps FROM spends").fetchall() == [(20, 20), (40, 20)]
    database.close()
    # Nothing that was measured is in it, nor will be in what is made of it.
    assert not {"metrics", "routing"} & notes("again").keys()
    spent = f"privacy of each record: 40 steps, epsilon {metrics('again', 'privacy/epsilon')[40]:.4f} at delta 0.001, noise multiplier "
    run([PROGRAM, "inspect", "again"], says=["none listed: a private model's checkpoint has no measurements", spent])
    quantize = [PROGRAM, "quantize", "again", "--out", "integers"]
    run([*quantize, "--set=quantization.activations=tensor"], status=1, says=["the model was trained with privacy"])
    run(quantize, says=["times smaller"])
    run([PROGRAM, "eval", "integers"])
    assert notes("integers")["privacy"] == notes("again")["privacy"]
    # A run without privacy goes on from it, and says what was spent before.
    train(1, "open", *PRIVATE[1:3], resume=checkpoints("budget")[0])
    halfway_spent = f"privacy of each record: 20 steps, epsilon {halfway:.4f} at delta 0.001, noise multiplier "
    run([PROGRAM, "inspect", "open"], says=["the model that it started from: " + halfway_spent])
    other = ["privacy.epsilon=6", "privacy.delta=1e-3"]
    train(1, "again", *PRIVATE, *other, resume=checkpoints("budget")[0], status=1, says=["its steps had noise of"])
    train(1, "again", *PRIVATE, *noise, resume=checkpoints("plain")[0], status=1, says=["trained without privacy"])

    # Runs with the same ledger share one budget: here a run, and a branch of it that repeats some of its steps.
    shared = [*PRIVATE, "privacy.noise_multiplier=1", "privacy.delta=1e-3", "privacy.ledger=ledgers/all.sqlite"]
    train(2, "first", *shared, "train.steps=40", "checkpoint.every=20", says=["earlier runs spent an epsilon of 0.0000"])
    spent = metrics("first", "privacy/epsilon")
    branch = train(1, "branch", *shared, resume=checkpoints("first")[0], says=[f"earlier runs spent an epsilon of {spent[40]:.4f}"])
    will = float(branch.split("with this one it will be ")[1].split()[0])
    sixty = run([PROGRAM, "privacy", "epsilon", "--noise", "1", "--rate", "0.1", "--steps", "60", "--delta", "1e-3"])
    assert abs(will - float(sixty.split()[1])) < 2e-3, (will, sixty)
    train(1, "beyond", *shared, f"privacy.epsilon={will + 0.1}", status=1, says=["take fewer steps, or more noise"])
    with sqlite3.connect("ledgers/all.sqlite") as database:
        assert database.execute("SELECT run, round, steps FROM spends").fetchall() == [("first", 20, 20), ("first", 40, 20), ("branch", 40, 20)]
    database.close()

    train(1, "wrong", *PRIVATE, "privacy.epsilon=5", "image.norm=batch", status=2, says=["normalized together with the others"])
    train(1, "wrong", *PRIVATE, "privacy.epsilon=5", "privacy.delta=0.01", status=1, says=["publish all data of one of them"])
    says = ["the tokenizer would be learned from the training texts"]
    sets = [f"--set={key}" for key in (*PRIVATE, "privacy.epsilon=5", "data.source=wordnet")]
    run([PROGRAM, "train", "images.toml", *sets], status=2, says=says)


if __name__ == "__main__":
    main()
