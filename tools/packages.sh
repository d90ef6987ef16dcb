#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages of the given groups (tools/packages.txt) that are missing. Quiet and
# quick when nothing is.
set -eu

here=$(dirname "$0")
if ! command -v dpkg-query >/dev/null; then
    [ -n "${RINGFENCE_NO_PACKAGES:-}" ] || echo "make: not a Debian system; see tools/packages.txt for what is needed" >&2
    exit 0
fi

wanted=''
for group in "$@"; do
    wanted="$wanted $(sed -n "s/^$group //p" "$here/packages.txt")"
done

# shellcheck disable=SC2086 # package names are words
have=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' $wanted 2>/dev/null |
    sed -n 's/ installed$//p' || true)
missing=''
for p in $wanted; do
    case "
$have
" in
    *"
$p
"*) ;;
    *) missing="$missing $p" ;;
    esac
done
[ -n "$missing" ] || exit 0

sudo=''
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "make: these Debian packages are missing, and neither root nor sudo is here to install them:" >&2
        echo "  apt-get install$missing" >&2
        exit 1
    fi
    sudo='sudo'
fi

echo "make: installing Debian packages:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
install() {
    # shellcheck disable=SC2086
    $sudo apt-get install -y -q --no-install-recommends $missing </dev/null
}
# A fresh container has no package lists at all, an old one has stale ones.
install >/dev/null 2>&1 || { $sudo apt-get update -q </dev/null && install; } >&2 || {
    echo "make: apt-get could not install:$missing" >&2
    exit 1
}
