"""Several tasks in one model, trained together by one process and by several, stopped and resumed. Also tests the
generated images."""

import json
from pathlib import Path

import h5py

from e2e import images_test
from e2e.images_test import prepare, train
from runs import PROGRAM, assert_same_losses, assert_same_weights, checkpoints, losses, run

TASKS = [
    "tasks.caption=1",
    "tasks.generate=1",
    "data.vocabulary=60",
    "data.max_length=16",
    "image.tokens=grid",
    "generate.patch=4",
    "train.batch_tokens=256",
    "train.steps=24",
    "checkpoint.every=12",
]


def size_of(png):
    header = Path(png).read_bytes()[16:24]
    return int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")


def main():
    prepare()
    train(1, "one", *TASKS, says=["data to classify: ", "data to caption: ", "generate validation: loss"])
    for ranks in (2, 4):
        train(ranks, f"on{ranks}", *TASKS)
        for task in ("classify", "caption", "generate"):
            assert_same_losses("one", f"on{ranks}", task=task)
    train(1, "resumed", *TASKS, resume=checkpoints("one")[0], says=["at step 12"])
    assert_same_weights("one", "resumed")
    train(1, "classifier", *TASKS, "tasks.caption=0", "tasks.generate=0", "train.steps=2")
    says = ["the recipe is not that checkpoint's: tasks.caption = 1.0 (0.0 there), tasks.generate = 1.0 (0.0 there)", "by train.start_from"]
    train(1, "never", *TASKS, resume=checkpoints("classifier")[0], status=1, says=says)
    for task in ("classify", "generate"):
        seen = losses("one", f"{task}/train")
        steps = sorted(seen)
        assert seen[steps[-1]] < 0.9 * seen[steps[0]], f"{task}: it learns nothing: {seen}"

    for task, has in (("caption", "accuracy"), ("generate", "loss"), ("classify", "macro_f1")):
        judged = json.loads(run([PROGRAM, "eval", "one", f"--task={task}"]).splitlines()[-1])
        assert judged["task"] == task and has in judged, judged
    run([PROGRAM, "eval", "one", "--task=sing"], status=1, says=["--task sing", "classify, caption, generate"])

    # Ranges are learned from the batches of all tasks: only captions and drawings read texts.
    train(1, "narrow", *TASKS, "model.embedding=8", "train.steps=2")
    said = run([PROGRAM, "quantize", "narrow", "--out", "integers", "--batches=4", "--set=quantization.activations=tensor"])
    assert "warning" not in said, said
    rows = {}
    with h5py.File(checkpoints("integers")[-1]) as file:
        file["model"].visititems(lambda name, item: rows.update({name: item[()]}) if name.endswith("/input/rows") else None)
    assert any("embedding_projection" in name for name in rows) and all(seen.any() for seen in rows.values()), rows

    draw = [PROGRAM, "generate", "one", "--text=Bag", "--text=ankle boot", "--count=3", "--steps=2", "--scale=1"]
    for name, options in (("a", []), ("b", []), ("c", ["--seed=2"]), ("d", ["--guidance=0"])):
        run([*draw, f"--out={name}.png", *options], says=[f"{name}.png: 6 images"])
    assert size_of("a.png") == (3 * 8 + 2 * 2, 2 * 8 + 2), size_of("a.png")
    a, b, c = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c, "the seed decides the images"
    run([*draw, "--out=a.gif"], status=1, says=["name the output *.png"])
    said = run([PROGRAM, "bench", "latency", "--checkpoint", "one", "--repetitions=1"])
    assert "one image of 12 steps, f32 " in said and "one image of 12 steps, INT8 " in said, said
    assert "one text" not in said, said  # it classifies images alone

    narrow = ["model.embedding=8", "data.vocabulary=60", "data.max_length=16"]  # sizes of the text tables
    train(1, "alone", "tasks.classify=0", "tasks.generate=1", *narrow, "train.steps=2")
    run([PROGRAM, "predict", "alone", "Bag"], status=1, says=["not trained to classify"])
    # The model has texts for its other tasks, but classifies images alone.
    picture = images_test.read_idx("t10k-images-idx3-ubyte.gz")[16:][: images_test.SIDE**2]
    images_test.write_png("one.png", images_test.SIDE, [(value,) for value in picture])
    Path("names").write_text("one.png\none.png\n")
    with open("names") as file:
        piped = images_test.predict("one", stdin=file)
    assert piped == images_test.predict("one", "--image=one.png", "--image=one.png") and piped[0]["image"] == "one.png", piped
    for options in [["one.png"], ["a bag", "--image=one.png"]]:
        run([PROGRAM, "predict", "one", *options], status=1, says=["classifies images alone", "--image FILE"])
    train(1, "classes", "train.steps=2")
    neither = ["neither classifies texts nor draws images"]
    run([PROGRAM, "bench", "latency", "--checkpoint", "classes"], status=1, says=neither)
    run([PROGRAM, "generate", "classes", "--text=Bag"], status=1, says=["not trained to generate"])
    train(1, "wrong", "tasks.classify=0", status=2, says=["[tasks] has none with a weight above 0"])
    train(1, "wrong", *TASKS, "generate.patch=3", status=1, says=["does not divide images of 8 x 8"])


if __name__ == "__main__":
    main()
