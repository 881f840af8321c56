#!/usr/bin/env bash
# Builds a bootable Debian 12 disk from packages: one ext4 partition, extlinux, serial console, cloud-init.
#
# usage: build_disk.sh OUT.raw SIZE [PACKAGE...]     SIZE as truncate(1) takes it, for example 2G
#        RELEASE_ONLY=1: packages as they were released, without later updates
#
# Root on Debian, with mmdebstrap, e2fsprogs, fdisk, extlinux and syslinux-common. The root file system is
# made from scratch by apt and dpkg; nothing is taken from an earlier build. The disk appears whole or not
# at all. Identifiers and time stamps are fixed, so that two builds differ only in what was installed.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
[ $# -ge 2 ] || { sed -n '4,5s/^# //p' "$0" >&2; exit 2; }
out=$1 size=$2
shift 2

SUITE=bookworm
BASE=(linux-image-cloud-amd64 systemd-sysv udev dbus openssh-server cloud-init ifupdown isc-dhcp-client
      locales sudo ca-certificates)
PARTITION_START=$((1 << 20))                     # bytes; the usual alignment
UUID=6f8a1f2e-6d0c-4d53-9a1b-2f3c4d5e6f70        # of the file system, also its hash seed
export SOURCE_DATE_EPOCH=1735689600              # 2025-01-01: file times in the root file system
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH    # and in the superblock

fail() { echo "build_disk: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "must be run by root: it unpacks packages and mounts the disk"
[ "$(uname -m)" = x86_64 ] || fail "builds x86-64 disks on x86-64 machines only"

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/build.XXXXXX")
mounted=
clean_up() {
    [ -z "$mounted" ] || umount "$work/mnt" || umount --lazy "$work/mnt" || true
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# 1. The root file system. On Debian 12 it comes from where this machine takes its own packages;
#    elsewhere from mmdebstrap's default.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -e "$file" ] && grep -qwE "^[^#]*$SUITE(-updates|-security)?" "$file"; then
        sources+=("$file")
    fi
done
options=() # how this machine reaches them: proxy, certificates, checks that a snapshot mirror fails
while IFS= read -r option; do options+=("--aptopt=$option"); done < <(
    apt-config dump | grep -E '^Acquire::(Check-Valid-Until|Check-Date|Retries|https?::[A-Za-z:-]+) "[^"]+";$' || true)

if [ "${RELEASE_ONLY:-}" ]; then
    pins=$work/pins
    for archive in updates security; do
        printf 'Package: *\nPin: release n=%s\nPin-Priority: -1\n\n' "$SUITE-$archive"
    done >"$pins"
    options+=("--setup-hook=cp '$pins' \"\$1\"/etc/apt/preferences.d/release-only"
        '--customize-hook=rm "$1"/etc/apt/preferences.d/release-only')
fi

packages=$(IFS=,; echo "${BASE[*]}${*:+,}${*}")
if ! mmdebstrap --mode=root --variant=minbase --include="$packages" \
    "${options[@]}" --dpkgopt=force-unsafe-io \
    --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap' \
    "$SUITE" "$work/root" "${sources[@]}" >"$work/log" 2>&1 </dev/null; then
    tail -n 40 "$work/log" >&2
    fail "mmdebstrap could not make the root file system; its last lines are above"
fi

# 2. What turns it into a server: mount table, network, boot menu.
root=$work/root
kernel=$(find "$root/boot" -name 'vmlinuz-*' -printf '%f\n' | sort -V | tail -1)
[ -n "$kernel" ] && [ -e "$root/boot/initrd.img-${kernel#vmlinuz-}" ] || fail "the kernel was not installed"
echo 'LABEL=root / ext4 defaults,discard 0 1' >"$root/etc/fstab"
echo demo >"$root/etc/hostname"
mkdir -p "$root/boot/extlinux"
cat >"$root/boot/extlinux/extlinux.conf" <<BOOT
DEFAULT linux
PROMPT 0
TIMEOUT 0
SERIAL 0 115200
LABEL linux
  KERNEL /boot/$kernel
  INITRD /boot/initrd.img-${kernel#vmlinuz-}
  APPEND root=LABEL=root ro console=tty0 console=ttyS0 net.ifnames=0
BOOT
find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# 3. The disk: partition table, file system filled from the folder, boot loader.
disk=$work/disk.raw
truncate -s "$size" "$disk"
sfdisk --quiet "$disk" <<TABLE
label: dos
label-id: 0x6f8a1f2e
start=$((PARTITION_START / 512)), type=83, bootable
TABLE
# extlinux 6 cannot read the two features that are switched off.
mke2fs -q -t ext4 -b 4096 -L root -U "$UUID" -O ^metadata_csum_seed,^orphan_file -d "$root" \
    -E "offset=$PARTITION_START,hash_seed=$UUID,lazy_itable_init=0" \
    "$disk" $((($(stat --format=%s "$disk") - PARTITION_START) / 4096))
mkdir "$work/mnt"
mount -o "loop,offset=$PARTITION_START" "$disk" "$work/mnt" 2>"$work/log" ||
    fail "cannot mount a file as a disk ($(head -1 "$work/log")). A container needs loop devices for that:" \
        "run this on a machine of its own, or use IMAGE=path with a disk you have"
mounted=yes
extlinux --install "$work/mnt/boot/extlinux" >"$work/log" 2>&1 || fail "extlinux: $(cat "$work/log")"
umount "$work/mnt"
mounted=
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none

# The loop device wrote the whole journal and tables; punch the zeros out again.
fallocate --dig-holes "$disk"
mv "$disk" "$out"
