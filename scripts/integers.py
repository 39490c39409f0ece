"""INT8 in scripts/reproduce: accuracy of models in 32 bits, in integers after training, and trained for integers."""

import json

from reproduction import CONCLAVE, ENCODER, OUT, Measured, call, show, train

EPOCHS = 3  # of Fashion-MNIST
# Rounding in all of its few hundred steps makes emoji's model a point less accurate; the last quarter is enough.
TASKS = {
    "WordNet-26": ("recipes/quick.toml", ENCODER),
    "emoji": ("recipes/emoji_group.toml", ["train.start_from=", "quantization.start_step=225"]),
    "Fashion-MNIST": ("recipes/fashion_mnist.toml", [f"train.epochs={EPOCHS}"]),
}
TRAINED = {"f32": [], "qat": ["quantization.enabled=true"]}


def accuracy(directory, *options):
    """Accuracy on the test split, in percent."""
    return 100 * json.loads(call([CONCLAVE, "eval", directory, *options]).splitlines()[-1])["accuracy"]


def integers(arguments):
    results = {task: [] for task in TASKS}
    for task, (recipe, options) in TASKS.items():
        for seed in range(1, arguments.seeds + 1):
            folder = {name: OUT / "integers" / task / name / f"seed-{seed}" for name in TRAINED}
            for name, own in TRAINED.items():
                train(folder[name], recipe, [*options, *own, *arguments.set, f"run.seed={seed}", "checkpoint.every=0"])
            run = {"f32": accuracy(folder["f32"]), "after": accuracy(folder["f32"], "--int8"), "qat": accuracy(folder["qat"])}
            run |= {"lost_after": run["f32"] - run["after"], "lost": run["f32"] - run["qat"]}
            results[task].append(run)
            print(f"{task}, seed {seed}: f32 {run['f32']:.2f}, INT8 after training {run['after']:.2f}, "
                  f"trained for it {run['qat']:.2f} %", flush=True)

    rows = []
    for task, runs in results.items():
        figures = {name: Measured(runs, name) for name in ("f32", "after", "qat", "lost_after", "lost")}
        rows.append((15, f"{task}: f32; INT8 after training", "", f"{figures['f32']}; {figures['after']} %", None))
        rows.append((15, f"{task}: INT8, trained for it, and points lost", "< 1 %", f"{figures['qat']} %, {figures['lost']}",
                     figures["lost"].mean <= 0.3))
    show(f"Test accuracy in integers, {arguments.seeds} seeds: mean ± standard error", rows)
    return {"integers": results}
