#!/usr/bin/env bash
# Ranks under Open MPI's mpirun (4 or 5). Keiko speaks no MPI: it reads OMPI_COMM_WORLD_RANK and the like,
# and its ranks meet over TCP.
#
#   mpirun.sh RECIPE [key=value...]                      2 ranks on this machine
#   MPIRUN_OPTIONS="-n 8" mpirun.sh RECIPE               8 ranks on this machine
#
# On several machines mpirun does not tell the ranks where rank 0 is, so say it, and which way Gloo takes:
#   MPIRUN_OPTIONS="-n 16 --host node1:8,node2:8 -x MASTER_ADDR=node1 -x GLOO_SOCKET_IFNAME=eth0" mpirun.sh RECIPE
#
# What mpirun does by itself:
# - A rank dies by a signal: it kills the others (SIGTERM, then SIGKILL a few seconds later) and ends.
#   Nothing is restarted: run this again to go on from the last checkpoint.
# - A rank exits with another code than 0: the same, which would cut off a rank that is still leaving with
#   75. Turned off below; then mpirun waits for all, and ends with the code of one that was not 0.
# - SIGTERM or Ctrl-C to mpirun: it kills the ranks, too fast for saving. SIGUSR1 it passes on. So this
#   script sends it SIGUSR1 for all of them.
# - It binds each rank to one core. Turned off below: Keiko's threads share the cores of the machine.
#
# Ends with 0, with 75 (preempted and saved), or with the code of a rank that failed.
#
# KEIKO  the program; default: keiko on the PATH. MPIRUN likewise.
set -u

# Open MPI 4 reads the first, Open MPI 5 the second.
export OMPI_MCA_odls_base_sigkill_timeout=2 PRTE_MCA_odls_base_sigkill_timeout=2
# shellcheck disable=SC2086  # several options in one variable
"${MPIRUN:-mpirun}" --bind-to none ${MPIRUN_OPTIONS:--n 2} "${KEIKO:-keiko}" train "$@" &
mpirun=$!
trap 'kill -USR1 $mpirun 2> /dev/null' TERM USR1 INT
while kill -0 $mpirun 2> /dev/null; do wait $mpirun; done # a signal ends `wait`, not mpirun
wait $mpirun
