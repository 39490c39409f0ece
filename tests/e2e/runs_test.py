"""A test that stops a training, but in vain, fails in time and leaves no processes."""

import os
from pathlib import Path

from runs import processes_with, stop_after

RUN_RANKS = os.environ["CONCLAVE_SOURCE"] + "/scripts/run_ranks"


def main():
    os.environ["IDLE_RANK"] = str(Path.cwd())
    idle = f"IDLE_RANK={Path.cwd()}".encode()
    Path("idle.sh").write_text("echo > started.$OMPI_COMM_WORLD_RANK; sleep 600")
    try:
        stop_after(1, [RUN_RANKS, "2", "bash", "idle.sh"], "nowhere", patience=5)
    except AssertionError as error:
        assert "1 steps are not logged in 5 s" in str(error), error
    else:
        raise AssertionError("it returned")
    assert Path("started.0").exists() and Path("started.1").exists()
    assert not processes_with(idle), processes_with(idle)


if __name__ == "__main__":
    main()
