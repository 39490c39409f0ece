"""ONNX Runtime gives the same results for exported models as `conclave predict`: for texts, images and both, in
floating point and in integers. The descriptions in exported HDF5 and safetensors files are correct."""

import base64
import json
import os
import random
import resource
import sys
from pathlib import Path

import h5py
import numpy
import onnx
import onnxruntime
import sentencepiece
from safetensors import safe_open

from e2e import images_test
from runs import PROGRAM, prepare, run, train

EMOJI = Path(os.environ["CONCLAVE_SOURCE"], "recipes/emoji_group.toml")
INT8 = "quantization.enabled=true"
SHORT = ["train.steps=60", "train.evaluate_every=1000000"]


class Exported:
    def __init__(self, checkpoint, *options):
        path = f"{checkpoint}.onnx"
        run([PROGRAM, "export", checkpoint, path, *options])
        self.proto = onnx.load(path)
        onnx.checker.check_model(self.proto, full_check=True)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        self.class_names = json.loads(self.metadata["class_names"])
        if "tokenizer" in self.metadata:
            self.tokenizer = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(self.metadata["tokenizer"]))

    def operators(self):
        return {node.op_type for node in self.proto.graph.node}

    def probabilities(self, texts=None, images=None):
        """Probabilities [examples, classes] of all examples as one batch; None for a missing text."""
        inputs = {}
        if texts is not None:
            longest = int(self.metadata["max_length"])
            ids = [[] if text is None else (self.tokenizer.encode(text) or [0])[:longest] for text in texts]
            width = max(map(len, ids))
            inputs["input_ids"] = numpy.array([row + [0] * (width - len(row)) for row in ids], numpy.int64)
            inputs["attention_mask"] = numpy.array([[1] * len(row) + [0] * (width - len(row)) for row in ids], numpy.int64)
        if images is not None:
            inputs["image"] = numpy.stack(images)
        logits, probabilities = self.session.run(["logits", "probabilities"], inputs)
        shares = numpy.exp(logits - logits.max(1, keepdims=True))
        numpy.testing.assert_allclose(probabilities, shares / shares.sum(1, keepdims=True), atol=1e-6)
        return probabilities


def predicted(checkpoint, class_names, lines, *options):
    Path("lines").write_text("".join(line + "\n" for line in lines))
    with open("lines") as file:
        found = run([PROGRAM, "predict", checkpoint, "--top=1000", *options], stdin=file).splitlines()
    rows = []
    for line in found:
        shares = {one["class"]: one["probability"] for one in json.loads(line)["top"]}
        rows.append([shares[name] for name in class_names])
    return numpy.array(rows)


def assert_alike(name, own, others, integers):
    """Checks that logits agree to 1e-4, up to a constant for all classes. With integers, a number halfway between two
    integers may be rounded either way, so classes must agree in 99 % of examples, and probabilities approximately."""
    assert own.shape == others.shape and len(own) > 0, (own.shape, others.shape)
    if integers:
        apart = numpy.abs(own - others)
        print(f"{name}: probabilities {apart.mean():.1e} apart, at most {apart.max():.1e}, of {len(own)} examples")
        assert apart.mean() < 1e-3 and apart.max() < 0.02, (name, apart.mean(), apart.max())
        assert (own.argmax(1) == others.argmax(1)).mean() > 0.99, name
    else:
        apart = numpy.abs(numpy.log(own) - numpy.log(others))[others > 1e-12]
        print(f"{name}: logits at most {apart.max():.1e} apart, of {len(own)} examples")
        assert apart.max() < 1e-4, (name, apart.max())


def texts():
    prepare()
    lines = [json.loads(line)["text"] for line in Path("texts.jsonl").read_text().splitlines()[:300]]
    lines += ["", "a"]
    kinds = {
        "plain": [],
        "many": ["moe.top_p=0.7", 'moe.expert="2 feed_forward, 2 gated"', "moe.shared_experts=1", "moe.router=attention"],
        "shared": ["model.embedding=16", "model.share_layers=true", "moe.router=attention_token", "moe.balancer=grad_norm",
                   "model.bigrams=0", "moe.every=2", "model.layers=4"],
    }
    for name, options in kinds.items():
        for way, more in (
            ("f32", []),
            ("token", [INT8]),
            ("learned", [INT8, "quantization.learned=true", "quantization.activations=tensor",
                         'quantization.layers=["linear", "experts", "heads"]']),
        ):
            directory = f"{name}_{way}"
            train(1, directory, *SHORT, *options, *more)
            exported = Exported(directory)
            ours = predicted(directory, exported.class_names, lines)
            assert_alike(directory, ours, exported.probabilities(lines), integers=way != "f32")
            assert_alike(f"{directory}, one by one", ours[-4:],
                         numpy.concatenate([exported.probabilities([line]) for line in lines[-4:]]), integers=way != "f32")
            used = exported.operators()
            assert ("MatMulInteger" in used) == (way == "token") and ("DequantizeLinear" in used) == (way == "learned"), used
    run([PROGRAM, "quantize", "plain_f32", "--out", "afterwards"])
    exported = Exported("afterwards")
    assert_alike("afterwards", predicted("afterwards", exported.class_names, lines), exported.probabilities(lines), True)
    # Scores far apart, and biases that choose experts whose probabilities are 0.
    far = ["train.steps=20", "train.learning_rate=10", "train.clip_norm=0", "moe.top_k=1", "moe.entropy_coefficient=1", "moe.bias_rate=10"]
    train(1, "far", *far)
    assert numpy.isfinite(predicted("far", exported.class_names, lines)).all()
    assert numpy.isfinite(Exported("far").probabilities(lines)).all()
    run([PROGRAM, "quantize", "plain_f32", "--out", "eight", "--set=quantization.activation_bits=8"])
    run([PROGRAM, "export", "eight", "warned.onnx"], says=["warning: quantization.activation_bits = 8"])
    eight = Exported("eight").probabilities(lines)
    if "vnni" in Path("/proc/cpuinfo").read_text():
        assert_alike("eight", predicted("eight", exported.class_names, lines), eight, True)
    types = {one.name: one.data_type for one in exported.proto.graph.initializer}
    assert types["layers.0.moe.experts.up.weight.0"] == types["layers.1.attention.qkv.weight"] == onnx.TensorProto.INT8


def images():
    images_test.prepare()
    pixels = images_test.read_idx("t10k-images-idx3-ubyte.gz")[16:]
    side = images_test.SIDE
    pictures = [pixels[i : i + side * side] for i in range(0, len(pixels), side * side)]
    names = [f"{i}.png" for i in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        images_test.write_png(name, side, [(value,) for value in picture])
    arrays = [numpy.frombuffer(picture, numpy.uint8).reshape(side, side, 1) for picture in pictures]
    for name, options in {
        "group": ["image.norm=group", "image.tokens=grid"],
        "batch": ["image.norm=batch", "image.depthwise=false", "image.tokens=flat"],
        "mean": ["image.norm=batch"],
        "rounded": ["image.norm=batch", INT8,
                    'quantization.layers=["linear", "experts", "convolutions", "depthwise"]'],
        "learned": ["image.depthwise=false", INT8, "quantization.activations=tensor"],
    }.items():
        images_test.train(1, name, *options)
        exported = Exported(name)
        assert_alike(f"images, {name}", predicted(name, exported.class_names, names), exported.probabilities(None, arrays),
                     integers=INT8 in options)
    run([PROGRAM, "quantize", "rounded", "--out", "rounded_int8"])
    run([PROGRAM, "export", "rounded_int8", "rounded.h5"])
    with h5py.File("rounded.h5") as file:
        for name, axes in ("blocks/1/depthwise", b"channel"), ("blocks/1/project", b"out"), ("stem", b"out"):
            weight, scale = file[f"image/{name}/weight"], file[f"image/{name}/weight_scale"]
            axis = int(weight.attrs["scale_axes"])
            assert weight.attrs["axes"].split(b", ")[axis] == axes == scale.attrs["axes"], name
            assert scale.shape == (weight.shape[axis],) and weight.dtype == numpy.int8, name
    images_test.train(1, "scattered", "image.scattering=true", "train.steps=2", 'image.blocks=["k3 x8 c8"]')
    run([PROGRAM, "export", "scattered", "no.onnx"], status=1, says=["image.scattering", "train a model"])


def both():
    draw = random.Random(1)
    colours = [[draw.randrange(256) for _ in range(3)] for _ in range(8)]
    names, arrays = [], []
    for number, colour in enumerate(colours):
        names.append(f"colour{number}.png")
        rows = [(colour[0], colour[1], colour[2], 255)] * 128 + [(colour[2], colour[0], colour[1], 255)] * 128
        images_test.write_png(names[-1], 16, rows)
        arrays.append(numpy.array(rows, numpy.uint8).reshape(16, 16, 4)[:, :, :3])
    sayings = ["red heart", "a dog", None, "grinning face with big eyes", "flag of France", None, "clock", "house"]
    for fusion in ("joint", "cross", "late"):
        options = [f"model.fusion={fusion}", "train.start_from=", "train.steps=4", "image.size=16", f"run.directory={fusion}",
                   "train.learning_rate=0.01"]
        if fusion != "cross":
            options += ["moe.modality_experts=separate", "moe.balancer=none"]
        if fusion != "late":
            options.append("image.tokens=grid")
        run([PROGRAM, "train", EMOJI, *(f"--set={option}" for option in options)])
        exported = Exported(fusion)
        pairs = [f"{name}\t{saying or ''}" for name, saying in zip(names, sayings, strict=True)]
        assert_alike(fusion, predicted(fusion, exported.class_names, pairs), exported.probabilities(sayings, arrays), False)


def refused():
    train(1, "choosing", "train.steps=2", "moe.gate=expert_choice", "moe.balancer=none")
    run([PROGRAM, "export", "choosing", "no.onnx"], status=1, says=["expert_choice", "other texts in the batch"])
    run([PROGRAM, "export", "plain_f32", "no.xyz"], status=1, says=["*.h5, *.safetensors or *.onnx", "--format"])
    run([PROGRAM, "export", "plain_f32", "no.h5", "--set=moe.top_k=1"], status=1, says=["--set"])
    for name in ("no.h5", "no.safetensors", "no.onnx"):
        run([PROGRAM, "export", "plain_f32", f"nowhere/{name}"], status=1, says=[f"nowhere/{name}", "No such file"])
        full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))}
        if name != "no.onnx":  # that export starts MPI, which writes larger files
            run([PROGRAM, "export", "plain_f32", name], status=1, says=["File too large"], **full)
        assert not list(Path(".").glob("no.*")), name


def files_explain_themselves():
    for directory in ("afterwards", "plain_f32"):
        run([PROGRAM, "export", directory, "model", "--format=hdf5"])
        with h5py.File("model") as file:
            assert list(file["class_names"].asstr()) == ["class 0", "class 1", "class 2"]
            pieces = list(file["tokenizer/pieces"].asstr())
            assert len(pieces) == len(set(pieces)) == len(file["token_embedding/weight"]) == len(file["tokenizer/scores"])
            told = {}
            file.visititems(lambda name, item: told.update({name: item}) if isinstance(item, h5py.Dataset) else None)
            for name, item in told.items():
                if name.startswith("tokenizer/") or name == "class_names":
                    continue
                assert len(item.attrs["axes"].decode().split(", ")) == item.ndim and item.attrs["meaning"], name
            bias = file["layers/0/moe/router/selection_bias"]
            assert bias.attrs["axes"] == b"expert" and b"where the best are chosen" in bias.attrs["meaning"]
            up = file["layers/0/moe/experts/up/weight"]
            assert up.attrs["axes"] == b"expert, out, in"
            if directory == "afterwards":
                assert up.dtype == numpy.int8 and up.attrs["zero_point"] == 0 and up.attrs["scale_axes"] == b"0, 1"
                scale = file[up.attrs["scale"].decode()][()]
                restored = up[()] * scale[..., None]
                assert b"each row's own range" in file.attrs["quantization"]
            else:
                assert numpy.abs(up[()] - restored).max() <= scale.max() / 2 * 1.001
        run([PROGRAM, "export", directory, "weights", "--format=safetensors"])
        with safe_open("weights", framework="numpy") as file:
            assert json.loads(file.metadata()["class_names"]) == ["class 0", "class 1", "class 2"]
            assert file.get_tensor("layers.0.moe.experts.up.weight".replace(".", "/")).dtype == up_type(directory)
    run([PROGRAM, "quantize", "plain_learned", "--out", "factors"])
    run([PROGRAM, "export", "factors", "factors.h5"])
    with h5py.File("factors.h5") as file:
        up = file["layers/0/moe/experts/up/weight"].attrs
        assert file[up["input_range"].decode()].shape == (4, 2) and file[up["input_factor"].decode()].shape == (4,)
        assert b"multiplied by input_factor" in file.attrs["quantization"]


def reader():
    train(1, "deep", *SHORT)
    run([PROGRAM, "quantize", "deep", "--out", "deep_int8"])
    lines = [json.loads(line)["text"] for line in Path("texts.jsonl").read_text().splitlines()[:40]]
    # Unknown characters, one and several in a row; characters that become a space, nothing, another letter or several
    # letters; names of tokens.
    odd = [" \u2122 \u00bd \u00b2 ", " \u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8 ", "\u65e5", "\u200b", "\u200c", "\u200d", "\u2028",
           "\ufeff", "\ufffd", "\u2581", "\u00a0", "\u3000", "\x01", "\x0b", "\x1f", "\x7f", "\x85", "\uff5e", " \ufb01\u2167 ",
           " Stra\u00dfe \u0130 ", " <s> ", "<unk>", "</s>", "  "]
    lines += [between.join(line.split()[:3]) for between, line in zip(odd, lines)]
    lines += [lines[0].upper(), "\u65e5 \u672c", "\u200b", ""]
    classes = run([PROGRAM, "predict", "deep", "--top=1", *lines]).split("\n")[:-1]
    script = Path(os.environ["CONCLAVE_SOURCE"], "scripts/read_export.py")
    for directory, off in (("deep", 1e-4), ("deep_int8", 0.02)):
        run([PROGRAM, "export", directory, "deep.h5"])
        told = run([sys.executable, script, "deep.h5", *lines]).split("\n")[:-1]
        for line, ours in zip(told, map(json.loads, classes), strict=True):
            name, probability, text = line.split("\t")
            assert text == ours["text"] and abs(float(probability) - ours["probability"]) < off, (line, ours)
            assert name == ours["class"] or float(probability) < 0.51, (line, ours)
    assert "int8 (4, 32, 32) expert, out, in" in run([sys.executable, script, "deep.h5"])
    # The script refuses models that it would compute differently from Conclave.
    train(1, "balanced", "train.steps=2", "moe.balancer=grad_norm", "moe.balance_inference=true")
    images_test.train(1, "drawing", "tasks.classify=0", "tasks.generate=1", "generate.patch=4", "data.vocabulary=60",
                      "data.max_length=16", "train.steps=2")
    for directory in ("balanced", "mean", "joint", "drawing"):
        run([PROGRAM, "export", directory, f"{directory}.h5"])
    with h5py.File("deep.h5", "r+") as file:
        file["tokenizer/pieces"][1] = "<SEP>"  # as in a model for pairs of texts
    for name in ("balanced", "mean", "joint", "drawing", "deep"):
        run([sys.executable, script, f"{name}.h5", "a"], status=1, says=["read_export: knows models with"])


def up_type(directory):
    return numpy.int8 if directory == "afterwards" else numpy.float32


if __name__ == "__main__":
    texts()
    images()
    both()
    refused()
    files_explain_themselves()
    reader()
