"""The mixture in scripts/reproduce: balancers, gates and routers on WordNet."""

import json
import re
import statistics
import subprocess
from pathlib import Path

from reproduction import CONCLAVE, ENCODER, OUT, Measured, call, kept, not_below, show, train

RECIPE = "recipes/quick.toml"
TASKS = {"26": [], "45": ["data.classes=all"]}  # WordNet's lexicographer files: of nouns; of all parts of speech
ADAPTIVE = ["moe.top_k=3", "moe.top_p=0.7", "moe.entropy_coefficient=0.003"]
GRAD_NORM = ["moe.balancer=grad_norm"]
MEDICAL = "recipes/medical.toml"  # a variant with its own recipe
VARIANTS = {
    "medical": GRAD_NORM,
    "none": ["moe.balancer=none"],
    "aux_loss": ["moe.balancer=aux_loss"],
    "bias": ["moe.balancer=bias"],
    "grad_norm": GRAD_NORM,
    "grad_norm-weights": [*GRAD_NORM, "moe.grad_norm_moves=weights"],
    "grad_norm-bias": [*GRAD_NORM, "moe.grad_norm_moves=bias"],
    "adaptive": [*GRAD_NORM, *ADAPTIVE],
    "top-1": [*GRAD_NORM, "moe.top_k=1"],
    "expert_choice": ["moe.balancer=none", "moe.gate=expert_choice"],
    "attention": [*GRAD_NORM, "moe.router=attention"],
    "attention_token": [*GRAD_NORM, "moe.router=attention_token"],
}
# Options that matter only in inference: a trained model is evaluated again with them.
INFERENCE = {"evened": "moe.balance_inference=true", "adaptive": "moe.top_p=0.7"}
SOURCES = ("Utilization per training batch: the mean of moe/utilization over the steps; per test batch and over the test set, "
           "in inference: test/batch_utilization and test/utilization")
BALANCERS = ["none", "aux_loss", "bias", "grad_norm"]


def mixture_run(task, variant, seed, extra):
    """Trains one run of the mixture; returns its figures."""
    directory = OUT / task / variant / f"seed-{seed}"
    options = [*ENCODER, *TASKS[task], *VARIANTS[variant], *extra, f"run.seed={seed}", "checkpoint.every=0"]
    records = train(directory, MEDICAL if variant == "medical" else RECIPE, options)
    utilization = [(r["step"], r["moe/utilization"]) for r in records if "moe/utilization" in r]
    test = [r for r in records if "test/accuracy" in r][-1]
    return {
        "directory": str(directory),
        "accuracy": 100 * test["test/accuracy"],
        "train_batch_utilization": 100 * statistics.fmean(u for _, u in utilization),
        "test_batch_utilization": 100 * test["test/batch_utilization"],
        "test_utilization": 100 * test["test/utilization"],
        "experts_per_token": test["test/experts_per_token"],
        "domain_ratio": test.get("test/domain_ratio"),
        "balancing": 100 * statistics.median(
            sum(value for key, value in r.items() if key.endswith("/balancing_milliseconds"))
            / (1e3 * r["train/seconds_per_step"]) for r in records if "moe/utilization" in r and r["step"] > 100),
        "curve": utilization,
    }


def again(directory, name):
    """Evaluates the test split again, with the options INFERENCE[name]."""
    def evaluate():
        said = call(["scripts/run_ranks", "2", CONCLAVE, "eval", directory, f"--set={INFERENCE[name]}"])
        return json.loads([line for line in said.splitlines() if line.startswith("{")][-1])

    run = json.loads(Path(directory, "options.json").read_text())
    result = kept(Path(directory, f"{name}.json"), {"run": run, "with": INFERENCE[name]}, evaluate)
    return {
        f"{name}_accuracy": 100 * result["accuracy"],
        f"{name}_utilization": 100 * result["utilization"],
        f"{name}_batch_utilization": 100 * result["batch_utilization"],
        f"{name}_experts_per_token": result["experts_per_token"],
    }


def routing():
    """The output of `conclave bench routing`, in one process and on two ranks."""
    alone = call([CONCLAVE, "bench", "routing"])
    ranks = call(["scripts/run_ranks", "2", CONCLAVE, "bench", "routing"])
    without, cached = (float(x) for x in re.findall(r"\.\.\. ([0-9.]+)%", alone)[:2])
    less = float(re.findall(r"ms: (-?[0-9]+)% less", ranks)[0])
    uneven = float(re.findall(r"utilization ([0-9]+)%", ranks)[0])
    return {"share": without, "cached_share": cached, "identical": "outputs identical" in alone,
            "uneven_utilization": uneven, "time_less": less}


def batching():
    """The output of `conclave bench batching`."""
    said = call([CONCLAVE, "bench", "batching"])
    fixed, dynamic = map(float, re.findall(r"([0-9.]+)% / ([0-9.]+)%", said)[0])
    return {"fixed_padding": fixed, "padding": dynamic, "faster": float(re.findall(r": x([0-9.]+)", said)[0])}


def table(task, results):
    """Rows of (claim, what, claimed, measured, passes)."""
    def of(variant, name):
        return Measured(results[variant], name) if variant in results else None

    def utilizations(variant):
        return f"{of(variant, 'train_batch_utilization')} %, {of(variant, 'test_batch_utilization')} %"

    rows = []
    grad_norm = of("grad_norm", "accuracy")
    if grad_norm:
        per_batch, over_test = of("grad_norm", "train_batch_utilization"), of("grad_norm", "test_utilization")
        rows.append((4, "utilization per training batch, grad_norm", "72 -> 89 %", f"{per_batch} %", per_batch.mean >= 93))
        rows.append((4, "utilization per test batch, grad_norm", "", f"{of('grad_norm', 'test_batch_utilization')} %", None))
        rows.append((4, "utilization over the test set, grad_norm", "", f"{over_test} %", None))
        evened_test = of("grad_norm", "evened_utilization")
        rows.append((4, "the same, batches evened in inference", "", f"{evened_test} %", evened_test.mean >= 97))
        rows.append((4, "accuracy so", "", f"{of('grad_norm', 'evened_accuracy')} %",
                     not_below(of("grad_norm", "evened_accuracy"), grad_norm)))
        rows.append((4, "share of a training step spent on it", "", f"{of('grad_norm', 'balancing')} %", None))
        for other in BALANCERS[:-1]:
            if accuracy := of(other, "accuracy"):
                rows.append((4, f"accuracy, grad_norm against {other}", "", f"{grad_norm} against {accuracy} %",
                             not_below(grad_norm, accuracy)))
                rows.append((4, f"utilization per batch, {other}: training, test", "", utilizations(other), None))
        for part in "grad_norm-weights", "grad_norm-bias":
            if accuracy := of(part, "accuracy"):
                rows.append((4, f"ablation: {part}: utilization per batch: training, test; accuracy", "", f"{utilizations(part)}; {accuracy} %", None))
    if "medical" in results:
        ratio = of("medical", "domain_ratio")
        rows.append((3, "a medical token's share at the medical expert, over another's", "", f"{ratio} x", ratio.mean >= 3))
        if grad_norm:
            rows.append((3, "accuracy with that expert", "", f"{of('medical', 'accuracy')} against {grad_norm} %",
                         not_below(of("medical", "accuracy"), grad_norm)))
    if grad_norm:
        k, adaptive = of("grad_norm", "adaptive_experts_per_token"), of("grad_norm", "adaptive_accuracy")
        rows.append((2, "adaptive k, trained with k = 2: experts per token", "2-3", str(k), k.mean <= 2))
        rows.append((2, "its utilization per test batch", "", f"{of('grad_norm', 'adaptive_batch_utilization')} %", None))
        rows.append((18, "its accuracy against that of k = 2", "future work", f"{adaptive} against {grad_norm} %",
                     not_below(adaptive, grad_norm)))
    if "adaptive" in results:
        rows.append((2, "for comparison: adaptive in training, too, k = 1 to 3", "",
                     f"{of('adaptive', 'experts_per_token')} experts, accuracy {of('adaptive', 'accuracy')} %", None))
    for variant in "top-1", "expert_choice", "attention", "attention_token":
        if variant in results:
            what = f"for comparison: {variant}: utilization per batch: training, test; accuracy"
            rows.append((7 if variant.startswith("attention") else 2, what, "",
                         f"{utilizations(variant)}; {of(variant, 'accuracy')} %", None))
    return rows


def tests():
    """Rows that depend on a test of this project."""
    of_row = {7: ("attention router against PyTorch, to 1e-5", "mpi_1"), 14: ("0 allocations per step", "e2e/allocations"),
              17: ("an LSTM expert under 40 lines, as a plug-in", "e2e/plugin")}
    names = "|".join(test for _, test in of_row.values())
    said = subprocess.run(["scripts/test", "-R", f"^({names})$"], capture_output=True, text=True).stdout
    return [(row, what, "", f"scripts/test -R {test}", bool(re.search(rf": {test} \.+ +Passed", said)))
            for row, (what, test) in of_row.items()]


def draw(task, results, shares):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    def save(figure, name):
        figure.tight_layout()
        figure.savefig(OUT / f"{name}-{task}.svg")
        figure.savefig(OUT / f"{name}-{task}.png", dpi=150, backend="agg")
        plt.close(figure)

    figure, axes = plt.subplots(figsize=(7, 4))
    for variant in BALANCERS:
        if variant in results:
            curves = [dict(run["curve"]) for run in results[variant]]
            steps = sorted(set.intersection(*(set(curve) for curve in curves)))
            axes.plot(steps, [100 * statistics.fmean(c[step] for c in curves) for step in steps], label=variant, lw=1)
    axes.axhline(93, color="grey", ls=":", lw=1)
    axes.set(xlabel="step", ylabel="utilization per training batch, %", ylim=(0, 100), title=f"WordNet, {task} classes")
    axes.legend()
    save(figure, "utilization")

    figure, axes = plt.subplots(figsize=(5, 4))
    for variant, prefix, label in [("top-1", "", "k = 1"), ("adaptive", "", "top_p, k = 1 to 3"),
                                   ("grad_norm", "adaptive_", "top_p in inference"), ("grad_norm", "", "k = 2")]:
        if variant in results:
            k, accuracy = (Measured(results[variant], prefix + name) for name in ("experts_per_token", "accuracy"))
            axes.errorbar(k.mean, accuracy.mean, accuracy.error, k.error, "o", capsize=3, label=label)
    axes.set(xlabel="experts per token", ylabel="test accuracy, %", title="accuracy against compute")
    axes.legend()
    save(figure, "adaptive")

    if shares:
        figure, axes = plt.subplots(figsize=(4, 4))
        axes.bar(["no cache", "cache, 90 % repeats"], [shares["share"], shares["cached_share"]])
        axes.axhline(2, color="grey", ls=":", lw=1)
        axes.set(ylabel="routing's share of the forward pass, %")
        save(figure, "shares")


def mixture(arguments):
    """Trains the variants, prints tables and draws; returns the results to save."""
    tasks = {}
    for task in arguments.tasks:
        results = tasks[task] = {}
        for seed in range(1, arguments.seeds + 1):
            for variant in arguments.variants:
                run = mixture_run(task, variant, seed, arguments.set)
                if variant == "grad_norm":
                    for name in INFERENCE:
                        run |= again(run["directory"], name)
                results.setdefault(variant, []).append(run)
    shares, batches = routing(), batching()

    for task, results in tasks.items():
        show(f"WordNet, {task} classes, {arguments.seeds} seeds: mean ± standard error. {SOURCES}", table(task, results))
        draw(task, results, shares)
    show("Routing in inference", [
        (8, f"routing's share of time, 90 % repeats (no cache: {shares['share']} %)", "12 -> 4 %",
         f"{shares['cached_share']} %, outputs {'identical' if shares['identical'] else 'DIFFER'}",
         shares["cached_share"] <= 2 and shares["identical"]),
        (5, f"time of the MoE forward pass, evened from {shares['uneven_utilization']:.0f} %", "-18 %",
         f"-{shares['time_less']:.0f} %", shares["time_less"] >= 25),
    ])
    show("Batches of texts alike in length, WordNet's glosses", [
        (16, f"padding, if batches were padded (in any order: {batches['fixed_padding']} %)", "", f"{batches['padding']} %",
         batches["padding"] <= 3),
        (16, "tokens per second, against padded batches in any order", "", f"{batches['faster']} x", batches["faster"] >= 1.5),
    ])
    show("What tests decide", tests())
    return {"tasks": tasks, "routing": shares, "batching": batches}
