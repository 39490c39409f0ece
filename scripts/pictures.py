"""Draws README's pictures from trained runs, into recipes/pictures."""

import json
import sys
from pathlib import Path

import matplotlib
from peers.emoji import picture, read
from PIL import Image
from reproduction import CONCLAVE, OUT, call

matplotlib.use("agg")
import matplotlib.pyplot as plt

PICTURES = Path("recipes/pictures")
ROWS, COLUMNS = 4, 6  # of captions


def save(figure, name):
    """Saves a PNG with few colours, so that the file is small."""
    path = PICTURES / name
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)
    print(path)


def needed(directory, command):
    if not directory.exists():
        sys.exit(f"reproduce: {directory} is missing; `{command}` makes it")
    return directory


def clothes(runs):
    run = needed(runs / "fashion_generate", "scripts/train recipes/fashion_generate.toml")
    print(call([CONCLAVE, "generate", run, "--count", "10", "--out", PICTURES / "fashion_generate.png"]), end="")


def captions(runs):
    """The model's captions for test emoji, evenly spaced in their order; none is picked by hand."""
    run = needed(runs / "emoji_caption", "scripts/train recipes/emoji_caption.toml")
    said = call([CONCLAVE, "caption", run, "--split", "test", "--beam", "4"])
    lines = [line for line in map(json.loads, said.splitlines()) if "caption" in line]
    pngs = {emoji.name: emoji.png for emoji in read()}
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(9, 6.4))
    for i, axis in enumerate(axes.flat):
        line = lines[i * len(lines) // axes.size]
        name = line["references"][0]
        axis.imshow(picture(pngs[name], 64, Image.BOX))
        axis.set_axis_off()
        axis.text(0.5, -0.06, line["caption"], transform=axis.transAxes, ha="center", va="top", fontsize=8, wrap=True)
        axis.text(0.5, -0.22, name, transform=axis.transAxes, ha="center", va="top", fontsize=7, color="grey", wrap=True)
    figure.subplots_adjust(hspace=0.45, wspace=0.5)
    save(figure, "emoji_caption.png")


def modality_weights():
    """The weight of images during training with cross fusion, from both initial values; one line for each seed."""
    folder = needed(OUT / "emoji", "scripts/reproduce --only emoji")
    figure, axis = plt.subplots(figsize=(5, 3))
    for variant, start, colour in ("cross", 0.5, "C0"), ("cross-0.7", 0.7, "C1"):
        for k, file in enumerate(sorted(folder.glob(f"{variant}/seed-*/metrics.jsonl"))):
            records = [record for record in map(json.loads, file.read_text().splitlines()) if "modality/image" in record]
            axis.plot([0, *(r["step"] for r in records)], [start, *(r["modality/image"] for r in records)], color=colour,
                      lw=1, label=None if k else f"from {start}")
    axis.set(xlabel="step", ylabel="weight of the image", ylim=(0, 1), title="emoji's groups, model.fusion = \"cross\"")
    axis.legend(frameon=False)
    save(figure, "modality_weights.png")


def draw(runs):
    clothes(runs)
    captions(runs)
    modality_weights()
