#!/usr/bin/env bash
# Test quantized networks and save their images, one function for each network and scale.
# bash test.sh FUNCTION [K_BITS [more flags]]; K_BITS is 4 by default; without a function it lists them.
# Where no run of that name is there, the network in pretrained/ is tested.
# PYTHON: the Python to use (tests run in one process, so no torchrun); DIR_DATA: the data root.
# Other paths are seen from the repository, wherever it is called.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
unset CDPATH
[ ! -d "${DIR_DATA:-}" ] || DIR_DATA=$(cd "$DIR_DATA" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
PYTHON=${PYTHON:-python3}
if command -v "$PYTHON" > /dev/null; then PYTHON=("$PYTHON"); else read -ra PYTHON <<< "$PYTHON"; fi
DIR_DATA=${DIR_DATA:-./datasets}

# evaluate MODEL SCALE K_BITS [more flags]
evaluate() {
    local model=$1 scale=$2 k_bits=$3
    shift 3
    local run="../experiment/output/${model}x$scale/${k_bits}bit"
    local shipped="./pretrained/${model}_x${scale}_${k_bits}bit.safetensors"
    if [[ ! " $* " =~ \ --(refine|load|save|resume)[\ =] ]] && [ -f "$shipped" ] &&
        ! compgen -G "$run/model/*.pth.tar" > /dev/null; then
        echo "test.sh: no run in $run; testing $shipped" >&2
        set -- --refine "$shipped" "$@"
    fi
    "${PYTHON[@]}" main_limitrange_incremental.py --scale "$scale" --model "$model" --k_bits "$k_bits" --save_results \
        --test_only --data_test Set5+Set14+B100+Urban100 --save "$run" --dir_data "$DIR_DATA" "$@"
}

edsr_x4() { evaluate edsr 4 "$@"; }
edsr_x2() { evaluate edsr 2 "$@"; }
srresnet_x4() { evaluate srresnet 4 "$@"; }
srresnet_x2() { evaluate srresnet 2 "$@"; }
rdn_x4() { evaluate rdn 4 "$@"; }
rdn_x2() { evaluate rdn 2 "$@"; }

FUNCTIONS=$(compgen -A function | grep '_x[234]')

if [ $# -eq 0 ]; then
    echo "usage: bash test.sh FUNCTION [K_BITS [more flags]]; the functions are"
    sed 's/^/  /' <<< "$FUNCTIONS"
elif [[ " $* " =~ \ --k_bits[\ =] ]]; then
    echo "test.sh: --k_bits is not read here; give the bits behind the function, as bash test.sh edsr_x4 2" >&2
    exit 2
elif grep -qxF -- "$1" <<< "$FUNCTIONS"; then
    case ${2:-} in
        [0-9]*) "$@" ;;
        *) "$1" 4 "${@:2}" ;;
    esac
else
    echo "test.sh: no function $1; without arguments it lists them" >&2
    exit 2
fi
