#!/bin/sh
# E2E_MOVE_VIP for clusters whose control-plane address is a plain address of one of
# two hosts, with no kube-vip or keepalived to move it as well:
#
#   VIP    the address, IPv4
#   DEV    the device that has it, on both hosts
#   FIRST  the host that has it
#   SECOND the host that gets it
#   NODES  all nodes
#   ON     runs a command as root on a host or node; "ssh -l root" if it is not set
#
# `ip addr add` announces nothing, unless net.ipv4.conf.DEV.arp_notify is set.
set -eu
: "${VIP:?}" "${DEV:?}" "${FIRST:?}" "${SECOND:?}" "${NODES:?}"
on() { ${ON:-ssh -l root} "$@"; }

case ${1-} in
move)
	on "$FIRST" ip addr del "$VIP/32" dev "$DEV"
	on "$SECOND" ip addr add "$VIP/32" dev "$DEV"
	;;
zombie)
	on "$FIRST" pkill -STOP -x kube-apiserver
	on "$SECOND" ip addr add "$VIP/32" dev "$DEV"
	;;
restore)
	on "$FIRST" pkill -CONT -x kube-apiserver || true # it was not stopped
	on "$SECOND" ip addr del "$VIP/32" dev "$DEV"
	on "$FIRST" ip addr replace "$VIP/32" dev "$DEV"
	for node in $NODES; do on "$node" ip neigh flush to "$VIP"; done
	;;
*)
	echo "usage: $0 move|zombie|restore" >&2
	exit 2
	;;
esac
