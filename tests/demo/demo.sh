#!/usr/bin/env bash
# The whole story on a real disk: build a Debian 12 disk, import it, look inside it, download it, prove that
# nothing changed, import a second build of it and see how little that takes; then copy, tag, export and share
# it, let somebody in with a role, and read what was traced of all that.
#
# usage: demo.sh [IMAGE]     with IMAGE: your own disk instead of the Debian one (needs qemu-img only)
#
# Everything it makes lies under .cache/demo. The disks are built once; the daemon and its images are new
# every time and gone, with the process, at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH:/usr/sbin:/sbin
here=tests/demo
cache=.cache/demo
own_image=${1:-}
started=$SECONDS

# What the second build has beyond the first: "a few more packages".
MORE_PACKAGES=(nginx-light redis-server vim git rsync)
DISK_SIZE=2G

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
step=0
next_step() { # TITLE: some are left out for an ISO, so they are counted as they come
    step=$((step + 1))
    say "$step. $*"
}
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
prompt() { # REST command...: print the command as one would type it, and what follows it
    local rest=$1 words='' word
    shift
    for word in "$@"; do
        word=${word//$PWD\//}
        case $word in *[\ \*\|]*) word="\"$word\"" ;; esac
        words+=" $word"
    done
    printf '%s$%s%s%s\n' "$dim" "$words" "$rest" "$plain"
}
show() { # command...: print it, run it
    prompt '' "$@"
    "$@"
}
show_lines() { # NAMES command...: print it, run it, keep the lines that begin with one of NAMES (a|b|c)
    local names=$1
    shift
    prompt " | grep -E '^($names)'" "$@"
    "$@" | grep -E "^($names)"
}
show_refusal() { # command...: print it, run it; that it is refused is the point
    prompt '' "$@"
    if "$@" 2>&1; then fail "this should have been refused"; fi
}
ticker=
tick() { # TEXT: on a terminal, show that something is going on, and for how long already
    [ -t 1 ] || return 0
    local start=$SECONDS
    while kill -0 $$ 2>/dev/null; do
        printf '\r%s%s, %s s%s' "$dim" "$1" "$((SECONDS - start))" "$plain"
        sleep 1
    done 9>&- &
    ticker=$!
    trap stop_ticking EXIT
}
stop_ticking() {
    [ -n "$ticker" ] || return 0
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    ticker=
    printf '\r\e[K'
}
field() { # IMAGE NAME: one field of an image
    imsctl image show "$1" -o json |
        python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

# ── What it needs ───────────────────────────────────────────────────────────────────────────────────
if [ -n "$own_image" ]; then
    [ -r "$own_image" ] || fail "cannot read $own_image"
    own_image=$(realpath "$own_image")
    command -v qemu-img >/dev/null || .ci/install_packages.sh tests
else
    if [ "$(id -u)" != 0 ] || [ "$(uname -m)" != x86_64 ] || ! grep -qs '^ID=debian$' /etc/os-release; then
        cat >&2 <<'TEXT'
demo: building the Debian disk needs root (it unpacks packages and mounts the disk) on an x86-64 Debian
machine. Either
  * run it there as root:                 make demo
  * or show it on a disk you have:        make demo IMAGE=path/to/disk.qcow2
    (RAW, ISO or QCOW2; needs qemu-img: on Debian in the package qemu-utils)
TEXT
        exit 1
    fi
    .ci/install_packages.sh demo
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || fail "another demo is running in $cache: wait for it to end"

# ── The disks ───────────────────────────────────────────────────────────────────────────────────────
build() { # NAME PACKAGE...: the disk $cache/NAME.raw, unless the same recipe made it already
    local name=$1 recipe start=$SECONDS
    shift
    recipe=$(cat "$here/build_disk.sh" <(echo "$DISK_SIZE $*") | sha256sum | cut -c1-16)
    if [ -e "$cache/$name.raw" ] && [ "$(cat "$cache/$name.recipe" 2>/dev/null)" = "$recipe" ]; then
        note "$cache/$name.raw is there already"
        return
    fi
    rm -f "$cache/$name".{raw,qcow2,recipe}
    tick "building $cache/$name.raw"
    "$here/build_disk.sh" "$cache/$name.raw" "$DISK_SIZE" "$@" 9>&-
    stop_ticking
    echo "$recipe" >"$cache/$name.recipe"
    note "built $cache/$name.raw in $((SECONDS - start)) s"
}

if [ -n "$own_image" ]; then
    first=$own_image first_name=$(basename "$own_image" | tr -c 'A-Za-z0-9._\n-' '-')
    first_name=${first_name:0:100}
else
    next_step "Two bootable Debian 12 disks, each built from scratch (one to four minutes each, once)"
    build debian
    build debian-more "${MORE_PACKAGES[@]}"
    if [ ! -e "$cache/debian.qcow2" ]; then
        qemu-img convert -O qcow2 "$cache/debian.raw" "$cache/.debian.qcow2"
        mv "$cache/.debian.qcow2" "$cache/debian.qcow2"
    fi
    first=$cache/debian.qcow2 first_name=debian-12 second=$cache/debian-more.raw
    second_name=debian-12-more
fi

# ── The daemon, on its defaults ─────────────────────────────────────────────────────────────────────
work=$cache/run
rm -rf "$work"
mkdir -p "$work"
# A unix socket's path may have 107 characters; a deep checkout has no room for that.
socket_folder=$(mktemp -d "${TMPDIR:-/tmp}/imsd-demo.XXXXXX")
export IMSD_ADDRESS=unix:$socket_folder/imsd.sock
# Defaults but for a place to keep keys in, whatever this machine's own configuration says.
export IMSD_CONFIG=$PWD/$work/imsd.toml
(umask 077 && head -c 24 /dev/urandom | base64 >"$work/keyring.passphrase")
cat >"$IMSD_CONFIG" <<TOML
[key_services.main]
driver = "local"
path = "$PWD/$work/keyring"
passphrase_file = "$PWD/$work/keyring.passphrase"
TOML
daemon=
stop_daemon() {
    [ -n "$daemon" ] || return 0
    kill -TERM "$daemon" 2>/dev/null || true
    wait "$daemon" || true
    daemon=
}
trap 'stop_daemon; rm -rf "$socket_folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

next_step "A daemon on its embedded defaults: SQLite, a directory and a keyring, under $work"
prompt ' &' imsd serve --state-dir "$work/state" --listen "$IMSD_ADDRESS"
imsd serve --state-dir "$work/state" --listen "$IMSD_ADDRESS" >"$work/imsd.log" 2>&1 9>&- </dev/null &
daemon=$!
for _ in $(seq 150); do
    if imsctl driver list >/dev/null 2>&1; then break; fi
    if ! kill -0 "$daemon" 2>/dev/null; then
        tail -n 20 "$work/imsd.log" >&2
        fail "the daemon ended at once; the end of its log is above"
    fi
    sleep 0.2
done
show imsctl driver list || { tail -n 20 "$work/imsd.log" >&2; fail "the daemon does not answer"; }

# ── In ──────────────────────────────────────────────────────────────────────────────────────────────
next_step "The disk comes in: recognised, proved harmless, cut into chunks, digested, compressed, stored"
show imsctl image import "$first" --name "$first_name"
note "Which system that is, and whether it will start, read from the store; nothing is mounted:"
show imsctl image inspect "$first_name"

# ── Out ─────────────────────────────────────────────────────────────────────────────────────────────
next_step "It goes out as a compressed QCOW2, and nothing has changed"
show imsctl image download "$first_name" --format qcow2 --output "$work/out.qcow2"
show qemu-img check "$work/out.qcow2"
show qemu-img compare "$first" "$work/out.qcow2"
note "One disk, one digest, whatever the format:"
show imsctl image digest "$first"
show imsctl image digest "$work/out.qcow2"
printf 'as it came: %s   downloaded: %s\n' \
    "$(du -h "$first" | cut -f1)" "$(du -h "$work/out.qcow2" | cut -f1)"

# ── A second one ────────────────────────────────────────────────────────────────────────────────────
if [ -n "$own_image" ]; then
    next_step "The same disk again: nothing new to store"
    second=$own_image second_name=$first_name-again
else
    next_step "A second build, from scratch, with ${MORE_PACKAGES[*]}"
fi
show imsctl image import "$second" --name "$second_name"
python3 - "$(field "$second_name" data_size)" "$(field "$second_name" stored_size)" \
    "$(field "$second_name" new_size)" <<'PYTHON'
import sys

data, stored, new = (int(argument) / 2**20 for argument in sys.argv[1:])
print()
print(f"  data on this disk                   {data:8.1f} MiB")
print(f"  its chunks in the store             {stored:8.1f} MiB   {100 * stored / max(data, 1e-9):5.1f} % of its data")
print(f"  of them new, the rest was there     {new:8.1f} MiB   {100 * new / max(data, 1e-9):5.1f} % of its data")
PYTHON

# ── A disk before a copy ────────────────────────────────────────────────────────────────────────────
next_step "It is a disk at once: attached, read while it is fetched, by whatever speaks NBD"
show_lines "state|socket|look" imsctl image attach "$second_name"
attachment=$(imsctl attachment list -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["id"])')
disk=$(imsctl attachment show "$attachment" -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["uri"])')
show qemu-img info "$disk"
show qemu-img compare -F raw "$second" "$disk"
show imsctl attachment list
show imsctl image detach "$attachment"

# ── Encrypted ───────────────────────────────────────────────────────────────────────────────────────
next_step "A copy under a key of its own: nobody reads it in the store, and without its key nobody at all"
if [ -n "$own_image" ] && [ "$(field "$first_name" kind)" = iso ]; then
    note "(An ISO is not encrypted: that is left out.)"
else
    show imsctl key create payroll
    show_lines "name|status|stored|encrypted|key|digest" \
        imsctl image copy "$first_name" --name "$first_name-secret" --encrypt-with payroll
    show imsctl key disable payroll
    show_refusal imsctl image download "$first_name-secret" --format raw --output "$work/secret.raw"
    show imsctl key enable payroll
    show imsctl key rotate payroll
    show imsctl image verify "$first_name-secret"
    show imsctl image delete "$first_name-secret"
fi

# ── One disk, many images ───────────────────────────────────────────────────────────────────────────
next_step "Tags find images, and a copy is a row: it holds the same chunks"
show imsctl tag set "$first_name" team=web stage=test
is_iso=
[ "$(field "$first_name" kind)" != iso ] || is_iso=yes
if [ -n "$is_iso" ]; then
    note "(An ISO is neither copied, exported nor shared: that is left out.)"
else
    show_lines "name|status|stored|digest|tags" \
        imsctl image copy "$first_name" --name "$first_name-live" --tag team=web --tag stage=live
fi
show imsctl tag find --all team=web
show imsctl image list

# ── Into a bucket, to another project ───────────────────────────────────────────────────────────────
project=default
if [ -z "$is_iso" ]; then
    next_step "It goes into a bucket as a VMDK, and is still the same disk"
    show imsctl image export "$first_name" main:demo/disk.vmdk
    show qemu-img compare "$first" "$work/state/bucket/demo/disk.vmdk"
    show imsctl image digest "$work/state/bucket/demo/disk.vmdk"

    project=lab
    next_step "Another project gets it, once it has accepted; nothing is copied"
    show imsctl project create "$project"
    show imsctl member add "$first_name" --member "$project"
    show imsctl member accept "$(field "$first_name" id)" --project "$project"
    show imsctl image list --shared --project "$project"
fi

# ── Who may ─────────────────────────────────────────────────────────────────────────────────────────
next_step "Ann may look, and no more: a role in one project, and a token that says who she is"
show imsctl user create ann
show imsctl role grant "IMS ReadOnlyAccess" --user ann --in "$project"
prompt " > $work/ann.token" imsctl token create --user ann --name laptop
(umask 077 && imsctl token create --user ann --name laptop >"$work/ann.token")
show imsctl --token-file "$work/ann.token" whoami
show_refusal imsctl --token-file "$work/ann.token" image delete "$first_name"
show_refusal imsctl policy check ann ims:images:delete --project "$project"

# ── Looking around ──────────────────────────────────────────────────────────────────────────────────
next_step "What the daemon knows: what is used, what ran, and who did what, in a chain that shows tampering"
show imsctl quota show
show imsctl image verify "$second_name"
show imsctl job list
show imsctl trace list --project "$project"
show imsctl trace verify --project "$project"

stop_daemon
say "Done in $((SECONDS - started)) s; the daemon is stopped."
cat <<TEXT

Next:
  make run                                       a daemon that stays, in .cache/run
  . .venv/bin/activate                           then, in another terminal:
  export IMSD_ADDRESS=unix:$PWD/.cache/run/imsd.sock
  imsctl image import $(printf %q "$first") --name debian
  imsctl image import --help                     every option, with an example
  imsctl image download debian -o disk.raw --format raw
  imsctl job watch JOB                           progress of anything that runs
TEXT
