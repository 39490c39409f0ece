#!/usr/bin/env bash
# Trains on the machines of a hostfile with plain mpirun; see `hostfile.sh --help`.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage() {
  cat <<'END'
usage: [RANKS=N] [THREADS=N] [CONCLAVE=PROGRAM] scripts/launch/hostfile.sh HOSTFILE RECIPE [OPTIONS OF conclave train]

HOSTFILE has a line for each machine, "name slots=RANKS": with GPUs as many as it has, without one for each
processor socket. Every machine needs Open MPI, the program under the same path, the recipe's data, and ssh
without a password from this one.

  RANKS     on all machines together; default: all slots
  THREADS   of each rank; default: this machine's cores divided by the ranks on it
  CONCLAVE  default: build/release/conclave of this repository

Exported to the ranks, where set: OMP_*, NCCL_*, UCX_*, CUDA_VISIBLE_DEVICES, LD_LIBRARY_PATH. For example
  NCCL_SOCKET_IFNAME=eth0 scripts/launch/hostfile.sh hosts recipes/wordnet.toml --resume auto
slurm.sbatch says what the settings of NCCL and UCX are for. Ctrl-C saves a checkpoint.
END
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
esac
(($# >= 2)) || {
  usage >&2
  exit 2
}
hostfile=$1 recipe=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
program=${CONCLAVE:-$root/build/release/conclave}

command -v mpirun >/dev/null || fail "there is no mpirun here; scripts/setup installs Open MPI"
[[ -r $hostfile ]] || fail "there is no hostfile $hostfile"
[[ -x $program ]] || fail "there is no program $program; build it (scripts/train does), or set CONCLAVE"
[[ -f $recipe ]] || fail "there is no recipe $recipe"
for number in RANKS THREADS; do
  [[ ${!number-1} =~ ^[1-9][0-9]*$ ]] || fail "$number is ${!number}; a number from 1 is wanted"
done
# Without "slots=", Open MPI would start a rank for every core, which is too many.
unset_slots=$(sed 's/#.*//' "$hostfile" | grep -v '^[[:space:]]*$' | grep -v 'slots[[:space:]]*=[[:space:]]*[0-9]' || true)
[[ -z $unset_slots ]] || fail "$hostfile: no slots= in: ${unset_slots//$'\n'/, }"
slots=$(sed 's/#.*//' "$hostfile" | sed -n 's/.*slots[[:space:]]*=[[:space:]]*\([0-9]*\).*/\1/p')
[[ -n $slots ]] || fail "$hostfile has no machines"
total=0 most=0
for count in $slots; do
  total=$((total + count))
  if ((count > most)); then most=$count; fi
done
ranks=${RANKS:-$total}
((ranks <= total)) || fail "RANKS is $ranks, and $hostfile has $total slots"

"$program" recipe check "$recipe"  # before other machines are contacted

threads=${THREADS:-$(($(nproc) / most > 0 ? $(nproc) / most : 1))}
export OMP_NUM_THREADS=$threads
# By slot: ranks of a machine are consecutive, as ranks of one expert group should be. Not bound to cores, because
# mpirun would bind all threads of a rank to one core.
options=(--hostfile "$hostfile" -n "$ranks" --map-by slot --bind-to none)
while read -r name; do
  options+=(-x "$name")
done < <(compgen -e | grep -E '^(OMP_|NCCL_|UCX_|CUDA_VISIBLE_DEVICES$|LD_LIBRARY_PATH$)')
start_ranks "${options[@]}" "$program" train "$recipe" "$@"
