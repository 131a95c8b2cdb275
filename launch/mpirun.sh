#!/bin/bash
# mpirun as Fucina needs it, with mpirun's own arguments: launch/mpirun.sh -np N build/fucina ...
# Works as root and with more ranks than cores, binds each rank to its own cores where they suffice.
# Ctrl-C, TERM, a closed terminal (HUP) and a reader of the output that goes away (`| head`) become
# "save and stop" (SIGUSR2 to every rank, exit code 15); a second Ctrl-C, TERM or HUP ends the job.
# What was ignored when this began stays ignored, as everywhere in Unix: Ctrl-C in the background of
# a script (`mpirun.sh ... &`), HUP under nohup; then TERM, USR2 or a file STOP stops the run.
# If a signal killed a rank, one line says which, why, and how to go on; the exit code is 128 + signal.
# If a host of --host or --hostfile is lost, a line says so within seconds; the exit code is 12.
# --max-restarts N, before the program: after either, or ranks that hung (12 too), it goes on
# with `fucina resume`, up to N times, without the hosts that do not answer and on fewer ranks if need
# be. It never restarts what the program ended itself, or a run that somebody asked to stop.
set -uo pipefail
here=$(dirname "$(readlink -f "$0")")
source "$here/mpirun_arguments.sh"
source "$here/mpirun_restart.sh"

command -v mpirun >/dev/null || {
    echo "error: mpirun.sh: there is no mpirun; bash launch/setup.sh installs it" >&2
    exit 2
}
read_arguments "$@"
[ "$max_restarts" = 0 ] || check_restartable
# Slurm gives mpirun its hosts.
[ "${SLURM_JOB_NUM_NODES:-1}" = 1 ] || hosts=yes
if [ $understood = yes ] && [ ${#command[@]} -gt 0 ] && ! command -v "${command[0]}" >/dev/null; then
    usage_error "there is no program ${command[0]}"
fi

# Where a training run is: rank 0 writes it there. Empty if it is on another machine.
files=$(mktemp -d 2>/dev/null) && trap 'rm -rf "$files"' EXIT
export FUCINA_RUN_NOTE=${files:+$files/run}
export FUCINA_TERMINAL=0
[ -t 1 ] && FUCINA_TERMINAL=1

# Cores of this machine that we may use; hyperthreads count once.
usable_cores() {
    local physical cores
    physical=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
    cores=$(nproc)
    [ "$physical" -ge 1 ] && [ "$physical" -lt "$cores" ] && cores=$physical
    echo "$cores"
}

options=()
if mpirun --version 2>/dev/null | grep -q "Open MPI"; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1
    # Reading each other's memory is forbidden in most containers, and Open MPI finds out too late.
    if [ -e /.dockerenv ] || [ -e /run/.containerenv ] || [ -n "${container:-}" ] ||
        grep -qE 'docker|kubepods|containerd|lxc' /proc/1/cgroup 2>/dev/null; then
        export OMPI_MCA_btl_vader_single_copy_mechanism=none
    fi
    # When one rank fails the others end at once, not after a second.
    export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-0}
    if [ $hosts = yes ]; then
        # The kernels of two hosts that have nothing to say ask each other after 3 s, then each
        # second, and give up after 5 unanswered: both sides end their ranks. The default is 8 minutes.
        for setting in time=3 intvl=1 probes=5; do
            name=OMPI_MCA_oob_tcp_keepalive_${setting%=*}
            export "$name=${!name:-${setting#*=}}"
        done
        for name in "${!FUCINA_@}"; do options+=(-x "$name"); done
    else
        options+=(--quiet)
    fi
fi

placement() {
    local cores
    [ $bound = no ] || return
    cores=$(usable_cores)
    if [ $hosts = no ] && [[ $ranks =~ ^[1-9][0-9]*$ ]] && [ "$ranks" -le "$cores" ]; then
        echo "--map-by slot:PE=$((cores / ranks)) --bind-to core"
    else
        echo "--bind-to none"
    fi
}
[ ${#options[@]} -eq 0 ] || read -ra placed <<<"$(placement)"

# When it cannot write, mpirun ends the job at once. So we write for it, and when nobody reads any
# more we ask for a save (SIGPIPE to this script) and let the rest go nowhere.
relay() {
    case "$1$hosts" in
        2yes) sift ;;
        # When a job dies, mpirun's event library may warn of a file that mpirun has closed already.
        2*) sed -u '/^\[warn\] Epoll /d' ;;
        *) cat ;;
    esac >&"$1" 2>/dev/null || kill -PIPE $$
    cat >/dev/null
}
relays=()
# fd NEW becomes what mpirun writes to in place of fd OLD.
open_relay() {
    if [ -z "$files" ] || { [ -t "$2" ] && [ "$2$hosts" != 2yes ]; } || ! mkfifo "$files/$2"; then
        eval "exec $1>&$2"
        return
    fi
    relay "$2" <"$files/$2" 3>&- 4>&- &
    relays+=($!)
    eval "exec $1>\"$files/$2\""
    rm -f "$files/$2"
}

stopping=no asked=0 interrupted=no job=
stop() {
    interrupted=yes stopping=yes
    asked=$((asked + 1))
    if [ $asked = 1 ]; then
        kill -USR2 $job 2>/dev/null
        echo "mpirun.sh: asking the ranks to save and stop; once more ends them at once" >&2
    else
        kill -TERM $job 2>/dev/null
    fi
}
pass_on() {
    interrupted=yes
    [ "$1" = USR1 ] || stopping=yes
    kill -"$1" $job 2>/dev/null
}
trap stop INT TERM HUP
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2
trap 'pass_on USR2' PIPE

# Runs the job to its end; sets code and lost.
run_job() {
    relays=() lost=no
    [ -z "$files" ] || rm -f "$files/said" "$files/spoke"
    # In a process group of its own, mpirun does not see the terminal's Ctrl-C, which would kill the job.
    set -m
    open_relay 3 1
    open_relay 4 2
    if [ -t 0 ]; then
        mpirun "${options[@]}" "${placed[@]}" "${before[@]}" "${command[@]}" </dev/null >&3 2>&4 3>&- 4>&- &
    else
        mpirun "${options[@]}" "${placed[@]}" "${before[@]}" "${command[@]}" <&0 >&3 2>&4 3>&- 4>&- &
    fi
    job=$!
    exec 3>&- 4>&-
    set +m
    interrupted=yes
    while [ $interrupted = yes ]; do
        interrupted=no
        wait $job
        code=$?
    done
    job=
    wait "${relays[@]}" 2>/dev/null
    host_was_lost && lost=yes
}

restarts=0 all_ranks=$ranks all_hosts=
[ -z "$hosts_at" ] || all_hosts=${before[hosts_at]}
while :; do
    run_job
    death=
    [ $asked -lt 2 ] && death=$(cause_of_death)
    if [ $lost = yes ] && never_began; then
        echo "error: mpirun.sh: $death" >&2
        exit 2
    fi
    mpirun_refused && [ $lost = no ] && cat "$files/said" >&2
    [ $lost = no ] || code=12
    if ! may_restart; then
        [ -z "$death" ] || echo "error: mpirun.sh: $death$(way_on)" >&2
        exit $code
    fi
    echo "mpirun.sh: ${death:-the job ended with code $code}" >&2
    prepare_restart && [ $stopping = no ] || exit $code
done
