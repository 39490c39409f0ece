"""Training on images, read from idx files, by one process and by several, stopped and resumed."""

import gzip
import json
import os
import random
import shutil
import struct
import zlib
from pathlib import Path

import h5py

from runs import PROGRAM, assert_same_losses, assert_same_weights, checkpoints, losses, run

SIDE, CLASSES = 8, 10
EMOJI = Path(os.environ["CONCLAVE_SOURCE"], "recipes/emoji_group.toml")
NAMES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # of PNG, by number of channels

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


def png(width, height, channels, rows):
    """The bytes of a PNG. `rows` are the bytes of its pixels, each row after a byte 0."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_rows(png):
    """The rows of a PNG's pixels [height, bytes], for depths of 8 bits."""
    chunks, at = {}, 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        chunks[kind] = chunks.get(kind, b"") + png[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, _, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    pixel = {kind: channels for channels, kind in COLOUR_TYPES.items()}[colour]
    data, above, rows = zlib.decompress(chunks[b"IDAT"]), [0] * (width * pixel), []
    for y in range(height):
        kind, *row = data[y * (width * pixel + 1) : (y + 1) * (width * pixel + 1)]
        for i in range(len(row)):
            left, up = row[i - pixel] if i >= pixel else 0, above[i]
            corner = above[i - pixel] if i >= pixel else 0
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))  # Paeth's
            row[i] = (row[i] + (0, left, up, (left + up) // 2, nearest)[kind]) % 256
        rows.append(row)
        above = row
    return rows


def write_png(name, width, pixels):
    """Writes a PNG; `pixels` are tuples of channels, row by row."""
    height = len(pixels) // width
    rows = b"".join(b"\0" + bytes(sum(pixels[y * width : (y + 1) * width], ())) for y in range(height))
    Path(name).write_bytes(png(width, height, len(pixels[0]), rows))


def read_idx(name):
    return gzip.decompress(Path("idx", name).read_bytes())


def prepare():
    """Writes the recipe and the images: classes below 8 have a bright row, the others a bright column, in noise."""
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


def train(ranks, directory, *options, resume=None, program=PROGRAM, device="auto", **how):
    start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    sets = [f"--set={option}" for option in (f"run.directory={directory}", *options)]
    resumed = [f"--resume={resume}"] if resume else []
    return run([*start, program, "train", "images.toml", "--device", device, *sets, *resumed], **how)


def predict(checkpoint, *arguments, **how):
    return [json.loads(line) for line in run([PROGRAM, "predict", checkpoint, *arguments], **how).splitlines()]


def predictions_are_those_of_the_test_split(checkpoint):
    pixels = read_idx("t10k-images-idx3-ubyte.gz")[16:]
    labels = read_idx("t10k-labels-idx1-ubyte.gz")[8:]
    pictures = [pixels[i : i + SIDE * SIDE] for i in range(0, len(pixels), SIDE * SIDE)]
    names = [f"{i}.png" for i in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        write_png(name, SIDE, [(value,) for value in picture])
    Path("names").write_text("\n".join(names))
    with open("names") as file:
        found = predict(checkpoint, stdin=file)
    assert [line["image"] for line in found] == names and "text" not in found[0], found[0]
    right = sum(line["class"] == NAMES[label] for line, label in zip(found, labels, strict=True))
    accuracy = json.loads(run([PROGRAM, "eval", checkpoint]).splitlines()[-1])["accuracy"]
    assert abs(right / len(labels) - accuracy) < 1e-6, (right, accuracy)

    # Colours become grey, transparent pixels white, and larger pictures are scaled down.
    picture = [255 if value > 120 else value for value in pictures[0]]
    write_png("grey.png", SIDE, [(value,) for value in picture])
    write_png("colour.png", SIDE, [(value, value, value) for value in picture])
    write_png("alpha.png", SIDE, [(0, 0, 0, 0) if value == 255 else (value, value, value, 255) for value in picture])
    write_png("large.png", 2 * SIDE, [(picture[y // 2 * SIDE + x // 2],) for y in range(16) for x in range(16)])
    # A wide or high picture is cropped to its middle, as in data sets.
    wide = [(picture[y * SIDE + x - SIDE] if SIDE <= x < 2 * SIDE else 77,) for y in range(SIDE) for x in range(3 * SIDE)]
    write_png("wide.png", 3 * SIDE, wide)
    grey, colour, alpha, wide, large = predict(
        checkpoint, *(f"--image={kind}.png" for kind in ("grey", "colour", "alpha", "wide", "large")), "--top=10"
    )
    assert grey["top"] == colour["top"] == alpha["top"] == wide["top"] != large["top"], (grey, colour, alpha, wide)
    assert grey["class"] == large["class"], (grey, large)


def running_statistics_are_averaged():
    """With train.ema, what batch normalization has counted is averaged like the weights."""
    shutil.copy(checkpoints("batch1")[0], "changed.h5")
    with h5py.File("changed.h5", "r+") as file:
        names = []
        file["model"].visit(lambda name: names.append(name) if name.endswith(("running_mean", "running_var")) else None)
        assert names, list(file["model"])
        for name in names:
            assert abs(file["model"][name][()] - file["optimizer/trained"][name][()]).max() > 0, name
            del file["optimizer/trained"][name]
    options = ["image.norm=batch", "run.seed=2", "train.ema=0.9"]
    train(1, "refused", *options, resume="changed.h5", status=1, says=["changed.h5", "running_"])


def texts_and_images():
    write_png("red.png", 5, [(200, 30, 30)] * 25)
    sets = [f"--set={option}" for option in ("run.directory=emoji", "train.start_from=", "train.steps=2", "image.size=16")]
    run([PROGRAM, "train", EMOJI, *sets])
    images = ["--image=red.png", "--image", "", "--image=red.png"]
    both, text, image = predict("emoji", "red heart", "red heart", "", *images)
    assert (both["image"], both["text"]) == ("red.png", "red heart") and "image" not in text and "text" not in image
    assert len({both["probability"], text["probability"], image["probability"]}) == 3
    Path("pairs").write_text("red.png\tred heart\nred heart\nred.png\t\n")
    with open("pairs") as file:
        assert predict("emoji", stdin=file) == [both, text, image]
    # An unreadable image has an error in its line, and the exit status is 1.
    Path("pairs").write_text("red.png\tred heart\r\nnowhere.png\tred heart\nred heart\n")
    with open("pairs") as file:
        first, missing, last = predict("emoji", stdin=file, status=1)
    assert (first, last) == (both, text) and missing["image"] == "nowhere.png", (first, missing, last)
    assert "cannot be opened" in missing["error"] and "class" not in missing, missing
    run([PROGRAM, "predict", "emoji", "one", "two", "--image=red.png"], status=1, says=["2 texts and 1 images"])
    # A table of texts is evaluated as texts without images.
    Path("own.csv").write_text(f"text,label\nred heart,{both['class']}\n")
    judged = json.loads(run([PROGRAM, "eval", "emoji", "--data", "own.csv"]))
    assert judged["examples"] == 1 and judged["accuracy"] == (text["class"] == both["class"]), (judged, text, both)
    run([PROGRAM, "eval", "group1", "--data", "own.csv"], status=1, says=["a table has texts and their classes"])


def fusions():
    for fusion, numbers_of_ranks in (("cross", (1, 2, 4)), ("late", (1, 4))):
        for ranks in numbers_of_ranks:
            sets = [f"run.directory={fusion}{ranks}", f"model.fusion={fusion}", "train.steps=2", "image.size=16"]
            sets += ["train.start_from=", "train.batch_tokens=512", "run.log_every=1", "model.image_weight=0.7"]
            start = ["mpirun", "--oversubscribe", "-n", str(ranks)]
            says = ["modality weights: image 0.70, text 0.30"] if fusion == "cross" else []
            run([*start, PROGRAM, "train", EMOJI, *(f"--set={option}" for option in sets)], says=says)
            if ranks > 1:
                assert_same_losses(f"{fusion}1", f"{fusion}{ranks}")
    lines = list(map(json.loads, Path("cross1", "metrics.jsonl").read_text().splitlines()))
    weights = [line["modality/image"] for line in lines if "modality/image" in line]
    assert weights and all(0 < abs(weight - 0.7) < 0.01 for weight in weights), weights
    shares = [line["test/layers.0.moe/image_share"] for line in lines if "test/layers.0.moe/image_share" in line]
    assert len(shares) == 1 and len(shares[0]) == 8 and 0 < max(shares[0]) <= 1, shares
    run([PROGRAM, "inspect", "cross1"], says=[f"classify: image_weight {weights[0]:.4f}"])


def main():
    prepare()
    for norm in ("group", "batch"):
        one = f"{norm}1"
        # Not seed 1: there, the scores of two experts for an image in step 8 are so close that rounding decides.
        options = [f"image.norm={norm}", "run.seed=2", *(["train.ema=0.9"] if norm == "batch" else [])]
        train(1, one, *options, says=["550 training, 50 validation, 60 test images in 10 classes"])
        assert losses(one)[40] < 0.8 * losses(one)[1], "it learns nothing"
        for ranks in (2, 4):
            train(ranks, f"{norm}{ranks}", *options)
            assert_same_losses(one, f"{norm}{ranks}")
        os.mkdir(f"{norm}_resumed")
        train(1, f"{norm}_resumed", *options, resume=checkpoints(one)[0], says=["at step 20"])
        assert_same_weights(one, f"{norm}_resumed")
        predictions_are_those_of_the_test_split(one)

    running_statistics_are_averaged()

    # The blocks leave 2 x 2 pixels, each of which is a row.
    train(1, "grid", "image.tokens=grid", "train.batch_tokens=128", "train.steps=4")
    train(2, "grid2", "image.tokens=grid", "train.batch_tokens=128", "train.steps=4")
    assert_same_losses("grid", "grid2")

    run([PROGRAM, "predict", "group1", "a text"], status=1, says=["classifies images alone", "--image FILE"])
    run([PROGRAM, "predict", "group1", "--image=no.png"], status=1, says=["no.png", "give a PNG or JPEG file"])
    run([PROGRAM, "predict", "group1", "--image=images.toml"], status=1, says=["images.toml: "])
    texts_and_images()
    fusions()
    train(1, "wrong", "train.start_from=emoji", status=1, says=["no tensor of emoji/step-00000002.h5 has the name and shape"])
    train(1, "wrong", "model.bigrams=10", status=2, says=["model.bigrams = 10", "is for texts"])
    Path("idx/train-labels-idx1-ubyte.gz").unlink()
    train(1, "missing", status=1, says=["train-labels-idx1-ubyte"])


if __name__ == "__main__":
    main()
