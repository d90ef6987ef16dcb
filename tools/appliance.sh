#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds a bootable guest from Debian packages: DIR/vmlinuz, DIR/initrd.img and DIR/cmdline.
# Packages are downloaded and unpacked below DIR, never installed; no root is needed.
#
# usage: tools/appliance.sh [DIR [KERNEL-PACKAGE]]
#   DIR             default build/appliance
#   KERNEL-PACKAGE  default linux-image-cloud-amd64; a metapackage stands for what it depends on. With
#                   ":i386" behind it, kernel and busybox are of that architecture; apt's own
#                   configuration need not know it
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-build/appliance}
package=${2:-linux-image-cloud-amd64}
foreign=''
case $package in
*:*)
    foreign=${package#*:}
    package=${package%:*}
    ;;
esac

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
debs=$dir/debs
mkdir -p "$debs"

say() {
    echo "appliance: $*" >&2
}

die() {
    say "$*"
    exit 1
}

# apt's own package lists where there are some, otherwise private ones, which need no root.
apt_options=''
private_lists() {
    say "fetching Debian's package lists"
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
    apt_options="-o Dir::State::Lists=$dir/apt/lists -o Dir::Cache=$dir/apt/cache
        -o APT::Sandbox::User=root"
    # What is installed here has no part in the lists of another architecture.
    [ -z "$foreign" ] || apt_options="$apt_options -o APT::Architecture=$foreign
        -o APT::Architectures=$foreign -o Dir::State::Status=/dev/null"
    # shellcheck disable=SC2086 # options are words
    apt-get $apt_options update -q >"$dir/apt/log" 2>&1 ||
        say "apt-get update failed, at least in part; see $dir/apt/log" # what we need may be there
}

# The first dependency of a metapackage, or the package itself when it carries a kernel.
resolve() {
    # shellcheck disable=SC2086
    apt-cache $apt_options show --no-all-versions "$1" 2>/dev/null |
        sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -n 1
}

fetch() {
    say "downloading $1"
    # shellcheck disable=SC2086
    (cd "$debs" && rm -f "$1"_*.deb && apt-get $apt_options -q download "$1") >>"$dir/log" 2>&1
}

unpack() {
    rm -rf "$dir/unpacked/$1"
    mkdir -p "$dir/unpacked/$1"
    dpkg-deb -x "$(ls "$debs/$1"_*.deb)" "$dir/unpacked/$1"
}

# shellcheck disable=SC2086
known() {
    apt-cache $apt_options show --no-all-versions "$1" >/dev/null 2>&1
}

download_all() {
    kernel=$(resolve "$package")
    kernel=${kernel:-$package}
    fetch "$kernel" && fetch busybox-static
}

make_root() {
    root=$dir/root
    rm -rf "$root"
    mkdir -p "$root/bin" "$root/dev" "$root/etc" "$root/proc" "$root/root" "$root/run" \
        "$root/sys" "$root/tmp"
    cp "$dir/unpacked/busybox-static/bin/busybox" "$root/bin/busybox"
    cp "$here/appliance/init" "$root/init"
    mkdir -p "$root/etc/udhcpc"
    cp "$here/appliance/udhcpc" "$root/etc/udhcpc/default.script"
    cp "$here/appliance/motd" "$root/etc/motd"
    chmod 755 "$root/init" "$root/bin/busybox" "$root/etc/udhcpc/default.script"
    echo ringfence >"$root/etc/hostname"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    # cttyhack gives the shell a terminal of its own, so that ^C and job control work.
    printf '%s\n' '::respawn:/bin/cttyhack /bin/sh -l' '::ctrlaltdel:/bin/reboot' >"$root/etc/inittab"
    # shellcheck disable=SC2016 # for the guest's shell
    printf '%s\n' 'export HOME=/root PS1="\h:\w# "' cd >"$root/etc/profile"
}

# The drivers of Ringfence's devices and what goes with them, of those that this kernel has.
modules='virtio_pci virtio_mmio virtio_blk virtio_net virtio_console virtio_rng virtio_balloon
    virtio_scsi sd_mod sr_mod 9pnet_virtio 9p vmw_vsock_virtio_transport vsock_diag af_packet ext4
    isofs i6300esb pvpanic-mmio pvpanic-pci crc32c_generic crc32c-intel'

# Names that modules.dep of $1 has for the modules, and for those that they need.
needed_modules() {
    for m in $modules; do
        # The kernel takes '-' and '_' in names for the same.
        pattern=$(echo "$m" | sed 's/[-_]/[-_]/g')
        sed -n "s|^\(.*/$pattern\.ko[^:]*\): *\(.*\)|\1 \2|p" "$1/modules.dep"
    done | tr ' ' '\n' | sed '/^$/d' | sort -u
}

add_modules() {
    tree=$(find "$dir/unpacked/$kernel" -type d -path '*/lib/modules/*' -prune -print)
    version=${tree##*/}
    mkdir -p "$root/lib/modules/$version"
    busybox=$root/bin/busybox
    "$busybox" depmod -b "${tree%/lib/modules/*}" "$version"
    needed_modules "$tree" | while read -r m; do
        mkdir -p "$root/lib/modules/$version/${m%/*}"
        cp "$tree/$m" "$root/lib/modules/$version/$m"
    done
    for f in modules.builtin modules.order; do
        cp "$tree/$f" "$root/lib/modules/$version/$f"
    done
    "$busybox" depmod -b "$root" "$version"
}

make_initrd() {
    # No device nodes: the kernel's own initramfs has /dev/console, devtmpfs the rest.
    (cd "$dir/root" && find . | LC_ALL=C sort |
        cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -9n) >"$dir/initrd.img.new"
    mv "$dir/initrd.img.new" "$dir/initrd.img"
}

command -v apt-get >/dev/null || die "needs Debian's apt-get to download a kernel and busybox"
: >"$dir/log"
{ [ -z "$foreign" ] && known "$package"; } || private_lists
known "$package" || die "Debian has no package $package"
# Lists that are older than the archive name versions that are gone.
download_all || { private_lists && download_all; } ||
    die "could not download; see $dir/log"
unpack "$kernel"
unpack busybox-static
cp "$(ls "$dir/unpacked/$kernel"/boot/vmlinuz-*)" "$dir/vmlinuz"
make_root
add_modules
make_initrd
rm -rf "$dir/unpacked" "$debs"
echo 'console=ttyS0' >"$dir/cmdline" # last: the sign that all is there
say "$kernel and busybox are in $dir"
