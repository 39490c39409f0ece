#!/usr/bin/env bash
# with_mounts.sh COMMAND...: runs a command that mounts file systems, without privileges: it is root in namespaces of its
# own. Exits with 77, a skipped test for ctest, where the kernel does not allow this.
set -euo pipefail
unshare -rm mount -t tmpfs tmpfs /mnt || {
  echo "no file system can be mounted here: the test of a full disk is left out" >&2
  exit 77
}
TMPDIR=$(mktemp -d)  # Open MPI's folder of root's jobs in /tmp may belong to the true root
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
unshare -rm "$@"
