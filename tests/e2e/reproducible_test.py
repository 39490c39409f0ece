"""A recipe gives the same losses for every number of ranks and every way to share the experts, and the same bits if
these are equal."""

import json
import re
from pathlib import Path

from runs import PROGRAM, assert_same_losses, assert_same_weights, losses, prepare, run, train, weights

SHAPES = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]  # (ranks, ranks of a group that shares the experts)
STEPS = "train.steps=50"
TWO_RANKS = ["mpirun", "--oversubscribe", "-n", "2"]


def main():
    prepare()
    for ranks, sharing in SHAPES:
        shape = f"{ranks}x{sharing}"
        train(ranks, shape, STEPS, f"parallel.expert_parallel={sharing}", says=[f"{sharing} expert-parallel"])
        assert_same_losses("1x1", shape)
    assert losses("1x1")[50] < 0.7 * losses("1x1")[1], "it learns nothing"

    for ranks, sharing in [(1, 1), (2, 2), (4, 2)]:
        train(ranks, f"again{ranks}", STEPS, f"parallel.expert_parallel={sharing}")
        assert losses(f"again{ranks}") == losses(f"{ranks}x{sharing}")
        assert_same_weights(f"again{ranks}", f"{ranks}x{sharing}")

    # A small receive buffer costs rounds but does not change the numbers.
    train(4, "rounds", STEPS, "moe.capacity_factor=0.3")
    assert_same_losses("1x1", "rounds")

    # Nor does sending the rows in parts, each of which adds its own sum to the gradients.
    train(4, "chunks", STEPS, "parallel.dispatch_chunks=3")
    assert_same_losses("1x1", "chunks")

    # Accumulating two batches per step agrees on every shape, with every kind of expert layer. train.epsilon: without
    # balancing, an expert may see only one token of a batch. AdamW would divide its tiny gradients by their own size
    # and turn rounding errors into whole steps, which in the end send a token to another expert.
    # (These are values with which no token is so near to a tie between two experts that the rounding of a product, which
    # depends on the processor and on the number of rows, decides.)
    more = ["train.accumulate=2", "train.batch_tokens=128", "train.ema=0.9", "moe.shared_experts=1"]
    for ranks in (1, 2):
        for balancer, epsilon in (("aux_loss", 1e-5), ("none", 1e-4), ("grad_norm", 1e-5)):
            chosen = [*more, f"moe.balancer={balancer}", f"train.epsilon={epsilon}"]
            train(ranks, f"{balancer}{ranks}", "train.steps=20", *chosen)
            if ranks > 1:
                assert_same_losses(f"{balancer}1", f"{balancer}{ranks}")

    # Decisions per sequence, router noise and the domain loss depend only on the sequence itself.
    for router in ("linear", "attention", "attention_token"):
        chosen = [f"moe.router={router}", "moe.router_heads=2", "moe.router_noise=0.3", "moe.balancer=grad_norm"]
        chosen += ["data.domain_column=urgent", "moe.domain_expert=1", "train.epsilon=1e-5"]
        says = ["test: layers.1.moe: domain urgent: expert 1 receives it x"]
        for ranks in (1, 2, 4):
            train(ranks, f"{router}{ranks}", "train.steps=20", *chosen, says=says)
            if ranks > 1:
                assert_same_losses(f"{router}1", f"{router}{ranks}")

    # A route cache and the number of ranks do not change an evaluation; balancing in inference evens the loads.
    said = {}
    for options in ([], ["--set=moe.route_cache_mib=1"], ["--set=moe.balance_inference=true"]):
        for ranks in (1, 2):
            output = run([*(TWO_RANKS if ranks > 1 else []), PROGRAM, "eval", "attention1", "--split", "train", *options])
            found = json.loads(output.splitlines()[-1])
            said[tuple(options), ranks] = [round(found[key], 6) for key in ("loss", "accuracy", "batch_utilization")]
    plain, cached, evened = list(said.values())[::2]
    assert list(said.values())[::2] == list(said.values())[1::2], said
    assert plain == cached and evened[2] > plain[2], said

    # They agree with shared layers, whose gradients are complete only after backward through their first use.
    shared = ["model.layers=3", "model.share_layers=true", "model.embedding=8", "model.token_dropout=0.1"]
    shared += ["train.masked_weight=0.2", "train.epsilon=1e-5", "parallel.bucket_kib=1", "data.domain_column=urgent"]
    for balancer in ("bias", "grad_norm"):
        for ranks in (1, 2, 4):
            train(ranks, f"{balancer}_shared{ranks}", "train.steps=20", *shared, f"moe.balancer={balancer}")
            if ranks > 1:
                assert_same_losses(f"{balancer}_shared1", f"{balancer}_shared{ranks}")
    names = weights("bias_shared1").keys()
    assert {"layers/0/moe/router/weight", "embedding_projection/weight", "masked_tokens/transform/weight"} <= names, names
    assert not any(name.startswith("layers/1") for name in names), names
    shown = [run([*start, PROGRAM, "inspect", "--experts", "bias_shared1"]) for start in ([], TWO_RANKS)]
    assert shown[0] == shown[1] and "layers.0.moe: utilization" in shown[0], shown
    shares = [int(share) for share in re.findall(r"^ +(\d+)%  class", shown[0], re.M)]
    assert shares and max(shares) <= 100, shown[0]

    # They agree with a gate that sends each token to one, two or three experts.
    adaptive = ["moe.top_k=3", "moe.top_p=0.5", "moe.entropy_coefficient=0.01"]
    for ranks in (1, 2, 4):
        said = train(ranks, f"adaptive{ranks}", "train.steps=20", *adaptive, says=["experts per token (1 to "])
        mean = float(re.findall(r"test: ([0-9.]+) experts per token", said)[-1])
        assert 1 < mean < 3, mean
        if ranks > 1:
            assert_same_losses("adaptive1", f"adaptive{ranks}")

    # They agree with experts that choose their tokens from all ranks.
    choose = ["moe.gate=expert_choice", "moe.balancer=none", "train.epsilon=1e-5"]
    for ranks in (1, 2, 4):
        train(ranks, f"choose{ranks}", "train.steps=20", *choose)
        if ranks > 1:
            assert_same_losses("choose1", f"choose{ranks}")

    # Predictions follow the gate's options. They are the same with a route cache, for new texts and for repeated ones.
    Path("asked").write_text("".join(json.loads(line)["text"] + "\n" for line in open("texts.jsonl")) * 2)

    def predicted(directory, *options):
        with open("asked") as asked:
            return run([PROGRAM, "predict", directory, *options], stdin=asked)

    assert predicted("adaptive1") != predicted("adaptive1", "--set=moe.top_p=1")
    assert predicted("attention1") == predicted("attention1", "--set=moe.route_cache_mib=1")


if __name__ == "__main__":
    main()
