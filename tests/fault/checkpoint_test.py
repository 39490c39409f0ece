"""A checkpoint that is damaged or belongs to another model is refused with the tensor and the reason. Training with
--resume auto continues from the checkpoint before it."""

import json
import shutil
from pathlib import Path

import h5py
from runs import PROGRAM, checkpoints, prepare, run, train


def copy(source, target):
    Path(target).parent.mkdir(exist_ok=True)
    return Path(shutil.copy(source, target))


def truncated(path, part):
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * part))


def place(path, name):
    with h5py.File(path) as file:
        return file[name].id.get_offset()


def flip_bit(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def a_tensor(path, part):
    """The name of a tensor that contains `part`."""
    names = []
    with h5py.File(path) as file:
        file.visit(names.append)
        return next(name for name in sorted(names) if part in name and isinstance(file[name], h5py.Dataset))


def refused(path, *says, ranks=1):
    """Checks that every command that reads a whole checkpoint refuses it."""
    said = [path.name, *says]
    run([PROGRAM, "inspect", path, "--verify"], status=1, says=said)
    run([PROGRAM, "export", path, "never.safetensors"], status=1, says=said)
    train(ranks, "never", resume=path, status=1, says=said)
    assert not list(Path(".").glob("never.safetensors*")) and not checkpoints("never")


def main():
    prepare()
    train(2, "whole", "train.steps=6", "checkpoint.every=2", "checkpoint.keep=10")
    older, newer = checkpoints("whole")[1:]
    run([PROGRAM, "inspect", newer, "--verify"], says=["step 6", "every tensor matches its checksum"])

    for part in (0, 0.001, 0.5, 0.999):
        path = copy(newer, "damaged/step-00000007.h5")
        truncated(path, part)
        refused(path)
    for part in ("model/", "expert"):
        path = copy(newer, "damaged/step-00000007.h5")
        tensor = a_tensor(path, part)
        flip_bit(path, place(path, tensor) + 5)
        refused(path, tensor, "checksum mismatch", "the file is damaged", ranks=2)
    path = copy(newer, "damaged/step-00000007.h5")
    flip_bit(path, place(path, "state/tokenizer") + 5)
    refused(path, "state/tokenizer", "checksum mismatch")

    path = copy(newer, "damaged/step-00000007.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99
    refused(path, "has schema version 99", "use the version of Conclave that wrote it")
    with h5py.File(path, "w") as file:
        file["model/values"] = [1.0, 2.0]
    refused(path, "not a checkpoint of Conclave")
    path.write_text("something else")
    refused(path, "not a whole HDF5 file")

    # For another model, the message has the first tensor that does not fit, and both shapes.
    for ranks in (1, 2):
        for option in ("model.hidden=64", "moe.experts=8"):
            said = ["model/", "in the file", "in the model"]
            train(ranks, "never", option, resume=newer, status=1, says=said)
        train(ranks, "never", "model.layers=3", resume=newer, status=1, says=["model/layers/2/", "is missing"])

    # Other data: labels that would mean other classes, and an epoch that is shorter than the place to resume from.
    rows = [json.loads(line) for line in Path("texts.jsonl").read_text().splitlines()]
    renamed = [row | {"label": row["label"].replace("class 0", "class 3")} for row in rows]
    Path("renamed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    said = [newer.name, 'class 0 is "class 0" in the model and "class 1" in the data']
    train(1, "never", "data.path=renamed.jsonl", resume=newer, status=1, says=said)
    said = [newer.name, 'the data has a class "class 3", but the model was trained on: class 0, class 1, class 2']
    run([PROGRAM, "eval", newer, "--set", "data.path=renamed.jsonl"], status=1, says=said)
    said = [newer.name, "it is at batch 6 of an epoch, which has"]
    train(1, "never", "train.batch_tokens=4096", resume=newer, status=1, says=said)

    # With --resume auto, training continues from the newest complete checkpoint.
    for damage in ("half", "empty", "other", "bit"):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("whole", "run")
        newest = checkpoints("run")[-1]
        if damage == "other":
            newest.write_text("something else")
        elif damage == "bit":
            flip_bit(newest, place(newest, a_tensor(newest, "model/")) + 5)
        else:
            truncated(newest, {"half": 0.5, "empty": 0}[damage])
        run([PROGRAM, "eval", "run"], says=["warning: skipped", newest.name, '"step":4'])
        run([PROGRAM, "inspect", "run"], says=["warning: skipped", newest.name, "step 4"])
        output = train(2, "run", "train.steps=8", resume="auto", says=["at step 4", newest.name, "skipped"])
        assert output.count("skipped") == 1, output
        run([PROGRAM, "inspect", "run", "--verify"], says=["step 8"])

    # Only training needs what a checkpoint has besides the model.
    shutil.copytree("whole", "trained")
    newest = checkpoints("trained")[-1]
    flip_bit(newest, place(newest, a_tensor(newest, "optimizer/")) + 5)
    run([PROGRAM, "inspect", "trained"], says=["step 6"])
    run([PROGRAM, "inspect", "trained", "--verify"], status=1, says=[newest.name, "checksum mismatch"])
    said = train(1, "never", "train.steps=8", resume=newest, status=1, says=["optimizer/", "the file is damaged"])
    assert "the recipe is not" not in said, said
    train(1, "further", "train.steps=8", resume="trained", says=["at step 4", newest.name, "skipped"])


if __name__ == "__main__":
    main()
