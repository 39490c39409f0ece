#!/usr/bin/env bash
# On a processor without AVX2, the program ends with a message instead of an illegal instruction.
source "$CONCLAVE_SOURCE/tests/e2e/lib.sh"
if [[ $(uname -m) != x86_64 ]]; then exit 77; fi  # skipped
expect 78 qemu-x86_64 -cpu Nehalem "$CONCLAVE_PROGRAM" --version
says "AVX2" "cmake"
expect 0 qemu-x86_64 -cpu max "$CONCLAVE_PROGRAM" --version
