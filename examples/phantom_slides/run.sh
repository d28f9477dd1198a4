#!/usr/bin/env bash
# From slides to a board, end to end, on PHANTOM slides: draw, extract, pretrain, run, show.
#
#   bash examples/phantom_slides/run.sh [FOLDER]      about 8 minutes on two cores
#
# With slides of your own, begin at `mbench features extract`. Interrupt it anywhere: what is done is kept,
# and the same command goes on (pretraining goes on with --resume).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-phantom-slides}
python=${PYTHON:-python}
mkdir -p "$work"
cp "$here/mbench.toml" "$work/mbench.toml"
cd "$work"

# 1. Slides: a few cases of a pretraining cohort in five stains, and a downstream cohort in H&E.
"$python" "$here" acrobat --cases 20 --out acrobat
"$python" "$here" bcnb --cases 50 --out bcnb

# 2. Tissue, patches of 256 px at 10x, features of an ImageNet network: a bag for each slide.
for cohort in acrobat bcnb; do
  mbench features extract --slides "$cohort/slides" --cohort "$cohort" --patch-encoder efficientnet-lite0 --out "$cohort/bags"
done

# 3. Madeleine on the five stains, small.
resume=()
if [ -f madeleine/checkpoint.safetensors ]; then resume=(--resume); fi
mbench pretrain madeleine --cohort acrobat --set held_out_share=0.25 --set batch_cases=15 --set epochs=12 --set patches=32 --out madeleine "${resume[@]}"

# 4. Scores, and the board. With so few cases they are noise, whatever the encoder: it is the way that counts here.
mbench run --encoder madeleine/card.yaml --encoder mean-pool --encoder patch-count --task bcnb-er --task bcnb-pr --task bcnb-her2 --task bcnb-aln --protocol linear-probe
mbench leaderboard show --board phantom-rendered
