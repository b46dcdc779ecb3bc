#!/usr/bin/env bash
# Every method with the same network, radius, epochs and seed, then what `certify robust` proves of each.
# usage: CERTIFY_DATA=FOLDER benchmarks/training/mnist.sh OUT [DATA] [EPS] [EPOCHS] [SAMPLES]
# Stopped or killed anywhere, the same command goes on: both programs keep what is done in OUT.
set -eu
out=$1 data=${2:-mnist} eps=${3:-0.1} epochs=${4:-20} samples=${5:-1000}
for method in standard adversarial ibp crown-ibp sabr:share=0.4 taps mtl-ibp:share=0.02 cc-ibp:share=0.02 exp-ibp:share=0.05; do
    folder=$out/$data-$eps-${method//[:=]/-}
    certify train --data "$data" --net cnn-small --method "$method" --eps "$eps" --epochs "$epochs" --batch 128 \
        --rate 0.001 --seed 0 --out "$folder"
    certify robust "$folder" --data "$data" --eps "$eps" --index "0:$samples" --timeout 10 --out "$folder/robust"
done
