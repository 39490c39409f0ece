"""A loss that is not finite ends training. The message names the place where it began; an earlier checkpoint stays."""

import re

from runs import PROGRAM, checkpoints, prepare, run, train

# Weights overflow f32 within a few steps.
OVERFLOW = ["train.learning_rate=10", "train.weight_decay=10", "train.clip_norm=0", "train.warmup=0",
            "train.schedule=constant", "train.steps=400"]


def main():
    prepare()
    for ranks in (1, 2):
        directory = f"saved{ranks}"
        says = ["is not finite", "first ", "The last checkpoint before that is intact: ", "train.learning_rate"]
        saving = ["checkpoint.every=1", "checkpoint.keep=500", "train.evaluate_every=1"]
        output = train(ranks, directory, *OVERFLOW, *saving, status=1, says=says)
        said = next(line for line in output.splitlines() if "is not finite" in line)
        print(said)
        # In forward, the message names the layer and the function; in backward, the parameter.
        assert re.search(r"rank 0: first (in \S.* \(.+\)|that of \S+)", said), said
        # The newest checkpoint has the weights with which the step was computed, and its loss may be infinite, too.
        *_, last, failed = checkpoints(directory)
        assert f"is intact: {last}" in output, output
        assert f"step {int(failed.stem[5:]) + 1}: " in said, (said, failed)
        for checkpoint in (last, failed):
            run([PROGRAM, "inspect", checkpoint, "--verify"], says=["every tensor matches its checksum"])
        train(ranks, f"unsaved{ranks}", *OVERFLOW, status=1, says=["is not finite", "There is no checkpoint yet"])
        assert not checkpoints(f"unsaved{ranks}")


if __name__ == "__main__":
    main()
