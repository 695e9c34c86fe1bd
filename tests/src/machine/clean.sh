#!/bin/sh
# The only code that removes what the rig made: processes, mounts, cgroups, network namespaces, folders.
#
#   clean.sh host   DIR CGROUP           one host
#   clean.sh owner  DIR CGROUP PREFIX    everything of one test process (PREFIX: of its network namespaces)
#   clean.sh reaper DIR CGROUP PREFIX    the same, once standard input ends: that is, when the process is gone
#
# It repeats safely and reports what it could not remove. Processes end by their cgroup, never by name.

what=$1 dir=$2 cgroup=$3 prefix=$4

if [ "$what" = reaper ]; then
	trap '' INT TERM HUP
	read -r _
	# Its maker wanted it to outlive the process: `cargo xtask demo --down` removes it.
	[ -e "$dir/kept" ] && exit 0
fi

# Ends every process of the cgroup tree, waits until the kernel says that it is empty, removes the tree.
remove_cgroup() {
	[ -d "$1" ] || return 0
	echo 1 >"$1/cgroup.kill"
	tries=0
	while grep -q '^populated 1' "$1/cgroup.events" && [ $tries -lt 200 ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
	find "$1" -depth -type d -exec rmdir {} +
}

# One host: DIR is a tmpfs with the overlay mounted at DIR/root.
remove_host() {
	mountpoint -q "$1/root" && umount -l "$1/root"
	mountpoint -q "$1" && umount -l "$1"
	[ -d "$1" ] && rm -rf --one-file-system "$1"
	return 0
}

remove_cgroup "$cgroup"
if [ "$what" = host ]; then
	remove_host "$dir"
else
	for host in "$dir"/*/; do
		[ -d "$host" ] && remove_host "${host%/}"
	done
	for netns in /run/netns/"$prefix"*; do
		[ -e "$netns" ] && ip netns delete "${netns##*/}"
	done
	rm -rf --one-file-system "$dir"
fi
[ ! -e "$dir" ]
