#!/usr/bin/env bash
# DDTB training, one function for each network and scale.
# bash run.sh FUNCTION [K_BITS [more flags]]; K_BITS is 4 by default; without a function it lists them.
# PYTHON: what runs it, as "torchrun --nproc_per_node 4"; DIR_DATA: the data root.
# Other paths are seen from the repository, wherever it is called.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
unset CDPATH
[ ! -d "${DIR_DATA:-}" ] || DIR_DATA=$(cd "$DIR_DATA" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
PYTHON=${PYTHON:-python}
if command -v "$PYTHON" > /dev/null; then PYTHON=("$PYTHON"); else read -ra PYTHON <<< "$PYTHON"; fi
DIR_DATA=${DIR_DATA:-./datasets}

# quantize MODEL SCALE PATCH RATIO K_BITS [more flags]
quantize() {
    local model=$1 scale=$2 patch=$3 ratio=$4 k_bits=$5
    shift 5
    "${PYTHON[@]}" main_limitrange_incremental.py --scale "$scale" --k_bits "$k_bits" --model "$model" \
        --pre_train "./pretrained/${model}_baseline_x$scale.pt" --patch_size "$patch" --data_test Set14 \
        --dynamic_ratio "$ratio" --save "output/${model}x$scale/${k_bits}bit" --dir_data "$DIR_DATA" \
        --print_every 10 "$@"
}

edsr_x4() { quantize edsr 4 192 0.3 "$@"; }
edsr_x2() { quantize edsr 2 96 0.3 "$@"; }
srresnet_x4() { quantize srresnet 4 192 0.1 "$@"; }
srresnet_x2() { quantize srresnet 2 96 0.1 "$@"; }
rdn_x4() { quantize rdn 4 96 0.5 "$@"; }
rdn_x2() { quantize rdn 2 64 0.5 "$@"; }

FUNCTIONS=$(compgen -A function | grep '_x[234]')

if [ $# -eq 0 ]; then
    echo "usage: bash run.sh FUNCTION [K_BITS [more flags]]; the functions are"
    sed 's/^/  /' <<< "$FUNCTIONS"
elif [[ " $* " =~ \ --k_bits[\ =] ]]; then
    echo "run.sh: --k_bits is not read here; give the bits behind the function, as bash run.sh edsr_x4 2" >&2
    exit 2
elif grep -qxF -- "$1" <<< "$FUNCTIONS"; then
    case ${2:-} in
        [0-9]*) "$@" ;;
        *) "$1" 4 "${@:2}" ;;
    esac
else
    echo "run.sh: no function $1; without arguments it lists them" >&2
    exit 2
fi
