#!/usr/bin/env bash
# Packs files into a container image of one layer, without a registry and without a daemon. Usage:
#
#   e2e/cluster.d/image.sh NAME:TAG OUT.tar ENTRYPOINT [--libraries] FILE=/DESTINATION... [LINK->/DESTINATION...]
#
# Prints NAME:TAG, in which {id} stands for what the image holds: the same files make the same name. `--libraries` adds the
# shared libraries that the files after it need. The format is what `docker save` writes, and what `docker load` and `ctr images import` read:
#
#   manifest.json -> config.json, layer.tar
set -euo pipefail
reference=$1 out=$2 entrypoint=$3
shift 3
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT
root=$place/root
mkdir -p "$root/tmp"
chmod 1777 "$root/tmp"

add() {
    mkdir -p "$root$(dirname "$2")"
    install -m 755 "$1" "$root$2"
}

libraries=
for item in "$@"; do
    case $item in
        --libraries) libraries=1 ;;
        *'->'*)
            mkdir -p "$root$(dirname "${item#*->}")"
            ln -s "${item%%->*}" "$root${item#*->}"
            ;;
        *)
            file=$(readlink -f "${item%%=*}")
            add "$file" "${item#*=}"
            if [[ $libraries ]]; then
                # "name => /path (address)" for a library, "/path (address)" for the loader.
                while read -r library; do
                    [[ -e $root$library ]] || add "$(readlink -f "$library")" "$library"
                done < <(ldd "$file" | sed -n 's/^\(.* => \)\{0,1\}[[:space:]]*\(\/[^ ]*\) (.*/\2/p')
            fi
            ;;
    esac
done

tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$place/layer.tar" .
layer=$(sha256sum "$place/layer.tar" | cut -d ' ' -f 1)
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$(uname -m) ;;
esac
printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["%s"],"Env":["PATH=/bin"],"User":"65532:65532"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$entrypoint" "$layer" >"$place/config.json"
reference=${reference//'{id}'/$(sha256sum "$place/config.json" | cut -c 1-12)}
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$reference" >"$place/manifest.json"
mkdir -p "$(dirname "$out")"
tar -C "$place" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$out.new" manifest.json config.json layer.tar
mv "$out.new" "$out"
echo "$reference"
