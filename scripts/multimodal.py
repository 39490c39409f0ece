"""The multimodal half of scripts/reproduce: encoders of images and of texts, and models of both."""

import statistics
from pathlib import Path

import emoji_linear
from reproduction import ENCODER, OUT, Measured, costs, digest, kept, not_below, show, train

ENCODER = {"depthwise": [], "standard": ["image.depthwise=false"]}
EPOCHS = 3  # of the part "encoder"
# Each variant has the dropout (0.2 or 0.1, also of embeddings) with the better validation accuracy, as sharing
# regularizes, too.
SHARING = {"unshared": [], "shared": ["model.share_layers=true", "model.embedding=64", "model.dropout=0.1",
                                      "model.embedding_dropout=0.1"]}
LAYERS = 4  # of the part "sharing"
AUX_LOSS = ["moe.balancer=aux_loss"]  # separate experts need this balancer or none
NO_START = ["train.start_from="]
EMOJI = {
    # An image is one token: a step has as many examples as in the other variants.
    "image": [*NO_START, "data.inputs=image", "model.bigrams=0", "train.batch_tokens=73"],
    "text": ["data.inputs=text"],
    "joint": ["model.fusion=joint"],
    "cross": ["model.fusion=cross"],
    "cross-0.7": ["model.fusion=cross", "model.image_weight=0.7"],  # starts from the weights of the reference design
    "late": ["model.fusion=late"],
    "texts-shown": ["model.text_dropout=0"],
    "without-words": NO_START,
    # Without the model of words.toml, as only variants with the same number of experts could start from its experts.
    "separate": [*NO_START, *AUX_LOSS, "moe.experts=8", "moe.modality_experts=separate"],  # 4 for each modality
    "shared": [*NO_START, *AUX_LOSS, "moe.experts=4"],  # both modalities use the same 4
}


def train_all(part, recipe, variants, options, arguments):
    """Trains all variants; returns the figures of their runs, by variant."""
    results = {variant: [] for variant in variants}
    for seed in range(1, arguments.seeds + 1):
        for variant, own in variants.items():
            directory = OUT / part / variant / f"seed-{seed}"
            records = train(directory, recipe, [*options, *own, *arguments.set, f"run.seed={seed}", "checkpoint.every=0"])
            weights = [(r["step"], r["modality/image"]) for r in records if "modality/image" in r]
            results[variant].append({
                "directory": str(directory),
                "accuracy": 100 * [r for r in records if "test/accuracy" in r][-1]["test/accuracy"],
                "tokens_per_second": statistics.median(
                    r["train/tokens_per_second"] for r in records if "train/tokens_per_second" in r),
                "costs": costs(directory),
                "image_weights": weights,
                "image_weight": weights[-1][1] if weights else None,
            })
    return results


def ratio(results, one, other, name):
    return Measured(results[one], name).mean / Measured(results[other], name).mean


def against(results, one, other):
    return f"{Measured(results[one], 'accuracy')} against {Measured(results[other], 'accuracy')} %"


def total(run, *, of="", without=(), column=0):
    """Sum over a run's parts with names that begin with `of`; column 0: parameters, 1: FLOPs."""
    return sum(cost[column] for name, cost in run["costs"].items()
               if name.startswith(of) and name not in (*without, "total"))


def encoder(arguments):
    results = train_all("encoder", "recipes/fashion_mnist.toml", ENCODER, [f"train.epochs={EPOCHS}"], arguments)
    depthwise, standard = (total(results[v][0], of="image.", column=1) for v in ("depthwise", "standard"))
    less = 100 * (1 - depthwise / standard)
    accuracy = 100 * ratio(results, "depthwise", "standard", "accuracy")
    faster = ratio(results, "depthwise", "standard", "tokens_per_second")  # an image is one token
    show(f"Depthwise separable convolutions against standard ones: Fashion-MNIST, {EPOCHS} epochs, {arguments.seeds} seeds", [
        (12, "FLOPs of the image encoder, forward", "-62 %",
         f"-{less:.1f} % ({depthwise / 1e6:.1f} against {standard / 1e6:.1f} million)", less >= 80),
        (12, "test accuracy, of the standard ones'", "95 %",
         f"{accuracy:.1f} % ({against(results, 'depthwise', 'standard')})", accuracy >= 98),
        (12, "images per second in training, of the whole model", "", f"{faster:.2f} x", faster >= 2.5),
    ])
    return {"encoder": results}


def sharing(arguments):
    results = train_all("sharing", "recipes/quick.toml", SHARING, [*ENCODER, "data.classes=all", f"model.layers={LAYERS}"],
                        arguments)
    # The text encoder: tables of tokens and positions, their projection, layers with their experts, the last
    # normalization. Without the parts of tasks: the classifier's head, and the prediction of hidden tokens.
    shared, unshared = (total(results[v][0], without=("head", "masked_tokens")) for v in ("shared", "unshared"))
    shared_layers, layers = (total(results[v][0], of="layers.") for v in ("shared", "unshared"))
    less = 100 * (1 - shared / unshared)
    accuracy = 100 * ratio(results, "shared", "unshared", "accuracy")
    show(f"One set of parameters for {LAYERS} layers, tables of width 64: WordNet, 45 classes, {arguments.seeds} seeds", [
        (11, "parameters of the text encoder, without the tasks' heads", "-40 %",
         f"-{less:.1f} % ({shared:,} against {unshared:,})", less >= 60),
        (11, "of its layers alone", "", f"-{100 * (1 - shared_layers / layers):.1f} %", None),
        (11, "test accuracy, of the unshared one's", "",
         f"{accuracy:.1f} % ({against(results, 'shared', 'unshared')})", accuracy >= 99),
    ])
    return {"sharing": results}


def linear():
    """The figures of the linear models; measured once."""
    scripts = {name: digest(Path("scripts", name).read_bytes()) for name in ("emoji_linear.py", "peers/emoji.py")}
    return kept(OUT / "emoji" / "linear.json", scripts, emoji_linear.measure)


def emoji(arguments):
    words = OUT / "words"
    train(words, "recipes/words.toml", ["checkpoint.every=0"])
    results = train_all("emoji", "recipes/emoji_group.toml", EMOJI, [f"train.start_from={words}"], arguments)
    baselines = linear()
    accuracy = {variant: Measured(runs, "accuracy") for variant, runs in results.items()}
    parameters = {variant: total(runs[0]) for variant, runs in results.items()}
    rows = [(23, f"accuracy: {variant} ({' '.join(EMOJI[variant])})", "",
             f"{accuracy[variant]} %, {parameters[variant]:,} parameters", None) for variant in EMOJI]
    rows += [(23, f"a linear model's, {name.replace('_', ' ')}", "", f"{baselines[name]['accuracy']:.2f} %", None)
             for name in ("image", "text", "text_without_group_words", "both")]
    # The linear model of texts reads the same words as Conclave, including those of the groups' names.
    better = max(baselines["image"]["accuracy"], baselines["text"]["accuracy"])
    gain = accuracy["joint"].mean - better
    single = max(accuracy["image"], accuracy["text"], key=lambda figure: figure.mean)
    prior = Measured(results["cross"], "image_weight")
    rows += [
        (23, "image and text (joint) over the better linear model of one of them", "", f"{gain:+.2f} points", gain >= 5.5),
        (23, "... over the better of Conclave's with one of them", "", f"{accuracy['joint'].mean - single.mean:+.2f} points", None),
        (9, "accuracy, cross-attention against late fusion", "", against(results, "cross", "late"),
         accuracy["cross"].mean > accuracy["late"].mean),
        (10, "the image's weight as learned, of 1: from 0.5, and from 0.7", "0.7",
         f"{prior}, and {Measured(results['cross-0.7'], 'image_weight')}", None),
        (6, "parameters, 4 experts for both against 4 each", "",
         f"{parameters['shared']:,} against {parameters['separate']:,}", parameters["shared"] < parameters["separate"]),
        (6, "their accuracy", "", against(results, "shared", "separate"), not_below(accuracy["shared"], accuracy["separate"])),
    ]
    examples = baselines["examples"]["test"]
    show(f"Groups of emoji, {examples} to test on, {arguments.seeds} seeds: mean ± standard error", rows)
    return {"emoji": results, "emoji_linear": baselines}
