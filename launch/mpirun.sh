#!/bin/bash
# mpirun as Fucina needs it, with mpirun's own arguments: launch/mpirun.sh -np N build/fucina ...
# Works as root and with more ranks than cores, binds each rank to its own cores where they suffice.
# Ctrl-C, TERM, a closed terminal (HUP) and a reader of the output that goes away (`| head`) become
# "save and stop" (SIGUSR2 to every rank, exit code 15); a second Ctrl-C, TERM or HUP ends the job.
# What was ignored when this began stays ignored, as everywhere in Unix: Ctrl-C in the background of
# a script (`mpirun.sh ... &`), HUP under nohup; then TERM, USR2 or a file STOP stops the run.
# If a signal killed a rank, one line says which, why, and how to go on; the exit code is 128 + signal.
set -uo pipefail

command -v mpirun >/dev/null || {
    echo "error: mpirun.sh: there is no mpirun; bash launch/setup.sh installs it" >&2
    exit 2
}
options=()
program=fucina
export FUCINA_TERMINAL=0
[ -t 1 ] && FUCINA_TERMINAL=1
if mpirun --version 2>/dev/null | grep -q "Open MPI"; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1
    # Reading each other's memory is forbidden in most containers, and Open MPI finds out too late.
    if [ -e /.dockerenv ] || [ -e /run/.containerenv ] || [ -n "${container:-}" ] ||
        grep -qE 'docker|kubepods|containerd|lxc' /proc/1/cgroup 2>/dev/null; then
        export OMPI_MCA_btl_vader_single_copy_mechanism=none
    fi
    options+=(--quiet)
    # When one rank fails the others end at once, not after a second.
    export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-0}
    # Cores of this machine that we may use; hyperthreads count once.
    ranks=1 hosts=no bound=no understood=yes program=
    args=("$@")
    for ((i = 0; i < $#; ++i)); do
        case ${args[i]} in
            -np | -n | --np | -c) ranks=${args[i + 1]:-1} ;;
            -H | -host | --host | -hostfile | --hostfile | -machinefile | --machinefile) hosts=yes ;;
            --bind-to | -bind-to | --map-by | -map-by | --rankfile | -rf) bound=yes ;;
            -*) understood=no ;;
            *) [[ ${args[i]} =~ ^[0-9]+$ ]] || { program=${args[i]}; break; } ;;
        esac
    done
    if [ $understood = yes ] && [ -n "$program" ] && ! command -v "$program" >/dev/null; then
        echo "error: mpirun.sh: there is no program $program" >&2
        exit 2
    fi
    physical=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
    cores=$(nproc)
    [ "$physical" -ge 1 ] && [ "$physical" -lt "$cores" ] && cores=$physical
    if [ $bound = no ]; then
        if [ $hosts = no ] && [[ $ranks =~ ^[1-9][0-9]*$ ]] && [ "$ranks" -le "$cores" ]; then
            options+=(--map-by "slot:PE=$((cores / ranks))" --bind-to core)
        else
            options+=(--bind-to none)
        fi
    fi
fi

[ -n "$program" ] && [ "${understood:-no}" = yes ] || program=fucina

# Where a training run is: rank 0 writes it there. Empty if it is on another machine.
files=$(mktemp -d 2>/dev/null) && trap 'rm -rf "$files"' EXIT
export FUCINA_RUN_NOTE=${files:+$files/run}

# The way on after a training run was killed.
way_on() {
    local run newest
    run=$(cat "$FUCINA_RUN_NOTE" 2>/dev/null)
    newest=$(ls -d "$run"/checkpoints/step-???????? 2>/dev/null | tail -n 1)
    if [ -n "$run" ] && [ -n "$newest" ]; then
        echo "; $program resume $run goes on from ${newest##*/}"
    elif [ -n "$run" ]; then
        echo "; $run holds no checkpoint yet: $program train ... --fresh begins anew"
    elif [[ " $* " == *" train "* || " $* " == *" resume "* ]]; then
        echo "; $program resume RUN_DIRECTORY goes on from the last checkpoint, if there is one"
    fi
}

# What a signal that killed a rank most likely means.
cause_of() {
    case $1 in
        KILL) echo "the system ran out of memory (dmesg tells), or somebody sent kill -9" ;;
        SEGV | ABRT | FPE) echo "a defect of the program" ;;
        BUS) echo "a full disk or shared memory (/dev/shm), or a defect of the program" ;;
        ILL) echo "the program was built for another CPU" ;;
        XCPU) echo "its limit on CPU time" ;;
        *) echo "somebody sent it" ;;
    esac
}

report_signal() {
    local name
    name=$(kill -l "$1" 2>/dev/null) || return
    echo "error: mpirun.sh: a rank was killed by signal $1 (SIG$name): $(cause_of "$name")$(way_on "${@:2}")" >&2
}

# When it cannot write, mpirun ends the job at once. So we write for it, and when nobody reads any
# more we ask for a save (SIGPIPE to this script) and let the rest go nowhere.
relay() {
    cat >&"$1" 2>/dev/null || kill -PIPE $$
    cat >/dev/null
}
relays=()
# fd NEW becomes what mpirun writes to in place of fd OLD.
open_relay() {
    if [ -z "$files" ] || [ -t "$2" ] || ! mkfifo "$files/$2"; then
        eval "exec $1>&$2"
        return
    fi
    relay "$2" <"$files/$2" 3>&- 4>&- &
    relays+=($!)
    eval "exec $1>\"$files/$2\""
}

# In a process group of its own, mpirun does not see the terminal's Ctrl-C, which would kill the job.
set -m
open_relay 3 1
open_relay 4 2
if [ -t 0 ]; then
    mpirun "${options[@]}" "$@" </dev/null >&3 2>&4 3>&- 4>&- &
else
    mpirun "${options[@]}" "$@" <&0 >&3 2>&4 3>&- 4>&- &
fi
job=$!
exec 3>&- 4>&-
set +m
asked=0
interrupted=no
stop() {
    interrupted=yes
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
    kill -"$1" $job 2>/dev/null
}
trap stop INT TERM HUP
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2
trap 'pass_on USR2' PIPE
while :; do
    interrupted=no
    wait $job
    code=$?
    [ $interrupted = yes ] && continue
    wait "${relays[@]}" 2>/dev/null
    [ $code -gt 128 ] && [ $asked -lt 2 ] && report_signal $((code - 128)) "$@"
    exit $code
done
