"""A checkpoint that cannot be saved is a warning: training goes on, and the older checkpoint stays. The last checkpoint
is tried twice; if it cannot be saved, the run fails."""

import fcntl
import os
import resource
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from runs import PROGRAM, checkpoints, command, none_left, prepare, ranks_of, run, stop_after, train

SAVING = ["checkpoint.every=3", "train.steps=9"]


def goes_on(ranks, directory, reason, largest=None):
    """Resumes from the checkpoint of step 3, trains to step 9, and saves nothing. `largest`: the most bytes that the
    ranks may write to one file. (mpirun itself needs more, and so would memory shared by ranks.)"""
    arguments = command(ranks, directory, *SAVING, resume="auto")
    if largest:
        start = arguments.index(PROGRAM)
        limit = ["prlimit", f"--fsize={largest}"]
        arguments = ["mpirun", "--oversubscribe", "--mca", "btl", "self,tcp", "-n", ranks, *limit, *arguments[start:]]
    lost = f"is lost: checkpoint of step 9 not saved: {Path(directory, 'step-00000009.h5')}"
    output = run(arguments, status=1, says=["at step 3", reason, "; test accuracy", lost])
    warnings = [output.count(f"warning: step {step} was not saved") for step in (6, 9)]
    assert "trained 6 steps, to step 9, in" in output and warnings == [1, 2], output
    assert [path.name for path in checkpoints(directory)] == ["step-00000003.h5"], checkpoints(directory)
    assert not list(Path(directory).glob("*.tmp")), list(Path(directory).iterdir())
    run([PROGRAM, "inspect", directory, "--verify"], says=["step 3", "every tensor matches its checksum"])


def begin(directory):
    if os.path.isdir(directory) and not os.path.ismount(directory):
        shutil.rmtree(directory)
    shutil.copytree("begun", directory, dirs_exist_ok=True)


def on_a_full_disk():
    """A disk with room for one and a half checkpoints. Runs in namespaces of its own."""
    size = checkpoints("begun")[0].stat().st_size
    os.mkdir("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2 // 1024}k", "tmpfs", "disk"], check=True)
    for ranks in (1, 2):
        begin("disk")
        goes_on(ranks, "disk", "No space left on device")
        for path in Path("disk").iterdir():
            path.unlink()


def saves_at_the_second_try():
    """A folder has the path of the last checkpoint. The pipe holds only one message: until the warning is read, the
    program waits to write that it tries again."""
    last = Path("second", "step-00000003.h5")
    last.mkdir(parents=True)
    reader, writer = os.pipe2(os.O_DIRECT)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    job = subprocess.Popen(command(1, "second", "train.steps=3"), stdout=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    said = b""
    while b"validation: " not in said:
        said = os.read(reader, 4096)
        assert said, "it ended early"
    select.select([reader], [], [])
    last.rmdir()
    with os.fdopen(reader) as file:
        said = file.read()
    assert job.wait(timeout=60) == 0 and said.count("was not saved") == 1, said
    assert said.startswith("conclave: warning: step 3 was not saved") and "step 3 could not be saved and is saved once more" in said, said
    assert checkpoints("second") == [last] and last.is_file()


def nothing_is_saved_that_is_not_recorded(ranks, mended):
    """If the ledger cannot record private steps, they are not saved. Once it can, all steps are in the ledger and in
    the checkpoint."""
    directory = f"private {ranks}"
    private = ["privacy.unit=record", "privacy.batch=55", "privacy.noise_multiplier=1", "privacy.delta=1e-3"]
    private += ["moe.balancer=none", "train.clip_norm=0", "model.bigrams=0", "train.start_from=begun"]
    arguments = [*private, f"privacy.ledger={directory}.sqlite", "train.steps=10000", "checkpoint.every=5"]
    job = subprocess.Popen(command(ranks, directory, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not checkpoints(directory):
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.01)
    processes = ranks_of(job.pid) if ranks > 1 else [job.pid]
    hard = resource.prlimit(processes[0], resource.RLIMIT_FSIZE)[1]
    for process in processes:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (0, hard))
    said = ""
    while "was not saved: the privacy that its steps spend cannot be recorded: " not in said:
        said = job.stdout.readline()
        assert said, "it ended early"
    for process in processes if mended else ():
        resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))
    os.kill(processes[0], signal.SIGINT)  # mpirun would kill the other ranks too soon
    output = job.stdout.read()
    assert job.wait(timeout=60) == (130 if mended else 1) and "interrupted after" in output, output
    assert mended or "is lost: the privacy that its steps spend" in output, output
    saved = int(checkpoints(directory)[-1].stem.removeprefix("step-"))
    with sqlite3.connect(f"{directory}.sqlite") as database:
        (recorded,) = database.execute("SELECT sum(steps) FROM spends").fetchone()
    database.close()
    assert recorded == saved if mended else recorded >= saved, (recorded, saved)


def main():
    os.environ["OMPI_MCA_odls_base_sigkill_timeout"] = "0"  # else mpirun waits seconds for ranks that have ended
    prepare()
    with none_left():
        saves_at_the_second_try()
    train(1, "begun", "train.steps=3", "checkpoint.every=3")
    size = checkpoints("begun")[0].stat().st_size
    for ranks, mended in ((1, False), (2, True)):
        with none_left():
            nothing_is_saved_that_is_not_recorded(ranks, mended)

    for ranks in (1, 2):
        for part in (0.05, 0.5, 0.98):
            begin("limited")
            goes_on(ranks, "limited", "File too large", largest=int(part * size))

    for step in range(1, 1001):
        Path("stopped", f"step-{step:08d}.h5").mkdir(parents=True)
    output = stop_after(2, command(1, "stopped", "train.steps=1000"), "stopped", status=1)
    assert "is lost: checkpoint of step " in output and output.count("was not saved") == 2, output
    assert "what was trained is lost: " in output and "--resume auto begins anew" in output, output

    if os.geteuid() != 0:  # root ignores permissions
        begin("read only")
        os.chmod("read only", 0o555)
        try:
            goes_on(1, "read only", "Permission denied")
        finally:
            os.chmod("read only", 0o755)

    mounts = [Path(os.environ["CONCLAVE_SOURCE"], "tests/with_mounts.sh"), sys.executable, __file__, "disk"]
    sys.exit(subprocess.run(mounts).returncode)


if __name__ == "__main__":
    on_a_full_disk() if sys.argv[1:] == ["disk"] else main()
