"""The memory planned before the first step is enough for all that follow, whichever split has larger batches."""

import json

from runs import prepare, train


def main():
    prepare()
    lines = open("texts.jsonl").read().splitlines(keepends=True)
    few = [next(line for line in lines if json.loads(line)["label"] == f"class {c}") for c in range(3)] + lines[:57]
    for name, part in ("few", few), ("many", lines):
        open(f"{name}.jsonl", "w").write("".join(part))
    # Nearly all rows go to one expert, which receives as many rows at a time as evaluation made it plan for.
    options = [
        "data.path=", "data.train=few.jsonl", "data.test=few.jsonl", "train.batch_tokens=2048", "train.steps=12",
        "train.learning_rate=1e-2", "model.hidden=64", "model.ffn=1024", "model.layers=1", "model.bigrams=0", "moe.experts=2",
        "moe.top_k=1", "moe.balancer=none", "moe.every=1",
    ]
    for validation in ("few", "many"):
        train(2, validation, f"data.validation={validation}.jsonl", *options)


if __name__ == "__main__":
    main()
