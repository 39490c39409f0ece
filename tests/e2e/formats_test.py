"""Trains the recipes for GLUE, COCO, image folders and tables on small data of these formats, on one rank and two."""

import json
import math
import os
import random
import shutil
from pathlib import Path

from e2e.images_test import write_png
from runs import PROGRAM, assert_same_losses, run

SOURCE, FIXTURES = Path(os.environ["CONCLAVE_SOURCE"]), Path(os.environ["CONCLAVE_FIXTURES"])
SMALL = ["model.hidden=16", "model.heads=2", "model.ffn=16", "moe.experts=4", "train.steps=3", "run.log_every=1"]
SMALL += ["train.epsilon=1e-5", "train.batch_tokens=256", "checkpoint.every=0"]
draw = random.Random(1)


def train(recipe, directory, *options, ranks=(1, 2), says=(), status=0):
    for count in ranks:
        start = ["mpirun", "--oversubscribe", "-n", str(count)] if count > 1 else []
        sets = [f"--set={option}" for option in [*SMALL, *options, f"run.directory={directory}{count}"]]
        said = run([*start, PROGRAM, "train", SOURCE / "recipes" / recipe, *sets], says=says, status=status)
    if len(ranks) > 1:
        assert_same_losses(f"{directory}1", f"{directory}2")
    return said


def png(path, side, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, side, [tuple(colour)] * side * side)


def sentence():
    return " ".join(draw.choice(["a", "cat", "sat", "on", 'the "mat', "dog", "ran", "far"]) for _ in range(draw.randint(2, 9)))


def glue():
    tasks = {
        "CoLA": (None, lambda: ["gj04", draw.choice("01"), "*", sentence()]),
        "STS-B": (["index", "sentence1", "sentence2", "score"], lambda: ["0", sentence(), sentence(), f"{draw.uniform(0, 5):.3f}"]),
        "MNLI": (
            ["index", "sentence1", "sentence2", "gold_label"],
            lambda: ["0", sentence(), sentence(), draw.choice(["entailment", "neutral", "contradiction"])],
        ),
    }
    for task, (header, row) in tasks.items():
        folder = Path("glue", task)
        folder.mkdir(parents=True)
        for name, count in (("train", 150), ("dev", 20), ("dev_matched", 20), ("dev_mismatched", 25)):
            rows = ([header] if header else []) + [row() for _ in range(count)]
            (folder / f"{name}.tsv").write_text("".join("\t".join(one) + "\n" for one in rows))

    options = ["data.path=glue", "data.vocabulary=60", "data.max_length=16"]
    for task, classes, measure in (("cola", 2, "matthews"), ("stsb", 6, "spearman"), ("mnli", 3, "accuracy")):
        ranks = (1, 2) if task == "stsb" else (1,)
        says = [f"20 test texts in {classes} classes", f"{measure} "]
        train("glue.toml", task, *options, f"data.task={task}", ranks=ranks, says=says)
    one, two = (json.loads(run([PROGRAM, "eval", f"stsb{ranks}"]).splitlines()[-1]) for ranks in (1, 2))
    for measure in ("pearson", "spearman"):
        assert -1 <= one[measure] <= 1 and abs(one[measure] - two[measure]) < 1e-3, (one, two)
    said = json.loads(run([PROGRAM, "eval", "mnli1", "--set=data.task=mnli_mismatched"]).splitlines()[-1])
    assert said["examples"] == 25, said
    said = run([PROGRAM, "predict", "mnli1", "a cat\tsat", "a cat\tran on the mat"])
    one, other = (json.loads(line) for line in said.splitlines())
    assert one["text"] == "a cat\tsat" and one["probability"] != other["probability"], said
    # In a table of one's own, too, a tab divides the two texts.
    Path("pair.jsonl").write_text(json.dumps({"text": "a cat\tsat", "label": one["class"]}) + "\n")
    said = json.loads(run([PROGRAM, "eval", "mnli1", "--data", "pair.jsonl"]).splitlines()[-1])
    assert abs(said["loss"] + math.log(one["probability"])) < 1e-3, (said, one)

    # A table of one's own has none of GLUE's measures.
    Path("own.csv").write_text("text,label\na cat,acceptable\nthe mat,unacceptable\n")
    said = json.loads(run([PROGRAM, "eval", "cola1", "--data", "own.csv"]).splitlines()[-1])
    assert said["examples"] == 2 and "accuracy" in said and "matthews" not in said, said

    with open("glue/CoLA/train.tsv", "a") as file:
        file.write("gj04\t1\n")
    train("glue.toml", "broken", *options, ranks=(1,), status=1, says=["glue/CoLA/train.tsv:151: 2 columns, expected 4"])
    skipping = [*options, "data.skip_bad=true"]
    train("glue.toml", "skipping", *skipping, ranks=(2,), says=["warning: 1 left out", "CoLA/train.tsv:151"])


def table():
    rows = [f"{sentence()} {number},class {number % 2}" for number in range(150)]
    Path("table.csv").write_text("text,label\n" + "\n".join(row.replace('"', "") for row in rows) + "\n")
    options = ["data.source=table", "data.path=table.csv", "data.vocabulary=60", "data.max_length=16"]
    assert "warning" not in train("quick.toml", "table", *options, ranks=(1,), says=["in 2 classes"])
    with open("table.csv", "a") as file:
        file.write("no label\na cat,class 0,far\n")
    train("quick.toml", "bad", *options, ranks=(1,), status=1, says=["table.csv:152: 1 fields, but the header has 2"])
    train("quick.toml", "skipped", *options, "data.skip_bad=true", ranks=(2,), says=["warning: 2 left out", "table.csv:152"])

    # The hash of this text puts it into the test split. A warning is one line even if class names contain line breaks.
    with open("table.csv", "a") as file:
        file.write("".join(f'text number 8,"rare\n{number}"\n' for number in range(8)))
    said = train("quick.toml", "rare", *options, "data.skip_bad=true", ranks=(2,))
    warnings = [line for line in said.splitlines() if "8 of 10 classes have no training example" in line]
    assert len(warnings) == 1 and warnings[0].endswith(": rare 0, rare 1, rare 2, rare 3, rare 4 and 3 more"), said


def other_data():
    """Ranks that find other data than rank 0 end at once, all with the same message."""
    rows = [json.dumps({"text": sentence(), "label": draw.choice("ab")}) + "\n" for _ in range(400)]
    for folder, lines in (("rank0", rows), ("turned", rows[::-1]), ("fewer", rows[:300])):
        Path(folder).mkdir()
        Path(folder, "rows.jsonl").write_text("".join(lines))
    sets = [f"--set={option}" for option in [*SMALL, "data.source=table", "data.path=rows.jsonl", "run.directory=run"]]
    train = [PROGRAM, "train", SOURCE / "recipes/quick.toml", *sets]
    run(train, cwd="rank0")
    # A cache that cannot be written costs time, but not the run.
    says = ["warning: the tokenizer is not kept for later runs: /dev/null/conclave: ", "trained 3 steps"]
    run(train, cwd="turned", env=dict(os.environ, XDG_CACHE_HOME="/dev/null"), says=says)
    evaluate = [PROGRAM, "eval", Path("rank0/run").absolute()]
    for folder, says in (("turned", "as many there, but others or in another order"), ("fewer", "examples, ")):
        for command in (train, evaluate):
            start = ["mpirun", "--oversubscribe", "-n", "1", "-wd", "rank0", *command, ":", "-n", "1", "-wd", folder, *command]
            told = ["rank 1 has other data than rank 0: the training split (", says, "give every rank the same files"]
            run(start, status=1, says=told, timeout=30)


def image_folder():
    for name, colour in (("red", (250, 20, 30)), ("blue", (10, 20, 240))):
        for number in range(20):
            png(Path("images", name, f"{number}.png"), 5 + number, [min(255, value + number) for value in colour])
        shutil.copy(FIXTURES / "images/colour.jpg", Path("images", name, "last.JPG"))
    options = ["data.path=images", "image.size=8", "image.shift=1", "train.batch_tokens=16"]
    train("image_folder.toml", "folder", *options, says=["images in 2 classes"])
    Path("images/blue/notes.txt").write_text("no image")
    said = train("image_folder.toml", "told", *options, ranks=(2,))
    assert said.count("1 file that is neither PNG nor JPEG by name (blue/notes.txt)") == 1, said
    Path("images/blue/damaged.png").write_bytes(b"no image")
    train("image_folder.toml", "left", *options, "data.skip_bad=true", ranks=(1,), says=["blue/damaged.png: neither a PNG"])


def coco():
    categories = [{"id": id, "name": name, "supercategory": "animal"} for id, name in ((17, "cat"), (18, "dog"))]
    Path("coco/annotations").mkdir(parents=True)
    for part, count in (("train2017", 40), ("val2017", 8)):
        Path("coco", part).mkdir()
        images = [{"id": id, "file_name": f"{id:012}.jpg"} for id in range(count)]
        for image in images:
            shutil.copy(FIXTURES / "images" / draw.choice(["colour.jpg", "grey.jpg"]), Path("coco", part, image["file_name"]))
        areas = [
            {"id": id, "image_id": id % count, "category_id": draw.choice([17, 18]), "area": 9.5, "segmentation": [[1, 2]]}
            for id in range(2 * count)
        ]
        captions = [{"id": id, "image_id": id % count, "caption": sentence()} for id in range(3 * count)]
        for name, annotations in (("instances", areas), ("captions", captions)):
            whole = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
            Path(f"coco/annotations/{name}_{part}.json").write_text(json.dumps(whole))
    options = ["data.path=coco", "image.size=8", "image.shift=1", "data.vocabulary=60", "data.max_length=16"]
    train("coco_label.toml", "coco", *options, says=["8 test images in 2 classes"])
    train("coco_label.toml", "captions", *options, "data.inputs=both", ranks=(1,), says=["24 test texts with images in 2"])
    # A captioning model on images alone learns COCO's captions, not the names of categories.
    says = ["8 test images in 2 classes", "24 test texts with images in 2"]
    train("coco_label.toml", "said", *options, "tasks.caption=1", ranks=(1,), says=says)
    said = [json.loads(line) for line in run([PROGRAM, "caption", "said1", "--split", "test"]).splitlines()]
    assert said[-1]["images"] == 8 and all(len(line["references"]) == 3 for line in said[:-1]), said
    assert all(reference not in ("cat", "dog") for line in said[:-1] for reference in line["references"]), said
    for count, arguments in ((8, ["coco1"]), (8, ["said1"]), (24, ["said1", "--task=caption"])):
        said = json.loads(run([PROGRAM, "eval", *arguments]).splitlines()[-1])
        assert said["examples"] == count, (arguments, said)
    Path("coco/val2017/000000000003.jpg").unlink()
    train("coco_label.toml", "missing", *options, ranks=(1,), status=1, says=["coco/val2017/000000000003.jpg: cannot"])


if __name__ == "__main__":
    glue()
    table()
    other_data()
    image_folder()
    coco()
