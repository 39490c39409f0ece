"""When a rank is killed, at any time, the other ranks end, too, and --resume auto reaches the same bits as a run
without a kill."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from runs import (
    PROGRAM,
    assert_same_weights,
    checkpoints,
    command,
    losses,
    own_temporary_files,
    prepare,
    ranks_of,
    run,
    train,
)

KILLS, STEPS = 12, 80
RUN = [f"train.steps={STEPS}", "checkpoint.every=1", "train.ema=0.99"]


def newest(directory):
    found = checkpoints(directory)
    return int(found[-1].stem.removeprefix("step-")) if found else 0


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def killed(victim, until, saving, delay, output):
    """Trains until the checkpoint of step `until` is there, with `saving` until the next one is being written, and for
    `delay` more seconds. Then kills `victim`: the number of a rank, or "all" for all ranks and mpirun. Returns whether
    training was still under way."""
    with open(output, "w") as log:
        job = subprocess.Popen(command(2, "killed", *RUN, resume="auto"), stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    ranks = []
    while (len(ranks) < 2 or newest("killed") < until) and job.poll() is None:
        assert time.monotonic() < deadline, Path(output).read_text()
        time.sleep(0.002)
        ranks = ranks if len(ranks) == 2 else ranks_of(job.pid)
    while saving and not list(Path("killed").glob("*.tmp")) and job.poll() is None:
        pass
    time.sleep(delay)
    if job.poll() is not None:
        assert job.returncode == 0, Path(output).read_text()
        return False
    for pid in [job.pid, *ranks] if victim == "all" else ranks[victim : victim + 1]:
        kill(pid)
    try:
        status = job.wait(timeout=30)
    except subprocess.TimeoutExpired:
        left = [f"{pid}: {Path(f'/proc/{pid}/wchan').read_text()}" for pid in [job.pid, *ranks] if os.path.exists(f"/proc/{pid}")]
        kill(job.pid)
        said = Path(output).read_text()
        raise AssertionError(
            f"30 s after rank {victim} was killed ({until=}, {saving=}, {delay=}) the others still run: {left}; {said}"
        )
    while any(os.path.exists(f"/proc/{pid}") for pid in ranks):
        assert time.monotonic() < deadline, f"ranks outlive their job: {ranks}"
        time.sleep(0.01)
    if victim != "all" and ranks:
        # mpirun prints one of the two, depending on which process notices first that the rank has ended.
        said = Path(output).read_text()
        told = "signal 9" in said or "a non-zero exit code" in said
        assert status == 128 + signal.SIGKILL and told, f"{status}: {said}"
    return True


def main():
    with own_temporary_files():
        prepare()
        train(2, "expected", *RUN)
        times = [json.loads(line)["time"] for line in Path("expected/metrics.jsonl").read_text().splitlines()]
        step_seconds = (times[-1] - times[0]) / (len(times) - 1)
        choose = random.Random(1)
        kills = torn = runs = 0
        while kills < KILLS:
            # While starting, while saving, and twice at a random time.
            starting, saving = kills % 4 == 3, kills % 4 == 1
            victim = choose.choice([0, 1, "all"])
            until = 0 if starting else newest("killed") + choose.randint(1, 2)
            delay = choose.uniform(0, 0.7 if starting else 0.005 if saving else 1.5 * step_seconds)
            if killed(victim, until, saving, delay, f"log{kills}"):
                kills += 1
                torn += bool(list(Path("killed").glob("*.tmp")))
                if newest("killed"):
                    run([PROGRAM, "inspect", "killed", "--verify"], says=["every tensor matches its checksum"])
                if kills < KILLS:
                    continue
                resumed = ["resumed from"] if newest("killed") else []
                trained = f"steps, to step {STEPS}, in " if resumed else f"trained {STEPS} steps in "
                train(2, "killed", *RUN, resume="auto", says=[*resumed, trained])
            # The run has ended, on a fast machine before the last kill: the next kills happen in another run.
            runs += 1
            assert runs <= KILLS, f"only {kills} kills came before the end of {runs} runs"
            assert_same_weights("expected", "killed")
            assert losses("expected") == losses("killed"), "the metrics differ"
            assert not list(Path("killed").glob("*.tmp"))
            shutil.rmtree("killed")
        assert torn > 0, "no kill came in the middle of saving"
        print(f"{KILLS} kills, {torn} of them in the middle of saving; {runs} run(s) reached the end")


if __name__ == "__main__":
    main()
