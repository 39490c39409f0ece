"""Runs of a model so small that one takes a second, for tests in Python. Everything is in the working directory."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAM = os.environ["CONCLAVE_PROGRAM"]
# There are more ranks than cores, so a waiting rank must yield to one that works.
os.environ.update(OMPI_MCA_mpi_yield_when_idle="1", OMP_NUM_THREADS="1")

RECIPE = """
[run]
name = "tiny"
log_every = 1
[data]
source = "table"
path = "texts.jsonl"
vocabulary = 200
max_length = 32
[model]
hidden = 32
layers = 2
heads = 2
ffn = 32
bigrams = 300
[moe]
experts = 4
[train]
batch_tokens = 256
steps = 20
learning_rate = 3e-3
evaluate_every = 1000000
[checkpoint]
every = 0
"""


def prepare():
    """Writes tiny.toml and its data: 600 texts of three classes, each with words of its class among common words. A word
    of the second class makes a text urgent."""
    words = random.Random(1)
    vocabulary = [
        "".join(words.choice("bdfgklmnprst") + words.choice("aeiou") for _ in range(words.randint(1, 3)))
        for _ in range(90)
    ]
    with open("texts.jsonl", "w") as file:
        for number in range(600):
            label = words.randrange(3)
            own, common = vocabulary[20 * label : 20 * label + 20], vocabulary[60:]
            text = " ".join(words.choice(words.choice([own, common])) for _ in range(words.randint(3, 12)))
            row = {"text": text, "label": f"class {label}", "urgent": vocabulary[20] in text.split(), "who": number % 10}
            file.write(json.dumps(row) + "\n")
    Path("tiny.toml").write_text(RECIPE)


def command(ranks, directory, *options, resume=None):
    """The command that trains tiny.toml; options are like "train.steps=4"."""
    start = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    chosen = [f"--set={option}" for option in (f"run.directory={directory}", *options)]
    return [*start, PROGRAM, "train", "tiny.toml", *chosen, *([f"--resume={resume}"] if resume else [])]


def run(arguments, status=0, says=(), timeout=120, **how):
    """Runs a command and returns its output; fails on another exit status, or if the output lacks a text of `says`."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        **how,
    )
    wanted = [status] if isinstance(status, int) else status
    shown = f"$ {' '.join(str(argument) for argument in arguments)}\n{done.stdout}"
    assert done.returncode in wanted, f"status {done.returncode} instead of {status}:\n{shown}"
    for text in says:
        assert text in done.stdout, f"this is not in the output: {text}\n{shown}"
    return done.stdout


def ranks_of(mpirun, program=PROGRAM):
    """Process ids of the ranks, in order."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            environment = status.with_name("environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        # A rank starts as a copy of mpirun, and mpirun does not survive every death of one at that time. Names in /proc
        # have 15 characters.
        if int(fields["PPid"]) == mpirun and fields["Name"] == Path(program).name[:15]:
            rank = [value.partition(b"=")[2] for value in environment if value.startswith(b"OMPI_COMM_WORLD_RANK=")]
            found.append((int(rank[0]), int(fields["Pid"])))
    return [process for _, process in sorted(found)]


@contextmanager
def own_temporary_files():
    """A folder for Open MPI's own files, so that those of killed jobs are removed with it. The subfolder is made in
    advance, because jobs that start at the same time would fail to make it."""
    folder = tempfile.mkdtemp()
    Path(folder, f"ompi.{socket.gethostname()}.{os.getuid()}").mkdir(mode=0o700)
    os.environ.update(TMPDIR=folder, OMPI_MCA_btl_vader_backing_directory=folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Open MPI may still use it


def train(ranks, directory, *options, resume=None, **how):
    return run(command(ranks, directory, *options, resume=resume), **how)


def go_on(ranks, directory, whole, step, *options):
    """Resumes another run's checkpoint of this step in a new folder. The folder gets the metrics up to that step only,
    so later ones are of the new run."""
    os.mkdir(directory)
    lines = Path(whole, "metrics.jsonl").read_text().splitlines(keepends=True)
    until_then = [line for line in lines if json.loads(line)["step"] <= step]
    assert 0 < len(until_then) < len(lines), (whole, step)
    Path(directory, "metrics.jsonl").write_text("".join(until_then))
    train(ranks, directory, *options, resume=f"{whole}/step-{step:08d}.h5", says=[f"at step {step}"])


def processes_with(mark):
    """Process ids of those that started with `mark` in their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


@contextmanager
def none_left():
    """Within the block, processes start with a mark in their environment. At its end, those that are left are killed:
    after a failed assertion also ranks, which scripts/run_ranks and mpirun start in sessions of their own."""
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    before = os.environ.get("CONCLAVE_TEST_JOB")
    os.environ["CONCLAVE_TEST_JOB"] = mark
    try:
        yield
    finally:
        if before is None:
            del os.environ["CONCLAVE_TEST_JOB"]
        else:
            os.environ["CONCLAVE_TEST_JOB"] = before
        while left := [pid for pid in processes_with(f"CONCLAVE_TEST_JOB={mark}".encode()) if pid != os.getpid()]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def stop_after(steps, arguments, directory, number=signal.SIGINT, timeout=60, status=130, patience=300):
    """Runs a training that logs every step, sends the signal once `steps` are logged, and returns the output. The steps
    may take `patience` seconds, and the end after the signal `timeout`."""
    with none_left():
        job = subprocess.Popen(
            [str(argument) for argument in arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        metrics, deadline = Path(directory, "metrics.jsonl"), time.monotonic() + patience
        while not metrics.exists() or metrics.read_text().count("\n") < steps:
            assert job.poll() is None, job.stdout.read()
            assert time.monotonic() < deadline, f"{steps} steps are not logged in {patience} s: {arguments}"
            time.sleep(0.01)
        job.send_signal(number)
        output, _ = job.communicate(timeout=timeout)
    assert job.returncode == status, f"status {job.returncode}\n{output}"
    assert "interrupted after" in output, output
    return output


def checkpoints(directory):
    """Checkpoints of a run, oldest first."""
    return sorted(Path(directory).glob("step-*.h5"))


def weights(checkpoint):
    """Bytes of the model's tensors, by name. Leaves out the recipe, which contains the directory."""
    with tempfile.TemporaryDirectory() as directory:  # tests that run at the same time export other weights
        output = Path(directory, "weights.safetensors")
        run([PROGRAM, "export", checkpoint, output])
        data = output.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return {name: data[end + at["data_offsets"][0] : end + at["data_offsets"][1]] for name, at in header.items()}


def assert_same_weights(one, other):
    first, second = weights(one), weights(other)
    assert first and first.keys() == second.keys()
    different = [name for name, value in first.items() if value != second[name]]
    assert not different, f"{one} and {other} differ in {different}"


def losses(directory, split="train"):
    """Logged losses: {step: loss}."""
    lines = map(json.loads, Path(directory, "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[f"{split}/loss"] for line in lines if f"{split}/loss" in line}


def assert_same_losses(one, other, tolerance=1e-4, task=""):
    """Compares the training losses of two runs, and their evaluations, which depend on all parts of the model; of `task`
    if there are several. The tolerance is relative. An evaluation's loss below 1 counts as 1: it is the small difference
    between 1 and probabilities near 1, and so has a larger relative error."""
    worst = 0
    for split in ("train", "validation", "test"):
        split = f"{task}/{split}" if task else split
        first, second = losses(one, split), losses(other, split)
        assert first and first.keys() == second.keys(), (one, split, sorted(first), other, sorted(second))
        for step, loss in first.items():
            off = abs(loss - second[step]) / (abs(loss) if split.endswith("train") else max(abs(loss), 1))
            worst = max(worst, off)
            assert off <= tolerance, f"{split}, step {step}: {loss} in {one}, {second[step]} in {other}: {off:.1e} apart"
    print(f"{one} and {other}: losses at most {worst:.1e} apart")
