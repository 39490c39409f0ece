"""A model that learns to caption images writes the right captions."""

import json
import os
from pathlib import Path

from e2e.images_test import write_png
from runs import PROGRAM, run

COLOURS = {"scarlet": (220, 30, 30), "green": (30, 200, 40), "deep blue": (30, 40, 220)}
SIDE = 8

RECIPE = """
[data]
source = "image_folder"
path = "images"
vocabulary = 64
max_length = 12
[tasks]
classify = 0
caption = 1
[image]
size = 8
stem = 8
blocks = ["k3 x2 c8 s2 relu", "k3 x2 c16 s2 hs"]
tokens = "grid"
[model]
hidden = 32
layers = 2
heads = 2
ffn = 32
dropout = 0
embedding_dropout = 0
[moe]
experts = 4
[train]
batch_tokens = 256
steps = 60
learning_rate = 1e-2
label_smoothing = 0
evaluate_every = 1000000
"""


def prepare():
    for split, count in (("train", 12), ("validation", 2), ("test", 4)):
        for name, colour in COLOURS.items():
            folder = Path("images", split, name)
            folder.mkdir(parents=True)
            for i in range(count):
                shade = tuple(max(0, value - 3 * i) for value in colour)
                write_png(folder / f"{i}.png", SIDE, [shade] * SIDE * SIDE)
    Path("captions.toml").write_text(RECIPE)


def caption(*arguments, **how):
    return [json.loads(line) for line in run([PROGRAM, "caption", *arguments], **how).splitlines()]


def refuses(*arguments, says, status=1):
    run([PROGRAM, "caption", *arguments], status=status, says=says)


def main():
    prepare()
    run([PROGRAM, "train", "captions.toml", "--set=run.directory=captions"])
    files = [f"--image=images/test/{name}/0.png" for name in COLOURS]
    greedy = caption("captions", *files)
    assert [line["caption"] for line in greedy] == list(COLOURS), greedy
    assert [f"--image={line['image']}" for line in greedy] == files, greedy
    assert all(-1 < line["log_probability"] <= 0 for line in greedy), greedy
    assert caption("captions", *files, "--beam=1") == caption("captions", *files, "--top-p=1e-9") == greedy
    beam = caption("captions", *files, "--beam=4", "--length-penalty=0")
    assert [line["caption"] for line in beam] == list(COLOURS), beam
    draw = ["--top-p=0.9", "--temperature=3", "--seed=7", "--max-tokens=5"]
    assert caption("captions", *files, *draw) == caption("captions", *files, *draw)

    *lines, summary = caption("captions", "--split=test")
    assert len(lines) == summary["images"] == 12 and summary["split"] == "test", summary
    assert all(line["references"] == [line["caption"]] for line in lines), lines
    assert summary["cider_d"] > 0 and summary["bleu_4"] == 0, summary  # captions of one or two words have no 4-grams

    refuses("captions", says=["either --image FILE or --split"])
    refuses("captions", *files, "--split=test", status=2, says=["--image excludes --split"])
    refuses("captions", *files, "--beam=2", "--top-p=0.5", status=2, says=["--beam excludes --top-p"])
    refuses("captions", *files, "--temperature=2", status=2, says=["--temperature requires --top-p"])
    refuses("captions", "--image=no.png", says=["no.png", "give a PNG or JPEG file"])
    refuses("captions", *files, "--max-tokens=13", says=["captions of 13 tokens", "at most 12"])
    sets = [f"--set={option}" for option in ("run.directory=classes", "tasks.classify=1", "tasks.caption=0")]
    run([PROGRAM, "train", "captions.toml", *sets, "--set=train.steps=1"])
    refuses("classes", *files, says=["not trained to caption", "--set tasks.caption=1"])


if __name__ == "__main__":
    main()
