"""Training with rounded numbers: on one rank and two, resumed with the same bits, and with ranges that do not depend on
which rank saw which rows."""

import json
import os
import re
import subprocess
from pathlib import Path

import h5py
import numpy

from e2e import images_test
from runs import PROGRAM, assert_same_weights, checkpoints, go_on, losses, prepare, run, train, weights

STEPS = 40
RUN = [f"train.steps={STEPS}", "train.ema=0.9", "train.accumulate=2", "checkpoint.every=7", "checkpoint.keep=100"]
QUANTIZED = "quantization.enabled=true"
TENSOR = [QUANTIZED, "quantization.activations=tensor"]
WAYS = {
    "token": [QUANTIZED, "quantization.learned=true"],
    "average": [*TENSOR, "quantization.momentum=0.1", "quantization.start_step=10"],
    "extremes": [*TENSOR, "quantization.observer=min_max", "quantization.learned=true", "moe.shared_experts=1"],
    "percentile": [*TENSOR, "quantization.observer=percentile", 'moe.expert="2 feed_forward, 2 gated"'],
}


def observed(directory, step):
    """The ranges that observers have learned: {name: values}."""
    found = {}
    with h5py.File(f"{directory}/step-{step:08d}.h5") as file:
        file["model"].visititems(lambda name, item: found.update({name: item[()]}) if name.endswith("/range") else None)
    return found


def selection(directory):
    """The factors by which `grad_norm` selects experts: {name: bytes}."""
    return {name: data for name, data in weights(checkpoints(directory)[-1]).items() if name.endswith("selection_factor")}


def squared_gradients(directory, step):
    """Sum of the optimizer's second moments for the factors of input scales, which all ranks share."""
    found = []
    with h5py.File(f"{directory}/step-{step:08d}.h5") as file:
        name = re.compile(r"optimizer/second_moment/.*/input_factor")
        file.visititems(lambda path, item: found.append(item[()].sum()) if name.fullmatch(path) and "experts" not in path else None)
    return sum(found)


def on(ranks):
    return ["mpirun", "--oversubscribe", "-n", ranks] if ranks > 1 else []


def loss(checkpoint, *options, ranks=1):
    return json.loads(run([*on(ranks), PROGRAM, "eval", checkpoint, "--split", "train", *options]).splitlines()[-1])["loss"]


def images():
    """Pointwise, full and depthwise convolutions, with folded batch normalization."""
    images_test.prepare()
    layers = 'quantization.layers=["linear", "experts", "convolutions", "depthwise"]'
    images_test.train(1, "images", QUANTIZED, layers, "image.norm=batch")
    rounded = loss("images", "--set=quantization.inference=rounded")
    assert 0 < abs(loss("images") - rounded) < 2e-3, (loss("images"), rounded)
    run([PROGRAM, "quantize", "images", "--out", "images_int8"])
    assert abs(loss("images_int8") - rounded) < 2e-3, (loss("images_int8"), rounded)
    with h5py.File(f"images_int8/step-{STEPS:08d}.h5") as file:
        for name, channels in ("stem", 0), ("blocks/1/depthwise", -1), ("blocks/1/project", 0):
            weight, scale = file[f"model/image/{name}/weight"], file[f"model/image/{name}/weight_scale"]
            assert weight.dtype == "int8" and scale.shape == (weight.shape[channels],), name


def saved_meanwhile():
    """`conclave quantize` sees a checkpoint that another process saves while it learns ranges."""
    os.mkdir("damaged")
    os.link("plain/step-00000040.h5", "damaged/step-00000040.h5")
    Path("damaged/step-00000041.h5").write_text("damaged")
    options = ["--set=quantization.activations=tensor", "--batches=1000"]
    command = [PROGRAM, "quantize", "damaged", "--out", "late", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as quantizes:
        assert "skipped" in quantizes.stderr.readline()  # so it has looked for checkpoints in "late"
        os.mkdir("late")
        Path("late/step-00000007.h5").write_text("of another process")
        said = quantizes.stderr.read()
    assert quantizes.returncode == 1 and "late/step-00000007.h5 is there already" in said, (quantizes.returncode, said)


def main():
    prepare()
    train(1, "plain", *RUN)
    for way, options in WAYS.items():
        for ranks in (1, 2):
            directory = f"{way}{ranks}"
            train(ranks, directory, *RUN, *options)
            # Rounding turns a difference in the last bit into a whole step, so losses agree only approximately.
            for step in (1, STEPS):
                near = abs(losses(directory)[step] - losses(f"{way}1")[step])
                assert near < 0.05 * losses("plain")[1], (way, ranks, step, near)
            resumed = f"{directory}_resumed"
            go_on(ranks, resumed, directory, 14, *RUN, *options)
            assert losses(directory) == losses(resumed), way
            assert_same_weights(directory, resumed)
        assert losses(f"{way}1") != losses("plain"), f"{way}: nothing was rounded"
        assert losses(f"{way}1")[STEPS] < losses("plain")[STEPS] + 0.1, f"{way}: it learns less"
        one, two = observed(f"{way}1", 7), observed(f"{way}2", 7)
        assert one.keys() == two.keys() and bool(one) == (way != "token"), (way, list(one))
        if way == "extremes":  # gradients of scales are as large as on one rank
            gradients = [squared_gradients(f"{way}{ranks}", 7) for ranks in (1, 2)]
            assert 0.8 < gradients[0] / gradients[1] < 1.25, gradients
        for name, values in one.items():
            assert numpy.abs(values).max() > 0, (way, name)
            assert numpy.allclose(values, two[name], rtol=0.1, atol=0.1), (way, name, values, two[name])
    # Before its first step with rounding, a run equals one without rounding.
    for step in range(1, 11):
        assert losses("average1")[step] == losses("plain")[step]
    assert losses("average1")[12] != losses("plain")[12]
    # A model trained with rounding is used with integers, also from a checkpoint that has only integers.
    for way in WAYS:
        rounded, integers = loss(f"{way}1", "--set=quantization.inference=rounded"), loss(f"{way}1")
        assert 0 < abs(rounded - integers) < 2e-3, (way, rounded, integers)
        for ranks in (1, 2):
            said = run([*on(ranks), PROGRAM, "quantize", f"{way}1", "--out", f"{way}_int8_{ranks}"])
            assert "times smaller" in said, said
            assert abs(loss(f"{way}_int8_{ranks}", ranks=3 - ranks) - integers) < 2e-3, (way, ranks, integers)
    with h5py.File("token_int8_1/step-00000040.h5") as file:
        up = file["model/layers/0/moe/experts/up/weight"], file["model/layers/0/moe/experts/up/weight_scale"]
        assert [item.dtype for item in up] == ["int8", "float32"] and abs(up[0][()]).max() == 127
    # A model trained without rounding can be quantized afterwards; ranges per tensor need examples.
    plain = loss("plain")
    assert 0 < abs(loss("plain", "--int8") - plain) < 0.03
    assert loss("plain", "--int8", "--set=quantization.start_step=999") == plain  # of f32: set after --int8
    run([PROGRAM, "eval", "plain", "--int8", "--set=quantization.activations=tensor"], status=1, says=["conclave quantize"])
    for observer in ("min_max", "moving_average", "percentile"):
        options = ["quantization.activations=tensor", f"quantization.observer={observer}", "quantization.percentile=99.9"]
        run([PROGRAM, "quantize", "plain", "--out", observer, "--batches", "8", *[f"--set={option}" for option in options]])
        assert abs(loss(observer) - plain) < 0.03, (observer, loss(observer), plain)
    # Where ranges are learned, routing stays as it is.
    train(1, "even", "train.steps=2", "moe.balancer=grad_norm")
    run([PROGRAM, "quantize", "even", "--out", "even_int8", "--batches=4", "--set=quantization.activations=tensor"])
    assert selection("even_int8") == selection("even") != {}, selection("even")
    # After exactly start_step steps, a model is rounded in every evaluation.
    train(1, "begins", QUANTIZED, "train.steps=10", "quantization.start_step=10")
    evaluate = [PROGRAM, "eval", "begins", "--set=quantization.inference=rounded"]
    at_end = losses("begins", "test")[10]
    rounded, whole = (json.loads(run([*evaluate, f"--set=quantization.start_step={step}"]))["loss"] for step in (10, 11))
    assert abs(at_end - rounded) < 1e-9 < abs(at_end - whole), (at_end, rounded, whole)
    # `conclave quantize` does not overwrite the model that it reads.
    before = Path("plain/step-00000040.h5").read_bytes()
    os.rename("texts.jsonl", "elsewhere.jsonl")  # only ranges per tensor need the data
    run([PROGRAM, "quantize", "plain", "--out", "without_data"], says=["times smaller"])
    run([PROGRAM, "quantize", "plain", "--out", "no", "--set=quantization.activations=tensor"], status=1, says=["texts.jsonl"])
    os.rename("elsewhere.jsonl", "texts.jsonl")
    integers = "its weights are integers, made by conclave quantize"
    run([PROGRAM, "eval", "without_data", "--set=quantization.enabled=false"], status=1, says=[integers])
    train(1, "on", "train.start_from=without_data", status=1, says=[integers])
    train(1, "without_data", resume="auto", status=1, says=[integers])
    run([PROGRAM, "quantize", "plain", "--out", "plain"], status=1, says=["plain/step-00000040.h5 is there already", "--out"])
    assert Path("plain/step-00000040.h5").read_bytes() == before
    saved_meanwhile()
    # The quantized model does not take over the measurements of the original.
    run([PROGRAM, "inspect", "plain"], says=["validation_loss", "on the validation split"])
    said = run([PROGRAM, "inspect", "min_max"])
    assert "validation" not in said and "next is epoch" in said, said
    images()
    run([PROGRAM, "train", "tiny.toml", f"--set={QUANTIZED}", "--set=quantization.layers=[\"linear\", \"expert\"]"], status=2,
        says=["quantization.layers", "experts"])


if __name__ == "__main__":
    main()
