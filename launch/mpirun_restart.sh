# For launch/mpirun.sh: how a job ended, and the way on after ranks or hosts were lost. It uses what
# launch/mpirun_arguments.sh reads, `files` (our directory), `code` and `lost` (yes: a host) of the
# last job.

# Over several hosts mpirun is not quiet, so that it tells which one it lost. What it says goes to
# $files/said, so that the ranks' words stay alone; $files/spoke tells that there were some.
sift() {
    sed -u -e "/^-\{74\}\$/,/^-\{74\}\$/{w $files/said" -e 'd;}' \
        -e "/^\[[^] ]*:[0-9]*\] \|^\[[^] ]*\]\[\[\|^mpirun: Forwarding signal/{w $files/said" -e 'd;}' \
        -e "w $files/spoke"
}

# mpirun's exit code is anything then.
host_was_lost() {
    [ $hosts = yes ] && [ "$code" != 0 ] &&
        grep -qE 'lost communication with a remote daemon|unable to reliably start' "$files/said" 2>/dev/null
}

# Whether that was before the run began: a name that is wrong, no ssh to it, no Open MPI there.
never_began() {
    [ ! -s "$FUCINA_RUN_NOTE" ] && ! grep -q 'lost communication' "$files/said"
}

# Whether mpirun itself refused the job.
mpirun_refused() {
    [ $hosts = yes ] && [ "$code" != 0 ] && [ ! -s "$files/spoke" ] && [ -s "$files/said" ] &&
        ! grep -qE 'exited (with|on)|MPI_ABORT' "$files/said"
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

# Why the job died, if it is not the program itself that said it; else nothing.
cause_of_death() {
    local name names
    if [ $lost = yes ] && never_began; then
        names=$(silent_hosts | tr '\n' ' ')
        echo "${names:-a host }did not start: ssh to a host without a password, or mpirun's daemon there, failed"
    elif [ $lost = yes ]; then
        names=$(sed -n 's/.*Remote daemon:.* on node //p' "$files/said" | sort -u | tr '\n' ' ')
        echo "lost ${names:+host }${names:-a host }(it is down, its network is, or mpirun's daemon there was killed)"
    elif [ "$code" -gt 128 ] && name=$(kill -l $((code - 128)) 2>/dev/null); then
        echo "a rank was killed by signal $((code - 128)) (SIG$name): $(cause_of "$name")"
    fi
}

newest_checkpoint() {
    ls -d "$1"/checkpoints/step-???????? 2>/dev/null | tail -n 1
}

# The way on after a training run died, in words.
way_on() {
    local run newest program=fucina
    [ $understood = yes ] && program=${command[0]:-fucina}
    run=$(cat "$FUCINA_RUN_NOTE" 2>/dev/null)
    newest=$(newest_checkpoint "$run")
    if [ -n "$run" ] && [ -n "$newest" ]; then
        echo "; $program resume $run goes on from ${newest##*/}"
    elif [ -n "$run" ]; then
        echo "; $run holds no checkpoint yet: $program train ... --fresh begins anew"
    elif [[ " ${command[*]} " == *" train "* || " ${command[*]} " == *" resume "* ]]; then
        echo "; $program resume RUN_DIRECTORY goes on from the last checkpoint, if there is one"
    fi
}

# Whether a restart can help: ranks or hosts died, or ranks hung (12). An answer of the
# program (any other code) would be the same again. Under Slurm only Slurm can replace a host.
may_restart() {
    [ "$restarts" -lt "$max_restarts" ] && [ $stopping = no ] &&
        { [ $lost = no ] || [ -n "$hosts_at" ]; } &&
        { [ $lost = yes ] || [ "$code" -gt 128 ] || [ "$code" = 12 ]; }
}

# The hosts of --host or of the host file as it was given, "NAME ENTRY" lines; ENTRY is its text there.
listed_hosts() {
    if [ $hosts_kind = list ]; then
        tr ',' '\n' <<<"$all_hosts" | sed -E 's/^([^:]*)(.*)$/\1 \1\2/'
    else
        sed -E 's/#.*//; s/^\s+//; s/\s+$//; /^$/d; s/^(\S+)(.*)$/\1 \1\2/' "$all_hosts"
    fi
}

# By mpirun itself, which is what must reach them.
answers() {
    timeout -k 1 "${FUCINA_HOST_TIMEOUT:-20}" mpirun --quiet "${reaching[@]}" --host "$1" -np 1 \
        --bind-to none true </dev/null >/dev/null 2>&1
}

# slots=N or :N of the entries on standard input, 1 where there is none, in all.
count_slots() {
    sed -nE 's/^.*(slots *= *|:)([0-9]+).*$/\2/p; t; s/.*/1/p' | awk '{ sum += $1 } END { print sum + 0 }'
}

# Asks all listed hosts at once; names those that do not answer. $files/living: lines of the others.
silent_hosts() {
    local name entry
    : >"$files/living"
    [ -n "$hosts_at" ] || return
    while read -r name entry; do
        answers "$name" && echo "$name $entry" >>"$files/living" &
    done < <(listed_hosts)
    wait $(jobs -p) 2>/dev/null
    listed_hosts | grep -vxFf "$files/living" | cut -d ' ' -f 1
}

# Whether the run's recipe takes more numbers of ranks than powers of two.
takes_any_number() {
    grep -qsxE 'sums = "integers"|numerics = "fast"' \
        "$(cat "$FUCINA_RUN_NOTE" 2>/dev/null)/recipe.resolved.toml"
}

# Leaves out hosts that do not answer and takes fewer ranks if they are fewer: the largest number that
# the program can run on. Fails if no host is left.
keep_living_hosts() {
    local name now total most
    for name in $(silent_hosts); do
        echo "mpirun.sh: host $name does not answer and is left out" >&2
    done
    listed_hosts | grep -xFf "$files/living" >"$files/hosts"
    [ -s "$files/hosts" ] || {
        echo "error: mpirun.sh: no host answers" >&2
        return 1
    }
    total=$(listed_hosts | count_slots)
    now=$(count_slots <"$files/hosts")
    # Ranks as many as slots, or the same share of hosts where slots are not told.
    most=$((all_ranks * now / total))
    [ "$now" -gt $most ] && most=$now
    ranks=$all_ranks
    if [ $most -lt "$all_ranks" ] && takes_any_number; then
        ranks=$most
    elif [ $most -lt "$all_ranks" ]; then
        for ((ranks = 1; 2 * ranks <= most; ranks *= 2)); do :; done
    fi
    before[ranks_at]=$ranks
    if [ $hosts_kind = list ]; then
        before[hosts_at]=$(cut -d ' ' -f 2- "$files/hosts" | paste -sd ,)
    else
        cut -d ' ' -f 2- "$files/hosts" >"$files/hostfile"
        before[hosts_at]=$files/hostfile
    fi
}

# `train RECIPE` becomes `resume RUN`, or begins anew where nothing was saved yet.
command_for_restart() {
    local run at
    run=$(cat "$FUCINA_RUN_NOTE" 2>/dev/null)
    for ((at = 0; at < ${#command[@]}; ++at)); do
        case ${command[at]} in train | resume) break ;; esac
    done
    [ -n "$run" ] || [ "${command[at]}" = train ] || run=${command[at + 1]:-}
    if [ -z "$run" ]; then
        echo "error: mpirun.sh: no restart: rank 0 did not tell its run directory here (it had not begun, or mpirun.sh runs on none of the ranks' hosts)" >&2
        return 1
    elif [ "${command[at]}" = train ]; then
        if [ -n "$(newest_checkpoint "$run")" ]; then
            command=("${command[@]:0:at}" resume "$run")
        elif [[ " ${command[*]} " != *" --fresh "* ]]; then
            command+=(--fresh)
        fi
    fi
    # A rank 0 that was cut off holds the run until its watchdog or its daemon notices.
    [ -e "$run/lock" ] && ! flock -n "$run/lock" true || return 0
    echo "mpirun.sh: waiting until the lost rank 0 lets go of $run, at most 3 minutes" >&2
    flock -w 180 "$run/lock" true
    return 0
}

prepare_restart() {
    restarts=$((restarts + 1))
    if [ -n "$hosts_at" ]; then keep_living_hosts || return; fi
    command_for_restart || return
    echo "mpirun.sh: restart $restarts of $max_restarts on $ranks rank$([ "$ranks" = 1 ] || echo s): ${command[*]}" >&2
}
