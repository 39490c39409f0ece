"""A run that was stopped by a signal, or ended early, continues as if it had not stopped: with the same bits on the
same number of ranks, and with the same losses on another number."""

import os
import re
import signal
from pathlib import Path

from runs import PROGRAM, assert_same_losses, assert_same_weights, checkpoints, command, go_on, losses
from runs import prepare, run, stop_after, train

STEPS = 60
# Options with state: optimizer moments, a mean of the weights, the routing bias, dropout, batches within a step.
RUN = [f"train.steps={STEPS}", "train.ema=0.9", "train.accumulate=2", "checkpoint.every=7", "checkpoint.keep=100"]


def interrupted(ranks, directory, number):
    """Trains until some steps are done, then sends the signal."""
    arguments = command(1, directory, *RUN, "train.steps=100000")
    if ranks > 1:
        arguments = [os.environ["CONCLAVE_SOURCE"] + "/scripts/run_ranks", str(ranks), *arguments]
    stop_after(5, arguments, directory, number)
    last = max(losses(directory))
    assert checkpoints(directory)[-1].name == f"step-{last:08d}.h5", (last, checkpoints(directory))


def main():
    prepare()
    for ranks in (1, 2):
        train(ranks, f"whole{ranks}", *RUN)
    assert_same_losses("whole1", "whole2")

    # From a checkpoint in the middle of an epoch.
    for written in (1, 2):
        for ranks in (1, 2, 4):
            directory = f"{written}then{ranks}"
            go_on(ranks, directory, f"whole{written}", 28, *RUN)
            assert_same_losses(f"whole{written}", directory)
            if ranks == written:
                assert losses(f"whole{written}") == losses(directory)
                assert_same_weights(f"whole{written}", directory)

    # Options with other states.
    plain = ["moe.balancer=aux_loss", "moe.router=attention_token", "moe.router_heads=2", "moe.top_p=0.6"]
    choice = ["moe.balancer=none", "moe.gate=expert_choice"]
    shared = ["model.layers=3", "model.share_layers=true", "model.embedding=8", "model.token_dropout=0.1"]
    shared += ["train.masked_weight=0.2"]
    for name, options in (("plain", plain), ("choice", choice), ("shared", shared)):
        train(2, name, *RUN, *options)
        go_on(2, f"{name}_resumed", name, 28, *RUN, *options)
        assert losses(name) == losses(f"{name}_resumed")
        assert_same_weights(name, f"{name}_resumed")
    others = ["moe.balancer=grad_norm", "moe.router=attention", "moe.router_heads=2", "moe.router_noise=0.3"]
    others += ["data.domain_column=urgent", "moe.domain_expert=2", "moe.domain_steps=0.8"]
    train(2, "others", *RUN, *others)
    for ranks in (2, 4):
        go_on(ranks, f"others{ranks}", "others", 28, *RUN, *others)
        assert_same_losses("others", f"others{ranks}")
    assert losses("others") == losses("others2")
    assert_same_weights("others", "others2")

    # Other data is told, unless the checkpoint says nothing of its data.
    told = "warning: the data is not that of the checkpoint: for task classify, it had "
    rows = Path("texts.jsonl").read_text().splitlines(keepends=True)
    for directory, changed, says in (("same", rows, None), ("swapped", [*rows[1:], rows[0]], "there are as many"), ("fewer", rows[:-9], "now there are ")):
        Path("texts.jsonl").write_text("".join(changed))
        said = train(1, directory, *RUN, "train.steps=29", resume="whole1/step-00000028.h5", says=["at step 28"])
        assert (told in said and says in said) if says else told not in said, said
    Path("texts.jsonl").write_text("".join(rows))

    # A checkpoint tells of which step its measurements are, also after resuming.
    often = [*RUN, "train.steps=6", "checkpoint.every=1"]
    train(1, "measured", *often, "train.evaluate_every=2")
    train(1, "later", *often, "train.evaluate_every=5", resume="measured/step-00000003.h5")
    for folder, step, measured in (("measured", 3, 2), ("measured", 4, 4), ("later", 4, 2), ("later", 5, 5)):
        said = run([PROGRAM, "inspect", f"{folder}/step-{step:08d}.h5"], says=["validation_loss"])
        old = [line for line in said.splitlines() if line.endswith(f" (measured at step {measured})")]
        assert len(old) == said.count("(measured at") and (len(old) > 2) == (step != measured), said

    # Where a recipe needs state that the checkpoint lacks, the message has the key that differs.
    for option, key in (("moe.balancer=grad_norm", 'moe.balancer = "grad_norm" ("bias" there)'), ("moe.experts=8", "moe.experts = 8 (4 there)")):
        says = ["the recipe is not that checkpoint's: ", key, "or begin a run with its weights by train.start_from"]
        train(1, "never", *RUN, option, resume="whole1/step-00000028.h5", status=1, says=says)

    # A pass over the data is rounded up to whole steps.
    said = train(1, "passes", "train.steps=0", "train.epochs=3", "train.accumulate=5")
    batches = int(re.search(r"in (\d+) batches", said).group(1))
    assert batches % 5 != 0 and max(losses("passes")) == -(-3 * batches // 5) != 3 * (batches // 5), said

    constant = ["train.schedule=constant", "train.warmup=0"]
    RUN.extend(constant)  # makes the steps independent of the length of the run
    for ranks in (1, 2):
        for number in (signal.SIGINT, signal.SIGTERM):
            directory = f"{number.name}{ranks}"
            interrupted(ranks, directory, number)
            steps = f"train.steps={max(losses(directory)) + 10}"
            train(ranks, directory, *RUN, steps, resume="auto", says=["resumed from"])
            train(ranks, f"{directory}whole", *RUN, steps)
            assert losses(f"{directory}whole") == losses(directory)
            assert_same_weights(f"{directory}whole", directory)


if __name__ == "__main__":
    main()
