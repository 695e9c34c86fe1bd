#!/bin/sh
# Installs the packages on a Debian host and makes the README's first deploy. Run as root; may be run again.
#
#   provision.sh FOLDER     FOLDER holds debian/*.deb (made by `cargo xtask package`) and hello/
#
# Nothing here is special to Vagrant: it does what the README tells a person to do.
set -eu

from=$(cd "${1:?usage: provision.sh FOLDER}" && pwd)
work=/root/hello

say() { printf '\n== %s\n' "$1"; }

say "packages"
agent=$(find "$from/debian" -maxdepth 1 -type f -name 'deployd_*.deb' | sort | tail -n 1)
ctl=$(find "$from/debian" -maxdepth 1 -type f -name 'deployd-ctl_*.deb' | sort | tail -n 1)
if [ -z "$agent" ] || [ -z "$ctl" ]; then
	echo "no packages in $from/debian: run 'cargo xtask package' in the repository first" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends curl python3 "$agent" "$ctl"
systemctl is-active deployd.service

say "first release"
rm -rf "$work"
cp -r "$from/hello" "$work"
cd "$work"
deployd-ctl --local push app
curl --silent --show-error --fail http://127.0.0.1:8080/

say "second release, while the first one serves"
sed -i 's/ v1/ v2/' app/server.py
deployd-ctl --local push app
curl --silent --show-error --fail http://127.0.0.1:8080/

say "back to the first one"
deployd-ctl --local rollback
curl --silent --show-error --fail http://127.0.0.1:8080/

say "what the host says"
deployd-ctl --local status
deployd-ctl --local releases
deployd-ctl --local doctor
