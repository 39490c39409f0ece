"""A checkpoint that cannot be saved is a warning: training goes on, and the older checkpoint stays."""

import os
import shutil
import subprocess
from pathlib import Path

from runs import PROGRAM, checkpoints, command, prepare, run, train

SAVING = ["checkpoint.every=3", "train.steps=9"]


def goes_on(ranks, directory, reason, largest=None):
    """Resumes at step 3, of which there is a checkpoint, to step 9, and saves nothing. `largest`: bytes that the
    ranks may write to one file. (mpirun itself needs more, as would memory that ranks share.)"""
    arguments = command(ranks, directory, *SAVING, resume="auto")
    if largest:
        start = arguments.index(PROGRAM)
        limit = ["prlimit", f"--fsize={largest}"]
        arguments = ["mpirun", "--oversubscribe", "--mca", "btl", "self,tcp", "-n", ranks, *limit, *arguments[start:]]
    output = run(arguments, says=["at step 3", "warning: step 9 was not saved", reason])
    assert "trained 9 steps" in output and output.count("was not saved") == 2, output
    assert [path.name for path in checkpoints(directory)] == ["step-00000003.h5"], checkpoints(directory)
    assert not list(Path(directory).glob("*.tmp")), list(Path(directory).iterdir())
    run([PROGRAM, "inspect", directory, "--verify"], says=["step 3", "every tensor matches its checksum"])


def main():
    prepare()
    train(1, "begun", "train.steps=3", "checkpoint.every=3")
    size = checkpoints("begun")[0].stat().st_size

    def begin(directory):
        if os.path.isdir(directory) and not os.path.ismount(directory):
            shutil.rmtree(directory)
        shutil.copytree("begun", directory, dirs_exist_ok=True)

    for ranks in (1, 2):
        for part in (0.05, 0.5, 0.98):
            begin("limited")
            goes_on(ranks, "limited", "File too large", largest=int(part * size))

    if os.geteuid() != 0:  # whom no permissions stop
        begin("read only")
        os.chmod("read only", 0o555)
        try:
            goes_on(1, "read only", "Permission denied")
        finally:
            os.chmod("read only", 0o755)

    # A disk with room for one checkpoint and a half.
    os.mkdir("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2 // 1024}k", "tmpfs", "disk"]
    if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
        print("no disk can be mounted here: the test of a full one is left out")
        return
    try:
        for ranks in (1, 2):
            begin("disk")
            goes_on(ranks, "disk", "No space left on device")
            for path in Path("disk").iterdir():
                path.unlink()
    finally:
        subprocess.run(["umount", "-l", "disk"], check=True)


if __name__ == "__main__":
    main()
