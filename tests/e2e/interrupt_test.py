"""After Ctrl-C in a terminal, the ranks finish their step and save a checkpoint, and the run can be resumed."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from runs import none_left

source, program = os.environ["CONCLAVE_SOURCE"], os.environ["CONCLAVE_PROGRAM"]
# The test that trains CONCLAVE_TRAINED has filled the tokenizer's cache, so training starts soon.
train = [program, "train", f"{source}/recipes/quick.toml", "--set", "run.log_every=1"]


def in_terminal(command, ready):
    """Runs `command` in a terminal of its own and presses Ctrl-C once `ready` is there; returns (status, output)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    output, pressed, deadline = b"", False, time.time() + 120
    os.set_blocking(terminal, False)
    while time.time() < deadline:
        try:
            piece = os.read(terminal, 4096)
            if not piece:
                break
            output += piece
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:  # the terminal's other end is closed
            break
        if not pressed and ready():
            os.write(terminal, b"\x03")
            pressed = True
    else:
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output.decode(errors="replace")


def main():
    metrics = Path("runs/quick/metrics.jsonl")
    steps = lambda: len(metrics.read_text().splitlines()) if metrics.exists() else 0
    with none_left():  # ranks do not end with the terminal
        status, output = in_terminal([f"{source}/scripts/run_ranks", "2", *train], lambda: steps() >= 3)
    print(output)
    assert status == 130, f"status {status} instead of 130"
    assert "interrupted after" in output
    saved = sorted(Path("runs/quick").glob("step-*.h5"))
    assert len(saved) == 1, saved
    step = int(saved[0].stem.removeprefix("step-"))
    assert step >= 3, saved
    subprocess.run([program, "inspect", saved[0], "--verify"], check=True)

    steps_more = ["--resume", "auto", "--set", f"train.steps={step + 2}"]
    resumed = subprocess.run(
        [f"{source}/scripts/run_ranks", "2", *train, *steps_more], check=True, capture_output=True, text=True
    )
    print(resumed.stdout, resumed.stderr)
    assert f"at step {step}" in resumed.stdout + resumed.stderr


if __name__ == "__main__":
    main()
