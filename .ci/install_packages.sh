#!/usr/bin/env bash
# Sees to the system packages that a target needs: nothing to do when their programs are there, apt-get
# when run by root on Debian, otherwise a list of what is missing.
#
# usage: .ci/install_packages.sh tests|demo|bench
set -euo pipefail
# Programs that Debian keeps out of the path of a user, or of everybody.
PATH=$PATH:/usr/sbin:/sbin$(printf ':%s' /usr/lib/postgresql/*/bin)

# program or file it is recognised by = Debian package
common=(qemu-img=qemu-utils mke2fs=e2fsprogs mmdebstrap=mmdebstrap)
tests=("${common[@]}" pg_ctl=postgresql systemd-analyze=systemd sfdisk=fdisk blkid=util-linux
       mkfs.xfs=xfsprogs mkfs.fat=dosfstools mcopy=mtools genisoimage=genisoimage
       mkntfs=ntfs-3g hivexregedit=libwin-hivex-perl mkfs.btrfs=btrfs-progs
       qemu-system-x86_64=qemu-system-x86 node=nodejs npm=npm jq=jq nbdinfo=libnbd-bin)
demo=("${common[@]}" sfdisk=fdisk extlinux=extlinux
      /usr/lib/syslinux/mbr/mbr.bin=syslinux-common)
bench=("${demo[@]}" borg=borgbackup restic=restic casync=casync nbdcopy=libnbd-bin)

case ${1:-} in
    tests) wanted=("${tests[@]}") ;;
    demo) wanted=("${demo[@]}") ;;
    bench) wanted=("${bench[@]}") ;;
    *) echo "usage: $0 tests|demo|bench" >&2; exit 2 ;;
esac

packages=() programs=()
for entry in "${wanted[@]}"; do
    program=${entry%%=*}
    if ! command -v "$program" >/dev/null && [ ! -e "$program" ]; then
        programs+=("$program")
        packages+=("${entry#*=}")
    fi
done
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    {
        echo "Missing for 'make $1': ${programs[*]}"
        if command -v apt-get >/dev/null; then
            echo "Install them as root:  apt-get install --no-install-recommends ${packages[*]}"
        else
            echo "Install them with your system's package tool (on Debian they are in: ${packages[*]})."
        fi
    } >&2
    exit 1
fi

echo "Installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -y -o DPkg::Lock::Timeout=580 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${packages[@]}"; } \
    >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "apt-get could not install: ${packages[*]}" >&2
    exit 1
fi
