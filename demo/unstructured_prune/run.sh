#!/bin/sh
# A command for every use of train.py and evaluate.py; further flags go behind its name:
#
#     sh run.sh ratio --num_epochs 20 --model_path models/ratio
#     DATA=imagenet DATA_DIR=/data/ILSVRC2012 sh run.sh gmp --pretrained_model MobileNetV1_pretrained
#
# PYTHON is the interpreter, NPROC the number of processes, CUDA_VISIBLE_DEVICES the GPUs where Paddle has them.
set -eu

here=$(dirname "$0")
python=${PYTHON:-python}
name=${1:-help}
[ $# -eq 0 ] || shift
data="--data ${DATA:-digits}"
[ -z "${DATA_DIR:-}" ] || data="$data --data_dir $DATA_DIR"
common="$data --batch_size 64 --lr 0.05"

case $name in
threshold) # everything below a magnitude, at every step
    exec "$python" "$here/train.py" $common --pruning_mode threshold --threshold 0.01 "$@" ;;
ratio) # a share of the weights, the least magnitudes first
    exec "$python" "$here/train.py" $common --pruning_mode ratio --ratio 0.55 "$@" ;;
gmp) # the ratio rises step by step; 1x1 convolutions only, which Paddle Lite has sparse kernels for
    exec "$python" "$here/train.py" $common --pruning_mode ratio --ratio 0.75 --pruning_strategy gmp \
        --prune_params_type conv1x1_only "$@" ;;
block) # the same in blocks of two rows
    exec "$python" "$here/train.py" $common --pruning_mode ratio --ratio 0.75 --pruning_strategy gmp \
        --prune_params_type conv1x1_only --sparse_block 2 1 "$@" ;;
pattern) # two of every four weights along the input channels
    exec "$python" "$here/train.py" $common --pruning_mode ratio --pattern 2:4 "$@" ;;
distributed) # several processes; on GPUs, --gpus 0,1,2,3 in place of --nproc_per_node
    exec "$python" -m paddle.distributed.launch --nproc_per_node "${NPROC:-2}" "$here/train.py" $common \
        --pruning_mode ratio --ratio 0.55 --is_distributed True "$@" ;;
supervised) # the same, started again from the newest checkpoint when a process dies or freezes
    exec "$python" -m paddleslim_ng launch --nproc "${NPROC:-2}" --max-restarts 3 "$here/train.py" $common \
        --pruning_mode ratio --ratio 0.55 --is_distributed True --checkpoint models "$@" ;;
resume) # go on with the run of `run.sh threshold`; --last_epoch N makes sure of the epoch
    exec "$python" "$here/train.py" $common --pruning_mode threshold --threshold 0.01 --checkpoint models "$@" ;;
evaluate) # accuracy and sparsity of what was saved
    exec "$python" "$here/evaluate.py" $data --pruned_model models "$@" ;;
*)
    echo "usage: sh run.sh NAME [FLAG ...], where NAME is one of"
    sed -n 's/^\([a-z]*\)) # /  \1: /p' "$0"
    [ "$name" = help ] || exit 2 ;;
esac
