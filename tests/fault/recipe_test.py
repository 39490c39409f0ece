"""A mistake in a recipe is found before training starts and gives status 2. The message says where the mistake is, what
is allowed, and what was probably meant."""

import json
from pathlib import Path

from runs import PROGRAM, RECIPE, command, prepare, run, train


def mistake(old, new, *says, ranks=1):
    """Replaces `old` in RECIPE and checks that the message has the file, the line, and `says`."""
    text = RECIPE.replace(old, new, 1)
    assert text != RECIPE, old
    Path("tiny.toml").write_text(text)
    line = text[: text.index(new)].count("\n") + new.count("\n") + 1
    output = train(ranks, "never", status=2, says=[f"tiny.toml:{line}: ", *says])
    said = [shown for shown in output.splitlines() if f"tiny.toml:{line}: " in shown]
    assert len(said) == 1, f"on {ranks} ranks it is said {len(said)} times:\n{output}"
    assert not Path("never").exists(), "training began"


def main():
    prepare()
    mistake("[moe]", "[moe]\ntop_q = 1", "moe.top_q: no such key", "the nearest is moe.top_k", "Keys of [moe]: every,")
    mistake("[moe]", "[mou]", "[mou]: no such table", "the nearest is [moe]", "Tables are: run, data, tasks, image, generate, model, moe,")
    mistake("hidden = 32", 'hidden = "32"', "model.hidden: expected an integer", 'got the string "32"')
    mistake("hidden = 32", "hidden = 32.5", "model.hidden: expected an integer", "got the float 32.5")
    mistake("hidden = 32", "hidden = 0", "model.hidden = 0: must be between 1 and 65536")
    mistake("steps = 20", "steps = -1", "train.steps = -1: must be between 0 and")
    mistake("learning_rate = 3e-3", "learning_rate = nan", "train.learning_rate = nan: must be between 0 and 10")
    mistake("heads = 2", "heads = 3", "model.heads = 3 does not divide model.hidden = 32", "may be 1, 2, 4, 8, 16, 32")
    mistake("experts = 4", "experts = 4\ndomain_expert = 1", "moe.domain_expert = 1 has no texts", "data.domain_column")
    mistake("[data]", '[data]\ndomain = "law"', 'is for source = "wordnet"', "data.domain_column")
    mistake("experts = 4", "experts = 1", "moe.top_k", "is more than moe.experts = 1", "may be 1 to 1")
    mistake("[train]", '[train]\nschedule = "cosinus"', 'must be one of constant, linear, cosine; the nearest is cosine')
    mistake("steps = 20", "steps = = 20", "column")

    # Options of a mixture that exclude each other.
    mistake("[moe]", "[moe]\ntop_p = 1.5", "moe.top_p = 1.5: must be between 0.001 and 1")
    mistake("[moe]", "[moe]\nk_min = 3", "moe.k_min = 3 is more than moe.top_k = 2 (default)", "may be 1 to 2")
    mistake("[moe]", '[moe]\nrouter = "attention"\nrouter_heads = 3', "moe.router_heads = 3 does not divide", "may be 1, 2, 4")
    mistake("[moe]", "[moe]\nroute_cache_mib = 8", "scores each token on its own", "set moe.route_cache_mib to 0")
    mistake("[moe]", '[moe]\ngate = "expert_choice"', 'moe.balancer = "bias" (default)', 'set moe.balancer to "none"')
    mistake("[moe]", '[moe]\nbalancer = "gradnorm"', "moe.balancer: no kind of balancer is named 'gradnorm'", "aux_loss, bias, grad_norm, none")

    # Mistakes that depend on the number of ranks; all ranks end in order.
    mistake("experts = 4", "experts = 3", "does not divide moe.experts = 3", "may be 1", "a multiple of 2", ranks=2)
    mistake(
        "every = 0", "every = 0\n[parallel]\nexpert_parallel = 3",
        "parallel.expert_parallel = 3 does not divide 2 ranks", "may be 1, 2", ranks=2,
    )
    # Several mistakes are reported at once.
    mistake("experts = 4", "exprts = 4\ntop_q = 2", "the nearest is moe.top_k")

    prepare()
    train(1, "never", "moe.exprts=2", status=2, says=["--set moe.exprts=2: ", "the nearest is moe.experts"])
    train(1, "never", "moe.experts=many", status=2, says=["--set moe.experts=many: ", "expected an integer"])
    run([PROGRAM, "train", "tiny.tml"], status=2, says=["tiny.tml: no such file", "tiny.toml"])

    cached = ["moe.router=attention", "moe.router_heads=2", "moe.route_cache_mib=1000000"]
    train(2, "never", *cached, status=1, says=["moe.route_cache_mib", "memory"])

    train(1, "never", "image.size=4", "image.shift=4", status=2, says=["image.size = 4 with image.shift = 4"])

    # A mistake in the data is not one of the recipe; the message names its place.
    wordnet = ["data.source=wordnet", "data.path=nowhere"]
    for ranks in (1, 2):
        train(ranks, "never", *wordnet, status=1, says=["nowhere", "apt-get install wordnet-base"])
    urgent = ["data.domain_column=urgnt", "moe.domain_expert=1"]
    train(2, "never", *urgent, status=1, says=['data.domain_column = "urgnt": no training text belongs to this domain'])
    train(1, "never", "data.path=nowhere.jsonl", status=1, says=["nowhere.jsonl"])
    lines = Path("texts.jsonl").read_text().splitlines()
    lines[6] = '{"text": "no label"}'
    Path("texts.jsonl").write_text("\n".join(lines))
    train(2, "never", status=1, says=["texts.jsonl:7", "label"])
    assert not Path("never").exists()

    # Valid input that is surely not intended gives a warning.
    Path("texts.jsonl").write_text("".join(json.dumps({"text": f"a text of number {i}", "label": "one"}) + "\n" for i in range(60)))
    says = ['warning: "one" is the only class', "training texts fill data.max_length = 3 tokens"]
    train(1, "told", "data.max_length=3", "train.steps=1", says=says)
    Path("texts.jsonl").write_text("".join(f'{{"text": "the same", "label": "{i}"}}\n' for i in range(60)))
    train(1, "same", "train.steps=1", says=["warning: no validation and no test examples"])


if __name__ == "__main__":
    main()
