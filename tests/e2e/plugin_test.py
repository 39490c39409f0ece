"""A plug-in is built against the installed Conclave, trained with other kinds of experts, saved and used. Losses do not
depend on the number of ranks. Plug-ins with a mistake are refused with a message."""

import os
import re
import shutil
from pathlib import Path

import runs
from runs import assert_same_losses, assert_same_weights, checkpoints, losses, prepare, run, train

SOURCE, BUILD = os.environ["CONCLAVE_SOURCE"], os.environ["CONCLAVE_BUILD"]
MIXED = ['moe.expert="2 feed_forward, 1 gated, 1 lstm_medical"']
STEPS = "train.steps=20"


def build():
    """Builds the plug-ins of tests/plugin in plugins/, against an installed Conclave."""
    run(["cmake", "--install", BUILD, "--prefix", Path.cwd() / "prefix"])
    shutil.copytree(f"{SOURCE}/tests/plugin", "source")
    run(["cmake", "-S", "source", "-B", "plugins", f"-DCMAKE_PREFIX_PATH={Path.cwd()}/prefix"])
    run(["cmake", "--build", "plugins", "-j2"], timeout=600)
    lines = Path("source/medical_expert.cpp").read_text().count("\n")
    assert lines < 40, lines
    runs.PROGRAM = str(Path("prefix/bin/conclave").absolute())


def plugin(name):
    return f"run.plugins=plugins/lib{name}.so"


def trains():
    for router in ("attention", "linear"):
        chosen = [plugin("medical"), *MIXED, f"moe.router={router}", "moe.router_heads=2", STEPS]
        for ranks in (1, 2, 4):
            train(ranks, f"{router}{ranks}", *chosen, says=["1 lstm_medical of "])
            assert_same_losses(f"{router}1", f"{router}{ranks}")
        train(4, f"{router}4x2", *chosen, "parallel.expert_parallel=2")
        assert_same_losses(f"{router}1", f"{router}4x2")
        first, *_, last = losses(f"{router}1").values()
        assert last < first, "it learns nothing"
    # Three plug-ins, one of which has a router, and one a balancer.
    three = "run.plugins=['plugins/libmedical.so', 'plugins/libplain.so', 'plugins/libleaning.so']"
    chosen = [three, "moe.router=plain", "moe.balancer=leaning", *MIXED, STEPS]
    for ranks in (1, 2):
        train(ranks, f"plain{ranks}", *chosen)
    assert losses("plain1") == losses("linear1")  # the plug-ins compute the same router and the same bias
    assert_same_losses("plain1", "plain2")
    # A plug-in's own option is as bias_rate is to the same balancer of the program.
    leaning = [plugin("leaning"), "moe.balancer=leaning", STEPS]
    train(1, "fast", *leaning, "moe.options=['rate = 0.05']")
    train(1, "bias", "moe.balancer=bias", "moe.bias_rate=0.05", STEPS)
    train(1, "slow", *leaning)
    assert losses("fast") == losses("bias") != losses("slow")
    for option, status, says in [("rte=1", 1, "moe.options: nothing reads rte; there are rate"),
                                 ("rate=fast", 1, 'moe.options: rate wants a number, not "fast"'),
                                 ("rate", 2, 'moe.options: "rate" is not NAME=VALUE')]:
        train(1, "never", *leaning, f"moe.options=['{option}']", status=status, says=[says])
    train(1, "never", "moe.options=['rate=1']", status=1, says=["nothing reads rate; only kinds of plug-ins"])


def resumes_and_serves():
    chosen = [plugin("medical"), *MIXED, STEPS, "checkpoint.every=10", "checkpoint.keep=9", "moe.balancer=grad_norm"]
    chosen += ["train.ema=0.9", "train.accumulate=2", "moe.shared_experts=1"]
    train(2, "whole", *chosen)
    # Resumed at step 10, a run has the same bits; on another number of ranks, it has the same losses.
    for ranks in (2, 4):
        os.mkdir(f"resumed{ranks}")
        shutil.copy(checkpoints("whole")[0], f"resumed{ranks}")
        shutil.copy("whole/metrics.jsonl", f"resumed{ranks}")
        train(ranks, f"resumed{ranks}", *chosen, resume="auto", says=["at step 10"])
    assert_same_weights("whole", "resumed2")
    assert_same_losses("whole", "resumed4")

    tensors = run([runs.PROGRAM, "inspect", "whole", "--tensors"])
    for name, rows in [("feed_forward/up/weight", 2), ("gated/gate/weight", 1), ("lstm_medical/recurrent/weight", 1)]:
        assert re.search(rf"model/layers/0/moe/experts/{name} +f32 \[{rows}, ", tensors), tensors

    # A checkpoint's plug-ins are programs, and loaded only where an option names them.
    place = Path("plugins/libmedical.so").absolute()
    trusted = ["--set", f'run.plugins=["{place}"]']
    results = []
    for ranks in (1, 2):
        ranked = ["mpirun", "--oversubscribe", "-n", ranks] if ranks > 1 else []
        evaluated = run([*ranked, runs.PROGRAM, "eval", "whole", *trusted], says=['"accuracy"'])
        results.append(re.search(r'"accuracy":[0-9.]+', evaluated).group())
    assert results[0] == results[1], results
    run([runs.PROGRAM, "predict", Path("whole").absolute(), "ba de", *trusted], cwd="/", says=['"class"'])
    run([runs.PROGRAM, "inspect", "whole", "--experts", "--out", "pictures", *trusted], says=["expert"])
    run([runs.PROGRAM, "bench", "latency", "--checkpoint", "whole", "--repetitions=1", *trusted], says=["one text"])
    run([runs.PROGRAM, "bench", "peak", *trusted], status=1, says=["there is none"])
    untrusted = ["whole/step-", f"the plug-ins {place}, which are programs", "--set 'run.plugins=["]
    for command in (["eval", "whole"], ["predict", "whole", "ba de"], ["inspect", "whole", "--cost"], ["serve", "whole"]):
        run([runs.PROGRAM, *command], status=2, says=untrusted)

    # They may lie elsewhere; a checkpoint's folder is not searched for them.
    os.rename(place, "moved.so")
    shutil.copy("moved.so", "whole/libmedical.so")
    lost = ["run.plugins", "libmedical.so", "no such file", "--set run.plugins="]
    run([runs.PROGRAM, "predict", "whole", "ba de", "--set", "run.plugins=libmedical.so"], status=2, says=lost)
    run([runs.PROGRAM, "predict", "whole", "ba de", "--set", "run.plugins=moved.so"], says=['"class"'])
    run([runs.PROGRAM, "eval", "whole", "--set", 'run.plugins=["whole/libmedical.so"]'], says=['"accuracy"'])
    os.rename("moved.so", place)


def simulates():
    """A strategy of a plug-in that halves the mean is fedavg with half the rate, in simulations and for a coordinator."""
    simulation = '[simulation]\nrecipe = "tiny.toml"\nclients = 3\nrounds = 2\nlocal_steps = 1\n'
    Path("simulation.toml").write_text(simulation)

    def simulate(ranks, directory, *options, **how):
        ranked = ["mpirun", "--oversubscribe", "-n", ranks] if ranks > 1 else []
        sets = [f"--set={option}" for option in ("moe.balancer=none", f"simulation.directory={directory}", *options)]
        return run([*ranked, runs.PROGRAM, "federate", "simulate", "simulation.toml", *sets], **how)

    named, brought = "strategy.name=halving", "simulation.plugins=plugins/libhalving.so"
    simulate(1, "half", "strategy.server_rate=0.5")
    simulate(1, "halving", named, brought)
    assert_same_weights(checkpoints("half")[-1], checkpoints("halving")[-1])
    simulate(2, "halving2", named, brought)
    simulate(1, "quarter", "strategy.server_rate=0.25")
    simulate(1, "quartering", named, brought, "strategy.options=['fraction=0.25']")
    assert_same_weights(checkpoints("quarter")[-1], checkpoints("quartering")[-1])
    simulate(1, "never", named, brought, "strategy.options=['part=0.25']", status=1, says=["nothing reads part; there are fraction"])
    simulate(1, "never", named, status=2, says=['strategy.name = "halving"', "must be one of fedadagrad", "name in simulation.plugins"])
    simulate(2, "never", named, "simulation.plugins=plugins/libmedical.so", status=2, says=["must be one of fedadagrad"])
    simulate(1, "never", named, "simulation.plugins=no.so", status=2, says=["no such file", "--set simulation.plugins=/path/to/no.so"])

    secure = "[secure_aggregation]\nenabled = true\n"
    Path("federation.toml").write_text('[federation]\nsites = ["a", "b", "c"]\n[strategy]\nname = "halving"\n' + secure)
    brought = ["--set", "federation.plugins=plugins/libhalving.so"]
    for command, status, says in [
        (["recipe", "check", "federation.toml"], 2, "name in federation.plugins"),
        (["recipe", "check", "federation.toml", *brought], 0, "no mistakes"),
        (["federate", "coordinator", "federation.toml"], 2, "name in federation.plugins"),
        (["federate", "coordinator", "federation.toml", *brought], 1, "kits/coordinator"),
    ]:
        run([runs.PROGRAM, *command], status=status, says=[says])


def refused(ranks, plugins, *says, expert="faulty", router="linear", status=2):
    chosen = [plugins, f'moe.expert="{expert}"', f"moe.router={router}"]
    said = train(ranks, "never", *chosen, status=status, says=says)
    told = [line for line in said.splitlines() if line.startswith("conclave: ")]
    assert len(told) == 1, said
    assert not Path("never").exists(), "training began"


def mistakes():
    own = re.search(r"#define CONCLAVE_PLUGIN_ABI (\d+)", Path(SOURCE, "core/plugin.h").read_text()).group(1)
    for ranks in (1, 2):
        refused(ranks, plugin("none"), "run.plugins", "plugins/libnone.so", "no such file")
        refused(ranks, plugin("foreign"), "run.plugins", "ABI 99; GCC 99", f"ABI {own}; ", "compile it anew")
    refused(1, "run.plugins=tiny.toml", "run.plugins", "is not a shared library")
    Path("torn.so").write_bytes(Path("plugins/libmedical.so").read_bytes()[:6000])
    refused(1, "run.plugins=torn.so", "run.plugins", "torn.so")
    refused(1, plugin("stranger"), "run.plugins", "no symbol conclave_plugin_abi")
    refused(1, plugin("unresolved"), "run.plugins", "undefined symbol: conclave::nowhere_defined()")
    refused(1, plugin("static"), "run.plugins", "static object", "the constructor's own words")
    refused(1, plugin("nothing"), "run.plugins", "registers nothing")
    refused(1, plugin("taken"), "run.plugins", "'gated' already", "give it another name")
    refused(1, plugin("plain"), "moe.router", "'odd'", "linear", "plain (of libplain.so)", router="odd")
    leaning = [plugin("leaning"), "moe.balancer=leaning", "moe.balance_inference=true"]
    train(1, "never", *leaning, status=2, says=["moe.balance_inference = true", "for balancers that correct each batch"])
    refused(2, plugin("medical"), "moe.expert", "'faulty'", "feed_forward, gated, lstm_medical (of libmedical.so)")
    for name, *said in [
        ("factory", "cannot be made: the factory's own words"),
        ("forward", "forward: the forward pass's own words"),
        ("shape", "forward returned f32 [", "expected f32 ["),
    ]:
        refused(1, plugin(name), f"experts of kind 'faulty' (of lib{name}.so)", *said, status=1)
    # The plug-in fails on the only rank that has such an expert, while the other rank waits for its results.
    refused(2, plugin("forward"), "forward: the forward pass's own words", expert="3 feed_forward, 1 faulty", status=1)
    refused(1, plugin("medical"), "these are 3 experts, and the layer has 4", expert="2 gated, 1 lstm_medical")
    run([runs.PROGRAM, "recipe", "check", "tiny.toml", "--set", plugin("foreign")], status=2, says=["run.plugins", "ABI 99"])


def main():
    prepare()
    build()
    trains()
    resumes_and_serves()
    simulates()
    mistakes()


if __name__ == "__main__":
    main()
