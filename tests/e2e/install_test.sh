#!/usr/bin/env bash
# A separate project finds the installed Conclave, builds against it, and runs.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"
expect 0 cmake --install "$CONCLAVE_BUILD" --prefix "$PWD/prefix"
expect 0 prefix/bin/conclave --version
expect 0 prefix/bin/conclave recipe check prefix/share/conclave/recipes/quick.toml
expect 0 prefix/bin/conclave recipe check prefix/share/conclave/recipes/federations/wordnet.toml
expect 0 cmake -S "$CONCLAVE_SOURCE/tests/install" -B build -DCMAKE_PREFIX_PATH="$PWD/prefix"
expect 0 cmake --build build -j 2
expect 0 build/consumer
says "x w = [3, 7]" "dw = [1, 1, 2, 2]" feed_forward doubling
# The project needs no file of the source tree: the headers are complete. Headers of the program's own parts are left out.
expect 1 grep -r "$CONCLAVE_SOURCE" prefix/lib/cmake prefix/include
cd prefix/include/conclave
expect 0 bash -o pipefail -c 'grep -rhoP "^#include \"\K[^\"]+" . | sort -u | xargs ls > /dev/null'
expect 1 grep -rlE "namespace conclave::(bench|commands|plot|service)" .
expect 0 find . -name "*_trial.h" -o -empty
[[ -z $output ]]
