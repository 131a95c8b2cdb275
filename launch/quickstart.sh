#!/bin/bash
# From a fresh Debian 12 to a small trained model that writes text, on two CPU cores in minutes:
# installs and builds, takes English prose out of Debian packages, trains a tokenizer on it, and
# trains, evaluates and samples a mixture-of-experts model. Runs are numbered; again is quicker.
set -euo pipefail
cd "$(dirname "$0")/.."

data=runs/quickstart-data
# 10 MB to download, 7 MB of prose: Debian's own manuals, Git's and PostgreSQL's.
packages=(debian-faq debian-policy debian-reference-en developers-reference git-doc postgresql-doc-15)
started=$SECONDS

step() { printf '\n== %s  (%d s)\n' "$1" $((SECONDS - started)); }
give_up() {
    echo "error: quickstart.sh: $1" >&2
    exit "${2:-1}"
}

step "Installing what the build needs"
bash launch/setup.sh

step "Building build/fucina"
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
cmake --preset release >/dev/null || give_up "configuring failed"
cmake --build build -j "$(nproc)" || give_up "the build failed"
build/fucina doctor

# The documents of a slim image are not installed, so the packages are opened, not installed.
step "English prose from ${packages[*]}"
if [ -s $data/train.jsonl ] && [ -s $data/valid.jsonl ]; then
    echo "$data is there already"
else
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    chmod 755 "$scratch"
    download() { (cd "$scratch" && apt-get -qq download "${packages[@]}" 2>"$scratch/apt.log"); }
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    download || { "${as_root[@]}" apt-get -qq update && download; } ||
        give_up "apt-get download failed: $(tail -n 1 "$scratch/apt.log")" 3
    for package in "$scratch"/*.deb; do dpkg-deb -x "$package" "$scratch/files"; done
    # Pages in English; PostgreSQL's notes on each release are lists, not prose.
    mapfile -t pages < <(find "$scratch/files" -type f -name '*.html' ! -name 'release-*' \
        \( -name '*.en.html' -o ! -name '*.*.html' \) | LC_ALL=C sort)
    [ ${#pages[@]} -gt 1000 ] || give_up "the packages hold ${#pages[@]} English pages; expected over 1,000" 3
    mkdir -p $data.new
    perl launch/html_to_jsonl.pl $data.new "${pages[@]}"
    rm -rf $data
    mv $data.new $data
fi
bytes=$(cat $data/train.jsonl $data/valid.jsonl | wc -c)
[ "$bytes" -ge 6000000 ] || give_up "$data holds $bytes bytes of text; expected 6,000,000 or more (remove it to make it anew)" 3

step "Training a tokenizer of 4,096 tokens"
if [ -s $data/tokenizer.json ]; then
    echo "$data/tokenizer.json is there already"
else
    build/fucina tokenizer train --input $data/train.txt --vocab-size 4096 \
        --output $data/tokenizer.json
fi

number=1
while [ -e runs/quickstart-$number ]; do number=$((number + 1)); done
run=runs/quickstart-$number

step "Training $run on 2 ranks"
launch/mpirun.sh -np 2 build/fucina train configs/quickstart.toml --set run.dir=$run

step "Loss on the held-out pages"
build/fucina eval $run --data $data/valid.jsonl

step "What it writes"
build/fucina report $run --prompt "The package manager"

step "Done"
cat <<EOF
The run is in $run: checkpoints, metrics.jsonl, tensorboard/ and report.html, for a browser.
Next:
  launch/mpirun.sh -np 2 build/fucina resume $run --set train.steps=900
  build/fucina generate $run --prompt "Debian is" --temperature 0.8
  launch/mpirun.sh -np 2 build/fucina train configs/quickstart.toml --set run.dir=runs/mine --set train.learning_rate=1e-3
EOF
