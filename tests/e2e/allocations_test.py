"""From the third step on, training allocates nothing, as memory is planned before it starts. Allocations inside two
runtimes are reported but do not fail the test: MPI (with one rank it makes none), and GCC's OpenMP, which allocates and
frees a team record for each parallel region that runs on one thread."""

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from e2e import images_test
from runs import PROGRAM, command, prepare, run

COUNTER = os.environ["CONCLAVE_BUILD"] + "/tests/libcount_allocations.so"
MEDICAL = os.environ["CONCLAVE_BUILD"] + "/tests/libmedical.so"
# Files of Open MPI and its dependencies; all other allocations are made or caused by Conclave.
MPI = ("libmpi", "libopen-", "mca_", "libpmix", "libevent", "libhwloc", "libucp", "libucs", "libuct", "libfabric")
OPENMP = ("libgomp",)
SAVING = ("libhdf5",)  # each run saves once, at its end; steps do not use HDF5
# Options for images of 8 x 8 pixels that are classified, captioned and generated, instead of texts.
TASKS = """data.source=fashion_mnist data.path=idx data.vocabulary=60 model.bigrams=0 model.token_dropout=0 image.stem=8
image.tokens=grid image.shift=1 image.flip=true image.erase=0.2 tasks.caption=1 tasks.generate=1""".split()
BLOCKS = 'image.blocks=["k3 x2 c8 s2 se relu", "k5 x2 c16 s2 hs"]'
QUANTIZED = ["quantization.enabled=true", "quantization.activations=tensor", "quantization.observer=percentile"]
QUANTIZED += ["quantization.learned=true"]
# Numbers of steps of two runs to compare, of equal length as text, so the recipes have the same size. An epoch has 17.
FIRST, LATER = (2, 8), (10, 70)


def allocations(ranks, steps, *options):
    """The allocations of a whole run, a Counter {(file, offset): count} for each rank."""
    directory = f"run{steps:02}"
    arguments = command(ranks, directory, f"train.steps={steps}", *options)
    counted = ["env", f"LD_PRELOAD={COUNTER}", f"COUNT_ALLOCATIONS=counted{steps}"]
    # With mpirun even for one rank: the rank would otherwise start a process of Open MPI, which would be counted.
    run(["mpirun", "--oversubscribe", "-n", ranks, *counted, *arguments[arguments.index(PROGRAM) :]])
    shutil.rmtree(directory)
    return [
        Counter({(file, offset): int(count) for count, file, offset in map(str.split, open(f"counted{steps}.{rank}"))})
        for rank in range(ranks)
    ]


def name(place):
    """The name of the function at an offset in a file, as far as addr2line finds it."""
    file, offset = place
    try:
        told = subprocess.run(["addr2line", "-Cfpe", file, offset], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        told = ""
    return f"{Path(file).name}+{offset} {told}"


def main():
    prepare()
    images_test.prepare()
    for directory, options in (("first", []), ("images", [*TASKS, BLOCKS])):
        run(command(1, directory, "train.steps=1", *options))  # trains the tokenizer, which all others read from the cache
    failures = []
    for ranks, *options in [
        (1,),
        (1, "train.accumulate=2", "train.ema=0.9", "moe.balancer=aux_loss", "moe.shared_experts=1"),
        (2,),
        (2, "train.accumulate=2", "train.ema=0.9", "moe.balancer=aux_loss", "moe.shared_experts=1"),
        (2, "moe.balancer=grad_norm", "data.domain_column=urgent", "moe.domain_expert=1"),
        (2, "parallel.expert_parallel=1", "model.share_layers=true"),
        (1, *TASKS, BLOCKS),
        (2, *TASKS, BLOCKS, "image.norm=batch", "train.ema=0.9"),
        (2, "parallel.dispatch_chunks=3", "moe.shared_experts=1"),
        (1, "quantization.enabled=true", "train.ema=0.9"),
        (2, *QUANTIZED),
        (2, *TASKS, BLOCKS, *QUANTIZED),
        (2, f"run.plugins={MEDICAL}", 'moe.expert="2 feed_forward, 1 gated, 1 lstm_medical"'),
    ]:
        alike = ["train.schedule=constant", "train.warmup=0", "checkpoint.asynchronous=false", *options]
        # The first steps only for the plain run and for the run with the most features.
        for steps in [FIRST, LATER] if not options or options == [*TASKS, BLOCKS, *QUANTIZED] else [LATER]:
            pairs = zip(*(allocations(ranks, count, *alike) for count in steps))
            for rank, (short, long) in enumerate(pairs):
                assert sum(short.values()) > 1000, "nothing was counted"
                more = {place: long[place] - short[place] for place in long if long[place] > short[place]}
                # A number that is printed or saved once may be a digit longer and make a string grow once more.
                text = ("output_string_adapter", "basic_string")
                more = {place: n for place, n in more.items() if n > 1 or not any(of in name(place) for of in text)}
                of = lambda files: {place for place in more if Path(place[0]).name.startswith(files)}
                mpi, openmp = of(MPI), of(OPENMP)
                ours = more.keys() - mpi - openmp - of(SAVING)
                numbers = [sum(more[place] for place in places) for places in (ours, mpi, openmp)]
                print(
                    f"{ranks} ranks {' '.join(options)}: rank {rank}, {steps[1] - steps[0]} steps:"
                    " {} allocations, {} inside MPI, {} inside OpenMP".format(*numbers)
                )
                for place in ours | (mpi if ranks == 1 else set()):
                    failures.append(f"{ranks} ranks {options}, rank {rank}: {more[place]} in {name(place)}")
    assert not failures, "\n".join(failures)


if __name__ == "__main__":
    main()
