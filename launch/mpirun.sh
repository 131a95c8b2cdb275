#!/bin/bash
# mpirun as Fucina needs it, with mpirun's own arguments: launch/mpirun.sh -np N build/fucina ...
# Works as root and with more ranks than cores, binds each rank to its own cores where they suffice,
# and turns Ctrl-C or TERM into "save and stop" (SIGUSR2 to every rank); a second one ends the job.
set -uo pipefail

command -v mpirun >/dev/null || {
    echo "error: mpirun.sh: there is no mpirun; bash launch/setup.sh installs it" >&2
    exit 2
}
options=()
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

# In a process group of its own, mpirun does not see the terminal's Ctrl-C, which would kill the job.
set -m
if [ -t 0 ]; then
    mpirun "${options[@]}" "$@" </dev/null &
else
    mpirun "${options[@]}" "$@" <&0 &
fi
job=$!
set +m
asked=0
interrupted=no
stop() {
    interrupted=yes
    asked=$((asked + 1))
    if [ $asked = 1 ]; then
        echo "mpirun.sh: asking the ranks to save and stop; once more ends them at once" >&2
        kill -USR2 $job 2>/dev/null
    else
        kill -TERM $job 2>/dev/null
    fi
}
pass_on() {
    interrupted=yes
    kill -"$1" $job 2>/dev/null
}
trap stop INT TERM
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2
while :; do
    interrupted=no
    wait $job
    code=$?
    [ $interrupted = yes ] || exit $code
done
