#!/usr/bin/env bash
# A new user's walk: an encoder of one's own, on real bags and on phantoms, packed, verified, on a board.
#
#   bash examples/new_user/run.sh [FOLDER]
#
# TASKS are the phantom tasks (all 21 by default; TASKS='bcnb-*' is quicker), PROTOCOL one protocol
# instead of those the tasks declare. Real bags come from PyPI unless FOLDER/data has them already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-new-user}
mkdir -p "$work"
cd "$work"
protocol=(${PROTOCOL:+--protocol "$PROTOCOL"})

step() {  # says the command, runs it, says how long it took
  local from=$SECONDS
  echo "\$ $*"
  "$@"
  echo "[$((SECONDS - from)) s]"
  echo
}

# 1. A working encoder to start from, and the user's own method in its place.
step mbench submit new spread-pool
cp "$here/encoder.py" spread-pool/encoder.py
sed -i -e '/^parameters:/d' -e '/^  trim:/d' \
  -e 's/^title:.*/title: Mean and deviation of patch features/' \
  -e 's/^description:.*/description: The mean and the standard deviation over patches, side by side./' spread-pool/card.yaml

# 2. Is it a slide encoder at all?
step mbench encoders check spread-pool/card.yaml
step python -m pytest -q -p no:cacheprovider spread-pool

# 3. Real bags: 58 H&E images of breast tissue.
if [ ! -f data/ucsb-breast/mbench.toml ]; then
  step mbench data fetch ucsb-breast --into data
fi
step mbench run --encoder spread-pool/card.yaml --encoder mean-pool \
  --task ucsb-breast-malignancy --config data/ucsb-breast/mbench.toml

# 4. The tasks of the benchmark, on phantoms.
step mbench run --encoder spread-pool/card.yaml --encoder mean-pool \
  --task "${TASKS:-all}" "${protocol[@]}" --source phantom

# 5. One zip, and what the other side makes of it.
step mbench submit pack spread-pool/card.yaml --board phantom
step mbench submit verify spread-pool.zip --out report.md

# 6. On the board of somebody else, who has mean-pool and never runs our code.
step mbench run --encoder mean-pool --task "${TASKS:-all}" "${protocol[@]}" \
  --source phantom --results board
step mbench leaderboard add spread-pool.zip --results board
step mbench leaderboard show --results board
step mbench leaderboard build --results board --out site

times > .times
echo "whole walk: $SECONDS s; processor time of its commands (user, system): $(tail -n 1 .times)"
