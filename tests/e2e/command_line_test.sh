#!/usr/bin/env bash
# The command line accepts valid arguments and refuses others: status 2 is a mistake in the call, 1 any other failure.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"
quick=$CONCLAVE_SOURCE/recipes/quick.toml

conclave 0 --version
conclave 0 --help
says train eval predict inspect export bench recipe
for command in train eval predict inspect export bench recipe; do conclave 0 "$command" --help; done

conclave 0 serve --help
says "=8080" "{classify,caption,generate,embed}"
if [[ $output == *"=[]"* ]]; then
  echo "--help shows defaults where there are none: $output" >&2
  exit 1
fi

says "Usage: conclave serve" "--token-file" "--max-batch"
# '_' is accepted in place of '-' in the names of options; values are left alone.
conclave 1 serve /nonexistent --token_file=a_b --max_batch 4 --max-waiting 4 --max_body=1000
says "a_b: cannot be opened"
conclave 2 serve /nonexistent --max_batch 0
says "--max-batch"
conclave 1 predict /nonexistent --top=1 -- --a_text
says /nonexistent

conclave 2
conclave 2 trian
says "no command is named 'trian'; the nearest is 'train'" "See conclave --help"
conclave 2 federate cordinator
says "the nearest is 'coordinator'" "See conclave federate --help"
conclave 2 predict somewhere --top 0
says "--top: must be above 0, and is 0" "See conclave predict --help"
# If the output cannot be written, the command fails.
expect 1 bash -c "$(printf '%q' "$CONCLAVE_PROGRAM") recipe show $(printf '%q' "$quick") >/dev/full"
says "not all output could be written"
# A message that cannot be written is lost; the exit status is not.
silent() {
  local wanted=$1
  shift
  expect "$wanted" bash -c '"$@" 2>/dev/full' -- "$CONCLAVE_PROGRAM" "$@"
}
mkdir torn
touch torn/step-00000001.h5
conclave 1 inspect torn
says "warning: skipped checkpoint torn/step-00000001.h5" "no whole checkpoint"
silent 1 inspect torn
silent 1 predict torn
silent 2 recipe check /nonexistent.toml
silent 2 trian
expect 1 bash -c '"$@" >/dev/full 2>&1' -- "$CONCLAVE_PROGRAM" recipe show "$quick"
# A command that a signal ends in order also goes on without a reader of its messages.
# shellcheck disable=SC2016  # the inner shell expands it
expect 2 bash -c '{ sleep 0.2; "$@" 2>&1; } | true; exit "${PIPESTATUS[0]}"' -- \
  "$CONCLAVE_PROGRAM" train /nonexistent.toml
conclave 2 train
conclave 2 eval somewhere --split tset
conclave 2 serve somewhere --tasks classify,sing
says sing "{classify,caption,generate,embed}"
conclave 2 load http://localhost --task translate
says translate

for recipe in "$CONCLAVE_SOURCE"/recipes/{,federations/,simulations/}*.toml; do
  conclave 0 recipe check "$recipe"
  conclave 0 recipe show "$recipe" --documented
  printf '%s\n' "$output" >shown.toml
  conclave 0 recipe check shown.toml
done
for federation in "$CONCLAVE_SOURCE"/recipes/federations/*.toml; do
  kits=kits_of_${federation##*/}
  conclave 0 federate provision "$federation" --set "federation.kits=$kits"
  says "$kits/coordinator"
  for site in "$kits"/*/site.toml; do conclave 0 recipe check "$site"; done
done

printf '[moe]\nexperts = 4\nexprts = 8\n' >unknown.toml
conclave 2 recipe check unknown.toml
says unknown.toml:3 moe.exprts moe.experts
conclave 2 train unknown.toml
says unknown.toml:3
# All ranks use what rank 0 reads, even if the file on another rank is different or missing.
expect 2 timeout 60 mpirun --oversubscribe -n 1 "$CONCLAVE_PROGRAM" train unknown.toml : \
  -n 1 "$CONCLAVE_PROGRAM" train nowhere.toml
says unknown.toml:3
printf '[privacy]\nepsilon = 1.0\n' >unhidden.toml
conclave 2 recipe check unhidden.toml
says unhidden.toml:2 'privacy.epsilon = 1.0 with privacy.unit = "none"'
printf '[ federation ]  # ours\nnam = "x"\n' >federation.toml
conclave 2 recipe check federation.toml
says federation.toml:2 federation.nam federation.name
printf '[moe]\nexperts = "four"\n' >type.toml
conclave 2 recipe check type.toml
says type.toml:2 moe.experts
conclave 2 recipe check "$quick" --set moe.exprts=4
says "--set" moe.experts
conclave 2 recipe check "$quick" --ranks 3
says moe.experts
conclave 2 recipe check nowhere.toml
says nowhere.toml

# The recipes' data comes from a package; if it is missing, the message names the package.
on_ranks 2 1 train "$quick" --set data.path=/nonexistent
says /nonexistent wordnet-base

for command in eval predict inspect; do
  conclave 1 "$command" /nonexistent
  says /nonexistent
done

conclave 0 privacy epsilon --noise 4 --rate 0.01 --steps 10000 --delta 4.2436e-6
says "epsilon 1.000" "10000 releases at sampling rate 0.01 with noise multiplier 4 (pld)"
conclave 0 privacy epsilon --noise 1 --steps 1 --delta 1e-5 --accountant rdp
says "epsilon 4.728" "1 release at sampling rate 1" "(rdp)"
conclave 0 privacy noise --epsilon 1 --rate 0.01 --steps 10000 --delta 4.2436e-6
says "noise multiplier 4.00"
conclave 0 privacy steps --epsilon 1 --rate 0.01 --noise 4 --delta 4.3e-6
says "100" "releases" "within epsilon 1 at delta 4.3e-06"
conclave 1 privacy noise --epsilon 1e9 --rate 0.01 --steps 6000 --delta 1e-5
says "nothing would be hidden; it is at most 1e+06"
conclave 1 federate audit .
says "no coordinator has been at work in this folder"
conclave 1 bench latency
says "bench latency --checkpoint CHECKPOINT"
# OpenBLAS's kernels are those of the processor, also of one that is newer than OpenBLAS.
conclave 0 bench peak --repetitions 1
says "kernels of OpenBLAS"
if [[ $(uname -m) == x86_64 && $output =~ Prescott|Core2|Nehalem|Sandybridge ]]; then
  echo "FAILED: these kernels are for processors without AVX2"
  exit 1
fi
# The program starts itself again to set what libraries read first, unless it is not to.
for restarts in 0 1; do
  mkfifo waiting.toml
  env -u GOMP_SPINCOUNT -u OMP_WAIT_POLICY CONCLAVE_NO_RESTART=$((1 - restarts)) \
    "$CONCLAVE_PROGRAM" recipe show waiting.toml >shown.toml &
  exec 8>waiting.toml  # opens when the program does
  [[ $(tr '\0' '\n' <"/proc/$!/environ" | grep -c '^GOMP_SPINCOUNT=3000$') == "$restarts" ]] || {
    echo "FAILED: with CONCLAVE_NO_RESTART=$((1 - restarts)), the program was or was not started again"
    exit 1
  }
  kill $!
  wait $! || true
  exec 8>&-
  rm waiting.toml
done
conclave 1 bench dispatch
says "mpirun -n 2 conclave bench dispatch"
conclave 1 privacy steps --epsilon 0.1 --noise 0.5 --delta 1e-5
says "a single release" "conclave privacy noise"
conclave 1 privacy epsilon --noise 1 --rate 2 --steps 1 --delta 1e-5
says "sampling rate of 2"
conclave 2 privacy
conclave 2 privacy epsilon --noise 1 --steps 10
says "--delta"
conclave 2 privacy epsilon --noise 1 --steps 10 --delta 1e-5 --accountant moments
says pld rdp
