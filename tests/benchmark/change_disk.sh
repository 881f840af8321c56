#!/usr/bin/env bash
# Changes a disk that build_disk.sh made, in place, as an administrator does: mounts it and lets apt work in it.
#
# usage: change_disk.sh DISK.raw NUMBER LAST PACKAGE...     NUMBER: which change it is, of LAST that will be
#
# Root on Debian. A share of the packages that have a newer version are upgraded, such that the last change
# upgrades the last of them; PACKAGEs are installed, a log grows and a configuration file is edited; then free
# blocks are given back, as `discard` in the disk's fstab would.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
[ $# -ge 4 ] || { sed -n '4s/^# //p' "$0" >&2; exit 2; }
disk=$1 number=$2 last=$3
shift 3

fail() { echo "change_disk: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "must be run by root: it mounts the disk"

work=$(mktemp -d "$(dirname "$disk")/change.XXXXXX")
root=$work/mnt
mounts=()
clean_up() {
    for ((at = ${#mounts[@]} - 1; at >= 0; at--)); do
        umount "${mounts[at]}" || umount --lazy "${mounts[at]}" || true
    done
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$root"
mount -o "loop,offset=$((1 << 20))" "$disk" "$root"
mounts+=("$root")
for each in proc sys dev; do
    mount --bind "/$each" "$root/$each"
    mounts+=("$root/$each")
done

# How this machine reaches its packages, for as long as apt runs: nothing of it stays on the disk.
mkdir "$work/apt"
cp -a /etc/apt/. "$work/apt/"
mount --bind "$work/apt" "$root/etc/apt"
mounts+=("$root/etc/apt")
[ ! -e "$root/etc/resolv.conf" ] || mv "$root/etc/resolv.conf" "$work/resolv.conf"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/usr/share/keyrings"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # nothing is started in a disk
chmod 755 "$root/usr/sbin/policy-rc.d"

inside() { chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@" >>"$work/log" 2>&1 </dev/null ||
    { tail -n 20 "$work/log" >&2; fail "$1 failed in the disk; its last lines are above"; }; }
inside apt-get update
mapfile -t newer < <(chroot "$root" apt-get --simulate --with-new-pkgs upgrade | awk '/^Inst .* \[/ {print $2}' | sort)
share=$(((${#newer[@]} + last - number) / (last - number + 1)))
[ "$share" = 0 ] || inside apt-get --yes --no-install-recommends install "${newer[@]:0:share}"
inside apt-get --yes --no-install-recommends install "$@"
inside apt-get clean

rm -f "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
[ ! -e "$work/resolv.conf" ] || mv "$work/resolv.conf" "$root/etc/resolv.conf"
echo "# change $number" >>"$root/etc/sysctl.conf"
for line in $(seq 1 20000); do echo "2025-01-01T00:00:00 demo service[$number]: request $line was answered"; done \
    >>"$root/var/log/service.log"
fstrim "$root"
