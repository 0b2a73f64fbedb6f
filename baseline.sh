#!/usr/bin/env bash
# Full-precision training (edsr_x2, ...) and testing (edsr_x2_eval, ...), one function each.
# bash baseline.sh FUNCTION [more flags]; without a function it lists them.
# PYTHON: what runs it, for training also "torchrun --nproc_per_node 4"; DIR_DATA: the data root.
# Other paths are seen from the repository, wherever it is called.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
unset CDPATH
[ ! -d "${DIR_DATA:-}" ] || DIR_DATA=$(cd "$DIR_DATA" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
PYTHON=${PYTHON:-python}
if command -v "$PYTHON" > /dev/null; then PYTHON=("$PYTHON"); else read -ra PYTHON <<< "$PYTHON"; fi
DIR_DATA=${DIR_DATA:-./datasets}

# train MODEL SCALE PATCH EPOCHS DECAY [more flags]
train() {
    local model=$1 scale=$2 patch=$3 epochs=$4 decay=$5
    shift 5
    "${PYTHON[@]}" main_ori.py --model "$model" --scale "$scale" --save "${model}_baseline_x$scale" \
        --patch_size "$patch" --epochs "$epochs" --decay "$decay" --gclip 0 --dir_data "$DIR_DATA" "$@"
}

# evaluate MODEL SCALE [more flags]
evaluate() {
    local model=$1 scale=$2
    shift 2
    local run="../experiment/${model}_baseline_x$scale" weights="./pretrained/${model}_baseline_x$scale.pt"
    if [[ " $* " =~ \ --(refine|load|resume)[\ =] ]]; then
        :  # the caller says what is tested
    elif compgen -G "$run/model/*.pth.tar" > /dev/null; then
        local tested="testing what is in pretrained/"
        [ -f "$weights" ] || tested="$weights is not there"
        echo "baseline.sh: $tested; for the run in $run give --refine $run" >&2
    elif [ ! -f "$weights" ]; then
        echo "baseline.sh: $weights is not there; bash baseline.sh ${model}_x$scale trains one" >&2
    fi
    "${PYTHON[@]}" main_ori.py --model "$model" --scale "$scale" --save "${model}_baseline_x${scale}_eval" --test_only \
        --save_results --refine "$weights" \
        --data_test Set5+Set14+B100+Urban100 --dir_data "$DIR_DATA" "$@"
}

edsr_x2() { train edsr 2 96 300 200 "$@"; }
edsr_x4() { train edsr 4 192 300 200 "$@"; }
srresnet_x2() { train srresnet 2 96 500 200 "$@"; }
srresnet_x4() { train srresnet 4 192 500 200 "$@"; }
rdn_x2() { train rdn 2 64 300 200 "$@"; }
rdn_x4() { train rdn 4 192 300 200 "$@"; }

edsr_x2_eval() { evaluate edsr 2 "$@"; }
edsr_x4_eval() { evaluate edsr 4 "$@"; }
srresnet_x2_eval() { evaluate srresnet 2 "$@"; }
srresnet_x4_eval() { evaluate srresnet 4 "$@"; }
rdn_x2_eval() { evaluate rdn 2 "$@"; }
rdn_x4_eval() { evaluate rdn 4 "$@"; }

FUNCTIONS=$(compgen -A function | grep '_x[234]')

if [ $# -eq 0 ]; then
    echo "usage: bash baseline.sh FUNCTION [more flags]; the functions are"
    sed 's/^/  /' <<< "$FUNCTIONS"
elif grep -qxF -- "$1" <<< "$FUNCTIONS"; then
    "$@"
else
    echo "baseline.sh: no function $1; without arguments it lists them" >&2
    exit 2
fi
