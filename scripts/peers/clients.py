"""The clients of a simulation and their training, in PyTorch: for scripts/bench_peers --simulation.

Shared by pfl_simulation.py and flower_simulation.py, which print one JSON object: clients_per_second is the
median of the rounds after the first.
"""

import argparse
import json
import statistics
import tomllib

import torch
from torch.nn import functional as F

from torch_images import TRAINING, Classifier, read_idx


def read_arguments(description):
    """Parses the command line; returns the arguments, the model's recipe and the simulation's tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", help="complete, as `conclave recipe show` prints it")
    parser.add_argument("simulation", help="recipes/simulations/fashion_clients.toml")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--parameters", type=int, help="of Conclave's model; it is an error to have others")
    parser.add_argument("--out", help="a file for the result; standard output if left out")
    arguments = parser.parse_args()
    tables = []
    for path in (arguments.recipe, arguments.simulation):
        with open(path, "rb") as file:
            tables.append(tomllib.load(file))
    return arguments, *tables


def model_of(recipe, parameters=None):
    torch.manual_seed(recipe["run"]["seed"])
    model = Classifier(recipe)
    count = sum(parameter.numel() for parameter in model.parameters())
    if parameters not in (None, count):
        raise SystemExit(f"the twin in PyTorch has {count} parameters, Conclave's model {parameters}: it is not the "
                         "same model")
    return model


def examples_of(recipe, number):
    """(pixels, labels) of each client that has examples. Training images are assigned to `number` clients at random."""
    directory = recipe["data"]["path"] or "/usr/share/datasets/fashion-mnist"
    images = read_idx(f"{directory}/train-images-idx3-ubyte.gz")[:TRAINING].unsqueeze(1)
    labels = read_idx(f"{directory}/train-labels-idx1-ubyte.gz")[:TRAINING].long()
    owners = torch.randint(number, (TRAINING,), generator=torch.Generator().manual_seed(1))
    order, sizes = owners.argsort(), owners.bincount(minlength=number).tolist()
    parts = zip(images[order].split(sizes), labels[order].split(sizes))
    return [(pixels, answers) for pixels, answers in parts if len(answers) > 0]


def loss_of(model, pixels, labels):
    return F.cross_entropy(model(pixels), labels)


def tell(arguments, cohort, seconds, version):
    """Prints the result or writes it to --out. seconds: the times when the first round began and each round ended."""
    speeds = [cohort / (after - before) for before, after in zip(seconds[1:], seconds[2:])]
    result = json.dumps({"clients_per_second": statistics.median(speeds), "rounds": speeds, "version": version})
    if arguments.out is None:
        print(result)
    else:
        with open(arguments.out, "w") as file:
            file.write(result)
