#!/usr/bin/env bash
# PSNR and SSIM of saved outputs by MATLAB, or by GNU Octave where there is no MATLAB.
#
#   metrics/run.sh [DATASETS] [SCALE] [BIT] [RUN] [DIR_DATA]
#
# DATASETS are joined with '+'; RUN is the run's folder. The defaults are those of the README's example: the benchmark
# sets, x4, 4 bit, ../experiment/output/edsrx4/4bit and ./datasets, seen from the repository.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
unset CDPATH

datasets=${1:-Set5+Set14+B100+Urban100}
scale=${2:-4}
bit=${3:-4}
metrics=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=${metrics%/*}
run=${4:-${repository%/*}/experiment/output/edsrx$scale/${bit}bit}
dir_data=${5:-$repository/datasets}

if command -v matlab >/dev/null; then
  interpreter=(matlab -nodesktop -nosplash -r)
elif command -v octave-cli >/dev/null; then
  interpreter=(octave-cli --quiet --norc --no-history --eval)
else
  echo "error: neither matlab nor octave-cli found; install one, or use python metrics/psnr_ssim.py" >&2
  exit 2
fi

quoted() { # a string literal of MATLAB
  printf "'%s'" "${1//\'/\'\'}"
}

IFS=+ read -ra names <<<"$datasets"
for dataset in "${names[@]}"; do
  results=$(quoted "$run/results-$dataset")
  originals=$(quoted "$dir_data/benchmark/$dataset/HR")
  call="calculate_PSNR_SSIM($(quoted "$dataset"), $scale, $bit, $results, $originals);"
  # an error must end the interpreter: MATLAB would wait at its prompt
  report="fprintf(2, 'error: %s\n', problem.message); exit(2);"
  "${interpreter[@]}" "try, addpath($(quoted "$metrics")); $call catch problem, $report end; quit"
done
