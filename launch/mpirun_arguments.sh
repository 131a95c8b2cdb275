# For launch/mpirun.sh: what its arguments say. read_arguments sets
#   before        mpirun's own arguments, without ours
#   command       the program and its arguments
#   ranks, hosts (yes or no), bound (yes: placed by the user), understood (no: an unknown option,
#   so that the program may be misread), max_restarts
#   ranks_at, hosts_at   where in `before` their values stand; empty if they were not given
#   hosts_kind    list (--host) or file
#   reaching      what reaches other hosts, out of `before`: --mca, --prefix, -x

usage_error() {
    echo "error: mpirun.sh: $1" >&2
    exit 2
}

read_arguments() {
    before=() command=() reaching=() ranks=1 hosts=no bound=no understood=yes max_restarts=0
    ranks_at='' hosts_at='' hosts_kind=''
    local option values
    while [ $# -gt 0 ]; do
        option=$1 values=1
        case $option in
            --max-restarts)
                [[ ${2:-} =~ ^[0-9]{1,6}$ ]] ||
                    usage_error "--max-restarts \"${2:-}\": expected a number, 0 or more"
                max_restarts=$2
                shift 2
                continue
                ;;
            -np | -n | --np | -c)
                ranks=${2:-1}
                ranks_at=$((${#before[@]} + 1))
                ;;
            -H | -host | --host | -hostfile | --hostfile | -machinefile | --machinefile)
                hosts=yes
                hosts_at=$((${#before[@]} + 1))
                hosts_kind=file
                case $option in -H | -host | --host) hosts_kind=list ;; esac
                ;;
            --bind-to | -bind-to | --map-by | -map-by | --rankfile | -rf) bound=yes ;;
            -x) reaching+=("$1" "${2:-}") ;;
            --prefix) reaching+=("$1" "${2:-}") ;;
            --mca | -mca)
                values=2
                reaching+=("$1" "${2:-}" "${3:-}")
                ;;
            --rank-by | -rank-by | -wdir | --wdir | -wd | --timeout | --output-filename) ;;
            --report-bindings | -report-bindings | --tag-output | --display-map | -q | --quiet) values=0 ;;
            -*)
                understood=no
                values=0
                ;;
            *)
                # The value of an option that we do not know may be a number.
                [[ $understood = no && $option =~ ^[0-9]+$ ]] || break
                values=0
                ;;
        esac
        [ $# -gt $values ] || break
        before+=("${@:1:values+1}")
        shift $((values + 1))
    done
    command=("$@")
}

# What a restart must be able to change: the ranks, the hosts, and what the program does.
check_restartable() {
    local word
    [ $understood = yes ] ||
        usage_error "--max-restarts: an option of mpirun in \"${before[*]}\" is unknown here; leave it out, or set it as OMPI_MCA_... in the environment"
    [ -n "$ranks_at" ] || usage_error "--max-restarts needs the number of ranks: -np N"
    for word in "${command[@]}"; do
        [ "$word" != : ] || usage_error "--max-restarts restarts one program, not several joined by \":\""
    done
    for word in "${command[@]}"; do
        case $word in train | resume) return ;; esac
    done
    usage_error "--max-restarts restarts \`fucina train\` and \`fucina resume\`, not \"${command[*]}\""
}
