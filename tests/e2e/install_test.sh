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
# The project needs no file of the source tree: the headers are complete.
expect 1 grep -r "$CONCLAVE_SOURCE" prefix/lib/cmake prefix/include
