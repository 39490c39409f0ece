"""If ranks that communicate by NCCL, on emulated devices, lose one of them, the job ends within half a minute with the
reason."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from runs import own_temporary_files, ranks_of, run

PROGRAM = Path(os.environ["CONCLAVE_BUILD"], "emulated_mpi_tests")
MOST_SECONDS = 30


def command(ranks, test):
    return ["mpirun", "--oversubscribe", "-n", str(ranks), str(PROGRAM), test]


def killed(victim):
    with open("log", "w") as log:
        job = subprocess.Popen(command(3, "[.killed]"), stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + MOST_SECONDS
    while "under way" not in Path("log").read_text():
        assert time.monotonic() < deadline and job.poll() is None, Path("log").read_text()
        time.sleep(0.01)
    time.sleep(0.2)
    ranks = ranks_of(job.pid, PROGRAM)
    assert len(ranks) == 3, ranks
    os.kill(ranks[victim], signal.SIGKILL)
    try:
        status = job.wait(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        job.kill()
        raise
    said = Path("log").read_text()
    assert status == 128 + signal.SIGKILL and "signal 9" in said, f"{status}: {said}"


def main():
    with own_temporary_files():
        for victim in range(3):
            killed(victim)
        begin = time.monotonic()
        said = run(command(3, "[.lost]"), status=1, timeout=MOST_SECONDS)
        wanted = r"rank 0 of 3: all_reduce under way: NCCL says: remote process exited .*: a peer is lost; "
        assert re.search(wanted, said), said
        said = run(command(3, "[.absent]"), status=1, timeout=MOST_SECONDS)
        wanted = r"rank 0 of 3: all_reduce has been under way for \d+ s; other ranks are lost, or do not take part; "
        assert re.search(wanted, said), said
        print(f"a peer lost and a rank absent: {time.monotonic() - begin:.1f} s until both jobs had ended")


if __name__ == "__main__":
    main()
