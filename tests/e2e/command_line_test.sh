#!/usr/bin/env bash
# What the command line accepts, and how it refuses: status 2 is the caller's mistake, 1 everything else.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"
quick=$CONCLAVE_SOURCE/recipes/quick.toml

conclave 0 --version
conclave 0 --help
says train eval predict inspect export bench recipe
for command in train eval predict inspect export bench recipe; do conclave 0 "$command" --help; done

conclave 2
conclave 2 trian
conclave 2 train
conclave 2 eval somewhere --split tset

for recipe in "$CONCLAVE_SOURCE"/recipes/*.toml; do
  conclave 0 recipe check "$recipe"
  conclave 0 recipe show "$recipe" --documented
  printf '%s\n' "$output" >shown.toml
  conclave 0 recipe check shown.toml
done

printf '[moe]\nexperts = 4\nexprts = 8\n' >unknown.toml
conclave 2 recipe check unknown.toml
says unknown.toml:3 moe.exprts moe.experts
conclave 2 train unknown.toml
says unknown.toml:3
printf '[moe]\nexperts = "four"\n' >type.toml
conclave 2 recipe check type.toml
says type.toml:2 moe.experts
conclave 2 recipe check "$quick" --set moe.exprts=4
says "--set" moe.experts
conclave 2 recipe check "$quick" --ranks 3
says moe.experts
conclave 2 recipe check nowhere.toml
says nowhere.toml

# The data of the recipes comes with a package; who lacks it is told which.
on_ranks 2 1 train "$quick" --set data.path=/nonexistent
says /nonexistent wordnet-base

for command in eval predict inspect; do
  conclave 1 "$command" /nonexistent
  says /nonexistent
done
