"""A run may begin with the tokenizer and the weights of another: all of them, or those that fit."""

import shutil

from runs import assert_same_weights, prepare, train

STILL = ["train.learning_rate=0", "train.steps=2", "moe.balancer=none"]  # nothing moves


def main():
    prepare()
    for averaged, ema in (("plain", "train.ema=0"), ("mean", "train.ema=0.9")):
        train(1, averaged, "moe.balancer=none", ema)
        for ranks in (1, 2):
            again = f"{averaged}_again{ranks}"
            train(ranks, again, f"train.start_from={averaged}", *STILL, ema, says=["started from", "35 of 35 tensors"])
            assert_same_weights(averaged, again)

    # Bigrams go with their weights, which other sizes leave behind.
    fewer = ["train.start_from=plain", "train.steps=2", "moe.balancer=none", "model.bigrams=100", "data.vocabulary=50"]
    train(1, "fewer", *fewer, says=["tokens of 104", "33 of 35 tensors"])
    train(1, "none", "train.start_from=nowhere", status=1, says=["train.start_from: ", "nowhere", "train that model first"])
    shutil.rmtree("plain")  # whoever is resumed has all
    train(1, "fewer", *fewer[:1], *fewer[2:], "train.steps=3", resume="auto", says=["resumed from", "at step 2"])

    # An average cannot be begun, or left, in the middle.
    for run, options, ema, says in (
        ("mean", ["moe.balancer=none"], 0, "its weights are a moving average"),
        ("fewer", fewer[2:], 0.9, "it has no moving average"),
    ):
        changed = [*options, "train.steps=30", f"train.ema={ema}"]
        train(1, run, *changed, resume="auto", status=1, says=[says, "resume with train.ema as it was"])


if __name__ == "__main__":
    main()
