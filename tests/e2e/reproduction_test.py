"""scripts/reproduce reuses a run only if its recipe and the model that it starts from are unchanged."""

import os
import sys
from pathlib import Path

from runs import PROGRAM, prepare

SCRIPTS = Path(os.environ["CONCLAVE_SOURCE"], "scripts")
sys.path.insert(0, str(SCRIPTS))

import mixture
import reproduction

STEPS = ["train.steps=2", "model.bigrams=0"]


def is_trained(directory, *options):
    """Whether the run is trained, instead of reused."""
    log = Path(directory, "log.txt")
    log.unlink(missing_ok=True)
    records = reproduction.train(Path(directory), "tiny.toml", [*STEPS, *options])
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2], records
    return log.exists()


def main():
    prepare()
    Path("scripts").symlink_to(SCRIPTS)
    reproduction.OUT, reproduction.CONCLAVE = Path("."), PROGRAM
    started = ["run", "train.start_from=first"]
    assert is_trained("first") and not is_trained("first")
    assert is_trained(*started) and not is_trained(*started)
    assert is_trained(*started, "run.seed=2") and is_trained(*started) and not is_trained(*started)
    # First other weights to start from, then another recipe with the same options.
    assert is_trained("first", "run.seed=3")
    assert is_trained(*started) and not is_trained(*started)
    recipe = Path("tiny.toml").read_text()
    Path("tiny.toml").write_text(recipe.replace("ffn = 32", "ffn = 48"))
    assert is_trained(*started) and not is_trained(*started)

    # Each utilization is of what its name says.
    steps = [{"step": step, "moe/utilization": share, "train/seconds_per_step": 1} for step, share in ((101, 0.9), (102, 0.7))]
    test = {"step": 102, "test/accuracy": 0.5, "test/utilization": 0.6, "test/batch_utilization": 0.4, "test/experts_per_token": 2}
    mixture.train = lambda *_: [*steps, test]
    run = mixture.mixture_run("26", "none", 1, [])
    names = ["train_batch_utilization", "test_batch_utilization", "test_utilization"]
    assert [round(run[name], 6) for name in names] == [80, 40, 60], run
    rows = {what: measured for _, what, _, measured, _ in mixture.table("26", {"top-1": [run]})}
    assert list(rows.values()) == ["80.00 %, 40.00 %; 50.00 %"] and "training, test; accuracy" in list(rows)[0], rows

    figures = iter([{"accuracy": 1}, {"accuracy": 2}])
    for made_by, accuracy in (["a"], 1), (["a"], 1), (["b"], 2), (["b"], 2):
        assert reproduction.kept(Path("figures.json"), made_by, lambda: next(figures)) == {"accuracy": accuracy}


if __name__ == "__main__":
    main()
