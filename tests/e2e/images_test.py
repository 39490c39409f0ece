"""Training on images, read from idx files, by one process and by several, stopped and resumed."""

import gzip
import os
import random
import struct
from pathlib import Path

from runs import PROGRAM, assert_same_losses, assert_same_weights, checkpoints, losses, run

SIDE, CLASSES = 8, 10

RECIPE = """
[run]
log_every = 1
[data]
source = "fashion_mnist"
path = "idx"
[image]
stem = 8
blocks = ["k3 x2 c8 s2 se relu", "k5 x2 c16 s2 hs"]
flip = true
erase = 0.2
[model]
hidden = 16
layers = 1
heads = 2
ffn = 16
dropout = 0.05
embedding_dropout = 0.05
[moe]
experts = 4
[train]
batch_tokens = 32
steps = 40
learning_rate = 1e-2
epsilon = 1e-5  # what is nothing but rounding, as gradients of weights before a normalization may be, moves nothing
evaluate_every = 1000000
[checkpoint]
every = 20
keep = 10
"""


def write_idx(name, *shape, values):
    header = struct.pack(">BBBB", 0, 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    with gzip.open(Path("idx", name), "wb") as file:
        file.write(header + bytes(values))


def prepare():
    """A bright row for each class below 8, one of two columns for the others, in noise."""
    Path("idx").mkdir()
    draw = random.Random(1)
    for name, count in (("train", 600), ("t10k", 60)):
        labels = [draw.randrange(CLASSES) for _ in range(count)]
        pixels = []
        for label in labels:
            for y in range(SIDE):
                for x in range(SIDE):
                    bright = y == label if label < 8 else x in (2 * (label - 8) + 2, 7 - 2 * (label - 8) - 2)
                    pixels.append(draw.randrange(60) + (180 if bright else 0))
        write_idx(f"{name}-images-idx3-ubyte.gz", count, SIDE, SIDE, values=pixels)
        write_idx(f"{name}-labels-idx1-ubyte.gz", count, values=labels)
    Path("images.toml").write_text(RECIPE)


def train(ranks, directory, *options, resume=None, program=PROGRAM, **how):
    start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    sets = [f"--set={option}" for option in (f"run.directory={directory}", *options)]
    resumed = [f"--resume={resume}"] if resume else []
    return run([*start, program, "train", "images.toml", *sets, *resumed], **how)


def main():
    prepare()
    for norm in ("group", "batch"):
        one = f"{norm}1"
        train(1, one, f"image.norm={norm}", says=["550 training, 50 validation, 60 test images in 10 classes"])
        assert losses(one)[40] < 0.8 * losses(one)[1], "it learns nothing"
        for ranks in (2, 4):
            train(ranks, f"{norm}{ranks}", f"image.norm={norm}")
            assert_same_losses(one, f"{norm}{ranks}")
        os.mkdir(f"{norm}_resumed")
        train(1, f"{norm}_resumed", f"image.norm={norm}", resume=checkpoints(one)[0], says=["at step 20"])
        assert_same_weights(one, f"{norm}_resumed")
        told = run([PROGRAM, "eval", one])
        assert '"accuracy":' in told, told

    # Every pixel that the blocks leave, of 2 x 2, is a row of its own.
    train(1, "grid", "image.tokens=grid", "train.batch_tokens=128", "train.steps=4")
    train(2, "grid2", "image.tokens=grid", "train.batch_tokens=128", "train.steps=4")
    assert_same_losses("grid", "grid2")

    run([PROGRAM, "predict", "group1"], status=1, says=["trained on images alone"])
    train(1, "wrong", "model.bigrams=10", status=2, says=["model.bigrams = 10", "is for texts"])
    Path("idx/train-labels-idx1-ubyte.gz").unlink()
    train(1, "missing", status=1, says=["train-labels-idx1-ubyte"])


if __name__ == "__main__":
    main()
