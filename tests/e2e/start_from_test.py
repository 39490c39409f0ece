"""A run may start from the tokenizer and the weights of another: all weights, or those that fit."""

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

    # Bigrams are taken together with their weights, or neither is if the size differs.
    fewer = ["train.start_from=plain", "train.steps=2", "moe.balancer=none", "model.bigrams=100", "data.vocabulary=50"]
    train(1, "fewer", *fewer, says=["tokens of 104", "33 of 35 tensors"])
    train(1, "none", "train.start_from=nowhere", status=1, says=["train.start_from: ", "nowhere", "train that model first"])
    shutil.rmtree("plain")  # a resumed run does not need it
    train(1, "fewer", *fewer[:1], *fewer[2:], "train.steps=3", resume="auto", says=["resumed from", "at step 2"])

    # A resumed run cannot begin or stop averaging the weights.
    for run, options, ema, says in (
        ("mean", ["moe.balancer=none"], 0, "its weights are a moving average"),
        ("fewer", fewer[2:], 0.9, "it has no moving average"),
    ):
        changed = [*options, "train.steps=30", f"train.ema={ema}"]
        train(1, run, *changed, resume="auto", status=1, says=[says, "resume with train.ema as it was"])


if __name__ == "__main__":
    main()
